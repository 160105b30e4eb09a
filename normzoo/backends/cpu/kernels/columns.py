"""Kernels of the views whose last axis is kept (n == 1): a set (b, c) is m values, c apart; c runs along the lanes.

They also serve short runs (n > 1 small): x is then seen as m rows of c*n columns, and the n columns of a set are folded
after each was summed. A chunk of COLUMN_CHUNK rows is summed around the mean of those before, the first of a GROUP
around that of its FIRST_ROWS rows; all by the shape alone, merged in order, in float64. A task walks a tile of columns,
whose workspaces stay in the level-1 cache. Here a thread takes whole tiles; in `columns_split.py` threads share each
column.
"""

from functools import cache

import numpy as np

from normzoo.backends.cpu.compiling.jit import helper, kernel
from normzoo.backends.cpu.kernels.moments import (
    affine_by,
    affine_of,
    extreme_moments,
    held,
    hold,
    is_extreme,
    merge,
    put_lanes,
    read,
    rstd_of,
    standardize,
    write_out,
)
from normzoo.backends.cpu.parallel.sharing import share
from normzoo.backends.cpu.schedule import (
    BAND,
    COLUMN_CHUNK,
    FIRST_ROWS,
    GROUP,
    HEIGHT,
    NARROW,
    SIDE_ROWS,
    SIDE_ROWS_FULL,
    STRIP,
    TILE,
    UNBROKEN,
    WIDEST,
)
from normzoo.backends.cpu.vector.access import at, load, load_as, load_n, prefetch, put, store, zeros
from normzoo.backends.cpu.vector.arithmetic import fma, keep, lane, larger, narrow, smaller, splat, total, wide
from normzoo.backends.cpu.vector.lanes import LANES
from normzoo.backends.cpu.vector.workspaces import workspace


