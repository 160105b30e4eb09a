"""A single-shot detector of convolution, batch norm and SiLU blocks finds digits; then its batch norms are folded.

The digits are scikit-learn's, put on a noisy canvas in three sizes: those to train on and those to test on are
different ones. Every cell of 8 x 8 pixels says whether the middle of a digit lies in it, where its box is, and which
digit it is. For deployment nz.fold puts every batch norm into the convolution before it: are the boxes the same, and
what does it save?

    python examples/detector_block.py            # about a minute; draws detector_block.png
    python examples/detector_block.py --quick    # seconds; --full: longer training, more runs
"""

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np
from common import new_figure, options, run_all, save, verdict
from digits import load_data
from layers import Adam, AvgPool2d, Conv2d, Sequential, SiLU, sigmoid_cross_entropy, softmax_cross_entropy
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from scipy.ndimage import zoom

import normzoo as nz

CELL, CANVAS = 8, 48  # pixels
SIZES = (12, 16, 20)  # of the digits' boxes
STYLES = (
    ("true box", "tab:green", "-", 1.0),
    ("found", "tab:blue", "-", 3.0),
    ("found after folding", "tab:orange", "--", 1.5),
)


class Box(NamedTuple):
    """Middle and size in pixels, and the digit; of a detection also how sure it is."""

    x: float
    y: float
    size: float
    digit: int
    sure: float = 1.0


class Result(NamedTuple):
    """A trained detector, before and after folding."""

    losses: list[float]
    found: list[list[Box]]  # in every test scene
    folded: list[list[Box]]
    score: float  # F1: of boxes with an overlap of half and the right digit
    moved: float  # the largest difference of boxes and of how sure they are, relative
    seconds: tuple[float, float]  # for a scene, before and after


def make_scenes(images, labels, count: int, rng: np.random.Generator) -> tuple[np.ndarray, list[list[Box]]]:
    """Canvases (N, 1, H, W) with one to four digits that do not overlap, and their boxes."""
    scenes = rng.normal(0, 0.25, (count, 1, CANVAS, CANVAS)).astype(np.float32)
    truth: list[list[Box]] = []
    for scene in scenes:
        boxes: list[Box] = []
        for _ in range(rng.integers(1, 5)):
            size, which = int(rng.choice(SIZES)), int(rng.integers(len(images)))
            left, top = rng.integers(0, CANVAS - size + 1, 2)
            box = Box(left + size / 2, top + size / 2, size, int(labels[which]))
            apart = [max(abs(box.x - b.x), abs(box.y - b.y)) - (box.size + b.size) / 2 for b in boxes]
            if all(gap >= 0 for gap in apart):
                digit = zoom(images[which, 0] - images[which, 0].min(), size / 8, order=1)
                scene[0, top : top + size, left : left + size] += digit
                boxes.append(box)
        truth.append(boxes)
    return scenes, truth


def build(rng: np.random.Generator) -> Sequential:
    """Four blocks and a head: (N, 1, H, W) -> (N, 14, H/8, W/8): is one here, its x, y, size, 10 digits."""

    def block(inside, outside):
        return Conv2d(inside, outside, 3, rng, bias=False), nz.BatchNorm(outside), SiLU()

    return Sequential(
        *block(1, 12), AvgPool2d(2), *block(12, 24), AvgPool2d(2), *block(24, 48), AvgPool2d(2), *block(48, 64),
        Conv2d(64, 14, 1, rng),
    )  # fmt: skip


