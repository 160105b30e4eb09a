"""Sums of a backward pass over columns: of g, g * xhat and xhat, a group of rows at a time.

As in rows_sums.py, they are around what some values that are spread over a column have in common, here of g = dy *
weight where the weights vary along m (`spans_m`; blocks then collect the gradients of the parameters), else of dy,
whose sums are the gradients.
"""

from normzoo.backends.cpu.compiling.jit import helper
from normzoo.backends.cpu.kernels.columns import four
from normzoo.backends.cpu.kernels.columns_walk import groups_of, place_in, read_in, rest_of, row_parameter
from normzoo.backends.cpu.kernels.moments import held, hold, of_offsets, offset, put_lanes, read, standardize, write
from normzoo.backends.cpu.schedule import COLUMN_SAMPLES, COLUMN_SAMPLES_SPANNED, GROUP, STRIP, SUMMED_ROWS
from normzoo.backends.cpu.vector.access import load, load_n, load_same, prefetch, store, zeros
from normzoo.backends.cpu.vector.arithmetic import (
    fma,
    keep,
    lane,
    larger,
    magnitude,
    narrow,
    sign,
    smaller,
    splat,
    wide,
)
from normzoo.backends.cpu.vector.comparing import below, is_outside
from normzoo.backends.cpu.vector.lanes import LANES
from normzoo.backends.cpu.vector.scaling import inverse_power

SUMS = 4  # planes of sums: g, g * xhat, xhat, sign(x - mean)


