"""The backward pass of `columns.py`: dx, column sums and the gradients of the parameters, one tile at a time.

The sums of a column are relative to a reference, as in columns_sums.py: a value of g = dy * weight if the weights vary
along m (`spans_m`), where blocks collect the gradients of the parameters; otherwise a value of dy, whose sums are the
gradients.
"""

from functools import cache
from typing import Any

import numpy as np

from normzoo.backends.around import ALONE
from normzoo.backends.cpu.compiling.jit import helper
from normzoo.backends.cpu.kernels.around import JOINS, NOTHING, TURNS, Steps, backward_steps
from normzoo.backends.cpu.kernels.columns import FORMS, filling, forms_of, four, prepare, s_strip
from normzoo.backends.cpu.kernels.columns_records import Derived, Planes
from normzoo.backends.cpu.kernels.columns_sums import SUMS, add_up, group_sums
from normzoo.backends.cpu.kernels.columns_walk import (
    all_over,
    clear_behind,
    group_in,
    groups_of,
    own_of,
    place_in,
    repeat,
    row_parameter,
    tile_of,
    tiles_of,
    view_of,
    width_of,
)
from normzoo.backends.cpu.kernels.making import backward_kernel
from normzoo.backends.cpu.kernels.moments import factors_of, gradient, held, put_lanes, standardize
from normzoo.backends.cpu.kernels.records import Flags, Forward
from normzoo.backends.cpu.parallel.sharing import pool_for, share
from normzoo.backends.cpu.schedule import HEIGHT_BACK, SUMMED_COLUMNS
from normzoo.backends.cpu.vector.access import at, load_n, put
from normzoo.backends.cpu.vector.arithmetic import fma, larger, narrow, smaller, splat, total, wide
from normzoo.backends.cpu.vector.comparing import below
from normzoo.backends.cpu.vector.lanes import LANES
from normzoo.backends.cpu.vector.workspaces import clear, workspace

TAKEN = 5  # planes of `weigh`: four factors, and weight times scale


@helper
def without_bias(given):
    dims, parameter_dims, _, x, weight, stats, dx, _ = given
    return Forward(dims, parameter_dims, x, weight, weight, dx, stats, ())


@helper
def with_bias(given):
    dims, parameter_dims, _, x, weight, stats, dx, beside = given
    return Forward(dims, parameter_dims, x, weight, beside.bias, dx, stats, beside)


def as_forward(steps: Steps) -> Any:
    """What `prepare` asks for: of the bias nothing, but where dy is turned."""
    return with_bias if steps.fills == TURNS else without_bias


@helper
def weigh(given, limits, view, own, planes, flags):
    """Compute the terms that dx subtracts from g, for the columns of each set, from the sums of the set: see
    `factors_of`.

    Also weight times scale, if a column has only one weight. The rstd of a clamped set is a constant.
    """
    bs, m, c, n = given.dims
    part, at_part, part_step = planes.part
    forms, at_forms, step = planes.forms
    taken, at_taken, _ = planes.taken
    power, stats, k = flags.power, given.stats, float(m * n)
    run = LANES if n == 1 else n
    clear_behind(planes.taken, TAKEN, own)
    for j in range(own.first, own.last, run):
        size = smaller(own.last - j, run)
        g, gx, z, signs = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
        # one vector of sets, or the columns of one set; constant statistics need no sums
        for i in range(j, j + size if flags.center or power != 0 else j, LANES):
            left, p = smaller(j + size - i, LANES), at_part + i
            w = splat(1.0)
            if not flags.spans:
                w = wide(load_n(forms, at_forms + 4 * step + i, left))
            g = fma(w, load_n(part, p, left), g)
            gx = fma(w, load_n(part, p + part_step, left), gx)
            z += load_n(part, p + 2 * part_step, left)
            if power == 1:
                signs += load_n(part, p + 3 * part_step, left)
        if n > 1:
            g, gx, z, signs = splat(total(g)), splat(total(gx)), splat(total(z)), splat(total(signs))
        g = g / splat(k) if flags.center else splat(0.0)
        # sum of (g - mean(g)) * xhat: it keeps digits if mean(g) is far from 0
        gx = (gx - g * z) / splat(limits.divisor)
        signs = signs / splat(k) if flags.center else splat(0.0)
        if limits.limit < np.inf:
            s = (2 * bs + own.b) * c + j // n
            gx = below(load_n(stats, s, size) if n == 1 else splat(at(stats, s)), splat(limits.limit), gx)
        for i in range(j, j + size, LANES):
            left, room = smaller(j + size - i, LANES), own.last - i
            f, o = at_forms + i, at_taken + i
            scale = load_n(forms, f, left)
            fine, r = load_n(forms, f + 2 * step, left), load_n(forms, f + 3 * step, left)
            g_high, rest, q, sign_mean = factors_of(g, gx, signs, scale, fine, r, power, given.x)
            put_lanes(taken, o, g_high, room)
            put_lanes(taken, o + step, rest, room)
            put_lanes(taken, o + 2 * step, q, room)
            put_lanes(taken, o + 3 * step, sign_mean, room)
            if not flags.spans:
                put_lanes(taken, o + 4 * step, load_n(forms, f + 4 * step, left) * scale, room)
    repeat(view, planes.taken, TAKEN)


