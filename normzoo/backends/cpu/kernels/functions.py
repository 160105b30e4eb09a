"""Functions of the vocabulary, and those that are written in it, as kernels call them."""

from collections.abc import Callable
from functools import cache
from typing import Any

from normzoo.backends import lanes
from normzoo.backends.cpu.compiling.jit import helper


@cache
def on_lanes(function: Callable) -> Any:
    """A function of the vocabulary, or one that is written in it, as kernels call it."""
    from normzoo.backends.cpu.vector import error_function  # noqa: F401, PLC0415  (it teaches lanes exp and its kin)

    if function.__module__ != lanes.__name__:
        return helper(function)

    @helper
    def named(v):
        return function(v)

    return named


@cache
def in_short(function: Callable) -> Any:
    """A function as `on_lanes` has it, with digits enough for results of 16 bits."""
    of_lanes = on_lanes(function)
    from normzoo.backends.cpu.vector.short import full, short  # noqa: PLC0415  (as above)

    @helper
    def with_few_digits(v):
        return full(of_lanes(short(v)))

    return with_few_digits
