"""Adaptive rescaling of targets that preserves outputs: the last layer follows the statistics of its targets."""

from typing import Any

import numpy as np

from normzoo.backends.contract import Array
from normzoo.passes.arrays import base_array, check_array, read_only
from normzoo.passes.attributes import entry
from normzoo.passes.numbers import check_features, check_momentum, check_number, check_size
from normzoo.statistics.running_state import RunningState
from normzoo.statistics.stats import Stats
from normzoo.statistics.tracked import check_channels
from normzoo.zoo.data.by_constants import ByConstants


class PopArt(ByConstants):
    """PopArt: targets rescaled by their moving mean and deviation, while the last layer keeps its outputs.

    Formula:
        norm(x): y = (x - mean) / std;  norm.inverse(y): x = y * std + mean, with std = sqrt(var), at least min_std and
        at most max_std. norm.update(targets, weight, bias) takes in a batch t of k targets per output,
            mean' = mean + step * (mean_t - mean)
            var' = (1 - step) * var + step * var_t + step * (1 - step) * (mean_t - mean)^2
            step = momentum / (1 - (1 - momentum)^batches), with this one; without momentum, 1 / batches
        and rescales the last layer, so that inverse(weight @ h + bias) stays what it was for every h:
            weight' = weight * std / std', bias' = (bias * std + mean - mean') / std'

    Shapes:
        x, y, targets: (N, C), (T, N, C), ...; with channel_axis=1, (N, C, ...).
        weight: (C, ...), as of a linear layer with C outputs. bias: (C,). mean, var: (C,) float64. batches: () int64.

    Args:
        num_features: C, the number of outputs (tasks).
        momentum: the weight of a new batch, 0 to 1; None: all batches count alike.
        min_std, max_std: bounds of std.
        channel_axis: the axis of the outputs, -1 (or any other).

    Raises:
        ValueError: an array has another number of outputs, weight or bias cannot be written, or bounds do not fit.
        TypeError: an array is not a float array, or weight comes without bias. Nothing has changed then.

    Statistics and layer change in one step: no other thread, and no interrupt, sees one without the other. Before the
    first batch mean is 0 and std is 1. mean and std are constants in the gradient.

    Source:
        H. van Hasselt, A. Guez, M. Hessel, V. Mnih and D. Silver, "Learning values across many orders of magnitude",
        2016, arXiv:1602.07714 (algorithm 1; step); M. Hessel, H. Soyer, L. Espeholt, W. Czarnecki, S. Schmitt and H.
        van Hasselt, "Multi-task Deep Reinforcement Learning with PopArt", 2018, arXiv:1809.04474 (momentum 3e-4,
        bounds). These move the second moment; the variance moves here, which is the same in exact arithmetic and keeps
        its digits where the mean is far from 0.

    >>> import numpy as np, normzoo as nz
    >>> norm, weight, bias = nz.PopArt(1), np.ones((1, 2)), np.zeros(1)
    >>> norm.update(np.array([[10.0], [30.0]]), weight, bias)
    >>> weight.round(2), bias  # outputs were 0 + 1 * ..., and are, after inverse
    (array([[0.1, 0.1]]), array([-2.]))
    >>> norm.inverse(np.array([[1.0, 1.0]]) @ weight.T + bias).round(6)
    array([[2.]])
    """

    mean = entry("buffers", "mean")
    var = entry("buffers", "var")

    def __init__(
        self,
        num_features: int,
        momentum: float | None = 3e-4,
        min_std: float = 1e-4,
        max_std: float = 1e6,
        *,
        channel_axis: int = -1,
    ) -> None:
        self.num_features = check_features("PopArt", num_features)
        super().__init__(num_features, eps=0.0, weight=False, bias=False)
        self.momentum = None if momentum is None else check_momentum(self, momentum)
        self.min_std, self.max_std = check_number(self, "min_std", min_std), check_number(self, "max_std", max_std)
        if not 0 < self.min_std <= self.max_std:
            raise ValueError(f"{self}: expected 0 < min_std <= max_std, got {min_std} and {max_std}")
        self.channel_axis = check_size(self, "channel_axis", channel_axis, least=-(2**31))
        self.buffers["mean"], self.buffers["var"] = np.zeros(num_features), np.ones(num_features)
        self.buffers["batches"] = np.array(0, np.int64)

    @property
    def std(self) -> Array:
        """The deviation that x is divided by, (C,) float64."""
        return self._scale()[1]

    def update(self, targets: Array, weight: Array | None = None, bias: Array | None = None) -> None:
        """Take in a batch of targets, and rescale the last layer in place: see the formula.

        Args:
            targets: a float array like x. Without values, nothing changes.
            weight, bias: of the layer, written in place; None: there is no layer.
        """
        targets = base_array(self, "targets", targets)
        channel = check_channels(self, targets, self.channel_axis, 1, self.num_features)
        layer = self._layer(weight, bias)
        if not targets.size:
            return
        batch = Stats.of(targets, tuple(i for i in range(targets.ndim) if i != channel))

        def new(mean: Array, var: Array, count: Array, *layer: Array) -> list[Any]:
            step = self._step(count.item())
            apart = batch.mean - mean
            mean_now = mean + step * apart
            var_now = (1 - step) * (var + step * apart * apart) + step * batch.var()
            before, now = self._bounded(var), self._bounded(var_now)
            found: list[Any] = [mean_now, var_now, count + 1]
            if layer:
                weight, bias = (a.astype(np.float64) for a in layer)
                found.append(weight * (before / now).reshape(-1, *[1] * (weight.ndim - 1)))
                found.append((bias * before + (mean - mean_now)) / now)
            return found

        names = "mean", "var", "batches"
        if not all(self.buffers[name].flags.writeable for name in names):
            raise ValueError(f"{self}: expected statistics that can be written, {read_only(self)}")
        RunningState(*(self.buffers[name] for name in names), *layer).replace(new)

    def _layer(self, weight: Array | None, bias: Array | None) -> tuple[Array, ...]:
        """Weight and bias, after checks, or nothing."""
        if weight is None and bias is None:
            return ()
        if weight is None or bias is None:
            raise TypeError(
                f"{self}: expected weight and bias of the layer together, got {'bias' if weight is None else 'weight'} "
                "alone, which cannot keep the outputs; write update(targets, weight, bias)"
            )
        for name, a in (("weight", weight), ("bias", bias)):
            check_array(self, name, a)
            if a.ndim < 1 or len(a) != self.num_features or (name == "bias" and a.ndim > 1):
                wanted = f"({self.num_features}{', ...' if name == 'weight' else ','})"
                turned = name == "weight" and a.ndim == 2 and a.shape[1] == self.num_features
                raise ValueError(
                    f"{self}: expected {name} of shape {wanted}, got {a.shape}{'; write weight.T' if turned else ''}"
                )
            if not a.flags.writeable:
                raise ValueError(f"{self}: expected {name} that can be written, got a read-only array; write a copy")
        return weight, bias

    def _step(self, batches: int) -> float:
        """The weight of the next batch, after `batches` batches."""
        if self.momentum is None:
            return 1.0 / (batches + 1)
        return self.momentum / -np.expm1((batches + 1) * np.log1p(-self.momentum)) if self.momentum < 1 else 1.0

    def _bounded(self, var: Array) -> Array:
        return np.clip(np.sqrt(var), self.min_std, self.max_std)

    def _scale(self) -> tuple[Array, Array]:
        mean, var = RunningState(self.buffers["mean"], self.buffers["var"]).read()
        return mean, self._bounded(var)

    def _options(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("momentum", "min_std", "max_std", "channel_axis")}
