"""Norms along time, from their papers."""

import numpy as np

import normzoo as nz
from tests.zoo.case import ZooCase


def exponential_norm(alpha, eps=1e-5, center=True):
    def oracle(x, weight=1.0, bias=0.0):
        """Weighted moments of all values so far, whose weights are written out; (N, ..., T) with channels on axis 1."""
        shape = (-1, *[1] * (x.ndim - 3))
        weight, bias = (np.reshape(p, shape) if np.ndim(p) else p for p in (weight, bias))
        y, weights = np.empty_like(x, np.result_type(x, weight, bias)), np.zeros(0)
        for t in range(x.shape[-1]):
            a = max(alpha, 1 / (t + 1))
            weights = np.append((1 - a) * weights, a)
            so_far = x[..., : t + 1]
            mean = (so_far * weights).sum(axis=-1) if center else 0.0
            var = (((so_far.T - np.transpose(mean)).T ** 2) * weights).sum(axis=-1)
            y[..., t] = (x[..., t] - mean) / np.sqrt(var + eps) * weight + bias
        return y

    return oracle


def pcen(rate, eps=1e-6):
    def oracle(x, gain, bias, power):
        """Wang et al. 2016, equations 1 and 2."""
        y, level = np.empty_like(x, np.result_type(x, gain, bias, power)), 1.0
        for t in range(x.shape[-1]):
            level = (1 - rate) * level + rate * x[..., t]
            y[..., t] = (x[..., t] / (eps + level) ** gain + bias) ** power - bias**power
        return y

    return oracle


def time_first(oracle):
    """The same of (N, T, ..., C)."""

    def turned(x, **params):
        moved = np.moveaxis(np.moveaxis(x, -1, 1), 2, -1)
        return np.moveaxis(np.moveaxis(oracle(moved, **params), -1, 2), 1, -1)

    return turned


def of_bands(norm, rng):
    for name, (low, high) in {"gain": (0.5, 1), "bias": (0.5, 2), "power": (0.3, 0.9)}.items():
        norm.params[name][...] = rng.uniform(low, high, norm.params[name].shape)


CASES = [
    ZooCase(
        "exponential_norm",
        lambda dtype: nz.ExponentialNorm(3, 0.1, dtype=dtype),
        (2, 3, 37),
        exponential_norm(0.1),
        flat=True,
    ),
    ZooCase(
        "exponential_norm-positions",
        lambda dtype: nz.ExponentialNorm(3, 0.3, affine=False),
        (2, 3, 5, 17),
        exponential_norm(0.3),
        flat=True,
    ),
    ZooCase(
        "exponential_norm-last",
        lambda dtype: nz.ExponentialNorm(18, 0.2, channel_axis=-1, dtype=dtype),
        (2, 19, 18),
        time_first(exponential_norm(0.2)),
        flat=True,
    ),
    ZooCase(
        "exponential_norm-all-alike",
        lambda dtype: nz.ExponentialNorm(5, 0.0, 1e-3, center=False, dtype=dtype),
        (3, 5, 9),
        exponential_norm(0.0, 1e-3, False),
    ),
    ZooCase(
        "cumulative_rms_norm",
        lambda dtype: nz.CumulativeRMSNorm(4, 1e-6, dtype=dtype),
        (3, 4, 17),
        exponential_norm(0.0, 1e-6, False),
    ),
    ZooCase(
        "cumulative_rms_norm-last",
        lambda dtype: nz.CumulativeRMSNorm(4, 1e-6, channel_axis=-1, dtype=dtype),
        (2, 7, 3, 4),
        time_first(exponential_norm(0.0, 1e-6, False)),
    ),
    ZooCase(
        "pcen",
        lambda dtype: nz.PCEN(5, rate=0.1, dtype=dtype),
        (2, 5, 33),
        pcen(0.1),
        prepare=of_bands,
        positive=True,
    ),
    ZooCase(
        "pcen-last",
        lambda dtype: nz.PCEN(17, rate=0.3, channel_axis=-1, dtype=dtype),
        (2, 11, 17),
        time_first(pcen(0.3)),
        prepare=of_bands,
        positive=True,
    ),
]
