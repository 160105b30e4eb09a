"""Small passes in one call from Python, which checks the arrays, allocates the result and runs the kernel.

In a pass over few values the kernel is the smaller part. Most of the time is spent on reading each array's shape, dtype
and flags, which creates Python objects, and on creating others to compare them with. Here compiled code reads these
fields from NumPy's arrays (`objects.py`) and compares them with a block of integers that describes a plan. It holds the
interpreter's lock meanwhile, so it is only for passes of microseconds.
"""

from collections.abc import Callable, Sequence
from functools import cache
from types import MethodType
from typing import Any

import numpy as np

from normzoo.backends.contract import Kind
from normzoo.backends.cpu.compiling.jit import helper, kernel
from normzoo.backends.cpu.fastcall.objects import (
    DATA,
    DTYPE,
    FLAGS,
    RANK,
    SIZES,
    TYPE,
    VALUE,
    address_of,
    doubles,
    half,
    needed,
    number,
    place_of,
    put_word,
    quarter,
    result_of,
    returned,
    run,
    shared,
    word,
)
from normzoo.backends.cpu.parallel.sharing import ALONE
from normzoo.backends.cpu.vector.workspaces import workspace
from normzoo.backends.samples import SAMPLES
from normzoo.backends.subnormals import LEAST

READY, STATE = 0x101, 0x501  # flags: contiguous and aligned; the second also writeable

# -- the block: words that describe a plan


NONE, FLOAT, TINY, ONE, NEW, GIVEN, CODE, ONES, ZEROS, DIVISOR, CLAMP = range(11)  # indices in the block
UPDATE, UNCOUNTED, CHANNELS, SETS, VALUES, BEFORE, BEHIND, INTS = range(11, 19)
SEEN = INTS + 8  # for x, weight and bias: bytes per value (0 if there is none), and byte offsets of the samples
# kinds of x, weight, bias, running mean and variance, number of batches, residual, and add or gate; or of dy and ds
KINDS = SEEN + 3 * (1 + SAMPLES)
AXES = 8  # most axes of a kind
KIND = 4 + AXES  # words: type (0 for None), rank, dtype, flags, sizes
# values of BEFORE: where s, or dy of the norm alone, is written. BEHIND: are samples of more than x and weight kept?
S_IN_S, S_IN_Y, S_IN_DOTHER, DY_IN_DOTHER, DY_IN_DX = range(1, 6)


class Block(np.ndarray):
    """The words, and the objects to which they have addresses."""

    held: Any


def bound(call: Callable, words: dict[int, Any], wanted: Sequence[tuple[Kind | None, int]]) -> Callable:
    """Compiled code, bound to its block as the first argument.

    Args:
        words: values of the block by index: integers, lists of them, floats, and objects, of which the block gets the
            address: for an array that of its values, for a kernel that of its code.
        wanted: the kinds that arrays must have, with at most AXES axes, or None for None; and the flags that they must
            have.
    """
    block = np.zeros(KINDS + 8 * KIND, np.int64).view(Block)
    block.held = words, wanted
    numbers = block.view(np.float64)
    for place, value in ({NONE: None, FLOAT: float, TINY: LEAST, ONE: 1.0} | words).items():
        if isinstance(value, float):
            numbers[place] = value
        elif isinstance(value, list):
            block[place : place + len(value)] = value
        else:
            block[place] = value if type(value) is int else _address(value)
    for i, (kind, flags) in enumerate(wanted):
        if kind is not None:
            shape, dtype, _ = kind
            place = KINDS + KIND * i
            block[place : place + 4 + len(shape)] = id(np.ndarray), len(shape), id(dtype), flags, *shape
    return MethodType(call, block)  # Python calls this faster than a partial


def _address(value: Any) -> int:
    if isinstance(value, np.ndarray):
        return value.__array_interface__["data"][0]
    return getattr(value, "address", id(value))


@helper
def field(block, i):
    return word(block + 8 * i)


@helper
def is_kind(block, i, a):
    """Is the object of kind i in the block?"""
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
    """Is eps a float that a pass accepts, and does the thread not flush subnormal numbers?"""
    if field(block, FLOAT) != word(eps + TYPE) or number(block + 8 * TINY) * number(block + 8 * ONE) == 0.0:
        return False
    return number(eps + VALUE) >= 0.0 and number(eps + VALUE) < np.inf


@helper
def is_float(block, a):
    return word(a + TYPE) == field(block, FLOAT)


@helper
def ints_of(block):
    """ALONE, dims and parameter_dims: the first arguments of kernels."""
    a = block + 8 * INTS
    return (
        ALONE, word(a), word(a + 8), word(a + 16), word(a + 24), word(a + 32), word(a + 40), word(a + 48), word(a + 56),
    )  # fmt: skip


