"""From an array of any rank to the view (b, m, c, n) of `backends/contract.py`, without a copy where there is one.

A norm says of every axis of x whether it is kept or reduced and whether a parameter spans it, with one letter each:

    k  kept        K  kept, with parameters        r  reduced        R  reduced, with parameters

BatchNorm of (N, C, H, W) is "rKrr", LayerNorm over the last of three axes "kkR". GroupNorm cuts C in two, (N, G, C/G,
H, W), "kKRrr". Neighbours in memory with one letter are one axis; what is left must read [k][K] [r|R] [k|K] [r|R],
which are b, m, c and n. Along b the parameters may repeat, which is why kK fits there.
"""

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

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        """Sizes of the axes of x, cut ones as they were, that the parameters span."""
        return self.sizes("KR")

    @property
    def merged(self) -> "Axes":
        """As a pass whose statistics are given uses the axes: these are of the axes K alone, whatever the sets of the
        norm's own are, and so are constants along k, which is reduced as r is."""
        return self._replace(letters=self.letters.replace("k", "r")) if "k" in self.letters else self

    def sizes(self, letters: str) -> tuple[int, ...]:
        """Sizes of the axes of x, cut ones as they were, that have these letters."""
        found: dict[int, int] = {}
        for axis, size, letter in zip(self.owner or range(len(self.shape)), self.shape, self.letters, strict=True):
            if letter in letters:
                found[axis] = found.get(axis, 1) * size
        return tuple(found.values())


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
        """x with its axes in the order of (b, m, c, n)."""
        return x if self.straight else x.transpose(self.order)

    def parameter(self, p: Array) -> Array:
        """A parameter with its axes in the order of (pb, pm, pc, pn)."""
        return p if self.pieces_straight else p.reshape(self.pieces).transpose(self.piece_order)

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


def find_view(axes: Axes, shape: tuple[int, ...], strides: tuple[int, ...] | None, size: int) -> tuple[View, bool]:
    """The view for an array of this shape, and whether the array must be copied for it.

    C-contiguous and channels-last arrays are used where they lie. Any other is copied in the order of its axes, so
    that it gives the bits of its contiguous copy.

    Args:
        strides: None for a C-contiguous array.
        size: bytes of a value.
    """
    rank = len(shape)
    straight = tuple(range(rank))
    if strides is None:
        view = fit(axes, straight)
        if view is not None:
            return view, False
    elif rank > 2:
        last = (0, *range(2, rank), 1)
        if lies_in(last, shape, strides, size):
            view = fit(axes, last)
            if view is not None:
                return view, False
    view = fit(axes, straight)
    if view is None:  # reduced axes are scattered: bring them together
        owner = axes.owner or straight
        letters = [axes.letters[owner.index(i)] for i in straight]
        view = fit(axes, tuple(sorted(straight, key=lambda i: "kKRr".index(letters[i]))))
        if view is None:
            raise ValueError(f"axes {axes.letters!r} do not fit the view (b, m, c, n)")
    return view, True


def lies_in(order: tuple[int, ...], shape: tuple[int, ...], strides: tuple[int, ...], size: int) -> bool:
    """Is an array dense with its axes in this order, outermost first? Axes of one value lie anywhere."""
    for axis in reversed(order):
        if shape[axis] != 1 and strides[axis] != size:
            return False
        size *= shape[axis]
    return True


KINDS = "krKR"  # what compiled code has for a letter: bit 0 is set where an axis is reduced, bit 1 with parameters


def fit(axes: Axes, order: tuple[int, ...]) -> View | None:
    """The view of an array whose axes lie in memory in `order`, or None where the letters do not fit."""
    owner = axes.owner or tuple(range(len(axes.shape)))
    in_memory = [i for axis in order for i, o in enumerate(owner) if o == axis]
    kinds = tuple(KINDS.index(axes.letters[i]) for i in in_memory)
    fits, dims, parameter_dims = fit_sizes(kinds, tuple(axes.shape[i] for i in in_memory))
    if not fits:
        return None
    straight = tuple(range(len(order)))
    spanned = [i for i, letter in enumerate(axes.letters) if letter.isupper()]
    piece_order = tuple(spanned.index(i) for i in in_memory if i in spanned)
    return View(
        order=order,
        dims=dims,
        parameter_dims=parameter_dims,
        pieces=tuple(axes.shape[i] for i in spanned),
        piece_order=piece_order,
        straight=order == straight,
        pieces_straight=list(piece_order) == sorted(piece_order),
    )


Sizes = tuple[int, int, int, int]


def fit_sizes(kinds: tuple[int, ...], sizes: tuple[int, ...]) -> tuple[bool, Sizes, Sizes]:
    """Do axes of these `KINDS` and sizes, in the order of memory, fit; dims; parameter_dims. Numba compiles it too."""
    n, n_kind, i = take_run(kinds, sizes, len(sizes) - 1, 1, 1)
    c, c_kind, i = take_run(kinds, sizes, i, 1, 0)
    m, m_kind, i = take_run(kinds, sizes, i, 1, 1)
    b_parameter, b_plain = 1, 1
    if i < 0 and m == 1 and n > 1:  # nothing before c: it is b
        if c_kind & 2:
            b_parameter = c
        else:
            b_plain = c
        c, c_kind = 1, 0
    else:
        b_parameter, _, i = take_run(kinds, sizes, i, 3, 2)
        b_plain, _, i = take_run(kinds, sizes, i, 3, 0)
    return (
        i < 0,
        (b_plain * b_parameter, m, c, n),
        (b_parameter, m if m_kind & 2 else 1, c if c_kind & 2 else 1, n if n_kind & 2 else 1),
    )


def take_run(kinds: tuple[int, ...], sizes: tuple[int, ...], i: int, bits: int, value: int) -> tuple[int, int, int]:
    """Size and kind of the run of axes of one kind that ends with axis i, if that kind has these bits, else 1 and 0;
    and the axis before it, that is not of size 1."""
    while i >= 0 and sizes[i] == 1:
        i -= 1
    size, kind = 1, 0
    if i >= 0 and kinds[i] & bits == value:
        kind = kinds[i]
        while i >= 0 and (sizes[i] == 1 or kinds[i] == kind):
            size *= sizes[i]
            i -= 1
    return size, kind, i
