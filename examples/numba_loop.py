"""Does layer normalization train a deep network in fewer steps? A training loop that Numba compiled whole says.

A perceptron of sixteen narrow layers learns the 8 x 8 handwritten digits that ship with scikit-learn. The loop over
steps, the matrix products, the norms forward and backward (`nz.functional.layer_norm`, `saved.backward`) and the
updates are one compiled function of the user's: Python is entered once a run. Prints how many steps it took to a loss
of 0.1, with norms and without from the same He-initialized weights, and draws the losses.

    python examples/numba_loop.py            # under a minute; draws numba_loop.png
    python examples/numba_loop.py --quick    # half of that
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import numba
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from pictures import picture
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits

import normzoo as nz
import normzoo.njit  # teaches Numba the functional norms

WIDTH, DEPTH, CLASSES, BATCH = 64, 16, 10, 64
WINDOW = 25  # steps whose mean loss counts
LEARNED = 0.1  # the mean loss at which a run has learned


@numba.njit
def forward(x, weights, gains, shifts, normed):
    """What goes into every layer, the last's output behind it, and the Saved of every norm."""
    inputs, saved = [x], []
    for i in range(DEPTH):
        h = inputs[i] @ weights[i]
        if normed:
            h, kept = nz.functional.layer_norm(h, (WIDTH,), gains[i], shifts[i], return_saved=True)
            saved.append(kept)
        inputs.append(np.maximum(h, np.float32(0)))
    return inputs, saved


@numba.njit
def predict(x, weights, gains, shifts, head, normed):
    """Logits (N, CLASSES)."""
    return forward(x, weights, gains, shifts, normed)[0][DEPTH] @ head


@numba.njit
def train(x, labels, order, weights, gains, shifts, head, normed, rate):
    """Plain gradient descent over the batches that `order` names; the loss of every step. Changes the parameters."""
    losses = np.zeros(len(order))
    for step in range(len(order)):
        inputs, saved = forward(x[order[step]], weights, gains, shifts, normed)
        logits = inputs[DEPTH] @ head
        d = np.empty_like(logits)
        for i in range(len(logits)):  # softmax and cross-entropy
            p = np.exp(logits[i] - logits[i].max())
            p /= p.sum()
            label = labels[order[step, i]]
            losses[step] -= np.log(p[label] + 1e-30) / len(logits)
            p[label] -= np.float32(1)
            d[i] = p / np.float32(len(logits))
        dh = d @ head.T
        head -= rate * (inputs[DEPTH].T @ d)
        for i in range(DEPTH - 1, -1, -1):
            dh = np.where(inputs[i + 1] > 0, dh, np.float32(0))
            if normed:
                grads = saved[i].backward(dh)
                dh = grads.x
                gains[i] -= rate * grads.weight
                shifts[i] -= rate * grads.bias
            dw = inputs[i].T @ dh
            dh = dh @ weights[i].T
            weights[i] -= rate * dw
    return losses


def run(normed: bool, rate: float, steps: int, seed: int, data: Sequence[np.ndarray]) -> tuple[np.ndarray, float]:
    """The losses of one run and its test accuracy."""
    x_train, x_test, y_train, y_test = data
    rng = np.random.default_rng(seed)
    weights = (rng.standard_normal((DEPTH, WIDTH, WIDTH)) * (2 / WIDTH) ** 0.5).astype(np.float32)
    gains, shifts = np.ones((DEPTH, WIDTH), np.float32), np.zeros((DEPTH, WIDTH), np.float32)
    head = (rng.standard_normal((WIDTH, CLASSES)) / WIDTH**0.5).astype(np.float32)
    order = rng.integers(0, len(x_train), (steps, BATCH))
    losses = train(x_train, y_train, order, weights, gains, shifts, head, normed, np.float32(rate))
    logits = predict(x_test, weights, gains, shifts, head, normed)
    return losses, float((logits.argmax(1) == y_test).mean())


def steps_to_learn(losses: np.ndarray) -> int:
    """The step after which the mean loss of the last WINDOW steps was below LEARNED; all of them if it never was."""
    means = np.convolve(losses, np.full(WINDOW, 1 / WINDOW), "valid")
    below = np.flatnonzero(means < LEARNED)
    return int(below[0]) + WINDOW if len(below) else len(losses)


def draw(found: dict[bool, list[np.ndarray]], steps: dict[bool, int], path: Path) -> None:
    """The losses of all runs over the steps, as means over WINDOW steps."""
    figure = Figure((7.5, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for normed, colour, name in ((False, "tab:red", "without norms"), (True, "tab:blue", "with layer norm")):
        for i, losses in enumerate(found[normed]):
            means = losses[: len(losses) // WINDOW * WINDOW].reshape(-1, WINDOW).mean(1)
            never = steps[normed] == len(losses)
            label = f"{name}: a loss of {LEARNED} {'never' if never else f'after {steps[normed]} steps'}"
            at = (np.arange(len(means)) + 0.5) * WINDOW
            axes.plot(at, means, color=colour, lw=1.4, label=None if i else label)
            last = np.flatnonzero(np.isfinite(means))[-1]
            if last + 1 < len(means):
                axes.plot(at[last], means[last], "x", color=colour, ms=9, mew=2)
                axes.annotate("NaN from here on", (at[last], means[last]), (6, -12), textcoords="offset points")
    axes.axhline(LEARNED, color="0.4", ls=":", zorder=0)
    axes.axhline(np.log(CLASSES), color="0.4", ls=":", zorder=0)
    axes.annotate("guessing", (0.98, np.log(CLASSES)), (0, 5), ("axes fraction", "data"), "offset points", ha="right")
    title = f"{DEPTH} layers of {WIDTH}, trained in one compiled function"
    axes.set(yscale="log", ylim=(None, 6), xlabel="step", ylabel="training loss", title=title)
    axes.legend(loc="lower left")
    figure.savefig(path, format="png", dpi=100)


def main(argv: Sequence[str] | None = None) -> dict[bool, int]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=picture, default="numba_loop.png", help="the picture")
    parser.add_argument("--quick", action="store_true", help="one run of 600 steps instead of three of 1500")
    options = parser.parse_args(argv)
    steps, seeds = (600, 1) if options.quick else (1500, 3)
    digits = load_digits()
    x = ((digits.data - digits.data.mean()) / digits.data.std()).astype(np.float32)
    data = train_test_split(x, digits.target, test_size=450, stratify=digits.target, random_state=0)
    losses: dict[bool, list[np.ndarray]] = {False: [], True: []}
    accuracies: dict[bool, list[float]] = {False: [], True: []}
    with threadpool_limits(1):
        run(True, 0.1, 1, 0, data)  # compiled
        start = perf_counter()
        for normed in (False, True):
            for seed in range(seeds):
                found, accuracy = run(normed, 0.1, steps, seed, data)
                losses[normed].append(found)
                accuracies[normed].append(accuracy)
    spent = (perf_counter() - start) / (2 * seeds * steps)
    needed = {normed: int(np.median([steps_to_learn(found) for found in losses[normed]])) for normed in losses}
    draw(losses, needed, options.out)
    verdict = "confirmed" if needed[True] < needed[False] else "refuted"
    never = " and not there" if needed[False] == steps else ""
    print(
        f"{verdict}: {needed[True]} steps to a loss of {LEARNED} with layer norm, {needed[False]}{never} without; of "
        f"the test digits {np.median(accuracies[True]):.1%} against {np.median(accuracies[False]):.1%}; "
        f"{1e6 * spent:.0f} us a step of {DEPTH} layers, none of it in Python"
    )
    return needed


if __name__ == "__main__":
    main()
