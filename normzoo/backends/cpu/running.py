"""Running statistics in one call: the NumPy formulas of `reference.py` cost tens of microseconds on any size."""

import math
from functools import cache

from normzoo.backends.cpu.access import at, put
from normzoo.backends.cpu.jit import kernel


@cache
def update():
    @kernel
    def running_update(
        running_mean,  # (channels,) float32 or float64
        running_var,  # the same
        stats,  # (3, b, c) float64
        count,  # values in a set
        momentum,
    ):
        channels, values = running_mean.size, stats.size // 3
        sets = values // channels
        keep, unbiased = 1.0 - momentum, momentum * count / max(count - 1, 1)
        for j in range(channels):
            mean, spread = 0.0, 0.0
            for s in range(sets):
                mean += at(stats, s * channels + j)
                spread += at(stats, values + s * channels + j)
            running_mean[j] = keep * running_mean[j] + momentum * (mean / sets)
            running_var[j] = keep * running_var[j] + unbiased * (spread / sets)

    return running_update


@cache
def constants():
    @kernel
    def running_constants(
        mean,  # (channels,) float32 or float64
        variance,  # the same
        eps,
        stats,  # (3, b, c) float64
    ):
        channels, values = mean.size, stats.size // 3
        for i in range(values):
            j = i % channels
            put(stats, i, mean[j])
            put(stats, values + i, variance[j])
            put(stats, 2 * values + i, 1.0 / math.sqrt(at(stats, values + i) + eps))

    return running_constants
