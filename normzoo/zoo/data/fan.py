"""Frequency adaptive normalization of time series: their strongest Fourier components are removed, and restored."""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from normzoo.backends.contract import Array
from normzoo.passes.cells import Beyond, Pass
from normzoo.passes.cells import Pull as CellPull
from normzoo.passes.numbers import check_size
from normzoo.passes.numpy_threads import in_blocks
from normzoo.passes.saved import Pull, Saved
from normzoo.zoo.data.reversible import Reversible, Taken, taken_of

TRANSFORMED = 1 << 16  # values of a block
ROUNDING = {8: 1e-13, 4: 1e-6}  # by bytes: what magnitudes may be off, as a part of the largest


class FAN(Reversible):
    """Frequency adaptive normalization of time series: their strongest Fourier components are removed, and restored.

    Formula:
        norm(x):         y = x - main
        norm.inverse(f): z = f + main
        with main the part of x that the top_k strongest components of its Fourier transform over the time steps make,
        of one channel of one series; frequency 0, the mean, is one of the components. `inverse` uses the main part of
        the last norm(x), or the forecast that it is given as main.

    Shapes:
        x, y: (N, T, C); with channel_axis=1, (N, C, T). f, z, main: as x, with any number of time steps.

    Args:
        num_features: C.
        top_k: how many components are removed, of each channel; of T time steps there are T // 2 + 1.
        channel_axis: the axis of the channels, -1 or 1.

    Raises:
        ValueError: x has another number of channels, not rank 3, or fewer components than top_k; f has another number
            of time steps than x, and main is not given, or does not fit f. RuntimeError: inverse was called before any
            norm(x). TypeError: an array is not a float array.

    float32 and 16-bit values are transformed in float32, less the first value of their series. Where rounding could
    decide which components are the strongest, float64 does.

    Which components are the strongest is a constant in the gradient, which is the same projection: dx is dy without
    these components. In the paper a small network forecasts the main part to come from that of x: `main` has this.
    The backward pass of `inverse` is that of `RevIN`: norm.saved_inverse.backward(dz) has the gradients of f (x), of
    the x whose main part was restored (source), and of what was given (main).

    Source:
        W. Ye, S. Deng, Q. Zou and N. Gui, "Frequency Adaptive Normalization For Non-stationary Time Series
        Forecasting", 2024, arXiv:2409.20371 (top_k 20).

    >>> import numpy as np, normzoo as nz
    >>> norm = nz.FAN(1, top_k=1)
    >>> y = norm(np.array([[[10], [12], [11], [11]]], np.float32))
    >>> y.ravel(), norm.inverse(y).ravel()
    (array([-1.,  1.,  0.,  0.], dtype=float32), array([10., 12., 11., 11.], dtype=float32))
    """

    def __init__(self, num_features: int, top_k: int = 20, *, channel_axis: int = -1) -> None:
        self._begin(num_features)
        super().__init__(num_features, eps=0.0, weight=False, bias=False)
        self.top_k = check_size(self, "top_k", top_k, least=1)
        self._turn(channel_axis)

    def check(self, x: Array, **inputs: Array) -> None:
        super().check(x)
        steps = self.steps(x)
        if steps and steps // 2 + 1 < self.top_k:
            raise ValueError(
                f"{self}: expected x of {2 * self.top_k - 2} time steps or more, which have {self.top_k} components, "
                f"got {x.shape}; write top_k={steps // 2 + 1} or less"
            )

    def letters(self, x: Array) -> str:
        return "bcn" if self.channel_axis % 3 == 1 else "bnc"

    def by_cells(self, cells: Pass, params: Mapping[str, Array]) -> CellPull:
        b, c, n, last = cells.dims
        components = n // 2 + 1
        kept = np.empty((b, components, c) if last else (b, c, components), bool)
        parts = Transforms(2 - last, self.top_k, n)

        def write(i: slice) -> None:
            parts.write(natural(cells, -1)[i], kept[i], natural(cells)[i], cells.dtype, True)

        in_blocks(write, b, c * n, TRANSFORMED)
        by_time = kept if last else kept.swapaxes(1, 2)
        cells.keep(Main(type(self), n, by_time, cells.values(self.label)))

        def pull(cells: Pass) -> dict[str, Array]:
            def back(i: slice) -> None:
                parts.write(natural(cells, 0)[i], kept[i], natural(cells)[i], cells.dtype, False)

            in_blocks(back, b, c * n, TRANSFORMED)
            return {}

        return pull

    def compute(self, x: Array, params: Mapping[str, Array], **inputs: Array) -> tuple[Array, Pull]:
        axis = self.channel_axis
        v = np.moveaxis(x, axis, 2)
        spectrum = np.fft.rfft(v, axis=1)
        taken = Main(type(self), v.shape[1], strongest(spectrum, self.top_k), lambda: v)

        def pull(dy: Array) -> dict[str, Array]:
            d = np.moveaxis(dy, axis, 2)
            return {"x": np.moveaxis(d - taken.back(d), 2, axis)}

        taken.pull = pull
        return np.moveaxis(v - taken.main, 2, axis), taken

    def main(self, saved: Saved | None = None) -> Array:
        """The main part of the last x, or of the one of `saved`: float64, as x."""
        taken = taken_of(self.saved if saved is None else saved)
        if not isinstance(taken, Main):
            raise RuntimeError(f"{self}: expected a forward pass with values before; write y = norm(x) first")
        return np.moveaxis(taken.main, 2, self.channel_axis).copy()

    def replaces(self, f: tuple[int, int, int], taken: Any) -> Mapping[str, tuple[int, int, int]]:
        return {"main": f}

    def needs(self, f: tuple[int, int, int], taken: Any) -> str | None:
        return None if f[1] == taken.steps else f"expected f of {taken.steps} time steps, as x, or main= of those of f"

    def restore(self, f: Array, taken: "Main", **given: Array) -> tuple[Array, Pull]:
        main = given.get("main", taken.main)

        def pull(dz: Array) -> dict[str, Array]:
            if given:
                return {"x": dz, "main": dz, "source": np.zeros(taken.main.shape)}
            return {"x": dz, "source": taken.back(dz)}

        return f + main, pull

    def _options(self) -> dict[str, Any]:
        return {"top_k": self.top_k, "channel_axis": self.channel_axis}


