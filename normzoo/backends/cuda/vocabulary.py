"""The vocabulary of `backends/lanes.py` on the lanes of a CUDA thread, of which functions behind a norm are made. The
transcendental ones are libdevice's, of each lane."""

import operator
from collections.abc import Callable
from functools import cache
from itertools import product
from typing import Any

from llvmlite import ir
from numba.cuda import types
from numba.cuda.extending import lower_builtin, type_callable

from normzoo.backends import lanes as vocabulary
from normzoo.backends.around import Activation
from normzoo.backends.cuda.arithmetic import absolute
from normzoo.backends.cuda.geometry import device
from normzoo.backends.cuda.lanes import I32, Vec, call, common_type, constant, fitted, suffix


def _type_of_one(v):
    return common_type(v)


def _type_of_two(a, b):
    return common_type(a, b)


def _type_of_three(v, a, b):
    return common_type(v, a, b)


_TYPERS = {1: _type_of_one, 2: _type_of_two, 3: _type_of_three}


def _define(function: Callable, arity: int, lower: Callable) -> None:
    """Define a function of lanes and numbers by lower(builder, result type, arguments as lanes of that type)."""

    type_callable(function)(lambda context: _TYPERS[arity])

    def code(context, builder, sig, args):
        result = sig.return_type
        lanes = [fitted(builder, v, k, result) for v, k in zip(args, sig.args, strict=True)]
        return lower(builder, result, *lanes)

    for kinds in product((Vec, types.Number), repeat=arity):
        if Vec in kinds:
            lower_builtin(function, *kinds)(code)


def _lanewise(name: str) -> Callable:
    """libdevice's function of this name, of each lane."""

    def lower(builder, kind, v):
        of = v.type.element
        full = f"__nv_{name}{'f' if isinstance(of, ir.FloatType) else ''}"
        found = v
        for i in range(kind.count):
            at = constant(I32, i)
            found = builder.insert_element(found, call(builder, full, of, [builder.extract_element(v, at)]), at)
        return found

    return lower


def _root(builder, kind, v):
    return call(builder, f"llvm.sqrt.{suffix(kind)}", v.type, [v])


def _larger(builder, kind, a, b):
    return builder.select(builder.fcmp_ordered("<", a, b), b, a)


def _smaller(builder, kind, a, b):
    return builder.select(builder.fcmp_ordered("<", b, a), b, a)


def _choose(builder, kind, v, a, b):
    zero = constant(v.type, 0.0)
    rest = builder.select(builder.fcmp_ordered("<=", v, zero), b, v)
    return builder.select(builder.fcmp_ordered(">", v, zero), a, rest)


def _fma(builder, kind, a, b, c):
    return call(builder, f"llvm.fma.{suffix(kind)}", a.type, [a, b, c])


def _minus(builder, kind, v):
    return builder.fsub(constant(v.type, -0.0), v)  # NVVM's LLVM has no fneg


def _sigmoid(builder, kind, v):
    one = constant(v.type, 1.0)
    return builder.fdiv(one, builder.fadd(one, _lanewise("exp")(builder, kind, _minus(builder, kind, v))))


_TABLE: tuple[tuple[Callable, int, Callable], ...] = (
    (vocabulary.minus, 1, _minus),
    (operator.neg, 1, _minus),
    (vocabulary.magnitude, 1, lambda builder, kind, v: absolute(builder, kind, kind, v)),
    (vocabulary.root, 1, _root),
    (vocabulary.sigmoid, 1, _sigmoid),
    *((getattr(vocabulary, name), 1, _lanewise(name)) for name in ("exp", "expm1", "log", "log1p", "tanh", "erf")),
    (vocabulary.larger, 2, _larger),
    (vocabulary.smaller, 2, _smaller),
    (vocabulary.choose, 3, _choose),
    (vocabulary.fma, 3, _fma),
)
for _entry in _TABLE:
    _define(*_entry)


@device
def _same(v):
    return v


@device
def _one(v):
    return v * 0.0 + 1.0


@cache
def functions_of(activation: Activation | None) -> tuple[Any, Any]:
    """An activation's value and derivative, as kernels call them."""
    if activation is None:
        return _same, _one
    return device(activation.value), device(activation.derivative)
