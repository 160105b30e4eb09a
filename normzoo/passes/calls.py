"""What a norm is called with beside x, by name: for checkers of types, and for the signature that editors show."""

import inspect
from collections.abc import Callable
from typing import Any, TypedDict, TypeVar

from normzoo.backends.contract import Array
from normzoo.passes.around import Besides
from normzoo.selection.select import Selects, select

A = TypeVar("A", bound=Array)  # y and s have the type of x: its shape and dtype


class Conditions(TypedDict, total=False):
    """Inputs of single norms, which take them behind x too."""

    branch: Array  # ReZero
    style: Array  # AdaptiveInstanceNorm
    labels: Array  # ConditionalBatchNorm, ConditionalInstanceNorm
    domain: int  # DomainBatchNorm
    gamma: Array  # FiLM, SPADE
    beta: Array
    scale: Array  # AdaptiveLayerNorm
    shift: Array
    c: Array  # AdaLNZero


class Call(Selects, Conditions, total=False):
    """All that a call takes by name, but for the residual, with which it returns (y, s)."""

    out: Array | None
    residual_out: Array | None
    add: Array | None
    gate: Array | None
    update_stats: bool


def signed(call: Callable[..., Any]) -> Callable[..., Any]:
    """`__call__` of a norm, with the signature that it has in fact. It takes its options as a dict, which costs a call
    without any nothing."""
    named = inspect.Parameter.KEYWORD_ONLY
    shown = {name: (None, kind) for name, kind in ({"out": Array | None} | Besides.__annotations__).items()}
    shown |= {p.name: (p.default, p.annotation) for p in inspect.signature(select).parameters.values() if p.name != "x"}
    options = [inspect.Parameter(name, named, default=d, annotation=kind) for name, (d, kind) in shown.items()]
    found = inspect.signature(call)
    own, x, others, more = found.parameters.values()
    call.__signature__ = found.replace(parameters=[own, x, others, *options, more])  # type: ignore[attr-defined]
    return call
