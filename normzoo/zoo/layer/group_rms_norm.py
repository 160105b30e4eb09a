"""Group root mean square normalization: divide every group of channels of every sample by its root mean square."""

from typing import Any, Unpack

import numpy as np

from normzoo.backends.contract import Array, Moments
from normzoo.norm import Norm
from normzoo.passes.around import Behind
from normzoo.passes.arrays import once
from normzoo.passes.numbers import check_features, check_size
from normzoo.passes.view import Axes
from normzoo.zoo.layer import group_norm


class GroupRMSNorm(Norm):
    """Group root mean square normalization: divide every group of channels of every sample by its root mean square.

    Formula:
        y = x / sqrt(mean(x^2) + eps) * weight, with the mean over the C / num_groups neighbouring channels of one group
        of one sample, and over the positions unless `per_position`.

    Shapes:
        x, y: (N, C), (N, C, L), (N, C, H, W), ...; with channel_axis=-1, (N, ..., C).
        weight: (C,). There is no bias.

    Args:
        num_groups: number of groups; divides num_channels.
        num_channels: C.
        eps: added to the mean square, in the units of x squared.
        affine: whether there is a weight.
        per_position: True: every position separately, as in sequence models: `GroupRMSNorm(8, 512, per_position=True,
            channel_axis=-1)` takes eight heads of (N, T, 512).
        channel_axis, dtype: see `BatchNorm`.

    Raises:
        ValueError: num_groups does not divide num_channels; x has another number of channels. TypeError: x is not a
            float array.

    Source:
        Y. Wu and K. He, "Group Normalization", 2018, arXiv:1803.08494, without the mean as in B. Zhang and R. Sennrich,
        "Root Mean Square Layer Normalization", 2019, arXiv:1910.07467; per position in RetNet, Y. Sun et al. 2023,
        arXiv:2307.08621, and Mamba-2, T. Dao and A. Gu 2024, arXiv:2405.21060, whose code has an eps of 1e-5. One group
        is RMSNorm over channels and positions, or with per_position over the channels.

    >>> import numpy as np, normzoo as nz
    >>> nz.GroupRMSNorm(2, 4)(np.array([[1, 1, 3, -3]], np.float32)).round(2)
    array([[ 1.,  1.,  1., -1.]], dtype=float32)
    """

    moments = Moments(center=False, power=2)
    asks = "num_groups", "channel_axis", "num_channels", "per_position"

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        *,
        per_position: bool = False,
        channel_axis: int = 1,
        dtype: Any = np.float32,
        **behind: Unpack[Behind],
    ) -> None:
        self.num_groups = check_size("GroupRMSNorm", "num_groups", num_groups, least=1)
        self.num_channels = check_features("GroupRMSNorm", num_channels, "num_channels")
        super().__init__(
            num_groups, num_channels, shape=(num_channels,), eps=eps, weight=affine, bias=False, dtype=dtype, **behind
        )
        group_norm.check_groups(self, num_groups, num_channels)
        self.per_position = bool(per_position)
        self.channel_axis = check_size(self, "channel_axis", channel_axis, least=-(2**31))

    def axes(self, x: Array) -> Axes:
        return axes(self, x, self.num_groups, self.channel_axis, self.num_channels, self.per_position)

    def _options(self) -> dict[str, Any]:
        options = {"affine": "weight" in self.params, "per_position": self.per_position}
        return super()._options() | options | {"channel_axis": self.channel_axis}


@once
def axes(owner: object, x: Array, num_groups: int, channel_axis: int, features: int, per_position: bool) -> Axes:
    found = group_norm.axes_of_groups(owner, x, num_groups, channel_axis, features)
    return found._replace(letters=found.letters.replace("r", "k")) if per_position else found
