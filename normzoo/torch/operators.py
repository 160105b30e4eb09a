"""The passes as PyTorch operators. torch.compile keeps them in its graph as single nodes, and can differentiate
them."""

from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from normzoo.backends.around import Around
from normzoo.backends.contract import CONSTANT
from normzoo.passes.arrays import eps_for
from normzoo.passes.view import Axes, find_view
from normzoo.passes.view_saved import Left
from normzoo.statistics.updates import commit
from normzoo.torch.batched import by_items, in_one_call
from normzoo.torch.defining import defined
from normzoo.torch.function import Spec, by_torch, run, run_back
from normzoo.torch.tensors import array_of, tensor_of
from normzoo.zoo.batch import batch_norm
from normzoo.zoo.instance import instance_norm
from normzoo.zoo.layer import group_norm, layer_norm, rms_norm


def _axes(spec: Spec, x: Any) -> Axes:
    if spec.name == "batch_norm":
        return batch_norm.axes(spec.name, x, 1)
    if spec.name == "instance_norm":
        axes = instance_norm.axes(spec.name, x, 1)
        return axes if spec.own else axes.merged
    if spec.name == "group_norm":
        return group_norm.axes(spec.name, x, spec.sizes[0], 1)
    return layer_norm.axes(spec.name, x, tuple(spec.sizes), None)


def _sets(spec: Spec, x: Tensor) -> Any:
    """Number of sets that have statistics; sizes may be symbolic."""
    if spec.name == "batch_norm" or not spec.own:
        return x.shape[1]
    if spec.name in ("instance_norm", "group_norm"):
        return x.shape[0] * (x.shape[1] if spec.name == "instance_norm" else spec.sizes[0])
    sets = 1
    for size in x.shape[: x.dim() - len(spec.sizes)]:
        sets *= size
    return sets


def placed(y: Tensor, x: Tensor) -> Tensor:
    """y with the strides that the compiler expects, those of `torch.empty_like(x)`."""
    return y if y.stride() == x.stride() else torch.empty_like(x).copy_(y)


def left_of(spec: Spec, x: Tensor, stats: Tensor, around: Around | None = None) -> Left:
    """What a pass left, of the statistics that its operator returned."""
    a = array_of(spec.name, "input", x)
    axes = _axes(spec, a)
    b, _, c, _ = find_view(axes, tuple(x.shape), None, x.element_size())[0].dims
    moments = (rms_norm.RMSNorm if spec.name == "rms_norm" else layer_norm.LayerNorm).moments if spec.own else CONSTANT
    kept = array_of(spec.name, "statistics", stats.reshape(3, b, c))
    return Left(spec.name, axes, None, moments, eps_for(a) if spec.eps is None else spec.eps, kept, around)


def fakes(spec: Spec, x: Tensor) -> tuple[Tensor, Tensor]:
    """y and the statistics, without values."""
    if spec.name in ("layer_norm", "rms_norm") and tuple(x.shape[-len(spec.sizes) :]) != tuple(spec.sizes):
        wanted = f"(..., {', '.join(map(str, spec.sizes))})"
        raise ValueError(f"{spec.name}: expected x of shape {wanted}, got {tuple(x.shape)}")
    return torch.empty_like(x), x.new_empty((3, _sets(spec, x)), dtype=torch.float64)


def normalize(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    name: str,
    sizes: list[int],
    own: bool,
    momentum: float,
    eps: float | None,
) -> tuple[Tensor, Tensor]:
    """y, and the statistics (3, sets): mean, spread and rstd of every set."""
    spec = Spec(name, tuple(sizes), own, momentum, eps)
    y, left, _ = run(spec, x, weight, bias, mean, var, True)
    return placed(y, x), tensor_of(left.stats).reshape(3, -1)


def _fake(
    x: Tensor, weight: Any, bias: Any, mean: Any, var: Any, name: str, sizes: Any, own: Any, momentum: Any, eps: Any
) -> tuple[Tensor, Tensor]:
    return fakes(Spec(name, sizes, own), x)


