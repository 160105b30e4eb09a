"""Loops whose turns threads share: `share`, for kernels, and the pool of threads that is passed to them.

A pool is the address of two function pointers of Numba's threading layer: one runs a function on its threads, the other
returns their number. ALONE is no pool. The same machine code of a kernel serves both cases: it processes a range of
turns.
"""

import ctypes
from functools import lru_cache
from itertools import pairwise
from statistics import median
from time import perf_counter
from typing import Any

from llvmlite import binding, ir
from numba.core import cgutils, types

from normzoo.backends.cpu.compiling.jit import helper
from normzoo.backends.cpu.numba_internals.needed import call_linked, compile_for, linked, name_of, raise_new
from normzoo.backends.cpu.numba_internals.way import lower, typed
from normzoo.backends.cpu.schedule import FOLDED_ON_THREADS
from normzoo.backends.cpu.vector.lanes import Flat, Space, pointer

ALONE = 0
POOL = types.int64

_INT = ir.IntType(64)
_BYTES = ir.IntType(8).as_pointer()
_WORK = ir.FunctionType(ir.VoidType(), [_BYTES.as_pointer(), _INT.as_pointer(), _INT.as_pointer(), _BYTES])


def pool() -> int:
    """Numba's threads, which must have been started; ALONE if this version of Numba does not export the functions."""
    held = _addresses()
    return ctypes.addressof(held) if all(held) else ALONE


@lru_cache(maxsize=1)
def _addresses() -> ctypes.Array:
    names = "numba_parallel_for", "get_num_threads"
    return (ctypes.c_void_p * 2)(*map(binding.address_of_symbol, names))


def waking(count: int, loops: int = 12) -> float:
    """The typical time in seconds for `count` threads to begin and end an empty loop: two or three microseconds if idle
    threads spin, a hundred if they sleep, though a few loops take half of that."""
    start, _ = _addresses()
    if not start:
        return 0.0
    size, nothing = ctypes.c_size_t, ctypes.pythonapi.Py_IsInitialized  # has no arguments, and takes no lock
    loop = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 5, size, size, ctypes.c_int)(start)
    first, parts, step = (size * 1)(0), (size * 1)(count), (size * 1)(1)
    given = ctypes.cast(nothing, ctypes.c_void_p), first, parts, step, None, 0, 1, count
    times = [perf_counter()]
    for _ in range(loops):
        loop(*given)
        times.append(perf_counter())
    return median(b - a for a, b in pairwise(times))


@helper
def pool_for(values, pool):
    """The pool, if there are enough values to be worth it; else ALONE."""
    return pool if values >= FOLDED_ON_THREADS else ALONE


def share(pool, turns, work, arguments):
    """Call work(t, *arguments) for each t below `turns`; each thread takes a contiguous range. A single turn wakes no
    thread.

    Args:
        pool: the threads, or ALONE.
        work: a helper that returns nothing.

    Raises:
        MemoryError: a turn found no memory; others may have been completed.
    """
    for t in range(turns):
        work(t, *arguments)


def _lent(kind: Any) -> Any:
    """The types of the arguments of turns: a workspace belongs to the caller, and turns do not count its references.
    Threads that counted them would wait for each other."""
    if isinstance(kind, Space):
        return Flat(kind.dtype)
    if not isinstance(kind, types.BaseTuple):
        return kind
    parts = [_lent(part) for part in kind.types]  # type: ignore[attr-defined]
    if isinstance(kind, types.BaseNamedTuple):
        return types.NamedTuple(parts, kind.instance_class)  # type: ignore[attr-defined]
    return types.Tuple(parts)


