"""The layers that the examples train with have right gradients; the examples run and find what they say."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import normzoo as nz

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def layers(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import layers  # noqa: PLC0415

    return layers


def double(layer):
    for p in getattr(layer, "params", {}):
        layer.params[p] = layer.params[p].astype(np.float64)
    return layer


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda m, rng: m.Conv2d(2, 3, 3, rng), (2, 2, 5, 4)),
        (lambda m, rng: m.Conv2d(3, 2, 1, rng, bias=False), (2, 3, 3, 3)),
        (lambda m, rng: m.Linear(5, 4, rng), (3, 5)),
        (lambda m, rng: m.AvgPool2d(2), (2, 3, 4, 6)),
        (lambda m, rng: m.ReLU(), (3, 7)),
        (lambda m, rng: m.Flatten(), (3, 2, 4)),
    ],
)
def test_gradients_of_the_layers(layers, make, shape, rng):
    layer = double(make(layers, rng))
    x = rng.standard_normal(shape)
    y = layer(x)
    dy = rng.standard_normal(y.shape)
    dx = layer.backward(dy)
    grads = dict(layer.grads)
    step = 1e-6

    def slope(a, direction):
        held = a.copy()
        a[...] = held + step * direction
        up = (layer(x) * dy).sum()
        a[...] = held - step * direction
        down = (layer(x) * dy).sum()
        a[...] = held
        return (up - down) / (2 * step)

    for array, gradient in [(x, dx), *((layer.params[name], grads[name]) for name in layer.params)]:
        direction = rng.standard_normal(array.shape)
        np.testing.assert_allclose((gradient * direction).sum(), slope(array, direction), rtol=1e-7, atol=1e-7)


def test_gradient_of_the_loss(layers, rng):
    logits, labels = rng.standard_normal((6, 4)), rng.integers(0, 4, 6)
    _, gradient = layers.softmax_cross_entropy(logits, labels)
    direction, step = rng.standard_normal((6, 4)), 1e-6
    up, down = (layers.softmax_cross_entropy(logits + s * direction, labels)[0] for s in (step, -step))
    np.testing.assert_allclose((gradient * direction).sum(), (up - down) / (2 * step), rtol=1e-6)


@pytest.mark.slow
def test_train_digits(tmp_path):
    for package in ("sklearn", "matplotlib", "tqdm", "threadpoolctl"):
        pytest.importorskip(package)
    picture = tmp_path / "digits.png"
    printed = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / "train_digits.py"), "--quick", "--out", str(picture)],
        check=True, capture_output=True, text=True, env=os.environ,
    ).stdout  # fmt: skip
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "confirmed: batch norm trains at a 10 times higher learning rate" in printed


@pytest.mark.slow
def test_data_parallel(tmp_path):
    for package in ("sklearn", "matplotlib", "threadpoolctl", "mpi4py"):
        pytest.importorskip(package)
    picture = tmp_path / "ranks.png"
    printed = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / "data_parallel.py"), "--epochs", "1", "--out", str(picture)],
        check=True, capture_output=True, text=True, env=os.environ,
    ).stdout  # fmt: skip
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "confirmed: the same loss curve" in printed and "the same bits" in printed


def test_gallery(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import gallery  # noqa: PLC0415

    drawn = {type(norm) for _, norm in gallery.examples()}
    norms = [getattr(nz, name) for name in nz.__all__ if isinstance(getattr(nz, name), type)]
    algebra = {c for c in norms if issubclass(c, nz.Norm) and ".zoo." in c.__module__ and c.axes is not nz.Norm.axes}
    assert algebra - drawn == {nz.LayerScale}  # which has no statistics
    numbers = gallery.sets(nz.GroupNorm(2, gallery.C), (2, gallery.C, 3))
    np.testing.assert_array_equal(numbers[:, :, 0], [[0, 0, 0, 1, 1, 1], [2, 2, 2, 3, 3, 3]])
    picture = tmp_path / "gallery.png"
    monkeypatch.setattr(sys, "argv", ["gallery.py", "--out", str(picture)])
    monkeypatch.setattr(gallery, "examples", lambda: [("BatchNorm(C)", nz.BatchNorm(gallery.C))])
    gallery.main()
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_numba_loop(tmp_path):
    for package in ("sklearn", "matplotlib", "threadpoolctl"):
        pytest.importorskip(package)
    picture = tmp_path / "loop.png"
    printed = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / "numba_loop.py"), "--quick", "--out", str(picture)],
        check=True, capture_output=True, text=True, env=os.environ,
    ).stdout  # fmt: skip
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "confirmed: " in printed and "none of it in Python" in printed
