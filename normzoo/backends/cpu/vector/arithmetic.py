"""Arithmetic of lanes, and conversion between lanes and scalars."""

import operator
from collections.abc import Callable

import numpy as np
from llvmlite import ir
from numba.core import types

from normzoo.backends.cpu.numba_internals.way import lower, typed
from normzoo.backends.cpu.vector.lanes import LANES, Flat, Values, Vec, filled, intrinsic, llvm_type, mask, of, suffix

# -- lanes from and to scalars -----------------------------------------------------------------------------


def lane(v, i):
    """Lane i, as a scalar."""
    return v[i]


typed(lane, lambda v, i: v.dtype)


@lower(lane, Vec, types.Integer)
def _lane(context, builder, sig, args):
    return builder.extract_element(args[0], args[1])


def splat(value):
    """16 times `value`, which is a NumPy or Numba scalar of the wanted type."""
    return np.full(LANES, value).view(Values)


typed(splat, lambda value: Vec(value))  # noqa: PLW0108 (Numba reads the signature)


@lower(splat, types.Float)
def _splat_lower(context, builder, sig, args):
    return filled(builder, args[0])


def keep(v, count):
    """The first `count` lanes, followed by zeros."""
    return np.where(np.arange(LANES) < count, v, v.dtype.type(0))


typed(keep, lambda v, count: v)


@lower(keep, Vec, types.Integer)
def _keep(context, builder, sig, args):
    count = context.cast(builder, args[1], sig.args[1], types.int64)
    return builder.select(mask(builder, count), args[0], ir.Constant(args[0].type, None))


def total(v):
    """The sum of the lanes, always in the same order."""
    half = LANES
    while half > 1:
        half //= 2
        v = v[:half] + v[half:]
    return v[0]


typed(total, lambda v: v.dtype)


@lower(total, Vec)
def _total(context, builder, sig, args):
    return _folded(builder, args[0], lambda builder, low, high: builder.fadd(low, high))


def _folded(builder, v, join):
    """All lanes combined, halves at a time."""
    half = LANES
    while half > 1:
        half //= 2
        kind = ir.VectorType(ir.IntType(32), half)
        low = builder.shuffle_vector(v, v, ir.Constant(kind, list(range(half))))
        high = builder.shuffle_vector(v, v, ir.Constant(kind, list(range(half, 2 * half))))
        v = join(builder, low, high)
    return builder.extract_element(v, ir.Constant(ir.IntType(32), 0))


def wide(v):
    """Lanes, or a scalar, as float64."""
    return v.astype(np.float64)


typed(wide, lambda v: _like(v, types.float64))


def _like(v, dtype):
    """The Numba type: lanes of `dtype` if v is lanes, else a scalar."""
    return Vec(dtype) if isinstance(v, Vec) else dtype


@lower(wide, Vec)
@lower(wide, types.Float)
def _wide(context, builder, sig, args):
    kind = context.get_value_type(sig.return_type)
    return args[0] if args[0].type == kind else builder.fpext(args[0], kind)


def narrow(v, like):
    """Lanes or a scalar, converted to the computing type for elements of the array `like`."""
    return v.astype(np.float64 if like.dtype == np.float64 else np.float32)


typed(narrow, lambda v, like: _like(v, of(like.dtype)))


@lower(narrow, Vec, Flat)
@lower(narrow, types.Float, Flat)
def _narrow(context, builder, sig, args):
    wanted, given = of(sig.args[1].dtype).bitwidth, getattr(sig.args[0], "dtype", sig.args[0]).bitwidth
    if wanted == given:
        return args[0]
    kind = context.get_value_type(sig.return_type)
    return builder.fptrunc(args[0], kind) if wanted < given else builder.fpext(args[0], kind)


def _constant(kind: ir.Type, value: float) -> ir.Constant:
    """A constant, as scalar or lanes."""
    return ir.Constant(kind, [value] * LANES if isinstance(kind, ir.VectorType) else value)


def _bits_of(v) -> ir.Type:
    """The integer type with the bits of float64."""
    return ir.VectorType(ir.IntType(64), LANES) if isinstance(v.type, ir.VectorType) else ir.IntType(64)


# -- arithmetic: + - * / are Python's; the rest by name -----------------------------------------------------


