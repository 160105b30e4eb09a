"""Updates of running statistics: the rules for batches of no use, and all of mean, variance and count or nothing."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from normzoo.backends import backend, chosen
from normzoo.backends.contract import Array
from normzoo.backends.subnormals import in_any_mode
from normzoo.passes.arrays import backend_of, is_counter, kernel_array, moved
from normzoo.statistics.running_state import RunningState


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
CHOICES = {"on_nonfinite": ("propagate", "skip", "raise"), "single_value": ("raise", "bias", "running")}


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


def commit(name: str, running: Any, stats: Array, values: int, ready: bool = True) -> None:
    """Take a batch's statistics into the running ones, in place: all of it or, where anything raises, nothing.

    Args:
        name: of the backend.
        running: mean, variance, number of batches and momentum, see `form.Running`; writeable.
        stats: (3, b, c), of sets of `values` values; without values, the batch is counted only.
        ready: the backend takes mean and variance as they are.
    """
    where, (mean, var, count, momentum) = backend(name), running
    taken = values and momentum != 0
    on_device = type(mean) is not np.ndarray
    if taken and ready and (on_device or (where.updates_whole and (count is None or is_counter(count)))):
        where.update(mean, var, stats, values, momentum, count)
        return
    if on_device:
        if taken:
            step = 1.0 / (count.item() + 1) if momentum is None else momentum
            for a, found in zip((mean, var), updated((mean, var), stats, values, step), strict=True):
                a[...] = found.reshape(a.shape)
        if count is not None:
            count[()] = count.item() + 1
        return

    def new(*old: Array) -> list[Any]:
        batches = 0 if count is None else old[2].item()
        step = 1.0 / (batches + 1) if momentum is None else momentum
        mean_and_var = updated(old[:2], stats, values, step) if taken else (None, None)
        return [*mean_and_var, batches + 1][: len(old)]

    RunningState(mean, var, *(() if count is None else (count,))).replace(new)


@in_any_mode
def updated(running: Sequence[Array], stats: Array, count: int, momentum: float) -> tuple[Array, Array]:
    """Running mean and variance of any shape, float dtype and strides with the statistics of as many sets, or of
    several as many: new arrays, float64, flat."""
    name = chosen() if type(stats) is np.ndarray else backend_of("running statistics", stats=stats)
    mean, var = (a.astype(np.float64).reshape(-1) for a in running)
    backend(name).update(mean, var, kernel_array(stats, stats.dtype), count, momentum)
    return mean, var
