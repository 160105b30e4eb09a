"""What the reference has beside the view (b, m, c, n): windows and scans, in NumPy, float64 inside."""

from collections.abc import Callable
from typing import Any

import numpy as np

from normzoo.backends.contract import Array, Pass, Volume
from normzoo.backends.forms import (
    Cells,
    Cumulation,
    Formula,
    Response,
    Twice,
    Window,
)

Axis = int | tuple[int, ...]
FAR = 2.0**500  # beyond this and below its inverse, squares of values are near the limits of float64


def unit(v: Array, axis: Axis, least: float = 0.0, power: int = 1) -> Array:
    """A power of two for every set over `axis` (kept with size 1): v times it can be squared and summed. It is 1 unless
    the larger of `least` and the largest value of a set is far from 1; multiplying by it never rounds.

    Args:
        least: what is added to the values, in their units: the square root of eps.
        power: power of the values whose squares are summed.
    """
    largest = np.maximum(np.abs(v).max(axis=axis, keepdims=True, initial=0.0), least)
    bound = FAR ** (1 / power)
    far = np.isfinite(largest) & (largest > 0) & ((largest > bound) | (largest < 1 / bound))
    return np.where(far, np.ldexp(1.0, np.minimum(-np.frexp(largest)[1], 1023)), 1.0)


def reciprocal(v: Array) -> Array:
    """1 / v, and 0 for 0."""
    return np.divide(1.0, v, out=np.zeros_like(v), where=v != 0)


def of(dims: tuple[int, ...], formula: Callable[..., Array], form: Any) -> Pass:
    """The pass over arrays of which the last is written: `formula` of the others in float64."""

    @np.errstate(all="ignore")
    def run(*arrays: Array) -> None:
        *read, result = arrays
        result.reshape(dims)[...] = formula(*(a.reshape(dims).astype(np.float64) for a in read), form)

    return run


def response(x: Array, form: Response) -> Array:
    return x * _base(x, form) ** -form.beta


def response_back(dy: Array, x: Array, form: Response) -> Array:
    base = _base(x, form)
    g = dy * base**-form.beta
    shared = window_sum(g * x / base, form.after, form.before, axis=1)
    return g - 2 * form.beta * form.scale * x * shared


def _base(x: Array, form: Response) -> Array:
    return form.k + form.scale * window_sum(x * x, form.before, form.after, axis=1)


def window_sum(v: Array, before: int, after: int, taps: Array | None = None, axis: int = -1) -> Array:
    """Sum of v over i - before ... i + after along an axis, zeros outside; weighed by `taps`, if given."""
    v = np.moveaxis(v, axis, -1)
    length = v.shape[-1]
    total = v.copy() if taps is None else v * taps[before]
    for shift in range(1, min(max(before, after), length - 1) + 1):
        if shift <= before:
            total[..., shift:] += v[..., :-shift] if taps is None else v[..., :-shift] * taps[before - shift]
        if shift <= after:
            total[..., :-shift] += v[..., shift:] if taps is None else v[..., shift:] * taps[before + shift]
    return np.moveaxis(total, -1, axis)


@np.errstate(all="ignore")
def window_means(dims: Volume, window: Window, back: bool, v: Array) -> Array:
    taps, v = np.array(window.taps), v.reshape(dims)
    before, after = window.before, taps.size - 1 - window.before
    inside = inside_of(dims[1], window)[:, None]
    if back:
        return window_sum(v / inside, after, before, taps[::-1], axis=1)
    return window_sum(v, before, after, taps, axis=1) / inside


def inside_of(length: int, window: Window) -> Array:
    """The sum of the weights of the neighbours that a row has."""
    return window_sum(np.ones(length), window.before, len(window.taps) - 1 - window.before, np.array(window.taps))


@np.errstate(all="ignore")
def position_moments(dims: Volume, x: Array) -> Array:
    v = x.reshape(dims).astype(np.float64)
    mean = v.mean(axis=1, keepdims=True)
    deviation = v - mean
    rounding = deviation.mean(axis=1, keepdims=True)  # the mean's own, seen in the deviations and taken back
    return np.stack([(mean + rounding)[:, 0], ((deviation - rounding) ** 2).mean(axis=1)])


