"""Arrays into lanes and back: loads and stores, whole and masked, of any of the dtypes, prefetching, workspaces.

Arrays are C-contiguous and indexed flat, whatever their rank.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.imputils import impl_ret_new_ref
from numba.extending import lower_builtin
from numba.np.arrayobj import populate_array

from normzoo.backends.cpu.lanes import (
    LANES,
    Flat,
    Values,
    Vec,
    filled,
    intrinsic,
    is_short,
    llvm_type,
    mask,
    of,
    suffix,
    typed,
)


def _element_at(context, builder, array_type, array, index):
    data = array if isinstance(array_type, Flat) else context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [index])


def _address(context, builder, array_type, array, index):
    place = _element_at(context, builder, array_type, array, index)
    return builder.bitcast(place, _stored(array_type.dtype).as_pointer())


WHOLE = 16  # bytes of the narrowest vectors, which can be written past the caches anywhere that NumPy's arrays begin
_SHORTS = ir.VectorType(ir.IntType(16), LANES)

_WORDS = ir.VectorType(ir.IntType(32), LANES)


def _stored(dtype: Any) -> ir.VectorType:
    """Sixteen elements as they lie in memory."""
    return _SHORTS if is_short(dtype) else llvm_type(dtype)


def _loaded(builder, dtype: Any, v):
    """Lanes from what lay in memory."""
    if not is_short(dtype):
        return v
    if dtype.signed:
        return builder.fpext(builder.bitcast(v, ir.VectorType(ir.HalfType(), LANES)), llvm_type(types.float32))
    return builder.bitcast(builder.shl(builder.zext(v, _WORDS), _words(16)), llvm_type(types.float32))


def _to_store(context, builder, dtype: Any, v):
    """What to write to memory, rounded to nearest, ties to even."""
    if not is_short(dtype):
        return v
    if dtype.signed:
        return builder.bitcast(builder.fptrunc(v, ir.VectorType(ir.HalfType(), LANES)), _SHORTS)
    if "+avx512bf16" in context.codegen().magic_tuple()[2]:
        return _converted(builder, v)
    return builder.trunc(_upper(builder, v), _SHORTS)


class _Bfloat(ir.HalfType):
    """LLVM's type of bfloat16, which llvmlite has not: what an instruction gives."""

    intrinsic_name = "bf16"

    def __str__(self) -> str:
        return "bfloat"


_Bfloat._create_instance()


def _converted(builder, v):
    """Lanes as bfloat16 by the processor's own instruction, but for subnormal ones, which it takes for zeros."""
    kind = ir.FunctionType(ir.VectorType(_Bfloat(), LANES), [v.type])
    convert = builder.module.globals.get(_CONVERT) or ir.Function(builder.module, kind, _CONVERT)
    found = cgutils.alloca_once_value(builder, builder.bitcast(builder.call(convert, [v]), _SHORTS))
    flags = ir.VectorType(ir.IntType(1), LANES)
    test = ir.FunctionType(flags, [v.type, ir.IntType(32)])
    is_kind = builder.module.globals.get(_IS_KIND) or ir.Function(builder.module, test, _IS_KIND)
    subnormal = builder.bitcast(builder.call(is_kind, [v, _word(0x90)]), ir.IntType(LANES))
    with builder.if_then(builder.icmp_unsigned("!=", subnormal, ir.Constant(subnormal.type, 0)), likely=False):
        builder.store(builder.trunc(_upper(builder, v), _SHORTS), found)
    return builder.load(found)


_CONVERT, _IS_KIND = "llvm.x86.avx512bf16.cvtneps2bf16.512", f"llvm.is.fpclass.v{LANES}f32"


def _upper(builder, v):
    """The upper halves of float32, which are bfloat16, rounded to nearest, ties to even."""
    bits = builder.bitcast(v, _WORDS)
    odd = builder.and_(builder.lshr(bits, _words(16)), _words(1))
    # NaN is not rounded, which may carry over: what arithmetic gives, and what was bfloat16, is NaN in its upper half.
    step = builder.select(builder.fcmp_ordered("ord", v, v), builder.add(odd, _words(0x7FFF)), _words(0))
    return builder.lshr(builder.add(bits, step), _words(16))


