"""Movement of lanes between threads and memory: loads, stores, shared memory, warp shuffles.

A group of lanes is accessed at its offset. If the offset is negative, zeros are read and nothing is written. A group of
16 bytes is accessed as four words, by one instruction.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.cuda import types
from numba.cuda.extending import intrinsic

from normzoo.backends.cuda.arithmetic import added, larger
from normzoo.backends.cuda.lanes import (
    ELEMENT,
    I1,
    I32,
    I64,
    Vec,
    call,
    constant,
    converted,
    joined,
    of,
    shuffled,
    suffix,
)

VECTOR_BYTES = 16
FREE = 32  # most lanes for which registers are free to load parameters early


def _loaded(builder, dtype: Any, v):
    """Lanes, converted from values in memory."""
    if dtype.bitwidth != 16:
        return v
    count = v.type.count
    if dtype.signed:
        return builder.fpext(
            builder.bitcast(v, ir.VectorType(ir.HalfType(), count)), ir.VectorType(ir.FloatType(), count)
        )
    words = ir.VectorType(I32, count)
    bits = builder.shl(builder.zext(v, words), constant(words, 16))
    return builder.bitcast(bits, ir.VectorType(ir.FloatType(), count))


def _stored(builder, dtype: Any, v):
    """Values for memory, rounded to nearest, ties to even."""
    if dtype.bitwidth != 16:
        return v
    shorts = ir.VectorType(ir.IntType(16), v.type.count)
    if dtype.signed:
        return builder.bitcast(builder.fptrunc(v, ir.VectorType(ir.HalfType(), v.type.count)), shorts)
    words = ir.VectorType(I32, v.type.count)
    bits = builder.bitcast(v, words)
    odd = builder.and_(builder.lshr(bits, constant(words, 16)), constant(words, 1))
    rounded = builder.add(builder.add(bits, constant(words, 0x7FFF)), odd)
    nan = builder.or_(bits, constant(words, 0x400000))
    rounded = builder.select(builder.fcmp_unordered("uno", v, v), nan, rounded)
    return builder.trunc(builder.lshr(rounded, constant(words, 16)), shorts)


@intrinsic
def as_stored(typingctx, v, array):
    """v as it comes back from this array: rounded to its type."""

    def lower(context, builder, sig, args):
        return _loaded(builder, array.dtype, _stored(builder, array.dtype, args[0]))

    return v(v, array), lower


def _pieces(dtype: Any, size: int, each: int) -> list[tuple[int, int]]:
    """(first, count) of the accesses to `size` adjacent elements: `each` per access, and at most 16 bytes."""
    most = min(each, VECTOR_BYTES * 8 // dtype.bitwidth)
    return [(i, most) for i in range(0, size, most)]


def _cell(builder, array, dtype: Any, start, offset, first: int, count: int):
    """A pointer to `count` elements, of the type that is accessed at once (four words for 16 bytes), and its
    alignment."""
    place = builder.gep(array, [builder.add(start, constant(I64, first)) if first else start])
    place = builder.gep(place, [offset])
    bits = dtype.bitwidth * count
    if bits == VECTOR_BYTES * 8:
        kind: ir.Type = ir.VectorType(I32, 4)
    else:
        kind = ir.IntType(bits)
    return builder.bitcast(place, kind.as_pointer()), bits // 8


def _elements(builder, words, dtype: Any, count: int):
    """The elements in a loaded value. Words with two elements are split by shifts: a bitcast would be merged into the
    load, which NVVM then splits."""
    kind = ir.VectorType(ELEMENT[dtype], count)
    if dtype.bitwidth != 16 or not isinstance(words.type, ir.VectorType):
        return builder.bitcast(words, kind)
    shorts = ir.VectorType(ir.IntType(16), words.type.count)
    low = builder.trunc(words, shorts)
    high = builder.trunc(builder.lshr(words, constant(words.type, 16)), shorts)
    places = [i // 2 + i % 2 * words.type.count for i in range(count)]
    return builder.shuffle_vector(low, high, ir.Constant(ir.VectorType(I32, count), places))


def _words(builder, v, kind: ir.Type):
    """Elements in the type that is stored at once; see `_elements`."""
    if v.type.count != 2 * getattr(kind, "count", 0):
        return builder.bitcast(v, kind)
    even, odd = (builder.zext(shuffled(builder, v, list(range(i, v.type.count, 2))), kind) for i in (0, 1))
    return builder.or_(even, builder.shl(odd, constant(kind, 16)))


def _read(builder, array, dtype: Any, start, offset, size: int, each: int, invariant: bool = False):
    found = []
    for first, count in _pieces(dtype, size, each):
        place, align = _cell(builder, array, dtype, start, offset, first, count)
        loaded = builder.load(place)
        loaded.align = align
        if invariant:
            loaded.set_metadata("invariant.load", builder.module.add_metadata([]))
        found.append(_elements(builder, loaded, dtype, count))
    return joined(builder, found)


def _offset(builder, offsets, g: int):
    return builder.extract_element(offsets, constant(I32, g))


def _is_on(builder, offset):
    return builder.icmp_signed(">=", offset, ir.Constant(offset.type, 0))


def _guarded(builder, array, dtype: Any, start, offset, size: int, each: int):
    """The elements at a group's offset, or zeros if it is negative."""
    kind = ir.VectorType(ELEMENT[dtype], size)
    before = builder.block
    with builder.if_then(_is_on(builder, offset)):
        found = _read(builder, array, dtype, start, offset, size, each)
        inside = builder.block
    phi = builder.phi(kind)
    phi.add_incoming(constant(kind, 0), before)
    phi.add_incoming(found, inside)
    return phi


