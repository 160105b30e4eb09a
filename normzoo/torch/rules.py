"""What norms of other libraries compute, by this library's passes: one function for each kind of forward pass.

Every function takes the module, whose attributes and parameters are those of its own class, and follows the roundings
of that class: where it rounds xhat to the input's dtype before the weight, so does this, and the result has its dtype.
`registry.py` says which classes compute it.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from normzoo.torch import functional as F
from normzoo.torch.modules import batch_pass

_nn = torch.nn
_HALF = (torch.float16, torch.bfloat16)
FEW = 1 << 18  # values, below which two operators take less time than one pass with something around the norm


def _eps(module: Any) -> float:
    eps = module.__dict__.get("variance_epsilon")
    return module.eps if eps is None else eps


def _held(module: Any, name: str) -> Tensor | None:
    """A parameter or buffer; None if there is none, which `getattr` takes microseconds to find out."""
    for held in (module._parameters, module.__dict__, module._buffers):
        if name in held:
            return held[name]
    return getattr(module, name, None) if hasattr(type(module), name) else None


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in _HALF else x


def _is_small(x: Tensor) -> bool:
    """Are steps around the norm operators of their own? Not in a graph, where an operator costs nothing to call."""
    return not torch.compiler.is_compiling() and not torch.jit.is_tracing() and x.numel() < FEW


def _rms(module: Any, x: Tensor, weight: Tensor | None = None, **around: Any) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), weight, _eps(module), **around)


def _weighted(module: Any, x: Tensor, weight: Tensor, **around: Any) -> Tensor:
    """RMSNorm whose xhat is rounded to x's dtype before the weight; without a rounding, that is one pass."""
    if x.dtype is weight.dtype and x.dtype not in _HALF:
        return _rms(module, x, weight, **around)
    return weight * _rms(module, x)


def rms_after(module: Any, x: Tensor) -> Tensor:
    """weight * round(xhat): Llama's."""
    return _weighted(module, x, module.weight)


def rms_before(module: Any, x: Tensor) -> Tensor:
    """round(weight * xhat), the weight if there is one."""
    return _rms(module, x, _held(module, "weight"))


def rms_scaled(module: Any, x: Tensor) -> Tensor:
    """round(weight * xhat) where `with_scale`: Gemma 4's."""
    return _rms(module, x, module.weight if module.with_scale else None)


def rms_shifted(module: Any, x: Tensor) -> Tensor:
    """round((1 + weight) * xhat): Gemma's."""
    return _rms(module, x, 1.0 + module.weight.float())


def rms_in_weights_dtype(module: Any, x: Tensor) -> Tensor:
    """weight * xhat, rounded to the weight's dtype if that is of 16 bits, else in float32: T5's and diffusers'."""
    weight, bias = module.weight, _held(module, "bias")
    if weight is None:
        return _rms(module, x)
    if weight.dtype in _HALF:
        y = weight * _rms(module, x).to(weight.dtype)
    else:
        y = _weighted(module, x.float() if x.dtype in _HALF else x, weight)
    return y if bias is None else y + bias


