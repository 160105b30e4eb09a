"""Where does a batch norm go, and what if its running statistics do not fit?

Three questions to the digits' convolutional network. Does the place matter: between convolution and activation, as the
textbooks say, behind the activation, or in front of the convolution? What do running statistics of small batches miss?
And what if test images differ from training images, in contrast and brightness here? nz.recalibrate on unlabelled
images and the statistics of the test batch itself (nz.AlphaBatchNorm; Z. Nado et al., 2020, arXiv:2006.10963) mend the
last two, as long as a test batch is not all of one kind.

    python examples/placement.py            # about a minute; draws placement.png
    python examples/placement.py --quick    # seconds; --full: more runs
"""

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
from common import new_figure, options, run_all, save, verdict
from digits import accuracy, build_network, load_data, train_epoch
from layers import SGD, Conv2d, ReLU, Sequential
from matplotlib.ticker import MaxNLocator, PercentFormatter

import normzoo as nz

PLACES = {
    "before": ("conv, norm, ReLU", "tab:blue"), "after": ("conv, ReLU, norm", "tab:green"),
    "front": ("norm, conv, ReLU", "tab:orange"), "none": ("conv, ReLU: no norm", "tab:red"),
}  # fmt: skip
MENDED = {
    "running": ("running statistics", "tab:red"), "recalibrated": ("recalibrated on all test images", "tab:blue"),
    "batch of 64": ("of the test batch of 64", "tab:green"), "batch of 8": ("of the test batch of 8", "tab:olive"),
    "one digit": ("of a test batch of one digit only", "tab:purple"),
}  # fmt: skip
CONTRAST = 0.3  # of the shifted test images, whose brightness then goes up to 1 (in deviations of training images)


def build(place: str, rng: np.random.Generator, momentum: float = 0.1) -> Sequential:
    """The network with its norms in a place; alpha 1 evaluates by running statistics, alpha 0 by the batch's own."""

    def block(inside, outside):
        norm = nz.AlphaBatchNorm(inside if place == "front" else outside, momentum=momentum, alpha=1)
        parts = {"c": Conv2d(inside, outside, 3, rng), "n": norm, "r": ReLU()}
        yield from (parts[letter] for letter in {"before": "cnr", "after": "crn", "front": "ncr", "none": "cr"}[place])

    return build_network(block, rng)


def norms(network: Sequential) -> list[nz.AlphaBatchNorm]:
    return [layer for layer in network.layers if isinstance(layer, nz.AlphaBatchNorm)]


def by_place(place: str, seed: int, epochs: int) -> list[float]:
    """Test accuracy after every epoch."""
    data, rng = load_data(), np.random.default_rng(seed)
    network = build(place, rng)
    optimizer, found = SGD(network, 0.1, momentum=0.9), []
    for _ in range(epochs):
        train_epoch(network, optimizer, data, rng)
        found.append(accuracy(network, data.x_test, data.y_test))
    return found


def by_momentum(momentum: float, seed: int) -> tuple[float, float]:
    """Test accuracy after an epoch in batches of 4, by the running statistics as they are and recalibrated."""
    data, rng = load_data(640), np.random.default_rng(seed)
    network = build("before", rng, momentum)
    train_epoch(network, SGD(network, 0.02, momentum=0.9), data, rng, batch_size=4)
    running = accuracy(network, data.x_test, data.y_test)
    nz.recalibrate(norms(network), data.x_train, network, batch_size=64)
    return running, accuracy(network, data.x_test, data.y_test)


def in_batches(network: Sequential, x: np.ndarray, labels: np.ndarray, size: int, alpha: float) -> float:
    """Accuracy over whole batches in the order given, with alpha for the share of the running statistics."""
    for norm in norms(network):
        norm.alpha = alpha
    whole = len(x) // size * size
    return float(np.mean([accuracy(network, x[i : i + size], labels[i : i + size]) for i in range(0, whole, size)]))


def by_shift(seed: int, epochs: int, brightness: Sequence[float]) -> dict[str, list[float]]:
    """Accuracy on shifted test images, one of CONTRAST for each brightness, and on those as they are before all."""
    data, rng = load_data(), np.random.default_rng(seed)
    network = build("before", rng)
    optimizer = SGD(network, 0.1, momentum=0.9)
    for _ in range(epochs):
        train_epoch(network, optimizer, data, rng)
    labels, found = data.y_test, {kind: [] for kind in MENDED}
    kept = [norm.state_dict() for norm in norms(network)]
    by_digit = np.argsort(labels, kind="stable")
    for x in (data.x_test, *(np.float32(CONTRAST) * data.x_test + np.float32(b) for b in brightness)):
        found["running"].append(in_batches(network, x, labels, len(x), alpha=1))
        found["batch of 64"].append(in_batches(network, x, labels, 64, alpha=0))
        found["batch of 8"].append(in_batches(network, x, labels, 8, alpha=0))
        found["one digit"].append(in_batches(network, x[by_digit], labels[by_digit], 8, alpha=0))
        nz.recalibrate(norms(network), x, network, batch_size=64)
        found["recalibrated"].append(in_batches(network, x, labels, len(x), alpha=1))
        for norm, state in zip(norms(network), kept, strict=True):
            norm.load_state_dict(state)
    return found


