"""The choice of kernel and of its arguments for a view: the arithmetic between the contract and `geometry.py`."""

from math import prod
from typing import NamedTuple

from normzoo.backends.contract import Dims
from normzoo.backends.cuda.accesses import VECTOR_BYTES
from normzoo.backends.cuda.geometry import WARP, Form, magic_of

# (values, threads): threads per row for sets of up to this many values; and the most values per thread.
TEAMS = ((64, 8), (128, 16), (3072, 32), (6144, 64), (16384, 128), (1 << 62, 256))
MOST_TEAM = 512
MOST_LANES = {"float32": 64, "float64": 32}
GROUPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
LINE = 128  # bytes that adjacent teams of columns read together
COLUMN_THREADS = 256
SHORT = 1024  # values of a non-contiguous set, from which on runs of odd lengths are read as columns
MOST_SUMMED, MOST_MERGED = 64, 8  # values that a thread of `fold` sums, and parts that a thread merges, if it can be so
BIG = 1 << 31  # number of elements that 32-bit offsets can address


class Plan(NamedTuple):
    """A form, and the arguments of its kernels."""

    form: Form
    whole: bool  # does a team process a whole set?
    dims: tuple[int, ...]  # in the order of the kernels' arguments
    params: tuple[int, ...]
    width: int  # number of sets, or tiles of columns, per b
    spread: bool  # must parameters be repeated to the full size of columns first?
    view: tuple[Dims, Dims]  # dims and parameter_dims, after adjacent axes were merged

    @property
    def pieces(self) -> int:
        return self.dims[4]

    @property
    def places(self) -> int:
        """Number of sets, or columns, that have their own sums."""
        return self.dims[0] * self.dims[2]

    @property
    def columns_of_set(self) -> int:
        return self.dims[3] if self.form.columns else 1

    @property
    def work(self) -> int:
        """Number of pieces of all sets, or tiles."""
        return self.dims[0] * self.width * self.pieces


def joined(dims: Dims, parameter_dims: Dims) -> tuple[Dims, Dims]:
    """The same view with m merged into n, if both the set and its parameters are contiguous."""
    b, m, c, n = dims
    pb, pm, _, pn = parameter_dims
    if c == 1 and m > 1 and ((pm, pn) in ((1, 1), (m, n)) or n == 1):
        return (b, 1, 1, m * n), (pb, 1, 1, pm * pn)
    return dims, parameter_dims


def plan(
    dims: Dims, parameter_dims: Dims, real: str, itemsize: int, aligned: bool, what: str, around: bool = False
) -> Plan:
    """The plan of a view for a "forward", "backward" or "apply" pass.

    Args:
        aligned: do all arrays begin at multiples of 16 bytes?
        around: does anything stand before or behind the norm? Its values take registers too.
    """
    dims, parameter_dims = joined(dims, parameter_dims)
    size = VECTOR_BYTES // itemsize
    if is_columns(dims, parameter_dims, size):
        backward = what == "backward"
        # sums of each column cost most: with four of sixteen bits each is of more values
        shape = dims, parameter_dims, MOST_LANES[real] >> around
        found = _columns(*shape, itemsize, min(size, 4) if backward else size, backward)
    else:
        found = _rows(dims, parameter_dims, MOST_LANES[real] >> around, size, what)
    form = found.form._replace(real=real, aligned=aligned or found.form.size == 1)
    return found._replace(form=form)


def is_columns(dims: Dims, parameter_dims: Dims, size: int) -> bool:
    """Do adjacent threads process adjacent c? So they do for many runs whose length is not a multiple of a vector,
    too."""
    _, m, c, n = dims
    _, pm, pc, pn = parameter_dims
    if n == 1:
        return True
    return c > 1 and n % size != 0 and c * n >= WARP and m * n >= SHORT and (pm == 1 or (pc, pn) in ((1, 1), (c, n)))


def _groups(least: int, most: int) -> int | None:
    """The smallest allowed number of groups per thread that is at least `least`, or None."""
    return next((g for g in GROUPS if least <= g <= most), None)


