"""What the tests of the zoo run over: a norm, what it takes, and its formula once more."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class ZooCase:
    """A row of the zoo.

    Attributes:
        id: the norm's name in snake case, and "-variant".
        norm: (dtype) -> Norm, new at every call.
        shape: of x. Sizes straddle sixteen, or are odd.
        oracle: (x, **params, **inputs, **buffers) -> y in float64, written from the paper with nothing of the library.
            It takes complex x, parameters and inputs, for derivatives by the complex step (no absolute values of
            complex numbers: see `magnitude`), unless `derivative` is "central". Buffers are those before the call.
        inputs: name -> shape of a float array beside x, in the order that norm(x, ...) takes them.
        fixed: name -> an array beside x that has no gradient (labels), passed by name to norm and oracle.
        prepare: (norm, rng) -> None: sets parameters and buffers; by default parameters are random.
        derivative: "complex", or "central" differences of fourth order for oracles that take real numbers only.
        flat: whether float32 results must be within 1e-6 for |mean|/std of 1e4 too (norms that centre).
        scale: what float32 errors are relative to: (y) -> number; by default max(1, |y|).
        frozen: (x, **the rest) -> things that are constants of the gradient (clipped r and d, running statistics),
            passed to the oracle as keywords; the derivative is taken with these held.
        positive: x is above 0.
    """

    id: str
    norm: Callable
    shape: tuple[int, ...]
    oracle: Callable
    inputs: dict[str, tuple[int, ...]] = field(default_factory=dict)
    fixed: dict[str, np.ndarray] = field(default_factory=dict)
    prepare: Callable | None = None
    derivative: str = "complex"
    flat: bool = False
    scale: Callable = lambda y: max(1.0, float(np.abs(y).max()))
    frozen: Callable | None = None
    positive: bool = False

    def __str__(self) -> str:
        return self.id

    def draw(self, rng, dtype=np.float64, mean=0.0, std=1.0):
        """(norm, x, inputs, dy), all of `dtype`."""
        norm = self.norm(dtype)
        if self.prepare is not None:
            self.prepare(norm, rng)
        else:
            for p in norm.params.values():
                p[...] = rng.standard_normal(p.shape)
        x = mean + std * rng.standard_normal(self.shape)
        x = (np.abs(x) if self.positive else x).astype(dtype)
        inputs = {name: rng.standard_normal(shape).astype(dtype) for name, shape in self.inputs.items()}
        return norm, x, inputs, rng.standard_normal(self.shape).astype(dtype)

    def expected(self, norm, x, inputs):
        """(y, the function of x and all arguments that the gradient is of), in float64."""
        wide = {n: np.array(a, np.float64) for n, a in {**norm.params, **inputs, **norm.buffers}.items()}
        x = np.asarray(x, np.float64)
        held = self.frozen(x, **wide, **self.fixed) if self.frozen else {}

        def function(x, **changed):
            return self.oracle(x, **(wide | self.fixed | held | changed))

        return function(x), function


def magnitude(v):
    """|v| that a complex step goes through: v times the sign of its real part."""
    return v * np.sign(np.real(v))


def clip(v, low, high):
    """np.clip that a complex step goes through: constant outside."""
    return np.where(np.real(v) < low, low, np.where(np.real(v) > high, high, v))
