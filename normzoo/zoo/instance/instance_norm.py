"""Instance normalization: normalize every channel of every sample by its mean and variance over the positions."""

from typing import Any, Unpack

import numpy as np

from normzoo.backends.around import NOTHING
from normzoo.backends.contract import Array, Moments
from normzoo.passes.around import NOTHING_SET, Behind, Besides
from normzoo.passes.arrays import DEVICES, eps_for, once
from normzoo.passes.attributes import overridable
from normzoo.passes.form import Form, Running
from normzoo.passes.numbers import check_features, check_size
from normzoo.passes.saved import Saved
from normzoo.passes.view import Axes
from normzoo.statistics.running import How, normalize_tracked
from normzoo.statistics.tracked import TrackedNorm, check_channels
from normzoo.statistics.updates import USUAL, OnNonfinite, SingleValue

MESSAGES = (
    "expected running_mean and running_var with use_input_stats=False; pass them",
    "expected more than 1 position per channel, got x of shape {}; use larger samples, or write "
    "single_value='bias', which gives y = bias there",
)


class InstanceNorm(TrackedNorm):
    """Instance normalization: normalize every channel of every sample by its mean and variance over the positions.

    Formula:
        y = (x - mean) / sqrt(var + eps) * weight + bias, with mean and (biased) var over the positions of one channel
        of one sample. If running statistics are tracked, training updates them by the means and unbiased variances of
        the instances, averaged over the samples, and evaluation uses them.

    Shapes:
        x, y: (N, C, L), (N, C, H, W), ...; with channel_axis=-1, (N, ..., C).
        weight, bias, running_mean, running_var: (C,).

    Args:
        num_features: C.
        eps: added to the variance, in the units of x squared.
        momentum: weight of the new value in the running statistics; None leaves them unchanged, as in PyTorch.
        affine, track_running_stats, bias, channel_axis, dtype: see `BatchNorm`; affine and tracking are off by default.
        on_nonfinite, single_value: see `BatchNorm`; a set has a single value if a sample has one position.

    Raises:
        ValueError: x has another number of channels, no axis of positions, or one position while its own statistics are
            used. TypeError: x is not a float array. Nothing has changed then.

    As in PyTorch, num_batches_tracked stays 0. A batch without values leaves the running statistics unchanged.

    Source:
        D. Ulyanov, A. Vedaldi and V. Lempitsky, "Instance Normalization: The Missing Ingredient for Fast
        Stylization", 2016, arXiv:1607.08022; semantics of torch.nn.InstanceNorm1d, 2d and 3d. Equals GroupNorm with
        one channel a group.

    >>> import numpy as np, normzoo as nz
    >>> nz.InstanceNorm(1)(np.array([[[0, 2]], [[10, 30]]], np.float32)).round(2)
    array([[[-1.,  1.]],
    <BLANKLINE>
           [[-1.,  1.]]], dtype=float32)
    """

    devices = DEVICES
    masks = True
    fuses = True
    recalibrates = "unbiased"
    moments = Moments(center=True, power=2)
    counts_batches = False
    asks = "channel_axis", "num_features"

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        *,
        bias: bool = True,
        channel_axis: int = 1,
        dtype: Any = np.float32,
        on_nonfinite: OnNonfinite = "propagate",
        single_value: SingleValue = "raise",
        **behind: Unpack[Behind],
    ) -> None:
        check_features("InstanceNorm", num_features)
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
        """See `Norm.forward`, and `BatchNorm.forward` for `update_stats`."""
        params, buffers = self.params, self.buffers
        weight, bias, eps = params.get("weight"), params.get("bias"), self.eps
        running = buffers.get("running_mean"), buffers.get("running_var"), None, self.momentum or 0.0
        own = bool(self.training or not self.track_running_stats)
        usual = update_stats is True and self.rules is USUAL
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
    if channel == 0:
        raise ValueError(f"{owner}: expected the samples on axis 0 of x, got channel_axis={channel_axis}")
    return Axes(x.shape, "k" + "r" * (channel - 1) + "K" + "r" * (x.ndim - channel - 1))
