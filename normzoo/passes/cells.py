"""Norms by cells: a formula of each value whose coefficients belong to the channel, to the sample or to both, and which
come of sums that a formula of each value has, too. A norm says what its axes are; `by_cells` runs what it does."""

from collections.abc import Callable, Mapping
from copy import copy, deepcopy
from typing import Any

import numpy as np

from normzoo.backends import chosen
from normzoo.backends.contract import Array, Backend
from normzoo.backends.forms import Cells, Formula, Level, Twice
from normzoo.backends.memory import empty
from normzoo.backends.samples import samples_of
from normzoo.passes.arrays import compute_dtype, kernel_array, storage_dtype
from normzoo.passes.attributes import Last
from normzoo.passes.cell_layout import cells_of, positions_of
from normzoo.passes.overlaps import may_overlap
from normzoo.passes.saved import Saved, changed
from normzoo.passes.view import inverse
from normzoo.passes.whole import Back, Order, now, whole

MOST = {8: 1e150, 4: 1e30}  # by bytes of the type: numbers that leave room for their products
LEAST = 1e-200  # of sums in float64: squares of smaller values than these vanish


class Beyond(Exception):
    """Numbers for which the kernels' types have no room, or none at all: the norm's definition computes these."""


class Pass:
    """Arrays of x's size as (b, c, n), forward x and what stands beside it, backward dy before these; and a result.

    Calling it with a formula and coefficients, each (b or 1, c or 1), writes what the formula writes and returns its
    sums; all in float64. `mean_and_var` are those of each cell.

    Attributes:
        exact: it is run by the definition in float64, whatever the numbers are.
        writes_over: the result lies where an array of the caller does.
    """

    exact = False
    writes_over = False  # the result may be an array that is read

    def __init__(
        self, backend: Backend, dims: Cells, arrays: tuple[Array, ...], result: Array, prepared: Any = None
    ) -> None:
        self.dims, self.dtype = dims, compute_dtype(arrays[0].dtype)
        self.result = result
        self._backend, self._arrays = backend, arrays
        self.kept: Any = None
        self._prepared, self._write = prepared, _nothing

    @property
    def sizes(self) -> Any:
        """How many values a cell has."""
        return self.dims.n

    def track(self, update: Any) -> None:
        """How buffers change when all is done; to be called before the first result is written."""
        if self._prepared is not None:
            self._write = self._prepared(update)

    def finish(self) -> None:
        self._write()

    def __call__(
        self, formula: Formula, *coefficients: Any, more: tuple[Array, ...] = (), upon: Array | None = None
    ) -> list[Array]:
        """`more`: results beside the first. `upon`: what is read before the others, the first of them or the result."""
        given = self._checked(coefficients)
        before = () if upon is None else (upon,)
        arrays = before + self._arrays[len(before) - formula.reads :]
        results = (self.result, *more)[: formula.writes]
        found = self._run(formula, spans_of(given), arrays[0].dtype)(arrays, given, results)
        return self._in_range(found, formula.wide)

    def twice(self, form: Twice, *coefficients: Any, more: tuple[Array, ...] = ()) -> list[Array]:
        """Two formulas, see `Twice`: at once, where a cache holds a set, or else one after the other. Returns the sums
        of the first."""
        given = self._checked(coefficients)
        arrays, results = self._arrays[-form.first.reads :], (self.result, *more)
        if not self.writes_over:  # where numbers are beyond the range, all is computed again
            try:
                run = self._backend.cells(self.dims, form, spans_of(given), self.dtype, arrays[0].dtype)
            except ValueError:
                pass
            else:
                return self._in_range(run(arrays, given, results), form.first.wide)
        found = self(form.first, *given)
        with np.errstate(all="ignore"):
            made = form.between(*found[: form.sums], *given[: form.numbers])
        self(form.second, *given, *made, more=more)
        return found

    def _checked(self, coefficients: tuple[Any, ...]) -> tuple[Array, ...]:
        given = tuple(np.array(a, np.float64, ndmin=2) for a in coefficients)
        most = MOST[self.dtype.itemsize]
        for a in given:
            if not (self.exact or (np.abs(a) < most).all()):
                raise Beyond
        return given

    def _in_range(self, found: list[Array], wide: bool) -> list[Array]:
        most, least = MOST[self.dtype.itemsize], LEAST if wide and self.dtype.itemsize == 8 else 0.0
        if not self.exact and not all(((np.abs(v) < most) & (np.abs(v) >= least)).all() for v in found):
            raise Beyond
        return found

    def _run(self, formula: Formula, spans: tuple[str, ...], store: np.dtype) -> Callable[..., list[Array]]:
        return self._backend.cells(self.dims, formula, spans, self.dtype, store)

    @property
    def first(self) -> Array:
        """x, or dy going back."""
        return self._arrays[0]

    def sliced(self, length: int) -> "Pass":
        """The same, where a cell is so many of its positions."""
        b, c, n, last = self.dims
        dims = Cells(b * (n // length), c, length, True) if last else Cells(b, c * (n // length), length, False)
        return Pass(self._backend, dims, self._arrays, self.result)

    def level(self, form: Level, weight: Array, bias: Array, maps: Array | None = None) -> Array:
        """Write each cell less its level, see `Level`; returns what was found of each, (3, b, c).

        Args:
            weight, bias: (c,). maps: (c, n).
        """
        x, (weight, bias) = self._arrays[-1], (np.ascontiguousarray(a, self.dtype) for a in (weight, bias))
        run = self._backend.level(self.dims, form, self.dtype, x.dtype)
        stats, is_near = run(x, self._as_values(maps), weight, bias, self.result)
        if not is_near:
            raise Beyond
        return stats

    def level_back(
        self, form: Level, stats: Array, weight: Array, maps: Array | None = None
    ) -> tuple[Array, Array | None]:
        """Write the gradient; returns (2, b, c), the sums of dy * d / std and of dy, and the gradient of maps."""
        dy, x = self._arrays[-2:]
        run = self._backend.level_back(self.dims, form, self.dtype, x.dtype)
        given = self._as_values(maps), np.ascontiguousarray(weight, self.dtype), stats
        sums, of_maps, is_near = run(dy, x, *given, self.result)
        if not is_near:
            raise Beyond
        return sums, of_maps.T if of_maps is not None and self.dims.last else of_maps

    def _as_values(self, maps: Array | None) -> Array:
        """As one sample of x lies."""
        if maps is None:
            return self._arrays[-1]
        return np.ascontiguousarray(maps.T if self.dims.last else maps, self.dtype)

    def array_like(self) -> Array:
        return empty(self._arrays[0].shape, self._arrays[0].dtype)

    def channels_first(self, i: int | None = None) -> Array:
        """A view of an array, or of the result, as (b, c, n)."""
        return positions_of(self.result if i is None else self._arrays[i], self.dims).swapaxes(1, 2)

    def first_channels(self, count: int) -> "Pass":
        """Of arrays that have these alone; there is one position."""
        b, c, _, last = self.dims
        cut = tuple(np.ascontiguousarray(a.reshape(b, c)[:, :count]) for a in self._arrays)
        return Pass(self._backend, Cells(b, count, 1, last), cut, cut[0])

    def split(self, a: Array) -> tuple[Array, Array]:
        """a as a number of the computing type, and what it lacks."""
        high = a.astype(self.dtype).astype(np.float64)
        return high, a - high

    def at_position(self, i: int) -> Array:
        """x there, (b, c)."""
        found: Array = positions_of(self._arrays[-1], self.dims)[:, i].astype(np.float64)
        return found

    def add_at_position(self, i: int, added: Any) -> None:
        """Add (b, c) to the result there."""
        positions_of(self.result, self.dims)[:, i] += np.asarray(added).astype(self.result.dtype)

    def deviations(self, owner: object, mean: Array, rstd: Array) -> Callable[[], Array]:
        """What makes (x - mean) * rstd in float64, as (b, n, c), from x, which must be as it was."""
        return deviations(owner, positions_of(self._arrays[-1], self.dims), mean, rstd)

    def values(self, owner: object) -> Callable[[], Array]:
        """What makes x in float64, as (b, n, c), where x is as it was."""
        x, dims = self._arrays[-1], self.dims  # and nothing that holds the result, which whoever keeps this would keep
        seen = samples_of(x, None)

        def found() -> Array:
            if samples_of(x, None) != seen:
                raise changed(owner, "x")
            return positions_of(x, dims).astype(np.float64, order="C")

        return found

    def keep(self, thing: Any) -> None:
        """Leave this for whoever has the `Saved`."""
        self.kept = thing

    def mean_and_var(self) -> tuple[Array, Array]:
        """Of each cell: around its first value, which is no further from the mean than all deviations together."""
        first, n = self.at_position(0), self.sizes
        if np.ndim(n) == 0 and n == 1:
            return first, np.zeros_like(first)
        total, squares = self(AROUND, first)
        mean = total / n
        return first + mean, np.maximum(squares / n - mean * mean, 0.0)


def summing(x: Array, letters: str) -> Pass:
    """A pass over x alone, for formulas that write nothing."""
    axes, dims = cells_of(x, letters)
    v = Order(axes, storage_dtype(x.dtype, compute_dtype(x.dtype))).read(x)
    return Pass(now(), dims, (v,), v)


def deviations(owner: object, x: Array, mean: Array, rstd: Array) -> Callable[[], Array]:
    """What makes (x - mean) * rstd in float64, of x (b, n, c), which must be as it was, and statistics (b, c)."""
    seen = samples_of(x, None)

    def found() -> Array:
        if samples_of(x, None) != seen:
            raise changed(owner, "x")
        v: Array = (x - mean[:, None]) * rstd[:, None]
        return v

    return found


def is_by_definition() -> bool:
    """Is the definition of a norm asked for?"""
    return chosen() == "reference"


def _nothing() -> None:
    """No buffers change."""


def _around(x: Any, first: Any) -> tuple[Any, ...]:
    v = x - first
    return v, v * v


AROUND = Formula(_around, 1, 0, ("bc", "bc"), wide=True)
Pull = Callable[[Pass], Mapping[str, Array]]


def spans_of(coefficients: tuple[Array, ...]) -> tuple[str, ...]:
    return tuple("b" * (len(a) > 1) + "c" * (a.shape[1] > 1) for a in coefficients)


def _squared(x: Any) -> tuple[Any, ...]:
    return (x * x,)


def squares(axes: str) -> Formula:
    """The sum of squares, in float64, which keeps these axes."""
    return Formula(_squared, 1, 0, (axes,), wide=True)


def by_cells(
    norm: Any, x: Array, out: Array | None, inputs: Mapping[str, Array], prepared: Callable[[Any], Any] | None
) -> tuple[Array, Saved] | None:
    """y and the `Saved` of a norm that has `letters` and `by_cells`; None where its definition is to compute them.

    Args:
        inputs: arrays of x's shape beside it.
        prepared: makes of an update of buffers what writes them.
    """
    norm = deepcopy(norm) if norm.buffers else copy(norm)  # its definition, too, goes back with the buffers of now
    norm._last = Last(
        norm.label
    )  # or what this pass leaves would hold itself, and wait for Python's garbage collection
    letters = norm.letters(x)
    if not letters or not x.size or is_by_definition():
        return None
    axes, dims = cells_of(x, letters)
    arguments = norm.params | inputs
    params = {name: p.astype(np.float64) for name, p in norm.params.items()}
    store = storage_dtype(x.dtype, compute_dtype(x.dtype, *(a.dtype for a in arguments.values())))
    others = tuple(Order(axes, store).read(a) for a in inputs.values())

    kept: list[Any] = []

    def forward(backend: Backend, v: Array, y: Array) -> Back:
        there = Pass(backend, dims, (v, *others), y, prepared)
        there.writes_over = out is not None and any(may_overlap(out, a) for a in (x, *inputs.values()))
        try:
            pull = norm.by_cells(there, params)
        except Beyond:
            if may_overlap(y, x):  # the definition reads x
                y[...] = v
            raise
        there.finish()
        kept.append(there.kept)

        def back(backend: Backend, d: Array, v: Array, dx: Array) -> Mapping[str, Array]:
            beside = tuple(kernel_array(a, v.dtype) for a in others)
            try:
                found = dict(pull(Pass(backend, dims, (d, v, *beside), dx)))
            except Beyond:
                found = _by_definition(norm, params, tuple(inputs), (axes, d, v, *beside), dx)
                return {name: np.reshape(g, arguments[name].shape) for name, g in found.items()}
            shape = tuple(x.shape[i] for i in axes)
            for name in inputs:
                found[name] = found[name].reshape(shape).transpose(inverse(axes))
            return {name: np.reshape(g, arguments[name].shape) for name, g in found.items()}

        return back

    try:
        y, saved = whole(norm, x, out, axes, forward, arguments, dict(zip(inputs, others, strict=True)))
    except Beyond:
        return None
    saved.kept = kept[0]
    return y, saved


def _by_definition(
    norm: Any, params: Mapping[str, Array], names: tuple[str, ...], given: tuple[Any, ...], dx: Array
) -> dict[str, Array]:
    """The gradients by the norm's formula in NumPy."""
    axes, *arrays = given
    d, v, *inputs = (np.array(a.transpose(inverse(axes)), np.float64, order="C") for a in arrays)
    _, pull, *_ = norm.compute(v, params, **dict(zip(names, inputs, strict=True)))
    found = dict(pull(d))
    dx[...] = found.pop("x").transpose(axes)
    return found
