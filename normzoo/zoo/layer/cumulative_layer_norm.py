"""Cumulative layer normalization: normalize every time step by the mean and variance of all steps so far."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from normzoo.backends.contract import Array
from normzoo.passes.arrays import base_array
from normzoo.passes.formulas import FAR, centered, check_range, reciprocal, summed, unit
from normzoo.passes.numbers import check_size
from normzoo.passes.saved import Pull
from normzoo.statistics.tracked import check_channels
from normzoo.zoo.exact import ExactNorm


class Past(NamedTuple):
    """The state of `CumulativeLayerNorm.step`, from earlier time steps; arrays are (N, 1) float64."""

    steps: int
    unit: Array  # a power of two that scales the values: 1, unless the largest value so far is far from 1
    shift: Array  # mean of the first step, subtracted from all values: later means are usually near
    total: Array  # sum of the means of the steps, minus shift
    m2: Array  # sum of squared deviations of all values


class CumulativeLayerNorm(ExactNorm):
    """Cumulative layer normalization: normalize every time step by the mean and variance of all steps so far.

    Formula:
        y[t] = (x[t] - mean_t) / sqrt(var_t + eps) * weight + bias, with mean_t and (biased) var_t over the channels,
        and positions if any, of the time steps 0 to t of one sample.

    Shapes:
        x, y: (N, C, ..., T); with channel_axis=-1, (N, T, ..., C).
        weight, bias: (C,).

    Args:
        channel_size: C.
        eps: added to the variance, in the units of x squared.
        affine, bias: whether there are a weight and a bias.
        channel_axis: the axis of the channels, 1 or -1; time is at the other end.
        dtype: of the parameters: float32, float64, float16 or bfloat16.

    Raises:
        ValueError: x has another number of channels, or rank below 3; or x is float64, and a value exceeds 2^500 while
            a time step is smaller by more than this factor. TypeError: x is not a float array.

    `step` takes one time step at a time; its results are bit-identical to those of the whole sequence.

    Source:
        Y. Luo and N. Mesgarani, "Conv-TasNet: Surpassing Ideal Time-Frequency Magnitude Masking for Speech
        Separation", 2018, arXiv:1809.07454 (cLN); eps 1e-8 is that of its implementations. The last time step equals
        LayerNorm over all axes but N.

    >>> import numpy as np, normzoo as nz
    >>> norm = nz.CumulativeLayerNorm(1)
    >>> norm(np.array([[[0, 2, 4]]], np.float32)).round(2)
    array([[[0.  , 1.  , 1.22]]], dtype=float32)
    >>> first, past = norm.step(np.array([[0]], np.float32))
    >>> norm.step(np.array([[2]], np.float32), past)[0].round(2)
    array([[1.]], dtype=float32)
    """

    def __init__(
        self,
        channel_size: int,
        eps: float = 1e-8,
        affine: bool = True,
        *,
        bias: bool = True,
        channel_axis: int = 1,
        dtype: Any = np.float32,
    ) -> None:
        self.channel_size = check_size("CumulativeLayerNorm", "channel_size", channel_size)
        super().__init__(channel_size, shape=(channel_size,), eps=eps, weight=affine, bias=affine and bias, dtype=dtype)
        if channel_axis not in (1, -1):
            raise ValueError(f"{self}: expected channel_axis 1 or -1, got {channel_axis}")
        self.channel_axis = check_size(self, "channel_axis", channel_axis, least=-1)

    def check(self, x: Array, **inputs: Array) -> None:
        check_channels(self, x, self.channel_axis, 3, self.channel_size)

    def compute(self, x: Array, params: Mapping[str, Array], **inputs: Array) -> tuple[Array, Pull]:
        weight, bias = params.get("weight", np.ones(1)), params.get("bias", np.zeros(1))
        channel_axis = self.channel_axis
        v = by_time(x, channel_axis)
        shape, rows = v.shape, (*v.shape[:2], -1)
        check_range(self, v.reshape(rows), 1, 2)
        one = unit(v.reshape(rows), (1, 2), self.eps**0.5)[:, :, 0]
        deviation, mean, rstd, _ = moments(v.reshape(rows), None, self.eps, one)
        xhat = (deviation - mean) * rstd
        y = xhat.reshape(shape) * weight + bias

        def pull(dy: Array) -> dict[str, Array]:
            d = by_time(dy, channel_axis)
            g = (d * weight).reshape(rows) * rstd
            count = np.arange(1, shape[1] + 1).reshape(-1, 1) * deviation.shape[2]
            dmean = -g.sum(axis=2, keepdims=True) / count
            dsquare = -(g * xhat).sum(axis=2, keepdims=True) * rstd / count
            dx = (g + later(dmean - dsquare * mean) + deviation * later(dsquare)) * one[:, :, None]
            return {
                "x": by_channel(dx.reshape(shape), channel_axis),
                "weight": summed(d * xhat.reshape(shape), weight.shape),
                "bias": summed(d, bias.shape),
            }

        return by_channel(y, channel_axis), pull

    def step(self, x: Array, past: Past | None = None) -> tuple[Array, Past]:
        """y of one time step, and the `past` for the next call.

        Args:
            x: (N, C, ...), or (N, ..., C): one time step, without a time axis.
            past: what the call for the previous step returned; None for the first.

        Raises:
            TypeError: x is not a float array, or past is not a `Past`.
            ValueError: x has another number of channels, or another N than past; or as above.
        """
        x = base_array(self, "x", x)
        check_channels(self, x, self.channel_axis, 2, self.channel_size)
        if past is not None and not isinstance(past, Past):
            raise TypeError(f"{self}: expected past as step returned it, got {type(past).__name__}")
        if past is not None and len(past.total) != len(x):
            raise ValueError(f"{self}: expected x of {len(past.total)} samples, as before, got {x.shape}")
        v = np.array(np.moveaxis(x, self.channel_axis, -1), np.float64, order="C")
        params = {name: p.astype(np.float64) for name, p in self.params.items()}
        with np.errstate(all="ignore"):
            rows = v.reshape(len(v), 1, v[:1].size)
            one = unit(rows, (1, 2), self.eps**0.5)[:, :, 0]
            if past is not None:
                one, past = self._in_one_unit(rows, one, past)
            deviation, mean, rstd, past = moments(rows, past, self.eps, one)
            y = ((deviation - mean) * rstd).reshape(v.shape)
            y = (y * params.get("weight", 1.0) + params.get("bias", 0.0)).astype(x.dtype)
        return np.ascontiguousarray(np.moveaxis(y, -1, self.channel_axis)), past

    def _in_one_unit(self, v: Array, one: Array, past: Past) -> tuple[Array, Past]:
        """The unit of the largest value, of this step v or an earlier one, and the past converted to it."""
        joint = np.minimum(one, past.unit) if past.steps else one
        ratio = joint / past.unit
        far = np.isfinite(v).all(axis=2) & (np.abs(v).max(axis=2) > 0)
        if (far & ((ratio < 1 / FAR) | (joint / one < 1 / FAR)) & (past.m2 > 0)).any():
            raise ValueError(
                f"{self}: expected values within a factor of 2^500 of each other where one is beyond it, got a step of "
                f"{np.abs(v).max():.3g}; write np.clip(x, -1e150, 1e150)"
            )
        return joint, Past(past.steps, joint, past.shift * ratio, past.total * ratio, past.m2 * ratio * ratio)

    def _options(self) -> dict[str, Any]:
        affine = {"affine": "weight" in self.params, "bias": "bias" in self.params}
        return super()._options() | affine | {"channel_axis": self.channel_axis}


def by_time(x: Array, channel_axis: int) -> Array:
    """x as (N, T, ..., C)."""
    return x if channel_axis == -1 else np.moveaxis(np.moveaxis(x, -1, 1), 2, -1)


def by_channel(v: Array, channel_axis: int) -> Array:
    """The inverse of `by_time`."""
    return v if channel_axis == -1 else np.moveaxis(np.moveaxis(v, -1, 2), 1, -1)


def moments(v: Array, past: Past | None, eps: float, one: Array) -> tuple[Array, Array, Array, Past]:
    """(v - shift, mean_t - shift, rstd_t, the past of later steps) for v (N, T, values of a step), in units (N, 1)."""
    v = v * one[:, :, None]
    if past is None:
        zero = np.zeros((len(v), 1))
        past = Past(0, one, v[:, 0].mean(axis=1, keepdims=True), zero, zero)
    values, steps = v.shape[2], past.steps + np.arange(1, v.shape[1] + 1)
    v = v - past.shift[:, :, None]
    own_mean, deviation = centered(v, 2)
    own_mean, own_m2 = own_mean[:, :, 0], (deviation * deviation).sum(axis=2)  # (N, T)
    total = running_sum(past.total, own_mean)
    before = np.concatenate([past.total, total[:, :-1]], axis=1) / np.maximum(steps - 1, 1)
    apart = (own_mean - before) ** 2 * (values * (steps - 1) / steps)
    m2 = running_sum(past.m2, own_m2 + apart)
    mean, rstd = total / steps, reciprocal(np.sqrt(m2 / (steps * values) + eps * one * one))
    new = Past(past.steps + v.shape[1], one, past.shift, total[:, -1:], m2[:, -1:])
    return v, mean[:, :, None], rstd[:, :, None], new


def running_sum(start: Array, terms: Array) -> Array:
    """start + terms[0] + ... + terms[t] for every t along axis 1, added in this order."""
    return np.cumsum(np.concatenate([start, terms], axis=1), axis=1)[:, 1:]


def later(d: Array) -> Array:
    """Sum of d from t to the end, for every t."""
    return np.cumsum(d[:, ::-1], axis=1)[:, ::-1]
