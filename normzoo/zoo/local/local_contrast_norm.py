"""Local contrast and divisive normalization: every value by the mean and spread of a window of positions around it.
The windows overlap, so they are outside the algebra."""

from functools import partial
from typing import Any

import numpy as np

from normzoo.backends.contract import Array, Backend
from normzoo.norm import Norm
from normzoo.passes.arrays import base_array
from normzoo.passes.formulas import check_range, reciprocal, unit_of_samples
from normzoo.passes.numbers import check_features, check_number, check_shape, check_size
from normzoo.passes.overlaps import check_out
from normzoo.passes.saved import Saved
from normzoo.statistics.tracked import check_channels
from normzoo.zoo.local.by_windows import Found, Task, by_windows, windows


class LocalContrastNorm(Norm):
    """Local contrast normalization: the mean of a Gaussian window taken away, then divided by the window's deviation.

    Formula:
        v = x - mean_w(x), y = v / max(c, sigma), sigma = sqrt(mean_w(v^2)), c = mean of sigma over all positions of the
        sample. mean_w is over all channels and the positions of a Gaussian window around each position; at the border,
        over the positions inside x, with weights that add up to 1. 0 / 0 is 0.

    Shapes:
        x, y: (N, C, L), (N, C, H, W), ...; with channel_axis=-1, (N, ..., C).

    Args:
        kernel_size: positions in the window along every axis, odd: an integer, or a tuple with one for each axis.
        sigma: standard deviation of the window, in positions.
        channel_axis: see `BatchNorm`.

    Raises:
        ValueError: x has no axis of positions, or another number of them than kernel_size; kernel_size is even or sigma
            is not above 0. TypeError: x is not a float array.

    Source:
        K. Jarrett, K. Kavukcuoglu, M. Ranzato and Y. LeCun, "What is the Best Multi-Stage Architecture for Object
        Recognition?", 2009, https://doi.org/10.1109/ICCV.2009.5459469. Its window is 9 by 9; it specifies neither sigma
        (2 is pylearn2's) nor borders (these are Torch7's). Torch7's SpatialContrastiveNormalization has a flat window
        by default and divides by max(sigma, 1e-4), without c; pylearn2 divides by max(c, sigma, 1e-4).

    >>> import numpy as np, normzoo as nz
    >>> nz.LocalContrastNorm(3, sigma=10.0)(np.array([[[0, 1, 0]]], np.float32)).round(2)
    array([[[-0.85,  1.15, -0.85]]], dtype=float32)
    """

    def __init__(self, kernel_size: int | tuple[int, ...] = 9, sigma: float = 2.0, *, channel_axis: int = 1) -> None:
        super().__init__(kernel_size, weight=False, bias=False)
        self.kernel_size = check_shape(self, "kernel_size", kernel_size)
        if any(size % 2 == 0 for size in self.kernel_size):
            raise ValueError(f"{self}: expected kernel_size to be odd, got {kernel_size}")
        self.sigma = check_number(self, "sigma", sigma)
        if not self.sigma > 0:
            raise ValueError(f"{self}: expected sigma > 0, got {sigma}")
        self.channel_axis = check_size(self, "channel_axis", channel_axis, least=-(2**31))

    def forward(self, x: Array, out: Array | None = None) -> tuple[Array, Saved]:
        x = base_array(self, "x", x)
        axis = check_windows(self, x, self.channel_axis, None, "kernel_size", self.kernel_size)
        if out is not None:
            check_out(self, out, x.shape, x.dtype, (x,))
        taps = [np.exp(-0.5 * (np.arange(-(n // 2), n // 2 + 1) / self.sigma) ** 2) for n in self.kernel_size]
        find = partial(_contrast, taps, x.shape[axis])
        return by_windows(Task(self, axis, {}, unit_of_samples(x), find), x, out)

    def _options(self) -> dict[str, Any]:
        return {"sigma": self.sigma, "channel_axis": self.channel_axis}


def _contrast(taps: list[Array], channels: int, backend: Backend, mean: Array, variance: Array) -> Found:
    """What `LocalContrastNorm` finds."""
    positions = tuple(range(1, mean.ndim))
    smooth, back = windows(backend, mean.shape, taps)
    # the rounding of a mean is no contrast
    low, high = mean.min(axis=positions, keepdims=True), mean.max(axis=positions, keepdims=True)
    flat = (low == high) & ~variance.any(axis=positions, keepdims=True)
    center = smooth(mean)
    apart = mean - center
    sigma = np.sqrt(smooth(variance + apart * apart))
    c = sigma.mean(axis=positions, keepdims=True)
    rstd = np.where(flat, 0.0, reciprocal(np.maximum(c, sigma)))

    def pull(g: Array, gx: Array) -> tuple[Array, Array]:
        dlargest = -channels * gx * rstd
        above = sigma > c
        dsigma = np.where(above, dlargest, 0.0)
        dsigma += np.where(above, 0.0, dlargest).sum(axis=positions, keepdims=True) / np.prod(mean.shape[1:])
        dv = back(dsigma * reciprocal(sigma)) / channels
        return -back(rstd * g + apart * dv), dv * reciprocal(rstd)

    return Found(center, rstd, pull)


class DivisiveNorm(Norm):
    """Divisive normalization: every value by the mean and spread of all channels in a window of positions around it.

    Formula:
        v = x - mean_A(x), y = v / sqrt(mean_B(v^2) + eps) * weight + bias. A and B are all channels at the positions of
        the windows sum_window and sup_window around each position, as far as these are inside x.

    Shapes:
        x, y: (N, C, L), (N, C, H, W), ...; with channel_axis=-1, (N, ..., C). For features alone write x[:, None].
        weight, bias: (C,).

    Args:
        num_features: C.
        sum_window, sup_window: positions in the windows A (summation) and B (suppression) along every axis: an integer,
            or a tuple with one for each axis. An even window has one position more after its centre than before.
        eps: added to the mean of squares, in the units of x squared: the paper's sigma squared.
        affine, bias, channel_axis, dtype: see `BatchNorm`.

    Raises:
        ValueError: x has another number of channels, no axis of positions, or another number of them than the windows;
            or x is float64, and a value exceeds 2^500 while a position is smaller by more than this factor. TypeError:
            x is not a float array.

    Source:
        M. Ren, R. Liao, R. Urtasun, F. H. Sinz and R. S. Zemel, "Normalizing the Normalizers: Comparing and Extending
        Network Normalization Schemes", 2017, arXiv:1611.04520, after M. Carandini and D. J. Heeger, "Normalization as a
        canonical neural computation", 2012. eps 1 is its code's, which pads with zeros that count as values and divides
        the sum over B by the size of A; here, as in the formula of the paper, A and B only contain positions inside x.
        With windows over all positions it is LayerNorm over channels and positions.

    >>> import numpy as np, normzoo as nz
    >>> nz.DivisiveNorm(1, 3, 3)(np.array([[[0, 3, 0]]], np.float32)).round(2)
    array([[[-0.74,  1.02, -0.74]]], dtype=float32)
    """

    eps: float

    def __init__(
        self,
        num_features: int,
        sum_window: int | tuple[int, ...],
        sup_window: int | tuple[int, ...],
        eps: float = 1.0,
        affine: bool = True,
        *,
        bias: bool = True,
        channel_axis: int = 1,
        dtype: Any = np.float32,
    ) -> None:
        self.num_features = check_features("DivisiveNorm", num_features)
        super().__init__(
            num_features,
            sum_window,
            sup_window,
            shape=(num_features,),
            eps=eps,
            weight=affine,
            bias=affine and bias,
            dtype=dtype,
        )
        self.sum_window = check_window(self, "sum_window", sum_window)
        self.sup_window = check_window(self, "sup_window", sup_window)
        self.channel_axis = check_size(self, "channel_axis", channel_axis, least=-(2**31))

    def forward(self, x: Array, out: Array | None = None) -> tuple[Array, Saved]:
        x = base_array(self, "x", x)
        for name in ("sum_window", "sup_window"):
            axis = check_windows(self, x, self.channel_axis, self.num_features, name, getattr(self, name))
        if out is not None:
            check_out(self, out, x.shape, x.dtype, (x,), tuple(self.params.values()))
        one = unit_of_samples(x, self.eps**0.5)
        if (one != 1).any():
            check_range(self, np.moveaxis(x, axis, 1), tuple(range(1, x.ndim)), 1)
        return by_windows(Task(self, axis, self.params, one, partial(self._find, one)), x, out)

    def _find(self, one: Array, backend: Backend, mean: Array, variance: Array) -> Found:
        center_of, center_back = windows(backend, mean.shape, [np.ones(n) for n in self.sum_window])
        spread_of, spread_back = windows(backend, mean.shape, [np.ones(n) for n in self.sup_window])
        eps = (self.eps * one * one).reshape(-1, *[1] * (mean.ndim - 1))
        center = center_of(mean)
        apart = mean - center
        rstd = reciprocal(np.sqrt(spread_of(variance + apart * apart) + eps))

        def pull(g: Array, gx: Array) -> tuple[Array, Array]:
            dv = spread_back(-gx * rstd * rstd)  # half of what v * v takes, twice
            return -center_back(rstd * g + apart * dv), dv * reciprocal(rstd)

        return Found(center, rstd, pull)

    def _options(self) -> dict[str, Any]:
        affine = {"affine": "weight" in self.params, "bias": "bias" in self.params}
        return super()._options() | affine | {"channel_axis": self.channel_axis}


def check_window(owner: object, name: str, window: Any) -> tuple[int, ...]:
    """One or more sizes of a window, each at least 1."""
    return tuple(check_size(owner, name, size, least=1) for size in check_shape(owner, name, window))


def check_windows(
    owner: object, x: Array, channel_axis: int, features: int | None, name: str, window: tuple[int, ...]
) -> int:
    """x has samples, channels and positions, and a size of the window for all axes of positions, or for each; the axis
    of the channels."""
    axis = check_channels(owner, x, channel_axis, 3, features)
    if axis == 0:
        raise ValueError(f"{owner}: expected the samples on axis 0 of x, got channel_axis={channel_axis}")
    if len(window) not in (1, x.ndim - 2):
        raise ValueError(f"{owner}: expected {name} of {x.ndim - 2} sizes for x of shape {x.shape}, got {window}")
    return axis
