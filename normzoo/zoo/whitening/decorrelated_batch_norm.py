"""Decorrelated batch normalization: whiten groups of channels over the batch and all positions by eigenvectors."""

from typing import Any

import numpy as np

from normzoo.passes.attributes import entry
from normzoo.passes.numbers import check_features, check_size
from normzoo.zoo.whitening.whitening import BatchWhitening


class DecorrelatedBatchNorm(BatchWhitening):
    """Decorrelated batch normalization: whiten groups of channels over the batch and all positions by eigenvectors.

    Formula:
        y = W @ (x - mean) * weight + bias, with W = (covariance + eps * I)^(-1/2) = D @ diag(1 / sqrt(lambda + eps)) @
        D^T (this is ZCA) for each group of num_channels neighbouring channels, mean and (biased) covariance over all
        other axes. In training these are the batch's, and running = (1 - momentum) * running + momentum * new for mean
        and W; in evaluation they are the running ones, and constants in the gradient.

    Shapes:
        x, y: (N, C), (N, C, L), (N, C, H, W), ... any rank from 2; with channel_axis=-1, (N, ..., C).
        weight, bias, running_mean: (C,). running_projection, the W: (C / num_channels, num_channels, num_channels).

    Args:
        num_features: C.
        num_channels: channels per group, at most C; divides C.
        eps: added to the variances, in the units of x squared; above 0 where batch statistics are used.
        momentum: weight of the new value in the running statistics, 0 to 1; None averages all batches equally.
        affine, bias, channel_axis, dtype: see `BatchNorm`.

    Raises:
        ValueError: x has another number of channels or rank below 2; one value per channel, or eps of 0, where batch
            statistics are used. TypeError: x is not a float array. Nothing has changed then.

    The gradient is correct for equal eigenvalues, too. Defaults are those of the authors' PyTorch code, whose last
    group may be smaller than the others. Eigenvectors are LAPACK's: with hundreds of channels per group, the last bits
    may depend on the number of its threads.

    Source:
        L. Huang, D. Yang, B. Lang and J. Deng, "Decorrelated Batch Normalization", 2018, arXiv:1804.08450. With
        num_channels=1 it is BatchNorm, except for the running variance.

    >>> import numpy as np, normzoo as nz
    >>> y = nz.DecorrelatedBatchNorm(2, eps=1e-9)(np.array([[1, 0], [-1, 0], [1, 1], [-1, -1]], np.float32))
    >>> (y.T @ y / 4).round(2) + 0.0
    array([[1., 0.],
           [0., 1.]], dtype=float32)
    """

    matrix = "running_projection"
    running_projection = entry("buffers", "running_projection")

    def __init__(
        self,
        num_features: int,
        num_channels: int = 16,
        eps: float = 1e-3,
        momentum: float | None = 0.1,
        affine: bool = True,
        *,
        bias: bool = True,
        channel_axis: int = 1,
        dtype: Any = np.float32,
    ) -> None:
        check_features("DecorrelatedBatchNorm", num_features)
        check_size("DecorrelatedBatchNorm", "num_channels", num_channels, least=1)
        super().__init__(
            num_features,
            num_channels,
            num_features=num_features,
            num_channels=max(min(num_channels, num_features), 1),
            eps=eps,
            momentum=momentum,
            affine=affine,
            bias=bias,
            channel_axis=channel_axis,
            dtype=dtype,
        )
