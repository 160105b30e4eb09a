"""Cumulative normalization: each time step by the moments of all values up to it; and its gradient, from the last step
to the first. A sample is read once: a step, or sixteen, is summed, taken into the moments, and normalized.

x is (b, c, n, t), with lanes that run over time, or (b, t, n, c), with lanes that run over channels. Moments are around
a shift, the mean of the first step, in float64: as that step is one of those that they are of, squares around it are
at most as many times their variance as there are steps.
"""

from functools import cache

from normzoo.backends.cpu.compiling.jit import helper
from normzoo.backends.cpu.kernels.making import scan_back_kernel, scan_kernel
from normzoo.backends.cpu.kernels.moments import affine_of, put_lanes, standardize
from normzoo.backends.cpu.kernels.windows import part_of
from normzoo.backends.cpu.parallel.sharing import share
from normzoo.backends.cpu.schedule import SCAN_SUMMED
from normzoo.backends.cpu.vector.access import at, load, load_n, prefetch, put, store
from normzoo.backends.cpu.vector.arithmetic import (
    fma,
    inverse,
    keep,
    larger,
    minus,
    narrow,
    root,
    smaller,
    splat,
    total,
    wide,
)
from normzoo.backends.cpu.vector.lanes import LANES
from normzoo.backends.cpu.vector.workspaces import clear, workspace

SHIFT, TOTAL, M2 = range(1, 4)  # of `state`, (4, b) float64


@helper
def values_of(given):
    """In a step."""
    return given.dims[2] * given.dims[3]


@helper
def shift_of(given, b):
    """What the moments of a sample are around."""
    return at(given.state, SHIFT * given.dims[0] + b)


@helper
def begin(given, b, start, stride):
    """The shift of a sample whose first step begins at `start`: exact where that is constant."""
    first, more, m = wide(at(given.x, start)), 0.0, values_of(given)
    for j in range(m):
        more += wide(at(given.x, start + j * stride)) - first
    put(given.state, SHIFT * given.dims[0] + b, first + more / float(m))


@helper
def take_in(given, taken, b, t, sums):
    """One step more, of the sums of its values and of their squares around the shift: its statistics."""
    batch, steps, _, _ = given.dims
    s, q = sums
    m, k = float(values_of(given)), float(taken.steps + t + 1)
    so_far, m2 = at(given.state, TOTAL * batch + b), at(given.state, M2 * batch + b)
    own = s / m
    apart = own - so_far / larger(k - 1.0, 1.0)
    so_far += own
    m2 += larger(q - s * own, 0.0) + apart * apart * (m * (k - 1.0) / k)
    put(given.state, TOTAL * batch + b, so_far)
    put(given.state, M2 * batch + b, m2)
    put(given.stats, b * steps + t, so_far / k)
    put(given.stats, (batch + b) * steps + t, inverse(root(m2 / (m * k) + taken.eps)))


@helper
def take_back(given, b, t, later, sums):
    """What dx = (g - mean) * rstd + constant + xhat * slope takes of a step, from sum(g), sum(g * xhat) and what later
    steps add, around the shift: `later` is a constant and a slope, and goes on."""
    batch, steps, _, _ = given.dims
    g, gx = sums
    mean, rstd = at(given.stats, b * steps + t), at(given.stats, (batch + b) * steps + t)
    constant, slope = later
    count = float(t + 1) * float(values_of(given))
    square = -(rstd * rstd * gx) / count
    going_on = constant - rstd * g / count - square * mean, slope + square
    return going_on, (g / count, constant + mean * slope, (slope + square) * inverse(rstd))


@helper
def taken_by(given, mean, constant, slope, rstd):
    """The same as lanes or scalars that x is computed in: mean as -mean, and what its rounding is short of in the
    constant."""
    high = narrow(mean, given.x)
    return minus(high), narrow(constant + (wide(high) - mean) * rstd, given.x), narrow(slope, given.x)


@helper
def gradient_of(d, w, z, factors, rstd):
    """dx of lanes."""
    mean, constant, slope = factors
    return fma(fma(d, w, mean), rstd, fma(z, slope, constant))


