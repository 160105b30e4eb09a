"""Ghost batch normalization: normalize every channel of every part of the batch by its own mean and variance."""

from typing import Any, Unpack

import numpy as np

from normzoo.backends.contract import Array
from normzoo.passes.around import Behind, Besides
from normzoo.passes.arrays import DEVICES, once
from normzoo.passes.attributes import overridable
from normzoo.passes.form import Form
from normzoo.passes.normalize import normalize
from normzoo.passes.numbers import check_size
from normzoo.passes.saved import Saved
from normzoo.passes.view import Axes
from normzoo.statistics.tracked import check_channels
from normzoo.statistics.updates import updated
from normzoo.zoo.batch.batch_norm import BatchNorm, check_own


class GhostBatchNorm(BatchNorm):
    """Ghost batch normalization: normalize every channel of every part of the batch by its own mean and variance.

    Formula:
        y = (x - mean) / sqrt(var + eps) * weight + bias, with mean and (biased) var over the positions and the
        N / ghosts neighbouring samples of one ghost. Training updates the running statistics once for every ghost, in
        order: running = (1 - momentum) * running + momentum * new. In evaluation these are used.

    Shapes:
        x, y: (N, C), (N, C, L), (N, C, H, W), ...; with channel_axis=-1, (N, ..., C).
        weight, bias, running_mean, running_var: (C,).

    Args:
        num_features: C.
        ghosts: how many virtual batches; divides N in training. The paper gives their size instead.
        eps, momentum, affine, track_running_stats, bias, channel_axis, dtype: see `BatchNorm`. With momentum None all
            ghosts of all batches are averaged equally.

    Raises:
        ValueError: ghosts does not divide N, or one value per channel of a ghost, in training; otherwise as
            `BatchNorm`. TypeError: x is not a float array. Nothing has changed then.

    num_batches_tracked counts batches, not ghosts. In the paper's sum, ghost i has the weight (1 - momentum)^i *
    momentum, so the last ghosts are forgotten first; implementations update in order, as is done here.

    Source:
        E. Hoffer, I. Hubara and D. Soudry, "Train longer, generalize better: closing the generalization gap in large
        batch training of neural networks", 2017, arXiv:1705.08741. One ghost is BatchNorm.

    >>> import numpy as np, normzoo as nz
    >>> norm = nz.GhostBatchNorm(1, 2)
    >>> norm(np.array([[0], [2], [10], [30]], np.float32)).round(2).ravel()
    array([-1.,  1., -1.,  1.], dtype=float32)
    >>> norm.running_mean  # (0.9 * 0.1 * 1) + (0.1 * 20)
    array([2.09], dtype=float32)
    """

    devices = DEVICES
    fuses = True
    recalibrates = "unbiased"

    def __init__(
        self,
        num_features: int,
        ghosts: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        bias: bool = True,
        channel_axis: int = 1,
        dtype: Any = np.float32,
        **behind: Unpack[Behind],
    ) -> None:
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, bias=bias, channel_axis=channel_axis, dtype=dtype,
            **behind,
        )  # fmt: skip
        self.label.arguments = num_features, ghosts
        self.ghosts = check_size(self, "ghosts", ghosts, least=1)

    def axes(self, x: Array) -> Axes:
        if not self.training and self.track_running_stats:
            return super().axes(x)
        return ghost_axes(self, x, self.channel_axis, self.num_features, self.ghosts, False)

    @overridable
    def forward(
        self, x: Array, out: Array | None = None, *, update_stats: bool = True, **beside: Unpack[Besides]
    ) -> tuple[Any, Saved]:
        if not self.training and self.track_running_stats:
            return super().forward(x, out, update_stats=update_stats, **beside)
        _, around, others = self._stands(beside)
        axes = self.axes(x)
        check_own(self, x, axes.values, self.eps)
        running = self._running() if self.track_running_stats else ()
        form = Form(self, axes, self.moments, self.eps, None, around, others)
        y, stats, saved = normalize(form, x, self.weight, self.bias, out, apart=running)
        if running and update_stats:
            self._take_in(x.size, lambda batches, *past: self._joined(batches, past, stats, axes.values))
        return y, saved

    def _joined(self, batches: int, running: tuple[Array, Array], stats: Array, values: int) -> tuple[Array, Array]:
        """Running statistics updated by one ghost after another, each with the momentum of a whole batch."""
        for i, own in enumerate(stats.reshape(3, self.ghosts, -1).transpose((1, 0, 2))):
            momentum = 1 / (batches * self.ghosts + i + 1) if self.momentum is None else self.momentum
            running = updated(running, own, values, momentum)
        return running


@once
def ghost_axes(owner: object, x: Array, channel_axis: int, features: int, parts: int, own: bool) -> Axes:
    """Axes with the samples split into parts, which have separate parameters (`own`) or common ones."""
    channel = check_channels(owner, x, channel_axis, 2, features)
    if channel == 0:
        raise ValueError(f"{owner}: expected the samples on axis 0 of x, got channel_axis={channel_axis}")
    if x.shape[0] % parts:
        raise ValueError(
            f"{owner}: expected a batch of a multiple of {parts} samples, got x of shape {x.shape}; "
            "leave out the last samples"
        )
    return Axes(
        (parts, x.shape[0] // parts, *x.shape[1:]),
        ("Kr" if own else "kr") + "r" * (channel - 1) + "K" + "r" * (x.ndim - channel - 1),
        (0, *range(x.ndim)),
    )
