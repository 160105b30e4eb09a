"""Running statistics: how BatchNorm and InstanceNorm remember the batches they saw.


A pass reads them, or replaces them by new ones: all of mean, variance and count or, where anything raises, nothing.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy import ndarray

from normzoo.backends import chosen
from normzoo.backends.contract import CONSTANT, Array, Moments
from normzoo.backends.subnormals import in_any_mode
from normzoo.norm import Norm, entry
from normzoo.passes.arrays import (
    backend_of,
    base_array,
    check_array,
    check_momentum,
    check_out,
    check_parameter,
    compute_dtype,
    kernel_array,
    read_only,
)
from normzoo.passes.normalize import DOUBLE, Recent, ViewSaved, normalize
from normzoo.passes.view import Axes
from normzoo.selection.selected import Selected, average_of
from normzoo.statistics.running_state import RunningState
from normzoo.statistics.updates import USUAL, Rules, check_rules, commit, is_finite, nonfinite, updated


class Tracking(NamedTuple):
    """What is known of a pair of running statistics, and of x's sets."""

    key: tuple  # shape, dtype and flags.num of mean and variance
    values: int  # in a set
    ready: bool  # backends take the arrays as they are
    writeable: bool


def check_running(owner: object, axes: Axes, mean: Array | None, var: Array | None, key: tuple = ()) -> Tracking:
    """Both are there, of one value a channel, or neither."""
    if (mean is None) != (var is None):
        raise ValueError(
            f"{owner}: expected running_mean and running_var, or neither, got only "
            f"{'running_var' if mean is None else 'running_mean'}"
        )
    for name, a in (("running_mean", mean), ("running_var", var)):
        check_parameter(owner, name, a, axes.sizes("K"))
    arrays = [a for a in (mean, var) if a is not None]
    ready = all(a.dtype in (np.float32, np.float64) and a.flags.c_contiguous and a.flags.aligned for a in arrays)
    return Tracking(key, axes.values, ready, all(a.flags.writeable for a in arrays))


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
    messages: tuple[str, ...],
    keep: bool = True,
    *,
    rules: Rules = USUAL,
    update: bool = True,
    count: Array | None = None,
    average: bool = False,
) -> tuple[Array, Any]:
    """Normalize by x's own statistics (`own`), which update the running ones in place if given, or by the running ones.

    Args:
        messages: what is wrong where there are no running statistics, where a set has one value and, if it is, where
            eps is 0 and x's own statistics are used.
        keep: see `normalize`.
        rules: see `Rules`.
        update: False leaves the running statistics and `count` as they are.
        count: num_batches_tracked, which goes up with an update; or None.
        average: the momentum is 1 / (count + 1): all batches weigh the same.
    """
    name, plan = chosen(), axes.recent
    usual = own and update and out is None and rules is USUAL and not average
    if usual and plan is not None and plan.tracked and plan.asked == (moments, name, None):
        made = plan.new_small(plan.kept_shape, DOUBLE) if keep else None
        y = plan.tracked.call(
            plan.tracked.block, x, weight, bias, eps, made, running_mean, running_var, count, momentum
        )
        if y is not None:
            return y, ViewSaved(owner, plan, x, x, weight, bias, eps, made) if made is not None else None
    if own and eps == 0 and len(messages) > 2:
        raise ValueError(f"{owner}: {messages[2]}")
    if running_mean is not None and type(running_mean) is not ndarray:
        running_mean = base_array(owner, "running_mean", running_mean)
    if running_var is not None and type(running_var) is not ndarray:
        running_var = base_array(owner, "running_var", running_var)
    if type(x) is Selected:
        return _selected(
            owner, x, axes, moments, running_mean, running_var, weight, bias, own, momentum, eps, out, messages,
            rules, count if update else None, average, update,
        )  # fmt: skip
    if type(x) is not ndarray or (running_mean is not None and type(running_mean) is not ndarray):
        x = base_array(owner, "x", x)
        name = backend_of(owner, x=x, running_mean=running_mean, running_var=running_var)
    m_shape = m_dtype = m_flags = v_shape = v_dtype = v_flags = None
    if running_mean is not None:
        m_shape, m_dtype, m_flags = running_mean.shape, running_mean.dtype, running_mean.flags.num
    if running_var is not None:
        v_shape, v_dtype, v_flags = running_var.shape, running_var.dtype, running_var.flags.num
    key = m_shape, m_dtype, m_flags, v_shape, v_dtype, v_flags
    found = axes.tracked
    if found is None or found.key != key:
        found = axes.tracked = check_running(owner, axes, running_mean, running_var, key)
    if own and found.values == 1:
        if rules.single_value == "raise":
            raise ValueError(f"{owner}: {messages[1].format(x.shape)}")
        own, update = rules.single_value == "bias", False
    if not own:
        if running_mean is None or running_var is None:
            raise ValueError(f"{owner}: {messages[0]}")
        given = apart = running_mean, running_var
        if not found.ready:
            mean, var = (kernel_array(a, compute_dtype(a.dtype)) for a in apart)
            given = mean, var
        y, _, saved = normalize(owner, x, axes, weight, bias, moments, eps, out, keep=keep, given=given, apart=apart)
        return y, saved
    running: tuple[Array, Array] | None = None
    if running_mean is not None and running_var is not None and update:
        running = running_mean, running_var
        if not found.writeable:
            raise ValueError(f"{owner}: expected running statistics that can be written, {read_only(owner)}")
    late = out if rules.on_nonfinite == "raise" else None  # out is not written where this raises
    y, stats, saved = normalize(
        owner, x, axes, weight, bias, moments, eps, out if late is None else None, keep=keep, apart=running or ()
    )
    if rules is not USUAL and rules.on_nonfinite != "propagate" and not is_finite(stats):
        if rules.on_nonfinite == "raise":
            raise FloatingPointError(nonfinite(owner, stats))
        running = count = None
    if late is not None:
        check_out(owner, late, x.shape, x.dtype, (x,), (weight, bias, *(running or ())))
        late[...] = y
        y = late
        if saved is not None:
            saved.overwrite(late)
    if update and running is not None:
        plan = axes.recent  # of this pass, unless another thread was faster, or has cleared all plans
        if usual and found.ready and plan is not None:
            plan.shorten_tracked((key[:3], key[3:]))
        commit(name, running, count, stats, found.values if x.size else 0, momentum, average, found.ready)
    return y, saved


