"""Kernels of the views whose last axis is kept (n == 1): a set (b, c) is m values, c apart; c runs along the lanes.

They also serve short runs (n > 1 small): x is then seen as m rows of c*n columns, and the n columns of a set are folded
after each was summed. CHUNK rows are summed around the mean of those before, the first of a GROUP of chunks around its
own; all by the shape alone, merged in order, in float64. A task walks a tile of columns, whose workspaces stay in the
level-1 cache. Here a thread takes whole tiles; in `columns_split.py` all threads share each column.
"""

from functools import cache

import numpy as np
from numba import prange

from normzoo.backends.cpu.jit import SOURCE, helper, kernel
from normzoo.backends.cpu.lanes import (
    LANES,
    at,
    below,
    fma,
    keep,
    lane,
    larger,
    load,
    load_n,
    narrow,
    prefetch,
    put,
    sign,
    splat,
    store,
    total,
    wide,
    workspace,
    zeros,
)
from normzoo.backends.cpu.moments import (
    affine_of,
    extreme_moments,
    factors_of,
    gradient,
    is_extreme,
    merge,
    put_lanes,
    read,
    rstd_of,
    standardize,
    write,
)

CHUNK = 64  # rows between two merges
GROUP = 512  # rows that one task sums in a row
STRIP = 4  # rows between two visits to a column's sums
NEXT = 2048  # values of a row-wise walk, by which fetching is ahead of the work
BAND = 1024  # columns whose forms and factors stay in the level-1 cache while their rows stream by
TILE = 65536  # values of a tile that is read twice: a quarter of a megabyte of float32
WIDEST = 1024  # columns of a tile
SUMMED = 1024  # columns, of one sample or several, whose gradients a task adds up in the computing type


