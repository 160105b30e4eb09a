"""The layer family and conditional norms, from their papers, a sample at a time."""

import itertools

import numpy as np

import normzoo as nz
from tests.zoo.case import ZooCase, magnitude


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


def sum_norm(x):
    """By the sum of absolute values of each row; sign(x) * x is abs(x) and takes the complex numbers of a slope."""
    return x / (np.sign(x.real) * x).sum(axis=-1, keepdims=True)


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


def positional_norm(x):
    """Li et al. 2019, equations 1 and 2: of (N, C, H, W)."""
    y = np.empty_like(x)
    for i, h, w in itertools.product(range(x.shape[0]), range(x.shape[2]), range(x.shape[3])):
        y[i, :, h, w] = standard(x[i, :, h, w], 1e-5)
    return y


def adaptive_instance_norm(x, style):
    """Huang and Belongie 2017, equation 8: of (N, C, ...)."""
    y = np.empty_like(x, np.result_type(x, style))
    for i, c in itertools.product(*map(range, x.shape[:2])):
        s = style[i, c]
        std = np.sqrt(((s - s.mean()) ** 2).mean() + 1e-5)
        y[i, c] = std * standard(x[i, c], 1e-5) + s.mean()
    return y


def batch_standard(x, training, running_mean=None, running_var=None):
    """BatchNorm without parameters, of (N, C, ...)."""
    y = np.empty_like(x)
    for c in range(x.shape[1]):
        if training:
            y[:, c] = standard(x[:, c], 1e-5)
        else:
            y[:, c] = (x[:, c] - running_mean[c]) / np.sqrt(running_var[c] + 1e-5)
    return y


def instance_standard(x):
    y = np.empty_like(x)
    for i, c in itertools.product(*map(range, x.shape[:2])):
        y[i, c] = standard(x[i, c], 1e-5)
    return y


def conditional_batch_norm(training):
    def oracle(x, labels, weight, bias, num_batches_tracked=None, **running):
        xhat = batch_standard(x, training, **running)
        y = np.empty_like(x, np.result_type(x, weight, bias))
        for i, c in itertools.product(*map(range, x.shape[:2])):
            y[i, c] = xhat[i, c] * weight[labels[i], c] + bias[labels[i], c]
        return y

    return oracle


def conditional_instance_norm(x, labels, weight, bias):
    xhat = instance_standard(x)
    y = np.empty_like(x, np.result_type(x, weight, bias))
    for i, c in itertools.product(*map(range, x.shape[:2])):
        y[i, c] = xhat[i, c] * weight[labels[i], c] + bias[labels[i], c]
    return y


def spade(training):
    def oracle(x, gamma, beta, num_batches_tracked=None, **running):
        return batch_standard(x, training, **running) * (1 + gamma) + beta

    return oracle


def spade_instance(x, gamma, beta):
    return instance_standard(x) * (1 + gamma) + beta


def film_of_channels(x, gamma, beta):
    """Perez et al. 2017, equation 2: of (N, C, ...)."""
    y = np.empty_like(x, np.result_type(x, gamma, beta))
    for i, c in itertools.product(*map(range, x.shape[:2])):
        y[i, c] = gamma[i, c] * x[i, c] + beta[i, c]
    return y


def film(x, gamma, beta):
    """The same of arrays that broadcast."""
    return gamma * x + beta


def adaptive_layer_norm(x, scale, shift):
    """Of (N, T, C), by samples or tokens."""
    y = np.empty_like(x, np.result_type(x, scale, shift))
    for i, t in rows(x):
        a, b = (v[i] if v.ndim == 2 else np.broadcast_to(v, x.shape)[i, t] for v in (scale, shift))
        y[i, t] = standard(x[i, t], 1e-6) * (1 + a) + b
    return y


def ada_ln_zero(x, c, weight, bias):
    """DiT's modulation, shift before scale before gate; c is (N, D) or (N, T, D)."""
    size = x.shape[-1]
    silu = c / (1 + np.exp(-c))
    made = np.stack([(silu * w).sum(axis=-1) for w in weight], axis=-1) + bias
    return adaptive_layer_norm(x, made[..., size : 2 * size], made[..., :size])


def channels_last(oracle, *names):
    """The same of (N, ..., C), with these inputs of x's rank."""

    def moved(x, **others):
        others |= {name: np.moveaxis(others[name], -1, 1) for name in names}
        return np.moveaxis(oracle(np.moveaxis(x, -1, 1), **others), 1, -1)

    return moved