def _lend(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    if isinstance(kind, Space):
        return pointer(context, builder, kind, value)
    if not isinstance(kind, types.BaseTuple):
        return value
    parts = zip(kind.types, cgutils.unpack_tuple(builder, value), strict=True)  # type: ignore[attr-defined]
    return context.make_tuple(builder, _lent(kind), [_lend(context, builder, *part) for part in parts])


def _type_of_share(pool, turns, work, arguments):
    compile_for(work, (types.int64, *_lent(arguments).types))
    return types.none


typed(share, _type_of_share)


@lower(share, POOL, types.Integer, types.Dispatcher, types.BaseTuple)
def _lower_share(context, builder, signature, given):
    _, _, work, arguments = signature.args
    taken = types.int64, *_lent(arguments).types
    called = linked(context, work, taken)
    pool, turns, _, values = given
    arguments = _lend(context, builder, arguments, values)
    with builder.if_then(builder.icmp_signed(">", turns, _INT(0))):
        failed = _launch(context, builder, called, taken, pool, turns, arguments)
        with builder.if_then(failed, likely=False):
            raise_new(context, builder, MemoryError, "no memory for a kernel's working space")
    return context.get_dummy_value()


TURNS, PARTS, FAILED, ARGUMENTS = range(4)  # fields of the record that the threads of a loop share


def _field(builder, shared, field):
    return cgutils.gep_inbounds(builder, shared, 0, field)


def _launch(context, builder, called, taken, pool, turns, arguments):
    """Run the turns, in as many parts as there are threads. Returns whether one failed."""
    kind = ir.LiteralStructType([_INT, _INT, _INT, arguments.type])
    shared = cgutils.alloca_once(builder, kind)
    run = _run_of_turns(context, builder.module, called, taken, kind)
    alone = builder.or_(builder.icmp_signed("==", pool, _INT(ALONE)), builder.icmp_signed("<", turns, _INT(2)))
    addresses = builder.inttoptr(pool, _BYTES.as_pointer())

    def function(i, kind):
        return builder.bitcast(builder.load(builder.gep(addresses, [_INT(i)])), kind.as_pointer())

    threads = cgutils.alloca_once_value(builder, _INT(1))
    with builder.if_then(builder.not_(alone)):
        number = builder.call(function(1, ir.FunctionType(ir.IntType(32), [])), [])
        builder.store(builder.sext(number, _INT), threads)
    count = builder.load(threads)
    for field, value in ((TURNS, turns), (PARTS, count), (FAILED, _INT(0)), (ARGUMENTS, arguments)):
        builder.store(value, _field(builder, shared, field))

    # The pool passes this pointer, advanced by one step per earlier part: its value is the number of the part.
    first = cgutils.alloca_once_value(builder, ir.Constant(_BYTES, None))
    parts, step = cgutils.alloca_once_value(builder, count), cgutils.alloca_once_value(builder, _INT(1))
    data = builder.bitcast(shared, _BYTES)
    with builder.if_else(alone) as (without, within):
        with without:
            builder.call(run, [first, parts, step, data])
        with within:
            sizes = [_INT] * 2
            pool_kind = ir.FunctionType(
                ir.VoidType(), [_BYTES, first.type, parts.type, step.type, _BYTES, *sizes, ir.IntType(32)]
            )
            start = function(0, pool_kind)
            number = builder.trunc(count, ir.IntType(32))
            builder.call(start, [builder.bitcast(run, _BYTES), first, parts, step, data, _INT(0), _INT(1), number])
    return builder.icmp_signed("!=", builder.load(_field(builder, shared, FAILED)), _INT(0))


def _run_of_turns(context, module, called, taken, kind):
    """The function that a pool calls with the number of the first part and the number of consecutive parts to process;
    their turns are consecutive, too."""
    run = ir.Function(module, _WORK, module.get_unique_name(f"turns_of_{name_of(called)}"))
    run.linkage = "internal"
    builder = ir.IRBuilder(run.append_basic_block("entry"))
    part, handed = builder.ptrtoint(builder.load(run.args[0]), _INT), builder.load(run.args[1])
    shared = builder.bitcast(run.args[3], kind.as_pointer())
    turns, parts, arguments = (builder.load(_field(builder, shared, f)) for f in (TURNS, PARTS, ARGUMENTS))
    elements = cgutils.unpack_tuple(builder, arguments)
    start = builder.sdiv(builder.mul(part, turns), parts)
    stop = builder.sdiv(builder.mul(builder.add(part, handed), turns), parts)
    with cgutils.for_range_slice(builder, start, stop, _INT(1), _INT) as (turn, _):
        status = call_linked(context, builder, called, taken, [turn, *elements])
        with builder.if_then(status.is_error, likely=False):
            builder.store(_INT(1), _field(builder, shared, FAILED))
    builder.ret_void()
    return run
