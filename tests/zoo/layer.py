"""The layer family and conditional norms, from their papers, a sample at a time."""

import itertools

import numpy as np

import normzoo as nz
from tests.zoo.case import ZooCase


def rows(x):
    """Indices of the leading axes."""
    return itertools.product(*map(range, x.shape[:-1]))


def standard(v, eps):
    """(v - mean) / sqrt(var + eps) of all values of v."""
    d = v - v.mean()
    return d / np.sqrt((d**2).mean() + eps)


def root_mean_square(v, eps):
    return v / np.sqrt((v**2).mean() + eps)


def layer_norm_apart(x, weight, bias):
    """Of (N, C, H, W) over C, H, W, with parameters per channel."""
    y = np.empty_like(x, np.result_type(x, weight, bias))
    for i in range(len(x)):
        y[i] = standard(x[i], 1e-5) * weight[:, None, None] + bias[:, None, None]
    return y


def layer_norm_kept(x, weight, bias):
    """Of (N, T, C) over C, with parameters per position and sample."""
    y = np.empty_like(x, np.result_type(x, weight, bias))
    for i, t in rows(x):
        y[i, t] = standard(x[i, t], 1e-5) * weight[i, t] + bias[i, t]
    return y


def rms_norm(offset):
    def oracle(x, weight):
        y = np.empty_like(x, np.result_type(x, weight))
        for i in rows(x):
            y[i] = root_mean_square(x[i], 1e-6) * (offset + weight)
        return y

    return oracle


def partial_rms_norm(k):
    def oracle(x, weight):
        y = np.empty_like(x, np.result_type(x, weight))
        for i in rows(x):
            y[i] = x[i] / np.sqrt((x[i][:k] ** 2).sum() / k + 1e-8) * weight
        return y

    return oracle


def crms_norm(x, weight):
    """Jiang et al. 2023: RMSNorm of the sample with its last value, which is dropped again."""
    y = np.empty_like(x, np.result_type(x, weight))
    for i in rows(x):
        whole = np.append(x[i], -x[i].sum())
        y[i] = root_mean_square(whole, 1e-5)[:-1] * weight
    return y


def length(v, eps=1e-12):
    return np.maximum(np.sqrt((v**2).sum()), eps)


def scale_norm(x, weight):
    y = np.empty_like(x, np.result_type(x, weight))
    for i in rows(x):
        y[i] = weight[0] * x[i] / length(x[i])
    return y


def l2_norm(x, weight=1.0):
    y = np.empty_like(x, np.result_type(x, weight))
    for i in rows(x):
        y[i] = x[i] / length(x[i]) * weight
    return y


def channels_norm(x, weight):
    """SSD's L2Norm: over the channels of (N, C, H, W)."""
    y = np.empty_like(x, np.result_type(x, weight))
    for i, h, w in itertools.product(range(x.shape[0]), range(x.shape[2]), range(x.shape[3])):
        y[i, :, h, w] = x[i, :, h, w] / length(x[i, :, h, w]) * weight
    return y


def unit_of_samples(x):
    return np.array([s / length(s) for s in x])


def ada_norm(x, brackets):
    y = np.empty_like(x)
    for i in rows(x):
        y[i] = standard(x[i], 1e-5)
    return brackets * y


def ada_frozen(k, scale):
    def frozen(x, **_):
        return {"brackets": scale * (1 - k * ada_norm(x, np.ones_like(x)))}

    return frozen


def poly_norm(x, weight, bias):
    """Zhuo et al. 2024, the authors' order of the weights."""
    y = np.empty_like(x, np.result_type(x, weight, bias))
    for i in rows(x):
        y[i] = bias[0]
        for a, power in zip(weight, (3, 2, 1), strict=True):
            y[i] = y[i] + a * root_mean_square(x[i] ** power, 1e-6)
    return y


def group_rms_norm(groups, per_position):
    """Of (N, C, L)."""

    def oracle(x, weight):
        y = np.empty_like(x, np.result_type(x, weight))
        size = x.shape[1] // groups
        for i, g in itertools.product(range(x.shape[0]), range(groups)):
            part = slice(g * size, (g + 1) * size)
            positions = [slice(p, p + 1) for p in range(x.shape[2])] if per_position else [slice(None)]
            for p in positions:
                y[i, part, p] = root_mean_square(x[i, part, p], 1e-5) * weight[part, None]
        return y

    return oracle


def last(oracle):
    """The same of (N, L, C)."""
    return lambda x, *a, **o: np.moveaxis(oracle(np.moveaxis(x, -1, 1), *a, **o), 1, -1)


def head_norm(one):
    """Of (N, T, H, D)."""

    def oracle(x, weight, bias=0.0):
        y = np.empty_like(x, np.result_type(x, weight, bias))
        weight, bias = np.broadcast_to(weight, x.shape[2:]), np.broadcast_to(bias, x.shape[2:])
        for i, t, h in rows(x):
            y[i, t, h] = one(x[i, t, h], 1e-6) * weight[h] + bias[h]
        return y

    return oracle


def heads_first(oracle):
    """The same of (N, H, T, D)."""
    return lambda x, *a, **o: np.swapaxes(oracle(np.swapaxes(x, 1, 2), *a, **o), 1, 2)


