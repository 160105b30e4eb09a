"""Scalers by quantiles: exact where all data is given at once, by a sketch where it comes in parts."""

from functools import partial
from typing import Any

import numpy as np

from normzoo.backends.contract import Array
from normzoo.passes.formulas import reciprocal, special
from normzoo.passes.numbers import check_number
from normzoo.selection.select import Selected
from normzoo.sklearn.base import InvertibleScaler, Scaler
from normzoo.sklearn.moments import infinite
from normzoo.statistics import robust
from normzoo.statistics.sketch import SIZE, QuantileSketch

CENTERS = "median", "trimmed_mean", "winsorized_mean"
SPREADS = "quantiles", "mad"


class _Exact:
    """What a `QuantileSketch` has, of values that are all there."""

    def __init__(self, x: Selected, axes: tuple[int, ...]) -> None:
        self.x, self.axes = x, axes

    def __getattr__(self, name: str) -> Any:
        return partial(getattr(robust, name), self.x, axis=self.axes, skip_nan=True)

    def quantile(self, q: Any) -> Array:
        return robust.quantile(self.x, q, self.axes, skip_nan=True)


class _ByQuantiles(Scaler):
    """Keeps a sketch of each group, by its place; or, of `fit`, nothing."""

    def _found(self, chosen: Any, axes: tuple[int, ...], whole: bool) -> dict[int, Any]:
        few = chosen.size <= 2 * SIZE * self.n_features_in_  # which a sketch holds all, too
        of = _Exact if whole and not few else QuantileSketch.of
        if chosen.segments is None:
            return {0: of(chosen, axes)}
        found = {}
        for place, segment in enumerate(np.unique(chosen.segments)):
            rows = chosen.segments == segment
            mask = chosen.mask
            if mask is not None and len(mask) > 1:
                mask = mask[rows]
            found[place] = of(Selected(chosen.x[rows], mask, None, None, 0, chosen.masked), axes)
        return found

    def _merged(self, one: dict[int, Any], other: dict[int, Any]) -> dict[int, Any]:
        if not all(isinstance(v, QuantileSketch) for v in one.values()):
            name = type(self).__name__
            raise ValueError(
                f"{name}: expected statistics of partial_fit to merge with, got those of a fit, which keeps nothing of "
                "so much data; write partial_fit for every part"
            )
        both = one.keys() & other.keys()
        return one | other | {place: one[place].merge(other[place]) for place in both}

    def _placed(self, found: dict[int, Any], places: Array, groups: int) -> dict[int, Any]:
        return {int(places[place]): v for place, v in found.items()}

    def _stacked(self, found: dict[int, Any], find: Any) -> Array:
        """(groups, features) of what `find` gives of each."""
        return np.stack([find(found[place]) for place in sorted(found)])

    def _left(self, found: dict[int, Any]) -> dict[int, Any]:
        ends = self._stacked(found, lambda v: v.quantile([0.0, 1.0]))
        if np.isinf(ends).any():
            raise infinite(type(self).__name__)
        return {place: v if isinstance(v, QuantileSketch) else None for place, v in found.items()}


