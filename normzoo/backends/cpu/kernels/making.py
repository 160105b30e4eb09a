"""The three kernels of the contract, made from functions that do the work: only here their arguments are listed.

Whole sets per thread, and sets shared by all threads, are two such functions for the same kernel.
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
