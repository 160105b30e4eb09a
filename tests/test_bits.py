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


EVALUATED = [(8, 33, 9, 9), (1, 40, 5, 5), (8, 20, 4, 4), (3, 5, 2, 2), (2, 7, 16, 1), (2, 3, 50, 50), (9, 4, 3, 1)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_an_evaluation_has_the_same_bits_whatever_is_beside_a_value(dtype, rng):
    """Runs, sets side by side, columns, channels last and single channels go by different kernels."""
    for shape in EVALUATED:
        c = shape[1]
        x, residual = (rng.standard_normal((2, *shape)) * 3 + 50).astype(dtype)
        mean, var, weight, bias = (a.astype(np.float32) for a in rng.random((4, c)) * [[100], [1], [2], [1]] + 0.5)
        given = [mean, var, weight, bias]
        around = {"activation": "silu"}, {"residual": residual, "activation": "relu"}
        for more in ({}, *(around if dtype is np.float32 else ())):

            def y_of(x, given, more=more, **options):
                named = {k: options.get(k, v) for k, v in more.items()}
                found = nz.functional.batch_norm(x, *given, **named)
                return found[0] if "residual" in named else found

            y = y_of(x, given)
            for i in range(shape[0]):
                assert np.array_equal(y_of(x[i : i + 1], given, residual=residual[i : i + 1]), y[i : i + 1]), shape
            for j in range(c):
                one = np.ascontiguousarray(x[:, j : j + 1]), [a[j : j + 1] for a in given]
                assert np.array_equal(
                    y_of(*one, residual=np.ascontiguousarray(residual[:, j : j + 1])), y[:, j : j + 1]
                ), shape
