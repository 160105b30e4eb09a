"""Checks whether arrays share memory: which arrays `out` may be."""

from typing import Any

import numpy as np

from normzoo.backends.contract import Array
from normzoo.passes.arrays import on_device


def check_out(
    owner: object,
    out: Any,
    shape: tuple[int, ...],
    dtype: np.dtype,
    inputs: tuple[Array | None, ...],
    apart: tuple[Array | None, ...] = (),
    name: str = "out",
) -> None:
    """`out`, the argument of this name, can take a result: it has x's shape and dtype, and is one of `inputs` or apart
    from them, and from `apart`."""
    if not isinstance(out, np.ndarray) and not on_device(out):
        raise TypeError(
            f"{owner}: expected {name} to be a NumPy array, got {type(out).__name__}; write np.empty_like(x)"
        )
    if out.dtype != dtype:
        raise TypeError(f"{owner}: expected {name} of dtype {dtype}, got {out.dtype}; write np.empty_like(x)")
    if out.shape != shape:
        raise ValueError(f"{owner}: expected {name} of shape {shape}, got {out.shape}; write np.empty_like(x)")
    if not out.flags.writeable:
        raise ValueError(f"{owner}: expected {name} to be writeable, got a read-only array; write np.empty_like(x)")
    if not out.flags.c_contiguous and overlaps_itself(out):
        raise ValueError(
            f"{owner}: expected {name} whose elements lie apart, without broadcast axes, got shape {out.shape} with "
            f"strides {out.strides}; write np.empty_like(x)"
        )
    if type(out) is not np.ndarray and isinstance(out, np.ndarray):
        out = np.asarray(out)  # a subclass may override the functions that look at its memory
    for i, other in enumerate((*inputs, *apart)):
        may_be = i < len(inputs)
        if other is None or (may_be and other is out) or not may_overlap(out, other):
            continue
        if not (may_be and same_place(out, other)) and overlap(out, other):
            raise ValueError(
                f"{owner}: expected {name} to be an input itself or apart from it, got memory that overlaps in part; "
                "write np.empty_like(x)"
            )


def overlaps_itself(a: Array) -> bool:
    """May elements of `a` share memory? True for every array with an axis whose stride is smaller than the extent of
    the axes inside it; this holds for no slice or transpose of an array without overlap."""
    reach = a.dtype.itemsize
    for stride, size in sorted((abs(stride), size) for stride, size in zip(a.strides, a.shape, strict=True)):
        if size > 1:
            if stride < reach:
                return a.size > 0
            reach += stride * (size - 1)
    return False


def same_place(a: Array, b: Array) -> bool:
    """Are `a` and `b` the same elements in the same order?"""
    if a is b:
        return True
    if type(a) is np.ndarray and type(b) is np.ndarray and not np.may_share_memory(a, b):
        return False  # a tenth of the time of comparing addresses
    return address(a) == address(b) and (a.shape, a.strides, a.dtype) == (b.shape, b.strides, b.dtype)


def address(a: Array) -> int:
    """The address of the first byte of `a`."""
    return a.__array_interface__["data"][0] if isinstance(a, np.ndarray) else a.address


def may_overlap(a: Array, b: Array) -> bool:
    """Do the address ranges of `a` and `b` overlap?"""
    if type(a) is np.ndarray and type(b) is np.ndarray:
        return np.may_share_memory(a, b)
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return not (on_device(a) or on_device(b)) and np.may_share_memory(a, b)
    (start, end), (first, last) = a.bounds, b.bounds
    return start < last and first < end


def overlap(a: Array, b: Array) -> bool:
    """Do `a` and `b` share memory? True also if finding out would take too long."""
    if on_device(a):
        return True  # only their address ranges are known, and these overlap
    try:
        return np.shares_memory(a, b, max_work=100_000)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True
