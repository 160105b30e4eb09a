"""Kernels of the views whose last axis is kept (n == 1): a set (b, c) is m values, c apart; c runs along the lanes.

They also serve short runs (n > 1 small): x is then seen as (b, m, c*n, 1), and the n columns of a set are folded after
each was summed. A chunk is CHUNK rows of m, by the shape alone. A task walks a tile of columns, STRIP rows at a time,
with its sums in memory that stays in the cache; every column is summed in the order of its rows, so tiles cannot be
seen in the bits. Here a thread takes whole tiles; in `columns_split.py` all threads share each column.
"""

from functools import cache

import numpy as np
from numba import prange

from normzoo.backends.cpu.jit import SOURCE, helper, kernel
from normzoo.backends.cpu.lanes import (
    LANES,
    at,
    below,
    fma,
    keep,
    lane,
    larger,
    load_n,
    sign,
    splat,
    store_n,
    total,
    wide,
)
from normzoo.backends.cpu.moments import (
    MEAN,
    RSTD,
    SPREAD,
    affine_of,
    extreme_moments,
    factors_of,
    gradient,
    is_extreme,
    merge,
    read,
    rstd_of,
    standardize,
    write,
)

CHUNK = 256  # rows
STRIP = 8  # rows between two visits to a column's sums
BAND = 256  # columns whose forms and factors stay in the level-1 cache while their rows stream by
TILE = 131072  # values of a tile that is read twice: half a megabyte of float32


@helper
def unit_of(fold):
    """Columns that tiles are made of: whole vectors, and whole sets."""
    return LANES if fold == 1 else LANES * fold


