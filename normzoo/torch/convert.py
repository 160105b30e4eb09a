"""Conversion between PyTorch's norms and this library's, in a model that stays the same object."""

from typing import TypeVar

import torch

from normzoo.torch import modules

Model = TypeVar("Model", bound=torch.nn.Module)

_OURS: dict[type, type] = {
    getattr(torch.nn, name): getattr(modules, name)
    for name in (
        "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d", "LayerNorm",
        "GroupNorm", "RMSNorm",
    )
}  # fmt: skip
_THEIRS = {ours: theirs for theirs, ours in _OURS.items()}


def convert(model: Model) -> Model:
    """Make all norms of a model use this library, in place; returns the model.

    Only the class of each module changes: parameters, buffers, their names, hooks, training mode, and all references to
    the modules stay, including an optimizer's references to the parameters. Only PyTorch's own classes are converted.
    Not converted are subclasses, which may compute something else, SyncBatchNorm, modules with parametrizations, and
    lazy modules before they have seen an input and become an ordinary class.

    Args:
        model: any module; it may be a norm itself.

    >>> import torch, normzoo.torch as nzt
    >>> model = nzt.convert(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4)))
    >>> type(model[1]).__module__
    'normzoo.torch.modules'
    >>> type(nzt.revert(model)[1]).__module__
    'torch.nn.modules.normalization'
    """
    return _classes("convert", model, _OURS)


def revert(model: Model) -> Model:
    """Take back `convert`, and turn this library's modules into PyTorch's; in place, returns the model. Those with an
    activation or the like raise ValueError, and nothing has changed.

    Revert a model before it is scripted or quantized, or runs where this library is not installed.
    """
    return _classes("revert", model, _THEIRS)


def _classes(name: str, model: Model, pairs: dict[type, type]) -> Model:
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"{name}: expected model to be a torch.nn.Module, got {type(model).__name__}")
    found = [module for module in model.modules() if type(module) in pairs]
    for module in found if pairs is _THEIRS else ():
        if module._around({}):
            raise ValueError(
                f"revert: expected norms with nothing around them, got {module}; write del module.activation, and "
                "compute it behind the norm"
            )
    for module in found:
        kind = pairs.get(type(module))
        if kind is not None:
            module.__class__ = kind
    return model
