"""Norms along time beyond their rows in the zoo: other libraries, steps, places, threads and errors."""

import numba
import numpy as np
import pytest

import normzoo as nz
from tests import check

NORMS = {
    "ExponentialNorm": lambda c, **o: nz.ExponentialNorm(c, 0.05, **o),
    "ExponentialNorm-plain": lambda c, **o: nz.ExponentialNorm(c, 0.05, center=False, **o),
    "CumulativeRMSNorm": nz.CumulativeRMSNorm,
    "SlidingNorm": lambda c, **o: nz.SlidingNorm(c, 11, **o),
    "PCEN": lambda c, **o: nz.PCEN(c, rate=0.07, **o),
}
each_norm = pytest.mark.parametrize("make", NORMS.values(), ids=NORMS)


def drawn(make, c, rng, **options):
    norm = make(c, **options)
    for p in norm.params.values():
        p[...] = rng.uniform(0.4, 0.9, p.shape)
    return norm


def energies(rng, shape, dtype=np.float32):
    return rng.exponential(3.0, shape).astype(dtype)


def test_exponential_moments_are_those_of_scipy_and_numpy(rng):
    """The mean is a recursive filter once 1 / alpha steps have come; until then all values count alike."""
    x = rng.standard_normal((1, 1, 60))
    y = nz.ExponentialNorm(1, 0.1, eps=0.0, affine=False)(x)[0, 0]
    v = x[0, 0]
    for t in range(1, 10):
        check.close(y[t], (v[t] - v[: t + 1].mean()) / v[: t + 1].std(), 1e-12)
    mean, var = v[:10].mean(), v[:10].var()
    for t in range(10, 60):
        mean, var = 0.9 * mean + 0.1 * v[t], 0.9 * (var + 0.1 * (v[t] - mean) ** 2)
        check.close(y[t], (v[t] - mean) / np.sqrt(var), 1e-12)


@each_norm
@pytest.mark.parametrize("channel_axis", [1, -1])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_steps_give_the_bits_of_the_whole(make, channel_axis, dtype, rng):
    norm = drawn(make, 19, rng, channel_axis=channel_axis)
    x = energies(rng, (3, 19, 5, 41) if channel_axis == 1 else (3, 41, 5, 19), dtype)
    y, past = norm(x), None
    axis = -1 if channel_axis == 1 else 1
    for t in range(41):
        one, past = norm.step(np.take(x, t, axis), past)
        check.same_bits(one, np.ascontiguousarray(np.take(y, t, axis)))


@each_norm
def test_layouts_and_threads_change_no_bit(make, rng):
    norm = drawn(make, 21, rng)
    x, dy = energies(rng, (5, 21, 403)), rng.standard_normal((5, 21, 403), np.float32)
    y, dx = norm(x), norm.backward(dy)
    grads = dict(norm.grads)
    turned = np.ascontiguousarray(x.swapaxes(1, 2)).swapaxes(1, 2)
    check.same_bits(norm(turned), y)
    check.same_bits(norm.backward(dy), dx)
    check.same_bits(norm(x[2:3]), y[2:3])
    before = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        check.same_bits(norm(x), y)
        check.same_bits(norm.backward(dy), dx)
    finally:
        numba.set_num_threads(before)
    for name, g in grads.items():
        check.same_bits(norm.grads[name], g)
    with nz.use("reference"):
        check.close(norm(x), y, 1e-6)
        check.close(norm.backward(dy), dx, 1e-5, float(np.abs(dx).max()))


@each_norm
def test_no_values(make, rng):
    norm = drawn(make, 4, rng)
    for shape in ((0, 4, 5), (2, 4, 0)):
        assert norm(np.empty(shape, np.float32)).shape == shape
        assert norm.backward(np.empty(shape, np.float32)).shape == shape
        assert all(not g.any() for g in norm.grads.values())
    assert norm.step(np.empty((0, 4), np.float32))[0].shape == (0, 4)


def test_zeros_are_harmless():
    zeros = np.zeros((2, 3, 20), np.float32)
    for norm in (nz.ExponentialNorm(3, eps=0.0), nz.CumulativeRMSNorm(3, eps=0.0), nz.PCEN(3, bias=0.0), nz.PCEN(3)):
        assert not norm(zeros).any()
        assert np.isfinite(norm.backward(np.ones_like(zeros))).all()
        assert all(np.isfinite(g).all() for g in norm.grads.values())


