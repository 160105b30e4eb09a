"""What lanes compute: lanes from and to scalars, and arithmetic."""

import operator
from collections.abc import Callable

import numpy as np
from llvmlite import ir
from numba.core import types

from normzoo.backends.cpu.compiling.target import lower, typed
from normzoo.backends.cpu.vector.lanes import LANES, Flat, Values, Vec, filled, intrinsic, llvm_type, mask, of, suffix

# -- lanes from and to scalars -----------------------------------------------------------------------------


def lane(v, i):
    """Lane i."""
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
    """The first `count` lanes, the rest 0."""
    return np.where(np.arange(LANES) < count, v, v.dtype.type(0))


typed(keep, lambda v, count: v)


@lower(keep, Vec, types.Integer)
def _keep(context, builder, sig, args):
    count = context.cast(builder, args[1], sig.args[1], types.int64)
    return builder.select(mask(builder, count), args[0], ir.Constant(args[0].type, None))


def total(v):
    """Sum of the lanes, always by the same tree."""
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
    """All lanes joined, by a tree of halves."""
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
    """The type of lanes of dtype, where v is one of lanes, or of a scalar."""
    return Vec(dtype) if isinstance(v, Vec) else dtype


@lower(wide, Vec)
@lower(wide, types.Float)
def _wide(context, builder, sig, args):
    kind = context.get_value_type(sig.return_type)
    return args[0] if args[0].type == kind else builder.fpext(args[0], kind)


def narrow(v, like):
    """Lanes, or a scalar, in the type that the elements of the array `like` are computed in: rounded, or as they are
    where that is no narrower."""
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
    """A scalar, or lanes of it."""
    return ir.Constant(kind, [value] * LANES if isinstance(kind, ir.VectorType) else value)


def _bits_of(v) -> ir.Type:
    """The integers that float64 are made of."""
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


def have_one_sign(low, high):
    """Are all of `low` above 0, or all of `high` below it?"""
    return bool((low > 0).all() or (high < 0).all())


typed(have_one_sign, lambda low, high: types.boolean)


@lower(have_one_sign, Vec, Vec)
def _have_one_sign(context, builder, sig, args):
    zero, bits = ir.Constant(args[0].type, None), ir.IntType(LANES)
    all_of = ir.Constant(bits, -1)
    found = [
        builder.icmp_unsigned("==", builder.bitcast(builder.fcmp_ordered(sense, v, zero), bits), all_of)
        for sense, v in zip("><", args, strict=True)
    ]
    return builder.or_(*found)


def nearer(a, b):
    """Which of two scalars is nearer to 0; 0 where their signs differ."""
    return max(min(a, b), a.dtype.type(0)) + min(max(a, b), a.dtype.type(0))


typed(nearer, lambda a, b: a if a == b else None)


@lower(nearer, types.Float, types.Float)
def _nearer(context, builder, sig, args):
    a, b = args
    zero, is_less = ir.Constant(a.type, 0.0), builder.fcmp_ordered("<", a, b)
    low, high = builder.select(is_less, a, b), builder.select(is_less, b, a)
    above = builder.select(builder.fcmp_ordered(">", low, zero), low, zero)
    return builder.fadd(above, builder.select(builder.fcmp_ordered("<", high, zero), high, zero))


def nearest(v):
    """The lane that is nearest to 0, of lanes of one sign."""
    return v.min() if v[0] > 0 else v.max()


typed(nearest, lambda v: v.dtype)


@lower(nearest, Vec)
def _nearest(context, builder, sig, args):
    zero = ir.Constant(args[0].type.element, 0.0)

    def the_nearer(builder, a, b):
        least, most = _lesser(builder, a, b), builder.select(builder.fcmp_ordered("<", a, b), b, a)
        positive = builder.fcmp_ordered(">", builder.extract_element(args[0], ir.Constant(ir.IntType(32), 0)), zero)
        return builder.select(positive, least, most)

    return _folded(builder, args[0], the_nearer)


def below(v, limit, then):
    """`then` where v < limit, else 0."""
    return np.where(v < limit, then, 0.0)


typed(below, lambda v, limit, then: v)


@lower(below, Vec, Vec, Vec)
def _below(context, builder, sig, args):
    zeros = ir.Constant(args[2].type, None)
    return builder.select(builder.fcmp_ordered("<", args[0], args[1]), args[2], zeros)


def is_outside(v, least, most):
    """Is a scalar, or any of the lanes, not a number from `least` to `most`, two scalars?"""
    return not np.all((least <= v) & (v <= most))


typed(is_outside, lambda v, least, most: types.boolean)


