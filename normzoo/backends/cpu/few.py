"""Kernels of sets of few values: the lanes run over sets, and all is computed in float64.

What rows and columns do once for a set would take longer than the set itself; and dx of two values is a difference of
almost equal terms, of which float32 would leave little. Sixteen sets are a block, whose values lie `apart`: those of a
set beside each other, or those of a row of columns.
"""

from functools import cache

import numpy as np

from normzoo.backends.cpu.access import at, load, load_apart, load_n, put, store, store_apart, zeros
from normzoo.backends.cpu.arithmetic import (
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
from normzoo.backends.cpu.jit import helper, kernel
from normzoo.backends.cpu.lanes import LANES
from normzoo.backends.cpu.moments import affine_by, affine_of, put_lanes, rstd_of, standardize
from normzoo.backends.cpu.sharing import share
from normzoo.backends.cpu.workspaces import clear, workspace

TASK = 4096  # values of a task, or more where parameters are many: each task has their gradients
TASKS = 64  # at most


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
def fold(dims, parameter_dims, found, to, dweight):
    """What `spread` spreads, of gradients: each parameter's in the planes at `to` are added up, in order."""
    pb, _, pc, pn = parameter_dims
    period, room = period_of(dims, parameter_dims), room_of(dims, parameter_dims)
    for plane in range(planes_of(parameter_dims)):
        i = to + plane * room
        if period == 1:
            put(dweight, plane, total(load(found, i)))
            continue
        for h in range(LANES):
            behind = i + room - 1 - h
            put(found, behind - period, at(found, behind - period) + at(found, behind))
        for place in range(pb):
            first = first_of(parameter_dims, plane, place)
            d = 0.0
            for h in range(period // pb):
                d += at(found, i)
                i += 1
                if pc > 1 or h + 1 == period // pb:
                    put(dweight, first + (h * pn if pc > 1 else 0), d)
                    d = 0.0


@helper
def tasks_of(values, size):
    """Tasks of a backward pass, each with planes of `size` for its parameters' gradients; by the shape alone."""
    return 1 if values <= TASK else smaller(TASKS, larger(1, values // larger(TASK, 16 * size)))


@helper
def plane_at(parameter_dims, i, j):
    """The plane of value j of run i."""
    return (i if parameter_dims[1] > 1 else 0) * parameter_dims[3] + (j if parameter_dims[3] > 1 else 0)


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
def read_lanes(a, i, step, count, apart):
    """A value of `count` sets, in float64."""
    if apart:
        return wide(load_apart(a, i, step, count))
    return wide(load(a, i) if count >= LANES else load_n(a, i, count))


@helper
def write_lanes(a, i, step, v, count, apart):
    """A value of `count` sets, in the type that is computed in."""
    if apart:
        store_apart(a, i, step, count, v)
    else:
        put_lanes(a, i, v, count)


@cache
def forward(center, power, apart, _streams):
    """Statistics and y."""

    @helper
    def some_blocks(t, dims, parameter_dims, x, y, stats, divisor, eps, clamp, tables, tasks):
        b, m, c, n = dims
        sets, step = b * c, step_of(dims)
        here, end = blocks_of(dims, t, tasks)
        room, period = room_of(dims, parameter_dims), period_of(dims, parameter_dims)
        bias_at = planes_of(parameter_dims) * room
        values = workspace(m * n * LANES, stats)
        zero = splat(0.0)
        for block in range(here, end):
            s, count, start = block_at(dims, block)
            # 1 moments
            mean, spread_sum = zero, zero
            for i in range(m):
                for j in range(n):
                    v = read_lanes(x, start + i * c * n + j, step, count, apart)
                    store(values, (i * n + j) * LANES, v)
                    mean += v
            mean = mean / splat(float(m * n)) if center else zero
            for i in range(m * n if power != 0 else 0):
                d = load(values, i * LANES) - mean
                spread_sum = fma(d, d, spread_sum) if power == 2 else spread_sum + magnitude(d)
            found = spread_sum / splat(divisor)
            rstd = rstd_of(found, splat(eps), splat(1.0), power, clamp)
            put_lanes(stats, s, mean, count)
            put_lanes(stats, sets + s, found, count)
            put_lanes(stats, 2 * sets + s, rstd, count)
            # 2 normalize
            first = first_in(period, s)
            for i in range(m):
                for j in range(n):
                    p = plane_at(parameter_dims, i, j) * room + first
                    xhat = (load(values, (i * n + j) * LANES) - mean) * rstd
                    v = fma(xhat, load(tables, p), load(tables, bias_at + p))
                    write_lanes(y, start + i * c * n + j, step, narrow(v, y), count, apart)

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
        size = planes_of(parameter_dims) * room_of(dims, parameter_dims)
        tables = workspace(2 * size, stats)
        spread(dims, parameter_dims, weight, tables, 0)
        spread(dims, parameter_dims, bias, tables, size)
        tasks = larger(1, b * m * c * n // TASK)
        given = dims, parameter_dims, x, y, stats, divisor, eps, clamp, tables, tasks
        share(pool, tasks, some_blocks, given)

    return few_forward


@cache
def apply(spans, apart, _streams):
    """y from given statistics, in the arithmetic of rows and columns: whichever works on a view, the bits are one."""

    @helper
    def some_blocks(t, dims, parameter_dims, x, y, stats, tables, tasks):
        b, m, c, n = dims
        sets, step = b * c, step_of(dims)
        here, end = blocks_of(dims, t, tasks)
        room, period = room_of(dims, parameter_dims), period_of(dims, parameter_dims)
        bias_at = planes_of(parameter_dims) * room
        for block in range(here, end):
            s, count, start = block_at(dims, block)
            mean, rstd = load_n(stats, s, count), load_n(stats, 2 * sets + s, count)
            first = first_in(period, s)
            affine = affine_of(mean, rstd, x)
            if not spans:
                affine = affine_by(mean, rstd, load(tables, first), load(tables, bias_at + first), x)
            for i in range(m):
                for j in range(n):
                    at_value = start + i * c * n + j
                    p = plane_at(parameter_dims, i, j) * room + first
                    v = standardize(narrow(read_lanes(x, at_value, step, count, apart), x), *affine)
                    if spans:
                        v = fma(v, narrow(load(tables, p), x), narrow(load(tables, bias_at + p), x))
                    write_lanes(y, at_value, step, v, count, apart)

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
        tasks = larger(1, b * m * c * n // TASK)
        share(pool, tasks, some_blocks, (dims, parameter_dims, x, y, stats, tables, tasks))

    return few_apply


@cache
def backward(center, power, apart, _streams):
    """dx and the parameters' gradients."""

    constant = power == 0 and not center

    @helper
    def some_blocks(t, dims, parameter_dims, dy, x, stats, dx, divisor, limit, table, found, tasks):
        b, m, c, n = dims
        _, pm, _, pn = parameter_dims
        sets, step = b * c, step_of(dims)
        here, end = blocks_of(dims, t, tasks)
        room, period = room_of(dims, parameter_dims), period_of(dims, parameter_dims)
        size = planes_of(parameter_dims) * room
        own = t * 2 * size
        clear(found, own, 2 * size)
        k = m * n * LANES
        values = workspace(2 * k, stats)
        zero = splat(0.0)
        for block in range(here, end):
            s, count, start = block_at(dims, block)
            mean, rstd = load_n(stats, s, count), load_n(stats, 2 * sets + s, count)
            first = first_in(period, s)
            affine = affine_of(mean, rstd, x)
            # 1 moments
            g_sum, gx_sum, signs, dweight, dbias = zero, zero, zero, zero, zero
            for i in range(m):
                for j in range(n):
                    at_value = start + i * c * n + j
                    d = read_lanes(dy, at_value, step, count, apart)
                    xhat = (read_lanes(x, at_value, step, count, apart) - mean) * rstd
                    p = plane_at(parameter_dims, i, j) * room + first
                    if constant:  # as rows and columns have it: the bits must not depend on how many items there are
                        w32 = narrow(load(table, p), x) * affine[0]
                        write_lanes(dx, at_value, step, fma(narrow(d, x), w32, zeros(x)) * affine[3], count, apart)
                    else:
                        store(values, (i * n + j) * LANES, d)
                        store(values, k + (i * n + j) * LANES, xhat)
                    if power == 1:
                        signs += sign(xhat)
                    dweight = fma(d, xhat, dweight)
                    dbias += d
                    if pn > 1 or (j + 1 == n and (pm > 1 or i + 1 == m)):  # the last value of its parameter
                        q, w = own + p, load(table, p)
                        g_sum, gx_sum = fma(dbias, w, g_sum), fma(dweight, w, gx_sum)
                        if count < LANES:
                            dweight, dbias = keep(dweight, count), keep(dbias, count)
                        store(found, q, load(found, q) + dweight)
                        store(found, q + size, load(found, q + size) + dbias)
                        dweight, dbias = zero, zero
            if constant:
                continue
            # 2 normalize
            g_mean = g_sum / splat(float(m * n)) if center else zero
            sign_mean = signs / splat(float(m * n)) if center else zero
            gx_mean = gx_sum / splat(divisor)
            if limit < np.inf:
                gx_mean = below(rstd, splat(limit), gx_mean)
            for i in range(m):
                for j in range(n):
                    h = (i * n + j) * LANES
                    v = load(values, h) * load(table, plane_at(parameter_dims, i, j) * room + first) - g_mean
                    if power != 0:
                        xhat = load(values, k + h)
                        v -= (sign(xhat) - sign_mean if power == 1 else xhat) * gx_mean
                    write_lanes(dx, start + i * c * n + j, step, narrow(v * rstd, dx), count, apart)

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
        room = room_of(dims, parameter_dims)
        planes = planes_of(parameter_dims)
        size = planes * room
        table = workspace(size, stats)
        spread(dims, parameter_dims, weight, table, 0)
        tasks = tasks_of(b * m * c * n, size)
        found = workspace(tasks * 2 * size, stats)
        share(pool, tasks, some_blocks, (dims, parameter_dims, dy, x, stats, dx, divisor, limit, table, found, tasks))
        for t in range(1, tasks):
            for i in range(2 * size):
                put(found, i, at(found, i) + at(found, t * 2 * size + i))
        fold(dims, parameter_dims, found, 0, dweight)
        fold(dims, parameter_dims, found, size, dbias)

    return few_backward
