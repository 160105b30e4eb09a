"""Scalers by mean and deviation, and by extremes: statistics that merge exactly."""

from typing import Any, Self

import numpy as np

from normzoo.backends.contract import Array
from normzoo.passes.formulas import reciprocal
from normzoo.sklearn.base import Given, InvertibleScaler
from normzoo.statistics.counted import counted_of
from normzoo.statistics.stats import ALL_NAMES, Stats, extremes_union
from normzoo.statistics.tables import found_of, nothing


class Standardizer(InvertibleScaler):
    """Features with mean 0 and deviation 1: scikit-learn's StandardScaler for data of any rank, in groups, with masks.

    Formula:
        y = (x - mean) / std, std = sqrt(m2 / (count - correction)), of all that counts; std is 1 of a feature whose
        values are equal; inverse_transform: x = y * std + mean

    Shapes:
        X, y: (N, C), or any with samples on axis 0 and C features on `axis`.
        mean_, var_, scale_: (C,) float64; (groups, C) after fit(X, groups=...).

    Args:
        axis: the axis of the features; of an xarray.DataArray, its name, too.
        with_mean, with_std: False: the mean, or the deviation, stays.
        correction: subtracted from the count in the variance; 1 gives the unbiased variance.
        copy: False: the result takes the place of X, if X is a float array that can be written.
        nan: "skip": NaN does not count, and stays; "raise": it is an error.

    Attributes:
        mean_, var_, scale_, n_samples_seen_, n_features_in_, feature_names_in_: as StandardScaler's. groups_: the
            labels, ascending. stats_: the `nz.Stats` of all data so far, (groups or 1, C).

    Raises:
        ValueError: X has infinities, another number of features than in `fit`, or groups that it did not see.

    Source:
        scikit-learn, "StandardScaler",
        https://scikit-learn.org/stable/modules/generated/sklearn.preprocessing.StandardScaler.html; parts are merged by
        the formula of T. F. Chan, G. H. Golub and R. J. LeVeque, 1979.

    >>> import numpy as np
    >>> from normzoo.sklearn import Standardizer
    >>> X = np.array([[1.0], [3.0], [100.0], [104.0]])
    >>> Standardizer().fit(X, groups=["a", "a", "b", "b"]).transform(X, groups=["a", "a", "b", "b"]).ravel()
    array([-1.,  1., -1.,  1.])
    """

    def __init__(
        self, *, axis: int | str = -1, with_mean: bool = True, with_std: bool = True, correction: float = 0,
        copy: bool = True, nan: str = "skip",
    ) -> None:  # fmt: skip
        self.axis, self.with_mean, self.with_std = axis, with_mean, with_std
        self.correction, self.copy, self.nan = correction, copy, nan

    def fit(
        self, X: Any, y: Any = None, sample_weight: Any = None, *, groups: Any = None, lengths: Any = None,
        mask: Any = None,
    ) -> Self:  # fmt: skip
        """Statistics of X; those of earlier calls are forgotten.

        Args:
            X: (N, C), or of any rank: samples on axis 0, features on `axis`.
            y: not used.
            sample_weight: (N,) numbers >= 0: how much each sample counts.
            groups: (N,) labels: every group has statistics of its own.
            lengths: (N,) integers: the first lengths[i] positions of sample i along axis 1 count.
            mask: booleans that broadcast to X; True counts.

        Raises:
            ValueError: X has no values that count, infinities, or (with nan="raise") NaN; arguments have wrong shapes.
        """
        return self._take_in(X, Given(sample_weight, groups, lengths, mask), True)

    def partial_fit(
        self, X: Any, y: Any = None, sample_weight: Any = None, *, groups: Any = None, lengths: Any = None,
        mask: Any = None,
    ) -> Self:  # fmt: skip
        """Statistics of X and of all data before: see `fit`. Groups may be new."""
        return self._take_in(X, Given(sample_weight, groups, lengths, mask), False)

    @property
    def stats_(self) -> Stats:
        return self._found_

    def _found(self, chosen: Any, axes: tuple[int, ...], whole: bool) -> Stats:
        found = Stats.of(chosen, axes, skip_nan=True)
        if chosen.segments is not None:
            return found
        return Stats(*(np.asarray(getattr(found, name))[None] for name in ALL_NAMES))

    def _merged(self, one: Stats, other: Stats) -> Stats:
        return one.merge(other)

    def _placed(self, found: Stats, places: Array, groups: int) -> Stats:
        shape = groups, found.shape[1]
        made = {}
        for name in ALL_NAMES:
            a = np.broadcast_to(getattr(found, name), found.shape)
            made[name] = np.full(shape, name == "unit", a.dtype)
            made[name][places] = a
        return Stats(**made)

    def _kept(self, found: Stats) -> Stats:
        if not (np.isfinite(found.mean).all() and np.isfinite(found.m2).all()):
            raise infinite("Standardizer")
        one, std = self._one(), found.std(self.correction)
        self.n_samples_seen_ = seen(np.broadcast_to(found.count, found.shape)[one])
        empty = np.broadcast_to(found.count == 0, found.shape)
        self.mean_ = np.where(empty, np.nan, found.mean)[one] if self.with_mean or self.with_std else None
        self.var_ = found.var(self.correction)[one] if self.with_std else None
        self.scale_ = np.where(std == 0, 1.0, std)[one] if self.with_std else None
        return found

    def _affine(self) -> tuple[Array, Array]:
        """mean and std, or 0 and 1."""
        found = self._found_
        std = found.std(self.correction)
        mean = np.where(found.count > 0, found.mean, np.nan) if self.with_mean else np.zeros(found.shape)
        return mean, np.where(std == 0, 1.0, std) if self.with_std else np.ones(found.shape)

    def _numbers(self) -> Array:
        mean, std = self._affine()
        return np.stack([mean, reciprocal(std), np.zeros_like(mean)])

    def _numbers_back(self) -> Array:
        mean, std = self._affine()
        return np.stack([np.zeros_like(mean), std, mean])


