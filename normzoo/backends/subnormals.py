"""Results are the same whether or not the program has told the processor to flush subnormal numbers to zero.

The flush mode belongs to a thread (compilers' -ffast-math, `torch.set_flush_denormal`). If the calling thread has it
set, a pass clears the mode and runs on that thread alone: the mode of the other threads of a pool is unknown, and
results do not depend on the number of threads. A product that is 0 only in that mode detects it, in nanoseconds.
"""

import functools
import threading
from collections.abc import Callable
from typing import Any

from normzoo.environment.system import keep_subnormals

LEAST, ONE = 5e-324, 1.0  # `LEAST * ONE` is false where subnormal numbers are flushed


class _Mode(threading.local):
    alone = False


mode = _Mode()  # `mode.alone`: passes of this thread use no other threads


def kept(function: Callable) -> Callable:
    """The function, run with subnormal numbers as in IEEE 754, in a thread that flushes them."""

    @functools.wraps(function)
    def run(*arguments: Any, **options: Any) -> Any:
        restore, before = keep_subnormals(), mode.alone
        if restore is None:
            return function(*arguments, **options)
        mode.alone = True
        try:
            return function(*arguments, **options)
        finally:
            mode.alone = before
            restore()

    return run


def in_any_mode(function: Callable) -> Callable:
    """Decorator for functions long enough to check the mode in every call: they use `kept` if the thread flushes."""
    careful = kept(function)

    @functools.wraps(function)
    def run(*arguments: Any, **options: Any) -> Any:
        return (function if LEAST * ONE else careful)(*arguments, **options)

    return run
