"""How a tile of whitening is multiplied: as float64, or as float32 that stays where it is. See `tiles.py`."""

from typing import Any

import numpy as np

from normzoo.backends.contract import Array
from normzoo.passes.formulas import ON_ONE_THREAD, SHORT


class Wide:
    """Memory for `count` arrays (sets, parts, d, n), one below the other, and a row of ones; as blocks of columns, with
    zeros behind the arrays. What is added to a product is multiplied by the ones, which costs nothing: NumPy rounds to
    float32 by assignment in a fifth of the time of an addition that does."""

    def __init__(self, shape: tuple[int, ...], count: int) -> None:
        sets, parts, d, width = shape
        rows = count * d + 1
        most = max(8, ON_ONE_THREAD // (d * rows) // 8 * 8)
        number = -(-width // most)
        columns = -(-width // (8 * number)) * 8
        self.d = d
        self._flat = np.zeros((sets, parts, rows, number * columns))
        self._product = np.zeros((sets, parts, d, number * columns))
        self._flat[:, :, -1] = 1
        self._blocks, self._products = (
            a.reshape(*a.shape[:3], number, columns).swapaxes(2, 3) for a in (self._flat, self._product)
        )
        self._grams = np.empty((sets, parts, number, d, d))

    def put(self, i: int, tile: Array, base: Array | None = None) -> None:
        """An array, less `base`."""
        sets, parts, d, width = self._now = tile.shape
        rows = self._flat[:sets, :parts, i * d : (i + 1) * d]
        if width < rows.shape[3]:
            rows[..., width:] = 0
        room = rows[..., :width]
        if base is None:
            room[...] = tile
        else:
            np.subtract(tile, base, out=room)

    def sums(self, i: int) -> Array:
        """(sets, parts, d)"""
        sets, parts, d, width = self._now
        found: Array = self._flat[:sets, :parts, i * d : (i + 1) * d, :width].sum(axis=3)
        return found

    def gram(self, i: int, j: int) -> Array:
        """One array times another, transposed: (sets, parts, d, d)."""
        sets, parts, d, _ = self._now
        left, right = (self._blocks[:sets, :parts, :, k * d : (k + 1) * d] for k in (i, j))
        return np.matmul(left, right.swapaxes(3, 4), out=self._grams[:sets, :parts]).sum(axis=2)

    def multiply(self, factors: Array, to: Array) -> None:
        """to = factors (sets, parts or 1, d, count * d + 1) times all arrays and the ones."""
        sets, parts, _, width = self._now
        blocks = self._blocks[:sets, :parts]
        np.matmul(factors[:, :, None], blocks, out=self._products[:sets, :parts])
        to[...] = self._product[:sets, :parts, :, :width]


class Narrow:
    """The same of float32 as it is, without memory of its own."""

    def __init__(self, shape: tuple[int, ...], count: int) -> None:
        self._tiles: list[Any] = [None] * count
        self.d = shape[2]

    def put(self, i: int, tile: Array, base: Array | None = None) -> None:
        self._tiles[i] = tile

    def sums(self, i: int) -> Array:
        found: Array = self._tiles[i].sum(axis=3).astype(np.float64)
        return found

    def gram(self, i: int, j: int) -> Array:
        n, most = self._tiles[i].shape[3], max(8, min(SHORT, ON_ONE_THREAD // self.d**2))
        number = -(-n // most)
        whole = n - n % number
        left, right = (
            a[..., :whole].reshape(*a.shape[:3], number, -1).swapaxes(2, 3) for a in (self._tiles[i], self._tiles[j])
        )
        found: Array = (left @ right.swapaxes(3, 4)).sum(axis=2, dtype=np.float64)
        if whole < n:
            left, right = (a[..., whole:] for a in (self._tiles[i], self._tiles[j]))
            found += left @ right.swapaxes(2, 3)
        return found

    def multiply(self, factors: Array, to: Array) -> None:
        d, by = self.d, factors.astype(np.float32)
        step = max(8, ON_ONE_THREAD // d**2 // 8 * 8)
        for j in range(0, to.shape[3], step):
            here = to[..., j : j + step]
            for i, tile in enumerate(self._tiles):
                matrix, part = by[..., i * d : (i + 1) * d], tile[..., j : j + step]
                if i:
                    here += matrix @ part
                else:
                    np.matmul(matrix, part, out=here)
        to += by[..., -1:]
