"""Norms outside the algebra: written in NumPy, with float64 inside, on every backend.

A norm says of x and its parameters, all float64, what y is and how a gradient goes back; `ExactNorm` checks, converts
and places the results. What they share is here too: moments that keep their digits, and the core of every backward
pass. float64 inside keeps float32 results flat in the mean.
"""

from abc import abstractmethod
from collections.abc import Mapping

import numpy as np

from normzoo.arrays import base_array, check_out
from normzoo.backends.contract import Array
from normzoo.norm import Norm
from normzoo.passes import Pull, PulledBack, Saved, empty_in_layout, layout_of

Axis = int | tuple[int, ...]


class ExactNorm(Norm):
    """A norm that declares `check` and `compute`. One that takes arrays beside x has a `forward` of its own, which
    calls `exactly` with them."""

    eps: float

    def check(self, x: Array, **inputs: Array) -> None:
        """Raise where the shapes do not fit; nothing has been changed yet."""

    @abstractmethod
    def compute(self, x: Array, params: Mapping[str, Array], **inputs: Array) -> tuple[Array, Pull]:
        """y of x's shape, and the function from dy to the gradients: a dict with "x", every parameter and every input.

        Args:
            x, params, inputs: float64, C-contiguous; x is a copy of the norm's own and must not be written to.
        """

    def forward(self, x: Array, out: Array | None = None) -> tuple[Array, Saved]:
        return self.exactly(x, out)

    def exactly(self, x: Array, out: Array | None = None, **inputs: Array) -> tuple[Array, Saved]:
        """Check, compute in float64 and place y: see `Norm.forward`."""
        x = base_array(self, "x", x)
        inputs = {name: base_array(self, name, a) for name, a in inputs.items()}
        self.check(x, **inputs)
        arguments = self.params | inputs
        if out is not None:
            check_out(self, out, x.shape, x.dtype, (x,), tuple(arguments.values()))
        params = {name: _double(p) for name, p in self.params.items()}
        with np.errstate(all="ignore"):
            if x.size:
                found, pull = self.compute(_double(x), params, **{name: _double(a) for name, a in inputs.items()})
            else:  # sets without values have no mean
                zeros = {name: np.zeros(a.shape) for name, a in arguments.items()}
                found, pull = x, lambda dy: {"x": dy} | zeros
            y = empty_in_layout(x.shape, x.dtype, layout_of(x)) if out is None else out
            y[...] = found
        return y, PulledBack(self, x, pull, arguments)


def _double(a: Array) -> Array:
    return np.array(a, np.float64, order="C")  # always a copy: the caller may change a before the backward pass


def centered(v: Array, axis: Axis) -> tuple[Array, Array]:
    """(mean, v - mean) over `axis`, kept; the mean's own rounding is seen in the deviations and taken back."""
    mean = v.mean(axis=axis, keepdims=True)
    deviation = v - mean
    rounding = deviation.mean(axis=axis, keepdims=True)
    return mean + rounding, deviation - rounding


def standardized(v: Array, axis: Axis, eps: float) -> tuple[Array, Array, Array, Array]:
    """(xhat, mean, var, rstd) over `axis`, kept: rstd = 1 / sqrt(var + eps), 0 where that divides by 0."""
    mean, deviation = centered(v, axis)
    var = (deviation * deviation).mean(axis=axis, keepdims=True)
    rstd = reciprocal(np.sqrt(var + eps))
    return deviation * rstd, mean, var, rstd


def standardized_back(g: Array, xhat: Array, rstd: Array, axis: Axis, center: bool = True) -> Array:
    """dx for the gradient `g` of xhat: rstd * (g - [center] mean(g) - xhat * mean(g * xhat))."""
    along = (g * xhat).mean(axis=axis, keepdims=True)
    return rstd * (g - (g.mean(axis=axis, keepdims=True) if center else 0.0) - xhat * along)


def reciprocal(v: Array) -> Array:
    """1 / v, and 0 for 0."""
    return np.divide(1.0, v, out=np.zeros_like(v), where=v != 0)


def summed(d: Array, shape: tuple[int, ...]) -> Array:
    """d summed over the axes along which an array of `shape` was broadcast to d's: the gradient of that array."""
    lead = d.ndim - len(shape)
    axes = tuple(range(lead)) + tuple(lead + i for i, size in enumerate(shape) if size == 1 != d.shape[lead + i])
    return d.sum(axis=axes).reshape(shape)
