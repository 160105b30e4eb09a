"""What passes are that have no view: over windows, time, cells, tables of data and images. See the contract."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Response(NamedTuple):
    """y[c] = x[c] / (k + scale * sum(x[c']^2))^beta, c' from c - before to c + after; zeros outside."""

    before: int
    after: int
    k: float
    scale: float
    beta: float


class Window(NamedTuple):
    """Weights of the neighbours of a row; `before` of them are in front of it."""

    before: int
    taps: tuple[float, ...]


class Cumulation(NamedTuple):
    """Each time step is normalized by the mean and rstd of all values up to it. x is (b, c, n, t) or (b, t, n, c)."""

    steps: int  # t
    channels: int  # c
    positions: int  # n
    time_last: bool


class Cells(NamedTuple):
    """x is (b, c, n) or, with channels last, (b, n, c); a cell is the n values of one (b, c)."""

    b: int
    c: int
    n: int
    last: bool


class Formula(NamedTuple):
    """A function of every value. It takes lanes of arrays of x's size, then lanes of coefficients, which are numbers of
    each cell. It returns a tuple: lanes to write, then terms to sum. It is made of the functions of `lanes.py`.
    """

    function: Callable[..., tuple[Any, ...]]
    reads: int  # arrays
    writes: int  # of these
    sums: tuple[str, ...] = ()  # for each term: the axes that its sum keeps, "bc", "b", "c" or ""
    wide: bool = False  # computed in float64 for any x


class Twice(NamedTuple):
    """Two formulas of the same values, one after the other while a cache holds them: the second takes numbers that are
    made of the sums of the first.

    A set is a cell or, with channels last, all of one b; sums that `between` takes are those of a set.
    """

    first: Formula  # writes nothing
    between: Callable[..., tuple[Any, ...]]  # (the first `sums` of the sums, the first `numbers` of the coefficients)
    sums: int
    numbers: int
    made: int  # what it returns: further coefficients, of the second
    second: Formula  # has no sums; coefficients are rounded to its type


class Level(NamedTuple):
    """Each cell less a level, by what its values are apart from it:

    level = sum(map * x) or, without maps, the mean; d = x - level; deviation = sqrt(sum(d^2) / divisor)
    y = d / sqrt(deviation^2 + eps) * weight + bias or, with `outside`, d / (deviation + eps) * weight + bias
    """

    mapped: bool
    outside: bool  # eps is added outside of the root
    divisor: float
    eps: float


class Summary(NamedTuple):
    """What is found of every column of a table of data, see `Backend.summarize`."""

    extremes: bool = False  # else moments
    picks: bool = False  # rows are those that `order` names
    weighs: bool = False  # rows have weights
    skips: bool = False  # NaN does not count; it never does for extremes


class Rescaling(NamedTuple):
    """How a table is rescaled, see `Backend.rescale`."""

    chosen: bool = False  # rows have sets
    by_row: bool = False  # numbers are those of a row, not of a column
    clips: bool = False


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


class Sliding(NamedTuple):
    """Each value of a line by mean and var of a window: those of the steps from t - before to t + after that there are;
    y = (x - mean) / sqrt(var + eps) * weight + bias."""

    before: int
    after: int
    eps: float

    @property
    def window(self) -> int:
        return self.before + 1 + self.after


class Pixels(NamedTuple):
    """Images of whole numbers, and what becomes of them: (b, n, c) where channels are last, else (b, c, n)."""

    b: int
    n: int
    c: int
    last: bool
    last_out: bool
