"""The backward pass of `rows.py`: dx and the gradients of the parameters, one set at a time.

If some values spread over dy have the same sign, sums are relative to the one nearest to 0, which keeps the digits of
the deviations: mean(dy) may be far from 0. Otherwise they are relative to 0: dy may be 0 except for few values, and
this keeps their digits. If the parameters vary along n, tasks add their gradients to blocks (pm, pn). Otherwise every
set stores its sums of dy and dy * xhat: one pair per chunk, or per run if the parameters vary along m. At the end both
are added in order.
"""

from functools import cache
from typing import Any

from normzoo.backends.around import ALONE
from normzoo.backends.cpu.compiling.jit import helper
from normzoo.backends.cpu.kernels.around import JOINS, NOTHING, TURNS, Steps, backward_steps
from normzoo.backends.cpu.kernels.making import backward_kernel
from normzoo.backends.cpu.kernels.moments import (
    factors_of,
    gradient,
    put_lanes,
    read,
    standardize,
)
from normzoo.backends.cpu.kernels.records import Backward, Flags
from normzoo.backends.cpu.kernels.rows import affine_at, chunk_join, no_chunk
from normzoo.backends.cpu.kernels.rows_runs import going_back
from normzoo.backends.cpu.kernels.rows_sums import (
    add_gradients,
    chunk_sums,
    chunk_sums_n,
    lines_of,
    plane_of,
    put_gradients,
    slots_of,
)
from normzoo.backends.cpu.kernels.rows_walk import (
    OWN,
    as_short,
    chunk_of,
    chunking,
    next_set,
    over_run,
    parameter_at,
    parameter_step,
    parts_of,
    set_at,
    stats_of,
)
from normzoo.backends.cpu.parallel.sharing import pool_for, share
from normzoo.backends.cpu.schedule import (
    FETCHED_SET_BACK,
    FETCHED_SET_WIDE,
    SETS_PER_BLOCK,
    TURN_PLANES,
    TURN_SETS,
)
from normzoo.backends.cpu.vector.access import at, is_wide, load, put
from normzoo.backends.cpu.vector.arithmetic import fma, lane, larger, narrow, smaller, splat, wide
from normzoo.backends.cpu.vector.lanes import LANES
from normzoo.backends.cpu.vector.workspaces import clear, workspace


@helper
def dx_of(given, terms, i, p, form, flags, left, full):
    """dx at i, of up to LANES values of dy and of x; `form`: weight * scale, `affine_of` the set and its `factors_of`.
    The weight is at p where each value has its own."""
    w, affine, factors = form
    if flags.spans:
        w = read(given.weight, p, left, full, given.dx) * affine[0]
    v = gradient(terms[0], terms[1], w, affine, factors, flags.power)
    flags.steps.end(given, terms, v, i, left, full, flags.streams)


@helper
def dy_of(given, terms, i, p, form, flags, left, full):
    """dy of xhat * weight + bias at i, likewise; `form`: weight, bias, `affine_of` the set and the level."""
    w, a, affine, level = form
    if flags.spans:
        w, a = read(given.weight, p, left, full, given.dx), read(given.beside.bias, p, left, full, given.dx)
        level = flags.steps.level.each(given, p, left, full)
    flags.steps.fill(given, terms + level, fma(standardize(terms[1], *affine), w, a), i, left, full)


@helper
def chunk_turn(given, here, j, affine, flags):
    """dy of xhat * weight + bias on chunk j of the set `here`."""
    _, m, c, n = given.dims
    first, runs, skip, length = chunk_of(j, m, n)
    top, step = parameter_at(given.parameter_dims, here), parameter_step(given.parameter_dims)
    for run in range(first, first + runs):
        i = here.start + run * c * n + skip
        p = top + run * step
        form = splat(at(given.weight, p)), splat(at(given.beside.bias, p)), affine, flags.steps.level.one(given, p)
        over_run(dy_of, flags.steps.sources, given, (i, i + length, p + skip), form, flags, 0)


def filling(steps: Steps) -> Any:
    """What is written of a chunk before it is summed."""
    return {NOTHING: no_chunk, JOINS: chunk_join, TURNS: chunk_turn}[steps.fills]


@helper
def chunk_dx(given, here, j, affine, means, flags, ahead):
    """dx on chunk j of the set `here`; `ahead` as going forward."""
    dims, parameter_dims, _, x, weight, _, _, _ = given
    _, m, c, n = dims
    g_mean, gx_mean, sign_mean = means
    scale, fine, r = lane(affine[0], 0), lane(affine[2], 0), lane(affine[3], 0)
    g_high, rest, taken, middle = factors_of(g_mean, gx_mean, sign_mean, scale, fine, r, flags.power, x)
    factors = splat(g_high), splat(rest), splat(taken), splat(middle)
    first, runs, skip, length = chunk_of(j, m, n)
    top, step = parameter_at(parameter_dims, here), parameter_step(parameter_dims)
    for run in range(first, first + runs):
        i = here.start + run * c * n + skip
        p = top + run * step
        form = splat(at(weight, p)) * affine[0], affine, factors
        over_run(dx_of, flags.steps.terms, given, (i, i + length, p + skip), form, flags, ahead)


