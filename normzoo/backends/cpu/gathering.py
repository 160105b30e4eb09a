"""Rows of bytes picked out of an array and put back, on all threads: what masks leave out is never read."""

from functools import cache

import numpy as np
from numba import prange

from normzoo.backends.cpu.jit import SOURCE, kernel

STEP = 64  # rows a task


@cache
def take(parallel):
    """target[i] = source[index[i]]."""

    @kernel(parallel)
    def rows_take(
        source,  # (rows, width) uint8
        index,  # (kept,) int64
        target,  # (kept, width) uint8, written
    ):
        if parallel > SOURCE:
            return
        width = source.shape[1]
        for task in prange((index.size + STEP - 1) // STEP):
            first = np.int64(task) * STEP
            for i in range(first, min(first + STEP, index.size)):
                j = index[i]
                for k in range(width):
                    target[i, k] = source[j, k]

    return rows_take


@cache
def spread(parallel):
    """target[i] = source[place[i]], 0 where that is -1; where it is -2 target stays."""

    @kernel(parallel)
    def rows_spread(
        source,  # (kept, width) uint8
        place,  # (rows,) int64
        target,  # (rows, width) uint8, written
    ):
        if parallel > SOURCE:
            return
        width = target.shape[1]
        for task in prange((place.size + STEP - 1) // STEP):
            first = np.int64(task) * STEP
            for i in range(first, min(first + STEP, place.size)):
                j = place[i]
                if j >= 0:
                    for k in range(width):
                        target[i, k] = source[j, k]
                elif j == -1:
                    for k in range(width):
                        target[i, k] = 0

    return rows_spread
