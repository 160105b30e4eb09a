"""Statistics of data in parts: counts, means and sums of squares, merged and taken apart without losing digits."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from normzoo.backends.contract import Array
from normzoo.passes.formulas import Axis, centered, reciprocal
from normzoo.selection.select import Selected
from normzoo.statistics.counted import counted_of, data_of, is_dense, reduced
from normzoo.statistics.tables import COMPILED, Counted, found_of

NAMES = ("count", "mean", "m2")
ALL_NAMES = (*NAMES, "unit")
BLOCK = 1 << 20  # values that are read and converted to float64 at a time
SMALL, LARGE = 1e-125, 1e125  # while sqrt(m2) is between these, squares and their sums stay far inside float64's range


@dataclass(frozen=True, eq=False)
class Stats:
    """Count, mean, and sum of squared deviations from the mean, of one set or of an array of sets.

    Formula:
        count = n, mean = sum(x) / n, m2 = sum((x - mean)^2); two parts a and b of a set are merged by
        n = n_a + n_b, mean = mean_a + (mean_b - mean_a) * n_b / n,
        m2 = m2_a + m2_b + (mean_b - mean_a)^2 * n_a * n_b / n
        m2 is in units of unit^2. The unit is 1 unless squared deviations would leave the range of float64.

    Counts are integers and exact; sums of weights are rounded to float64. However the data is
    split, in whatever order the parts are merged and however many of them are empty, mean and m2 equal those of all
    data at once up to float64 rounding: a few 1e-16 of max|x| and of m2, for any |mean|/std up to 1e6. Merging the same
    parts in the same order gives the same bits, and merging an empty part changes no bit. A set of equal values has
    exactly their value as its mean, and an m2 of 0. NaN and inf stay in their set and in everything it is merged into,
    see `subtract`; unless `of` skips NaN.

    Attributes:
        count: int64, of mean's shape or broadcastable to it; of weighted values float64, the sum of their weights.
        mean, m2: float64, of the same shape; 0 where count is 0.
        unit: float64, powers of two, of mean's shape or broadcastable to it.

    Raises:
        ValueError: count, mean, m2 and unit do not fit together, or a count is negative. TypeError: they are not arrays
            of integers and floats.

    Source:
        T. F. Chan, G. H. Golub and R. J. LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample
        Variances", 1979, https://doi.org/10.1007/978-3-642-51461-6_3.

    >>> import numpy as np
    >>> stats = Stats.empty(()).update(np.array([1.0, 2.0]), 0).update(np.array([6.0]), 0)
    >>> int(stats.count), float(stats.mean), float(stats.var(correction=1))
    (3, 3.0, 7.0)
    """

    count: Array
    mean: Array
    m2: Array
    unit: Array = field(default_factory=lambda: np.array(1.0))

    def __post_init__(self) -> None:
        for name, kind in zip(ALL_NAMES, "ifff", strict=True):
            a = getattr(self, name)
            if isinstance(a, np.ma.MaskedArray):
                raise TypeError(f"Stats: expected {name} without a mask, got a masked array; write Stats.of(x, axis)")
            a = np.asarray(a)
            if a.dtype.kind not in ("iuf" if kind == "i" else "f"):
                wanted = "integers, or of floats that are sums of weights" if kind == "i" else "floats"
                raise TypeError(f"Stats: expected {name} of {wanted}, got {a.dtype}; write {name}.astype(...)")
            is_count = kind == "i" and a.dtype.kind != "f"
            object.__setattr__(self, name, np.asarray(a, np.int64 if is_count else np.float64))
        shapes = self.count.shape, self.mean.shape, self.m2.shape, np.shape(self.unit)
        fits = shapes[1] == shapes[2]
        if fits and not {shapes[0], shapes[3]} <= {(), shapes[1]}:  # as they usually are
            try:
                fits = np.broadcast_shapes(*shapes) == shapes[1]
            except ValueError:
                fits = False
        if not fits:
            raise ValueError(
                "Stats: expected mean and m2 of one shape and count and unit of that shape or one that repeats over "
                "it, got count {}, mean {}, m2 {}, unit {}".format(*shapes)
            )
        if not (self.count >= 0).all():
            raise ValueError(f"Stats: expected count >= 0, got {self.count.min()}")

    @classmethod
    def empty(cls, shape: tuple[int, ...]) -> Self:
        """Statistics of no values: merging them changes nothing."""
        return cls(np.array(0, np.int64), np.zeros(shape), np.zeros(shape))

    @classmethod
    def of(cls, x: Array | Selected, axis: Axis | None = None, *, skip_nan: bool = False) -> Self:
        """Statistics of x over `axis`, an axis or several (None: all), in float64; the other axes remain. x is read
        where it is: a memory-mapped array needs no memory.

        Args:
            x: numbers: an array of floats, integers or booleans, a list, a column or frame of pandas or Polars; a
                masked array, whose masked values do not count; or a selection, see `select`: of values that count, with
                weights, or in segments, which then are the first axis, in ascending order of ids.
            axis: the axis that segments refer to is one of them.
            skip_nan: if True, NaN does not count; the count is then one of each set.

        Raises:
            TypeError: x holds no real numbers. ValueError: `axis` is not an axis of x, or is named twice.

        >>> import numpy as np, normzoo as nz
        >>> ages = np.array([[30.0], [np.nan], [50.0], [7.0]])
        >>> nz.Stats.of(nz.select(ages, segments=[1, 1, 1, 0]), axis=0, skip_nan=True).mean
        array([[ 7.],
               [40.]])
        """
        x = data_of("Stats", x)
        a = x.x if isinstance(x, Selected) else x
        axes = reduced(a.ndim, axis)
        if isinstance(x, Selected) or skip_nan:
            counted, segmented = counted_of("Stats", x, axes, skip_nan)
            found = cls._counted(a, axes, counted)
            return found if segmented else cls(*(getattr(found, name)[0] for name in ALL_NAMES))
        return in_blocks(a, axes, cls=cls) if a.size < COMPILED or not is_dense(a) else cls._of(a, axes)

    @classmethod
    def _counted(cls, x: Array, axes: tuple[int, ...], counted: Counted) -> Self:
        """Statistics of values that count, (segments, *kept)."""
        shape = counted.groups, *(n for i, n in enumerate(x.shape) if i not in axes)
        if x.size == 0:
            return cls(np.zeros(shape, np.int64), np.zeros(shape), np.zeros(shape), np.ones(shape))
        with np.errstate(all="ignore"):
            count, mean, m2 = found_of(x, axes, counted, False, union)
            unit = np.ones(shape)
            far = _far(m2) & (count > 0)
            if x.itemsize == 8 and far.any():
                _, least, most = found_of(x, axes, counted, True, extremes_union)
                largest = np.maximum(np.abs(least), np.abs(most))
                far &= (least < most) & np.isfinite(largest) & (~np.isnan(m2) | (largest > LARGE))
                if far.any():  # compute again, with the largest value scaled to about 1
                    scale = power_above(np.where(np.isfinite(largest), largest, 0.0).max(axis=0))
                    back = np.expand_dims(scale, axes)
                    count, mean, m2 = found_of(x / back, axes, counted, False, union)
                    mean = mean * scale
                    m2, unit = _in_units(m2, np.broadcast_to(scale, shape))
        weighted = counted.weights is not None
        return cls(count if weighted else count.astype(np.int64), mean, m2, unit)

    @classmethod
    def _of(cls, x: Array, axes: tuple[int, ...]) -> Self:
        """Statistics of one block."""
        count = np.array(np.prod([x.shape[a] for a in axes], dtype=np.int64), np.int64)
        shape = tuple(n for i, n in enumerate(x.shape) if i not in axes)
        if x.size == 0:
            return cls.empty(shape) if count == 0 else cls(count, np.zeros(shape), np.zeros(shape))
        if x.size >= COMPILED and x.ndim:
            found = cls._counted(x, axes, Counted())
            return cls(count, found.mean[0], found.m2[0], found.unit[0] if (found.unit != 1).any() else np.array(1.0))
        v = x.astype(np.float64)
        with np.errstate(all="ignore"):
            mean, deviation = centered(v, axes)
            m2, unit = (deviation * deviation).sum(axis=axes, keepdims=True), np.array(1.0)
            far = _far(m2)
            if far.any() and (far := far & (deviation != 0).any(axis=axes, keepdims=True)).any():
                # compute again, with the largest value scaled to about 1
                largest = np.abs(v).max(axis=axes, keepdims=True)
                scale = np.where(far, power_above(largest), 1.0)
                scaled, deviation = centered(v / scale, axes)
                m2, unit = _in_units((deviation * deviation).sum(axis=axes, keepdims=True), scale)
                mean, unit = scaled * scale, unit.reshape(shape)
            return cls(count, mean.reshape(shape), m2.reshape(shape), unit)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array of sets."""
        return self.mean.shape

    def merge(self, other: "Stats") -> Self:
        """Statistics of both parts together; merging an empty part changes no bit."""
        self._check(other, "merge")
        with np.errstate(all="ignore"):
            count, share, mean, m2 = _union((self.count, self.mean, self.m2), (other.count, other.mean, other.m2))
            unit = np.array(1.0)
            far = _far(m2) | (self.unit != 1) | (other.unit != 1)
            if far.any():  # compute again, with the largest of the three terms scaled to about 1
                one, two = np.sqrt(self.m2), np.sqrt(other.m2)
                largest = np.maximum(one * self.unit, two * other.unit)
                largest = np.maximum(largest, np.abs(other.mean / 2 - self.mean / 2))
                scale = np.where(far, power_above(largest), 1.0)
                apart = other.mean / scale - self.mean / scale
                own, more = (one * (self.unit / scale)) ** 2, (two * (other.unit / scale)) ** 2
                mean = np.where(far, self.mean + apart * share * scale, mean)
                m2, unit = _in_units(own + more + apart * apart * (self.count * share), scale)
        first, second = other.count == 0, self.count == 0
        found = (mean, self.mean, other.mean), (m2, self.m2, other.m2), (unit, self.unit, other.unit)
        return type(self)(count, *(np.where(first, a, np.where(second, b, new)) for new, a, b in found))

    def subtract(self, other: "Stats") -> Self:
        """Statistics of the rest, after `other`, a part of this, is removed. A window slides by
        window.merge(new).subtract(old).

        The count is exact. m2 is a difference of sums of squares: its error is float64 rounding of the largest of them
        (m2 of the whole, and the squared distance of the part's mean from the mean of the whole), and it is never below
        0. NaN and inf are not removed: a window that may meet them should be merged again from its parts.

        Raises:
            ValueError: `other` has more values than this.
        """
        self._check(other, "subtract")
        count = np.asarray(self.count - other.count)
        if (count < 0).any():
            raise ValueError(
                f"Stats: expected to subtract a part of {_shown(self.count)} values, got one of {_shown(other.count)}"
            )
        share = other.count * reciprocal(count.astype(np.float64))
        with np.errstate(all="ignore"):
            scale = self.unit
            apart = self.mean / scale - other.mean / scale
            mean = self.mean + apart * share * scale
            # With d the distance from the part's mean to the rest's, m2 = m2_rest + m2_part + d^2 n_part n_rest / n.
            between = apart * apart * (other.count * (self.count * reciprocal(count.astype(np.float64))))
            m2 = self.m2 - other.m2 * (other.unit / scale) ** 2 - between
            m2, unit = _in_units(np.maximum(np.where(count == 1, 0.0 * m2, m2), 0.0) + 0.0, scale)
        none, all_of_it = other.count == 0, count == 0
        found = (mean, self.mean, 0.0), (m2, self.m2, 0.0), (unit, self.unit, 1.0)
        return type(self)(count, *(np.where(all_of_it, gone, np.where(none, a, new)) for new, a, gone in found))

    def update(self, x: Array, axis: Axis | None = None) -> Self:
        """Statistics of these values and of x over `axis`."""
        return self.merge(type(self).of(x, axis))

    def var(self, correction: float = 0) -> Array:
        """m2 / (count - correction), float64; NaN where count - correction is 0 or less."""
        with np.errstate(all="ignore"):
            return self._squares(correction) * self.unit * self.unit

    def std(self, correction: float = 0) -> Array:
        """The square root of `var`, correct even where var leaves the range of float64."""
        with np.errstate(all="ignore"):
            return np.sqrt(self._squares(correction)) * self.unit

    def _squares(self, correction: float) -> Array:
        values = self.count - correction
        return np.where(values > 0, self.m2 / values, np.nan)

    def to_dict(self) -> dict[str, Array]:
        """Copies of the arrays by name, for np.savez(path, **stats.to_dict()) or safetensors; unit only if it is not
        1."""
        names = NAMES if np.all(self.unit == 1) else ALL_NAMES
        return {name: np.array(getattr(self, name), order="C") for name in names}

    @classmethod
    def from_dict(cls, arrays: Mapping[str, Array]) -> Self:
        """Statistics from the arrays of `to_dict`: a dict, or the result of np.load.

        Raises:
            ValueError: an array is missing or unknown, or the arrays do not fit together.
        """
        if set(arrays) not in (set(NAMES), set(ALL_NAMES)):
            raise ValueError(f"Stats: expected arrays {list(NAMES)}, got {sorted(arrays)}; write stats.to_dict()")
        return cls(*(np.array(arrays[name], subok=True) for name in ALL_NAMES if name in arrays))

    def _check(self, other: object, verb: str) -> None:
        if not isinstance(other, Stats):
            raise TypeError(f"Stats: expected Stats to {verb}, got {type(other).__name__}; write Stats.of(x, axis)")
        if other.shape != self.shape:
            raise ValueError(f"Stats: expected sets of shape {self.shape} to {verb}, got {other.shape}")


