"""Threads for what NumPy computes, which needs no interpreter meanwhile."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count
from typing import TypeVar

import numpy as np

from normzoo.backends.subnormals import mode

Item = TypeVar("Item")
FEW = 1 << 18  # values for which no threads are started
BLOCK = 1 << 15  # values of a block: in float64 a quarter of a megabyte


def workers(most: int) -> int:
    """How many threads take part, at most `most`; one where others might treat subnormal numbers in another way."""
    return 1 if mode.alone else max(1, min(cpu_count() or 1, most))


def on_threads(work: Callable[[Item], object], items: Sequence[Item]) -> None:
    """work(item) of all items, on threads where there are several; with the caller's `np.errstate`, which belongs to a
    thread."""
    count, state = workers(len(items)), np.geterr()

    def as_here(item: Item) -> None:
        with np.errstate(**state):
            work(item)

    if count == 1:
        for item in items:
            work(item)
        return
    with ThreadPoolExecutor(max_workers=count) as threads:
        list(threads.map(as_here, items))


def in_blocks(work: Callable[[slice], object], rows: int, width: int, values: int = BLOCK) -> None:
    """work(slice) of all rows, in blocks of so many values that they stay in a cache; on threads where rows, of `width`
    values each, are many."""
    step = max(1, values // max(1, width))
    blocks = [slice(i, min(i + step, rows)) for i in range(0, rows, step)]
    if rows * width >= FEW:
        on_threads(work, blocks)
        return
    for block in blocks:
        work(block)
