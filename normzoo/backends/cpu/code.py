"""Which machine code works on a view: the kernel file, the schedule, one thread or all; and how it is had.

Rows or columns are chosen by the shape of a set; whether a thread takes whole sets or shares them cannot be seen in
the bits. So neither the number of threads nor the number of sets shows in the statistics.
"""

import math
from collections.abc import Callable
from functools import cache, lru_cache, partial
from typing import Any, NamedTuple

import numba
import numpy as np
from numba.core import types

from normzoo.backends.contract import CONSTANT, Array, Dims, Moments
from normzoo.backends.cpu.compiling.jit import plain
from normzoo.backends.cpu.compiling.locks import uninterrupted
from normzoo.backends.cpu.kernels import (
    columns,
    columns_gradients,
    columns_split,
    columns_walk,
    few,
    few_tables,
    rows,
    rows_gradients,
    rows_split,
    rows_walk,
)
from normzoo.backends.cpu.numba_internals.needed import machine_code
from normzoo.backends.cpu.parallel import threads
from normzoo.backends.cpu.parallel.sharing import POOL
from normzoo.backends.cpu.schedule import (
    APART_BYTES,
    FEW,
    FEW_APART,
    FEW_BACK,
    FEW_COLUMN,
    FEW_EACH,
    FEW_EACH_BACK,
    FEW_GIVEN,
    FEW_SAMPLE,
    FEW_SAMPLE_COLUMN,
    FOLDED_RUN,
    FOLDED_RUNS,
    FOLDED_TILE,
    GROUP,
    HIGH_COLUMNS,
    NEIGHBOUR_RUN,
    NEIGHBOUR_SET,
    SERIAL,
    SETS_PER_THREAD,
    SHORT_SET,
    SPLIT_SETS,
    STREAM_ALIGNMENT,
    STREAMED,
    STRIP,
)
from normzoo.backends.cpu.vector.lanes import LANES, Flat

FLAT = {
    "float32": Flat(types.float32),
    "float64": Flat(types.float64),
    "float16": Flat(types.int16),  # Numba has no types for these: see lanes.py
    "bfloat16": Flat(types.uint16),
}
DOUBLE = np.dtype(np.float64)
_DIMS = types.UniTuple(types.int64, 4)


class Compiled(NamedTuple):
    """The machine code of a kernel for arguments of certain types."""

    call: Callable  # without Numba's dispatcher, which would look at every argument again
    address: int  # for other compiled code; 0 where there is no machine code
    held: Any = None  # what lives as long as the code


@lru_cache(maxsize=1024)
def compiled(kernel: Any, signature: tuple[types.Type, ...]) -> Compiled:
    """Loaded from the disk cache, or compiled."""
    if plain(kernel) is kernel:  # Numba is switched off
        return Compiled(partial(_interpreted, kernel), 0)
    with uninterrupted():
        return Compiled(*machine_code(kernel, signature))


def _interpreted(kernel: Callable, *arguments: Any) -> None:
    """A kernel as Python runs it, on flat views of its arrays."""
    with np.errstate(all="ignore"):
        kernel(*(a.reshape(-1) if isinstance(a, np.ndarray) else a for a in arguments))


class Code(NamedTuple):
    """Which machine code works on a view."""

    dims: Dims
    by_column: bool
    make: Callable[..., Any]  # the kernel, by flags and whether it writes past the caches
    in_order: bool  # does a thread write whole vectors, one behind the other?
    flags: tuple
    arrays: tuple[np.dtype, ...]
    result: int  # which of the arrays is of x's shape and written
    scalars: tuple[types.Type, ...]

    def call(self) -> Callable:
        """The code, on one thread or on all. Where the result is more than caches hold and is written in order, it is
        written past them, if it begins where that can be."""
        size = math.prod(self.dims)

        @cache
        def code(past_caches: bool) -> Callable:  # each is compiled when it is first needed
            call = self.compiled(past_caches).call
            return call if size <= SERIAL else threads.guarded(call, size)

        if size * self.arrays[self.result].itemsize < STREAMED or not self.in_order:
            return code(False)
        place = 3 + self.result  # behind the pool, dims and those of the parameters
        return lambda *given: code(given[place].__array_interface__["data"][0] % STREAM_ALIGNMENT == 0)(*given)

    def compiled(self, past_caches: bool) -> Compiled:
        signature = POOL, _DIMS, _DIMS, *(FLAT[a.name] for a in self.arrays), *self.scalars
        return compiled(self.make(*self.flags, past_caches), signature)


