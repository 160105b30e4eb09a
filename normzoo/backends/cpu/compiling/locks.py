"""Protection of compilations from interruption by Ctrl-C or a fork."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

from normzoo.backends.cpu.numba_internals.optional import compilers_locks
from normzoo.environment.system import at_fork


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Delay Ctrl-C until the end of the block: interrupting Numba leaves its tables incomplete, and no later call would
    compile. The handler of the signal, Python's KeyboardInterrupt or the user's own, runs after the block."""
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
    """Install this handler of Ctrl-C, if possible: only the main thread of the main interpreter receives it and may do
    so."""
    if threading.current_thread() is not threading.main_thread():
        return False
    try:
        signal.signal(signal.SIGINT, handler)
    except ValueError:  # the main thread of another interpreter
        return False
    return True


def _wait_for_compilers() -> None:
    """Before a fork, wait for compilations in other threads: the child would inherit locks of Numba and LLVM that
    nobody releases, and incomplete tables."""
    for lock in _LOCKS:
        lock.acquire()


def _let_compile() -> None:
    for lock in reversed(_LOCKS):
        lock.release()


_LOCKS = compilers_locks()
at_fork(_wait_for_compilers, _let_compile)
