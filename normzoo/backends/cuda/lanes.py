"""The values of one CUDA thread: `Vec`, a fixed number of lanes that compiles to LLVM's vector type.

NVVM gives every lane a register of its own, whatever the number of lanes, and never touches local memory, as nothing
is indexed at run time. A vector of lanes is loaded in groups of 16 bytes, with one instruction each.

Arrays are pointers: CPointer(float32), CPointer(float64), CPointer(int16) for float16 and CPointer(uint16) for
bfloat16, which loads and stores convert to and from float32. A group whose offset is negative is neither read nor
written.

Operators work lane by lane. Where one operand has fewer lanes, it repeats; a scalar fits any vector.
"""

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.cuda import types
from numba.cuda.extending import intrinsic, lower_builtin, models, register_model, type_callable

VECTOR_BYTES = 16
_I1, _I32, _I64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)


class Vec(types.Type):
    """Numba type of `count` lanes of `dtype`: float32, float64, int32, int64 or boolean."""

    def __init__(self, dtype: Any, count: int) -> None:
        self.dtype, self.count = dtype, count
        super().__init__(name=f"vec{count}_{dtype}")


@register_model(Vec)
class _VecModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type: Vec) -> None:
        super().__init__(dmm, fe_type, _llvm(fe_type))


_ELEMENT = {
    types.float32: ir.FloatType(),
    types.float64: ir.DoubleType(),
    types.int16: ir.IntType(16),
    types.uint16: ir.IntType(16),
    types.int32: _I32,
    types.int64: _I64,
    types.boolean: _I1,
}


def _llvm(vec: Vec) -> ir.VectorType:
    return ir.VectorType(_ELEMENT[vec.dtype], vec.count)


def of(pointer: Any) -> Any:
    """The type that the elements of an array are computed in."""
    return types.float32 if pointer.dtype.bitwidth == 16 else pointer.dtype


def _is_float(dtype: Any) -> bool:
    return isinstance(dtype, types.Float)


def _constant(kind: ir.Type, value: float) -> ir.Constant:
    return ir.Constant(kind, [value] * kind.count if isinstance(kind, ir.VectorType) else value)


def _call(builder, name: str, result: ir.Type, args: list):
    """Call the LLVM intrinsic of this whole name."""
    function = builder.module.globals.get(name)
    if function is None:
        function = ir.Function(builder.module, ir.FunctionType(result, [a.type for a in args]), name)
    return builder.call(function, args)


def _suffix(vec: Vec) -> str:
    return f"v{vec.count}{'f' if _is_float(vec.dtype) else 'i'}{vec.dtype.bitwidth}"


def _shuffled(builder, v, places: list[int]):
    return builder.shuffle_vector(v, v, ir.Constant(ir.VectorType(_I32, len(places)), places))


def _splat(builder, value, count: int):
    one = builder.insert_element(ir.Constant(ir.VectorType(value.type, count), ir.Undefined), value, _constant(_I32, 0))
    return _shuffled(builder, one, [0] * count)


def _converted(builder, value, source: Any, target: Any, count: int | None = None):
    """A number, or `count` lanes, of type `source` as `target`."""
    kind = _ELEMENT[target] if count is None else ir.VectorType(_ELEMENT[target], count)
    if source == target:
        return value
    if _is_float(source):
        if not _is_float(target):
            return builder.fptosi(value, kind)
        return builder.fpext(value, kind) if target.bitwidth > source.bitwidth else builder.fptrunc(value, kind)
    if _is_float(target):
        return builder.sitofp(value, kind)
    if target.bitwidth == source.bitwidth:
        return value
    return builder.sext(value, kind) if target.bitwidth > source.bitwidth else builder.trunc(value, kind)


def _plain(kind: Any) -> Any:
    """The type of a number, of a literal too, as the tables here have it."""
    if isinstance(kind, types.Boolean | types.BooleanLiteral):
        return types.boolean
    if isinstance(kind, types.Integer):
        return types.int64 if kind.bitwidth == 64 else types.int32
    return kind


