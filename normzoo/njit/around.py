"""What stands before and behind a norm in functions that Numba compiles: what is known when they are compiled, and the
arrays as kernels take them, see `backends/cpu/beside.py`."""

from collections import namedtuple
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numba.core import types
from numba.core.errors import TypingError
from numba.extending import NativeValue, models, register_model, typeof_impl, unbox

from normzoo.backends.activations import activation
from normzoo.backends.around import ALONE, Activation, Around
from normzoo.backends.cpu.beside import place_before, place_behind
from normzoo.backends.cpu.compiling.disk import identity
from normzoo.backends.cpu.fastcall.shortcut import DY_IN_DOTHER, DY_IN_DX, S_IN_DOTHER, S_IN_S, S_IN_Y
from normzoo.backends.cpu.numba_internals.needed import constant_of
from normzoo.njit.arguments import check, flag, none
from normzoo.njit.kernels import inner
from normzoo.passes.around import LEARNED, find_around
from normzoo.passes.saved import Grads

NAMES = "residual", "add", "gate"


class ActivationType(types.Opaque):
    """Of one activation: compiled code has no values of it."""

    def __init__(self, known: Activation) -> None:
        self.activation = known
        super().__init__(f"Activation({known.name!r}, {identity(known[1:3])})")


@typeof_impl.register(Activation)
def _type_of(value: Activation, _context: Any) -> ActivationType:
    return ActivationType(value)


@constant_of(ActivationType)
def _constant(context, _builder, _type, _value):
    return context.get_dummy_value()


@unbox(ActivationType)
def _unboxed(_type, _value, c):
    return NativeValue(c.context.get_dummy_value())


register_model(ActivationType)(models.OpaqueModel)


def around_of(owner: str, x: Any, given: Mapping[str, Any]) -> Around:
    """What a call has around the norm, from the types of its arguments."""
    if not none(given.get("residual_out")):
        raise TypingError(
            f"{owner}: residual_out= is not supported in compiled code; write y, s = {owner}(x, ..., residual=residual)"
        )
    if not none(given.get(LEARNED)):
        raise TypingError(
            f"{owner}: {LEARNED}= is not supported in compiled code; write np.maximum({owner}(x, ...), tau)"
        )
    arrays: dict[str, Any] = {name: given.get(name) for name in NAMES}
    check(owner, x, 0, arrays, {})
    for name, a in arrays.items():
        if not none(a) and a.ndim != x.ndim:
            raise TypingError(
                f"{owner}: expected {name} of x's {x.ndim} dimensions in compiled code, got {a.ndim}; write "
                f"np.broadcast_to({name}, x.shape).copy()"
            )
    gate_first = flag(owner, "gate_first", given.get("gate_first", False))
    act = _activation(owner, given.get("activation"))
    residual, add, gate = (not none(a) for a in arrays.values())
    try:
        around = find_around(owner, act, gate_first, residual, add, gate)
    except ValueError as error:
        raise TypingError(str(error)) from error
    return ALONE if around is None else around


def _activation(owner: str, given: Any) -> Activation | None:
    if none(given):
        return None
    if isinstance(given, ActivationType):
        return given.activation
    if not isinstance(given, types.StringLiteral):
        raise TypingError(
            f"{owner}: expected activation to be written as a name of list_activations(), or an Activation, got {given}"
        )
    try:
        return activation(given.literal_value, owner)
    except ValueError as error:
        raise TypingError(str(error)) from error


class ToY(NamedTuple):
    """The arrays of a pass to y."""

    arrays: Callable  # (x, (residual, add, gate, scale)): checked; what is not there is x, and the scale a float
    read: Callable  # (x, y): what the norm reads
    more: Callable  # (x, arrays): the last arguments of a kernel
    result: Callable  # (y, read)