@helper
def view_of(dims, spans_m):
    """(b, rows, c, n, values of a sample): how x is walked over. As `dims` says or, where columns are so narrow that
    they leave lanes empty, with several rows side by side: each column is then there several times, which `fold_rows`
    and `repeat` know. What is behind the last of such rows is part of another; it is `rest_of`."""
    b, m, c, n = dims
    columns = larger(1, c * n)
    together = 1
    if not spans_m:
        vectors = LANES // smaller(LANES, columns & -columns)  # rows that are whole vectors
        together = smaller(NARROW // columns, m // (SIDE_ROWS if vectors > 1 else SIDE_ROWS_FULL))
        if together < 4 and vectors == 1:
            together = 1
        elif together > vectors:
            together = together // vectors * vectors
    if together <= 1:
        return b, m, c, n, m * c * n
    return b, m // together, together * c * n, 1, m * c * n


@helper
def rest_of(view):
    """Values behind the last row."""
    return view[4] - view[1] * view[2] * view[3]


@helper
def place_in(view, b, row):
    """Where this row begins."""
    return b * view[4] + row * view[2] * view[3]


@helper
def width_of(view):
    """Columns of a tile that stays in the cache, or of a band of higher ones: whole vectors, and whole sets."""
    _, m, c, n, _ = view
    unit = LANES * n
    widest = smaller(TILE // m, WIDEST) if m <= GROUP else WIDEST // 2
    return smaller((c * n + unit - 1) // unit, larger(1, widest // unit)) * unit


@helper
def tiles_of(view):
    """Tiles of a sample: all of its rows, as many columns as `width_of` says."""
    width = width_of(view)
    return (view[2] * view[3] + width - 1) // width


@helper
def groups_of(m):
    """Groups of rows."""
    return (m + GROUP - 1) // GROUP


@helper
def place_of(parameter_dims, b):
    """Which of the pb sets of parameters belongs to b."""
    return b if parameter_dims[0] > b else b % parameter_dims[0]


@helper
def row_parameter(dims, parameter_dims, p, b, row, j, left, full, like):
    """The lanes of a parameter that varies along m: one value for all columns, or one for each; see `read`."""
    at_row = place_of(parameter_dims, b) * parameter_dims[1] + row
    if parameter_dims[2] * parameter_dims[3] > 1:
        return read(p, at_row * dims[2] * dims[3] + j, left, full, like)
    return splat(at(p, at_row))


@helper
def read_in(view, a, i, left, full):
    """Lanes of x, or of an array of its shape, as `read`; those behind `left` are anything, which is faster: there are
    no masks for sixteen bits."""
    if full:
        return load_as(a, i, a)
    return load(a, i) if i + LANES <= view[0] * view[4] else load_n(a, i, left)


# -- moments. `part` holds planes of float64 for every group, at `to` + column - first, `step` from one to the next


@helper
def strip_of(height, left):
    """Rows of the next strip; a height of 1 is known when a kernel is compiled, and leaves no loop."""
    return 1 if height == 1 else smaller(height, left)


@helper
def add_strip(view, x, i, rows, sums, j, width, left, full):
    """Add `rows` rows from position i on to the sums, around the shift, of the columns at j."""
    shift = held(sums, j, full, x)
    s, q = zeros(x), zeros(x)
    for _ in range(rows):
        prefetch(x, i + STRIP * view[2] * view[3])
        d = read_in(view, x, i, left, full) - shift
        s += d
        q = fma(d, d, q)
        i += view[2] * view[3]
    hold(sums, width + j, held(sums, width + j, full, x) + s, full, x)
    hold(sums, 2 * width + j, held(sums, 2 * width + j, full, x) + q, full, x)


@helper
def add_rows(view, x, b, top, end, first, last, sums, width):
    """Add the rows [top, end) of the columns [first, last) to their sums, STRIP rows at a time."""
    whole = first + (last - first) // LANES * LANES
    for row in range(top, end, STRIP):
        i, rows = place_in(view, b, row), smaller(STRIP, end - row)
        for j in range(first, whole, LANES):
            add_strip(view, x, i + j, rows, sums, j - first, width, LANES, True)
        if whole < last:
            add_strip(view, x, i + whole, rows, sums, whole - first, width, last - whole, False)


@helper
def group_moments(view, x, b, g, first, last, sums, width, part, to, step, center):
    """mean and m2 of group g of the columns [first, last), into the planes of `part`."""
    m = view[1]
    size = last - first
    top, end = g * GROUP, smaller(g * GROUP + GROUP, m)
    for j in range(0, size, LANES):
        for plane in range(3):
            store(sums, plane * width + j, zeros(x))
        store(part, to + j, splat(0.0))
        store(part, to + step + j, splat(0.0))
    if center:  # the mean of the first rows, around the first of all
        start, stop = place_in(view, b, top) + first, smaller(top + FIRST_ROWS, end)
        for j in range(0, size, LANES):
            store(sums, j, load_n(x, start + j, smaller(size - j, LANES)))
        add_rows(view, x, b, top, stop, first, last, sums, width)
        inverse = splat(1.0 / (stop - top))
        for j in range(0, size, LANES):
            store(sums, j, narrow(fma(wide(load(sums, width + j)), inverse, wide(load(sums, j))), x))
    count = 0.0
    for chunk in range(top, end, COLUMN_CHUNK):
        stop = smaller(chunk + COLUMN_CHUNK, end)
        for j in range(0, size, LANES):
            store(sums, width + j, zeros(x))
            store(sums, 2 * width + j, zeros(x))
        add_rows(view, x, b, chunk, stop, first, last, sums, width)
        added = float(stop - chunk)
        union = count + added
        inverse, fraction, between = splat(1.0 / added), splat(added / union), splat(count * (added / union))
        for j in range(0, size, LANES):
            s = wide(load(sums, width + j))
            by = s * inverse
            m2 = wide(load(sums, 2 * width + j))
            if center:
                m2 = larger(m2 - s * by, splat(0.0))
            else:
                by = splat(0.0)
            old = load(part, to + j)
            delta = (wide(load(sums, j)) + by) - old
            mean = fma(delta, fraction, old)
            store(part, to + j, mean)
            store(part, to + step + j, load(part, to + step + j) + fma(delta * delta, between, m2))
            store(sums, j, narrow(mean, sums))
        count = union


@helper
def merge_groups(m, part, to, step, apart, size):
    """Merge the groups' mean and m2, `apart` from one another, of `size` columns, in order, into the first."""
    for j in range(to, to + size, LANES):
        count = splat(float(smaller(GROUP, m)))
        mean, m2 = load(part, j), load(part, j + step)
        for g in range(1, groups_of(m)):
            p = j + g * apart
            count_g = splat(float(smaller(GROUP, m - g * GROUP)))
            count, mean, m2 = merge(count, mean, m2, count_g, load(part, p), load(part, p + step))
        store(part, j, mean)
        store(part, j + step, m2)


@helper
def fold_rows(dims, view, x, b, part, to, step, center):
    """Merge what stands side by side, and what is behind the last row, into the first of each column."""
    columns = dims[2] * dims[3]
    together, rest = view[2] * view[3] // columns, rest_of(view)
    if together == 1:
        return
    count = splat(float(view[1]))
    for j in range(0, columns, LANES):
        left = smaller(columns - j, LANES)
        shift = load_n(part, to + j, left)
        s1, s2, m2 = splat(0.0), splat(0.0), splat(0.0)
        for i in range(to + j, to + together * columns, columns):
            d = load_n(part, i, left) - shift
            s1 = fma(count, d, s1)
            s2 = fma(count * d, d, s2)
            m2 += load_n(part, i + step, left)
        start = place_in(view, b, view[1]) + j
        for i in range(start, start + rest, columns):
            d = wide(load_n(x, i, left)) - shift
            if center:
                s1 += d
            s2 = fma(d, d, s2)
        by = s1 / splat(float(dims[1]))
        put_lanes(part, to + j, shift + by, left)
        put_lanes(part, to + step + j, m2 + larger(s2 - s1 * by, splat(0.0)), left)


@helper
def repeat(dims, view, planes, count, to, step):
    """Put what `count` planes have for each column where it stands again."""
    columns, whole = dims[2] * dims[3], view[2] * view[3]
    room = (whole + LANES - 1) // LANES * LANES
    for p in range(to, to + count * step, step):
        for first in range(columns, whole, columns):
            for j in range(0, columns, LANES):  # what is written too far is written again
                put_lanes(planes, p + first + j, load(planes, p + j), room - first - j)


@helper
def fold_sets(dims, stats, b, first, last, part, to, step):
    """Merge the columns of each set among [first, last) into `stats`: of equal counts, so by sums around the first."""
    bs, m, c, n = dims
    if n == 1:
        for j in range(first, last, LANES):
            left = smaller(last - j, LANES)
            put_lanes(stats, b * c + j, load(part, to + j - first), left)
            put_lanes(stats, (bs + b) * c + j, load(part, to + step + j - first), left)
        return
    for s in range(first // n, last // n):
        at_set = to + s * n - first
        shift = splat(at(part, at_set))
        s1, s2, m2 = splat(0.0), splat(0.0), splat(0.0)
        for i in range(0, n, LANES):
            left = smaller(n - i, LANES)
            d = keep(load_n(part, at_set + i, left) - shift, left)
            s1 += d
            s2 = fma(d, d, s2)
            m2 += load_n(part, at_set + step + i, left)
        sum1 = total(s1)
        between = total(s2) - sum1 * (sum1 / n)
        put(stats, b * c + s, at(part, at_set) + sum1 / n)
        put(stats, (bs + b) * c + s, total(m2) + (m * between if between > 0.0 else 0.0 * between))


@helper
def deviations(dims, x, stats, b, first, last):
    """sum(|x - mean|) of every set among the columns [first, last), in the order of its rows, into `stats`."""
    bs, m, c, n = dims
    for s in range(first // n, last // n):
        put(stats, (bs + b) * c + s, 0.0)
    for row in range(m):
        for s in range(first // n, last // n):
            i = (b * m + row) * c * n + s * n
            spread, mean = at(stats, (bs + b) * c + s), at(stats, b * c + s)
            for j in range(i, i + n):
                spread += abs(np.float64(at(x, j)) - mean)
            put(stats, (bs + b) * c + s, spread)


@helper
def finish(dims, x, stats, b, first, last, center, power, divisor, eps, clamp):
    """From the sums in `stats`: spread and rstd of the sets among [first, last); anew where values are extreme."""
    bs, m, c, n = dims
    for j in range(first // n, last // n, LANES):
        left = smaller(last // n - j, LANES)
        at_spread, at_rstd = (bs + b) * c + j, (2 * bs + b) * c + j
        sums = load_n(stats, at_spread, left)
        spread = sums / splat(divisor) if power != 0 else splat(0.0)
        put_lanes(stats, at_spread, spread, left)
        put_lanes(stats, at_rstd, rstd_of(spread, splat(eps), splat(1.0), power, clamp), left)
        for i in range(left if is_extreme(sums, eps, power, clamp, x) else 0):
            if is_extreme(lane(sums, i), eps, power, clamp, x):
                start = b * m * c * n + (j + i) * n
                mean, spread_i, rstd = extreme_moments(x, start, m, c * n, n, center, power, divisor, eps, clamp)
                put(stats, b * c + j + i, mean)
                put(stats, at_spread + i, spread_i)
                put(stats, at_rstd + i, rstd)


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
def band_of(columns):
    """Columns of a band."""
    return UNBROKEN if columns <= UNBROKEN else BAND


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
def region_apply(view, parameter_dims, x, weight, bias, y, b, top, end, first, last, forms, to, step, height, ahead,
                 spans_m, folds, streams):  # fmt: skip
    """y on the rows [top, end) of the columns [first, last): a band of columns and `height` rows at a time.

    `ahead`: where the values lie, from those of the work, that are fetched meanwhile; `streams`: y goes past the
    caches.
    """
    for turn in range(2 if end == view[1] and rest_of(view) > 0 else 1):
        if turn == 1:  # what is behind the last row
            top, end, last = end, end + 1, first + rest_of(view)
        width = band_of(last - first)
        for band in range(first, last, width):
            stop = smaller(band + width, last)
            whole = band + (stop - band) // LANES * LANES
            for row in range(top, end, height):
                k, rows = to - first, strip_of(height, end - row)
                for j in range(band, whole, LANES):
                    y_strip(view, parameter_dims, x, weight, bias, y, b, row, rows, j, forms, k + j, step, ahead, LANES,
                            True, spans_m, folds, streams)  # fmt: skip
                if whole < stop:
                    y_strip(view, parameter_dims, x, weight, bias, y, b, row, rows, whole, forms, k + whole, step,
                            ahead, stop - whole, False, spans_m, folds, False)  # fmt: skip


@cache
def forward(center, power, spans_m, streams):
    """Statistics and y, a tile at a time; with `streams` past the caches, which asks for rows of whole vectors."""

    @helper
    def one_tile(t, dims, parameter_dims, x, weight, bias, y, stats, divisor, eps, clamp):
        view = view_of(dims, spans_m)
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
        region_apply(view, parameter_dims, x, weight, bias, y, i, 0, m, first, last, forms, 0, width, HEIGHT, width,
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
        share(pool, dims[0] * tiles_of(view_of(dims, spans_m)), one_tile, given)

    return columns_forward
