"""Arrays on a CUDA device, for programs that have none from another library or want another stream."""

from typing import Any

from normzoo.backends import device_array as _device_array
from normzoo.backends import to_device
from normzoo.passes.arrays import check_array


def device_array(a: Any, stream: Any = None) -> Any:
    """An array on the CUDA device: a copy of a NumPy array, or a view of the memory of another library's device array.

    Norms take it like any device array, and run on its stream. It has `copy_to_host()` and the CUDA array interface, so
    that CuPy, PyTorch and Numba can use it without a copy.

    Args:
        a: a NumPy float array, or anything with `__cuda_array_interface__` or DLPack on a CUDA device.
        stream: a stream of Numba or CuPy, or an integer as in the interface's stream entry; None: the stream of `a`, or
            the default stream.

    Raises:
        TypeError: `a` is neither. RuntimeError: CUDA cannot be used; the message says what to install.
    """
    found = _device_array(a, stream)
    if found is not None:
        return found
    check_array("device_array", "a", a)
    return to_device(a, stream)
