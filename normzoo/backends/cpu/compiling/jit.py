"""Decorators: `kernel` for functions that Python calls, `helper` for functions that kernels call.

The flags in a kernel's closure are constants: they prune dead branches, and are part of its name.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numba
from llvmlite import binding

from normzoo.backends.cpu.compiling.disk import Cache, elsewhere
from normzoo.backends.cpu.numba_internals import optional, way
from normzoo.environment.system import let_stacks_grow

# Options for functions that only compiled code calls: no entry point for Python or C, and no machine code.
NO_WAY_IN: Any = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
INNER = NO_WAY_IN | way.inlined
constant = way.constant  # decorator of a class of named tuples whose fields are known when kernels are compiled
let_stacks_grow(binding.address_of_symbol, binding.add_symbol)


def helper(function: Callable) -> Any:
    """A function that is inlined into every kernel that calls it; the function itself if Numba is switched off."""
    return function if _is_off() else way.jit(function, True, **NO_WAY_IN)


def _is_off() -> bool:
    return bool(numba.config.DISABLE_JIT)  # type: ignore[attr-defined]


def _flags(function: Callable) -> dict[str, Any]:
    """The values in the closures of a kernel and its helpers, by name."""
    found: dict[str, Any] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        value = cell.cell_contents
        found |= _flags(plain(value)) if callable(value) else {name: value}
    return found


def kernel(function: Callable | None = None, *, nogil: bool = True, from_c: bool = False) -> Any:
    """A function that Python calls; it releases the interpreter's lock while it runs. With `from_c`, one that C calls.

    Its flags become part of its name. Numba names machine code by function name, types and a number that is unique only
    within the process. Two processes may write the same number to the disk cache, and a third process would take one
    kernel for another.
    """
    if function is None:
        return partial(kernel, nogil=nogil, from_c=from_c)
    found = _flags(function) | ({"sources": elsewhere(function.__module__)} if from_c else {})
    flags = ", ".join(f"{name}={value}" for name, value in sorted(found.items()))
    function.__qualname__ += f"({flags})"
    if _is_off():
        return function
    made = way.jit(function, False, nogil=nogil, no_cfunc_wrapper=not from_c)
    if way.is_own:
        optional.use_cache(made, Cache(function))
    return made


def plain(function: Any) -> Callable:
    """The Python function of a helper or kernel; with NUMBA_DISABLE_JIT, that is the function itself."""
    return getattr(function, "py_func", function)
