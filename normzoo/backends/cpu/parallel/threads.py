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
from time import perf_counter
from typing import Any

import numba
from numba.np.ufunc import parallel

from normzoo.backends import PROCESS
from normzoo.backends.cpu.parallel.sharing import ALONE, pool, waking
from normzoo.backends.cpu.schedule import ALWAYS_SHARED, ASSUMED_SPEED, TIMED_CALLS
from normzoo.backends.subnormals import mode

_one_at_a_time = threading.Lock()  # loops on a workqueue


def _owner() -> int:
    """The process that may run loops on threads: this one, unless Numba's threads are already there and are those of
    the parent that this one is a fork of (then 0). Of a bare os.fork before the library was imported nothing is
    known."""
    spawned = getattr(sys.modules["__main__"], "__name__", "") == "__mp_main__"
    forked = os.getpid() != PROCESS or (parent_process() is not None and not spawned)
    return 0 if forked and parallel._is_initialized else os.getpid()


_process = _owner()


class _Waking:
    """Whether so many threads save more time than it takes to wake them.

    One measurement on a busy machine would decide for as long as the process lives: it is taken again, less and less
    often, while the answer is no, and the least counts.
    """

    def __init__(self, count: int) -> None:
        self.count, self.least, self.asked, self.next = count, math.inf, 0, 1

    def is_worth(self, seconds: float) -> bool:
        """For what takes one thread so long?"""
        if seconds < self.least and not _in_a_loop():
            self.asked += 1
            if self.asked >= self.next:
                self.next = 16 * self.asked
                with _one_at_a_time:
                    self.least = min(self.least, waking(self.count) * self.count / max(self.count - 1, 1))
        return seconds >= self.least


class _Alone:
    """How long a kernel takes one thread: what its number of values says, until it is called again: then it is timed.
    A single call tells nothing that the next could use."""

    def __init__(self, values: float) -> None:
        self.seconds, self.calls = values / ASSUMED_SPEED, 0

    def times(self) -> bool:
        """Is this a call to be timed?"""
        self.calls += 1
        return 1 < self.calls <= 1 + TIMED_CALLS

    def take(self, seconds: float) -> None:
        self.seconds = seconds if self.calls == 2 else min(self.seconds, seconds)


_waking_of = lru_cache(maxsize=64)(_Waking)


def guarded(kernel: Callable[..., Any], values: float = math.inf) -> Callable[..., Any]:
    """A kernel that runs on Numba's threads where it may, else on the caller's alone, whatever pool it is given; alone,
    too, where it works on fewer values than threads are worth waking for."""
    if os.getpid() != _process:
        return kernel
    count = numba.get_num_threads()  # lets Numba choose its layer, for as long as the process lives
    threads = pool()

    def call(_: int, *arguments: Any) -> None:
        kernel(threads if os.getpid() == _process and not mode.alone else ALONE, *arguments)

    def call_one_at_a_time(_: int, *arguments: Any) -> None:
        if os.getpid() != _process or mode.alone or _in_a_loop():
            kernel(ALONE, *arguments)
            return
        with _one_at_a_time:
            kernel(threads, *arguments)

    chosen = call_one_at_a_time if numba.threading_layer() == "workqueue" else call
    if values >= ALWAYS_SHARED:
        return chosen
    waking_them, alone = _waking_of(count), _Alone(values)

    def call_where_worth(_: int, *arguments: Any) -> None:
        if alone.calls <= TIMED_CALLS and alone.times():
            start = perf_counter()
            kernel(ALONE, *arguments)
            alone.take(perf_counter() - start)
            return
        worth = os.getpid() == _process and waking_them.is_worth(alone.seconds)
        (chosen if worth else kernel)(ALONE, *arguments)

    return call_where_worth


def _in_a_loop() -> bool:
    """Is this one of the threads of a loop? They are not started by Python, and it knows them by no name of its own."""
    return isinstance(threading.current_thread(), threading._DummyThread)
