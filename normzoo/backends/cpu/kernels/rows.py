"""Kernels of views whose last axis is reduced (n > 1): a set (b, c) has m runs of n adjacent values.

A set is split into chunks of about ROW_CHUNK values, depending only on its shape: several runs, or a piece of one. A
chunk is summed relative to the mean of some of its values and, if its own mean turns out to be far from that, again
relative to its own mean, while it is in the level-1 cache. Chunks are merged in order, in float64. So results are
bit-identical for any number of threads or sets. In this file a thread processes whole sets; in `rows_split.py` all
threads share each set.
"""

from functools import cache

import numpy as np

from normzoo.backends.around import ALONE
from normzoo.backends.cpu.compiling.jit import helper
from normzoo.backends.cpu.kernels.around import forward_steps
from normzoo.backends.cpu.kernels.making import forward_kernel
from normzoo.backends.cpu.kernels.moments import (
    affine_by,
    affine_of,
    extreme_moments,
    is_extreme,
    merge,
    read,
    rstd_of,
    standardize,
)
from normzoo.backends.cpu.kernels.records import Flags, Forward
from normzoo.backends.cpu.kernels.rows_runs import going_forward
from normzoo.backends.cpu.kernels.rows_walk import (
    as_short,
    chunk_of,
    chunking,
    next_set,
    over_run,
    parameter_at,
    parameter_step,
    parts_of,
    set_at,
    stats_of,
)
from normzoo.backends.cpu.parallel.sharing import share
from normzoo.backends.cpu.schedule import FAR_MEAN, FETCHED_SET, ROW_CHUNK, SETS_TOGETHER
from normzoo.backends.cpu.vector.access import at, put, zeros
from normzoo.backends.cpu.vector.arithmetic import fma, keep, lane, magnitude, narrow, smaller, splat, total, wide
from normzoo.backends.cpu.vector.lanes import LANES


@helper
def affine_at(given, s):
    """`affine_of` set s, as lanes."""
    mean, rstd = stats_of(given, s)
    scale, shift, fine, r = affine_of(mean, rstd, given.x)
    return splat(scale), splat(shift), splat(fine), splat(r)


@helper
def folded_at(given, s, p):
    """`affine_by` the statistics of set s and the parameters at p, as lanes."""
    mean, rstd = stats_of(given, s)
    weight, bias = np.float64(at(given.weight, p)), np.float64(at(given.bias, p))
    scale, shift, fine, r = affine_by(mean, rstd, weight, bias, given.x)
    return splat(scale), splat(shift), splat(fine), splat(r)


