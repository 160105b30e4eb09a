"""The CPU backend: picks the kernel file, the schedule and one thread or all, once for all calls of a shape.

Rows or columns are chosen by the shape of a set; whether a thread takes whole sets or shares them cannot be seen in
the bits. So neither the number of threads nor the number of sets shows in the statistics.
"""

import math
from collections.abc import Callable
from functools import cache, lru_cache, partial
from typing import Any

import numba
import numpy as np
from numba.core import types

from normzoo import memory  # noqa: F401 (a backend says where its arrays come from)
from normzoo.backends.contract import CONSTANT, Apply, Array, Backward, Dims, Forward, Moments
from normzoo.backends.cpu import (
    columns,
    columns_gradients,
    columns_split,
    gathering,
    rows,
    rows_gradients,
    rows_split,
    running,
    threads,
)
from normzoo.backends.cpu.access import WHOLE
from normzoo.backends.cpu.jit import plain, uninterrupted
from normzoo.backends.cpu.lanes import LANES, Flat
from normzoo.backends.cpu.sharing import ALONE, POOL
from normzoo.subnormals import LEAST, ONE, kept

SERIAL = 65536  # values up to which starting the threads costs more than they save, or hardly less
FEW_SETS = 16  # fewer sets than this, each of several chunks, are worked on by all threads together;
PER_THREAD = 2  # going forward, fewer than this for each thread
SHORT = 256  # runs below this are folded columns, where there are several
RUN = 4  # and a run for every so many values of one: else what is done once a column is too much
WIDE = 1536  # columns of a tile from which on x and dy, of many runs, are too large for a level-2 cache
BESIDE = 1 << 20  # values of high columns that a thread reads twice, one sample after the other; larger ones are shared
STREAMED = 1 << 24  # bytes of a result, from which on it is written past the caches: they would not hold it
FAR = 1 << 20  # bytes of a set whose runs lie apart
LINE = 64  # bytes
TINY = 2  # values of a set whose gradient is a difference of almost equal terms

_FLAT = {
    "float32": Flat(types.float32),
    "float64": Flat(types.float64),
    "float16": Flat(types.int16),  # Numba has no types for these: see lanes.py
    "bfloat16": Flat(types.uint16),
}
_DOUBLE = np.dtype(np.float64)
_UNCOUNTED = np.array(0)  # the number of batches of who does not count them
updates_whole = True
_DIMS = types.UniTuple(types.int64, 4)


