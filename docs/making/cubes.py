"""Which values share their statistics, and the view (b, m, c, n), of every norm: drawn and written from its `axes`.

The drawing is that of "Group Normalization" (Wu and He, 2018, figure 2): a block of N samples, C channels and S
positions, in which the values of one set are blue. Of weights the axes are outputs, inputs and kernel.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Self

import numpy as np

import normzoo as nz
from normzoo.exchange.registry import _classes
from normzoo.passes.view import KINDS, Axes, fit_sizes

N, C, S, G = 4, 6, 5, 2  # samples, channels, positions, groups
BLUE, PALE, EDGE = "#2f6fb2", "#dfe7f0", "#8793a1"

# How a norm is made for x of shape (N, C, S): its arguments as they are shown, the names of x's axes, and a function.
# What is not here takes the number of channels. T are the tokens of a sample, H heads of D values.
MAKE: dict[str, tuple[str, Callable[..., nz.Norm]]] = {
    "ada_norm": ("C", "N T C", lambda **o: nz.AdaNorm(S, **o)),
    "adaptive_instance_norm": ("", "N C S", nz.AdaptiveInstanceNorm),
    "adaptive_layer_norm": ("C", "N T C", lambda **o: nz.AdaptiveLayerNorm(S, **o)),
    "ada_ln_zero": ("C", "N T C", lambda **o: nz.AdaLNZero(S, **o)),
    "conditional_batch_norm": ("C, 10", "N C S", lambda **o: nz.ConditionalBatchNorm(C, 10, **o)),
    "conditional_instance_norm": ("C, 10", "N C S", lambda **o: nz.ConditionalInstanceNorm(C, 10, **o)),
    "domain_batch_norm": ("C, 3", "N C S", lambda **o: nz.DomainBatchNorm(C, 3, **o)),
    "ghost_batch_norm": ("C, G", "N C S", lambda **o: nz.GhostBatchNorm(C, G, **o)),
    "group_norm": ("G, C", "N C S", lambda **o: nz.GroupNorm(G, C, **o)),
    "group_rms_norm": ("G, C", "N C S", lambda **o: nz.GroupRMSNorm(G, C, **o)),
    "head_layer_norm": ("H, D", "N H D", lambda **o: nz.HeadLayerNorm(C, S, **o)),
    "head_rms_norm": ("H, D", "N H D", lambda **o: nz.HeadRMSNorm(C, S, **o)),
    "l2_norm": ("C", "N T C", lambda **o: nz.L2Norm(S, **o)),
    "layer_norm": ("(C, S)", "N C S", lambda **o: nz.LayerNorm((C, S), **o)),
    "mean_variance_norm": ("(0, 2)", "N C S", lambda **o: nz.MeanVarianceNorm((0, 2), **o)),
    "observation_norm": ("C", "N T C", lambda **o: nz.ObservationNorm(S, **o)),
    "pixel_norm": ("", "N C S", nz.PixelNorm),
    "pop_art": ("C", "N T C", lambda **o: nz.PopArt(S, **o)),
    "positional_norm": ("", "N C S", nz.PositionalNorm),
    "rms_norm": ("C", "N T C", lambda **o: nz.RMSNorm(S, **o)),
    "scale_norm": ("1.0", "N T C", lambda **o: nz.ScaleNorm(1.0, **o)),
    "scaled_weight_standardization": ("out", "out in k", lambda **o: nz.ScaledWeightStandardization(N, **o)),
    "standardize": ("C", "N T C", lambda **o: nz.Standardize(S, **o)),
    "unit_norm": ("", "N T C", nz.UnitNorm),
    "weight_norm": ("(out, in, k)", "out in k", lambda **o: nz.WeightNorm((N, C, S), **o)),
    "weight_standardization": ("", "out in k", nz.WeightStandardization),
}


class Drawn(NamedTuple):
    """A norm of the algebra, and which values of x share their statistics."""

    arguments: str  # as its constructor takes them
    norm: nz.Norm
    names: list[str]  # of the axes of x
    numbers: np.ndarray  # (N, C, S): values of one number are one set
    view: str  # (b, m, c, n) of x, its axes in this order
    last: str  # ... of x (N, S, C), where the norm takes channels last; else ""

    @property
    def set_of_corner(self) -> np.ndarray:
        return self.numbers == self.numbers[0, -1, -1]

    @property
    def key(self) -> str:
        """Norms with the same key have the same drawing."""
        return f"{int.from_bytes(np.packbits(self.set_of_corner).tobytes(), 'big'):x}"


def drawn(name: str) -> Drawn | None:
    """None: the norm does not fit the view, or has no statistics."""
    arguments, letters, make = MAKE.get(name, ("C", "N C S", lambda **o: nz.create(name, C, **o)))
    names = letters.split()
    kind = _classes()[name]
    if kind.axes is nz.Norm.axes:
        return None
    norm = make()
    if not norm.moments.power:
        return None
    axes = norm.axes(np.zeros((N, C, S), np.float32))
    last = ""
    if getattr(norm, "channel_axis", None) == 1:
        last = view(make(channel_axis=-1).axes(np.zeros((N, S, C), np.float32)), ["N", "S", "C"]) or ""
    return Drawn(arguments, norm, names, sets(axes, (N, C, S)), view(axes, names) or "", last)


def sets(axes: Axes, shape: tuple[int, ...]) -> np.ndarray:
    """The number of its set for every value of an array of `shape`."""
    kept = [size if letter in "kK" else 1 for size, letter in zip(axes.shape, axes.letters, strict=True)]
    numbers = np.arange(np.prod(kept)).reshape(kept)
    return np.broadcast_to(numbers, axes.shape).reshape(shape)


class Product(NamedTuple):
    """A size, and the pieces of axes that it is the product of: (position, name) of each."""

    size: int
    pieces: tuple[tuple[int, str], ...]

    def __mul__(self, other: Any) -> Self:
        if isinstance(other, int):  # 1, from which products start
            return self
        return type(self)(self.size * other.size, tuple(sorted(self.pieces + other.pieces)))

    __rmul__ = __mul__

    def __eq__(self, other: object) -> bool:
        return self.size == (other if isinstance(other, int) else getattr(other, "size", None))

    def __gt__(self, other: Any) -> bool:
        return self.size > other

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return "·".join(name for _, name in self.pieces)


def view(axes: Axes, names: list[str]) -> str | None:
    """(b, m, c, n) in letters: G is the number of groups, and C/G the size of one. None: x has to be copied for it."""
    owner = axes.owner or tuple(range(len(names)))
    pieces = []
    for i, size in enumerate(axes.shape):
        name = names[owner[i]]
        if owner.count(owner[i]) > 1:
            name = "G" if owner.index(owner[i]) == i else f"{name}/G"
        pieces.append(Product(size, ((i, name),)))
    fits, dims, _ = fit_sizes(tuple(KINDS.index(letter) for letter in axes.letters), tuple(pieces))  # type: ignore[arg-type]
    return f"({', '.join(map(str, dims))})" if fits else None


def svg(blue: np.ndarray, title: str, names: list[str]) -> str:
    """A block (N, C, S) seen from its front, top and right side: channels to the right, samples into the depth."""
    (n, c, s), (deep, across, up) = blue.shape, names
    unit, dx, dy = 14.0, 7.0, 5.5  # a value's edge, and how far the next sample is to the right and up
    height = s * unit + n * dy

    def corner(i: float, j: float, k: float) -> str:  # sample, channel, position
        return f"{4 + j * unit + i * dx:.1f},{4 + height - k * unit - i * dy:.1f}"

    def side(own: bool, *points: tuple[float, float, float]) -> tuple[bool, tuple]:
        return bool(own), points

    faces = []
    for j, k in np.ndindex(c, s):  # front, top, right
        faces.append(side(blue[0, j, k], (0, j, k), (0, j + 1, k), (0, j + 1, k + 1), (0, j, k + 1)))
    for i, j in np.ndindex(n, c):
        faces.append(side(blue[i, j, -1], (i, j, s), (i, j + 1, s), (i + 1, j + 1, s), (i + 1, j, s)))
    for i, k in np.ndindex(n, s):
        faces.append(side(blue[i, -1, k], (i, c, k), (i + 1, c, k), (i + 1, c, k + 1), (i, c, k + 1)))
    paths = ""
    for color, wanted in ((PALE, False), (BLUE, True)):
        outline = "".join(
            f"M{' L'.join(corner(*point) for point in points)}Z" for own, points in faces if own is wanted
        )
        paths += f'<path d="{outline}" fill="{color}" stroke="{EDGE}" stroke-width=".7" stroke-linejoin="round"/>'
    width = c * unit + n * dx + 8
    words = (
        (across, 4 + c * unit / 2, height + 17, "middle"),
        (deep, 6 + c * unit + n * dx / 2, height + 10 - n * dy / 2, "start"),
        (up, 8 + c * unit + n * dx, height - n * dy - s * unit / 2 + 8, "start"),
    )
    text = "".join(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{a}">{word}</text>' for word, x, y, a in words)
    box = f"0 0 {width + 14:.0f} {height + 22:.0f}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" role="img"><title>{title}</title>{paths}'
        f'<g font-family="sans-serif" font-size="10" fill="#7a8490">{text}</g></svg>'
    )