@intrinsic
def load(typingctx, array, start, offsets, size, each):
    """The lanes array[start + offset : ... + size] for every offset, `each` per access; zeros if the offset is
    negative.

    With each > 1, start + offset must be a multiple of it, and the array must begin at a multiple of 16 bytes.
    """
    if not (isinstance(size, types.IntegerLiteral) and isinstance(each, types.IntegerLiteral)):
        return None
    result = Vec(of(array), offsets.count * size.literal_value)

    def lower(context, builder, sig, args):
        data, first, places = args[:3]
        parts = [
            _guarded(
                builder, data, array.dtype, first, _offset(builder, places, g), size.literal_value, each.literal_value
            )
            for g in range(offsets.count)
        ]
        return _loaded(builder, array.dtype, joined(builder, parts))

    return result(array, types.int64, offsets, size, each), lower


@intrinsic
def load_each(typingctx, array, start, offsets, size):
    """array[start + offset] for every offset, repeated `size` times; zeros if the offset is negative."""
    if not isinstance(size, types.IntegerLiteral):
        return None
    result = Vec(of(array), offsets.count * size.literal_value)

    def lower(context, builder, sig, args):
        data, first, places, _ = args
        parts = [
            _guarded(builder, data, array.dtype, first, _offset(builder, places, g), 1, 1) for g in range(offsets.count)
        ]
        v = _loaded(builder, array.dtype, joined(builder, parts))
        return shuffled(builder, v, [i // size.literal_value for i in range(result.count)])

    return result(array, types.int64, offsets, size), lower


@intrinsic
def store(typingctx, array, start, offsets, v, each):
    """array[start + offset : ...] = the lanes of the group, `each` per access, if the offset is not negative."""
    if not isinstance(each, types.IntegerLiteral):
        return None
    size = v.count // offsets.count

    def lower(context, builder, sig, args):
        data, first, places, value, _ = args
        value = _stored(builder, array.dtype, converted(builder, value, v.dtype, of(array), v.count))
        for g in range(offsets.count):
            offset = _offset(builder, places, g)
            with builder.if_then(_is_on(builder, offset)):
                for i, count in _pieces(array.dtype, size, each.literal_value):
                    part = shuffled(builder, value, list(range(g * size + i, g * size + i + count)))
                    place, align = _cell(builder, data, array.dtype, first, offset, i, count)
                    builder.store(_words(builder, part, place.type.pointee), place).align = align
        return context.get_dummy_value()

    return types.void(array, types.int64, offsets, v, each), lower


@intrinsic
def store_affine(typingctx, array, start, offsets, v, weight, bias, first, places, each):
    """array[start + offset : ...] = v * weight[first + place : ...] + bias[first + place : ...], group by group.

    Parameters are loaded right before their use, and no store prevents the code generator from that: they take few
    registers.
    """
    if not isinstance(each, types.IntegerLiteral):
        return None
    size, most = v.count // offsets.count, each.literal_value

    def lower(context, builder, sig, args):
        data, begin, there, value, w_data, b_data, p_begin, p_there, _ = args
        for g in range(offsets.count):
            offset, place = _offset(builder, there, g), _offset(builder, p_there, g)
            with builder.if_then(_is_on(builder, offset)):
                w, a = (
                    _read(builder, p, weight.dtype, p_begin, place, size, most, v.count <= FREE)
                    for p in (w_data, b_data)
                )
                lanes = shuffled(builder, value, list(range(g * size, (g + 1) * size)))
                lanes = call(builder, f"llvm.fma.{suffix(Vec(v.dtype, size))}", lanes.type, [lanes, w, a])
                lanes = _stored(builder, array.dtype, lanes)
                for i, count in _pieces(array.dtype, size, most):
                    where, align = _cell(builder, data, array.dtype, begin, offset, i, count)
                    part_ = shuffled(builder, lanes, list(range(i, i + count)))
                    builder.store(_words(builder, part_, where.type.pointee), where).align = align
        return context.get_dummy_value()

    kinds = array, types.int64, offsets, v, weight, bias, types.int64, places, each
    return types.void(*kinds), lower


BY_LANE, BY_MASK = 0, 3  # modes of a shuffle
LAST_LANE = 0x1F


def _shuffled_over_warp(builder, kind: Vec, v, mode: int, lane):
    """A warp shuffle of every lane, written like numba-cuda's, so that the same tools can analyse it."""
    words = ir.VectorType(I32, kind.count * (kind.dtype.bitwidth // 32))
    bits = builder.bitcast(v, words)
    result = ir.LiteralStructType((I32, I1))
    rest = [constant(I32, -1), constant(I32, mode)]
    for i in range(words.count):
        word = builder.extract_element(bits, constant(I32, i))
        moved = call(builder, "llvm.nvvm.shfl.sync.i32", result, [*rest, word, lane, constant(I32, LAST_LANE)])
        bits = builder.insert_element(bits, builder.extract_value(moved, 0), constant(I32, i))
    return builder.bitcast(bits, v.type)


def _shuffling(mode: int) -> Any:
    def function(typingctx, v, lane):
        def lower(context, builder, sig, args):
            return _shuffled_over_warp(builder, v, args[0], mode, args[1])

        return v(v, types.int32), lower

    return intrinsic(function)


shuffle = _shuffling(BY_LANE)  # (v, lane): the value of that lane of the warp
shuffle_xor = _shuffling(BY_MASK)  # (v, mask): the value of lane ^ mask


def _over_threads(combine: Callable) -> Any:
    def function(typingctx, v, first, end):
        if not (isinstance(first, types.IntegerLiteral) and isinstance(end, types.IntegerLiteral)):
            return None

        def lower(context, builder, sig, args):
            found, step = args[0], first.literal_value
            while step < end.literal_value:
                found = combine(builder, found, _shuffled_over_warp(builder, v, found, BY_MASK, constant(I32, step)))
                step *= 2
            return found

        return v(v, first, end), lower

    return intrinsic(function)


# (v, first, end): v combined with that of lane ^ first, the result with that of lane ^ (2 * first), and so on below
# `end`
sum_over_threads = _over_threads(added)
larger_over_threads = _over_threads(larger)