def _fit(builder, value, kind: Any, target: Vec):
    """A scalar or a vector of fewer lanes as `target` has them."""
    if isinstance(kind, Vec):
        value = _converted(builder, value, kind.dtype, target.dtype, kind.count)
        if kind.count == target.count:
            return value
        return _shuffled(builder, value, [i % kind.count for i in range(target.count)])
    return _splat(builder, _converted(builder, value, _plain(kind), target.dtype), target.count)


def _common(*kinds: Any) -> Vec | None:
    """What lane-by-lane operations of these types give: the widest type of vectors, on the largest number of lanes."""
    vectors = [k for k in kinds if isinstance(k, Vec)]
    if not vectors or not all(isinstance(k, Vec | types.Number | types.Boolean) for k in kinds):
        return None
    count = max(v.count for v in vectors)
    dtype = max((v.dtype for v in vectors), key=lambda d: (_is_float(d), getattr(d, "bitwidth", 1)))
    return Vec(dtype, count) if all(count % v.count == 0 for v in vectors) else None


def _operator(op: Callable, floats: str, integers: str, compares: bool = False) -> None:
    """Give vectors the operator `op`, by these builder methods or comparisons."""

    def lower(context, builder, sig, args):
        common = _common(*sig.args)
        a, b = (_fit(builder, v, kind, common) for v, kind in zip(args, sig.args, strict=True))
        if not compares:
            return getattr(builder, floats if _is_float(common.dtype) else integers)(a, b)
        return (builder.fcmp_ordered if _is_float(common.dtype) else builder.icmp_signed)(floats, a, b)

    @type_callable(op)
    def _type(context):
        def typer(a, b):
            common = _common(a, b)
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


def _lanewise(returns: Callable, lower: Callable) -> Any:
    """An intrinsic on vectors of one argument: lower(builder, result type, argument type, argument)."""

    def function(typingctx, v):
        result = returns(v)
        return result(v), lambda context, builder, sig, args: lower(builder, result, v, args[0])

    return intrinsic(function)


def _roots(builder, result, kind, v):
    name = f"llvm.sqrt.f{kind.dtype.bitwidth}"  # NVVM has it for numbers only
    for i in range(kind.count):
        place = _constant(_I32, i)
        found = _call(builder, name, v.type.element, [builder.extract_element(v, place)])
        v = builder.insert_element(v, found, place)
    return v


def _absolute(builder, result, kind, v):
    bits = ir.VectorType(ir.IntType(kind.dtype.bitwidth), kind.count)
    return builder.bitcast(
        builder.and_(builder.bitcast(v, bits), _constant(bits, (1 << kind.dtype.bitwidth - 1) - 1)), v.type
    )


root = _lanewise(lambda v: v, _roots)
magnitude = _lanewise(lambda v: v, _absolute)
wide = _lanewise(
    lambda v: Vec(types.float64, v.count),
    lambda builder, r, k, v: _converted(builder, v, k.dtype, types.float64, k.count),
)
unlike = _lanewise(
    lambda v: Vec(types.boolean, v.count), lambda builder, r, k, v: builder.xor(v, _constant(v.type, 1))
)  # not, lane by lane


@intrinsic
def sign(typingctx, v):
    """-1, 0 or 1, and NaN of NaN."""

    def lower(context, builder, sig, args):
        (a,) = args
        zero = _constant(a.type, 0.0)
        up = builder.select(builder.fcmp_ordered(">", a, zero), _constant(a.type, 1.0), a)
        return builder.select(builder.fcmp_ordered("<", a, zero), _constant(a.type, -1.0), up)

    return v(v), lower


@intrinsic
def narrow(typingctx, v, like):
    """float64 lanes in the type that the array `like`, or vector, is computed in."""
    result = Vec(like.dtype if isinstance(like, Vec) else of(like), v.count)
    return result(v, like), lambda context, builder, sig, args: _converted(
        builder, args[0], v.dtype, result.dtype, v.count
    )


