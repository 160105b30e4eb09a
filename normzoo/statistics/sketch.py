"""Quantiles of data in parts: a sketch of bounded size, merged in any order, with a bound on its error.

A sketch holds values in buffers, a value of level h standing for 2^h of the data. Two full buffers of a level are
sorted together, and every other value becomes a buffer of the next: such a compaction moves the rank of any number by
at most 2^h, upwards or downwards as the values at even or odd places are left. The direction is chosen that has the
smaller sum so far, so nothing is random, and the larger sum bounds the error.

Why our own: what packages offer (t-digest, DDSketch, KLL in Apache DataSketches) has no guarantee for ranks, or one of
probability, or random bits; and no float32, no arrays of sets.
"""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from normzoo.backends.contract import Array
from normzoo.passes.formulas import Axis
from normzoo.passes.numbers import check_size
from normzoo.statistics.counted import reduced
from normzoo.statistics.robust import check_shares, masked_of

SIZE = 1 << 14
NAMES = "items", "levels", "count", "least", "largest", "moved", "size"


class QuantileSketch:
    """Quantiles of one set, or of an array of sets, of data that comes in parts.

    Formula:
        the quantile q of n values is the value with rank (n - 1) * q of those that the sketch holds, each of them as
        often as it stands for values of the data. Its true rank differs by at most rank_error * n, and
        rank_error <= log2(n / size) / (2 * size): with the default size at most 1e-3 up to n = 7e13.

    What is exact: sets of fewer than 2 * size values, of which all are held: results are those of `nz.robust`. Always:
    count, the least and the largest value. The same parts, merged in the same order, give the same bits. NaN does not
    count; infinities do.

    Shapes:
        every result: (*shape of q, *shape of the sets), float64; NaN of sets without values.

    Args:
        shape: of the array of sets.
        size: values of a buffer, at least 2: memory is at most about size * log2(n / size) values a set.
        dtype: of the values that are held, float32 or float64.

    Raises:
        ValueError: parts have sets of another shape, or another size. TypeError: x holds no real numbers.

    Source:
        G. S. Manku, S. Rajagopalan and B. G. Lindsay, "Approximate Medians and other Quantiles in One Pass and with
        Limited Memory", 1998, https://doi.org/10.1145/276304.276342 (buffers and their compaction).

    >>> import numpy as np, normzoo as nz
    >>> sketch = nz.QuantileSketch.of(np.float32([[1, 5], [2, 7]]), axis=0).update(np.float32([[3, 6]]), axis=0)
    >>> sketch.quantile(0.5), int(sketch.count[0])
    (array([2., 6.]), 3)
    """

    def __init__(self, shape: tuple[int, ...] = (), size: int = SIZE, dtype: Any = np.float64) -> None:
        self.shape, self.size = tuple(shape), check_size("QuantileSketch", "size", size, least=2)
        self.dtype = np.dtype(dtype)
        if self.dtype not in (np.float32, np.float64):
            raise TypeError(f"QuantileSketch: expected dtype float32 or float64, got {dtype!r}")
        sets = int(np.prod(self.shape))
        self._levels: list[list[Array | None]] = [[None] for _ in range(sets)]  # of each set; of level 0 unsorted
        self._count, self._moved = np.zeros(sets, np.int64), np.zeros((sets, 2), np.int64)
        self._ends = np.full((2, sets), np.nan)  # the least and the largest value

    @classmethod
    def of(cls, x: Any, axis: Axis | None = None, *, size: int = SIZE) -> Self:
        """The sketch of x over `axis`, an axis or several (None: all): numbers, as `Stats.of`
        takes them; of a masked array, or of a selection with a mask, of what counts."""
        x, mask = masked_of("QuantileSketch", x)
        axes = reduced(x.ndim, axis)
        kept = [i for i in range(x.ndim) if i not in axes]
        found = cls(tuple(x.shape[i] for i in kept), size, np.float64 if x.dtype.itemsize == 8 else np.float32)
        if not x.size:
            return found
        order = [*kept, *axes]
        rows = x.transpose(order).reshape(len(found._levels), -1)
        counts = None if mask is None else np.broadcast_to(mask, x.shape).transpose(order).reshape(rows.shape)
        for i, row in enumerate(rows):
            v = np.asarray(row if counts is None else row[counts[i]], found.dtype)
            found._take(i, v[~np.isnan(v)])
        return found

    def _take(self, i: int, v: Array) -> None:
        """Add values to a set."""
        if not v.size:
            return
        self._count[i] += v.size
        low, high = self._ends[:, i]
        self._ends[:, i] = np.fmin(low, v.min()), np.fmax(high, v.max())
        held = self._levels[i][0]
        v = v if held is None else np.concatenate([held, v])
        whole = v.size // (2 * self.size) * 2 * self.size
        for begin in range(0, whole, 2 * self.size):
            self._compact(i, 0, v[begin : begin + 2 * self.size])
        self._levels[i][0] = v[whole:].copy() if whole < v.size else None

    def _compact(self, i: int, level: int, v: Array) -> None:
        """Every other one of these values, in order, goes to the next level."""
        odd = int(self._moved[i, 0] > self._moved[i, 1])
        self._moved[i, odd] += 1 << level
        self._put(i, level + 1, np.sort(v, kind="stable" if level else None)[odd::2])

    def _put(self, i: int, level: int, v: Array) -> None:
        """Add a full buffer to a level."""
        levels = self._levels[i]
        levels.extend([None] * (level + 1 - len(levels)))
        held = levels[level]
        if held is None:
            levels[level] = v.copy()
        else:
            levels[level] = None
            self._compact(i, level, np.concatenate([held, v]))

    def merge(self, other: "QuantileSketch") -> Self:
        """The sketch of both parts together; neither changes."""
        if not isinstance(other, QuantileSketch):
            got = type(other).__name__
            raise TypeError(
                f"QuantileSketch: expected a QuantileSketch to merge, got {got}; write QuantileSketch.of(x)"
            )
        for name in ("shape", "size"):
            if getattr(self, name) != getattr(other, name):
                mine, its = getattr(self, name), getattr(other, name)
                raise ValueError(f"QuantileSketch: expected sets of {name} {mine} to merge, got {name} {its}")
        found = type(self)(self.shape, self.size, np.promote_types(self.dtype, other.dtype))
        found._levels = [[None if v is None else v.astype(found.dtype) for v in levels] for levels in self._levels]
        found._count, found._moved = self._count.copy(), self._moved + other._moved
        found._ends = self._ends.copy()
        for i, levels in enumerate(other._levels):
            for level, v in enumerate(levels[1:], 1):
                if v is not None:
                    found._put(i, level, v.astype(found.dtype))
            if levels[0] is not None:
                found._take(i, levels[0].astype(found.dtype))
        found._count = self._count + other._count
        found._ends = np.stack([np.fmin(self._ends[0], other._ends[0]), np.fmax(self._ends[1], other._ends[1])])
        return found

    def update(self, x: Any, axis: Axis | None = None) -> Self:
        """The sketch of these values and of x over `axis`."""
        return self.merge(type(self).of(x, axis, size=self.size))

    @property
    def count(self) -> Array:
        """How many values are no NaN, int64."""
        return self._count.reshape(self.shape)

    @property
    def least(self) -> Array:
        return self._ends[0].reshape(self.shape)

    @property
    def largest(self) -> Array:
        return self._ends[1].reshape(self.shape)

    @property
    def rank_error(self) -> Array:
        """How far at most the rank of a quantile is from that wanted, as a share of the count."""
        return (self._moved.max(axis=1) / np.maximum(self._count, 1)).reshape(self.shape)

    def quantile(self, q: Any) -> Array:
        """Quantiles, for a number or numbers q in [0, 1]: see `nz.robust.quantile`."""
        wanted = np.asarray(q, np.float64)
        check_shares("QuantileSketch.quantile", "q", wanted, 1.0)
        found = self._each(lambda held: held.quantiles(wanted.reshape(-1)), wanted.size)
        return found.reshape((*wanted.shape, *self.shape))

    def median(self) -> Array:
        return self.quantile(0.5)

    def iqr(self) -> Array:
        """The 0.75 quantile minus the 0.25 quantile."""
        low, high = self.quantile([0.25, 0.75])
        return np.asarray(high - low)

    def mad(self, scale: float = 1.0) -> Array:
        """The median of |x - median(x)|, times `scale`; its rank is within two times `rank_error`."""
        return self._each(lambda held: held.around(held.quantiles(np.array([0.5]))[0]) * scale, 1).reshape(self.shape)

    def trimmed_mean(self, share: float) -> Array:
        """The mean without floor(share * count) values at either end."""
        check_shares("QuantileSketch.trimmed_mean", "share", np.asarray(share, np.float64), 0.5)
        return self._each(lambda held: held.middle(share, False), 1).reshape(self.shape)

    def winsorized_mean(self, share: float) -> Array:
        """The mean with floor(share * count) values at either end replaced by their nearest neighbour."""
        check_shares("QuantileSketch.winsorized_mean", "share", np.asarray(share, np.float64), 0.5)
        return self._each(lambda held: held.middle(share, True), 1).reshape(self.shape)

    def _each(self, find: Any, results: int) -> Array:
        found = np.full((results, len(self._levels)), np.nan)
        for i, levels in enumerate(self._levels):
            if self._count[i]:
                found[:, i] = find(_Held(levels, *self._ends[:, i]))
        return found

    def to_dict(self) -> dict[str, Array]:
        """Copies of what is held, by name, for np.savez(path, **sketch.to_dict()) or safetensors."""
        most = max((len(levels) for levels in self._levels), default=1)
        sizes = np.zeros((len(self._levels), most), np.int64)
        for i, levels in enumerate(self._levels):
            sizes[i, : len(levels)] = [0 if v is None else v.size for v in levels]
        held = [v for levels in self._levels for v in levels if v is not None]
        return {
            "items": np.concatenate(held) if held else np.zeros(0, self.dtype),
            "levels": sizes.reshape(*self.shape, most),
            "count": self.count.copy(),
            "least": self.least.copy(),
            "largest": self.largest.copy(),
            "moved": self._moved.reshape(*self.shape, 2).copy(),
            "size": np.array(self.size),
        }

    @classmethod
    def from_dict(cls, arrays: Mapping[str, Array]) -> Self:
        """The sketch from the arrays of `to_dict`: a dict, or the result of np.load.

        Raises:
            ValueError: an array is missing or unknown, or the arrays do not fit together.
        """
        if set(arrays) != set(NAMES):
            expected = f"arrays {sorted(NAMES)}, got {sorted(arrays)}"
            raise ValueError(f"QuantileSketch: expected {expected}; write sketch.to_dict()")
        levels, items, count = (np.asarray(arrays[name]) for name in ("levels", "items", "count"))
        found = cls(count.shape, int(arrays["size"]), items.dtype)
        fits = levels.ndim and levels.shape[:-1] == count.shape and (levels >= 0).all() and levels.sum() == items.size
        if not fits or ((levels << np.arange(levels.shape[-1])).sum(axis=-1) != count).any():
            raise ValueError(
                f"QuantileSketch: expected levels whose values stand for count and add up to the items, got levels of "
                f"shape {levels.shape}, count {count.shape} and {items.size} items; write sketch.to_dict()"
            )
        sizes = levels.reshape(len(found._levels), -1)
        parts = np.split(items, np.cumsum(sizes.reshape(-1))[:-1])
        for i, row in enumerate(sizes):
            mine = parts[i * len(row) : (i + 1) * len(row)]
            found._levels[i] = [v.copy() if v.size else None for v in mine]
        found._count = count.reshape(-1).astype(np.int64)
        found._moved = np.array(arrays["moved"], np.int64).reshape(-1, 2)
        found._ends = np.stack([np.array(arrays[name], np.float64).reshape(-1) for name in ("least", "largest")])
        return found