@helper
def width_of(dims):
    """Columns of a tile that stays in the cache: whole vectors, and whole sets."""
    _, m, c, n = dims
    unit = LANES * n
    return min((c * n + unit - 1) // unit, max(1, min(TILE // m, WIDEST) // unit)) * unit


@helper
def groups_of(m):
    """Groups of rows."""
    return (m + GROUP - 1) // GROUP


@helper
def place_of(parameter_dims, b):
    """Which of the pb sets of parameters belongs to b."""
    return b if parameter_dims[0] > b else b % parameter_dims[0]


@helper
def row_parameter(dims, parameter_dims, p, b, row, j, left, full):
    """The lanes of a parameter that varies along m: one value for all columns, or one for each."""
    at_row = place_of(parameter_dims, b) * parameter_dims[1] + row
    if parameter_dims[2] * parameter_dims[3] > 1:
        return read(p, at_row * dims[2] * dims[3] + j, left, full)
    return splat(at(p, at_row))


# -- moments: part holds planes of float64 for every group, at `to` + column - first, a plane `step` behind the other ----


@helper
def add_strip(dims, x, i, rows, sums, j, width, left, full):
    """Add `rows` rows from position i on to the sums, around the shift, of the columns at j."""
    shift = load(sums, j)
    s, q = zeros(x), zeros(x)
    for _ in range(rows):
        prefetch(x, i + STRIP * dims[2] * dims[3])
        d = read(x, i, left, full) - shift
        s += d
        q = fma(d, d, q)
        i += dims[2] * dims[3]
    store(sums, width + j, load(sums, width + j) + s)
    store(sums, 2 * width + j, load(sums, 2 * width + j) + q)


@helper
def add_rows(dims, x, b, top, end, first, last, sums, width):
    """Add the rows [top, end) of the columns [first, last) to their sums, STRIP rows at a time."""
    columns = dims[2] * dims[3]
    whole = first + (last - first) // LANES * LANES
    for row in range(top, end, STRIP):
        i, rows = (b * dims[1] + row) * columns, min(STRIP, end - row)
        for j in range(first, whole, LANES):
            add_strip(dims, x, i + j, rows, sums, j - first, width, LANES, True)
        if whole < last:
            add_strip(dims, x, i + whole, rows, sums, whole - first, width, last - whole, False)


@helper
def group_moments(dims, x, b, g, first, last, sums, width, part, to, step, center):
    """mean and m2 of group g of the columns [first, last), into the planes of `part`."""
    _, m, c, n = dims
    size = last - first
    top, end = g * GROUP, min(g * GROUP + GROUP, m)
    for j in range(0, size, LANES):
        for plane in range(3):
            store(sums, plane * width + j, zeros(x))
        store(part, to + j, splat(0.0))
        store(part, to + step + j, splat(0.0))
    if center:  # the mean of the first chunk, around its first row
        start, stop = (b * m + top) * c * n + first, min(top + CHUNK, end)
        for j in range(0, size, LANES):
            store(sums, j, load_n(x, start + j, min(size - j, LANES)))
        add_rows(dims, x, b, top, stop, first, last, sums, width)
        inverse = splat(1.0 / (stop - top))
        for j in range(0, size, LANES):
            store(sums, j, narrow(fma(wide(load(sums, width + j)), inverse, wide(load(sums, j))), x))
    count = 0.0
    for chunk in range(top, end, CHUNK):
        stop = min(chunk + CHUNK, end)
        for j in range(0, size, LANES):
            store(sums, width + j, zeros(x))
            store(sums, 2 * width + j, zeros(x))
        add_rows(dims, x, b, chunk, stop, first, last, sums, width)
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
        count = splat(float(min(GROUP, m)))
        mean, m2 = load(part, j), load(part, j + step)
        for g in range(1, groups_of(m)):
            p = j + g * apart
            count_g = splat(float(min(GROUP, m - g * GROUP)))
            count, mean, m2 = merge(count, mean, m2, count_g, load(part, p), load(part, p + step))
        store(part, j, mean)
        store(part, j + step, m2)


@helper
def fold_sets(dims, stats, b, first, last, part, to, step):
    """Merge the columns of each set among [first, last) into `stats`: of equal counts, so by sums around the first."""
    bs, m, c, n = dims
    if n == 1:
        for j in range(first, last, LANES):
            left = min(last - j, LANES)
            put_lanes(stats, b * c + j, load(part, to + j - first), left)
            put_lanes(stats, (bs + b) * c + j, load(part, to + step + j - first), left)
        return
    for s in range(first // n, last // n):
        at_set = to + s * n - first
        shift = splat(at(part, at_set))
        s1, s2, m2 = splat(0.0), splat(0.0), splat(0.0)
        for i in range(0, n, LANES):
            left = min(n - i, LANES)
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
    """From the sums in `stats`: spread and rstd of the sets among [first, last); start over where values are extreme."""
    bs, m, c, n = dims
    for j in range(first // n, last // n, LANES):
        left = min(last // n - j, LANES)
        at_spread, at_rstd = (bs + b) * c + j, (2 * bs + b) * c + j
        sums = load_n(stats, at_spread, left)
        spread = sums / splat(divisor) if power != 0 else splat(0.0)
        put_lanes(stats, at_spread, spread, left)
        put_lanes(stats, at_rstd, rstd_of(spread, splat(eps), splat(1.0), power, clamp), left)
        for i in range(left):
            if is_extreme(lane(sums, i), eps, power, clamp, x):
                start = b * m * c * n + (j + i) * n
                mean, spread_i, rstd = extreme_moments(x, start, m, c * n, n, center, power, divisor, eps, clamp)
                put(stats, b * c + j + i, mean)
                put(stats, at_spread + i, spread_i)
                put(stats, at_rstd + i, rstd)


# -- forms: planes of the computing type, for every column ---------------------------------------------------------

FORMS = 6  # planes of `prepare`
TAKEN = 5  # planes of `weigh`: four factors, and the weight times the scale


@helper
def prepare(dims, parameter_dims, x, weight, bias, stats, b, first, last, forms, to, step, spans_m):
    """The four planes of `affine_of` for the columns [first, last); and weight and bias, if a column has but one."""
    bs, _, c, n = dims
    _, _, pc, pn = parameter_dims
    place = place_of(parameter_dims, b) * pc * pn
    run = LANES if n == 1 else n
    for j in range(first, last, run):
        size = min(last - j, run)
        s = j // n
        if n == 1:
            mean, rstd = load_n(stats, b * c + s, size), load_n(stats, (2 * bs + b) * c + s, size)
        else:
            mean, rstd = splat(at(stats, b * c + s)), splat(at(stats, (2 * bs + b) * c + s))
        scale, shift, low, r = affine_of(mean, rstd, x)
        w, v = splat(at(weight, 0)), splat(at(bias, 0))
        if not spans_m:
            p = place + (s if pc > 1 else 0) * pn
            w, v = splat(at(weight, p)), splat(at(bias, p))
        for i in range(0, size, LANES):
            left = min(size - i, LANES)
            if not spans_m and (pn > 1 or (pc > 1 and n == 1)):
                p = place + (s if pc > 1 else 0) * pn + i
                w, v = load_n(weight, p, left), load_n(bias, p, left)
            k, room = to + j - first + i, last - j - i  # what is written too far is written again
            put_lanes(forms, k, scale, room)
            put_lanes(forms, k + step, shift, room)
            put_lanes(forms, k + 2 * step, low, room)
            put_lanes(forms, k + 3 * step, r, room)
            if not spans_m:
                put_lanes(forms, k + 4 * step, w, room)
                put_lanes(forms, k + 5 * step, v, room)


@helper
def four(planes, k, step):
    """The lanes of four planes."""
    return load(planes, k), load(planes, k + step), load(planes, k + 2 * step), load(planes, k + 3 * step)


@helper
def y_at(dims, parameter_dims, x, weight, bias, y, b, row, j, forms, k, step, ahead, left, full, spans_m):
    """y in one row of the columns at j."""
    i = (b * dims[1] + row) * dims[2] * dims[3] + j
    prefetch(x, i + ahead)
    xhat = standardize(read(x, i, left, full), *four(forms, k, step))
    if spans_m:
        w = row_parameter(dims, parameter_dims, weight, b, row, j, left, full)
        v = row_parameter(dims, parameter_dims, bias, b, row, j, left, full)
    else:
        w, v = load(forms, k + 4 * step), load(forms, k + 5 * step)
    write(y, i, fma(xhat, w, v), left, full)


@helper
def region_apply(dims, parameter_dims, x, weight, bias, y, b, top, end, first, last, forms, to, step, ahead, spans_m):
    """y on the rows [top, end) of the columns [first, last): BAND columns at a time, row by row.

    `ahead`: where the values lie, from those of the work, that are fetched meanwhile.
    """
    for band in range(first, last, BAND):
        stop = min(band + BAND, last)
        whole = band + (stop - band) // LANES * LANES
        for row in range(top, end):
            k = to - first
            for j in range(band, whole, LANES):
                y_at(dims, parameter_dims, x, weight, bias, y, b, row, j, forms, k + j, step, ahead, LANES, True,
                     spans_m)  # fmt: skip
            if whole < stop:
                left = stop - whole
                y_at(dims, parameter_dims, x, weight, bias, y, b, row, whole, forms, k + whole, step, ahead, left, False,
                     spans_m)  # fmt: skip


@cache
def forward(center, power, spans_m, parallel):
    """Statistics and y, a tile at a time."""

    @kernel(parallel)
    def columns_forward(
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
        if parallel > SOURCE:
            return
        b, m, c, n = dims
        columns = c * n
        width = width_of(dims)
        tiles = (columns + width - 1) // width
        for task in prange(b * tiles):
            t = np.int64(task)  # prange counts in uint64
            i, first = t // tiles, t % tiles * width
            last = min(first + width, columns)
            sums, forms = workspace(3 * width, x), workspace(FORMS * width, x)
            part = np.empty(groups_of(m) * 2 * width)
            # 1 moments
            for g in range(groups_of(m)):
                group_moments(dims, x, i, g, first, last, sums, width, part, g * 2 * width, width, center)
            merge_groups(m, part, 0, width, 2 * width, last - first)
            fold_sets(dims, stats, i, first, last, part, 0, width)
            if power == 1:
                deviations(dims, x, stats, i, first, last)
            finish(dims, x, stats, i, first, last, center, power, divisor, eps, clamp)
            # 2 normalize
            prepare(dims, parameter_dims, x, weight, bias, stats, i, first, last, forms, 0, width, spans_m)
            region_apply(
                dims, parameter_dims, x, weight, bias, y, i, 0, m, first, last, forms, 0, width, width, spans_m
            )

    return columns_forward


# -- backward ------------------------------------------------------------------------------------------------------
#
# As in rows.py, sums are around a first value of a set, here of g = dy * weight where the weights vary along m
# (`spans_m`; blocks then collect the gradients of the parameters), else of dy, whose sums are the gradients.

SUMS = 4  # planes of sums: g, g * xhat, xhat, sign(x - mean)


@helper
def fill_centers(dims, parameter_dims, dy, weight, b, first, last, sums, spans_m, center):
    """What the sums of a column are around: the value in row 0 of its set's first column; 0 without a centre."""
    _, m, c, n = dims
    top = b * m * c * n
    run = LANES if n == 1 else n
    for j in range(first, last, run):
        size = min(last - j, run)
        value = zeros(weight)
        if center:
            value = load_n(dy, top + j, size) if n == 1 else splat(at(dy, top + j))
            if spans_m:
                w = row_parameter(dims, parameter_dims, weight, b, 0, j, size if n == 1 else 1, False)
                value = value * (w if n == 1 else splat(lane(w, 0)))
        for i in range(0, size, LANES):
            put_lanes(sums, j - first + i, value, last - j - i)


@helper
def add_sums(dims, parameter_dims, dy, x, weight, b, row, rows, j, blocks, block, plane, sums, k, width, forms, to, step,
             left, full, power, spans_m):  # fmt: skip
    """Add `rows` rows from `row` on to the sums of the columns at j; and to the gradients of the parameters."""
    _, m, c, n = dims
    _, pm, pc, pn = parameter_dims
    lanes_vary = pc * pn > 1
    affine = four(forms, to, step)
    middle = load(sums, k)
    s, q, z, signs = zeros(weight), zeros(weight), zeros(weight), zeros(weight)
    i = (b * m + row) * c * n + j
    for r in range(row, row + rows):
        prefetch(x, i + STRIP * c * n)
        prefetch(dy, i + STRIP * c * n)
        g, xhat = read(dy, i, left, full), standardize(read(x, i, left, full), *affine)
        if not full:
            xhat = keep(xhat, left)
        if spans_m:
            o = block + (r * c * n + j if lanes_vary else r * LANES)
            size = left if lanes_vary else LANES
            write(blocks, o, fma(g, xhat, read(blocks, o, size, full)), size, full)
            write(blocks, o + plane, read(blocks, o + plane, size, full) + g, size, full)
            g = g * row_parameter(dims, parameter_dims, weight, b, r, j, left, full)
        g = g - middle
        s += g
        q = fma(g, xhat, q)
        if not spans_m:
            z += xhat
        if power == 1:
            signs += sign(xhat)
        i += c * n
    store(sums, k + width, load(sums, k + width) + s)
    store(sums, k + 2 * width, load(sums, k + 2 * width) + q)
    if not spans_m:
        store(sums, k + 3 * width, load(sums, k + 3 * width) + z)
    if power == 1:
        store(sums, k + 4 * width, load(sums, k + 4 * width) + signs)


@helper
def group_sums(dims, parameter_dims, dy, x, weight, b, g, first, last, blocks, block, plane, sums, width, part, at_part,
               part_step, forms, to, step, center, power, spans_m):  # fmt: skip
    """Sums over group g of the columns [first, last), into the planes of `part`."""
    m = dims[1]
    top, end = g * GROUP, min(g * GROUP + GROUP, m)
    whole = first + (last - first) // LANES * LANES
    for j in range(first, last, LANES):
        for p in range(SUMS + 1):
            store(sums, j - first + p * width, zeros(x))
    fill_centers(dims, parameter_dims, dy, weight, b, first, last, sums, spans_m, center)
    for row in range(top, end, STRIP):
        rows = min(STRIP, end - row)
        for j in range(first, whole, LANES):
            k = j - first
            add_sums(dims, parameter_dims, dy, x, weight, b, row, rows, j, blocks, block, plane, sums, k, width, forms,
                     to + k, step, LANES, True, power, spans_m)  # fmt: skip
        if whole < last:
            k = whole - first
            add_sums(dims, parameter_dims, dy, x, weight, b, row, rows, whole, blocks, block, plane, sums, k, width,
                     forms, to + k, step, last - whole, False, power, spans_m)  # fmt: skip
    rows_here = splat(float(end - top))
    for j in range(0, last - first, LANES):
        middle = wide(load(sums, j))
        s, q = wide(load(sums, j + width)), wide(load(sums, j + 2 * width))
        z = zeros(part) if spans_m else wide(load(sums, j + 3 * width)) * middle
        store(part, at_part + j, fma(middle, rows_here, s))  # sum(g)
        store(part, at_part + part_step + j, q)  # sum((g - middle) * xhat)
        store(part, at_part + 2 * part_step + j, z)  # what that leaves out
        if power == 1:
            store(part, at_part + 3 * part_step + j, wide(load(sums, j + 4 * width)))


@helper
def add_groups(m, part, to, step, apart, size, power):
    """Add up the groups' sums, `apart` from one another, of `size` columns, in order, in the first."""
    for j in range(to, to + size, LANES):
        for p in range(SUMS if power == 1 else SUMS - 1):
            s = load(part, j + p * step)
            for g in range(1, groups_of(m)):
                s += load(part, j + p * step + g * apart)
            store(part, j + p * step, s)


@helper
def weigh(dims, stats, b, first, last, part, at_part, part_step, forms, to, step, taken, k, center, power, divisor, limit,
          like, spans_m):  # fmt: skip
    """From the sums of each set, its columns in order, what dx takes off g in its columns: see `factors_of`.

    And the weight times the scale, if a column has but one. The rstd of a clamped set is a constant.
    """
    bs, _, c, n = dims
    run = LANES if n == 1 else n
    for j in range(first, last, run):
        size = min(last - j, run)
        g, gx, signs = splat(0.0), splat(0.0), splat(0.0)
        w_first = splat(1.0)
        for i in range(0, size, LANES):  # one vector of sets, or the columns of one set
            left = min(size - i, LANES)
            p, f = at_part + j - first + i, to + j - first + i
            w = splat(1.0)
            if not spans_m:
                w = wide(load_n(forms, f + 4 * step, left))
                w_first = w if n == 1 else splat(np.float64(at(forms, to + j - first + 4 * step)))
            g = fma(w, load_n(part, p, left), g)
            # the sum of xhat over the set is 0: what its columns leave out matters as far as their weights differ
            left_out = keep((w - w_first) * load_n(part, p + 2 * part_step, left), left)
            gx = fma(w, load_n(part, p + part_step, left), gx) + left_out
            if power == 1:
                signs += load_n(part, p + 3 * part_step, left)
        if n > 1:
            g, gx, signs = splat(total(g)), splat(total(gx)), splat(total(signs))
        g = g / splat(k) if center else splat(0.0)
        gx = gx / splat(divisor)
        signs = signs / splat(k) if center else splat(0.0)
        if limit < np.inf:
            s = (2 * bs + b) * c + j // n
            gx = below(load_n(stats, s, size) if n == 1 else splat(at(stats, s)), splat(limit), gx)
        for i in range(0, size, LANES):
            left = min(size - i, LANES)
            f, o, room = to + j - first + i, taken[1] + j - first + i, last - j - i
            affine = (
                load_n(forms, f, left),
                load_n(forms, f + step, left),
                load_n(forms, f + 2 * step, left),
                load_n(forms, f + 3 * step, left),
            )
            g_high, g_low, q, sign_mean = factors_of(g, gx, signs, affine, power, like)
            put_lanes(taken[0], o, g_high, room)
            put_lanes(taken[0], o + step, g_low, room)
            put_lanes(taken[0], o + 2 * step, q, room)
            put_lanes(taken[0], o + 3 * step, sign_mean, room)
            if not spans_m:
                put_lanes(taken[0], o + 4 * step, load_n(forms, f + 4 * step, left) * affine[0], room)


@helper
def dx_at(dims, parameter_dims, dy, x, weight, dx, b, row, j, forms, k, step, taken, o, ahead, left, full, power,
          spans_m):  # fmt: skip
    """dx in one row of the columns at j."""
    i = (b * dims[1] + row) * dims[2] * dims[3] + j
    affine, factors = four(forms, k, step), four(taken, o, step)
    if spans_m:
        w = row_parameter(dims, parameter_dims, weight, b, row, j, left, full) * affine[0]
    else:
        w = load(taken, o + 4 * step)
    prefetch(x, i + ahead)
    prefetch(dy, i + ahead)
    d, v = read(dy, i, left, full), read(x, i, left, full)
    write(dx, i, gradient(d, v, w, affine, factors, power), left, full)


@helper
def region_dx(dims, parameter_dims, dy, x, weight, dx, b, top, end, first, last, forms, to, step, taken, ahead, power,
              spans_m):  # fmt: skip
    """dx on the rows [top, end) of the columns [first, last): BAND columns at a time, row by row.

    `ahead`: where the values lie, from those of the work, that are fetched meanwhile.
    """
    for band in range(first, last, BAND):
        stop = min(band + BAND, last)
        whole = band + (stop - band) // LANES * LANES
        for row in range(top, end):
            k, o = to - first, taken[1] - first
            for j in range(band, whole, LANES):
                dx_at(dims, parameter_dims, dy, x, weight, dx, b, row, j, forms, k + j, step, taken[0], o + j, ahead,
                      LANES, True, power, spans_m)  # fmt: skip
            if whole < stop:
                dx_at(dims, parameter_dims, dy, x, weight, dx, b, row, whole, forms, k + whole, step, taken[0],
                      o + whole, ahead, stop - whole, False, power, spans_m)  # fmt: skip


@helper
def repeats_of(dims, parameter_dims):
    """Samples of a task whose parameters vary along m, so that its block of gradients is small beside its dx."""
    b, _, c, n = dims
    pb, _, pc, pn = parameter_dims
    return max(1, min(b // pb, 16 if pc * pn > 1 else SUMMED // (c * n)))


@helper
def block_of(dims, parameter_dims):
    """Values of a plane of a block: (pm, columns), or (pm, LANES) where all columns share a weight."""
    _, pm, pc, pn = parameter_dims
    return pm * (dims[2] * dims[3] if pc * pn > 1 else LANES)


@helper
def fold_blocks(dims, parameter_dims, blocks, count, o, dweight, dbias):
    """Add up `count` blocks (count, pb, 2, plane) to the gradients o of one row of a set of parameters, in order."""
    pb, pm, pc, pn = parameter_dims
    plane = block_of(dims, parameter_dims)
    size = plane // pm
    place, row = o // pm, o % pm
    for j in range(0, size, LANES):
        left = min(size - j, LANES)
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
        left = min(size - j, LANES)
        i = at_part + j
        put_lanes(sums, to + j, load(part, i + part_step) + load(part, i + 2 * part_step), left)
        put_lanes(sums, to + step + j, load(part, i), left)


@helper
def fold_columns(dims, parameter_dims, sums, o, dweight, dbias):
    """Add up the sums (b, 2, columns) of all columns that share the parameter o, in order."""
    b, _, c, n = dims
    pb, _, pc, pn = parameter_dims
    place, column, run = o // (pc * pn), o // pn % pc, o % pn
    w, v = 0.0, 0.0
    for i in range(place, b, pb):
        for j in range(column, column + 1 if pc > 1 else c):
            for k in range(j * n + run, j * n + (run + 1 if pn > 1 else n)):
                w += at(sums, 2 * i * c * n + k)
                v += at(sums, (2 * i + 1) * c * n + k)
    put(dweight, o, w)
    put(dbias, o, v)


@cache
def backward(center, power, spans_m, parallel):
    """dx, column sums and the parameters' gradients, a tile at a time."""

    @kernel(parallel)
    def columns_backward(
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
        if parallel > SOURCE:
            return
        b, m, c, n = dims
        pb, pm, pc, pn = parameter_dims
        columns = c * n
        width = width_of(dims)
        tiles = (columns + width - 1) // width
        repeats = repeats_of(dims, parameter_dims) if spans_m else 1
        per_place = (b // pb + repeats - 1) // repeats
        plane = block_of(dims, parameter_dims)
        blocks = workspace(per_place * tiles * pb * 2 * plane if spans_m else 1, weight)
        kept = np.empty(1 if spans_m else 2 * b * columns)
        for task in prange(per_place * tiles * pb):
            t = np.int64(task)
            place, first = t % pb, t // pb % tiles * width
            last = min(first + width, columns)
            start = t // pb // tiles * repeats
            block = t * 2 * plane
            if spans_m:
                blocks[block : block + 2 * plane] = 0
            sums, forms, taken = workspace(5 * width, x), workspace(FORMS * width, x), workspace(TAKEN * width, x)
            part = np.empty(groups_of(m) * SUMS * width)
            for u in range(start, min(start + repeats, b // pb)):
                i = u * pb + place
                prepare(dims, parameter_dims, x, weight, weight, stats, i, first, last, forms, 0, width, spans_m)
                # 1 moments
                for g in range(groups_of(m)):
                    group_sums(dims, parameter_dims, dy, x, weight, i, g, first, last, blocks, block, plane, sums, width,
                               part, g * SUMS * width, width, forms, 0, width, center, power, spans_m)  # fmt: skip
                add_groups(m, part, 0, width, SUMS * width, last - first, power)
                if not spans_m:
                    keep_sums(last - first, part, 0, width, kept, 2 * i * columns + first, columns)
                # 2 normalize
                weigh(dims, stats, i, first, last, part, 0, width, forms, 0, width, (taken, 0), float(m * n), center,
                      power, divisor, limit, x, spans_m)  # fmt: skip
                region_dx(dims, parameter_dims, dy, x, weight, dx, i, 0, m, first, last, forms, 0, width, (taken, 0),
                          width, power, spans_m)  # fmt: skip
        if spans_m:
            for task in prange(pb * pm):
                fold_blocks(dims, parameter_dims, blocks, per_place * tiles, np.int64(task), dweight, dbias)
        else:
            for task in prange(pb * pc * pn):
                fold_columns(dims, parameter_dims, kept, np.int64(task), dweight, dbias)

    return columns_backward