def recall_tracked(
    recent: Recent,
    asked: object,
    x: Array,
    running_mean: Array | None,
    running_var: Array | None,
    weight: Array | None,
    bias: Array | None,
    momentum: float,
    eps: float,
) -> Array | None:
    """As `passes.recall`, of a pass that updates running statistics."""
    given, plan, shortcut = recent.last
    if asked is not given or plan.name != chosen():
        return None
    return shortcut.call(shortcut.block, x, weight, bias, eps, None, running_mean, running_var, None, momentum)


def _selected(
    owner: object,
    x: Selected,
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
    messages: tuple[str, ...],
    rules: Rules,
    count: Array | None,
    average: bool,
    update: bool,
) -> tuple[Array, Any]:
    """`normalize_tracked` where not all values count: channels without any leave their running statistics alone."""
    known = check_running(owner, axes, running_mean, running_var)
    if running_mean is None or running_var is None:
        if not own:
            raise ValueError(f"{owner}: {messages[0]}")
        y, _, saved = normalize(owner, x, axes, weight, bias, moments, eps, out)
        return y, saved
    running = running_mean, running_var
    if not own:
        mean, var = (kernel_array(a, compute_dtype(a.dtype)) for a in running)
        y, _, saved = normalize(owner, x, axes, weight, bias, moments, eps, out, given=(mean, var), apart=running)
        return y, saved
    if update and not known.writeable:
        raise ValueError(f"{owner}: expected running statistics that can be written, {read_only(owner)}")
    if out is not None and np.may_share_memory(out, x.x):  # which the backward pass reads
        x = Selected(x.x.copy(order="K"), x.mask, x.sample_weight, x.segments, x.segment_axis, x.masked)
    made, found, saved = normalize(owner, x, axes, weight, bias, moments, eps, apart=running)
    if (found.size == 1).any():
        if rules.single_value == "raise":
            raise ValueError(f"{owner}: {messages[1].format(x.shape)}")
        update = False
    statistics = np.stack([found.mean, found.var]).reshape(2, 1, -1)
    if rules.on_nonfinite != "propagate" and not is_finite(statistics):
        if rules.on_nonfinite == "raise":
            raise FloatingPointError(nonfinite(owner, statistics))
        update = False
    if out is not None:
        check_out(owner, out, x.shape, x.dtype, (x.x,), (weight, bias, *running))
        out[...] = made
        made = out
    if update:
        kept = [letter for letter in axes.letters if letter in "kK"]
        new_mean, new_var, filled = average_of(found, kept.index("K"))

        def joined(mean: Array, var: Array, batches: Array | None = None) -> list[Array]:
            step = 1.0 / (batches.item() + 1) if average and batches is not None else momentum
            pairs = (mean, new_mean), (var, new_var)
            found = [np.where(filled, (1 - step) * a.astype(np.float64) + step * new, a) for a, new in pairs]
            return found if batches is None else [*found, batches + 1]

        RunningState(*running, *(() if count is None else (count,))).replace(joined)
    return made, saved


def normalize_by(
    owner: object,
    x: Array,
    axes: Axes,
    mean: Array,
    rstd: Array,
    weight: Array | None,
    bias: Array | None,
    out: Array | None,
    apart: tuple[Array, ...] = (),
) -> tuple[Array, Any]:
    """y = (x - mean) * rstd * weight + bias by statistics of every set that are constants of the gradient."""
    stats = np.stack([np.asarray(a, np.float64).reshape(-1) for a in (mean, np.zeros_like(mean), rstd)])
    y, _, saved = normalize(owner, x, axes, weight, bias, CONSTANT, 0.0, out, stats=stats, apart=apart)
    return y, saved


