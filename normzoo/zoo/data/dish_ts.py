"""Dish-TS: time series by a level that a linear map finds of their past, and back by the level of another."""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from normzoo.backends.contract import Array
from normzoo.backends.forms import Level
from normzoo.passes.affine import TINY
from normzoo.passes.cells import Pass
from normzoo.passes.cells import Pull as CellPull
from normzoo.passes.formulas import reciprocal, unit
from normzoo.passes.numbers import check_size
from normzoo.passes.saved import Pull
from normzoo.zoo.data.reversible import Reversible, Taken


class DishTS(Reversible):
    """Dish-TS: time series by a level that a linear map finds of their past, and back by the level of another.

    Formula:
        norm(x):         y = (x - level) / std * weight + bias
        norm.inverse(f): z = (f - bias) / weight * std_h + level_h
        level = sum(lookback_weight * x), level_h = sum(horizon_weight * x) over the time steps of one channel of one
        series, std = sqrt(sum((x - level)^2) / (T - 1) + eps), and std_h the same around level_h. `inverse` uses those
        of the last norm(x).

    Shapes:
        x, y: (N, T, C) with T = lookback; with channel_axis=1, (N, C, T). f, z: as x, with any number of time steps.
        weight, bias: (C,). lookback_weight, horizon_weight: (C, T), which begin at 1 / T: both levels are the mean.

    Args:
        num_features: C.
        lookback: T, 2 or more.
        eps: added to the variance, in the units of x squared.
        channel_axis: the axis of the channels, -1 or 1.
        dtype: of the parameters: float32, float64, float16 or bfloat16.

    Raises:
        ValueError: x has another number of channels or of time steps, or not rank 3; f does not fit the last x.
        RuntimeError: inverse was called before any norm(x). TypeError: x or f is not a float array.

    inverse(norm(x)) is x while both maps are equal. The backward pass is that of `RevIN`: the gradients of weight, bias
    and both maps are norm.grads plus those of norm.saved_inverse.backward(dz).

    Source:
        W. Fan, P. Wang, D. Wang, D. Wang, Y. Zhou and Y. Fu, "Dish-TS: A General Paradigm for Alleviating Distribution
        Shift in Time Series Forecasting", 2023, arXiv:2302.14829. eps and T - 1 are those of its code, which can put a
        GELU behind the maps; here they are linear, so that x with another offset has levels with this offset.

    >>> import numpy as np, normzoo as nz
    >>> norm = nz.DishTS(1, 2)
    >>> y = norm(np.array([[[10], [30]]], np.float32))
    >>> y.round(2).ravel(), norm.inverse(y).round(2).ravel()
    (array([-0.71,  0.71], dtype=float32), array([10., 30.], dtype=float32))
    """

    def __init__(
        self,
        num_features: int,
        lookback: int,
        eps: float = 1e-8,
        *,
        channel_axis: int = -1,
        dtype: Any = np.float32,
    ) -> None:
        self._begin(num_features)
        super().__init__(num_features, lookback, shape=(num_features,), eps=eps, dtype=dtype)
        self.lookback = check_size(self, "lookback", lookback, least=2)
        self._turn(channel_axis)
        for name in ("lookback_weight", "horizon_weight"):
            self.params[name] = np.full((num_features, lookback), 1 / lookback, self._dtype)

    def check(self, x: Array, **inputs: Array) -> None:
        super().check(x)
        if self.steps(x) != self.lookback:
            raise ValueError(
                f"{self}: expected x of {self.lookback} time steps, the lookback of its maps, got {x.shape}"
            )

    def letters(self, x: Array) -> str:
        return "" if self.lookback <= TINY else "bcn" if self.channel_axis % 3 == 1 else "bnc"

    def by_cells(self, cells: Pass, params: Mapping[str, Array]) -> CellPull:
        names = ("weight", "bias", "lookback_weight", "horizon_weight")
        weight, bias, past, ahead = (params[name] for name in names)
        form = Level(True, False, self.lookback - 1, self.eps)
        stats = cells.level(form, weight, bias, past)
        cells.keep(Levels(type(self), cells.values(self.label), len(stats[0]), ahead.T, self.eps))

        def pull(cells: Pass) -> dict[str, Array]:
            (along, total), of_past = cells.level_back(form, stats, weight, past)
            return dict(zip(names, (along.sum(axis=0), total.sum(axis=0), of_past, np.zeros(ahead.shape)), strict=True))

        return pull

    def compute(self, x: Array, params: Mapping[str, Array], **inputs: Array) -> tuple[Array, Pull]:
        axis, weight, bias = self.channel_axis, params["weight"], params["bias"]
        v = np.moveaxis(x, axis, 2)
        past = LevelOf(v, params["lookback_weight"].T, self.eps)
        taken = Levels(type(self), lambda: v, len(v), params["horizon_weight"].T, self.eps)
        xhat = past.apart * past.rstd

        def pull(dy: Array) -> dict[str, Array]:
            d = np.moveaxis(dy, axis, 2)
            g = d * weight * past.rstd
            dstd = -(g * xhat).sum(axis=1, keepdims=True)
            dx, dmap = past.back(-g.sum(axis=1, keepdims=True), dstd)
            return {
                "x": np.moveaxis(g + dx, 2, axis),
                "weight": (d * xhat).sum(axis=(0, 1)),
                "bias": d.sum(axis=(0, 1)),
                "lookback_weight": dmap,
                "horizon_weight": np.zeros(dmap.shape),
            }

        taken.pull = pull
        return np.moveaxis(xhat * weight + bias, 2, axis), taken

    def restore(self, f: Array, taken: "Levels", **given: Array) -> tuple[Array, Pull]:
        ahead = taken.ahead
        factor = reciprocal(self.params["weight"].astype(np.float64))
        u = (f - self.params["bias"].astype(np.float64)) * factor

        def pull(d: Array) -> dict[str, Array]:
            df = d * ahead.std * factor
            dx, dmap = ahead.back(d.sum(axis=1, keepdims=True), (d * u).sum(axis=1, keepdims=True))
            return {
                "x": df,
                "source": dx,
                "weight": -(df * u).sum(axis=(0, 1)),
                "bias": -df.sum(axis=(0, 1)),
                "lookback_weight": np.zeros_like(dmap),
                "horizon_weight": dmap,
            }

        return u * ahead.std + ahead.level, pull

    def _options(self) -> dict[str, Any]:
        return super()._options() | {"channel_axis": self.channel_axis}


