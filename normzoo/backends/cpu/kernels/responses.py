"""Local response normalization, y = x / (k + scale * sum of x'^2 over a window)^beta, and its gradient.

A piece of x has all channels of some positions. Sums are made in the type that x is computed in, and powers of quarters
by square roots. Where a sum is far from 1, or not a number, the piece is computed once more in float64, value by value.
"""

from functools import cache
from typing import Any, NamedTuple

from normzoo.backends.cpu.compiling.jit import helper, kernel
from normzoo.backends.cpu.kernels.moments import put_lanes
from normzoo.backends.cpu.kernels.windows import (
    lines_of,
    numbers_of,
    padding,
    part_of,
    piece_of,
    room_of,
    tiling_of,
    turns_of,
    window_sums,
)
from normzoo.backends.cpu.parallel.sharing import share
from normzoo.backends.cpu.vector import transcendental  # noqa: F401  (it teaches lanes exp and log)
from normzoo.backends.cpu.vector.access import at, load, prefetch, put, store, store_n, zeros
from normzoo.backends.cpu.vector.arithmetic import fma, keep, larger, narrow, root, smaller, splat, wide
from normzoo.backends.cpu.vector.comparing import is_outside
from normzoo.backends.cpu.vector.lanes import LANES
from normzoo.backends.cpu.vector.workspaces import clear, workspace
from normzoo.backends.lanes import exp, log

K, SCALE, BETA, MOST = range(4)  # of `numbers`, (4,) float64; for the last see `put_bases`


class Pass(NamedTuple):
    """What is computed; dy is x where there is none."""

    dims: Any  # (b, c, n)
    tiling: Any
    before: Any  # rows of c
    after: Any
    dy: Any
    x: Any
    result: Any  # y or dx, of x's shape
    numbers: Any


@cache
def by_power(quarters):
    """v / s^beta of lanes; `quarters` is 4 * beta where that is one of 1 to 4, else 0."""

    @helper
    def divided(v, s, beta):
        if quarters == 0:  # in float64: an exponent has more digits than float32
            return wide(v) / exp(splat(beta) * log(wide(s)))
        r = s if quarters == 4 else root(s)
        if quarters == 3:
            r *= root(r)
        return v / (root(r) if quarters == 1 else r)

    return divided


@helper
def square(given, i, _f, left):
    """x^2, while the result's memory is fetched."""
    prefetch(given.result, i)
    v = part_of(given.x, i, left)
    return v * v


put_squares = padding(square)


@helper
def put_bases(given, piece, first, last, sums):
    """k + scale * sum in place of the sums of the rows [first, last). Is one of them far from 1?"""
    x, n = given.x, given.dims[2]
    k0, scale = splat(narrow(at(given.numbers, K), x)), splat(narrow(at(given.numbers, SCALE), x))
    least, most = narrow(1.0 / at(given.numbers, MOST), x), narrow(at(given.numbers, MOST), x)
    one = zeros(x) + 1.0
    far = False
    lines, width = lines_of(piece, n, first, last)
    for line in range(lines):
        j = line * given.tiling.step
        for k in range(0, width, LANES):
            s = fma(load(sums, j + k), scale, k0)
            left = width - k
            if left < LANES:
                s = keep(s, left) + (one - keep(one, left))
            far = is_outside(s, least, most) or far
            store(sums, j + k, s)
    return far


@helper
def put_one(a, i, value):
    """a[i] = value, rounded once to the type of a."""
    store_n(a, i, narrow(splat(value), a), 1)


@helper
def base_at(given, start, c):
    """The base of row c, in float64."""
    total = 0.0
    for i in range(larger(0, c - given.before), smaller(given.dims[1], c + given.after + 1)):
        v = wide(at(given.x, start + i * given.dims[2]))
        total += v * v
    return at(given.numbers, K) + at(given.numbers, SCALE) * total


@helper
def slowly(given, piece):
    """The response of a piece, value by value: right for all of the range of float64."""
    n, beta = given.dims[2], at(given.numbers, BETA)
    for c in range(piece.first, piece.last):
        for p in range(piece.width):
            i = piece.start + c * n + p
            put_one(given.result, i, wide(at(given.x, i)) * base_at(given, piece.start + p, c) ** -beta)


@helper
def slowly_back(given, piece, first, last):
    """Its gradient, likewise, of the rows [first, last), those of the piece among them."""
    n, beta = given.dims[2], at(given.numbers, BETA)
    terms, direct = workspace(last - first, given.numbers), workspace(last - first, given.numbers)
    for p in range(piece.width):
        for c in range(first, last):
            i, base = piece.start + c * n + p, base_at(given, piece.start + p, c)
            g = wide(at(given.dy, i)) * base**-beta
            put(direct, c - first, g)
            put(terms, c - first, g * wide(at(given.x, i)) / base)
        for c in range(piece.first, piece.last):
            total = 0.0
            for j in range(larger(first, c - given.after), smaller(last, c + given.before + 1)):
                total += at(terms, j - first)
            i = piece.start + c * n + p
            shared = 2.0 * beta * at(given.numbers, SCALE) * wide(at(given.x, i)) * total
            put_one(given.result, i, at(direct, c - first) - shared)


