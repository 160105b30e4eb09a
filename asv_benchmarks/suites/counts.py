"""What is counted, not timed: the same on any machine, as kernels are compiled for a processor that is named.

`record.py` counts at every commit, with the environment of `pins.py`. Where that is missing, as in `asv run`, all of
this is not applicable: the numbers would be those of the host.
"""

import ctypes
import gc
import json
import math
import os
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic
from pins import PINS
from targets import FIRST_CALL, STARTS

import normzoo as nz
from suites.cases import COUNTED, benchmark
from suites.cases import call_of as kernel_of
from suites.cases import require as require_dtype
from suites.overhead import CALLS
from suites.overhead import call_of as small_call
from suites.stepping import instructions

WARM = 1100  # from the thousandth call on, a pass is one call of compiled code


def require(case: str) -> None:
    if os.environ.get("NUMBA_CPU_NAME") not in PINS:
        raise NotImplementedError("counted by record.py, for a processor that is named")
    if case in COUNTED:
        require_dtype(case)


@benchmark(COUNTED, unit="instructions a value", setup=require)
def track_instructions(case):
    return instructions(kernel_of(case)) / math.prod(COUNTED[case].shape)


def warm(name: str) -> Callable[[], object]:
    call = small_call(name)
    for _ in range(WARM):
        call()
    gc.collect()
    return call


@contextmanager
def no_collection() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@benchmark(CALLS, "call", unit="Python functions", setup=require)
def track_functions(name):
    """Functions written in Python that a call enters, the function called included."""
    entered = []

    def profile(frame, event, argument):
        if event == "call":
            entered.append(frame.f_code.co_name)

    call = warm(name)
    with no_collection():
        sys.setprofile(profile)
        try:
            call()
        finally:
            sys.setprofile(None)
    return len(entered) - 1  # our lambda is one


@cache
def counting_allocator() -> tuple[np.ndarray, Callable[[], None], Callable[[], None], object]:
    """How often Python asked for memory; what starts counting and what ends it; and what must outlive that."""
    count = np.zeros(1, np.int64)
    allocator = ctypes.c_void_p * 5  # context, malloc, calloc, realloc, free
    pointers = ir.IntType(64)

    def counting(original: int, arguments: int):
        """A function that adds one and calls the original."""

        def generate(context, builder, signature, given):
            place = builder.inttoptr(ir.Constant(pointers, count.ctypes.data), pointers.as_pointer())
            builder.store(builder.add(builder.load(place), ir.Constant(pointers, 1)), place)
            kind = ir.FunctionType(pointers, [pointers] * arguments)
            function = builder.inttoptr(ir.Constant(pointers, original), kind.as_pointer())
            return builder.call(function, given)

        if arguments == 2:

            @intrinsic
            def two(typing_context, a, b):
                return numba.int64(numba.int64, numba.int64), generate

            return numba.cfunc("int64(int64, int64)")(lambda a, b: two(a, b))  # noqa: PLW0108

        @intrinsic
        def three(typing_context, a, b, c):
            return numba.int64(numba.int64, numba.int64, numba.int64), generate

        return numba.cfunc("int64(int64, int64, int64)")(lambda a, b, c: three(a, b, c))  # noqa: PLW0108

    python, plain, counted, kept = ctypes.pythonapi, {}, {}, []
    for domain in (1, 2):  # memory, objects
        plain[domain] = allocator()
        python.PyMem_GetAllocator(domain, ctypes.byref(plain[domain]))
        context, *functions, free = plain[domain]
        made = [counting(f, n) for f, n in zip(functions, (2, 3, 3), strict=True)]
        kept += made
        counted[domain] = allocator(context, *(f.address for f in made), free)

    def use(allocators: dict) -> None:
        for domain, found in allocators.items():
            python.PyMem_SetAllocator(domain, ctypes.byref(found))

    return count, lambda: use(counted), lambda: use(plain), kept


