"""Images by statistics of their own: a thread sums one up and writes it while a cache holds it, and others write theirs
meanwhile. The numbers, and so the bits, are those of `pixels.py` after one pass over all images."""

from functools import cache

import numpy as np

from normzoo.backends.cpu.compiling.jit import helper, kernel
from normzoo.backends.cpu.kernels.pixels import Pass, converting, pieces_of, summing
from normzoo.backends.cpu.parallel.sharing import share
from normzoo.backends.cpu.vector.access import at, put
from normzoo.backends.cpu.vector.arithmetic import larger, magnitude, narrow, root, smaller, wide
from normzoo.backends.cpu.vector.lanes import LANES

ROUNDS = 1.5 * 2.0**52  # added to a number, and taken off again: it is whole then


@helper
def rounded(v):
    return (v + ROUNDS) - ROUNDS


@helper
def moments_of(first, second, size):
    """As `functional.images.sums.Sums.moments` has them, in integers."""
    total, squares = np.int64(first), np.int64(second)
    near = total // size
    part = (total - near * size) / size
    var = (squares - 2 * near * total + size * near * near) / size - part * part
    return near + part, root(larger(var, 0.0))


@cache
def own(of_bytes, extremes, joined, streams):
    """The kernel. `joined`: channels of an image share their statistics."""
    one_piece = summing(of_bytes, extremes)
    _, keep_layout = converting(streams)

    @helper
    def found_of(found, place, c, rows, channels):
        """Both numbers of some rows of what was found, and some channels."""
        first, second = at(found, place), at(found, place + c)
        if not extremes:
            first, second = 0.0, 0.0
        for h in range(rows):
            for j in range(channels):
                a, b = at(found, place + 2 * c * h + j), at(found, place + 2 * c * h + c + j)
                if extremes:
                    first, second = smaller(first, a), larger(second, b)
                else:
                    first, second = first + a, second + b
        return first, second

    @helper
    def put_table(given, place, width, numbers):
        """What `outside.tables_of` has of a mean and a slope, for every lane from a place on."""
        mean, slope = numbers
        c = given.dims[2]
        steps = 1.0 if magnitude(mean - rounded(mean)) < 2.0**-6 else 128.0
        near = rounded(mean * steps) / steps
        high = narrow(slope, given.bounds)
        low, rest = narrow(slope - wide(high), given.bounds), narrow((near - mean) * slope, given.bounds)
        for k in range(LANES):
            i = place + k * c
            put(given.tables, i, narrow(near, given.bounds))
            put(given.tables, i + width, high)
            put(given.tables, i + 2 * width, low)
            put(given.tables, i + 3 * width, rest)

    @helper
    def one_image(image, given, planes, eps, found):
        _, n, c = given.dims
        pieces, width = pieces_of(given.dims), LANES * c
        first, rows = image * planes * pieces, planes * pieces
        for h in range(rows):
            one_piece(first + h, given, found)
        sets = 1 if joined else planes * c
        for s in range(sets):
            plane, channel = s // c, s % c
            place = 2 * c * (first + plane * pieces) + channel
            a, b = found_of(found, place, c, rows if joined else pieces, c if joined else 1)
            size = n * planes * c // sets
            mean, deviation = (a, b - a) if extremes else moments_of(a, b, size)
            deviation += eps
            numbers = mean, 1.0 / deviation if deviation != 0.0 else 0.0
            if joined:
                for t in range(planes * c):
                    put_table(given, (image * planes + t // c) * given.step + t % c, width, numbers)
            else:
                put_table(given, (image * planes + plane) * given.step + channel, width, numbers)
        for h in range(rows):
            keep_layout(first + h, given)

    @kernel
    def pixels_of_own(
        pool,
        dims,  # images, planes of one, positions, channels of a plane
        x,
        bounds,  # low, high, limit
        eps,
        found,  # (planes of all images, pieces, 2, c) float64, written
        tables,  # written
        y,
    ):
        images, planes, n, c = dims
        given = Pass((images * planes, n, c), x, tables, 4 * LANES * c, bounds, y)
        share(pool, images, one_image, (given, planes, eps, found))

    return pixels_of_own
