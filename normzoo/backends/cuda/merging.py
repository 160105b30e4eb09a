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
EXCHANGED = 2 * LANES // WARP  # numbers in shared memory: those of each warp, in turns
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


@cache
def total_over(team: int):
    """(v, shared, turn) -> the sum over a team, a warp or a block; `turn` counts the calls within a kernel."""

    @device
    def total(v, shared, turn):
        v = over_warp(v)
        if team > WARP:
            first = (turn & 1) * (LANES // WARP)
            if cuda.threadIdx.x & (WARP - 1) == 0:
                shared[first + (cuda.threadIdx.x >> 5)] = scalar(v)
            cuda.syncthreads()
            v = splat(types.float64(0.0), 1)
            for warp in range(LANES // WARP):
                v = v + shared[first + warp]
        return v

    return total


@device
def entry(entries, s, h):
    """Index and number of values of part h of set s; parts are ordered by piece, then by column."""
    _, _, columns, values, most, places, _ = entries
    piece = over(h, columns)
    count = min(most, values - piece * most)
    return piece * places + s * columns + rest(h, columns), splat(types.float64(count), 1)


@cache
def merge(power: int, center: bool, clamp: bool, around: bool, team: int):
    """Statistics of the sets, from the moments of their parts; a warp or a block for each set.

    `around`: the parts are sums of |x - mean| around the mean of the set, which is in `stats` already.
    """
    rstd, total, log_team = rstd_of(power, clamp), total_over(team), team.bit_length() - 1

    def merge_kernel(
        partial,  # (2, pieces, sets * columns) float64: mean, spread; with `around` (1, ...)
        stats,  # (3, sets) float64, written
        entries,
        divisor,  # float64: m*n, or 1 for totals
        eps,  # float64
    ):
        shared = cuda.shared.array(EXCHANGED, types.float64)
        lane = cuda.threadIdx.x & (team - 1)
        s = cuda.blockIdx.x * (LANES // team) + (cuda.threadIdx.x >> log_team)
        sets, pieces, columns, values, _, places, _ = entries
        parts = pieces * columns if s < sets else 0
        k = types.float64(values * columns)
        zero = splat(types.float64(0.0), 1)
        # 1 the mean, relative to that of the first part: exact in a constant set
        mean = zero
        if center and not around:
            first = number(partial, s * columns if s < sets else 0)
            for h in range(lane, parts, team):
                i, count = entry(entries, s, h)
                mean = mean + (number(partial, i) - first) * count
            mean = first + total(mean, shared, 0) / k
        # 2 the spread around it
        spread = zero
        for h in range(lane, parts, team):
            i, count = entry(entries, s, h)
            if around:
                spread = spread + number(partial, i)
            else:
                spread = spread + number(partial, pieces * places + i)
                if center:
                    away = number(partial, i) - mean
                    spread = spread + away * away * count
        spread = total(spread, shared, 1) / divisor
        if power == 0:
            spread = zero
        if lane == 0 and s < sets:
            if not around:
                write(stats, s, mean)
            write(stats, sets + s, spread)
            write(stats, 2 * sets + s, rstd(spread, eps, zero + 1.0))

    flags = " center" * center + " around" * around + " by blocks" * (team > WARP)
    return labelled(merge_kernel, f"power {power}{flags}")


@cache
def merge_sums(center: bool, weighted: bool, single: bool, team: int):
    """The arguments of `gradient`, from the sums over the parts of the sets; a warp or a block for each set.

    `weighted`: the parts are those of dy, and the sums of every column are written too. With `single` a set has one
    column, whose weight is taken in at the end: its sums are those of the set.
    """
    total, log_team = total_over(team), team.bit_length() - 1
    each_weight = weighted and not single

    def merge_sums_kernel(
        partial,  # (4, pieces, sets * columns) float64: mean(g), sum((g - mean) * xhat), sum(xhat), sum(sign(xhat))
        weight,  # (pb, pm, pc, pn)
        stats,  # (3, sets) float64
        means,  # (3, sets) float64, written
        sums,  # (2, sets * columns) float64, written with `weighted`: dy*xhat and dy
        entries,
        params,
        width,  # number of columns per b: sets times columns per set
        divisor,  # float64: m*n, or 1 for totals
        limit,  # float64: rstd of a clamped set, or inf
    ):
        shared = cuda.shared.array(EXCHANGED, types.float64)
        lane = cuda.threadIdx.x & (team - 1)
        s = cuda.blockIdx.x * (LANES // team) + (cuda.threadIdx.x >> log_team)
        sets, pieces, columns, values, _, places, _ = entries
        parts = pieces * columns if s < sets else 0
        k = types.float64(values * columns)
        zero = splat(types.float64(0.0), 1)
        plane = pieces * places
        # 1 the mean of g
        g_sum, gx, signs = zero, zero, zero
        for h in range(lane, parts, team):
            i, count = entry(entries, s, h)
            w = zero + 1.0
            if each_weight:
                w = weight_of(weight, s * columns + rest(h, columns), width, params)
            g_sum = g_sum + w * number(partial, i) * count
            signs = signs + number(partial, 3 * plane + i)
        g_sum = total(g_sum, shared, 0)
        signs = total(signs, shared, 1) / k
        g_mean = g_sum / k
        # 2 the sum of (g - mean) * xhat
        for h in range(lane, parts, team):
            i, _ = entry(entries, s, h)
            w = zero + 1.0
            if each_weight:
                w = weight_of(weight, s * columns + rest(h, columns), width, params)
            gx = gx + w * number(partial, plane + i)
            if center:
                gx = gx + (w * number(partial, i) - g_mean) * number(partial, 2 * plane + i)
        gx = total(gx, shared, 2)
        if lane == 0 and s < sets:
            if weighted and single:
                write(sums, s, gx)
                write(sums, places + s, g_sum)
                w = weight_of(weight, s, width, params)
                g_mean, gx = g_mean * w, gx * w
            held = splat(limit, 1) <= number(stats, 2 * sets + s)
            write(means, s, g_mean)
            write(means, sets + s, choose(held, 0.0, gx / divisor))
            write(means, 2 * sets + s, signs)
        if each_weight:
            for e in range(lane, columns if s < sets else 0, team):
                dw, db = zero, zero
                for piece in range(pieces):
                    i, count = entry(entries, s, piece * columns + e)
                    mean = number(partial, i)
                    db = db + mean * count
                    dw = dw + number(partial, plane + i)
                    if center:
                        dw = dw + mean * number(partial, 2 * plane + i)
                write(sums, s * columns + e, dw)
                write(sums, places + s * columns + e, db)

    flags = "center " * center + "weighted " * weighted + "single " * single + "by blocks" * (team > WARP)
    return labelled(merge_sums_kernel, flags.strip())


@device
def weight_of(weight, column, width, params):
    """The parameter value of a column."""
    return wide(number(weight, rest(over(column, width), params[0]) * params[1] + rest(column, width) * params[3]))


@cache
def fold(outputs: int, rank: int):
    """Sums over strided axes, for both gradients or one; a block computes `outputs` adjacent results.

    Output o = (o0, o1, o2) starts at o0*s0 + o1*s1 + o2//q*s2 + o2%q*s3, and sums over the axes a from there, of which
    the last `rank` have more than one value.
    """
    across = LANES // outputs

    def fold_kernel(
        source,  # float32 or float64
        dweight,  # written
        dbias,  # written
        axes,  # (o1, o2, q, s0, s1, s2, s3, a0, a1, a2, t0, t1, t2, outputs, start of those of dbias)
        first_of,  # 0, or 1 for dbias alone
        scale,  # float64, that results are multiplied by
    ):
        shared = cuda.shared.array(LANES, types.float64)
        lane, share = rest(cuda.threadIdx.x, outputs), over(cuda.threadIdx.x, outputs)
        o1, o2, q, s0, s1, s2, s3, a0, a1, a2, t0, t1, t2, number_of, second = axes
        o = cuda.blockIdx.x * outputs + lane
        row, column = over(o, o2), rest(o, o2)
        is_bias = cuda.blockIdx.y + first_of == 1
        first = over(row, o1) * s0 + rest(row, o1) * s1 + over(column, q) * s2 + rest(column, q) * s3
        if is_bias:
            first += second
        found = splat(types.float64(0.0), 1)
        for h in range(share, a0 * a1 * a2 if o < number_of else 0, across):
            if rank == 1:
                there = h * t2
            elif rank == 2:
                there = over(h, a2) * t1 + rest(h, a2) * t2
            else:
                row = over(h, a2)
                there = over(row, a1) * t0 + rest(row, a1) * t1 + rest(h, a2) * t2
            found = found + wide(number(source, first + there))
        shared[share * outputs + lane] = scalar(found)
        cuda.syncthreads()
        if share == 0 and o < number_of:
            found = splat(types.float64(0.0), 1)
            for h in range(across):
                found = found + shared[h * outputs + lane]
            found = found * scale
            if is_bias:
                write(dbias, o, found)
            else:
                write(dweight, o, found)

    return labelled(fold_kernel, f"to {outputs} over {rank}")


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