def forward(dims: Dims, parameter_dims: Dims, moments: Moments, dtype: np.dtype, store: np.dtype) -> Forward:
    b, m, c, n = dims
    clamp = moments.clamp
    by_column = is_columns(dims)
    flags = moments.center, moments.power, _varies(by_column, parameter_dims)
    arrays = store, dtype, dtype, store, _DOUBLE
    scalars = types.float64, types.float64, types.boolean
    makers = rows.forward, rows_split.forward, columns.forward, columns_split.forward
    few = min(FEW_SETS, PER_THREAD * numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
    whole = _is_whole(dims, by_column, few) and not _is_far_apart(dims, by_column, store)
    call = _code(dims, by_column, makers, whole, flags, arrays, 3, scalars)
    divisor = 1.0 if moments.total else float(m * n)
    shape, empty = (3, b, c), np.empty
    parameter_dims, spread = _spread(dims, by_column, parameter_dims)

    def run(x: Array, weight: Array, bias: Array, eps: float, y: Array) -> Array:
        stats = empty(shape)
        (call if LEAST * ONE else kept(call))(
            ALONE, dims, parameter_dims, x, weight, bias, y, stats, divisor, eps, clamp
        )
        return stats

    if spread is None:
        return run
    return lambda x, weight, bias, eps, y: run(x, spread(weight), spread(bias), eps, y)


def apply(dims: Dims, parameter_dims: Dims, dtype: np.dtype, store: np.dtype) -> Apply:
    arrays = store, dtype, dtype, store, _DOUBLE
    makers = None, rows_split.apply, None, columns_split.apply
    by_column = is_columns(dims)
    call = _code(dims, by_column, makers, False, (_varies(by_column, parameter_dims),), arrays, 3, ())
    parameter_dims, spread = _spread(dims, by_column, parameter_dims)

    def run(x: Array, stats: Array, weight: Array, bias: Array, y: Array) -> None:
        if spread is not None:
            weight, bias = spread(weight), spread(bias)
        (call if LEAST * ONE else kept(call))(ALONE, dims, parameter_dims, x, weight, bias, y, stats)

    return run


def backward(dims: Dims, parameter_dims: Dims, moments: Moments, dtype: np.dtype, store: np.dtype) -> Backward:
    _, m, _, n = dims
    if m * n <= TINY and dtype != _DOUBLE:
        return _backward_in_double(dims, parameter_dims, moments)
    by_column = is_columns(dims, True)
    flags = moments.center, moments.power, _varies(by_column, parameter_dims)
    makers = rows_gradients.backward, rows_split.backward, columns_gradients.backward, columns_split.backward
    arrays = store, store, dtype, _DOUBLE, store, dtype, dtype
    # where statistics are constants, threads that share sets read them once, in the order of memory
    whole = _is_whole(dims, by_column, math.inf if moments == CONSTANT else FEW_SETS)
    call = _code(dims, by_column, makers, whole, flags, arrays, 4, (types.float64, types.float64))
    divisor = 1.0 if moments.total else float(m * n)
    clamp = moments.clamp
    own_dims = parameter_dims
    parameter_dims, spread = _spread(dims, by_column, parameter_dims)

    def run(
        dy: Array, x: Array, stats: Array, weight: Array, eps: float, dx: Array, dweight: Array, dbias: Array
    ) -> None:
        limit = 1.0 / eps if clamp and eps > 0 else np.inf
        chosen = call if LEAST * ONE else kept(call)
        if spread is None:
            chosen(ALONE, dims, parameter_dims, dy, x, weight, stats, dx, dweight, dbias, divisor, limit)
            return
        d = np.empty((2, *parameter_dims), dtype)
        chosen(ALONE, dims, parameter_dims, dy, x, spread(weight), stats, dx, d[0], d[1], divisor, limit)
        axes = tuple(axis for axis in (2, 3) if own_dims[axis] == 1)
        dweight[...], dbias[...] = d.sum(axis=tuple(a + 1 for a in axes)).reshape(2, *dweight.shape)

    return run


def update(
    running_mean: Array, running_var: Array, stats: Array, count: int, momentum: float, batches: Array | None = None
) -> None:
    call = _update(running_mean.dtype, running_var.dtype)
    (call if LEAST * ONE else kept(call))(
        running_mean, running_var, _UNCOUNTED if batches is None else batches, stats, running_mean.size,
        stats.size // 3, count, momentum,
    )  # fmt: skip


def constants(mean: Array, variance: Array, eps: float, stats: Array) -> None:
    call = _constants(mean.dtype, variance.dtype)
    (call if LEAST * ONE else kept(call))(mean, variance, stats, mean.size, stats.size // 3, eps)


@lru_cache(maxsize=16)
def _update(mean: np.dtype, var: np.dtype) -> Callable:
    flat = _FLAT[mean.name], _FLAT[var.name], types.Array(types.int64, 0, "C"), _FLAT["float64"]
    return _compiled(running.update(), (*flat, types.int64, types.int64, types.int64, types.float64))


@lru_cache(maxsize=16)
def _constants(mean: np.dtype, variance: np.dtype) -> Callable:
    flat = _FLAT[mean.name], _FLAT[variance.name], _FLAT["float64"]
    return _compiled(running.constants(), (*flat, types.int64, types.int64, types.float64))


def take_rows(source: Array, index: Array, target: Array) -> None:
    source, target, streams = _lines(source, target)
    _gathering(gathering.take, target.nbytes >= SERIAL, streams)(ALONE, source, index, target)


def spread_rows(source: Array, place: Array, target: Array) -> None:
    source, target, streams = _lines(source, target)
    _gathering(gathering.spread, target.nbytes >= SERIAL, streams)(ALONE, source, place, target)


def _lines(source: Array, target: Array) -> tuple[Array, Array, bool]:
    """Rows of bytes as lines, which are written past the caches, where these would not hold them."""
    places = target.__array_interface__["data"][0] | target.shape[1]
    if target.nbytes < STREAMED or places % LINE:
        return source, target, False
    return source.view(np.float32), target.view(np.float32), True


@cache
def _gathering(make: Callable[[bool], Any], large: bool, streams: bool) -> Callable:
    kernel = make(streams)
    return threads.guarded(kernel) if large else kernel


def _code(
    dims: Dims,
    by_column: bool,
    makers: tuple[Callable[..., Any] | None, ...],  # of rows, of rows that threads share, of columns, of those shared
    whole: bool,  # does a thread take whole sets?
    flags: tuple,
    arrays: tuple[np.dtype, ...],
    result: int,  # which of the arrays is of x's shape and written
    scalars: tuple[types.Type, ...],
) -> Callable:
    """The machine code for a view. Where the result is more than caches hold and is written in order, it is written
    past them, if it begins where that can be.
    """
    size = math.prod(dims)
    make: Any = makers[2 * by_column + (not whole)]

    @cache
    def code(past_caches: bool) -> Callable:  # each is compiled when it is first needed
        return _call(make(*flags, past_caches), size, arrays, scalars)

    if size * arrays[result].itemsize < STREAMED or not _is_written_in_order(dims, by_column, whole):
        return code(False)
    place = 3 + result  # behind the pool, dims and those of the parameters
    return lambda *given: code(given[place].__array_interface__["data"][0] % WHOLE == 0)(*given)


def _is_written_in_order(dims: Dims, by_column: bool, whole: bool) -> bool:
    """Does a thread write whole vectors, one behind the other? What jumps between pages is slower past the caches."""
    _, m, c, n = dims
    if by_column:
        return c * n % LANES == 0 and not (whole and c * n > plain(columns.width_of)(dims))
    return n % LANES == 0 and not (whole and m > 1 and c > 1)


def _call(kernel: Any, size: int, arrays: tuple[np.dtype, ...], scalars: tuple[types.Type, ...]) -> Callable:
    """The machine code for a view of `size` values, on one thread or on all."""
    compiled = _compiled(kernel, (POOL, _DIMS, _DIMS, *(_FLAT[a.name] for a in arrays), *scalars))
    return compiled if size <= SERIAL else threads.guarded(compiled)


def is_columns(dims: Dims, gradients: bool = False) -> bool:
    """Do the column kernels take this view? Runs too short for the lanes are columns too, where there are several that
    lie apart: enough for what is done once a column and, of a backward pass, not so many that a tile of LANES sets is
    too large. Those that lie side by side are summed as one run in rows.py."""
    _, m, c, n = dims
    if n == 1:
        return True
    if gradients and min(c, LANES) * n > WIDE:
        return False
    return n < SHORT and n < RUN * m and m >= columns.STRIP and c > 1 and c * n >= LANES


def _is_whole(dims: Dims, by_column: bool, few: float) -> bool:
    """Does a thread take whole sets? Else all threads share every set, with the same bits: of fewer than `few` large
    ones."""
    b, m, c, n = dims
    if not by_column:
        return plain(rows.chunking)(m, n)[2] == 1 or b * c >= few
    width = plain(columns.width_of)(dims)
    tiles = -(-c * n // width)
    return m <= columns.GROUP or (b * tiles >= few and m * width <= BESIDE)


def _is_far_apart(dims: Dims, by_column: bool, store: np.dtype) -> bool:
    """Are sets too large for a level-2 cache, and of runs apart? Then a forward pass that reads x twice in the order of
    memory, and writes y past the caches, takes less than one set at a time. A backward pass reads two arrays twice."""
    _, m, c, n = dims
    if by_column or n % LANES or 1 in (m, c):
        return False
    return m * n * store.itemsize > FAR and math.prod(dims) * store.itemsize >= STREAMED


def _varies(by_column: bool, parameter_dims: Dims) -> bool:
    """Do the parameters vary along the axis that a kernel cannot take them out of: n of rows, m of columns?"""
    return parameter_dims[1 if by_column else 3] > 1


def _spread(dims: Dims, by_column: bool, parameter_dims: Dims) -> tuple[Dims, Callable[[Array], Array] | None]:
    """Columns whose parameters vary along m take one value for each or one for all: else they are repeated."""
    pb, pm, pc, pn = parameter_dims
    _, _, c, n = dims
    if not by_column or pm == 1 or (pc, pn) in ((1, 1), (c, n)):
        return parameter_dims, None
    full = pb, pm, c, n
    return full, lambda p: np.ascontiguousarray(np.broadcast_to(p.reshape(parameter_dims), full))


def _backward_in_double(dims: Dims, parameter_dims: Dims, moments: Moments) -> Backward:
    """1 - xhat^2 is almost 0: nothing of float32 would be left of dx, nor of statistics summed in float32."""
    exact = backward(dims, parameter_dims, moments, _DOUBLE, _DOUBLE)
    moments_of = None if moments == CONSTANT else forward(dims, parameter_dims, moments, _DOUBLE, _DOUBLE)

    def run(
        dy: Array, x: Array, stats: Array, weight: Array, eps: float, dx: Array, dweight: Array, dbias: Array
    ) -> None:
        found = [np.empty(a.shape) for a in (dx, dweight, dbias)]
        x, w = x.astype(_DOUBLE), weight.astype(_DOUBLE)
        if moments_of is not None:
            stats = moments_of(x, w, w, eps, found[0])
        exact(dy.astype(_DOUBLE), x, stats, w, eps, *found)
        with np.errstate(over="ignore"):
            for a, b in zip((dx, dweight, dbias), found, strict=True):
                a[...] = b

    return run


@lru_cache(maxsize=1024)
def _compiled(kernel: Any, signature: tuple[types.Type, ...]) -> Callable:
    """The machine code of a kernel for arguments of these types, loaded from the disk cache or compiled.

    It is called without Numba's dispatcher, which would look at every argument again.
    """
    if plain(kernel) is kernel:  # Numba is switched off
        return partial(_interpreted, kernel)
    with uninterrupted():
        kernel.compile(signature)
    return kernel.overloads[signature].entry_point


def _interpreted(kernel: Callable, *arguments: Any) -> None:
    """A kernel as Python runs it, on flat views of its arrays."""
    with np.errstate(all="ignore"):
        kernel(*(a.reshape(-1) if isinstance(a, np.ndarray) else a for a in arguments))
