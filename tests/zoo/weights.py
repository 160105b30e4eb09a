"""Functions of a weight array, and whitening, from their papers."""

import numpy as np
import scipy.linalg

import normzoo as nz
from tests.zoo.case import ZooCase, magnitude


def rows_of(x, dim):
    """x as a matrix with a row for every index along dim, and the function that puts such a matrix back."""
    moved = np.moveaxis(x, dim, 0)
    return moved.reshape(len(moved), -1), lambda m: np.moveaxis(m.reshape(moved.shape), 0, dim)


def weight_norm(dim):
    def oracle(x, weight):
        """Salimans and Kingma 2016, equation 2: w = g v / ||v||."""
        if dim is None:
            return weight * x / np.sqrt((x * x).sum())
        rows, back = rows_of(x, dim)
        return back(np.stack([g * v / np.sqrt((v * v).sum()) for g, v in zip(weight.ravel(), rows, strict=True)]))

    return oracle


def power_iteration(dim, times):
    def frozen(x, u, v):
        """Miyato et al. 2018, algorithm 1; the vectors are constants of the gradient."""
        w, _ = rows_of(x, dim)
        for _ in range(times):
            u = w @ v / np.linalg.norm(w @ v)
            v = w.T @ u / np.linalg.norm(w.T @ u)
        return {"u": u, "v": v}

    return frozen


def spectral_norm(dim):
    def oracle(x, u, v):
        w, _ = rows_of(x, dim)
        return x / sum(u[i] * w[i, j] * v[j] for i in range(len(u)) for j in range(len(v)))

    return oracle


def exact_spectral_norm(x):
    w, _ = rows_of(x, 0)
    return x / scipy.linalg.svdvals(w)[0]


def warm(norm, rng):
    norm.u[...] = (u := rng.standard_normal(norm.u.shape)) / np.linalg.norm(u)
    norm.v[...] = (v := rng.standard_normal(norm.v.shape)) / np.linalg.norm(v)


def weight_standardization(dim, eps=1e-5):
    def oracle(x):
        """Qiao et al. 2019."""
        rows, back = rows_of(x, dim)
        found = []
        for row in rows:
            mean = sum(row) / len(row)
            found.append((row - mean) / np.sqrt(sum((row - mean) ** 2) / len(row) + eps))
        return back(np.stack(found))

    return oracle


def scaled_weight_standardization(dim, gamma=1.0, eps=1e-4):
    def oracle(x, weight=None):
        """Brock et al. 2021: mean 0, variance 1 / fan-in, the variance held above eps / fan-in, times gain and gamma."""
        rows, back = rows_of(x, dim)
        found = []
        for i, row in enumerate(rows):
            mean = row.sum() / row.size
            square = ((row - mean) ** 2).sum()
            found.append(gamma * (1 if weight is None else weight[i]) * (row - mean) / np.sqrt(square if square.real > eps else eps))  # fmt: skip
        return back(np.stack(found))

    return oracle


def gram_schmidt(x):
    """Columns of a tall matrix made orthonormal in order, rows of a wide one."""
    w = x.reshape(len(x), -1)
    wide = w.shape[0] < w.shape[1]
    made = []
    for given in w if wide else w.T:
        column = given
        for q in made * 2:  # twice, for rounding
            column = column - q * (q * column).sum()
        made.append(column / np.sqrt((column * column).sum()))
    return (np.stack(made) if wide else np.stack(made).T).reshape(x.shape)


def cayley(x):
    """Lezcano-Casado and Martinez-Rubio 2019: (I - A/2)^-1 (I + A/2) of a skew A."""
    w = x.reshape(len(x), -1)
    wide = w.shape[0] < w.shape[1]
    w = w.T if wide else w
    n, k = w.shape
    a = np.zeros((n, n), w.dtype)
    for i in range(n):
        for j in range(min(i, k)):
            a[i, j], a[j, i] = w[i, j], -w[i, j]
    q = (np.linalg.inv(np.eye(n) - a / 2) @ (np.eye(n) + a / 2))[:, :k]
    return (q.T if wide else q).reshape(x.shape)


def max_norm(p, dim, limit):
    def oracle(x):
        """torch.renorm's documentation."""
        rows, back = rows_of(x, dim)
        found = []
        for row in rows:
            size = magnitude(row)
            norm = size[np.argmax(size.real)] if p == np.inf else (size**p).sum() ** (1 / p)
            found.append(row * limit / (norm + 1e-7) if norm.real > limit else row)
        return back(np.stack(found))

    return oracle


def grouped(x, axis, groups, whiten):
    """Groups of channels whitened one by one over all else."""
    channels, back = rows_of(x, axis)
    return back(np.concatenate([whiten(part) for part in np.split(channels, groups)]))


