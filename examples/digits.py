"""The 8 x 8 handwritten digits that ship with scikit-learn, and how a network is trained on them."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from layers import SGD, AvgPool2d, Flatten, Linear, Sequential, softmax_cross_entropy
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


class Digits(NamedTuple):
    """Images (N, 1, 8, 8) float32 of mean 0 and variance 1 over the training set, and labels (N,) from 0 to 9."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def load_data(samples: int = 1347) -> Digits:
    """The first of 1347 images to train on and 450 to test on, always the same."""
    digits = load_digits()
    x = digits.images[:, np.newaxis].astype(np.float32)
    x_train, x_test, y_train, y_test = train_test_split(
        x, digits.target, test_size=450, stratify=digits.target, random_state=0
    )
    x_train, y_train = x_train[:samples], y_train[:samples]
    mean, std = x_train.mean(), x_train.std()
    return Digits((x_train - mean) / std, y_train, (x_test - mean) / std, y_test)


def build_network(block: Callable[[int, int], Iterable[Any]], rng: np.random.Generator) -> Sequential:
    """Four blocks, two poolings and a linear layer: (N, 1, 8, 8) -> (N, 10).

    block(in_channels, out_channels) gives the layers of one, which keep height and width.
    """
    return Sequential(
        *block(1, 16), *block(16, 16), AvgPool2d(2), *block(16, 32), *block(32, 32), AvgPool2d(2), Flatten(),
        Linear(128, 10, rng),
    )  # fmt: skip


def train_step(network: Sequential, optimizer: Any, x: np.ndarray, labels: np.ndarray) -> float:
    """One step; the loss before it. A loss that is NaN or infinite changes nothing."""
    loss, dlogits = softmax_cross_entropy(network(x), labels)
    if np.isfinite(loss):
        network.backward(dlogits)
        optimizer.step()
    return loss


def train_epoch(
    network: Sequential, optimizer: SGD, data: Digits, rng: np.random.Generator, batch_size: int = 64
) -> float:
    """One pass over the training images in random order; the mean loss, or NaN or infinity as soon as one occurs."""
    network.train()
    order = rng.permutation(len(data.x_train))
    losses = []
    for start in range(0, len(order) - batch_size + 1, batch_size):
        batch = order[start : start + batch_size]
        loss = train_step(network, optimizer, data.x_train[batch], data.y_train[batch])
        if not np.isfinite(loss):
            return loss
        losses.append(loss)
    return float(np.mean(losses))


def accuracy(network: Sequential, x: np.ndarray, labels: np.ndarray) -> float:
    """Of the network in evaluation, which it is in afterwards."""
    return float((network.eval()(x).argmax(1) == labels).mean())
