"""Device arrays of other libraries, taken in by `__cuda_array_interface__` or DLPack, and handed back: no copies."""

from importlib import import_module
from typing import Any

import numpy as np

from normzoo.backends.cuda import driver
from normzoo.backends.cuda.arrays import DeviceArray, to_device
from normzoo.backends.cuda.torch_memory import as_tensor, current_stream


def is_device_array(a: Any) -> bool:
    """Is `a` an array on a CUDA device?"""
    if isinstance(a, DeviceArray):
        return True
    try:  # host tensors of PyTorch have the attribute, but it raises
        return hasattr(a, "__cuda_array_interface__") or _is_dlpack_cuda(a)
    except (AttributeError, TypeError, RuntimeError):
        return False


def _is_dlpack_cuda(a: Any) -> bool:
    return hasattr(a, "__dlpack_device__") and int(a.__dlpack_device__()[0]) == 2


def from_interface(a: Any, stream: Any = None) -> DeviceArray:
    """A `DeviceArray` on the memory of an array with `__cuda_array_interface__`, or with DLPack, through CuPy.

    Args:
        stream: the stream on which the array is used; None: the stream in its interface, or the default stream.
    """
    stream = handle_of(stream)
    if isinstance(a, DeviceArray):
        return a if stream is None else a.on(stream)
    owner = a
    if not hasattr(a, "__cuda_array_interface__"):
        owner = _through_dlpack(a)
    bfloat16 = _is_bfloat16(a)
    if bfloat16 and type(a).__module__.startswith("torch"):
        interface = a.view(import_module("torch").uint16).__cuda_array_interface__
    else:
        interface = owner.__cuda_array_interface__
    dtype = _bfloat16() if bfloat16 else np.dtype(interface["typestr"])
    address, read_only = interface["data"]
    shape, strides, library = interface["shape"], interface.get("strides"), type(a).__module__.split(".")[0]
    if stream is None:
        stream = interface.get("stream")
    if stream is None:  # PyTorch's interface names none: work on its tensors is on its current stream
        stream = current_stream(a) if library == "torch" else 0
    found = DeviceArray(address or 0, shape, dtype, owner, stream, strides, not read_only, library)
    if interface.get("mask") is not None:
        raise TypeError(f"expected a device array without a mask, got a {type(a).__name__} with one; fill it first")
    if not dtype.isnative:
        raise TypeError(f"expected a device array in the machine's byte order, got {dtype.str}; copy it in that order")
    if found.size and not found.flags.aligned:
        raise ValueError(
            f"expected a device array at an address, and with strides, that are multiples of {dtype.itemsize} bytes, "
            f"got {found.address:#x} and {found.strides}; copy it"
        )
    if found.size:
        here, there = driver.current().device_number(), _device_of(a, found)
        if here != there:
            raise ValueError(
                f"expected arrays on device {here}, where this process runs its norms, got one on device {there}; copy "
                f"it, or write numba.cuda.select_device({there}) before the first array on a device"
            )
    return found


def _device_of(a: Any, found: DeviceArray) -> int:
    """The number of the device of another library's array."""
    device = getattr(a, "device", None)
    number = getattr(device, "index" if found.library == "torch" else "id", None)  # CuPy's
    return number if isinstance(number, int) else driver.current().device_of(found.address)


def _is_bfloat16(a: Any) -> bool:
    return str(getattr(a, "dtype", "")).endswith("bfloat16")


def _bfloat16() -> np.dtype:
    return np.dtype(import_module("ml_dtypes").bfloat16)


def _through_dlpack(a: Any) -> Any:
    for name in ("cupy", "torch"):
        try:
            return import_module(name).from_dlpack(a)
        except ImportError:
            continue
    raise TypeError(
        f"{type(a).__name__} offers DLPack alone, which needs CuPy or PyTorch; install one, or pass an array that has "
        "__cuda_array_interface__"
    )


def as_library(found: DeviceArray, library: str) -> Any:
    """`found` as an array of this library, on the same memory; for an unknown library, as a numba device array."""
    if not library:
        return found
    if library == "cupy":
        return import_module("cupy").asarray(found)
    if library == "torch":
        return as_tensor(found, driver.current().device_number())
    if library in ("jax", "jaxlib"):
        return import_module("jax").dlpack.from_dlpack(import_module("cupy").asarray(found))
    return driver.numba_cuda().as_cuda_array(found, sync=False)


def from_host(a: np.ndarray, stream: Any = None) -> DeviceArray:
    """A copy of a host array, on a stream of any library."""
    return to_device(a, handle_of(stream) or 0)


def handle_of(stream: Any) -> int | None:
    """The handle of a stream: an integer, or a stream of numba, CuPy or PyTorch."""
    if stream is None or isinstance(stream, int):
        return stream
    for name in ("ptr", "cuda_stream", "handle"):
        if hasattr(stream, name):
            handle = getattr(stream, name)
            return int(getattr(handle, "value", handle) or 0)
    raise TypeError(
        f"expected a stream of Numba, CuPy or PyTorch, or its handle as an integer, got {type(stream).__name__}"
    )