def findings(places: dict, momenta: dict, shifts: dict) -> list[str]:
    """A line for each of the three questions: medians over seeds."""
    last = {place: np.median(found[:, -1]) for place, found in places.items()}
    ahead = int((places["before"][:, -1] > places["after"][:, -1]).sum())
    with_norm = [value for place, value in last.items() if place != "none"]
    first = (
        f"a norm matters, its place hardly: {last['before']:.1%} of test digits with it between convolution and "
        f"activation, {last['after']:.1%} behind the activation, {last['front']:.1%} in front of the convolution, "
        f"{last['none']:.1%} without; between is ahead of behind for {ahead} of {len(places['before'])} seeds"
    )
    slow = min(momenta)
    running, mended = np.median(momenta[slow], 0)
    second = (
        f"running statistics of small batches can be wrong: {running:.1%} after an epoch in batches of 4 with momentum "
        f"{slow:g}, {mended:.1%} recalibrated ({np.median(momenta[0.1], 0)[0]:.1%} with momentum 0.1)"
    )
    end = {kind: np.median(found[:, -1]) for kind, found in shifts.items()}
    third = (
        f"running statistics do not fit shifted images: {end['running']:.1%} of dim and bright digits by them, "
        f"{end['recalibrated']:.1%} recalibrated, {end['batch of 64']:.1%} by the test batch's, but "
        f"{end['one digit']:.1%} by those of batches of one digit"
    )
    return [
        verdict(max(with_norm) - min(with_norm) < min(with_norm) - last["none"], first),
        verdict(mended > running, second),
        verdict(end["running"] < min(end["recalibrated"], end["batch of 64"]), third),
    ]


def draw(places: dict, momenta: dict, shifts: dict, brightness: Sequence[float], path: Path) -> None:
    """A panel for each question."""
    figure = new_figure(13, 4.8, "Batch norm: its place, and running statistics that do not fit (8 x 8 digits)")
    left, middle, right = figure.subplots(1, 3)
    for place, found in places.items():
        label, colour = PLACES[place]
        epochs = np.arange(1, found.shape[1] + 1)
        left.plot(epochs, np.median(found, 0), "o-", color=colour, label=label)
        left.fill_between(epochs, found.min(0), found.max(0), color=colour, alpha=0.12, lw=0)
    left.set(xlabel="epoch", ylabel="test accuracy", ylim=(0, 1.02), title="place of the norm: medians, range")
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    for i, found in enumerate(momenta.values()):
        for j, (name, colour) in enumerate((("running statistics", "tab:red"), ("recalibrated", "tab:blue"))):
            place = i + 0.4 * j - 0.2
            middle.bar(place, np.median(found[:, j]), 0.38, color=colour, alpha=0.6, label=name if i == 0 else None)
            middle.plot([place] * len(found), found[:, j], "o", color="k", mfc="none", ms=4)
    middle.set_xticks(range(len(momenta)), [f"{momentum:g}" for momentum in momenta])
    middle.set(
        xlabel="momentum: weight of a new batch", ylim=(0, 1.02), title="an epoch in batches of 4: medians, runs"
    )
    middle.set_yticks(np.arange(0, 1.01, 0.2))
    for kind, found in shifts.items():
        label, colour = MENDED[kind]
        width = 5 if kind == "recalibrated" else 1.5  # the others lie on it
        right.plot(range(found.shape[1]), np.median(found, 0), "o-", color=colour, lw=width, label=label)
        right.fill_between(range(found.shape[1]), found.min(0), found.max(0), color=colour, alpha=0.12, lw=0)
    ticks = ["as\ntrained", *(f"{CONTRAST}\n+{b:g}" for b in brightness)]
    right.set_xticks(range(len(ticks)), ticks)
    right.set(
        xlabel="contrast and brightness of the test images", ylim=(0, 1.02), title="shifted test images: medians, range"
    )
    right.set_yticks(np.arange(0, 1.01, 0.2))
    for axes, place in ((left, "lower right"), (middle, "lower center"), (right, (0.3, 0.26))):
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.legend(loc=place, fontsize=8, framealpha=0.95, title="statistics" if axes is right else None)
    save(figure, path)


def main(argv: Sequence[str] | None = None) -> None:
    given = options(__doc__, __file__, argv)
    seeds, epochs, brightness = (3, 2, (1,)) if given.quick else (10 if given.full else 4, 4, (0, 0.5, 1))
    momenta = (0.01, 0.1) if given.quick else (0.01, 0.1, 0.5, 1)
    first = [(by_place, place, seed, epochs) for place, seed in product(PLACES, range(seeds))]
    second = [(by_momentum, momentum, seed) for momentum, seed in product(momenta, range(seeds))]
    third = [(by_shift, seed, epochs, brightness) for seed in range(seeds)]
    results = iter(run_all([*first, *second, *third], "networks"))
    places = {place: np.array([next(results) for _ in range(seeds)]) for place in PLACES}
    by_momenta = {momentum: np.array([next(results) for _ in range(seeds)]) for momentum in momenta}
    rest = list(results)
    shifts = {kind: np.array([found[kind] for found in rest]) for kind in MENDED}
    draw(places, by_momenta, shifts, brightness, given.out)
    print("\n".join(findings(places, by_momenta, shifts)))


if __name__ == "__main__":
    main()
