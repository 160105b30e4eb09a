"""Statistics of data in parts: counts, means and sums of squares, merged and taken apart without losing digits."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from normzoo.backends.contract import Array
from normzoo.formulas import Axis, centered, reciprocal

NAMES = ("count", "mean", "m2")
BLOCK = 1 << 20  # values that are read, and widened to float64, at a time


@dataclass(frozen=True, eq=False)
class Stats:
    """How many values there were, their mean, and the sum of squares of their deviations from it: of one set, or of an
    array of sets.

    Formula:
        count = n, mean = sum(x) / n, m2 = sum((x - mean)^2); two parts a and b of a set are merged by
        n = na + nb, mean = mean_a + (mean_b - mean_a) * nb / n, m2 = m2_a + m2_b + (mean_b - mean_a)^2 * na * nb / n

    What is exact: counts are integers, and always right. However data is split, in whatever order and with however many
    empty parts it is merged, mean and m2 are those of all data at once to float64's rounding, a few 1e-16 of max|x| and
    of m2, for any |mean|/std up to 1e6. Merging the same parts in the same order gives the same bits, and a part
    without values changes none. NaN and inf stay in their set, and in all that it is merged into: see `subtract`.

    Attributes:
        count: int64, of mean's shape or one that repeats over it.
        mean, m2: float64, both of one shape; 0 where count is 0.

    Raises:
        ValueError: count, mean and m2 do not fit together, or a count is negative. TypeError: they are not arrays of
            integers and floats.

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

    def __post_init__(self) -> None:
        for name, kind in zip(NAMES, "iff", strict=True):
            a = np.asarray(getattr(self, name))
            if a.dtype.kind not in ("iu" if kind == "i" else "f"):
                wanted = "integers" if kind == "i" else "floats"
                raise TypeError(f"Stats: expected {name} of {wanted}, got {a.dtype}; write {name}.astype(...)")
            object.__setattr__(self, name, np.asarray(a, np.int64 if kind == "i" else np.float64))
        shapes = self.count.shape, self.mean.shape, self.m2.shape
        try:
            fits = shapes[1] == shapes[2] == np.broadcast_shapes(*shapes[:2])
        except ValueError:
            fits = False
        if not fits:
            raise ValueError(
                "Stats: expected mean and m2 of one shape and count of that shape or one that repeats over it, got "
                f"count {shapes[0]}, mean {shapes[1]}, m2 {shapes[2]}"
            )
        if (self.count < 0).any():
            raise ValueError(f"Stats: expected count >= 0, got {int(self.count.min())}")

    @classmethod
    def empty(cls, shape: tuple[int, ...]) -> Self:
        """Of no values: what `merge` leaves as it is."""
        return cls(np.array(0, np.int64), np.zeros(shape), np.zeros(shape))

    @classmethod
    def of(cls, x: Array, axis: Axis | None = None) -> Self:
        """Of x over `axis`, an axis or several (None: all), in float64; the other axes stay.

        Raises:
            ValueError: `axis` is not an axis of x, or named twice.
        """
        axes = reduced(x.ndim, axis)
        count = np.array(np.prod([x.shape[a] for a in axes], dtype=np.int64), np.int64)
        shape = tuple(n for i, n in enumerate(x.shape) if i not in axes)
        if x.size == 0:
            return cls.empty(shape) if count == 0 else cls(count, np.zeros(shape), np.zeros(shape))
        with np.errstate(all="ignore"):
            mean, deviation = centered(x.astype(np.float64), axes)
            return cls(count, mean.reshape(shape), (deviation * deviation).sum(axis=axes).reshape(shape))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the sets."""
        return self.mean.shape

    def merge(self, other: "Stats") -> Self:
        """Of both; a part without values changes no bit."""
        self._check(other, "merge")
        count = np.asarray(self.count + other.count)
        share = other.count * reciprocal(count.astype(np.float64))
        with np.errstate(all="ignore"):
            apart = other.mean - self.mean
            mean = self.mean + apart * share
            m2 = self.m2 + other.m2 + apart * apart * (self.count * share)
        first, second = other.count == 0, self.count == 0
        return type(self)(
            count,
            np.where(first, self.mean, np.where(second, other.mean, mean)),
            np.where(first, self.m2, np.where(second, other.m2, m2)),
        )

    def subtract(self, other: "Stats") -> Self:
        """Of what is here and not in `other`, a part of this: a window slides by window.merge(new).subtract(old).

        The count is exact. m2 is a difference of sums of squares: its error is float64's rounding of the larger, this
        one's m2 and the part's distance from its mean, and it is never below 0. A NaN or infinity does not go away:
        a window that may meet one is better merged again from its parts.

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
            apart = self.mean - other.mean
            mean = self.mean + apart * share
            # With d the distance from the part's mean to the rest's, m2 = m2_rest + m2_part + d^2 n_part n_rest / n.
            between = apart * apart * (other.count * (self.count * reciprocal(count.astype(np.float64))))
            m2 = self.m2 - other.m2 - between
            m2 = np.maximum(np.where(count == 1, 0.0 * m2, m2), 0.0) + 0.0
        none, all_of_it = other.count == 0, count == 0
        mean, m2 = np.where(none, self.mean, mean), np.where(none, self.m2, m2)
        return type(self)(count, np.where(all_of_it, 0.0, mean), np.where(all_of_it, 0.0, m2))

    def update(self, x: Array, axis: Axis | None = None) -> Self:
        """Of these and of x over `axis`."""
        return self.merge(type(self).of(x, axis))

    def var(self, correction: float = 0) -> Array:
        """m2 / (count - correction), float64; NaN where that divides by 0 or less."""
        values = self.count - correction
        with np.errstate(all="ignore"):
            return np.where(values > 0, self.m2 / values, np.nan)

    def std(self, correction: float = 0) -> Array:
        """The square root of `var`."""
        return np.sqrt(self.var(correction))

    def to_dict(self) -> dict[str, Array]:
        """Copies of the arrays by name, as np.savez(path, **stats.to_dict()) and safetensors take them."""
        return {name: np.array(getattr(self, name), order="C") for name in NAMES}

    @classmethod
    def from_dict(cls, arrays: Mapping[str, Array]) -> Self:
        """From the arrays of `to_dict`: a dict, or what np.load gives.

        Raises:
            ValueError: an array is missing or there is another, or they do not fit together.
        """
        if set(arrays) != set(NAMES):
            raise ValueError(f"Stats: expected arrays {list(NAMES)}, got {sorted(arrays)}; write stats.to_dict()")
        return cls(*(np.array(arrays[name]) for name in NAMES))

    def _check(self, other: object, verb: str) -> None:
        if not isinstance(other, Stats):
            raise TypeError(f"Stats: expected Stats to {verb}, got {type(other).__name__}; write Stats.of(x, axis)")
        if other.shape != self.shape:
            raise ValueError(f"Stats: expected sets of shape {self.shape} to {verb}, got {other.shape}")


