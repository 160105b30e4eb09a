"""PyTorch's threads as the pool of `sharing.py`: kernels share their turns by `at::parallel_for`, in as many parts as
PyTorch has threads. Results do not depend on that number."""

# mypy: disallow-untyped-defs=False

import ctypes
from functools import cache
from typing import Any

from numba.core import types

from normzoo.backends.cpu.compiling.jit import kernel
from normzoo.backends.cpu.fastcall.objects import put_word, word
from normzoo.backends.cpu.numba_internals.needed import entry_for_c
from normzoo.torch.dispatch import interface
from normzoo.torch.dispatch.interface import call_pointer, parallel_for, room

INT = types.int64
place_of_part = interface.symbol("normzoo_torch_part")


@cache
def part() -> Any:
    """What `parallel_for` calls: the parts from `begin` to `end` of a loop."""

    @kernel(from_c=True)
    def run_part(begin, end, context):
        place = room()
        put_word(place, begin)  # see sharing.py: the number of the part is an address's value
        put_word(place + 8, end - begin)
        put_word(place + 16, 1)
        call_pointer(word(context), place, place + 8, place + 16, word(context + 8))

    return run_part


@cache
def start() -> Any:
    """A loop of `count` parts, as `sharing.py` starts it."""

    @kernel(from_c=True)
    def run_parts(run, first, parts, step, data, unused, dimensions, count):
        context = room()
        put_word(context, run)
        put_word(context + 8, data)
        parallel_for(0, word(parts), 1, place_of_part(), context)

    return run_parts


def link() -> None:
    """Make the pool known to compiled code."""
    found, made = entry_for_c(part(), (INT,) * 3)
    interface.link("normzoo_torch_part", made, found)
    found, made = entry_for_c(start(), (INT,) * 7 + (types.int32,))
    pool = (ctypes.c_void_p * 2)(found, interface.address(interface.THREADS))
    interface.link("normzoo_torch_pool", (made, pool), ctypes.addressof(pool))
