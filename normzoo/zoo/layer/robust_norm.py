"""Normalization by robust statistics: outliers do not move the centre and the width of their set."""

from collections.abc import Callable, Mapping
from math import floor, prod
from typing import Any, NamedTuple

import numpy as np

from normzoo.backends.contract import Array
from normzoo.passes.cells import MOST, Beyond, Pass
from normzoo.passes.cells import Pull as CellPull
from normzoo.passes.formulas import reciprocal
from normzoo.passes.numbers import check_axis, check_number
from normzoo.passes.numpy_threads import in_blocks
from normzoo.passes.saved import Pull
from normzoo.statistics.robust import NORMAL, check_shares
from normzoo.statistics.stats import power_above
from normzoo.zoo.exact import ExactNorm
from normzoo.zoo.layer.layer_norm import check_axes

Back = Callable[[Array, Array], Array]  # from g = dy * rstd and xhat, (sets, n): what dx has beside g
Found = tuple[Array, Array, Back]  # centre and rstd (sets, 1), and the way back


class RobustNorm(ExactNorm):
    """Robust normalization: every set by its median and median absolute deviation, or by its trimmed moments.

    Formula:
        y = (x - center) / sqrt(spread^2 + eps), for every set over `axis`, with
        statistic="median": center = median(x), spread = 1.4826 * median(|x - center|)
        statistic="trimmed": center and spread are the mean and the (biased) deviation of all values but
        floor(share * n) at either end

    Shapes:
        x, y: any shape with these axes.

    Args:
        axis: the reduced axes, an integer or a tuple.
        eps: added to the squared spread, in the units of x squared.
        statistic: "median" or "trimmed".
        share: of the values at either end that "trimmed" leaves out, in [0, 0.5).

    Raises:
        ValueError: x does not have these axes, an axis is named twice, statistic is unknown, or share is out of range.
            TypeError: x is not a float array.

    Gradient: the formula's wherever it has one. A median is the value in the middle, or the mean of the two there, and
    its gradient goes to these; the median absolute deviation's goes to the value or the two whose distance it is, and
    to the median. Trimmed statistics have those of the values that are left. Where values are equal, and it is open
    which of them is meant, they share it: that is a subgradient. The distance 0 of the median from itself has the
    gradient 0. A set with NaN becomes NaN. NumPy selects, and does not sort, in blocks of sets that threads share.

    Source:
        P. J. Huber, "Robust Statistics", 1981, doi:10.1002/0471725250 (median and MAD as estimators; 1.4826 makes the
        MAD that of a normal distribution); F. R. Hampel, "The Influence Curve and Its Role in Robust Estimation", 1974.
        With statistic="trimmed" and share 0 it is MeanVarianceNorm.

    >>> import numpy as np, normzoo as nz
    >>> nz.RobustNorm(-1)(np.array([[0.0, 1.0, 2.0, 3.0, 1e6]])).round(2)[0, :4]
    array([-1.35, -0.67,  0.  ,  0.67])
    """

    def __init__(
        self,
        axis: int | tuple[int, ...] = -1,
        eps: float = 1e-5,
        *,
        statistic: str = "median",
        share: float = 0.1,
    ) -> None:
        super().__init__(axis, eps=eps, weight=False, bias=False)
        found = check_axes(self, axis)
        if found is None:
            raise TypeError(f"{self}: expected axis to be an integer or a tuple of them, got None")
        self.axis = found if isinstance(found, tuple) else (found,)
        if statistic not in ("median", "trimmed"):
            raise ValueError(f"{self}: expected statistic to be 'median' or 'trimmed', got {statistic!r}")
        self.statistic, self.share = statistic, check_number(self, "share", share)
        check_shares(str(self), "share", np.asarray(self.share), 0.5)

    def check(self, x: Array, **inputs: Array) -> None:
        found = [check_axis(self, a, x.ndim) for a in self.axis]
        if len(set(found)) != len(found):
            raise ValueError(f"{self}: expected different axes, got {self.axis} for x of shape {x.shape}")

    def letters(self, x: Array) -> str:
        axes = {check_axis(self, a, x.ndim) for a in self.axis}
        return "".join("n" if i in axes else "b" for i in range(x.ndim))

    def by_cells(self, cells: Pass, params: Mapping[str, Array]) -> CellPull:
        v, y = cells.channels_first(-1)[:, 0], cells.channels_first()[:, 0]
        least, dtype = self.eps**0.5, cells.dtype
        sets: Any = (
            Medians(v.shape, least, dtype) if self.statistic == "median" else Trimmed(v.shape, least, self.share)
        )
        in_blocks(lambda i: sets.write(i, v[i].astype(dtype, copy=False), y), *v.shape)
        if not (np.isfinite(sets.center).all() and (sets.rstd < MOST[dtype.itemsize]).all()):
            raise Beyond

        def pull(cells: Pass) -> dict[str, Array]:
            d, v, dx = cells.channels_first(0)[:, 0], cells.channels_first(1)[:, 0], cells.channels_first()[:, 0]

            def back(i: slice) -> None:
                sets.write_gradient(i, d[i].astype(np.float64), v[i].astype(cells.dtype, copy=False), dx)

            in_blocks(back, *v.shape)
            return {}

        return pull

    def compute(self, x: Array, params: Mapping[str, Array], **inputs: Array) -> tuple[Array, Pull]:
        axes = sorted(check_axis(self, a, x.ndim) for a in self.axis)
        order = [i for i in range(x.ndim) if i not in axes] + axes
        back = np.argsort(order)
        turned = tuple(x.shape[i] for i in order)
        n = prod(x.shape[i] for i in axes)
        v = np.ascontiguousarray(x.transpose(order)).reshape(-1, n)
        least = self.eps**0.5
        center, rstd, rest = _by_median(v, least) if self.statistic == "median" else _trimmed(v, least, self.share)
        xhat = (v - center) * rstd

        def pull(dy: Array) -> dict[str, Array]:
            g = dy.transpose(order).reshape(-1, n) * rstd
            return {"x": (g + rest(g, xhat)).reshape(turned).transpose(back)}

        return xhat.reshape(turned).transpose(back), pull

    def _options(self) -> dict[str, Any]:
        return super()._options() | {"statistic": self.statistic, "share": self.share}


