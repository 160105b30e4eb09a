"""Forward kernels for both rows and columns; `geometry.py` explains these.

A set that fits into the registers of a team takes one kernel, which reads it once. For larger sets, and for sets of
several columns, one kernel computes the moments of the pieces, the next merges them in order (`merging.py`), and the
third normalizes.
"""

from functools import cache

from numba import cuda

from normzoo.backends.around import Around
from normzoo.backends.cuda.accesses import store
from normzoo.backends.cuda.arithmetic import choose, fold, keep, magnitude, over, rest, splat, wide
from normzoo.backends.cuda.geometry import (
    Form,
    count_of,
    exchange_size,
    labelled,
    place,
    team_of,
    total,
    type_of,
)
from normzoo.backends.cuda.moments import affine_of, moments, standardize, stats_of
from normzoo.backends.cuda.surroundings import before_of, label_of, source, store_s, store_y


@cache
def forward(form: Form, center: bool, power: int, clamp: bool, around: Around):
    """Statistics and y of whole sets."""
    count, real = form.sums, type_of(form)
    numbers = exchange_size(form, 2)
    team, spot, write, write_s = team_of(form), place(form), store_y(form, around), store_s(form, before_of(around))
    find = moments(form, center, power, clamp, before_of(around))

    def forward_kernel(
        x,  # (b, m, c, n) store
        weight,  # (pb, pm, pc, pn)
        bias,  # as weight
        y,  # as x, written
        stats,  # (3, b, c) float64, written
        dims,
        params,
        width,  # number of sets, or tiles of columns, per b
        one_k,  # float64: 1 / (m*n)
        one_divisor,  # float64: 1 / (m*n), or 1 for totals
        eps,  # float64
        residual,  # as x
        s,  # as x, written
        other,  # as x
        times,  # float64: the residual's scale
    ):
        exchange = cuda.shared.array(numbers, real)
        worker, t, tx = team()
        b, m, c, n = dims[0], dims[1], dims[2], dims[3]
        i, j = over(worker, width), rest(worker, width)
        start, offsets, p, at, sums, own = spot(dims, params, i, j, 0, t, tx, worker < b * width)
        # 1 moments
        beside = residual, other, times
        d, low, r, mean, spread, rstd = find(x, beside, start, offsets, sums, m * n, one_k, one_divisor, eps, exchange)
        # 2 normalize
        write_s(x, residual, s, other, times, start, offsets)
        write(y, start, offsets, (d - low) * r, weight, bias, p, at, params, sums, other)
        leads = choose(splat(t == 0, count), own, -1)
        store(stats, 0, leads, mean, 1)
        store(stats, b * c, leads, spread, 1)
        store(stats, 2 * b * c, leads, rstd, 1)

    return labelled(forward_kernel, label_of(form, around))


@cache
def pieces(form: Form, center: bool, power: int, clamp: bool, around: Around):
    """Mean and sum |x - mean|^power of every piece; without `center`, around 0."""
    count, real = form.sums, type_of(form)
    numbers = exchange_size(form, 2)
    team, spot, counted, write_s = team_of(form), place(form), count_of(form), store_s(form, around)
    find = moments(form, center, power, clamp, around)

    def pieces_kernel(
        x,  # (b, m, c, n) store
        partial,  # (2, pieces, sets or columns) float64, written
        dims,
        params,
        width,  # number of sets, or tiles of columns, per b
        one_k,  # float64: 1 / number of values of a set or column in a piece
        one_last,  # float64: 1 / that number in the last piece
        eps,  # float64
        residual,  # as x
        s,  # as x, written
        other,  # as x
        times,  # float64: the residual's scale
    ):
        exchange = cuda.shared.array(numbers, real)
        worker, t, tx = team()
        b, c, split = dims[0], dims[2], dims[4]
        piece, place_in = rest(worker, split), over(worker, split)
        i, j = over(place_in, width), rest(place_in, width)
        start, offsets, _, _, sums, _ = spot(dims, params, i, j, piece, t, tx, place_in < b * width)
        k = counted(dims, piece)
        if piece == split - 1:
            one_k = one_last
        beside = residual, other, times
        _, _, _, mean, spread, _ = find(x, beside, start, offsets, sums, k, one_k, 1.0, eps, exchange)
        write_s(x, residual, s, other, times, start, offsets)
        leads = choose(splat(t == 0, count), sums, -1)
        store(partial, piece * b * c, leads, mean, 1)
        store(partial, (split + piece) * b * c, leads, spread, 1)

    return labelled(pieces_kernel, label_of(form, around))


@cache
def deviations(form: Form, around: Around):
    """sum |x - mean| of every piece, around the mean of the whole set."""
    size, each, count, real = form.size, form.each, form.sums, type_of(form)
    numbers = exchange_size(form, 1)
    team, spot, add = team_of(form), place(form), total(form)
    affine, plane, get = affine_of(form), stats_of(form), source(around)

    def deviations_kernel(
        x,  # (b, m, c, n) store
        stats,  # (3, b, c) float64; only the mean is read
        partial,  # (1, pieces, sets or columns) float64, written
        dims,
        params,
        width,  # number of sets, or tiles of columns, per b
        sets,  # b*c
        other,  # as x
    ):
        exchange = cuda.shared.array(numbers, real)
        worker, t, tx = team()
        b, c, split = dims[0], dims[2], dims[4]
        piece, place_in = rest(worker, split), over(worker, split)
        i, j = over(place_in, width), rest(place_in, width)
        start, offsets, _, _, sums, own = spot(dims, params, i, j, piece, t, tx, place_in < b * width)
        mean = plane(stats, sets, own, 0)
        scale, high, low, r = affine(mean, mean * 0.0 + 1.0, x)
        v = standardize(get(x, x, other, 1.0, start, offsets, size, each), scale, high, low, r)
        found = add(fold(magnitude(keep(v, offsets)), count), exchange, 0)
        store(partial, piece * b * c, choose(splat(t == 0, count), sums, -1), wide(found), 1)

    return labelled(deviations_kernel, label_of(form, around))


@cache
def apply(form: Form, around: Around):
    """y by given statistics."""
    size, each = form.size, form.each
    before = before_of(around)
    team, spot, write, write_s = team_of(form), place(form), store_y(form, around), store_s(form, before)
    affine, plane, get = affine_of(form), stats_of(form), source(before)

    def apply_kernel(
        x,  # (b, m, c, n) store
        stats,  # (3, b, c) float64
        weight,  # (pb, pm, pc, pn)
        bias,  # as weight
        y,  # as x, written
        dims,
        params,
        width,  # number of sets, or tiles of columns, per b
        sets,  # b*c
        residual,  # as x
        s,  # as x, written
        other,  # as x
        times,  # float64: the residual's scale
    ):
        worker, t, tx = team()
        b, split = dims[0], dims[4]
        piece, place_in = rest(worker, split), over(worker, split)
        i, j = over(place_in, width), rest(place_in, width)
        start, offsets, p, at, sums, own = spot(dims, params, i, j, piece, t, tx, place_in < b * width)
        scale, high, low, r = affine(plane(stats, sets, own, 0), plane(stats, sets, own, 2), x)
        v = standardize(get(x, residual, other, times, start, offsets, size, each), scale, high, low, r)
        write_s(x, residual, s, other, times, start, offsets)
        write(y, start, offsets, v, weight, bias, p, at, params, sums, other)

    return labelled(apply_kernel, label_of(form, around))
