"""The rest of a small convolutional network: layers with hand-written backward passes that normzoo's norms join.

Every layer has a norm's protocol: y = layer(x), dx = layer.backward(dy), dicts `params` and `grads` of the same
names, train() and eval(). Shapes are N, C, H, W: images, channels, height, width. Parameters are float32.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


class Layer:
    """A layer without parameters that does the same in training and evaluation: what the others start from."""

    def __init__(self):
        self.params, self.grads = {}, {}

    def train(self, mode=True):
        return self

    def eval(self):
        return self.train(False)


class Conv2d(Layer):
    """Convolution with stride 1, zero-padded to keep H and W: x (N, in, H, W) -> y (N, out, H, W).

    weight: (out, in, k, k) with odd k; bias: (out,).
    """

    def __init__(self, in_channels, out_channels, kernel_size, rng, bias=True):
        super().__init__()
        self.params["weight"] = he_normal((out_channels, in_channels, kernel_size, kernel_size), rng)
        if bias:
            self.params["bias"] = np.zeros(out_channels, np.float32)

    def __call__(self, x):
        weight = self.params["weight"]
        self.columns = im2col(x, weight.shape[-1])
        y = np.tensordot(self.columns, weight, ([3, 4, 5], [2, 3, 1]))
        if "bias" in self.params:
            y += self.params["bias"]
        return y.transpose(0, 3, 1, 2)  # channels-last in memory, which normzoo takes as it is

    def backward(self, dy):
        weight = self.params["weight"]
        self.grads["weight"] = np.tensordot(dy, self.columns, ([0, 2, 3], [0, 1, 2])).transpose(0, 3, 1, 2)
        if "bias" in self.params:
            self.grads["bias"] = dy.sum((0, 2, 3))
        # The transpose of a "same" convolution is one with the kernel turned by 180 degrees.
        turned = weight[:, :, ::-1, ::-1]
        return np.tensordot(im2col(dy, weight.shape[-1]), turned, ([3, 4, 5], [2, 3, 0])).transpose(0, 3, 1, 2)


class Linear(Layer):
    """Matrix product: x (N, in) -> y (N, out); weight: (out, in); bias: (out,)."""

    def __init__(self, in_features, out_features, rng):
        super().__init__()
        self.params["weight"] = he_normal((out_features, in_features), rng)
        self.params["bias"] = np.zeros(out_features, np.float32)

    def __call__(self, x):
        self.x = x
        return x @ self.params["weight"].T + self.params["bias"]

    def backward(self, dy):
        self.grads = {"weight": dy.T @ self.x, "bias": dy.sum(0)}
        return dy @ self.params["weight"]


class ReLU(Layer):
    """max(x, 0), any shape; NaN stays NaN, so that a diverged run shows."""

    def __call__(self, x):
        self.positive = x > 0
        return np.maximum(x, 0)

    def backward(self, dy):
        return dy * self.positive


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


def softmax_cross_entropy(logits, labels):
    """Mean loss and its gradient: logits (N, classes), integer labels (N,) -> float, dlogits (N, classes)."""
    shifted = logits - logits.max(1, keepdims=True)  # so that exp cannot overflow
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    rows = np.arange(len(labels))
    dlogits = np.exp(log_p)
    dlogits[rows, labels] -= 1
    return float(-log_p[rows, labels].mean()), dlogits / len(labels)


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


def im2col(x, k):
    """The k x k neighbourhood of every pixel, zeros outside the image: (N, C, H, W) -> (N, H, W, k, k, C), a view."""
    r = k // 2
    padded = np.pad(x.transpose(0, 2, 3, 1), ((0, 0), (r, r), (r, r), (0, 0)))
    return sliding_window_view(padded, (k, k), (1, 2)).transpose(0, 1, 2, 4, 5, 3)


def he_normal(shape, rng):
    """Weights (out, in, ...) that keep the variance through a ReLU: K. He et al., 2015, arXiv:1502.01852."""
    return rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / np.prod(shape[1:])))