@helper
def dy_strip(strip, view, given, forms, ahead, flags):
    """dy of xhat * weight + bias in a strip."""
    b, row, rows, j, left, full = strip
    x, beside = given.x, given.beside
    i = place_in(view, b, row) + j
    affine = four(forms, j, full, x)
    values, to, step = forms
    level = flags.steps.level.held(values, to + FORMS * step + j, full, x)
    if not flags.spans:
        w, v = held(values, to + 4 * step + j, full, x), held(values, to + 5 * step + j, full, x)
    for r in range(row, row + rows):
        flags.steps.fetch(given, i + ahead)
        if flags.spans:
            w = row_parameter(view, given.parameter_dims, given.weight, strip, r, x)
            v = row_parameter(view, given.parameter_dims, beside.bias, strip, r, x)
            level = flags.steps.level.row(view, given, strip, r, x)
        terms = flags.steps.sources.take(view, given, i, left, full) + level
        flags.steps.fill(given, terms, fma(standardize(terms[1], *affine), w, v), i, left, full)
        i += view.columns


def filling_back(steps: Steps) -> Any:
    return filling({NOTHING: None, JOINS: s_strip, TURNS: dy_strip}[steps.fills])


@helper
def dx_strip(strip, view, given, planes, ahead, flags):
    """Compute dx in a strip, as `y_strip` computes y."""
    b, row, rows, j, left, full = strip
    x = given.x
    i = place_in(view, b, row) + j
    affine, factors = four(planes.forms, j, full, x), four(planes.taken, j, full, x)
    if not flags.spans:
        taken, to, step = planes.taken
        w = held(taken, to + 4 * step + j, full, x)
    for r in range(row, row + rows):
        flags.steps.fetch(given, i + ahead)
        if flags.spans:
            w = row_parameter(view, given.parameter_dims, given.weight, strip, r, x) * affine[0]
        terms = flags.steps.terms.take(view, given, i, left, full)
        u = gradient(terms[0], terms[1], w, affine, factors, flags.power)
        flags.steps.end(given, terms, u, i, left, full, flags.streams)
        i += view.columns