def _power(value: int) -> int:
    """The smallest power of two that is not less than `value`."""
    return 1 << max(value - 1, 0).bit_length()


def _rows(dims: Dims, parameter_dims: Dims, most: int, size: int, what: str) -> Plan:
    backward = what == "backward"
    b, m, c, n = dims
    pb, pm, pc, pn = parameter_dims
    if n % size:
        size = 1
    k = m * n
    runs = m > 1
    varies = "full" if pn > 1 else "group" if pm > 1 else "set"
    if what != "forward" or (size == 1 and (runs or varies != "set")):
        most //= 2
    if backward and size == 1 and (runs or varies != "set"):
        most //= 2
    team = next(t for limit, t in TEAMS if k <= limit)
    units = k // size
    largest = COLUMN_THREADS if what == "apply" or (backward and varies == "full") else MOST_TEAM
    while team < largest and _groups(-(-units // team), most // size) is None:
        team *= 2
    groups = _groups(-(-units // team), most // size)
    whole = groups is not None
    if groups is None:
        team, groups = COLUMN_THREADS, most // 2 // size or 1
    pieces = 1 if whole else -(-units // (team * groups))
    wide = (m - 1) * c * n + n >= BIG
    form = Form(False, "", size, groups, team, 1, runs, varies, wide)
    magic, shift = magic_of(n // size)
    params = pb, pm * pc * pn, pc * pn if pm > 1 else 0, pn if pc > 1 else 0
    return Plan(form, whole, (b, m, c, n, pieces, magic, shift), params, c, False, (dims, parameter_dims))


def _columns(dims: Dims, parameter_dims: Dims, lanes: int, itemsize: int, size: int, backward: bool) -> Plan:
    b, m, c, n = dims
    pb, pm, pc, pn = parameter_dims
    columns = c * n
    if columns % size:
        size = 1
    spread = (pc, pn) not in ((1, 1), (c, n))
    one = (pc, pn) == (1, 1) and columns > 1
    varies = "set" if pm == 1 else "group" if one else "full"
    most = max(size, lanes // (4 if backward else 2)) if size > 1 else 16
    beside = min(_power(-(-columns // size)), LINE // (size * itemsize), WARP)
    team = max(WARP // beside, 1)
    while team < COLUMN_THREADS // beside and _groups(-(-m // team), most // size // 2) is None:
        team *= 2
    groups = _groups(-(-m // team), most // size)
    whole = groups is not None and n == 1
    if groups is None:
        groups = most // size or 1
    pieces = -(-m // (team * groups))
    form = Form(True, "", size, groups, team, beside, n > 1, varies, (m - 1) * columns + columns >= BIG)
    magic, shift = magic_of(n)
    of = columns if not one else 1
    params = pb, pm * of, of if pm > 1 else 0, 0 if one else 1
    width = -(-columns // (beside * size))
    return Plan(form, whole, (b, m, columns, n, pieces, magic, shift), params, width, spread, (dims, parameter_dims))


def cells_of(plan: Plan, most: int) -> tuple[tuple[int, ...], int]:
    """The cells for backward kernels, and the number of blocks.

    Args:
        most: blocks that the device holds at once; more are launched only where there are more cells, or pieces.
    """
    form, width, pieces = plan.form, plan.width, plan.pieces
    b, pb = plan.dims[0], plan.params[0]
    if form.varies == "set":
        across, pb = 1, 1
    elif form.columns:
        across = width if form.varies == "full" else 1
    else:
        across = width if plan.params[3] > 0 else 1
    sets = b // pb * (1 if across == width else width)
    workers = min(-(-sets // form.teams), max(1, most // (across * pb * pieces)))
    rounds = -(-sets // (workers * form.teams))
    return (across, workers, sets, width, pb, rounds), across * pb * workers * pieces


def fold_of(plan: Plan, cells: tuple[int, ...]) -> tuple[int, ...]:
    """The axes by which `merging.fold` sums the gradients of a backward kernel."""
    form = plan.form
    (_, m, c, n), (pb, pm, pc, pn) = plan.view
    b = plan.dims[0]
    outputs = pb * pm * pc * pn
    if form.varies == "set":  # (2, b, c, n) for columns, (2, b, c) for rows
        each = n if form.columns else 1
        strides = c * each, 0, each if pc > 1 else 0, 1 if pn > 1 else 0
        counts = b // pb, c if pc == 1 else 1, each if pn == 1 else 1
        return pm, pc * pn, pn, *strides, *counts, pb * c * each, each, 1, outputs, plan.places
    across, workers = cells[0], cells[1]
    each = form.size if form.varies == "full" else 1
    plane = plan.pieces * form.units * form.beside * each
    row = 2 * plane
    cell = workers * row
    if form.columns:
        tile = form.beside * form.size
        if form.varies == "full":
            return pm, c * n, tile, across * cell, tile, cell, 1, workers, 1, 1, row, 0, 0, outputs, plane
        return pm, 1, 1, cell, form.beside, 0, 0, workers, form.beside, 1, row, 1, 0, outputs, plane
    of_c = cell if across > 1 else 0
    if form.varies == "full":
        again = m if pm == 1 else 1
        return pm, pc * pn, pn, across * cell, n, of_c, 1, workers, again, 1, row, n, 0, outputs, plane
    units = n // form.size
    return pm, pc, 1, across * cell, units, of_c, 0, workers, units, 1, row, 1, 0, outputs, plane


def rows_size(plan: Plan, grid: int) -> int:
    """Number of values in the partial rows of a backward kernel."""
    form = plan.form
    if form.varies == "set":
        return 1
    each = form.size if form.varies == "full" else 1
    return 2 * grid * form.units * form.beside * each


def sums_of(axes: tuple[int, ...], outputs: int) -> tuple[int, int, tuple[int, ...]]:
    """How `merging.fold` goes about it: outputs of a block, axes that it sums over, and all axes with these joined.

    Threads of a warp read neighbours in memory: outputs, where these are, and 8 float64 fill two sectors; or, where
    they are neighbours, what is summed. Where there are few outputs of many values each has a block to itself.
    """
    summed = [(count, stride) for count, stride in zip(axes[7:10], axes[10:13], strict=True) if count > 1] or [(1, 0)]
    joined = summed[:1]
    for count, stride in summed[1:]:
        if joined[-1][1] == count * stride:
            joined[-1] = joined[-1][0] * count, stride
        else:
            joined.append((count, stride))
    number = prod(count for count, _ in joined)
    near = axes[6] == 1 or (axes[2] == 1 and axes[5] == 1)  # do neighbouring outputs lie side by side?
    each = next((e for e in (32, 8) if near and outputs >= e and number * e <= MOST_SUMMED * 256), 1)
    padded = [(1, 0)] * (3 - len(joined)) + joined
    return each, len(joined), (*axes[:7], *(c for c, _ in padded), *(s for _, s in padded), *axes[13:])


def merge_team(entries: tuple[int, ...]) -> int:
    """Threads that merge the parts of a set: a warp, or a block."""
    return WARP if entries[1] * entries[2] <= MOST_MERGED * WARP else COLUMN_THREADS


def entries_of(plan: Plan, sets: int) -> tuple[int, ...]:
    """The layout of the parts of a set, for `merging.merge`."""
    form = plan.form
    _, m, _, n = plan.dims[:4]
    if form.columns:
        return sets, plan.pieces, plan.columns_of_set, m, form.units, plan.places, 0
    return sets, plan.pieces, 1, m * n, form.units * form.size, plan.places, 0


def inverse_counts(plan: Plan) -> tuple[float, float]:
    """1 / number of values of a set, or of a column, in a piece and in the last piece."""
    _, _, _, values, most, _, _ = entries_of(plan, 1)
    last = values - (plan.pieces - 1) * most
    return 1.0 / min(most, values), 1.0 / last
