"""The arrays that stand beside x: checks, how a backend reads and writes them, and the way back to their gradients."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

from normzoo.backends import chosen
from normzoo.backends.around import ALONE, Beside, BesideBack
from normzoo.backends.contract import Array
from normzoo.backends.samples import WIDTH, samples_in, samples_of, together
from normzoo.passes.arrays import base_array, compute_dtype, on_device, quiet, rounded
from normzoo.passes.form import Form
from normzoo.passes.formulas import summed
from normzoo.passes.overlaps import check_out, may_overlap
from normzoo.passes.plan import READY, BackwardPlan, ForwardPlan
from normzoo.passes.saved import Grads, MoreGrads, empty_in_layout
from normzoo.passes.view_saved import ViewSaved


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
        if other.shape != x.shape:
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
    """What the caller calls the array that is added or is the gate."""
    return "add" if around.behind == "add" else "gate"


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    """NumPy's rules, to a shape that stays."""
    if shape == to:
        return True
    return len(shape) <= len(to) and all(n in (1, size) for n, size in zip(shape[::-1], to[::-1], strict=False))


def is_usual(beside: Beside, x: Array) -> bool:
    """Are all arrays such as a backend takes where they lie, beside an x that is?"""
    for a in (beside.residual, beside.other):
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

    def results(self, plan: ForwardPlan, y: Array) -> Any:
        """y, or y and s, when all is written."""
        if self.s is not None and self.elsewhere:
            plan.deliver(self.beside.s, self.s)
        return y if self.s is None else (y, self.s)

    def left(self, plan: ForwardPlan, v: Array, beside: Beside) -> tuple[Array, tuple]:
        """What the backward pass reads, v where no residual was added, and what else a `BesideSaved` takes."""
        s = self.beside.s if self.s is not None and not plan.adds else v
        source = None if self.elsewhere or plan.adds else self.s
        return s, (beside.residual, source, beside.other, self.beside.other, beside.scale)


def place_usual(
    plan: ForwardPlan, owner: object, arrays: tuple, beside: Beside, apart: tuple[Array | None, ...]
) -> Placed | None:
    """`place` of arrays that were not checked; None if they are not such as a backend takes where they lie."""
    x, (residual, s, other, scale) = arrays[0], beside
    if not is_usual(beside, x):
        return None
    if s is None and plan.as_is and plan.plain:  # as most are
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
    o = None if other is None else plan.take(other)
    if residual is None:
        return Placed(Beside(other=o), x, None, False)
    if plan.adds:
        made = added(x, residual, scale)
        s = empty_in_layout(x.shape, x.dtype, None if x.flags.c_contiguous else plan.layout) if s is None else s
        s[...] = made
        return Placed(Beside(other=o), s, s, False)
    s, target, elsewhere = plan.target(s)
    wide = residual
    if residual.shape != x.shape:
        wide = _repeated(owner, residual, x.shape) if on_device(x) else np.broadcast_to(residual, x.shape)
    return Placed(Beside(plan.take(wide), target, o, scale), x, s, elsewhere)


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
    return Placed(Beside(other=None if beside.other is None else plan.take(beside.other)), x, None, False)


