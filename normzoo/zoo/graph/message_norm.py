"""Message normalization: messages get the norm of the features of the nodes that receive them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from normzoo.backends.contract import Array
from normzoo.backends.forms import Formula, Twice
from normzoo.backends.lanes import larger, root
from normzoo.passes.attributes import entry
from normzoo.passes.cells import Pass
from normzoo.passes.cells import Pull as CellPull
from normzoo.passes.formulas import reciprocal
from normzoo.passes.numbers import check_number
from normzoo.passes.saved import Pull, Saved
from normzoo.zoo.exact import ExactNorm

LEAST = 1e-12  # of the norm of a message, as torch.nn.functional.normalize has it


def _squares(x: Any, msg: Any, _scale: Any) -> tuple[Any, ...]:
    return x * x, msg * msg


def _slope(squares: Any, squares_of_msg: Any, scale: Any) -> tuple[Any, ...]:
    return (scale * root(squares) / larger(root(squares_of_msg), LEAST),)


def _value(_x: Any, msg: Any, _scale: Any, slope: Any) -> tuple[Any, ...]:
    return (msg * slope,)


def _along(dy: Any, _x: Any, msg: Any, _of_x: Any, _of_msg: Any, _slope: Any) -> tuple[Any, ...]:
    return (dy * msg,)


def _factors(along: Any, of_x: Any, of_msg: Any) -> tuple[Any, ...]:
    return along * of_x, along * of_msg


def _gradient(
    dy: Any, x: Any, msg: Any, _of_x: Any, _of_msg: Any, slope: Any, factor: Any, more: Any
) -> tuple[Any, ...]:
    return x * factor, dy * slope + msg * more


VALUE = Twice(
    Formula(_squares, 2, 0, ("b", "b"), wide=True), _slope, 2, 1, 1, Formula(_value, 2, 1)
)  # fmt: skip
GRADIENT = Twice(
    Formula(_along, 3, 0, ("b",), wide=True), _factors, 1, 2, 2, Formula(_gradient, 3, 2)
)  # fmt: skip


class MessageNorm(ExactNorm):
    """Message normalization: messages get the norm of the features of the nodes that receive them.

    Formula:
        y = scale * norm(x) * msg / max(norm(msg), 1e-12), with p-norms over the last axis.

    Shapes:
        x, msg, y: (nodes, C), or any, all the same.
        scale: (1,).

    Args:
        learn_scale: whether scale is a parameter; otherwise it is 1.
        p: order of the norms, 1 or more.
        dtype: of scale: float32, float64, float16 or bfloat16.

    Raises:
        ValueError: msg does not have x's shape, or p is below 1. TypeError: x or msg is not a float array.

    It is called with the features of the nodes and the messages that they have gathered: y = norm(x, msg). What
    GENConv adds is x + y. `grads.msg` is the gradient of the messages. Where a norm is 0 the gradient of it is 0.

    Source:
        G. Li, C. Xiong, A. Thabet and B. Ghanem, "DeeperGCN: All You Need to Train Deeper GCNs", 2020,
        arXiv:2006.07739.

    >>> import numpy as np, normzoo as nz
    >>> nz.MessageNorm()(np.array([[3, 4]], np.float32), np.array([[0, 2]], np.float32))
    array([[0., 5.]], dtype=float32)
    """

    scale = entry("params", "scale")

    def __init__(self, learn_scale: bool = False, p: float = 2.0, *, dtype: Any = np.float32) -> None:
        super().__init__(weight=False, bias=False, dtype=dtype)
        self.learn_scale = bool(learn_scale)
        self.p = check_number(self, "p", p)
        if not 1 <= self.p < np.inf:
            raise ValueError(f"{self}: expected p >= 1 and finite, got {p}; write p=2.0")
        if self.learn_scale:
            self.params["scale"] = np.ones((1,), self._dtype)

    def forward(self, x: Array, msg: Array, out: Array | None = None) -> tuple[Array, Saved]:  # type: ignore[override]
        """y and what backward needs: see `Norm.forward`.

        Args:
            msg: messages, a float array of x's shape.
        """
        return self.exactly(x, out, msg=msg)

    def check(self, x: Array, **inputs: Array) -> None:
        if inputs["msg"].shape != x.shape:
            raise ValueError(f"{self}: expected msg of x's shape {x.shape}, got {inputs['msg'].shape}")
        if not x.ndim:
            raise ValueError(f"{self}: expected x of rank 1 or more, got {x.shape}; write x[None]")

    def letters(self, x: Array) -> str:
        return "b" * (x.ndim - 1) + "n" if self.p == 2 else ""

    def by_cells(self, cells: Pass, params: Mapping[str, Array]) -> CellPull:
        scale = params.get("scale", np.ones(1))
        size, length = (np.sqrt(v) for v in cells.twice(VALUE, scale))

        def pull(cells: Pass) -> dict[str, Array]:
            share, dmsg = 1 / np.maximum(length, LEAST), cells.array_like()
            of_msg = np.where(length > LEAST, -scale * size * share**3, 0.0)
            given = scale * share * reciprocal(size), of_msg, scale * size * share
            (along,) = cells.twice(GRADIENT, *given, more=(dmsg,))
            return {"msg": dmsg} | ({"scale": (along * size * share).sum()[None]} if params else {})

        return pull

    def compute(self, x: Array, params: Mapping[str, Array], **inputs: Array) -> tuple[Array, Pull]:
        msg, p, scale = inputs["msg"], self.p, params.get("scale", np.ones(1))
        (size, of_size), (length, of_length) = _norm(x, p), _norm(msg, p)
        share = 1 / np.maximum(length, LEAST)
        unit = msg * share

        def pull(dy: Array) -> dict[str, Array]:
            along = (dy * unit).sum(axis=-1, keepdims=True)
            turned = np.where(length > LEAST, of_length * along, 0.0)
            found = {"x": scale * along * of_size, "msg": scale * size * share * (dy - turned)}
            return found | ({"scale": (along * size).sum()[None]} if params else {})

        return scale * size * unit, pull

    def _options(self) -> dict[str, Any]:
        return {"learn_scale": self.learn_scale, "p": self.p}


def _norm(v: Array, p: float) -> tuple[Array, Array]:
    """The norm over the last axis, and its gradient, which is 0 where the norm is."""
    largest = np.abs(v).max(axis=-1, keepdims=True, initial=0.0)
    u = np.abs(v) * reciprocal(largest)
    root = (u**p).sum(axis=-1, keepdims=True) ** (1 / p)
    return largest * root, np.sign(v) * u ** (p - 1) * reciprocal(root ** (p - 1))
