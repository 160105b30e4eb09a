"""Batch normalization with several sets of statistics and parameters: for parts of a batch, and for domains."""

from typing import Any

import numpy as np

from normzoo.backends.contract import Array
from normzoo.passes.form import Form, Running
from normzoo.passes.normalize import normalize
from normzoo.passes.numbers import check_size
from normzoo.passes.saved import Chained, Grads, Saved
from normzoo.passes.view import Axes
from normzoo.statistics.running import How, normalize_tracked
from normzoo.zoo.batch.batch_norm import MESSAGES, BatchNorm, check_own
from normzoo.zoo.batch.ghost_batch_norm import ghost_axes


class SplitBatchNorm(BatchNorm):
    """Split batch normalization: every part of the batch has its own statistics and parameters.

    Formula:
        y = (x - mean) / sqrt(var + eps) * weight[i] + bias[i] in part i of the batch, N / num_splits neighbouring
        samples, with mean and (biased) var over its samples and positions. Training updates running_mean[i] and
        running_var[i]. In evaluation the whole batch is normalized by the running statistics and parameters of part 0.

    Shapes:
        x, y: (N, C), (N, C, L), (N, C, H, W), ...; with channel_axis=-1, (N, ..., C).
        weight, bias, running_mean, running_var: (num_splits, C).

    Args:
        num_features: C.
        eps, momentum, affine, track_running_stats: see `BatchNorm`.
        num_splits: number of parts; divides N in training. AdvProp has 2: clean samples, then adversarial ones.
        bias, channel_axis, dtype: see `BatchNorm`.

    Raises:
        ValueError: num_splits does not divide N, or one value per channel of a part, in training; otherwise as
            `BatchNorm`. TypeError: x is not a float array. Nothing has changed then.

    timm has part 0 in the module itself and the others in aux_bn; here they are rows of one array.

    Source:
        C. Xie, M. Tan, B. Gong, J. Wang, A. Yuille and Q. V. Le, "Adversarial Examples Improve Image Recognition",
        2019, arXiv:1911.09665; semantics of timm.layers.SplitBatchNorm2d. One split is BatchNorm.

    >>> import numpy as np, normzoo as nz
    >>> norm = nz.SplitBatchNorm(1)
    >>> norm.bias[1] = 5
    >>> norm(np.array([[0], [2], [10], [30]], np.float32)).round(2).ravel()
    array([-1.,  1.,  4.,  6.], dtype=float32)
    """

    recalibrates = "unbiased"

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        num_splits: int = 2,
        *,
        bias: bool = True,
        channel_axis: int = 1,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, bias=bias, channel_axis=channel_axis, dtype=dtype
        )
        self.num_splits = check_size(self, "num_splits", num_splits, least=1)
        for arrays in (self.params, self.buffers):
            repeat(arrays, num_splits)

    def axes(self, x: Array) -> Axes:
        if not self.training and self.track_running_stats:
            return super().axes(x)
        return ghost_axes(self, x, self.channel_axis, self.num_features, self.num_splits, True)

    def forward(self, x: Array, out: Array | None = None, *, update_stats: bool = True) -> tuple[Array, Saved]:
        running = self._running() if self.track_running_stats and self.training else ()
        if not self.training and self.track_running_stats:
            y, part = by_row(self, x, 0, False, out)
            return y, row_of(self, x, part, 0, self.num_splits)
        axes = self.axes(x)
        check_own(self, x, axes.values, self.eps)
        y, stats, saved = normalize(
            Form(self, axes, self.moments, self.eps), x, self.weight, self.bias, out, apart=running
        )
        if running and update_stats:
            self._update(stats, axes.values, x.size)
        return y, saved

    def _options(self) -> dict[str, Any]:
        return super()._options() | {"num_splits": self.num_splits}


