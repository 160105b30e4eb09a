"""The parameter of an activation behind a norm, which is read as weight and bias are: helpers that are picked when a
kernel is made."""

from typing import Any, NamedTuple

from normzoo.backends.around import Around
from normzoo.backends.cpu.compiling.jit import constant, helper
from normzoo.backends.cpu.kernels.columns_walk import row_parameter
from normzoo.backends.cpu.kernels.moments import held, put_lanes, read
from normzoo.backends.cpu.vector.access import at
from normzoo.backends.cpu.vector.arithmetic import splat


@constant
class Level(NamedTuple):
    """How kernels read the parameter of an activation, which weight and bias have beside them: all give a tuple of its
    lanes, or an empty one where there is none."""

    planes: int  # of a column's forms
    one: Any  # (given, p): of a run that shares it
    each: Any  # (given, p, left, full): where values of a run, or columns, have their own
    row: Any  # (view, given, strip, r, like): of a row of columns, where rows have their own
    put: Any  # (values, i, level, room): write a column's to its form
    held: Any  # (values, i, full, like): and read it there


@helper
def level_of_one(given, p):
    return (splat(at(given.beside.other, p)),)


@helper
def level_of_each(given, p, left, full):
    return (read(given.beside.other, p, left, full, given.x),)


@helper
def level_of_row(view, given, strip, r, like):
    return (row_parameter(view, given.parameter_dims, given.beside.other, strip, r, like),)


@helper
def put_level(values, i, level, room):
    put_lanes(values, i, level[0], room)


@helper
def level_held(values, i, full, like):
    return (held(values, i, full, like),)


@helper
def no_level_of_one(_given, _p):
    return ()


@helper
def no_level_of_each(_given, _p, _left, _full):
    return ()


@helper
def no_level_of_row(_view, _given, _strip, _r, _like):
    return ()


@helper
def put_no_level(_values, _i, _level, _room):
    pass


@helper
def no_level_held(_values, _i, _full, _like):
    return ()


LEVEL = Level(1, level_of_one, level_of_each, level_of_row, put_level, level_held)
NO_LEVEL = Level(0, no_level_of_one, no_level_of_each, no_level_of_row, put_no_level, no_level_held)


def has_array(around: Around) -> bool:
    """Is there an array of x's shape behind the norm?"""
    return around.behind not in ("", "learned")


def level_of(around: Around) -> Level:
    return LEVEL if around.behind == "learned" else NO_LEVEL
