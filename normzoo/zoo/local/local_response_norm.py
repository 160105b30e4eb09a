"""Local response normalization: every value by the squares of its neighbours along the channels. Its windows overlap,
so it is outside the algebra, and a pass of its own."""

from math import prod
from typing import Any

import numpy as np

from normzoo.backends.contract import Array, Backend
from normzoo.backends.forms import Response
from normzoo.norm import Norm
from normzoo.passes.arrays import base_array, check_array, check_masks
from normzoo.passes.formulas import FAR
from normzoo.passes.numbers import check_number, check_size
from normzoo.passes.overlaps import check_out
from normzoo.passes.saved import Saved
from normzoo.passes.whole import Back, order_of, whole
from normzoo.statistics.tracked import check_channels

OWNER = "local_response_norm"


class LocalResponseNorm(Norm):
    """Local response normalization: every value by the squares of its neighbours along the channels.

    Formula:
        y[c] = x[c] / (k + alpha / size * sum(x[c']^2))^beta, c' from c - size//2 to c + (size-1)//2; zeros outside.

    Shapes:
        x, y: (N, C, L), (N, C, H, W), ...; with channel_axis=-1, (N, ..., C).

    Args:
        size: channels in the window, 1 or more.
        alpha, beta, k: scale of the squares, exponent, and offset.
        even: the side with one more channel if size is even: "before" c, as in PyTorch, or "after" it, as in ONNX's LRN
            (whose `bias` is k).
        channel_axis: see `BatchNorm`.

    Raises:
        ValueError: x has rank below 3 or float64 values beyond 2^500, size is below 1, or even is unknown. TypeError: x
            is not a float array.

    Source:
        A. Krizhevsky, I. Sutskever and G. E. Hinton, "ImageNet Classification with Deep Convolutional Neural
        Networks", 2012,
        https://papers.nips.cc/paper/4824-imagenet-classification-with-deep-convolutional-neural-networks; semantics
        and defaults of torch.nn.LocalResponseNorm, which divides alpha by size as Caffe and ONNX do. The paper does
        not; it has size 5, alpha 1e-4, beta 0.75, k 2.

    >>> import numpy as np, normzoo as nz
    >>> nz.LocalResponseNorm(2, alpha=2.0, beta=1.0)(np.array([[[1], [1]]], np.float32)).ravel().round(2)
    array([0.5 , 0.33], dtype=float32)
    """

    def __init__(
        self,
        size: int,
        alpha: float = 1e-4,
        beta: float = 0.75,
        k: float = 1.0,
        *,
        even: str = "before",
        channel_axis: int = 1,
    ) -> None:
        super().__init__(check_size("LocalResponseNorm", "size", size, least=1), weight=False, bias=False)
        self.size = size
        self.alpha, self.beta = check_number(self, "alpha", alpha), check_number(self, "beta", beta)
        self.k = check_number(self, "k", k)
        if even not in ("before", "after"):
            raise ValueError(f"{self}: expected even to be 'before' or 'after', got {even!r}")
        self.even = even
        self.channel_axis = check_size(self, "channel_axis", channel_axis, least=-(2**31))

    def forward(self, x: Array, out: Array | None = None) -> tuple[Array, Saved]:
        x = base_array(self, "x", x)
        axis = check_channels(self, x, self.channel_axis, 3, None)
        before, after = self.size // 2, (self.size - 1) // 2
        if self.even == "after":
            before, after = after, before
        return respond(self, x, axis, Response(before, after, self.k, self.alpha / self.size, self.beta), out)

    def _options(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("alpha", "beta", "k", "even", "channel_axis")}


def local_response_norm(
    x: Array, size: int, alpha: float, beta: float, k: float, channel_axis: int, out: Array | None
) -> tuple[Array, Saved]:
    channel_axis = check_size(OWNER, "channel_axis", channel_axis, least=-(2**31))
    check_masks(OWNER, "x", x, takes=False)
    axis = check_channels(OWNER, x, channel_axis, 3, None)
    size = check_size(OWNER, "size", size, least=1)
    alpha, beta, k = (check_number(OWNER, n, v) for n, v in (("alpha", alpha), ("beta", beta), ("k", k)))
    check_array(OWNER, "x", x)
    return respond(OWNER, x, axis, Response(size // 2, (size - 1) // 2, k, alpha / size, beta), out)


def respond(owner: object, x: Array, axis: int, form: Response, out: Array | None) -> tuple[Array, Saved]:
    """The response, by windows along `axis`."""
    if out is not None:
        check_out(owner, out, x.shape, x.dtype, (x,))
    if x.dtype.itemsize == 8:
        _check_squares(owner, x)
    axes = order_of(x)

    def forward(backend: Backend, v: Array, y: Array) -> Back:
        place = axes.index(axis)
        dims = prod(v.shape[:place]), v.shape[place], prod(v.shape[place + 1 :])

        def back(backend: Backend, d: Array, v: Array, dx: Array) -> dict[str, Array]:
            if v.size:
                backend.response_back(dims, form, v.dtype)(d, v, dx)
            return {}

        if v.size:
            backend.response(dims, form, v.dtype)(v, y)
        return back

    return whole(owner, x, out, axes, forward)


def _check_squares(owner: object, x: Array) -> None:
    """Squares of values of float64 can be added."""
    most = max(x.max(initial=0.0), -x.min(initial=0.0))
    if not most <= FAR:
        finite = np.abs(x[np.isfinite(x)])
        most = finite.max(initial=0.0)
    if most > FAR:
        raise ValueError(
            f"{owner}: expected values below 2^500, whose squares can be added, got {most:.3g}; "
            "write np.clip(x, -1e150, 1e150)"
        )
