"""Base class of norms of time series with an inverse, which restores what was removed, or forecasts of it."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np

from normzoo.backends.contract import Array
from normzoo.passes.arrays import base_array
from normzoo.passes.numbers import check_features, check_size
from normzoo.passes.overlaps import check_out
from normzoo.passes.saved import Chained, Pull, PulledBack, Saved, empty_in_layout, layout_of
from normzoo.passes.whole import WholeSaved
from normzoo.statistics.tracked import check_channels
from normzoo.zoo.exact import ExactNorm


class Taken:
    """What norm(x) removed from x; calling it is the backward pass of norm(x).

    Attributes:
        owner: the class of the norm. series: N, of x.
    """

    owner: type
    series: int
    pull: Pull

    def __call__(self, dy: Array) -> Mapping[str, Array]:
        return self.pull(dy)


class TakenSaved(Chained):
    """The `Saved` of a pass on a view, with what it removed."""

    __slots__ = ("kept",)

    def __init__(self, owner: object, x: Array, inner: Saved, taken: Taken) -> None:
        super().__init__(owner, x, inner.backward, (inner,))
        self.kept = taken


def taken_of(saved: Saved | None) -> Any:
    """What a forward pass left, if it had values."""
    return getattr(saved, "kept", getattr(saved, "_pull", None))


class Reversible(ExactNorm):
    """A norm whose `compute` leaves a `Taken`, and which says how that is restored. x is (N, T, C) or, with
    channel_axis=1, (N, C, T)."""

    num_features: int
    channel_axis: int
    saved_inverse: Saved | None = None

    def _begin(self, num_features: Any) -> None:
        self.num_features = check_features(type(self).__name__, num_features)

    def _turn(self, channel_axis: Any) -> None:
        self.channel_axis = check_size(self, "channel_axis", channel_axis, least=-(2**31))

    def check(self, x: Array, **inputs: Array) -> None:
        self.check_series(x)

    def check_series(self, x: Array) -> None:
        """Check what holds of f, too."""
        channel = check_channels(self, x, self.channel_axis, 3, self.num_features)
        if x.ndim != 3 or channel == 0:
            raise ValueError(
                f"{self}: expected x of rank 3, series first, got {x.shape}; reshape the series to one axis"
            )

    def steps(self, x: Array) -> int:
        """T."""
        return int(x.shape[2 if self.channel_axis % 3 == 1 else 1])

    @abstractmethod
    def restore(self, f: Array, taken: Any, **given: Array) -> tuple[Array, Pull]:
        """z for f (N, T, C) float64, and the function from dz to the gradients: of x (which is f), of `source`, every
        parameter, and what is given.

        Args:
            given: (N, ..., C) float64, of names and shapes that `replaces` says.
        """

    def replaces(self, f: tuple[int, int, int], taken: Any) -> Mapping[str, tuple[int, int, int]]:
        """What can be given in place of what was taken, for f of this shape (N, T, C): names and shapes (N, ..., C)."""
        return {}

    def needs(self, f: tuple[int, int, int], taken: Any) -> str | None:
        """Why what was taken does not fit f of this shape (N, T, C), if nothing is given: what is expected."""
        return None

    def inverse(self, f: Array, out: Array | None = None, **given: Array) -> Array:
        """z, by what the last norm(x) removed; what its backward pass needs is kept in `saved_inverse`. See
        `inverse_forward`."""
        if self.saved is None:
            raise RuntimeError(f"{self}: expected a forward pass before inverse; write y = norm(x) first")
        z, self.saved_inverse = self.inverse_forward(f, self.saved, out, **given)
        return z

    def inverse_forward(self, f: Array, saved: Saved, out: Array | None = None, **given: Array) -> tuple[Array, Saved]:
        """z and its `Saved`, without keeping it.

        Args:
            f: float array of x's shape, except for the number of time steps.
            saved: the `Saved` of the forward pass of this norm whose statistics are restored.
            out: an array like f that z is written to; it may be f itself.
            given: forecasts of what is restored, for norms that take some, see their docstrings.

        Raises:
            TypeError: f, out or what is given is not a float array, saved is not that of such a norm, or something
                unknown is given.
            ValueError: a shape does not fit, or the forward pass had no values.
        """
        f = base_array(self, "f", f)
        self.check_series(f)
        taken = taken_of(saved)
        if not isinstance(saved, PulledBack | WholeSaved | TakenSaved):
            raise TypeError(f"{self}: expected saved of a forward pass, got {type(saved).__name__}")
        if not isinstance(taken, Taken) or taken.owner is not type(self):
            raise ValueError(f"{self}: expected saved of a forward pass of {type(self).__name__} that had values")
        if len(f) != taken.series:
            raise ValueError(f"{self}: expected f of {taken.series} series, as x, got {f.shape}")
        given = self._given(f, taken, given)
        if out is not None:
            check_out(self, out, f.shape, f.dtype, (f,), (*self.params.values(), *given.values()))
        with np.errstate(all="ignore"):
            wide = {name: self._by_time(a) for name, a in given.items()}
            found, pull = self.restore(self._by_time(f), taken, **wide)
            z = empty_in_layout(f.shape, f.dtype, layout_of(f)) if out is None else out
            z[...] = np.moveaxis(found, 2, self.channel_axis)
        shape, dtype = saved._like
        source = np.broadcast_to(np.zeros((), dtype), shape)  # its gradient has this shape and dtype
        moved, channel_axis = ("x", "source", *given), self.channel_axis

        def back(dz: Array) -> dict[str, Array]:
            grads = dict(pull(np.moveaxis(dz, channel_axis, 2)))
            return grads | {name: np.moveaxis(grads[name], 2, channel_axis) for name in moved}

        return z, PulledBack(self, f, back, self.params | {"source": source} | given)

    def _given(self, f: Array, taken: Any, given: Mapping[str, Array]) -> dict[str, Array]:
        """Checked arrays; all that `replaces` names, or none."""
        turned = self._by_time(f[:0]).shape
        size = len(f), turned[1], turned[2]
        shapes = self.replaces(size, taken)
        unknown = [name for name in given if name not in shapes]
        if unknown:
            what = f"expected {' and '.join(shapes)} beside f" if shapes else "expected f alone"
            raise TypeError(f"{self}: {what}, got {unknown[0]}")
        if not given:
            why = self.needs(size, taken)
            if why is not None:
                raise ValueError(f"{self}: {why}, got f of shape {f.shape}")
            return {}
        found = {}
        for name, shape in shapes.items():
            if name not in given:
                raise TypeError(f"{self}: expected {' and '.join(shapes)} together, got {', '.join(given)} alone")
            found[name] = base_array(self, name, given[name])
            wanted = np.moveaxis(np.empty((0, *shape[1:])), 2, self.channel_axis).shape
            if found[name].shape != (shape[0], *wanted[1:]):
                raise ValueError(f"{self}: expected {name} of shape {(shape[0], *wanted[1:])}, got {found[name].shape}")
        return found

    def _by_time(self, a: Array) -> Array:
        """A copy as (N, T, C) float64."""
        return np.array(np.moveaxis(a, self.channel_axis, 2), np.float64, order="C")
