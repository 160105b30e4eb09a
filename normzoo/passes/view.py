"""From an array of any rank to the view (b, m, c, n) of `backends/contract.py`, without a copy if possible.

A norm gives each axis of x a letter: is the axis kept or reduced, and do parameters vary along it?

    k  kept        K  kept, with parameters        r  reduced        R  reduced, with parameters

BatchNorm of (N, C, H, W) is "rKrr", LayerNorm over the last of three axes "kkR". GroupNorm splits C into two axes, (N,
G, C/G, H, W), "kKRrr". Axes that are adjacent in memory and have the same letter are merged into one; the result must
match [k][K] [r|R] [k|K] [r|R], which are b, m, c and n. Parameters may repeat along b, therefore kK fits there.
"""

from math import prod
from typing import NamedTuple

from normzoo.backends.contract import Array


class Axes(NamedTuple):
    """How a norm uses the axes of x, some of them split in two."""

    shape: tuple[int, ...]
    letters: str
    owner: tuple[int, ...] | None = None  # the axis of x that each piece is part of; None: piece i is axis i

    @property
    def values(self) -> int:
        """Number of values in a set."""
        return prod(size for size, letter in zip(self.shape, self.letters, strict=True) if letter in "rR")

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        """Sizes of the axes of x that the parameters span; split axes count as one."""
        return self.sizes("KR")

    @property
    def merged(self) -> "Axes":
        """The axes of a pass with given statistics. These vary along the axes K only, whatever the norm's own sets are;
        so they are constant along k, which is treated as reduced, like r."""
        return self._replace(letters=self.letters.replace("k", "r")) if "k" in self.letters else self

    def sizes(self, letters: str) -> tuple[int, ...]:
        """Sizes of the axes of x that have one of these letters; split axes count as one."""
        found: dict[int, int] = {}
        for axis, size, letter in zip(self.owner or range(len(self.shape)), self.shape, self.letters, strict=True):
            if letter in letters:
                found[axis] = found.get(axis, 1) * size
        return tuple(found.values())


class View(NamedTuple):
    """How an array of x's shape maps to (b, m, c, n), and a parameter to (pb, pm, pc, pn)."""

    order: tuple[int, ...]  # x's axes, outermost in memory first
    dims: tuple[int, int, int, int]
    parameter_dims: tuple[int, int, int, int]
    pieces: tuple[int, ...]  # sizes of the axes that a parameter is split into,
    piece_order: tuple[int, ...]  # and their order in memory
    straight: bool  # is `order` the order of the axes?
    pieces_straight: bool  # is `piece_order` the order of the pieces?

    def of(self, x: Array) -> Array:
        """x with its axes transposed to the order of (b, m, c, n)."""
        return x if self.straight else x.transpose(self.order)

    def parameter(self, p: Array) -> Array:
        """A parameter with its axes transposed to the order of (pb, pm, pc, pn)."""
        return p if self.pieces_straight else p.reshape(self.pieces).transpose(self.piece_order)

    def gradient(self, p: Array, shape: tuple[int, ...]) -> Array:
        """A parameter's gradient (pb, pm, pc, pn), in the parameter's own shape."""
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

    C-contiguous and channels-last arrays are used without a copy. Any other array is copied to C order, so that the
    result is bit-identical to that of its contiguous copy.

    Args:
        strides: None for a C-contiguous array.
        size: bytes per value.
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
    """Is an array dense with its axes in this order, outermost first? The stride of an axis of size 1 does not
    matter."""
    for axis in reversed(order):
        if shape[axis] != 1 and strides[axis] != size:
            return False
        size *= shape[axis]
    return True


KINDS = "krKR"  # letters as compiled code has them: the index's bit 0 means reduced, bit 1 means with parameters


def fit(axes: Axes, order: tuple[int, ...]) -> View | None:
    """The view of an array whose axes have this order in memory, or None if the letters do not fit."""
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
    """(do axes of these `KINDS` and sizes, in memory order, fit; dims; parameter_dims). Numba compiles this function,
    too."""
    n, n_kind, i = take_run(kinds, sizes, len(sizes) - 1, 1, 1)
    c, c_kind, i = take_run(kinds, sizes, i, 1, 0)
    m, m_kind, i = take_run(kinds, sizes, i, 1, 1)
    b_parameter, b_plain = 1, 1
    if i < 0 and m == 1 and n > 1:  # nothing before c: c becomes b
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
    """Merge adjacent axes of one kind, from axis i to the front, if that kind has these bits. Returns their size and
    kind (1 and 0 if axis i has another kind) and the next axis in front of them; axes of size 1 are skipped."""
    while i >= 0 and sizes[i] == 1:
        i -= 1
    size, kind = 1, 0
    if i >= 0 and kinds[i] & bits == value:
        kind = kinds[i]
        while i >= 0 and (sizes[i] == 1 or kinds[i] == kind):
            size *= sizes[i]
            i -= 1
    return size, kind, i
