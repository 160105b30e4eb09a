"""Running statistics in one call: the NumPy formulas of `reference.py` cost tens of microseconds on any size."""

import math
from functools import cache

import numpy as np

from normzoo.backends.cpu.access import at, put
from normzoo.backends.cpu.jit import kernel


@cache
def update():
    @kernel
    def running_update(
        running_mean,  # (channels,) float32 or float64
        running_var,  # the same
        batches,  # () int64: how many were taken in, this one too at the end
        stats,  # (3, b, c) float64
        channels,
        values,  # b * c
        count,  # values in a set
        momentum,
    ):
        sets = values // channels
        keep, unbiased = 1.0 - momentum, momentum * count / max(count - 1, 1)
        for j in range(channels):
            mean, spread = 0.0, 0.0
            for s in range(sets):
                mean += at(stats, s * channels + j)
                spread += at(stats, values + s * channels + j)
            put(running_mean, j, keep * at(running_mean, j) + momentum * (mean / sets))
            put(running_var, j, keep * at(running_var, j) + unbiased * (spread / sets))
        batches[()] = batches[()] + 1

    return running_update


@cache
def constants():
    @kernel
    def running_constants(
        mean,  # (channels,) float32 or float64
        variance,  # the same
        stats,  # (3, b, c) float64
        channels,
        values,  # b * c
        eps,
    ):
        for i in range(values):
            j = i % channels
            put(stats, i, np.float64(at(mean, j)))
            put(stats, values + i, np.float64(at(variance, j)))
            put(stats, 2 * values + i, 1.0 / math.sqrt(at(stats, values + i) + eps))

    return running_constants
