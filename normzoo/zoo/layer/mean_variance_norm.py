"""Mean variance normalization: mean 0 and variance 1 over any axes, without parameters."""

from typing import Unpack

from normzoo.backends.contract import Array, Moments
from normzoo.norm import Norm
from normzoo.passes.around import Behind
from normzoo.passes.arrays import check_array, once
from normzoo.passes.numbers import check_axis
from normzoo.passes.view import Axes
from normzoo.zoo.layer.layer_norm import check_axes


class MeanVarianceNorm(Norm):
    """Mean variance normalization: mean 0 and variance 1 over any axes, without parameters.

    Formula:
        y = (x - mean) / sqrt(var + eps), with mean and (biased) var over `axis`; a constant set gives 0.

    Shapes:
        x, y: any shape with these axes.

    Args:
        axis: the reduced axes, an integer or a tuple; ONNX's `axes`.
        eps: added to the variance, in the units of x squared.

    Raises:
        ValueError: x does not have these axes, or an axis is named twice. TypeError: x is not a float array.

    Source:
        ONNX, "MeanVarianceNormalization", https://onnx.ai/onnx/operators/onnx__MeanVarianceNormalization.html. Its
        formula has no eps; ONNX's function body adds 1e-9 to the deviation, and computes the variance as E[x^2] -
        E[x]^2, which loses digits if the mean is large. It is LayerNorm, InstanceNorm, GroupNorm or BatchNorm without
        parameters, depending on the axes.

    >>> import numpy as np, normzoo as nz
    >>> nz.MeanVarianceNorm(-1)(np.array([[0, 2], [10, 30]], np.float32))
    array([[-1.,  1.],
           [-1.,  1.]], dtype=float32)
    """

    moments = Moments(center=True, power=2)
    asks = ("axis",)

    def __init__(self, axis: int | tuple[int, ...] = (0, 2, 3), eps: float = 0.0, **behind: Unpack[Behind]) -> None:
        super().__init__(axis, eps=eps, weight=False, bias=False, **behind)
        found = check_axes(self, axis)
        if found is None:
            raise TypeError(f"{self}: expected axis to be an integer or a tuple of them, got None")
        self.axis = found if isinstance(found, tuple) else (found,)

    def axes(self, x: Array) -> Axes:
        return letters(self, x, self.axis)


@once
def letters(owner: object, x: Array, axis: tuple[int, ...]) -> Axes:
    check_array(owner, "x", x)
    found = [check_axis(owner, a, x.ndim) for a in axis]
    if len(set(found)) != len(found):
        raise ValueError(f"{owner}: expected different axes, got {axis} for x of shape {x.shape}")
    return Axes(x.shape, "".join("r" if i in found else "k" for i in range(x.ndim)))
