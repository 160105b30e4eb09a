"""The vocabulary of functions that stand behind a norm: what they mean on arrays. In kernels the same names compute
sixteen lanes at once; see `backends/cpu/vector/`."""

import numpy as np

from normzoo.backends.around import Lanes


def larger(a: Lanes, b: Lanes) -> Lanes:
    """The larger of a and b, of lanes, numbers or integers; NaN where a is NaN."""
    return np.where(a < b, b, a)[()]


def choose(v: Lanes, a: Lanes, b: Lanes) -> Lanes:
    """a where v > 0, else b; NaN where v is NaN."""
    return np.where(v > 0, a, np.where(v <= 0, b, v))[()]
