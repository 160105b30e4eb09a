"""Backward kernels for both rows and columns, in the order of `forward_kernels.py`; see `geometry.py`.

The kernels are persistent: a team processes one set after another, of the sets that share parameters (a cell), and
keeps the gradients of these parameters in registers. At the end the teams of a block add theirs up, every block writes
one partial row, and `merging.fold` adds the rows in a fixed order. If a set has only one parameter value, its two sums
are written instead.

Blocks are numbered by cell, worker of the cell, and piece of the set (a block of several teams has whole sets); partial
rows have shape (cell, worker, 2, piece, values).
"""

from functools import cache

from numba import cuda
from numba.cuda import types

from normzoo.backends.around import Around
from normzoo.backends.cuda.accesses import load, store
from normzoo.backends.cuda.arithmetic import (
    choose,
    fma,
    fold,
    group_sums,
    join,
    keep,
    narrow,
    over,
    part,
    power_near,
    rest,
    sign,
    splat,
    steps,
    wide,
)
from normzoo.backends.cuda.geometry import (
    Form,
    count_of,
    device,
    exchange_size,
    labelled,
    parameter,
    place,
    team_of,
    total,
    type_of,
)
from normzoo.backends.cuda.moments import affine_of, standardize, stats_of
from normzoo.backends.cuda.shared import get_apart, put_apart
from normzoo.backends.cuda.surroundings import before_of, label_of, source, store_dx, through_behind

CELLS = types.UniTuple(types.int64, 6)  # cells per b, workers per cell, sets per cell, sets per b, pb, rounds


@cache
def add_gradients(form: Form):
    """(d, xhat, dw, db) -> dw + d*xhat and db + d, summed over each group if it has one parameter value."""
    varies, size = form.varies, form.size

    @device
    def added(d, xhat, dw, db):
        if varies == "full":
            return fma(d, xhat, dw), db + d
        if varies == "group":
            return dw + group_sums(d * xhat, size), db + group_sums(d, size)
        return dw, db

    return added


@cache
def over_block(form: Form):
    """(v, exchange) -> the sum over the teams of a block, for its first team; the order depends only on the form."""
    teams, half_block, log_team = form.teams, form.threads // 2, form.team.bit_length() - 1

    @device
    def added(v, exchange):
        mate, half = cuda.threadIdx.x >> log_team, teams >> 1
        while half > 0:
            cuda.syncthreads()
            if half <= mate < 2 * half:
                put_apart(exchange, cuda.threadIdx.x - (half << log_team), half_block, v)
            cuda.syncthreads()
            if mate < half:
                v = v + get_apart(exchange, cuda.threadIdx.x, half_block, v)
            half = half >> 1
        return v

    return added


@cache
def store_gradients(form: Form):
    """Write a block's partial row, (2, pieces, units, lanes per unit)."""
    team, groups, beside, varies = form.team, form.groups, form.beside, form.varies
    each = form.size if varies == "full" else 1
    stride = team * beside * each
    plane = groups * stride
    log_team, add = team.bit_length() - 1, over_block(form)
    shares = form.teams > 1

    @device
    def stored(partial, row, split, piece, t, tx, dw, db, exchange, like):
        if varies != "set":
            offsets = steps(types.int32((t * beside + tx) * each), stride, groups)
            if shares:
                dw = add(dw, exchange)
                db = add(db, exchange)
                offsets = choose(splat(cuda.threadIdx.x >> log_team == 0, groups), offsets, -1)
            first = (row * 2 * split + piece) * plane
            store(partial, first, offsets, narrow(dw, like), each)
            store(partial, first + split * plane, offsets, narrow(db, like), each)

    return stored


@cache
def set_of():
    """(cell, u, cells) -> b, and set (or tile of columns) within b, of set u of a cell."""

    @device
    def found(cell, u, cells):
        across, _, _, width, pb, _ = cells
        each = 1 if across == width else width
        return over(cell, across) + pb * over(u, each), rest(cell, across) if across > 1 else rest(u, each)

    return found


