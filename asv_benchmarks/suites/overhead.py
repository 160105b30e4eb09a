"""What a call costs besides the work: a thousand calls on arrays too small to matter."""

from collections.abc import Callable
from functools import lru_cache

import numba
import numpy as np

import normzoo as nz
from suites.cases import benchmark

CALLS = (
    "functional.layer_norm (4, 64)",
    "functional.rms_norm (4, 64)",
    "functional.batch_norm (4, 64)",
    "functional.group_norm (2, 16, 8, 8)",
    "LayerNorm (4, 64)",
    "BatchNorm (4, 64)",
    "backward of LayerNorm (4, 64)",
    "backward of BatchNorm (4, 64)",
)


@lru_cache(maxsize=1)
def call_of(name: str) -> Callable[[], object]:
    numba.set_num_threads(1)
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, 4, 64), dtype=np.float32)
    images = rng.standard_normal((2, 16, 8, 8), dtype=np.float32)
    w, b, mean, var = np.ones((4, 64), np.float32)
    layer, batch = nz.LayerNorm(64), nz.BatchNorm(64)
    calls: dict[str, Callable[[], object]] = {
        "functional.layer_norm (4, 64)": lambda: nz.functional.layer_norm(x, (64,), w, b),
        "functional.rms_norm (4, 64)": lambda: nz.functional.rms_norm(x, (64,), w),
        "functional.batch_norm (4, 64)": lambda: nz.functional.batch_norm(x, mean, var, w, b, True),
        "functional.group_norm (2, 16, 8, 8)": lambda: nz.functional.group_norm(images, 4, w[:16], b[:16]),
        "LayerNorm (4, 64)": lambda: layer(x),
        "BatchNorm (4, 64)": lambda: batch(x),
    }
    if name not in calls:
        saved = {"LayerNorm": layer, "BatchNorm": batch}[name.split()[2]].forward(x)[1]
        calls[name] = lambda: saved.backward(dy)
    call = calls[name]
    call()
    call()
    return call


@benchmark(CALLS, "call", warmup_time=0.1, rounds=1, repeat=(5, 50, 0.4))
def time_thousand(name):
    call = call_of(name)
    for _ in range(1000):
        call()
