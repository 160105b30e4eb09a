"""Spatially-adaptive normalization: a scale and a shift for every position, over batch or instance statistics."""

from typing import Any

import numpy as np

from normzoo.backends.contract import Array, Moments
from normzoo.passes.arrays import base_array, check_parameter, shifted
from normzoo.passes.form import UNTRACKED, Form
from normzoo.passes.numbers import check_features, check_size
from normzoo.passes.saved import Saved
from normzoo.passes.view import Axes
from normzoo.statistics.running import How, normalize_tracked
from normzoo.statistics.tracked import TrackedNorm
from normzoo.zoo.batch import batch_norm
from normzoo.zoo.conditional.conditional_norm import batch_statistics
from normzoo.zoo.conditional.film import modulated_back
from normzoo.zoo.instance import instance_norm
from normzoo.zoo.instance.instance_norm import InstanceNorm


class SPADE(TrackedNorm):
    """Spatially-adaptive normalization: a scale and a shift for every position, over batch or instance statistics.

    Formula:
        y = xhat * (1 + gamma) + beta, xhat = (x - mean) / sqrt(var + eps), with the statistics of `BatchNorm` or
        `InstanceNorm`.

    Shapes:
        x, y, gamma, beta: (N, C, L), (N, C, H, W), ...; with channel_axis=-1, (N, ..., C).
        running_mean, running_var: (C,). There are no parameters.

    Args:
        num_features: C.
        param_free_norm: "batch" or "instance": which statistics are used.
        eps: added to the variance, in the units of x squared.
        momentum, track_running_stats: see `BatchNorm`; instance statistics are not tracked.
        channel_axis: see `BatchNorm`.
        dtype: dtype of the running statistics.

    It is called as `norm(x, gamma, beta)`, where convolutions computed gamma and beta from a segmentation map; the
    gradients are in `norm.grads["gamma"]` and `norm.grads["beta"]`.

    Raises:
        ValueError: gamma or beta does not have x's shape, or param_free_norm is unknown; x as in `BatchNorm` or
            `InstanceNorm`. TypeError: one of the three is not a float array. Nothing has changed then.

    Source:
        T. Park, M.-Y. Liu, T.-C. Wang and J.-Y. Zhu, "Semantic Image Synthesis with Spatially-Adaptive Normalization",
        2019, arXiv:1903.07291: batch statistics (in the authors' code over all devices); MONAI uses instance statistics
        by default. The paper has gamma where the authors' code has 1 + gamma. With the same values at all positions it
        is ConditionalBatchNorm or ConditionalInstanceNorm.

    >>> import numpy as np, normzoo as nz
    >>> x = np.float32([[[0, 2]]])
    >>> nz.SPADE(1)(x, np.float32([[[0, 1]]]), np.float32([[[5, 0]]])).round(2)
    array([[[4., 2.]]], dtype=float32)
    """

    masks = True
    recalibrates = "unbiased"
    moments = Moments(center=True, power=2)

    def __init__(
        self,
        num_features: int,
        param_free_norm: str = "batch",
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        track_running_stats: bool = True,
        *,
        channel_axis: int = 1,
        dtype: Any = np.float32,
    ) -> None:
        check_features("SPADE", num_features)
        if param_free_norm not in ("batch", "instance"):
            raise ValueError(f"SPADE: expected param_free_norm of 'batch' or 'instance', got {param_free_norm!r}")
        self.param_free_norm = param_free_norm
        super().__init__(
            num_features,
            eps=eps,
            momentum=momentum,
            track_running_stats=track_running_stats and param_free_norm == "batch",
            weight=False,
            bias=False,
            dtype=dtype,
        )
        self.channel_axis = check_size(self, "channel_axis", channel_axis, least=-(2**31))

    def axes(self, x: Array) -> Axes:
        kind = batch_norm if self.param_free_norm == "batch" else instance_norm
        found = kind.axes(self, x, self.channel_axis, self.num_features)
        if x.ndim < 3:
            raise ValueError(f"{self}: expected x with an axis of positions, got {x.shape}; write x[..., None]")
        return found._replace(letters=found.letters.upper())

    def forward(
        self, x: Array, gamma: Array, beta: Array, out: Array | None = None, *, update_stats: bool = True
    ) -> tuple[Array, Saved]:
        """y for x, gamma and beta; see `BatchNorm.forward`."""
        axes = self.axes(x)
        gamma, beta = base_array(self, "gamma", gamma), base_array(self, "beta", beta)
        for name, a in (("gamma", gamma), ("beta", beta)):
            check_parameter(self, name, a, x.shape)
        weight = shifted(gamma, 1.0, x.dtype)
        if self.param_free_norm == "batch":
            y, last = batch_statistics(self, x, axes, weight, beta, out, update_stats)
        else:
            eps = self.eps or 0.0
            form, how = Form(self, axes, InstanceNorm.moments, eps), How(True, instance_norm.MESSAGES)
            y, last = normalize_tracked(form, x, weight, beta, UNTRACKED, how, out)

        return y, modulated_back(self, x, last, (self.channel_axis % x.ndim,), gamma=gamma, beta=beta)

    def _options(self) -> dict[str, Any]:
        options = super()._options()
        kept = {name: options[name] for name in ("eps", "momentum", "track_running_stats")}
        return {"param_free_norm": self.param_free_norm} | kept | {"channel_axis": self.channel_axis}