@cache
def backward(form: Form, center: bool, power: int, split: bool, around: Around):
    """dx of whole sets; with `split`, the sums of every piece, from which `merging` computes the arguments of
    `gradient`."""
    size, each, count, real, varies = form.size, form.each, form.sums, type_of(form), form.varies
    kept = {"full": form.lanes, "group": form.groups, "set": 1}[varies]
    teams, log_team = form.teams, form.team.bit_length() - 1
    numbers = exchange_size(form, 4)
    if teams > 1 and varies != "set":
        numbers = form.threads // 2 * kept
    team, spot, values, counted = team_of(form), place(form), parameter(form), count_of(form)
    add, affine, plane = total(form), affine_of(form), stats_of(form)
    gather, write_row, find = add_gradients(form), store_gradients(form), set_of()
    get, through, write_dx = source(before_of(around)), through_behind(form, around, True), store_dx(form, around)
    is_behind = around.is_behind
    is_set = varies == "set"
    reduces = is_set or center or power != 0
    second, third, all_four = 2 * count, 3 * count, 4 * count  # positions of the sums in a vector

    def backward_kernel(
        dy,  # (b, m, c, n) store
        x,  # as dy
        weight,  # (pb, pm, pc, pn)
        stats,  # (3, b, c) float64
        dx,  # as dy, written (not with `split`)
        rows,  # partial rows, written if the parameters vary within a set
        sums,  # (2, b, c) float64, written if they do not; with `split` (4, pieces, b, c)
        dims,
        params,
        cells,
        sets,  # b*c
        one_k,  # float64: 1 / number of values of a set or column in a piece
        one_last,  # float64: 1 / that number in the last piece
        one_divisor,  # float64: 1 / (m*n), or 1 for totals
        limit,  # float64: rstd of a clamped set, or inf
        bias,  # as weight
        other,  # as x
        dother,  # as x, written
        ds,  # as x
    ):
        exchange = cuda.shared.array(numbers, real)
        _, t, tx = team()
        b, c, pieces = dims[0], dims[2], dims[4]
        block = cuda.blockIdx.x
        piece, row = rest(block, pieces), over(block, pieces)
        cell, first = over(row, cells[1]), rest(row, cells[1]) * teams
        if teams > 1:
            first += cuda.threadIdx.x >> log_team
        k = counted(dims, piece)
        if piece == pieces - 1:
            one_k = one_last
        dw = splat(real(0.0), kept)
        db = splat(real(0.0), kept)
        turn = 0
        for step in range(cells[5]):
            u = first + step * (cells[1] * teams)
            i, j = find(cell, u, cells)
            valid = u < cells[2] and cell < cells[0] * cells[4]
            start, offsets, p, at, index, own = spot(dims, params, i, j, piece, t, tx, valid)
            scale, high, low, r = affine(plane(stats, sets, own, 0), plane(stats, sets, own, 2), x)
            v = get(x, x, other, 1.0, start, offsets, size, each)
            xhat = keep(standardize(v, scale, high, low, r), offsets)
            d = load(dy, start, offsets, size, each)
            w = values(weight, p, at, params, index)
            if is_behind:
                d = through(d, xhat, w, values(bias, p, at, params, index), other, dother, start, offsets)
                d = keep(d, offsets)
            dw, db = gather(d, xhat, dw, db)
            # multiplied by the scale of x, which keeps sums and products in range; sums of dy itself only get smaller
            down = scale
            if is_set:
                down = choose(scale < 1.0, scale, 1.0)
                w = w * choose(scale < 1.0, 1.0, scale)
            g = d * down if is_set else d * (w * scale)
            back = power_near(wide(down), 1, 1000)
            # 1 moments
            g_mean = scale * 0.0
            g_low = scale * 0.0
            s = splat(real(0.0), all_four)
            if reduces:
                if center:
                    g_mean = add(fold(g, count), exchange, turn) * one_k
                    turn += 1
                    g = keep(g - g_mean, offsets)
                signs = scale * 0.0
                if power == 1:
                    signs = fold(sign(xhat), count)
                s = add(
                    join(join(fold(g, count), fold(g * xhat, count)), join(fold(xhat, count), signs)), exchange, turn
                )
                turn += 1
                g_low = part(s, 0, count) * one_k
            s_x = part(s, count, count)
            if center and split:  # around the mean including its rounding error, as it is merged
                s_x = s_x - g_low * part(s, second, count)
            mean = wide(g_mean) + wide(g_low)
            leads = choose(splat(t == 0, count), index, -1)
            if split:
                store(sums, piece * b * c, leads, mean * back, 1)
                store(sums, (pieces + piece) * b * c, leads, wide(s_x) * back, 1)
                store(sums, (2 * pieces + piece) * b * c, leads, wide(part(s, second, count)), 1)
                store(sums, (3 * pieces + piece) * b * c, leads, wide(part(s, third, count)), 1)
                continue
            if is_set:
                store(sums, 0, leads, wide(s_x) * back, 1)
                store(sums, b * c, leads, mean * back * k, 1)
            # 2 normalize
            if center:
                g = g - g_low
            if power != 0:
                held = splat(limit, count) <= plane(stats, sets, own, 2)
                gx = choose(held, s_x * 0.0, narrow(wide(s_x) * one_divisor, x))
                if power == 2:
                    g = g - xhat * gx
                elif center:
                    g = g - (sign(xhat) - part(s, third, count) * one_k) * gx
                else:
                    g = g - sign(xhat) * gx
            if is_set:
                g = g * w
            write_dx(dx, start, offsets, g * r, x, other, dother, ds)
        write_row(rows, row, pieces, piece, t, tx, dw, db, exchange, rows)

    return labelled(backward_kernel, label_of(form, around))


