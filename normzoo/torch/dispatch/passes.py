"""A pass of a plan over tensors, in compiled code; forward and backward."""

# mypy: disallow-untyped-defs=False

import math

from normzoo.backends.cpu.compiling.jit import helper
from normzoo.backends.cpu.fastcall.objects import fails, needed, place_of
from normzoo.backends.cpu.kernels.moments import put_lanes, rstd_of
from normzoo.backends.cpu.kernels.running import blend
from normzoo.backends.cpu.parallel.sharing import ALONE
from normzoo.backends.cpu.vector.access import at, load_n, put
from normzoo.backends.cpu.vector.arithmetic import larger, smaller, splat
from normzoo.backends.cpu.vector.lanes import LANES
from normzoo.backends.cpu.vector.workspaces import workspace
from normzoo.torch.dispatch import interface
from normzoo.torch.dispatch.handles import (
    BFLOAT16,
    FLOAT32,
    FLOAT64,
    as_array,
    computing,
    data_of,
    is_short,
    stored,
    to_doubles,
)
from normzoo.torch.dispatch.interface import doubles, floats
from normzoo.torch.dispatch.plans import (
    CODE,
    COUNT,
    DIMS,
    DIVISOR,
    MOMENTS,
    MOMENTS_THREADS,
    ONES,
    SETS,
    THREADS,
    ZEROS,
    field,
    real,
)

NEAR = 4.0  # |mean| * rstd, up to which a mean rounded to float32 makes xhat no less exact than rounding xhat does
place_of_pool = interface.symbol("normzoo_torch_pool")


@helper
def ints_of(plan, threads):
    """The first arguments of kernels: the pool, dims and parameter_dims."""
    pool = place_of_pool() if field(plan, threads) != 0 else ALONE
    d = DIMS
    return (
        pool, field(plan, d), field(plan, d + 1), field(plan, d + 2), field(plan, d + 3), field(plan, d + 4),
        field(plan, d + 5), field(plan, d + 6), field(plan, d + 7),
    )  # fmt: skip


@helper
def room_for(kind, count):
    """Number of values that a parameter of this dtype takes in a workspace: none if it needs no conversion."""
    return count if is_short(kind) else 0


@helper
def forward(plan, x, parameters, kind, y, stats, eps):
    """y and `stats`, float64, of x; `parameters` are weight and bias or 0, of dtype `kind`. 1 if memory is short."""
    weight, bias = parameters
    count = field(plan, COUNT)
    space = workspace(2 * room_for(kind, count), floats(stats))
    w = computing(weight, kind, place_of(space), field(plan, ONES), count)
    b = computing(bias, kind, place_of(space) + 4 * count, field(plan, ZEROS), count)
    scalars = real(plan, DIVISOR), eps, field(plan, CODE) == 0
    failed = fails(field(plan, CODE), ints_of(plan, THREADS), (data_of(x), w, b, data_of(y), stats), scalars)
    needed(space)
    return failed


@helper
def apply(plan, x, parameters, kind, y, stats):
    """y of x by `stats`; otherwise like `forward`."""
    weight, bias = parameters
    count = field(plan, COUNT)
    space = workspace(2 * room_for(kind, count), floats(stats))
    w = computing(weight, kind, place_of(space), field(plan, ONES), count)
    b = computing(bias, kind, place_of(space) + 4 * count, field(plan, ZEROS), count)
    failed = fails(field(plan, CODE), ints_of(plan, THREADS), (data_of(x), w, b, data_of(y), stats), ())
    needed(space)
    return failed


