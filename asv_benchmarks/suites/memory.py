"""Memory that a pass takes by the operating system, in multiples of the array that it returns: see counts.track_peak."""

from functools import cache

import numba
import targets

import normzoo as nz
from suites.cases import benchmark

NORMS = ("LayerNorm", "BatchNorm", "BatchNorm channels-last")
CASES = [f"{norm} {direction}" for norm in NORMS for direction in ("forward", "backward")]


@benchmark(CASES, unit="times the result")
def track_peak(case):
    numba.set_num_threads(1)
    if not hasattr(nz, "release_memory"):  # commits that keep no memory
        nz.release_memory = lambda: None
    name, direction = case.rsplit(maxsplit=1)
    return peaks(name)[direction == "backward"]


@cache
def peaks(name: str) -> tuple[float, float]:
    """Of both passes, which are made together."""
    return targets.peak(name)
