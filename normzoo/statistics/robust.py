"""Robust statistics of data, exact: quantiles, median absolute deviation, trimmed and winsorized means.

Values are selected, not sorted (`numpy.partition`), on several threads, set by set. For streams, and for data that does
not fit in memory, there is `QuantileSketch`.
"""

from collections.abc import Callable
from math import floor
from typing import Any

import numpy as np

from normzoo.backends.contract import Array
from normzoo.passes.arrays import quoted
from normzoo.passes.formulas import Axis
from normzoo.passes.numpy_threads import on_threads
from normzoo.selection.select import Selected
from normzoo.statistics.counted import data_of, reduced

__all__ = ["iqr", "mad", "median", "quantile", "trimmed_mean", "winsorized_mean"]
BLOCK = 1 << 22  # values that are copied at a time, by each thread

OfValues = Callable[[Array], Array]  # of (sets, n) values, which it may reorder: (..., sets) float64

NORMAL = 1.482602218505602  # 1 / the 0.75 quantile of the normal distribution: a MAD times this estimates its deviation


def quantile(x: Any, q: Any, axis: Axis | None = None, *, skip_nan: bool = False) -> Array:
    """Quantiles of every set of x over `axis`, interpolated linearly between neighbours.

    Formula:
        h = (n - 1) * q, quantile = v[floor(h)] + (h - floor(h)) * (v[ceil(h)] - v[floor(h)]), of n sorted values v

    Shapes:
        x: any. quantiles: (*shape of q, *kept axes), float64; NaN of sets without values, or with NaN.

    Args:
        x: numbers, as `Stats.of` takes them; a masked array; or a selection with a mask or lengths, see `select`.
        q: a number or numbers in [0, 1].
        axis: an axis or several that the sets are over; None means all.
        skip_nan: if True, NaN does not count.

    Raises:
        TypeError: x holds no real numbers, or has weights or segments. ValueError: a q is outside of [0, 1].

    Source:
        R. J. Hyndman and Y. Fan, "Sample Quantiles in Statistical Packages", 1996, definition 7.

    >>> import numpy as np, normzoo as nz
    >>> nz.robust.quantile(np.float32([[1, 10], [2, 30], [9, 20]]), [0.5, 1], axis=0)
    array([[ 2., 20.],
           [ 9., 30.]])
    """
    wanted = np.asarray(q, np.float64)
    check_shares("robust.quantile", "q", wanted, 1.0)
    found = by_sets(x, axis, skip_nan, lambda v: _quantiles(v, wanted.reshape(-1)), wanted.size)
    return found.reshape((*wanted.shape, *found.shape[1:]))


def median(x: Any, axis: Axis | None = None, *, skip_nan: bool = False) -> Array:
    """The median of every set over `axis`, float64; arguments and errors of `quantile`.

    >>> import numpy as np, normzoo as nz
    >>> float(nz.robust.median(np.array([1.0, 2.0, 1e9])))
    2.0
    """
    return quantile(x, 0.5, axis, skip_nan=skip_nan)


def mad(x: Any, axis: Axis | None = None, *, skip_nan: bool = False, scale: float = 1.0) -> Array:
    """The median absolute deviation from the median, median(|x - median(x)|) * scale, of every set over `axis`;
    arguments and errors of `quantile`.

    Args:
        scale: `nz.robust.NORMAL` makes it an estimate of the standard deviation of normal data.

    >>> import numpy as np, normzoo as nz
    >>> float(nz.robust.mad(np.array([1.0, 2.0, 4.0, 1e9])))
    1.5
    """

    def of_values(v: Array) -> Array:
        half = np.array([0.5])
        return _quantiles(np.abs(v - _quantiles(v, half)[0][:, None]), half) * scale

    return by_sets(x, axis, skip_nan, of_values, 1)[0]


def iqr(x: Any, axis: Axis | None = None, *, skip_nan: bool = False) -> Array:
    """The interquartile range, the 0.75 quantile minus the 0.25 quantile, of every set over `axis`; arguments and
    errors of `quantile`.

    >>> import numpy as np, normzoo as nz
    >>> float(nz.robust.iqr(np.array([1.0, 2.0, 3.0, 4.0, 1e9])))
    2.0
    """
    low, high = quantile(x, [0.25, 0.75], axis, skip_nan=skip_nan)
    return np.asarray(high - low)


def trimmed_mean(x: Any, share: float, axis: Axis | None = None, *, skip_nan: bool = False) -> Array:
    """The mean of every set over `axis` without floor(share * n) of its n values at either end; arguments and errors of
    `quantile`.

    Args:
        share: in [0, 0.5).

    >>> import numpy as np, normzoo as nz
    >>> float(nz.robust.trimmed_mean(np.array([-1e9, 1.0, 2.0, 6.0, 1e9]), 0.2))
    3.0
    """
    return _of_middle("trimmed_mean", x, share, axis, skip_nan, lambda middle, _: middle.mean(axis=1))


