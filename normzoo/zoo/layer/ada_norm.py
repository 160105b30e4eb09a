"""Adaptive normalization: layer normalization whose scale depends on the normalized value."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from normzoo.backends.contract import Array
from normzoo.backends.forms import Formula
from normzoo.backends.lanes import fma
from normzoo.passes.cells import Pass
from normzoo.passes.cells import Pull as CellPull
from normzoo.passes.formulas import reciprocal, standardized, standardized_back
from normzoo.passes.numbers import check_number, check_shape
from normzoo.passes.saved import Pull
from normzoo.zoo.exact import ExactNorm
from normzoo.zoo.layer import layer_norm


def _bent(x: Any, high: Any, low: Any, rstd: Any, scale: Any, bend: Any) -> tuple[Any, ...]:
    xhat = ((x - high) - low) * rstd
    return ((scale - bend * xhat) * xhat,)


def _terms(dy: Any, x: Any, high: Any, low: Any, rstd: Any, scale: Any, bend: Any) -> tuple[Any, ...]:
    xhat = ((x - high) - low) * rstd
    g = dy * (scale - bend * xhat)
    return g, g * xhat


def _gradient(
    dy: Any, x: Any, high: Any, low: Any, rstd: Any, scale: Any, bend: Any, of_g: Any, along: Any
) -> tuple[Any, ...]:
    xhat = ((x - high) - low) * rstd
    return (fma(dy * (scale - bend * xhat), rstd, -fma(xhat, along, of_g)),)


BENT, TERMS = Formula(_bent, 1, 1), Formula(_terms, 2, 0, ("b", "b"))
GRADIENT = Formula(_gradient, 2, 1)


class AdaNorm(ExactNorm):
    """Adaptive normalization: layer normalization whose scale depends on the normalized value.

    Formula:
        y = [scale * (1 - k * xhat)] * xhat, with xhat = (x - mean) / sqrt(var + eps), mean and (biased) var over the
        normalized axes. The bracket is a constant in the gradient.

    Shapes:
        x, y: (..., *normalized_shape), or of sizes normalized_shape along `axis`. There are no parameters.

    Args:
        normalized_shape: sizes of the normalized axes, an integer or a tuple.
        k: how strongly larger values are scaled down; the paper's 1/10.
        scale: the paper's C, a hyperparameter; 1 in the authors' code, 2 in others.
        eps: added to the variance, in the units of x squared. The paper has none; the authors' code adds it to an
            unbiased standard deviation.
        axis: see `LayerNorm`.

    Raises:
        ValueError: x does not have these sizes. TypeError: x is not a float array.

    Source:
        J. Xu, X. Sun, Z. Zhang, G. Zhao and J. Lin, "Understanding and Improving Layer Normalization", 2019,
        arXiv:1911.07013. With k of 0 and scale of 1 it is LayerNorm without parameters.

    >>> import numpy as np, normzoo as nz
    >>> nz.AdaNorm(2)(np.array([[0, 2]], np.float32)).round(2)
    array([[-1.1,  0.9]], dtype=float32)
    """

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        k: float = 0.1,
        scale: float = 1.0,
        eps: float = 1e-5,
        *,
        axis: int | tuple[int, ...] | None = None,
    ) -> None:
        self.normalized_shape = check_shape("AdaNorm", "normalized_shape", normalized_shape)
        self.axis = layer_norm.check_axes("AdaNorm", axis)
        super().__init__(self.normalized_shape, eps=eps, weight=False, bias=False)
        self.k = check_number(self, "k", k)
        self.scale = check_number(self, "scale", scale)

    def check(self, x: Array, **inputs: Array) -> None:
        layer_norm.axes(self, x, self.normalized_shape, self.axis)

    def letters(self, x: Array) -> str:
        said = layer_norm.axes(self, x, self.normalized_shape, self.axis).letters
        return said.replace("k", "b").replace("R", "n")

    def by_cells(self, cells: Pass, params: Mapping[str, Array]) -> CellPull:
        mean, var = cells.mean_and_var()
        rstd, (high, low) = reciprocal(np.sqrt(var + self.eps)), cells.split(mean)
        given = high, low, rstd, self.scale, self.k * self.scale
        cells(BENT, *given)

        def pull(cells: Pass) -> dict[str, Array]:
            of_g, along = (total * rstd / cells.dims.n for total in cells(TERMS, *given))
            cells(GRADIENT, *given, of_g, along)
            return {}

        return pull

    def compute(self, x: Array, params: Mapping[str, Array], **inputs: Array) -> tuple[Array, Pull]:
        said = layer_norm.axes(self, x, self.normalized_shape, self.axis).letters
        normalized = tuple(i for i, letter in enumerate(said) if letter == "R")
        xhat, _, _, rstd = standardized(x, normalized, self.eps)
        bracket = self.scale * (1 - self.k * xhat)
        return bracket * xhat, lambda dy: {"x": standardized_back(dy * bracket, xhat, rstd, normalized)}

    def _options(self) -> dict[str, Any]:
        return (
            {"k": self.k, "scale": self.scale} | super()._options() | ({} if self.axis is None else {"axis": self.axis})
        )
