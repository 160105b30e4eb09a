"""One pass: `normalize` finds the plan and runs it, from x to y; the `Saved` it leaves goes back to dx."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from math import inf
from typing import Any, NamedTuple, Self

import numpy as np
from numpy import ndarray

from normzoo.arrays import (
    CHARS,
    Memo,
    backend_of,
    base_array,
    check_array,
    check_eps,
    check_out,
    check_parameter,
    compute_dtype,
    on_device,
    same_place,
)
from normzoo.backends import backend, chosen
from normzoo.backends.contract import Array, Moments
from normzoo.memory import empty
from normzoo.plan import CONTIGUOUS, BackwardPlan, ForwardPlan
from normzoo.selection import Selected, normalize_selected
from normzoo.view import Axes, inverse

DOUBLE = np.dtype(np.float64)

_forward_plans = Memo()
_backward_plans = Memo()


class Grads(NamedTuple):
    """Gradients of the loss; `weight` and `bias` are None where the norm has none.

    Those of other parameters, and of arrays that a norm takes beside x, are in `others` and attributes too:
    grads.others["style"], grads.style.
    """

    x: Array
    weight: Array | None = None
    bias: Array | None = None

    @property
    def others(self) -> Mapping[str, Array]:
        """Gradients of what is not x, weight or bias."""
        return {}


class MoreGrads(Grads):
    """`Grads` of a norm with other arguments than x, weight and bias."""

    _others: Mapping[str, Array]

    def __new__(cls, x: Array, weight: Array | None, bias: Array | None, others: Mapping[str, Array]) -> Self:
        grads = super().__new__(cls, x, weight, bias)
        grads._others = dict(others)
        return grads

    @property
    def others(self) -> Mapping[str, Array]:
        return self._others

    def __getattr__(self, name: str) -> Array:
        try:
            return self.__dict__["_others"][name]
        except KeyError:
            raise AttributeError(f"there is no gradient of {name}") from None

    def __reduce__(self) -> tuple:
        return MoreGrads, (*self, self._others)


def grads_by_name(found: Mapping[str, Array]) -> Grads:
    """Grads of arrays by name, x among them."""
    others = {name: d for name, d in found.items() if name not in ("x", "weight", "bias")}
    x, weight, bias = found["x"], found.get("weight"), found.get("bias")
    return MoreGrads(x, weight, bias, others) if others else Grads(x, weight, bias)


class Saved(ABC):
    """What one forward pass leaves for its backward pass. x, weight and bias are held, not copied: change them after
    the backward pass, not before."""

    __slots__ = ("_bias", "_overwritten", "_owner", "_source", "_weight")

    _owner: object
    _weight: Array | None
    _bias: Array | None
    _source: Array | None  # x, where the backward pass reads x's own memory
    _overwritten: bool

    def backward(self, dy: Array, out: Array | None = None) -> Grads:
        """Gradients of x, weight and bias for the gradient `dy` of y.

        Args:
            dy: of x's shape, any float dtype, any strides.
            out: takes dx; an array like x, which may be dy or x itself.

        Raises:
            TypeError: dy or out is not a float array (or out's dtype not x's).
            ValueError: dy or out has another shape, or out overlaps an input in part.
            RuntimeError: x was overwritten by an in-place pass and is needed.
        """
        if type(dy) is not ndarray or dy.dtype.char not in CHARS:
            dy = base_array(self._owner, "dy", dy)
        asked = out
        if out is not None and not isinstance(out, ndarray):
            out = base_array(self._owner, "out", out)
        shape, dtype = self._like
        if dy.shape != shape:
            raise ValueError(f"{self._owner}: expected dy of x's shape {shape}, got {dy.shape}")
        if out is not None:
            check_out(self._owner, out, shape, dtype, (dy, self._source), (self._weight, self._bias))
        if self._overwritten:
            raise RuntimeError(
                f"{self._owner}: expected the x of the forward pass, but it was overwritten in place; "
                "call the forward pass with another out, or run backward once"
            )
        found = self._backward(dy, out)
        if out is not None:
            self.overwrite(out)
        return found if type(dy) is ndarray else self._handed(found, dy, asked)

    def _handed(self, found: Grads, dy: Any, asked: Any) -> Grads:
        """Gradients as the library of the arrays has them."""
        if not on_device(found.x):
            return found
        arrays = zip(found, (dy, self._weight, self._bias), strict=True)
        x, weight, bias = (None if d is None else native(d, like) for d, like in arrays)
        return Grads(asked if x is None or asked is not None else x, weight, bias)

    @property
    @abstractmethod
    def _like(self) -> tuple[tuple[int, ...], np.dtype]:
        """Shape and dtype of x."""

    @abstractmethod
    def _backward(self, dy: Array, out: Array | None) -> Grads:
        """The gradients, with x's in `out` if given."""

    def overwrite(self, out: Array) -> None:
        """`out` was written to: if that was x, it cannot be read again."""
        if self._source is not None and same_place(out, self._source):
            self._overwritten = True


