"""The contract on device arrays: plans, allocations and launches. Everything that depends only on shapes is cached.

Every call uses one of two plans: for arrays that begin at multiples of 16 bytes, or for others.
"""

from functools import lru_cache
from math import inf, prod
from typing import Any

import numpy as np
from numba.cuda import types

from normzoo.backends.contract import CONSTANT, Apply, Backward, Dims, Forward, Moments
from normzoo.backends.cuda import backward_kernels, driver, forward_kernels, merging
from normzoo.backends.cuda.arrays import ALIGNED_TO, DeviceArray, empty
from normzoo.backends.cuda.forms import Plan, cells_of, entries_of, fold_of, inverse_counts, plan, rows_size
from normzoo.backends.cuda.geometry import DIMS, PARAMS, WARP

TINY = 2  # values of a set whose gradient is a difference of almost equal terms
_DOUBLE = np.dtype(np.float64)
_POINTERS = {
    "float16": types.CPointer(types.int16),
    "bfloat16": types.CPointer(types.uint16),
    "float32": types.CPointer(types.float32),
    "float64": types.CPointer(types.float64),
}
_P64 = _POINTERS["float64"]
_I, _F = types.int64, types.float64


def _launch(kernel: Any, signature: tuple, grid: int | tuple[int, int], block: int, stream: int, args: tuple) -> None:
    grid = (grid, 1) if isinstance(grid, int) else grid
    values = tuple(a.address if isinstance(a, DeviceArray) else a for a in args)
    driver.current().launch(kernel, signature, grid, block, 0, stream, values)


def _is_aligned(*arrays: DeviceArray) -> bool:
    return all(a.address % ALIGNED_TO == 0 for a in arrays)


