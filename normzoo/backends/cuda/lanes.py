"""The values of one CUDA thread: `Vec`, a fixed number of lanes that compiles to LLVM's vector type.

NVVM puts every lane into a register, however many there are, and uses no local memory, because no lane is indexed at
run time. Lanes are loaded in groups of 16 bytes, by one instruction each.

Arrays are pointers: CPointer(float32), CPointer(float64), CPointer(int16) for float16 and CPointer(uint16) for
bfloat16; loads and stores convert the last two to and from float32. A group with a negative offset is neither read nor
written. Arithmetic on lanes is in `arithmetic.py`, movement from and to memory in `accesses.py`.
"""

from typing import Any

from llvmlite import ir
from numba.cuda import types
from numba.cuda.extending import models, register_model

I1, I32, I64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)


class Vec(types.Type):
    """Numba type of `count` lanes of `dtype`: float32, float64, int32, int64 or boolean."""

    def __init__(self, dtype: Any, count: int) -> None:
        self.dtype, self.count = dtype, count
        super().__init__(name=f"vec{count}_{dtype}")


@register_model(Vec)
class _VecModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type: Vec) -> None:
        super().__init__(dmm, fe_type, llvm(fe_type))


ELEMENT = {
    types.float32: ir.FloatType(),
    types.float64: ir.DoubleType(),
    types.int16: ir.IntType(16),
    types.uint16: ir.IntType(16),
    types.int32: I32,
    types.int64: I64,
    types.boolean: I1,
}


def llvm(vec: Vec) -> ir.VectorType:
    return ir.VectorType(ELEMENT[vec.dtype], vec.count)


def of(pointer: Any) -> Any:
    """The computing type for the elements of an array."""
    return types.float32 if pointer.dtype.bitwidth == 16 else pointer.dtype


def is_float(dtype: Any) -> bool:
    """Is this a floating-point type?"""
    return isinstance(dtype, types.Float)


def constant(kind: ir.Type, value: float) -> ir.Constant:
    return ir.Constant(kind, [value] * kind.count if isinstance(kind, ir.VectorType) else value)


def call(builder, name: str, result: ir.Type, args: list):
    """Call the LLVM intrinsic with this full name."""
    function = builder.module.globals.get(name)
    if function is None:
        function = ir.Function(builder.module, ir.FunctionType(result, [a.type for a in args]), name)
    return builder.call(function, args)


def suffix(vec: Vec) -> str:
    return f"v{vec.count}{'f' if is_float(vec.dtype) else 'i'}{vec.dtype.bitwidth}"


def shuffled(builder, v, places: list[int]):
    return builder.shuffle_vector(v, v, ir.Constant(ir.VectorType(I32, len(places)), places))


def joined(builder, parts: list):
    """Vectors of the same length, concatenated."""
    while len(parts) > 1:
        if len(parts) % 2:
            count = parts[0].type.count
            whole = joined(builder, parts[:-1])
            last = shuffled(builder, parts[-1], [min(i, count - 1) for i in range(whole.type.count)])
            places = [*range(whole.type.count), *range(whole.type.count, whole.type.count + count)]
            return builder.shuffle_vector(whole, last, ir.Constant(ir.VectorType(I32, len(places)), places))
        count = parts[0].type.count
        places = ir.Constant(ir.VectorType(I32, 2 * count), list(range(2 * count)))
        parts = [builder.shuffle_vector(a, b, places) for a, b in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def repeated(builder, value, count: int):
    """`count` lanes of one number."""
    one = builder.insert_element(ir.Constant(ir.VectorType(value.type, count), ir.Undefined), value, constant(I32, 0))
    return shuffled(builder, one, [0] * count)


def converted(builder, value, source: Any, target: Any, count: int | None = None):
    """A number, or `count` lanes, converted from type `source` to `target`."""
    kind = ELEMENT[target] if count is None else ir.VectorType(ELEMENT[target], count)
    if source == target:
        return value
    if is_float(source):
        if not is_float(target):
            return builder.fptosi(value, kind)
        return builder.fpext(value, kind) if target.bitwidth > source.bitwidth else builder.fptrunc(value, kind)
    if is_float(target):
        return builder.sitofp(value, kind)
    if target.bitwidth == source.bitwidth:
        return value
    return builder.sext(value, kind) if target.bitwidth > source.bitwidth else builder.trunc(value, kind)


def plain(kind: Any) -> Any:
    """The type of a number or literal, as the tables here name it."""
    if isinstance(kind, types.Boolean | types.BooleanLiteral):
        return types.boolean
    if isinstance(kind, types.Integer):
        return types.int64 if kind.bitwidth == 64 else types.int32
    return kind


def fitted(builder, value, kind: Any, target: Vec):
    """A scalar, or a vector with fewer lanes, converted to type and number of lanes of `target`."""
    if isinstance(kind, Vec):
        value = converted(builder, value, kind.dtype, target.dtype, kind.count)
        if kind.count == target.count:
            return value
        return shuffled(builder, value, [i % kind.count for i in range(target.count)])
    return repeated(builder, converted(builder, value, plain(kind), target.dtype), target.count)


def common_type(*kinds: Any) -> Any:
    """The result type of lane-by-lane operations: the widest type of the vectors, with the largest number of lanes."""
    vectors = [k for k in kinds if isinstance(k, Vec)]
    if not vectors or not all(isinstance(k, Vec | types.Number | types.Boolean) for k in kinds):
        return None
    count = max(v.count for v in vectors)
    dtype = max((v.dtype for v in vectors), key=lambda d: (is_float(d), getattr(d, "bitwidth", 1)))
    return Vec(dtype, count) if all(count % v.count == 0 for v in vectors) else None
