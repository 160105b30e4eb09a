"""Scaling to unit p-norm, documented in `normzoo.functional.normalize`. Orders 2 and 1 run on the backends, without a
mean, with totals and a clamped eps; any other order is computed by NumPy in float64, on every backend."""

import math
from typing import Any

import numpy as np

from normzoo.backends.contract import Array, Moments
from normzoo.passes.arrays import check_masks, once
from normzoo.passes.form import Form
from normzoo.passes.formulas import unit
from normzoo.passes.normalize import normalize
from normzoo.passes.numbers import check_axis, check_number
from normzoo.passes.overlaps import check_out
from normzoo.passes.saved import PulledBack, empty_in_layout, layout_of
from normzoo.passes.view import Axes

OWNER = "normalize"
MOMENTS = {p: Moments(center=False, power=p, total=True, clamp=True) for p in (1, 2)}


@once
def letters(owner: object, x: Array, axes: tuple[int, ...]) -> Axes:
    return Axes(x.shape, "".join("r" if i in axes else "k" for i in range(x.ndim)))


def lp_normalize(
    x: Array, p: float, dim: int | tuple[int, ...], eps: float, out: Array | None, keep: bool
) -> tuple[Array, Any]:
    p = check_number(OWNER, "p", p)
    given = tuple(dim) if isinstance(dim, tuple | list) else (dim,)
    axes = tuple(check_axis(OWNER, a, x.ndim, "dim") for a in given) or tuple(range(x.ndim))
    if len(set(axes)) != len(axes):
        raise ValueError(f"{OWNER}: expected dim with different axes, got {dim}")
    if p in (1, 2):
        y, _, saved = normalize(
            Form(OWNER, letters(OWNER, x, axes), MOMENTS[int(p)], eps), x, None, None, out, keep=keep
        )
        return y, saved
    check_masks(OWNER, "x", x, takes=False)
    if out is not None:
        check_out(OWNER, out, x.shape, x.dtype, (x,))
    y = empty_in_layout(x.shape, x.dtype, layout_of(x)) if out is None else out
    if x.size == 0:
        return y, PulledBack(OWNER, x, lambda dy: {"x": dy})
    v = x.astype(np.float64, order="C")
    with np.errstate(all="ignore"):
        one = unit(v, axes, eps)  # the norm of subnormal values is subnormal, and its inverse exceeds float64
        scaled = v * one
        norm, slope = length(scaled, p, axes)
        inverse = 1 / np.maximum(norm, eps * one)
        inverse[~(norm > 0) & (eps == 0)] = 0
        y[...] = scaled * inverse
        factor = inverse * one
        slope[np.broadcast_to(norm <= eps * one, v.shape)] = 0

    def pull(dy: Array) -> dict[str, Array]:
        along = (dy * v).sum(axis=axes, keepdims=True) * factor
        return {"x": factor * (dy - slope * along)}

    return y, PulledBack(OWNER, x, pull)


def length(v: Array, p: float, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """The p-norm of v over `axes` (kept with size 1), and its derivative by every value: 0 in a zero set; for inf, ties
    share it."""
    size = np.abs(v)
    largest = size.max(axis=axes, keepdims=True)
    if math.isinf(p):
        norm = largest if p > 0 else size.min(axis=axes, keepdims=True)
        ties = size == norm
        return norm, np.sign(v) * ties / ties.sum(axis=axes, keepdims=True)
    if p == 0:
        return (size != 0).sum(axis=axes, keepdims=True).astype(np.float64), np.zeros_like(v)
    norm = largest * ((size / largest) ** p).sum(axis=axes, keepdims=True) ** (1 / p)
    norm[largest == 0] = 0
    return norm, np.where(v == 0, 0.0, np.sign(v) * (size / norm) ** (p - 1))
