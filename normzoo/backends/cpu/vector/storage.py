"""Conversion between values in memory and lanes: float32 and float64 unchanged, float16 and bfloat16 converted.

16-bit floats are only storage, for which Numba has no type: int16 represents float16, uint16 bfloat16.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types

from normzoo.backends.cpu.numba_internals.needed import features, triple
from normzoo.backends.cpu.schedule import PAGE
from normzoo.backends.cpu.vector.lanes import LANES, intrinsic, is_short, llvm_type, mask, suffix

_SHORTS = ir.VectorType(ir.IntType(16), LANES)
_WORDS = ir.VectorType(ir.IntType(32), LANES)
_CONVERT, _IS_KIND = "llvm.x86.avx512bf16.cvtneps2bf16.512", "llvm.x86.avx512.fpclass.ps.512"
_SUBNORMAL = 0x20  # for _IS_KIND, which is one instruction; LLVM's own test takes seven


def is_bfloat16(dtype: Any) -> bool:
    return is_short(dtype) and not dtype.signed


def stored(dtype: Any) -> ir.VectorType:
    """The LLVM type of sixteen elements in memory."""
    return _SHORTS if is_short(dtype) else llvm_type(dtype)


def loaded(context, builder, dtype: Any, v):
    """A value from memory, lanes or one element, in its computing type."""
    if not is_short(dtype):
        return v
    if dtype.signed:
        if converts_halves(context):
            return builder.fpext(builder.bitcast(v, _like(v, ir.HalfType())), _like(v, ir.FloatType()))
        return _floats_of_halves(builder, v)
    words = builder.zext(v, _like(v, ir.IntType(32)))
    return builder.bitcast(builder.shl(words, ir.Constant(words.type, _each(words, 16))), _like(v, ir.FloatType()))


def to_store(context, builder, dtype: Any, v):
    """Values for memory, rounded to nearest, ties to even."""
    if not is_short(dtype):
        return v
    if dtype.signed:
        if converts_halves(context):
            return builder.bitcast(builder.fptrunc(v, ir.VectorType(ir.HalfType(), LANES)), _SHORTS)
        return _halves_of_floats(builder, v)
    if all(has(context, feature) for feature in ("avx512f", "avx512bw", "avx512dq", "avx512bf16")):
        return _converted(builder, v)
    return builder.trunc(_upper(builder, v), _SHORTS)


# -- float16 on processors without conversion instructions


def converts_halves(context) -> bool:
    """Has the target processor instructions between float16 and float32? Otherwise LLVM calls a function, which does
    not exist in the process."""
    return has(context, "f16c") or triple(context).startswith(("aarch64", "arm64"))


def _like(v, element: ir.Type) -> ir.Type:
    """The type of a vector with as many elements."""
    return ir.VectorType(element, v.type.count) if isinstance(v.type, ir.VectorType) else element


def _each(v, value: int) -> Any:
    return [value] * v.type.count if isinstance(v.type, ir.VectorType) else value


def _floats_of_halves(builder, v):
    """The exponent bias is 127 instead of 15. A value below 2^-14, the smallest normal float16, is treated as 2^-14
    plus a fraction, and 2^-14 is subtracted again: so no subnormal float32 occurs, which a thread might flush."""
    bits = builder.zext(v, _like(v, ir.IntType(32)))

    def words(value):
        return ir.Constant(bits.type, _each(bits, value))

    sign = builder.shl(builder.and_(bits, words(0x8000)), words(16))
    size = builder.shl(builder.and_(bits, words(0x7FFF)), words(13))
    normal = builder.add(size, words(112 << 23))
    special = builder.add(size, words(224 << 23))  # infinity and NaN: the largest exponent in both
    least = words(113 << 23)
    kind = _like(v, ir.FloatType())
    small = builder.bitcast(
        builder.fsub(builder.bitcast(builder.add(size, least), kind), builder.bitcast(least, kind)), bits.type
    )
    found = builder.select(builder.icmp_unsigned("<", size, words(1 << 23)), small, normal)
    found = builder.select(builder.icmp_unsigned(">=", size, words(31 << 23)), special, found)
    return builder.bitcast(builder.or_(found, sign), kind)


def _halves_of_floats(builder, v):
    """Rounded to nearest, ties to even. A value below 2^-14 is rounded by adding 0.5, whose last digit is the smallest
    float16."""
    bits = builder.bitcast(v, _WORDS)
    sign = builder.and_(builder.lshr(bits, _words(16)), _words(0x8000))
    size = builder.and_(bits, _words(0x7FFFFFFF))
    odd = builder.and_(builder.lshr(size, _words(13)), _words(1))
    rebased = builder.sub(builder.add(size, builder.add(odd, _words(0xFFF))), _words(112 << 23))
    infinity = _words(0x7C00)
    normal = builder.lshr(rebased, _words(13))
    normal = builder.select(builder.icmp_unsigned("<", normal, infinity), normal, infinity)
    half = builder.bitcast(_words(0x3F000000), v.type)
    small = builder.sub(builder.bitcast(builder.fadd(builder.bitcast(size, v.type), half), _WORDS), _words(0x3F000000))
    found = builder.select(builder.icmp_unsigned("<", size, _words(113 << 23)), small, normal)
    nan = builder.or_(builder.and_(builder.lshr(size, _words(13)), _words(0x3FF)), _words(0x7E00))
    found = builder.select(builder.icmp_unsigned(">", size, _words(0x7F800000)), nan, found)
    return builder.trunc(builder.or_(found, sign), _SHORTS)


# -- bfloat16


class _Bfloat(ir.HalfType):
    """LLVM's type bfloat16, which llvmlite does not have: the result type of an instruction."""

    intrinsic_name = "bf16"

    def __str__(self) -> str:
        return "bfloat"


