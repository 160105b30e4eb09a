"""Kernels of images of whole numbers, of rows in groups, of lines along time, and of the largest deviations: how they
are had as machine code."""

from collections.abc import Callable
from functools import lru_cache
from math import prod
from typing import Any

import numba
import numpy as np
from numba.core import types

from normzoo.backends.contract import Array, Pass
from normzoo.backends.cpu.apart import call_of
from normzoo.backends.cpu.code import DOUBLE, FLAT, FLOAT
from normzoo.backends.cpu.kernels import following
from normzoo.backends.cpu.kernels import groups as grouped
from normzoo.backends.cpu.kernels import largest as furthest
from normzoo.backends.cpu.kernels import pixels as images
from normzoo.backends.cpu.kernels import pixels_of_own as owned
from normzoo.backends.cpu.parallel.sharing import POOL
from normzoo.backends.cpu.schedule import (
    CELL_PIECE,
    CELL_ROWS,
    LARGEST_PART,
    LARGEST_TURNS,
    OWN_IMAGES,
    STREAM_ALIGNMENT,
    STREAMED,
)
from normzoo.backends.cpu.vector.lanes import LANES, Flat
from normzoo.backends.forms import Cells, Following, Formula, Lines, Pixels

WHOLE = {name: Flat(getattr(types, name)) for name in ("uint8", "uint16", "int16")}
_DIMS, _INT = types.UniTuple(types.int64, 3), types.int64
_SINGLE = np.dtype(np.float32)


# -- images


