"""Workspaces of kernels: `workspace`, a private array, and `clear`."""

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types

from normzoo.backends.cpu.numba_internals.needed import allocated, returned_new
from normzoo.backends.cpu.numba_internals.way import lower, typed
from normzoo.backends.cpu.schedule import STACK_BYTES
from normzoo.backends.cpu.vector.access import element_at
from normzoo.backends.cpu.vector.lanes import Flat, Space, of


def workspace(count, a):
    """A new array in the computing type for elements of `a`, which exists while the helper that calls this runs: it may
    lie in its frame, so no helper returns one."""
    return np.empty(count, np.float64 if a.itemsize == 8 else np.float32)


typed(workspace, lambda count, a: Space(of(a.dtype)))


@lower(workspace, types.Integer, Flat)
def _workspace(context, builder, sig, args):
    size = ir.Constant(ir.IntType(64), sig.return_type.dtype.bitwidth // 8)
    space = cgutils.create_struct_proxy(sig.return_type)(context, builder)
    with builder.goto_entry_block():
        local = builder.alloca(ir.ArrayType(ir.IntType(8), STACK_BYTES))
        local.align = 64
    length = builder.mul(args[0], size)
    held = cgutils.alloca_once(builder, space.held.type, zfill=True)  # no memory
    data = cgutils.alloca_once_value(builder, builder.bitcast(local, space.data.type))
    with builder.if_then(builder.icmp_unsigned(">", length, ir.Constant(length.type, STACK_BYTES))):
        taken, begins = allocated(context, builder, length, 64)
        builder.store(taken, held)
        builder.store(builder.bitcast(begins, space.data.type), data)
    space.data, space.size, space.held = builder.load(data), args[0], builder.load(held)
    return returned_new(context, builder, sig.return_type, space._getvalue())


def clear(a, i, count):
    """a[i : i + count] = 0."""
    a.reshape(-1)[i : i + count] = 0


typed(clear, lambda a, i, count: types.none)


@lower(clear, Flat, types.Integer, types.Integer)
def _clear(context, builder, sig, args):
    size = ir.Constant(ir.IntType(64), sig.args[0].dtype.bitwidth // 8)
    cgutils.memset(builder, element_at(context, builder, sig.args[0], args[0], args[1]), builder.mul(args[2], size), 0)
    return context.get_dummy_value()
