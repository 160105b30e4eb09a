"""The definition: the formulas of `contract.py` in NumPy, in float64. Slow and short; all other backends equal it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from normzoo.backends import definitions, definitions_of_data, definitions_of_series
from normzoo.backends import memory as host_memory
from normzoo.backends.around import ALONE, NOTHING, NOTHING_BACK, Activation, Around, Beside, BesideBack
from normzoo.backends.contract import BEYOND, Apply, Array, Backend, Backward, Dims, Forward, Moments, Pass, Volume
from normzoo.backends.forms import (
    Cells,
    Cumulation,
    Following,
    Formula,
    Level,
    Lines,
    Pixels,
    Rescaling,
    Response,
    Sliding,
    Summary,
    Twice,
    Window,
)


class Reference(Backend):
    memory = host_memory

    def forward(
        self, dims: Dims, parameter_dims: Dims, moments: Moments, dtype: np.dtype, store: np.dtype,
        around: Around = ALONE,
    ) -> Forward:  # fmt: skip
        b, m, c, n = dims

        @np.errstate(all="ignore")
        def run(x: Array, weight: Array, bias: Array, eps: float, y: Array, beside: Beside = NOTHING) -> Array:
            v = _before(x, around, beside, dims)
            # 1 moments, of values scaled by a power of two if their squares would leave the range of float64
            unit = _unit(v, eps, moments)
            mean = (v * unit).mean(axis=(1, 3), keepdims=True) if moments.center else np.zeros((b, 1, c, 1))
            deviation = v * unit - mean
            if moments.center:  # the deviations show the rounding of the mean, which is corrected
                rounding = deviation.mean(axis=(1, 3), keepdims=True)
                mean, deviation = mean + rounding, deviation - rounding
            k = 1 if moments.total else m * n
            spread = (np.abs(deviation) ** moments.power).sum(axis=(1, 3), keepdims=True) / k
            scaled = _rstd(spread, eps, unit, moments)
            rstd = unit * scaled
            rstd = np.where(np.isinf(rstd) & np.isfinite(scaled), -(scaled * (unit * BEYOND)), rstd)
            # 2 normalize
            z = deviation * scaled * _repeat(weight, parameter_dims, b) + _repeat(bias, parameter_dims, b)
            y.reshape(dims)[...] = _behind(z, around, _lifted(beside.other, around, parameter_dims, dims))
            spread = spread / unit**moments.power if moments.power else np.zeros_like(rstd)
            return np.stack([mean / unit, spread, rstd]).reshape(3, b, c)

        return run

    def apply(
        self, dims: Dims, parameter_dims: Dims, dtype: np.dtype, store: np.dtype, around: Around = ALONE
    ) -> Apply:
        b = dims[0]

        @np.errstate(all="ignore")
        def run(x: Array, stats: Array, weight: Array, bias: Array, y: Array, beside: Beside = NOTHING) -> None:
            xhat = _xhat(_before(x, around, beside, dims), stats)
            z = xhat * _repeat(weight, parameter_dims, b) + _repeat(bias, parameter_dims, b)
            y.reshape(dims)[...] = _behind(z, around, _lifted(beside.other, around, parameter_dims, dims))

        return run

    def backward(
        self, dims: Dims, parameter_dims: Dims, moments: Moments, dtype: np.dtype, store: np.dtype,
        around: Around = ALONE,
    ) -> Backward:  # fmt: skip
        b, m, c, n = dims

        @np.errstate(all="ignore")
        def run(  # noqa: PLR0913 (as the contract has it)
            dy: Array, x: Array, stats: Array, weight: Array, eps: float, dx: Array, dweight: Array, dbias: Array,
            beside: BesideBack = NOTHING_BACK,
        ) -> None:  # fmt: skip
            d, dother = dy.reshape(dims).astype(np.float64), None
            other: Any = _lifted(beside.other, around, parameter_dims, dims)
            rstd = np.where(stats[2] < 0, np.inf, stats[2]).reshape(b, 1, c, 1)
            xhat = _xhat(_before(x, around._replace(residual=False), Beside(other=other), dims), stats)
            if around.is_behind:
                v = xhat * _repeat(weight, parameter_dims, b) + _repeat(beside.bias, parameter_dims, b)
                d, dother = _behind_back(d, v, around, other)
            g = d * _repeat(weight, parameter_dims, b)
            # 1 moments
            g_mean = g.mean(axis=(1, 3), keepdims=True) if moments.center else 0.0
            gx_mean = (g * xhat).sum(axis=(1, 3), keepdims=True) / (1 if moments.total else m * n)
            if moments.clamp and eps > 0:
                gx_mean = np.where(rstd >= 1.0 / eps, 0.0, gx_mean)
            # 2 normalize
            q = xhat
            if moments.power == 1:
                q = np.sign(xhat)
                if moments.center:
                    q = q - q.mean(axis=(1, 3), keepdims=True)
            elif moments.power == 0:
                q = gx_mean = np.zeros_like(rstd)
            u = rstd * (g - g_mean - q * gx_mean)
            if around.ds:
                u = u + beside.ds.reshape(dims)
            if around.gate_first:
                act, slope = _activated(around, other.reshape(dims))
                u, dother = u * act, u * x.reshape(dims) * slope
            dx.reshape(dims)[...] = u
            if other is not None and beside.dother is not None:
                beside.dother.reshape(dims)[...] = dother
            dweight.reshape(parameter_dims)[...] = _reduce(d * xhat, parameter_dims)
            dbias.reshape(parameter_dims)[...] = _reduce(d, parameter_dims)

        return run

    @np.errstate(all="ignore")
    def update(
        self, mean: Array, var: Array, stats: Array, count: int, momentum: float | None, batches: Array | None = None
    ) -> None:
        if batches is not None:
            batches += 1
            momentum = 1 / batches.item() if momentum is None else momentum
        take = np.float64(momentum)  # float64 whatever the buffers are
        keep = 1 - take
        new, spread = stats[:2].reshape(2, -1, mean.size).mean(axis=1)
        mean[...] = keep * mean + take * new
        var[...] = keep * var + (take * count / max(count - 1, 1)) * spread

    @np.errstate(all="ignore")
    def constants(self, mean: Array, variance: Array, eps: float, stats: Array) -> int:
        of_channels = stats.reshape(3, mean.size)
        of_channels[0], of_channels[1] = mean, variance
        root = np.sqrt(variance.astype(np.float64) + eps)
        of_channels[2] = np.divide(1.0, root, out=np.zeros_like(root), where=root != 0)
        return int((variance < 0).sum())

    def spread_rows(self, source: Array, place: Array, target: Array) -> None:
        target[place >= 0] = source[place[place >= 0]]
        target[place == -1] = 0

    def response(self, dims: Volume, form: Response, store: np.dtype) -> Pass:
        return definitions.of(dims, definitions.response, form)

    def response_back(self, dims: Volume, form: Response, store: np.dtype) -> Pass:
        return definitions.of(dims, definitions.response_back, form)

    def position_moments(self, dims: Volume, store: np.dtype) -> Callable[[Array], Array]:
        return partial(definitions.position_moments, dims)

    def position_sums(self, dims: Volume, dtype: np.dtype, store: np.dtype) -> Callable[..., tuple[Array, Array]]:
        return partial(definitions.position_sums, dims)

    def position_gradient(self, dims: Volume, dtype: np.dtype, store: np.dtype) -> Pass:
        return partial(definitions.position_gradient, dims)

    def window_means(self, dims: Volume, window: Window, back: bool) -> Callable[[Array], Array]:
        return partial(definitions.window_means, dims, window, back)

    def cumulate(self, batch: int, form: Cumulation, dtype: np.dtype, store: np.dtype) -> Callable[..., Array]:
        return partial(definitions.cumulate, form)

    def cumulate_back(self, batch: int, form: Cumulation, dtype: np.dtype, store: np.dtype) -> Pass:
        return partial(definitions.cumulate_back, form)

    def largest(self, dims: Cells, k: int, store: np.dtype) -> Callable[[Array, Array], tuple[Array, Array]]:
        return partial(definitions.largest, dims, k)

    def summarize(self, columns: int, summary: Summary, store: np.dtype) -> Callable[..., Array]:
        return partial(definitions_of_data.summarize, columns, summary)

    def rescale(self, dims: Volume, store: np.dtype, how: Rescaling) -> Callable[..., bool]:
        return partial(definitions_of_data.rescale, dims, how)

    def cells(
        self, dims: Cells, formula: Formula | Twice, spans: tuple[str, ...], dtype: np.dtype, store: np.dtype
    ) -> Callable[..., list[Array]]:
        return partial(definitions.cells, dims, formula)

    def groups(
        self, starts: Array, c: int, formula: Formula, dtype: np.dtype, store: np.dtype
    ) -> Callable[..., list[Array]]:
        return partial(definitions.groups, starts, c, formula)

    def follow(self, dims: Lines, form: Following, dtype: np.dtype, store: np.dtype) -> Callable[..., Array]:
        return partial(definitions_of_series.follow, dims, form)

    def follow_back(self, dims: Lines, form: Following, dtype: np.dtype, store: np.dtype) -> Callable[..., Array]:
        return partial(definitions_of_series.follow_back, dims, form)

    def level(self, dims: Cells, form: Level, dtype: np.dtype, store: np.dtype) -> Callable[..., tuple[Array, bool]]:
        return partial(definitions_of_series.level, dims, form)

    def level_back(self, dims: Cells, form: Level, dtype: np.dtype, store: np.dtype) -> Callable[..., Any]:
        return partial(definitions_of_series.level_back, dims, form)

    def slide(self, dims: Lines, form: Sliding, dtype: np.dtype, store: np.dtype) -> Callable[..., None]:
        return partial(definitions_of_series.slide, dims, form)

    def slide_back(self, dims: Lines, form: Sliding, dtype: np.dtype, store: np.dtype) -> Callable[..., Array]:
        return partial(definitions_of_series.slide_back, dims, form)

    def pixel_sums(self, dims: Pixels, store: np.dtype, extremes: bool) -> Callable[[Array, float, float], Array]:
        return partial(definitions_of_data.pixel_sums, dims, extremes)

    def pixels(self, dims: Pixels, store: np.dtype, result: np.dtype) -> Pass:
        return partial(definitions_of_data.pixels, dims)


def _unit(v: Array, eps: float, moments: Moments) -> Array:
    """Power of two that brings the larger of a set's values and sqrt(eps) to about 1, where that matters; else 1."""
    least = eps if moments.clamp or moments.power == 1 else np.sqrt(eps)
    largest = np.maximum(np.abs(v).max(axis=(1, 3), keepdims=True), least)
    unit = np.ldexp(1.0, np.minimum(-np.frexp(largest)[1], 1023))
    far = np.isfinite(largest) & ((largest > 1e140) | ((largest < 1e-140) & (largest > 0)))
    return np.where(far, unit, 1.0)


