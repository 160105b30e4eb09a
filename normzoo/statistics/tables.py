"""Statistics of the sets of an array, over some of its axes: by a backend's tables, whose columns have statistics of
their own.

The axes of an array, outermost in memory first, are cut in two: the first ones are rows of a table, the others its
columns. Rows that belong to one set are cut into parts; what is found of parts, and of columns that belong to one set,
is merged. Values that do not count, weights and segments choose and order the rows; where they differ within rows, a
copy has NaN in place of what does not count.
"""

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import numpy as np

from normzoo.backends import backend, chosen
from normzoo.backends.contract import Array
from normzoo.backends.forms import Summary
from normzoo.passes.arrays import kernel_array
from normzoo.passes.view import inverse, lies_in

Merge = Callable[[Any, Any], Any]  # of two arrays (3, parts, columns), the planes of `Backend.summarize`

PART = 1 << 14  # rows of a part, at most
RUN = 256  # adjacent values of a set that are cut into rows of a table of their own
WIDTH = 64  # columns to which a narrow table is widened, if it is one of adjacent rows
HELD = 1 << 22  # values of what is found that are held at a time
FEW = 256  # parts, that the reference takes one by one
COMPILED = 1 << 15  # values: of fewer, statistics are computed by the reference, in less time than it takes to compile

NONE_CHOSEN: Array = np.zeros(0, np.int64)
NO_WEIGHTS: Array = np.zeros(0)


class Counted(NamedTuple):
    """Which values count, as `select` has it; each has x's rank, with axes of size 1 or x's size."""

    mask: Array | None = None
    weights: Array | None = None  # float64
    segments: Array | None = None  # int64 from 0 on, along one axis
    groups: int = 1  # segments
    skips: bool = False  # does NaN not count either?


class Rows(NamedTuple):
    """A table and the sets that its rows belong to."""

    x: Array  # dense
    columns: int
    pitch: int
    sets: int
    parts: Array  # (p, 2): first row and number of rows
    of_part: Array  # (p,): the set, ascending
    order: Array = NONE_CHOSEN
    weights: Array = NO_WEIGHTS


def found_of(x: Array, axes: tuple[int, ...], counted: Counted, extremes: bool, merge: Merge) -> Array:
    """(3, segments, *kept): the planes of `Backend.summarize` of every set over `axes`."""
    order = tuple(sorted(range(x.ndim), key=lambda i: -abs(x.strides[i])))
    if not x.dtype.isnative or not x.flags.aligned or not lies_in(order, x.shape, x.strides, x.itemsize):
        x, order = kernel_array(x, x.dtype.newbyteorder("=")), tuple(range(x.ndim))
    turned = x.transpose(order)
    letters = "".join("r" if i in axes else "k" for i in order)
    mask, weights, ids = (None if a is None else a.transpose(order) for a in counted[:3])
    shape = turned.shape
    first = max([1 + i for a in (mask, weights, ids) if a is not None for i in range(x.ndim) if a.shape[i] > 1] or [0])
    cut = max(first, _cut_of(letters, shape))
    made = extremes, counted.skips, merge
    if mask is None and weights is None and ids is None:
        found = _adjacent(turned, letters, cut, made)
    else:
        found = _ordered(turned, letters, cut, (mask, weights, ids), counted.groups, made)
    # (3, segments * kept of rows, kept and reduced of columns) -> (3, segments, *kept)
    rows = [n for n, letter in zip(shape[:cut], letters, strict=False) if letter == "k"]
    found = found.reshape(3, counted.groups, *rows, *shape[cut:])
    found = _folded(found, [2 + len(rows) + i for i, letter in enumerate(letters[cut:]) if letter == "r"], merge)
    kept = [i for i in order if i not in axes]
    back = inverse(tuple(int(i) for i in np.argsort(np.argsort(kept))))
    return found.transpose(0, 1, *(2 + i for i in back))


def _cut_of(letters: str, shape: tuple[int, ...]) -> int:
    """How many axes are rows: all up to the last reduced one; if few adjacent values are reduced, up to one before."""
    last = len(letters) if letters.endswith("r") else letters.rfind("r") + 1
    behind = len(letters.rstrip("r"))
    if last == len(letters) and behind and prod(shape[behind:]) < RUN:
        return letters[:behind].rfind("r") + 1
    return last


