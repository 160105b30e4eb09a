"""The backward pass of `columns.py`: dx, column sums and the parameters' gradients, a tile at a time.

As in rows_gradients.py, sums are around what some values that are spread over a column have in common, here of
g = dy * weight where the weights vary along m (`spans_m`; blocks then collect the gradients of the parameters), else
of dy, whose sums are the gradients.
"""

from functools import cache

import numpy as np

from normzoo.backends.cpu.compiling.jit import helper, kernel
from normzoo.backends.cpu.kernels.columns import FORMS, clear_behind, four, prepare, repeat
from normzoo.backends.cpu.kernels.columns_sums import SUMS, add_groups, fold_row_sums, group_sums
from normzoo.backends.cpu.kernels.columns_walk import (
    groups_of,
    place_in,
    read_in,
    rest_of,
    row_parameter,
    tiles_of,
    view_of,
    width_of,
)
from normzoo.backends.cpu.kernels.moments import (
    factors_of,
    gradient,
    held,
    put_lanes,
    write_out,
)
from normzoo.backends.cpu.parallel.sharing import pool_for, share
from normzoo.backends.cpu.schedule import (
    HEIGHT_BACK,
    SUMMED_COLUMNS,
)
from normzoo.backends.cpu.vector.access import at, load, load_n, prefetch, put
from normzoo.backends.cpu.vector.arithmetic import (
    fma,
    larger,
    narrow,
    smaller,
    splat,
    total,
    wide,
)
from normzoo.backends.cpu.vector.comparing import below
from normzoo.backends.cpu.vector.lanes import LANES
from normzoo.backends.cpu.vector.workspaces import clear, workspace

TAKEN = 5  # planes of `weigh`: four factors, and the weight times the scale


@helper
def weigh(dims, stats, b, first, last, part, at_part, part_step, forms, to, step, taken, k, center, power, divisor,
          limit, like, spans_m):  # fmt: skip
    """From the sums of each set, its columns in order, what dx takes off g in its columns: see `factors_of`.

    And the weight times the scale, if a column has but one. The rstd of a clamped set is a constant.
    """
    bs, _, c, n = dims
    run = LANES if n == 1 else n
    clear_behind(taken[0], taken[1], TAKEN, step, last - first)
    for j in range(first, last, run):
        size = smaller(last - j, run)
        g, gx, z, signs = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
        # one vector of sets, or the columns of one set; constant statistics need no sums
        for i in range(0, size if center or power != 0 else 0, LANES):
            left = smaller(size - i, LANES)
            p = at_part + j - first + i
            w = splat(1.0)
            if not spans_m:
                w = wide(load_n(forms, to + j - first + i + 4 * step, left))
            g = fma(w, load_n(part, p, left), g)
            gx = fma(w, load_n(part, p + part_step, left), gx)
            z += load_n(part, p + 2 * part_step, left)
            if power == 1:
                signs += load_n(part, p + 3 * part_step, left)
        if n > 1:
            g, gx, z, signs = splat(total(g)), splat(total(gx)), splat(total(z)), splat(total(signs))
        g = g / splat(k) if center else splat(0.0)
        gx = (gx - g * z) / splat(divisor)  # of (g - mean(g)) * xhat: it keeps digits where mean(g) is far from 0
        signs = signs / splat(k) if center else splat(0.0)
        if limit < np.inf:
            s = (2 * bs + b) * c + j // n
            gx = below(load_n(stats, s, size) if n == 1 else splat(at(stats, s)), splat(limit), gx)
        for i in range(0, size, LANES):
            left = smaller(size - i, LANES)
            f, o, room = to + j - first + i, taken[1] + j - first + i, last - j - i
            scale = load_n(forms, f, left)
            fine, r = load_n(forms, f + 2 * step, left), load_n(forms, f + 3 * step, left)
            g_high, rest, q, sign_mean = factors_of(g, gx, signs, scale, fine, r, power, like)
            put_lanes(taken[0], o, g_high, room)
            put_lanes(taken[0], o + step, rest, room)
            put_lanes(taken[0], o + 2 * step, q, room)
            put_lanes(taken[0], o + 3 * step, sign_mean, room)
            if not spans_m:
                put_lanes(taken[0], o + 4 * step, load_n(forms, f + 4 * step, left) * scale, room)


