"""Registers the kernels with PyTorch's dispatcher, for tensors on the CPU, by names of PyTorch's operators."""

import ctypes
import platform
import sys
import threading
from collections.abc import Callable, Iterable
from functools import cache, partial
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
lock = threading.RLock()


@cache
def _kernels() -> dict[str, Callable[[], Any]]:
    """What makes the kernel of each operator; compiled code knows all that they call."""
    from normzoo.torch.dispatch import plans, threads  # noqa: PLC0415
    from normzoo.torch.dispatch.kernels import batches, groups, last_axes  # noqa: PLC0415

    interface.link_all()
    for name, text in MESSAGES.items():
        held = ctypes.create_string_buffer(text)
        interface.link(name, held, ctypes.addressof(held))
    plans.link()
    threads.link()
    forward = "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit.no_stats"
    return {
        "native_layer_norm": lambda: last_axes.forward_over_last_axes(True),
        "native_layer_norm_backward": last_axes.layer_norm_back,
        "_fused_rms_norm": lambda: last_axes.forward_over_last_axes(False),
        "_fused_rms_norm_backward": last_axes.rms_norm_back,
        "native_group_norm": groups.group_norm,
        "native_group_norm_backward": groups.group_norm_back,
        **{name: partial(batches.batch_norm, name) for name in (*forward, "_batch_norm_with_update")},
        **{
            name: partial(batches.batch_norm_back, name)
            for name in ("native_batch_norm_backward", "batch_norm_backward")
        },
    }


@cache
def _entry(name: str) -> tuple[int, Any]:
    """The address of an operator's kernel."""
    from numba.core import types  # noqa: PLC0415

    return entry_for_c(_kernels()[name](), (types.int64,) * 3)


def check(owner: str, instead: str) -> None:
    """Raise if this system or this PyTorch is not one that the kernels know."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise RuntimeError(f"{owner}: expected Linux on x86-64, got {sys.platform} on {platform.machine()}; {instead}")
    if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
        raise RuntimeError(f"{owner}: expected compiled kernels, got NUMBA_DISABLE_JIT; unset it, or {instead}")
    lacks = interface.missing()
    if lacks:
        raise RuntimeError(
            f"{owner}: expected the C interface of torch {TRIED[0]} to {TRIED[1]}, got torch {torch.__version__}, "
            f"which lacks {lacks[0]}; install another torch, or {instead}"
        )


def names() -> tuple[str, ...]:
    """The operators that there are kernels of."""
    return tuple(_kernels())


def registered(namespace: str, operators: Iterable[str]) -> ctypes.c_void_p | None:
    """PyTorch's object that holds the registrations of these operators in a namespace; None if PyTorch refuses."""
    entries = {name: _entry(name)[0] for name in operators}
    known, handle = interface.library(), ctypes.c_void_p()
    failed = known.aoti_torch_library_init_impl(namespace.encode(), b"CPU", b"normzoo.torch", 0, ctypes.byref(handle))
    for name, place in entries.items():
        failed = failed or known.aoti_torch_library_impl(handle, name.encode(), ctypes.c_void_p(place))
    if failed:
        known.aoti_torch_delete_library_object(handle)
        return None
    return handle


def released(handle: ctypes.c_void_p) -> None:
    """Take the registrations back."""
    interface.library().aoti_torch_delete_library_object(handle)