@benchmark(CALLS, "call", unit="allocations", setup=require)
def track_allocations(name):
    """How often a call asks Python's allocators for memory. What NumPy takes for an array's values, beside the array,
    and kernels for their workspaces is not among it: see `track_bytes`."""
    call = warm(name)
    count, start, stop, _ = counting_allocator()

    def counted(function: Callable[[], object]) -> int:
        start()
        count[0] = 0
        function()
        found = int(count[0])
        stop()
        return found

    with no_collection():
        return min(counted(call) - counted(lambda: None) for _ in range(5))


@benchmark(CALLS, "call", unit="bytes", setup=require)
def track_bytes(name):
    """Memory of Python and NumPy that a call needs at most, its result included."""
    call = warm(name)
    tracemalloc.start()
    try:
        found = []
        with no_collection():
            for _ in range(5):
                tracemalloc.reset_peak()
                before = tracemalloc.get_traced_memory()[0]
                result = call()
                found.append(tracemalloc.get_traced_memory()[1] - before)
                del result
    finally:
        tracemalloc.stop()
    return min(found)


PEAKS = {  # layer, its arguments, shape of some megabytes
    "LayerNorm": ((1024,), {}, (1024, 1024)),
    "BatchNorm": ((64,), {}, (4, 64, 64, 64)),
    "BatchNorm channels-last": ((64,), {"channel_axis": -1}, (4, 64, 64, 64)),
}
PASSES = [f"{norm} {direction}" for norm in PEAKS for direction in ("forward", "backward")]


@benchmark(PASSES, unit="times the result", setup=require)
def track_peak(case):
    """Memory of Python and NumPy that a pass needs at most, its result included, over that of the result. What kernels
    ask for themselves, some kilobytes a thread, is not among it."""
    name, direction = case.rsplit(maxsplit=1)
    arguments, options, shape = PEAKS[name]
    numba.set_num_threads(1)
    norm = getattr(nz, name.split(maxsplit=1)[0])(*arguments, **options)
    x, dy = np.random.default_rng(0).standard_normal((2, *shape), dtype=np.float32)
    norm.forward(x)[1].backward(dy)
    getattr(nz, "release_memory", lambda: None)()
    tracemalloc.start()
    try:
        y, saved = norm.forward(x)
        if direction == "backward":
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            dx = saved.backward(dy)
            return (tracemalloc.get_traced_memory()[1] - before) / getattr(dx, "x", dx).nbytes
        return tracemalloc.get_traced_memory()[1] / y.nbytes
    finally:
        tracemalloc.stop()


COMPILED = """
import json, os, sys
import llvmlite.binding as llvm

made, engine = [], llvm.ExecutionEngine
keep = engine.set_object_cache


def set_object_cache(self, compiled, loaded):
    def told(module, code):
        sections = llvm.ObjectFileRef.from_data(bytes(code)).sections()
        made.append(sum(section.size() for section in sections if section.is_text()))
        compiled(module, code)

    return keep(self, told, loaded)


engine.set_object_cache = set_object_cache
exec(sys.argv.pop(1))
print(json.dumps([len(made), sum(made)]))
"""


@cache
def compiled(kernel: str) -> tuple[int, int]:
    """Pieces of machine code that the first call of all makes, and their bytes."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", COMPILED, FIRST_CALL, *STARTS[kernel]]
        environment = os.environ | {"NUMBA_CACHE_DIR": folder}
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    pieces, size = json.loads(done.stdout.splitlines()[-1])
    return pieces, size


@benchmark(STARTS, "kernel", unit="functions", setup=require)
def track_compiled(kernel):
    """Functions that the first call of all compiles to machine code."""
    return compiled(kernel)[0]


@benchmark(STARTS, "kernel", unit="bytes", setup=require)
def track_code(kernel):
    """Bytes of machine code that the first call of all compiles."""
    return compiled(kernel)[1]
