"""Running moments of rows that come a few at a time: what they are normalized by, and their way into the statistics."""

from collections.abc import Callable

import numpy as np

from normzoo.backends import backend, chosen
from normzoo.backends.contract import Array, State
from normzoo.passes.arrays import is_counter

FEW = 1 << 14  # values of a step, whose statistics are found on one thread


def observed(
    x: Array, counts: bool, state: State, prior: float, eps: float
) -> tuple[Array, Callable[[], Array | None]] | None:
    """Statistics (3, C) of what was seen and of `prior` values of mean 0 and variance 1, for `Known`, and a function
    that takes x in: by compiled code, for a step of environments; NumPy takes tens of microseconds for any size.
    None: `Stats` must do it, as it is the first step, or squares are near the ends of float64's range.

    Args:
        x: (..., C).
        counts: False: x is not looked at.
        state: as `Stats` has them, of one count.

    The function returns None or, where others changed the state and `Stats` must merge, mean and m2 of x, (2, C).
    """
    (count, *numbers), where, features = state, backend(chosen()), x.shape[-1]
    if not (
        where.updates_whole
        and type(x) is np.ndarray
        and features > 0
        and x.size <= FEW
        and x.flags.c_contiguous
        and x.flags.aligned
        and x.dtype.isnative
        and is_counter(count)
        and count.item() > 0
        and all(_is_plain(a, features) for a in numbers)
    ):
        return None
    seen = x if counts else x[:0] if x.ndim > 1 else x[None][:0]
    batch, stats = np.empty((2, features)), np.empty((3, features))
    if not where.observe(seen, state, batch, stats, prior, eps):
        return None

    def take_in() -> Array | None:
        rows = seen.size // features
        return None if not rows or where.take_in(state, batch, rows) else batch

    return stats, take_in


def _is_plain(a: Array, features: int) -> bool:
    return type(a) is np.ndarray and a.dtype == np.float64 and a.size == features and a.flags.carray
