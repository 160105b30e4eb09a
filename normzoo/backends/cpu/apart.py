"""Kernels of what is no view (b, m, c, n): how windows are had as machine code."""

from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
from numba.core import types

from normzoo.backends.contract import Array, Pass, Response, Volume
from normzoo.backends.cpu.code import DOUBLE, FLAT, compiled
from normzoo.backends.cpu.kernels import responses
from normzoo.backends.cpu.parallel import threads
from normzoo.backends.cpu.parallel.sharing import ALONE, POOL
from normzoo.backends.cpu.schedule import SERIAL
from normzoo.backends.subnormals import LEAST, ONE, kept

MOST = {8: 1e140, 4: 1e18, 2: 1e18}  # by bytes of x: sums between this and its inverse are far from the ends of range


def call_of(kernel: Any, signature: tuple[types.Type, ...], values: int) -> Any:
    """The machine code of a kernel, whose first argument is left out: on one thread or on all, in any mode."""
    code = compiled(kernel, signature).call
    call = code if values <= SERIAL else threads.guarded(code, values)
    return lambda *given: (call if LEAST * ONE else kept(call))(ALONE, *given)


@lru_cache(maxsize=256)
def response(dims: Volume, form: Response, stores: tuple[np.dtype, ...], back: bool) -> Pass:
    """The pass, or the one back, over arrays of these dtypes."""
    make = responses.backward if back else responses.forward
    quarters = 4 * form.beta
    kernel = make(int(quarters) if quarters in (1, 2, 3, 4) else 0)
    flat = [FLAT[store.name] for store in stores]
    signature = POOL, types.UniTuple(types.int64, 3), types.UniTuple(types.int64, 2), *flat, FLAT[DOUBLE.name]
    call = call_of(kernel, signature, prod(dims))
    window = tuple(min(reach, dims[1] - 1) for reach in (form.before, form.after))
    numbers: Array = np.array([form.k, form.scale, form.beta, MOST[stores[0].itemsize]])
    return lambda *arrays: call(dims, window, *arrays, numbers)
