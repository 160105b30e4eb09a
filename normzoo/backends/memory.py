"""Memory of large results, used again.

A fresh array of many megabytes costs as much as the kernel that fills it: the system hands its pages out one fault at
a time. So the memory of a large result goes to a small pool when the last view of it dies, and the next result of
about its size is put there. The pool holds LIMIT bytes at most; `release_memory` empties it.
"""

from collections import deque
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from normzoo.backends.contract import Array

LEAST = 1 << 20  # bytes: smaller arrays come from NumPy's own allocator, which keeps them
LIMIT = 1 << 29  # bytes in the pool
LINE, PAGE = 64, 1 << 21  # results begin at a cache line, large ones at a huge page

_pool: deque[Array] = deque()  # oldest first; appending and popping are atomic


class _Lease:
    """The owner of a result's memory: every view of the result keeps it alive. When the last one dies, the memory goes
    to the pool, and the oldest goes out of it where that is too much."""

    __slots__ = ("__array_interface__", "memory")

    memory: Array
    __array_interface__: dict[str, Any]

    def __del__(self) -> None:
        if _pool is None:  # the interpreter is shutting down
            return
        try:
            _pool.append(self.memory)
            held = 0
            for memory in _pool.copy():  # which is one step for other threads
                held += memory.nbytes
            while held > LIMIT:
                held -= _pool.popleft().nbytes
        except (MemoryError, IndexError):  # IndexError: other threads took what was counted
            _pool.clear()


def empty(shape: tuple[int, ...], dtype: np.dtype) -> Array:
    """`np.empty`, in used memory where the array is large and the pool has some that fits."""
    size = dtype.itemsize * prod(shape)
    if size < LEAST:
        return np.empty(shape, dtype)
    for _ in range(len(_pool)):
        try:
            memory = _pool.pop()
        except IndexError:  # another thread was faster
            memory = _new(size)
            break
        if size <= memory.nbytes <= size + size // 4:
            break
        _pool.appendleft(memory)
    else:
        memory = _new(size)
    lease = _Lease()
    lease.memory = memory
    lease.__array_interface__ = {**memory[:size].__array_interface__, "version": 3}
    return np.asarray(lease).view(dtype).reshape(shape)


def full(shape: tuple[int, ...], dtype: np.dtype, value: float) -> Array:
    """`np.full`."""
    return np.full(shape, value, dtype)


def allocator(shape: tuple[int, ...], dtype: np.dtype) -> Callable[[tuple[int, ...], np.dtype], Array]:
    """What makes an array of this size: `np.empty` itself for a small one, where a call more is a fifth of its time."""
    return np.empty if dtype.itemsize * prod(shape) < LEAST else empty


def release_memory() -> int:
    """Give the memory that is kept for later results back to the system; returns how many bytes it was.

    >>> import normzoo as nz
    >>> _ = nz.release_memory()
    >>> nz.release_memory()
    0
    """
    released = 0
    while _pool:
        try:
            released += _pool.popleft().nbytes
        except IndexError:  # another thread was faster
            break
    return released


def _new(size: int) -> Array:
    """So many bytes of fresh memory."""
    step = PAGE if size >= 4 * PAGE else LINE
    raw = np.empty(size + step, np.uint8)
    start = -raw.__array_interface__["data"][0] % step
    return raw[start : start + size]
