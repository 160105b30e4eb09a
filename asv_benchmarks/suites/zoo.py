"""A training step, forward and backward, of every norm of the zoo, against a loop over the bytes that it has to move."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np

import normzoo as nz
from suites.cases import benchmark, stream, stream_two
from suites.kernels import blocks


class Step(NamedTuple):
    """How a norm is made and called."""

    arguments: tuple
    options: dict[str, Any]
    shape: tuple[int, ...]
    inputs: dict[str, tuple[int, ...]] = {}  # noqa: RUF012  arrays beside x, by name
    labels: dict[str, tuple[tuple[int, ...], int]] = {}  # noqa: RUF012  random integers: shape, and the first that is too large


ZOO = {
    "ada_ln_zero": Step((384,), {}, (8, 256, 384), {"c": (8, 384)}),
    "ada_norm": Step((768,), {}, (1024, 768)),
    "adaptive_instance_norm": Step((), {}, (8, 64, 32, 32), {"style": (8, 64, 32, 32)}),
    "adaptive_layer_norm": Step((384,), {}, (8, 256, 384), {"scale": (8, 384), "shift": (8, 384)}),
    "alpha_batch_norm": Step((64,), {}, (16, 64, 28, 28)),
    "batch_instance_norm": Step((64,), {}, (16, 64, 28, 28)),
    "batch_norm": Step((64,), {}, (16, 64, 28, 28)),
    "batch_renorm": Step((64,), {"rmax": 3.0, "dmax": 5.0}, (16, 64, 28, 28)),
    "conditional_batch_norm": Step((64, 10), {}, (8, 64, 32, 32), {}, {"labels": ((8,), 10)}),
    "conditional_instance_norm": Step((64, 10), {}, (8, 64, 32, 32), {}, {"labels": ((8,), 10)}),
    "crms_norm": Step((767,), {}, (1024, 767)),
    "cumulative_layer_norm": Step((128,), {}, (4, 128, 1000)),
    "cumulative_rms_norm": Step((128,), {}, (4, 128, 1000)),
    "decorrelated_batch_norm": Step((64,), {}, (16, 64, 16, 16)),
    "derf": Step((768,), {}, (1024, 768)),
    "diff_group_norm": Step((128, 4), {}, (4096, 128)),
    "dish_ts": Step((32, 336), {}, (64, 336, 32)),
    "divisive_norm": Step((64, 3, 5), {}, (16, 64, 28, 28)),
    "domain_batch_norm": Step((64, 2), {}, (16, 64, 28, 28), {}, {"domain": ((), 2)}),
    "dyt": Step((768,), {}, (1024, 768)),
    "ema_batch_norm": Step((64,), {}, (16, 64, 28, 28)),
    "evo_norm_b0": Step((64,), {}, (16, 64, 28, 28)),
    "evo_norm_s0": Step((64,), {}, (16, 64, 28, 28)),
    "exponential_norm": Step((128,), {}, (4, 128, 1000)),
    "fan": Step((32,), {}, (64, 336, 32)),
    "film": Step((), {}, (8, 64, 32, 32), {"gamma": (8, 64), "beta": (8, 64)}),
    "filter_response_norm": Step((64,), {}, (16, 64, 28, 28)),
    "frozen_batch_norm": Step((64,), {}, (16, 64, 28, 28)),
    "ghost_batch_norm": Step((64, 4), {}, (16, 64, 28, 28)),
    "global_response_norm": Step((128,), {"channel_axis": -1}, (8, 28, 28, 128)),
    "graph_norm": Step((128,), {}, (4096, 128), {}, {"segments": ((4096,), 64)}),
    "graph_size_norm": Step((), {}, (4096, 128), {}, {"segments": ((4096,), 64)}),
    "group_norm": Step((8, 64), {}, (16, 64, 28, 28)),
    "group_rms_norm": Step((8, 64), {}, (8, 64, 32, 32)),
    "group_whitening": Step((256, 32), {}, (16, 256, 8, 8)),
    "head_layer_norm": Step((16, 64), {}, (8, 64, 16, 64)),
    "head_rms_norm": Step((16, 64), {}, (8, 64, 16, 64)),
    "instance_norm": Step((64,), {}, (16, 64, 28, 28)),
    "iter_norm": Step((64,), {}, (16, 64, 16, 16)),
    "l1_batch_norm": Step((64,), {}, (16, 64, 28, 28)),
    "l2_norm": Step((768,), {"elementwise_affine": True}, (1024, 768)),
    "l_inf_batch_norm": Step((64, 10), {}, (16, 64, 28, 28)),
    "layer_norm": Step((768,), {}, (1024, 768)),
    "layer_scale": Step((768,), {}, (4, 197, 768)),
    "local_contrast_norm": Step((9,), {}, (16, 16, 56, 56)),
    "local_response_norm": Step((5,), {}, (16, 64, 28, 28)),
    "max_norm": Step((2, 0, 1.0), {}, (4096, 128)),
    "mean_subtraction": Step((), {}, (4096, 128), {}, {"segments": ((4096,), 64)}),
    "mean_variance_norm": Step(((0, 2, 3),), {}, (16, 64, 28, 28)),
    "message_norm": Step((), {}, (4096, 128), {"msg": (4096, 128)}),
    "observation_norm": Step((128,), {}, (8192, 128)),
    "orthogonal_weight": Step((), {}, (1024, 256)),
    "pair_norm": Step((), {}, (4096, 128), {}, {"segments": ((4096,), 64)}),
    "partial_rms_norm": Step((768,), {}, (1024, 768)),
    "pcen": Step((128,), {}, (4, 128, 1000)),
    "pixel_norm": Step((), {}, (4, 128, 32, 32)),
    "poly_norm": Step((), {}, (512, 1024)),
    "pop_art": Step((128,), {}, (8192, 128)),
    "positional_norm": Step((), {}, (8, 64, 32, 32)),
    "power_norm": Step((512,), {"warmup_iters": 0, "channel_axis": -1}, (16, 64, 512)),
    "revin": Step((32,), {}, (64, 336, 32)),
    "rezero": Step((), {}, (4, 256, 512), {"branch": (4, 256, 512)}),
    "rms_norm": Step((768,), {}, (1024, 768)),
    "robust_norm": Step((-1,), {}, (1024, 767)),
    "san": Step((32, 24), {}, (64, 336, 32)),
    "scale_norm": Step((27.7,), {}, (1024, 768)),
    "scaled_weight_standardization": Step((256,), {}, (256, 256, 3, 3)),
    "sliding_norm": Step((128, 100), {}, (4, 128, 1000)),
    "spade": Step((64,), {}, (8, 64, 32, 32), {"gamma": (8, 64, 32, 32), "beta": (8, 64, 32, 32)}),
    "spectral_norm": Step(((256, 256, 3, 3),), {}, (256, 256, 3, 3)),
    "split_batch_norm": Step((64,), {}, (16, 64, 28, 28)),
    "standardize": Step((128,), {"with_mean": False, "with_std": False}, (4096, 128)),
    "switchable_norm": Step((64,), {}, (16, 64, 28, 28)),
    "unit_norm": Step((), {}, (1024, 768)),
    "virtual_batch_norm": Step((64,), {}, (16, 64, 28, 28)),
    "weight_norm": Step(((256, 256, 3, 3),), {}, (256, 256, 3, 3)),
    "weight_standardization": Step((), {}, (256, 256, 3, 3)),
}


def step_of(name: str) -> tuple[Callable[[], object], int]:
    """A forward and a backward pass, and how many values x has."""
    made = ZOO[name]
    rng = np.random.default_rng(0)
    norm = nz.create(name, *made.arguments, **made.options)
    x, dy = rng.standard_normal((2, *made.shape), dtype=np.float32)
    if name == "pcen":
        x = np.abs(x)
    given: dict[str, Any] = {n: rng.standard_normal(shape, dtype=np.float32) for n, shape in made.inputs.items()}
    for n, (shape, end) in made.labels.items():
        given[n] = int(rng.integers(end)) if shape == () else rng.integers(end, size=shape)
    if name == "virtual_batch_norm":
        norm.refer(x)
    if name == "alpha_batch_norm":
        norm.eval()  # in training it is BatchNorm

    def step():
        norm(x, **given)
        return norm.backward(dy)

    return step, x.size


def require(name):
    if name not in nz.list_norms():
        raise NotImplementedError(f"{name} is newer")


@benchmark(ZOO, "norm", unit="times a streaming loop", setup=require)
def track_step(name):
    numba.set_num_threads(1)
    step, size = step_of(name)
    step()
    x, dy, out = np.ones((3, size), np.float32)

    def floor():
        stream(x, out)
        stream_two(x, dy, out)

    norm, floor_time = blocks([step, floor], rounds=5)
    return norm / floor_time
