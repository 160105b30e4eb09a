"""Dynamic erf: no statistics; every value is squashed by the error function, with learned parameters."""

import math
from typing import Any

import numpy as np

from normzoo.backends.forms import Formula
from normzoo.backends.lanes import erf, exp, fma
from normzoo.passes.attributes import entry
from normzoo.zoo.pointwise.by_value import ByValue

SLOPE = 2 / math.sqrt(math.pi)


def _value(x: Any, weight: Any, bias: Any, alpha: Any, shift: Any) -> tuple[Any, ...]:
    return (fma(erf(fma(alpha, x, shift)), weight, bias),)


def _gradient(dy: Any, x: Any, weight: Any, bias: Any, alpha: Any, shift: Any) -> tuple[Any, ...]:
    u = fma(alpha, x, shift)
    d = dy * weight * (SLOPE * exp(-u * u))
    return d * alpha, dy * erf(u), dy, d * x, d


class Derf(ByValue):
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

    value = Formula(_value, 1, 1)
    gradient = Formula(_gradient, 2, 1, ("c", "c", "", ""))
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
        super().__init__(normalized_shape, dtype, alpha=alpha_init, shift=shift_init)
