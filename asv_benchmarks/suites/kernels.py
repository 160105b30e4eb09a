"""Time and cost of a forward or backward pass."""

import time
from collections.abc import Callable

import numpy as np

from suites.cases import BFLOAT16, CELLS, benchmark, call_of, require, stream_of


def blocks(calls: list[Callable[[], object]], rounds: int, least: float = 2e-3) -> list[float]:
    """Seconds of a call of each, in turns of at least 2 ms: the lower quartile, as others only add to it."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, found in zip(calls, times, strict=True):
            call()  # the other's data are in the caches
            count, start = 0, time.perf_counter()
            while (spent := time.perf_counter() - start) < least or not count:
                call()
                count += 1
            found.append(spent / count)
    return [float(np.quantile(found, 0.25)) for found in times]


@benchmark(CELLS, warmup_time=0.1, rounds=1, repeat=(5, 50, 0.4))
def time_kernel(case):
    call_of(case)()


@benchmark(CELLS | BFLOAT16, unit="times a streaming loop", setup=require)
def track_cost(case):
    norm, floor = blocks([call_of(case), stream_of(case)], rounds=20)
    return norm / floor
