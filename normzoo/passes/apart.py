"""What stands before and behind a norm where not all values count: step by step in NumPy, around a pass of its own.

Values that do not count have no part in the gradients of add and gate, nor of a gate that is first; there y is what it
is without anything around: 0, or what is normalized.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from normzoo.backends.around import ALONE, NOTHING, Activation, Around, Beside
from normzoo.backends.contract import Array
from normzoo.passes.arrays import cast_like, compute_dtype, quiet, rounded
from normzoo.passes.beside import added, check_beside, checked_ds, name_of_other, put
from normzoo.passes.beside_saved import of_residual
from normzoo.passes.form import Form
from normzoo.passes.formulas import summed
from normzoo.passes.saved import FunctionSaved, Grads, Saved, grads_by_name
from normzoo.selection.select import Selected

Normalize = Callable[..., tuple[Any, Any, Any]]


def value(act: Activation | None, v: Array) -> Array:
    """act(v)."""
    return v if act is None else np.asarray(act.value(v))


def slope(act: Activation | None, v: Array) -> Array:
    """act'(v)."""
    return np.ones_like(v) if act is None else np.asarray(act.derivative(v))


@quiet
def before(around: Around | None, x: Array, beside: Beside) -> Array:
    """What is normalized in place of x, as an array of x's dtype."""
    if around is None or not around.is_before:
        return x
    if around.residual:
        return added(x, beside.residual, beside.scale)
    gate = rounded(beside.other, x.dtype).astype(compute_dtype(x.dtype))
    return rounded(x.astype(gate.dtype) * value(around.activation, gate), x.dtype)


@quiet
def normalize_apart(
    normalize: Normalize,
    form: Form,
    chosen: Selected,
    arrays: tuple[Any, Any, Any],  # weight, bias and out
    statistics: Any,
    apart: tuple[Array | None, ...],
) -> tuple[Any, Any, Any]:
    """`normalize` of what of x counts, with something around it."""
    x, (weight, bias, out) = chosen.x, arrays
    beside, around = check_beside(form, x), form.around or ALONE
    other = beside.other
    act, wide = around.activation, compute_dtype(x.dtype)
    shown = None if chosen.shown is None else np.broadcast_to(chosen.shown, x.shape)
    o: Any = None if other is None else _wide(form, x, other).astype(wide)
    # 1 before
    s = before(around, x, beside)
    s = _where(shown, s, x) if around.gate_first else s
    # 2 the norm; of sixteen bits not rounded before what stands behind it
    read = s.astype(wide) if around.is_behind else s
    if out is not None and np.may_share_memory(out, read):
        read = read.copy(order="K")
    part = Selected(read, chosen.mask, chosen.sample_weight, chosen.segments, chosen.segment_axis, chosen.masked)
    plain = form._replace(around=None, beside=NOTHING)
    v, found, inner = normalize(plain, part, weight, bias, None, statistics, apart=apart)
    # 3 behind
    y = v
    if around.is_behind:
        if act is not None and act.parameter:
            made = np.asarray(act.value(v, o))
        else:
            inside = v + o if around.behind == "add" else v
            made = v * value(act, o) if around.behind == "gate" else value(act, inside)
        y = rounded(_where(shown, made, v), x.dtype)
    result = (y, s) if around.residual else y
    form = form._replace(beside=beside)
    kept = x.astype(wide) if around.gate_first else v
    saved = ApartSaved(form, x, inner, (kept, o, shown))
    return put(form, x, result, out, (weight, bias, *apart)), found, saved


def _where(shown: Array | None, made: Array, otherwise: Any) -> Array:
    return made if shown is None else np.where(shown, made, otherwise)


def _lifted(form: Form, x: Array) -> tuple[int, ...]:
    """The shape of a parameter, in x's rank."""
    owner, letters = form.axes.owner or range(x.ndim), form.axes.letters
    capital = {axis for axis, letter in zip(owner, letters, strict=True) if letter in "KR"}
    return tuple(size if i in capital else 1 for i, size in enumerate(x.shape))


def _wide(form: Form, x: Array, other: Array) -> Array:
    """What stands behind in x's shape, of values that x's dtype has; a parameter keeps its own."""
    if form.around is not None and form.around.behind == "learned":
        return np.broadcast_to(other.reshape(_lifted(form, x)), x.shape)
    return rounded(other, x.dtype)


class ApartSaved(FunctionSaved):
    """The `Saved` of `normalize_apart`.

    Args:
        kept: what stands before act', or x where the gate is first; add or gate in the computing type; and which values
            count.
    """

    __slots__ = ("_form", "_inner", "_other", "_shown", "_v")

    def __init__(self, form: Form, x: Array, inner: Saved, kept: tuple[Array, Any, Array | None]) -> None:
        self._owner = getattr(form.owner, "label", form.owner)
        self._form, self._inner = form._replace(owner=self._owner), inner
        self._v, self._other, self._shown = kept
        self._weight, self._bias = inner._weight, inner._bias
        self._like, self._source, self._overwritten = (x.shape, x.dtype), None, False

    def _check_ds(self, ds: Any) -> Array:
        if self._form.beside.residual is None:
            return super()._check_ds(ds)
        return checked_ds(self._owner, ds, self._like[0])

    def _backward(self, dy: Array, out: Array | None, ds: Array | None = None) -> Grads:
        around, other, v, shown = self._form.around or ALONE, self._other, self._v, self._shown
        act = around.activation
        named: dict[str, Any] = {}
        d = dy
        if around.is_behind:
            wide = dy.astype(v.dtype)
            if act is not None and act.parameter:
                by_v, by_parameter = act.derivative(v, other)
                d, dother = wide * by_v, wide * by_parameter
            elif around.behind == "gate":
                d, dother = wide * value(act, other), wide * v * slope(act, other)
            else:
                d = dother = wide * slope(act, v + other if around.behind == "add" else v)
            d = _where(shown, d, wide)
        found = self._inner.backward(d)
        dx = found.x if ds is None else found.x + ds
        if around.gate_first:
            u = dx.astype(v.dtype)
            dx, dother = _where(shown, u * value(act, other), u), u * v * slope(act, other)
        if other is not None:
            given = self._form.beside.other
            dother = _where(shown, dother, np.zeros((), dother.dtype))
            if around.behind == "learned":
                sizes = _lifted(self._form, dother)
                dother = summed(dother.astype(np.float64), sizes).reshape(given.shape)
            named[name_of_other(around)] = cast_like(dother, given)
        dx = rounded(dx, self._like[1], copy=False)
        if out is not None:
            out[...] = dx
            dx = out
        if around.residual:
            residual = self._form.beside.residual
            named["residual"] = of_residual(dx, self._form.beside.scale, residual.shape, residual.dtype)
        return grads_by_name(named | {"x": dx, "weight": found.weight, "bias": found.bias})
