"""Partial root mean square normalization: divide every sample by the root mean square of its first values."""

from collections.abc import Mapping
from math import ceil, prod
from typing import Any

import numpy as np

from normzoo.backends.contract import Array
from normzoo.backends.forms import Formula
from normzoo.passes.cells import Pass, squares
from normzoo.passes.cells import Pull as CellPull
from normzoo.passes.formulas import reciprocal, summed, unit
from normzoo.passes.numbers import check_number, check_shape
from normzoo.passes.saved import Pull
from normzoo.zoo.exact import ExactNorm
from normzoo.zoo.layer import layer_norm


def _scaled(x: Any, rstd: Any, weight: Any) -> tuple[Any, ...]:
    return (x * rstd * weight,)


def _products(dy: Any, x: Any, rstd: Any, weight: Any) -> tuple[Any, ...]:
    d = dy * (x * rstd)
    return d * weight, d


def _gradient(dy: Any, x: Any, rstd: Any, weight: Any, more: Any, inside: Any) -> tuple[Any, ...]:
    return (dy * weight * rstd - x * more * inside,)


SQUARES, SCALED = squares("b"), Formula(_scaled, 1, 1)
PRODUCTS, GRADIENT = Formula(_products, 2, 0, ("b", "c")), Formula(_gradient, 2, 1)


class PartialRMSNorm(ExactNorm):
    """Partial root mean square normalization: divide every sample by the root mean square of its first values.

    Formula:
        y = x / sqrt(mean(x_1^2, ..., x_k^2) + eps) * weight, with k = ceil(p * n) of the n values of a sample.

    Shapes:
        x, y: (..., *normalized_shape). The first k are counted over all normalized axes.
        weight: normalized_shape. There is no bias.

    Args:
        normalized_shape: sizes of the last axes, an integer or a tuple.
        p: the fraction of values that is used, above 0 and at most 1.
        eps: added to the mean square, in the units of x squared.
        elementwise_affine, dtype: see `RMSNorm`.

    Raises:
        ValueError: x does not have these sizes, or p is not in (0, 1]. TypeError: x is not a float array.

    Source:
        B. Zhang and R. Sennrich, "Root Mean Square Layer Normalization", 2019, arXiv:1910.07467, section 4.1 (pRMSNorm;
        6.25 % in its experiments). The authors' code takes floor(p * n) values, is switched off by default (p = -1),
        and adds its eps of 1e-8 to the root instead of the mean square. With p = 1 it is RMSNorm.

    >>> import numpy as np, normzoo as nz
    >>> nz.PartialRMSNorm(4, 0.25)(np.array([[2, 4, 6, 8]], np.float32))
    array([[1., 2., 3., 4.]], dtype=float32)
    """

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        p: float = 0.0625,
        eps: float = 1e-8,
        elementwise_affine: bool = True,
        *,
        dtype: Any = np.float32,
    ) -> None:
        self.normalized_shape = check_shape("PartialRMSNorm", "normalized_shape", normalized_shape)
        super().__init__(
            self.normalized_shape,
            shape=self.normalized_shape,
            eps=eps,
            weight=elementwise_affine,
            bias=False,
            dtype=dtype,
        )
        self.p = check_number(self, "p", p)
        if not 0 < self.p <= 1:
            raise ValueError(f"{self}: expected p in (0, 1], got {p}; write p=0.0625")

    def check(self, x: Array, **inputs: Array) -> None:
        layer_norm.axes(self, x, self.normalized_shape, None)

    def letters(self, x: Array) -> str:
        behind = len(self.normalized_shape)
        return "b" * (x.ndim - behind) + "c" * behind

    def by_cells(self, cells: Pass, params: Mapping[str, Array]) -> CellPull:
        weight, k = params["weight"].reshape(1, -1) if params else 1.0, self._used(cells.dims.c)
        inside = (np.arange(cells.dims.c) < k).astype(np.float64)
        (squares,) = cells.first_channels(k)(SQUARES)
        rstd = reciprocal(np.sqrt(squares / k + (self.eps or 0.0)))
        cells(SCALED, rstd, weight)

        def pull(cells: Pass) -> dict[str, Array]:
            along, dweight = cells(PRODUCTS, rstd, weight)
            cells(GRADIENT, rstd, weight, rstd * rstd * along / k, inside)
            return {"weight": dweight} if params else {}

        return pull

    def _used(self, n: int) -> int:
        """How many of n values."""
        return min(ceil(self.p * n - 1e-9), n)  # 0.1 * 30 is 3

    def compute(self, x: Array, params: Mapping[str, Array], **inputs: Array) -> tuple[Array, Pull]:
        n, eps = prod(self.normalized_shape), self.eps or 0.0
        k = self._used(n)
        v = x.reshape(-1, n)
        weight = params["weight"].reshape(n) if params else np.ones(n)
        # 1 moments
        one = unit(v[:, :k], 1, eps**0.5)
        v = v * one
        rstd = reciprocal(np.sqrt((v[:, :k] * v[:, :k]).sum(axis=1, keepdims=True) / max(k, 1) + eps * one * one))
        # 2 normalize
        xhat = v * rstd

        def pull(dy: Array) -> dict[str, Array]:
            d = dy.reshape(v.shape)
            g = d * weight
            along = (g * xhat).sum(axis=1, keepdims=True) / max(k, 1)
            dx = rstd * g
            dx[:, :k] -= rstd * xhat[:, :k] * along
            return {"x": (dx * one).reshape(x.shape), "weight": summed(d * xhat, (n,))}

        return (xhat * weight).reshape(x.shape), pull

    def _options(self) -> dict[str, Any]:
        return {"p": self.p} | super()._options() | {"elementwise_affine": "weight" in self.params}
