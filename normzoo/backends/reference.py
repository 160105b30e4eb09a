"""The definition: the formulas of `contract.py` in NumPy, float64 inside. Slow, short, and what the rest must equal."""

import numpy as np

from normzoo.backends.contract import Array, Moments


@np.errstate(all="ignore")
def forward(x: Array, weight: Array, bias: Array, moments: Moments, eps: float, y: Array) -> Array:
    b, m, c, n = x.shape
    v = x.astype(np.float64)
    # 1 moments, of values scaled by a power of two where their squares would leave the range of float64
    unit = _unit(v, eps, moments)
    mean = (v * unit).mean(axis=(1, 3), keepdims=True) if moments.center else np.zeros((b, 1, c, 1))
    deviation = v * unit - mean
    if moments.center:  # the mean's own rounding, seen in the deviations, and taken back
        rounding = deviation.mean(axis=(1, 3), keepdims=True)
        mean, deviation = mean + rounding, deviation - rounding
    spread = (np.abs(deviation) ** moments.power).sum(axis=(1, 3), keepdims=True) / (1 if moments.total else m * n)
    rstd = unit * _rstd(spread, eps, unit, moments)
    # 2 normalize
    xhat = deviation * (rstd / unit)
    y[...] = xhat * _repeat(weight, b) + _repeat(bias, b)
    spread = spread / unit**moments.power if moments.power else np.zeros_like(rstd)
    return np.stack([mean / unit, spread, rstd]).reshape(3, b, c)


@np.errstate(all="ignore")
def apply(x: Array, stats: Array, weight: Array, bias: Array, y: Array) -> None:
    y[...] = _xhat(x, stats) * _repeat(weight, x.shape[0]) + _repeat(bias, x.shape[0])


@np.errstate(all="ignore")
def backward(
    dy: Array, x: Array, stats: Array, weight: Array, moments: Moments, eps: float, dx: Array
) -> tuple[Array, Array]:
    b, m, c, n = x.shape
    d = dy.astype(np.float64)
    rstd = stats[2].reshape(b, 1, c, 1)
    xhat = _xhat(x, stats)
    g = d * _repeat(weight, b)
    # 1 moments
    g_mean = g.mean(axis=(1, 3), keepdims=True) if moments.center else 0.0
    gx_mean = (g * xhat).sum(axis=(1, 3), keepdims=True) / (1 if moments.total else m * n)
    if moments.clamp and eps > 0:
        gx_mean = np.where(rstd >= 1.0 / eps, 0.0, gx_mean)
    # 2 normalize
    q = xhat
    if moments.power == 1:
        q = np.sign(xhat)
        if moments.center:
            q = q - q.mean(axis=(1, 3), keepdims=True)
    elif moments.power == 0:
        q = gx_mean = np.zeros_like(rstd)
    dweight, dbias = _reduce(d * xhat, weight.shape), _reduce(d, weight.shape)
    dx[...] = rstd * (g - g_mean - q * gx_mean)
    return dweight, dbias


def _unit(v: Array, eps: float, moments: Moments) -> Array:
    """Power of two that brings the larger of a set's values and sqrt(eps) to about 1, where that matters; else 1."""
    least = eps if moments.clamp or moments.power == 1 else np.sqrt(eps)
    largest = np.maximum(np.abs(v).max(axis=(1, 3), keepdims=True), least)
    unit = np.ldexp(1.0, np.minimum(-np.frexp(largest)[1], 1023))
    far = np.isfinite(largest) & ((largest > 1e140) | ((largest < 1e-140) & (largest > 0)))
    return np.where(far, unit, 1.0)


def _rstd(spread: Array, eps: float, unit: Array, moments: Moments) -> Array:
    if moments.power == 0:
        return np.ones_like(spread) / unit
    added = 0.0 if moments.clamp else eps * unit * (unit if moments.power == 2 else 1)
    root = (spread + added) ** (1 / moments.power)
    if moments.clamp:
        root = np.where(root < eps * unit, eps * unit, root)
    return np.divide(1.0, root, out=np.zeros_like(root), where=root != 0)


def _xhat(x: Array, stats: Array) -> Array:
    b, _, c, _ = x.shape
    mean, _, rstd = stats.reshape(3, b, 1, c, 1)
    return (x.astype(np.float64) - mean) * rstd


def _repeat(parameter: Array, b: int) -> Array:
    return np.tile(parameter.astype(np.float64), (b // parameter.shape[0], 1, 1, 1))


def _reduce(values: Array, view: tuple[int, ...]) -> Array:
    """Sum over every axis the parameter view does not span, and over its repeats along b."""
    values = values.reshape(-1, view[0], *values.shape[1:]).sum(axis=0)
    return values.sum(axis=tuple(i for i in (1, 2, 3) if view[i] == 1), keepdims=True)
