"""Base class of norms that are defined in NumPy, in float64.

Such a norm defines y as a function of x and its parameters, all float64, and how gradients are computed; `ExactNorm`
checks and converts arguments and results. float64 avoids the error that a large mean causes in float32; `formulas.py`
has the steps that several norms share. Most say in formulas of each value, too, what they do (`by_cells`): kernels
compute these, and the definition what is beyond the range of their types, and what is not finite.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from normzoo.backends.contract import Array
from normzoo.backends.subnormals import in_any_mode
from normzoo.norm import Norm
from normzoo.passes.arrays import base_array, read_only
from normzoo.passes.cells import Pass, by_cells
from normzoo.passes.cells import Pull as CellPull
from normzoo.passes.overlaps import check_out
from normzoo.passes.saved import Pull, PulledBack, Saved, empty_in_layout, layout_of
from normzoo.statistics.running_state import RunningState

Update = Callable[[Mapping[str, Array]], Mapping[str, Any]]  # (all buffers) -> new values of some of them


class ExactNorm(Norm):
    """A norm that defines `check` and `compute`. One that takes arrays beside x has its own `forward`, which passes
    them to `exactly`."""

    eps: float

    counts_empty: ClassVar[bool] = False  # is a batch without values counted in num_batches_tracked?

    def check(self, x: Array, **inputs: Array) -> None:
        """For authors of norms: raise if the shapes do not fit; nothing has been changed at this point."""

    @abstractmethod
    def compute(
        self, x: Array, params: Mapping[str, Array], **inputs: Array
    ) -> tuple[Array, Pull] | tuple[Array, Pull, Update | None]:
        """For authors of norms: y of x's shape, and the function from dy to the gradients, which are a dict with "x",
        every parameter and every input. A norm with running state also returns a function from all its buffers to new
        values of some of them. These are written after everything else has succeeded; the function is called again if
        another thread has written in between.

        Args:
            x, params, inputs: float64, C-contiguous; x is a copy, which must not be written to.
        """

    def letters(self, x: Array) -> str:
        """For authors of norms: how `by_cells` uses each axis of x, see `cells_of`; "" if there are no kernels for
        it."""
        return ""

    def by_cells(self, cells: Pass, params: Mapping[str, Array]) -> CellPull:
        """For authors of norms: write y by calls of `cells` with formulas. Returns a function that takes a pass which
        has dy too, writes dx, and returns all other gradients. `params` are float64."""
        raise NotImplementedError(f"{type(self).__name__} has no kernels")

    def forward(self, x: Array, out: Array | None = None) -> tuple[Array, Saved]:
        return self.exactly(x, out)

    @in_any_mode
    def exactly(
        self, x: Array, out: Array | None = None, *, update_stats: bool = True, **inputs: Array
    ) -> tuple[Array, Saved]:
        """For authors of norms: check, compute in float64 and write y, see `Norm.forward`. Without `update_stats` the
        buffers stay unchanged."""
        x = base_array(self, "x", x)
        inputs = {name: base_array(self, name, a) for name, a in inputs.items()}
        self.check(x, **inputs)
        arguments = self.params | inputs
        if out is not None:
            check_out(self, out, x.shape, x.dtype, (x,), (*arguments.values(), *self.buffers.values()))
        found = by_cells(self, x, out, inputs, self._prepared if update_stats else None)
        if found is not None:
            return found
        params = {name: _double(p) for name, p in self.params.items()}
        with np.errstate(all="ignore"):
            if x.size:
                result = self.compute(_double(x), params, **{name: _double(a) for name, a in inputs.items()})
            else:  # a set without values has no mean
                zeros = {name: np.zeros(a.shape) for name, a in arguments.items()}
                counted = self.counts_empty and self.training and "num_batches_tracked" in self.buffers
                result = x, lambda dy: {"x": dy} | zeros, _count if counted else None
            y_found, pull = result[0], result[1]
            write = self._prepared(result[2]) if len(result) == 3 and result[2] and update_stats else None
            y = empty_in_layout(x.shape, x.dtype, layout_of(x)) if out is None else out
            y[...] = y_found
            if write is not None:
                write()
        return y, PulledBack(self, x, pull, arguments)

    def _prepared(self, update: Update) -> Callable[[], None]:
        """A function that writes the new values of buffers. A read-only buffer raises here, before y is written."""
        names = list(self.buffers)

        def new(*old: Array) -> list[Any]:
            found = update(dict(zip(names, old, strict=True)))
            for name in found:
                if not self.buffers[name].flags.writeable:
                    raise ValueError(f"{self}: expected {name} that can be written, {read_only(self)}")
            return [found.get(name) for name in names]

        return RunningState(*self.buffers.values()).prepare(new)


def _count(old: Mapping[str, Array]) -> Mapping[str, Any]:
    """The update for a batch without values: it is counted."""
    return {"num_batches_tracked": old["num_batches_tracked"] + 1}


def _double(a: Array) -> Array:
    return np.array(a, np.float64, order="C")  # always a copy: the caller may change `a` before the backward pass
