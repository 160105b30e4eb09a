"""ReZero: a residual connection whose branch has one learned factor, which starts at 0."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from normzoo.backends.contract import Array
from normzoo.backends.forms import Formula
from normzoo.backends.lanes import fma
from normzoo.passes.attributes import entry
from normzoo.passes.cells import Pass
from normzoo.passes.cells import Pull as CellPull
from normzoo.passes.formulas import summed
from normzoo.passes.numbers import check_number
from normzoo.passes.saved import Pull, Saved
from normzoo.zoo.exact import ExactNorm


def _value(x: Any, branch: Any, alpha: Any) -> tuple[Any, ...]:
    return (fma(alpha, branch, x),)


def _gradient(dy: Any, _x: Any, branch: Any, alpha: Any) -> tuple[Any, ...]:
    return dy, dy * alpha, dy * branch


VALUE, GRADIENT = Formula(_value, 2, 1), Formula(_gradient, 3, 2, ("",))


class ReZero(ExactNorm):
    """ReZero: a residual connection whose branch has one learned factor, which starts at 0.

    Formula:
        y = x + alpha * branch.

    Shapes:
        x, branch, y: any, all the same.
        alpha: (1,).

    Args:
        alpha_init: initial value of alpha; with 0 every block starts as the identity.
        dtype: of alpha: float32, float64, float16 or bfloat16.

    Raises:
        ValueError: branch does not have x's shape. TypeError: x or branch is not a float array.

    It is called with x and the branch of x: y = norm(x, branch). `grads.branch` is the gradient of the branch; that of
    x does not include the branch. It normalizes nothing, and replaces the norm of a block.

    Source:
        T. Bachlechner, B. P. Majumder, H. H. Mao, G. W. Cottrell and J. McAuley, "ReZero is All You Need: Fast
        Convergence at Large Depth", 2020, arXiv:2003.04887.

    >>> import numpy as np, normzoo as nz
    >>> nz.ReZero(0.5)(np.array([1, 2], np.float32), np.array([2, -2], np.float32))
    array([2., 1.], dtype=float32)
    """

    alpha = entry("params", "alpha")

    def __init__(self, alpha_init: float = 0.0, *, dtype: Any = np.float32) -> None:
        super().__init__(alpha_init, weight=False, bias=False, dtype=dtype)
        self.alpha_init = check_number(self, "alpha_init", alpha_init)
        self.params["alpha"] = np.full((1,), self.alpha_init, self._dtype)

    def forward(self, x: Array, branch: Array, out: Array | None = None) -> tuple[Array, Saved]:  # type: ignore[override]
        """y and what backward needs: see `Norm.forward`.

        Args:
            branch: output of the block's branch for x; a float array of x's shape.
        """
        return self.exactly(x, out, branch=branch)

    def check(self, x: Array, **inputs: Array) -> None:
        if inputs["branch"].shape != x.shape:
            raise ValueError(f"{self}: expected branch of x's shape {x.shape}, got {inputs['branch'].shape}")

    def letters(self, x: Array) -> str:
        return "n" * x.ndim

    def by_cells(self, cells: Pass, params: Mapping[str, Array]) -> CellPull:
        alpha = params["alpha"]
        cells(VALUE, alpha)

        def pull(cells: Pass) -> dict[str, Array]:
            dbranch = cells.array_like()
            (dalpha,) = cells(GRADIENT, alpha, more=(dbranch,))
            return {"branch": dbranch, "alpha": dalpha}

        return pull

    def compute(self, x: Array, params: Mapping[str, Array], **inputs: Array) -> tuple[Array, Pull]:
        alpha, branch = params["alpha"], inputs["branch"]

        def pull(dy: Array) -> dict[str, Array]:
            return {"x": dy, "branch": dy * alpha, "alpha": summed(dy * branch, (1,))}

        return x + alpha * branch, pull

    def _options(self) -> dict[str, Any]:
        return {"dtype": self.params["alpha"].dtype.name}
