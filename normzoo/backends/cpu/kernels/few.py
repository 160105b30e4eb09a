"""Kernels of sets of few values: lanes run over sets, and all is computed in float64.

The work that rows and columns do once per set would take longer than the set itself; and dx of two values is a
difference of almost equal terms, so float32 would lose most digits. Sixteen sets form a block. Its values are `apart`
if those of a set are adjacent; otherwise those of a row of columns are.
"""

from functools import cache

import numpy as np

from normzoo.backends.around import ALONE
from normzoo.backends.cpu.compiling.jit import helper
from normzoo.backends.cpu.kernels.few_around import (
    ending,
    filling,
    finishing,
    joining,
    learns,
    level_of,
    own_bias_of,
    reads_other,
    weight_of,
)
from normzoo.backends.cpu.kernels.few_tables import (
    block_at,
    blocks_of,
    first_in,
    fold,
    gather,
    give,
    layout_of,
    plane_at,
    put_stats,
    read_stats,
    spread,
    take,
    tasks_back,
    tasks_to_y,
)
from normzoo.backends.cpu.kernels.making import apply_kernel, backward_kernel, forward_kernel
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
from normzoo.backends.cpu.vector.access import load, load_n, store, zeros
from normzoo.backends.cpu.vector.arithmetic import (
    fma,
    keep,
    magnitude,
    narrow,
    sign,
    splat,
    wide,
)
from normzoo.backends.cpu.vector.comparing import below
from normzoo.backends.cpu.vector.lanes import LANES
from normzoo.backends.cpu.vector.workspaces import clear, workspace


@helper
def fill_tables(given, layout, tables, level_of, learned):
    """Write the parameters in planes, those of the biases after those of the weights; then those of an activation."""
    spread(layout, given.weight, tables, 0)
    spread(layout, given.bias, tables, layout.planes * layout.room)
    if learned:
        spread(layout, level_of(given), tables, 2 * layout.planes * layout.room)


@cache
def forward(center, power, apart, over, _streams, around=ALONE):
    """Statistics and y; with `over`, lanes run over samples of few columns, not over these."""
    take_x, y_of, has_other = joining(around), finishing(around), reads_other(around)
    level, learned = level_of(around), learns(around)
    tables_count = 3 if learned else 2

    @helper
    def some_blocks(t, given, moments, tables, tasks):
        _, m, c, n = given.dims
        layout = layout_of(given, over)
        columns = c if over else 1
        here, end = blocks_of(layout.dims, t, tasks)
        bias_at = layout.planes * layout.room
        values, kept = workspace(m * columns * n * LANES, given.stats), workspace(LANES, given.stats)
        other = workspace(values.size, given.stats) if has_other else kept
        zero = splat(0.0)
        for number in range(here, end):
            block = block_at(layout.dims, number)
            first = first_in(layout.period, block.first)
            take_x(layout.dims, given, block, apart, values, other)
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
                found = spread_sum / splat(moments.divisor)
                rstd = rstd_of(found, splat(moments.eps), splat(1.0), power, moments.clamp)
                put_stats(given, MEAN, block, column, mean, over, kept)
                put_stats(given, SPREAD, block, column, found, over, kept)
                put_stats(given, RSTD, block, column, rstd, over, kept)
                # 2 normalize
                for i in range(m):
                    for j in range(n):
                        h = ((i * columns + column) * n + j) * LANES
                        p = plane_at(given.parameter_dims, i, column, j, over) * layout.room + first
                        z = fma((load(values, h) - mean) * rstd, load(tables, p), load(tables, bias_at + p))
                        store(values, h, y_of(given, z, (other, tables), (h, 2 * bias_at + p)))
            give(layout.dims, given.y, block, apart, values)

    @helper
    def all_blocks(pool, given, moments):
        layout, tasks = layout_of(given, over), tasks_to_y(given.dims)
        tables = workspace(tables_count * layout.planes * layout.room, given.stats)
        fill_tables(given, layout, tables, level, learned)
        share(pool, tasks, some_blocks, (given, moments, tables, tasks))

    return forward_kernel("few_forward", all_blocks, around)