class RobustScaler(_ByQuantiles, InvertibleScaler):
    """Features centred and scaled by statistics that outliers do not move: scikit-learn's RobustScaler for data of any
    rank, in groups, with masks.

    Formula:
        y = (x - center) / scale; center: the median, or a trimmed or winsorized mean; scale: the distance of two
        quantiles, or the median absolute deviation from the median; 1 where that is 0;
        inverse_transform: x = y * scale + center

    `fit` selects exactly. `partial_fit` merges sketches, see `nz.QuantileSketch`: exact below 32768 values of a
    feature, and then with ranks within 1e-3 of the count. It goes on from `partial_fit`, or from a `fit` of no more.

    Shapes:
        X, y: (N, C), or any with samples on axis 0 and C features on `axis`.
        center_, scale_: (C,) float64; (groups, C) after fit(X, groups=...).

    Args:
        with_centering, with_scaling: False: the center, or the scale, stays.
        quantile_range: (low, high) in percent, 0 <= low <= high <= 100.
        unit_variance: if True, the scale is divided by that of the standard normal distribution.
        center: "median", "trimmed_mean" or "winsorized_mean".
        spread: "quantiles" or "mad".
        share: of the values that are cut at either end for the center's mean, in [0, 0.5).
        axis: the axis of the features; of an xarray.DataArray, its name, too.
        copy: False: the result takes the place of X, if X is a float array that can be written.
        nan: "skip": NaN does not count, and stays; "raise": it is an error.

    Raises:
        ValueError: see `Standardizer`; an argument is out of its range; partial_fit follows a fit of more values.

    Source:
        scikit-learn, "RobustScaler",
        https://scikit-learn.org/stable/modules/generated/sklearn.preprocessing.RobustScaler.html.

    >>> import numpy as np
    >>> from normzoo.sklearn import RobustScaler
    >>> RobustScaler().fit_transform(np.array([[1.0], [2.0], [3.0], [4.0], [1e9]])).ravel()[:4]
    array([-1. , -0.5,  0. ,  0.5])
    """

    def __init__(
        self, *, with_centering: bool = True, with_scaling: bool = True,
        quantile_range: tuple[float, float] = (25.0, 75.0), unit_variance: bool = False, center: str = "median",
        spread: str = "quantiles", share: float = 0.1, axis: int | str = -1, copy: bool = True, nan: str = "skip",
    ) -> None:  # fmt: skip
        self.with_centering, self.with_scaling = with_centering, with_scaling
        self.quantile_range, self.unit_variance = quantile_range, unit_variance
        self.center, self.spread, self.share, self.axis = center, spread, share, axis
        self.copy, self.nan = copy, nan

    def _check_options(self) -> None:
        super()._check_options()
        for name, known in (("center", CENTERS), ("spread", SPREADS)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"RobustScaler: expected {name} to be one of {', '.join(map(repr, known))}, got "
                    f"{getattr(self, name)!r}"
                )
        low, high = self.quantile_range
        if not 0 <= low <= high <= 100:
            raise ValueError(
                f"Invalid quantile range: RobustScaler expected (low, high) with 0 <= low <= high <= 100, got "
                f"{self.quantile_range!r}"
            )
        robust.check_shares("RobustScaler", "share", np.asarray(check_number("RobustScaler", "share", self.share)), 0.5)

    def _kept(self, found: dict[int, Any]) -> Any:
        one, left = self._one(), self._left(found)
        self.center_ = self._stacked(found, self._center)[one] if self.with_centering else None
        self.scale_ = None
        if self.with_scaling:
            self.scale_ = self._stacked(found, self._scale)[one]
        return left

    def _center(self, of: Any) -> Array:
        return of.median() if self.center == "median" else getattr(of, self.center)(share=self.share)

    def _scale(self, of: Any) -> Array:
        low, high = (q / 100 for q in self.quantile_range)
        if self.spread == "mad":
            found, wide = of.mad(), 1 / robust.NORMAL
        else:
            ends = of.quantile([low, high])
            found, wide = ends[1] - ends[0], special().ndtri(high) - special().ndtri(low)
        return np.where(found == 0, 1.0, found) / (wide if self.unit_variance else 1.0)

    def _affine(self) -> tuple[Array, Array]:
        shape = len(self._found_), self.n_features_in_
        center = np.zeros(shape) if self.center_ is None else self.center_.reshape(shape)
        return center, np.ones(shape) if self.scale_ is None else self.scale_.reshape(shape)

    def _numbers(self) -> Array:
        center, scale = self._affine()
        return np.stack([center, reciprocal(scale), np.zeros_like(center)])

    def _numbers_back(self) -> Array:
        center, scale = self._affine()
        return np.stack([np.zeros_like(center), scale, center])


class QuantileClipper(_ByQuantiles):
    """Features clipped to quantiles of the data: outliers get the nearest value that is none (winsorized data).

    Formula:
        y = min(max(x, lower), upper), the quantiles of all that counts

    `fit` selects exactly; `partial_fit` merges sketches, as `RobustScaler` does.

    Shapes:
        X, y: (N, C), or any with samples on axis 0 and C features on `axis`.
        lower_, upper_: (C,) float64; (groups, C) after fit(X, groups=...).

    Args:
        quantiles: (lower, upper), 0 <= lower <= upper <= 1.
        axis: the axis of the features; of an xarray.DataArray, its name, too.
        copy: False: the result takes the place of X, if X is a float array that can be written.
        nan: "skip": NaN does not count, and stays; "raise": it is an error.

    Raises:
        ValueError: see `RobustScaler`.

    Source:
        C. Hastings, F. Mosteller, J. W. Tukey and C. P. Winsor, "Low Moments for Small Samples", 1947,
        https://doi.org/10.1214/aoms/1177730388 (winsorized data).

    >>> import numpy as np
    >>> from normzoo.sklearn import QuantileClipper
    >>> QuantileClipper((0.25, 0.75)).fit_transform(np.array([[1.0], [2.0], [3.0], [4.0], [1e9]])).ravel()
    array([2., 2., 3., 4., 4.])
    """

    def __init__(
        self, quantiles: tuple[float, float] = (0.01, 0.99), *, axis: int | str = -1, copy: bool = True,
        nan: str = "skip",
    ) -> None:  # fmt: skip
        self.quantiles, self.axis, self.copy, self.nan = quantiles, axis, copy, nan

    def _check_options(self) -> None:
        super()._check_options()
        low, high = self.quantiles
        if not 0 <= low <= high <= 1:
            raise ValueError(
                f"QuantileClipper: expected quantiles (lower, upper) with 0 <= lower <= upper <= 1, got "
                f"{self.quantiles!r}"
            )

    def _kept(self, found: dict[int, Any]) -> Any:
        left = self._left(found)
        self.lower_, self.upper_ = (
            self._stacked(found, lambda of, q=q: of.quantile(q))[self._one()] for q in self.quantiles
        )
        return left

    def _numbers(self) -> Array:
        shape = len(self._found_), self.n_features_in_
        low, high = self.lower_.reshape(shape), self.upper_.reshape(shape)
        return np.stack([np.zeros(shape), np.ones(shape), np.zeros(shape), low, high])
