"""Attributes of a norm: parameters and buffers by name, what stands around it, and names that are misspelled."""

import inspect
from collections.abc import Callable, Collection, Mapping
from difflib import get_close_matches
from functools import lru_cache, wraps
from itertools import product
from typing import TYPE_CHECKING, Any, Concatenate

import numpy as np

from normzoo.backends.contract import Array
from normzoo.passes.around import WRITE, check_names, refuse
from normzoo.passes.arrays import base_array, check_array, check_parameter
from normzoo.passes.saved import Label, Saved
from normzoo.selection.select import SELECTS

# What a class supports that does not say so, if its forward is not that of `Norm`: see `Norm.masks`.
UNDECLARED: dict[str, Any] = {"devices": ("cpu",), "masks": False, "recalibrates": None, "fuses": False}

MEANT = {"gamma": "weight", "beta": "bias", "scale": "weight"}  # other libraries' names
OPTIONS = {"epsilon": "eps", "use_scale": "affine", "axis": "channel_axis", "data_format": "channel_axis"}  # likewise


def meant(name: Any, known: Collection[str], words: bool = True) -> str | None:
    """The known name that `name` misspells or, with `words`, that is another library's name for it; else None."""
    if not isinstance(name, str):
        return None
    if words and MEANT.get(name, "") in known:
        return MEANT[name]
    near = [other for other in known if abs(len(other) - len(name)) <= 1]
    return next(iter(get_close_matches(name, near, 1, 0.8)), None)


def refuse_misspelt(norm: object, name: str, known: Collection[str], words: bool) -> None:
    """Refuse to set an attribute that looks like one of `known`: nothing would read it."""
    if (found := meant(name, known, words)) is not None:
        raise AttributeError(f"{norm}: has no {name} to set; write norm.{found}")


class Entries(dict):
    """Arrays by name. Once the norm is made, a new name that looks like a misspelling is refused, as nothing would read
    it."""

    __slots__ = ("label",)

    label: Label  # of the norm

    def __setitem__(self, name: str, a: Array) -> None:
        if name not in self and (found := meant(name, self)) is not None:
            raise ValueError(f"{self.label}: expected one of {list(self)}, got {name!r}; write {found!r}")
        super().__setitem__(name, a)

    def __reduce__(self) -> tuple:
        return entries, (self.label, dict(self))  # not item by item, as two names may be similar


def check_state_names(owner: object, held: Collection[str], state: Mapping[str, Any]) -> None:
    """A state has the names that a norm holds; the count of batches may be missing, as in PyTorch."""
    missing = [name for name in held if name not in state and name != "num_batches_tracked"]
    unexpected = [name for name in state if name not in held]
    if not missing and not unexpected:
        return
    hint = ""
    for name, known in product(unexpected, missing):
        if isinstance(name, str) and name.endswith(f".{known}"):  # the names of a norm within a model
            prefix = name.removesuffix(known)
            hint = f"; write {{name.removeprefix({prefix!r}): a for name, a in state.items() if {prefix!r} in name}}"
            break
    raise ValueError(f"{owner}: expected state with {list(held)}, got {missing=}, {unexpected=}{hint}")


def entries(label: Label, arrays: Mapping[str, Array]) -> Entries:
    """`Entries` of a norm that is made."""
    new = Entries(arrays)
    new.label = label
    return new


class NoGrads(dict):
    """The gradients of a norm before its first backward pass."""

    __slots__ = ("label",)

    label: Label  # of the norm

    def __missing__(self, name: str) -> Array:
        raise KeyError(
            f"{self.label}: expected a backward pass before grads[{name!r}] is read; write norm.backward(dy) first"
        )


class Last:
    """The gradients and the `Saved` of a norm's last pass."""

    __slots__ = ("grads", "saved")

    def __init__(self, label: Label) -> None:
        self.grads: dict[str, Array] = (unread := NoGrads())
        unread.label = label
        self.saved: Saved | None = None


def no_values(norm: object) -> None:
    """Of a norm that does not say what its axes depend on."""


def closing(init: Callable[..., None], kind: type) -> Callable[..., None]:
    """`__init__` of a class, after which a norm of exactly this class is complete: see `Norm.__setattr__`. Its
    docstring has the arguments that the docstring of the class explains."""

    @wraps(init)
    def made(self: Any, *arguments: Any, **options: Any) -> None:
        if options and not type(self).fuses:
            refuse(type(self).__name__, options.keys() - _named(init))
        init(self, *arguments, **options)
        if type(self).__init__ is made:
            self.params, self.buffers = (entries(self.label, arrays) for arrays in (self.params, self.buffers))
            self._made = True

    # from Python 3.13 on, docstrings have no indentation
    _, found, arguments = inspect.cleandoc(kind.__doc__ or "").partition("\nArgs:\n")
    if not init.__doc__ and found:
        own = arguments.partition("\n\n")[0]
        made.__doc__ = f"Make a {kind.__name__}.\n\nArgs:\n{own}\n"
    return made


