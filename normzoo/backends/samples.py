"""A few values of an array, compared later to detect that the array was changed in place."""

from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from normzoo.backends.contract import Array

SAMPLES = 8  # number of values: evenly spaced, the first and the last included


@lru_cache(maxsize=1024)
def places_in(size: int) -> Array:
    """Flat indices of the samples in an array of `size` values, in memory order."""
    return np.arange(SAMPLES) * max(size - 1, 0) // (SAMPLES - 1)


def sample(a: Any) -> bytes | None:
    """The bits of the samples of `a`; None for a device array or an empty array."""
    return samples_of(a, None) or None


_BITS = {2: np.int16, 4: np.int32, 8: np.int64}
WIDTH = 8 * SAMPLES  # bytes that the samples of one array take in the result of `samples_of`


def samples_of(x: Array, weight: Array | None) -> bytes:
    """The bits of the samples of x and, if there is one, of weight, each sample as an integer of 8 bytes."""
    bits = b""
    for a in (x, weight):
        if type(a) is np.ndarray and a.size:
            places = places_in(a.size)
            found = a.take(places) if a.flags.c_contiguous else a[np.unravel_index(places, a.shape)]
            bits += found.view(_BITS[found.itemsize]).astype(np.int64).tobytes()
    return bits


# What a pass keeps is one float64 array: either the statistics, (3, b, c), or a flat array of the statistics followed
# by samples in pairs, with room for both arrays of each: x and weight; and, of what stands around, another array (or x)
# and bias.


def kept_shape(stats_shape: tuple[int, ...], pairs: int = 1) -> tuple[int, ...]:
    """Shape of the flat array of statistics and samples."""
    return (prod(stats_shape) + 2 * SAMPLES * pairs,)


def together(stats: Array, *seen: bytes) -> Array:
    """One flat array of the statistics and the samples, those of each pair as `samples_of` gives them."""
    kept = np.empty(kept_shape(stats.shape, len(seen)))
    kept[: stats.size] = stats.reshape(stats.size)
    for pair, found in zip(kept[stats.size :].view(np.int64).reshape(len(seen), 2 * SAMPLES), seen, strict=True):
        pair[: len(found) // 8] = np.frombuffer(found, np.int64)
    return kept


def stats_in(kept: Array, stats_shape: tuple[int, ...]) -> Array:
    """The statistics in `kept`."""
    return kept if kept.ndim > 1 else kept[: prod(stats_shape)].reshape(stats_shape)


def samples_in(kept: Array, stats_shape: tuple[int, ...]) -> bytes | None:
    """The samples in `kept`, or None: two arrays' for each pair."""
    return None if kept.ndim > 1 else kept[prod(stats_shape) :].tobytes()


def changed(owner: object, name: str) -> RuntimeError:
    """The error for an array of this name that was changed between the forward and the backward pass."""
    remedy = "write h = h + norm(h) instead of h += norm(h), or norm(h.copy())"
    if name != "x":
        remedy = "change parameters after the backward pass"
    return RuntimeError(
        f"{owner}: expected {name} as it was in the forward pass, got other values: it was changed in place since; "
        f"{remedy}"
    )
