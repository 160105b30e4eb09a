"""A few values of an array, by which it is seen that it has changed."""

from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from normzoo.backends.contract import Array

SAMPLES = 8  # values, evenly apart, the first and the last among them


@lru_cache(maxsize=1024)
def places_in(size: int) -> Array:
    """Where they are among so many, counted in the order of memory."""
    return np.arange(SAMPLES) * max(size - 1, 0) // (SAMPLES - 1)


def sample(a: Any) -> bytes | None:
    """The bits of these values; None of an array on a device, or without values."""
    return samples_of(a, None) or None


_BITS = {2: np.int16, 4: np.int32, 8: np.int64}
WIDTH = 8 * SAMPLES  # bytes that the values of an array take among those of two


def samples_of(x: Array, weight: Array | None) -> bytes:
    """The bits of some values of x and, if there is one, of weight, each as an integer of 8 bytes."""
    bits = b""
    for a in (x, weight):
        if type(a) is np.ndarray and a.size:
            places = places_in(a.size)
            found = a.take(places) if a.flags.c_contiguous else a[np.unravel_index(places, a.shape)]
            bits += found.view(_BITS[found.itemsize]).astype(np.int64).tobytes()
    return bits


# What a pass leaves, in one array of float64: statistics, (3, b, c), or these and the samples of x and weight, flat.


def kept_shape(stats_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of statistics and samples."""
    return (prod(stats_shape) + 2 * SAMPLES,)


def together(stats: Array, seen: bytes) -> Array:
    """Statistics and samples in one."""
    kept = np.empty(kept_shape(stats.shape))
    kept[: stats.size] = stats.reshape(stats.size)
    kept[stats.size :].view(np.int64)[: len(seen) // 8] = np.frombuffer(seen, np.int64)
    return kept


def stats_in(kept: Array, stats_shape: tuple[int, ...]) -> Array:
    """The statistics."""
    return kept if kept.ndim > 1 else kept[: -2 * SAMPLES].reshape(stats_shape)


def samples_in(kept: Array) -> bytes | None:
    """The samples, if there are any; with room for a weight."""
    return None if kept.ndim > 1 else kept[-2 * SAMPLES :].tobytes()


def changed(owner: object, name: str) -> RuntimeError:
    """What to raise where the array of this name is seen to have changed between a pass and the one back."""
    remedy = "write h = h + norm(h) instead of h += norm(h), or norm(h.copy())"
    if name != "x":
        remedy = "change parameters after the backward pass"
    return RuntimeError(
        f"{owner}: expected {name} as it was in the forward pass, got other values: it was changed in place since; "
        f"{remedy}"
    )
