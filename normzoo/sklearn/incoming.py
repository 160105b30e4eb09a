"""What estimators take, as arrays of floats: lists, frames, masked arrays, memory maps, labelled arrays, Dask."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils.validation import _check_feature_names, check_array, validate_data

from normzoo.backends.contract import Array
from normzoo.passes.arrays import quoted

KINDS = [np.float64, np.float32, np.float16]


class Incoming(NamedTuple):
    """Data, or blocks of it."""

    data: Any  # a NumPy or Dask array
    axis: int  # that of the features, from the front
    labelled: Any  # the xarray.DataArray that it came as, or None
    masked: bool  # did it come as a masked array, whose masked values are NaN here?

    @property
    def is_lazy(self) -> bool:
        return is_dask(self.data)

    def blocks(self) -> Iterator[tuple[slice, Array]]:
        """Ranges of samples, and their values in memory."""
        if not self.is_lazy:
            yield slice(0, len(self.data)), self.data
            return
        begin = 0
        for size in self.data.chunks[0]:
            part = slice(begin, begin + size)
            yield part, as_floats(self.data[part].compute())
            begin += size

    def back(self, y: Any, original: Any) -> Any:
        """The result as what the data came as."""
        if self.labelled is not None:
            return self.labelled.copy(data=y)
        return np.ma.array(y, mask=np.ma.getmaskarray(original)) if self.masked else y


def is_dask(x: Any) -> bool:
    return hasattr(x, "dask") and hasattr(x, "chunks")


def as_floats(a: Array) -> Array:
    """Integers and booleans as float64."""
    return a if a.dtype.kind == "f" else a.astype(np.float64)


def incoming(estimator: Any, X: Any, reset: bool) -> Incoming:
    """Check X, and its features against those of `fit`; with `reset` these are remembered."""
    labelled = X if hasattr(X, "dims") and hasattr(X, "coords") else None
    axis, data = estimator.axis, X if labelled is None else X.data
    if isinstance(axis, str):
        if labelled is None or axis not in labelled.dims:
            got = "an array without names" if labelled is None else f"dims {labelled.dims}"
            raise ValueError(f"{_name(estimator)}: expected X with a dimension axis={axis!r}, got {got}")
        axis = labelled.dims.index(axis)
    masked = isinstance(data, np.ma.MaskedArray)
    if masked:
        data = data.astype(np.result_type(data.dtype, np.float16) if data.dtype.kind == "f" else np.float64)
        data = data.filled(np.nan)
    shape = getattr(data, "shape", ())
    if len(shape) > 2 or labelled is not None or is_dask(data):
        _check_feature_names(
            estimator, np.zeros((1, 1)) if labelled is not None or is_dask(data) else data, reset=reset
        )
        if not is_dask(data):
            data = check_array(
                data, dtype=KINDS, allow_nd=True, ensure_all_finite=False, estimator=estimator, input_name="X"
            )
        axis = feature_axis(estimator, axis, len(shape))
        _check_features(estimator, shape[axis], reset)
    else:
        data = validate_data(estimator, data, reset=reset, dtype=KINDS, ensure_all_finite=False)
        axis = feature_axis(estimator, axis, 2)
    return Incoming(data, axis, labelled, masked)


def feature_axis(estimator: Any, axis: Any, ndim: int) -> int:
    """The axis of the features, counted from the front."""
    if isinstance(axis, bool) or not isinstance(axis, int | np.integer):
        raise TypeError(
            f"{_name(estimator)}: expected axis to be an integer or a name, got {quoted(axis)}; write axis=-1"
        )
    if not -ndim <= axis < ndim or axis % ndim == 0:
        raise ValueError(
            f"{_name(estimator)}: expected axis in [1, {ndim}) or [-{ndim - 1}, 0) for X of rank {ndim}, whose axis 0 "
            f"holds the samples, got {axis}; write axis=-1 or np.moveaxis(X, {axis}, -1)"
        )
    return int(axis % ndim)


def _check_features(estimator: Any, features: int, reset: bool) -> None:
    """As scikit-learn does of two axes."""
    if reset:
        estimator.n_features_in_ = features
    elif features != estimator.n_features_in_:
        raise ValueError(
            f"X has {features} features, but {_name(estimator)} is expecting {estimator.n_features_in_} features as "
            "input"
        )


def _name(estimator: Any) -> str:
    return type(estimator).__name__


def found_groups(estimator: Any, groups: Any, samples: int, known: Any) -> Array:
    """Labels (N,), checked; `known`: those of `fit`, or None."""
    if (groups is None) != (known is None):
        there, write = ("none", "groups=...") if groups is None else ("some", "fit(X, groups=...) before")
        raise ValueError(f"{_name(estimator)}: expected groups as `fit` had them, got {there}; write {write}")
    labels = np.asarray(groups)
    if labels.shape != (samples,):
        raise ValueError(
            f"{_name(estimator)}: expected groups of shape ({samples},), a label for each sample, got {labels.shape}"
        )
    return labels


def places_of(estimator: Any, labels: Array, known: Array) -> Array:
    """The index of each label among the known ones, which ascend."""
    places = np.minimum(np.searchsorted(known, labels), known.size - 1)
    strange = known[places] != labels
    if strange.any():
        first = labels[strange][0]
        raise ValueError(
            f"{_name(estimator)}: expected groups that `fit` saw, {quoted(known.tolist())}, got "
            f"{quoted(first.item())}; write partial_fit of its data before"
        )
    return places.astype(np.int64)
