"""Does batch normalization train at higher learning rates? A small convolutional network on real images says.

Trains on the 8 x 8 handwritten digits that ship with scikit-learn, with and without nz.BatchNorm, at learning rates
from too low to too high, three times each; prints the test accuracies and draws them. Every gradient is written by
hand: the norms' in normzoo, the rest in layers.py. The claim is that of S. Ioffe and C. Szegedy, "Batch Normalization:
Accelerating Deep Network Training by Reducing Internal Covariate Shift", 2015, arXiv:1502.03167.

    python examples/train_digits.py            # about a minute; draws train_digits.png
    python examples/train_digits.py --quick    # seconds
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import digits
import numpy as np
from common import colours_of, new_figure, one_thread, save
from digits import Digits, accuracy, load_data, train_epoch
from layers import SGD, Conv2d, ReLU, Sequential
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter
from pictures import picture
from tqdm import tqdm

import normzoo as nz

TRAINED = 0.9  # a run that reaches this test accuracy counts as trained
NAMES = {False: "without batch norm", True: "with batch norm"}


@dataclass
class History:
    """One run: its mean training loss in every epoch that it finished, and its test accuracy at the end."""

    learning_rate: float
    batch_norm: bool
    seed: int
    loss: list[float] = field(default_factory=list)
    accuracy: float = 0.0
    diverged: bool = False  # stopped because the loss was NaN or infinite


def build_network(batch_norm: bool, rng: np.random.Generator) -> Sequential:
    """Four convolutions, with batch norms or without; the same rng gives the same weights for both."""

    def block(in_channels, out_channels):
        # A bias would be subtracted again with the mean.
        yield Conv2d(in_channels, out_channels, 3, rng, bias=not batch_norm)
        if batch_norm:
            yield nz.BatchNorm(out_channels)
        yield ReLU()

    return digits.build_network(block, rng)


def train(
    learning_rate: float, batch_norm: bool, epochs: int, seed: int, data: Digits, bar: tqdm | None = None
) -> History:
    """Train one network and test it; `seed` decides the weights and the batches, `bar` counts the epochs."""
    history = History(learning_rate, batch_norm, seed)
    rng = np.random.default_rng(seed)
    network = build_network(batch_norm, rng)
    optimizer = SGD(network, learning_rate, momentum=0.9)
    with one_thread(), np.errstate(all="ignore"):  # a run may diverge: the loss says so
        for _ in range(epochs):
            loss = train_epoch(network, optimizer, data, rng)
            history.diverged = not np.isfinite(loss)
            if history.diverged:
                break
            history.loss.append(loss)
            if bar is not None:
                bar.update()
        history.accuracy = accuracy(network, data.x_test, data.y_test)
    if bar is not None:
        bar.update(epochs - len(history.loss))
    return history


def table(histories: Sequence[History]) -> str:
    """The test accuracy of every run, a line for each learning rate."""
    rates, seeds = (sorted({getattr(h, name) for h in histories}) for name in ("learning_rate", "seed"))
    width = max(8 * len(seeds), 20)
    lines = ["test accuracy" + "".join(f"{name:>{width}}" for name in NAMES.values()), "learning rate"]
    for rate in rates:
        line = f"{rate:<13g}"
        for batch_norm in NAMES:
            runs = [h for h in histories if (h.learning_rate, h.batch_norm) == (rate, batch_norm)]
            cells = (f"{h.accuracy:7.1%}{'*' if h.diverged else ' '}" for h in runs)
            line += f"{''.join(cells):>{width}}"
        lines.append(line.rstrip())
    if any(h.diverged for h in histories):
        lines.append("* stopped: the loss was NaN or infinite")
    return "\n".join(lines)


def highest_rate(histories: Sequence[History], batch_norm: bool) -> float:
    """The highest learning rate at which every run trained; 0 if there is none."""
    accuracies: dict[float, list[float]] = {}
    for h in histories:
        if h.batch_norm == batch_norm:
            accuracies.setdefault(h.learning_rate, []).append(h.accuracy)
    return max((rate for rate, found in accuracies.items() if min(found) >= TRAINED), default=0.0)


def verdict(histories: Sequence[History]) -> str:
    """What the runs say about the claim."""
    without, with_norm = (highest_rate(histories, batch_norm) for batch_norm in NAMES)
    if with_norm > without > 0:
        return f"confirmed: batch norm trains at a {with_norm / without:.3g} times higher learning rate"
    if with_norm > without:
        return "confirmed: only batch norm trains"
    if not without:
        return "undecided: too few epochs for either to train"
    return "refuted: batch norm trains at no higher learning rate"


def finding(histories: Sequence[History]) -> str:
    """The verdict and the figures behind it, in one line."""
    rates = (highest_rate(histories, batch_norm) for batch_norm in NAMES)
    without, with_norm = (f"{rate:g}" if rate else "none" for rate in rates)
    return f"{verdict(histories)} ({with_norm} with, {without} without: the highest with {TRAINED:.0%} in every run)"


def draw(histories: Sequence[History], path: Path) -> None:
    """Loss over epochs without and with batch norm, and test accuracy over the learning rate."""
    figure = new_figure(13, 4.6, verdict(histories))
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.1))
    draw_losses(left, histories, batch_norm=False)
    draw_losses(middle, histories, batch_norm=True)
    draw_accuracies(right, histories)
    save(figure, path)


def draw_losses(axes: Axes, histories: Sequence[History], batch_norm: bool) -> None:
    """A line for each run, in the colour of its learning rate; a cross at the top where a run diverged."""
    rates = sorted({h.learning_rate for h in histories})
    styles = colours_of(rates)
    for h in histories:
        if h.batch_norm == batch_norm:
            label = f"{h.learning_rate:g}" if h.seed == histories[0].seed else None
            colour, marker = styles[h.learning_rate]
            axes.plot(range(1, len(h.loss) + 1), h.loss, color=colour, label=label, marker=marker, ms=3.5, lw=1.3)
            if h.diverged:
                cross = {"marker": "x", "ms": 9, "mew": 2, "clip_on": False}
                axes.plot(len(h.loss) + 1, 1, color=colour, transform=axes.get_xaxis_transform(), **cross)
    axes.axhline(np.log(10), color="0.4", ls=":", zorder=0)
    axes.annotate("guessing", (0.98, np.log(10)), (0, 7), ("axes fraction", "data"), "offset points", ha="right")
    axes.set(
        yscale="log", ylim=(1e-4, 30), xlabel="epoch", ylabel="training loss", title=f"{NAMES[batch_norm]}, all runs"
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(title="learning rate", loc="lower left", ncols=2)


def draw_accuracies(axes: Axes, histories: Sequence[History]) -> None:
    """A point for each run and a line through the medians."""
    rates = sorted({h.learning_rate for h in histories})
    for batch_norm, colour, marker in ((False, "tab:red", "o"), (True, "tab:blue", "s")):
        runs = [h for h in histories if h.batch_norm == batch_norm]
        medians = [np.median([h.accuracy for h in runs if h.learning_rate == rate]) for rate in rates]
        axes.plot([h.learning_rate for h in runs], [h.accuracy for h in runs], marker, color=colour, mfc="none", ms=7)
        axes.plot(rates, medians, color=colour, marker=marker, ms=4, label=NAMES[batch_norm])
    axes.axhline(TRAINED, color="0.4", ls=":", zorder=0)
    axes.annotate(
        f"trained: {TRAINED:.0%}", (0.02, TRAINED), (0, -4), ("axes fraction", "data"), "offset points", va="top"
    )
    axes.set(
        xscale="log", xlabel="learning rate", ylabel="test accuracy", ylim=(0, 1.04), title="at the end: runs, medians"
    )
    axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 0.1))


def main(argv: Sequence[str] | None = None) -> list[History]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--epochs", type=int, help="passes over the training images (10, or 4 with --quick)")
    parser.add_argument("--seed", type=int, default=0, help="of the first run at each learning rate")
    parser.add_argument("--out", type=picture, default="train_digits.png", help="the picture")
    parser.add_argument("--quick", action="store_true", help="two learning rates, one run each")
    options = parser.parse_args(argv)
    rates, runs, epochs = ((0.03, 0.3), 1, 4) if options.quick else ((0.01, 0.03, 0.1, 0.3, 1, 3), 3, 10)
    epochs = options.epochs or epochs
    grid = [(rate, norm, options.seed + i) for rate in rates for norm in NAMES for i in range(runs)]
    data = load_data()
    histories = []
    with tqdm(total=len(grid) * epochs, unit="epoch") as bar:
        for rate, batch_norm, seed in grid:
            bar.set_description(f"learning rate {rate:g} {NAMES[batch_norm]}")
            histories.append(train(rate, batch_norm, epochs, seed, data, bar))
    draw(histories, options.out)
    print(table(histories))
    print(finding(histories))
    return histories


if __name__ == "__main__":
    main()
