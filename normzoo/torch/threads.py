"""Threads: PyTorch's number of threads, and whether PyTorch and Numba share them.

PyTorch and Numba run loops on GNU OpenMP, which has one pool of threads per thread that starts loops. If both have
loaded the same OpenMP library, they share a pool. If each has its own, idle threads of one spin on the cores that the
other needs. Both use PyTorch's library if it is loaded first; importing this module before the first parallel kernel
ensures that.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numba
import torch

from normzoo.backends.cpu.code import SERIAL
from normzoo.environment.system import thread_names

_NOTHING = nullcontext()
_MOST: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]


@contextmanager
def _limited(count: int) -> Iterator[None]:
    before = numba.get_num_threads()
    numba.set_num_threads(count)
    try:
        yield
    finally:
        numba.set_num_threads(before)


def torch_threads(values: int) -> Any:
    """A context in which kernels use as many threads as PyTorch, so `torch.set_num_threads` applies to both.

    A pool whose loops alternate between numbers of threads would end and start threads for every loop.
    """
    if values <= SERIAL:  # such kernels use one thread
        return _NOTHING
    count = min(torch.get_num_threads(), _MOST)
    return _NOTHING if count == numba.get_num_threads() else _limited(count)


@numba.njit(parallel=True)
def _loop(a: Any) -> None:
    for i in numba.prange(a.size):
        a[i] = i


def shares_threads() -> bool:
    """Do the loops of PyTorch and Numba run on the same threads of this process?

    If not, set OMP_WAIT_POLICY=passive before the program starts, or import normzoo.torch before Numba runs its first
    parallel loop. Linux only. Compiles a loop in its first call.

    Raises:
        RuntimeError: there is only one thread, or the system does not list threads.
    """
    if thread_names() is None:
        raise RuntimeError("shares_threads: expected Linux, which lists the threads of a process; this system does not")
    if min(torch.get_num_threads(), _MOST) < 2:
        raise RuntimeError(
            "shares_threads: expected two threads or more, got "
            f"{torch.get_num_threads()} of PyTorch and {_MOST} of Numba"
        )
    new: list[set[str]] = []

    def count() -> None:  # in a new thread, which has no pool yet
        numba.set_num_threads(2)
        a = torch.zeros(1 << 16).numpy()
        before = _tasks()
        torch.zeros(1 << 20).add_(1)
        between = _tasks()
        _loop(a)
        new.extend([between - before, _tasks() - between])

    _loop(torch.zeros(1 << 16).numpy())  # compiles the loop and starts Numba's threads
    thread = threading.Thread(target=count)
    thread.start()
    thread.join()
    return not new[1]


def _tasks() -> set[str]:
    return thread_names() or set()
