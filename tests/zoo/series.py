"""Norms along time, from their papers."""

import numpy as np

import normzoo as nz
from tests.zoo.case import ZooCase, clip


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


def sliding(before, after, eps=1e-5):
    def oracle(x, weight=1.0, bias=0.0):
        """The moments of every window, one by one; (N, ..., T) with channels on axis 1."""
        shape = (-1, *[1] * (x.ndim - 3))
        weight, bias = (np.reshape(p, shape) if np.ndim(p) else p for p in (weight, bias))
        y = np.empty_like(x, np.result_type(x, weight, bias))
        for t in range(x.shape[-1]):
            near = x[..., max(0, t - before) : t + after + 1]
            mean = near.sum(axis=-1) / near.shape[-1]
            var = ((near - mean[..., None]) ** 2).sum(axis=-1) / near.shape[-1]
            y[..., t] = (x[..., t] - mean) / np.sqrt(var + eps) * weight + bias
        return y

    return oracle


def by_slices(length, eps=1e-5):
    def oracle(x):
        """Liu et al. 2023, equations 1 and 2; x is (N, T, C)."""
        y = np.empty_like(x)
        for start in range(0, x.shape[1], length):
            v = x[:, start : start + length]
            d = v - v.sum(axis=1, keepdims=True) / length
            y[:, start : start + length] = d / (np.sqrt((d * d).sum(axis=1, keepdims=True) / length) + eps)
        return y

    return oracle


def dish(x, weight, bias, lookback_weight, horizon_weight):
    """Fan et al. 2023, equations 2 to 5; x is (N, T, C)."""
    d = x - np.einsum("ntc,ct->nc", x, lookback_weight)[:, None]
    return (
        d / np.sqrt((d * d).sum(axis=1, keepdims=True) / (x.shape[1] - 1) + 1e-8) * weight
        + bias
        + 0 * horizon_weight.sum()
    )


def main_part(top_k):
    def oracle(x):
        """Ye et al. 2024, equations 1 and 2, by cosines and sines; x is (N, T, C)."""
        steps, y = x.shape[1], np.array(x)
        angle = 2 * np.pi * np.outer(np.arange(steps // 2 + 1), np.arange(steps)) / steps
        for i, c in np.ndindex(len(x), x.shape[2]):
            even, odd = np.cos(angle) @ x[i, :, c], np.sin(angle) @ x[i, :, c]
            strongest = np.argsort(-np.hypot(np.real(even), np.real(odd)))[:top_k]
            for k in strongest:
                twice = 1 if k == 0 or 2 * k == steps else 2
                y[i, :, c] -= twice / steps * (even[k] * np.cos(angle[k]) + odd[k] * np.sin(angle[k]))
        return y

    return oracle


def moments_with(x, prior, count, mean, m2, unit):
    """Of all that was seen, of x (..., C), and of `prior` values of mean 0 and variance 1: by sums."""
    v = x.reshape(-1, x.shape[-1])
    total, squares = count * mean + v.sum(axis=0), m2 + count * mean**2 + (v**2).sum(axis=0) + prior
    n = count + len(v) + prior
    return total / n, squares / n - (total / n) ** 2


def observed(most, eps=1e-8):
    def oracle(x, count, mean, m2, unit, center, var):
        return clip((x - center) / np.sqrt(var + eps), -most, most)

    return oracle


def counted(prior):
    def held(x, **seen):
        center, var = moments_with(x, prior, **seen)
        return {"center": center, "var": var}

    return held


def of_batches(norm, rng):
    norm.adapt(rng.standard_normal((30, norm.num_features)) * 2 + 3)


def of_targets(norm, rng):
    for _ in range(3):
        norm.update(rng.standard_normal((7, norm.num_features)) * 2 + 3)


def rescaled(axis):
    def oracle(x, mean, var, batches):
        shape = [-1 if i == axis % x.ndim else 1 for i in range(x.ndim)]
        return (x - mean.reshape(shape)) / np.sqrt(var).reshape(shape)

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
    ZooCase("sliding_norm", lambda dtype: nz.SlidingNorm(3, 7, dtype=dtype), (2, 3, 29), sliding(6, 0), flat=True),
    ZooCase(
        "sliding_norm-centered",
        lambda dtype: nz.SlidingNorm(3, 6, 1e-3, affine=False, centered=True),
        (2, 3, 4, 17),
        sliding(3, 2, 1e-3),
        flat=True,
    ),
    ZooCase(
        "sliding_norm-last",
        lambda dtype: nz.SlidingNorm(5, 40, channel_axis=-1, dtype=dtype),
        (2, 19, 3, 5),
        time_first(sliding(39, 0)),
        flat=True,
    ),
    ZooCase("san", lambda dtype: nz.SAN(3, 5), (2, 15, 3), by_slices(5), flat=True),
    ZooCase(
        "san-first",
        lambda dtype: nz.SAN(3, 4, 0.1, channel_axis=1),
        (2, 3, 8),
        lambda x: np.swapaxes(by_slices(4, 0.1)(np.swapaxes(x, 1, 2)), 1, 2),
        flat=True,
    ),
    ZooCase("dish_ts", lambda dtype: nz.DishTS(3, 9, dtype=dtype), (2, 9, 3), dish),
    ZooCase("fan", lambda dtype: nz.FAN(3, 4), (2, 15, 3), main_part(4)),
    ZooCase(
        "fan-even-first",
        lambda dtype: nz.FAN(3, 5, channel_axis=1),
        (2, 3, 16),
        lambda x: np.swapaxes(main_part(5)(np.swapaxes(x, 1, 2)), 1, 2),
    ),
    ZooCase(
        "observation_norm",
        lambda dtype: nz.ObservationNorm(5, clip=1.2),
        (4, 3, 5),
        observed(1.2),
        prepare=of_batches,
        frozen=counted(1e-4),
    ),
    ZooCase(
        "observation_norm-alone",
        lambda dtype: nz.ObservationNorm(3, 1e-2, None, prior=0.0),
        (17, 3),
        observed(np.inf, 1e-2),
        prepare=of_batches,
        frozen=counted(0.0),
        flat=True,
    ),
    ZooCase("pop_art", lambda dtype: nz.PopArt(5, 0.3), (6, 5), rescaled(-1), prepare=of_targets),
]