class TrackedNorm(Norm):
    """A norm that can track running statistics: buffers running_mean, running_var and num_batches_tracked."""

    eps: float
    counts_batches: ClassVar[bool] = True  # in num_batches_tracked
    spread: ClassVar[str] = "running_var"  # what a norm calls its running measure of spread, 1 at first

    running_mean = entry("buffers", "running_mean")
    running_var = entry("buffers", "running_var")

    def __init__(
        self,
        num_features: int,
        *,
        momentum: float | None,
        track_running_stats: bool,
        dtype: Any,
        on_nonfinite: str = "propagate",
        single_value: str = "raise",
        **options: Any,
    ) -> None:
        super().__init__(num_features, shape=(num_features,), dtype=dtype, **options)
        self.num_features = num_features
        self.momentum = None if momentum is None else check_momentum(self, momentum)
        self.track_running_stats = bool(track_running_stats)
        self.rules = check_rules(self, on_nonfinite, single_value, self.track_running_stats)
        if track_running_stats:
            self.buffers["running_mean"] = np.zeros(num_features, self._dtype)
            self.buffers[self.spread] = np.ones(num_features, self._dtype)
            self.buffers["num_batches_tracked"] = np.array(0, np.int64)

    @property
    def num_batches_tracked(self) -> Array | None:
        """How many training batches were seen, int64 of shape ()."""
        return self.buffers.get("num_batches_tracked")

    def reset_running_stats(self) -> None:
        """Forget all batches: mean 0, variance 1, count 0."""
        names = list(self.buffers)
        RunningState(*self.buffers.values()).replace(
            lambda *old: [np.full(a.shape, name == self.spread) for name, a in zip(names, old, strict=True)]
        )

    def _running(self) -> tuple[Array, Array]:
        """The running statistics, to be written to."""
        running = self.buffers["running_mean"], self.buffers[self.spread]
        if not all(a.flags.writeable for a in running):
            raise ValueError(f"{self}: expected running statistics that can be written, {read_only(self)}")
        return running

    def _step(self, batches: int) -> float:
        """The weight of the next batch in the running statistics, after so many."""
        return 1.0 / (batches + 1) if self.momentum is None else self.momentum

    @in_any_mode
    def _take_in(self, size: int, joined: Callable[[int, Array, Array], Sequence[Array]]) -> None:
        """Count a batch of `size` values; if it has any, the running statistics become joined(batches before it, mean,
        measure of spread)."""
        running, count = self._running(), self.buffers["num_batches_tracked"]

        def new(mean: Array, spread: Array, count: Array) -> tuple[Any, ...]:
            batches = count.item()
            return *(joined(batches, mean, spread) if size else (None, None)), batches + 1

        RunningState(*running, count).replace(new)

    def _join(self, new: Sequence[Array], size: int) -> None:
        """The statistics of a batch of `size` values join the running ones, and it is counted."""

        def joined(batches: int, *running: Array) -> list[Array]:
            step, pairs = self._step(batches), zip(running, new, strict=True)
            return [(1 - step) * a.astype(np.float64).ravel() + step * b for a, b in pairs]

        self._take_in(size, joined)

    def _update(self, stats: Array, values: int, size: int) -> None:
        """As `_join`, by the statistics (3, ...) of sets of `values` values: their variance becomes the unbiased
        one."""
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
    """The channel axis of x, counted from the front, of `features` channels."""
    check_array(owner, "x", x)
    axis = channel_axis % x.ndim if x.ndim >= least_rank and -x.ndim <= channel_axis < x.ndim else None
    wanted = "C" if features is None else str(features)
    if axis is None or (features is not None and x.shape[axis] != features):
        shape = f"(N, ..., {wanted})" if channel_axis == -1 else f"(N, {wanted}, ...)"
        if channel_axis not in (1, -1):
            shape = f"with {wanted} channels on axis {channel_axis}"
        rank = f" and rank {least_rank} or more" if x.ndim < least_rank else ""
        raise ValueError(f"{owner}: expected x of shape {shape}{rank}, got {x.shape}{_elsewhere(owner, x, features)}")
    return axis


def _elsewhere(owner: object, x: Array, features: int | None) -> str:
    """What to write where the channels may be on another axis of x."""
    given = getattr(owner, "channel_axis", None)
    if given is None or features is None or x.ndim < 2:
        return ""
    for axis, there in ((-1, x.shape[-1]), (1, x.shape[1])):
        if there == features and axis != given:
            return f"; for channels on the {'last axis' if axis == -1 else 'second axis'} write channel_axis={axis}"
    return "; for a single sample write x[None]" if given == 1 and x.shape[0] == features else ""
