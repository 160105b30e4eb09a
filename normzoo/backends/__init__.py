"""Which backend an array belongs to: NumPy arrays to `cpu`, or to `reference` inside `use("reference")`; arrays on a
device to `cuda`, whatever the block."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib import import_module
from typing import Any, cast

from normzoo.backends.contract import Backend

_BACKENDS = ("cpu", "reference")
DLPACK_CUDA = 2  # kDLCUDA
PROCESS = os.getpid()  # that imported the library; backends may be imported in a fork of it
_chosen: ContextVar[str] = ContextVar("normzoo_backend", default="cpu")


chosen = _chosen.get  # () -> the name of the backend that host arrays run on now


@cache
def backend(name: str) -> Backend:
    """The backend of this name; "cuda:7" is that of a device with new arrays on stream 7. It is imported when it is
    first asked for: making the kernels' dispatchers is two thirds of the time that importing normzoo would take."""
    name, _, stream = name.partition(":")
    module = import_module(f"normzoo.backends.{name}")
    return cast(Backend, module.on_stream(int(stream)) if stream else module)


def device_array(a: Any, stream: Any = None) -> Any:
    """The backend's array on the memory of a device array of any library, or None where `a` is not on a device.

    Nothing of CUDA is imported before an array asks for it.
    """
    if getattr(a, "__cuda_array_interface__", None) is None:
        kind = getattr(a, "__dlpack_device__", None)
        if kind is None or int(kind()[0]) != DLPACK_CUDA:
            return None
    return import_module("normzoo.backends.cuda.arrays").from_interface(a, stream)


def to_device(a: Any, stream: Any = None) -> Any:
    """A copy of a NumPy array on the device."""
    return import_module("normzoo.backends.cuda.arrays").from_host(a, stream)


@contextmanager
def use(name: str) -> Iterator[None]:
    """Run every norm in the block on the backend `name`: "reference" (NumPy, the definition) or "cpu" (the default).

    The choice belongs to the running thread or task; a backward pass runs on the backend of the block it is in.

    >>> import numpy as np, normzoo as nz
    >>> x = np.ones((2, 4), np.float32)
    >>> with nz.use("reference"):
    ...     float(nz.LayerNorm(4)(x).max())
    0.0
    """
    if not isinstance(name, str) or name not in _BACKENDS:
        raise ValueError(f"use: expected one of {', '.join(map(repr, _BACKENDS))}, got {name!r}")
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)
