"""What a pass in compiled code saves, and its backward pass: Numba's type for `normzoo.passes.saved.Saved`."""

from typing import Any

import numba
import numpy as np
from numba.core import types
from numba.core.errors import TypingError
from numba.experimental import structref
from numba.extending import overload_method

from normzoo.backends.contract import Moments
from normzoo.backends.cpu.compiling.jit import INNER
from normzoo.backends.cpu.kernels.records import Backward
from normzoo.njit.kernels import Kinds, backward
from normzoo.passes.saved import Grads

SIZES = types.UniTuple(types.intp, 4)


@structref.register
class SavedType(types.StructRef):
    """A pass: the fields x, weight (ones if there is none), stats (3, b, c), dims and parameter_dims; and what is known
    when compiling."""

    def __init__(
        self,
        x: Any,
        shaped: int,  # rank of the parameters
        owner: str,
        moments: Moments,
        kinds: Kinds,
        has_weight: bool,
        has_bias: bool,
    ) -> None:
        weight, stats = types.Array(x.dtype, shaped, "C"), types.Array(types.float64, 3, "C")
        fields = {
            "x": x,
            "weight": weight,
            "stats": stats,
            "dims": SIZES,
            "parameter_dims": SIZES,
        }
        super().__init__(tuple(fields.items()))
        self.owner, self.moments, self.kinds = owner, moments, kinds
        self.has_weight, self.has_bias = has_weight, has_bias
        known = owner, *moments, *kinds, has_weight, has_bias
        self.name = f"{self.name}[{', '.join(map(str, known))}]"


@numba.njit(**INNER)
def _present(a: Any) -> Any:
    return a


@numba.njit(**INNER)
def _absent(a: Any) -> None:
    return None


@overload_method(SavedType, "backward", jit_options=INNER)  # type: ignore[call-arg]
def _backward(saved, dy):
    """Grads(x, weight, bias), for the gradient dy of y; see `normzoo.passes.saved.Saved.backward`."""
    x = saved.field_dict["x"]
    if not isinstance(dy, types.Array) or (dy.dtype, dy.ndim, dy.layout) != (x.dtype, x.ndim, "C"):
        raise TypingError(
            f"{saved.owner}: expected dy to be a C-contiguous {x.dtype} array of {x.ndim} dimensions, got {dy}; "
            "write np.ascontiguousarray(dy), and astype where the dtype differs"
        )
    run = backward(saved.moments, saved.kinds, x.dtype)
    weight_of, bias_of = (_present if there else _absent for there in (saved.has_weight, saved.has_bias))
    message = f"{saved.owner}: expected dy of x's shape"

    def gradients(saved, dy):
        x, weight = saved.x, saved.weight
        if dy.shape != x.shape:
            raise ValueError(message)
        dx, dweight, dbias = np.empty_like(x), np.zeros_like(weight), np.zeros_like(weight)
        if dy.size > 0:
            given = Backward(saved.dims, saved.parameter_dims, dy, x, weight, saved.stats, dx, ())
            run(given, dweight, dbias)
        return Grads(dx, weight_of(dweight), bias_of(dbias))

    return gradients
