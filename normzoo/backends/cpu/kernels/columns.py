"""Kernels of the views whose last axis is kept (n == 1): a set (b, c) is m values, c apart; c runs along the lanes.

They also serve short runs (n > 1 small): x is then seen as m rows of c*n columns, and the n columns of a set are folded
after each was summed. A chunk of COLUMN_CHUNK rows is summed around the mean of those before, the first of a GROUP
around that of its FIRST_ROWS rows; all by the shape alone, merged in order, in float64. A task walks a tile of columns,
whose workspaces stay in the level-1 cache. Here a thread takes whole tiles; in `columns_split.py` threads share each
column.
"""

from functools import cache

from normzoo.backends.cpu.compiling.jit import helper, kernel
from normzoo.backends.cpu.kernels.columns_moments import (
    deviations,
    finish,
    fold_rows,
    fold_sets,
    group_moments,
    merge_groups,
)
from normzoo.backends.cpu.kernels.columns_walk import (
    groups_of,
    place_in,
    place_of,
    read_in,
    rest_of,
    row_parameter,
    tiles_of,
    view_of,
    width_of,
)
from normzoo.backends.cpu.kernels.moments import (
    affine_by,
    affine_of,
    held,
    put_lanes,
    standardize,
    write_out,
)
from normzoo.backends.cpu.parallel.sharing import share
from normzoo.backends.cpu.schedule import (
    HEIGHT,
)
from normzoo.backends.cpu.vector.access import at, load, load_n, prefetch, store, zeros
from normzoo.backends.cpu.vector.arithmetic import fma, smaller, splat, wide
from normzoo.backends.cpu.vector.lanes import LANES
from normzoo.backends.cpu.vector.workspaces import workspace

# -- moments. `part` holds planes of float64 for every group, at `to` + column - first, `step` from one to the next


@helper
def repeat(dims, view, planes, count, to, step):
    """Put what `count` planes have for each column where it stands again."""
    columns, whole = dims[2] * dims[3], view[2] * view[3]
    room = (whole + LANES - 1) // LANES * LANES
    for p in range(to, to + count * step, step):
        for first in range(columns, whole, columns):
            for j in range(0, columns, LANES):  # what is written too far is written again
                put_lanes(planes, p + first + j, load(planes, p + j), room - first - j)


# -- forms: planes of the computing type, for every column ---------------------------------------------------------

FORMS = 6  # planes of `prepare`


