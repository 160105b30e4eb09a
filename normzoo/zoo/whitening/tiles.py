"""Whitening in tiles: parts of x that stay in the processor's cache as float64, which NumPy's BLAS multiplies.

Every product has one shape and is small enough for BLAS to use one thread; tiles are what threads share, and their sums
are merged in order. So the bits are those of one thread. What is not finite, or has no square in float64, is left to
the norm's definition (`Beyond`).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from normzoo.backends.contract import Array
from normzoo.passes.cells import Beyond
from normzoo.passes.numpy_threads import FEW, on_threads, workers

VALUES = 1 << 16  # of a tile: 512 KB
ON_ONE_THREAD = 1 << 18  # multiplications: OpenBLAS wakes threads for more
MOST_VARIABLES = 128  # with more, blocks would be narrower than a register tile of BLAS
NEAR = 1e200  # traces between this and its inverse have products in float64


class Tile(NamedTuple):
    """Samples and positions of x as (b, c, n)."""

    samples: slice
    positions: slice

    def of(self, v: Array) -> Array:
        """(samples, c, positions)"""
        return v[self.samples, :, self.positions]


def tiles_of(b: int, c: int, n: int) -> list[Tile]:
    """All of x, in tiles of about `VALUES` values."""
    width = max(1, VALUES // max(c, 1))
    if n > width:
        return [Tile(slice(i, i + 1), slice(j, min(j + width, n))) for i in range(b) for j in range(0, n, width)]
    step = max(1, width // n)
    return [Tile(slice(i, min(i + step, b)), slice(0, n)) for i in range(0, b, step)]


class Blocks:
    """Memory for `parts` matrices (sets, d, width), one below the other, as blocks of columns; zeros behind them."""

    def __init__(self, sets: int, d: int, parts: int, width: int) -> None:
        columns = max(8, min(ON_ONE_THREAD // (d * d * parts) // 8 * 8, -(-width // 8) * 8))
        whole = -(-width // columns) * columns
        self.sets, self.d = sets, d
        self._flat = np.zeros((sets, parts * d, whole))
        self._blocks = self._flat.reshape(sets, parts * d, -1, columns).swapaxes(1, 2)
        self._product = np.empty((sets, self._blocks.shape[1], d, columns))

    def part(self, i: int, width: int) -> Array:
        """A matrix of each set: (sets, d, width). What is behind it is zero."""
        found = self._flat[:, i * self.d : (i + 1) * self.d]
        if width < found.shape[2]:
            found[..., width:] = 0
        return found[..., :width]

    def gram(self, i: int, j: int) -> Array:
        """One part times another, transposed: (sets, d, d)."""
        left, right = (self._blocks[:, :, k * self.d : (k + 1) * self.d] for k in (i, j))
        return (left @ right.swapaxes(2, 3)).sum(axis=1)

    def times(self, matrix: Array, width: int) -> Array:
        """matrix (sets, d, parts * d) times all parts: (sets, d, width), until it is called again."""
        first = self._blocks[:, :, : matrix.shape[2]]
        np.matmul(matrix[:, None], first, out=self._product)
        return self._product.swapaxes(1, 2).reshape(self.sets, self.d, -1)[..., :width]


def shared(tiles: Sequence[Tile], values: int, work: Callable[[Sequence[int]], None]) -> None:
    """work(numbers of tiles), on threads if there are many values; each has memory of its own."""
    count, numbers = 1 if values < FEW else workers(len(tiles)), range(len(tiles))
    on_threads(work, [numbers[i::count] for i in range(count)])


class Merged:
    """Sets that go through all tiles: groups of neighbouring channels, over samples and positions.

    Args:
        x: (b, c, n).
    """

    def __init__(self, x: Array, groups: int, mean: Array | None = None) -> None:
        b, c, n = x.shape
        self.x, self.count, self.groups, self.d = x, b * n, groups, c // groups
        self.tiles = tiles_of(b, c, n)
        self.widest = max(t.samples.stop - t.samples.start for t in self.tiles) * max(
            t.positions.stop - t.positions.start for t in self.tiles
        )
        self.high = self.tiles[0].of(x).mean(axis=(0, 2), dtype=np.float64) if mean is None else mean
        self.low = np.zeros(c)

    def _memory(self, parts: int) -> Blocks:
        return Blocks(self.groups, self.d, parts, self.widest)

    def _of(self, v: Array, tile: Tile) -> Array:
        """A tile of v as (groups, d, samples, positions), a view."""
        part = tile.of(v).swapaxes(0, 1)
        return part.reshape(self.groups, self.d, *part.shape[1:])

    def _room(self, memory: Blocks, i: int, tile: Tile) -> Array:
        """Where such a tile goes in a part of the memory: a view, as but the last axis is split."""
        part = memory.part(i, self._width(tile))
        return part.reshape(self.groups, self.d, *tile.of(self.x)[:, 0].shape)

    def _deviations(self, memory: Blocks, i: int, tile: Tile) -> None:
        to, shape = self._room(memory, i, tile), (self.groups, self.d, 1, 1)
        np.subtract(self._of(self.x, tile), self.high.reshape(shape), out=to)
        if self.low.any():
            to -= self.low.reshape(shape)

    def covariance(self) -> Array:
        """(groups, d, d); from here on the mean is exact, too.

        It is that of the deviations from the first tile's mean. Whatever is in that tile, the square of what this lacks
        is at most the variance times the number of tiles, and so are the digits that are lost beside it.
        """
        squares = np.empty((len(self.tiles), self.groups, self.d, self.d))
        sums = np.empty((len(self.tiles), self.groups, self.d))

        def work(some: Sequence[int]) -> None:
            memory = self._memory(1)
            for i in some:
                self._deviations(memory, 0, self.tiles[i])
                squares[i], sums[i] = memory.gram(0, 0), memory.part(0, self.widest).sum(axis=2)

        shared(self.tiles, self.x.size, work)
        rest = sums.sum(axis=0) / self.count
        self.low = rest.reshape(-1)
        return squares.sum(axis=0) / self.count - rest[:, :, None] * rest[:, None, :]

    @property
    def mean(self) -> Array:
        """(c,)"""
        return self.high + self.low

    def write(self, matrix: Array, bias: Array, y: Array) -> None:
        """y = matrix (x - mean) + bias."""

        def work(some: Sequence[int]) -> None:
            memory = self._memory(1)
            for i in some:
                tile = self.tiles[i]
                self._deviations(memory, 0, tile)
                self._put(memory.times(matrix, self._width(tile)), bias, tile, y)

        shared(self.tiles, self.x.size, work)

    def _width(self, tile: Tile) -> int:
        return self.x[tile.samples, 0, tile.positions].size

    def _put(self, found: Array, added: Array, tile: Tile, to: Array) -> None:
        part = tile.of(to).swapaxes(0, 1)
        np.add(found.reshape(part.shape), added[:, None, None], out=part, casting="unsafe")

    def along(self, dy: Array) -> tuple[Array, Array]:
        """dy times the deviations, transposed (groups, d, d), and the sums of dy (groups, d)."""
        products = np.empty((len(self.tiles), self.groups, self.d, self.d))
        sums = np.empty((len(self.tiles), self.groups, self.d))

        def work(some: Sequence[int]) -> None:
            memory = self._memory(2)
            for i in some:
                tile = self.tiles[i]
                self._room(memory, 0, tile)[...] = self._of(dy, tile)
                self._deviations(memory, 1, tile)
                products[i], sums[i] = memory.gram(0, 1), memory.part(0, self.widest).sum(axis=2)

        shared(self.tiles, self.x.size, work)
        return products.sum(axis=0), sums.sum(axis=0)

    def write_gradient(self, dy: Array, matrix: Array, both: Array | None, added: Array, dx: Array) -> None:
        """dx = matrix dy + both (x - mean) + added."""
        factors = matrix if both is None else np.concatenate([matrix, both], axis=2)

        def work(some: Sequence[int]) -> None:
            memory = self._memory(1 if both is None else 2)
            for i in some:
                tile = self.tiles[i]
                self._room(memory, 0, tile)[...] = self._of(dy, tile)
                if both is not None:
                    self._deviations(memory, 1, tile)
                self._put(memory.times(factors, self._width(tile)), added, tile, dx)

        shared(self.tiles, self.x.size, work)


def check_near(covariance: Array, eps: float) -> None:
    """Leave to the definition what is not finite or has no products in float64."""
    trace = np.trace(covariance, axis1=-2, axis2=-1) + eps
    if not ((trace > 1 / NEAR) & (trace < NEAR)).all():
        raise Beyond


def check_finite(*found: Any) -> None:
    """Leave to the definition what is not finite."""
    if not all(np.isfinite(a).all() for a in found):
        raise Beyond