class ViewSaved(Saved):
    """The `Saved` of a norm of the algebra."""

    __slots__ = ("_eps", "_plan", "_stats", "_v")

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
    ) -> None:
        self._owner, self._plan, self._v, self._weight, self._bias = owner, plan, v, weight, bias
        self._eps, self._stats = eps, stats
        self._source = x if plan.reads_x else None
        self._overwritten = False

    @property
    def mean(self) -> Array:
        """The mean of every set, (b, c) float64."""
        return self._stats[0]

    @property
    def spread(self) -> Array:
        """The spread of every set, see `backends/contract.py`; (b, c) float64."""
        return self._stats[1]

    @property
    def rstd(self) -> Array:
        """What every set was multiplied by, (b, c) float64."""
        return self._stats[2]

    def again(self, weight: Array, bias: Array) -> Array:
        """xhat * weight + bias with other parameters, a new array; of a pass whose statistics were known."""
        plan = self._plan
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
        order, shape, letters = self._plan.view.order, self._plan.shape, self._plan.key[0].letters
        sizes = [shape[i] if letters[i] in "kK" else 1 for i in order]
        return values.reshape(sizes).transpose(inverse(order))

    @property
    def copied(self) -> bool:
        """x had to be copied because neither its own order nor channels-last order fits the kernels."""
        return self._plan.copied

    @property
    def _like(self) -> tuple[tuple[int, ...], np.dtype]:
        return self._plan.like

    def _backward(self, dy: Array, out: Array | None) -> Grads:
        weight, bias = self._weight, self._bias
        name = chosen()
        if type(dy) is not ndarray or type(self._v) is not ndarray:
            name = backend_of(self._owner, dy=dy, x=self._v, out=out)
        key = self._plan, name, dy.dtype, dy.flags.num
        plan = _backward_plans.get(key)
        if plan is None:
            plan = _backward_plans.keep(key, BackwardPlan(*key))
        v = self._v if plan.x_as_is else self._v.astype(plan.store)
        w = plan.ones if weight is None else weight if plan.weight_as_is else plan.parameter(weight)
        d = dy if plan.as_is else plan.take(dy)
        shape, dtype, empty = plan.gradient_shape, plan.dtype, plan.new_small
        dweight, dbias = empty(shape, dtype), empty(shape, dtype)
        if out is None and plan.plain:
            dx = plan.new(plan.shape, plan.result)
            plan.run(d, v, self._stats, w, self._eps, dx, dweight, dbias)
        else:
            dx, target, elsewhere = plan.target(out)
            plan.run(d, v, self._stats, w, self._eps, target, dweight, dbias)
            if elsewhere:
                plan.deliver(target, dx)
        return Grads(
            dx,
            dweight if plan.weight_given else plan.gradient(dweight, weight),
            dbias if plan.bias_given else plan.gradient(dbias, bias),
        )


Pull = Callable[[Array], Mapping[str, Array]]  # dy -> the gradients by name, "x" among them; all float64


