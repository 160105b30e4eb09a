"""Device arrays, with as much of NumPy's interface as the library uses."""

from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np

from normzoo.backends.cuda import driver
from normzoo.backends.cuda.torch_memory import TorchMemory

ALIGNED_TO = 16  # bytes


class Flags(NamedTuple):
    """NumPy's flags of an array."""

    c_contiguous: bool
    aligned: bool
    writeable: bool

    @property
    def num(self) -> int:
        """The bits of ndarray.flags.num."""
        return 0x1 * self.c_contiguous | 0x100 * self.aligned | 0x400 * self.writeable


_USUAL = Flags(True, True, True)


class DeviceArray:
    """An array in device memory: address, shape, strides, dtype, and a reference that keeps the memory alive.

    Attributes:
        library: the library that the array came from, "numba", "cupy", "torch" or "jax"; results are returned as its
            arrays. "" for our own arrays.
        stream: handle of the stream on which work on the array runs.
    """

    is_device_array = True
    __slots__ = ("address", "dtype", "flags", "library", "owner", "shape", "stream", "strides")

    def __init__(
        self,
        address: int,
        shape: tuple[int, ...],
        dtype: Any,
        owner: Any = None,
        stream: int = 0,
        strides: tuple[int, ...] | None = None,  # bytes; None: C-contiguous
        writeable: bool = True,
        library: str = "",
    ) -> None:
        self.address, self.shape, self.dtype = address, tuple(shape), np.dtype(dtype)
        self.owner, self.stream, self.library = owner, stream, library
        if strides is None and writeable and not address % 16:  # nearly every array, and every new one
            self.strides, self.flags = _dense(self.shape, self.dtype.itemsize), _USUAL
            return
        dense = _dense(self.shape, self.dtype.itemsize)
        self.strides = dense if strides is None else tuple(strides)
        contiguous = strides is None or all(
            s == 1 or a == d for s, a, d in zip(self.shape, self.strides, dense, strict=True)
        )
        item = self.dtype.itemsize
        aligned = address % item == 0 and all(s % item == 0 for s in self.strides)
        self.flags = Flags(contiguous or self.size == 0, aligned, writeable)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        return self.size * self.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"DeviceArray({self.shape}, {self.dtype}, at {self.address:#x}, stream {self.stream})"

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "version": 3,
            "shape": self.shape,
            "strides": None if self.flags.c_contiguous else self.strides,
            "typestr": self.dtype.str if self.dtype.name != "bfloat16" else "<V2",
            "data": (self.address, not self.flags.writeable),
            "stream": self.stream or 1,  # 1 is the legacy default stream; 0 is not allowed
        }

    def _like(self, shape: tuple[int, ...], strides: tuple[int, ...] | None) -> "DeviceArray":
        """Another view of the same memory."""
        writeable = self.flags.writeable
        return DeviceArray(self.address, shape, self.dtype, self.owner, self.stream, strides, writeable, self.library)

    def transpose(self, order: tuple[int, ...]) -> "DeviceArray":
        """The array with its axes in another order."""
        return self._like(tuple(self.shape[i] for i in order), tuple(self.strides[i] for i in order))

    def reshape(self, *shape: Any) -> "DeviceArray":
        """The values in another shape; copied if they are not contiguous."""
        wanted = tuple(shape[0]) if len(shape) == 1 and not isinstance(shape[0], int) else shape
        if -1 in wanted:
            wanted = tuple(self.size // max(-prod(wanted), 1) if s == -1 else s for s in wanted)
        if prod(wanted) != self.size:
            raise ValueError(f"cannot reshape {self.shape} into {wanted}")
        return (self if self.flags.c_contiguous else self.copy())._like(wanted, None)

    def view(self) -> "DeviceArray":
        """The same array."""
        return self._like(self.shape, self.strides)

    def __getitem__(self, index: Any) -> "DeviceArray":
        """a[i] and a[...]."""
        if index is Ellipsis:
            return self
        if not isinstance(index, int) or not -self.shape[0] <= index < self.shape[0]:
            raise IndexError(f"expected ... or an index in the first axis of {self.shape}, got {index!r}")
        a = self._like(self.shape[1:], self.strides[1:])
        a.address += index % self.shape[0] * self.strides[0]
        return a

    def __setitem__(self, index: Any, value: Any) -> None:
        copy_into(self[index], value)

    def astype(self, dtype: Any, order: str = "C") -> "DeviceArray":
        """A C-contiguous copy in another dtype."""
        made = empty(self.shape, dtype, self.stream, self.library)
        copy_into(made, self)
        return made

    def copy(self) -> "DeviceArray":
        """A C-contiguous copy."""
        return self.astype(self.dtype)

    def contiguous(self) -> "DeviceArray":
        """The array, or a C-contiguous copy of it."""
        return self if self.flags.c_contiguous else self.copy()

    @property
    def bounds(self) -> tuple[int, int]:
        """The address of the first byte, and that after the last."""
        if not self.size:
            return self.address, self.address
        reach = [(size - 1) * step for size, step in zip(self.shape, self.strides, strict=True)]
        low, high = sum(r for r in reach if r < 0), sum(r for r in reach if r > 0)
        return self.address + low, self.address + high + self.itemsize

    def native(self, library: str) -> Any:
        """The array as one of another library, on the same memory."""
        from normzoo.backends.cuda.interop import as_library  # noqa: PLC0415

        return as_library(self, library)

    def broadcast_to(self, shape: tuple[int, ...]) -> "DeviceArray":
        """The values, repeated as NumPy does."""
        own = (1,) * (len(shape) - self.ndim) + self.shape
        strides = (0,) * (len(shape) - self.ndim) + self.strides
        return self._like(shape, tuple(0 if n == 1 else s for n, s in zip(own, strides, strict=True)))

    def plus(self, number: float, dtype: Any) -> "DeviceArray":
        """The values and this number, in another dtype."""
        from normzoo.backends.cuda import copying  # noqa: PLC0415

        made = empty(self.shape, dtype, self.stream, self.library)
        copying.copy(self, made, number)
        return made

    def summed_to(self, scale: float, shape: tuple[int, ...], dtype: Any) -> "DeviceArray":
        """The gradient of an array of this shape that was repeated and multiplied by `scale`, of which this is that of
        the product; the array itself where there is nothing to do."""
        if scale == 1 and shape == self.shape and dtype == self.dtype:
            return self
        from normzoo.backends.cuda import copying  # noqa: PLC0415

        return copying.summed(self, shape, scale, np.dtype(dtype))

    def copy_to_host(self) -> np.ndarray:
        """The values as a NumPy array. Waits for the stream."""
        a = self.contiguous()
        found = np.empty(self.shape, self.dtype)
        if self.size:
            driver.current().to_host(found, a.address, self.stream)
        return found

    def on(self, stream: int) -> "DeviceArray":
        """The array, for work on another stream."""
        a = self.view()
        a.stream = stream
        return a


@lru_cache(maxsize=1024)
def _dense(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    strides = []
    for size in reversed(shape):
        strides.append(itemsize)
        itemsize *= max(size, 1)
    return tuple(reversed(strides))


def empty(shape: tuple[int, ...] | int, dtype: Any, stream: int = 0, library: str = "") -> DeviceArray:
    """New uninitialized memory on the device, of the library's own allocator where that is PyTorch's."""
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    dtype = np.dtype(dtype)
    nbytes = max(prod(shape), 1) * dtype.itemsize
    owner: Any = TorchMemory.take(nbytes, stream) if library == "torch" else None
    if owner is None:
        owner = driver.current().alloc(nbytes, stream)
    return DeviceArray(owner.address, shape, dtype, owner, stream, library=library)


def full(shape: tuple[int, ...], value: float, dtype: Any, stream: int = 0, library: str = "") -> DeviceArray:
    """New memory, filled with a value."""
    made = empty(shape, dtype, stream, library)
    made[...] = value
    return made


def to_device(values: np.ndarray, stream: int = 0) -> DeviceArray:
    """A copy of a host array."""
    values = np.ascontiguousarray(values).reshape(np.shape(values))  # also for rank 0
    made = empty(values.shape, values.dtype, stream)
    if values.size:
        driver.current().to_device(made.address, values, stream)
    return made


def copy_into(target: DeviceArray, source: Any) -> None:
    """target[...] = source, a number or an array of device or host that broadcasts to target."""
    if not target.size:
        return
    from normzoo.backends.cuda import copying, interop  # noqa: PLC0415

    if isinstance(source, float | int | np.number):
        copying.fill(target, float(source))
        return
    if not isinstance(source, DeviceArray):
        if interop.is_device_array(source):
            source = interop.from_interface(source)
        else:
            source = to_device(np.asarray(source, None if hasattr(source, "dtype") else target.dtype), target.stream)
    copying.copy(source, target)


class Memory:
    """The allocator of arrays for work on a stream: `DeviceArray`s, which take the place of NumPy's arrays.

    Args:
        library: of the arrays that the work is on.
    """

    def __init__(self, stream: int, library: str = "") -> None:
        self._stream, self._library = stream, library

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        return empty(shape, dtype, self._stream, self._library)

    def full(self, shape: tuple[int, ...], dtype: Any, value: float) -> Any:
        return full(shape, value, dtype, self._stream, self._library)

    def allocator(self, shape: tuple[int, ...], dtype: Any) -> Any:
        return self.empty
