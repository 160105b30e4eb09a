"""Which backend an array runs on: NumPy arrays on `cpu`, or on `reference` inside `use("reference")`; device arrays
always on `cuda`, also inside `use`."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

from normzoo.backends.contract import Backend

_HOST = ("cpu", "reference")
DLPACK_CUDA = 2  # kDLCUDA
PROCESS = os.getpid()  # the process that imported the library; a backend may be imported later, in a fork of it
_chosen: ContextVar[str] = ContextVar("normzoo_backend", default="cpu")


chosen = _chosen.get  # () -> the name of the backend that host arrays run on now


@cache
def backend(name: str) -> Backend:
    """The backend of this name; "cuda:7:torch" is the CUDA backend whose new arrays belong to stream 7, for arrays of
    PyTorch. A backend is imported at its first use: making the kernels' dispatchers would be two thirds of the import
    time of normzoo."""
    name, _, more = name.partition(":")
    if name == "cpu":
        from normzoo.backends.cpu import CPU  # noqa: PLC0415  (a literal import: tools that freeze programs find it)

        return CPU()
    if name == "reference":
        from normzoo.backends.reference import Reference  # noqa: PLC0415

        return Reference()
    from normzoo.backends.cuda import CUDA  # noqa: PLC0415

    stream, _, library = more.partition(":")
    return CUDA(int(stream or 0), library)


def device_array(a: Any, stream: Any = None) -> Any:
    """The CUDA backend's array on the memory of a device array of any library; None if `a` is not on a device.

    No CUDA package is imported before the first device array.
    """
    if getattr(a, "__cuda_array_interface__", None) is None:
        kind = getattr(a, "__dlpack_device__", None)
        try:
            if kind is None or int(kind()[0]) != DLPACK_CUDA:
                return None
        except (BufferError, RuntimeError, TypeError, ValueError):  # a device that DLPack does not know
            return None
    from normzoo.backends.cuda.interop import from_interface  # noqa: PLC0415

    return from_interface(a, stream)


def to_device(a: Any, stream: Any = None) -> Any:
    """A copy of a NumPy array on the device."""
    from normzoo.backends.cuda.interop import from_host  # noqa: PLC0415

    return from_host(a, stream)


@contextmanager
def use(name: str) -> Iterator[None]:
    """Run every norm in the block on the backend `name`: "reference" (NumPy, the definition) or "cpu" (the default).

    The choice belongs to the current thread or task. A backward pass runs on the backend of the block that calls it.

    >>> import numpy as np, normzoo as nz
    >>> x = np.ones((2, 4), np.float32)
    >>> with nz.use("reference"):
    ...     float(nz.LayerNorm(4)(x).max())
    0.0
    """
    if not isinstance(name, str) or name not in _HOST:
        raise ValueError(f"use: expected one of {', '.join(map(repr, _HOST))}, got {name!r}")
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)
