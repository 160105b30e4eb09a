"""What lanes compute: lanes from and to scalars, and arithmetic."""

import operator
from collections.abc import Callable
from itertools import product

import numpy as np
from llvmlite import ir
from numba.core import types

from normzoo.backends.cpu.numba_internals.way import lower, typed
from normzoo.backends.cpu.vector.lanes import LANES, Flat, Values, Vec, filled, intrinsic, mask, of
from normzoo.backends.lanes import choose, fma, larger, magnitude, minus, root, smaller

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


# -- arithmetic: + - * / are Python's; the rest by name, what `backends/lanes.py` has from there ------------


def _joint(*kinds):
    """The type of the lanes among these; None where there are none, or of two types, or what is no number."""
    lanes = {kind for kind in kinds if isinstance(kind, Vec)}
    known = all(isinstance(kind, (Vec, types.Integer, types.Float)) for kind in kinds)
    return lanes.pop() if known and len(lanes) == 1 else None


def _lower_joint(primitive: Callable, count: int, lowered: Callable) -> None:
    """`lowered(builder, *lanes)`, of lanes and of numbers, which become lanes of their type."""

    def of_lanes(context, builder, sig, args):
        kind = sig.return_type.dtype
        lanes = [
            v if isinstance(given, Vec) else filled(builder, context.cast(builder, v, given, kind))
            for v, given in zip(args, sig.args, strict=True)
        ]
        return lowered(builder, *lanes)

    for kinds in product((Vec, types.Number), repeat=count):
        if Vec in kinds:
            lower(primitive, *kinds)(of_lanes)


def _arithmetic(op: Callable, instruction: str) -> None:
    typed(op, lambda a, b: _joint(a, b))  # noqa: PLW0108 (Numba reads the signature)
    _lower_joint(op, 2, lambda builder, a, b: getattr(builder, instruction)(a, b))


for _name, _instruction in {"add": "fadd", "sub": "fsub", "mul": "fmul", "truediv": "fdiv"}.items():
    _arithmetic(getattr(operator, _name), _instruction)
    _arithmetic(getattr(operator, f"i{_name}"), _instruction)

typed(fma, lambda a, b, c: _joint(a, b, c))  # noqa: PLW0108


def _fused(builder, a, b, c):
    return intrinsic(builder, f"llvm.fma.{_suffix(a)}", a.type, [a, b, c])


_lower_joint(fma, 3, _fused)


def _of_one(primitive: Callable, lowered: Callable, *kinds: type) -> None:
    """Of lanes, or a scalar."""
    typed(primitive, lambda v: v if isinstance(v, kinds) else None)

    def of_v(context, builder, sig, args):
        return lowered(builder, args[0])

    for kind in kinds:
        lower(primitive, kind)(of_v)


def _suffix(v) -> str:
    """How LLVM names a function of such lanes, or of such a scalar."""
    element = v.type.element if isinstance(v.type, ir.VectorType) else v.type
    bits = 32 if isinstance(element, ir.FloatType) else 64
    return f"v{LANES}f{bits}" if isinstance(v.type, ir.VectorType) else f"f{bits}"


def _magnitude(builder, v):
    return intrinsic(builder, f"llvm.fabs.{_suffix(v)}", v.type, [v])


def _root(builder, v):
    return intrinsic(builder, f"llvm.sqrt.{_suffix(v)}", v.type, [v])


_of_one(operator.neg, lambda builder, v: builder.fneg(v), Vec)  # numbers are Numba's
_of_one(minus, lambda builder, v: builder.fneg(v), Vec, types.Float)
_of_one(magnitude, _magnitude, Vec, types.Float)
_of_one(root, _root, Vec, types.Float)


def _greater(builder, a, b):
    return builder.select(builder.fcmp_ordered("<", a, b), b, a)


def _lesser(builder, a, b):
    return builder.select(builder.fcmp_ordered("<", b, a), b, a)


def _extreme(primitive: Callable, of_floats: Callable, sense: str) -> None:
    """Of lanes and numbers, of two floats, or of two integers."""

    def rule(a, b):
        if isinstance(a, types.Integer) and isinstance(b, types.Integer):
            return types.int64
        return a if isinstance(a, types.Float) and a == b else _joint(a, b)

    typed(primitive, rule)
    _lower_joint(primitive, 2, of_floats)

    @lower(primitive, types.Float, types.Float)
    def _floats(context, builder, sig, args):
        return of_floats(builder, *args)

    @lower(primitive, types.Integer, types.Integer)
    def _integers(context, builder, sig, args):
        a, b = (context.cast(builder, v, t, sig.return_type) for v, t in zip(args, sig.args, strict=True))
        return builder.select(builder.icmp_signed(sense, b, a), b, a)


_extreme(larger, _greater, ">")
_extreme(smaller, _lesser, "<")


def _chosen(builder, v, a, b):
    zero = ir.Constant(v.type, None)
    other = builder.select(builder.fcmp_unordered("uno", v, v), v, b)
    return builder.select(builder.fcmp_ordered(">", v, zero), a, other)


typed(choose, lambda v, a, b: _joint(v, a, b))  # noqa: PLW0108
_lower_joint(choose, 3, _chosen)


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