@helper
def repeats_of(dims, parameter_dims):
    """Number of samples per task if parameters vary along m, so that its block of gradients is small compared to its
    dx."""
    b, _, c, n = dims
    pb, _, pc, pn = parameter_dims
    return larger(1, smaller(b // pb, 16 if pc * pn > 1 else SUMMED_COLUMNS // (c * n)))


@helper
def block_of(dims, parameter_dims):
    """Number of values of a plane of a block: (pm, columns), or (pm, LANES) if all columns share a weight."""
    _, pm, pc, pn = parameter_dims
    return pm * (dims[2] * dims[3] if pc * pn > 1 else LANES)


@helper
def fold_blocks(o, dims, parameter_dims, blocks, count, dweight, dbias):
    """Add `count` blocks (count, pb, 2, plane) in order: the gradients o, one row of a set of parameters."""
    pb, pm, pc, pn = parameter_dims
    plane = block_of(dims, parameter_dims)
    size = plane // pm
    place, row = o // pm, o % pm
    for j in range(0, size, LANES):
        left = smaller(size - j, LANES)
        w, v = splat(0.0), splat(0.0)
        for t in range(count):
            i = (t * pb + place) * 2 * plane + row * size + j
            w += wide(load_n(blocks, i, left))
            v += wide(load_n(blocks, i + plane, left))
        if pc * pn > 1:
            put_lanes(dweight, o * size + j, narrow(w, dweight), left)
            put_lanes(dbias, o * size + j, narrow(v, dbias), left)
        else:
            put(dweight, o, total(w))
            put(dbias, o, total(v))


@helper
def folds_of(dims, parameter_dims):
    """Number of turns of `fold_columns`: one per vector of parameters if each column has its own, else one per
    parameter."""
    pb, _, pc, pn = parameter_dims
    return pb * ((pc * pn + LANES - 1) // LANES if pc * pn == dims[2] * dims[3] else pc * pn)


@helper
def fold_columns(o, dims, parameter_dims, sums, dweight, dbias):
    """Add the sums (b, 2, columns) of all columns that share the parameters o, in order."""
    b, _, c, n = dims
    pb, _, pc, pn = parameter_dims
    columns = c * n
    if pc * pn == columns:
        lines = (columns + LANES - 1) // LANES
        place, first = o // lines, o % lines * LANES
        left = smaller(columns - first, LANES)
        w, v = splat(0.0), splat(0.0)
        for i in range(2 * place * columns + first, 2 * b * columns, 2 * pb * columns):
            w += load_n(sums, i, left)
            v += load_n(sums, i + columns, left)
        put_lanes(dweight, place * columns + first, narrow(w, dweight), left)
        put_lanes(dbias, place * columns + first, narrow(v, dbias), left)
        return
    place, column, run = o // (pc * pn), o // pn % pc, o % pn
    w, v = splat(0.0), splat(0.0)
    for i in range(place, b, pb):
        for j in range(column, column + 1 if pc > 1 else c):
            start = 2 * i * columns + j * n + run
            stop = start + (1 if pn > 1 else n)
            for k in range(start, stop, LANES):
                left = smaller(stop - k, LANES)
                w += load_n(sums, k, left)
                v += load_n(sums, k + columns, left)
    put(dweight, o, total(w))
    put(dbias, o, total(v))


@helper
def fold_gradients(pool, given, blocks, count, kept, gradients, flags):
    """dweight and dbias, from `count` blocks or from the stored sums."""
    pool = pool_for(blocks.size + kept.size, pool)
    dims, parameter_dims = given.dims, given.parameter_dims
    if flags.spans:
        turns = parameter_dims[0] * parameter_dims[1]
        share(pool, turns, fold_blocks, (dims, parameter_dims, blocks, count, *gradients))
    else:
        share(pool, folds_of(dims, parameter_dims), fold_columns, (dims, parameter_dims, kept, *gradients))


@cache
def backward(center, power, spans_m, streams, around=ALONE):
    """dx, column sums and the parameters' gradients, a tile at a time; `streams` as forward."""
    steps = backward_steps(around, True)
    flags = Flags(center, power, spans_m, streams, steps)
    forward_of, fill = as_forward(steps), filling_back(steps)

    @helper
    def some_tiles(t, given, limits, blocks, kept):
        dims, parameter_dims, x = given.dims, given.parameter_dims, given.x
        pb = parameter_dims[0]
        view = view_of(dims, flags.spans, x)
        width, tiles, groups = width_of(view), tiles_of(view), groups_of(view.rows)
        repeats = repeats_of(dims, parameter_dims) if flags.spans else 1
        plane = block_of(dims, parameter_dims)
        place, number, start = t % pb, t // pb % tiles, t // pb // tiles * repeats
        block = Planes(blocks, t * 2 * plane, plane)
        if flags.spans:
            clear(blocks, block.at, 2 * plane)
        first = number * width
        sums = Planes(workspace(5 * width, x), -first, width)
        forms = Planes(workspace(forms_of(flags) * width, x), -first, width)
        taken = Planes(workspace(TAKEN * width, x), -first, width)
        part = Planes(workspace(groups * SUMS * width, given.stats), -first, width)
        planes = Derived(part, forms, taken)
        for u in range(start, smaller(start + repeats, dims[0] // pb)):
            tile = tile_of(view, u * pb + place, number)
            own = own_of(view, tile)
            prepare(forward_of(given), view, own, forms, flags)
            # 1 moments
            if flags.spans:  # all, of which some are looked at
                fill(view, given, tile, forms, flags)
            for g in range(groups):
                if not flags.spans:
                    fill(view, given, group_in(tile, g), forms, flags)
                group_sums(view, given, tile, g, block, sums, planes, flags)
            add_up(view, given, own, planes, kept, flags)
            # 2 normalize
            weigh(given, limits, view, own, planes, flags)
            all_over(dx_strip, view, tile, HEIGHT_BACK, True, (view, given, planes, width, flags))

    @helper
    def work(pool, given, dweight, dbias, limits):
        (b, _, c, n), parameter_dims = given.dims, given.parameter_dims
        pb = parameter_dims[0]
        tiles = tiles_of(view_of(given.dims, flags.spans, given.x))
        repeats = repeats_of(given.dims, parameter_dims) if flags.spans else 1
        count = (b // pb + repeats - 1) // repeats * tiles
        plane = block_of(given.dims, parameter_dims)
        blocks = workspace(count * pb * 2 * plane if flags.spans else 1, given.weight)
        kept = workspace(1 if flags.spans else 2 * b * c * n, given.stats)
        share(pool, count * pb, some_tiles, (given, limits, blocks, kept))
        fold_gradients(pool, given, blocks, count, kept, (dweight, dbias), flags)

    return backward_kernel("columns_backward", work, around)
