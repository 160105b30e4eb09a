"""Kernels of tables of data, and how they are had as machine code."""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numba.core import types

from normzoo.backends.contract import Array, Volume
from normzoo.backends.cpu.apart import call_of
from normzoo.backends.cpu.code import DOUBLE, FLAT
from normzoo.backends.cpu.compiling.jit import plain
from normzoo.backends.cpu.kernels import tables
from normzoo.backends.cpu.parallel.sharing import POOL
from normzoo.backends.cpu.schedule import STREAM_ALIGNMENT, STREAMED, TABLE_ROWS
from normzoo.backends.cpu.vector.lanes import LANES, Flat
from normzoo.backends.forms import Rescaling, Summary

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
def _rescale(how: Rescaling, store: np.dtype, values: int, streams: bool) -> Any:
    flat, double = FLAT[store.name], FLAT[DOUBLE.name]
    return call_of(tables.rescale(*how, streams), (POOL, DIMS, flat, INT, double, flat, double), values)


@lru_cache(maxsize=256)
def rescale(dims: Volume, store: np.dtype, how: Rescaling) -> Callable[..., bool]:
    """See the contract. Of columns that have numbers of their own and are no whole vectors, as many rows are taken as
    one as it needs for whole ones; rows that are left over are rescaled apart."""
    rows, columns, sets = dims
    wider = 1 if how.chosen or how.by_row else LANES // math.gcd(columns, LANES)
    whole = rows // wider
    parts = [(0, whole, wider)] if whole else []
    if rows % wider:
        parts.append((whole * wider, rows % wider, 1))

    def run(x: Array, chosen: Array, numbers: Array, y: Array) -> bool:
        x, y, all_finite = x.reshape(-1), y.reshape(-1), True
        for first, high, times in parts:
            width = columns * times
            room = 1 if how.by_row else plain(tables.room_of)(width)
            padded, finite = np.zeros((5, sets, room)), np.empty(-(-high // TABLE_ROWS))
            wide = numbers if how.by_row else np.tile(numbers, times)
            padded[: len(numbers), :, : wide.shape[2]] = wide
            to = y[first * columns :]
            long = high * width * store.itemsize >= STREAMED and width % LANES == 0
            place, source = (a.__array_interface__["data"][0] for a in (to, x[first * columns :]))
            streams = long and place % STREAM_ALIGNMENT == 0 and place != source  # in place it is in the caches
            call = _rescale(how, store, 1 << max(0, high * width - 1).bit_length(), streams)
            call((high, width, sets), x[first * columns :], chosen, padded, to, finite)
            all_finite = all_finite and not np.isnan(finite).any()
        return all_finite

    return run
