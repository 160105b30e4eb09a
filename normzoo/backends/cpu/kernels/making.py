"""The kernels of the contract, made from functions that do the work: only here their arguments are listed.

Whole sets per thread, and sets shared by all threads, are two such functions for the same kernel.
"""

from collections.abc import Callable
from typing import Any

from normzoo.backends.around import ALONE, Around
from normzoo.backends.cpu.compiling.disk import identity
from normzoo.backends.cpu.compiling.jit import kernel
from normzoo.backends.cpu.kernels.records import (
    Backward,
    Before,
    Behind,
    Cells,
    Forward,
    Largest,
    Limits,
    Moments,
    Scan,
    Taken,
)
from normzoo.backends.cpu.parallel.sharing import share


def named(name: str, function: Callable, around: Around) -> Any:
    function.__name__ = function.__qualname__ = name + label(around)
    return kernel(function)


def label(around: Around) -> str:
    """What stands around the norm, in a kernel's name: two activations may have one name."""
    activation = around.activation
    functions = () if activation is None else (f"{activation.name}_{identity(activation[1:3])}",)
    said = [str(v) for v in (*around._replace(activation=None), *functions)]
    return "" if around == ALONE else f"_around({', '.join(said)})"


def forward_kernel(name: str, work: Any, around: Around) -> Any:
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
        work(pool, Forward(dims, parameter_dims, x, weight, bias, y, stats, ()), Moments(divisor, eps, clamp))

    def forward_around(
        pool, dims, parameter_dims, x, weight, bias, y, stats, divisor, eps, clamp,
        own_x,  # that of the caller; x is what the moments are of
        residual,
        other,
        scale,  # float
    ):  # fmt: skip
        beside = Before(own_x, residual, other, scale)
        given = Forward(dims, parameter_dims, x, weight, bias, y, stats, beside)
        work(pool, given, Moments(divisor, eps, clamp))

    return named(name, forward if around == ALONE else forward_around, around)


def apply_kernel(name: str, work: Any, around: Around) -> Any:
    """y of given statistics: work(pool, forward)."""

    def apply(pool, dims, parameter_dims, x, weight, bias, y, stats):
        work(pool, Forward(dims, parameter_dims, x, weight, bias, y, stats, ()))

    def apply_around(pool, dims, parameter_dims, x, weight, bias, y, stats, own_x, residual, other, scale):
        beside = Before(own_x, residual, other, scale)
        work(pool, Forward(dims, parameter_dims, x, weight, bias, y, stats, beside))

    return named(name, apply if around == ALONE else apply_around, around)


def backward_kernel(name: str, work: Any, around: Around) -> Any:
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
        given = Backward(dims, parameter_dims, dy, x, weight, stats, dx, ())
        work(pool, given, dweight, dbias, Limits(divisor, limit))

    def backward_around(
        pool, dims, parameter_dims, dy, x, weight, stats, dx, dweight, dbias, divisor, limit,
        own_x,  # those of the caller; x is what the moments are of, dy the gradient of xhat * weight + bias
        own_dy,
        bias,
        other,
        dother,
        ds,
    ):  # fmt: skip
        beside = Behind(own_x, own_dy, bias, other, dother, ds)
        given = Backward(dims, parameter_dims, dy, x, weight, stats, dx, beside)
        work(pool, given, dweight, dbias, Limits(divisor, limit))

    return named(name, backward if around == ALONE else backward_around, around)


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

    return named(name, scan, ALONE)


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

    return named(name, scan_back, ALONE)


def cells_kernel(name: str, work: Any) -> Any:
    """A formula of each value, and sums: work(turn, cells), a helper."""

    def cells(
        pool,
        turns,
        dims,  # see `Cells`
        cuts,
        arrays,
        results,
        numbers,
        lines,
        step,
        sums,
        planes,
    ):
        share(pool, turns, work, (Cells(dims, cuts, arrays, results, numbers, lines, step, sums, planes),))

    return named(name, cells, ALONE)


def groups_kernel(name: str, work: Any) -> Any:
    """The same of rows in groups of different sizes: work(turn, cells, table), a helper."""

    def groups(
        pool,
        turns,
        width,  # of a row
        table,  # (lines, 3) int64: group, first row, last row
        lines_of_a_turn,
        lines,
        arrays,
        results,
        coefficients,  # (groups or 1, k, width)
        step,
        planes,  # (lines, p, width) float64, written
    ):
        dims, cuts = (1, 1, width), (1, lines, lines_of_a_turn)
        given = Cells(dims, cuts, arrays, results, arrays[0], coefficients, step, planes, planes)
        share(pool, turns, work, (given, table))

    return named(name, groups, ALONE)


def largest_kernel(name: str, work: Any) -> Any:
    """The values furthest from their channels' centers: work(pool, largest)."""

    def largest(pool, dims, parts, k, x, center, far, places):
        work(pool, Largest(dims, parts, k, x, center, far, places))

    return named(name, largest, ALONE)
