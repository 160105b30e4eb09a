"""The passes of the contract as functions for compiled code: the CPU backend's choice of a kernel, made at run time.

A norm declares which of the five kinds of kernels its views may need: rows or columns, with parameters that vary within
a set (along n of rows, m of columns) or not. Only these are compiled, and those of few values. All run on one thread.
Kernels that share large sets among threads are not needed: these give the same bits.

Kernels are called by address. Otherwise Numba would copy the code of every kernel into each calling function and
optimize it again there, which took minutes. The disadvantage is that Numba does not cache functions that call norms; it
does cache the kernels.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numba
import numpy as np
from numba.core import types
from numba.extending import intrinsic, register_jitable

from normzoo.backends.around import ALONE, Around
from normzoo.backends.contract import CONSTANT, Moments
from normzoo.backends.cpu.choice import (
    BACKWARD,
    COLUMNS,
    FEW,
    FORWARD,
    ROWS,
    choice,
    has_each,
    is_by_column,
    is_by_runs,
    is_columns,
    is_few,
    spans_of,
)
from normzoo.backends.cpu.compiling.jit import INNER
from normzoo.backends.cpu.kernels import (
    columns,
    columns_gradients,
    columns_split,
    few,
    rows,
    rows_gradients,
    rows_split,
)
from normzoo.backends.cpu.kernels.rows_walk import EACH, ONE, RUNS
from normzoo.backends.cpu.numba_internals.needed import address_in, call_at, function_type, machine_code, raise_as
from normzoo.backends.cpu.parallel.sharing import ALONE as NO_POOL
from normzoo.backends.cpu.vector.lanes import Flat
from normzoo.passes import view

inner = register_jitable(**INNER)
inner(view.take_run)
fit_sizes = inner(view.fit_sizes)
for function in (has_each, is_by_runs, is_columns, is_few, spans_of):
    inner(function)
choose = inner(choice)


class Kinds(NamedTuple):
    """The kernels that a norm may need."""

    rows: bool = True
    rows_spanned: bool = False  # the parameters vary along n
    columns: bool = True
    columns_spanned: bool = False  # parameters vary along m
    rows_of_runs: bool = False  # parameters vary along m, and runs are short and adjacent in memory


def by_address(kernel: Any, arrays: tuple[bool, ...]) -> Callable:
    """A compiled kernel as a function for compiled code; it takes a tuple of arrays and scalars.

    Args:
        arrays: for each argument, whether the kernel takes it as `Flat`, or without conversion.

    Raises:
        MemoryError: in compiled code, if the kernel finds no memory for its workspace.
    """

    @intrinsic
    def call(typing_context, arguments):
        given = arguments.types
        taken = tuple(Flat(t.dtype) if flat else types.unliteral(t) for t, flat in zip(given, arrays, strict=True))
        _, code, _ = machine_code(kernel, taken)

        def generate(context, builder, signature, args):
            parts = [builder.extract_value(args[0], i) for i in range(len(given))]
            pointer = address_in(context, builder, code, kernel.py_func.__name__)
            function = builder.bitcast(pointer, function_type(context, taken).as_pointer())
            flattened = [
                context.make_array(t)(context, builder, part).data if flat else part
                for t, part, flat in zip(given, parts, arrays, strict=True)
            ]
            status = call_at(context, builder, function, taken, flattened)
            with builder.if_then(status.is_error, likely=False):
                raise_as(context, builder, status)
            return context.get_dummy_value()

        return types.none(arguments), generate

    return call


_ARRAYS = {
    "forward": (False, False, False, *[True] * 5, False, False, False),
    "apply": (False, False, False, *[True] * 5),
    "backward": (False, False, False, *[True] * 7, False, False),
}
_BESIDE = {"forward": (True, True, True, False), "apply": (True, True, True, False), "backward": (True,) * 6}


def _flat(kind: str, around: Around) -> tuple[bool, ...]:
    return _ARRAYS[kind] + (() if around == ALONE else _BESIDE[kind])


# The result of `choice` for each of `Kinds`, in their order.
NUMBERS = ROWS + ONE, ROWS + EACH, COLUMNS + ONE, COLUMNS + EACH, ROWS + RUNS


def _variants(kind: str, by_row: Any, by_column: Any, kinds: Kinds, around: Around) -> list[Any]:
    """The kernels of the five kinds; None for those that are not needed."""
    return [
        by_address((by_row, by_column)[by](spans, False, around), _flat(kind, around)) if needed else None
        for (by, spans), needed in zip(map(is_by_column, NUMBERS), kinds, strict=True)
    ]


def _of_few(kind: str, make: Any, flags: tuple, dtype: types.Float, around: Around) -> Any:
    """The kernel of few values in any layout; only for float32."""
    if dtype != types.float32:
        return None
    return by_address(make(*flags, True, False, False, around), _flat(kind, around))


@lru_cache(maxsize=256)
def forward(moments: Moments, kinds: Kinds, dtype: types.Float, around: Around) -> Callable:
    """run(forward, eps), with a record: computes the statistics of x and y; with CONSTANT, only y, by the statistics in
    the record."""
    center, power = moments.center, moments.power
    known = moments == CONSTANT
    if known:
        calls = _variants("apply", rows_split.apply, columns_split.apply, kinds, around)
    else:
        calls = _variants(
            "forward",
            partial(rows.forward, center, power),
            partial(columns.forward, center, power),
            kinds,
            around,
        )
    first, second, third, fourth, fifth = calls
    has_first, has_second, has_third, has_fourth, has_fifth = kinds
    # with CONSTANT, other kernels are bit-identical to `few.apply`
    of_few: Any = None if known else _of_few("forward", few.forward, (center, power), dtype, around)
    has_few = of_few is not None

    @numba.njit(error_model="numpy", **INNER)
    def run(given, eps):
        dims, parameter_dims, x, weight, bias, y, stats, beside = given
        divisor = float(dims[1] * dims[3])
        arguments = (
            (NO_POOL, dims, parameter_dims, x, weight, bias, y, stats) + beside  # noqa: RUF005 (Numba knows no star here)
            if known
            else (NO_POOL, dims, parameter_dims, x, weight, bias, y, stats, divisor, eps, False) + beside  # noqa: RUF005
        )
        which = choose(dims, parameter_dims, FORWARD, known, has_few)
        if has_first and which == NUMBERS[0]:
            first(arguments)
        if has_second and which == NUMBERS[1]:
            second(arguments)
        if has_third and which == NUMBERS[2]:
            third(arguments)
        if has_fourth and which == NUMBERS[3]:
            fourth(arguments)
        if has_fifth and which == NUMBERS[4]:
            fifth(arguments)
        if has_few and which == FEW:
            of_few(arguments)

    return run


@lru_cache(maxsize=256)
def backward(moments: Moments, kinds: Kinds, dtype: types.Float, around: Around) -> Callable:
    """run(backward, dweight, dbias), with a record."""
    center, power = moments.center, moments.power
    first, second, third, fourth, fifth = _variants(
        "backward",
        partial(rows_gradients.backward, center, power),
        partial(columns_gradients.backward, center, power),
        kinds,
        around,
    )
    has_first, has_second, has_third, has_fourth, has_fifth = kinds
    of_few, known = _of_few("backward", few.backward, (center, power, False), dtype, around), moments == CONSTANT
    has_few = of_few is not None

    @numba.njit(error_model="numpy", **INNER)
    def run(given, dweight, dbias):
        dims, parameter_dims, dy, x, weight, stats, dx, beside = given
        divisor = float(dims[1] * dims[3])
        own = NO_POOL, dims, parameter_dims, dy, x, weight, stats, dx, dweight, dbias, divisor, np.inf
        arguments = own + beside
        which = choose(dims, parameter_dims, BACKWARD, known, has_few)
        if has_first and which == NUMBERS[0]:
            first(arguments)
        if has_second and which == NUMBERS[1]:
            second(arguments)
        if has_third and which == NUMBERS[2]:
            third(arguments)
        if has_fourth and which == NUMBERS[3]:
            fourth(arguments)
        if has_fifth and which == NUMBERS[4]:
            fifth(arguments)
        if has_few and which == FEW:
            of_few(arguments)

    return run
