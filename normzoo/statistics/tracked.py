"""The base class of norms that track running statistics."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from normzoo.backends.contract import Array
from normzoo.backends.subnormals import in_any_mode
from normzoo.norm import Norm
from normzoo.passes.arrays import check_array, read_only
from normzoo.passes.attributes import entry
from normzoo.statistics.running_state import RunningState
from normzoo.statistics.updates import USUAL, OnNonfinite, SingleValue, check_rules, updated


class TrackedNorm(Norm):
    """A norm that can track running statistics, in its buffers running_mean, running_var and num_batches_tracked."""

    eps: float
    counts_batches: ClassVar[bool] = True  # are batches counted in num_batches_tracked?
    spread: ClassVar[str] = "running_var"  # the buffer of the norm's running measure of spread, 1 at first

    running_mean = entry("buffers", "running_mean")
    running_var = entry("buffers", "running_var")

    def __init__(
        self,
        num_features: int,
        *,
        momentum: float | None,
        track_running_stats: bool,
        dtype: Any,
        on_nonfinite: OnNonfinite = "propagate",
        single_value: SingleValue = "raise",
        **options: Any,
    ) -> None:
        super().__init__(num_features, shape=(num_features,), dtype=dtype, **options)
        self.num_features = num_features
        self.momentum = momentum
        self.track_running_stats = bool(track_running_stats)
        self.rules = check_rules(self, on_nonfinite, single_value, self.track_running_stats)
        if track_running_stats:
            self.buffers["running_mean"] = np.zeros(num_features, self._dtype)
            self.buffers[self.spread] = np.ones(num_features, self._dtype)
            self.buffers["num_batches_tracked"] = np.array(0, np.int64)

    @property
    def num_batches_tracked(self) -> Array | None:
        """Number of training batches seen, int64 of shape ()."""
        return self.buffers.get("num_batches_tracked")

    def reset_running_stats(self) -> None:
        """Forget all batches: mean 0, variance 1, count 0."""
        names = list(self.buffers)
        RunningState(*self.buffers.values()).replace(
            lambda *old: [np.full(a.shape, name == self.spread) for name, a in zip(names, old, strict=True)]
        )

    def _running(self) -> tuple[Array, Array]:
        """The running statistics, after checking that they can be written."""
        running = self.buffers["running_mean"], self.buffers[self.spread]
        if not all(a.flags.writeable for a in running):
            raise ValueError(f"{self}: expected running statistics that can be written, {read_only(self)}")
        return running

    def _step(self, batches: int) -> float:
        """The weight of the next batch in the running statistics, after `batches` batches."""
        return 1.0 / (batches + 1) if self.momentum is None else self.momentum

    @in_any_mode
    def _take_in(self, size: int, joined: Callable[[int, Array, Array], Sequence[Array]]) -> None:
        """Count a batch of `size` values. If it has any, the running statistics become joined(batches before it, mean,
        measure of spread)."""
        running, count = self._running(), self.buffers["num_batches_tracked"]

        def new(mean: Array, spread: Array, count: Array) -> tuple[Any, ...]:
            batches = count.item()
            return *(joined(batches, mean, spread) if size else (None, None)), batches + 1

        RunningState(*running, count).replace(new)

    def _join(self, new: Sequence[Array], size: int) -> None:
        """Update the running statistics by those of a batch of `size` values, and count the batch."""

        def joined(batches: int, *running: Array) -> list[Array]:
            step, pairs = self._step(batches), zip(running, new, strict=True)
            return [(1 - step) * a.astype(np.float64).ravel() + step * b for a, b in pairs]

        self._take_in(size, joined)

    def _update(self, stats: Array, values: int, size: int) -> None:
        """`_join` by the statistics (3, ...) of sets of `values` values; their variances are made unbiased first."""
        self._take_in(size, lambda batches, *running: updated(running, stats, values, self._step(batches)))

    def _options(self) -> dict[str, Any]:
        unusual = {name: value for name, value in self.rules._asdict().items() if value != getattr(USUAL, name)}
        options = super()._options() | {
            "momentum": self.momentum,
            "affine": "weight" in self.params,
            "bias": "bias" in self.params,
            "track_running_stats": self.track_running_stats,
        }
        channel_axis = getattr(self, "channel_axis", 1)
        return options | ({} if channel_axis == 1 else {"channel_axis": channel_axis}) | unusual


def check_channels(owner: object, x: Array, channel_axis: int, least_rank: int, features: int | None) -> int:
    """The channel axis of x, counted from the front, after checking that it has `features` channels."""
    check_array(owner, "x", x)
    axis = channel_axis % x.ndim if x.ndim >= least_rank and -x.ndim <= channel_axis < x.ndim else None
    wanted = "C" if features is None else str(features)
    if axis is None or (features is not None and x.shape[axis] != features):
        shape = f"(N, ..., {wanted})" if channel_axis == -1 else f"(N, {wanted}, ...)"
        if channel_axis not in (1, -1):
            shape = f"with {wanted} channels on axis {channel_axis}"
        rank = f" and rank {least_rank} or more" if x.ndim < least_rank else ""
        raise ValueError(
            f"{owner}: expected x of shape {shape}{rank}, got {x.shape}{_elsewhere(owner, x, features, least_rank)}"
        )
    return axis


def _elsewhere(owner: object, x: Array, features: int | None, least_rank: int) -> str:
    """Advice for an error message if the channels may be on another axis of x."""
    given = getattr(owner, "channel_axis", None)
    if given is None or features is None or x.ndim < min(2, least_rank - 1):
        return ""
    if x.ndim == 1:
        one = "; for samples of one feature write x[:, None]" if features == 1 else ""
        return "; for a single sample write x[None]" if x.shape[0] == features else one
    for axis, there in ((-1, x.shape[-1]), (1, x.shape[1])):
        if there == features and axis != given:
            return f"; for channels on the {'last axis' if axis == -1 else 'second axis'} write channel_axis={axis}"
    return "; for a single sample write x[None]" if given == 1 and x.shape[0] == features else ""
