"""The backward pass of `rows.py`: dx and the parameters' gradients, one set at a time.

Where some values spread over dy have one sign, sums are around the nearest to 0 of them, which leaves its digits to the
deviations: mean(dy) may be far from 0. Else they are around 0: dy may be 0 but for few values, whose digits they keep.
Where the parameters vary along n, tasks add their gradients to blocks (pm, pn); else every set keeps its sums of dy
and dy * xhat, one pair a chunk, or a run where the parameters vary along m. Both are added up in order at the end.
"""

from functools import cache

import numpy as np

from normzoo.backends.cpu.compiling.jit import helper, kernel
from normzoo.backends.cpu.kernels.moments import (
    factors_of,
    gradient,
    put_lanes,
    read,
    write_out,
)
from normzoo.backends.cpu.kernels.rows import affine_at, last_of
from normzoo.backends.cpu.kernels.rows_sums import chunk_sums, chunk_sums_n, lines_of, plane_of, slots_of
from normzoo.backends.cpu.kernels.rows_walk import (
    as_short,
    chunk_of,
    chunking,
    next_set,
    parameter_at,
    parameter_step,
    parts_of,
    set_at,
    spread,
    stats_of,
    unrolled,
    unspread,
)
from normzoo.backends.cpu.parallel.sharing import pool_for, share
from normzoo.backends.cpu.schedule import (
    FETCHED_SET_BACK,
    FETCHED_SET_WIDE,
    SETS_PER_BLOCK,
    TURN_PLANES,
    TURN_SETS,
)
from normzoo.backends.cpu.vector.access import at, is_wide, load, load_as, load_n, prefetch, put
from normzoo.backends.cpu.vector.arithmetic import lane, larger, narrow, smaller, splat, wide
from normzoo.backends.cpu.vector.lanes import LANES
from normzoo.backends.cpu.vector.workspaces import clear, workspace


@helper
def dx_of(d, v, weight, dx, i, p, w, affine, factors, power, spans_n, streams, left, full):
    """dx of up to LANES values d of dy and v of x."""
    if spans_n:
        w = read(weight, p, left, full, dx) * affine[0]
    write_out(dx, i, gradient(d, v, w, affine, factors, power), left, full, streams)


@helper
def chunk_dx(dims, parameter_dims, dy, x, weight, affine, dx, b, c, start, j, power, spans_n, means, streams, ahead):
    """dx on chunk j of the set at `start`."""
    _, m, columns, n = dims
    g_mean, gx_mean, sign_mean = means
    scale, fine, r = lane(affine[0], 0), lane(affine[2], 0), lane(affine[3], 0)
    g_high, rest, taken, middle = factors_of(g_mean, gx_mean, sign_mean, scale, fine, r, power, x)
    factors = splat(g_high), splat(rest), splat(taken), splat(middle)
    first, runs, skip, length = chunk_of(j, m, n)
    top, step = parameter_at(parameter_dims, b, c), parameter_step(parameter_dims)
    for run in range(first, first + runs):
        i = start + run * columns * n + skip
        end = i + length
        p = top + run * step
        w = splat(at(weight, p)) * affine[0]
        p += skip
        last_d, last_v = last_of(dy, i, end), last_of(x, i, end)
        while i + LANES <= end:
            if ahead > 0:
                prefetch(x, i + ahead)
                prefetch(dy, i + ahead)
            d, v = load_as(dy, i, x), load_as(x, i, x)
            dx_of(d, v, weight, dx, i, p, w, affine, factors, power, spans_n, streams, LANES, True)
            i += LANES
            p += LANES
        if i < end and length > LANES:
            p -= LANES - (end - i)
            dx_of(last_d, last_v, weight, dx, end - LANES, p, w, affine, factors, power, spans_n, False, LANES, True)
        elif i < end:
            d, v = load_n(dy, i, end - i), load_n(x, i, end - i)
            dx_of(d, v, weight, dx, i, p, w, affine, factors, power, spans_n, False, end - i, False)


