"""Threads for what NumPy computes, which needs no interpreter meanwhile. There are as many as Numba uses, so that
`numba.set_num_threads` holds for all that this library computes."""

import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count
from typing import Any, TypeVar

import numpy as np

from normzoo.backends.subnormals import mode

Item = TypeVar("Item")
FEW = 1 << 18  # values for which no threads are started
BLOCK = 1 << 15  # values of a block: in float64 a quarter of a megabyte


class _Shared(threading.local):
    at_work = False


_shared = _Shared()  # `_shared.at_work`: this thread is one of several already


def workers(most: int) -> int:
    """How many threads take part, at most `most`; one where others might treat subnormal numbers in another way, and
    where the caller is one of several already."""
    return 1 if mode.alone or _shared.at_work else max(1, min(_count(), most))


def _count() -> int:
    """Numba's number of threads, which are not started for it; nor is Numba imported."""
    numba: Any = sys.modules.get("numba")
    try:
        numba.threading_layer()
        return int(numba.get_num_threads())
    except ValueError:  # they have not been started, so nobody has set their number
        return int(numba.config.NUMBA_NUM_THREADS)
    except AttributeError:  # it is not imported, or not yet as a whole
        return cpu_count() or 1


def on_threads(work: Callable[[Item], object], items: Iterable[Item]) -> None:
    """work(item) of all items, on threads where there are several, the caller's among them; with the caller's
    `np.errstate`, which belongs to a thread."""
    left = deque(items)
    count, state = workers(len(left)), np.geterr()
    if count == 1:
        while left:
            work(left.popleft())
        return

    def take() -> None:
        _shared.at_work = True
        try:
            with np.errstate(**state):
                while True:
                    try:
                        item = left.popleft()  # one step, also without the interpreter's lock
                    except IndexError:
                        return
                    work(item)
        except BaseException:
            left.clear()  # the others end, too
            raise
        finally:
            _shared.at_work = False

    with ThreadPoolExecutor(max_workers=count - 1) as threads:
        others = [threads.submit(take) for _ in range(count - 1)]
        take()
        for other in others:
            other.result()


def in_blocks(work: Callable[[slice], object], rows: int, width: int, values: int = BLOCK) -> None:
    """work(slice) of all rows, in blocks of so many values that they stay in a cache; on threads where rows, of `width`
    values each, are many."""
    step = max(1, values // max(1, width))
    blocks = [slice(i, min(i + step, rows)) for i in range(0, rows, step)]
    if rows * width >= FEW:
        on_threads(work, blocks)
        return
    for block in blocks:
        work(block)
