"""Compaction: from an array with values left out to dense arrays that a backend takes, and back.

A mask varies along some axes of x: A are the kept ones of them, B the reduced ones. x is transposed to (A, before, B,
behind), with the axes of A merged into one, and those of B too. Sets with the same pattern of counted values along B
form a group: x[rows of A][..., values of B, ...] is a dense array, whose letters are those of x. Contiguous rows or
values are sliced, not copied.
"""

from collections.abc import Iterator
from math import prod
from typing import Any, NamedTuple

import numpy as np

from normzoo.backends import backend, chosen
from normzoo.backends.contract import Array
from normzoo.backends.memory import empty
from normzoo.passes.view import Axes, inverse

Index = Any  # a slice or an array of indices


class Group(NamedTuple):
    """The sets that have the same pattern and belong to the same segment."""

    segment: int
    rows: Index | None  # indices along A; None: no axis is in A
    values: Index | None  # indices along B; None: no axis is in B


class Arrangement:
    """How an x with certain axes is rearranged for certain masks."""

    def __init__(self, axes: Axes, pattern: Array, varies: list[bool], ids: Array | None) -> None:
        letters = axes.letters
        self.cut = axes.shape
        self.a = [i for i, v in enumerate(varies) if v and letters[i] in "kK"]
        self.b = [i for i, v in enumerate(varies) if v and letters[i] in "rR"]
        last = self.b[-1] if self.b else -1
        self.before = [i for i in range(len(letters)) if not varies[i] and i < last]
        self.behind = [i for i in range(len(letters)) if not varies[i] and i > last]
        self.order = [*self.a, *self.before, *self.b, *self.behind]
        before, behind = ("".join(letters[i] for i in axes) for axes in (self.before, self.behind))
        self.letters = _letter(letters, self.a, "K", "k") + before + _letter(letters, self.b, "R", "r") + behind
        self.sizes = [axes.shape[i] for i in self.order]
        self.merged = [
            *([prod(axes.shape[i] for i in self.a)] if self.a else []),
            *(axes.shape[i] for i in self.before),
            *([prod(axes.shape[i] for i in self.b)] if self.b else []),
            *(axes.shape[i] for i in self.behind),
        ]
        self.place_b = bool(self.a) + len(self.before)
        # parameters: the axes with capital letters, those of A and B first
        capital = [i for i, letter in enumerate(letters) if letter.isupper()]
        self.capital_sizes = [axes.shape[i] for i in capital]
        self.capital_a = [i for i in self.a if i in capital]
        self.capital_b = [i for i in self.b if i in capital]
        self.capital_before = [i for i in self.before if i in capital]
        rest = [*self.capital_before, *(i for i in self.behind if i in capital)]
        self.capital_order = [capital.index(i) for i in [*self.capital_a, *self.capital_b, *rest]]
        self.kept = [i for i, letter in enumerate(letters) if letter in "kK"]
        self.pattern = pattern  # (A, B)
        self.ids = ids  # (B,), or None
        self.segments = [None] if ids is None else list(np.unique(ids))
        self.sets_shape = (len(self.segments), *(axes.shape[i] for i in self.kept))

    def groups(self) -> Iterator[Group]:
        """All groups that have at least one value, in a fixed order."""
        for rows, pattern in _patterns(self.pattern):
            for s, segment in enumerate(self.segments):
                values = pattern if segment is None else pattern & (self.ids == segment)
                if values.any():
                    yield Group(
                        s,
                        _range(rows, self.pattern.shape[0]) if self.a else None,
                        _range(np.flatnonzero(values), values.size) if self.b else None,
                    )

    def merge(self, x: Array) -> Array:
        """x as (A, before, B, behind), for `take` and `put`: a view of x if its axes can be merged without a copy."""
        return x.reshape(self.cut).transpose(self.order).reshape(self.merged)

    def deliver(self, merged: Array, y: Array) -> None:
        """Copy into y what was written into `merge(y)`, if that is a copy."""
        if not np.may_share_memory(merged, y):  # merging the axes made a copy
            y[...] = merged.reshape(self.sizes).transpose(inverse(tuple(self.order))).reshape(y.shape)

    def take(self, merged: Array, group: Group) -> Array:
        """The dense array of the group."""
        index = self.row_index(group)
        if index is not None and merged.flags.c_contiguous:
            part = empty((index.size, *merged.shape[1:]), merged.dtype)
            backend(chosen()).spread_rows(_rows_of_bytes(merged), index, _rows_of_bytes(part))
            return part
        part = merged if group.rows is None else merged[group.rows]
        if group.values is not None:
            part = part[self._inner(group.values)]
        return np.ascontiguousarray(part)

    def row_index(self, group: Group) -> Array | None:
        """The indices of the group's rows in the merged array, if the group is a list of whole rows; else None."""
        if group.values is None:
            return group.rows if isinstance(group.rows, np.ndarray) else None
        return group.values if not self.a and self.place_b == 0 and isinstance(group.values, np.ndarray) else None

    def put_all(self, merged: Array, group: Group, made: Array, policy: str) -> bool:
        """Write the results of the only group, and 0 elsewhere (with `policy` "zero"), in one call. Returns False if
        that is not possible."""
        index = self.row_index(group)
        if index is None or not merged.flags.c_contiguous:
            return False
        place = np.full(len(merged), -1 if policy == "zero" else -2)
        place[index] = np.arange(index.size)
        backend(chosen()).spread_rows(_rows_of_bytes(made), place, _rows_of_bytes(merged))
        return True

    def most_sets(self, x: Array) -> Group | None:
        """The group of the sets that count, if they are at least a third of all sets, the mask counts or leaves out
        whole sets, and the sets are contiguous in x, one after another; else None. Gathering fewer sets is faster."""
        whole = self.ids is None and not self.b and self.a == self.kept and self.order == list(range(len(self.order)))
        if not (whole and x.flags.c_contiguous):
            return None
        group = next(self.groups(), None)
        some = group is not None and isinstance(group.rows, np.ndarray) and 3 * group.rows.size >= len(self.pattern)
        return group if some else None

    def put_rows(self, x: Array, place: Array, y: Array) -> None:
        """Row i of y becomes row place[i] of x, or 0 if place[i] is -1; if it is -2, row i of y stays."""
        rows = (_rows_of_bytes(a.reshape(len(place), -1)) for a in (x, y))
        backend(chosen()).spread_rows(next(rows), place, next(rows))

    def put(self, merged: Array, group: Group, made: Array) -> None:
        """Write the group's results into the merged array."""
        if group.values is None:
            merged[... if group.rows is None else group.rows] = made
        elif group.rows is None or isinstance(group.rows, slice):
            part = merged if group.rows is None else merged[group.rows]
            part[self._inner(group.values)] = made
        else:
            for row, one in zip(group.rows, made, strict=True):
                merged[row : row + 1][self._inner(group.values)] = one

    def _inner(self, values: Index) -> tuple:
        return (*(slice(None),) * self.place_b, values)

    def axes_of(self, part: Array) -> Axes:
        return Axes(part.shape, self.letters)

    def _parameter_index(self, group: Group) -> tuple:
        """Indices of the group's rows and values along the capital axes of A and B."""
        index: list[Array] = []
        both = bool(self.capital_a) and bool(self.capital_b)
        for axes, capital, taken in ((self.a, self.capital_a, group.rows), (self.b, self.capital_b, group.values)):
            if not capital:
                continue
            sizes = [self.cut[i] for i in axes]
            flat = np.arange(prod(sizes))[taken]
            places = np.unravel_index(flat, sizes)
            for axis in capital:
                found = places[axes.index(axis)]
                index.append(found[:, None] if both and axes is self.a else found)
        return tuple(index)

    def parameter(self, p: Array, group: Group) -> Array:
        """The part of a parameter that belongs to the group, in the axis order of its dense array."""
        moved = p.reshape(self.capital_sizes).transpose(self.capital_order)
        index = self._parameter_index(group)
        if not index:
            return moved
        found = moved[index]
        return np.ascontiguousarray(self._b_behind(found))

    def _b_behind(self, p: Array, back: bool = False) -> Array:
        """Reorder a parameter's axes from (A, B, before, behind) to (A, before, B, behind), or `back`."""
        if not self.capital_b or not self.capital_before:
            return p
        first, last = bool(self.capital_a), bool(self.capital_a) + len(self.capital_before)
        return np.moveaxis(p, *((last, first) if back else (first, last)))

    def add_parameter(self, total: Array, group: Group, d: Array) -> None:
        """Add the group's part of a parameter's gradient to `total`; groups are added in order."""
        moved = total.reshape(self.capital_sizes).transpose(self.capital_order)
        index = self._parameter_index(group)
        if not index:
            moved += d.reshape(moved.shape)
        else:
            np.add.at(moved, index, self._b_behind(d, back=True).astype(np.float64))

    def put_sets(self, planes: tuple[Array, Array, Array], group: Group, saved: Any, part: Array) -> None:
        """Write count, mean and spread of the group's sets into arrays of `sets_shape`."""
        order = saved.view_order
        kept = [i for i in order if self.letters[i] in "kK"]
        sizes = [part.shape[i] for i in kept]
        back = np.argsort(kept, kind="stable")
        values = part.size // max(prod(sizes), 1)
        # (A, the other kept axes)
        arranged = [*self.a, *(i for i in [*self.before, *self.behind] if i in self.kept)]
        for plane, found in zip(planes, (None, saved.mean, saved.spread), strict=True):
            at = plane[group.segment, ...].transpose([self.kept.index(i) for i in arranged])
            new = values if found is None else found.reshape(sizes).transpose(back)
            if self.a:
                merged = at.reshape(-1, *at.shape[len(self.a) :])
                merged[group.rows] = new
                if not np.may_share_memory(merged, at):
                    at[...] = merged.reshape(at.shape)
            else:
                at[...] = new


