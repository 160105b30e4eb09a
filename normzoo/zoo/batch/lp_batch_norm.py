"""Batch normalization by other measures of spread than the variance: mean or largest absolute deviation."""

from typing import Any

import numpy as np

from normzoo.backends.contract import CONSTANT, Array, Moments
from normzoo.backends.forms import Formula
from normzoo.passes.affine import placed
from normzoo.passes.arrays import base_array, check_spread, compute_dtype, kernel_array
from normzoo.passes.attributes import entry
from normzoo.passes.cell_layout import cells_of
from normzoo.passes.form import Form
from normzoo.passes.formulas import reciprocal
from normzoo.passes.normalize import normalize
from normzoo.passes.numbers import check_number, check_size
from normzoo.passes.overlaps import check_out
from normzoo.passes.saved import Chained, Grads, Saved, empty_in_layout, layout_of
from normzoo.passes.whole import now
from normzoo.statistics.running import normalize_by
from normzoo.statistics.running_state import RunningState
from normzoo.zoo.batch.batch_norm import BatchNorm, check_own

GAUSSIAN = (np.pi / 2) ** 0.5  # std / mean(|x - mean|) of a normal distribution


def _plus(x: Any, more: Any) -> tuple[Any, ...]:
    return (x + more,)


PLUS = Formula(_plus, 1, 1)


class ScaledBatchNorm(BatchNorm):
    """Base class: norms with a running scale, which divides x in evaluation."""

    spread = "running_scale"
    running_scale = entry("buffers", "running_scale")

    def evaluate(self, x: Array, out: Array | None) -> tuple[Array, Saved]:
        """For authors of norms: y by the running statistics, and the `Saved`."""
        running = self.buffers["running_mean"], self.buffers["running_scale"]
        mean, scale = RunningState(*running).read()
        rstd = reciprocal(check_spread(self, "running_scale", scale) + self.eps)
        return normalize_by(
            Form(self, self.axes(x), CONSTANT, 0.0), x, (mean, rstd), self.weight, self.bias, out, running
        )

    def track(self, x: Array, running: tuple[Array, ...], mean: Array, scale: Array) -> None:
        """For authors of norms: update the running statistics by those of the batch."""
        if running:
            self._join((mean, scale), x.size)


