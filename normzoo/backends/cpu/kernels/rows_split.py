"""The kernels of `rows.py` for a few large sets, which all threads share: with the same chunks, so bit-identical."""

from functools import cache

import numpy as np

from normzoo.backends.around import ALONE
from normzoo.backends.cpu.compiling.jit import helper
from normzoo.backends.cpu.kernels.around import NOTHING, TURNS, backward_steps, forward_steps
from normzoo.backends.cpu.kernels.making import apply_kernel, backward_kernel, forward_kernel
from normzoo.backends.cpu.kernels.moments import affine_by, merge, put_lanes
from normzoo.backends.cpu.kernels.records import Flags, Forward
from normzoo.backends.cpu.kernels.rows import (
    affine_at,
    chunk_apply,
    chunk_deviations,
    chunk_join,
    chunk_moments,
    finish,
    no_chunk,
    s_of,
    y_of,
)
from normzoo.backends.cpu.kernels.rows_gradients import (
    add_four,
    chunk_dx,
    filling,
    fold_blocks,
    fold_sums,
    means_of,
    set_of_cell,
    sets_of_cell,
)
from normzoo.backends.cpu.kernels.rows_runs import going_back, going_forward
from normzoo.backends.cpu.kernels.rows_sums import (
    add_gradients,
    chunk_sums,
    chunk_sums_n,
    lines_of,
    plane_of,
    slots_of,
)
from normzoo.backends.cpu.kernels.rows_walk import (
    Set,
    chunking,
    over_run,
    parameter_at,
    parts_of,
    set_at,
    stats_of,
)
from normzoo.backends.cpu.parallel.sharing import share
from normzoo.backends.cpu.schedule import ROW_CHUNK
from normzoo.backends.cpu.vector.access import at, load_n, put
from normzoo.backends.cpu.vector.arithmetic import smaller, splat, wide
from normzoo.backends.cpu.vector.lanes import LANES
from normzoo.backends.cpu.vector.workspaces import clear, workspace


@helper
def in_order(dims, t):
    """Set and chunk of the t-th chunk in memory."""
    _, m, c, n = dims
    _, pieces, chunks = chunking(m, n)
    piece, column, place = t % pieces, t // pieces % c, t // (pieces * c)
    groups = chunks // pieces
    return place // groups * c + column, place % groups * pieces + piece


PART = 4  # numbers per chunk: count, mean, m2; or the sums of `chunk_sums`


@helper
def place_of(dims, s, h):
    """Index of the numbers of chunk h of set s."""
    return PART * (s * chunking(dims[1], dims[3])[2] + h)


@helper
def three_at(part, place):
    return at(part, place), at(part, place + 1), at(part, place + 2)


@helper
def put_three(part, place, numbers):
    put(part, place, numbers[0])
    put(part, place + 1, numbers[1])
    put(part, place + 2, numbers[2])


@helper
def sums_at(part, place):
    return *three_at(part, place), at(part, place + 3)


@helper
def put_sums(part, place, sums):
    put_three(part, place, sums)
    put(part, place + 3, sums[3])


@cache
def normalizing(flags, join=no_chunk):
    @helper
    def normalize_chunk(t, given):
        s, h = in_order(given.dims, t)
        join(given, set_at(given.dims, s), h, (), flags)
        chunk_apply(given, s, h, flags, 0)

    return normalize_chunk