def stats_by_torch(spec: Spec, x: Tensor, mean: Any, var: Any) -> Tensor:
    """The statistics that `normalize` returns, in PyTorch's operators."""
    v = x.double()
    if spec.own:
        v = (v.transpose(0, 1) if spec.name == "batch_norm" else v).reshape(_sets(spec, x), -1)
        mean = v.mean(1) if spec.name != "rms_norm" else torch.zeros_like(v[:, 0])
        var = (v - mean[:, None]).square().mean(1)
    mean, spread = mean.detach().double(), var.detach().double()
    eps = (
        torch.finfo(torch.float64 if x.dtype is torch.float64 else torch.float32).eps if spec.eps is None else spec.eps
    )
    rstd = (spread + eps).rsqrt()
    return torch.stack((mean, spread, torch.where(rstd.isinf(), 0.0, rstd)))


@custom_op("normzoo::normalize_backward", mutates_args=())
def normalize_backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    stats: Tensor,
    name: str,
    sizes: list[int],
    own: bool,
    eps: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """dx, dweight and dbias; a gradient of an absent parameter is an empty tensor."""
    left = left_of(Spec(name, tuple(sizes), own, eps=eps), x, stats)
    dx, dweight, dbias = run_back(left, dy, x, weight, array_of(name, "bias", bias))
    # all results of an operator must be different tensors
    return placed(dx, x), *(x.new_empty(0) if d is None else d for d in (dweight, dbias))


@normalize_backward.register_fake
def _(
    dy: Any, x: Tensor, weight: Any, bias: Any, stats: Any, name: str, sizes: Any, own: Any, eps: Any
) -> tuple[Tensor, ...]:
    return torch.empty_like(x), *(x.new_empty(0) if p is None else torch.empty_like(p) for p in (weight, bias))


def _keep(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    x, weight, bias, _, _, ctx.name, ctx.sizes, ctx.own, _, ctx.eps = inputs
    ctx.save_for_backward(x, weight, bias, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _back(ctx: Any, dy: Tensor | None, _: Any) -> tuple:
    if dy is None:
        return (None,) * 10
    x, weight, bias, stats = ctx.saved_tensors
    found = normalize_backward(dy, x, weight, bias, stats, ctx.name, ctx.sizes, ctx.own, ctx.eps)
    present = zip(found, (x, weight, bias), strict=True)
    return *(None if p is None else d for d, p in present), *(None,) * 7


def _composed(x: Tensor, weight: Any, bias: Any, mean: Any, var: Any, *rest: Any) -> tuple[Tensor, Tensor]:
    """The same in PyTorch's operators, which have rules for all transforms."""
    spec = Spec(*rest)
    y = by_torch(spec, x, weight, bias, *((None, None) if spec.own else (mean, var)))
    return y, stats_by_torch(spec, x.detach(), mean, var)


operator = defined(normalize, _fake, (_keep, _back), _composed, in_one_call)
normalize_backward.register_vmap(by_items(normalize_backward))


@custom_op("normzoo::update_running", mutates_args=("mean", "var"))
def update_running(mean: Tensor, var: Tensor, stats: Tensor, x: Tensor, momentum: float) -> None:
    """Update the running statistics by those of x's sets. x gives the number of values in a set, which would be a
    constant in a traced graph if it were passed as a number."""
    sets = stats.shape[1] if stats.dim() == 2 else 0
    fits = mean.dim() == 1 and mean.shape == var.shape and stats.shape[:1] == (3,) and stats.dtype == torch.float64
    if not fits or not stats.is_contiguous() or not mean.numel() or sets % mean.numel():
        raise ValueError(
            "normzoo::update_running: expected mean and var (channels,) and contiguous float64 stats (3, sets), sets a "
            f"multiple of channels, got {tuple(mean.shape)}, {tuple(var.shape)} and {stats.dtype} {tuple(stats.shape)}"
        )
    values = x.numel() // sets if sets else 0
    running = array_of("batch_norm", "running_mean", mean), array_of("batch_norm", "running_var", var)
    ready = all(t.dtype in (torch.float32, torch.float64) and t.is_contiguous() for t in (mean, var))
    name = "cpu" if mean.device.type == "cpu" else f"cuda:{running[0].stream}"
    commit(name, (*running, None, momentum), array_of("batch_norm", "statistics", stats), values, ready)
