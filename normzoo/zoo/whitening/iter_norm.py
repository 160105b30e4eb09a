"""Iterative normalization: whiten groups of channels over the batch and all positions by Newton's iterations."""

from typing import Any

import numpy as np

from normzoo.passes.attributes import entry
from normzoo.passes.numbers import check_features, check_size
from normzoo.zoo.whitening.whitening import BatchWhitening


class IterNorm(BatchWhitening):
    """Iterative normalization: whiten groups of channels over the batch and all positions by Newton's iterations.

    Formula:
        y = W @ (x - mean) * weight + bias, with S = covariance + eps * I for each group of neighbouring channels,
        P_0 = I, P_next = (3 * P_k - P_k^3 @ S / tr(S)) / 2 for k from 0 to T - 1, and W = P_T / sqrt(tr(S)); mean and
        (biased) covariance are over all other axes. In training these are the batch's, and running = (1 - momentum) *
        running + momentum * new for mean and W; in evaluation they are the running ones, and constants in the gradient.

    Shapes:
        x, y: (N, C), (N, C, L), (N, C, H, W), ... any rank from 2; with channel_axis=-1, (N, ..., C).
        weight, bias, running_mean: (C,). running_wm, the W: (groups, C / groups, C / groups).

    Args:
        num_features: C.
        num_groups: number of groups; divides C.
        num_channels: channels per group, instead of num_groups; divides C.
        T: number of iterations, 0 or more. Directions of small variance need more of them.
        eps: added to the variances, in the units of x squared; above 0 where batch statistics are used.
        momentum: weight of the new value in the running statistics, 0 to 1; None averages all batches equally.
        affine, bias, channel_axis, dtype: see `BatchNorm`.

    Raises:
        ValueError: x has another number of channels or rank below 2; one value per channel, or eps of 0, where batch
            statistics are used. TypeError: x is not a float array. Nothing has changed then.

    The gradient goes through the iterations, which are computed in a form that is stable for any T: the authors' code
    loses all digits if the channels are linearly dependent and T is large. Defaults are those of that code, which
    halves a num_channels that does not divide C until it does.

    Source:
        L. Huang, Y. Zhou, F. Zhu, L. Liu and L. Shao, "Iterative Normalization: Beyond Standardization towards
        Efficient Whitening", 2019, arXiv:1904.03441. With a large T it is `DecorrelatedBatchNorm`.

    >>> import numpy as np, normzoo as nz
    >>> y = nz.IterNorm(2, T=9)(np.array([[1, 0], [-1, 0], [1, 1], [-1, -1]], np.float32))
    >>> (y.T @ y / 4).round(2) + 0.0
    array([[1., 0.],
           [0., 1.]], dtype=float32)
    """

    matrix = "running_wm"
    running_wm = entry("buffers", "running_wm")

    def __init__(
        self,
        num_features: int,
        num_groups: int = 1,
        num_channels: int | None = None,
        T: int = 5,  # the paper's name
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        *,
        bias: bool = True,
        channel_axis: int = 1,
        dtype: Any = np.float32,
    ) -> None:
        check_features("IterNorm", num_features)
        check_size("IterNorm", "num_groups", num_groups, least=1)
        if num_channels is not None:
            check_size("IterNorm", "num_channels", num_channels, least=1)
        elif num_features % num_groups:
            raise ValueError(f"IterNorm: expected num_groups to divide num_features, got {num_features}, {num_groups}")
        super().__init__(
            num_features,
            num_groups,
            num_channels,
            num_features=num_features,
            num_channels=max(num_features // num_groups, 1) if num_channels is None else num_channels,
            eps=eps,
            momentum=momentum,
            affine=affine,
            bias=bias,
            channel_axis=channel_axis,
            dtype=dtype,
        )
        self.T = self.iterations = check_size(self, "T", T)

    def _options(self) -> dict[str, Any]:
        return {"T": self.T} | super()._options()