@np.errstate(all="ignore")
def position_sums(dims: Volume, dy: Array, x: Array, weight: Array, stats: Array) -> tuple[Array, Array]:
    d, g, xhat = _positions(dims, dy, x, weight, stats)
    sums = np.stack([(d * xhat).sum(axis=(0, 2)), d.sum(axis=(0, 2))])
    return np.stack([g.mean(axis=1), (g * xhat).mean(axis=1)]), sums


@np.errstate(all="ignore")
def position_gradient(dims: Volume, dy: Array, x: Array, weight: Array, stats: Array, more: Array, dx: Array) -> None:
    _, g, xhat = _positions(dims, dy, x, weight, stats)
    constant, slope = more.reshape(2, dims[0], 1, dims[2])
    dx.reshape(dims)[...] = g * stats.reshape(3, dims[0], 1, dims[2])[2] + constant + xhat * slope


def _positions(dims: Volume, dy: Array, x: Array, weight: Array, stats: Array) -> tuple[Array, Array, Array]:
    """dy, g and xhat."""
    mean, _, rstd = stats.reshape(3, dims[0], 1, dims[2])
    d = dy.reshape(dims).astype(np.float64)
    return d, d * weight.astype(np.float64)[:, None], (x.reshape(dims).astype(np.float64) - mean) * rstd


@np.errstate(all="ignore")
def cumulate(
    form: Cumulation, x: Array, weight: Array, bias: Array, eps: float, state: Array, before: int, y: Array
) -> Array:
    """See `Backend.cumulate`."""
    v = by_time(x, form).astype(np.float64, order="C") * state[0, :, None, None]
    values, steps = v.shape[2], before + np.arange(1, v.shape[1] + 1)
    unit, _, total, m2 = state[:, :, None]
    if not before:
        state[1] = v[:, 0].mean(axis=1)
    v -= state[1, :, None, None]
    own_mean = v.mean(axis=2, keepdims=True)
    deviation = v - own_mean
    rounding = deviation.mean(axis=2, keepdims=True)  # the mean's own, seen in the deviations and taken back
    own_m2 = ((deviation - rounding) ** 2).sum(axis=2)
    own = (own_mean + rounding)[:, :, 0]
    totals = running_sum(total, own)
    last = np.concatenate([total, totals[:, :-1]], axis=1) / np.maximum(steps - 1, 1)
    all_m2 = running_sum(m2, own_m2 + (own - last) ** 2 * (values * (steps - 1) / steps))
    root = np.sqrt(all_m2 / (steps * values) + eps * unit * unit)
    stats = np.stack([totals / steps, np.divide(1.0, root, out=np.zeros_like(root), where=root != 0)])
    state[2:] = totals[:, -1], all_m2[:, -1]
    xhat = (v - stats[0, :, :, None]) * stats[1, :, :, None]
    by_time(y, form)[...] = xhat * _of_values(weight, form) + _of_values(bias, form)
    return stats


@np.errstate(all="ignore")
def cumulate_back(form: Cumulation, *arrays: Array) -> None:
    """See `Backend.cumulate_back`."""
    dy, x, weight, stats, state, dx, dweight, dbias = arrays
    unit, shift = (row[:, None, None] for row in state[:2])
    mean, rstd = (plane[:, :, None] for plane in stats)
    d = by_time(dy, form).astype(np.float64, order="C")
    deviation = by_time(x, form).astype(np.float64, order="C") * unit - shift
    xhat = (deviation - mean) * rstd
    g = d * _of_values(weight, form) * rstd
    count = np.arange(1, d.shape[1] + 1)[:, None] * d.shape[2]
    dmean = -g.sum(axis=2, keepdims=True) / count
    dsquare = -(g * xhat).sum(axis=2, keepdims=True) * rstd / count
    by_time(dx, form)[...] = (g + later(dmean - dsquare * mean) + deviation * later(dsquare)) * unit
    for found, wanted in ((d * xhat, dweight), (d, dbias)):
        wanted[...] = of_channels(found.sum(axis=(0, 1)), form)


