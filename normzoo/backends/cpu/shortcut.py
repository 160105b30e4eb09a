"""Small passes in one call from Python, which looks at the arrays, makes the result and runs the kernel.

Of a pass over few values the kernel is the lesser part. It takes longer to ask each array for its shape, dtype and
flags, which makes Python objects, and to make others to compare them with. Here compiled code reads what NumPy's arrays
hold and compares it with a block of integers, that says what a plan is for. It keeps Python's lock meanwhile, so it is
for what takes microseconds.

Python's objects are addresses here. Where their fields lie is what NumPy's and Python's headers say; `is_as_expected`
looks whether it is so.
"""

import ctypes
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import NativeValue, box, lower_builtin, models, register_model, unbox

from normzoo.backends.contract import Kind
from normzoo.backends.cpu.jit import helper, kernel
from normzoo.backends.cpu.lanes import Flat, typed
from normzoo.backends.cpu.sharing import ALONE
from normzoo.backends.cpu.workspaces import workspace
from normzoo.subnormals import LEAST

HEAD = object.__basicsize__  # bytes before the fields of any object; its type is the last of them
TYPE = HEAD - 8
DATA, RANK, SIZES, DTYPE, FLAGS = (HEAD + offset for offset in (0, 8, 16, 40, 48))  # of an array
VALUE = HEAD  # of a float
READY, STATE = 0x101, 0x501  # flags: contiguous and aligned; of an array that may be written, too

_INT = ir.IntType(64)


class Object(types.Type):
    """Numba type of any Python object: its address. One that is returned is a reference, or 0 and an exception."""

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


# -- primitives. They have no meaning without machine code: with Numba switched off, there are no shortcuts


def address_of(a):
    """Where an object lies."""


def returned(address):
    """A reference that is ours, for the caller."""


def shared(address):
    """A reference to what others hold, for the caller."""


def word(address):
    """The 64 bits there."""


def half(address):
    """The 32 bits there, with their sign."""


def number(address):
    """The float64 there."""


def doubles(address):
    """What lies there, as an array of float64."""


def place_of(a):
    """Where the values of an array of a kernel lie."""


def result_of(function, arguments):
    """The address of what a Python function returns; 0 where it raised."""


def run(code, owned, ints, places, scalars):
    """Machine code of a kernel: `places` are where its arrays begin. Where it raises, `owned` is given up."""


typed(address_of, lambda a: types.int64)
typed(returned, lambda address: OBJECT)
typed(shared, lambda address: OBJECT)
typed(word, lambda address: types.int64)
typed(half, lambda address: types.int64)
typed(number, lambda address: types.float64)
typed(doubles, lambda address: Flat(types.float64))
typed(place_of, lambda a: types.int64)
typed(result_of, lambda function, arguments: types.int64)
typed(run, lambda code, owned, ints, places, scalars: types.none)


@lower_builtin(address_of, Object)
@lower_builtin(returned, types.Integer)
def _same(context, builder, sig, args):
    return args[0]


@lower_builtin(shared, types.Integer)
def _shared(context, builder, sig, args):
    api = context.get_python_api(builder)
    api.incref(builder.inttoptr(args[0], api.pyobj))
    return args[0]


def _loaded(builder, address, kind):
    return builder.load(builder.inttoptr(address, kind.as_pointer()))


@lower_builtin(word, types.Integer)
def _word(context, builder, sig, args):
    return _loaded(builder, args[0], _INT)


@lower_builtin(half, types.Integer)
def _half(context, builder, sig, args):
    return builder.sext(_loaded(builder, args[0], ir.IntType(32)), _INT)


@lower_builtin(number, types.Integer)
def _number(context, builder, sig, args):
    return _loaded(builder, args[0], ir.DoubleType())


@lower_builtin(doubles, types.Integer)
def _doubles(context, builder, sig, args):
    return builder.inttoptr(args[0], context.get_value_type(sig.return_type))


@lower_builtin(place_of, types.Array)
def _place_of(context, builder, sig, args):
    return builder.ptrtoint(context.make_array(sig.args[0])(context, builder, args[0]).data, _INT)


@lower_builtin(result_of, types.Integer, types.Integer)
def _result_of(context, builder, sig, args):
    api = context.get_python_api(builder)
    return builder.ptrtoint(api.call(*(builder.inttoptr(a, api.pyobj) for a in args)), _INT)


