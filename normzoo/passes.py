"""One pass: `normalize` takes x through checks, view and backend to y; the `Saved` it leaves goes back to dx."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from normzoo.arrays import check_array, check_out, compute_dtype, kernel_array, same_place, storage_dtype
from normzoo.backends import current
from normzoo.backends.contract import CONSTANT, Array, Moments
from normzoo.memory import empty
from normzoo.view import Axes, View, find_view, inverse


class Grads(NamedTuple):
    """Gradients of the loss; `weight` and `bias` are None where the norm has none."""

    x: Array
    weight: Array | None
    bias: Array | None


class Saved(ABC):
    """What one forward pass leaves for its backward pass. x, weight and bias are held, not copied: change them after
    the backward pass, not before."""

    def __init__(
        self,
        owner: object,
        x: Array,
        layout: tuple[int, ...] | None,
        weight: Array | None = None,
        bias: Array | None = None,
    ) -> None:
        self._owner, self._weight, self._bias = owner, weight, bias
        self._shape, self._dtype, self._layout = x.shape, x.dtype, layout
        self._source: Array | None = None  # x, where the backward pass reads x's own memory
        self._overwritten = False

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
        check_array(self._owner, "dy", dy)
        if dy.shape != self._shape:
            raise ValueError(f"{self._owner}: expected dy of x's shape {self._shape}, got {dy.shape}")
        check_out(self._owner, out, _Like(self._shape, self._dtype), (dy, self._source), (self._weight, self._bias))
        if self._overwritten:
            raise RuntimeError(
                f"{self._owner}: expected the x of the forward pass, but it was overwritten in place; "
                "call the forward pass with another out, or run backward once"
            )
        dx = empty_in_layout(self._shape, self._dtype, self._layout) if out is None else out
        if dy.size == 0:
            dweight, dbias = (None if p is None else np.zeros(p.shape, p.dtype) for p in (self._weight, self._bias))
        else:
            with np.errstate(all="ignore"):
                dweight, dbias = self._backward(dy, dx)
        if out is not None:
            self.overwrite(out)
        return Grads(dx, dweight, dbias)

    @abstractmethod
    def _backward(self, dy: Array, dx: Array) -> tuple[Array | None, Array | None]:
        """Write dx; return dweight and dbias."""

    def overwrite(self, out: Array) -> None:
        """`out` was written to: if that was x, it cannot be read again."""
        if self._source is not None and same_place(out, self._source):
            self._overwritten = True


class ViewSaved(Saved):
    """The `Saved` of a norm of the algebra.

    `mean`, `spread` and `rstd` are the statistics of every set, (b, c) float64; `copied` says that x had to be copied
    because neither its own order nor channels-last order fits the kernels.
    """

    def __init__(
        self,
        owner: object,
        x: Array,
        layout: tuple[int, ...] | None,
        view: View,
        v: Array,
        copied: bool,
        weight: Array | None,
        bias: Array | None,
        moments: Moments,
        eps: float,
        stats: Array,
    ) -> None:
        super().__init__(owner, x, layout, weight, bias)
        self._view, self._v, self._moments, self._eps = view, v, moments, eps
        self.copied = copied
        self.mean, self.spread, self.rstd = self._stats = stats
        needed = moments is not CONSTANT or weight is not None
        if needed and not copied and np.may_share_memory(v, x):
            self._source = x

    def _backward(self, dy: Array, dx: Array) -> tuple[Array | None, Array | None]:
        view, weight, bias = self._view, self._weight, self._bias
        dtype = compute_dtype(self._v, dy, weight)
        store = storage_dtype(self._v, dtype) if dy.dtype == self._v.dtype else dtype
        d, v = kernel_array(view.of(dy), store), kernel_array(self._v, store)
        w = _parameter(weight, view, dtype, 1.0)
        target, direct = _target(dx, view, store)
        dweight, dbias = current().backward(d, v, self._stats, w, self._moments, self._eps, target)
        if not direct:
            _deliver(target, dx, view)
        return _gradient(dweight, weight, view), _gradient(dbias, bias, view)


class PulledBack(Saved):
    """The `Saved` of a norm outside the algebra: a function from dy to dx, both float64."""

    def __init__(self, owner: object, x: Array, pull: Callable[[Array], Array]) -> None:
        super().__init__(owner, x, layout_of(x))
        self._pull = pull

    def _backward(self, dy: Array, dx: Array) -> tuple[None, None]:
        dx[...] = self._pull(dy.astype(np.float64, order="C"))
        return None, None


class _Like(NamedTuple):
    """The shape and dtype of an array that need not exist."""

    shape: tuple[int, ...]
    dtype: np.dtype


def normalize(
    owner: object,
    x: Array,
    axes: Axes,
    weight: Array | None,
    bias: Array | None,
    moments: Moments,
    eps: float,
    out: Array | None = None,
    stats: tuple[Array, Array] | None = None,
    apart: tuple[Array | None, ...] = (),
) -> tuple[Array, ViewSaved]:
    """y and what its backward pass needs: the one way from any norm of the algebra to a backend.

    Args:
        owner: whose str() begins error messages.
        x: a float array, already checked against `axes`.
        axes: the letters of x's axes.
        weight, bias: None, or arrays that span the capital letters of `axes`.
        stats: (mean, variance) to use instead of x's own: arrays of one value a set, in the order of the sets, or
            one that repeats over the leading ones.
        apart: more arrays that out may not overlap.
    """
    check_out(owner, out, x, (x,), (weight, bias, *apart))
    if weight is None and bias is None:
        axes = axes._replace(letters=axes.letters.lower())
    dtype = compute_dtype(x, weight, bias, *(stats or ()))
    view, copied = find_view(axes, x)
    store = storage_dtype(x, dtype)
    v = kernel_array(view.of(x), store)
    layout = layout_of(x)
    y = empty_in_layout(x.shape, x.dtype, layout) if out is None else out
    b, _, c, _ = view.dims
    if stats is not None:
        moments, found = CONSTANT, given_stats(stats, eps, b, c)
    if x.size == 0:
        found = np.zeros((3, b, c)) if stats is None else found
        return y, ViewSaved(owner, x, layout, view, v, copied, weight, bias, moments, eps, found)
    w, a = _parameter(weight, view, dtype, 1.0), _parameter(bias, view, dtype, 0.0)
    target, direct = _target(y, view, store)
    if stats is None:
        found = current().forward(v, w, a, moments, eps, target)
    else:
        current().apply(v, found, w, a, target)
    saved = ViewSaved(owner, x, layout, view, v, copied, weight, bias, moments, eps, found)
    if not direct:
        _deliver(target, y, view)
    if out is not None:
        saved.overwrite(out)
    return y, saved


def given_stats(stats: tuple[Array, Array], eps: float, b: int, c: int) -> Array:
    """(3, b, c) from a mean and a variance that are given."""
    mean, variance = (np.asarray(s, np.float64).reshape(-1) for s in stats)
    with np.errstate(all="ignore"):
        rstd = 1 / np.sqrt(variance + eps)  # 1/0 is inf here: these statistics are not x's own
        return np.stack([np.resize(s, b * c).reshape(b, c) for s in (mean, variance, rstd)])


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


def _target(y: Array, view: View, dtype: np.dtype) -> tuple[Array, bool]:
    """Where a kernel writes, and whether that is y's own memory: so if y lies as (b, m, c, n); else see `_deliver`."""
    if y.dtype == dtype:
        flags = (y if view.straight else y.transpose(view.order)).flags
        if flags.c_contiguous and flags.aligned:
            return np.asarray(view.of(y)), True
    return np.empty(view.dims, dtype), False


def _deliver(target: Array, y: Array, view: View) -> None:
    """Copy to y from the workspace that `_target` had to make."""
    with np.errstate(over="ignore", invalid="ignore"):
        y.transpose(view.order)[...] = target.reshape([y.shape[i] for i in view.order])


def _parameter(p: Array | None, view: View, dtype: np.dtype, value: float) -> Array:
    """A parameter for a kernel; an absent one is `value` throughout."""
    if p is None:
        return _constant(view.parameter_dims, dtype, value)
    return kernel_array(view.parameter(p), dtype)


@lru_cache(maxsize=64)
def _constant(shape: tuple[int, ...], dtype: np.dtype, value: float) -> Array:
    return np.full(shape, value, dtype)


def _gradient(d: Array, parameter: Array | None, view: View) -> Array | None:
    return None if parameter is None else view.gradient(d, parameter.shape).astype(parameter.dtype)
