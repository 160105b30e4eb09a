"""Kernels of windows and scans against the reference: odd shapes, dtypes, layouts, threads, and the ends of range."""

import itertools
import tracemalloc

import ml_dtypes
import numba
import numpy as np
import pytest

import normzoo as nz
from tests import check

DTYPES = np.float32, np.float64, np.float16, ml_dtypes.bfloat16


def both(norm, x, dy):
    """(y, dx) of a norm."""
    return norm(x), norm.backward(dy)


def exact(norm, x, dy):
    with nz.use("reference"):
        return both(norm, x.astype(np.float64), dy.astype(np.float64))


def agrees(norm, x, dy, forward=None, backward=None):
    """Kernels of x's dtype and the definition in float64; returns what the kernels gave."""
    y, dx = both(norm, x, dy)
    assert y.dtype == dx.dtype == x.dtype
    rounding = 0.0 if x.dtype.itemsize > 2 else 2.0 ** (-11 if x.dtype == np.float16 else -8)
    expected, expected_dx = exact(norm, x, dy)
    wide = x.dtype == np.float64
    check.close(y, expected, (forward or (check.EXACT if wide else check.FORWARD32)) + rounding)
    scale = max(float(np.abs(expected_dx).max()), 1e-30) if x.size else None
    check.close(dx, expected_dx, (backward or (check.EXACT if wide else check.BACKWARD32)) + rounding, scale)
    return y, dx


def drawn(rng, shape, dtype=np.float32, size=1.0):
    return (size * rng.standard_normal(shape)).astype(dtype), rng.standard_normal(shape).astype(dtype)


def each_of(dtypes, others, names):
    """Every dtype with the first of the others, and float32 with every one; the remaining pairs are slow."""
    pairs = itertools.product(dtypes, others)
    chosen = [
        pair if pair[0] == np.float32 or pair[1] == others[0] else pytest.param(*pair, marks=pytest.mark.slow)
        for pair in pairs
    ]
    return pytest.mark.parametrize(names, chosen, ids=str)


# local response normalization


@pytest.mark.parametrize(
    "shape", [(2, 7, 3), (1, 1, 1), (3, 64, 5, 5), (2, 40, 33, 31), (2, 5, 1500), (40, 16, 1)], ids=str
)
@pytest.mark.parametrize("size", [1, 2, 5, 11, 100])
def test_responses_are_those_of_the_definition(shape, size, rng):
    x, dy = drawn(rng, shape, size=3)
    agrees(nz.LocalResponseNorm(size, 0.7, 0.75, 2.0), x, dy)
    agrees(nz.LocalResponseNorm(size, 0.7, 0.75, 2.0, even="after", channel_axis=-1), x, dy)


@each_of(DTYPES, [0.75, 0.25, 0.5, 1.0, 0.6, 3.0, -0.5, 0.0], names=("dtype", "beta"))
def test_responses_of_every_power_and_dtype(beta, dtype, rng):
    x, dy = drawn(rng, (2, 19, 6, 3), dtype)
    agrees(nz.LocalResponseNorm(5, 0.5, beta), x, dy)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1), (1, 0, 3, 2), (3, 2, 1, 0)])
def test_responses_take_any_order_of_axes_as_it_is(order, rng):
    x, dy = drawn(rng, (3, 20, 5, 7))
    norm = nz.LocalResponseNorm(5, 0.5)
    y, dx = both(norm, x, dy)
    inverse = np.argsort(order)
    turned = np.ascontiguousarray(x.transpose(order)).transpose(inverse)
    again, dx_again = both(norm, turned, dy)
    check.close(again, y, check.FORWARD32)
    check.close(dx_again, dx, check.BACKWARD32)
    assert again.strides == turned.strides
    assert np.may_share_memory(norm.saved._v, turned), "x is not copied"


