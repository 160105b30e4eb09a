"""Mixtures of instance, layer and batch statistics: switchable normalization, and batch-instance normalization."""

from typing import Any

import numpy as np

from normzoo.backends.contract import Array, Moments
from normzoo.passes.affine import affine, standardized
from normzoo.passes.arrays import check_spread
from normzoo.passes.attributes import entry
from normzoo.passes.form import Form
from normzoo.passes.numbers import check_features, check_size
from normzoo.passes.saved import Saved
from normzoo.statistics.running_state import RunningState
from normzoo.statistics.tracked import TrackedNorm
from normzoo.zoo.batch.virtual_batch_norm import sample_axes


class MixedNorm(TrackedNorm):
    """Base class: norms by batch statistics, merged from those of the instances, or by running statistics."""

    moments = Moments(center=True, power=2)

    def __init__(
        self,
        num_features: int,
        eps: float,
        momentum: float | None,
        affine: bool,
        bias: bool,
        track_running_stats: bool,
        channel_axis: int,
        dtype: Any,
    ) -> None:
        check_features(type(self).__name__, num_features)
        super().__init__(
            num_features,
            eps=eps,
            momentum=momentum,
            track_running_stats=track_running_stats,
            weight=affine,
            bias=affine and bias,
            dtype=dtype,
        )
        self.channel_axis = check_size(self, "channel_axis", channel_axis, least=-(2**31))

    def forward(self, x: Array, out: Array | None = None, *, update_stats: bool = True) -> tuple[Array, Saved]:
        """See `BatchNorm.forward`."""
        axes = sample_axes(self, x, self.channel_axis, self.num_features, 2)
        tracked = self.training and self.track_running_stats
        past = None
        running: tuple[Array, Array] | tuple[()] = self._running() if tracked else ()
        if not self.training and self.track_running_stats:
            running = self.buffers["running_mean"], self.buffers["running_var"]
            mean, var = RunningState(*running).read()
            past = mean.astype(np.float64), check_spread(self, "running_var", var)
        params = {name: p.astype(np.float64) for name, p in self.params.items()}

        def find(mean: Array, var: Array) -> tuple[Array, Array, Any]:
            return self.mix(mean, var, past, params)

        y, stats, saved = affine(Form(self, axes, self.moments, self.eps), x, self.params, find, out, running)
        if running and self.training and update_stats:
            with np.errstate(all="ignore"):
                mean, var = stats[:2].reshape(2, x.shape[0], self.num_features)
                merged = _merged(mean, var, 0)
            self._update(np.stack([*merged, merged[0]]).reshape(3, 1, -1), x.shape[0] * axes.values, x.size)
        return y, saved

    def mix(
        self, mean: Array, var: Array, past: tuple[Array, Array] | None, params: dict[str, Array]
    ) -> tuple[Array, Array, Any]:
        """For authors of norms: slope, shift and the backward function (see `affine`), from the instances' statistics
        (N, C) and the running ones."""
        raise NotImplementedError

    def _options(self) -> dict[str, Any]:
        options = super()._options()
        del options["track_running_stats"]
        return options


