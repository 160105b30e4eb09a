"""Results of every processor and system have the bits of this table; on another machine, run this file there.

x is made of whole numbers, so that no library of mathematical functions takes part in it. A change of the bits on purpose
(another order of a sum, say) replaces the table: the test shows the new one.
"""

import hashlib

import numpy as np
import pytest

import normzoo as nz

CASES = {
    "rows": (lambda: nz.LayerNorm(768), (64, 768), np.float32),
    "rows, float16": (lambda: nz.LayerNorm(768), (64, 768), np.float16),
    "rows, float64": (lambda: nz.LayerNorm(300), (9, 300), np.float64),
    "rows with an activation": (lambda: nz.LayerNorm(768, activation="gelu"), (64, 768), np.float32),
    "runs": (lambda: nz.BatchNorm(16), (8, 16, 9, 9), np.float32),
    "columns": (lambda: nz.BatchNorm(64, channel_axis=-1), (300, 64), np.float32),
    "groups": (lambda: nz.GroupNorm(4, 32), (4, 32, 7, 7), np.float32),
    "few": (lambda: nz.RMSNorm(6), (50, 6), np.float32),
}
BITS = {
    "rows": "ba084f8af0d96b7b",
    "rows, float16": "65c0368a32e13c4a",
    "rows, float64": "5a6e7623e872f3a3",
    "rows with an activation": "94a2476272b86543",
    "runs": "76501e39b74fbd86",
    "columns": "ad442458354cc104",
    "groups": "9b2bb27375e3da9c",
    "few": "2c741b434dcae5c1",
}


def bits_of(make, shape, dtype):
    rng = np.random.default_rng(28)
    x, dy = (rng.integers(-(1 << 11), 1 << 11, (2, *shape)) / 512).astype(dtype)  # exact in float16, too
    norm = make()
    for a in norm.params.values():
        a[...] = rng.integers(-64, 64, a.shape) / 32
    y = norm(x)
    results = [y, norm.backward(dy), *norm.grads.values(), *norm.buffers.values()]
    assert all(np.isfinite(a).all() for a in results if a is not None)
    little = [np.ascontiguousarray(a, a.dtype.newbyteorder("<")).tobytes() for a in results if a is not None]
    return hashlib.sha256(b"".join(little)).hexdigest()[:16]


@pytest.mark.parametrize("case", CASES)
def test_bits_are_the_same_everywhere(case):
    assert {case: bits_of(*CASES[case])} == {case: BITS[case]}
