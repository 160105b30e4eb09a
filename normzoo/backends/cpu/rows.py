"""Kernels of the views whose last axis is reduced (n > 1): a set (b, c) is m runs of n neighbouring values.

A set is cut into chunks of about CHUNK values, by its shape alone: several runs, or a piece of one. Each chunk gives
float64 sums around its own first value; chunks are merged in order. So neither the number of threads nor the number
of sets can be seen in the bits. Here a thread takes whole sets; in `rows_split.py` all threads share each set.
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
    load,
    load_n,
    magnitude,
    put,
    sign,
    splat,
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

CHUNK = 4096  # values: 16 KB of float32, a third of a level-1 cache; 256 additions a lane


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
def parameter_at(w, b, run, c):
    """Flat position in the parameter view of the value for (b, run, c, 0)."""
    pb, pm, pc, pn = w.shape
    place = b if pb > b else b % pb
    place = place * pm + (run if pm > 1 else 0)
    place = place * pc + (c if pc > 1 else 0)
    return place * pn


@helper
def chunk_moments(x, start, j, center):
    """count, mean, m2 of chunk j of the set at `start`, from sums around the chunk's first value."""
    _, m, c, n = x.shape
    run, runs, skip, length = chunk_of(j, m, n)
    count = float(runs * length)
    start += run * c * n + skip
    if c == 1:  # the runs are neighbours
        runs, length = 1, runs * length
    first = np.float64(at(x, start)) if center else 0.0
    shift = splat(first)
    s1, t1, s2, t2 = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
    for h in range(runs):
        i = start + h * c * n
        end = i + length
        while i + 2 * LANES <= end:
            d = wide(load(x, i)) - shift
            e = wide(load(x, i + LANES)) - shift
            s1 += d
            t1 += e
            s2 = fma(d, d, s2)
            t2 = fma(e, e, t2)
            i += 2 * LANES
        if i + LANES <= end:
            d = wide(load(x, i)) - shift
            s1 += d
            s2 = fma(d, d, s2)
            i += LANES
        if i < end:
            e = keep(wide(load_n(x, i, end - i)) - shift, end - i)
            t1 += e
            t2 = fma(e, e, t2)
    sum2 = total(s2 + t2)
    if not center:
        return count, 0.0, sum2
    sum1 = total(s1 + t1)
    m2 = sum2 - sum1 * (sum1 / count)
    return count, first + sum1 / count, 0.0 if m2 < 0.0 else m2


@helper
def chunk_deviations(x, start, j, mean):
    """sum(|x - mean|) of chunk j of the set at `start`."""
    _, m, c, n = x.shape
    run, runs, skip, length = chunk_of(j, m, n)
    middle = splat(mean)
    s = splat(0.0)
    for h in range(run, run + runs):
        i = start + h * c * n + skip
        end = i + length
        while i + LANES <= end:
            s += magnitude(wide(load(x, i)) - middle)
            i += LANES
        if i < end:
            s += keep(magnitude(wide(load_n(x, i, end - i)) - middle), end - i)
    return total(s)


@helper
def finish(x, start, mean, spread, stats, b, c, center, power, divisor, eps, clamp):
    """Write mean, spread / divisor and rstd of the set at `start`; start over if its values are extreme."""
    _, m, columns, n = x.shape
    if is_extreme(spread, eps, x):
        mean, spread, rstd = extreme_moments(x, start, m, columns * n, n, center, power, divisor, eps, clamp)
    else:
        spread = spread / divisor if power != 0 else 0.0
        rstd = rstd_of(spread, eps, 1.0, power, clamp)
    stats[MEAN, b, c] = mean
    stats[SPREAD, b, c] = spread
    stats[RSTD, b, c] = rstd


@helper
def y_of(x, weight, bias, y, i, p, w, v, affine, spans_n, left, full):
    """y = xhat * weight + bias, on up to LANES values."""
    if spans_n:
        w, v = read(weight, p, left, full), read(bias, p, left, full)
    write(y, i, fma(standardize(read(x, i, left, full), *affine), w, v), left, full)


