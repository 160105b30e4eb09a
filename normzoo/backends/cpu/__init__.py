"""The CPU backend: allocates the workspaces, picks the kernel file, the schedule and serial or parallel code.

Rows or columns, whole sets or split ones: all are chosen by the shape of a set, so that neither the number of threads
nor the number of sets can be seen in the statistics.
"""

import numpy as np

from normzoo.backends.contract import Apply, Array, Backward, Dims, Forward, Moments
from normzoo.backends.cpu import columns, columns_split, rows, rows_split, running
from normzoo.backends.cpu.lanes import LANES

SERIAL = 32768  # values below which starting the threads costs more than they save
FEW_SETS = 16  # fewer sets than this, each of several chunks, are worked on by all threads together
SHORT = 64  # runs below this are folded columns, where there are several
HIGH = 2048  # rows: a tile of higher columns would be narrow, or leave the cache between its two readings
WIDE = 1024  # columns of a task that sums high ones
TINY = 2  # values of a set whose gradient is a difference of almost equal terms
TASKS = 64  # of the backward: each has its own partial gradients of the parameters
ROWS_PER_TASK = 32  # at least, so that the partial gradients stay small beside dx


def forward(dims: Dims, parameter_dims: Dims, moments: Moments, dtype: np.dtype, store: np.dtype) -> Forward:
    def run(x: Array, weight: Array, bias: Array, eps: float, y: Array) -> Array:
        weight, bias = (_own(p.reshape(parameter_dims)) for p in (weight, bias))
        return _forward(_own(x.reshape(dims)), weight, bias, moments, eps, y.reshape(dims))

    return run


def apply(dims: Dims, parameter_dims: Dims, dtype: np.dtype, store: np.dtype) -> Apply:
    def run(x: Array, stats: Array, weight: Array, bias: Array, y: Array) -> None:
        weight, bias = (_own(p.reshape(parameter_dims)) for p in (weight, bias))
        _apply(_own(x.reshape(dims)), stats, weight, bias, y.reshape(dims))

    return run


def backward(dims: Dims, parameter_dims: Dims, moments: Moments, dtype: np.dtype, store: np.dtype) -> Backward:
    def run(
        dy: Array, x: Array, stats: Array, weight: Array, eps: float, dx: Array, dweight: Array, dbias: Array
    ) -> None:
        dy, x, w = _own(dy.reshape(dims)), _own(x.reshape(dims)), _own(weight.reshape(parameter_dims))
        with np.errstate(all="ignore"):
            found = _backward(dy, x, stats, w, moments, eps, dx.reshape(dims))
            for target, values in zip((dweight, dbias), found, strict=True):
                target.reshape(parameter_dims)[...] = values

    return run


def update(running_mean: Array, running_var: Array, stats: Array, count: int, momentum: float) -> None:
    running.update()(running_mean, running_var, stats, count, momentum)


def constants(mean: Array, variance: Array, eps: float, stats: Array) -> None:
    running.constants()(mean, variance, eps, stats)


def _own(a: Array) -> Array:
    """a, or a copy of a read-only array: Numba compiles anew for these."""
    return a if a.flags.writeable else a.copy()


