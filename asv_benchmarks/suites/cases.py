"""Norms on the shapes of real networks, and the loops that they are compared with."""

import math
from collections.abc import Callable, Iterable
from functools import lru_cache

import numba
import numpy as np
from peers import Cell, normzoo_calls


def both(*arguments, **options) -> list[Cell]:
    return [Cell(*arguments, direction, **options) for direction in ("forward", "backward")]


def by_id(*cells: list[Cell]) -> dict[str, Cell]:
    return {cell.id: cell for pair in cells for cell in pair}


# Batches are small, so that a call on one thread takes milliseconds; one is of more than any cache holds.
CELLS = by_id(
    both("BatchNorm", (8, 64, 56, 56)),  # ResNet-50, from the first stage to the last
    both("BatchNorm", (16, 512, 14, 14)),
    both("BatchNorm", (16, 2048, 7, 7)),
    both("BatchNorm", (8, 64, 56, 56), last=True),
    both("BatchNorm", (256, 4096)),
    both("LayerNorm", (2048, 768)),  # BERT
    both("LayerNorm", (16384, 768)),
    both("RMSNorm", (512, 4096)),  # LLaMA
    both("GroupNorm", (8, 64, 56, 56), groups=32),
    both("GroupNorm", (8, 64, 56, 56), groups=32, last=True),
    both("InstanceNorm", (1, 32, 32, 64, 64)),  # a volume
)
BFLOAT16 = by_id(
    both("BatchNorm", (8, 64, 56, 56), dtype="bfloat16"),
    both("LayerNorm", (2048, 768), dtype="bfloat16"),
)
# Counting takes 10 us an instruction, and no kernel of several threads can be counted.
COUNTED = by_id(
    both("BatchNorm", (1, 16, 28, 28)),
    both("BatchNorm", (1, 16, 28, 28), last=True),
    both("GroupNorm", (1, 16, 28, 28), groups=4),
    both("LayerNorm", (16, 768)),
    both("LayerNorm", (16, 768), dtype="bfloat16"),
)


ALL = CELLS | BFLOAT16 | COUNTED


def benchmark(cases: Iterable, name: str = "case", **attributes) -> Callable[[Callable], Callable]:
    """Makes a function a benchmark of every case. Its version is fixed, or else an edit would hide its history."""

    def mark(function):
        vars(function).update({"params": [list(cases)], "param_names": [name], "version": "1"} | attributes)
        return function

    return mark


@lru_cache(maxsize=1)
def call_of(case: str) -> Callable[[], object]:
    """The norm on one thread, writing into an array that exists; compiled already, and kept: a `setup` would make
    later versions of asv time single calls."""
    numba.set_num_threads(1)
    call = normzoo_calls(ALL[case], out=True)
    call()
    call()
    return call


def require(case: str) -> None:
    """Raise NotImplementedError where the installed commit does not know the dtype."""
    dtype = ALL[case].dtype
    if dtype == "float32":
        return
    try:
        normzoo_calls(Cell("LayerNorm", (2, 16), "forward", dtype), out=False)()
    except (TypeError, ValueError) as error:
        raise NotImplementedError(f"{dtype} is newer") from error


@numba.njit(cache=True)
def stream(x, y):
    """Reads x once and writes y once."""
    for i in range(y.size):
        y[i] = 3 * x[i]


@numba.njit(cache=True)
def stream_two(x, dy, dx):
    for i in range(dx.size):
        dx[i] = x[i] + 3 * dy[i]


def stream_of(case: str) -> Callable[[], object]:
    """The floor of memory: a loop over the bytes that a norm reads and writes."""
    cell = ALL[case]
    size = math.prod(cell.shape) // (1 if cell.dtype == "float32" else 2)
    x, dy, out = np.ones((3, size), np.float32)
    return (lambda: stream(x, out)) if cell.direction == "forward" else (lambda: stream_two(x, dy, out))
