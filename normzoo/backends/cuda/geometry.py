"""Which values the threads of a block process, and how they are summed: the differences between rows and columns.

A team of threads works on a set, or on a piece of one. Rows: a team consists of adjacent threads; thread t takes groups
t, t + team, t + 2*team, ... of `size` adjacent values of the set. Columns: a team consists of the threads of a block
that work on the same `size` columns; thread t takes rows t, t + team, ...; `beside` teams work side by side. So every
thread has `groups` groups in its registers, and the number of its sums is 1 for rows and `size` for columns.

Kernels take dims = (b, m, c, n, pieces, magic, shift) and params = (pb, strides of b, m and c). For columns, c is the
number of all columns; n adjacent ones belong to one set.
"""

from functools import cache
from typing import Any, NamedTuple

from numba import cuda
from numba.cuda import types

from normzoo.backends.cuda.accesses import (
    larger_over_threads,
    load,
    load_each,
    shuffle,
    sum_over_threads,
)
from normzoo.backends.cuda.arithmetic import (
    choose,
    fold_larger,
    join,
    lanes_of,
    over,
    part,
    quotient,
    rest,
    splat,
    steps,
)
from normzoo.backends.cuda.shared import get_like, put

WARP = 32
BLOCK = 128  # threads per block of small teams
DIMS = types.UniTuple(types.int64, 7)
PARAMS = types.UniTuple(types.int64, 4)

device = cuda.jit(device=True, forceinline=True)  # inlined by NVVM: inlining by Numba took a third longer to compile


class Form(NamedTuple):
    """The properties for which a kernel is compiled."""

    columns: bool  # columns, or rows
    real: str  # float32 or float64: the computing type
    size: int  # adjacent values per access: as many as fit into 16 bytes, or 1
    groups: int  # accesses per thread
    team: int  # threads that share a set; a power of two
    beside: int = 1  # teams side by side in columns
    runs: bool = False  # rows: a set consists of several runs; columns: a set consists of several columns
    varies: str = "set"  # parameters vary per "set", per "group", or per value ("full")
    wide: bool = False  # 64-bit offsets
    aligned: bool = True  # arrays begin at multiples of 16 bytes; otherwise values are accessed one by one
    around: str = ""  # for the label alone

    @property
    def lanes(self) -> int:
        """Values per thread."""
        return self.size * self.groups

    @property
    def each(self) -> int:
        """Values per access."""
        return self.size if self.aligned else 1

    @property
    def sums(self) -> int:
        """Sums per thread."""
        return self.size if self.columns else 1

    @property
    def threads(self) -> int:
        """Threads per block."""
        if self.columns:
            return self.team * self.beside
        return max(BLOCK, self.team) if self.team <= WARP else self.team

    @property
    def teams(self) -> int:
        """Teams per block that work on different sets, or tiles of columns."""
        return 1 if self.columns else self.threads // self.team

    @property
    def units(self) -> int:
        """Groups (rows) or rows (columns) per piece."""
        return self.groups * self.team

    def __str__(self) -> str:
        kind = f"columns beside {self.beside}" if self.columns else "rows"
        flags = " runs" * self.runs + " wide" * self.wide + " unaligned" * (not self.aligned)
        return f"{kind} {self.size}x{self.groups} team {self.team} {self.varies}{flags}{self.around}"

    @property
    def is_double(self) -> bool:
        return self.real == "float64"


def labelled(kernel: Any, form: Any) -> Any:
    """The kernel, with its form as an attribute."""
    kernel.form = form
    return kernel


