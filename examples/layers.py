"""The rest of small networks: layers with hand-written backward passes that normzoo's norms join.

Every layer has a norm's protocol: y = layer(x), dx = layer.backward(dy), dicts `params` and `grads` of the same
names, train() and eval(). Shapes are N, C, H, W (or D, H, W) for images and N, T, C for sequences: samples, channels,
height, width, depth, time. Parameters are float32.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.special import expit, ndtr


class Layer:
    """A layer without parameters that does the same in training and evaluation: what the others start from."""

    def __init__(self):
        self.params, self.grads = {}, {}

    def train(self, mode=True):
        return self

    def eval(self):
        return self.train(False)


class Conv(Layer):
    """Convolution with stride 1, zero-padded to keep the positions: x (N, in, ...) -> y (N, out, ...).

    weight: (out, in, k, ..., k) with odd k; bias: (out,).
    """

    dims: int

    def __init__(self, in_channels, out_channels, kernel_size, rng, bias=True):
        super().__init__()
        self.params["weight"] = he_normal((out_channels, in_channels, *[kernel_size] * self.dims), rng)
        if bias:
            self.params["bias"] = np.zeros(out_channels, np.float32)

    def __call__(self, x):
        weight = self.params["weight"]
        self.columns = im2col(x, weight.shape[-1])
        y = self.columns @ np.moveaxis(weight, 1, -1).reshape(len(weight), -1).T
        if "bias" in self.params:
            y += self.params["bias"]
        return self.image(y, x)

    def backward(self, dy):
        weight = self.params["weight"]
        out, inside, *kernel = weight.shape
        rows = np.moveaxis(dy, 1, -1).reshape(-1, out)
        self.grads["weight"] = np.moveaxis((rows.T @ self.columns).reshape(out, *kernel, inside), -1, 1)
        if "bias" in self.params:
            self.grads["bias"] = rows.sum(0)
        # The transpose of a "same" convolution is one with the kernel turned by 180 degrees.
        turned = np.flip(weight, range(2, weight.ndim)).swapaxes(0, 1)
        dx = im2col(dy, kernel[0]) @ np.moveaxis(turned, 1, -1).reshape(inside, -1).T
        return self.image(dx, dy)

    def image(self, rows, x):
        """A row for every position of x, as an image: channels-last in memory, which normzoo takes as it is."""
        return np.moveaxis(rows.reshape(len(x), *x.shape[2:], -1), -1, 1)


class Conv2d(Conv):
    """Convolution of images (N, C, H, W); see `Conv`."""

    dims = 2


class Conv3d(Conv):
    """Convolution of volumes (N, C, D, H, W); see `Conv`."""

    dims = 3


class Linear(Layer):
    """Matrix product: x (..., in) -> y (..., out); weight: (out, in); bias: (out,)."""

    def __init__(self, in_features, out_features, rng):
        super().__init__()
        self.params["weight"] = he_normal((out_features, in_features), rng)
        self.params["bias"] = np.zeros(out_features, np.float32)

    def __call__(self, x):
        self.x = x
        return x @ self.params["weight"].T + self.params["bias"]

    def backward(self, dy):
        rows = dy.reshape(-1, dy.shape[-1])
        self.grads = {"weight": rows.T @ self.x.reshape(-1, self.x.shape[-1]), "bias": rows.sum(0)}
        return dy @ self.params["weight"]


class Embedding(Layer):
    """A vector for each token plus one for its place: integers (N, T) -> y (N, T, C); there is no gradient of integers.

    token: (vocabulary, C); place: (length, C) with length >= T.
    """

    def __init__(self, vocabulary, length, features, rng):
        super().__init__()
        scale = np.float32(0.1)
        self.params["token"] = scale * rng.standard_normal((vocabulary, features), np.float32)
        self.params["place"] = scale * rng.standard_normal((length, features), np.float32)

    def __call__(self, x):
        self.x = x
        return self.params["token"][x] + self.params["place"][: x.shape[1]]

    def backward(self, dy):
        self.grads = {name: np.zeros_like(p) for name, p in self.params.items()}
        np.add.at(self.grads["token"], self.x, dy)
        self.grads["place"][: dy.shape[1]] = dy.sum(0)


class ReLU(Layer):
    """max(x, 0), any shape; NaN stays NaN, so that a diverged run shows."""

    def __call__(self, x):
        self.positive = x > 0
        return np.maximum(x, 0)

    def backward(self, dy):
        return dy * self.positive


class SiLU(Layer):
    """x * sigmoid(x), any shape."""

    def __call__(self, x):
        self.x, self.sigmoid = x, expit(x)
        return x * self.sigmoid

    def backward(self, dy):
        return dy * self.sigmoid * (1 + self.x * (1 - self.sigmoid))


class GELU(Layer):
    """x * P(a standard normal value < x), any shape."""

    def __call__(self, x):
        self.x, self.below = x, ndtr(x)
        return x * self.below

    def backward(self, dy):
        density = np.exp(-0.5 * self.x**2) * np.float32(1 / np.sqrt(2 * np.pi))
        return dy * (self.below + self.x * density)


class Dropout(Layer):
    """In training every value is 0 with probability `rate` and 1 / (1 - rate) times itself otherwise."""

    def __init__(self, rate, rng):
        super().__init__()
        self.rate, self.rng, self.training = rate, rng, True

    def train(self, mode=True):
        self.training = mode
        return self

    def __call__(self, x):
        kept = self.rng.random(x.shape, np.float32) >= self.rate if self.training else np.True_
        self.factor = kept * np.float32(1 / (1 - self.rate) if self.training else 1)
        return x * self.factor

    def backward(self, dy):
        return dy * self.factor


class AvgPool2d(Layer):
    """Mean of every block of k x k: x (N, C, H, W) -> y (N, C, H/k, W/k)."""

    def __init__(self, kernel_size):
        super().__init__()
        self.kernel_size = kernel_size

    def __call__(self, x):
        k = self.kernel_size
        n, c, h, w = x.shape
        return x.reshape(n, c, h // k, k, w // k, k).mean((3, 5))

    def backward(self, dy):
        k = self.kernel_size
        return dy.repeat(k, 2).repeat(k, 3) / k**2


class Flatten(Layer):
    """One row an image: x (N, ...) -> y (N, product of the rest)."""

    def __call__(self, x):
        self.shape = x.shape
        return x.reshape(len(x), -1)

    def backward(self, dy):
        return dy.reshape(self.shape)


class Sequential(Layer):
    """Layers one after the other, of any shapes that fit; names their parameters "0.weight", "0.bias", ..."""

    def __init__(self, *layers):
        self.layers = layers

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x

    def backward(self, dy):
        for layer in reversed(self.layers):
            dy = layer.backward(dy)
        return dy

    @property
    def params(self):
        return {f"{i}.{name}": p for i, layer in enumerate(self.layers) for name, p in layer.params.items()}

    @property
    def grads(self):
        return {f"{i}.{name}": g for i, layer in enumerate(self.layers) for name, g in layer.grads.items()}

    def train(self, mode=True):
        for layer in self.layers:
            layer.train(mode)
        return self


class Residual(Sequential):
    """x + layers(x), of one shape."""

    def __call__(self, x):
        return x + super().__call__(x)

    def backward(self, dy):
        return dy + super().backward(dy)


class CausalAttention(Sequential):
    """Attention in which a place sees itself and those before it: x (N, T, C) -> y (N, T, C), C divisible by heads.

    y = out(softmax(q k^T / sqrt(C / heads)) v) for every head, with q, k, v = inside(x).
    """

    def __init__(self, features, heads, rng):
        self.heads, self.inside, self.out = heads, Linear(features, 3 * features, rng), Linear(features, features, rng)
        for layer in (self.inside, self.out):
            layer.params["weight"] *= np.float32(np.sqrt(0.5))  # no ReLU halves the variance here
        super().__init__(self.inside, self.out)

    def __call__(self, x):
        n, t, c = x.shape
        qkv = self.inside(x).reshape(n, t, 3, self.heads, c // self.heads)
        self.q, self.k, self.v = qkv.transpose(2, 0, 3, 1, 4)  # (N, heads, T, C / heads) each
        self.scale = 1 / float(np.sqrt(c / self.heads))
        scores = self.q @ self.k.swapaxes(2, 3) * self.scale
        scores[..., np.triu(np.ones((t, t), bool), 1)] = -np.inf  # what comes later
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        self.p = scores / scores.sum(-1, keepdims=True)
        return self.out((self.p @ self.v).transpose(0, 2, 1, 3).reshape(n, t, c))

    def backward(self, dy):
        n, t, c = dy.shape
        dmixed = self.out.backward(dy).reshape(n, t, self.heads, -1).transpose(0, 2, 1, 3)
        dp = dmixed @ self.v.swapaxes(2, 3)
        dscores = self.p * (dp - (dp * self.p).sum(-1, keepdims=True)) * self.scale
        parts = dscores @ self.k, dscores.swapaxes(2, 3) @ self.q, self.p.swapaxes(2, 3) @ dmixed
        return self.inside.backward(np.stack(parts).transpose(1, 3, 0, 2, 4).reshape(n, t, 3 * c))


def softmax_cross_entropy(logits, labels):
    """Mean loss and its gradient: logits (..., classes), integer labels (...) -> float, dlogits (..., classes)."""
    shifted = logits - logits.max(-1, keepdims=True)  # so that exp cannot overflow
    log_p = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    of_labels = np.take_along_axis(log_p, labels[..., np.newaxis], -1)
    dlogits = np.exp(log_p)
    np.put_along_axis(dlogits, labels[..., np.newaxis], np.exp(of_labels) - 1, -1)
    return float(-of_labels.mean()), dlogits / labels.size


def sigmoid_cross_entropy(logits, targets, weight=1.0):
    """Weighted mean loss and its gradient: logits, targets in [0, 1] and weights of one shape -> float, dlogits."""
    weight = np.broadcast_to(np.asarray(weight, logits.dtype), logits.shape)
    total = weight.sum()
    losses = np.maximum(logits, 0) - logits * targets + np.log1p(np.exp(-np.abs(logits)))
    return float((weight * losses).sum() / total), weight * (expit(logits) - targets) / total


def soft_dice(logits, targets):
    """1 - the mean Dice overlap, and its gradient: logits and targets in {0, 1} of shape (N, ...) -> float, dlogits.

    The overlap of a sample is (2 sum(p t) + 1) / (sum(p) + sum(t) + 1) with p = sigmoid(logits).
    """
    p, axes = expit(logits), tuple(range(1, logits.ndim))
    above = 2 * (p * targets).sum(axes, keepdims=True) + 1
    below = p.sum(axes, keepdims=True) + targets.sum(axes, keepdims=True) + 1
    dp = (above / below - 2 * targets) / below / len(logits)
    return float(1 - (above / below).mean()), dp * p * (1 - p)


def mean_squared_error(y, targets):
    """Mean loss and its gradient: arrays of one shape -> float, dy."""
    difference = y - targets
    return float((difference**2).mean()), 2 * difference / difference.size


class SGD:
    """Stochastic gradient descent: velocity = momentum * velocity + grad; p = p - learning_rate * velocity."""

    def __init__(self, model, learning_rate, momentum=0.9):
        self.model, self.learning_rate, self.momentum = model, learning_rate, momentum
        self.velocity = {name: np.zeros_like(p) for name, p in model.params.items()}

    def step(self):
        grads = self.model.grads
        for name, p in self.model.params.items():
            self.velocity[name] = self.momentum * self.velocity[name] + grads[name]
            p -= self.learning_rate * self.velocity[name]


class Adam:
    """Steps of about learning_rate for every value: D. P. Kingma and J. Ba, 2014, arXiv:1412.6980."""

    def __init__(self, model, learning_rate, betas=(0.9, 0.999), eps=1e-8):
        self.model, self.learning_rate, self.betas, self.eps, self.steps = model, learning_rate, betas, eps, 0
        self.moments = {name: (np.zeros_like(p), np.zeros_like(p)) for name, p in model.params.items()}

    def step(self):
        self.steps += 1
        grads, (first, second) = self.model.grads, self.betas
        of_mean, of_square = (1 - beta**self.steps for beta in self.betas)
        for name, p in self.model.params.items():
            mean, square = self.moments[name]
            mean += (1 - first) * (grads[name] - mean)
            square += (1 - second) * (grads[name] ** 2 - square)
            p -= self.learning_rate * (mean / of_mean) / (np.sqrt(square / of_square) + self.eps)


def im2col(x, k):
    """A row for every position, zeros outside: (N, C, ...) -> (N * positions, k * ... * k * C)."""
    dims, r = x.ndim - 2, k // 2
    padded = np.pad(np.moveaxis(x, 1, -1), [(0, 0), *[(r, r)] * dims, (0, 0)])
    windows = sliding_window_view(padded, (k,) * dims, tuple(range(1, dims + 1)))  # (N, ..., C, k, ..., k)
    return np.moveaxis(windows, dims + 1, -1).reshape(-1, k**dims * x.shape[1])


def he_normal(shape, rng):
    """Weights (out, in, ...) that keep the variance through a ReLU: K. He et al., 2015, arXiv:1502.01852."""
    return rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / np.prod(shape[1:])))
