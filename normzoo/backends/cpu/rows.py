"""Kernels of the views whose last axis is reduced (n > 1): a set (b, c) is m runs of n neighbouring values.

A set is cut into chunks of about CHUNK values, by its shape alone: several runs, or a piece of one. A chunk is summed
twice while it is in the level-1 cache: for its own mean, then for the deviations from that. Chunks are merged in
order, in float64. So neither the number of threads nor the number of sets can be seen in the bits. Here a thread takes
whole sets; in `rows_split.py` all threads share each set.
"""

from functools import cache

import numpy as np
from numba import prange

from normzoo.backends.cpu.jit import SOURCE, helper, kernel
from normzoo.backends.cpu.lanes import (
    LANES,
    at,
    fma,
    keep,
    lane,
    load,
    load_n,
    magnitude,
    narrow,
    prefetch,
    put,
    sign,
    splat,
    stream,
    total,
    wide,
    workspace,
    zeros,
)
from normzoo.backends.cpu.moments import (
    affine_of,
    extreme_moments,
    factors_of,
    gradient,
    is_extreme,
    merge,
    put_lanes,
    read,
    rstd_of,
    standardize,
    write,
)

CHUNK = 2048  # values: two arrays of float32 fill half a level-1 cache; at most 64 additions a lane
AHEAD = 8192  # values of a set, up to which the next one is fetched into the level-1 and level-2 caches meanwhile
SETS_PER_BLOCK = 64  # whose parameter gradients are added up in the computing type, before they go on in float64


