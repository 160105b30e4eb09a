"""Batch normalization by running statistics that include the batch, in training; and by a blend, at test time."""

from typing import Any

import numpy as np

from normzoo.backends.contract import Array
from normzoo.passes.affine import Find, affine, standardized
from normzoo.passes.arrays import check_spread
from normzoo.passes.form import UNTRACKED, Form
from normzoo.passes.numbers import check_number
from normzoo.passes.saved import Saved
from normzoo.statistics.running import How, normalize_tracked
from normzoo.statistics.running_state import RunningState
from normzoo.statistics.tracked import TrackedNorm
from normzoo.zoo.batch.batch_norm import MESSAGES, BatchNorm, check_own


class EMABatchNorm(BatchNorm):
    """Batch normalization that trains with its running statistics, after they were updated by the batch.

    Formula:
        running = (1 - momentum) * running + momentum * new, where new is the batch's mean and biased var over all axes
        but the channels', then y = (x - running_mean) / sqrt(running_var + eps) * weight + bias. The gradient is exact:
        it goes through the batch's share of the statistics; earlier statistics are constants. The first batch is all of
        the statistics. Evaluation does not update them.

    Shapes:
        x, y: (N, C), (N, C, L), (N, C, H, W), ...; with channel_axis=-1, (N, ..., C).
        weight, bias, running_mean, running_var: (C,).

    Args:
        num_features: C.
        eps: added to the variance, in the units of x squared; above 0 in training.
        momentum: the batch's share, 0 to 1; equinox's momentum=0.99 is 0.01 here. None averages all batches equally.
        affine, bias, channel_axis, dtype: see `BatchNorm`.

    Raises:
        ValueError: as `BatchNorm`, or float64 values so large (2^500) that a variance overflows. TypeError: x is not a
            float array. Nothing has changed then.

    Training and evaluation use the same formula, so running_var is biased here, as is the variance that normalizes.
    Other methods to train with running statistics have other gradients: MABN (Yan et al. 2020) also averages the
    gradients of the statistics, and in EMAN (Cai et al. 2021) the teacher's statistics are averages of its student's.

    Source:
        Semantics of equinox.nn.BatchNorm(mode="ema"), https://docs.kidger.site/equinox/api/nn/normalisation; for the
        idea J. Yan, R. Wan, X. Zhang, W. Zhang, Y. Wei and J. Sun, "Towards Stabilizing Batch Statistics in Backward
        Propagation of Batch Normalization", 2020, arXiv:2001.06838. At momentum 1 it trains as BatchNorm does.

    >>> import numpy as np, normzoo as nz
    >>> norm = nz.EMABatchNorm(1, momentum=0.5)
    >>> norm(np.array([[0], [2]], np.float32)).round(2).ravel()  # the first batch: mean 1, var 1
    array([-1.,  1.], dtype=float32)
    >>> norm(np.array([[2], [4]], np.float32)).round(2).ravel()  # mean (1 + 3) / 2
    array([0., 2.], dtype=float32)
    """

    recalibrates = "biased"

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.01,
        affine: bool = True,
        *,
        bias: bool = True,
        channel_axis: int = 1,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, bias=bias, channel_axis=channel_axis, dtype=dtype)

    def forward(self, x: Array, out: Array | None = None, *, update_stats: bool = True) -> tuple[Array, Saved]:
        if not self.training:
            return super().forward(x, out, update_stats=update_stats)
        axes, running, count = self.axes(x), self._running(), self.buffers["num_batches_tracked"]
        check_own(self, x, axes.values, self.eps)
        mean, var, batches = RunningState(*running, count).read()
        past = mean.astype(np.float64), check_spread(self, "running_var", var)
        find = blended(self, past, self._share(batches.item(), *past))
        y, stats, saved = affine(Form(self, axes, self.moments, self.eps), x, self.params, find, out, running)

        def joined(batches: int, *running: Array) -> list[Array]:
            old = [a.astype(np.float64) for a in running]
            share = self._share(batches, *old)
            return [_joined(a, b.reshape(-1), share) for a, b in zip(old, stats[:2], strict=True)]

        if update_stats:
            self._take_in(x.size, joined)
        return y, saved

    def _share(self, batches: int, mean: Array, var: Array) -> float:
        """The weight of the next batch: 1 if it is the first. Statistics loaded without a number of batches, which
        other frameworks do not have, count as earlier batches."""
        first = batches == 0 and not mean.any() and bool((var == 1).all())
        return 1.0 if first else self._step(batches)

    def _options(self) -> dict[str, Any]:
        options = super()._options()
        del options["track_running_stats"]
        return options


