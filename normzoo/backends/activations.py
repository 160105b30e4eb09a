"""Activations by name: what may stand behind a norm, each as a value and its derivative, with formula and source.

Where a derivative jumps it is PyTorch's. Where x is infinite, both are the limits: silu(-inf) is 0.
"""

import difflib
import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple, Self

from normzoo.backends.around import Activation, Lanes, check_level
from normzoo.backends.lanes import choose, erf, exp, expm1, larger, log1p, magnitude, sigmoid, smaller, tanh

# Functions of the table are compiled into kernels: each is of the vocabulary alone. Numbers near which the rest of a
# formula no longer depends on v, or is 0, stand for infinities, whose product with it would be NaN:
FAR = 1e4  # exp(-FAR) is 0 in every float, exp(-FAR^2) too
ROOT_HALF, ROOT_OF_PI = math.sqrt(0.5), 1 / math.sqrt(2 * math.pi)
TANH_SLOPE, TANH_CUBE = 2 * math.sqrt(2 / math.pi), 2 * math.sqrt(2 / math.pi) * 0.044715  # twice: a sigmoid's
Function = Callable[..., Lanes]
SELU_SCALE, SELU_ALPHA = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717


def _identity(v: Lanes) -> Lanes:
    return v


def _identity_slope(v: Lanes) -> Lanes:
    return choose(v, 1.0, 1.0)


def _relu(v: Lanes) -> Lanes:
    return larger(v, 0.0)


def _relu_slope(v: Lanes) -> Lanes:
    return choose(v, 1.0, 0.0)


def _relu6(v: Lanes) -> Lanes:
    return smaller(larger(v, 0.0), 6.0)


def _relu6_slope(v: Lanes) -> Lanes:
    return choose(v, choose(6.0 - v, 1.0, 0.0), 0.0)


def _selu(v: Lanes) -> Lanes:
    return SELU_SCALE * choose(v, v, SELU_ALPHA * expm1(v))


def _selu_slope(v: Lanes) -> Lanes:
    return choose(v, SELU_SCALE, SELU_SCALE * SELU_ALPHA * exp(v))


def _silu(v: Lanes) -> Lanes:
    return larger(v, -FAR) * sigmoid(v)


def _silu_slope(v: Lanes) -> Lanes:
    s = sigmoid(v)  # that of the value: a gate takes both
    return s + smaller(larger(v, -FAR), FAR) * (s * (1.0 - s))


def _gelu(v: Lanes) -> Lanes:
    return larger(v, -FAR) * (0.5 + 0.5 * erf(ROOT_HALF * v))


def _gelu_slope(v: Lanes) -> Lanes:
    v = smaller(larger(v, -FAR), FAR)
    return 0.5 + 0.5 * erf(ROOT_HALF * v) + v * (ROOT_OF_PI * exp(-0.5 * v * v))


def _gelu_tanh(v: Lanes) -> Lanes:
    return larger(v, -FAR) * sigmoid(v * (TANH_SLOPE + TANH_CUBE * v * v))


def _gelu_tanh_slope(v: Lanes) -> Lanes:
    v = smaller(larger(v, -FAR), FAR)
    u = v * (TANH_SLOPE + TANH_CUBE * v * v)
    e = exp(-magnitude(u))
    r = 1.0 / (1.0 + e)
    return choose(v, r, e * r) + v * (TANH_SLOPE + 3.0 * TANH_CUBE * v * v) * (e * r * r)


def _sigmoid(v: Lanes) -> Lanes:
    return sigmoid(v)


def _sigmoid_slope(v: Lanes) -> Lanes:
    e = exp(-magnitude(v))
    r = 1.0 / (1.0 + e)
    return e * r * r


def _tanh(v: Lanes) -> Lanes:
    return tanh(v)


def _tanh_slope(v: Lanes) -> Lanes:
    e = exp(-2.0 * magnitude(v))
    r = 1.0 / (1.0 + e)
    return 4.0 * e * r * r


def _mish(v: Lanes) -> Lanes:
    e = exp(smaller(v, 25.0))  # tanh(log1p(e)) = n / (n + 2), which is 1 from there
    n = e * (e + 2.0)
    return larger(v, -FAR) * (n / (n + 2.0))


def _mish_slope(v: Lanes) -> Lanes:
    v = smaller(larger(v, -FAR), 25.0)
    e = exp(v)
    n = e * (e + 2.0)
    r = 1.0 / (n + 2.0)
    return n * r + 4.0 * v * ((e * r) * ((e + 1.0) * r))


