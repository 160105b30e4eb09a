"""Sums of a backward pass over columns: of g, g * xhat and xhat, for one group of rows at a time.

The sums of a column are relative to a reference: the one nearest to 0 among some values spread over the column, or 0 if
their signs differ (see rows_sums.py). If the weights vary along m (`spans_m`), these are values of g = dy * weight, and
blocks collect the gradients of the parameters; otherwise they are values of dy, whose sums are the gradients.
"""

from normzoo.backends.cpu.compiling.jit import helper
from normzoo.backends.cpu.kernels.columns import four
from normzoo.backends.cpu.kernels.columns_records import Region, Strip
from normzoo.backends.cpu.kernels.columns_walk import (
    group_in,
    group_of,
    groups_of,
    in_strips,
    place_in,
    read_in,
    rest_of,
    row_parameter,
)
from normzoo.backends.cpu.kernels.moments import held, hold, of_offsets, offset, put_lanes, read, standardize, write
from normzoo.backends.cpu.schedule import COLUMN_SAMPLES, COLUMN_SAMPLES_SPANNED, STRIP, SUMMED_ROWS
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

SUMS = 4  # planes of sums: g, g * xhat, xhat, sign(x - mean); while summing, they follow the plane of reference values


@helper
def fill_centers(view, given, region, sums, forms, flags):
    """Compute the reference values of a column's sums: among some values in the region's rows the one nearest to 0, or
    0 if their signs differ. If the weights vary along m, all columns of a set have the reference of the first."""
    b, top, end, first, last = region
    dy, weight, n = given.dy, given.weight, view.n
    values, to, _ = sums
    rows = end - top
    rows = (
        smaller(COLUMN_SAMPLES_SPANNED, rows)
        if flags.spans
        else smaller(COLUMN_SAMPLES, smaller(rows, larger(COLUMN_SAMPLES // 2, rows // 2)))
    )
    apart = (end - top) // rows
    one = flags.spans and n > 1
    run = n if one else LANES
    zero = zeros(weight)
    for j in range(first, last, run):
        left = smaller(last - j, run)
        low, high, scale = zero, zero, zero
        if flags.spans:
            scale = load_n(forms.values, forms.at + j, smaller(left, LANES))
        for h in range(rows):
            row = top + h * apart
            i = place_in(view, b, row) + j
            g = load_same(dy, i) if one else load(dy, i) if left >= LANES else load_n(dy, i, left)
            if flags.spans:
                strip = Strip(b, row, 1, j, 1 if one else left, False)
                w = row_parameter(view, given.parameter_dims, weight, strip, row, weight)
                g = g * (splat(lane(w, 0) * lane(scale, 0)) if one else w * scale)
            low, high = (g, g) if h == 0 else (smaller(low, g), larger(high, g))
        middle = larger(low, zero) + smaller(high, zero)
        if one:
            for i in range(0, n, LANES):
                put_lanes(values, to + j + i, middle, last - j - i)
        else:
            store(values, to + j, middle)


@helper
def add_sums(strip, view, given, blocks, sums, forms, flags):
    """Add a strip to the sums of its columns and to the gradients of the parameters."""
    b, row, rows, j, left, full = strip
    dy, x, weight, power = given.dy, given.x, given.weight, flags.power
    lanes_vary = given.parameter_dims[2] * given.parameter_dims[3] > 1
    values, to, step = sums
    gradients, block, plane = blocks
    affine = four(forms, j, full, x)
    middle = held(values, to + j, full, x)
    s, q, z, signs = zeros(weight), zeros(weight), zeros(weight), zeros(weight)
    i = place_in(view, b, row) + j
    for r in range(row, row + rows):
        prefetch(x, i + STRIP * view.columns)
        prefetch(dy, i + STRIP * view.columns)
        g, v = read_in(view, dy, i, left, full), read_in(view, x, i, left, full)
        xhat = standardize(v, *affine) if flags.spans else offset(v, affine, power)
        if flags.spans and not full:
            g, xhat = keep(g, left), keep(xhat, left)  # all lanes of a weight are added
        if flags.spans:
            o = block + (r * view.columns + j if lanes_vary else r * LANES)
            size = left if lanes_vary else LANES
            write(gradients, o, fma(g, xhat, read(gradients, o, size, full, x)), size, full, x)
            o += plane
            write(gradients, o, read(gradients, o, size, full, x) + g, size, full, x)
            g = g * (row_parameter(view, given.parameter_dims, weight, strip, r, x) * affine[0])
        g = g - middle
        s += g
        q = fma(g, xhat, q)
        if not flags.spans:
            z += xhat
        if power == 1:
            signs += sign(xhat)
        i += view.columns
    k = to + step + j
    hold(values, k, held(values, k, full, x) + s, full, x)
    hold(values, k + step, held(values, k + step, full, x) + q, full, x)
    if not flags.spans:
        hold(values, k + 2 * step, held(values, k + 2 * step, full, x) + z, full, x)
    if power == 1:
        hold(values, k + 3 * step, held(values, k + 3 * step, full, x) + signs, full, x)


@helper
def rows_sums(view, given, region, blocks, sums, forms, flags):
    """Compute the sums over the region."""
    values, to, step = sums
    for j in range(region.first, region.last, LANES):
        for p in range(1, SUMS + 1):
            store(values, to + p * step + j, zeros(given.x))
    in_strips(add_sums, region, (view, given, blocks, sums, forms, flags))


@helper
def group_sums(view, given, tile, g, blocks, sums, planes, flags):
    """Compute the sums over group g of the tile, in its planes of `part`."""
    b, top, end, first, last = group_in(tile, g)
    values, to, width = sums
    forms, at_forms, step = planes.forms
    part, at_part, part_step = group_of(planes.part, SUMS, g)
    half = smaller(top + SUMMED_ROWS, end)
    if flags.spans:
        for j in range(first, last, LANES):
            store(values, to + j, zeros(given.x))
        if flags.center:  # the same in all groups
            fill_centers(view, given, tile, sums, planes.forms, flags)
    else:
        fill_centers(view, given, group_in(tile, g), sums, planes.forms, flags)
    rows_here = splat(float(end - top))
    again = True
    while again:
        again = False
        for start in range(top, end, SUMMED_ROWS):
            stop = smaller(start + SUMMED_ROWS, end)
            rows_sums(view, given, Region(b, start, stop, first, last), blocks, sums, planes.forms, flags)
            if stop < end:  # the first of two halves
                for j in range(first, last, LANES):
                    for p in range(SUMS):
                        store(part, at_part + p * part_step + j, wide(load(values, to + (p + 1) * width + j)))
        for j in range(first, last, LANES):
            i, k, f = at_part + j, to + j, at_forms + j
            middle = wide(load(values, k))
            s, q = wide(load(values, k + width)), wide(load(values, k + 2 * width))
            z, signs = wide(load(values, k + 3 * width)), wide(load(values, k + 4 * width))
            if half < end:
                s, q = s + load(part, i), q + load(part, i + part_step)
                z, signs = z + load(part, i + 2 * part_step), signs + load(part, i + 3 * part_step)
            if flags.spans:
                s = fma(middle, rows_here, s)  # the sums were scaled like x, which kept them in range
                unscale = inverse_power(wide(load(forms, f)))
                s, q = s * unscale, q * unscale
            else:
                fine, r = wide(load(forms, f + 2 * step)), wide(load(forms, f + 3 * step))
                q, z = of_offsets(s, q, z, rows_here, fine, r, flags.power)
                s, q = fma(middle, rows_here, s), fma(middle, z, q)
                # if most of dy is much nearer to 0 than the reference, the reference would cost them digits
                near = below(splat(0.5) * magnitude(middle) * rows_here, magnitude(s), middle)
                if is_outside(near - middle, 0.0, 0.0):
                    store(values, k, narrow(near, given.x))
                    again = True
            store(part, i, s)
            store(part, i + part_step, q)
            store(part, i + 2 * part_step, z)
            store(part, i + 3 * part_step, signs)


@helper
def add_groups(view, own, part):
    """Add the sums of the groups, in order, to those of the first group."""
    values, to, step = part
    first = to + own.first
    for j in range(first, first + (own.last - own.first) * view.together, LANES):
        for p in range(SUMS):
            s = load(values, j + p * step)
            for g in range(1, groups_of(view.rows)):
                s += load(values, j + (g * SUMS + p) * step)
            store(values, j + p * step, s)


@helper
def fold_row_sums(view, given, b, planes, power):
    """Add rows side by side, and the values after the last row, to the sums of the first occurrence of each column."""
    if view.together == 1:
        return
    x = given.x
    part, to, step = planes.part
    for j in range(0, view.own, LANES):
        left = smaller(view.own - j, LANES)
        s, q, z, signs = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
        for i in range(to + j, to + view.columns, view.own):
            s += load_n(part, i, left)
            q += load_n(part, i + step, left)
            z += load_n(part, i + 2 * step, left)
            signs += load_n(part, i + 3 * step, left)
        start = place_in(view, b, view.rows) + j
        for i in range(start, start + rest_of(view), view.own):
            xhat = keep(standardize(load_n(x, i, left), *four(planes.forms, j, False, x)), left)
            d, v = wide(load_n(given.dy, i, left)), wide(xhat)
            s += d
            q = fma(d, v, q)
            z += v
            if power == 1:
                signs += wide(sign(xhat))
        put_lanes(part, to + j, s, left)
        put_lanes(part, to + step + j, q, left)
        put_lanes(part, to + 2 * step + j, z, left)
        put_lanes(part, to + 3 * step + j, signs, left)


@helper
def add_up(view, given, own, planes, kept, flags):
    """Compute the sums of each column from those of its groups; if they are gradients, store them in `kept`, (b, 2,
    columns)."""
    (part, to, step), b = planes.part, own.b
    add_groups(view, own, planes.part)
    fold_row_sums(view, given, b, planes, flags.power)
    if not flags.spans:
        for j in range(own.first, own.last, LANES):
            left = smaller(own.last - j, LANES)
            put_lanes(kept, 2 * b * view.own + j, load(part, to + step + j), left)
            put_lanes(kept, (2 * b + 1) * view.own + j, load(part, to + j), left)