def _rstd(spread: Array, eps: float, unit: Array, moments: Moments) -> Array:
    if moments.power == 0:
        return np.ones_like(spread) / unit
    added = 0.0 if moments.clamp else eps * unit * (unit if moments.power == 2 else 1)
    root = (spread + added) ** (1 / moments.power)
    if moments.clamp:
        root = np.where(root < eps * unit, eps * unit, root)
    return np.divide(1.0, root, out=np.zeros_like(root), where=root != 0)


def _xhat(x: Array, stats: Array) -> Array:
    b, _, c, _ = x.shape
    mean, _, rstd = stats.reshape(3, b, 1, c, 1)
    d = x.astype(np.float64) - mean
    return np.where(rstd < 0, d / BEYOND * -rstd, d * rstd)


def _before(x: Array, around: Around, beside: Beside, dims: Dims) -> Array:
    """What the norm reads: x or s, as stored."""
    v = x.reshape(dims).astype(np.float64)
    if around.residual:
        v = v + beside.scale * beside.residual.reshape(dims).astype(np.float64)
    elif around.gate_first:
        v = v * _activated(around, beside.other.reshape(dims))[0]
    s = v.astype(x.dtype)
    if beside.s is not None:
        beside.s.reshape(dims)[...] = s
    return s.astype(np.float64)


