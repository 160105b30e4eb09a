"""Pixelwise feature vector normalization: divide the channels at every position by their root mean square."""

from typing import Any, Unpack

from normzoo.backends.contract import Array, Moments
from normzoo.norm import Norm
from normzoo.passes.around import Behind
from normzoo.passes.arrays import once
from normzoo.passes.numbers import check_size
from normzoo.passes.view import Axes
from normzoo.statistics.tracked import check_channels


class PixelNorm(Norm):
    """Pixelwise feature vector normalization: divide the channels at every position by their root mean square.

    Formula:
        y = x / sqrt(mean(x^2) + eps), with the mean over the channels at one position of one sample.

    Shapes:
        x, y: (N, C), (N, C, L), (N, C, H, W), ...; with channel_axis=-1, (N, ..., C).

    Args:
        eps: added to the mean square, in the units of x squared.
        channel_axis: the axis of the channels, 1 or -1 (or any other).

    Raises:
        ValueError: x has rank below 2, or no such axis. TypeError: x is not a float array.

    Source:
        T. Karras, T. Aila, S. Laine and J. Lehtinen, "Progressive Growing of GANs for Improved Quality, Stability,
        and Variation", 2017, arXiv:1710.10196. It is RMSNorm over the channels, without a weight.

    >>> import numpy as np, normzoo as nz
    >>> nz.PixelNorm()(np.array([[[1], [7]]], np.float32)).round(2)
    array([[[0.2],
            [1.4]]], dtype=float32)
    """

    moments = Moments(center=False, power=2)
    asks = ("channel_axis",)

    def __init__(self, eps: float = 1e-8, *, channel_axis: int = 1, **behind: Unpack[Behind]) -> None:
        super().__init__(eps, eps=eps, weight=False, bias=False, **behind)
        self.channel_axis = check_size(self, "channel_axis", channel_axis, least=-(2**31))

    def axes(self, x: Array) -> Axes:
        return letters(self, x, self.channel_axis)

    def _options(self) -> dict[str, Any]:
        return {"channel_axis": self.channel_axis}


@once
def letters(owner: object, x: Array, channel_axis: int) -> Axes:
    channel = check_channels(owner, x, channel_axis, 2, None)
    return Axes(x.shape, "k" * channel + "r" + "k" * (x.ndim - channel - 1))
