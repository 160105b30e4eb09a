"""The order in which columns are processed: narrow rows side by side, tiles, groups of rows, strips; their parameters;
and planes of values per column."""

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
    """The view of x that is processed: that of `dims` or, if columns are so few that they leave lanes empty, one with
    several rows side by side. Then each column occurs several times, see `fold_rows` and `repeat`. The values after the
    last of these rows, `rest_of` the view, are part of another row."""
    b, m, c, n = dims
    own = c * n
    columns = larger(1, own)
    together = 1
    if not spans_m:
        vectors = LANES // smaller(LANES, columns & -columns)  # rows that make whole vectors
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
    """Number of values after the last row."""
    return view.values - view.rows * view.columns


@helper
def place_in(view, b, row):
    """Index of the first value of this row."""
    return b * view.values + row * view.columns


@helper
def width_of(view):
    """Columns of a tile that stays in the cache, or of a band of higher ones: whole vectors and whole sets; all
    columns, if rows are side by side."""
    unit = LANES * view.n
    vectors = (view.columns + unit - 1) // unit
    if view.together > 1:
        return vectors * unit
    widest = smaller(TILE // view.rows, WIDEST) if view.rows <= GROUP else WIDEST // 2
    return smaller(vectors, larger(1, widest // unit)) * unit


@helper
def tiles_of(view):
    """Number of tiles of a sample; a tile has all rows of as many columns as `width_of`."""
    width = width_of(view)
    return (view.columns + width - 1) // width


@helper
def tile_of(view, b, number):
    width = width_of(view)
    first = number * width
    return Region(b, 0, view.rows, first, smaller(first + width, view.columns))


@helper
def own_of(view, tile):
    """The tile without repeated columns."""
    return Region(tile.b, tile.top, tile.end, tile.first, smaller(tile.last, view.own))


@helper
def groups_of(m):
    """Number of groups of rows."""
    return (m + GROUP - 1) // GROUP


@helper
def group_in(tile, g):
    """The rows of group g."""
    top = g * GROUP
    return Region(tile.b, top, smaller(top + GROUP, tile.end), tile.first, tile.last)


@helper
def are_at_once(view, x, streams):
    """If threads process whole rows: is it faster to process several at once, with the values loaded for one vector of
    columns? Stores to the same cache line are then further apart, which takes longer if the line has left the cache."""
    is_held = itemsize(x) == 2 or view.b * view.values * itemsize(x) <= AT_ONCE or view.columns > LONG_ROW
    return is_held and not streams


# -- strips --------------------------------------------------------------------------------------------------------


@helper
def whole_of(region):
    """The end of the columns that are whole vectors."""
    return region.first + (region.last - region.first) // LANES * LANES


@helper
def across(work, region, row, rows, given):
    """Call work(strip, *given) for `rows` rows of each vector of columns."""
    whole = whole_of(region)
    for j in range(region.first, whole, LANES):
        work(Strip(region.b, row, rows, j, LANES, True), *given)
    if whole < region.last:
        work(Strip(region.b, row, rows, whole, region.last - whole, False), *given)


@helper
def in_strips(work, region, given):
    """Call work(strip, *given) on the region, STRIP rows at a time."""
    for row in range(region.top, region.end, STRIP):
        across(work, region, row, smaller(STRIP, region.end - row), given)


@helper
def all_over(work, view, region, height, at_once, given):
    """Call work(strip, *given) on the region and on the values after its last row, `height` rows at a time or, without
    `at_once`, one: as two loops, whose lengths are known when compiling."""
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
    """Lanes of x, or of an array of its shape, as in `read`; lanes from `left` on may have any values, which is faster,
    because there are no masks for 16 bits."""
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
    """The planes of group g; each group has `count`."""
    return Planes(planes.values, planes.at + g * count * planes.step, planes.step)


@helper
def padded(view):
    """Number of columns rounded up to whole vectors: the distance between planes for all columns."""
    return (view.columns + LANES - 1) // LANES * LANES


@helper
def sample_of(values, count, view, b):
    """The planes of sample b; each sample has `count`."""
    step = padded(view)
    return Planes(values, b * count * step, step)


@helper
def repeat(view, planes, count):
    """Copy the values of `count` planes for each column to its repetitions."""
    values, to, step = planes
    room = padded(view)
    for p in range(to, to + count * step, step):
        for first in range(view.own, view.columns, view.own):
            for j in range(0, view.own, LANES):  # values written too far are overwritten later
                put_lanes(values, p + first + j, load(values, p + j), room - first - j)


@helper
def clear_behind(planes, count, region):
    """Write 0 where the last vector of each of `count` planes exceeds the region. Lanes there are read with the others
    and are not used; but old values in memory may be subnormal numbers, which take a hundred cycles each."""
    values, to, step = planes
    whole = whole_of(region)
    if whole < region.last:
        for p in range(count):
            store(values, to + p * step + whole, zeros(values))
