"""Does batch normalization get to the same accuracy in fewer epochs, and at higher learning rates?

Trains the network of train_digits.py at learning rates from too low to too high and looks at the test images three
times an epoch. What counts is how long a run takes to 95 % of them, at the learning rate that suits it best: the claim
of S. Ioffe and C. Szegedy, 2015, arXiv:1502.03167, is that batch norm takes a fraction (there 1/14).

    python examples/faster_training.py            # about a minute; draws faster_training.png
    python examples/faster_training.py --quick    # seconds; --full: more runs
"""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from common import colours_of, new_figure, options, run_all, save, verdict
from digits import accuracy, load_data, train_step
from layers import SGD
from matplotlib.axes import Axes
from train_digits import NAMES, build_network

BATCH_SIZE, LOOKS = 64, 3  # looks at the test images in every epoch
COLOURS = {False: "tab:red", True: "tab:blue"}


class Run(NamedTuple):
    """The mean training loss and the test accuracy at every look; short where the loss became NaN or infinite."""

    rate: float
    batch_norm: bool
    seed: int
    target: float  # the accuracy that counts
    loss: list[float]
    accuracy: list[float]

    @property
    def epochs(self) -> float:
        """How many epochs it took to the target; infinity if it did not get there."""
        reached = np.flatnonzero(np.array(self.accuracy) >= self.target)
        return (reached[0] + 1) / LOOKS if len(reached) else np.inf


def train(rate: float, batch_norm: bool, seed: int, target: float, epochs: int) -> Run:
    """One run; the seed decides the weights and the batches, which are the same with batch norm and without."""
    data, rng = load_data(), np.random.default_rng(seed)
    network = build_network(batch_norm, rng)
    optimizer = SGD(network, rate, momentum=0.9)
    steps = len(data.x_train) // BATCH_SIZE // LOOKS
    run = Run(rate, batch_norm, seed, target, [], [])
    with np.errstate(all="ignore"):  # a run may diverge: the loss says so
        for _ in range(epochs):
            batches = rng.permutation(len(data.x_train))[: LOOKS * steps * BATCH_SIZE].reshape(LOOKS, steps, BATCH_SIZE)
            for some in batches:
                network.train()
                losses = [train_step(network, optimizer, data.x_train[b], data.y_train[b]) for b in some]
                if not np.isfinite(losses).all():
                    return run
                run.loss.append(float(np.mean(losses)))
                run.accuracy.append(accuracy(network, data.x_test, data.y_test))
    return run


def medians(runs: Sequence[Run], batch_norm: bool) -> dict[float, float]:
    """The median number of epochs to the target for every learning rate."""
    rates = sorted({run.rate for run in runs})
    return {
        rate: float(np.median([run.epochs for run in runs if (run.rate, run.batch_norm) == (rate, batch_norm)]))
        for rate in rates
    }


def best(runs: Sequence[Run], batch_norm: bool) -> float:
    """The learning rate at which the median run is fastest."""
    found = medians(runs, batch_norm)
    return min(found, key=found.__getitem__)


def finding(runs: Sequence[Run]) -> str:
    """What the runs say about the claim, in one line: medians at the best rate of each, and how many pairs agree."""
    rates = {norm: best(runs, norm) for norm in NAMES}
    epochs = {norm: medians(runs, norm)[rates[norm]] for norm in NAMES}
    at_best = {
        norm: {r.seed: r.epochs for r in runs if (r.rate, r.batch_norm) == (rates[norm], norm)} for norm in NAMES
    }
    faster = sum(at_best[True][seed] < at_best[False][seed] for seed in at_best[True])
    works = {norm: max((rate for rate, e in medians(runs, norm).items() if e < np.inf), default=0) for norm in NAMES}
    figures = (
        f"{runs[0].target:.0%} of the test digits after {epochs[True]:.2g} epochs with batch norm (learning rate "
        f"{rates[True]:g}), after {epochs[False]:.2g} without ({rates[False]:g}); faster with {faster} of "
        f"{len(at_best[True])} seeds; up to learning rate {works[True]:g} with, {works[False]:g} without"
    )
    confirmed = epochs[True] < epochs[False] and works[True] > works[False]
    return verdict(confirmed, figures)