@lower_builtin(run, types.Integer, types.Integer, types.BaseTuple, types.BaseTuple, types.BaseTuple)
def _run(context, builder, sig, args):
    ints, places, scalars = (cgutils.unpack_tuple(builder, a) for a in args[2:])
    flat = Flat(types.float32)  # of any dtype: a pointer is a pointer
    pointer = context.get_value_type(flat)
    taken = [*sig.args[2].types, *[flat] * len(places), *sig.args[4].types]
    given = [*ints, *(builder.inttoptr(p, pointer) for p in places), *scalars]
    kind = context.call_conv.get_function_type(types.none, taken)
    code = builder.inttoptr(args[0], kind.as_pointer())
    status, _ = context.call_conv.call_function(builder, code, types.none, taken, given)
    with builder.if_then(status.is_error, likely=False):
        api = context.get_python_api(builder)
        api.decref(builder.inttoptr(args[1], api.pyobj))
        context.call_conv.return_status_propagate(builder, status)
    return context.get_dummy_value()


# -- the block: words that say what a plan is for


NONE, FLOAT, TINY, ONE, NEW, GIVEN, CODE, ONES, ZEROS, DIVISOR, CLAMP = range(11)  # where they stand in the block
UPDATE, UNCOUNTED, CHANNELS, SETS, VALUES, INTS = range(11, 17)
KINDS = INTS + 8  # x (or dy), weight, bias, running mean and variance, number of batches
AXES = 8  # sizes in a kind
KIND = 4 + AXES  # words: type or 0 for None, rank, dtype, flags, sizes


class Shortcut:
    """A pass that is called as `call(block, *objects)`.

    Args:
        words: what the block has at these places: integers, a list of them, numbers, and objects, of which it has the
            address: that of the values of an array, and of the code of a kernel.
        wanted: the kinds that arrays must be, of at most AXES axes, or None for None; and flags that they must have.
    """

    __slots__ = ("_held", "block", "call")

    def __init__(self, call: Callable, words: dict[int, Any], wanted: Sequence[tuple[Kind | None, int]]) -> None:
        self.call = call
        self._held = words, wanted  # what the block has addresses of
        self.block = np.zeros(KINDS + 6 * KIND, np.int64)
        numbers = self.block.view(np.float64)
        for place, value in ({NONE: None, FLOAT: float, TINY: LEAST, ONE: 1.0} | words).items():
            if isinstance(value, float):
                numbers[place] = value
            elif isinstance(value, list):
                self.block[place : place + len(value)] = value
            else:
                self.block[place] = value if type(value) is int else _address(value)
        for i, (kind, flags) in enumerate(wanted):
            if kind is not None:
                shape, dtype, _ = kind
                place = KINDS + KIND * i
                self.block[place : place + 4 + len(shape)] = id(np.ndarray), len(shape), id(dtype), flags, *shape


def _address(value: Any) -> int:
    if isinstance(value, np.ndarray):
        return value.__array_interface__["data"][0]
    return getattr(value, "address", id(value))


@lru_cache(maxsize=1)
def is_as_expected() -> bool:
    """Do the fields of objects lie where this file takes them to be?"""
    if ctypes.sizeof(ctypes.c_void_p) != ctypes.sizeof(ctypes.c_int64):
        return False
    a, value = np.zeros((3, 5), np.float32)[:2], 0.1
    sizes, strides = _field(a, SIZES), _field(a, SIZES + 8)
    return (
        (_field(a, TYPE), _field(value, TYPE)) == (id(np.ndarray), id(float))
        and _field(a, DATA) == a.__array_interface__["data"][0]
        and (_field(a, RANK, ctypes.c_int32), _field(a, DTYPE)) == (2, id(a.dtype))
        and strides - sizes == 8 * a.ndim  # NumPy keeps them together
        and tuple((ctypes.c_int64 * 2).from_address(sizes)) == a.shape
        and _field(a, FLAGS, ctypes.c_int32) == a.flags.num
        and _field(value, VALUE, ctypes.c_double) == value
    )


def _field(of: object, offset: int, kind: Any = ctypes.c_int64) -> Any:
    return kind.from_address(id(of) + offset).value


@helper
def field(block, i):
    return word(block + 8 * i)