def overridable(forward: Callable[..., Any]) -> Callable[Concatenate[Any, Array, ...], tuple[Array, Saved]]:
    """A `forward` that classes may have with more arguments or fewer: checkers of types look at x alone. What has a
    residual gives ((y, s), saved)."""
    return forward


def refusing(forward: Callable[..., Any]) -> Callable[..., Any]:
    """`forward` of a class that has nothing around it: the arguments of `around.Besides` and unknown ones are refused
    by name, and missing ones are named."""

    @wraps(forward)
    def checked(self: Any, *arguments: Any, **options: Any) -> Any:
        if options:
            named = _named(forward)
            if unknown := options.keys() - named:
                refuse(self, unknown)
                if not _takes_any(forward):
                    refuse_selections(self, unknown)
                    known = *sorted(named - {"self", "x"}), *(sorted(SELECTS) if self.masks is True else ())
                    check_names(self, unknown, known)
        if missing := [name for name in _needed(forward)[len(arguments) :] if name not in options]:
            call = ", ".join(_needed(forward))
            raise TypeError(f"{self}: expected {' and '.join(missing)} too, got none; write norm({call})")
        return forward(self, *arguments, **options)

    return checked


def refuse_selections(norm: Any, names: Collection[str]) -> None:
    """Refuse the arguments of `select` in a direct call of `forward`, which takes x with them."""
    for name in sorted(SELECTS.intersection(names)):
        if norm.masks is not True:
            write = "norm(x) with an x all of whose values count, as x[keep] of samples is"
            raise TypeError(f"{norm}: takes no {name} (the class does not declare masks = True); write {write}")
        write = f"norm(x, {name}=...), or norm.forward(nz.select(x, {name}=...))"
        raise TypeError(f"{norm}: expected {name} in a call of the norm, got it in forward; write {write}")


@lru_cache(maxsize=256)
def _needed(function: Callable[..., Any]) -> tuple[str, ...]:
    """Names of the arguments behind self that have no default."""
    found = list(inspect.signature(function).parameters.values())[1:]
    return tuple(p.name for p in found if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD)


@lru_cache(maxsize=256)
def _named(function: Callable[..., Any]) -> frozenset[str]:
    """Names that a function takes, or hands on."""
    return frozenset((*inspect.signature(function).parameters, *(WRITE if _takes_any(function) else ())))


@lru_cache(maxsize=256)
def _takes_any(function: Callable[..., Any]) -> bool:
    """Does it hand on what it does not know?"""
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(function).parameters.values())


def held(name: str) -> property:
    """An attribute of the last pass. Calls set it directly, because `Norm.__setattr__` would be too slow for small
    calls."""

    def get(self: Any) -> Any:
        return getattr(self._last, name)

    def put(self: Any, value: Any) -> None:
        setattr(self._last, name, value)

    return property(get, put)


class Entry(property):
    """An attribute that is an entry of `params` or `buffers`, as checkers of types see it: an array to set. To read it
    is an array too for them, or code with norms that have one would have to look whether it is None."""

    if TYPE_CHECKING:

        def __get__(self, norm: Any, kind: Any = None) -> Any | Array: ...  # type: ignore[override]
        def __set__(self, norm: Any, value: Array) -> None: ...


def entry(kind: str, name: str) -> Entry:
    """An attribute that is an entry of `params` or `buffers`; None if there is no such entry."""

    def get(self: Any) -> Array | None:
        return getattr(self, kind).get(name)

    def put(self: Any, value: Array) -> None:
        held = getattr(self, kind)
        if name not in held:
            raise ValueError(f"{self}: has no {name} to set; create the norm with one")
        if type(value) is not np.ndarray:
            value = base_array(self, name, value) if not isinstance(value, np.ndarray) else value
        check_array(self, name, value)
        check_parameter(self, name, value, held[name].shape)
        held[name] = value

    return Entry(get, put)


@lru_cache(maxsize=256)
def _watched(kind: Any) -> type:
    """Its objects write down which of their attributes are read."""

    class Watched(kind):
        def __getattribute__(self, name: str) -> Any:
            object.__getattribute__(self, "__dict__")[""].add(name)
            return super().__getattribute__(name)

    return Watched


def reads(norm: Any, function: Callable[[Any], Any]) -> set[str]:
    """The attributes that function(norm) reads, but for methods and properties, which read others."""
    held, seen = vars(norm), set[str]()
    kind: Any = type(norm)
    twin: Any = object.__new__(_watched(kind))
    object.__getattribute__(twin, "__dict__").update(held | {"": seen})
    function(twin)
    found = {name: getattr(type(norm), name, None) for name in seen if name not in held}
    return seen - {name for name, a in found.items() if callable(a) or isinstance(a, property)}
