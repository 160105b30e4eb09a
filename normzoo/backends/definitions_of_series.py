"""Of series what a backend's kernels must equal, in NumPy and float64: levels, windows, and lines by their own past."""

from collections.abc import Callable

import numpy as np

from normzoo.backends.contract import Array
from normzoo.backends.definitions import by_cell, reciprocal, unit
from normzoo.backends.forms import Cells, Following, Level, Lines, Sliding

Parts = tuple[Array, ...]  # (lines, T) each, of one value or of a window that ends there

# -- levels


@np.errstate(all="ignore")
def level(dims: Cells, form: Level, x: Array, maps: Array, weight: Array, bias: Array, y: Array) -> tuple[Array, bool]:
    """See `Backend.level`."""
    v = by_cell(x, dims).astype(np.float64)
    shares = _shares(maps, dims, form)
    found = (v * shares).sum(axis=2, keepdims=True)
    d = v - found
    if not form.mapped:  # the deviations show the rounding of the mean, which is corrected
        rounding = d.mean(axis=2, keepdims=True)
        found, d = found + rounding, d - rounding
    deviation = np.sqrt((d * d).sum(axis=2, keepdims=True) / form.divisor)
    slope = reciprocal(_std(deviation, form)) * weight.astype(np.float64)[:, None]
    by_cell(y, dims)[...] = d * slope + bias.astype(np.float64)[:, None]
    stats = np.stack([found, deviation, d.sum(axis=2, keepdims=True)])[..., 0]
    return stats, bool(np.isfinite(stats).all())


@np.errstate(all="ignore")
def level_back(
    dims: Cells, form: Level, dy: Array, x: Array, maps: Array, weight: Array, stats: Array, dx: Array
) -> tuple[Array, Array | None, bool]:
    """See `Backend.level_back`."""
    v, dy = (by_cell(a, dims).astype(np.float64) for a in (x, dy))
    found, deviation, rest = stats[..., None]
    d, rstd = v - found, reciprocal(_std(deviation, form))
    along, total = (a.sum(axis=2, keepdims=True) for a in (dy * d * rstd, dy))
    g = weight.astype(np.float64)[:, None] * rstd
    more = -g * along * reciprocal(form.divisor * (deviation if form.outside else _std(deviation, form)))
    of_level = -g * total - more * rest
    by_cell(dx, dims)[...] = dy * g + d * more + of_level * _shares(maps, dims, form)
    sums = np.stack([along, total])[..., 0]
    of_maps = (of_level * v).sum(axis=0) if form.mapped else None
    if of_maps is not None and dims.last:
        of_maps = of_maps.T
    return sums, of_maps, bool(np.isfinite(sums).all())


def _shares(maps: Array, dims: Cells, form: Level) -> Array:
    if not form.mapped:
        return np.full((1, 1, 1), 1 / dims.n)
    return by_cell(maps, dims._replace(b=1)).astype(np.float64)


def _std(deviation: Array, form: Level) -> Array:
    return deviation + form.eps if form.outside else np.sqrt(deviation * deviation + form.eps)


# -- windows


@np.errstate(all="ignore")
def slide(dims: Lines, form: Sliding, x: Array, numbers: Array, first: int, y: Array) -> None:
    """See `Backend.slide`: the moments of a window are merged from those of two halves, in as many steps as its size
    has bits."""
    v, weight, bias = _of_lines(x, dims), *_numbers(numbers, dims)
    one, mean, rstd = _moments(v, form)
    _put(y, dims, (v * one - mean) * rstd * weight + bias)


@np.errstate(all="ignore")
def slide_back(dims: Lines, form: Sliding, dy: Array, x: Array, numbers: Array, dx: Array) -> Array:
    """See `Backend.slide_back`."""
    v, d, weight = _of_lines(x, dims), _of_lines(dy, dims), _numbers(numbers, dims)[0]
    one, mean, rstd = _moments(v, form)
    near = v * one
    xhat, g = (near - mean) * rstd, d * weight * rstd
    _put(dx, dims, one * _windows_back(g, near, xhat * rstd, mean, form))
    return np.stack([(a.reshape(dims.b, dims.n, dims.t)).sum(axis=(0, 2)) for a in (d * xhat, d)])


