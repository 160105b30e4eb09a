"""The only module that talks to the device: memory, copies and launches. All else in this folder is arithmetic on the
host.

`Driver` is the interface; `NumbaDriver` implements it with numba-cuda, and is created with the first device array.
Another implementation can be passed to `use`. Only `to_host` waits for the device.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib import import_module
from typing import Any, Protocol

import numpy as np

from normzoo.environment.extras import to_install


def _remedy() -> str:
    return f"write {to_install('cuda12')} or, for a driver of CUDA 13, {to_install('cuda13')}"


class Owner(Protocol):
    """Device memory that is freed when the last reference to this object dies."""

    address: int


class Driver(Protocol):
    """A device. Streams are handles as in `__cuda_array_interface__`; 0 is the default stream."""

    multiprocessors: int
    capability: tuple[int, int]

    def alloc(self, nbytes: int, stream: int) -> Owner:
        """Memory for work on `stream`, aligned to 256 bytes."""
        ...

    def launch(
        self,
        kernel: Any,  # a Python function for numba.cuda to compile
        signature: tuple,
        grid: tuple[int, int],
        block: int,
        shared_bytes: int,
        stream: int,
        args: tuple,  # addresses for pointers
    ) -> None:
        """Run a kernel on `grid` blocks of `block` threads."""
        ...

    def to_device(self, address: int, values: np.ndarray, stream: int) -> None:
        """Copy a C-contiguous host array to the device."""
        ...

    def to_host(self, values: np.ndarray, address: int, stream: int) -> None:
        """Copy from the device to a C-contiguous host array, and wait for the copy."""
        ...


_chosen: ContextVar[Driver | None] = ContextVar("normzoo_cuda_driver", default=None)


@contextmanager
def use(driver: Driver) -> Iterator[None]:
    """Run the kernels of the block on `driver`."""
    token = _chosen.set(driver)
    try:
        yield
    finally:
        _chosen.reset(token)


def current() -> Driver:
    """The driver of the innermost `use` block, or the machine's own.

    Raises:
        RuntimeError: there is no device; the message says what to install.
    """
    return _chosen.get() or _own()


def launch_bounds(block: int) -> tuple[int, int]:
    """Launch bounds for the assembler: one block per multiprocessor is enough; for more, it would spill registers."""
    return block, 1


@cache
def numba_cuda() -> Any:
    """The module numba.cuda, if it is NVIDIA's.

    Raises:
        RuntimeError: it is missing, or it is Numba's own old module.
    """
    try:
        cuda = import_module("numba.cuda")
    except ImportError as error:
        raise RuntimeError(f"device arrays need numba-cuda, which cannot be imported ({error}); {_remedy()}") from error
    if getattr(cuda, "implementation", None) != "NVIDIA":
        raise RuntimeError(f"device arrays need numba-cuda, NVIDIA's, and found Numba's own numba.cuda; {_remedy()}")
    return cuda


@cache
def _own() -> Driver:
    cuda = numba_cuda()
    if not cuda.is_available():
        raise RuntimeError(
            "device arrays need an NVIDIA driver and a device, and numba-cuda found none; with a driver of another "
            f"version: {_remedy()}"
        )
    return NumbaDriver(cuda)


class _Memory:
    """Memory of the device's stream-ordered pool."""

    _free: Any = None  # None if the allocation failed

    def __init__(self, driver: "NumbaDriver", nbytes: int, stream: int) -> None:
        self.address = driver.take(nbytes, stream)
        self._free, self._stream = driver.free, stream

    def __del__(self) -> None:
        if self._free is not None:  # the interpreter may be shutting down
            self._free(self.address, self._stream)


class NumbaDriver:
    """The device of numba-cuda's current context."""

    def __init__(self, cuda: Any) -> None:
        self._cuda = cuda
        self._api = import_module("cuda.bindings.driver")
        device = cuda.get_current_device()
        self.multiprocessors = device.MULTIPROCESSOR_COUNT
        self.capability = tuple(device.compute_capability)
        self._compiled: dict[tuple, Any] = {}

    def _checked(self, result: tuple) -> Any:
        if result[0] != self._api.CUresult.CUDA_SUCCESS:
            raise RuntimeError(f"the CUDA driver answered {result[0].name}")
        return result[1] if len(result) > 1 else None

    def take(self, nbytes: int, stream: int) -> int:
        """The address of `nbytes` bytes, ready for work on `stream`."""
        self._cuda.current_context()
        return int(self._checked(self._api.cuMemAllocAsync(max(nbytes, 1), stream)))

    def free(self, address: int, stream: int) -> None:
        """Free memory when the work on `stream` is done."""
        self._api.cuMemFreeAsync(address, stream)

    def alloc(self, nbytes: int, stream: int) -> Owner:
        return _Memory(self, nbytes, stream)

    def launch(
        self,
        kernel: Any,
        signature: tuple,
        grid: tuple[int, int],
        block: int,
        shared_bytes: int,
        stream: int,
        args: tuple,
    ) -> None:
        key = kernel, signature, block
        compiled = self._compiled.get(key)
        if compiled is None:
            compiled = self._compiled[key] = self._cuda.jit(signature, launch_bounds=launch_bounds(block))(kernel)
        handle = self._cuda.external_stream(stream) if stream else 0
        compiled[grid, block, handle, shared_bytes](*args)

    def to_device(self, address: int, values: np.ndarray, stream: int) -> None:
        self._cuda.current_context()
        # from pageable memory: the call returns after the values have been read
        self._checked(self._api.cuMemcpyHtoDAsync(address, values.ctypes.data, values.nbytes, stream))

    def to_host(self, values: np.ndarray, address: int, stream: int) -> None:
        self._cuda.current_context()
        self._checked(self._api.cuMemcpyDtoHAsync(values.ctypes.data, address, values.nbytes, stream))
        self._checked(self._api.cuStreamSynchronize(stream))
