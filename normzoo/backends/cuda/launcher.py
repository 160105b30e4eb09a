"""The contract on device arrays: plans, allocations and launches. Everything that depends only on shapes is settled at
the first call on a device: which kernels, their grids and their arguments; a later call writes addresses into them.

Every call uses one of two plans: for arrays that begin at multiples of 16 bytes, or for others.
"""

from collections.abc import Callable
from functools import lru_cache
from math import inf, prod
from typing import Any

import numpy as np

from normzoo.backends.around import ALONE, NOTHING, NOTHING_BACK, Around, Beside, BesideBack
from normzoo.backends.contract import CONSTANT, Apply, Backward, Dims, Forward, Moments
from normzoo.backends.cuda import backward_kernels, driver, forward_kernels, merging
from normzoo.backends.cuda.arrays import ALIGNED_TO, DeviceArray, empty
from normzoo.backends.cuda.driver import Driver, Ordered
from normzoo.backends.cuda.forms import (
    Plan,
    cells_of,
    entries_of,
    fold_of,
    inverse_counts,
    merge_team,
    plan,
    rows_size,
    sums_of,
)  # fmt: skip
from normzoo.backends.cuda.geometry import DIMS, PARAMS
from normzoo.backends.cuda.pointers import F64, I64, P64, blocks, pointer
from normzoo.backends.cuda.surroundings import before_of

TINY = 2  # values of a set whose gradient is a difference of almost equal terms
_DOUBLE = np.dtype(np.float64)
Step = Callable[[int, tuple], None]  # (stream, addresses and numbers that differ between calls)


@lru_cache(maxsize=1024)
def _plan(
    dims: Dims, parameter_dims: Dims, dtype: np.dtype, store: np.dtype, aligned: bool, what: str, around: bool
) -> Plan:
    return plan(dims, parameter_dims, dtype.name, store.itemsize, aligned, what, around)


def _addresses(*arrays: DeviceArray | None) -> tuple[int, ...]:
    return tuple(0 if a is None else a.address for a in arrays)


class _Task:
    """What a factory is asked for, and what was prepared for it on each device."""

    def __init__(
        self, dims: Dims, parameter_dims: Dims, dtype: np.dtype, store: np.dtype, what: str, around: Around,
        make: Callable[..., Any],
    ) -> None:  # fmt: skip
        self.dims, self.parameter_dims, self.dtype, self.store, self.what = dims, parameter_dims, dtype, store, what
        self.values, self.number = pointer(store), pointer(dtype)  # arrays like x, and parameters
        self.sets, self.around = dims[0] * dims[2], around
        self._make, self._made = make, dict[tuple, Any]()

    def on(self, device: Driver, *arrays: DeviceArray | None) -> tuple[Plan, Any]:
        """The plan for these arrays, and what was made for it."""
        key = device, all(a is None or a.address % ALIGNED_TO == 0 for a in arrays)
        found = self._made.get(key)
        if found is None:
            kinds = self.dims, self.parameter_dims, self.dtype, self.store
            p = _plan(*kinds, key[1], self.what, self.around != ALONE)
            found = self._made[key] = p, self._make(device, self, p)
        return found

    def spread(self, parameter: DeviceArray, p: Plan) -> DeviceArray:
        """A parameter repeated along c or n, if columns need that."""
        if not p.spread:
            return parameter
        (_, _, c, n), (pb, pm, _, _) = p.view
        made = empty((pb, pm, c, n), parameter.dtype, parameter.stream, parameter.library)
        made[...] = parameter.reshape(self.parameter_dims)
        return made


def _like(x: DeviceArray, shape: tuple[int, ...], dtype: np.dtype = _DOUBLE) -> DeviceArray:
    """Memory for a step of the work on x."""
    return empty(shape, dtype, x.stream, x.library)


