"""Sliding normalization of time series: every value by the mean and variance of a window of steps."""

from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple

import numpy as np

from normzoo.backends.contract import Array, Backend
from normzoo.backends.forms import Lines, Sliding
from normzoo.backends.subnormals import in_any_mode
from normzoo.passes.arrays import base_array, compute_dtype, storage_dtype
from normzoo.passes.numbers import check_size
from normzoo.passes.whole import now
from normzoo.statistics.tracked import check_channels
from normzoo.zoo.data.by_past import AlongTime, BackOfLines


class Recent(NamedTuple):
    """What `step` goes on with."""

    steps: int
    values: Array  # (steps, N, ...): the last window - 1 steps, or all


class SlidingNorm(AlongTime):
    """Sliding normalization: every value by the mean and variance of its channel in a window of time steps.

    Formula:
        y[t] = (x[t] - mean[t]) / sqrt(var[t] + eps) * weight + bias, with mean[t] and (biased) var[t] over the steps of
        the window of t that there are: t - window + 1 to t or, centred, t - window // 2 to t + (window - 1) // 2; for
        every channel, and position if any, of a sample.

    Shapes:
        x, y: (N, C, ..., T); with channel_axis=-1, (N, T, ..., C).
        weight, bias: (C,).

    Args:
        num_features: C.
        window: steps in a window, 1 or more.
        eps: added to the variance, in the units of x squared.
        affine: whether there are a weight and a bias.
        centered: if True, windows lie around a step; by default they end with it.
        channel_axis: the axis of the channels, 1 or -1; time is at the other end.
        dtype: of the parameters: float32, float64, float16 or bfloat16.

    Raises:
        ValueError: x has another number of channels, or rank below 3; window is below 1. TypeError: x is not a float
            array.

    Nothing is subtracted that was added before: a window is the end of one block of steps and the beginning of the
    next, whose sums are made apart. So a series that drifts or jumps by 1e12 leaves no trace in later windows. `step`
    takes one time step at a time, unless windows are centred; its results are bit-identical to those of the whole
    sequence. The gradient is that of the formula. All sums are in float64.

    Source:
        The rolling z-score: pandas, "Rolling", https://pandas.pydata.org/docs/reference/window.html, with min_periods=1
        and ddof=0. As a norm of speech features: O. Viikki and K. Laurila, "Cepstral domain segmental feature vector
        normalization for noise robust speech recognition", 1998, doi:10.1016/S0167-6393(98)00033-8. Windows are cut at
        the borders of blocks as in M. van Herk, "A fast algorithm for local minimum and maximum filters on rectangular
        and octagonal kernels", 1992, doi:10.1016/0167-8655(92)90069-C.

    >>> import numpy as np, normzoo as nz
    >>> nz.SlidingNorm(1, 2)(np.array([[[0, 2, 1e6, 1e6 + 2]]])).round(2)
    array([[[0., 1., 1., 1.]]])
    >>> norm = nz.SlidingNorm(1, 2)
    >>> first, past = norm.step(np.array([[0.0]]))
    >>> norm.step(np.array([[2.0]]), past)[0].round(2)
    array([[1.]])
    """

    def __init__(
        self,
        num_features: int,
        window: int,
        eps: float = 1e-5,
        affine: bool = True,
        *,
        centered: bool = False,
        channel_axis: int = 1,
        dtype: Any = np.float32,
    ) -> None:
        self._begin(num_features, channel_axis)
        super().__init__(num_features, window, shape=(num_features,), eps=eps, weight=affine, bias=affine, dtype=dtype)
        self.window = check_size(self, "window", window, least=1)
        self.centered = bool(centered)

    @property
    def sliding(self) -> Sliding:
        after = (self.window - 1) // 2 if self.centered else 0
        return Sliding(self.window - 1 - after, after, self.eps)

    def numbers(self) -> Mapping[str, Array]:
        size = self.num_features
        return {"weight": self.params.get("weight", np.ones(size)), "bias": self.params.get("bias", np.zeros(size))}

    def over_lines(self, lines: Lines, given: Array, backend: Backend, v: Array, y: Array) -> BackOfLines:
        form = self.sliding
        backend.slide(lines, form, compute_dtype(v.dtype), v.dtype)(v, given, 0, y)

        def back(backend: Backend, d: Array, v: Array, dx: Array) -> Array:
            return backend.slide_back(lines, form, compute_dtype(v.dtype), v.dtype)(d, v, given, dx)

        return back

    @in_any_mode
    def step(self, x: Array, past: Recent | None = None) -> tuple[Array, Recent]:
        """y of one time step, and the `past` for the next call.

        Args:
            x: (N, C, ...), or (N, ..., C): one time step, without a time axis.
            past: what the call for the previous step returned; None for the first.

        Raises:
            TypeError: x is not a float array, or past is not a `Recent`.
            ValueError: windows are centred; x has another number of channels, or another shape than in the steps
                before.
        """
        x = base_array(self, "x", x)
        check_channels(self, x, self.channel_axis, 2, self.num_features)
        if self.centered:
            raise ValueError(
                f"{self}: expected windows that end with the step, got centred ones; write SlidingNorm("
                f"{self.num_features}, {self.window})"
            )
        if past is not None and not isinstance(past, Recent):
            raise TypeError(f"{self}: expected past as step returned it, got {type(past).__name__}")
        if past is not None and past.values.shape[1:] != x.shape:
            raise ValueError(f"{self}: expected x of shape {past.values.shape[1:]}, as before, got {x.shape}")
        dtype = compute_dtype(x.dtype, *(p.dtype for p in self.params.values()))
        steps, v = 0 if past is None else past.steps, x.astype(storage_dtype(x.dtype, dtype), order="C")[None]
        held = v if past is None else np.concatenate([past.values.astype(v.dtype, copy=False), v])
        y = np.empty(held.shape, held.dtype)
        if x.size:
            lines = Lines(1, len(held), prod(x.shape), False)
            given = np.tile(self._of_lines(self.numbers(), prod(x.shape[1:]), self.channel_axis == 1), len(x))
            first = steps + 1 - len(held)
            now().slide(lines, self.sliding, dtype, held.dtype)(held, given, first, y)
        return y[-1].astype(x.dtype, copy=False), Recent(steps + 1, held[len(held) - min(len(held), self.window - 1) :])

    def _options(self) -> dict[str, Any]:
        return super()._options() | {"affine": "weight" in self.params, "centered": self.centered}
