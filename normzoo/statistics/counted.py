"""What data tools take: arrays whose values may not all count, and the axes that statistics are over."""

from numbers import Integral, Real
from typing import Any

import numpy as np

from normzoo.backends.contract import Array
from normzoo.passes.arrays import base_array, moved, on_device
from normzoo.passes.formulas import Axis
from normzoo.passes.view import lies_in
from normzoo.selection.select import Selected, select
from normzoo.statistics.tables import Counted


def data_array(owner: object, name: str, a: Any) -> Array:
    """`a` as an array on the host; masked arrays and selections are refused, as all values must count."""
    if isinstance(a, np.ma.MaskedArray) or getattr(type(a), "is_selection", False):
        kind = "a masked array" if isinstance(a, np.ma.MaskedArray) else "a selection"
        instead = (
            f"{name}.compressed(), which is what is left of all its axes" if kind == "a masked array" else "x alone"
        )
        raise TypeError(f"{owner}: expected {name} whose values all count, got {kind}; write {instead}")
    return moved(base_array(owner, name, a), "cpu")


def data_of(owner: object, x: Any, name: str = "x") -> Any:
    """What a data tool takes, as an array on the host or a selection of one: numbers of any kind are floats, integers
    and booleans float64; masked values do not count. Layers take less: see `base_array`.

    Raises:
        TypeError: x is a tensor, which normzoo.torch takes, a Dask array, or holds no real numbers.
    """
    if isinstance(x, Selected):
        return x
    if isinstance(x, np.ma.MaskedArray):
        return select(data_array(owner, name, _floats(np.asarray(x.data))), mask=~np.ma.getmaskarray(x))
    if hasattr(x, "dask") and hasattr(x, "chunks"):
        raise TypeError(
            f"{owner}: expected {name} in memory, got a Dask array; write nz.stats_of({name}, axis) or {name}.compute()"
        )
    is_tensor = any(kind.__module__ == "torch" for kind in type(x).__mro__)
    if not isinstance(x, np.ndarray) and not is_tensor and not on_device(x) and _has_numbers(x):
        x = _array_of(x)
    return data_array(owner, name, _floats(x) if isinstance(x, np.ndarray) else x)


def _has_numbers(x: Any) -> bool:
    return isinstance(x, list | tuple | Real) or hasattr(x, "__array__")


def _array_of(x: Any) -> Any:
    """A list, a column, a frame or anything with `__array__` as an array; missing values of frames are NaN."""
    try:
        found = np.asarray(x)
        if found.dtype == object and hasattr(x, "to_numpy"):  # pandas, of numbers that may be missing
            found = x.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError):
        return x
    return found if found.dtype.kind in "biuf" or found.dtype.name == "bfloat16" else x


def _floats(a: Array) -> Array:
    """Integers and booleans as float64."""
    return a.astype(np.float64) if a.dtype.kind in "biu" else a


def counted_of(owner: object, x: Any, axes: tuple[int, ...], skip_nan: bool) -> tuple[Counted, bool]:
    """Which values count, and whether there are segments."""
    if not isinstance(x, Selected):
        return Counted(skips=skip_nan), False
    ids, count = None, 1
    if x.segments is not None:
        if x.segment_axis not in axes:
            raise ValueError(
                f"{owner}: expected segments along an axis that statistics are over, got segment_axis="
                f"{x.segment_axis} and axis={axes}"
            )
        values, ids = np.unique(x.segments, return_inverse=True)
        count = values.size
        shape = [1] * x.ndim
        shape[x.segment_axis] = -1
        ids = ids.reshape(shape)
    return Counted(x.mask, x.sample_weight, ids, count, skip_nan), ids is not None


def is_dense(x: Array) -> bool:
    """Can backends read x where it is, with its axes in the order of memory?"""
    order = tuple(sorted(range(x.ndim), key=lambda i: -abs(x.strides[i])))
    return x.dtype.isnative and x.flags.aligned and lies_in(order, x.shape, x.strides, x.itemsize)


def reduced(ndim: int, axis: Axis | None) -> tuple[int, ...]:
    """The axes counted from the front, ascending."""
    axes = tuple(range(ndim)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    if not all(isinstance(a, Integral) and not isinstance(a, bool) for a in axes):
        raise TypeError(f"Stats: expected axis to be an integer, a tuple of integers or None, got {axis!r}")
    if any(not -ndim <= a < ndim for a in axes) or len({a % ndim for a in axes}) < len(axes):
        raise ValueError(f"Stats: expected different axes in [-{ndim}, {ndim}) for x of rank {ndim}, got {axis}")
    return tuple(sorted(a % ndim for a in axes))
