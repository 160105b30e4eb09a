"""Conditional normalization: batch or instance normalization with a weight and a bias for every class."""

from typing import Any

import numpy as np

from normzoo.backends.contract import Array, Moments
from normzoo.norm import Norm
from normzoo.passes.arrays import once
from normzoo.passes.form import UNTRACKED, Form, Running
from normzoo.passes.numbers import check_features, check_size
from normzoo.passes.saved import Chained, Grads, Saved
from normzoo.passes.view import Axes
from normzoo.statistics.running import How, normalize_tracked
from normzoo.statistics.tracked import TrackedNorm
from normzoo.zoo.batch import batch_norm
from normzoo.zoo.batch.batch_norm import BatchNorm
from normzoo.zoo.instance import instance_norm
from normzoo.zoo.instance.instance_norm import InstanceNorm


class ConditionalBatchNorm(TrackedNorm):
    """Conditional batch normalization: batch normalization with a weight and a bias for every class.

    Formula:
        y = xhat * weight[label] + bias[label], xhat = (x - mean) / sqrt(var + eps), with the statistics of `BatchNorm`
        over the whole batch, whatever the classes, and its running ones in evaluation.

    Shapes:
        x, y: (N, C), (N, C, L), (N, C, H, W), ...; with channel_axis=-1, (N, ..., C).
        labels: (N,), integers from 0 to num_classes - 1.
        weight, bias: (num_classes, C). running_mean, running_var: (C,).

    Args:
        num_features: C.
        num_classes: number of classes.
        eps, momentum, track_running_stats, channel_axis, dtype: see `BatchNorm`.

    It is called as `norm(x, labels)`. The gradients of a class are sums over its samples, in their order.

    Raises:
        ValueError: labels has another shape or contains an unknown class; x as in `BatchNorm`. TypeError: labels are
            not integers, or x is not a float array. Nothing has changed then.

    Source:
        H. de Vries et al., "Modulating early visual processing by language", 2017, arXiv:1707.00683, with a table of
        classes as in T. Miyato and M. Koyama, "cGANs with Projection Discriminator", 2018, arXiv:1802.05637. All
        weights begin at 1 and all biases at 0; a common PyTorch implementation draws the weights around 1. With one
        class it is BatchNorm.

    >>> import numpy as np, normzoo as nz
    >>> norm = nz.ConditionalBatchNorm(1, num_classes=3)
    >>> norm.bias[2] = 5
    >>> norm(np.float32([[0], [2]]), np.array([0, 2])).round(2)
    array([[-1.],
           [ 6.]], dtype=float32)
    """

    masks = True
    recalibrates = "unbiased"
    moments = Moments(center=True, power=2)

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        track_running_stats: bool = True,
        *,
        channel_axis: int = 1,
        dtype: Any = np.float32,
    ) -> None:
        check_features("ConditionalBatchNorm", num_features)
        self.num_classes = check_size("ConditionalBatchNorm", "num_classes", num_classes, least=1)
        super().__init__(
            num_features,
            eps=eps,
            momentum=momentum,
            track_running_stats=track_running_stats,
            weight=False,
            bias=False,
            dtype=dtype,
        )
        self.label.arguments = num_features, num_classes
        self.params = tables(num_classes, num_features, self._dtype)
        self.channel_axis = check_size(self, "channel_axis", channel_axis, least=-(2**31))

    def axes(self, x: Array) -> Axes:
        return batch_axes(self, x, self.channel_axis, self.num_features)

    def forward(
        self, x: Array, labels: Array, out: Array | None = None, *, update_stats: bool = True
    ) -> tuple[Array, Saved]:
        """y for x and the classes of its samples; see `BatchNorm.forward`."""
        axes = self.axes(x)
        labels = check_labels(self, labels, x.shape[0], self.num_classes)
        weight, bias = (table[labels] for table in self.params.values())
        y, last = batch_statistics(self, x, axes, weight, bias, out, update_stats)
        return y, back_to_tables(self, x, last, labels)

    def _options(self) -> dict[str, Any]:
        options = super()._options()
        kept = {name: options[name] for name in ("eps", "momentum", "track_running_stats")}
        return kept | {"channel_axis": self.channel_axis}


