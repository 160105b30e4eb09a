"""Moments of columns: every chunk of rows is summed relative to the mean of the earlier chunks."""

import numpy as np

from normzoo.backends.cpu.compiling.jit import helper
from normzoo.backends.cpu.kernels.columns_records import Region
from normzoo.backends.cpu.kernels.columns_walk import (
    group_in,
    group_of,
    groups_of,
    in_strips,
    place_in,
    read_in,
    rest_of,
)
from normzoo.backends.cpu.kernels.moments import extreme_moments, held, hold, is_extreme, merge, put_lanes, rstd_of
from normzoo.backends.cpu.schedule import COLUMN_CHUNK, FIRST_ROWS, GROUP, STRIP
from normzoo.backends.cpu.vector.access import at, load, load_n, prefetch, put, store, zeros
from normzoo.backends.cpu.vector.arithmetic import fma, keep, lane, larger, narrow, smaller, splat, total, wide
from normzoo.backends.cpu.vector.lanes import LANES


@helper
def add_strip(strip, view, x, sums):
    """Add a strip of its columns, relative to the shift, to the sums."""
    b, row, rows, j, left, full = strip
    values, to, step = sums
    i, k = place_in(view, b, row) + j, to + j
    shift = held(values, k, full, x)
    s, q = zeros(x), zeros(x)
    for _ in range(rows):
        prefetch(x, i + STRIP * view.columns)
        d = read_in(view, x, i, left, full) - shift
        s += d
        q = fma(d, d, q)
        i += view.columns
    hold(values, k + step, held(values, k + step, full, x) + s, full, x)
    hold(values, k + 2 * step, held(values, k + 2 * step, full, x) + q, full, x)


@helper
def group_moments(view, x, tile, g, sums, part, flags):
    """Compute mean and m2 of group g of the tile, in its two planes of `part`."""
    b, top, end, first, last = group_in(tile, g)
    values, to, width = sums
    found, mean_at, step = group_of(part, 2, g)
    m2_at = mean_at + step
    for j in range(first, last, LANES):
        for p in range(3):
            store(values, to + p * width + j, zeros(x))
        store(found, mean_at + j, splat(0.0))
        store(found, m2_at + j, splat(0.0))
    if flags.center:  # the mean of the first rows, relative to the first row
        start, stop = place_in(view, b, top), smaller(top + FIRST_ROWS, end)
        for j in range(first, last, LANES):
            store(values, to + j, load_n(x, start + j, smaller(last - j, LANES)))
        in_strips(add_strip, Region(b, top, stop, first, last), (view, x, sums))
        inverse = splat(1.0 / (stop - top))
        for j in range(first, last, LANES):
            mean = fma(wide(load(values, to + width + j)), inverse, wide(load(values, to + j)))
            store(values, to + j, narrow(mean, x))
    count = 0.0
    for chunk in range(top, end, COLUMN_CHUNK):
        stop = smaller(chunk + COLUMN_CHUNK, end)
        for j in range(first, last, LANES):
            store(values, to + width + j, zeros(x))
            store(values, to + 2 * width + j, zeros(x))
        in_strips(add_strip, Region(b, chunk, stop, first, last), (view, x, sums))
        added = float(stop - chunk)
        union = count + added
        inverse, fraction, between = splat(1.0 / added), splat(added / union), splat(count * (added / union))
        for j in range(first, last, LANES):
            s, m2 = wide(load(values, to + width + j)), wide(load(values, to + 2 * width + j))
            by = s * inverse
            if flags.center:
                m2 = larger(m2 - s * by, splat(0.0))
            else:
                by = splat(0.0)
            old = load(found, mean_at + j)
            delta = (wide(load(values, to + j)) + by) - old
            mean = fma(delta, fraction, old)
            store(found, mean_at + j, mean)
            store(found, m2_at + j, load(found, m2_at + j) + fma(delta * delta, between, m2))
            store(values, to + j, narrow(mean, x))
        count = union


@helper
def merge_groups(view, own, part):
    """Merge mean and m2 of the groups, in order, into those of the first group."""
    values, to, step = part
    first = to + own.first
    for j in range(first, first + (own.last - own.first) * view.together, LANES):
        count = splat(float(smaller(GROUP, view.rows)))
        mean, m2 = load(values, j), load(values, j + step)
        for g in range(1, groups_of(view.rows)):
            count_g = splat(float(smaller(GROUP, view.rows - g * GROUP)))
            p = j + 2 * g * step
            count, mean, m2 = merge(count, mean, m2, count_g, load(values, p), load(values, p + step))
        store(values, j, mean)
        store(values, j + step, m2)


