"""What stands before and behind a norm, for tensors: in the norm's own pass, which is one operator where PyTorch
records what it does; in PyTorch's operations around the norm where these are transformed or differentiated twice."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypedDict

import torch
from torch import Tensor

from normzoo import functional
from normzoo.backends.activations import activation as activation_of
from normzoo.backends.around import Activation, Around, Beside
from normzoo.passes.around import check_names, check_scale, find_around, known_name
from normzoo.passes.normalize import resume
from normzoo.torch.function import Spec, by_torch, is_recorded, is_transformed, normalize
from normzoo.torch.tensors import array_of, tensor_of
from normzoo.torch.threads import torch_threads

_F = torch.nn.functional
FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "clip": lambda v, low, high: v.clamp(low, high),
    "elu": _F.elu,
    "gelu": _F.gelu,
    "gelu_tanh": partial(_F.gelu, approximate="tanh"),
    "hardsigmoid": _F.hardsigmoid,
    "hardswish": _F.hardswish,
    "leaky_relu": _F.leaky_relu,
    "mish": _F.mish,
    "relu": torch.relu,
    "relu6": _F.relu6,
    "selu": _F.selu,
    "sigmoid": torch.sigmoid,
    "silu": _F.silu,
    "softplus": _F.softplus,
    "tanh": torch.tanh,
}
DEFAULTS = {"clip": (-1.0, 1.0), "elu": (1.0,), "leaky_relu": (0.01,), "softplus": (1.0,)}


class Surroundings(TypedDict, total=False):
    """As `normzoo.passes.around.Surroundings`, of tensors."""

    residual: Tensor | None
    add: Tensor | None
    gate: Tensor | None
    activation: str | Activation | None
    gate_first: bool
    residual_scale: float
    residual_out: Tensor | None


class Places(NamedTuple):
    """What a call has around the norm, as tensors of x's dtype and shape."""

    around: Around
    scale: float
    residual: Tensor | None
    other: Tensor | None


def places(
    name: str,
    x: Tensor,
    residual: Tensor | None = None,
    add: Tensor | None = None,
    gate: Tensor | None = None,
    activation: str | Activation | None = None,
    gate_first: bool = False,
    residual_scale: float = 1.0,
) -> Places | None:
    """What stands around, checked; None for nothing."""
    act, given = activation_of(activation, name), (residual is not None, add is not None, gate is not None)
    around = find_around(name, act, bool(gate_first), *given)
    if around is None:
        return None
    other, scale = add if gate is None else gate, check_scale(name, residual_scale)
    for what, t in (("residual", residual), ("gate" if add is None else "add", other)):
        if t is not None and not isinstance(t, Tensor):
            raise TypeError(
                f"{name}: expected {what} to be a tensor, got {type(t).__name__}; write torch.as_tensor(...)"
            )
    if residual is not None:
        residual = residual.to(x.dtype)
        if residual.shape != x.shape:
            residual = torch.broadcast_to(residual, x.shape)
    if other is not None and other.shape != x.shape:
        what = "add" if gate is None else "gate"
        raise ValueError(f"{name}: expected {what} of input's shape {tuple(x.shape)}, got {tuple(other.shape)}")
    return Places(around, scale, residual, None if other is None else other.to(x.dtype))


def check_target(name: str, x: Tensor, target: Any, found: Places | None) -> None:
    """What takes s is such a tensor as s, and there is an s."""
    if found is None or found.residual is None:
        raise ValueError(f"{name}: expected residual_out with a residual, got it alone; write residual=")
    if not isinstance(target, Tensor):
        raise TypeError(
            f"{name}: expected residual_out to be a tensor, got {type(target).__name__}; write torch.empty_like(input)"
        )
    if target.shape != x.shape or target.dtype != x.dtype:
        raise ValueError(
            f"{name}: expected residual_out of input's shape {tuple(x.shape)} and dtype {x.dtype}, got "
            f"{tuple(target.shape)} of {target.dtype}; write torch.empty_like(input)"
        )