class LevelOf:
    """What a map finds of v (N, T, C): level, std and rstd, (N, 1, C), and apart = v - level.

    Args:
        weights: (T, C).
    """

    def __init__(self, v: Array, weights: Array, eps: float) -> None:
        self.v, self.weights = v, np.ascontiguousarray(weights)
        self.level = np.einsum("ntc,tc->nc", v, self.weights)[:, None]
        self.apart = v - self.level
        one = unit(self.apart, 1)
        scaled = self.apart if (one == 1).all() else self.apart * one
        squares = np.einsum("ntc,ntc->nc", scaled, scaled)[:, None] / (v.shape[1] - 1)
        self.std = np.hypot(np.sqrt(squares) / one, eps**0.5)
        self.rstd = reciprocal(self.std)

    def back(self, dlevel: Array, dstd: Array) -> tuple[Array, Array]:
        """Gradients of v, and of the weights as (C, T), for those of level and std."""
        dapart = dstd * self.apart * self.rstd / (self.v.shape[1] - 1)
        dlevel = dlevel - dapart.sum(axis=1, keepdims=True)
        return dapart + dlevel * self.weights, (dlevel * self.v).sum(axis=0).T


class Levels(Taken):
    """That of what is ahead, which `inverse` asks for.

    Args:
        values: what makes x, (N, T, C).
        weights: (T, C).
    """

    def __init__(self, owner: type, values: Callable[[], Array], series: int, weights: Array, eps: float) -> None:
        self.owner, self.series, self._values, self._weights, self._eps = owner, series, values, weights, eps

    @cached_property
    def ahead(self) -> LevelOf:
        return LevelOf(self._values(), self._weights, self._eps)