@helper
def data_of(a):
    """The address of an array's values."""
    return word(a + DATA)


@helper
def element(place, size):
    """The bits of a value of 8, 4 or 2 bytes."""
    if size == 8:
        return word(place)
    return half(place) if size == 4 else quarter(place)


@helper
def noted(seen, target, a):
    """Write the samples of an array to `target`."""
    size = word(seen)
    if size != 0:
        for i in range(SAMPLES):
            put_word(target + 8 * i, element(a + word(seen + 8 + 8 * i), size))


@helper
def differs(seen, place, a):
    """0 if the samples of an array equal those at `place`."""
    size, other = word(seen), 0
    if size != 0:
        for i in range(SAMPLES):
            other |= word(place + 8 * i) ^ element(a + word(seen + 8 + 8 * i), size)
    return other


@helper
def seen_of(block, i):
    """The sample offsets for x, weight or bias in the block."""
    return block + 8 * (SEEN + i * (1 + SAMPLES))


@helper
def samples_after(block, kept, i):
    """The address of the samples of the array of number i in `kept`, after the statistics: of x, weight, another array
    like x, bias."""
    return data_of(kept) + 8 * (3 * field(block, SETS) + i * SAMPLES)


@helper
def has_samples(kept):
    return half(kept + RANK) == 1


@cache
def samples():
    """note_samples(x, weight, places, out): write the samples of x and weight to `out`; `places` is as `SEEN` of a
    block."""

    @kernel(nogil=False)
    def note_samples(x, weight, places, out):
        seen, target = place_of(places), place_of(out)
        noted(seen, target, place_of(x))
        noted(seen + 8 * (1 + SAMPLES), target + 8 * SAMPLES, place_of(weight))

    return note_samples


@helper
def fits(block, own, tracked):
    """Are x, weight, bias and eps, and what is updated, such as the block describes?"""
    none, (x, w, b, e), (mean, var, count, step) = field(block, NONE), own, tracked
    if not (is_kind(block, 0, x) and is_kind(block, 1, w) and is_kind(block, 2, b) and is_usual(block, e)):
        return False
    if not (is_kind(block, 3, mean) and is_kind(block, 4, var) and (count == none or is_kind(block, 5, count))):
        return False
    if field(block, UPDATE) == 0:
        return True
    return is_usual(block, step) and number(step + VALUE) != 0.0 and number(e + VALUE) != 0.0


@cache
def forward(around=False):
    """The call of `Backend.forward_shortcut`: y, or None if an argument is not what the block describes; then nothing
    was done. If stats is None, the statistics go to a private workspace."""

    @helper
    def made(block, own, tracked, kept, beside):
        none, (x, w, b, e), (mean, var, count, step) = field(block, NONE), own, tracked
        if not fits(block, own, tracked):
            return shared(none)
        if around:
            residual, s, other, scale = beside
            if not (is_kind(block, 6, residual) and is_kind(block, 7, other) and is_float(block, scale)):
                return shared(none)
        space = workspace(3 * field(block, SETS) if kept == none else 0, doubles(block))
        y = result_of(field(block, NEW), field(block, GIVEN))
        if y == 0:
            return returned(y)
        w = field(block, ONES) if w == none else data_of(w)
        b = field(block, ZEROS) if b == none else data_of(b)
        stats = place_of(space) if kept == none else data_of(kept)
        scalars = number(block + 8 * DIVISOR), number(e + VALUE), field(block, CLAMP) != 0
        v = read = data_of(x)
        if around:
            before = field(block, BEFORE)
            v = read = data_of(s) if before == S_IN_S else v
            read = data_of(y) if before == S_IN_Y else read
            r = read if residual == none else data_of(residual)
            o = v if other == none else data_of(other)
            more = doubles(data_of(x)), doubles(r), doubles(o), number(scale + VALUE)
            run(field(block, CODE), y, ints_of(block), (read, w, b, data_of(y), stats), scalars + more)
        else:
            run(field(block, CODE), y, ints_of(block), (v, w, b, data_of(y), stats), scalars)
        if kept != none and has_samples(kept):
            noted(seen_of(block, 0), samples_after(block, kept, 0), v)
            noted(seen_of(block, 1), samples_after(block, kept, 1), w)
            if around:  # noqa: SIM102 (a separate `if`: it decides what is compiled)
                if field(block, BEHIND) != 0:
                    noted(seen_of(block, 0), samples_after(block, kept, 2), o)
                    noted(seen_of(block, 2), samples_after(block, kept, 3), b)
        if field(block, UPDATE) != 0:
            places = data_of(mean), data_of(var), field(block, UNCOUNTED) if count == none else data_of(count), stats
            sizes = field(block, CHANNELS), field(block, SETS), field(block, VALUES), number(step + VALUE)
            run(field(block, UPDATE), y, (), places, sizes)
        needed(space)
        return returned(y)

    def forward_shortcut(block, x, weight, bias, eps, kept, running_mean, running_var, batches, momentum):
        own = address_of(x), address_of(weight), address_of(bias), address_of(eps)
        tracked = address_of(running_mean), address_of(running_var), address_of(batches), address_of(momentum)
        return made(data_of(address_of(block)), own, tracked, address_of(kept), ())

    def forward_shortcut_around(
        block, x, weight, bias, eps, kept, running_mean, running_var, batches, momentum, residual, s, other, scale
    ):
        own = address_of(x), address_of(weight), address_of(bias), address_of(eps)
        tracked = address_of(running_mean), address_of(running_var), address_of(batches), address_of(momentum)
        beside = address_of(residual), address_of(s), address_of(other), address_of(scale)
        return made(data_of(address_of(block)), own, tracked, address_of(kept), beside)

    return kernel(nogil=False)(forward_shortcut_around if around else forward_shortcut)


