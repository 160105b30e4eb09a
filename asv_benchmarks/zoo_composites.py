"""Every norm of the zoo as its formula in PyTorch, and a shape of a network that uses it: the peers of `zoo_peers.py`.

A formula takes x, the norm's parameters, buffers and the arrays beside x by name, all tensors, in the state in which the
norm is called. It is written as one writes it in PyTorch: by what torch.nn.functional has, else step by step.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F


class Peer(NamedTuple):
    """A norm, how it is made and called, and its formula; None where a composite of these would be another norm."""

    arguments: tuple
    options: dict[str, Any]
    shape: tuple[int, ...]
    formula: Callable | None
    inputs: dict[str, tuple[int, ...]] = {}  # noqa: RUF012  arrays beside x
    labels: dict[str, tuple[tuple[int, ...], int]] = {}  # noqa: RUF012  integers: shape, and the first that is too large
    tolerance: float = 2e-5


def hat(x, axes, eps):
    var, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    return (x - mean) * torch.rsqrt(var + eps)


def by_rms(x, axes, eps):
    return x * torch.rsqrt((x * x).mean(axes, keepdim=True) + eps)


def dish_ts(x, p):
    d = x - (x * p["lookback_weight"].T).sum(1, keepdim=True)
    return d * torch.rsqrt((d * d).sum(1, keepdim=True) / (x.shape[1] - 1) + 1e-8) * p["weight"] + p["bias"]


def fan(x, p):
    spectrum = torch.fft.rfft(x, dim=1)
    kept = torch.zeros_like(spectrum.real).scatter_(1, spectrum.abs().topk(20, dim=1).indices, 1.0)
    return x - torch.fft.irfft(spectrum * kept, x.shape[1], dim=1)


def observation_norm(x, p):
    """With 1e-4 values of mean 0 and variance 1, and statistics that are constants."""
    n, v = len(x) + 1e-4, x.detach().double()
    mean = v.sum(0) / n
    var = (((v - mean) ** 2).sum(0) + 1e-4 * (1 + mean * mean)) / n
    return ((x - mean.to(x.dtype)) * torch.rsqrt(var + 1e-8).to(x.dtype)).clamp(-10, 10)


def robust_norm(x, p):
    d = x - x.median(-1, keepdim=True).values
    spread = 1.482602218505602 * d.abs().median(-1, keepdim=True).values
    return d * torch.rsqrt(spread * spread + 1e-5)


def san(x, p):
    v = x.unflatten(1, (-1, 24))
    std, mean = torch.std_mean(v, 2, correction=0, keepdim=True)
    return ((v - mean) / (std + 1e-5)).flatten(1, 2)


def sliding_norm(x, p):
    """Moments in float64: the mean of squares less the square of the mean loses the digits of float32."""
    v, count = x.double(), torch.arange(1, x.shape[-1] + 1).clamp_max(100)

    def mean(v):
        return F.avg_pool1d(F.pad(v, (99, 0)), 100, 1) * 100 / count

    center = mean(v)
    rstd = torch.rsqrt(mean(v * v) - center * center + 1e-5)
    return affine(((v - center) * rstd).to(x.dtype), p)


def of(p, x):
    """A parameter of channels on axis 1."""
    return p.view(1, -1, *[1] * (x.ndim - 2))


def affine(v, p):
    return v * of(p["weight"], v) + of(p["bias"], v)


def batch(x):
    return [i for i in range(x.ndim) if i != 1]


def positions(x):
    return list(range(2, x.ndim))


def length(x, axes):
    return (x * x).sum(axes, keepdim=True).sqrt()


def clipped(x, axes, eps):
    return x / length(x, axes).clamp_min(eps)


def ada_ln_zero(x, p):
    shift, scale, _ = F.linear(F.silu(p["c"]), p["weight"], p["bias"]).chunk(3, -1)
    return F.layer_norm(x, x.shape[-1:], None, None, 1e-6) * (1 + scale[:, None]) + shift[:, None]


def ada_norm(x, p):
    v = F.layer_norm(x, x.shape[-1:])
    return (1 - 0.1 * v).detach() * v


def adaptive_instance_norm(x, p):
    s = p["style"]
    var, mean = torch.var_mean(s, (2, 3), correction=0, keepdim=True)
    return F.instance_norm(x) * (var + 1e-5).sqrt() + mean


def alpha_batch_norm(x, p):
    var, mean = torch.var_mean(x, batch(x), correction=0)
    mean, var = 0.9 * p["running_mean"] + 0.1 * mean, 0.9 * p["running_var"] + 0.1 * var
    return affine((x - of(mean, x)) * torch.rsqrt(of(var, x) + 1e-5), p)


def batch_instance_norm(x, p):
    """By the difference of the two, which is small: as the difference of two sums rho's gradient had lost its digits."""
    own = hat(x, positions(x), 1e-5)
    return affine(own + of(p["rho"].clamp(0, 1), x) * (hat(x, batch(x), 1e-5) - own), p)


