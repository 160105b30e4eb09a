"""What stands around a norm in every call: its attributes."""

import inspect
from difflib import get_close_matches
from typing import Any, ClassVar

import numpy as np

from normzoo.backends.around import Activation, Beside
from normzoo.backends.contract import Array
from normzoo.passes.apart import before
from normzoo.passes.around import BESIDES, CHECKS, NOTHING_SET, Besides, Setting, check_names, refuse
from normzoo.passes.attributes import OPTIONS, entry, refuse_selections
from normzoo.selection.select import SELECTS


def _attribute(name: str) -> property:
    """An attribute of what stands around a norm; of a norm that has nothing around it, whatever its class makes it."""

    def get(self: Any) -> Any:
        found = getattr(self._setting, name)
        return found if type(self).fuses else vars(self).get(name, found)

    def put(self: Any, value: Any) -> None:
        own = vars(self)
        if type(self).fuses:
            checked = CHECKS[name](self, value)
            if name == "activation":
                self._learn(checked)
            own["_setting"] = self._setting._replace(**{name: checked})
            if own["_setting"] == NOTHING_SET:
                del own["_setting"]
        elif "_made" in own and name not in own:
            refuse(self, (name,))
        else:
            own[name] = value

    return property(get, put)


class Surrounded:
    """What is computed before and behind a norm in every call: arguments of its constructor, and attributes.


    Attributes:
        activation: y = act(v) behind the norm: a name of `normzoo.list_activations()`, as "relu" or "leaky_relu(0.2)",
            a `normzoo.Activation`, or None. "threshold" gives the norm a parameter tau, of weight's shape. With
            add= in a call y = act(v + add), with gate= y = v * act(gate).
        gate_first: with gate= in a call the norm is that of x * act(gate), and y = v.
        residual_scale: with residual= in a call the norm is that of s = x + residual_scale * residual, and (y, s) is
            returned.
    """

    fuses: ClassVar[bool]
    masks: Any
    params: dict[str, Array]
    _site: Any
    _shape: tuple[int, ...]
    _dtype: Any
    _setting: Setting = NOTHING_SET

    activation = _attribute("activation")
    gate_first = _attribute("gate_first")
    residual_scale = _attribute("residual_scale")
    tau = entry("params", "tau")

    def _learn(self, new: Activation | None) -> None:
        """Have the parameter of a new activation, 0 at first, and that of the old one no longer."""
        old = self._setting.activation
        before, after = ("" if a is None else a.parameter for a in (old, new))
        if before and before != after:
            del self.params[before]
        if after and after != before:
            self.params[after] = np.zeros(self._shape, self._dtype)

    def _surround(self, **behind: Any) -> None:
        """Set what the constructor was given."""
        for name, value in behind.items():
            if name not in CHECKS:
                known = {p for p in inspect.signature(type(self)).parameters if p != "behind"} | set(CHECKS)
                other = OPTIONS.get(name, "")
                near = [other] if other in known else get_close_matches(name, known, 1, 0.7)
                hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(sorted(known))}"
                raise TypeError(f"{type(self).__name__}: got an unexpected keyword argument {name!r}{hint}")
            if not type(self).fuses:
                refuse(self, (name,))
            setattr(self, name, value)

    def _stands(self, beside: Besides) -> tuple[Any, Any, Beside]:
        """See `Site.stands`."""
        if not type(self).fuses:
            refuse(self, beside)
        if not BESIDES.issuperset(beside):
            refuse_selections(self, beside)
            known = (*Besides.__annotations__, *(sorted(SELECTS) if self.masks is True else ()))
            check_names(self, beside.keys() - Besides.__annotations__.keys(), known)
        act = self._setting.activation
        learned = self.params.get(act.parameter) if act is not None and act.parameter else None
        return self._site.stands(beside, self._setting, learned)

    def _input(self, x: Array, residual: Any = None, gate: Any = None, **_: Any) -> Array:
        """What is normalized in place of x where these stand before the norm."""
        if not type(self).fuses:
            return x
        _, around, beside = self._stands(Besides(residual=residual, gate=gate))
        return before(around, x, beside)

    def _check_alone(self, owner: object, instead: str) -> None:
        """Nothing stands around the norm, where what is made of it cannot have it."""
        if self._behind:
            shown = ", ".join(f"{name}={value!r}" for name, value in self._behind.items())
            raise ValueError(f"{owner}: expected a norm with nothing around it, got {self} with {shown}; {instead}")

    @property
    def _behind(self) -> dict[str, Any]:
        """What is not as usual, as the constructor takes it."""
        return {name: a for name, a in self._setting.shown().items() if a != getattr(NOTHING_SET, name)}
