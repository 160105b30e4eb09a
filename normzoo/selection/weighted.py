"""Norms with weighted statistics: the formulas of `backends/contract.py`, where each value counts with its weight.

    mean = sum(w * x) / sum(w)        spread = sum(w * |x - mean|^power) / k        k = sum(w), or 1 for totals
    dx = rstd * (g - [center] w * sum(g) / sum(w) - w * q * sum(g * xhat) / k)

Computed by NumPy in float64, on every backend. Values of weight 0 have no effect on the statistics, whatever they are.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from normzoo.backends.contract import Array, Moments
from normzoo.passes.form import Form
from normzoo.passes.formulas import reciprocal, summed, unit


def normalize_weighted(
    form: Form,
    chosen: Any,  # a selection.select.Selected
    x: Array,
    y: Array,
    weight: Array | None,
    bias: Array | None,
) -> tuple[tuple[Array, Array, Array], Callable[[Array, Array], tuple]]:
    """Write y; return (sum of weights, mean, spread) of every set and the backward function. See
    `normalize_selected`."""
    axes = form.axes
    owner = axes.owner or tuple(range(len(axes.shape)))
    reduced = tuple(i for i, letter in enumerate(axes.letters) if letter in "rR")
    kept = [size for size, letter in zip(axes.shape, axes.letters, strict=True) if letter in "kK"]
    span = [size if letter.isupper() else 1 for size, letter in zip(axes.shape, axes.letters, strict=True)]
    w, a = (None if p is None else p.astype(np.float64).reshape(span) for p in (weight, bias))
    counted = np.ones(axes.shape)
    for found in (chosen.mask, chosen.sample_weight):
        if found is not None:
            counted = counted * np.broadcast_to(found, x.shape).reshape(axes.shape)
    shown = None if chosen.mask is None else np.broadcast_to(chosen.mask, x.shape)
    v = x.astype(np.float64).reshape(axes.shape)
    parts: list[tuple] = [(Ellipsis,)]
    if chosen.segments is not None:
        piece = owner.index(chosen.segment_axis)
        before = (slice(None),) * piece
        parts = [(*before, np.flatnonzero(chosen.segments == s)) for s in np.unique(chosen.segments)]
    found = np.zeros((3, len(parts), *kept))
    made, steps = np.zeros(axes.shape), []
    for s, part in enumerate(parts):
        xhat, step, statistics = _one(v[part], counted[part], reduced, form.moments, form.eps)
        made[part] = xhat
        steps.append((part, step))
        for plane, value in zip(found, statistics, strict=True):
            plane[s] = value.reshape(kept)
    result = made if w is None else made * w
    _place(y, (result if a is None else result + a).reshape(x.shape), x, shown, chosen.masked)

    def back(dy: Array, dx: Array) -> tuple[Array | None, Array | None]:
        d = dy.astype(np.float64)
        if shown is not None and chosen.masked != "normalize":
            d = np.where(shown, d, 0.0)
        d = d.reshape(axes.shape)
        g = d if w is None else d * w
        result = np.zeros(axes.shape)
        for part, step in steps:
            result[part] = step(g[part])
        along = np.where(d == 0, 0.0, d * made)  # a value that does not count may be NaN
        _place(dx, result.reshape(x.shape), dy.copy() if dy is dx else dy, shown, chosen.masked)
        found = [
            None if p is None else summed(values, tuple(span)).reshape(p.shape).astype(p.dtype)
            for p, values in ((weight, along), (bias, d))
        ]
        return found[0], found[1]

    return (found[0], found[1], found[2]), back


def _place(y: Array, made: Array, x: Array, shown: Array | None, policy: str) -> None:
    if shown is not None and policy != "normalize":
        made = np.where(shown, made, x if policy == "keep" else 0.0)
    y[...] = made


def _one(v: Array, weights: Array, reduced: tuple[int, ...], moments: Moments, eps: float) -> tuple:
    """xhat of one segment, the function from g to dx, and (sum of weights, mean, spread)."""

    def total(values: Array) -> Array:
        return np.where(weights > 0, values, 0.0).sum(axis=reduced, keepdims=True)

    least = eps if moments.clamp or moments.power == 1 else eps**0.5
    one = unit(np.where(weights > 0, v, 0.0), reduced, least)
    v, added = v * one, eps * one * (one if moments.power == 2 and not moments.clamp else 1.0)
    count = total(weights)
    share = reciprocal(count)
    mean = np.zeros_like(count)
    if moments.center:
        mean = total(weights * v) * share
        mean = mean + total(weights * (v - mean)) * share
    deviation = v - mean
    per_value = np.ones_like(share) if moments.total else share
    spread = total(weights * np.abs(deviation) ** moments.power) * per_value if moments.power else np.zeros_like(count)
    base = spread if moments.clamp else spread + added
    root = base ** (1 / moments.power) if moments.power else np.ones_like(base)
    if moments.clamp:
        root = np.where(root < added, added, root)
    rstd = np.where(count > 0, reciprocal(root), 0.0)
    xhat = np.where(count > 0, deviation * rstd, 0.0)
    held = (root <= added) & (added > 0) if moments.clamp else np.zeros(rstd.shape, bool)

    def step(g: Array) -> Array:
        along = np.where(g == 0, 0.0, g * xhat).sum(axis=reduced, keepdims=True)
        along = np.where(held, 0.0, along) * per_value
        sums = g.sum(axis=reduced, keepdims=True) * share if moments.center else 0.0
        q = xhat
        if moments.power == 1:
            q = np.sign(xhat)
            if moments.center:
                q = q - total(weights * q) * share
        elif moments.power == 0:
            q = np.zeros_like(xhat)
        return rstd * (g - weights * sums - np.where(weights > 0, weights * q, 0.0) * along) * one

    return xhat, step, (count, mean / one, spread / one ** (1 if moments.power == 1 else 2))