@helper
def means_of(sums, rstd, k, limits, center):
    """The means for `chunk_dx`, from the sums over a set of k values; the rstd of a clamped set equals the limit and is
    a constant."""
    g, gx, x_sum, signs = sums
    gx /= limits.divisor
    if center:
        g, signs = g / k, signs / k
        if x_sum == x_sum:  # noqa: PLR0124 (of (g - mean(g)) * xhat: it keeps its digits where mean(g) is far from 0)
            gx -= g * (x_sum / limits.divisor)
    else:
        g, signs = 0.0, 0.0
    return g, 0.0 if rstd >= limits.limit else gx, signs


@helper
def add_four(a, b):
    return a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]


@helper
def sets_of_cell(dims, parameter_dims):
    """Number of sets that share a row (pm, pn) of parameters, and how many of them a task processes."""
    b, _, c, _ = dims
    pb, _, pc, _ = parameter_dims
    sets = b // pb * (c if pc == 1 else 1)
    return sets, smaller(SETS_PER_BLOCK, larger(8, sets // 16))


@helper
def turns_of(dims, parameter_dims):
    """Number of rows of parameters whose sets a task processes in turn, in memory order: all or one."""
    cells = parameter_dims[0] * parameter_dims[2]
    is_little = cells * plane_of(parameter_dims) <= TURN_PLANES
    return cells if is_little and sets_of_cell(dims, parameter_dims)[0] >= TURN_SETS else 1


@helper
def turn_of(parameter_dims, turns, t):
    """The part of its sets that task t processes, and its first row of parameters."""
    cells = parameter_dims[0] * parameter_dims[2]
    return (t, 0) if turns == cells else (t // cells, t % cells)


@helper
def set_of_cell(dims, parameter_dims, cell, u):
    """Set u of the sets that share the parameters `cell`, an index of (pb, pc)."""
    c = dims[2]
    pb, _, pc, _ = parameter_dims
    if c == 1:
        return u * pb + cell
    if pc == 1:
        return (u // c * pb + cell) * c + u % c
    return (u * pb + cell // pc) * c + cell % pc


@helper
def fold_blocks(o, parameter_dims, blocks, per_cell, dweight, dbias):
    """Add the blocks (per_cell, cells, 2 planes) in order: LANES gradients, the vector o of (cells, pm, pn)."""
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
    """Add the pairs of all sets that share the parameter o, in order."""
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


@cache
def backward(center, power, spans, streams, around=ALONE):
    """dx and the parameters' gradients, one set at a time; `streams` as forward."""
    spans_n, unrolls, short = parts_of(spans)
    steps = backward_steps(around, False)
    flags, fill = Flags(center, power, spans_n, streams, steps), filling(steps)

    @helper
    def some_sets(t, given, blocks, sums, limits):
        if short:
            given = Backward(*as_short(given))
        dims, parameter_dims = given.dims, given.parameter_dims
        _, m, _, n = dims
        chunks = chunking(m, n)[2]
        ahead = next_set(dims, given.x, FETCHED_SET_WIDE if is_wide() else FETCHED_SET_BACK)
        first, last, turns, cell, block, size = 0, 1, 1, 0, 0, 2 * plane_of(parameter_dims)
        if spans_n:  # without this, no division, which takes as long as a small set
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
            here, affine = set_at(dims, s), affine_at(given, s)
            # 1 moments
            found = 0.0, 0.0, 0.0, 0.0
            for h in range(chunks if spans_n else 0):  # all, of which some are looked at
                fill(given, here, h, affine, flags)
            for h in range(chunks):
                if not spans_n:
                    fill(given, here, h, affine, flags)
                if spans_n:
                    found_h = chunk_sums_n(given, here, h, affine, blocks, to, flags, add_gradients)
                else:
                    found_h = chunk_sums(given, here, h, affine, sums, power)
                found = add_four(found, found_h)
            # 2 normalize
            means = means_of(found, stats_of(given, s)[1], float(m * n), limits, center)
            for h in range(chunks):
                chunk_dx(given, here, h, affine, means, flags, ahead)

    @helper
    def own_set(t, given, dweight, dbias, limits):
        if short:
            given = Backward(*as_short(given))
        dims = given.dims
        _, m, _, n = dims
        chunks = chunking(m, n)[2]
        here, affine, found = set_at(dims, t), affine_at(given, t), (0.0, 0.0, 0.0, 0.0)
        # 1 moments
        for h in range(chunks):
            fill(given, here, h, affine, flags)
        for h in range(chunks):
            found_h = chunk_sums_n(given, here, h, affine, (dweight, dbias), 0, flags, put_gradients)
            found = add_four(found, found_h)
        # 2 normalize
        means = means_of(found, stats_of(given, t)[1], float(m * n), limits, center)
        for h in range(chunks):
            chunk_dx(given, here, h, affine, means, flags, 0)

    @helper
    def own_sets(pool, given, dweight, dbias, limits):
        share(pool, given.dims[0] * given.dims[2], own_set, (given, dweight, dbias, limits))

    @helper
    def all_sets(pool, given, dweight, dbias, limits):
        dims, parameter_dims, _, _, weight, stats, _, _ = given
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
        share(pool, tasks, some_sets, (given, blocks, sums, limits))
        pool = pool_for(blocks.size + sums.size, pool)
        if spans_n:
            share(pool, cells * pm * lines_of(pn), fold_blocks, (parameter_dims, blocks, parts, dweight, dbias))
        else:
            share(pool, pb * pm * pc, fold_sums, (dims, parameter_dims, sums, dweight, dbias))

    if spans >= OWN:
        return backward_kernel("rows_backward_own", own_sets, around)
    return backward_kernel(
        "rows_backward", going_back(all_sets, unrolls, steps.fills == TURNS, around.behind == "learned"), around
    )
