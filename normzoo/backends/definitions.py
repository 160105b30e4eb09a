"""What the reference has beside the view (b, m, c, n): windows, in NumPy, float64 inside."""

from collections.abc import Callable
from typing import Any

import numpy as np

from normzoo.backends.contract import Array, Pass, Response


def of(dims: tuple[int, ...], formula: Callable[..., Array], form: Any) -> Pass:
    """The pass over arrays of which the last is written: `formula` of the others in float64."""

    @np.errstate(all="ignore")
    def run(*arrays: Array) -> None:
        *read, result = arrays
        result.reshape(dims)[...] = formula(*(a.reshape(dims).astype(np.float64) for a in read), form)

    return run


def response(x: Array, form: Response) -> Array:
    return x * _base(x, form) ** -form.beta


def response_back(dy: Array, x: Array, form: Response) -> Array:
    base = _base(x, form)
    g = dy * base**-form.beta
    shared = window_sum(g * x / base, form.after, form.before, axis=1)
    return g - 2 * form.beta * form.scale * x * shared


def _base(x: Array, form: Response) -> Array:
    return form.k + form.scale * window_sum(x * x, form.before, form.after, axis=1)


def window_sum(v: Array, before: int, after: int, taps: Array | None = None, axis: int = -1) -> Array:
    """Sum of v over i - before ... i + after along an axis, zeros outside; weighed by `taps`, if given."""
    v = np.moveaxis(v, axis, -1)
    length = v.shape[-1]
    total = v.copy() if taps is None else v * taps[before]
    for shift in range(1, min(max(before, after), length - 1) + 1):
        if shift <= before:
            total[..., shift:] += v[..., :-shift] if taps is None else v[..., :-shift] * taps[before - shift]
        if shift <= after:
            total[..., :-shift] += v[..., shift:] if taps is None else v[..., shift:] * taps[before + shift]
    return np.moveaxis(total, -1, axis)
