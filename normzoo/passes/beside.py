"""The arrays that stand beside x: checks, and how a backend reads and writes them."""

from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

from normzoo.backends.around import NOTHING, Beside
from normzoo.backends.contract import Array
from normzoo.passes.arrays import base_array, check_parameter, compute_dtype, on_device, quiet, rounded
from normzoo.passes.form import Form
from normzoo.passes.overlaps import check_out
from normzoo.passes.plan import READY, ForwardPlan
from normzoo.passes.saved import empty_in_layout


def check_beside(form: Form, x: Any) -> Beside:
    """The arrays of a call, of the base class, whose shapes fit x's."""
    owner, (residual, s, other, scale) = form.owner, form.beside
    if residual is not None:
        residual = base_array(owner, "residual", residual)
        if not _broadcasts(residual.shape, x.shape):
            raise ValueError(
                f"{owner}: expected residual of x's shape {x.shape}, or one that broadcasts to it, got {residual.shape}"
            )
    if other is not None:
        name = name_of_other(form.around)
        other = base_array(owner, name, other)
        if is_learned(form.around):
            wanted = form.axes.parameter_shape if form.parameter_shape is None else form.parameter_shape
            check_parameter(owner, name, other, wanted)
            if on_device(x):
                raise TypeError(
                    f"{owner}: takes no activation with a parameter on the device; write norm(x) with activation None, "
                    "and compute it behind the norm"
                )
        elif other.shape != x.shape:
            write = f"; write np.broadcast_to({name}, x.shape)" if _broadcasts(other.shape, x.shape) else ""
            raise ValueError(f"{owner}: expected {name} of x's shape {x.shape}, got {other.shape}{write}")
    s = s if s is None or isinstance(s, ndarray) else base_array(owner, "residual_out", s)
    for name, a in (("residual", residual), (name_of_other(form.around), other), ("residual_out", s)):
        if a is not None and on_device(a) != on_device(x):
            here, there = ("device", "host") if on_device(x) else ("host", "device")
            write = f"nz.device_array({name})" if on_device(x) else f"nz.device_array({name}).copy_to_host()"
            raise TypeError(
                f"{owner}: expected all arrays on the host or all on the device, got x on the {here} and {name} on the "
                f"{there}; write {write}"
            )
    return Beside(residual, s, other, scale)


def name_of_other(around: Any) -> str:
    """What the caller calls the array that is added, or is the gate, or a parameter."""
    if around.behind == "learned":
        found: str = around.activation.parameter
        return found
    return "add" if around.behind == "add" else "gate"


def is_learned(around: Any) -> bool:
    """Is the array behind the norm a parameter of the activation?"""
    return around is not None and around.behind == "learned"


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    """NumPy's rules, to a shape that stays."""
    if shape == to:
        return True
    return len(shape) <= len(to) and all(n in (1, size) for n, size in zip(shape[::-1], to[::-1], strict=False))


def is_usual(beside: Beside, x: Array, learned: bool = False) -> bool:
    """Are all arrays such as a backend takes where they lie, beside an x that is? A parameter is none."""
    for a in (beside.residual, None if learned else beside.other):
        if a is None:
            continue
        if type(a) is not ndarray or a.shape != x.shape or a.dtype != x.dtype or a.flags.num & READY != READY:
            return False
    return beside.s is None or type(beside.s) is ndarray


@quiet
def added(x: Array, residual: Array, scale: float) -> Array:
    """x + scale * residual, in the order of x's axes; rounded to x's dtype."""
    if on_device(x):
        raise TypeError(
            f"residual: expected x and the parameters in one dtype on a device, or x in 16 bits, got x of {x.dtype}; "
            "copy x to the wider one"
        )
    wide = compute_dtype(x.dtype)
    return rounded(x.astype(wide) + scale * rounded(residual, x.dtype).astype(wide), x.dtype, copy=False)


def checked_ds(owner: object, ds: Any, shape: tuple[int, ...]) -> Array:
    """A gradient that reaches s, of its shape."""
    ds = base_array(owner, "ds", ds)
    if ds.shape != shape:
        raise ValueError(f"{owner}: expected ds of x's shape {shape}, got {ds.shape}")
    return ds


