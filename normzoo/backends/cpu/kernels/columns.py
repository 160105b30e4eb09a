"""Kernels of views whose last axis is kept (n == 1): a set (b, c) has m values, c apart; lanes run along c.

They also serve short runs (n > 1 small): x is then viewed as m rows of c*n columns; each column is summed, and then the
n columns of a set are merged. A chunk of COLUMN_CHUNK rows is summed relative to the mean of the earlier chunks, the
first chunk of a GROUP relative to the mean of its FIRST_ROWS rows. All this depends only on the shape, and is merged in
order, in float64. A task processes a tile of columns, whose workspaces stay in the level-1 cache. In this file a thread
processes whole tiles; in `columns_split.py` threads share each column.
"""

from functools import cache
from typing import Any

from normzoo.backends.around import ALONE
from normzoo.backends.cpu.compiling.jit import helper
from normzoo.backends.cpu.kernels.around import forward_steps
from normzoo.backends.cpu.kernels.columns_moments import finish_sets, group_moments
from normzoo.backends.cpu.kernels.columns_records import Planes
from normzoo.backends.cpu.kernels.columns_walk import (
    all_over,
    clear_behind,
    group_in,
    groups_of,
    own_of,
    place_in,
    place_of,
    repeat,
    row_parameter,
    tile_of,
    tiles_of,
    view_of,
    width_of,
)
from normzoo.backends.cpu.kernels.making import forward_kernel
from normzoo.backends.cpu.kernels.moments import affine_by, affine_of, held, put_lanes, standardize
from normzoo.backends.cpu.kernels.records import Flags
from normzoo.backends.cpu.parallel.sharing import share
from normzoo.backends.cpu.schedule import HEIGHT, STRIP
from normzoo.backends.cpu.vector.access import at, load_n
from normzoo.backends.cpu.vector.arithmetic import fma, smaller, splat, wide
from normzoo.backends.cpu.vector.lanes import LANES
from normzoo.backends.cpu.vector.workspaces import workspace

FORMS = 6  # planes of `prepare`, in the computing type; and one for an activation's parameter


@helper
def forms_of(flags):
    return FORMS + flags.steps.level.planes


@helper
def prepare(given, view, own, forms, flags):
    """Compute the four planes of `affine_of` for each column, and its weight and bias, if it has only one of each. With
    `folds`, the four planes of `affine_by`."""
    bs, _, c, n = given.dims
    _, _, pc, pn = given.parameter_dims
    x, weight, bias, stats, b = given.x, given.weight, given.bias, given.stats, own.b
    values, to, step = forms
    start = place_of(given.parameter_dims, b) * pc * pn
    run = LANES if n == 1 else n
    clear_behind(forms, forms_of(flags), own)
    for j in range(own.first, own.last, run):
        size = smaller(own.last - j, run)
        s = j // n
        if n == 1:
            mean, rstd = load_n(stats, b * c + s, size), load_n(stats, (2 * bs + b) * c + s, size)
        else:
            mean, rstd = splat(at(stats, b * c + s)), splat(at(stats, (2 * bs + b) * c + s))
        scale, shift, fine, r = affine_of(mean, rstd, x)
        w, v, level = splat(at(weight, 0)), splat(at(bias, 0)), flags.steps.level.one(given, 0)
        if not flags.spans:
            p = start + (s if pc > 1 else 0) * pn
            w, v, level = splat(at(weight, p)), splat(at(bias, p)), flags.steps.level.one(given, p)
        for i in range(0, size, LANES):
            left = smaller(size - i, LANES)
            if not flags.spans and (pn > 1 or (pc > 1 and n == 1)):
                p = start + (s if pc > 1 else 0) * pn + i
                w, v = load_n(weight, p, left), load_n(bias, p, left)
                level = flags.steps.level.each(given, p, left, False)
            if flags.folds:
                scale, shift, fine, r = affine_by(mean, rstd, wide(w), wide(v), x)
            k, room = to + j + i, own.last - j - i  # values written too far are overwritten later
            put_lanes(values, k, scale, room)
            put_lanes(values, k + step, shift, room)
            put_lanes(values, k + 2 * step, fine, room)
            put_lanes(values, k + 3 * step, r, room)
            if not (flags.spans or flags.folds):
                put_lanes(values, k + 4 * step, w, room)
                put_lanes(values, k + 5 * step, v, room)
            if not flags.spans:
                flags.steps.level.put(values, k + FORMS * step, level, room)
    repeat(view, forms, forms_of(flags))