def _hardswish(v: Lanes) -> Lanes:
    return larger(v, -3.0) * (smaller(larger(v + 3.0, 0.0), 6.0) / 6.0)


def _hardswish_slope(v: Lanes) -> Lanes:
    return choose(v + 3.0, choose(3.0 - v, v / 3.0 + 0.5, 1.0), 0.0)


def _hardsigmoid(v: Lanes) -> Lanes:
    return smaller(larger(v + 3.0, 0.0), 6.0) / 6.0


def _hardsigmoid_slope(v: Lanes) -> Lanes:
    return choose(v + 3.0, choose(3.0 - v, 1.0 / 6.0, 0.0), 0.0)


# -- those with parameters: two functions that close over them


def _leaky_relu(slope: float) -> tuple[Function, Function]:
    def value(v: Lanes) -> Lanes:
        return choose(v, v, slope * v)

    def derivative(v: Lanes) -> Lanes:
        return choose(v, 1.0, slope)

    return value, derivative


def _elu(alpha: float) -> tuple[Function, Function]:
    def value(v: Lanes) -> Lanes:
        return choose(v, v, alpha * expm1(v))

    def derivative(v: Lanes) -> Lanes:
        return choose(v, 1.0, alpha * exp(v))

    return value, derivative


def _softplus(beta: float) -> tuple[Function, Function]:
    def value(v: Lanes) -> Lanes:
        return (larger(beta * v, 0.0) + log1p(exp(-magnitude(beta * v)))) / beta

    def derivative(v: Lanes) -> Lanes:
        return sigmoid(beta * v)

    return value, derivative


def _clip(low: float, high: float) -> tuple[Function, Function]:
    def value(v: Lanes) -> Lanes:
        return smaller(larger(v, low), high)

    def derivative(v: Lanes) -> Lanes:
        return choose(low - v, 0.0, choose(v - high, 0.0, 1.0))

    return value, derivative


def _threshold(v: Lanes, tau: Lanes) -> Lanes:
    return larger(v, tau)


def _threshold_slopes(v: Lanes, tau: Lanes) -> tuple[Lanes, Lanes]:
    passed = choose(v - tau, 1.0, 0.0)
    return passed, 1.0 - passed


class _Family(NamedTuple):
    """What makes the functions of an activation, what it takes and its defaults; formula and source; its learned
    parameter."""

    make: Callable[..., tuple[Function, Function]]
    defaults: dict[str, float]
    formula: str
    source: str
    parameter: str = ""


def _one(value: Function, derivative: Function, formula: str, source: str) -> _Family:
    return _Family(lambda: (value, derivative), {}, formula, source)


_TABLE = {
    "clip": _Family(_clip, {"low": -1.0, "high": 1.0}, "min(max(x, low), high)", "torch.clamp; ONNX Clip"),
    "elu": _Family(
        _elu,
        {"alpha": 1.0},
        "x if x > 0 else alpha * (exp(x) - 1)",
        "Clevert, Unterthiner and Hochreiter, 2015, arXiv:1511.07289",
    ),
    "gelu": _one(_gelu, _gelu_slope, "x * (1 + erf(x / sqrt(2))) / 2", "Hendrycks and Gimpel, 2016, arXiv:1606.08415"),
    "gelu_tanh": _one(
        _gelu_tanh,
        _gelu_tanh_slope,
        "x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))) / 2",
        "Hendrycks and Gimpel, 2016, arXiv:1606.08415",
    ),
    "hardsigmoid": _one(
        _hardsigmoid,
        _hardsigmoid_slope,
        "min(max(x + 3, 0), 6) / 6",
        "torch.nn.Hardsigmoid; Howard et al., 2019, arXiv:1905.02244",
    ),
    "hardswish": _one(
        _hardswish, _hardswish_slope, "x * min(max(x + 3, 0), 6) / 6", "Howard et al., 2019, arXiv:1905.02244"
    ),
    "identity": _one(_identity, _identity_slope, "x", "torch.nn.Identity"),
    "leaky_relu": _Family(
        _leaky_relu,
        {"slope": 0.01},
        "x if x > 0 else slope * x",
        "Maas, Hannun and Ng, 2013, https://ai.stanford.edu/~amaas/papers/relu_hybrid_icml2013_final.pdf",
    ),
    "mish": _one(_mish, _mish_slope, "x * tanh(log(1 + exp(x)))", "Misra, 2019, arXiv:1908.08681"),
    "relu": _one(_relu, _relu_slope, "max(x, 0)", "Nair and Hinton, 2010, ICML"),
    "relu6": _one(_relu6, _relu6_slope, "min(max(x, 0), 6)", "Howard et al., 2017, arXiv:1704.04861"),
    "selu": _one(
        _selu,
        _selu_slope,
        "1.0507 * (x if x > 0 else 1.6733 * (exp(x) - 1))",
        "Klambauer et al., 2017, arXiv:1706.02515",
    ),
    "sigmoid": _one(_sigmoid, _sigmoid_slope, "1 / (1 + exp(-x))", "torch.nn.Sigmoid"),
    "silu": _one(
        _silu,
        _silu_slope,
        "x / (1 + exp(-x))",
        "Elfwing, Uchibe and Doya, 2017, arXiv:1702.03118; swish: Ramachandran et al., 2017, arXiv:1710.05941",
    ),
    "softplus": _Family(
        _softplus,
        {"beta": 1.0},
        "log(1 + exp(beta * x)) / beta",
        "Dugas et al., 2000, NIPS; torch.nn.Softplus",
    ),
    "tanh": _one(_tanh, _tanh_slope, "tanh(x)", "torch.nn.Tanh"),
    "threshold": _Family(
        lambda: (_threshold, _threshold_slopes),
        {},
        "max(x, tau), with a learned tau for each channel, 0 at first",
        "Singh and Krishnan, 2019, arXiv:1911.09737 (TLU)",
        "tau",
    ),
}


