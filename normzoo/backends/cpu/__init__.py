"""The CPU backend: a callable for each pass, made once for all calls with the same shape; `code.py` chooses the
kernel."""

import math
from collections.abc import Callable
from functools import cache, lru_cache
from itertools import starmap
from typing import Any

import numba
import numpy as np
from numba.core import types

from normzoo.backends import memory as host_memory
from normzoo.backends.around import ALONE, NOTHING, NOTHING_BACK, Around, Beside, BesideBack
from normzoo.backends.at_once import at_once, has_gil
from normzoo.backends.contract import (
    Apply,
    Array,
    Backward,
    Dims,
    Forward,
    Kind,
    Moments,
    Sampler,
    Shortcut,
    State,
)
from normzoo.backends.cpu.beside import before, behind, level_spread, place_before, place_behind
from normzoo.backends.cpu.code import FLAT, Code, Compiled, apply_code, backward_code, compiled, forward_code, spread_of
from normzoo.backends.cpu.fastcall import objects, shortcut
from normzoo.backends.cpu.kernels import gathering, running
from normzoo.backends.cpu.of_no_view import OfNoView
from normzoo.backends.cpu.parallel import threads
from normzoo.backends.cpu.parallel.sharing import ALONE as NO_POOL
from normzoo.backends.cpu.parallel.sharing import POOL
from normzoo.backends.cpu.schedule import LINE, SERIAL, SMALL, STREAMED
from normzoo.backends.cpu.vector.lanes import Flat
from normzoo.backends.samples import SAMPLES, places_in
from normzoo.backends.subnormals import LEAST, ONE, kept

_UNCOUNTED = np.array(0)  # a dummy number of batches, if none is passed


