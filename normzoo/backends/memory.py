"""Reuse of the memory of large results.

A fresh array of many megabytes costs as much as the kernel that fills it, because the operating system maps its pages
one page fault at a time. Therefore the memory of a large result goes into a small pool when its last view dies, and the
next result of about the same size reuses it. The pool holds at most LIMIT bytes; `release_memory` empties it. Of a
larger result, so many bytes are kept where the system can make memory shorter and longer: the next such result has
fresh pages behind them only.
"""

from collections import deque
from collections.abc import Callable
from math import prod
from mmap import mmap
from typing import Any

import numpy as np

from normzoo.backends.contract import Array
from normzoo.environment.system import resizable, resize

LEAST = 1 << 20  # bytes: smaller arrays come from NumPy's own allocator, which caches them
LIMIT = 1 << 29  # bytes: capacity of the pool
LINE, PAGE = 64, 1 << 21  # bytes: results are aligned to a cache line, large ones to a huge page

Memory = Array | mmap  # of bytes; what `resizable` gives where a result is larger than LIMIT
_pool: deque[Memory] = deque()  # oldest first; appending and popping are atomic


class _Lease:
    """Owner of a result's memory: every view of the result keeps it alive. When the last view dies, the memory goes
    into the pool; if the pool then exceeds LIMIT, its oldest entries are dropped."""

    __slots__ = ("__array_interface__", "memory")

    memory: Memory
    __array_interface__: dict[str, Any]

    def __del__(self) -> None:
        if _pool is None:  # the interpreter is shutting down
            return
        try:
            if len(self.memory) > LIMIT and not resize(self.memory, LIMIT):
                return
            _pool.append(self.memory)
            held = 0
            for memory in _pool.copy():  # the copy is atomic for other threads
                held += len(memory)
            while held > LIMIT:
                held -= len(_pool.popleft())
        except (MemoryError, IndexError):  # IndexError: other threads emptied the pool meanwhile
            _pool.clear()


def empty(shape: tuple[int, ...], dtype: np.dtype) -> Array:
    """`np.empty`; a large array reuses memory from the pool if a piece there fits."""
    size = dtype.itemsize * prod(shape)
    if size < LEAST:
        return np.empty(shape, dtype)
    for _ in range(len(_pool)):
        try:
            memory = _pool.pop()
        except IndexError:  # another thread was faster
            memory = _new(size)
            break
        start = _before(memory) if isinstance(memory, mmap) else 0
        if size <= len(memory) - start <= size + size // 4:
            break
        if size > LIMIT and resize(memory, _rounded(size)):
            break
        _pool.appendleft(memory)
    else:
        memory = _new(size)
    lease = _Lease()
    lease.memory, start = memory, _before(memory) if isinstance(memory, mmap) else 0
    lease.__array_interface__ = {
        **np.frombuffer(memory, np.uint8)[start : start + size].__array_interface__,
        "version": 3,
    }
    return np.asarray(lease).view(dtype).reshape(shape)


def full(shape: tuple[int, ...], dtype: np.dtype, value: float) -> Array:
    """`np.full`."""
    return np.full(shape, value, dtype)


def allocator(shape: tuple[int, ...], dtype: np.dtype) -> Callable[[tuple[int, ...], np.dtype], Array]:
    """The fastest allocation function for this size: `np.empty` itself for a small array, where one more call would
    cost a fifth of the time."""
    return np.empty if dtype.itemsize * prod(shape) < LEAST else empty


def release_memory() -> int:
    """Return the memory kept for later results to the system. Returns the number of bytes released.

    >>> import normzoo as nz
    >>> _ = nz.release_memory()
    >>> nz.release_memory()
    0
    """
    released = 0
    while _pool:
        try:
            released += len(_pool.popleft())
        except IndexError:  # another thread was faster
            break
    return released


def _new(size: int) -> Memory:
    """`size` bytes of fresh, aligned memory."""
    if size > LIMIT:
        memory = resizable(_rounded(size))
        if memory is not None:
            return memory
    step = PAGE if size >= 4 * PAGE else LINE
    raw = np.empty(size + step, np.uint8)
    start = -raw.__array_interface__["data"][0] % step
    return raw[start : start + size]


def _rounded(size: int) -> int:
    """Whole huge pages, of which the first may begin anywhere."""
    return -(-size // PAGE) * PAGE + PAGE


def _before(memory: mmap) -> int:
    """Bytes before the first huge page of memory that may have moved; other memory is aligned."""
    found: int = -np.frombuffer(memory, np.uint8).__array_interface__["data"][0] % PAGE
    return found