@lru_cache(maxsize=256)
def to_y(owner: str, around: Around) -> ToY:
    has_residual, other = around.residual, _other(around)
    has_other, index, place = other != "", (*NAMES, "").index(other), place_before(around)
    residual_message = f"{owner}: expected residual of x's shape in compiled code"
    other_message = f"{owner}: expected {other} of x's shape"
    scale_message = f"{owner}: expected a finite residual_scale"

    def arrays(x, beside):
        residual = other = x
        scale = float(beside[3])
        if has_residual:
            if beside[0].shape != x.shape:
                raise ValueError(residual_message)
            residual = beside[0]
        if has_other:
            if beside[index].shape != x.shape:
                raise ValueError(other_message)
            other = beside[index]
        if not -np.inf < scale < np.inf:
            raise ValueError(scale_message)
        return residual, other, scale

    def more(x, arrays):
        residual, other, scale = arrays
        return x, residual, other, scale

    if around == ALONE:
        none_at_all = inner(lambda x, beside: ())
        return ToY(none_at_all, inner(lambda x, y: x), none_at_all, inner(lambda y, read: y))
    reads = {0: lambda x, y: x, S_IN_S: lambda x, y: np.empty_like(x), S_IN_Y: lambda x, y: y}
    result = (lambda y, read: (y, read)) if has_residual else (lambda y, read: y)
    return ToY(inner(arrays), inner(reads[place]), inner(more), inner(result))


class ToDx(NamedTuple):
    """The arrays of a pass to dx."""

    dother: Callable  # (dx): a new array, or dx where there is no other
    given: Callable  # (saved, dy, dx, dother, ds): dy and x as the norm reads them, and a kernel's last arguments
    grads: Callable  # (dx, dweight, dbias, dother, saved)


@lru_cache(maxsize=256)
def to_dx(around: Around, dtype: types.Float) -> ToDx:
    """`around.ds` says whether there is a ds."""
    if around._replace(ds=False) == ALONE:
        return ToDx(
            inner(lambda dx: dx),
            inner(lambda saved, dy, dx, dother, ds: (dy, saved.x, ())),
            inner(lambda dx, dweight, dbias, dother, saved: Grads(dx, dweight, dbias)),
        )
    place, has_ds, other = place_behind(around), around.ds, _other(around)
    joins, in_dother, in_dx = (place == each for each in (S_IN_DOTHER, DY_IN_DOTHER, DY_IN_DX))

    def given(saved, dy, dx, dother, ds):
        x = saved.x
        above, read, d = dy, x, dy
        if has_ds:
            above = ds
        if joins:
            read = dother
        if in_dother:
            d = dother
        if in_dx:
            d = dx
        return d, read, (x, dy, saved.bias, saved.other, dother, above)

    number = {types.float32: np.float32, types.float64: np.float64}[dtype]
    names = (*(("residual",) if around.residual else ()), *((other,) if other else ()))
    made = _grads(names)
    grads = {
        (): lambda dx, dweight, dbias, dother, saved: Grads(dx, dweight, dbias),
        ("residual",): lambda dx, dweight, dbias, dother, saved: made(dx, dweight, dbias, dx * number(saved.scale)),
        (other,): lambda dx, dweight, dbias, dother, saved: made(dx, dweight, dbias, dother),
        ("residual", other): lambda dx, dweight, dbias, dother, saved: made(
            dx, dweight, dbias, dx * number(saved.scale), dother
        ),
    }[names]
    dother = (lambda dx: np.empty_like(dx)) if other else (lambda dx: dx)  # noqa: PLW0108 (a function that Numba knows)
    return ToDx(inner(dother), inner(given), inner(grads))


def _other(around: Around) -> str:
    return "gate" if around.gate_first else around.behind


@lru_cache(maxsize=8)
def _grads(names: tuple[str, ...]) -> Any:
    """`Grads` with fields of these names behind its own, as compiled code has no mappings."""
    return namedtuple("Grads", (*Grads._fields, *names)) if names else Grads