class _Named(Activation):
    """One of the table: it is pickled by its name."""

    def __reduce__(self) -> tuple:
        return activation, (self.name,)


@lru_cache(maxsize=256)
def _member(name: str, parameters: tuple[float, ...]) -> Activation:
    """The same object for the same parameters, so that what is known of one is found for the other."""
    family = _TABLE[name]
    shown = f"({', '.join(map(repr, parameters))})" if parameters != tuple(family.defaults.values()) else ""
    return _Named(name + shown, *family.make(*parameters), family.parameter)


def activation(given: str | Activation | None, owner: str = "activation") -> Activation | None:
    """That of a name, such as "relu" or "leaky_relu(0.2)", or what is one; None for the identity.

    Args:
        owner: whose it is, for messages.

    Raises:
        ValueError: there is none of this name, or not with these parameters; or what it learns is no level.
        TypeError: this is neither a name nor an activation.

    >>> activation("leaky_relu(0.2)").derivative(-3.0)
    0.2
    """
    if isinstance(given, Activation) or given is None:
        if type(given) is Activation and given.parameter:
            check_level(given, owner)
        return given
    if not isinstance(given, str):
        raise TypeError(f"{owner}: expected a name of list_activations(), an Activation or None, got {given!r}")
    name, parameters = _parsed(given, owner)
    return None if name == "identity" else _member(name, parameters)


def _parsed(given: str, owner: str) -> tuple[str, tuple[float, ...]]:
    """Name and parameters."""
    name, bracket, rest = given.partition("(")
    if name not in _TABLE:
        near = difflib.get_close_matches(name.lower(), _TABLE, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{owner}: expected an activation of {', '.join(sorted(_TABLE))}, got {given!r}{hint}")
    defaults = _TABLE[name].defaults
    if not bracket:
        return name, tuple(defaults.values())
    try:
        parameters = tuple(float(number) for number in rest.removesuffix(")").split(",") if rest.endswith(")"))
    except ValueError:
        parameters = ()
    if not parameters or len(parameters) != len(defaults) or not all(map(math.isfinite, parameters)):
        shown = f"{name}({', '.join(map(str, defaults.values()))})" if defaults else name
        raise ValueError(
            f"{owner}: expected {name}({', '.join(defaults)}) with finite numbers, such as {shown!r}, got {given!r}"
        )
    return name, parameters


class Listed(str):
    """The name of an activation, with its formula and source; parameters follow it, as in "leaky_relu(0.01)"."""

    formula: str
    source: str

    def __new__(cls, name: str, family: _Family) -> Self:
        defaults = ", ".join(f"{parameter}={value:g}" for parameter, value in family.defaults.items())
        listed = super().__new__(cls, name)
        listed.formula = family.formula + (f", with {defaults}" if defaults else "")
        listed.source = family.source
        return listed

    def __reduce__(self) -> tuple:
        return str, (str(self),)


def list_activations() -> list[Listed]:
    """Names that `activation=` takes; each has attributes `formula` and `source`.

    >>> {name: name.formula for name in list_activations()}["leaky_relu"]
    'x if x > 0 else slope * x, with slope=0.01'
    """
    return [Listed(name, family) for name, family in sorted(_TABLE.items())]