@helper
def near_mean(given, source, start, runs, step, length):
    """Lanes of a number near the mean of runs `step` apart: that of four vectors spread over them; of a constant chunk,
    its value."""
    x, first = given.x, source.same(given, start)
    s = zeros(x)
    if length >= LANES:
        for h in range(4):
            skip = smaller(h * length // 4, length - LANES) if runs == 1 else h * runs // 4 * step
            s += source.whole(given, start + skip) - first
    return splat(narrow(np.float64(lane(first, 0)) + np.float64(total(s)) / (4 * LANES), x))


@helper
def chunk_moments(given, start, j, flags):
    """count, mean, m2 of chunk j of the set at `start`; exact in a constant chunk."""
    _, m, c, n = given.dims
    x, center, source = given.x, flags.center, flags.steps.source
    run, runs, skip, length = chunk_of(j, m, n)
    count = float(runs * length)
    start += run * c * n + skip
    if c == 1:  # the runs are adjacent
        runs, length = 1, runs * length
    zero = zeros(x)
    shift = near_mean(given, source, start, runs, c * n, length) if center else zero
    mean, m2 = 0.0, 0.0
    for _ in range(2):
        s1, t1, s2, t2 = zero, zero, zero, zero
        for h in range(runs):
            i = start + h * c * n
            end = i + length
            while i + 2 * LANES <= end:
                a, b = source.two(given, i)
                d, e = a - shift, b - shift
                s1 += d
                t1 += e
                s2 = fma(d, d, s2)
                t2 = fma(e, e, t2)
                i += 2 * LANES
            while i + LANES <= end:
                d = source.whole(given, i) - shift
                s1 += d
                s2 = fma(d, d, s2)
                i += LANES
            if i < end:
                d = keep(source.some(given, i, end - i) - shift, end - i)
                s1 += d
                s2 = fma(d, d, s2)
        m2 = total(wide(s2 + t2))
        if not center:
            return count, 0.0, m2
        sum1 = total(wide(s1 + t1))
        by = sum1 / count
        mean = np.float64(lane(shift, 0)) + by
        m2 -= sum1 * by
        if not sum1 * by > FAR_MEAN * m2:
            break
        shift = splat(narrow(mean, x))
    return count, mean, 0.0 if m2 < 0.0 else m2


@helper
def chunk_deviations(given, start, j, mean, flags):
    """sum(|x - mean|) of chunk j of the set at `start`."""
    _, m, c, n = given.dims
    run, runs, skip, length = chunk_of(j, m, n)
    middle = splat(mean)
    s = splat(0.0)
    for h in range(run, run + runs):
        i = start + h * c * n + skip
        end = i + length
        while i < end:
            left = smaller(end - i, LANES)
            s += keep(magnitude(wide(flags.steps.source.some(given, i, left)) - middle), left)
            i += LANES
    return total(s)


@helper
def finish(given, here, mean, spread, moments, flags):
    """Write mean, spread / divisor and rstd of a set; if its values are extreme, compute them again."""
    b, _, c, _ = given.dims
    divisor, eps, clamp = moments
    power = flags.power
    if is_extreme(spread, eps, power, clamp, given.x):
        mean, spread, rstd = extreme_moments(given, here.start, moments, flags)
    else:
        spread = spread / divisor if power != 0 else 0.0
        rstd = rstd_of(spread, eps, 1.0, power, clamp)
    put(given.stats, here.index, mean)
    put(given.stats, b * c + here.index, spread)
    put(given.stats, 2 * b * c + here.index, rstd)


@helper
def y_of(given, terms, i, p, form, flags, left, full):
    """y at i, of up to LANES values: of xhat * weight + bias; `form`: weight, bias, `affine_of` the set and the level.
    Weight and bias are in the third where they are folded; they and the level are at p where each value has its own."""
    w, a, affine, level = form
    if flags.spans:
        w, a = read(given.weight, p, left, full, given.y), read(given.bias, p, left, full, given.y)
        level = flags.steps.level.each(given, p, left, full)
    v = standardize(terms[0], *affine)
    flags.steps.end(given, terms + level, v if flags.folds else fma(v, w, a), i, left, full, flags.streams)


@helper
def s_of(given, terms, i, _p, _form, flags, left, full):
    """s at i, likewise."""
    flags.steps.fill(given, terms, terms[0], i, left, full)


@helper
def chunk_join(given, here, j, _affine, flags):
    """s on chunk j of the set `here`."""
    _, m, c, n = given.dims
    first, runs, skip, length = chunk_of(j, m, n)
    for run in range(first, first + runs):
        i = here.start + run * c * n + skip
        over_run(s_of, flags.steps.sources, given, (i, i + length, 0), (), flags, 0)


@helper
def no_chunk(_given, _here, _j, _affine, _flags):
    pass


@helper
def chunk_apply(given, s, j, flags, ahead):
    """y on chunk j of set s; `ahead`: of what is fetched meanwhile."""
    dims, parameter_dims, _, weight, bias, _, _, _ = given
    _, m, c, n = dims
    here = set_at(dims, s)
    first, runs, skip, length = chunk_of(j, m, n)
    top, step = parameter_at(parameter_dims, here), parameter_step(parameter_dims)
    affine = affine_at(given, s)
    if flags.folds:
        affine = folded_at(given, s, top)
    for run in range(first, first + runs):
        i = here.start + run * c * n + skip
        p = top + run * step
        if flags.folds and step > 0:
            affine = folded_at(given, s, p)
        form = splat(at(weight, p)), splat(at(bias, p)), affine, flags.steps.level.one(given, p)
        over_run(y_of, flags.steps.terms, given, (i, i + length, p + skip), form, flags, ahead)


@helper
def together_of(dims, most):
    """Sets whose moments are found before the first is normalized, so that what must wait for the sums of one is done
    while another is read or written: of those of which a level-1 cache holds several."""
    return most if dims[1] * dims[3] <= ROW_CHUNK else 1


@cache
def forward(center, power, spans, streams, around=ALONE):
    """Statistics and y, a few sets at a time; with `streams` past the caches, which asks for runs of whole vectors."""
    spans_n, unrolls, short = parts_of(spans)
    steps = forward_steps(around, False, streams)
    flags = Flags(center, power, spans_n, streams, steps)
    join = chunk_join if steps.fills else no_chunk
    most = SETS_TOGETHER // (2 if around.residual else 1)  # x and the residual are in the cache

    @helper
    def some_sets(t, given, moments):
        if short:
            given = Forward(*as_short(given))
        dims, x = given.dims, given.x
        b, m, c, n = dims
        together = together_of(dims, most)
        sets = range(t * together, smaller(t * together + together, b * c))
        chunks = chunking(m, n)[2]
        # 1 moments
        for s in sets:
            here = set_at(dims, s)
            count, mean, spread = 0.0, 0.0, 0.0
            for h in range(chunks):
                join(given, here, h, (), flags)
                count_h, mean_h, spread_h = chunk_moments(given, here.start, h, flags)
                if h == 0:
                    count, mean, spread = count_h, mean_h, spread_h
                else:
                    count, mean, spread = merge(count, mean, spread, count_h, mean_h, spread_h)
            if power == 1:
                spread = 0.0
                for h in range(chunks):
                    spread += chunk_deviations(given, here.start, h, mean, flags)
            finish(given, here, mean, spread, moments, flags)
        # 2 normalize
        ahead = next_set(dims, x, FETCHED_SET) * together
        for s in sets:
            for h in range(chunks):
                chunk_apply(given, s, h, flags, ahead)

    @helper
    def all_sets(pool, given, moments):
        b, _, c, _ = given.dims
        together = together_of(given.dims, most)
        share(pool, (b * c + together - 1) // together, some_sets, (given, moments))

    return forward_kernel("rows_forward", going_forward(all_sets, unrolls, around.behind == "learned"), around)
