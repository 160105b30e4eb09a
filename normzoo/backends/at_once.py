"""Several steps as one, for other threads, signals and forks: a single call that runs C functions one after another.

Between C functions Python handles no signal, switches to no other thread and does not fork. So no lock is needed that
an interruption could leave locked.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from itertools import chain, filterfalse, starmap
from operator import setitem
from typing import Any

from normzoo.environment.system import at_fork

has_gil: Callable[[], bool] = getattr(sys, "_is_gil_enabled", lambda: True)
put: Callable[..., None] = setitem

# Without the interpreter's lock (free-threaded Python), the steps also take this lock, in C. It is held only while
# copying: the code that holds it cannot be interrupted, cannot raise, and does not take it a second time.
_lock = threading.Lock()
if not has_gil():  # no fork in the middle of a step
    at_fork(_lock.acquire, _lock.release)


def _at_once(steps: Iterator[Any]) -> bool:
    """`any(steps)` as one step for other threads, signals and forks. Each step must be made by a C function that cannot
    fail."""
    if has_gil():
        return any(steps)
    found = [False]
    taken, given = starmap(_lock.acquire, ((),)), starmap(_lock.release, ((),))
    any(chain(filterfalse(None, taken), map(put, (found,), (0,), map(any, (steps,))), given))
    return found[0]


# The interpreter's lock, where it is on, stays on for the lifetime of the process: then no check is needed.
at_once: Callable[[Iterator[Any]], bool] = any if has_gil() else _at_once