def batch_norm(x, p):
    return F.batch_norm(x, None, None, p["weight"], p["bias"], True)


def conditional(norm):
    return lambda x, p: norm(x) * p["weight"][p["labels"]][..., None, None] + p["bias"][p["labels"]][..., None, None]


def crms_norm(x, p):
    n, last = x.shape[-1], x.sum(-1, keepdim=True)
    return x * torch.rsqrt(((x * x).sum(-1, keepdim=True) + last * last) / (n + 1) + 1e-5) * p["weight"]


def cumulative_layer_norm(x, p):
    total, squares = x.sum(1).cumsum(-1), (x * x).sum(1).cumsum(-1)
    count = x.shape[1] * torch.arange(1, x.shape[2] + 1, dtype=x.dtype)
    mean = total / count
    var = squares / count - mean * mean
    return affine((x - mean[:, None]) * torch.rsqrt(var + 1e-8)[:, None], p)


def of_graphs(v, p):
    """The mean of each graph, for each of its nodes."""
    ids = p["segments"]
    total = torch.zeros((64, v.shape[1])).index_add(0, ids, v)
    return (total / torch.bincount(ids, minlength=64)[:, None])[ids]


def graph_norm(x, p):
    o = x - of_graphs(x, p) * p["mean_scale"]
    return affine_last(o * torch.rsqrt(of_graphs(o * o, p) + 1e-5), p)


def pair_norm(x, p):
    o = x - of_graphs(x, p)
    return o * torch.rsqrt(of_graphs((o * o).sum(-1, keepdim=True), p) + 1e-5)


def affine_last(x, p):
    return x * p["weight"] + p["bias"]


def graph_size_norm(x, p):
    return x * torch.bincount(p["segments"], minlength=64).to(x.dtype).rsqrt()[p["segments"], None]


def diff_group_norm(x, p):
    s = torch.softmax(x @ p["lin_weight"].T, -1)
    h = (s[:, :, None] * x[:, None]).reshape(len(x), -1)
    return x + 0.01 * affine_last(hat(h, 0, 1e-5), p).view(len(x), -1, x.shape[1]).sum(1)


def cumulative_rms_norm(x, p):
    count = torch.arange(1, x.shape[-1] + 1, dtype=x.dtype)
    return x * torch.rsqrt((x * x).cumsum(-1) / count + 1e-8) * p["weight"][:, None]


def evo_norm_b0(x, p):
    own = (x.var(positions(x), correction=0, keepdim=True) + 1e-5).sqrt()
    shared = (x.var(batch(x), correction=0, keepdim=True) + 1e-5).sqrt()
    return affine(x / torch.maximum(shared, of(p["v"], x) * x + own), p)


