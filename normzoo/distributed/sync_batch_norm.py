"""Batch normalization by the joint statistics of the batches of all processes."""

from typing import Any

import numpy as np

from normzoo.backends import chosen
from normzoo.backends.contract import CONSTANT, Array
from normzoo.distributed.exchange import Exchange
from normzoo.passes.arrays import base_array, check_parameter, compute_dtype, eps_for, on_device
from normzoo.passes.form import Form, Known, Running
from normzoo.passes.normalize import normalize
from normzoo.passes.overlaps import check_out
from normzoo.passes.saved import Grads, Saved, empty_in_layout, layout_of
from normzoo.passes.view import Axes
from normzoo.passes.view_saved import ViewSaved
from normzoo.statistics.running import How, check_running, check_writeable, normalize_tracked
from normzoo.statistics.stats import Stats
from normzoo.statistics.updates import commit, is_finite, nonfinite
from normzoo.zoo.batch.batch_norm import MESSAGES, BatchNorm

FEW = 16  # values of a set: up to this, gradients may be differences of almost equal terms, and float64 is used


class SyncBatchNorm(BatchNorm):
    """Batch normalization by the mean and variance over the batches of all processes.

    Formula:
        As `BatchNorm` on the batches of all ranks, concatenated: y and dx are the rows of this rank. The gradients of
        weight and bias are the sums of this rank; over all ranks they add up to BatchNorm's. Like all other gradients
        in data-parallel training, they must be summed over the ranks by the caller.

    Shapes:
        x, y: as in `BatchNorm`; each rank may have a different number of samples and positions, even none.

    Args:
        num_features, eps, momentum, affine, track_running_stats, bias, channel_axis, dtype, on_nonfinite,
            single_value: see `BatchNorm`; they must be the same on every rank.
        comm: an mpi4py communicator; None is MPI.COMM_WORLD.
        timeout: seconds that a rank waits for the others in a pass.
        on_timeout: "abort" ends all processes with a message; "raise" raises TimeoutError. See `Exchange`.

    In training, every rank calls forward, and backward for it, in the same order. Each call costs one collective of 4 +
    2 * C numbers per rank: count, mean and m2 (backward: the sums of dy and dy * xhat), merged in the order of the
    ranks, so that statistics, running statistics and rstd have the same bits on all ranks. In evaluation by running
    statistics the ranks do not communicate. Besides the exchange, a pass takes longer than BatchNorm's, because
    statistics are known only after all of x was read.

    Raises:
        ValueError, TypeError, FloatingPointError: as `BatchNorm`. An error in a rank's own x or out is raised on that
            rank; the other ranks raise RuntimeError at once. An error in the joint batch (one value, NaN) is raised on
            all ranks.
        RuntimeError: another rank raised, or is in another pass; comm is None and there is no mpi4py.
        TimeoutError: see on_timeout. The norm is unchanged after any of these errors.

    Source:
        S. Ioffe and C. Szegedy, 2015, arXiv:1502.03167; semantics of torch.nn.SyncBatchNorm, on a CPU.

    >>> import normzoo as nz
    >>> norm = nz.SyncBatchNorm(64)  # doctest: +SKIP
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        comm: Any = None,
        timeout: float = 300.0,
        on_timeout: str = "abort",
        **options: Any,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, **options)
        self.exchange = Exchange(self, comm, timeout, on_timeout)

    # measured on (32, 64, 56, 56) float32, besides the exchange: 1.8 times BatchNorm's time, 2.2 times in backward
    def forward(self, x: Array, out: Array | None = None, *, update_stats: bool = True) -> tuple[Array, Saved]:
        if not self.training and "running_mean" in self.buffers:
            return super().forward(x, out, update_stats=update_stats)
        here, count, spare, failed = np.zeros((2, self.num_features)), 0, None, None
        try:
            if type(x) is not np.ndarray:
                x = base_array(self, "x", x)
                if on_device(x):
                    raise TypeError(f"{self}: expected x on the host, got a device array; write x.copy_to_host()")
            axes = self.axes(x)
            eps = self._check(x, axes, out)
            count, here, spare = self._own(x, axes, eps)
        except Exception as error:
            failed = error
        counts, parts = self.exchange.gather("forward", count, here, failed)
        total, found = merged(counts, parts, eps)
        self._check_merged(total, found)
        params, buffers, single = self.params, self.buffers, total == 1
        if single and self.rules.single_value == "running":
            form, running = (
                Form(self, axes, self.moments, eps),
                Running(buffers["running_mean"], buffers["running_var"]),
            )
            weight, bias = params.get("weight"), params.get("bias")
            return normalize_tracked(form, x, weight, bias, running, How(False, MESSAGES), out)
        y, own = self.apply(x, axes, found, eps, self.weight, self.bias, spare if out is None else out)
        skipped = self.rules.on_nonfinite == "skip" and not is_finite(found)
        if self.track_running_stats and update_stats and not single and not skipped:
            batches = self.num_batches_tracked
            running = Running(buffers["running_mean"], buffers["running_var"], batches, self.momentum)
            commit(chosen(), running, found, total, check_running(self, axes, running))
        return y, SyncSaved(self, x, axes, own, found, eps, total)

    def _check(self, x: Array, axes: Axes, out: Array | None) -> float:
        """eps, after all checks that concern this rank alone, before the ranks communicate."""
        eps = eps_for(x) if self.eps is None else self.eps
        if eps == 0:
            raise ValueError(f"{self}: expected eps > 0 where batch statistics are used, got 0; write eps=1e-5")
        for name in ("weight", "bias"):
            check_parameter(self, name, self.params.get(name), axes.parameter_shape)
        running = Running(self.buffers.get("running_mean"), self.buffers.get("running_var"))
        check_running(self, axes, running)
        check_writeable(self, running)
        if out is not None:
            check_out(self, out, x.shape, x.dtype, (x,), (self.weight, self.bias, *running[:2]))
        return eps

    def _own(self, x: Array, axes: Axes, eps: float) -> tuple[int, Array, Array | None]:
        """Count, (mean, m2) of this rank's batch, and an array like y that may be overwritten."""
        if x.size == 0:
            return 0, np.zeros((2, self.num_features)), None
        if axes.values <= FEW:
            stats = Stats.of(x, tuple(i for i, letter in enumerate(axes.letters) if letter == "r"))
            return axes.values, np.stack([stats.mean, stats.m2]), None
        y, found, _ = normalize(Form(self, axes, self.moments, eps), x, None, None, keep=False)
        with np.errstate(over="ignore"):
            here = found[:2].reshape(2, self.num_features) * np.array([[1.0], [axes.values]])
        return axes.values, here, y

    def _check_merged(self, total: int, found: Array) -> None:
        """Raise on all ranks if the joint batch is invalid."""
        if total == 1 and self.rules.single_value == "raise":
            raise ValueError(f"{self}: {MESSAGES[1].format('one value a channel on all ranks together')}")
        if self.rules.on_nonfinite == "raise" and not is_finite(found):
            raise FloatingPointError(nonfinite(self, found))

    def apply(
        self,
        x: Array,
        axes: Axes,
        found: Array,  # (3, 1, C) float64: mean, var, rstd
        eps: float,
        weight: Array | None,
        bias: Array | None,
        out: Array | None = None,
    ) -> tuple[Array, ViewSaved]:
        """For authors of norms: y by these statistics, and a `Saved` for which they are constants: its dx is rstd * dy
        * weight, and its sums are those that the ranks exchange."""
        weight, bias = (  # in the computing dtype and never None: their gradients are the sums
            np.full(self.num_features, value, compute_dtype(x.dtype))
            if p is None
            else p.astype(compute_dtype(x.dtype, p.dtype), copy=False)
            for p, value in ((weight, 1), (bias, 0))
        )
        y, _, saved = normalize(Form(self, axes, CONSTANT, eps), x, weight, bias, out, Known(found))
        return y, saved

    def _options(self) -> dict[str, Any]:
        return super()._options() | {"timeout": self.exchange.timeout}


