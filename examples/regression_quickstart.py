"""The ten-line start: a table of numbers as it is, without preparing it, because a batch norm comes first.

Predicts how diabetes progressed in 442 patients (scikit-learn's table, columns in their own units: years, mmHg,
mg/dl) with a small network, `fit` below. Is the batch norm worth its line? The same network without it, on the same
columns and on standardized ones, and least squares say so.

    python examples/regression_quickstart.py            # half a minute; draws regression_quickstart.png
    python examples/regression_quickstart.py --quick    # seconds; --full: more runs
"""

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
from common import new_figure, options, run_all, save, verdict
from layers import SGD, Linear, ReLU, Sequential, mean_squared_error
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score
from sklearn.model_selection import train_test_split

import normzoo as nz

COLOURS = {"batch norm": "tab:blue", "no norm": "tab:red", "no norm, standardized": "tab:orange"}
PLAIN = "least squares"


def fit(x, y, network, rng, steps, learning_rate=0.01):
    """The ten lines: x (N, columns) and y (N, 1), both float32; the losses, and the network that predicts."""
    losses = []
    optimizer = SGD(network, learning_rate, momentum=0.9)
    for _ in range(steps):
        batch = rng.choice(len(x), 64, replace=False)
        loss, dy = mean_squared_error(network(x[batch]), y[batch])
        network.backward(dy)
        optimizer.step()
        losses.append(loss)
    return losses, network.eval()


def run(kind: str, seed: int, steps: int) -> tuple[list[float], np.ndarray, np.ndarray, float]:
    """The losses, and progression, prediction and the share of its variance explained of the patients left out."""
    x, y = load_diabetes(return_X_y=True, scaled=False)
    x, x_test, y, y_test = train_test_split(x.astype(np.float32), np.float32(y[:, None]), random_state=seed)
    rng = np.random.default_rng(seed)
    if kind == PLAIN:
        losses, predict = [], LinearRegression().fit(x, y).predict
    else:
        network = Sequential(Linear(10, 16, rng), ReLU(), Linear(16, 1, rng))
        if kind == "batch norm":
            network = Sequential(nz.BatchNorm(10), *network.layers)
        if "standardized" in kind:
            mean, std = x.mean(0), x.std(0)
            x, x_test = (x - mean) / std, (x_test - mean) / std
        # Predictions are in the units of the table too: the network gives them around 0, with a deviation of 1.
        mean, std = y.mean(), y.std()
        with np.errstate(all="ignore"):  # a run may diverge: the loss says so
            losses, found = fit(x, (y - mean) / std, network, rng, steps)

        def predict(x):
            return found(x) * std + mean

    with np.errstate(all="ignore"):
        predicted = predict(x_test)
    score = r2_score(y_test, predicted) if np.isfinite(predicted).all() else -np.inf
    return losses, y_test[:, 0], predicted[:, 0], float(score)


def finding(scores: dict[str, np.ndarray]) -> str:
    """The medians over splits, and how often batch norm was ahead of the same network on the same table."""
    ahead = int((scores["batch norm"] > scores["no norm"]).sum())
    found = {kind: f"{round(np.median(some), 2) + 0:.2f}" for kind, some in scores.items()}  # + 0: no -0.00
    return verdict(
        ahead > len(scores["no norm"]) / 2,
        f"of the variance of left-out patients (R2, median) the network explains {found['batch norm']} from the table "
        f"as it is with a batch norm in front, {found['no norm']} without, {found['no norm, standardized']} from "
        f"standardized columns; least squares {found[PLAIN]}; ahead of no norm in {ahead} of "
        f"{len(scores['no norm'])} splits",
    )


def draw(runs: dict, scores: dict[str, np.ndarray], path: Path) -> None:
    """Losses of all runs, scores, and the predictions of one run."""
    figure = new_figure(13, 4.6, "A table of numbers as it is: a batch norm in front takes care of units (diabetes)")
    left, middle, right = figure.subplots(1, 3)
    for kind, colour in reversed(COLOURS.items()):
        for seed in range(len(scores[kind])):
            losses = np.array(runs[kind, seed][0])
            smooth = np.convolve(losses[np.isfinite(losses)], np.ones(10) / 10, "valid")
            left.plot(np.arange(len(smooth)) + 10, smooth, color=colour, lw=1, label=kind if seed == 0 else None)
    worst = max(float(np.nanmax(runs["no norm", seed][0])) for seed in range(len(scores["no norm"])))
    left.axhline(1, color="0.4", ls=":", zorder=0)
    left.annotate("predicting the mean", (0.97, 1), (0, 4), ("axes fraction", "data"), "offset points", ha="right")
    if worst > 1e3:
        left.annotate(f"no norm begins at up to {worst:.0e}", (0.03, 0.95), xycoords="axes fraction", fontsize=9)
    left.set(
        yscale="log", ylim=(0.2, 1e3), xlabel="step", ylabel="mean squared error, in variances",
        title="training loss, mean of 10 steps, all runs",
    )  # fmt: skip
    left.legend(loc="center left")
    names = [*COLOURS, PLAIN]
    for i, kind in enumerate(names):
        values = np.maximum(scores[kind], -0.2)
        colour = COLOURS.get(kind, "0.6")
        middle.barh(i, max(float(np.median(values)), 0), color=colour, height=0.6, alpha=0.6)
        # What is below -0.2 is shown there.
        middle.plot(values, [i] * len(values), "o", color="k", mfc="none", ms=4)
    middle.set_yticks(range(len(names)), [name.replace(", ", ",\n") for name in names])
    middle.invert_yaxis()
    middle.axvline(0, color="0.3", lw=0.8)
    middle.set(
        xlim=(-0.25, 0.7),
        xlabel="R2 of left-out patients: median, runs",
        title="share of the variance explained",
    )
    middle_run = int(np.argsort(scores["batch norm"])[len(scores["batch norm"]) // 2])
    _, y, predicted, score = runs["batch norm", middle_run]
    right.plot([0, 350], [0, 350], ":", color="0.4")
    right.plot(y, predicted, "o", color=COLOURS["batch norm"], mfc="none", ms=4)
    right.set(
        xlim=(0, 350), ylim=(0, 350), aspect="equal", xlabel="progression after a year", ylabel="predicted",
        title=f"batch norm, split in the middle: R2 = {score:.2f}",
    )  # fmt: skip
    save(figure, path)


def main(argv: Sequence[str] | None = None) -> None:
    given = options(__doc__, __file__, argv)
    splits, steps = (3, 200) if given.quick else (20 if given.full else 8, 600)
    keys = list(product([*COLOURS, PLAIN], range(splits)))
    runs = dict(zip(keys, run_all([(run, kind, split, steps) for kind, split in keys], "fits"), strict=True))
    scores = {kind: np.array([runs[kind, split][-1] for split in range(splits)]) for kind in [*COLOURS, PLAIN]}
    draw(runs, scores, given.out)
    print(finding(scores))


if __name__ == "__main__":
    main()