@helper
def fold_rows(view, given, b, part, flags):
    """Merge rows side by side, and the values after the last row, into the first occurrence of each column."""
    if view.together == 1:
        return
    values, to, step = part
    count = splat(float(view.rows))
    for j in range(0, view.own, LANES):
        left = smaller(view.own - j, LANES)
        shift = load_n(values, to + j, left)
        s1, s2, m2 = splat(0.0), splat(0.0), splat(0.0)
        for i in range(to + j, to + view.columns, view.own):
            d = load_n(values, i, left) - shift
            s1 = fma(count, d, s1)
            s2 = fma(count * d, d, s2)
            m2 += load_n(values, i + step, left)
        start = place_in(view, b, view.rows) + j
        for i in range(start, start + rest_of(view), view.own):
            d = wide(load_n(given.x, i, left)) - shift
            if flags.center:
                s1 += d
            s2 = fma(d, d, s2)
        by = s1 / splat(float(given.dims[1]))
        put_lanes(values, to + j, shift + by, left)
        put_lanes(values, to + step + j, m2 + larger(s2 - s1 * by, splat(0.0)), left)


@helper
def fold_sets(given, own, part):
    """Merge the columns of each set into `stats`: their counts are equal, so sums relative to the first column
    suffice."""
    bs, m, c, n = given.dims
    stats, b = given.stats, own.b
    values, to, step = part
    if n == 1:
        for j in range(own.first, own.last, LANES):
            left = smaller(own.last - j, LANES)
            put_lanes(stats, b * c + j, load(values, to + j), left)
            put_lanes(stats, (bs + b) * c + j, load(values, to + step + j), left)
        return
    for s in range(own.first // n, own.last // n):
        first = to + s * n
        mean = at(values, first)
        shift = splat(mean)
        s1, s2, m2 = splat(0.0), splat(0.0), splat(0.0)
        for i in range(0, n, LANES):
            left = smaller(n - i, LANES)
            d = keep(load_n(values, first + i, left) - shift, left)
            s1 += d
            s2 = fma(d, d, s2)
            m2 += load_n(values, first + step + i, left)
        sum1 = total(s1)
        between = total(s2) - sum1 * (sum1 / n)
        put(stats, b * c + s, mean + sum1 / n)
        put(stats, (bs + b) * c + s, total(m2) + (m * between if between > 0.0 else 0.0 * between))


@helper
def deviations(given, own):
    """Compute sum(|x - mean|) of every set, in the order of its rows, in `stats`."""
    bs, m, c, n = given.dims
    stats, b = given.stats, own.b
    for s in range(own.first // n, own.last // n):
        put(stats, (bs + b) * c + s, 0.0)
    for row in range(m):
        for s in range(own.first // n, own.last // n):
            i = (b * m + row) * c * n + s * n
            spread, mean = at(stats, (bs + b) * c + s), at(stats, b * c + s)
            for j in range(i, i + n):
                spread += abs(np.float64(at(given.x, j)) - mean)
            put(stats, (bs + b) * c + s, spread)


@helper
def finish(given, moments, own, flags):
    """From the sums in `stats`: spread and rstd of the sets; anew where values are extreme."""
    bs, m, c, n = given.dims
    divisor, eps, clamp = moments
    x, stats, b, power = given.x, given.stats, own.b, flags.power
    for j in range(own.first // n, own.last // n, LANES):
        left = smaller(own.last // n - j, LANES)
        at_spread, at_rstd = (bs + b) * c + j, (2 * bs + b) * c + j
        sums = load_n(stats, at_spread, left)
        spread = sums / splat(divisor) if power != 0 else splat(0.0)
        put_lanes(stats, at_spread, spread, left)
        put_lanes(stats, at_rstd, rstd_of(spread, splat(eps), splat(1.0), power, clamp), left)
        for i in range(left if is_extreme(sums, eps, power, clamp, x) else 0):
            if is_extreme(lane(sums, i), eps, power, clamp, x):
                start = b * m * c * n + (j + i) * n
                mean, spread_i, rstd = extreme_moments(given, start, moments, flags)
                put(stats, b * c + j + i, mean)
                put(stats, at_spread + i, spread_i)
                put(stats, at_rstd + i, rstd)


@helper
def finish_sets(view, given, moments, own, part, flags):
    """Compute the statistics of the sets in the columns of `own`, from the moments of their groups."""
    merge_groups(view, own, part)
    fold_rows(view, given, own.b, part, flags)
    fold_sets(given, own, part)
    if flags.power == 1:
        deviations(given, own)
    finish(given, moments, own, flags)
