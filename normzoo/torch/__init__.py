"""Norms for PyTorch tensors: PyTorch's own norms on this library's kernels, or modules and functions of this library.

    import normzoo.torch as nzt

    nzt.install()                      # PyTorch's own norms use our kernels; see `install`

    norm = nzt.LayerNorm(768)          # torch.nn.LayerNorm, with this library's forward and backward pass
    y = nzt.functional.layer_norm(x, (768,), weight, bias)
    nzt.convert(model)                 # every norm of a model, in place; revert(model) undoes it

`install` replaces the kernels in PyTorch's dispatcher, for tensors on the CPU: there is no Python in the call, and
everything that PyTorch does with its norms works. It needs Linux on x86-64 and a PyTorch that it knows.

Every class is a subclass of PyTorch's class of the same name: signature, state_dict, repr, initialization and
isinstance are PyTorch's. Tensors are not copied, neither on the CPU (float16, bfloat16, float32, float64) nor on CUDA,
where the work goes to the current stream. channels_last is kept, and running statistics are the module's own buffers.

These modules and functions raise an error for what they do not support: tensors on other devices, sparse, quantized,
integer and complex tensors. Under transforms of torch.func (vmap, grad, jvp ...) and in forward-mode differentiation
they take PyTorch's own operators, and a backward pass with create_graph=True its operations. torch.compile,
torch.export, torch.jit.trace and make_fx keep the norms in their graphs as opaque operators, torch.fx as modules, and
torch.onnx.export writes the operators of ONNX; torch.jit.script asks for revert(model).

Calls take a residual, add or gate: `y, s = norm(x, residual=r)`. Modules are made with activation=, gate_first= and
residual_scale=. All are computed in the pass of the norm, forward and backward, which is one operator of recorded
graphs; for second derivatives and transforms, by PyTorch's operations before and behind the norm. `import normzoo`
imports neither this nor PyTorch.
"""

from normzoo.environment.extras import to_install

try:
    import torch  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"normzoo.torch: expected PyTorch to be installed ({error}); write {to_install('torch')}"
    ) from error

from normzoo.torch import functional, operators, operators_beside  # noqa: F401 (registered, for torch.compile)
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
