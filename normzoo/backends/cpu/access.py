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

from normzoo.backends.cpu.lanes import LANES, Flat, Values, Vec, intrinsic, is_short, llvm_type, mask, of, suffix, typed


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


def _to_store(builder, dtype: Any, v):
    """What to write to memory, rounded to nearest, ties to even."""
    if not is_short(dtype):
        return v
    if dtype.signed:
        return builder.bitcast(builder.fptrunc(v, ir.VectorType(ir.HalfType(), LANES)), _SHORTS)
    bits = builder.bitcast(v, _WORDS)
    odd = builder.and_(builder.lshr(bits, _words(16)), _words(1))
    rounded = builder.add(builder.add(bits, _words(0x7FFF)), odd)
    # NaN has any payload, and rounding one up may carry over: all its bits are set instead.
    rounded = builder.or_(rounded, builder.sext(builder.fcmp_unordered("uno", v, v), _WORDS))
    return builder.trunc(builder.lshr(rounded, _words(16)), _SHORTS)


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
    rounded = np.where(np.isnan(v), 0xFFFFFFFF, bits + 0x7FFF + (bits >> 16 & 1))
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


def load_any(a, i):
    """As `load`, but in whatever order takes the fewest instructions; it is the same for all arrays of a dtype."""
    return load(a, i)


typed(load_any, lambda a, i: Vec(of(a.dtype)))


@lower_builtin(load_any, Flat, types.Integer)
def _load_any(context, builder, sig, args):
    dtype = sig.args[0].dtype
    if not is_short(dtype) or dtype.signed:
        return _load(context, builder, sig, args)
    # bfloat16: of each pair the second is the upper half of a word, and the first is moved there.
    half = ir.VectorType(ir.IntType(32), LANES // 2)
    place = builder.bitcast(_element_at(context, builder, sig.args[0], args[0], args[1]), half.as_pointer())
    pairs = builder.load(place, align=dtype.bitwidth // 8)
    first = builder.shl(pairs, ir.Constant(half, [16] * (LANES // 2)))
    second = builder.and_(pairs, ir.Constant(half, [0xFFFF0000] * (LANES // 2)))
    order = ir.Constant(_WORDS, list(range(LANES)))
    return builder.bitcast(builder.shuffle_vector(first, second, order), llvm_type(types.float32))


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
    builder.store(_to_store(builder, dtype, args[2]), place, align=dtype.bitwidth // 8)
    return context.get_dummy_value()


def store_n(a, i, v, count):
    """a[i : i + count] = v[:count]."""
    count = min(count, LANES)
    a.reshape(-1)[i : i + count] = _as_stored(a, v)[:count]


typed(store_n, lambda a, i, v, count: types.none)


@lower_builtin(store_n, Flat, types.Integer, Vec, types.Integer)
@lower_builtin(store_n, types.Array, types.Integer, Vec, types.Integer)
def _store_n(context, builder, sig, args):
    dtype = sig.args[0].dtype
    place = _address(context, builder, sig.args[0], args[0], args[1])
    count = context.cast(builder, args[3], sig.args[3], types.int64)
    align = ir.Constant(ir.IntType(32), dtype.bitwidth // 8)
    name = f"llvm.masked.store.{suffix(dtype)}.p0{suffix(dtype)}"
    v = _to_store(builder, dtype, args[2])
    intrinsic(builder, name, ir.VoidType(), [v, place, align, mask(builder, count)])
    return context.get_dummy_value()


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


def put(a, i, value):
    """a[i] = value, flat."""
    a.reshape(-1)[i] = value


typed(put, lambda a, i, value: types.none)


@lower_builtin(put, Flat, types.Integer, types.Float)
@lower_builtin(put, types.Array, types.Integer, types.Float)
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
    dtype = sig.args[0].dtype
    place = _address(context, builder, sig.args[0], args[0], args[1])
    write = builder.store(_to_store(builder, dtype, args[2]), place, align=WHOLE)
    one = builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)])
    write.set_metadata("nontemporal", one)
    return context.get_dummy_value()


def is_double(a):
    """Are the elements float64?"""
    return a.dtype == np.float64


typed(is_double, lambda a: types.boolean)


@lower_builtin(is_double, Flat)
@lower_builtin(is_double, types.Array)
def _is_double(context, builder, sig, args):
    return ir.Constant(ir.IntType(1), int(sig.args[0].dtype == types.float64))


def zeros(a):
    """Lanes of 0, of the type that the elements of `a` are computed in."""
    return np.zeros(LANES, np.float64 if is_double(a) else np.float32).view(Values)


typed(zeros, lambda a: Vec(of(a.dtype)))


@lower_builtin(zeros, Flat)
@lower_builtin(zeros, types.Array)
def _zeros(context, builder, sig, args):
    return ir.Constant(llvm_type(sig.return_type.dtype), None)


def workspace(count, a):
    """A new array of the type that the elements of `a` are computed in."""
    return np.empty(count, np.float64 if is_double(a) else np.float32)


typed(workspace, lambda count, a: types.Array(of(a.dtype), 1, "C"))


@lower_builtin(workspace, types.Integer, Flat)
@lower_builtin(workspace, types.Integer, types.Array)
def _workspace(context, builder, sig, args):
    # As np.empty, which is six functions to compile.
    size = ir.Constant(ir.IntType(64), sig.return_type.dtype.bitwidth // 8)
    held = context.nrt.meminfo_alloc_aligned(builder, builder.mul(args[0], size), align=64)
    array = context.make_array(sig.return_type)(context, builder)
    data = builder.bitcast(context.nrt.meminfo_data(builder, held), array.data.type)
    populate_array(array, data, [args[0]], [size], size, held)
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
