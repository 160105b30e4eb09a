"""Lanes in shared memory: those of a thread side by side, or apart, so that no two threads use one bank."""

from typing import Any

from llvmlite import ir
from numba.cuda import types
from numba.cuda.extending import intrinsic

from normzoo.backends.cuda.accesses import VECTOR_BYTES
from normzoo.backends.cuda.lanes import I32, I64, constant


def _place_in(context, builder, kind: Any, array, index, v: ir.Type):
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), v.as_pointer())


@intrinsic
def put(typingctx, array, index, v):
    """array[index : index + lanes] = v in shared memory; index must be a multiple of the number of lanes."""

    def lower(context, builder, sig, args):
        size = min(v.count * v.dtype.bitwidth // 8, VECTOR_BYTES)
        builder.store(args[2], _place_in(context, builder, array, args[0], args[1], args[2].type)).align = size
        return context.get_dummy_value()

    return types.void(array, types.int64, v), lower


@intrinsic
def get_like(typingctx, array, index, v):
    """As many lanes as v has, from array[index] on, in shared memory; index must be a multiple of their number."""
    size = min(v.count * v.dtype.bitwidth // 8, VECTOR_BYTES)

    def lower(context, builder, sig, args):
        found = builder.load(_place_in(context, builder, array, args[0], args[1], args[2].type))
        found.align = size
        return found

    return v(array, types.int64, v), lower


def _spread_over(context, builder, kind: Any, args: tuple, count: int):
    """Pointers to lanes of a thread in shared memory, `stride` apart."""
    array, first, stride = args
    data = context.make_array(kind)(context, builder, array).data
    for i in range(count):
        yield i, builder.gep(data, [builder.add(first, builder.mul(stride, constant(I64, i)))])


@intrinsic
def put_apart(typingctx, array, first, stride, v):
    """array[first + i * stride] = lane i of v, in shared memory: with a stride of all threads no two use one bank."""

    def lower(context, builder, sig, args):
        for i, place in _spread_over(context, builder, array, args[:3], v.count):
            builder.store(builder.extract_element(args[3], constant(I32, i)), place)
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64, v), lower


@intrinsic
def get_apart(typingctx, array, first, stride, v):
    """As many lanes as v has, that `put_apart` wrote."""

    def lower(context, builder, sig, args):
        found = ir.Constant(args[3].type, ir.Undefined)
        for i, place in _spread_over(context, builder, array, args[:3], v.count):
            found = builder.insert_element(found, builder.load(place), constant(I32, i))
        return found

    return v(array, types.int64, types.int64, v), lower
