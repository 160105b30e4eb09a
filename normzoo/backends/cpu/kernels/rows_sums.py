"""Sums of a backward pass over rows: of dy and of dy * xhat, one chunk at a time.

If some values spread over dy have the same sign, sums are relative to the one nearest to 0, which keeps the digits of
the deviations: mean(dy) may be far from 0. Otherwise they are relative to 0: dy may be 0 except for few values, and
this keeps their digits.
"""

import numpy as np

from normzoo.backends.cpu.compiling.jit import helper
from normzoo.backends.cpu.kernels.moments import held, hold, of_offsets, offset, read, standardize, write
from normzoo.backends.cpu.kernels.rows_walk import chunk_of, chunking, parameter_at, parameter_step
from normzoo.backends.cpu.schedule import ROW_SAMPLES, SUMMED_VECTORS
from normzoo.backends.cpu.vector.access import at, load_as, load_n, load_same, put, zeros
from normzoo.backends.cpu.vector.arithmetic import fma, keep, lane, larger, narrow, sign, smaller, splat, total, wide
from normzoo.backends.cpu.vector.comparing import have_one_sign, nearer, nearest
from normzoo.backends.cpu.vector.lanes import LANES


@helper
def slots_of(dims, parameter_dims):
    """Number of pairs of sums per set."""
    _, m, _, n = dims
    _, pieces, chunks = chunking(m, n)
    return m * pieces if parameter_dims[1] > 1 else chunks


@helper
def lines_of(pn):
    """Number of vectors in a row of parameters."""
    return (pn + LANES - 1) // LANES


@helper
def plane_of(parameter_dims):
    """Number of values of a plane of a block: pm rows of whole vectors."""
    return parameter_dims[1] * lines_of(parameter_dims[3]) * LANES


@helper
def terms_of(given, i, affine, left, full):
    """dy and xhat for up to LANES values, followed by zeros."""
    xhat = standardize(read(given.x, i, left, full, given.x), *affine)
    return read(given.dy, i, left, full, given.x), xhat if full else keep(xhat, left)


@helper
def add_gradients(given, terms, scale, p, blocks, q, left, full):
    """Add dy * xhat and dy to the gradients at q; returns g = dy * weight, times the scale of x, which keeps it in
    range."""
    d, xhat = terms
    x, plane = given.x, plane_of(given.parameter_dims)
    hold(blocks, q, fma(d, xhat, held(blocks, q, full, x)), full, x)
    hold(blocks, q + plane, held(blocks, q + plane, full, x) + d, full, x)
    return d * (read(given.weight, p, left, full, x) * scale)


@helper
def put_gradients(given, terms, scale, p, own, _q, left, full):
    """Write dy * xhat and dy, the gradients at p, where no other value has these; returns the same."""
    d, xhat = terms
    x = given.x
    write(own[0], p, d * xhat, left, full, x)
    write(own[1], p, d, left, full, x)
    return d * (read(given.weight, p, left, full, x) * scale)


@helper
def add_lanes(g, xhat, s, q, z, signs, power):
    """The sums of g, g * xhat, xhat and sign(xhat), with these lanes added."""
    return s + g, fma(g, xhat, q), z + xhat, signs + sign(xhat) if power == 1 else signs


@helper
def middle_of(low, high):
    """The best reference for sums: of values between `low` and `high`, lane by lane, the one nearest to 0, or 0 if
    their signs differ."""
    if not have_one_sign(low, high):
        return 0.0
    zero = low - low
    return np.float64(nearest(larger(low, zero) + smaller(high, zero)))


