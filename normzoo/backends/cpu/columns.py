"""Kernels of the views whose last axis is kept (n == 1): a set (b, c) is m values, c apart; c runs along the lanes.

A chunk is CHUNK rows of m, by the shape alone. A task walks a tile of columns, STRIP rows at a time, with its sums in
memory that stays in the cache; every column is summed in the order of its rows, so tiles cannot be seen in the bits.
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
    larger,
    load_n,
    magnitude,
    minus,
    narrow,
    put,
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
    is_extreme,
    merge,
    rstd_of,
    standardize,
)

CHUNK = 1024  # rows
STRIP = 8  # rows between two visits to a column's sums
TILE = 131072  # values of a tile that is read twice: half a megabyte of float32


@helper
def tile_width(m, c):
    """Columns, a multiple of LANES, of a tile of m rows that stays in the cache."""
    return max(LANES, min((c + LANES - 1) // LANES, TILE // (m * LANES)) * LANES)


@helper
def parameter_at(w, b, row, column):
    """Flat position in the parameter view of the value for (b, row, column, 0)."""
    pb, pm, pc, _ = w.shape
    return ((b % pb) * pm + (row if pm > 1 else 0)) * pc + (column if pc > 1 else 0)


@helper
def parameters(w, p, left):
    """The lanes of a parameter from position p on: along c, or one value for all columns."""
    return load_n(w, p, left) if w.shape[2] > 1 else splat(at(w, p))


@helper
def chunk_moments(x, part, b, h, first, last, center):
    """mean and m2 of chunk h of the columns [first, last), into part[b, h, 0] and part[b, h, 1]."""
    _, m, c, _ = x.shape
    top = h * CHUNK
    end = min(top + CHUNK, m)
    count = splat(float(end - top))
    plane = (b * part.shape[1] + h) * 2 * c
    for row in range(top, end, STRIP):
        for j in range(first, last, LANES):
            left = min(last - j, LANES)
            origin = wide(load_n(x, (b * m + top) * c + j, left))
            shift = origin if center else splat(0.0)
            s1, s2 = splat(0.0), splat(0.0)
            if row > top:
                s1, s2 = load_n(part, plane + j, left), load_n(part, plane + c + j, left)
            for i in range(row, min(row + STRIP, end)):
                d = wide(load_n(x, (b * m + i) * c + j, left)) - shift
                s1 += d
                s2 = fma(d, d, s2)
            if row + STRIP >= end:
                mean = s1 / count
                if center:
                    s2 = larger(s2 - s1 * mean, splat(0.0))
                s1 = shift + mean if center else splat(0.0)
            store_n(part, plane + j, s1, left)
            store_n(part, plane + c + j, s2, left)


@helper
def chunk_deviations(x, stats, part, b, h, first, last):
    """sum(|x - mean|) of chunk h of the columns [first, last), into part[b, h, 1]."""
    bs, m, c, _ = x.shape
    top = h * CHUNK
    end = min(top + CHUNK, m)
    plane = ((b * part.shape[1] + h) * 2 + 1) * c
    for row in range(top, end, STRIP):
        for j in range(first, last, LANES):
            left = min(last - j, LANES)
            middle = load_n(stats, (MEAN * bs + b) * c + j, left)
            s = load_n(part, plane + j, left) if row > top else splat(0.0)
            for i in range(row, min(row + STRIP, end)):
                s += magnitude(wide(load_n(x, (b * m + i) * c + j, left)) - middle)
            store_n(part, plane + j, s, left)


@helper
def merge_means(part, stats, b, first, last, m):
    """Merge the chunks' mean and m2 of the columns [first, last), in order, into the planes of `stats`."""
    _, bs, c = stats.shape
    chunks = part.shape[1]
    for j in range(first, last, LANES):
        left = min(last - j, LANES)
        p = b * chunks * 2 * c + j
        count, mean, m2 = splat(float(min(CHUNK, m))), load_n(part, p, left), load_n(part, p + c, left)
        for h in range(1, chunks):
            p += 2 * c
            count_h = splat(float(min(CHUNK, m - h * CHUNK)))
            count, mean, m2 = merge(count, mean, m2, count_h, load_n(part, p, left), load_n(part, p + c, left))
        store_n(stats, (MEAN * bs + b) * c + j, mean, left)
        store_n(stats, (SPREAD * bs + b) * c + j, m2, left)


