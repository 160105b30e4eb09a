"""Kernels of series, made as `making.py` makes the others."""

from typing import Any

from normzoo.backends.around import ALONE
from normzoo.backends.cpu.kernels.making import named
from normzoo.backends.cpu.kernels.records import Levels, Lines
from normzoo.backends.cpu.parallel.sharing import share


def follow_kernel(name: str, work: Any) -> Any:
    """y of lines by their own past: work(pool, lines, state, before)."""

    def follow(
        pool,
        dims,
        x,
        numbers,  # (3, n): weight and bias, or gain, bias and power
        y,
        states,  # written
        state,  # (2, b, n), read and written
        before,  # steps that the state knows
        rate,
        eps,
    ):
        work(pool, Lines(dims, x, numbers, y, states, rate, eps), state, before)

    return named(name, follow, ALONE)


def follow_back_kernel(name: str, work: Any) -> Any:
    """dx and sums: work(pool, lines, dy, sums)."""

    def follow_back(
        pool,
        dims,
        dy,
        x,
        numbers,
        states,
        dx,
        sums,  # (4, b, n), written
        rate,
        eps,
    ):
        work(pool, Lines(dims, x, numbers, dx, states, rate, eps), dy, sums)

    return named(name, follow_back, ALONE)


def levels_kernel(name: str, work: Any) -> Any:
    """y of cells less a level, and statistics: work(turn, levels, bias, far), a helper."""

    def levels(
        pool,
        turns,
        width,  # columns, or cells, of a turn
        dims,  # (b, n, c)
        limits,
        x,
        maps,
        weight,
        bias,
        y,
        stats,  # written
        far,  # (turns,) float64, written: 1 where a number is near the ends of range
    ):
        share(pool, turns, work, (Levels(dims, width, x, maps, weight, y, stats, limits), bias, far))

    return named(name, levels, ALONE)


def levels_back_kernel(name: str, work: Any) -> Any:
    """dx and sums: work(turn, levels, dy, found, far), a helper."""

    def levels_back(
        pool,
        turns,
        width,
        dims,
        limits,
        dy,
        x,
        maps,
        weight,
        stats,
        dx,
        sums,  # (2, b, c) float64, written: of dy * xhat, and of dy
        of_levels,  # (b, c), written where there are maps
        far,
    ):
        share(pool, turns, work, (Levels(dims, width, x, maps, weight, dx, stats, limits), dy, (sums, of_levels), far))

    return named(name, levels_back, ALONE)


def levels_maps_kernel(name: str, work: Any) -> Any:
    """The gradient of maps: work(line, levels, of_levels), a helper."""

    def levels_maps(
        pool,
        lines,
        dims,
        x,
        of_levels,
        found,  # (n, c) or (c, n) float64, written
    ):
        share(pool, lines, work, (Levels(dims, 1, x, x, of_levels, found, found, ()), of_levels))

    return named(name, levels_maps, ALONE)


def slide_kernel(name: str, work: Any) -> Any:
    """y of lines by windows: work(turn, lines, place), a helper."""

    def slide(
        pool,
        turns,
        dims,  # (b, t, n)
        place,  # steps of a window before and after its own, and how many steps the first block lacks
        x,
        numbers,  # (2, n): weight and bias
        y,
        eps,
    ):
        share(pool, turns, work, (Lines(dims, x, numbers, y, numbers, 0.0, eps), place))

    return named(name, slide, ALONE)


def slide_back_kernel(name: str, work: Any) -> Any:
    """dx and sums: work(turn, lines, dy, sums, place), a helper."""

    def slide_back(
        pool,
        turns,
        dims,
        place,  # steps of a window before and after its own
        dy,
        x,
        numbers,
        dx,
        sums,  # (2, b, n) float64, written
        eps,
    ):
        share(pool, turns, work, (Lines(dims, x, numbers, dx, numbers, 0.0, eps), dy, sums, place))

    return named(name, slide_back, ALONE)
