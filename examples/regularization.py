"""Does batch normalization regularize, and what does its noise cost in small batches?

Trains the digits' convolutional network on 100 images only, with batch norm, dropout, both and neither: how much of
the training accuracy is left on test images? Batch norm's noise comes from statistics of few values, so then batches
shrink to 2: batch norm against group norm, which needs no batch (Y. Wu and K. He, 2018, arXiv:1803.08494), in a network
of linear layers, where a batch of 2 gives a set of 2 values, and in one of convolutions, where it gives at least 8.

    python examples/regularization.py            # about a minute; draws regularization.png
    python examples/regularization.py --quick    # seconds; --full: more runs
"""

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
from common import new_figure, options, run_all, save, verdict
from digits import Digits, accuracy, build_network, load_data, train_epoch
from layers import SGD, AvgPool2d, Conv2d, Dropout, Flatten, Linear, ReLU, Sequential
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

import normzoo as nz

KINDS = {"neither": (False, False), "dropout": (False, True), "batch norm": (True, False), "both": (True, True)}
NORMS = {"batch norm": nz.BatchNorm, "group norm": lambda channels: nz.GroupNorm(4, channels)}
NETWORKS = {"linear": "linear layers (a batch of N: N values a set)", "conv": "convolutions (4 N values and more)"}
FEW, MORE, RATE = 100, 640, 0.2  # images to train on in the first and second part; of dropout


def choose(samples: int, seed: int) -> Digits:
    """Some of the training images, others for every seed, and all test images."""
    data = load_data()
    some = np.random.default_rng([seed, 1]).permutation(len(data.x_train))[:samples]
    return data._replace(x_train=data.x_train[some], y_train=data.y_train[some])


def train_few(kind: str, seed: int, epochs: int) -> tuple[float, float]:
    """Training and test accuracy, both in evaluation, after training on few images."""
    batch_norm, dropout = KINDS[kind]
    rng, masks, data = np.random.default_rng(seed), np.random.default_rng([seed, 2]), choose(FEW, seed)

    def block(in_channels, out_channels):
        yield Conv2d(in_channels, out_channels, 3, rng, bias=not batch_norm)
        if batch_norm:
            yield nz.BatchNorm(out_channels)
        yield ReLU()
        if dropout:
            yield Dropout(RATE, masks)

    network = build_network(block, rng)
    optimizer = SGD(network, 0.03, momentum=0.9)
    for _ in range(epochs):
        train_epoch(network, optimizer, data, rng, batch_size=20)
    return accuracy(network, data.x_train, data.y_train), accuracy(network, data.x_test, data.y_test)


def build(kind: str, norm: str, rng: np.random.Generator) -> Sequential:
    """Of linear layers, or of convolutions with images of 8 x 8, 4 x 4 and 2 x 2 pixels."""
    make, layers = NORMS[norm], []
    if kind == "linear":
        for _ in range(2):
            layers += [Linear(64, 64, rng), make(64), ReLU()]
        return Sequential(Flatten(), *layers, Linear(64, 10, rng))
    for inside, outside in ((1, 16), (16, 32), (32, 32)):
        layers += [Conv2d(inside, outside, 3, rng, bias=False), make(outside), ReLU(), AvgPool2d(2)]
    return Sequential(*layers, Flatten(), Linear(32, 10, rng))


def train_small_batches(kind: str, norm: str, batch_size: int, seed: int, epochs: int) -> float:
    """Test accuracy; the learning rate is in proportion to the batch."""
    rng, data = np.random.default_rng(seed), choose(MORE, seed)
    network = build(kind, norm, rng)
    optimizer = SGD(network, 0.1 * batch_size / 64, momentum=0.9)
    for _ in range(epochs):
        train_epoch(network, optimizer, data, rng, batch_size)
    return accuracy(network, data.x_test, data.y_test)


def noise(kind: str, batch_sizes: Sequence[int], seed: int) -> list[float]:
    """How far the mean of a batch is from that of all images, in deviations, root mean square over channels.

    It is measured at the last batch norm of a network that was trained for two epochs in batches of 32.
    """
    rng, data = np.random.default_rng(seed), load_data()
    network = build(kind, "batch norm", rng)
    optimizer = SGD(network, 0.05, momentum=0.9)
    for _ in range(2):
        train_epoch(network, optimizer, data, rng, batch_size=32)
    x = data.x_train
    last = max(i for i, layer in enumerate(network.layers) if isinstance(layer, nz.BatchNorm))
    for layer in network.eval().layers[:last]:
        x = layer(x)
    axes = (0, *range(2, x.ndim))
    mean, std = x.mean(axes), x.std(axes)
    found = []
    for size in batch_sizes:
        means = np.array([x[rng.choice(len(x), size, replace=False)].mean(axes) for _ in range(200)])
        found.append(float(np.sqrt((((means - mean) / std) ** 2).mean())))
    return found


