"""Rows of an array picked out and put back, on all threads: what masks leave out is never read.

With `streams` rows are whole lines of sixteen float32 (whatever they hold), and written past the caches: for what no
cache would hold. Without, they are bytes.
"""

from functools import cache

from normzoo.backends.cpu.access import load, stream, zeros
from normzoo.backends.cpu.arithmetic import smaller
from normzoo.backends.cpu.jit import helper, kernel
from normzoo.backends.cpu.lanes import LANES
from normzoo.backends.cpu.sharing import share

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
def take(streams):
    """target[i] = source[index[i]]."""

    @helper
    def take_some(t, source, index, target):
        for i in range(t * STEP, smaller((t + 1) * STEP, index.size)):
            copy_row(source, index[i], target, i, streams)

    @kernel
    def rows_take(
        pool,  # see sharing.py
        source,  # (rows, width)
        index,  # (kept,) int64
        target,  # (kept, width), written
    ):
        share(pool, (index.size + STEP - 1) // STEP, take_some, (source, index, target))

    return rows_take


@cache
def spread(streams):
    """target[i] = source[place[i]], 0 where that is -1; where it is -2 target stays."""

    @helper
    def spread_some(t, source, place, target):
        for i in range(t * STEP, smaller((t + 1) * STEP, place.size)):
            if place[i] >= 0:
                copy_row(source, place[i], target, i, streams)
            elif place[i] == -1:
                clear_row(target, i, streams)

    @kernel
    def rows_spread(
        pool,  # see sharing.py
        source,  # (kept, width)
        place,  # (rows,) int64
        target,  # (rows, width), written
    ):
        share(pool, (place.size + STEP - 1) // STEP, spread_some, (source, place, target))

    return rows_spread
