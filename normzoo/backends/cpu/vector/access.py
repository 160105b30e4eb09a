"""Conversion between arrays and lanes: loads and stores, full and masked, of all dtypes, and prefetching.

Arrays are C-contiguous and have a flat index, whatever their rank.
"""

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types

from normzoo.backends.cpu.numba_internals.way import lower, typed
from normzoo.backends.cpu.schedule import LINE, STREAM_ALIGNMENT
from normzoo.backends.cpu.vector.lanes import (
    LANES,
    Flat,
    Values,
    Vec,
    bits_of,
    filled,
    is_short,
    llvm_type,
    of,
    pointer,
)
from normzoo.backends.cpu.vector.storage import (
    as_floats,
    as_stored,
    has,
    is_bfloat16,
    loaded,
    loaded_in_order,
    loaded_some,
    packed,
    reorders,
    store_in_order,
    stored,
    to_store,
    two_of_words,
    word,
)


def element_at(context, builder, array_type, array, index):
    return builder.gep(pointer(context, builder, array_type, array), [index])


def _address(context, builder, array_type, array, index):
    place = element_at(context, builder, array_type, array, index)
    return builder.bitcast(place, stored(array_type.dtype).as_pointer())


def load(a, i):
    """The lanes a[i : i + 16]."""
    return as_floats(a)[i : i + LANES].copy().view(Values)


typed(load, lambda a, i: Vec(of(a.dtype)))


