"""The kernels of `rows.py` for a few large sets, which all threads share: the same chunks, the same bits."""

from functools import cache

from numba import prange

from normzoo.backends.cpu.jit import SOURCE, kernel
from normzoo.backends.cpu.lanes import put
from normzoo.backends.cpu.moments import MEAN, RSTD, SPREAD, merge
from normzoo.backends.cpu.rows import (
    chunk_apply,
    chunk_deviations,
    chunk_dx,
    chunk_moments,
    chunk_sums,
    chunking,
    finish,
    means_of,
)


@cache
def moments(center, power, parallel):
    """Statistics."""

    @kernel(parallel)
    def rows_moments(
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
            own = part[s // c, s % c]
            count, mean, spread = own[0, 0], own[0, 1], own[0, 2]
            for j in range(1, chunks):
                count, mean, spread = merge(count, mean, spread, own[j, 0], own[j, 1], own[j, 2])
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

    return rows_moments


@cache
def apply(spans_n, parallel):
    """y from given statistics."""

    @kernel(parallel)
    def rows_apply(
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

    return rows_apply


@cache
def backward(center, power, spans_n, parallel):
    """dx and the parameters' gradients."""

    @kernel(parallel)
    def rows_backward_split(
        dy,  # (b, m, c, n)
        x,  # as dy
        weight,  # (pb, pm, pc, pn)
        stats,  # (3, b, c) float64
        dx,  # as dy
        dweight,  # blocks (see rows.py), with one R-chunk and one column a group
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
        # 1 moments
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
        # 2 normalize
        for t in prange(b * c * chunks):
            i, j = t // chunks // c, t // chunks % c
            g, gx, signs = part[i, j, 0, 0], part[i, j, 0, 1], part[i, j, 0, 2]
            chunk_dx(dy, x, weight, stats, dx, i, j, t % chunks, power, spans_n, g, gx, signs)

    return rows_backward_split
