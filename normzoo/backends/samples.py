"""A few values of an array, by which it is seen that it has changed."""

from functools import lru_cache
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


def changed(owner: object, name: str) -> RuntimeError:
    """What to raise where the array of this name is seen to have changed between a pass and the one back."""
    remedy = "write h = h + norm(h) instead of h += norm(h), or norm(h.copy())"
    if name != "x":
        remedy = "change parameters after the backward pass"
    return RuntimeError(
        f"{owner}: expected {name} as it was in the forward pass, got other values: it was changed in place since; "
        f"{remedy}"
    )
