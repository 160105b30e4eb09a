"""Which norm for a language model? A small transformer that writes Python's manual, character by character.

Trains on the text of help() in the standard library (pydoc_data), every gradient by hand, with layer norm, RMS norm,
batch norm, power norm, dynamic tanh and none, in front of attention and perceptron (pre-norm) and behind their sums
(post-norm). Batch norm is said to struggle here, as statistics of batches of text vary (S. Shen et al., 2020,
arXiv:2003.07845): is its loss on text left out higher than layer norm's, and does the size of the batch matter?

    python examples/language_model.py            # about a minute; draws language_model.png
    python examples/language_model.py --quick    # seconds; --full: longer runs, more of them
"""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from pydoc_data.topics import topics
from typing import NamedTuple

import numpy as np
from common import new_figure, options, run_all, save, verdict
from layers import GELU, Adam, CausalAttention, Embedding, Linear, Residual, Sequential, softmax_cross_entropy

import normzoo as nz

NORMS = {
    "LayerNorm": (nz.LayerNorm, "tab:blue"),
    "RMSNorm": (nz.RMSNorm, "tab:cyan"),
    "BatchNorm": (lambda features: nz.BatchNorm(features, channel_axis=-1), "tab:red"),
    # The paper's code warms up by batch statistics for 10000 steps, more than there are here.
    "PowerNorm": (lambda features: nz.PowerNorm(features, channel_axis=-1, warmup_iters=40), "tab:orange"),
    "DyT": (nz.DyT, "tab:green"),
    "none": (None, "0.5"),
}
PLACES = {True: "pre-norm", False: "post-norm"}
MARGIN = 0.03  # nats: a smaller difference of medians is none, as runs differ by that


class Size(NamedTuple):
    """Of the network and the training."""

    features: int = 48
    length: int = 32  # characters seen
    batch: int = 16  # stretches of text
    steps: int = 200
    every: int = 20  # steps between two looks at the text left out


class Text(NamedTuple):
    """Characters as integers, the last tenth left out of training; how many different ones there are."""

    train: np.ndarray
    left_out: np.ndarray
    characters: int


def load_text() -> Text:
    """Python's manual as help() shows it, some 460 000 characters."""
    text = "\n".join(topics[name] for name in sorted(topics))
    characters, codes = np.unique(list(text), return_inverse=True)
    cut = len(codes) * 9 // 10
    return Text(codes[:cut], codes[cut:], len(characters))


def build(norm: str, pre: bool, characters: int, size: Size, rng: np.random.Generator) -> Sequential:
    """Two blocks of attention and perceptron: integers (N, T) -> logits (N, T, characters)."""
    c = size.features

    def one():
        make = NORMS[norm][0]
        return [make(c)] if make else []

    network = [Embedding(characters, size.length, c, rng)]
    for _ in range(2):
        for branch in ([CausalAttention(c, 4, rng)], [Linear(c, 4 * c, rng), GELU(), Linear(4 * c, c, rng)]):
            network += [Residual(*one(), *branch)] if pre else [Residual(*branch), *one()]
    return Sequential(*network, *(one() if pre else []), Linear(c, characters, rng))


