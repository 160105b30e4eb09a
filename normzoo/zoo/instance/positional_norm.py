"""Positional normalization: normalize every position of every sample by its mean and variance over the channels."""

from typing import Any

import numpy as np

from normzoo.backends.contract import Array, Moments
from normzoo.norm import Norm
from normzoo.passes.arrays import base_array, check_parameter, compute_dtype, once, quiet
from normzoo.passes.form import Form, Known
from normzoo.passes.formulas import root
from normzoo.passes.normalize import normalize
from normzoo.passes.numbers import check_size
from normzoo.passes.saved import Chained, Grads, Saved
from normzoo.passes.view import Axes
from normzoo.passes.view_saved import ViewSaved
from normzoo.statistics.tracked import check_channels


class PositionalNorm(Norm):
    """Positional normalization: normalize every position of every sample by its mean and variance over the channels.

    Formula:
        y = (x - mean) / std, std = sqrt(var + eps), with mean and (biased) var over the channels of one position.

    Shapes:
        x, y: (N, C), (N, C, L), (N, C, H, W), ...; with channel_axis=-1, (N, ..., C). There are no parameters.
        saved.mean, saved.std: x's shape with one channel; float32, or float64 for float64 x.

    Args:
        eps: added to the variance, in the units of x squared.
        channel_axis: the axis of the channels, 1 or -1 (or any other).

    The moments, which the paper passes to a later layer (moment shortcut), are `norm.saved.mean` and `norm.saved.std`:
    `FiLM()(h, norm.saved.std, norm.saved.mean)` applies them to h. `norm.backward(dy, dmean=dmean, dstd=dstd)` takes
    their gradients.

    Raises:
        ValueError: x has no such axis. TypeError: x is not a float array.

    Source:
        B. Li, F. Wu, K. Q. Weinberger and S. Belongie, "Positional Normalization", 2019, arXiv:1907.04312. The authors'
        code uses the unbiased variance, the paper the biased one. It is LayerNorm over the channels.

    >>> import numpy as np, normzoo as nz
    >>> norm = nz.PositionalNorm()
    >>> norm(np.array([[0, 2], [10, 30]], np.float32)).round(2)
    array([[-1.,  1.],
           [-1.,  1.]], dtype=float32)
    >>> norm.saved.mean
    array([[ 1.],
           [20.]], dtype=float32)
    """

    moments = Moments(center=True, power=2)

    def __init__(self, eps: float = 1e-5, *, channel_axis: int = 1) -> None:
        super().__init__(eps=eps, weight=False, bias=False)
        self.channel_axis = check_size(self, "channel_axis", channel_axis, least=-(2**31))

    def axes(self, x: Array) -> Axes:
        return axes(self, x, self.channel_axis)

    def forward(self, x: Array, out: Array | None = None) -> tuple[Array, Saved]:
        axes, eps = self.axes(x), self.eps or 0.0
        y, _, saved = normalize(Form(self, axes, self.moments, eps), x, None, None, out)
        return y, PositionalSaved(self, x, axes, saved, eps)

    def backward(
        self, dy: Array, out: Array | None = None, dmean: Array | None = None, dstd: Array | None = None
    ) -> Array:
        """dx, for the gradients of the last y and, unless None, of its moments."""
        if not isinstance(self.saved, PositionalSaved):
            return super().backward(dy, out)
        return self.saved.backward(dy, out, dmean, dstd).x

    def _options(self) -> dict[str, Any]:
        return super()._options() | {"channel_axis": self.channel_axis}


class PositionalSaved(Chained):
    """The `Saved` of a pass that also returns its moments.

    Attributes:
        mean, std: the moments of every position, in x's rank.
    """

    def __init__(self, owner: object, x: Array, axes: Axes, saved: ViewSaved, eps: float) -> None:
        super().__init__(owner, x, lambda dy, out: Grads(saved.backward(dy, out).x), (saved,))
        self._x, self._axes, self._inner, self._eps = x, axes, saved, eps
        self.mean, self.std = moments(saved, compute_dtype(x.dtype), eps)

    @quiet
    def backward(
        self, dy: Array, out: Array | None = None, dmean: Array | None = None, dstd: Array | None = None
    ) -> Grads:
        """See `Saved.backward`; `dmean` and `dstd` are the gradients of mean and std, or None."""
        given = {"dmean": dmean, "dstd": dstd}
        for name, d in given.items():
            check_parameter(self._owner, name, d, self.mean.shape)
        if dmean is None and dstd is None:
            return super().backward(dy, out)
        dmean, dstd = (np.zeros_like(self.mean) if d is None else base_array(self, "d", d) for d in given.values())
        # before dx is written, whose memory may be x's
        more = moments_back(self._owner, self._x, self._axes, self._inner, self._eps, dmean, dstd)
        found = super().backward(dy, out)
        np.add(found.x, more, out=found.x)
        return found


@once
def axes(owner: object, x: Array, channel_axis: int) -> Axes:
    channel = check_channels(owner, x, channel_axis, 2, None)
    return Axes(x.shape, "k" * channel + "r" + "k" * (x.ndim - channel - 1))


def moments(saved: ViewSaved, dtype: np.dtype, eps: float) -> tuple[Array, Array]:
    """mean and sqrt(var + eps) of every set, in x's rank."""
    mean, std = saved.mean, root(saved._stats, eps)
    return saved.along_x(mean.astype(dtype)), saved.along_x(std.astype(dtype))


def moments_back(owner: object, x: Array, axes: Axes, saved: ViewSaved, eps: float, dmean: Array, dstd: Array) -> Array:
    """dx, for the gradients of `moments`, in x's rank: (dmean + dstd * xhat) / k, which is a pass with known
    statistics.

    Args:
        axes: the axes of the pass that returned `saved`.
    """
    spans = axes._replace(letters=axes.letters.replace("k", "K"))
    count = max(axes.values, 1)
    weight, bias = (d.astype(compute_dtype(d.dtype)) / count for d in (dstd, dmean))
    stats = np.stack([saved.mean, saved.spread, saved.rstd])
    form = Form(owner, spans, PositionalNorm.moments, eps, weight.shape)
    return normalize(form, x, weight, bias, None, Known(stats), keep=False)[0]