@helper
def is_kind(block, i, a):
    """Is the object what kind i of the block says?"""
    kind = block + 8 * (KINDS + KIND * i)
    if word(kind) == 0:
        return a == field(block, NONE)
    if word(a + TYPE) != word(kind):
        return False
    rank, flags = word(kind + 8), word(kind + 24)
    if half(a + RANK) != rank or word(a + DTYPE) != word(kind + 16) or half(a + FLAGS) & flags != flags:
        return False
    sizes = word(a + SIZES)
    axis = 0
    while axis < rank and word(sizes + 8 * axis) == word(kind + 32 + 8 * axis):
        axis += 1
    return axis == rank


@helper
def is_usual(block, eps):
    """Is eps a float that a pass can take, in a thread that does not flush subnormal numbers?"""
    if field(block, FLOAT) != word(eps + TYPE) or number(block + 8 * TINY) * number(block + 8 * ONE) == 0.0:
        return False
    return number(eps + VALUE) >= 0.0 and number(eps + VALUE) < np.inf


@helper
def ints_of(block):
    """No threads, dims and parameter_dims, as kernels take them first."""
    a = block + 8 * INTS
    return (
        ALONE, word(a), word(a + 8), word(a + 16), word(a + 24), word(a + 32), word(a + 40), word(a + 48), word(a + 56),
    )  # fmt: skip


@helper
def data_of(a):
    """Where an array's values begin."""
    return word(a + DATA)


@cache
def forward():
    """The call of `Backend.forward_shortcut`: y, or None where something is not what the block is for; nothing was done
    then. Where stats is None, they lie where nobody sees them."""

    @kernel(nogil=False)
    def forward_shortcut(block, x, weight, bias, eps, stats, running_mean, running_var, batches, momentum):
        block = data_of(address_of(block))
        none, tracks = field(block, NONE), field(block, UPDATE) != 0
        x, w, b, e, s = address_of(x), address_of(weight), address_of(bias), address_of(eps), address_of(stats)
        mean, var = address_of(running_mean), address_of(running_var)
        count, step = address_of(batches), address_of(momentum)
        if not (is_kind(block, 0, x) and is_kind(block, 1, w) and is_kind(block, 2, b) and is_usual(block, e)):
            return shared(none)
        if not (is_kind(block, 3, mean) and is_kind(block, 4, var) and (count == none or is_kind(block, 5, count))):
            return shared(none)
        if tracks and not (is_usual(block, step) and number(step + VALUE) != 0.0 and number(e + VALUE) != 0.0):
            return shared(none)
        own = workspace(3 * field(block, SETS) if s == none else 0, doubles(block))
        y = result_of(field(block, NEW), field(block, GIVEN))
        if y == 0:
            return returned(y)
        s = place_of(own) if s == none else data_of(s)
        w = field(block, ONES) if w == none else data_of(w)
        b = field(block, ZEROS) if b == none else data_of(b)
        scalars = number(block + 8 * DIVISOR), number(e + VALUE), field(block, CLAMP) != 0
        run(field(block, CODE), y, ints_of(block), (data_of(x), w, b, data_of(y), s), scalars)
        if tracks:
            places = data_of(mean), data_of(var), field(block, UNCOUNTED) if count == none else data_of(count), s
            sizes = field(block, CHANNELS), field(block, SETS), field(block, VALUES), number(step + VALUE)
            run(field(block, UPDATE), y, (), places, sizes)
        return returned(y)

    return forward_shortcut


@cache
def backward():
    """As `forward`, of a pass back: dx. What the forward pass took, and the arrays to write to, are not looked at."""

    @kernel(nogil=False)
    def backward_shortcut(block, dy, x, stats, weight, eps, dweight, dbias):
        block = data_of(address_of(block))
        none, dy, w, e = field(block, NONE), address_of(dy), address_of(weight), address_of(eps)
        if not (is_kind(block, 0, dy) and is_usual(block, e)):
            return shared(none)
        dx = result_of(field(block, NEW), field(block, GIVEN))
        if dx == 0:
            return returned(dx)
        w = field(block, ONES) if w == none else data_of(w)
        eps = number(e + VALUE)
        limit = 1.0 / eps if field(block, CLAMP) != 0 and eps > 0.0 else np.inf
        places = (
            data_of(dy), data_of(address_of(x)), w, data_of(address_of(stats)), data_of(dx),
            data_of(address_of(dweight)), data_of(address_of(dbias)),
        )  # fmt: skip
        run(field(block, CODE), dx, ints_of(block), places, (number(block + 8 * DIVISOR), limit))
        return returned(dx)

    return backward_shortcut