def _union(one: Any, other: Any) -> tuple[Array, Array, Array, Array]:
    """count, the other's share of it, mean and m2 of two parts of a set."""
    count = np.asarray(one[0] + other[0])
    share = other[0] * reciprocal(count.astype(np.float64))
    apart = other[1] - one[1]
    return count, share, one[1] + apart * share, one[2] + other[2] + apart * apart * (one[0] * share)


def union(one: Array, other: Array) -> Array:
    """Planes (3, ...) of count, mean and m2, in the unit 1, merged; an empty part changes nothing."""
    count, _, mean, m2 = _union(one, other)
    return np.where(other[0] == 0, one, np.where(one[0] == 0, other, np.stack([count, mean, m2])))


def extremes_union(one: Array, other: Array) -> Array:
    """Planes (3, ...) of count, least and largest, merged."""
    return np.stack([one[0] + other[0], np.minimum(one[1], other[1]), np.maximum(one[2], other[2])])


def in_blocks(x: Array, axes: tuple[int, ...], values: int = BLOCK, cls: Any = Stats) -> Any:
    """`Stats.of` in blocks along the first axis, merged in order: a memory map is read once, one block at a time."""
    if x.ndim == 0 or x.size <= values:
        return cls._of(np.asarray(x), axes)
    rows = max(1, values // max(1, x.size // len(x)))
    if rows == 1 and x.size // len(x) > values and x.ndim > 1:  # one row is larger than a block: cut the rows
        inner = tuple(a - 1 for a in axes if a)
        parts = [in_blocks(row, inner, values, cls) for row in x]
    else:
        parts = [cls._of(np.asarray(x[i : i + rows]), axes) for i in range(0, len(x), rows)]
        if 0 not in axes:
            return _joined(parts, stack=False)
    if 0 not in axes:
        return _joined(parts, stack=True)
    found = parts[0]
    for part in parts[1:]:
        found = found.merge(part)
    return found


def _far(m2: Array) -> Array:
    """Where squares may have left the range of float64."""
    return ~((m2 > SMALL**2) & (m2 < LARGE**2))


def power_above(size: Array) -> Array:
    """The power of two above `size`; 1 where size is 0 or not finite."""
    power = np.ldexp(1.0, np.clip(np.frexp(size)[1], -1022, 1023))
    return np.where(np.isfinite(size) & (size > 0), power, 1.0)


def _in_units(m2: Array, scale: Array) -> tuple[Array, Array]:
    """m2 and its unit, for an m2 in units of scale^2: the new unit is 1 unless sqrt(m2) is out of range."""
    root = np.sqrt(m2)
    size = root * scale
    far = (root > 0) & np.isfinite(root) & ~((size > SMALL) & (size < LARGE))
    unit = np.where(far, power_above(np.clip(size, np.finfo(float).tiny, np.finfo(float).max)), 1.0)
    return m2 * (scale / unit) ** 2, unit


def _joined(parts: list[Stats], stack: bool) -> Stats:
    """Join the sets of all parts along the first axis."""
    join = np.stack if stack else np.concatenate
    return type(parts[0])(*(join([np.broadcast_to(getattr(p, name), p.shape) for p in parts]) for name in ALL_NAMES))


def _shown(count: Array) -> str:
    least, most = int(count.min(initial=2**62)), int(count.max(initial=0))
    return str(least) if least == most else f"{least} to {most}"