def _prepare_apply(device: Driver, task: _Task, p: Plan) -> Step:
    """(x, stats, weight, bias, y, residual, s, other, scale)"""
    values, number = task.values, task.number
    signature = values, P64, number, number, values, DIMS, PARAMS, I64, I64, values, values, values, F64
    args = *(None,) * 5, p.dims, p.params, p.width, task.sets, *(None,) * 4
    kernel = forward_kernels.apply(p.form, task.around)
    return device.prepare(kernel, signature, (blocks(p.work, p.form.teams), 1), p.form.threads, args)


def _given(beside: Beside) -> tuple:
    """What kernels take of the arrays beside x: residual, s, other and the residual's scale."""
    return *_addresses(*beside[:3]), beside.scale


def forward(
    dims: Dims, parameter_dims: Dims, moments: Moments, dtype: np.dtype, store: np.dtype, around: Around = ALONE
) -> Forward:
    b, m, c, n = dims
    center, power, total, clamp = moments
    divisor = 1.0 if total else float(m * n)

    def whole(device: Driver, task: _Task, p: Plan) -> Callable[..., None]:
        kernel = forward_kernels.forward(p.form, center, power, clamp, around)
        values, number = task.values, task.number
        signature = (
            values, number, number, values, P64, DIMS, PARAMS, I64, F64, F64, F64, values, values, values, F64,
        )  # fmt: skip
        args = *(None,) * 5, p.dims, p.params, p.width, 1.0 / (m * n), 1.0 / divisor, *(None,) * 5
        step = device.prepare(kernel, signature, (blocks(p.work, p.form.teams), 1), p.form.threads, args)

        def go(x: Any, weight: Any, bias: Any, eps: float, y: Any, stats: Any, beside: Beside) -> None:
            step(x.stream, (*_addresses(x, weight, bias, y, stats), eps, *_given(beside)))

        return go

    def pieces(device: Driver, task: _Task, p: Plan) -> Callable[..., None]:
        grid, entries = (blocks(p.work, p.form.teams), 1), entries_of(p, b * c)
        form, team = p.form._replace(varies="set"), merge_team(entries_of(p, b * c))
        # 1 moments
        values, before = task.values, before_of(around)
        signature: tuple = values, P64, DIMS, PARAMS, I64, F64, F64, F64, values, values, values, F64
        args: tuple = None, None, p.dims, p.params, p.width, *inverse_counts(p), *(None,) * 5
        kernel = forward_kernels.pieces(form, center, power, clamp, before)
        find = device.prepare(kernel, signature, grid, form.threads, args)
        rest = _Task(dims, parameter_dims, dtype, store, "forward", around._replace(residual=False), whole)

        def merging_step(around: bool) -> Step:
            kernel = merging.merge(power, center, clamp, around, team)
            signature, args = (P64, P64, merging.ENTRIES, F64, F64), (None, None, entries, divisor, None)
            return device.prepare(kernel, signature, (blocks(b * c * team, merging.LANES), 1), merging.LANES, args)

        merge, again = merging_step(False), None
        if power == 1 and center:
            signature = values, P64, P64, DIMS, PARAMS, I64, I64, values
            args = None, None, None, p.dims, p.params, p.width, b * c, None
            kernel = forward_kernels.deviations(form, before._replace(residual=False))
            deviations = device.prepare(kernel, signature, grid, form.threads, args)
            again = deviations, merging_step(True)
        # 2 normalize
        normalize = _prepare_apply(device, rest, p)

        def go(x: Any, weight: Any, bias: Any, eps: float, y: Any, stats: Any, beside: Beside) -> None:
            stream, partial = x.stream, _like(x, (2, p.pieces, p.places))
            residual, s, other, scale = _given(beside)
            find(stream, (x.address, partial.address, eps, residual, s, other, scale))
            merge(stream, (partial.address, stats.address, eps))
            first = s or x.address  # what is normalized
            if again is not None:
                again[0](stream, (first, stats.address, partial.address, other))
                again[1](stream, (partial.address, stats.address, eps))
            normalize(stream, (first, *_addresses(stats, weight, bias, y), 0, 0, other, 1.0))

        return go

    def make(device: Driver, task: _Task, p: Plan) -> Callable[..., None]:
        return (whole if p.whole else pieces)(device, task, p)

    task = _Task(dims, parameter_dims, dtype, store, "forward", around, make)

    def run(x: Any, weight: Any, bias: Any, eps: float, y: Any, beside: Beside = NOTHING) -> Any:
        device = driver.current()
        arrays = x, weight, bias, y, *beside[:3]
        p, go = task.on(device, *arrays)
        stats = _like(x, (3, b, c))
        with Ordered(device, x.stream, *arrays):
            go(x, task.spread(weight, p), task.spread(bias, p), float(eps), y, stats, beside)
        return stats

    return run


