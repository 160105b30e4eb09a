"""Comparisons of lanes and scalars."""

import numpy as np
from llvmlite import ir
from numba.core import types

from normzoo.backends.cpu.numba_internals.way import lower, typed
from normzoo.backends.cpu.vector.arithmetic import _folded, _lesser
from normzoo.backends.cpu.vector.lanes import LANES, Vec, filled


def have_one_sign(low, high):
    """Are all lanes of `low` above 0, or all of `high` below 0?"""
    return bool((low > 0).all() or (high < 0).all())


typed(have_one_sign, lambda low, high: types.boolean)


@lower(have_one_sign, Vec, Vec)
def _have_one_sign(context, builder, sig, args):
    zero, bits = ir.Constant(args[0].type, None), ir.IntType(LANES)
    all_of = ir.Constant(bits, -1)
    found = [
        builder.icmp_unsigned("==", builder.bitcast(builder.fcmp_ordered(sense, v, zero), bits), all_of)
        for sense, v in zip("><", args, strict=True)
    ]
    return builder.or_(*found)


def nearer(a, b):
    """The scalar that is nearer to 0; 0 if their signs differ."""
    return max(min(a, b), a.dtype.type(0)) + min(max(a, b), a.dtype.type(0))


typed(nearer, lambda a, b: a if a == b else None)


@lower(nearer, types.Float, types.Float)
def _nearer(context, builder, sig, args):
    a, b = args
    zero, is_less = ir.Constant(a.type, 0.0), builder.fcmp_ordered("<", a, b)
    low, high = builder.select(is_less, a, b), builder.select(is_less, b, a)
    above = builder.select(builder.fcmp_ordered(">", low, zero), low, zero)
    return builder.fadd(above, builder.select(builder.fcmp_ordered("<", high, zero), high, zero))


def nearest(v):
    """The lane nearest to 0; all lanes must have the same sign."""
    return v.min() if v[0] > 0 else v.max()


typed(nearest, lambda v: v.dtype)


@lower(nearest, Vec)
def _nearest(context, builder, sig, args):
    zero = ir.Constant(args[0].type.element, 0.0)

    def the_nearer(builder, a, b):
        least, most = _lesser(builder, a, b), builder.select(builder.fcmp_ordered("<", a, b), b, a)
        positive = builder.fcmp_ordered(">", builder.extract_element(args[0], ir.Constant(ir.IntType(32), 0)), zero)
        return builder.select(positive, least, most)

    return _folded(builder, args[0], the_nearer)


def below(v, limit, then):
    """`then` where v < limit, 0 elsewhere."""
    return np.where(v < limit, then, 0.0)


typed(below, lambda v, limit, then: v)


@lower(below, Vec, Vec, Vec)
def _below(context, builder, sig, args):
    zeros = ir.Constant(args[2].type, None)
    return builder.select(builder.fcmp_ordered("<", args[0], args[1]), args[2], zeros)


def is_outside(v, least, most):
    """Is a scalar, or any lane, outside of the interval from `least` to `most`, or NaN?"""
    return not np.all((least <= v) & (v <= most))


typed(is_outside, lambda v, least, most: types.boolean)


@lower(is_outside, Vec, types.Float, types.Float)
@lower(is_outside, types.Float, types.Float, types.Float)
def _is_outside(context, builder, sig, args):
    v, least, most = args
    if isinstance(sig.args[0], Vec):
        least, most = filled(builder, least), filled(builder, most)
    inside = builder.and_(builder.fcmp_ordered("<=", least, v), builder.fcmp_ordered("<=", v, most))
    if isinstance(sig.args[0], Vec):
        bits = ir.IntType(LANES)
        return builder.icmp_unsigned("!=", builder.bitcast(inside, bits), ir.Constant(bits, -1))
    return builder.not_(inside)