@cache
def forward(center, power, spans, streams, around=ALONE):
    """Statistics and y."""
    spans_n, unrolls, _ = parts_of(spans)
    steps = forward_steps(around, False, streams)
    flags = Flags(center, power, spans_n, streams, steps)
    join = chunk_join if steps.fills else no_chunk
    normalize_chunk = normalizing(flags)

    @helper
    def sum_chunk(t, given, part):
        dims = given.dims
        s, h = in_order(dims, t)
        join(given, set_at(dims, s), h, (), flags)
        put_three(part, place_of(dims, s, h), chunk_moments(given, set_at(dims, s).start, h, flags))

    @helper
    def sum_deviations(t, given, part):
        dims = given.dims
        s, h = in_order(dims, t)
        mean = at(part, place_of(dims, s, 0) + 1)
        put(part, place_of(dims, s, h), chunk_deviations(given, set_at(dims, s).start, h, mean, flags))

    @helper
    def all_chunks(pool, given, moments):
        dims = given.dims
        b, m, c, n = dims
        chunks = chunking(m, n)[2]
        part = workspace(PART * b * c * chunks, given.stats)
        # 1 moments
        share(pool, b * c * chunks, sum_chunk, (given, part))
        for s in range(b * c):
            count, mean, spread = three_at(part, place_of(dims, s, 0))
            for h in range(1, chunks):
                count_h, mean_h, spread_h = three_at(part, place_of(dims, s, h))
                count, mean, spread = merge(count, mean, spread, count_h, mean_h, spread_h)
            put_three(part, place_of(dims, s, 0), (count, mean, spread))
        if power == 1:
            share(pool, b * c * chunks, sum_deviations, (given, part))
            for s in range(b * c):
                spread = 0.0
                for h in range(chunks):
                    spread += at(part, place_of(dims, s, h))
                put(part, place_of(dims, s, 0) + 2, spread)
        for s in range(b * c):
            _, mean, spread = three_at(part, place_of(dims, s, 0))
            finish(given, set_at(dims, s), mean, spread, moments, flags)
        # 2 normalize
        share(pool, b * c * chunks, normalize_chunk, (given,))

    return forward_kernel("rows_forward_split", going_forward(all_chunks, unrolls, around.behind == "learned"), around)


@helper
def fill_affine(given, table):
    """`affine_by` of all sets, as four planes of `table`; all runs of a set have the same parameters."""
    dims, parameter_dims, x, weight, bias, _, stats, _ = given
    b, _, c, _ = dims
    sets = b * c
    for i in range(b):
        first = parameter_at(parameter_dims, Set(0, i, 0, 0))
        for j in range(0, c, LANES):
            s, left, p = i * c + j, smaller(c - j, LANES), first + (j if parameter_dims[2] > 1 else 0)
            w, a = splat(np.float64(at(weight, p))), splat(np.float64(at(bias, p)))
            if parameter_dims[2] > 1:
                w, a = wide(load_n(weight, p, left)), wide(load_n(bias, p, left))
            affine = affine_by(load_n(stats, s, left), load_n(stats, 2 * sets + s, left), w, a, x)
            put_lanes(table, s, affine[0], left)
            put_lanes(table, sets + s, affine[1], left)
            put_lanes(table, 2 * sets + s, affine[2], left)
            put_lanes(table, 3 * sets + s, affine[3], left)


