"""Slice-level adaptive normalization of time series: every slice of steps by its own mean and deviation."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from normzoo.backends.contract import Array
from normzoo.backends.forms import Level
from normzoo.passes.affine import TINY
from normzoo.passes.cells import Pass
from normzoo.passes.cells import Pull as CellPull
from normzoo.passes.formulas import centered, reciprocal, unit
from normzoo.passes.numbers import check_size
from normzoo.passes.saved import Pull, Saved
from normzoo.zoo.data.reversible import Reversible, Taken, taken_of


class SAN(Reversible):
    """Slice-level adaptive normalization of time series: every slice of steps by its own mean and deviation.

    Formula:
        norm(x):         y = (x - mean) / (std + eps)
        norm.inverse(f): z = f * (std + eps) + mean
        with mean and (biased) std of every slice of slice_length steps, of one channel of one series. `inverse` uses
        those of the last norm(x), or the forecasts that it is given as mean and std.

    Shapes:
        x, y: (N, T, C); with channel_axis=1, (N, C, T); T is a multiple of slice_length.
        f, z: as x, with any such number of time steps T'. mean, std: (N, T' / slice_length, C), or with channels first.

    Args:
        num_features: C.
        slice_length: time steps of a slice.
        eps: added to the deviation, in the units of x.
        channel_axis: the axis of the channels, -1 or 1.

    Raises:
        ValueError: x has another number of channels, not rank 3, or no whole number of slices; f has another number of
            slices than x, and mean and std are not given; or these do not fit f. RuntimeError: inverse was called
            before any norm(x). TypeError: an array is not a float array, or mean is given without std.

    In the paper a small network forecasts mean and std of the slices to come from those of x: `statistics` has these.
    The backward pass is that of `RevIN`: norm.saved_inverse.backward(dz) has the gradients of f (x), of the x whose
    statistics were restored (source), and of what was given (mean, std).

    Source:
        Z. Liu, M. Cheng, Z. Li, Z. Huang, Q. Liu, Y. Xie and E. Chen, "Adaptive Normalization for Non-stationary Time
        Series Forecasting: A Temporal Slice Perspective", 2023, https://openreview.net/forum?id=5BqDSw8r5j. Its
        formulas have the biased variance; its code divides by slice_length - 1.

    >>> import numpy as np, normzoo as nz
    >>> norm = nz.SAN(1, 2)
    >>> y = norm(np.array([[[1], [3], [100], [300]]], np.float32))
    >>> y.round(2).ravel(), norm.inverse(y).round(2).ravel()
    (array([-1.,  1., -1.,  1.], dtype=float32), array([  1.,   3., 100., 300.], dtype=float32))
    """

    def __init__(self, num_features: int, slice_length: int, eps: float = 1e-5, *, channel_axis: int = -1) -> None:
        self._begin(num_features)
        super().__init__(num_features, slice_length, eps=eps, weight=False, bias=False)
        self.slice_length = check_size(self, "slice_length", slice_length, least=1)
        self._turn(channel_axis)

    def check_series(self, x: Array) -> None:
        super().check_series(x)
        steps = self.steps(x)
        if steps % self.slice_length:
            least = steps - steps % self.slice_length
            raise ValueError(
                f"{self}: expected a number of time steps that is a multiple of {self.slice_length}, got x of shape "
                f"{x.shape}; write the last {least} steps"
            )

    def letters(self, x: Array) -> str:
        return "" if self.slice_length <= TINY else "bcn" if self.channel_axis % 3 == 1 else "bnc"

    def by_cells(self, cells: Pass, params: Mapping[str, Array]) -> CellPull:
        length = self.slice_length
        slices, form = cells.sliced(length), Level(False, True, length, self.eps)
        one, last = np.ones(slices.dims.c), slices.dims.last
        stats = slices.level(form, one, np.zeros(slices.dims.c))
        n, c = cells.dims.b, cells.dims.c

        def of_slices(a: Array) -> Array:
            """(N, slices, 1, C)"""
            return a.reshape(n, -1, 1, c) if last else a.reshape(n, c, -1, 1).transpose(0, 2, 3, 1)

        mean, std = (of_slices(a) for a in stats[:2])
        values = cells.values(self.label)
        cells.keep(OfSlices(type(self), mean, std, lambda: values().reshape(n, -1, length, c) - mean))

        def pull(cells: Pass) -> dict[str, Array]:
            cells.sliced(length).level_back(form, stats, one)
            return {}

        return pull

    def compute(self, x: Array, params: Mapping[str, Array], **inputs: Array) -> tuple[Array, Pull]:
        axis, length = self.channel_axis, self.slice_length
        v = np.moveaxis(x, axis, 2)
        v = v.reshape(len(v), -1, length, v.shape[2])  # (N, slices, steps, C)
        mean, deviation = centered(v, 2)
        one = unit(deviation, 2)
        scaled = deviation if (one == 1).all() else deviation * one
        std = np.sqrt((scaled * scaled).mean(axis=2, keepdims=True)) / one
        taken = OfSlices(type(self), mean, std, deviation)
        rstd = reciprocal(std + self.eps)

        def pull(dy: Array) -> dict[str, Array]:
            g = np.moveaxis(dy, axis, 2).reshape(v.shape) * rstd
            dstd = -(g * deviation).sum(axis=2, keepdims=True) * rstd
            dx = g + taken.back(-g.sum(axis=2, keepdims=True), dstd)
            return {"x": np.moveaxis(dx.reshape(len(v), -1, v.shape[3]), 2, axis)}

        taken.pull = pull
        return np.moveaxis((deviation * rstd).reshape(len(v), -1, v.shape[3]), 2, axis), taken

    def statistics(self, saved: Saved | None = None) -> tuple[Array, Array]:
        """mean and std of the slices of the last x, or of the one of `saved`: float64, (N, slices, C), or with channels
        first."""
        taken = taken_of(self.saved if saved is None else saved)
        if not isinstance(taken, OfSlices):
            raise RuntimeError(f"{self}: expected a forward pass with values before; write y = norm(x) first")
        mean, std = (np.moveaxis(a[:, :, 0], 2, self.channel_axis).copy() for a in (taken.mean, taken.std))
        return mean, std

    def replaces(self, f: tuple[int, int, int], taken: Any) -> Mapping[str, tuple[int, int, int]]:
        shape = f[0], f[1] // self.slice_length, f[2]
        return {"mean": shape, "std": shape}

    def needs(self, f: tuple[int, int, int], taken: Any) -> str | None:
        slices = taken.mean.shape[1]
        if f[1] == slices * self.slice_length:
            return None
        return f"expected f of {slices} slices, as x, or mean= and std= of the {f[1] // self.slice_length} slices of f"

    def restore(self, f: Array, taken: "OfSlices", **given: Array) -> tuple[Array, Pull]:
        v = f.reshape(len(f), -1, self.slice_length, f.shape[2])
        mean, std = (given[name][:, :, None] for name in ("mean", "std")) if given else (taken.mean, taken.std)
        width = std + self.eps

        def pull(dz: Array) -> dict[str, Array]:
            d = dz.reshape(v.shape)
            dmean, dstd = d.sum(axis=2, keepdims=True), (d * v).sum(axis=2, keepdims=True)
            found = {"x": (d * width).reshape(f.shape)}
            if given:
                source = np.zeros((taken.series, taken.mean.shape[1] * self.slice_length, f.shape[2]))
                return found | {"mean": dmean[:, :, 0], "std": dstd[:, :, 0], "source": source}
            return found | {"source": taken.back(dmean, dstd).reshape(f.shape)}

        return (v * width + mean).reshape(f.shape), pull

    def _options(self) -> dict[str, Any]:
        return super()._options() | {"channel_axis": self.channel_axis}


class OfSlices(Taken):
    """mean and std, (N, slices, 1, C), and deviation, (N, slices, steps, C), or what makes it."""

    def __init__(self, owner: type, mean: Array, std: Array, deviation: Array | Callable[[], Array]) -> None:
        self.owner, self.series = owner, len(mean)
        self.mean, self.std, self._deviation = mean, std, deviation

    @property
    def deviation(self) -> Array:
        return self._deviation() if callable(self._deviation) else self._deviation

    def back(self, dmean: Array, dstd: Array) -> Array:
        """The gradient of x, for those of mean and std."""
        deviation = self.deviation
        return (dmean + dstd * deviation * reciprocal(self.std)) / deviation.shape[2]
