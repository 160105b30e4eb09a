"""The CPU backend's passes that have no view. Their files are imported at first use, as most programs have none."""

from collections.abc import Callable
from typing import Any

import numpy as np

from normzoo.backends.contract import Array, Backend, Pass, Volume
from normzoo.backends.forms import (
    Cells,
    Cumulation,
    Following,
    Formula,
    Level,
    Lines,
    Pixels,
    Rescaling,
    Response,
    Sliding,
    Summary,
    Twice,
    Window,
)


class OfNoView(Backend):
    def response(self, dims: Volume, form: Response, store: np.dtype) -> Pass:
        return _apart().response(dims, form, (store,) * 2, False)

    def response_back(self, dims: Volume, form: Response, store: np.dtype) -> Pass:
        return _apart().response(dims, form, (store,) * 3, True)

    def position_moments(self, dims: Volume, store: np.dtype) -> Callable[[Array], Array]:
        return _apart().position_moments(dims, store)

    def position_sums(self, dims: Volume, dtype: np.dtype, store: np.dtype) -> Callable[..., tuple[Array, Array]]:
        return _apart().position_sums(dims, dtype, store)

    def position_gradient(self, dims: Volume, dtype: np.dtype, store: np.dtype) -> Pass:
        return _apart().position_gradient(dims, dtype, store)

    def window_means(self, dims: Volume, window: Window, back: bool) -> Callable[[Array], Array]:
        return _apart().window_means(dims, window, back)

    def cumulate(self, batch: int, form: Cumulation, dtype: np.dtype, store: np.dtype) -> Callable[..., Array]:
        return _apart().cumulate(batch, form, dtype, store)

    def cumulate_back(self, batch: int, form: Cumulation, dtype: np.dtype, store: np.dtype) -> Pass:
        return _apart().cumulate_back(batch, form, dtype, store)

    def cells(
        self, dims: Cells, formula: Formula | Twice, spans: tuple[str, ...], dtype: np.dtype, store: np.dtype
    ) -> Callable[..., list[Array]]:
        return _apart().cells(dims, formula, spans, dtype, store)

    def summarize(self, columns: int, summary: Summary, store: np.dtype) -> Callable[..., Array]:
        return _data().summarize(columns, summary, store)

    def rescale(self, dims: Volume, store: np.dtype, how: Rescaling) -> Callable[..., bool]:
        return _data().rescale(dims, store, how)

    def groups(
        self, starts: Array, c: int, formula: Formula, dtype: np.dtype, store: np.dtype
    ) -> Callable[..., list[Array]]:
        return _outside().groups(starts, c, formula, dtype, store)

    def follow(self, dims: Lines, form: Following, dtype: np.dtype, store: np.dtype) -> Callable[..., Array]:
        return _outside().follow(dims, form, store)

    def follow_back(self, dims: Lines, form: Following, dtype: np.dtype, store: np.dtype) -> Callable[..., Array]:
        return _outside().follow_back(dims, form, store)

    def largest(self, dims: Cells, k: int, store: np.dtype) -> Callable[[Array, Array], tuple[Array, Array]]:
        return _outside().largest(dims, k, store)

    def level(self, dims: Cells, form: Level, dtype: np.dtype, store: np.dtype) -> Callable[..., tuple[Array, bool]]:
        return _series().level(dims, form, dtype, store)

    def level_back(self, dims: Cells, form: Level, dtype: np.dtype, store: np.dtype) -> Callable[..., Any]:
        return _series().level_back(dims, form, dtype, store)

    def slide(self, dims: Lines, form: Sliding, dtype: np.dtype, store: np.dtype) -> Callable[..., None]:
        return _series().slide(dims, form, store)

    def slide_back(self, dims: Lines, form: Sliding, dtype: np.dtype, store: np.dtype) -> Callable[..., Array]:
        return _series().slide_back(dims, form, store)

    def pixel_sums(self, dims: Pixels, store: np.dtype, extremes: bool) -> Callable[[Array, float, float], Array]:
        return _outside().pixel_sums(dims, store, extremes)

    def pixels(self, dims: Pixels, store: np.dtype, result: np.dtype) -> Pass:
        return _outside().pixels(dims, store, result)

    def pixels_of_own(
        self, dims: Pixels, store: np.dtype, result: np.dtype, extremes: bool, joined: bool
    ) -> Callable[..., None] | None:
        return _outside().pixels_of_own(dims, store, result, extremes, joined)


def _apart() -> Any:
    """Passes over what is no view; imported at first use, as most programs have none."""
    from normzoo.backends.cpu import apart  # noqa: PLC0415

    return apart


def _data() -> Any:
    """Passes over tables of data; imported at first use, likewise."""
    from normzoo.backends.cpu import data  # noqa: PLC0415

    return data


def _outside() -> Any:
    """Likewise, over images, groups of rows and lines."""
    from normzoo.backends.cpu import outside  # noqa: PLC0415

    return outside


def _series() -> Any:
    """Likewise, over levels and windows of series."""
    from normzoo.backends.cpu import series  # noqa: PLC0415

    return series