def function_of(act: Activation | None) -> Callable[[Tensor], Tensor]:
    """An activation in PyTorch's operations."""
    if act is None:
        return lambda v: v
    name, _, rest = act.name.partition("(")
    if name not in FUNCTIONS or type(act) is Activation:  # one of the caller's own, whatever its name
        raise NotImplementedError(
            "normzoo.torch: expected an activation of nz.list_activations() where PyTorch's operations are recorded "
            f"or differentiated twice, got {act}; write y = act(norm(x)) with a function of PyTorch"
        )
    given = tuple(float(number) for number in rest.removesuffix(")").split(",")) if rest else DEFAULTS.get(name, ())
    return lambda v: FUNCTIONS[name](v, *given)


def composed(norm: Callable[[Tensor], Tensor], x: Tensor, found: Places) -> tuple[Tensor, Tensor]:
    """y and s in PyTorch's operations around a norm; x is s where a residual was added already."""
    around, scale, residual, other = found
    act, s = function_of(around.activation), x
    if residual is not None:
        s = s + scale * residual if scale != 1 else s + residual
    if around.gate_first:
        return norm(s * act(other)), s
    v = norm(s)
    if around.behind == "gate":
        return v * act(other), s
    return act(v if other is None else v + other), s


class NormalizeBeside(torch.autograd.Function):
    """A pass with something around it."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Any:
        x, weight, bias, mean, var, residual, other, spec, around, scale = given
        found, saved = run(spec, given[:5], Places(around, scale, residual, other), True)
        ctx.spec, ctx.around, ctx.scale, ctx.left = spec, around, scale, saved.left
        ctx.set_materialize_grads(False)
        running = (None, None) if spec.own else (mean, var)
        ctx.save_for_backward(found[1] if around.residual else x, weight, bias, other, *running)
        return found

    @staticmethod
    def backward(ctx: Any, dy: Any, ds: Any = None) -> Any:
        x, weight, bias, other, mean, var = ctx.saved_tensors
        if dy is None:
            dy = torch.zeros_like(x if ds is None else ds)
        if torch.is_grad_enabled():
            grads = _twice(ctx, dy, ds, (x, weight, bias, other), (mean, var))
        else:
            grads = run_back(ctx.left, (dy, ds), (x, weight, bias, other))
        dx, dweight, dbias, dother = grads
        dresidual = None
        if ctx.around.residual and ctx.needs_input_grad[5]:
            dresidual = dx if ctx.scale == 1 else dx * ctx.scale
        return dx, dweight, dbias, None, None, dresidual, dother, None, None, None


def run_back(left: Any, dys: tuple[Tensor, Tensor | None], tensors: tuple) -> tuple:
    """Gradients of x, weight, bias and the other tensor."""
    names = "input", "weight", "bias", "add or gate"
    xa, wa, ba, oa = (array_of(left.owner, n, t) for n, t in zip(names, tensors, strict=True))
    da, sa = (array_of(left.owner, "grad_output", t) for t in dys)
    beside = Beside(residual=xa if left.around.residual else None, other=oa)
    with torch_threads(da.size):
        found = resume(left, xa, wa, ba, beside).backward(da, None, sa)
    other = next((d for name, d in found.others.items() if name != "residual"), None)
    return tuple(map(tensor_of, (*found[:3], other)))


def _twice(ctx: Any, dy: Tensor, ds: Tensor | None, tensors: tuple, running: tuple) -> tuple:
    """The same, in operations that autograd goes back through again."""
    with torch.enable_grad():
        # of themselves, not of what they are made of: s is made by this very pass
        s, weight, bias, other = own = [None if t is None else t.view_as(t) for t in tensors]
        y, _ = composed(
            lambda s: by_torch(ctx.spec, s, weight, bias, *running), s, Places(ctx.around, 1.0, None, other)
        )
        wanted = [t for t in own if t is not None and t.requires_grad]
        found = iter(torch.autograd.grad(y, wanted, dy, create_graph=True, allow_unused=True))
        dx, *rest = (next(found) if t is not None and t.requires_grad else None for t in own)
        if ds is not None:
            dx = ds if dx is None else dx + ds
    return dx, *rest


def run(spec: Spec, tensors: tuple, found: Places, keep: bool, target: Tensor | None = None) -> tuple[Any, Any]:
    """y, or y and s, and with `keep` the `Saved` of the pass; `target` takes s."""
    names = "input", "weight", "bias", "running_mean", "running_var"
    x, weight, bias, mean, var = (array_of(spec.name, n, t) for n, t in zip(names, tensors, strict=True))
    around, scale, residual, other = found
    named = {"residual": array_of(spec.name, "residual", residual)}
    if target is not None:
        if target.is_neg():  # the array would be a copy
            raise TypeError(f"{spec.name}: expected residual_out of its own values, got a negated view; write another")
        named["residual_out"] = array_of(spec.name, "residual_out", target)
    if other is not None:
        part = "add" if around.behind == "add" else "gate"
        named[part] = array_of(spec.name, part, other)
    with torch_threads(x.size):
        made = spec.run(
            functional, x, weight, bias, mean, var, return_saved=keep, activation=around.activation,
            gate_first=around.gate_first, residual_scale=scale, **named,
        )  # fmt: skip
    if mean is not None and spec.own:
        torch.autograd.graph.increment_version([*tensors[3:]])
    if target is not None:
        torch.autograd.graph.increment_version([target])
        return (tensor_of(made[0]), target), None
    result, saved = made if keep else (made, None)
    return tuple(map(tensor_of, result)) if residual is not None else tensor_of(result), saved


def _recorded(spec: Spec, tensors: tuple, found: Places) -> tuple[Tensor, Tensor]:
    """y and s where PyTorch records or transforms what it does: by one operator, but in PyTorch's operations where that
    has no rule, or what is behind the norm no name."""
    x, weight, bias, mean, var = tensors
    around, scale, residual, other = found
    act = known_name(around.activation)
    if is_transformed() or torch.onnx.is_in_onnx_export() or isinstance(act, Activation):
        return composed(lambda s: normalize(spec, s, *tensors[1:]), x, found)
    update = spec.own and mean is not None and var is not None
    given = (None, None) if update else (mean, var)
    how = *spec, act or "", around.behind, around.gate_first, scale
    y, s, stats = torch.ops.normzoo.normalize_beside(x, weight, bias, *given, residual, other, *how)
    if update:
        torch.ops.normzoo.update_running(mean, var, stats, x, spec.momentum)
    return y, s


def normalize_beside(spec: Spec, tensors: tuple, beside: Surroundings) -> Any:
    """y, or (y, s) with a residual; `tensors` are x, weight, bias, mean and var, the last ones where there are any."""
    tensors = (*tensors, None, None, None, None)[:5]
    x = tensors[0]
    check_names(spec.name, beside.keys() - Surroundings.__annotations__.keys(), Surroundings.__annotations__)
    others: dict[str, Any] = {**beside}
    target = others.pop("residual_out", None)
    found = places(spec.name, x, **others)
    if target is not None:
        check_target(spec.name, x, target, found)
    if found is None:
        return normalize(spec, *tensors)
    around, scale, residual, other = found
    if is_transformed() or is_recorded(*tensors, residual, other):
        y, s = _recorded(spec, tensors, found)
        return y if residual is None else (y, s if target is None else target.copy_(s))
    learned = x, tensors[1], tensors[2], residual, other, target
    if torch.is_grad_enabled() and any(getattr(t, "requires_grad", False) for t in learned):
        if target is not None:
            raise RuntimeError(
                f"{spec.name}: expected no gradients where residual_out is given, as s would be written over, got a "
                "tensor that requires them; write with torch.no_grad(): ..., or leave residual_out out"
            )
        return NormalizeBeside.apply(*tensors, residual, other, spec, around, scale)
    return run(spec, tensors, found, False, target)[0]