@helper
def add_deviations(part, stats, b, first, last):
    """Add the chunks' sums of deviations of the columns [first, last), in order, into `stats`."""
    _, bs, c = stats.shape
    chunks = part.shape[1]
    for j in range(first, last, LANES):
        left = min(last - j, LANES)
        s = splat(0.0)
        for h in range(chunks):
            s += load_n(part, ((b * chunks + h) * 2 + 1) * c + j, left)
        store_n(stats, (SPREAD * bs + b) * c + j, s, left)


@helper
def finish(x, stats, b, first, last, center, power, divisor, eps, clamp):
    """Turn the sums in `stats` into spread and rstd; start over in columns whose values are extreme."""
    bs, m, c, _ = x.shape
    for j in range(first, last, LANES):
        left = min(last - j, LANES)
        place = (SPREAD * bs + b) * c + j
        sums = load_n(stats, place, left)
        spread = sums / splat(divisor) if power != 0 else splat(0.0)
        store_n(stats, place, spread, left)
        store_n(stats, (RSTD * bs + b) * c + j, rstd_of(spread, eps, power, clamp), left)
        if x.itemsize == 8 or is_extreme(total(sums), 1.0, x):
            for i in range(left):
                if is_extreme(lane(sums, i), eps, x):
                    mean, spread_i, rstd = extreme_moments(
                        x, b * m * c + j + i, m, c, 1, center, power, divisor, eps, clamp
                    )
                    stats[MEAN, b, j + i] = mean
                    stats[SPREAD, b, j + i] = spread_i
                    stats[RSTD, b, j + i] = rstd


@helper
def columns_affine(x, stats, b, j, left):
    """`affine_of` the columns from j on."""
    bs, _, c, _ = x.shape
    mean = load_n(stats, (MEAN * bs + b) * c + j, left)
    return affine_of(mean, load_n(stats, (RSTD * bs + b) * c + j, left), x)


@helper
def tile_apply(x, weight, bias, y, stats, b, top, end, first, last, spans_m):
    """y = xhat * weight + bias on the rows [top, end) of the columns [first, last)."""
    _, m, c, _ = x.shape
    for row in range(top, end, STRIP):
        for j in range(first, last, LANES):
            left = min(last - j, LANES)
            scale, shift, low, r = columns_affine(x, stats, b, j, left)
            p = parameter_at(weight, b, row, j)
            w, v = parameters(weight, p, left), parameters(bias, p, left)
            for i in range(row, min(row + STRIP, end)):
                if spans_m:
                    p = parameter_at(weight, b, i, j)
                    w, v = parameters(weight, p, left), parameters(bias, p, left)
                k = (b * m + i) * c + j
                store_n(y, k, fma(standardize(load_n(x, k, left), scale, shift, low, r), w, v), left)


@cache
def forward_whole(center, power, spans_m, parallel):
    """Statistics and y of sets of one chunk, a tile at a time."""

    @kernel(parallel)
    def forward(
        x,  # (b, m, c, 1)
        weight,  # (pb, pm, pc, 1)
        bias,  # as weight
        y,  # as x
        part,  # (b, 1, 2, c) float64 workspace
        stats,  # (3, b, c) float64: mean, spread, rstd
        divisor,  # float: m, or 1 for totals
        eps,  # float
        clamp,  # bool
    ):
        if parallel > SOURCE:
            return
        b, m, c, _ = x.shape
        width = tile_width(m, c)
        tiles = (c + width - 1) // width
        for t in prange(b * tiles):
            i, first = t // tiles, t % tiles * width
            last = min(first + width, c)
            # 1 moments
            chunk_moments(x, part, i, 0, first, last, center)
            merge_means(part, stats, i, first, last, m)
            if power == 1:
                chunk_deviations(x, stats, part, i, 0, first, last)
                add_deviations(part, stats, i, first, last)
            finish(x, stats, i, first, last, center, power, divisor, eps, clamp)
            # 2 normalize
            tile_apply(x, weight, bias, y, stats, i, 0, m, first, last, spans_m)

    return forward


@cache
def moments_split(center, power, parallel):
    """Statistics of sets of many chunks."""

    @kernel(parallel)
    def moments(
        x,  # (b, m, c, 1)
        part,  # (b, chunks, 2, c) float64 workspace
        stats,  # (3, b, c) float64
        divisor,
        eps,
        clamp,
    ):
        if parallel > SOURCE:
            return
        b, m, c, _ = x.shape
        chunks = part.shape[1]
        width = tile_width(1, c)
        tiles = (c + width - 1) // width
        for t in prange(b * chunks * tiles):
            i, h, first = t // tiles // chunks, t // tiles % chunks, t % tiles * width
            chunk_moments(x, part, i, h, first, min(first + width, c), center)
        for i in range(b):
            merge_means(part, stats, i, 0, c, m)
        if power == 1:
            for t in prange(b * chunks * tiles):
                i, h, first = t // tiles // chunks, t // tiles % chunks, t % tiles * width
                chunk_deviations(x, stats, part, i, h, first, min(first + width, c))
            for i in range(b):
                add_deviations(part, stats, i, 0, c)
        for i in range(b):
            finish(x, stats, i, 0, c, center, power, divisor, eps, clamp)

    return moments


