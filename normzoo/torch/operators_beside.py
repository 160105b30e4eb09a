"""Passes with something around the norm as PyTorch operators, as `operators.py` has those of the norm alone."""

from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from normzoo.backends.activations import activation as activation_of
from normzoo.backends.around import Around
from normzoo.torch.batched import by_items
from normzoo.torch.beside import Places, composed, function_of, run, run_back
from normzoo.torch.defining import defined
from normzoo.torch.function import Spec, by_torch
from normzoo.torch.operators import fakes, left_of, placed, stats_by_torch
from normzoo.torch.tensors import tensor_of


def normalize_beside(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    residual: Tensor | None,
    other: Tensor | None,
    name: str,
    sizes: list[int],
    own: bool,
    momentum: float,
    eps: float | None,
    activation: str,
    behind: str,
    gate_first: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, s (empty without a residual) and the statistics (3, sets); `other` is what is added behind, or the gate, and
    activation "" is none."""
    spec, tensors = Spec(name, tuple(sizes), own, momentum, eps), (x, weight, bias, mean, var)
    around = Around(residual is not None, gate_first, behind, activation_of(activation or None))
    found, saved = run(spec, tensors, Places(around, scale, residual, other), True)
    y, s = found if residual is not None else (found, None)
    stats = tensor_of(saved.left.stats).reshape(3, -1)
    return placed(y, x), x.new_empty(0) if s is None else placed(s, x), stats


def _fake(
    x: Tensor, weight: Any, bias: Any, mean: Any, var: Any, residual: Any, other: Any, name: str, sizes: Any, own: Any,
    momentum: Any, eps: Any, activation: Any, behind: Any, gate_first: Any, scale: Any,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    y, stats = fakes(Spec(name, sizes, own), x)
    return y, x.new_empty(0) if residual is None else torch.empty_like(x), stats


@custom_op("normzoo::normalize_beside_backward", mutates_args=())
def normalize_beside_backward(
    dy: Tensor,
    ds: Tensor | None,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    other: Tensor | None,
    stats: Tensor,
    name: str,
    sizes: list[int],
    own: bool,
    eps: float | None,
    has_residual: bool,
    activation: str,
    behind: str,
    gate_first: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """dx, dweight, dbias and the gradient of `other`, an empty tensor for what is absent. x is s, where a residual was
    added."""
    around = Around(has_residual, gate_first, behind, activation_of(activation or None))
    left = left_of(Spec(name, tuple(sizes), own, eps=eps), x, stats, around)
    dx, dweight, dbias, dother = run_back(left, (dy, ds), (x, weight, bias, other))
    dx = placed(dx, x)
    if dother is not None:  # a branch that is added without an activation has dy itself
        dother = dother.clone() if dother.data_ptr() in (dy.data_ptr(), dx.data_ptr()) else placed(dother, x)
    return dx, *(x.new_empty(0) if d is None else d for d in (dweight, dbias, dother))


@normalize_beside_backward.register_fake
def _(
    dy: Any, ds: Any, x: Tensor, weight: Any, bias: Any, other: Any, stats: Any, name: str, sizes: Any, own: Any,
    eps: Any, has_residual: Any, activation: Any, behind: Any, gate_first: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    def like(t: Any) -> Tensor:
        return x.new_empty(0) if t is None else torch.empty_like(t)

    return torch.empty_like(x), like(weight), like(bias), like(None if other is None else x)


def _keep(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, weight, bias, _, _, residual, other, ctx.name, ctx.sizes, ctx.own, _, ctx.eps, *ctx.around, ctx.scale = inputs
    _, s, stats = output
    ctx.has_residual = residual is not None
    ctx.save_for_backward(s if ctx.has_residual else x, weight, bias, other, stats)
    ctx.mark_non_differentiable(stats)
    ctx.set_materialize_grads(False)


def _back(ctx: Any, dy: Tensor | None, ds: Tensor | None, _: Any) -> tuple:
    if dy is None and ds is None:
        return (None,) * 16
    x, weight, bias, other, stats = ctx.saved_tensors
    if dy is None:
        dy = torch.zeros_like(x)
    spec = ctx.name, ctx.sizes, ctx.own, ctx.eps
    ds = ds if ctx.has_residual else None
    found = normalize_beside_backward(dy, ds, x, weight, bias, other, stats, *spec, ctx.has_residual, *ctx.around)
    dx, dweight, dbias, dother = found
    dresidual = None
    if ctx.has_residual:
        dresidual = dx if ctx.scale == 1 else dx * ctx.scale
    given = (None if weight is None else dweight, None if bias is None else dbias)
    return dx, *given, None, None, dresidual, None if other is None else dother, *(None,) * 9


def _composed(
    x: Tensor, weight: Any, bias: Any, mean: Any, var: Any, residual: Any, other: Any, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """The same in PyTorch's operators, which have rules for all transforms."""
    *given, activation, behind, gate_first, scale = rest
    spec, around = Spec(*given), Around(residual is not None, gate_first, behind, activation_of(activation or None))
    running = (None, None) if spec.own else (mean, var)
    found = Places(around, scale, residual, other)
    y, s = composed(lambda s: by_torch(spec, s, weight, bias, *running), x, found)
    v = s * function_of(around.activation)(other) if gate_first else s
    stats = stats_by_torch(spec, v.detach(), mean, var)
    return y, x.new_empty(0) if residual is None else s, stats


operator = defined(normalize_beside, _fake, (_keep, _back), _composed, by_items)
normalize_beside_backward.register_vmap(by_items(normalize_beside_backward))