@helper
def dx_strip(view, parameter_dims, dy, x, weight, dx, b, row, rows, j, forms, k, step, taken, o, ahead, left, full,
             power, spans_m, streams):  # fmt: skip
    """dx in `rows` rows from `row` on of the columns at j."""
    i = place_in(view, b, row) + j
    affine, factors = four(forms, k, step, full, x), four(taken, o, step, full, x)
    if not spans_m:
        w = held(taken, o + 4 * step, full, x)
    for r in range(row, row + rows):
        prefetch(x, i + ahead)
        prefetch(dy, i + ahead)
        if spans_m:
            w = row_parameter(view, parameter_dims, weight, b, r, j, left, full, x) * affine[0]
        d, v = read_in(view, dy, i, left, full), read_in(view, x, i, left, full)
        write_out(dx, i, gradient(d, v, w, affine, factors, power), left, full, streams)
        i += view[2] * view[3]


@helper
def rows_dx(view, parameter_dims, dy, x, weight, dx, b, row, rows, first, last, forms, k, step, taken, o, ahead, power,
            spans_m, streams):  # fmt: skip
    """dx on `rows` rows from `row` on of the columns [first, last)."""
    whole = first + (last - first) // LANES * LANES
    for j in range(first, whole, LANES):
        dx_strip(view, parameter_dims, dy, x, weight, dx, b, row, rows, j, forms, k + j, step, taken, o + j, ahead,
                 LANES, True, power, spans_m, streams)  # fmt: skip
    if whole < last:
        dx_strip(view, parameter_dims, dy, x, weight, dx, b, row, rows, whole, forms, k + whole, step, taken, o + whole,
                 ahead, last - whole, False, power, spans_m, False)  # fmt: skip


@helper
def region_dx(view, parameter_dims, dy, x, weight, dx, b, top, end, first, last, forms, to, step, taken, at_once,
              ahead, power, spans_m, streams):  # fmt: skip
    """dx on the rows [top, end) of the columns [first, last), as `region_apply` has y."""
    for turn in range(2 if end == view[1] and rest_of(view) > 0 else 1):
        if turn == 1:
            top, end, last = end, end + 1, first + rest_of(view)
        row = top
        while row < end:
            if at_once and row + HEIGHT_BACK <= end:
                rows_dx(view, parameter_dims, dy, x, weight, dx, b, row, HEIGHT_BACK, first, last, forms, to - first,
                        step, taken[0], taken[1] - first, ahead, power, spans_m, streams)  # fmt: skip
                row += HEIGHT_BACK
            else:
                rows_dx(view, parameter_dims, dy, x, weight, dx, b, row, 1, first, last, forms, to - first, step,
                        taken[0], taken[1] - first, ahead, power, spans_m, streams)  # fmt: skip
                row += 1


