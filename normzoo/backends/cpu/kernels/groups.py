"""A formula of each value, and sums of what it gives, over rows in groups of different sizes: the nodes of graphs.

x is (rows, c), and lanes run along rows. A line is some rows of one group, with sums of its own for every column: in
the type of the formula for a while, then in float64. A turn is some lines.
"""

from functools import cache
from typing import Any

from normzoo.backends.cpu.compiling.disk import identity
from normzoo.backends.cpu.compiling.jit import helper
from normzoo.backends.cpu.kernels.functions import on_lanes
from normzoo.backends.cpu.kernels.making import groups_kernel
from normzoo.backends.cpu.kernels.moments import put_lanes
from normzoo.backends.cpu.kernels.tuples import LINE, adding_planes, coefficients_of, reading, writing
from normzoo.backends.cpu.kernels.windows import part_of
from normzoo.backends.cpu.schedule import SUMMED_VECTORS
from normzoo.backends.cpu.vector.access import at, load
from normzoo.backends.cpu.vector.arithmetic import smaller, wide
from normzoo.backends.cpu.vector.lanes import LANES
from normzoo.backends.cpu.vector.workspaces import clear, workspace
from normzoo.backends.forms import Formula


@cache
def groups(formula: Formula, count: int, streams: bool) -> Any:
    """The kernel of a formula with this number of coefficients."""
    function, is_wide, sums = on_lanes(formula.function), formula.wide, len(formula.sums)
    kinds, places = (LINE,) * count, tuple(formula.writes + i for i in range(sums))
    coefficients, coefficients_n = coefficients_of(kinds, True), coefficients_of(kinds, False)
    read, read_n = reading(formula.reads, is_wide, True), reading(formula.reads, is_wide, False)
    write, write_n = writing(formula.writes, streams, True), writing(formula.writes, streams, False)
    add, add_n = adding_planes(places, True), adding_planes(places, False)

    @helper
    def add_row(given, row, line, space, room):
        """What the formula makes of a row, with coefficients from place `line` on."""
        width = given.dims[2]
        i, j = row * width, 0
        while j + LANES <= width:
            v = function(*(read(given, i + j, LANES) + coefficients(given, (), line + j, LANES)))
            write(given, i + j, v, LANES)
            add(space, room, j, v, LANES)
            j += LANES
        if j < width:
            left = width - j
            v = function(*(read_n(given, i + j, left) + coefficients_n(given, (), line + j, left)))
            write_n(given, i + j, v, left)
            add_n(space, room, j, v, left)

    @helper
    def empty_planes(given, line, space, room):
        """Add the planes in float64."""
        width = given.dims[2]
        for p in range(sums):
            to = (line * sums + p) * width
            for j in range(0, width, LANES):
                v = part_of(given.planes, to + j, width - j) + wide(load(space, p * room + j))
                put_lanes(given.planes, to + j, v, width - j)
        clear(space, 0, sums * room)

    @helper
    def some_lines(t, given, table):
        width = given.dims[2]
        _, lines, together = given.cuts
        room = (width + LANES - 1) // LANES * LANES
        space = workspace(sums * room + LANES, given.planes if is_wide else given.arrays[0])
        clear(space, 0, sums * room + LANES)
        for line in range(t * together, smaller((t + 1) * together, lines)):
            place, first, last = at(table, 3 * line) * given.step, at(table, 3 * line + 1), at(table, 3 * line + 2)
            for start in range(first, last, SUMMED_VECTORS):
                for row in range(start, smaller(last, start + SUMMED_VECTORS)):
                    add_row(given, row, place, space, room)
                empty_planes(given, line, space, room)

    name = f"{formula.function.__name__}_{identity((formula.function,))}"
    said = formula.reads, formula.writes, is_wide, count, sums, streams
    return groups_kernel(f"groups_of_{name}({', '.join(map(str, said))})", some_lines)