class PulledBack(Saved):
    """The `Saved` of a norm outside the algebra: a function from dy to the gradients, all float64. It has copies of
    what it needs, so that x may be overwritten."""

    __slots__ = ("_arguments", "_layout", "_pull", "_x_like")

    def __init__(self, owner: object, x: Array, pull: Pull, arguments: Mapping[str, Array] | None = None) -> None:
        self._owner, self._pull = owner, pull
        self._weight = self._bias = self._source = None
        self._overwritten = False
        self._x_like, self._layout = (x.shape, x.dtype), layout_of(x)
        self._arguments = {name: (a.shape, a.dtype) for name, a in (arguments or {}).items()}

    @property
    def _like(self) -> tuple[tuple[int, ...], np.dtype]:
        return self._x_like

    def _backward(self, dy: Array, out: Array | None) -> Grads:
        dx = empty_in_layout(*self._x_like, self._layout) if out is None else out
        with np.errstate(all="ignore"):
            found = self._pull(dy.astype(np.float64, order="C"))
            dx[...] = found["x"]
            others = {
                name: np.asarray(found[name], np.float64).reshape(shape).astype(dtype)
                for name, (shape, dtype) in self._arguments.items()
            }
        return grads_by_name(others | {"x": dx})


class Chained(Saved):
    """The `Saved` of a norm that is made of passes of the algebra: a function from dy and out to the gradients.

    Args:
        like: shape and dtype of x.
        pull: (dy, out) -> Grads, with x's in `out` if given; it calls `backward` of `parts`.
        parts: what the passes left, which the backward pass may need x's memory for.
        apart: more arrays that it reads, which out may not overlap.
    """

    __slots__ = ("_apart", "_parts", "_pull", "_x_like")

    def __init__(
        self,
        owner: object,
        x: Array,
        pull: Callable[[Array, Array | None], Grads],
        parts: tuple[Saved, ...],
        apart: tuple[Array, ...] = (),
    ) -> None:
        self._owner, self._pull, self._parts, self._apart = owner, pull, parts, apart
        self._weight = self._bias = None
        self._x_like = x.shape, x.dtype
        self._source = next((p._source for p in parts if p._source is not None), None)
        self._overwritten = any(p._overwritten for p in parts)

    @property
    def _like(self) -> tuple[tuple[int, ...], np.dtype]:
        return self._x_like

    def _backward(self, dy: Array, out: Array | None) -> Grads:
        if out is not None:
            check_out(self._owner, out, *self._like, (dy, self._source), self._apart)
        return self._pull(dy, out)

    def overwrite(self, out: Array) -> None:
        super().overwrite(out)
        for part in self._parts:
            part.overwrite(out)


