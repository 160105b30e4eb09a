"""What the executor's own tests share: a few intrinsics, and an executor with an input and an output."""

import numpy as np
import pytest
from llvmlite import ir
from numba import types
from numba.types import CPointer, float32, int32, void

from tests.cuda_executor import Executor, unavailable

if reason := unavailable():
    pytest.skip(reason, allow_module_level=True)

from numba.cuda.extending import intrinsic

FULL = 0xFFFFFFFF
WORDS = types.UniTuple(types.int32, 4)
VECTOR = ir.VectorType(ir.IntType(32), 4)


@intrinsic
def load4(typingctx, pointer, index):
    """`load <4 x i32>, align 16` at pointer + index elements."""

    def codegen(context, builder, signature, args):
        address = builder.bitcast(builder.gep(args[0], [args[1]]), VECTOR.as_pointer())
        value = builder.load(address, align=16)
        words = [builder.extract_element(value, ir.Constant(ir.IntType(32), i)) for i in range(4)]
        return context.make_tuple(builder, signature.return_type, words)

    return WORDS(pointer, index), codegen


@intrinsic
def store4(typingctx, pointer, index, words):
    """`store <4 x i32>, align 16`."""

    def codegen(context, builder, signature, args):
        value = ir.Constant(VECTOR, ir.Undefined)
        for i in range(4):
            word = builder.extract_value(args[2], i)
            value = builder.insert_element(value, word, ir.Constant(ir.IntType(32), i))
        address = builder.bitcast(builder.gep(args[0], [args[1]]), VECTOR.as_pointer())
        builder.store(value, address, align=16)
        return context.get_dummy_value()

    return types.void(pointer, index, words), codegen


@intrinsic
def half_to_float(typingctx, bits):
    """`fpext half`."""

    def codegen(context, builder, signature, args):
        return builder.fpext(builder.bitcast(args[0], ir.HalfType()), ir.FloatType())

    return types.float32(bits), codegen


@intrinsic
def float_to_half(typingctx, value):
    """`fptrunc`."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(builder.fptrunc(args[0], ir.HalfType()), ir.IntType(16))

    return types.uint16(value), codegen


@intrinsic
def as_float(typingctx, bits):
    """The bits of a float."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.uint32), codegen


@intrinsic
def as_bits(typingctx, value):
    """A float's bits."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.IntType(32))

    return types.uint32(types.float32), codegen


F = CPointer(float32)
XY = void(F, F, int32)
SCHEDULES = ["in order", "reversed", ("random", 1), ("random", 2)]


class Bench:
    """An executor, an input of `n` random floats and an output of as many, and launches on them."""

    def __init__(self, n=256, checked=True, schedule="in order", fill=True, dtype=np.float32):
        self.ex = Executor(schedule, checked=checked)
        self.ex.collect = True
        self.values = np.random.default_rng(n).standard_normal(n).astype(dtype)
        self.x, self.y = self.ex.alloc(self.values.nbytes), self.ex.alloc(self.values.nbytes)
        self.n = n
        if fill:
            self.ex.write(self.x, self.values)

    def run(self, kernel, grid=1, block=64, signature=XY, args=None, **more):
        return self.ex.launch(kernel, signature, grid, block, args or (self.x, self.y, self.n), **more)

    def out(self, dtype=np.float32):
        return self.ex.array(self.y, self.n, dtype)
