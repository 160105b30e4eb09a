"""Normalization of selected values: masks, lengths, segments and weights, for every norm that the backends compute.

`select` puts x together with which of its values count; a norm takes the result as x, and `norm(x, mask=...)` is short
for that. Values that do not count are removed before a backend sees the arrays: all sets with the same pattern of
counted values form one dense array, normalized in one pass. So statistics are bit-identical to those of the ragged
data, masks need no kernels of their own, and a value that does not count can be anything, even NaN. Weighted
statistics, and outputs of values that do not count, are computed by `weighted.py`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from normzoo.backends.contract import Array
from normzoo.backends.memory import empty
from normzoo.backends.samples import changed, sample
from normzoo.passes.arrays import quiet
from normzoo.passes.form import Form, Given
from normzoo.passes.overlaps import check_out
from normzoo.passes.view import Axes
from normzoo.selection.compaction import Arrangement, arrange
from normzoo.selection.select import Selected
from normzoo.selection.weighted import normalize_weighted

Back = Callable[[Array, Array], tuple[Array | None, Array | None]]  # (dy, dx: written) -> dweight, dbias


class SetMoments(NamedTuple):
    """Statistics of every set, float64, of shape (segments, *sizes of the kept axes)."""

    size: Array  # sum of weights; 0 where no value counts
    mean: Array
    var: Array


class _Task(NamedTuple):
    """The arguments of `normalize_selected`, as its helpers need them."""

    passes: tuple[Callable[..., Any], Callable[..., Any]]  # `normalize` and `resume`
    form: Form
    chosen: Selected
    x: Array
    y: Array  # written
    weight: Array | None
    bias: Array | None


@quiet
def normalize_selected(
    passes: tuple[Callable[..., Any], Callable[..., Any]],
    form: Form,
    chosen: Selected,
    arrays: tuple[Array | None, Array | None, Array | None],  # weight, bias, out
    given: Given | None,
    apart: tuple[Array | None, ...],
) -> tuple[Array, SetMoments | None, Back]:
    """y, the moments of every set (None if the statistics are given), and the backward function.

    Args:
        passes: `normalize.normalize` and `normalize.resume`.
    """
    owner, axes, x, (weight, bias, out) = form.owner, form.axes, chosen.x, arrays
    if out is not None:
        check_out(owner, out, x.shape, x.dtype, (x,), (weight, bias, *apart))
        if np.may_share_memory(out, x):
            x = x.copy(order="K")
    y = _empty_like(x) if out is None else out
    mask = chosen.mask
    label = form._replace(owner=getattr(owner, "label", owner))  # not the norm, whose `saved` may refer to `back`
    task = _Task(passes, label, chosen, x, y, weight, bias)
    if given is not None:
        return _by_given(task, given)
    if chosen.segments is not None and axes.letters[_piece(owner, axes, chosen.segment_axis)] not in "rR":
        raise ValueError(
            f"{owner}: expected segments along an axis that the norm reduces, got segment_axis={chosen.segment_axis}"
        )
    if chosen.sample_weight is not None or (chosen.masked == "normalize" and mask is not None):
        found, weighted_back = normalize_weighted(form, chosen, x, y, weight, bias)
        return y, SetMoments(*found), weighted_back
    arrangement = arrange(axes, x.shape, mask, chosen.segments, chosen.segment_axis)
    if y.flags.c_contiguous and (group := arrangement.most_sets(x)):
        return _most_sets(task, arrangement, group)
    return _by_groups(task, arrangement)


def _by_groups(task: _Task, arrangement: Arrangement) -> tuple[Array, SetMoments, Back]:
    """`normalize_selected` by one pass for each pattern of counted values."""
    x, y, weight, bias, chosen = task.x, task.y, task.weight, task.bias, task.chosen
    groups = []
    count, mean, var = (np.zeros(arrangement.sets_shape) for _ in range(3))
    results = []
    merged = arrangement.merge(x)
    for group in arrangement.groups():
        part = arrangement.take(merged, group)
        w, a = (None if p is None else arrangement.parameter(p, group) for p in (weight, bias))
        made, _, saved = task.passes[0](task.form._replace(axes=arrangement.axes_of(part)), part, w, a)
        arrangement.put_sets((count, mean, var), group, saved, part)
        groups.append((group, saved))
        results.append((group, made))
    _place(arrangement, y, x, results, chosen.mask, chosen.masked)

    parameters, shown = (weight, bias), (chosen.mask, chosen.masked)

    def back(dy: Array, dx: Array) -> tuple[Array | None, Array | None]:
        return _back(arrangement, groups, dy, dx, parameters, shown)

    return y, SetMoments(count, mean, var), back


def _back(
    arrangement: Arrangement,
    groups: list[tuple[Any, Any]],
    dy: Array,
    dx: Array,
    parameters: tuple[Array | None, Array | None],
    shown: tuple[Array | None, str],  # the mask, and what y is where it is False
) -> tuple[Array | None, Array | None]:
    """Write dx; return dweight and dbias, from what the passes of all groups saved."""
    d = dy.copy() if np.may_share_memory(dx, dy) else dy
    sums = [None if p is None else np.zeros(p.shape) for p in parameters]
    results = []
    merged = arrangement.merge(d)
    for group, saved in groups:
        found = saved.backward(arrangement.take(merged, group))
        results.append((group, found.x))
        for total, part in zip(sums, (found.weight, found.bias), strict=True):
            if total is not None:
                arrangement.add_parameter(total, group, part)
    _place(arrangement, dx, d, results, *shown)
    return _as(sums[0], parameters[0]), _as(sums[1], parameters[1])


def _most_sets(task: _Task, arrangement: Arrangement, group: Any) -> tuple[Array, SetMoments, Back]:
    """`normalize_selected` where most sets count, each as a whole: all sets are normalized in place in x's layout, and
    those that do not count are overwritten. Only the backward pass, which sums over sets, gathers the sets that
    count."""
    (run, resume), x, y, weight, bias = task.passes, task.x, task.y, task.weight, task.bias
    left = run(task.form, x, weight, bias, y)[2].left
    kept = arrangement.pattern[:, 0]
    arrangement.put_rows(x, np.where(kept, -2, -1 if task.chosen.masked == "zero" else np.arange(kept.size)), y)
    stats = left.stats.reshape(3, -1)
    count, mean, var = (
        np.where(kept, a, 0.0).reshape(arrangement.sets_shape) for a in (float(task.form.axes.values), *stats[:2])
    )

    seen, owner, policy = (sample(x), sample(weight)), task.form.owner, task.chosen.masked

    def back(dy: Array, dx: Array) -> tuple[Array | None, Array | None]:
        for name, a, before in zip(("x", "weight"), (x, weight), seen, strict=True):
            if sample(a) != before:
                raise changed(owner, name)
        part = arrangement.take(arrangement.merge(x), group)
        w, a = (None if p is None else arrangement.parameter(p, group) for p in (weight, bias))
        some = left._replace(
            axes=arrangement.axes_of(part), parameter_shape=None, stats=np.ascontiguousarray(stats[:, kept])[:, :, None]
        )
        saved = resume(some, part, w, a)
        return _back(arrangement, [(group, saved)], dy, dx, (weight, bias), (kept, policy))

    return y, SetMoments(count, mean, var), back


def _as(total: Array | None, p: Array | None) -> Array | None:
    """The sum in the dtype of its parameter."""
    return None if total is None or p is None else total.astype(p.dtype)


def _piece(owner: object, axes: Axes, axis: int) -> int:
    """Index of the piece of `axes` that is this axis of x."""
    pieces = [i for i, o in enumerate(axes.owner or range(len(axes.shape))) if o == axis]
    if len(pieces) != 1:
        raise ValueError(
            f"{owner}: expected segments along an axis that the norm does not split, got segment_axis={axis}"
        )
    return pieces[0]


def _empty_like(x: Array) -> Array:
    """A new array of x's shape, dtype and axis order."""
    return empty(x.shape, x.dtype) if x.flags.c_contiguous else np.empty_like(x)


