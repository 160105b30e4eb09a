"""Records that the kernels of columns pass to their parts, besides those of all kernels."""

from typing import Any, NamedTuple


class View(NamedTuple):
    """How x is processed as columns, see `columns_walk.view_of`."""

    b: Any
    rows: Any
    columns: Any
    n: Any  # adjacent columns of one set
    own: Any  # columns of x itself; the others repeat them, `together` times in all
    values: Any  # values per sample
    together: Any  # rows side by side


class Region(NamedTuple):
    """The rows [top, end) of the columns [first, last) of sample b; a tile has all rows."""

    b: Any
    top: Any
    end: Any
    first: Any
    last: Any


class Strip(NamedTuple):
    """`rows` rows from `row` on, of `left` columns from j on; `full`: known when compiling, `left` is LANES."""

    b: Any
    row: Any
    rows: Any
    j: Any
    left: Any
    full: Any


class Planes(NamedTuple):
    """Planes of a workspace with one number per column: they are `step` apart; that of column 0 would be at `at`."""

    values: Any
    at: Any
    step: Any


class Derived(NamedTuple):
    """Planes of a backward pass for each column: `Planes`, or the workspaces with the planes of all samples."""

    part: Any  # SUMS per group, in float64
    forms: Any  # FORMS
    taken: Any  # TAKEN
