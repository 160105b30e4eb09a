"""Memory of the device that is used again. A piece that Python gives up is handed out again for work on the same
stream, which comes after all earlier work there; so neither taking nor giving back calls the driver, let alone waits.

While a graph is captured nothing new can be taken: it would belong to the graph. A piece that was handed out then is
never handed out again, as every replay of the graph writes to it.
"""

import sys
from collections import defaultdict
from functools import lru_cache
from typing import Any

LEAST = 512  # bytes of a piece
STEPS = 8  # sizes of pieces from one power of two to the next: at most an eighth of a piece is not used


@lru_cache(maxsize=1024)
def size_of(nbytes: int) -> int:
    """The size of the piece that holds so many bytes."""
    step = max(LEAST, (1 << max(nbytes - 1, 0).bit_length()) // (2 * STEPS))
    return max(1, -(-nbytes // step)) * step


class Piece:
    """Memory in use."""

    __slots__ = ("_pool", "_size", "_stream", "address")

    def __init__(self, pool: "Pool", address: int, size: int, stream: int) -> None:
        self.address = address
        self._pool, self._size, self._stream = pool, size, stream

    def __del__(self) -> None:
        if not sys.is_finalizing():
            self._pool.give(self.address, self._size, self._stream)


class Pool:
    """The pieces that are free, by stream and size."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self._free: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        self._captured: set[int] = set()  # addresses that graphs write to

    def alloc(self, nbytes: int, stream: int) -> Piece:
        size = size_of(nbytes)
        capturing = self._driver.is_capturing(stream)
        try:
            address = self._free[stream, size].pop()
        except IndexError:
            if capturing:
                raise RuntimeError(
                    f"expected no new memory while a CUDA graph is captured, got {nbytes} bytes more; before the "
                    "capture, make the same calls twice on the same stream, give them out=, and drop their results"
                ) from None
            address = self._new(size, stream)
        if capturing:
            self._captured.add(address)
        return Piece(self, address, size, stream)

    def give(self, address: int, size: int, stream: int) -> None:
        """Take a piece back."""
        if address not in self._captured:
            self._free[stream, size].append(address)

    def _new(self, size: int, stream: int) -> int:
        address = self._driver.take(size, stream)
        if address is None:  # others may hold what is free
            self.release()
            torch = sys.modules.get("torch")
            if torch is not None:
                torch.cuda.empty_cache()
            address = self._driver.take(size, stream)
        if address is None:
            raise MemoryError(f"no memory left on the device: {size} bytes more are needed")
        found: int = address
        return found

    def release(self) -> None:
        """Give all free pieces back to the driver."""
        for (stream, _), addresses in list(self._free.items()):
            while addresses:
                self._driver.free(addresses.pop(), stream)
