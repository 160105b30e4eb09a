"""Which backend an array belongs to: NumPy arrays to `cpu`, or to `reference` inside `use("reference")`."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib import import_module
from typing import cast

from normzoo.backends.contract import Backend

_BACKENDS = ("cpu", "reference")
_chosen: ContextVar[str] = ContextVar("normzoo_backend", default="cpu")


chosen = _chosen.get  # () -> the name of the backend that host arrays run on now


@cache
def backend(name: str) -> Backend:
    """The backend of this name. It is imported when it is first asked for: making the kernels' dispatchers is two
    thirds of the time that importing normzoo would take."""
    return cast(Backend, import_module(f"normzoo.backends.{name}"))


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
