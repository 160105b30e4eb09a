"""How columns are walked over: rows side by side where they are narrow, tiles, groups of rows, strips; parameters, and
planes of what is known of each column."""

from normzoo.backends.cpu.compiling.jit import helper
from normzoo.backends.cpu.kernels.columns_records import Planes, Region, Strip, View
from normzoo.backends.cpu.kernels.moments import put_lanes, read
from normzoo.backends.cpu.schedule import (
    AT_ONCE,
    GROUP,
    LONG_ROW,
    NARROW,
    NARROW_HALVES,
    SIDE_ROWS,
    SIDE_ROWS_FULL,
    STRIP,
    TILE,
    WIDEST,
)
from normzoo.backends.cpu.vector.access import at, itemsize, load, load_as, load_n, store, zeros
from normzoo.backends.cpu.vector.arithmetic import larger, smaller, splat
from normzoo.backends.cpu.vector.lanes import LANES

# -- views ---------------------------------------------------------------------------------------------------------


@helper
def view_of(dims, spans_m, x):
    """How x is walked over. As `dims` says or, where columns are so narrow that they leave lanes empty, with several
    rows side by side: each column is then there several times, which `fold_rows` and `repeat` know. What is behind the
    last of such rows is part of another; it is `rest_of`."""
    b, m, c, n = dims
    own = c * n
    columns = larger(1, own)
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
        return View(b, m, own, n, own, m * own, 1)
    return View(b, m // together, together * own, 1, own, m * own, together)


@helper
def rest_of(view):
    """Values behind the last row."""
    return view.values - view.rows * view.columns


@helper
def place_in(view, b, row):
    """Where this row begins."""
    return b * view.values + row * view.columns


@helper
def width_of(view):
    """Columns of a tile that stays in the cache, or of a band of higher ones: whole vectors, and whole sets; all, where
    rows stand side by side."""
    unit = LANES * view.n
    vectors = (view.columns + unit - 1) // unit
    if view.together > 1:
        return vectors * unit
    widest = smaller(TILE // view.rows, WIDEST) if view.rows <= GROUP else WIDEST // 2
    return smaller(vectors, larger(1, widest // unit)) * unit


@helper
def tiles_of(view):
    """Tiles of a sample: all of its rows, as many columns as `width_of` says."""
    width = width_of(view)
    return (view.columns + width - 1) // width


@helper
def tile_of(view, b, number):
    width = width_of(view)
    first = number * width
    return Region(b, 0, view.rows, first, smaller(first + width, view.columns))


@helper
def own_of(view, tile):
    """The tile, without columns that are there again."""
    return Region(tile.b, tile.top, tile.end, tile.first, smaller(tile.last, view.own))


@helper
def groups_of(m):
    """Groups of rows."""
    return (m + GROUP - 1) // GROUP


@helper
def group_in(tile, g):
    """The rows of group g."""
    top = g * GROUP
    return Region(tile.b, top, smaller(top + GROUP, tile.end), tile.first, tile.last)


@helper
def are_at_once(view, x, streams):
    """Where threads walk over whole rows: is it faster to work on several at once, with what was loaded for a vector of
    columns? Stores to one line then do not follow each other, which takes longer where they leave the cache."""
    is_held = itemsize(x) == 2 or view.b * view.values * itemsize(x) <= AT_ONCE or view.columns > LONG_ROW
    return is_held and not streams


# -- strips --------------------------------------------------------------------------------------------------------


@helper
def whole_of(region):
    """Where the columns end that are whole vectors."""
    return region.first + (region.last - region.first) // LANES * LANES


@helper
def across(work, region, row, rows, given):
    """work(strip, *given) for `rows` rows of each vector of columns."""
    whole = whole_of(region)
    for j in range(region.first, whole, LANES):
        work(Strip(region.b, row, rows, j, LANES, True), *given)
    if whole < region.last:
        work(Strip(region.b, row, rows, whole, region.last - whole, False), *given)


@helper
def in_strips(work, region, given):
    """work(strip, *given) on the region, STRIP rows at a time."""
    for row in range(region.top, region.end, STRIP):
        across(work, region, row, smaller(STRIP, region.end - row), given)


@helper
def all_over(work, view, region, height, at_once, given):
    """work(strip, *given) on the region and what is behind its last row, `height` rows at a time or, without `at_once`,
    one: two loops, whose lengths are known when they are compiled."""
    b, top, end, first, last = region
    for turn in range(2 if end == view.rows and rest_of(view) > 0 else 1):
        if turn == 1:
            top, end, last = end, end + 1, first + rest_of(view)
        over_rows(work, Region(b, top, end, first, last), height, at_once, given)


@helper
def over_rows(work, region, height, at_once, given):
    """`all_over` the rows of the region alone."""
    row = region.top
    while row < region.end:
        if at_once and row + height <= region.end:
            across(work, region, row, height, given)
            row += height
        else:
            across(work, region, row, 1, given)
            row += 1


@helper
def read_in(view, a, i, left, full):
    """Lanes of x, or of an array of its shape, as `read`; those behind `left` are anything, which is faster: there are
    no masks for sixteen bits."""
    if full:
        return load_as(a, i, a)
    return load(a, i) if i + LANES <= view.b * view.values else load_n(a, i, left)


@helper
def place_of(parameter_dims, b):
    """Which of the pb sets of parameters belongs to b."""
    return b if parameter_dims[0] > b else b % parameter_dims[0]


@helper
def row_parameter(view, parameter_dims, p, strip, row, like):
    """The lanes of a parameter that varies along m, for a row of a strip: one value for all columns, or one for each;
    see `read`."""
    at_row = place_of(parameter_dims, strip.b) * parameter_dims[1] + row
    if parameter_dims[2] * parameter_dims[3] > 1:
        return read(p, at_row * view.columns + strip.j, strip.left, strip.full, like)
    return splat(at(p, at_row))


# -- planes ------------------------------------------------------------------------------------------------------


@helper
def group_of(planes, count, g):
    """The planes of group g, of which each has `count`."""
    return Planes(planes.values, planes.at + g * count * planes.step, planes.step)


@helper
def padded(view):
    """Columns rounded up to whole vectors: the distance of planes for all columns."""
    return (view.columns + LANES - 1) // LANES * LANES


@helper
def sample_of(values, count, view, b):
    """The planes of sample b, of which each has `count`."""
    step = padded(view)
    return Planes(values, b * count * step, step)


@helper
def repeat(view, planes, count):
    """Put what `count` planes have for each column where it stands again."""
    values, to, step = planes
    room = padded(view)
    for p in range(to, to + count * step, step):
        for first in range(view.own, view.columns, view.own):
            for j in range(0, view.own, LANES):  # what is written too far is written again
                put_lanes(values, p + first + j, load(values, p + j), room - first - j)


@helper
def clear_behind(planes, count, region):
    """Write 0 where the last vector of each of `count` planes goes beyond the region. Lanes there are read with the
    others and count nowhere; but what memory held before may be subnormal numbers, which take a hundred cycles each."""
    values, to, step = planes
    whole = whole_of(region)
    if whole < region.last:
        for p in range(count):
            store(values, to + p * step + whole, zeros(values))
