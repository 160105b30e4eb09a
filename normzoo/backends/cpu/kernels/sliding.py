"""Lines of values, each by the mean and variance of the window of steps around it; and the gradients. Lanes run over
sixteen lines, all in float64; `following.py` reads and writes them.

Time is cut into blocks as long as a window. A window is the end of one block and the beginning of the next: sums of
ends are made backwards when a block is complete, sums of beginnings as steps come. So a step takes a few additions
whatever the window is, and nothing is subtracted that was added before. Each of the two sums is around a value at the
border of the blocks, which is in every window that has a share in it: no further from its mean than all its values
together. Going back, sums of what windows ask of their steps are made in the same way, a window later.
"""

from functools import cache

from normzoo.backends.cpu.compiling.jit import helper
from normzoo.backends.cpu.kernels.following import BLOCK, groups_of, number, reading, writing
from normzoo.backends.cpu.kernels.making_of_series import slide_back_kernel, slide_kernel
from normzoo.backends.cpu.kernels.moments import put_lanes
from normzoo.backends.cpu.vector.access import load, store
from normzoo.backends.cpu.vector.arithmetic import fma, inverse, larger, root, splat
from normzoo.backends.cpu.vector.lanes import LANES
from normzoo.backends.cpu.vector.workspaces import clear, workspace


@helper
def put_ends(values, base, sums, first, last):
    """sums[o] = the sum of values[base + o : base + last] around the last of them, and of squares, one window behind;
    for o from `first`, before which there are none."""
    pivot = load(values, (base + last - 1) * LANES)
    window = sums.size // (2 * LANES)
    s = q = splat(0.0)
    for k in range(last - first):
        o = last - 1 - k
        z = load(values, (base + o) * LANES) - pivot
        s += z
        q = fma(z, z, q)
        store(sums, o * LANES, s)
        store(sums, (window + o) * LANES, q)
    for o in range(first):
        store(sums, o * LANES, s)
        store(sums, (window + o) * LANES, q)
    return pivot


@helper
def moments_of(given, s, q, count):
    """Mean, around what sums are around, and rstd."""
    mean = s * (1.0 / float(count))
    var = larger(q - s * mean, splat(0.0)) * (1.0 / float(count))
    return mean, inverse(root(var + given.eps))


@helper
def joined(ends, at, delta, s, q, left):
    """Sums of a window: those of a beginning, and `left` steps of an end, whose pivot is `delta` further."""
    if left > 0:
        window = ends.size // (2 * LANES)
        more, squares = load(ends, at * LANES), load(ends, (window + at) * LANES)
        shift = delta * float(left)
        s += more + shift
        q += squares + delta * (more + more + shift)
    return s, q


@cache
def forward(time_last):
    """y."""
    read, write = reading(time_last), writing(time_last)

    @helper
    def some_lines(turn, given, place):
        steps = given.dims[1]
        b, i = turn // groups_of(given.dims), turn % groups_of(given.dims) * LANES
        before, after, o = place
        window = before + 1 + after
        block, room, out = (
            workspace(BLOCK, given.numbers),
            workspace(BLOCK, given.numbers),
            workspace(BLOCK, given.numbers),
        )
        ring, ends = workspace(2 * window * LANES, given.numbers), workspace(2 * window * LANES, given.numbers)
        clear(room, 0, BLOCK)
        weight, bias = number(given, 0, i), number(given, 1, i)
        first, last, held, half = o, o, 0, 0  # of the block where values begin and end, and the end of the one before
        old = pivot = s = q = splat(0.0)
        delta, count = splat(0.0), 0
        for t in range(steps + after):
            if t < steps and t % LANES == 0:
                read(given, given.x, b, i, t, block, room)
            if t < steps:
                v = load(block, t % LANES * LANES)
                store(ring, (half * window + o) * LANES, v)
                if o == first:
                    pivot, delta = v, old - v
                    s = q = splat(0.0)
                    count = 0
                s += v - pivot
                q = fma(v - pivot, v - pivot, q)
                count += 1
                last = o + 1
            elif o == 0:
                pivot, delta, count = old, splat(0.0), 0
                s = q = splat(0.0)
            if t >= after:
                left = larger(held - 1 - o, 0)
                total, squares = joined(ends, o + 1, delta, s, q, left)
                mean, rstd = moments_of(given, total, squares, count + left)
                k, there = t - after, half * window + o - after
                if o < after:
                    there = (1 - half) * window + o - after + window
                v = load(ring, there * LANES)
                store(out, k % LANES * LANES, fma(((v - pivot) - mean) * rstd, weight, bias))
                if k % LANES == LANES - 1 or k == steps - 1:
                    write(given, b, i, k - k % LANES, out)
            o += 1
            if o == window:
                if last > first:
                    old = put_ends(ring, half * window, ends, first, last)
                held, half, o, first, last = last, 1 - half, 0, 0, 0

    return slide_kernel(f"slide({time_last})", some_lines)


@helper
def put_ends_back(asked, base, window, last):
    """Of three planes, a, b and mean of windows, the sums of a, of b and of b * (mean - the last mean), in place."""
    far = 2 * window
    pivot = load(asked, (2 * far + base + last - 1) * LANES)
    s = slope = shift = splat(0.0)
    for k in range(last):
        o = (base + last - 1 - k) * LANES
        b = load(asked, far * LANES + o)
        s += load(asked, o)
        slope += b
        shift = fma(b, load(asked, 2 * far * LANES + o) - pivot, shift)
        store(asked, o, s)
        store(asked, far * LANES + o, slope)
        store(asked, 2 * far * LANES + o, shift)
    return pivot