def zca(eps):
    def whiten(v):
        """Huang et al. 2018, algorithm 1."""
        d, m = v.shape
        centered = v - v.mean(axis=1, keepdims=True)
        covariance = centered @ centered.T / m + eps * np.eye(d)
        return scipy.linalg.inv(scipy.linalg.sqrtm(covariance)) @ centered

    return whiten


def newton(eps, iterations):
    def whiten(v):
        """Huang et al. 2019, algorithm 1."""
        d, m = v.shape
        centered = v - v.sum(axis=1, keepdims=True) / m
        sigma = centered @ centered.T / m + eps * np.eye(d)
        p = np.eye(d)
        for _ in range(iterations):
            p = (3 * p - p @ p @ p @ sigma / np.trace(sigma)) / 2
        return p / np.sqrt(np.trace(sigma)) @ centered

    return whiten


def batch_whitening(axis, groups, whiten):
    def oracle(x, weight=1.0, bias=0.0, **buffers):
        y = grouped(x, axis, groups, whiten)
        shape = [-1 if i == axis % x.ndim else 1 for i in range(x.ndim)]
        return y * np.reshape(weight, shape) + np.reshape(bias, shape)

    return oracle


def running_whitening(axis, groups, name):
    def oracle(x, weight, bias, running_mean, **buffers):
        channels, back = rows_of(x, axis)
        parts = np.split(channels - running_mean[:, None], groups)
        y = np.concatenate([m @ part for m, part in zip(buffers[name], parts, strict=True)])
        return back(y * weight[:, None] + bias[:, None])

    return oracle


def seen(norm, rng):
    """Parameters and buffers of a norm that has seen batches."""
    for a in norm.params.values():
        a[...] = rng.standard_normal(a.shape)
    for name, a in norm.buffers.items():
        if name != "num_batches_tracked":
            a[...] = rng.standard_normal(a.shape)


def group_whitening(axis, groups, whiten):
    def oracle(x, weight, bias):
        """Huang et al. 2021: the rows of a sample are its groups."""
        shape = [-1 if i == axis % x.ndim else 1 for i in range(x.ndim)]
        found = []
        for sample in np.moveaxis(x, axis, 1):
            found.append(whiten(sample.reshape(groups, -1)).reshape(sample.shape))
        return np.moveaxis(np.stack(found), 1, axis) * weight.reshape(shape) + bias.reshape(shape)

    return oracle


