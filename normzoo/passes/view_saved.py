"""What a pass on a backend saves, and its backward pass from dy to the gradients."""

from math import inf, prod
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

from normzoo.backends import chosen
from normzoo.backends.around import Around
from normzoo.backends.contract import Array, Moments
from normzoo.backends.samples import WIDTH, samples_in, stats_in, together
from normzoo.passes import plan as plans
from normzoo.passes.arrays import Memo, backend_of, check_array, check_parameter
from normzoo.passes.plan import SOME, BackwardPlan, ForwardPlan
from normzoo.passes.saved import Grads, Saved
from normzoo.passes.view import Axes, inverse

DOUBLE = np.dtype(np.float64)
backward_plans = Memo()  # by forward plan, backend, dtype and flags of dy

Arrays = tuple[Any, Any, Any, Any]  # x, weight, bias, out


class Left(NamedTuple):
    """The results of a pass without the arrays that it read, for callers who keep these: see `normalize.resume`."""

    owner: object
    axes: Axes  # merged, if the statistics were given
    parameter_shape: tuple[int, ...] | None
    moments: Moments  # CONSTANT, if the statistics were given
    eps: float
    stats: Array  # (3, b, c)
    around: Around | None = None


class ViewSaved(Saved):
    """The `Saved` of a pass on a backend.

    `seen` has samples of the arrays that the backward pass reads, x and weight. A pass by a shortcut keeps them in the
    same array as the statistics, see `samples.kept_shape`.
    """

    __slots__ = ("_eps", "_kept", "_plan", "_seen", "_v")

    def __init__(
        self,
        owner: object,
        plan: ForwardPlan,
        arrays: Arrays,
        v: Array,  # x, as the backend read it
        eps: float,
        stats: Array,
        seen: bytes | None = None,
    ) -> None:
        self._owner = getattr(owner, "label", owner)  # a layer's label, which does not refer to the layer
        x, self._weight, self._bias, _ = arrays
        self._plan = plan
        self._like = plan.like
        self._v = v
        self._eps = eps
        self._kept = stats
        self._seen = seen
        self._source = x if plan.reads_x else None
        self._overwritten = False

    @property
    def _stats(self) -> Array:
        return stats_in(self._kept, self._plan.stats_shape)

    @property
    def mean(self) -> Array:
        """The mean of every set, (b, c) float64."""
        return self._of_sets(0)

    @property
    def spread(self) -> Array:
        """The spread of every set, see `backends/contract.py`; (b, c) float64."""
        return self._of_sets(1)

    @property
    def rstd(self) -> Array:
        """The factor that every set was multiplied by, (b, c) float64; inf if it exceeds float64."""
        rstd = self._of_sets(2)
        return rstd if type(rstd) is not ndarray or (rstd >= 0).all() else np.where(rstd < 0, inf, rstd)

    def _of_sets(self, i: int) -> Array:
        """One of the statistics for each of the norm's own sets; given statistics repeat over the leading axis."""
        found, plan = self._stats[i], self._plan
        if found.shape == plan.sets_shape:
            return found
        repeated = plan.memory.empty(plan.sets_shape, DOUBLE)
        repeated.reshape(prod(plan.sets_shape) // max(found.size, 1), found.size)[...] = found.reshape(found.size)
        return repeated

    def again(self, weight: Array, bias: Array) -> Array:
        """xhat * weight + bias with other parameters, in a new array; only for a pass with known statistics.

        Raises:
            TypeError: weight or bias is not a float array. ValueError: its shape differs from that in the pass.
            RuntimeError: the pass computed its own statistics, or an in-place pass overwrote x.
        """
        plan = self._plan
        for name, a in (("weight", weight), ("bias", bias)):
            check_array(self._owner, name, a)
            check_parameter(self._owner, name, a, plan.expected)
        if not plan.known:
            raise RuntimeError(
                f"{self._owner}: expected a pass whose statistics were known, got one that found its own"
            )
        if self._overwritten:
            raise RuntimeError(f"{self._owner}: expected the x of the forward pass, but it was overwritten in place")
        y, target, elsewhere = plan.target(None)
        plan.run(self._v, self._stats, plan.parameter(weight), plan.parameter(bias), target)
        if elsewhere:
            plan.deliver(target, y)
        return y

    @property
    def view_order(self) -> tuple[int, ...]:
        """x's axes in the order of the view (b, m, c, n)."""
        return self._plan.view.order

    def along_x(self, values: Array) -> Array:
        """A value for every set, (b, c), reshaped to x's rank: reduced axes have size 1. For axes that are not
        split."""
        order, shape, letters = self._plan.view.order, self._plan.shape, self._plan.axes.letters
        sizes = [shape[i] if letters[i] in "kK" else 1 for i in order]
        return values.reshape(sizes).transpose(inverse(order))

    @property
    def left(self) -> Left:
        """The results of the pass, without x, weight and bias."""
        plan = self._plan
        return Left(self._owner, plan.used, plan.key[2], plan.moments, self._eps, self._stats, plan.around)

    @property
    def copied(self) -> bool:
        """x had to be copied because neither its own order nor channels-last order fits the kernels."""
        return self._plan.copied

    def _shortcut(self, dy: Array, ds: Array | None = None) -> Grads | None:
        plan = self._plan.recent_back
        if plan is None or not plan.shortcut or plan.name != chosen() or ds is not None:
            return None
        if self._seen is not None:  # store it where the shortcut reads it
            if self._kept.ndim > 1:
                self._kept = together(self._kept, self._seen)
            self._seen = None
        weight, empty = self._weight, plan.new_small
        dweight, dbias = empty(plan.gradient_shape, plan.dtype), empty(plan.gradient_shape, plan.dtype)
        dx = plan.shortcut(dy, self._v, self._kept, weight, self._eps, dweight, dbias)
        if dx is None:
            return None
        return Grads(dx, dweight, dbias) if plan.gives_both else self._grads(plan, dx, dweight, dbias)

    def _changed(self) -> str | None:
        before, samples = self._seen, self._plan.samples
        if before is None:
            before = samples_in(self._kept, self._plan.stats_shape)
        if before is None or samples is None:
            return None
        now = samples(self._v, self._weight)
        if now == before or now == before[: len(now)]:  # a shortcut has room for a weight
            return None
        return "x" if now[:WIDTH] != before[:WIDTH] else "weight"

    def _backward(self, dy: Array, out: Array | None, ds: Array | None = None) -> Grads:
        weight, stats = self._weight, self._kept
        if stats.ndim == 1:
            stats = self._stats
        name = chosen()
        if type(dy) is not ndarray or type(self._v) is not ndarray:
            name = backend_of(self._owner, dy=dy, x=self._v, out=out)
        key: tuple = (self._plan, name, dy.dtype, dy.flags.num)
        if ds is not None:
            key = (*key, ds.dtype)
        plan = backward_plans.get(key)
        if plan is None:
            plan = backward_plans.keep(key, BackwardPlan(*key))
        if out is None:
            plan.uses += 1
            if plan.uses == SOME:
                self._plan.watch()
            elif plan.uses >= plans.ENOUGH and plan.shortcut is None:
                plan.shorten()
        self._plan.recent_back = plan
        v = self._v if plan.x_as_is else self._v.astype(plan.store)
        w = plan.ones if weight is None else weight if plan.weight_as_is else plan.parameter(weight)
        d = dy if plan.as_is else plan.take(dy)
        shape, dtype, empty = plan.gradient_shape, plan.dtype, plan.new_small
        dweight: Any = empty(shape, dtype) if plan.wanted[0] else None
        dbias: Any = empty(shape, dtype) if plan.wanted[1] else None
        beside, finish = ((), None) if self._plan.around is None else self._beside_back(plan, d, out, ds)
        if out is None and plan.plain:
            dx = plan.new(plan.shape, plan.result)
            plan.run(d, v, stats, w, self._eps, dx, dweight, dbias, *beside)
        else:
            dx, target, elsewhere = plan.target(out)
            try:
                plan.run(d, v, stats, w, self._eps, target, dweight, dbias, *beside)
            except MemoryError as error:
                raise half_written(self._owner, out, target) from error
            if elsewhere:
                plan.deliver(target, dx)
        found = Grads(dx, dweight, dbias) if plan.gives_both else self._grads(plan, dx, dweight, dbias)
        return found if finish is None else finish(found, dbias)

    def _beside_back(self, plan: BackwardPlan, d: Array, out: Array | None, ds: Array | None) -> tuple[tuple, Any]:
        """What the backend takes more where something stands around the norm, and what is made of the gradients then:
        see `BesideSaved`. `d` is dy as the backend takes it."""
        return (), None

    def _grads(self, plan: BackwardPlan, dx: Array, dweight: Array, dbias: Array) -> Grads:
        """The gradients, as they are returned to the caller."""
        return Grads(
            dx,
            dweight if plan.weight_given else plan.gradient(dweight, self._weight),
            dbias if plan.bias_given else plan.gradient(dbias, self._bias),
        )


def half_written(owner: object, out: Any, target: Array) -> MemoryError:
    """The error for a pass that ran out of memory."""
    if out is None or not np.may_share_memory(out, target):
        return MemoryError(f"{owner}: no memory left")
    return MemoryError(f"{owner}: no memory left; out, which was being written, has lost its values")
