"""Arithmetic on lanes, lane by lane. An operand with fewer lanes is repeated; a scalar fits any vector."""

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.cuda import types
from numba.cuda.extending import intrinsic, lower_builtin, type_callable

from normzoo.backends.cuda.lanes import (
    I1,
    I32,
    I64,
    Vec,
    call,
    common_type,
    constant,
    converted,
    fitted,
    is_float,
    joined,
    llvm,
    of,
    plain,
    repeated,
    shuffled,
    suffix,
)


def _operator(op: Callable, floats: str, integers: str, compares: bool = False) -> None:
    """Define the operator `op` for vectors, by these builder methods or comparisons."""

    def lower(context, builder, sig, args):
        common = common_type(*sig.args)
        a, b = (fitted(builder, v, kind, common) for v, kind in zip(args, sig.args, strict=True))
        if not compares:
            return getattr(builder, floats if is_float(common.dtype) else integers)(a, b)
        return (builder.fcmp_ordered if is_float(common.dtype) else builder.icmp_signed)(floats, a, b)

    @type_callable(op)
    def _type(context):
        def typer(a, b):
            common = common_type(a, b)
            return common if common is None or not compares else Vec(types.boolean, common.count)

        return typer

    for kinds in ((Vec, Vec), (Vec, types.Number), (types.Number, Vec)):
        lower_builtin(op, *kinds)(lower)


_operator(operator.add, "fadd", "add")
_operator(operator.sub, "fsub", "sub")
_operator(operator.mul, "fmul", "mul")
_operator(operator.truediv, "fdiv", "sdiv")
_operator(operator.and_, "and_", "and_")
_operator(operator.or_, "or_", "or_")
_operator(operator.lt, "<", "<", True)
_operator(operator.le, "<=", "<=", True)
_operator(operator.gt, ">", ">", True)


def _lanewise(returns: Callable, lower: Callable) -> Any:
    """An intrinsic with one vector argument: lower(builder, result type, argument type, argument)."""

    def function(typingctx, v):
        result = returns(v)
        return result(v), lambda context, builder, sig, args: lower(builder, result, v, args[0])

    return intrinsic(function)


def _guess(builder, result, kind, v):
    lanes = ir.VectorType(I64, kind.count)
    half = builder.lshr(builder.bitcast(v, lanes), constant(lanes, 1))
    return builder.bitcast(builder.sub(constant(lanes, 0x5FE6EB50C7B537A9), half), v.type)


def absolute(builder, result, kind, v):
    """|v|, by its bits."""
    bits = ir.VectorType(ir.IntType(kind.dtype.bitwidth), kind.count)
    return builder.bitcast(
        builder.and_(builder.bitcast(v, bits), constant(bits, (1 << kind.dtype.bitwidth - 1) - 1)), v.type
    )


guess_inverse_root = _lanewise(lambda v: v, _guess)  # 1 / sqrt of float64 lanes, within 4 %
magnitude = _lanewise(lambda v: v, absolute)
wide = _lanewise(
    lambda v: Vec(types.float64, v.count),
    lambda builder, r, k, v: converted(builder, v, k.dtype, types.float64, k.count),
)
unlike = _lanewise(
    lambda v: Vec(types.boolean, v.count), lambda builder, r, k, v: builder.xor(v, constant(v.type, 1))
)  # not


@intrinsic
def sign(typingctx, v):
    """-1, 0 or 1; NaN for NaN."""

    def lower(context, builder, sig, args):
        (a,) = args
        zero = constant(a.type, 0.0)
        up = builder.select(builder.fcmp_ordered(">", a, zero), constant(a.type, 1.0), a)
        return builder.select(builder.fcmp_ordered("<", a, zero), constant(a.type, -1.0), up)

    return v(v), lower


@intrinsic
def narrow(typingctx, v, like):
    """float64 lanes, converted to the computing type of `like`, an array or vector."""
    result = Vec(like.dtype if isinstance(like, Vec) else of(like), v.count)
    return result(v, like), lambda context, builder, sig, args: converted(
        builder, args[0], v.dtype, result.dtype, v.count
    )


