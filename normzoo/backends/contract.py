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
               dweight = sum(dy * xhat)     dbias = sum(dy)          over the axes where the parameters have size 1

where q is xhat (power 2), sign(x - mean) - [center] mean(sign(x - mean)) (power 1) or 0 (power 0, and in sets where
`clamp` makes rstd = 1/eps). Power 0 means rstd = 1 in the forward pass; without `center` it makes the statistics
constants in the backward pass, as in BatchNorm's evaluation mode. Its spread is 0.

A parameter view is (pb, pm, pc, pn): pm, pc, pn are 1 or full, pb divides b and repeats along it: weight[b % pb].
`weight` and `bias` have the same view; an absent one is replaced by an array of ones or zeros.

An `Around` says what is computed before and behind the norm, see `around.py`; `beside` has the arrays for it:

    before     s = x + scale * residual     or, with `gate_first`, s = x * act(other); as stored, in place of x above
    behind     v = xhat * weight + bias     y = act(v), act(v + other) ("add") or v * act(other) ("gate")
    backward   d = dy * act'(v), dy * act'(v + other) or dy * act(other), in place of dy above
               dother = d ("add") or dy * v * act'(other) ("gate")
               dx = dx + ds
    and with `gate_first`, of u = dx + ds:    dx = u * act(other)    dother = u * x * act'(other)

d may be rounded to `store`. The forward pass ignores `ds`, and writes s if there is a residual. In the backward pass
with a residual, x is that s, and the residual is not read: its gradient is scale * dx. With `gate_first` x is x itself,
and s is computed again. v is always computed again from x and `stats`.

The methods of a backend are factories: they do once what depends only on shapes and dtypes, and return a callable that
runs every call with these shapes and dtypes. `dims` is (b, m, c, n) and `parameter_dims` is (pb, pm, pc, pn), all above
0. `dtype` is the computing type, float32 or float64, and the dtype of weight, bias, dweight and dbias. `store` is the
dtype of x, y, dy and dx: `dtype` itself or, if that is float32, also float16 or bfloat16.

Every array is C-contiguous, aligned, in the machine's byte order, and has as many values as the dims say, in their
order. It may have any rank, as a backend only uses the order of the values; so callers need not reshape. Arrays that
are read may be read-only. y may be x, s may be x or the residual, and dx may be dy or x; y and s differ, and no other
written array overlaps another. Results depend on the values and the shape, not on the threads.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from normzoo.backends.around import ALONE, Around
from normzoo.backends.forms import Cumulation, Response, Window
from normzoo.backends.of_cells import Array, OfCells, Pass, Volume, lacking


class Moments(NamedTuple):
    """Which statistics a norm uses."""

    center: bool = True
    power: int = 2  # 2, 1 or 0
    total: bool = False  # sums instead of means
    clamp: bool = False  # max(., eps) instead of . + eps


BEYOND = 2.0**-1000  # see `Backend`
CONSTANT = Moments(center=False, power=0)  # statistics that do not depend on x


Dims = tuple[int, int, int, int]
Kind = tuple[tuple[int, ...], np.dtype, int]  # shape, dtype and flags.num of an array
# The last argument of each, `beside`, may be left out if nothing is computed around the norm.
Forward = Callable[..., Array]  # (x, weight, bias, eps, y, beside) -> stats; writes y, and s of `Beside`
Apply = Callable[..., None]  # (x, stats, weight, bias, y, beside)
Backward = Callable[..., None]  # (dy, x, stats, weight, eps, dx, dweight, dbias, beside); writes all d's but dy
Shortcut = Callable[..., Array | None]
Sampler = Callable[[Array, Array | None], bytes]
State = tuple[Array, Array, Array, Array]  # count () int64, above 0, mean, m2 and unit (channels,) float64: see `Stats`


class Memory(Protocol):
    """Where a backend's arrays come from."""

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> Array: ...

    def full(self, shape: tuple[int, ...], dtype: np.dtype, value: float) -> Array: ...

    def allocator(self, shape: tuple[int, ...], dtype: np.dtype) -> Callable[[tuple[int, ...], np.dtype], Array]:
        """The fastest function that makes an array of this size."""
        ...