@cache
def backward(time_last):
    """dx, and sums over time of dy * xhat and of dy.

    Step t of x comes first; with it the window of step u = t - after is complete, and what it asks of its steps is
    known; with that dx of step u - before, which no later window has.
    """
    read, write = reading(time_last), writing(time_last)

    @helper
    def some_lines(turn, given, dy, sums, place):
        _, steps, n = given.dims
        b, i = turn // groups_of(given.dims), turn % groups_of(given.dims) * LANES
        before, after = place
        window = before + 1 + after
        block, gradients = workspace(BLOCK, given.numbers), workspace(BLOCK, given.numbers)
        room, out = workspace(BLOCK, given.numbers), workspace(BLOCK, given.numbers)
        ring, own = workspace(2 * window * LANES, given.numbers), workspace(2 * window * LANES, given.numbers)
        ends, asked = workspace(2 * window * LANES, given.numbers), workspace(6 * window * LANES, given.numbers)
        clear(room, 0, BLOCK)
        weight = number(given, 0, i)
        along = added = splat(0.0)
        # windows of x
        last, held, half, o, count = 0, 0, 0, 0, 0
        old = pivot = s = q = delta = splat(0.0)
        # windows of windows: where they are, and sums
        last_2, held_2, half_2, o_2, far = 0, 0, 0, 0, 2 * window
        old_2 = pivot_2 = a_2 = b_2 = m_2 = splat(0.0)
        for t in range(steps + after + before):
            if t < steps and t % LANES == 0:
                read(given, given.x, b, i, t, block, room)
            if t < steps:
                v = load(block, t % LANES * LANES)
                store(ring, (half * window + o) * LANES, v)
                if o == 0:
                    pivot, delta = v, old - v
                    s = q = splat(0.0)
                    count = 0
                s += v - pivot
                q = fma(v - pivot, v - pivot, q)
                count += 1
                last = o + 1
            elif o == 0:
                pivot, delta, count = old, splat(0.0), 0
                s = q = splat(0.0)
            u = t - after
            if u >= 0:
                if u < steps and u % LANES == 0:
                    read(given, dy, b, i, u, gradients, room)
                if u < steps:
                    left = larger(held - 1 - o, 0)
                    total, squares = joined(ends, o + 1, delta, s, q, left)
                    mean, rstd = moments_of(given, total, squares, count + left)
                    there = half * window + o - after
                    if o < after:
                        there = (1 - half) * window + o - after + window
                    d, xhat = load(gradients, u % LANES * LANES), ((load(ring, there * LANES) - pivot) - mean) * rstd
                    along = fma(d, xhat, along)
                    added += d
                    g = d * weight * rstd
                    a = g * (1.0 / float(count + left))
                    by = a * xhat * rstd
                    middle = pivot + mean
                    where = half_2 * window + o_2
                    store(own, where * LANES, g)
                    store(asked, where * LANES, a)
                    store(asked, (far + where) * LANES, by)
                    store(asked, (2 * far + where) * LANES, middle)
                    if o_2 == 0:
                        pivot_2 = middle
                        a_2 = b_2 = m_2 = splat(0.0)
                    a_2 += a
                    b_2 += by
                    m_2 = fma(by, middle - pivot_2, m_2)
                    last_2 = o_2 + 1
                elif o_2 == 0:
                    pivot_2 = old_2
                    a_2 = b_2 = m_2 = splat(0.0)
                k = u - before
                if k >= 0:
                    # x of step k is `before + after` steps back, g is `before` back
                    x_at = half * window + o + 1 - window
                    if o + 1 < window:
                        x_at = (1 - half) * window + o + 1
                    g_at = half_2 * window + o_2 - before
                    if o_2 < before:
                        g_at = (1 - half_2) * window + o_2 - before + window
                    v = load(ring, x_at * LANES)
                    found = (load(own, g_at * LANES) - a_2) - fma(b_2, v - pivot_2, -m_2)
                    if held_2 - 1 - o_2 > 0:
                        e = (1 - half_2) * window + o_2 + 1
                        slope, shift = load(asked, (far + e) * LANES), load(asked, (2 * far + e) * LANES)
                        found = (found - load(asked, e * LANES)) - fma(slope, v - old_2, -shift)
                    store(out, k % LANES * LANES, found)
                    if k % LANES == LANES - 1 or k == steps - 1:
                        write(given, b, i, k - k % LANES, out)
                o_2 += 1
                if o_2 == window:
                    if last_2 > 0:
                        old_2 = put_ends_back(asked, half_2 * window, window, last_2)
                    held_2, half_2, o_2, last_2 = last_2, 1 - half_2, 0, 0
            o += 1
            if o == window:
                if last > 0:
                    old = put_ends(ring, half * window, ends, 0, last)
                held, half, o, last = last, 1 - half, 0, 0
        line, size = b * n + i, given.dims[0] * n
        put_lanes(sums, line, along, n - i)
        put_lanes(sums, size + line, added, n - i)

    return slide_back_kernel(f"slide_back({time_last})", some_lines)
