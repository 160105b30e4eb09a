"""Digits that survive a mean far from zero.

The worst error of a pass in float32 against float64, in units in the last place: 2**-23 of the largest of 1 and the
value for y, of the largest dx for dx. Libraries that sum plain squares lose digits in proportion to mean/std, or to its square.
"""

import numba
import numpy as np

import normzoo as nz
from suites.cases import benchmark

RATIOS = (1.0, 1e2, 1e3, 1e4, 1e5, 1e6)  # mean / std
EPS = 1e-5
SETS = {  # shape, axes that a set spans, axis of the parameters
    "LayerNorm": ((128, 1024), (1,), 1),
    "BatchNorm": ((16, 16, 32, 32), (0, 2, 3), 1),
    "BatchNorm channels-last": ((16, 32, 32, 16), (0, 1, 2), 3),
}
CASES = [f"{norm} {direction}" for norm in SETS for direction in ("forward", "backward")]


def exact(x, dy, w, b, axes, axis):
    """y and dx in float64, by the formulas of Ioffe and Szegedy, 2015."""
    x, dy, w, b = (a.astype(np.float64) for a in (x, dy, w, b))
    along = [1] * x.ndim
    along[axis] = -1
    w, b = w.reshape(along), b.reshape(along)
    centred = x - x.mean(axes, keepdims=True)
    rstd = 1 / np.sqrt(np.square(centred).mean(axes, keepdims=True) + EPS)
    xhat, g = centred * rstd, dy * w
    dx = rstd * (g - g.mean(axes, keepdims=True) - xhat * (g * xhat).mean(axes, keepdims=True))
    return xhat * w + b, dx


@benchmark(CASES, unit="ulp")
def track_error(case, ratio):
    numba.set_num_threads(1)
    norm, direction = case.rsplit(maxsplit=1)
    shape, axes, axis = SETS[norm]
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal(shape) + mean for mean in (ratio, 0))
    x, dy, (w, b) = (
        x.astype(np.float32),
        dy.astype(np.float32),
        rng.standard_normal((2, shape[axis])).astype(np.float32),
    )
    if norm == "LayerNorm":
        found, saved = nz.functional.layer_norm(x, shape[1:], w, b, EPS, return_saved=True)
    else:
        options = {"eps": EPS, "channel_axis": axis, "return_saved": True}
        found, saved = nz.functional.batch_norm(x, None, None, w, b, True, **options)
    y, dx = exact(x, dy, w, b, axes, axis)
    if direction == "forward":
        error = np.max(np.abs(found - y) / np.maximum(1, np.abs(y)))
    else:
        error = np.max(np.abs(saved.backward(dy).x - dx)) / np.max(np.abs(dx))
    return float(error) * 2**23


track_error.params += [RATIOS]
track_error.param_names += ["mean / std"]
