"""Norms by the mean and spread of windows of positions: x is read for what is found of the channels of each position,
and normalized by it; windows are of arrays without channels, in float64."""

from collections.abc import Callable, Mapping
from math import prod
from typing import NamedTuple

import numpy as np

from normzoo.backends.contract import Array, Backend, Dims
from normzoo.backends.forms import Window
from normzoo.passes.arrays import compute_dtype
from normzoo.passes.saved import Saved
from normzoo.passes.whole import Back, order_of, whole


class Found(NamedTuple):
    """y = (x - mean) * rstd * weight + bias; both (N, ...), of each position."""

    mean: Array
    rstd: Array
    # From means over the channels, of g and of g * xhat: constant and slope of dx = g * rstd + constant + xhat * slope.
    back: Callable[[Array, Array], tuple[Array, Array]]


class Task(NamedTuple):
    """What is normalized, and how."""

    owner: object
    channel_axis: int  # counted from the front
    params: Mapping[str, Array]
    unit: Array  # (N,), powers of two that x is multiplied by
    find: Callable[[Backend, Array, Array], Found]  # of mean and variance over the channels, (N, ...), in this unit


def by_windows(task: Task, x: Array, out: Array | None) -> tuple[Array, Saved]:
    """y and the `Saved` of the pass; x, channels first or last, is not copied."""
    axis = task.channel_axis
    rest = tuple(i for i in range(1, x.ndim) if i != axis)
    is_last = order_of(x) == (0, *rest, axis)
    axes = (0, *rest, axis) if is_last else (0, axis, *rest)
    places = len(x), *(x.shape[i] for i in rest)
    channels, size = x.shape[axis], x.size // max(1, len(x) * x.shape[axis])
    dims = (len(x) * size, channels, 1) if is_last else (len(x), channels, size)
    view: Dims = (dims[0], 1, 1, channels) if is_last else (*dims, 1)
    parameter_view: Dims = (1, 1, 1, channels) if is_last else (1, channels, 1, 1)
    far = None if (task.unit == 1).all() else task.unit.reshape(-1, *[1] * (x.ndim - 1))

    def forward(backend: Backend, v: Array, y: Array) -> Back:
        if not v.size:
            return lambda backend, d, v, dx: {name: np.zeros(channels) for name in task.params}
        dtype = compute_dtype(v.dtype)
        own_weight = task.params.get("weight", np.ones(channels)).astype(np.float64)
        bias = task.params.get("bias", np.zeros(channels))
        moments = backend.position_moments(dims, v.dtype)(v if far is None else v * far)
        found = task.find(backend, *moments.reshape(2, *places))
        stats = np.stack([found.mean, np.zeros(places), found.rstd]).reshape(3, dims[0], dims[2])
        run = backend.apply(view, parameter_view, dtype, v.dtype)
        run(v if far is None else v * far, stats, own_weight.astype(dtype), bias.astype(dtype), y)

        def back(backend: Backend, d: Array, v: Array, dx: Array) -> dict[str, Array]:
            dtype = compute_dtype(v.dtype)
            weight, scaled = own_weight.astype(dtype), v if far is None else v * far
            means, (dweight, dbias) = backend.position_sums(dims, dtype, v.dtype)(d, scaled, weight, stats)
            more = np.stack(found.back(*means.reshape(2, *places))).reshape(2, dims[0], dims[2])
            backend.position_gradient(dims, dtype, v.dtype)(d, scaled, weight, stats, more, dx)
            if far is not None:
                dx *= far
            return {"weight": dweight, "bias": dbias}

        return back

    return whole(task.owner, x, out, axes, forward, task.params)


Smooth = Callable[[Array], Array]


def windows(backend: Backend, shape: tuple[int, ...], taps: list[Array]) -> tuple[Smooth, Smooth]:
    """Weighted means around every position, and how gradients go back.

    Args:
        shape: (N, ...), of what the two functions take.
        taps: the window's weights along each axis of positions, or once for all; what lies outside has weight 0. A
            window of an even size has one more behind than before.
    """
    taps = taps * (len(shape) - 1) if len(taps) == 1 else taps

    def along(v: Array, back: bool) -> Array:
        for axis, weights in enumerate(taps, start=1):
            dims = prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :])
            window = Window((weights.size - 1) // 2, tuple(weights.tolist()))
            v = backend.window_means(dims, window, back)(v)
        return v.reshape(shape)

    return lambda v: along(v, False), lambda v: along(v, True)
