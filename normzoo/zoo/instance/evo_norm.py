"""EvoNorm: normalization and activation in one layer, found by a search."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from normzoo.backends.contract import Array
from normzoo.backends.forms import Formula
from normzoo.backends.lanes import choose, fma, larger, sigmoid
from normzoo.passes.arrays import check_spread
from normzoo.passes.attributes import entry
from normzoo.passes.cell_layout import letters_by_channel
from normzoo.passes.cells import Beyond, Pass
from normzoo.passes.cells import Pull as CellPull
from normzoo.passes.formulas import reciprocal, special, standardized, summed
from normzoo.passes.numbers import check_features, check_size
from normzoo.passes.saved import Pull, Saved
from normzoo.zoo.exact import ExactNorm, Update
from normzoo.zoo.instance import instance_norm
from normzoo.zoo.layer import group_norm


def _by_larger(x: Any, v: Any, own: Any, shared: Any, weight: Any, bias: Any) -> tuple[Any, ...]:
    return (fma(x / larger(shared, fma(v, x, own)), weight, bias),)


def _terms_by_larger(dy: Any, x: Any, v: Any, own: Any, shared: Any, weight: Any) -> tuple[Any, ...]:
    line = fma(v, x, own)
    factor = 1.0 / larger(shared, line)
    z = x * factor
    d = -(dy * weight * z * factor)
    above = choose(line - shared, d, 0.0)
    return above, d - above, above * x, dy * z, dy


def _gradient_by_larger(
    dy: Any, x: Any, v: Any, own: Any, shared: Any, weight: Any, high: Any, low: Any, slope: Any, constant: Any
) -> tuple[Any, ...]:
    line = fma(v, x, own)
    factor = 1.0 / larger(shared, line)
    d = dy * weight * factor
    above = choose(line - shared, d * (x * factor) * v, 0.0)
    return (d - above + fma((x - high) - low, slope, constant),)


def _swish(x: Any, v: Any, factor: Any, bias: Any) -> tuple[Any, ...]:
    return (fma(x * sigmoid(v * x), factor, bias),)


def _terms_of_swish(dy: Any, x: Any, v: Any) -> tuple[Any, ...]:
    gate = sigmoid(v * x)
    d = dy * (x * gate)
    return d, dy, d * (1.0 - gate) * x


def _gradient_of_swish(dy: Any, x: Any, v: Any, factor: Any, high: Any, low: Any, slope: Any) -> tuple[Any, ...]:
    gate = sigmoid(v * x)
    return (dy * factor * fma(v * x, gate * (1.0 - gate), gate) - ((x - high) - low) * slope,)


BY_LARGER = Formula(_by_larger, 1, 1)
TERMS_BY_LARGER = Formula(_terms_by_larger, 2, 0, ("bc", "c", "c", "c", "c"))
GRADIENT_BY_LARGER = Formula(_gradient_by_larger, 2, 1)
SWISH, TERMS_OF_SWISH = Formula(_swish, 1, 1), Formula(_terms_of_swish, 2, 0, ("bc", "c", "bc"))
GRADIENT_OF_SWISH = Formula(_gradient_of_swish, 2, 1)


class EvoNormB0(ExactNorm):
    """EvoNorm-B0: divide every value by the larger of its channel's deviation in the batch and a linear function of x.

    Formula:
        y = x / max(sqrt(var_batch + eps), v * x + sqrt(var_instance + eps)) * weight + bias, with (biased) variances
        over the batch and positions of a channel, and over the positions of one channel of one sample. In training
        running_var = (1 - momentum) * running_var + momentum * new, where the new variance is the unbiased one; in
        evaluation it replaces var_batch, and is a constant in the gradient.

    Shapes:
        x, y: (N, C), (N, C, L), (N, C, H, W), ...; with channel_axis=-1, (N, ..., C).
        weight, bias, v, running_var: (C,).

    Args:
        num_features: C.
        eps: added to the variances, in the units of x squared.
        momentum: weight of the new value in the running variance, 0 to 1; None averages all batches equally.
        channel_axis, dtype: see `BatchNorm`.

    Raises:
        ValueError: x has another number of channels, or the samples are not on axis 0; one value per channel in
            training. TypeError: x is not a float array. Nothing has changed then.

    An empty batch is counted in num_batches_tracked and leaves the running variance unchanged.

    Source:
        H. Liu, A. Brock, K. Simonyan and Q. V. Le, "Evolving Normalization-Activation Layers", 2020,
        arXiv:2004.02967: v, named v_1 there, begins at 1. eps 1e-5 is the paper's, timm's EvoNorm2dB0 has 1e-3; the
        unbiased variance is timm's and BatchNorm's.

    >>> import numpy as np, normzoo as nz
    >>> nz.EvoNormB0(1)(np.array([[[-2, 2]]], np.float32)).round(2)
    array([[[-1. ,  0.5]]], dtype=float32)
    """

    counts_empty: ClassVar[bool] = True

    v = entry("params", "v")
    running_var = entry("buffers", "running_var")

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        *,
        channel_axis: int = 1,
        dtype: Any = np.float32,
    ) -> None:
        self.num_features = check_features("EvoNormB0", num_features)
        super().__init__(num_features, shape=(num_features,), eps=eps, dtype=dtype)
        self.params["v"] = np.ones(num_features, self._dtype)
        self.momentum = momentum
        self.buffers["running_var"] = np.ones(num_features, self._dtype)
        self.buffers["num_batches_tracked"] = np.array(0, np.int64)
        self.channel_axis = check_size(self, "channel_axis", channel_axis, least=-(2**31))

    @property
    def num_batches_tracked(self) -> Array:
        """Number of training batches seen, int64 of shape ()."""
        return self.buffers["num_batches_tracked"]

    def check(self, x: Array, **inputs: Array) -> None:
        instance_norm.axes(self, x, self.channel_axis, self.num_features)
        if self.training and x.size == self.num_features:
            raise ValueError(
                f"{self}: expected more than 1 value per channel in training, got x of shape {x.shape}; "
                "use a larger batch or norm.eval()"
            )

    def forward(self, x: Array, out: Array | None = None, *, update_stats: bool = True) -> tuple[Array, Saved]:
        """See `BatchNorm.forward`."""
        return self.exactly(x, out, update_stats=update_stats)

    def letters(self, x: Array) -> str:
        return letters_by_channel(x, self.channel_axis)

    def by_cells(self, cells: Pass, params: Mapping[str, Array]) -> CellPull:
        weight, bias, v = (params[name][None] for name in ("weight", "bias", "v"))
        training, (b, _, n, _) = self.training, cells.dims
        own_mean, own_var = cells.mean_and_var()
        mean = own_mean.mean(axis=0, keepdims=True)
        if training:
            var = own_var.mean(axis=0, keepdims=True) + ((own_mean - mean) ** 2).mean(axis=0, keepdims=True)
            cells.track(self._update(var[0] * (b * n / (b * n - 1))))
        else:
            var = check_spread(self, "running_var", self.buffers["running_var"])[None]
        own, shared = np.sqrt(own_var + self.eps), np.sqrt(var + self.eps)
        if not (shared > 0).all():
            raise Beyond
        cells(BY_LARGER, v, own, shared, weight, bias)

        def pull(cells: Pass) -> dict[str, Array]:
            line, batch, dv, dweight, dbias = cells(TERMS_BY_LARGER, v, own, shared, weight)
            of_own = reciprocal(own) * line / n
            of_batch = reciprocal(shared) * batch / (b * n) if training else 0.0
            high, low = cells.split(own_mean)
            constant = (own_mean - mean) * of_batch
            cells(GRADIENT_BY_LARGER, v, own, shared, weight, high, low, of_own + of_batch, constant)
            return {"v": dv, "weight": dweight, "bias": dbias}

        return pull

    def _update(self, new: Array) -> Update:
        """Of the buffers, by the unbiased variance of a batch."""

        def update(old: Mapping[str, Array]) -> dict[str, Any]:
            batches = old["num_batches_tracked"].item()
            step = 1.0 / (batches + 1) if self.momentum is None else self.momentum
            running = (1 - step) * old["running_var"].astype(np.float64) + step * new
            return {"running_var": running, "num_batches_tracked": batches + 1}

        return update

    def compute(self, x: Array, params: Mapping[str, Array], **inputs: Array) -> tuple[Array, Pull, Update | None]:
        x = np.moveaxis(x, self.channel_axis, 1)
        positions = tuple(range(2, x.ndim))
        batch = (0, *positions)
        shape = self.num_features, *[1] * len(positions)  # shape of a parameter
        weight, bias, v = (params[name].reshape(shape) for name in ("weight", "bias", "v"))
        training, values = self.training, x.size // self.num_features
        if training:
            hat, _, var, rstd = standardized(x, batch, self.eps)
            deviation = reciprocal(rstd)
            new = var.ravel() * (values / (values - 1))
        else:
            var = check_spread(self, "running_var", self.buffers["running_var"]).reshape(shape)
            deviation = np.sqrt(var + self.eps)
        own_hat, _, _, own_rstd = standardized(x, positions, self.eps)
        line = v * x + reciprocal(own_rstd)
        factor = reciprocal(np.maximum(deviation, line))
        z = x * factor
        channel_axis = self.channel_axis

        def pull(dy: Array) -> dict[str, Array]:
            d = np.moveaxis(dy, channel_axis, 1)
            dz = d * weight
            dlargest = -dz * z * factor
            above = line > deviation
            dline = np.where(above, dlargest, 0.0)
            dx = dz * factor + dline * v + own_hat * dline.sum(axis=positions, keepdims=True) * (len(x) / values)
            if training:
                dx += hat * (np.where(above, 0.0, dlargest).sum(axis=batch, keepdims=True) / values)
            return {
                "x": np.moveaxis(dx, 1, channel_axis),
                "v": summed(dline * x, shape),
                "weight": summed(d * z, shape),
                "bias": summed(d, shape),
            }

        update = self._update(new) if training else None
        return np.moveaxis(z * weight + bias, 1, self.channel_axis), pull, update

    def _options(self) -> dict[str, Any]:
        return super()._options() | {"momentum": self.momentum, "channel_axis": self.channel_axis}


class EvoNormS0(ExactNorm):
    """EvoNorm-S0: divide the swish of every value by the deviation of its group of channels, within each sample.

    Formula:
        y = x * sigmoid(v * x) / sqrt(var_group + eps) * weight + bias, with the (biased) variance over the positions
        and the C / groups neighbouring channels of one group of one sample.

    Shapes:
        x, y: (N, C), (N, C, L), (N, C, H, W), ...; with channel_axis=-1, (N, ..., C).
        weight, bias, v: (C,).

    Args:
        num_features: C.
        groups: number of groups; divides num_features.
        eps: added to the variance, in the units of x squared.
        channel_axis, dtype: see `BatchNorm`.

    Raises:
        ValueError: groups does not divide num_features; x has another number of channels, or as many values as groups.
            TypeError: x is not a float array.

    Source:
        H. Liu, A. Brock, K. Simonyan and Q. V. Le, "Evolving Normalization-Activation Layers", 2020,
        arXiv:2004.02967: v, named v_1 there, begins at 1. Groups 32 and eps 1e-5 are the paper's and those of timm's
        EvoNorm2dS0; timm also has a variant S0a with eps 1e-3.

    >>> import numpy as np, normzoo as nz
    >>> nz.EvoNormS0(1, groups=1)(np.array([[[-2, 2]]], np.float32)).round(2)
    array([[[-0.12,  0.88]]], dtype=float32)
    """

    v = entry("params", "v")

    def __init__(
        self,
        num_features: int,
        groups: int = 32,
        eps: float = 1e-5,
        *,
        channel_axis: int = 1,
        dtype: Any = np.float32,
    ) -> None:
        self.num_features = check_features("EvoNormS0", num_features)
        self.groups = check_size("EvoNormS0", "groups", groups, least=1)
        super().__init__(num_features, groups, shape=(num_features,), eps=eps, dtype=dtype)
        group_norm.check_groups(self, groups, num_features)
        self.params["v"] = np.ones(num_features, self._dtype)
        self.channel_axis = check_size(self, "channel_axis", channel_axis, least=-(2**31))

    def check(self, x: Array, **inputs: Array) -> None:
        group_norm.axes(self, x, self.groups, self.channel_axis, self.num_features)

    def letters(self, x: Array) -> str:
        return letters_by_channel(x, self.channel_axis)

    def by_cells(self, cells: Pass, params: Mapping[str, Array]) -> CellPull:
        weight, bias, v = (params[name][None] for name in ("weight", "bias", "v"))
        (b, c, n, _), groups = cells.dims, self.groups

        def by_group(a: Array) -> Array:
            """The mean over the channels of each group, of every channel."""
            means = a.reshape(b, groups, c // groups).mean(axis=2)
            return np.repeat(means, c // groups, axis=1)

        own_mean, own_var = cells.mean_and_var()
        mean = by_group(own_mean)
        var = by_group(own_var + (own_mean - mean) ** 2)
        rstd = reciprocal(np.sqrt(var + self.eps))
        factor = rstd * weight
        cells(SWISH, v, factor, bias)

        def pull(cells: Pass) -> dict[str, Array]:
            swish, dbias, slope = cells(TERMS_OF_SWISH, v)
            along = by_group(swish * weight) * rstd * rstd * rstd / n
            high, low = cells.split(mean)
            cells(GRADIENT_OF_SWISH, v, factor, high, low, along)
            return {
                "v": (slope * factor).sum(axis=0),
                "weight": (swish * rstd).sum(axis=0),
                "bias": dbias,
            }

        return pull

    def compute(self, x: Array, params: Mapping[str, Array], **inputs: Array) -> tuple[Array, Pull]:
        x = np.moveaxis(x, self.channel_axis, 1)
        whole, cut = x.shape, (len(x), self.groups, self.num_features // self.groups, *x.shape[2:])
        shape = self.num_features, *[1] * (x.ndim - 2)  # shape of a parameter
        weight, bias, v = (params[name].reshape(shape) for name in ("weight", "bias", "v"))
        members = tuple(range(2, len(cut)))
        hat, _, _, rstd = standardized(x.reshape(cut), members, self.eps)
        gate = special().expit(v * x)
        z = ((x * gate).reshape(cut) * rstd).reshape(whole)
        channel_axis = self.channel_axis

        def pull(dy: Array) -> dict[str, Array]:
            d = np.moveaxis(dy, channel_axis, 1)
            dz = (d * weight).reshape(cut)
            dswish = (dz * rstd).reshape(whole)
            along = (dz * z.reshape(cut)).mean(axis=members, keepdims=True) * rstd
            slope = x * gate * (1 - gate)
            dx = dswish * (gate + v * slope) - (hat * along).reshape(whole)
            return {
                "x": np.moveaxis(dx, 1, channel_axis),
                "v": summed(dswish * x * slope, shape),
                "weight": summed(d * z, shape),
                "bias": summed(d, shape),
            }

        return np.moveaxis(z * weight + bias, 1, self.channel_axis), pull

    def _options(self) -> dict[str, Any]:
        return super()._options() | {"channel_axis": self.channel_axis}
