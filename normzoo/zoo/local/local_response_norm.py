"""Local response normalization: divide every value by the squares of its neighbours along the channels. Its windows
overlap, so the backends cannot compute it: NumPy, in float64, on every backend."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from normzoo.backends.contract import Array
from normzoo.passes.arrays import check_array, check_masks
from normzoo.passes.formulas import FAR
from normzoo.passes.numbers import check_number, check_size
from normzoo.passes.overlaps import check_out
from normzoo.passes.saved import Pull, PulledBack, Saved, empty_in_layout, layout_of
from normzoo.statistics.tracked import check_channels
from normzoo.zoo.exact import ExactNorm

OWNER = "local_response_norm"


class LocalResponseNorm(ExactNorm):
    """Local response normalization: divide every value by the squares of its neighbours along the channels.

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

    def check(self, x: Array, **inputs: Array) -> None:
        check_channels(self, x, self.channel_axis, 3, None)

    def compute(self, x: Array, params: Mapping[str, Array], **inputs: Array) -> tuple[Array, Pull]:
        window = self.size // 2, (self.size - 1) // 2
        if self.even == "after":
            window = window[::-1]
        return respond(self, x, self.channel_axis, window, self.size, self.alpha, self.beta, self.k)

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
    if out is not None:
        check_out(OWNER, out, x.shape, x.dtype, (x,))
    with np.errstate(all="ignore"):
        found, pull = respond(OWNER, x, axis, (size // 2, (size - 1) // 2), size, alpha, beta, k)
        y = empty_in_layout(x.shape, x.dtype, layout_of(x)) if out is None else out
        y[...] = found
    return y, PulledBack(OWNER, x, pull)


def respond(
    owner: object, x: Array, axis: int, window: tuple[int, int], size: int, alpha: float, beta: float, k: float
) -> tuple[Array, Pull]:
    """y in float64, with window = (channels before, channels after), and the function from dy to the gradient."""
    before, after = window
    v = np.array(np.moveaxis(x, axis, -1), np.float64, order="C")  # a copy: the caller may change x
    if (np.isfinite(v) & (np.abs(v) > FAR)).any():
        raise ValueError(
            f"{owner}: expected values below 2^500, whose squares can be added, got "
            f"{np.abs(v[np.isfinite(v)]).max():.3g}; write np.clip(x, -1e150, 1e150)"
        )
    base = k + alpha / size * window_sum(v * v, before, after)
    factor = base**-beta

    def pull(dy: Array) -> dict[str, Array]:
        d = np.moveaxis(dy, axis, -1)
        # x[c] is in the windows of channels c - after ... c + before
        shared = window_sum(d * v * factor / base, after, before)
        return {"x": np.moveaxis(d * factor - 2 * beta * alpha / size * v * shared, -1, axis)}

    return np.moveaxis(v * factor, -1, axis), pull


def window_sum(v: Array, before: int, after: int, taps: Array | None = None) -> Array:
    """Sum of v over i - before ... i + after along the last axis, zeros outside; weighted by `taps`, unless None."""
    length = v.shape[-1]
    total = v.copy() if taps is None else v * taps[before]
    for shift in range(1, min(max(before, after), length - 1) + 1):
        if shift <= before:
            total[..., shift:] += v[..., :-shift] if taps is None else v[..., :-shift] * taps[before - shift]
        if shift <= after:
            total[..., :-shift] += v[..., shift:] if taps is None else v[..., shift:] * taps[before + shift]
    return total