class AlphaBatchNorm(BatchNorm):
    """Batch normalization that, at test time, blends running statistics with those of the test batch.

    Formula:
        Training is that of BatchNorm. In evaluation y = (x - mean) / sqrt(var + eps) * weight + bias with
        mean = alpha * running_mean + (1 - alpha) * mean(x) and var = alpha * running_var + (1 - alpha) * var(x), where
        mean(x) and (biased) var(x) are over all axes but the channels'. The gradient goes through them.

    Shapes:
        x, y: (N, C), (N, C, L), (N, C, H, W), ...; with channel_axis=-1, (N, ..., C).
        weight, bias, running_mean, running_var: (C,).

    Args:
        num_features: C.
        eps, momentum, affine: see `BatchNorm`.
        alpha: share of the running statistics, 0 to 1, which the paper tunes. It may be set between calls.
        bias, channel_axis, dtype: see `BatchNorm`.

    Raises:
        ValueError: alpha is not in [0, 1], or float64 values so large (2^500) that a variance overflows; otherwise as
            `BatchNorm`. TypeError: x is not a float array.

    Schneider et al. (2020, arXiv:2006.16971) take alpha = N / (N + n) for a batch of n, with N = 16 or so.

    Source:
        F. You, J. Li and Z. Zhao, "Test-time Batch Statistics Calibration for Covariate Shift", 2021,
        arXiv:2110.04065. At alpha 1 it evaluates as BatchNorm does, at alpha 0 as BatchNorm trains.

    >>> import numpy as np, normzoo as nz
    >>> norm = nz.AlphaBatchNorm(1, alpha=0.5).eval()
    >>> norm(np.array([[0], [2]], np.float32)).round(2).ravel()  # mean (0 + 1) / 2, var (1 + 1) / 2
    array([-0.5,  1.5], dtype=float32)
    """

    recalibrates = "unbiased"

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        alpha: float = 0.9,
        *,
        bias: bool = True,
        channel_axis: int = 1,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, bias=bias, channel_axis=channel_axis, dtype=dtype)
        self.alpha = alpha

    @property
    def alpha(self) -> float:
        """Share of the running statistics."""
        return self._alpha

    @alpha.setter
    def alpha(self, value: float) -> None:
        value = check_number(self, "alpha", value)
        if not 0 <= value <= 1:
            raise ValueError(f"{self}: expected alpha in [0, 1], got {value}")
        self._alpha = value

    def forward(self, x: Array, out: Array | None = None, *, update_stats: bool = True) -> tuple[Array, Saved]:
        if self.training or self.alpha == 1:
            return super().forward(x, out, update_stats=update_stats)
        axes = self.axes(x)
        if self.alpha == 0:
            form = Form(self, axes, self.moments, self.eps)
            return normalize_tracked(form, x, self.weight, self.bias, UNTRACKED, How(True, MESSAGES), out)
        running = self.buffers["running_mean"], self.buffers["running_var"]
        mean, var = RunningState(*running).read()
        past = mean.astype(np.float64), check_spread(self, "running_var", var)
        find = blended(self, past, 1 - self.alpha)
        y, _, saved = affine(Form(self, axes, self.moments, self.eps), x, self.params, find, out, running)
        return y, saved

    def _options(self) -> dict[str, Any]:
        options = super()._options() | {"alpha": self.alpha}
        del options["track_running_stats"]
        return options


def blended(norm: TrackedNorm, past: tuple[Array, ...], share: float) -> Find:
    """Statistics blended of x's own, with weight `share`, and of earlier ones."""
    weight, bias = (p if p is None else p.astype(np.float64) for p in (norm.weight, norm.bias))

    def find(mean: Array, var: Array) -> tuple[Array, Array, Any]:
        slope, shift, pull = standardized(
            mean,
            _joined(past[0], mean, share),
            _joined(past[1], var, share),
            np.ones(()) if weight is None else weight,
            np.zeros(()) if bias is None else bias,
            norm.eps,
        )

        def back(dslope: Array, dshift: Array) -> tuple[Array, Array, dict[str, Array]]:
            dmean, dcenter, dvar, dweight, dbias = pull(dslope, dshift)
            return dmean + share * dcenter, share * dvar, {"weight": dweight, "bias": dbias}

        return slope, shift, back

    return find


def _joined(past: Array, new: Array, share: float) -> Array:
    return new if share == 1 else (1 - share) * past + share * new
