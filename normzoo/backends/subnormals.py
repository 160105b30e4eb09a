"""Results are the same whether or not the program has told the processor to flush subnormal numbers to zero.

The flush mode belongs to a thread (compilers' -ffast-math, `torch.set_flush_denormal`). If the calling thread has it
set, a pass clears the mode and runs on that thread alone: the mode of the other threads of a pool is unknown, and
results do not depend on the number of threads. A product that is 0 only in that mode detects it, in nanoseconds.
"""

import ctypes
import functools
import threading
from collections.abc import Callable
from typing import Any

LEAST, ONE = 5e-324, 1.0  # `LEAST * ONE` is false where subnormal numbers are flushed
_DEFAULT = ctypes.c_void_p(-1)  # FE_DFL_ENV of glibc and musl
_SIZE = 256  # bytes: at least sizeof(fenv_t) on any processor


class _Mode(threading.local):
    alone = False


mode = _Mode()  # `mode.alone`: passes of this thread use no other threads


def kept(function: Callable) -> Callable:
    """The function, run with subnormal numbers as in IEEE 754, in a thread that flushes them."""

    @functools.wraps(function)
    def run(*arguments: Any, **options: Any) -> Any:
        library = _library()
        if library is None:
            return function(*arguments, **options)
        held, before = ctypes.create_string_buffer(_SIZE), mode.alone
        library.fegetenv(held)
        library.fesetenv(_DEFAULT)
        mode.alone = True
        try:
            return function(*arguments, **options)
        finally:
            mode.alone = before
            library.fesetenv(held)

    return run


def in_any_mode(function: Callable) -> Callable:
    """Decorator for functions long enough to check the mode in every call: they use `kept` if the thread flushes."""
    careful = kept(function)

    @functools.wraps(function)
    def run(*arguments: Any, **options: Any) -> Any:
        return (function if LEAST * ONE else careful)(*arguments, **options)

    return run


@functools.lru_cache(maxsize=1)
def _library() -> Any:
    """The C library, whose fegetenv and fesetenv read and write the mode, or None."""
    for name in ("libm.so.6", None):
        try:
            library = ctypes.CDLL(name)
            library.fegetenv, library.fesetenv  # noqa: B018  (raises if a function is missing)
            return library
        except (OSError, AttributeError):
            continue
    return None
