"""Global response normalization: scale every channel by its strength among the channels of its sample."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from normzoo.backends.contract import Array
from normzoo.backends.forms import Formula
from normzoo.backends.lanes import fma
from normzoo.passes.cell_layout import letters_by_channel
from normzoo.passes.cells import Pass, squares
from normzoo.passes.cells import Pull as CellPull
from normzoo.passes.formulas import reciprocal, summed, unit
from normzoo.passes.numbers import check_size
from normzoo.passes.saved import Pull
from normzoo.zoo.exact import ExactNorm
from normzoo.zoo.instance import instance_norm


def _scaled(x: Any, slope: Any, bias: Any) -> tuple[Any, ...]:
    return (fma(x, slope, bias),)


def _products(dy: Any, x: Any) -> tuple[Any, ...]:
    return dy * x, dy


def _gradient(dy: Any, x: Any, slope: Any, more: Any) -> tuple[Any, ...]:
    return (fma(dy, slope, x * more),)


SQUARES, SCALED = squares("bc"), Formula(_scaled, 1, 1)
PRODUCTS, GRADIENT = Formula(_products, 2, 0, ("bc", "c")), Formula(_gradient, 2, 1)


class GlobalResponseNorm(ExactNorm):
    """Global response normalization: scale every channel by its strength among the channels of its sample.

    Formula:
        g = sqrt(sum(x^2)) over the positions of one channel of one sample, n = g / (mean(g) + eps) with the mean over
        the channels; y = x * n * weight + bias + x. A channel of zeros gives bias; 0 / 0 is 0.

    Shapes:
        x, y: (N, C, L), (N, C, H, W), ...; with channel_axis=-1, (N, ..., C).
        weight, bias: (C,), the paper's gamma and beta, zeros at first: the norm starts as the identity.

    Args:
        dim: C.
        eps: added to the mean of the strengths, in the units of x.
        channel_axis: the axis of the channels; ConvNeXt V2 calls it on (N, H, W, C), which is channel_axis=-1.
        dtype: of the parameters: float32, float64, float16 or bfloat16.

    Raises:
        ValueError: x has another number of channels, or the samples are not on axis 0. TypeError: x is not a float
            array.

    Source:
        S. Woo, S. Debnath, R. Hu, X. Chen, Z. Liu, I. S. Kweon and S. Xie, "ConvNeXt V2: Co-designing and Scaling
        ConvNets with Masked Autoencoders", 2023, arXiv:2301.00808; eps 1e-6 is that of its code and of timm.

    >>> import numpy as np, normzoo as nz
    >>> norm = nz.GlobalResponseNorm(2)
    >>> norm.weight[:] = 1
    >>> norm(np.array([[[3, 4], [5, 0]]], np.float32)).round(2)
    array([[[ 6.,  8.],
            [10.,  0.]]], dtype=float32)
    """

    def __init__(self, dim: int, eps: float = 1e-6, *, channel_axis: int = 1, dtype: Any = np.float32) -> None:
        self.dim = check_size("GlobalResponseNorm", "dim", dim)
        super().__init__(dim, shape=(dim,), eps=eps, dtype=dtype)
        self.params["weight"][...] = 0
        self.channel_axis = check_size(self, "channel_axis", channel_axis, least=-(2**31))

    def check(self, x: Array, **inputs: Array) -> None:
        instance_norm.axes(self, x, self.channel_axis, self.dim)

    def letters(self, x: Array) -> str:
        return letters_by_channel(x, self.channel_axis)

    def by_cells(self, cells: Pass, params: Mapping[str, Array]) -> CellPull:
        weight = params["weight"][None]
        (squares,) = cells(SQUARES)
        strength = np.sqrt(squares)
        share = reciprocal(strength.mean(axis=1, keepdims=True) + self.eps)
        n = strength * share
        slope = n * weight + 1
        cells(SCALED, slope, params["bias"])

        def pull(cells: Pass) -> dict[str, Array]:
            products, dbias = cells(PRODUCTS)
            dn = products * weight
            dstrength = share * (dn - share * (dn * strength).mean(axis=1, keepdims=True))
            cells(GRADIENT, slope, dstrength * reciprocal(strength))
            return {"weight": (products * n).sum(axis=0), "bias": dbias}

        return pull

    def compute(self, x: Array, params: Mapping[str, Array], **inputs: Array) -> tuple[Array, Pull]:
        x = np.moveaxis(x, self.channel_axis, 1)
        positions = tuple(range(2, x.ndim))
        shape = self.dim, *[1] * len(positions)  # of a parameter
        weight, bias = params["weight"].reshape(shape), params["bias"].reshape(shape)
        # each channel has its own unit, and each sample has one in which the strengths of its channels are compared
        own, whole = unit(x, positions), unit(x, (1, *positions), self.eps)
        v, ratio = x * own, whole / own
        root = np.sqrt((v * v).sum(axis=positions, keepdims=True))
        direction, strength = v * reciprocal(root), root * ratio
        share = reciprocal(strength.mean(axis=1, keepdims=True) + self.eps * whole)
        n = strength * share
        channel_axis = self.channel_axis

        def pull(dy: Array) -> dict[str, Array]:
            d = np.moveaxis(dy, channel_axis, 1)
            dn = (d * weight * v).sum(axis=positions, keepdims=True) * ratio
            dstrength = share * (dn - share * (dn * strength).mean(axis=1, keepdims=True))
            dx = d * (n * weight + 1) + direction * dstrength
            return {
                "x": np.moveaxis(dx, 1, channel_axis),
                "weight": summed(d * x * n, shape),
                "bias": summed(d, shape),
            }

        return np.moveaxis(x * (n * weight + 1) + bias, 1, self.channel_axis), pull

    def _options(self) -> dict[str, Any]:
        return super()._options() | {"channel_axis": self.channel_axis}