class CPU(OfNoView):
    memory = host_memory
    updates_whole = not numba.config.DISABLE_JIT  # type: ignore[attr-defined]

    def forward(
        self, dims: Dims, parameter_dims: Dims, moments: Moments, dtype: np.dtype, store: np.dtype,
        around: Around = ALONE,
    ) -> Forward:  # fmt: skip
        clamp, around = moments.clamp, around._replace(ds=False)
        alone = around == ALONE
        code = forward_code(dims, parameter_dims, moments, dtype, store, around)
        call = code.call()
        divisor = _divisor(dims, moments)
        shape, empty = (3, dims[0], dims[2]), np.empty
        parameter_dims, spread = spread_of(dims, code.by_column, parameter_dims)

        def run(x: Array, weight: Array, bias: Array, eps: float, y: Array, beside: Beside = NOTHING) -> Array:
            stats = empty(shape)
            chosen = call if LEAST * ONE else kept(call)
            if alone:
                chosen(NO_POOL, dims, parameter_dims, x, weight, bias, y, stats, divisor, eps, clamp)
            else:
                s, more = before(around, x, y, beside)
                chosen(NO_POOL, dims, parameter_dims, s, weight, bias, y, stats, divisor, eps, clamp, *more)
            return stats

        if spread is None:
            return run
        level = level_spread(around, spread)
        return lambda x, weight, bias, eps, y, beside=NOTHING: run(
            x, spread(weight), spread(bias), eps, y, level(beside)
        )

    def apply(
        self, dims: Dims, parameter_dims: Dims, dtype: np.dtype, store: np.dtype, around: Around = ALONE
    ) -> Apply:
        around = around._replace(ds=False)
        alone = around == ALONE
        code = apply_code(dims, parameter_dims, dtype, store, around)
        call = code.call()
        parameter_dims, spread = spread_of(dims, code.by_column, parameter_dims)
        level = level_spread(around, spread)

        def run(x: Array, stats: Array, weight: Array, bias: Array, y: Array, beside: Beside = NOTHING) -> None:
            if spread is not None:
                weight, bias, beside = spread(weight), spread(bias), level(beside)
            chosen = call if LEAST * ONE else kept(call)
            s, more = (x, ()) if alone else before(around, x, y, beside)
            chosen(NO_POOL, dims, parameter_dims, s, weight, bias, y, stats, *more)

        return run

    def backward(
        self, dims: Dims, parameter_dims: Dims, moments: Moments, dtype: np.dtype, store: np.dtype,
        around: Around = ALONE,
    ) -> Backward:  # fmt: skip
        around = around._replace(residual=False)
        alone = around == ALONE
        code = backward_code(dims, parameter_dims, moments, dtype, store, around)
        call = code.call()
        divisor = _divisor(dims, moments)
        clamp = moments.clamp
        own_dims = parameter_dims
        parameter_dims, spread = spread_of(dims, code.by_column, parameter_dims)
        level = level_spread(around, spread)

        def run(  # noqa: PLR0913 (as the contract has it)
            dy: Array, x: Array, stats: Array, weight: Array, eps: float, dx: Array, dweight: Array, dbias: Array,
            beside: BesideBack = NOTHING_BACK,
        ) -> None:  # fmt: skip
            limit = 1.0 / eps if clamp and eps > 0 else np.inf
            chosen = call if LEAST * ONE else kept(call)
            more: tuple = ()
            if not alone:
                bias = weight if beside.bias is None else beside.bias
                beside = level(beside._replace(bias=spread(bias) if spread else bias))
                dy, x, more = behind(around, (dy, x, dx), beside)
            if spread is None:
                chosen(NO_POOL, dims, parameter_dims, dy, x, weight, stats, dx, dweight, dbias, divisor, limit, *more)
                return
            d = np.empty((2, *parameter_dims), dtype)
            own = dy, x, spread(weight), stats, dx, d[0], d[1]
            chosen(NO_POOL, dims, parameter_dims, *own, divisor, limit, *more)
            axes = tuple(axis for axis in (2, 3) if own_dims[axis] == 1)
            dweight[...], dbias[...] = d.sum(axis=tuple(a + 1 for a in axes)).reshape(2, *dweight.shape)

        return run

    def forward_shortcut(
        self, dims: Dims, parameter_dims: Dims, moments: Moments, dtype: np.dtype, store: np.dtype,
        kinds: tuple[Kind | None, ...], around: Around = ALONE,
    ) -> Shortcut | None:  # fmt: skip
        code = forward_code(dims, parameter_dims, moments, dtype, store, around._replace(ds=False))
        x, weight, bias, mean, var = kinds
        words = _words(code, moments, parameter_dims, x, (weight is not None, bias is not None))
        if around.behind == "learned":  # a block has no room for a third parameter
            return None
        if words is None or (mean is not None and not has_gil()):  # only the interpreter's lock keeps other threads out
            return None
        words[shortcut.BEFORE] = place_before(around)
        if mean is not None and var is not None:
            words |= {
                shortcut.UPDATE: _update_code(mean[1], var[1]),
                shortcut.UNCOUNTED: _UNCOUNTED,
                shortcut.CHANNELS: math.prod(mean[0]),
                shortcut.VALUES: dims[1] * dims[3],
            }
        count = (), _UNCOUNTED.dtype, 0
        beside = x if around.residual else None, x if around.behind or around.gate_first else None
        read, written = (x, weight, bias), (mean, var, count)
        wanted = [*((k, shortcut.READY) for k in read), *((k, shortcut.STATE) for k in written)]
        wanted += ((k, shortcut.READY) for k in beside)
        return shortcut.bound(_forward_call(around != ALONE), words, wanted)

    def backward_shortcut(
        self, dims: Dims, parameter_dims: Dims, moments: Moments, dtype: np.dtype, store: np.dtype,
        dy: Kind, given: tuple[bool, bool], around: Around = ALONE,
    ) -> Shortcut | None:  # fmt: skip
        around = around._replace(residual=False)
        code = backward_code(dims, parameter_dims, moments, dtype, store, around)
        words = _words(code, moments, parameter_dims, dy, given)
        if words is None or around.behind == "learned":
            return None
        words[shortcut.BEFORE] = place_behind(around)
        wanted = (dy, shortcut.READY), (dy if around.ds else None, shortcut.READY)
        return shortcut.bound(_backward_call(around != ALONE), words, wanted)

    def compile_shortcuts(self, backward: bool, around: bool = False) -> None:
        _forward_call(around)
        if backward:
            _backward_call(around)

    def sampler(self, sizes: tuple[int, ...], store: np.dtype, weight: Kind | None) -> Sampler | None:
        places = np.array([_seen(sizes, store), _seen(*weight[:2]) if weight else _seen((), store)], np.int64)
        raw, words = Flat(types.uint8), Flat(types.int64)
        made, empty = compiled(shortcut.samples(), (raw, raw, words, words)), np.empty
        if not made.address:
            return None
        call, shape = made.call, (2 if weight else 1) * SAMPLES

        def samples(x: Array, weight: Array | None) -> bytes:
            out = empty(shape)
            call(x, x if weight is None else weight, places, out)
            return out.tobytes()

        return samples

    def update(
        self, mean: Array, var: Array, stats: Array, count: int, momentum: float | None, batches: Array | None = None
    ) -> None:
        call = _update_code(mean.dtype, var.dtype, momentum is None).call
        counter = _UNCOUNTED if batches is None else batches
        given = mean, var, counter, stats, mean.size, stats.size // 3, count, momentum or 0.0
        (at_once if LEAST * ONE else kept(at_once))(starmap(call, (given,)))

    def constants(self, mean: Array, variance: Array, eps: float, stats: Array) -> int:
        call, negative = _constants(mean.dtype, variance.dtype), np.empty((), _UNCOUNTED.dtype)
        (call if LEAST * ONE else kept(call))(mean, variance, stats, negative, mean.size, eps)
        return negative.item()

    def observe(self, x: Array, state: State, batch: Array, stats: Array, prior: float, eps: float) -> bool:
        call, usual, (count, *moments) = _observing(x.dtype), np.empty((), np.int64), state
        sizes = x.size // moments[0].size, moments[0].size
        given = x, count, tuple(moments), batch, stats, usual, sizes, (prior, eps)
        (at_once if LEAST * ONE else kept(at_once))(starmap(call, (given,)))
        return usual.item() == 1

    def take_in(self, state: State, batch: Array, n: int) -> bool:
        usual, (count, *moments) = np.empty((), np.int64), state
        given = count, tuple(moments), batch, usual, (n, moments[0].size)
        (at_once if LEAST * ONE else kept(at_once))(starmap(_taking_in(), (given,)))
        return usual.item() == 1

    def spread_rows(self, source: Array, place: Array, target: Array) -> None:
        """Copy rows of bytes. Rows of whole cache lines bypass the caches, if the caches could not hold the result."""
        places = target.__array_interface__["data"][0] | target.shape[1]
        streams = target.nbytes >= STREAMED and places % LINE == 0
        if streams:
            source, target = source.view(np.float32), target.view(np.float32)
        call = _gathering(target.nbytes >= SERIAL, streams)
        call(NO_POOL, source, np.ascontiguousarray(place, np.int64), target, *target.shape)


