"""Which values count: masks, lengths, segments and weights, for every norm of the algebra.

`select` puts x and what is known of its values together; a norm takes the result as x, and `norm(x, mask=...)` is short
for it. Values that do not count are left out of the arrays before a backend sees them: the sets of one pattern of
kept values are one dense array, and one pass. So statistics have the bits of the ragged data, masks need no kernels of
their own, and what is left out can be anything, NaN too. Weights, and outputs for values that do not count, are
computed by `weighted.py`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from normzoo.backends.contract import Array, Moments
from normzoo.backends.memory import empty
from normzoo.backends.samples import changed, sample
from normzoo.passes.arrays import check_array, check_axis, check_out, quiet
from normzoo.passes.view import Axes
from normzoo.selection.compaction import Arrangement, arrange
from normzoo.selection.weighted import normalize_weighted

SELECTS = ("mask", "lengths", "sample_weight", "segments", "length_axis", "segment_axis", "masked", "skip_nan")
Back = Callable[[Array, Array], tuple[Array | None, Array | None]]  # (dy, dx to write) -> dweight, dbias
POLICIES = ("zero", "keep", "normalize")


class SetMoments(NamedTuple):
    """Statistics of every set, float64; of shape (segments, *sizes of the kept axes)."""

    size: Array  # sum of weights; 0 where no value counts
    mean: Array
    var: Array


class Selected:
    """An array and which of its values count; see `select`. It has the shape and dtype of x."""

    is_selection = True
    __slots__ = ("mask", "masked", "sample_weight", "segment_axis", "segments", "x")

    def __init__(
        self,
        x: Array,
        mask: Array | None,  # boolean, of x's rank, each axis 1 or x's
        sample_weight: Array | None,  # float64, the same
        segments: Array | None,  # integers, along `segment_axis`
        segment_axis: int,
        masked: str,
    ) -> None:
        self.x, self.mask, self.sample_weight = x, mask, sample_weight
        self.segments, self.segment_axis, self.masked = segments, segment_axis, masked

    @property
    def shape(self) -> tuple[int, ...]:
        return self.x.shape

    @property
    def dtype(self) -> np.dtype:
        return self.x.dtype

    @property
    def ndim(self) -> int:
        return self.x.ndim

    @property
    def size(self) -> int:
        return self.x.size

    @property
    def shown(self) -> Array | None:
        """Where y is computed, elsewhere it is 0 or x; None: everywhere."""
        return None if self.masked == "normalize" else self.mask


def select(
    x: Array,
    mask: Any = None,
    lengths: Any = None,
    sample_weight: Any = None,
    segments: Any = None,
    *,
    length_axis: int = 1,
    segment_axis: int = 0,
    masked: str = "zero",
    skip_nan: bool = False,
) -> Selected:
    """x, and which of its values count in a norm's statistics.

    Args:
        x: float array.
        mask: booleans that broadcast to x; True counts.
        lengths: integers (N,): of item i the first lengths[i] places along `length_axis` count.
        sample_weight: numbers of at least 0 that broadcast to x: how much a value counts.
            mean = sum(w * x) / sum(w), var = sum(w * (x - mean)^2) / sum(w).
        segments: integers, as many as x has along `segment_axis`, which the norm must reduce: values of different ids
            are in different sets, as the nodes of graphs.
        length_axis: the axis that lengths run along; items are on axis 0.
        segment_axis: the axis of segments.
        masked: what y is where values do not count: "zero", "keep" (y = x) or "normalize" (by the statistics of the
            others; the bias in an empty set).
        skip_nan: NaN does not count either.

    Raises:
        TypeError: x is not a float array, mask not boolean, lengths or segments not integers.
        ValueError: a shape does not broadcast; a length beyond the axis; a weight that is negative or not finite.

    >>> import numpy as np, normzoo as nz
    >>> x = np.float32([[1, 3, 99]])
    >>> nz.LayerNorm(3)(x, mask=[[True, True, False]]).round(2)
    array([[-1.,  1.,  0.]], dtype=float32)
    """
    if isinstance(x, Selected):
        raise TypeError("select: expected an array, got one that was selected from already")
    check_array("select", "x", x)
    x = np.asarray(x)
    if masked not in POLICIES:
        raise ValueError(f"select: expected masked to be one of {', '.join(map(repr, POLICIES))}, got {masked!r}")
    found = None
    if mask is not None:
        found = _broadcasting("mask", np.asarray(mask), x.shape)
        if found.dtype != np.bool_:
            raise TypeError(f"select: expected mask of booleans, got {found.dtype}; write mask.astype(bool)")
    if lengths is not None:
        kept = _lengths(x, lengths, length_axis)
        found = kept if found is None else found & kept
    if skip_nan:
        nan = np.isnan(x)
        if nan.any():
            found = ~nan if found is None else found & ~nan
    weights = None
    if sample_weight is not None:
        weights = _broadcasting("sample_weight", np.asarray(sample_weight), x.shape)
        if weights.dtype.kind not in "fiub":
            raise TypeError(f"select: expected sample_weight of numbers, got {weights.dtype}")
        weights = weights.astype(np.float64)
        if not (np.isfinite(weights).all() and (weights >= 0).all()):
            raise ValueError("select: expected sample_weight of finite numbers >= 0, got others")
    ids, axis = None, 0
    if segments is not None:
        axis = check_axis("select", segment_axis, x.ndim, "segment_axis")
        ids = np.asarray(segments)
        if ids.dtype.kind not in "iu":
            raise TypeError(f"select: expected segments of integers, got {ids.dtype}")
        if ids.shape != (x.shape[axis],):
            raise ValueError(f"select: expected segments of shape ({x.shape[axis]},), got {ids.shape}")
    return Selected(x, found, weights, ids, axis, masked)


def _broadcasting(name: str, a: Array, shape: tuple[int, ...]) -> Array:
    """a with the rank of `shape`."""
    if a.ndim <= len(shape):
        a = a.reshape((1,) * (len(shape) - a.ndim) + a.shape)
        if all(s in (1, n) for s, n in zip(a.shape, shape, strict=True)):
            return a
    raise ValueError(f"select: expected {name} that broadcasts to x of shape {shape}, got {a.shape}")


def _lengths(x: Array, lengths: Any, length_axis: int) -> Array:
    lengths = np.asarray(lengths)
    if x.ndim < 2:
        raise ValueError(f"select: expected x of rank 2 or more with lengths, got {x.shape}")
    axis = check_axis("select", length_axis, x.ndim, "length_axis")
    if lengths.dtype.kind not in "iu":
        raise TypeError(f"select: expected lengths of integers, got {lengths.dtype}")
    if axis == 0 or lengths.shape != (x.shape[0],):
        raise ValueError(
            f"select: expected lengths of shape ({x.shape[0]},) along another axis than 0, got {lengths.shape} and "
            f"length_axis={length_axis}"
        )
    if lengths.size and not (lengths.min() >= 0 and lengths.max() <= x.shape[axis]):
        raise ValueError(f"select: expected lengths in [0, {x.shape[axis]}], got {lengths.min()} to {lengths.max()}")
    places = np.arange(x.shape[axis]) < lengths[:, None]
    shape = [1] * x.ndim
    shape[0], shape[axis] = places.shape
    return places.reshape(shape)


@quiet
def normalize_selected(
    passes: tuple[Callable[..., Any], Callable[..., Any]],
    owner: object,
    chosen: Selected,
    axes: Axes,
    weight: Array | None,
    bias: Array | None,
    moments: Moments,
    eps: float,
    out: Array | None,
    given: tuple[Array, Array] | None,
    apart: tuple[Array | None, ...],
) -> tuple[Array, SetMoments | None, Back]:
    """y, the moments of every set (None where they are given), and the way back: (dy, dx to write) -> dweight, dbias.

    Args:
        passes: `passes.normalize` and `passes.resume`.
    """
    run, resume = passes
    x = chosen.x
    if out is not None:
        check_out(owner, out, x.shape, x.dtype, (x,), (weight, bias, *apart))
        if np.may_share_memory(out, x):
            x = x.copy(order="K")
    y = _empty_like(x) if out is None else out
    mask = chosen.mask
    if given is not None:
        return _by_given(run, owner, chosen, x, y, axes, weight, bias, moments, eps, given)
    if chosen.segments is not None and axes.letters[_piece(owner, axes, chosen.segment_axis)] not in "rR":
        raise ValueError(
            f"{owner}: expected segments along an axis that the norm reduces, got segment_axis={chosen.segment_axis}"
        )
    if chosen.sample_weight is not None or (chosen.masked == "normalize" and mask is not None):
        found, weighted_back = normalize_weighted(chosen, x, y, axes, weight, bias, moments, eps)
        return y, SetMoments(*found), weighted_back
    arrangement = arrange(axes, x.shape, mask, chosen.segments, chosen.segment_axis)
    if y.flags.c_contiguous and (group := arrangement.most_sets(x)):
        return _most_sets(run, resume, owner, x, y, axes, weight, bias, moments, eps, arrangement, group, chosen.masked)
    groups = []
    count, mean, var = (np.zeros(arrangement.sets_shape) for _ in range(3))
    results = []
    merged = arrangement.merge(x)
    for group in arrangement.groups():
        part = arrangement.take(merged, group)
        w, a = (None if p is None else arrangement.parameter(p, group) for p in (weight, bias))
        made, _, saved = run(owner, part, arrangement.axes_of(part), w, a, moments, eps)
        arrangement.put_sets((count, mean, var), group, saved, part)
        groups.append((group, saved))
        results.append((group, made))
    _place(arrangement, y, x, results, mask, chosen.masked)

    def back(dy: Array, dx: Array) -> tuple[Array | None, Array | None]:
        return _back(arrangement, groups, dy, dx, weight, bias, mask, chosen.masked)

    return y, SetMoments(count, mean, var), back


def _back(
    arrangement: Arrangement,
    groups: list[tuple[Any, Any]],
    dy: Array,
    dx: Array,
    weight: Array | None,
    bias: Array | None,
    mask: Array | None,
    policy: str,
) -> tuple[Array | None, Array | None]:
    """dx, written, dweight and dbias by what the passes of all groups left."""
    d = dy.copy() if np.may_share_memory(dx, dy) else dy
    sums = [None if p is None else np.zeros(p.shape) for p in (weight, bias)]
    results = []
    merged = arrangement.merge(d)
    for group, saved in groups:
        found = saved.backward(arrangement.take(merged, group))
        results.append((group, found.x))
        for total, part in zip(sums, (found.weight, found.bias), strict=True):
            if total is not None:
                arrangement.add_parameter(total, group, part)
    _place(arrangement, dx, d, results, mask, policy)
    return _as(sums[0], weight), _as(sums[1], bias)


def _most_sets(
    run: Callable[..., Any],
    resume: Callable[..., Any],
    owner: object,
    x: Array,
    y: Array,
    axes: Axes,
    weight: Array | None,
    bias: Array | None,
    moments: Moments,
    eps: float,
    arrangement: Arrangement,
    group: Any,
    policy: str,
) -> tuple[Array, SetMoments, Back]:
    """`normalize_selected` where most sets count, each as a whole: all are normalized where they lie, and those that do
    not count are written over. It is the backward pass, which adds sets up, that takes those apart that do."""
    left = run(owner, x, axes, weight, bias, moments, eps, y)[2].left
    kept = arrangement.pattern[:, 0]
    arrangement.put_rows(x, np.where(kept, -2, -1 if policy == "zero" else np.arange(kept.size)), y)
    stats = left.stats.reshape(3, -1)
    count, mean, var = (
        np.where(kept, a, 0.0).reshape(arrangement.sets_shape) for a in (float(axes.values), *stats[:2])
    )

    seen = sample(x), sample(weight)

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
        return _back(arrangement, [(group, saved)], dy, dx, weight, bias, kept, policy)

    return y, SetMoments(count, mean, var), back


def _as(total: Array | None, p: Array | None) -> Array | None:
    """A sum in the dtype of its parameter."""
    return None if total is None or p is None else total.astype(p.dtype)


def _piece(owner: object, axes: Axes, axis: int) -> int:
    """The piece of `axes` that an axis of x is."""
    pieces = [i for i, o in enumerate(axes.owner or range(len(axes.shape))) if o == axis]
    if len(pieces) != 1:
        raise ValueError(f"{owner}: expected segments along an axis that is not cut, got segment_axis={axis}")
    return pieces[0]


def _empty_like(x: Array) -> Array:
    """A new array of x's shape, dtype and order of axes."""
    return empty(x.shape, x.dtype) if x.flags.c_contiguous else np.empty_like(x)