@helper
def four(planes, j, full, like):
    """The lanes of the first four planes, as in `held`."""
    values, to, step = planes
    k = to + j
    a, b = held(values, k, full, like), held(values, k + step, full, like)
    return a, b, held(values, k + 2 * step, full, like), held(values, k + 3 * step, full, like)


@helper
def s_strip(strip, view, given, _forms, ahead, flags):
    """s in a strip; `ahead`: where the values lie, from those of the work, that are fetched meanwhile."""
    b, row, rows, j, left, full = strip
    i = place_in(view, b, row) + j
    for _ in range(rows):
        flags.steps.fetch(given, i + ahead)
        terms = flags.steps.sources.take(view, given, i, left, full)
        flags.steps.fill(given, terms, terms[0], i, left, full)
        i += view.columns


@cache
def filling(work: Any) -> Any:
    """What is written of a region before it is summed, by work(strip, view, given, forms, ahead, flags) or None."""

    @helper
    def fill(view, given, region, forms, flags):
        all_over(work, view, region, HEIGHT, True, (view, given, forms, STRIP * view.columns, flags))

    @helper
    def nothing(_view, _given, _region, _forms, _flags):
        pass

    return nothing if work is None else fill


@helper
def y_strip(strip, view, given, forms, ahead, flags):
    """y in a strip."""
    b, row, rows, j, left, full = strip
    x = given.x
    i = place_in(view, b, row) + j
    affine = four(forms, j, full, x)
    values, to, step = forms
    level = flags.steps.level.held(values, to + FORMS * step + j, full, x)
    if not (flags.spans or flags.folds):
        w, v = held(values, to + 4 * step + j, full, x), held(values, to + 5 * step + j, full, x)
    for r in range(row, row + rows):
        flags.steps.fetch(given, i + ahead)
        if flags.spans:
            w = row_parameter(view, given.parameter_dims, given.weight, strip, r, x)
            v = row_parameter(view, given.parameter_dims, given.bias, strip, r, x)
            level = flags.steps.level.row(view, given, strip, r, x)
        terms = flags.steps.terms.take(view, given, i, left, full) + level
        z = standardize(terms[0], *affine)
        flags.steps.end(given, terms, z if flags.folds else fma(z, w, v), i, left, full, flags.streams)
        i += view.columns


@cache
def forward(center, power, spans_m, streams, around=ALONE):
    """Statistics and y, a tile at a time; with `streams` past the caches, which asks for rows of whole vectors."""
    steps = forward_steps(around, True)
    flags = Flags(center, power, spans_m, streams, steps)
    fill = filling(s_strip if steps.fills else None)

    @helper
    def one_tile(t, given, moments):
        x = given.x
        view = view_of(given.dims, flags.spans, x)
        width, tiles, groups = width_of(view), tiles_of(view), groups_of(view.rows)
        tile = tile_of(view, t // tiles, t % tiles)
        own = own_of(view, tile)
        sums = Planes(workspace(3 * width, x), -tile.first, width)
        forms = Planes(workspace(forms_of(flags) * width, x), -tile.first, width)
        part = Planes(workspace(groups * 2 * width, given.stats), -tile.first, width)
        # 1 moments
        for g in range(groups):
            fill(view, given, group_in(tile, g), forms, flags)
            group_moments(view, x, tile, g, sums, part, flags)
        finish_sets(view, given, moments, own, part, flags)
        # 2 normalize
        prepare(given, view, own, forms, flags)
        all_over(y_strip, view, tile, HEIGHT, True, (view, given, forms, width, flags))

    @helper
    def work(pool, given, moments):
        view = view_of(given.dims, flags.spans, given.x)
        share(pool, given.dims[0] * tiles_of(view), one_tile, (given, moments))

    return forward_kernel("columns_forward", work, around)
