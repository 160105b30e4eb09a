"""Transposition between sets in memory, one after another, and lanes that run over the sets.

Sixteen sets, `step` elements apart, are the rows of a table whose columns are wanted as vectors: some adjacent values
of each row are loaded at once and transposed in registers. Storing them one by one would take several times as long.
The result is in `room`, a workspace: column h of a block begins at h * LANES.
"""

from collections.abc import Callable

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types

from normzoo.backends.cpu.numba_internals.way import lower, typed
from normzoo.backends.cpu.vector.lanes import LANES, Flat, llvm_type, of, pointer
from normzoo.backends.cpu.vector.storage import as_floats, as_stored, joined, loaded, stored, to_store, word

WIDTHS = 8, 4  # values of a row that are transposed at once; fewer are processed one by one
_INT = ir.IntType(64)


def read_across(a, i, step, length, count, room, to):
    """Write column h of a block of `length` columns, which begins at a[i], to room[to + h*LANES]; lanes from `count` on
    repeat the last row."""
    rows = i + step * np.minimum(np.arange(LANES), count - 1)
    for h in range(length):
        room[to + h * LANES : to + (h + 1) * LANES] = as_floats(a)[rows + h]


def write_across(a, i, step, length, count, room, to):
    """The inverse of `read_across`, rounded to the type of a."""
    rows = i + step * np.arange(count)
    for h in range(length):
        lanes = room[to + h * LANES : to + (h + 1) * LANES]
        a.reshape(-1)[rows + h] = as_stored(a, lanes.astype(as_floats(a).dtype))[:count]


def _read(context, builder, kind, places, columns):
    rows = [builder.load(place, align=kind.bitwidth // 8) for place in places]
    for column, to in zip(_columns(builder, rows), columns, strict=True):
        lanes = loaded(context, builder, kind, column)
        if lanes.type != to.type.pointee:
            lanes = builder.fpext(lanes, to.type.pointee)
        builder.store(lanes, to, align=_align(to))


def _write(context, builder, kind, places, columns):
    wanted, found = llvm_type(of(kind)), []
    for column in columns:
        lanes = builder.load(column, align=_align(column))
        if lanes.type != wanted:
            lanes = builder.fptrunc(lanes, wanted)
        found.append(to_store(context, builder, kind, lanes))
    rows = _rows(builder, found)
    for row, place in reversed([*zip(rows, places, strict=True)]):  # repeated rows go to the last row's place,
        builder.store(row, place, align=kind.bitwidth // 8)  # and the last row is written over them


def _lower(primitive: Callable, body: Callable) -> None:
    """Lower as a function that is called, not inlined: compiling it for each call would take longer than all the
    rest."""
    typed(primitive, lambda a, i, step, length, count, room, to: types.none)

    @lower(primitive, Flat, types.Integer, types.Integer, types.Integer, types.Integer, Flat, types.Integer)
    def lowered(context, builder, sig, args):
        a, room = sig.args[0], sig.args[5]
        place = builder.gep(pointer(context, builder, a, args[0]), [args[1]])
        to = builder.gep(pointer(context, builder, room, args[5]), [args[6]])
        given = [place, *(context.cast(builder, args[i], sig.args[i], types.int64) for i in (2, 3, 4)), to]
        name = f"{primitive.__name__}_{a.dtype}_{room.dtype}"
        function = builder.module.globals.get(name)
        if function is None:
            function = ir.Function(builder.module, ir.FunctionType(ir.VoidType(), [v.type for v in given]), name)
            function.linkage = "internal"
            function.attributes.add("noinline")
            _turn(context, ir.IRBuilder(function.append_basic_block("entry")), a.dtype, body, function.args)
        builder.call(function, given)
        return context.get_dummy_value()


_lower(read_across, _read)
_lower(write_across, _write)


def _turn(context, builder, kind, body, args) -> None:
    """Process the pieces of a block by `body`, with the largest possible width."""
    length = args[2]
    for width in WIDTHS:
        with builder.if_then(builder.icmp_signed(">=", length, _INT(width))):
            _pieces(context, builder, kind, width, body, args)
            builder.ret_void()
    _pieces(context, builder, kind, 1, body, args)
    builder.ret_void()


def _pieces(context, builder, kind, width, body, args) -> None:
    """Call `body` with the addresses of rows and columns of each piece; the last two pieces overlap if the length is
    not a multiple of the width. Gather and scatter instructions take as long, and not every processor has them."""
    a, step, length, count, room = args
    skips = [_INT(0)]
    for row in range(1, LANES):
        is_there = builder.icmp_signed("<", _INT(row), count)
        skips.append(builder.select(is_there, builder.add(skips[-1], step), skips[-1]))
    element = stored(kind).element
    rows = (ir.VectorType(element, width) if width > 1 else element).as_pointer()
    lanes = ir.VectorType(room.type.pointee, LANES).as_pointer()
    with cgutils.for_range_slice(builder, _INT(0), length, _INT(width), _INT) as (first, _):
        last = builder.sub(length, _INT(width))
        h = builder.select(builder.icmp_signed("<", first, last), first, last)
        places = [builder.bitcast(builder.gep(a, [builder.add(h, skip)]), rows) for skip in skips]
        columns = [
            builder.bitcast(builder.gep(room, [builder.mul(builder.add(h, _INT(j)), _INT(LANES))]), lanes)
            for j in range(width)
        ]
        body(context, builder, kind, places, columns)


def _align(place) -> int:
    """Alignment of one element: the room may begin at any of them."""
    return 4 if isinstance(place.type.pointee.element, ir.FloatType) else 8


def _columns(builder, rows):
    """The columns of 16 rows, as lanes; rows are vectors or, with one column, scalars."""
    if not isinstance(rows[0].type, ir.VectorType):
        column = ir.Constant(ir.VectorType(rows[0].type, LANES), ir.Undefined)
        for lane, value in enumerate(rows):
            column = builder.insert_element(column, value, word(lane))
        return [column]
    width = rows[0].type.count
    columns = [_turned(builder, rows[first : first + width]) for first in range(0, LANES, width)]
    while len(columns) > 1:
        columns = [
            [joined(builder, a, b) for a, b in zip(*pair, strict=True)]
            for pair in zip(columns[::2], columns[1::2], strict=True)
        ]
    return columns[0]


def _rows(builder, columns):
    """The 16 rows of columns in lanes."""
    width = len(columns)
    if width == 1:
        return [builder.extract_element(columns[0], word(lane)) for lane in range(LANES)]
    rows = []
    for first in range(0, LANES, width):
        lanes = range(first, first + width)
        rows += _turned(builder, [_shuffled(builder, column, column, lanes) for column in columns])
    return rows


def _turned(builder, rows):
    """A square table, transposed by exchanging blocks of 1, 2 and 4 values."""
    width = len(rows)
    size = 1
    while size < width:
        for r in (r for r in range(width) if not r & size):
            a, b = rows[r], rows[r + size]
            rows[r] = _shuffled(builder, a, b, [e + width - size if e & size else e for e in range(width)])
            rows[r + size] = _shuffled(builder, a, b, [e + width if e & size else e + size for e in range(width)])
        size *= 2
    return rows


def _shuffled(builder, a, b, places):
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(places)), list(places)))
