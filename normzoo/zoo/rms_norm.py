"""Root mean square normalization: every sample by its root mean square over the trailing axes, without a mean."""

from typing import Any

import numpy as np

from normzoo.arrays import check_shape
from normzoo.backends.contract import Array, Moments
from normzoo.norm import Norm
from normzoo.view import Axes
from normzoo.zoo import layer_norm


class RMSNorm(Norm):
    """Root mean square normalization: every sample by its root mean square over the trailing axes, without a mean.

    Formula:
        y = x / sqrt(mean(x^2) + eps) * weight, with the mean over the normalized axes.

    Shapes:
        x, y: (..., *normalized_shape), or of sizes normalized_shape along `axis`.
        weight: normalized_shape. There is no bias.

    Args:
        normalized_shape: sizes of the normalized axes, an integer or a tuple.
        eps: added to the mean square, in the units of x squared; None is the spacing of float64 at 1 for float64 x
            and that of float32 (1.2e-7) for any other.
        elementwise_affine: whether there is a weight.
        axis, dtype: see `LayerNorm`.

    Raises:
        ValueError: x does not have these sizes. TypeError: x is not a float array.

    Source:
        B. Zhang and R. Sennrich, "Root Mean Square Layer Normalization", 2019, arXiv:1910.07467; semantics of
        torch.nn.RMSNorm.

    >>> import numpy as np, normzoo as nz
    >>> nz.RMSNorm(2)(np.array([[3, 4]], np.float32) / np.float32(12.5**0.5)).round(2)
    array([[0.85, 1.13]], dtype=float32)
    """

    moments = Moments(center=False, power=2)

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        eps: float | None = None,
        elementwise_affine: bool = True,
        *,
        axis: int | tuple[int, ...] | None = None,
        dtype: Any = np.float32,
    ) -> None:
        self.normalized_shape = check_shape("RMSNorm", "normalized_shape", normalized_shape)
        self.axis = layer_norm.check_axes("RMSNorm", axis)
        super().__init__(
            self.normalized_shape,
            shape=self.normalized_shape,
            eps=0.0 if eps is None else eps,
            weight=elementwise_affine,
            bias=False,
            dtype=dtype,
        )
        self.eps = None if eps is None else self.eps

    def axes(self, x: Array) -> Axes:
        return layer_norm.axes(self, x, self.normalized_shape, self.axis)

    def _options(self) -> dict[str, Any]:
        affine = {"elementwise_affine": "weight" in self.params}
        return super()._options() | affine | ({} if self.axis is None else {"axis": self.axis})