def _by_median(v: Array, least: float) -> Found:
    center, of_center = _median(v)
    apart = v - center
    mad, of_mad = _median(np.abs(apart))
    spread = NORMAL * mad
    rstd = reciprocal(np.hypot(spread, least))

    def back(g: Array, xhat: Array) -> Array:
        dcenter = -g.sum(axis=1, keepdims=True)
        dmad = -NORMAL * spread * rstd * (g * xhat).sum(axis=1, keepdims=True)
        signed = of_mad() * np.sign(apart)
        return dmad * signed + (dcenter - dmad * signed.sum(axis=1, keepdims=True)) * of_center()

    return center, rstd, back


def _median(v: Array) -> tuple[Array, Callable[[], Array]]:
    """The median of every row (sets, 1), and what makes its derivative by every value (sets, n)."""
    n = v.shape[1]
    low, high = (n - 1) // 2, n // 2
    found = np.partition(v, sorted({low, high, n - 1}), axis=1)  # NaN is last
    a, b = found[:, low, None], found[:, high, None]
    middle = np.where(a == b, a, a / 2 + b / 2)

    def shares() -> Array:
        return (_equal(v, a) + _equal(v, b)) / 2

    return np.where(np.isnan(found[:, -1:]), np.nan, middle), shares


def _equal(v: Array, value: Array) -> Array:
    """1 shared by all values of a row that are equal to this one."""
    there = (v == value).astype(np.float64)
    return there * reciprocal(there.sum(axis=1, keepdims=True))


def _trimmed(v: Array, least: float, share: float) -> Found:
    n = v.shape[1]
    cut = floor(share * n)
    found = np.partition(v, sorted({cut, n - 1 - cut, n - 1}), axis=1)
    middle, left = found[:, cut : n - cut].astype(np.float64), n - 2 * cut
    mean = middle.mean(axis=1, keepdims=True)
    mean += (middle - mean).mean(axis=1, keepdims=True)
    apart = middle - mean
    scale = power_above(np.abs(apart).max(axis=1, keepdims=True))
    rstd = reciprocal(np.hypot(np.sqrt(((apart / scale) ** 2).mean(axis=1, keepdims=True)) * scale, least))
    mean = np.where(np.isnan(found[:, -1:]), np.nan, mean)
    low, high = middle.min(axis=1, keepdims=True), middle.max(axis=1, keepdims=True)

    def back(g: Array, xhat: Array) -> Array:
        kept = ((v > low) & (v < high)).astype(np.float64)
        for end in (low, high) if cut else ():
            inside = (middle == end).sum(axis=1, keepdims=True)
            kept = np.where(v == end, inside * reciprocal((v == end).sum(axis=1, keepdims=True).astype(float)), kept)
        kept = kept / left if cut else np.full(v.shape, 1 / n)
        along = (g * xhat).sum(axis=1, keepdims=True)
        return -kept * (g.sum(axis=1, keepdims=True) + along * xhat)

    return mean, rstd, back


# -- blocks of sets, in the type that is computed in


class Places(NamedTuple):
    """Values that share a gradient, each once."""

    rows: Array
    columns: Array
    share: Array


