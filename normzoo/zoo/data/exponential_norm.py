"""Norms along time, every channel by its own past: exponentially forgotten, or all of it."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from normzoo.backends.contract import Array
from normzoo.backends.forms import Following
from normzoo.passes.numbers import check_number
from normzoo.zoo.data.by_past import ByPast


class ExponentialNorm(ByPast):
    """Exponential moving normalization: every value by the moving mean and variance of its channel up to it.

    Formula:
        y[t] = (x[t] - mean[t]) / sqrt(var[t] + eps) * weight + bias, with a = max(alpha, 1 / (t + 1)), d = x[t] -
        mean[t - 1], mean[t] = mean[t - 1] + a * d and var[t] = (1 - a) * (var[t - 1] + a * d^2), for every channel, and
        position if any, of a sample. Without center, var[t] = (1 - a) * var[t - 1] + a * x[t]^2 and no mean is
        subtracted.

    Shapes:
        x, y: (N, C, ..., T); with channel_axis=-1, (N, T, ..., C).
        weight, bias: (C,).

    Args:
        num_features: C.
        alpha: the weight of a new value, 0 to 1; 2 / (span + 1) for a span of steps. Until 1 / alpha steps have come,
            all count alike: the first values weigh no more than the others. With 0 they always do.
        eps: added to the variance, in the units of x squared.
        affine: whether there are a weight and a bias.
        center: whether the mean is subtracted.
        channel_axis: the axis of the channels, 1 or -1; time is at the other end.
        dtype: of the parameters: float32, float64, float16 or bfloat16.

    Raises:
        ValueError: x has another number of channels, or rank below 3. TypeError: x is not a float array.

    `step` takes one time step at a time; its results are bit-identical to those of the whole sequence. The gradient is
    that of the formula, through the mean and the variance of all steps.

    Source:
        T. Finch, "Incremental calculation of weighted mean and variance", 2009,
        https://fanf2.user.srcf.net/hermes/doc/antiforgery/stats.pdf; as a norm of series, E. Ogasawara, L. C. Martinez,
        D. de Oliveira, G. Zimbrao, G. L. Pappa and M. Mattoso, "Adaptive Normalization: A novel data normalization
        approach for non-stationary time series", 2010, doi:10.1109/IJCNN.2010.5596746.

    >>> import numpy as np, normzoo as nz
    >>> norm = nz.ExponentialNorm(1, alpha=0.5)
    >>> norm(np.array([[[0, 2, 4]]], np.float32)).round(2)
    array([[[0. , 1. , 0.9]]], dtype=float32)
    >>> first, past = norm.step(np.array([[0]], np.float32))
    >>> norm.step(np.array([[2]], np.float32), past)[0].round(2)
    array([[1.]], dtype=float32)
    """

    def __init__(
        self,
        num_features: int,
        alpha: float = 0.01,
        eps: float = 1e-5,
        affine: bool = True,
        *,
        center: bool = True,
        channel_axis: int = 1,
        dtype: Any = np.float32,
    ) -> None:
        self._begin(num_features, channel_axis)
        super().__init__(num_features, shape=(num_features,), eps=eps, weight=affine, bias=affine, dtype=dtype)
        self.alpha, self.center = check_number(self, "alpha", alpha), bool(center)
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"{self}: expected alpha in [0, 1], the weight of a new value, got {alpha}")

    @property
    def following(self) -> Following:
        return Following("center" if self.center else "square", self.alpha, self.eps)

    def numbers(self) -> Mapping[str, Array]:
        size = self.num_features
        return {"weight": self.params.get("weight", np.ones(size)), "bias": self.params.get("bias", np.zeros(size))}

    def _options(self) -> dict[str, Any]:
        own = {"affine": "weight" in self.params, "center": self.center}
        return {"alpha": self.alpha} | super()._options() | own


class CumulativeRMSNorm(ByPast):
    """Cumulative root mean square normalization: every value by that of its channel of all values up to it.

    Formula:
        y[t] = x[t] / sqrt(mean_t + eps) * weight, with mean_t of x[0]^2 to x[t]^2, for every channel, and position if
        any, of a sample.

    Shapes:
        x, y: (N, C, ..., T); with channel_axis=-1, (N, T, ..., C).
        weight: (C,).

    Args:
        num_features: C.
        eps: added to the mean square, in the units of x squared.
        affine: whether there is a weight.
        channel_axis: the axis of the channels, 1 or -1; time is at the other end.
        dtype: of the weight: float32, float64, float16 or bfloat16.

    Raises:
        ValueError: x has another number of channels, or rank below 3. TypeError: x is not a float array.

    `step` takes one time step at a time; its results are bit-identical to those of the whole sequence.

    Source:
        B. Zhang and R. Sennrich, "Root Mean Square Layer Normalization", 2019, arXiv:1910.07467, over the steps so far
        as those of Y. Luo and N. Mesgarani, 2018, arXiv:1809.07454. It is ExponentialNorm with alpha 0, without center.

    >>> import numpy as np, normzoo as nz
    >>> nz.CumulativeRMSNorm(1)(np.array([[[1, 7, 5]]], np.float32)).round(2)
    array([[[1. , 1.4, 1. ]]], dtype=float32)
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-8,
        affine: bool = True,
        *,
        channel_axis: int = 1,
        dtype: Any = np.float32,
    ) -> None:
        self._begin(num_features, channel_axis)
        super().__init__(num_features, shape=(num_features,), eps=eps, weight=affine, bias=False, dtype=dtype)

    @property
    def following(self) -> Following:
        return Following("square", 0.0, self.eps)

    def numbers(self) -> Mapping[str, Array]:
        size = self.num_features
        return {"weight": self.params.get("weight", np.ones(size)), "bias": np.zeros(size)}

    def _options(self) -> dict[str, Any]:
        return super()._options() | {"affine": "weight" in self.params}
