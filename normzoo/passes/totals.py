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


# by which of the axes, outermost first, a parameter spans: axes that follow each other are one
LAYOUTS: dict[tuple[bool, ...], Callable[..., Cells]] = {
    (): lambda: Cells(1, 1, 1, False),
    (False,): lambda n: Cells(1, 1, n, False),
    (True,): lambda c: Cells(1, c, 1, True),
    (True, False): lambda c, n: Cells(1, c, n, False),
    (False, True): lambda n, c: Cells(1, c, n, True),
    (False, True, False): lambda b, c, n: Cells(b, c, n, False),
    (True, False, True): lambda b, n, c: Cells(b, c, n, True),
}


def cells_in(dims: Dims, parameter_dims: Dims) -> Cells | None:
    """The view as cells whose sums a parameter gets, of channels or, where their b is not 1 and they are last, of each
    cell; None where axes alternate more often."""
    pb, *spanned = parameter_dims
    sizes = (dims[0] // pb, pb, *dims[1:])
    axes = zip((False, True, *(p > 1 for p in spanned)), sizes, strict=True)
    runs = [
        (spans, prod(size for _, size in group))
        for spans, group in groupby((axis for axis in axes if axis[1] != 1), lambda axis: axis[0])
    ]
    found = LAYOUTS.get(tuple(spans for spans, _ in runs))
    return None if found is None else found(*(size for _, size in runs))


@lru_cache(maxsize=256)
def totals(name: str, dims: Dims, parameter_dims: Dims, store: np.dtype) -> Callable[[Array], Array]:
    """The function from such an array to its sums, (pb, pm, pc, pn) float64."""
    found = cells_in(dims, parameter_dims) if prod(dims) else None
    if found is None:
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
