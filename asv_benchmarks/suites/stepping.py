"""Instructions of compiled code that a call executes, counted one by one: the same number on a busy machine, in any
container, and on any processor for which the code is compiled alike.

Processors count instructions themselves, but virtual machines and containers mostly hide the counter. This counts with
the trap flag of x86-64: the processor stops after every instruction of the thread, Linux sends SIGTRAP, and a handler
adds one. It costs some 10 us an instruction, so arrays must be small; kernels that other threads run are not counted.
Only code that was compiled in this process counts, which lies in memory of no file: how many instructions the
interpreter, NumPy and the C library take depends on their builds, and on the processor that these look at.
"""

import ctypes
import gc
import platform
import signal
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import llvmlite.binding
import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

FLAG = 0x100  # TF of the register of flags
NEXT = 168  # where Linux writes the address of the next instruction, in the context that it hands to a handler
RANGES = 20_000  # of memory, at most: a process that has compiled for long has thousands


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


def compiled_code() -> np.ndarray:
    """First and last address of memory that is executed and belongs to no file, in pairs."""
    maps = [line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()]
    found = [[int(end, 16) for end in fields[0].split("-")] for fields in maps if "x" in fields[1] and len(fields) == 5]
    if len(found) > RANGES:
        raise NotImplementedError(
            f"expected at most {RANGES} ranges of compiled code, got {len(found)}; count in a new process"
        )
    return np.array(found, np.int64).reshape(-1)


@cache
def stepper() -> tuple[np.ndarray, Callable, Callable, object]:
    """The state (count, number of ranges, ranges), what starts and what stops counting, and the handler, which must
    outlive its use."""
    if platform.machine() != "x86_64" or sys.platform != "linux":
        raise NotImplementedError("instructions are counted with the trap flag of x86-64, on Linux")
    llvmlite.binding.initialize_native_asmparser()
    state = np.zeros(2 + 2 * RANGES, np.int64)
    first = state.ctypes.data

    def at(builder, address):
        return builder.inttoptr(address, ir.IntType(64).as_pointer())

    @intrinsic
    def load(typing_context, address):
        return numba.int64(numba.int64), lambda context, builder, signature, args: builder.load(at(builder, args[0]))

    @intrinsic
    def store(typing_context, address, value):
        def generate(context, builder, signature, arguments):
            builder.store(arguments[1], at(builder, arguments[0]))
            return context.get_dummy_value()

        return numba.void(numba.int64, numba.int64), generate

    @numba.cfunc("void(int32, int64, int64)")
    def handler(number, info, context):
        address = load(context + NEXT)
        for i in range(load(first + 8)):
            if load(first + 16 + 16 * i) <= address < load(first + 24 + 16 * i):
                store(first, load(first) + 1)
                return

    on, off = flags(f"orq $${FLAG}"), flags(f"andq $${~FLAG}")
    start, stop = numba.njit("void()")(lambda: on()), numba.njit("void()")(lambda: off())  # noqa: PLW0108
    install = ctypes.CDLL(None).signal
    install.restype, install.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p]
    install(signal.SIGTRAP, handler.address)
    return state, start, stop, handler


def instructions(call: Callable[[], object]) -> int:
    """Instructions of compiled code of one call."""
    state, start, stop, _ = stepper()
    for _ in range(50):  # the interpreter rewrites its own code for a while
        call()
    ranges = compiled_code()
    state[1], state[2 : 2 + ranges.size] = ranges.size // 2, ranges
    collecting = gc.isenabled()
    gc.disable()
    try:
        state[0] = 0
        start()
        call()
        stop()
    finally:
        if collecting:
            gc.enable()
    return int(state[0])
