"""Feature-wise linear modulation: no statistics, a scale and a shift from outside."""

from typing import Any

from normzoo.arrays import base_array, check_size
from normzoo.backends.contract import CONSTANT, Array
from normzoo.norm import Norm
from normzoo.passes import Chained, MoreGrads, Saved, cast_like, normalize
from normzoo.running import check_channels
from normzoo.view import Axes


class FiLM(Norm):
    """Feature-wise linear modulation: no statistics, a scale and a shift from outside.

    Formula:
        y = gamma * x + beta.

    Shapes:
        x, y: (N, C), (N, C, L), (N, C, H, W), ...; with channel_axis=-1, (N, ..., C). There are no parameters.
        gamma, beta: (N, C), or of x's rank with size 1 where they repeat: (N, 1, H, W), (1, C, 1, 1), x's own shape.

    Args:
        channel_axis: the axis of the channels, 1 or -1 (or any other).

    Called as `norm(x, gamma, beta)`; the gradients are in `norm.grads["gamma"]` and `norm.grads["beta"]`. With gamma
    for a gate and beta for what goes past it, this is the gated residual of `AdaLNZero`; with the moments of
    `PositionalNorm` it is the moment shortcut.

    Raises:
        ValueError: gamma and beta do not fit x, or each other. TypeError: one of the three is not a float array.

    Source:
        E. Perez, F. Strub, H. de Vries, V. Dumoulin and A. Courville, "FiLM: Visual Reasoning with a General
        Conditioning Layer", 2017, arXiv:1709.07871. The authors' code has 1 + gamma. FiLM(1, 0) is the identity.

    >>> import numpy as np, normzoo as nz
    >>> nz.FiLM()(np.float32([[1, 2]]), np.float32([[3, 3]]), np.float32([[0, 1]]))
    array([[3., 7.]], dtype=float32)
    """

    def __init__(self, *, channel_axis: int = 1) -> None:
        super().__init__(weight=False, bias=False)
        self.channel_axis = check_size(self, "channel_axis", channel_axis, least=-(2**31))

    def forward(self, x: Array, gamma: Array, beta: Array, out: Array | None = None) -> tuple[Array, Saved]:  # type: ignore[override]
        """y for x, gamma and beta; see `Norm.forward`."""
        channel = check_channels(self, x, self.channel_axis, 2, None)
        gamma, beta = base_array(self, "gamma", gamma), base_array(self, "beta", beta)
        axes = modulated(self, x, "r" * x.ndim, (channel,), gamma=gamma, beta=beta)
        y, _, last = normalize(self, x, axes, gamma, beta, CONSTANT, 0.0, out, parameter_shape=gamma.shape)

        return y, modulated_back(self, x, last, gamma=gamma, beta=beta)

    def _options(self) -> dict[str, Any]:
        return {"channel_axis": self.channel_axis}


def modulated(owner: object, x: Array, letters: str, channels: tuple[int, ...], **arrays: Array) -> Axes:
    """The axes of x, with capital letters where a scale and a shift from outside span them: the samples and channels,
    or every axis along which their size is not 1.

    Args:
        letters: r and k for the axes of x; an axis that is spanned is kept where that makes no difference.
        channels: axes.
    """
    shapes = {a.shape for a in arrays.values()}
    names = " and ".join(arrays)
    if len(shapes) > 1:
        raise ValueError(f"{owner}: expected {names} of one shape, got {', '.join(map(str, sorted(shapes)))}")
    (shape,) = shapes
    short = (x.shape[0], *(x.shape[c] for c in channels))
    if shape == short:
        spanned = [i == 0 or i in channels for i in range(x.ndim)]
    elif len(shape) == x.ndim and all(a in (1, b) for a, b in zip(shape, x.shape, strict=True)):
        spanned = [a == b for a, b in zip(shape, x.shape, strict=True)]
    else:
        raise ValueError(
            f"{owner}: expected {names} of shape {short}, or of x's rank and sizes of 1 or those of x, {x.shape}, "
            f"got {shape}"
        )
    return Axes(x.shape, "".join(a.upper() if s else a for a, s in zip(letters, spanned, strict=True)))


def modulated_back(owner: object, x: Array, last: Saved, **arrays: Array) -> Saved:
    """What a pass leaves whose weight (but for a constant) and bias these two were: their gradients have names."""

    def pull(dy: Array, out: Array | None) -> MoreGrads:
        found = last.backward(dy, out)
        pairs = zip(arrays.items(), (found.weight, found.bias), strict=True)
        return MoreGrads(found.x, None, None, {name: cast_like(d, a) for (name, a), d in pairs})

    return Chained(owner, x, pull, (last,))
