"""The norms of torch.nn.functional, with their arguments and defaults, computed by this library.

Every function takes tensors of float16, bfloat16, float32 or float64, in any mix, and gives one of the input's dtype
and memory format. Shapes and values that do not fit raise ValueError where PyTorch's raise, tensors of other kinds
TypeError; then nothing has changed. Under autocast they behave as PyTorch's: on CUDA layer_norm, group_norm and
rms_norm compute in float32 and return it; on the CPU, and for the others, the input's dtype stays. As in PyTorch, a
class of tensors with its own __torch_function__ is called first.

All of them also take residual=, residual_scale=, add=, gate=, gate_first= and activation=, as `normzoo.functional`
does; with a residual (y, s) is returned. residual_out= takes s if no gradients are needed. These are computed in the
pass of the norm, forward and backward, and as one operator of recorded graphs (of torch.compile and the like).
"""

import warnings
from collections.abc import Sequence
from typing import Any, Unpack

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from normzoo.torch.beside import Surroundings, normalize_beside
from normzoo.torch.dispatch.installing import is_installed
from normzoo.torch.function import Spec, agrees, normalize

AUTOCAST_FLOAT32 = {"cuda": ("layer_norm", "group_norm", "rms_norm")}


def _sizes(shape: Any) -> tuple[int, ...]:
    if torch.jit.is_tracing():  # sizes of a traced tensor are tensors, which an operator does not take as a list
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", torch.jit.TracerWarning)
            return tuple(map(int, shape)) if isinstance(shape, Sequence) else (int(shape),)
    if type(shape) is tuple:  # the usual case: to ask for a Sequence takes longer
        return shape
    return tuple(shape) if isinstance(shape, Sequence) else (shape,)


def _float32(name: str, *tensors: Tensor | None) -> tuple[Any, ...]:
    """The tensors, converted as autocast would."""
    x = tensors[0]
    if not isinstance(x, Tensor) or x.is_cpu or name not in AUTOCAST_FLOAT32.get(x.device.type, ()):
        return tensors
    if not torch.is_autocast_enabled(x.device.type):
        return tensors
    return tuple(t.float() if t is not None and t.dtype in (torch.float16, torch.bfloat16) else t for t in tensors)


def _pass(spec: Spec, beside: Surroundings, *tensors: Tensor | None) -> Any:
    """The pass: by PyTorch's own operator where this library's kernels are installed in it, for less time in Python."""
    if beside:
        return normalize_beside(spec, tensors, beside)
    if is_installed() and not torch.compiler.is_compiling() and agrees(spec, tensors[0]):
        try:
            return spec.run(torch.nn.functional, *(*tensors, None, None, None)[:5])
        except RuntimeError:  # dtypes that PyTorch does not mix, or a fault of the caller's, for which see below
            pass
    return normalize(spec, *tensors)


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    **beside: Unpack[Surroundings],
) -> Tensor:
    """See `torch.nn.functional.batch_norm` and `normzoo.BatchNorm`. Training updates running statistics in place.

    >>> import torch, normzoo.torch as nzt
    >>> nzt.functional.batch_norm(torch.tensor([[0.0], [2.0]]), None, None, training=True)
    tensor([[-1.0000],
            [ 1.0000]])
    """
    tensors = input, running_mean, running_var, weight, bias
    if has_torch_function((*tensors, *beside.values())):
        given = (*tensors, *beside.values())
        return handle_torch_function(batch_norm, given, *tensors, training, momentum, eps, **beside)
    spec = Spec("batch_norm", (), bool(training), momentum, eps)
    return _pass(spec, beside, input, weight, bias, running_mean, running_var)


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    **beside: Unpack[Surroundings],
) -> Tensor:
    """See `torch.nn.functional.instance_norm` and `normzoo.InstanceNorm`."""
    tensors = input, running_mean, running_var, weight, bias
    if has_torch_function((*tensors, *beside.values())):
        given = (*tensors, *beside.values())
        return handle_torch_function(instance_norm, given, *tensors, use_input_stats, momentum, eps, **beside)
    spec = Spec("instance_norm", (), bool(use_input_stats), momentum, eps)
    return _pass(spec, beside, input, weight, bias, running_mean, running_var)


def layer_norm(
    input: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    **beside: Unpack[Surroundings],
) -> Tensor:
    """See `torch.nn.functional.layer_norm` and `normzoo.LayerNorm`."""
    tensors = input, weight, bias, *beside.values()
    if has_torch_function(tensors):
        return handle_torch_function(layer_norm, tensors, input, normalized_shape, weight, bias, eps, **beside)
    input, weight, bias = _float32("layer_norm", input, weight, bias)
    return _pass(Spec("layer_norm", _sizes(normalized_shape), eps=eps), beside, input, weight, bias)


def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    **beside: Unpack[Surroundings],
) -> Tensor:
    """See `torch.nn.functional.group_norm` and `normzoo.GroupNorm`."""
    tensors = input, weight, bias, *beside.values()
    if has_torch_function(tensors):
        return handle_torch_function(group_norm, tensors, input, num_groups, weight, bias, eps, **beside)
    input, weight, bias = _float32("group_norm", input, weight, bias)
    return _pass(Spec("group_norm", (num_groups,), eps=eps), beside, input, weight, bias)


def rms_norm(
    input: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
    **beside: Unpack[Surroundings],
) -> Tensor:
    """See `torch.nn.functional.rms_norm` and `normzoo.RMSNorm`."""
    tensors = input, weight, *beside.values()
    if has_torch_function(tensors):
        return handle_torch_function(rms_norm, tensors, input, normalized_shape, weight, eps, **beside)
    input, weight = _float32("rms_norm", input, weight)
    return _pass(Spec("rms_norm", _sizes(normalized_shape), eps=eps), beside, input, weight)
