"""What an ONNX node says, as far as `onnx_nodes.py` asks."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from normzoo.backends.contract import Array
from normzoo.norm import Norm
from normzoo.passes.arrays import check_array

# The field of an AttributeProto that has the value of an attribute of this type.
_FIELDS = {1: "f", 2: "i", 3: "s", 6: "floats", 7: "ints"}
MOST_REPEATED = 1 << 24  # values of a parameter that is given by fewer: a shape in a file costs no memory, they do


class Node(NamedTuple):
    """A node that was taken apart."""

    owner: str  # what messages call it
    attributes: dict[str, Any]
    inputs: list[str]  # their names, x first
    outputs: list[str]  # those that are there
    initializers: Mapping[str, Any]
    shape: tuple[int | None, ...] | None  # of x, as far as it is known

    def error(self, expected: str, got: object, write: str = "") -> ValueError:
        return ValueError(f"{self.owner}: expected {expected}, got {got}{'; ' if write else ''}{write}")

    def constant(self, i: int, what: str) -> Array | None:
        """An input that is an initializer, a float array; None where the node has none."""
        name = self.inputs[i] if i < len(self.inputs) else ""
        if not name:
            return None
        if name not in self.initializers:
            raise self.error(f"{what} {name!r} among the initializers", f"{len(self.initializers)} without it")
        a = _array(self.initializers[name])
        check_array(self.owner, what, a)
        return a

    def vector(self, i: int, what: str) -> Array:
        """An input of one axis that must be there."""
        a = self.constant(i, what)
        if a is None:
            raise self.error(f"an input {what}", f"inputs {self.inputs}")
        if a.ndim != 1:
            raise self.error(f"{what} of shape (C,)", a.shape)
        return a

    def repeated(self, values: int, a: Array, what: str) -> None:
        """Parameters are as large as the node's own say, or of a size that costs little."""
        if values > max(a.size, MOST_REPEATED):
            raise self.error(f"at most {MOST_REPEATED} values of a {what} that repeats", values, "write it out")

    def filled(self, norm: Norm, **arrays: Array | None) -> Norm:
        """The norm with these parameters and buffers."""
        state = {name: a for name, a in arrays.items() if a is not None}
        try:
            norm.load_state_dict(norm.state_dict() | state)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{self.owner}: {error}") from None
        return norm


# How a node is read, its attributes and their defaults (a type where there is none), and how many inputs it has.
Kind = tuple[Callable[[Node, int | None], Norm], dict[str, Any], tuple[int, int]]


def value_of(node: Node, attribute: Any, default: Any) -> Any:
    """The value of an attribute, of the type of its default (or of the type that it must have)."""
    wanted = default if isinstance(default, type) else type(default)
    field = _FIELDS.get(int(attribute.type))
    value: Any = None if field is None else getattr(attribute, field)
    if field in ("ints", "floats"):
        value = tuple(value)
    if not isinstance(value, wanted) or (wanted is tuple and field != "ints"):
        raise node.error(f"{attribute.name} of type {wanted.__name__}", f"an attribute of type {int(attribute.type)}")
    return value


def _array(a: Any) -> Any:
    """An initializer as an array."""
    if isinstance(a, np.ndarray) or not hasattr(a, "dims"):
        return a
    from onnx import numpy_helper  # noqa: PLC0415 (whoever has a TensorProto has onnx)

    return numpy_helper.to_array(a)