def _blocks(work: int, each: int) -> int:
    return -(-work // each)


@lru_cache(maxsize=1024)
def _plan(dims: Dims, parameter_dims: Dims, dtype: np.dtype, store: np.dtype, aligned: bool, what: str) -> Plan:
    return plan(dims, parameter_dims, dtype.name, store.itemsize, aligned, what)


def _spread(parameter: DeviceArray, plan_: Plan, parameter_dims: Dims) -> DeviceArray:
    """A parameter repeated along c or n, if columns need that."""
    if not plan_.spread:
        return parameter
    (_, _, c, n), (pb, pm, _, _) = plan_.view
    made = empty((pb, pm, c, n), parameter.dtype, parameter.stream)
    made[...] = parameter.reshape(parameter_dims)
    return made


def forward(dims: Dims, parameter_dims: Dims, moments: Moments, dtype: np.dtype, store: np.dtype) -> Forward:
    b, m, c, n = dims
    center, power, total, clamp = moments
    divisor = 1.0 if total else float(m * n)
    place, number = _POINTERS[store.name], _POINTERS[dtype.name]

    def whole(p: Plan, x: Any, weight: Any, bias: Any, eps: float, y: Any, stats: Any) -> None:
        kernel = forward_kernels.forward(p.form, center, power, clamp)
        signature = place, number, number, place, _P64, DIMS, PARAMS, _I, _F, _F, _F
        args = x, weight, bias, y, stats, p.dims, p.params, p.width, 1.0 / (m * n), 1.0 / divisor, eps
        _launch(kernel, signature, _blocks(p.work, p.form.teams), p.form.threads, x.stream, args)

    def pieces(p: Plan, x: Any, weight: Any, bias: Any, eps: float, y: Any, stats: Any) -> None:
        grid, entries = _blocks(p.work, p.form.teams), entries_of(p, b * c)
        form = p.form._replace(varies="set")
        partial = empty((2, p.pieces, p.places), _DOUBLE, x.stream)
        # 1 moments
        signature: tuple = (place, _P64, DIMS, PARAMS, _I, _F, _F, _F)
        args: tuple = x, partial, p.dims, p.params, p.width, *inverse_counts(p), eps
        _launch(forward_kernels.pieces(form, center, power, clamp), signature, grid, form.threads, x.stream, args)
        for around in (False, True) if power == 1 and center else (False,):
            if around:
                signature = place, _P64, _P64, DIMS, PARAMS, _I, _I
                args = x, stats, partial, p.dims, p.params, p.width, b * c
                _launch(forward_kernels.deviations(form), signature, grid, form.threads, x.stream, args)
            kernel = merging.merge(power, center, clamp, around)
            signature = _P64, _P64, merging.ENTRIES, _F, _F
            blocks = _blocks(b * c, merging.LANES // WARP)
            _launch(kernel, signature, blocks, merging.LANES, x.stream, (partial, stats, entries, divisor, eps))
        # 2 normalize
        _apply(p, place, number, x, stats, weight, bias, y, b * c)

    def run(x: Any, weight: Any, bias: Any, eps: float, y: Any) -> Any:
        p = _plan(dims, parameter_dims, dtype, store, _is_aligned(x, weight, bias, y), "forward")
        stats = empty((3, b, c), _DOUBLE, x.stream)
        weight, bias = _spread(weight, p, parameter_dims), _spread(bias, p, parameter_dims)
        (whole if p.whole else pieces)(p, x, weight, bias, float(eps), y, stats)
        return stats

    return run


def _apply(p: Plan, place: Any, number: Any, x: Any, stats: Any, weight: Any, bias: Any, y: Any, sets: int) -> None:
    signature = place, _P64, number, number, place, DIMS, PARAMS, _I, _I
    args = x, stats, weight, bias, y, p.dims, p.params, p.width, sets
    _launch(forward_kernels.apply(p.form), signature, _blocks(p.work, p.form.teams), p.form.threads, x.stream, args)


def apply(dims: Dims, parameter_dims: Dims, dtype: np.dtype, store: np.dtype) -> Apply:
    place, number = _POINTERS[store.name], _POINTERS[dtype.name]

    def run(x: Any, stats: Any, weight: Any, bias: Any, y: Any) -> None:
        p = _plan(dims, parameter_dims, dtype, store, _is_aligned(x, weight, bias, y), "apply")
        weight, bias = _spread(weight, p, parameter_dims), _spread(bias, p, parameter_dims)
        _apply(p, place, number, x, stats, weight, bias, y, dims[0] * dims[2])

    return run


def backward(dims: Dims, parameter_dims: Dims, moments: Moments, dtype: np.dtype, store: np.dtype) -> Backward:
    b, m, c, n = dims
    if m * n <= TINY and dtype != _DOUBLE:
        return _backward_in_double(dims, parameter_dims, moments)
    center, power, total, clamp = moments
    divisor = 1.0 if total else float(m * n)
    place, number = _POINTERS[store.name], _POINTERS[dtype.name]

    def run(dy: Any, x: Any, stats: Any, weight: Any, eps: float, dx: Any, dweight: Any, dbias: Any) -> None:
        stream = dy.stream
        p = _plan(dims, parameter_dims, dtype, store, _is_aligned(dy, x, weight, dx), "backward")
        form, limit = p.form, 1.0 / eps if clamp and eps > 0 else inf
        weight = _spread(weight, p, parameter_dims)
        cells, grid = cells_of(p, driver.current().multiprocessors)
        rows = empty(rows_size(p, grid), dtype, stream)
        is_set = form.varies == "set"
        sums = empty((2, p.places) if is_set else 1, _DOUBLE, stream)
        found = sums if p.whole else empty((4, p.pieces, p.places), _DOUBLE, stream)
        kernel = backward_kernels.backward(form, center, power, not p.whole)
        signature: tuple = (
            place, place, number, _P64, place, number, _P64, DIMS, PARAMS, backward_kernels.CELLS, _I, _F, _F, _F, _F,
        )  # fmt: skip
        args: tuple = (
            dy,
            x,
            weight,
            stats,
            dx,
            rows,
            found,
            p.dims,
            p.params,
            cells,
            b * c,
            *inverse_counts(p),
            1.0 / divisor,
            limit,
        )
        _launch(kernel, signature, grid, form.threads, stream, args)
        if not p.whole:
            means = empty((3, b, c), _DOUBLE, stream)
            width = p.dims[2] if form.columns else p.width
            kernel = merging.merge_sums(center, is_set)
            signature = _P64, number, _P64, _P64, _P64, merging.ENTRIES, PARAMS, _I, _F, _F
            args = found, weight, stats, means, sums, entries_of(p, b * c), p.params, width, divisor, limit
            _launch(kernel, signature, _blocks(b * c, merging.LANES // WARP), merging.LANES, stream, args)
            signature = place, place, number, _P64, _P64, place, DIMS, PARAMS, _I, _I
            args = dy, x, weight, stats, means, dx, p.dims, p.params, p.width, b * c
            kernel = backward_kernels.gradient(form, center, power)
            _launch(kernel, signature, _blocks(p.work, form.teams), form.threads, stream, args)
        _fold(p, cells, sums if is_set else rows, dweight, dbias, parameter_dims)

    return run


def _fold(p: Plan, cells: tuple, source: Any, dweight: Any, dbias: Any, parameter_dims: Dims) -> None:
    """The gradients of the parameters, from the sums that the backward kernel wrote."""
    axes = fold_of(p, cells)
    outputs, summed = prod(parameter_dims), prod(axes[7:10])
    kernel, each = (merging.fold(1), 1) if summed >= 1024 and outputs < 1024 else (merging.fold(WARP), WARP)
    number, target = _POINTERS[source.dtype.name], _POINTERS[dweight.dtype.name]
    signature = number, target, target, merging.SUM
    _launch(
        kernel, signature, (_blocks(outputs, each), 2), merging.LANES, source.stream, (source, dweight, dbias, axes)
    )


def _backward_in_double(dims: Dims, parameter_dims: Dims, moments: Moments) -> Backward:
    """For tiny sets 1 - xhat^2 is almost 0: dx, and statistics summed in float32, would lose all digits."""
    exact = backward(dims, parameter_dims, moments, _DOUBLE, _DOUBLE)
    moments_of = None if moments == CONSTANT else forward(dims, parameter_dims, moments, _DOUBLE, _DOUBLE)

    def run(dy: Any, x: Any, stats: Any, weight: Any, eps: float, dx: Any, dweight: Any, dbias: Any) -> None:
        found: list[Any] = [empty(a.shape, _DOUBLE, dy.stream) for a in (dx, dweight, dbias)]
        x, w = x.astype(_DOUBLE), weight.astype(_DOUBLE)
        if moments_of is not None:
            stats = moments_of(x, w, w, eps, found[0])
        exact(dy.astype(_DOUBLE), x, stats, w, eps, *found)
        for a, exact_a in zip((dx, dweight, dbias), found, strict=True):
            a[...] = exact_a

    return run


def update(running_mean: Any, running_var: Any, stats: Any, count: int, momentum: float) -> None:
    channels = running_mean.size
    number = _POINTERS[running_mean.dtype.name]
    repeats = stats.size // (3 * channels)
    signature = number, number, _P64, _I, _I, _F, _F, _F
    take = float(momentum)
    args = running_mean, running_var, stats, channels, repeats, 1.0 - take, take, take * count / max(count - 1, 1)
    _launch(merging.update(), signature, _blocks(channels, merging.LANES), merging.LANES, stats.stream, args)


def constants(mean: Any, variance: Any, eps: float, stats: Any) -> None:
    number = _POINTERS[mean.dtype.name]
    signature = number, number, _P64, _I, _F
    args = mean, variance, stats, mean.size, float(eps)
    _launch(merging.constants(), signature, _blocks(mean.size, merging.LANES), merging.LANES, stats.stream, args)


def copy(source: DeviceArray, target: DeviceArray, stream: int) -> None:
    """target[...] = source, which broadcasts."""
    rank = target.ndim
    if source.ndim > rank:
        raise ValueError(f"cannot broadcast {source.shape} to {target.shape}")
    shape = (1,) * (rank - source.ndim) + source.shape
    if any(s not in (1, t) for s, t in zip(shape, target.shape, strict=True)):
        raise ValueError(f"cannot broadcast {source.shape} to {target.shape}")
    strides = (0,) * (rank - source.ndim) + source.strides
    axes = [
        (t, 0 if s == 1 else a // source.itemsize, o // target.itemsize)
        for s, t, a, o in zip(shape, target.shape, strides, target.strides, strict=True)
        if t > 1
    ] or [(1, 0, 0)]
    joined = [axes[0]]
    for size, a, o in axes[1:]:
        outer, a_outer, o_outer = joined[-1]
        if a_outer == a * size and o_outer == o * size:
            joined[-1] = outer * size, a, o
        else:
            joined.append((size, a, o))
    sizes, given, taken = zip(*joined, strict=True)
    tuple_ = types.UniTuple(_I, len(sizes))
    signature = _POINTERS[source.dtype.name], _POINTERS[target.dtype.name], tuple_, tuple_, tuple_, _I
    args = source, target, sizes, given, taken, target.size
    grid = _blocks(target.size, merging.LANES)
    _launch(merging.copy(len(sizes)), signature, grid, merging.LANES, stream, args)
