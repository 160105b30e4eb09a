"""Rows of an array picked out and put back, on all threads: what masks leave out is never read.

With `streams` rows are whole lines of sixteen float32 (whatever they hold), and written past the caches: for what no
cache would hold. Without, they are bytes.
"""

from functools import cache

import numpy as np
from numba import prange

from normzoo.backends.cpu.access import load, stream, zeros
from normzoo.backends.cpu.jit import helper, kernel
from normzoo.backends.cpu.lanes import LANES

STEP = 64  # rows a task


@helper
def copy_row(source, j, target, i, streams):
    """target[i] = source[j]."""
    width = target.shape[1]
    if streams:
        for k in range(0, width, LANES):
            stream(target, i * width + k, load(source, j * width + k))
    else:
        for k in range(width):
            target[i, k] = source[j, k]


@helper
def clear_row(target, i, streams):
    """target[i] = 0."""
    width = target.shape[1]
    if streams:
        for k in range(0, width, LANES):
            stream(target, i * width + k, zeros(target))
    else:
        for k in range(width):
            target[i, k] = 0


@cache
def take(parallel, streams):
    """target[i] = source[index[i]]."""

    @kernel(parallel)
    def rows_take(
        source,  # (rows, width)
        index,  # (kept,) int64
        target,  # (kept, width), written
    ):
        for task in prange((index.size + STEP - 1) // STEP):
            first = np.int64(task) * STEP
            for i in range(first, min(first + STEP, index.size)):
                copy_row(source, index[i], target, i, streams)

    return rows_take


@cache
def spread(parallel, streams):
    """target[i] = source[place[i]], 0 where that is -1; where it is -2 target stays."""

    @kernel(parallel)
    def rows_spread(
        source,  # (kept, width)
        place,  # (rows,) int64
        target,  # (rows, width), written
    ):
        for task in prange((place.size + STEP - 1) // STEP):
            first = np.int64(task) * STEP
            for i in range(first, min(first + STEP, place.size)):
                if place[i] >= 0:
                    copy_row(source, place[i], target, i, streams)
                elif place[i] == -1:
                    clear_row(target, i, streams)

    return rows_spread
