"""Strange values: what is defined is right on both backends, what is not stays in its set, and nothing raises or warns."""

import numpy as np
import pytest

import normzoo as nz
from tests import check
from tests.cases import CASES, draw, filled

SOME = [case for case in CASES if case.id in ("batch_norm-4d", "layer_norm-last", "group_norm-4d", "rms_norm-channels")]


def values(x):
    """Arrays of x's shape and of any magnitude."""
    for size in (1e-45, 1e-42, 1e-38, 1e-20, 1e20, 3e37):
        with np.errstate(all="ignore"):
            yield f"{size:g}", (x * np.float32(size)).astype(np.float32)
    for value in (0.0, -0.0, 1e-45, 7.25, 3e38):
        yield f"constant {value:g}", np.full_like(x, value)
    mixed = x.copy()
    mixed[..., ::2] *= np.float32(1e30)
    yield "mixed", mixed


@pytest.mark.parametrize("case", SOME, ids=str)
def test_any_magnitude(case, rng):
    """Against the reference, which computes in float64; a constant set gives exactly the bias where there is a mean."""
    x, dy = draw(case, rng, np.float32)
    norm = filled(case.norm(), rng)
    for name, strange in values(x):
        y, saved = norm.forward(strange)
        dx = saved.backward(dy).x
        with nz.use("reference"):
            exact, kept = norm.forward(strange)
            dexact = kept.backward(dy).x
        assert np.isfinite(y).all(), name
        check.close(y, exact, check.FORWARD32)
        scale = float(np.abs(dexact).max())
        if scale > 0:
            check.close(dx, dexact, 2e-5, scale)
        if name.startswith("constant") and "rms" not in case.id:
            np.testing.assert_array_equal(y, norm.forward(np.zeros_like(x))[0])


@pytest.mark.parametrize("case", SOME, ids=str)
def test_nan_and_inf_are_never_silent_numbers(case, rng):
    """Those in x come out in their set and in its dx; those in dy come out in dx."""
    x, dy = draw(case, rng, np.float32)
    norm = filled(case.norm(), rng)
    for poison in (np.nan, np.inf, -np.inf):
        bad = x.copy()
        bad[(0,) * x.ndim] = poison
        y, saved = norm.forward(bad)
        assert np.isnan(y[(0,) * x.ndim]) and np.isnan(saved.backward(dy).x[(0,) * x.ndim])
        bad = dy.copy()
        bad[(0,) * x.ndim] = poison
        assert not np.isfinite(norm.forward(x)[1].backward(bad).x[(0,) * x.ndim])
