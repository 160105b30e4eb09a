"""Lanes that lie apart in memory, and lanes of whole numbers: what images and lines along other axes need.

Whole numbers of 8 or 16 bits are converted to float32, in which they are exact. An array of theirs is one of integers,
which elsewhere are storage for 16-bit floats: only the primitives of this file read it.
"""

import numpy as np
from llvmlite import ir
from numba.core import types

from normzoo.backends.cpu.numba_internals.way import lower, typed
from normzoo.backends.cpu.vector.access import element_at
from normzoo.backends.cpu.vector.lanes import LANES, Flat, Values, Vec, element_type, llvm_type, of
from normzoo.backends.cpu.vector.storage import as_floats, as_stored, loaded, to_store

_FLOATS = llvm_type(types.float32)


def whole(a, i):
    """The lanes a[i : i + 16] of whole numbers, as float32."""
    return a.reshape(-1)[i : i + LANES].astype(np.float32).view(Values)


typed(whole, lambda a, i: Vec(types.float32))


@lower(whole, Flat, types.Integer)
def _whole(context, builder, sig, args):
    kind = sig.args[0].dtype
    place = element_at(context, builder, sig.args[0], args[0], args[1])
    stored = ir.VectorType(ir.IntType(kind.bitwidth), LANES)
    v = builder.load(builder.bitcast(place, stored.as_pointer()), align=kind.bitwidth // 8)
    return _as_floats(builder, kind, v, _FLOATS)


def _as_floats(builder, kind, v, result):
    """Through 32 bits with a sign, from which every processor converts: all values fit."""
    words = ir.VectorType(ir.IntType(32), LANES) if isinstance(result, ir.VectorType) else ir.IntType(32)
    v = builder.sext(v, words) if kind.signed else builder.zext(v, words)
    return builder.sitofp(v, result)


def whole_at(a, i):
    """The whole number a[i], as float32."""
    return np.float32(a.reshape(-1)[i])


typed(whole_at, lambda a, i: types.float32)


@lower(whole_at, Flat, types.Integer)
def _whole_at(context, builder, sig, args):
    v = builder.load(element_at(context, builder, sig.args[0], args[0], args[1]))
    return _as_floats(builder, sig.args[0].dtype, v, ir.FloatType())


def whole_apart(a, i, step, count):
    """The lanes a[i], a[i + step], ... of whole numbers, as float32; behind `count`, which is 1 or more, lane 0."""
    return a.reshape(-1)[_places(i, step, count)].astype(np.float32).view(Values)


typed(whole_apart, lambda a, i, step, count: Vec(types.float32))


@lower(whole_apart, Flat, types.Integer, types.Integer, types.Integer)
def _whole_apart(context, builder, sig, args):
    return _as_floats(builder, sig.args[0].dtype, _gathered(context, builder, sig, args), _FLOATS)


def load_apart(a, i, step, count):
    """The lanes a[i], a[i + step], ...; behind `count`, which is 1 or more, lane 0."""
    return as_floats(a)[_places(i, step, count)].view(Values)


typed(load_apart, lambda a, i, step, count: Vec(of(a.dtype)))


@lower(load_apart, Flat, types.Integer, types.Integer, types.Integer)
def _load_apart(context, builder, sig, args):
    return loaded(context, builder, sig.args[0].dtype, _gathered(context, builder, sig, args))


def store_apart(a, i, step, v, count):
    """a[i], a[i + step], ... = the first `count` lanes of v."""
    count = min(count, LANES)
    a.reshape(-1)[_places(i, step, count)[:count]] = as_stored(a, v)[:count]


typed(store_apart, lambda a, i, step, v, count: types.none)


@lower(store_apart, Flat, types.Integer, types.Integer, Vec, types.Integer)
def _store_apart(context, builder, sig, args):
    kind = sig.args[0]
    lanes = to_store(context, builder, kind.dtype, args[3])
    i, step, count = (context.cast(builder, args[k], sig.args[k], types.int64) for k in (1, 2, 4))
    is_full = builder.icmp_signed(">=", count, _int(LANES))

    def write(k, v):
        place = element_at(context, builder, kind, args[0], builder.add(i, builder.mul(step, _int(k))))
        kind_of_value = v.type.as_pointer()
        builder.store(v, builder.bitcast(place, kind_of_value), align=kind.dtype.bitwidth // 8)

    with builder.if_else(is_full, likely=True) as (whole_vector, some):
        with whole_vector:
            for k in range(LANES):
                write(k, builder.extract_element(lanes, ir.Constant(ir.IntType(32), k)))
        with some:
            for k in range(LANES - 1):
                with builder.if_then(builder.icmp_signed("<", _int(k), count)):
                    write(k, builder.extract_element(lanes, ir.Constant(ir.IntType(32), k)))
    return context.get_dummy_value()


def _places(i, step, count):
    """Of the elements, if Numba is switched off."""
    lanes = np.arange(LANES)
    return i + step * np.where(lanes < count, lanes, 0)


def _int(value: int) -> ir.Constant:
    return ir.Constant(ir.IntType(64), value)


def _gathered(context, builder, sig, args):
    """The elements as they are stored: no load is beyond the last that counts."""
    kind = sig.args[0]
    i, step, count = (context.cast(builder, args[k], sig.args[k], types.int64) for k in (1, 2, 3))
    places = [builder.mul(step, _int(k)) for k in range(LANES)]
    chosen = [builder.select(builder.icmp_signed("<", _int(k), count), p, _int(0)) for k, p in enumerate(places)]
    v = ir.Constant(ir.VectorType(element_type(kind.dtype), LANES), ir.Undefined)
    for k, place in enumerate(chosen):
        one = builder.load(element_at(context, builder, kind, args[0], builder.add(i, place)))
        v = builder.insert_element(v, one, ir.Constant(ir.IntType(32), k))
    return v
