"""Sets of few values as lanes process them: blocks of sixteen sets, and their parameters in planes."""

from typing import Any, NamedTuple

import numpy as np

from normzoo.backends.cpu.compiling.jit import helper
from normzoo.backends.cpu.kernels.moments import put_lanes
from normzoo.backends.cpu.schedule import FEW_TASK, FEW_TASKS, LINE
from normzoo.backends.cpu.vector.access import at, itemsize, load, load_n, prefetch, put, store
from normzoo.backends.cpu.vector.across import read_across, write_across
from normzoo.backends.cpu.vector.arithmetic import larger, narrow, smaller, splat, total
from normzoo.backends.cpu.vector.lanes import LANES


class Layout(NamedTuple):
    """How lanes process sets, and their parameters in planes; see `layout_of`."""

    dims: Any
    parameter_dims: Any
    planes: Any  # number of parameters of a set
    period: Any  # number of sets after which the parameters repeat
    room: Any  # values of a plane: one period, and those beyond it that a block may read


class Block(NamedTuple):
    """The sets that are processed at once: `count` sets from set `first` on, whose values begin at index `start`."""

    first: Any
    count: Any
    start: Any


@helper
def step_of(dims):
    """Distance from a set to the next."""
    _, m, c, n = dims
    return n if c > 1 else m * n


@helper
def series_of(dims):
    """Number of series of sets with a constant distance, and number of sets per series."""
    b, m, c, _ = dims
    return (b, c) if c > 1 and m > 1 else (1, b * c)


@helper
def layout_of(given, over):
    """The layout; with `over`, lanes run over whole samples, each with c sets of the norm."""
    b, m, c, n = given.dims
    _, pm, pc, pn = given.parameter_dims
    dims = (b, 1, 1, m * c * n) if over else given.dims
    parameter_dims = (1, 1, 1, pm * pc * pn) if over else given.parameter_dims
    pb, pm, pc, pn = parameter_dims
    period = pb * dims[2] if pb > 1 or pc > 1 else 1
    return Layout(dims, parameter_dims, pm * pn, period, period + LANES if period > 1 else LANES)


