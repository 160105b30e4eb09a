"""Powers of two as scales, and their inverses: they keep values of any size within the range of their type."""

import numpy as np
from numba.core import types

from normzoo.backends.cpu.numba_internals.way import lower, typed
from normzoo.backends.cpu.vector.arithmetic import _bits_of, _constant
from normzoo.backends.cpu.vector.lanes import Flat, Vec


def rescue(rstd, like):
    """A power of two near `rstd` if that is far from 1, else 1: it keeps (x - mean) * rstd in the range of `like`. For
    an rstd beyond float64 (see `Backend`), it is 1 / BEYOND."""
    low, high = _scale_range(like.dtype.itemsize)
    if like.dtype.itemsize == 8:
        rstd = np.where(rstd < 0, high, rstd)
    binade = np.clip(np.exp2(np.floor(np.log2(np.maximum(rstd, low)))), low, high)
    return np.where((rstd < 2.0**-20) | (rstd > 2.0**20), binade, 1.0)


def _scale_range(itemsize: int) -> tuple[float, float]:
    # for float32 the smallest is 2^-128, so that offsets are no larger than xhat, and their sums overflow no earlier
    return (2.0**-1000, 2.0**1000) if itemsize == 8 else (2.0**-128, 2.0**126)


typed(rescue, lambda rstd, like: rstd)


@lower(rescue, Vec, Flat)
@lower(rescue, types.Float, Flat)
def _rescue(context, builder, sig, args):
    v, kind, bits = args[0], args[0].type, _bits_of(args[0])
    if sig.args[1].dtype.bitwidth == 64:
        beyond = _constant(kind, _scale_range(8)[1])
        v = builder.select(builder.fcmp_ordered("<", v, _constant(kind, 0.0)), beyond, v)
    exponent = builder.and_(builder.bitcast(v, bits), _constant(bits, 0x7FF0000000000000))
    binade = builder.bitcast(exponent, kind)
    low, high = (_constant(kind, c) for c in _scale_range(sig.args[1].dtype.bitwidth // 8))
    binade = builder.select(builder.fcmp_ordered("<", binade, low), low, binade)
    binade = builder.select(builder.fcmp_ordered(">", binade, high), high, binade)
    small = builder.fcmp_ordered("<", v, _constant(kind, 2.0**-20))
    large = builder.fcmp_ordered(">", v, _constant(kind, 2.0**20))
    return builder.select(builder.or_(small, large), binade, _constant(kind, 1.0))


def scale_for(mean, scale, like):
    """`scale`, a power of two, or a quarter of it if (x - mean) * scale might leave the range of `like`."""
    return np.where(np.abs(mean) > _far(like.dtype.itemsize), scale / 4, scale)[()]


def _far(itemsize: int) -> float:
    return 2.0**900 if itemsize == 8 else 2.0**100


typed(scale_for, lambda mean, scale, like: scale if mean == scale else None)


@lower(scale_for, Vec, Vec, Flat)
@lower(scale_for, types.Float, types.Float, Flat)
def _scale_for(context, builder, sig, args):
    mean, scale, _ = args
    far = _constant(mean.type, _far(sig.args[2].dtype.bitwidth // 8))
    is_far = builder.or_(builder.fcmp_ordered(">", mean, far), builder.fcmp_ordered(">", builder.fneg(mean), far))
    return builder.select(is_far, builder.fmul(scale, _constant(scale.type, 0.25)), scale)


def within(rstd):
    """rstd, or inf if it represents one beyond float64."""
    return np.where(rstd < 0, np.inf, rstd)[()]


typed(within, lambda rstd: rstd)


@lower(within, Vec)
@lower(within, types.Float)
def _within(context, builder, sig, args):
    v = args[0]
    is_beyond = builder.fcmp_ordered("<", v, _constant(v.type, 0.0))
    return builder.select(is_beyond, _constant(v.type, float("inf")), v)


def inverse_power(scale):
    """1 / scale, for lanes or a scalar that are powers of two."""
    return 1 / scale


typed(inverse_power, lambda scale: scale)


@lower(inverse_power, Vec)
@lower(inverse_power, types.Float)
def _inverse_power(context, builder, sig, args):
    bits = _bits_of(args[0])
    twice = _constant(bits, 2 * 1023 << 52)  # exponents are stored with 1023 added
    return builder.bitcast(builder.sub(twice, builder.bitcast(args[0], bits)), args[0].type)
