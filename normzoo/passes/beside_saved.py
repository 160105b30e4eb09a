"""What a pass leaves where something stands around the norm, and a pass by a shortcut."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy import ndarray

from normzoo.backends import chosen
from normzoo.backends.around import ALONE, Beside, BesideBack
from normzoo.backends.contract import Array
from normzoo.backends.samples import WIDTH, samples_in, samples_of, together
from normzoo.passes.arrays import compute_dtype, on_device, quiet, rounded
from normzoo.passes.beside import checked_ds, is_learned, name_of_other
from normzoo.passes.formulas import summed
from normzoo.passes.overlaps import may_overlap
from normzoo.passes.plan import BackwardPlan, ForwardPlan
from normzoo.passes.saved import Grads, MoreGrads
from normzoo.passes.view_saved import ViewSaved


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
        if plan.weight != plan.bias or is_learned(plan.around):  # the sampler is for arrays like x
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
        self, plan: BackwardPlan, d: Array, out: Array | None, ds: Array | None
    ) -> tuple[tuple[BesideBack, ...], Callable[[Grads, Array], Grads]]:
        made = dother = total = None
        elsewhere = False
        other, bias = self._other, self._bias
        if is_learned(plan.around):
            other, total = plan.parameter(other), plan.total(d)  # before dx is written in place of dy
        elif other is not None:
            if not plan.x_as_is:
                other = other.astype(plan.store)
            made, dother, elsewhere = plan.target(None)
        above = None
        if ds is not None:
            above = plan.take(ds)
            above = above.copy() if out is not None and may_overlap(above, out) else above
        b = plan.zeros if bias is None else bias if plan.bias_as_is else plan.parameter(bias)

        def finish(found: Grads, dbias: Array) -> Grads:
            if elsewhere and made is not None and dother is not None:
                plan.deliver(dother, made)
            if total is not None:  # what of dy does not reach xhat * weight + bias
                rest = total - dbias.reshape(total.shape)
                return self._finished(found, plan.view.gradient(rest, plan.expected))
            return self._finished(found, made)

        return () if plan.around is None else (BesideBack(b, other, dother, above),), finish

    def _finished(self, found: Grads, dother: Array | None) -> Grads:
        """With the gradients of what stands beside."""
        others = {}
        if dother is not None:
            dtype, d = self._given.dtype, dother
            d = d if d.dtype == dtype else rounded(d, dtype)
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
