"""Batch renormalization: normalize by batch statistics, corrected towards the running ones within bounds."""

from collections.abc import Callable
from typing import Any

import numpy as np

from normzoo.backends.contract import CONSTANT, Array
from normzoo.passes.arrays import check_spread, compute_dtype
from normzoo.passes.attributes import entry
from normzoo.passes.form import Form, Known
from normzoo.passes.formulas import reciprocal, root
from normzoo.passes.normalize import normalize
from normzoo.passes.numbers import check_number
from normzoo.passes.saved import Chained, Grads, Saved
from normzoo.statistics.running import normalize_by
from normzoo.statistics.running_state import RunningState
from normzoo.zoo.batch.batch_norm import BatchNorm, check_own

Bound = float | Callable[[int], float] | None


class BatchRenorm(BatchNorm):
    """Batch renormalization: normalize by batch statistics, corrected towards the running ones within bounds.

    Formula:
        In training, with std = sqrt(var + eps) and the batch's mean and (biased) var over all axes but the channels',
            y = ((x - mean) / std * r + d) * weight + bias,
            r = clip(std / running_std, 1 / rmax, rmax),   d = clip((mean - running_mean) / running_std, -dmax, dmax),
        where r and d are constants in the gradient; then running = (1 - momentum) * running + momentum * new for mean
        and std. In evaluation y = (x - running_mean) / running_std * weight + bias.

    Shapes:
        x, y: (N, C), (N, C, L), (N, C, H, W), ...; with channel_axis=-1, (N, ..., C).
        weight, bias, running_mean, running_std: (C,).

    Args:
        num_features: C.
        eps: added to the variance, in the units of x squared; above 0.
        momentum: weight of the new value in the running statistics, 0 to 1; the paper's 0.01. None averages equally.
        affine: whether there are a weight and a bias.
        rmax: bound of r, at least 1: a number, a function of num_batches_tracked, or None for the paper's schedule: 1
            for 5000 batches, then linearly up to 3 at 40000.
        dmax: bound of d, at least 0: as rmax; the paper's schedule is 0 for 5000 batches, then linearly up to 5 at
            25000.
        bias, channel_axis, dtype: see `BatchNorm`.

    Raises:
        ValueError: rmax is below 1 or dmax below 0; otherwise as `BatchNorm`. TypeError: x is not a float array.
            Nothing has changed then.

    Running statistics are those of the paper: the mean of std, not of var. Keras (2) has a separate lower bound rmin of
    r, has no bounds by default, and also keeps a running variance, for evaluation.

    Source:
        S. Ioffe, "Batch Renormalization: Towards Reducing Minibatch Dependence in Batch-Normalized Models", 2017,
        arXiv:1702.03275. With rmax=1 and dmax=0 it trains as BatchNorm does.

    >>> import numpy as np, normzoo as nz
    >>> norm = nz.BatchRenorm(1, rmax=3, dmax=5)
    >>> norm(np.array([[1], [5]], np.float32)).round(2).ravel()  # r = 2, d = 3: as if by the running statistics
    array([1., 5.], dtype=float32)
    """

    spread = "running_std"
    running_std = entry("buffers", "running_std")

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-3,
        momentum: float | None = 0.01,
        affine: bool = True,
        rmax: Bound = None,
        dmax: Bound = None,
        *,
        bias: bool = True,
        channel_axis: int = 1,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, bias=bias, channel_axis=channel_axis, dtype=dtype)
        self.rmax, self.dmax = rmax, dmax
        self.bounds()

    def bounds(self) -> tuple[float, float]:
        """rmax and dmax for the next batch."""
        batches = int(self.buffers["num_batches_tracked"])
        found = []
        for name, bound, paper, least in (("rmax", self.rmax, paper_rmax, 1), ("dmax", self.dmax, paper_dmax, 0)):
            value = paper(batches) if bound is None else bound(batches) if callable(bound) else bound
            value = check_number(self, name, value)
            if value < least:
                raise ValueError(f"{self}: expected {name} >= {least}, got {value}")
            found.append(value)
        return found[0], found[1]

    def forward(self, x: Array, out: Array | None = None, *, update_stats: bool = True) -> tuple[Array, Saved]:
        axes, eps = self.axes(x), self.eps
        weight, bias = self.weight, self.bias
        running = self.buffers["running_mean"], self.buffers["running_std"]
        mean, std = RunningState(*running).read()
        means, stds = mean.astype(np.float64), check_spread(self, "running_std", std)
        if not self.training:
            return normalize_by(
                Form(self, axes, CONSTANT, 0.0), x, (means, reciprocal(stds)), weight, bias, out, running
            )
        check_own(self, x, axes.values, eps)
        running, (rmax, dmax) = self._running(), self.bounds()
        # 1 moments
        y, stats, _ = normalize(Form(self, axes, self.moments, eps), x, None, None, keep=False)
        mean, std = stats[0].reshape(-1), root(stats, eps).reshape(-1)
        r = np.clip(std / stds, 1 / rmax, rmax)
        d = np.clip((mean - means) / stds, -dmax, dmax)
        corrected = r if weight is None else r * weight, (d if weight is None else d * weight)
        dtype = compute_dtype(y.dtype, *(p.dtype for p in self.params.values()))
        w, b = (a.astype(dtype) for a in (corrected[0], corrected[1] if bias is None else corrected[1] + bias))
        # 2 normalize
        apart = *running, *self.params.values()
        form, target = Form(self, axes, self.moments, eps), y if out is None else out
        y, _, part = normalize(form, x, w, b, target, Known(stats), apart=apart)
        if update_stats:
            self._join((mean, std), x.size)

        def pull(dy: Array, out: Array | None) -> Grads:
            found = part.backward(dy, out)
            dweight = None if weight is None else (r * found.weight + d * found.bias).astype(weight.dtype)
            return Grads(found.x, dweight, None if bias is None else found.bias.astype(bias.dtype))

        return y, Chained(self, x, pull, (part,))

    def _options(self) -> dict[str, Any]:
        options = super()._options() | {"rmax": self.rmax, "dmax": self.dmax}
        del options["track_running_stats"]
        return options


def paper_rmax(batches: int) -> float:
    """1 for 5000 batches, then linearly up to 3 at 40000."""
    return min(max(1 + 2 * (batches - 5000) / 35000, 1.0), 3.0)


def paper_dmax(batches: int) -> float:
    """0 for 5000 batches, then linearly up to 5 at 25000."""
    return min(max(5 * (batches - 5000) / 20000, 0.0), 5.0)
