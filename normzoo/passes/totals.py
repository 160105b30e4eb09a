"""Sums over what the view of a parameter (pb, pm, pc, pn) does not span, of arrays in the view (b, m, c, n)."""

from collections.abc import Callable
from functools import lru_cache
from itertools import groupby
from math import prod
from typing import Any

import numpy as np

from normzoo.backends import backend
from normzoo.backends.contract import Array, Dims
from normzoo.backends.forms import Cells, Formula
from normzoo.passes.arrays import compute_dtype


def _itself(v: Any) -> tuple[Any, ...]:
    return (v,)


OF_CHANNELS, OF_CELLS = Formula(_itself, 1, 0, ("c",)), Formula(_itself, 1, 0, ("bc",))


def cells_in(dims: Dims, parameter_dims: Dims) -> Cells | None:
    """The view as cells whose sums a parameter gets, of channels or, where their b is not 1 and they are last, of each
    cell; None where axes alternate too often."""
    b, *inner = dims
    pb, *spanned = parameter_dims
    sizes = (b // pb, pb, *inner)
    kept = (False, *(p > 1 or n == 1 for p, n in zip((pb, *spanned), sizes[1:], strict=True)))
    axes = [(k, size) for k, size in zip(kept, sizes, strict=True) if size != 1]
    runs = [(k, prod(size for _, size in group)) for k, group in groupby(axes, lambda axis: axis[0])]
    match [k for k, _ in runs], [size for _, size in runs]:
        case [], []:
            return Cells(1, 1, 1, False)
        case [False], [n]:
            return Cells(1, 1, n, False)
        case [True], [c]:
            return Cells(1, c, 1, c > 1)
        case [True, False], [c, n]:
            return Cells(1, c, n, False)
        case [False, True], [n, c]:
            return Cells(1, c, n, True)
        case [False, True, False], [rows, c, n]:
            return Cells(rows, c, n, False)
        case [True, False, True], [rows, n, c]:
            return Cells(rows, c, n, True)
    return None


@lru_cache(maxsize=256)
def totals(name: str, dims: Dims, parameter_dims: Dims, store: np.dtype) -> Callable[[Array], Array]:
    """The function from such an array to its sums, (pb, pm, pc, pn) float64."""
    found = cells_in(dims, parameter_dims)
    if found is None or not prod(dims):
        pb, *spanned = parameter_dims
        along = (0, *(2 + i for i, p in enumerate(spanned) if p == 1))

        def reduced(d: Array) -> Array:
            split = d.reshape(dims[0] // max(pb, 1), pb, *dims[1:])
            return np.add.reduce(split, along, np.float64).reshape(parameter_dims)

        return reduced
    formula = OF_CELLS if found.last and found.b > 1 else OF_CHANNELS
    run = backend(name).cells(found, formula, (), compute_dtype(store), store)

    def summed(d: Array) -> Array:
        return run((d,), (), ())[0].reshape(parameter_dims)

    return summed
