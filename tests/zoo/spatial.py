"""Spatial and local norms, norms without statistics, and standardization of a data set, from their papers."""

import itertools
import math

import numpy as np
from scipy import special

import normzoo as nz
from tests.zoo.case import ZooCase, magnitude


def across(p, x, axis):
    """A parameter of the channels, so that it meets x's axis."""
    return p.reshape([-1 if i == axis % x.ndim else 1 for i in range(x.ndim)])


def channels_first(oracle):
    """The oracle for arrays with the channels last."""

    def last(x, **rest):
        return np.moveaxis(oracle(np.moveaxis(x, -1, 1), **rest), 1, -1)

    return last


def mean(v, axes):
    return v.sum(axis=axes, keepdims=True) / math.prod(v.shape[a] for a in axes)


def variance(v, axes):
    centered = v - mean(v, axes)
    centered = centered - mean(centered, axes)
    return mean(centered * centered, axes)


def lrn(before, after, size, alpha, beta, k):
    """Krizhevsky et al. 2012, section 3.3, with alpha over the size."""

    def oracle(x):
        y = np.zeros_like(x)
        for c in range(x.shape[1]):
            window = x[:, max(0, c - before) : c + after + 1]
            y[:, c] = x[:, c] / (k + alpha / size * (window**2).sum(axis=1)) ** beta
        return y

    return oracle


def neighbours(at, sizes, before, after):
    """Positions of the window around `at` that lie inside, with their offsets."""
    ranges = [range(-b, a + 1) for b, a in zip(before, after, strict=True)]
    for offset in itertools.product(*ranges):
        there = tuple(p + o for p, o in zip(at, offset, strict=True))
        if all(0 <= t < n for t, n in zip(there, sizes, strict=True)):
            yield there, offset


def local_mean(v, before, after, weigh):
    """The weighted mean over all channels of v (N, C, ...) and the window around every position: (N, 1, ...)."""
    sizes = v.shape[2:]
    found = np.zeros((len(v), 1, *sizes), v.dtype)
    for at in itertools.product(*map(range, sizes)):
        total, weights = 0, 0
        for there, offset in neighbours(at, sizes, before, after):
            w = weigh(offset)
            total = total + w * v[(slice(None), slice(None), *there)].sum(axis=1)
            weights += w * v.shape[1]
        found[(slice(None), 0, *at)] = total / weights
    return found