class _Held:
    """The values that a set holds, in order, and how many of the data each stands for."""

    def __init__(self, levels: list[Array | None], least: float, largest: float) -> None:
        pairs = [(v, 1 << level) for level, v in enumerate(levels) if v is not None]
        v = np.concatenate([v for v, _ in pairs]).astype(np.float64)
        each = np.repeat([many for _, many in pairs], [v.size for v, _ in pairs])
        order = np.argsort(v, kind="stable")
        self.v, self.each = v[order], each[order]
        self.v[0], self.v[-1] = least, largest
        self.ends = np.cumsum(self.each)

    def at(self, rank: Array) -> Array:
        return self.v[np.searchsorted(self.ends, rank, side="right")]

    def quantiles(self, q: Array) -> Array:
        h = (self.ends[-1] - 1) * q
        low, high = self.at(np.floor(h)), self.at(np.ceil(h))
        with np.errstate(all="ignore"):
            return np.where(low == high, low, low + (h - np.floor(h)) * (high - low))

    def around(self, centre: float) -> Array:
        """The median of distances from it."""
        apart = np.abs(self.v - centre)
        order = np.argsort(apart, kind="stable")
        self.v, self.each = apart[order], self.each[order]
        self.ends = np.cumsum(self.each)
        return self.quantiles(np.array([0.5]))

    def middle(self, share: float, winsorized: bool) -> float:
        """The mean of what lies between the ends, with or without what it is replaced by."""
        n = int(self.ends[-1])
        cut = int(np.floor(share * n))
        begins = self.ends - self.each
        inside = np.clip(np.minimum(self.ends, n - cut) - np.maximum(begins, cut), 0, None)
        total = float((self.v[inside > 0] * inside[inside > 0]).sum())
        if not winsorized:
            return total / (n - 2 * cut)
        return (total + cut * float(self.at(np.array([cut, n - cut - 1])).sum())) / n