def merged(counts: Array, parts: Array, eps: float) -> tuple[int, Array]:
    """The total number of values, and their mean, var and rstd (3, 1, C), from count and (mean, m2) of every rank."""
    stats = Stats.empty(parts.shape[2:])
    for count, (mean, m2) in zip(counts, parts, strict=True):
        stats = stats.merge(Stats(count, mean, m2))
    found = np.zeros((3, 1, *stats.shape))
    if stats.count:
        with np.errstate(all="ignore"):
            found[:, 0] = stats.mean, stats.var(), 1 / np.sqrt(stats.var() + eps)
    return int(stats.count), found


class SyncSaved(Saved):
    """The `Saved` of one rank's part of a joint batch: the means in its gradient are those over all ranks."""

    __slots__ = ("_axes", "_eps", "_found", "_met", "_own", "_total", "_x")

    _owner: SyncBatchNorm

    def __init__(
        self, owner: SyncBatchNorm, x: Array, axes: Axes, own: ViewSaved, found: Array, eps: float, total: int
    ) -> None:
        self._owner, self._own, self._total, self._x = owner, own, total, x
        self._axes, self._found, self._eps, self._like = axes, found, eps, (x.shape, x.dtype)
        self._weight, self._bias = owner.weight, owner.bias
        self._source, self._overwritten, self._met = x, own._overwritten, False

    @property
    def mean(self) -> Array:
        """The mean over all ranks, (1, C) float64."""
        return self._found[0]

    @property
    def spread(self) -> Array:
        """The biased variance over all ranks, (1, C) float64."""
        return self._found[1]

    @property
    def rstd(self) -> Array:
        """1 / sqrt(spread + eps), (1, C) float64."""
        return self._found[2]

    def _changed(self) -> str | None:
        return self._own._changed()

    def backward(self, dy: Array, out: Array | None = None, ds: Array | None = None) -> Grads:
        self._met = False
        try:
            return super().backward(dy, out, ds)
        except Exception as error:
            if not self._met:  # the other ranks must not wait for this one
                self._owner.exchange.gather("backward", 0, np.zeros((2, self._owner.num_features)), error)
            raise

    def _backward(self, dy: Array, out: Array | None, ds: Array | None = None) -> Grads:
        owner, x, found, weight, bias = self._owner, self._x, self._found, self._weight, self._bias
        # 1 sums of dy and dy * xhat, and rstd * g, of this rank
        wide = np.dtype(np.float64) if self._total <= FEW else compute_dtype(x.dtype, dy.dtype)
        own = self._own
        if x.dtype != wide:
            x = x.astype(wide)
            _, own = owner.apply(x, self._axes, found, self._eps, weight, bias)
        dx, *own_sums = own.backward(dy)
        sums = np.asarray(own_sums, np.float64)  # of dy * xhat and of dy
        # 2 the sums of all ranks
        self._met = True
        _, parts = owner.exchange.gather("backward", self._axes.values if x.size else 0, sums)
        with np.errstate(all="ignore"):
            means = parts.sum(axis=0) / max(self._total, 1)
            scale = -found[2, 0] * (1.0 if weight is None else weight.astype(np.float64))
            slope, shift = ((scale * mean).astype(wide) for mean in means)
            # 3 dx = rstd * g - rstd * weight * (mean(dy) + xhat * mean(dy * xhat))
            dx += normalize(
                Form(owner, self._axes, CONSTANT, self._eps), x, slope, shift, None, Known(found), keep=False
            )[0]
            if self._total == 1:
                dx[...] = 0.0
            if out is not None or dx.dtype != self._x.dtype:
                given = empty_in_layout(*self._like, layout_of(self._x)) if out is None else out
                given[...] = dx
                dx = given
            return Grads(
                dx,
                None if weight is None else sums[0].astype(weight.dtype),
                None if bias is None else sums[1].astype(bias.dtype),
            )


