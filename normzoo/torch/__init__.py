"""The norms of PyTorch by this library's kernels, and as modules and functions of their own.

    import normzoo.torch as nzt

    nzt.install()                      # PyTorch's own norms use our kernels; see `install`

    norm = nzt.LayerNorm(768)          # torch.nn.LayerNorm, with this library's forward and backward pass
    y = nzt.functional.layer_norm(x, (768,), weight, bias)
    nzt.convert(model)                 # every norm of a model, in place; revert(model) takes it back

`install` replaces the kernels in PyTorch's dispatcher, for tensors on the CPU: there is no Python in the call, and
everything that PyTorch does with its norms works. It needs Linux on x86-64 and a PyTorch that it knows.

Every class is a subclass of PyTorch's class of the same name: signature, state_dict, repr, initialization and
isinstance are PyTorch's. Tensors are not copied, neither on the CPU (float16, bfloat16, float32, float64) nor on CUDA,
where the work goes to the current stream. channels_last is kept, and running statistics are the module's own buffers.

What these modules and functions do not support raises: torch.func transforms (vmap, grad, jvp) and forward-mode
differentiation, tensors on other devices, sparse, quantized, integer and complex tensors. Second and higher derivatives
are right: a backward pass with create_graph=True is written in PyTorch's operations. torch.compile, torch.export,
torch.jit.trace and make_fx keep the norms in their graphs as opaque operators, torch.fx as modules, and
torch.onnx.export writes those of ONNX; torch.jit.script asks for revert(model).

Functions and modules take what stands before and behind a norm: `y, s = norm(x, residual=r)`, add=, gate=, and
activation=, gate_first= and residual_scale= where a module is made. One pass goes forward and one back; in graphs that
are recorded, and where a gradient is differentiated again, PyTorch's operations stand around the norm.
`import normzoo` does not import this, nor PyTorch.
"""

from normzoo.environment.extras import to_install

try:
    import torch  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"normzoo.torch: expected PyTorch to be installed ({error}); write {to_install('torch')}"
    ) from error

from normzoo.torch import functional, operators  # noqa: F401 (operators: registered, for torch.compile)
from normzoo.torch.convert import Report, convert, revert
from normzoo.torch.dispatch.installing import install, installed, is_installed, uninstall
from normzoo.torch.fold import FoldReport, fold
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
from normzoo.torch.registry import register, unregister
from normzoo.torch.signature import signature
from normzoo.torch.threads import shares_threads

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "FoldReport",
    "GroupNorm",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LayerNorm",
    "RMSNorm",
    "Report",
    "convert",
    "fold",
    "functional",
    "install",
    "installed",
    "is_installed",
    "register",
    "revert",
    "shares_threads",
    "signature",
    "uninstall",
    "unregister",
]