class Main(Taken):
    """Which components were removed, (N, T // 2 + 1, C), and what makes x, (N, T, C)."""

    def __init__(self, owner: type, steps: int, kept: Array, values: Callable[[], Array]) -> None:
        self.owner, self.series, self.steps, self.kept, self._values = owner, len(kept), steps, kept, values

    @cached_property
    def main(self) -> Array:
        """(N, T, C)"""
        return self.back(self._values())

    def back(self, d: Array) -> Array:
        """The same projection of d, which is its own transpose."""
        return np.fft.irfft(np.where(self.kept, np.fft.rfft(d, axis=1), 0), self.steps, axis=1)


def strongest(spectrum: Array, top_k: int) -> Array:
    """Which components are, along axis 1: of equal ones those of low frequency."""
    rank = np.argsort(-np.abs(spectrum), axis=1, kind="stable")
    kept = np.zeros(spectrum.shape, bool)
    np.put_along_axis(kept, rank[:, :top_k], True, axis=1)
    return kept


# -- blocks of series, in the type that is computed in


def natural(cells: Pass, i: int | None = None) -> Array:
    """An array, or the result, as it lies: (b, n, c), or (b, c, n)."""
    v = cells.channels_first(i)
    return v.swapaxes(1, 2) if cells.dims.last else v


class Transforms(NamedTuple):
    """Series along an axis of three."""

    axis: int
    top_k: int
    steps: int

    def write(self, v: Array, kept: Array, y: Array, dtype: np.dtype, finds: bool) -> None:
        """y = v without the components that are kept or, where it `finds` them, that are the strongest."""
        from scipy import fft  # noqa: PLC0415  at first use, as special functions are

        pivot = self._at(v, 0).astype(dtype)
        spectrum = fft.rfft(v - pivot, axis=self.axis, overwrite_x=True)
        if finds:
            self._find(v, spectrum, pivot, kept)
        np.copyto(spectrum, 0, where=kept)
        rest = fft.irfft(spectrum, self.steps, axis=self.axis, overwrite_x=True)
        rest += np.where(self._at(kept, 0), 0, pivot)
        y[...] = rest

    def _at(self, v: Array, i: int) -> Array:
        return v[:, i : i + 1] if self.axis == 1 else v[..., i : i + 1]

    def _find(self, v: Array, spectrum: Array, pivot: Array, kept: Array) -> None:
        power = spectrum.real**2
        power += spectrum.imag**2
        sharp = np.sqrt(power.max(axis=self.axis, keepdims=True).astype(np.float64))
        self._at(power, 0)[...] = (self._at(spectrum, 0).real + self.steps * pivot) ** 2
        ranked = np.array(np.moveaxis(power, self.axis, -1), order="C")
        first = ranked.shape[-1] - self.top_k
        ranked.partition(first, axis=-1)
        if not np.isfinite(ranked[..., first:].max(axis=-1)).all():
            raise Beyond
        least = ranked[..., first]
        np.greater_equal(power, np.expand_dims(least, self.axis), out=kept)
        if not first:
            return
        one, next_one = (np.sqrt(a.astype(np.float64)) for a in (least, ranked[..., :first].max(axis=-1)))
        close = one - next_one <= ROUNDING[power.dtype.itemsize] * (sharp.reshape(one.shape) + one)
        where = np.nonzero(close)
        if len(where[0]):
            series = np.moveaxis(v, self.axis, -1)[where].astype(np.float64)
            np.moveaxis(kept, self.axis, -1)[where] = strongest(np.fft.rfft(series, axis=1), self.top_k)
