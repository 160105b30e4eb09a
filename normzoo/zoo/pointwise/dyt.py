"""Dynamic tanh: no statistics; every value is squashed by tanh, with learned parameters."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from normzoo.backends.contract import Array
from normzoo.passes.attributes import entry
from normzoo.passes.formulas import summed
from normzoo.passes.numbers import check_number, check_shape
from normzoo.passes.saved import Pull
from normzoo.zoo.exact import ExactNorm
from normzoo.zoo.layer.layer_norm import axes


class DyT(ExactNorm):
    """Dynamic tanh: no statistics; every value is squashed by tanh, with learned parameters.

    Formula:
        y = tanh(alpha * x) * weight + bias.

    Shapes:
        x, y: (..., *normalized_shape).
        weight, bias: normalized_shape. alpha: (1,).

    Args:
        normalized_shape: sizes of the last axes, an integer or a tuple; weight and bias span them.
        alpha_init: initial value of alpha, in 1 / units of x; the paper's 0.5.
        dtype: of the parameters: float32, float64, float16 or bfloat16.

    Raises:
        ValueError: x does not have these sizes. TypeError: x is not a float array.

    Source:
        J. Zhu, X. Chen, K. He, Y. LeCun and Z. Liu, "Transformers without Normalization", 2025, arXiv:2503.10622.

    >>> import numpy as np, normzoo as nz
    >>> nz.DyT(2)(np.array([[0, 2]], np.float32)).round(2)
    array([[0.  , 0.76]], dtype=float32)
    """

    alpha = entry("params", "alpha")

    def __init__(
        self, normalized_shape: int | tuple[int, ...], alpha_init: float = 0.5, *, dtype: Any = np.float32
    ) -> None:
        self.normalized_shape = check_shape("DyT", "normalized_shape", normalized_shape)
        super().__init__(self.normalized_shape, shape=self.normalized_shape, dtype=dtype)
        self.alpha_init = check_number(self, "alpha_init", alpha_init)
        self.params["alpha"] = np.full((1,), alpha_init, self._dtype)

    def check(self, x: Array, **inputs: Array) -> None:
        axes(self, x, self.normalized_shape, None)

    def compute(self, x: Array, params: Mapping[str, Array], **inputs: Array) -> tuple[Array, Pull]:
        alpha, weight, bias = params["alpha"], params["weight"], params["bias"]
        t = np.tanh(alpha * x)

        def pull(dy: Array) -> dict[str, Array]:
            d = dy * weight * (1 - t * t)
            return {
                "x": d * alpha,
                "alpha": summed(d * x, (1,)),
                "weight": summed(dy * t, weight.shape),
                "bias": summed(dy, bias.shape),
            }

        return t * weight + bias, pull

    def _options(self) -> dict[str, Any]:
        return {"alpha_init": self.alpha_init}