@cache
def apply(spans, _streams, around=ALONE):
    """y from given statistics, in the arithmetic of rows and columns: whichever works on a view, the bits are one."""
    take_x, y_of, has_other = joining(around), finishing(around), reads_other(around)
    level, learned = level_of(around), learns(around)
    tables_count = 3 if learned else 2

    @helper
    def some_blocks(t, given, tables, tasks):
        dims, parameter_dims, x, _, _, y, stats, _ = given
        b, m, c, n = dims
        layout = layout_of(given, False)
        here, end = blocks_of(dims, t, tasks)
        bias_at = layout.planes * layout.room
        values = workspace(m * n * LANES, x)
        other = workspace(values.size, x) if has_other else values
        for number in range(here, end):
            block = block_at(dims, number)
            s, count, _ = block
            mean, rstd = load_n(stats, s, count), load_n(stats, 2 * b * c + s, count)
            first = first_in(layout.period, s)
            if spans:
                affine = affine_of(mean, rstd, x)
            else:
                affine = affine_by(mean, rstd, load(tables, first), load(tables, bias_at + first), x)
            take_x(dims, given, block, True, values, other)
            for i in range(m):
                for j in range(n):
                    h, p = (i * n + j) * LANES, plane_at(parameter_dims, i, 0, j, False) * layout.room + first
                    v = standardize(load(values, h), *affine)
                    if spans:
                        v = fma(v, narrow(load(tables, p), x), narrow(load(tables, bias_at + p), x))
                    store(values, h, y_of(given, v, (other, tables), (h, 2 * bias_at + p)))
            give(dims, y, block, True, values)

    @helper
    def all_blocks(pool, given):
        layout, tasks = layout_of(given, False), tasks_to_y(given.dims)
        tables = workspace(tables_count * layout.planes * layout.room, given.stats)
        fill_tables(given, layout, tables, level, learned)
        share(pool, tasks, some_blocks, (given, tables, tasks))

    return apply_kernel("few_apply", all_blocks, around)


@cache
def backward(center, power, each, apart, over, _streams, around=ALONE):
    """dx and the parameters' gradients; with `each`, every value of a set is known to have its own parameters;
    `over` as going forward."""
    constant = power == 0 and not center
    fill, end, turns, is_around = filling(around, over), ending(around), around.is_behind, around != ALONE
    bias_of = own_bias_of if turns else weight_of
    level, learned = level_of(around), learns(around)

    @helper
    def some_blocks(t, given, limits, table, part, tasks):
        dims, parameter_dims, dy, x, _, stats, _, _ = given
        _, m, c, n = dims
        _, pm, _, pn = parameter_dims
        divisor, limit = limits
        layout = layout_of(given, over)
        view, _, planes, period, room = layout
        columns = c if over else 1
        here, stop = blocks_of(view, t, tasks)
        size, k = planes * room, m * columns * n * LANES
        found, values, kept = workspace(2 * size, stats), workspace(2 * k, stats), workspace(LANES, stats)
        others = workspace(k, stats) if is_around else kept
        clear(found, 0, 2 * size)
        zero = splat(0.0)
        for number in range(here, stop):
            block = block_at(view, number)
            count, first = block.count, first_in(period, block.first)
            fill(layout, given, block, apart, (values, others, kept), (table, first))
            take(view, dy, block, apart, values, 0)
            take(view, x, block, apart, values, k)
            for column in range(columns):
                mean = read_stats(given, MEAN, block, column, over, kept)
                rstd = read_stats(given, RSTD, block, column, over, kept)
                affine = affine_of(mean, rstd, x)
                # 1 moments
                g_sum, gx_sum, signs, dweight, dbias = zero, zero, zero, zero, zero
                for i in range(m):
                    for j in range(n):
                        h = ((i * columns + column) * n + j) * LANES
                        d, xhat = load(values, h), (load(values, k + h) - mean) * rstd
                        p = plane_at(parameter_dims, i, column, j, over) * room + first
                        if constant:  # as in rows and columns: all kernels give the same bits
                            w32 = narrow(load(table, p), x) * affine[0]
                            store(values, h, wide(fma(narrow(d, x), w32, zeros(x)) * affine[3]))
                        else:
                            store(values, k + h, xhat)
                        if power == 1:
                            signs += sign(xhat)
                        dweight, dbias = (d * xhat, d) if each else (fma(d, xhat, dweight), dbias + d)
                        # the last value that has this parameter
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
            end(view, given, block, apart, values, others)
        own = 2 * t * planes * period
        gather(layout, found, 0, part, own)
        gather(layout, found, size, part, own + planes * period)

    @helper
    def all_blocks(pool, given, dweight, dbias, limits):
        layout = layout_of(given, over)
        size, own = layout.planes * layout.room, layout.planes * layout.period
        table = workspace((3 if learned else 2) * size if turns else size, given.stats)
        spread(layout, given.weight, table, 0)
        if turns:
            spread(layout, bias_of(given), table, size)
        if learned:
            spread(layout, level(given), table, 2 * size)
        tasks = tasks_back(given.dims, size)
        part = workspace(tasks * 2 * own, given.stats)
        share(pool, tasks, some_blocks, (given, limits, table, part, tasks))
        fold(layout, part, 0, tasks, 2 * own, dweight)
        fold(layout, part, own, tasks, 2 * own, dbias)

    return backward_kernel("few_backward", all_blocks, around)
