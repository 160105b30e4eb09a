"""Kernels of tables of data, and how they are had as machine code."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numba.core import types

from normzoo.backends.contract import Array, Rescaling, Summary, Volume
from normzoo.backends.cpu.apart import call_of
from normzoo.backends.cpu.code import DOUBLE, FLAT
from normzoo.backends.cpu.compiling.jit import plain
from normzoo.backends.cpu.kernels import tables
from normzoo.backends.cpu.parallel.sharing import POOL
from normzoo.backends.cpu.schedule import TABLE_ROWS
from normzoo.backends.cpu.vector.lanes import Flat

INT, DIMS = Flat(types.int64), types.UniTuple(types.int64, 3)


@lru_cache(maxsize=256)
def _summary(summary: Summary, store: np.dtype, values: int) -> Any:
    picks, weighs, skips = summary[1:]
    kernel = tables.extremes(picks) if summary.extremes else tables.moments(picks, weighs, skips)
    flat, double = FLAT[store.name], FLAT[DOUBLE.name]
    return call_of(kernel, (POOL, DIMS, flat, INT, INT, double, double), values)


def summarize(columns: int, summary: Summary, store: np.dtype) -> Callable[..., Array]:
    """See the contract."""
    room = plain(tables.room_of)(columns)

    def run(x: Array, pitch: int, parts: Array, order: Array, weights: Array) -> Array:
        found: Array = np.empty((len(parts), tables.PLANES, room))
        values = int(parts[:, 1].sum()) * columns
        call = _summary(summary, store, 1 << max(0, values - 1).bit_length())  # of about as many
        call((columns, pitch, len(parts)), x, parts, order, weights, found)
        return found[:, :3, :columns]

    return run


@lru_cache(maxsize=256)
def rescale(dims: Volume, store: np.dtype, how: Rescaling) -> Callable[..., bool]:
    """See the contract."""
    rows, columns, sets = dims
    flat, double = FLAT[store.name], FLAT[DOUBLE.name]
    call = call_of(tables.rescale(*how), (POOL, DIMS, flat, INT, double, flat, double), rows * columns)
    room = 1 if how.by_row else plain(tables.room_of)(columns)

    def run(x: Array, chosen: Array, numbers: Array, y: Array) -> bool:
        padded, finite = np.zeros((5, sets, room)), np.empty(-(-rows // TABLE_ROWS))
        padded[: len(numbers), :, : numbers.shape[2]] = numbers
        call(dims, x, chosen, padded, y, finite)
        return not np.isnan(finite).any()

    return run