def _adjacent(x: Array, letters: str, cut: int, made: tuple[bool, bool, Merge]) -> Array:
    """Of all values: of runs of reduced rows, adjacent in memory, each of which is widened if it is narrow."""
    rows, columns = x.shape[:cut], prod(x.shape[cut:])
    behind = len(letters[:cut].rstrip("r"))
    length = prod(rows[behind:])
    grid = np.arange(prod(n for n, letter in zip(rows, letters, strict=False) if letter == "k"))
    kept = [n if letter == "k" else 1 for n, letter in zip(rows[:behind], letters, strict=False)]
    of_run = np.broadcast_to(grid.reshape(kept), rows[:behind]).reshape(-1)
    wider = max(1, min(WIDTH // max(columns, 1), length // WIDTH))
    high, rest = divmod(length, wider)
    starts = np.arange(of_run.size) * length
    # rows of `wider` adjacent rows each; and, if some are left over, those
    flat = x.reshape(-1) if x.flags.c_contiguous else x
    tables = [_parted(flat, (wider * columns, columns), of_run, (starts, high, wider), grid.size)] if high else []
    if rest:
        tables.append(_parted(flat, (columns, columns), of_run, (starts + high * wider, rest, 1), grid.size))
    found = None
    for table, width in zip(tables, (wider, 1) if high else (1,), strict=False):
        part = _summed(table, made).reshape(3, grid.size, width, columns)
        part = _folded(part, [2], made[2])
        found = part if found is None else made[2](found, part)
    return nothing((grid.size, columns), made[0]) if found is None else found


def _parted(x: Array, widths: tuple[int, int], of_run: Array, runs: tuple[Array, int, int], sets: int) -> Rows:
    """A table whose rows are of widths[0] values; `runs`: the first row of each, of widths[1], how many rows it has
    here, and of how many of those each is made. A row begins at a multiple of widths[1]."""
    starts, high, wider = runs
    columns, pitch = widths[0], widths[1] * wider
    if wider > 1 and (starts % wider).any():  # not at multiples of the new rows: they are found one by one
        order = (starts[:, None] + np.arange(high) * wider).reshape(-1)
        starts, pitch = np.arange(starts.size) * high, widths[1]
    else:
        order, starts = NONE_CHOSEN, starts // wider
    pieces = -(-high // PART)
    firsts = np.arange(pieces) * PART
    parts = np.stack(np.broadcast_arrays(starts[:, None] + firsts, np.minimum(PART, high - firsts)), axis=-1).reshape(
        -1, 2
    )
    of_part = np.repeat(of_run, pieces)
    sorting = np.argsort(of_part, kind="stable")
    return Rows(x, columns, pitch, sets, np.ascontiguousarray(parts[sorting]), of_part[sorting], order)


def _ordered(
    x: Array,
    letters: str,
    cut: int,
    counted: tuple[Array | None, Array | None, Array | None],
    segments: int,
    made: tuple[bool, bool, Merge],
) -> Array:
    """Of rows that count, by segments: ordered by the sets that they belong to."""
    rows, columns = x.shape[:cut], prod(x.shape[cut:])
    kept = [n if letter == "k" else 1 for n, letter in zip(rows, letters, strict=False)]
    sets = prod(kept)
    of_row = np.arange(sets).reshape(kept)
    mask, weights, ids = (None if a is None else a.reshape(a.shape[:cut]) for a in counted)
    if ids is not None:
        of_row = of_row + ids * sets
    of_row = np.broadcast_to(of_row, rows).reshape(-1)
    order = np.arange(of_row.size)
    if mask is not None:
        order = order[np.broadcast_to(mask, rows).reshape(-1)]
    if weights is not None:
        weights = np.broadcast_to(weights, rows).reshape(-1)
        order = order[weights[order] > 0]
    order = order[np.argsort(of_row[order], kind="stable")]
    sizes = np.bincount(of_row[order], minlength=segments * sets)
    starts, pieces = np.cumsum(sizes) - sizes, -(-sizes // PART)
    of_part = np.repeat(np.arange(sizes.size), pieces)
    nth = np.arange(of_part.size) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    parts = np.stack([starts[of_part] + nth * PART, np.minimum(PART, sizes[of_part] - nth * PART)], axis=1)
    own = NO_WEIGHTS if weights is None else np.ascontiguousarray(weights[order], np.float64)
    table = Rows(x, columns, columns, sizes.size, np.ascontiguousarray(parts, np.int64), of_part, order, own)
    return _summed(table, made)


def _summed(table: Rows, made: tuple[bool, bool, Merge]) -> Array:
    """(3, sets, columns)."""
    extremes, skips, merge = made
    summary = Summary(extremes, table.order.size > 0, table.weights.size > 0 and not extremes, skips and not extremes)
    few = table.x.size < COMPILED and len(table.parts) < FEW
    name = "reference" if few else chosen()
    run = backend(name).summarize(table.columns, summary, table.x.dtype)
    found = nothing((table.sets, table.columns), extremes)
    step = max(1, HELD // (4 * max(1, table.columns)))
    for i in range(0, len(table.parts), step):
        parts = np.ascontiguousarray(table.parts[i : i + step])
        planes = np.moveaxis(run(table.x, table.pitch, parts, table.order, table.weights), 1, 0)
        sets, of_sets = joined(planes, table.of_part[i : i + step], merge)
        found[:, sets] = of_sets if i == 0 else merge(found[:, sets], of_sets)
    return found


def joined(planes: Array, of_part: Array, merge: Merge) -> tuple[Array, Array]:
    """The sets of parts, ascending, and what is found of them: neighbours are merged, two at a time, until each set has
    one part."""
    while True:
        firsts = np.r_[True, of_part[1:] != of_part[:-1]]
        if firsts.all():
            return of_part, planes
        nth = np.arange(of_part.size) - np.maximum.accumulate(np.where(firsts, np.arange(of_part.size), 0))
        left = np.flatnonzero((nth[:-1] % 2 == 0) & (of_part[1:] == of_part[:-1]))
        planes = planes.copy()
        planes[:, left] = merge(planes[:, left], planes[:, left + 1])
        stays = np.ones(of_part.size, bool)
        stays[left + 1] = False
        planes, of_part = planes[:, stays], of_part[stays]


def _folded(planes: Array, axes: list[int], merge: Merge) -> Array:
    """Merged over these axes, two neighbours at a time."""
    for axis in sorted(axes, reverse=True):
        while planes.shape[axis] > 1:
            size = planes.shape[axis] // 2 * 2
            last = np.moveaxis(planes, axis, -1)
            a, b, rest = last[..., 0:size:2], last[..., 1:size:2], last[..., size:]
            planes = np.moveaxis(np.concatenate([merge(a, b), rest], axis=-1), -1, axis)
        planes = np.take(planes, 0, axis)
    return planes


def nothing(shape: tuple[int, ...], extremes: bool) -> Array:
    """What is found where there are no values."""
    planes = np.zeros((3, *shape))
    if extremes:
        planes[1], planes[2] = np.inf, -np.inf
    return planes
