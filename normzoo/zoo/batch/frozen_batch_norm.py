"""Frozen batch normalization: normalize every channel by a mean, variance, weight and bias that never change."""

from typing import Any, Unpack

import numpy as np

from normzoo.backends.contract import Array, Moments
from normzoo.norm import Norm
from normzoo.passes.around import Behind, Besides
from normzoo.passes.arrays import DEVICES
from normzoo.passes.attributes import entry, overridable
from normzoo.passes.form import Form, Running
from normzoo.passes.numbers import check_features, check_size
from normzoo.passes.saved import Chained, Saved
from normzoo.passes.view import Axes
from normzoo.statistics.running import How, normalize_tracked
from normzoo.zoo.batch import batch_norm


class FrozenBatchNorm(Norm):
    """Frozen batch normalization: normalize every channel by a mean, variance, weight and bias that never change.

    Formula:
        y = (x - running_mean) / sqrt(running_var + eps) * weight + bias, in training and in evaluation; all four are
        constants in the gradient.

    Shapes:
        x, y: (N, C), (N, C, L), (N, C, H, W), ...; with channel_axis=-1, (N, ..., C).
        weight, bias, running_mean, running_var: (C,), buffers; there are no parameters.

    Args:
        num_features: C.
        eps: added to the variance, in the units of x squared. torchvision's 1e-5; it was 0 before version 0.8.
        channel_axis, dtype: see `BatchNorm`.

    Raises:
        ValueError: x has another number of channels or rank below 2. TypeError: x is not a float array.

    The buffers have the names of torchvision.ops.FrozenBatchNorm2d, which folds them into one scale and one shift. Here
    the mean is subtracted first, which loses no digits if x is far from 0.

    Source:
        Semantics of torchvision.ops.FrozenBatchNorm2d,
        https://docs.pytorch.org/vision/stable/generated/torchvision.ops.FrozenBatchNorm2d.html; the practice of
        K. He, X. Zhang, S. Ren and J. Sun, "Deep Residual Learning for Image Recognition", 2015, arXiv:1512.03385, in
        detectors. Equals BatchNorm in evaluation mode.

    >>> import numpy as np, normzoo as nz
    >>> norm = nz.FrozenBatchNorm(1)
    >>> norm.running_mean = np.array([10], np.float32)
    >>> norm(np.array([[9], [12]], np.float32)).round(2).ravel()
    array([-1.,  2.], dtype=float32)
    """

    devices = DEVICES
    masks = True
    fuses = True
    moments = Moments(center=True, power=2)
    eps: float
    weight = entry("buffers", "weight")
    bias = entry("buffers", "bias")
    running_mean = entry("buffers", "running_mean")
    running_var = entry("buffers", "running_var")

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        *,
        channel_axis: int = 1,
        dtype: Any = np.float32,
        **behind: Unpack[Behind],
    ) -> None:
        self.num_features = check_features("FrozenBatchNorm", num_features)
        super().__init__(num_features, eps=eps, weight=False, bias=False, dtype=dtype, **behind)
        self.channel_axis = check_size(self, "channel_axis", channel_axis, least=-(2**31))
        for name in ("weight", "bias", "running_mean", "running_var"):
            fill = 1 if name in ("weight", "running_var") else 0
            self.buffers[name] = np.full(num_features, fill, self._dtype)

    def axes(self, x: Array) -> Axes:
        return batch_norm.axes(self, x, self.channel_axis, self.num_features)

    @overridable
    def forward(self, x: Array, out: Array | None = None, **beside: Unpack[Besides]) -> tuple[Any, Saved]:
        _, around, others = self._stands(beside)
        form = Form(self, self.axes(x), self.moments, self.eps, None, around, others)
        running = Running(self.running_mean, self.running_var)
        y, part = normalize_tracked(form, x, self.weight, self.bias, running, How(False, batch_norm.MESSAGES), out)
        return y, Chained(self, x, lambda *given: part.backward(*given).without_parameters, (part,))

    def _options(self) -> dict[str, Any]:
        return super()._options() | ({} if self.channel_axis == 1 else {"channel_axis": self.channel_axis})
