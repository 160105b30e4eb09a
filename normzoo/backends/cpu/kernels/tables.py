"""Statistics of the columns of a table in float64, whatever its values are stored in: count, mean and sum of squared
deviations, or the extremes; and a table rescaled by numbers of each column, or of each row.

A part of the table is some of its rows, which belong to one set; a turn is a tile of its columns. Lanes run along
columns. A strip of TABLE_ROWS rows and sixteen columns is read twice, the second time from the nearest cache: first for
its mean, around which squares are summed then. All sums are those of distances from the mean of the part's first rows;
so nothing is lost where means are large, and a column of equal values has exactly their value as its mean, and no
deviation. Where values may be missing, only strips that hold NaN are counted value by value.
"""

import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from normzoo.backends.cpu.compiling.jit import helper, kernel
from normzoo.backends.cpu.kernels.moments import put_lanes
from normzoo.backends.cpu.kernels.windows import part_of
from normzoo.backends.cpu.parallel.sharing import share
from normzoo.backends.cpu.schedule import TABLE_COLUMNS, TABLE_ROWS, TABLE_TURNS
from normzoo.backends.cpu.vector.access import at, load, prefetch, put, store, stream, zeros
from normzoo.backends.cpu.vector.arithmetic import (
    fma,
    inverse,
    keep,
    larger,
    minus,
    narrow,
    smaller,
    splat,
    total,
    wide,
)
from normzoo.backends.cpu.vector.comparing import below, is_outside
from normzoo.backends.cpu.vector.lanes import LANES

HUGE = float(np.finfo(np.float64).max)
TINY = 1e-300  # less than a sum of weights
PLANES, PIVOT = 4, 3  # of what is found of a part: three results, and what its mean is counted from meanwhile


class Table(NamedTuple):
    """What is read and written."""

    columns: Any
    pitch: Any  # values from one row to the next
    x: Any
    parts: Any  # (parts, 2) int64: the first row, or its place in `order`, and the number of rows
    order: Any  # int64, the rows of parts, or of no use
    weights: Any  # float64, of each of these rows, or of no use
    found: Any  # (parts, PLANES, room) float64, written


@helper
def room_of(columns):
    """Columns rounded up to whole vectors: values of a plane."""
    return (columns + LANES - 1) // LANES * LANES


@helper
def tile_of(columns, t):
    """The part of a turn, its first column and the one behind its last, and the values of a plane."""
    tiles = (columns + TABLE_COLUMNS - 1) // TABLE_COLUMNS
    begin = t % tiles * TABLE_COLUMNS
    return t // tiles, begin, smaller(begin + TABLE_COLUMNS, columns), room_of(columns)


@helper
def where_present(v, then):
    """`then` where v is a number, which infinities are; 0 where v is NaN."""
    return below(v, splat(math.inf), then) + below(minus(v), splat(-HUGE), then)


