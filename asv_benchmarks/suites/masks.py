"""What leaving half of the positions out costs, in times the pass that takes them all."""

import numba
import numpy as np

import normzoo as nz
from suites.cases import benchmark
from suites.kernels import blocks

SHAPE = (32, 512, 768)
NORMS = {
    "LayerNorm": lambda: nz.LayerNorm(768),
    "RMSNorm": lambda: nz.RMSNorm(768),
    "BatchNorm channels-last": lambda: nz.BatchNorm(768, channel_axis=-1),
}
CASES = [f"{norm} {direction}" for norm in NORMS for direction in ("forward", "backward")]


def require(case):
    if not hasattr(nz, "select"):
        raise NotImplementedError("masks are newer")


@benchmark(CASES, unit="times the pass without a mask", setup=require)
def track_half_masked(case):
    name, direction = case.rsplit(maxsplit=1)
    numba.set_num_threads(min(2, numba.config.NUMBA_NUM_THREADS))
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, *SHAPE), dtype=np.float32)
    mask = rng.random((*SHAPE[:2], 1)) < 0.5
    whole, half = (NORMS[name]() for _ in range(2))
    whole(x)
    half(x, mask=mask)
    if direction == "forward":
        calls = [lambda: half(x, mask=mask), lambda: whole(x)]
    else:
        calls = [lambda: half.backward(dy), lambda: whole.backward(dy)]
    for call in calls:
        call()
    masked, plain = blocks(calls, rounds=9)
    return masked / plain
