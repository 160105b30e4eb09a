"""Updates of running statistics: the rules for batches of no use, and all of mean, variance and count or nothing."""

import os
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from normzoo.arrays import moved
from normzoo.backends import backend
from normzoo.backends.contract import Array
from normzoo.subnormals import in_any_mode


class Rules(NamedTuple):
    """What a pass by x's own statistics does where they are of no use.

    Attributes:
        on_nonfinite: where a mean or variance is not finite: "propagate" takes it into the running statistics, "skip"
            leaves these as they were, and "raise" raises FloatingPointError.
        single_value: where a set has one value: "raise" raises ValueError, "bias" gives y = bias with a gradient of 0,
            and "running" uses the running statistics as in evaluation. None of them updates the running statistics.
    """

    on_nonfinite: str = "propagate"
    single_value: str = "raise"


USUAL = Rules()
_INT64 = np.dtype(np.int64)
CHOICES = {"on_nonfinite": ("propagate", "skip", "raise"), "single_value": ("raise", "bias", "running")}

# What a thread holds while it replaces running statistics. It is `updates.lock`, looked up each time: the child of a
# fork, whose parent's threads may have held it, gets one of its own.
lock = threading.Lock()


def _renew() -> None:
    global lock  # noqa: PLW0603
    lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


class replacing:
    """`with replacing(mean, var, count):` a block that changes the arrays in place, all of them or none.

    One thread at a time, so that no batch of another is lost; where the block raises, they are as they were before."""

    __slots__ = ("_arrays", "_before", "_lock")

    def __init__(self, *arrays: Array) -> None:
        self._arrays = arrays

    def __enter__(self) -> None:
        self._lock = lock
        self._lock.acquire()
        self._before = [a.copy() if type(a) is np.ndarray else None for a in self._arrays]

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is not None:
                for a, before in zip(self._arrays, self._before, strict=True):
                    if before is not None and a.flags.writeable:  # None: on a device
                        a[...] = before
        finally:
            self._lock.release()


def check_rules(owner: object, on_nonfinite: Any, single_value: Any, tracked: bool) -> Rules:
    """Both are choices there are, and "running" has something to use."""
    if on_nonfinite is USUAL.on_nonfinite and single_value is USUAL.single_value:  # the defaults of every norm
        return USUAL
    rules = Rules(on_nonfinite, single_value)
    for name, value in rules._asdict().items():
        if not isinstance(value, str) or value not in CHOICES[name]:
            *most, last = map(repr, CHOICES[name])
            raise ValueError(f"{owner}: expected {name} {', '.join(most)} or {last}, got {value!r}")
    if single_value == "running" and not tracked:
        raise ValueError(
            f"{owner}: expected running statistics for single_value='running', got track_running_stats=False; "
            "write track_running_stats=True or single_value='bias'"
        )
    return USUAL if rules == USUAL else rules


def is_finite(stats: Array) -> bool:
    """Is every mean and every variance a finite number?"""
    return bool(np.isfinite(moved(stats, "cpu")[:2]).all())


def nonfinite(owner: object, stats: Array) -> str:
    """What to say of statistics that are not finite."""
    sets = np.isfinite(moved(stats, "cpu")[:2]).all(axis=0).ravel()
    return (
        f"{owner}: expected finite statistics, got nan or inf in {np.count_nonzero(~sets)} of {sets.size} sets of x, "
        f"first in set {int(np.argmin(sets))}; look at nz.diagnose(norm, x), or write on_nonfinite='skip'"
    )


def commit(
    name: str,
    running: tuple[Array, Array],
    count: Array | None,
    stats: Array,
    values: int,
    momentum: float,
    average: bool = False,
    ready: bool = True,
) -> None:
    """Take a batch's statistics into the running ones, in place: all of it or, where anything raises, nothing.

    Args:
        name: of the backend.
        running: mean and variance, writeable.
        count: num_batches_tracked, if it is kept.
        stats: (3, b, c), of sets of `values` values; without values, the batch is counted only.
        average: the momentum is 1 / (count + 1).
        ready: the backend takes `running` as they are.
    """
    where = backend(name)
    whole = ready and where.updates_whole and (count is None or _is_ready(count))  # no copies to go back to
    with lock if whole else replacing(*running) if count is None else replacing(*running, count):
        batches = 0 if count is None else count.item()
        if average:
            momentum = 1.0 / (batches + 1)
        if momentum != 0 and values:
            if whole:
                where.update(*running, stats, values, momentum, count)
                return
            if ready:
                where.update(*running, stats, values, momentum)
            else:
                update_copies(where.update, running, stats, values, momentum)
        if count is not None:
            count[()] = batches + 1  # a tenth of the time of +=


def _is_ready(count: Array) -> bool:
    """Compiled code can count there."""
    return type(count) is np.ndarray and count.dtype == _INT64 and count.flags.carray


@in_any_mode
def update_copies(
    update: Callable[..., None], running: tuple[Array, Array], stats: Array, count: int, momentum: float
) -> None:
    """Update buffers of any float dtype and strides through float64 copies."""
    copies = tuple(a.astype(np.float64) for a in running)
    update(*copies, stats, count, momentum)
    with np.errstate(all="ignore"):
        for a, new in zip(running, copies, strict=True):
            a[...] = new