@helper
def means_of(sums, rstd, k, center, divisor, limit):
    """The factors that `chunk_dx` takes, of the sums over a set of k values; the rstd of a clamped set stands at
    `limit` and is a constant."""
    g, gx, x_sum, signs = sums
    gx /= divisor
    if center:
        g, signs = g / k, signs / k
        if x_sum == x_sum:  # noqa: PLR0124 (of (g - mean(g)) * xhat: it keeps its digits where mean(g) is far from 0)
            gx -= g * (x_sum / divisor)
    else:
        g, signs = 0.0, 0.0
    return g, 0.0 if rstd >= limit else gx, signs


@helper
def add_four(a, b):
    return a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]


@helper
def sets_of_cell(dims, parameter_dims):
    """Sets that share a row (pm, pn) of parameters, and how many a task takes."""
    b, _, c, _ = dims
    pb, _, pc, _ = parameter_dims
    sets = b // pb * (c if pc == 1 else 1)
    return sets, smaller(SETS_PER_BLOCK, larger(8, sets // 16))


@helper
def turns_of(dims, parameter_dims):
    """Rows of parameters whose sets a task takes in turn, as they lie in memory: all or one."""
    cells = parameter_dims[0] * parameter_dims[2]
    is_little = cells * plane_of(parameter_dims) <= TURN_PLANES
    return cells if is_little and sets_of_cell(dims, parameter_dims)[0] >= TURN_SETS else 1


@helper
def turn_of(parameter_dims, turns, t):
    """Which part of its sets task t takes, and of which row of parameters first."""
    cells = parameter_dims[0] * parameter_dims[2]
    return (t, 0) if turns == cells else (t // cells, t % cells)


@helper
def set_of_cell(dims, parameter_dims, cell, u):
    """Set u of the sets that share the parameters `cell`, which counts (pb, pc)."""
    c = dims[2]
    pb, _, pc, _ = parameter_dims
    if c == 1:
        return u * pb + cell
    if pc == 1:
        return (u // c * pb + cell) * c + u % c
    return (u * pb + cell // pc) * c + cell % pc


@helper
def fold_blocks(o, parameter_dims, blocks, per_cell, dweight, dbias):
    """Add up the blocks (per_cell, cells, 2 planes) to LANES gradients, the vector o of (cells, pm, pn), in order."""
    pb, pm, pc, pn = parameter_dims
    lines, plane = lines_of(pn), plane_of(parameter_dims)
    r, cell, first = o // lines % pm, o // lines // pm, o % lines * LANES
    left = smaller(pn - first, LANES)
    w, v = splat(0.0), splat(0.0)
    for t in range(per_cell):
        i = (t * pb * pc + cell) * 2 * plane + r * lines * LANES + first
        w += wide(load(blocks, i))
        v += wide(load(blocks, i + plane))
    to = ((cell // pc * pm + r) * pc + cell % pc) * pn + first
    put_lanes(dweight, to, narrow(w, dweight), left)
    put_lanes(dbias, to, narrow(v, dbias), left)


@helper
def fold_sums(o, dims, parameter_dims, sums, dweight, dbias):
    """Add up the pairs of all sets that share the parameter o, in order."""
    b, m, c, n = dims
    pb, pm, pc, _ = parameter_dims
    pieces = chunking(m, n)[1]
    slots = slots_of(dims, parameter_dims)
    place, r, column = o, 0, 0
    if pm > 1 or pc > 1:  # a division takes as long as the sums of a small set
        place, r, column = (o // pm, o % pm, 0) if pc == 1 else (o // (pm * pc), o // pc % pm, o % pc)
    w, v = 0.0, 0.0
    for i in range(place, b, pb):
        for j in range(column, column + 1 if pc > 1 else c):
            first = (i * c + j) * slots + (r * pieces if pm > 1 else 0)
            for h in range(first, first + (pieces if pm > 1 else slots)):
                w += at(sums, 2 * h)
                v += at(sums, 2 * h + 1)
    put(dweight, o, w)
    put(dbias, o, v)


@helper
def fold_runs(dims, parameter_dims, spread_out, dweight, stats):
    """Add up the gradients of the values that share a parameter."""
    pb, pm, _, pn = parameter_dims
    _, m, _, n = dims
    sums = workspace(pb * pm * pn, stats)
    clear(sums, 0, sums.size)
    for o in range(pb * m):
        for i in range(n):
            to = unspread(parameter_dims, m, o, i)
            put(sums, to, at(sums, to) + np.float64(at(spread_out, o * n + i)))
    for o in range(sums.size):
        put(dweight, o, at(sums, o))


@cache
def backward(center, power, spans, streams):
    """dx and the parameters' gradients, one set at a time; `streams` as forward."""
    spans_n, unrolls, short = parts_of(spans)

    @helper
    def some_sets(t, dims, parameter_dims, dy, x, weight, stats, dx, blocks, sums, divisor, limit):
        if short:
            dims, parameter_dims = as_short(dims, parameter_dims)
        _, m, _, n = dims
        chunks = chunking(m, n)[2]
        ahead = next_set(dims, x, FETCHED_SET_WIDE if is_wide() else FETCHED_SET_BACK)
        first, last, turns, cell, block, size = 0, 1, 1, 0, 0, 2 * plane_of(parameter_dims)
        if spans_n:  # of others, a division takes as long as a small set
            turns = turns_of(dims, parameter_dims)
            sets, each = sets_of_cell(dims, parameter_dims)
            part, cell = turn_of(parameter_dims, turns, t)
            first, last = part * each, smaller(part * each + each, sets)
            block = t * turns * size
            clear(blocks, block, turns * size)
        for turn in range(first * turns, last * turns):
            s, to = t, block
            if spans_n:
                u, o = (turn, 0) if turns == 1 else (turn // turns, turn % turns)
                s, to = set_of_cell(dims, parameter_dims, cell + o, u), block + o * size
            i, j, start = set_at(dims, s)
            rstd = stats_of(dims, stats, s)[1]
            affine = affine_at(dims, x, stats, s)
            # 1 moments
            found = 0.0, 0.0, 0.0, 0.0
            for h in range(chunks):
                if spans_n:
                    found_h = chunk_sums_n(
                        dims, parameter_dims, dy, x, weight, affine, blocks, to, i, j, start, h, center, power
                    )
                else:
                    slot = s * slots_of(dims, parameter_dims)
                    found_h = chunk_sums(dims, parameter_dims, dy, x, weight, affine, sums, slot, i, j, start, h, power)
                found = add_four(found, found_h)
            # 2 normalize
            means = means_of(found, rstd, float(m * n), center, divisor, limit)
            for h in range(chunks):
                chunk_dx(
                    dims, parameter_dims, dy, x, weight, affine, dx, i, j, start, h, power, spans_n, means, streams,
                    ahead,
                )  # fmt: skip

    @helper
    def gradients(pool, dims, parameter_dims, dy, x, weight, stats, dx, dweight, dbias, divisor, limit):
        b, _, c, _ = dims
        pb, pm, pc, pn = parameter_dims
        cells, parts, tasks = pb * pc, 1, b * c
        if spans_n:
            sets, each = sets_of_cell(dims, parameter_dims)
            parts = (sets + each - 1) // each
            tasks = parts * (cells // turns_of(dims, parameter_dims))
            blocks = workspace(cells * parts * 2 * plane_of(parameter_dims), weight)
            sums = workspace(1, stats)
        else:
            blocks = workspace(1, weight)
            sums = workspace(2 * b * c * slots_of(dims, parameter_dims), stats)
        share(pool, tasks, some_sets, (dims, parameter_dims, dy, x, weight, stats, dx, blocks, sums, divisor, limit))
        pool = pool_for(blocks.size + sums.size, pool)
        if spans_n:
            share(pool, cells * pm * lines_of(pn), fold_blocks, (parameter_dims, blocks, parts, dweight, dbias))
        else:
            share(pool, pb * pm * pc, fold_sums, (dims, parameter_dims, sums, dweight, dbias))

    @kernel
    def rows_backward(
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
        divisor,  # float: m*n, or 1 for totals
        limit,  # float: rstd of a clamped set, or inf
    ):
        if unrolls:
            w = spread(dims, parameter_dims, weight)
            shape, parameter_shape = unrolled(dims, parameter_dims)
            dw, db = workspace(w.size, weight), workspace(w.size, weight)
            gradients(pool, shape, parameter_shape, dy, x, w, stats, dx, dw, db, divisor, limit)
            fold_runs(dims, parameter_dims, dw, dweight, stats)
            fold_runs(dims, parameter_dims, db, dbias, stats)
        else:
            gradients(pool, dims, parameter_dims, dy, x, weight, stats, dx, dweight, dbias, divisor, limit)

    return rows_backward
