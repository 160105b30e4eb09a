"""Conversion between PyTorch's norms and this library's, in a model that stays the same object."""

import warnings
from collections import Counter
from typing import Any, Literal, NamedTuple, TypeVar, overload

import torch

from normzoo.torch.modules import _Ours
from normzoo.torch.registry import OURS, forward_of
from normzoo.torch.rules import unfit
from normzoo.torch.taken import Taken, taken

Model = TypeVar("Model", bound=torch.nn.Module)
THEIRS = {ours: theirs for theirs, ours in OURS.items()}
_BASES = (
    torch.nn.modules.batchnorm._NormBase, torch.nn.LayerNorm, torch.nn.GroupNorm, torch.nn.RMSNorm,
    torch.nn.LocalResponseNorm, torch.nn.CrossMapLRN2d,
)  # fmt: skip


class Report(NamedTuple):
    """What `convert` or `fold` did, by the paths of the modules ("" for the model itself)."""

    taken: dict[str, str]  # path -> class
    left: dict[str, tuple[str, str]]  # path -> class, and why

    def __str__(self) -> str:
        lines = [f"taken: {count} {name}" for name, count in Counter(self.taken.values()).items()]
        lines += [f"left: {count} {name}: {why}" for (name, why), count in Counter(self.left.values()).items()]
        return "\n".join(lines) or "no norms"


@overload
def convert(model: Model, *, report: Literal[False] = False) -> Model: ...
@overload
def convert(model: Model, *, report: Literal[True]) -> tuple[Model, Report]: ...
@overload
def convert(model: Model, *, report: bool) -> Any: ...
def convert(model: Model, *, report: bool = False) -> Any:
    """Make all norms of a model use this library, in place; returns the model, or the model and a report.

    Only the class of each module changes: parameters, buffers, their names, hooks, training mode, and all references to
    the modules stay, including an optimizer's references to the parameters. Converted are PyTorch's own classes, those
    of transformers, timm, torchvision and diffusers whose forward pass is known by its source, and those that were
    given to `register`. Each keeps the roundings and the dtype of what it replaces.

    Not converted are other subclasses, which may compute something else, SyncBatchNorm, modules with parametrizations,
    and lazy modules before they have seen an input and become an ordinary class. The report says so of each.

    Args:
        model: any module; it may be a norm itself.
        report: return (model, report); `print(report)` has a line for each class and reason.

    Warns:
        UserWarning: the model has norms and all of them are left.

    >>> import torch, normzoo.torch as nzt
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4), torch.nn.SyncBatchNorm(4))
    >>> model, report = nzt.convert(model, report=True)
    >>> print(report)
    taken: 1 LayerNorm
    left: 1 SyncBatchNorm: normzoo has no torch.nn.SyncBatchNorm
    >>> type(model[1]).__module__
    'normzoo.torch.modules'
    >>> type(nzt.revert(model)[1]).__module__
    'torch.nn.modules.normalization'
    """
    _check("convert", model)
    found = Report({}, {})
    known: dict[Any, Any] = {}
    already = False
    for path, module in model.named_modules():
        cls: Any = type(module)
        if isinstance(module, Taken | _Ours):
            already = True
        elif cls in OURS:
            found.taken[path] = cls.__name__
            module.__class__ = OURS[cls]
        else:
            forward = known[cls] if cls in known else known.setdefault(cls, forward_of(cls))
            why = forward if isinstance(forward, str) else _why_left(module)
            if not why:
                found.taken[path] = cls.__name__
                module.__class__ = taken(cls, forward)
            elif _is_norm(module):
                found.left[path] = cls.__name__, why
    if found.left and not found.taken and not already and not report:
        warnings.warn(
            f"convert: changed nothing, as all {len(found.left)} norms are left; see print(nzt.convert(model, "
            f"report=True)[1]):\n{found}",
            stacklevel=2,
        )
    return (model, found) if report else model


def _why_left(module: Any) -> str:
    """Why this module is left, though its class is known."""
    if "forward" in module.__dict__:
        return "its forward was replaced on the object; del module.forward"
    if "parametrizations" in module._modules:
        return "it has parametrizations; write torch.nn.utils.parametrize.remove_parametrizations(...) first"
    return unfit(module)


def _is_norm(module: Any) -> bool:
    """Is it one to tell of? One that is made of other modules which are norms is not: those are told of."""
    return _looks(module) and not any(_looks(m) for m in module.modules() if m is not module)


def _looks(module: Any) -> bool:
    cls = type(module)
    named = "norm" in cls.__name__.lower() and cls.__module__ != "torch.nn.utils.parametrizations"
    return named or isinstance(module, (Taken, *_BASES))


def revert(model: Model) -> Model:
    """Take back `convert`, and turn this library's modules into PyTorch's; in place, returns the model. Those with an
    activation or the like raise ValueError, and nothing has changed.

    Revert a model before it is scripted or quantized, or runs where this library is not installed.
    """
    _check("revert", model)
    found = [module for module in model.modules() if isinstance(module, Taken) or type(module) in THEIRS]
    for module in found:
        if isinstance(module, _Ours) and module._around({}):
            raise ValueError(
                f"revert: expected norms with nothing around them, got {module}; write del module.activation, and "
                "compute it behind the norm"
            )
        if "parametrizations" in module._modules:
            raise ValueError(
                f"revert: expected norms without parametrizations, got {module}; write "
                "torch.nn.utils.parametrize.remove_parametrizations(module, name) first"
            )
    for module in found:
        module.__class__ = module._taken_from if isinstance(module, Taken) else THEIRS[type(module)]
    return model


def _check(name: str, model: Any) -> None:
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"{name}: expected model to be a torch.nn.Module, got {type(model).__name__}")
