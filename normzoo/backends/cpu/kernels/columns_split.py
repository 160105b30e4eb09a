"""The kernels of `columns.py` for high columns, whose rows all threads share: the same groups, the same bits."""

from functools import cache

from normzoo.backends.cpu.compiling.jit import helper, kernel
from normzoo.backends.cpu.kernels.columns import FORMS, prepare, region_apply, repeat
from normzoo.backends.cpu.kernels.columns_gradients import (
    TAKEN,
    block_of,
    fold_blocks,
    fold_columns,
    folds_of,
    keep_sums,
    region_dx,
    weigh,
    width_of,
)
from normzoo.backends.cpu.kernels.columns_moments import (
    deviations,
    finish,
    fold_rows,
    fold_sets,
    group_moments,
    merge_groups,
)
from normzoo.backends.cpu.kernels.columns_sums import SUMS, add_groups, fold_row_sums, group_sums
from normzoo.backends.cpu.kernels.columns_walk import are_at_once, groups_of, tiles_of, view_of
from normzoo.backends.cpu.parallel.sharing import pool_for, share
from normzoo.backends.cpu.schedule import FETCHED_ROW, GROUP, TILE
from normzoo.backends.cpu.vector.arithmetic import larger, smaller
from normzoo.backends.cpu.vector.lanes import LANES
from normzoo.backends.cpu.vector.workspaces import clear, workspace


@helper
def padded(view):
    """Columns rounded up to whole vectors: the distance of planes."""
    return (view[2] * view[3] + LANES - 1) // LANES * LANES