@cache
def moments(picks, weighs, skips):
    """Count (or sum of weights), mean and m2. `picks`: rows are found by `order`; `skips`: NaN does not count."""

    @helper
    def place(table, i):
        return (at(table.order, i) if picks else i) * table.pitch

    @helper
    def weight(table, i):
        return splat(at(table.weights, i)) if weighs else splat(1.0)

    @helper
    def add(table, to, count, mean, m2):
        """Merge a strip into what is found of the part."""
        room = room_of(table.columns)
        found = table.found
        n, other, squares = load(found, to), load(found, to + room), load(found, to + 2 * room)
        union = n + count
        apart, fraction = mean - other, count / larger(union, splat(TINY))  # exactly 1 of the first strip
        store(found, to, union)
        store(found, to + room, fma(apart, fraction, other))
        store(found, to + 2 * room, squares + m2 + apart * apart * (n * fraction))

    @helper
    def pivot_of(table, row, behind, j, left):
        """What the sums of a part are made around: the mean of its first rows. Means of strips, which are merged, are
        then as accurate as their distances, however large they are. Values in these rows, or the first one that there
        is, decide."""
        seen, around = splat(0.0), splat(0.0)
        for i in range(row, behind):
            if i >= row + TABLE_ROWS and not is_outside(seen, 0.5, 1.5):
                break
            v = wide(part_of(table.x, place(table, i) + j, left))
            around += where_present(v, below(seen, splat(0.5), where_present(v, v)))
            seen += below(seen, splat(0.5), where_present(v, splat(1.0)))
            if left < LANES:
                seen = larger(seen, splat(1.0) - keep(splat(1.0), left))
        count, s = splat(0.0), splat(0.0)
        for i in range(row, smaller(row + TABLE_ROWS, behind)):
            v = wide(part_of(table.x, place(table, i) + j, left))
            count += where_present(v, splat(1.0))
            s += where_present(v, v - around)
        return fma(s, inverse(count), around)

    @helper
    def add_counted(table, first, last, j, left, pivot, to):
        """Likewise, of a strip with NaN, whose values are counted one by one."""
        count, s = splat(0.0), splat(0.0)
        for i in range(first, last):
            v = wide(part_of(table.x, place(table, i) + j, left))
            count += where_present(v, weight(table, i))
            s += where_present(v, (v - pivot) * weight(table, i))
        mean, m2 = s * inverse(count), splat(0.0)
        for i in range(first, last):
            v = wide(part_of(table.x, place(table, i) + j, left))
            d = (v - pivot) - mean
            m2 += where_present(v, d * d * weight(table, i))
        add(table, to, count, mean, m2)

    @helper
    def add_strip(table, first, last, j, left, pivot, to):
        """Likewise, of a strip all of whose values count, as they usually do; else as above."""
        x, count, s = table.x, splat(float(last - first)), splat(0.0)
        if weighs:
            count = splat(0.0)
        for i in range(first, last):
            d = wide(part_of(x, place(table, i) + j, left)) - pivot
            if weighs:
                count += weight(table, i)
                d *= weight(table, i)
            s += d
        if skips and is_outside(s, -HUGE, HUGE):
            add_counted(table, first, last, j, left, pivot, to)
        else:
            mean, m2 = s * inverse(count), splat(0.0)
            ahead = (last - first) * table.pitch
            for i in range(first, last):
                k = place(table, i) + j
                if not picks:
                    prefetch(x, k + ahead)
                d = (wide(part_of(x, k, left)) - pivot) - mean
                m2 = fma(d * weight(table, i), d, m2) if weighs else fma(d, d, m2)
            add(table, to, count, mean, m2)

    @helper
    def one_tile(t, table):
        columns, found = table.columns, table.found
        part, begin, end, room = tile_of(columns, t)
        row = at(table.parts, 2 * part)
        behind = row + at(table.parts, 2 * part + 1)
        start = part * PLANES * room
        for j in range(begin, end, LANES):
            for plane in range(3):
                store(found, start + plane * room + j, splat(0.0))
            store(found, start + PIVOT * room + j, pivot_of(table, row, behind, j, columns - j))
        for first in range(row, behind, TABLE_ROWS):
            last = smaller(first + TABLE_ROWS, behind)
            for j in range(begin, end, LANES):
                pivot = load(found, start + PIVOT * room + j)
                add_strip(table, first, last, j, columns - j, pivot, start + j)
        for j in range(begin, end, LANES):
            k = start + room + j
            store(found, k, load(found, k) + load(found, start + PIVOT * room + j))

    return table_kernel("table_moments", one_tile)


@cache
def extremes(picks):
    """How many values are no NaN, the least and the largest of them; inf and -inf where there are none."""

    @helper
    def place(table, i):
        return (at(table.order, i) if picks else i) * table.pitch

    @helper
    def counted(table, first, last, j, left):
        count = splat(0.0)
        for i in range(first, last):
            count += where_present(wide(part_of(table.x, place(table, i) + j, left)), splat(1.0))
        return count

    @helper
    def one_tile(t, table):
        columns, x, one = table.columns, table.x, narrow(1.0, table.x)
        part, begin, end, room = tile_of(columns, t)
        row = at(table.parts, 2 * part)
        behind = row + at(table.parts, 2 * part + 1)
        start = part * PLANES * room
        for j in range(begin, end, LANES):
            store(table.found, start + j, splat(0.0))
            store(table.found, start + room + j, splat(math.inf))
            store(table.found, start + 2 * room + j, splat(-math.inf))
        for first in range(row, behind, TABLE_ROWS):
            last = smaller(first + TABLE_ROWS, behind)
            for j in range(begin, end, LANES):
                to, left = start + j, columns - j
                least, most = narrow(load(table.found, to + room), x), narrow(load(table.found, to + 2 * room), x)
                nothing = seen = zeros(x)
                for i in range(first, last):
                    k = place(table, i) + j
                    if not picks:
                        prefetch(x, k + (last - first) * table.pitch)
                    v = part_of(x, k, left)
                    least, most = smaller(least, v), larger(most, v)
                    seen = fma(v, nothing, seen)  # NaN where a value is none, or infinite
                count = splat(float(last - first))
                if is_outside(seen, -one, one):
                    count = counted(table, first, last, j, left)
                store(table.found, to, load(table.found, to) + count)
                store(table.found, to + room, wide(least))
                store(table.found, to + 2 * room, wide(most))

    return table_kernel("table_extremes", one_tile)