def loss(y: np.ndarray, truth: list[list[Box]]) -> tuple[float, np.ndarray]:
    """Of the network's y, and its gradient: is a digit here, and in the cells where one is, its box and which it is."""
    here = np.zeros((len(y), *y.shape[2:]), y.dtype)
    cells, boxes, digits = [], [], []
    for n, scene in enumerate(truth):
        for box in scene:
            i, j = int(box.y // CELL), int(box.x // CELL)
            here[n, i, j] = 1
            cells.append((n, i, j))
            boxes.append((box.x / CELL - j - 0.5, box.y / CELL - i - 0.5, np.log(box.size / 16)))
            digits.append(box.digit)
    dy = np.zeros_like(y)
    total, dy[:, 0] = sigmoid_cross_entropy(y[:, 0], here, 1 + 4 * here)
    n, i, j = np.array(cells).T
    away = y[n, 1:4, i, j] - np.array(boxes, y.dtype)
    dy[n, 1:4, i, j] = 2 * away / len(cells)
    of_digits, dy[n, 4:, i, j] = softmax_cross_entropy(y[n, 4:, i, j], np.array(digits))
    return total + float((away**2).sum() / len(cells)) + of_digits, dy


def read(y: np.ndarray) -> list[list[Box]]:
    """The boxes that the network's y says, of each scene; of two that overlap by a third the surer one stays."""
    found: list[list[Box]] = []
    sure = 1 / (1 + np.exp(-y[:, 0]))
    for n in range(len(y)):
        kept: list[Box] = []
        for i, j in sorted(np.argwhere(sure[n] > 0.5), key=lambda cell: -sure[n][tuple(cell)]):
            x, down, size = y[n, 1:4, i, j]
            digit = int(y[n, 4:, i, j].argmax())
            box = Box(CELL * (j + 0.5 + x), CELL * (i + 0.5 + down), 16 * np.exp(size), digit, sure[n, i, j])
            if all(overlap(box, other) < 1 / 3 for other in kept):
                kept.append(box)
        found.append(kept)
    return found


def overlap(a: Box, b: Box) -> float:
    """Area in both over area in either."""
    sides = [
        max(0.0, min(p + a.size / 2, q + b.size / 2) - max(p - a.size / 2, q - b.size / 2))
        for p, q in ((a.x, b.x), (a.y, b.y))
    ]
    both = sides[0] * sides[1]
    return both / (a.size**2 + b.size**2 - both)


def f1(found: list[list[Box]], truth: list[list[Box]]) -> float:
    """Twice the right boxes over all found and all true ones."""
    right = 0
    for scene, true in zip(found, truth, strict=True):
        for box in true:
            right += any(overlap(box, other) >= 0.5 and box.digit == other.digit for other in scene)
    return 2 * right / (sum(map(len, found)) + sum(map(len, truth)))


def fold(network: Sequential) -> Sequential:
    """The same network in evaluation without batch norms: each is in the convolution before it."""
    layers, rng = [], np.random.default_rng(0)
    for layer in network.layers:
        if isinstance(layer, nz.BatchNorm):
            before = layers.pop()
            weight, bias, _ = nz.fold.batch_norm_into(before.params["weight"], before.params.get("bias"), layer)
            out, inside, kernel, _ = weight.shape
            layer = Conv2d(inside, out, kernel, rng)
            layer.params.update(weight=weight, bias=bias)
        layers.append(layer)
    return Sequential(*layers)


def differences(found: list[list[Box]], others: list[list[Box]]) -> float:
    """The largest relative one of places, sizes and certainties; infinity if other digits were found."""
    pairs = [list(zip(a, b, strict=False)) for a, b in zip(found, others, strict=True)]
    if [[box.digit for box in scene] for scene in found] != [[box.digit for box in scene] for scene in others]:
        return np.inf
    return max(abs(p - q) / abs(q) for scene in pairs for a, b in scene for p, q in zip(a, b, strict=True) if q)


def latency(networks: Sequence[Sequential], x: np.ndarray, rounds: int) -> tuple[float, ...]:
    """The median time of a scene by itself, the networks in turn."""
    times = np.empty((rounds, len(networks)))
    for i, j in np.ndindex(times.shape):
        start = perf_counter()
        networks[j](x[i % len(x)][np.newaxis])
        times[i, j] = perf_counter() - start
    return tuple(np.median(times, 0))


def run(seed: int, steps: int) -> Result:
    """Train, test, fold, test again."""
    data, rng = load_data(), np.random.default_rng(seed)
    network = build(rng)
    optimizer, losses = Adam(network, 0.01), []
    for step in range(steps):
        x, truth = make_scenes(data.x_train, data.y_train, 16, rng)
        optimizer.learning_rate = 0.01 * (1 - step / steps) + 1e-4
        value, dy = loss(network(x), truth)
        network.backward(dy)
        optimizer.step()
        losses.append(value)
    x, truth = test_scenes()
    folded = fold(network.eval())
    found, again = read(network(x)), read(folded(x))
    moved = differences(found, again)
    return Result(losses, found, again, f1(found, truth), moved, latency((network, folded), x, 300))


def test_scenes() -> tuple[np.ndarray, list[list[Box]]]:
    """A hundred scenes of digits that were not trained on, always the same."""
    data = load_data()
    return make_scenes(data.x_test, data.y_test, 100, np.random.default_rng(1000))


def finding(results: Sequence[Result]) -> str:
    """Medians over the runs; the boxes of all."""
    before, after = np.median([r.seconds for r in results], 0) * 1e3
    moved = max(r.moved for r in results)
    boxes = sum(len(scene) for r in results for scene in r.found)
    return verdict(
        moved < 1e-3 and after < before,
        f"folded batch norms give the same boxes faster: {boxes} boxes of {len(results)} detectors, places, sizes and "
        f"certainties within {moved:.0e}; {before:.2f} ms a scene before, {after:.2f} ms folded; "
        f"F1 {np.median([r.score for r in results]):.2f} on digits not trained on",
    )


def draw_scene(axes: Axes, scene: np.ndarray, result: Result, which: int, truth: list[Box]) -> None:
    """A scene with true boxes, boxes found, and those found after folding."""
    axes.imshow(scene[0], cmap="gray_r", extent=(0, CANVAS, CANVAS, 0), vmin=-0.5, vmax=3)
    axes.set_axis_off()
    shown = truth, result.found[which], result.folded[which]
    for boxes, (_, colour, line, width) in zip(shown, STYLES, strict=True):
        for box in boxes:
            corner = box.x - box.size / 2, box.y - box.size / 2
            axes.add_patch(Rectangle(corner, box.size, box.size, fill=False, ec=colour, ls=line, lw=width))
    for box in result.found[which]:
        place = box.x - box.size / 2 + 0.8, box.y - box.size / 2 + 0.8
        plate = {"fc": "tab:blue", "ec": "none", "pad": 1}
        axes.text(*place, f"{box.digit}", color="w", fontsize=9, fontweight="bold", va="top", bbox=plate)


NAMES = "batch norm", "folded"


def draw(results: Sequence[Result], path: Path) -> None:
    """Six scenes of the first run; losses; latency."""
    figure = new_figure(13, 6, "A detector of convolution, batch norm and SiLU: its batch norms fold away")
    grid = figure.add_gridspec(2, 5, width_ratios=(1, 1, 1, 0.05, 1.4))
    x, truth = test_scenes()
    for i in range(6):
        draw_scene(figure.add_subplot(grid[i // 3, i % 3]), x[i], results[0], i, truth[i])
    handles = [
        Rectangle((0, 0), 1, 1, fill=False, ec=colour, ls=line, lw=width, label=label)
        for label, colour, line, width in STYLES
    ]
    figure.legend(handles=handles, loc="outside lower left", ncols=3)
    above, below = (figure.add_subplot(grid[i, 4]) for i in range(2))
    for i, result in enumerate(results):
        smooth = np.convolve(result.losses, np.ones(10) / 10, "valid")
        above.plot(np.arange(len(smooth)) + 10, smooth, lw=1.2, label=f"run {i + 1}: F1 {result.score:.2f}")
    above.set(yscale="log", xlabel="step of 16 scenes", ylabel="loss, mean of 10", title="training")
    above.legend(fontsize=9)
    times = np.array([result.seconds for result in results]) * 1e3
    for i, colour in enumerate(("tab:blue", "tab:orange")):
        below.barh(i, np.median(times[:, i]), color=colour, alpha=0.7, height=0.6)
        below.plot(times[:, i], [i] * len(times), "o", color="k", mfc="none", ms=4)
    names = [f"{name}\n{ms:.2f} ms" for name, ms in zip(NAMES, np.median(times, 0), strict=True)]
    below.set_yticks(range(len(names)), names)
    below.invert_yaxis()
    below.set(xlabel="milliseconds a scene, one thread", title="latency, medians of 300 calls")
    save(figure, path)


def main(argv: Sequence[str] | None = None) -> None:
    given = options(__doc__, __file__, argv)
    runs, steps = (3, 60) if given.quick else (6, 3000) if given.full else (2, 600)
    results = run_all([(run, seed, steps) for seed in range(runs)], "detectors")
    draw(results, given.out)
    print(finding(results))


if __name__ == "__main__":
    main()
