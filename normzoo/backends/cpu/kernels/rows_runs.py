"""Adjacent runs of rows that are too short to be processed one by one: a set is processed as one run, whose values each
have their own parameters."""

from typing import Any

from normzoo.backends.cpu.compiling.jit import helper
from normzoo.backends.cpu.kernels.moments import put_lanes
from normzoo.backends.cpu.kernels.records import Backward, Before, Behind, Forward
from normzoo.backends.cpu.vector.access import at, load_n, put, store_n
from normzoo.backends.cpu.vector.arithmetic import smaller, splat, total, wide
from normzoo.backends.cpu.vector.lanes import LANES
from normzoo.backends.cpu.vector.workspaces import clear, workspace


def going_forward(work: Any, unrolls: bool, learns: bool) -> Any:
    """work(pool, forward, *moments); with `unrolls`, on runs as one. `learns`: an activation behind has a parameter."""
    spread_beside = level_spread if learns else as_it_is

    @helper
    def unrolling(pool, given, *moments):
        if unrolls:
            dims, parameter_dims, x, weight, bias, y, stats, beside = given
            shape, parameter_shape = unrolled(dims, parameter_dims)
            size = parameter_shape[0] * parameter_shape[3]
            w, v = workspace(size, weight), workspace(size, bias)
            spread(dims, parameter_dims, weight, w)
            spread(dims, parameter_dims, bias, v)
            u = workspace(size if learns else 1, weight)
            beside = spread_beside(dims, parameter_dims, beside, u)
            work(pool, Forward(shape, parameter_shape, x, w, v, y, stats, beside), *moments)
        else:
            work(pool, given, *moments)

    return unrolling


def going_back(work: Any, unrolls: bool, has_bias: bool, learns: bool) -> Any:
    """work(pool, backward, dweight, dbias, limits), likewise; `has_bias`: of one that is beside."""
    spread_beside = bias_spread if has_bias else as_it_is
    spread_level = level_spread_back if learns else as_it_is

    @helper
    def unrolling(pool, given, dweight, dbias, limits):
        if unrolls:
            dims, parameter_dims, dy, x, weight, stats, dx, beside = given
            shape, parameter_shape = unrolled(dims, parameter_dims)
            size = parameter_shape[0] * parameter_shape[3]
            w, v = workspace(size, weight), workspace(size if has_bias else 1, weight)
            dw, db = workspace(size, weight), workspace(size, weight)
            spread(dims, parameter_dims, weight, w)
            u = workspace(size if learns else 1, weight)
            beside = spread_level(dims, parameter_dims, spread_beside(dims, parameter_dims, beside, v), u)
            work(pool, Backward(shape, parameter_shape, dy, x, w, stats, dx, beside), dw, db, limits)
            fold(dims, parameter_dims, dw, dweight, stats)
            fold(dims, parameter_dims, db, dbias, stats)
        else:
            work(pool, given, dweight, dbias, limits)

    return unrolling


@helper
def unrolled(dims, parameter_dims):
    """The view and its parameter view with runs as one."""
    b, m, _, n = dims
    return (b, 1, 1, m * n), (parameter_dims[0], 1, 1, m * n)


@helper
def spread(dims, parameter_dims, weight, room):
    """Write the parameters of runs, or of their values, repeated for each value of a set."""
    _, m, _, n = dims
    for o in range(parameter_dims[0] * m):
        first = first_of(parameter_dims, m, o)
        for i in range(0, n, LANES):  # what is written too far is written again
            v = load_n(weight, first + i, smaller(n - i, LANES)) if parameter_dims[3] > 1 else splat(at(weight, first))
            put_lanes(room, o * n + i, v, room.size - o * n - i)


@helper
def as_it_is(_dims, _parameter_dims, beside, _room):
    return beside


@helper
def bias_spread(dims, parameter_dims, beside, room):
    spread(dims, parameter_dims, beside.bias, room)
    return Behind(beside.x, beside.dy, room, beside.other, beside.dother, beside.ds)


@helper
def level_spread(dims, parameter_dims, beside, room):
    spread(dims, parameter_dims, beside.other, room)
    return Before(beside.x, beside.residual, room, beside.scale)


@helper
def level_spread_back(dims, parameter_dims, beside, room):
    spread(dims, parameter_dims, beside.other, room)
    return Behind(beside.x, beside.dy, beside.bias, room, beside.dother, beside.ds)


@helper
def first_of(parameter_dims, m, o):
    """Where the parameter of the first value of run o stands, of all runs of sets that do not share their
    parameters."""
    _, pm, _, pn = parameter_dims
    return (o if pm > 1 else o // m) * pn


@helper
def fold(dims, parameter_dims, spread_out, dweight, stats):
    """Add the gradients of values that share a parameter."""
    pb, pm, _, pn = parameter_dims
    _, m, _, n = dims
    sums = workspace(pb * pm * pn, stats)
    clear(sums, 0, sums.size)
    for o in range(pb * m):
        first, found = first_of(parameter_dims, m, o), splat(0.0)
        for i in range(0, n, LANES):
            left = smaller(n - i, LANES)
            v = wide(load_n(spread_out, o * n + i, left))
            if pn > 1:
                store_n(sums, first + i, load_n(sums, first + i, left) + v, left)
            else:
                found += v
        if pn == 1:
            put(sums, first, at(sums, first) + total(found))
    for o in range(sums.size):
        put(dweight, o, at(sums, o))
