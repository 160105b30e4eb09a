"""Polynomial normalization: an activation that sums the normalized powers of every value."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from normzoo.backends.contract import Array
from normzoo.backends.forms import Formula
from normzoo.backends.lanes import fma
from normzoo.passes.arrays import check_array
from normzoo.passes.cells import Pass
from normzoo.passes.cells import Pull as CellPull
from normzoo.passes.formulas import reciprocal, unit
from normzoo.passes.saved import Pull
from normzoo.zoo.exact import ExactNorm

POWERS = (3, 2, 1)  # in the order of the weights


def _squares(x: Any) -> tuple[Any, ...]:
    s = x * x
    return s * s * s, s * s, s


def _sum(x: Any, a: Any, b: Any, c: Any, bias: Any) -> tuple[Any, ...]:
    return (fma(x, fma(x, fma(x, a, b), c), bias),)


def _products(dy: Any, x: Any) -> tuple[Any, ...]:
    d = dy * x
    return d * x * x, d * x, d, dy


def _gradient(dy: Any, x: Any, a: Any, b: Any, c: Any, k: Any, l: Any, m: Any) -> tuple[Any, ...]:  # noqa: E741
    s = x * x
    return (dy * fma(x, fma(x, a, b), c) - x * fma(s, fma(s, k, l), m),)


SQUARES, SUM = Formula(_squares, 1, 0, ("b", "b", "b"), wide=True), Formula(_sum, 1, 1)
PRODUCTS, GRADIENT = Formula(_products, 2, 0, ("b", "b", "b", "")), Formula(_gradient, 2, 1)


class PolyNorm(ExactNorm):
    """Polynomial normalization: an activation that sums the normalized powers of every value.

    Formula:
        y = weight[0] * norm(x^3) + weight[1] * norm(x^2) + weight[2] * norm(x) + bias, with norm(u) =
        u / sqrt(mean(u^2) + eps) and the mean over the last axis.

    Shapes:
        x, y: (..., n).
        weight: (3,). bias: (1,).

    Args:
        eps: added to the mean squares, in the units of x, of x^4 and of x^6 squared.
        dtype: see `LayerNorm`.

    Raises:
        ValueError: x has no axis. TypeError: x is not a float array.

    Source:
        Z. Zhuo, Y. Wang, Y. Zeng, X. Li, X. Zhou and J. Ma, "Polynomial Composition Activations: Unleashing the
        Dynamics of Large Language Models", 2024, arXiv:2411.03884. The weights start at 1/3 and the bias at 0, as in
        the authors' code, which has the weight of the highest power first; Liger-Kernel starts with a bias of 1. The
        paper's formula divides by lengths and has no bias.

    >>> import numpy as np, normzoo as nz
    >>> nz.PolyNorm()(np.array([[1, -1]], np.float32)).round(2)
    array([[ 1.  , -0.33]], dtype=float32)
    """

    def __init__(self, eps: float = 1e-6, *, dtype: Any = np.float32) -> None:
        super().__init__(eps=eps, weight=False, dtype=dtype, shape=(1,))
        self.params = {"weight": np.full(3, 1 / 3, self._dtype), **self.params}

    def check(self, x: Array, **inputs: Array) -> None:
        check_array(self, "x", x)
        if x.ndim == 0:
            raise ValueError(f"{self}: expected x of shape (..., n), got {x.shape}")

    def letters(self, x: Array) -> str:
        return "b" * (x.ndim - 1) + "n"

    def by_cells(self, cells: Pass, params: Mapping[str, Array]) -> CellPull:
        powers, n = np.array(POWERS)[:, None, None], cells.dims.n
        weight = params["weight"][:, None, None]
        rstd = reciprocal(np.sqrt(np.stack(cells(SQUARES)) / n + (self.eps or 0.0)))
        factors = weight * rstd
        cells(SUM, *factors, params["bias"])

        def pull(cells: Pass) -> dict[str, Array]:
            *products, dbias = cells(PRODUCTS)
            along = rstd * np.stack(products)
            cells(GRADIENT, *(factors * powers), *(factors * powers * rstd * along / n))
            return {"weight": along.sum(axis=(1, 2)), "bias": dbias}

        return pull

    def compute(self, x: Array, params: Mapping[str, Array], **inputs: Array) -> tuple[Array, Pull]:
        weight, bias, eps, n = params["weight"], params["bias"], self.eps or 0.0, max(x.shape[-1], 1)
        parts = []
        y = np.zeros_like(x)
        for w, power in zip(weight, POWERS, strict=True):
            one = unit(x, -1, eps ** (0.5 / power), power)
            v = x * one
            u = v**power
            added = eps * one**power * one**power if eps else 0.0  # 0 for an eps of 0, whatever the unit is
            rstd = reciprocal(np.sqrt((u * u).sum(axis=-1, keepdims=True) / n + added))
            uhat = u * rstd
            y += w * uhat
            parts.append((w, power, one, v, rstd, uhat))

        def pull(dy: Array) -> dict[str, Array]:
            dx, dweight = np.zeros_like(x), []
            for w, power, one, v, rstd, uhat in parts:
                along = (dy * uhat).sum(axis=-1, keepdims=True)
                du = w * rstd * (dy - uhat * (along / n))
                dx += du * (power * v ** (power - 1)) * one
                dweight.append(along.sum())
            return {"x": dx, "weight": np.array(dweight), "bias": dy.sum()}

        return y + bias, pull
