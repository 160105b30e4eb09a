"""Layer normalization: normalize every sample by its mean and variance over the trailing axes, or any others."""

from typing import Any, Unpack

import numpy as np

from normzoo.backends.contract import Array, Moments
from normzoo.norm import Norm
from normzoo.passes.around import Behind
from normzoo.passes.arrays import check_array, once
from normzoo.passes.numbers import check_axis, check_shape, check_size
from normzoo.passes.view import Axes


class LayerNorm(Norm):
    """Layer normalization: normalize every sample by its mean and variance over the trailing axes, or any others.

    Formula:
        y = (x - mean) / sqrt(var + eps) * weight + bias, with mean and (biased) var over the normalized axes.

    Shapes:
        x, y: (..., *normalized_shape), or of sizes normalized_shape along `axis`.
        weight, bias: normalized_shape, or parameter_shape.

    Args:
        normalized_shape: sizes of the normalized axes, an integer or a tuple.
        eps: added to the variance, in the units of x squared.
        elementwise_affine: whether there are a weight and a bias.
        bias: False: a weight only.
        axis: the normalized axes, in increasing order, if they are not the last ones: `LayerNorm(64, axis=1)`
            normalizes the channels of (N, C, H, W) at every position, without a transpose.
        parameter_axis, parameter_shape: the axes that weight and bias span, in increasing order, and their sizes, if
            these are not the normalized ones: `LayerNorm((64, 8, 8), parameter_axis=1, parameter_shape=64)` has one
            value per channel. They may be any axes, normalized or kept.
        dtype: of the parameters: float32, float64, float16 or bfloat16.
        activation, gate_first, residual_scale: see `BatchNorm`.

    Raises:
        ValueError: x does not have these sizes. TypeError: x is not a float array.

    Source:
        J. L. Ba, J. R. Kiros and G. E. Hinton, "Layer Normalization", 2016, arXiv:1607.06450; semantics of
        torch.nn.LayerNorm.

    >>> import numpy as np, normzoo as nz
    >>> nz.LayerNorm(2)(np.array([[0, 2], [10, 30]], np.float32)).round(2)
    array([[-1.,  1.],
           [-1.,  1.]], dtype=float32)
    """

    moments = Moments(center=True, power=2)
    asks = "normalized_shape", "axis", "parameter_axis"

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        axis: int | tuple[int, ...] | None = None,
        parameter_axis: int | tuple[int, ...] | None = None,
        parameter_shape: int | tuple[int, ...] | None = None,
        dtype: Any = np.float32,
        **behind: Unpack[Behind],
    ) -> None:
        self.normalized_shape = check_shape("LayerNorm", "normalized_shape", normalized_shape)
        self.axis = check_axes("LayerNorm", axis)
        self.parameter_axis, shape = check_spans("LayerNorm", self.normalized_shape, parameter_axis, parameter_shape)
        super().__init__(
            self.normalized_shape,
            shape=shape,
            eps=eps,
            weight=elementwise_affine,
            bias=elementwise_affine and bias,
            dtype=dtype,
            **behind,
        )

    def axes(self, x: Array) -> Axes:
        if self.parameter_axis is None:
            return axes(self, x, self.normalized_shape, self.axis)
        return axes_apart(self, x, self.normalized_shape, self.axis, self._shape, self.parameter_axis)

    def _options(self) -> dict[str, Any]:
        affine = {"elementwise_affine": "weight" in self.params, "bias": "bias" in self.params}
        spans = {"parameter_axis": self.parameter_axis, "parameter_shape": self._shape}
        axis = {} if self.axis is None else {"axis": self.axis}
        return super()._options() | affine | axis | ({} if self.parameter_axis is None else spans)


def check_axes(owner: object, axis: Any, name: str = "axis") -> int | tuple[int, ...] | None:
    """None, an integer or a tuple of integers."""
    if axis is None:
        return None
    if isinstance(axis, tuple | list):
        return tuple(check_size(owner, name, a, least=-(2**31)) for a in axis)
    return check_size(owner, name, axis, least=-(2**31))


def check_spans(
    owner: object, normalized_shape: tuple[int, ...], parameter_axis: Any, parameter_shape: Any
) -> tuple[int | tuple[int, ...] | None, tuple[int, ...]]:
    """The axes that parameters span (None: the normalized ones) and their sizes."""
    if (parameter_axis is None) != (parameter_shape is None):
        raise ValueError(
            f"{owner}: expected parameter_axis and parameter_shape, or neither, got {parameter_axis=}, "
            f"{parameter_shape=}"
        )
    if parameter_axis is None:
        return None, normalized_shape
    return check_axes(owner, parameter_axis, "parameter_axis"), check_shape(owner, "parameter_shape", parameter_shape)


@once
def axes(owner: object, x: Array, shape: tuple[int, ...], axis: int | tuple[int, ...] | None) -> Axes:
    """The last axes of sizes `shape`, or `axis`, are normalized together; the parameters span them."""
    check_array(owner, "x", x)
    if axis is None:
        first = x.ndim - len(shape)
        if first < 0 or x.shape[first:] != shape:
            wanted = ", ".join(map(str, shape))
            raise ValueError(f"{owner}: expected x of shape (..., {wanted}), got {x.shape}")
        return Axes(x.shape, "k" * first + "R" * len(shape))
    found = axes_of(owner, x, shape, axis)
    return Axes(x.shape, "".join("R" if i in found else "k" for i in range(x.ndim)))


def axes_of(
    owner: object, x: Array, shape: tuple[int, ...], axis: int | tuple[int, ...], name: str = "axis"
) -> tuple[int, ...]:
    """`axis` counted from the front, in increasing order, after checking that x has the sizes `shape` along it."""
    found = tuple(check_axis(owner, a, x.ndim, name) for a in (axis if isinstance(axis, tuple) else (axis,)))
    if list(found) != sorted(set(found)) or tuple(x.shape[a] for a in found) != shape:
        raise ValueError(
            f"{owner}: expected x of sizes {shape} along {name}={axis} (in increasing order), got {x.shape}"
        )
    return found


@once
def axes_apart(
    owner: object,
    x: Array,
    shape: tuple[int, ...],
    axis: int | tuple[int, ...] | None,
    parameter_shape: tuple[int, ...],
    parameter_axis: int | tuple[int, ...],
) -> Axes:
    """Axes of sizes `shape` are normalized together; parameters span other axes, of sizes `parameter_shape`."""
    letters = axes(owner, x, shape, axis).letters.lower()
    found = axes_of(owner, x, parameter_shape, parameter_axis, "parameter_axis")
    return Axes(x.shape, "".join(letter.upper() if i in found else letter for i, letter in enumerate(letters)))