CASES = [
    ZooCase("weight_norm", lambda dtype: nz.WeightNorm((6, 3, 17), dtype=dtype), (6, 3, 17), weight_norm(0)),
    ZooCase("weight_norm-middle", lambda dtype: nz.WeightNorm((6, 3, 17), 1, dtype=dtype), (6, 3, 17), weight_norm(1)),
    ZooCase("weight_norm-last", lambda dtype: nz.WeightNorm((5, 19), -1, dtype=dtype), (5, 19), weight_norm(-1)),
    ZooCase("weight_norm-whole", lambda dtype: nz.WeightNorm((6, 3, 7), None, dtype=dtype), (6, 3, 7), weight_norm(None)),
    ZooCase("spectral_norm", lambda dtype: nz.SpectralNorm((5, 3, 7), dtype=dtype), (5, 3, 7), spectral_norm(0), prepare=warm, frozen=power_iteration(0, 1)),
    ZooCase("spectral_norm-transposed", lambda dtype: nz.SpectralNorm((5, 3, 7), 3, dim=1, dtype=dtype), (5, 3, 7), spectral_norm(1), prepare=warm, frozen=power_iteration(1, 3)),
    ZooCase("spectral_norm-eval", lambda dtype: nz.SpectralNorm((17, 4), dtype=dtype).eval(), (17, 4), spectral_norm(0), prepare=warm, frozen=power_iteration(0, 0)),
    ZooCase("spectral_norm-exact", lambda dtype: nz.SpectralNorm((6, 2, 5), exact=True, dtype=dtype), (6, 2, 5), exact_spectral_norm, derivative="central"),
    ZooCase("weight_standardization", lambda dtype: nz.WeightStandardization(), (6, 3, 17), weight_standardization(0), flat=True),
    ZooCase("weight_standardization-last", lambda dtype: nz.WeightStandardization(-1, eps=1e-3), (7, 3, 19), weight_standardization(-1, 1e-3), flat=True),
    ZooCase("scaled_weight_standardization", lambda dtype: nz.ScaledWeightStandardization(6, dtype=dtype), (6, 3, 17), scaled_weight_standardization(0), flat=True),
    ZooCase("scaled_weight_standardization-gamma", lambda dtype: nz.ScaledWeightStandardization(19, gamma=1.7, dim=-1, dtype=dtype), (7, 3, 19), scaled_weight_standardization(-1, 1.7), flat=True),
    ZooCase("scaled_weight_standardization-clamped", lambda dtype: nz.ScaledWeightStandardization(5, 40.0, gain=False, gamma=0.5), (5, 41), scaled_weight_standardization(0, 0.5, 40.0), flat=True),
    ZooCase("orthogonal_weight", lambda dtype: nz.OrthogonalWeight(), (17, 5), gram_schmidt),
    ZooCase("orthogonal_weight-wide", lambda dtype: nz.OrthogonalWeight(), (4, 3, 7), gram_schmidt),
    ZooCase("orthogonal_weight-square", lambda dtype: nz.OrthogonalWeight("qr"), (5, 5), gram_schmidt),
    ZooCase("orthogonal_weight-cayley", lambda dtype: nz.OrthogonalWeight("cayley"), (9, 4), cayley),
    ZooCase("orthogonal_weight-cayley-wide", lambda dtype: nz.OrthogonalWeight("cayley"), (3, 5, 2), cayley),
    ZooCase("orthogonal_weight-cayley-square", lambda dtype: nz.OrthogonalWeight("cayley"), (6, 6), cayley),
    ZooCase("max_norm", lambda dtype: nz.MaxNorm(2, 0, 7.0), (9, 3, 17), max_norm(2, 0, 7.0)),
    ZooCase("max_norm-1", lambda dtype: nz.MaxNorm(1, 1, 30.0), (6, 9, 7), max_norm(1, 1, 30.0)),
    ZooCase("max_norm-2.5", lambda dtype: nz.MaxNorm(2.5, -1, 3.0), (6, 3, 17), max_norm(2.5, -1, 3.0)),
    ZooCase("max_norm-inf", lambda dtype: nz.MaxNorm(np.inf, 0, 2.0), (19, 18), max_norm(np.inf, 0, 2.0)),
    ZooCase("decorrelated_batch_norm", lambda dtype: nz.DecorrelatedBatchNorm(6, 3, dtype=dtype), (5, 6, 4, 3), batch_whitening(1, 2, zca(1e-3)), derivative="central", flat=True),
    ZooCase("decorrelated_batch_norm-last", lambda dtype: nz.DecorrelatedBatchNorm(4, channel_axis=-1, affine=False, dtype=dtype), (7, 5, 4), batch_whitening(-1, 1, zca(1e-3)), derivative="central", flat=True),
    ZooCase("decorrelated_batch_norm-flat", lambda dtype: nz.DecorrelatedBatchNorm(5, 1, eps=1e-5, bias=False, dtype=dtype), (33, 5), batch_whitening(1, 5, zca(1e-5)), derivative="central", flat=True),
    ZooCase("decorrelated_batch_norm-eval", lambda dtype: nz.DecorrelatedBatchNorm(6, 3, dtype=dtype).eval(), (5, 6, 4), running_whitening(1, 2, "running_projection"), prepare=seen),
    ZooCase("iter_norm", lambda dtype: nz.IterNorm(6, 2, dtype=dtype), (5, 6, 4, 3), batch_whitening(1, 2, newton(1e-5, 5)), flat=True),
    ZooCase("iter_norm-last", lambda dtype: nz.IterNorm(6, num_channels=2, T=3, channel_axis=-1, dtype=dtype), (7, 5, 6), batch_whitening(-1, 3, newton(1e-5, 3)), flat=True),
    ZooCase("iter_norm-flat", lambda dtype: nz.IterNorm(4, T=8, eps=1e-2, affine=False, dtype=dtype), (33, 4), batch_whitening(1, 1, newton(1e-2, 8)), flat=True),
    ZooCase("iter_norm-none", lambda dtype: nz.IterNorm(4, T=0, bias=False, dtype=dtype), (9, 4, 3), batch_whitening(1, 1, newton(1e-5, 0)), flat=True),
    ZooCase("iter_norm-eval", lambda dtype: nz.IterNorm(6, 2, dtype=dtype).eval(), (5, 6, 4), running_whitening(1, 2, "running_wm"), prepare=seen),
    ZooCase("group_whitening", lambda dtype: nz.GroupWhitening(6, 3, dtype=dtype), (4, 6, 5, 3), group_whitening(1, 3, newton(1e-5, 5)), flat=True),
    ZooCase("group_whitening-zca", lambda dtype: nz.GroupWhitening(8, 2, None, dtype=dtype), (3, 8, 5), group_whitening(1, 2, zca(1e-5)), derivative="central", flat=True),
    ZooCase("group_whitening-last", lambda dtype: nz.GroupWhitening(8, 2, T=4, channel_axis=-1, dtype=dtype), (3, 5, 8), group_whitening(-1, 2, newton(1e-5, 4)), flat=True),
]  # fmt: skip
