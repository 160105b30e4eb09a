"""The arrays that a kernel takes beside its own: what stands before and behind a norm, see `kernels/making.py`. Where
it takes one that is not there, it gets another, and does not look at it."""

from collections.abc import Callable
from typing import Any

import numpy as np

from normzoo.backends.around import Around, Beside, BesideBack
from normzoo.backends.contract import Array
from normzoo.backends.cpu.fastcall.shortcut import DY_IN_DOTHER, DY_IN_DX, S_IN_DOTHER, S_IN_S, S_IN_Y

Given = tuple[Any, ...]  # the last arguments of a kernel


def before(around: Around, x: Array, y: Array, beside: Beside) -> tuple[Array, Given]:
    """What the norm reads in place of x, and what a kernel takes more. s of a gate lies in y, which is made of it in
    place."""
    residual, s, other, scale = beside
    place = place_before(around)
    read = s if place == S_IN_S else y if place == S_IN_Y else x
    return read, (x, x if residual is None else residual, x if other is None else other, float(scale))


def level_spread(around: Around, spread: Callable[[Array], Array] | None) -> Callable[[Any], Any]:
    """What makes of a `Beside` or `BesideBack` one whose parameter of an activation is repeated as weight and bias
    are."""
    if spread is None or around.behind != "learned":
        return lambda beside: beside
    return lambda beside: beside._replace(other=spread(beside.other))


def place_before(around: Around) -> int:
    """Where s is written, see `fastcall/shortcut.py`; 0: nowhere."""
    return S_IN_S if around.residual else S_IN_Y if around.gate_first else 0


def behind(around: Around, own: tuple[Array, Array, Array], beside: BesideBack) -> tuple[Array, Array, Given]:
    """What the norm reads going back in place of dy and x, which is written first, and what a kernel takes more; `own`:
    dy, x and dx."""
    dy, x, dx = own
    bias, other, dother, ds = beside
    given = x, dy, bias, x if other is None else other, dx if dother is None else dother, dy if ds is None else ds
    place = place_behind(around)
    if place == S_IN_DOTHER:
        x = dother
    elif place == DY_IN_DOTHER:
        dy = dother
    elif place == DY_IN_DX:  # but where x still lies there
        dy = np.empty_like(x) if _begin_at_once(dx, x) else dx
    return dy, x, given


def place_behind(around: Around) -> int:
    """Where s or dy of the norm alone is written; 0: nowhere."""
    if around.gate_first:
        return S_IN_DOTHER
    return 0 if not around.is_behind else DY_IN_DOTHER if around.behind == "add" else DY_IN_DX


def _begin_at_once(a: Array, b: Array) -> bool:
    return a.__array_interface__["data"][0] == b.__array_interface__["data"][0]