@pytest.mark.parametrize("shape", [(8, 96, 27, 27), (700, 130, 3)])
@pytest.mark.parametrize("axis", [1, -1])
def test_responses_have_the_same_bits_on_any_number_of_threads_and_in_any_batch(shape, axis, rng):
    x, dy = drawn(rng, shape)
    norm, before = nz.LocalResponseNorm(5, 0.5, channel_axis=axis), numba.get_num_threads()
    y, dx = both(norm, x, dy)
    try:
        numba.set_num_threads(1)
        alone = both(norm, x, dy)
    finally:
        numba.set_num_threads(before)
    one = both(norm, x[3:4], dy[3:4])
    for found, expected, single in zip(alone, (y, dx), one, strict=True):
        check.same_bits(found, expected)
        check.same_bits(single, expected[3:4])


@pytest.mark.parametrize("dtype", [np.float32, np.float64, ml_dtypes.bfloat16])
@pytest.mark.parametrize("k", [0.0, 1.0, -1.0])
@pytest.mark.parametrize("power", [-60, -20, 20, 60])
def test_responses_where_squares_leave_the_range_of_float32(power, k, dtype, rng):
    x, dy = rng.standard_normal((2, 3, 17, 9))
    x, dy = (np.ldexp(x, power)).astype(dtype), dy.astype(dtype)
    norm = nz.LocalResponseNorm(3, 0.5, 0.75, k)
    (y, dx), (expected, expected_dx) = both(norm, x, dy), exact(norm, x, dy)
    tolerance = {np.float32: 1e-5, np.float64: 1e-12}.get(dtype, 1e-2)
    for found, wanted in ((y, expected), (dx, expected_dx)):
        np.testing.assert_array_equal(np.isnan(found.astype(np.float64)), np.isnan(wanted))
        seen = ~np.isnan(wanted)
        if seen.any():
            check.close(found[seen], wanted[seen], tolerance, np.abs(wanted[seen]).max())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_response_that_is_no_number_stays_in_its_windows(value, rng):
    x, dy = drawn(rng, (2, 30, 7))
    clean, clean_dx = both(nz.LocalResponseNorm(5), x, dy)
    x[0, 9, 3] = value
    y, dx = both(nz.LocalResponseNorm(5), x, dy)
    seen = np.zeros(x.shape, bool)
    seen[0, 9, 3] = True
    np.testing.assert_array_equal(
        np.isnan(y)[0, :, 3], [(np.isnan(value) and abs(c - 9) <= 2) or c == 9 for c in range(30)]
    )
    far = np.ones(x.shape, bool)
    far[0, 5:14, 3] = False
    check.close(y[far], clean[far], check.FORWARD32)
    check.close(dx[far], clean_dx[far], check.BACKWARD32)


def test_responses_of_mixed_dtypes_outs_and_no_values(rng):
    x, dy = drawn(rng, (2, 9, 5))
    norm = nz.LocalResponseNorm(3, 0.5)
    y, dx = both(norm, x, dy)
    norm(x)
    check.close(norm.backward(dy.astype(np.float64)), dx, check.BACKWARD32)
    half = x.astype(np.float16)
    norm(half)
    assert norm.backward(dy).dtype == np.float16
    out = np.full((2, 9, 10), np.nan, np.float32)
    norm(x, out=out[..., ::2])
    check.same_bits(out[..., ::2], y)
    given = dy.copy()
    check.same_bits(norm.backward(given, out=given), dx)
    norm(x)
    check.same_bits(norm.backward(dy, out=x), dx)
    for shape in ((0, 3, 4), (2, 0, 4), (2, 3, 0)):
        empty = np.empty(shape, np.float32)
        assert norm(empty).shape == norm.backward(empty).shape == shape


def test_a_response_whose_x_has_changed_says_so(rng):
    x, dy = drawn(rng, (2, 9, 5))
    norm = nz.LocalResponseNorm(3)
    norm(x)
    x += 1
    with pytest.raises(RuntimeError, match=r"LocalResponseNorm\(3\): expected x as it was"):
        norm.backward(dy)


# cumulative layer normalization


def scan_of(shape, channel_axis, dtype, rng):
    norm = nz.CumulativeLayerNorm(shape[channel_axis], 1e-6, channel_axis=channel_axis, dtype=dtype)
    norm.weight[:], norm.bias[:] = rng.standard_normal((2, shape[channel_axis]))
    return norm


