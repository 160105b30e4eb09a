"""Whitening in tiles: parts of x that stay in the processor's cache while NumPy's BLAS multiplies them.

x is seen as (sets, parts, d, n): d variables, and the values of a set in parts, such as samples or channels, which may
have parameters of their own. Every product has one shape and is small enough for BLAS to use one thread; tiles are what
threads share, and their sums are merged in order. So the bits are those of one thread. What is not finite, or has no
square in float64, is left to the norm's definition (`Beyond`).

Tiles are multiplied as float64 (`Wide`) or, twice as fast, as they are (`Narrow`): float32 whose sums of up to 128
products are added in float64. That has the digits which the numbers ask for where sets have means near 0 and their
variables are not nearly dependent; `whiten` looks at each set.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from normzoo.backends.contract import Array
from normzoo.passes.cells import Beyond
from normzoo.passes.numpy_threads import FEW, on_threads, workers
from normzoo.zoo.whitening.memory import Narrow, Wide

VALUES = 1 << 16  # of a tile: 512 KB as float64
MOST_VARIABLES = 128  # with more, blocks would be narrower than a register tile of BLAS
LEAST_POSITIONS = 8  # with fewer, products are not worth their calls
NEAR = 1e200  # traces between this and its inverse have products in float64
NEAR32 = 1e-20  # traces above have products in float32
SPREAD = 4.0  # sum of |factors| times standard deviations, up to which float32 has the digits

Tile = tuple[slice, slice, slice, slice]  # of (sets, parts, d, n)
Factors = Callable[[Tile], Array]  # (sets, parts or 1, d, columns): what a tile is multiplied by
Back = Callable[[Array], Array]
Some = slice | Array  # which sets


def tiles_of(shape: tuple[int, ...], together: bool) -> list[Tile]:
    """All of (sets, parts, d, n) in tiles of about `VALUES` values, with all variables; `together`: with all sets."""
    sets, parts, d, n = shape
    left = VALUES // (d * sets if together else d)
    steps = [sets, parts, d, n]
    for i in (3, 1) if together else (3, 1, 0):
        most = max(1, min(shape[i], left))
        steps[i] = -(-shape[i] // -(-shape[i] // most))  # of about one size
        left //= shape[i]
    cuts = [[slice(i, min(i + step, n)) for i in range(0, n, step)] for n, step in zip(shape, steps, strict=True)]
    return [(a, b, c, e) for a, b, c, e in product(*cuts)]


class Tiled:
    """x in tiles, and the mean of its sets.

    Args:
        v: x as (sets, parts, d, n).
        narrow: see above.
        together: tiles have all sets, as where these are neighbours in memory.
        high: about the mean, (sets, d); by default it is found of x. Not for `narrow`, where it is 0.
        low: what it lacks.
    """

    def __init__(
        self, v: Array, narrow: bool, together: bool, high: Array | None = None, low: Array | None = None
    ) -> None:
        self.v, self.narrow = v, narrow
        self.tiles = tiles_of(v.shape, together)
        self.high = self._first_mean() if high is None else high
        self.low = np.zeros_like(self.high) if low is None else low
        self.count = v.size // self.high.size

    @property
    def mean(self) -> Array:
        """(sets, d)"""
        return self.high + self.low

    def _first_mean(self) -> Array:
        """That of some values of each set."""
        if self.narrow:
            return np.zeros((len(self.v), self.v.shape[2]))
        found: Array = _first_values(self.v).mean(axis=3, dtype=np.float64).mean(axis=1)
        return found

    def _shared(self, work: Callable[[Wide | Narrow, Tile], Any], count: int) -> list[Any]:
        """work(memory, tile) of all tiles, in order, on threads if there are many values; each with its own memory."""
        left, found = deque(range(len(self.tiles))), [None] * len(self.tiles)

        def some(_: int) -> None:
            memory = (Narrow if self.narrow else Wide)(self.v[self.tiles[0]].shape, count)  # no tile is larger
            for i in _taken(left):
                found[i] = work(memory, self.tiles[i])

        on_threads(some, range(1 if self.v.size < FEW else workers(len(self.tiles))))
        return found

    def _put_x(self, memory: Wide | Narrow, i: int, tile: Tile) -> None:
        memory.put(i, self.v[tile], self.high[tile[0], None, :, None])

    def covariance(self) -> Array:
        """(sets, d, d); from here on the mean is exact, too.

        It is that of the deviations from `high`. Where this is the mean of a part of the values, whatever is in it, the
        square of what it lacks is at most the variance times the number of such parts, and so are the digits that are
        lost beside it.
        """

        def work(memory: Wide | Narrow, tile: Tile) -> tuple[Array, Array]:
            self._put_x(memory, 0, tile)
            return memory.gram(0, 0).sum(axis=1), memory.sums(0).sum(axis=1)

        squares, sums = (merged(self.tiles, 0, len(self.v), a) for a in zip(*self._shared(work, 1), strict=True))
        rest = self.low = sums / self.count
        return squares / self.count - rest[:, :, None] * rest[:, None, :]

    def write(self, to: Array, factors: Factors, dy: Array | None = None, with_x: bool = True) -> None:
        """to = factors times dy, x and ones, as far as they are there. See `factors_of`."""
        count = (dy is not None) + with_x

        def work(memory: Wide | Narrow, tile: Tile) -> None:
            if dy is not None:
                memory.put(0, dy[tile])
            if with_x:
                self._put_x(memory, count - 1, tile)
            memory.multiply(factors(tile), to[tile])

        self._shared(work, count)

    def along(self, dy: Array, take: Callable[[Tile, Array, Array], tuple[Any, ...]]) -> list[Any]:
        """What `take` makes of each tile, in order: take(tile, dy times the deviations, transposed, (sets, parts, d,
        d), the sums of dy (sets, parts, d))."""

        def work(memory: Wide | Narrow, tile: Tile) -> tuple[Any, ...]:
            memory.put(0, dy[tile])
            self._put_x(memory, 1, tile)
            sums = memory.sums(0)
            return take(tile, memory.gram(0, 1) - sums[..., None] * self.low[tile[0], None, None], sums)

        return self._shared(work, 2)


def _taken(left: deque[int]) -> Iterator[int]:
    while True:
        try:
            yield left.popleft()
        except IndexError:
            return


class Whitened(NamedTuple):
    """How some of the sets are whitened: by matrix (x - mean). `back`: from the matrix's gradient to the
    covariance's; None where these are constants. mean is high + low."""

    some: Some
    narrow: bool
    high: Array
    low: Array
    matrix: Array
    back: Back | None

    def of(self, v: Array) -> Array:
        """An array of these sets, to be read."""
        return _some_of(v, self.some)

    def tiled(self, x: Array, together: bool) -> Tiled:
        """Of x, or where it is wider than it was."""
        return Tiled(self.of(x), self.narrow and x.dtype == np.float32, together, self.high, self.low)

    def write(self, sets: Tiled, to: Array, factors: Factors, dy: Array | None = None, with_x: bool = True) -> None:
        """`Tiled.write` to these sets."""
        if isinstance(self.some, slice):
            sets.write(to, factors, dy, with_x)
        else:
            found = np.empty(sets.v.shape, to.dtype)
            sets.write(found, factors, dy, with_x)
            to[self.some] = found


