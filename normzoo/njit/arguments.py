"""The arguments of functions that Numba compiles: what their types must be."""

from collections.abc import Callable
from inspect import signature
from typing import Any

from numba.core import types
from numba.core.errors import TypingError
from numba.extending import overload

from normzoo.backends.cpu.compiling.jit import INNER

OF_X = "weight", "bias", "residual", "add", "gate"  # their dtype is x's


def compiled(function: Callable) -> Callable:
    """A decorator of make(**given), which returns the function that Numba compiles in place of `function`, with the
    same arguments; `given` has their types, or what they are by default, by name."""
    asked, owner = signature(function), function.__name__

    def register(make: Callable) -> Callable:
        @overload(
            function, strict=False, prefer_literal=True, jit_options=INNER
        )  # its arguments are not those of `make`
        def of(*arguments, **named):
            try:
                bound = asked.bind(*arguments, **named)
            except TypeError as error:
                raise TypingError(f"{owner}: {error}") from error
            bound.apply_defaults()
            given = dict(bound.arguments)
            return make(**given.pop("beside"), **given)

        return make

    return register


def none(a: Any) -> bool:
    return a is None or isinstance(a, types.NoneType) or (isinstance(a, types.Omitted) and a.value is None)


def flag(owner: str, name: str, value: Any) -> bool:
    """The value of an argument that must be known when compiling."""
    if isinstance(value, types.Omitted):
        value = value.value
    if isinstance(value, types.BooleanLiteral):
        value = value.literal_value
    if not isinstance(value, bool):
        raise TypingError(
            f"{owner}: expected {name} to be written as True or False, got {value}; write "
            f"if {name}: ... {name}=True ... else: ... {name}=False"
        )
    return value


def check(owner: str, x: Any, least: int, arrays: dict[str, Any], absent: dict[str, Any]) -> None:
    """Check that x and the other arrays are such as kernels take (or None), and that arguments only for Python are
    absent."""
    for name, a in {"x": x, **arrays}.items():
        if name != "x" and none(a):
            continue
        if not isinstance(a, types.Array) or a.dtype not in (types.float32, types.float64) or a.layout != "C":
            raise TypingError(
                f"{owner}: expected {name} to be a C-contiguous array of float32 or float64, got {a}; write "
                f"np.ascontiguousarray({name}), and astype where the dtype is another"
            )
        if a.dtype != x.dtype and name in OF_X:
            raise TypingError(
                f"{owner}: expected {name} of x's dtype {x.dtype}, got {a.dtype}; write {name}.astype(x.dtype)"
            )
    if x.ndim < least:
        raise TypingError(f"{owner}: expected x of {least} dimensions or more, got {x.ndim}")
    for name, a in absent.items():
        if not (none(a) or a == 1 or getattr(a, "literal_value", getattr(a, "value", None)) == 1):
            raise TypingError(
                f"{owner}: {name}= is not supported in compiled code; call it from Python, or move the axes"
            )