@lower(load, Flat, types.Integer)
def _load(context, builder, sig, args):
    dtype = sig.args[0].dtype
    place = _address(context, builder, sig.args[0], args[0], args[1])
    return loaded(context, builder, dtype, builder.load(place, align=dtype.bitwidth // 8))


def load_as(a, i, like):
    """Like `load`, with the lanes in an order that is best for the dtype of `like`; it is the same for everything that
    is loaded and stored with this `like`."""
    return load(a, i)


typed(load_as, lambda a, i, like: Vec(of(a.dtype)))


@lower(load_as, Flat, types.Integer, Flat)
def _load_as(context, builder, sig, args):
    dtype = sig.args[0].dtype
    if not reorders(context, sig.args[2].dtype):
        return _load(context, builder, sig, args)
    place = element_at(context, builder, sig.args[0], args[0], args[1])
    return loaded_in_order(builder, dtype, place)


def load_two(a, i):
    """The lanes a[i : i + 32] as two vectors, with the lanes in an order that takes few instructions."""
    floats = as_floats(a)[i : i + 2 * LANES]
    halves = (floats[::2], floats[1::2]) if a.dtype == np.uint16 else (floats[:LANES], floats[LANES:])
    return tuple(half.copy().view(Values) for half in halves)


typed(load_two, lambda a, i: types.UniTuple(Vec(of(a.dtype)), 2))


@lower(load_two, Flat, types.Integer)
def _load_two(context, builder, sig, args):
    if is_bfloat16(sig.args[0].dtype):
        halves = two_of_words(builder, element_at(context, builder, sig.args[0], args[0], args[1]))
    else:
        step = ir.Constant(args[1].type, LANES)
        halves = [_load(context, builder, sig, [args[0], i]) for i in (args[1], builder.add(args[1], step))]
    return context.make_tuple(builder, sig.return_type, halves)


def store_as(a, i, v, like):
    """Like `store`, for lanes in the order of `like`."""
    store(a, i, v)


typed(store_as, lambda a, i, v, like: types.none)


@lower(store_as, Flat, types.Integer, Vec, Flat)
def _store_as(context, builder, sig, args):
    if not reorders(context, sig.args[3].dtype):
        return _store(context, builder, sig, args)
    place = element_at(context, builder, sig.args[0], args[0], args[1])
    store_in_order(builder, sig.args[0].dtype, place, args[2])
    return context.get_dummy_value()


def load_n(a, i, count):
    """The lanes a[i : i + count], followed by zeros."""
    floats = as_floats(a)
    v = np.zeros(LANES, floats.dtype)
    count = min(count, LANES)
    v[:count] = floats[i : i + count]
    return v.view(Values)


typed(load_n, lambda a, i, count: Vec(of(a.dtype)))


@lower(load_n, Flat, types.Integer, types.Integer)
def _load_n(context, builder, sig, args):
    dtype = sig.args[0].dtype
    place = _address(context, builder, sig.args[0], args[0], args[1])
    count = context.cast(builder, args[2], sig.args[2], types.int64)
    return loaded(context, builder, dtype, loaded_some(context, builder, dtype, place, count))


def store(a, i, v):
    """a[i : i + 16] = v."""
    a.reshape(-1)[i : i + LANES] = as_stored(a, v)


typed(store, lambda a, i, v: types.none)


@lower(store, Flat, types.Integer, Vec)
def _store(context, builder, sig, args):
    dtype = sig.args[0].dtype
    place = _address(context, builder, sig.args[0], args[0], args[1])
    builder.store(to_store(context, builder, dtype, args[2]), place, align=dtype.bitwidth // 8)
    return context.get_dummy_value()


def store_n(a, i, v, count):
    """a[i : i + count] = v[:count]."""
    count = min(count, LANES)
    a.reshape(-1)[i : i + count] = as_stored(a, v)[:count]


typed(store_n, lambda a, i, v, count: types.none)


@lower(store_n, Flat, types.Integer, Vec, types.Integer)
def _store_n(context, builder, sig, args):
    # In pieces of 16, 8, 4, 2 and 1 lanes, the binary digits of `count`: a masked store takes tens of cycles with AVX2.
    dtype = sig.args[0].dtype
    lanes = to_store(context, builder, dtype, args[2])
    element = lanes.type.element
    source = builder.bitcast(cgutils.alloca_once_value(builder, lanes), element.as_pointer())
    target = builder.bitcast(element_at(context, builder, sig.args[0], args[0], args[1]), element.as_pointer())
    count = context.cast(builder, args[3], sig.args[3], types.int64)
    all_lanes = ir.Constant(count.type, LANES)
    count = builder.select(builder.icmp_signed("<", count, all_lanes), count, all_lanes)
    size = LANES
    while size:
        with builder.if_then(builder.icmp_signed("!=", _bits(builder, count, size), ir.Constant(count.type, 0))):
            first = _bits(builder, count, 2 * LANES - 2 * size)
            kind = (ir.VectorType(element, size) if size > 1 else element).as_pointer()
            here, there = (builder.bitcast(builder.gep(a, [first]), kind) for a in (source, target))
            builder.store(builder.load(here, align=dtype.bitwidth // 8), there, align=dtype.bitwidth // 8)
        size //= 2
    return context.get_dummy_value()


def _bits(builder, value, mask: int):
    return builder.and_(value, ir.Constant(value.type, mask))


def rounded(v, a):
    """Lanes as they would be loaded again from `a`."""
    held = np.empty(LANES, a.dtype)
    held[:] = as_stored(a, v)
    return as_floats(held).astype(v.dtype).view(Values)


typed(rounded, lambda v, a: v)


@lower(rounded, Vec, Flat)
def _rounded(context, builder, sig, args):
    dtype = sig.args[1].dtype
    return loaded(context, builder, dtype, to_store(context, builder, dtype, args[0])) if is_short(dtype) else args[0]


def at(a, i):
    """The scalar a[i], with a flat index."""
    return as_floats(a)[i]


typed(at, lambda a, i: of(a.dtype))


@lower(at, Flat, types.Integer)
def _at(context, builder, sig, args):
    dtype = sig.args[0].dtype
    return loaded(context, builder, dtype, builder.load(element_at(context, builder, sig.args[0], args[0], args[1])))


def load_same(a, i):
    """16 times a[i]. Loading float16 as a scalar would create a false dependency on the old contents of a register."""
    return np.full(LANES, at(a, i)).view(Values)


typed(load_same, lambda a, i: Vec(of(a.dtype)))


@lower(load_same, Flat, types.Integer)
def _load_same(context, builder, sig, args):
    value = builder.load(element_at(context, builder, sig.args[0], args[0], args[1]))
    return loaded(context, builder, sig.args[0].dtype, filled(builder, value))


def put(a, i, value):
    """a[i] = value, with a flat index."""
    a.reshape(-1)[i] = value


typed(put, lambda a, i, value: types.none)


@lower(put, Flat, types.Integer, types.Number)
def _put(context, builder, sig, args):
    value = context.cast(builder, args[2], sig.args[2], sig.args[0].dtype)
    builder.store(value, element_at(context, builder, sig.args[0], args[0], args[1]))
    return context.get_dummy_value()


def prefetch(a, i):
    """Fetch the cache line of a[i]; i may be beyond the array."""


typed(prefetch, lambda a, i: types.none)


@lower(prefetch, Flat, types.Integer)
def _prefetch(context, builder, sig, args):
    kind = ir.IntType(8).as_pointer()
    place = builder.bitcast(element_at(context, builder, sig.args[0], args[0], args[1]), kind)
    i32 = ir.IntType(32)
    function = ir.FunctionType(ir.VoidType(), [kind, i32, i32, i32])
    reading, keep_close, data = (ir.Constant(i32, c) for c in (0, 3, 1))
    builder.call(
        builder.module.declare_intrinsic("llvm.prefetch", (kind,), function), [place, reading, keep_close, data]
    )
    return context.get_dummy_value()


def stream(a, i, v):
    """a[i : i + 16] = v, bypassing the caches; the address of a[i] must be a multiple of STREAM_ALIGNMENT."""
    store(a, i, v)


typed(stream, lambda a, i, v: types.none)


@lower(stream, Flat, types.Integer, Vec)
def _stream(context, builder, sig, args):
    return _written_past(context, builder, sig, args, to_store(context, builder, sig.args[0].dtype, args[2]))


def _written_past(context, builder, sig, args, lanes):
    """Whole, or line by line of memory, where it begins on such a boundary; else in pieces that any may begin with."""
    dtype = sig.args[0].dtype
    place, piece = _address(context, builder, sig.args[0], args[0], args[1]), min(LINE, LANES * bits_of(dtype) // 8)
    past_caches = builder.module.add_metadata([word(1)])
    behind = builder.and_(builder.ptrtoint(place, word(0).type), word(piece - 1))
    with builder.if_else(builder.icmp_unsigned("==", behind, word(0))) as branches:
        for branch, alignment in zip(branches, (piece, STREAM_ALIGNMENT), strict=True):
            with branch:
                builder.store(lanes, place, align=alignment).set_metadata("nontemporal", past_caches)
    return context.get_dummy_value()


def stream_as(a, i, v, like):
    """Like `stream`, for lanes in the order of `like`."""
    store(a, i, v)


typed(stream_as, lambda a, i, v, like: types.none)


@lower(stream_as, Flat, types.Integer, Vec, Flat)
def _stream_as(context, builder, sig, args):
    if not reorders(context, sig.args[3].dtype):
        return _stream(context, builder, sig, args)
    return _written_past(context, builder, sig, args, packed(builder, args[2]))


def itemsize(a):
    """Bytes per element."""
    return a.itemsize


typed(itemsize, lambda a: types.int64)


@lower(itemsize, Flat)
def _itemsize(context, builder, sig, args):
    return ir.Constant(ir.IntType(64), sig.args[0].dtype.bitwidth // 8)


def is_wide():
    """Has the processor vectors of 64 bytes? Such processors also have level-2 caches of a megabyte or more."""
    return False


typed(is_wide, lambda: types.boolean)


@lower(is_wide)
def _lower_is_wide(context, builder, sig, args):
    return ir.Constant(ir.IntType(1), int(has(context, "avx512bw")))


def zeros(a):
    """Lanes of 0, in the computing type for elements of `a`."""
    return np.zeros(LANES, np.float64 if a.itemsize == 8 else np.float32).view(Values)


typed(zeros, lambda a: Vec(of(a.dtype)))


@lower(zeros, Flat)
def _zeros(context, builder, sig, args):
    return ir.Constant(llvm_type(sig.return_type.dtype), None)
