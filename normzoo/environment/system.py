"""What differs between operating systems. All other files are the same on each of them.

Functions look at the system when they are called, so tests can run the branch of another one, and importing this cannot
fail anywhere. `docs/places.md` says which branches ran on a real machine.
"""

import contextlib
import ctypes
import mmap
import os
import stat
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

_TASKS = Path("/proc/self/task")
_SIZE = 256  # bytes: at least sizeof(fenv_t) of any C library
_PROBE = "__chkstk"
_DENORMALS = 0x03000000  # _MCW_DN of Windows: the bits that say what happens to subnormal numbers; 0 keeps them


def at_fork(before: Callable[[], Any], after: Callable[[], Any]) -> None:
    """Call `before` before a fork, and `after` behind it, in parent and child. Windows has no fork."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=before, after_in_parent=after, after_in_child=after)


def thread_names() -> set[str] | None:
    """Names of all threads of this process, those of libraries included; None if the system does not list them: only
    Linux does, in a folder."""
    return {task.name for task in _TASKS.iterdir()} if _TASKS.is_dir() else None


def take_mode(path: Path, of: Path) -> None:
    """Give a file from `tempfile` the mode of the file `of` or, if that does not exist, the mode of any new file.
    Windows has no modes, only a flag that would prevent a file from being replaced."""
    if sys.platform == "win32":
        return
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(stat.S_IMODE(of.stat().st_mode) if of.exists() else 0o666 & ~mask)


def resizable(size: int) -> mmap.mmap | None:
    """Memory that `resize` can make shorter and longer without losing its pages; None where only NumPy's is to be had.
    Only Linux has such memory."""
    if sys.platform != "linux":
        return None
    try:
        memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, ValueError, MemoryError):
        return None
    with contextlib.suppress(OSError):  # a kernel without large pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def resize(memory: Any, size: int) -> bool:
    """Make such memory shorter or longer; False: it stays as it is, as it is other memory or nothing is left."""
    if not isinstance(memory, mmap.mmap):
        return False
    try:
        memory.resize(size)
    except (OSError, ValueError, BufferError, SystemError, MemoryError):
        return False
    return True


def let_stacks_grow(find: Callable[[str], int | None], add: Callable[[str, int], Any]) -> None:
    """On Windows, a function with more than a page on its stack calls one of the system, which makes the stack grow
    page by page. LLVM, whose symbols these functions look up and define, may not know it."""
    if sys.platform != "win32" or find(_PROBE):
        return
    try:
        function = getattr(ctypes.WinDLL("ntdll"), _PROBE)  # type: ignore[attr-defined, unused-ignore]
    except (OSError, AttributeError):  # then compiling such a kernel fails, and says what is missing
        return
    add(_PROBE, ctypes.cast(function, ctypes.c_void_p).value)


def keep_subnormals() -> Callable[[], Any] | None:
    """Make the calling thread compute with subnormal numbers as IEEE 754 says; returns a function that restores its
    mode, or None if the C library has no function for it, and the mode was not changed."""
    change = _mode_changer(sys.platform)
    return None if change is None else change()


@lru_cache(maxsize=4)
def _mode_changer(system: str) -> Callable[[], Callable[[], Any]] | None:
    for name in {"win32": ("ucrtbase",), "darwin": (None,)}.get(system, ("libm.so.6", None)):  # None: this process
        try:
            return (_by_bits if system == "win32" else _by_state)(ctypes.CDLL(name), system)
        except (OSError, AttributeError, ValueError, TypeError):  # no such library, function or variable
            continue
    return None


def _by_state(library: Any, system: str) -> Callable[[], Callable[[], Any]]:
    """By the functions of C for the state of this arithmetic. FE_DFL_ENV, the state that a program starts with,
    is a variable on macOS, and the address -1 in glibc and musl."""
    get, put = library.fegetenv, library.fesetenv
    initial: Any = ctypes.c_void_p(-1)
    if system == "darwin":
        initial = ctypes.byref(ctypes.c_char.in_dll(library, "_FE_DFL_ENV"))

    def change() -> Callable[[], Any]:
        held = ctypes.create_string_buffer(_SIZE)
        get(held)
        put(initial)
        return lambda: put(held)

    return change


def _by_bits(library: Any, _: str) -> Callable[[], Callable[[], Any]]:
    """By the control word of Windows, of which the functions of C leave out these bits."""
    control = library._controlfp_s

    def change() -> Callable[[], Any]:
        held, ignored = ctypes.c_uint(), ctypes.c_uint()
        control(ctypes.byref(held), 0, 0)  # reads it
        control(ctypes.byref(ignored), 0, _DENORMALS)
        return lambda: control(ctypes.byref(ignored), held, _DENORMALS)

    return change
