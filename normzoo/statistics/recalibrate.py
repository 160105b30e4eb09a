"""Running statistics recomputed over a whole data set, where every value has the same weight."""

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from typing import Any

import numpy as np

from normzoo.backends.contract import Array
from normzoo.passes.arrays import check_batches, instead_of, on_device
from normzoo.passes.numbers import check_size
from normzoo.statistics.counted import data_array
from normzoo.statistics.progress import bar
from normzoo.statistics.running_state import RunningState
from normzoo.statistics.stats import Stats
from normzoo.statistics.tracked import TrackedNorm


class Collected:
    """The statistics of all inputs of one norm, from which `recalibrate` computes its running statistics.

    If each set of the norm belongs to one channel of the running statistics, as in BatchNorm and SplitBatchNorm: count,
    mean and m2 of every set. InstanceNorm and GhostBatchNorm have several sets for each channel: the means and unbiased
    variances of all sets, with equal weights.
    """

    def __init__(self, norm: TrackedNorm) -> None:
        self.norm, self.batches = norm, 0
        self.first, self.second = (Stats.empty(norm.buffers["running_mean"].shape) for _ in range(2))

    def see(self, x: Array) -> None:
        """Add a batch."""
        norm = self.norm
        x = data_array(norm, "x", x)
        axes = norm.axes(x)
        self.batches += 1
        if x.size == 0:
            return
        v = x.reshape(axes.shape)
        found = Stats.of(v, tuple(i for i, letter in enumerate(axes.letters) if letter in "rR"))
        kept = [letter for letter in axes.letters if letter in "kK"]
        samples = tuple(i for i, letter in enumerate(kept) if letter == "k")
        if norm.rules.on_nonfinite != "propagate" and not np.isfinite(found.m2).all():
            if norm.rules.on_nonfinite == "raise":
                raise FloatingPointError(
                    f"{norm}: expected finite values in batch {self.batches - 1}, got nan or inf; "
                    "write on_nonfinite='skip'"
                )
            return
        if not samples:
            self.first = self.first.merge(found)
            return
        if int(found.count) < 2:
            raise ValueError(
                f"{norm}: expected more than 1 value in a set of batch {self.batches - 1}, got x of shape {x.shape}"
            )
        self.first = self.first.update(found.mean, samples)
        self.second = self.second.update(found.var(correction=1), samples)

    def result(self) -> tuple[Array, Array]:
        """The new running mean and variance.

        Raises:
            ValueError: there were too few values for a variance.
        """
        instances = bool(self.second.count)
        values = int(self.first.count)
        if values < (1 if instances else 2):
            raise ValueError(
                f"{self.norm}: expected 2 values a channel or more in the batches, got {values} in {self.batches} "
                "batches; pass data, and a generator that was not used up before"
            )
        biased = self.norm.recalibrates == "biased"
        return self.first.mean, self.second.mean if instances else self.first.var(correction=0 if biased else 1)


def recalibrate(
    norms: TrackedNorm | Iterable[TrackedNorm],
    batches: Iterable[Any],
    forward: Callable[[Any], Any] | None = None,
    *,
    batch_size: int | None = None,
    progress: bool = False,
) -> None:
    """Recompute the running statistics of `norms` over a data set: after training, or after weights were averaged.

    Formula:
        BatchNorm, and norms with the same running statistics: mean and unbiased variance of all values of a channel,
        however they are split into batches: a smaller last batch counts less. EMABatchNorm: mean and biased variance.
        InstanceNorm (GhostBatchNorm): means and unbiased variances of the instances (ghost batches), averaged over all
        of them.

    The network runs in training mode: each norm normalizes by the statistics of the batch, so the inputs of later norms
    do not depend on running statistics. Running statistics, num_batches_tracked and the mode stay unchanged until all
    batches were seen; then all norms get new running statistics and, if they count batches, the number of batches in
    num_batches_tracked. If anything raises before that, nothing changes.

    Args:
        norms: one norm or several, with running statistics, that declare `recalibrates`. All of them collect their
            inputs in the same pass over the data.
        batches: an iterable of batches: a list, a generator, or one array (see `batch_size`), memory-mapped or not.
        forward: a function that runs the network, and with it every norm, on a batch, whatever a batch is: network, or
            lambda batch: network(batch[0]). None: the batches are the inputs of the norms themselves, and nothing is
            normalized.
        batch_size: samples per batch if `batches` is one array, which is then cut along its first axis.
        progress: show a progress bar if tqdm is installed.

    Raises:
        TypeError: a norm tracks no statistics, or other statistics than the mean and variance of its inputs (it does
            not declare `recalibrates`); `batches` is not iterable into batches.
        ValueError: a channel got fewer than two values. FloatingPointError: see `on_nonfinite` of `BatchNorm`; with
            "skip" a batch with NaN or inf is left out. Also whatever `batches` and `forward` raise.

    >>> import numpy as np, normzoo as nz
    >>> norm = nz.BatchNorm(1)
    >>> nz.recalibrate(norm, [np.float32([[0], [1], [2]]), np.float32([[9]])])
    >>> norm.running_mean, norm.running_var
    (array([3.], dtype=float32), array([16.666666], dtype=float32))
    """
    found = list(norms) if isinstance(norms, Iterable) else [norms]
    for norm in found:
        _check(norm)
        if on_device(norm.buffers["running_mean"]):
            raise TypeError(f'recalibrate: expected norms on the host, got {norm} on the device; write norm.to("cpu")')
    collected = [Collected(norm) for norm in dict.fromkeys(found)]
    cut, total = _cut(batches, batch_size)
    with (
        _collecting(collected, forward is not None),
        bar(total, progress, unit="batch", desc="recalibrate") as shown,
    ):
        for batch in cut:
            if forward is not None:
                forward(batch)
            else:
                for each in collected:
                    each.see(batch)
            if shown is not None:
                shown.update()
    results = [each.result() for each in collected]
    new = [
        {"running_mean": mean, "running_var": var, "num_batches_tracked": each.batches}
        for each, (mean, var) in zip(collected, results, strict=True)
    ]
    _put(collected, new)


