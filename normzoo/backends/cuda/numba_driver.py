"""The device of numba-cuda's current context. numba-cuda compiles; what a call does often, launches and memory, goes to
the driver's own functions: numba-cuda's launch takes tens of microseconds, and warns of every grid below 128 blocks."""

import ctypes
import struct
from collections.abc import Callable
from importlib import import_module
from itertools import groupby
from threading import Lock
from typing import Any

import numpy as np

from normzoo.backends.cuda.driver import LEGACY, Driver, Grid, Owner, launch_bounds
from normzoo.backends.cuda.pool import Pool

WORD = 8  # bytes of every argument of a kernel: a pointer, an int64 or a float64
_CODES = {"int64": "q", "float64": "d"}


class NumbaDriver(Driver):
    """See the module."""

    def __init__(self, cuda: Any) -> None:
        self._cuda = cuda
        self._api = import_module("cuda.bindings.driver")
        device = cuda.get_current_device()
        self.multiprocessors = device.MULTIPROCESSOR_COUNT
        self.capability = tuple(device.compute_capability)
        self._device = int(device.id)
        self._handles: dict[tuple, int] = {}
        self._compiling = Lock()
        self._pool = Pool(self)

    def checked(self, result: tuple) -> Any:
        """What the driver's function returned beside its error, of which there is none."""
        if result[0] != self._api.CUresult.CUDA_SUCCESS:
            raise RuntimeError(f"the CUDA driver answered {result[0].name}")
        return result[1] if len(result) > 1 else None

    # memory ----------------------------------------------------------------------------------------------------------
    def take(self, nbytes: int, stream: int) -> int | None:
        """The address of new memory, ready for work on `stream`; None if there is none left."""
        self._cuda.current_context()
        result = self._api.cuMemAllocAsync(nbytes, stream)
        if result[0] == self._api.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
            return None
        return int(self.checked(result))

    def free(self, address: int, stream: int) -> None:
        """Give memory back when the work on `stream` is done."""
        self._cuda.current_context()
        self.checked(self._api.cuMemFreeAsync(address, stream))

    def is_capturing(self, stream: int) -> bool:
        """Is a graph made of what is submitted to this stream?"""
        if stream in LEGACY:  # which cannot be captured
            return False
        return bool(int(self.checked(self._api.cuStreamIsCapturing(stream))))

    def alloc(self, nbytes: int, stream: int) -> Owner:
        return self._pool.alloc(nbytes, stream)

    def device_number(self) -> int:
        return self._device

    def device_of(self, address: int) -> int:
        attribute = self._api.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
        return int(self.checked(self._api.cuPointerGetAttribute(attribute, address)))

    # launches --------------------------------------------------------------------------------------------------------
    def _handle(self, kernel: Any, signature: tuple, block: int) -> int:
        """The driver's handle of the compiled kernel."""
        key = kernel, signature, block
        found = self._handles.get(key)
        if found is None:
            with self._compiling:
                self._cuda.current_context()
                compiled = self._cuda.jit(signature, launch_bounds=launch_bounds(block))(kernel)
                (made,) = compiled.overloads.values()
                made.bind()
                found = self._handles[key] = int(made.library.get_cufunc().handle)
        return found

    def resident(self, kernel: Any, signature: tuple, block: int) -> int:
        handle = self._api.CUfunction(self._handle(kernel, signature, block))
        return max(1, int(self.checked(self._api.cuOccupancyMaxActiveBlocksPerMultiprocessor(handle, block, 0))))

    def launch(
        self, kernel: Any, signature: tuple, grid: Grid, block: int, shared_bytes: int, stream: int, args: tuple
    ) -> None:
        _Prepared(self, kernel, signature, grid, block, args, shared_bytes)(stream, ())

    def prepare(
        self, kernel: Any, signature: tuple, grid: Grid, block: int, args: tuple
    ) -> Callable[[int, tuple], None]:
        return _Prepared(self, kernel, signature, grid, block, args)

    def submit(self, handle: int, sizes: tuple, stream: int, places: int) -> None:
        """Launch a kernel whose arguments lie at the places of a table; the driver copies them before it returns."""
        api = self._api
        for attempt in range(2):
            result = api.cuLaunchKernel(api.CUfunction(handle), *sizes, api.CUstream(stream), places, 0)
            if attempt or result[0] != api.CUresult.CUDA_ERROR_INVALID_CONTEXT:
                break
            self._cuda.current_context()  # the thread's first work on the device
        self.checked(result)

    # copies, and the order of streams --------------------------------------------------------------------------------
    def to_device(self, address: int, values: np.ndarray, stream: int) -> None:
        self._cuda.current_context()
        # from pageable memory: the call returns after the values have been read
        self.checked(self._api.cuMemcpyHtoDAsync(address, values.ctypes.data, values.nbytes, stream))

    def to_host(self, values: np.ndarray, address: int, stream: int) -> None:
        self._cuda.current_context()
        self.checked(self._api.cuMemcpyDtoHAsync(values.ctypes.data, address, values.nbytes, stream))
        self.checked(self._api.cuStreamSynchronize(stream))

    def order(self, first: int, then: int) -> None:
        # a graph takes in no wait for what is outside of it: of that, whoever captures has to see to the order
        if first == then or {first, then} == set(LEGACY) or self.is_capturing(first) or self.is_capturing(then):
            return
        self._cuda.current_context()
        api = self._api
        event = self.checked(api.cuEventCreate(api.CUevent_flags.CU_EVENT_DISABLE_TIMING.value))
        try:
            self.checked(api.cuEventRecord(event, first))
            self.checked(api.cuStreamWaitEvent(then, event, 0))
        finally:
            self.checked(api.cuEventDestroy(event))  # when all that waits for it is done


