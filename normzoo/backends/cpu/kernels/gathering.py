"""Rows of an array picked out and put back, on all threads: what masks leave out is never read. Both are one kernel.

With `streams` rows are whole lines of sixteen float32 (whatever they hold), and written past the caches: for what no
cache would hold. Without, they are bytes.
"""

from functools import cache

from normzoo.backends.cpu.compiling.jit import helper, kernel
from normzoo.backends.cpu.parallel.sharing import share
from normzoo.backends.cpu.schedule import GATHERED_ROWS
from normzoo.backends.cpu.vector.access import at, load, put, stream, zeros
from normzoo.backends.cpu.vector.arithmetic import smaller
from normzoo.backends.cpu.vector.lanes import LANES


@helper
def copy_row(source, j, target, i, width, streams):
    """Row i of target = row j of source."""
    if streams:
        for k in range(0, width, LANES):
            stream(target, i * width + k, load(source, j * width + k))
    else:
        for k in range(width):
            put(target, i * width + k, at(source, j * width + k))


@helper
def clear_row(target, i, width, streams):
    """Row i of target = 0."""
    if streams:
        for k in range(0, width, LANES):
            stream(target, i * width + k, zeros(target))
    else:
        for k in range(width):
            put(target, i * width + k, 0)


@cache
def spread(streams):
    """Row i of target = row place[i] of source, 0 where that is -1; where it is -2 the row stays. To pick rows
    out, no place is either."""

    @helper
    def spread_some(t, source, place, target, rows, width):
        for i in range(t * GATHERED_ROWS, smaller((t + 1) * GATHERED_ROWS, rows)):
            j = at(place, i)
            if j >= 0:
                copy_row(source, j, target, i, width, streams)
            elif j == -1:
                clear_row(target, i, width, streams)

    @kernel
    def rows_spread(
        pool,  # see sharing.py
        source,  # (any, width)
        place,  # (rows,) int64
        target,  # (rows, width), written
        rows,
        width,
    ):
        share(pool, (rows + GATHERED_ROWS - 1) // GATHERED_ROWS, spread_some, (source, place, target, rows, width))

    return rows_spread
