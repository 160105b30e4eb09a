"""Standardization of a data set: every feature gets mean 0 and variance 1, by statistics of the whole set."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

import numpy as np

from normzoo.backends.contract import Array
from normzoo.passes.arrays import check_batches, on_device, read_only
from normzoo.passes.attributes import entry
from normzoo.passes.numbers import check_features, check_number, check_size
from normzoo.statistics.counted import data_array, data_of
from normzoo.statistics.running_state import RunningState
from normzoo.statistics.stats import ALL_NAMES, Stats
from normzoo.statistics.tracked import check_channels
from normzoo.zoo.data.by_constants import ByConstants


class Standardize(ByConstants):
    """Standardization of a data set: every feature gets mean 0 and variance 1, by statistics of the whole set.

    Formula:
        norm(x): y = (x - mean) / sqrt(var + eps);  norm.inverse(y): x = y * sqrt(var + eps) + mean, with mean and
        var = m2 / (count - correction) of all batches that `adapt` saw, over all axes but the features'; they are
        constants in the gradient. A feature whose values were all equal gives 0 (with eps 0), and its inverse is its
        mean. m2 is in units of unit^2, see `Stats`.

    Shapes:
        x, y: (N, C), (N, T, C), ...; with channel_axis=1, (N, C, ...).
        mean, var, m2, unit: (C,) float64. count: () int64.

    Args:
        num_features: C.
        eps: added to the variance, in the units of x squared.
        with_mean, with_std: False: the mean, or the deviation, stays unchanged.
        correction: subtracted from the count in the variance; 1 gives the unbiased variance.
        channel_axis: the axis of the features, -1 (or any other).

    Raises:
        ValueError: x has another number of features. TypeError: x is not a float array. RuntimeError: norm(x) was
            called before `adapt`, or correction is not below the count. Nothing has changed then.

    Source:
        Keras, "Normalization", https://keras.io/api/layers/preprocessing_layers/numerical/normalization/ (`adapt`,
        and max(deviation, 1e-7) instead of eps), and scikit-learn, "StandardScaler",
        https://scikit-learn.org/stable/modules/generated/sklearn.preprocessing.StandardScaler.html (with_mean,
        with_std; it only shifts constant features). Batches are merged by the formula of T. F. Chan, G. H. Golub and
        R. J. LeVeque, 1979. It is BatchNorm in evaluation.

    >>> import numpy as np, normzoo as nz
    >>> norm = nz.Standardize(1).adapt([np.array([[0], [2]], np.float32), np.array([[10]], np.float32)])
    >>> norm(np.array([[0], [4], [8]], np.float32)).round(2).ravel()
    array([-0.93,  0.  ,  0.93], dtype=float32)
    """

    eps: float

    mean = entry("buffers", "mean")
    m2 = entry("buffers", "m2")

    def __init__(
        self,
        num_features: int,
        eps: float = 0.0,
        *,
        with_mean: bool = True,
        with_std: bool = True,
        correction: float = 0,
        channel_axis: int = -1,
    ) -> None:
        self.num_features = check_features(type(self).__name__, num_features)
        super().__init__(num_features, eps=eps, weight=False, bias=False)
        self.with_mean, self.with_std = bool(with_mean), bool(with_std)
        self.correction = check_number(self, "correction", correction)
        self.channel_axis = check_size(self, "channel_axis", channel_axis, least=-(2**31))
        for name, dtype in zip(ALL_NAMES, (np.int64, *3 * (np.float64,)), strict=True):
            self.buffers[name] = np.full((num_features,) if name != "count" else (), name == "unit", dtype)

    @property
    def stats(self) -> Stats:
        """The statistics of all batches so far."""
        return Stats(*self._state().read())

    @property
    def count(self) -> Array:
        """Number of values seen per feature, int64 of shape ()."""
        return self.buffers["count"]

    @property
    def var(self) -> Array:
        """The variance of every feature, float64."""
        return self.stats.var(self.correction)

    def _state(self) -> RunningState:
        return RunningState(*(self.buffers[name] for name in ALL_NAMES))

    def checked_state(self, state: Any, *arguments: Any, **options: Any) -> dict[str, Array]:
        if isinstance(state, Mapping) and "m2" in state and "unit" not in state:  # the format of old versions
            state = {**state, "unit": np.ones(self.num_features)}
        return super().checked_state(state, *arguments, **options)

    def adapt(self, batches: Array | Iterable[Array]) -> Self:
        """Replace the statistics by those of all batches, given as one array or frame, or several; returns the norm.
        An array may be a memory map of any size; of several, each is what `Stats.of` takes, all of whose values count.
        """
        single = isinstance(batches, np.ndarray) or on_device(batches) or hasattr(batches, "to_numpy")
        batches = [batches] if single else check_batches(self, batches, "{}")  # type: ignore[list-item]
        stats = self._of(batches)
        self._replace(lambda old: stats)
        return self

    def update(self, batch: Array) -> None:
        """Add a batch to the statistics, like scikit-learn's partial_fit. Other threads may add batches at the same
        time."""
        stats = self._of([batch])
        self._replace(lambda old: old.merge(stats))

    def merge(self, other: "Standardize") -> Self:
        """Add all that another norm of the same features has seen, and return this norm: in any order of merges the
        statistics are those of all data at once, up to float64 rounding."""
        if not isinstance(other, Standardize):
            raise TypeError(
                f"{self}: expected a norm with the same statistics to merge, got {type(other).__name__}; write "
                "norm.update(batch) to add data"
            )
        if other.num_features != self.num_features:
            raise ValueError(f"{self}: expected a norm of {self.num_features} features to merge, got {other}")
        stats = other.stats
        self._replace(lambda old: old.merge(stats))
        return self

    def _of(self, batches: Iterable[Array]) -> Stats:
        stats = None
        for given in batches:
            known = given if isinstance(given, np.ma.MaskedArray) else data_of(self, given, "batch")
            batch = data_array(self, "batch", known)  # one count serves all features: all values count
            channel = check_channels(self, batch, self.channel_axis, 1, self.num_features)
            found = Stats.of(batch, tuple(i for i in range(batch.ndim) if i != channel))
            stats = found if stats is None else stats.merge(found)
        return Stats.empty((self.num_features,)) if stats is None else stats

    def _replace(self, new: Callable[[Stats], Stats]) -> None:
        _, write = self._prepare(new)
        write()

    def _prepare(self, new: Callable[[Stats], Stats]) -> tuple[Stats, Callable[[], None]]:
        """new(statistics), and a function that writes them; after another thread has written, it asks `new` again."""
        if not all(self.buffers[name].flags.writeable for name in ALL_NAMES):
            raise ValueError(f"{self}: expected statistics that can be written, {read_only(self)}")
        made: list[Stats] = []

        def values(*old: Array) -> list[Array]:
            found = new(Stats(*old))
            made.append(found)
            return [found.count, found.mean, found.m2, np.broadcast_to(found.unit, found.shape)]

        write = self._state().prepare(values)
        return made[0], write

    def _known(self) -> Stats:
        """The statistics to normalize by."""
        return self.stats

    def _scale(self) -> tuple[Array, Array]:
        return self._scale_of(self._known())

    def _scale_of(self, stats: Stats) -> tuple[Array, Array]:
        """(mean, sqrt(var + eps)) to normalize by."""
        least = max(0, self.correction if self.with_std else 0)
        if (self.with_mean or self.with_std) and stats.count <= least:
            raise RuntimeError(
                f"{self}: expected more than {least} values of a feature before it is used, got {stats.count}; "
                "write norm.adapt(batches) first"
            )
        mean = stats.mean
        root = np.hypot(stats.std(self.correction), np.sqrt(self.eps)) if self.with_std else np.ones_like(mean)
        return (mean if self.with_mean else np.zeros_like(mean)), root

    def _options(self) -> dict[str, Any]:
        names = ("with_mean", "with_std", "correction", "channel_axis")
        return super()._options() | {name: getattr(self, name) for name in names}
