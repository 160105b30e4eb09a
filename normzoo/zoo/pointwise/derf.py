"""Dynamic erf: no statistics; every value is squashed by the error function, with learned parameters."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from normzoo.backends.contract import Array
from normzoo.passes.attributes import entry
from normzoo.passes.formulas import special, summed
from normzoo.passes.numbers import check_number, check_shape
from normzoo.passes.saved import Pull
from normzoo.zoo.exact import ExactNorm
from normzoo.zoo.layer.layer_norm import axes


class Derf(ExactNorm):
    """Dynamic erf: no statistics; every value is squashed by the error function, with learned parameters.

    Formula:
        y = erf(alpha * x + shift) * weight + bias.

    Shapes:
        x, y: (..., *normalized_shape).
        weight, bias: normalized_shape. alpha, shift: (1,).

    Args:
        normalized_shape: sizes of the last axes, an integer or a tuple; weight and bias span them.
        alpha_init, shift_init: initial values of alpha, in 1 / units of x, and of shift.
        dtype: of the parameters: float32, float64, float16 or bfloat16.

    Raises:
        ValueError: x does not have these sizes. TypeError: x is not a float array.

    Source:
        M. Chen, T. Lu, J. Zhu, M. Sun and Z. Liu, "Stronger Normalization-Free Transformers", 2025, arXiv:2512.10938;
        alpha 0.5 and shift 0 (the paper's s) are those of its code.

    >>> import numpy as np, normzoo as nz
    >>> nz.Derf(2)(np.array([[0, 2]], np.float32)).round(2)
    array([[0.  , 0.84]], dtype=float32)
    """

    alpha = entry("params", "alpha")
    shift = entry("params", "shift")

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        alpha_init: float = 0.5,
        shift_init: float = 0.0,
        *,
        dtype: Any = np.float32,
    ) -> None:
        self.normalized_shape = check_shape("Derf", "normalized_shape", normalized_shape)
        super().__init__(self.normalized_shape, shape=self.normalized_shape, dtype=dtype)
        self.alpha_init = check_number(self, "alpha_init", alpha_init)
        self.shift_init = check_number(self, "shift_init", shift_init)
        self.params["alpha"] = np.full((1,), alpha_init, self._dtype)
        self.params["shift"] = np.full((1,), shift_init, self._dtype)

    def check(self, x: Array, **inputs: Array) -> None:
        axes(self, x, self.normalized_shape, None)

    def compute(self, x: Array, params: Mapping[str, Array], **inputs: Array) -> tuple[Array, Pull]:
        alpha, shift, weight, bias = (params[name] for name in ("alpha", "shift", "weight", "bias"))
        argument = alpha * x + shift
        t = special().erf(argument)

        def pull(dy: Array) -> dict[str, Array]:
            d = dy * weight * (2 / np.sqrt(np.pi)) * np.exp(-argument * argument)
            return {
                "x": d * alpha,
                "alpha": summed(d * x, (1,)),
                "shift": summed(d, (1,)),
                "weight": summed(dy * t, weight.shape),
                "bias": summed(dy, bias.shape),
            }

        return t * weight + bias, pull

    def _options(self) -> dict[str, Any]:
        return {"alpha_init": self.alpha_init, "shift_init": self.shift_init}