class Placed(NamedTuple):
    """The arrays beside x as a backend takes them."""

    beside: Beside
    x: Array  # what is normalized where the backend adds nothing
    s: Array | None  # what the caller gets
    elsewhere: bool  # the backend writes it to `beside.s`, whence it is to be copied
    parameter: Array | None = None  # of the activation, as the caller has it

    def results(self, plan: ForwardPlan, y: Array) -> Any:
        """y, or y and s, when all is written."""
        if self.s is not None and self.elsewhere:
            plan.deliver(self.beside.s, self.s)
        return y if self.s is None else (y, self.s)

    def left(self, plan: ForwardPlan, v: Array, beside: Beside) -> tuple[Array, tuple]:
        """What the backward pass reads, v where no residual was added, and what else a `BesideSaved` takes."""
        s = self.beside.s if self.s is not None and not plan.adds else v
        source = None if self.elsewhere or plan.adds else self.s
        if self.parameter is not None:  # it is read again, and looked at
            return s, (beside.residual, source, self.parameter, self.parameter, beside.scale)
        return s, (beside.residual, source, beside.other, self.beside.other, beside.scale)


def place_usual(
    plan: ForwardPlan, owner: object, arrays: tuple, beside: Beside, apart: tuple[Array | None, ...]
) -> Placed | None:
    """`place` of arrays that were not checked; None if they are not such as a backend takes where they lie."""
    x, (residual, s, other, scale) = arrays[0], beside
    learned = is_learned(plan.around)
    if not is_usual(beside, x, learned):
        return None
    if learned and (type(other) is not ndarray or other.shape != plan.expected or other.dtype.kind != "f"):
        return None
    if s is None and plan.as_is and plan.plain and not learned:  # as most are
        target = None if residual is None else plan.new(plan.shape, plan.result)
        return Placed(Beside(residual, target, other, scale), x, target, False)
    return place(plan, owner, arrays, beside, apart)


def place(plan: ForwardPlan, owner: object, arrays: tuple, beside: Beside, apart: tuple[Array | None, ...]) -> Placed:
    """The arrays beside x as the backend takes them, and where s goes."""
    x, weight, bias, out = arrays
    residual, s, other, scale = beside
    if s is not None:
        held = weight, bias, other, out, *apart
        check_out(owner, s, x.shape, x.dtype, (x, residual), held, "residual_out")
    parameter = other if is_learned(plan.around) else None
    o = None
    if parameter is not None:
        o = plan.parameter(parameter)
    elif other is not None:
        o = plan.take(other)
    if residual is None:
        return Placed(Beside(other=o), x, None, False, parameter)
    if plan.adds:
        made = added(x, residual, scale)
        s = empty_in_layout(x.shape, x.dtype, None if x.flags.c_contiguous else plan.layout) if s is None else s
        s[...] = made
        return Placed(Beside(other=o), s, s, False, parameter)
    s, target, elsewhere = plan.target(s)
    wide = residual
    if residual.shape != x.shape:
        wide = _repeated(owner, residual, x.shape) if on_device(x) else np.broadcast_to(residual, x.shape)
    return Placed(Beside(plan.take(wide), target, o, scale), x, s, elsewhere, parameter)


def _repeated(owner: object, residual: Any, shape: tuple[int, ...]) -> Any:
    """A residual on the device, as an array of this shape."""
    own = residual.shape
    while own and own[0] == 1:
        own = own[1:]
    if own != shape[len(shape) - len(own) :]:
        raise ValueError(
            f"{owner}: expected a residual on the device that repeats along leading axes of x's shape {shape}, got "
            f"{residual.shape}; copy it to x's shape"
        )
    return residual.reshape(own).broadcast_to(shape)


def put(form: Form, x: Array, made: Any, out: Array | None, apart: tuple[Array | None, ...]) -> Any:
    """y, or y and s, of a pass in the arrays that the caller gave for them."""
    owner, (residual, s, other, _) = form.owner, form.beside
    given = (out, s) if isinstance(made, tuple) else (out,)
    for target, name in zip(given, ("out", "residual_out"), strict=False):
        if target is not None:
            check_out(owner, target, x.shape, x.dtype, (x, residual), (other, *apart), name)
    if out is not None and s is not None:
        check_out(owner, s, x.shape, x.dtype, (), (out,), "residual_out")
    results = list(made) if isinstance(made, tuple) else [made]
    for i, target in enumerate(given):
        if target is not None:
            target[...] = results[i]
            results[i] = target
    return tuple(results) if isinstance(made, tuple) else results[0]


def gone_by(plan: ForwardPlan, x: Array, beside: Beside) -> Placed:
    """What `place` gave for a pass that was."""
    if is_learned(plan.around):
        return Placed(NOTHING, x, None, False, beside.other)
    return Placed(Beside(other=None if beside.other is None else plan.take(beside.other)), x, None, False)