def _patterns(pattern: Array) -> list[tuple[Array, Array]]:
    """(indices of the rows that have this pattern, ascending; the pattern), for each pattern."""
    if pattern.shape[1] == 1:
        return [(rows, pattern[0] | True) for rows in [np.flatnonzero(pattern)] if rows.size]
    if pattern.shape[0] == 1:
        return [(np.zeros(1, np.int64), pattern[0])]
    packed = np.packbits(pattern, axis=1)
    keys = np.ascontiguousarray(packed).view(f"V{packed.shape[1]}").reshape(-1)  # each row is compared as one value
    _, first, which = np.unique(keys, return_index=True, return_inverse=True)
    which = which.astype(np.min_scalar_type(first.size))  # integers of 16 bits and fewer use a radix sort
    rows = np.argsort(which, kind="stable")
    ends = np.cumsum(np.bincount(which, minlength=first.size))[:-1]
    return [(found, pattern[one]) for found, one in zip(np.split(rows, ends), first, strict=True)]


def _rows_of_bytes(a: Array) -> Array:
    return np.ascontiguousarray(a).reshape(len(a), -1).view(np.uint8)


def arrange(
    axes: Axes, shape: tuple[int, ...], mask: Array | None, segments: Array | None, segment_axis: int
) -> Arrangement:
    """The arrangement of an x of this shape, for a mask of the same rank and segments along one axis."""
    owner = axes.owner or tuple(range(len(axes.shape)))
    full = (1,) * len(shape) if mask is None else mask.shape
    splits = [full[o] != 1 or (segments is not None and o == segment_axis) for o in owner]
    varies = [v and size != 1 for v, size in zip(splits, axes.shape, strict=True)]
    sizes = [shape[o] if any(v for v, p in zip(varies, owner, strict=True) if p == o) else 1 for o in range(len(shape))]
    shown = np.broadcast_to(np.ones(full, bool) if mask is None else mask, sizes)
    cut = shown.reshape([size if v else 1 for v, size in zip(varies, axes.shape, strict=True)])
    a = [i for i, v in enumerate(varies) if v and axes.letters[i] in "kK"]
    b = [i for i, v in enumerate(varies) if v and axes.letters[i] in "rR"]
    rest = [i for i, v in enumerate(varies) if not v]
    rows = prod(axes.shape[i] for i in a)
    pattern = np.ascontiguousarray(cut.transpose([*a, *b, *rest])).reshape(rows, -1)
    ids = None
    if segments is not None:
        piece = owner.index(segment_axis)
        if piece in b:
            along = [1] * len(b)
            along[b.index(piece)] = -1
            ids = np.broadcast_to(segments.reshape(along), [axes.shape[i] for i in b]).reshape(-1)
    return Arrangement(axes, pattern, varies, ids)


def _letter(letters: str, axes: list[int], capital: str, small: str) -> str:
    """The letter of these axes merged; "" if there are none."""
    if not axes:
        return ""
    return capital if any(letters[i] == capital for i in axes) else small


def _range(indices: Array, size: int) -> Index:
    """The indices as a slice if they are contiguous, else the indices."""
    first, last = int(indices[0]), int(indices[-1])
    return slice(first, last + 1) if last - first + 1 == indices.size else indices