@pytest.mark.parametrize("shape", [(2, 5, 40), (1, 3, 7), (3, 33, 2, 17), (1, 4, 3, 5, 100), (5, 40, 3)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_cumulative_moments_are_those_of_the_definition(shape, dtype, rng):
    for axis in (1, -1):
        x, dy = drawn(rng, shape, dtype)
        norm = scan_of(shape, axis, np.float64 if dtype == np.float64 else np.float32, rng)
        _, _, grads = *agrees(norm, x, dy), dict(norm.grads)
        with nz.use("reference"):
            both(norm, x, dy)
        for name, d in grads.items():
            check.close(d, norm.grads[name], 1e-6, float(np.abs(dy.astype(np.float64)).sum()))


@pytest.mark.parametrize("axis", [1, -1])
def test_cumulative_moments_far_from_0_after_silence_and_of_constants(axis, rng):
    x, dy = drawn(rng, (2, 7, 90))
    x = (1e4 + 0.1 * x).astype(np.float32)
    x[:, :3], x[..., :3] = x[:, :3], 0
    agrees(nz.CumulativeLayerNorm(x.shape[axis], channel_axis=axis), x, dy)
    agrees(nz.CumulativeLayerNorm(x.shape[axis], channel_axis=axis), (1e6 + 0 * x + 0.5 * dy).astype(np.float32), dy)
    for value, eps in ((0.1, 1e-8), (0.1, 0.0), (0.0, 0.0)):
        norm = nz.CumulativeLayerNorm(x.shape[axis], eps, channel_axis=axis)
        y, dx = both(norm, np.full_like(x, value), dy)
        assert not y.any(), "a constant sequence gives the bias"
        assert np.isfinite(dx).all()


def test_cumulative_steps_lie_in_memory_either_way(rng):
    x, dy = drawn(rng, (2, 20, 3, 50))
    norm = nz.CumulativeLayerNorm(20)
    y, dx = both(norm, x, dy)
    turned = np.ascontiguousarray(x.transpose(0, 3, 2, 1)).transpose(0, 3, 2, 1)
    again, dx_again = both(norm, turned, dy)
    assert np.may_share_memory(norm.saved._v, turned), "x is not copied"
    assert again.strides == turned.strides
    check.close(again, y, check.FORWARD32)
    check.close(dx_again, dx, check.BACKWARD32)


@pytest.mark.parametrize("axis", [1, -1])
def test_cumulative_layer_norm_has_the_same_bits_on_any_number_of_threads_and_in_any_batch(axis, rng):
    x, dy = drawn(rng, (5, 40, 3, 120))
    norm, before = scan_of(x.shape, axis, np.float32, rng), numba.get_num_threads()
    y, dx, dweight = *both(norm, x, dy), norm.grads["weight"]
    try:
        numba.set_num_threads(1)
        alone = both(norm, x, dy)
        check.same_bits(norm.grads["weight"], dweight)
    finally:
        numba.set_num_threads(before)
    one = both(norm, x[3:4], dy[3:4])
    for found, expected, single in zip(alone, (y, dx), one, strict=True):
        check.same_bits(found, expected)
        check.same_bits(single, expected[3:4])


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_cumulative_steps_go_on_from_any_past(axis, dtype, rng):
    x = drawn(rng, (3, 9, 2, 21), dtype)[0]
    if axis == -1:
        x = np.ascontiguousarray(x.transpose(0, 3, 2, 1))
    norm, past = scan_of(x.shape, axis, np.float32, rng), None
    y, time = norm(x), -1 if axis == 1 else 1
    for t in range(21):
        step, past = norm.step(np.take(x, t, axis=time), past)
        check.same_bits(step, np.take(y, t, axis=time))
    with nz.use("reference"):
        again, other = norm.step(np.take(x, 3, axis=time), past)
    step, past = norm.step(np.take(x, 3, axis=time), past)
    check.close(step, again, 1e-6 if dtype != np.float16 else 1e-3)
    check.close(past.m2, other.m2, 1e-12, float(other.m2.max()))


def test_a_nan_reaches_all_later_steps_of_its_sample(rng):
    x, dy = drawn(rng, (2, 5, 40))
    x[1, 2, 20] = np.nan
    y = nz.CumulativeLayerNorm(5)(x)
    assert np.isfinite(y[0]).all() and np.isfinite(y[1, :, :20]).all() and np.isnan(y[1, :, 20:]).all()
    for shape in ((0, 5, 4), (2, 5, 0)):
        norm = nz.CumulativeLayerNorm(5)
        assert both(norm, np.empty(shape, np.float32), np.empty(shape, np.float32))[1].shape == shape
        assert not norm.grads["weight"].any()


# windows of positions

WINDOWED = {
    "contrast": lambda c, axis, dtype: nz.LocalContrastNorm(3, channel_axis=axis),
    "divisive": lambda c, axis, dtype: nz.DivisiveNorm(c, 3, 4, 0.1, channel_axis=axis, dtype=dtype),
}  # fmt: skip
each_windowed = pytest.mark.parametrize("name", WINDOWED)


@each_windowed
@each_of(DTYPES, [(3, 33, 6, 17), (2, 5, 40), (1, 7, 4, 3, 5), (2, 19, 1, 1), (1, 3, 20, 19)], names=("dtype", "shape"))
def test_windows_of_positions_are_those_of_the_definition(name, shape, dtype, rng):
    for axis in (1, -1):
        norm = WINDOWED[name](shape[axis], axis, np.float64 if dtype == np.float64 else np.float32)
        for p in norm.params.values():
            p[...] = rng.standard_normal(p.shape)
        x, dy = drawn(rng, shape, dtype)
        agrees(norm, x, dy)
        grads = dict(norm.grads)
        with nz.use("reference"):
            both(norm, x, dy)
        for key, d in grads.items():
            check.close(d, norm.grads[key], 1e-6, float(np.abs(dy.astype(np.float64)).sum()))
        agrees(norm, (1e4 + 0.1 * rng.standard_normal(shape)).astype(np.float32), dy.astype(np.float32))


@each_windowed
def test_windows_of_positions_take_channels_first_and_last_as_they_are(name, rng):
    x, dy = drawn(rng, (2, 20, 9, 11))
    norm = WINDOWED[name](20, 1, np.float32)
    y, dx = both(norm, x, dy)
    turned = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    again, dx_again = both(norm, turned, dy)
    assert np.may_share_memory(norm.saved._v, turned), "x is not copied"
    assert again.strides == turned.strides
    check.close(again, y, check.FORWARD32)
    check.close(dx_again, dx, check.BACKWARD32)


@each_windowed
@pytest.mark.parametrize("axis", [1, -1])
def test_windows_of_positions_have_the_same_bits_on_any_number_of_threads_and_in_any_batch(name, axis, rng):
    x, dy = drawn(rng, (5, 40, 31, 37))
    norm, before = WINDOWED[name](x.shape[axis], axis, np.float32), numba.get_num_threads()
    y, dx, grads = *both(norm, x, dy), dict(norm.grads)
    try:
        numba.set_num_threads(1)
        alone = both(norm, x, dy)
        for key, d in grads.items():
            check.same_bits(norm.grads[key], d)
    finally:
        numba.set_num_threads(before)
    one = both(norm, x[3:4], dy[3:4])
    for found, expected, single in zip(alone, (y, dx), one, strict=True):
        check.same_bits(found, expected)
        check.same_bits(single, expected[3:4])


@pytest.mark.parametrize("make", [
    lambda: nz.LocalResponseNorm(5), lambda: nz.DivisiveNorm(64, 3, 3), lambda: nz.CumulativeLayerNorm(64),
])  # fmt: skip
def test_a_pass_takes_the_memory_of_its_result_and_of_what_has_no_channels(make, rng):
    x, dy = drawn(rng, (4, 64, 32, 64))
    norm = make()
    both(norm, x, dy)
    tracemalloc.start()
    try:
        _ = norm(x)
        forward = tracemalloc.get_traced_memory()[1]
        norm.backward(dy)
        backward = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert forward < 1.5 * x.nbytes
    assert backward < 2.7 * x.nbytes
