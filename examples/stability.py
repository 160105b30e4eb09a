"""Does batch normalization make a network insensitive to initialization and learning rate?

Trains 8 linear layers of 64 on the digits for every initial scale of the weights (in units of He's) and learning rate
of a grid, with batch norm and without: test accuracies as heat maps. Then the gradients of the weights of 20 layers
before training, layer by layer: without a norm every layer multiplies them by the scale. With one they are divided by
it once, yet grow from layer to layer towards the input (G. Yang et al., 2019, arXiv:1902.08129: by up to 1.21).

    python examples/stability.py            # about a minute; draws stability.png
    python examples/stability.py --quick    # seconds; --full: a finer grid
"""

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
from common import new_figure, options, run_all, save, verdict
from digits import accuracy, load_data, train_epoch
from layers import SGD, Flatten, Linear, ReLU, Sequential, softmax_cross_entropy
from matplotlib import colormaps
from matplotlib.ticker import PercentFormatter

import normzoo as nz

NAMES = {False: "without batch norm", True: "with batch norm"}
TRAINED, WIDTH, HIDDEN, DEEP = 0.9, 64, 8, 20


def build(batch_norm: bool, layers: int, scale: float, rng: np.random.Generator) -> Sequential:
    """So many linear layers with ReLU, and one more to the ten digits; scale 1 is K. He's initialization."""
    network = [Flatten()]
    for _ in range(layers):
        linear = Linear(64, WIDTH, rng)
        linear.params["weight"] *= np.float32(scale)
        network += [linear, nz.BatchNorm(WIDTH), ReLU()] if batch_norm else [linear, ReLU()]
    return Sequential(*network, Linear(WIDTH, 10, rng))


def train(batch_norm: bool, scale: float, seed: int, rates: Sequence[float], epochs: int) -> list[float]:
    """Test accuracy for each learning rate."""
    data, found = load_data(), []
    with np.errstate(all="ignore"):  # a run may diverge: its accuracy says so
        for rate in rates:
            rng = np.random.default_rng(seed)
            network = build(batch_norm, HIDDEN, scale, rng)
            optimizer = SGD(network, rate, momentum=0.9)
            for _ in range(epochs):
                if not np.isfinite(train_epoch(network, optimizer, data, rng)):
                    break
            found.append(accuracy(network, data.x_test, data.y_test))
    return found


def gradients(batch_norm: bool, scale: float, seed: int) -> list[float]:
    """The norm of the gradient of every layer's weights for 256 images, before training."""
    data = load_data()
    network = build(batch_norm, DEEP, scale, np.random.default_rng(seed))
    network.backward(softmax_cross_entropy(network(data.x_train[:256]), data.y_train[:256])[1])
    return [float(np.linalg.norm(layer.grads["weight"])) for layer in network.layers if isinstance(layer, Linear)][
        :DEEP
    ]


def spread(norms: np.ndarray) -> float:
    """The largest gradient of a layer as a multiple of the smallest: of (seeds, layers) the median."""
    return float(np.median(norms.max(1) / norms.min(1)))


def findings(maps: dict[bool, np.ndarray], norms: dict[tuple[bool, float], np.ndarray]) -> list[str]:
    """A line for the heat maps, (scales, rates) of medians, and one for the gradients."""
    cells = {norm: int((found >= TRAINED).sum()) for norm, found in maps.items()}
    first = (
        f"batch norm is insensitive to initialization and learning rate: {cells[True]} of {maps[True].size} cells of "
        f"the grid reach {TRAINED:.0%} with it, {cells[False]} without"
    )
    low, high = min(scale for _, scale in norms), max(scale for _, scale in norms)
    size = {key: np.median(found) for key, found in norms.items()}
    over_scale = {
        norm: max(size[norm, low], size[norm, high]) / min(size[norm, low], size[norm, high]) for norm in NAMES
    }
    over_depth = {norm: spread(norms[norm, 1.0]) for norm in NAMES}
    second = (
        f"with batch norm gradients of {DEEP} layers hardly depend on the scale of weights: from {low:g} to "
        f"{high:g} times He's they change by a factor of {over_scale[True]:.2g}, without by {over_scale[False]:.1e}; "
        f"but over the layers they change by {over_depth[True]:.2g}, without by {over_depth[False]:.2g}"
    )
    return [verdict(cells[True] > cells[False], first), verdict(over_scale[True] < over_scale[False], second)]


def draw(maps: dict, scales: Sequence[float], rates: Sequence[float], norms: dict, path: Path) -> None:
    """Two heat maps and the gradients by depth."""
    figure = new_figure(13.5, 5, "Batch norm: insensitive to the scale of initial weights (8 x 8 digits)")
    *heat, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.15))
    for axes, norm in zip(heat, NAMES, strict=True):
        shown = axes.imshow(maps[norm], vmin=0.1, vmax=1, cmap="viridis", origin="lower", aspect="auto")
        for (i, j), value in np.ndenumerate(maps[norm]):
            axes.text(
                j, i, f"{100 * value:.0f}", ha="center", va="center", color="k" if value > 0.6 else "w", fontsize=9
            )
        axes.set_xticks(range(len(rates)), [f"{rate:g}" for rate in rates])
        axes.set_yticks(range(len(scales)), [f"{scale:g}" for scale in scales])
        axes.set(xlabel="learning rate", title=f"{NAMES[norm]}, {HIDDEN} layers")
    heat[0].set_ylabel("scale of the initial weights, times He's")
    bar = figure.colorbar(shown, ax=heat, location="bottom", shrink=0.5, aspect=40, label="test accuracy")
    bar.ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    found = sorted({scale for _, scale in norms})
    colours = dict(zip(found, colormaps["plasma"](np.linspace(0, 0.8, len(found))), strict=True))
    for (norm, scale), values in norms.items():
        label = f"{'with' if norm else 'without'}, scale {scale:g}"
        line = "-" if norm else "--"
        right.plot(range(1, DEEP + 1), np.median(values, 0), line, color=colours[scale], label=label)
    right.set(yscale="log", xlabel="layer, from the input", ylabel="norm of the weights' gradient")
    right.set_title(f"gradients by depth, {DEEP} layers, before training")
    right.set_xticks([1, 5, 10, 15, 20])
    right.legend(fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 0.1), title="batch norm")
    save(figure, path)


def main(argv: Sequence[str] | None = None) -> None:
    given = options(__doc__, __file__, argv)
    if given.quick:
        scales, rates, epochs = (0.25, 1, 4), (0.003, 0.03, 0.3), 2
    elif given.full:
        scales, rates, epochs = tuple(2.0 ** np.arange(-4, 5)), tuple(np.geomspace(1e-3, 10, 9).round(4)), 6
    else:
        scales, rates, epochs = (0.0625, 0.25, 0.5, 1, 2, 4, 16), (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1), 4
    grid = list(product(NAMES, scales, range(3)))
    deep = list(product(NAMES, (0.5, 1.0, 2.0), range(3)))
    jobs = [(train, *key, rates, epochs) for key in grid] + [(gradients, *key) for key in deep]
    results = iter(run_all(jobs, "rows of the maps"))
    runs = np.array([next(results) for _ in grid]).reshape(len(NAMES), len(scales), 3, len(rates))
    maps = dict(zip(NAMES, np.median(runs, 2), strict=True))
    norms = {key: np.array([next(results) for _ in range(3)]) for key in product(NAMES, (0.5, 1.0, 2.0))}
    draw(maps, scales, rates, norms, given.out)
    print("\n".join(findings(maps, norms)))


if __name__ == "__main__":
    main()