def _divisor(dims: Dims, moments: Moments) -> float:
    return 1.0 if moments.total else float(dims[1] * dims[3])


def _forward_call(around: bool) -> Callable:
    return compiled(shortcut.forward(around), (objects.OBJECT,) * (14 if around else 10)).call


def _backward_call(around: bool) -> Callable:
    return compiled(shortcut.backward(around), (objects.OBJECT,) * (12 if around else 8)).call


def _words(
    code: Code, moments: Moments, parameter_dims: Dims, like: Kind | None, given: tuple[bool, bool]
) -> dict[int, Any] | None:
    """The part of a block that describes the kernel, if the pass is small and compiled code can run it on its arrays
    without conversion; else None. `like` is the kind of the result; `given`: are there a weight and a bias?"""
    if like is None or math.prod(code.dims) > SMALL or len(like[0]) > shortcut.AXES or not objects.is_as_expected():
        return None
    around, (weighted, biased) = code.around, given
    reads_bias = around.is_behind and biased  # going back
    parameters = (parameter_dims if there else () for there in (weighted, reads_bias))
    seen = [*_seen(code.dims, like[1]), *(word for sizes in parameters for word in _seen(sizes, code.arrays[2]))]
    parameter_dims, spread = spread_of(code.dims, code.by_column, parameter_dims)
    kernel = code.compiled(False)
    if spread is not None or not kernel.address:
        return None
    return {
        shortcut.NEW: np.empty,
        shortcut.GIVEN: like[:2],
        shortcut.CODE: kernel,
        shortcut.DIVISOR: _divisor(code.dims, moments),
        shortcut.CLAMP: int(moments.clamp),
        shortcut.INTS: [*code.dims, *parameter_dims],
        shortcut.SEEN: seen,
        shortcut.BEHIND: int(reads_bias or around.behind != "" or around.gate_first),
        shortcut.ONES: np.ones(parameter_dims, code.arrays[2]),
        shortcut.ZEROS: np.zeros(parameter_dims, code.arrays[2]),
        shortcut.SETS: code.dims[0] * code.dims[2],
    }


def _seen(sizes: tuple[int, ...], dtype: np.dtype) -> list[int]:
    """The part of a block that describes samples of an array of these sizes; () means that there is no array."""
    size = dtype.itemsize if sizes else 0
    return [size, *(size * i for i in places_in(math.prod(sizes)).tolist())]


@lru_cache(maxsize=16)
def _update_code(mean: np.dtype, var: np.dtype, average: bool = False) -> Compiled:
    flat = FLAT[mean.name], FLAT[var.name], Flat(types.int64), FLAT["float64"]
    return compiled(running.update(average), (*flat, types.int64, types.int64, types.int64, types.float64))


@lru_cache(maxsize=16)
def _constants(mean: np.dtype, variance: np.dtype) -> Callable:
    flat = FLAT[mean.name], FLAT[variance.name], FLAT["float64"], Flat(types.int64)
    return compiled(running.constants(), (*flat, types.int64, types.float64)).call


@lru_cache(maxsize=16)
def _observing(x: np.dtype) -> Callable:
    whole, double = Flat(types.int64), FLAT["float64"]
    sizes, numbers = types.UniTuple(types.int64, 2), types.UniTuple(types.float64, 2)
    signature = FLAT[x.name], whole, types.UniTuple(double, 3), double, double, whole, sizes, numbers
    _taking_in()  # which a step needs, too, is compiled as early
    return compiled(running.observe(), signature).call


@lru_cache(maxsize=1)
def _taking_in() -> Callable:
    whole, double, sizes = Flat(types.int64), FLAT["float64"], types.UniTuple(types.int64, 2)
    return compiled(running.take_in(), (whole, types.UniTuple(double, 3), double, whole, sizes)).call


@cache
def _gathering(large: bool, streams: bool) -> Callable:
    rows = Flat(types.float32 if streams else types.uint8)
    call = compiled(gathering.spread(streams), (POOL, rows, Flat(types.int64), rows, types.int64, types.int64)).call
    return threads.guarded(call) if large else call
