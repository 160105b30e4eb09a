"""Statistics of data in parts: counts, means and sums of squares, merged and taken apart without losing digits."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, Self

import numpy as np

from normzoo.backends.contract import Array
from normzoo.passes.arrays import base_array, moved
from normzoo.passes.formulas import Axis, centered, reciprocal

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

    Counts are integers and exact. However the data is split, in whatever order the parts are
    merged and however many of them are empty, mean and m2 equal those of all data at once up to float64 rounding: a few
    1e-16 of max|x| and of m2, for any |mean|/std up to 1e6. Merging the same parts in the same order gives the same
    bits, and merging an empty part changes no bit. A set of equal values has exactly their value as its mean, and an m2
    of 0. NaN and inf stay in their set and in everything it is merged into, see `subtract`.

    Attributes:
        count: int64, of mean's shape or broadcastable to it.
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
            if a.dtype.kind not in ("iu" if kind == "i" else "f"):
                wanted = "integers" if kind == "i" else "floats"
                raise TypeError(f"Stats: expected {name} of {wanted}, got {a.dtype}; write {name}.astype(...)")
            object.__setattr__(self, name, np.asarray(a, np.int64 if kind == "i" else np.float64))
        shapes = self.count.shape, self.mean.shape, self.m2.shape, np.shape(self.unit)
        try:
            fits = shapes[1] == shapes[2] == np.broadcast_shapes(*shapes)
        except ValueError:
            fits = False
        if not fits:
            raise ValueError(
                "Stats: expected mean and m2 of one shape and count and unit of that shape or one that repeats over "
                "it, got count {}, mean {}, m2 {}, unit {}".format(*shapes)
            )
        if (self.count < 0).any():
            raise ValueError(f"Stats: expected count >= 0, got {int(self.count.min())}")

    @classmethod
    def empty(cls, shape: tuple[int, ...]) -> Self:
        """Statistics of no values: merging them changes nothing."""
        return cls(np.array(0, np.int64), np.zeros(shape), np.zeros(shape))

    @classmethod
    def of(cls, x: Array, axis: Axis | None = None) -> Self:
        """Statistics of x over `axis`, an axis or several (None: all), in float64; the other axes remain. x is read in
        blocks of about a million values, merged in order: a memory-mapped array needs no more memory than that.

        Raises:
            TypeError: x is not a float array. ValueError: `axis` is not an axis of x, or is named twice.
        """
        x = data_array("Stats", "x", x)
        return in_blocks(x, reduced(x.ndim, axis), cls=cls)

    @classmethod
    def _of(cls, x: Array, axes: tuple[int, ...]) -> Self:
        """Statistics of one block."""
        count = np.array(np.prod([x.shape[a] for a in axes], dtype=np.int64), np.int64)
        shape = tuple(n for i, n in enumerate(x.shape) if i not in axes)
        if x.size == 0:
            return cls.empty(shape) if count == 0 else cls(count, np.zeros(shape), np.zeros(shape))
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
        count = np.asarray(self.count + other.count)
        share = other.count * reciprocal(count.astype(np.float64))
        with np.errstate(all="ignore"):
            apart = other.mean - self.mean
            mean = self.mean + apart * share
            m2, unit = self.m2 + other.m2 + apart * apart * (self.count * share), np.array(1.0)
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


def data_array(owner: object, name: str, a: Any) -> Array:
    """`a` as an array on the host; masked arrays and selections are refused, as all values must count."""
    if isinstance(a, np.ma.MaskedArray) or getattr(type(a), "is_selection", False):
        kind = "a masked array" if isinstance(a, np.ma.MaskedArray) else "a selection"
        instead = (
            f"{name}.compressed(), which is what is left of all its axes" if kind == "a masked array" else "x alone"
        )
        raise TypeError(f"{owner}: expected {name} whose values all count, got {kind}; write {instead}")
    return moved(base_array(owner, name, a), "cpu")


def reduced(ndim: int, axis: Axis | None) -> tuple[int, ...]:
    """The axes counted from the front, ascending."""
    axes = tuple(range(ndim)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    if not all(isinstance(a, Integral) and not isinstance(a, bool) for a in axes):
        raise TypeError(f"Stats: expected axis to be an integer, a tuple of integers or None, got {axis!r}")
    if any(not -ndim <= a < ndim for a in axes) or len({a % ndim for a in axes}) < len(axes):
        raise ValueError(f"Stats: expected different axes in [-{ndim}, {ndim}) for x of rank {ndim}, got {axis}")
    return tuple(sorted(a % ndim for a in axes))


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