def _words(value: int) -> ir.Constant:
    return ir.Constant(_WORDS, [value] * LANES)


def _as_floats(a):
    """The flat elements of an array as they are computed in, when Numba is switched off."""
    if a.dtype == np.uint16:
        return (a.reshape(-1).astype(np.uint32) << 16).view(np.float32)
    return a.reshape(-1).view(np.float16).astype(np.float32) if a.dtype == np.int16 else a.reshape(-1)


def _as_stored(a, v):
    """Lanes as the elements of an array, when Numba is switched off."""
    if a.dtype == np.int16:
        return v.astype(np.float16).view(np.int16)
    if a.dtype != np.uint16:
        return v
    bits = v.view(np.uint32)
    rounded = np.where(np.isnan(v), bits, bits + 0x7FFF + (bits >> 16 & 1))
    return (rounded >> 16).astype(np.uint16)


def load(a, i):
    """Lanes a[i : i + 16]."""
    return _as_floats(a)[i : i + LANES].copy().view(Values)


typed(load, lambda a, i: Vec(of(a.dtype)))


@lower_builtin(load, Flat, types.Integer)
@lower_builtin(load, types.Array, types.Integer)
def _load(context, builder, sig, args):
    dtype = sig.args[0].dtype
    place = _address(context, builder, sig.args[0], args[0], args[1])
    return _loaded(builder, dtype, builder.load(place, align=dtype.bitwidth // 8))


# Sixteen lanes of bfloat16, in the order that takes the fewest instructions: vectors of 32 bytes are unpacked and
# packed in their halves, and what meets such lanes comes in their order. Vectors of 64 bytes widen in the order of
# memory.
_ORDER = [0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 12, 13, 14, 15]
_QUARTER = 4


def _is_wide(context) -> bool:
    return "+avx512bw" in context.codegen().magic_tuple()[2]


def _reorders(context, like: Any) -> bool:
    return is_short(like) and not like.signed and not _is_wide(context)


def load_as(a, i, like):
    """As `load`, with the lanes in the order of `like`: one that is best for its dtype, and the same in all that is
    loaded and stored as it."""
    return load(a, i)


typed(load_as, lambda a, i, like: Vec(of(a.dtype)))


@lower_builtin(load_as, Flat, types.Integer, Flat)
@lower_builtin(load_as, types.Array, types.Integer, Flat)
def _load_as(context, builder, sig, args):
    dtype = sig.args[0].dtype
    if not _reorders(context, sig.args[2].dtype):
        return _load(context, builder, sig, args)
    place = _element_at(context, builder, sig.args[0], args[0], args[1])
    if not is_short(dtype):
        part = ir.VectorType(llvm_type(dtype).element, _QUARTER)
        place = builder.bitcast(place, part.as_pointer())
        quarters = [
            builder.load(builder.gep(place, [_word(first // _QUARTER)]), align=dtype.bitwidth // 8)
            for first in _ORDER[::_QUARTER]
        ]
        halves = [_joined(builder, a, b) for a, b in (quarters[:2], quarters[2:])]
        return _joined(builder, *halves)
    v = builder.load(builder.bitcast(place, _SHORTS.as_pointer()), align=dtype.bitwidth // 8)
    zeros = ir.Constant(_SHORTS, None)
    half = ir.VectorType(ir.FloatType(), LANES // 2)
    halves = []
    for start in (0, LANES // 2):  # 0 below each value makes a float32 of it
        places = [p for lane in _ORDER[start : start + LANES // 2] for p in (lane, LANES + lane)]
        words = builder.shuffle_vector(zeros, v, ir.Constant(_WORDS, places))
        halves.append(builder.bitcast(words, half))
    return _joined(builder, *halves)


def load_two(a, i):
    """a[i : i + 32], each in one of two, by lanes in any order that takes few instructions."""
    floats = _as_floats(a)[i : i + 2 * LANES]
    halves = (floats[::2], floats[1::2]) if a.dtype == np.uint16 else (floats[:LANES], floats[LANES:])
    return tuple(half.copy().view(Values) for half in halves)


typed(load_two, lambda a, i: types.UniTuple(Vec(of(a.dtype)), 2))


@lower_builtin(load_two, Flat, types.Integer)
@lower_builtin(load_two, types.Array, types.Integer)
def _load_two(context, builder, sig, args):
    dtype = sig.args[0].dtype
    if is_short(dtype) and not dtype.signed:  # two bfloat16 are a word: one is its upper half, as float32 the word
        place = builder.bitcast(_element_at(context, builder, sig.args[0], args[0], args[1]), _WORDS.as_pointer())
        words = builder.load(place, align=dtype.bitwidth // 8)
        both = builder.shl(words, _words(16)), builder.and_(words, _words(0xFFFF0000))
        halves = [builder.bitcast(half, llvm_type(types.float32)) for half in both]
    else:
        step = ir.Constant(args[1].type, LANES)
        halves = [_load(context, builder, sig, [args[0], i]) for i in (args[1], builder.add(args[1], step))]
    return context.make_tuple(builder, sig.return_type, halves)


def _word(value: int) -> ir.Constant:
    return ir.Constant(ir.IntType(32), value)


def _joined(builder, a, b):
    """The lanes of a and then b."""
    count = 2 * a.type.count
    places = ir.Constant(ir.VectorType(ir.IntType(32), count), list(range(count)))
    return builder.shuffle_vector(a, b, places)


def _packed(builder, v):
    """Lanes that `load_as` loads from bfloat16, as they lie in memory."""
    words = builder.bitcast(_upper(builder, v), ir.VectorType(ir.IntType(16), 2 * LANES))
    places = [2 * _ORDER.index(lane) for lane in range(LANES)]
    return builder.shuffle_vector(words, words, ir.Constant(_WORDS, places))


def store_as(a, i, v, like):
    """As `store`, of lanes in the order of `like`."""
    store(a, i, v)


typed(store_as, lambda a, i, v, like: types.none)


@lower_builtin(store_as, Flat, types.Integer, Vec, Flat)
@lower_builtin(store_as, types.Array, types.Integer, Vec, Flat)
def _store_as(context, builder, sig, args):
    dtype = sig.args[0].dtype
    if not _reorders(context, sig.args[3].dtype):
        return _store(context, builder, sig, args)
    if is_short(dtype):
        place = _address(context, builder, sig.args[0], args[0], args[1])
        builder.store(_packed(builder, args[2]), place, align=dtype.bitwidth // 8)
        return context.get_dummy_value()
    place = _element_at(context, builder, sig.args[0], args[0], args[1])
    place = builder.bitcast(place, ir.VectorType(llvm_type(dtype).element, _QUARTER).as_pointer())
    for start in range(0, LANES, _QUARTER):
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), _QUARTER), list(range(start, start + _QUARTER)))
        part = builder.shuffle_vector(args[2], args[2], lanes)
        at_part = builder.gep(place, [_word(_ORDER[start] // _QUARTER)])
        builder.store(part, at_part, align=dtype.bitwidth // 8)
    return context.get_dummy_value()


def load_n(a, i, count):
    """Lanes a[i : i + count], the rest 0."""
    floats = _as_floats(a)
    v = np.zeros(LANES, floats.dtype)
    count = min(count, LANES)
    v[:count] = floats[i : i + count]
    return v.view(Values)


typed(load_n, lambda a, i, count: Vec(of(a.dtype)))


@lower_builtin(load_n, Flat, types.Integer, types.Integer)
@lower_builtin(load_n, types.Array, types.Integer, types.Integer)
def _load_n(context, builder, sig, args):
    dtype = sig.args[0].dtype
    place = _address(context, builder, sig.args[0], args[0], args[1])
    count = context.cast(builder, args[2], sig.args[2], types.int64)
    align = ir.Constant(ir.IntType(32), dtype.bitwidth // 8)
    name = f"llvm.masked.load.{suffix(dtype)}.p0{suffix(dtype)}"
    zeros = ir.Constant(_stored(dtype), None)
    v = intrinsic(builder, name, _stored(dtype), [place, align, mask(builder, count), zeros])
    return _loaded(builder, dtype, v)


def store(a, i, v):
    """a[i : i + 16] = v."""
    a.reshape(-1)[i : i + LANES] = _as_stored(a, v)


typed(store, lambda a, i, v: types.none)


@lower_builtin(store, Flat, types.Integer, Vec)
@lower_builtin(store, types.Array, types.Integer, Vec)
def _store(context, builder, sig, args):
    dtype = sig.args[0].dtype
    place = _address(context, builder, sig.args[0], args[0], args[1])
    builder.store(_to_store(context, builder, dtype, args[2]), place, align=dtype.bitwidth // 8)
    return context.get_dummy_value()


def store_n(a, i, v, count):
    """a[i : i + count] = v[:count]."""
    count = min(count, LANES)
    a.reshape(-1)[i : i + count] = _as_stored(a, v)[:count]


typed(store_n, lambda a, i, v, count: types.none)


@lower_builtin(store_n, Flat, types.Integer, Vec, types.Integer)
@lower_builtin(store_n, types.Array, types.Integer, Vec, types.Integer)
def _store_n(context, builder, sig, args):
    # In pieces of 16, 8, 4, 2 and 1 lanes, as `count` is made of them: a masked store of AVX2 takes tens of cycles.
    dtype = sig.args[0].dtype
    lanes = _to_store(context, builder, dtype, args[2])
    element = lanes.type.element
    source = builder.bitcast(cgutils.alloca_once_value(builder, lanes), element.as_pointer())
    target = builder.bitcast(_element_at(context, builder, sig.args[0], args[0], args[1]), element.as_pointer())
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


def at(a, i):
    """The scalar a[i], flat."""
    return _as_floats(a)[i]


typed(at, lambda a, i: of(a.dtype))


@lower_builtin(at, Flat, types.Integer)
@lower_builtin(at, types.Array, types.Integer)
def _at(context, builder, sig, args):
    dtype = sig.args[0].dtype
    value = builder.load(_element_at(context, builder, sig.args[0], args[0], args[1]))
    if not is_short(dtype):
        return value
    if dtype.signed:
        return builder.fpext(builder.bitcast(value, ir.HalfType()), ir.FloatType())
    word = builder.shl(builder.zext(value, ir.IntType(32)), ir.Constant(ir.IntType(32), 16))
    return builder.bitcast(word, ir.FloatType())


def load_same(a, i):
    """16 times a[i]. As a scalar, float16 would be put into a register that holds something else, and wait for it."""
    return np.full(LANES, at(a, i)).view(Values)


typed(load_same, lambda a, i: Vec(of(a.dtype)))


@lower_builtin(load_same, Flat, types.Integer)
@lower_builtin(load_same, types.Array, types.Integer)
def _load_same(context, builder, sig, args):
    value = builder.load(_element_at(context, builder, sig.args[0], args[0], args[1]))
    return _loaded(builder, sig.args[0].dtype, filled(builder, value))


def put(a, i, value):
    """a[i] = value, flat."""
    a.reshape(-1)[i] = value


typed(put, lambda a, i, value: types.none)


@lower_builtin(put, Flat, types.Integer, types.Number)
@lower_builtin(put, types.Array, types.Integer, types.Number)
def _put(context, builder, sig, args):
    value = context.cast(builder, args[2], sig.args[2], sig.args[0].dtype)
    builder.store(value, _element_at(context, builder, sig.args[0], args[0], args[1]))
    return context.get_dummy_value()


def prefetch(a, i):
    """Fetch the line of a[i] into the cache; i may lie beyond the array."""


typed(prefetch, lambda a, i: types.none)


@lower_builtin(prefetch, Flat, types.Integer)
def _prefetch(context, builder, sig, args):
    kind = ir.IntType(8).as_pointer()
    place = builder.bitcast(_element_at(context, builder, sig.args[0], args[0], args[1]), kind)
    i32 = ir.IntType(32)
    function = ir.FunctionType(ir.VoidType(), [kind, i32, i32, i32])
    reading, keep_close, data = (ir.Constant(i32, c) for c in (0, 3, 1))
    builder.call(
        builder.module.declare_intrinsic("llvm.prefetch", (kind,), function), [place, reading, keep_close, data]
    )
    return context.get_dummy_value()


def stream(a, i, v):
    """a[i : i + 16] = v, past the caches; the address of a[i] is a multiple of WHOLE."""
    store(a, i, v)


typed(stream, lambda a, i, v: types.none)


@lower_builtin(stream, Flat, types.Integer, Vec)
@lower_builtin(stream, types.Array, types.Integer, Vec)
def _stream(context, builder, sig, args):
    return _written_past(context, builder, sig, args, _to_store(context, builder, sig.args[0].dtype, args[2]))


def _written_past(context, builder, sig, args, stored):
    place = _address(context, builder, sig.args[0], args[0], args[1])
    write = builder.store(stored, place, align=WHOLE)
    write.set_metadata("nontemporal", builder.module.add_metadata([_word(1)]))
    return context.get_dummy_value()


def stream_as(a, i, v, like):
    """As `stream`, of lanes in the order of `like`."""
    store(a, i, v)


typed(stream_as, lambda a, i, v, like: types.none)


@lower_builtin(stream_as, Flat, types.Integer, Vec, Flat)
def _stream_as(context, builder, sig, args):
    if not _reorders(context, sig.args[3].dtype):
        return _stream(context, builder, sig, args)
    return _written_past(context, builder, sig, args, _packed(builder, args[2]))


def itemsize(a):
    """Bytes of an element."""
    return a.itemsize


typed(itemsize, lambda a: types.int64)


@lower_builtin(itemsize, Flat)
@lower_builtin(itemsize, types.Array)
def _itemsize(context, builder, sig, args):
    return ir.Constant(ir.IntType(64), sig.args[0].dtype.bitwidth // 8)


def is_wide():
    """Has the processor vectors of 64 bytes? Those that have also have level-2 caches of a megabyte and more."""
    return False


typed(is_wide, lambda: types.boolean)


@lower_builtin(is_wide)
def _lower_is_wide(context, builder, sig, args):
    return ir.Constant(ir.IntType(1), int(_is_wide(context)))


def zeros(a):
    """Lanes of 0, of the type that the elements of `a` are computed in."""
    return np.zeros(LANES, np.float64 if a.itemsize == 8 else np.float32).view(Values)


typed(zeros, lambda a: Vec(of(a.dtype)))


@lower_builtin(zeros, Flat)
@lower_builtin(zeros, types.Array)
def _zeros(context, builder, sig, args):
    return ir.Constant(llvm_type(sig.return_type.dtype), None)


LOCAL = 4096  # bytes of a workspace that lies on the stack: to get and free memory takes 40 ns


def workspace(count, a):
    """A new array of the type that the elements of `a` are computed in, for as long as the kernel runs."""
    return np.empty(count, np.float64 if a.itemsize == 8 else np.float32)


typed(workspace, lambda count, a: types.Array(of(a.dtype), 1, "C"))


@lower_builtin(workspace, types.Integer, Flat)
@lower_builtin(workspace, types.Integer, types.Array)
def _workspace(context, builder, sig, args):
    size = ir.Constant(ir.IntType(64), sig.return_type.dtype.bitwidth // 8)
    array = context.make_array(sig.return_type)(context, builder)
    with builder.goto_entry_block():
        local = builder.alloca(ir.ArrayType(ir.IntType(8), LOCAL))
        local.align = 64
    length = builder.mul(args[0], size)
    held = cgutils.alloca_once(builder, array.meminfo.type, zfill=True)  # none
    data = cgutils.alloca_once_value(builder, builder.bitcast(local, array.data.type))
    with builder.if_then(builder.icmp_unsigned(">", length, ir.Constant(length.type, LOCAL))):
        taken = context.nrt.meminfo_alloc_aligned(builder, length, align=64)
        builder.store(taken, held)
        builder.store(builder.bitcast(context.nrt.meminfo_data(builder, taken), array.data.type), data)
    populate_array(array, builder.load(data), [args[0]], [size], size, builder.load(held))
    return impl_ret_new_ref(context, builder, sig.return_type, array._getvalue())


def clear(a, i, count):
    """a[i : i + count] = 0."""
    a.reshape(-1)[i : i + count] = 0


typed(clear, lambda a, i, count: types.none)


@lower_builtin(clear, types.Array, types.Integer, types.Integer)
def _clear(context, builder, sig, args):
    size = ir.Constant(ir.IntType(64), sig.args[0].dtype.bitwidth // 8)
    cgutils.memset(builder, _element_at(context, builder, sig.args[0], args[0], args[1]), builder.mul(args[2], size), 0)
    return context.get_dummy_value()
