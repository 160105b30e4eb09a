"""The choice of the kernel for a view, by its shape alone: for calls from Python (`code.py`) and from compiled code.

The choice between rows, columns and sets of few values changes the bits of results. Whether one thread processes a
whole set does not, and is decided in `code.py`.
"""

from normzoo.backends.contract import Dims
from normzoo.backends.cpu.kernels.rows_walk import EACH, ONE, RUNS
from normzoo.backends.cpu.schedule import (
    FEW_APART,
    FEW_BACK,
    FEW_COLUMN,
    FEW_EACH,
    FEW_EACH_BACK,
    FEW_FORWARD,
    FEW_GIVEN,
    FEW_SAMPLE,
    FEW_SAMPLE_COLUMN,
    FOLDED_RUN,
    FOLDED_RUNS,
    FOLDED_TILE,
    NEIGHBOUR_RUN,
    NEIGHBOUR_SET,
    NEIGHBOUR_SHARED,
    STRIP,
)
from normzoo.backends.cpu.vector.lanes import LANES

FORWARD, APPLY, BACKWARD = range(3)  # the pass
ROWS, COLUMNS, FEW = 0, 3, 6  # results of `choice`; to the first two ONE, EACH or RUNS is added


def choice(dims: Dims, parameter_dims: Dims, which: int, constant: bool, computes_float32: bool) -> int:
    """The kernel of a pass; `constant`: the pass uses given statistics."""
    if which == APPLY and is_by_runs(dims, parameter_dims):
        return ROWS + ONE
    by_column = is_columns(dims, which == BACKWARD)
    if computes_float32 and is_few(dims, parameter_dims, which) and not (constant and by_column):
        return FEW
    return (COLUMNS if by_column else ROWS) + spans_of(dims, by_column, parameter_dims, which == BACKWARD)


def is_by_column(chosen: int) -> tuple[bool, int]:
    """For a choice other than FEW: is it columns, and how do parameters vary?"""
    return chosen >= COLUMNS, chosen % COLUMNS


def is_by_runs(dims: Dims, parameter_dims: Dims) -> bool:
    """Is y of given statistics made run by run, with a table of what each set is multiplied by? Where there are many
    runs shorter than the lanes, that is slower than columns."""
    b, m, c, n = dims
    pb, pm, _, pn = parameter_dims
    if n == 1 or pm > 1 or pn > 1 or (n < LANES and m >= STRIP):
        return False
    return c > 1 or (m == 1 and (pb == b or pb == 1))


def is_few(dims: Dims, parameter_dims: Dims, which: int) -> bool:
    """Has a set few values, so that `few.py` processes it? Those kernels only compute float32."""
    _, m, c, n = dims
    if which == APPLY:
        return m * n <= FEW_GIVEN
    if n == 1 and m > 1 and c > 1:
        return m <= FEW_COLUMN or (m <= FEW_SAMPLE_COLUMN and m * c <= FEW_SAMPLE)
    if has_each(dims, parameter_dims):
        most = FEW_EACH_BACK if which == BACKWARD else FEW_EACH
    else:
        most = FEW_BACK if which == BACKWARD else FEW_FORWARD
    return m * n <= most or (m * n <= FEW_APART and n < LANES and m > 1 and c > 1)


def has_each(dims: Dims, parameter_dims: Dims) -> bool:
    """Has each value of a set its own parameters?"""
    return parameter_dims[1] * parameter_dims[3] == dims[1] * dims[3]


def is_columns(dims: Dims, gradients: bool = False) -> bool:
    """Do the column kernels process this view? They also process runs that are too short for the lanes, if these are
    not adjacent and if there are enough of them for the work per column and, in a backward pass, not so many that a
    tile of LANES sets is too large. Adjacent runs are summed as one by rows.py."""
    _, m, c, n = dims
    if n == 1:
        return True
    if gradients and min(c, LANES) * n > FOLDED_TILE:
        return False
    return n < FOLDED_RUN and n < FOLDED_RUNS * m and m >= STRIP and c > 1


def spans_of(dims: Dims, by_column: bool, parameter_dims: Dims, gradients: bool = False) -> int:
    """Do the parameters vary along the axis that a kernel cannot take them out of: n of rows, m of columns? Or are runs
    that lie side by side too short to be worked on one by one?"""
    b, m, c, n = dims
    pb, pm, _, pn = parameter_dims
    is_shared = n < NEIGHBOUR_RUN and n * n <= NEIGHBOUR_SHARED * (b // pb)
    is_short = n < LANES or (gradients and is_shared and m * n <= NEIGHBOUR_SET)
    if not by_column and c == 1 and m > 1 and (pm > 1 or pn > 1) and is_short:
        return RUNS
    return EACH if (pm if by_column else pn) > 1 else ONE
