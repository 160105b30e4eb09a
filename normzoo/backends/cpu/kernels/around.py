"""What stands before and behind a norm, on lanes: helpers that are picked when a kernel is made, as flags are.

What comes before the sums of a pass is written into memory, where these find it in the cache: s goes to `x`, of which
the moments are, and going back dy times the derivative of what is behind goes to `dy`. A record's own x and dy are then
in `beside`. What comes behind is done with the lanes that y or dx is made of. But rows add a residual each time that
they read x, so that s may go past the caches; not where it is stored in 16 bits, as rounding takes longer than reading.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

from normzoo.backends.around import Around
from normzoo.backends.cpu.compiling.jit import constant, helper
from normzoo.backends.cpu.kernels.columns_walk import read_in
from normzoo.backends.cpu.kernels.functions import in_short, on_lanes
from normzoo.backends.cpu.kernels.level import Level, has_array, level_of
from normzoo.backends.cpu.kernels.moments import read, write, write_out
from normzoo.backends.cpu.kernels.rows_source import (
    S,
    Source,
    X,
    blank_s,
    blank_s_other,
    take_s,
    take_s_other,
)
from normzoo.backends.cpu.vector.access import prefetch, zeros
from normzoo.backends.cpu.vector.arithmetic import fma, narrow, splat

NOTHING, JOINS, TURNS = range(3)  # what is written before sums: nothing, s, or dy


@constant
class Reads(NamedTuple):
    """Arrays of a record that some step reads together."""

    take: Any  # (view, given, i, left, full) -> lanes of each; of columns `view` says how they are walked over
    blank: Any  # (given) -> as many zeros


@constant
class Steps(NamedTuple):
    """What kernels do beside the norm itself. Records are `Forward` or `Backward`."""

    fills: int
    source: Source  # of rows' moments
    sources: Reads  # what `fill` is made of
    fill: Any  # (given, terms, z, i, left, full): written before sums; z = xhat * weight + bias, where it turns dy
    terms: Reads  # what y or dx is made of: x or dy, x, and what the end needs
    end: Any  # (given, terms, v, i, left, full, streams): y or dx, of what the norm makes of it
    fetch: Any  # (given, i): fetch all that is read
    level: Level  # it follows the terms of the end, going forward, and of what is filled, going back

    def __repr__(self) -> str:
        return "steps"  # in a kernel's name, which says in its own way what these are of


class Sides(NamedTuple):
    """The arithmetic."""

    join: Any  # (x, other, scale) -> s
    finish: Any  # (z, other) -> y
    turn: Any  # (dy, z, other) -> dy of z, and the gradient of other, but of a parameter
    close: Any  # (u, x, other) -> dx of u = n'(dy), and the gradient of other


# -- which arrays


@helper
def x_of(given):
    return given.x


@helper
def dy_of(given):
    return given.dy


@helper
def own_x_of(given):
    return given.beside.x


@helper
def own_dy_of(given):
    return given.beside.dy


@helper
def residual_of(given):
    return given.beside.residual


@helper
def other_of(given):
    return given.beside.other


@helper
def ds_of(given):
    return given.beside.ds


@helper
def read_row(_view, a, i, left, full, like):
    return read(a, i, left, full, like)


@helper
def read_column(view, a, i, left, full, _like):
    return read_in(view, a, i, left, full)


@cache
def reading(by_column: bool, *arrays: Callable) -> Reads:
    """Of arrays, each of which a helper picks."""
    *before, last = arrays
    read_from = read_column if by_column else read_row
    if not before:

        @helper
        def take(view, given, i, left, full):
            return (read_from(view, last(given), i, left, full, given.x),)

        @helper
        def blank(given):
            return (zeros(given.x),)

        return Reads(take, blank)
    others = reading(by_column, *before)
    take_others, no_others = others

    @helper
    def take_all(view, given, i, left, full):
        return *take_others(view, given, i, left, full), read_from(view, last(given), i, left, full, given.x)

    @helper
    def all_blank(given):
        return *no_others(given), zeros(given.x)

    return Reads(take_all, all_blank)


@cache
def fetching(*arrays: Callable) -> Any:
    *before, last = arrays
    if not before:

        @helper
        def fetch(given, i):
            prefetch(last(given), i)

        return fetch
    fetch_others = fetching(*before)

    @helper
    def fetch_all(given, i):
        fetch_others(given, i)
        prefetch(last(given), i)

    return fetch_all


# -- the arithmetic


@helper
def same(v):
    return v


@helper
def same_of_two(v, _other):
    return v


@helper
def plus_ds(u, terms):
    return u + terms[2]


@helper
def add_scaled(x, residual, scale):
    return fma(residual, scale, x)


@cache
def sides_of(around: Around) -> Sides:
    """The arithmetic; parts that are not asked for are anything."""
    activation, learned = around.activation, around.behind == "learned"
    act, slope = same, same_of_two
    if activation is not None:
        compiled = in_short if around.is_short and not learned else on_lanes
        act, slope = compiled(activation.value), compiled(activation.derivative)
        slope = slope if learned else _times(slope)

    @helper
    def gated(v, other):
        return v * act(other)

    @helper
    def gated_first(v, other, _scale):
        return v * act(other)

    @helper
    def gated_back(d, v, other):
        return d * act(other), slope(d * v, other)

    @helper
    def activated(v, _other):
        return act(v)

    @helper
    def activated_back(d, v, _other):
        d = slope(d, v)
        return d, d

    @helper
    def added(v, other):
        return act(v + other)

    @helper
    def added_back(d, v, other):
        d = slope(d, v + other)
        return d, d

    @helper
    def of_two(v, other):
        return act(v, other)

    @helper
    def of_two_back(d, v, other):
        d = d * slope(v, other)[0]
        return d, d

    finish, turn = {
        "": (activated, activated_back),
        "add": (added, added_back),
        "gate": (gated, gated_back),
        "learned": (of_two, of_two_back),
    }[around.behind]
    return Sides(gated_first if around.gate_first else add_scaled, finish, turn, gated_back)


def _times(derivative: Any) -> Any:
    @helper
    def times_derivative(d, v):
        return d * derivative(v)

    return times_derivative


# -- the steps


@cache
def forward_steps(around: Around, by_column: bool, streams: bool = False) -> Steps:
    around = around._replace(ds=False)
    has_other, level = has_array(around), level_of(around)
    join, finish, _, _ = sides_of(around)
    second = other_of if around.gate_first else residual_of
    is_read = by_column or around.gate_first or around.is_short  # is s, as written, read again?

    @helper
    def write_s(given, terms, _z, i, left, full):
        s = join(terms[0], terms[1], splat(narrow(given.beside.scale, given.x)))
        write_out(given.x, i, s, left, full, streams and not is_read)

    @helper
    def write_y(given, _terms, z, i, left, full, streams):
        write_out(given.y, i, z, left, full, streams)

    @helper
    def write_finished(given, terms, z, i, left, full, streams):
        write_out(given.y, i, finish(z, terms[-1]), left, full, streams)

    @helper
    def write_both(given, terms, z, i, left, full, streams):
        write(given.x, i, terms[0], left, full, given.x)
        end(given, terms, z, i, left, full, streams)

    terms = (x_of, other_of) if has_other else (x_of,)
    read_terms, end = reading(by_column, *terms), write_finished if around.is_behind else write_y
    if not around.is_before:
        return Steps(NOTHING, X, read_terms, write_s, read_terms, end, fetching(*terms), level)
    fetch = fetching(own_x_of, second, *terms[1:])
    sources = reading(by_column, own_x_of, second)
    if is_read:
        return Steps(JOINS, X, sources, write_s, read_terms, end, fetch, level)
    read_terms = Reads(take_s_other, blank_s_other) if has_other else Reads(take_s, blank_s)
    if streams:  # s at once: of two arrays that are written past the caches in turn, lines would go half filled
        return Steps(JOINS, S, sources, write_s, read_terms, end, fetch, level)
    return Steps(NOTHING, S, sources, write_s, read_terms, write_both, fetch, level)


@cache
def backward_steps(around: Around, by_column: bool) -> Steps:
    has_other, has_own, level = has_array(around), around.behind == "gate", level_of(around)
    above = plus_ds if around.ds else same_of_two
    join, _, turn, close = sides_of(around)

    @helper
    def write_s(given, terms, _z, i, left, full):
        write(given.x, i, join(terms[0], terms[1], terms[0]), left, full, given.x)

    @helper
    def write_dy(given, terms, z, i, left, full):
        d, dother = turn(terms[0], z, terms[-1])
        write(given.dy, i, d, left, full, given.x)
        if has_own:  # else they are the same
            write(given.beside.dother, i, dother, left, full, given.x)

    @helper
    def write_dx(given, terms, u, i, left, full, streams):
        write_out(given.dx, i, above(u, terms), left, full, streams)

    @helper
    def write_closed(given, terms, u, i, left, full, streams):
        dx, dother = close(above(u, terms), terms[-2], terms[-1])
        write_out(given.dx, i, dx, left, full, streams)
        write(given.beside.dother, i, dother, left, full, given.x)

    terms = (dy_of, x_of, ds_of) if around.ds else (dy_of, x_of)
    read_terms, fill, end = reading(by_column, *terms), write_dy, write_dx
    if around.gate_first:
        own = own_x_of, other_of
        read_terms, fill, end = reading(by_column, *terms, *own), write_s, write_closed
        fetch = fetching(dy_of, *own, *terms[2:])
        return Steps(JOINS, X, reading(by_column, *own), fill, read_terms, end, fetch, level)
    if not around.is_behind:
        return Steps(NOTHING, X, read_terms, fill, read_terms, end, fetching(x_of, dy_of, *terms[2:]), level)
    sources = (own_dy_of, x_of, other_of) if has_other else (own_dy_of, x_of)
    fetch = fetching(x_of, *sources[::2], *terms[2:])
    return Steps(TURNS, X, reading(by_column, *sources), fill, read_terms, end, fetch, level)