class MinMaxScaler(InvertibleScaler):
    """Features brought to a range, by their least and largest value: scikit-learn's MinMaxScaler for data of any rank,
    in groups, with masks.

    Formula:
        y = (x - data_min) * scale + low, scale = (high - low) / (data_max - data_min), or high - low of a feature whose
        values are equal; inverse_transform: x = (y - low) / scale + data_min

    Shapes:
        X, y: (N, C), or any with samples on axis 0 and C features on `axis`.
        data_min_, data_max_, data_range_, scale_, min_: (C,) float64; (groups, C) after fit(X, groups=...).

    Args:
        feature_range: (low, high).
        axis: the axis of the features; of an xarray.DataArray, its name, too.
        clip: if True, y is no less than low and no more than high.
        copy: False: the result takes the place of X, if X is a float array that can be written.
        nan: "skip": NaN does not count, and stays; "raise": it is an error.

    Raises:
        ValueError: low is not below high; and see `Standardizer`.

    Source:
        scikit-learn, "MinMaxScaler",
        https://scikit-learn.org/stable/modules/generated/sklearn.preprocessing.MinMaxScaler.html.

    >>> import numpy as np
    >>> from normzoo.sklearn import MinMaxScaler
    >>> MinMaxScaler().fit_transform(np.float32([[1], [2], [5]])).ravel()
    array([0.  , 0.25, 1.  ], dtype=float32)
    """

    def __init__(
        self, feature_range: tuple[float, float] = (0, 1), *, axis: int | str = -1, clip: bool = False,
        copy: bool = True, nan: str = "skip",
    ) -> None:  # fmt: skip
        self.feature_range, self.axis, self.clip = feature_range, axis, clip
        self.copy, self.nan = copy, nan

    def _check_options(self) -> None:
        super()._check_options()
        low, high = self.feature_range
        if not low < high:
            raise ValueError(f"MinMaxScaler: expected feature_range (low, high) with low < high, got {(low, high)}")

    def _found(self, chosen: Any, axes: tuple[int, ...], whole: bool) -> Array:
        counted, _ = counted_of("MinMaxScaler", chosen, axes, True)
        if chosen.size == 0:
            kept = [n for i, n in enumerate(chosen.shape) if i not in axes]
            return nothing((counted.groups, *kept), True)
        return found_of(chosen.x, axes, counted, True, extremes_union)

    def _merged(self, one: Array, other: Array) -> Array:
        return extremes_union(one, other)

    def _placed(self, found: Array, places: Array, groups: int) -> Array:
        made = nothing((groups, found.shape[2]), True)
        made[:, places] = found
        return made

    def _kept(self, found: Array) -> Array:
        count, one = found[0], self._one()
        low, high = np.where(count > 0, found[1:], np.nan)
        if np.isinf(low).any() or np.isinf(high).any():
            raise infinite("MinMaxScaler")
        span, (begin, end) = high - low, self.feature_range
        scale = (end - begin) / np.where(span == 0, 1.0, span)
        self.data_min_, self.data_max_, self.data_range_ = low[one], high[one], span[one]
        self.scale_, self.min_ = scale[one], (begin - low * scale)[one]
        self.n_samples_seen_ = seen(count[one].astype(np.int64))
        return found

    def _wide(self) -> tuple[Array, Array]:
        """Least value and scale, (groups, features)."""
        least, scale = (np.asarray(a).reshape(self._found_.shape[1:]) for a in (self.data_min_, self.scale_))
        return least, scale

    def _numbers(self) -> Array:
        least, scale = self._wide()
        low, high = (np.full_like(least, v) for v in self.feature_range)
        return np.stack([least, scale, low, *((low, high) if self.clip else ())])

    def _numbers_back(self) -> Array:
        least, scale = self._wide()
        return np.stack([np.full_like(least, self.feature_range[0]), reciprocal(scale), least])


def seen(count: Array) -> Any:
    """One number where all are equal, as scikit-learn has it."""
    first = count.reshape(-1)[0]
    return first if (count == first).all() else count.copy()


def infinite(name: str) -> ValueError:
    """The error of a fit."""
    return ValueError(
        f"Input X contains infinity or a value too large.\n{name}: write np.where(np.isinf(X), np.nan, X)"
    )
