"""Whitening: the parts that norms which decorrelate channels share. Their statistics are matrices, which the backends
do not compute: NumPy, in float64, on every backend; by `tiles.py` where batches are whitened."""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import numpy as np

from normzoo.backends.contract import Array
from normzoo.passes.attributes import entry
from normzoo.passes.cells import Pass
from normzoo.passes.cells import Pull as CellPull
from normzoo.passes.formulas import centered, product, reciprocal, summed, unit
from normzoo.passes.numbers import check_size
from normzoo.passes.numpy_threads import on_threads
from normzoo.passes.saved import Pull, Saved
from normzoo.statistics.running_state import RunningState
from normzoo.statistics.tracked import check_channels
from normzoo.zoo.exact import ExactNorm, Update
from normzoo.zoo.whitening.tiles import (
    LEAST_POSITIONS,
    MOST_VARIABLES,
    Back,
    Tile,
    Whitened,
    check_finite,
    factors_of,
    groups_of,
    whiten,
)

TOGETHER = 1 << 14  # values of matrices that NumPy computes in one step


class BatchWhitening(ExactNorm):
    """Base class of `DecorrelatedBatchNorm` and `IterNorm`: groups of channels, each decorrelated over the batch and
    all positions. Buffers: running_mean (C,), the running whitening matrices, and num_batches_tracked."""

    counts_empty: ClassVar[bool] = True

    matrix: ClassVar[str]  # name of the buffer of whitening matrices, (groups, channels per group, channels per group)
    iterations: int | None = None  # see `whitened`

    running_mean = entry("buffers", "running_mean")

    def __init__(
        self,
        *arguments: Any,
        num_features: int,
        num_channels: int,
        eps: float,
        momentum: float | None,
        affine: bool,
        bias: bool,
        channel_axis: int,
        dtype: Any,
    ) -> None:
        super().__init__(*arguments, shape=(num_features,), eps=eps, weight=affine, bias=affine and bias, dtype=dtype)
        if num_features % num_channels:
            raise ValueError(f"{self}: expected groups of one size, got {num_features=}, {num_channels=} a group")
        self.num_features, self.num_channels = num_features, num_channels
        self.num_groups = num_features // num_channels
        self.momentum = momentum
        self.channel_axis = check_size(self, "channel_axis", channel_axis, least=-(2**31))
        one = np.broadcast_to(np.eye(num_channels), (self.num_groups, num_channels, num_channels))
        self.buffers["running_mean"] = np.zeros(num_features, self._dtype)
        self.buffers[self.matrix] = one.astype(self._dtype, order="C")
        self.buffers["num_batches_tracked"] = np.array(0, np.int64)

    @property
    def num_batches_tracked(self) -> Array:
        """Number of training batches seen, int64 of shape ()."""
        return self.buffers["num_batches_tracked"]

    def reset_running_stats(self) -> None:
        """Forget all batches: mean 0, identity whitening matrices, count 0."""
        one = np.broadcast_to(np.eye(self.num_channels), (self.num_groups, self.num_channels, self.num_channels))
        new = [one if name == self.matrix else np.zeros(a.shape) for name, a in self.buffers.items()]
        RunningState(*self.buffers.values()).replace(lambda *old: new)

    def check(self, x: Array, **inputs: Array) -> None:
        check_channels(self, x, self.channel_axis, 2, self.num_features)
        if self.training and self.eps == 0:
            raise ValueError(f"{self}: expected eps > 0 where batch statistics are used, got 0; write eps=1e-5")
        if self.training and x.size == self.num_features > 0:
            raise ValueError(
                f"{self}: expected more than 1 value per channel in training, got x of shape {x.shape}; use a larger "
                "batch or norm.eval()"
            )

    def forward(self, x: Array, out: Array | None = None, *, update_stats: bool = True) -> tuple[Array, Saved]:
        """See `BatchNorm.forward`."""
        return self.exactly(x, out, update_stats=update_stats)

    def letters(self, x: Array) -> str:
        positions = x.size // max(1, len(x) * self.num_features)
        if self.num_channels > MOST_VARIABLES or 1 < positions < LEAST_POSITIONS:
            return ""
        channel = self.channel_axis % x.ndim
        return "".join("c" if i == channel else "n" if channel == 0 or i else "b" for i in range(x.ndim))

    def by_cells(self, cells: Pass, params: Mapping[str, Array]) -> CellPull:
        g, d = self.num_groups, self.num_channels
        weight, bias = (  # (groups, 1, channels of a group)
            params.get(name, np.full(g * d, value)).reshape(g, 1, d) for name, value in (("weight", 1.0), ("bias", 0.0))
        )
        x, y = (groups_of(cells.channels_first(i), g) for i in (-1, None))
        with np.errstate(all="ignore"):
            if self.training:
                found = whiten(x, self.eps, True, lambda a: of_sets(a, self.eps, self.iterations))
                mean, matrix = np.empty((g, d)), np.empty((g, d, d))
                for one in found:
                    mean[one.some], matrix[one.some] = one.high + one.low, one.matrix
                cells.track(partial(self._updated, mean, matrix))
            else:
                held = RunningState(self.buffers["running_mean"], self.buffers[self.matrix]).read()
                mean, matrix = (a.astype(np.float64) for a in held)
                check_finite(mean, matrix)
                mean = mean.reshape(g, d)
                found = [Whitened(slice(None), False, mean, np.zeros_like(mean), matrix, None)]
            for one in found:
                some = weight[one.some, ..., None] * one.matrix[:, None]
                factors = factors_of(some, one.low[:, None], bias[one.some])
                one.write(one.tiled(x, True), y, partial(_of_tile, factors))

        def pull(cells: Pass) -> dict[str, Array]:
            x, dy, dx = (groups_of(cells.channels_first(i), g) for i in (-1, 0, None))
            of_weight, of_bias = np.zeros((g, d)), np.zeros((g, d))
            with np.errstate(all="ignore"):
                for one in found:
                    of_weight[one.some], of_bias[one.some] = _back(one, x, dy, dx, weight[one.some], bool(params))
            grads = {"bias": of_bias.reshape(-1), "weight": of_weight.reshape(-1)}
            return {name: grads[name] for name in params}

        return pull

    def _updated(self, mean: Array, matrix: Array, old: Mapping[str, Array]) -> dict[str, Any]:
        """The buffers after a batch."""
        batches = old["num_batches_tracked"].item() + 1
        step = 1.0 / batches if self.momentum is None else self.momentum
        pairs = (("running_mean", mean.reshape(-1)), (self.matrix, matrix)) if step else ()
        joined = {name: (1 - step) * old[name].astype(np.float64) + step * new for name, new in pairs}
        return joined | {"num_batches_tracked": batches}

    def compute(self, x: Array, params: Mapping[str, Array], **inputs: Array) -> tuple[Array, Pull, Update | None]:
        axis = self.channel_axis % x.ndim
        first = np.moveaxis(x, axis, 0)
        v = first.reshape(self.num_groups, self.num_channels, x.size // max(self.num_features, 1))
        update: Update | None = None
        if self.training:
            xhat, mean, matrix, back = whitened(v, self.eps or 0.0, self.iterations)
            update = partial(self._updated, mean, matrix)
        else:
            held = RunningState(self.buffers["running_mean"], self.buffers[self.matrix]).read()
            mean, matrix = (a.astype(np.float64) for a in held)
            xhat = product(matrix, v - mean.reshape(*v.shape[:2], 1))

            def back(d: Array) -> Array:
                return product(matrix.swapaxes(1, 2), d)

        def placed(d: Array) -> Array:
            return np.moveaxis(d.reshape(first.shape), 0, axis)

        y, pull = affine(placed(xhat), params, axis, lambda d: placed(back(np.moveaxis(d, axis, 0).reshape(v.shape))))
        return y, pull, update

    def _options(self) -> dict[str, Any]:
        return super()._options() | {
            "momentum": self.momentum,
            "affine": bool(self.params),
            "bias": "bias" in self.params,
            "channel_axis": self.channel_axis,
        }


def _back(one: Whitened, x: Array, dy: Array, dx: Array, weight: Array, learned: bool) -> tuple[Array, Array]:
    """Writes dx of some groups of a batch, (groups, samples, d, n), and returns the gradients of weight and bias,
    (groups, d)."""
    sets, own = one.tiled(x, True), one.of(dy)
    groups, d = one.high.shape
    along, total = np.zeros((groups, d, d)), np.zeros((groups, d))
    if learned or one.back is not None:
        for tile, a, b in sets.along(own, lambda tile, a, b: (tile, a.sum(axis=1), b.sum(axis=1))):
            along[tile[0]] += a
            total[tile[0]] += b
        check_finite(along, total)
    transposed = (weight[:, 0, :, None] * one.matrix).swapaxes(1, 2)
    if one.back is None:
        factors = np.concatenate([transposed, np.zeros((groups, d, 1))], axis=2)
    else:
        d_covariance = one.back(weight[:, 0, :, None] * along)
        both = (d_covariance + d_covariance.swapaxes(1, 2)) / sets.count
        of_mean = -product(transposed, total[..., None])[..., 0] / sets.count
        factors = np.concatenate([transposed, factors_of(both, one.low, of_mean)], axis=2)
    one.write(sets, dx, partial(_of_tile, factors[:, None]), own, one.back is not None)
    return (one.matrix * along).sum(axis=2), total


def _of_tile(factors: Array, tile: Tile) -> Array:
    return factors[tile[0]]


def affine(xhat: Array, params: Mapping[str, Array], axis: int, back: Back) -> tuple[Array, Pull]:
    """xhat * weight + bias, with those of both that `params` has, by channels on `axis`; and the function from dy to
    the gradients."""
    shape = tuple(-1 if i == axis else 1 for i in range(xhat.ndim))
    along = tuple(1 if i != axis else size for i, size in enumerate(xhat.shape))
    y = xhat * params["weight"].reshape(shape) if "weight" in params else xhat
    y = y + params["bias"].reshape(shape) if "bias" in params else y

    def pull(dy: Array) -> dict[str, Array]:
        found = {}
        if "bias" in params:
            found["bias"] = summed(dy, along)
        if "weight" in params:
            found["weight"] = summed(dy * xhat, along)
            dy = dy * params["weight"].reshape(shape)
        return found | {"x": back(dy)}

    return y, pull


def transposed_product(a: Array, b: Array) -> Array:
    """a b^T along the last two axes."""
    return product(a, b.swapaxes(-1, -2))


def whitened(
    v: Array,  # (sets, d, m): m samples of d variables per set
    eps: float,
    iterations: int | None,  # number of Newton iterations, or None for eigenvectors
) -> tuple[Array, Array, Array, Back]:
    """(xhat, mean, matrix, back): xhat = matrix (v - mean), with matrix = (covariance + eps I)^(-1/2); back is the
    function from the gradient of xhat to that of v."""
    if v.size == 0:
        return v, np.zeros(v.shape[:2]), np.broadcast_to(np.eye(v.shape[1]), (len(v), v.shape[1], v.shape[1])), np.copy
    one = unit(v, (1, 2), eps**0.5)
    mean, deviation = centered(v * one, -1)
    m, added = v.shape[2], eps * one * one
    covariance = transposed_product(deviation, deviation) / m
    matrix, back_matrix = matrix_of(covariance, added, iterations)

    def back(g: Array) -> Array:
        d_covariance = back_matrix(transposed_product(g, deviation))
        both = (d_covariance + d_covariance.swapaxes(1, 2)) / m
        d = product(matrix.swapaxes(1, 2), g) + product(both, deviation)
        return (d - d.mean(axis=2, keepdims=True)) * one

    return product(matrix, deviation), (mean / one)[..., 0], matrix * one, back


def matrix_of(covariance: Array, eps: Array, iterations: int | None) -> tuple[Array, Back]:
    """(covariance + eps I)^(-1/2), and the function from its gradient to the covariance's. eps: (sets, 1, 1)."""
    return by_eigenvectors(covariance, eps) if iterations is None else by_newton(covariance, eps, iterations)


def of_sets(covariance: Array, eps: float, iterations: int | None) -> tuple[Array, Back]:
    """`matrix_of`, on threads; every set is computed as if it were alone."""
    sets, d = covariance.shape[:2]
    added = np.full((sets, 1, 1), eps)
    step = max(1, TOGETHER // (d * d))
    parts = [slice(i, i + step) for i in range(0, sets, step)]
    matrix, backs = np.empty_like(covariance), dict[int, Back]()

    def some(part: slice) -> None:
        matrix[part], backs[part.start] = matrix_of(covariance[part], added[part], iterations)

    on_threads(some, parts)

    def back(g: Array) -> Array:
        found = np.empty_like(g)

        def some(part: slice) -> None:
            found[part] = backs[part.start](g[part])

        on_threads(some, parts)
        return found

    return matrix, back


def by_eigenvectors(covariance: Array, eps: Array) -> tuple[Array, Back]:
    """(covariance + eps I)^(-1/2) by eigenvectors, and the function from its gradient to that of the covariance.

    With r the square roots of the eigenvalues, the derivative divides by r_i r_j (r_i + r_j), whereas that of the
    eigenvectors divides by differences of eigenvalues: equal eigenvalues are no problem."""
    finite = np.isfinite(covariance.sum(axis=2)).all(axis=1, keepdims=True)
    values, vectors = np.linalg.eigh(np.where(finite[..., None], covariance, np.eye(covariance.shape[1])))
    root = np.where(finite, np.sqrt(np.maximum(values, 0.0) + eps[:, 0]), np.nan)
    i, j = root[:, :, None], root[:, None, :]

    def back(g: Array) -> Array:
        along = product(product(vectors.swapaxes(1, 2), g), vectors)
        inner = np.divide(along, -(i * j * (i + j)), out=np.zeros_like(along), where=i * j != 0)
        return product(product(vectors, inner), vectors.swapaxes(1, 2))

    # a root is 0 for a direction without variance, beside values so large that eps vanishes
    scaled = np.divide(vectors, j, out=np.zeros_like(vectors), where=np.broadcast_to(j != 0, vectors.shape))
    return transposed_product(scaled, vectors), back


def by_newton(covariance: Array, eps: Array, iterations: int) -> tuple[Array, Back]:
    """(covariance + eps I)^(-1/2) by Newton's iterations p = (3 p - p^3 s) / 2 from the identity; s is the matrix over
    its trace.

    They are computed as p = f p, q = q f with f = (3 - p q) / 2 and q = p s, which is the same in exact arithmetic. But
    p alone loses all digits after it has converged: its rounding errors do not commute with s, and grow."""
    one = np.eye(covariance.shape[1])
    sigma = covariance + eps * one
    inverse = reciprocal(np.trace(sigma, axis1=1, axis2=2)[:, None, None])
    scaled = sigma * inverse
    p, q = np.broadcast_to(one, sigma.shape), scaled
    steps = []
    for k in range(iterations):
        f = (product(p, q) if k else q) * -0.5  # the first p is the identity
        f += 1.5 * one
        steps.append((p, q, f))
        p = product(f, p) if k else f
        if k + 1 < iterations:
            q = product(q, f)
    root = np.sqrt(inverse)

    def back(g: Array) -> Array:
        dp, dq = g * root, np.zeros_like(sigma)
        for k, (p_old, q_old, f) in reversed(list(enumerate(steps))):
            df = transposed_product(dp, p_old) if k else dp
            if k + 1 < iterations:  # the last q is not used
                df = df + product(q_old.swapaxes(1, 2), dq)
                dq = transposed_product(dq, f)
            dq = dq - 0.5 * (product(p_old.swapaxes(1, 2), df) if k else df)
            if k:
                dp = product(f.swapaxes(1, 2), dp) - 0.5 * transposed_product(df, q_old)
        # root = trace^(-1/2), scaled = sigma / trace
        by_root = (g * p).sum(axis=(1, 2), keepdims=True) * root * inverse / 2
        by_trace = (dq * scaled).sum(axis=(1, 2), keepdims=True) * inverse
        return dq * inverse - (by_root + by_trace) * one

    return p * root, back
