"""The helpers of the suite can fail."""

import numpy as np
import pytest

from tests import check, oracles


def test_close_sees_an_error():
    check.close(np.ones(3) + 1e-13, np.ones(3), 1e-12)
    with pytest.raises(AssertionError, match="error"):
        check.close(np.ones(3) + 1e-11, np.ones(3), 1e-12)
    with pytest.raises(AssertionError, match="error"):
        check.close(np.array([np.nan, 1]), np.ones(2), 1e-12)
    with pytest.raises(AssertionError, match="shape"):
        check.close(np.ones(3), np.ones((3, 1)), 1e-12)


def test_same_bits_sees_one_bit():
    check.same_bits(np.array([1.0, np.nan]), np.array([1.0, np.nan]))
    with pytest.raises(AssertionError):
        check.same_bits(np.array([1.0]), np.nextafter(np.array([1.0]), 2))
    with pytest.raises(AssertionError, match="dtype"):
        check.same_bits(np.ones(1), np.ones(1, np.float32))


def test_gradient_matches_sees_a_wrong_gradient(rng):
    x, dy = rng.standard_normal((2, 4, 3, 5))

    def function(v):
        return oracles.batch_norm(v)

    # d(sum(dy * y)) / dx, element by element, by central differences: slow and independent of the complex step
    step, right = 1e-6, np.zeros_like(x)
    for i in np.ndindex(x.shape):
        e = np.zeros_like(x)
        e[i] = step
        right[i] = ((function(x + e) - function(x - e)) * dy).sum() / (2 * step)
    check.gradient_matches(function, x, right, dy, rng, 1e-7)
    with pytest.raises(AssertionError, match="slope"):
        check.gradient_matches(function, x, right * (1 + 1e-5), dy, rng, 1e-7)
    with pytest.raises(AssertionError, match="slope"):
        check.gradient_matches(function, x, right, rng.standard_normal(x.shape), rng, 1e-7)


def test_oracle_agrees_with_hand_arithmetic():
    np.testing.assert_allclose(oracles.standardize(np.array([1.0, 3.0]), 3.0), [-0.5, 0.5])
    np.testing.assert_allclose(oracles.rms_norm(np.array([[3.0, 4.0]]), (1,), eps=0.0), [[3, 4] / np.sqrt(12.5)])
    np.testing.assert_allclose(
        oracles.local_response_norm(np.ones((1, 2, 1)), 2, 2.0, 1.0, 1.0).ravel(), [1 / 2, 1 / 3]
    )
