"""The only comparisons of the suite. Each takes the scale it measures against; test_check.py shows each to fail."""

import numpy as np

# float64 kernels and the reference differ from exact arithmetic by rounding alone: about 1e-16 times a few steps, and
# 1e-12 leaves room for the condition |mean|/std of ordinary data.
EXACT = 1e-12
# float32: the numeric contract of the library, y relative to max(1, |xhat*weight|, |bias|), dx to max|dx|.
FORWARD32, BACKWARD32 = 1e-6, 1e-5


def forward_tolerance(dtype):
    return FORWARD32 if np.dtype(dtype) == np.float32 else EXACT


def backward_tolerance(dtype):
    return BACKWARD32 if np.dtype(dtype) == np.float32 else EXACT


def close(actual, expected, tolerance, scale=None):
    """|actual - expected| <= tolerance * scale everywhere; the scale is max(1, max|expected|) unless given."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    if expected.size == 0:
        return
    if scale is None:
        scale = max(1.0, float(np.abs(expected).max()))
    error = np.abs(actual.astype(np.float64) - expected.astype(np.float64)) / scale
    worst = float(np.nanmax(error)) if not np.isnan(error).all() else np.nan
    assert (error <= tolerance).all(), f"error {worst:.2e} of the scale, allowed {tolerance:.0e}"


def same_bits(actual, expected):
    """Equal shape, dtype and bits; NaN equals NaN."""
    assert actual.dtype == expected.dtype, f"dtype {actual.dtype}, expected {expected.dtype}"
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    np.testing.assert_array_equal(actual, expected)


def slope(function, x, direction):
    """Derivative of `function` at x along `direction` by the complex step: exact to rounding, no cancellation."""
    step = 1e-30
    return function(x + 1j * step * direction).imag / step


def slope_near(function, x, direction):
    """The same by central differences, of sixth order: right to about 1e-10 where `function` is smooth."""
    step = 2.0**-8
    at = [function(x + i * step * direction) - function(x - i * step * direction) for i in (1, 2, 3)]
    return (45 * at[0] - 9 * at[1] + at[2]) / (60 * step)


def gradient_near(function, x, gradient, dy, rng, tolerance):
    """`gradient_matches` for a function that takes real numbers only."""
    gradient_matches(function, x, gradient, dy, rng, tolerance, lambda f, v, d: slope_near(f, v.real, d))


def gradient_matches(function, x, gradient, dy, rng, tolerance, slope=slope):
    """`gradient` equals that of sum(dy * function(x)), in two random directions; `function` takes complex numbers."""
    assert gradient.shape == x.shape, f"gradient of shape {gradient.shape}, expected {x.shape}"
    for _ in range(2):
        direction = rng.standard_normal(x.shape)
        exact = float(slope(lambda v: (dy * function(v)).sum(), x.astype(complex), direction))
        # The sum of |terms| is what rounding is relative to: the terms cancel, the errors need not.
        scale = float(np.abs(gradient.astype(np.float64) * direction).sum()) + 1e-30
        found = float((gradient.astype(np.float64) * direction).sum())
        assert abs(found - exact) <= tolerance * scale, f"slope {found:.17g}, exactly {exact:.17g}"
