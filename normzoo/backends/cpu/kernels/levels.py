"""Cells less a level, by what their values are apart from it: the mean of their values, or what a map finds of them.

x is (b, n, c), where lanes run along c and a turn is a tile of a b's columns; or (b, c, n), where lanes run along n and
a turn is some cells. A turn reads its values twice, the second time from a cache. Sums are those of distances from the
first value, in float64, which are as exact as those from the mean: that is no further from it than all together.
"""

from functools import cache

from normzoo.backends.cpu.compiling.jit import helper
from normzoo.backends.cpu.kernels.making_of_series import levels_kernel
from normzoo.backends.cpu.kernels.moments import put_lanes
from normzoo.backends.cpu.kernels.windows import part_of
from normzoo.backends.cpu.schedule import LEVEL_ROWS, LEVEL_STRIP, SUMMED_VECTORS
from normzoo.backends.cpu.vector.access import at, load, prefetch, put, store
from normzoo.backends.cpu.vector.arithmetic import (
    fma,
    inverse,
    keep,
    larger,
    narrow,
    root,
    smaller,
    splat,
    total,
    wide,
)
from normzoo.backends.cpu.vector.comparing import is_outside
from normzoo.backends.cpu.vector.lanes import LANES
from normzoo.backends.cpu.vector.workspaces import clear, workspace


@helper
def place_of(given, t):
    """b, the first column and the one behind the last, of a turn across."""
    width, columns = given.width, given.dims[2]
    tiles = (columns + width - 1) // width
    begin = t % tiles * width
    return t // tiles, begin, smaller(begin + width, columns)


@helper
def cells_of(given, t):
    """The cells of another turn."""
    return t * given.width, smaller((t + 1) * given.width, given.dims[0] * given.dims[2])


@helper
def room_of(given):
    """Values of a plane of a turn across, and its lanes."""
    return (smaller(given.width, given.dims[2]) + LANES - 1) // LANES * LANES


