"""Max-norm clipping: shorten the rows of a weight array that are longer than a limit."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from normzoo.backends.contract import Array
from normzoo.backends.forms import Formula
from normzoo.passes.cells import Pass, squares
from normzoo.passes.cells import Pull as CellPull
from normzoo.passes.formulas import reciprocal
from normzoo.passes.numbers import check_axis, check_number, check_size
from normzoo.passes.saved import Pull
from normzoo.zoo.exact import ExactNorm
from normzoo.zoo.layer.lp_norm import length


def _scaled(x: Any, factor: Any) -> tuple[Any, ...]:
    return (x * factor,)


def _products(dy: Any, x: Any) -> tuple[Any, ...]:
    return (dy * x,)


def _gradient(dy: Any, x: Any, factor: Any, more: Any) -> tuple[Any, ...]:
    return (dy * factor - x * more,)


SQUARES, SCALED = squares("c"), Formula(_scaled, 1, 1)
PRODUCTS, GRADIENT = Formula(_products, 2, 0, ("c",)), Formula(_gradient, 2, 1)


class MaxNorm(ExactNorm):
    """Max-norm clipping: shorten the rows of a weight array that are longer than a limit.

    Formula:
        y = x * maxnorm / (norm + eps) where norm > maxnorm, and x itself elsewhere, with norm = sum(|x|^p)^(1/p) over
        all axes but `dim`.

    Shapes:
        x, y: any rank from 1; torch.renorm requires 2.

    Args:
        p: order of the norm, above 0; infinity gives the largest absolute value.
        dim: the axis of the rows: every index along it is one row.
        maxnorm: the greatest length of a row, in the units of x.
        eps: added to the norm of a row that is shortened.

    Raises:
        ValueError: p, maxnorm or eps is out of range, or x has no axis `dim`. TypeError: x is not a float array.

    The gradient is that of the formula, through the norm, as in PyTorch. The papers shorten weights after an update,
    without a gradient; Keras also multiplies rows below the limit by norm / (norm + eps).

    Source:
        N. Srivastava, G. Hinton, A. Krizhevsky, I. Sutskever and R. Salakhutdinov, "Dropout: A Simple Way to Prevent
        Neural Networks from Overfitting", 2014, https://jmlr.org/papers/v15/srivastava14a.html; semantics of
        torch.renorm.

    >>> import numpy as np, normzoo as nz
    >>> nz.MaxNorm(2, 0, 1)(np.array([[3, 4], [0.3, 0.4]], np.float32)).round(2)
    array([[0.6, 0.8],
           [0.3, 0.4]], dtype=float32)
    """

    def __init__(self, p: float, dim: int, maxnorm: float, *, eps: float = 1e-7) -> None:
        self.p = check_number("MaxNorm", "p", p)
        self.dim = check_size("MaxNorm", "dim", dim, least=-(2**31))
        self.maxnorm = check_number("MaxNorm", "maxnorm", maxnorm)
        if not self.p > 0:
            raise ValueError(f"MaxNorm: expected p > 0, got {p}")
        if not 0 <= self.maxnorm < np.inf:
            raise ValueError(f"MaxNorm: expected maxnorm >= 0, got {maxnorm}")
        shown = "float('inf')" if np.isinf(self.p) else self.p
        super().__init__(shown, self.dim, self.maxnorm, eps=eps, weight=False, bias=False)

    def check(self, x: Array, **inputs: Array) -> None:
        check_axis(self, self.dim, x.ndim, "dim")

    def letters(self, x: Array) -> str:
        return "".join("c" if i == self.dim % x.ndim else "n" for i in range(x.ndim)) if self.p == 2 else ""

    def by_cells(self, cells: Pass, params: Mapping[str, Array]) -> CellPull:
        norm = np.sqrt(cells(SQUARES)[0])
        inside, inverse = norm <= self.maxnorm, 1 / (norm + self.eps)
        factor = np.where(inside, 1.0, self.maxnorm * inverse)
        cells(SCALED, factor)

        def pull(cells: Pass) -> dict[str, Array]:
            more = np.where(inside, 0.0, factor * inverse * reciprocal(norm) * cells(PRODUCTS)[0])
            cells(GRADIENT, factor, more)
            return {}

        return pull

    def compute(self, x: Array, params: Mapping[str, Array], **inputs: Array) -> tuple[Array, Pull]:
        if x.size == 0:
            return x, lambda dy: {"x": dy}
        axes = tuple(i for i in range(x.ndim) if i != self.dim % x.ndim)
        norm, slope = length(x, self.p, axes)
        inside = norm <= self.maxnorm  # False for a norm of NaN
        inverse = 1 / (norm + self.eps)
        factor = np.where(inside, 1.0, self.maxnorm * inverse)

        def pull(dy: Array) -> dict[str, Array]:
            along = inverse * (dy * x).sum(axis=axes, keepdims=True)
            return {"x": np.where(inside, dy, factor * (dy - slope * along))}

        return x * factor, pull

    def _options(self) -> dict[str, Any]:
        return {"eps": self.eps}
