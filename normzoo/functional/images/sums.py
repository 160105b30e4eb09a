"""Statistics of whole numbers, without rounding: sums in integers, by kernels or from how often each value occurs."""

from typing import NamedTuple

import numpy as np

from normzoo.backends.contract import Array
from normzoo.backends.forms import Pixels
from normzoo.passes.whole import now


class Sums(NamedTuple):
    """Of sets of whole numbers, int64: (b, c), or what is left of it."""

    size: Array
    total: Array
    squares: Array
    least: Array
    most: Array

    def over(self, axes: tuple[int, ...]) -> "Sums":
        """Of sets that are joined along these axes."""
        size, total, squares = (a.sum(axis=axes, keepdims=True) for a in self[:3])
        return Sums(size, total, squares, self.least.min(axes, keepdims=True), self.most.max(axes, keepdims=True))

    def moments(self) -> tuple[Array, Array]:
        """Mean and biased standard deviation, 0 where nothing counts: around the mean's whole part, in integers, so
        that nothing is lost however large the mean is."""
        size = np.maximum(self.size, 1)
        near, rest = np.divmod(self.total, size)
        squares = self.squares - 2 * near * self.total + self.size * near * near
        part = rest / size
        return near + part, np.sqrt(np.maximum(squares / size - part * part, 0.0))


def sums_of(x: Array, dims: Pixels, low: float, high: float, extremes: bool) -> Sums:
    """Of all values, none taken below low or above high, which are whole: least and most alone, or the others."""
    first, second = now().pixel_sums(dims, x.dtype, extremes)(x, low, high).astype(np.int64)
    size = np.full((dims.b, dims.c), dims.n, np.int64)
    nothing = np.zeros_like(size)
    return Sums(size, nothing, nothing, first, second) if extremes else Sums(size, first, second, nothing, nothing)


def histograms(x: Array, dims: Pixels, mask: Array | None) -> Array:
    """How often each value occurs in each (b, c), int64 from the least value of the dtype on.

    Args:
        x: as dims says.
        mask: what counts, of x's size and in its order; None: all of it.
    """
    limits = np.iinfo(x.dtype)
    size = int(limits.max) - int(limits.min) + 1
    shape, axis = ((dims.b, dims.n, dims.c), 2) if dims.last else ((dims.b, dims.c, dims.n), 1)
    values = np.moveaxis(x.reshape(shape), axis, 1)
    kept = None if mask is None else np.moveaxis(mask.reshape(shape), axis, 1)
    found = np.empty((dims.b, dims.c, size), np.int64)
    for i in np.ndindex(dims.b, dims.c):
        some = values[i] if kept is None else values[i][kept[i]]
        found[i] = np.bincount(some.astype(np.int64) - int(limits.min), minlength=size)
    return found


def sums_of_histograms(counts: Array, first: int, low: float, high: float) -> Sums:
    """Of values from `first` on, none taken below low or above high."""
    value = np.clip(np.arange(first, first + counts.shape[2]), low, high).astype(np.int64)
    there = counts > 0
    least = np.where(there, value, np.iinfo(np.int64).max).min(axis=2)
    most = np.where(there, value, np.iinfo(np.int64).min).max(axis=2)
    empty = ~there.any(axis=2)
    least[empty], most[empty] = np.iinfo(np.int64).max, np.iinfo(np.int64).min
    return Sums(counts.sum(axis=2), counts @ value, counts @ (value * value), least, most)


def percentiles_of(counts: Array, first: int, percents: tuple[float, float]) -> tuple[float, float]:
    """As np.percentile has them of all that counts, by linear interpolation."""
    ends = np.cumsum(counts.sum(axis=(0, 1)))
    if not ends[-1]:
        return -np.inf, np.inf
    places = np.array(percents) / 100 * (ends[-1] - 1)
    low, high = (first + np.searchsorted(ends, rank, side="right") for rank in (np.floor(places), np.ceil(places)))
    found = low + (high - low) * (places - np.floor(places))
    return float(found[0]), float(found[1])
