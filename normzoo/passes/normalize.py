"""One pass: `normalize` finds the plan and runs it, from x to y; the `Saved` it leaves goes back to dx."""

from math import inf, prod
from typing import Any, NamedTuple
from weakref import WeakSet

import numpy as np
from numpy import ndarray

from normzoo.backends import backend, chosen
from normzoo.backends.contract import CONSTANT, Array, Moments
from normzoo.backends.samples import SAMPLES, WIDTH
from normzoo.passes.arrays import (
    Memo,
    backend_of,
    base_array,
    check_array,
    check_eps,
    check_out,
    check_parameter,
    check_spread,
    on_device,
)
from normzoo.passes.plan import CONTIGUOUS, SOME, BackwardPlan, ForwardPlan
from normzoo.passes.saved import Grads, Saved, SelectedSaved, native
from normzoo.passes.view import Axes, inverse
from normzoo.selection.selected import Selected, normalize_selected

DOUBLE = np.dtype(np.float64)


class _ForwardPlans(Memo):
    """By axes and a key; the last of its axes is `axes.recent`, too."""

    def clear(self) -> None:
        for axes, _ in list(self):
            axes.recent = None
        super().clear()


_forward_plans = _ForwardPlans()
_backward_plans = Memo()
_recent: WeakSet["Recent"] = WeakSet()


def forget() -> None:
    """Forget all plans, and the arrays that they hold."""
    for recent in _recent.copy():
        recent.forget()
    _forward_plans.clear()
    _backward_plans.clear()


class Left(NamedTuple):
    """What a pass leaves beside the arrays that it read, for who keeps these himself: see `resume`."""

    owner: object
    axes: Axes  # merged where the statistics were given
    parameter_shape: tuple[int, ...] | None
    moments: Moments  # CONSTANT where the statistics were given
    eps: float
    stats: Array  # (3, b, c)


