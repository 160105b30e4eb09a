"""A formula of each value, and sums of what it gives: x is (b, c, n), or (b, n, c) in memory, and a cell is the n
values of one (b, c).

Lanes run along the cells or, where channels are last, across them. What depends on a cell's b and c is then one number
in all lanes, or lanes of their own. Sums are made in order: in the type of the formula for a while, then in float64.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

from normzoo.backends.cpu.compiling.disk import identity
from normzoo.backends.cpu.compiling.jit import helper
from normzoo.backends.cpu.kernels.functions import on_lanes
from normzoo.backends.cpu.kernels.making import cells_kernel
from normzoo.backends.cpu.kernels.moments import put_lanes
from normzoo.backends.cpu.kernels.tuples import (
    LINE,
    ONE,
    adding,
    adding_planes,
    as_it_is,
    blanks,
    coefficients_of,
    each,
    noughts,
    numbers_of,
    putting,
    reading,
    totals,
    wide_of,
    writing,
)
from normzoo.backends.cpu.kernels.windows import part_of
from normzoo.backends.cpu.schedule import SUMMED_VECTORS
from normzoo.backends.cpu.vector.access import load
from normzoo.backends.cpu.vector.arithmetic import smaller, wide
from normzoo.backends.cpu.vector.lanes import LANES
from normzoo.backends.cpu.vector.workspaces import clear, workspace
from normzoo.backends.forms import Formula

SUMMED = SUMMED_VECTORS * LANES  # values between two sums in float64


class Parts(NamedTuple):
    """What is done with full lanes, or with fewer."""

    read: Any
    coefficients: Any
    write: Any
    add: Any
    add_planes: Any


def parts_of(formula: Formula, kinds: tuple[str, ...], sums: tuple[str, ...], streams: bool, full: bool) -> Parts:
    ones, lines = (tuple(formula.writes + i for i, s in enumerate(sums) if s == kind) for kind in (ONE, LINE))
    return Parts(
        reading(formula.reads, formula.wide, full),
        coefficients_of(kinds, full),
        writing(formula.writes, streams, full),
        adding(ones, full),
        adding_planes(lines, full),
    )


def running(formula: Formula, kinds: tuple[str, ...], sums: tuple[str, ...], streams: bool) -> Any:
    """add_run(given, place, numbers, column, space, found): what the formula makes of the values [first, last), which
    begin at column `j` of `lines`; `found` with the sums that are one number, others added to planes in `space`."""
    function = on_lanes(formula.function)
    ones = sums.count(ONE)
    blank, all_totals = blanks(ones, formula.wide), totals(ones)
    read, coefficients, write, add, add_planes = parts_of(formula, kinds, sums, streams, True)
    read_n, coefficients_n, write_n, add_n, add_planes_n = parts_of(formula, kinds, sums, streams, False)
    of_type = each(len(kinds), wide_of if formula.wide else as_it_is)

    @helper
    def add_run(given, place, numbers, column, space, found):
        i, last = place
        j, line, room = column
        while i < last:
            stop = smaller(last, i + SUMMED)
            own = blank(given)
            while i + LANES <= stop:
                c = of_type(coefficients(given, numbers, line + j, LANES), given.sums)
                v = function(*(read(given, i, LANES) + c))
                write(given, i, v, LANES)
                own = add(own, v, LANES)
                add_planes(space, room, j, v, LANES)
                i += LANES
                j += LANES
            if i < stop:
                left = stop - i
                c = of_type(coefficients_n(given, numbers, line + j, left), given.sums)
                v = function(*(read_n(given, i, left) + c))
                write_n(given, i, v, left)
                own = add_n(own, v, left)
                add_planes_n(space, room, j, v, left)
                j += left
                i = stop
            found = all_totals(found, own)
        return found

    return add_run


def emptying(planes_count: int) -> Any:
    """empty_planes(given, t, space, room): add the planes in float64."""

    @helper
    def empty_planes(given, t, space, room):
        width = given.dims[2]
        for p in range(planes_count):
            to = (t * planes_count + p) * width
            for j in range(0, width, LANES):
                v = part_of(given.planes, to + j, width - j) + wide(load(space, p * room + j))
                put_lanes(given.planes, to + j, v, width - j)
        clear(space, 0, planes_count * room)

    return empty_planes


# -- the kernel


@cache
def cells(formula: Formula, kinds: tuple[str, ...], sums: tuple[str, ...], across: bool, streams: bool) -> Any:
    """The kernel of a formula whose coefficients and sums are of these kinds; `across`: lanes run over channels."""
    work = turn_of(formula, kinds, sums, across, streams)

    name = f"{formula.function.__name__}_{identity((formula.function,))}"
    said = formula.reads, formula.writes, formula.wide, kinds, sums, across, streams
    return cells_kernel(f"cells_of_{name}({', '.join(map(str, said))})", work)


def turn_of(formula: Formula, kinds: tuple[str, ...], sums: tuple[str, ...], across: bool, streams: bool) -> Callable:
    """A turn: some lines."""
    ones, planes_count, number = sums.count(ONE), sums.count(LINE), kinds.count(ONE)
    nought, put_sums, numbers_at = noughts(ones), putting(ones, ones), numbers_of(number, number)
    add_run, empty_planes = running(formula, kinds, sums, streams), emptying(planes_count)
    is_wide = formula.wide

    @helper
    def along(t, given):
        owners, size, _ = given.dims
        pieces, length, together = given.cuts
        for line in range(t * together, smaller((t + 1) * together, owners * pieces)):
            owner, skip = line // pieces, line % pieces * length
            place = owner * size + skip, owner * size + smaller(size, skip + length)
            found = add_run(given, place, numbers_at(given, owner), (0, 0, 0), given.sums, nought())
            put_sums(given, line, found)

    @helper
    def across_rows(t, given):
        owners, size, width = given.dims
        pieces, length, together = given.cuts
        room, rows = (width + LANES - 1) // LANES * LANES, 0
        space = workspace(planes_count * room + LANES, given.planes if is_wide else given.arrays[0])
        clear(space, 0, planes_count * room + LANES)
        for line in range(t * together, smaller((t + 1) * together, owners * pieces)):
            owner, skip = line // pieces, line % pieces * length
            numbers, found = numbers_at(given, owner), nought()
            for row in range(owner * size + skip, owner * size + smaller(size, skip + length)):
                place = row * width, (row + 1) * width
                found = add_run(given, place, numbers, (0, owner * given.step, room), space, found)
                rows += 1
                if rows == SUMMED_VECTORS:
                    empty_planes(given, t, space, room)
                    rows = 0
            put_sums(given, line, found)
        empty_planes(given, t, space, room)

    return across_rows if across else along