def apply(dims: Dims, parameter_dims: Dims, dtype: np.dtype, store: np.dtype, around: Around = ALONE) -> Apply:
    task = _Task(dims, parameter_dims, dtype, store, "apply", around, _prepare_apply)

    def run(x: Any, stats: Any, weight: Any, bias: Any, y: Any, beside: Beside = NOTHING) -> None:
        device = driver.current()
        arrays = x, weight, bias, y, *beside[:3]
        p, step = task.on(device, *arrays)
        with Ordered(device, x.stream, stats, *arrays):
            weight, bias = task.spread(weight, p), task.spread(bias, p)
            step(x.stream, (*_addresses(x, stats, weight, bias, y), *_given(beside)))

    return run


def backward(
    dims: Dims, parameter_dims: Dims, moments: Moments, dtype: np.dtype, store: np.dtype, around: Around = ALONE
) -> Backward:
    b, m, c, n = dims
    if m * n <= TINY and dtype != _DOUBLE:
        return _backward_in_double(dims, parameter_dims, moments, around)
    center, power, total, clamp = moments
    divisor = 1.0 if total else float(m * n)

    def make(device: Driver, task: _Task, p: Plan) -> Callable[..., None]:
        values, number, form = task.values, task.number, p.form
        kernel = backward_kernels.backward(form, center, power, not p.whole, around)
        beside = number, values, values, values
        signature: tuple = (
            values, values, number, P64, values, number, P64, DIMS, PARAMS, backward_kernels.CELLS, I64, F64, F64, F64,
            F64, *beside,
        )  # fmt: skip
        resident = device.resident(kernel, signature, form.threads)
        cells, grid = cells_of(p, device.multiprocessors * resident)
        args: tuple = *(None,) * 7, p.dims, p.params, cells, b * c, *inverse_counts(p), 1.0 / divisor, *(None,) * 5
        step = device.prepare(kernel, signature, (grid, 1), form.threads, args)
        is_set, rows, folds = form.varies == "set", rows_size(p, grid), dict[tuple, Step]()
        merge = gradient = None
        if not p.whole:
            entries, width = entries_of(p, b * c), p.dims[2] if form.columns else p.width
            team = merge_team(entries)
            kernel = merging.merge_sums(center, is_set, entries[2] == 1, team)
            signature = P64, number, P64, P64, P64, merging.ENTRIES, PARAMS, I64, F64, F64
            args = *(None,) * 5, entries, p.params, width, divisor, None
            merge = device.prepare(kernel, signature, (blocks(b * c * team, merging.LANES), 1), merging.LANES, args)
            kernel = backward_kernels.gradient(form, center, power, around)
            signature = values, values, number, P64, P64, values, DIMS, PARAMS, I64, I64, *beside
            args = *(None,) * 6, p.dims, p.params, p.width, b * c, *(None,) * 4
            gradient = device.prepare(kernel, signature, (blocks(p.work, form.teams), 1), form.threads, args)

        def fold(source: Any, dweight: Any, dbias: Any) -> None:
            wanted = dweight is not None, dbias is not None
            if not any(wanted):
                return
            if wanted not in folds:
                folds[wanted] = _prepare_fold(device, p, cells, source.dtype, dtype, wanted)
            addresses = source.address, *(0 if d is None else d.address for d in (dweight, dbias))
            folds[wanted](source.stream, addresses)

        def go(
            dy: Any, x: Any, stats: Any, weight: Any, eps: float, dx: Any, dweight: Any, dbias: Any,
            beside: BesideBack,
        ) -> None:  # fmt: skip
            stream, limit = dy.stream, 1.0 / eps if clamp and eps > 0 else inf
            partial = None if is_set else _like(dy, (rows,), dtype)
            sums = _like(dy, (2, p.places)) if is_set else None
            found = sums if p.whole else _like(dy, (4, p.pieces, p.places))
            to_rows, to_sums, to_found = _addresses(partial, sums, found)
            read, given = _addresses(dy, x, weight, stats), _addresses(*beside)
            step(stream, (*read, dx.address, to_rows, to_found, limit, *given))
            if merge is not None and gradient is not None:
                means = _like(dy, (3, b, c))
                merge(stream, (to_found, weight.address, stats.address, means.address, to_sums, limit))
                gradient(stream, (*read, means.address, dx.address, *given))
            fold(sums if is_set else partial, dweight, dbias)

        return go

    task = _Task(dims, parameter_dims, dtype, store, "backward", around, make)

    def run(
        dy: Any, x: Any, stats: Any, weight: Any, eps: float, dx: Any, dweight: Any, dbias: Any,
        beside: BesideBack = NOTHING_BACK,
    ) -> None:  # fmt: skip
        device = driver.current()
        p, go = task.on(device, dy, x, weight, dx, *beside)
        with Ordered(device, dy.stream, x, stats, weight, dx, dweight, dbias, *beside):
            if p.spread and beside.bias is not None:
                beside = beside._replace(bias=task.spread(beside.bias, p))
            go(dy, x, stats, task.spread(weight, p), float(eps), dx, dweight, dbias, beside)

    return run


