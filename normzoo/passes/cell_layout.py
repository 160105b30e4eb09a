"""How the axes of an array are cells: samples b, channels c and positions n."""

import numpy as np

from normzoo.backends.contract import Array
from normzoo.backends.forms import Cells
from normzoo.passes.whole import order_of


def positions_of(a: Array, dims: Cells) -> Array:
    """A view of an array as (b, n, c)."""
    b, c, n, last = dims
    return a.reshape(b, n, c) if last else a.reshape(b, c, n).swapaxes(1, 2)


def letters_by_channel(x: Array, channel_axis: int) -> str:
    """Samples on axis 0, channels, and positions."""
    channel = channel_axis % x.ndim
    return "b" + "".join("c" if i == channel else "n" for i in range(1, x.ndim))


def cells_of(x: Array, letters: str) -> tuple[tuple[int, ...], Cells]:
    """x's axes in an order in which they are cells, that of memory where it can be; and how.

    Args:
        letters: of each axis, b, c or n. Where there is no b, axes of n before those of c are one.
    """
    order = order_of(x)
    seen = [i for i in order if x.shape[i] != 1]
    said = "".join(letters[i] for i in seen)
    if "b" not in letters and "c" in said and said[-1] != "c":
        said = said[: said.index("c")].replace("n", "b") + said[said.index("c") :]
    groups = [tuple(i for i, s in zip(seen, said, strict=True) if s == letter) for letter in "bcn"]
    flat = all(list(g) == sorted(g) for g in groups[:2])
    if not (flat and said in ("".join(sorted(said)), _channels_last(said))):
        order = tuple(sorted(range(x.ndim), key=lambda i: (letters[i], i)))
        said = "".join(sorted(letters[i] for i in seen))
        groups = [tuple(i for i in seen if letters[i] == letter) for letter in "bcn"]
    b, c, n = (int(np.prod([x.shape[i] for i in g], dtype=np.int64)) for g in groups)
    return order, Cells(b, c, n, c > 1 and (n == 1 or said != "".join(sorted(said))))


def _channels_last(said: str) -> str:
    return "".join(sorted(said, key="bnc".index))
