"""From an array of any rank to the view (b, m, c, n) of `backends/contract.py`, without a copy where there is one.

A norm says of every axis of x whether it is kept or reduced and whether a parameter spans it, with one letter each:

    k  kept        K  kept, with parameters        r  reduced        R  reduced, with parameters

BatchNorm of (N, C, H, W) is "rKrr", LayerNorm over the last of three axes "kkR". GroupNorm cuts C in two, (N, G, C/G,
H, W), "kKRrr". Neighbours in memory with one letter are one axis; what is left must read [k][K] [r|R] [k|K] [r|R],
which are b, m, c and n. Along b the parameters may repeat, which is why kK fits there.
"""

from functools import lru_cache
from math import prod
from typing import NamedTuple

from normzoo.backends.contract import Array


class Axes(NamedTuple):
    """How a norm uses the axes of x, some of them cut in two."""

    shape: tuple[int, ...]
    letters: str
    owner: tuple[int, ...] | None = None  # the axis of x that each piece belongs to; None: piece i is axis i

    @property
    def values(self) -> int:
        """Values in a set."""
        return prod(size for size, letter in zip(self.shape, self.letters, strict=True) if letter in "rR")


class View(NamedTuple):
    """Where an array of x's shape goes in (b, m, c, n), and a parameter in (pb, pm, pc, pn)."""

    order: tuple[int, ...]  # x's axes, outermost in memory first
    dims: tuple[int, int, int, int]
    parameter_dims: tuple[int, int, int, int]
    pieces: tuple[int, ...]  # sizes a parameter is cut into,
    piece_order: tuple[int, ...]  # and these in the order of memory
    straight: bool  # `order` is that of the axes
    pieces_straight: bool  # `piece_order` is that of the pieces

    def of(self, x: Array) -> Array:
        """x as (b, m, c, n): a view where x lies in this order, else a copy."""
        return (x if self.straight else x.transpose(self.order)).reshape(self.dims)

    def parameter(self, p: Array) -> Array:
        """A parameter as (pb, pm, pc, pn)."""
        if self.pieces_straight:
            return p.reshape(self.parameter_dims)
        return p.reshape(self.pieces).transpose(self.piece_order).reshape(self.parameter_dims)

    def gradient(self, p: Array, shape: tuple[int, ...]) -> Array:
        """A parameter's gradient (pb, pm, pc, pn) in the parameter's own shape."""
        if self.pieces_straight:
            return p.reshape(shape)
        moved = p.reshape([self.pieces[i] for i in self.piece_order])
        return moved.transpose(inverse(self.piece_order)).reshape(shape)


def inverse(order: tuple[int, ...]) -> tuple[int, ...]:
    """The permutation that undoes `order`."""
    back = [0] * len(order)
    for i, axis in enumerate(order):
        back[axis] = i
    return tuple(back)


def find_view(axes: Axes, x: Array) -> tuple[View, bool]:
    """The view for x and whether x must be copied for it.

    C-contiguous and channels-last arrays are used where they lie. Any other is copied in the order of its axes, so
    that it gives the bits of its contiguous copy.
    """
    straight = _STRAIGHT[x.ndim]
    if x.flags.c_contiguous:
        view = plan(axes, straight)
        if view is not None:
            return view, False
    elif x.ndim > 2:
        last = (0, *range(2, x.ndim), 1)
        if x.transpose(last).flags.c_contiguous:
            view = plan(axes, last)
            if view is not None:
                return view, False
    view = plan(axes, straight)
    if view is None:  # reduced axes are scattered: bring them together
        by_letter = sorted(straight, key=lambda i: "kKRr".index(axes.letters[i]))
        view = plan(axes, tuple(by_letter))
        if view is None:
            raise ValueError(f"axes {axes.letters!r} do not fit the view (b, m, c, n)")
    return view, True


_STRAIGHT = [tuple(range(rank)) for rank in range(65)]  # NumPy's highest rank is 64


@lru_cache(maxsize=1024)
def plan(axes: Axes, order: tuple[int, ...]) -> View | None:
    """The view of an array whose axes lie in memory in `order`, or None where the letters do not fit."""
    owner = axes.owner or tuple(range(len(axes.shape)))
    in_memory = [i for axis in order for i, o in enumerate(owner) if o == axis]
    runs: list[tuple[str, int]] = []
    for i in in_memory:
        letter, size = axes.letters[i], axes.shape[i]
        if size == 1:
            continue
        if runs and runs[-1][0] == letter:
            size *= runs.pop()[1]
        runs.append((letter, size))

    def take(letters: str) -> tuple[str, int]:
        return runs.pop() if runs and runs[-1][0] in letters else ("", 1)

    n, c, m = take("rR"), take("kK"), take("rR")
    if not runs and m[1] == 1 and n[1] > 1:  # nothing before c: it is b
        runs, c = [c], ("", 1)
    b_parameter, b_plain = take("K"), take("k")
    if runs:
        return None
    straight = tuple(range(len(order)))
    spanned = [i for i, letter in enumerate(axes.letters) if letter.isupper()]
    piece_order = tuple(spanned.index(i) for i in in_memory if i in spanned)
    return View(
        order=order,
        dims=(b_plain[1] * b_parameter[1], m[1], c[1], n[1]),
        parameter_dims=(b_parameter[1], _spanned(m), _spanned(c), _spanned(n)),
        pieces=tuple(axes.shape[i] for i in spanned),
        piece_order=piece_order,
        straight=order == straight,
        pieces_straight=list(piece_order) == sorted(piece_order),
    )


def _spanned(run: tuple[str, int]) -> int:
    """The size of an axis for the parameters: full where they span it, else 1."""
    letter, size = run
    return size if letter.isupper() else 1
