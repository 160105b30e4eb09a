"""Kernels of sets of few values: the lanes run over sets, and all is computed in float64.

What rows and columns do once for a set would take longer than the set itself; and dx of two values is a difference of
almost equal terms, of which float32 would leave little. Sixteen sets are a block, whose values lie `apart`: those of a
set beside each other, or those of a row of columns.
"""

from functools import cache

import numpy as np

from normzoo.backends.cpu.compiling.jit import helper, kernel
from normzoo.backends.cpu.kernels.moments import (
    MEAN,
    RSTD,
    SPREAD,
    affine_by,
    affine_of,
    put_lanes,
    rstd_of,
    standardize,
)
from normzoo.backends.cpu.parallel.sharing import share
from normzoo.backends.cpu.schedule import FEW_TASK, FEW_TASKS
from normzoo.backends.cpu.vector.access import at, itemsize, load, load_n, prefetch, put, store, zeros
from normzoo.backends.cpu.vector.across import read_across, write_across
from normzoo.backends.cpu.vector.arithmetic import (
    below,
    fma,
    keep,
    larger,
    magnitude,
    narrow,
    sign,
    smaller,
    splat,
    total,
    wide,
)
from normzoo.backends.cpu.vector.lanes import LANES
from normzoo.backends.cpu.vector.workspaces import clear, workspace


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
            for h in range(i + length * LANES, i + 2 * length * LANES, 64 // itemsize(a)):
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


@cache
def forward(center, power, apart, over, _streams):
    """Statistics and y; with `over`, lanes run over samples of few columns, not over these."""

    @helper
    def some_blocks(t, dims, parameter_dims, x, y, stats, divisor, eps, clamp, tables, tasks):
        _, m, c, n = dims
        view, parameters = samples_of(dims, over), parameters_of(parameter_dims, over)
        columns = c if over else 1
        here, end = blocks_of(view, t, tasks)
        room, period = room_of(view, parameters), period_of(view, parameters)
        bias_at = planes_of(parameters) * room
        values, kept = workspace(m * columns * n * LANES, stats), workspace(LANES, stats)
        zero = splat(0.0)
        for block in range(here, end):
            s, count, start = block_at(view, block)
            first = first_in(period, s)
            take(view, x, start, count, apart, values, 0)
            for column in range(columns):
                # 1 moments
                mean, spread_sum = zero, zero
                for i in range(m if center else 0):
                    for j in range(n):
                        mean += load(values, ((i * columns + column) * n + j) * LANES)
                mean = mean / splat(float(m * n)) if center else zero
                for i in range(m if power != 0 else 0):
                    for j in range(n):
                        d = load(values, ((i * columns + column) * n + j) * LANES) - mean
                        spread_sum = fma(d, d, spread_sum) if power == 2 else spread_sum + magnitude(d)
                found = spread_sum / splat(divisor)
                rstd = rstd_of(found, splat(eps), splat(1.0), power, clamp)
                put_stats(stats, MEAN, dims, s, column, mean, count, over, kept)
                put_stats(stats, SPREAD, dims, s, column, found, count, over, kept)
                put_stats(stats, RSTD, dims, s, column, rstd, count, over, kept)
                # 2 normalize
                for i in range(m):
                    for j in range(n):
                        h = ((i * columns + column) * n + j) * LANES
                        p = plane_at(parameter_dims, i, column, j, over) * room + first
                        xhat = (load(values, h) - mean) * rstd
                        store(values, h, fma(xhat, load(tables, p), load(tables, bias_at + p)))
            give(view, y, start, count, apart, values)

    @kernel
    def few_forward(
        pool,  # see sharing.py
        dims,  # (b, m, c, n)
        parameter_dims,  # (pb, pm, pc, pn)
        x,
        weight,
        bias,
        y,
        stats,  # (3, b, c) float64: mean, spread, rstd
        divisor,  # float: values in a set, or 1 for totals
        eps,  # float
        clamp,  # bool
    ):
        b, m, c, n = dims
        view, parameters = samples_of(dims, over), parameters_of(parameter_dims, over)
        size = planes_of(parameters) * room_of(view, parameters)
        tables = workspace(2 * size, stats)
        spread(view, parameters, weight, tables, 0)
        spread(view, parameters, bias, tables, size)
        tasks = larger(1, b * m * c * n // FEW_TASK)
        given = dims, parameter_dims, x, y, stats, divisor, eps, clamp, tables, tasks
        share(pool, tasks, some_blocks, given)

    return few_forward


@cache
def apply(spans, _streams):
    """y from given statistics, in the arithmetic of rows and columns: whichever works on a view, the bits are one."""

    @helper
    def some_blocks(t, dims, parameter_dims, x, y, stats, tables, tasks):
        b, m, c, n = dims
        sets = b * c
        here, end = blocks_of(dims, t, tasks)
        room, period = room_of(dims, parameter_dims), period_of(dims, parameter_dims)
        bias_at = planes_of(parameter_dims) * room
        values = workspace(m * n * LANES, x)
        for block in range(here, end):
            s, count, start = block_at(dims, block)
            mean, rstd = load_n(stats, s, count), load_n(stats, 2 * sets + s, count)
            first = first_in(period, s)
            if spans:
                affine = affine_of(mean, rstd, x)
            else:
                affine = affine_by(mean, rstd, load(tables, first), load(tables, bias_at + first), x)
            take(dims, x, start, count, True, values, 0)
            for i in range(m):
                for j in range(n):
                    h, p = (i * n + j) * LANES, plane_at(parameter_dims, i, 0, j, False) * room + first
                    v = standardize(load(values, h), *affine)
                    if spans:
                        v = fma(v, narrow(load(tables, p), x), narrow(load(tables, bias_at + p), x))
                    store(values, h, v)
            give(dims, y, start, count, True, values)

    @kernel
    def few_apply(
        pool,  # see sharing.py
        dims,  # (b, m, c, n)
        parameter_dims,  # (pb, pm, pc, pn)
        x,
        weight,
        bias,
        y,
        stats,  # (3, b, c) float64
    ):
        b, m, c, n = dims
        size = planes_of(parameter_dims) * room_of(dims, parameter_dims)
        tables = workspace(2 * size, stats)
        spread(dims, parameter_dims, weight, tables, 0)
        spread(dims, parameter_dims, bias, tables, size)
        tasks = larger(1, b * m * c * n // FEW_TASK)
        share(pool, tasks, some_blocks, (dims, parameter_dims, x, y, stats, tables, tasks))

    return few_apply


@cache
def backward(center, power, each, apart, over, _streams):
    """dx and the parameters' gradients; with `each`, every value of a set is known to have its own parameters;
    `over` as going forward."""

    constant = power == 0 and not center

    @helper
    def some_blocks(t, dims, parameter_dims, dy, x, stats, dx, divisor, limit, table, part, tasks):
        _, m, c, n = dims
        _, pm, _, pn = parameter_dims
        view, parameters = samples_of(dims, over), parameters_of(parameter_dims, over)
        columns = c if over else 1
        here, end = blocks_of(view, t, tasks)
        room, period, planes = room_of(view, parameters), period_of(view, parameters), planes_of(parameters)
        size, k = planes * room, m * columns * n * LANES
        found, values, kept = workspace(2 * size, stats), workspace(2 * k, stats), workspace(LANES, stats)
        clear(found, 0, 2 * size)
        zero = splat(0.0)
        for block in range(here, end):
            s, count, start = block_at(view, block)
            first = first_in(period, s)
            take(view, dy, start, count, apart, values, 0)
            take(view, x, start, count, apart, values, k)
            for column in range(columns):
                mean = read_stats(stats, MEAN, dims, s, column, count, over, kept)
                rstd = read_stats(stats, RSTD, dims, s, column, count, over, kept)
                affine = affine_of(mean, rstd, x)
                # 1 moments
                g_sum, gx_sum, signs, dweight, dbias = zero, zero, zero, zero, zero
                for i in range(m):
                    for j in range(n):
                        h = ((i * columns + column) * n + j) * LANES
                        d, xhat = load(values, h), (load(values, k + h) - mean) * rstd
                        p = plane_at(parameter_dims, i, column, j, over) * room + first
                        if constant:  # as rows and columns have it: whichever works, the bits are one
                            w32 = narrow(load(table, p), x) * affine[0]
                            store(values, h, wide(fma(narrow(d, x), w32, zeros(x)) * affine[3]))
                        else:
                            store(values, k + h, xhat)
                        if power == 1:
                            signs += sign(xhat)
                        dweight, dbias = (d * xhat, d) if each else (fma(d, xhat, dweight), dbias + d)
                        # the last value of its parameter
                        if each or pn > 1 or (j + 1 == n and (pm > 1 or i + 1 == m)):
                            w = load(table, p)
                            g_sum, gx_sum = fma(dbias, w, g_sum), fma(dweight, w, gx_sum)
                            if count < LANES:
                                dweight, dbias = keep(dweight, count), keep(dbias, count)
                            store(found, p, load(found, p) + dweight)
                            store(found, size + p, load(found, size + p) + dbias)
                            dweight, dbias = zero, zero
                # 2 normalize
                g_mean = g_sum / splat(float(m * n)) if center else zero
                sign_mean = signs / splat(float(m * n)) if center else zero
                gx_mean = gx_sum / splat(divisor)
                if limit < np.inf:
                    gx_mean = below(rstd, splat(limit), gx_mean)
                for i in range(0 if constant else m):
                    for j in range(n):
                        h = ((i * columns + column) * n + j) * LANES
                        p = plane_at(parameter_dims, i, column, j, over) * room + first
                        v = load(values, h) * load(table, p) - g_mean
                        if power != 0:
                            xhat = load(values, k + h)
                            v -= (sign(xhat) - sign_mean if power == 1 else xhat) * gx_mean
                        store(values, h, v * rstd)
            give(view, dx, start, count, apart, values)
        own = 2 * t * planes * period
        gather(view, parameters, found, 0, part, own)
        gather(view, parameters, found, size, part, own + planes * period)

    @kernel
    def few_backward(
        pool,  # see sharing.py
        dims,  # (b, m, c, n)
        parameter_dims,  # (pb, pm, pc, pn)
        dy,
        x,
        weight,
        stats,  # (3, b, c) float64
        dx,
        dweight,  # (pb, pm, pc, pn)
        dbias,  # as dweight
        divisor,  # float: values in a set, or 1 for totals
        limit,  # float: rstd of a clamped set, or inf
    ):
        b, m, c, n = dims
        view, parameters = samples_of(dims, over), parameters_of(parameter_dims, over)
        planes = planes_of(parameters)
        size = planes * room_of(view, parameters)
        table = workspace(size, stats)
        spread(view, parameters, weight, table, 0)
        tasks = tasks_of(b * m * c * n, size)
        own = planes * period_of(view, parameters)
        part = workspace(tasks * 2 * own, stats)
        share(pool, tasks, some_blocks, (dims, parameter_dims, dy, x, stats, dx, divisor, limit, table, part, tasks))
        fold(view, parameters, part, 0, tasks, 2 * own, dweight)
        fold(view, parameters, part, own, tasks, 2 * own, dbias)

    return few_backward
