"""Images of whole numbers: sums, least and largest of channels, and conversion to floats, also to the other layout.

Where an image keeps its layout it is a row of values whose channels come round again every c, and every c vectors the
lanes stand at the same channels: tables of sixteen times c have what lanes need. An image whose channels are planes is
as many images of one channel. Between layouts, lanes run over positions, and are read or written c apart.

A value is (v - near) * slope + rest, where near is so short that the difference is exact, and slope has two parts:
the result is within one unit in the last place.
"""

from functools import cache
from typing import Any, NamedTuple

from normzoo.backends.cpu.compiling.jit import helper, kernel
from normzoo.backends.cpu.parallel.sharing import share
from normzoo.backends.cpu.schedule import PIXEL_ROWS
from normzoo.backends.cpu.vector.access import at, load, put, store, store_n, stream, zeros
from normzoo.backends.cpu.vector.arithmetic import fma, larger, smaller, splat, wide
from normzoo.backends.cpu.vector.lanes import LANES
from normzoo.backends.cpu.vector.strided import store_apart, whole, whole_apart, whole_at
from normzoo.backends.cpu.vector.workspaces import workspace

PIECE = PIXEL_ROWS * LANES  # positions: sums of as many squares of bytes are exact in float32


class Pass(NamedTuple):
    """What is done."""

    dims: Any  # (b, n, c)
    x: Any
    tables: Any  # (b or 1, 4, 16 * c) float32: near, the slope's parts, rest
    step: Any  # from one b to the next
    bounds: Any  # (3,) float32: low, high, limit
    result: Any


@helper
def pieces_of(dims):
    """Of an image."""
    return (dims[1] + PIECE - 1) // PIECE


@helper
def made(given, v, near, high, low, rest):
    """y of lanes."""
    d = smaller(larger(v, at(given.bounds, 0)), at(given.bounds, 1)) - near
    y, limit = fma(d, high, fma(d, low, rest)), at(given.bounds, 2)
    return smaller(larger(y, -limit), limit)


@helper
def made_at(given, owner, j, v):
    """The same with what a table has from place j on."""
    i, width = owner * given.step + j, LANES * given.dims[2]
    tables = given.tables
    parts = load(tables, i), load(tables, i + width), load(tables, i + 2 * width), load(tables, i + 3 * width)
    return made(given, v, *parts)


@helper
def made_of(given, owner, c, v):
    """The same of one channel."""
    i, width = owner * given.step + c, LANES * given.dims[2]
    tables = given.tables
    parts = at(tables, i), at(tables, i + width), at(tables, i + 2 * width), at(tables, i + 3 * width)
    return made(given, v, splat(parts[0]), splat(parts[1]), splat(parts[2]), splat(parts[3]))


@cache
def converting(streams):
    """put_full and keep_layout: write a vector, and a piece of an image whose layout stays."""

    @helper
    def put_full(given, i, v):
        if streams:
            stream(given.result, i, v)
        else:
            store(given.result, i, v)

    @helper
    def keep_layout(turn, given):
        _, n, c = given.dims
        pieces = pieces_of(given.dims)
        owner, first = turn // pieces, turn % pieces * PIECE
        i, stop = (owner * n + first) * c, (owner * n + smaller(n, first + PIECE)) * c
        j = 0
        while i + LANES <= stop:
            put_full(given, i, made_at(given, owner, j, whole(given.x, i)))
            i += LANES
            j += LANES
            if j == LANES * c:
                j = 0
        if i < stop:
            v = whole_apart(given.x, i, 1, stop - i)
            store_n(given.result, i, made_at(given, owner, j, v), stop - i)

    return put_full, keep_layout


