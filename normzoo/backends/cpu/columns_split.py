"""The kernels of `columns.py` for high columns, whose rows all threads share: the same chunks, the same bits."""

from functools import cache

import numpy as np
from numba import prange

from normzoo.backends.cpu.columns import (
    TILE,
    chunk_moments,
    chunk_sums,
    deviations,
    finish,
    fold_columns,
    merge_chunks,
    prepare,
    tile_apply,
    tile_dx,
    tile_width,
    unit_of,
    weigh,
)
from normzoo.backends.cpu.jit import SOURCE, helper, kernel


@helper
def block_height(columns):
    """Rows of a block of all columns: about a quarter of TILE."""
    return max(1, TILE // (4 * columns))


@cache
def moments(center, power, parallel):
    """Statistics."""

    @kernel(parallel)
    def columns_moments(
        x,  # (b, m, columns, 1)
        part,  # (b, chunks, 2, columns) float64 workspace
        affine,  # (4, b, columns) workspace, as x
        stats,  # (3, b, c) float64
        divisor,
        eps,
        clamp,
    ):
        if parallel > SOURCE:
            return
        b, m, columns, _ = x.shape
        chunks = part.shape[1]
        fold = columns // stats.shape[2]
        width = tile_width(1, columns, fold)
        tiles = (columns + width - 1) // width
        for t in prange(b * chunks * tiles):
            i, h, first = t // tiles // chunks, t // tiles % chunks, t % tiles * width
            chunk_moments(x, part, i, h, first, min(first + width, columns), center)
        unit = unit_of(fold)
        units = (columns + unit - 1) // unit
        for t in prange(b * units):
            i, first = t // units, t % units * unit
            last = min(first + unit, columns)
            merge_chunks(part, i, first, last, m)
            fold_columns(part, stats, i, first, last, m)
            if power == 1:
                deviations(x, stats, i, first, last)
            finish(x, stats, affine, i, first, last, center, power, divisor, eps, clamp)

    return columns_moments


@cache
def apply(spans_m, parallel):
    """y from given statistics."""

    @kernel(parallel)
    def columns_apply(
        x,  # (b, m, columns, 1)
        weight,  # (pb, pm, pc, 1)
        bias,  # as weight
        y,  # as x
        affine,  # (4, b, columns) workspace, as x
        stats,  # (3, b, c) float64
    ):
        if parallel > SOURCE:
            return
        b, m, columns, _ = x.shape
        for t in prange(b):
            prepare(x, stats, affine, np.int64(t), 0, columns)  # prange counts in uint64
        height = block_height(columns)
        blocks = (m + height - 1) // height
        for t in prange(b * blocks):
            top = t % blocks * height
            tile_apply(x, weight, bias, y, affine, t // blocks, top, min(top + height, m), 0, columns, spans_m)

    return columns_apply


@cache
def backward(center, power, spans_m, parallel):
    """dx, column sums and the parameters' gradients."""

    @kernel(parallel)
    def columns_backward_split(
        dy,  # (b, m, columns, 1)
        x,  # as dy
        weight,  # (pb, pm, pc, 1)
        stats,  # (3, b, c) float64
        exact,  # (3, b, columns) float64: stats, of every column
        dx,  # as dy
        dweight,  # blocks (see rows.py) with one R-chunk and one slab
        dbias,  # blocks
        part,  # (b, chunks, 3, columns) float64
        affine,  # (4, b, columns) workspace, as x
        factors,  # (4, b, columns) workspace, as affine
        kept,  # int: columns of a task, whole units
        k,  # float: values in a set
        divisor,
        limit,
    ):
        if parallel > SOURCE:
            return
        b, m, columns, _ = x.shape
        pb = weight.shape[0]
        chunks = part.shape[1]
        groups = (columns + kept - 1) // kept
        size = dweight.shape[4] * dweight.shape[5]
        for t in prange(b):
            prepare(x, exact, affine, np.int64(t), 0, columns)  # prange counts in uint64
        # 1 moments
        for t in prange(pb * chunks * groups):
            pi, h, g = t // groups // chunks, t // groups % chunks, t % groups
            first = g * kept
            last = min(first + kept, columns)
            for i in range(pi, b, pb):
                chunk_sums(
                    dy,
                    x,
                    weight,
                    exact,
                    dweight,
                    dbias,
                    part,
                    (pi * groups + g) * size,
                    i,
                    h,
                    first,
                    last,
                    power,
                    spans_m,
                )
        for t in prange(b):
            own = np.int64(t)
            weigh(x, weight, part, affine, factors, stats, own, 0, columns, k, center, power, divisor, limit, spans_m)
        # 2 normalize
        height = block_height(columns)
        blocks = (m + height - 1) // height
        for t in prange(b * blocks):
            top = t % blocks * height
            i = t // blocks
            tile_dx(dy, x, weight, affine, factors, dx, i, top, min(top + height, m), 0, columns, power)

    return columns_backward_split