@intrinsic
def choose(typingctx, mask, a, b):
    """a where `mask` is set, b elsewhere."""
    result = common_type(a, b) or Vec(types.float64, mask.count)

    def lower(context, builder, sig, args):
        chosen, one, two = args
        if mask.count != result.count:
            chosen = shuffled(builder, chosen, [i % mask.count for i in range(result.count)])
        return builder.select(chosen, fitted(builder, one, a, result), fitted(builder, two, b, result))

    return result(mask, a, b), lower


@intrinsic
def fma(typingctx, a, b, c):
    """a * b + c, rounded once."""
    result = common_type(a, b, c)

    def lower(context, builder, sig, args):
        args = [fitted(builder, v, k, result) for v, k in zip(args, (a, b, c), strict=True)]
        return call(builder, f"llvm.fma.{suffix(result)}", args[0].type, args)

    return result(a, b, c), lower


@intrinsic
def splat(typingctx, value, count):
    """`count` lanes of one number."""
    if not isinstance(count, types.IntegerLiteral):
        return None
    result = Vec(plain(value), count.literal_value)
    return result(value, count), lambda context, builder, sig, args: repeated(builder, args[0], result.count)


@intrinsic
def steps(typingctx, first, step, count):
    """first + step * (0, 1, 2, ...), in the type of `first`."""
    if not (isinstance(count, types.IntegerLiteral) and isinstance(step, types.IntegerLiteral)):
        return None
    result = Vec(plain(first), count.literal_value)

    def lower(context, builder, sig, args):
        ladder = ir.Constant(llvm(result), [i * step.literal_value for i in range(result.count)])
        return builder.add(repeated(builder, args[0], result.count), ladder)

    return result(first, step, count), lower


@intrinsic
def quotient(typingctx, v, magic, shift):
    """v // d for 0 <= v < 2^31: (v * magic) >> shift; see `geometry.magic_of`."""

    def lower(context, builder, sig, args):
        lanes = ir.VectorType(I64, v.count)
        product = builder.mul(
            converted(builder, args[0], v.dtype, types.int64, v.count), repeated(builder, args[1], v.count)
        )
        found = builder.lshr(product, builder.zext(repeated(builder, args[2], v.count), lanes))
        return builder.trunc(found, llvm(v)) if v.dtype != types.int64 else found

    return v(v, types.int64, types.int32), lower


@intrinsic
def power_near(typingctx, v, inverse, limit):
    """The power of two below positive float64 lanes (that of their exponent), or its inverse, from 2^-limit to
    2^limit."""
    if not (isinstance(inverse, types.IntegerLiteral) and isinstance(limit, types.IntegerLiteral)):
        return None
    flip, most = inverse.literal_value, limit.literal_value

    def lower(context, builder, sig, args):
        kind = ir.VectorType(I64, v.count)
        exponent = builder.lshr(builder.bitcast(args[0], kind), constant(kind, 52))
        exponent = builder.and_(exponent, constant(kind, 0x7FF))
        if flip:
            exponent = builder.sub(constant(kind, 2046), exponent)
        low, high = constant(kind, 1023 - most), constant(kind, 1023 + most)
        exponent = builder.select(builder.icmp_signed("<", exponent, low), low, exponent)
        exponent = builder.select(builder.icmp_signed(">", exponent, high), high, exponent)
        return builder.bitcast(builder.shl(exponent, constant(kind, 52)), args[0].type)

    return v(v, inverse, limit), lower


@intrinsic
def some(typingctx, mask):
    """Is any lane of the mask true?"""

    def lower(context, builder, sig, args):
        found = builder.extract_element(args[0], constant(I32, 0))
        for i in range(1, mask.count):
            found = builder.or_(found, builder.extract_element(args[0], constant(I32, i)))
        return builder.zext(found, ir.IntType(8)) if context.get_value_type(types.boolean) != I1 else found

    return types.boolean(mask), lower