@cache
def backward(around=False):
    """Like `forward`, for a backward pass: dx. Only dy, ds, eps and the samples of what is read again are checked."""

    @helper
    def made(block, own, kept, gradients, beside):
        none, (dy, x, w, e) = field(block, NONE), own
        if not (is_kind(block, 0, dy) and is_usual(block, e)):
            return shared(none)
        w, v, d = field(block, ONES) if w == none else data_of(w), data_of(x), data_of(dy)
        if around:
            bias, other, dother, ds = beside
            if not is_kind(block, 1, ds):
                return shared(none)
            b = field(block, ZEROS) if bias == none else data_of(bias)
            o = v if other == none else data_of(other)
        if has_samples(kept):
            changed = differs(seen_of(block, 0), samples_after(block, kept, 0), v)
            changed |= differs(seen_of(block, 1), samples_after(block, kept, 1), w)
            if around:  # noqa: SIM102 (a separate `if`: it decides what is compiled)
                if field(block, BEHIND) != 0:
                    changed |= differs(seen_of(block, 0), samples_after(block, kept, 2), o)
                    changed |= differs(seen_of(block, 2), samples_after(block, kept, 3), b)
            if changed != 0:
                return shared(none)
        dx = result_of(field(block, NEW), field(block, GIVEN))
        if dx == 0:
            return returned(dx)
        eps = number(e + VALUE)
        limit = 1.0 / eps if field(block, CLAMP) != 0 and eps > 0.0 else np.inf
        scalars, (dweight, dbias) = (number(block + 8 * DIVISOR), limit), gradients
        if around:
            before, made_other = field(block, BEFORE), data_of(dx) if dother == none else data_of(dother)
            more = (
                doubles(v), doubles(d), doubles(b), doubles(o), doubles(made_other),
                doubles(d if ds == none else data_of(ds)),
            )  # fmt: skip
            v = made_other if before == S_IN_DOTHER else v
            d = made_other if before == DY_IN_DOTHER else data_of(dx) if before == DY_IN_DX else d
            places = d, v, w, data_of(kept), data_of(dx), data_of(dweight), data_of(dbias)
            run(field(block, CODE), dx, ints_of(block), places, scalars + more)
        else:
            places = d, v, w, data_of(kept), data_of(dx), data_of(dweight), data_of(dbias)
            run(field(block, CODE), dx, ints_of(block), places, scalars)
        return returned(dx)

    def backward_shortcut(block, dy, x, kept, weight, eps, dweight, dbias):
        own, gradients = (
            (address_of(dy), address_of(x), address_of(weight), address_of(eps)),
            (address_of(dweight), address_of(dbias)),
        )
        return made(data_of(address_of(block)), own, address_of(kept), gradients, ())

    def backward_shortcut_around(block, dy, x, kept, weight, eps, dweight, dbias, bias, other, dother, ds):
        own = address_of(dy), address_of(x), address_of(weight), address_of(eps)
        gradients, beside = (
            (address_of(dweight), address_of(dbias)),
            (address_of(bias), address_of(other), address_of(dother), address_of(ds)),
        )
        return made(data_of(address_of(block)), own, address_of(kept), gradients, beside)

    return kernel(nogil=False)(backward_shortcut_around if around else backward_shortcut)
