"""Of tables of data and images what a backend's kernels must equal, in NumPy and float64."""

import numpy as np

from normzoo.backends.contract import Array, Volume
from normzoo.backends.forms import Pixels, Rescaling, Summary


@np.errstate(all="ignore")
def summarize(
    columns: int, summary: Summary, x: Array, pitch: int, parts: Array, order: Array, weights: Array
) -> Array:
    """See the contract; a column of equal values has their value as its mean, and an m2 of 0."""
    found = np.empty((len(parts), 3, columns))
    flat, along = x.reshape(-1), np.arange(columns)
    for (first, count), result in zip(parts.tolist(), found, strict=True):
        rows = order[first : first + count] if summary.picks else np.arange(first, first + count)
        v = flat[rows[:, None] * pitch + along].astype(np.float64)
        some = ~np.isnan(v) if summary.skips or summary.extremes else np.ones(v.shape, bool)
        if summary.extremes:
            result[0] = some.sum(axis=0)
            result[1] = np.where(some, v, np.inf).min(axis=0, initial=np.inf)
            result[2] = np.where(some, v, -np.inf).max(axis=0, initial=-np.inf)
            continue
        w = some * (weights[first : first + count, None] if summary.weighs else 1.0)
        result[...] = 0.0
        if not count:
            continue
        around = np.where(some.any(axis=0), v[some.argmax(axis=0), along], 0.0)
        total = w.sum(axis=0)
        fraction = np.divide(1.0, total, out=np.zeros(columns), where=total != 0)
        mean = around + np.where(some, (v - around) * w, 0.0).sum(axis=0) * fraction
        mean = mean + np.where(some, (v - mean) * w, 0.0).sum(axis=0) * fraction
        result[0], result[1], result[2] = total, mean, np.where(some, (v - mean) ** 2 * w, 0.0).sum(axis=0)
    return found


@np.errstate(all="ignore")
def rescale(dims: Volume, how: Rescaling, x: Array, chosen: Array, numbers: Array, y: Array) -> bool:
    """See the contract."""
    rows, columns, sets = dims
    of_row = chosen if how.chosen else np.arange(rows) % sets if how.by_row else np.zeros(rows, np.int64)
    shift, scale, offset, *limits = numbers[:, of_row]
    v = (x.reshape(rows, columns).astype(np.float64) - shift) * scale + offset
    y.reshape(rows, columns)[...] = np.clip(v, *limits) if how.clips else v
    return bool(np.isfinite(x).all())


# -- images


def pixel_sums(dims: Pixels, extremes: bool, x: Array, low: float, high: float) -> Array:
    """See `Backend.pixel_sums`."""
    v = np.clip(_by_channel(x, dims, dims.last).astype(np.float64), low, high)
    return np.stack([v.min(axis=2), v.max(axis=2)] if extremes else [v.sum(axis=2), (v * v).sum(axis=2)])


@np.errstate(all="ignore")
def pixels(dims: Pixels, x: Array, mean: Array, slope: Array, bounds: tuple[float, float, float], y: Array) -> None:
    """See `Backend.pixels`."""
    low, high, limit = bounds
    v = np.clip(_by_channel(x, dims, dims.last).astype(np.float64), low, high)
    found = (v - mean[:, :, None]) * slope[:, :, None]
    _by_channel(y, dims, dims.last_out)[...] = np.clip(found, -limit, limit).astype(np.float32)


def _by_channel(a: Array, dims: Pixels, last: bool) -> Array:
    """A view of a as (b, c, n)."""
    return a.reshape(dims.b, dims.n, dims.c).swapaxes(1, 2) if last else a.reshape(dims.b, dims.c, dims.n)
