"""What the launches of all kernels share: types of arguments, and sizes of grids."""

from typing import Any

import numpy as np
from numba.cuda import types

I64, F64 = types.int64, types.float64
_POINTERS = {
    "float16": types.CPointer(types.int16),
    "bfloat16": types.CPointer(types.uint16),
    "float32": types.CPointer(types.float32),
    "float64": types.CPointer(types.float64),
}
P64 = _POINTERS["float64"]


def pointer(dtype: np.dtype) -> Any:
    """The type of an array of this dtype, as kernels take it."""
    return _POINTERS[dtype.name]


def blocks(work: int, each: int) -> int:
    """Blocks for so much work."""
    return -(-work // each)
