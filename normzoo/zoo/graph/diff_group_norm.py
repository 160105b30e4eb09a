"""Differentiable group normalization: nodes are shared out among groups, which have a BatchNorm each."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np

from normzoo.backends.contract import Array
from normzoo.backends.forms import Formula
from normzoo.passes.attributes import entry
from normzoo.passes.cells import Pass
from normzoo.passes.cells import Pull as CellPull
from normzoo.passes.formulas import product, reciprocal
from normzoo.passes.numbers import check_features, check_number, check_size
from normzoo.passes.saved import Pull, Saved
from normzoo.statistics.running_state import RunningState
from normzoo.zoo.exact import ExactNorm, Update

FOUR = 4  # groups that one reading of x serves
MOST = 16  # groups: of more, y would be rounded too often, once for each four

# Coefficients of four groups at a time: c[0:4] are the first, and so on. s is the share of a node, m the mean of s * x.


def _logits(x: Any, *c: Any) -> tuple[Any, ...]:
    return x * c[0], x * c[1], x * c[2], x * c[3]


def _around(x: Any, *c: Any) -> tuple[Any, ...]:
    """s, and values near the means."""
    a, b, d, e = x * c[0] - c[4], x * c[1] - c[5], x * c[2] - c[6], x * c[3] - c[7]
    return a, b, d, e, a * a, b * b, d * d, e * e


def _added(y: Any, x: Any, *c: Any) -> tuple[Any, ...]:
    """s, m, slopes, and one constant."""
    first = (x * c[0] - c[4]) * c[8] + (x * c[1] - c[5]) * c[9]
    return (y + (first + (x * c[2] - c[6]) * c[10] + (x * c[3] - c[7]) * c[11] + c[12]),)


def _along(dy: Any, x: Any, *c: Any) -> tuple[Any, ...]:
    """s and m."""
    return (
        dy * (x * c[0] - c[4]), dy * (x * c[1] - c[5]), dy * (x * c[2] - c[6]), dy * (x * c[3] - c[7]), dy
    )  # fmt: skip


def _of_shares(dy: Any, x: Any, *c: Any) -> tuple[Any, ...]:
    """s, m, slopes, constants and curves."""
    return (
        x * (dy * c[8] - c[12] - (x * c[0] - c[4]) * c[16]),
        x * (dy * c[9] - c[13] - (x * c[1] - c[5]) * c[17]),
        x * (dy * c[10] - c[14] - (x * c[2] - c[6]) * c[18]),
        x * (dy * c[11] - c[15] - (x * c[3] - c[7]) * c[19]),
    )


def _gradient(dx: Any, dy: Any, x: Any, *c: Any) -> tuple[Any, ...]:
    """The same, gradients of the logits, and lines of lin_weight."""
    a = c[0] * (dy * c[8] - c[12] - (x * c[0] - c[4]) * c[16]) + c[20] * c[24]
    b = c[1] * (dy * c[9] - c[13] - (x * c[1] - c[5]) * c[17]) + c[21] * c[25]
    d = c[2] * (dy * c[10] - c[14] - (x * c[2] - c[6]) * c[18]) + c[22] * c[26]
    e = c[3] * (dy * c[11] - c[15] - (x * c[3] - c[7]) * c[19]) + c[23] * c[27]
    return dx + (a + b + d + e), x * c[20], x * c[21], x * c[22], x * c[23]


LOGITS, AROUND = Formula(_logits, 1, 0, ("b",) * 4, wide=True), Formula(_around, 1, 0, ("c",) * 8, wide=True)
ADDED, ALONG = Formula(_added, 2, 1, wide=True), Formula(_along, 2, 0, ("c",) * 5, wide=True)
OF_SHARES = Formula(_of_shares, 2, 0, ("b",) * 4, wide=True)
GRADIENT = Formula(_gradient, 3, 1, ("c",) * 4, wide=True)


class DiffGroupNorm(ExactNorm):
    """Differentiable group normalization: nodes are shared out among groups, which have a BatchNorm each.

    Formula:
        s = softmax(x @ lin_weight.T), v_g = s_g * x, y = x + lamda * total, where total is the sum of BatchNorm of v_g
        over the groups g, the columns of s; each has its own statistics over all nodes, and its own weight and bias.

    Shapes:
        x, y: (nodes, C).
        lin_weight: (groups, C). weight, bias, running_mean, running_var: (groups * C,).

    Args:
        in_channels: C.
        groups: how many there are.
        lamda: the factor of what is added to x.
        eps: added to the variance, in the units of x squared.
        momentum: the weight of the new running statistics, 0 to 1; None: those of all batches alike.
        affine: whether there are a weight and a bias.
        track_running_stats: whether there are running statistics, which are used in evaluation.
        seed: random seed of lin_weight, which is uniform within 1 / sqrt(C), as in PyTorch Geometric.
        dtype: of parameters and buffers: float32, float64, float16 or bfloat16.

    Raises:
        ValueError: x has another shape, or one node in training. TypeError: x is not a float array.

    No array of groups times x's size is made: sums over groups are products of matrices.

    Source:
        K. Zhou, X. Huang, Y. Li, D. Zha, R. Chen and X. Hu, "Towards Deeper Graph Neural Networks with Differentiable
        Group Normalization", 2020, arXiv:2006.06972.

    >>> import numpy as np, normzoo as nz
    >>> nz.DiffGroupNorm(1, 1, lamda=1.0)(np.array([[1], [3]], np.float32)).round(2).ravel()
    array([0., 4.], dtype=float32)
    """

    counts_empty: ClassVar[bool] = True
    lin_weight = entry("params", "lin_weight")
    running_mean = entry("buffers", "running_mean")
    running_var = entry("buffers", "running_var")

    def __init__(
        self,
        in_channels: int,
        groups: int,
        lamda: float = 0.01,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        seed: int = 0,
        dtype: Any = np.float32,
    ) -> None:
        self.in_channels = check_features("DiffGroupNorm", in_channels, "in_channels")
        self.groups = check_size("DiffGroupNorm", "groups", groups, least=1)
        size = self.in_channels * self.groups
        super().__init__(in_channels, groups, shape=(size,), eps=eps, weight=affine, bias=affine, dtype=dtype)
        self.lamda, self.seed = check_number(self, "lamda", lamda), check_size(self, "seed", seed)
        self.momentum, self.track_running_stats = momentum, bool(track_running_stats)
        bound = self.in_channels**-0.5 if self.in_channels else 0.0
        first = np.random.default_rng(self.seed).uniform(-bound, bound, (self.groups, self.in_channels))
        self.params["lin_weight"] = first.astype(self._dtype)
        if self.track_running_stats:
            self.buffers["running_mean"] = np.zeros(size, self._dtype)
            self.buffers["running_var"] = np.ones(size, self._dtype)
            self.buffers["num_batches_tracked"] = np.array(0, np.int64)

    @property
    def num_batches_tracked(self) -> Array | None:
        """Number of training batches seen, int64 of shape ()."""
        return self.buffers.get("num_batches_tracked")

    def reset_running_stats(self) -> None:
        """Forget all batches: mean 0, variance 1, count 0."""
        new = [np.full(a.shape, float(name == "running_var")) for name, a in self.buffers.items()]
        RunningState(*self.buffers.values()).replace(lambda *old: new)

    def check(self, x: Array, **inputs: Array) -> None:
        if x.ndim != 2 or x.shape[1] != self.in_channels:
            raise ValueError(f"{self}: expected x of shape (nodes, {self.in_channels}), got {x.shape}")
        if self._uses_own and len(x) == 1:
            raise ValueError(
                f"{self}: expected more than 1 node in training, got x of shape {x.shape}; use a larger batch or "
                "norm.eval()"
            )

    @property
    def _uses_own(self) -> bool:
        return self.training or not self.track_running_stats

    def forward(self, x: Array, out: Array | None = None, *, update_stats: bool = True) -> tuple[Array, Saved]:
        """See `BatchNorm.forward`."""
        return self.exactly(x, out, update_stats=update_stats)

    def letters(self, x: Array) -> str:
        return "bc" if self.groups <= (FOUR if x.dtype.itemsize == 2 else MOST) else ""

    def by_cells(self, cells: Pass, params: Mapping[str, Array]) -> CellPull:
        shape, nodes = (self.groups, self.in_channels), cells.dims.b * cells.dims.n
        line = params["lin_weight"]
        weight, bias = (
            params.get(name, default) for name, default in (("weight", np.ones(shape)), ("bias", np.zeros(shape)))
        )
        weight, bias = weight.reshape(shape), self.lamda * bias.reshape(shape)
        share = softmax(
            np.hstack([v for four in fours(self.groups) for v in cells(LOGITS, *rows(line, four))][: self.groups])
        )
        # 1 moments of share * x, for every group and channel
        own = self._uses_own
        if own:
            first = share[0][:, None] * cells.channels_first(-1)[0, :, 0].astype(np.float64)
            found = [cells(AROUND, *columns(share, four), *rows(first, four)) for four in fours(self.groups)]
            total, squares = (np.vstack([v for f in found for v in f[i : i + FOUR]])[: self.groups] for i in (0, FOUR))
            mean, var = first + total / nodes, np.maximum(squares / nodes - (total / nodes) ** 2, 0.0)
            if self.training and self.track_running_stats:
                cells.track(self._update(mean, var, nodes))
        else:
            held = RunningState(self.buffers["running_mean"], self.buffers["running_var"]).read()
            mean, var = (a.astype(np.float64).reshape(shape) for a in held)
        rstd = reciprocal(np.sqrt(var + self.eps))
        # 2 normalize
        slope = self.lamda * rstd * weight
        for four in fours(self.groups):
            given = (
                *columns(share, four),
                *rows(mean, four),
                *rows(slope, four, True),
                bias[sorted(set(four))].sum(axis=0),
            )
            cells(ADDED, *given, upon=cells.result if four[0] else cells.first)

        def pull(cells: Pass) -> dict[str, Array]:
            return self._back(cells, line, share, (mean, rstd, slope, own))

        return pull

    def _back(self, cells: Pass, line: Array, share: Array, kept: tuple[Array, Array, Array, bool]) -> dict[str, Array]:
        mean, rstd, slope, own = kept
        (groups, _), nodes = mean.shape, len(share)
        places = list(fours(groups))
        found = [cells(ALONG, *columns(share, four), *rows(mean, four)) for four in places]
        along = self.lamda * np.vstack([v for f in found for v in f[:FOUR]])[:groups] * rstd  # sum of d * xhat
        total = np.broadcast_to(self.lamda * found[0][FOUR], mean.shape)
        # of s * x the gradient is slope * dy - constant - curve * (s * x - mean)
        constant = slope * total / (self.lamda * nodes) if own and self.lamda else 0.0 * slope
        curve = slope * rstd * along / (self.lamda * nodes) if own and self.lamda else 0.0 * slope
        by_group = slope, constant, curve
        found = [
            cells(OF_SHARES, *columns(share, four), *rows(mean, four), *(v for a in by_group for v in rows(a, four)))
            for four in places
        ]
        of_share = np.hstack([v for f in found for v in f])[:, :groups]
        logits = share * (of_share - (of_share * share).sum(axis=1, keepdims=True))
        of_lines = []
        for four in places:
            given = *columns(share, four), *rows(mean, four), *(v for a in by_group for v in rows(a, four, True))
            more = *columns(logits, four), *rows(line, four, True)
            of_lines += cells(GRADIENT, *given, *more, upon=cells.result if four[0] else cells.first)
        grads = {"lin_weight": np.vstack(of_lines)[:groups]}
        affine = {"weight": along.ravel(), "bias": total.ravel()}
        return grads | {name: g for name, g in affine.items() if name in self.params}

    def compute(self, x: Array, params: Mapping[str, Array], **inputs: Array) -> tuple[Array, Pull, Update | None]:
        shape, lamda = (self.groups, self.in_channels), self.lamda
        line = params["lin_weight"]
        weight, bias = (params.get(name, np.full(shape, v)) for name, v in (("weight", 1.0), ("bias", 0.0)))
        weight, bias = weight.reshape(shape), bias.reshape(shape)
        share = softmax(product(x, line.T))
        # 1 moments of share * x, for every group and channel
        own, update = self._uses_own, None
        if own:
            mean, var = moments(share, x)
            if self.training and self.track_running_stats:
                update = self._update(mean, var, len(x))
        else:
            held = RunningState(self.buffers["running_mean"], self.buffers["running_var"]).read()
            mean, var = (a.astype(np.float64).reshape(shape) for a in held)
        rstd = reciprocal(np.sqrt(var + self.eps))
        # 2 normalize
        slope = rstd * weight
        added = x * product(share, slope) + (bias - mean * slope).sum(axis=0)

        def pull(dy: Array) -> dict[str, Array]:
            d = lamda * dy
            total = np.broadcast_to(d.sum(axis=0), shape)
            along = (product(share.T, d * x) - mean * total) * rstd  # sum of d * xhat
            constant, curve = (slope * total / len(x), slope * rstd * along / len(x)) if own else (0.0, 0.0 * slope)
            level = constant - curve * mean  # of s * x: the gradient is slope * d - level - curve * s * x
            dx = dy + d * product(share, slope) - product(share, level + 0.0 * slope) - x * product(share**2, curve)
            of_share = product(x * d, slope.T) - product(x, (level + 0.0 * slope).T) - share * product(x * x, curve.T)
            logits = share * (of_share - (of_share * share).sum(axis=1, keepdims=True))
            found = {"x": dx + product(logits, line), "lin_weight": product(logits.T, x)}
            more = {"weight": along.ravel(), "bias": total.ravel()}
            return found | {name: g for name, g in more.items() if name in params}

        return x + lamda * added, pull, update

    def _update(self, mean: Array, var: Array, nodes: int) -> Update:
        """The new variance is unbiased."""

        def update(old: Mapping[str, Array]) -> dict[str, Any]:
            batches = old["num_batches_tracked"].item() + 1
            step = 1.0 / batches if self.momentum is None else self.momentum
            new = {"running_mean": mean.ravel(), "running_var": var.ravel() * nodes / max(nodes - 1, 1)}
            joined = {name: (1 - step) * old[name].astype(np.float64) + step * v for name, v in new.items() if step}
            return joined | {"num_batches_tracked": batches}

        return update

    def _options(self) -> dict[str, Any]:
        names = ("lamda", "momentum", "track_running_stats", "seed")
        return super()._options() | {name: getattr(self, name) for name in names} | {"affine": "weight" in self.params}


def moments(share: Array, x: Array) -> tuple[Array, Array]:
    """Mean and biased variance of share[:, g] * x[:, c] over the nodes, (groups, C), from deviations of both:
    with s = t + e and x = m + d, s * x - t * m = t * d + m * e + e * d."""
    count = len(x)
    t, m = share.mean(axis=0)[:, None], x.mean(axis=0)
    e, d = share - t.T, x - m
    both, squares = product(e.T, d) / count, (d * d).mean(axis=0)
    rest = t * d.mean(axis=0) + m * e.mean(axis=0)[:, None] + both  # the means' own rounding
    second = t * t * squares + m * m * (e * e).mean(axis=0)[:, None] + product((e * e).T, d * d) / count
    second += 2 * (t * m * both + t * product(e.T, d * d) / count + m * product((e * e).T, d) / count)
    return t * m + rest, np.maximum(second - rest * rest, 0.0)


def softmax(logits: Array) -> Array:
    """Of every node, over the groups."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: Array = powers / powers.sum(axis=1, keepdims=True)
    return found


def fours(groups: int) -> Iterator[list[int]]:
    """Groups four at a time; the last once more where fewer are left."""
    for first in range(0, groups, FOUR):
        yield [min(i, groups - 1) for i in range(first, first + FOUR)]


def columns(a: Array, four: list[int]) -> list[Array]:
    """Of (nodes, groups): a number of each node."""
    return [a[:, i : i + 1] for i in four]


def rows(a: Array, four: list[int], once: bool = False) -> list[Array]:
    """Of (groups, C): a line of each group. `once`: 0 where a group comes once more."""
    return [a[i : i + 1] * (not once or i not in four[:j]) for j, i in enumerate(four)]
