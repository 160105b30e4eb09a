"""Whitening in tiles: parts of x that stay in the processor's cache as float64, which NumPy's BLAS multiplies.

Every product has one shape and is small enough for BLAS to use one thread; tiles are what threads share, and their sums
are merged in order. So the bits are those of one thread. What is not finite, or has no square in float64, is left to
the norm's definition (`Beyond`).

NumPy converts a tile by assignment in a fifth of the time that it needs for float32 and float64 in one step. What is
added to a product is multiplied by a row of ones below the tile, which costs nothing.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import prod
from typing import Any

import numpy as np

from normzoo.backends.contract import Array
from normzoo.passes.cells import Beyond
from normzoo.passes.numpy_threads import on_threads, workers

VALUES = 1 << 16  # of a tile: 512 KB
ON_ONE_THREAD = 1 << 18  # multiplications: OpenBLAS wakes threads for more
MOST_VARIABLES = 128  # with more, blocks would be narrower than a register tile of BLAS
FEW = 1 << 18  # values for which no threads are started
NEAR = 1e200  # traces between this and its inverse have products in float64

Tile = tuple[slice, slice, slice, slice]  # of an array of four axes
Factors = Callable[[Tile], Array]  # what the sets of a tile are multiplied by


class Blocks:
    """Memory for `parts` matrices (sets, d, width), one below the other, and a row of ones; as blocks of columns, with
    zeros behind the matrices."""

    def __init__(self, sets: int, d: int, parts: int, width: int) -> None:
        rows = parts * d + 1
        most = max(8, ON_ONE_THREAD // (d * rows) // 8 * 8)
        count = -(-width // most)
        columns = -(-width // (8 * count)) * 8
        self.d = d
        # rows are no power of two apart: those would share the places of a cache
        self._flat = np.zeros((sets, rows, count * columns + 8))[..., :-8]
        self._product = np.zeros((sets, d, count * columns + 8))[..., :-8]
        self._flat[:, -1] = 1
        self._blocks, self._products = (
            a.reshape(*a.shape[:2], count, columns).swapaxes(1, 2) for a in (self._flat, self._product)
        )
        self._grams = np.empty((sets, count, d, d))

    def part(self, i: int, sets: int, width: int) -> Array:
        """A matrix of each of the first sets: (sets, d, width). What is behind it is zero."""
        found = self._flat[:sets, i * self.d : (i + 1) * self.d]
        if width < found.shape[2]:
            found[..., width:] = 0
        return found[..., :width]

    def gram(self, i: int, j: int, sets: int) -> Array:
        """One part times another, transposed: (sets, d, d)."""
        left, right = (self._blocks[:sets, :, k * self.d : (k + 1) * self.d] for k in (i, j))
        return np.matmul(left, right.swapaxes(2, 3), out=self._grams[:sets]).sum(axis=1)

    def times(self, matrix: Array, width: int) -> Array:
        """matrix (sets, d, parts * d + 1) times all parts and the ones: (sets, d, width), until it is called again."""
        sets = len(matrix)
        np.matmul(matrix[:, None], self._blocks[:sets], out=self._products[:sets])
        return self._product[:sets, :, :width]


def tiles_of(shape: tuple[int, ...], axis: int) -> list[Tile]:
    """All of an array of four axes in tiles of about `VALUES` values. The variables, on `axis`, are never split, nor
    are the sets before them where there is one axis of them."""
    whole = 2 if axis == 1 else 0  # axes from the front that every tile has all of
    left = VALUES // (prod(shape[:2]) if axis == 1 else shape[axis])
    steps = list(shape)
    for i in reversed([i for i in range(whole, 4) if i != axis]):
        most = max(1, min(shape[i], left))
        steps[i] = -(-shape[i] // -(-shape[i] // most))  # of about one size
        left //= shape[i]
    ends = [range(0, size, step) for size, step in zip(shape, steps, strict=True)]
    return [
        tuple(slice(i, min(i + s, n)) for i, s, n in zip((a, b, c, d), steps, shape, strict=True))
        for a in ends[0] for b in ends[1] for c in ends[2] for d in ends[3]
    ]  # fmt: skip


def shared(tiles: Sequence[Tile], values: int, work: Callable[[Iterable[int]], None]) -> None:
    """work(numbers of tiles), on threads if there are many values; each has memory of its own."""
    left = deque(range(len(tiles)))

    def some(_: int) -> None:
        work(_taken(left))

    on_threads(some, range(1 if values < FEW else workers(len(tiles))))


def _taken(left: deque[int]) -> Iterator[int]:
    while True:
        try:
            yield left.popleft()
        except IndexError:
            return


class Tiled:
    """x in tiles, and the mean of its sets.

    Args:
        v: x as an array of four axes: sets, variables and values.
        axis: of the variables; sets are in front of it.
        high: about the mean, (first axis, variables); by default it is found of x.
        low: what it lacks.
    """

    def __init__(self, v: Array, axis: int, high: Array | None = None, low: Array | None = None) -> None:
        self.v, self.axis, self.d = v, axis, v.shape[axis]
        self.tiles = tiles_of(v.shape, axis)
        self.high = self._first_mean() if high is None else high
        self.low = np.zeros_like(self.high) if low is None else low
        self.count = v.size // self.high.size
        self._beside = tuple(-1 if i == 0 else self.d if i == axis else 1 for i in range(4))

    @property
    def mean(self) -> Array:
        """(first axis, variables)"""
        return self.high + self.low

    def _first_mean(self) -> Array:
        """That of each set's first values."""
        size = self.v.shape[3]
        some = self.v[self.tiles[0]] if self.axis == 1 else self.v[:, :1, :, : max(min(size, 64), size // 16)]
        others = tuple(i for i in range(1, 4) if i != self.axis)
        return some.mean(axis=others, dtype=np.float64)  # type: ignore[no-any-return]

    def _memory(self, parts: int) -> Blocks:
        first = self.v[self.tiles[0]].shape  # no tile is larger
        return Blocks(prod(first[: self.axis]), self.d, parts, prod(first[self.axis + 1 :]))

    def _sizes(self, tile: Tile) -> tuple[tuple[int, ...], int, int]:
        """Axes of the sets of a tile, their number, and the number of values of each variable."""
        shape = self.v[tile].shape
        return shape[: self.axis], prod(shape[: self.axis]), prod(shape[self.axis + 1 :])

    def _load(self, memory: Blocks, i: int, of: Array, tile: Tile) -> Array:
        _, sets, width = self._sizes(tile)
        part = of[tile]
        room = memory.part(i, sets, width).reshape(part.shape)  # a view, as axes are split
        room[...] = part
        return room

    def _load_x(self, memory: Blocks, i: int, tile: Tile) -> None:
        """x - high"""
        room = self._load(memory, i, self.v, tile)
        room -= self.high[tile[0]].reshape(self._beside)

    def covariance(self) -> Array:
        """(first axis, d, d); from here on the mean is exact, too.

        It is that of the deviations from `high`. Where this is the mean of a part of the values, whatever is in it, the
        square of what it lacks is at most the variance times the number of such parts, and so are the digits that are
        lost beside it.
        """
        found: list[Any] = [None] * len(self.tiles)
        between = tuple(range(1, self.axis))

        def work(some: Iterable[int]) -> None:
            memory = self._memory(1)
            for i in some:
                sets, number, width = self._sizes(self.tiles[i])
                self._load_x(memory, 0, self.tiles[i])
                squares, sums = memory.gram(0, 0, number), memory.part(0, number, width).sum(axis=2)
                found[i] = [a.reshape(*sets, *a.shape[1:]).sum(axis=between) for a in (squares, sums)]

        shared(self.tiles, self.v.size, work)
        squares, sums = (merged(self.tiles, 0, len(self.high), [f[k] for f in found]) for k in (0, 1))
        rest = self.low = sums / self.count
        return squares / self.count - rest[:, :, None] * rest[:, None, :]

    def write(self, to: Array, factors: Factors, dy: Array | None = None, with_x: bool = True) -> None:
        """to = factors times dy, x and ones, as far as they are there. See `factors_of`."""
        parts = (dy is not None) + with_x

        def work(some: Iterable[int]) -> None:
            memory = self._memory(parts)
            for i in some:
                tile = self.tiles[i]
                _, sets, width = self._sizes(tile)
                if dy is not None:
                    self._load(memory, 0, dy, tile)
                if with_x:
                    self._load_x(memory, parts - 1, tile)
                part = to[tile]
                part[...] = memory.times(factors(tile).reshape(sets, self.d, -1), width).reshape(part.shape)

        shared(self.tiles, self.v.size, work)

    def along(self, dy: Array, take: Callable[[Tile, Array, Array], tuple[Array, ...]]) -> list[Any]:
        """What `take` makes of each tile, in order: take(tile, dy times the deviations, transposed, (sets, d, d), and
        the sums of dy (sets, d)); here the sets are as many axes as they are of x."""
        found: list[Any] = [None] * len(self.tiles)

        def work(some: Iterable[int]) -> None:
            memory = self._memory(2)
            for i in some:
                tile = self.tiles[i]
                sets, number, width = self._sizes(tile)
                self._load(memory, 0, dy, tile)
                self._load_x(memory, 1, tile)
                products = memory.gram(0, 1, number).reshape(*sets, self.d, self.d)
                sums = memory.part(0, number, width).sum(axis=2).reshape(*sets, self.d)
                low = self.low[tile[0]].reshape(-1, *(1 for _ in sets), self.d)
                found[i] = take(tile, products - sums[..., None] * low, sums)

        shared(self.tiles, self.v.size, work)
        return found


def groups_of(x: Array, groups: int) -> Array:
    """Sets of all samples and positions: neighbouring channels of x, (b, c, n), as (groups, d, b, n)."""
    b, c, n = x.shape
    return x.swapaxes(0, 1).reshape(groups, c // groups, b, n)


def samples_of(x: Array, groups: int) -> Array:
    """Sets of a sample, whose variables are groups of neighbouring channels: (b, c / groups, groups, n). A sample and a
    channel of each group are a set here, as their parameters differ; see `Tiled`."""
    b, c, n = x.shape
    return x.reshape(b, groups, c // groups, n).swapaxes(1, 2)


def merged(tiles: Sequence[Tile], axis: int, size: int, found: Sequence[Array]) -> Array:
    """What was found of tiles, added in order where they have the same place on `axis`."""
    total = np.zeros((size, *found[0].shape[1:]))
    for tile, a in zip(tiles, found, strict=True):
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