def convert_sync(norm: Any, comm: Any = None, *, timeout: float = 300.0, on_timeout: str = "abort") -> SyncBatchNorm:
    """A `SyncBatchNorm` that replaces a `BatchNorm`: with the same parameters and buffers (the arrays themselves),
    options and mode. See `SyncBatchNorm` for the arguments.

    Raises:
        TypeError: `norm` is not a BatchNorm. Norms such as LayerNorm treat each sample alone and need no conversion.
        ValueError: it has an activation or the like, which `SyncBatchNorm` does not support.
    """
    if type(norm) not in (BatchNorm, SyncBatchNorm):
        raise TypeError(f"convert_sync: expected a BatchNorm, got {type(norm).__name__}; leave other norms as they are")
    norm._check_alone("convert_sync", "write norm.activation = None, and compute that behind the norm")
    new = SyncBatchNorm(
        norm.num_features,
        norm.eps if norm.eps is not None else 1e-5,
        norm.momentum,
        track_running_stats=norm.track_running_stats,
        channel_axis=norm.channel_axis,
        comm=comm,
        timeout=timeout,
        on_timeout=on_timeout,
        **norm.rules._asdict(),
    )
    new.eps, new.params, new.buffers = norm.eps, dict(norm.params), dict(norm.buffers)
    return new.train(norm.training)
