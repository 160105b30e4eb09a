"""What kernels hand to their parts: records of named fields, which compiled code takes apart for nothing.

Letters are those of `contract.py`: a view has dims (b, m, c, n), its parameters (pb, pm, pc, pn).
"""

from typing import Any, NamedTuple


class Flags(NamedTuple):
    """What is known of a pass when its kernel is compiled."""

    center: bool
    power: int
    spans: bool  # parameters vary along the axis that a kernel cannot take them out of: n of rows, m of columns
    streams: bool  # the result goes past the caches
    folds: bool = False  # y is made by `affine_by`


class Forward(NamedTuple):
    """A pass from x to y; or y alone, of given statistics."""

    dims: Any
    parameter_dims: Any
    x: Any
    weight: Any
    bias: Any
    y: Any
    stats: Any  # (3, b, c) float64: mean, spread, rstd


class Moments(NamedTuple):
    """What makes statistics of sums; the rest is known when a kernel is compiled."""

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
    stats: Any  # as `Forward` left them
    dx: Any


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