@helper
def tile_width(m, columns, fold):
    """Columns of a tile of m rows that stays in the cache."""
    unit = unit_of(fold)
    return max(unit, min((columns + unit - 1) // unit, TILE // (m * unit)) * unit)


@helper
def parameter_at(w, b, row, column):
    """Flat position in the parameter view of the value for (b, row, column, 0)."""
    pb, pm, pc, _ = w.shape
    place = b if pb > b else b % pb
    return (place * pm + (row if pm > 1 else 0)) * pc + (column if pc > 1 else 0)


@helper
def parameters(w, p, left, full):
    """The lanes of a parameter from position p on: along the columns, or one value for all."""
    return read(w, p, left, full) if w.shape[2] > 1 else splat(at(w, p))


@helper
def strip_moments(x, part, b, h, row, end, j, left, full, center):
    """Add the rows [row, row + STRIP) of chunk h to the sums of the columns at j; after the last, mean and m2."""
    _, m, columns, _ = x.shape
    top = h * CHUNK
    plane = (b * part.shape[1] + h) * 2 * columns + j
    i = (b * m + top) * columns + j
    shift = wide(read(x, i, left, full)) if center else splat(0.0)
    s1, s2 = splat(0.0), splat(0.0)
    if row > top:
        s1, s2 = read(part, plane, left, full), read(part, plane + columns, left, full)
    i += (row - top) * columns
    for _ in range(row, min(row + STRIP, end)):
        d = wide(read(x, i, left, full)) - shift
        s1 += d
        s2 = fma(d, d, s2)
        i += columns
    if row + STRIP >= end:
        mean = s1 / splat(float(end - top))
        if center:
            s2 = larger(s2 - s1 * mean, splat(0.0))
        s1 = shift + mean if center else splat(0.0)
    write(part, plane, s1, left, full)
    write(part, plane + columns, s2, left, full)


@helper
def chunk_moments(x, part, b, h, first, last, center):
    """mean and m2 of chunk h of the columns [first, last), into part[b, h]; sums are around the chunk's first row."""
    top = h * CHUNK
    end = min(top + CHUNK, x.shape[1])
    for row in range(top, end, STRIP):
        j = first
        while j + LANES <= last:
            strip_moments(x, part, b, h, row, end, j, LANES, True, center)
            j += LANES
        if j < last:
            strip_moments(x, part, b, h, row, end, j, last - j, False, center)


@helper
def merge_chunks(part, b, first, last, m):
    """Merge the chunks' mean and m2 of the columns [first, last), in order, into part[b, 0]."""
    chunks, columns = part.shape[1], part.shape[3]
    for j in range(first, last, LANES):
        left = min(last - j, LANES)
        own = b * chunks * 2 * columns + j
        count = splat(float(min(CHUNK, m)))
        mean, m2 = load_n(part, own, left), load_n(part, own + columns, left)
        for h in range(1, chunks):
            p = own + h * 2 * columns
            count_h = splat(float(min(CHUNK, m - h * CHUNK)))
            count, mean, m2 = merge(count, mean, m2, count_h, load_n(part, p, left), load_n(part, p + columns, left))
        store_n(part, own, mean, left)
        store_n(part, own + columns, m2, left)


@helper
def fold_columns(part, stats, b, first, last, m):
    """Merge the columns of each set among [first, last) into `stats`: of equal counts, so by sums around the first."""
    _, bs, c = stats.shape
    columns = part.shape[3]
    fold = columns // c
    plane = b * part.shape[1] * 2 * columns
    if fold == 1:
        for j in range(first, last, LANES):
            left = min(last - j, LANES)
            store_n(stats, (MEAN * bs + b) * c + j, load_n(part, plane + j, left), left)
            store_n(stats, (SPREAD * bs + b) * c + j, load_n(part, plane + columns + j, left), left)
        return
    for s in range(first // fold, last // fold):
        shift = splat(at(part, plane + s * fold))
        s1, s2, m2 = splat(0.0), splat(0.0), splat(0.0)
        for i in range(0, fold, LANES):
            left = min(fold - i, LANES)
            d = keep(load_n(part, plane + s * fold + i, left) - shift, left)
            s1 += d
            s2 = fma(d, d, s2)
            m2 += load_n(part, plane + columns + s * fold + i, left)
        sum1 = total(s1)
        between = total(s2) - sum1 * (sum1 / fold)
        stats[MEAN, b, s] = at(part, plane + s * fold) + sum1 / fold
        stats[SPREAD, b, s] = total(m2) + (m * between if between > 0.0 else 0.0 * between)


@helper
def deviations(x, stats, b, first, last):
    """sum(|x - mean|) of every set among the columns [first, last), in the order of its rows, into `stats`."""
    _, m, columns, _ = x.shape
    fold = columns // stats.shape[2]
    for s in range(first // fold, last // fold):
        stats[SPREAD, b, s] = 0.0
    for row in range(m):
        for s in range(first // fold, last // fold):
            i = (b * m + row) * columns + s * fold
            for j in range(i, i + fold):
                stats[SPREAD, b, s] += abs(np.float64(at(x, j)) - stats[MEAN, b, s])


@helper
def finish(x, stats, affine, b, first, last, center, power, divisor, eps, clamp):
    """From the sums in `stats`: spread, rstd and the columns' affine form; start over where values are extreme."""
    _, bs, c = stats.shape
    _, m, columns, _ = x.shape
    fold = columns // c
    for j in range(first // fold, last // fold, LANES):
        left = min(last // fold - j, LANES)
        place = (SPREAD * bs + b) * c + j
        sums = load_n(stats, place, left)
        spread = sums / splat(divisor) if power != 0 else splat(0.0)
        store_n(stats, place, spread, left)
        store_n(stats, (RSTD * bs + b) * c + j, rstd_of(spread, splat(eps), splat(1.0), power, clamp), left)
        if x.itemsize == 8 or is_extreme(total(sums), 1.0, x):
            for i in range(left):
                if is_extreme(lane(sums, i), eps, x):
                    start = b * m * columns + (j + i) * fold
                    mean, spread_i, rstd = extreme_moments(
                        x, start, m, columns, fold, center, power, divisor, eps, clamp
                    )
                    stats[MEAN, b, j + i] = mean
                    stats[SPREAD, b, j + i] = spread_i
                    stats[RSTD, b, j + i] = rstd
    prepare(x, stats, affine, b, first, last)


@helper
def prepare(x, stats, affine, b, first, last):
    """The four planes of `affine_of` for the columns [first, last)."""
    _, bs, c = stats.shape
    columns = x.shape[2]
    fold = columns // c
    step = LANES if fold == 1 else fold
    for j in range(first, last, step):
        s = b * c + j // fold
        size = min(last - j, step)
        if fold == 1:
            mean, rstd = load_n(stats, s, size), load_n(stats, RSTD * bs * c + s, size)
        else:
            mean, rstd = splat(at(stats, s)), splat(at(stats, RSTD * bs * c + s))
        scale, shift, low, r = affine_of(mean, rstd, x)
        for i in range(j, j + size, LANES):
            left = min(j + size - i, LANES)
            place = b * columns + i
            store_n(affine, place, scale, left)
            store_n(affine, place + bs * columns, shift, left)
            store_n(affine, place + 2 * bs * columns, low, left)
            store_n(affine, place + 3 * bs * columns, r, left)


@helper
def affine_at(affine, b, j, left, full):
    """The four planes of `affine`, or of `factors`, for the columns at j."""
    _, bs, columns = affine.shape
    place = b * columns + j
    plane = bs * columns
    return (
        read(affine, place, left, full),
        read(affine, place + plane, left, full),
        read(affine, place + 2 * plane, left, full),
        read(affine, place + 3 * plane, left, full),
    )


@helper
def strip_apply(x, weight, bias, y, affine, b, row, end, j, left, full, spans_m):
    """y on the rows [row, row + STRIP) of the columns at j."""
    _, m, columns, _ = x.shape
    form = affine_at(affine, b, j, left, full)
    p = parameter_at(weight, b, row, j)
    w, v = parameters(weight, p, left, full), parameters(bias, p, left, full)
    k = (b * m + row) * columns + j
    for _ in range(row, min(row + STRIP, end)):
        if spans_m:
            w, v = parameters(weight, p, left, full), parameters(bias, p, left, full)
            p += weight.shape[2]
        write(y, k, fma(standardize(read(x, k, left, full), *form), w, v), left, full)
        k += columns


@helper
def tile_apply(x, weight, bias, y, affine, b, top, end, first, last, spans_m):
    """y = xhat * weight + bias on the rows [top, end) of the columns [first, last)."""
    for row in range(top, end, STRIP):
        j = first
        while j + LANES <= last:
            strip_apply(x, weight, bias, y, affine, b, row, end, j, LANES, True, spans_m)
            j += LANES
        if j < last:
            strip_apply(x, weight, bias, y, affine, b, row, end, j, last - j, False, spans_m)


@cache
def forward(center, power, spans_m, parallel):
    """Statistics and y, a tile at a time."""

    @kernel(parallel)
    def columns_forward(
        x,  # (b, m, columns, 1)
        weight,  # (pb, pm, pc, 1)
        bias,  # as weight
        y,  # as x
        part,  # (b, chunks, 2, columns) float64 workspace
        affine,  # (4, b, columns) workspace, as x
        stats,  # (3, b, c) float64: mean, spread, rstd
        divisor,  # float: values in a set, or 1 for totals
        eps,  # float
        clamp,  # bool
    ):
        if parallel > SOURCE:
            return
        b, m, columns, _ = x.shape
        width = tile_width(m, columns, columns // stats.shape[2])
        tiles = (columns + width - 1) // width
        for t in prange(b * tiles):
            i, first = t // tiles, t % tiles * width
            last = min(first + width, columns)
            # 1 moments
            for h in range(part.shape[1]):
                chunk_moments(x, part, i, h, first, last, center)
            merge_chunks(part, i, first, last, m)
            fold_columns(part, stats, i, first, last, m)
            if power == 1:
                deviations(x, stats, i, first, last)
            finish(x, stats, affine, i, first, last, center, power, divisor, eps, clamp)
            # 2 normalize
            tile_apply(x, weight, bias, y, affine, i, 0, m, first, last, spans_m)

    return columns_forward


@helper
def strip_sums(dy, x, weight, exact, dweight, dbias, part, block, b, h, row, end, j, left, full, power, spans_m):
    """Add the rows [row, row + STRIP) of chunk h to the sums of the columns at j."""
    _, m, columns, _ = x.shape
    bs = exact.shape[1]
    kept = dweight.shape[5]
    shared = weight.shape[2] == 1
    plane = (b * part.shape[1] + h) * 3 * columns + j
    mean = read(exact, (MEAN * bs + b) * columns + j, left, full)
    rstd = read(exact, (RSTD * bs + b) * columns + j, left, full)
    g_sum, gx_sum, sign_sum = splat(0.0), splat(0.0), splat(0.0)
    if row > h * CHUNK:
        g_sum, gx_sum = read(part, plane, left, full), read(part, plane + columns, left, full)
        if power == 1:
            sign_sum = read(part, plane + 2 * columns, left, full)
    k = (b * m + row) * columns + j
    p, q = 0, 0
    if spans_m:
        p = parameter_at(weight, b, row, j)
        q = block + row * kept + (0 if shared else j % kept)
    for _ in range(row, min(row + STRIP, end)):
        g = wide(read(dy, k, left, full))
        xhat = (wide(read(x, k, left, full)) - mean) * rstd
        if spans_m:
            size = LANES if shared else left
            xhat = xhat if full else keep(xhat, left)
            write(dweight, q, fma(g, xhat, read(dweight, q, size, full)), size, full)
            write(dbias, q, read(dbias, q, size, full) + g, size, full)
            g = g * wide(parameters(weight, p, left, full))
            q += kept
            p += weight.shape[2]
        g_sum += g
        gx_sum = fma(g, xhat, gx_sum)
        if power == 1:
            sign_sum += sign(xhat)
        k += columns
    write(part, plane, g_sum, left, full)
    write(part, plane + columns, gx_sum, left, full)
    if power == 1:
        write(part, plane + 2 * columns, sign_sum, left, full)


@helper
def chunk_sums(dy, x, weight, exact, dweight, dbias, part, block, b, h, first, last, power, spans_m):
    """Sums over chunk h of the columns [first, last), into part[b, h]: sum(g), sum(g * xhat), sum(sign(x - mean)).

    With `spans_m`, g = dy * weight, and dy * xhat and dy are added to the block of dweight and dbias that begins at
    `block`: (pm, kept), or (pm, LANES) where all columns share a weight. Else the sums are of dy: a column has one
    weight, which `weigh` multiplies in, and they are the gradients.
    """
    top = h * CHUNK
    end = min(top + CHUNK, x.shape[1])
    for row in range(top, end, STRIP):
        j = first
        while j + LANES <= last:
            strip_sums(
                dy, x, weight, exact, dweight, dbias, part, block, b, h, row, end, j, LANES, True, power, spans_m
            )
            j += LANES
        if j < last:
            strip_sums(
                dy, x, weight, exact, dweight, dbias, part, block, b, h, row, end, j, last - j, False, power, spans_m
            )


@helper
def weigh(x, weight, part, affine, factors, stats, b, first, last, k, center, power, divisor, limit, spans_m):
    """Add up the sums of each set, columns and chunks in order, and write to its columns what dx takes off g.

    That is `factors_of` mean(g), mean(g * xhat) and mean(sign(x - mean)); the rstd of a clamped set is a constant.
    """
    _, bs, c = stats.shape
    chunks, columns = part.shape[1], part.shape[3]
    fold = columns // c
    plane = bs * columns
    step = LANES if fold == 1 else fold
    for j in range(first, last, step):
        size = min(last - j, step)
        g, gx, signs = splat(0.0), splat(0.0), splat(0.0)
        for i in range(j, j + size, LANES):  # one vector of sets, or the columns of one set
            left = min(j + size - i, LANES)
            w = splat(1.0) if spans_m else wide(parameters(weight, parameter_at(weight, b, 0, i), left, False))
            for h in range(chunks):
                p = (b * chunks + h) * 3 * columns + i
                g = fma(w, load_n(part, p, left), g)
                gx = fma(w, load_n(part, p + columns, left), gx)
                if power == 1:
                    signs += load_n(part, p + 2 * columns, left)
        if fold > 1:
            g, gx, signs = splat(total(g)), splat(total(gx)), splat(total(signs))
        g = g / splat(k) if center else splat(0.0)
        gx = gx / splat(divisor)
        signs = signs / splat(k) if center else splat(0.0)
        for i in range(j, j + size, LANES):
            left = min(j + size - i, LANES)
            place = b * columns + i
            scale = load_n(affine, place, left)
            if limit < np.inf:
                rstd = splat(at(stats, RSTD * bs * c + b * c + j // fold))
                if fold == 1:
                    rstd = load_n(stats, RSTD * bs * c + b * c + j, left)
                gx = below(rstd, splat(limit), gx)
            g_high, g_low, gx_mean, sign_mean = factors_of(g, gx, signs, scale, x)
            store_n(factors, place, g_high, left)
            store_n(factors, place + plane, g_low, left)
            store_n(factors, place + 2 * plane, gx_mean, left)
            store_n(factors, place + 3 * plane, sign_mean, left)


@helper
def dx_of(dy, x, weight, affine, factors, dx, b, row, j, left, full, power):
    """dx in one row of the columns at j."""
    _, m, columns, _ = x.shape
    k = (b * m + row) * columns + j
    form, taken = affine_at(affine, b, j, left, full), affine_at(factors, b, j, left, full)
    w = parameters(weight, parameter_at(weight, b, row, j), left, full)
    d, v = read(dy, k, left, full), read(x, k, left, full)
    write(dx, k, gradient(d, v, w, form, taken, power), left, full)


@helper
def tile_dx(dy, x, weight, affine, factors, dx, b, top, end, first, last, power):
    """dx on the rows [top, end) of the columns [first, last): BAND columns at a time, row by row."""
    for band in range(first, last, BAND):
        stop = min(band + BAND, last)
        for row in range(top, end):
            j = band
            while j + LANES <= stop:
                dx_of(dy, x, weight, affine, factors, dx, b, row, j, LANES, True, power)
                j += LANES
            if j < stop:
                dx_of(dy, x, weight, affine, factors, dx, b, row, j, stop - j, False, power)


@cache
def backward(center, power, spans_m, parallel):
    """dx, column sums and the parameters' gradients, a tile at a time."""

    @kernel(parallel)
    def columns_backward(
        dy,  # (b, m, columns, 1)
        x,  # as dy
        weight,  # (pb, pm, pc, 1)
        stats,  # (3, b, c) float64
        exact,  # (3, b, columns) float64: stats, of every column
        dx,  # as dy
        dweight,  # blocks (see rows.py) with one slab; LANES instead of kept where pc == 1
        dbias,  # blocks
        part,  # (b, chunks, 3, columns) float64: sums of dy, dy * xhat, signs
        affine,  # (4, b, columns) workspace, as x
        factors,  # (4, b, columns) workspace, as affine
        kept,  # int: columns of a task, whole units
        repeats,  # int
        k,  # float: values in a set
        divisor,
        limit,
    ):
        if parallel > SOURCE:
            return
        b, m, columns, _ = x.shape
        pb = weight.shape[0]
        groups = (columns + kept - 1) // kept
        width = tile_width(m, columns, columns // stats.shape[2])
        size = dweight.shape[4] * dweight.shape[5]
        for t in prange((b // pb + repeats - 1) // repeats * pb * groups):
            column = t % groups * kept
            first = t // groups // pb * repeats
            pi = t // groups % pb
            for i in range(first * pb + pi, min((first + repeats) * pb, b), pb):
                for j in range(column, min(column + kept, columns), width):
                    e = min(j + width, column + kept, columns)
                    prepare(x, exact, affine, i, j, e)
                    # 1 moments
                    for h in range(part.shape[1]):
                        chunk_sums(dy, x, weight, exact, dweight, dbias, part, t * size, i, h, j, e, power, spans_m)
                    # 2 normalize
                    weigh(x, weight, part, affine, factors, stats, i, j, e, k, center, power, divisor, limit, spans_m)
                    tile_dx(dy, x, weight, affine, factors, dx, i, 0, m, j, e, power)

    return columns_backward