class SelectedSaved(Saved):
    """The `Saved` of a pass in which not all values count: `back` is the way from dy to dx, dweight and dbias."""

    __slots__ = ("_back", "_layout", "_x_like")

    def __init__(
        self, owner: object, x: Array, back: Callable[..., tuple], weight: Array | None, bias: Array | None
    ) -> None:
        self._owner, self._back, self._weight, self._bias = owner, back, weight, bias
        self._x_like, self._layout = (x.shape, x.dtype), layout_of(x)
        self._source, self._overwritten = None, False  # what was taken of x is a copy

    @property
    def _like(self) -> tuple[tuple[int, ...], np.dtype]:
        return self._x_like

    def _backward(self, dy: Array, out: Array | None) -> Grads:
        dx = empty_in_layout(*self._x_like, self._layout) if out is None else out
        return Grads(dx, *self._back(dy, dx))


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
) -> tuple[Array, Any, Any]:
    """y, the statistics and, with `keep`, the `Saved` of the pass: the one way from any norm of the algebra to a
    backend.

    Args:
        owner: whose str() begins error messages.
        x: an array that `axes` fits, or what of one counts.
        axes: the letters of x's axes.
        weight, bias: None, or arrays that span the capital letters of `axes`.
        parameter_shape: their shape, where it is not `axes.parameter_shape`.
        given: (mean, variance) to use instead of x's own: of one value a set, in the order of the sets, or repeating
            over the leading ones; arrays as backends take running statistics. They are constants of the gradient.
        stats: what an earlier pass found of this x with these axes and moments, where weight or bias depend on it: they
            are not found again, and the gradient is that of x's own statistics. With moments CONSTANT they are any
            (3, b, c), and constants of the gradient.
        apart: more arrays that out may not overlap.
    """
    plain, name, asked = True, chosen(), out
    if type(x) is Selected:
        if stats is not None or parameter_shape not in (None, axes.parameter_shape):
            raise TypeError(f"{owner}: takes no masks, lengths, weights or segments")
        y, found, back = normalize_selected(normalize, owner, x, axes, weight, bias, moments, eps, out, given, apart)
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
    flags = x.flags.num
    key = (
        axes,
        parameter_shape,
        moments,
        None if given is None else (given[0].dtype, given[1].dtype),
        stats is not None,
        name,
        (x.shape, x.dtype, flags, None if flags & CONTIGUOUS else x.strides),
        None if weight is None else (weight.shape, weight.dtype, weight.flags.num),
        None if bias is None else (bias.shape, bias.dtype, bias.flags.num),
    )
    plan = _forward_plans.get(key)
    if plan is None:
        check_array(owner, "x", x)
        wanted = axes.parameter_shape if parameter_shape is None else parameter_shape
        check_parameter(owner, "weight", weight, wanted)
        check_parameter(owner, "bias", bias, wanted)
        plan = _forward_plans.keep(key, ForwardPlan(key))
    if not (type(eps) is float and 0.0 <= eps < inf):
        eps = check_eps(owner, eps)
    if out is not None:
        check_out(owner, out, x.shape, x.dtype, (x,), (weight, bias, *apart))
    v = x if plan.as_is else plan.take(x)
    w = plan.ones if weight is None else weight if plan.weight_as_is else plan.parameter(weight)
    a = plan.zeros if bias is None else bias if plan.bias_as_is else plan.parameter(bias)
    if out is None and plan.plain:
        y = target = plan.new(plan.shape, plan.result)
        elsewhere = False
    else:
        y, target, elsewhere = plan.target(out)
    if stats is not None:
        plan.run(v, stats, w, a, target)
    elif given is None:
        stats = plan.run(v, w, a, eps, target)
    else:
        stats = plan.memory.full(plan.stats_shape, DOUBLE, 0.0)
        if x.size:
            backend(name).constants(*given, eps, stats)
            plan.run(v, stats, w, a, target)
    if elsewhere:
        plan.deliver(target, y)
    if not plain and on_device(y):
        y = native(y, x) if asked is None else asked
    if not keep:
        return y, stats, None
    saved = ViewSaved(owner, plan, x, v, weight, bias, eps, stats)
    if out is not None:
        saved.overwrite(out)
    return y, stats, saved


def native(a: Any, like: Any) -> Any:
    """A device array as one of the library that another came from."""
    return a.native(like.library)


def shifted(a: Array, by: float, like: np.dtype) -> Array:
    """a + by, in what is computed in with x of dtype `like`."""
    return a.astype(compute_dtype(a.dtype, like)) + by


def cast_like(d: Any, a: Array) -> Array:
    """A gradient of a in a's own dtype."""
    with np.errstate(over="ignore"):
        return d.astype(a.dtype, copy=False)


def layout_of(x: Array) -> tuple[int, ...] | None:
    """x's axes, outermost in memory first; None for the order of the axes."""
    if x.flags.c_contiguous:
        return None
    return tuple(sorted(range(x.ndim), key=lambda i: -abs(x.strides[i])))


def empty_in_layout(shape: tuple[int, ...], dtype: np.dtype, layout: tuple[int, ...] | None) -> Array:
    """A new dense array whose axes lie in memory in the order `layout`."""
    if layout is None:
        return empty(shape, dtype)
    return empty(tuple(shape[i] for i in layout), dtype).transpose(inverse(layout))
