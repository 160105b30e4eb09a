"""The kernels of `columns.py` for high columns, whose rows all threads share: with the same groups, so
bit-identical."""

from functools import cache

from normzoo.backends.around import ALONE
from normzoo.backends.cpu.compiling.jit import helper
from normzoo.backends.cpu.kernels.around import NOTHING, backward_steps, forward_steps
from normzoo.backends.cpu.kernels.columns import filling, forms_of, prepare, s_strip, y_strip
from normzoo.backends.cpu.kernels.columns_gradients import (
    TAKEN,
    as_forward,
    block_of,
    dx_strip,
    filling_back,
    fold_gradients,
    weigh,
)
from normzoo.backends.cpu.kernels.columns_moments import finish_sets, group_moments
from normzoo.backends.cpu.kernels.columns_records import Derived, Planes, Region
from normzoo.backends.cpu.kernels.columns_sums import SUMS, add_up, group_sums
from normzoo.backends.cpu.kernels.columns_walk import (
    all_over,
    are_at_once,
    group_in,
    groups_of,
    over_rows,
    padded,
    sample_of,
    tile_of,
    tiles_of,
    view_of,
    width_of,
)
from normzoo.backends.cpu.kernels.making import apply_kernel, backward_kernel, forward_kernel
from normzoo.backends.cpu.kernels.records import Flags
from normzoo.backends.cpu.parallel.sharing import pool_for, share
from normzoo.backends.cpu.schedule import FETCHED_ROW, HEIGHT, HEIGHT_BACK, TILE
from normzoo.backends.cpu.vector.arithmetic import larger, smaller
from normzoo.backends.cpu.vector.lanes import LANES
from normzoo.backends.cpu.vector.workspaces import clear, workspace


@helper
def blocks_of(view):
    """Number of blocks of a sample; a task normalizes one block, which has rows of all columns."""
    height = height_of(view)
    return (view.rows + height - 1) // height