def _some_of(v: Array, some: Some) -> Array:
    return v if isinstance(some, slice) else np.ascontiguousarray(v[some])


def whiten(x: Array, eps: float, together: bool, make: Callable[[Array], tuple[Array, Back]]) -> list[Whitened]:
    """All sets of x, (sets, parts, d, n). make(covariance) -> matrix and `back`."""

    def by(some: Some, narrow: bool) -> tuple[Whitened, Array]:
        sets = Tiled(_some_of(x, some), narrow, together)
        covariance = sets.covariance()
        if not narrow:
            check_near(covariance, eps)
        return Whitened(some, narrow, sets.high, sets.low, *make(covariance)), covariance

    found, near = [], _seems_near(x)
    if near.any():
        first, covariance = by(_chosen(near), True)
        enough = _has_digits(covariance, eps, first)
        if enough.all():
            found.append(first)
        else:
            near[near] = enough
            if near.any():
                found.append(by(_chosen(near), True)[0])
    if not near.all():
        found.append(by(_chosen(~near), False)[0])
    return found


def _chosen(mask: Array) -> Some:
    return slice(None) if mask.all() else np.flatnonzero(mask)


def _first_values(v: Array) -> Array:
    """Some values of each set."""
    _, parts, _, n = v.shape
    return v[:, :: -(-parts // 2), :, : max(min(n, 32), n // 32)]


def _seems_near(x: Array) -> Array:
    """(sets,): may float32 be enough, by some of the values?"""
    if x.dtype != np.float32 or x.strides[3] != x.itemsize:
        return np.zeros(len(x), bool)
    some = _first_values(x).astype(np.float64)
    answer: Array = (some.mean(axis=(1, 3)) ** 2 <= 2 * some.var(axis=(1, 3))).all(axis=1)
    return answer


def _has_digits(covariance: Array, eps: float, found: Whitened) -> Array:
    """(sets,): is float32 enough?"""
    var = np.diagonal(covariance, axis1=1, axis2=2)
    spread = (np.abs(found.matrix) * np.sqrt(var)[:, None, :]).sum(axis=2).max(axis=1)
    near = (found.low**2 <= var).all(axis=1)
    answer: Array = near & (spread <= SPREAD) & (var.sum(axis=1) + eps > NEAR32)
    return answer


def groups_of(x: Array, groups: int) -> Array:
    """Neighbouring channels of (b, c, n) as sets, (groups, samples, channels of a group, n); where n is 1, samples
    are n."""
    b, c, n = x.shape
    if n == 1:
        return x.reshape(b, groups, c // groups).transpose(1, 2, 0)[:, None]
    return x.reshape(b, groups, c // groups, n).swapaxes(0, 1)


def samples_of(x: Array, groups: int) -> Array:
    """Samples of (b, c, n) as sets whose variables are groups of neighbouring channels: (b, c / groups, groups, n)."""
    b, c, n = x.shape
    return x.reshape(b, groups, c // groups, n).swapaxes(1, 2)


def merged(tiles: Sequence[Tile], axis: int, size: int, found: Iterable[Array]) -> Array:
    """What was found of tiles, added in order where they have the same place on `axis`."""
    total: Any = None
    for tile, a in zip(tiles, found, strict=True):
        if total is None:
            total = np.zeros((size, *a.shape[1:]))
        total[tile[axis]] += a
    return total


def factors_of(matrix: Array, low: Array, added: Array) -> Array:
    """Factors of x - high and ones, which give matrix (x - mean) + added."""
    rest = added - (matrix * low[..., None, :]).sum(axis=-1)
    return np.concatenate([matrix, rest[..., None]], axis=-1)


def check_near(covariance: Array, eps: float) -> None:
    """Leave to the definition what is not finite or has no products in float64."""
    trace = np.trace(covariance, axis1=-2, axis2=-1) + eps
    if not ((trace > 1 / NEAR) & (trace < NEAR)).all():
        raise Beyond


def check_finite(*found: Any) -> None:
    """Leave to the definition what is not finite."""
    if not all(np.isfinite(a).all() for a in found):
        raise Beyond