def evo_norm_s0(x, p):
    n, c = x.shape[:2]
    var = x.view(n, 32, -1).var(-1, correction=0, keepdim=True)
    rstd = torch.rsqrt(var + 1e-5).expand(n, 32, c // 32).reshape(n, c, 1, 1)
    return affine(x * torch.sigmoid(of(p["v"], x) * x) * rstd, p)


def filter_response_norm(x, p):
    return torch.maximum(affine(by_rms(x, positions(x), 1e-6), p), of(p["tau"], x))


def ghost_batch_norm(x, p):
    v = x.view(8, -1, *x.shape[1:])
    return affine(hat(v, (1, 3, 4), 1e-5).view(x.shape), p)


def global_response_norm(x, p):
    g = length(x, (1, 2))
    return x * (g / (g.mean(-1, keepdim=True) + 1e-6)) * p["weight"] + p["bias"] + x


def group_rms_norm(x, p):
    v = by_rms(x.view(len(x), 8, -1), -1, 1e-5).view(x.shape)
    return v * of(p["weight"], x)


def l1_batch_norm(x, p):
    v = x - x.mean(batch(x), keepdim=True)
    return affine(v / (math.sqrt(math.pi / 2) * v.abs().mean(batch(x), keepdim=True) + 1e-5), p)


def l_inf_batch_norm(x, p):
    v = x - x.mean(batch(x), keepdim=True)
    n = x.numel() // x.shape[1]
    constant = (1 + math.sqrt(math.pi * math.log(4))) / (2 * math.sqrt(2 * math.log(n)))
    scale = constant * v.abs().transpose(0, 1).reshape(x.shape[1], -1).topk(10).values.mean(-1)
    return affine(v / (of(scale, x) + 1e-5), p)


def max_norm(x, p):
    norm = length(x, 1)
    return torch.where(norm <= 1.0, x, x * (1.0 / (norm + 1e-7)))


def partial_rms_norm(x, p):
    k = math.ceil(0.0625 * x.shape[-1])
    return x * torch.rsqrt(x[..., :k].square().mean(-1, keepdim=True) + 1e-8) * p["weight"]


def poly_norm(x, p):
    w = p["weight"]
    return w[0] * by_rms(x**3, -1, 1e-6) + w[1] * by_rms(x**2, -1, 1e-6) + w[2] * by_rms(x, -1, 1e-6) + p["bias"]


def split_batch_norm(x, p):
    parts = [
        hat(v, batch(v), 1e-5) * of(w, v) + of(b, v) for v, w, b in zip(x.chunk(2), p["weight"], p["bias"], strict=True)
    ]
    return torch.cat(parts)


def switchable_norm(x, p):
    own_var, own = torch.var_mean(x, positions(x), correction=0, keepdim=True)
    square = own_var + own * own
    layer, shared = own.mean(1, keepdim=True), own.mean(0, keepdim=True)
    layer_var = square.mean(1, keepdim=True) - layer * layer
    shared_var = square.mean(0, keepdim=True) - shared * shared
    a, b = p["mean_weight"].softmax(0), p["var_weight"].softmax(0)
    mean = a[0] * own + a[1] * layer + a[2] * shared
    var = b[0] * own_var + b[1] * layer_var + b[2] * shared_var
    return affine((x - mean) * torch.rsqrt(var + 1e-5), p)


def standardized_weight(x, eps):
    return hat(x, list(range(1, x.ndim)), eps)


def scaled_weight_standardization(x, p):
    var, mean = torch.var_mean(x, (1, 2, 3), correction=0, keepdim=True)
    return (x - mean) * torch.rsqrt((var * x[0].numel()).clamp_min(1e-4)) * p["weight"].view(-1, 1, 1, 1)


def whitening(x, p, groups, newton):
    """IterNorm and DecorrelatedBatchNorm."""
    c = x.shape[1]
    v = x.transpose(0, 1).reshape(groups, c // groups, -1)
    v = v - v.mean(-1, keepdim=True)
    one = torch.eye(c // groups)
    sigma = v @ v.transpose(1, 2) / v.shape[2] + 1e-5 * one
    if newton is None:
        values, vectors = torch.linalg.eigh(sigma)
        matrix = (vectors * values.rsqrt()[:, None]) @ vectors.transpose(1, 2)
    else:
        trace = sigma.diagonal(dim1=1, dim2=2).sum(-1)[:, None, None]
        scaled, matrix = sigma / trace, one.expand_as(sigma)
        for _ in range(newton):
            matrix = 1.5 * matrix - 0.5 * matrix @ matrix @ matrix @ scaled
        matrix = matrix * trace.rsqrt()
    return affine((matrix @ v).reshape(c, len(x), *x.shape[2:]).transpose(0, 1), p)


def group_whitening(x, p):
    v = x.view(len(x), 32, -1)
    v = v - v.mean(-1, keepdim=True)
    one = torch.eye(32)
    sigma = v @ v.transpose(1, 2) / v.shape[2] + 1e-5 * one
    trace = sigma.diagonal(dim1=1, dim2=2).sum(-1)[:, None, None]
    scaled, matrix = sigma / trace, one.expand_as(sigma)
    for _ in range(5):
        matrix = 1.5 * matrix - 0.5 * matrix @ matrix @ matrix @ scaled
    return affine((matrix * trace.rsqrt() @ v).view(x.shape), p)


def windowed(v, kernel):
    """Weighted means over the positions of a window that are inside v, (N, 1, H, W)."""
    tall, flat = kernel.view(1, 1, -1, 1), kernel.view(1, 1, 1, -1)

    def smooth(a):
        return F.conv2d(F.conv2d(a, tall, padding=(len(kernel) // 2, 0)), flat, padding=(0, len(kernel) // 2))

    return smooth(v) / smooth(torch.ones_like(v[:1]))


def divisive_norm(x, p):
    v = x - windowed(x.mean(1, keepdim=True), torch.ones(3))
    return affine(v * torch.rsqrt(windowed((v * v).mean(1, keepdim=True), torch.ones(5)) + 1), p)


def local_contrast_norm(x, p):
    kernel = torch.exp(-0.125 * torch.arange(-4.0, 5.0) ** 2)
    v = x - windowed(x.mean(1, keepdim=True), kernel)
    sigma = windowed((v * v).mean(1, keepdim=True), kernel).sqrt()
    return v / torch.maximum(sigma.mean((2, 3), keepdim=True), sigma)


def domain_batch_norm(x, p):
    return F.batch_norm(x, None, None, p["weight"][p["domain"]], p["bias"][p["domain"]], True)


def orthogonal_weight(x, p):
    q, triangle = torch.linalg.qr(x)
    return q * triangle.diagonal().sign()


def spectral_norm(x, p):
    w = x.flatten(1)
    with torch.no_grad():
        u = F.normalize(w @ p["v"], dim=0)
        v = F.normalize(w.T @ u, dim=0)
    return x / (u @ (w @ v))


def standardize(x, p):
    rstd = torch.rsqrt(p["m2"] / p["count"]) / p["unit"]
    return (x - p["mean"].float()) * rstd.float()


def virtual_batch_norm(x, p):
    others, spread, share = of(p["reference_mean"], x), of(p["reference_var"], x), 1 / (p["reference_size"] + 1.0)
    own_var, own = torch.var_mean(x, positions(x), correction=0, keepdim=True)
    mean = others + share * (own - others)
    var = (1 - share) * (spread + (others - mean) ** 2) + share * (own_var + (own - mean) ** 2)
    return affine((x - mean) * torch.rsqrt(var + 1e-5), p)


MAPS, WIDE, LAST = (32, 64, 56, 56), (8192, 768), (32, 28, 28, 192)
PEERS = {
    "ada_ln_zero": Peer((1152,), {}, (16, 256, 1152), ada_ln_zero, {"c": (16, 1152)}),
    "ada_norm": Peer((768,), {}, WIDE, ada_norm),
    "adaptive_instance_norm": Peer((), {}, (8, 512, 32, 32), adaptive_instance_norm, {"style": (8, 512, 32, 32)}),
    "adaptive_layer_norm": Peer(
        (1152,), {}, (16, 256, 1152),
        lambda x, p: F.layer_norm(x, x.shape[-1:], None, None, 1e-6) * (1 + p["scale"][:, None]) + p["shift"][:, None],
        {"scale": (16, 1152), "shift": (16, 1152)},
    ),
    "alpha_batch_norm": Peer((64,), {}, MAPS, alpha_batch_norm),
    "batch_instance_norm": Peer((64,), {}, MAPS, batch_instance_norm),
    "batch_norm": Peer((64,), {}, MAPS, batch_norm),
    "batch_renorm": Peer((64,), {"rmax": 1.0, "dmax": 0.0}, MAPS, lambda x, p: affine(hat(x, batch(x), 1e-3), p)),
    "conditional_batch_norm": Peer(
        (64, 10), {}, MAPS, conditional(lambda x: hat(x, batch(x), 1e-5)), {}, {"labels": ((32,), 10)}
    ),
    "conditional_instance_norm": Peer((64, 10), {}, MAPS, conditional(F.instance_norm), {}, {"labels": ((32,), 10)}),
    "crms_norm": Peer((767,), {}, (8192, 767), crms_norm),
    "cumulative_layer_norm": Peer((512,), {}, (4, 512, 3200), cumulative_layer_norm, tolerance=1e-3),
    "decorrelated_batch_norm": Peer((64, 16), {}, (32, 64, 32, 32), lambda x, p: whitening(x, p, 4, None), tolerance=1e-3),
    "cumulative_rms_norm": Peer((512,), {}, (4, 512, 3200), cumulative_rms_norm, tolerance=1e-3),
    "derf": Peer(
        (768,), {}, WIDE, lambda x, p: torch.erf(p["alpha"] * x + p["shift"]) * p["weight"] + p["bias"]
    ),
    "divisive_norm": Peer((64, 3, 5), {}, MAPS, divisive_norm),
    "domain_batch_norm": Peer((64, 2), {}, MAPS, domain_batch_norm, {}, {"domain": ((), 2)}),
    "dyt": Peer((768,), {}, WIDE, lambda x, p: torch.tanh(p["alpha"] * x) * p["weight"] + p["bias"]),
    "ema_batch_norm": Peer((64,), {"momentum": 1.0}, MAPS, lambda x, p: affine(hat(x, batch(x), 1e-5), p)),
    "evo_norm_b0": Peer((64,), {}, MAPS, evo_norm_b0, tolerance=1e-3),
    "evo_norm_s0": Peer((64,), {}, MAPS, evo_norm_s0),
    "film": Peer(
        (), {}, (32, 128, 28, 28), lambda x, p: p["gamma"][..., None, None] * x + p["beta"][..., None, None],
        {"gamma": (32, 128), "beta": (32, 128)},
    ),
    "filter_response_norm": Peer((64,), {}, MAPS, filter_response_norm),
    "frozen_batch_norm": Peer(
        (64,), {}, MAPS,
        lambda x, p: F.batch_norm(x, p["running_mean"], p["running_var"], p.get("weight"), p.get("bias"), False),
    ),
    "ghost_batch_norm": Peer((64, 8), {}, MAPS, ghost_batch_norm),
    "global_response_norm": Peer((192,), {"channel_axis": -1}, LAST, global_response_norm),
    "group_norm": Peer((32, 512), {}, (8, 512, 32, 32), lambda x, p: F.group_norm(x, 32, p["weight"], p["bias"])),
    "group_rms_norm": Peer((8, 64), {}, MAPS, group_rms_norm),
    "group_whitening": Peer((256, 32), {}, (32, 256, 16, 16), group_whitening, tolerance=1e-3),
    "head_layer_norm": Peer(
        (16, 64), {}, (8, 256, 16, 64), lambda x, p: F.layer_norm(x, (64,), None, None, 1e-6) * p["weight"] + p["bias"]
    ),
    "head_rms_norm": Peer(
        (16, 64), {}, (8, 256, 16, 64), lambda x, p: F.rms_norm(x, (64,), None, 1e-6) * p["weight"]
    ),
    "instance_norm": Peer((64,), {}, MAPS, lambda x, p: F.instance_norm(x)),
    "iter_norm": Peer((64,), {}, (32, 64, 32, 32), lambda x, p: whitening(x, p, 1, 5), tolerance=1e-3),
    "l1_batch_norm": Peer((64,), {}, MAPS, l1_batch_norm),
    "l2_norm": Peer((768,), {"elementwise_affine": True}, WIDE, lambda x, p: clipped(x, -1, 1e-12) * p["weight"]),
    "l_inf_batch_norm": Peer((64, 10), {}, MAPS, l_inf_batch_norm),
    "layer_norm": Peer((768,), {}, WIDE, lambda x, p: F.layer_norm(x, (768,), p["weight"], p["bias"])),
    "layer_scale": Peer((768,), {}, (32, 197, 768), lambda x, p: x * p["weight"]),
    "local_contrast_norm": Peer((9,), {}, (16, 16, 112, 112), local_contrast_norm),
    "local_response_norm": Peer((5,), {}, (32, 96, 27, 27), lambda x, p: F.local_response_norm(x, 5)),
    "max_norm": Peer((2, 0, 1.0), {}, (4096, 512), max_norm),
    "mean_variance_norm": Peer(((0, 2, 3),), {}, MAPS, lambda x, p: hat(x, (0, 2, 3), 1e-9)),
    "orthogonal_weight": Peer((), {}, (512, 256), orthogonal_weight, tolerance=1e-3),
    "partial_rms_norm": Peer((768,), {}, WIDE, partial_rms_norm),
    "pixel_norm": Peer((), {}, (8, 512, 32, 32), lambda x, p: by_rms(x, 1, 1e-8)),
    "poly_norm": Peer((), {}, (2048, 4096), poly_norm),
    "positional_norm": Peer((), {}, (8, 64, 128, 128), lambda x, p: hat(x, 1, 1e-5)),
    "power_norm": Peer(  # while it warms up
        (512,), {"channel_axis": -1}, (64, 128, 512), lambda x, p: by_rms(x, (0, 1), 1e-5) * p["weight"] + p["bias"]
    ),
    "revin": Peer((321,), {}, (32, 336, 321), lambda x, p: hat(x, 1, 1e-5) * p["weight"] + p["bias"]),
    "rezero": Peer((), {}, WIDE, lambda x, p: x + p["alpha"] * p["branch"], {"branch": WIDE}),
    "rms_norm": Peer((768,), {}, WIDE, lambda x, p: F.rms_norm(x, (768,), p["weight"])),
    "scale_norm": Peer((27.7,), {}, WIDE, lambda x, p: p["weight"] * clipped(x, -1, 1e-5)),
    "scaled_weight_standardization": Peer((512,), {}, (512, 512, 3, 3), scaled_weight_standardization),
    "spade": Peer(
        (64,), {}, (4, 64, 128, 128), lambda x, p: hat(x, batch(x), 1e-5) * (1 + p["gamma"]) + p["beta"],
        {"gamma": (4, 64, 128, 128), "beta": (4, 64, 128, 128)},
    ),
    "spectral_norm": Peer(((512, 512, 3, 3),), {}, (512, 512, 3, 3), spectral_norm),
    "split_batch_norm": Peer((64,), {}, MAPS, split_batch_norm),
    "standardize": Peer((128,), {}, (8192, 128), standardize),
    "switchable_norm": Peer((64,), {}, MAPS, switchable_norm, tolerance=1e-4),
    "unit_norm": Peer((), {}, WIDE, lambda x, p: clipped(x, -1, 1e-12)),
    "virtual_batch_norm": Peer((64,), {}, MAPS, virtual_batch_norm),
    "weight_norm": Peer(
        ((512, 512, 3, 3),), {}, (512, 512, 3, 3), lambda x, p: x / length(x, (1, 2, 3)) * p["weight"].view(-1, 1, 1, 1)
    ),
    "weight_standardization": Peer((), {}, (512, 512, 3, 3), lambda x, p: standardized_weight(x, 1e-5)),
    # batches of 64 graphs
    "graph_norm": Peer((256,), {}, (8192, 256), graph_norm, {}, {"segments": ((8192,), 64)}, 1e-4),
    "pair_norm": Peer((), {}, (8192, 256), pair_norm, {}, {"segments": ((8192,), 64)}, 1e-4),
    "mean_subtraction": Peer((), {}, (8192, 256), lambda x, p: x - of_graphs(x, p), {}, {"segments": ((8192,), 64)}, 1e-4),
    "graph_size_norm": Peer((), {}, (8192, 256), graph_size_norm, {}, {"segments": ((8192,), 64)}),
    "message_norm": Peer(
        (), {}, (8192, 256), lambda x, p: F.normalize(p["msg"], dim=-1) * x.norm(dim=-1, keepdim=True), {"msg": (8192, 256)}
    ),
    "diff_group_norm": Peer((256, 4), {}, (8192, 256), diff_group_norm, tolerance=1e-3),
    "exponential_norm": Peer((512,), {}, (4, 512, 3200), None),  # PyTorch has no recursive filter
    "pcen": Peer((128,), {}, (16, 128, 1000), None),
    "dish_ts": Peer((321, 336), {}, (32, 336, 321), dish_ts, tolerance=1e-4),
    "fan": Peer((321,), {}, (32, 336, 321), fan, tolerance=1e-4),
    "observation_norm": Peer((128,), {}, (8192, 128), observation_norm),  # the first batch
    "pop_art": Peer((128,), {}, (8192, 128), lambda x, p: (x - p["mean"]) / p["var"].sqrt()),
    "robust_norm": Peer((-1,), {}, (1024, 767), robust_norm, tolerance=1e-4),
    "san": Peer((321, 24), {}, (32, 336, 321), san),
    "sliding_norm": Peer((512, 100), {}, (4, 512, 3200), sliding_norm, tolerance=1e-4),
}  # fmt: skip