def local_contrast(size, sigma):
    """Jarrett et al. 2009, section 2.3."""

    def oracle(x):
        half = [size // 2] * (x.ndim - 2)

        def weigh(offset):
            return math.exp(-sum(o * o for o in offset) / (2 * sigma**2))

        v = x - local_mean(x, half, half, weigh)
        deviation = np.sqrt(local_mean(v * v, half, half, weigh))
        c = mean(deviation, tuple(range(2, x.ndim)))
        return v / np.where(np.real(deviation) > np.real(c), deviation, c)

    return oracle


def divisive(a, b, eps):
    """Ren et al. 2017, table 1 and equation 4: means over the sets A and B; an even window reaches further behind."""

    def oracle(x, weight=None, bias=None):
        sides = [([(n - 1) // 2 for n in w], [n // 2 for n in w]) for w in (a, b)]
        v = x - local_mean(x, *sides[0], lambda offset: 1)
        y = v / np.sqrt(eps + local_mean(v * v, *sides[1], lambda offset: 1))
        if weight is not None:
            y = y * across(weight, x, 1)
        return y if bias is None else y + across(bias, x, 1)

    return oracle


def filter_response(eps):
    """Singh and Krishnan 2020, appendix: the layer and its threshold."""

    def oracle(x, weight, bias, tau=None, eps_l=0.0):
        square = mean(x * x, tuple(range(2, x.ndim)))
        y = across(weight, x, 1) * x / np.sqrt(square + (eps + magnitude(eps_l))) + across(bias, x, 1)
        if tau is None:
            return y
        tau = across(tau, x, 1)
        return np.where(np.real(y) > np.real(tau), y, tau)

    return oracle


def evo_b0(training, eps=1e-5):
    """Liu et al. 2020, table 2."""

    def oracle(x, weight, bias, v, running_var, num_batches_tracked):
        positions = tuple(range(2, x.ndim))
        var = variance(x, (0, *positions)) if training else across(running_var, x, 1)
        left, right = np.sqrt(var + eps), across(v, x, 1) * x + np.sqrt(variance(x, positions) + eps)
        y = x / np.where(np.real(left) > np.real(right), left, right)
        return y * across(weight, x, 1) + across(bias, x, 1)

    return oracle


def evo_s0(groups, eps=1e-5):
    """Liu et al. 2020, table 2."""

    def oracle(x, weight, bias, v):
        y = np.zeros(x.shape, np.result_type(x, v))
        size = x.shape[1] // groups
        for g in range(groups):
            one = x[:, g * size : (g + 1) * size]
            gate = 1 / (1 + np.exp(-one * across(v[g * size : (g + 1) * size], x, 1)))
            y[:, g * size : (g + 1) * size] = one * gate / np.sqrt(variance(one, tuple(range(1, x.ndim))) + eps)
        return y * across(weight, x, 1) + across(bias, x, 1)

    return oracle


def global_response(x, weight, bias):
    """Woo et al. 2023, algorithm 1."""
    g = np.sqrt((x * x).sum(axis=tuple(range(2, x.ndim)), keepdims=True))
    n = g / (mean(g, (1,)) + 1e-6)
    return across(weight, x, 1) * (x * n) + across(bias, x, 1) + x


def mean_variance(axes, eps=0.0):
    def oracle(x):
        found = tuple(a % x.ndim for a in axes)
        return (x - mean(x, found)) / np.sqrt(variance(x, found) + eps)

    return oracle


def pixel(x):
    """Karras et al. 2018, section 4.2."""
    return x / np.sqrt(mean(x * x, (1,)) + 1e-8)


def revin(last=False, eps=1e-5):
    """Kim et al. 2022, equations 1 and 2; x is (N, T, C)."""

    def oracle(x, weight=1.0, bias=0.0, center=None, std=None):
        std = np.sqrt(variance(x, (1,)) + eps) if std is None else std
        center = (x[:, -1:] if last else mean(x, (1,))) if center is None else center
        return (x - center) / std * weight + bias

    return oracle


def constants(x, **rest):
    return {"center": mean(x, (1,)), "std": np.sqrt(variance(x, (1,)) + 1e-5)}


def cumulative(x, weight=None, bias=None):
    """Luo and Mesgarani 2019, equations 13 to 15; x is (N, C, ..., T)."""
    y = np.zeros_like(x)
    axes = tuple(range(1, x.ndim))
    for t in range(x.shape[-1]):
        seen = x[..., : t + 1]
        y[..., t] = ((x[..., t : t + 1] - mean(seen, axes)) / np.sqrt(variance(seen, axes) + 1e-8))[..., 0]
    if weight is not None:
        y = y * across(weight, x, 1)
    return y if bias is None else y + across(bias, x, 1)


def time_first(oracle):
    """The oracle for (N, T, ..., C)."""

    def last(x, **rest):
        swapped = np.swapaxes(x, 1, -1)
        return np.swapaxes(oracle(swapped, **rest), 1, -1)

    return last


def derf(x, alpha, shift, weight, bias):
    """Chen et al. 2025, section 5: through the Faddeeva function, erf(z) = 1 - exp(-z^2) w(iz)."""
    z = alpha * x + shift
    squashed = 1 - np.exp(-z * z) * special.wofz(1j * z)
    return weight * (squashed if np.iscomplexobj(z) else squashed.real) + bias


def layer_scale(axis):
    return lambda x, weight: x * across(weight, x, axis)


def rezero(x, branch, alpha):
    """Bachlechner et al. 2020, equation 1."""
    return x + alpha * branch


def standardize(axis=-1, correction=0, with_mean=True, with_std=True):
    def oracle(x, count, mean, m2, unit):  # of 1
        y = x - across(mean, x, axis) if with_mean else x
        return y / np.sqrt(across(m2 / (count - correction), x, axis)) if with_std else y

    return oracle


def adapted(norm, rng):
    """To 30 values of every feature."""
    shape = (30, norm.num_features) if norm.channel_axis == -1 else (3, norm.num_features, 10)
    norm.adapt(rng.standard_normal(shape) * 2 + 3)


def seen(norm, rng):
    for p in norm.params.values():
        p[...] = rng.standard_normal(p.shape)
    norm.buffers["running_var"][...] = rng.random(norm.num_features) + 0.5


CASES = [
    ZooCase(
        "local_response_norm",
        lambda d: nz.LocalResponseNorm(3, 0.5, 0.7, 2.0),
        (2, 7, 3, 5),
        lrn(1, 1, 3, 0.5, 0.7, 2.0),
    ),
    ZooCase(
        "local_response_norm-even", lambda d: nz.LocalResponseNorm(4, 0.5), (2, 5, 3), lrn(2, 1, 4, 0.5, 0.75, 1.0)
    ),
    ZooCase(
        "local_response_norm-onnx",
        lambda d: nz.LocalResponseNorm(4, 0.5, even="after"),
        (2, 7, 3),
        lrn(1, 2, 4, 0.5, 0.75, 1.0),
    ),
    ZooCase(
        "local_response_norm-last",
        lambda d: nz.LocalResponseNorm(9, 0.5, channel_axis=-1),
        (2, 3, 4),
        channels_first(lrn(4, 4, 9, 0.5, 0.75, 1.0)),
    ),
    ZooCase(
        "local_contrast_norm", lambda d: nz.LocalContrastNorm(5, 1.5), (2, 3, 7, 6), local_contrast(5, 1.5), flat=True
    ),
    ZooCase(
        "local_contrast_norm-wide", lambda d: nz.LocalContrastNorm(), (2, 1, 17), local_contrast(9, 2.0), flat=True
    ),
    ZooCase(
        "local_contrast_norm-last",
        lambda d: nz.LocalContrastNorm(3, 1.0, channel_axis=-1),
        (2, 3, 4, 3, 2),
        channels_first(local_contrast(3, 1.0)),
        flat=True,
    ),
    ZooCase(
        "divisive_norm",
        lambda d: nz.DivisiveNorm(3, 3, 5, dtype=d),
        (2, 3, 7, 6),
        divisive((3, 3), (5, 5), 1.0),
        flat=True,
    ),
    ZooCase(
        "divisive_norm-even",
        lambda d: nz.DivisiveNorm(2, (2, 3), (4, 1), 0.1, affine=False),
        (2, 2, 5, 6),
        divisive((2, 3), (4, 1), 0.1),
        flat=True,
    ),
    ZooCase(
        "divisive_norm-last",
        lambda d: nz.DivisiveNorm(3, 4, 99, bias=False, channel_axis=-1, dtype=d),
        (2, 17, 3),
        channels_first(divisive((4,), (99,), 1.0)),
        flat=True,
    ),
    ZooCase("filter_response_norm", lambda d: nz.FilterResponseNorm(3, dtype=d), (2, 3, 5, 7), filter_response(1e-6)),
    ZooCase(
        "filter_response_norm-learned",
        lambda d: nz.FilterResponseNorm(5, 1e-2, True, dtype=d),
        (3, 5, 17),
        filter_response(1e-2),
    ),
    ZooCase(
        "filter_response_norm-last",
        lambda d: nz.FilterResponseNorm(3, learn_eps=True, tlu=False, channel_axis=-1, dtype=d),
        (2, 5, 7, 3),
        channels_first(filter_response(1e-6)),
    ),
    ZooCase(
        "filter_response_norm-one",
        lambda d: nz.FilterResponseNorm(17, learn_eps=True, dtype=d),
        (3, 17),
        filter_response(1e-6),
    ),
    ZooCase("evo_norm_b0", lambda d: nz.EvoNormB0(3, dtype=d), (4, 3, 5, 3), evo_b0(True)),
    ZooCase("evo_norm_b0-eval", lambda d: nz.EvoNormB0(3, dtype=d).eval(), (4, 3, 5), evo_b0(False), prepare=seen),
    ZooCase(
        "evo_norm_b0-last",
        lambda d: nz.EvoNormB0(5, momentum=None, channel_axis=-1, dtype=d),
        (3, 4, 2, 5),
        channels_first(evo_b0(True)),
    ),
    ZooCase("evo_norm_s0", lambda d: nz.EvoNormS0(6, 3, dtype=d), (2, 6, 5, 3), evo_s0(3)),
    ZooCase(
        "evo_norm_s0-last",
        lambda d: nz.EvoNormS0(4, 1, channel_axis=-1, dtype=d),
        (3, 17, 4),
        channels_first(evo_s0(1)),
    ),
    ZooCase("global_response_norm", lambda d: nz.GlobalResponseNorm(3, dtype=d), (2, 3, 5, 4), global_response),
    ZooCase(
        "global_response_norm-last",
        lambda d: nz.GlobalResponseNorm(5, channel_axis=-1, dtype=d),
        (2, 17, 5),
        channels_first(global_response),
    ),
    ZooCase("mean_variance_norm", lambda d: nz.MeanVarianceNorm(), (3, 5, 4, 7), mean_variance((0, 2, 3)), flat=True),
    ZooCase(
        "mean_variance_norm-scattered",
        lambda d: nz.MeanVarianceNorm((0, -2), 0.1),
        (3, 5, 4, 7),
        mean_variance((0, -2), 0.1),
        flat=True,
    ),
    ZooCase("pixel_norm", lambda d: nz.PixelNorm(), (2, 17, 3, 5), pixel),
    ZooCase("pixel_norm-last", lambda d: nz.PixelNorm(channel_axis=-1), (2, 3, 17), channels_first(pixel)),
    ZooCase("revin", lambda d: nz.RevIN(3, dtype=d), (2, 17, 3), revin(), flat=True),
    ZooCase("revin-last_value", lambda d: nz.RevIN(3, 1e-5, True, True, dtype=d), (2, 9, 3), revin(True), flat=True),
    ZooCase(
        "revin-detached", lambda d: nz.RevIN(3, detach=True, dtype=d), (2, 9, 3), revin(), flat=True, frozen=constants
    ),
    ZooCase(
        "revin-first",
        lambda d: nz.RevIN(3, affine=False, channel_axis=1),
        (2, 3, 9),
        lambda x: np.swapaxes(revin()(np.swapaxes(x, 1, 2)), 1, 2),
        flat=True,
    ),
    ZooCase("cumulative_layer_norm", lambda d: nz.CumulativeLayerNorm(3, dtype=d), (2, 3, 17), cumulative, flat=True),
    ZooCase(
        "cumulative_layer_norm-positions",
        lambda d: nz.CumulativeLayerNorm(2, bias=False, dtype=d),
        (2, 2, 3, 9),
        cumulative,
        flat=True,
    ),
    ZooCase(
        "cumulative_layer_norm-last",
        lambda d: nz.CumulativeLayerNorm(4, channel_axis=-1, dtype=d),
        (2, 9, 3, 4),
        time_first(cumulative),
        flat=True,
    ),
    ZooCase("derf", lambda d: nz.Derf(7, dtype=d), (3, 5, 7), derf),
    ZooCase("derf-shape", lambda d: nz.Derf((5, 3), 1.0, 0.25, dtype=d), (4, 5, 3), derf),
    ZooCase("layer_scale", lambda d: nz.LayerScale(7, dtype=d), (3, 5, 7), layer_scale(-1)),
    ZooCase(
        "layer_scale-first", lambda d: nz.LayerScale(5, 0.1, channel_axis=1, dtype=d), (3, 5, 7, 2), layer_scale(1)
    ),
    ZooCase("rezero", lambda d: nz.ReZero(dtype=d), (3, 5, 7), rezero, inputs={"branch": (3, 5, 7)}),
    ZooCase("standardize", lambda d: nz.Standardize(7), (3, 5, 7), standardize(), prepare=adapted),
    ZooCase(
        "standardize-first",
        lambda d: nz.Standardize(5, correction=1, channel_axis=1),
        (3, 5, 7, 2),
        standardize(1, 1),
        prepare=adapted,
    ),
    ZooCase(
        "standardize-mean",
        lambda d: nz.Standardize(5, with_std=False),
        (9, 3, 5),
        standardize(with_std=False),
        prepare=adapted,
    ),
]
