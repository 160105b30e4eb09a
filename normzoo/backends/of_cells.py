"""What a backend does besides: of cells, data, lines and images. `contract.py` has the passes over views, and says what
holds of arrays."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from normzoo.backends.forms import (
    Cells,
    Following,
    Formula,
    Level,
    Lines,
    Pixels,
    Rescaling,
    Sliding,
    Summary,
    Twice,
)

Array = np.ndarray[Any, Any]
Volume = tuple[int, int, int]
Pass = Callable[..., None]


def lacking(backend: object) -> NotImplementedError:
    return NotImplementedError(f"{type(backend).__name__} computes only views")


class OfCells(Protocol):
    """Part of `Backend`."""

    # Cells.

    def cells(
        self, dims: Cells, formula: Formula | Twice, spans: tuple[str, ...], dtype: np.dtype, store: np.dtype
    ) -> Callable[..., list[Array]]:
        """run(arrays, coefficients, results) -> sums, float64 of shape (b or 1, c or 1). Coefficients are float64
        of such shapes too, named by `spans` as in `Formula.sums`; they are rounded to `dtype`. A result may be one of
        the arrays. Of formulas `Twice` the sums are those of the first.

        Raises:
            ValueError: for two formulas, where the sums are not those of sets, or a set is too large."""
        raise lacking(self)

    def largest(self, dims: Cells, k: int, store: np.dtype) -> Callable[[Array, Array], tuple[Array, Array]]:
        """run(x, center) -> (channels, places): where the k values of each channel lie that are furthest from its
        center, (c,) float64; of equal distances the first in memory. int64, in order, places of x as it lies; where
        distances are NaN there may be fewer."""
        raise lacking(self)

    def level(self, dims: Cells, form: Level, dtype: np.dtype, store: np.dtype) -> Callable[..., tuple[Array, bool]]:
        """run(x, maps, weight, bias, y) -> (3, b, c) float64: level, deviation and, with maps, sum(d), see `Level`; and
        whether all that was found is far from the ends of `dtype`. maps lie as one b of x; weight, bias are (c,)."""
        raise lacking(self)

    def level_back(self, dims: Cells, form: Level, dtype: np.dtype, store: np.dtype) -> Callable[..., Any]:
        """run(dy, x, maps, weight, stats, dx) -> (2, b, c) float64: sums of dy * d / std and of dy; the gradient of
        maps or None; and whether all is far from the ends, likewise."""
        raise lacking(self)

    # Data, likewise.

    def summarize(self, columns: int, summary: Summary, store: np.dtype) -> Callable[..., Array]:
        """run(x, pitch, parts, order, weights) -> (parts, 3, columns) float64: for each column of each part count, mean
        and m2 = sum of weight * (value - mean)^2; or how many are no NaN, the least and the largest of them, inf and
        -inf where there are none. x is of any size; row i are the `columns` values from i * pitch on. A part, of (p, 2)
        int64, is a first row and a number of rows; with `picks` row i is order[i], int64, in its place. The count is a
        sum of weights, float64 of as many rows, with `weighs`; else neither of the two is read."""
        raise lacking(self)

    def rescale(self, dims: Volume, store: np.dtype, how: Rescaling) -> Callable[..., bool]:
        """run(x, chosen, numbers, y): y = (x - shift) * scale + offset in float64, of (rows, columns); returns whether
        all of x is finite. y may be x. dims are rows, columns, sets; numbers are (3, sets, columns) float64, or (3,
        sets, 1) if they are those of a row; where y is clipped there are two more, the least and the largest y. Row i
        has the numbers of set chosen[i], int64; if there is no `chosen`, of set 0 or, if they are those of a row, i %
        sets."""
        raise lacking(self)

    def groups(
        self, starts: Array, c: int, formula: Formula, dtype: np.dtype, store: np.dtype
    ) -> Callable[..., list[Array]]:
        """As `cells` with channels last, but that the b have different sizes: rows starts[i] to starts[i + 1] of c
        values are those of the i-th. starts is int64, every size 1 or more, as those of the graphs of a batch are."""
        raise lacking(self)

    # Scans of lines, likewise: x is (b, t, n) or, with time last, (b, n, t), and each of the b * n lines has a state.

    def follow(self, dims: Lines, form: Following, dtype: np.dtype, store: np.dtype) -> Callable[..., Array]:
        """run(x, numbers, state, before, y) -> states: y by `Following`. `numbers` are (2, n) float64, weight and bias,
        or (3, n), gain, bias and power; `state`, (2, b, n) float64, mean and var after `before` steps, is read and
        written; states are what the way back needs."""
        raise lacking(self)

    def follow_back(self, dims: Lines, form: Following, dtype: np.dtype, store: np.dtype) -> Callable[..., Array]:
        """run(dy, x, numbers, states, dx) -> gradients of `numbers`, of a pass that began with the first step."""
        raise lacking(self)

    def slide(self, dims: Lines, form: Sliding, dtype: np.dtype, store: np.dtype) -> Callable[..., None]:
        """run(x, numbers, first, y): y by `Sliding`, numbers as above. x begins with step `first` of its lines: bits
        are those of lines that are whole, where a window is."""
        raise lacking(self)

    def slide_back(self, dims: Lines, form: Sliding, dtype: np.dtype, store: np.dtype) -> Callable[..., Array]:
        """run(dy, x, numbers, dx) -> gradients of `numbers`, of lines that are whole."""
        raise lacking(self)

    # Images of whole numbers of 8 or 16 bits, `store`; all numbers beside them are float64.

    def pixel_sums(self, dims: Pixels, store: np.dtype, extremes: bool) -> Callable[[Array, float, float], Array]:
        """run(x, low, high) -> (2, b, c) float64: sum and sum of squares of min(max(x, low), high), which are whole, or
        least and largest."""
        raise lacking(self)

    def pixels(self, dims: Pixels, store: np.dtype, result: np.dtype) -> Pass:
        """run(x, mean, slope, bounds, y): y = (min(max(x, low), high) - mean) * slope, rounded to float32, between
        -limit and limit. mean and slope are (b or 1, c); bounds are low, high and limit. y is float32, or is rounded
        again to float16 or bfloat16."""
        raise lacking(self)

    def pixels_of_own(
        self, dims: Pixels, store: np.dtype, result: np.dtype, extremes: bool, joined: bool
    ) -> Callable[..., None] | None:
        """run(x, bounds, eps, y): the two at once, with mean and slope of each channel of each image or, `joined`, of
        each image: mean and 1 / (deviation + eps), or least and 1 / (largest - least + eps); 0 for 1 / 0. low and high
        are whole. None: where that is no faster."""
        return None