@helper
def affine_from(given, b, t, left):
    """Of the steps from t on, by lanes; 0 behind `left`."""
    batch, steps, _, _ = given.dims
    mean, rstd = load_n(given.stats, b * steps + t, left), load_n(given.stats, (batch + b) * steps + t, left)
    return affine_of(mean + keep(splat(shift_of(given, b)), left), rstd, given.x), narrow(rstd, given.x)


@helper
def affine_at(given, b, t):
    """Of one step, in all lanes."""
    batch, steps, _, _ = given.dims
    mean, rstd = at(given.stats, b * steps + t), at(given.stats, (batch + b) * steps + t)
    scale, shift, fine, r = affine_of(mean + shift_of(given, b), rstd, given.x)
    return (splat(scale), splat(shift), splat(fine), splat(r)), splat(narrow(rstd, given.x))


@helper
def add_up(plane, i, v):
    """plane[i : i + 16] += v."""
    store(plane, i, load(plane, i) + v)


# -- forward -------------------------------------------------------------------------------------------------------


@helper
def forward_over_time(b, given, bias, taken):
    """A sample whose last axis is time: sixteen steps, lane by lane."""
    _, steps, c, n = given.dims
    x, start, room = given.x, b * values_of(given) * given.dims[1], workspace(2 * LANES, given.stats)
    if taken.steps == 0:
        begin(given, b, start, steps)
    for t in range(0, steps, LANES):
        left = smaller(steps - t, LANES)
        # 1 moments
        shift, s, q = splat(shift_of(given, b)), splat(0.0), splat(0.0)
        for i in range(start + t, start + t + c * n * steps, steps):
            prefetch(x, i + 4 * LANES)
            prefetch(given.result, i)
            v = wide(part_of(x, i, left)) - shift
            s += v
            q = fma(v, v, q)
        store(room, 0, s)
        store(room, LANES, q)
        for k in range(left):
            take_in(given, taken, b, t + k, (at(room, k), at(room, LANES + k)))
        # 2 normalize
        affine, _ = affine_from(given, b, t, left)
        i = start + t
        for j in range(c):
            w, a = splat(at(given.weight, j)), splat(at(bias, j))
            for _ in range(n):
                put_lanes(given.result, i, fma(standardize(part_of(x, i, left), *affine), w, a), left)
                i += steps


@helper
def forward_over_channels(b, given, bias, taken):
    """A sample whose steps lie one behind the other."""
    _, steps, c, _ = given.dims
    x, m = given.x, values_of(given)
    if taken.steps == 0:
        begin(given, b, b * steps * m, 1)
    for t in range(steps):
        start = (b * steps + t) * m
        # 1 moments
        shift, s, q = splat(shift_of(given, b)), splat(0.0), splat(0.0)
        for j in range(0, m, LANES):
            v = wide(part_of(x, start + j, m - j)) - shift
            if m - j < LANES:
                v = keep(v, m - j)
            s += v
            q = fma(v, v, q)
        take_in(given, taken, b, t, (total(s), total(q)))
        # 2 normalize
        affine, _ = affine_at(given, b, t)
        for i in range(start, start + m, c):
            for j in range(0, c, LANES):
                left = c - j
                z = standardize(part_of(x, i + j, left), *affine)
                put_lanes(given.result, i + j, fma(z, part_of(given.weight, j, left), part_of(bias, j, left)), left)


# -- backward ------------------------------------------------------------------------------------------------------