def _forward(x: Array, weight: Array, bias: Array, moments: Moments, eps: float, y: Array) -> Array:
    b, m, c, n = x.shape
    x, y = stored(x), stored(y)
    center, power, parallel = moments.center, moments.power, x.size >= SERIAL
    divisor = 1.0 if moments.total else float(m * n)
    stats = np.empty((3, b, c))
    if is_columns(x.shape):
        weight, bias = (column_parameter(p, c, n) for p in (weight, bias))
        x, y = as_columns(x), as_columns(y)
        chunks = -(-m // columns.CHUNK)
        part, affine = np.empty((b, chunks, 2, c * n)), np.empty((4, b, c * n), weight.dtype)
        if m <= HIGH:
            kernel = columns.forward(center, power, weight.shape[1] > 1, parallel)
            kernel(x, weight, bias, y, part, affine, stats, divisor, eps, moments.clamp)
        else:
            columns_split.moments(center, power, parallel)(x, part, affine, stats, divisor, eps, moments.clamp)
            columns_split.apply(weight.shape[1] > 1, parallel)(x, weight, bias, y, affine, stats)
        return stats
    spans_n = weight.shape[3] > 1
    chunks = rows.chunking.py_func(m, n)[2]
    if chunks == 1 or b * c >= FEW_SETS:
        rows.forward(center, power, spans_n, parallel)(x, weight, bias, y, stats, divisor, eps, moments.clamp)
    else:
        part = np.empty((b, c, chunks, 3))
        rows_split.moments(center, power, parallel)(x, part, stats, divisor, eps, moments.clamp)
        rows_split.apply(spans_n, parallel)(x, weight, bias, y, stats)
    return stats


def _apply(x: Array, stats: Array, weight: Array, bias: Array, y: Array) -> None:
    x, y = stored(x), stored(y)
    parallel = x.size >= SERIAL
    if is_columns(x.shape):
        weight, bias = (column_parameter(p, *x.shape[2:]) for p in (weight, bias))
        x, y = as_columns(x), as_columns(y)
        affine = np.empty((4, x.shape[0], x.shape[2]), weight.dtype)
        columns_split.apply(weight.shape[1] > 1, parallel)(x, weight, bias, y, affine, stats)
    else:
        rows_split.apply(weight.shape[3] > 1, parallel)(x, weight, bias, y, stats)


def _backward(
    dy: Array, x: Array, stats: Array, weight: Array, moments: Moments, eps: float, dx: Array
) -> tuple[Array, Array]:
    _, m, c, n = x.shape
    k = float(m * n)
    divisor = 1.0 if moments.total else k
    limit = 1.0 / eps if moments.clamp and eps > 0 else np.inf
    if k <= TINY and x.dtype != np.float64:  # 1 - xhat^2 is almost 0: nothing of float32 would be left of dx
        dy, x, weight, exact = (a.astype(np.float64) for a in (dy, x, weight, dx))
        found = _backward(dy, x, stats, weight, moments, eps, exact)
        dx[...] = exact
        return found
    dy, x, dx = stored(dy), stored(x), stored(dx)
    if not is_columns(x.shape):
        return _rows_backward(dy, x, stats, weight, moments, divisor, limit, dx)
    pb, pm, pc, pn = weight.shape
    dy, x, dx, w = as_columns(dy), as_columns(x), as_columns(dx), column_parameter(weight, c, n)
    found = _columns_backward(dy, x, stats, w, moments, k, divisor, limit, dx)
    # A parameter that was repeated along the columns of a run, or of all sets, has the sum of their gradients.
    if w.shape[2] == 1:
        return found
    unfolded = [d.reshape(pb, pm, c, n) for d in found]
    axes = tuple(axis for axis, size in ((2, pc), (3, pn)) if size == 1)
    dweight, dbias = (d.sum(axis=axes).reshape(weight.shape) for d in unfolded)
    return dweight, dbias


def stored(a: Array) -> Array:
    """Sixteen-bit floats as the integers that the kernels know them by; see lanes.py."""
    if a.dtype.itemsize > 2:
        return a
    return a.view(np.int16 if a.dtype == np.float16 else np.uint16)


def is_columns(shape: tuple[int, ...]) -> bool:
    """Do the column kernels take this view? Runs too short for the lanes are columns too, where there are several."""
    _, m, c, n = shape
    return n == 1 or (n < SHORT and m >= columns.STRIP and c * n >= LANES)


def as_columns(a: Array) -> Array:
    """(b, m, c, n) as (b, m, c*n, 1)."""
    return a if a.shape[3] == 1 else a.reshape(*a.shape[:2], -1, 1)


def column_parameter(p: Array, c: int, n: int) -> Array:
    """A parameter that varies along c or n, with a value for every column of `as_columns`."""
    if n == 1 or p.shape[2] == p.shape[3] == 1:
        return p
    return as_columns(np.ascontiguousarray(np.broadcast_to(p, (*p.shape[:2], c, n))))


def _rows_backward(dy, x, stats, weight, moments, divisor, limit, dx):
    b, m, c, n = x.shape
    pb, pm, pc, pn = weight.shape
    flags = moments.center, moments.power, pn > 1, x.size >= SERIAL
    _, pieces, chunks = rows.chunking.py_func(m, n)
    if chunks == 1 or b * c >= FEW_SETS:
        repeats, width = _tasks(b // pb, pb, c, pc == 1, ROWS_PER_TASK if pn > 1 else 1)
        dweight, dbias = np.zeros((2, -(-b // (pb * repeats)), pb, -(-c // width), 1, pm, 1, pn))
        rows.backward(*flags)(dy, x, weight, stats, dx, dweight, dbias, repeats, width, divisor, limit)
    else:
        slabs = chunks if pm == 1 < m else 1 if pn > 1 else pieces
        dweight, dbias = np.zeros((2, 1, pb, c, slabs, pm, 1, pn))
        part = np.empty((b, c, chunks, 3))
        rows_split.backward(*flags)(dy, x, weight, stats, dx, dweight, dbias, part, divisor, limit)
    return _fold(dweight, c, pc), _fold(dbias, c, pc)


def _columns_backward(dy, x, stats, weight, moments, k, divisor, limit, dx):
    b, m, c, _ = x.shape
    pb, pm, pc, _ = weight.shape
    spans_m = pm > 1
    flags = moments.center, moments.power, spans_m, x.size >= SERIAL
    chunks = -(-m // columns.CHUNK)
    part = np.empty((b, chunks, 3, c))
    affine, factors = np.empty((2, 4, b, c), weight.dtype)
    fold = c // stats.shape[2]
    exact = stats if fold == 1 else np.repeat(stats, fold, axis=2)
    unit = columns.unit_of.py_func(fold)
    if m <= HIGH:
        repeats, kept = _tasks(b // pb, pb, -(-c // unit), True, 1)
    else:
        repeats, kept = b // pb, max(1, WIDE // unit)
    kept *= unit
    lanes = kept if pc > 1 else LANES
    shape = (-(-b // (pb * repeats)), pb, -(-c // kept), 1, pm, lanes, 1) if spans_m else (1,) * 7
    dweight, dbias = np.zeros((2, *shape))
    arrays = dy, x, weight, stats, exact, dx, dweight, dbias, part, affine, factors
    if m <= HIGH:
        columns.backward(*flags)(*arrays, kept, repeats, k, divisor, limit)
    else:
        columns_split.backward(*flags)(*arrays, kept, k, divisor, limit)
    if not spans_m:  # the columns' sums are the gradients
        sums = part[:, :, :2].sum(axis=1).reshape(b // pb, pb, 2, c).sum(axis=0)
        if pc == 1:
            sums = sums.sum(axis=2, keepdims=True)
        return sums[:, 1].reshape(weight.shape), sums[:, 0].reshape(weight.shape)
    if pc == 1:
        dweight, dbias = dweight.sum(axis=5, keepdims=True), dbias.sum(axis=5, keepdims=True)
    return _fold(dweight, c, pc), _fold(dbias, c, pc)


def _tasks(repeats: int, pb: int, c: int, grouped: bool, least: int) -> tuple[int, int]:
    """Repeats and columns (one, unless `grouped`) of a backward task, so that about TASKS tasks share the work.

    A task takes at least `least` sets, where there are so many.
    """
    wanted = -(-TASKS // (pb if grouped else pb * c))
    width = 1
    if grouped:
        width = c if repeats >= wanted else min(c, max(c * repeats // wanted, least // repeats, 1))
    return min(repeats, max(least // width, -(-repeats // wanted))), width


def _fold(blocks: Array, c: int, pc: int) -> Array:
    """Add up blocks (R-chunks, pb, c-groups, slabs, pm, kept, n or 1) to (pb, pm, pc, n or 1), in order."""
    blocks = blocks.sum(axis=(0, 3))
    if pc == 1:
        return blocks.sum(axis=1)
    pb, groups, pm, kept, n = blocks.shape
    return blocks.transpose(0, 2, 1, 3, 4).reshape(pb, pm, groups * kept, n)[:, :, :c]