class Medians:
    """Sets by median and median absolute deviation.

    Distances are rounded to the type of x, which leaves their order as it is, but where two become one. Who of those is
    in the middle is found in float64, going back.
    """

    def __init__(self, shape: tuple[int, ...], least: float, dtype: np.dtype) -> None:
        sets, n = shape
        self.low, self.ends, self._least = (n - 1) // 2, 1 if n % 2 else 2, least
        self.center, self.spread, self.rstd = np.empty((3, sets, 1))
        self.centers, self.distances = np.empty((2, self.ends, sets), dtype)  # what is in the middle

    def write(self, i: slice, v: Array, y: Array) -> None:
        """y of a block."""
        if np.isnan(v.max(axis=1)).any():
            raise Beyond
        self.centers[:, i], self.center[i] = self._middle(v.copy())
        apart = self._apart(v, self.center[i])
        self.distances[:, i], mad = self._middle(np.abs(apart))
        self.spread[i] = NORMAL * mad
        self.rstd[i] = reciprocal(np.hypot(self.spread[i], self._least))
        np.multiply(apart, self.rstd[i].astype(apart.dtype), out=apart)
        y[i] = apart

    def write_gradient(self, i: slice, d: Array, v: Array, dx: Array) -> None:
        center, rstd = self.center[i], self.rstd[i]
        apart = self._apart(v, center)
        g = np.multiply(d, rstd, out=d)
        along = np.einsum("ij,ij->i", g, apart, dtype=np.float64)[:, None] * rstd
        dcenter, dmad = -g.sum(axis=1, keepdims=True), -NORMAL * self.spread[i] * rstd * along
        signed = np.zeros_like(center)
        for rows, columns, share in self._of_mad(v, np.abs(apart), center, self.distances[:, i]):
            found = share * np.sign(apart[rows, columns])
            g[rows, columns] += dmad[rows, 0] * found
            np.add.at(signed[:, 0], rows, found)
        for value in self.centers[:, i]:
            rows, columns, share = _places(v, value, self.ends)
            g[rows, columns] += (dcenter - dmad * signed)[rows, 0] * share
        dx[i] = g

    def _middle(self, v: Array) -> tuple[Array, Array]:
        """The values in the middle (ends, sets) and their mean (sets, 1); v is reordered."""
        v.partition(self.low, axis=1)
        found = v[:, self.low][None]
        if self.ends > 1:
            found = np.concatenate([found, v[:, self.low + 1 :].min(axis=1)[None]])
        a, b = found[0].astype(np.float64), found[-1].astype(np.float64)
        return found, np.where(a == b, a, a / 2 + b / 2)[:, None]

    @staticmethod
    def _apart(v: Array, center: Array) -> Array:
        """v - center, rounded once."""
        rounded = center.astype(v.dtype)
        if (rounded == center).all():
            return v - rounded
        return (v - center).astype(v.dtype)

    @staticmethod
    def _of_mad(v: Array, distances: Array, center: Array, values: Array) -> list[Places]:
        """Whose distance is in the middle."""
        found = [_places(distances, value, len(values)) for value in values]
        if v.dtype == np.float64:
            return found
        mixed = np.zeros(len(v), bool)
        for rows, columns, _ in found:
            exact = np.abs(v[rows, columns] - center[rows, 0])
            first = np.flatnonzero(np.diff(rows, prepend=-1))
            mixed[rows[first]] |= np.minimum.reduceat(exact, first) != np.maximum.reduceat(exact, first)
        if not mixed.any():
            return found
        where = np.flatnonzero(mixed)
        shares = _median(np.abs(v[where] - center[where]))[1]()
        rows, columns = np.nonzero(shares)
        others = [Places(*(part[~mixed[p.rows]] for part in p)) for p in found]
        return [*others, Places(where[rows], columns, shares[rows, columns])]


def _places(v: Array, value: Array, ends: int) -> Places:
    """Where v is the value of its row, of as many values in the middle."""
    rows, columns = np.divmod(np.flatnonzero(v == value[:, None]), v.shape[1])  # np.nonzero takes four times as long
    return Places(rows, columns, 1 / (ends * np.bincount(rows, minlength=1)[rows]))


class Trimmed:
    """Sets by trimmed moments, which are found again going back."""

    def __init__(self, shape: tuple[int, ...], least: float, share: float) -> None:
        self._least, self._share = least, share
        self.center, self.rstd = np.empty((2, shape[0], 1))

    def write(self, i: slice, v: Array, y: Array) -> None:
        self.center[i], self.rstd[i], _ = _trimmed(v, self._least, self._share)
        y[i] = (v - self.center[i]) * self.rstd[i]

    def write_gradient(self, i: slice, d: Array, v: Array, dx: Array) -> None:
        rest = _trimmed(v, self._least, self._share)[2]
        g, xhat = d * self.rstd[i], (v - self.center[i]) * self.rstd[i]
        dx[i] = g + rest(g, xhat)