@helper
def chunking(m, n):
    """runs in a chunk, pieces of a run, chunks in a set."""
    if n > CHUNK:
        pieces = (n + CHUNK - 1) // CHUNK
        return 1, pieces, m * pieces
    group = min(m, CHUNK // n)
    return group, 1, (m + group - 1) // group


@helper
def chunk_of(j, m, n):
    """first run, runs, first value in the run, values in the run: the extent of chunk j."""
    group, pieces, _ = chunking(m, n)
    run = j // pieces * group
    i = j % pieces * CHUNK
    return run, min(group, m - run), i, min(CHUNK, n - i) if pieces > 1 else n


@helper
def parameter_at(parameter_dims, b, run, c):
    """Flat position in the parameter view of the value for (b, run, c, 0)."""
    pb, pm, pc, pn = parameter_dims
    place = (b if pb > b else b % pb) * pm + (run if pm > 1 else 0)
    return (place * pc + (c if pc > 1 else 0)) * pn


@helper
def set_at(dims, s):
    """b, c and the flat position of set s."""
    _, m, c, n = dims
    i, j = s // c, s % c
    return i, j, (i * m * c + j) * n


@helper
def stats_of(dims, stats, s):
    """mean and rstd of set s."""
    sets = dims[0] * dims[2]
    return at(stats, s), at(stats, 2 * sets + s)


@helper
def chunk_moments(dims, x, start, j, center):
    """count, mean, m2 of chunk j of the set at `start`; exact in a constant chunk."""
    _, m, c, n = dims
    run, runs, skip, length = chunk_of(j, m, n)
    count = float(runs * length)
    start += run * c * n + skip
    if c == 1:  # the runs are neighbours
        runs, length = 1, runs * length
    zero = zeros(x)
    shift = zero
    if center:
        shift = splat(at(x, start))
        s, t = zero, zero
        for h in range(runs):
            i = start + h * c * n
            end = i + length
            while i + 2 * LANES <= end:
                s += load(x, i) - shift
                t += load(x, i + LANES) - shift
                i += 2 * LANES
            while i + LANES <= end:
                s += load(x, i) - shift
                i += LANES
            if i < end:
                s += keep(load_n(x, i, end - i) - shift, end - i)
        shift = narrow(wide(shift) + splat(np.float64(total(s + t)) / count), x)
    s1, t1, s2, t2 = zero, zero, zero, zero
    for h in range(runs):
        i = start + h * c * n
        end = i + length
        while i + 2 * LANES <= end:
            d, e = load(x, i) - shift, load(x, i + LANES) - shift
            s1 += d
            t1 += e
            s2 = fma(d, d, s2)
            t2 = fma(e, e, t2)
            i += 2 * LANES
        while i + LANES <= end:
            d = load(x, i) - shift
            s1 += d
            s2 = fma(d, d, s2)
            i += LANES
        if i < end:
            d = keep(load_n(x, i, end - i) - shift, end - i)
            s1 += d
            s2 = fma(d, d, s2)
    sum2 = total(wide(s2 + t2))
    if not center:
        return count, 0.0, sum2
    sum1 = total(wide(s1 + t1))
    m2 = sum2 - sum1 * (sum1 / count)
    return count, np.float64(lane(shift, 0)) + sum1 / count, 0.0 if m2 < 0.0 else m2


@helper
def chunk_deviations(dims, x, start, j, mean):
    """sum(|x - mean|) of chunk j of the set at `start`."""
    _, m, c, n = dims
    run, runs, skip, length = chunk_of(j, m, n)
    middle = splat(mean)
    s = splat(0.0)
    for h in range(run, run + runs):
        i = start + h * c * n + skip
        end = i + length
        while i < end:
            left = min(end - i, LANES)
            s += keep(magnitude(wide(load_n(x, i, left)) - middle), left)
            i += LANES
    return total(s)


@helper
def finish(dims, x, start, mean, spread, stats, s, center, power, divisor, eps, clamp):
    """Write mean, spread / divisor and rstd of set s at `start`; start over if its values are extreme."""
    _, m, c, n = dims
    sets = dims[0] * c
    if is_extreme(spread, eps, power, clamp, x):
        mean, spread, rstd = extreme_moments(x, start, m, c * n, n, center, power, divisor, eps, clamp)
    else:
        spread = spread / divisor if power != 0 else 0.0
        rstd = rstd_of(spread, eps, 1.0, power, clamp)
    put(stats, s, mean)
    put(stats, sets + s, spread)
    put(stats, 2 * sets + s, rstd)


@helper
def y_of(x, weight, bias, y, i, p, w, v, affine, spans_n, streams, left, full):
    """y = xhat * weight + bias, on up to LANES values."""
    if spans_n:
        w, v = read(weight, p, left, full), read(bias, p, left, full)
    found = fma(standardize(read(x, i, left, full), *affine), w, v)
    if streams and full:
        stream(y, i, found)
    else:
        write(y, i, found, left, full)


@helper
def chunk_apply(dims, parameter_dims, x, weight, bias, y, stats, s, j, spans_n, streams, ahead):
    """y on chunk j of set s.

    `spans_n`: the parameters vary along n; `streams`: y goes past the caches; `ahead`: of what is fetched meanwhile.
    """
    _, m, c, n = dims
    b, column, start = set_at(dims, s)
    mean, rstd = stats_of(dims, stats, s)
    affine = affine_of(splat(mean), splat(rstd), x)
    first, runs, skip, length = chunk_of(j, m, n)
    for run in range(first, first + runs):
        i = start + run * c * n + skip
        end = i + length
        p = parameter_at(parameter_dims, b, run, column)
        w, v = splat(at(weight, p)), splat(at(bias, p))
        p += skip
        while i + LANES <= end:
            if ahead > 0:
                prefetch(x, i + ahead)
            y_of(x, weight, bias, y, i, p, w, v, affine, spans_n, streams, LANES, True)
            i += LANES
            p += LANES
        if i < end:
            y_of(x, weight, bias, y, i, p, w, v, affine, spans_n, streams, end - i, False)


@helper
def next_set(dims):
    """How far ahead of a set the next one lies, where that is small enough to be fetched early; else 0."""
    _, m, c, n = dims
    return 0 if m * n > AHEAD else n if c > 1 else m * n


@cache
def forward(center, power, spans_n, parallel, streams):
    """Statistics and y, one set at a time; with `streams` past the caches, which asks for runs of whole lines."""

    @kernel(parallel)
    def rows_forward(
        dims,  # (b, m, c, n)
        parameter_dims,  # (pb, pm, pc, pn)
        x,
        weight,
        bias,
        y,
        stats,  # (3, b, c) float64: mean, spread, rstd
        divisor,  # float: m*n, or 1 for totals
        eps,  # float
        clamp,  # bool
    ):
        if parallel > SOURCE:
            return
        b, m, c, n = dims
        ahead = next_set(dims)
        for t in prange(b * c):
            s = np.int64(t)  # prange counts in uint64
            start = set_at(dims, s)[2]
            chunks = chunking(m, n)[2]
            # 1 moments
            count, mean, spread = chunk_moments(dims, x, start, 0, center)
            for h in range(1, chunks):
                count_h, mean_h, spread_h = chunk_moments(dims, x, start, h, center)
                count, mean, spread = merge(count, mean, spread, count_h, mean_h, spread_h)
            if power == 1:
                spread = 0.0
                for h in range(chunks):
                    spread += chunk_deviations(dims, x, start, h, mean)
            finish(dims, x, start, mean, spread, stats, s, center, power, divisor, eps, clamp)
            # 2 normalize
            for h in range(chunks):
                chunk_apply(dims, parameter_dims, x, weight, bias, y, stats, s, h, spans_n, streams, ahead)

    return rows_forward


# -- backward ------------------------------------------------------------------------------------------------
#
# Sums of dy are around a first value of dy, which leaves its digits to the deviations: mean(dy) may be far from 0.
# Where the parameters vary along n, tasks add their gradients to blocks (pm, pn); else every set keeps its sums of dy
# and dy * xhat, one pair a chunk, or a run where the parameters vary along m. Both are added up in order at the end.


@helper
def slots_of(dims, parameter_dims):
    """Pairs of sums that a set keeps."""
    _, m, _, n = dims
    _, pieces, chunks = chunking(m, n)
    return m * pieces if parameter_dims[1] > 1 else chunks


@helper
def terms_of(dy, x, i, affine, left, full):
    """dy and xhat on up to LANES values, zeros behind."""
    xhat = standardize(read(x, i, left, full), *affine)
    return read(dy, i, left, full), xhat if full else keep(xhat, left)


@helper
def add_gradients(d, xhat, weight, blocks, p, q, plane, left, full):
    """Add dy * xhat and dy to the gradients at q; g = dy * weight."""
    write(blocks, q, fma(d, xhat, read(blocks, q, left, full)), left, full)
    write(blocks, q + plane, read(blocks, q + plane, left, full) + d, left, full)
    return d * read(weight, p, left, full)


@helper
def add_lanes(g, xhat, s, q, z, signs, power):
    """The sums of g, g * xhat, xhat and sign(xhat), and these lanes."""
    return s + g, fma(g, xhat, q), z + xhat, signs + sign(xhat) if power == 1 else signs


@helper
def chunk_sums_n(dims, parameter_dims, dy, x, weight, affine, blocks, block, b, c, start, j, center, power):
    """sum(g), sum(g * xhat), sum(sign(x - mean)) over chunk j of the set at `start`; the parameters vary along n.

    Adds dy * xhat and dy to the planes (2, pm, pn) of `blocks` at `block`.
    """
    _, m, columns, n = dims
    _, pm, _, pn = parameter_dims
    first, runs, skip, length = chunk_of(j, m, n)
    zero = zeros(weight)
    g0 = zero
    if center:  # sum(xhat) is 0, so that sum(g * xhat) is the sum of (g - g0) * xhat
        g0 = splat(at(dy, start)) * splat(at(weight, parameter_at(parameter_dims, b, 0, c)))
    s, q, z, signs = zero, zero, zero, zero
    for run in range(first, first + runs):
        i = start + run * columns * n + skip
        end = i + length
        p = parameter_at(parameter_dims, b, run, c) + skip
        to = block + (run if pm > 1 else 0) * pn + skip
        while i + LANES <= end:
            d, xhat = terms_of(dy, x, i, affine, LANES, True)
            g = add_gradients(d, xhat, weight, blocks, p, to, pm * pn, LANES, True)
            s, q, z, signs = add_lanes(g - g0, xhat, s, q, z, signs, power)
            i += LANES
            p += LANES
            to += LANES
        if i < end:
            d, xhat = terms_of(dy, x, i, affine, end - i, False)
            g = add_gradients(d, xhat, weight, blocks, p, to, pm * pn, end - i, False)
            s, q, z, signs = add_lanes(keep(g - g0, end - i), xhat, s, q, z, signs, power)
    g_sum = total(wide(s)) + np.float64(lane(g0, 0)) * float(runs * length)
    return g_sum, total(wide(q)), total(wide(signs))


@helper
def chunk_sums(dims, parameter_dims, dy, x, weight, affine, sums, slot, b, c, start, j, center, power):
    """sum(g), sum(g * xhat), sum(sign(x - mean)) over chunk j of the set at `start`; a run has one weight.

    Writes the sums of dy * xhat and dy to the pairs of `sums` from `slot`, the set's first, on.
    """
    _, m, columns, n = dims
    pm = parameter_dims[1]
    first, runs, skip, length = chunk_of(j, m, n)
    pieces = chunking(m, n)[1]
    zero = zeros(weight)
    d0 = splat(at(dy, start)) if center else zero
    d_first = np.float64(lane(d0, 0))
    w_first = np.float64(at(weight, parameter_at(parameter_dims, b, 0, c)))
    s, q, z, signs = zero, zero, zero, zero
    g_sum, gx_sum = 0.0, 0.0
    count = 0
    for run in range(first, first + runs):
        i = start + run * columns * n + skip
        end = i + length
        while i + LANES <= end:
            d, xhat = terms_of(dy, x, i, affine, LANES, True)
            s, q, z, signs = add_lanes(d - d0, xhat, s, q, z, signs, power)
            i += LANES
        if i < end:
            d, xhat = terms_of(dy, x, i, affine, end - i, False)
            s, q, z, signs = add_lanes(keep(d - d0, end - i), xhat, s, q, z, signs, power)
        count += length
        if pm > 1 or run + 1 == first + runs:
            w = np.float64(at(weight, parameter_at(parameter_dims, b, run, c)))
            d_sum = total(wide(s)) + d_first * float(count)
            q_sum, z_sum = total(wide(q)), total(wide(z))
            to = 2 * (slot + (run * pieces + j % pieces if pm > 1 else j))
            put(sums, to, q_sum + d_first * z_sum)
            put(sums, to + 1, d_sum)
            g_sum += w * d_sum
            # sum(xhat) over the set is 0 with `center`, else d0 is
            gx_sum += w * q_sum + (w - w_first) * d_first * z_sum
            s, q, z, count = zero, zero, zero, 0
    return g_sum, gx_sum, total(wide(signs))


@helper
def dx_of(dy, x, weight, dx, i, p, w, affine, factors, power, spans_n, left, full):
    """dx on up to LANES values."""
    if spans_n:
        w = read(weight, p, left, full) * affine[0]
    d, v = read(dy, i, left, full), read(x, i, left, full)
    write(dx, i, gradient(d, v, w, affine, factors, power), left, full)


@helper
def chunk_dx(dims, parameter_dims, dy, x, weight, affine, dx, b, c, start, j, power, spans_n, means, ahead):
    """dx on chunk j of the set at `start`."""
    _, m, columns, n = dims
    g_mean, gx_mean, sign_mean = means
    factors = factors_of(splat(g_mean), splat(gx_mean), splat(sign_mean), affine, power, x)
    first, runs, skip, length = chunk_of(j, m, n)
    for run in range(first, first + runs):
        i = start + run * columns * n + skip
        end = i + length
        p = parameter_at(parameter_dims, b, run, c)
        w = splat(at(weight, p)) * affine[0]
        p += skip
        while i + LANES <= end:
            if ahead > 0:
                prefetch(x, i + ahead)
                prefetch(dy, i + ahead)
            dx_of(dy, x, weight, dx, i, p, w, affine, factors, power, spans_n, LANES, True)
            i += LANES
            p += LANES
        if i < end:
            dx_of(dy, x, weight, dx, i, p, w, affine, factors, power, spans_n, end - i, False)


@helper
def means_of(g, gx, signs, rstd, k, center, divisor, limit):
    """The factors that `chunk_dx` takes; the rstd of a clamped set stands at `limit` and is a constant."""
    return g / k if center else 0.0, 0.0 if rstd >= limit else gx / divisor, signs / k if center else 0.0


@helper
def sets_of_cell(dims, parameter_dims):
    """Sets that share a row (pm, pn) of parameters, and how many a task takes."""
    b, _, c, _ = dims
    pb, _, pc, _ = parameter_dims
    sets = b // pb * (c if pc == 1 else 1)
    return sets, min(SETS_PER_BLOCK, max(8, sets // 16))


@helper
def set_of_cell(dims, parameter_dims, cell, u):
    """Set u of the sets that share the parameters `cell`, which counts (pb, pc)."""
    c = dims[2]
    pb, _, pc, _ = parameter_dims
    if pc == 1:
        return (u // c * pb + cell) * c + u % c
    return (u * pb + cell // pc) * c + cell % pc


@helper
def fold_blocks(parameter_dims, blocks, per_cell, r, cell, first, dweight, dbias):
    """Add up the blocks (cells, per_cell, 2, pm, pn) to LANES gradients of row r of a cell, in order."""
    _, pm, pc, pn = parameter_dims
    left = min(pn - first, LANES)
    w, v = splat(0.0), splat(0.0)
    for t in range(per_cell):
        i = ((cell * per_cell + t) * 2 * pm + r) * pn + first
        w += wide(load_n(blocks, i, left))
        v += wide(load_n(blocks, i + pm * pn, left))
    to = ((cell // pc * pm + r) * pc + cell % pc) * pn + first
    put_lanes(dweight, to, narrow(w, dweight), left)
    put_lanes(dbias, to, narrow(v, dbias), left)


@helper
def fold_sums(dims, parameter_dims, sums, o, dweight, dbias):
    """Add up the pairs of all sets that share the parameter o, in order."""
    b, m, c, n = dims
    pb, pm, pc, _ = parameter_dims
    pieces = chunking(m, n)[1]
    slots = slots_of(dims, parameter_dims)
    place, r, column = o // (pm * pc), o // pc % pm, o % pc
    w, v = 0.0, 0.0
    for i in range(place, b, pb):
        for j in range(column, column + 1 if pc > 1 else c):
            first = (i * c + j) * slots + (r * pieces if pm > 1 else 0)
            for h in range(first, first + (pieces if pm > 1 else slots)):
                w += sums[2 * h]
                v += sums[2 * h + 1]
    put(dweight, o, w)
    put(dbias, o, v)


@cache
def backward(center, power, spans_n, parallel):
    """dx and the parameters' gradients, one set at a time."""

    @kernel(parallel)
    def rows_backward(
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
        if parallel > SOURCE:
            return
        b, m, c, n = dims
        pb, pm, pc, pn = parameter_dims
        chunks = chunking(m, n)[2]
        k = float(m * n)
        ahead = next_set(dims)
        cells = pb * pc
        if spans_n:
            sets, size = sets_of_cell(dims, parameter_dims)
            per_cell = (sets + size - 1) // size
            blocks = workspace(cells * per_cell * 2 * pm * pn, weight)
            sums = np.empty(1)
        else:
            sets, size, per_cell = 1, 1, 1
            cells = b * c
            blocks = workspace(1, weight)
            sums = np.empty(2 * b * c * slots_of(dims, parameter_dims))
        for task in prange(cells * per_cell):
            t = np.int64(task)
            block = t * 2 * pm * pn
            if spans_n:
                blocks[block : block + 2 * pm * pn] = 0
            for u in range(t % per_cell * size, min((t % per_cell + 1) * size, sets)):
                s = set_of_cell(dims, parameter_dims, t // per_cell, u) if spans_n else t
                i, j, start = set_at(dims, s)
                mean, rstd = stats_of(dims, stats, s)
                affine = affine_of(splat(mean), splat(rstd), x)
                # 1 moments
                g, gx, signs = 0.0, 0.0, 0.0
                for h in range(chunks):
                    if spans_n:
                        g_h, gx_h, signs_h = chunk_sums_n(
                            dims, parameter_dims, dy, x, weight, affine, blocks, block, i, j, start, h, center, power
                        )
                    else:
                        slot = s * slots_of(dims, parameter_dims)
                        g_h, gx_h, signs_h = chunk_sums(
                            dims, parameter_dims, dy, x, weight, affine, sums, slot, i, j, start, h, center, power
                        )
                    g += g_h
                    gx += gx_h
                    signs += signs_h
                # 2 normalize
                means = means_of(g, gx, signs, rstd, k, center, divisor, limit)
                for h in range(chunks):
                    chunk_dx(
                        dims, parameter_dims, dy, x, weight, affine, dx, i, j, start, h, power, spans_n, means, ahead
                    )
        if spans_n:
            pieces = (pn + LANES - 1) // LANES
            for task in prange(cells * pm * pieces):
                o = np.int64(task)
                fold_blocks(
                    parameter_dims, blocks, per_cell, o // pieces % pm, o // pieces // pm, o % pieces * LANES,
                    dweight, dbias,
                )  # fmt: skip
        else:
            for task in prange(pb * pm * pc):
                fold_sums(dims, parameter_dims, sums, np.int64(task), dweight, dbias)

    return rows_backward