_Bfloat._create_instance()


def _converted(builder, v):
    """Lanes as bfloat16 by the processor's own instruction, except for subnormal numbers, which it flushes to zero."""
    kind = ir.FunctionType(ir.VectorType(_Bfloat(), LANES), [v.type])
    convert = builder.module.globals.get(_CONVERT) or ir.Function(builder.module, kind, _CONVERT)
    found = cgutils.alloca_once_value(builder, builder.bitcast(builder.call(convert, [v]), _SHORTS))
    flags = ir.VectorType(ir.IntType(1), LANES)
    test = ir.FunctionType(flags, [v.type, ir.IntType(32)])
    is_kind = builder.module.globals.get(_IS_KIND) or ir.Function(builder.module, test, _IS_KIND)
    subnormal = builder.bitcast(builder.call(is_kind, [v, word(_SUBNORMAL)]), ir.IntType(LANES))
    with builder.if_then(builder.icmp_unsigned("!=", subnormal, ir.Constant(subnormal.type, 0)), likely=False):
        builder.store(builder.trunc(_upper(builder, v), _SHORTS), found)
    return builder.load(found)


def _upper(builder, v):
    """The upper halves of float32, which are bfloat16, rounded to nearest, ties to even."""
    bits = builder.bitcast(v, _WORDS)
    odd = builder.and_(builder.lshr(bits, _words(16)), _words(1))
    # NaN is not rounded, as that may carry over. NaN from arithmetic or from bfloat16 is NaN in its upper half alone.
    step = builder.select(builder.fcmp_ordered("ord", v, v), builder.add(odd, _words(0x7FFF)), _words(0))
    return builder.lshr(builder.add(bits, step), _words(16))


def _words(value: int) -> ir.Constant:
    return ir.Constant(_WORDS, [value] * LANES)


def as_floats(a):
    """The elements of an array as flat array of the computing type, if Numba is switched off."""
    if a.dtype == np.uint16:
        return (a.reshape(-1).astype(np.uint32) << 16).view(np.float32)
    return a.reshape(-1).view(np.float16).astype(np.float32) if a.dtype == np.int16 else a.reshape(-1)


def as_stored(a, v):
    """Lanes as elements of an array, if Numba is switched off."""
    if a.dtype == np.int16:
        return v.astype(np.float16).view(np.int16)
    if a.dtype != np.uint16:
        return v
    bits = v.view(np.uint32)
    rounded = np.where(np.isnan(v), bits, bits + 0x7FFF + (bits >> 16 & 1))
    return (rounded >> 16).astype(np.uint16)


# Sixteen bfloat16 lanes, in the order that takes the fewest instructions: vectors of 32 bytes are unpacked and packed
# in halves, and all operands of such lanes are loaded in their order. Vectors of 64 bytes convert in memory order.
_ORDER = [0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 12, 13, 14, 15]
_QUARTER = 4


def has(context, feature: str) -> bool:
    """Has the target processor this instruction set?"""
    return f"+{feature}" in features(context)


def loaded_some(context, builder, dtype: Any, place, count):
    """The values in memory of the lanes below `count`, and zeros."""
    has_masks = has(context, "avx512bw") or (dtype.bitwidth > 16 and has(context, "avx"))
    return (_masked if has_masks else _without_masks)(builder, dtype, place, count)


