"""Arrays on a CUDA device, for who has none from another library, or wants another stream."""

from typing import Any

from normzoo.backends import device_array as _device_array
from normzoo.backends import to_device
from normzoo.passes.arrays import check_array


def device_array(a: Any, stream: Any = None) -> Any:
    """An array on the CUDA device: a copy of a NumPy array, or the memory of a device array of any library.

    Norms take it as they take any device array, and run on its stream. It has `copy_to_host()` and the CUDA array
    interface, by which CuPy, PyTorch and Numba take it without a copy.

    Args:
        a: a NumPy float array, or anything with `__cuda_array_interface__` or DLPack on a CUDA device.
        stream: a stream of Numba or CuPy, or an integer as in the interface's stream entry; None is that of `a`, or
            the default stream.

    Raises:
        TypeError: a is neither. RuntimeError: CUDA cannot be used; the message says what to install.
    """
    found = _device_array(a, stream)
    if found is not None:
        return found
    check_array("device_array", "a", a)
    return to_device(a, stream)