def reduced(ndim: int, axis: Axis | None) -> tuple[int, ...]:
    """The axes counted from the front, in order."""
    axes = tuple(range(ndim)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    if any(not -ndim <= a < ndim for a in axes) or len({a % ndim for a in axes}) < len(axes):
        raise ValueError(f"Stats: expected different axes in [-{ndim}, {ndim}) for x of rank {ndim}, got {axis}")
    return tuple(sorted(a % ndim for a in axes))


def in_blocks(x: Array, axes: tuple[int, ...], values: int = BLOCK) -> Stats:
    """`Stats.of` in blocks along the first axis, merged in order: a memory map is read once, a block at a time."""
    if x.ndim == 0 or x.size <= values:
        return Stats.of(np.asarray(x), axes)
    rows = max(1, values // max(1, x.size // len(x)))
    if rows == 1 and x.size // len(x) > values and x.ndim > 1:  # one row is more than a block: cut the rows
        inner = tuple(a - 1 for a in axes if a)
        parts = [in_blocks(row, inner, values) for row in x]
    else:
        parts = [Stats.of(np.asarray(x[i : i + rows]), axes) for i in range(0, len(x), rows)]
        if 0 not in axes:
            return _joined(parts, stack=False)
    if 0 not in axes:
        return _joined(parts, stack=True)
    found = parts[0]
    for part in parts[1:]:
        found = found.merge(part)
    return found


def _joined(parts: list[Stats], stack: bool) -> Stats:
    """The sets of all parts, one after the other along the first axis."""
    join = np.stack if stack else np.concatenate
    counts = [np.broadcast_to(p.count, p.shape) for p in parts]
    return Stats(join(counts), join([p.mean for p in parts]), join([p.m2 for p in parts]))


def _shown(count: Array) -> str:
    least, most = int(count.min(initial=2**62)), int(count.max(initial=0))
    return str(least) if least == most else f"{least} to {most}"
