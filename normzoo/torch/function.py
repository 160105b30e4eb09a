"""Forward and backward pass of this library for tensors, with autograd."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from normzoo import functional
from normzoo.backends import chosen
from normzoo.passes.normalize import resume
from normzoo.torch.dispatch.direct import direct
from normzoo.torch.tensors import array_of, tensor_of
from normzoo.torch.threads import torch_threads
from normzoo.torch.twice import differentiable_backward


class Spec(NamedTuple):
    """A pass: a function of `normzoo.functional` and its arguments that are not tensors."""

    name: str
    sizes: tuple[int, ...] = ()  # normalized_shape, or (num_groups,)
    own: bool = True  # by x's own statistics, or by running ones
    momentum: float = 0.0
    eps: float | None = 1e-5

    def run(self, of: Any, x: Any, weight: Any, bias: Any, mean: Any, var: Any, **options: Any) -> Any:
        """Call the function of this name: of `normzoo.functional` for arrays, or of torch.nn.functional for tensors."""
        function = getattr(of, self.name)
        if self.name == "layer_norm":
            return function(x, self.sizes, weight, bias, self.eps, **options)
        if self.name == "rms_norm":
            return function(x, self.sizes, weight, self.eps, **options)
        if self.name == "group_norm":
            return function(x, self.sizes[0], weight, bias, self.eps, **options)
        return function(x, mean, var, weight, bias, self.own, self.momentum, self.eps, **options)


_NAMES = "input", "weight", "bias", "running_mean", "running_var"
SMALL = 1 << 18  # values, up to which a pass without gradients is one operator


def run(
    spec: Spec, x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Any, var: Any, keep: bool
) -> tuple[Tensor, Any, Any]:
    """y and, with `keep`, what the pass left and the bias as an array. Running statistics are updated in place."""
    if x is None:
        raise TypeError(f"{spec.name}: expected input to be a tensor, got None")
    arrays = [array_of(spec.name, name, t) for name, t in zip(_NAMES, (x, weight, bias, mean, var), strict=True)]
    with torch_threads(arrays[0].size):
        found = spec.run(functional, *arrays, return_saved=keep)
    if mean is not None and spec.own:
        torch.autograd.graph.increment_version([mean, var])
    return (tensor_of(found[0]), found[1].left, arrays[2]) if keep else (tensor_of(found), None, None)


def run_back(
    left: Any, dy: Tensor, x: Tensor, weight: Tensor | None, bias: Any
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """dx, dweight and dbias of a pass; of the array `bias`, only shape and dtype are used."""
    xa, wa, da = (array_of(left.owner, n, t) for n, t in (("input", x), ("weight", weight), ("grad_output", dy)))
    with torch_threads(da.size):
        dx, dweight, dbias = resume(left, xa, wa, bias).backward(da)
    return tensor_of(dx), tensor_of(dweight), tensor_of(dbias)


_transformed = getattr(torch._C, "_are_functorch_transforms_active", lambda: False)
_is_batched = getattr(torch._C._functorch, "is_legacy_batchedtensor", lambda t: False)  # if is_grads_batched=True
_modes = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 0)
_PLAIN = frozenset((Tensor, torch.nn.Parameter, type(None)))  # classes whose memory can be read directly


class Normalize(torch.autograd.Function):
    """A pass with this library's backward pass; with create_graph, PyTorch's operations by the same formula."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, mean: Any, var: Any, spec: Spec) -> Any:
        y, ctx.left, ctx.bias = run(spec, x, weight, bias, mean, var, True)  # only dtype and shape of bias are used
        ctx.save_for_backward(x, weight)
        return y

    @staticmethod
    def backward(ctx: Any, *dys: Any) -> Any:
        x, weight = ctx.saved_tensors
        if torch.is_grad_enabled() or _transformed() or _is_batched(dys[0]):  # a batch of dy needs PyTorch's operations
            grads = differentiable_backward(ctx.left, dys[0], x, weight, ctx.bias is not None)
        else:
            grads = run_back(ctx.left, dys[0], x, weight, ctx.bias)
        needed = zip(grads, ctx.needs_input_grad, strict=False)
        return *(d if need else None for d, need in needed), None, None, None


def normalize(
    spec: Spec,
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    mean: Tensor | None = None,
    var: Tensor | None = None,
) -> Tensor:
    """y of a pass, recorded in autograd's graph if gradients are needed."""
    tensors = x, weight, bias, mean, var
    if is_transformed():
        return by_torch(spec, *tensors)
    if is_recorded(*tensors):
        return _recorded(spec, *tensors)
    if torch.is_grad_enabled() and any(getattr(t, "requires_grad", False) for t in (x, weight, bias)):
        return Normalize.apply(*tensors, spec)
    y = _direct(spec, *tensors)
    return run(spec, *tensors, False)[0] if y is None else y


