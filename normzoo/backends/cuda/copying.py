"""Copies and fills of whole arrays on the device: kernels and their launches. A dense copy moves 16 bytes at a time."""

from functools import cache
from math import prod

import numpy as np
from numba import cuda
from numba.cuda import types

from normzoo.backends.cuda import driver
from normzoo.backends.cuda.accesses import VECTOR_BYTES, load, store
from normzoo.backends.cuda.arithmetic import over, rest, splat, wide
from normzoo.backends.cuda.arrays import ALIGNED_TO, DeviceArray, empty
from normzoo.backends.cuda.forms import BIG, sums_of
from normzoo.backends.cuda.geometry import device, labelled
from normzoo.backends.cuda.merging import LANES, SUM, fold, number, write
from normzoo.backends.cuda.pointers import F64, I64, blocks, pointer


@cache
def places(rank: int, big: bool):
    """(i, shape, strides, strides of another) -> where element i lies in the two arrays. Without `big`, divisions of 32
    bits: those of 64 call a subroutine."""

    @device
    def found(i, shape, strides, others):
        there, here = 0, 0
        for axis in range(rank - 1, -1, -1):
            at = i % shape[axis] if big else rest(i, shape[axis])
            there += at * strides[axis]
            here += at * others[axis]
            i = i // shape[axis] if big else over(i, shape[axis])
        return there, here

    return found


@cache
def copy_kernel_of(rank: int, big: bool, adds: bool):
    """target[...] = source, for strided arrays, with conversion; with `adds` source + plus, in float64."""
    find = places(rank, big)

    def copy_kernel(
        source,
        target,  # written
        shape,  # of both arrays, with `rank` axes
        from_strides,  # in elements
        to_strides,  # in elements
        size,
        plus,  # float64
    ):
        i = cuda.blockIdx.x * LANES + cuda.threadIdx.x
        if i < size:
            there, here = find(i, shape, from_strides, to_strides)
            v = number(source, there)
            if adds:
                write(target, here, wide(v) + plus)
            else:
                write(target, here, v)

    return labelled(copy_kernel, f"rank {rank}{' big' * big}{' adds' * adds}")


@cache
def fill_kernel_of(rank: int, big: bool):
    """target[...] = value, for a strided array."""
    find = places(rank, big)

    def fill_kernel(
        target,  # written
        value,  # float64
        shape,  # with `rank` axes
        strides,  # in elements
        size,
    ):
        i = cuda.blockIdx.x * LANES + cuda.threadIdx.x
        if i < size:
            here, _ = find(i, shape, strides, strides)
            write(target, here, splat(value, 1))

    return labelled(fill_kernel, f"rank {rank}{' big' * big}")


@cache
def cast_kernel_of(count: int):
    """target = source, with conversion, `count` adjacent values per thread."""

    def cast_kernel(
        source,
        target,  # written
        size,  # a multiple of `count`
    ):
        i = (cuda.blockIdx.x * LANES + cuda.threadIdx.x) * count
        if i < size:
            here = splat(types.int32(0), 1)
            store(target, i, here, load(source, i, here, count, count), count)

    return labelled(cast_kernel, f"by {count}")


def _joined(sizes: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """(size, strides ...) of each axis, with axes joined that are one in memory."""
    axes = [axis for axis in sizes if axis[0] > 1] or [(1, *(0 for _ in sizes[0][1:]))] if sizes else [(1, 0, 0)]
    joined = [axes[0]]
    for size, *strides in axes[1:]:
        outer, *outers = joined[-1]
        if all(a == b * size for a, b in zip(outers, strides, strict=True)):
            joined[-1] = outer * size, *strides
        else:
            joined.append((size, *strides))
    return joined


def copy(source: DeviceArray, target: DeviceArray, plus: float = 0.0) -> None:
    """target[...] = source + plus; the source broadcasts."""
    rank = target.ndim
    if source.ndim > rank:
        raise ValueError(f"cannot broadcast {source.shape} to {target.shape}")
    shape = (1,) * (rank - source.ndim) + source.shape
    if any(s not in (1, t) for s, t in zip(shape, target.shape, strict=True)):
        raise ValueError(f"cannot broadcast {source.shape} to {target.shape}")
    strides = (0,) * (rank - source.ndim) + source.strides
    axes = _joined(
        [
            (t, 0 if s == 1 else a // source.itemsize, o // target.itemsize)
            for s, t, a, o in zip(shape, target.shape, strides, target.strides, strict=True)
        ]
    )
    stream, size = target.stream, target.size
    device_ = driver.current()
    device_.order(source.stream, stream)
    pointers = pointer(source.dtype), pointer(target.dtype)
    count = VECTOR_BYTES // min(source.itemsize, target.itemsize)
    dense = plus == 0 and len(axes) == 1 and axes[0][1:] == (1, 1) and size % count == 0
    if dense and not (source.address % ALIGNED_TO or target.address % ALIGNED_TO):
        grid = blocks(size // count, LANES), 1
        args: tuple = source.address, target.address, size
        device_.launch(cast_kernel_of(count), (*pointers, I64), grid, LANES, 0, stream, args)
    else:
        sizes, given, taken = zip(*axes, strict=True)
        tuple_ = types.UniTuple(I64, len(sizes))
        kernel = copy_kernel_of(len(sizes), size >= BIG, plus != 0)
        args = source.address, target.address, sizes, given, taken, size, float(plus)
        signature = *pointers, tuple_, tuple_, tuple_, I64, F64
        device_.launch(kernel, signature, (blocks(size, LANES), 1), LANES, 0, stream, args)
    device_.order(stream, source.stream)  # whose memory may be used again there


def fill(target: DeviceArray, value: float) -> None:
    """target[...] = value."""
    axes = _joined([(t, o // target.itemsize) for t, o in zip(target.shape, target.strides, strict=True)])
    sizes, taken = zip(*(axis[:2] for axis in axes), strict=True)
    tuple_ = types.UniTuple(I64, len(sizes))
    size = prod(target.shape)
    signature = pointer(target.dtype), F64, tuple_, tuple_, I64
    driver.current().launch(
        fill_kernel_of(len(sizes), size >= BIG), signature, (blocks(size, LANES), 1), LANES, 0, target.stream,
        (target.address, value, sizes, taken, size),
    )  # fmt: skip


def summed(source: DeviceArray, shape: tuple[int, ...], scale: float, dtype: np.dtype) -> DeviceArray:
    """scale times the sum over the axes along which an array of this shape repeats, in float64."""
    own = (1,) * (source.ndim - len(shape)) + shape
    wide = [i for i, (n, size) in enumerate(zip(own, source.shape, strict=True)) if size > 1 and n == 1]
    first, last = (wide[0], wide[-1] + 1) if wide else (0, 0)
    if any(n > 1 for n in own[first:last]):
        raise ValueError(
            f"expected an array on the device that repeats along axes that lie side by side, got {shape} for "
            f"{source.shape}; copy it to that shape"
        )
    source, outputs = source.contiguous(), prod(shape)
    repeats, inner = prod(source.shape[first:last]), prod(source.shape[last:])
    made = empty(shape, dtype, source.stream, source.library)
    axes = 1, inner, inner, repeats * inner, 0, 0, 1, 1, 1, repeats, 0, 0, inner, outputs, 0
    each, rank, axes = sums_of(axes, outputs)
    signature = pointer(source.dtype), pointer(dtype), pointer(dtype), SUM, I64, F64
    args = source.address, made.address, 0, axes, 0, scale
    grid = blocks(outputs, each), 1
    driver.current().launch(fold(each, rank), signature, grid, LANES, 0, source.stream, args)
    return made
