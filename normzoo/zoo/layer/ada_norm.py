"""Adaptive normalization: layer normalization whose scale depends on the normalized value."""

from functools import lru_cache
from typing import Any

import numpy as np

from normzoo.backends.around import Activation
from normzoo.backends.contract import Array, Moments
from normzoo.norm import Norm
from normzoo.passes.around import around_of
from normzoo.passes.arrays import base_array
from normzoo.passes.form import Form
from normzoo.passes.normalize import normalize
from normzoo.passes.numbers import check_number, check_shape
from normzoo.passes.saved import Saved
from normzoo.passes.view import Axes
from normzoo.zoo.layer import layer_norm


@lru_cache(maxsize=64)
def bent(scale: float, bend: float) -> Activation:
    """What follows xhat: the bracket times xhat, and the bracket as its derivative."""

    def value(v: Any) -> Any:
        return (scale - bend * v) * v

    def derivative(v: Any) -> Any:
        return scale - bend * v

    return Activation("ada_norm", value, derivative)


class AdaNorm(Norm):
    """Adaptive normalization: layer normalization whose scale depends on the normalized value.

    Formula:
        y = [scale * (1 - k * xhat)] * xhat, with xhat = (x - mean) / sqrt(var + eps), mean and (biased) var over the
        normalized axes. The bracket is a constant in the gradient.

    Shapes:
        x, y: (..., *normalized_shape), or of sizes normalized_shape along `axis`. There are no parameters.

    Args:
        normalized_shape: sizes of the normalized axes, an integer or a tuple.
        k: how strongly larger values are scaled down; the paper's 1/10.
        scale: the paper's C, a hyperparameter; 1 in the authors' code, 2 in others.
        eps: added to the variance, in the units of x squared. The paper has none; the authors' code adds it to an
            unbiased standard deviation.
        axis: see `LayerNorm`.

    Raises:
        ValueError: x does not have these sizes. TypeError: x is not a float array.

    Source:
        J. Xu, X. Sun, Z. Zhang, G. Zhao and J. Lin, "Understanding and Improving Layer Normalization", 2019,
        arXiv:1911.07013. With k of 0 and scale of 1 it is LayerNorm without parameters.

    >>> import numpy as np, normzoo as nz
    >>> nz.AdaNorm(2)(np.array([[0, 2]], np.float32)).round(2)
    array([[-1.1,  0.9]], dtype=float32)
    """

    masks = True
    moments = Moments(center=True, power=2)

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        k: float = 0.1,
        scale: float = 1.0,
        eps: float = 1e-5,
        *,
        axis: int | tuple[int, ...] | None = None,
    ) -> None:
        self.normalized_shape = check_shape("AdaNorm", "normalized_shape", normalized_shape)
        self.axis = layer_norm.check_axes("AdaNorm", axis)
        super().__init__(self.normalized_shape, eps=eps, weight=False, bias=False)
        self.k = check_number(self, "k", k)
        self.scale = check_number(self, "scale", scale)

    def axes(self, x: Array) -> Axes:
        return layer_norm.axes(self, x, self.normalized_shape, self.axis)

    def forward(self, x: Array, out: Array | None = None) -> tuple[Array, Saved]:
        if type(x) is not np.ndarray:
            x = base_array(self, "x", x)
        scale = float(self.scale)
        around = around_of(bent(scale, self.k * scale), False, False, "")
        y, _, saved = normalize(
            Form(self, self.axes(x), self.moments, self.eps or 0.0, None, around), x, None, None, out
        )
        return y, saved

    def _options(self) -> dict[str, Any]:
        return (
            {"k": self.k, "scale": self.scale} | super()._options() | ({} if self.axis is None else {"axis": self.axis})
        )