@cache
def apply(spans_m, parallel):
    """y from given statistics."""

    @kernel(parallel)
    def apply_(
        x,  # (b, m, c, 1)
        weight,  # (pb, pm, pc, 1)
        bias,  # as weight
        y,  # as x
        stats,  # (3, b, c) float64
    ):
        if parallel > SOURCE:
            return
        b, m, c, _ = x.shape
        height = max(STRIP, TILE // (STRIP * c) * STRIP // 4)
        blocks = (m + height - 1) // height
        for t in prange(b * blocks):
            top = t % blocks * height
            tile_apply(x, weight, bias, y, stats, t // blocks, top, min(top + height, m), 0, c, spans_m)

    return apply_


@helper
def chunk_sums(dy, x, weight, stats, dweight, dbias, part, block, b, h, first, last, power, spans_m):
    """Sums over chunk h of the columns [first, last), into part[b, h]: sum(g), sum(g * xhat), sum(sign(x - mean)).

    With `spans_m`, g = dy * weight, and dy * xhat and dy are added to the block of dweight and dbias that begins at
    `block`: (pm, kept), or (pm, LANES) where all columns share a weight. Else the sums are of dy: a column has one
    weight, which `weigh` multiplies in, and they are the gradients.
    """
    _, m, c, _ = x.shape
    kept = dweight.shape[5]
    shared = weight.shape[2] == 1
    top = h * CHUNK
    end = min(top + CHUNK, m)
    plane = (b * part.shape[1] + h) * 3 * c
    for row in range(top, end, STRIP):
        for j in range(first, last, LANES):
            left = min(last - j, LANES)
            scale, shift, low, r = columns_affine(x, stats, b, j, left)
            p = plane + j
            g_sum, gx_sum, sign_sum = splat(0.0), splat(0.0), splat(0.0)
            if row > top:
                g_sum, gx_sum = load_n(part, p, left), load_n(part, p + c, left)
                if power == 1:
                    sign_sum = load_n(part, p + 2 * c, left)
            for i in range(row, min(row + STRIP, end)):
                k = (b * m + i) * c + j
                g = load_n(dy, k, left)
                xhat = standardize(load_n(x, k, left), scale, shift, low, r)
                if spans_m:
                    q = block + i * kept + (0 if shared else j % kept)
                    size = LANES if shared else left
                    gx = keep(g * xhat, left)
                    store_n(dweight, q, load_n(dweight, q, size) + wide(gx), size)
                    store_n(dbias, q, load_n(dbias, q, size) + wide(g), size)
                    g = g * parameters(weight, parameter_at(weight, b, i, j), left)
                g_sum += wide(g)
                gx_sum += wide(g * xhat)
                if power == 1:
                    sign_sum += wide(sign(xhat))
            store_n(part, p, g_sum, left)
            store_n(part, p + c, gx_sum, left)
            store_n(part, p + 2 * c, sign_sum, left)


@helper
def weigh(weight, part, factors, stats, b, first, last, k, center, divisor, limit, spans_m):
    """Add the chunks' sums in order and turn them into the factors of `tile_dx`; a clamped rstd is a constant."""
    c = stats.shape[2]
    chunks = part.shape[1]
    for j in range(first, last):
        g, gx, signs = 0.0, 0.0, 0.0
        for h in range(chunks):
            p = (b * chunks + h) * 3 * c + j
            g += at(part, p)
            gx += at(part, p + c)
            signs += at(part, p + 2 * c)
        if not spans_m:
            w = np.float64(at(weight, parameter_at(weight, b, 0, j)))
            g *= w
            gx *= w
        place = b * 3 * c + j
        put(factors, place, g / k if center else 0.0)
        put(factors, place + c, 0.0 if stats[RSTD, b, j] >= limit else gx / divisor)
        put(factors, place + 2 * c, signs / k if center else 0.0)


@helper
def tile_dx(dy, x, weight, stats, factors, dx, b, top, end, first, last, power, spans_m):
    """dx = rstd * (g - mean(g) - q * mean(g * xhat)) on the rows [top, end) of the columns [first, last)."""
    _, m, c, _ = x.shape
    for row in range(top, end, STRIP):
        for j in range(first, last, LANES):
            left = min(last - j, LANES)
            scale, shift, low, r = columns_affine(x, stats, b, j, left)
            f = b * 3 * c + j
            g_mean = narrow(load_n(factors, f, left), x)
            minus_gx = minus(narrow(load_n(factors, f + c, left), x))
            sign_mean = narrow(load_n(factors, f + 2 * c, left), x)
            w = parameters(weight, parameter_at(weight, b, row, j), left)
            for i in range(row, min(row + STRIP, end)):
                if spans_m:
                    w = parameters(weight, parameter_at(weight, b, i, j), left)
                k = (b * m + i) * c + j
                t = load_n(dy, k, left) * w - g_mean  # not fused: exactly 0 in a set of one value
                if power != 0:
                    q = standardize(load_n(x, k, left), scale, shift, low, r)
                    if power == 1:
                        q = sign(q) - sign_mean
                    t = fma(q, minus_gx, t)
                store_n(dx, k, t * r * scale, left)


@cache
def backward_whole(center, power, spans_m, parallel):
    """dx, column sums and the parameters' gradients of sets of one chunk, a tile at a time."""

    @kernel(parallel)
    def backward(
        dy,  # (b, m, c, 1)
        x,  # as dy
        weight,  # (pb, pm, pc, 1)
        stats,  # (3, b, c) float64
        dx,  # as dy
        dweight,  # blocks (see rows.py) with one slab; LANES instead of kept where pc == 1
        dbias,  # blocks
        part,  # (b, 1, 3, c) float64: sums of dy, dy * xhat, signs
        factors,  # (b, 3, c) float64 workspace
        kept,  # int: columns of a task
        repeats,  # int
        divisor,
        limit,
    ):
        if parallel > SOURCE:
            return
        b, m, c, _ = x.shape
        pb = weight.shape[0]
        groups = (c + kept - 1) // kept
        width = tile_width(m, c)
        size = dweight.shape[4] * dweight.shape[5]
        k = float(m)
        for t in prange((b // pb + repeats - 1) // repeats * pb * groups):
            column = t % groups * kept
            first = t // groups // pb * repeats
            pi = t // groups % pb
            for i in range(first * pb + pi, min((first + repeats) * pb, b), pb):
                for j in range(column, min(column + kept, c), width):
                    e = min(j + width, column + kept, c)
                    chunk_sums(dy, x, weight, stats, dweight, dbias, part, t * size, i, 0, j, e, power, spans_m)
                    weigh(weight, part, factors, stats, i, j, e, k, center, divisor, limit, spans_m)
                    tile_dx(dy, x, weight, stats, factors, dx, i, 0, m, j, e, power, spans_m)

    return backward


@cache
def backward_split(center, power, spans_m, parallel):
    """dx, column sums and the parameters' gradients of sets of many chunks."""

    @kernel(parallel)
    def backward(
        dy,  # (b, m, c, 1)
        x,  # as dy
        weight,  # (pb, pm, pc, 1)
        stats,  # (3, b, c) float64
        dx,  # as dy
        dweight,  # blocks with one R-chunk and one slab
        dbias,  # blocks
        part,  # (b, chunks, 3, c) float64
        factors,  # (b, 3, c) float64 workspace
        kept,  # int
        divisor,
        limit,
    ):
        if parallel > SOURCE:
            return
        b, m, c, _ = x.shape
        pb = weight.shape[0]
        chunks = part.shape[1]
        groups = (c + kept - 1) // kept
        size = dweight.shape[4] * dweight.shape[5]
        k = float(m)
        for t in prange(pb * chunks * groups):
            pi, h, g = t // groups // chunks, t // groups % chunks, t % groups
            first = g * kept
            for i in range(pi, b, pb):
                chunk_sums(
                    dy,
                    x,
                    weight,
                    stats,
                    dweight,
                    dbias,
                    part,
                    (pi * groups + g) * size,
                    i,
                    h,
                    first,
                    min(first + kept, c),
                    power,
                    spans_m,
                )
        for i in prange(b):
            weigh(weight, part, factors, stats, i, 0, c, k, center, divisor, limit, spans_m)
        height = max(STRIP, TILE // (STRIP * c) * STRIP // 4)
        blocks = (m + height - 1) // height
        for t in prange(b * blocks):
            top = t % blocks * height
            i = t // blocks
            tile_dx(dy, x, weight, stats, factors, dx, i, top, min(top + height, m), 0, c, power, spans_m)

    return backward
