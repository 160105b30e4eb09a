"""Gathering and scattering of rows by one kernel, on all threads: rows that masks leave out are never read.

With `streams`, rows are whole lines of sixteen float32 (whatever they contain), and are written past the caches, for
results that no cache could hold. Without it, rows are bytes.
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
    """Copy row j of source to row i of target."""
    if streams:
        for k in range(0, width, LANES):
            stream(target, i * width + k, load(source, j * width + k))
    else:
        for k in range(width):
            put(target, i * width + k, at(source, j * width + k))


@helper
def clear_row(target, i, width, streams):
    """Set row i of target to 0."""
    if streams:
        for k in range(0, width, LANES):
            stream(target, i * width + k, zeros(target))
    else:
        for k in range(width):
            put(target, i * width + k, 0)


@cache
def spread(streams):
    """Row i of target becomes row place[i] of source, or 0 if place[i] is -1; if it is -2, row i of target stays. For
    gathering, no index is negative."""

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
