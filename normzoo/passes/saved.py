"""What a pass saves: `Saved`, which computes the gradients from dy, and `Grads`, the gradients by name."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Self

import numpy as np
from numpy import ndarray

from normzoo.backends.contract import Array
from normzoo.backends.memory import empty
from normzoo.backends.samples import changed
from normzoo.backends.subnormals import in_any_mode
from normzoo.passes.arrays import CHARS, base_array, on_device, quiet
from normzoo.passes.overlaps import check_out, same_place
from normzoo.passes.view import inverse

Pull = Callable[[Array], Mapping[str, Array]]  # dy -> the gradients by name, including "x"; all float64


class Label:
    """The name of a norm in error messages: Name(arguments). A `Saved` refers to this label and not to the norm,
    because the norm's `saved` may refer to the `Saved`: such a reference cycle would be freed only by the garbage
    collector, some time after the norm."""

    __slots__ = ("arguments", "kind")

    def __init__(self, kind: str, arguments: tuple[Any, ...]) -> None:
        self.kind, self.arguments = kind, arguments

    def __str__(self) -> str:
        return f"{self.kind}({', '.join(map(str, self.arguments))})"


class Grads(NamedTuple):
    """Gradients of the loss; `weight` and `bias` are None if the norm has none.

    Gradients of other parameters, and of arrays that a norm takes beside x, are in `others` and are attributes, too:
    grads.others["style"], grads.style.
    """

    x: Array
    weight: Array | None = None
    bias: Array | None = None

    @property
    def others(self) -> Mapping[str, Array]:
        """Gradients of everything but x, weight and bias."""
        return {}

    @property
    def without_parameters(self) -> "Grads":
        """Where weight and bias are constants."""
        return grads_by_name({"x": self.x} | dict(self.others))


class MoreGrads(Grads):
    """`Grads` of a norm that has arguments or parameters beside x, weight and bias."""

    _others: Mapping[str, Array]

    def __new__(cls, x: Array, weight: Array | None, bias: Array | None, others: Mapping[str, Array]) -> Self:
        grads = tuple.__new__(cls, (x, weight, bias))
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
    """The `Grads` of a mapping of gradients by name, including x."""
    others = {name: d for name, d in found.items() if name not in ("x", "weight", "bias")}
    x, weight, bias = found["x"], found.get("weight"), found.get("bias")
    return MoreGrads(x, weight, bias, others) if others else Grads(x, weight, bias)


class Saved(ABC):
    """What one forward pass saves for its backward pass. x and weight are referenced, not copied: change them only
    after the backward pass. A change before it is an error, which is detected if a few sampled values differ."""

    __slots__ = ("_bias", "_like", "_overwritten", "_owner", "_source", "_weight")

    _owner: object  # its str() begins error messages
    _like: tuple[tuple[int, ...], np.dtype]  # shape and dtype of x
    _weight: Array | None
    _bias: Array | None
    _source: Array | None  # x, if the backward pass reads x's own memory
    _overwritten: bool

    def backward(self, dy: Array, out: Array | None = None, ds: Array | None = None) -> Grads:
        """Gradients of x, weight and bias for the gradient `dy` of y; those of residual, add and gate are in `others`.

        Args:
            dy: of x's shape, any float dtype, any strides.
            out: takes dx; an array like x, which may be dy or x itself.
            ds: if there was a residual, the gradient of the sum s from elsewhere, an array like dy; or None.

        Raises:
            TypeError: dy, ds or out is not a float array (or out's dtype not x's).
            ValueError: dy, ds or out has another shape, out overlaps an input in part, or there is ds and was no
                residual.
            RuntimeError: x was overwritten by an in-place pass and is needed, or x or weight has changed since the
                forward pass.
        """
        if out is None and not self._overwritten:
            found = self._shortcut(dy, ds)
            if found is not None:
                return found
        if type(dy) is not ndarray or dy.dtype.char not in CHARS:
            dy = base_array(self._owner, "dy", dy)
        asked = out
        if out is not None and not isinstance(out, ndarray):
            out = base_array(self._owner, "out", out)
        shape, dtype = self._like
        if dy.shape != shape:
            fits = len(dy.shape) <= len(shape) and all(
                s in (1, n) for s, n in zip(dy.shape[::-1], shape[::-1], strict=False)
            )
            hint = f"; write np.broadcast_to(dy, {shape})" if fits else ""
            hint = "; write dy.T" if dy.shape == shape[::-1] else hint
            raise ValueError(f"{self._owner}: expected dy of x's shape {shape}, got {dy.shape}{hint}")
        if ds is not None:
            ds = self._check_ds(ds)
        if out is not None:
            check_out(self._owner, out, shape, dtype, (dy, self._source), self._apart)
        if self._overwritten:
            raise RuntimeError(
                f"{self._owner}: expected the x of the forward pass, but it was overwritten in place; "
                "call the forward pass with another out, or run backward once"
            )
        name = self._changed()
        if name is not None:
            raise changed(self._owner, name)
        found = self._backward(dy, out) if ds is None else self._backward(dy, out, ds)
        if out is not None:
            self.overwrite(out)
        return found if type(dy) is ndarray else self._handed(found, dy, asked)

    def __repr__(self) -> str:
        shape, dtype = self._like
        return f"<Saved of {self._owner} for x of shape {shape}, {dtype}>"

    def _handed(self, found: Grads, dy: Any, asked: Any) -> Grads:
        """The gradients as arrays of the library that the inputs came from."""
        if not on_device(found.x):
            return found
        arrays = zip(found, (dy, self._weight, self._bias), strict=True)
        x, weight, bias = (None if d is None else native(d, dy if like is None else like) for d, like in arrays)
        x = asked if x is None or asked is not None else x
        if isinstance(found, MoreGrads):
            return MoreGrads(x, weight, bias, {name: native(d, dy) for name, d in found.others.items()})
        return Grads(x, weight, bias)

    def _shortcut(self, dy: Any, ds: Any = None) -> Grads | None:
        """The gradients by a shortcut, or None: see `Backend.backward_shortcut`."""
        return None

    def _changed(self) -> str | None:
        """Which array that the backward pass reads, by its name, is seen to have other values than before."""
        return None

    @property
    def _apart(self) -> tuple[Array | None, ...]:
        """Arrays that out may not overlap."""
        return self._weight, self._bias

    def _check_ds(self, ds: Any) -> Array:
        """ds as an array of x's shape, where there is an s."""
        raise ValueError(
            f"{self._owner}: expected ds where a residual was added to x, got it without one; write "
            "norm(x, residual=r), or dx + ds"
        )

    @abstractmethod
    def _backward(self, dy: Array, out: Array | None, ds: Array | None = None) -> Grads:
        """The gradients, with x's in `out` if given. There is ds only where `_check_ds` lets it in."""

    def overwrite(self, out: Array) -> None:
        """Note that `out` was written: if it is x, x cannot be read again."""
        if self._source is not None and same_place(out, self._source):
            self._overwritten = True


