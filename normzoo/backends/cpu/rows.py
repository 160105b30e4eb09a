"""Kernels of the views whose last axis is reduced (n > 1): a set (b, c) is m runs of n neighbouring values.

A set is cut into chunks of about CHUNK values, by its shape alone: several runs, or a piece of one. Each chunk gives
float64 sums around its own first value; chunks are merged in order. So neither the number of threads nor the number
of sets can be seen in the bits, and a second thread can join inside a set (`split`) or take sets of its own (`whole`).
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
    put,
    sign,
    splat,
    store,
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

CHUNK = 4096  # values: 16 KB of float32, half of a level-1 cache; 256 additions a lane


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
    place = b % pb
    place = place * pm + (run if pm > 1 else 0)
    place = place * pc + (c if pc > 1 else 0)
    return place * pn


@helper
def sums_of(x, start, step, runs, n, center):
    """shift, sum(x - shift), sum((x - shift)^2) of `runs` runs of n values; the shift is the first value, or 0."""
    first = np.float64(at(x, start)) if center else 0.0
    shift = splat(first)
    s1 = splat(0.0)
    t1 = splat(0.0)
    s2 = splat(0.0)
    t2 = splat(0.0)
    for run in range(runs):
        i = start + run * step
        end = i + n
        while i + 2 * LANES <= end:
            d = wide(load(x, i)) - shift
            e = wide(load(x, i + LANES)) - shift
            s1 += d
            t1 += e
            s2 = fma(d, d, s2)
            t2 = fma(e, e, t2)
            i += 2 * LANES
        while i < end:
            left = min(end - i, LANES)
            d = keep(wide(load_n(x, i, left)) - shift, left)
            s1 += d
            s2 = fma(d, d, s2)
            i += LANES
    return first, total(s1 + t1), total(s2 + t2)


@helper
def deviations_of(x, start, step, runs, n, mean):
    """sum(|x - mean|) of `runs` runs of n values."""
    middle = splat(mean)
    s = splat(0.0)
    for run in range(runs):
        i = start + run * step
        end = i + n
        while i < end:
            left = min(end - i, LANES)
            s += keep(magnitude(wide(load_n(x, i, left)) - middle), left)
            i += LANES
    return total(s)


@helper
def chunk_moments(x, start, j, center):
    """count, mean, m2 of chunk j of the set at `start`."""
    _, m, c, n = x.shape
    run, runs, i, length = chunk_of(j, m, n)
    shift, s1, s2 = sums_of(x, start + run * c * n + i, c * n, runs, length, center)
    count = float(runs * length)
    if not center:
        return count, 0.0, s2
    m2 = s2 - s1 * (s1 / count)
    return count, shift + s1 / count, 0.0 if m2 < 0.0 else m2


@helper
def chunk_deviations(x, start, j, mean):
    _, m, c, n = x.shape
    run, runs, i, length = chunk_of(j, m, n)
    return deviations_of(x, start + run * c * n + i, c * n, runs, length, mean)


@helper
def finish(x, start, mean, spread, stats, b, c, center, power, divisor, eps, clamp):
    """Write mean, spread / divisor and rstd of the set at `start`; start over if its values are extreme."""
    _, m, columns, n = x.shape
    if is_extreme(spread, eps, x):
        mean, spread, rstd = extreme_moments(x, start, m, columns * n, n, center, power, divisor, eps, clamp)
    else:
        spread = spread / divisor if power != 0 else 0.0
        rstd = lane(rstd_of(splat(spread), eps, power, clamp), 0)
    stats[MEAN, b, c] = mean
    stats[SPREAD, b, c] = spread
    stats[RSTD, b, c] = rstd


@helper
def chunk_apply(x, weight, bias, y, stats, b, c, j, spans_n):
    """y = xhat * weight + bias on chunk j of set (b, c); `spans_n`: the parameters vary along n."""
    _, m, columns, n = x.shape
    scale, shift, low, r = affine_of(splat(stats[MEAN, b, c]), splat(stats[RSTD, b, c]), x)
    first, runs, skip, length = chunk_of(j, m, n)
    for run in range(first, first + runs):
        i = ((b * m + run) * columns + c) * n + skip
        end = i + length
        p = parameter_at(weight, b, run, c)
        if spans_n:
            p += skip
            while i + LANES <= end:
                xhat = standardize(load(x, i), scale, shift, low, r)
                store(y, i, fma(xhat, load(weight, p), load(bias, p)))
                i += LANES
                p += LANES
            if i < end:
                left = end - i
                xhat = standardize(load_n(x, i, left), scale, shift, low, r)
                store_n(y, i, fma(xhat, load_n(weight, p, left), load_n(bias, p, left)), left)
        else:
            w = splat(at(weight, p))
            v = splat(at(bias, p))
            while i + LANES <= end:
                store(y, i, fma(standardize(load(x, i), scale, shift, low, r), w, v))
                i += LANES
            if i < end:
                left = end - i
                store_n(y, i, fma(standardize(load_n(x, i, left), scale, shift, low, r), w, v), left)


@helper
def set_forward(x, weight, bias, y, stats, b, c, center, power, spans_n, divisor, eps, clamp):
    _, m, columns, n = x.shape
    start = (b * m * columns + c) * n
    chunks = chunking(m, n)[2]
    # 1 moments
    count, mean, spread = chunk_moments(x, start, 0, center)
    for j in range(1, chunks):
        count_j, mean_j, spread_j = chunk_moments(x, start, j, center)
        count, mean, spread = merge(count, mean, spread, count_j, mean_j, spread_j)
    if power == 1:
        spread = 0.0
        for j in range(chunks):
            spread += chunk_deviations(x, start, j, mean)
    finish(x, start, mean, spread, stats, b, c, center, power, divisor, eps, clamp)
    # 2 normalize
    for j in range(chunks):
        chunk_apply(x, weight, bias, y, stats, b, c, j, spans_n)


@cache
def forward_whole(center, power, spans_n, parallel):
    """Statistics and y, one set at a time."""

    @kernel(parallel)
    def forward(
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
        b, _, c, _ = x.shape
        for s in prange(b * c):
            set_forward(x, weight, bias, y, stats, s // c, s % c, center, power, spans_n, divisor, eps, clamp)

    return forward


@cache
def moments_split(center, power, parallel):
    """Statistics of a few large sets, all threads in each."""

    @kernel(parallel)
    def moments(
        x,  # (b, m, c, n)
        part,  # (b, c, chunks, 3) float64 workspace: count, mean, m2
        stats,  # (3, b, c) float64
        divisor,
        eps,
        clamp,
    ):
        if parallel > SOURCE:
            return
        b, m, c, n = x.shape
        chunks = part.shape[2]
        for t in prange(b * c * chunks):
            s = t // chunks
            start = (s // c * m * c + s % c) * n
            count, mean, spread = chunk_moments(x, start, t % chunks, center)
            put(part, 3 * t, count)
            put(part, 3 * t + 1, mean)
            put(part, 3 * t + 2, spread)
        for s in range(b * c):
            at_ = part[s // c, s % c]
            count, mean, spread = at_[0, 0], at_[0, 1], at_[0, 2]
            for j in range(1, chunks):
                count, mean, spread = merge(count, mean, spread, at_[j, 0], at_[j, 1], at_[j, 2])
            stats[MEAN, s // c, s % c] = mean
            stats[SPREAD, s // c, s % c] = spread
        if power == 1:
            for t in prange(b * c * chunks):
                s = t // chunks
                start = (s // c * m * c + s % c) * n
                put(part, 3 * t, chunk_deviations(x, start, t % chunks, stats[MEAN, s // c, s % c]))
            for s in range(b * c):
                spread = 0.0
                for j in range(chunks):
                    spread += part[s // c, s % c, j, 0]
                stats[SPREAD, s // c, s % c] = spread
        for s in range(b * c):
            i, j = s // c, s % c
            start = (i * m * c + j) * n
            finish(x, start, stats[MEAN, i, j], stats[SPREAD, i, j], stats, i, j, center, power, divisor, eps, clamp)

    return moments


@cache
def apply(spans_n, parallel):
    """y from given statistics."""

    @kernel(parallel)
    def apply_(
        x,  # (b, m, c, n)
        weight,  # (pb, pm, pc, pn)
        bias,  # as weight
        y,  # as x
        stats,  # (3, b, c) float64
    ):
        if parallel > SOURCE:
            return
        b, m, c, n = x.shape
        chunks = chunking(m, n)[2]
        for t in prange(b * c * chunks):
            s = t // chunks
            chunk_apply(x, weight, bias, y, stats, s // c, s % c, t % chunks, spans_n)

    return apply_


@helper
def chunk_sums(dy, x, weight, stats, dweight, dbias, block, b, c, j, power, spans_n):
    """sum(g), sum(g * xhat), sum(sign(x - mean)) over chunk j of set (b, c), with g = dy * weight.

    Adds dy * xhat to `dweight` and dy to `dbias`, in the block that begins at `block`: see `backward_whole`.
    """
    _, m, columns, n = x.shape
    pm = weight.shape[1]
    scale, shift, low, r = affine_of(splat(stats[MEAN, b, c]), splat(stats[RSTD, b, c]), x)
    first, runs, skip, length = chunk_of(j, m, n)
    zero = splat(0.0)
    g_sum, gx_sum, sign_sum = zero, zero, zero
    g_scalar, gx_scalar = 0.0, 0.0
    for run in range(first, first + runs):
        i = ((b * m + run) * columns + c) * n + skip
        end = i + length
        p = parameter_at(weight, b, run, c)
        q = run if pm > 1 else 0
        if spans_n:
            p += skip
            q = block + q * n + skip
            while i < end:
                left = min(end - i, LANES)
                d = load_n(dy, i, left)
                xhat = keep(standardize(load_n(x, i, left), scale, shift, low, r), left)
                store_n(dweight, q, load_n(dweight, q, left) + wide(d * xhat), left)
                store_n(dbias, q, load_n(dbias, q, left) + wide(d), left)
                g = d * load_n(weight, p, left)
                g_sum += wide(g)
                gx_sum += wide(g * xhat)
                if power == 1:
                    sign_sum += wide(sign(xhat))
                i += LANES
                p += LANES
                q += LANES
        else:
            q += block
            d_sum, dx_sum = zero, zero
            while i < end:
                left = min(end - i, LANES)
                d = load_n(dy, i, left)
                xhat = keep(standardize(load_n(x, i, left), scale, shift, low, r), left)
                d_sum += wide(d)
                dx_sum += wide(d * xhat)
                if power == 1:
                    sign_sum += wide(sign(xhat))
                i += LANES
            w = np.float64(at(weight, p))
            d_run, dx_run = total(d_sum), total(dx_sum)
            g_scalar += w * d_run
            gx_scalar += w * dx_run
            put(dweight, q, at(dweight, q) + dx_run)
            put(dbias, q, at(dbias, q) + d_run)
    if spans_n:
        return total(g_sum), total(gx_sum), total(sign_sum)
    return g_scalar, gx_scalar, total(sign_sum)


@helper
def chunk_dx(dy, x, weight, stats, dx, b, c, j, power, spans_n, g_mean, gx_mean, sign_mean):
    """dx = rstd * (g - g_mean - q * gx_mean) on chunk j of set (b, c); q = xhat, or sign(xhat) - sign_mean."""
    _, m, columns, n = x.shape
    scale, shift, low, r = affine_of(splat(stats[MEAN, b, c]), splat(stats[RSTD, b, c]), x)
    g_shift = narrow(splat(g_mean), x)
    minus_gx = narrow(splat(-gx_mean), x)
    sign_shift = narrow(splat(sign_mean), x)
    first, runs, skip, length = chunk_of(j, m, n)
    for run in range(first, first + runs):
        i = ((b * m + run) * columns + c) * n + skip
        end = i + length
        p = parameter_at(weight, b, run, c)
        w = splat(at(weight, p))
        if spans_n:
            p += skip
        while i < end:
            left = min(end - i, LANES)
            if spans_n:
                w = load_n(weight, p, left)
                p += LANES
            t = load_n(dy, i, left) * w - g_shift  # not fused: exactly 0 in a set of one value
            if power != 0:
                q = standardize(load_n(x, i, left), scale, shift, low, r)
                if power == 1:
                    q = sign(q) - sign_shift
                t = fma(q, minus_gx, t)
            store_n(dx, i, t * r * scale, left)
            i += LANES


@helper
def means_of(g, gx, signs, rstd, k, center, divisor, limit):
    """The factors that `chunk_dx` takes; the rstd of a clamped set stands at `limit` and is a constant."""
    return g / k if center else 0.0, 0.0 if rstd >= limit else gx / divisor, signs / k if center else 0.0


# The blocks of dweight and dbias are (R-chunks, pb, c-groups, slabs, pm, 1, pn) float64 zeros, which the caller adds up
# in order. b counts R repeats of the pb sets of parameters; a task takes `repeats` of them, for one of the pb and one
# c-group of columns, which is one column where the parameters vary along c. A slab is what two chunks cannot share.


@cache
def backward_whole(center, power, spans_n, parallel):
    """dx and the parameters' gradients, one set at a time."""

    @kernel(parallel)
    def backward(
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
                    g, gx, signs = 0.0, 0.0, 0.0
                    for h in range(chunks):
                        g_h, gx_h, signs_h = chunk_sums(
                            dy, x, weight, stats, dweight, dbias, block, i, j, h, power, spans_n
                        )
                        g += g_h
                        gx += gx_h
                        signs += signs_h
                    g, gx, signs = means_of(g, gx, signs, stats[RSTD, i, j], k, center, divisor, limit)
                    for h in range(chunks):
                        chunk_dx(dy, x, weight, stats, dx, i, j, h, power, spans_n, g, gx, signs)

    return backward


@cache
def backward_split(center, power, spans_n, parallel):
    """dx and the parameters' gradients of a few large sets, all threads in each."""

    @kernel(parallel)
    def backward(
        dy,  # (b, m, c, n)
        x,  # as dy
        weight,  # (pb, pm, pc, pn)
        stats,  # (3, b, c) float64
        dx,  # as dy
        dweight,  # blocks, with one R-chunk and one column a group
        dbias,  # blocks
        part,  # (b, c, chunks, 3) float64 workspace
        divisor,
        limit,
    ):
        if parallel > SOURCE:
            return
        b, m, c, n = x.shape
        _, pb, groups, slabs, pm, _, pn = dweight.shape
        chunks = part.shape[2]
        k = float(m * n)
        for t in prange(pb * c * chunks):
            h = t % chunks
            j = t // chunks % c
            pi = t // chunks // c
            block = ((pi * groups + j) * slabs + h % slabs) * pm * pn
            for i in range(pi, b, pb):
                g, gx, signs = chunk_sums(dy, x, weight, stats, dweight, dbias, block, i, j, h, power, spans_n)
                part[i, j, h, 0] = g
                part[i, j, h, 1] = gx
                part[i, j, h, 2] = signs
        for s in range(b * c):
            i, j = s // c, s % c
            g, gx, signs = 0.0, 0.0, 0.0
            for h in range(chunks):
                g += part[i, j, h, 0]
                gx += part[i, j, h, 1]
                signs += part[i, j, h, 2]
            g, gx, signs = means_of(g, gx, signs, stats[RSTD, i, j], k, center, divisor, limit)
            part[i, j, 0, 0] = g
            part[i, j, 0, 1] = gx
            part[i, j, 0, 2] = signs
        for t in prange(b * c * chunks):
            i, j = t // chunks // c, t // chunks % c
            g, gx, signs = part[i, j, 0, 0], part[i, j, 0, 1], part[i, j, 0, 2]
            chunk_dx(dy, x, weight, stats, dx, i, j, t % chunks, power, spans_n, g, gx, signs)

    return backward
