"""The norms of torch.nn, computed by this library: subclasses that change only the pass."""

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor
from torch.fx import Proxy

from normzoo.backends.around import Activation
from normzoo.passes.around import CHECKS, known_name
from normzoo.torch import functional
from normzoo.torch.tensors import check_tensor

if TYPE_CHECKING:
    from torch.nn.modules.batchnorm import _BatchNorm
    from torch.nn.modules.instancenorm import _InstanceNorm
else:
    _BatchNorm = _InstanceNorm = object


BEHIND = ("activation", "gate_first", "residual_scale")


def leaf(forward: Callable[..., Any], names: dict[str, str] | None = None, like: Any = None) -> Any:
    """`forward` of a module that torch.fx keeps as one node, as it does for all modules of torch.nn. It has the name of
    `like`; `names` are those of its arguments by what the callers call them."""

    @wraps(like or forward)
    def found(self: Any, *inputs: Any, **named: Any) -> Any:
        for x in (*inputs, *named.values()) if named else inputs:
            if isinstance(x, Proxy):
                path = getattr(x.tracer, "path_of_module", lambda module: "")(self)
                if path:  # a norm that is itself the traced module has no path
                    return x.tracer.create_proxy("call_module", path, inputs, named)
        if names and named:
            named = {names.get(name, name): value for name, value in named.items()}
        return forward(self, *inputs, **named)

    return found


def refuse_script(name: str) -> NoReturn:
    raise RuntimeError(
        f"torch.jit.script: expected modules that TorchScript can compile, got {name}; write torch.jit.trace(model, x)"
        ", or normzoo.torch.revert(model) first"
    )


class _Ours:
    """What all of them answer to PyTorch's tools, and what stands around them, as for `normzoo.Norm`."""

    activation: Any = None
    gate_first: bool = False
    residual_scale: float = 1.0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        behind = {name: options.pop(name) for name in BEHIND if name in options}
        super().__init__(*arguments, **options)
        for name, value in behind.items():
            setattr(self, name, CHECKS[name](type(self).__name__, value))

    def _around(self, beside: dict[str, Any]) -> Any:
        """What stands around in a call, as the functions take it."""
        if self.activation is None and not self.gate_first and self.residual_scale == 1.0:
            return beside
        return {name: getattr(self, name) for name in BEHIND} | beside

    def extra_repr(self) -> str:
        own = {name: getattr(self, name) for name in BEHIND if getattr(self, name) != getattr(_Ours, name)}
        if isinstance(self.activation, Activation):
            own["activation"] = known_name(self.activation)
        return ", ".join([super().extra_repr(), *(f"{name}={value!r}" for name, value in own.items())])  # type: ignore[misc]

    def __prepare_scriptable__(self) -> NoReturn:
        refuse_script(f"normzoo.torch.{type(self).__name__}")


def batch_pass(module: Any, input: Tensor, **around: Any) -> Any:
    """The pass of a batch normalization that is made as PyTorch's."""
    check_tensor(type(module).__name__, "input", input)
    module._check_input_dim(input)
    tracked = module.training and module.track_running_stats
    count = module.num_batches_tracked if tracked else None
    momentum = module.momentum
    if momentum is None:
        momentum = 0.0 if count is None else 1.0 / (int(count) + 1)
    # as in PyTorch: without tracking, evaluation uses batch statistics, too, and existing buffers stay unchanged
    read = tracked or not module.training
    mean, var = (module.running_mean, module.running_var) if read else (None, None)
    own = module.training or (mean is None and var is None)
    y = functional.batch_norm(input, mean, var, module.weight, module.bias, own, momentum, module.eps, **around)
    if count is not None:
        count.add_(1)
    return y


class _Batch(_Ours, _BatchNorm):
    """The pass of BatchNorm."""

    @leaf
    def forward(self, input: Tensor, **beside: Any) -> Any:
        """See `normzoo.BatchNorm`. A call that raises leaves all buffers as they were."""
        return batch_pass(self, input, **self._around(beside))


class _Instance(_Ours, _InstanceNorm):
    """The pass of InstanceNorm."""

    @leaf
    def forward(self, input: Tensor, **beside: Any) -> Any:
        """See `normzoo.InstanceNorm`."""
        around = self._around(beside)
        check_tensor(type(self).__name__, "input", input)
        if not around:
            return super().forward(input)
        self._check_input_dim(input)
        if input.dim() != self._get_no_batch_dim():
            return self._apply_instance_norm(input, **around)
        around = {name: t.unsqueeze(0) if isinstance(t, Tensor) else t for name, t in around.items()}
        found = self._apply_instance_norm(input.unsqueeze(0), **around)
        return tuple(t.squeeze(0) for t in found) if isinstance(found, tuple) else found.squeeze(0)

    def _apply_instance_norm(self, input: Tensor, **around: Any) -> Any:
        return functional.instance_norm(
            input,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training or not self.track_running_stats,
            0.0 if self.momentum is None else self.momentum,
            self.eps,
            **around,
        )


class BatchNorm1d(_Batch, torch.nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d`, for (N, C) and (N, C, L).

    >>> import torch, normzoo.torch as nzt
    >>> norm = nzt.BatchNorm1d(2)
    >>> norm(torch.tensor([[0.0, 10.0], [2.0, 30.0]])).detach().numpy().round(2)
    array([[-1., -1.],
           [ 1.,  1.]], dtype=float32)
    >>> norm.running_mean
    tensor([0.1000, 2.0000])
    """


class BatchNorm2d(_Batch, torch.nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d`, for (N, C, H, W)."""


class BatchNorm3d(_Batch, torch.nn.BatchNorm3d):
    """`torch.nn.BatchNorm3d`, for (N, C, D, H, W)."""


class InstanceNorm1d(_Instance, torch.nn.InstanceNorm1d):
    """`torch.nn.InstanceNorm1d`, for (N, C, L) and (C, L)."""


class InstanceNorm2d(_Instance, torch.nn.InstanceNorm2d):
    """`torch.nn.InstanceNorm2d`, for (N, C, H, W) and (C, H, W)."""


class InstanceNorm3d(_Instance, torch.nn.InstanceNorm3d):
    """`torch.nn.InstanceNorm3d`, for (N, C, D, H, W) and (C, D, H, W)."""


class LayerNorm(_Ours, torch.nn.LayerNorm):
    """`torch.nn.LayerNorm`, for (..., *normalized_shape)."""

    @leaf
    def forward(self, input: Tensor, **beside: Any) -> Any:
        """See `normzoo.LayerNorm`."""
        affine, around = (self.weight, self.bias), self._around(beside)
        return functional.layer_norm(input, self.normalized_shape, *affine, self.eps, **around)


class GroupNorm(_Ours, torch.nn.GroupNorm):
    """`torch.nn.GroupNorm`, for (N, C, ...)."""

    @leaf
    def forward(self, input: Tensor, **beside: Any) -> Any:
        """See `normzoo.GroupNorm`."""
        return functional.group_norm(input, self.num_groups, self.weight, self.bias, self.eps, **self._around(beside))


class RMSNorm(_Ours, torch.nn.RMSNorm):
    """`torch.nn.RMSNorm`, for (..., *normalized_shape)."""

    @leaf
    def forward(self, x: Tensor, **beside: Any) -> Any:
        """See `normzoo.RMSNorm`."""
        return functional.rms_norm(x, self.normalized_shape, self.weight, self.eps, **self._around(beside))
