"""Whether a kernel may run on Numba's threads here and now. Alone it gives the same bits.

GNU OpenMP ends, or stops for ever, a forked child that starts threads after its parent did. The layer "workqueue",
which Numba takes where there is neither TBB nor OpenMP, ends the process where two threads start loops at once, or
where a loop is started from within another.
"""

import math
import os
import sys
import threading
from collections.abc import Callable
from functools import lru_cache
from multiprocessing import parent_process
from typing import Any

import numba
from numba.np.ufunc import parallel

from normzoo.backends import PROCESS
from normzoo.backends.cpu.sharing import ALONE, pool, waking
from normzoo.subnormals import mode

SPEED = 5e9  # values a second that a thread normalizes in its caches
MOST = 1 << 20  # values from which on threads are woken however long it takes
_one_at_a_time = threading.Lock()  # loops on a workqueue


def _owner() -> int:
    """The process that may run loops on threads: this one, unless Numba's threads are already there and are those of
    the parent that this one is a fork of (then 0). Of a bare os.fork before the library was imported nothing is
    known."""
    spawned = getattr(sys.modules["__main__"], "__name__", "") == "__mp_main__"
    forked = os.getpid() != PROCESS or (parent_process() is not None and not spawned)
    return 0 if forked and parallel._is_initialized else os.getpid()


_process = _owner()


@lru_cache(maxsize=64)
def _worth_waking(count: int) -> float:
    """Values from which so many threads save more time than it takes to wake them."""
    with _one_at_a_time:
        return min(waking(count) * SPEED * count / max(count - 1, 1), MOST)


def guarded(kernel: Callable[..., Any], values: float = math.inf) -> Callable[..., Any]:
    """A kernel that runs on Numba's threads where it may, else on the caller's alone, whatever pool it is given; alone,
    too, where it works on fewer values than threads are worth waking for."""
    if os.getpid() != _process:
        return kernel
    count = numba.get_num_threads()  # lets Numba choose its layer, for as long as the process lives
    threads = pool()
    if values < MOST and not _in_a_loop() and values < _worth_waking(count):
        return kernel

    def call(_: int, *arguments: Any) -> None:
        kernel(threads if os.getpid() == _process and not mode.alone else ALONE, *arguments)

    def call_one_at_a_time(_: int, *arguments: Any) -> None:
        if os.getpid() != _process or mode.alone or _in_a_loop():
            kernel(ALONE, *arguments)
            return
        with _one_at_a_time:
            kernel(threads, *arguments)

    return call_one_at_a_time if numba.threading_layer() == "workqueue" else call


def _in_a_loop() -> bool:
    """Is this one of the threads of a loop? They are not started by Python, and it knows them by no name of its own."""
    return isinstance(threading.current_thread(), threading._DummyThread)
