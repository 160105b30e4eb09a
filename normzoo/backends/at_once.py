"""Several steps as one, for other threads, signals and forks: a call that runs C functions one behind the other.

Between these Python looks for no signal and lets no other thread run, nor fork; so there is no lock that could stay
held.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import chain, filterfalse, starmap
from operator import setitem
from typing import Any

has_gil: Callable[[], bool] = getattr(sys, "_is_gil_enabled", lambda: True)
put: Callable[..., None] = setitem

# Without the interpreter's lock, steps take this one in C as well. It is held for the copying alone: nothing that runs
# meanwhile can be interrupted, ask for it again, or raise.
_lock = threading.Lock()
if not has_gil() and hasattr(os, "register_at_fork"):  # no fork in the middle of a step
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


def _at_once(steps: Iterator[Any]) -> bool:
    """`any(steps)`, where each of these is made by a C function that cannot fail: all in one step, for other threads,
    signals and forks."""
    if has_gil():
        return any(steps)
    found = [False]
    taken, given = starmap(_lock.acquire, ((),)), starmap(_lock.release, ((),))
    any(chain(filterfalse(None, taken), map(put, (found,), (0,), map(any, (steps,))), given))
    return found[0]


# of a Python that has its lock whatever happens, without asking for it
at_once: Callable[[Iterator[Any]], bool] = _at_once if hasattr(sys, "_is_gil_enabled") else any