@helper
def height_of(view):
    """Rows of a block of all columns, which a task normalizes."""
    return larger(1, TILE // (2 * view[2] * view[3]))


@helper
def heights_of(view):
    """Blocks of a sample."""
    height = height_of(view)
    return (view[1] + height - 1) // height


@helper
def unit_of(dims, view):
    """Columns of a unit: as many, whole sets of them, as have LANES sets; all, where rows stand side by side."""
    return LANES * dims[3] if view[2] == dims[2] else dims[2] * dims[3]


@helper
def units_of(dims, view):
    """Units of a sample."""
    unit = unit_of(dims, view)
    return (dims[2] * dims[3] + unit - 1) // unit


@cache
def normalizing(spans_m, folds, streams):
    @helper
    def normalize_block(t, dims, parameter_dims, x, weight, bias, y, forms):
        view = view_of(dims, spans_m, x)
        step, height, heights = padded(view), height_of(view), heights_of(view)
        i, top = t // heights, t % heights * height
        end, to = smaller(top + height, view[1]), i * FORMS * step
        region_apply(view, parameter_dims, x, weight, bias, y, i, top, end, 0, view[2] * view[3], forms, to, step,
                     are_at_once(view, x, streams), FETCHED_ROW, spans_m, folds, streams)  # fmt: skip

    return normalize_block


@cache
def preparing(spans_m, folds):
    @helper
    def prepare_sample(i, dims, parameter_dims, x, weight, bias, stats, forms):
        view = view_of(dims, spans_m, x)
        step = padded(view)
        to, columns = i * FORMS * step, dims[2] * dims[3]
        prepare(dims, parameter_dims, x, weight, bias, stats, i, 0, columns, forms, to, step, spans_m, folds)
        repeat(dims, view, forms, FORMS, to, step)

    return prepare_sample


@cache
def forward(center, power, spans_m, streams):
    """Statistics and y."""
    normalize_block = normalizing(spans_m, False, streams)

    @helper
    def sum_group(t, dims, x, part):
        view = view_of(dims, spans_m, x)
        columns, step, width = view[2] * view[3], padded(view), width_of(view)
        groups, tiles = groups_of(view[1]), tiles_of(view)
        i, g, first = t // tiles // groups, t // tiles % groups, t % tiles * width
        sums = workspace(3 * width, x)
        to = (i * groups + g) * 2 * step + first
        group_moments(view, x, i, g, first, smaller(first + width, columns), sums, width, part, to, step, center)

    @helper
    def finish_unit(t, dims, parameter_dims, x, weight, bias, stats, part, forms, divisor, eps, clamp):
        view = view_of(dims, spans_m, x)
        columns, m = dims[2] * dims[3], view[1]
        step, unit, units = padded(view), unit_of(dims, view), units_of(dims, view)
        i, first = t // units, t % units * unit
        last = smaller(first + unit, columns)
        to = i * groups_of(m) * 2 * step + first
        merge_groups(m, part, to, step, 2 * step, (last - first) * (view[2] * view[3] // columns))
        fold_rows(dims, view, x, i, part, to, step, center)
        fold_sets(dims, stats, i, first, last, part, to, step)
        if power == 1:
            deviations(dims, x, stats, i, first, last)
        finish(dims, x, stats, i, first, last, center, power, divisor, eps, clamp)
        to = i * FORMS * step + first
        prepare(dims, parameter_dims, x, weight, bias, stats, i, first, last, forms, to, step, spans_m, False)
        repeat(dims, view, forms, FORMS, to, step)

    @kernel
    def columns_forward_split(
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
        view = view_of(dims, spans_m, x)
        b, groups, step = dims[0], groups_of(view[1]), padded(view)
        part = workspace(b * groups * 2 * step, stats)
        forms = workspace(b * FORMS * step, x)
        # 1 moments
        share(pool, b * groups * tiles_of(view), sum_group, (dims, x, part))
        given = dims, parameter_dims, x, weight, bias, stats, part, forms, divisor, eps, clamp
        threads = pool if power == 1 else pool_for(b * groups * step, pool)
        share(threads, b * units_of(dims, view), finish_unit, given)
        # 2 normalize
        share(pool, b * heights_of(view), normalize_block, (dims, parameter_dims, x, weight, bias, y, forms))

    return columns_forward_split


@cache
def apply(spans_m, streams):
    """y from given statistics."""
    folds = not spans_m
    prepare_sample, normalize_block = preparing(spans_m, folds), normalizing(spans_m, folds, streams)

    @kernel
    def columns_apply(
        pool,  # see sharing.py
        dims,  # (b, m, c, n)
        parameter_dims,  # (pb, pm, pc, pn)
        x,
        weight,
        bias,
        y,
        stats,  # (3, b, c) float64
    ):
        view = view_of(dims, spans_m, x)
        b = dims[0]
        forms = workspace(b * FORMS * padded(view), x)
        threads = pool_for(forms.size, pool)
        share(threads, b, prepare_sample, (dims, parameter_dims, x, weight, bias, stats, forms))
        share(pool, b * heights_of(view), normalize_block, (dims, parameter_dims, x, weight, bias, y, forms))

    return columns_apply


@cache
def backward(center, power, spans_m, streams):
    """dx, column sums and the parameters' gradients. Of constant statistics dx needs no sums: it is written with
    them."""
    prepare_sample = preparing(spans_m, False)
    constant = power == 0 and not center

    @helper
    def sum_groups(t, dims, parameter_dims, dy, x, weight, dx, blocks, part, forms, taken):
        """A task owns the rows of a group in the block of its tile."""
        view = view_of(dims, spans_m, x)
        b, pb, m = dims[0], parameter_dims[0], view[1]
        step, width = padded(view), width_of(view)
        groups, tiles = groups_of(m), tiles_of(view)
        plane = block_of(dims, parameter_dims)
        place, g, tile = t // tiles // groups, t // tiles % groups, t % tiles
        first, block = tile * width, (tile * pb + place) * 2 * plane
        last = smaller(first + width, view[2] * view[3])
        sums = workspace(5 * width, x)
        for own in range(place, b, pb):
            at_part, to = (own * groups + g) * SUMS * step + first, own * FORMS * step + first
            group_sums(view, parameter_dims, dy, x, weight, own, g, first, last, blocks, block, plane, sums, width,
                       part, at_part, step, forms, to, step, center, power, spans_m)  # fmt: skip
            if constant:
                top = g * GROUP
                end = smaller(top + GROUP, m)
                region_dx(view, parameter_dims, dy, x, weight, dx, own, top, end, first, last, forms,
                          to, step, (taken, own * TAKEN * step + first), False, FETCHED_ROW, power, spans_m,
                          streams)  # fmt: skip

    @helper
    def add_sample(i, dims, dy, x, forms, part, kept):
        view = view_of(dims, spans_m, x)
        m, columns, step = view[1], dims[2] * dims[3], padded(view)
        at_part = i * groups_of(m) * SUMS * step
        add_groups(m, part, at_part, step, SUMS * step, view[2] * view[3])
        fold_row_sums(dims, view, dy, x, i, part, at_part, step, forms, i * FORMS * step, step, power)
        if not spans_m:
            keep_sums(columns, part, at_part, step, kept, 2 * i * columns, columns)

    @helper
    def weigh_sample(i, dims, stats, x, part, forms, taken, divisor, limit):
        _, m, c, n = dims
        view = view_of(dims, spans_m, x)
        columns, step, groups = c * n, padded(view), groups_of(view[1])
        at_part, to = i * groups * SUMS * step, i * FORMS * step
        weigh(dims, stats, i, 0, columns, part, at_part, step, forms, to, step, (taken, i * TAKEN * step),
              float(m * n), center, power, divisor, limit, x, spans_m)  # fmt: skip
        repeat(dims, view, taken, TAKEN, i * TAKEN * step, step)

    @helper
    def derive_block(t, dims, parameter_dims, dy, x, weight, dx, forms, taken):
        view = view_of(dims, spans_m, x)
        step, height, heights = padded(view), height_of(view), heights_of(view)
        i, top = t // heights, t % heights * height
        region_dx(view, parameter_dims, dy, x, weight, dx, i, top, smaller(top + height, view[1]), 0,
                  view[2] * view[3], forms, i * FORMS * step, step, (taken, i * TAKEN * step),
                  are_at_once(view, x, streams), FETCHED_ROW, power, spans_m, streams)  # fmt: skip

    @kernel
    def columns_backward_split(
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
        b, _, c, n = dims
        pb, pm, _, _ = parameter_dims
        view = view_of(dims, spans_m, x)
        step, groups, tiles = padded(view), groups_of(view[1]), tiles_of(view)
        part = workspace(b * groups * SUMS * step, stats)
        forms, taken = workspace(b * FORMS * step, x), workspace(b * TAKEN * step, x)
        blocks = workspace(tiles * pb * 2 * block_of(dims, parameter_dims) if spans_m else 1, weight)
        clear(blocks, 0, blocks.size)
        kept = workspace(1 if spans_m else 2 * b * c * n, stats)
        threads = pool_for(forms.size, pool)
        share(threads, b, prepare_sample, (dims, parameter_dims, x, weight, weight, stats, forms))
        to_weigh = dims, stats, x, part, forms, taken, divisor, limit
        if constant:
            share(threads, b, weigh_sample, to_weigh)
        # 1 moments
        given = dims, parameter_dims, dy, x, weight, dx, blocks, part, forms, taken
        share(pool, pb * groups * tiles, sum_groups, given)
        share(pool_for(part.size, pool), b, add_sample, (dims, dy, x, forms, part, kept))
        if not constant:
            share(threads, b, weigh_sample, to_weigh)
        if spans_m:
            for o in range(pb * pm):
                fold_blocks(o, dims, parameter_dims, blocks, tiles, dweight, dbias)
        else:
            for o in range(folds_of(dims, parameter_dims)):
                fold_columns(o, dims, parameter_dims, kept, dweight, dbias)
        # 2 normalize
        if not constant:
            share(pool, b * heights_of(view), derive_block, (dims, parameter_dims, dy, x, weight, dx, forms, taken))

    return columns_backward_split
