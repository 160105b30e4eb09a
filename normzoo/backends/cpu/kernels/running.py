"""Running statistics in one call: the NumPy formulas of `reference.py` take tens of microseconds for any size."""

import math
from functools import cache

import numpy as np

from normzoo.backends.cpu.compiling.jit import helper, kernel
from normzoo.backends.cpu.kernels.moments import merge, put_lanes
from normzoo.backends.cpu.kernels.windows import part_of
from normzoo.backends.cpu.vector.access import at, load_n, put
from normzoo.backends.cpu.vector.arithmetic import (
    fma,
    inverse,
    larger,
    magnitude,
    narrow,
    root,
    smaller,
    splat,
    wide,
)
from normzoo.backends.cpu.vector.comparing import below, is_outside
from normzoo.backends.cpu.vector.lanes import LANES

LEAST, MOST, FAR = 1e-250, 1e250, 1e120  # sums of squares, and a mean, of which float64 loses nothing


@helper
def blend(state, j, left, keep, new, weight):
    """state = keep * state + weight * new, in float64."""
    put_lanes(state, j, narrow(splat(keep) * wide(load_n(state, j, left)) + splat(weight) * new, state), left)


# All keep the interpreter's lock: no thread sees partly written running statistics, or updates them at the same time.


@cache
def update(average=False):
    """`average`: the momentum is 1 / (batches + 1)."""

    @kernel(nogil=False)
    def running_update(
        running_mean,  # (channels,) float32 or float64
        running_var,  # the same
        batches,  # () int64: number of batches; incremented
        stats,  # (3, b, c) float64
        channels,
        values,  # b * c
        count,  # values in a set
        momentum,
    ):
        sets = values // channels
        if average:
            momentum = 1.0 / (at(batches, 0) + 1)
        keep, unbiased = 1.0 - momentum, momentum * count / larger(count - 1, 1)
        for j in range(0, channels, LANES):
            left = smaller(channels - j, LANES)
            mean, spread = splat(0.0), splat(0.0)
            for s in range(sets):
                mean += load_n(stats, s * channels + j, left)
                spread += load_n(stats, values + s * channels + j, left)
            blend(running_mean, j, left, keep, mean / splat(float(sets)), momentum)
            blend(running_var, j, left, keep, spread / splat(float(sets)), unbiased)
        put(batches, 0, at(batches, 0) + 1)

    return running_update


@cache
def constants():
    @kernel(nogil=False)
    def running_constants(
        mean,  # (channels,) float32 or float64
        variance,  # the same
        stats,  # (3, b, c) float64
        negative,  # () int64: number of channels with a variance below 0; written
        channels,  # b * c
        eps,
    ):
        count = 0
        for j in range(channels):
            spread = np.float64(at(variance, j))
            put(stats, j, np.float64(at(mean, j)))
            put(stats, channels + j, spread)
            count += 1 if spread < 0.0 else 0
            put(stats, 2 * channels + j, 0.0 if spread + eps == 0.0 else 1.0 / math.sqrt(spread + eps))
        put(negative, 0, count)

    return running_constants


@helper
def moments_of_rows(x, n, channels, j, left):
    """Mean, m2 and the largest deviation of columns; the rounding of the mean is subtracted again."""
    size, s = splat(larger(float(n), 1.0)), splat(0.0)
    for i in range(n):
        s += wide(part_of(x, i * channels + j, left))
    mean, s = s / size, splat(0.0)
    for i in range(n):
        s += wide(part_of(x, i * channels + j, left)) - mean
    rounding, m2, most = s / size, splat(0.0), splat(0.0)
    for i in range(n):
        d = (wide(part_of(x, i * channels + j, left)) - mean) - rounding
        m2 = fma(d, d, m2)
        most = larger(most, magnitude(d))
    return mean + rounding, m2, most


@helper
def is_usual(mean, m2, apart):
    """Is nothing lost, as squares are far from the ends of range, or all values are equal (they are 0 apart)?"""
    equal = splat(1.0) - below(splat(0.0), apart, splat(1.0))
    return not (is_outside(m2 + equal, LEAST, MOST) or is_outside(mean, -FAR, FAR))


@helper
def are_ones(unit, channels):
    found = True
    for j in range(channels):
        found = found and at(unit, j) == 1.0
    return found


@cache
def observe():
    @kernel(nogil=False)
    def running_observe(
        x,  # (n, channels) of any float
        count,  # () int64, above 0
        moments,  # mean, m2 and unit, (channels,) float64
        batch,  # (2, channels) float64, written: mean and m2 of x
        stats,  # (3, channels) float64, written: mean, 0 and rstd of x, of what was seen, and of `prior` values
        usual,  # () int64, written: 1, or 0 where something may have been lost
        sizes,  # n, channels
        numbers,  # prior, eps
    ):
        (n, channels), (mean, m2, unit), (prior, eps) = sizes, moments, numbers
        seen, good, nothing = float(at(count, 0)), are_ones(unit, channels), splat(0.0)
        for j in range(0, channels, LANES):
            left, size = channels - j, splat(float(n))
            before = part_of(mean, j, left)
            own, squares, spread = moments_of_rows(x, n, channels, j, left)
            if n == 0:
                own = before
            together, center, sum_ = merge(splat(seen), before, part_of(m2, j, left), size, own, squares)
            good = good and is_usual(center, sum_, larger(spread, magnitude(own - before)))
            together, center, sum_ = merge(together, center, sum_, splat(prior), nothing, splat(prior))
            put_lanes(batch, j, own, left)
            put_lanes(batch, channels + j, squares, left)
            put_lanes(stats, j, center, left)
            put_lanes(stats, channels + j, nothing, left)
            put_lanes(stats, 2 * channels + j, inverse(root(sum_ / together + splat(eps))), left)
        put(usual, 0, 1 if good else 0)

    return running_observe


@cache
def take_in():
    @helper
    def union(count, mean, m2, batch, j, n, channels):
        left, other = channels - j, part_of(batch, j, channels - j)
        before, squares = part_of(mean, j, left), part_of(batch, channels + j, left)
        _, center, sum_ = merge(splat(count), before, part_of(m2, j, left), splat(float(n)), other, squares)
        return center, sum_, larger(squares, magnitude(other - before))

    @kernel(nogil=False)
    def running_take_in(
        count,  # () int64, above 0; written
        moments,  # mean and m2, written, and unit, (channels,) float64
        batch,  # (2, channels) float64
        usual,  # () int64, written: 1, or 0 where something would be lost, and nothing else is written
        sizes,  # n, channels
    ):
        (n, channels), (mean, m2, unit) = sizes, moments
        seen, good = float(at(count, 0)), at(count, 0) > 0 and are_ones(unit, channels)
        for j in range(0, channels, LANES):
            center, sum_, apart = union(seen, mean, m2, batch, j, n, channels)
            good = good and is_usual(center, sum_, apart)
        if good:
            for j in range(0, channels, LANES):
                center, sum_, _ = union(seen, mean, m2, batch, j, n, channels)
                put_lanes(mean, j, center, channels - j)
                put_lanes(m2, j, sum_, channels - j)
            put(count, 0, at(count, 0) + n)
        put(usual, 0, 1 if good else 0)

    return running_take_in
