"""The kernels of `columns.py` for high columns, whose rows all threads share: the same groups, the same bits."""

from functools import cache

import numpy as np
from numba import prange

from normzoo.backends.cpu.access import workspace
from normzoo.backends.cpu.columns import (
    FORMS,
    NEXT,
    TILE,
    deviations,
    finish,
    fold_sets,
    group_moments,
    groups_of,
    merge_groups,
    prepare,
    region_apply,
)
from normzoo.backends.cpu.columns_gradients import (
    SUMS,
    TAKEN,
    add_groups,
    block_of,
    fold_blocks,
    fold_columns,
    group_sums,
    keep_sums,
    region_dx,
    weigh,
    width_of,
)
from normzoo.backends.cpu.jit import helper, kernel
from normzoo.backends.cpu.lanes import LANES


@helper
def padded(dims):
    """Columns rounded up to whole vectors: the distance of planes."""
    return (dims[2] * dims[3] + LANES - 1) // LANES * LANES


@helper
def height_of(dims):
    """Rows of a block of all columns, which a task normalizes."""
    return max(1, TILE // (2 * dims[2] * dims[3]))


@cache
def forward(center, power, spans_m, parallel):
    """Statistics and y."""

    @kernel(parallel)
    def columns_forward_split(
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
        b, m, c, n = dims
        columns, step, width = c * n, padded(dims), width_of(dims)
        groups, strips = groups_of(m), (columns + width - 1) // width
        part = np.empty(b * groups * 2 * step)
        forms = workspace(b * FORMS * step, x)
        # 1 moments
        for task in prange(b * groups * strips):
            t = np.int64(task)
            i, g, first = t // strips // groups, t // strips % groups, t % strips * width
            sums = workspace(3 * width, x)
            to = (i * groups + g) * 2 * step + first
            group_moments(dims, x, i, g, first, min(first + width, columns), sums, width, part, to, step, center)
        unit = LANES * n
        units = (columns + unit - 1) // unit
        for task in prange(b * units):
            t = np.int64(task)
            i, first = t // units, t % units * unit
            last = min(first + unit, columns)
            to = i * groups * 2 * step + first
            merge_groups(m, part, to, step, 2 * step, last - first)
            fold_sets(dims, stats, i, first, last, part, to, step)
            if power == 1:
                deviations(dims, x, stats, i, first, last)
            finish(dims, x, stats, i, first, last, center, power, divisor, eps, clamp)
            to = i * FORMS * step + first
            prepare(dims, parameter_dims, x, weight, bias, stats, i, first, last, forms, to, step, spans_m)
        # 2 normalize
        height = height_of(dims)
        heights = (m + height - 1) // height
        for task in prange(b * heights):
            t = np.int64(task)
            i, top = t // heights, t % heights * height
            end, to = min(top + height, m), i * FORMS * step
            region_apply(
                dims, parameter_dims, x, weight, bias, y, i, top, end, 0, columns, forms, to, step, NEXT, spans_m
            )

    return columns_forward_split


@cache
def apply(spans_m, parallel):
    """y from given statistics."""

    @kernel(parallel)
    def columns_apply(
        dims,  # (b, m, c, n)
        parameter_dims,  # (pb, pm, pc, pn)
        x,
        weight,
        bias,
        y,
        stats,  # (3, b, c) float64
    ):
        b, m, c, n = dims
        columns, step = c * n, padded(dims)
        forms = workspace(b * FORMS * step, x)
        for task in prange(b):
            i = np.int64(task)
            to = i * FORMS * step
            prepare(dims, parameter_dims, x, weight, bias, stats, i, 0, columns, forms, to, step, spans_m)
        height = height_of(dims)
        heights = (m + height - 1) // height
        for task in prange(b * heights):
            t = np.int64(task)
            i, top = t // heights, t % heights * height
            end, to = min(top + height, m), i * FORMS * step
            region_apply(
                dims, parameter_dims, x, weight, bias, y, i, top, end, 0, columns, forms, to, step, NEXT, spans_m
            )

    return columns_apply


@cache
def backward(center, power, spans_m, parallel):
    """dx, column sums and the parameters' gradients."""

    @kernel(parallel)
    def columns_backward_split(
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
        b, m, c, n = dims
        pb, pm, pc, pn = parameter_dims
        columns, step, width = c * n, padded(dims), width_of(dims)
        groups, strips = groups_of(m), (columns + width - 1) // width
        plane = block_of(dims, parameter_dims)
        part = np.empty(b * groups * SUMS * step)
        forms, taken = workspace(b * FORMS * step, x), workspace(b * TAKEN * step, x)
        blocks = workspace(strips * pb * 2 * plane if spans_m else 1, weight)
        blocks[:] = 0
        kept = np.empty(1 if spans_m else 2 * b * columns)
        for task in prange(b):
            i = np.int64(task)
            to = i * FORMS * step
            prepare(dims, parameter_dims, x, weight, weight, stats, i, 0, columns, forms, to, step, spans_m)
        # 1 moments: a task owns the rows of a group in the block of its strip
        for task in prange(pb * groups * strips):
            t = np.int64(task)
            place, g, strip = t // strips // groups, t // strips % groups, t % strips
            first, block = strip * width, (strip * pb + place) * 2 * plane
            last = min(first + width, columns)
            sums = workspace(5 * width, x)
            for own in range(place, b, pb):
                at_part, to = (own * groups + g) * SUMS * step + first, own * FORMS * step + first
                group_sums(dims, parameter_dims, dy, x, weight, own, g, first, last, blocks, block, plane, sums, width,
                           part, at_part, step, forms, to, step, center, power, spans_m)  # fmt: skip
        for task in prange(b):
            i = np.int64(task)
            at_part, to = i * groups * SUMS * step, i * FORMS * step
            add_groups(m, part, at_part, step, SUMS * step, columns, power)
            if not spans_m:
                keep_sums(columns, part, at_part, step, kept, 2 * i * columns, columns)
            weigh(dims, stats, i, 0, columns, part, at_part, step, forms, to, step, (taken, i * TAKEN * step),
                  float(m * n), center, power, divisor, limit, x, spans_m)  # fmt: skip
        if spans_m:
            for o in range(pb * pm):
                fold_blocks(dims, parameter_dims, blocks, strips, o, dweight, dbias)
        else:
            for o in range(pb * pc * pn):
                fold_columns(dims, parameter_dims, kept, o, dweight, dbias)
        # 2 normalize
        height = height_of(dims)
        heights = (m + height - 1) // height
        for task in prange(b * heights):
            t = np.int64(task)
            i, top = t // heights, t % heights * height
            region_dx(dims, parameter_dims, dy, x, weight, dx, i, top, min(top + height, m), 0, columns, forms,
                      i * FORMS * step, step, (taken, i * TAKEN * step), NEXT, power, spans_m)  # fmt: skip

    return columns_backward_split
