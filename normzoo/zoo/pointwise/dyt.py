"""Dynamic tanh: no statistics; every value is squashed by tanh, with learned parameters."""

from typing import Any

import numpy as np

from normzoo.backends.forms import Formula
from normzoo.backends.lanes import exp, fma, magnitude, tanh
from normzoo.passes.attributes import entry
from normzoo.zoo.pointwise.by_value import ByValue


def _value(x: Any, weight: Any, bias: Any, alpha: Any) -> tuple[Any, ...]:
    return (fma(tanh(alpha * x), weight, bias),)


def _gradient(dy: Any, x: Any, weight: Any, bias: Any, alpha: Any) -> tuple[Any, ...]:
    e = exp(-2.0 * magnitude(alpha * x))
    r = 1.0 / (1.0 + e)
    d = dy * weight * (4.0 * e * r * r)  # 1 - tanh^2, with all its digits
    return d * alpha, dy * tanh(alpha * x), dy, d * x


class DyT(ByValue):
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

    value = Formula(_value, 1, 1)
    gradient = Formula(_gradient, 2, 1, ("c", "c", ""))
    alpha = entry("params", "alpha")

    def __init__(
        self, normalized_shape: int | tuple[int, ...], alpha_init: float = 0.5, *, dtype: Any = np.float32
    ) -> None:
        super().__init__(normalized_shape, dtype, alpha=alpha_init)
