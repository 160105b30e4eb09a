"""One row per norm: what every test of the suite runs over. Shapes straddle the vector width (16 lanes) and primes."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

import normzoo as nz
from tests import oracles


@dataclass(frozen=True)
class Case:
    id: str
    norm: Callable  # (options) -> Norm
    shape: tuple[int, ...]  # of x, channels on axis 1
    oracle: Callable  # (x, weight, bias) -> y, in float64
    parameters: tuple[str, ...] = ("weight", "bias")
    channels: bool = True  # takes channel_axis

    def __str__(self) -> str:
        return self.id


def _batch(c):
    return lambda **o: nz.BatchNorm(c, **o)


def _layer(shape, axis=None):
    return lambda **o: nz.LayerNorm(shape, axis=axis, **o)


def _group(g, c):
    return lambda **o: nz.GroupNorm(g, c, **o)


def _instance(c):
    return lambda affine=True, **o: nz.InstanceNorm(c, affine=affine, **o)


def _rms(shape, axis=None):
    return lambda bias=False, **o: nz.RMSNorm(shape, eps=1e-5, axis=axis, **o)


CASES = [
    Case("batch_norm-2d", _batch(5), (17, 5), oracles.batch_norm),
    Case("batch_norm-3d", _batch(3), (4, 3, 33), oracles.batch_norm),
    Case("batch_norm-4d", _batch(18), (5, 18, 7, 7), oracles.batch_norm),
    Case("batch_norm-5d", _batch(2), (3, 2, 3, 4, 5), oracles.batch_norm),
    Case("batch_norm-1-channel", _batch(1), (3, 1, 31), oracles.batch_norm),
    Case("instance_norm-3d", _instance(4), (3, 4, 19), oracles.instance_norm),
    Case("instance_norm-4d", _instance(17), (2, 17, 5, 3), oracles.instance_norm),
    Case("group_norm-2d", _group(2, 34), (3, 34), lambda x, w, b: oracles.group_norm(x, 2, w, b)),
    Case("group_norm-4d", _group(3, 6), (2, 6, 5, 7), lambda x, w, b: oracles.group_norm(x, 3, w, b)),
    Case("group_norm-1", _group(1, 4), (3, 4, 9), lambda x, w, b: oracles.group_norm(x, 1, w, b)),
    Case(
        "layer_norm-last", _layer(37), (2, 3, 37), lambda x, w, b: oracles.layer_norm(x, (2,), w, b), channels=False
    ),
    Case(
        "layer_norm-2-axes", _layer((5, 7)), (4, 3, 5, 7), lambda x, w, b: oracles.layer_norm(x, (2, 3), w, b),
        channels=False,
    ),
    Case(
        "layer_norm-channels", _layer(17, 1), (2, 17, 3, 6), lambda x, w, b: oracles.layer_norm(x, (1,), w, b),
        channels=False,
    ),
    Case(
        "layer_norm-scattered", _layer((3, 5), (0, 2)), (3, 4, 5, 2),
        lambda x, w, b: oracles.layer_norm(x, (0, 2), w, b), channels=False,
    ),
    Case(
        "rms_norm-last", _rms(31), (5, 31), lambda x, w, b: oracles.rms_norm(x, (1,), w), ("weight",), channels=False
    ),
    Case(
        "rms_norm-channels", _rms(8, 1), (2, 8, 17), lambda x, w, b: oracles.rms_norm(x, (1,), w), ("weight",),
        channels=False,
    ),
]  # fmt: skip


def filled(norm, rng):
    """The norm with random parameters."""
    for p in norm.params.values():
        p[...] = rng.standard_normal(p.shape)
    return norm


def draw(case, rng, dtype=np.float64):
    return rng.standard_normal(case.shape).astype(dtype), rng.standard_normal(case.shape).astype(dtype)


def channels_last_strides(x):
    """x with its elements where a channels-last array has them."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
