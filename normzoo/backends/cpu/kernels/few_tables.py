"""Sets of few values as lanes see them: blocks of sixteen sets, and their parameters in planes."""

import numpy as np

from normzoo.backends.cpu.compiling.jit import helper
from normzoo.backends.cpu.kernels.moments import put_lanes
from normzoo.backends.cpu.schedule import FEW_TASK, FEW_TASKS, LINE
from normzoo.backends.cpu.vector.access import at, itemsize, load, load_n, prefetch, put, store
from normzoo.backends.cpu.vector.across import read_across, write_across
from normzoo.backends.cpu.vector.arithmetic import larger, narrow, smaller, splat, total
from normzoo.backends.cpu.vector.lanes import LANES


@helper
def step_of(dims):
    """How far a set is from the one before."""
    _, m, c, n = dims
    return n if c > 1 else m * n


@helper
def series_of(dims):
    """How often sets follow each other at one step, and how many do."""
    b, m, c, _ = dims
    return (b, c) if c > 1 and m > 1 else (1, b * c)


@helper
def period_of(dims, parameter_dims):
    """After how many sets the parameters repeat."""
    pb, _, pc, _ = parameter_dims
    return pb * dims[2] if pb > 1 or pc > 1 else 1


@helper
def room_of(dims, parameter_dims):
    """Values of a plane of `spread`: a period, and what a block that begins in it may need beyond."""
    period = period_of(dims, parameter_dims)
    return period + LANES if period > 1 else LANES


@helper
def planes_of(parameter_dims):
    """Parameters of a set."""
    return parameter_dims[1] * parameter_dims[3]


@helper
def first_of(parameter_dims, plane, place):
    """Where the parameter lies that `plane` holds of the first set of those that have the parameters `place`."""
    _, pm, pc, pn = parameter_dims
    return ((place * pm + plane // pn) * pc) * pn + plane % pn


@helper
def spread(dims, parameter_dims, weight, table, to):
    """The parameters in planes, one for each value of a set that has its own, by the order of the sets."""
    pb, _, pc, pn = parameter_dims
    period, room = period_of(dims, parameter_dims), room_of(dims, parameter_dims)
    for plane in range(planes_of(parameter_dims)):
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
def gather(dims, parameter_dims, sums, i, part, to):
    """What `spread` spreads, of gradients: a task's at sums[i:] to part[to:], a period of each plane."""
    period, room = period_of(dims, parameter_dims), room_of(dims, parameter_dims)
    for plane in range(planes_of(parameter_dims)):
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
def fold(dims, parameter_dims, part, i, tasks, skip, dweight):
    """Each parameter's gradient: what all tasks have at part[i:], `skip` values apart, added up in order."""
    pb, _, pc, pn = parameter_dims
    period = period_of(dims, parameter_dims)
    repeats = period // pb
    for plane in range(planes_of(parameter_dims)):
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
def tasks_of(values, size):
    """Tasks of a backward pass, each with planes of `size` for its parameters' gradients; by the shape alone."""
    return 1 if values <= FEW_TASK else smaller(FEW_TASKS, larger(1, values // larger(FEW_TASK, 16 * size)))


@helper
def samples_of(dims, over):
    """The view whose sets lanes run over: with `over` its sets are whole samples, each of c sets of the norm."""
    b, m, c, n = dims
    return (b, 1, 1, m * c * n) if over else dims


@helper
def parameters_of(parameter_dims, over):
    """Likewise; samples have the same."""
    _, pm, pc, pn = parameter_dims
    return (1, 1, 1, pm * pc * pn) if over else parameter_dims


@helper
def plane_at(parameter_dims, i, column, j, over):
    """The plane of value j of run i, in this column of a sample."""
    _, pm, pc, pn = parameter_dims
    plane = i if pm > 1 else 0
    if over:
        plane = plane * pc + (column if pc > 1 else 0)
    return plane * pn + (j if pn > 1 else 0)


@helper
def put_stats(stats, plane, dims, s, column, v, count, over, kept):
    """One of the statistics of the sets in lanes."""
    b, _, c, _ = dims
    if over:
        store(kept, 0, v)
        write_across(stats, (plane * b + s) * c + column, c, 1, count, kept, 0)
    else:
        put_lanes(stats, plane * b * c + s, v, count)


@helper
def read_stats(stats, plane, dims, s, column, count, over, kept):
    b, _, c, _ = dims
    if not over:
        return load_n(stats, plane * b * c + s, count)
    read_across(stats, (plane * b + s) * c + column, c, 1, count, kept, 0)
    return load(kept, 0)


@helper
def block_at(dims, t):
    """First set, sets, and first value of block t."""
    _, m, c, n = dims
    series, length = series_of(dims)
    blocks = (length + LANES - 1) // LANES
    row, first = (t // blocks, t % blocks * LANES) if series > 1 else (0, t * LANES)
    return row * length + first, smaller(LANES, length - first), row * m * c * n + first * step_of(dims)


@helper
def blocks_of(dims, t, tasks):
    """First and last block of a task. Here and where `first_in` is asked, a division takes as long as a small set."""
    series, length = series_of(dims)
    blocks = series * ((length + LANES - 1) // LANES)
    return (0, blocks) if tasks == 1 else (t * blocks // tasks, (t + 1) * blocks // tasks)


@helper
def first_in(period, s):
    """Where in its planes a block that begins with set s has its parameters."""
    return s % period if period > 1 else 0


@helper
def take(dims, a, start, count, apart, room, to):
    """The values of `count` sets, of which the first is at `start`, to room[to:], LANES of each."""
    _, m, c, n = dims
    runs, length = (m, n) if c > 1 else (1, m * n)
    for run in range(runs):
        i, q = start + run * c * n, to + run * length * LANES
        if apart and runs == 1:  # the next block's, which lie in a row: this one has read sixteen rows at a time
            for h in range(i + length * LANES, i + 2 * length * LANES, LINE // itemsize(a)):
                prefetch(a, h)
        if apart:
            read_across(a, i, step_of(dims), length, count, room, q)
        else:
            store(room, q, narrow(load(a, i) if count >= LANES else load_n(a, i, count), room))


@helper
def give(dims, a, start, count, apart, room):
    """Back what `take` takes."""
    _, m, c, n = dims
    runs, length = (m, n) if c > 1 else (1, m * n)
    for run in range(runs):
        i, q = start + run * c * n, run * length * LANES
        if apart:
            write_across(a, i, step_of(dims), length, count, room, q)
        else:
            put_lanes(a, i, narrow(load(room, q), a), count)
