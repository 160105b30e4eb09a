"""Statistics of data that comes in parts: counts, means and sums of squares, merged without losing digits."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from normzoo.backends.contract import Array
from normzoo.formulas import Axis, centered, reciprocal


@dataclass(frozen=True)
class Stats:
    """How many values there were, their mean, and the sum of squares of their deviations from it.

    Attributes:
        count: int64, of mean's shape or one that repeats over it.
        mean, m2: float64, both of one shape; 0 where count is 0.

    >>> import numpy as np
    >>> stats = Stats.empty(()).update(np.array([1.0, 2.0]), 0).update(np.array([6.0]), 0)
    >>> int(stats.count), float(stats.mean), float(stats.var(correction=1))
    (3, 3.0, 7.0)
    """

    count: Array
    mean: Array
    m2: Array

    @classmethod
    def empty(cls, shape: tuple[int, ...]) -> Self:
        """Of no values: what `merge` leaves as it is."""
        return cls(np.array(0, np.int64), np.zeros(shape), np.zeros(shape))

    @classmethod
    def of(cls, x: Array, axis: Axis) -> Self:
        """Of x over `axis`, in float64; the other axes stay."""
        axes = axis if isinstance(axis, tuple) else (axis,)
        count = np.array(np.prod([x.shape[a] for a in axes], dtype=np.int64), np.int64)
        shape = tuple(n for i, n in enumerate(x.shape) if i not in {a % x.ndim for a in axes})
        if x.size == 0:
            return cls.empty(shape) if count == 0 else cls(count, np.zeros(shape), np.zeros(shape))
        with np.errstate(all="ignore"):
            mean, deviation = centered(x.astype(np.float64), axes)
            return cls(count, mean.reshape(shape), (deviation * deviation).sum(axis=axes).reshape(shape))

    def merge(self, other: "Stats") -> Self:
        """Of both, by the formula of Chan, Golub and LeVeque 1979; a part without values changes no bit."""
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

    def update(self, x: Array, axis: Axis) -> Self:
        """Of these and of x over `axis`."""
        return self.merge(type(self).of(x, axis))

    def var(self, correction: float = 0) -> Array:
        """m2 / (count - correction), float64; NaN where that divides by 0 or less."""
        values = self.count - correction
        with np.errstate(all="ignore"):
            return np.where(values > 0, self.m2 / values, np.nan)
