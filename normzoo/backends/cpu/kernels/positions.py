"""What stands before and behind windows of positions: moments over the channels of each position, the sums of a
gradient over them, and dx by what was found of each. x is (b, c, n), with lanes that run over n or, where n is 1, over
c."""

from functools import cache

from normzoo.backends.cpu.compiling.jit import helper, kernel
from normzoo.backends.cpu.kernels.moments import affine_of, put_lanes, standardize
from normzoo.backends.cpu.kernels.records import Positions
from normzoo.backends.cpu.kernels.windows import part_of
from normzoo.backends.cpu.parallel.sharing import share
from normzoo.backends.cpu.schedule import POSITIONS
from normzoo.backends.cpu.vector.access import at, load, load_n, prefetch, put, store
from normzoo.backends.cpu.vector.arithmetic import fma, keep, larger, narrow, smaller, splat, total, wide
from normzoo.backends.cpu.vector.lanes import LANES
from normzoo.backends.cpu.vector.workspaces import clear, workspace


@helper
def turns_of(dims):
    """Turns of POSITIONS positions: of one b, or of several where n is 1."""
    b, _, n = dims
    return (b + POSITIONS - 1) // POSITIONS if n == 1 else b * ((n + POSITIONS - 1) // POSITIONS)


@helper
def range_of(dims, t):
    """The positions of a turn, [first, last), counted over all b."""
    b, _, n = dims
    if n == 1:
        return t * POSITIONS, smaller((t + 1) * POSITIONS, b)
    strips = (n + POSITIONS - 1) // POSITIONS
    first = t // strips * n
    strip = t % strips * POSITIONS
    return first + strip, first + smaller(strip + POSITIONS, n)


@helper
def place_of(dims, p):
    """Where position p begins in x."""
    _, c, n = dims
    return p // n * c * n + p % n


@helper
def affine_to(given, p, left):
    """What makes xhat of x from the statistics of positions from p on, by lanes; and rstd."""
    count = given.dims[0] * given.dims[2]
    rstd = load_n(given.stats, 2 * count + p, left)
    return affine_of(load_n(given.stats, p, left), rstd, given.x), narrow(rstd, given.x)


@helper
def affine_at(given, p):
    """Of one position, in all lanes."""
    count = given.dims[0] * given.dims[2]
    rstd = at(given.stats, 2 * count + p)
    scale, shift, fine, r = affine_of(at(given.stats, p), rstd, given.x)
    return (splat(scale), splat(shift), splat(fine), splat(r)), splat(narrow(rstd, given.x))


@helper
def add_to(plane, i, v):
    """plane[i : i + 16] += v."""
    store(plane, i, load(plane, i) + v)


# -- moments -------------------------------------------------------------------------------------------------------


@helper
def moments_over_positions(t, given):
    """Around the first channel."""
    _, c, n = given.dims
    x, count = given.x, given.dims[0] * n
    first, last = range_of(given.dims, t)
    for p in range(first, last, LANES):
        left, i = smaller(last - p, LANES), place_of(given.dims, p)
        around, s, q = wide(part_of(x, i, left)), splat(0.0), splat(0.0)
        for _ in range(c):
            prefetch(x, i + 4 * LANES)
            v = wide(part_of(x, i, left)) - around
            s += v
            q = fma(v, v, q)
            i += n
        mean = s / splat(float(c))
        put_lanes(given.stats, p, around + mean, left)
        put_lanes(given.stats, count + p, larger(q - s * mean, splat(0.0)) / splat(float(c)), left)


@helper
def moments_over_channels(t, given):
    """Likewise."""
    count, c, _ = given.dims
    x = given.x
    first, last = range_of(given.dims, t)
    for p in range(first, last):
        around = wide(at(x, p * c))
        s, q, lanes = splat(0.0), splat(0.0), splat(around)
        for j in range(0, c, LANES):
            v = wide(part_of(x, p * c + j, c - j)) - lanes
            if c - j < LANES:
                v = keep(v, c - j)
            s += v
            q = fma(v, v, q)
        mean = total(s) / float(c)
        put(given.stats, p, around + mean)
        put(given.stats, count + p, larger(total(q) - total(s) * mean, 0.0) / float(c))


@cache
def moments(across):
    """Mean and variance of each position; `across`: n is 1."""

    @kernel
    def positions_moments(
        pool,  # see sharing.py
        dims,  # (b, c, n)
        x,
        stats,  # (2, b, n) float64, written
    ):
        given = Positions(dims, x, x, x, stats)
        if across:
            share(pool, turns_of(dims), moments_over_channels, (given,))
        else:
            share(pool, turns_of(dims), moments_over_positions, (given,))

    return positions_moments


# -- backward ------------------------------------------------------------------------------------------------------


