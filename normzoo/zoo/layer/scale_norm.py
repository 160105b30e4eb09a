"""Scale normalization: scale every vector to one learned length."""

from typing import Any, Unpack

import numpy as np

from normzoo.backends.contract import Array, Moments
from normzoo.norm import Norm
from normzoo.passes.around import Behind
from normzoo.passes.numbers import check_number
from normzoo.passes.view import Axes
from normzoo.zoo.layer.unit_norm import check_dims, letters


class ScaleNorm(Norm):
    """Scale normalization: scale every vector to one learned length.

    Formula:
        y = weight * x / max(||x||, eps), with the Euclidean norm over `axis`.

    Shapes:
        x, y: any shape with these axes.
        weight: (1,), the paper's g.

    Args:
        scale: initial value of the weight; the paper uses the square root of the number of features.
        eps: the smallest length that x is divided by, in the units of x.
        axis: the axes of a vector, an integer or a tuple in increasing order.
        dtype: see `LayerNorm`.

    Raises:
        ValueError: x does not have these axes. TypeError: x is not a float array.

    Source:
        T. Q. Nguyen and J. Salazar, "Transformers without Tears: Improving the Normalization of Self-Attention", 2019,
        arXiv:1910.05895; arguments and eps of the paper's listing. Other implementations take the number of features,
        start with a weight of 1 and divide by the root mean square: equal to a weight of sqrt(features) here. With a
        weight of 1 it is UnitNorm.

    >>> import numpy as np, normzoo as nz
    >>> nz.ScaleNorm(10)(np.array([[3, 4]], np.float32))
    array([[6., 8.]], dtype=float32)
    """

    moments = Moments(center=False, power=2, total=True, clamp=True)
    asks = ("axis",)

    def __init__(
        self,
        scale: float,
        eps: float = 1e-5,
        *,
        axis: int | tuple[int, ...] = -1,
        dtype: Any = np.float32,
        **behind: Unpack[Behind],
    ) -> None:
        self.scale = check_number("ScaleNorm", "scale", scale)
        self.axis = check_dims("ScaleNorm", axis)
        super().__init__(scale, shape=(1,), eps=eps, bias=False, dtype=dtype, **behind)
        self.params["weight"][...] = self.scale

    def axes(self, x: Array) -> Axes:
        return letters(self, x, self.axis)

    def _options(self) -> dict[str, Any]:
        return super()._options() | ({} if self.axis == (-1,) else {"axis": self.axis})
