"""The backward pass in PyTorch's operations, which autograd can differentiate again: for create_graph=True."""

from typing import Any

import torch
from torch import Tensor

from normzoo.passes.view import View, find_view, inverse
from normzoo.passes.view_saved import Left


def differentiable_backward(
    left: Left, dy: Tensor, x: Tensor, weight: Tensor | None, has_bias: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """dx, dweight, dbias by the formulas of `backends/contract.py`, as functions of dy, x and weight."""
    axes = left.axes if weight is not None or has_bias else left.axes._replace(letters=left.axes.letters.lower())
    view, _ = find_view(axes, tuple(x.shape), None, x.element_size())
    b, _, _, _ = view.dims
    dtype = torch.float64 if torch.float64 in (x.dtype, None if weight is None else weight.dtype) else torch.float32
    d, v = (t.to(dtype).permute(view.order).reshape(view.dims) for t in (dy, x))
    reduced = (1, 3)
    constant = left.moments.power == 0
    if constant:
        mean, _, rstd = (torch.as_tensor(s, dtype=dtype, device=x.device)[:, None, :, None] for s in _host(left.stats))
    else:
        mean = v.mean(reduced, keepdim=True) if left.moments.center else torch.zeros((), dtype=dtype, device=x.device)
        rstd = ((v - mean).square().mean(reduced, keepdim=True) + left.eps).rsqrt()
    xhat = (v - mean) * rstd
    g = d
    if weight is not None:
        w = weight.to(dtype).reshape(view.pieces).permute(view.piece_order).reshape(view.parameter_dims)
        g = d * w.repeat(b // view.parameter_dims[0], 1, 1, 1)
    dx = g
    if not constant:
        dx = dx - xhat * (g * xhat).mean(reduced, keepdim=True)
        if left.moments.center:
            dx = dx - g.mean(reduced, keepdim=True)
    dx = (dx * rstd).reshape([x.shape[i] for i in view.order]).permute(inverse(view.order)).to(x.dtype)
    dweight = None if weight is None else _summed(d * xhat, view, left).to(weight.dtype)
    dbias = _summed(d, view, left) if has_bias else None
    return dx, dweight, dbias


def _host(stats: Any) -> Any:
    return stats.copy_to_host() if hasattr(stats, "copy_to_host") else stats


def _summed(d: Tensor, view: View, left: Left) -> Tensor:
    """A parameter's gradient, from terms with the view's shape."""
    _, m, c, n = view.dims
    pb, *rest = view.parameter_dims
    d = d.reshape(-1, pb, m, c, n).sum(0)
    d = d.sum([i for i in (1, 2, 3) if rest[i - 1] == 1], keepdim=True) if 1 in rest else d
    d = d.reshape([view.pieces[i] for i in view.piece_order]).permute(inverse(view.piece_order))
    return d.reshape(left.axes.parameter_shape if left.parameter_shape is None else left.parameter_shape)
