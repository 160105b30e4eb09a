"""Running statistics in one call: the NumPy formulas of `reference.py` take tens of microseconds for any size."""

import math
from functools import cache

import numpy as np

from normzoo.backends.cpu.compiling.jit import helper, kernel
from normzoo.backends.cpu.kernels.moments import put_lanes
from normzoo.backends.cpu.vector.access import at, load_n, put
from normzoo.backends.cpu.vector.arithmetic import larger, narrow, smaller, splat, wide
from normzoo.backends.cpu.vector.lanes import LANES


@helper
def blend(state, j, left, keep, new, weight):
    """state = keep * state + weight * new, in float64."""
    put_lanes(state, j, narrow(splat(keep) * wide(load_n(state, j, left)) + splat(weight) * new, state), left)


# Both keep the interpreter's lock: no thread sees partly written running statistics, or updates them at the same time.


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