class SwitchableNorm(MixedNorm):
    """Switchable normalization: normalize by a learned mixture of instance, layer and batch statistics.

    Formula:
        y = (x - mean) / sqrt(var + eps) * weight + bias, with
            mean = sum of softmax(mean_weight)[k] * mean_k    var = sum of softmax(var_weight)[k] * var_k
        over k = instance (positions of one channel of one sample), layer (channels and positions of one sample) and
        batch (samples and positions of one channel), all variances biased. In evaluation the running statistics replace
        those of the batch, and are constants in the gradient.

    Shapes:
        x, y: (N, C, L), (N, C, H, W), ...; with channel_axis=-1, (N, ..., C).
        weight, bias, running_mean, running_var: (C,). mean_weight, var_weight: (3,), or (2,) without batch statistics.

    Args:
        num_features: C.
        eps: added to the variance, in the units of x squared.
        momentum: weight of the new value in the running statistics, 0 to 1; the code's momentum=0.9 is 0.1 here. None
            averages all batches equally, the paper's "batch average".
        using_bn: False: no batch statistics.
        affine, bias, channel_axis, dtype: see `BatchNorm`.

    Raises:
        ValueError: x has another number of channels, or one position per channel, or float64 values so large (2^500)
            that a variance overflows. TypeError: x is not a float array. Nothing has changed then.

    The authors' code uses the unbiased variance of an instance (the paper: biased), derives those of layer and batch
    from it, and tracks the variance of the batch; here the running variance is unbiased, as BatchNorm's.

    Source:
        P. Luo, J. Ren, Z. Peng, R. Zhang and J. Li, "Differentiable Learning-to-Normalize via Switchable
        Normalization", 2018, arXiv:1806.10779. With all weight on one of the three it is InstanceNorm, LayerNorm over
        channels and positions, or BatchNorm.

    >>> import numpy as np, normzoo as nz
    >>> norm = nz.SwitchableNorm(1)
    >>> norm(np.array([[[0, 2]], [[4, 6]]], np.float32)).round(2).reshape(2, 2)
    array([[-1.09,  0.22],
           [-0.22,  1.09]], dtype=float32)
    """

    mean_weight = entry("params", "mean_weight")
    var_weight = entry("params", "var_weight")

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        using_bn: bool = True,
        *,
        affine: bool = True,
        bias: bool = True,
        channel_axis: int = 1,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, bias, using_bn, channel_axis, dtype)
        self.using_bn = bool(using_bn)
        for name in ("mean_weight", "var_weight"):
            self.params[name] = np.ones(3 if using_bn else 2, self._dtype)

    def mix(
        self, mean: Array, var: Array, past: tuple[Array, Array] | None, params: dict[str, Array]
    ) -> tuple[Array, Array, Any]:
        weight, bias = params.get("weight", np.ones(())), params.get("bias", np.zeros(()))
        shares = _softmax(params["mean_weight"]), _softmax(params["var_weight"])
        means, variances = [mean], [var]
        for axis in (1, 0) if self.using_bn else (1,):
            merged = _merged(mean, var, axis) if axis or past is None else past
            means.append(merged[0])
            variances.append(merged[1])
        center = sum(s * m for s, m in zip(shares[0], means, strict=True))
        spread = sum(s * v for s, v in zip(shares[1], variances, strict=True))
        slope, shift, pull = standardized(mean, center, spread, weight, bias, self.eps)
        using_bn = self.using_bn

        def back(dslope: Array, dshift: Array) -> tuple[Array, Array, dict[str, Array]]:
            dmean, dcenter, dspread, dweight, dbias = pull(dslope, dshift)
            grads = {"weight": dweight.sum(axis=0), "bias": dbias.sum(axis=0)}
            for name, share, d, values in (
                ("mean_weight", shares[0], dcenter, means),
                ("var_weight", shares[1], dspread, variances),
            ):
                along = np.array([(d * v).sum() for v in values])
                grads[name] = share * (along - (share * along).sum())
            dmean, dvar = dmean + shares[0][0] * dcenter, shares[1][0] * dspread
            for k, axis in enumerate((1, 0) if using_bn and past is None else (1,), start=1):
                one, other = _merged_back(mean, means[k], shares[0][k] * dcenter, shares[1][k] * dspread, axis)
                dmean, dvar = dmean + one, dvar + other
            return dmean, dvar, grads

        return slope, shift, back

    def _options(self) -> dict[str, Any]:
        return super()._options() | {"using_bn": self.using_bn}


