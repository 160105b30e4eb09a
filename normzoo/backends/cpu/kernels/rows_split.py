"""The kernels of `rows.py` for a few large sets, which all threads share: the same chunks, the same bits."""

from functools import cache

from normzoo.backends.cpu.compiling.jit import helper, kernel
from normzoo.backends.cpu.kernels.moments import merge
from normzoo.backends.cpu.kernels.rows import affine_at, chunk_apply, chunk_deviations, chunk_moments, finish
from normzoo.backends.cpu.kernels.rows_gradients import (
    add_four,
    chunk_dx,
    fold_blocks,
    fold_runs,
    fold_sums,
    means_of,
    set_of_cell,
    sets_of_cell,
)
from normzoo.backends.cpu.kernels.rows_sums import chunk_sums, chunk_sums_n, lines_of, plane_of, slots_of
from normzoo.backends.cpu.kernels.rows_walk import chunking, parts_of, set_at, spread, stats_of, unrolled
from normzoo.backends.cpu.parallel.sharing import share
from normzoo.backends.cpu.vector.access import at, put
from normzoo.backends.cpu.vector.workspaces import clear, workspace


@helper
def in_order(dims, t):
    """Set and chunk of the t-th chunk in memory."""
    _, m, c, n = dims
    _, pieces, chunks = chunking(m, n)
    piece, column, place = t % pieces, t // pieces % c, t // (pieces * c)
    groups = chunks // pieces
    return place // groups * c + column, place % groups * pieces + piece


PART = 4  # numbers of a chunk: count, mean, m2; or the sums of `chunk_sums`


@helper
def place_of(dims, s, h):
    """Where the numbers of chunk h of set s lie, among those of all."""
    return PART * (s * chunking(dims[1], dims[3])[2] + h)


@helper
def three(part, place):
    return at(part, place), at(part, place + 1), at(part, place + 2)


@helper
def put_three(part, place, first, second, third):
    put(part, place, first)
    put(part, place + 1, second)
    put(part, place + 2, third)


@helper
def sums_at(part, place):
    return at(part, place), at(part, place + 1), at(part, place + 2), at(part, place + 3)


@helper
def put_sums(part, place, sums):
    put_three(part, place, sums[0], sums[1], sums[2])
    put(part, place + 3, sums[3])


@cache
def normalizing(spans_n, folds, streams):
    @helper
    def normalize_chunk(t, dims, parameter_dims, x, weight, bias, y, stats):
        s, h = in_order(dims, t)
        chunk_apply(dims, parameter_dims, x, weight, bias, y, stats, s, h, spans_n, folds, streams, 0)

    return normalize_chunk


@cache
def forward(center, power, spans, streams):
    """Statistics and y."""
    spans_n, unrolls, _ = parts_of(spans)
    normalize_chunk = normalizing(spans_n, False, streams)

    @helper
    def sum_chunk(t, dims, x, part):
        s, h = in_order(dims, t)
        count, mean, spread = chunk_moments(dims, x, set_at(dims, s)[2], h, center)
        put_three(part, place_of(dims, s, h), count, mean, spread)

    @helper
    def sum_deviations(t, dims, x, part):
        s, h = in_order(dims, t)
        mean = at(part, place_of(dims, s, 0) + 1)
        put(part, place_of(dims, s, h), chunk_deviations(dims, x, set_at(dims, s)[2], h, mean))

    @helper
    def normalize(pool, dims, parameter_dims, x, weight, bias, y, stats, divisor, eps, clamp):
        b, m, c, n = dims
        chunks = chunking(m, n)[2]
        part = workspace(PART * b * c * chunks, stats)
        # 1 moments
        share(pool, b * c * chunks, sum_chunk, (dims, x, part))
        for s in range(b * c):
            count, mean, spread = three(part, place_of(dims, s, 0))
            for h in range(1, chunks):
                count_h, mean_h, spread_h = three(part, place_of(dims, s, h))
                count, mean, spread = merge(count, mean, spread, count_h, mean_h, spread_h)
            put_three(part, place_of(dims, s, 0), count, mean, spread)
        if power == 1:
            share(pool, b * c * chunks, sum_deviations, (dims, x, part))
            for s in range(b * c):
                spread = 0.0
                for h in range(chunks):
                    spread += at(part, place_of(dims, s, h))
                put(part, place_of(dims, s, 0) + 2, spread)
        for s in range(b * c):
            _, mean, spread = three(part, place_of(dims, s, 0))
            finish(dims, x, set_at(dims, s)[2], mean, spread, stats, s, center, power, divisor, eps, clamp)
        # 2 normalize
        share(pool, b * c * chunks, normalize_chunk, (dims, parameter_dims, x, weight, bias, y, stats))

    @kernel
    def rows_forward_split(
        pool,  # see sharing.py
        dims,  # (b, m, c, n)
        parameter_dims,  # (pb, pm, pc, pn)
        x,
        weight,
        bias,
        y,
        stats,  # (3, b, c) float64
        divisor,
        eps,
        clamp,
    ):
        if unrolls:
            w, v = spread(dims, parameter_dims, weight), spread(dims, parameter_dims, bias)
            shape, parameter_shape = unrolled(dims, parameter_dims)
            normalize(pool, shape, parameter_shape, x, w, v, y, stats, divisor, eps, clamp)
        else:
            normalize(pool, dims, parameter_dims, x, weight, bias, y, stats, divisor, eps, clamp)

    return rows_forward_split


