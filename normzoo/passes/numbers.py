"""Checks of number arguments: eps, momentum, sizes, axes and shapes."""

import math
from numbers import Integral, Real
from typing import Any

import numpy as np

from normzoo.backends.contract import Array
from normzoo.passes.arrays import FLOATS, quoted


def check_number(owner: object, name: str, value: Any) -> float:
    """A real number, not NaN."""
    if type(value) is float and value == value:  # noqa: PLR0124 (not NaN)
        return value
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real):
        raise TypeError(f"{owner}: expected {name} to be a number, got {quoted(value)}")
    if math.isnan(value):
        raise ValueError(f"{owner}: expected {name} to be a number, got nan")
    return float(value)


def check_eps(owner: object, eps: Any) -> float:
    """A finite number >= 0."""
    eps = check_number(owner, "eps", eps)
    if not 0 <= eps < np.inf:
        raise ValueError(f"{owner}: expected eps >= 0, got {eps}; write eps=1e-5")
    return eps


def check_size(owner: object, name: str, value: Any, least: int = 0, most: int | None = None) -> int:
    """An integer from `least` to `most`; `most` is at most the largest 64-bit integer."""
    if type(value) is int and value >= least and most is None:
        return value
    if isinstance(value, bool | np.bool_) or not isinstance(value, Integral):
        whole = (type(value) is float and value.is_integer()) or (type(value) is str and value.isdecimal())
        hint = f"; write {name}={int(value)}" if whole else ""
        raise TypeError(f"{owner}: expected {name} to be an integer, got {quoted(value)}{hint}")
    if value < least:
        raise ValueError(f"{owner}: expected {name} >= {least}, got {value}")
    if most is not None and int(value) > most:
        raise ValueError(f"{owner}: expected {name} to fit 64 bits, got {value}")
    return int(value)


def check_features(owner: object, value: Any, name: str = "num_features") -> int:
    """A number of channels, 1 or more."""
    if type(value) is int and value >= 1:
        return value
    if check_size(owner, name, value) == 0:
        raise ValueError(f"{owner}: expected {name} >= 1, got 0; write {name}=x.shape[1], or of another axis")
    return int(value)


def check_momentum(owner: object, value: Any) -> float:
    """The weight of the new value in running statistics, from 0 to 1."""
    if type(value) is float and 0 <= value <= 1:
        return value
    found = check_number(owner, "momentum", value)
    if not 0 <= found <= 1:
        raise ValueError(
            f"{owner}: expected momentum in [0, 1], the weight of the new value, got {value}; write momentum=0.1"
        )
    return found


def check_axis(owner: object, axis: Any, ndim: int, name: str = "axis") -> int:
    """An axis of an array of rank `ndim`, counted from the front."""
    axis = check_size(owner, name, axis, least=-ndim)
    if axis >= ndim:
        raise ValueError(f"{owner}: expected {name} in [-{ndim}, {ndim}) for x of rank {ndim}, got {axis}")
    return axis % ndim


def check_shape(owner: object, name: str, shape: Any) -> tuple[int, ...]:
    """One or more sizes, from an integer or a sequence of integers."""
    if type(shape) is tuple and shape:
        for size in shape:
            if type(size) is not int or size < 0:
                break
        else:
            return shape
    sizes = (shape,) if isinstance(shape, Integral) else shape
    if not isinstance(sizes, tuple | list):
        raise TypeError(f"{owner}: expected {name} to be an integer or a tuple of them, got {quoted(shape)}")
    if not sizes:
        raise ValueError(f"{owner}: expected {name} with at least one axis, got {shape}; write {name}=x.shape[-1]")
    return tuple(check_size(owner, name, size) for size in sizes)


def check_counts(owner: object, name: str, value: Any, shape: tuple[int, ...]) -> Array:
    """Counts of batches or values as an int64 array of `shape`, from an integer or an array. Also accepted: whole
    numbers as floats, which `half()` on all entries of a state leaves, and a single value with an extra axis, as
    PyTorch 0.3 wrote it."""
    a = np.asarray(value) if isinstance(value, np.ndarray | np.generic) else None
    if a is not None and a.shape != shape and a.size == 1 == math.prod(shape):
        a = a.reshape(shape)
    if (() if a is None else a.shape) != shape:
        raise ValueError(f"{owner}: expected {name} of shape {shape}, got {np.shape(value)}")
    found = np.empty(math.prod(shape), np.int64)
    for i, count in enumerate((value,) if a is None else a.ravel()):
        if a is not None and a.dtype.name in FLOATS:
            if not float(count).is_integer():
                raise TypeError(f"{owner}: expected {name} to be an integer, got {count}")
            count = int(count)  # noqa: PLW2901
        found[i] = check_size(owner, name, count, most=np.iinfo(np.int64).max)
    return found.reshape(shape)
