"""`select`: an array together with which of its values count.

A norm takes the result as x; `norm(x, mask=...)` is short for that. `selected.py` normalizes the values that count.
"""

from typing import Any, Literal, TypedDict, get_args

import numpy as np

from normzoo.backends.contract import Array
from normzoo.passes.arrays import check_array
from normzoo.passes.numbers import check_axis

Masked = Literal["zero", "keep", "normalize"]
POLICIES = get_args(Masked)


class Selects(TypedDict, total=False):
    """What `select` takes beside x, and a norm in a call."""

    mask: Any
    lengths: Any
    sample_weight: Any
    segments: Any
    length_axis: int
    segment_axis: int
    masked: Masked
    skip_nan: bool


SELECTS = frozenset(Selects.__annotations__)


class Selected:
    """An array and which of its values count, see `select`. It has the shape and dtype of x."""

    is_selection = True
    __slots__ = ("mask", "masked", "sample_weight", "segment_axis", "segments", "x")

    def __init__(
        self,
        x: Array,
        mask: Array | None,  # boolean, of x's rank; each axis has size 1 or x's size
        sample_weight: Array | None,  # float64, of such a shape, too
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
        """Where y is computed; elsewhere y is 0 or x. None: y is computed everywhere."""
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
    masked: Masked = "zero",
    skip_nan: bool = False,
) -> Selected:
    """x, and which of its values count in a norm's statistics.

    Args:
        x: float array.
        mask: booleans that broadcast to x; True counts.
        lengths: integers (N,): the first lengths[i] positions of item i along `length_axis` count.
        sample_weight: numbers >= 0 that broadcast to x: how much each value counts.
            mean = sum(w * x) / sum(w), var = sum(w * (x - mean)^2) / sum(w).
        segments: integers, one for each index of `segment_axis`, which the norm must reduce: values with different ids
            belong to different sets, as the nodes of a batch of graphs.
        length_axis: the axis that lengths refer to; items are on axis 0.
        segment_axis: the axis that segments refer to.
        masked: y where values do not count: "zero", "keep" (y = x) or "normalize" (by the statistics of the others; an
            empty set gives the bias).
        skip_nan: if True, NaN does not count either.

    Raises:
        TypeError: x is not a float array, mask not boolean, lengths or segments not integers.
        ValueError: a shape does not broadcast; a length exceeds the axis; a weight is negative or not finite.

    >>> import numpy as np, normzoo as nz
    >>> x = np.float32([[1, 3, 99]])
    >>> nz.LayerNorm(3)(x, mask=[[True, True, False]]).round(2)
    array([[-1.,  1.,  0.]], dtype=float32)
    """
    if isinstance(x, Selected):
        raise TypeError("select: expected an array, got a selection; write select(selection.x, ...)")
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
            raise ValueError("select: expected sample_weight of finite numbers >= 0, got negative or non-finite ones")
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
    """`a` reshaped to the rank of `shape`."""
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
            f"select: expected lengths of shape ({x.shape[0]},), one for each sample of x, and length_axis not 0, got "
            f"shape {lengths.shape} and length_axis={length_axis}"
        )
    if lengths.size and not (lengths.min() >= 0 and lengths.max() <= x.shape[axis]):
        raise ValueError(f"select: expected lengths in [0, {x.shape[axis]}], got {lengths.min()} to {lengths.max()}")
    places = np.arange(x.shape[axis]) < lengths[:, None]
    shape = [1] * x.ndim
    shape[0], shape[axis] = places.shape
    return places.reshape(shape)