@helper
def sums_over_positions(t, given, means, sums):
    """Of g, g * xhat, dy * xhat and dy."""
    b, c, n = given.dims
    x, dy, count = given.x, given.dy, b * n
    first, last = range_of(given.dims, t)
    dw, db = workspace(c * LANES, x), workspace(c * LANES, x)
    clear(dw, 0, c * LANES)
    clear(db, 0, c * LANES)
    for p in range(first, last, LANES):
        left, i = smaller(last - p, LANES), place_of(given.dims, p)
        affine, _ = affine_to(given, p, left)
        s, q = splat(0.0), splat(0.0)
        for j in range(c):
            prefetch(x, i + 4 * LANES)
            prefetch(dy, i + 4 * LANES)
            w, d = splat(at(given.weight, j)), part_of(dy, i, left)
            dz = d * standardize(part_of(x, i, left), *affine)
            add_to(dw, j * LANES, dz)
            add_to(db, j * LANES, d)
            s += wide(d * w)
            q += wide(dz * w)
            i += n
        put_lanes(means, p, s / splat(float(c)), left)
        put_lanes(means, count + p, q / splat(float(c)), left)
    for j in range(c):
        put(sums, 2 * t * c + j, total(wide(load(dw, j * LANES))))
        put(sums, (2 * t + 1) * c + j, total(wide(load(db, j * LANES))))


@helper
def sums_over_channels(t, given, means, sums):
    """Likewise."""
    count, c, _ = given.dims
    x, dy = given.x, given.dy
    first, last = range_of(given.dims, t)
    dw, db = workspace(c + LANES, x), workspace(c + LANES, x)
    clear(dw, 0, c + LANES)
    clear(db, 0, c + LANES)
    for p in range(first, last):
        affine, _ = affine_at(given, p)
        s, q = splat(0.0), splat(0.0)
        for j in range(0, c, LANES):
            left = c - j
            w, d = part_of(given.weight, j, left), part_of(dy, p * c + j, left)
            dz = d * standardize(part_of(x, p * c + j, left), *affine)
            add_to(dw, j, dz)
            add_to(db, j, d)
            s += wide(d * w)
            q += wide(dz * w)
        put(means, p, total(s) / float(c))
        put(means, count + p, total(q) / float(c))
    for j in range(c):
        put(sums, 2 * t * c + j, wide(at(dw, j)))
        put(sums, (2 * t + 1) * c + j, wide(at(db, j)))


@cache
def sums(across):
    """Means over the channels of g and of g * xhat, and what parameters' gradients are sums of."""

    @kernel
    def positions_sums(
        pool,
        dims,
        dy,
        x,
        weight,  # (c,)
        stats,  # (3, b, n): mean, spread, rstd
        means,  # (2, b, n) float64, written
        sums,  # (turns, 2, c) float64, written: of dy * xhat, and of dy
    ):
        given = Positions(dims, dy, x, weight, stats)
        if across:
            share(pool, turns_of(dims), sums_over_channels, (given, means, sums))
        else:
            share(pool, turns_of(dims), sums_over_positions, (given, means, sums))

    return positions_sums


@helper
def gradient_over_positions(t, given, more, dx):
    """dx of a turn."""
    b, c, n = given.dims
    x, dy, count = given.x, given.dy, b * n
    first, last = range_of(given.dims, t)
    for p in range(first, last, LANES):
        left, i = smaller(last - p, LANES), place_of(given.dims, p)
        affine, rstd = affine_to(given, p, left)
        constant, slope = narrow(load_n(more, p, left), x), narrow(load_n(more, count + p, left), x)
        for j in range(c):
            prefetch(x, i + 4 * LANES)
            prefetch(dy, i + 4 * LANES)
            prefetch(dx, i + 2 * LANES)
            z = standardize(part_of(x, i, left), *affine)
            g = part_of(dy, i, left) * splat(at(given.weight, j))
            put_lanes(dx, i, fma(g, rstd, fma(z, slope, constant)), left)
            i += n


@helper
def gradient_over_channels(t, given, more, dx):
    """Likewise."""
    count, c, _ = given.dims
    x, dy = given.x, given.dy
    first, last = range_of(given.dims, t)
    for p in range(first, last):
        affine, rstd = affine_at(given, p)
        constant, slope = splat(narrow(at(more, p), x)), splat(narrow(at(more, count + p), x))
        for j in range(0, c, LANES):
            left = c - j
            z = standardize(part_of(x, p * c + j, left), *affine)
            g = part_of(dy, p * c + j, left) * part_of(given.weight, j, left)
            put_lanes(dx, p * c + j, fma(g, rstd, fma(z, slope, constant)), left)


@cache
def gradient(across):
    """dx = g * rstd + constant + xhat * slope."""

    @kernel
    def positions_gradient(
        pool,
        dims,
        dy,
        x,
        weight,
        stats,
        more,  # (2, b, n) float64: constant and slope
        dx,
    ):
        given = Positions(dims, dy, x, weight, stats)
        if across:
            share(pool, turns_of(dims), gradient_over_channels, (given, more, dx))
        else:
            share(pool, turns_of(dims), gradient_over_positions, (given, more, dx))

    return positions_gradient