def _lifted(other: Array | None, around: Around, parameter_dims: Dims, dims: Dims) -> Array | None:
    """What stands behind, for each value of x."""
    if other is None or around.behind != "learned":
        return other
    return np.broadcast_to(_repeat(other, parameter_dims, dims[0]), dims)


def _behind(v: Array, around: Around, other: Array | None) -> Array:
    """y of v = xhat * weight + bias."""
    if not around.is_behind:
        return v
    if other is None:
        return _activated(around, v)[0]
    o = other.reshape(v.shape)
    if around.behind == "learned":
        return np.asarray(_known(around).value(v, o.astype(np.float64)))
    return v * _activated(around, o)[0] if around.behind == "gate" else _activated(around, v + o)[0]


def _behind_back(d: Array, v: Array, around: Around, other: Array | None) -> tuple[Array, Array | None]:
    """The gradients of v and of `other`."""
    if other is None:
        return d * _activated(around, v)[1], None
    o = other.reshape(v.shape)
    if around.behind == "learned":
        by_v, by_parameter = _known(around).derivative(v.astype(np.float64), o.astype(np.float64))
        return d * by_v, d * by_parameter
    if around.behind == "gate":
        act, slope = _activated(around, o)
        return d * act, d * v * slope
    d = d * _activated(around, v + o)[1]
    return d, d


def _known(around: Around) -> Activation:
    act = around.activation
    if act is None:
        raise ValueError("expected an activation that is learned, got none")
    return act


def _activated(around: Around, v: Array) -> tuple[Array, Array]:
    """act(v) and act'(v), in float64."""
    v, act = v.astype(np.float64), around.activation
    return (v, np.ones_like(v)) if act is None else (act.value(v), act.derivative(v))


def _repeat(parameter: Array, view: Dims, b: int) -> Array:
    return np.tile(parameter.reshape(view).astype(np.float64), (b // view[0], 1, 1, 1))


def _reduce(values: Array, view: Dims) -> Array:
    """Sum over every axis the parameter view does not span, and over its repeats along b."""
    values = values.reshape(-1, view[0], *values.shape[1:]).sum(axis=0)
    return values.sum(axis=tuple(i for i in (1, 2, 3) if view[i] == 1), keepdims=True)
