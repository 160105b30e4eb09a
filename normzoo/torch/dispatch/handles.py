"""Tensors in compiled code: what a kernel reads of them, and those that it makes."""

# mypy: disallow-untyped-defs=False

from normzoo.backends.cpu.compiling.jit import helper
from normzoo.backends.cpu.fastcall.objects import half, put_word, word
from normzoo.backends.cpu.kernels.moments import put_lanes
from normzoo.backends.cpu.vector.access import load_n
from normzoo.backends.cpu.vector.arithmetic import narrow, smaller, wide
from normzoo.backends.cpu.vector.lanes import LANES
from normzoo.torch.dispatch.interface import (
    bfloats,
    copy_into,
    data_ptr,
    delete_list,
    delete_tensor,
    dim_of,
    doubles,
    dtype_of,
    empty_strided,
    floats,
    free,
    halves,
    is_defined,
    list_item,
    list_size,
    room,
    sizes_of,
    strides_of,
    undefined,
)

BYTE, FLOAT16, FLOAT32, FLOAT64, BFLOAT16 = 0, 5, 6, 7, 15  # PyTorch's codes of dtypes
MOST_AXES = 64


@helper
def equal_words(a, b, count):
    """Do these addresses have the same words?"""
    i = 0
    while i < count and word(a + 8 * i) == word(b + 8 * i):
        i += 1
    return i == count


# -- arguments


@helper
def opened(cell):
    """The tensor of an optional argument, whose cell is freed; 0 if there is none."""
    if cell == 0:
        return 0
    tensor, place = word(cell), room()
    free(cell)
    put_word(place, 0)
    is_defined(tensor, place)
    if word(place) & 1 == 0:
        delete_tensor(tensor)
        return 0
    return tensor


@helper
def opened_list(given, target):
    """Write the first items of a list, which is deleted, to `target`; returns their number."""
    place = room()
    list_size(given, place)
    count = word(place)
    for i in range(smaller(count, MOST_AXES)):
        list_item(given, i, target + 8 * i)
    delete_list(given)
    return smaller(count, MOST_AXES)


@helper
def opened_mask(given):
    """The flags of a list of at most three bools, as bytes of a word, in which C++ takes them."""
    place = room()
    count, flags = opened_list(given, place), 0
    for i in range(count):
        flags |= (word(place + 8 * i) & 1) << (8 * i)
    return flags


# -- what a tensor is


@helper
def rank_of(tensor):
    place = room()
    dim_of(tensor, place)
    return word(place)


@helper
def sizes_in(tensor):
    """The address of a tensor's sizes."""
    place = room()
    sizes_of(tensor, place)
    return word(place)


@helper
def strides_in(tensor):
    place = room()
    strides_of(tensor, place)
    return word(place)


@helper
def kind_of(tensor):
    """The code of a tensor's dtype."""
    place = room()
    dtype_of(tensor, place)
    return half(place)


@helper
def data_of(tensor):
    """The address of a tensor's values."""
    place = room()
    data_ptr(tensor, place)
    return word(place)


@helper
def product(sizes, begin, end):
    found = 1
    for i in range(begin, end):
        found *= word(sizes + 8 * i)
    return found


@helper
def same_sizes(tensor, rank, sizes):
    return rank_of(tensor) == rank and equal_words(sizes_in(tensor), sizes, rank)


@helper
def axis_at(k, rank, last):
    """The k-th axis from the innermost one, of a contiguous tensor or, with `last`, of one with channels last."""
    if last == 0:
        return rank - 1 - k
    if k == 0:
        return 1
    return rank - k if k < rank - 1 else 0


@helper
def is_dense(tensor, rank, last):
    """Do the values lie side by side in this order? The stride of an axis of size 1 does not matter."""
    sizes, strides, step = sizes_in(tensor), strides_in(tensor), 1
    for k in range(rank):
        axis = axis_at(k, rank, last)
        size = word(sizes + 8 * axis)
        if size != 1 and word(strides + 8 * axis) != step:
            return False
        step *= size
    return True