@helper
def chunk_apply(x, weight, bias, y, stats, b, c, j, spans_n):
    """y on chunk j of set (b, c); `spans_n`: the parameters vary along n."""
    _, m, columns, n = x.shape
    affine = affine_of(splat(stats[MEAN, b, c]), splat(stats[RSTD, b, c]), x)
    first, runs, skip, length = chunk_of(j, m, n)
    for run in range(first, first + runs):
        i = ((b * m + run) * columns + c) * n + skip
        end = i + length
        p = parameter_at(weight, b, run, c)
        w, v = splat(at(weight, p)), splat(at(bias, p))
        p += skip
        while i + LANES <= end:
            y_of(x, weight, bias, y, i, p, w, v, affine, spans_n, LANES, True)
            i += LANES
            p += LANES
        if i < end:
            y_of(x, weight, bias, y, i, p, w, v, affine, spans_n, end - i, False)


@cache
def forward(center, power, spans_n, parallel):
    """Statistics and y, one set at a time."""

    @kernel(parallel)
    def rows_forward(
        x,  # (b, m, c, n)
        weight,  # (pb, pm, pc, pn)
        bias,  # as weight
        y,  # as x
        stats,  # (3, b, c) float64: mean, spread, rstd
        divisor,  # float: m*n, or 1 for totals
        eps,  # float
        clamp,  # bool
    ):
        if parallel > SOURCE:
            return
        b, m, c, n = x.shape
        for s in prange(b * c):
            i, j = s // c, s % c
            start = (i * m * c + j) * n
            chunks = chunking(m, n)[2]
            # 1 moments
            count, mean, spread = chunk_moments(x, start, 0, center)
            for h in range(1, chunks):
                count_h, mean_h, spread_h = chunk_moments(x, start, h, center)
                count, mean, spread = merge(count, mean, spread, count_h, mean_h, spread_h)
            if power == 1:
                spread = 0.0
                for h in range(chunks):
                    spread += chunk_deviations(x, start, h, mean)
            finish(x, start, mean, spread, stats, i, j, center, power, divisor, eps, clamp)
            # 2 normalize
            for h in range(chunks):
                chunk_apply(x, weight, bias, y, stats, i, j, h, spans_n)

    return rows_forward


@helper
def terms_of(dy, x, i, mean, rstd, left, full):
    """dy and xhat as float64, on up to LANES values, zeros behind."""
    xhat = (wide(read(x, i, left, full)) - mean) * rstd
    return wide(read(dy, i, left, full)), xhat if full else keep(xhat, left)


@helper
def add_gradients(d, xhat, weight, dweight, dbias, p, q, left, full):
    """Add dy * xhat and dy to the gradients at q; g = dy * weight."""
    write(dweight, q, fma(d, xhat, read(dweight, q, left, full)), left, full)
    write(dbias, q, read(dbias, q, left, full) + d, left, full)
    return d * wide(read(weight, p, left, full))


@helper
def chunk_sums(dy, x, weight, stats, dweight, dbias, block, b, c, j, power, spans_n):
    """sum(g), sum(g * xhat), sum(sign(x - mean)) over chunk j of set (b, c), with g = dy * weight.

    Adds dy * xhat to `dweight` and dy to `dbias`, in the block that begins at `block`: see `backward`.
    """
    _, m, columns, n = x.shape
    pm = weight.shape[1]
    mean, rstd = splat(stats[MEAN, b, c]), splat(stats[RSTD, b, c])
    first, runs, skip, length = chunk_of(j, m, n)
    zero = splat(0.0)
    g_sum, gx_sum, sign_sum = zero, zero, zero
    g_scalar, gx_scalar = 0.0, 0.0
    for run in range(first, first + runs):
        i = ((b * m + run) * columns + c) * n + skip
        end = i + length
        p = parameter_at(weight, b, run, c)
        q = block + (run if pm > 1 else 0) * dweight.shape[6]
        if not spans_n:
            g_sum, gx_sum = zero, zero
        w = np.float64(at(weight, p))
        p += skip
        while i + LANES <= end:
            g, xhat = terms_of(dy, x, i, mean, rstd, LANES, True)
            if spans_n:
                g = add_gradients(g, xhat, weight, dweight, dbias, p, q + skip, LANES, True)
            g_sum += g
            gx_sum = fma(g, xhat, gx_sum)
            if power == 1:
                sign_sum += sign(xhat)
            i += LANES
            p += LANES
            q += LANES if spans_n else 0
        if i < end:
            g, xhat = terms_of(dy, x, i, mean, rstd, end - i, False)
            if spans_n:
                g = add_gradients(g, xhat, weight, dweight, dbias, p, q + skip, end - i, False)
            g_sum += g
            gx_sum = fma(g, xhat, gx_sum)
            if power == 1:
                sign_sum += sign(xhat)
        if not spans_n:
            d_run, dx_run = total(g_sum), total(gx_sum)
            g_scalar += w * d_run
            gx_scalar += w * dx_run
            put(dweight, q, at(dweight, q) + dx_run)
            put(dbias, q, at(dbias, q) + d_run)
    signs = total(sign_sum) if power == 1 else 0.0
    if spans_n:
        return total(g_sum), total(gx_sum), signs
    return g_scalar, gx_scalar, signs


