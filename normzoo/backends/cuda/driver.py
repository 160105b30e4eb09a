"""The only way to the device: memory, copies, launches and the order of streams. All else in this folder is arithmetic
on the host.

`Driver` is the interface; `numba_driver.py` implements it with numba-cuda, once a device array is made. Another
implementation can be passed to `use`. Only `to_host` waits for the device.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib import import_module
from typing import Any, Protocol

import numpy as np

from normzoo.environment.extras import to_install

LEGACY = 0, 1  # handles of the default stream
Grid = tuple[int, int]


def _remedy() -> str:
    return f"write {to_install('cuda12')} or, for a driver of CUDA 13, {to_install('cuda13')}"


class Owner(Protocol):
    """Device memory that is given back when the last reference to this object dies."""

    address: int


class Driver(ABC):
    """A device. Streams are handles as in `__cuda_array_interface__`; 0 is the default stream."""

    multiprocessors: int
    capability: tuple[int, int]

    @abstractmethod
    def alloc(self, nbytes: int, stream: int) -> Owner:
        """Memory for work on `stream`, aligned to 256 bytes."""

    @abstractmethod
    def launch(
        self,
        kernel: Any,  # a Python function for numba.cuda to compile
        signature: tuple,
        grid: Grid,
        block: int,
        shared_bytes: int,
        stream: int,
        args: tuple,  # addresses for pointers
    ) -> None:
        """Run a kernel on `grid` blocks of `block` threads."""

    @abstractmethod
    def to_device(self, address: int, values: np.ndarray, stream: int) -> None:
        """Copy a C-contiguous host array to the device."""

    @abstractmethod
    def to_host(self, values: np.ndarray, address: int, stream: int) -> None:
        """Copy from the device to a C-contiguous host array, and wait for the copy."""

    @abstractmethod
    def order(self, first: int, then: int) -> None:
        """Work that is submitted to the stream `then` from now on waits for all that was submitted to `first`."""

    @abstractmethod
    def resident(self, kernel: Any, signature: tuple, block: int) -> int:
        """How many blocks of a kernel a multiprocessor holds at once."""

    def device_number(self) -> int:
        """The number of the device."""
        return 0

    def device_of(self, address: int) -> int:
        """The number of the device on which this memory lies."""
        return self.device_number()

    def prepare(
        self, kernel: Any, signature: tuple, grid: Grid, block: int, args: tuple
    ) -> Callable[[int, tuple], None]:
        """A launch whose arguments are known but for those that are None: run(stream, values of these)."""
        given = tuple(i for i, a in enumerate(args) if a is None)

        def run(stream: int, values: tuple) -> None:
            whole = list(args)
            for i, value in zip(given, values, strict=True):
                whole[i] = value
            self.launch(kernel, signature, grid, block, 0, stream, tuple(whole))

        return run


class Ordered:  # in half the time of a generator
    """Work on `stream` waits for what the streams of the arrays were asked to do before; these wait for the work, which
    may have written to an array, or be reading one that is given up there."""

    __slots__ = ("device", "others", "stream")

    def __init__(self, device: Driver, stream: int, *arrays: Any) -> None:
        self.device, self.stream = device, stream
        self.others = {a.stream for a in arrays if a is not None and a.stream != stream}

    def __enter__(self) -> None:
        for other in self.others:
            self.device.order(other, self.stream)

    def __exit__(self, *raised: object) -> None:
        for other in self.others:
            self.device.order(self.stream, other)


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
    from normzoo.backends.cuda.numba_driver import NumbaDriver  # noqa: PLC0415

    return NumbaDriver(cuda)