@helper
def is_last(tensor, rank):
    """1 if PyTorch takes the tensor, by its strides, as one with channels last (`suggest_memory_format`); else 0."""
    if rank != 4 and rank != 5:
        return 0
    sizes, strides = sizes_in(tensor), strides_in(tensor)
    least, channels = 0, word(strides + 8)
    if channels == 0:
        return 0
    for k in range(rank):
        axis = axis_at(k, rank, 1)
        size, stride = word(sizes + 8 * axis), word(strides + 8 * axis)
        if size == 0 or stride < least or (axis == 0 and least == channels):
            return 0
        least = stride * size if size > 1 else stride
    return 1


# -- new tensors


@helper
def new_tensor(rank, sizes, last, kind):
    """A tensor without values; 0 if there is no memory."""
    strides, place, step = room(), room(), 1
    for k in range(rank):
        axis = axis_at(k, rank, last)
        put_word(strides + 8 * axis, step)
        size = word(sizes + 8 * axis)
        step *= size if size > 1 else 1
    put_word(place, 0)
    empty_strided(rank, sizes, strides, kind, 0, 0, place)
    return word(place)


@helper
def new_row(size, kind):
    """A tensor of one axis."""
    sizes = room()
    put_word(sizes, size)
    return new_tensor(1, sizes, 0, kind)


@helper
def no_tensor():
    """PyTorch's undefined tensor."""
    place = room()
    undefined(place)
    return word(place)


@helper
def owned(implementation):
    """A tensor of what PyTorch's own kernel returned."""
    tensor = no_tensor()
    put_word(tensor, implementation)
    return tensor


@helper
def ready(tensor, rank, last, kind):
    """The tensor itself if its values lie in this order, otherwise a new one."""
    if is_dense(tensor, rank, last):
        return tensor
    made = new_tensor(rank, sizes_in(tensor), last, kind)
    if made != 0:
        copy_into(made, tensor, 0)
    return made


@helper
def dropped(made, tensor):
    """Delete what `ready` made."""
    if made != tensor:
        delete_tensor(made)


# -- conversions between dtypes


@helper
def converted(source, target, count):
    for i in range(0, count, LANES):
        left = smaller(count - i, LANES)
        put_lanes(target, i, narrow(wide(load_n(source, i, left)), target), left)


@helper
def as_array(kind, place, work, given):
    """work(array, *given), with the values of this dtype at `place` as an array."""
    if kind == FLOAT32:
        work(floats(place), *given)
    elif kind == FLOAT64:
        work(doubles(place), *given)
    elif kind == BFLOAT16:
        work(bfloats(place), *given)
    else:
        work(halves(place), *given)


@helper
def converted_to(target, source, count):
    converted(source, target, count)


@helper
def to_doubles(kind, place, target, count):
    """target[:count], float64, of values of this dtype."""
    as_array(kind, place, converted, (doubles(target), count))


@helper
def from_doubles(kind, place, source, count):
    """Values of this dtype of source[:count], float64."""
    as_array(kind, place, converted_to, (doubles(source), count))


@helper
def is_one_of(kind, a, b):
    return (kind - a) * (kind - b) == 0


@helper
def is_short(kind):
    """Is it a dtype of 16 bits, which is computed in float32?"""
    return is_one_of(kind, BFLOAT16, FLOAT16)


@helper
def computing(tensor, kind, space, absent, count):
    """The address of a parameter's values in the computing type, converted into `space` if need be; `absent` if there
    is no parameter."""
    if tensor == 0:
        return absent
    if kind == BFLOAT16:
        converted(bfloats(data_of(tensor)), floats(space), count)
        return space
    if kind == FLOAT16:
        converted(halves(data_of(tensor)), floats(space), count)
        return space
    return data_of(tensor)


@helper
def stored(tensor, kind, source, count):
    """Write a gradient, in the computing type, to a tensor of 16 bits; others were written directly."""
    if kind == BFLOAT16:
        converted(floats(source), bfloats(data_of(tensor)), count)
    elif kind == FLOAT16:
        converted(floats(source), halves(data_of(tensor)), count)
