"""Compilations that nothing interrupts: neither Ctrl-C nor a fork."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

from normzoo.backends.cpu.numba_internals.optional import compilers_locks


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C waits until the end: one that ends Numba's work anywhere leaves its tables half filled, and no later
    call would compile. What handles the signal, Python's KeyboardInterrupt or the user's own, runs after it."""
    handler = signal.getsignal(signal.SIGINT)
    arrived: list[tuple] = []
    if not callable(handler) or not _took_over(lambda *received: arrived.append(received)):
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if arrived:
            handler(*arrived[0])


def _took_over(handler: Callable[..., None]) -> bool:
    """Does this handle Ctrl-C now? Only the main thread of the main interpreter is interrupted, and may say by what."""
    if threading.current_thread() is not threading.main_thread():
        return False
    try:
        signal.signal(signal.SIGINT, handler)
    except ValueError:  # the main thread of another interpreter
        return False
    return True


def _wait_for_compilers() -> None:
    """A fork waits for what other threads compile: the child would find Numba's and LLVM's locks held for ever, and
    their tables half filled."""
    for lock in _LOCKS:
        lock.acquire()


def _let_compile() -> None:
    for lock in reversed(_LOCKS):
        lock.release()


_LOCKS = compilers_locks()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_wait_for_compilers, after_in_parent=_let_compile, after_in_child=_let_compile)