@helper
def first_of(parameter_dims, plane, place):
    """Index of the parameter in `plane` for the first of the sets that have the parameters `place`."""
    _, pm, pc, pn = parameter_dims
    return ((place * pm + plane // pn) * pc) * pn + plane % pn


@helper
def spread(layout, weight, table, to):
    """Write the parameters to planes, one plane for each value of a set that has its own, in the order of the sets."""
    _, parameter_dims, planes, period, room = layout
    pb, _, pc, pn = parameter_dims
    for plane in range(planes):
        i = to + plane * room
        if period == 1:
            store(table, i, splat(np.float64(at(weight, plane))))
            continue
        for place in range(pb):
            first = first_of(parameter_dims, plane, place)
            for h in range(period // pb):
                put(table, i, np.float64(at(weight, first + (h * pn if pc > 1 else 0))))
                i += 1
        for _ in range(LANES):
            put(table, i, at(table, i - period))
            i += 1


@helper
def gather(layout, sums, i, part, to):
    """The inverse of `spread`, for gradients: from sums[i:] of a task to part[to:], one period per plane."""
    _, _, planes, period, room = layout
    for plane in range(planes):
        if period == 1:
            put(part, to + plane, total(load(sums, i + plane * room)))
            continue
        for h in range(LANES):
            behind = i + room - 1 - h
            put(sums, behind - period, at(sums, behind - period) + at(sums, behind))
        for h in range(period):
            put(part, to + plane * period + h, at(sums, i + h))
        i += room


@helper
def fold(layout, part, i, tasks, skip, dweight):
    """Compute each parameter's gradient: the sum of those of all tasks at part[i:], `skip` values apart, in order."""
    _, parameter_dims, planes, period, _ = layout
    pb, _, pc, pn = parameter_dims
    repeats = period // pb
    for plane in range(planes):
        for place in range(pb):
            first = first_of(parameter_dims, plane, place)
            d = 0.0
            for h in range(repeats):
                for t in range(tasks):
                    d += at(part, i + t * skip)
                i += 1
                if pc > 1 or h + 1 == repeats:
                    put(dweight, first + (h * pn if pc > 1 else 0), d)
                    d = 0.0


@helper
def tasks_to_y(dims):
    """Number of tasks that share the blocks."""
    b, m, c, n = dims
    return larger(1, b * m * c * n // FEW_TASK)


@helper
def tasks_back(dims, size):
    """Number of tasks in backward passes; each has planes of `size` for gradients. It depends only on the shape."""
    b, m, c, n = dims
    values = b * m * c * n
    return 1 if values <= FEW_TASK else smaller(FEW_TASKS, larger(1, values // larger(FEW_TASK, 16 * size)))


@helper
def plane_at(parameter_dims, i, column, j, over):
    """The plane of value j of run i, in this column of a sample."""
    _, pm, pc, pn = parameter_dims
    plane = i if pm > 1 else 0
    if over:
        plane = plane * pc + (column if pc > 1 else 0)
    return plane * pn + (j if pn > 1 else 0)


@helper
def put_stats(given, plane, block, column, v, over, kept):
    """Write one of the statistics of the sets in lanes; with `over`, they are the sets of this column."""
    b, _, c, _ = given.dims
    if over:
        store(kept, 0, v)
        write_across(given.stats, (plane * b + block.first) * c + column, c, 1, block.count, kept, 0)
    else:
        put_lanes(given.stats, plane * b * c + block.first, v, block.count)


@helper
def read_stats(given, plane, block, column, over, kept):
    b, _, c, _ = given.dims
    if not over:
        return load_n(given.stats, plane * b * c + block.first, block.count)
    read_across(given.stats, (plane * b + block.first) * c + column, c, 1, block.count, kept, 0)
    return load(kept, 0)


@helper
def block_at(dims, t):
    """Block t."""
    _, m, c, n = dims
    series, length = series_of(dims)
    blocks = (length + LANES - 1) // LANES
    row, first = (t // blocks, t % blocks * LANES) if series > 1 else (0, t * LANES)
    return Block(row * length + first, smaller(LANES, length - first), row * m * c * n + first * step_of(dims))


@helper
def blocks_of(dims, t, tasks):
    """First and last block of a task. Here and in `first_in` the special case avoids a division, which takes as long as
    a small set."""
    series, length = series_of(dims)
    blocks = series * ((length + LANES - 1) // LANES)
    return (0, blocks) if tasks == 1 else (t * blocks // tasks, (t + 1) * blocks // tasks)


@helper
def first_in(period, s):
    """Index in the planes of the parameters for a block that begins with set s."""
    return s % period if period > 1 else 0


@helper
def take(dims, a, block, apart, room, to):
    """Copy the values of a block to room[to:], LANES for each value of a set."""
    _, m, c, n = dims
    runs, length = (m, n) if c > 1 else (1, m * n)
    for run in range(runs):
        i, q = block.start + run * c * n, to + run * length * LANES
        if apart and runs == 1:  # those of the next block, which are adjacent: this block reads sixteen rows at a time
            for h in range(i + length * LANES, i + 2 * length * LANES, LINE // itemsize(a)):
                prefetch(a, h)
        if apart:
            read_across(a, i, step_of(dims), length, block.count, room, q)
        else:
            store(room, q, narrow(load(a, i) if block.count >= LANES else load_n(a, i, block.count), room))


@helper
def give(dims, a, block, apart, room):
    """The inverse of `take`."""
    _, m, c, n = dims
    runs, length = (m, n) if c > 1 else (1, m * n)
    for run in range(runs):
        i, q = block.start + run * c * n, run * length * LANES
        if apart:
            write_across(a, i, step_of(dims), length, block.count, room, q)
        else:
            put_lanes(a, i, narrow(load(room, q), a), block.count)