@cache
def forward(quarters):
    divided = by_power(quarters)

    @helper
    def put_response(given, piece, sums):
        x, n, beta = given.x, given.dims[2], at(given.numbers, BETA)
        lines, width = lines_of(piece, n, piece.first, piece.last)
        for line in range(lines):
            i, j = piece.start + (piece.first + line) * n, line * given.tiling.step
            for k in range(0, width, LANES):
                left = width - k
                v = divided(part_of(x, i + k, left), load(sums, j + k), beta)
                put_lanes(given.result, i + k, narrow(v, x), left)

    @helper
    def some_pieces(t, given):
        dims, tiling, before, after = given.dims, given.tiling, given.before, given.after
        size = before + 1 + after
        terms, sums = workspace(room_of(tiling, size), given.x), workspace(room_of(tiling, size), given.x)
        for number in numbers_of(dims, tiling, t):
            piece = piece_of(dims, tiling, number)
            first, last = piece.first, piece.last
            put_squares(given, piece, first - before, last + after, terms)
            window_sums(terms, sums, size, (last - first) * tiling.step, tiling.step)
            if put_bases(given, piece, first, last, sums):
                slowly(given, piece)
            else:
                put_response(given, piece, sums)

    @kernel
    def responses_forward(
        pool,  # see sharing.py
        dims,  # (b, c, n)
        window,  # rows before and after
        x,
        y,
        numbers,  # k, scale, beta and what is far from 1
    ):
        before, after = window
        tiling = tiling_of(dims, before + 1 + after)
        given = Pass(dims, tiling, before, after, x, x, y, numbers)
        share(pool, turns_of(dims, tiling), some_pieces, (given,))

    return responses_forward


@cache
def backward(quarters):
    divided = by_power(quarters)

    @helper
    def put_terms(given, piece, first, last, sums, terms, to):
        """dy / base^beta in place of the bases of the rows [first, last) and, times x / base, into terms, where these
        rows begin at `to`."""
        x, dy, n, beta = given.x, given.dy, given.dims[2], at(given.numbers, BETA)
        lines, width = lines_of(piece, n, first, last)
        for line in range(lines):
            i, j = piece.start + (first + line) * n, line * given.tiling.step
            for k in range(0, width, LANES):
                left = width - k
                s = load(sums, j + k)
                d = narrow(divided(part_of(dy, i + k, left), s, beta), x)
                store(sums, j + k, d)
                store(terms, to + j + k, d * part_of(x, i + k, left) / s)

    @helper
    def put_gradient(given, piece, direct, to, sums):
        """dx of the piece, which begins at `to` in direct."""
        x, n = given.x, given.dims[2]
        factor = splat(narrow(-2.0 * at(given.numbers, BETA) * at(given.numbers, SCALE), x))
        lines, width = lines_of(piece, n, piece.first, piece.last)
        for line in range(lines):
            i, j = piece.start + (piece.first + line) * n, line * given.tiling.step
            for k in range(0, width, LANES):
                left = width - k
                shared = part_of(x, i + k, left) * load(sums, j + k)
                put_lanes(given.result, i + k, fma(shared, factor, load(direct, to + j + k)), left)

    @helper
    def some_pieces(t, given):
        dims, tiling, before, after = given.dims, given.tiling, given.before, given.after
        size, step = before + 1 + after, tiling.step
        room = room_of(tiling, 2 * size)
        squares, direct = workspace(room, given.x), workspace(room, given.x)
        terms, sums = workspace(room, given.x), workspace(room, given.x)
        for number in numbers_of(dims, tiling, t):
            piece = piece_of(dims, tiling, number)
            # a row is in the windows of those from `after` before it to `before` behind it
            begin = piece.first - after
            first, last = larger(0, begin), smaller(dims[1], piece.last + before)
            put_squares(given, piece, first - before, last + after, squares)
            window_sums(squares, direct, size, (last - first) * step, step)
            if put_bases(given, piece, first, last, direct):
                slowly_back(given, piece, first, last)
            else:
                clear(terms, 0, (first - begin) * step)
                put_terms(given, piece, first, last, direct, terms, (first - begin) * step)
                clear(terms, (last - begin) * step, (piece.last + before - last) * step + 2 * LANES)
                window_sums(terms, sums, size, (piece.last - piece.first) * step, step)
                put_gradient(given, piece, direct, (piece.first - first) * step, sums)

    @kernel
    def responses_backward(pool, dims, window, dy, x, dx, numbers):
        before, after = window
        tiling = tiling_of(dims, before + 1 + after)
        given = Pass(dims, tiling, before, after, dy, x, dx, numbers)
        share(pool, turns_of(dims, tiling), some_pieces, (given,))

    return responses_backward
