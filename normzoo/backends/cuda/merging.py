"""Kernels that merge parts in float64, in an order that depends only on the shape; and kernels on running
statistics."""

from functools import cache

from numba import cuda
from numba.cuda import types

from normzoo.backends.cuda.accesses import load, shuffle_xor, store
from normzoo.backends.cuda.arithmetic import choose, over, rest, scalar, splat, wide
from normzoo.backends.cuda.geometry import WARP, device, labelled
from normzoo.backends.cuda.moments import inverse_root, rstd_of

LANES = 256  # threads per block
ENTRIES = types.UniTuple(types.int64, 7)  # sets, pieces, columns per set, values per column, of these per piece, b*c, 0
SUM = types.UniTuple(types.int64, 15)  # see `fold`


@device
def number(array, i):
    """array[i] as a vector of one lane."""
    return load(array, i, splat(types.int32(0), 1), 1, 1)


@device
def write(array, i, v):
    """array[i] = v, where v has one lane."""
    store(array, i, splat(types.int32(0), 1), v, 1)


@device
def over_warp(v):
    """The sum over the lanes of a warp."""
    v = v + shuffle_xor(v, 16)
    v = v + shuffle_xor(v, 8)
    v = v + shuffle_xor(v, 4)
    v = v + shuffle_xor(v, 2)
    return v + shuffle_xor(v, 1)


@device
def entry(entries, s, h):
    """Index and number of values of part h of set s; parts are ordered by piece, then by column."""
    _, _, columns, values, most, places, _ = entries
    piece = over(h, columns)
    count = min(most, values - piece * most)
    return piece * places + s * columns + rest(h, columns), splat(types.float64(count), 1)


