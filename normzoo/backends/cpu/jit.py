"""How kernels are compiled: the flags every kernel shares, and a disk cache that notices every edit.

Numba's cache looks at one source file, so an edit to a helper in another file would silently keep the old machine
code. Every kernel therefore closes over `SOURCE`, a digest of all kernel sources, which is part of its cache key;
the flags it closes over (`parallel` among them) are part of the key too and prune dead branches.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

SOURCE = int(
    hashlib.sha256(b"".join(p.read_bytes() for p in sorted(Path(__file__).parent.glob("*.py")))).hexdigest()[:15], 16
)


def helper(function: Callable) -> Any:
    """A function that is inlined into every kernel that calls it."""
    return numba.njit(forceinline=True, error_model="numpy")(function)


def kernel(parallel: bool) -> Any:
    """Decorator of a kernel; with `parallel`, its prange loops run on Numba's threads."""

    def decorate(function: Callable) -> Callable:
        options: Any = {"parallel": parallel, "nogil": True, "error_model": "numpy"}
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # no directory can be written: compile anew in each process
            return numba.njit(**options)(function)

    return decorate