@cache
def apply(spans, streams):
    """y from given statistics."""
    spans_n, unrolls, _ = parts_of(spans)
    normalize_chunk = normalizing(spans_n, not spans_n, streams)

    @kernel
    def rows_apply(
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
        if unrolls:
            w, v = spread(dims, parameter_dims, weight), spread(dims, parameter_dims, bias)
            shape, parameter_shape = unrolled(dims, parameter_dims)
            turns = b * chunking(1, m * n)[2]
            share(pool, turns, normalize_chunk, (shape, parameter_shape, x, w, v, y, stats))
        else:
            turns = b * c * chunking(m, n)[2]
            share(pool, turns, normalize_chunk, (dims, parameter_dims, x, weight, bias, y, stats))

    return rows_apply


@cache
def backward(center, power, spans, streams):
    """dx and the parameters' gradients. Of constant statistics dx needs no sums: it is written with them."""
    spans_n, unrolls, _ = parts_of(spans)
    constant = power == 0 and not center
    none = 0.0, 0.0, 0.0

    @helper
    def sum_chunks_n(t, dims, parameter_dims, dy, x, weight, stats, dx, blocks, part):
        """One chunk of all sets that share their parameters; runs that do have blocks apart."""
        pb, pm, pc, _ = parameter_dims
        _, pieces, chunks = chunking(dims[1], dims[3])
        cell, h = t // chunks, t % chunks
        block = ((h // pieces if pm == 1 else 0) * pb * pc + cell) * 2 * plane_of(parameter_dims)
        for u in range(sets_of_cell(dims, parameter_dims)[0]):
            s = set_of_cell(dims, parameter_dims, cell, u)
            i, j, start = set_at(dims, s)
            affine = affine_at(dims, x, stats, s)
            found = chunk_sums_n(
                dims, parameter_dims, dy, x, weight, affine, blocks, block, i, j, start, h, center, power
            )
            put_sums(part, place_of(dims, s, h), found)
            if constant:
                chunk_dx(dims, parameter_dims, dy, x, weight, affine, dx, i, j, start, h, power, spans_n, none, streams,
                         0)  # fmt: skip

    @helper
    def sum_chunk(t, dims, parameter_dims, dy, x, weight, stats, dx, sums, part):
        s, h = in_order(dims, t)
        i, j, start = set_at(dims, s)
        affine = affine_at(dims, x, stats, s)
        slot = s * slots_of(dims, parameter_dims)
        found = chunk_sums(dims, parameter_dims, dy, x, weight, affine, sums, slot, i, j, start, h, power)
        put_sums(part, place_of(dims, s, h), found)
        if constant:
            chunk_dx(dims, parameter_dims, dy, x, weight, affine, dx, i, j, start, h, power, spans_n, none, streams,
                     0)  # fmt: skip

    @helper
    def derive_chunk(t, dims, parameter_dims, dy, x, weight, stats, dx, part):
        s, h = in_order(dims, t)
        i, j, start = set_at(dims, s)
        affine = affine_at(dims, x, stats, s)
        means = three(part, place_of(dims, s, 0))
        chunk_dx(dims, parameter_dims, dy, x, weight, affine, dx, i, j, start, h, power, spans_n, means, streams, 0)

    @helper
    def gradients(pool, dims, parameter_dims, dy, x, weight, stats, dx, dweight, dbias, divisor, limit):
        b, m, c, n = dims
        pb, pm, pc, pn = parameter_dims
        _, pieces, chunks = chunking(m, n)
        k = float(m * n)
        part = workspace(PART * b * c * chunks, stats)
        # 1 moments
        if spans_n:
            cells = pb * pc
            per_cell = chunks // pieces if pm == 1 else 1
            blocks = workspace(cells * per_cell * 2 * plane_of(parameter_dims), weight)
            clear(blocks, 0, blocks.size)
            share(pool, cells * chunks, sum_chunks_n, (dims, parameter_dims, dy, x, weight, stats, dx, blocks, part))
            for o in range(cells * pm * lines_of(pn)):
                fold_blocks(o, parameter_dims, blocks, per_cell, dweight, dbias)
        else:
            sums = workspace(2 * b * c * slots_of(dims, parameter_dims), stats)
            share(pool, b * c * chunks, sum_chunk, (dims, parameter_dims, dy, x, weight, stats, dx, sums, part))
            for o in range(pb * pm * pc):
                fold_sums(o, dims, parameter_dims, sums, dweight, dbias)
        if not constant:
            for s in range(b * c):
                found = 0.0, 0.0, 0.0, 0.0
                for h in range(chunks):
                    found = add_four(found, sums_at(part, place_of(dims, s, h)))
                g, gx, signs = means_of(found, stats_of(dims, stats, s)[1], k, center, divisor, limit)
                put_three(part, place_of(dims, s, 0), g, gx, signs)
            share(pool, b * c * chunks, derive_chunk, (dims, parameter_dims, dy, x, weight, stats, dx, part))

    @kernel
    def rows_backward_split(
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
        divisor,
        limit,
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

    return rows_backward_split