@helper
def fill_centers(view, parameter_dims, dy, weight, b, top, end, first, last, sums, forms, to, spans_m):
    """What the sums of a column are around: of some values between the rows `top` and `end` what is nearest to 0, or 0
    where their signs differ. The columns of a set have that of the first, if the weights vary along m."""
    n = view[3]
    rows = end - top
    rows = (
        smaller(COLUMN_SAMPLES_SPANNED, rows)
        if spans_m
        else smaller(COLUMN_SAMPLES, smaller(rows, larger(COLUMN_SAMPLES // 2, rows // 2)))
    )
    apart = (end - top) // rows
    one = spans_m and n > 1
    run = n if one else LANES
    zero = zeros(weight)
    for j in range(first, last, run):
        left = smaller(last - j, run)
        low, high, scale = zero, zero, zero
        if spans_m:
            scale = load_n(forms, to + j - first, smaller(left, LANES))
        for h in range(rows):
            row = top + h * apart
            i = place_in(view, b, row) + j
            g = load_same(dy, i) if one else load(dy, i) if left >= LANES else load_n(dy, i, left)
            if spans_m:
                w = row_parameter(view, parameter_dims, weight, b, row, j, 1 if one else left, False, weight)
                g = g * (splat(lane(w, 0) * lane(scale, 0)) if one else w * scale)
            low, high = (g, g) if h == 0 else (smaller(low, g), larger(high, g))
        middle = larger(low, zero) + smaller(high, zero)
        if one:
            for i in range(0, n, LANES):
                put_lanes(sums, j - first + i, middle, last - j - i)
        else:
            store(sums, j - first, middle)


@helper
def add_sums(view, parameter_dims, dy, x, weight, b, row, rows, j, blocks, block, plane, sums, k, width, forms, to,
             step, left, full, power, spans_m):  # fmt: skip
    """Add `rows` rows from `row` on to the sums of the columns at j; and to the gradients of the parameters."""
    columns = view[2] * view[3]
    lanes_vary = parameter_dims[2] * parameter_dims[3] > 1
    affine = four(forms, to, step, full, x)
    middle = held(sums, k, full, x)
    s, q, z, signs = zeros(weight), zeros(weight), zeros(weight), zeros(weight)
    i = place_in(view, b, row) + j
    for r in range(row, row + rows):
        prefetch(x, i + STRIP * columns)
        prefetch(dy, i + STRIP * columns)
        g, v = read_in(view, dy, i, left, full), read_in(view, x, i, left, full)
        xhat = standardize(v, *affine) if spans_m else offset(v, affine, power)
        if spans_m and not full:
            g, xhat = keep(g, left), keep(xhat, left)  # which all lanes of a weight are added up of
        if spans_m:
            o = block + (r * columns + j if lanes_vary else r * LANES)
            size = left if lanes_vary else LANES
            write(blocks, o, fma(g, xhat, read(blocks, o, size, full, x)), size, full, x)
            write(blocks, o + plane, read(blocks, o + plane, size, full, x) + g, size, full, x)
            g = g * (row_parameter(view, parameter_dims, weight, b, r, j, left, full, x) * affine[0])
        g = g - middle
        s += g
        q = fma(g, xhat, q)
        if not spans_m:
            z += xhat
        if power == 1:
            signs += sign(xhat)
        i += columns
    hold(sums, k + width, held(sums, k + width, full, x) + s, full, x)
    hold(sums, k + 2 * width, held(sums, k + 2 * width, full, x) + q, full, x)
    if not spans_m:
        hold(sums, k + 3 * width, held(sums, k + 3 * width, full, x) + z, full, x)
    if power == 1:
        hold(sums, k + 4 * width, held(sums, k + 4 * width, full, x) + signs, full, x)


@helper
def rows_sums(view, parameter_dims, dy, x, weight, b, top, end, first, last, blocks, block, plane, sums, width, forms,
              to, step, power, spans_m):  # fmt: skip
    """Sums over the rows [top, end) of the columns [first, last)."""
    whole = first + (last - first) // LANES * LANES
    for j in range(0, last - first, LANES):
        for p in range(1, SUMS + 1):
            store(sums, j + p * width, zeros(x))
    for row in range(top, end, STRIP):
        rows = smaller(STRIP, end - row)
        for j in range(first, whole, LANES):
            k = j - first
            add_sums(view, parameter_dims, dy, x, weight, b, row, rows, j, blocks, block, plane, sums, k, width, forms,
                     to + k, step, LANES, True, power, spans_m)  # fmt: skip
        if whole < last:
            k = whole - first
            add_sums(view, parameter_dims, dy, x, weight, b, row, rows, whole, blocks, block, plane, sums, k, width,
                     forms, to + k, step, last - whole, False, power, spans_m)  # fmt: skip


@helper
def group_sums(view, parameter_dims, dy, x, weight, b, g, first, last, blocks, block, plane, sums, width, part, at_part,
               part_step, forms, to, step, center, power, spans_m):  # fmt: skip
    """Sums over group g of the columns [first, last), into the planes of `part`."""
    m = view[1]
    top, end = g * GROUP, smaller(g * GROUP + GROUP, m)
    half = smaller(top + SUMMED_ROWS, end)
    size = last - first
    if spans_m:
        for j in range(0, size, LANES):
            store(sums, j, zeros(x))
        if center:  # the same in all groups
            fill_centers(view, parameter_dims, dy, weight, b, 0, m, first, last, sums, forms, to, spans_m)
    else:
        fill_centers(view, parameter_dims, dy, weight, b, top, end, first, last, sums, forms, to, spans_m)
    rows_here = splat(float(end - top))
    again = True
    while again:
        again = False
        start = top
        if half < end:
            rows_sums(view, parameter_dims, dy, x, weight, b, top, half, first, last, blocks, block, plane, sums, width,
                      forms, to, step, power, spans_m)  # fmt: skip
            for j in range(0, size, LANES):
                for p in range(SUMS):
                    store(part, at_part + p * part_step + j, wide(load(sums, j + (p + 1) * width)))
            start = half
        rows_sums(view, parameter_dims, dy, x, weight, b, start, end, first, last, blocks, block, plane, sums, width,
                  forms, to, step, power, spans_m)  # fmt: skip
        for j in range(0, size, LANES):
            i, middle = at_part + j, wide(load(sums, j))
            s, q = wide(load(sums, j + width)), wide(load(sums, j + 2 * width))
            z, signs = wide(load(sums, j + 3 * width)), wide(load(sums, j + 4 * width))
            if half < end:
                s, q = s + load(part, i), q + load(part, i + part_step)
                z, signs = z + load(part, i + 2 * part_step), signs + load(part, i + 3 * part_step)
            if spans_m:
                s = fma(middle, rows_here, s)  # the sums were scaled as x is, which kept them in range
                unscale = inverse_power(wide(load(forms, to + j)))
                s, q = s * unscale, q * unscale
            else:
                fine, r = wide(load(forms, to + j + 2 * step)), wide(load(forms, to + j + 3 * step))
                q, z = of_offsets(s, q, z, rows_here, fine, r, power)
                s, q = fma(middle, rows_here, s), fma(middle, z, q)
                # where most of dy is far nearer to 0 than what the sums are around, it would leave them few digits
                near = below(splat(0.5) * magnitude(middle) * rows_here, magnitude(s), middle)
                if is_outside(near - middle, 0.0, 0.0):
                    store(sums, j, narrow(near, sums))
                    again = True
            store(part, i, s)
            store(part, i + part_step, q)
            store(part, i + 2 * part_step, z)
            store(part, i + 3 * part_step, signs)


@helper
def add_groups(m, part, to, step, apart, size):
    """Add up the groups' sums, `apart` from one another, of `size` columns, in order, in the first."""
    for j in range(to, to + size, LANES):
        for p in range(SUMS):
            s = load(part, j + p * step)
            for g in range(1, groups_of(m)):
                s += load(part, j + p * step + g * apart)
            store(part, j + p * step, s)


@helper
def fold_row_sums(dims, view, dy, x, b, part, at_part, part_step, forms, to, step, power):
    """Add what stands side by side, and what is behind the last row, to the first sums of each column."""
    columns = dims[2] * dims[3]
    together, rest = view[2] * view[3] // columns, rest_of(view)
    if together == 1:
        return
    for j in range(0, columns, LANES):
        left = smaller(columns - j, LANES)
        s, q, z, signs = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
        for i in range(at_part + j, at_part + together * columns, columns):
            s += load_n(part, i, left)
            q += load_n(part, i + part_step, left)
            z += load_n(part, i + 2 * part_step, left)
            signs += load_n(part, i + 3 * part_step, left)
        start = place_in(view, b, view[1]) + j
        for i in range(start, start + rest, columns):
            xhat = keep(standardize(load_n(x, i, left), *four(forms, to + j, step, False, x)), left)
            d, v = wide(load_n(dy, i, left)), wide(xhat)
            s += d
            q = fma(d, v, q)
            z += v
            if power == 1:
                signs += wide(sign(xhat))
        put_lanes(part, at_part + j, s, left)
        put_lanes(part, at_part + part_step + j, q, left)
        put_lanes(part, at_part + 2 * part_step + j, z, left)
        put_lanes(part, at_part + 3 * part_step + j, signs, left)
