"""The vocabulary of functions that stand behind a norm: what they mean on arrays of floats. In kernels the same names
compute sixteen lanes at once; see `backends/cpu/vector/`. Beside them there are + - * / and -v, of lanes and numbers.

Results have the dtype of the lanes, which Python's numbers take on.
"""

from collections.abc import Callable

import numpy as np

from normzoo.backends.around import Lanes


def minus(v: Lanes) -> Lanes:
    """-v."""
    return -v


def magnitude(v: Lanes) -> Lanes:
    """|v|, of lanes or a scalar."""
    return np.abs(v)


def root(v: Lanes) -> Lanes:
    """Square root, of lanes or a scalar."""
    return np.sqrt(v)


def larger(a: Lanes, b: Lanes) -> Lanes:
    """The larger of a and b, of lanes, numbers or integers; NaN where a is NaN."""
    return _where(a < b, b, a)


def smaller(a: Lanes, b: Lanes) -> Lanes:
    """The smaller of a and b, of lanes, numbers or integers; NaN where a is NaN. Numba compiles its `min` and `max` as
    functions of their own."""
    return _where(b < a, b, a)


def choose(v: Lanes, a: Lanes, b: Lanes) -> Lanes:
    """a where v > 0, else b; NaN where v is NaN."""
    return _where(v > 0, a, _where(v <= 0, b, v))


def fma(a: Lanes, b: Lanes, c: Lanes) -> Lanes:
    """a*b + c, rounded once (float64 lanes without Numba: twice)."""
    dtype = np.result_type(a, b, c)
    a, b, c = (np.asanyarray(v, dtype).astype(np.float64) for v in (a, b, c))
    return (a * b + c).astype(dtype)


def exp(v: Lanes) -> Lanes:
    """e to the power of v."""
    return _quietly(np.exp, v)


def expm1(v: Lanes) -> Lanes:
    """exp(v) - 1, with all its digits near 0."""
    return _quietly(np.expm1, v)


def log(v: Lanes) -> Lanes:
    """Natural logarithm; -inf at 0, NaN below."""
    return _quietly(np.log, v)


def log1p(v: Lanes) -> Lanes:
    """log(1 + v), with all its digits near 0; -inf at -1, NaN below."""
    return _quietly(np.log1p, v)


def tanh(v: Lanes) -> Lanes:
    """Hyperbolic tangent."""
    return _quietly(np.tanh, v)


def sigmoid(v: Lanes) -> Lanes:
    """1 / (1 + exp(-v))."""
    return _quietly(_sigmoid, v)


def erf(v: Lanes) -> Lanes:
    """2 / sqrt(pi) times the integral of exp(-t^2) from 0 to v."""
    from scipy import special  # noqa: PLC0415  (it takes longer to import than all of this package)

    return _quietly(special.erf, v)


def _where(condition: Lanes, a: Lanes, b: Lanes) -> Lanes:
    """Numbers for numbers: indices, too, are compared where Numba is switched off."""
    if not isinstance(condition, np.ndarray):
        return a if condition else b
    found: Lanes = np.where(condition, a, b)
    return found


def _sigmoid(v: Lanes) -> Lanes:
    return _where(v < 0, np.exp(v), 1) / (1 + np.exp(-np.abs(v)))


def _quietly(function: Callable[[Lanes], Lanes], v: Lanes) -> Lanes:
    """Of v in at least float32, rounded to its dtype, without warnings: kernels give none."""
    v = np.asanyarray(v)
    with np.errstate(all="ignore"):
        return function(v.astype(np.result_type(v, np.float32), copy=False)).astype(v.dtype)[()]
