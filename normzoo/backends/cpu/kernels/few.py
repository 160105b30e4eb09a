"""Kernels of sets of few values: the lanes run over sets, and all is computed in float64.

What rows and columns do once for a set would take longer than the set itself; and dx of two values is a difference of
almost equal terms, of which float32 would leave little. Sixteen sets are a block, whose values lie `apart`: those of a
set beside each other, or those of a row of columns.
"""

from functools import cache

import numpy as np

from normzoo.backends.cpu.compiling.jit import helper, kernel
from normzoo.backends.cpu.kernels.few_tables import (
    block_at,
    blocks_of,
    first_in,
    fold,
    gather,
    give,
    parameters_of,
    period_of,
    plane_at,
    planes_of,
    put_stats,
    read_stats,
    room_of,
    samples_of,
    spread,
    take,
    tasks_of,
)
from normzoo.backends.cpu.kernels.moments import (
    MEAN,
    RSTD,
    SPREAD,
    affine_by,
    affine_of,
    rstd_of,
    standardize,
)
from normzoo.backends.cpu.parallel.sharing import share
from normzoo.backends.cpu.schedule import FEW_TASK
from normzoo.backends.cpu.vector.access import load, load_n, store, zeros
from normzoo.backends.cpu.vector.arithmetic import (
    fma,
    keep,
    larger,
    magnitude,
    narrow,
    sign,
    splat,
    wide,
)
from normzoo.backends.cpu.vector.comparing import below
from normzoo.backends.cpu.vector.lanes import LANES
from normzoo.backends.cpu.vector.workspaces import clear, workspace


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
