"""Statistics of arrays too large for memory: in blocks, or by Dask on the workers that hold the chunks."""

from typing import Any

import numpy as np

from normzoo.backends.contract import Array
from normzoo.passes.arrays import check_array
from normzoo.passes.formulas import Axis
from normzoo.statistics.counted import reduced
from normzoo.statistics.stats import ALL_NAMES, Stats

RECORD = np.dtype([("count", np.int64), ("mean", np.float64), ("m2", np.float64), ("unit", np.float64)])


def stats_of(x: Any, axis: Axis | None = None, *, split_every: int = 8) -> Stats:
    """`Stats` of x over `axis`, for data of any size.

    A NumPy array or memory map is read once, in blocks of about a million values. A Dask array is reduced by Dask, on
    its own scheduler and workers: one `Stats` per chunk, merged in a tree whose shape depends only on the chunks. So
    the result is bit-identical for any number of workers and threads.

    Args:
        x: numbers, as `Stats.of` takes them: NumPy, a memory map, a frame; or floats of Dask
            (pip install "dask[array]").
        axis: an axis or several; None means all.
        split_every: number of chunks merged at a time, for Dask.

    Raises:
        TypeError: x holds no real numbers. ValueError: `axis` is not an axis of x.

    >>> import numpy as np, normzoo as nz
    >>> stats = nz.stats_of(np.float32([[1, 10], [3, 30]]), axis=0)
    >>> stats.mean, stats.var()
    (array([ 2., 20.]), array([  1., 100.]))
    """
    if hasattr(x, "dask") and hasattr(x, "chunks"):
        return _of_dask(x, axis, split_every)
    return Stats.of(x, axis)


def _of_dask(x: Any, axis: Axis | None, split_every: int) -> Stats:
    from dask.array import reduction  # noqa: PLC0415 (optional)

    check_array("stats_of", "x", x._meta)
    found = reduction(
        x,
        chunk=_chunk,
        combine=_combine,
        aggregate=_aggregate,
        axis=reduced(x.ndim, axis),
        dtype=RECORD,
        split_every=split_every,
        meta=np.empty((0,) * x.ndim, RECORD),
    ).compute()
    return Stats(*(np.array(found[name]) for name in ALL_NAMES))


def _chunk(x: Array, axis: tuple[int, ...], keepdims: bool, **_: Any) -> Array:
    """Records of the sets of one chunk; reduced axes have size 1."""
    return _recorded(Stats.of(x, axis), axis)


def _combine(records: Array, axis: tuple[int, ...], keepdims: bool = True, **_: Any) -> Array:
    """Records of several chunks, merged in the order of the chunks."""
    return _recorded(_merged(records, axis), axis)


def _aggregate(records: Array, axis: tuple[int, ...], keepdims: bool, **_: Any) -> Array:
    return _recorded(_merged(records, axis), axis if keepdims else ())


def _merged(records: Array, axis: tuple[int, ...]) -> Stats:
    first = np.moveaxis(records, axis, range(len(axis)))
    parts = first.reshape(-1, *first.shape[len(axis) :])
    found = Stats.empty(parts.shape[1:])
    for part in parts:
        found = found.merge(Stats(*(part[name] for name in ALL_NAMES)))
    return found


def _recorded(stats: Stats, axis: tuple[int, ...]) -> Array:
    records = np.empty(stats.shape, RECORD)
    for name in ALL_NAMES:
        records[name] = getattr(stats, name)
    return np.expand_dims(records, axis)
