"""Kernels of what is no view (b, m, c, n): how windows, scans and cells are had as machine code."""

from collections.abc import Callable
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numba.core import types

from normzoo.backends import definitions
from normzoo.backends.contract import Array, Pass, Volume
from normzoo.backends.cpu.code import DOUBLE, FLAT, compiled
from normzoo.backends.cpu.compiling.jit import plain
from normzoo.backends.cpu.kernels import positions, responses, scans, smoothing
from normzoo.backends.cpu.kernels.cells import cells as cells_kernel
from normzoo.backends.cpu.kernels.cells_twice import cells_twice
from normzoo.backends.cpu.kernels.tuples import LINE
from normzoo.backends.cpu.kernels.tuples import ONE as NUMBER
from normzoo.backends.cpu.parallel import threads
from normzoo.backends.cpu.parallel.sharing import ALONE, POOL
from normzoo.backends.cpu.schedule import CELL_PIECE, CELL_ROWS, CELL_TURNS, SERIAL, STREAM_ALIGNMENT, STREAMED
from normzoo.backends.forms import Cells, Cumulation, Formula, Response, Twice, Window
from normzoo.backends.subnormals import LEAST, ONE, kept

MOST = {8: 1e140, 4: 1e18, 2: 1e18}  # by bytes of x: sums between this and its inverse are far from the ends of range


def call_of(kernel: Any, signature: tuple[types.Type, ...], values: int) -> Any:
    """The machine code of a kernel, whose first argument is left out: on one thread or on all, in any mode."""
    code = compiled(kernel, signature).call
    call = code if values <= SERIAL else threads.guarded(code, values)
    return lambda *given: (call if LEAST * ONE else kept(call))(ALONE, *given)


@lru_cache(maxsize=256)
def response(dims: Volume, form: Response, stores: tuple[np.dtype, ...], back: bool) -> Pass:
    """The pass, or the one back, over arrays of these dtypes."""
    make = responses.backward if back else responses.forward
    quarters = 4 * form.beta
    kernel = make(int(quarters) if quarters in (1, 2, 3, 4) else 0)
    flat = [FLAT[store.name] for store in stores]
    signature = POOL, types.UniTuple(types.int64, 3), types.UniTuple(types.int64, 2), *flat, FLAT[DOUBLE.name]
    call = call_of(kernel, signature, prod(dims))
    window = tuple(min(reach, dims[1] - 1) for reach in (form.before, form.after))
    numbers: Array = np.array([form.k, form.scale, form.beta, MOST[stores[0].itemsize]])
    return lambda *arrays: call(dims, window, *arrays, numbers)


@lru_cache(maxsize=256)
def window_means(dims: Volume, window: Window, back: bool) -> Callable[[Array], Array]:
    """Weighted means along an axis, or the way back; taps that meet no row are left out."""
    _, c, n = dims
    before, after = min(window.before, c - 1), min(len(window.taps) - 1 - window.before, c - 1)
    taps = np.array(window.taps[window.before - before : window.before + after + 1])
    equal = bool((taps == 1).all())
    factors = np.repeat(1 / definitions.inside_of(c, window), n)
    if back:
        before, after, taps = after, before, taps[::-1].copy()
    signature = POOL, types.UniTuple(types.int64, 3), types.UniTuple(types.int64, 2), *[FLAT[DOUBLE.name]] * 4
    call = call_of(smoothing.smooth(equal, back), signature, prod(dims))

    def run(v: Array) -> Array:
        found: Array = np.empty(dims)
        call(dims, (before, after), np.ascontiguousarray(v), taps, factors, found)
        return found

    return run


@lru_cache(maxsize=256)
def cumulate(batch: int, form: Cumulation, dtype: np.dtype, store: np.dtype) -> Callable[..., Array]:
    """The pass, by kernels where no sample has a unit of its own."""
    dims = batch, form.steps, form.channels, form.positions
    flat = [FLAT[kind.name] for kind in (store, dtype, dtype, store, DOUBLE, DOUBLE)]
    signature = POOL, types.UniTuple(types.int64, 4), *flat, types.int64, types.float64
    call = call_of(scans.forward(form.time_last), signature, prod(dims))

    def run(x: Array, weight: Array, bias: Array, eps: float, state: Array, before: int, y: Array) -> Array:
        if (state[0] != 1).any():
            return definitions.cumulate(form, x, weight, bias, eps, state, before, y)
        stats: Array = np.empty((2, batch, form.steps))
        call(dims, x, weight, bias, y, stats, state, before, eps)
        return stats

    return run


