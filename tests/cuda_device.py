"""Where the tests of CUDA run: the executor in place of the driver, or a device."""

import contextlib
import sys

import numpy as np
import pytest

from normzoo.backends.cuda import driver
from normzoo.passes import plan
from normzoo.passes import site as passes
from tests.cuda_executor import Executor


class Owner:
    """Memory of the executor."""

    def __init__(self, executor, nbytes):
        self._executor, self.address = executor, executor.alloc(nbytes)

    def __del__(self):
        if not sys.is_finalizing():
            self._executor.free(self.address)


class HostDriver(driver.Driver):
    """The executor as a driver."""

    capability = (9, 0)
    blocks = 2  # that a multiprocessor holds at once

    def __init__(self, schedule="in order", checked=False, multiprocessors=4, drop_barrier=None):
        self.executor = Executor(schedule=schedule, checked=checked)
        self.multiprocessors, self._drop = multiprocessors, drop_barrier
        self.launches = []  # (name, report, args)
        self.grids = []  # (name, grid, block)
        self.orders = []  # (stream, the one that waits for it)

    def alloc(self, nbytes, stream):
        return Owner(self.executor, nbytes)

    def launch(self, kernel, signature, grid, block, shared_bytes, stream, args):
        drop = self._drop[1] if self._drop and self._drop[0] == kernel.__name__ else None
        report = self.executor.launch(kernel, signature, grid, block, args, shared_bytes, drop_barrier=drop)
        self.launches.append((kernel.__name__, report, args))
        self.grids.append((kernel.__name__, grid, block))

    def to_device(self, address, values, stream):
        raw = values.reshape(-1).view(np.uint8)
        self.executor.write(address, raw)

    def to_host(self, values, address, stream):
        values.reshape(-1).view(np.uint8)[:] = self.executor.array(address, values.nbytes, np.uint8)

    def order(self, first, then):
        self.orders.append((first, then))

    def resident(self, kernel, signature, block):
        return self.blocks


@contextlib.contextmanager
def on(where):
    """Run a block on the "executor", on a checked one, or on the machine's own "gpu"."""
    if where == "gpu":
        try:
            driver.current()
        except RuntimeError as reason:
            pytest.skip(str(reason))
        yield None
        return
    device = HostDriver(checked=where == "checked")
    try:
        with driver.use(device):
            yield device
    finally:  # plans hold arrays of this device's
        passes.forget()
        plan._constant.cache_clear()
