"""Records that kernels pass to their parts; in compiled code their named fields cost nothing.

Letters are those of `contract.py`: a view has dims (b, m, c, n), its parameters (pb, pm, pc, pn).
"""

from typing import Any, NamedTuple

from normzoo.backends.cpu.compiling.jit import constant


@constant
class Flags(NamedTuple):
    """The properties of a pass that are known when its kernel is compiled."""

    center: bool
    power: int
    spans: bool  # parameters vary along the axis that a kernel cannot take them out of: n of rows, m of columns
    streams: bool  # the result goes past the caches
    steps: Any  # what stands before and behind: see around.py
    folds: bool = False  # y is made by `affine_by`


class Forward(NamedTuple):
    """A pass from x to y, or y alone, by given statistics."""

    dims: Any
    parameter_dims: Any
    x: Any
    weight: Any
    bias: Any
    y: Any
    stats: Any  # (3, b, c) float64: mean, spread, rstd
    beside: Any  # `Before`, or () where nothing stands around the norm


class Moments(NamedTuple):
    """The numbers that turn sums into statistics; all else is known when a kernel is compiled."""

    divisor: Any  # float: values in a set, or 1 for totals
    eps: Any  # float
    clamp: Any  # bool


class Backward(NamedTuple):
    """A pass from dy to dx."""

    dims: Any
    parameter_dims: Any
    dy: Any
    x: Any
    weight: Any
    stats: Any  # as written by `Forward`
    dx: Any
    beside: Any  # `Behind`, or ()


class Before(NamedTuple):
    """Arrays beside those of a pass to y, whose x is s where something comes before the norm."""

    x: Any
    residual: Any
    other: Any
    scale: Any  # float: of the residual


class Behind(NamedTuple):
    """Arrays beside those of a pass to dx, whose dy is that of xhat * weight + bias, and x that of the moments."""

    x: Any
    dy: Any
    bias: Any
    other: Any
    dother: Any
    ds: Any


class Limits(NamedTuple):
    divisor: Any  # as for `Moments`
    limit: Any  # float: rstd of a clamped set, or inf


class Scan(NamedTuple):
    """A pass; dx, and what else there is going back, is in place of y."""

    dims: Any  # (b, t, c, n)
    x: Any
    weight: Any  # (c,)
    result: Any
    stats: Any  # (2, b, t) float64: mean around the shift, and rstd, of each step
    state: Any


class Taken(NamedTuple):
    """What takes steps in."""

    steps: Any  # before the first
    eps: Any


class Positions(NamedTuple):
    """What is known of a pass over the channels of positions; dy and weight are x where there is none."""

    dims: Any  # (b, c, n)
    dy: Any
    x: Any
    weight: Any  # (c,)
    stats: Any  # (3, b, n) float64: mean, spread, rstd; two rows where these are found


class Cells(NamedTuple):
    """A pass. Its lines are pieces of cells or, with channels last, of the rows of one b."""

    dims: Any  # lines' owners (cells, or b), values or rows of each, width of a row (1 along cells)
    cuts: Any  # pieces of an owner, values or rows of a piece, lines of a turn
    arrays: Any  # what is read
    results: Any  # what is written, of the same shape
    numbers: Any  # (owners, k): coefficients that are one number
    lines: Any  # (owners or 1, l, width): the others; `step` apart
    step: Any
    sums: Any  # (lines, s) float64, written: sums that are one number
    planes: Any  # (turns, p, width) float64, zeros at first: the others


class Levels(NamedTuple):
    """A pass over cells less a level of theirs; dx is in place of y going back."""

    dims: Any  # (b, n, c)
    width: Any  # columns of a turn, or cells
    x: Any
    maps: Any  # (n, c) or (c, n), as one b of x; x where there are none
    weight: Any  # (c,)
    result: Any
    stats: Any  # (3, b, c) float64: level, deviation, sum of what is left
    limits: Any  # divisor, eps, the least deviation and the most that a number may be


class Lines(NamedTuple):
    """A pass; dx is in place of y going back."""

    dims: Any  # (b, t, n)
    x: Any
    numbers: Any  # (k, n) float64
    result: Any
    states: Any  # (turns, blocks, 2, 16) float64
    rate: Any
    eps: Any


class Largest(NamedTuple):
    """A search for the values furthest from their channel's center."""

    dims: Any  # (b, c, n)
    parts: Any  # of a channel or, with channels last, of the rows
    k: Any  # how many are wanted of each channel
    x: Any
    center: Any  # (c,) float64
    far: Any  # (turns, k), or (parts, c, k), float64: heaps, -1 at first
    places: Any  # likewise int64
