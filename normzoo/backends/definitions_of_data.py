"""Of tables of data, lines along time and images what a backend's kernels must equal, in NumPy and float64."""

import numpy as np

from normzoo.backends.contract import Array, Volume
from normzoo.backends.forms import Following, Lines, Pixels, Rescaling, Summary


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


# -- lines, each by its own past


def lines_of(a: Array, dims: Lines) -> Array:
    """A view of a as (b, t, n)."""
    return a.reshape(dims.b, dims.n, dims.t).swapaxes(1, 2) if dims.time_last else a.reshape(dims.b, dims.t, dims.n)


def rate_at(form: Following, steps: int) -> float:
    """With this many steps before."""
    return form.rate if form.kind == "gain" else max(form.rate, 1 / (steps + 1))


@np.errstate(all="ignore")
def follow(dims: Lines, form: Following, x: Array, numbers: Array, state: Array, before: int, y: Array) -> Array:
    """See `Backend.follow`. States are mean and var behind every step, (2, t + 1, b, n)."""
    v, found = lines_of(x, dims).astype(np.float64), lines_of(y, dims)
    states = np.empty((2, dims.t + 1, dims.b, dims.n))
    states[:, 0] = state.reshape(2, dims.b, dims.n)
    for t in range(dims.t):
        (mean, var), a, value = states[:, t], rate_at(form, before + t), v[:, t]
        if form.kind == "gain":
            gain, bias, power = numbers
            mean = mean + a * (value - mean)
            found[:, t] = (value / (form.eps + mean) ** gain + bias) ** power - bias**power
        else:
            apart = value - mean
            mean, var = (
                (mean + a * apart, (1 - a) * (var + a * apart * apart))
                if form.kind == "center"
                else (mean, var + a * (value * value - var))
            )
            found[:, t] = (value - mean) * _rstd(var, form) * numbers[0] + numbers[1]
        states[:, t + 1] = mean, var
    state.reshape(2, dims.b, dims.n)[...] = states[:, -1]
    return states


def _rstd(var: Array, form: Following) -> Array:
    root = np.sqrt(var + form.eps)
    return np.divide(1.0, root, out=np.zeros_like(root), where=root != 0)


@np.errstate(all="ignore")
def follow_back(dims: Lines, form: Following, dy: Array, x: Array, numbers: Array, states: Array, dx: Array) -> Array:
    """See `Backend.follow_back`."""
    v, d, result = lines_of(x, dims).astype(np.float64), lines_of(dy, dims).astype(np.float64), lines_of(dx, dims)
    found = np.zeros_like(numbers)
    of_mean, of_var = np.zeros((2, dims.b, dims.n))
    for t in reversed(range(dims.t)):
        (before, _), (mean, var), a, value = states[:, t], states[:, t + 1], rate_at(form, t), v[:, t]
        if form.kind == "gain":
            gain, bias, power = numbers
            level = form.eps + mean
            u = value / level**gain + bias
            du = d[:, t] * power * np.divide(u**power, u, out=np.zeros_like(u), where=u != 0)
            ds = du * value / level**gain
            of_mean = of_mean - ds * gain / level
            result[:, t] = du / level**gain + a * of_mean
            of_mean = (1 - a) * of_mean
            open_ = np.where(bias > 0, bias, 1.0)
            of_bias = du - d[:, t] * power * np.where(bias > 0, open_ ** (power - 1), 0.0)
            logarithm = np.log(np.where(u > 0, u, 1.0))
            of_power = d[:, t] * (u**power * logarithm - bias**power * np.log(open_))
            found += np.stack([-ds * np.log(level), of_bias, of_power]).sum(axis=1)
            continue
        rstd = _rstd(var, form)
        xhat, g = (value - mean) * rstd, d[:, t] * numbers[0] * rstd
        of_var = of_var - 0.5 * g * xhat * rstd
        found += np.stack([d[:, t] * xhat, d[:, t]]).sum(axis=1)
        if form.kind == "center":
            of_mean = of_mean - g
            more = a * of_mean + 2 * a * (1 - a) * (value - before) * of_var
            result[:, t], of_mean = g + more, of_mean - more
        else:
            result[:, t] = g + 2 * a * value * of_var
        of_var = (1 - a) * of_var
    return found


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
