"""Values that the moments of rows are of: x as it is, or s, which is added up each time that it is read.

Two readings of x and the residual from a cache take less than to write s there first, and s may go past the caches.
"""

from typing import Any, NamedTuple

from normzoo.backends.cpu.compiling.jit import constant, helper
from normzoo.backends.cpu.kernels.moments import read
from normzoo.backends.cpu.vector.access import load_as, load_n, load_same, load_two, rounded, zeros
from normzoo.backends.cpu.vector.arithmetic import fma, narrow, splat


@constant
class Source(NamedTuple):
    """Values of x as rows read them: see `access.py` for the order of the lanes. All take (given, i)."""

    whole: Any
    two: Any
    same: Any
    some: Any  # (given, i, count)


@helper
def s_of(given, x, residual):
    return rounded(fma(residual, splat(narrow(given.beside.scale, given.x)), x), given.x)


@helper
def two_of_x(given, i):
    return load_two(given.x, i)


@helper
def two_of_s(given, i):
    (a, b), (c, d) = load_two(given.beside.x, i), load_two(given.beside.residual, i)
    return s_of(given, a, c), s_of(given, b, d)


@helper
def whole_of_x(given, i):
    return load_as(given.x, i, given.x)


@helper
def whole_of_s(given, i):
    x = given.x
    return s_of(given, load_as(given.beside.x, i, x), load_as(given.beside.residual, i, x))


@helper
def same_of_x(given, i):
    return load_same(given.x, i)


@helper
def same_of_s(given, i):
    return s_of(given, load_same(given.beside.x, i), load_same(given.beside.residual, i))


@helper
def some_of_x(given, i, count):
    return load_n(given.x, i, count)


@helper
def some_of_s(given, i, count):
    return s_of(given, load_n(given.beside.x, i, count), load_n(given.beside.residual, i, count))


X = Source(whole_of_x, two_of_x, same_of_x, some_of_x)
S = Source(whole_of_s, two_of_s, same_of_s, some_of_s)


@helper
def take_s(_view, given, i, left, full):
    return (whole_of_s(given, i) if full else some_of_s(given, i, left),)


@helper
def blank_s(given):
    return (zeros(given.x),)


@helper
def take_s_other(view, given, i, left, full):
    return *take_s(view, given, i, left, full), read(given.beside.other, i, left, full, given.x)


@helper
def blank_s_other(given):
    return zeros(given.x), zeros(given.x)
