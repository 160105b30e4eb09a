"""Weighted means over windows along an axis of what is there, and how gradients go back; all float64."""

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
from normzoo.backends.cpu.vector.access import at, load, store
from normzoo.backends.cpu.vector.arithmetic import fma, splat
from normzoo.backends.cpu.vector.lanes import LANES
from normzoo.backends.cpu.vector.workspaces import workspace


class Pass(NamedTuple):
    """What is computed."""

    dims: Any  # (b, c, n)
    tiling: Any
    before: Any  # rows of c
    after: Any
    v: Any
    taps: Any  # (before + 1 + after,)
    factors: Any  # (c, n): 1 / the sum of the taps that meet a row
    result: Any


@cache
def smooth(equal, back):
    """`equal`: taps are; `back`: by factors first, then summed."""

    @helper
    def term(given, i, f, left):
        v = part_of(given.v, i, left)
        return v * part_of(given.factors, f, left) if back else v

    put_terms = padding(term)

    @helper
    def put_sums(given, piece, terms, sums):
        """Weighed by the taps, where these are not equal."""
        step, size = given.tiling.step, given.before + 1 + given.after
        for i in range(0, (piece.last - piece.first) * step, LANES):
            s = splat(0.0)
            for k in range(size):
                s = fma(load(terms, i + k * step), splat(at(given.taps, k)), s)
            store(sums, i, s)

    @helper
    def put_means(given, piece, sums):
        """Where they belong."""
        _, c, n = given.dims
        lines, width = lines_of(piece, n, piece.first, piece.last)
        for line in range(lines):
            i, j = piece.start + (piece.first + line) * n, line * given.tiling.step
            f = i - piece.start // (c * n) * (c * n)
            for k in range(0, width, LANES):
                s = load(sums, j + k)
                if not back:
                    s *= part_of(given.factors, f + k, width - k)
                put_lanes(given.result, i + k, s, width - k)

    @helper
    def some_pieces(t, given):
        dims, tiling, before, after = given.dims, given.tiling, given.before, given.after
        size = before + 1 + after
        terms, sums = workspace(room_of(tiling, size), given.v), workspace(room_of(tiling, size), given.v)
        for number in numbers_of(dims, tiling, t):
            piece = piece_of(dims, tiling, number)
            put_terms(given, piece, piece.first - before, piece.last + after, terms)
            if equal:
                window_sums(terms, sums, size, (piece.last - piece.first) * tiling.step, tiling.step)
            else:
                put_sums(given, piece, terms, sums)
            put_means(given, piece, sums)

    @kernel
    def smoothing(
        pool,  # see sharing.py
        dims,
        window,  # rows before and after
        v,
        taps,  # all 1 where they are equal
        factors,
        result,
    ):
        before, after = window
        tiling = tiling_of(dims, before + 1 + after)
        given = Pass(dims, tiling, before, after, v, taps, factors, result)
        share(pool, turns_of(dims, tiling), some_pieces, (given,))

    return smoothing