def agrees(spec: Spec, x: Any) -> bool:
    """Does PyTorch's operator, by this library's kernels, compute what this library's pass does, in the same memory
    format? It has no backend to choose, and its own result where eps is not positive."""
    if not isinstance(x, Tensor) or not x.is_cpu or chosen() != "cpu":
        return False
    if spec.eps is not None and not (type(spec.eps) is float and spec.eps > 0):
        return False
    if x.is_contiguous():
        return True
    return spec.name in ("batch_norm", "group_norm") and x.is_contiguous(memory_format=torch.channels_last)


def _direct(spec: Spec, x: Any, weight: Any, bias: Any, mean: Any, var: Any) -> Tensor | None:
    """y of a small pass without gradients by an operator of compiled code; None where `run` is to do it. A large y is
    better off in memory that was used before, which is what `run` has."""
    if not agrees(spec, x) or x.dim() < 2 or not 0 < x.numel() <= SMALL:
        return None
    if spec.own and spec.name == "batch_norm":
        return None
    if spec.name == "rms_norm" and getattr(weight, "dtype", x.dtype) is not x.dtype:
        return None
    return direct(spec.name, x, spec.sizes, weight, bias, mean, var, spec.eps)


def is_transformed() -> bool:
    """Does a transform of torch.func run (grad, vmap, jvp ...), or forward-mode differentiation?"""
    return _transformed() or forward_ad._current_level >= 0


def by_torch(spec: Spec, x: Tensor, weight: Any, bias: Any, mean: Any, var: Any) -> Tensor:
    """The pass by PyTorch's own operator, which has rules for all transforms; in the widest dtype, of 32 bits at
    least, as it does not take every mix."""
    tensors, dtype = (x, weight, bias, mean, var), _computed(x.dtype)
    if spec.name == "rms_norm" and spec.eps is None:
        spec = spec._replace(eps=torch.finfo(dtype).eps)
    for t in tensors:
        dtype = dtype if t is None else torch.promote_types(dtype, t.dtype)
    wide = [None if t is None else t.to(dtype) for t in tensors]
    y = spec.run(torch.nn.functional, *wide).to(x.dtype)
    if spec.own and mean is not None and var is not None:
        for t, updated in zip((mean, var), wide[3:], strict=True):
            if updated is not t:
                t.copy_(updated)
    return y


def _computed(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def is_recorded(*tensors: Any) -> bool:
    """Does someone record what PyTorch does? They see nothing of a pass over memory: its y would be a constant."""
    if torch.compiler.is_compiling():
        return True
    odd = not _PLAIN.issuperset(map(type, tensors)) or getattr(tensors[0], "is_meta", False)
    return torch.jit.is_tracing() or bool(_modes()) or (odd and any(map(_elsewhere, tensors)))


def _elsewhere(t: Any) -> bool:
    """Is `t` a tensor without memory, or of a class that defines operators itself?"""
    return isinstance(t, Tensor) and (t.is_meta or type(t).__torch_dispatch__ is not Tensor.__torch_dispatch__)


def _recorded(spec: Spec, x: Tensor, weight: Any, bias: Any, mean: Any, var: Any) -> Tensor:
    """`normalize` by the operators of `operators.py`, of which only one writes to its arguments. An export to ONNX only
    knows PyTorch's own operators, and gets those."""
    if torch.onnx.is_in_onnx_export():
        if spec.name == "rms_norm" and torch.jit.is_tracing():  # the exporter of TorchScript has no rms_norm
            return _composed_rms(spec, x, weight)
        return spec.run(torch.nn.functional, x, weight, bias, mean, var)
    update = spec.own and mean is not None and var is not None
    given = (None, None) if update else (mean, var)
    try:
        y, stats = torch.ops.normzoo.normalize(x, weight, bias, *given, *spec)
    except NotImplementedError as error:
        raise NotImplementedError(
            f"normzoo.torch.functional.{spec.name}: expected a tensor whose class takes operators of other libraries, "
            f"got {type(x).__name__}; use torch.nn.functional.{spec.name} there, or normzoo.torch.revert(model)"
        ) from error
    if update:
        torch.ops.normzoo.update_running(mean, var, stats, x, spec.momentum)
    return y


def _composed_rms(spec: Spec, x: Tensor, weight: Tensor | None) -> Tensor:
    wide = x.to(_computed(x.dtype))
    eps = torch.finfo(wide.dtype).eps if spec.eps is None else spec.eps
    xhat = wide * torch.rsqrt(wide.square().mean([-1 - i for i in range(len(spec.sizes))], keepdim=True) + eps)
    return (xhat if weight is None else xhat * weight).to(x.dtype)
