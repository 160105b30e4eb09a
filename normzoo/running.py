"""Running statistics: how BatchNorm and InstanceNorm remember the batches they saw."""

from typing import Any

import numpy as np

from normzoo.arrays import check_array, check_eps, check_number, check_parameter, check_size
from normzoo.backends.contract import Array, Moments
from normzoo.norm import Norm, entry
from normzoo.passes import ViewSaved, normalize
from normzoo.view import Axes


def check_running(owner: object, mean: Array | None, var: Array | None, features: int) -> None:
    """Both are there, of one value a channel, or neither."""
    if (mean is None) != (var is None):
        raise ValueError(
            f"{owner}: expected running_mean and running_var, or neither, got only "
            f"{'running_var' if mean is None else 'running_mean'}"
        )
    check_parameter(owner, "running_mean", mean, (features,))
    check_parameter(owner, "running_var", var, (features,))


def normalize_tracked(
    owner: object,
    x: Array,
    axes: Axes,
    moments: Moments,
    running_mean: Array | None,
    running_var: Array | None,
    weight: Array | None,
    bias: Array | None,
    own: bool,
    momentum: float,
    eps: float,
    out: Array | None,
    messages: tuple[str, str],
) -> tuple[Array, ViewSaved]:
    """Normalize by x's own statistics (`own`), which update the running ones in place if given, or by the running ones.

    Args:
        messages: what is wrong where there are no running statistics, and where a set has one value.
    """
    channels = axes.shape[axes.letters.index("K")]
    for name, p in (("weight", weight), ("bias", bias)):
        check_parameter(owner, name, p, (channels,))
    check_running(owner, running_mean, running_var, channels)
    eps = check_eps(owner, eps)
    running = running_mean, running_var
    if not own:
        if running_mean is None or running_var is None:
            raise ValueError(f"{owner}: {messages[0]}")
        return normalize(owner, x, axes, weight, bias, moments, eps, out, (running_mean, running_var), running)
    if axes.values == 1:
        raise ValueError(f"{owner}: {messages[1].format(x.shape)}")
    for a in running:
        if a is not None and not a.flags.writeable:
            raise ValueError(f"{owner}: expected running statistics that can be written, got a read-only array")
    y, saved = normalize(owner, x, axes, weight, bias, moments, eps, out, apart=running)
    if running_mean is not None and running_var is not None and x.size:
        mean, spread = (s.reshape(-1, channels) for s in (saved.mean, saved.spread))
        update(running_mean, running_var, mean, spread, axes.values, momentum)
    return y, saved


def update(running_mean: Array, running_var: Array, mean: Array, spread: Array, count: int, momentum: float) -> None:
    """running = (1 - momentum) * running + momentum * new, in place; the new variance is unbiased.

    Args:
        mean, spread: (sets, channels) statistics of a batch; channels are averaged over the sets.
        count: values in a set.
    """
    if momentum == 0:
        return
    if len(mean) > 1:
        mean, spread = mean.mean(axis=0), spread.mean(axis=0)
    keep, take = np.float64(1 - momentum), np.float64(momentum)  # float64 whatever the buffers are
    with np.errstate(all="ignore"):
        running_mean[...] = keep * running_mean + take * mean.reshape(-1)
        running_var[...] = keep * running_var + (take * count / max(count - 1, 1)) * spread.reshape(-1)


class TrackedNorm(Norm):
    """A norm that can track running statistics: buffers running_mean, running_var and num_batches_tracked."""

    running_mean = entry("buffers", "running_mean")
    running_var = entry("buffers", "running_var")

    def __init__(
        self, num_features: int, *, momentum: float | None, track_running_stats: bool, dtype: Any, **options: Any
    ) -> None:
        super().__init__(num_features, shape=(num_features,), dtype=dtype, **options)
        self.num_features = num_features
        self.momentum = None if momentum is None else check_number(self, "momentum", momentum)
        self.track_running_stats = bool(track_running_stats)
        if track_running_stats:
            self.buffers["running_mean"] = np.zeros(num_features, dtype)
            self.buffers["running_var"] = np.ones(num_features, dtype)
            self.buffers["num_batches_tracked"] = np.array(0, np.int64)

    @property
    def num_batches_tracked(self) -> Array | None:
        """How many training batches were seen, int64 of shape ()."""
        return self.buffers.get("num_batches_tracked")

    def reset_running_stats(self) -> None:
        """Forget all batches: mean 0, variance 1, count 0."""
        for name, value in self.buffers.items():
            value[...] = 1 if name == "running_var" else 0

    def _options(self) -> dict[str, Any]:
        affine = bool(self.params)
        bias = "bias" in self.params
        return super()._options() | {
            "momentum": self.momentum,
            "affine": affine,
            "bias": bias,
            "track_running_stats": self.track_running_stats,
        }


def check_channels(owner: object, x: Array, channel_axis: int, least_rank: int, features: int | None) -> int:
    """The channel axis of x, counted from the front, of `features` channels."""
    check_array(owner, "x", x)
    channel_axis = check_size(owner, "channel_axis", channel_axis, least=-(2**31))
    axis = channel_axis % x.ndim if x.ndim >= least_rank and -x.ndim <= channel_axis < x.ndim else None
    wanted = "C" if features is None else str(features)
    if axis is None or (features is not None and x.shape[axis] != features):
        shape = f"(N, ..., {wanted})" if channel_axis == -1 else f"(N, {wanted}, ...)"
        if channel_axis not in (1, -1):
            shape = f"with {wanted} channels on axis {channel_axis}"
        rank = f" and rank {least_rank} or more" if x.ndim < least_rank else ""
        raise ValueError(f"{owner}: expected x of shape {shape}{rank}, got {x.shape}")
    return axis
