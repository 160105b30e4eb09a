"""Norms with what stands before and behind them: against a loop over the bytes that they have to move, and small calls,
where there is little to do beside the call."""

import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import numba
import numpy as np
from peers import Cell, normzoo_calls

import normzoo as nz
from suites.cases import benchmark, stream
from suites.kernels import blocks


def there_and_back(*arguments: Any, **options: Any) -> list[Cell]:
    return [Cell(*arguments, direction, **options) for direction in ("forward", "both")]


CELLS = {
    cell.id: cell
    for pair in (
        there_and_back("BatchNorm", (8, 64, 56, 56), around="add", activation="relu"),  # a block of a ResNet
        there_and_back("LayerNorm", (2048, 768), around="residual"),
        there_and_back("LayerNorm", (2048, 768), activation="gelu"),
        there_and_back("RMSNorm", (512, 4096), around="gate", activation="silu"),
    )
    for cell in pair
}
SMALL = ("residual", "gate", "backward of gate")


def require(case: str) -> None:
    if not hasattr(nz, "list_activations"):
        raise NotImplementedError("what stands around a norm is newer")


@benchmark(CELLS, unit="times a streaming loop", setup=require)
def track_cost(case):
    """Of one thread; the loop moves as many bytes."""
    numba.set_num_threads(1)
    cell = CELLS[case]
    call = normzoo_calls(cell, out=False)
    call()
    x, y = np.ones((2, math.prod(cell.shape)), np.float32)
    norm, loop = blocks([call, lambda: stream(x, y)], rounds=10)
    return norm / (loop * sum(cell.arrays) / 2)


@lru_cache(maxsize=1)
def small_call(name: str) -> Callable[[], object]:
    numba.set_num_threads(1)
    x, z, dy = np.random.default_rng(0).standard_normal((3, 4, 64), dtype=np.float32)
    kind = name.rsplit(maxsplit=1)[-1]
    norm = nz.LayerNorm(64, **({} if kind == "residual" else {"activation": "silu"}))
    call: Callable[[], object] = partial(norm, x, **{kind: z})
    if name != kind:
        call = partial(norm.forward(x, **{kind: z})[1].backward, dy)
    for _ in range(1100):  # from the thousandth on, a pass is a call of compiled code
        call()
    return call


@benchmark(SMALL, "call", unit="seconds", setup=require)
def track_thousand(name):
    """A thousand calls on (4, 64), in the best of several turns: others only add to it."""
    call = small_call(name)
    return min(blocks([call], rounds=1)[0] for _ in range(10)) * 1000
