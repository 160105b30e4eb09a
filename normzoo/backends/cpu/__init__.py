"""The CPU backend: allocates the workspaces, picks the kernel file, the schedule and serial or parallel code.

Rows or columns, whole sets or split ones: all are chosen by the shape alone, so that the number of threads cannot be
seen in the results.
"""

import numpy as np

from normzoo.backends.contract import Array, Moments
from normzoo.backends.cpu import columns, rows
from normzoo.backends.cpu.lanes import LANES

SERIAL = 32768  # values below which starting the threads costs more than they save
FEW_SETS = 16  # fewer sets than this, each of several chunks, are worked on by all threads together
TASKS = 64  # of the backward: each has its own partial gradients of the parameters
ROWS_PER_TASK = 32  # at least, so that the partial gradients stay small beside dx


def forward(x: Array, weight: Array, bias: Array, moments: Moments, eps: float, y: Array) -> Array:
    b, m, c, n = x.shape
    center, power, parallel = moments.center, moments.power, x.size >= SERIAL
    divisor = 1.0 if moments.total else float(m * n)
    stats = np.empty((3, b, c))
    if n == 1:
        chunks = -(-m // columns.CHUNK)
        part = np.empty((b, chunks, 2, c))
        if chunks == 1:
            kernel = columns.forward_whole(center, power, weight.shape[1] > 1, parallel)
            kernel(x, weight, bias, y, part, stats, divisor, eps, moments.clamp)
            return stats
        columns.moments_split(center, power, parallel)(x, part, stats, divisor, eps, moments.clamp)
    else:
        chunks = rows.chunking.py_func(m, n)[2]
        if chunks == 1 or b * c >= FEW_SETS:
            kernel = rows.forward_whole(center, power, weight.shape[3] > 1, parallel)
            kernel(x, weight, bias, y, stats, divisor, eps, moments.clamp)
            return stats
        part = np.empty((b, c, chunks, 3))
        rows.moments_split(center, power, parallel)(x, part, stats, divisor, eps, moments.clamp)
    apply(x, stats, weight, bias, y)
    return stats


def apply(x: Array, stats: Array, weight: Array, bias: Array, y: Array) -> None:
    parallel = x.size >= SERIAL
    if x.shape[3] == 1:
        columns.apply(weight.shape[1] > 1, parallel)(x, weight, bias, y, stats)
    else:
        rows.apply(weight.shape[3] > 1, parallel)(x, weight, bias, y, stats)


def backward(
    dy: Array, x: Array, stats: Array, weight: Array, moments: Moments, eps: float, dx: Array
) -> tuple[Array, Array]:
    _, m, _, n = x.shape
    divisor = 1.0 if moments.total else float(m * n)
    limit = 1.0 / eps if moments.clamp and eps > 0 else np.inf
    step = _columns_backward if n == 1 else _rows_backward
    return step(dy, x, stats, weight, moments, divisor, limit, dx)


def _rows_backward(dy, x, stats, weight, moments, divisor, limit, dx):
    b, m, c, n = x.shape
    pb, pm, pc, pn = weight.shape
    flags = moments.center, moments.power, pn > 1, x.size >= SERIAL
    _, pieces, chunks = rows.chunking.py_func(m, n)
    if chunks == 1 or b * c >= FEW_SETS:
        repeats, width = _tasks(b // pb, pb, c, pc == 1, ROWS_PER_TASK if pn > 1 else 1)
        dweight, dbias = np.zeros((2, -(-b // (pb * repeats)), pb, -(-c // width), 1, pm, 1, pn))
        rows.backward_whole(*flags)(dy, x, weight, stats, dx, dweight, dbias, repeats, width, divisor, limit)
    else:
        slabs = chunks if pm == 1 < m else 1 if pn > 1 else pieces
        dweight, dbias = np.zeros((2, 1, pb, c, slabs, pm, 1, pn))
        part = np.empty((b, c, chunks, 3))
        rows.backward_split(*flags)(dy, x, weight, stats, dx, dweight, dbias, part, divisor, limit)
    return _fold(dweight, c, pc), _fold(dbias, c, pc)


def _columns_backward(dy, x, stats, weight, moments, divisor, limit, dx):
    b, m, c, _ = x.shape
    pb, pm, pc, _ = weight.shape
    spans_m = pm > 1
    flags = moments.center, moments.power, spans_m, x.size >= SERIAL
    chunks = -(-m // columns.CHUNK)
    part = np.empty((b, chunks, 3, c))
    factors = np.empty((b, 3, c))
    if chunks == 1:
        repeats, kept = _tasks(b // pb, pb, -(-c // LANES), True, 1)
    else:
        repeats, kept = b // pb, max(1, columns.TILE // (LANES * columns.CHUNK))
    kept *= LANES
    lanes = kept if pc > 1 else LANES
    shape = (-(-b // (pb * repeats)), pb, -(-c // kept), 1, pm, lanes, 1) if spans_m else (1,) * 7
    dweight, dbias = np.zeros((2, *shape))
    if chunks == 1:
        kernel = columns.backward_whole(*flags)
        kernel(dy, x, weight, stats, dx, dweight, dbias, part, factors, kept, repeats, divisor, limit)
    else:
        kernel = columns.backward_split(*flags)
        kernel(dy, x, weight, stats, dx, dweight, dbias, part, factors, kept, divisor, limit)
    if not spans_m:  # the columns' sums are the gradients
        sums = part.sum(axis=1).reshape(b // pb, pb, 3, c).sum(axis=0)
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
