"""What stands before and behind a norm, in the same pass: a residual or a gate before it; an activation, a branch or a
gate behind it.

    before     s = x + scale * residual, or x * act(gate), as stored: statistics and xhat are those of s
    behind     z = xhat * weight + bias           y = act(z), act(z + add) or z * act(gate)
    backward   dv = dy * act'(z), dy * act'(z + add) or dy * act(gate); then weight, bias and s as ever; ds is added
"""

from collections.abc import Callable
from typing import Any, NamedTuple

Lanes = Any  # what a function of the lanes takes and gives: lanes in a kernel, an array of floats elsewhere


class Activation(NamedTuple):
    """A function that follows a norm, and its derivative. Both are written only with the functions of `lanes.py`, with
    + - * / and numbers, because kernels compute them on many values at once, and the reference on arrays.

    That of a learned level p is value(v, p) = p + f(v - p); its derivative(v, p) is a pair, that by v and that by p,
    which add up to 1.

    >>> import numpy as np
    >>> from normzoo.backends.lanes import exp, log1p, magnitude, larger, sigmoid
    >>> def value(v):
    ...     return 2.0 * (larger(v, 0.0) + log1p(exp(-magnitude(v))))
    >>> def derivative(v):
    ...     return 2.0 * sigmoid(v)
    >>> twice_softplus = Activation("twice_softplus", value, derivative)
    >>> twice_softplus.value(np.array([-1.0, 0.0, 1.0])).round(3)
    array([0.627, 1.386, 2.627])
    """

    name: str
    value: Callable[..., Lanes]
    derivative: Callable[..., Any]
    parameter: str = ""  # the name of a learned level

    def __repr__(self) -> str:
        return f"Activation({self.name!r})"


def check_level(given: Activation, owner: str) -> None:
    """The parameter's gradient is made of that of the value before the activation."""
    for v, level in ((-1.3, 0.4), (0.7, 0.2), (2.0, -1.0), (0.3, 3.0)):
        by_v, by_level = given.derivative(v, level)
        if not abs(by_v + by_level - 1) < 1e-6:
            raise ValueError(
                f"{owner}: expected an activation of a level, value(v, p) = p + f(v - p), whose derivatives by v and "
                f"by p add up to 1, got {given.name!r} with {by_v + by_level}; compute it behind the norm"
            )


class Around(NamedTuple):
    """What is known of a pass when its kernel is made."""

    residual: bool = False  # s = x + scale * residual
    gate_first: bool = False  # s = x * act(gate); with nothing else
    behind: str = ""  # "add": y = act(z + add); "gate": y = z * act(gate); "learned": y = act(z, p); "": y = act(z)
    activation: Activation | None = None  # None: act(z) = z
    ds: bool = False  # going back: a gradient that reaches s from elsewhere
    is_short: bool = False  # is y, or dx, stored in 16 bits? Told by who makes a kernel

    @property
    def is_before(self) -> bool:
        """Is the norm that of s?"""
        return self.residual or self.gate_first

    @property
    def is_behind(self) -> bool:
        """Is y more than the norm?"""
        return not self.gate_first and (self.behind != "" or self.activation is not None)


ALONE = Around()


class Beside(NamedTuple):
    """The arrays of a pass beside x; each has x's shape, dtype and order, or is None. But a parameter of what is
    learned is as weight and bias are."""

    residual: Any = None
    s: Any = None  # written: what the norm reads
    other: Any = None  # what is added behind, or the gate, or the parameter of what is learned
    scale: float = 1.0  # of the residual


class BesideBack(NamedTuple):
    """The arrays of a backward pass beside dy and x, which is s where a residual was added; with a gate first it is x
    itself, and s is made again."""

    bias: Any = None  # of the parameters' view
    other: Any = None
    dother: Any = None  # written: the gradient of `other`; not of a parameter, which is what of dy bias does not get
    ds: Any = None


NOTHING, NOTHING_BACK = Beside(), BesideBack()