@intrinsic
def choose(typingctx, mask, a, b):
    """a where `mask` is set, b elsewhere."""
    result = _common(a, b) or Vec(types.float64, mask.count)

    def lower(context, builder, sig, args):
        chosen, one, two = args
        if mask.count != result.count:
            chosen = _shuffled(builder, chosen, [i % mask.count for i in range(result.count)])
        return builder.select(chosen, _fit(builder, one, a, result), _fit(builder, two, b, result))

    return result(mask, a, b), lower


@intrinsic
def fma(typingctx, a, b, c):
    """a * b + c, rounded once."""
    result = _common(a, b, c)

    def lower(context, builder, sig, args):
        args = [_fit(builder, v, k, result) for v, k in zip(args, (a, b, c), strict=True)]
        return _call(builder, f"llvm.fma.{_suffix(result)}", args[0].type, args)

    return result(a, b, c), lower


@intrinsic
def splat(typingctx, value, count):
    """`count` lanes of one number."""
    if not isinstance(count, types.IntegerLiteral):
        return None
    result = Vec(_plain(value), count.literal_value)
    return result(value, count), lambda context, builder, sig, args: _splat(builder, args[0], result.count)


@intrinsic
def steps(typingctx, first, step, count):
    """first + step * (0, 1, 2, ...), in the type of `first`."""
    if not (isinstance(count, types.IntegerLiteral) and isinstance(step, types.IntegerLiteral)):
        return None
    result = Vec(_plain(first), count.literal_value)

    def lower(context, builder, sig, args):
        ladder = ir.Constant(_llvm(result), [i * step.literal_value for i in range(result.count)])
        return builder.add(_splat(builder, args[0], result.count), ladder)

    return result(first, step, count), lower


@intrinsic
def quotient(typingctx, v, magic, shift):
    """v // d for 0 <= v < 2^31: (v * magic) >> shift; see `geometry.magic_of`."""

    def lower(context, builder, sig, args):
        lanes = ir.VectorType(_I64, v.count)
        product = builder.mul(_converted(builder, args[0], v.dtype, types.int64, v.count), _fit64(builder, args[1]))
        found = builder.lshr(product, builder.zext(_splat(builder, args[2], v.count), lanes))
        return builder.trunc(found, _llvm(v)) if v.dtype != types.int64 else found

    def _fit64(builder, value):
        return _splat(builder, value, v.count)

    return v(v, types.int64, types.int32), lower


@intrinsic
def power_near(typingctx, v, inverse, limit):
    """Power of two of the binade of positive float64 lanes, or its inverse, within 2^-limit to 2^limit."""
    if not (isinstance(inverse, types.IntegerLiteral) and isinstance(limit, types.IntegerLiteral)):
        return None
    flip, most = inverse.literal_value, limit.literal_value

    def lower(context, builder, sig, args):
        kind = ir.VectorType(_I64, v.count)
        exponent = builder.lshr(builder.bitcast(args[0], kind), _constant(kind, 52))
        exponent = builder.and_(exponent, _constant(kind, 0x7FF))
        if flip:
            exponent = builder.sub(_constant(kind, 2046), exponent)
        low, high = _constant(kind, 1023 - most), _constant(kind, 1023 + most)
        exponent = builder.select(builder.icmp_signed("<", exponent, low), low, exponent)
        exponent = builder.select(builder.icmp_signed(">", exponent, high), high, exponent)
        return builder.bitcast(builder.shl(exponent, _constant(kind, 52)), args[0].type)

    return v(v, inverse, limit), lower