def findings(few: dict[str, np.ndarray], small: dict[tuple[str, str, int], np.ndarray]) -> list[str]:
    """What the runs say about the two claims, a line each; arrays are over seeds."""
    gaps = {kind: (100 * (found[:, 0] - found[:, 1])) for kind, found in few.items()}
    smaller = int((gaps["batch norm"] < gaps["neither"]).sum())
    medians = {kind: np.median(gap) for kind, gap in gaps.items()}
    first = (
        f"batch norm regularizes: training minus test accuracy on {FEW} images is {medians['batch norm']:.1f} points "
        f"with it, {medians['neither']:.1f} without, {medians['dropout']:.1f} with dropout, {medians['both']:.1f} with "
        f"both; smaller than without for {smaller} of {len(gaps['neither'])} seeds"
    )
    two = {(kind, norm): np.median(small[kind, norm, 2]) for kind, norm in product(NETWORKS, NORMS)}
    second = (
        f"batch norm fails in batches of 2 where a set is the batch: {two['linear', 'batch norm']:.1%} with it, "
        f"{two['linear', 'group norm']:.1%} with group norm in linear layers; "
        f"{two['conv', 'batch norm']:.1%} and {two['conv', 'group norm']:.1%} in convolutions"
    )
    fails = two["linear", "batch norm"] < two["linear", "group norm"] - 0.05
    return [verdict(medians["batch norm"] < medians["neither"], first), verdict(fails, second)]


def draw(few: dict, small: dict, noises: dict, sizes: dict[str, Sequence[int]], epochs: int, path: Path) -> None:
    """Training and test accuracy on few images; noise, and test accuracy, over the batch size."""
    figure = new_figure(
        13, 4.8, "Batch norm regularizes by noise, and fails where the noise is all there is (8 x 8 digits)"
    )
    left, middle, right = figure.subplots(1, 3)
    draw_few(left, few)
    for kind, colour in (("linear", "tab:green"), ("conv", "tab:purple")):
        middle.plot(sizes["linear"], noises[kind], "o-", color=colour, label=NETWORKS[kind])
    grid = np.array(sizes["linear"])
    middle.plot(grid, 1 / np.sqrt(grid), ":", color="0.3", label="1 / sqrt(N)")
    middle.set(
        xscale="log", yscale="log", xlabel="batch size N", ylabel="error of the batch's mean, in deviations",
        title="noise of the statistics, last norm",
    )  # fmt: skip
    middle.set_xticks(grid, [str(n) for n in grid])
    middle.set_yticks([0.05, 0.1, 0.2, 0.5, 1], ["0.05", "0.1", "0.2", "0.5", "1"])
    middle.minorticks_off()
    middle.set_ylim(0.04, 1.1)
    middle.legend(loc="lower left", fontsize=8)
    for (kind, colour), (norm, line) in product(
        (("linear", "tab:green"), ("conv", "tab:purple")), (("batch norm", "o-"), ("group norm", "s--"))
    ):
        found = np.array([np.median(small[kind, norm, n]) for n in sizes[kind]])
        spread = np.array([small[kind, norm, n] for n in sizes[kind]])
        shift = (1.03 if kind == "linear" else 0.97) * (1.015 if norm == "batch norm" else 0.985)  # side by side
        right.errorbar(
            np.array(sizes[kind]) * shift, found, (found - spread.min(1), spread.max(1) - found), fmt=line,
            color=colour, capsize=3, lw=1.3, label=f"{norm}, {'linear' if kind == 'linear' else 'conv'}",
        )  # fmt: skip
    right.set(
        xscale="log",
        xlabel="batch size N (larger: fewer steps)",
        ylabel="test accuracy",
        title=f"{MORE} images, {epochs} epochs: medians, range",
    )
    right.set_xticks(grid, [str(n) for n in grid])
    right.minorticks_off()
    right.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    right.legend(loc="lower right", fontsize=8)
    save(figure, path)


def draw_few(axes: Axes, few: dict[str, np.ndarray]) -> None:
    """Two bars for every kind: medians; a point for every run."""
    for i, found in enumerate(few.values()):
        for j, (name, colour) in enumerate((("training", "0.75"), ("test", "tab:blue"))):
            place = i + 0.4 * j - 0.2
            axes.bar(place, np.median(found[:, j]), 0.38, color=colour, label=name if i == 0 else None)
            axes.plot([place] * len(found), found[:, j], "o", color="k", ms=3, mfc="none", mew=0.8)
        gap = 100 * np.median(found[:, 0] - found[:, 1])
        axes.annotate(f"gap\n{gap:.1f}", (i, 1.012), ha="center", fontsize=9)
    axes.set_xticks(range(len(few)), few)
    axes.set(ylim=(0.7, 1.1), ylabel="accuracy", title=f"trained on {FEW} images; medians, runs")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_yticks(np.arange(0.7, 1.01, 0.05))
    axes.legend(loc="upper center", ncols=2, fontsize=9)


def main(argv: Sequence[str] | None = None) -> None:
    given = options(__doc__, __file__, argv)
    sizes = (
        {"linear": (2, 32), "conv": (2, 32)} if given.quick else {"linear": (2, 4, 8, 16, 32), "conv": (2, 4, 8, 32)}
    )
    seeds, epochs, short = (3, 15, 2) if given.quick else (10 if given.full else 5, 30, 3)
    first = [(train_few, kind, seed, epochs) for kind, seed in product(KINDS, range(seeds))]
    second = [
        (train_small_batches, kind, norm, size, seed, short)
        for kind, norm, seed in product(NETWORKS, NORMS, range(1 if given.quick else 3))
        for size in sizes[kind]
    ]
    third = [(noise, kind, sizes["linear"], 0) for kind in NETWORKS]
    found = run_all([*first, *second, *third], "networks")
    results = iter(found)
    few = {kind: np.array([next(results) for _ in range(seeds)]) for kind in KINDS}
    small: dict[tuple[str, str, int], np.ndarray] = {}
    for _, *setting, _, _ in second:
        small[tuple(setting)] = np.append(small.get(tuple(setting), []), next(results))
    noises = dict(zip(NETWORKS, results, strict=True))
    draw(few, small, noises, sizes, short, given.out)
    print("\n".join(findings(few, small)))


if __name__ == "__main__":
    main()
