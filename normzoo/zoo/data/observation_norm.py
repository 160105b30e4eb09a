"""Normalization of observations by running statistics of all that came so far."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from normzoo.backends.contract import CONSTANT, Array
from normzoo.passes.arrays import base_array
from normzoo.passes.form import Form, Known
from normzoo.passes.normalize import normalize
from normzoo.passes.numbers import check_number
from normzoo.passes.saved import Chained, Grads, Saved
from normzoo.statistics.observing import observed
from normzoo.statistics.stats import Stats
from normzoo.zoo.data.standardize import Standardize


class ObservationNorm(Standardize):
    """Observation normalization: every feature by the mean and variance of all observations so far, then clipped.

    Formula:
        y = min(max((x - mean) / sqrt(var + eps), -clip), clip); norm.inverse(y): x = y * sqrt(var + eps) + mean
        with mean and (biased) var of all observations that came in training, those of this x too, and of `prior` values
        of mean 0 and variance 1. They are constants in the gradient, which is 0 where y is clipped.

    Shapes:
        x, y: (C,), (N, C) of N environments, (T, N, C), ...; with channel_axis=1, (N, C, ...).
        mean, m2, unit: (C,) float64, of the observations alone. count: () int64.

    Args:
        num_features: C. Observations of several axes have statistics of each element as x.reshape(len(x), -1).
        eps: added to the variance, in the units of x squared.
        clip: the largest |y|; None: there is none.
        with_mean: False: the mean is not subtracted, as where rewards are scaled by the deviation of returns.
        prior: how many values of mean 0 and variance 1 count beside the observations. 0: none, and there must be
            observations before evaluation.
        channel_axis: the axis of the features, -1 (or any other).

    Raises:
        ValueError: x has another number of features; clip is not above 0, or prior below 0. TypeError: x is not a float
            array. RuntimeError: prior is 0, and no observation came. Nothing has changed then.

    In training mode x counts before it is normalized; `norm.eval()` freezes the statistics, and `norm.train()` goes on.
    Statistics of several processes or environments become one by `merge`, in any order: counts are exact, and `prior`
    counts once.

    Source:
        Gymnasium, "NormalizeObservation", https://gymnasium.farama.org/api/wrappers/observation_wrappers/ (eps, the
        prior; no clip), and A. Raffin, A. Hill, A. Gleave, A. Kanervisto, M. Ernestus and N. Dormann,
        "Stable-Baselines3: Reliable Reinforcement Learning Implementations", 2021,
        https://jmlr.org/papers/v22/20-1364.html (VecNormalize: clip). Both merge batches by the formula of Chan, Golub
        and LeVeque, 1979, as here, and begin with 1e-4 values.

    >>> import numpy as np, normzoo as nz
    >>> norm = nz.ObservationNorm(1, prior=0.0)
    >>> norm(np.array([[0], [2]], np.float32)).ravel()
    array([-1.,  1.], dtype=float32)
    >>> norm.eval()(np.array([[100]], np.float32)).ravel(), int(norm.count)
    (array([10.], dtype=float32), 2)
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-8,
        clip: float | None = 10.0,
        *,
        with_mean: bool = True,
        prior: float = 1e-4,
        channel_axis: int = -1,
    ) -> None:
        super().__init__(num_features, eps, with_mean=with_mean, channel_axis=channel_axis)
        self.clip = None if clip is None else check_number(self, "clip", clip)
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"{self}: expected clip > 0, or None, got {clip}")
        self.prior = check_number(self, "prior", prior)
        if not 0 <= self.prior < np.inf:
            raise ValueError(f"{self}: expected prior >= 0 and finite, the number of values before all, got {prior}")

    def _known(self) -> Stats:
        return self._with_prior(self.stats)

    def _with_prior(self, stats: Stats) -> Stats:
        return stats.merge(prior_of(self.prior, self.num_features))

    def forward(self, x: Array, out: Array | None = None, *, update_stats: bool = True) -> tuple[Array, Saved]:
        """See `Norm.forward`.

        Args:
            update_stats: False: y is the same, and x is forgotten.
        """
        x = base_array(self, "x", x)
        axes, write = self.axes(x), self._nothing
        found = self._observed(x)
        if found is not None:
            stats, write = found
            y, _, inner = normalize(Form(self, axes, CONSTANT, 0.0), x, None, None, out, Known(stats))
        elif not self.training:
            y, inner = self._by(x, self._scale, out)
        else:
            batch = self._of([x])
            merged, write = self._prepare(lambda old: old.merge(batch))
            y, inner = self._by(x, lambda: self._scale_of(self._with_prior(merged)), out)
        if update_stats:
            write()
        return (y, inner) if self.clip is None else clipped(self, x, y, inner, self.clip)

    def _observed(self, x: Array) -> tuple[Array, Callable[[], None]] | None:
        """See `observed`."""
        b = self.buffers
        if self.channel_axis not in (-1, x.ndim - 1):
            return None
        found = observed(x, self.training, (b["count"], b["mean"], b["m2"], b["unit"]), self.prior, self.eps)
        if found is None:
            return None
        stats, take_in = found
        if not self.with_mean:
            stats[0] = 0.0

        def write() -> None:
            left = take_in()
            if left is not None:
                batch = Stats(np.array(x.size // self.num_features), *left)
                self._replace(lambda old: old.merge(batch))

        return stats, write

    def _nothing(self) -> None:
        """There is nothing to write."""

    def _options(self) -> dict[str, Any]:
        names = ("with_mean", "clip", "prior", "channel_axis")
        return {"eps": self.eps} | {name: getattr(self, name) for name in names}


@lru_cache(maxsize=64)
def prior_of(count: float, features: int) -> Stats:
    """Statistics of `count` values of mean 0 and variance 1."""
    return Stats(np.array(count), np.zeros(features), np.full(features, count))


def clipped(owner: object, x: Array, y: Array, inner: Saved, most: float) -> tuple[Array, Saved]:
    """y, clipped where it is, and the `Saved` whose gradient is 0 there."""
    if y.size and np.abs(y).max() <= most:
        return y, inner
    above, below = y > most, y < -most
    beyond = above | below
    if not beyond.any():
        return y, inner
    y[above], y[below] = most, -most

    def pull(dy: Array, out: Array | None) -> Grads:
        inside = np.array(dy)
        inside[beyond] = 0
        return Grads(inner.backward(inside, out).x)

    return y, Chained(owner, x, pull, (inner,))