@lru_cache(maxsize=256)
def pixel_sums(dims: Pixels, store: np.dtype, extremes: bool) -> Callable[[Array, float, float], Array]:
    """See the contract. Planes of channels are images of one channel."""
    b, n, c = (dims.b, dims.n, dims.c) if dims.last else (dims.b * dims.c, dims.n, 1)
    kernel = images.sums(store.itemsize == 1, extremes)
    call = call_of(kernel, (POOL, _DIMS, WHOLE[store.name], FLAT["float32"], FLAT[DOUBLE.name]), b * n * c)

    def run(x: Array, low: float, high: float) -> Array:
        found = np.empty((b, -(-n // images.PIECE), 2, c))
        call((b, n, c), x, np.array([low, high], np.float32), found)
        parts = (
            (found[:, :, 0].min(axis=1), found[:, :, 1].max(axis=1)) if extremes else found.sum(axis=1).swapaxes(0, 1)
        )
        return np.stack(tuple(parts)).reshape(2, dims.b, dims.c)

    return run


def tables_of(mean: Array, slope: Array) -> Array:
    """What `kernels/pixels.py` converts with, from means and slopes (b, c): (b, 4, 16 * c)."""
    steps = np.where(np.abs(mean - np.rint(mean)) < 2.0**-6, 1.0, 128.0)  # whole, or with seven digits behind the point
    near = np.rint(mean * steps) / steps
    high = slope.astype(np.float32)
    parts = near, high, slope - high, (near - mean) * slope
    once: Array = np.stack(parts, axis=1, dtype=np.float32, casting="same_kind")
    b, four, c = once.shape
    repeated = np.broadcast_to(once[:, :, None], (b, four, LANES, c)).reshape(b, four, LANES * c)
    return np.ascontiguousarray(repeated)


@lru_cache(maxsize=256)
def pixels(dims: Pixels, store: np.dtype, result: np.dtype) -> Pass:
    """See the contract."""
    turns = dims.last != dims.last_out and dims.c > 1
    flat = dims.last or turns
    b, n, c = (dims.b, dims.n, dims.c) if flat else (dims.b * dims.c, dims.n, 1)
    size = b * n * c
    in_order = (n if turns else n * c) * result.itemsize % STREAM_ALIGNMENT == 0 and not (turns and not dims.last)
    single = FLAT["float32"]
    signature = POOL, _DIMS, WHOLE[store.name], single, _INT, single, FLAT[result.name]

    def code(streams: bool) -> Any:
        return call_of(images.convert(turns, dims.last, streams), signature, size)

    calls = {False: code(False)}
    if in_order and size * result.itemsize >= STREAMED:
        calls[True] = code(True)

    def run(x: Array, mean: Array, slope: Array, bounds: tuple[float, float, float], y: Array) -> None:
        owners = len(mean) if flat else (b if len(mean) > 1 else dims.c)
        tables = tables_of(mean, slope) if flat else tables_of(mean.reshape(-1, 1), slope.reshape(-1, 1))
        if not flat and owners < b:
            tables = np.tile(tables, (dims.b, 1, 1))
        step = prod(tables.shape[1:]) if len(tables) > 1 else 0
        aligned = y.__array_interface__["data"][0] % STREAM_ALIGNMENT == 0
        calls[len(calls) > 1 and aligned]((b, n, c), x, tables, step, np.array(bounds, np.float32), y)

    return run


@lru_cache(maxsize=256)
def pixels_of_own(
    dims: Pixels, store: np.dtype, result: np.dtype, extremes: bool, joined: bool
) -> Callable[..., None] | None:
    """See the contract: where there are images for every thread."""
    if (dims.last != dims.last_out and dims.c > 1) or dims.b < OWN_IMAGES * numba.config.NUMBA_NUM_THREADS:  # type: ignore[attr-defined]
        return None
    b, n, c = (dims.b, dims.n, dims.c) if dims.last else (dims.b * dims.c, dims.n, 1)
    single, size = FLAT["float32"], b * n * c
    signature = (
        POOL,
        types.UniTuple(_INT, 4),
        WHOLE[store.name],
        single,
        FLOAT,
        FLAT[DOUBLE.name],
        single,
        FLAT[result.name],
    )

    def code(streams: bool) -> Any:
        return call_of(owned.own(store.itemsize == 1, extremes, joined, streams), signature, size)

    calls = {False: code(False)}
    if n * c * result.itemsize % STREAM_ALIGNMENT == 0 and size * result.itemsize >= STREAMED:
        calls[True] = code(True)

    def run(x: Array, bounds: tuple[float, float, float], eps: float, y: Array) -> None:
        found, tables = np.empty((b, -(-n // images.PIECE), 2, c)), np.empty((b, 4, LANES * c), np.float32)
        aligned = y.__array_interface__["data"][0] % STREAM_ALIGNMENT == 0
        call = calls[len(calls) > 1 and aligned]
        call((dims.b, b // dims.b, n, c), x, np.array(bounds, np.float32), eps, found, tables, y)

    return run


# -- groups


def table_of(starts: Array, most: int) -> Array:
    """Lines of at most so many rows, as the kernel takes them; they never have rows of two groups."""
    sizes = np.diff(starts)
    pieces = -(-sizes // most)
    owner = np.repeat(np.arange(len(sizes)), pieces)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    first = starts[owner] + number * most
    return np.stack([owner, first, np.minimum(first + most, starts[owner + 1])], axis=1).astype(np.int64)


def groups(starts: Array, c: int, formula: Formula, dtype: np.dtype, store: np.dtype) -> Callable[..., list[Array]]:
    """See the contract."""
    rows = max(CELL_ROWS, CELL_PIECE // c)  # of a line
    table = table_of(starts, rows)
    together = max(1, len(table) * CELL_PIECE // max(1, int(starts[-1]) * c))  # lines of a turn
    computed, size = DOUBLE if formula.wide else dtype, int(starts[-1]) * c

    def run(arrays: tuple[Array, ...], coefficients: tuple[Array, ...], results: tuple[Array, ...]) -> list[Array]:
        streams = size * store.itemsize >= STREAMED and c * store.itemsize % STREAM_ALIGNMENT == 0
        streams = streams and all(a.__array_interface__["data"][0] % STREAM_ALIGNMENT == 0 for a in results)
        call = _groups_code(formula, len(coefficients), streams, computed, store, size)
        owners = max([1, *(len(a) for a in coefficients)])
        given = np.empty((owners, max(1, len(coefficients)), c), computed)
        for k, a in enumerate(coefficients):
            given[:, k] = a
        planes = np.zeros((len(table), len(formula.sums), c))
        step = prod(given.shape[1:]) if owners > 1 else 0
        turns = -(-len(table) // together)
        call(turns, c, table, together, len(table), arrays, results, given, step, planes)
        found = np.add.reduceat(planes, np.searchsorted(table[:, 0], np.arange(len(starts) - 1)), axis=0)
        spans = zip(formula.sums, found.swapaxes(0, 1), strict=True)
        return [v.sum(axis=tuple(i for i, s in enumerate("bc") if s not in span), keepdims=True) for span, v in spans]

    return run


@lru_cache(maxsize=256)
def _groups_code(formula: Formula, count: int, streams: bool, computed: np.dtype, store: np.dtype, size: int) -> Any:
    flat, number = FLAT[store.name], FLAT[computed.name]
    arrays = types.UniTuple(flat, formula.reads), types.UniTuple(flat, formula.writes)
    signature = POOL, _INT, _INT, Flat(_INT), _INT, _INT, *arrays, number, _INT, FLAT[DOUBLE.name]
    return call_of(grouped.groups(formula, count, streams), signature, size)


# -- lines


def lines_together(dims: Lines) -> tuple[tuple[int, int, int], int]:
    """(b, t, n) as the kernel takes it: with time last all lines are one b's. And how often numbers are repeated."""
    return ((1, dims.t, dims.b * dims.n), dims.b) if dims.time_last else ((dims.b, dims.t, dims.n), 1)


def _three(numbers: Array, times: int) -> Array:
    """Numbers of the lines, (3, n)."""
    rest = np.zeros((3 - len(numbers), numbers.shape[1]))
    return np.tile(np.concatenate([numbers, rest]), times)


@lru_cache(maxsize=256)
def follow(dims: Lines, form: Following, store: np.dtype) -> Callable[..., Array]:
    """See the contract."""
    sizes, times = lines_together(dims)
    b, t, n = sizes
    double, flat = FLAT[DOUBLE.name], FLAT[store.name]
    signature = POOL, _DIMS, flat, double, flat, double, double, _INT, FLOAT, FLOAT
    call = call_of(following.forward(form.kind, dims.time_last), signature, prod(sizes))

    def run(x: Array, numbers: Array, state: Array, before: int, y: Array) -> Array:
        states = np.empty((b * -(-n // LANES), -(-t // LANES), 2, LANES))
        call(sizes, x, _three(numbers, times), y, states, state, before, form.rate, form.eps)
        return states

    return run


@lru_cache(maxsize=256)
def follow_back(dims: Lines, form: Following, store: np.dtype) -> Callable[..., Array]:
    """Likewise."""
    sizes, times = lines_together(dims)
    double, flat = FLAT[DOUBLE.name], FLAT[store.name]
    signature = POOL, _DIMS, flat, flat, double, double, flat, double, FLOAT, FLOAT
    call = call_of(following.backward(form.kind, dims.time_last), signature, prod(sizes))

    def run(dy: Array, x: Array, numbers: Array, states: Array, dx: Array) -> Array:
        sums = np.empty((4, sizes[0], sizes[2]))
        call(sizes, dy, x, _three(numbers, times), states, dx, sums, form.rate, form.eps)
        first, second, third, total = sums.reshape(4, -1, dims.n).sum(axis=1)
        if form.kind != "gain":
            return np.stack([first, second])
        _, bias, power = numbers
        rest = bias**power  # of which y is less: that has gradients, too
        of_power = np.multiply(rest, np.log(bias), out=np.zeros_like(bias), where=bias > 0)
        of_bias = np.divide(power * rest, bias, out=np.zeros_like(bias), where=bias > 0)
        return np.stack([first, second - total * of_bias, third - total * of_power])

    return run


# -- the largest deviations


@lru_cache(maxsize=256)
def largest(dims: Cells, k: int, store: np.dtype) -> Callable[[Array, Array], tuple[Array, Array]]:
    """See the contract. Each part of a channel finds as many; of these the k furthest are taken."""
    b, c, n, last = dims
    values = b * n * (c if last else 1)
    turns = LARGEST_TURNS if last else -(-LARGEST_TURNS // max(c, 1))
    parts = max(1, min(turns, values // LARGEST_PART))
    signature = POOL, _DIMS, _INT, _INT, FLAT[store.name], FLAT[DOUBLE.name], FLAT[DOUBLE.name], Flat(_INT)
    call = call_of(furthest.largest(last), signature, b * c * n)

    def run(x: Array, center: Array) -> tuple[Array, Array]:
        shape = (parts, c, k) if last else (c, parts, k)
        far: Array = np.full(shape, -1.0)
        places: Array = np.full(shape, -1)
        call((b, c, n), parts, k, x, np.ascontiguousarray(center), far, places)
        if last:
            far, places = far.swapaxes(0, 1), places.swapaxes(0, 1)
        far, places = far.reshape(c, -1), places.reshape(c, -1)
        order = np.lexsort((places, -far), axis=-1)[:, :k]
        places = np.sort(np.take_along_axis(places, order, axis=1), axis=1)
        channels, _ = np.nonzero(places >= 0)
        return channels, places[places >= 0]

    return run