@cache
def merge(power: int, center: bool, clamp: bool, around: bool):
    """Statistics of the sets, from the moments of their parts; one warp per set.

    `around`: the parts are sums of |x - mean| around the mean of the set, which is in `stats` already.
    """
    rstd = rstd_of(power, clamp)

    def merge_kernel(
        partial,  # (2, pieces, sets * columns) float64: mean, spread; with `around` (1, ...)
        stats,  # (3, sets) float64, written
        entries,
        divisor,  # float64: m*n, or 1 for totals
        eps,  # float64
    ):
        lane = cuda.threadIdx.x & (WARP - 1)
        s = cuda.blockIdx.x * (LANES // WARP) + (cuda.threadIdx.x >> 5)
        sets, pieces, columns, values, _, places, _ = entries
        parts = pieces * columns if s < sets else 0
        k = types.float64(values * columns)
        zero = splat(types.float64(0.0), 1)
        # 1 the mean, relative to that of the first part: exact in a constant set
        mean = zero
        if center and not around:
            first = number(partial, s * columns if s < sets else 0)
            for h in range(lane, parts, WARP):
                i, count = entry(entries, s, h)
                mean = mean + (number(partial, i) - first) * count
            mean = first + over_warp(mean) / k
        # 2 the spread around it
        spread = zero
        for h in range(lane, parts, WARP):
            i, count = entry(entries, s, h)
            if around:
                spread = spread + number(partial, i)
            else:
                spread = spread + number(partial, pieces * places + i)
                if center:
                    away = number(partial, i) - mean
                    spread = spread + away * away * count
        spread = over_warp(spread) / divisor
        if power == 0:
            spread = zero
        if lane == 0 and s < sets:
            if not around:
                write(stats, s, mean)
            write(stats, sets + s, spread)
            write(stats, 2 * sets + s, rstd(spread, eps, zero + 1.0))

    return labelled(merge_kernel, f"power {power}{' center' * center}{' around' * around}")


@cache
def merge_sums(center: bool, weighted: bool):
    """The arguments of `gradient`, from the sums over the parts of the sets; one warp per set."""

    def merge_sums_kernel(
        partial,  # (4, pieces, sets * columns) float64: mean(g), sum((g - mean) * xhat), sum(xhat), sum(sign(xhat))
        weight,  # (pb, pm, pc, pn); with `weighted` the parts are those of dy, not of g
        stats,  # (3, sets) float64
        means,  # (3, sets) float64, written
        sums,  # (2, sets * columns) float64, written with `weighted`: dy*xhat and dy
        entries,
        params,
        width,  # number of columns per b: sets times columns per set
        divisor,  # float64: m*n, or 1 for totals
        limit,  # float64: rstd of a clamped set, or inf
    ):
        lane = cuda.threadIdx.x & (WARP - 1)
        s = cuda.blockIdx.x * (LANES // WARP) + (cuda.threadIdx.x >> 5)
        sets, pieces, columns, values, _, places, _ = entries
        parts = pieces * columns if s < sets else 0
        k = types.float64(values * columns)
        zero = splat(types.float64(0.0), 1)
        plane = pieces * places
        # 1 the mean of g
        g_mean, gx, signs = zero, zero, zero
        for h in range(lane, parts, WARP):
            i, count = entry(entries, s, h)
            w = zero + 1.0
            if weighted:
                column = s * columns + rest(h, columns)
                w = wide(
                    number(weight, rest(over(column, width), params[0]) * params[1] + rest(column, width) * params[3])
                )
            g_mean = g_mean + w * number(partial, i) * count
            signs = signs + number(partial, 3 * plane + i)
        g_mean = over_warp(g_mean) / k
        signs = over_warp(signs) / k
        # 2 the sum of (g - mean) * xhat
        for h in range(lane, parts, WARP):
            i, _ = entry(entries, s, h)
            w = zero + 1.0
            if weighted:
                column = s * columns + rest(h, columns)
                w = wide(
                    number(weight, rest(over(column, width), params[0]) * params[1] + rest(column, width) * params[3])
                )
            gx = gx + w * number(partial, plane + i)
            if center:
                gx = gx + (w * number(partial, i) - g_mean) * number(partial, 2 * plane + i)
        gx = over_warp(gx) / divisor
        if lane == 0 and s < sets:
            held = splat(limit, 1) <= number(stats, 2 * sets + s)
            write(means, s, g_mean)
            write(means, sets + s, choose(held, 0.0, gx))
            write(means, 2 * sets + s, signs)
        if weighted:
            for e in range(lane, columns if s < sets else 0, WARP):
                dw, db = zero, zero
                for piece in range(pieces):
                    i, count = entry(entries, s, piece * columns + e)
                    db = db + number(partial, i) * count
                middle = zero
                if columns == 1:  # then sum(xhat) is 0, up to rounding
                    middle = db / k
                for piece in range(pieces):
                    i, _ = entry(entries, s, piece * columns + e)
                    dw = dw + number(partial, plane + i)
                    if center:
                        dw = dw + (number(partial, i) - middle) * number(partial, 2 * plane + i)
                write(sums, s * columns + e, dw)
                write(sums, places + s * columns + e, db)

    return labelled(merge_sums_kernel, f"{'center ' * center}{'weighted' * weighted}".strip())


@cache
def fold(outputs: int):
    """Sums over three strided axes, for both gradients; a block computes `outputs` adjacent results.

    Output o = (o0, o1, o2) starts at o0*s0 + o1*s1 + o2//q*s2 + o2%q*s3, and sums over the three axes from there.
    """
    across = LANES // outputs

    def fold_kernel(
        source,  # float32 or float64
        dweight,  # written
        dbias,  # written
        axes,  # (o1, o2, q, s0, s1, s2, s3, a0, a1, a2, t0, t1, t2, outputs, start of those of dbias)
    ):
        shared = cuda.shared.array(LANES, types.float64)
        lane, share = rest(cuda.threadIdx.x, outputs), over(cuda.threadIdx.x, outputs)
        o1, o2, q, s0, s1, s2, s3, a0, a1, a2, t0, t1, t2, number_of, second = axes
        o = cuda.blockIdx.x * outputs + lane
        row, column = over(o, o2), rest(o, o2)
        first = over(row, o1) * s0 + rest(row, o1) * s1 + over(column, q) * s2 + rest(column, q) * s3
        if cuda.blockIdx.y == 1:
            first += second
        found = splat(types.float64(0.0), 1)
        for h in range(share, a0 * a1 * a2 if o < number_of else 0, across):
            row = over(h, a2)
            there = over(row, a1) * t0 + rest(row, a1) * t1 + rest(h, a2) * t2
            found = found + wide(number(source, first + there))
        shared[share * outputs + lane] = scalar(found)
        cuda.syncthreads()
        if share == 0 and o < number_of:
            found = splat(types.float64(0.0), 1)
            for h in range(across):
                found = found + shared[h * outputs + lane]
            if cuda.blockIdx.y == 1:
                write(dbias, o, found)
            else:
                write(dweight, o, found)

    return labelled(fold_kernel, f"to {outputs}")


@cache
def update():
    """running = (1 - momentum) * running + momentum * new."""

    def update_kernel(
        running_mean,  # (channels,) float32 or float64
        running_var,  # as running_mean
        stats,  # (3, b, c) float64
        channels,
        repeats,  # b*c / channels
        keep,  # 1 - momentum
        take,  # momentum
        take_unbiased,  # momentum * count / (count - 1)
    ):
        j = cuda.blockIdx.x * LANES + cuda.threadIdx.x
        if j < channels:
            mean, spread = splat(types.float64(0.0), 1), splat(types.float64(0.0), 1)
            for s in range(repeats):
                mean = mean + number(stats, s * channels + j)
                spread = spread + number(stats, (repeats + s) * channels + j)
            write(running_mean, j, wide(number(running_mean, j)) * keep + mean * take / types.float64(repeats))
            write(running_var, j, wide(number(running_var, j)) * keep + spread * take_unbiased / types.float64(repeats))

    return update_kernel


@cache
def constants():
    """Statistics for `apply`, from running statistics."""

    def constants_kernel(
        mean,  # (channels,) float32 or float64
        variance,  # as mean
        stats,  # (3, b, c) float64, written
        channels,  # b*c
        eps,  # float64
    ):
        j = cuda.blockIdx.x * LANES + cuda.threadIdx.x
        if j < channels:
            var = wide(number(variance, j))
            write(stats, j, wide(number(mean, j)))
            write(stats, channels + j, var)
            rstd = inverse_root(var + eps)
            write(stats, 2 * channels + j, choose(var + eps <= 0.0, choose(var + eps < 0.0, rstd, 0.0), rstd))

    return constants_kernel


@cache
def copy(rank: int):
    """target[...] = source, for strided arrays, with conversion; a source with strides 0 is a number."""

    def copy_kernel(
        source,
        target,  # written
        shape,  # of both arrays, with `rank` axes
        from_strides,  # in elements
        to_strides,  # in elements
        size,
    ):
        i = cuda.blockIdx.x * LANES + cuda.threadIdx.x
        if i < size:
            there, here = 0, 0
            for axis in range(rank - 1, -1, -1):
                there += i % shape[axis] * from_strides[axis]
                here += i % shape[axis] * to_strides[axis]
                i = i // shape[axis]
            write(target, here, number(source, there))

    return labelled(copy_kernel, f"rank {rank}")
