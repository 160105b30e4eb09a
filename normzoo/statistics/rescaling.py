"""An array rescaled by numbers of its features, and of segments of its rows."""

from math import prod

import numpy as np

from normzoo.backends import backend, chosen
from normzoo.backends.contract import Array
from normzoo.backends.forms import Rescaling
from normzoo.backends.memory import empty
from normzoo.statistics.counted import is_dense
from normzoo.statistics.tables import COMPILED, NONE_CHOSEN


def rescaled(
    x: Array, axis: int, numbers: Array, segments: Array | None = None, in_place: bool = False
) -> tuple[Array, bool]:
    """(x - shift) * scale + offset in float64, rounded once to x's dtype, in x's layout; and whether all of x is
    finite.

    Args:
        x: float array.
        axis: that of the features.
        numbers: (3, segments, features): shift, scale, offset; or (5, ...), the least and the largest result, too.
        segments: int64 (N,), the segment of each index of axis 0, which is another axis; None: there is one.
        in_place: the result takes x's place, if x can be read where it is and be written.
    """
    order = tuple(sorted(range(x.ndim), key=lambda i: -abs(x.strides[i]))) if is_dense(x) else tuple(range(x.ndim))
    if segments is not None and order.index(axis) < order.index(0):
        order = tuple(range(x.ndim))  # rows are then those of one segment
    turned = np.ascontiguousarray(x.transpose(order), x.dtype.newbyteorder("="))
    shape, feature = turned.shape, order.index(axis)
    y = turned if in_place and x.flags.writeable and np.may_share_memory(turned, x) else empty(shape, turned.dtype)
    back = y.transpose(np.argsort(order))
    if x.size == 0:
        return back, True
    by_row = feature < x.ndim - 1
    cut = feature + 1 if by_row else feature
    rows, columns = prod(shape[:cut]), prod(shape[cut:])
    features = numbers.shape[2]
    of_row = NONE_CHOSEN
    if segments is not None:
        along = segments.reshape([-1 if i == order.index(0) else 1 for i in range(cut)])
        if by_row:
            along = along * features + np.arange(features)
        of_row = np.ascontiguousarray(np.broadcast_to(along, shape[:cut])).reshape(-1)
    if by_row:
        numbers = numbers.reshape(len(numbers), -1, 1)
    how = Rescaling(segments is not None, by_row, len(numbers) > 3)
    name = chosen() if x.size >= COMPILED else "reference"
    run = backend(name).rescale((rows, columns, numbers.shape[1]), turned.dtype, how)
    return back, run(turned, of_row, numbers, y)
