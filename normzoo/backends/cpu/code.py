"""The machine code for a view: the choice of the kernel file, of one thread or all; and its compilation.

The shape of a set decides between rows and columns. Results are bit-identical whether one thread processes a whole set
or threads share it; so statistics depend neither on the number of threads nor on the number of sets.
"""

import math
from collections.abc import Callable
from functools import cache, lru_cache, partial
from typing import Any, NamedTuple

import numba
import numpy as np
from numba.core import types

from normzoo.backends.around import ALONE, Around
from normzoo.backends.contract import CONSTANT, Array, Dims, Moments
from normzoo.backends.cpu.choice import APPLY, BACKWARD, FEW, FORWARD, choice, has_each, is_by_column
from normzoo.backends.cpu.compiling.jit import plain
from normzoo.backends.cpu.compiling.locks import uninterrupted
from normzoo.backends.cpu.kernels import columns_walk, rows_walk
from normzoo.backends.cpu.numba_internals.needed import machine_code
from normzoo.backends.cpu.parallel import threads
from normzoo.backends.cpu.parallel.sharing import POOL
from normzoo.backends.cpu.schedule import (
    APART_BYTES,
    FEW_SAMPLE,
    GROUP,
    HIGH_COLUMNS,
    SERIAL,
    SETS_PER_THREAD,
    SHORT_SET,
    SPLIT_SETS,
    STREAM_ALIGNMENT,
    STREAMED,
)
from normzoo.backends.cpu.vector.lanes import LANES, Flat

FLAT = {
    "float32": Flat(types.float32),
    "float64": Flat(types.float64),
    "float16": Flat(types.int16),  # Numba has no types for these: see lanes.py
    "bfloat16": Flat(types.uint16),
}
DOUBLE = np.dtype(np.float64)
FLOAT = types.float64
RESULT, RESULT_BACK = 3, 4  # which of the arrays is y, or dx
_DIMS = types.UniTuple(types.int64, 4)


class Compiled(NamedTuple):
    """The machine code of a kernel for arguments of certain types."""

    call: Callable  # bypasses Numba's dispatcher, which would check every argument again
    address: int  # for other compiled code; 0 if there is no machine code
    held: Any = None  # object that must live as long as the code


@lru_cache(maxsize=1024)
def compiled(kernel: Any, signature: tuple[types.Type, ...]) -> Compiled:
    """The machine code, loaded from the disk cache or compiled."""
    if plain(kernel) is kernel:  # Numba is switched off
        return Compiled(partial(_interpreted, kernel), 0)
    with uninterrupted():
        return Compiled(*machine_code(kernel, signature))


def _interpreted(kernel: Callable, *arguments: Any) -> None:
    """Run a kernel in Python, on flat views of its arrays."""
    with np.errstate(all="ignore"):
        kernel(*(a.reshape(-1) if isinstance(a, np.ndarray) else a for a in arguments))


class Code(NamedTuple):
    """The choice of the machine code for a view."""

    dims: Dims
    by_column: bool
    make: Callable[..., Any]  # makes the kernel, from flags and whether it writes past the caches
    in_order: bool  # does a thread write whole vectors, one after another?
    flags: tuple
    arrays: tuple[np.dtype, ...]
    result: int  # index of the array that has x's shape and is written
    scalars: tuple[types.Type, ...]
    around: Around = ALONE

    def call(self) -> Callable:
        """The code, on one thread or on all. If the result is larger than the caches and written in order, it bypasses
        them, provided that it is aligned."""
        size = math.prod(self.dims)

        @cache
        def code(past_caches: bool) -> Callable:  # each is compiled at first use
            call = self.compiled(past_caches).call
            return call if size <= SERIAL else threads.guarded(call, size)

        if not self.may_stream():
            return code(False)
        place = 3 + self.result  # behind the pool, dims and those of the parameters
        if self.around.residual:
            return lambda *given: code(_can_stream(given[place], given[3], given[-4], given[-3]))(*given)
        return lambda *given: code(_can_stream(given[place]))(*given)

    def may_stream(self) -> bool:
        """Is the result better written past the caches, where it is aligned?"""
        return self.in_order and math.prod(self.dims) * self.arrays[self.result].itemsize >= STREAMED

    def compiled(self, past_caches: bool) -> Compiled:
        signature = POOL, _DIMS, _DIMS, *(FLAT[a.name] for a in self.arrays), *self.scalars
        if self.around == ALONE:
            return compiled(self.make(*self.flags, past_caches), signature)
        of_x, of_bias = FLAT[self.arrays[self.result].name], FLAT[self.arrays[2].name]
        other = of_bias if self.around.behind == "learned" else of_x
        beside = (of_x, of_x, other, FLOAT) if self.result == RESULT else (of_x, of_x, of_bias, other, of_x, of_x)
        around = self.around._replace(is_short=self.arrays[self.result].itemsize == 2)
        return compiled(self.make(*self.flags, past_caches, around), signature + beside)


