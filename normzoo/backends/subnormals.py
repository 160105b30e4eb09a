"""Results are the same whether or not a program has told the processor to flush subnormal numbers to zero.

That mode belongs to a thread (compilers' -ffast-math, `torch.set_flush_denormal`). In a thread that has it, a pass runs
without it, on that thread alone: whether the other threads of a pool have it is not known, and bits do not depend on
their number. It is seen by a product that is 0 in that mode alone; seeing it costs nanoseconds.
"""

import ctypes
import functools
import threading
from collections.abc import Callable
from typing import Any

LEAST, ONE = 5e-324, 1.0  # `LEAST * ONE` is false where subnormal numbers are flushed
_DEFAULT = ctypes.c_void_p(-1)  # FE_DFL_ENV of glibc and musl
_SIZE = 256  # bytes that hold a fenv_t of any processor


class _Mode(threading.local):
    alone = False


mode = _Mode()  # `mode.alone`: the pass of this thread stays on it


def kept(function: Callable) -> Callable:
    """The function, with subnormal numbers as IEEE 754 has them, for a thread that flushes them."""

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
    """Decorator of what is long enough to be looked at every time: `kept` where it must be."""
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
            library.fegetenv, library.fesetenv  # noqa: B018  (what is not there raises)
            return library
        except (OSError, AttributeError):
            continue
    return None
