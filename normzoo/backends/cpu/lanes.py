"""Sixteen lanes: the vector value that every CPU kernel is written in.

A `Vec` holds 16 float32 or 16 float64 numbers and compiles to LLVM's vector type, which the code generator
splits into whatever registers the machine has. Because the lanes are fixed, the order of every sum is fixed:
the bits depend neither on the auto-vectorizer nor on the instruction set, and whether a loop is vectorized is
no longer a question. Masked loads and stores take care of tails.

Arrays of float32 and float64 are computed in their own type. Sixteen-bit floats are storage, which Numba has no type
for: an array of bfloat16 comes as its uint16 view and one of float16 as its int16 view, and loads and stores convert.

Every primitive is a plain Python function with its NumPy meaning as the body (which is what runs when Numba is
switched off) followed by its LLVM lowering. Arrays are C-contiguous and indexed flat, whatever their rank.
"""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import NativeValue, lower_builtin, models, overload, register_model, type_callable, unbox

LANES = 16


class Flat(types.Type):
    """Numba type of the values of an array, one behind the other, whatever its rank: a pointer and no more.

    So a kernel is compiled once for all ranks, takes read-only arrays as they are, and is called without the cost of
    unpacking shapes and strides. The caller vouches that the array is C-contiguous, aligned and of this dtype.
    """

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        super().__init__(name=f"flat_{dtype}")


@register_model(Flat)
class _FlatModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type: Flat) -> None:
        super().__init__(dmm, fe_type, _element(fe_type.dtype).as_pointer())


@unbox(Flat)
def _unbox_flat(typ, array, c):
    # NumPy's C interface: the pointer to the data is the first field of an array behind the head of every object.
    field = c.builder.gep(c.builder.bitcast(array, ir.IntType(8).as_pointer()), [_int64(object.__basicsize__)])
    kind = c.context.get_value_type(typ).as_pointer()
    return NativeValue(c.builder.load(c.builder.bitcast(field, kind)))


def _int64(value: int) -> ir.Constant:
    return ir.Constant(ir.IntType(64), value)


def _element(dtype: Any) -> ir.Type:
    """An element as it lies in memory."""
    if isinstance(dtype, types.Integer):
        return ir.IntType(16)
    return ir.FloatType() if dtype.bitwidth == 32 else ir.DoubleType()


class Vec(types.Type):
    """Numba type of 16 lanes of `dtype`."""

    def __init__(self, dtype: types.Float) -> None:
        self.dtype = dtype
        super().__init__(name=f"vec16_{dtype}")


@register_model(Vec)
class _VecModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type: Vec) -> None:
        super().__init__(dmm, fe_type, _llvm(fe_type.dtype))


def _is_short(dtype: Any) -> bool:
    """Is this the integer type that stands for a sixteen-bit float?"""
    return isinstance(dtype, types.Integer)


def of(dtype: Any) -> Any:
    """The type that elements of `dtype` are computed in."""
    return types.float32 if _is_short(dtype) else dtype


def _llvm(dtype: Any) -> ir.VectorType:
    return ir.VectorType(ir.FloatType() if dtype.bitwidth == 32 else ir.DoubleType(), LANES)


def _intrinsic(builder, name: str, result: ir.Type, args: list):
    kind = ir.FunctionType(result, [a.type for a in args])
    return builder.call(builder.module.declare_intrinsic(name, (), kind), args)


def _suffix(dtype: Any) -> str:
    return f"v{LANES}{'i' if _is_short(dtype) else 'f'}{dtype.bitwidth}"


def _splat(builder, value, count: int = LANES):
    one = builder.insert_element(
        ir.Constant(ir.VectorType(value.type, count), ir.Undefined), value, ir.Constant(ir.IntType(32), 0)
    )
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), count), [0] * count)
    return builder.shuffle_vector(one, one, zeros)


def _mask(builder, count):
    """Lanes below `count` are on."""
    kind = ir.VectorType(ir.IntType(32), LANES)
    count = builder.trunc(count, ir.IntType(32))
    return builder.icmp_signed("<", ir.Constant(kind, list(range(LANES))), _splat(builder, count))


def _element_at(context, builder, array_type, array, index):
    data = array if isinstance(array_type, Flat) else context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [index])


def _address(context, builder, array_type, array, index):
    place = _element_at(context, builder, array_type, array, index)
    return builder.bitcast(place, _stored(array_type.dtype).as_pointer())