@helper
def clear_behind(planes, to, count, step, size):
    """Write 0 where the last vector of each of `count` planes goes beyond `size` values. Lanes there are read with the
    others and count nowhere; but what memory held before may be subnormal numbers, which take a hundred cycles each."""
    if size % LANES != 0:
        for p in range(count):
            store(planes, to + p * step + size // LANES * LANES, zeros(planes))


@helper
def prepare(dims, parameter_dims, x, weight, bias, stats, b, first, last, forms, to, step, spans_m, folds):
    """The four planes of `affine_of` for the columns [first, last); and weight and bias, if a column has but one. With
    `folds` the four of `affine_by`."""
    bs, _, c, n = dims
    _, _, pc, pn = parameter_dims
    place = place_of(parameter_dims, b) * pc * pn
    run = LANES if n == 1 else n
    clear_behind(forms, to, FORMS, step, last - first)
    for j in range(first, last, run):
        size = smaller(last - j, run)
        s = j // n
        if n == 1:
            mean, rstd = load_n(stats, b * c + s, size), load_n(stats, (2 * bs + b) * c + s, size)
        else:
            mean, rstd = splat(at(stats, b * c + s)), splat(at(stats, (2 * bs + b) * c + s))
        scale, shift, fine, r = affine_of(mean, rstd, x)
        w, v = splat(at(weight, 0)), splat(at(bias, 0))
        if not spans_m:
            p = place + (s if pc > 1 else 0) * pn
            w, v = splat(at(weight, p)), splat(at(bias, p))
        for i in range(0, size, LANES):
            left = smaller(size - i, LANES)
            if not spans_m and (pn > 1 or (pc > 1 and n == 1)):
                p = place + (s if pc > 1 else 0) * pn + i
                w, v = load_n(weight, p, left), load_n(bias, p, left)
            if folds:
                scale, shift, fine, r = affine_by(mean, rstd, wide(w), wide(v), x)
            k, room = to + j - first + i, last - j - i  # what is written too far is written again
            put_lanes(forms, k, scale, room)
            put_lanes(forms, k + step, shift, room)
            put_lanes(forms, k + 2 * step, fine, room)
            put_lanes(forms, k + 3 * step, r, room)
            if not (spans_m or folds):
                put_lanes(forms, k + 4 * step, w, room)
                put_lanes(forms, k + 5 * step, v, room)


@helper
def four(planes, k, step, full, like):
    """The lanes of four planes, as `held`."""
    a, b = held(planes, k, full, like), held(planes, k + step, full, like)
    return a, b, held(planes, k + 2 * step, full, like), held(planes, k + 3 * step, full, like)


@helper
def y_strip(view, parameter_dims, x, weight, bias, y, b, row, rows, j, forms, k, step, ahead, left, full, spans_m,
            folds, streams):  # fmt: skip
    """y in `rows` rows from `row` on of the columns at j."""
    i = place_in(view, b, row) + j
    affine = four(forms, k, step, full, x)
    if not (spans_m or folds):
        w, v = held(forms, k + 4 * step, full, x), held(forms, k + 5 * step, full, x)
    for r in range(row, row + rows):
        prefetch(x, i + ahead)
        if spans_m:
            w = row_parameter(view, parameter_dims, weight, b, r, j, left, full, x)
            v = row_parameter(view, parameter_dims, bias, b, r, j, left, full, x)
        z = standardize(read_in(view, x, i, left, full), *affine)
        write_out(y, i, z if folds else fma(z, w, v), left, full, streams)
        i += view[2] * view[3]


@helper
def rows_apply(view, parameter_dims, x, weight, bias, y, b, row, rows, first, last, forms, k, step, ahead, spans_m,
               folds, streams):  # fmt: skip
    """y on `rows` rows from `row` on of the columns [first, last)."""
    whole = first + (last - first) // LANES * LANES
    for j in range(first, whole, LANES):
        y_strip(view, parameter_dims, x, weight, bias, y, b, row, rows, j, forms, k + j, step, ahead, LANES, True,
                spans_m, folds, streams)  # fmt: skip
    if whole < last:
        y_strip(view, parameter_dims, x, weight, bias, y, b, row, rows, whole, forms, k + whole, step, ahead,
                last - whole, False, spans_m, folds, False)  # fmt: skip


@helper
def region_apply(view, parameter_dims, x, weight, bias, y, b, top, end, first, last, forms, to, step, at_once, ahead,
                 spans_m, folds, streams):  # fmt: skip
    """y on the rows [top, end) of the columns [first, last), HEIGHT at a time or, without `at_once`, one: two loops,
    whose lengths are known when they are compiled.

    `ahead`: where the values lie, from those of the work, that are fetched meanwhile; `streams`: y goes past the
    caches.
    """
    for turn in range(2 if end == view[1] and rest_of(view) > 0 else 1):
        if turn == 1:  # what is behind the last row
            top, end, last = end, end + 1, first + rest_of(view)
        row = top
        while row < end:
            if at_once and row + HEIGHT <= end:
                rows_apply(view, parameter_dims, x, weight, bias, y, b, row, HEIGHT, first, last, forms, to - first,
                           step, ahead, spans_m, folds, streams)  # fmt: skip
                row += HEIGHT
            else:
                rows_apply(view, parameter_dims, x, weight, bias, y, b, row, 1, first, last, forms, to - first, step,
                           ahead, spans_m, folds, streams)  # fmt: skip
                row += 1


@cache
def forward(center, power, spans_m, streams):
    """Statistics and y, a tile at a time; with `streams` past the caches, which asks for rows of whole vectors."""

    @helper
    def one_tile(t, dims, parameter_dims, x, weight, bias, y, stats, divisor, eps, clamp):
        view = view_of(dims, spans_m, x)
        m, width, tiles = view[1], width_of(view), tiles_of(view)
        i, first = t // tiles, t % tiles * width
        last = smaller(first + width, view[2] * view[3])
        end = smaller(last, dims[2] * dims[3])
        sums, forms = workspace(3 * width, x), workspace(FORMS * width, x)
        part = workspace(groups_of(m) * 2 * width, stats)
        # 1 moments
        for g in range(groups_of(m)):
            group_moments(view, x, i, g, first, last, sums, width, part, g * 2 * width, width, center)
        merge_groups(m, part, 0, width, 2 * width, last - first)
        fold_rows(dims, view, x, i, part, 0, width, center)
        fold_sets(dims, stats, i, first, end, part, 0, width)
        if power == 1:
            deviations(dims, x, stats, i, first, end)
        finish(dims, x, stats, i, first, end, center, power, divisor, eps, clamp)
        # 2 normalize
        prepare(dims, parameter_dims, x, weight, bias, stats, i, first, end, forms, 0, width, spans_m, False)
        repeat(dims, view, forms, FORMS, 0, width)
        region_apply(view, parameter_dims, x, weight, bias, y, i, 0, m, first, last, forms, 0, width, True, width,
                     spans_m, False, streams)  # fmt: skip

    @kernel
    def columns_forward(
        pool,  # see sharing.py
        dims,  # (b, m, c, n)
        parameter_dims,  # (pb, pm, pc, pn)
        x,
        weight,
        bias,
        y,
        stats,  # (3, b, c) float64: mean, spread, rstd
        divisor,  # float: values in a set, or 1 for totals
        eps,  # float
        clamp,  # bool
    ):
        given = dims, parameter_dims, x, weight, bias, y, stats, divisor, eps, clamp
        share(pool, dims[0] * tiles_of(view_of(dims, spans_m, x)), one_tile, given)

    return columns_forward
