"""Modules of other libraries while they are converted: of a class derived from their own, with another forward pass.

Parameters, buffers, attributes, hooks and isinstance stay as they are, and so does what `copy` and `pickle` give.
"""

import inspect
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar, NoReturn

from normzoo.torch.modules import leaf, refuse_script
from normzoo.torch.registry import forward_of


class Taken:
    """What the derived classes have in common."""

    _taken_from: ClassVar[type]

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A derived class is made where it is needed, so its name leads to none."""
        found: Any = super().__reduce_ex__(max(protocol, 2))
        return (_again, (self._taken_from, *found[1][1:]), *found[2:])

    def __prepare_scriptable__(self) -> NoReturn:
        refuse_script(f"{self._taken_from.__qualname__}, which normzoo.torch has converted")


def _again(cls: type, *arguments: Any) -> Any:
    """An empty module of a class that is taken over, for `pickle` and `copy`."""
    forward = forward_of(cls)
    if isinstance(forward, str):
        warnings.warn(f"normzoo.torch: {cls.__name__} stays its own class: {forward}", stacklevel=2)
        return cls.__new__(cls, *arguments)
    derived = taken(cls, forward)
    return derived.__new__(derived, *arguments)


@cache
def taken(cls: Any, forward: Any) -> type:
    """The class that modules of `cls` have while they are converted; forward is a function, or a class of ours."""
    held = {"_taken_from": cls, "__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    if isinstance(forward, type):
        return type(cls.__name__, (Taken, forward, cls), held)
    return type(cls.__name__, (Taken, cls), held | {"forward": _named_as(cls, forward)})


def _named_as(cls: Any, forward: Callable[..., Any]) -> Callable[..., Any]:
    """`forward` with the names of arguments that `cls.forward` has."""
    theirs, ours = ([*inspect.signature(f).parameters][1:] for f in (cls.forward, forward))
    return leaf(forward, dict(zip(theirs, ours, strict=False)), cls.forward)
