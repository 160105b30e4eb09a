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


UNWRITTEN = """
import numpy as np
import normzoo as nz
from normzoo.backends.cpu.kernels import columns, columns_gradients, columns_split, columns_walk, few, moments, rows, rows_gradients, rows_split

SUBNORMAL = np.float32(1.2345e-41)  # takes a hundred cycles wherever it is computed with
made = []


def workspace(count, a):
    space = np.full(count, SUBNORMAL, np.float64 if a.itemsize == 8 else np.float32)
    made.append(space)
    return space


def watched(load):
    def look(a, i, *arguments):
        v = load(a, i, *arguments)
        if any(a is space for space in made):
            assert not (v == a.dtype.type(SUBNORMAL)).any(), f"lanes that nobody wrote, at {i} of {a.size}"
        return v

    return look


for module in (columns, columns_gradients, columns_split, columns_walk, few, moments, rows, rows_gradients, rows_split):
    for name in ("load", "load_as"):
        if hasattr(module, name):
            setattr(module, name, watched(getattr(module, name)))
    if hasattr(module, "workspace"):
        module.workspace = workspace

rng = np.random.default_rng(0)
for norm, shape in ((nz.BatchNorm(2), (9, 2)), (nz.BatchNorm(17), (9, 17)), (nz.BatchNorm(3, channel_axis=-1), (2, 3, 3, 3)),
                    (nz.BatchNorm(3), (600, 3)), (nz.BatchNorm(5), (9, 5, 3)), (nz.LayerNorm(40, axis=1), (2, 40, 3)),
                    (nz.GroupNorm(3, 9, channel_axis=-1), (2, 40, 9)), (nz.InstanceNorm(3, channel_axis=-1), (2, 40, 3)),
                    (nz.LayerNorm(37), (5, 37)), (nz.LayerNorm(3), (5, 3)), (nz.GroupNorm(2, 6), (3, 6, 7)),
                    (nz.L1BatchNorm(3), (9, 3)), (nz.BatchNorm(33), (2, 33))):
    x = rng.standard_normal(shape).astype(np.float32)
    norm(x)
    norm.backward(x)
    norm.eval()
    norm(x)
    norm.backward(x)
    made.clear()
"""


def test_no_lane_is_read_that_was_not_written():
    script(UNWRITTEN, NUMBA_DISABLE_JIT=1)