@cache
def convert(turns, last, streams):
    """The kernel. `turns`: the result has the other layout than x; `last`: that of x has channels last."""
    put_full, keep_layout = converting(streams)

    @helper
    def to_planes(turn, given):
        _, n, c = given.dims
        pieces = pieces_of(given.dims)
        owner, first = turn // pieces, turn % pieces * PIECE
        stop = smaller(n, first + PIECE)
        for j in range(c):
            p = first
            while p + LANES <= stop:
                v = whole_apart(given.x, (owner * n + p) * c + j, c, LANES)
                put_full(given, (owner * c + j) * n + p, made_of(given, owner, j, v))
                p += LANES
            if p < stop:
                v = whole_apart(given.x, (owner * n + p) * c + j, c, stop - p)
                store_n(given.result, (owner * c + j) * n + p, made_of(given, owner, j, v), stop - p)

    @helper
    def from_planes(turn, given):
        _, n, c = given.dims
        pieces = pieces_of(given.dims)
        owner, first = turn // pieces, turn % pieces * PIECE
        stop = smaller(n, first + PIECE)
        for p in range(first, stop, LANES):
            left = stop - p
            for j in range(c):
                i = (owner * c + j) * n + p
                v = whole(given.x, i) if left >= LANES else whole_apart(given.x, i, 1, left)
                store_apart(given.result, (owner * n + p) * c + j, c, made_of(given, owner, j, v), left)

    @kernel
    def pixels(
        pool,  # see sharing.py
        dims,
        x,
        tables,
        step,
        bounds,
        y,
    ):
        given = Pass(dims, x, tables, step, bounds, y)
        count = dims[0] * pieces_of(dims)
        if not turns:
            share(pool, count, keep_layout, (given,))
        elif last:
            share(pool, count, to_planes, (given,))
        else:
            share(pool, count, from_planes, (given,))

    return pixels


@cache
def summing(of_bytes, extremes):
    """one_piece: least and largest values or, without `extremes`, sums and sums of squares. Squares of 16 bits are
    added in float64, and all sums are exact."""

    @helper
    def squared(v):
        return v * v if of_bytes else wide_square(v)

    @helper
    def taken(first, second, v):
        """The two with one vector or value more."""
        if extremes:
            return smaller(first, v), larger(second, v)
        return first + v, second + squared(v)

    @helper
    def joined(a, b, c, d):
        """The two of two parts."""
        return (smaller(a, c), larger(b, d)) if extremes else (a + c, b + d)

    @helper
    def inside(given, v):
        return smaller(larger(v, at(given.bounds, 0)), at(given.bounds, 1))

    @helper
    def read(given, i):
        """Lanes within the bounds; of extremes, the last ones are brought there."""
        v = whole(given.x, i)
        return v if extremes else inside(given, v)

    @helper
    def one_piece(turn, given, found):
        _, n, c = given.dims
        pieces, width = pieces_of(given.dims), LANES * c
        owner, first = turn // pieces, turn % pieces * PIECE
        i, stop = (owner * n + first) * c, (owner * n + smaller(n, first + PIECE)) * c
        low, high = at(given.bounds, 0), at(given.bounds, 1)
        one = workspace(width, given.bounds)
        two = workspace(width, given.bounds if of_bytes or extremes else found)
        nothing = zeros(given.bounds)
        values = stop - i
        for j in range(0, width, LANES):
            # the vectors at these channels, a width apart: what is found stays in registers
            a, b = (splat(high), splat(low)) if extremes else (nothing, squared(nothing))
            e, f = a, b
            k, end = i + j, i + values - LANES
            while k + width <= end:  # two at a time, which need not wait for each other
                a, b = taken(a, b, read(given, k))
                e, f = taken(e, f, read(given, k + width))
                k += 2 * width
            if k <= end:
                a, b = taken(a, b, read(given, k))
            a, b = joined(a, b, e, f)
            store(one, j, inside(given, a) if extremes else a)
            store(two, j, inside(given, b) if extremes else b)
        for k in range(values // LANES * LANES, values):
            v, j = inside(given, whole_at(given.x, i + k)), k % width
            a, b = taken(at(one, j), at(two, j), v)
            put(one, j, a)
            put(two, j, b)
        for j in range(c):  # lanes of the same channel, in order
            a, b = wide(at(one, j)), wide(at(two, j))
            for k in range(j + c, width, c):
                if extremes:
                    a, b = smaller(a, wide(at(one, k))), larger(b, wide(at(two, k)))
                else:
                    a, b = a + wide(at(one, k)), b + wide(at(two, k))
            put(found, turn * 2 * c + j, a)
            put(found, turn * 2 * c + c + j, b)

    return one_piece


@cache
def sums(of_bytes, extremes):
    """The kernel."""
    one_piece = summing(of_bytes, extremes)

    @kernel
    def pixel_sums(
        pool,
        dims,
        x,
        bounds,  # low, high
        found,  # (b * pieces, 2, c) float64, written
    ):
        share(pool, dims[0] * pieces_of(dims), one_piece, (Pass(dims, x, x, 0, bounds, x), found))

    return pixel_sums


@helper
def wide_square(v):
    return wide(v) * wide(v)
