"""Tuples of what a formula takes and gives: each is made by a helper that adds one to those before it.

A helper is picked by the number of its parts when a kernel is made, so that no kernel has loops over them.
"""

from functools import cache
from typing import Any

from normzoo.backends.cpu.compiling.jit import helper
from normzoo.backends.cpu.kernels.around import same
from normzoo.backends.cpu.vector.access import at, load, load_n, put, store, store_n, stream, zeros
from normzoo.backends.cpu.vector.arithmetic import keep, narrow, splat, total, wide

ONE, LINE = "one", "line"  # of a coefficient or a sum: a number of all lanes, or one of each


@cache
def reading(count: int, is_wide: bool, full: bool) -> Any:
    """(given, i, left) -> lanes of the arrays."""
    if not count:
        return nothing
    others, index = reading(count - 1, is_wide, full), count - 1
    lanes_of = of_type(is_wide)

    @helper
    def read_all(given, i, left):
        v = lanes_of(load(given.arrays[index], i) if full else load_n(given.arrays[index], i, left))
        return *others(given, i, left), v

    return read_all


@cache
def of_type(is_wide: bool) -> Any:
    """(v) -> v in the type of the formula."""

    @helper
    def widened(v):
        return wide(v)

    return widened if is_wide else same


@helper
def nothing(_given, _i, _left):
    return ()


@cache
def writing(count: int, streams: bool, full: bool) -> Any:
    """(given, i, found, left): write the first `count` of what was found."""
    if not count:
        return write_nothing
    others, index = writing(count - 1, streams, full), count - 1

    @helper
    def write_all(given, i, found, left):
        others(given, i, found, left)
        v = narrow(found[index], given.results[index])
        if full and streams:
            stream(given.results[index], i, v)
        elif full:
            store(given.results[index], i, v)
        else:
            store_n(given.results[index], i, v, left)

    return write_all


@helper
def write_nothing(_given, _i, _found, _left):
    return


@cache
def numbers_of(count: int, number: int) -> Any:
    """(given, owner) -> the first `count` of its coefficients, each in all lanes."""
    if not count:
        return no_numbers
    others, index = numbers_of(count - 1, number), count - 1

    @helper
    def numbers(given, owner):
        return *others(given, owner), splat(at(given.numbers, owner * number + index))

    return numbers


@helper
def no_numbers(_given, _owner):
    return ()


@cache
def coefficients_of(kinds: tuple[str, ...], full: bool) -> Any:
    """(given, numbers, j, left) -> all coefficients at column j of the lines that begin at `at`, in order."""
    if not kinds:
        return no_coefficients
    *before, kind = kinds
    others, index = coefficients_of(tuple(before), full), before.count(kind)
    if kind == ONE:

        @helper
        def then_one(given, numbers, j, left):
            return *others(given, numbers, j, left), numbers[index]

        return then_one

    @helper
    def then_lanes(given, numbers, j, left):
        i = j + index * given.dims[2]
        v = load(given.lines, i) if full else load_n(given.lines, i, left)
        return *others(given, numbers, j, left), v

    return then_lanes


@helper
def no_coefficients(_given, _numbers, _j, _left):
    return ()


@cache
def adding(places: tuple[int, ...], full: bool) -> Any:
    """(sums, found, left) -> sums, with what was found at these places added."""
    if not places:
        return add_nothing
    *before, place = places
    others, index = adding(tuple(before), full), len(before)

    @helper
    def add_all(sums, found, left):
        v = found[place] if full else keep(found[place], left)
        return *others(sums, found, left), sums[index] + v

    return add_all


@helper
def add_nothing(_sums, _found, _left):
    return ()


@cache
def adding_planes(places: tuple[int, ...], full: bool) -> Any:
    """(space, room, j, found, left): add what was found at these places to planes of a workspace, at column j."""
    if not places:
        return add_no_planes
    *before, place = places
    others, index = adding_planes(tuple(before), full), len(before)

    @helper
    def add_all_planes(space, room, j, found, left):
        others(space, room, j, found, left)
        v = found[place] if full else keep(found[place], left)
        store(space, index * room + j, load(space, index * room + j) + v)

    return add_all_planes


@helper
def add_no_planes(_space, _room, _j, _found, _left):
    return


@cache
def blanks(count: int, is_wide: bool) -> Any:
    """(given) -> as many zeros in the type of the formula."""
    if not count:
        return none_of
    others, lanes_of = blanks(count - 1, is_wide), of_type(is_wide)

    @helper
    def blank(given):
        return *others(given), lanes_of(zeros(given.arrays[0]))

    return blank


@helper
def none_of(_given):
    return ()


@cache
def noughts(count: int) -> Any:
    """() -> as many 0.0."""
    others = noughts(count - 1) if count else None
    if others is None:

        @helper
        def none():
            return ()

        return none

    @helper
    def zeros_of():
        return *others(), 0.0

    return zeros_of


@cache
def totals(count: int) -> Any:
    """(found, sums) -> found, with the sums of all lanes added, in float64."""
    if not count:
        return no_totals
    others, index = totals(count - 1), count - 1

    @helper
    def total_all(found, sums):
        return *others(found, sums), found[index] + total(wide(sums[index]))

    return total_all


@helper
def no_totals(_found, _sums):
    return ()


@cache
def putting(count: int, number: int) -> Any:
    """(given, line, found): write the sums of a line."""
    if not count:
        return put_nothing
    others, index = putting(count - 1, number), count - 1

    @helper
    def put_all(given, line, found):
        others(given, line, found)
        put(given.sums, line * number + index, found[index])

    return put_all


@helper
def put_nothing(_given, _line, _found):
    return


@helper
def splat_of(v, _like):
    return splat(v)


@helper
def wide_of(v, _like):
    return wide(v)


@helper
def narrow_of(v, like):
    return narrow(v, like)


@helper
def as_it_is(v, _like):
    return v


@cache
def each(count: int, function: Any) -> Any:
    """(v, like) -> function(v[i], like) of the first `count`."""
    if not count:
        return no_lanes
    others, index = each(count - 1, function), count - 1

    @helper
    def all_of(v, like):
        return *others(v, like), function(v[index], like)

    return all_of


@helper
def no_lanes(_v, _like):
    return ()
