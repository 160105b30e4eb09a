"""`install()`: PyTorch's norms use the kernels."""

import ctypes
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from normzoo.torch.dispatch.registering import TRIED, check, lock, names, registered, released

_installed: list[ctypes.c_void_p] = []  # PyTorch's object that holds the registrations


def _said_already() -> None:
    """Make PyTorch say now, to nobody, what it says once per process about a kernel that replaces another."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library = torch.library.Library("aten", "IMPL")
        library.impl("native_group_norm", lambda *given: None, "CPU", allow_override=True)
        library._destroy()


def install() -> None:
    """Make PyTorch's norms use this library's kernels, for all tensors on the CPU in this process.

    What is in PyTorch's dispatcher changes, and nothing else: modules, functions, autograd, torch.func, torch.compile,
    torch.export, torch.jit and hooks stay PyTorch's. So do results within rounding, errors, the number of threads, and
    the bits of what the kernels do not take: other dtypes and devices, eps <= 0, empty tensors. To call it twice is to
    call it once. The first call in a process loads the kernels, or compiles them, which takes seconds.

    Raises:
        RuntimeError: this system or this version of PyTorch has not the interface that is needed. Nothing has changed.

    >>> import torch, normzoo.torch as nzt
    >>> x = torch.randn(4, 8)
    >>> with nzt.installed():
    ...     y = torch.nn.functional.layer_norm(x, (8,))
    >>> torch.allclose(y, torch.nn.functional.layer_norm(x, (8,)), atol=1e-6)
    True
    """
    with lock:
        if _installed:
            return
        check("normzoo.torch.install", "use normzoo.torch.convert(model) instead")
        operators = names()
        _said_already()
        handle = registered("aten", operators)
        if handle is None:
            raise RuntimeError(
                f"normzoo.torch.install: expected PyTorch to take the kernels, got an error of torch "
                f"{torch.__version__}; tried were {TRIED[0]} to {TRIED[1]}. Install one of these, or use "
                "normzoo.torch.convert(model)"
            )
        _installed.append(handle)


def uninstall() -> None:
    """Take back `install`: PyTorch's norms use PyTorch's kernels. Nothing happens if nothing is installed."""
    with lock:
        while _installed:
            released(_installed.pop())


def is_installed() -> bool:
    """Do PyTorch's norms use this library's kernels?"""
    return bool(_installed)


@contextmanager
def installed() -> Iterator[None]:
    """A context in which PyTorch's norms use this library's kernels, for all threads of the process; behind it, all is
    as before."""
    before = is_installed()
    install()
    try:
        yield
    finally:
        if not before:
            uninstall()