def by_time(a: Array, form: Cumulation) -> Array:
    """A view of a as (b, t, values of a step in the order of memory)."""
    values = form.channels * form.positions
    return a.reshape(-1, values, form.steps).swapaxes(1, 2) if form.time_last else a.reshape(-1, form.steps, values)


def of_channels(values: Array, form: Cumulation) -> Array:
    """Of each value of a step, summed over the positions of a channel."""
    if form.time_last:
        return values.reshape(form.channels, form.positions).sum(axis=1)
    return values.reshape(form.positions, form.channels).sum(axis=0)


def _of_values(p: Array, form: Cumulation) -> Array:
    """A parameter of each value of a step."""
    p = p.astype(np.float64)
    return np.repeat(p, form.positions) if form.time_last else np.tile(p, form.positions)


def running_sum(start: Array, terms: Array) -> Array:
    """start + terms[0] + ... + terms[t] for every t along axis 1, added in this order."""
    return np.cumsum(np.concatenate([start, terms], axis=1), axis=1)[:, 1:]


def later(d: Array) -> Array:
    """Sum of d from t to the end, for every t."""
    return np.cumsum(d[:, ::-1], axis=1)[:, ::-1]


@np.errstate(all="ignore")
def cells(
    dims: Cells,
    formula: Formula | Twice,
    arrays: tuple[Array, ...],
    coefficients: tuple[Array, ...],
    results: tuple[Array, ...],
) -> list[Array]:
    """See `Backend.cells`."""
    if isinstance(formula, Twice):
        sums = cells(dims, formula.first, arrays, coefficients, ())
        made = formula.between(*sums[: formula.sums], *coefficients[: formula.numbers])
        cells(dims, formula.second, arrays, (*coefficients, *made), results)
        return sums
    values = (by_cell(a, dims).astype(np.float64) for a in arrays)
    found = formula.function(*values, *(a[:, :, None] for a in coefficients))
    for result, v in zip(results, found, strict=False):
        by_cell(result, dims)[...] = v
    shape = dims.b, dims.c, dims.n
    terms = (np.broadcast_to(v, shape).sum(axis=2) for v in found[formula.writes :])
    return [kept(v, span) for v, span in zip(terms, formula.sums, strict=True)]


def by_cell(a: Array, dims: Cells) -> Array:
    """A view of a as (b, c, n)."""
    return a.reshape(dims.b, dims.n, dims.c).swapaxes(1, 2) if dims.last else a.reshape(dims.b, dims.c, dims.n)


def kept(v: Array, span: str) -> Array:
    """Sum of v (b, c) over the axes that a span does not have."""
    return v.sum(axis=tuple(i for i, letter in enumerate("bc") if letter not in span), keepdims=True)


@np.errstate(all="ignore")
def largest(dims: Cells, k: int, x: Array, center: Array) -> tuple[Array, Array]:
    """See `Backend.largest`."""

    def by_channel(a: Array) -> Array:
        return by_cell(a, dims).swapaxes(0, 1).reshape(dims.c, dims.b * dims.n)

    far = np.abs(by_channel(x).astype(np.float64) - center[:, None])
    furthest = np.argsort(-far, axis=1, kind="stable")[:, :k]
    places = np.take_along_axis(by_channel(np.arange(x.size)), furthest, axis=1)
    places = np.sort(np.where(np.isnan(np.take_along_axis(far, furthest, axis=1)), -1, places), axis=1)
    channels, _ = np.nonzero(places >= 0)
    return channels, places[places >= 0]


@np.errstate(all="ignore")
def groups(
    starts: Array,
    c: int,
    formula: Formula,
    arrays: tuple[Array, ...],
    coefficients: tuple[Array, ...],
    results: tuple[Array, ...],
) -> list[Array]:
    """See `Backend.groups`."""
    owner = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    values = (a.reshape(-1, c).astype(np.float64) for a in arrays)
    found = formula.function(*values, *(a[owner] if len(a) > 1 else a for a in coefficients))
    for result, v in zip(results, found, strict=False):
        result.reshape(-1, c)[...] = v
    terms = (np.broadcast_to(v, (len(owner), c)) for v in found[formula.writes :])
    return [kept(np.add.reduceat(v, starts[:-1]), span) for v, span in zip(terms, formula.sums, strict=True)]