def _left_out() -> None:
    """The unpickled form of a `FunctionSaved`: None."""


class FunctionSaved(Saved):
    """A `Saved` whose backward pass is a function. Copies share it; it is pickled as None."""

    __slots__ = ()

    @quiet
    def backward(self, dy: Array, out: Array | None = None, ds: Array | None = None) -> Grads:
        return super().backward(dy, out, ds)

    def __deepcopy__(self, memo: dict) -> Self:
        return self

    def __reduce__(self) -> tuple:
        return _left_out, ()


class PulledBack(FunctionSaved):
    """The `Saved` of a norm computed in NumPy: a function from dy to the gradients, all float64. The function has
    copies of what it needs, so x may be overwritten."""

    __slots__ = ("_arguments", "_layout", "_pull")

    def __init__(self, owner: object, x: Array, pull: Pull, arguments: Mapping[str, Array] | None = None) -> None:
        self._owner, self._pull = getattr(owner, "label", owner), pull
        self._weight = self._bias = self._source = None
        self._overwritten = False
        self._like, self._layout = (x.shape, x.dtype), layout_of(x)
        self._arguments = {name: (a.shape, a.dtype) for name, a in (arguments or {}).items()}

    @in_any_mode
    def _backward(self, dy: Array, out: Array | None, ds: Array | None = None) -> Grads:
        dx = empty_in_layout(*self._like, self._layout) if out is None else out
        found = self._pull(dy.astype(np.float64, order="C"))
        dx[...] = found["x"]
        others = {
            name: np.asarray(found[name], np.float64).reshape(shape).astype(dtype)
            for name, (shape, dtype) in self._arguments.items()
        }
        return grads_by_name(others | {"x": dx})


