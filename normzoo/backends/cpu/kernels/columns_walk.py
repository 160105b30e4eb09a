"""How columns are walked over: rows side by side where they are narrow, tiles, groups of rows, and parameters."""

from normzoo.backends.cpu.compiling.jit import helper
from normzoo.backends.cpu.kernels.moments import read
from normzoo.backends.cpu.schedule import (
    AT_ONCE,
    GROUP,
    LONG_ROW,
    NARROW,
    NARROW_HALVES,
    SIDE_ROWS,
    SIDE_ROWS_FULL,
    TILE,
    WIDEST,
)
from normzoo.backends.cpu.vector.access import at, itemsize, load, load_as, load_n
from normzoo.backends.cpu.vector.arithmetic import larger, smaller, splat
from normzoo.backends.cpu.vector.lanes import LANES


@helper
def view_of(dims, spans_m, x):
    """(b, rows, c, n, values of a sample, rows side by side): how x is walked over. As `dims` says or, where columns
    are so narrow that they leave lanes empty, with several rows side by side: each column is then there several times,
    which `fold_rows` and `repeat` know. What is behind the last of such rows is part of another; it is `rest_of`."""
    b, m, c, n = dims
    columns = larger(1, c * n)
    together = 1
    if not spans_m:
        vectors = LANES // smaller(LANES, columns & -columns)  # rows that are whole vectors
        room = NARROW_HALVES if itemsize(x) == 2 and 2 * columns > NARROW else NARROW
        together = smaller(room // columns, m // (SIDE_ROWS if vectors > 1 else SIDE_ROWS_FULL))
        if together < 4 and vectors == 1:
            together = 1
        elif together > vectors:
            together = together // vectors * vectors
    if together <= 1:
        return b, m, c, n, m * c * n, 1
    return b, m // together, together * c * n, 1, m * c * n, together


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
    """Columns of a tile that stays in the cache, or of a band of higher ones: whole vectors, and whole sets; all, where
    rows stand side by side."""
    _, m, c, n, _, together = view
    unit = LANES * n
    if together > 1:
        return (c * n + unit - 1) // unit * unit
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


@helper
def are_at_once(view, x, streams):
    """Where threads walk over whole rows: is it faster to work on several at once, with what was loaded for a vector of
    columns? Stores to one line then do not follow each other, which takes longer where they leave the cache."""
    is_held = itemsize(x) == 2 or view[0] * view[4] * itemsize(x) <= AT_ONCE or view[2] * view[3] > LONG_ROW
    return is_held and not streams