def _prepare_fold(
    device: Driver, p: Plan, cells: tuple, source: np.dtype, dtype: np.dtype, wanted: tuple[bool, bool]
) -> Step:
    """(source, dweight, dbias): the gradients of the parameters that are wanted, from the sums that the backward kernel
    wrote."""
    axes = fold_of(p, cells)
    each, rank, axes = sums_of(axes, prod(p.view[1]))
    kernel = merging.fold(each, rank)
    signature = pointer(source), pointer(dtype), pointer(dtype), merging.SUM, I64, F64
    grid = blocks(prod(p.view[1]), each), sum(wanted)
    return device.prepare(kernel, signature, grid, merging.LANES, (None, None, None, axes, int(not wanted[0]), 1.0))


def _backward_in_double(dims: Dims, parameter_dims: Dims, moments: Moments, around: Around) -> Backward:
    """For tiny sets 1 - xhat^2 is almost 0: dx, and statistics summed in float32, would lose all digits."""
    exact = backward(dims, parameter_dims, moments, _DOUBLE, _DOUBLE, around)
    alone = before_of(around)
    moments_of = None if moments == CONSTANT else forward(dims, parameter_dims, moments, _DOUBLE, _DOUBLE, alone)

    def run(
        dy: Any, x: Any, stats: Any, weight: Any, eps: float, dx: Any, dweight: Any, dbias: Any,
        beside: BesideBack = NOTHING_BACK,
    ) -> None:  # fmt: skip
        device, results = driver.current(), (dx, dweight, dbias, beside.dother)
        with Ordered(device, dy.stream, x, stats, weight, *results, *beside):
            found = [None if a is None else _like(dy, a.shape) for a in results]
            d, v, w = (_copied(a, dy.stream) for a in (dy, x, weight))
            bias, other, ds = (
                None if a is None else _copied(a, dy.stream) for a in (beside.bias, beside.other, beside.ds)
            )
            if moments_of is not None:
                stats = moments_of(v, w, w, eps, found[0], Beside(other=other))
            exact(d, v, stats, w, eps, *found[:3], BesideBack(bias, other, found[3], ds))
            for a, exact_a in zip(results, found, strict=True):
                if a is not None and exact_a is not None:
                    a.on(dy.stream)[...] = exact_a

    return run


def _copied(a: DeviceArray, stream: int) -> DeviceArray:
    """A copy in float64, for work on this stream."""
    return a.on(stream).astype(_DOUBLE)