class ViewSaved(Saved):
    """The `Saved` of a norm of the algebra.

    Of what the backward pass reads a few values are kept in `seen`: of x and of weight. A shortcut has them behind the
    statistics, all in one array.
    """

    __slots__ = ("_eps", "_kept", "_plan", "_seen", "_v")

    def __init__(
        self,
        owner: object,
        plan: ForwardPlan,
        x: Array,
        v: Array,
        weight: Array | None,
        bias: Array | None,
        eps: float,
        stats: Array,
        seen: bytes | None = None,
    ) -> None:
        try:  # a layer's label, which does not hold the layer; one by one: it is a tenth of a small call
            self._owner = owner.label  # type: ignore[attr-defined]
        except AttributeError:
            self._owner = owner
        self._plan = plan
        self._v = v
        self._weight = weight
        self._bias = bias
        self._eps = eps
        self._kept = stats
        self._seen = seen
        self._source = x if plan.reads_x else None
        self._overwritten = False

    @property
    def _stats(self) -> Array:
        return _stats_of(self._plan, self._kept)

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
        """What every set was multiplied by, (b, c) float64; inf where that is beyond it."""
        rstd = self._of_sets(2)
        return rstd if type(rstd) is not ndarray or (rstd >= 0).all() else np.where(rstd < 0, inf, rstd)

    def _of_sets(self, i: int) -> Array:
        """One of the statistics of the norm's own sets: those that are given repeat over the leading ones."""
        found, plan = self._stats[i], self._plan
        if found.shape == plan.sets_shape:
            return found
        repeated = plan.memory.empty(plan.sets_shape, DOUBLE)
        repeated.reshape(prod(plan.sets_shape) // max(found.size, 1), found.size)[...] = found.reshape(found.size)
        return repeated

    def again(self, weight: Array, bias: Array) -> Array:
        """xhat * weight + bias with other parameters, a new array; of a pass whose statistics were known.

        Raises:
            TypeError: weight or bias is not a float array. ValueError: one has another shape than those of the pass.
            RuntimeError: the pass found its statistics itself, or x was overwritten by an in-place pass.
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
        """A value of every set, (b, c), in x's rank: reduced axes have size 1. For axes that are not cut."""
        order, shape, letters = self._plan.view.order, self._plan.shape, self._plan.axes.letters
        sizes = [shape[i] if letters[i] in "kK" else 1 for i in order]
        return values.reshape(sizes).transpose(inverse(order))

    @property
    def left(self) -> Left:
        """The pass without x, weight and bias."""
        plan = self._plan
        return Left(self._owner, plan.used, plan.key[2], plan.moments, self._eps, self._stats)

    @property
    def copied(self) -> bool:
        """x had to be copied because neither its own order nor channels-last order fits the kernels."""
        return self._plan.copied

    @property
    def _like(self) -> tuple[tuple[int, ...], np.dtype]:
        return self._plan.like

    def _shortcut(self, dy: Array) -> Grads | None:
        plan = self._plan.recent_back
        if plan is None or not plan.shortcut or plan.name != chosen():
            return None
        if self._seen is not None:  # from now on where the shortcut looks for it
            if self._kept.ndim > 1:
                self._kept = _together(self._plan, self._kept, self._seen)
            self._seen = None
        weight, empty = self._weight, plan.new_small
        dweight, dbias = empty(plan.gradient_shape, plan.dtype), empty(plan.gradient_shape, plan.dtype)
        shortcut = plan.shortcut
        dx = shortcut.call(shortcut.block, dy, self._v, self._kept, weight, self._eps, dweight, dbias)
        return None if dx is None else self._grads(plan, dx, dweight, dbias)

    def _changed(self) -> str | None:
        before, samples = self._seen, self._plan.samples
        if before is None and self._kept.ndim == 1:  # of a shortcut
            before = self._kept[-2 * SAMPLES :].tobytes()
        if before is None or samples is None:
            return None
        now = samples(self._v, self._weight)
        if now == before or now == before[: len(now)]:  # of a shortcut there is room for a weight
            return None
        return "x" if now[:WIDTH] != before[:WIDTH] else "weight"

    def _backward(self, dy: Array, out: Array | None) -> Grads:
        weight, stats = self._weight, self._kept
        if stats.ndim == 1:
            stats = self._stats
        name = chosen()
        if type(dy) is not ndarray or type(self._v) is not ndarray:
            name = backend_of(self._owner, dy=dy, x=self._v, out=out)
        key = self._plan, name, dy.dtype, dy.flags.num
        plan = _backward_plans.get(key)
        if plan is None:
            plan = _backward_plans.keep(key, BackwardPlan(*key))
        if out is None:
            plan.shorten()
            if plan.uses == SOME:
                self._plan.watch()
        self._plan.recent_back = plan
        v = self._v if plan.x_as_is else self._v.astype(plan.store)
        w = plan.ones if weight is None else weight if plan.weight_as_is else plan.parameter(weight)
        d = dy if plan.as_is else plan.take(dy)
        shape, dtype, empty = plan.gradient_shape, plan.dtype, plan.new_small
        dweight, dbias = empty(shape, dtype), empty(shape, dtype)
        if out is None and plan.plain:
            dx = plan.new(plan.shape, plan.result)
            plan.run(d, v, stats, w, self._eps, dx, dweight, dbias)
        else:
            dx, target, elsewhere = plan.target(out)
            try:
                plan.run(d, v, stats, w, self._eps, target, dweight, dbias)
            except MemoryError as error:
                raise _half_written(self._owner, out, target) from error
            if elsewhere:
                plan.deliver(target, dx)
        return self._grads(plan, dx, dweight, dbias)

    def _grads(self, plan: BackwardPlan, dx: Array, dweight: Array, dbias: Array) -> Grads:
        """The gradients as the caller gets them."""
        return Grads(
            dx,
            dweight if plan.weight_given else plan.gradient(dweight, self._weight),
            dbias if plan.bias_given else plan.gradient(dbias, self._bias),
        )


def _half_written(owner: object, out: Any, target: Array) -> MemoryError:
    """What to raise where a pass found no memory."""
    if out is None or not np.may_share_memory(out, target):
        return MemoryError(f"{owner}: no memory left")
    return MemoryError(f"{owner}: no memory left; out, which was being written, has lost its values")


def _together(plan: ForwardPlan, stats: Array, seen: bytes) -> Array:
    """What a shortcut leaves: the statistics, and behind them what was seen of x and weight."""
    kept = plan.new_small(plan.kept_shape, DOUBLE)
    kept[: stats.size] = stats.reshape(stats.size)
    kept[stats.size :].view(np.int64)[: len(seen) // 8] = np.frombuffer(seen, np.int64)
    return kept


def _stats_of(plan: ForwardPlan, kept: Array) -> Array:
    """The statistics (3, b, c) in what a pass left."""
    return kept if kept.ndim > 1 else kept[: -2 * SAMPLES].reshape(plan.stats_shape)


def normalize(
    owner: object,
    x: Array | Selected,
    axes: Axes,
    weight: Array | None,
    bias: Array | None,
    moments: Moments,
    eps: float,
    out: Array | None = None,
    *,
    keep: bool = True,
    parameter_shape: tuple[int, ...] | None = None,
    given: tuple[Array, Array] | None = None,
    stats: Array | None = None,
    apart: tuple[Array | None, ...] = (),
    run: bool = True,
) -> tuple[Array, Any, Any]:
    """y, the statistics and, with `keep`, the `Saved` of the pass: the one way from any norm of the algebra to a
    backend.

    Args:
        owner: whose str() begins error messages.
        x: an array that `axes` fits, or what of one counts.
        axes: the letters of x's axes.
        weight, bias: None, or arrays that span the capital letters of `axes`.
        parameter_shape: their shape, where it is not `axes.parameter_shape`.
        given: (mean, variance) to use instead of x's own: of one value for each place of the axes K, which all sets
            there share, see `Axes.merged`; arrays as backends take running statistics. They are constants of the
            gradient.
        stats: what an earlier pass found of this x with these axes and moments, where weight or bias depend on it: they
            are not found again, and the gradient is that of x's own statistics. With moments CONSTANT they are any
            (3, b, c), and constants of the gradient.
        apart: more arrays that out may not overlap.
        run: False for the `Saved` of an earlier pass alone, see `resume`; what is given for y is x.
    """
    plan, name = axes.recent, chosen()  # most often the one
    usual = out is None and stats is None and given is None
    if usual and plan is not None and plan.shortcut and plan.asked == (moments, name, parameter_shape):
        v: Any = x  # an array, or there is no y
        found: Any = plan.new_small(plan.kept_shape if keep else plan.stats_shape, DOUBLE)
        y = plan.shortcut.call(plan.shortcut.block, v, weight, bias, eps, found, None, None, None, 0.0)
        if y is not None and keep:
            return y, _stats_of(plan, found), ViewSaved(owner, plan, v, v, weight, bias, eps, found)
        if y is not None:
            return y, found, None
    plain, asked = True, out
    if type(x) is Selected:
        if stats is not None:
            raise TypeError(f"{owner}: expected masks without known statistics; write masks = False in its class")
        spanned, wanted = axes.parameter_shape, axes.parameter_shape if parameter_shape is None else parameter_shape
        check_parameter(owner, "weight", weight, wanted)
        check_parameter(owner, "bias", bias, wanted)
        w, a = (None if p is None else p.reshape(spanned) for p in (weight, bias))
        y, found, back = normalize_selected((normalize, resume), owner, x, axes, w, a, moments, eps, out, given, apart)
        return y, found, SelectedSaved(owner, x.x, back, weight, bias) if keep else None
    if type(x) is not ndarray:
        plain, x = False, base_array(owner, "x", x)
    if weight is not None and type(weight) is not ndarray:
        plain, weight = False, base_array(owner, "weight", weight)
    if bias is not None and type(bias) is not ndarray:
        plain, bias = False, base_array(owner, "bias", bias)
    if out is not None and type(out) is not ndarray:
        plain, out = False, out if isinstance(out, ndarray) else base_array(owner, "out", out)
    if not plain:
        name = backend_of(owner, x=x, weight=weight, bias=bias, out=out)
    w_shape = w_dtype = w_flags = a_shape = a_dtype = a_flags = None
    if weight is not None:
        w_shape, w_dtype, w_flags = weight.shape, weight.dtype, weight.flags.num
    if bias is not None:
        a_shape, a_dtype, a_flags = bias.shape, bias.dtype, bias.flags.num
    flags = x.flags.num
    key = (
        moments, name, parameter_shape, None if given is None else (given[0].dtype, given[1].dtype),
        stats is not None and (run or moments is CONSTANT),
        x.shape, x.dtype, flags, None if flags & CONTIGUOUS else x.strides,
        w_shape, w_dtype, w_flags, a_shape, a_dtype, a_flags,
    )  # fmt: skip
    if plan is None or plan.key != key:  # to compare takes half the time of a look into the memo
        plan = _forward_plans.get((axes, key))
        if plan is None:
            check_array(owner, "x", x)
            wanted = axes.parameter_shape if parameter_shape is None else parameter_shape
            check_parameter(owner, "weight", weight, wanted)
            check_parameter(owner, "bias", bias, wanted)
            plan = _forward_plans.keep((axes, key), ForwardPlan(axes, key))
        axes.recent = plan
    if usual:
        plan.shorten()
    if not (type(eps) is float and 0.0 <= eps < inf):
        eps = check_eps(owner, eps)
    if out is not None:
        check_out(owner, out, x.shape, x.dtype, (x,), (weight, bias, *apart))
    v = x if plan.as_is else plan.take(x)
    w = plan.ones if weight is None else weight if plan.weight_as_is else plan.parameter(weight)
    a = plan.zeros if bias is None else bias if plan.bias_as_is else plan.parameter(bias)
    if stats is not None and (
        stats.size != prod(plan.stats_shape) or stats.dtype != DOUBLE or not stats.flags.num & CONTIGUOUS
    ):
        raise ValueError(
            f"{owner}: expected statistics in a C-contiguous float64 array of shape {plan.stats_shape}, got "
            f"{stats.dtype} of shape {stats.shape}"
        )
    if not run and stats is not None:
        return x, stats, ViewSaved(owner, plan, x, v, weight, bias, eps, stats)
    if out is None and plan.plain:
        y = target = plan.new(plan.shape, plan.result)
        elsewhere = False
    else:
        y, target, elsewhere = plan.target(out)
    try:
        if stats is not None:
            plan.run(v, stats, w, a, target)
        elif given is None:
            stats = plan.run(v, w, a, eps, target)
        elif x.size:
            stats = plan.new_small(plan.stats_shape, DOUBLE)
            if backend(name).constants(*given, eps, stats):
                check_spread(owner, "running_var", given[1])
            plan.run(v, stats, w, a, target)
        else:
            stats = plan.memory.full(plan.stats_shape, DOUBLE, 0.0)
    except MemoryError as error:
        raise _half_written(owner, out, target) from error
    if elsewhere:
        plan.deliver(target, y)
    if not plain and on_device(y):
        y = native(y, x) if asked is None else asked
    if not keep:
        return y, stats, None
    seen = None
    samples = plan.samples
    if samples is not None and type(v) is ndarray:
        seen = samples(v, weight)
    saved = ViewSaved(owner, plan, x, v, weight, bias, eps, stats, seen)
    if out is not None:
        saved.overwrite(out)
    return y, stats, saved


class Recent:
    """What the last plain call of a function or norm asked for beside its arrays, and its shortcut: see `recall`."""

    __slots__ = ("__weakref__", "known", "last")

    def __init__(self) -> None:
        self.known: Memo = Memo()  # (asked, axes): whether a norm's axes are the same where it asks for the same
        self.forget()
        _recent.add(self)

    def __reduce__(self) -> tuple:
        return Recent, ()

    def forget(self) -> None:
        self.last: tuple[object, Any, Any] = self, None, None

    def keep(
        self, asked: object, axes: Axes, moments: Moments, tracked: bool = False, norm: Any = None, x: Any = None
    ) -> None:
        """Remember the plan of the call that was and its shortcut, if `asked`, an object that cannot change, and they
        will do again: for x, a norm asks for all that its axes read."""
        plan = axes.recent  # of this call, unless another thread was faster
        shortcut = plan and (plan.tracked if tracked else plan.shortcut)
        if not shortcut or plan.moments != moments:
            return
        if norm is not None:
            asked = norm._asked(norm)
        if type(asked) in (int, tuple) and (norm is None or self._is_trusted((asked, axes), norm, x)):
            self.last = asked, plan, shortcut

    def _is_trusted(self, key: tuple, norm: Any, x: Any) -> bool:
        try:
            known = self.known.get(key)
        except TypeError:  # a value that can change
            return False
        return self.known.keep(key, norm.reads_what_it_asks(x)) if known is None else known


def recall_saved(
    owner: object,
    recent: Recent,
    x: Array,
    weight: Array | None,
    bias: Array | None,
    eps: Any,
    running: tuple[Array | None, Array | None, Array | None, Any] = (None, None, None, 0.0),
) -> tuple[Array, ViewSaved] | None:
    """As `recall`, with the `Saved` of the pass, of a layer, which forgets its last call where an attribute is set. The
    running statistics are mean, variance, number of batches and momentum."""
    _, plan, shortcut = recent.last
    if plan is None or plan.name != chosen():
        return None
    kept = plan.new_small(plan.kept_shape, DOUBLE)
    y = shortcut.call(shortcut.block, x, weight, bias, eps, kept, *running)
    if y is None:
        recent.forget()
        return None
    return y, ViewSaved(owner, plan, x, x, weight, bias, eps, kept)


def recall(
    recent: Recent, asked: object, x: Array, weight: Array | None, bias: Array | None, eps: float
) -> Array | None:
    """y, where the last call of a function asked for the same, the same object, with arrays of the same kinds; else
    None. A small array is normalized in less time than it takes to find out again how."""
    given, plan, shortcut = recent.last
    if asked is not given or plan.name != chosen():
        return None
    return shortcut.call(shortcut.block, x, weight, bias, eps, None, None, None, None, 0.0)


def resume(left: Left, x: Array, weight: Array | None, bias: Array | None) -> ViewSaved:
    """The `Saved` of a pass from what it left and the arrays that it read, which may lie elsewhere by now. Of bias
    nothing but its kind is used."""
    owner, axes, shape, moments, eps, stats = left
    return normalize(owner, x, axes, weight, bias, moments, eps, parameter_shape=shape, stats=stats, run=False)[2]