@intrinsic
def some(typingctx, mask):
    """Is any lane of the mask set?"""

    def lower(context, builder, sig, args):
        found = builder.extract_element(args[0], _constant(_I32, 0))
        for i in range(1, mask.count):
            found = builder.or_(found, builder.extract_element(args[0], _constant(_I32, i)))
        return builder.zext(found, ir.IntType(8)) if context.get_value_type(types.boolean) != _I1 else found

    return types.boolean(mask), lower


def _halved(builder, v, count: int, target: int, combine: Callable):
    """Lanes i, i + target, i + 2*target, ... combined pairwise, in an order that the counts fix."""
    while count > target:
        units = count // target
        low = units // 2 * target
        a = _shuffled(builder, v, list(range(low)))
        b = _shuffled(builder, v, list(range(low, 2 * low)))
        both = combine(a, b)
        if units % 2:  # the odd group goes with the next round
            padded = _shuffled(builder, v, [min(i, count - 1) for i in range(2 * low, 2 * low + low)])
            v = builder.shuffle_vector(
                both, padded, ir.Constant(ir.VectorType(_I32, low + target), [*range(low), *range(low, low + target)])
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


fold = _folding(lambda builder, a, b: builder.fadd(a, b))  # (v, n): the lanes i, i + n, i + 2n, ... added up
fold_larger = _folding(lambda builder, a, b: builder.select(builder.fcmp_ordered("<", a, b), b, a))


@intrinsic
def group_sums(typingctx, v, size):
    """The sum of every group of `size` neighbouring lanes."""
    if not isinstance(size, types.IntegerLiteral):
        return None
    groups = v.count // size.literal_value
    result = Vec(v.dtype, groups)

    def lower(context, builder, sig, args):
        turned = _shuffled(
            builder, args[0], [i % groups * size.literal_value + i // groups for i in range(v.count)]
        )
        return _halved(builder, turned, v.count, groups, lambda a, b: builder.fadd(a, b))

    return result(v, size), lower


@intrinsic
def join(typingctx, a, b):
    """The lanes of a, then those of b, of which there are as many."""
    result = Vec(a.dtype, 2 * a.count)

    def lower(context, builder, sig, args):
        return _joined(builder, list(args))

    return result(a, b), lower


@intrinsic
def part(typingctx, v, first, count):
    """v[first : first + count]."""
    if not (isinstance(first, types.IntegerLiteral) and isinstance(count, types.IntegerLiteral)):
        return None
    result = Vec(v.dtype, count.literal_value)
    places = list(range(first.literal_value, first.literal_value + result.count))
    return result(v, first, count), lambda context, builder, sig, args: _shuffled(builder, args[0], places)


@intrinsic
def keep(typingctx, v, offsets):
    """v with zeros in the groups of negative offset."""
    each = v.count // offsets.count

    def lower(context, builder, sig, args):
        on = builder.icmp_signed(">=", args[1], _constant(args[1].type, 0))
        on = _shuffled(builder, on, [i // each for i in range(v.count)])
        return builder.select(on, args[0], _constant(args[0].type, 0.0))

    return v(v, offsets), lower


def _loaded(builder, dtype: Any, v):
    """Lanes from what lay in memory."""
    if dtype.bitwidth != 16:
        return v
    count = v.type.count
    if dtype.signed:
        return builder.fpext(
            builder.bitcast(v, ir.VectorType(ir.HalfType(), count)), ir.VectorType(ir.FloatType(), count)
        )
    words = ir.VectorType(_I32, count)
    bits = builder.shl(builder.zext(v, words), _constant(words, 16))
    return builder.bitcast(bits, ir.VectorType(ir.FloatType(), count))


def _stored(builder, dtype: Any, v):
    """What to write to memory, rounded to nearest, ties to even."""
    if dtype.bitwidth != 16:
        return v
    shorts = ir.VectorType(ir.IntType(16), v.type.count)
    if dtype.signed:
        return builder.bitcast(builder.fptrunc(v, ir.VectorType(ir.HalfType(), v.type.count)), shorts)
    words = ir.VectorType(_I32, v.type.count)
    bits = builder.bitcast(v, words)
    odd = builder.and_(builder.lshr(bits, _constant(words, 16)), _constant(words, 1))
    rounded = builder.add(builder.add(bits, _constant(words, 0x7FFF)), odd)
    nan = builder.or_(bits, _constant(words, 0x400000))
    rounded = builder.select(builder.fcmp_unordered("uno", v, v), nan, rounded)
    return builder.trunc(builder.lshr(rounded, _constant(words, 16)), shorts)


def _pieces(dtype: Any, size: int, each: int) -> list[tuple[int, int]]:
    """(first, count) of the accesses to `size` neighbouring elements: of `each`, and of at most 16 bytes."""
    most = min(each, VECTOR_BYTES * 8 // dtype.bitwidth)
    return [(i, most) for i in range(0, size, most)]


def _cell(builder, array, dtype: Any, start, offset, first: int, count: int):
    """Where `count` elements lie, as a pointer to what is accessed at once: 16 bytes as four words."""
    place = builder.gep(array, [builder.add(start, _constant(_I64, first)) if first else start])
    place = builder.gep(place, [offset])
    bits = dtype.bitwidth * count
    if bits == VECTOR_BYTES * 8:
        kind: ir.Type = ir.VectorType(_I32, 4)
    else:
        kind = ir.IntType(bits)
    return builder.bitcast(place, kind.as_pointer()), bits // 8


def _read(builder, array, dtype: Any, start, offset, size: int, each: int):
    found = []
    for first, count in _pieces(dtype, size, each):
        place, align = _cell(builder, array, dtype, start, offset, first, count)
        loaded = builder.load(place)
        loaded.align = align
        found.append(builder.bitcast(loaded, ir.VectorType(_ELEMENT[dtype], count)))
    return _joined(builder, found)


def _joined(builder, parts: list):
    """Vectors of one length, the first of them in front."""
    while len(parts) > 1:
        if len(parts) % 2:
            count = parts[0].type.count
            whole = _joined(builder, parts[:-1])
            last = _shuffled(builder, parts[-1], [min(i, count - 1) for i in range(whole.type.count)])
            places = [*range(whole.type.count), *range(whole.type.count, whole.type.count + count)]
            return builder.shuffle_vector(whole, last, ir.Constant(ir.VectorType(_I32, len(places)), places))
        count = parts[0].type.count
        places = ir.Constant(ir.VectorType(_I32, 2 * count), list(range(2 * count)))
        parts = [builder.shuffle_vector(a, b, places) for a, b in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def _offset(builder, offsets, g: int):
    return builder.extract_element(offsets, _constant(_I32, g))


def _is_on(builder, offset):
    return builder.icmp_signed(">=", offset, ir.Constant(offset.type, 0))


def _guarded(builder, array, dtype: Any, start, offset, size: int, each: int):
    """The elements at a group's offset, or zeros."""
    kind = ir.VectorType(_ELEMENT[dtype], size)
    before = builder.block
    with builder.if_then(_is_on(builder, offset)):
        found = _read(builder, array, dtype, start, offset, size, each)
        inside = builder.block
    phi = builder.phi(kind)
    phi.add_incoming(_constant(kind, 0), before)
    phi.add_incoming(found, inside)
    return phi


@intrinsic
def load(typingctx, array, start, offsets, size, each):
    """The lanes array[start + offset : ... + size] of every offset, `each` at once; zeros where it is negative.

    With each > 1, start + offset is a multiple of it, and the array begins at a multiple of 16 bytes.
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
        return _loaded(builder, array.dtype, _joined(builder, parts))

    return result(array, types.int64, offsets, size, each), lower


@intrinsic
def load_each(typingctx, array, start, offsets, size):
    """array[start + offset] of every offset, `size` times; zeros where it is negative."""
    if not isinstance(size, types.IntegerLiteral):
        return None
    result = Vec(of(array), offsets.count * size.literal_value)

    def lower(context, builder, sig, args):
        data, first, places, _ = args
        parts = [
            _guarded(builder, data, array.dtype, first, _offset(builder, places, g), 1, 1) for g in range(offsets.count)
        ]
        v = _loaded(builder, array.dtype, _joined(builder, parts))
        return _shuffled(builder, v, [i // size.literal_value for i in range(result.count)])

    return result(array, types.int64, offsets, size), lower


@intrinsic
def store(typingctx, array, start, offsets, v, each):
    """array[start + offset : ...] = the lanes of the group, `each` at once, where the offset is not negative."""
    if not isinstance(each, types.IntegerLiteral):
        return None
    size = v.count // offsets.count

    def lower(context, builder, sig, args):
        data, first, places, value, _ = args
        value = _stored(builder, array.dtype, _converted(builder, value, v.dtype, of(array), v.count))
        for g in range(offsets.count):
            offset = _offset(builder, places, g)
            with builder.if_then(_is_on(builder, offset)):
                for i, count in _pieces(array.dtype, size, each.literal_value):
                    part = _shuffled(builder, value, list(range(g * size + i, g * size + i + count)))
                    place, align = _cell(builder, data, array.dtype, first, offset, i, count)
                    builder.store(builder.bitcast(part, place.type.pointee), place).align = align
        return context.get_dummy_value()

    return types.void(array, types.int64, offsets, v, each), lower


def _shuffling(mode: int, clamp: int) -> Any:
    """A warp shuffle of every lane: as numba-cuda writes them, so that the same tools read them."""

    def function(typingctx, v, lane):
        def lower(context, builder, sig, args):
            words = v.dtype.bitwidth // 32
            kind = ir.VectorType(_I32, v.count * words)
            bits = builder.bitcast(args[0], kind)
            result = ir.LiteralStructType((_I32, _I1))
            rest = [_constant(_I32, -1), _constant(_I32, mode)]
            for i in range(kind.count):
                word = builder.extract_element(bits, _constant(_I32, i))
                moved = _call(
                    builder, "llvm.nvvm.shfl.sync.i32", result, [*rest, word, args[1], _constant(_I32, clamp)]
                )
                bits = builder.insert_element(bits, builder.extract_value(moved, 0), _constant(_I32, i))
            return builder.bitcast(bits, args[0].type)

        return v(v, types.int32), lower

    return intrinsic(function)


shuffle = _shuffling(0, 0x1F)  # (v, lane): the value of that lane of the warp
shuffle_xor = _shuffling(3, 0x1F)  # (v, mask): the value of lane ^ mask


def _place_in(context, builder, kind: Any, array, index, v: ir.Type):
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), v.as_pointer())


@intrinsic
def put(typingctx, array, index, v):
    """array[index : index + lanes] = v, in shared memory; index is a multiple of the number of lanes."""

    def lower(context, builder, sig, args):
        size = min(v.count * v.dtype.bitwidth // 8, VECTOR_BYTES)
        builder.store(args[2], _place_in(context, builder, array, args[0], args[1], args[2].type)).align = size
        return context.get_dummy_value()

    return types.void(array, types.int64, v), lower


@intrinsic
def get_like(typingctx, array, index, v):
    """As many lanes as v has from array[index] on, in shared memory; index is a multiple of their number."""
    size = min(v.count * v.dtype.bitwidth // 8, VECTOR_BYTES)

    def lower(context, builder, sig, args):
        found = builder.load(_place_in(context, builder, array, args[0], args[1], args[2].type))
        found.align = size
        return found

    return v(array, types.int64, v), lower


@intrinsic
def lanes_of(typingctx, v):
    """The number of lanes."""
    return types.int64(v), lambda context, builder, sig, args: _constant(_I64, v.count)


@intrinsic
def scalar(typingctx, v):
    """The first lane, as a number."""
    return v.dtype(v), lambda context, builder, sig, args: builder.extract_element(args[0], _constant(_I32, 0))
