"""Sixteen lanes: the vector type in which all CPU kernels are written.

A `Vec` holds 16 float32 or 16 float64 numbers and compiles to LLVM's vector type, which the code generator splits into
the registers of the machine. Because the number of lanes is fixed, the order of every sum is fixed: results depend
neither on the auto-vectorizer nor (except for bfloat16, see `access.load_as`) on the instruction set, and every loop is
vectorized. Tails use masked loads and stores.

float32 and float64 arrays are computed in their own type. 16-bit floats are only storage, for which Numba has no type:
a bfloat16 array is passed as its uint16 view, a float16 array as its int16 view, and loads and stores convert.

This file has the two types, vector and flat array, and the tools to define their primitives; `access.py` has primitives
that read and write arrays, `arithmetic.py` those that compute. Every primitive is a plain Python function whose body is
its NumPy equivalent (which runs if Numba is switched off), followed by its LLVM lowering.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import NativeValue, make_attribute_wrapper, models, register_model, unbox

LANES = 16


class Flat(types.Type):
    """Numba type of the values of an array in memory order, for any rank: nothing but a pointer.

    So a kernel is compiled once for all ranks, takes read-only arrays, too, and is called without unpacking shapes and
    strides. The caller guarantees that the array is C-contiguous, aligned and of this dtype.
    """

    kind = "flat"

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        super().__init__(name=f"{self.kind}_{dtype}")


class Space(Flat):
    """Numba type of a workspace: like `Flat`, with a reference to its memory, and its capacity in values."""

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
    """The pointer to the first value."""
    if isinstance(kind, Space):
        return cgutils.create_struct_proxy(kind)(context, builder, value=array).data
    return array


@unbox(Flat)
def _unbox_flat(typ, array, c):
    # In NumPy's C API, the data pointer is the first field of an array, right after the header of every object.
    field = c.builder.gep(c.builder.bitcast(array, ir.IntType(8).as_pointer()), [_int64(object.__basicsize__)])
    kind = c.context.get_value_type(typ).as_pointer()
    return NativeValue(c.builder.load(c.builder.bitcast(field, kind)))


def _int64(value: int) -> ir.Constant:
    return ir.Constant(ir.IntType(64), value)


def element_type(dtype: Any) -> ir.Type:
    """The LLVM type of an element in memory."""
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


class ShortVec(Vec):
    """Lanes of float32 of which few digits are wanted: see `short.py`."""

    def __init__(self, dtype: types.Float) -> None:
        self.dtype = dtype
        types.Type.__init__(self, name=f"vec16_short_{dtype}")


@register_model(Vec)
@register_model(ShortVec)
class _VecModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type: Vec) -> None:
        super().__init__(dmm, fe_type, llvm_type(fe_type.dtype))


class Values(np.ndarray):
    """Lanes if Numba is switched off: `s += v` makes a new value, as in LLVM, and does not modify the old one."""

    def __iadd__(self, other: Any) -> Any:  # type: ignore[misc]
        return self + other

    def __isub__(self, other: Any) -> Any:  # type: ignore[misc]
        return self - other

    def __imul__(self, other: Any) -> Any:  # type: ignore[misc]
        return self * other


def is_short(dtype: Any) -> bool:
    """Is this the integer type that represents a 16-bit float?"""
    return isinstance(dtype, types.Integer) and bits_of(dtype) == 16


def of(dtype: Any) -> Any:
    """The computing type for elements of `dtype`."""
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
    """A mask of the lanes below `count`."""
    kind = ir.VectorType(ir.IntType(32), LANES)
    count = builder.trunc(count, ir.IntType(32))
    return builder.icmp_signed("<", ir.Constant(kind, list(range(LANES))), filled(builder, count))
