"""Batch normalization in evaluation mode, folded into the convolution or linear layer before it in a model."""

import copy
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from normzoo.exchange.fold import batch_norm_into
from normzoo.torch.convert import THEIRS, Report
from normzoo.torch.modules import _Ours
from normzoo.torch.pairs import Pairs, observed, traced
from normzoo.torch.tensors import array_of, tensor_of
from normzoo.zoo.batch.batch_norm import BatchNorm

Model = TypeVar("Model", bound=torch.nn.Module)
_nn = torch.nn
LAYOUTS: dict[type, str] = {
    _nn.Linear: "OI", _nn.Conv1d: "OIL", _nn.Conv2d: "OIHW", _nn.Conv3d: "OIDHW",
    _nn.ConvTranspose1d: "IOL", _nn.ConvTranspose2d: "IOHW", _nn.ConvTranspose3d: "IODHW",
}  # fmt: skip
NORMS = (_nn.BatchNorm1d, _nn.BatchNorm2d, _nn.BatchNorm3d, _nn.SyncBatchNorm)


class FoldReport(NamedTuple):
    """What `fold` did."""

    taken: dict[str, str]  # path of a norm -> path of the layer that it is folded into
    left: dict[str, tuple[str, str]]  # path of a norm -> its class, and why
    error: dict[str, float]  # path of a layer -> bound of the error; see `normzoo.fold`

    def __str__(self) -> str:
        return str(Report(dict.fromkeys(self.taken, "BatchNorm"), self.left))


def fold(model: Model, *example: Any, inplace: bool = False, report: bool = False) -> Any:
    """Fold every batch normalization into the convolution or linear layer whose result it alone takes. Returns the
    folded model, in which torch.nn.Identity stands for the norms; activations behind them stay.

    Formula:
        weight' = weight * gamma / sqrt(running_var + eps), for each output
        bias' = (bias - running_mean) * gamma / sqrt(running_var + eps) + beta

    Which layer feeds which norm, and nothing else, is read from the graph of torch.fx. Where the model cannot be
    traced, write `fold(model, x)`: the model runs on the example, every operation is watched, and a norm is folded if
    it takes exactly what one layer gave, each time, and nothing else reads that. What other inputs would do, in a model
    that decides by them, an example does not show.

    Args:
        model: in evaluation mode; batched inputs.
        example: arguments of the model. A linear layer needs one, as its rank tells which axis the norm is over.
        inplace: change this model, whose norms are then lost; else a copy.
        report: return (model, report), which says what was folded, what was left and why, and bounds of the errors:
            with x the input of a layer, its results differ by at most error * max(1, max|x|) from exact arithmetic.

    Raises:
        ValueError: the model is in training mode, or cannot be traced and there is no example, or a folded value is too
            large for its dtype; the model is unchanged.

    Source:
        B. Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
        Inference", 2017, arXiv:1712.05877.

    >>> import torch, normzoo.torch as nzt
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.SiLU()).eval()
    >>> nzt.fold(model)
    Sequential(
      (0): Conv2d(3, 4, kernel_size=(3, 3), stride=(1, 1))
      (1): Identity()
      (2): SiLU()
    )
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"fold: expected model to be a torch.nn.Module, got {type(model).__name__}")
    norms = {path: module for path, module in model.named_modules() if THEIRS.get(type(module), type(module)) in NORMS}
    layers = {path: module for path, module in model.named_modules() if type(module) in LAYOUTS}
    for path, module in (norms | layers).items():
        if module.training:
            raise ValueError(
                f"fold: expected a model in evaluation mode, got {path or 'it'} in training; write model.eval()"
            )
    found = observed(model, layers, norms, example) if example else traced(model, layers, norms)
    report_, new = FoldReport({}, {}, {}), {}
    for path, norm in norms.items():
        why = _why_left(norm, found, path) or _why_shared(model, layers[found.feeds[path]])
        if why:
            report_.left[path] = type(norm).__name__, why
            continue
        layer = found.feeds[path]
        new[path], report_.taken[path] = _folded(layers[layer], norm), layer
        report_.error[layer] = float(new[path].error.max(initial=0.0))
    model = model if inplace else copy.deepcopy(model)
    for path, layer in report_.taken.items():
        _replace(model.get_submodule(path), model.get_submodule(layer), new[path])
    return (model, report_) if report else model


def _why_left(norm: Any, found: Pairs, path: str) -> str:
    if norm.running_mean is None:
        return "it has no running statistics"
    if isinstance(norm, _Ours) and norm._around({}):
        return "it has an activation in its pass; write norm.activation = None, and compute it behind the norm"
    if any(getattr(norm, name) for name in ("_forward_hooks", "_forward_pre_hooks")):
        return "it has hooks, which would see something else"
    return found.left.get(path, "")


def _why_shared(model: Any, layer: Any) -> str:
    own = {id(t) for t in layer.parameters(recurse=False)}
    if any(getattr(layer, name) for name in ("_forward_hooks", "_forward_pre_hooks")):
        return "the layer before it has hooks, which would see something else"
    if "weight" not in layer._parameters:
        return "the weight of the layer before it is computed from others; remove its parametrizations first"
    others = (m for m in model.modules() if m is not layer)
    if any(id(t) in own for m in others for t in m.parameters(recurse=False)):
        return "another module has the same weight as the layer before it"
    return ""


def _folded(layer: Any, norm: Any) -> Any:
    """Weight, bias and error of the layer that does both."""
    mine = BatchNorm(norm.num_features, norm.eps, affine=norm.weight is not None, dtype=np.float64).eval()
    held = {"running_mean": norm.running_mean, "running_var": norm.running_var}
    if norm.weight is not None:
        held |= {"weight": norm.weight, "bias": torch.zeros_like(norm.weight) if norm.bias is None else norm.bias}
    for name, t in held.items():
        getattr(mine, name)[...] = _array(name, t)
    weight, bias = (_array(name, t) for name, t in (("weight", layer.weight), ("bias", layer.bias)))
    return batch_norm_into(weight, bias, mine, layout=LAYOUTS[type(layer)], groups=getattr(layer, "groups", 1))


def _array(name: str, t: Any) -> Any:
    return None if t is None else array_of("fold", name, t.detach().cpu())


def _replace(norm: Any, layer: Any, new: Any) -> None:
    """The norm's class changes, so that whoever else holds the module has an Identity, too."""
    weight = torch.empty_like(layer.weight).copy_(tensor_of(new.weight))
    bias = tensor_of(new.bias).to(weight.device)
    for name, t in (("weight", weight), ("bias", bias)):
        layer.register_parameter(name, torch.nn.Parameter(t.detach(), requires_grad=layer.weight.requires_grad))
    norm.__class__ = torch.nn.Identity
    norm._parameters.clear()
    norm._buffers.clear()
