"""Passes of kernels that read x in the order of memory, whatever its axes' order is: `whole` runs one, and leaves the
`Saved` that goes back. It keeps x itself, but a copy where y is written over it."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from normzoo.backends import backend, chosen
from normzoo.backends.contract import Array, Backend
from normzoo.backends.memory import empty
from normzoo.backends.samples import samples_of
from normzoo.backends.subnormals import in_any_mode
from normzoo.passes.arrays import compute_dtype, kernel_array, rounded, storage_dtype
from normzoo.passes.overlaps import may_overlap
from normzoo.passes.saved import FunctionSaved, Grads, empty_in_layout, grads_by_name, layout_of

Back = Callable[[Backend, Array, Array, Array], Mapping[str, Array]]


class Order(NamedTuple):
    """How a kernel sees x: its axes, outermost first."""

    axes: tuple[int, ...]
    store: np.dtype

    def read(self, a: Array) -> Array:
        """a in this order, C-contiguous, in `store`: a itself where it can be."""
        return kernel_array(a.transpose(self.axes), self.store)

    def written(self, a: Array, apart: tuple[Array, ...]) -> Array:
        """What a kernel writes for a: a itself where it can be, and overlaps none of `apart`."""
        v = a.transpose(self.axes)
        fits = v.flags.c_contiguous and v.flags.aligned and v.dtype == self.store
        if fits and not any(may_overlap(v, other) for other in apart):
            return v
        return empty(v.shape, self.store)

    def deliver(self, v: Array, a: Array) -> None:
        """Put what was written into a, if it is not there."""
        if not may_overlap(v, a):
            a.transpose(self.axes)[...] = v


def now() -> Backend:
    """The backend that host arrays run on."""
    return backend(chosen())


def order_of(x: Array) -> tuple[int, ...]:
    """x's axes, outermost in memory first."""
    return layout_of(x) or tuple(range(x.ndim))


class WholeSaved(FunctionSaved):
    """What such a pass leaves.

    Args:
        v: x as the kernel read it.
        order: of v.
        back: (backend, dy, v, dx) -> gradients by name, but x's, which it writes to dx; dy and dx lie as v does.
        kinds: dtypes of these gradients.
        beside: arrays that `back` reads, too.

    Attributes:
        kept: what the norm left for itself.
    """

    kept: object  # what the norm left for itself

    __slots__ = ("_back", "_beside", "_kinds", "_layout", "_order", "_seen", "_v", "kept")

    def __init__(
        self,
        owner: object,
        x: Array,
        v: Array,
        order: Order,
        back: Back,
        kinds: Mapping[str, np.dtype],
        beside: Mapping[str, Array],
    ) -> None:
        self._owner, self._back, self._order, self._v = getattr(owner, "label", owner), back, order, v
        self._weight = self._bias = None
        self._like, self._layout, self._kinds = (x.shape, x.dtype), layout_of(x), kinds
        self._source = x if may_overlap(x, v) else None
        self._overwritten = False
        self.kept = None
        self._beside = {"x": v, **beside}
        self._seen = {name: samples_of(a, None) for name, a in self._beside.items()}

    def _changed(self) -> str | None:
        return next((name for name, a in self._beside.items() if samples_of(a, None) != self._seen[name]), None)

    @property
    def _apart(self) -> tuple[Array | None, ...]:
        return tuple(a for name, a in self._beside.items() if name != "x")

    @in_any_mode
    def _backward(self, dy: Array, out: Array | None) -> Grads:
        dx = empty_in_layout(*self._like, self._layout) if out is None else out
        order, v = self._order, self._v
        if dy.dtype.newbyteorder("=") != v.dtype:
            order = order._replace(store=compute_dtype(dy.dtype, v.dtype))
            v = kernel_array(v, order.store)
        d = order.read(dy)
        target = order.written(dx, (d, v))
        found = self._back(now(), d, v, target)
        order.deliver(target, dx)
        return grads_by_name({"x": dx} | {name: rounded(found[name], kind) for name, kind in self._kinds.items()})


@in_any_mode
def whole(
    owner: object,
    x: Array,
    out: Array | None,
    axes: tuple[int, ...],
    forward: Callable[[Backend, Array, Array], Back],
    params: Mapping[str, Array] | None = None,
    beside: Mapping[str, Array] | None = None,
) -> tuple[Array, WholeSaved]:
    """y and the `Saved` of a pass.

    Args:
        out: takes y; it has been checked.
        axes: x's, as the kernel sees them, outermost first.
        forward: (backend, v, y) -> back, see `WholeSaved`. Both lie in this order.
        params: arrays beside x, whose gradients get their dtypes, and which the dtype of the pass has room for.
        beside: arrays in this order that the way back reads, by name: those that are the caller's are looked at then.
    """
    params = params or {}
    order = Order(axes, storage_dtype(x.dtype, compute_dtype(x.dtype, *(p.dtype for p in params.values()))))
    v = order.read(x)
    y = empty_in_layout(x.shape, x.dtype, layout_of(x)) if out is None else out
    if out is not None and may_overlap(y, v):
        v = v.copy()
    target = order.written(y, (v,))
    back = forward(now(), v, target)
    order.deliver(target, y)
    return y, WholeSaved(owner, x, v, order, back, {name: p.dtype for name, p in params.items()}, beside or {})