class Backend(OfCells, Protocol):
    """Base class of backends. `stats` is (3, b, c) float64: mean, spread, rstd. An rstd beyond float64, as of
    subnormal values without eps, is stored as -rstd * BEYOND."""

    memory: Memory
    updates_whole: bool = False  # nothing can interrupt `update`
    gives_some: bool = False  # `backward` takes None for dweight or dbias where nobody wants it

    @abstractmethod
    def forward(
        self, dims: Dims, parameter_dims: Dims, moments: Moments, dtype: np.dtype, store: np.dtype,
        around: Around = ALONE,
    ) -> Forward:  # fmt: skip
        """run(x, weight, bias, eps, y, beside=NOTHING) -> stats: the statistics of x, or of s; y is written."""

    @abstractmethod
    def apply(
        self, dims: Dims, parameter_dims: Dims, dtype: np.dtype, store: np.dtype, around: Around = ALONE
    ) -> Apply:
        """run(x, stats, weight, bias, y, beside=NOTHING): y from given statistics; their spread is not read."""

    @abstractmethod
    def backward(
        self, dims: Dims, parameter_dims: Dims, moments: Moments, dtype: np.dtype, store: np.dtype,
        around: Around = ALONE,
    ) -> Backward:  # fmt: skip
        """run(dy, x, stats, weight, eps, dx, dweight, dbias, beside=NOTHING_BACK): the three gradients, and the
        gradient of `other`. Their old values are not read."""

    @abstractmethod
    def update(
        self,
        mean: Array,  # (channels,) float32 or float64, written
        var: Array,  # the same
        stats: Array,  # (3, b, c), b * c a multiple of channels; averaged over the rest
        count: int,  # values in a set
        momentum: float | None,  # None: 1 / (batches + 1)
        batches: Array | None = None,  # () int64: goes up by one
    ) -> None:
        """running = (1 - momentum) * running + momentum * new, in float64; the new variance is unbiased."""

    def observe(
        self,
        x: Array,  # (..., channels), C-contiguous and aligned, or without values
        state: State,
        batch: Array,  # (2, channels) float64, written: mean and m2 of x
        stats: Array,  # (3, channels), written, for `apply`: of state, x and `prior` values of mean 0 and variance 1
        prior: float,
        eps: float,
    ) -> bool:
        """Statistics of x and of what was seen, where `updates_whole`. Returns whether nothing was lost: False where
        squares are near the ends of range."""
        raise lacking(self)

    def take_in(self, state: State, batch: Array, n: int) -> bool:
        """Merge what `observe` found of n rows into the state, where `updates_whole`; False: nothing has changed, as
        something would be lost."""
        raise lacking(self)

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
        """target[i] = source[place[i]], or 0 where place[i] is -1; where it is -2 the row is not changed. Rows are
        bytes: uint8 (rows, width), int64 (kept,), uint8 (kept, width)."""

    # Windows. All arrays have the same shape and dtype, and the result overlaps none. A backend need not have the
    # methods from here on: `devices` of a norm says where it runs.

    def response(self, dims: Volume, form: Response, store: np.dtype) -> Pass:
        """run(x, y) over (b, c, n), for values whose squares can be added without overflow."""
        raise lacking(self)

    def response_back(self, dims: Volume, form: Response, store: np.dtype) -> Pass:
        """run(dy, x, dx), with g = dy / base^beta and base as y has it:
        dx[c] = g[c] - 2 * beta * scale * x[c] * sum(g[c'] * x[c'] / base[c']), c' from c - after to c + before."""
        raise lacking(self)

    # Windows of positions: statistics over the channels at each position of (b, c, n), and what is made of them. In
    # between, windows are applied to arrays without channels.

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
        """run(v) -> u, (b, c, n) float64: the weighted mean of v over a window along c, of what lies inside; with
        `back`, the gradient of v from that of u."""
        raise lacking(self)

    # Scans. `state` is (4, b) float64, read and written: a unit, a power of two that x is multiplied by; a
    # shift, the mean of the first step; the sum of the steps' means around it; the squares of all deviations, added.

    def cumulate(self, batch: int, form: Cumulation, dtype: np.dtype, store: np.dtype) -> Callable[..., Array]:
        """run(x, weight, bias, eps, state, before, y) -> stats (2, b, t): mean, around the shift, and rstd of each
        step, both in the unit, of its values, those of the steps before it and those of `before` steps that `state`
        knows; y = (x - mean) * rstd * weight + bias. weight and bias are (c,)."""
        raise lacking(self)

    def cumulate_back(self, batch: int, form: Cumulation, dtype: np.dtype, store: np.dtype) -> Pass:
        """run(dy, x, weight, stats, state, dx, dweight, dbias), of a pass that began with the first step."""
        raise lacking(self)

    # Optional, only for speed. If one of these raises, there is one warning, and passes work without it.

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
        `forward` and `update` for few values, in less time than Python needs to check the arrays. It checks them
        itself: if an argument is not what the pass was made for, it returns None and has changed nothing.

        It writes kept (statistics, or statistics and samples, see `samples.kept_shape`), running_mean, running_var and
        batches, each of which may be None. eps and momentum must be Python floats; if statistics are updated, not 0.

        With something around the norm, those of `Beside` follow as arguments; s is written without being checked."""
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
        """call(dy, x, kept, weight, eps, dweight, dbias) -> dx, an array like dy, or None. It checks only dy and
        the samples in kept; the others are as `backward` takes them, but weight may be None. With something around the
        norm, those of `BesideBack` follow as arguments; of these it checks ds."""
        return None

    def sampler(self, sizes: tuple[int, ...], store: np.dtype, weight: Kind | None) -> Sampler | None:
        """A faster `samples.samples_of`, for an x of these sizes and such a weight."""
        return None

    def compile_shortcuts(self, backward: bool, around: bool = False) -> None:
        """Compile ahead what all shortcuts share, or all shortcuts with something around a norm."""
        return None
