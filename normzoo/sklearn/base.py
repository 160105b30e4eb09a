"""What the estimators share: what comes in, groups, and how values are rescaled."""

from typing import Any, NamedTuple, Self

import numpy as np
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from normzoo.backends.contract import Array
from normzoo.selection.select import select
from normzoo.sklearn.incoming import Incoming, found_groups, incoming, places_of
from normzoo.statistics.rescaling import rescaled
from normzoo.statistics.stats import extremes_union
from normzoo.statistics.tables import Counted, found_of

RULES = "skip", "raise"


class Given(NamedTuple):
    """Arguments of `fit` beside X."""

    sample_weight: Any
    groups: Any
    lengths: Any
    mask: Any


class Scaler(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Base class: an estimator that finds statistics of samples (`_found`), merges them (`_merged`), and says the
    numbers that they rescale by (`_numbers`)."""

    axis: int | str
    copy: bool
    nan: str

    def fit(self, X: Any, y: Any = None, *, groups: Any = None, lengths: Any = None, mask: Any = None) -> Self:
        """Statistics of X; those of earlier calls are forgotten.

        Args:
            X: (N, C), or of any rank: samples on axis 0, features on `axis`.
            y: not used.
            groups: (N,) labels: every group has statistics of its own.
            lengths: (N,) integers: the first lengths[i] positions of sample i along axis 1 count.
            mask: booleans that broadcast to X; True counts.

        Raises:
            ValueError: X has no values that count, infinities, or (with nan="raise") NaN; arguments have wrong shapes.
        """
        return self._take_in(X, Given(None, groups, lengths, mask), True)

    def partial_fit(self, X: Any, y: Any = None, *, groups: Any = None, lengths: Any = None, mask: Any = None) -> Self:
        """Statistics of X and of all data before: see `fit`. Groups may be new."""
        return self._take_in(X, Given(None, groups, lengths, mask), False)

    def fit_transform(self, X: Any, y: Any = None, **given: Any) -> Any:
        """`fit` with these arguments, and `transform` of the same data, and groups."""
        return self.fit(X, y, **given).transform(X, groups=given.get("groups"))

    def transform(self, X: Any, *, groups: Any = None) -> Any:
        """X rescaled, in its dtype and layout; NaN stays. With copy=False the result takes the place of X, if X is a
        float array that can be written.

        Args:
            groups: (N,) labels that `fit` saw, if it had some.
        """
        check_is_fitted(self)
        return self._rescaled(X, groups, self._numbers())

    # -- what an estimator defines ---------------------------------------------------------------------------------

    def _found(self, chosen: Any, axes: tuple[int, ...], whole: bool) -> Any:
        """Statistics of a selection over `axes`, of each segment. `whole`: there is no other data."""
        raise NotImplementedError

    def _merged(self, one: Any, other: Any) -> Any:
        raise NotImplementedError

    def _placed(self, found: Any, places: Array, groups: int) -> Any:
        """The same of more groups, at these places; the others are empty."""
        raise NotImplementedError

    def _kept(self, found: Any) -> Any:
        """Check statistics and set the attributes that `fit` does; what is kept to merge others with."""
        raise NotImplementedError

    def _numbers(self) -> Array:
        """(3 or 5, groups, features): see `rescaled`."""
        raise NotImplementedError

    def _check_options(self) -> None:
        if self.nan not in RULES:
            names = " or ".join(map(repr, RULES))
            raise ValueError(f"{type(self).__name__}: expected nan to be {names}, got {self.nan!r}")

    # -- what all share --------------------------------------------------------------------------------------------

    def _take_in(self, X: Any, given: Given, afresh: bool) -> Self:
        self._check_options()
        before = self.__dict__.copy()
        try:
            if afresh:
                for name in ("_found_", "groups_"):
                    self.__dict__.pop(name, None)
            known, held = getattr(self, "groups_", None), getattr(self, "_found_", None)
            data = incoming(self, X, afresh or held is None)
            labels = every = None
            if given.groups is not None or known is not None:
                labels = found_groups(self, given.groups, len(data.data), given.groups if held is None else known)
                every = np.unique(labels)
                if held is not None and known is not None:
                    every = np.union1d(known, every)
                    held = self._placed(held, np.searchsorted(every, known), every.size)
                self.groups_ = every
            elif given.groups is not None:
                found_groups(self, given.groups, len(data.data), known)
            for part, block in data.blocks():
                whole = afresh and not data.is_lazy
                found = self._of_block(block, data, (part, labels, every), given, whole)
                held = found if held is None else self._merged(held, found)
            self._found_ = self._kept(held)
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise
        return self

    def _of_block(
        self, block: Array, data: Incoming, grouped: tuple[slice, Any, Any], given: Given, whole: bool
    ) -> Any:
        """Statistics of some samples, of all groups."""
        part, labels, every = grouped
        samples = len(data.data)
        weight, lengths, mask = given.sample_weight, given.lengths, given.mask
        if weight is not None:
            weight = _check_sample_weight(weight, np.zeros((samples, 1)), dtype=np.float64)[part]
            weight = weight.reshape(-1, *(1,) * (block.ndim - 1))
        if lengths is not None:
            lengths = np.asarray(lengths)[part]
        if mask is not None:
            mask = np.asarray(mask)
            mask = mask[part] if mask.ndim == block.ndim and len(mask) == samples else mask
        segments = None if labels is None else np.searchsorted(every, labels[part])
        chosen = select(block, mask, lengths, weight, segments)
        if self.nan == "raise":
            there = np.isnan(block) if chosen.mask is None else np.isnan(block) & chosen.mask
            if there.any():
                raise ValueError(
                    f"Input X contains NaN.\n{type(self).__name__}: write nan='skip', and NaN does not count"
                )
        found = self._found(chosen, tuple(i for i in range(block.ndim) if i != data.axis), whole)
        if segments is not None and every is not None:
            return self._placed(found, np.unique(segments), every.size)
        return found

    def _one(self) -> Any:
        """What a fitted attribute is of an array (groups, features): all of it, or the only row."""
        return slice(None) if hasattr(self, "groups_") else 0

    def _rescaled(self, X: Any, groups: Any, numbers: Array) -> Any:
        data = incoming(self, X, False)
        places = None
        known = getattr(self, "groups_", None)
        if groups is not None or known is not None:
            labels = found_groups(self, groups, len(data.data), known)
            places = places_of(self, labels, np.asarray(known))
        if not data.is_lazy:
            in_place = not self.copy and isinstance(X, np.ndarray) and np.may_share_memory(data.data, X)
            return data.back(self._checked(data.data, data.axis, numbers, places, in_place), X)
        lazy = data.data.rechunk({data.axis: -1})
        dtype = lazy.dtype if lazy.dtype.kind == "f" else np.dtype(np.float64)
        axis, scaler = data.axis, self

        def of_block(block: Array, block_info: Any = None) -> Array:
            own = places
            if places is not None and block_info:
                own = places[slice(*block_info[0]["array-location"][0])]
            return scaler._checked(block, axis, numbers, own)

        return data.back(lazy.map_blocks(of_block, dtype=dtype, meta=np.empty((0,) * lazy.ndim, dtype)), X)

    def _checked(self, x: Array, axis: int, numbers: Array, places: Array | None, in_place: bool = False) -> Array:
        x = x if x.dtype.kind == "f" else x.astype(np.float64)
        if in_place:  # nothing is written where this raises
            self._check_before(x, axis)
        y, finite = rescaled(x, axis, numbers, places, in_place)
        if not (finite or in_place):
            self._check_finite(x)
        return y

    def _check_before(self, x: Array, axis: int) -> None:
        if x.size:
            count, *ends = found_of(x, tuple(i for i in range(x.ndim) if i != axis), Counted(), True, extremes_union)
            if any((np.isinf(end) & (count > 0)).any() for end in ends) or count.sum() < x.size:
                self._check_finite(x)

    def _check_finite(self, x: Array) -> None:
        if np.isinf(x).any():
            raise ValueError(
                f"Input X contains infinity or a value too large for {x.dtype!r}.\n{type(self).__name__}: write "
                "np.where(np.isinf(X), np.nan, X)"
            )
        if self.nan == "raise" and np.isnan(x).any():
            raise ValueError(f"Input X contains NaN.\n{type(self).__name__}: write nan='skip', and NaN stays")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.nan == "skip"
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32", "float16"]
        return tags


class InvertibleScaler(Scaler):
    """Base class of those whose data can be had back."""

    def inverse_transform(self, X: Any, *, groups: Any = None) -> Any:
        """The data for what `transform` gave."""
        check_is_fitted(self)
        return self._rescaled(X, groups, self._numbers_back())

    def _numbers_back(self) -> Array:
        """Those that go back."""
        raise NotImplementedError