class ConditionalInstanceNorm(Norm):
    """Conditional instance normalization: instance normalization with a weight and a bias for every class.

    Formula:
        y = xhat * weight[label] + bias[label], xhat = (x - mean) / sqrt(var + eps), with mean and (biased) var over the
        positions of one channel of one sample.

    Shapes:
        x, y: (N, C, L), (N, C, H, W), ...; with channel_axis=-1, (N, ..., C).
        labels: (N,), integers from 0 to num_classes - 1.
        weight, bias: (num_classes, C).

    Args:
        num_features: C.
        num_classes: number of classes (the paper's styles).
        eps, channel_axis, dtype: see `InstanceNorm`.

    It is called as `norm(x, labels)`. The gradients of a class are sums over its samples, in their order.

    Raises:
        ValueError: labels has another shape or contains an unknown class; x as in `InstanceNorm`. TypeError: labels are
            not integers, or x is not a float array.

    Source:
        V. Dumoulin, J. Shlens and M. Kudlur, "A Learned Representation For Artistic Style", 2016, arXiv:1610.07629.
        With one class it is InstanceNorm.

    >>> import numpy as np, normzoo as nz
    >>> norm = nz.ConditionalInstanceNorm(1, num_classes=3)
    >>> norm.bias[2] = 5
    >>> norm(np.float32([[[0, 2]], [[0, 2]]]), np.array([0, 2])).round(2)
    array([[[-1.,  1.]],
    <BLANKLINE>
           [[ 4.,  6.]]], dtype=float32)
    """

    masks = True
    moments = Moments(center=True, power=2)

    def __init__(
        self, num_features: int, num_classes: int, eps: float = 1e-5, *, channel_axis: int = 1, dtype: Any = np.float32
    ) -> None:
        self.num_features = check_features("ConditionalInstanceNorm", num_features)
        self.num_classes = check_size("ConditionalInstanceNorm", "num_classes", num_classes, least=1)
        super().__init__(num_features, num_classes, eps=eps, weight=False, bias=False, dtype=dtype)
        self.params = tables(num_classes, num_features, self._dtype)
        self.channel_axis = check_size(self, "channel_axis", channel_axis, least=-(2**31))

    def axes(self, x: Array) -> Axes:
        return instance_axes(self, x, self.channel_axis, self.num_features)

    def forward(self, x: Array, labels: Array, out: Array | None = None) -> tuple[Array, Saved]:
        """y for x and the class of every sample; see `Norm.forward`."""
        axes, eps = self.axes(x), self.eps or 0.0
        labels = check_labels(self, labels, x.shape[0], self.num_classes)
        weight, bias = (table[labels] for table in self.params.values())
        form = Form(self, axes, InstanceNorm.moments, eps)
        y, last = normalize_tracked(form, x, weight, bias, UNTRACKED, How(True, instance_norm.MESSAGES), out)
        return y, back_to_tables(self, x, last, labels)

    def _options(self) -> dict[str, Any]:
        return super()._options() | {"channel_axis": self.channel_axis}


@once
def batch_axes(owner: object, x: Array, channel_axis: int, features: int) -> Axes:
    """BatchNorm's axes, with parameters of shape (N, C)."""
    found = batch_norm.axes(owner, x, channel_axis, features)
    if found.letters[0] == "K":
        raise ValueError(f"{owner}: expected the samples on axis 0 of x, got channel_axis={channel_axis}")
    return found._replace(letters="R" + found.letters[1:])


@once
def instance_axes(owner: object, x: Array, channel_axis: int, features: int) -> Axes:
    """InstanceNorm's axes, with parameters of shape (N, C)."""
    found = instance_norm.axes(owner, x, channel_axis, features)
    return found._replace(letters="K" + found.letters[1:])


def tables(num_classes: int, num_features: int, dtype: Any) -> dict[str, Array]:
    """Weights of ones and biases of zeros for every class."""
    shape = num_classes, num_features
    return {"weight": np.ones(shape, dtype), "bias": np.zeros(shape, dtype)}


def check_labels(owner: object, labels: Any, samples: int, num_classes: int) -> Array:
    """A checked copy of the classes of the samples."""
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu":
        kind = labels.dtype if isinstance(labels, np.ndarray) else type(labels).__name__
        raise TypeError(f"{owner}: expected labels to be an array of integers, got {kind}; write np.array(labels)")
    if labels.shape != (samples,):
        raise ValueError(f"{owner}: expected labels of shape ({samples},), one for every sample, got {labels.shape}")
    if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError(
            f"{owner}: expected labels from 0 to {num_classes - 1}, got some from {labels.min()} to {labels.max()}"
        )
    return labels.astype(np.intp)


def back_to_tables(
    owner: ConditionalBatchNorm | ConditionalInstanceNorm, x: Array, last: Saved, labels: Array
) -> Saved:
    """The `Saved` of a pass with parameters for every sample: their gradients are summed by class."""
    like = owner.params["weight"]
    shape, dtype = like.shape, like.dtype

    def of_table(d: Any) -> Array:
        total = np.zeros(shape)
        np.add.at(total, labels, d)
        return total.astype(dtype)

    def pull(dy: Array, out: Array | None) -> Grads:
        found = last.backward(dy, out)
        return Grads(found.x, of_table(found.weight), of_table(found.bias))

    return Chained(owner, x, pull, (last,))


def batch_statistics(
    norm: TrackedNorm,
    x: Array,
    axes: Axes,
    weight: Array | None,
    bias: Array | None,
    out: Array | None,
    update_stats: bool,
) -> tuple[Array, Saved]:
    """BatchNorm's forward pass, with its modes and buffers, and with parameters that span the axes given by `axes`."""
    buffers = norm.buffers
    tracked, count = norm.training and norm.track_running_stats, buffers.get("num_batches_tracked")
    read = tracked or not norm.training
    mean, var = (buffers.get("running_mean"), buffers.get("running_var")) if read else (None, None)
    running = Running(mean, var, count if tracked else None, norm.momentum)
    how = How(tracked or mean is None, batch_norm.MESSAGES, update=update_stats)
    form = Form(norm, axes, BatchNorm.moments, norm.eps or 0.0)
    return normalize_tracked(form, x, weight, bias, running, how, out)
