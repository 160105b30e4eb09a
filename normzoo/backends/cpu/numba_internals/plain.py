"""The way of compiling without private names: Numba's own target, extended by this package's primitives.

Results are bit-identical; but Numba first loads everything that it can compile, kernels take longer to compile, and are
not stored on disk.
"""

from collections.abc import Callable
from typing import Any

import numba
from numba.extending import lower_builtin, type_callable

lower = lower_builtin
inlined: dict[str, Any] = {}


def typed(function: Callable, rule: Callable) -> None:
    type_callable(function)(lambda context: rule)


def constant(kind: type) -> type:
    return kind


def jit(function: Callable, is_helper: bool, **options: Any) -> Any:
    return numba.njit(error_model="numpy", forceinline=is_helper, **options)(function)