@helper
def middle_of_g(given, scale, start, top):
    """The reference for sums of dy * (weight * scale) over the set at `start`, whose parameters begin at `top`: of two
    values in its middle, the one nearer to 0, or 0 if their signs differ."""
    _, m, c, n = given.dims
    dy, weight = given.dy, given.weight
    i = start + m // 2 * c * n + n // 2
    p = top + m // 2 * parameter_step(given.parameter_dims) + n // 2
    back = smaller(n // 2, LANES)
    a, b = at(dy, i) * (at(weight, p) * scale), at(dy, i - back) * (at(weight, p - back) * scale)
    return splat(nearer(a, b))


@helper
def middle_of_dy(dy, start, runs, step, length, like):
    """The reference for sums of dy over runs from `start` on: `middle_of` some of their values; for long runs, spread
    evenly."""
    low, high = zeros(like), zeros(like)
    if length < LANES:
        for h in range(LANES):
            d = load_same(dy, start + h * runs // LANES * step + h * length // LANES)
            low, high = (d, d) if h == 0 else (smaller(low, d), larger(high, d))
    elif runs * length <= SUMMED_VECTORS * LANES:
        low = high = load_as(dy, start + runs // 2 * step, like)
    else:
        for h in range(ROW_SAMPLES):
            d = load_as(dy, start + h * runs // ROW_SAMPLES * step + h * (length - LANES) // ROW_SAMPLES, like)
            low, high = (d, d) if h == 0 else (smaller(low, d), larger(high, d))
            if not have_one_sign(low, high):  # before memory is read out of order, which costs a tenth of the time
                return 0.0
    return middle_of(low, high)


@helper
def chunk_sums_n(given, here, j, affine, blocks, block, flags, add):
    """sum(g), sum(g * xhat), 0, sum(sign(x - mean)) over chunk j of the set `here`; the parameters vary along n.

    With `center` the second omits terms that vanish in the sum over the set, where sum(xhat) is 0. `add`, one of
    `add_gradients` and `put_gradients`, adds dy * xhat and dy to the planes of `blocks` at `block`, or writes them.
    """
    _, m, c, n = given.dims
    _, pm, _, pn = given.parameter_dims
    first, runs, skip, length = chunk_of(j, m, n)
    top, step = parameter_at(given.parameter_dims, here), parameter_step(given.parameter_dims)
    zero = zeros(given.weight)
    g0 = zero
    if flags.center:  # the same in all chunks; it costs dx no digits, whatever dy is
        g0 = middle_of_g(given, lane(affine[0], 0), here.start, top)
    s, q, z, signs = zero, zero, zero, zero
    for run in range(first, first + runs):
        i = here.start + run * c * n + skip
        end = i + length
        p = top + run * step + skip
        to = block + (run if pm > 1 else 0) * lines_of(pn) * LANES + skip
        while i + LANES <= end:
            terms = terms_of(given, i, affine, LANES, True)
            g = add(given, terms, affine[0], p, blocks, to, LANES, True)
            s, q, z, signs = add_lanes(g - g0, terms[1], s, q, z, signs, flags.power)
            i += LANES
            p += LANES
            to += LANES
        if i < end:
            terms = terms_of(given, i, affine, end - i, False)
            g = add(given, terms, affine[0], p, blocks, to, end - i, False)
            s, q, z, signs = add_lanes(keep(g - g0, end - i), terms[1], s, q, z, signs, flags.power)
    scale = np.float64(lane(affine[0], 0))
    g_sum = total(wide(s)) + np.float64(lane(g0, 0)) * float(runs * length)
    return g_sum / scale, total(wide(q)) / scale, 0.0, total(wide(signs))


@helper
def sums_around(given, here, j, affine, sums, power, again):
    """As `chunk_sums`; the fifth number is not 0 where most of dy is far nearer to 0 than what it was summed around,
    which left few digits: `again`, around 0."""
    dims, parameter_dims, dy, x, weight, _, _, _ = given
    _, m, c, n = dims
    pm = parameter_dims[1]
    first, runs, skip, length = chunk_of(j, m, n)
    pieces = chunking(m, n)[1]
    top, step = parameter_at(parameter_dims, here), parameter_step(parameter_dims)
    slot = here.index * slots_of(dims, parameter_dims)
    start = here.start + first * c * n + skip
    if c == 1 and pm == 1:  # the runs are adjacent
        runs, length = 1, runs * length
    zero = zeros(weight)
    fine, r = np.float64(lane(affine[2], 0)), np.float64(lane(affine[3], 0))
    around = 0.0 if again else middle_of_dy(dy, start, runs, c * n, length, x)
    middle = splat(narrow(around, x))
    is_plain = around == 0.0  # some of dy is near 0, or has the other sign: its mean is not far away, see `means_of`
    g_sum, gx_sum, x_sum, far = 0.0, 0.0, 0.0, 0.0
    d_part, q_part, z_part, count = 0.0, 0.0, 0.0, 0
    s, q, z, signs = zero, zero, zero, zero
    for run in range(runs):
        i = start + run * c * n
        end = i + length
        is_last, ends = pm > 1 or run + 1 == runs, False
        while not ends:
            stop = smaller(end, i + SUMMED_VECTORS * LANES)
            while is_plain and i + LANES <= stop:
                d, v = load_as(dy, i, x), offset(load_as(x, i, x), affine, power)
                s, q, _, signs = add_lanes(d, v, s, q, z, signs, power)
                i += LANES
            while i + LANES <= stop:
                d, v = load_as(dy, i, x) - middle, offset(load_as(x, i, x), affine, power)
                s, q, z, signs = add_lanes(d, v, s, q, z, signs, power)
                i += LANES
            ends = i + LANES > end
            if ends and i < end:
                d, v = load_n(dy, i, end - i) - middle, keep(offset(load_n(x, i, end - i), affine, power), end - i)
                s, q, z, signs = add_lanes(keep(d, end - i), v, s, q, z, signs, power)
            if is_last or not ends:
                d_part, q_part = d_part + total(wide(s)), q_part + total(wide(q))
                if not is_plain:
                    z_part += total(wide(z))
                s, q, z = zero, zero, zero
        count += length
        if is_last:
            w = np.float64(at(weight, top + (first + run) * step))
            q_sum, z_sum = of_offsets(d_part, q_part, z_part, float(count), fine, r, power)
            d_sum = d_part + around * float(count)
            q_sum += around * z_sum
            if not abs(d_sum) >= 0.5 * abs(around) * float(count):
                far = 1.0
            to = 2 * (slot + ((first + run) * pieces + j % pieces if pm > 1 else j))
            put(sums, to, q_sum)
            put(sums, to + 1, d_sum)
            g_sum += w * d_sum
            gx_sum += w * q_sum
            x_sum += np.nan if is_plain else z_sum
            d_part, q_part, z_part, count = 0.0, 0.0, 0.0, 0
    return g_sum, gx_sum, x_sum, total(wide(signs)), far


@helper
def chunk_sums(given, here, j, affine, sums, power):
    """sum(g), sum(g * xhat), sum(xhat), sum(sign(x - mean)) over chunk j of the set `here`; each run has one weight.
    The third is NaN if it is not needed. Writes the sums of dy * xhat and dy to the set's pairs in `sums`."""
    found, again = (0.0, 0.0, 0.0, 0.0, 0.0), False
    for _ in range(2):
        found = sums_around(given, here, j, affine, sums, power, again)
        again = found[4] != 0.0
        if not again:
            break
    return found[0], found[1], found[2], found[3]