def draw(runs: Sequence[Run], path: Path) -> None:
    """Loss over epochs without and with batch norm, and epochs to the target over the learning rate."""
    figure = new_figure(13, 4.8, "Batch norm: higher learning rates, fewer epochs (8 x 8 digits, 4 convolutions)")
    *losses, right = figure.subplots(1, 3)
    for axes, batch_norm in zip(losses, NAMES, strict=True):
        draw_losses(axes, runs, batch_norm)
    draw_epochs(right, runs)
    save(figure, path)


def draw_losses(axes: Axes, runs: Sequence[Run], batch_norm: bool) -> None:
    """A line for every learning rate, the median of its runs, as far as most go."""
    rates = sorted({run.rate for run in runs})
    for rate, (colour, marker) in colours_of(rates).items():
        of_rate = [run.loss for run in runs if (run.rate, run.batch_norm) == (rate, batch_norm)]
        length = int(np.median([len(loss) for loss in of_rate]))
        median = np.median([loss[:length] for loss in of_rate if len(loss) >= length], axis=0)
        label = f"{rate:g}" + (", diverged" if length < max(len(run.loss) for run in runs) else "")
        axes.plot((np.arange(length) + 1) / LOOKS, median, color=colour, marker=marker, ms=3.5, lw=1.4, label=label)
    axes.axhline(np.log(10), color="0.4", ls=":", zorder=0)
    axes.annotate("guessing", (0.98, np.log(10)), (0, 4), ("axes fraction", "data"), "offset points", ha="right")
    axes.set(yscale="log", ylim=(1e-3, 5), xlabel="epoch", ylabel="training loss", title=NAMES[batch_norm])
    axes.legend(title="learning rate", loc="lower left", fontsize=8, ncols=2)


def draw_epochs(axes: Axes, runs: Sequence[Run]) -> None:
    """A point for every run, a line through the medians; runs that never get there lie on the upper edge."""
    never = max(len(run.loss) for run in runs) / LOOKS * 1.5
    for batch_norm, marker in ((False, "o"), (True, "s")):
        colour = COLOURS[batch_norm]
        some = [run for run in runs if run.batch_norm == batch_norm]
        shift = 1.03 if batch_norm else 0.97  # so that points do not hide each other
        axes.plot(
            [run.rate * shift for run in some], [min(run.epochs, never) for run in some],
            marker, color=colour, mfc="none", ms=7,
        )  # fmt: skip
        found = medians(runs, batch_norm)
        axes.plot(list(found), np.minimum(list(found.values()), never), color=colour, label=NAMES[batch_norm])
    axes.axhline(never, color="0.4", ls=":", zorder=0)
    axes.annotate("not reached", (0.02, never), (0, 7), ("axes fraction", "data"), "offset points")
    rates, ticks = sorted({run.rate for run in runs}), [0.5, 1, 2, 4, 8]
    axes.set(
        xscale="log",
        yscale="log",
        ylim=(0.4, 2 * never),
        xlabel="learning rate",
        ylabel="epochs",
        title=f"epochs to {runs[0].target:.0%} of test",
    )
    axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.legend(loc="lower left")


def main(argv: Sequence[str] | None = None) -> None:
    given = options(__doc__, __file__, argv)
    rates = (0.1, 0.3) if given.quick else (0.003, 0.01, 0.03, 0.1, 0.3, 1)
    seeds, target, epochs = (3, 0.9, 3) if given.quick else (10 if given.full else 3, 0.95, 8)
    jobs = [(train, rate, norm, seed, target, epochs) for rate, norm, seed in product(rates, NAMES, range(seeds))]
    runs = run_all(jobs, "networks")
    draw(runs, given.out)
    print(finding(runs))


if __name__ == "__main__":
    main()