def _masked(builder, dtype, place, count):
    align = ir.Constant(ir.IntType(32), dtype.bitwidth // 8)
    name = f"llvm.masked.load.{suffix(dtype)}.p0{suffix(dtype)}"
    zeros = ir.Constant(stored(dtype), None)
    return intrinsic(builder, name, stored(dtype), [place, align, mask(builder, count), zeros])


def _without_masks(builder, dtype, place, count):
    """Like `_masked`, without mask instructions, for which LLVM would test and load one element after another. All
    lanes are loaded if they are in one memory page, which is then readable also beyond the array; those from `count` on
    are replaced by zeros."""
    size = dtype.bitwidth // 8
    in_page = builder.and_(builder.ptrtoint(place, count.type), ir.Constant(count.type, PAGE - 1))
    is_safe = builder.icmp_unsigned("<=", in_page, ir.Constant(count.type, PAGE - LANES * size))
    with builder.if_else(is_safe, likely=True) as (within, across):
        with within:
            zeros = ir.Constant(stored(dtype), None)
            whole = builder.select(mask(builder, count), builder.load(place, align=size), zeros)
            here = builder.block
        with across:
            one_by_one = builder.call(_one_by_one(builder.module, dtype, place, count), [place, count])
            there = builder.block
    v = builder.phi(stored(dtype))
    v.add_incoming(whole, here)
    v.add_incoming(one_by_one, there)
    return v


def _one_by_one(module, dtype, place, count):
    """`_masked` as a separate function: it is rarely called, and too long to be inlined everywhere."""
    name = f"load_n_{dtype}"
    function = module.globals.get(name)
    if function is None:
        function = ir.Function(module, ir.FunctionType(stored(dtype), [place.type, count.type]), name)
        function.linkage = "internal"
        function.attributes.add("noinline")
        builder = ir.IRBuilder(function.append_basic_block("entry"))
        builder.ret(_masked(builder, dtype, *function.args))
    return function


def reorders(context, like: Any) -> bool:
    return is_bfloat16(like) and not has(context, "avx512bw")


def loaded_in_order(builder, dtype: Any, place):
    """Lanes from memory, in that order."""
    if not is_short(dtype):
        part = ir.VectorType(llvm_type(dtype).element, _QUARTER)
        place = builder.bitcast(place, part.as_pointer())
        quarters = [
            builder.load(builder.gep(place, [word(first // _QUARTER)]), align=dtype.bitwidth // 8)
            for first in _ORDER[::_QUARTER]
        ]
        halves = [joined(builder, a, b) for a, b in (quarters[:2], quarters[2:])]
        return joined(builder, *halves)
    v = builder.load(builder.bitcast(place, _SHORTS.as_pointer()), align=dtype.bitwidth // 8)
    zeros = ir.Constant(_SHORTS, None)
    half = ir.VectorType(ir.FloatType(), LANES // 2)
    halves = []
    for start in (0, LANES // 2):  # zeros below each value make it a float32
        places = [p for lane in _ORDER[start : start + LANES // 2] for p in (lane, LANES + lane)]
        words = builder.shuffle_vector(zeros, v, ir.Constant(_WORDS, places))
        halves.append(builder.bitcast(words, half))
    return joined(builder, *halves)


def store_in_order(builder, dtype: Any, place, v) -> None:
    """Write lanes that are in that order."""
    if is_short(dtype):
        place = builder.bitcast(place, _SHORTS.as_pointer())
        builder.store(packed(builder, v), place, align=dtype.bitwidth // 8)
        return
    place = builder.bitcast(place, ir.VectorType(llvm_type(dtype).element, _QUARTER).as_pointer())
    for start in range(0, LANES, _QUARTER):
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), _QUARTER), list(range(start, start + _QUARTER)))
        part = builder.shuffle_vector(v, v, lanes)
        at_part = builder.gep(place, [word(_ORDER[start] // _QUARTER)])
        builder.store(part, at_part, align=dtype.bitwidth // 8)


def two_of_words(builder, place) -> list:
    """32 bfloat16 as lanes: two of them are one word, and one of the two is its upper half, which is a float32."""
    words = builder.load(builder.bitcast(place, _WORDS.as_pointer()), align=2)
    both = builder.shl(words, _words(16)), builder.and_(words, _words(0xFFFF0000))
    return [builder.bitcast(half, llvm_type(types.float32)) for half in both]


def word(value: int) -> ir.Constant:
    return ir.Constant(ir.IntType(32), value)


def joined(builder, a, b):
    """The lanes of a, followed by those of b."""
    count = 2 * a.type.count
    places = ir.Constant(ir.VectorType(ir.IntType(32), count), list(range(count)))
    return builder.shuffle_vector(a, b, places)


def packed(builder, v):
    """Lanes that `load_as` loaded from bfloat16, in memory order."""
    words = builder.bitcast(_upper(builder, v), ir.VectorType(ir.IntType(16), 2 * LANES))
    places = [2 * _ORDER.index(lane) for lane in range(LANES)]
    return builder.shuffle_vector(words, words, ir.Constant(_WORDS, places))