def test_far_and_long_series_lose_no_digits(rng):
    x = (1e6 + rng.standard_normal((2, 3, 50_000))).astype(np.float32)
    for alpha in (0.0, 0.001):
        norm = nz.ExponentialNorm(3, alpha)
        with nz.use("reference"):
            exact = norm(x[..., :2000].astype(np.float64))
        check.close(norm(x)[..., :2000], exact, 1e-6)
    v = x.astype(np.float64)
    last = (v[..., -1] - v.mean(axis=-1)) / np.sqrt(v.var(axis=-1) + 1e-5)
    check.close(nz.ExponentialNorm(3, 0.0)(x)[..., -1], last, 1e-6)


@pytest.mark.parametrize("centered", [False, True])
def test_a_jump_leaves_no_trace_in_later_windows(centered, rng):
    """Sums from which old values are subtracted lose all digits here."""
    plain, dy = rng.standard_normal((1, 2, 90)), rng.standard_normal((1, 2, 90))
    jump = plain.copy()
    jump[..., 40:45] = 1e13
    norm = nz.SlidingNorm(2, 6, centered=centered, dtype=np.float64)
    y, dx = norm(plain), norm.backward(dy)
    check.same_bits(norm(jump)[..., 60:], y[..., 60:])
    check.same_bits(norm.backward(dy)[..., 60:], dx[..., 60:])
    drift = 1e9 * np.arange(90)  # every window far from the next
    far = nz.SlidingNorm(2, 6, 0.0, affine=False, centered=centered)
    check.close(far(plain + drift), far(1e-9 * plain + np.arange(90)), 1e-12)
    for shape in ((0, 2, 9), (2, 2, 0), (2, 2, 1)):
        assert not norm(np.ones(shape)).any()


X = np.ones((2, 3, 4), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: nz.ExponentialNorm(3, 1.5), ValueError, r"alpha in \[0, 1\], the weight of a new value, got 1.5"),
        (lambda: nz.ExponentialNorm(3, "a"), TypeError, "alpha to be a number, got 'a'"),
        (lambda: nz.ExponentialNorm(3, channel_axis=2), ValueError, "channel_axis 1 or -1, got 2"),
        (lambda: nz.ExponentialNorm(4)(X), ValueError, r"expected x of shape \(N, 4, ...\), got \(2, 3, 4\)"),
        (lambda: nz.ExponentialNorm(3)(X[0]), ValueError, "rank 3 or more"),
        (lambda: nz.ExponentialNorm(3).step(X[..., 0], 3), TypeError, "past as step returned it, got int"),
        (
            lambda: nz.ExponentialNorm(3).step(X[:1, :, 0], nz.ExponentialNorm(3).step(X[..., 0])[1]),
            ValueError,
            "2 samples of 3 values, as before",
        ),
        (lambda: nz.SlidingNorm(3, 0), ValueError, "window"),
        (lambda: nz.SlidingNorm(3, 4)(X[:, :2]), ValueError, r"expected x of shape \(N, 3, ...\), got \(2, 2, 4\)"),
        (lambda: nz.SlidingNorm(3, 4, channel_axis=2), ValueError, "channel_axis 1 or -1, got 2"),
        (
            lambda: nz.SlidingNorm(3, 4, centered=True).step(X[..., 0]),
            ValueError,
            r"windows that end with the step, got centred ones; write SlidingNorm\(3, 4\)",
        ),
        (lambda: nz.SlidingNorm(3, 4).step(X[..., 0], 3), TypeError, "past as step returned it, got int"),
        (
            lambda: nz.SlidingNorm(3, 4).step(X[:1, :, 0], nz.SlidingNorm(3, 4).step(X[..., 0])[1]),
            ValueError,
            r"x of shape \(2, 3\), as before, got \(1, 3\)",
        ),
        (lambda: nz.PCEN(3)(-X), ValueError, r"expected x >= 0, energies or magnitudes, got -1; write np.abs\(x\)"),
        (lambda: nz.PCEN(3, power=0.0), ValueError, "power > 0, got 0.0"),
        (lambda: nz.PCEN(3, bias=-1.0), ValueError, "bias >= 0, got -1.0"),
        (lambda: nz.PCEN(3, rate=2.0), ValueError, r"rate in \(0, 1\], got 2.0"),
        (lambda: nz.PCEN(3).step((-X)[..., 0]), ValueError, "expected x >= 0"),
    ],
)
def test_what_does_not_fit_is_said(call, error, said):
    with pytest.raises(error, match=said):
        call()
