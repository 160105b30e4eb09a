"""What stands before and behind a norm, as it is asked for: by a norm's attributes, and by the arguments of a call."""

from collections.abc import Callable
from difflib import get_close_matches
from functools import lru_cache
from math import inf
from typing import Any, NamedTuple, TypedDict

from normzoo.backends.activations import activation
from normzoo.backends.around import ALONE, Activation, Around
from normzoo.backends.contract import Array
from normzoo.passes.numbers import check_number


class Behind(TypedDict, total=False):
    """What a norm is made with, and has as attributes: what stands around it in every call."""

    activation: str | Activation | None  # y = act(norm); a name of `list_activations`
    gate_first: bool  # with gate=, y = norm(x * act(gate)), not norm(x) * act(gate)
    residual_scale: float  # with residual=, s = x + residual_scale * residual


class Besides(TypedDict, total=False):
    """What a call takes beside x. See `Norm.forward`."""

    residual: Array | None
    add: Array | None
    gate: Array | None
    residual_out: Array | None


BESIDES = frozenset(Besides.__annotations__)


class Surroundings(Behind, Besides, total=False):
    """Both, as functions take them."""

    tau: Array | None  # with activation="threshold", one value for each that weight and bias have


LEARNED = "tau"  # what a function takes for an activation that is learned; a norm has it as a parameter
SURROUNDINGS = BESIDES.union(Behind.__annotations__, {LEARNED})


WRITE = {
    "residual": "norm(x + residual)",
    "add": "norm(x) + add",
    "gate": "norm(x) * gate",
    "residual_out": "norm(x + residual)",
    "activation": "y = np.maximum(norm(x), 0), or the like",
    "gate_first": "norm(x * gate)",
    "residual_scale": "norm(x + residual_scale * residual)",
}


def refuse(owner: object, names: Any) -> None:
    """Of a norm that can have nothing around it: say so where one of these names is asked for."""
    for name, write in WRITE.items():
        if name in names:
            raise TypeError(f"{owner}: takes no {name} (the class does not declare fuses = True); write {write}")


def check_names(owner: object, unknown: Any, known: Any) -> None:
    """There are no arguments but the known ones."""
    for name in unknown:
        if name in Behind.__annotations__:
            raise TypeError(
                f"{owner}: expected {name} where the norm is made, got it in a call; write norm.{name} = ..."
            )
        near = get_close_matches(name, known, 1, 0.6)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
        raise TypeError(f"{owner}: got an unexpected keyword argument {name!r}; {hint}")


def check_scale(owner: object, scale: Any) -> float:
    """A finite number."""
    found = check_number(owner, "residual_scale", scale)
    if not -inf < found < inf:
        raise ValueError(f"{owner}: expected a finite residual_scale, got {scale}")
    return found


def known_name(act: Activation | None) -> str | Activation | None:
    """The name of an activation, if it is one of those that have one: a caller's own is an `Activation` itself."""
    return act if act is None or type(act) is Activation else act.name


class Setting(NamedTuple):
    """The attributes of a norm that `Behind` names."""

    activation: Activation | None = None
    gate_first: bool = False
    residual_scale: float = 1.0

    def shown(self) -> dict[str, Any]:
        """As the constructor takes them."""
        return self._asdict() | {"activation": known_name(self.activation)}


NOTHING_SET = Setting()
CHECKS: dict[str, Callable[[object, Any], Any]] = {
    "activation": lambda owner, value: activation(value, str(owner)),
    "gate_first": lambda owner, value: bool(value),
    "residual_scale": check_scale,
}


@lru_cache(maxsize=256)
def around_of(activation: Activation | None, gate_first: bool, residual: bool, behind: str) -> Around | None:
    """One object for all calls alike; None where nothing stands around."""
    found = Around(residual, gate_first, behind, activation)
    return None if found == ALONE else found


def learned_alone(name: str) -> Around | None:
    """Nothing but the activation of this name, which is learned."""
    return around_of(activation(name), False, False, "learned")


def find_around(
    owner: object, activation: Activation | None, gate_first: bool, residual: bool, add: bool, gate: bool,
    learned: bool = False,
) -> Around | None:  # fmt: skip
    """What stands around a norm of this activation where a call has these arrays; `learned`: is there a parameter of
    the activation?"""
    if activation is not None and activation.parameter:
        if add or gate or gate_first:
            other = "gate_first=True" if gate_first else "add" if add else "a gate"
            raise ValueError(
                f"{owner}: expected activation {activation.name!r} with nothing else behind the norm, got {other}; "
                "compute one of them apart from the norm"
            )
        if not learned:
            raise ValueError(
                f"{owner}: expected {activation.parameter} with activation {activation.name!r}, got none; write "
                f"norm(x), which has it as a parameter, or {activation.parameter}= in nz.functional"
            )
        return around_of(activation, False, residual, "learned")
    if learned:
        raise ValueError(f"{owner}: expected activation='threshold' with {LEARNED}, got another; leave {LEARNED} out")
    if add and gate:
        raise ValueError(
            f"{owner}: expected add or gate, got both; write norm(x, gate=gate) + add, or residual= for what is before"
        )
    if gate_first:
        if not gate:
            raise ValueError(f"{owner}: expected a gate, as gate_first=True, got none; write norm(x, gate=z)")
        if residual or add:
            other = "a residual" if residual else "add"
            write = "norm(x + residual, gate=gate)" if residual else "norm(x, gate=gate) + add"
            raise ValueError(f"{owner}: expected the gate alone, as gate_first=True, got {other} too; write {write}")
    return around_of(activation, gate_first, residual, "gate" if gate and not gate_first else "add" if add else "")
