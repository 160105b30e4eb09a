"""What `normalize_image` takes: checks, and what the axes of images are."""

from math import prod
from typing import Any, NamedTuple

import numpy as np

from normzoo.backends.contract import Array
from normzoo.passes.arrays import instead_of, quoted
from normzoo.passes.numbers import check_axis, check_number

OWNER = "normalize_image"
NAMED = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "half": (0.5, 0.5),
}
LARGEST = {"uint8": 255.0, "uint16": 65535.0, "int16": 1.0}  # by dtype: what a value is divided by
JOINED: dict[str, tuple[int, ...]] = {"image": (1,), "channel": (0,), "image_channel": (), "all": (0, 1)}
RESULTS = ("float32", "float16", "bfloat16")


class Layout(NamedTuple):
    """What the axes of an array are."""

    shape: tuple[int, ...]
    items: int  # axes before those of an image: 0 or 1
    channel: int | None

    @property
    def dims(self) -> tuple[int, int, int]:
        """(b, n, c)."""
        b = prod(self.shape[: self.items])
        c = 1 if self.channel is None else self.shape[self.channel]
        n = prod(s for i, s in enumerate(self.shape) if i >= self.items and i != self.channel)
        return b, n, c

    def moved(self, axis: int | None) -> "Layout":
        """With the channels on this axis."""
        if self.channel is None or axis is None or axis == self.channel:
            return self
        shape = list(self.shape)
        shape.insert(axis, shape.pop(self.channel))
        return Layout(tuple(shape), self.items, axis)

    def is_last(self, a: Array) -> bool | None:
        """Do channels come last in memory? None where values lie otherwise, or not one behind the other."""
        if self.channel is None:
            return False if a.flags.c_contiguous else None
        for last in (False, True):
            if self.placed(a, last).flags.c_contiguous:
                return last
        return None

    def placed(self, a: Array, last: bool) -> Array:
        """A view of a with its channels last, or first of an image."""
        axis = a.ndim - 1 if last else self.items
        return a if self.channel is None or axis == self.channel else np.moveaxis(a, self.channel, axis)

    def read(self, a: Array) -> tuple[Array, bool]:
        """a as it lies in memory where it can be, else a copy; and do its channels come last?"""
        last = self.is_last(a)
        if last is None:
            a = np.ascontiguousarray(a)
            last = bool(self.is_last(a))
        return self.placed(a, last), last


def native(x: Any) -> Any:
    """x in the byte order of the machine: files of scanners have either."""
    if isinstance(x, np.ndarray) and x.dtype.kind in "iu" and not x.dtype.isnative:
        return x.astype(x.dtype.newbyteorder("="))
    return x


def layout_of(x: Any, channel_axis: Any) -> Layout:
    if not isinstance(x, np.ndarray) or isinstance(x, np.ma.MaskedArray):
        got = "a masked array" if isinstance(x, np.ma.MaskedArray) else type(x).__name__
        write = "write x.data and mask=~np.ma.getmaskarray(x)" if isinstance(x, np.ma.MaskedArray) else None
        raise TypeError(f"{OWNER}: expected x to be a NumPy array, got {got}; {write or 'write np.asarray(x)'}")
    if x.dtype.name not in LARGEST:
        floats = "; floats are what layers take: nz.InstanceNorm, nz.LayerNorm, nz.MeanVarianceNorm"
        more = floats if x.dtype.kind == "f" else f"; write x.astype({'np.uint8' if x.dtype == bool else 'np.uint16'})"
        raise TypeError(f"{OWNER}: expected x of dtype uint8, uint16 or int16, got {x.dtype}{more}")
    if channel_axis is None or x.ndim == 2:
        return Layout(x.shape, 0, None)
    if x.ndim < 3:
        raise ValueError(
            f"{OWNER}: expected x of shape (N, H, W, C), (N, C, H, W), (H, W, C), (C, H, W) or (H, W), got {x.shape}; "
            "write channel_axis=None for an x of any shape that is one image"
        )
    return Layout(x.shape, int(x.ndim > 3), channel_of(x, channel_axis, "channel_axis"))


def channel_of(x: Array, axis: Any, name: str) -> int:
    """The axis of channels, as index: the last or the first of an image."""
    found, first = check_axis(OWNER, axis, x.ndim, name), int(x.ndim > 3)
    if found not in (first, x.ndim - 1):
        raise ValueError(
            f"{OWNER}: expected {name} {first} or -1 for x of rank {x.ndim}"
            f"{', one image' if x.ndim == 3 else ''}, got {axis}"
        )
    return found