def winsorized_mean(x: Any, share: float, axis: Axis | None = None, *, skip_nan: bool = False) -> Array:
    """The mean of every set over `axis` with floor(share * n) of its n values at either end replaced by their nearest
    neighbour of the others; arguments and errors of `quantile`.

    Args:
        share: in [0, 0.5).

    >>> import numpy as np, normzoo as nz
    >>> float(nz.robust.winsorized_mean(np.array([-1e9, 1.0, 2.0, 6.0, 1e9]), 0.2))
    3.2
    """

    def of_middle(middle: Array, cut: int) -> Array:
        ends = middle.min(axis=1) + middle.max(axis=1)
        return (middle.sum(axis=1) + cut * ends) / (middle.shape[1] + 2 * cut)

    return _of_middle("winsorized_mean", x, share, axis, skip_nan, of_middle)


def check_shares(owner: str, name: str, values: Array, most: float) -> None:
    """Check that numbers are in [0, most], or in [0, 0.5) if that is 0.5."""
    inside = (values >= 0) & ((values < 0.5) if most == 0.5 else (values <= most))
    if not inside.all():
        first = values[~inside].reshape(-1)[0]
        ends = "[0, 0.5)" if most == 0.5 else "[0, 1]"
        raise ValueError(f"{owner}: expected {name} in {ends}, got {quoted(float(first))}; write a share, not percents")


def _of_middle(
    name: str, x: Any, share: float, axis: Axis | None, skip_nan: bool, of_middle: Callable[[Array, int], Array]
) -> Array:
    check_shares(f"robust.{name}", "share", np.asarray(share, np.float64), 0.5)

    def of_values(v: Array) -> Array:
        n = v.shape[1]
        cut = floor(share * n)
        if cut:
            v.partition(sorted({cut, n - cut - 1}), axis=1)
        found = of_middle(v[:, cut : n - cut].astype(np.float64), cut)
        return np.where(np.isnan(v[:, -1]) | np.isnan(v).any(axis=1), np.nan, found)[None]

    return by_sets(x, axis, skip_nan, of_values, 1)[0]


def _quantiles(v: Array, q: Array) -> Array:
    """(q, sets) of (sets, n) values, which are reordered."""
    h = (v.shape[1] - 1) * q
    low = np.floor(h).astype(np.int64)
    high = np.ceil(h).astype(np.int64)
    v.partition(np.unique(np.r_[low, high, v.shape[1] - 1]), axis=1)  # NaN is last
    a, b = v[:, low].T.astype(np.float64), v[:, high].T.astype(np.float64)
    with np.errstate(all="ignore"):
        found = np.where(a == b, a, a + (h - low)[:, None] * (b - a))
    return np.where(np.isnan(v[:, -1]), np.nan, found)


def masked_of(owner: str, x: Any) -> tuple[Array, Array | None]:
    """What a data tool takes that has no weights: the array, and which values count, or None."""
    x = data_of(owner, x)
    if not isinstance(x, Selected):
        return x, None
    if x.sample_weight is not None or x.segments is not None:
        raise TypeError(f"{owner}: expected a selection by mask or lengths, got weights or segments; write x alone")
    return x.x, x.mask


def by_sets(x: Any, axis: Axis | None, skip_nan: bool, of_values: OfValues, results: int) -> Array:
    """(results, *kept) float64: `of_values` of the values that count of every set."""
    x, mask = masked_of("robust", x)
    axes = reduced(x.ndim, axis)
    kept = [i for i in range(x.ndim) if i not in axes]
    shape = [x.shape[i] for i in kept]
    first = x.transpose([*kept, *axes]).reshape(*shape, -1) if x.size else np.zeros((*shape, 0), x.dtype)
    n = first.shape[-1]
    rows = first.reshape(-1, n) if first.size else np.zeros((int(np.prod(shape)), n), x.dtype)
    counts = None if mask is None else np.broadcast_to(mask, x.shape).transpose([*kept, *axes]).reshape(rows.shape)
    found = np.full((results, len(rows)), np.nan)

    def some(begin: int) -> None:
        part = slice(begin, begin + step)
        v = np.array(rows[part], np.float64 if x.dtype.itemsize == 8 else np.float32)
        some_count = None if counts is None else counts[part]
        if skip_nan and np.isnan(v).any():
            some_count = ~np.isnan(v) if some_count is None else some_count & ~np.isnan(v)
        if some_count is None:
            found[:, part] = of_values(v)
            return
        for i, (values, one) in enumerate(zip(v, some_count, strict=True)):
            if one.any():
                found[:, begin + i] = of_values(values[one][None])[:, 0]

    step = max(1, BLOCK // max(n, 1))
    if n:
        on_threads(some, range(0, len(rows), step))
    return found.reshape((results, *shape))
