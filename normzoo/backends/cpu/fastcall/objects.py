"""Python objects in compiled code: an object is its address, and these primitives read its memory.

The offsets of fields are those in the headers of NumPy and Python; `is_as_expected` checks them.
"""

import ctypes
from functools import lru_cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import NativeValue, box, models, register_model, unbox

from normzoo.backends.cpu.numba_internals.needed import call_at, function_type, python_api, raise_as
from normzoo.backends.cpu.numba_internals.way import lower, typed
from normzoo.backends.cpu.vector.lanes import Flat, Space, pointer

HEAD = object.__basicsize__  # bytes before the fields of any object; the pointer to its type is the last of them
TYPE = HEAD - 8
DATA, RANK, SIZES, DTYPE, FLAGS = (HEAD + offset for offset in (0, 8, 16, 40, 48))  # of an array
VALUE = HEAD  # of a float

_INT = ir.IntType(64)


class Object(types.Type):
    """Numba type of any Python object: its address. A returned one is a new reference, or 0 and an exception."""

    def __init__(self) -> None:
        super().__init__(name="object_address")


OBJECT = Object()


@register_model(Object)
class _ObjectModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type: Object) -> None:
        super().__init__(dmm, fe_type, _INT)


@unbox(Object)
def _unbox_object(typ, a, c):
    return NativeValue(c.builder.ptrtoint(a, _INT))


@box(Object)
def _box_object(typ, address, c):
    return c.builder.inttoptr(address, c.pyapi.pyobj)


# -- primitives. They have no NumPy equivalent: if Numba is switched off, there are no shortcuts


def address_of(a):
    """The address of an object."""


def returned(address):
    """Return a reference that we own to the caller."""


def shared(address):
    """Return a new reference to an object that others hold."""


def word(address):
    """The 64 bits at this address."""


def half(address):
    """The 32 bits at this address, as a signed integer."""


def quarter(address):
    """The 16 bits at this address, as a signed integer."""


def put_word(address, bits):
    """Write 64 bits to this address."""


def number(address):
    """The float64 at this address."""


def doubles(address):
    """The memory at this address, as an array of float64."""


def place_of(a):
    """The address of the values of a kernel's array; that of a workspace is valid while it is `needed`."""


def needed(space):
    """Keep a workspace alive until here, if only its address is used elsewhere."""


def result_of(function, arguments):
    """The address of the result of a Python function; 0 if it raised."""


def run(code, owned, ints, places, scalars):
    """Run the machine code of a kernel: `places` are the addresses of its arrays. If it raises, `owned` is released."""


def fails(code, ints, places, scalars):
    """Like `run`, for code without the interpreter: 1 if the kernel raised, which is only for want of memory."""


typed(address_of, lambda a: types.int64)
typed(returned, lambda address: OBJECT)
typed(shared, lambda address: OBJECT)
typed(word, lambda address: types.int64)
typed(half, lambda address: types.int64)
typed(quarter, lambda address: types.int64)
typed(put_word, lambda address, bits: types.none)
typed(number, lambda address: types.float64)
typed(doubles, lambda address: Flat(types.float64))
typed(place_of, lambda a: types.int64)
typed(needed, lambda space: types.none)
typed(result_of, lambda function, arguments: types.int64)
typed(run, lambda code, owned, ints, places, scalars: types.none)
typed(fails, lambda code, ints, places, scalars: types.int64)


@lower(address_of, Object)
@lower(returned, types.Integer)
def _same(context, builder, sig, args):
    return args[0]


@lower(shared, types.Integer)
def _shared(context, builder, sig, args):
    api = python_api(context, builder)
    api.incref(builder.inttoptr(args[0], api.pyobj))
    return args[0]


def _loaded(builder, address, kind):
    return builder.load(builder.inttoptr(address, kind.as_pointer()))


@lower(word, types.Integer)
def _word(context, builder, sig, args):
    return _loaded(builder, args[0], _INT)


