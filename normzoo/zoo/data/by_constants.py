"""Base class of norms by one mean and one deviation of each feature, which are constants of the gradient. They can be
inverted."""

from abc import abstractmethod
from collections.abc import Callable

import numpy as np

from normzoo.backends.contract import CONSTANT, Array
from normzoo.norm import Norm
from normzoo.passes.arrays import base_array, once
from normzoo.passes.form import Form
from normzoo.passes.formulas import reciprocal
from normzoo.passes.normalize import normalize
from normzoo.passes.saved import Chained, Grads, Saved
from normzoo.passes.view import Axes
from normzoo.statistics.running import normalize_by
from normzoo.statistics.tracked import check_channels


class ByConstants(Norm):
    """A norm that says which mean and which deviation its features are normalized by."""

    num_features: int
    channel_axis: int
    saved_inverse: Saved | None = None

    @abstractmethod
    def _scale(self) -> tuple[Array, Array]:
        """(mean, deviation), (C,) float64."""

    def axes(self, x: Array) -> Axes:
        return letters(self, x, self.channel_axis, self.num_features)

    def forward(self, x: Array, out: Array | None = None) -> tuple[Array, Saved]:
        return self._by(base_array(self, "x", x), self._scale, out)

    def _by(self, x: Array, scale: Callable[[], tuple[Array, Array]], out: Array | None) -> tuple[Array, Saved]:
        """y by this mean and deviation, which are asked for after x has been checked."""
        axes = self.axes(x)
        mean, std = scale()
        with np.errstate(over="ignore"):
            rstd = reciprocal(std)
        return normalize_by(Form(self, axes, CONSTANT, 0.0), x, (mean, rstd), None, None, out)

    transform = Norm.__call__

    def inverse(self, y: Array, out: Array | None = None) -> Array:
        """x for y; what its backward pass needs is kept in `saved_inverse`."""
        x, self.saved_inverse = self.inverse_forward(y, out)
        return x

    def inverse_forward(self, y: Array, out: Array | None = None) -> tuple[Array, Saved]:
        """x for y and its `Saved`, without keeping it: see `forward`."""
        y = base_array(self, "y", y)
        axes = self.axes(y)
        mean, std = self._scale()
        x, _, inner = normalize(Form(self, axes, CONSTANT, 0.0), y, std, mean, out)

        def pull(dx: Array, out: Array | None) -> Grads:
            return Grads(inner.backward(dx, out).x)

        return x, Chained(self, y, pull, (inner,))


@once
def letters(owner: object, x: Array, channel_axis: int, features: int) -> Axes:
    channel = check_channels(owner, x, channel_axis, 1, features)
    return Axes(x.shape, "r" * channel + "K" + "r" * (x.ndim - channel - 1))
