"""What stands before and behind a norm of sets of few values: as rows have it, with the lanes of blocks; see `few.py`.

It is computed in the type of rows and columns, and written where they write it: the bits are one whichever works.
"""

from functools import cache
from typing import Any

from normzoo.backends.around import ALONE, Around
from normzoo.backends.cpu.compiling.jit import helper
from normzoo.backends.cpu.kernels.around import other_of, residual_of, sides_of
from normzoo.backends.cpu.kernels.few_tables import give, plane_at, read_stats, take
from normzoo.backends.cpu.kernels.level import has_array
from normzoo.backends.cpu.kernels.moments import MEAN, RSTD, affine_of, standardize
from normzoo.backends.cpu.vector.access import load, store
from normzoo.backends.cpu.vector.arithmetic import fma, narrow, splat
from normzoo.backends.cpu.vector.lanes import LANES


@helper
def weight_of(given):
    return given.weight


@helper
def own_bias_of(given):
    return given.beside.bias


def level_of(around: Around) -> Any:
    """The parameter of what is learned, whose planes follow those of weight and bias; something else where there is
    none."""
    return other_of if learns(around) else weight_of


def learns(around: Around) -> bool:
    return around.behind == "learned"


def reads_other(around: Around) -> bool:
    """Does a pass to y read more than x?"""
    return around.is_before or has_array(around)


@cache
def joining(around: Around) -> Any:
    """take_x(dims, given, block, apart, values, other): the values of a block that moments are of, and of what y is
    made of beside them. Both have room for each value, `other` where anything is read to it."""
    join, before, behind = sides_of(around).join, around.is_before, has_array(around)
    second = other_of if around.gate_first else residual_of

    @helper
    def take_x(dims, given, block, apart, values, other):
        if before:
            take(dims, given.beside.x, block, apart, values, 0)
            take(dims, second(given), block, apart, other, 0)
            scale = splat(narrow(given.beside.scale, given.x))
            for h in range(0, values.size, LANES):
                s = join(narrow(load(values, h), given.x), narrow(load(other, h), given.x), scale)
                store(values, h, narrow(s, values))
            give(dims, given.x, block, apart, values)
        take(dims, given.x, block, apart, values, 0)
        if behind:
            take(dims, given.beside.other, block, apart, other, 0)

    @helper
    def take_alone(dims, given, block, apart, values, _other):
        take(dims, given.x, block, apart, values, 0)

    return take_alone if around == ALONE else take_x


@cache
def finishing(around: Around) -> Any:
    """y(given, z, spaces, places): y of z = xhat * weight + bias, as `values` of a kernel has it. What is behind lies
    at one of the places: in `other`, or in the tables."""
    finish, behind, index = sides_of(around).finish, around.behind != "", int(learns(around))

    @helper
    def y(given, z, spaces, places):
        o = load(spaces[index], places[index] if behind else 0)
        return narrow(finish(narrow(z, given.x), narrow(o, given.x)), spaces[0])

    @helper
    def y_alone(_given, z, _spaces, _places):
        return z

    return y if around.is_behind else y_alone


@cache
def filling(around: Around, over: bool) -> Any:
    """fill(layout, given, block, apart, spaces, tables): what comes before the sums of a block, written as rows do.
    `spaces`: the values of dy, those of x behind them, as many for others, and a vector."""
    sides, has_own, behind, learned = sides_of(around), around.behind == "gate", has_array(around), learns(around)

    @helper
    def join(layout, given, block, apart, spaces, _tables):
        values, others, _ = spaces
        take(layout.dims, given.beside.x, block, apart, values, 0)
        take(layout.dims, given.beside.other, block, apart, others, 0)
        for h in range(0, others.size, LANES):
            v, o = narrow(load(values, h), given.x), narrow(load(others, h), given.x)
            store(values, h, narrow(sides.join(v, o, v), values))
        give(layout.dims, given.x, block, apart, values)

    @helper
    def turn(layout, given, block, apart, spaces, tables):
        values, others, kept = spaces
        (_, m, c, n), x, k = given.dims, given.x, others.size
        weights, first = tables
        columns = c if over else 1
        take(layout.dims, given.beside.dy, block, apart, values, 0)
        take(layout.dims, x, block, apart, values, k)
        if behind:
            take(layout.dims, given.beside.other, block, apart, others, 0)
        for column in range(columns):
            mean = read_stats(given, MEAN, block, column, over, kept)
            affine = affine_of(mean, read_stats(given, RSTD, block, column, over, kept), x)
            for i in range(m):
                for j in range(n):
                    h = ((i * columns + column) * n + j) * LANES
                    p = plane_at(given.parameter_dims, i, column, j, over) * layout.room + first
                    w, a = load(weights, p), load(weights, p + layout.planes * layout.room)
                    xhat = standardize(narrow(load(values, k + h), x), *affine)
                    z = fma(xhat, narrow(w, x), narrow(a, x))
                    o = narrow(load(others, h), x) if behind else z
                    if learned:
                        o = narrow(load(weights, p + 2 * layout.planes * layout.room), x)
                    d, dother = sides.turn(narrow(load(values, h), x), z, o)
                    store(values, h, narrow(d, values))
                    if has_own:
                        store(others, h, narrow(dother, others))
        give(layout.dims, given.dy, block, apart, values)
        if has_own:
            give(layout.dims, given.beside.dother, block, apart, others)

    @helper
    def nothing(_layout, _given, _block, _apart, _spaces, _tables):
        pass

    return join if around.gate_first else turn if around.is_behind else nothing


@cache
def ending(around: Around) -> Any:
    """end(dims, given, block, apart, values, others): dx of n'(dy), the first of the values, as rows end it."""
    close, first, ds = sides_of(around).close, around.gate_first, around.ds

    @helper
    def end(dims, given, block, apart, values, others):
        x, k = given.x, others.size
        if ds:
            take(dims, given.beside.ds, block, apart, others, 0)
            for h in range(0, k, LANES):
                u = narrow(load(values, h), x) + narrow(load(others, h), x)
                store(values, h, narrow(u, values))
        if first:
            take(dims, given.beside.x, block, apart, values, k)
            take(dims, given.beside.other, block, apart, others, 0)
            for h in range(0, k, LANES):
                u, v, o = narrow(load(values, h), x), narrow(load(values, k + h), x), narrow(load(others, h), x)
                dx, dother = close(u, v, o)
                store(values, h, narrow(dx, values))
                store(others, h, narrow(dother, others))
            give(dims, given.beside.dother, block, apart, others)
        give(dims, given.dx, block, apart, values)

    @helper
    def end_alone(dims, given, block, apart, values, _others):
        give(dims, given.dx, block, apart, values)

    return end if ds or first else end_alone
