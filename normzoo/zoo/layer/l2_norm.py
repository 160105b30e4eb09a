"""L2 normalization: scale every vector to length 1, then multiply by a learned weight per feature, if there is one."""

from typing import Any, Unpack

import numpy as np

from normzoo.backends.contract import Array, Moments
from normzoo.norm import Norm
from normzoo.passes.around import Behind
from normzoo.passes.numbers import check_number, check_shape
from normzoo.passes.view import Axes
from normzoo.zoo.layer import layer_norm


class L2Norm(Norm):
    """L2 normalization: scale every vector to length 1, then multiply by a learned weight per feature, if there is one.

    Formula:
        y = x / max(||x||, eps) * weight, with the Euclidean norm over the normalized axes.

    Shapes:
        x, y: (..., *normalized_shape), or of sizes normalized_shape along `axis`.
        weight: normalized_shape, if there is one.

    Args:
        normalized_shape: sizes of the normalized axes, an integer or a tuple.
        eps: the smallest length that x is divided by, in the units of x.
        elementwise_affine: True: there is a weight; False by default.
        scale: initial value of the weight.
        axis, dtype: see `LayerNorm`.

    Raises:
        ValueError: x does not have these sizes. TypeError: x is not a float array.

    Source:
        I. Loshchilov, C.-P. Hsieh, S. Sun and B. Ginsburg, "nGPT: Normalized Transformer with Representation Learning
        on the Hypersphere", 2024, arXiv:2410.01131: without a weight for hidden states and weight matrices, with a
        weight for queries and keys. With a weight over the channels, `L2Norm(512, elementwise_affine=True, scale=20,
        axis=1)`, it is that of W. Liu, A. Rabinovich and A. C. Berg, "ParseNet: Looking Wider to See Better", 2015,
        arXiv:1506.04579, and of SSD, whose code adds an eps of 1e-10 to the length. The papers have no eps; this one is
        that of torch.nn.functional.normalize. Without a weight it is UnitNorm.

    >>> import numpy as np, normzoo as nz
    >>> nz.L2Norm(2)(np.array([[3, 4]], np.float32)).round(2)
    array([[0.6, 0.8]], dtype=float32)
    """

    moments = Moments(center=False, power=2, total=True, clamp=True)
    asks = "normalized_shape", "axis"

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        eps: float = 1e-12,
        elementwise_affine: bool = False,
        *,
        scale: float = 1.0,
        axis: int | tuple[int, ...] | None = None,
        dtype: Any = np.float32,
        **behind: Unpack[Behind],
    ) -> None:
        self.normalized_shape = check_shape("L2Norm", "normalized_shape", normalized_shape)
        self.scale = check_number("L2Norm", "scale", scale)
        self.axis = layer_norm.check_axes("L2Norm", axis)
        super().__init__(
            self.normalized_shape,
            shape=self.normalized_shape,
            eps=eps,
            weight=elementwise_affine,
            bias=False,
            dtype=dtype,
            **behind,
        )
        if "weight" in self.params:
            self.params["weight"][...] = self.scale

    def axes(self, x: Array) -> Axes:
        return layer_norm.axes(self, x, self.normalized_shape, self.axis)

    def _options(self) -> dict[str, Any]:
        affine = {"elementwise_affine": "weight" in self.params, "scale": self.scale}
        return super()._options() | affine | ({} if self.axis is None else {"axis": self.axis})
