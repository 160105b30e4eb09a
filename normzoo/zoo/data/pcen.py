"""Per-channel energy normalization: spectrograms by their own smoothed level, and compressed."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from normzoo.backends.contract import Array
from normzoo.backends.forms import Following
from normzoo.passes.arrays import base_array
from normzoo.passes.attributes import entry
from normzoo.passes.numbers import check_number
from normzoo.zoo.data.by_past import ByPast, Past


class PCEN(ByPast):
    """Per-channel energy normalization: spectrograms by their own smoothed level, and compressed.

    Formula:
        y[t] = (x[t] / (eps + level[t])^gain + bias)^power - bias^power, with level[t] = level[t - 1] + s * (x[t] -
        level[t - 1]) of every channel, and level 1 before the first step; s = (sqrt(1 + 4 * T^2) - 1) / (2 * T^2), with
        T = time_constant * sr / hop_length steps.

    Shapes:
        x, y: (N, C, ..., T); with channel_axis=-1, (N, T, ..., C). C are the bands of a spectrogram.
        gain, bias, power: (C,).

    Args:
        num_features: C.
        gain, bias, power: initial values of the parameters: gain above 0, bias 0 or more, power above 0.
        time_constant: seconds over which the level follows.
        sr, hop_length: samples per second, and from one step to the next.
        eps: added to the level, in the units of x; above 0.
        rate: s itself, above 0 and at most 1, instead of the three.
        channel_axis: the axis of the channels, 1 or -1; time is at the other end.
        dtype: of the parameters: float32, float64, float16 or bfloat16.

    Raises:
        ValueError: x has another number of channels, rank below 3, or a value below 0. TypeError: x is not a float
            array.

    `step` takes one time step at a time; its results are bit-identical to those of the whole sequence. The gradient
    goes through the level of all steps; at x = 0 without a bias it is that of 0.

    Source:
        Y. Wang, P. Getreuer, T. Hughes, R. F. Lyon and R. A. Saurous, "Trainable Frontend For Robust and Far-Field
        Keyword Spotting", 2016, arXiv:1607.05666; defaults, s and the first level are those of librosa's `pcen`, which
        suits spectrograms of 16-bit numbers: of samples between -1 and 1 it takes x * 2^31.

    >>> import numpy as np, normzoo as nz
    >>> nz.PCEN(1)(np.array([[[1, 1, 9]]], np.float32)).round(3)
    array([[[0.318, 0.318, 1.458]]], dtype=float32)
    """

    start = 1.0
    gain, bias, power = entry("params", "gain"), entry("params", "bias"), entry("params", "power")

    def __init__(
        self,
        num_features: int,
        gain: float = 0.98,
        bias: float = 2.0,
        power: float = 0.5,
        time_constant: float = 0.4,
        sr: float = 22050,
        hop_length: float = 512,
        eps: float = 1e-6,
        *,
        rate: float | None = None,
        channel_axis: int = 1,
        dtype: Any = np.float32,
    ) -> None:
        self._begin(num_features, channel_axis)
        super().__init__(num_features, eps=eps, weight=False, bias=False, dtype=dtype)
        given = {"gain": gain, "bias": bias, "power": power}
        above = {"time_constant": time_constant, "sr": sr, "hop_length": hop_length, "gain": gain, "power": power}
        for name, value in (above | {"eps": eps}).items():
            if not 0 < check_number(self, name, value) < np.inf:
                raise ValueError(f"{self}: expected {name} > 0, got {value}")
        if not 0 <= check_number(self, "bias", bias) < np.inf:
            raise ValueError(f"{self}: expected bias >= 0, got {bias}")
        self._first_values = given
        self.time_constant, self.sr, self.hop_length = time_constant, sr, hop_length
        steps = time_constant * sr / hop_length
        usual = 2 / (1 + np.sqrt(1 + 4 * steps * steps))  # the same as in the docstring, without a difference
        self.rate = float(usual) if rate is None else check_number(self, "rate", rate)
        if not 0 < self.rate <= 1:
            raise ValueError(f"{self}: expected rate in (0, 1], got {rate}")
        for name, value in given.items():
            self.params[name] = np.full(num_features, value, self._dtype)

    @property
    def following(self) -> Following:
        return Following("gain", self.rate, self.eps)

    def numbers(self) -> Mapping[str, Array]:
        return {name: self.params[name] for name in ("gain", "bias", "power")}

    def forward(self, x: Array, out: Array | None = None) -> Any:
        self._check_sign(x)
        return super().forward(x, out)

    def step(self, x: Array, past: Past | None = None) -> tuple[Array, Past]:
        """See `ByPast.step`: y of one time step, and the `past` for the next call."""
        self._check_sign(x)
        return super().step(x, past)

    def _check_sign(self, x: Array) -> None:
        least = np.min(base_array(self, "x", x), initial=0.0)
        if least < 0:
            raise ValueError(f"{self}: expected x >= 0, energies or magnitudes, got {least:g}; write np.abs(x)")

    def _options(self) -> dict[str, Any]:
        own = {"rate": self.rate, "channel_axis": self.channel_axis}
        return getattr(self, "_first_values", {}) | super()._options() | own
