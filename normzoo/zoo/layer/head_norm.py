"""Normalization of attention heads: of the queries or keys of every head, over the size of the head."""

from typing import Any, Unpack

import numpy as np

from normzoo.backends.contract import Array, Moments
from normzoo.norm import Norm
from normzoo.passes.around import Behind
from normzoo.passes.arrays import check_array, once
from normzoo.passes.numbers import check_size
from normzoo.passes.view import Axes


class HeadRMSNorm(Norm):
    """Head root mean square normalization: divide every head of every position by its root mean square.

    Formula:
        y = x / sqrt(mean(x^2) + eps) * weight, with the mean over the last axis.

    Shapes:
        x, y: (..., H, D), or with the heads on `head_axis`, as in (N, H, T, D) for -3.
        weight: (H, D), or (D,) if it is shared.

    Args:
        num_heads: H.
        head_dim: D.
        eps: added to the mean square, in the units of x squared.
        elementwise_affine: whether there is a weight.
        shared: one weight for all heads, as in Qwen3 and Gemma 3; then it is RMSNorm over the last axis.
        head_axis: the axis of the heads.
        dtype: see `LayerNorm`.

    Raises:
        ValueError: x has another number or size of heads. TypeError: x is not a float array.

    Source:
        M. Dehghani et al., "Scaling Vision Transformers to 22 Billion Parameters", 2023, arXiv:2302.05442, for
        normalized queries and keys (there by LayerNorm), after A. Henry et al., "Query-Key Normalization for
        Transformers", 2020, arXiv:2010.04245 (there to unit length); the eps is Qwen3's. One head is RMSNorm.

    >>> import numpy as np, normzoo as nz
    >>> nz.HeadRMSNorm(2, 2)(np.array([[[1, 1], [3, -3]]], np.float32)).round(2)
    array([[[ 1.,  1.],
            [ 1., -1.]]], dtype=float32)
    """

    moments = Moments(center=False, power=2)
    asks = "num_heads", "head_dim", "head_axis", "shared"

    def __init__(
        self,
        num_heads: int,
        head_dim: int,
        eps: float = 1e-6,
        elementwise_affine: bool = True,
        *,
        shared: bool = False,
        head_axis: int = -2,
        dtype: Any = np.float32,
        **behind: Unpack[Behind],
    ) -> None:
        name = type(self).__name__
        self.num_heads = check_size(name, "num_heads", num_heads)
        self.head_dim = check_size(name, "head_dim", head_dim)
        super().__init__(
            num_heads,
            head_dim,
            shape=(head_dim,) if shared else (num_heads, head_dim),
            eps=eps,
            weight=elementwise_affine,
            bias=elementwise_affine and self.moments.center,
            dtype=dtype,
            **behind,
        )
        self.shared = bool(shared)
        self.head_axis = check_size(self, "head_axis", head_axis, least=-(2**31))

    def axes(self, x: Array) -> Axes:
        return axes(self, x, self.num_heads, self.head_dim, self.head_axis, self.shared)

    def _options(self) -> dict[str, Any]:
        options = {"elementwise_affine": "weight" in self.params, "shared": self.shared, "head_axis": self.head_axis}
        return super()._options() | options


class HeadLayerNorm(HeadRMSNorm):
    """Head layer normalization: normalize every head of every position by its mean and variance.

    Formula:
        y = (x - mean) / sqrt(var + eps) * weight + bias, with mean and (biased) var over the last axis.

    Shapes:
        x, y: (..., H, D), or with the heads on `head_axis`, as in (N, H, T, D) for -3.
        weight, bias: (H, D), or (D,) if they are shared.

    Args:
        num_heads, head_dim, eps, elementwise_affine, shared, head_axis, dtype: see `HeadRMSNorm`; there is also a bias.

    Raises:
        ValueError: x has another number or size of heads. TypeError: x is not a float array.

    Source:
        M. Dehghani et al., "Scaling Vision Transformers to 22 Billion Parameters", 2023, arXiv:2302.05442. Its eps is
        Flax's 1e-6, where PyTorch's LayerNorm has 1e-5. Chameleon, 2024, arXiv:2405.09818, has a weight for each head.
        One head is LayerNorm.

    >>> import numpy as np, normzoo as nz
    >>> nz.HeadLayerNorm(2, 2)(np.array([[[0, 2], [9, 3]]], np.float32)).round(2)
    array([[[-1.,  1.],
            [ 1., -1.]]], dtype=float32)
    """

    moments = Moments(center=True, power=2)


@once
def axes(owner: object, x: Array, heads: int, size: int, head_axis: int, shared: bool) -> Axes:
    check_array(owner, "x", x)
    axis = head_axis % x.ndim if -x.ndim <= head_axis < x.ndim else x.ndim - 1
    if axis == x.ndim - 1 or x.shape[axis] != heads or x.shape[-1] != size:
        where = "" if head_axis == -2 else f" with {heads} heads on axis {head_axis} and"
        wanted = f"(..., {heads}, {size})" if head_axis == -2 else f"(..., {size})"
        raise ValueError(f"{owner}: expected x{where} of shape {wanted}, got {x.shape}")
    return Axes(x.shape, "".join("k" if i != axis or shared else "K" for i in range(x.ndim - 1)) + "R")
