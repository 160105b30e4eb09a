"""What passes over lines along time and over images of whole numbers are: see the contract."""

from typing import NamedTuple


class Lines(NamedTuple):
    """x is (b, t, n) or, with time last, (b, n, t)."""

    b: int
    t: int
    n: int
    time_last: bool


class Following(NamedTuple):
    """Each line of values by what it was before, which is forgotten at a rate a:

        center     d = x - mean; mean += a * d; var = (1 - a) * (var + a * d^2)
                   y = (x - mean) / sqrt(var + eps) * weight + bias
        square     var += a * (x^2 - var); y = x / sqrt(var + eps) * weight + bias
        gain       mean += a * (x - mean); y = (x / (eps + mean)^gain + bias)^power - bias^power

    a is `rate` or, but for `gain`, 1 / (t + 1) where that is more, with t counted from 0.
    """

    kind: str  # "center", "square" or "gain"
    rate: float
    eps: float


class Pixels(NamedTuple):
    """Images of whole numbers, and what becomes of them: (b, n, c) where channels are last, else (b, c, n)."""

    b: int
    n: int
    c: int
    last: bool
    last_out: bool
