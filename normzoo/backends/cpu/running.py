"""Running statistics in one call: the NumPy formulas of `reference.py` cost tens of microseconds on any size."""

import math
from functools import cache

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
        channels, values = running_mean.size, stats.reshape(3, -1)
        sets = values.shape[1] // channels
        keep, unbiased = 1.0 - momentum, momentum * count / max(count - 1, 1)
        for j in range(channels):
            mean, spread = 0.0, 0.0
            for s in range(sets):
                mean += values[0, s * channels + j]
                spread += values[1, s * channels + j]
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
        channels, values = mean.size, stats.reshape(3, -1)
        for i in range(values.shape[1]):
            j = i % channels
            values[0, i] = mean[j]
            values[1, i] = variance[j]
            values[2, i] = 1.0 / math.sqrt(values[1, i] + eps)

    return running_constants
