"""Blocks of sets whose values lie in memory set by set, into lanes that run over the sets, and back.

Sixteen sets, `step` elements apart, are the rows of a table of which vectors are wanted column by column: some
neighbouring values of each row are loaded at once and turned in registers, as storing them one by one would take
several times as long. What is turned lies in a `room` of workspace, column h of a block at h * LANES.
"""

from collections.abc import Callable

import numpy as np
from llvmlite import ir
from numba.core import types

from normzoo.backends.cpu.access import element_at
from normzoo.backends.cpu.lanes import LANES, Flat, of
from normzoo.backends.cpu.storage import as_floats, as_stored, joined, loaded, stored, to_store, word
from normzoo.backends.cpu.target import lower, typed


def _turning(width: int) -> tuple[Callable, Callable]:
    """To read and to write `width` neighbouring values of each of 16 rows; of one value, also of fewer rows."""

    def read_across(a, i, step, count, room, to):
        """Column h of the block at a[i] to room[to + h*LANES]; lanes behind `count` repeat the last."""
        rows = i + step * np.minimum(np.arange(LANES), count - 1)
        for h in range(width):
            room[to + h * LANES : to + (h + 1) * LANES] = as_floats(a)[rows + h]

    def write_across(a, i, step, count, room, to):
        """Back what `read_across` reads, rounded to the type of a."""
        rows = i + step * np.arange(count)
        for h in range(width):
            lanes = room[to + h * LANES : to + (h + 1) * LANES]
            a.reshape(-1)[rows + h] = as_stored(a, lanes.astype(as_floats(a).dtype))[:count]

    typed(read_across, lambda a, i, step, count, room, to: types.none)
    typed(write_across, lambda a, i, step, count, room, to: types.none)
    given = Flat, types.Integer, types.Integer, types.Integer, Flat, types.Integer

    @lower(read_across, *given)
    def read(context, builder, sig, args):
        kind = sig.args[0].dtype
        places = _places(context, builder, sig, args, width)
        rows = [builder.load(place, align=kind.bitwidth // 8) for place in places]
        for h, column in enumerate(_columns(builder, rows)):
            lanes = loaded(context, builder, kind, column)
            place = _lanes_at(context, builder, sig, args, h)
            if lanes.type != place.type.pointee:
                lanes = builder.fpext(lanes, place.type.pointee)
            builder.store(lanes, place, align=_align(place))
        return context.get_dummy_value()

    @lower(write_across, *given)
    def write(context, builder, sig, args):
        kind = sig.args[0].dtype
        computed = context.get_value_type(of(kind))
        columns = []
        for h in range(width):
            place = _lanes_at(context, builder, sig, args, h)
            lanes = builder.load(place, align=_align(place))
            if lanes.type.element != computed:
                lanes = builder.fptrunc(lanes, ir.VectorType(computed, LANES))
            columns.append(to_store(context, builder, kind, lanes))
        places = _places(context, builder, sig, args, width)
        rows = _rows(builder, columns)
        for row, place in reversed([*zip(rows, places, strict=True)]):  # what is behind goes to the last, over which
            builder.store(row, place, align=kind.bitwidth // 8)  # that is written
        return context.get_dummy_value()

    return read_across, write_across


def _places(context, builder, sig, args, width):
    """Where each row begins. Instructions that gather and scatter take as long, and not every processor has them."""
    a, i, step, count = args[:4]
    element = stored(sig.args[0].dtype).element
    kind = (ir.VectorType(element, width) if width > 1 else element).as_pointer()
    places, skip = [], ir.Constant(step.type, 0)
    for row in range(LANES):
        if row:
            behind, skip = skip, builder.add(skip, step)
            if width == 1:
                skip = builder.select(builder.icmp_signed("<", ir.Constant(count.type, row), count), skip, behind)
        place = element_at(context, builder, sig.args[0], a, builder.add(i, skip))
        places.append(builder.bitcast(place, kind))
    return places


def _lanes_at(context, builder, sig, args, h):
    """Where column h lies in the room."""
    room, to = args[4:]
    place = element_at(context, builder, sig.args[4], room, builder.add(to, ir.Constant(to.type, h * LANES)))
    return builder.bitcast(place, ir.VectorType(place.type.pointee, LANES).as_pointer())


def _align(place) -> int:
    """Bytes of an element: the room may lie anywhere."""
    return 4 if isinstance(place.type.pointee.element, ir.FloatType) else 8


def _columns(builder, rows):
    """Lanes for each of the places in 16 rows, which are vectors or, of one place, scalars."""
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
    """Of lanes for each place the 16 rows."""
    width = len(columns)
    if width == 1:
        return [builder.extract_element(columns[0], word(lane)) for lane in range(LANES)]
    rows = []
    for first in range(0, LANES, width):
        lanes = range(first, first + width)
        rows += _turned(builder, [_shuffled(builder, column, column, lanes) for column in columns])
    return rows


def _turned(builder, rows):
    """A square table, transposed: of each four blocks of 1, then 2, then 4 places two change theirs."""
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


read_one, write_one = _turning(1)
read_four, write_four = _turning(4)
read_eight, write_eight = _turning(8)
