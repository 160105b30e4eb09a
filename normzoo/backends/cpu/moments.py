"""Steps that rows and columns share: merging partial moments, finishing them, the affine form, and extreme values."""

import math

import numpy as np

from normzoo.backends.cpu.access import at, is_double, load, load_n, store, store_n, stream
from normzoo.backends.cpu.arithmetic import fma, inverse, inverse_power, larger, minus, narrow, rescue, root, sign, wide
from normzoo.backends.cpu.jit import helper
from normzoo.backends.cpu.lanes import LANES

MEAN, SPREAD, RSTD = 0, 1, 2  # the planes of `stats`, (3, b, c) float64


@helper
def read(a, i, left, full):
    """Lanes a[i : i + left]; `full` says at compile time that these are all."""
    return load(a, i) if full else load_n(a, i, left)


@helper
def write(a, i, v, left, full):
    """a[i : i + left] = v; `full` says at compile time that these are all lanes."""
    if full:
        store(a, i, v)
    else:
        store_n(a, i, v, left)


@helper
def write_out(a, i, v, left, full, streams):
    """`write`; whole lanes past the caches, with `streams`."""
    if streams and full:
        stream(a, i, v)
    else:
        write(a, i, v, left, full)


@helper
def put_lanes(a, i, v, left):
    """a[i : i + min(left, LANES)] = v; a masked store takes ten times as long as a whole one on some machines."""
    if left >= LANES:
        store(a, i, v)
    else:
        store_n(a, i, v, left)


@helper
def merge(count, mean, m2, count_b, mean_b, m2_b):
    """Moments of the union of two sets (Chan, Golub, LeVeque 1979); exact for equal means."""
    union = count + count_b
    delta = mean_b - mean
    fraction = count_b / union
    return union, mean + delta * fraction, m2 + m2_b + delta * delta * (count * fraction)


@helper
def rstd_of(spread, eps, one, power, clamp):
    """(spread + eps)^(-1/power), or 1 / max(spread^(1/power), eps) with `clamp`; 0 where that would divide by 0.

    Lanes or scalars; `one` is 1 of the same kind.
    """
    v = spread if clamp else spread + eps
    if power == 2:
        v = root(v)
    if power == 0:
        v = one
    if clamp:
        v = larger(v, eps)
    return inverse(v)


@helper
def affine_of(mean, rstd, like):
    """scale, shift, low, r, in the type of `like`, from float64 lanes: see `standardize`.

    low - shift is the mean to twice the precision of x; scale is 1 unless rstd is extreme.
    """
    scale = rescue(rstd, like)
    scaled = mean * scale
    high = narrow(scaled, like)
    low = narrow(scaled - wide(high), like)
    return narrow(scale, like), minus(high), low, narrow(rstd * inverse_power(scale), like)


@helper
def deviation(v, scale, shift, low):
    """(v - mean) * scale."""
    return fma(v, scale, shift) - low


@helper
def standardize(v, scale, shift, low, r):
    """xhat = (v - mean) * rstd."""
    return deviation(v, scale, shift, low) * r


@helper
def factors_of(g_mean, gx_mean, sign_mean, affine, power, like):
    """What dx takes off g, in the type of `like`, from float64 lanes; see `gradient`.

    mean(g) as a pair -high, low, for which dx is right where mean(g) is far from 0; -mean(g * xhat), for power 2 times
    what makes xhat of a deviation; mean(sign(x - mean)). The first three are scaled as x is: a product that dx does
    not show cannot overflow.
    """
    scale, r = wide(affine[0]), wide(affine[3])
    scaled = g_mean * scale
    high = narrow(scaled, like)
    low = narrow(scaled - wide(high), like)
    taken = gx_mean * scale * r if power == 2 else gx_mean * scale
    return minus(high), low, minus(narrow(taken, like)), narrow(sign_mean, like)


@helper
def gradient(d, v, w, affine, factors, power):
    """dx = rstd * (g - mean(g) - q * mean(g * xhat)) of the lanes d of dy and v of x; g = d * weight.

    w is weight * scale; q is xhat, or sign(xhat) - mean(sign(x - mean)); see `affine_of` and `factors_of`.
    """
    scale, shift, low, r = affine
    g_high, g_low, taken, sign_mean = factors
    t = fma(d, w, g_high) - g_low
    if power != 0:
        q = deviation(v, scale, shift, low)
        if power == 1:
            q = sign(q) - sign_mean
        t = fma(q, taken, t)
    return t * r


@helper
def is_extreme(spread, eps, power, clamp, like):
    """Did the fast sums meet a non-finite value, or squares that overflow or underflow?

    Squares of float32 below 1e-38 lose bits; next to a sum or an eps of 1e-26 they do not count.
    """
    least = 1e-280 if is_double(like) else 1e-26
    added = eps * eps if clamp and power == 2 else eps
    return not (spread <= 1e300) or (spread < least and added < least)


@helper
def extreme_moments(x, start, count_m, step, n, center, power, divisor, eps, clamp):
    """mean, spread, rstd of `count_m` runs of n values, in two passes over values scaled by a power of two.

    The scale brings the larger of the values and sqrt(eps) to about 1, so that neither's square leaves the range.
    """
    plain = 0.0
    largest = eps if clamp or power == 1 else math.sqrt(eps)
    for i in range(count_m):
        for j in range(n):
            v = np.float64(at(x, start + i * step + j))
            plain += v
            if not abs(v) <= largest:
                largest = abs(v)
    k = np.float64(count_m * n)
    scale = 1.0
    mean = plain / k if center else 0.0
    if 0.0 < largest < math.inf:
        scale = math.ldexp(1.0, min(-math.frexp(largest)[1], 1023))
        if center:  # around the first value: exact in a constant set
            first = np.float64(at(x, start)) * scale
            mean = 0.0
            for i in range(count_m):
                for j in range(n):
                    mean += np.float64(at(x, start + i * step + j)) * scale - first
            mean = first + mean / k
    spread = 0.0
    for i in range(count_m):
        for j in range(n):
            d = abs(np.float64(at(x, start + i * step + j)) * scale - mean)
            spread += d * d if power == 2 else d
    spread /= divisor
    if power == 0:
        return mean / scale, 0.0, 1.0
    scaled_eps = eps * scale if clamp or power == 1 else eps * scale * scale
    rstd = rstd_of(spread, scaled_eps, 1.0, power, clamp)
    return mean / scale, spread / (scale * scale if power == 2 else scale), rstd * scale
