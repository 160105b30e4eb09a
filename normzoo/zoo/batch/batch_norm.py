"""Batch normalization: normalize every channel by its mean and variance over the batch and all positions."""

from typing import Any, Unpack

import numpy as np

from normzoo.backends.around import NOTHING
from normzoo.backends.contract import Array, Moments
from normzoo.passes.around import NOTHING_SET, Behind, Besides
from normzoo.passes.arrays import DEVICES, eps_for, once
from normzoo.passes.attributes import overridable
from normzoo.passes.form import UNTRACKED, Form, Running
from normzoo.passes.numbers import check_features, check_size
from normzoo.passes.saved import Saved
from normzoo.passes.view import Axes
from normzoo.statistics.running import How, normalize_tracked
from normzoo.statistics.tracked import TrackedNorm, check_channels
from normzoo.statistics.updates import USUAL, OnNonfinite, SingleValue

MESSAGES = (
    "expected running_mean and running_var in evaluation; write training=True",
    "expected more than 1 value per channel in training, got x of shape {}; use a larger batch or norm.eval()",
    "expected eps > 0 where batch statistics are used, got 0; write eps=1e-5",
)


class BatchNorm(TrackedNorm):
    """Batch normalization: normalize every channel by its mean and variance over the batch and all positions.

    Formula:
        y = (x - mean) / sqrt(var + eps) * weight + bias, with mean and (biased) var over all axes but the channels'. In
        training they are those of the batch, and running = (1 - momentum) * running + momentum * new, where the new
        variance is the unbiased one. In evaluation they are the running statistics, constants in the gradient.

    Shapes:
        x, y: (N, C), (N, C, L), (N, C, H, W), ... any rank from 2; with channel_axis=-1, (N, ..., C).
        weight, bias, running_mean, running_var: (C,).

    Args:
        num_features: C.
        eps: added to the variance, in the units of x squared; above 0 where batch statistics are used.
        momentum: weight of the new value in the running statistics, 0 to 1; None averages all batches equally.
        affine: whether there are a weight and a bias.
        track_running_stats: False: batch statistics are used in evaluation, too.
        bias: False: a weight only.
        channel_axis: the axis of the channels, 1 or -1 (or any other).
        dtype: of parameters and running statistics: float32, float64, float16 or bfloat16.
        on_nonfinite: what to do if the batch's own mean or variance is used and not finite: "propagate" updates the
            running statistics with it, as in PyTorch; "skip" leaves them and num_batches_tracked unchanged and returns
            y; "raise" raises FloatingPointError before anything changes.
        single_value: what to do in training if a channel has one value: "raise" raises ValueError; "bias" gives y =
            bias and dx = 0; "running" uses the running statistics, as in evaluation. None of them updates the running
            statistics.
        activation, gate_first, residual_scale: what is computed with the norm in every call; see `Norm.forward`.

    Raises:
        ValueError: x has another number of channels or rank below 2; one value per channel (see `single_value`), or eps
            of 0, where batch statistics are used. TypeError: x is not a float array. FloatingPointError: see
            `on_nonfinite`. Nothing has changed then.

    Threads may share the norm: mean, variance and count of a batch are updated together, and no update is lost.

    An empty batch is counted in num_batches_tracked and leaves the running statistics unchanged.

    Source:
        S. Ioffe and C. Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal
        Covariate Shift", 2015, arXiv:1502.03167; semantics of torch.nn.BatchNorm1d, 2d and 3d.

    >>> import numpy as np, normzoo as nz
    >>> norm = nz.BatchNorm(2)
    >>> norm(np.array([[0, 10], [2, 30]], np.float32)).round(2)
    array([[-1., -1.],
           [ 1.,  1.]], dtype=float32)
    >>> norm.running_mean
    array([0.1, 2. ], dtype=float32)
    """

    devices = DEVICES
    masks = True
    fuses = True
    recalibrates = "unbiased"
    moments = Moments(center=True, power=2)
    asks = "channel_axis", "num_features"

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        bias: bool = True,
        channel_axis: int = 1,
        dtype: Any = np.float32,
        on_nonfinite: OnNonfinite = "propagate",
        single_value: SingleValue = "raise",
        **behind: Unpack[Behind],
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
            on_nonfinite=on_nonfinite,
            single_value=single_value,
            **behind,
        )
        self.channel_axis = check_size(self, "channel_axis", channel_axis, least=-(2**31))

    def axes(self, x: Array) -> Axes:
        return axes(self, x, self.channel_axis, self.num_features)

    @overridable
    def forward(
        self, x: Array, out: Array | None = None, *, update_stats: bool = True, **beside: Unpack[Besides]
    ) -> tuple[Any, Saved]:
        """See `Norm.forward`.

        Args:
            update_stats: False leaves running statistics and num_batches_tracked unchanged, as needed when a
                checkpointed batch is run a second time; y is the same.
        """
        params, buffers, tracks = self.params, self.buffers, self.track_running_stats
        weight, bias, eps = params.get("weight"), params.get("bias"), self.eps
        # If only batch statistics are used, the running ones are neither read nor written.
        running: Any = UNTRACKED
        if tracks or not self.training:
            count = buffers.get("num_batches_tracked")
            running = buffers.get("running_mean"), buffers.get("running_var"), count, self.momentum
        own = bool(self.training or running[0] is None)
        usual = (tracks or self.training) and update_stats is True and self.rules is USUAL
        arrays = x, weight, bias, out
        site, around, others = self._site, None, NOTHING
        if beside or self._setting is not NOTHING_SET:
            site, around, others = site.stands_again(beside, self._setting) or self._stands(beside)
        if usual and (found := site.recall(own, arrays, eps, running, True, others)) is not None:
            return found
        form = Form(self, self.axes(x), self.moments, eps_for(x) if eps is None else eps, None, around, others)
        found = normalize_tracked(
            form, x, weight, bias, Running(*running), How(own, MESSAGES, self.rules, update_stats), out
        )
        if usual:
            site.remember(own, form, arrays, running, not own, norm=self)
        return found


@once
def axes(owner: object, x: Array, channel_axis: int, features: int | None = None) -> Axes:
    channel = check_channels(owner, x, channel_axis, 2, features)
    return Axes(x.shape, "r" * channel + "K" + "r" * (x.ndim - channel - 1))


def check_own(owner: object, x: Array, values: int, eps: float) -> None:
    """Check that a batch can be normalized by its own statistics, with `values` in a set."""
    if eps == 0:
        raise ValueError(f"{owner}: {MESSAGES[2]}")
    if values == 1:
        raise ValueError(f"{owner}: {MESSAGES[1].format(x.shape)}")
