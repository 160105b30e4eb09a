"""The norms of torch.nn, computed by this library: subclasses that change only the pass."""

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor
from torch.fx import Proxy

from normzoo.torch import functional

if TYPE_CHECKING:
    from torch.nn.modules.batchnorm import _BatchNorm
    from torch.nn.modules.instancenorm import _InstanceNorm
else:
    _BatchNorm = _InstanceNorm = object


def leaf(forward: Callable[..., Any]) -> Any:
    """`forward` of a module that torch.fx keeps as one node, as it does for all modules of torch.nn."""

    @wraps(forward)
    def found(self: Any, *inputs: Any, **named: Any) -> Any:
        for x in (*inputs, *named.values()):
            if isinstance(x, Proxy):
                path = getattr(x.tracer, "path_of_module", lambda module: "")(self)
                if path:  # a norm that is itself the traced module has no path
                    return x.tracer.create_proxy("call_module", path, inputs, named)
        return forward(self, *inputs, **named)

    return found


class _Ours:
    """Base class: what all modules tell PyTorch's tools."""

    def __prepare_scriptable__(self) -> NoReturn:
        raise RuntimeError(
            f"torch.jit.script: expected modules that TorchScript can compile, got normzoo.torch.{type(self).__name__}"
            "; write torch.jit.trace(model, x), or normzoo.torch.revert(model) first"
        )


class _Batch(_Ours, _BatchNorm):
    """The pass of BatchNorm."""

    @leaf
    def forward(self, input: Tensor) -> Tensor:
        """See `normzoo.BatchNorm`. A call that raises leaves all buffers unchanged."""
        self._check_input_dim(input)
        tracked = self.training and self.track_running_stats
        count = self.num_batches_tracked if tracked else None
        momentum = self.momentum
        if momentum is None:
            momentum = 0.0 if count is None else 1.0 / (int(count) + 1)
        # as in PyTorch: without tracking, evaluation uses batch statistics, too, and existing buffers stay unchanged
        read = tracked or not self.training
        mean, var = (self.running_mean, self.running_var) if read else (None, None)
        own = self.training or (mean is None and var is None)
        y = functional.batch_norm(input, mean, var, self.weight, self.bias, own, momentum, self.eps)
        if count is not None:
            count.add_(1)
        return y


class _Instance(_Ours, _InstanceNorm):
    """The pass of InstanceNorm."""

    @leaf
    def forward(self, input: Tensor) -> Tensor:
        """See `normzoo.InstanceNorm`."""
        return super().forward(input)

    def _apply_instance_norm(self, input: Tensor) -> Tensor:
        return functional.instance_norm(
            input,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training or not self.track_running_stats,
            0.0 if self.momentum is None else self.momentum,
            self.eps,
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
    def forward(self, input: Tensor) -> Tensor:
        """See `normzoo.LayerNorm`."""
        return functional.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)


class GroupNorm(_Ours, torch.nn.GroupNorm):
    """`torch.nn.GroupNorm`, for (N, C, ...)."""

    @leaf
    def forward(self, input: Tensor) -> Tensor:
        """See `normzoo.GroupNorm`."""
        return functional.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)


class RMSNorm(_Ours, torch.nn.RMSNorm):
    """`torch.nn.RMSNorm`, for (..., *normalized_shape)."""

    @leaf
    def forward(self, x: Tensor) -> Tensor:
        """See `normzoo.RMSNorm`."""
        return functional.rms_norm(x, self.normalized_shape, self.weight, self.eps)