@helper
def back_over_time(b, given, dy, sums):
    """The way back of `forward_over_time`."""
    batch, steps, c, n = given.dims
    x, m = given.x, values_of(given)
    start, room = b * m * steps, workspace(3 * LANES, given.stats)
    dw, db = workspace(m * LANES, x), workspace(m * LANES, x)
    clear(dw, 0, m * LANES)
    clear(db, 0, m * LANES)
    later = 0.0, 0.0
    blocks = (steps + LANES - 1) // LANES
    for block in range(blocks):
        t = (blocks - 1 - block) * LANES
        left = smaller(steps - t, LANES)
        affine, rstd = affine_from(given, b, t, left)
        # 1 moments
        s, q, i, h = splat(0.0), splat(0.0), start + t, 0
        for j in range(c):
            w = splat(at(given.weight, j))
            for _ in range(n):
                prefetch(x, i - 4 * LANES)
                prefetch(dy, i - 4 * LANES)
                prefetch(given.result, i)
                d = part_of(dy, i, left)
                dz = d * standardize(part_of(x, i, left), *affine)
                add_up(dw, h, dz)
                add_up(db, h, d)
                s += wide(d * w)
                q += wide(dz * w)
                i += steps
                h += LANES
        store(room, 0, s)
        store(room, LANES, q)
        for k in range(left - 1, -1, -1):
            later, (mean, constant, slope) = take_back(given, b, t + k, later, (at(room, k), at(room, LANES + k)))
            put(room, k, mean)
            put(room, LANES + k, constant)
            put(room, 2 * LANES + k, slope)
        # 2 normalize
        exact = load_n(given.stats, (batch + b) * steps + t, left)
        factors = taken_by(given, load(room, 0), load(room, LANES), load(room, 2 * LANES), exact)
        i = start + t
        for j in range(c):
            w = splat(at(given.weight, j))
            for _ in range(n):
                z = standardize(part_of(x, i, left), *affine)
                put_lanes(given.result, i, gradient_of(part_of(dy, i, left), w, z, factors, rstd), left)
                i += steps
        if block % SCAN_SUMMED == SCAN_SUMMED - 1 or block == blocks - 1:
            for j in range(m):
                for plane, to in ((dw, b * m + j), (db, (batch + b) * m + j)):
                    put(sums, to, at(sums, to) + total(wide(load(plane, j * LANES))))
            clear(dw, 0, m * LANES)
            clear(db, 0, m * LANES)


@helper
def back_over_channels(b, given, dy, sums):
    """The way back of `forward_over_channels`."""
    batch, steps, c, _ = given.dims
    x, m = given.x, values_of(given)
    width = m + LANES
    dw, db = workspace(width, x), workspace(width, x)
    clear(dw, 0, width)
    clear(db, 0, width)
    later = 0.0, 0.0
    for turn in range(steps):
        t = steps - 1 - turn
        start = (b * steps + t) * m
        affine, rstd = affine_at(given, b, t)
        # 1 moments
        s, q = splat(0.0), splat(0.0)
        for i in range(0, m, c):
            for j in range(0, c, LANES):
                left, w = c - j, part_of(given.weight, j, c - j)
                d = part_of(dy, start + i + j, left)
                dz = d * standardize(part_of(x, start + i + j, left), *affine)
                add_up(dw, i + j, dz)
                add_up(db, i + j, d)
                s += wide(d * w)
                q += wide(dz * w)
        later, (mean, constant, slope) = take_back(given, b, t, later, (total(s), total(q)))
        # 2 normalize
        exact = at(given.stats, (batch + b) * steps + t)
        mean, constant, slope = taken_by(given, mean, constant, slope, exact)
        factors = splat(mean), splat(constant), splat(slope)
        for i in range(0, m, c):
            for j in range(0, c, LANES):
                left, w = c - j, part_of(given.weight, j, c - j)
                z = standardize(part_of(x, start + i + j, left), *affine)
                d = part_of(dy, start + i + j, left)
                put_lanes(given.result, start + i + j, gradient_of(d, w, z, factors, rstd), left)
        if turn % SCAN_SUMMED == SCAN_SUMMED - 1 or turn == steps - 1:
            for plane, to in ((dw, b * m), (db, (batch + b) * m)):
                for j in range(0, m, LANES):
                    v = load_n(sums, to + j, m - j) + wide(load(plane, j))
                    put_lanes(sums, to + j, v, m - j)
            clear(dw, 0, width)
            clear(db, 0, width)


@cache
def forward(over_time):
    """Statistics and y."""

    @helper
    def work(pool, given, bias, taken):
        if over_time:
            share(pool, given.dims[0], forward_over_time, (given, bias, taken))
        else:
            share(pool, given.dims[0], forward_over_channels, (given, bias, taken))

    return scan_kernel("scans_forward", work)


@cache
def backward(over_time):
    """dx and what parameters' gradients are sums of."""

    @helper
    def work(pool, given, dy, sums):
        if over_time:
            share(pool, given.dims[0], back_over_time, (given, dy, sums))
        else:
            share(pool, given.dims[0], back_over_channels, (given, dy, sums))

    return scan_back_kernel("scans_backward", work)
