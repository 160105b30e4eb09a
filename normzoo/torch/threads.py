"""Threads: PyTorch's number of them, and whether its threads are Numba's too.

PyTorch and Numba run loops on GNU OpenMP, whose pool belongs to the thread that starts the loop. Where both have found
one library, both use one pool. Where they have two, the idle threads of each spin on the cores that the other needs.
Both find PyTorch's where it is loaded first, which importing this before the first parallel kernel does.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numba
import torch

from normzoo.backends.cpu.code import SERIAL

_NOTHING = nullcontext()
_TASKS = Path("/proc/self/task")
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
    """Kernels in this context run on as many threads as PyTorch's own would: `torch.set_num_threads` holds for both.

    A pool whose loops ask for other numbers of threads in turn would start and end threads for each.
    """
    if values <= SERIAL:  # such kernels run alone
        return _NOTHING
    count = min(torch.get_num_threads(), _MOST)
    return _NOTHING if count == numba.get_num_threads() else _limited(count)


@numba.njit(parallel=True)
def _loop(a: Any) -> None:
    for i in numba.prange(a.size):
        a[i] = i


def shares_threads() -> bool:
    """Do PyTorch's loops and Numba's run on the same threads of this process?

    Where they do not, set OMP_WAIT_POLICY=passive before the program starts, or import normzoo.torch before anything
    that runs Numba's parallel loops. Linux only. Compiles a loop at its first call.

    Raises:
        RuntimeError: there is but one thread to share, or no /proc to see threads in.
    """
    if not _TASKS.is_dir():
        raise RuntimeError("shares_threads: expected Linux, whose /proc/self/task lists the threads; found none")
    if min(torch.get_num_threads(), _MOST) < 2:
        raise RuntimeError(
            "shares_threads: expected two threads or more, got "
            f"{torch.get_num_threads()} of PyTorch and {_MOST} of Numba"
        )
    new: list[set[str]] = []

    def count() -> None:  # a thread that has started no loop yet has no pool
        numba.set_num_threads(2)
        a = torch.zeros(1 << 16).numpy()
        before = _tasks()
        torch.zeros(1 << 20).add_(1)
        between = _tasks()
        _loop(a)
        new.extend([between - before, _tasks() - between])

    _loop(torch.zeros(1 << 16).numpy())  # compiled, and Numba's own threads started
    thread = threading.Thread(target=count)
    thread.start()
    thread.join()
    return not new[1]


def _tasks() -> set[str]:
    return {task.name for task in _TASKS.iterdir()}
