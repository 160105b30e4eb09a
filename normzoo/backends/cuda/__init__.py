"""The CUDA backend: the contract on `DeviceArray`s. Nothing of numba-cuda is imported before the first of its calls.

driver.py    the one seam to the device
arrays.py    device arrays, in and out
launcher.py  which kernel, on which grid: once for all calls of a shape
lanes.py     the values of a thread; accesses.py and arithmetic.py: what can be done with them
geometry.py  what rows and columns do not share; moments.py: steps that kernels share
forward_kernels.py, backward_kernels.py, merging.py    the kernels
"""

from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np

from normzoo.backends.contract import Apply, Backward, Dims, Forward, Moments
from normzoo.backends.cuda import driver
from normzoo.backends.cuda.arrays import Memory

memory = Memory(0)
updates_whole = False


def _launcher() -> Any:
    driver.numba_cuda()
    from normzoo.backends.cuda import launcher  # noqa: PLC0415

    return launcher


def forward(dims: Dims, parameter_dims: Dims, moments: Moments, dtype: np.dtype, store: np.dtype) -> Forward:
    return _launcher().forward(dims, parameter_dims, moments, np.dtype(dtype), np.dtype(store))


def apply(dims: Dims, parameter_dims: Dims, dtype: np.dtype, store: np.dtype) -> Apply:
    return _launcher().apply(dims, parameter_dims, np.dtype(dtype), np.dtype(store))


def backward(dims: Dims, parameter_dims: Dims, moments: Moments, dtype: np.dtype, store: np.dtype) -> Backward:
    return _launcher().backward(dims, parameter_dims, moments, np.dtype(dtype), np.dtype(store))


def update(running_mean: Any, running_var: Any, stats: Any, count: int, momentum: float) -> None:
    _launcher().update(running_mean, running_var, stats, count, momentum)


def constants(mean: Any, variance: Any, eps: float, stats: Any) -> int:
    _launcher().constants(mean, variance, eps, stats)
    return 0  # to look at the variances would be to wait for the device: those below 0 give NaN


def take_rows(source: Any, index: Any, target: Any) -> None:
    raise TypeError("masks are for arrays on the host; copy the array, or leave out what does not count yourself")


def spread_rows(source: Any, place: Any, target: Any) -> None:
    take_rows(source, place, target)


@cache
def on_stream(stream: int) -> Any:
    """The backend with new arrays on a stream."""
    passes = {name: globals()[name] for name in ("forward", "apply", "backward", "update", "constants")}
    rows = {"take_rows": take_rows, "spread_rows": spread_rows}
    return SimpleNamespace(**passes, **rows, memory=Memory(stream), updates_whole=updates_whole)


def variants() -> Any:
    """(name, kernel, signature, threads of a block) of every kind of kernel, for checks of their machine code."""
    _launcher()
    from normzoo.backends.cuda.variants import variants as found  # noqa: PLC0415

    return found()