@helper
def strip_of(given, arrays):
    """Rows that are added up together, of so many arrays: all strips have as many, as nearly as can be; a strip fetches
    the next."""
    n = given.dims[1]
    most = larger(LEVEL_ROWS, smaller(SUMMED_VECTORS, LEVEL_STRIP // (arrays * room_of(given))))
    strips = (n + most - 1) // most
    return (n + strips - 1) // strips


@cache
def finding(mapped, outside):
    """(given, sums) -> level, deviation and rest around the first value, and rstd: of lanes or numbers."""

    @helper
    def found_of(given, first, sums):
        s, q, along = sums
        divisor, eps, _, _ = given.limits
        k = float(given.dims[1])
        level, rest = s / k, s * 0.0
        if mapped:
            level = along - first
            rest = s - level * k
        deviation = root(larger(q - level * (s + rest), s * 0.0) / divisor)
        return level, deviation, rest, inverse(std_of(deviation, eps))

    @helper
    def std_of(deviation, eps):
        return deviation + eps if outside else root(deviation * deviation + eps)

    return found_of, std_of


@helper
def is_far(given, level, deviation, slope):
    """Is a number near the ends of range, or none?"""
    _, _, least, most = given.limits
    return is_outside(level, -most, most) or is_outside(deviation, least, most) or is_outside(slope, -most, most)


@cache
def forward(across, mapped, outside):
    """y and the statistics."""
    found_of, _ = finding(mapped, outside)

    @helper
    def add_rows(given, start, rows, j, sums):
        """Of one vector of columns; the next rows are fetched."""
        x, (first, last), (_, _, c) = given.x, rows, given.dims
        s, q, along = sums
        left, around, ahead = c - j, wide(part_of(x, start + j, c - j)), (last - first) * c
        for i in range(first, last):
            k = start + i * c + j
            prefetch(x, k + ahead)
            v = wide(part_of(x, k, left))
            z = v - around
            s += z
            q = fma(z, z, q)
            if mapped:
                along = fma(wide(part_of(given.maps, i * c + j, left)), v, along)
        return s, q, along

    @helper
    def some_columns(t, given, bias, far):
        b, n, c = given.dims
        x, (owner, begin, end) = given.x, place_of(given, t)
        start, room, cells = owner * n * c, room_of(given), b * c
        sums, planes = workspace(3 * room, given.stats), workspace(4 * room, given.weight)
        clear(sums, 0, 3 * room)
        for first in range(0, n, strip_of(given, 1)):
            rows = first, smaller(first + strip_of(given, 1), n)
            for j in range(begin, end, LANES):
                p = j - begin
                held = load(sums, p), load(sums, room + p), load(sums, 2 * room + p)
                s, q, along = add_rows(given, start, rows, j, held)
                store(sums, p, s)
                store(sums, room + p, q)
                store(sums, 2 * room + p, along)
        worst = 0.0
        for j in range(begin, end, LANES):
            p, left = j - begin, c - j
            around = wide(part_of(x, start + j, left))
            held = load(sums, p), load(sums, room + p), load(sums, 2 * room + p)
            level, deviation, rest, rstd = found_of(given, around, held)
            slope = rstd * wide(part_of(given.weight, j, left))
            high = narrow(around + level, x)
            store(planes, p, high)
            store(planes, room + p, narrow((around - wide(high)) + level, x))
            store(planes, 2 * room + p, narrow(slope, x))
            store(planes, 3 * room + p, part_of(bias, j, left))
            k = owner * c + j
            put_lanes(given.stats, k, around + level, left)
            put_lanes(given.stats, cells + k, deviation, left)
            if mapped:
                put_lanes(given.stats, 2 * cells + k, rest, left)
            beside = splat(1.0) - keep(splat(1.0), left)
            worst = larger(worst, 1.0 if is_far(given, around + level, deviation + beside, slope) else 0.0)
        put(far, t, worst)
        for i in range(n):
            k = start + i * c
            for j in range(begin, end, LANES):
                p = j - begin
                d = (part_of(x, k + j, c - j) - load(planes, p)) - load(planes, room + p)
                put_lanes(given.result, k + j, fma(d, load(planes, 2 * room + p), load(planes, 3 * room + p)), c - j)

    @helper
    def sums_along(given, start, maps):
        """Of one cell."""
        x, n = given.x, given.dims[1]
        around = splat(wide(at(x, start)))
        s = q = along = splat(0.0)
        for j in range(0, n, LANES):
            v = wide(part_of(x, start + j, n - j))
            z = v - around
            if n - j < LANES:
                z = keep(z, n - j)
            s += z
            q = fma(z, z, q)
            if mapped:
                along = fma(wide(part_of(given.maps, maps + j, n - j)), v, along)
        return total(s), total(q), total(along)

    @helper
    def some_cells(t, given, bias, far):
        b, n, c = given.dims
        x, (first, last), worst = given.x, cells_of(given, t), 0.0
        for cell in range(first, last):
            start, channel, around = cell * n, cell % c, wide(at(x, cell * n))
            level, deviation, rest, rstd = found_of(given, around, sums_along(given, start, channel * n))
            slope = rstd * wide(at(given.weight, channel))
            high = narrow(around + level, x)
            put(given.stats, cell, around + level)
            put(given.stats, b * c + cell, deviation)
            if mapped:
                put(given.stats, 2 * b * c + cell, rest)
            worst = larger(worst, 1.0 if is_far(given, around + level, deviation, slope) else 0.0)
            low, by, more = splat(narrow((around - wide(high)) + level, x)), splat(narrow(slope, x)), at(bias, channel)
            for j in range(0, n, LANES):
                d = (part_of(x, start + j, n - j) - splat(high)) - low
                put_lanes(given.result, start + j, fma(d, by, splat(more)), n - j)
        put(far, t, worst)

    name = f"levels({across}, {mapped}, {outside})"
    return levels_kernel(name, some_columns if across else some_cells)
