"""Conversion between tensors and arrays that share memory."""

from functools import cache
from typing import Any

import numpy as np
import torch

from normzoo.environment.extras import to_install
from normzoo.passes.device import device_array

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_NUMPYS = FLOATS[:3]
_PLAIN = (torch.Tensor, torch.nn.Parameter)


@cache
def _bfloat16() -> np.dtype:
    try:
        import ml_dtypes  # noqa: PLC0415 (optional, for bfloat16 tensors only)
    except ImportError as error:
        raise ImportError(f"tensors of bfloat16 need ml_dtypes; write {to_install('torch')}") from error
    return np.dtype(ml_dtypes.bfloat16)


def check_tensor(owner: str, name: str, t: Any) -> None:
    if not isinstance(t, torch.Tensor):
        other = f", or use normzoo.{owner.rstrip('123d')}" if isinstance(t, np.ndarray) and owner[0].isupper() else ""
        raise TypeError(
            f"{owner}: expected {name} to be a tensor, got {type(t).__name__}; write torch.as_tensor({name}){other}"
        )


def array_of(owner: str, name: str, t: Any) -> Any:
    """An array on the memory of a tensor; None for None.

    Raises:
        TypeError: t is not a tensor that the norms accept.
    """
    if t is None:
        return None
    plain = type(t) in _PLAIN and t.dtype in _NUMPYS and t.is_cpu and t.layout is torch.strided
    if plain and not (t.is_neg() or t.is_nested):
        return t.detach().numpy()  # the usual case
    check_tensor(owner, name, t)
    if t.is_nested:
        raise TypeError(
            f"{owner}: expected one tensor as {name}, got a nested one; use torch.nn's norms there, or "
            "normzoo.torch.revert(model)"
        )
    if t.is_quantized:
        raise TypeError(
            f"{owner}: expected {name} of dtype float16, bfloat16, float32 or float64, got {t.dtype}; write "
            f"{name}.dequantize(), or normzoo.torch.revert(model) before the model is quantized"
        )
    if t.dtype not in FLOATS:
        instead = f"{name}.real and {name}.imag" if t.is_complex() else f"{name}.float()"
        raise TypeError(
            f"{owner}: expected {name} of dtype float16, bfloat16, float32 or float64, got {t.dtype}; write {instead}"
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
    """A tensor on the memory of an array, or None. An array that came from a CUDA tensor is a tensor already."""
    if type(a) is not np.ndarray:
        return a
    if a.dtype.char in "efd":
        return torch.from_numpy(a)
    return torch.from_numpy(a.view(np.uint16)).view(torch.bfloat16)
