"""Tensors as arrays and arrays as tensors, on the same memory."""

from functools import cache
from typing import Any

import numpy as np
import torch

from normzoo.device import device_array

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


@cache
def _bfloat16() -> np.dtype:
    try:
        import ml_dtypes  # noqa: PLC0415 (an extra, for those who have such tensors)
    except ImportError as error:
        raise ImportError('tensors of bfloat16 need ml_dtypes; pip install "normzoo[torch]"') from error
    return np.dtype(ml_dtypes.bfloat16)


def array_of(owner: str, name: str, t: Any) -> Any:
    """The array on the memory of a tensor, or None.

    Raises:
        TypeError: t is no tensor that the norms take.
    """
    if t is None:
        return None
    if not isinstance(t, torch.Tensor):
        raise TypeError(f"{owner}: expected {name} to be a tensor, got {type(t).__name__}; write torch.as_tensor(...)")
    if t.dtype not in FLOATS:
        raise TypeError(
            f"{owner}: expected {name} of dtype float16, bfloat16, float32 or float64, got {t.dtype}; "
            f"write {name}.float()"
        )
    if t.layout is not torch.strided:
        raise TypeError(f"{owner}: expected a dense {name}, got layout {t.layout}; write {name}.to_dense()")
    kind = t.device.type
    if kind == "cuda":
        return device_array(t.detach(), torch.cuda.current_stream(t.device))
    if kind != "cpu":
        raise TypeError(
            f"{owner}: expected {name} on the CPU or on CUDA, got device {t.device}; use torch.nn's norms there, or "
            "normzoo.torch.revert(model)"
        )
    t = t.detach()
    if t.dtype is torch.bfloat16:
        return t.view(torch.uint16).numpy().view(_bfloat16())
    return (t.resolve_neg() if t.is_neg() else t).numpy()


def tensor_of(a: Any) -> Any:
    """The tensor on the memory of an array, or None. What came from tensors on CUDA is one."""
    if type(a) is not np.ndarray:
        return a
    if a.dtype.char in "efd":
        return torch.from_numpy(a)
    return torch.from_numpy(a.view(np.uint16)).view(torch.bfloat16)
