"""Steps that rows and columns share: merging and finishing moments, normalization as affine function, extreme
values."""

import math

import numpy as np

from normzoo.backends.contract import BEYOND
from normzoo.backends.cpu.compiling.jit import helper
from normzoo.backends.cpu.vector.access import itemsize, load, load_as, load_n, store, store_as, store_n, stream_as
from normzoo.backends.cpu.vector.arithmetic import (
    fma,
    inverse,
    lane,
    larger,
    magnitude,
    minus,
    narrow,
    root,
    sign,
    smaller,
    wide,
)
from normzoo.backends.cpu.vector.comparing import is_outside
from normzoo.backends.cpu.vector.lanes import LANES
from normzoo.backends.cpu.vector.scaling import inverse_power, rescue, scale_for, within

MEAN, SPREAD, RSTD = 0, 1, 2  # the planes of `stats`, (3, b, c) float64


@helper
def read(a, i, left, full, like):
    """The lanes a[i : i + left]; `full`: known when compiling, these are all lanes, which are loaded in the order of
    `like`."""
    return load_as(a, i, like) if full else load_n(a, i, left)


@helper
def write(a, i, v, left, full, like):
    """a[i : i + left] = v; `full` and `like` as for `read`."""
    if full:
        store_as(a, i, v, like)
    else:
        store_n(a, i, v, left)


@helper
def write_out(a, i, v, left, full, streams):
    """Like `write`, in the order of `a` itself; with `streams`, full lanes bypass the caches."""
    if streams and full:
        stream_as(a, i, v, a)
    else:
        write(a, i, v, left, full, a)


@helper
def held(plane, i, full, like):
    """Lanes of a plane of a workspace, in the order of those of `read`; planes have room for all lanes."""
    return load_as(plane, i, like) if full else load(plane, i)


@helper
def hold(plane, i, v, full, like):
    """Write lanes to a plane of a workspace, in the order of `held`."""
    if full:
        store_as(plane, i, v, like)
    else:
        store(plane, i, v)


@helper
def put_lanes(a, i, v, left):
    """a[i : i + min(left, LANES)] = v. A masked store takes ten times as long as a full one on some machines."""
    if left >= LANES:
        store(a, i, v)
    else:
        store_n(a, i, v, left)


@helper
def merge(count, mean, m2, count_b, mean_b, m2_b):
    """Moments of the union of two sets (Chan, Golub, LeVeque 1979); exact if the means are equal."""
    union = count + count_b
    delta = mean_b - mean
    fraction = count_b / union
    return union, mean + delta * fraction, m2 + m2_b + delta * delta * (count * fraction)