@lru_cache(maxsize=256)
def cumulate_back(batch: int, form: Cumulation, dtype: np.dtype, store: np.dtype) -> Pass:
    """The way back, likewise."""
    dims = batch, form.steps, form.channels, form.positions
    flat = [FLAT[kind.name] for kind in (store, store, dtype, DOUBLE, DOUBLE, store, DOUBLE)]
    signature = POOL, types.UniTuple(types.int64, 4), *flat
    call = call_of(scans.backward(form.time_last), signature, prod(dims))

    def run(*arrays: Array) -> None:
        dy, x, weight, stats, state, dx, dweight, dbias = arrays
        if (state[0] != 1).any():
            definitions.cumulate_back(form, *arrays)
            return
        sums = np.zeros((2, batch, form.channels * form.positions))
        call(dims, dy, x, weight, stats, state, dx, sums)
        dweight[...], dbias[...] = (definitions.of_channels(of_values.sum(axis=0), form) for of_values in sums)

    return run


def _over(dims: Volume, make: Any, *kinds: np.dtype) -> Any:
    """The kernel of positions for these arrays, which follow dims."""
    signature = POOL, types.UniTuple(types.int64, 3), *(FLAT[kind.name] for kind in kinds)
    return call_of(make(dims[2] == 1), signature, prod(dims))


@lru_cache(maxsize=256)
def position_moments(dims: Volume, store: np.dtype) -> Callable[[Array], Array]:
    """See the contract."""
    call = _over(dims, positions.moments, store, DOUBLE)

    def run(x: Array) -> Array:
        stats: Array = np.empty((2, dims[0], dims[2]))
        call(dims, x, stats)
        return stats

    return run


@lru_cache(maxsize=256)
def position_sums(dims: Volume, dtype: np.dtype, store: np.dtype) -> Callable[..., tuple[Array, Array]]:
    """Likewise."""
    call = _over(dims, positions.sums, store, store, dtype, DOUBLE, DOUBLE, DOUBLE)
    turns = plain(positions.turns_of)(dims)

    def run(dy: Array, x: Array, weight: Array, stats: Array) -> tuple[Array, Array]:
        means, sums = np.empty((2, dims[0], dims[2])), np.empty((turns, 2, dims[1]))
        call(dims, dy, x, weight, stats, means, sums)
        return means, sums.sum(axis=0)

    return run


@lru_cache(maxsize=256)
def position_gradient(dims: Volume, dtype: np.dtype, store: np.dtype) -> Pass:
    """Likewise."""
    call = _over(dims, positions.gradient, store, store, dtype, DOUBLE, DOUBLE, store)
    return lambda *arrays: call(dims, *arrays)


