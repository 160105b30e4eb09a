"""The way from a tensor through a pass of this library, and back, for autograd."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from normzoo import functional
from normzoo.passes import resume
from normzoo.torch.tensors import array_of, tensor_of
from normzoo.torch.threads import torch_threads
from normzoo.torch.twice import differentiable_backward


class Spec(NamedTuple):
    """A pass: a function of `normzoo.functional` and its arguments that are no tensors."""

    name: str
    sizes: tuple[int, ...] = ()  # normalized_shape, or (num_groups,)
    own: bool = True  # by x's own statistics, else by running ones
    momentum: float = 0.0
    eps: float | None = 1e-5

    def run(self, x: Any, weight: Any, bias: Any, mean: Any, var: Any, *, keep: bool) -> Any:
        """y or, with `keep`, (y, saved), of arrays."""
        function = getattr(functional, self.name)
        if self.name == "layer_norm":
            return function(x, self.sizes, weight, bias, self.eps, return_saved=keep)
        if self.name == "rms_norm":
            return function(x, self.sizes, weight, self.eps, return_saved=keep)
        if self.name == "group_norm":
            return function(x, self.sizes[0], weight, bias, self.eps, return_saved=keep)
        return function(x, mean, var, weight, bias, self.own, self.momentum, self.eps, return_saved=keep)


def run(
    spec: Spec, x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Any, var: Any, keep: bool
) -> tuple[Tensor, Any]:
    """y, and with `keep` what the pass left. Running statistics are written to."""
    named = {"input": x, "weight": weight, "bias": bias, "running_mean": mean, "running_var": var}
    arrays = [array_of(spec.name, name, t) for name, t in named.items()]
    with torch_threads(x.numel()):
        found = spec.run(*arrays, keep=keep)
    if mean is not None and spec.own:
        torch.autograd.graph.increment_version([mean, var])
    return (tensor_of(found[0]), found[1].left) if keep else (tensor_of(found), None)


def run_back(
    left: Any, dy: Tensor, x: Tensor, weight: Tensor | None, bias: Any
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """dx, dweight and dbias of a pass; bias is an array of the bias's kind."""
    xa, wa, da = (array_of(left.owner, n, t) for n, t in (("input", x), ("weight", weight), ("grad_output", dy)))
    with torch_threads(x.numel()):
        dx, dweight, dbias = resume(left, xa, wa, bias).backward(da)
    return tensor_of(dx), tensor_of(dweight), tensor_of(dbias)


class Normalize(torch.autograd.Function):
    """A pass whose backward pass is this library's; with create_graph, PyTorch's of the same formula."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, mean: Any, var: Any, spec: Spec) -> Any:
        y, ctx.left = run(spec, x, weight, bias, mean, var, True)
        ctx.bias = array_of(spec.name, "bias", bias)  # its dtype and shape are what is used
        ctx.save_for_backward(x, weight)
        return y

    @staticmethod
    def backward(ctx: Any, *dys: Any) -> Any:
        x, weight = ctx.saved_tensors
        if torch.is_grad_enabled():
            grads = differentiable_backward(ctx.left, dys[0], x, weight, ctx.bias is not None)
        else:
            grads = run_back(ctx.left, dys[0], x, weight, ctx.bias)
        needed = zip(grads, ctx.needs_input_grad, strict=False)
        return *(d if need else None for d, need in needed), None, None, None


_transformed = getattr(torch._C, "_are_functorch_transforms_active", lambda: False)


def normalize(
    spec: Spec,
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    mean: Tensor | None = None,
    var: Tensor | None = None,
) -> Tensor:
    """y of a pass, with its place in the graph where one is kept."""
    if torch.compiler.is_compiling():
        return _compiled(spec, x, weight, bias, mean, var)
    if _transformed():
        raise RuntimeError(
            f"normzoo.torch.functional.{spec.name}: expected to run outside torch.func transforms (vmap, grad, jvp), "
            f"which cannot see into it; use torch.nn.functional.{spec.name} there, or normzoo.torch.revert(model)"
        )
    kept = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias))
    if kept or forward_ad._current_level >= 0:  # where apply raises if a tensor has a tangent
        return Normalize.apply(x, weight, bias, mean, var, spec)
    return run(spec, x, weight, bias, mean, var, False)[0]


def _compiled(spec: Spec, x: Tensor, weight: Any, bias: Any, mean: Any, var: Any) -> Tensor:
    """`normalize` by the operators of `operators.py`, of which only one writes."""
    update = spec.own and mean is not None and var is not None
    given = (None, None) if update else (mean, var)
    y, stats = torch.ops.normzoo.normalize(x, weight, bias, *given, *spec)
    if update:
        sets = stats.shape[1]
        torch.ops.normzoo.update_running(mean, var, stats, x.numel() // sets if sets else 0, spec.momentum)
    return y
