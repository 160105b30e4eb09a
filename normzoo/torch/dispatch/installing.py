"""`install()`: registers the kernels with PyTorch's dispatcher, for tensors on the CPU."""

import ctypes
import platform
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numba
import torch

from normzoo.backends.cpu.numba_internals.needed import entry_for_c
from normzoo.torch.dispatch import interface

TRIED = "2.10", "2.14"  # the oldest and the newest PyTorch with which a pass was tried
MESSAGES = {
    "normzoo_torch_no_memory": b"normzoo.torch: there is no memory for a norm's results or workspace",
    "normzoo_torch_no_kernel": b"normzoo.torch: expected x, dy and weight of one floating dtype and of fitting sizes "
    b"in _fused_rms_norm_backward; write rms_norm of such tensors, or normzoo.torch.uninstall()",
}

_lock = threading.RLock()
_installed: list[ctypes.c_void_p] = []  # PyTorch's object that holds the registrations


@cache
def _entries() -> dict[str, tuple[int, Any]]:
    """The address of each operator's kernel."""
    from numba.core import types  # noqa: PLC0415

    from normzoo.torch.dispatch import plans, threads  # noqa: PLC0415
    from normzoo.torch.dispatch.kernels import batches, groups, last_axes  # noqa: PLC0415

    interface.link_all()
    for name, text in MESSAGES.items():
        held = ctypes.create_string_buffer(text)
        interface.link(name, held, ctypes.addressof(held))
    plans.link()
    threads.link()
    kernels = {
        "native_layer_norm": last_axes.forward_over_last_axes(True),
        "native_layer_norm_backward": last_axes.layer_norm_back(),
        "_fused_rms_norm": last_axes.forward_over_last_axes(False),
        "_fused_rms_norm_backward": last_axes.rms_norm_back(),
        "native_group_norm": groups.group_norm(),
        "native_group_norm_backward": groups.group_norm_back(),
        **{
            name: batches.batch_norm(name)
            for name in (
                "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit.no_stats",
                "_batch_norm_with_update",
            )
        },
        **{name: batches.batch_norm_back(name) for name in ("native_batch_norm_backward", "batch_norm_backward")},
    }  # fmt: skip
    return {name: entry_for_c(kernel, (types.int64,) * 3) for name, kernel in kernels.items()}


def _check() -> None:
    """Raise if this system or this PyTorch is not one that the kernels know."""
    instead = "use normzoo.torch.convert(model) instead"
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise RuntimeError(
            f"normzoo.torch.install: expected Linux on x86-64, got {sys.platform} on {platform.machine()}; {instead}"
        )
    if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
        raise RuntimeError(
            f"normzoo.torch.install: expected compiled kernels, got NUMBA_DISABLE_JIT; unset it, or {instead}"
        )
    lacks = interface.missing()
    if lacks:
        raise RuntimeError(
            f"normzoo.torch.install: expected the C interface of torch {TRIED[0]} to {TRIED[1]}, got torch "
            f"{torch.__version__}, which lacks {lacks[0]}; install another torch, or {instead}"
        )


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
    with _lock:
        if _installed:
            return
        _check()
        entries = _entries()
        _said_already()
        known, handle = interface.library(), ctypes.c_void_p()
        failed = known.aoti_torch_library_init_impl(b"aten", b"CPU", b"normzoo.torch", 0, ctypes.byref(handle))
        for name, (place, _) in entries.items():
            failed = failed or known.aoti_torch_library_impl(handle, name.encode(), ctypes.c_void_p(place))
        if failed:
            known.aoti_torch_delete_library_object(handle)
            raise RuntimeError(
                f"normzoo.torch.install: expected PyTorch to take the kernels, got an error of torch "
                f"{torch.__version__}; tried were {TRIED[0]} to {TRIED[1]}. Install one of these, or use "
                "normzoo.torch.convert(model)"
            )
        _installed.append(handle)


def uninstall() -> None:
    """Take back `install`: PyTorch's norms use PyTorch's kernels. Nothing happens if nothing is installed."""
    with _lock:
        while _installed:
            interface.library().aoti_torch_delete_library_object(_installed.pop())


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