@cache
def gradient(form: Form, center: bool, power: int, around: Around):
    """dx, from the means that are subtracted from the values of a set."""
    size, each = form.size, form.each
    team, spot, values = team_of(form), place(form), parameter(form)
    affine, plane = affine_of(form), stats_of(form)
    get, through, write_dx = source(before_of(around)), through_behind(form, around, False), store_dx(form, around)
    is_behind, needs_x = around.is_behind, power != 0 or around.is_behind

    def gradient_kernel(
        dy,  # (b, m, c, n) store
        x,  # as dy
        weight,  # (pb, pm, pc, pn)
        stats,  # (3, b, c) float64
        means,  # (3, b, c) float64: means of g, g*xhat, sign(xhat)
        dx,  # as dy, written
        dims,
        params,
        width,  # number of sets, or tiles of columns, per b
        sets,  # b*c
        bias,  # as weight
        other,  # as x
        dother,  # as x, written with a gate first
        ds,  # as x
    ):
        worker, t, tx = team()
        b, pieces = dims[0], dims[4]
        piece, place_in = rest(worker, pieces), over(worker, pieces)
        i, j = over(place_in, width), rest(place_in, width)
        start, offsets, p, at, index, own = spot(dims, params, i, j, piece, t, tx, place_in < b * width)
        scale, high, low, r = affine(plane(stats, sets, own, 0), plane(stats, sets, own, 2), x)
        g = load(dy, start, offsets, size, each)
        w = values(weight, p, at, params, index)
        xhat = g
        if needs_x:
            xhat = standardize(get(x, x, other, 1.0, start, offsets, size, each), scale, high, low, r)
        if is_behind:
            g = through(g, xhat, w, values(bias, p, at, params, index), other, dother, start, offsets)
        g = g * (w * scale)
        if center:
            scaled = plane(means, sets, own, 0) * wide(scale)
            g_mean = narrow(scaled, x)
            g = (g - g_mean) - narrow(scaled - wide(g_mean), x)
        if power != 0:
            gx = narrow(plane(means, sets, own, 1) * wide(scale), x)
            if power == 2:
                g = g - xhat * gx
            elif center:
                g = g - (sign(xhat) - narrow(plane(means, sets, own, 2), x)) * gx
            else:
                g = g - sign(xhat) * gx
        write_dx(dx, start, offsets, g * r, x, other, dother, ds)

    return labelled(gradient_kernel, label_of(form, around))