def _check(norm: Any) -> None:
    """Check that the norm has running statistics of the kind computed here."""
    buffers = getattr(norm, "buffers", {})
    if getattr(norm, "recalibrates", None) is not None:
        if {"running_mean", "running_var"} <= buffers.keys():
            return
        raise TypeError(
            f"recalibrate: expected norms with running statistics, got {norm}; write track_running_stats=True"
        )
    if "num_batches_tracked" in buffers and hasattr(norm, "momentum"):
        raise TypeError(
            f"recalibrate: expected norms whose running statistics are mean and variance of their inputs, got {norm}, "
            "which declares no `recalibrates`; write norm.num_batches_tracked[...] = 0 and norm.momentum = None, and "
            "train it on the batches"
        )
    raise TypeError(
        f"recalibrate: expected norms with running statistics that declare `recalibrates`, got {norm}; leave it out"
    )


def _put(collected: Sequence[Collected], new: Sequence[dict[str, Any]]) -> None:
    """Write the new statistics of all norms, or of none."""
    pairs = [
        (each.norm.buffers[name], value)
        for each, values in zip(collected, new, strict=True)
        for name, value in values.items()
        if name != "num_batches_tracked" or each.norm.counts_batches
    ]
    RunningState(*(held for held, _ in pairs)).replace(lambda *old: [value for _, value in pairs])


@contextmanager
def _collecting(collected: Sequence[Collected], called: bool) -> Iterator[None]:
    """Inside the block every norm is in training mode and, if `called`, records its inputs and updates no
    statistics."""
    modes = [each.norm.training for each in collected]

    def showing(each: Collected) -> Callable[..., Any]:
        norm = each.norm

        def forward(x: Array, *arguments: Any, **options: Any) -> Any:
            each.see(norm._input(x, **options))
            return type(norm).forward(norm, x, *arguments, **options | {"update_stats": False})

        return forward

    try:
        for each in collected:
            each.norm.train()
            if called:
                vars(each.norm)["forward"] = showing(each)
        yield
    finally:
        for each, mode in zip(collected, modes, strict=True):
            each.norm.train(mode)
            vars(each.norm).pop("forward", None)


def _cut(batches: Iterable[Any], batch_size: int | None) -> tuple[Iterable[Any], int | None]:
    """The batches and their number, or None if it is unknown."""
    if batch_size is None:
        if isinstance(batches, np.ndarray):
            raise TypeError(
                "recalibrate: expected a list or generator of batches, got one array; write batch_size=256, or [x]"
            )
        check_batches("recalibrate", batches, "[{}]")
        return batches, len(batches) if isinstance(batches, Sized) else None
    size = check_size("recalibrate", "batch_size", batch_size, least=1)
    if not isinstance(batches, np.ndarray):
        raise TypeError(
            f"recalibrate: expected one array to cut by batch_size, got {type(batches).__name__}"
            + (
                instead_of("batches", batches)
                if hasattr(batches, "to_numpy") or hasattr(batches, "toarray")
                else "; leave batch_size out"
            )
        )
    starts = range(0, len(batches), size)
    return (batches[i : i + size] for i in starts), len(starts)