@helper
def repeats_of(dims, parameter_dims):
    """Samples of a task whose parameters vary along m, so that its block of gradients is small beside its dx."""
    b, _, c, n = dims
    pb, _, pc, pn = parameter_dims
    return larger(1, smaller(b // pb, 16 if pc * pn > 1 else SUMMED_COLUMNS // (c * n)))


@helper
def block_of(dims, parameter_dims):
    """Values of a plane of a block: (pm, columns), or (pm, LANES) where all columns share a weight."""
    _, pm, pc, pn = parameter_dims
    return pm * (dims[2] * dims[3] if pc * pn > 1 else LANES)


@helper
def fold_blocks(o, dims, parameter_dims, blocks, count, dweight, dbias):
    """Add up `count` blocks (count, pb, 2, plane) to the gradients o of one row of a set of parameters, in order."""
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
def keep_sums(size, part, at_part, part_step, sums, to, step):
    """Keep a column's sums of dy * xhat and dy: they are gradients."""
    for j in range(0, size, LANES):
        left = smaller(size - j, LANES)
        i = at_part + j
        put_lanes(sums, to + j, load(part, i + part_step), left)
        put_lanes(sums, to + step + j, load(part, i), left)


@helper
def folds_of(dims, parameter_dims):
    """Turns of `fold_columns`: where each column has parameters of its own, a vector of them, else one."""
    pb, _, pc, pn = parameter_dims
    return pb * ((pc * pn + LANES - 1) // LANES if pc * pn == dims[2] * dims[3] else pc * pn)


@helper
def fold_columns(o, dims, parameter_dims, sums, dweight, dbias):
    """Add up the sums (b, 2, columns) of all columns that share the parameters o, in order."""
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


@cache
def backward(center, power, spans_m, streams):
    """dx, column sums and the parameters' gradients, a tile at a time; `streams` as forward."""

    @helper
    def some_tiles(t, dims, parameter_dims, dy, x, weight, stats, dx, blocks, kept, divisor, limit):
        b, m, c, n = dims
        pb = parameter_dims[0]
        view = view_of(dims, spans_m, x)
        columns, width, tiles, groups = c * n, width_of(view), tiles_of(view), groups_of(view[1])
        repeats = repeats_of(dims, parameter_dims) if spans_m else 1
        plane = block_of(dims, parameter_dims)
        place, first = t % pb, t // pb % tiles * width
        last = smaller(first + width, view[2] * view[3])
        end = smaller(last, columns)
        start = t // pb // tiles * repeats
        block = t * 2 * plane
        if spans_m:
            clear(blocks, block, 2 * plane)
        sums, forms, taken = workspace(5 * width, x), workspace(FORMS * width, x), workspace(TAKEN * width, x)
        part = workspace(groups * SUMS * width, stats)
        for u in range(start, smaller(start + repeats, b // pb)):
            i = u * pb + place
            prepare(dims, parameter_dims, x, weight, weight, stats, i, first, end, forms, 0, width, spans_m, False)
            repeat(dims, view, forms, FORMS, 0, width)
            # 1 moments
            for g in range(groups):
                group_sums(view, parameter_dims, dy, x, weight, i, g, first, last, blocks, block, plane, sums, width,
                           part, g * SUMS * width, width, forms, 0, width, center, power, spans_m)  # fmt: skip
            add_groups(view[1], part, 0, width, SUMS * width, last - first)
            fold_row_sums(dims, view, dy, x, i, part, 0, width, forms, 0, width, power)
            if not spans_m:
                keep_sums(end - first, part, 0, width, kept, 2 * i * columns + first, columns)
            # 2 normalize
            weigh(dims, stats, i, first, end, part, 0, width, forms, 0, width, (taken, 0), float(m * n), center,
                  power, divisor, limit, x, spans_m)  # fmt: skip
            repeat(dims, view, taken, TAKEN, 0, width)
            region_dx(view, parameter_dims, dy, x, weight, dx, i, 0, view[1], first, last, forms, 0, width, (taken, 0),
                      True, width, power, spans_m, streams)  # fmt: skip

    @kernel
    def columns_backward(
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
        divisor,  # float: values in a set, or 1 for totals
        limit,  # float: rstd of a clamped set, or inf
    ):
        b, _, c, n = dims
        pb, pm, _, _ = parameter_dims
        tiles = tiles_of(view_of(dims, spans_m, x))
        repeats = repeats_of(dims, parameter_dims) if spans_m else 1
        per_place = (b // pb + repeats - 1) // repeats
        plane = block_of(dims, parameter_dims)
        blocks = workspace(per_place * tiles * pb * 2 * plane if spans_m else 1, weight)
        kept = workspace(1 if spans_m else 2 * b * c * n, stats)
        given = dims, parameter_dims, dy, x, weight, stats, dx, blocks, kept, divisor, limit
        share(pool, per_place * tiles * pb, some_tiles, given)
        pool = pool_for(blocks.size + kept.size, pool)
        if spans_m:
            share(pool, pb * pm, fold_blocks, (dims, parameter_dims, blocks, per_place * tiles, dweight, dbias))
        else:
            share(pool, folds_of(dims, parameter_dims), fold_columns, (dims, parameter_dims, kept, dweight, dbias))

    return columns_backward