@helper
def backward(plan, dy, x, weight, kind, stats, gradients):
    """dx, dweight and dbias, tensors or 0 for what nobody wants (never dx)."""
    dx, dweight, dbias = gradients
    count, size = field(plan, COUNT), 8 if kind == FLOAT64 else 4
    short = is_short(kind)
    space = workspace(3 * count if short or dweight == 0 or dbias == 0 else 0, doubles(stats))
    own = place_of(space)
    w = computing(weight, kind, own, field(plan, ONES), count)
    to_weight, to_bias = own + size * count, own + 2 * size * count
    if dweight != 0 and not short:
        to_weight = data_of(dweight)
    if dbias != 0 and not short:
        to_bias = data_of(dbias)
    places = data_of(dy), data_of(x), w, stats, data_of(dx), to_weight, to_bias
    scalars = real(plan, DIVISOR), math.inf
    failed = fails(field(plan, CODE), ints_of(plan, THREADS), places, scalars)
    if dweight != 0 and short:
        stored(dweight, kind, to_weight, count)
    if dbias != 0 and short:
        stored(dbias, kind, to_bias, count)
    needed(space)
    return failed


# -- statistics


@helper
def roundoff(kind):
    """The largest relative error of a number rounded to this dtype."""
    if kind == FLOAT32:
        return 2.0**-24
    if kind == FLOAT64:
        return 2.0**-53
    return 2.0**-8 if kind == BFLOAT16 else 2.0**-11


@helper
def is_exact(kind, stats, sets):
    """Can a backward pass use statistics that were rounded to this dtype?"""
    if is_short(kind):
        return False
    if kind == FLOAT64:
        return True
    means, rstds, far = doubles(stats), doubles(stats + 16 * sets), 0
    for i in range(sets):
        far += 0 if abs(at(means, i)) * at(rstds, i) <= NEAR else 1
    return far == 0


@helper
def known_stats(plan, mean, rstd, kind, x, dx, stats):
    """The statistics for a backward pass, in `stats`: those that PyTorch kept (mean may be 0), or found anew where
    rounding took digits of them. eps is not known then: rstd is the nearest to that of x that rounds to the one kept.
    dx is written over. 1 if memory is short."""
    sets = field(plan, SETS)
    if mean != 0:
        to_doubles(kind, data_of(mean), stats, sets)
    else:
        zeros = doubles(stats)
        for i in range(sets):
            put(zeros, i, 0.0)
    to_doubles(kind, data_of(rstd), stats + 16 * sets, sets)
    if is_exact(kind, stats, sets):
        return 0
    kept = workspace(sets, doubles(stats))
    rstds = doubles(stats + 16 * sets)
    for i in range(sets):
        put(kept, i, at(rstds, i))
    places = data_of(x), field(plan, ONES), field(plan, ZEROS), data_of(dx), stats
    scalars = real(plan, DIVISOR), 0.0, field(plan, CODE) == 0
    failed = fails(field(plan, MOMENTS), ints_of(plan, MOMENTS_THREADS), places, scalars)
    spreads, unit = doubles(stats + 8 * sets), roundoff(kind)
    for i in range(sets):
        own = 1.0 / math.sqrt(larger(at(spreads, i), 1e-300))
        put(rstds, i, smaller(larger(own, at(kept, i) * (1.0 - unit)), at(kept, i) * (1.0 + unit)))
    return failed


@helper
def running_stats(mean, var, kind, eps, stats, channels):
    """The statistics of an evaluation, in `stats`, of tensors with running ones."""
    to_doubles(kind, data_of(mean), stats, channels)
    to_doubles(kind, data_of(var), stats + 8 * channels, channels)
    spreads, rstds = doubles(stats + 8 * channels), doubles(stats + 16 * channels)
    for i in range(0, channels, LANES):
        left = smaller(channels - i, LANES)
        put_lanes(rstds, i, rstd_of(load_n(spreads, i, left), splat(eps), splat(1.0), 2, False), left)


@helper
def blended(state, stats, channels, momentum, weight):
    """state = (1 - momentum) * state + weight * stats."""
    for j in range(0, channels, LANES):
        left = smaller(channels - j, LANES)
        blend(state, j, left, 1.0 - momentum, load_n(doubles(stats), j, left), weight)


@helper
def update(state, kind, stats, channels, momentum, weight):
    """The same, for a tensor."""
    as_array(kind, data_of(state), blended, (stats, channels, momentum, weight))
