"""Norms without statistics: y is a function of each value, with parameters."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from normzoo.backends.contract import Array
from normzoo.backends.forms import Formula
from normzoo.passes.cells import Pass
from normzoo.passes.cells import Pull as CellPull
from normzoo.passes.formulas import summed
from normzoo.passes.numbers import check_number, check_shape
from normzoo.passes.saved import Pull
from normzoo.zoo.exact import ExactNorm
from normzoo.zoo.layer.layer_norm import axes


class ByValue(ExactNorm):
    """Base class: a norm that is `value`, a formula of x and of the parameters in their order; `gradient`, of dy, x and
    the parameters, gives dx and the terms of the parameters' gradients.

    Args:
        normalized_shape: sizes of the last axes, which weight and bias span.
        scalars: the other parameters, of shape (1,), and where they begin.
    """

    value: ClassVar[Formula]
    gradient: ClassVar[Formula]

    def __init__(self, normalized_shape: int | tuple[int, ...], dtype: Any, **scalars: float) -> None:
        self.normalized_shape = check_shape(type(self).__name__, "normalized_shape", normalized_shape)
        super().__init__(self.normalized_shape, shape=self.normalized_shape, dtype=dtype)
        self._scalars = tuple(scalars)
        for name, initial in scalars.items():
            setattr(self, f"{name}_init", check_number(self, f"{name}_init", initial))
            self.params[name] = np.full((1,), initial, self._dtype)

    def check(self, x: Array, **inputs: Array) -> None:
        axes(self, x, self.normalized_shape, None)

    def letters(self, x: Array) -> str:
        behind = len(self.normalized_shape)
        return "n" * (x.ndim - behind) + "c" * behind

    def by_cells(self, cells: Pass, params: Mapping[str, Array]) -> CellPull:
        given = [p.reshape(1, -1) for p in params.values()]
        cells(self.value, *given)
        return lambda cells: dict(zip(params, cells(self.gradient, *given), strict=True))

    def compute(self, x: Array, params: Mapping[str, Array], **inputs: Array) -> tuple[Array, Pull]:
        given = tuple(params.values())

        def pull(dy: Array) -> dict[str, Array]:
            dx, *terms = self.gradient.function(dy, x, *given)
            named = zip(params.items(), terms, strict=True)
            return {"x": dx} | {name: summed(term, p.shape) for (name, p), term in named}

        return self.value.function(x, *given)[0], pull

    def _options(self) -> dict[str, Any]:
        return {f"{name}_init": getattr(self, f"{name}_init") for name in self._scalars}
