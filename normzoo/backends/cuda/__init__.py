"""The CUDA backend: the contract on `DeviceArray`s. numba-cuda is imported at the first call.

driver.py    the one seam to the device: numba_driver.py is numba-cuda's, with the memory of pool.py
arrays.py    device arrays; interop.py: from and to those of other libraries; torch_memory.py: PyTorch's own memory
launcher.py  chooses kernels, grids and arguments, once per shape; forms.py: by what; pointers.py: types of arguments
lanes.py     the values of a thread; accesses.py and arithmetic.py: operations on them
vocabulary.py   functions of lanes, of which activations are made; shared.py: lanes in shared memory
geometry.py  the differences between rows and columns; moments.py, surroundings.py: steps that kernels share
forward_kernels.py, backward_kernels.py, merging.py, copying.py    the kernels; running.py: running statistics
"""

from typing import Any

import numpy as np

from normzoo.backends.around import ALONE, Around
from normzoo.backends.contract import Apply, Backend, Backward, Dims, Forward, Moments
from normzoo.backends.cuda import driver
from normzoo.backends.cuda.arrays import Memory


def _launcher() -> Any:
    driver.numba_cuda()
    from normzoo.backends.cuda import launcher  # noqa: PLC0415

    return launcher


def _running() -> Any:
    driver.numba_cuda()
    from normzoo.backends.cuda import running  # noqa: PLC0415

    return running


class CUDA(Backend):
    """The backend whose new arrays belong to a stream."""

    gives_some = True

    def __init__(self, stream: int = 0, library: str = "") -> None:
        self.memory = Memory(stream, library)

    def forward(
        self, dims: Dims, parameter_dims: Dims, moments: Moments, dtype: np.dtype, store: np.dtype,
        around: Around = ALONE,
    ) -> Forward:  # fmt: skip
        return _launcher().forward(dims, parameter_dims, moments, dtype, store, around)

    def apply(
        self, dims: Dims, parameter_dims: Dims, dtype: np.dtype, store: np.dtype, around: Around = ALONE
    ) -> Apply:
        return _launcher().apply(dims, parameter_dims, dtype, store, around)

    def backward(
        self, dims: Dims, parameter_dims: Dims, moments: Moments, dtype: np.dtype, store: np.dtype,
        around: Around = ALONE,
    ) -> Backward:  # fmt: skip
        return _launcher().backward(dims, parameter_dims, moments, dtype, store, around)

    def update(self, mean: Any, var: Any, stats: Any, count: int, momentum: float | None, batches: Any = None) -> None:
        done = 0 if batches is None else batches.item()
        _running().update(mean, var, stats, count, 1.0 / (done + 1) if momentum is None else momentum)
        if batches is not None:
            batches[()] = done + 1

    def constants(self, mean: Any, variance: Any, eps: float, stats: Any) -> int:
        _running().constants(mean, variance, eps, stats)
        return 0  # checking the variances would wait for the device: a negative one gives NaN

    def spread_rows(self, source: Any, place: Any, target: Any) -> None:
        raise TypeError(
            "expected a masked array on the host, got a device array; copy it, or remove values that do not count"
        )


def variants() -> Any:
    """(name, kernel, signature, threads per block) of every kind of kernel, for checks of their machine code."""
    _launcher()
    from normzoo.backends.cuda.variants import variants as found  # noqa: PLC0415

    return found()