def evaluated(norm, rng):
    """Parameters and running statistics at random, in evaluation."""
    for p in norm.params.values():
        p[...] = rng.standard_normal(p.shape)
    norm.running_mean[...] = rng.standard_normal(norm.running_mean.shape)
    norm.running_var[...] = rng.uniform(0.5, 2, norm.running_var.shape)
    norm.eval()


LABELS = np.array([2, 0, 2, 1])


def by_median(eps, axes=(-1,)):
    def oracle(x):
        """Huber 1981, section 5.1: by sorting, in the order of real parts."""
        moved = np.moveaxis(x, axes, range(-len(axes), 0))
        v = moved.reshape(*moved.shape[: moved.ndim - len(axes)], -1)
        low, high = (v.shape[-1] - 1) // 2, v.shape[-1] // 2

        def middle(a):
            a = np.sort_complex(a) if np.iscomplexobj(a) else np.sort(a)
            return (a[..., low : low + 1] + a[..., high : high + 1]) / 2

        d = v - middle(v)
        spread = 1.482602218505602 * middle(magnitude(d))
        return np.moveaxis((d / np.sqrt(spread**2 + eps)).reshape(moved.shape), range(-len(axes), 0), axes)

    return oracle


def trimmed(share, eps=1e-5):
    def oracle(x):
        """Of the last axis, a set at a time."""
        y = np.empty_like(x)
        for at in rows(x):
            v = x[at]
            cut = int(share * len(v))
            kept = np.sort(v)[cut : len(v) - cut]
            center = kept.sum() / len(kept)
            y[at] = (v - center) / np.sqrt(((kept - center) ** 2).sum() / len(kept) + eps)
        return y

    return oracle


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
    ZooCase("unit_norm-order-1", lambda dtype: nz.UnitNorm(order=1), (3, 5, 17), sum_norm),
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
    ZooCase("positional_norm", lambda dtype: nz.PositionalNorm(), (2, 17, 3, 5), positional_norm, flat=True),
    ZooCase(
        "positional_norm-channels-last",
        lambda dtype: nz.PositionalNorm(channel_axis=-1),
        (2, 3, 5, 7),
        channels_last(positional_norm),
        flat=True,
    ),
    ZooCase(
        "adaptive_instance_norm",
        lambda dtype: nz.AdaptiveInstanceNorm(),
        (2, 3, 5, 7),
        adaptive_instance_norm,
        inputs={"style": (2, 3, 4, 4)},
        flat=True,
    ),
    ZooCase(
        "adaptive_instance_norm-channels-last",
        lambda dtype: nz.AdaptiveInstanceNorm(channel_axis=-1),
        (2, 33, 5),
        channels_last(adaptive_instance_norm, "style"),
        inputs={"style": (2, 17, 5)},
        flat=True,
    ),
    ZooCase(
        "conditional_batch_norm",
        lambda dtype: nz.ConditionalBatchNorm(3, 4, dtype=dtype),
        (4, 3, 5, 5),
        conditional_batch_norm(True),
        fixed={"labels": LABELS},
        flat=True,
    ),
    ZooCase(
        "conditional_batch_norm-2d",
        lambda dtype: nz.ConditionalBatchNorm(17, 4, track_running_stats=False, dtype=dtype),
        (4, 17),
        conditional_batch_norm(True),
        fixed={"labels": LABELS},
        flat=True,
    ),
    ZooCase(
        "conditional_batch_norm-channels-last",
        lambda dtype: nz.ConditionalBatchNorm(3, 4, channel_axis=-1, dtype=dtype),
        (4, 17, 3),
        channels_last(conditional_batch_norm(True)),
        fixed={"labels": LABELS},
        flat=True,
    ),
    ZooCase(
        "conditional_batch_norm-eval",
        lambda dtype: nz.ConditionalBatchNorm(3, 4, dtype=dtype).eval(),
        (4, 3, 5, 5),
        conditional_batch_norm(False),
        fixed={"labels": LABELS},
        prepare=evaluated,
    ),
    ZooCase(
        "conditional_instance_norm",
        lambda dtype: nz.ConditionalInstanceNorm(3, 4, dtype=dtype),
        (4, 3, 5, 5),
        conditional_instance_norm,
        fixed={"labels": LABELS},
        flat=True,
    ),
    ZooCase(
        "conditional_instance_norm-channels-last",
        lambda dtype: nz.ConditionalInstanceNorm(3, 4, channel_axis=-1, dtype=dtype),
        (4, 17, 3),
        channels_last(conditional_instance_norm),
        fixed={"labels": LABELS},
        flat=True,
    ),
    ZooCase(
        "film",
        lambda dtype: nz.FiLM(),
        (2, 3, 5, 7),
        film_of_channels,
        inputs={"gamma": (2, 3), "beta": (2, 3)},
    ),
    ZooCase(
        "film-channels-last",
        lambda dtype: nz.FiLM(channel_axis=-1),
        (2, 17, 3),
        channels_last(film_of_channels),
        inputs={"gamma": (2, 3), "beta": (2, 3)},
    ),
    ZooCase(
        "film-gate",
        lambda dtype: nz.FiLM(channel_axis=-1),
        (2, 5, 7),
        lambda x, gamma, beta: gamma[:, None] * x + beta,
        inputs={"gamma": (2, 7), "beta": (2, 5, 7)},
    ),
    ZooCase(
        "film-positions",
        lambda dtype: nz.FiLM(),
        (2, 3, 5, 7),
        film,
        inputs={"gamma": (2, 1, 5, 7), "beta": (2, 1, 5, 7)},
    ),
    ZooCase(
        "film-scattered",
        lambda dtype: nz.FiLM(),
        (2, 3, 5, 7),
        film,
        inputs={"gamma": (1, 3, 1, 7), "beta": (1, 3, 1, 7)},
    ),
    ZooCase("film-whole", lambda dtype: nz.FiLM(), (3, 5, 7), film, inputs={"gamma": (3, 5, 7), "beta": (3, 5, 7)}),
    ZooCase(
        "adaptive_layer_norm",
        lambda dtype: nz.AdaptiveLayerNorm(17),
        (2, 5, 17),
        adaptive_layer_norm,
        inputs={"scale": (2, 17), "shift": (2, 17)},
        flat=True,
    ),
    ZooCase(
        "adaptive_layer_norm-tokens",
        lambda dtype: nz.AdaptiveLayerNorm(17),
        (2, 5, 17),
        adaptive_layer_norm,
        inputs={"scale": (2, 5, 17), "shift": (2, 5, 17)},
        flat=True,
    ),
    ZooCase(
        "adaptive_layer_norm-positions",
        lambda dtype: nz.AdaptiveLayerNorm(17),
        (2, 5, 17),
        adaptive_layer_norm,
        inputs={"scale": (1, 5, 17), "shift": (1, 5, 17)},
        flat=True,
    ),
    ZooCase(
        "ada_ln_zero",
        lambda dtype: nz.AdaLNZero(7, 5, dtype=dtype),
        (2, 4, 7),
        ada_ln_zero,
        inputs={"c": (2, 5)},
        flat=True,
    ),
    ZooCase(
        "ada_ln_zero-tokens",
        lambda dtype: nz.AdaLNZero(7, 5, dtype=dtype),
        (2, 4, 7),
        ada_ln_zero,
        inputs={"c": (2, 4, 5)},
        flat=True,
    ),
    ZooCase(
        "spade",
        lambda dtype: nz.SPADE(3),
        (4, 3, 5, 5),
        spade(True),
        inputs={"gamma": (4, 3, 5, 5), "beta": (4, 3, 5, 5)},
        flat=True,
    ),
    ZooCase(
        "spade-channels-last",
        lambda dtype: nz.SPADE(3, channel_axis=-1),
        (4, 17, 3),
        channels_last(spade(True), "gamma", "beta"),
        inputs={"gamma": (4, 17, 3), "beta": (4, 17, 3)},
        flat=True,
    ),
    ZooCase(
        "spade-eval",
        lambda dtype: nz.SPADE(3, dtype=dtype).eval(),
        (4, 3, 5, 5),
        spade(False),
        inputs={"gamma": (4, 3, 5, 5), "beta": (4, 3, 5, 5)},
        prepare=evaluated,
    ),
    ZooCase(
        "spade-instance",
        lambda dtype: nz.SPADE(3, "instance"),
        (4, 3, 5, 5),
        spade_instance,
        inputs={"gamma": (4, 3, 5, 5), "beta": (4, 3, 5, 5)},
        flat=True,
    ),
    ZooCase("robust_norm", lambda dtype: nz.RobustNorm(), (3, 5, 17), by_median(1e-5)),
    ZooCase("robust_norm-even", lambda dtype: nz.RobustNorm((0, 2), 1e-2), (3, 5, 4), by_median(1e-2, (0, 2))),
    ZooCase(
        "robust_norm-trimmed",
        lambda dtype: nz.RobustNorm(statistic="trimmed", share=0.2),
        (3, 5, 17),
        trimmed(0.2),
        flat=True,
    ),
]
