"""What the kernels of columns hand to their parts, beside the records of all kernels."""

from typing import Any, NamedTuple


class View(NamedTuple):
    """How columns walk over x, see `columns_walk.view_of`."""

    b: Any
    rows: Any
    columns: Any
    n: Any  # neighbours that are columns of one set
    own: Any  # columns that x has; the others are these again, `together` times
    values: Any  # of a sample
    together: Any  # rows side by side


class Region(NamedTuple):
    """The rows [top, end) of the columns [first, last) of sample b; a tile has all rows."""

    b: Any
    top: Any
    end: Any
    first: Any
    last: Any


class Strip(NamedTuple):
    """`rows` rows from `row` on, of `left` columns from j on; `full` says at compile time that these are all lanes."""

    b: Any
    row: Any
    rows: Any
    j: Any
    left: Any
    full: Any


class Planes(NamedTuple):
    """Planes of a workspace, one number for each column: `step` apart; that of column 0 is, or would be, at `at`."""

    values: Any
    at: Any
    step: Any


class Derived(NamedTuple):
    """What a backward pass keeps of each column: `Planes`, or the workspaces that have those of all samples."""

    part: Any  # SUMS of each group, in float64
    forms: Any  # FORMS
    taken: Any  # TAKEN
