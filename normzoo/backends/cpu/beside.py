"""The arrays that a kernel takes beside its own: what stands before and behind a norm, see `kernels/making.py`. Where
it takes one that is not there, it gets another, and does not look at it."""

from collections.abc import Callable
from typing import Any

import numpy as np

from normzoo.backends.around import Around, Beside, BesideBack
from normzoo.backends.contract import Array


def before(around: Around, call: Callable, x: Array, y: Array, beside: Beside) -> tuple[Array, Callable]:
    """What the norm reads in place of x, and a kernel that also has what is beside. s of a gate lies in y, which is
    made of it in place."""
    residual, s, other, scale = beside
    if not around.residual:
        s = y if around.gate_first else x
    given = x, x if residual is None else residual, x if other is None else other, float(scale)
    return s, _with(call, given)


def behind(
    around: Around, call: Callable, own: tuple[Array, Array, Array], beside: BesideBack
) -> tuple[Array, Array, Callable]:
    """What the norm reads going back in place of dy and x, which is written first, and a kernel that also has what is
    beside; `own`: dy, x and dx."""
    dy, x, dx = own
    bias, other, dother, ds = beside
    given = x, dy, bias, x if other is None else other, dx if dother is None else dother, dy if ds is None else ds
    if around.gate_first:
        x = dother
    elif around.behind == "add":
        dy = dother
    elif around.is_behind:  # it goes to dx, but where x still lies there
        dy = np.empty_like(x) if _begin_at_once(dx, x) else dx
    return dy, x, _with(call, given)


def _with(call: Callable, given: tuple[Any, ...]) -> Callable:
    return lambda *own: call(*own, *given)


def _begin_at_once(a: Array, b: Array) -> bool:
    return a.__array_interface__["data"][0] == b.__array_interface__["data"][0]