@lower(is_outside, Vec, types.Float, types.Float)
@lower(is_outside, types.Float, types.Float, types.Float)
def _is_outside(context, builder, sig, args):
    v, least, most = args
    if isinstance(sig.args[0], Vec):
        least, most = filled(builder, least), filled(builder, most)
    inside = builder.and_(builder.fcmp_ordered("<=", least, v), builder.fcmp_ordered("<=", v, most))
    if isinstance(sig.args[0], Vec):
        bits = ir.IntType(LANES)
        return builder.icmp_unsigned("!=", builder.bitcast(inside, bits), ir.Constant(bits, -1))
    return builder.not_(inside)


def inverse(v):
    """1 / v, of lanes or a scalar; 0 where v is 0."""
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


def rescue(rstd, like):
    """Power of two near `rstd` where that is far from 1, else 1: keeps (x - mean) * rstd in the range of `like`. For an
    rstd beyond float64, see `Backend`, 1 / BEYOND."""
    low, high = _scale_range(like.dtype.itemsize)
    if like.dtype.itemsize == 8:
        rstd = np.where(rstd < 0, high, rstd)
    binade = np.clip(np.exp2(np.floor(np.log2(np.maximum(rstd, low)))), low, high)
    return np.where((rstd < 2.0**-20) | (rstd > 2.0**20), binade, 1.0)


def _scale_range(itemsize: int) -> tuple[float, float]:
    # the least rstd of float32 is 2^-128, so that offsets are no larger than xhat, and their sums overflow no sooner
    return (2.0**-1000, 2.0**1000) if itemsize == 8 else (2.0**-128, 2.0**126)


typed(rescue, lambda rstd, like: rstd)


@lower(rescue, Vec, Flat)
@lower(rescue, types.Float, Flat)
def _rescue(context, builder, sig, args):
    v, kind, bits = args[0], args[0].type, _bits_of(args[0])
    if sig.args[1].dtype.bitwidth == 64:
        beyond = _constant(kind, _scale_range(8)[1])
        v = builder.select(builder.fcmp_ordered("<", v, _constant(kind, 0.0)), beyond, v)
    exponent = builder.and_(builder.bitcast(v, bits), _constant(bits, 0x7FF0000000000000))
    binade = builder.bitcast(exponent, kind)
    low, high = (_constant(kind, c) for c in _scale_range(sig.args[1].dtype.bitwidth // 8))
    binade = builder.select(builder.fcmp_ordered("<", binade, low), low, binade)
    binade = builder.select(builder.fcmp_ordered(">", binade, high), high, binade)
    small = builder.fcmp_ordered("<", v, _constant(kind, 2.0**-20))
    large = builder.fcmp_ordered(">", v, _constant(kind, 2.0**20))
    return builder.select(builder.or_(small, large), binade, _constant(kind, 1.0))


def scale_for(mean, scale, like):
    """`scale`, a power of two, or a quarter of it where x - mean, times it, might leave the range of `like`."""
    return np.where(np.abs(mean) > _far(like.dtype.itemsize), scale / 4, scale)[()]


def _far(itemsize: int) -> float:
    return 2.0**900 if itemsize == 8 else 2.0**100


typed(scale_for, lambda mean, scale, like: scale if mean == scale else None)


@lower(scale_for, Vec, Vec, Flat)
@lower(scale_for, types.Float, types.Float, Flat)
def _scale_for(context, builder, sig, args):
    mean, scale, _ = args
    far = _constant(mean.type, _far(sig.args[2].dtype.bitwidth // 8))
    is_far = builder.or_(builder.fcmp_ordered(">", mean, far), builder.fcmp_ordered(">", builder.fneg(mean), far))
    return builder.select(is_far, builder.fmul(scale, _constant(scale.type, 0.25)), scale)


def within(rstd):
    """rstd, or inf for what stands for one beyond float64."""
    return np.where(rstd < 0, np.inf, rstd)[()]


typed(within, lambda rstd: rstd)


@lower(within, Vec)
@lower(within, types.Float)
def _within(context, builder, sig, args):
    v = args[0]
    is_beyond = builder.fcmp_ordered("<", v, _constant(v.type, 0.0))
    return builder.select(is_beyond, _constant(v.type, float("inf")), v)


def inverse_power(scale):
    """1 / scale, of lanes or a scalar, which are powers of two."""
    return 1 / scale


typed(inverse_power, lambda scale: scale)


@lower(inverse_power, Vec)
@lower(inverse_power, types.Float)
def _inverse_power(context, builder, sig, args):
    bits = _bits_of(args[0])
    twice = _constant(bits, 2 * 1023 << 52)  # exponents are kept with 1023 added
    return builder.bitcast(builder.sub(twice, builder.bitcast(args[0], bits)), args[0].type)
