"""Steps that kernels share: moments of values in registers, normalization, and values near the limits of their type.

Accuracy is independent of the mean, without float64: the mean is computed relative to one value of the set (exact in a
constant set), the values in registers become deviations from it, and the mean of these, its rounding error, is
subtracted again.
"""

from functools import cache

from numba import cuda
from numba.cuda import types

from normzoo.backends.around import Around
from normzoo.backends.cuda.accesses import load
from normzoo.backends.cuda.arithmetic import (
    choose,
    fma,
    fold,
    fold_larger,
    guess_inverse_root,
    join,
    keep,
    magnitude,
    narrow,
    part,
    power_near,
    some,
    splat,
    unlike,
    wide,
)
from normzoo.backends.cuda.geometry import Form, device, first_value, total, total_larger
from normzoo.backends.cuda.surroundings import source

FULL = 0xFFFFFFFF  # all lanes of a warp
LARGEST = 1.7976931348623157e308


@device
def inverse_root(v):
    """1 / sqrt(v) of float64 lanes, 0 for 0 and inf, by Newton's iterations: a division would call a subroutine."""
    r = guess_inverse_root(v)
    half = v * 0.5
    r = r * (1.5 - half * r * r)
    r = r * (1.5 - half * r * r)
    r = r * (1.5 - half * r * r)
    r = r * (1.5 - half * r * r)
    r = fma(r * 0.5, 1.0 - v * r * r, r)
    return choose((v <= 0.0) | (v > LARGEST), 0.0, r)


@device
def inverse(v):
    """1 / v of nonnegative float64 lanes, 0 for 0 and inf."""
    r = inverse_root(v)
    r = r * r
    return fma(r, 1.0 - v * r, r)


@cache
def rstd_of(power: int, clamp: bool):
    """(spread, eps, unit) -> rstd in float64, for values that were scaled by `unit`; see `contract.py`."""

    @device
    def found(spread, eps, unit):
        least = unit * eps
        base = spread
        if not clamp:
            added = least
            if power == 2:
                added = least * unit
            base = spread + added
        if power == 0:
            return inverse(unit)
        if clamp:
            if power == 2:
                base = base * inverse_root(base)
            return inverse(choose(base < least, least, base))
        if power == 2:
            return inverse_root(base)
        return inverse(base)

    return found


@cache
def is_extreme(form: Form, power: int, clamp: bool):
    """(mean, spread, eps) -> mask of lanes with a non-finite value, or with squares that overflow or underflow."""
    least = 1e-280 if form.is_double else 1e-26

    @device
    def extreme(mean, spread, eps):
        finite = (magnitude(mean) <= 1e300) & (spread <= 1e300)
        if power == 0:
            return unlike(finite)
        added = eps * eps if clamp and power == 2 else eps
        return unlike(finite) | (spread < (least if added < least else 0.0))

    return extreme


@cache
def moments(form: Form, center: bool, power: int, clamp: bool, around: Around):
    """Statistics of the values at `offsets`, with what stands before the norm; all threads of a warp must call this
    together.

    -> deviations from `mean` minus c; c; the factor r with xhat = (deviation - c) * r; mean, spread and rstd in
    float64.
    """
    size, each, count = form.size, form.each, form.sums
    get = source(around)
    add, larger, first = total(form), total_larger(form), first_value(form, get)
    extreme, rstd = is_extreme(form, power, clamp), rstd_of(power, clamp)
    limit = 1022 if form.is_double else 126
    most = 2.0**1000 if form.is_double else 2.0**126
    by_square = not (clamp or power == 1)

    @device
    def found(x, beside, start, offsets, sums, k, one_k, one_divisor, eps, exchange):
        residual, other, times = beside
        unit = splat(1.0, count)
        scale = narrow(unit, x)
        tried = False
        again = True
        turn = 0
        shift = types.int64(0)  # always 0, but unknown to the code generator: values are loaded again, not kept
        while again:
            again = False
            v = get(x, residual, other, times, start + shift, offsets, size, each)
            x0 = scale * 0.0
            if center:
                x0 = first(x, beside, start, v, sums)
            if tried:
                v = v * scale
                x0 = x0 * scale
            if center:
                s = add(fold(keep(v - x0, offsets), count), exchange, turn)
                high = x0 + s * one_k
                d = keep(v - high, offsets)
                both = add(join(fold(d, count), fold(d * d, count)), exchange, turn + 1)
                turn += 2
                c = part(both, 0, count) * one_k
                mean = wide(high) + wide(c)
                q = part(both, count, count) - c * c * k
                if power == 1:
                    q = add(fold(magnitude(keep(d - c, offsets)), count), exchange, turn)
                    turn += 1
                spread = wide(choose(q < 0.0, 0.0, q)) * one_divisor
            else:
                d = v
                c = scale * 0.0
                mean = unit * 0.0
                q = add(fold(d * d if power == 2 else magnitude(d), count), exchange, turn)
                turn += 1
                spread = wide(q) * one_divisor
            if not tried:
                bad = extreme(mean, spread, eps)
                if cuda.any_sync(FULL, some(bad)):
                    # at most twice the largest value; after an overflow of sums it is not far from the largest finite
                    # number
                    largest = wide(larger(fold_larger(magnitude(d), count), exchange, turn)) + magnitude(mean)
                    turn += 1
                    least = splat(eps, count)
                    if by_square:
                        least = least * inverse_root(least)
                    largest = choose(largest < least, least, largest)
                    largest = choose(largest <= most, largest, most)
                    unit = choose(bad, power_near(largest, 1, limit), unit)
                    shift = types.int64(0 if k > 0 else 1)
                    scale = narrow(unit, x)
                    tried = True
                    again = True
        if power == 0:
            spread = unit * 0.0
        r = rstd(spread, eps, unit)
        back = power_near(unit, 1, limit)
        spread = spread * back
        if power == 2:
            spread = spread * back
        return d, c, narrow(r, x), mean * back, spread, r * unit

    return found


@cache
def affine_of(form: Form):
    """(mean, rstd, like) -> scale, high, low, r, with xhat = (v*scale - high - low) * r.

    high + low is the mean in twice the precision of x; scale is 1 unless rstd is extreme.
    """
    limit = 1000 if form.is_double else 126

    @device
    def affine(mean, rstd, like):
        far = (rstd < 2.0**-60) | (rstd > 2.0**60)
        unit = choose(far, power_near(rstd, 0, limit), 1.0)
        scaled = mean * unit
        high = narrow(scaled, like)
        return (
            narrow(unit, like),
            high,
            narrow(scaled - wide(high), like),
            narrow(rstd * power_near(unit, 1, limit), like),
        )

    return affine


@device
def standardize(v, scale, high, low, r):
    """xhat = (v - mean) * rstd."""
    return (fma(v, scale, high * -1.0) - low) * r


@cache
def stats_of(form: Form):
    """(stats, sets, index, plane) -> one plane of the statistics, float64; 0 if there is no set."""

    @device
    def plane_of(stats, sets, index, plane):
        return load(stats, plane * sets, index, 1, 1)

    return plane_of