def rms_gate_first(module: Any, x: Tensor, gate: Tensor | None = None) -> Tensor:
    """weight * round(xhat of x * silu(gate)), over groups of the last axis where there are any: Mamba 2's."""
    size, dtype = module.__dict__.get("group_size", x.shape[-1]), x.dtype
    if gate is not None and _is_small(x):
        x, gate = _wide(x) * _nn.functional.silu(_wide(gate)), None
    if gate is None and size == x.shape[-1]:
        return _weighted(module, x, module.weight) if x.dtype is dtype else module.weight * _rms(module, x).to(dtype)
    shape = (*x.shape[:-1], x.shape[-1] // size, size)
    if gate is None:
        xhat = _rms(module, x.reshape(shape))
    else:
        gate = gate.reshape(shape)
        xhat = _rms(module, x.reshape(shape), gate=gate, activation="silu", gate_first=True)
    return module.weight * xhat.reshape(x.shape).to(dtype)


_GATES = {"silu": "silu", "swish": "silu", "sigmoid": "sigmoid"}


def _gate(module: Any) -> str:
    return _GATES[module.__dict__.get("activation", "silu")]


def rms_gated(module: Any, x: Tensor, gate: Tensor) -> Tensor:
    """round(weight * round(xhat) * act(gate)): Qwen3-Next's."""
    weight = module.weight
    if x.dtype is weight.dtype is gate.dtype and x.dtype not in _HALF and not _is_small(x):
        return _rms(module, x, weight, gate=gate, activation=_gate(module))
    act = torch.sigmoid if _gate(module) == "sigmoid" else _nn.functional.silu
    return (_weighted(module, x, weight) * act(_wide(gate))).to(x.dtype)


def rms_gated_at_once(module: Any, x: Tensor, gate: Tensor) -> Tensor:
    """round(weight * xhat * act(gate)): Kimi's."""
    return _rms(module, x, module.weight, gate=gate, activation=_gate(module))


def layer(module: Any, x: Tensor, **around: Any) -> Tensor:
    """LayerNorm in one rounding, over the axes of normalized_shape."""
    return F.layer_norm(x, module.normalized_shape, module.weight, module.bias, module.eps, **around)


def layer_channels(module: Any, x: Tensor, **around: Any) -> Tensor:
    """LayerNorm over axis 1 of (N, C, H, W). The result is channels-last, as PyTorch makes it of a permuted
    x: the convolutions behind it are faster there."""
    return layer(module, x.permute(0, 2, 3, 1).contiguous(), **around).permute(0, 3, 1, 2)


def layer_by_format(module: Any, x: Tensor) -> Tensor:
    """LayerNorm over axis 1 or the last, as `data_format` says: ConvNeXt's."""
    return (layer_channels if module.data_format == "channels_first" else layer)(module, x)


def layer_unbiased(module: Any, x: Tensor) -> Tensor:
    """LayerNorm over the last axis, without a bias: Cohere's."""
    return F.layer_norm(x, module.weight.shape, module.weight, None, _eps(module))


def layer_bare(module: Any, x: Tensor) -> Tensor:
    """LayerNorm without parameters, whose eps is 1e-5: OLMo's."""
    return F.layer_norm(x, module.normalized_shape)


def group(module: Any, x: Tensor, **around: Any) -> Tensor:
    return F.group_norm(x, module.num_groups, module.weight, module.bias, module.eps, **around)


def rms(module: Any, x: Tensor, **around: Any) -> Tensor:
    """PyTorch's RMSNorm, over the axes of normalized_shape."""
    return F.rms_norm(x, module.normalized_shape, module.weight, module.eps, **around)


def rms_channels(module: Any, x: Tensor, **around: Any) -> Tensor:
    """RMSNorm over axis 1 of (N, C, H, W)."""
    return rms(module, x.permute(0, 2, 3, 1), **around).permute(0, 3, 1, 2)


def rms_channels_widened(module: Any, x: Tensor, **around: Any) -> Tensor:
    """The same in the wider dtype of x and the weight."""
    weight = module.weight
    return rms_channels(module, x if weight is None else x.to(torch.promote_types(x.dtype, weight.dtype)), **around)


def group_adaptive(module: Any, x: Tensor, embedding: Tensor) -> Tensor:
    """GroupNorm whose scale and shift a linear layer makes of an embedding: diffusers' AdaGroupNorm."""
    embedding = module.linear(module.act(embedding) if module.act else embedding)
    scale, shift = embedding[:, :, None, None].chunk(2, dim=1)
    return F.group_norm(x, module.num_groups, eps=module.eps) * (1 + scale) + shift


def frozen(module: Any, x: Tensor, **around: Any) -> Tensor:
    """Batch normalization by constants, which are buffers."""
    x = x.to(torch.promote_types(x.dtype, module.weight.dtype))
    held = module.running_mean, module.running_var, module.weight, module.bias
    return F.batch_norm(x, *held, eps=getattr(module, "eps", 1e-5), **around)


_NAMES: dict[type, Callable[[Any], str]] = {
    _nn.ELU: lambda act: f"elu({act.alpha})",
    _nn.GELU: lambda act: "gelu" if act.approximate == "none" else "gelu_tanh",
    _nn.Hardsigmoid: lambda act: "hardsigmoid",
    _nn.Hardswish: lambda act: "hardswish",
    _nn.LeakyReLU: lambda act: f"leaky_relu({act.negative_slope})",
    _nn.Mish: lambda act: "mish",
    _nn.ReLU: lambda act: "relu",
    _nn.ReLU6: lambda act: "relu6",
    _nn.SiLU: lambda act: "silu",
    _nn.Sigmoid: lambda act: "sigmoid",
    _nn.Tanh: lambda act: "tanh",
}


_HOOKS = "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"


def _name(act: Any) -> str | None:
    """The name of an activation that can be computed in the norm's pass; nobody who watches the module would see it."""
    if type(act) not in _NAMES or any(getattr(act, name) for name in _HOOKS):
        return None
    return _NAMES[type(act)](act)


def with_activation(norm: Callable[..., Any]) -> Callable[[Any, Tensor], Tensor]:
    """timm's modules of a norm, `drop` and `act` behind it: in one pass where nothing is dropped, act is known, and it
    saves more than a call of Python costs."""

    def forward(module: Any, x: Tensor) -> Tensor:
        drop, act = module.drop, module.act
        name = _name(act) if type(drop) is _nn.Identity and not _is_small(x) else None
        return act(drop(norm(module, x))) if name is None else norm(module, x, activation=name)

    return forward


batch_act = with_activation(batch_pass)
frozen_act = with_activation(frozen)
group_act = with_activation(group)
layer_act = with_activation(layer)
layer_channels_act = with_activation(layer_channels)
rms_act = with_activation(rms)
rms_channels_act = with_activation(rms_channels)
rms_channels_widened_act = with_activation(rms_channels_widened)


def unfit(module: Any) -> str:
    """Why a module is left although its class is known; "" for none."""
    held = module.__dict__
    if held.get("_fast_norm") or held.get("fast_norm"):
        return "timm's fast norms compute in autocast's dtype; write timm.layers.set_fast_norm(False) before it is made"
    activation = held.get("activation", "silu")
    if isinstance(activation, str) and activation not in _GATES:
        return f"expected a gate's activation of {', '.join(_GATES)}, got {activation!r}"
    weight, dim = getattr(module, "weight", None), held.get("dim")
    if (weight is not None and weight.dim() != 1 and "normalized_shape" not in held) or (
        isinstance(dim, tuple) and len(dim) > 1
    ):
        return "the weight has more axes than the one that is normalized"
    return ""
