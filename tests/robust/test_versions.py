"""Numba switched off: kernels are plain Python then, which gives the same results and counts their lines."""

from tests.robust.process import script

WITHOUT = """
import numba
import numpy as np
import normzoo as nz

assert numba.config.DISABLE_JIT
rng = np.random.default_rng(0)
for norm, shape in ((nz.LayerNorm(19), (3, 19)), (nz.BatchNorm(5), (4, 5)), (nz.BatchNorm(3), (2, 3, 17)),
                    (nz.GroupNorm(2, 4), (2, 4, 3)), (nz.RMSNorm(6, axis=1), (2, 6, 5))):
    x, dy = (5 + rng.standard_normal((2, *shape))).astype(np.float32)
    y, saved = norm.forward(x)
    found = y, *saved.backward(dy)
    with nz.use("reference"):
        y, saved = norm.forward(x)
        expected = y, *saved.backward(dy)
    for a, b in zip(found, expected):
        if b is not None:
            assert a.dtype == b.dtype and np.abs(a - b).max() <= 2e-5 * max(1, np.abs(b).max()), (str(norm), np.abs(a - b).max())

from tests.test_backends import test_every_parameter_view as views
views((1, 9, 5, 49), np.float32, rng)  # runs of more than a vector's lanes that no vector fits
"""


def test_without_compilation():
    script(WITHOUT, NUMBA_DISABLE_JIT=1)