def forward_code(dims: Dims, parameter_dims: Dims, moments: Moments, dtype: np.dtype, store: np.dtype) -> Code:
    by_column = is_columns(dims)
    arrays, scalars = (store, dtype, dtype, store, DOUBLE), (types.float64, types.float64, types.boolean)
    if dtype == np.float32 and is_few(dims, few_forward(dims, parameter_dims)):
        flags = moments.center, moments.power, *few_flags(dims, parameter_dims)
        return Code(dims, False, few.forward, False, flags, arrays, 3, scalars)
    makers = rows.forward, rows_split.forward, columns.forward, columns_split.forward
    least = min(SPLIT_SETS, SETS_PER_THREAD * numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
    spans = spans_of(dims, by_column, parameter_dims)
    whole = _is_whole(dims, by_column, least, spans, store) and not _is_far_apart(dims, by_column, store)
    return _code(dims, by_column, makers, whole, moments, spans, (arrays, 3, scalars))


def apply_code(dims: Dims, parameter_dims: Dims, dtype: np.dtype, store: np.dtype) -> Code:
    by_column = is_columns(dims)
    makers = rows_split.apply, columns_split.apply
    arrays = store, dtype, dtype, store, DOUBLE
    if dtype == np.float32 and not by_column and dims[1] * dims[3] <= FEW_GIVEN:
        flags = (parameter_dims[1] * parameter_dims[3] > 1,)
        return Code(dims, False, few.apply, False, flags, arrays, 3, ())
    spans = spans_of(dims, by_column, parameter_dims)
    in_order = _is_written_in_order(dims, by_column, False, spans, store)
    return Code(dims, by_column, makers[by_column], in_order, (spans,), arrays, 3, ())


def backward_code(dims: Dims, parameter_dims: Dims, moments: Moments, dtype: np.dtype, store: np.dtype) -> Code:
    by_column = is_columns(dims, True)
    arrays, scalars = (store, store, dtype, DOUBLE, store, dtype, dtype), (types.float64, types.float64)
    if dtype == np.float32 and is_few(dims, few_back(dims, parameter_dims)) and not (by_column and moments == CONSTANT):
        flags = moments.center, moments.power, has_each(dims, parameter_dims), *few_flags(dims, parameter_dims)
        return Code(dims, False, few.backward, False, flags, arrays, 4, scalars)
    makers = rows_gradients.backward, rows_split.backward, columns_gradients.backward, columns_split.backward
    spans = spans_of(dims, by_column, parameter_dims, True)
    # where statistics are constants, threads that share sets read them once, in the order of memory
    few_sets = math.inf if moments == CONSTANT and not spans else SPLIT_SETS
    whole = _is_whole(dims, by_column, few_sets, spans, store)
    return _code(dims, by_column, makers, whole, moments, spans, (arrays, 4, scalars))


def _code(
    dims: Dims,
    by_column: bool,
    makers: tuple[Callable[..., Any], ...],  # of rows, of rows that threads share, of columns, of those shared
    whole: bool,  # does a thread take whole sets?
    moments: Moments,
    spans: int,
    given: tuple,  # arrays, result and scalars of a `Code`
) -> Code:
    arrays, result, _ = given
    in_order = _is_written_in_order(dims, by_column, whole, spans, arrays[result])
    flags = moments.center, moments.power, spans + rows_walk.SHORT * is_short(dims, by_column, spans)
    return Code(dims, by_column, makers[2 * by_column + (not whole)], in_order, flags, *given)


def _is_written_in_order(dims: Dims, by_column: bool, whole: bool, spans: int, store: np.dtype) -> bool:
    """Does a thread write whole vectors, one behind the other? What jumps between pages is slower past the caches."""
    b, m, c, n = dims
    if by_column:
        view = plain(columns_walk.view_of)(dims, spans, store)
        in_vectors = view.columns % LANES == 0 and (b == 1 or m * c * n % LANES == 0)
        return in_vectors and not (whole and view.columns > plain(columns_walk.width_of)(view))
    return n % LANES == 0 and not (whole and m > 1 and c > 1)


def is_few(dims: Dims, most: int) -> bool:
    """Do the kernels of few values, of `most` in a set, take this view? They compute float32."""
    _, m, c, n = dims
    if n == 1 and m > 1 and c > 1:
        return m <= FEW_COLUMN or (m <= FEW_SAMPLE_COLUMN and m * c <= FEW_SAMPLE)
    return m * n <= most or (m * n <= FEW_APART and n < LANES and m > 1 and c > 1)


def few_forward(dims: Dims, parameter_dims: Dims) -> int:
    """Values of a set that `few.py` takes going forward."""
    return FEW_EACH if has_each(dims, parameter_dims) else FEW


def few_back(dims: Dims, parameter_dims: Dims) -> int:
    """And going back."""
    return FEW_EACH_BACK if has_each(dims, parameter_dims) else FEW_BACK


def has_each(dims: Dims, parameter_dims: Dims) -> bool:
    """Has each value of a set parameters of its own?"""
    return parameter_dims[1] * parameter_dims[3] == dims[1] * dims[3]


def few_flags(dims: Dims, parameter_dims: Dims) -> tuple[bool, bool]:
    """Do the values of what lanes run over lie beside each other? And are that samples of few columns? Where lanes run
    changes no bit of a set."""
    b, m, c, n = dims
    over = 1 < c < LANES and m > 1 and c < b and m * c * n <= FEW_SAMPLE and parameter_dims[0] == 1
    return over or plain(few_tables.step_of)(dims) != 1, over


def is_columns(dims: Dims, gradients: bool = False) -> bool:
    """Do the column kernels take this view? Runs too short for the lanes are columns too, where there are several that
    lie apart: enough for what is done once a column and, of a backward pass, not so many that a tile of LANES sets is
    too large. Those that lie side by side are summed as one run in rows.py."""
    _, m, c, n = dims
    if n == 1:
        return True
    if gradients and min(c, LANES) * n > FOLDED_TILE:
        return False
    return n < FOLDED_RUN and n < FOLDED_RUNS * m and m >= STRIP and c > 1


def _is_whole(dims: Dims, by_column: bool, few: float, spans: int, store: np.dtype) -> bool:
    """Does a thread take whole sets? Else all threads share every set, with the same bits: of fewer than `few` large
    ones."""
    b, m, c, n = dims
    if not by_column:
        m, n = (1, m * n) if spans == rows_walk.RUNS else (m, n)
        return plain(rows_walk.chunking)(m, n)[2] == 1 or b * c >= few
    view = plain(columns_walk.view_of)(dims, spans, store)
    width = plain(columns_walk.width_of)(view)
    tiles = -(-view.columns // width)
    return view.rows <= GROUP or (b * tiles >= few and view.rows * width <= HIGH_COLUMNS)


def _is_far_apart(dims: Dims, by_column: bool, store: np.dtype) -> bool:
    """Are sets too large for a level-2 cache, and of runs apart? Then a forward pass that reads x twice in the order of
    memory, and writes y past the caches, takes less than one set at a time. A backward pass reads two arrays twice."""
    _, m, c, n = dims
    if by_column or n % LANES or 1 in (m, c):
        return False
    return m * n * store.itemsize > APART_BYTES and math.prod(dims) * store.itemsize >= STREAMED


def spans_of(dims: Dims, by_column: bool, parameter_dims: Dims, gradients: bool = False) -> int:
    """Do the parameters vary along the axis that a kernel cannot take them out of: n of rows, m of columns? Or are runs
    that lie side by side too short to be worked on one by one?"""
    _, m, c, n = dims
    _, pm, _, pn = parameter_dims
    is_short = n < LANES or (gradients and n < NEIGHBOUR_RUN and m * n <= NEIGHBOUR_SET)
    if not by_column and c == 1 and m > 1 and (pm > 1 or pn > 1) and is_short:
        return rows_walk.RUNS
    return rows_walk.EACH if (pm if by_column else pn) > 1 else rows_walk.ONE


def is_short(dims: Dims, by_column: bool, spans: int) -> bool:
    """Is a set one short run, or worked on as one?"""
    _, m, _, n = dims
    return not by_column and m * n <= SHORT_SET and (m == 1 or spans == rows_walk.RUNS)


def spread_of(dims: Dims, by_column: bool, parameter_dims: Dims) -> tuple[Dims, Callable[[Array], Array] | None]:
    """Columns whose parameters vary along m take one value for each or one for all: else they are repeated."""
    pb, pm, pc, pn = parameter_dims
    _, _, c, n = dims
    if not by_column or pm == 1 or (pc, pn) in ((1, 1), (c, n)):
        return parameter_dims, None
    full = pb, pm, c, n
    return full, lambda p: np.ascontiguousarray(np.broadcast_to(p.reshape(parameter_dims), full))
