"""Compressed root mean square normalization: for samples with mean 0 whose last value is left out."""

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from normzoo.backends.contract import Array
from normzoo.backends.forms import Formula, Twice
from normzoo.backends.lanes import choose, root
from normzoo.passes.cells import Pass
from normzoo.passes.cells import Pull as CellPull
from normzoo.passes.formulas import reciprocal, summed, unit
from normzoo.passes.numbers import check_shape
from normzoo.passes.saved import Pull
from normzoo.zoo.exact import ExactNorm
from normzoo.zoo.layer import layer_norm


def _sums(x: Any, _count: Any, _eps: Any, _weight: Any) -> tuple[Any, ...]:
    return x * x, x


def _rstd(squares: Any, total: Any, count: Any, eps: Any) -> tuple[Any, ...]:
    size = root((squares + total * total) / count + eps)
    return (choose(size, 1.0 / size, 0.0),)


def _scaled(x: Any, _count: Any, _eps: Any, weight: Any, rstd: Any) -> tuple[Any, ...]:
    return (x * rstd * weight,)


def _products(dy: Any, x: Any, rstd: Any, _count: Any, _total: Any, weight: Any) -> tuple[Any, ...]:
    d = dy * (x * rstd)
    return d * weight, d


def _factor(along: Any, rstd: Any, count: Any) -> tuple[Any, ...]:
    return (rstd * rstd * along / count,)


def _gradient(dy: Any, x: Any, rstd: Any, _count: Any, total: Any, weight: Any, more: Any) -> tuple[Any, ...]:
    return (dy * weight * rstd - (x + total) * more,)


SCALED = Twice(Formula(_sums, 1, 0, ("b", "b")), _rstd, 2, 2, 1, Formula(_scaled, 1, 1))
LEAST = 1e-26  # an eps beside which squares that float32 has no digits for do not count; for smaller ones:
SCALED_WIDE = SCALED._replace(first=SCALED.first._replace(wide=True), second=SCALED.second._replace(wide=True))
GRADIENT = Twice(Formula(_products, 2, 0, ("b", "c")), _factor, 1, 2, 1, Formula(_gradient, 2, 1))


class CRMSNorm(ExactNorm):
    """Compressed root mean square normalization: for samples with mean 0 whose last value is left out.

    Formula:
        y = x / sqrt((sum(x^2) + sum(x)^2) / (n + 1) + eps) * weight, with n values; the missing value is -sum(x).

    Shapes:
        x, y: (..., *normalized_shape).
        weight: normalized_shape. There is no bias.

    Args:
        normalized_shape: sizes of the last axes without the missing value, an integer or a tuple.
        eps: added to the mean square, in the units of x squared.
        elementwise_affine: whether there is a weight.
        dtype: see `LayerNorm`.

    Raises:
        ValueError: x does not have these sizes. TypeError: x is not a float array.

    Source:
        Z. Jiang, J. Gu, H. Zhu and D. Z. Pan, "Pre-RMSNorm and Pre-CRMSNorm Transformers: Equivalent and Efficient
        Pre-LN Transformers", 2023, arXiv:2305.14858. The paper has no weight, which is part of the layer after it, and
        uses LayerNorm's eps; GPT-NeoX has 1e-8. It is RMSNorm and LayerNorm of (x, -sum(x)) without the last value.

    >>> import numpy as np, normzoo as nz
    >>> nz.CRMSNorm(2, eps=0)(np.array([[1, 0]], np.float32)).round(2)
    array([[1.22, 0.  ]], dtype=float32)
    """

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        *,
        dtype: Any = np.float32,
    ) -> None:
        self.normalized_shape = check_shape("CRMSNorm", "normalized_shape", normalized_shape)
        super().__init__(
            self.normalized_shape,
            shape=self.normalized_shape,
            eps=eps,
            weight=elementwise_affine,
            bias=False,
            dtype=dtype,
        )

    def check(self, x: Array, **inputs: Array) -> None:
        layer_norm.axes(self, x, self.normalized_shape, None)

    def letters(self, x: Array) -> str:
        behind = len(self.normalized_shape)
        return "b" * (x.ndim - behind) + "c" * behind

    def by_cells(self, cells: Pass, params: Mapping[str, Array]) -> CellPull:
        weight, n = params["weight"].reshape(1, -1) if params else 1.0, cells.dims.c
        eps = self.eps or 0.0
        squares, total = cells.twice(SCALED if eps >= LEAST else SCALED_WIDE, n + 1, eps, weight)
        rstd = reciprocal(np.sqrt((squares + total * total) / (n + 1) + eps))

        def pull(cells: Pass) -> dict[str, Array]:
            _, dweight = cells.twice(GRADIENT, rstd, n + 1, total, weight)
            return {"weight": dweight} if params else {}

        return pull

    def compute(self, x: Array, params: Mapping[str, Array], **inputs: Array) -> tuple[Array, Pull]:
        n, eps = prod(self.normalized_shape), self.eps or 0.0
        v = x.reshape(-1, n)
        weight = params["weight"].reshape(n) if params else np.ones(n)
        # 1 moments, with the missing value
        one = unit(v, 1, eps**0.5)
        v = v * one
        last = -v.sum(axis=1, keepdims=True)
        rstd = reciprocal(np.sqrt(((v * v).sum(axis=1, keepdims=True) + last * last) / (n + 1) + eps * one * one))
        # 2 normalize
        xhat = v * rstd

        def pull(dy: Array) -> dict[str, Array]:
            d = dy.reshape(v.shape)
            g = d * weight
            along = (g * xhat).sum(axis=1, keepdims=True) / (n + 1)
            dx = rstd * (g - (xhat - last * rstd) * along) * one
            return {"x": dx.reshape(x.shape), "weight": summed(d * xhat, (n,))}

        return (xhat * weight).reshape(x.shape), pull

    def _options(self) -> dict[str, Any]:
        return super()._options() | {"elementwise_affine": "weight" in self.params}