class L1BatchNorm(ScaledBatchNorm):
    """L1 batch normalization: normalize every channel by its mean and mean absolute deviation.

    Formula:
        y = (x - mean) / (scale + eps) * weight + bias, scale = factor * mean(|x - mean|), with the means over all axes
        but the channels'. In training running = (1 - momentum) * running + momentum * new for mean and scale; in
        evaluation these are used. Where x equals the mean, |x - mean| has the derivative 0.

    Shapes:
        x, y: (N, C), (N, C, L), (N, C, H, W), ...; with channel_axis=-1, (N, ..., C).
        weight, bias, running_mean, running_scale: (C,).

    Args:
        num_features: C.
        eps: added to the scale, in the units of x; above 0 in training.
        momentum, affine, track_running_stats: see `BatchNorm`.
        factor: sqrt(pi / 2) gives a normal distribution the scale of its standard deviation.
        bias, channel_axis, dtype: see `BatchNorm`.

    Raises:
        ValueError: factor is not above 0; otherwise as `BatchNorm`. TypeError: x is not a float array. Nothing has
            changed then.

    S. Wu et al., "L1-Norm Batch Normalization for Efficient Training of Deep Neural Networks" (2018, arXiv:1802.09769),
    use factor=1, so the weight takes over the factor.

    Source:
        E. Hoffer, R. Banner, I. Golan and D. Soudry, "Norm matters: efficient and accurate normalization schemes in
        deep networks", 2018, arXiv:1803.01814.

    >>> import numpy as np, normzoo as nz
    >>> nz.L1BatchNorm(1, factor=1)(np.array([[0], [2], [10]], np.float32)).round(2).ravel()
    array([-1. , -0.5,  1.5], dtype=float32)
    """

    moments = Moments(center=True, power=1)

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        factor: float = GAUSSIAN,
        *,
        bias: bool = True,
        channel_axis: int = 1,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, bias=bias, channel_axis=channel_axis, dtype=dtype
        )
        self.factor = check_number(self, "factor", factor)
        if not 0 < self.factor < np.inf:
            raise ValueError(f"{self}: expected factor > 0, got {factor}")

    def forward(self, x: Array, out: Array | None = None, *, update_stats: bool = True) -> tuple[Array, Saved]:
        if not self.training and self.track_running_stats:
            return self.evaluate(x, out)
        axes, weight, bias, factor = self.axes(x), self.weight, self.bias, self.factor
        check_own(self, x, axes.values, self.eps)
        running = self._running() if self.track_running_stats and update_stats else ()
        # d / (factor * s + eps) = d / (s + eps / factor) / factor
        dtype = compute_dtype(x.dtype, *(p.dtype for p in self.params.values()))
        ones = np.ones(self.num_features)
        w = ((ones if weight is None else weight) / np.float64(factor)).astype(dtype)
        y, stats, part = normalize(
            Form(self, axes, self.moments, self.eps / factor), x, w, bias, out, apart=(*running, *self.params.values())
        )
        self.track(x, running, stats[0].reshape(-1), factor * stats[1].reshape(-1))

        def pull(dy: Array, out: Array | None) -> Grads:
            found = part.backward(dy, out)
            dweight = None if weight is None else (found.weight / np.float64(factor)).astype(weight.dtype)
            return Grads(found.x, dweight, found.bias)

        return y, Chained(self, x, pull, (part,))

    def _options(self) -> dict[str, Any]:
        return super()._options() | {"factor": float(self.factor)}


