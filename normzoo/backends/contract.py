"""What a backend does: three passes over the view (b, m, c, n). Everything else in the library is bookkeeping.

    x[b, m, c, n]  ->  mean[b, c], rstd[b, c]            b and c are kept; m and n are reduced

With k = m*n (or 1 for totals):

    mean = mean of x over (m, n), or 0 without `center`
    spread = sum |x - mean|^power / k
    rstd = (spread + eps)^(-1/power), or 1 / max(spread^(1/power), eps) with `clamp`; 0 where that divides by 0
    xhat = (x - mean) * rstd

    forward    y = xhat * weight + bias
    backward   g = dy * weight
               dx = rstd * (g - [center] mean(g) - q * sum(g * xhat) / k)
               dweight = sum(dy * xhat)     dbias = sum(dy)          over what the parameters do not span

where q is xhat (power 2), sign(x - mean) - [center] mean(sign(x - mean)) (power 1) or 0 (power 0, and in a set that
`clamp` holds at rstd = 1/eps). Power 0 means rstd = 1 going forward; without `center` it makes the statistics
constants going backward, which is BatchNorm in evaluation mode. Its spread is 0.

A parameter view is (pb, pm, pc, pn): pm, pc, pn are 1 or full, pb divides b and repeats along it: weight[b % pb].
`weight` and `bias` have one and the same view; an absent one is an array of ones or zeros.

What stands before and behind the norm is said by an `Around`, see `around.py`; the arrays it needs are `beside`:

    before     s = x + scale * residual     or, with `gate_first`, s = x * act(other); as stored, in place of x above
    behind     v = xhat * weight + bias     y = act(v), act(v + other) ("add") or v * act(other) ("gate")
    backward   d = dy * act'(v), dy * act'(v + other) or dy * act(other), in place of dy above
               dother = d ("add") or dy * v * act'(other) ("gate")
               dx = dx + ds
    and with `gate_first`, of u = dx + ds:    dx = u * act(other)    dother = u * x * act'(other)

d may be rounded to `store`. Going forward `ds` says nothing, and s is written where a residual is added. Going back, x
is that s, and `residual` says nothing more: its gradient is scale * dx. With a gate first x is x, and s is made again.
v is made again of x and `stats`.

A backend gives factories: what depends on shapes and dtypes alone is settled once, and the callable that comes back
runs for every call that agrees in these. `dims` is (b, m, c, n), `parameter_dims` is (pb, pm, pc, pn), none of them 0.
`dtype` is what is computed in, float32 or float64, and the dtype of weight, bias, dweight and dbias; `store` is the
dtype of x, y, dy and dx: `dtype` itself or, where that is float32, float16 or bfloat16.

Every array is C-contiguous, aligned, in the machine's byte order, and has as many values as the dims say, in their
order. Its rank is anything: a backend sees the values one after the other, so that no caller has to reshape. Arrays
that are read may be read-only. y may be x, s may be x or the residual, and dx may be dy or x; y and s are not the same,
and nothing else that is written overlaps. Every result is a function of the values and the shape: not of the threads.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

from normzoo.backends.around import ALONE, Around
from normzoo.backends.forms import Following, Lines, Pixels

Array = np.ndarray[Any, Any]


class Moments(NamedTuple):
    """Which statistics a norm uses."""

    center: bool = True
    power: int = 2  # 2, 1 or 0
    total: bool = False  # sums instead of means
    clamp: bool = False  # max(., eps) instead of . + eps


BEYOND = 2.0**-1000  # see `Backend`
CONSTANT = Moments(center=False, power=0)  # statistics that do not depend on x


Dims = tuple[int, int, int, int]
Volume = tuple[int, int, int]
Kind = tuple[tuple[int, ...], np.dtype, int]  # shape, dtype and flags.num of an array
# The last argument of each, `beside`, may be left out where nothing stands around the norm.
Forward = Callable[..., Array]  # (x, weight, bias, eps, y, beside) -> stats; y is written, and what is said of `Beside`
Apply = Callable[..., None]  # (x, stats, weight, bias, y, beside)
Backward = Callable[..., None]  # (dy, x, stats, weight, eps, dx, dweight, dbias, beside), the three before it written
Shortcut = Callable[..., Array | None]
Sampler = Callable[[Array, Array | None], bytes]


Pass = Callable[..., None]


class Response(NamedTuple):
    """y[c] = x[c] / (k + scale * sum(x[c']^2))^beta, c' from c - before to c + after; zeros outside."""

    before: int
    after: int
    k: float
    scale: float
    beta: float


class Window(NamedTuple):
    """Weights of the neighbours of a row, `before` of which stand before it."""

    before: int
    taps: tuple[float, ...]


class Cumulation(NamedTuple):
    """Each time step by the mean and rstd of all values up to it. x is (b, c, n, t), or (b, t, n, c)."""

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
    """What is made of each value. The function takes lanes of arrays of x's size, then those of coefficients, numbers
    of each cell; it is of the vocabulary of `lanes.py`, and gives a tuple: lanes that are written, then terms of sums.
    """

    function: Callable[..., tuple[Any, ...]]
    reads: int  # arrays
    writes: int  # of these
    sums: tuple[str, ...] = ()  # of each term: which axes the sum keeps, "bc", "b", "c" or ""
    wide: bool = False  # computed in float64, whatever x is


def lacking(backend: object) -> NotImplementedError:
    return NotImplementedError(f"{type(backend).__name__} computes views alone")


class Memory(Protocol):
    """Where a backend's arrays come from."""

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> Array: ...

    def full(self, shape: tuple[int, ...], dtype: np.dtype, value: float) -> Array: ...

    def allocator(self, shape: tuple[int, ...], dtype: np.dtype) -> Callable[[tuple[int, ...], np.dtype], Array]:
        """What makes an array of this size fastest."""
        ...


class Backend(Protocol):
    """Base class of backends. `stats` is (3, b, c) float64: mean, spread, rstd or, where this is beyond float64, as
    that of subnormal values without eps, -rstd * BEYOND."""

    memory: Memory
    updates_whole: bool = False  # nothing can interrupt `update`

    @abstractmethod
    def forward(
        self, dims: Dims, parameter_dims: Dims, moments: Moments, dtype: np.dtype, store: np.dtype,
        around: Around = ALONE,
    ) -> Forward:  # fmt: skip
        """run(x, weight, bias, eps, y, beside=NOTHING) -> stats: the statistics of x, or of s, and y by them."""

    @abstractmethod
    def apply(
        self, dims: Dims, parameter_dims: Dims, dtype: np.dtype, store: np.dtype, around: Around = ALONE
    ) -> Apply:
        """run(x, stats, weight, bias, y, beside=NOTHING): y by statistics that are given; their spread is not read."""

    @abstractmethod
    def backward(
        self, dims: Dims, parameter_dims: Dims, moments: Moments, dtype: np.dtype, store: np.dtype,
        around: Around = ALONE,
    ) -> Backward:  # fmt: skip
        """run(dy, x, stats, weight, eps, dx, dweight, dbias, beside=NOTHING_BACK): the three gradients, and that of
        `other`. Their old values are not read."""

    @abstractmethod
    def update(
        self,
        mean: Array,  # (channels,) float32 or float64, written
        var: Array,  # the same
        stats: Array,  # (3, b, c), b * c a multiple of channels: these are averaged over all else
        count: int,  # values in a set
        momentum: float | None,  # None: 1 / (batches + 1)
        batches: Array | None = None,  # () int64: goes up by one
    ) -> None:
        """running = (1 - momentum) * running + momentum * new, in float64; the new variance is unbiased."""

    @abstractmethod
    def constants(
        self,
        mean: Array,  # (channels,) float32 or float64
        variance: Array,  # the same
        eps: float,
        stats: Array,  # (3, b, c), b * c = channels; written
    ) -> int:
        """stats = mean, variance, 1 / sqrt(variance + eps), or 0 where that divides by 0: for `apply` and the backward
        pass with CONSTANT. Returns 0 or, on the host, how many channels have a variance below 0."""

    @abstractmethod
    def spread_rows(self, source: Array, place: Array, target: Array) -> None:
        """target[i] = source[place[i]], or 0 where place[i] is -1; where it is -2 the row stays. These are rows of
        bytes: uint8 (rows, width), int64 (kept,), uint8 (kept, width)."""

    # Windows: arrays of one shape and dtype; the result overlaps no other. A backend without them leaves these out; a
    # norm says by `devices` where it runs.

    def response(self, dims: Volume, form: Response, store: np.dtype) -> Pass:
        """run(x, y) over (b, c, n), of values whose squares can be added."""
        raise lacking(self)

    def response_back(self, dims: Volume, form: Response, store: np.dtype) -> Pass:
        """run(dy, x, dx), with g = dy / base^beta and base as y has it:
        dx[c] = g[c] - 2 * beta * scale * x[c] * sum(g[c'] * x[c'] / base[c']), c' from c - after to c + before."""
        raise lacking(self)

    # Windows of positions: what is found of the channels of each position of (b, c, n), and what is done with it. In
    # between there are the windows, of arrays that have no channels.

    def position_moments(self, dims: Volume, store: np.dtype) -> Callable[[Array], Array]:
        """run(x) -> (2, b, n) float64: mean and variance over c."""
        raise lacking(self)

    def position_sums(self, dims: Volume, dtype: np.dtype, store: np.dtype) -> Callable[..., tuple[Array, Array]]:
        """run(dy, x, weight, stats) -> (2, b, n): the means over c of g = dy * weight and of g * xhat; and (2, c):
        dweight and dbias. weight is (c,), stats (3, b, n)."""
        raise lacking(self)

    def position_gradient(self, dims: Volume, dtype: np.dtype, store: np.dtype) -> Pass:
        """run(dy, x, weight, stats, more, dx): dx = g * rstd + more[0] + xhat * more[1]; more is (2, b, n) float64."""
        raise lacking(self)

    def window_means(self, dims: Volume, window: Window, back: bool) -> Callable[[Array], Array]:
        """run(v) -> u, (b, c, n) float64: the mean of v over a window along c, by weights, of what lies inside; with
        `back` of a gradient of u that of v."""
        raise lacking(self)

    # Scans, likewise. `state` is (4, b) float64, read and written: a unit, a power of two that x is multiplied by; a
    # shift, the mean of the first step; the sum of the steps' means around it; the squares of all deviations, added.

    def cumulate(self, batch: int, form: Cumulation, dtype: np.dtype, store: np.dtype) -> Callable[..., Array]:
        """run(x, weight, bias, eps, state, before, y) -> stats (2, b, t): mean, around the shift, and rstd of each
        step, both in the unit, of its values, those of the steps before it and those of `before` steps that `state`
        knows; y = (x - mean) * rstd * weight + bias. weight and bias are (c,)."""
        raise lacking(self)

    def cumulate_back(self, batch: int, form: Cumulation, dtype: np.dtype, store: np.dtype) -> Pass:
        """run(dy, x, weight, stats, state, dx, dweight, dbias), of a pass that began with the first step."""
        raise lacking(self)

    # Cells, likewise.

    def cells(
        self, dims: Cells, formula: Formula, spans: tuple[str, ...], dtype: np.dtype, store: np.dtype
    ) -> Callable[..., list[Array]]:
        """run(arrays, coefficients, results) -> sums, float64 of shape (b or 1, c or 1). Coefficients are float64 of
        such shapes, which `spans` says as `Formula.sums` does; they are rounded to `dtype`. A result may be one of the
        arrays."""
        raise lacking(self)

    def groups(
        self, starts: Array, c: int, formula: Formula, dtype: np.dtype, store: np.dtype
    ) -> Callable[..., list[Array]]:
        """As `cells` with channels last, but that the b have different sizes: rows starts[i] to starts[i + 1] of c
        values are those of the i-th. starts is int64, every size 1 or more, as those of the graphs of a batch are."""
        raise lacking(self)

    # Scans of lines, likewise: x is (b, t, n) or, with time last, (b, n, t), and each of the b * n lines has a state.

    def follow(self, dims: Lines, form: Following, dtype: np.dtype, store: np.dtype) -> Callable[..., Array]:
        """run(x, numbers, state, before, y) -> states: y by `Following`. `numbers` are (2, n) float64, weight and bias,
        or (3, n), gain, bias and power; `state`, (2, b, n) float64, mean and var after `before` steps, is read and
        written; states are what the way back needs."""
        raise lacking(self)

    def follow_back(self, dims: Lines, form: Following, dtype: np.dtype, store: np.dtype) -> Callable[..., Array]:
        """run(dy, x, numbers, states, dx) -> gradients of `numbers`, of a pass that began with the first step."""
        raise lacking(self)

    # Images of whole numbers of 8 or 16 bits, `store`; all numbers beside them are float64.

    def pixel_sums(self, dims: Pixels, store: np.dtype, extremes: bool) -> Callable[[Array, float, float], Array]:
        """run(x, low, high) -> (2, b, c) float64: sum and sum of squares of min(max(x, low), high), which are whole, or
        least and largest."""
        raise lacking(self)

    def pixels(self, dims: Pixels, store: np.dtype, result: np.dtype) -> Pass:
        """run(x, mean, slope, bounds, y): y = (min(max(x, low), high) - mean) * slope, rounded to float32, between
        -limit and limit. mean and slope are (b or 1, c); bounds are low, high and limit. y is float32, or is rounded
        again to float16 or bfloat16."""
        raise lacking(self)

    # What passes can do without: a backend that has none leaves these out; where one raises, that is said once.

    def forward_shortcut(
        self,
        dims: Dims,
        parameter_dims: Dims,
        moments: Moments,
        dtype: np.dtype,
        store: np.dtype,
        kinds: tuple[Kind | None, ...],  # of x, weight, bias, running mean and variance; None where there is none
        around: Around = ALONE,
    ) -> Shortcut | None:
        """call(x, weight, bias, eps, kept, running_mean, running_var, batches, momentum) -> y, an array like x:
        `forward` and `update` of few values, in less time than it takes to look at the arrays. It does that too: where
        an argument is not what the pass was made for, it returns None and has done nothing.

        kept is written, statistics or these and samples (see `samples.kept_shape`), or None; so are the last four but
        momentum, or None. eps and momentum must be Python's floats; where statistics are updated, not 0.

        With something around the norm the arguments go on with those of `Beside`; s is written, and not looked at."""
        return None

    def backward_shortcut(
        self,
        dims: Dims,
        parameter_dims: Dims,
        moments: Moments,
        dtype: np.dtype,
        store: np.dtype,
        dy: Kind,
        given: tuple[bool, bool],  # are there a weight and a bias?
        around: Around = ALONE,
    ) -> Shortcut | None:
        """call(dy, x, kept, weight, eps, dweight, dbias) -> dx, an array like dy, or None. Of the arguments, dy and the
        samples in kept are looked at: the others are as `backward` takes them, or weight is None. With something
        around the norm the arguments go on with those of `BesideBack`, of which ds is looked at too."""
        return None

    def sampler(self, sizes: tuple[int, ...], store: np.dtype, weight: Kind | None) -> Sampler | None:
        """As `samples.samples_of`, of an x of these sizes and such a weight, in less time."""
        return None

    def compile_shortcuts(self, backward: bool, around: bool = False) -> None:
        """Compile ahead what all shortcuts share, or all with something around a norm."""
        return None
