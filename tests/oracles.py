"""Every norm once more, written from its paper, one set at a time, in plain loops; nothing of the library is used.

All take float64 (or complex, for derivatives by the complex step: no absolute values) and return y.
"""

import itertools

import numpy as np


def standardize(values, eps):
    """(v - mean) / sqrt(var + eps) of one set."""
    mean = values.sum() / values.size
    deviation = values - mean
    deviation = deviation - deviation.sum() / values.size
    return deviation / np.sqrt((deviation * deviation).sum() / values.size + eps)


def by_sets(x, sets, eps, one=standardize):
    """Apply `one` to every index of `sets`."""
    y = np.zeros_like(x)
    for index in sets:
        y[index] = one(x[index], eps)
    return y


def along(p, ndim, axis):
    """A parameter of one value a channel, ready to multiply."""
    shape = [1] * ndim
    shape[axis] = -1
    return p.reshape(shape)


def affine(xhat, weight, bias):
    y = xhat if weight is None else xhat * weight
    return y if bias is None else y + bias


def batch_norm(x, weight=None, bias=None, eps=1e-5):
    """Ioffe and Szegedy 2015, algorithm 1: a set is a channel."""
    sets = [(slice(None), c) for c in range(x.shape[1])]
    w, b = (None if p is None else along(p, x.ndim, 1) for p in (weight, bias))
    return affine(by_sets(x, sets, eps), w, b)


def batch_norm_eval(x, mean, var, weight=None, bias=None, eps=1e-5):
    w, b = (None if p is None else along(p, x.ndim, 1) for p in (weight, bias))
    return affine((x - along(mean, x.ndim, 1)) / np.sqrt(along(var, x.ndim, 1) + eps), w, b)


def instance_norm(x, weight=None, bias=None, eps=1e-5):
    """Ulyanov et al. 2016, equation 4: a set is a channel of a sample."""
    sets = list(itertools.product(range(x.shape[0]), range(x.shape[1])))
    w, b = (None if p is None else along(p, x.ndim, 1) for p in (weight, bias))
    return affine(by_sets(x, sets, eps), w, b)


def group_norm(x, groups, weight=None, bias=None, eps=1e-5):
    """Wu and He 2018, equation 7: a set is C/G channels of a sample."""
    size = x.shape[1] // groups
    sets = [(n, slice(g * size, (g + 1) * size)) for n in range(x.shape[0]) for g in range(groups)]
    w, b = (None if p is None else along(p, x.ndim, 1) for p in (weight, bias))
    return affine(by_sets(x, sets, eps), w, b)


def layer_norm(x, axes, weight=None, bias=None, eps=1e-5):
    """Ba et al. 2016, section 3, over any axes: a set is all of these at one place of the others."""
    kept = [range(1) if a in axes else range(size) for a, size in enumerate(x.shape)]
    sets = [tuple(slice(None) if a in axes else i for a, i in enumerate(index)) for index in itertools.product(*kept)]
    shape = [size if a in axes else 1 for a, size in enumerate(x.shape)]
    w, b = (None if p is None else p.reshape(shape) for p in (weight, bias))
    return affine(by_sets(x, sets, eps), w, b)


def rms_norm(x, axes, weight=None, eps=1e-5):
    """Zhang and Sennrich 2019, equation 4."""
    square = (x * x).sum(axis=tuple(axes), keepdims=True)
    count = np.prod([x.shape[a] for a in axes])
    shape = [size if a in axes else 1 for a, size in enumerate(x.shape)]
    return affine(x / np.sqrt(square / count + eps), None if weight is None else weight.reshape(shape), None)


def lp_normalize(x, p, axes, eps=1e-12):
    """x / max(||x||_p, eps) for sets whose norm is above eps, and p = 1, 2, 3 (complex: |v| is v times its sign)."""
    size = x * np.sign(x.real)
    norm = (size**p).sum(axis=tuple(axes), keepdims=True) ** (1 / p)
    return x / np.where(norm.real > eps, norm, eps)


def local_response_norm(x, size, alpha, beta, k):
    """Krizhevsky et al. 2012, section 3.3, with PyTorch's window and alpha / size."""
    y = np.zeros_like(x)
    channels = x.shape[1]
    for c in range(channels):
        window = range(max(0, c - size // 2), min(channels, c + (size - 1) // 2 + 1))
        y[:, c] = x[:, c] / (k + alpha / size * sum(x[:, j] ** 2 for j in window)) ** beta
    return y
