"""Attributes of a norm: parameters and buffers by name, and names that are misspelled."""

from collections.abc import Callable, Collection, Mapping
from difflib import get_close_matches
from functools import wraps
from typing import Any

import numpy as np

from normzoo.backends.contract import Array
from normzoo.passes.arrays import base_array, check_array, check_parameter
from normzoo.passes.saved import Label, Saved

MEANT = {"gamma": "weight", "beta": "bias", "scale": "weight"}  # other libraries' names


def meant(name: Any, known: Collection[str], words: bool = True) -> str | None:
    """The known name that `name` misspells or, with `words`, that is another library's name for it; else None."""
    if not isinstance(name, str):
        return None
    if words and MEANT.get(name, "") in known:
        return MEANT[name]
    near = [other for other in known if abs(len(other) - len(name)) <= 1]
    return next(iter(get_close_matches(name, near, 1, 0.8)), None)


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


def entries(label: Label, arrays: Mapping[str, Array]) -> Entries:
    """`Entries` of a norm that is made."""
    new = Entries(arrays)
    new.label = label
    return new


class Last:
    """The gradients and the `Saved` of a norm's last pass."""

    __slots__ = ("grads", "saved")

    def __init__(self) -> None:
        self.grads: dict[str, Array] = {}
        self.saved: Saved | None = None


def closing(init: Callable[..., None]) -> Callable[..., None]:
    """`__init__` of a class, after which a norm of exactly this class is complete: see `Norm.__setattr__`."""

    @wraps(init)
    def made(self: Any, *arguments: Any, **options: Any) -> None:
        init(self, *arguments, **options)
        if type(self).__init__ is made:
            self.params, self.buffers = (entries(self.label, arrays) for arrays in (self.params, self.buffers))
            self._made = True

    return made


def held(name: str) -> property:
    """An attribute of the last pass. Calls set it directly, because `Norm.__setattr__` would be too slow for small
    calls."""

    def get(self: Any) -> Any:
        return getattr(self._last, name)

    def put(self: Any, value: Any) -> None:
        setattr(self._last, name, value)

    return property(get, put)


def entry(kind: str, name: str) -> property:
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

    return property(get, put)