class BesideSaved(ViewSaved):
    """The `Saved` of a norm that something stands around.

    Of the residual nothing is needed but what it was like; of the other array, and of bias, a few values are kept too.
    """

    __slots__ = ("_given", "_other", "_other_seen", "_residual", "_scale")

    def __init__(
        self, owner: object, plan: ForwardPlan, arrays: tuple, v: Array, eps: float, stats: Array, given: tuple
    ) -> None:
        self._owner = getattr(owner, "label", owner)  # as a `ViewSaved` has it; a call of its own would take as long
        x, self._weight, self._bias, _ = arrays
        self._plan, self._like, self._v, self._eps, self._kept = plan, plan.like, v, eps, stats
        residual, source, self._given, self._other, self._scale = given  # other as the caller and the backend have it
        self._seen = self._other_seen = self._residual = None
        self._overwritten = False
        if residual is None:
            self._source = x if plan.reads_x else None
        else:
            self._residual, self._source = (residual.shape, residual.dtype), source
        if stats.ndim > 1:  # else a shortcut has looked
            self._seen, self._other_seen = self._look()

    @property
    def _apart(self) -> tuple[Array | None, ...]:
        return (*super()._apart, self._given)

    def _look(self) -> tuple[bytes | None, bytes | None]:
        """Some values of all that the backward pass reads: of x and weight, and of the other array and bias."""
        plan = self._plan
        samples, bias = plan.samples, self._bias if (plan.around or ALONE).is_behind else None
        if samples is None or type(self._v) is not ndarray:
            return None, None
        seen = samples(self._v, self._weight)
        if self._other is None and bias is None:
            return seen, None
        if plan.weight != plan.bias:
            samples = samples_of
        return seen, samples(self._v if self._other is None else self._other, bias)

    def _changed(self) -> str | None:
        seen, other = self._look()
        before, other_before = self._seen, self._other_seen
        if before is None and seen is not None:
            found = samples_in(self._kept, self._plan.stats_shape) or b""  # with room for a weight and a bias
            before = found[: len(seen)]
            other_before = other and found[2 * WIDTH :][: len(other)]
        if seen != before:
            name = "x" if seen is not None and before is not None and seen[:WIDTH] != before[:WIDTH] else ""
            return ("s" if name and self._residual is not None else name) or "weight"
        if other != other_before:
            same = other is not None and other_before is not None and other[:WIDTH] == other_before[:WIDTH]
            return "bias" if same else name_of_other(self._plan.around)
        return None

    def _shortcut(self, dy: Array, ds: Array | None = None) -> Grads | None:
        plan, other = self._plan.recent_back, self._other
        if plan is None or not plan.shortcut or plan.name != chosen() or other is not self._given:
            return None
        if plan.around is None and ds is not None:
            return None
        if self._seen is not None:  # store it where the shortcut reads it
            if self._kept.ndim > 1:
                self._kept = together(self._kept, self._seen, self._other_seen or b"")
            self._seen = self._other_seen = None
        empty, shape, dtype = plan.new_small, plan.gradient_shape, plan.dtype
        dweight, dbias = empty(shape, dtype), empty(shape, dtype)
        own = dy, self._v, self._kept, self._weight, self._eps, dweight, dbias
        dother = None if other is None else plan.new(plan.shape, plan.result)
        dx = plan.shortcut(*own) if plan.around is None else plan.shortcut(*own, self._bias, other, dother, ds)
        if dx is None:
            return None
        found = Grads(dx, dweight, dbias) if plan.gives_both else self._grads(plan, dx, dweight, dbias)
        return self._finished(found, dother)

    def _check_ds(self, ds: Any) -> Array:
        return super()._check_ds(ds) if self._residual is None else checked_ds(self._owner, ds, self._like[0])

    def _beside_back(
        self, plan: BackwardPlan, out: Array | None, ds: Array | None
    ) -> tuple[tuple[BesideBack, ...], Callable[[Grads], Grads]]:
        made = dother = None
        elsewhere = False
        other, bias = self._other, self._bias
        if other is not None:
            other = other if plan.x_as_is else other.astype(plan.store)
            made, dother, elsewhere = plan.target(None)
        d = None
        if ds is not None:
            d = plan.take(ds)
            d = d.copy() if out is not None and may_overlap(d, out) else d
        b = plan.zeros if bias is None else bias if plan.bias_as_is else plan.parameter(bias)

        def finish(found: Grads) -> Grads:
            if elsewhere and made is not None and dother is not None:
                plan.deliver(dother, made)
            return self._finished(found, made)

        return () if plan.around is None else (BesideBack(b, other, dother, d),), finish

    def _finished(self, found: Grads, dother: Array | None) -> Grads:
        """With the gradients of what stands beside."""
        others = {}
        if dother is not None:
            dtype = self._given.dtype
            d = dother if dother.dtype == dtype else rounded(dother, dtype)
            others[name_of_other(self._plan.around)] = d
        if self._residual is not None:
            others["residual"] = of_residual(found.x, self._scale, *self._residual)
        return MoreGrads(*found, others) if others else found


def run_short(
    short: tuple[ForwardPlan, Any, object], arrays: tuple, eps: Any, kept: Any, running: tuple, beside: Beside,
    keep: bool = True,
) -> tuple[Any, Any] | None:  # fmt: skip
    """A pass by a shortcut: y, or y and s, and its `Saved`; None where it is not for these arrays.

    Args:
        short: the plan, its shortcut and the owner.
        kept: takes statistics, and samples if there is room; without it, or without `keep`, nothing is saved.
    """
    plan, shortcut, owner = short
    x, weight, bias, _ = arrays
    if plan.around is None:
        y = shortcut(x, weight, bias, eps, kept, *running)
        if y is None:
            return None
        return y, ViewSaved(owner, plan, arrays, x, eps, kept) if keep and kept is not None else None
    residual, s, other, scale = beside
    if s is not None:
        return None
    if residual is not None:
        s = plan.new(plan.shape, plan.result)
    y = shortcut(x, weight, bias, eps, kept, *running, residual, s, other, scale)
    if y is None:
        return None
    saved = None
    if keep and kept is not None:
        v = x if s is None else s
        saved = BesideSaved(owner, plan, arrays, v, eps, kept, (residual, s, other, other, scale))
    return y if s is None else (y, s), saved


def of_residual(dx: Array, scale: float, shape: tuple[int, ...], dtype: np.dtype) -> Array:
    """The gradient of a residual, from that of x; it may be a read-only view of that."""
    if type(dx) is ndarray and scale == 1 and dx.shape == shape and dx.dtype == dtype:
        view = dx.view()
        view.setflags(write=False)
        return view
    return _scaled(dx, scale, shape, dtype)


@quiet
def _scaled(dx: Array, scale: float, shape: tuple[int, ...], dtype: np.dtype) -> Array:
    """scale * dx, summed to this shape."""
    if on_device(dx):
        found: Array = dx.summed_to(scale, shape, dtype)  # type: ignore[attr-defined]
        return found
    wide = compute_dtype(dx.dtype, dtype)
    d = dx.astype(wide) * wide.type(scale)
    return (d if d.shape == shape else summed(d.astype(np.float64), shape)).astype(dtype)