class Chained(FunctionSaved):
    """The `Saved` of a norm that is made of several passes: a function from dy and out to the gradients.

    Args:
        like: shape and dtype of x.
        pull: (dy, out) -> Grads, with x's in `out` if given; it calls `backward` of `parts`. Where a residual is added
            to x in the first of them, (dy, out, ds) too.
        parts: what the passes left, which the backward pass may need x's memory for.
        apart: more arrays that it reads, which out may not overlap.
    """

    __slots__ = ("_kept_apart", "_parts", "_pull")

    def __init__(
        self,
        owner: object,
        x: Array,
        pull: Callable[..., Grads],
        parts: tuple[Saved, ...],
        apart: tuple[Array, ...] = (),
    ) -> None:
        self._owner, self._pull, self._parts, self._kept_apart = getattr(owner, "label", owner), pull, parts, apart
        self._weight = self._bias = None
        self._like = x.shape, x.dtype
        self._source = next((p._source for p in parts if p._source is not None), None)
        self._overwritten = any(p._overwritten for p in parts)

    @property
    def _apart(self) -> tuple[Array | None, ...]:
        return self._kept_apart

    def _check_ds(self, ds: Any) -> Array:
        return self._parts[0]._check_ds(ds)

    def _backward(self, dy: Array, out: Array | None, ds: Array | None = None) -> Grads:
        return self._pull(dy, out) if ds is None else self._pull(dy, out, ds)

    def overwrite(self, out: Array) -> None:
        super().overwrite(out)
        for part in self._parts:
            part.overwrite(out)


class SelectedSaved(FunctionSaved):
    """The `Saved` of a selection: `back` writes dx and returns dweight and dbias."""

    __slots__ = ("_back", "_layout")

    def __init__(
        self, owner: object, x: Array, back: Callable[..., tuple], weight: Array | None, bias: Array | None
    ) -> None:
        self._owner, self._back, self._weight, self._bias = getattr(owner, "label", owner), back, weight, bias
        self._like, self._layout = (x.shape, x.dtype), layout_of(x)
        self._source, self._overwritten = x, False

    def _backward(self, dy: Array, out: Array | None, ds: Array | None = None) -> Grads:
        dx = empty_in_layout(*self._like, self._layout) if out is None else out
        found = zip(self._back(dy, dx), (self._weight, self._bias), strict=True)
        return Grads(dx, *(d if p is None else d.reshape(p.shape) for d, p in found))


def native(a: Any, like: Any) -> Any:
    """A device array as an array of the library that `like` came from."""
    if isinstance(a, tuple):
        return tuple(native(part, like) for part in a)
    return a.native(like.library)


def layout_of(x: Array) -> tuple[int, ...] | None:
    """x's axes, outermost in memory first; None if they are in C order."""
    if x.flags.c_contiguous:
        return None
    return tuple(sorted(range(x.ndim), key=lambda i: -abs(x.strides[i])))


def empty_in_layout(shape: tuple[int, ...], dtype: np.dtype, layout: tuple[int, ...] | None) -> Array:
    """A new dense array whose axes have the order `layout` in memory."""
    if layout is None:
        return empty(shape, dtype)
    return empty(tuple(shape[i] for i in layout), dtype).transpose(inverse(layout))