def magic_of(divisor: int) -> tuple[int, int]:
    """(magic, shift) such that v // divisor == (v * magic) >> shift for 0 <= v < 2^31 (Granlund, Montgomery 1994)."""
    shift = 31 + max(divisor - 1, 0).bit_length()
    return -(-(1 << shift) // divisor), shift


def type_of(form: Form):
    """The computing type."""
    return types.float64 if form.is_double else types.float32


@cache
def exchange_size(form: Form, each: int) -> int:
    """Size of the shared memory through which warps exchange `each` sums per thread; at least 1."""
    warps = form.threads // WARP
    is_shared = form.team * form.beside > WARP
    return 2 * warps * form.beside * each * form.sums if is_shared else 1


@cache
def team_of(form: Form):
    """() -> index of the team in the grid, of the thread in the team, and of the team among those side by side."""
    team, beside, teams = form.team, form.beside, form.teams
    log_team, log_beside = team.bit_length() - 1, beside.bit_length() - 1

    if form.columns:

        @device
        def columns_team():
            return cuda.blockIdx.x, cuda.threadIdx.x >> log_beside, cuda.threadIdx.x & (beside - 1)

        return columns_team

    @device
    def rows_team():
        return cuda.blockIdx.x * teams + (cuda.threadIdx.x >> log_team), cuda.threadIdx.x & (team - 1), 0

    return rows_team


@cache
def place(form: Form):
    """The function that locates the values of thread t.

    It returns start, offsets of the thread's groups, start and offsets of the parameters, index of its sums, and of
    their statistics; a negative offset or index means that there is none.
    """
    size, groups, team, beside = form.size, form.groups, form.team, form.beside
    runs, varies = form.runs, form.varies
    index = types.int64 if form.wide else types.int32
    log_size = size.bit_length() - 1

    if form.columns:

        @device
        def columns_place(dims, params, i, j, piece, t, tx, valid):
            _, m, c, n, _, magic, shift = dims
            pb, of_b, of_m, of_c = params
            column = (j * beside + tx) * size
            exists = valid and column < c
            row = steps(index(piece * (team * groups) + t), team, groups)
            on = row < index(m if exists else 0)
            offsets = choose(on, row * index(c), -1)
            at = choose(on, row * index(of_m), -1)
            lane = steps(types.int64(column), 1, size)
            sums = choose(splat(exists, size), lane + i * c, -1)
            stats = sums
            if runs:
                stats = choose(splat(exists, size), quotient(lane, magic, types.int32(shift)) + i * over(c, n), -1)
            return i * m * c + column, offsets, rest(i, pb) * of_b + column * of_c, at, sums, stats

        return columns_place

    @device
    def rows_place(dims, params, i, j, piece, t, tx, valid):
        _, m, c, n, _, magic, shift = dims
        pb, of_b, of_m, of_c = params
        unit = steps(index(piece * (team * groups) + t), team, groups)
        on = unit < index(m * n >> log_size if valid else 0)
        if runs:
            run = quotient(unit, magic, types.int32(shift))
            left = (unit - run * index(n >> log_size)) * index(size)
            offsets = choose(on, run * index(c * n) + left, -1)
            at = run * index(of_m)
            if varies == "full":
                at = at + left
            at = choose(on, at, -1)
        else:
            offsets = choose(on, unit * index(size), -1)
            at = offsets
        sums = splat(types.int64(i * c + j if valid else -1), 1)
        start = (i * m * c + j) * n if runs else (i * c + j) * m * n
        return start, offsets, rest(i, pb) * of_b + j * of_c, at, sums, sums

    return rows_place


@cache
def parameter(form: Form):
    """(array, start, offsets, params, sums) -> the parameter values of this thread, in as many lanes as it has
    values."""
    size, each, count, varies, columns = form.size, form.each, form.sums, form.varies, form.columns

    @device
    def values(array, start, offsets, params, sums):
        if varies == "full":
            return load(array, start, offsets, size, each)
        if varies == "group":
            return load_each(array, start, offsets, size)
        if columns:
            return load(array, start, choose(sums < 0, sums, steps(types.int64(0), 1, count) * params[3]), 1, 1)
        return load(array, start, choose(sums < 0, sums, 0), 1, 1)

    return values


@cache
def count_of(form: Form):
    """(dims, piece) -> number of values of a set, or of a column, in this piece."""
    units, size, columns = form.units, form.size, form.columns

    @device
    def count(dims, piece):
        _, m, _, n, _, _, _ = dims
        if columns:
            return min(units, m - piece * units)
        return min(units * size, m * n - piece * (units * size))

    return count


@cache
def first_value(form: Form, get: Any):
    """(x, beside, start, v, sums) -> one value of the set, the same for all threads of a team. `get` loads values."""
    team, columns = form.team, form.columns
    size, each = (form.size, form.each) if columns else (1, 1)
    spans = form.team * form.beside > WARP

    @device
    def value(x, beside, start, v, sums):
        if not columns and not spans:
            lane = cuda.threadIdx.x & (32 - team)
            return shuffle(part(v, 0, 1), lane)
        there = part(choose(sums < 0, sums, 0), 0, 1)
        residual, other, times = beside
        return get(x, residual, other, times, start, there, size, each)

    return value


def _adding(form: Form, larger: bool):
    """(v, exchange, turn) -> the sums over the team, in an order that depends only on the form."""
    beside, across = form.beside, form.team * form.beside
    warps = form.threads // WARP
    end, spans = min(across, WARP), across > WARP

    @device
    def total(v, exchange, turn):
        v = larger_over_threads(v, beside, end) if larger else sum_over_threads(v, beside, end)
        if spans:
            each = lanes_of(v)
            slot = (turn & 1) * warps * beside * each
            lane = cuda.threadIdx.x & 31
            if lane < beside:
                put(exchange, slot + ((cuda.threadIdx.x >> 5) * beside + lane) * each, v)
            cuda.syncthreads()
            here = slot + (cuda.threadIdx.x & (beside - 1)) * each
            v = get_like(exchange, here, v)
            for warp in range(1, warps):
                other = get_like(exchange, here + warp * beside * each, v)
                v = fold_larger(join(v, other), v) if larger else v + other
        return v

    return total


@cache
def total(form: Form):
    """(v, exchange, turn) -> the sums over the team; `turn` counts the calls within a kernel."""
    return _adding(form, False)


@cache
def total_larger(form: Form):
    """(v, exchange, turn) -> the largest values over the team."""
    return _adding(form, True)