@helper
def height_of(view):
    """Rows per block."""
    return larger(1, TILE // (2 * view.columns))


@helper
def block_in(view, t):
    """Block t of all samples."""
    height, count = height_of(view), blocks_of(view)
    top = t % count * height
    return Region(t // count, top, smaller(top + height, view.rows), 0, view.columns)


@helper
def unit_of(view):
    """Columns of a unit: LANES whole sets; all columns, if rows are side by side."""
    return view.own if view.together > 1 else LANES * view.n


@helper
def units_of(view):
    """Number of units of a sample."""
    unit = unit_of(view)
    return (view.own + unit - 1) // unit


@helper
def sample_in(view, b):
    """All rows of sample b, without repeated columns."""
    return Region(b, 0, view.rows, 0, view.own)


def normalizing(flags, fill):
    @helper
    def normalize_block(t, given, forms):
        view = view_of(given.dims, flags.spans, given.x)
        block, at_once = block_in(view, t), are_at_once(view, given.x, flags.streams)
        own = sample_of(forms, forms_of(flags), view, block.b)
        fill(view, given, block, own, flags)
        all_over(y_strip, view, block, HEIGHT, at_once, (view, given, own, FETCHED_ROW, flags))

    return normalize_block


def preparing(flags):
    @helper
    def prepare_sample(b, given, forms):
        view = view_of(given.dims, flags.spans, given.x)
        prepare(given, view, sample_in(view, b), sample_of(forms, forms_of(flags), view, b), flags)

    return prepare_sample


@cache
def forward(center, power, spans_m, streams, around=ALONE):
    """Statistics and y."""
    steps = forward_steps(around, True)
    flags = Flags(center, power, spans_m, streams, steps)
    normalize_block, fill = normalizing(flags, filling(None)), filling(s_strip if steps.fills else None)

    @helper
    def sum_group(t, given, part):
        x = given.x
        view = view_of(given.dims, flags.spans, x)
        groups, tiles, width = groups_of(view.rows), tiles_of(view), width_of(view)
        tile = tile_of(view, t // tiles // groups, t % tiles)
        sums = Planes(workspace(3 * width, x), -tile.first, width)
        found = sample_of(part, 2 * groups, view, tile.b)
        g = t // tiles % groups
        fill(view, given, group_in(tile, g), sums, flags)
        group_moments(view, x, tile, g, sums, found, flags)

    @helper
    def finish_unit(t, given, moments, part, forms):
        view = view_of(given.dims, flags.spans, given.x)
        unit, units = unit_of(view), units_of(view)
        b, first = t // units, t % units * unit
        own = Region(b, 0, view.rows, first, smaller(first + unit, view.own))
        finish_sets(view, given, moments, own, sample_of(part, 2 * groups_of(view.rows), view, b), flags)
        prepare(given, view, own, sample_of(forms, forms_of(flags), view, b), flags)

    @helper
    def work(pool, given, moments):
        view = view_of(given.dims, flags.spans, given.x)
        b, groups, step = given.dims[0], groups_of(view.rows), padded(view)
        part, forms = workspace(b * groups * 2 * step, given.stats), workspace(b * forms_of(flags) * step, given.x)
        # 1 moments
        share(pool, b * groups * tiles_of(view), sum_group, (given, part))
        threads = pool if flags.power == 1 else pool_for(b * groups * step, pool)
        share(threads, b * units_of(view), finish_unit, (given, moments, part, forms))
        # 2 normalize
        share(pool, b * blocks_of(view), normalize_block, (given, forms))

    return forward_kernel("columns_forward_split", work, around)


@cache
def apply(spans_m, streams, around=ALONE):
    """y from given statistics."""
    steps = forward_steps(around, True)
    flags = Flags(False, 0, spans_m, streams, steps, not spans_m)
    fill = filling(s_strip if steps.fills else None)
    prepare_sample, normalize_block = preparing(flags), normalizing(flags, fill)

    @helper
    def work(pool, given):
        view = view_of(given.dims, flags.spans, given.x)
        b = given.dims[0]
        forms = workspace(b * forms_of(flags) * padded(view), given.x)
        share(pool_for(forms.size, pool), b, prepare_sample, (given, forms))
        share(pool, b * blocks_of(view), normalize_block, (given, forms))

    return apply_kernel("columns_apply", work, around)


@cache
def backward(center, power, spans_m, streams, around=ALONE):
    """dx, column sums and the parameters' gradients. Of constant statistics dx needs no sums: it is written with
    them."""
    steps = backward_steps(around, True)
    flags = Flags(center, power, spans_m, streams, steps)
    prepare_sample, forward_of, fill = preparing(flags), as_forward(steps), filling_back(steps)
    fills_first = steps.fills != NOTHING and spans_m and center  # all, of which some are looked at
    constant = power == 0 and not center

    @helper
    def planes_of(spaces, view, b):
        part = sample_of(spaces.part, SUMS * groups_of(view.rows), view, b)
        return Derived(part, sample_of(spaces.forms, forms_of(flags), view, b), sample_of(spaces.taken, TAKEN, view, b))

    @helper
    def sum_groups(t, given, blocks, spaces):
        """A task processes the rows of a group in the block of its tile."""
        x, pb = given.x, given.parameter_dims[0]
        view = view_of(given.dims, flags.spans, x)
        groups, tiles, width = groups_of(view.rows), tiles_of(view), width_of(view)
        place, g, number = t // tiles // groups, t // tiles % groups, t % tiles
        plane = block_of(given.dims, given.parameter_dims)
        block = Planes(blocks, (number * pb + place) * 2 * plane, plane)
        sums = Planes(workspace(5 * width, x), -number * width, width)
        for b in range(place, given.dims[0], pb):
            tile, planes = tile_of(view, b, number), planes_of(spaces, view, b)
            if not fills_first:
                fill(view, given, group_in(tile, g), planes.forms, flags)
            group_sums(view, given, tile, g, block, sums, planes, flags)
            if constant:  # what is behind the last row is added up later, and dx may lie where that does
                group = group_in(tile, g)
                over_rows(dx_strip, group, HEIGHT_BACK, False, (view, given, planes, FETCHED_ROW, flags))

    @helper
    def fill_block(t, given, spaces):
        view = view_of(given.dims, flags.spans, given.x)
        block = block_in(view, t)
        fill(view, given, block, planes_of(spaces, view, block.b).forms, flags)

    @helper
    def add_sample(b, given, spaces, kept):
        view = view_of(given.dims, flags.spans, given.x)
        planes = planes_of(spaces, view, b)
        add_up(view, given, sample_in(view, b), planes, kept, flags)
        if constant:
            rest = Region(b, view.rows, view.rows, 0, view.columns)
            all_over(dx_strip, view, rest, HEIGHT_BACK, False, (view, given, planes, FETCHED_ROW, flags))

    @helper
    def weigh_sample(b, given, limits, spaces):
        view = view_of(given.dims, flags.spans, given.x)
        weigh(given, limits, view, sample_in(view, b), planes_of(spaces, view, b), flags)

    @helper
    def derive_block(t, given, spaces):
        view = view_of(given.dims, flags.spans, given.x)
        block, at_once = block_in(view, t), are_at_once(view, given.x, flags.streams)
        planes = planes_of(spaces, view, block.b)
        all_over(dx_strip, view, block, HEIGHT_BACK, at_once, (view, given, planes, FETCHED_ROW, flags))

    @helper
    def work(pool, given, dweight, dbias, limits):
        (b, _, c, n), pb = given.dims, given.parameter_dims[0]
        view = view_of(given.dims, flags.spans, given.x)
        step, groups, tiles = padded(view), groups_of(view.rows), tiles_of(view)
        part = workspace(b * groups * SUMS * step, given.stats)
        forms, taken = workspace(b * forms_of(flags) * step, given.x), workspace(b * TAKEN * step, given.x)
        spaces = Derived(part, forms, taken)
        plane = block_of(given.dims, given.parameter_dims)
        blocks = workspace(tiles * pb * 2 * plane if flags.spans else 1, given.weight)
        clear(blocks, 0, blocks.size)
        kept = workspace(1 if flags.spans else 2 * b * c * n, given.stats)
        threads = pool_for(forms.size, pool)
        share(threads, b, prepare_sample, (forward_of(given), forms))
        if constant:
            share(threads, b, weigh_sample, (given, limits, spaces))
        # 1 moments
        if fills_first:
            share(pool, b * blocks_of(view), fill_block, (given, spaces))
        share(pool, pb * groups * tiles, sum_groups, (given, blocks, spaces))
        share(pool_for(part.size, pool), b, add_sample, (given, spaces, kept))
        if not constant:
            share(threads, b, weigh_sample, (given, limits, spaces))
        fold_gradients(pool, given, blocks, tiles, kept, (dweight, dbias), flags)
        # 2 normalize
        if not constant:
            share(pool, b * blocks_of(view), derive_block, (given, spaces))

    return backward_kernel("columns_backward_split", work, around)
