"""Steps that norms in NumPy share: moments that keep their digits, and the core of every backward pass. All float64."""

from types import ModuleType

import numpy as np

from normzoo.backends.contract import Array

Axis = int | tuple[int, ...]


def centered(v: Array, axis: Axis) -> tuple[Array, Array]:
    """(mean, v - mean) over `axis`, kept; the mean's own rounding is seen in the deviations and taken back."""
    mean = v.mean(axis=axis, keepdims=True)
    deviation = v - mean
    rounding = deviation.mean(axis=axis, keepdims=True)
    return mean + rounding, deviation - rounding


def standardized(v: Array, axis: Axis, eps: float) -> tuple[Array, Array, Array, Array]:
    """(xhat, mean, var, rstd) over `axis`, kept: rstd = 1 / sqrt(var + eps), 0 where that divides by 0."""
    mean, deviation = centered(v, axis)
    var = (deviation * deviation).mean(axis=axis, keepdims=True)
    rstd = reciprocal(np.sqrt(var + eps))
    return deviation * rstd, mean, var, rstd


def standardized_back(g: Array, xhat: Array, rstd: Array, axis: Axis, center: bool = True) -> Array:
    """dx for the gradient `g` of xhat: rstd * (g - [center] mean(g) - xhat * mean(g * xhat))."""
    along = (g * xhat).mean(axis=axis, keepdims=True)
    return rstd * (g - (g.mean(axis=axis, keepdims=True) if center else 0.0) - xhat * along)


def reciprocal(v: Array) -> Array:
    """1 / v, and 0 for 0."""
    return np.divide(1.0, v, out=np.zeros_like(v), where=v != 0)


def summed(d: Array, shape: tuple[int, ...]) -> Array:
    """d summed over the axes along which an array of `shape` was broadcast to d's: the gradient of that array."""
    lead = d.ndim - len(shape)
    axes = tuple(range(lead)) + tuple(lead + i for i, size in enumerate(shape) if size == 1 != d.shape[lead + i])
    return d.sum(axis=axes).reshape(shape)


def special() -> ModuleType:
    """scipy.special, when a norm first needs it: importing it takes nine times as long as all of this package."""
    from scipy import special  # noqa: PLC0415

    return special
