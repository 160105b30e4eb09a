"""Reversible instance normalization of time series: an inverse restores the statistics that were removed."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from normzoo.backends.contract import Array
from normzoo.backends.forms import Formula, Level
from normzoo.backends.lanes import fma
from normzoo.passes.cells import Pass
from normzoo.passes.cells import Pull as CellPull
from normzoo.passes.formulas import centered, reciprocal, summed, unit
from normzoo.passes.saved import Pull
from normzoo.zoo.data.reversible import Reversible, Taken


def _scaled(x: Any, high: Any, low: Any, slope: Any, bias: Any) -> tuple[Any, ...]:
    return (fma((x - high) - low, slope, bias),)


def _terms(dy: Any, x: Any, high: Any, low: Any) -> tuple[Any, ...]:
    return dy * ((x - high) - low), dy


def _gradient(dy: Any, x: Any, high: Any, low: Any, slope: Any, more: Any, constant: Any) -> tuple[Any, ...]:
    return (fma(dy, slope, fma((x - high) - low, more, constant)),)


SCALED, TERMS = Formula(_scaled, 1, 1), Formula(_terms, 2, 0, ("bc", "bc"))
GRADIENT = Formula(_gradient, 2, 1)
LONG = 4096  # time steps of longer series are what threads share


class RevIN(Reversible):
    """Reversible instance normalization of time series: an inverse restores the statistics that were removed.

    Formula:
        norm(x):         y = (x - center) / std * weight + bias, std = sqrt(var + eps)
        norm.inverse(f): z = (f - bias) / (weight + eps^2) * std + center
        with (biased) var over the time steps of one channel of one series; center is their mean or, with subtract_last,
        the last value. `inverse` uses center and std of the last norm(x).

    Shapes:
        x, y: (N, T, C); with channel_axis=1, (N, C, T). f, z: as x, with any number of time steps.
        weight, bias: (C,).

    Args:
        num_features: C.
        eps: added to the variance, in the units of x squared.
        affine: whether there are a weight and a bias.
        subtract_last: True: subtract the last time step of x instead of the mean.
        detach: True: center and std are constants in the gradient, as in the authors' code (the paper does not say so).
            By default gradients are those of the formula.
        channel_axis: the axis of the channels, -1 or 1.
        dtype: of the parameters: float32, float64, float16 or bfloat16.

    Raises:
        ValueError: x has another number of channels, or not rank 3; f does not fit the last x. RuntimeError: inverse
            was called before any norm(x). TypeError: x or f is not a float array.

    For a model between the two, z = norm.inverse(model(norm(x))), the backward pass is

        back = norm.saved_inverse.backward(dz)    its x is the gradient of f, its source the gradient of the x whose
                                                  center and std were restored
        dx = norm.backward(model_backward(back.x)) + back.source

    and the gradients of weight and bias are norm.grads plus those of `back`.

    Source:
        T. Kim, J. Kim, Y. Tae, C. Park, J.-H. Choi and J. Choo, "Reversible Instance Normalization for Accurate
        Time-Series Forecasting against Distribution Shift", 2022, https://openreview.net/forum?id=cGDAkQo1C0p;
        subtract_last and eps^2 are those of its code. norm(x) is InstanceNorm over time.

    >>> import numpy as np, normzoo as nz
    >>> norm = nz.RevIN(1)
    >>> y = norm(np.array([[[10], [30]]], np.float32))
    >>> y.round(2).ravel(), norm.inverse(y).round(2).ravel()
    (array([-1.,  1.], dtype=float32), array([10., 30.], dtype=float32))
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        affine: bool = True,
        subtract_last: bool = False,
        *,
        detach: bool = False,
        channel_axis: int = -1,
        dtype: Any = np.float32,
    ) -> None:
        self._begin(num_features)
        super().__init__(num_features, shape=(num_features,), eps=eps, weight=affine, bias=affine, dtype=dtype)
        self.subtract_last, self.detach = bool(subtract_last), bool(detach)
        self._turn(channel_axis)

    def letters(self, x: Array) -> str:
        return "bcn" if self.channel_axis in (1, -2) else "bnc"

    def by_cells(self, cells: Pass, params: Mapping[str, Array]) -> CellPull:
        if cells.dims.n <= LONG and not (self.subtract_last or self.detach):
            return self._by_level(cells, params)
        weight, bias = (params.get(name, default) for name, default in (("weight", np.ones(1)), ("bias", np.zeros(1))))
        n, (mean, var) = cells.dims.n, cells.mean_and_var()
        std = np.sqrt(var + self.eps)
        rstd = reciprocal(std)
        center = cells.at_position(-1) if self.subtract_last else mean
        slope = rstd * weight
        cells(SCALED, *cells.split(center), slope, bias)
        taken = Moments(self, center[:, None], std[:, None], cells.deviations(self.label, mean, rstd))
        cells.keep(taken)

        def pull(cells: Pass) -> dict[str, Array]:
            along, total = cells(TERMS, *cells.split(center))
            of_center, of_std = (0.0, 0.0) if self.detach else (-slope * total, -slope * rstd * along)
            own = 0.0 if taken.last else of_center / n
            cells(GRADIENT, *cells.split(mean), slope, rstd * of_std / n, own)
            if taken.last and not self.detach:
                cells.add_at_position(-1, of_center)
            return {"weight": (along * rstd).sum(axis=0), "bias": total.sum(axis=0)} if params else {}

        return pull

    def _by_level(self, cells: Pass, params: Mapping[str, Array]) -> CellPull:
        """In one pass of a kernel, which is for series that stay in a cache."""
        weight, bias = (params.get(k, np.full(cells.dims.c, v)) for k, v in (("weight", 1.0), ("bias", 0.0)))
        form = Level(False, False, cells.dims.n, self.eps)
        stats = cells.level(form, weight, bias)
        mean, std = stats[0], np.sqrt(stats[1] * stats[1] + self.eps)
        cells.keep(Moments(self, mean[:, None], std[:, None], cells.deviations(self.label, mean, reciprocal(std))))

        def pull(cells: Pass) -> dict[str, Array]:
            (along, total), _ = cells.level_back(form, stats, weight)
            return {"weight": along.sum(axis=0), "bias": total.sum(axis=0)} if params else {}

        return pull

    def compute(self, x: Array, params: Mapping[str, Array], **inputs: Array) -> tuple[Array, Pull]:
        v = np.moveaxis(x, self.channel_axis, 2)  # (N, T, C)
        weight, bias = params.get("weight", np.ones(1)), params.get("bias", np.zeros(1))
        one = unit(v, 1, self.eps**0.5)
        v = v * one
        mean, deviation = centered(v, 1)
        std = np.sqrt((deviation * deviation).mean(axis=1, keepdims=True) + self.eps * one * one)
        center = v[:, -1:].copy() if self.subtract_last else mean
        rstd = reciprocal(std)
        taken = Moments(self, center / one, std / one, deviation * rstd)
        xhat = (v - center if self.subtract_last else deviation) * rstd
        channel_axis = self.channel_axis

        def pull(dy: Array) -> dict[str, Array]:
            d = np.moveaxis(dy, channel_axis, 2)
            g = d * weight * rstd
            dx = g + taken.back(-g.sum(axis=1, keepdims=True), -(g * xhat).sum(axis=1, keepdims=True))
            found = {"x": np.moveaxis(dx * one, 2, channel_axis)}
            return found | {"weight": summed(d * xhat, weight.shape), "bias": summed(d, bias.shape)}

        taken.pull = pull
        return np.moveaxis(xhat * weight + bias, 2, self.channel_axis), taken

    def restore(self, f: Array, taken: "Moments", **given: Array) -> tuple[Array, Pull]:
        params = {name: p.astype(np.float64) for name, p in self.params.items()}
        bias, factor = params.get("bias", np.zeros(1)), np.ones(1)
        if "weight" in params:
            factor = reciprocal(params["weight"] + self.eps * self.eps)
        u = (f - bias) * factor

        def pull(d: Array) -> dict[str, Array]:
            df = d * taken.std * factor
            dx = taken.back(d.sum(axis=1, keepdims=True), (d * u).sum(axis=1, keepdims=True))
            return {
                "x": df,
                "source": dx,
                "weight": summed(-df * u, factor.shape),
                "bias": summed(-df, bias.shape),
            }

        return u * taken.std + taken.center, pull

    def _options(self) -> dict[str, Any]:
        names = ("subtract_last", "detach", "channel_axis")
        affine = {"affine": "weight" in self.params}
        return super()._options() | affine | {name: getattr(self, name) for name in names}


class Moments(Taken):
    """The statistics that norm(x) removed from x.

    Attributes:
        center, std: (N, 1, C). directions: (x - mean) / std, (N, T, C), or what makes these.
    """

    def __init__(self, norm: RevIN, center: Array, std: Array, directions: Array | Callable[[], Array]) -> None:
        self.owner, self.series = type(norm), len(std)
        self.last, self.detach = norm.subtract_last, norm.detach
        self.center, self.std, self._directions = center, std, directions

    @property
    def direction(self) -> Array:
        return self._directions() if callable(self._directions) else self._directions

    def back(self, dcenter: Array, dstd: Array) -> Array:
        """The gradient of x (N, T, C), for those of center and std."""
        if self.detach:
            return np.zeros_like(self.direction)
        direction = self.direction
        values = direction.shape[1]
        dx = direction * (dstd / values)
        if self.last:
            dx[:, -1:] += dcenter
        else:
            dx += dcenter / values
        return dx
