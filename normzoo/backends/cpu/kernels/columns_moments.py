"""The moments of columns: a chunk of rows is summed around the mean of those before."""

import numpy as np

from normzoo.backends.cpu.compiling.jit import helper
from normzoo.backends.cpu.kernels.columns_walk import groups_of, place_in, read_in, rest_of
from normzoo.backends.cpu.kernels.moments import extreme_moments, held, hold, is_extreme, merge, put_lanes, rstd_of
from normzoo.backends.cpu.schedule import COLUMN_CHUNK, FIRST_ROWS, GROUP, STRIP
from normzoo.backends.cpu.vector.access import at, load, load_n, prefetch, put, store, zeros
from normzoo.backends.cpu.vector.arithmetic import fma, keep, lane, larger, narrow, smaller, splat, total, wide
from normzoo.backends.cpu.vector.lanes import LANES


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