def _arithmetic(op: Callable, instruction: str) -> None:
    def rule(a, b):
        return a if isinstance(a, Vec) and a == b else None

    typed(op, rule)

    @lower(op, Vec, Vec)
    def lowered(context, builder, sig, args):
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


typed(fma, lambda a, b, c: a)


@lower(fma, Vec, Vec, Vec)
def _fma(context, builder, sig, args):
    dtype = sig.args[0].dtype
    return intrinsic(builder, f"llvm.fma.{suffix(dtype)}", llvm_type(dtype), list(args))


def minus(v):
    """-v."""
    return -v


typed(minus, lambda v: v)


@lower(minus, Vec)
@lower(minus, types.Float)
def _minus(context, builder, sig, args):
    return builder.fneg(args[0])


def magnitude(v):
    """|v|, of lanes or a scalar."""
    return np.abs(v)


typed(magnitude, lambda v: v)


@lower(magnitude, Vec)
@lower(magnitude, types.Float)
def _magnitude(context, builder, sig, args):
    return intrinsic(builder, f"llvm.fabs.{_suffix(sig.args[0])}", args[0].type, [args[0]])


def _suffix(kind) -> str:
    """How LLVM names a function of lanes, or of a scalar."""
    return suffix(kind.dtype) if isinstance(kind, Vec) else f"f{kind.bitwidth}"


def root(v):
    """Square root, of lanes or a scalar."""
    return np.sqrt(v)


typed(root, lambda v: v)


@lower(root, Vec)
@lower(root, types.Float)
def _root(context, builder, sig, args):
    return intrinsic(builder, f"llvm.sqrt.{_suffix(sig.args[0])}", args[0].type, [args[0]])


def larger(a, b):
    """The larger of a and b, of lanes, numbers or integers; NaN where a is NaN."""
    return np.where(a < b, b, a)[()]


def _are_integers(a, b) -> bool:
    return isinstance(a, types.Integer) and isinstance(b, types.Integer)


typed(larger, lambda a, b: types.int64 if _are_integers(a, b) else a if a == b else None)


@lower(larger, Vec, Vec)
@lower(larger, types.Float, types.Float)
def _larger(context, builder, sig, args):
    return builder.select(builder.fcmp_ordered("<", *args), args[1], args[0])


@lower(larger, types.Integer, types.Integer)
def _larger_integer(context, builder, sig, args):
    a, b = (context.cast(builder, v, t, sig.return_type) for v, t in zip(args, sig.args, strict=True))
    return builder.select(builder.icmp_signed("<", a, b), b, a)


def smaller(a, b):
    """The smaller of two integers, or of lanes. Numba compiles its `min` and `max` as functions of their own."""
    return np.where(b < a, b, a) if isinstance(a, np.ndarray) else b if b < a else a


typed(smaller, lambda a, b: types.int64 if _are_integers(a, b) else a if a == b and isinstance(a, Vec) else None)


@lower(smaller, Vec, Vec)
def _smaller_lanes(context, builder, sig, args):
    return _lesser(builder, *args)


def _lesser(builder, a, b):
    return builder.select(builder.fcmp_ordered("<", b, a), b, a)


@lower(smaller, types.Integer, types.Integer)
def _smaller(context, builder, sig, args):
    a, b = (context.cast(builder, v, t, sig.return_type) for v, t in zip(args, sig.args, strict=True))
    return builder.select(builder.icmp_signed("<", b, a), b, a)


def inverse(v):
    """1 / v, for lanes or a scalar; 0 where v is 0."""
    return np.where(v == 0, v, 1 / np.where(v == 0, 1, v))[()]


typed(inverse, lambda v: v)


@lower(inverse, Vec)
@lower(inverse, types.Float)
def _inverse(context, builder, sig, args):
    v = args[0]
    zero, one = _constant(v.type, 0.0), _constant(v.type, 1.0)
    return builder.select(builder.fcmp_ordered("==", v, zero), zero, builder.fdiv(one, v))


def sign(v):
    """-1, 0 or 1 by lane; NaN stays NaN."""
    return np.sign(v)


typed(sign, lambda v: v)


@lower(sign, Vec)
def _sign(context, builder, sig, args):
    v = args[0]
    zero, one, minus = (ir.Constant(v.type, [c] * LANES) for c in (0.0, 1.0, -1.0))
    up = builder.select(builder.fcmp_ordered(">", v, zero), one, v)
    return builder.select(builder.fcmp_ordered("<", v, zero), minus, up)
