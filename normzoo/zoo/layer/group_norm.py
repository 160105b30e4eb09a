"""Group normalization: normalize every group of channels of every sample by its mean and variance."""

from typing import Any, Unpack

import numpy as np

from normzoo.backends.contract import Array, Moments
from normzoo.norm import Norm
from normzoo.passes.around import Behind
from normzoo.passes.arrays import once
from normzoo.passes.numbers import check_features, check_size
from normzoo.passes.view import Axes
from normzoo.statistics.tracked import check_channels


class GroupNorm(Norm):
    """Group normalization: normalize every group of channels of every sample by its mean and variance.

    Formula:
        y = (x - mean) / sqrt(var + eps) * weight + bias, with mean and (biased) var over the positions and the
        C / num_groups neighbouring channels of one group of one sample.

    Shapes:
        x, y: (N, C), (N, C, L), (N, C, H, W), ...; with channel_axis=-1, (N, ..., C).
        weight, bias: (C,).

    Args:
        num_groups: number of groups; divides num_channels.
        num_channels: C.
        eps: added to the variance, in the units of x squared.
        affine, bias, channel_axis, dtype: see `BatchNorm`.

    Raises:
        ValueError: num_groups does not divide num_channels; x has another number of channels, or as many values as
            groups. TypeError: x is not a float array.

    Source:
        Y. Wu and K. He, "Group Normalization", 2018, arXiv:1803.08494; semantics of torch.nn.GroupNorm. With one group
        it is LayerNorm over channels and positions, with C groups InstanceNorm.

    >>> import numpy as np, normzoo as nz
    >>> nz.GroupNorm(2, 4)(np.array([[0, 2, 10, 30]], np.float32)).round(2)
    array([[-1.,  1., -1.,  1.]], dtype=float32)
    """

    moments = Moments(center=True, power=2)
    asks = "num_groups", "channel_axis", "num_channels"

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        *,
        bias: bool = True,
        channel_axis: int = 1,
        dtype: Any = np.float32,
        **behind: Unpack[Behind],
    ) -> None:
        self.num_groups = check_size("GroupNorm", "num_groups", num_groups, least=1)
        self.num_channels = check_features("GroupNorm", num_channels, "num_channels")
        super().__init__(
            num_groups, num_channels, shape=(num_channels,), eps=eps, weight=affine, bias=affine and bias, dtype=dtype,
            **behind,
        )  # fmt: skip
        check_groups(self, num_groups, num_channels)
        self.channel_axis = check_size(self, "channel_axis", channel_axis, least=-(2**31))

    def axes(self, x: Array) -> Axes:
        return axes(self, x, self.num_groups, self.channel_axis, self.num_channels)

    def _options(self) -> dict[str, Any]:
        return super()._options() | {"affine": "weight" in self.params, "bias": "bias" in self.params}


def check_groups(owner: object, num_groups: int, num_channels: int) -> None:
    if num_channels % num_groups:
        if num_groups % num_channels == 0 and not isinstance(owner, str):
            hint = f"did you swap them? write num_groups={num_channels}, num_channels={num_groups}"
        else:
            less, more = (
                next(n for n in numbers if num_channels % n == 0)
                for numbers in (range(min(num_groups, num_channels), 0, -1), range(num_groups, num_channels + 1))
            )
            hint = f"write num_groups={less} or num_groups={more}"
        got = f"{num_groups=}, {num_channels=}"
        raise ValueError(f"{owner}: expected num_groups to divide the channels, got {got}; {hint}")


@once
def axes(owner: object, x: Array, num_groups: int, channel_axis: int, features: int | None = None) -> Axes:
    found = axes_of_groups(owner, x, num_groups, channel_axis, features)
    if x.size == num_groups:
        raise ValueError(f"{owner}: expected more than 1 value per group, got x of shape {x.shape}; write fewer groups")
    return found


def axes_of_groups(owner: object, x: Array, num_groups: int, channel_axis: int, features: int | None) -> Axes:
    channel = check_channels(owner, x, channel_axis, 2, features)
    if channel == 0:
        raise ValueError(f"{owner}: expected the samples on axis 0 of x, got channel_axis={channel_axis}")
    check_groups(owner, num_groups, x.shape[channel])
    return Axes(
        (*x.shape[:channel], num_groups, x.shape[channel] // num_groups, *x.shape[channel + 1 :]),
        "k" + "r" * (channel - 1) + "KR" + "r" * (x.ndim - channel - 1),
        (*range(channel + 1), *range(channel, x.ndim)),
    )
