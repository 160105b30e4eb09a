"""The decision whether a kernel may use Numba's threads here and now. On one thread it gives the same bits.

With GNU OpenMP, a forked child that starts threads after its parent did crashes or hangs. The layer "workqueue", which
Numba uses if there is neither TBB nor OpenMP, ends the process if two threads start loops at the same time, or if a
loop is started inside another.
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
    """The process that may run loops on threads: this one, unless Numba's threads were started in the parent that this
    process was forked from (then 0). A bare os.fork before the library was imported cannot be detected."""
    spawned = getattr(sys.modules["__main__"], "__name__", "") == "__mp_main__"
    forked = os.getpid() != PROCESS or (parent_process() is not None and not spawned)
    return 0 if forked and threads_are_started() else os.getpid()


_process = _owner()


class _Waking:
    """Whether using `count` threads saves more time than it takes to wake them.

    A single measurement on a busy machine would decide for the lifetime of the process. So it is repeated, at growing
    intervals, while the answer is no, and the minimum is used.
    """

    def __init__(self, count: int) -> None:
        self.count, self.least, self.asked, self.next = count, math.inf, 0, 1

    def is_worth(self, seconds: float) -> bool:
        """Is it, for work that takes one thread so many seconds?"""
        if seconds < self.least and not _in_a_loop():
            self.asked += 1
            if self.asked >= self.next:
                self.next = 16 * self.asked
                with _one_at_a_time:
                    self.least = min(self.least, waking(self.count) * self.count / max(self.count - 1, 1))
        return seconds >= self.least


_waking_of = lru_cache(maxsize=64)(_Waking)


def guarded(kernel: Callable[..., Any], values: float = math.inf) -> Callable[..., Any]:
    """A kernel that uses Numba's threads if it may, and otherwise only the caller's, whatever pool it is passed. It
    uses one thread, too, if it processes too few values to be worth waking threads."""
    if os.getpid() != _process:
        return kernel
    count = numba.get_num_threads()  # also makes Numba choose its threading layer, for the lifetime of the process
    threads = pool()
    run = _one_by_one(kernel) if numba.threading_layer() == "workqueue" else kernel
    waking_them = _waking_of(count)
    # The time on one thread: estimated from the number of values until repeated calls were timed. The first call is not
    # timed, as it is not representative.
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
    """A kernel that threads of a workqueue run one at a time, and never inside another loop."""

    def run(threads: int, *arguments: Any) -> None:
        if _in_a_loop():
            kernel(ALONE, *arguments)
            return
        with _one_at_a_time:
            kernel(threads, *arguments)

    return run


def _in_a_loop() -> bool:
    """Is this a thread of a loop? Python did not start those, and so knows them only as dummy threads."""
    return isinstance(threading.current_thread(), threading._DummyThread)