def _halved(builder, v, count: int, target: int, combine: Callable):
    """Lanes i, i + target, i + 2*target, ... combined pairwise, in an order that depends only on the counts."""
    while count > target:
        units = count // target
        low = units // 2 * target
        a = shuffled(builder, v, list(range(low)))
        b = shuffled(builder, v, list(range(low, 2 * low)))
        both = combine(a, b)
        if units % 2:  # the odd group is part of the next round
            padded = shuffled(builder, v, [min(i, count - 1) for i in range(2 * low, 2 * low + low)])
            v = builder.shuffle_vector(
                both, padded, ir.Constant(ir.VectorType(I32, low + target), [*range(low), *range(low, low + target)])
            )
            count = low + target
        else:
            v, count = both, low
    return v


def _folding(combine: Callable) -> Any:
    def function(typingctx, v, like):
        if not isinstance(like, Vec | types.IntegerLiteral):
            return None
        count = like.count if isinstance(like, Vec) else like.literal_value
        result = Vec(v.dtype, count)

        def lower(context, builder, sig, args):
            return _halved(builder, args[0], v.count, count, lambda a, b: combine(builder, a, b))

        return result(v, like), lower

    return intrinsic(function)


def added(builder, a, b):
    """a + b, for floats."""
    return builder.fadd(a, b)


def larger(builder, a, b):
    """The larger of a and b; a if one is NaN."""
    return builder.select(builder.fcmp_ordered("<", a, b), b, a)


fold = _folding(added)  # (v, n): the sums of lanes i, i + n, i + 2n, ...
fold_larger = _folding(larger)


@intrinsic
def group_sums(typingctx, v, size):
    """The sum of every group of `size` adjacent lanes."""
    if not isinstance(size, types.IntegerLiteral):
        return None
    groups = v.count // size.literal_value
    result = Vec(v.dtype, groups)

    def lower(context, builder, sig, args):
        turned = shuffled(builder, args[0], [i % groups * size.literal_value + i // groups for i in range(v.count)])
        return _halved(builder, turned, v.count, groups, builder.fadd)

    return result(v, size), lower


@intrinsic
def join(typingctx, a, b):
    """The lanes of a followed by those of b; both have the same number."""
    result = Vec(a.dtype, 2 * a.count)

    def lower(context, builder, sig, args):
        return joined(builder, list(args))

    return result(a, b), lower


@intrinsic
def part(typingctx, v, first, count):
    """v[first : first + count]."""
    if not (isinstance(first, types.IntegerLiteral) and isinstance(count, types.IntegerLiteral)):
        return None
    result = Vec(v.dtype, count.literal_value)
    places = list(range(first.literal_value, first.literal_value + result.count))
    return result(v, first, count), lambda context, builder, sig, args: shuffled(builder, args[0], places)


@intrinsic
def keep(typingctx, v, offsets):
    """v with zeros in groups whose offset is negative."""
    each = v.count // offsets.count

    def lower(context, builder, sig, args):
        on = builder.icmp_signed(">=", args[1], constant(args[1].type, 0))
        on = shuffled(builder, on, [i // each for i in range(v.count)])
        return builder.select(on, args[0], constant(args[0].type, 0.0))

    return v(v, offsets), lower


@intrinsic
def lanes_of(typingctx, v):
    """The number of lanes."""
    return types.int64(v), lambda context, builder, sig, args: constant(I64, v.count)


@intrinsic
def scalar(typingctx, v):
    """The first lane, as a number."""
    return v.dtype(v), lambda context, builder, sig, args: builder.extract_element(args[0], constant(I32, 0))


def _dividing(method: str) -> Any:
    """For numbers from 0 to 2^31 - 1: a 64-bit division would call a subroutine."""

    def function(typingctx, a, b):
        def lower(context, builder, sig, args):
            short = [builder.trunc(v, I32) for v in args]
            return builder.zext(getattr(builder, method)(*short), I64)

        return types.int64(types.int64, types.int64), lower

    return intrinsic(function)


over = _dividing("udiv")  # a // b
rest = _dividing("urem")  # a % b