def _can_stream(y: Array, s: Array | None = None, *sources: Array) -> bool:
    """Do results begin where that can be? s is then written before its sources were read for the last time."""
    places = [a.__array_interface__["data"][0] for a in (y, s, *sources) if a is not None]
    return all(place % STREAM_ALIGNMENT == 0 for place in places[:2]) and (s is None or places[1] not in places[2:])


# Files of kernels are imported at first use: making their helpers takes milliseconds, and few programs need all.


def _few() -> Any:
    from normzoo.backends.cpu.kernels import few  # noqa: PLC0415

    return few


def _makers(by_column: bool) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """The files of forward kernels and of backward ones: those where a thread takes whole sets, and the others."""
    if by_column:
        from normzoo.backends.cpu.kernels import columns, columns_gradients, columns_split  # noqa: PLC0415

        return (columns, columns_split), (columns_gradients, columns_split)
    from normzoo.backends.cpu.kernels import rows, rows_gradients, rows_split  # noqa: PLC0415

    return (rows, rows_split), (rows_gradients, rows_split)


def forward_code(
    dims: Dims, parameter_dims: Dims, moments: Moments, dtype: np.dtype, store: np.dtype, around: Around = ALONE
) -> Code:
    chosen = choice(dims, parameter_dims, FORWARD, False, dtype == np.float32)
    arrays, scalars = (store, dtype, dtype, store, DOUBLE), (FLOAT, FLOAT, types.boolean)
    if chosen == FEW:
        flags = moments.center, moments.power, *few_flags(dims, parameter_dims)
        return Code(dims, False, _few().forward, False, flags, arrays, RESULT, scalars, around)
    by_column, spans = is_by_column(chosen)
    least = min(SPLIT_SETS, SETS_PER_THREAD * numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
    whole = _is_whole(dims, by_column, least, spans, store) and not _is_far_apart(dims, by_column, store)
    make = _makers(by_column)[0][not whole].forward
    return _code(dims, by_column, make, whole, moments, spans, (arrays, RESULT, scalars, around))


def apply_code(dims: Dims, parameter_dims: Dims, dtype: np.dtype, store: np.dtype, around: Around = ALONE) -> Code:
    chosen = choice(dims, parameter_dims, APPLY, True, dtype == np.float32)
    arrays = store, dtype, dtype, store, DOUBLE
    if chosen == FEW:
        flags = (parameter_dims[1] * parameter_dims[3] > 1,)
        return Code(dims, False, _few().apply, False, flags, arrays, RESULT, (), around)
    by_column, spans = is_by_column(chosen)
    in_order = _is_written_in_order(dims, by_column, False, spans, store) and not is_written_twice(around, RESULT)
    make = _makers(by_column)[0][1].apply
    return Code(dims, by_column, make, in_order, (spans,), arrays, RESULT, (), around)


def backward_code(
    dims: Dims, parameter_dims: Dims, moments: Moments, dtype: np.dtype, store: np.dtype, around: Around = ALONE
) -> Code:
    chosen = choice(dims, parameter_dims, BACKWARD, moments == CONSTANT, dtype == np.float32)
    arrays, scalars = (store, store, dtype, DOUBLE, store, dtype, dtype), (FLOAT, FLOAT)
    if chosen == FEW:
        flags = moments.center, moments.power, has_each(dims, parameter_dims), *few_flags(dims, parameter_dims)
        return Code(dims, False, _few().backward, False, flags, arrays, RESULT_BACK, scalars, around)
    by_column, spans = is_by_column(chosen)
    # if statistics are constants, threads that share sets read them once, in memory order
    few_sets = math.inf if moments == CONSTANT and not spans else SPLIT_SETS
    whole = _is_whole(dims, by_column, few_sets, spans, store)
    make = _makers(by_column)[1][not whole].backward
    code = _code(dims, by_column, make, whole, moments, spans, (arrays, RESULT_BACK, scalars, around))
    if whole and not by_column and spans == rows_walk.EACH and parameter_dims == dims:
        return code._replace(flags=(*code.flags[:2], code.flags[2] + rows_walk.OWN))
    return code


def _code(
    dims: Dims,
    by_column: bool,
    make: Callable[..., Any],
    whole: bool,  # does a thread process whole sets?
    moments: Moments,
    spans: int,
    given: tuple,  # arrays, result, scalars and around of a `Code`
) -> Code:
    arrays, result, _, around = given
    in_order = _is_written_in_order(dims, by_column, whole, spans, arrays[result])
    in_order = in_order and not is_written_twice(around, result)
    flags = moments.center, moments.power, spans + rows_walk.SHORT * is_short(dims, by_column, spans)
    return Code(dims, by_column, make, in_order, flags, *given)


def is_written_twice(around: Around, result: int) -> bool:
    """Is what comes before the sums written to the result's own memory, where they read it? s of a gate is, going
    forward, and dy of what is behind, going back; with a branch it is the branch's gradient."""
    if result == RESULT:
        return around.gate_first
    return around.is_behind and around.behind != "add"


def _is_written_in_order(dims: Dims, by_column: bool, whole: bool, spans: int, store: np.dtype) -> bool:
    """Does a thread write whole vectors, one after another? Jumping between pages is slower past the caches."""
    b, m, c, n = dims
    if by_column:
        view = plain(columns_walk.view_of)(dims, spans, store)
        in_vectors = view.columns % LANES == 0 and (b == 1 or m * c * n % LANES == 0)
        return in_vectors and not (whole and view.columns > plain(columns_walk.width_of)(view))
    return n % LANES == 0 and not (whole and m > 1 and c > 1)


def few_flags(dims: Dims, parameter_dims: Dims) -> tuple[bool, bool]:
    """Are the values that lanes run over adjacent? And are these samples of few columns? The direction of the lanes
    changes no bit of a set."""
    b, m, c, n = dims
    from normzoo.backends.cpu.kernels import few_tables  # noqa: PLC0415

    over = 1 < c < LANES and m > 1 and c < b and m * c * n <= FEW_SAMPLE and parameter_dims[0] == 1
    return over or plain(few_tables.step_of)(dims) != 1, over


def _is_whole(dims: Dims, by_column: bool, few: float, spans: int, store: np.dtype) -> bool:
    """Does a thread process whole sets? Otherwise all threads share every set, with bit-identical results: if there are
    fewer than `few` large sets."""
    b, m, c, n = dims
    if not by_column:
        m, n = (1, m * n) if spans == rows_walk.RUNS else (m, n)
        return plain(rows_walk.chunking)(m, n)[2] == 1 or b * c >= few
    view = plain(columns_walk.view_of)(dims, spans, store)
    width = plain(columns_walk.width_of)(view)
    tiles = -(-view.columns // width)
    return view.rows <= GROUP or (b * tiles >= few and view.rows * width <= HIGH_COLUMNS)


def _is_far_apart(dims: Dims, by_column: bool, store: np.dtype) -> bool:
    """Is a set too large for a level-2 cache, with runs that are not adjacent? Then a forward pass that reads x twice
    in memory order, and writes y past the caches, is faster than one set at a time. A backward pass reads two arrays
    twice."""
    _, m, c, n = dims
    if by_column or n % LANES or 1 in (m, c):
        return False
    return m * n * store.itemsize > APART_BYTES and math.prod(dims) * store.itemsize >= STREAMED


def is_short(dims: Dims, by_column: bool, spans: int) -> bool:
    """Is a set one short run, or processed as one?"""
    _, m, _, n = dims
    return not by_column and m * n <= SHORT_SET and (m == 1 or spans == rows_walk.RUNS)


def spread_of(dims: Dims, by_column: bool, parameter_dims: Dims) -> tuple[Dims, Callable[[Array], Array] | None]:
    """Parameters that vary along m must have one value for all columns or one for each: otherwise they are repeated."""
    pb, pm, pc, pn = parameter_dims
    _, _, c, n = dims
    if not by_column or pm == 1 or (pc, pn) in ((1, 1), (c, n)):
        return parameter_dims, None
    full = pb, pm, c, n
    return full, lambda p: np.ascontiguousarray(np.broadcast_to(p.reshape(parameter_dims), full))
