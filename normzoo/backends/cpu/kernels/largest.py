"""Where the values lie that are furthest from a channel's center: x is (b, c, n), or (b, n, c) in memory.

A turn reads a part of the values once. It holds the k furthest of each channel in a heap, whose root is the nearest of
them; the root only moves outwards, so that soon whole vectors are passed over by one comparison. Of equal distances the
first counts. Which values are found depends neither on the parts nor on threads.
"""

from functools import cache
from typing import Any

from normzoo.backends.cpu.compiling.jit import helper
from normzoo.backends.cpu.kernels.making import largest_kernel
from normzoo.backends.cpu.parallel.sharing import share
from normzoo.backends.cpu.schedule import CELL_PIECE
from normzoo.backends.cpu.vector.access import at, load, load_n, put, store
from normzoo.backends.cpu.vector.arithmetic import lane, magnitude, smaller, splat, wide
from normzoo.backends.cpu.vector.comparing import below, is_outside
from normzoo.backends.cpu.vector.lanes import LANES
from normzoo.backends.cpu.vector.workspaces import workspace


@helper
def is_nearer(given, i, far, place):
    """Does what a heap has at i leave it before this distance, at this place?"""
    own = at(given.far, i)
    return own < far or (own == far and at(given.places, i) > place)


@helper
def offer(given, heap, far, place):
    """Put a value into the heap that begins at `heap`, in place of its root, if it is further away."""
    k = given.k
    if not at(given.far, heap) < far:
        return
    i, child = 0, 1
    while child < k:
        other = heap + child
        if child + 1 < k and is_nearer(given, other + 1, at(given.far, other), at(given.places, other)):
            other += 1
        if not is_nearer(given, other, far, place):
            break
        put(given.far, heap + i, at(given.far, other))
        put(given.places, heap + i, at(given.places, other))
        i = other - heap
        child = 2 * i + 1
    put(given.far, heap + i, far)
    put(given.places, heap + i, place)


@helper
def distances(given, i, center, left):
    """Of up to LANES values from their centers, in float64; followed by anything."""
    v = load(given.x, i) if left >= LANES else load_n(given.x, i, left)
    return magnitude(wide(v) - center)


@helper
def are_some_further(far, least):
    return is_outside(below(least, far, splat(1.0)), 0.0, 0.5)


@helper
def along(t, given):
    """Some values of a channel."""
    b, c, n = given.dims
    channel, part = t // given.parts, t % given.parts
    pieces = (n + CELL_PIECE - 1) // CELL_PIECE
    center, heap = splat(at(given.center, channel)), t * given.k
    least = splat(at(given.far, heap))
    for u in range(part * (b * pieces) // given.parts, (part + 1) * (b * pieces) // given.parts):
        skip = u % pieces * CELL_PIECE
        i = (u // pieces * c + channel) * n + skip
        end = i + smaller(CELL_PIECE, n - skip)
        while i < end:
            left = smaller(LANES, end - i)
            far = distances(given, i, center, left)
            if are_some_further(far, least):
                for h in range(left):
                    offer(given, heap, lane(far, h), i + h)
                least = splat(at(given.far, heap))
            i += LANES


@helper
def across(t, given):
    """Some rows of all channels."""
    b, c, n = given.dims
    rows, k = b * n, given.k
    room = (c + LANES - 1) // LANES * LANES
    roots = workspace(room, given.center)
    for j in range(0, room, LANES):
        store(roots, j, splat(-1.0))
    for row in range(t * rows // given.parts, (t + 1) * rows // given.parts):
        for j in range(0, c, LANES):
            left = smaller(LANES, c - j)
            center = load(given.center, j) if left >= LANES else load_n(given.center, j, left)
            far = distances(given, row * c + j, center, left)
            if are_some_further(far, load(roots, j)):
                for h in range(left):
                    heap = (t * c + j + h) * k
                    offer(given, heap, lane(far, h), row * c + j + h)
                    put(roots, j + h, at(given.far, heap))


@cache
def largest(lanes_across: bool) -> Any:
    """The kernel; `lanes_across`: channels are last."""
    work = across if lanes_across else along

    @helper
    def all_parts(pool, given):
        share(pool, given.parts if lanes_across else given.dims[1] * given.parts, work, (given,))

    return largest_kernel(f"largest({lanes_across})", all_parts)