@helper
def rstd_of(spread, eps, one, power, clamp):
    """(spread + eps)^(-1/power), or 1 / max(spread^(1/power), eps) with `clamp`; 0 where that would divide by 0.

    For lanes or scalars; `one` is 1 of the same type.
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
    """scale, shift, fine, r, in the type of `like`, from float64 lanes or scalars: see `standardize`.

    shift / scale is -mean rounded, and `fine` is the rounding error in units of xhat, so that xhat is accurate if the
    mean is large; scale is 1 unless rstd is extreme.
    """
    scale = rescue(rstd, like)
    scaled = mean * scale
    high = narrow(scaled, like)
    r = rstd * inverse_power(scale)
    if itemsize(like) == 8:
        r = larger(r, minus(rstd))  # for an rstd beyond float64, see `Backend`
    return narrow(scale, like), minus(high), narrow((wide(high) - scaled) * r, like), narrow(r, like)


@helper
def affine_by(mean, rstd, weight, bias, like):
    """Like `affine_of`, for y = xhat * weight + bias instead of xhat, with statistics that are not x's own: xhat or x -
    mean may be out of range even if y is not."""
    if itemsize(like) == 8:
        rstd = within(rstd)
    scale = scale_for(mean, rescue(magnitude(rstd * weight), like), like)
    scaled = mean * scale
    high = narrow(scaled, like)
    r = rstd * weight * inverse_power(scale)
    return narrow(scale, like), minus(high), narrow((wide(high) - scaled) * r + bias, like), narrow(r, like)


@helper
def standardize(v, scale, shift, fine, r):
    """xhat = (v - mean) * rstd."""
    return fma(fma(v, scale, shift), r, fine)


@helper
def offset(v, affine, power):
    """The value that sums use for xhat, without r and `fine`, which `of_offsets` applies. With power 1 it is xhat
    itself, because its sign matters."""
    return standardize(v, *affine) if power == 1 else fma(v, affine[0], affine[1])


@helper
def of_offsets(g, gx, z, count, fine, r, power):
    """sum(g * xhat) and sum(xhat), from the same sums of `offset` and from sum(g); fine and r are float64."""
    if power == 1:
        return gx, z
    return gx * r + g * fine, z * r + count * fine


@helper
def factors_of(g_mean, gx_mean, sign_mean, scale, fine, r, power, like):
    """The terms that dx subtracts from g, in the type of `like`, from float64 lanes or scalars; see `gradient`.

    They are: mean(g) as a pair -high, rest, with which dx is accurate if mean(g) is far from 0; -mean(g * xhat), for
    power 2 times the factor from an offset to xhat (without `fine`, which is part of the rest); mean(sign(x - mean)).
    The first three are scaled like x, so that no product overflows unless dx does.
    """
    scaled, taken = g_mean * wide(scale), gx_mean * wide(scale)
    high = narrow(scaled, like)
    rest = scaled - wide(high)
    if power == 2:
        rest += taken * wide(fine)
        taken = taken * wide(r)
    return minus(high), narrow(rest, like), minus(narrow(taken, like)), narrow(sign_mean, like)


@helper
def gradient(d, v, w, affine, factors, power):
    """dx = rstd * (g - mean(g) - q * mean(g * xhat)) for the lanes d of dy and v of x; g = d * weight.

    w is weight * scale; q is xhat, or sign(xhat) - mean(sign(x - mean)); see `affine_of` and `factors_of`.
    """
    g_high, rest, taken, sign_mean = factors
    t = fma(d, w, g_high)
    if power == 2:
        t = fma(fma(v, affine[0], affine[1]), taken, t)
    t -= rest
    if power == 1:
        t = fma(sign(standardize(v, *affine)) - sign_mean, taken, t)
    return t * affine[3]


@helper
def is_extreme(spread, eps, power, clamp, like):
    """Did the fast sums, lanes or a scalar, meet a non-finite value, or squares that overflow or underflow?

    Squares of float32 below 1e-38 lose bits, which does not matter beside a sum or an eps of 1e-26.
    """
    least = 1e-280 if itemsize(like) == 8 else 1e-26
    added = eps * eps if clamp and power == 2 else eps
    return is_outside(spread, least if added < least else -math.inf, 1e300)


@helper
def extreme_moments(given, start, moments, flags):
    """mean, spread, rstd of the set at `start`, in two passes over values scaled by a power of two.

    The scale brings the larger of the values and sqrt(eps) to about 1, so that the squares of both stay in range.
    """
    divisor, eps, clamp = moments
    center, power = flags.center, flags.power
    some = flags.steps.source.some
    _, m, c, n = given.dims
    step = c * n
    plain = 0.0
    largest = eps if clamp or power == 1 else math.sqrt(eps)
    for i in range(m):
        for j in range(n):
            v = np.float64(lane(some(given, start + i * step + j, 1), 0))
            plain += v
            if not abs(v) <= largest:
                largest = abs(v)
    k = np.float64(m * n)
    scale = 1.0
    mean = plain / k if center else 0.0
    if 0.0 < largest < math.inf:
        scale = math.ldexp(1.0, smaller(-math.frexp(largest)[1], 1023))
        if center:  # around the first value: exact in a constant set
            first = np.float64(lane(some(given, start, 1), 0)) * scale
            mean = 0.0
            for i in range(m):
                for j in range(n):
                    mean += np.float64(lane(some(given, start + i * step + j, 1), 0)) * scale - first
            mean = first + mean / k
    spread = 0.0
    for i in range(m):
        for j in range(n):
            d = abs(np.float64(lane(some(given, start + i * step + j, 1), 0)) * scale - mean)
            spread += d * d if power == 2 else d
    spread /= divisor
    if power == 0:
        return mean / scale, 0.0, 1.0
    scaled_eps = eps * scale if clamp or power == 1 else eps * scale * scale
    rstd = rstd_of(spread, scaled_eps, 1.0, power, clamp)
    found = rstd * scale
    if found == math.inf and rstd < math.inf:  # beyond float64
        found = -(rstd * (scale * BEYOND))
    return mean / scale, spread / (scale * scale if power == 2 else scale), found
