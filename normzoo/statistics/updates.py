"""Updates of running statistics, and the rules for batches that give none."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from normzoo.backends import backend, chosen
from normzoo.backends.contract import Array
from normzoo.backends.subnormals import in_any_mode
from normzoo.passes.arrays import backend_of, is_counter, kernel_array, moved
from normzoo.statistics.running_state import RunningState

OnNonfinite = Literal["propagate", "skip", "raise"]
SingleValue = Literal["raise", "bias", "running"]


class Rules(NamedTuple):
    """What a pass by x's own statistics does if these are unusable.

    Attributes:
        on_nonfinite: if a mean or variance is not finite: "propagate" updates the running statistics with it, "skip"
            leaves them unchanged, and "raise" raises FloatingPointError.
        single_value: if a set has one value: "raise" raises ValueError, "bias" gives y = bias with a gradient of 0, and
            "running" uses the running statistics, as in evaluation. None of them updates the running statistics.
    """

    on_nonfinite: OnNonfinite = "propagate"
    single_value: SingleValue = "raise"


USUAL = Rules()
CHOICES = {"on_nonfinite": get_args(OnNonfinite), "single_value": get_args(SingleValue)}


def check_rules(owner: object, on_nonfinite: Any, single_value: Any, tracked: bool) -> Rules:
    """Check that both are known choices, and that there are running statistics for "running"."""
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
    """The error message for statistics that are not finite."""
    sets = np.isfinite(moved(stats, "cpu")[:2]).all(axis=0).ravel()
    return (
        f"{owner}: expected finite statistics, got nan or inf in {np.count_nonzero(~sets)} of {sets.size} sets of x, "
        f"first in set {int(np.argmin(sets))}; look at nz.diagnose(norm, x), or write on_nonfinite='skip'"
    )


def commit(name: str, running: Any, stats: Array, values: int, ready: bool = True) -> None:
    """Update the running statistics by those of a batch, in place: completely or, if anything raises, not at all.

    Args:
        name: name of the backend.
        running: mean, variance, number of batches and momentum, see `form.Running`; the arrays are writeable.
        stats: (3, b, c), of sets of `values` values; if values is 0, the batch is only counted.
        ready: the backend takes mean and variance without conversion.
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
    """New running mean and variance, float64 and flat, from running statistics of any shape, float dtype and strides
    and the statistics of as many sets, or of a multiple of as many."""
    name = chosen() if type(stats) is np.ndarray else backend_of("running statistics", stats=stats)
    mean, var = (a.astype(np.float64).reshape(-1) for a in running)
    backend(name).update(mean, var, kernel_array(stats, stats.dtype), count, momentum)
    return mean, var
