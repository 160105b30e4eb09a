"""Sliding normalization of time series: every value by the mean and variance of a window of steps."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from normzoo.backends.contract import Array
from normzoo.backends.subnormals import in_any_mode
from normzoo.passes.arrays import base_array
from normzoo.passes.formulas import reciprocal, unit
from normzoo.passes.numbers import check_size
from normzoo.passes.numpy_threads import on_threads
from normzoo.passes.saved import Pull
from normzoo.statistics.tracked import check_channels
from normzoo.zoo.exact import ExactNorm

Parts = tuple[Array, ...]  # (lines, T) each, of one value or of a window that ends there
BLOCK = 1 << 15  # values of a block of lines


class Recent(NamedTuple):
    """What `step` goes on with."""

    values: Array  # (N, ..., steps) float64: the last window - 1 steps, or all


class SlidingNorm(ExactNorm):
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

    Nothing is subtracted that was added before: the moments of a window are merged from those of two halves, in as many
    steps as its size has bits. So a series that drifts or jumps by 1e12 leaves no trace in later windows. `step` takes
    one time step at a time, unless windows are centred; its results are bit-identical to those of the whole sequence.
    The gradient is that of the formula. It is computed in float64, by NumPy.

    Source:
        The rolling z-score: pandas, "Rolling", https://pandas.pydata.org/docs/reference/window.html, with min_periods=1
        and ddof=0. As a norm of speech features: O. Viikki and K. Laurila, "Cepstral domain segmental feature vector
        normalization for noise robust speech recognition", 1998, doi:10.1016/S0167-6393(98)00033-8. Windows are merged
        by the formula of Chan, Golub and LeVeque, 1979.

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
        self.num_features = check_size("SlidingNorm", "num_features", num_features)
        super().__init__(num_features, window, shape=(num_features,), eps=eps, weight=affine, bias=affine, dtype=dtype)
        self.window = check_size(self, "window", window, least=1)
        self.centered = bool(centered)
        if channel_axis not in (1, -1):
            raise ValueError(f"{self}: expected channel_axis 1 or -1, got {channel_axis!r}")
        self.channel_axis = int(channel_axis)

    def check(self, x: Array, **inputs: Array) -> None:
        check_channels(self, x, self.channel_axis, 3, self.num_features)

    @property
    def _after(self) -> int:
        """Steps of a window behind its own."""
        return (self.window - 1) // 2 if self.centered else 0

    def compute(self, x: Array, params: Mapping[str, Array], **inputs: Array) -> tuple[Array, Pull]:
        time = -1 if self.channel_axis == 1 else 1
        moved = np.moveaxis(x, time, -1)  # (N, C, ..., T), or (N, ..., C, T)
        shape, steps, size = moved.shape, x.shape[time], self.num_features
        v = np.ascontiguousarray(moved).reshape(-1, steps)  # lines
        weight, bias = self._of_lines(shape[:-1], params)
        window, after, eps = self.window, self._after, self.eps
        y, mean, rstd = np.empty((3, *v.shape))
        counts = np.minimum(np.arange(steps) + after, steps - 1) - np.maximum(np.arange(steps) - window + after, -1)

        def forward(i: slice) -> None:
            one, mean[i], rstd[i] = moments(v[i], window, after, eps)
            y[i] = (v[i] * one - mean[i]) * rstd[i] * weight[i] + bias[i]

        in_blocks(forward, v.shape)
        by_channel = (len(x), size, -1, steps) if time == -1 else (-1, 1, size, steps)

        def pull(dy: Array) -> dict[str, Array]:
            d = np.ascontiguousarray(np.moveaxis(dy, time, -1)).reshape(v.shape)
            dx, along = np.empty((2, *v.shape))

            def back(i: slice) -> None:
                one = unit(v[i], 1, eps**0.5)
                near = v[i] * one
                xhat = (near - mean[i]) * rstd[i]
                along[i] = d[i] * xhat
                dx[i] = one * windows_back(
                    d[i] * weight[i] * rstd[i], near, xhat * rstd[i], mean[i], counts, window, after
                )

            in_blocks(back, v.shape)
            found = {"x": np.moveaxis(dx.reshape(shape), -1, time)}
            if params:
                axes = (0, 2, 3) if time == -1 else (0, 1, 3)
                found["weight"], found["bias"] = (a.reshape(by_channel).sum(axis=axes) for a in (along, d))
            return found

        return np.moveaxis(y.reshape(shape), -1, time), pull

    def _of_lines(self, shape: tuple[int, ...], params: Mapping[str, Array]) -> tuple[Array, Array]:
        """Weight and bias of every line, (lines, 1), where x without its time axis is of this shape."""
        wide = (-1, *[1] * (len(shape) - 2)) if self.channel_axis == 1 else (-1,)
        default = {"weight": np.ones(self.num_features), "bias": np.zeros(self.num_features)}
        weight, bias = (
            np.broadcast_to(params.get(name, default[name]).reshape(wide), shape).reshape(-1, 1)
            for name in ("weight", "bias")
        )
        return weight, bias

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
        if past is not None and past.values.shape[:-1] != x.shape:
            raise ValueError(f"{self}: expected x of shape {past.values.shape[:-1]}, as before, got {x.shape}")
        now = x.astype(np.float64, order="C")[..., None]
        held = now if past is None else np.concatenate([past.values, now], axis=-1)
        y = np.empty(x.shape, x.dtype)
        if x.size:
            with np.errstate(all="ignore"):
                v = held.reshape(-1, held.shape[-1])
                params = {name: p.astype(np.float64) for name, p in self.params.items()}
                weight, bias = self._of_lines(x.shape, params)
                one, mean, rstd = moments(v, self.window, 0, self.eps)
                y[...] = (((v * one - mean) * rstd)[:, -1:] * weight + bias).reshape(x.shape)
        return y, Recent(held[..., held.shape[-1] - min(held.shape[-1], self.window - 1) :])

    def _options(self) -> dict[str, Any]:
        own = {"affine": "weight" in self.params, "centered": self.centered, "channel_axis": self.channel_axis}
        return super()._options() | own


def in_blocks(work: Callable[[slice], None], shape: tuple[int, ...]) -> None:
    """Call `work` for lines that fit in a cache together, on several threads."""
    lines, steps = shape
    step = max(1, BLOCK // max(1, steps))
    on_threads(work, [slice(i, i + step) for i in range(0, lines, step)])


def moments(v: Array, window: int, after: int, eps: float) -> Parts:
    """The unit of every line of v (lines, T), and in this unit mean and rstd of the window of every step, which has so
    many steps behind it."""
    one = unit(v, 1, eps**0.5)
    steps = v.shape[1]
    if after > steps - 1:  # there are not so many
        window, after = window - after + steps - 1, steps - 1
    count = np.zeros((1, steps + after))
    count[:, :steps] = 1
    far = padded(v * one, after)
    count, mean, m2 = (a[:, after:] for a in over_windows((count, far, np.zeros_like(far)), window, union_of))
    return one, mean, reciprocal(np.sqrt(m2 / count + eps * one * one))


def windows_back(g: Array, v: Array, along: Array, mean: Array, counts: Array, window: int, after: int) -> Array:
    """dx, for g = dy * weight * rstd and along = xhat * rstd: g - sum(a) - sum(b * (x - mean)) over the windows that
    a step is in, with a = g / count and b = a * along."""
    most = v.shape[1] - 1
    before, after = min(window - 1 - after, most), min(after, most)
    window = before + after + 1  # these windows end `before` steps after it
    constant = g / counts
    sums = padded(constant, before), padded(constant * along, before)
    parts = *sums, np.zeros_like(sums[0]), padded(mean, before, True)
    total, slope, shift, near = (a[:, before:] for a in over_windows(parts, window, _totals))
    found: Array = g - total - (slope * (v - near) - shift)
    return found


def over_windows(parts: Parts, size: int, merge: Callable[[Parts, Parts], Parts]) -> Parts:
    """What `merge` makes of the `size` steps up to every step, or of those that there are: windows of twice a size are
    merged of two neighbours."""

    def joined(first: Parts, by: int, second: Parts) -> Parts:
        by = min(by, steps)
        last = merge(tuple(a[:, : a.shape[1] - by] for a in first), tuple(a[:, by:] for a in second))
        return tuple(np.concatenate([a[:, :by], b], axis=1) for a, b in zip(second, last, strict=True))

    held, steps = parts, parts[0].shape[1]
    reached = 1
    for bit in f"{size:b}"[1:]:
        held, reached = joined(held, reached, held), 2 * reached
        if bit == "1":
            held, reached = joined(held, 1, parts), reached + 1
    return held


def union_of(one: Parts, other: Parts) -> Parts:
    """Count, mean and m2 of both: where there is no value all are 0."""
    count = one[0] + other[0]
    share = other[0] / np.maximum(count, 1)
    apart = other[1] - one[1]
    return count, one[1] + apart * share, one[2] + other[2] + apart * apart * (one[0] * share)


def _totals(one: Parts, other: Parts) -> Parts:
    """Sums of a, of b, and of b * (mean - near), where near is the last of these means: distances stay small."""
    a, b, shift, near = one
    return a + other[0], b + other[1], shift + b * (near - other[3]) + other[2], other[3]


def padded(v: Array, steps: int, edge: bool = False) -> Array:
    """v (lines, T) with steps behind it, of 0 or of its last."""
    if not steps:
        return v
    behind = np.repeat(v[:, -1:], steps, axis=1) if edge else np.zeros((len(v), steps))
    return np.concatenate([v, behind], axis=1)
