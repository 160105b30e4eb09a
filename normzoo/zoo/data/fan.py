"""Frequency adaptive normalization of time series: their strongest Fourier components are removed, and restored."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from normzoo.backends.contract import Array
from normzoo.passes.numbers import check_size
from normzoo.passes.saved import Pull, Saved
from normzoo.zoo.data.reversible import Reversible, Taken


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

    def compute(self, x: Array, params: Mapping[str, Array], **inputs: Array) -> tuple[Array, Pull]:
        axis = self.channel_axis
        v = np.moveaxis(x, axis, 2)
        spectrum = np.fft.rfft(v, axis=1)
        rank = np.argsort(-np.abs(spectrum), axis=1, kind="stable")  # equal ones by frequency
        kept = np.zeros(spectrum.shape, bool)
        np.put_along_axis(kept, rank[:, : self.top_k], True, axis=1)
        taken = Main(type(self), np.fft.irfft(np.where(kept, spectrum, 0), v.shape[1], axis=1), kept)

        def pull(dy: Array) -> dict[str, Array]:
            d = np.moveaxis(dy, axis, 2)
            return {"x": np.moveaxis(d - taken.back(d), 2, axis)}

        taken.pull = pull
        return np.moveaxis(v - taken.main, 2, axis), taken

    def main(self, saved: Saved | None = None) -> Array:
        """The main part of the last x, or of the one of `saved`: float64, as x."""
        taken = getattr(self.saved if saved is None else saved, "_pull", None)
        if not isinstance(taken, Main):
            raise RuntimeError(f"{self}: expected a forward pass with values before; write y = norm(x) first")
        return np.moveaxis(taken.main, 2, self.channel_axis).copy()

    def replaces(self, f: tuple[int, int, int], taken: Any) -> Mapping[str, tuple[int, int, int]]:
        return {"main": f}

    def needs(self, f: tuple[int, int, int], taken: Any) -> str | None:
        steps = taken.main.shape[1]
        return None if f[1] == steps else f"expected f of {steps} time steps, as x, or main= of those of f"

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
    """main (N, T, C), and which components it has, (N, T // 2 + 1, C)."""

    def __init__(self, owner: type, main: Array, kept: Array) -> None:
        self.owner, self.series, self.main, self.kept = owner, len(main), main, kept

    def back(self, d: Array) -> Array:
        """The same projection of d, which is its own transpose."""
        return np.fft.irfft(np.where(self.kept, np.fft.rfft(d, axis=1), 0), d.shape[1], axis=1)
