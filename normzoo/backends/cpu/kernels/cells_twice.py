"""Two formulas of the same values, see `Twice`: a turn takes some sets, one after the other, and reads each twice."""

from collections.abc import Callable
from functools import cache
from typing import Any

from normzoo.backends.cpu.compiling.disk import identity
from normzoo.backends.cpu.compiling.jit import helper
from normzoo.backends.cpu.kernels.cells import emptying, running
from normzoo.backends.cpu.kernels.functions import on_lanes
from normzoo.backends.cpu.kernels.making import cells_kernel
from normzoo.backends.cpu.kernels.tuples import (
    LINE,
    ONE,
    each,
    narrow_of,
    noughts,
    numbers_of,
    putting,
    splat_of,
    wide_of,
)
from normzoo.backends.cpu.schedule import SUMMED_VECTORS
from normzoo.backends.cpu.vector.arithmetic import smaller
from normzoo.backends.cpu.vector.lanes import LANES
from normzoo.backends.cpu.vector.workspaces import clear, workspace
from normzoo.backends.forms import Twice


def making(form: Twice) -> Any:
    """(given, found, numbers) -> numbers of the second formula, in all lanes."""
    between, is_wide = on_lanes(form.between), form.second.wide
    splats, wides, narrows = each(form.sums, splat_of), each(form.numbers, wide_of), each(form.made, narrow_of)

    @helper
    def made(given, found, numbers):
        like = given.arrays[0]
        v = between(*(splats(found, like) + wides(numbers, like)))
        return v if is_wide else narrows(v, like)

    return made


@cache
def cells_twice(form: Twice, kinds: tuple[str, ...], sums: tuple[str, ...], across: bool, streams: bool) -> Any:
    """The kernel; the arguments are those of `cells`."""
    work = turn_of(form, kinds, sums, across, streams)
    functions = form.first.function, form.between, form.second.function
    name = f"{form.first.function.__name__}_{identity(functions)}"
    said = *form.first[1:], *form[2:5], *form.second[1:], kinds, sums, across, streams
    return cells_kernel(f"cells_twice_of_{name}({', '.join(map(str, said))})", work)


def turn_of(form: Twice, kinds: tuple[str, ...], sums: tuple[str, ...], across: bool, streams: bool) -> Callable:
    """A turn: some sets."""
    ones, planes_count, number = sums.count(ONE), sums.count(LINE), kinds.count(ONE)
    nought, put_sums, numbers_at = noughts(ones), putting(ones, ones), numbers_of(number, number)
    add_run, empty_planes, made = running(form.first, kinds, sums, False), emptying(planes_count), making(form)
    second = running(form.second, (*kinds, *(ONE,) * form.made), (), streams)
    is_wide = form.first.wide

    @helper
    def along(t, given):
        owners, size, _ = given.dims
        together = given.cuts[2]
        for owner in range(t * together, smaller((t + 1) * together, owners)):
            place, numbers = (owner * size, owner * size + size), numbers_at(given, owner)
            found = add_run(given, place, numbers, (0, 0, 0), given.sums, nought())
            put_sums(given, owner, found)
            second(given, place, numbers + made(given, found, numbers), (0, 0, 0), given.sums, ())

    @helper
    def across_rows(t, given):
        owners, size, width = given.dims
        together = given.cuts[2]
        room, rows = (width + LANES - 1) // LANES * LANES, 0
        space = workspace(planes_count * room + LANES, given.planes if is_wide else given.arrays[0])
        clear(space, 0, planes_count * room + LANES)
        for owner in range(t * together, smaller((t + 1) * together, owners)):
            numbers, found, line = numbers_at(given, owner), nought(), owner * given.step
            for row in range(owner * size, (owner + 1) * size):
                place = row * width, (row + 1) * width
                found = add_run(given, place, numbers, (0, line, room), space, found)
                rows += 1
                if rows == SUMMED_VECTORS:
                    empty_planes(given, t, space, room)
                    rows = 0
            put_sums(given, owner, found)
            more = numbers + made(given, found, numbers)
            for row in range(owner * size, (owner + 1) * size):
                second(given, (row * width, (row + 1) * width), more, (0, line, room), space, ())
        empty_planes(given, t, space, room)

    return across_rows if across else along
