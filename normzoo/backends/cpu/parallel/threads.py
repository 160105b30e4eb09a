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

from normzoo.backends import PROCESS
from normzoo.backends.cpu.numba_internals.optional import threads_are_started
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
    return 0 if forked and threads_are_started() else os.getpid()


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


_waking_of = lru_cache(maxsize=64)(_Waking)


def guarded(kernel: Callable[..., Any], values: float = math.inf) -> Callable[..., Any]:
    """A kernel that runs on Numba's threads where it may, else on the caller's alone, whatever pool it is given; alone,
    too, where it works on fewer values than threads are worth waking for."""
    if os.getpid() != _process:
        return kernel
    count = numba.get_num_threads()  # lets Numba choose its layer, for as long as the process lives
    threads = pool()
    run = _one_by_one(kernel) if numba.threading_layer() == "workqueue" else kernel
    waking_them = _waking_of(count)
    # How long it takes one thread: what the number of values says, until it was called again, and timed. A single call
    # tells nothing that the next could use.
    seconds, calls = values / ASSUMED_SPEED, TIMED_CALLS + 1 if values >= ALWAYS_SHARED else 0

    def call(_: int, *arguments: Any) -> None:
        nonlocal seconds, calls
        alone = os.getpid() != _process or mode.alone
        if calls <= TIMED_CALLS:
            calls += 1
            if calls > 1:
                start = perf_counter()
                kernel(ALONE, *arguments)
                taken = perf_counter() - start
                seconds = taken if calls == 2 else min(seconds, taken)
                return
        if not alone and values < ALWAYS_SHARED and seconds < waking_them.least:
            alone = not waking_them.is_worth(seconds)
        if alone:
            kernel(ALONE, *arguments)
        else:
            run(threads, *arguments)

    return call


def _one_by_one(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """A kernel of which the threads of a workqueue run one at a time, and none within another loop."""

    def run(threads: int, *arguments: Any) -> None:
        if _in_a_loop():
            kernel(ALONE, *arguments)
            return
        with _one_at_a_time:
            kernel(threads, *arguments)

    return run


def _in_a_loop() -> bool:
    """Is this one of the threads of a loop? They are not started by Python, and it knows them by no name of its own."""
    return isinstance(threading.current_thread(), threading._DummyThread)
