"""The kernels of the contract, made of what does their work: their arguments are written down here alone.

Sets that a thread takes whole, and those that all threads share, are two works of one kernel.
"""

from collections.abc import Callable
from typing import Any

from normzoo.backends.cpu.compiling.jit import kernel
from normzoo.backends.cpu.kernels.records import Backward, Forward, Limits, Moments, Scan, Taken


def _named(name: str, function: Callable) -> Any:
    function.__name__ = function.__qualname__ = name
    return kernel(function)


def forward_kernel(name: str, work: Any) -> Any:
    """Statistics and y: work(pool, forward, moments)."""

    def forward(
        pool,  # see sharing.py
        dims,  # (b, m, c, n)
        parameter_dims,  # (pb, pm, pc, pn)
        x,
        weight,
        bias,
        y,
        stats,  # (3, b, c) float64: mean, spread, rstd
        divisor,  # float: values in a set, or 1 for totals
        eps,  # float
        clamp,  # bool
    ):
        work(pool, Forward(dims, parameter_dims, x, weight, bias, y, stats), Moments(divisor, eps, clamp))

    return _named(name, forward)


def apply_kernel(name: str, work: Any) -> Any:
    """y of given statistics: work(pool, forward)."""

    def apply(pool, dims, parameter_dims, x, weight, bias, y, stats):
        work(pool, Forward(dims, parameter_dims, x, weight, bias, y, stats))

    return _named(name, apply)


def backward_kernel(name: str, work: Any) -> Any:
    """dx and the parameters' gradients: work(pool, backward, dweight, dbias, limits)."""

    def backward(
        pool,
        dims,
        parameter_dims,
        dy,
        x,
        weight,
        stats,
        dx,
        dweight,  # (pb, pm, pc, pn)
        dbias,  # as dweight
        divisor,
        limit,  # float: rstd of a clamped set, or inf
    ):
        given = Backward(dims, parameter_dims, dy, x, weight, stats, dx)
        work(pool, given, dweight, dbias, Limits(divisor, limit))

    return _named(name, backward)


def scan_kernel(name: str, work: Any) -> Any:
    """Statistics of steps and y: work(pool, scan, bias, taken)."""

    def scan(
        pool,
        dims,  # (b, t, c, n)
        x,
        weight,  # (c,)
        bias,
        y,
        stats,  # (2, b, t), written
        state,  # (4, b): see `Backend.cumulate`; a unit, which is 1, shift, total, M2
        before,  # steps that the state knows
        eps,
    ):
        work(pool, Scan(dims, x, weight, y, stats, state), bias, Taken(before, eps))

    return _named(name, scan)


def scan_back_kernel(name: str, work: Any) -> Any:
    """dx and the parameters' gradients: work(pool, scan, dy, sums)."""

    def scan_back(
        pool,
        dims,
        dy,
        x,
        weight,
        stats,
        state,
        dx,
        sums,  # (2, b, c, n) or (2, b, n, c) float64, added to: of dy * xhat, and of dy
    ):
        work(pool, Scan(dims, x, weight, dx, stats, state), dy, sums)

    return _named(name, scan_back)
