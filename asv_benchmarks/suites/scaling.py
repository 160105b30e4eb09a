"""Whether threads help, and whether a value costs the same in an array of any size."""

import numba
import numpy as np

import normzoo as nz
from suites.cases import benchmark
from suites.kernels import blocks

NORMS = ("LayerNorm", "BatchNorm")
KILOBYTES = (16, 160, 1600, 16000, 160000)


def forward(norm: str, kilobytes: int):
    """A forward pass over that much memory, with out=; and how many values that is."""
    x = np.random.default_rng(0).standard_normal(256 * kilobytes, dtype=np.float32)
    w, b = np.ones((2, 1024), np.float32)
    if norm == "LayerNorm":
        x = x.reshape(-1, 1024)
        y = np.ones_like(x)
        return lambda: nz.functional.layer_norm(x, (1024,), w, b, out=y), x.size
    x = x.reshape(-1, 16, 16, 16)
    y = np.ones_like(x)
    return lambda: nz.functional.batch_norm(x, None, None, w[:16], b[:16], True, out=y), x.size


@benchmark(NORMS, "norm", unit="time on all threads over time on one")
def track_threads(norm):
    threads = numba.config.NUMBA_NUM_THREADS
    if threads < 2:
        raise NotImplementedError("one thread only")
    call, _ = forward(norm, 16000)

    def on(count):
        numba.set_num_threads(count)
        call()

    one, every = blocks([lambda: on(1), lambda: on(threads)], rounds=20)
    return every / one


@benchmark(NORMS, "norm", unit="ns a value")
def track_size(norm, kilobytes):
    numba.set_num_threads(1)
    call, values = forward(norm, kilobytes)
    return 1e9 * blocks([call], rounds=10)[0] / values


track_size.params += [KILOBYTES]
track_size.param_names += ["kilobytes"]
