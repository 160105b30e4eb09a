"""What makes a function a kernel, which Python calls, or a helper, which kernels are made of.

The flags that a kernel closes over prune dead branches, and are part of its name.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numba

from normzoo.backends.cpu.compiling.disk import Cache
from normzoo.backends.cpu.numba_internals import optional, way

# How Numba compiles what only compiled code calls: with no way in from Python or C, and no machine code of its own.
NO_WAY_IN: Any = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
INNER = NO_WAY_IN | way.inlined


def helper(function: Callable) -> Any:
    """A function that is inlined into every kernel that calls it; itself where Numba is switched off."""
    return function if _is_off() else way.jit(function, True, **NO_WAY_IN)


def _is_off() -> bool:
    return bool(numba.config.DISABLE_JIT)  # type: ignore[attr-defined]


def _flags(function: Callable) -> dict[str, Any]:
    """What a kernel and its helpers close over, by name."""
    found: dict[str, Any] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        value = cell.cell_contents
        found |= _flags(plain(value)) if callable(value) else {name: value}
    return found


def kernel(function: Callable | None = None, *, nogil: bool = True) -> Any:
    """A function that Python calls, which lets other threads of Python run meanwhile.

    Its flags are part of its name: Numba names machine code by the function's name, its types and a number of the
    process. What two processes wrote to the disk cache may carry one number, and one name would be found for another
    in a third.
    """
    if function is None:
        return partial(kernel, nogil=nogil)
    flags = ", ".join(f"{name}={value}" for name, value in sorted(_flags(function).items()))
    function.__qualname__ += f"({flags})"
    if _is_off():
        return function
    made = way.jit(function, False, nogil=nogil, no_cfunc_wrapper=True)
    if way.is_own:
        optional.use_cache(made, Cache(function))
    return made


def plain(function: Any) -> Callable:
    """The Python function of a helper or kernel; it is itself where NUMBA_DISABLE_JIT switches Numba off."""
    return getattr(function, "py_func", function)
