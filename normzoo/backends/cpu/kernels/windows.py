"""Sums over windows along an axis, zeros outside: pieces of an array in workspace, with room for the zeros.

A sum of m neighbours is made of two of half as many: a window of any size takes as many additions as its size has
bits, its rounding grows no faster, and nothing is subtracted that was added before.
"""

from functools import cache
from typing import Any, NamedTuple

from normzoo.backends.cpu.compiling.jit import helper
from normzoo.backends.cpu.schedule import WINDOW_LINE, WINDOW_ROWS, WINDOW_STRIP, WINDOW_TILE
from normzoo.backends.cpu.vector.access import load, load_n, store
from normzoo.backends.cpu.vector.arithmetic import larger, smaller
from normzoo.backends.cpu.vector.lanes import LANES
from normzoo.backends.cpu.vector.workspaces import clear


class Tiling(NamedTuple):
    """How a view (b, c, n) is cut into pieces: some of the windowed axis c, some of n."""

    rows: Any  # of c in a piece
    chunks: Any  # pieces of c
    width: Any  # of n in a piece
    strips: Any  # pieces of n
    together: Any  # pieces that one turn takes
    step: Any  # from neighbours along c in workspace; n where rows lie one behind the other as in the array


class Piece(NamedTuple):
    """Of one b, rows [first, last) of c, and `width` of n."""

    start: Any  # where row 0 begins
    first: Any
    last: Any
    width: Any


@helper
def tiling_of(dims, size):
    """How a view is cut, for windows of this size: what is read twice, beside a piece, is a part of it."""
    _, c, n = dims
    width = n if n <= WINDOW_LINE else WINDOW_STRIP
    most = larger(1, larger(WINDOW_TILE // width, WINDOW_ROWS * (size - 1)))
    chunks = (c + most - 1) // most
    together = larger(1, WINDOW_TILE // (c * n)) if chunks == 1 else 1
    return Tiling((c + chunks - 1) // chunks, chunks, width, (n + width - 1) // width, together, width)


@helper
def pieces_of(dims, tiling):
    """In all."""
    return dims[0] * tiling.chunks * tiling.strips


@helper
def turns_of(dims, tiling):
    return (pieces_of(dims, tiling) + tiling.together - 1) // tiling.together


@helper
def numbers_of(dims, tiling, t):
    """The pieces of turn t."""
    return range(t * tiling.together, smaller((t + 1) * tiling.together, pieces_of(dims, tiling)))


@helper
def piece_of(dims, tiling, number):
    _, c, n = dims
    strip, chunk = number % tiling.strips * tiling.width, number // tiling.strips % tiling.chunks * tiling.rows
    start = number // (tiling.strips * tiling.chunks) * c * n + strip
    return Piece(start, smaller(chunk, c), smaller(chunk + tiling.rows, c), smaller(tiling.width, n - strip))


@helper
def lines_of(piece, n, first, last):
    """How many lines the rows [first, last) are, and how long these are: one, where a piece has all n."""
    if piece.width == n:
        return smaller(1, last - first), (last - first) * n
    return last - first, piece.width


@helper
def room_of(tiling, more):
    """Values of workspace for a piece and so many rows more, and what lanes go too far."""
    return (tiling.rows + more) * tiling.step + 4 * LANES


@helper
def part_of(a, i, left):
    """Lanes a[i : i + left], the rest 0."""
    if left >= LANES:
        return load(a, i)
    return load_n(a, i, left)


@cache
def padding(term):
    """put_terms(given, piece, first, last, terms): term(given, i, f, left), lanes of what is summed, into workspace for
    the rows [first, last), 0 where there are none; f is i counted from the first row."""

    @helper
    def put_terms(given, piece, first, last, terms):
        _, c, n = given.dims
        step = given.tiling.step
        top, end = larger(0, first), smaller(c, last)
        clear(terms, 0, (top - first) * step)
        clear(terms, (end - first) * step, (last - end) * step + 2 * LANES)
        lines, width = lines_of(piece, n, top, end)
        for line in range(lines):
            i, j = piece.start + (top + line) * n, (top - first + line) * step
            f = i - piece.start // (c * n) * (c * n)
            for k in range(0, width, LANES):
                store(terms, j + k, term(given, i + k, f + k, width - k))

    return put_terms


@helper
def window_sums(terms, sums, size, count, step):
    """sums[i] = terms[i] + terms[i + step] + ... of `size` terms, for `count` of them."""
    top = 1
    while 2 * top <= size:
        top *= 2
    if top == 1:
        for i in range(0, count, LANES):
            store(sums, i, load(terms, i))
    m = 1
    while top > 1:
        top //= 2
        odd = 1 if size & top else 0
        near, far = m * step, 2 * m * step
        for i in range(0, count + (size - 2 * m - odd) * step, LANES):
            v = load(terms, i) + load(terms, i + near) if m == 1 else load(sums, i) + load(sums, i + near)
            if odd:
                v += load(terms, i + far)
            store(sums, i, v)
        m = 2 * m + odd
