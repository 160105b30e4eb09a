"""Feature-wise linear modulation: no statistics; scale and shift are arguments of the call."""

from typing import Any, NamedTuple

import numpy as np

from normzoo.backends.contract import CONSTANT, Array
from normzoo.norm import Norm
from normzoo.passes.arrays import DEVICES, base_array, cast_like, on_device, shifted
from normzoo.passes.form import Form
from normzoo.passes.formulas import summed
from normzoo.passes.normalize import normalize
from normzoo.passes.numbers import check_size
from normzoo.passes.saved import Chained, MoreGrads, Saved
from normzoo.passes.view import Axes
from normzoo.statistics.tracked import check_channels


class FiLM(Norm):
    """Feature-wise linear modulation: no statistics; scale and shift are arguments of the call.

    Formula:
        y = gamma * x + beta.

    Shapes:
        x, y: (N, C), (N, C, L), (N, C, H, W), ...; with channel_axis=-1, (N, ..., C). There are no parameters.
        gamma, beta: (N, C), or arrays of x's rank with sizes of 1 or of x: (N, 1, H, W), (1, C, 1, 1), x's shape.

    Args:
        channel_axis: the axis of the channels, 1 or -1 (or any other).

    It is called as `norm(x, gamma, beta)`; the gradients are in `norm.grads["gamma"]` and `norm.grads["beta"]`. With
    the gate as gamma and the residual as beta, this is the gated residual of `AdaLNZero`; with the moments of
    `PositionalNorm` it is the moment shortcut.

    Raises:
        ValueError: gamma or beta does not fit x. TypeError: one of the three is not a float array.

    Source:
        E. Perez, F. Strub, H. de Vries, V. Dumoulin and A. Courville, "FiLM: Visual Reasoning with a General
        Conditioning Layer", 2017, arXiv:1709.07871. The authors' network outputs gamma - 1. FiLM(1, 0) is the identity.

    >>> import numpy as np, normzoo as nz
    >>> nz.FiLM()(np.float32([[1, 2]]), np.float32([[3, 3]]), np.float32([[0, 1]]))
    array([[3., 7.]], dtype=float32)
    """

    devices = DEVICES
    masks = True

    def __init__(self, *, channel_axis: int = 1) -> None:
        super().__init__(weight=False, bias=False)
        self.channel_axis = check_size(self, "channel_axis", channel_axis, least=-(2**31))

    def forward(self, x: Array, gamma: Array, beta: Array, out: Array | None = None) -> tuple[Array, Saved]:
        """y for x, gamma and beta; see `Norm.forward`."""
        channel = check_channels(self, x, self.channel_axis, 2, None)
        gamma, beta = base_array(self, "gamma", gamma), base_array(self, "beta", beta)
        axes, shape, weight, bias = modulated(self, x, "r" * x.ndim, (channel,), gamma=gamma, beta=beta)
        read = gamma, beta
        y, _, last = normalize(Form(self, axes, CONSTANT, 0.0, shape), x, weight, bias, out, apart=read)
        return y, modulated_back(self, x, last, (channel,), gamma=gamma, beta=beta)

    def _options(self) -> dict[str, Any]:
        return {"channel_axis": self.channel_axis}


class Modulation(NamedTuple):
    """A scale and a shift as a pass takes them.

    Attributes:
        axes: axes of x, with capital letters where scale or shift varies.
        shape: shape of scale and shift, in x's rank.
        weight, bias: arrays of this shape.
    """

    axes: Axes
    shape: tuple[int, ...]
    weight: Array
    bias: Array


def modulated(
    owner: object, x: Array, letters: str, channels: tuple[int, ...], by: float = 0.0, **arrays: Array
) -> Modulation:
    """The arguments of a pass for a scale, to which `by` is added, and a shift. Each spans the samples and channels, or
    every axis along which its size is not 1.

    Args:
        letters: r or k for each axis of x.
        channels: axes of the channels.
    """
    ranked = [a.reshape(lifted(owner, x, channels, name, a)) for name, a in arrays.items()]
    spanned = [any(a.shape[i] == size for a in ranked) for i, size in enumerate(x.shape)]
    shape = tuple(size if s else 1 for size, s in zip(x.shape, spanned, strict=True))
    weight, bias = (a if a.shape == shape else _repeated(a, shape) for a in ranked)
    axes = Axes(x.shape, "".join(a.upper() if s else a for a, s in zip(letters, spanned, strict=True)))
    return Modulation(axes, shape, shifted(weight, by, x.dtype) if by else weight, bias)


def _repeated(a: Array, shape: tuple[int, ...]) -> Array:
    """A copy of `a` in a shape to which it broadcasts."""
    found: Array = (a.broadcast_to(shape) if on_device(a) else np.broadcast_to(a, shape)).copy()  # type: ignore[attr-defined]
    return found


def lifted(owner: object, x: Array, channels: tuple[int, ...], name: str, a: Array) -> tuple[int, ...]:
    """The shape of `a`, in x's rank."""
    spans = (0, *channels)
    if a.shape == tuple(x.shape[i] for i in spans):
        return tuple(size if i in spans else 1 for i, size in enumerate(x.shape))
    if a.ndim == x.ndim and all(s in (1, size) for s, size in zip(a.shape, x.shape, strict=True)):
        return a.shape
    raise ValueError(
        f"{owner}: expected {name} of shape {tuple(x.shape[i] for i in spans)}, or of x's rank with sizes of 1 or "
        f"those of x, {x.shape}, got {a.shape}"
    )


def modulated_back(owner: object, x: Array, last: Saved, channels: tuple[int, ...], **arrays: Array) -> Saved:
    """The `Saved` of a pass with `modulated` arrays: their gradients have the arrays' names."""
    ranks = [lifted(owner, x, channels, name, a) for name, a in arrays.items()]
    label = getattr(owner, "label", owner)  # what a pass leaves must not hold the norm

    def gradient(d: Array, a: Array, rank: tuple[int, ...]) -> Array:
        d = base_array(label, "the gradient", d)
        if d.shape != rank:  # the other array spans more axes
            if on_device(d):
                return d.summed_to(1.0, rank, a.dtype).reshape(a.shape)  # type: ignore[attr-defined]
            d = summed(d.astype(np.float64), rank)
        return cast_like(d, a).reshape(a.shape)

    def pull(dy: Array, out: Array | None) -> MoreGrads:
        found = last.backward(dy, out)
        each = zip(arrays.items(), ranks, (found.weight, found.bias), strict=True)
        return MoreGrads(
            found.x, None, None, {name: gradient(d, a, rank) for (name, a), rank, d in each if d is not None}
        )

    return Chained(owner, x, pull, (last,))
