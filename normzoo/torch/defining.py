"""An operator of PyTorch with rules for all that PyTorch does with operators. `torch.library.custom_op` has no place
for a rule of forward-mode differentiation: tangents are lost there, and nothing is said."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.library import Library, infer_schema, register_fake, register_vmap

from normzoo.torch.function import is_transformed

Function = Callable[..., Any]


def defined(
    function: Function, fake: Function, autograd: tuple[Function, Function], composed: Function, vmap: Function
) -> Any:
    """The operator `normzoo::NAME OF THE FUNCTION`.

    Args:
        function: computes it.
        fake: the results without values.
        autograd: keeps what the backward pass needs, and the backward pass, as for `register_autograd`.
        composed: computes it in PyTorch's operators, for transforms of torch.func and forward-mode differentiation.
        vmap: (operator) -> its rule for `torch.vmap`.
    """
    name, library = function.__name__, Library("normzoo", "FRAGMENT")
    library.define(name + infer_schema(function, mutates_args=()), tags=(torch.Tag.pt2_compliant_tag,))
    library.impl(name, function, "CompositeExplicitAutograd")
    full = f"normzoo::{name}"
    register_fake(full, fake, lib=library)
    operator = getattr(torch.ops.normzoo, name).default
    keep, back = autograd

    class Recorded(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *given: Any) -> Any:
            with torch._C._AutoDispatchBelowAutograd():
                found = operator(*given)
            keep(ctx, given, found)
            return found

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            return back(ctx, *grads)

    def differentiable(*given: Any) -> Any:
        if is_transformed():
            return composed(*given)
        if torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in given):
            return Recorded.apply(*given)
        with torch._C._AutoDispatchBelowAutograd():
            return operator(*given)

    library.impl(name, differentiable, "Autograd")
    register_vmap(full, vmap(operator), lib=library)
    _LIBRARIES.append(library)  # an operator lives as long as its library
    return operator


_LIBRARIES: list[Library] = []
