"""The three kernels of the contract, made of what does their work: their arguments are written down here alone.

All take the pool of `sharing.py` first. Sets that a thread takes whole, and those that all threads share, are two works
of one kernel.
"""

from collections.abc import Callable
from typing import Any

from normzoo.backends.cpu.compiling.jit import kernel
from normzoo.backends.cpu.kernels.records import Backward, Forward, Limits, Moments


def _named(name: str, function: Callable) -> Any:
    function.__name__ = function.__qualname__ = name
    return kernel(function)


def forward_kernel(name: str, work: Any) -> Any:
    """Statistics and y: work(pool, forward, moments)."""

    def forward(pool, dims, parameter_dims, x, weight, bias, y, stats, divisor, eps, clamp):
        work(pool, Forward(dims, parameter_dims, x, weight, bias, y, stats), Moments(divisor, eps, clamp))

    return _named(name, forward)


def apply_kernel(name: str, work: Any) -> Any:
    """y of given statistics: work(pool, forward)."""

    def apply(pool, dims, parameter_dims, x, weight, bias, y, stats):
        work(pool, Forward(dims, parameter_dims, x, weight, bias, y, stats))

    return _named(name, apply)


def backward_kernel(name: str, work: Any) -> Any:
    """dx and the parameters' gradients: work(pool, backward, dweight, dbias, limits)."""

    def backward(pool, dims, parameter_dims, dy, x, weight, stats, dx, dweight, dbias, divisor, limit):
        given = Backward(dims, parameter_dims, dy, x, weight, stats, dx)
        work(pool, given, dweight, dbias, Limits(divisor, limit))

    return _named(name, backward)