class _Words:
    """Arguments of a kernel, and the table of their places, which the driver reads."""

    def __init__(self, initial: bytes) -> None:
        count = len(initial) // WORD
        self.memory = ctypes.create_string_buffer(initial, len(initial))
        first = ctypes.addressof(self.memory)
        self._table = (ctypes.c_void_p * count)(*range(first, first + len(initial), WORD))
        self.places = ctypes.addressof(self._table)


class _Prepared:
    """A launch that is made again with other values for the arguments that were None.

    The arguments are written into memory that is used again; calls at the same time, of several threads, each take a
    piece of their own.
    """

    def __init__(
        self, driver: NumbaDriver, kernel: Any, signature: tuple, grid: Grid, block: int, args: tuple, shared: int = 0
    ) -> None:
        self._submit = driver.submit
        self._handle = driver._handle(kernel, signature, block)
        self._sizes = (*grid, 1, block, 1, 1, shared)
        words = [w for kind, a in zip(signature, args, strict=True) for w in _words_of(kind, a)]
        known = [(code, 0 if value is None else value) for code, value in words]
        self._initial = struct.pack("".join(code for code, _ in known), *(value for _, value in known))
        self._writers, at = [], 0
        for is_open, run in groupby(words, lambda word: word[1] is None):
            codes = "".join(code for code, _ in run)
            if is_open:
                self._writers.append((struct.Struct(codes).pack_into, at * WORD, len(codes)))
            at += len(codes)
        self._spare = [_Words(self._initial)]

    def __call__(self, stream: int, values: tuple) -> None:
        try:
            words = self._spare.pop()
        except IndexError:
            words = _Words(self._initial)
        taken = 0
        for write, offset, count in self._writers:
            write(words.memory, offset, *values[taken : taken + count])
            taken += count
        self._submit(self._handle, self._sizes, stream, words.places)
        self._spare.append(words)


def _words_of(kind: Any, value: Any) -> list[tuple[str, Any]]:
    """An argument as words: a letter of the module struct, and the value."""
    if hasattr(kind, "count"):  # a tuple of numbers
        return [word for v in value for word in _words_of(kind.dtype, v)]
    return [(_CODES.get(str(kind), "Q"), value)]