def _place(
    arrangement: Arrangement, y: Array, x: Array, results: list[tuple[Any, Array]], mask: Array | None, policy: str
) -> None:
    """Write the results of all groups into y and, where values do not count, what the policy says."""
    if policy == "keep" and mask is not None:
        y[...] = x
    merged = arrangement.merge(y)
    if not (len(results) == 1 and arrangement.put_all(merged, *results[0], policy)):
        if policy != "keep" and mask is not None:
            merged[...] = 0
        for group, made in results:
            arrangement.put(merged, group, made)
    arrangement.deliver(merged, y)


def _by_given(task: _Task, given: Given) -> tuple[Array, None, Back]:
    """Normalize by given statistics: a value that does not count contributes nothing to the gradients, whatever it
    is."""
    chosen, x, y = task.chosen, task.x, task.y
    mask = chosen.shown
    shown = x if mask is None else np.where(mask, x, np.zeros((), x.dtype))
    made, _, saved = task.passes[0](task.form, shown, task.weight, task.bias, None, given)
    y[...] = made
    if mask is not None:
        np.copyto(y, x if chosen.masked == "keep" else np.zeros((), x.dtype), where=~mask)

    def back(dy: Array, dx: Array) -> tuple[Array | None, Array | None]:
        d = dy if mask is None else np.where(mask, dy, np.zeros((), dy.dtype))
        found = saved.backward(d)
        kept = dy.copy() if mask is not None and np.may_share_memory(dx, dy) else dy
        dx[...] = found.x
        if mask is not None:
            np.copyto(dx, kept if chosen.masked == "keep" else np.zeros((), dx.dtype), where=~mask, casting="unsafe")
        return found.weight, found.bias

    return y, None, back


@quiet
def average_of(found: SetMoments, channel: int) -> tuple[Array, Array, Array]:
    """Mean and unbiased variance of every channel, averaged over its sets, and which channels have a counted value: an
    update of running statistics.

    Args:
        channel: index of the channel axis among the kept axes.
    """
    axes = tuple(i for i in range(found.size.ndim) if i != channel + 1)
    filled = found.size > 0
    sets = filled.sum(axis=axes)
    unbiased = found.var * found.size / np.maximum(found.size - 1, 1)
    mean = np.where(filled, found.mean, 0).sum(axis=axes) / sets
    var = np.where(filled, unbiased, 0).sum(axis=axes) / sets
    return mean, var, sets > 0