class Cuts(NamedTuple):
    """How cells are cut into lines, pieces of what has numbers of its own, and these into turns."""

    owners: int  # cells or, with channels last, b
    size: int  # values of a cell, or rows
    width: int  # of a row
    pieces: int  # of an owner
    length: int  # of a piece
    together: int  # lines of a turn

    @property
    def lines(self) -> int:
        return self.owners * self.pieces

    @property
    def turns(self) -> int:
        return -(-self.lines // self.together)


def cuts_of(dims: Cells, each: bool) -> Cuts:
    """`each`: there are sums of each cell. With channels last they are those of a turn, which then has one line."""
    if not dims.last:
        length = min(dims.n, CELL_PIECE)
        return Cuts(dims.b * dims.c, dims.n, 1, -(-dims.n // length), length, max(1, CELL_PIECE // length))
    rows = max(CELL_ROWS, -(-dims.b * dims.n // CELL_TURNS))  # of a turn
    length = min(dims.n, rows)
    return Cuts(dims.b, dims.n, dims.c, -(-dims.n // length), length, 1 if each else max(1, rows // length))


@lru_cache(maxsize=1024)
def cells(
    dims: Cells, formula: Formula | Twice, spans: tuple[str, ...], dtype: np.dtype, store: np.dtype
) -> Callable[..., list[Array]]:
    """See the contract."""
    first, last = (formula.first, formula.second) if isinstance(formula, Twice) else (formula, formula)
    kinds, sums = (tuple(LINE if dims.last and "c" in s else NUMBER for s in of) for of in (spans, first.sums))
    cuts = cuts_of(dims, dims.last and "bc" in first.sums)
    computed = DOUBLE if last.wide else dtype
    whole = dims.b, dims.c
    each = dims.last and any("b" in s and "c" in s for s in spans)
    long = prod(whole) * dims.n * store.itemsize >= STREAMED
    streams = long and (dims.c if dims.last else dims.n) * store.itemsize % STREAM_ALIGNMENT == 0
    if isinstance(formula, Twice) and not has_whole_sets(dims, formula):
        raise ValueError(f"expected sets that are not cut, of {formula.first.function.__name__}, got {dims}")

    def code(past_caches: bool) -> Any:
        make = cells_twice if isinstance(formula, Twice) else cells_kernel
        kernel = make(formula, kinds, sums, dims.last, past_caches)
        flat, number, double = FLAT[store.name], FLAT[computed.name], FLAT[DOUBLE.name]
        ints = types.int64, *(types.UniTuple(types.int64, 3),) * 2
        arrays = types.UniTuple(flat, first.reads), types.UniTuple(flat, last.writes)
        return call_of(
            kernel, (POOL, *ints, *arrays, number, number, types.int64, double, double), prod(whole) * dims.n
        )

    calls = {False: code(False)} | ({True: code(True)} if streams else {})

    def run(arrays: tuple[Array, ...], coefficients: tuple[Array, ...], results: tuple[Array, ...]) -> list[Array]:
        numbers = _numbers(coefficients, kinds, (dims.b, 1) if dims.last else whole, computed)
        lines = _lines(coefficients, kinds, (dims.b if each else 1, dims.c), computed)
        own: Array = np.empty((cuts.owners, cuts.pieces, sums.count(NUMBER)))
        planes = np.zeros((cuts.turns, sums.count(LINE), cuts.width))
        past = streams and all(a.__array_interface__["data"][0] % STREAM_ALIGNMENT == 0 for a in results)
        step = prod(lines.shape[1:]) if each else 0
        calls[past](cuts.turns, cuts[:3], cuts[3:], arrays, results, numbers, lines, step, own, planes)
        of_owners = own.sum(axis=1).reshape(*((dims.b, 1) if dims.last else whole), -1)
        of_columns = (
            planes.reshape(dims.b, cuts.pieces, -1, dims.c).sum(axis=1) if "bc" in first.sums and dims.last else planes
        )
        found, at = [], {NUMBER: 0, LINE: 0}
        for kind, span in zip(sums, first.sums, strict=True):
            v = of_owners[..., at[kind]] if kind == NUMBER else of_columns[:, at[kind]]
            at[kind] += 1
            found.append(definitions.kept(v, span))
        return found

    return run


def has_whole_sets(dims: Cells, form: Twice) -> bool:
    """Is a set, of which both formulas are in turn, one line; and are the sums those of sets?"""
    span = "b" if dims.last else "bc"
    ones = {letter for letter, size in (("b", dims.b), ("c", 1 if dims.last else dims.c)) if size > 1}
    fit = all(ones <= set(s) <= set(span) or (dims.last and "c" in s) for s in form.first.sums)
    return fit and cuts_of(dims, False).pieces == 1


def _numbers(coefficients: tuple[Array, ...], kinds: tuple[str, ...], shape: tuple[int, int], dtype: np.dtype) -> Array:
    """Those that are one number of each owner, side by side."""
    given = [a for a, kind in zip(coefficients, kinds, strict=True) if kind == NUMBER]
    found: Array = np.empty((*shape, max(1, len(given))), dtype)
    for i, a in enumerate(given):
        found[..., i] = a
    return found


def _lines(coefficients: tuple[Array, ...], kinds: tuple[str, ...], shape: tuple[int, int], dtype: np.dtype) -> Array:
    """The others, one behind the other."""
    given = [a for a, kind in zip(coefficients, kinds, strict=True) if kind == LINE]
    found: Array = np.empty((shape[0], max(1, len(given)), shape[1]), dtype)
    for i, a in enumerate(given):
        found[:, i] = a
    return found