_SHORTS = ir.VectorType(ir.IntType(16), LANES)
_WORDS = ir.VectorType(ir.IntType(32), LANES)


def _stored(dtype: Any) -> ir.VectorType:
    """Sixteen elements as they lie in memory."""
    return _SHORTS if _is_short(dtype) else _llvm(dtype)


def _loaded(builder, dtype: Any, v):
    """Lanes from what lay in memory."""
    if not _is_short(dtype):
        return v
    if dtype.signed:
        return builder.fpext(builder.bitcast(v, ir.VectorType(ir.HalfType(), LANES)), _llvm(types.float32))
    return builder.bitcast(builder.shl(builder.zext(v, _WORDS), _words(16)), _llvm(types.float32))


def _to_store(builder, dtype: Any, v):
    """What to write to memory, rounded to nearest, ties to even."""
    if not _is_short(dtype):
        return v
    if dtype.signed:
        return builder.bitcast(builder.fptrunc(v, ir.VectorType(ir.HalfType(), LANES)), _SHORTS)
    bits = builder.bitcast(v, _WORDS)
    odd = builder.and_(builder.lshr(bits, _words(16)), _words(1))
    rounded = builder.add(builder.add(bits, _words(0x7FFF)), odd)
    rounded = builder.select(builder.fcmp_unordered("uno", v, v), builder.or_(bits, _words(0x400000)), rounded)
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
    rounded = np.where(np.isnan(v), bits | 0x400000, bits + 0x7FFF + (bits >> 16 & 1))
    return (rounded >> 16).astype(np.uint16)


def _typed(function: Callable, rule: Callable) -> None:
    """Teach Numba's type inference `function`: its result type is `rule(*argument types)`."""

    @type_callable(function)
    def template(context):
        return rule


# -- memory ------------------------------------------------------------------------------------------------


def load(a, i):
    """Lanes a[i : i + 16]."""
    return _as_floats(a)[i : i + LANES].copy()


_typed(load, lambda a, i: Vec(of(a.dtype)))


