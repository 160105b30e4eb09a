"""Base classes of norms along time: each line of values by what is near it, or by what it was before."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from math import prod
from typing import Any, NamedTuple

import numpy as np

from normzoo.backends.contract import Array, Backend
from normzoo.backends.forms import Following, Lines
from normzoo.backends.subnormals import in_any_mode
from normzoo.norm import Norm
from normzoo.passes.arrays import base_array, compute_dtype, kernel_array, storage_dtype
from normzoo.passes.numbers import check_size
from normzoo.passes.overlaps import check_out
from normzoo.passes.saved import Saved
from normzoo.passes.whole import Back, now, order_of, whole
from normzoo.statistics.tracked import check_channels

BackOfLines = Callable[[Backend, Array, Array, Array], Array]


class Past(NamedTuple):
    """What `step` goes on with."""

    steps: int
    state: Array  # (2, N, values of a step) float64: mean and variance of each line, or the level and nothing


class AlongTime(Norm):
    """A norm that says what is made of lines, and which numbers these have. x is (N, C, ..., T) or, with
    channel_axis=-1, (N, T, ..., C)."""

    eps: float
    num_features: int
    channel_axis: int

    @abstractmethod
    def over_lines(self, lines: Lines, given: Array, backend: Backend, v: Array, y: Array) -> BackOfLines:
        """Write y; `given` are the numbers of the lines. Returns (backend, dy, v, dx) -> gradients of these numbers."""

    @abstractmethod
    def numbers(self) -> Mapping[str, Array]:
        """(C,) float64 each, in the order in which a backend takes them; those that are parameters have their names."""

    def _begin(self, num_features: Any, channel_axis: Any) -> None:
        """Check what all of them have."""
        name = type(self).__name__
        self.num_features = check_size(name, "num_features", num_features)
        if channel_axis not in (1, -1):
            raise ValueError(f"{name}({num_features}): expected channel_axis 1 or -1, got {channel_axis!r}")
        self.channel_axis = int(channel_axis)

    def forward(self, x: Array, out: Array | None = None) -> tuple[Array, Saved]:
        x = base_array(self, "x", x)
        check_channels(self, x, self.channel_axis, 3, self.num_features)
        if out is not None:
            check_out(self, out, x.shape, x.dtype, (x,), tuple(self.params.values()))
        straight = tuple(range(x.ndim))
        turned = (0, straight[-1], *straight[2:-1], 1)
        is_turned = order_of(x) == turned
        time_last = (self.channel_axis == 1) != is_turned
        time = x.shape[-1 if self.channel_axis == 1 else 1]
        lines = Lines(len(x), time, prod(x.shape[1:]) // max(1, time), time_last)
        run = partial(self._over, lines, dict(self.numbers()))
        return whole(self, x, out, turned if is_turned else straight, run, self.params)

    def _over(self, lines: Lines, numbers: Mapping[str, Array], backend: Backend, v: Array, y: Array) -> Back:
        channels_first, names, features = lines.time_last, tuple(self.params), self.num_features
        given = self._of_lines(numbers, lines.n, channels_first)
        of_lines = self.over_lines(lines, given, backend, v, y) if v.size else None

        def back(backend: Backend, d: Array, v: Array, dx: Array) -> dict[str, Array]:
            if of_lines is None:
                return {name: np.zeros(features) for name in names}
            found = of_lines(backend, d, v, dx)
            shape = (len(found), features, -1) if channels_first else (len(found), -1, features)
            found = found.reshape(shape).sum(axis=2 if channels_first else 1)
            return {name: g for name, g in zip(numbers, found, strict=True) if name in names}

        return back

    def _of_lines(self, numbers: Mapping[str, Array], lines: int, channels_first: bool) -> Array:
        """(k, lines)."""
        times, given = lines // max(1, self.num_features), np.stack([a.astype(np.float64) for a in numbers.values()])
        return np.repeat(given, times, axis=1) if channels_first else np.tile(given, times)

    def _options(self) -> dict[str, Any]:
        return super()._options() | {"channel_axis": self.channel_axis}


class ByPast(AlongTime):
    """A norm that says what `Following` it is; `start` is what comes before the first step."""

    start = 0.0

    @property
    @abstractmethod
    def following(self) -> Following: ...

    def over_lines(self, lines: Lines, given: Array, backend: Backend, v: Array, y: Array) -> BackOfLines:
        form = self.following
        states = backend.follow(lines, form, compute_dtype(v.dtype), v.dtype)(v, given, self._first(lines), 0, y)

        def back(backend: Backend, d: Array, v: Array, dx: Array) -> Array:
            return backend.follow_back(lines, form, compute_dtype(v.dtype), v.dtype)(d, v, given, states, dx)

        return back

    def _first(self, lines: Lines) -> Array:
        state = np.zeros((2, lines.b, lines.n))
        state[0] = self.start
        return state

    @in_any_mode
    def step(self, x: Array, past: Past | None = None) -> tuple[Array, Past]:
        """y of one time step, and the `past` for the next call.

        Args:
            x: (N, C, ...), or (N, ..., C): one time step, without a time axis.
            past: what the call for the previous step returned; None for the first.

        Raises:
            TypeError: x is not a float array, or past is not a `Past`.
            ValueError: x has another number of channels, or another shape than in the steps before.
        """
        x = base_array(self, "x", x)
        check_channels(self, x, self.channel_axis, 2, self.num_features)
        if past is not None and not isinstance(past, Past):
            raise TypeError(f"{self}: expected past as step returned it, got {type(past).__name__}")
        lines = Lines(len(x), 1, prod(x.shape[1:]), False)
        state = self._first(lines) if past is None else past.state.copy()
        if state.shape != (2, lines.b, lines.n):
            raise ValueError(
                f"{self}: expected x of {state.shape[1]} samples of {state.shape[2]} values, as before, got {x.shape}"
            )
        steps = 0 if past is None else past.steps
        dtype = compute_dtype(x.dtype, *(p.dtype for p in self.params.values()))
        v = kernel_array(x, storage_dtype(x.dtype, dtype))
        y = np.empty(v.shape, v.dtype)
        if v.size:
            given = self._of_lines(self.numbers(), lines.n, self.channel_axis == 1)
            now().follow(lines, self.following, dtype, v.dtype)(v, given, state, steps, y)
        return y.astype(x.dtype, copy=False), Past(steps + 1, state)
