"""What a pass in compiled code saves, and its backward pass: Numba's type for `normzoo.passes.saved.Saved`."""

from typing import Any

import numba
import numpy as np
from numba.core import types
from numba.core.errors import TypingError
from numba.experimental import structref
from numba.extending import overload_method

from normzoo.backends.around import ALONE, Around
from normzoo.backends.contract import Moments
from normzoo.backends.cpu.compiling.jit import INNER
from normzoo.backends.cpu.kernels.making import label
from normzoo.backends.cpu.kernels.records import Backward
from normzoo.njit.arguments import none
from normzoo.njit.around import to_dx
from normzoo.njit.kernels import Kinds, backward

SIZES = types.UniTuple(types.intp, 4)


@structref.register
class SavedType(types.StructRef):
    """A pass: the fields x, which is s where a residual was added, weight (ones if there is none), stats (3, b, c),
    dims and parameter_dims; with something around the norm also bias, the other array and the residual's scale; and
    what is known when compiling."""

    def __init__(
        self,
        x: Any,
        shaped: int,  # rank of the parameters
        owner: str,
        moments: Moments,
        kinds: Kinds,
        around: Around,
        has: tuple[bool, bool],  # weight and bias
    ) -> None:
        weight, stats = types.Array(x.dtype, shaped, "C"), types.Array(types.float64, 3, "C")
        fields = {
            "x": x,
            "weight": weight,
            "stats": stats,
            "dims": SIZES,
            "parameter_dims": SIZES,
        }
        if around != ALONE:
            fields |= {"bias": weight, "other": x, "scale": types.float64}
        super().__init__(tuple(fields.items()))
        self.owner, self.moments, self.kinds, self.around, self.has = owner, moments, kinds, around, has
        known = owner, *moments, *kinds, *has, label(around)
        self.name = f"{self.name}[{', '.join(map(str, known))}]"


@numba.njit(**INNER)
def _present(a: Any) -> Any:
    return a


@numba.njit(**INNER)
def _absent(a: Any) -> None:
    return None


@overload_method(SavedType, "backward", jit_options=INNER)  # type: ignore[call-arg]
def _backward(saved, dy, out=None, ds=None):
    """Grads(x, weight, bias), for the gradient dy of y; with those of residual, add and gate behind these, where there
    are such. See `normzoo.passes.saved.Saved.backward`."""
    owner, x, has_ds = saved.owner, saved.field_dict["x"], not none(ds)
    if has_ds and not saved.around.residual:
        raise TypingError(
            f"{owner}: expected ds where a residual was added to x, got it without one; write residual=r, or dx + ds"
        )
    for name, d in {"dy": dy, **({"ds": ds} if has_ds else {})}.items():
        if not isinstance(d, types.Array) or (d.dtype, d.ndim, d.layout) != (x.dtype, x.ndim, "C"):
            raise TypingError(
                f"{owner}: expected {name} to be a C-contiguous {x.dtype} array of {x.ndim} dimensions, got {d}; "
                f"write np.ascontiguousarray({name}), and astype where the dtype differs"
            )
    if not none(out):
        raise TypingError(f"{owner}: out= is not supported in compiled code; call it from Python")
    around = saved.around._replace(ds=has_ds)
    run = backward(saved.moments, saved.kinds, x.dtype, around._replace(residual=False))  # of s all is known
    dother_of, given_of, grads_of = to_dx(around, x.dtype)
    weight_of, bias_of = (_present if there else _absent for there in saved.has)
    message = f"{owner}: expected dy of x's shape"
    ds_message = f"{owner}: expected ds of x's shape"

    def gradients(saved, dy, out=None, ds=None):
        x, weight = saved.x, saved.weight
        if dy.shape != x.shape:
            raise ValueError(message)
        if has_ds:  # noqa: SIM102 (a separate `if`: it decides what is compiled)
            if ds.shape != x.shape:
                raise ValueError(ds_message)
        dx, dweight, dbias = np.empty_like(x), np.zeros_like(weight), np.zeros_like(weight)
        dother = dother_of(dx)
        if dy.size > 0:
            d, read, beside = given_of(saved, dy, dx, dother, ds)
            given = Backward(saved.dims, saved.parameter_dims, d, read, weight, saved.stats, dx, beside)
            run(given, dweight, dbias)
        return grads_of(dx, weight_of(dweight), bias_of(dbias), dother, saved)

    return gradients
