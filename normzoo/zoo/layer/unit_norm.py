"""Unit normalization: scale every vector to length 1."""

from typing import Any, Unpack

import numpy as np

from normzoo.backends.contract import Array, Moments
from normzoo.norm import Norm
from normzoo.passes.around import Behind, Besides
from normzoo.passes.arrays import DEVICES, base_array, check_array, once
from normzoo.passes.attributes import overridable
from normzoo.passes.form import Form
from normzoo.passes.normalize import normalize
from normzoo.passes.numbers import check_axis, check_size
from normzoo.passes.saved import Saved
from normzoo.passes.view import Axes
from normzoo.zoo.layer.lp_norm import MOMENTS


class UnitNorm(Norm):
    """Unit normalization: scale every vector to length 1.

    Formula:
        y = x / max(||x||, eps), with the Euclidean norm over `axis`, or with order=1 the sum of absolute values.

    Shapes:
        x, y: any shape with these axes. There are no parameters.

    Args:
        axis: the axes of a vector, an integer or a tuple in increasing order.
        eps: the smallest length that x is divided by, in the units of x.
        order: order of the norm, 2 or 1; `functional.normalize` has all others.

    Raises:
        ValueError: x does not have these axes, or order is unknown. TypeError: x is not a float array.

    Source:
        Keras's UnitNormalization, https://keras.io/api/layers/normalization_layers/unit_normalization/; the same as
        `functional.normalize` over these axes, and as L2Norm without a weight.

    >>> import numpy as np, normzoo as nz
    >>> nz.UnitNorm()(np.array([[3, 4]], np.float32)).round(2)
    array([[0.6, 0.8]], dtype=float32)
    """

    devices = DEVICES
    masks = True
    fuses = True
    moments = Moments(center=False, power=2, total=True, clamp=True)

    def __init__(
        self, axis: int | tuple[int, ...] = -1, eps: float = 1e-12, *, order: int = 2, **behind: Unpack[Behind]
    ) -> None:
        self.axis = check_dims("UnitNorm", axis)
        super().__init__(axis, eps=eps, weight=False, bias=False, **behind)
        if order not in MOMENTS:
            raise ValueError(f"{self}: expected order 2 or 1, got {order}; write nz.functional.normalize(x, {order})")
        self.order = int(order)

    @overridable
    def forward(self, x: Array, out: Array | None = None, **beside: Unpack[Besides]) -> tuple[Any, Saved]:
        _, around, others = self._stands(beside)
        if type(x) is not np.ndarray:
            x = base_array(self, "x", x)
        y, _, saved = normalize(
            Form(self, self.axes(x), MOMENTS[self.order], self.eps or 0.0, None, around, others), x, None, None, out
        )
        return y, saved

    def axes(self, x: Array) -> Axes:
        return letters(self, x, self.axis)

    def _options(self) -> dict[str, Any]:
        return super()._options() | ({} if self.order == 2 else {"order": self.order})


def check_dims(owner: object, axis: Any) -> tuple[int, ...]:
    """One or more axes as a tuple."""
    if isinstance(axis, tuple | list):
        if not axis:
            raise ValueError(f"{owner}: expected axis with at least one axis, got {axis}")
        return tuple(check_size(owner, "axis", a, least=-(2**31)) for a in axis)
    return (check_size(owner, "axis", axis, least=-(2**31)),)


@once
def letters(owner: object, x: Array, axis: tuple[int, ...]) -> Axes:
    """Axes where `axis` is normalized together, without parameters."""
    check_array(owner, "x", x)
    found = tuple(check_axis(owner, a, x.ndim) for a in axis)
    if list(found) != sorted(set(found)):
        raise ValueError(f"{owner}: expected axis={axis} in increasing order, got x of shape {x.shape}")
    return Axes(x.shape, "".join("r" if i in found else "k" for i in range(x.ndim)))
