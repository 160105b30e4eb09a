"""Kernels of series: levels that are taken away, and windows of steps: how they are had as machine code."""

from collections.abc import Callable
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
from numba.core import types

from normzoo.backends import definitions, definitions_of_series
from normzoo.backends.contract import Array
from normzoo.backends.cpu.apart import call_of
from normzoo.backends.cpu.code import DOUBLE, FLAT
from normzoo.backends.cpu.kernels import levels, levels_gradients, sliding
from normzoo.backends.cpu.outside import lines_together
from normzoo.backends.cpu.parallel.sharing import POOL
from normzoo.backends.cpu.schedule import CELL_PIECE, LEVEL_VALUES, LEVEL_WIDTH
from normzoo.backends.cpu.vector.lanes import LANES
from normzoo.backends.forms import Cells, Level, Lines, Sliding
from normzoo.backends.memory import empty

_DIMS, _INT = types.UniTuple(types.int64, 3), types.int64
_LIMITS = types.UniTuple(types.float64, 4)
ENDS = {8: (1e-100, 1e150), 4: (0.0, 1e30)}  # by bytes of the type: the least deviation whose square is exact, and the
# most that leaves room for products


def turns_of(dims: Cells) -> tuple[int, int]:
    """How many there are, and the columns of a turn or, where lanes run along cells, its cells."""
    if not dims.last:
        together = max(1, CELL_PIECE // dims.n)
        return -(-dims.b * dims.c // together), together
    width = max(LEVEL_WIDTH, LEVEL_VALUES // dims.n // LANES * LANES)
    return dims.b * -(-dims.c // width), width


@lru_cache(maxsize=256)
def level(dims: Cells, form: Level, dtype: np.dtype, store: np.dtype) -> Callable[..., tuple[Array, bool]]:
    """See the contract."""
    sizes, double = (dims.b, dims.n, dims.c), FLAT[DOUBLE.name]
    flat = [FLAT[kind.name] for kind in (store, dtype if form.mapped else store, dtype, dtype, store)]
    signature = POOL, _INT, _INT, _DIMS, _LIMITS, *flat, double, double
    call = call_of(levels.forward(dims.last, form.mapped, form.outside), signature, prod(sizes))
    (turns, width), limits = turns_of(dims), (form.divisor, form.eps, *ENDS[dtype.itemsize])

    def run(x: Array, maps: Array, weight: Array, bias: Array, y: Array) -> tuple[Array, bool]:
        stats, far = empty((3, dims.b, dims.c), DOUBLE), np.empty(turns)
        call(turns, width, sizes, limits, x, maps if form.mapped else x, weight, bias, y, stats, far)
        return stats, not far.any()

    return run


@lru_cache(maxsize=256)
def level_back(dims: Cells, form: Level, dtype: np.dtype, store: np.dtype) -> Callable[..., Any]:
    """Likewise."""
    sizes, double, number = (dims.b, dims.n, dims.c), FLAT[DOUBLE.name], FLAT[dtype.name]
    flat = [FLAT[kind.name] for kind in (store, store, dtype if form.mapped else store, dtype, DOUBLE, store)]
    signature = POOL, _INT, _INT, _DIMS, _LIMITS, *flat, double, number, double
    call = call_of(levels_gradients.backward(dims.last, form.mapped, form.outside), signature, prod(sizes))
    (turns, width), limits = turns_of(dims), (form.divisor, form.eps, *ENDS[dtype.itemsize])
    last: Any = None
    if form.mapped:
        last = call_of(
            levels_gradients.maps_back(dims.last), (POOL, _INT, _DIMS, FLAT[store.name], number, double), prod(sizes)
        )

    def run(
        dy: Array, x: Array, maps: Array, weight: Array, stats: Array, dx: Array
    ) -> tuple[Array, Array | None, bool]:
        sums, far = empty((2, dims.b, dims.c), DOUBLE), np.empty(turns)
        of_levels = np.empty(sums.shape[1:] if form.mapped else (1,), dtype)
        call(turns, width, sizes, limits, dy, x, maps if form.mapped else x, weight, stats, dx, sums, of_levels, far)
        if not form.mapped:
            return sums, None, not far.any()
        of_maps = np.empty((dims.n, dims.c) if dims.last else (dims.c, dims.n))
        last(len(of_maps), sizes, x, of_levels, of_maps)
        return sums, of_maps, not far.any()

    return run


# -- windows


def _near(form: Sliding, dims: Lines) -> Sliding:
    """Windows that are no longer than the lines."""
    return form._replace(before=min(form.before, dims.t - 1), after=min(form.after, dims.t - 1))


def _is_far(x: Array, dims: Lines, form: Sliding) -> bool:
    """Does a line of float64 need a unit of its own?"""
    if x.dtype.itemsize < DOUBLE.itemsize:
        return False
    v = definitions_of_series.lines_of(x, dims)
    ends = np.stack([v.max(axis=1), v.min(axis=1)])
    return bool((definitions.unit(ends, 0, form.eps**0.5) != 1).any())


@lru_cache(maxsize=256)
def slide(dims: Lines, form: Sliding, store: np.dtype) -> Callable[..., None]:
    """See the contract."""
    sizes, times = lines_together(dims)
    turns = sizes[0] * -(-sizes[2] // LANES)
    near, flat, double = _near(form, dims), FLAT[store.name], FLAT[DOUBLE.name]
    signature = POOL, _INT, _DIMS, types.UniTuple(types.int64, 3), flat, double, flat, types.float64
    call = call_of(sliding.forward(dims.time_last), signature, prod(sizes))

    def run(x: Array, numbers: Array, first: int, y: Array) -> None:
        if _is_far(x, dims, form):
            definitions_of_series.slide(dims, form, x, numbers, first, y)
            return
        call(turns, sizes, (near.before, near.after, first % near.window), x, np.tile(numbers, times), y, form.eps)

    return run


@lru_cache(maxsize=256)
def slide_back(dims: Lines, form: Sliding, store: np.dtype) -> Callable[..., Array]:
    """Likewise."""
    sizes, times = lines_together(dims)
    turns = sizes[0] * -(-sizes[2] // LANES)
    near, flat, double = _near(form, dims), FLAT[store.name], FLAT[DOUBLE.name]
    signature = POOL, _INT, _DIMS, types.UniTuple(types.int64, 2), flat, flat, double, flat, double, types.float64
    call = call_of(sliding.backward(dims.time_last), signature, prod(sizes))

    def run(dy: Array, x: Array, numbers: Array, dx: Array) -> Array:
        if _is_far(x, dims, form):
            return definitions_of_series.slide_back(dims, form, dy, x, numbers, dx)
        sums = np.empty((2, sizes[0], sizes[2]))
        call(turns, sizes, (near.before, near.after), dy, x, np.tile(numbers, times), dx, sums, form.eps)
        return sums.reshape(2, -1, dims.n).sum(axis=1)

    return run