@lower(half, types.Integer)
def _half(context, builder, sig, args):
    return builder.sext(_loaded(builder, args[0], ir.IntType(32)), _INT)


@lower(quarter, types.Integer)
def _quarter(context, builder, sig, args):
    return builder.sext(_loaded(builder, args[0], ir.IntType(16)), _INT)


@lower(put_word, types.Integer, types.Integer)
def _put_word(context, builder, sig, args):
    builder.store(args[1], builder.inttoptr(args[0], _INT.as_pointer()))
    return context.get_dummy_value()


@lower(number, types.Integer)
def _number(context, builder, sig, args):
    return _loaded(builder, args[0], ir.DoubleType())


@lower(doubles, types.Integer)
def _doubles(context, builder, sig, args):
    return builder.inttoptr(args[0], context.get_value_type(sig.return_type))


@lower(place_of, Flat)
def _place_of(context, builder, sig, args):
    return builder.ptrtoint(pointer(context, builder, sig.args[0], args[0]), _INT)


@lower(needed, Space)
def _needed(context, builder, sig, args):
    return context.get_dummy_value()  # reference counting releases it after its last use


@lower(result_of, types.Integer, types.Integer)
def _result_of(context, builder, sig, args):
    api = python_api(context, builder)
    return builder.ptrtoint(api.call(*(builder.inttoptr(a, api.pyobj) for a in args)), _INT)


def _called(context, builder, kinds, code, values):
    """The status of a kernel's call, by its address."""
    ints, places, scalars = (cgutils.unpack_tuple(builder, v) for v in values)
    flat = Flat(types.float32)  # for any dtype: all pointers are alike
    place = context.get_value_type(flat)
    taken = [*kinds[0].types, *[flat] * len(places), *kinds[2].types]
    given = [*ints, *(builder.inttoptr(p, place) for p in places), *scalars]
    function = builder.inttoptr(code, function_type(context, taken).as_pointer())
    return call_at(context, builder, function, taken, given)


@lower(run, types.Integer, types.Integer, types.BaseTuple, types.BaseTuple, types.BaseTuple)
def _run(context, builder, sig, args):
    status = _called(context, builder, sig.args[2:], args[0], args[2:])
    with builder.if_then(status.is_error, likely=False):
        api = python_api(context, builder)
        api.decref(builder.inttoptr(args[1], api.pyobj))
        raise_as(context, builder, status)
    return context.get_dummy_value()


@lower(fails, types.Integer, types.BaseTuple, types.BaseTuple, types.BaseTuple)
def _fails(context, builder, sig, args):
    status = _called(context, builder, sig.args[1:], args[0], args[1:])
    return builder.zext(status.is_error, _INT)


@lru_cache(maxsize=1)
def is_as_expected() -> bool:
    """Are the fields of objects at the offsets that this file assumes?"""
    if ctypes.sizeof(ctypes.c_void_p) != ctypes.sizeof(ctypes.c_int64):
        return False
    a, value = np.zeros((3, 5), np.float32)[:2], 0.1
    sizes, strides = _field(a, SIZES), _field(a, SIZES + 8)
    return (
        (_field(a, TYPE), _field(value, TYPE)) == (id(np.ndarray), id(float))
        and _field(a, DATA) == a.__array_interface__["data"][0]
        and (_field(a, RANK, ctypes.c_int32), _field(a, DTYPE)) == (2, id(a.dtype))
        and strides - sizes == 8 * a.ndim  # NumPy allocates them together
        and tuple((ctypes.c_int64 * 2).from_address(sizes)) == a.shape
        and _field(a, FLAGS, ctypes.c_int32) == a.flags.num
        and _field(value, VALUE, ctypes.c_double) == value
    )


def _field(of: object, offset: int, kind: Any = ctypes.c_int64) -> Any:
    return kind.from_address(id(of) + offset).value