def table_kernel(name, work):
    """The kernel of these turns."""

    def over_tiles(
        pool,  # see sharing.py
        dims,  # columns, values from one row to the next, parts
        x,
        parts,
        order,
        weights,
        found,
    ):
        columns, pitch, count = dims
        tiles = (columns + TABLE_COLUMNS - 1) // TABLE_COLUMNS
        share(pool, count * tiles, work, (Table(columns, pitch, x, parts, order, weights, found),))

    over_tiles.__name__ = over_tiles.__qualname__ = name
    return kernel(over_tiles)


class Rescaled(NamedTuple):
    """What is read and written."""

    rows: Any
    columns: Any
    sets: Any  # how many there are
    x: Any
    chosen: Any  # (rows,) int64, the set of each row, or of no use
    numbers: Any  # (5, sets, room or 1) float64: shift, scale, offset, least and largest
    y: Any  # of x's shape
    finite: Any  # (turns,) float64, written: 0, or NaN where a value is none or infinite


@helper
def alternating(t, turns):
    """The turns in another order: first every other block of them, then the others. Half of the threads take the first
    ones: so the pages of a result that are fresh, which are its last ones, are shared."""
    blocks = turns // TABLE_TURNS
    if t >= blocks * TABLE_TURNS:
        return t
    block, ahead = t // TABLE_TURNS, (blocks + 1) // 2
    return (2 * block if block < ahead else 2 * (block - ahead) + 1) * TABLE_TURNS + t % TABLE_TURNS


@cache
def rescale(picks, by_row, clips, streams):
    """y = (x - shift) * scale + offset, with numbers of the set of a row, each of which is of one column or, with
    `by_row`, of them all; without `picks` there is one set or, with `by_row`, row i is of set i % sets. `clips`: y is
    no less than the fourth number and no more than the fifth. `streams`: y, of whole vectors, is written past the
    caches."""

    @helper
    def number(given, s, j, which):
        room = 1 if by_row else room_of(given.columns)
        k = (which * given.sets + s) * room
        return splat(at(given.numbers, k)) if by_row else load(given.numbers, k + j)

    @helper
    def numbers_of(given, i, j):
        s = at(given.chosen, i) if picks else (i % given.sets if by_row else 0)
        shift, scale, offset = number(given, s, j, 0), number(given, s, j, 1), number(given, s, j, 2)
        if clips:
            return shift, scale, offset, number(given, s, j, 3), number(given, s, j, 4)
        return shift, scale, offset, offset, offset

    @helper
    def put_strip(given, i, j, numbers):
        """Returns 0, or NaN in lanes of what is not finite."""
        shift, scale, offset, least, most = numbers
        x, k, left = given.x, i * given.columns + j, given.columns - j
        prefetch(x, k + TABLE_ROWS * given.columns)
        v = wide(part_of(x, k, left))
        y = fma(v - shift, scale, offset)
        if clips:
            y = smaller(larger(y, least), most)
        if streams:
            stream(given.y, k, narrow(y, x))
        else:
            put_lanes(given.y, k, narrow(y, x), left)
        return v * splat(0.0)

    @helper
    def some_rows(turn, given):
        t = alternating(turn, (given.rows + TABLE_ROWS - 1) // TABLE_ROWS)
        first = t * TABLE_ROWS
        last, seen = smaller(first + TABLE_ROWS, given.rows), splat(0.0)
        if by_row:
            for i in range(first, last):
                numbers = numbers_of(given, i, 0)
                for j in range(0, given.columns, LANES):
                    seen += put_strip(given, i, j, numbers)
        else:
            for j in range(0, given.columns, LANES):
                numbers = numbers_of(given, first, j)
                for i in range(first, last):
                    if picks:
                        numbers = numbers_of(given, i, j)
                    seen += put_strip(given, i, j, numbers)
        put(given.finite, t, total(seen))

    @kernel
    def table_rescale(
        pool,  # see sharing.py
        dims,  # rows, columns, sets
        x,
        chosen,
        numbers,
        y,
        finite,
    ):
        rows, columns, sets = dims
        turns = (rows + TABLE_ROWS - 1) // TABLE_ROWS
        share(pool, turns, some_rows, (Rescaled(rows, columns, sets, x, chosen, numbers, y, finite),))

    return table_rescale