class BatchInstanceNorm(MixedNorm):
    """Batch-instance normalization: a learned blend of batch-normalized and instance-normalized x.

    Formula:
        y = (rho * x_B + (1 - rho) * x_I) * weight + bias, with x_B normalized by BatchNorm, x_I by InstanceNorm, and
        one rho per channel, clipped to [0, 1]. In evaluation x_B uses the running statistics. The gradient of a rho
        outside of [0, 1] is 0.

    Shapes:
        x, y: (N, C, L), (N, C, H, W), ...; with channel_axis=-1, (N, ..., C).
        weight, bias, rho, running_mean, running_var: (C,).

    Args:
        num_features: C.
        eps, momentum, affine, bias, channel_axis, dtype: see `BatchNorm`. Without affine, rho is the only parameter.

    Raises:
        ValueError: x has another number of channels, or one position per channel, or float64 values so large (2^500)
            that a variance overflows. TypeError: x is not a float array. Nothing has changed then.

    The paper clips rho after each step of the optimizer (`np.clip(norm.rho, 0, 1, out=norm.rho)`); with a rho that is
    clipped so, results are the same. The authors' code calls it bin_gate; both start at 1.

    Source:
        H. Nam and H.-E. Kim, "Batch-Instance Normalization for Adaptively Style-Invariant Neural Networks", 2018,
        arXiv:1805.07925. It is BatchNorm at rho = 1 and InstanceNorm at rho = 0.

    >>> import numpy as np, normzoo as nz
    >>> norm = nz.BatchInstanceNorm(1)
    >>> norm.rho[:] = 0.5
    >>> norm(np.array([[[0, 2]], [[4, 6]]], np.float32)).round(2).reshape(2, 2)
    array([[-1.17,  0.28],
           [-0.28,  1.17]], dtype=float32)
    """

    rho = entry("params", "rho")

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        *,
        bias: bool = True,
        channel_axis: int = 1,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, bias, True, channel_axis, dtype)
        self.params["rho"] = np.ones(num_features, self._dtype)

    def mix(
        self, mean: Array, var: Array, past: tuple[Array, Array] | None, params: dict[str, Array]
    ) -> tuple[Array, Array, Any]:
        weight, bias, rho = params.get("weight", np.ones(())), params.get("bias", np.zeros(())), params["rho"]
        inside = (rho >= 0) & (rho <= 1)
        gate = np.clip(rho, 0.0, 1.0)
        batch_mean, batch_var = _merged(mean, var, 0) if past is None else past
        one, none = np.ones(()), np.zeros(())
        batch_slope, batch_shift, batch_pull = standardized(mean, batch_mean, batch_var, one, none, self.eps)
        own_slope, _, own_pull = standardized(mean, mean, var, one, none, self.eps)  # its shift is 0
        slope, shift = gate * batch_slope + (1 - gate) * own_slope, gate * batch_shift

        def back(dslope: Array, dshift: Array) -> tuple[Array, Array, dict[str, Array]]:
            dgate = (weight * ((batch_slope - own_slope) * dslope + batch_shift * dshift)).sum(axis=0)
            grads = {
                "weight": (slope * dslope + shift * dshift).sum(axis=0),
                "bias": dshift.sum(axis=0),
                "rho": np.where(inside, dgate, 0.0),
            }
            dslope, dshift = weight * dslope, weight * dshift
            dmean, dcenter, dspread, *_ = batch_pull(gate * dslope, gate * dshift)
            from_own = own_pull((1 - gate) * dslope, (1 - gate) * dshift)
            dmean, dvar = dmean + from_own[0] + from_own[1], from_own[2]
            if past is None:
                first, second = _merged_back(mean, batch_mean, dcenter, dspread, 0)
                dmean, dvar = dmean + first, dvar + second
            return dmean, dvar, grads

        return weight * slope, weight * shift + bias, back


def _merged(mean: Array, var: Array, axis: int) -> tuple[Array, Array]:
    """Mean and variance of the union of sets of equal size, along `axis` (kept with size 1)."""
    size = max(mean.shape[axis], 1)
    merged = mean.sum(axis=axis, keepdims=True) / size
    return merged, (var + (mean - merged) ** 2).sum(axis=axis, keepdims=True) / size


def _merged_back(mean: Array, merged: Array, dmerged: Array, dvar: Array, axis: int) -> tuple[Array, Array]:
    """The gradients of mean and var, for those of the merged mean and variance."""
    size = max(mean.shape[axis], 1)
    dmerged, dvar = (d.sum(axis=axis, keepdims=True) / size for d in (dmerged, dvar))
    return dmerged + 2 * (mean - merged) * dvar, np.broadcast_to(dvar, mean.shape)


def _softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()