@helper
def dx_of(dy, x, weight, dx, i, p, w, affine, factors, power, spans_n, left, full):
    """dx on up to LANES values."""
    if spans_n:
        w = read(weight, p, left, full)
    d, v = read(dy, i, left, full), read(x, i, left, full)
    write(dx, i, gradient(d, v, w, affine, factors, power), left, full)


@helper
def chunk_dx(dy, x, weight, stats, dx, b, c, j, power, spans_n, g_mean, gx_mean, sign_mean):
    """dx on chunk j of set (b, c)."""
    _, m, columns, n = x.shape
    affine = affine_of(splat(stats[MEAN, b, c]), splat(stats[RSTD, b, c]), x)
    factors = factors_of(splat(g_mean), splat(gx_mean), splat(sign_mean), affine[0], x)
    first, runs, skip, length = chunk_of(j, m, n)
    for run in range(first, first + runs):
        i = ((b * m + run) * columns + c) * n + skip
        end = i + length
        p = parameter_at(weight, b, run, c)
        w = splat(at(weight, p))
        p += skip
        while i + LANES <= end:
            dx_of(dy, x, weight, dx, i, p, w, affine, factors, power, spans_n, LANES, True)
            i += LANES
            p += LANES
        if i < end:
            dx_of(dy, x, weight, dx, i, p, w, affine, factors, power, spans_n, end - i, False)


@helper
def means_of(g, gx, signs, rstd, k, center, divisor, limit):
    """The factors that `chunk_dx` takes; the rstd of a clamped set stands at `limit` and is a constant."""
    return g / k if center else 0.0, 0.0 if rstd >= limit else gx / divisor, signs / k if center else 0.0


# The blocks of dweight and dbias are (R-chunks, pb, c-groups, slabs, pm, 1, pn) float64 zeros, which the caller adds up
# in order. b counts R repeats of the pb sets of parameters; a task takes `repeats` of them, for one of the pb and one
# c-group of columns, which is one column where the parameters vary along c. A slab is what two chunks cannot share.


@cache
def backward(center, power, spans_n, parallel):
    """dx and the parameters' gradients, one set at a time."""

    @kernel(parallel)
    def rows_backward(
        dy,  # (b, m, c, n)
        x,  # as dy
        weight,  # (pb, pm, pc, pn)
        stats,  # (3, b, c) float64
        dx,  # as dy
        dweight,  # blocks
        dbias,  # blocks
        repeats,  # int
        columns,  # int: of a task
        divisor,  # float: m*n, or 1 for totals
        limit,  # float: rstd of a clamped set, or inf
    ):
        if parallel > SOURCE:
            return
        b, m, c, n = x.shape
        _, pb, groups, _, pm, _, pn = dweight.shape
        chunks = chunking(m, n)[2]
        k = float(m * n)
        for t in prange(dweight.size // (pm * pn)):
            block = t * pm * pn
            column = t % groups * columns
            first = t // groups // pb * repeats
            pi = t // groups % pb
            for i in range(first * pb + pi, min((first + repeats) * pb, b), pb):
                for j in range(column, min(column + columns, c)):
                    # 1 moments
                    g, gx, signs = 0.0, 0.0, 0.0
                    for h in range(chunks):
                        g_h, gx_h, signs_h = chunk_sums(
                            dy, x, weight, stats, dweight, dbias, block, i, j, h, power, spans_n
                        )
                        g += g_h
                        gx += gx_h
                        signs += signs_h
                    # 2 normalize
                    g, gx, signs = means_of(g, gx, signs, stats[RSTD, i, j], k, center, divisor, limit)
                    for h in range(chunks):
                        chunk_dx(dy, x, weight, stats, dx, i, j, h, power, spans_n, g, gx, signs)

    return rows_backward
