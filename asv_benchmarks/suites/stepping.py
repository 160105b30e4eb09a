"""Instructions that a call executes, counted one by one: the same number on a busy machine, in any container.

Processors count instructions themselves, but virtual machines and containers mostly hide the counter. This counts with
the trap flag of x86-64: the processor stops after every instruction of the thread, Linux sends SIGTRAP, and a handler
adds one. It costs some 10 us an instruction, so arrays must be small; kernels that other threads run are not counted.
"""

import ctypes
import gc
import platform
import signal
import sys
from collections.abc import Callable
from functools import cache

import llvmlite.binding
import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

FLAG = 0x100  # TF of the register of flags


def assembly(text: str) -> Callable:
    """An intrinsic that is this assembly. It must not use the 128 bytes below the stack, which a caller may."""

    @intrinsic
    def inline(typing_context):
        def generate(context, builder, signature, arguments):
            nothing = ir.FunctionType(ir.VoidType(), [])
            clobbered = "~{memory},~{dirflag},~{fpsr},~{flags}"
            builder.call(ir.InlineAsm(nothing, text, clobbered, side_effect=True), [])
            return context.get_dummy_value()

        return numba.void(), generate

    return inline


def flags(change: str) -> Callable:
    return assembly(f"leaq -256(%rsp), %rsp\npushfq\n{change}, (%rsp)\npopfq\nleaq 256(%rsp), %rsp")


@cache
def stepper() -> tuple[np.ndarray, Callable, Callable, object]:
    """The count, what starts and what stops counting, and the handler, which must outlive its use."""
    if platform.machine() != "x86_64" or sys.platform != "linux":
        raise NotImplementedError("instructions are counted with the trap flag of x86-64, on Linux")
    llvmlite.binding.initialize_native_asmparser()
    count = np.zeros(1, np.int64)
    address = count.ctypes.data

    @intrinsic
    def add_one(typing_context):
        def generate(context, builder, signature, arguments):
            integer = ir.IntType(64)
            place = builder.inttoptr(ir.Constant(integer, address), integer.as_pointer())
            builder.store(builder.add(builder.load(place), ir.Constant(integer, 1)), place)
            return context.get_dummy_value()

        return numba.void(), generate

    @numba.cfunc("void(int32)")
    def handler(number):
        add_one()

    on, off = flags(f"orq $${FLAG}"), flags(f"andq $${~FLAG}")
    start, stop = numba.njit("void()")(lambda: on()), numba.njit("void()")(lambda: off())  # noqa: PLW0108
    install = ctypes.CDLL(None).signal
    install.restype, install.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p]
    install(signal.SIGTRAP, handler.address)
    return count, start, stop, handler


def instructions(call: Callable[[], object]) -> int:
    """Instructions in user mode of one call. Python's own share varies by less than 0.3 % between processes."""
    count, start, stop, _ = stepper()
    for _ in range(50):  # the interpreter rewrites its own code for a while
        call()
    collecting = gc.isenabled()
    gc.disable()
    try:
        count[0] = 0
        start()
        call()
        stop()
    finally:
        if collecting:
            gc.enable()
    return int(count[0])