@lower_builtin(load, Flat, types.Integer)
@lower_builtin(load, types.Array, types.Integer)
def _load(context, builder, sig, args):
    dtype = sig.args[0].dtype
    place = _address(context, builder, sig.args[0], args[0], args[1])
    return _loaded(builder, dtype, builder.load(place, align=dtype.bitwidth // 8))


def load_n(a, i, count):
    """Lanes a[i : i + count], the rest 0."""
    floats = _as_floats(a)
    v = np.zeros(LANES, floats.dtype)
    v[:count] = floats[i : i + count]
    return v


_typed(load_n, lambda a, i, count: Vec(of(a.dtype)))


@lower_builtin(load_n, Flat, types.Integer, types.Integer)
@lower_builtin(load_n, types.Array, types.Integer, types.Integer)
def _load_n(context, builder, sig, args):
    dtype = sig.args[0].dtype
    place = _address(context, builder, sig.args[0], args[0], args[1])
    count = context.cast(builder, args[2], sig.args[2], types.int64)
    align = ir.Constant(ir.IntType(32), dtype.bitwidth // 8)
    name = f"llvm.masked.load.{_suffix(dtype)}.p0{_suffix(dtype)}"
    zeros = ir.Constant(_stored(dtype), [0 if _is_short(dtype) else 0.0] * LANES)
    v = _intrinsic(builder, name, _stored(dtype), [place, align, _mask(builder, count), zeros])
    return _loaded(builder, dtype, v)


def store(a, i, v):
    """a[i : i + 16] = v."""
    a.reshape(-1)[i : i + LANES] = _as_stored(a, v)


_typed(store, lambda a, i, v: types.none)


@lower_builtin(store, Flat, types.Integer, Vec)
@lower_builtin(store, types.Array, types.Integer, Vec)
def _store(context, builder, sig, args):
    dtype = sig.args[0].dtype
    place = _address(context, builder, sig.args[0], args[0], args[1])
    builder.store(_to_store(builder, dtype, args[2]), place, align=dtype.bitwidth // 8)
    return context.get_dummy_value()


def store_n(a, i, v, count):
    """a[i : i + count] = v[:count]."""
    a.reshape(-1)[i : i + count] = _as_stored(a, v)[:count]


_typed(store_n, lambda a, i, v, count: types.none)


@lower_builtin(store_n, Flat, types.Integer, Vec, types.Integer)
@lower_builtin(store_n, types.Array, types.Integer, Vec, types.Integer)
def _store_n(context, builder, sig, args):
    dtype = sig.args[0].dtype
    place = _address(context, builder, sig.args[0], args[0], args[1])
    count = context.cast(builder, args[3], sig.args[3], types.int64)
    align = ir.Constant(ir.IntType(32), dtype.bitwidth // 8)
    name = f"llvm.masked.store.{_suffix(dtype)}.p0{_suffix(dtype)}"
    v = _to_store(builder, dtype, args[2])
    _intrinsic(builder, name, ir.VoidType(), [v, place, align, _mask(builder, count)])
    return context.get_dummy_value()


def at(a, i):
    """The scalar a[i], flat."""
    return _as_floats(a)[i]


_typed(at, lambda a, i: of(a.dtype))


@lower_builtin(at, Flat, types.Integer)
@lower_builtin(at, types.Array, types.Integer)
def _at(context, builder, sig, args):
    dtype = sig.args[0].dtype
    value = builder.load(_element_at(context, builder, sig.args[0], args[0], args[1]))
    if not _is_short(dtype):
        return value
    if dtype.signed:
        return builder.fpext(builder.bitcast(value, ir.HalfType()), ir.FloatType())
    word = builder.shl(builder.zext(value, ir.IntType(32)), ir.Constant(ir.IntType(32), 16))
    return builder.bitcast(word, ir.FloatType())


def put(a, i, value):
    """a[i] = value, flat."""
    a.reshape(-1)[i] = value


_typed(put, lambda a, i, value: types.none)


@lower_builtin(put, Flat, types.Integer, types.Float)
@lower_builtin(put, types.Array, types.Integer, types.Float)
def _put(context, builder, sig, args):
    value = context.cast(builder, args[2], sig.args[2], sig.args[0].dtype)
    builder.store(value, _element_at(context, builder, sig.args[0], args[0], args[1]))
    return context.get_dummy_value()


def prefetch(a, i):
    """Fetch the line of a[i] into the cache; i may lie beyond the array."""


_typed(prefetch, lambda a, i: types.none)


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
    """a[i : i + 16] = v, past the caches; a[i] begins a line of the cache (half a line of sixteen-bit floats)."""
    store(a, i, v)


_typed(stream, lambda a, i, v: types.none)


@lower_builtin(stream, Flat, types.Integer, Vec)
def _stream(context, builder, sig, args):
    dtype = sig.args[0].dtype
    place = _address(context, builder, sig.args[0], args[0], args[1])
    write = builder.store(_to_store(builder, dtype, args[2]), place, align=min(64, LANES * dtype.bitwidth // 8))
    one = builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)])
    write.set_metadata("nontemporal", one)
    return context.get_dummy_value()


def is_double(a):
    """Are the elements float64?"""
    return a.dtype == np.float64


_typed(is_double, lambda a: types.boolean)


@lower_builtin(is_double, Flat)
@lower_builtin(is_double, types.Array)
def _is_double(context, builder, sig, args):
    return ir.Constant(ir.IntType(1), int(sig.args[0].dtype == types.float64))


def zeros(a):
    """Lanes of 0, of the type that the elements of `a` are computed in."""
    return np.zeros(LANES, np.float64 if is_double(a) else np.float32)


_typed(zeros, lambda a: Vec(of(a.dtype)))


@lower_builtin(zeros, Flat)
@lower_builtin(zeros, types.Array)
def _zeros(context, builder, sig, args):
    return ir.Constant(_llvm(sig.return_type.dtype), [0.0] * LANES)


def workspace(count, a):
    """A new array of the type that the elements of `a` are computed in."""
    return np.empty(count, np.float64 if is_double(a) else np.float32)


@overload(workspace, inline="always")
def _workspace(count, a):
    dtype = np.float64 if a.dtype == types.float64 else np.float32
    return lambda count, a: np.empty(count, dtype)


# -- lanes from and to scalars -----------------------------------------------------------------------------


def lane(v, i):
    """Lane i."""
    return v[i]


_typed(lane, lambda v, i: v.dtype)


@lower_builtin(lane, Vec, types.Integer)
def _lane(context, builder, sig, args):
    return builder.extract_element(args[0], args[1])


def splat(value):
    """16 times `value`, which is a NumPy or Numba scalar of the wanted type."""
    return np.full(LANES, value)


_typed(splat, lambda value: Vec(value))  # noqa: PLW0108 (Numba reads the signature)


@lower_builtin(splat, types.Float)
def _splat_lower(context, builder, sig, args):
    return _splat(builder, args[0])


def keep(v, count):
    """The first `count` lanes, the rest 0."""
    return np.where(np.arange(LANES) < count, v, v.dtype.type(0))


_typed(keep, lambda v, count: v)


@lower_builtin(keep, Vec, types.Integer)
def _keep(context, builder, sig, args):
    count = context.cast(builder, args[1], sig.args[1], types.int64)
    return builder.select(_mask(builder, count), args[0], ir.Constant(args[0].type, [0.0] * LANES))


def total(v):
    """Sum of the lanes, always by the same tree."""
    half = LANES
    while half > 1:
        half //= 2
        v = v[:half] + v[half:]
    return v[0]


_typed(total, lambda v: v.dtype)


@lower_builtin(total, Vec)
def _total(context, builder, sig, args):
    v, half = args[0], LANES
    while half > 1:
        half //= 2
        kind = ir.VectorType(ir.IntType(32), half)
        low = builder.shuffle_vector(v, v, ir.Constant(kind, list(range(half))))
        high = builder.shuffle_vector(v, v, ir.Constant(kind, list(range(half, 2 * half))))
        v = builder.fadd(low, high)
    return builder.extract_element(v, ir.Constant(ir.IntType(32), 0))


def wide(v):
    """The lanes as float64."""
    return v.astype(np.float64)


_typed(wide, lambda v: Vec(types.float64))


@lower_builtin(wide, Vec)
def _wide(context, builder, sig, args):
    same = sig.args[0].dtype.bitwidth == 64
    return args[0] if same else builder.fpext(args[0], _llvm(types.float64))


def narrow(v, like):
    """The lanes rounded to the type that the elements of the array `like` are computed in."""
    return v.astype(np.float64 if like.dtype == np.float64 else np.float32)


_typed(narrow, lambda v, like: Vec(of(like.dtype)))


@lower_builtin(narrow, Vec, Flat)
@lower_builtin(narrow, Vec, types.Array)
def _narrow(context, builder, sig, args):
    dtype = of(sig.args[1].dtype)
    return args[0] if sig.args[0].dtype == dtype else builder.fptrunc(args[0], _llvm(dtype))


# -- arithmetic: + - * / are Python's; the rest by name -----------------------------------------------------


def _arithmetic(op: Callable, instruction: str) -> None:
    def rule(a, b):
        return a if isinstance(a, Vec) and a == b else None

    _typed(op, rule)

    @lower_builtin(op, Vec, Vec)
    def lower(context, builder, sig, args):
        return getattr(builder, instruction)(*args)


_arithmetic(operator.add, "fadd")
_arithmetic(operator.sub, "fsub")
_arithmetic(operator.mul, "fmul")
_arithmetic(operator.truediv, "fdiv")
_arithmetic(operator.iadd, "fadd")
_arithmetic(operator.isub, "fsub")


def fma(a, b, c):
    """a*b + c, rounded once (float64 lanes without Numba: twice)."""
    exact = a.astype(np.float64) * b.astype(np.float64) + c.astype(np.float64)
    return exact.astype(a.dtype)


_typed(fma, lambda a, b, c: a)


@lower_builtin(fma, Vec, Vec, Vec)
def _fma(context, builder, sig, args):
    dtype = sig.args[0].dtype
    return _intrinsic(builder, f"llvm.fma.{_suffix(dtype)}", _llvm(dtype), list(args))


def minus(v):
    """-v."""
    return -v


_typed(minus, lambda v: v)


@lower_builtin(minus, Vec)
def _minus(context, builder, sig, args):
    return builder.fneg(args[0])


def magnitude(v):
    """|v|."""
    return np.abs(v)


_typed(magnitude, lambda v: v)


@lower_builtin(magnitude, Vec)
def _magnitude(context, builder, sig, args):
    dtype = sig.args[0].dtype
    return _intrinsic(builder, f"llvm.fabs.{_suffix(dtype)}", _llvm(dtype), [args[0]])


def root(v):
    """Square root, of lanes or a scalar."""
    return np.sqrt(v)


_typed(root, lambda v: v)


@lower_builtin(root, Vec)
@lower_builtin(root, types.Float)
def _root(context, builder, sig, args):
    v = args[0]
    suffix = _suffix(sig.args[0].dtype) if isinstance(sig.args[0], Vec) else f"f{sig.args[0].bitwidth}"
    return _intrinsic(builder, f"llvm.sqrt.{suffix}", v.type, [v])


def larger(a, b):
    """The larger of a and b, of lanes or scalars; NaN where a is NaN."""
    return np.where(a < b, b, a)[()]


_typed(larger, lambda a, b: a if a == b else None)


@lower_builtin(larger, Vec, Vec)
@lower_builtin(larger, types.Float, types.Float)
def _larger(context, builder, sig, args):
    return builder.select(builder.fcmp_ordered("<", *args), args[1], args[0])


def below(v, limit, then):
    """`then` where v < limit, else 0."""
    return np.where(v < limit, then, 0.0)


_typed(below, lambda v, limit, then: v)


@lower_builtin(below, Vec, Vec, Vec)
def _below(context, builder, sig, args):
    zeros = ir.Constant(args[2].type, [0.0] * LANES)
    return builder.select(builder.fcmp_ordered("<", args[0], args[1]), args[2], zeros)


def inverse(v):
    """1 / v, of lanes or a scalar; 0 where v is 0."""
    return np.where(v == 0, v, 1 / np.where(v == 0, 1, v))[()]


_typed(inverse, lambda v: v)


@lower_builtin(inverse, Vec)
@lower_builtin(inverse, types.Float)
def _inverse(context, builder, sig, args):
    v = args[0]
    zero, one = (ir.Constant(v.type, [c] * LANES if isinstance(sig.args[0], Vec) else c) for c in (0.0, 1.0))
    return builder.select(builder.fcmp_ordered("==", v, zero), zero, builder.fdiv(one, v))


def sign(v):
    """-1, 0 or 1 by lane; NaN stays NaN."""
    return np.sign(v)


_typed(sign, lambda v: v)


@lower_builtin(sign, Vec)
def _sign(context, builder, sig, args):
    v = args[0]
    zero, one, minus = (ir.Constant(v.type, [c] * LANES) for c in (0.0, 1.0, -1.0))
    up = builder.select(builder.fcmp_ordered(">", v, zero), one, v)
    return builder.select(builder.fcmp_ordered("<", v, zero), minus, up)


def rescue(rstd, like):
    """Power of two near `rstd` where that is far from 1, else 1: keeps (x - mean) * rstd in the range of `like`."""
    low, high = _scale_range(like.dtype.itemsize)
    binade = np.clip(np.exp2(np.floor(np.log2(np.maximum(rstd, low)))), low, high)
    return np.where((rstd < 2.0**-60) | (rstd > 2.0**60), binade, 1.0)


def _scale_range(itemsize: int) -> tuple[float, float]:
    return (2.0**-1000, 2.0**1000) if itemsize == 8 else (2.0**-126, 2.0**126)


_typed(rescue, lambda rstd, like: rstd)


@lower_builtin(rescue, Vec, Flat)
@lower_builtin(rescue, Vec, types.Array)
def _rescue(context, builder, sig, args):
    v, kind = args[0], args[0].type
    bits = ir.VectorType(ir.IntType(64), LANES)

    def constant(c):
        return ir.Constant(kind, [c] * LANES)

    exponent = builder.and_(builder.bitcast(v, bits), ir.Constant(bits, [0x7FF0000000000000] * LANES))
    binade = builder.bitcast(exponent, kind)
    low, high = (constant(c) for c in _scale_range(sig.args[1].dtype.bitwidth // 8))
    binade = builder.select(builder.fcmp_ordered("<", binade, low), low, binade)
    binade = builder.select(builder.fcmp_ordered(">", binade, high), high, binade)
    small = builder.fcmp_ordered("<", v, constant(2.0**-60))
    large = builder.fcmp_ordered(">", v, constant(2.0**60))
    return builder.select(builder.or_(small, large), binade, constant(1.0))


def inverse_power(scale):
    """1 / scale, for lanes that are powers of two."""
    return 1 / scale


_typed(inverse_power, lambda scale: scale)


@lower_builtin(inverse_power, Vec)
def _inverse_power(context, builder, sig, args):
    bits = ir.VectorType(ir.IntType(64), LANES)
    twice = ir.Constant(bits, [2 * 1023 << 52] * LANES)  # exponents are kept with 1023 added
    return builder.bitcast(builder.sub(twice, builder.bitcast(args[0], bits)), args[0].type)