@cache
def apply(spans, streams, around=ALONE):
    """y from given statistics. Short runs are written in the order of memory: those of a set may be so far apart that
    all fall on the same lines of the caches."""
    spans_n, unrolls, _ = parts_of(spans)
    steps = forward_steps(around, False, streams)
    flags = Flags(False, 0, spans_n, streams, steps, not spans_n)
    normalize_chunk = normalizing(flags, chunk_join if steps.fills else no_chunk)
    fills = steps.fills  # is s written, too?

    @helper
    def some_runs(t, given, table):
        b, m, c, n = given.dims
        group = ROW_CHUNK // n
        blocks = (c + group - 1) // group
        line, first = t // blocks, t % blocks * group
        sets, before = b * c, line // m * c
        for j in range(first, smaller(first + group, c)):
            i, s = (line * c + j) * n, before + j
            scale, shift = splat(at(table, s)), splat(at(table, sets + s))
            affine = scale, shift, splat(at(table, 2 * sets + s)), splat(at(table, 3 * sets + s))
            if fills:
                over_run(s_of, flags.steps.sources, given, (i, i + n, 0), (), flags, 0)
            level = flags.steps.level.one(given, parameter_at(given.parameter_dims, Set(0, line // m, j, 0)))
            over_run(y_of, flags.steps.terms, given, (i, i + n, 0), (scale, scale, affine, level), flags, 0)

    @helper
    def all_chunks(pool, given):
        b, m, c, n = given.dims
        pb, _, _, pn = given.parameter_dims
        if m == 1 and c == 1 and (pb == b or pb == 1):  # sets that lie side by side
            given = Forward((1, 1, b, n), (1, 1, pb, pn), *given[2:])
            b, c = 1, b
        if not spans_n and c > 1 and n <= ROW_CHUNK and given.parameter_dims[1] == 1:
            table, group = workspace(4 * b * c, given.weight), ROW_CHUNK // n
            fill_affine(given, table)
            share(pool, b * m * ((c + group - 1) // group), some_runs, (given, table))
        else:
            share(pool, b * c * chunking(m, n)[2], normalize_chunk, (given,))

    return apply_kernel("rows_apply", going_forward(all_chunks, unrolls, around.behind == "learned"), around)


@cache
def backward(center, power, spans, streams, around=ALONE):
    """dx and the parameters' gradients. Of constant statistics dx needs no sums: it is written with them."""
    spans_n, unrolls, _ = parts_of(spans)
    steps = backward_steps(around, False)
    flags, fill = Flags(center, power, spans_n, streams, steps), filling(steps)
    fills_first = steps.fills != NOTHING and spans_n and center  # all, of which some are looked at
    constant = power == 0 and not center
    none = 0.0, 0.0, 0.0

    @helper
    def sum_chunks_n(t, given, blocks, part):
        """One chunk of all sets that share their parameters; if all runs of a set share them, too, each group of runs
        has its own block."""
        dims, parameter_dims = given.dims, given.parameter_dims
        pb, pm, pc, _ = parameter_dims
        _, pieces, chunks = chunking(dims[1], dims[3])
        cell, h = t // chunks, t % chunks
        block = ((h // pieces if pm == 1 else 0) * pb * pc + cell) * 2 * plane_of(parameter_dims)
        for u in range(sets_of_cell(dims, parameter_dims)[0]):
            s = set_of_cell(dims, parameter_dims, cell, u)
            here, affine = set_at(dims, s), affine_at(given, s)
            if not fills_first:
                fill(given, here, h, affine, flags)
            put_sums(
                part, place_of(dims, s, h), chunk_sums_n(given, here, h, affine, blocks, block, flags, add_gradients)
            )
            if constant:
                chunk_dx(given, here, h, affine, none, flags, 0)

    @helper
    def fill_chunk(t, given):
        s, h = in_order(given.dims, t)
        fill(given, set_at(given.dims, s), h, affine_at(given, s), flags)

    @helper
    def sum_chunk(t, given, sums, part):
        s, h = in_order(given.dims, t)
        here, affine = set_at(given.dims, s), affine_at(given, s)
        fill(given, here, h, affine, flags)
        put_sums(part, place_of(given.dims, s, h), chunk_sums(given, here, h, affine, sums, power))
        if constant:
            chunk_dx(given, here, h, affine, none, flags, 0)

    @helper
    def derive_chunk(t, given, part):
        s, h = in_order(given.dims, t)
        means = three_at(part, place_of(given.dims, s, 0))
        chunk_dx(given, set_at(given.dims, s), h, affine_at(given, s), means, flags, 0)

    @helper
    def all_chunks(pool, given, dweight, dbias, limits):
        dims, parameter_dims, _, _, weight, stats, _, _ = given
        b, m, c, n = dims
        pb, pm, pc, pn = parameter_dims
        _, pieces, chunks = chunking(m, n)
        part = workspace(PART * b * c * chunks, stats)
        # 1 moments
        if fills_first:
            share(pool, b * c * chunks, fill_chunk, (given,))
        if spans_n:
            cells = pb * pc
            per_cell = chunks // pieces if pm == 1 else 1
            blocks = workspace(cells * per_cell * 2 * plane_of(parameter_dims), weight)
            clear(blocks, 0, blocks.size)
            share(pool, cells * chunks, sum_chunks_n, (given, blocks, part))
            for o in range(cells * pm * lines_of(pn)):
                fold_blocks(o, parameter_dims, blocks, per_cell, dweight, dbias)
        else:
            sums = workspace(2 * b * c * slots_of(dims, parameter_dims), stats)
            share(pool, b * c * chunks, sum_chunk, (given, sums, part))
            for o in range(pb * pm * pc):
                fold_sums(o, dims, parameter_dims, sums, dweight, dbias)
        if constant:
            return
        # 2 normalize
        for s in range(b * c):
            found = 0.0, 0.0, 0.0, 0.0
            for h in range(chunks):
                found = add_four(found, sums_at(part, place_of(dims, s, h)))
            means = means_of(found, stats_of(given, s)[1], float(m * n), limits, center)
            put_three(part, place_of(dims, s, 0), means)
        share(pool, b * c * chunks, derive_chunk, (given, part))

    return backward_kernel(
        "rows_backward_split", going_back(all_chunks, unrolls, steps.fills == TURNS, around.behind == "learned"), around
    )