CASES = [
    ZooCase(
        "layer_norm-parameters-of-channels",
        lambda dtype: nz.LayerNorm((6, 3, 3), parameter_axis=1, parameter_shape=6, dtype=dtype),
        (4, 6, 3, 3),
        layer_norm_apart,
        flat=True,
    ),
    ZooCase(
        "layer_norm-parameters-of-kept-axes",
        lambda dtype: nz.LayerNorm(17, parameter_axis=(0, 1), parameter_shape=(3, 5), dtype=dtype),
        (3, 5, 17),
        layer_norm_kept,
        flat=True,
    ),
    ZooCase("rms_norm-offset", lambda dtype: nz.RMSNorm(17, 1e-6, offset=1.0, dtype=dtype), (3, 5, 17), rms_norm(1)),
    ZooCase(
        "rms_norm-gemma",
        lambda dtype: nz.RMSNorm(7, 1e-6, offset=1.0, casting="gemma", dtype=dtype),
        (5, 7),
        rms_norm(1),
    ),
    ZooCase(
        "rms_norm-llama", lambda dtype: nz.RMSNorm(17, 1e-6, casting="llama", dtype=dtype), (3, 5, 17), rms_norm(0)
    ),
    ZooCase(
        "rms_norm-llama-offset",
        lambda dtype: nz.RMSNorm(7, 1e-6, casting="llama", offset=0.5, dtype=dtype),
        (5, 7),
        rms_norm(0.5),
    ),
    ZooCase(
        "partial_rms_norm",
        lambda dtype: nz.PartialRMSNorm(33, 0.25, dtype=dtype),
        (5, 33),
        partial_rms_norm(9),
    ),
    ZooCase(
        "partial_rms_norm-3d",
        lambda dtype: nz.PartialRMSNorm(30, 0.1, dtype=dtype),
        (3, 5, 30),
        partial_rms_norm(3),
    ),
    ZooCase("crms_norm", lambda dtype: nz.CRMSNorm(17, dtype=dtype), (3, 5, 17), crms_norm),
    ZooCase("scale_norm", lambda dtype: nz.ScaleNorm(17**0.5, dtype=dtype), (3, 5, 17), scale_norm),
    ZooCase("scale_norm-channels", lambda dtype: nz.ScaleNorm(3, axis=1, dtype=dtype), (3, 5, 17), last(scale_norm)),
    ZooCase("l2_norm", lambda dtype: nz.L2Norm(17), (3, 5, 17), l2_norm),
    ZooCase("l2_norm-weight", lambda dtype: nz.L2Norm(17, elementwise_affine=True, dtype=dtype), (3, 5, 17), l2_norm),
    ZooCase(
        "l2_norm-channels",
        lambda dtype: nz.L2Norm(5, elementwise_affine=True, scale=20, axis=1, dtype=dtype),
        (2, 5, 3, 7),
        channels_norm,
    ),
    ZooCase("unit_norm", lambda dtype: nz.UnitNorm(), (3, 5, 17), l2_norm),
    ZooCase("unit_norm-samples", lambda dtype: nz.UnitNorm((1, 2)), (3, 5, 17), unit_of_samples),
    ZooCase("ada_norm", lambda dtype: nz.AdaNorm(17), (3, 5, 17), ada_norm, flat=True, frozen=ada_frozen(0.1, 1.0)),
    ZooCase(
        "ada_norm-channels",
        lambda dtype: nz.AdaNorm(5, 0.3, 2.0, axis=1),
        (3, 5, 17),
        lambda x, brackets: ada_norm(np.moveaxis(x, 1, 2), np.moveaxis(brackets, 1, 2)).swapaxes(1, 2),
        flat=True,
        frozen=lambda x, **_: {"brackets": np.moveaxis(ada_frozen(0.3, 2.0)(np.moveaxis(x, 1, 2))["brackets"], 2, 1)},
    ),
    ZooCase("poly_norm", lambda dtype: nz.PolyNorm(dtype=dtype), (3, 5, 17), poly_norm),
    ZooCase("poly_norm-2d", lambda dtype: nz.PolyNorm(dtype=dtype), (4, 33), poly_norm),
    ZooCase("group_rms_norm", lambda dtype: nz.GroupRMSNorm(3, 6, dtype=dtype), (2, 6, 17), group_rms_norm(3, False)),
    ZooCase(
        "group_rms_norm-channels-last",
        lambda dtype: nz.GroupRMSNorm(2, 34, channel_axis=-1, dtype=dtype),
        (2, 5, 34),
        last(group_rms_norm(2, False)),
    ),
    ZooCase(
        "group_rms_norm-per-position",
        lambda dtype: nz.GroupRMSNorm(2, 34, per_position=True, channel_axis=-1, dtype=dtype),
        (2, 5, 34),
        last(group_rms_norm(2, True)),
    ),
    ZooCase(
        "group_rms_norm-per-position-channels-first",
        lambda dtype: nz.GroupRMSNorm(2, 6, per_position=True, dtype=dtype),
        (3, 6, 17),
        group_rms_norm(2, True),
    ),
    ZooCase(
        "head_rms_norm", lambda dtype: nz.HeadRMSNorm(3, 17, dtype=dtype), (2, 5, 3, 17), head_norm(root_mean_square)
    ),
    ZooCase(
        "head_rms_norm-shared",
        lambda dtype: nz.HeadRMSNorm(3, 8, shared=True, dtype=dtype),
        (2, 5, 3, 8),
        head_norm(root_mean_square),
    ),
    ZooCase(
        "head_rms_norm-heads-first",
        lambda dtype: nz.HeadRMSNorm(3, 8, head_axis=-3, dtype=dtype),
        (2, 3, 5, 8),
        heads_first(head_norm(root_mean_square)),
    ),
    ZooCase(
        "head_layer_norm",
        lambda dtype: nz.HeadLayerNorm(3, 17, dtype=dtype),
        (2, 5, 3, 17),
        head_norm(standard),
        flat=True,
    ),
    ZooCase(
        "head_layer_norm-heads-first",
        lambda dtype: nz.HeadLayerNorm(3, 8, head_axis=1, dtype=dtype),
        (2, 3, 5, 8),
        heads_first(head_norm(standard)),
        flat=True,
    ),
]
