"""Running statistics on the device: how they change, and what passes take of them."""

from typing import Any

from normzoo.backends.cuda import driver, merging
from normzoo.backends.cuda.driver import Ordered
from normzoo.backends.cuda.pointers import F64, I64, P64, blocks, pointer


def update(running_mean: Any, running_var: Any, stats: Any, count: int, momentum: float) -> None:
    channels, device = running_mean.size, driver.current()
    number = pointer(running_mean.dtype)
    repeats = stats.size // (3 * channels)
    signature = number, number, P64, I64, I64, F64, F64, F64
    take = float(momentum)
    addresses = running_mean.address, running_var.address, stats.address
    args = *addresses, channels, repeats, 1.0 - take, take, take * count / max(count - 1, 1)
    grid = blocks(channels, merging.LANES), 1
    with Ordered(device, stats.stream, running_mean, running_var):
        device.launch(merging.update(), signature, grid, merging.LANES, 0, stats.stream, args)


def constants(mean: Any, variance: Any, eps: float, stats: Any) -> None:
    number, device = pointer(mean.dtype), driver.current()
    signature = number, number, P64, I64, F64
    args = mean.address, variance.address, stats.address, mean.size, float(eps)
    grid = blocks(mean.size, merging.LANES), 1
    with Ordered(device, stats.stream, mean, variance):
        device.launch(merging.constants(), signature, grid, merging.LANES, 0, stats.stream, args)
