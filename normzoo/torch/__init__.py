"""The norms as PyTorch modules and functions, which work on the memory of the tensors.

    import normzoo.torch as nzt

    norm = nzt.LayerNorm(768)          # torch.nn.LayerNorm, with this library's forward and backward pass
    y = nzt.functional.layer_norm(x, (768,), weight, bias)
    nzt.convert(model)                 # every norm of a model, in place; revert(model) takes it back

Every class is a subclass of PyTorch's class of the same name: signature, state_dict, repr, initialization and
isinstance are PyTorch's. Tensors are not copied, neither on the CPU (float16, bfloat16, float32, float64) nor on CUDA,
where the work goes to the current stream. channels_last is kept, and running statistics are the module's own buffers.

What is not supported raises: torch.func transforms (vmap, grad, jvp) and forward-mode differentiation, tensors on other
devices, sparse, quantized, integer and complex tensors. Second and higher derivatives are correct: with
create_graph=True the backward pass uses PyTorch's operations. torch.compile, torch.export, torch.jit.trace and make_fx
keep the norms in their graphs as opaque operators, torch.fx keeps them as modules, and torch.onnx.export writes ONNX's
operators; torch.jit.script requires revert(model).
`import normzoo` imports neither this package nor PyTorch.
"""

from normzoo.torch import functional, operators  # noqa: F401 (operators: registered, for torch.compile)
from normzoo.torch.convert import convert, revert
from normzoo.torch.modules import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    GroupNorm,
    InstanceNorm1d,
    InstanceNorm2d,
    InstanceNorm3d,
    LayerNorm,
    RMSNorm,
)
from normzoo.torch.threads import shares_threads

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "GroupNorm",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LayerNorm",
    "RMSNorm",
    "convert",
    "functional",
    "revert",
    "shares_threads",
]