def _place(
    arrangement: Arrangement, y: Array, x: Array, results: list[tuple[Any, Array]], mask: Array | None, policy: str
) -> None:
    """The results of all groups in y, and what the policy says where values do not count."""
    if policy == "keep" and mask is not None:
        y[...] = x
    merged = arrangement.merge(y)
    if not (len(results) == 1 and arrangement.put_all(merged, *results[0], policy)):
        if policy != "keep" and mask is not None:
            merged[...] = 0
        for group, made in results:
            arrangement.put(merged, group, made)
    arrangement.deliver(merged, y)


def _by_given(
    run: Callable[..., Any],
    owner: object,
    chosen: Selected,
    x: Array,
    y: Array,
    axes: Axes,
    weight: Array | None,
    bias: Array | None,
    moments: Moments,
    eps: float,
    given: tuple[Array, Array],
) -> tuple[Array, None, Back]:
    """Statistics that are given: a value that does not count has no part in the gradients, whatever it is."""
    mask = chosen.shown
    shown = x if mask is None else np.where(mask, x, np.zeros((), x.dtype))
    made, _, saved = run(owner, shown, axes, weight, bias, moments, eps, given=given)
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
    """Mean and unbiased variance over the sets of every channel, and which channels have any: for running statistics.

    Args:
        channel: which of the kept axes is that of the channels.
    """
    axes = tuple(i for i in range(found.size.ndim) if i != channel + 1)
    filled = found.size > 0
    sets = filled.sum(axis=axes)
    unbiased = found.var * found.size / np.maximum(found.size - 1, 1)
    mean = np.where(filled, found.mean, 0).sum(axis=axes) / sets
    var = np.where(filled, unbiased, 0).sum(axis=axes) / sets
    return mean, var, sets > 0