def result_dtype(dtype: Any) -> np.dtype:
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = None
    if found is None or found.name not in RESULTS:
        raise TypeError(f"{OWNER}: expected dtype {', '.join(RESULTS[:-1])} or {RESULTS[-1]}, got {quoted(dtype)}")
    return found


def check_choices(per: Any, scale: Any) -> None:
    for name, value, choices in (("per", per, tuple(JOINED)), ("scale", scale, ("std", "min_max"))):
        if not isinstance(value, str) or value not in choices:
            raise ValueError(
                f"{OWNER}: expected {name} to be one of {', '.join(map(repr, choices))}, got {quoted(value)}"
            )


def mask_of(mask: Any, x: Array, layout: Layout) -> Array | None:
    """Booleans of x's shape."""
    if mask is None:
        return None
    if isinstance(mask, str):
        if mask != "nonzero":
            raise ValueError(f"{OWNER}: expected mask of booleans or 'nonzero', got {mask!r}")
        return x != 0
    found = np.asarray(mask)
    if found.dtype != np.bool_:
        raise TypeError(f"{OWNER}: expected mask of booleans, got {found.dtype}; write mask.astype(bool)")
    plain = tuple(s for i, s in enumerate(x.shape) if i != layout.channel)
    if found.shape not in (x.shape, plain):
        raise ValueError(f"{OWNER}: expected mask of shape {x.shape} or {plain}, got {found.shape}")
    if found.shape != x.shape and layout.channel is not None:
        found = np.expand_dims(found, layout.channel)
    return np.broadcast_to(found, x.shape)


def bounds_of(name: str, value: Any, least: float, most: float) -> tuple[float, float]:
    if value is None:
        return least, most
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise TypeError(f"{OWNER}: expected {name} of two numbers, got {quoted(value)}; write {name}=(low, high)")
    low, high = (check_number(OWNER, name, v) for v in value)
    if not (least <= low < high <= most):
        raise ValueError(f"{OWNER}: expected {name} (low, high), {least:g} <= low < high <= {most:g}, got {value!r}")
    return low, high


def number_of(name: str, value: Any) -> float:
    found = check_number(OWNER, name, value)
    if not 0 <= found < np.inf:
        raise ValueError(f"{OWNER}: expected {name} >= 0 and finite, got {value!r}")
    return found


def given_of(x: Array, mean: Any, std: Any, max_value: Any, c: int) -> tuple[Array, Array] | None:
    """Mean and slope in units of x, (1, c) or (1, 1); None where x has its own statistics."""
    most = LARGEST[x.dtype.name] if max_value is None else check_number(OWNER, "max_value", max_value)
    if not 0 < most < np.inf:
        raise ValueError(f"{OWNER}: expected max_value > 0 and finite, got {max_value!r}")
    if isinstance(mean, str):
        if mean not in NAMED:
            raise ValueError(f"{OWNER}: expected mean of numbers or one of {', '.join(NAMED)}, got {mean!r}")
        if std is not None:
            raise ValueError(f"{OWNER}: expected no std beside mean={mean!r}, which has one, got {quoted(std)}")
        mean, std = NAMED[mean]
    if (mean is None) != (std is None):
        raise ValueError(f"{OWNER}: expected mean and std together, got {'mean' if std is None else 'std'} alone")
    if mean is None:
        return None
    numbers = []
    for name, value in (("mean", mean), ("std", std)):
        try:
            a = np.asarray(value, np.float64)
        except (TypeError, ValueError):
            a = None
        if a is None:
            raise TypeError(f"{OWNER}: expected {name} of numbers, got {quoted(value)}{instead_of(name, value)}")
        if a.shape not in ((), (1,), (c,)):
            raise ValueError(f"{OWNER}: expected {name} to be a number or {c}, one for each channel, got {a.shape}")
        if not np.isfinite(a).all() or (name == "std" and not (a > 0).all()):
            raise ValueError(f"{OWNER}: expected finite {name}{' > 0' if name == 'std' else ''}, got {quoted(value)}")
        numbers.append(a.reshape(1, -1) * most)
    return numbers[0], 1 / numbers[1]