class LInfBatchNorm(ScaledBatchNorm):
    """L-infinity batch normalization: normalize every channel by its mean and the mean of its k largest deviations.

    Formula:
        y = (x - mean) / (scale + eps) * weight + bias, scale = C(n) * m, where m is the mean of the k largest
        |x - mean| of the n values of a channel, with C(n) = (1 + sqrt(pi * ln(4))) / (2 * sqrt(2 * ln(n))): about the
        standard deviation of a normal distribution. In training running = (1 - momentum) * running + momentum * new for
        mean and scale; in evaluation these are used. Of equal deviations the first ones in the order of x's axes are
        among the k.

    Shapes:
        x, y: (N, C), (N, C, L), (N, C, H, W), ...; with channel_axis=-1, (N, ..., C).
        weight, bias, running_mean, running_scale: (C,).

    Args:
        num_features: C.
        k: number of largest deviations; 1 is the L-infinity norm, the paper's Top(10) is 10.
        eps: added to the scale, in the units of x; above 0 in training.
        momentum, affine, track_running_stats, bias, channel_axis, dtype: see `BatchNorm`.

    Raises:
        ValueError: a channel has fewer than k values, in training; otherwise as `BatchNorm`. TypeError: x is not a
            float array. Nothing has changed then.

    The paper bounds the constant for a normal distribution from both sides; C(n) is the middle of the bounds in the
    authors' code, https://github.com/eladhoffer/convNet.pytorch, whose k is 10.

    Source:
        E. Hoffer, R. Banner, I. Golan and D. Soudry, "Norm matters: efficient and accurate normalization schemes in
        deep networks", 2018, arXiv:1803.01814.

    >>> import numpy as np, normzoo as nz
    >>> nz.LInfBatchNorm(1)(np.array([[-2], [1], [1]], np.float32)).round(2).ravel()
    array([-0.96,  0.48,  0.48], dtype=float32)
    """

    def __init__(
        self,
        num_features: int,
        k: int = 1,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        bias: bool = True,
        channel_axis: int = 1,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, bias=bias, channel_axis=channel_axis, dtype=dtype
        )
        self.label.arguments = num_features, k
        self.k = check_size(self, "k", k, least=1)

    def forward(self, x: Array, out: Array | None = None, *, update_stats: bool = True) -> tuple[Array, Saved]:
        if not self.training and self.track_running_stats:
            return self.evaluate(x, out)
        axes, weight = self.axes(x), self.weight
        n, k, channel = axes.values, self.k, self.channel_axis % x.ndim
        check_own(self, x, n, self.eps)
        if x.size and n < k:
            raise ValueError(f"{self}: expected at least k = {k} values per channel, got x of shape {x.shape}")
        running = self._running() if self.track_running_stats and update_stats else ()
        x = base_array(self, "x", x)
        if out is not None:
            check_out(self, out, x.shape, x.dtype, (x,), (*running, *self.params.values()))
        like = x.shape, x.dtype, layout_of(x)
        narrow = x.dtype.itemsize == 2
        v = x.astype(np.float32) if narrow else x
        # 1 moments
        y, stats, _ = normalize(Form(self, axes, self.moments, self.eps), v, None, None, keep=False)
        mean = stats[0].reshape(-1)
        constant = (1 + (np.pi * np.log(4)) ** 0.5) / (2 * (2 * np.log(max(n, 2))) ** 0.5) / k
        order, dims = cells_of(v, "n" * channel + "c" + "n" * (x.ndim - channel - 1))
        flat = kernel_array(v.transpose(order), v.dtype.newbyteorder("="))
        chosen, places = now().largest(dims, k, flat.dtype)(flat, mean) if x.size else (np.zeros(0, np.int64),) * 2
        deviation = flat.reshape(-1)[places] - mean[chosen]
        where, signs = np.unravel_index(places, flat.shape), np.sign(deviation)
        scale = constant * np.bincount(chosen, np.abs(deviation), len(mean)) + 0 * mean  # NaN if the mean is
        rstd = np.divide(1.0, scale + self.eps)
        # 2 normalize
        y, part = normalize_by(
            Form(self, axes, CONSTANT, 0.0), v, (mean, rstd), *self._affine(v), y if out is None or narrow else out
        )
        if narrow:
            y = placed(y, empty_in_layout(*like) if out is None else out)
        self.track(x, running, mean, scale)
        params = self.params

        def pull(dy: Array, out: Array | None) -> Grads:
            found = part.backward(dy.astype(np.float32) if narrow and dy.dtype.itemsize == 2 else dy)
            gamma = 1.0 if weight is None else weight.astype(np.float64)
            dmean = -rstd * gamma * found.bias
            dscale = -rstd * gamma * found.weight * constant  # gradient of the sum of the k deviations
            dmean -= dscale * np.bincount(chosen, signs, len(mean))
            dx = found.x
            d = dx.transpose(order)
            if x.size and d.flags.c_contiguous and d.dtype.isnative:
                now().cells(dims, PLUS, ("c",), dx.dtype, dx.dtype)((d,), (dmean[None] / n,), (d,))
            else:
                d += (dmean / max(n, 1)).astype(d.dtype).reshape([-1 if i == channel else 1 for i in order])
            d[where] += dscale[chosen] * signs
            if narrow or out is not None:
                dx = placed(dx, empty_in_layout(*like) if out is None else out)
            grads = {name: getattr(found, name).astype(p.dtype) for name, p in params.items()}
            return Grads(dx, **grads)

        return y, Chained(self, x, pull, (part,))

    def _affine(self, x: Array) -> tuple[Array, Array]:
        """weight and bias, or ones and zeros: their gradients are needed in any case."""
        dtype = compute_dtype(x.dtype)
        weight, bias = self.weight, self.bias
        ones, zeros = np.ones(self.num_features, dtype), np.zeros(self.num_features, dtype)
        return ones if weight is None else weight, zeros if bias is None else bias
