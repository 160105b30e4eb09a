"""Adaptive instance normalization: give every channel the mean and deviation of the style's channel."""

from typing import Any

from normzoo.backends.contract import Array, Moments
from normzoo.norm import Norm
from normzoo.passes.arrays import base_array, compute_dtype, once
from normzoo.passes.form import Form
from normzoo.passes.normalize import normalize
from normzoo.passes.numbers import check_size
from normzoo.passes.saved import Chained, MoreGrads, Saved
from normzoo.passes.view import Axes
from normzoo.statistics.tracked import check_channels
from normzoo.zoo.instance.positional_norm import moments, moments_back


class AdaptiveInstanceNorm(Norm):
    """Adaptive instance normalization: give every channel the mean and deviation of the style's channel.

    Formula:
        y = std(style) * (x - mean(x)) / std(x) + mean(style), with std = sqrt(var + eps), and mean and (biased) var
        over the positions of one channel of one sample.

    Shapes:
        x, y: (N, C, L), (N, C, H, W), ...; with channel_axis=-1, (N, ..., C). There are no parameters.
        style: the same N and C, any positions.

    Args:
        eps: added to the variances, in the units of x squared.
        channel_axis: see `BatchNorm`.

    It is called as `norm(x, style)`; the gradient of style is in `norm.grads["style"]`.

    Raises:
        ValueError: x or style has no channel axis, or their samples or channels differ. TypeError: x or style is not a
            float array.

    Source:
        X. Huang and S. Belongie, "Arbitrary Style Transfer in Real-time with Adaptive Instance Normalization", 2017,
        arXiv:1703.06868. A known PyTorch implementation uses unbiased variances. AdaIN(x, x) is x.

    >>> import numpy as np, normzoo as nz
    >>> x, style = np.float32([[[0, 2]]]), np.float32([[[10, 30, 10, 30]]])
    >>> nz.AdaptiveInstanceNorm()(x, style).round(2)
    array([[[10., 30.]]], dtype=float32)
    """

    masks = True
    moments = Moments(center=True, power=2)

    def __init__(self, eps: float = 1e-5, *, channel_axis: int = 1) -> None:
        super().__init__(eps=eps, weight=False, bias=False)
        self.channel_axis = check_size(self, "channel_axis", channel_axis, least=-(2**31))

    def axes(self, x: Array) -> Axes:
        return axes(self, x, self.channel_axis)

    def forward(self, x: Array, style: Array, out: Array | None = None) -> tuple[Array, Saved]:
        """y for content x and `style`; see `Norm.forward`."""
        content, eps = self.axes(x), self.eps or 0.0
        style = base_array(self, "style", style)
        other = self.axes(style)
        if content.sizes("k") != other.sizes("k"):
            raise ValueError(
                f"{self}: expected style of x's samples and channels {content.sizes('k')}, got style of shape "
                f"{style.shape} for x of {x.shape}"
            )
        _, _, seen = normalize(Form(self, other, self.moments, eps), style, None, None)
        mean, std = (m.reshape(other.sizes("k")) for m in moments(seen, compute_dtype(x.dtype, style.dtype), eps))
        spans = content._replace(letters=content.letters.replace("k", "K"))
        y, _, last = normalize(Form(self, spans, self.moments, eps), x, std, mean, out, apart=(style,))
        label = self.label

        def pull(dy: Array, out: Array | None) -> MoreGrads:
            found = last.backward(dy, out)
            rank = [size if letter == "k" else 1 for size, letter in zip(*other[:2], strict=True)]
            dmean, dstd = (d.reshape(rank) for d in (found.bias, found.weight))
            return MoreGrads(found.x, None, None, {"style": moments_back(label, style, other, seen, eps, dmean, dstd)})

        return y, Chained(self, x, pull, (last,), apart=(style,))

    def _options(self) -> dict[str, Any]:
        return super()._options() | {"channel_axis": self.channel_axis}


@once
def axes(owner: object, x: Array, channel_axis: int) -> Axes:
    channel = check_channels(owner, x, channel_axis, 2, None)
    if channel == 0:
        raise ValueError(f"{owner}: expected the samples on axis 0 of x, got channel_axis={channel_axis}")
    return Axes(x.shape, "k" + "r" * (channel - 1) + "k" + "r" * (x.ndim - channel - 1))