def draw_batch(text: np.ndarray, size: Size, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Stretches of text (N, T), and the characters that follow each of theirs."""
    starts = rng.integers(0, len(text) - size.length, size.batch)
    found = text[starts[:, None] + np.arange(size.length + 1)]
    return found[:, :-1], found[:, 1:]


def train(norm: str, pre: bool, batch: int, seed: int, size: Size) -> list[float]:
    """Losses on text left out, in nats a character, at every look."""
    size, looked = size._replace(batch=batch), size._replace(batch=64)
    text, rng = load_text(), np.random.default_rng(seed)
    network = build(norm, pre, text.characters, size, rng)
    optimizer, found = Adam(network, 0.003), []
    x_left, following_left = draw_batch(text.left_out, looked, np.random.default_rng(0))
    for step in range(size.steps):
        x, following = draw_batch(text.train, size, rng)
        _, dlogits = softmax_cross_entropy(network.train()(x), following)
        network.backward(dlogits)
        optimizer.step()
        if (step + 1) % size.every == 0:
            found.append(softmax_cross_entropy(network.eval()(x_left), following_left)[0])
    return found


def findings(runs: dict[tuple, np.ndarray], batches: Sequence[int]) -> list[str]:
    """Two lines about batch norm and one about the rest; runs[norm, pre, batch] are losses of (seeds, looks)."""
    last = {key: float(np.median(losses[:, -1])) for key, losses in runs.items()}
    lines = []
    for batch, places in ((batches[-1], PLACES), (batches[0], [True])):
        keys = [("BatchNorm", pre, batch) for pre in places]
        higher = sum((runs[key][:, -1] > runs["LayerNorm", *key[1:]][:, -1]).sum() for key in keys)
        excess = np.mean([last[key] - last["LayerNorm", *key[1:]] for key in keys])
        pairs = sum(len(runs[key]) for key in keys)
        text = f"batch norm struggles in batches of {batch} stretches of text: loss "
        for key in keys:
            text += f"{last[key]:.3f} with it, {last['LayerNorm', *key[1:]]:.3f} with layer norm, {PLACES[key[1]]}; "
        lines.append(verdict(excess > MARGIN, f"{text}higher in {higher} of {pairs} pairs"))
    main = {(norm, pre): last[norm, pre, batches[-1]] for norm, pre in product(NORMS, PLACES)}
    listed = ", ".join(f"{norm} {main[norm, True]:.3f} and {main[norm, False]:.3f}" for norm in NORMS)
    helping = [norm for norm in NORMS if min(main[norm, True], main[norm, False]) < main["none", True] - MARGIN]
    text = f"norms help by {MARGIN}: loss pre-norm and post-norm {listed}; {len(helping)} of {len(NORMS) - 1} do"
    return [*lines, verdict(2 * len(helping) > len(NORMS) - 1, text)]


def draw(runs: dict[tuple, np.ndarray], batches: Sequence[int], size: Size, path: Path) -> None:
    """Losses over steps, pre-norm and post-norm, and the last ones over the size of the batch."""
    figure = new_figure(
        14, 5, "A character-level transformer on Python's manual: loss on text left out, by norm and place"
    )
    panels = figure.subplots(1, 3, width_ratios=(1, 1, 0.8))
    steps = np.arange(size.every, size.steps + 1, size.every)
    for axes, pre in zip(panels, PLACES, strict=False):
        for norm, (_, colour) in NORMS.items():
            losses = runs[norm, pre, batches[-1]]
            median = np.median(losses, 0)
            axes.plot(
                steps, median, color=colour, label=f"{norm}: {median[-1]:.2f}", ls="--" if norm == "none" else "-"
            )
            axes.fill_between(steps, losses.min(0), losses.max(0), color=colour, alpha=0.12, lw=0)
        axes.set(xlabel="step", ylim=(2, 4), title=f"{PLACES[pre]}: medians and range of {len(losses)} runs")
        axes.legend(title="norm: last loss", loc="upper right")
    panels[0].set(ylabel="loss, nats a character")
    for norm in ("LayerNorm", "BatchNorm"):
        last = np.array([runs[norm, True, batch][:, -1] for batch in batches])
        colour = NORMS[norm][1]
        panels[2].plot(batches, np.median(last, 1), "o-", color=colour, label=norm)
        panels[2].fill_between(batches, last.min(1), last.max(1), color=colour, alpha=0.12, lw=0)
    panels[2].set(xscale="log", xlabel="stretches of text in a batch", title="last loss, pre-norm")
    panels[2].set_xticks(batches, [str(batch) for batch in batches])
    panels[2].minorticks_off()
    panels[2].legend()
    save(figure, path)


def main(argv: Sequence[str] | None = None) -> None:
    given = options(__doc__, __file__, argv)
    size = Size(32, 32, 8, 40, 20) if given.quick else Size(steps=2000, every=100) if given.full else Size()
    batches, seeds = (2, size.batch) if given.quick else (2, 4, size.batch), 3 if given.quick or given.full else 2
    # Without a norm there is no place for it: run once, shown twice.
    keys = [(norm, pre, size.batch) for norm, pre in product(NORMS, PLACES) if pre or norm != "none"]
    keys += [(norm, True, batch) for norm, batch in product(("LayerNorm", "BatchNorm"), batches[:-1])]
    jobs = [(train, *key, seed, size) for key, seed in product(keys, range(seeds))]
    found = np.array(run_all(jobs, "transformers")).reshape(len(keys), seeds, -1)
    runs = dict(zip(keys, found, strict=True))
    runs["none", False, size.batch] = runs["none", True, size.batch]
    draw(runs, batches, size, given.out)
    print("\n".join(findings(runs, batches)))


if __name__ == "__main__":
    main()