class DomainBatchNorm(BatchNorm):
    """Domain-specific batch normalization: every domain has its own statistics and parameters.

    Formula:
        y = (x - mean) / sqrt(var + eps) * weight[domain] + bias[domain]: BatchNorm with row `domain` of all parameters
        and running statistics. The rows of other domains are neither read nor changed, and their gradient is 0.

    Shapes:
        x, y: (N, C), (N, C, L), (N, C, H, W), ...; with channel_axis=-1, (N, ..., C).
        weight, bias, running_mean, running_var: (num_domains, C). num_batches_tracked: (num_domains,).

    Args:
        num_features: C.
        num_domains: number of domains.
        eps, momentum, affine, track_running_stats, bias, channel_axis, dtype: see `BatchNorm`.

    It is called as norm(x, domain), with one batch of one domain, an integer from 0 to num_domains - 1.

    Raises:
        ValueError: there is no such domain; otherwise as `BatchNorm`. TypeError: x is not a float array, domain not an
            integer. Nothing has changed then.

    Source:
        W.-G. Chang, T. You, S. Seo, S. Kwak and B. Han, "Domain-Specific Batch Normalization for Unsupervised Domain
        Adaptation", 2019, arXiv:1906.03950. One domain is BatchNorm.

    >>> import numpy as np, normzoo as nz
    >>> norm = nz.DomainBatchNorm(1, 2)
    >>> norm(np.array([[10], [30]], np.float32), domain=1).round(2).ravel()
    array([-1.,  1.], dtype=float32)
    >>> norm.running_mean.ravel(), norm.num_batches_tracked
    (array([0., 2.], dtype=float32), array([0, 1]))
    """

    masks = True

    def __init__(
        self,
        num_features: int,
        num_domains: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        bias: bool = True,
        channel_axis: int = 1,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, bias=bias, channel_axis=channel_axis, dtype=dtype
        )
        self.label.arguments = num_features, num_domains
        self.num_domains = check_size(self, "num_domains", num_domains, least=1)
        for arrays in (self.params, self.buffers):
            repeat(arrays, num_domains)
        if track_running_stats:
            self.buffers["num_batches_tracked"] = np.zeros(num_domains, np.int64)

    def forward(
        self, x: Array, domain: int, out: Array | None = None, *, update_stats: bool = True
    ) -> tuple[Array, Saved]:
        """y and what backward needs: see `Norm.forward`.

        Args:
            x: a batch of one domain.
            domain: index of the domain.
            out: an array like x that y is written to; it may be x itself.
            update_stats: see `BatchNorm.forward`.
        """
        if isinstance(domain, np.ndarray) and domain.shape == ():
            domain = domain[()]
        if check_size(self, "domain", domain) >= self.num_domains:
            raise ValueError(f"{self}: expected a domain below {self.num_domains}, got {domain}")
        tracked = self.training and self.track_running_stats
        y, part = by_row(self, x, domain, tracked or not self.track_running_stats, out, update_stats)
        return y, row_of(self, x, part, domain, self.num_domains)


def repeat(arrays: dict[str, Array], rows: int) -> None:
    """Repeat every array of one value per channel for every row."""
    for name, a in arrays.items():
        if a.ndim:
            arrays[name] = np.repeat(a[None], rows, axis=0)


def by_row(
    norm: BatchNorm, x: Array, row: int, own: bool, out: Array | None, update_stats: bool = True
) -> tuple[Array, Saved]:
    """Batch normalization with one row of the parameters and running statistics."""
    names = "running_mean", "running_var", "weight", "bias"
    held = norm.buffers | norm.params
    mean, var, weight, bias = (held[name][row] if name in held else None for name in names)
    counts, count = norm.buffers.get("num_batches_tracked"), None
    if own and counts is not None:
        count = counts[row : row + 1].reshape(())  # a view: the same memory
    form, how = Form(norm, norm.axes(x), norm.moments, norm.eps), How(own, MESSAGES, update=update_stats)
    return normalize_tracked(form, x, weight, bias, Running(mean, var, count, norm.momentum), how, out)


def row_of(owner: object, x: Array, part: Saved, row: int, rows: int) -> Saved:
    """The `Saved` of a pass with one row of the parameters: the gradient of the other rows is 0."""

    def among(d: Array | None) -> Array | None:
        if d is None:
            return None
        all_rows = np.zeros((rows, *d.shape), d.dtype)
        all_rows[row] = d
        return all_rows

    def pull(dy: Array, out: Array | None) -> Grads:
        found = part.backward(dy, out)
        return Grads(found.x, among(found.weight), among(found.bias))

    return Chained(owner, x, pull, (part,))
