"""The way back of `levels.py`, where sums of dy times what is left, and of dy, come first; and the gradient of maps."""

from functools import cache

from normzoo.backends.cpu.compiling.jit import helper
from normzoo.backends.cpu.kernels.levels import cells_of, finding, place_of, room_of, strip_of
from normzoo.backends.cpu.kernels.making_of_series import levels_back_kernel, levels_maps_kernel
from normzoo.backends.cpu.kernels.moments import put_lanes
from normzoo.backends.cpu.kernels.windows import part_of
from normzoo.backends.cpu.schedule import SUMMED_VECTORS
from normzoo.backends.cpu.vector.access import at, load, load_n, prefetch, put, store, zeros
from normzoo.backends.cpu.vector.arithmetic import fma, inverse, larger, minus, narrow, smaller, splat, total, wide
from normzoo.backends.cpu.vector.comparing import is_outside
from normzoo.backends.cpu.vector.lanes import LANES
from normzoo.backends.cpu.vector.workspaces import clear, workspace


@cache
def backward(across, mapped, outside):
    """dx, sums of dy * xhat and of dy, and the gradient of every level."""
    _, std_of = finding(mapped, outside)

    @helper
    def slopes_of(given, stats, weight, along, added):
        """What dx is made of, and the sum of dy * xhat: of lanes or numbers."""
        deviation, rest = stats
        divisor, eps, _, _ = given.limits
        std = std_of(deviation, eps)
        rstd = inverse(std)
        g, xhats = weight * rstd, along * rstd
        more = xhats * g * inverse((deviation if outside else std) * divisor)
        of_level = more * rest - g * added
        return g, minus(more), of_level, xhats

    @helper
    def split_at(given, k, left):
        """The level of cells from k on, as a number of the type of x and what it lacks."""
        level = load_n(given.stats, k, left)
        high = narrow(level, given.x)
        return high, narrow(level - wide(high), given.x)

    @helper
    def some_columns(t, given, dy, found, far):
        sums, levels = found
        b, n, c = given.dims
        x, (owner, begin, end) = given.x, place_of(given, t)
        start, room, cells = owner * n * c, room_of(given), b * c
        own, planes = workspace(2 * room, given.stats), workspace(5 * room, given.weight)
        clear(own, 0, 2 * room)
        for j in range(begin, end, LANES):
            high, low = split_at(given, owner * c + j, c - j)
            store(planes, j - begin, high)
            store(planes, room + j - begin, low)
        for first in range(0, n, strip_of(given, 2)):
            last = smaller(first + strip_of(given, 2), n)
            for j in range(begin, end, LANES):
                p, left, s, q, ahead = j - begin, c - j, zeros(x), zeros(x), (last - first) * c
                high, low = load(planes, p), load(planes, room + p)
                for i in range(first, last):
                    k = start + i * c + j
                    prefetch(x, k + ahead)
                    prefetch(dy, k + ahead)
                    d = part_of(dy, k, left)
                    s = fma(d, (part_of(x, k, left) - high) - low, s)
                    q += d
                store(own, p, load(own, p) + wide(s))
                store(own, room + p, load(own, room + p) + wide(q))
        worst = 0.0
        for j in range(begin, end, LANES):
            p, left, k = j - begin, c - j, owner * c + j
            deviation, rest = load_n(given.stats, cells + k, left), splat(0.0)
            if mapped:
                rest = load_n(given.stats, 2 * cells + k, left)
            weight, added = wide(part_of(given.weight, j, left)), load(own, room + p)
            g, more, of_level, xhats = slopes_of(given, (deviation, rest), weight, load(own, p), added)
            store(planes, 2 * room + p, narrow(g, x))
            store(planes, 3 * room + p, narrow(more, x))
            store(planes, 4 * room + p, narrow(of_level if mapped else of_level / float(n), x))
            put_lanes(sums, k, xhats, left)
            put_lanes(sums, cells + k, added, left)
            if mapped:
                put_lanes(levels, k, narrow(of_level, x), left)
            _, _, _, most = given.limits
            worst = larger(worst, 1.0 if is_outside(more, -most, most) or is_outside(of_level, -most, most) else 0.0)
        put(far, t, worst)
        for i in range(n):
            k = start + i * c
            for j in range(begin, end, LANES):
                p, left = j - begin, c - j
                d = (part_of(x, k + j, left) - load(planes, p)) - load(planes, room + p)
                of_level = load(planes, 4 * room + p)
                if mapped:
                    of_level *= part_of(given.maps, i * c + j, left)
                dx = fma(
                    part_of(dy, k + j, left), load(planes, 2 * room + p), fma(d, load(planes, 3 * room + p), of_level)
                )
                put_lanes(given.result, k + j, dx, left)

    @helper
    def sums_along(given, dy, start, high, low):
        """Of dy times what is left, and of dy, of one cell."""
        x, n, along, added = given.x, given.dims[1], splat(0.0), splat(0.0)
        for first in range(0, n, SUMMED_VECTORS * LANES):
            s, q = zeros(x), zeros(x)
            for j in range(first, smaller(first + SUMMED_VECTORS * LANES, n), LANES):
                d = part_of(dy, start + j, n - j)
                s = fma(d, (part_of(x, start + j, n - j) - high) - low, s)
                q += d
            along += wide(s)
            added += wide(q)
        return total(along), total(added)

    @helper
    def some_cells(t, given, dy, found, far):
        sums, levels = found
        b, n, c = given.dims
        x, (first, last), cells, worst = given.x, cells_of(given, t), b * c, 0.0
        for cell in range(first, last):
            start, channel = cell * n, cell % c
            level = at(given.stats, cell)
            rounded = narrow(level, x)
            high, low = splat(rounded), splat(narrow(level - wide(rounded), x))
            along, added = sums_along(given, dy, start, high, low)
            stats = at(given.stats, cells + cell), at(given.stats, 2 * cells + cell) if mapped else 0.0
            g, more, of_level, xhats = slopes_of(given, stats, wide(at(given.weight, channel)), along, added)
            put(sums, cell, xhats)
            put(sums, cells + cell, added)
            if mapped:
                put(levels, cell, narrow(of_level, x))
            _, _, _, most = given.limits
            worst = larger(worst, 1.0 if is_outside(more, -most, most) or is_outside(of_level, -most, most) else 0.0)
            by, turned = splat(narrow(g, x)), splat(narrow(more, x))
            constant = splat(narrow(of_level if mapped else of_level / float(n), x))
            for j in range(0, n, LANES):
                d = (part_of(x, start + j, n - j) - high) - low
                rest = constant * part_of(given.maps, channel * n + j, n - j) if mapped else constant
                put_lanes(given.result, start + j, fma(part_of(dy, start + j, n - j), by, fma(d, turned, rest)), n - j)
        put(far, t, worst)

    name = f"levels_back({across}, {mapped}, {outside})"
    return levels_back_kernel(name, some_columns if across else some_cells)


@cache
def maps_back(across):
    """The gradient of the maps: the sum over b of a cell's gradient times its values."""

    @helper
    def one_line(t, given, levels):
        """Row t of (n, c), or of (c, n)."""
        b, n, c = given.dims
        x, width = given.x, c if across else n
        for j in range(0, width, LANES):
            left, found = width - j, splat(0.0)
            for first in range(0, b, SUMMED_VECTORS):
                s = zeros(x)
                for owner in range(first, smaller(first + SUMMED_VECTORS, b)):
                    k = owner * n * c + t * width + j
                    prefetch(x, k + 4 * LANES)
                    v = part_of(x, k, left)
                    if across:
                        s = fma(v, part_of(levels, owner * c + j, left), s)
                    else:
                        s = fma(v, splat(at(levels, owner * c + t)), s)
                found += wide(s)
            put_lanes(given.result, t * width + j, found, left)

    return levels_maps_kernel(f"levels_maps({across})", one_line)