def _of_lines(a: Array, dims: Lines) -> Array:
    """(lines, T)."""
    return np.ascontiguousarray(lines_of(a, dims).swapaxes(1, 2)).reshape(-1, dims.t).astype(np.float64)


def _put(a: Array, dims: Lines, found: Array) -> None:
    lines_of(a, dims)[...] = found.reshape(dims.b, dims.n, dims.t).swapaxes(1, 2)


def _numbers(numbers: Array, dims: Lines) -> tuple[Array, Array]:
    """Weight and bias of every line."""
    weight, bias = (np.tile(a, dims.b)[:, None] for a in numbers)
    return weight, bias


def _moments(v: Array, form: Sliding) -> Parts:
    """The unit of every line of v (lines, T), and in this unit mean and rstd of the window of every step."""
    one = unit(v, 1, form.eps**0.5)
    most = v.shape[1] - 1
    before, after = min(form.before, most), min(form.after, most)
    count = np.zeros((1, v.shape[1] + after))
    count[:, : v.shape[1]] = 1
    far = _padded(v * one, after)
    parts = count, far, np.zeros_like(far)
    count, mean, m2 = (a[:, after:] for a in _over_windows(parts, before + 1 + after, _union_of))
    return one, mean, reciprocal(np.sqrt(m2 / count + form.eps * one * one))


def _windows_back(g: Array, v: Array, along: Array, mean: Array, form: Sliding) -> Array:
    """dx, for g = dy * weight * rstd and along = xhat * rstd: g - sum(a) - sum(b * (x - mean)) over the windows that
    a step is in, with a = g / count and b = a * along."""
    steps = np.arange(v.shape[1])
    most = v.shape[1] - 1
    before, after = min(form.before, most), min(form.after, most)
    constant = g / (np.minimum(steps + after, most) - np.maximum(steps - before - 1, -1))
    sums = _padded(constant, before), _padded(constant * along, before)  # these windows end `before` steps after it
    parts = *sums, np.zeros_like(sums[0]), _padded(mean, before, True)
    total, slope, shift, near = (a[:, before:] for a in _over_windows(parts, before + 1 + after, _totals))
    found: Array = g - total - (slope * (v - near) - shift)
    return found


def _over_windows(parts: Parts, size: int, merge: Callable[[Parts, Parts], Parts]) -> Parts:
    """What `merge` makes of the `size` steps up to every step, or of those that there are: windows of twice a size are
    merged of two neighbours."""

    def joined(first: Parts, by: int, second: Parts) -> Parts:
        by = min(by, steps)
        last = merge(tuple(a[:, : a.shape[1] - by] for a in first), tuple(a[:, by:] for a in second))
        return tuple(np.concatenate([a[:, :by], b], axis=1) for a, b in zip(second, last, strict=True))

    held, steps = parts, parts[0].shape[1]
    reached = 1
    for bit in f"{size:b}"[1:]:
        held, reached = joined(held, reached, held), 2 * reached
        if bit == "1":
            held, reached = joined(held, 1, parts), reached + 1
    return held


def _union_of(one: Parts, other: Parts) -> Parts:
    """Count, mean and m2 of both: where there is no value all are 0."""
    count = one[0] + other[0]
    share = other[0] / np.maximum(count, 1)
    apart = other[1] - one[1]
    return count, one[1] + apart * share, one[2] + other[2] + apart * apart * (one[0] * share)


def _totals(one: Parts, other: Parts) -> Parts:
    """Sums of a, of b, and of b * (mean - near), where near is the last of these means: distances stay small."""
    a, b, shift, near = one
    return a + other[0], b + other[1], shift + b * (near - other[3]) + other[2], other[3]


def _padded(v: Array, steps: int, edge: bool = False) -> Array:
    """v (lines, T) with steps behind it, of 0 or of its last."""
    if not steps:
        return v
    behind = np.repeat(v[:, -1:], steps, axis=1) if edge else np.zeros((len(v), steps))
    return np.concatenate([v, behind], axis=1)


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
