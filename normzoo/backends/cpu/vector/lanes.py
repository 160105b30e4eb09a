"""Sixteen lanes: the vector value that every CPU kernel is written in.

A `Vec` holds 16 float32 or 16 float64 numbers and compiles to LLVM's vector type, which the code generator
splits into whatever registers the machine has. Because the lanes are fixed, the order of every sum is fixed:
the bits depend neither on the auto-vectorizer nor (but for bfloat16, see `access.load_as`) on the instruction set,
and whether a loop is vectorized is no longer a question. Masked loads and stores take care of tails.

Arrays of float32 and float64 are computed in their own type. Sixteen-bit floats are storage, which Numba has no type
for: an array of bfloat16 comes as its uint16 view and one of float16 as its int16 view, and loads and stores convert.

Here are the two types, the vector and the flat array, and what their primitives are made with: `access.py` has those
that read and write arrays, `arithmetic.py` those that compute. Every primitive is a plain Python function with its
NumPy meaning as the body (which is what runs when Numba is switched off) followed by its LLVM lowering.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import NativeValue, make_attribute_wrapper, models, register_model, unbox

LANES = 16


class Flat(types.Type):
    """Numba type of the values of an array, one behind the other, whatever its rank: a pointer and no more.

    So a kernel is compiled once for all ranks, takes read-only arrays as they are, and is called without the cost of
    unpacking shapes and strides. The caller vouches that the array is C-contiguous, aligned and of this dtype.
    """

    kind = "flat"

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        super().__init__(name=f"{self.kind}_{dtype}")


class Space(Flat):
    """Numba type of a workspace: as `Flat`, with the memory that it lies in, and how many values have room there."""

    kind = "space"


@register_model(Flat)
class _FlatModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type: Flat) -> None:
        super().__init__(dmm, fe_type, element_type(fe_type.dtype).as_pointer())


@register_model(Space)
class _SpaceModel(models.StructModel):
    def __init__(self, dmm, fe_type: Space) -> None:
        held = types.MemInfoPointer(types.voidptr)
        super().__init__(dmm, fe_type, [("data", Flat(fe_type.dtype)), ("size", types.int64), ("held", held)])


make_attribute_wrapper(Space, "size", "size")


def pointer(context, builder, kind: Flat, array):
    """To the first value."""
    if isinstance(kind, Space):
        return cgutils.create_struct_proxy(kind)(context, builder, value=array).data
    return array


@unbox(Flat)
def _unbox_flat(typ, array, c):
    # NumPy's C interface: the pointer to the data is the first field of an array behind the head of every object.
    field = c.builder.gep(c.builder.bitcast(array, ir.IntType(8).as_pointer()), [_int64(object.__basicsize__)])
    kind = c.context.get_value_type(typ).as_pointer()
    return NativeValue(c.builder.load(c.builder.bitcast(field, kind)))


def _int64(value: int) -> ir.Constant:
    return ir.Constant(ir.IntType(64), value)


def element_type(dtype: Any) -> ir.Type:
    """An element as it lies in memory."""
    if isinstance(dtype, types.Integer):
        return ir.IntType(bits_of(dtype))
    return ir.FloatType() if dtype.bitwidth == 32 else ir.DoubleType()


def bits_of(dtype: Any) -> int:
    return dtype.bitwidth


class Vec(types.Type):
    """Numba type of 16 lanes of `dtype`."""

    def __init__(self, dtype: types.Float) -> None:
        self.dtype = dtype
        super().__init__(name=f"vec16_{dtype}")


@register_model(Vec)
class _VecModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type: Vec) -> None:
        super().__init__(dmm, fe_type, llvm_type(fe_type.dtype))


class Values(np.ndarray):
    """Lanes when Numba is switched off: `s += v` makes a new value, as it does of LLVM's, and leaves others be."""

    def __iadd__(self, other: Any) -> Any:  # type: ignore[misc]
        return self + other

    def __isub__(self, other: Any) -> Any:  # type: ignore[misc]
        return self - other

    def __imul__(self, other: Any) -> Any:  # type: ignore[misc]
        return self * other


def is_short(dtype: Any) -> bool:
    """Is this the integer type that stands for a sixteen-bit float?"""
    return isinstance(dtype, types.Integer) and bits_of(dtype) == 16


def of(dtype: Any) -> Any:
    """The type that elements of `dtype` are computed in."""
    return types.float32 if is_short(dtype) else dtype


def llvm_type(dtype: Any) -> ir.VectorType:
    return ir.VectorType(ir.FloatType() if dtype.bitwidth == 32 else ir.DoubleType(), LANES)


def intrinsic(builder, name: str, result: ir.Type, args: list):
    kind = ir.FunctionType(result, [a.type for a in args])
    return builder.call(builder.module.declare_intrinsic(name, (), kind), args)


def suffix(dtype: Any) -> str:
    return f"v{LANES}{'i' if is_short(dtype) else 'f'}{dtype.bitwidth}"


def filled(builder, value, count: int = LANES):
    one = builder.insert_element(
        ir.Constant(ir.VectorType(value.type, count), ir.Undefined), value, ir.Constant(ir.IntType(32), 0)
    )
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), count), None)
    return builder.shuffle_vector(one, one, zeros)


def mask(builder, count):
    """Lanes below `count` are on."""
    kind = ir.VectorType(ir.IntType(32), LANES)
    count = builder.trunc(count, ir.IntType(32))
    return builder.icmp_signed("<", ir.Constant(kind, list(range(LANES))), filled(builder, count))
