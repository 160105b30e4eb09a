"""Cumulative layer normalization: normalize every time step by the mean and variance of all steps so far."""

from functools import partial
from math import prod
from typing import Any, NamedTuple

import numpy as np

from normzoo.backends.contract import Array, Backend
from normzoo.backends.forms import Cumulation
from normzoo.norm import Norm
from normzoo.passes.arrays import base_array, compute_dtype, kernel_array, storage_dtype
from normzoo.passes.formulas import FAR, check_range, unit_of_samples
from normzoo.passes.numbers import check_size
from normzoo.passes.overlaps import check_out
from normzoo.passes.saved import Saved
from normzoo.passes.whole import Back, now, order_of, whole
from normzoo.statistics.tracked import check_channels


class Past(NamedTuple):
    """The state of `CumulativeLayerNorm.step`, from earlier time steps; arrays are (N, 1) float64."""

    steps: int
    unit: Array  # a power of two that scales the values: 1, unless the largest value so far is far from 1
    shift: Array  # mean of the first step, subtracted from all values: later means are usually near
    total: Array  # sum of the means of the steps, minus shift
    m2: Array  # sum of squared deviations of all values


class CumulativeLayerNorm(Norm):
    """Cumulative layer normalization: every time step by the mean and variance of all that came so far.

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

    eps: float

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

    def forward(self, x: Array, out: Array | None = None) -> tuple[Array, Saved]:
        x = base_array(self, "x", x)
        check_channels(self, x, self.channel_axis, 3, self.channel_size)
        if out is not None:
            check_out(self, out, x.shape, x.dtype, (x,), tuple(self.params.values()))
        axes, time_last = self._order(x)
        time = x.shape[-1 if self.channel_axis == 1 else 1]
        form = Cumulation(time, self.channel_size, prod(x.shape[1:]) // max(1, time * self.channel_size), time_last)
        state = np.zeros((4, len(x)))
        state[0] = self._unit(x, by_time(x, self.channel_axis))
        return whole(self, x, out, axes, partial(self._cumulate, form, state), self.params)

    def _cumulate(self, form: Cumulation, state: Array, backend: Backend, v: Array, y: Array) -> Back:
        dtype = compute_dtype(v.dtype)
        weight, bias = self._parameters(dtype)
        if v.size:
            stats = backend.cumulate(len(v), form, dtype, v.dtype)(v, weight, bias, self.eps, state, 0, y)

        def back(backend: Backend, d: Array, v: Array, dx: Array) -> dict[str, Array]:
            dtype = compute_dtype(v.dtype)
            dweight, dbias = np.zeros((2, *weight.shape))
            if v.size:
                w = weight.astype(dtype)
                backend.cumulate_back(len(v), form, dtype, v.dtype)(d, v, w, stats, state, dx, dweight, dbias)
            return {"weight": dweight, "bias": dbias}

        return back

    def _parameters(self, dtype: np.dtype) -> tuple[Array, Array]:
        """Copies: they may be changed before the backward pass."""
        weight, bias = self.params.get("weight", np.ones(self.channel_size)), self.params.get("bias")
        return weight.astype(dtype), np.zeros(weight.shape, dtype) if bias is None else bias.astype(dtype)

    def _order(self, x: Array) -> tuple[tuple[int, ...], bool]:
        """x's axes as they are or, where they lie in memory so, with time and channels exchanged; is time last then?"""
        straight = tuple(range(x.ndim))
        turned = (0, straight[-1], *straight[2:-1], 1)
        is_turned = x.ndim > 2 and order_of(x) == turned
        return turned if is_turned else straight, (self.channel_axis == 1) != is_turned

    def _unit(self, x: Array, v: Array) -> Array:
        """The unit of each sample of x, of which v is a view (N, T, ..., C) or, of a step, (N, 1, ...)."""
        one = unit_of_samples(x, self.eps**0.5)
        if (one != 1).any():
            check_range(self, v.reshape(*v.shape[:2], -1), 1, 2)
        return one

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
        dtype = compute_dtype(x.dtype, *(p.dtype for p in self.params.values()))
        v = kernel_array(x, storage_dtype(x.dtype, dtype))
        form = Cumulation(1, self.channel_size, v[:1].size // max(1, self.channel_size), self.channel_axis == 1)
        one, y = self._unit(x, x[:, None])[:, None], np.empty(v.shape, v.dtype)
        if past is None:
            nothing = np.zeros_like(one)
            past = Past(0, one, nothing, nothing, nothing)
        else:
            one, past = self._in_one_unit(x.reshape(len(x), 1, -1), one, past)
        state = np.concatenate([one, past.shift, past.total, past.m2], axis=1).T.copy()
        if v.size:
            run = now().cumulate(len(v), form, dtype, v.dtype)
            run(v, *self._parameters(dtype), self.eps, state, past.steps, y)
        return y.astype(x.dtype, copy=False), Past(past.steps + 1, *state[:, :, None])

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
