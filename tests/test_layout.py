"""Strange arrays: any strides, byte order, alignment, dtype and subclass give the answer of the plain array."""

import itertools

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import normzoo as nz
from tests import check
from tests.cases import CASES, channels_last_strides, draw, filled


def strided(x):
    """The values of x in every arrangement of memory a user may come with."""
    yield "negative", np.ascontiguousarray(x[::-1])[::-1]
    yield "negative-last", np.ascontiguousarray(x[..., ::-1])[..., ::-1]
    yield "fortran", np.asfortranarray(x)
    wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
    wide[..., ::2] = x
    yield "every-second", wide[..., ::2]
    tall = np.zeros((2 * x.shape[0], *x.shape[1:]), x.dtype)
    tall[::2] = x
    yield "rows-apart", tall[::2]
    raw = bytearray(x.nbytes + 1)
    odd = np.frombuffer(raw, x.dtype, x.size, offset=1).reshape(x.shape)
    odd[...] = x
    yield "misaligned", odd
    frozen = x.copy()
    frozen.flags.writeable = False
    yield "read-only", frozen
    yield "subclass", x.copy().view(np.memmap)
    axes = np.random.default_rng(0).permutation(x.ndim)
    yield "transposed", np.ascontiguousarray(x.transpose(axes)).transpose(np.argsort(axes))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_any_strides_give_the_same_bits(case, rng):
    x, dy = draw(case, rng, np.float32)
    norm = filled(case.norm(), rng)
    y = norm(x)
    expected = (y, norm.backward(dy), norm.grads)
    for (name, a), (_, d) in zip(strided(x), strided(dy), strict=True):
        found = norm(a)
        check.same_bits(np.asarray(found), expected[0])
        assert type(found) is np.ndarray, name
        check.same_bits(norm.backward(d), expected[1])
        for key, gradient in norm.grads.items():
            check.same_bits(gradient, expected[2][key])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_dy_may_lie_otherwise_than_x(case, rng):
    x, dy = draw(case, rng, np.float32)
    norm = filled(case.norm(), rng)
    for a in (x, channels_last_strides(x)):
        norm(a)
        dx = norm.backward(dy)
        norm(a)
        check.same_bits(norm.backward(channels_last_strides(dy)), dx)
        check.same_bits(norm.backward(np.broadcast_to(dy[:1], dy.shape)), norm.backward(np.repeat(dy[:1], len(dy), 0)))


@pytest.mark.parametrize("shape", [(4, 6, 5, 7), (2, 6, 3, 4, 5), (3, 6, 9)], ids=str)
def test_channels_last_arrays_are_not_copied_and_stay_channels_last(shape, rng):
    x = channels_last_strides(rng.standard_normal(shape).astype(np.float32))
    for norm in (nz.BatchNorm(6), nz.InstanceNorm(6), nz.GroupNorm(2, 6), nz.LayerNorm(6, axis=1)):
        y, saved = norm.forward(x)
        assert not saved.copied
        dx = saved.backward(x).x
        assert y.strides == dx.strides == x.strides
    for transposed in (nz.BatchNorm(6), nz.LayerNorm(shape[-1])):
        assert transposed.forward(np.asfortranarray(x))[1].copied


@pytest.mark.parametrize("storage", [">f4", ">f8", "f2"])
def test_other_storage_is_computed_in_float32_or_wider_and_given_back(storage, rng):
    x = rng.standard_normal((6, 5, 7)).astype(storage)
    norm = filled(nz.BatchNorm(5), rng)
    y = norm(x)
    dx = norm.backward(x)
    assert y.dtype == dx.dtype == x.dtype
    wide = x.astype(np.float64 if storage == ">f8" else np.float32)
    check.same_bits(y, norm(wide).astype(storage))
    check.same_bits(dx, norm.backward(wide).astype(storage))


# The 16-bit float types, and how far one rounding of them is.
SIXTEEN = {np.dtype(np.float16): 2.0**-11, np.dtype(ml_dtypes.bfloat16): 2.0**-8}
# In every run with bfloat16, and parameters of it: by columns, by rows, and of several runs.
NARROW = {"batch_norm-2d", "layer_norm-last", "group_norm-4d"}


def every_run(parameters, dtype, case):
    """Kernels differ between the two types in nothing but loads and stores: every run takes one with all cases, and the
    other with a few."""
    if parameters == "float32":
        return dtype == np.float16
    return dtype != np.float16 and case.id in NARROW


@pytest.mark.parametrize(
    ("parameters", "dtype", "case"),
    [
        pytest.param(*kind, id="-".join(map(str, kind)), marks=() if every_run(*kind) else pytest.mark.slow)
        for kind in itertools.product(("float32", "as x"), SIXTEEN, CASES)
    ],
)
def test_sixteen_bits_are_storage(case, parameters, dtype, rng):
    """Results are within one rounding of the float64 results of the same values, whatever the layout."""
    x, dy = (a.astype(dtype) for a in draw(case, rng))
    norm = filled(case.norm(dtype=dtype if parameters == "as x" else np.float32), rng)
    exact = case.norm(dtype=np.float64)
    for name, p in norm.params.items():
        exact.params[name][...] = p
    y = exact(x.astype(np.float64))
    dx = exact.backward(dy.astype(np.float64))
    for arrange in (np.ascontiguousarray, channels_last_strides):
        for name in ("cpu", "reference"):
            with nz.use(name):
                z = norm(arrange(x))
                dz = norm.backward(arrange(dy))
            assert z.dtype == dz.dtype == dtype
            # one rounding of the value itself, and the float32 contract
            for found, wide, slack in ((z, y, 2e-6), (dz, dx, 2e-5)):
                close = (
                    np.abs(found.astype(np.float64) - wide)
                    <= SIXTEEN[dtype] * np.abs(wide) + slack * np.abs(wide).max()
                )
                assert close.all()
            for key, gradient in norm.grads.items():
                assert gradient.dtype == norm.params[key].dtype


def test_every_sixteen_bit_number_survives_the_kernels():
    """Loading and storing convert exactly: an identity norm gives every float16 and bfloat16 back, NaN and inf too."""
    bits = np.arange(2**16, dtype=np.uint16)
    for dtype in SIXTEEN:
        x = bits.view(dtype)[:, None]
        norm = nz.BatchNorm(1, affine=False, eps=0.0).eval()
        y = norm(x)
        np.testing.assert_array_equal(y.astype(np.float32), x.astype(np.float32))
        third = nz.BatchNorm(1, affine=False, eps=8.0).eval()  # var is 1: a third, which has to be rounded
        with np.errstate(invalid="ignore"):
            expected = (x.astype(np.float32) * np.float32(1 / 3)).astype(dtype).astype(np.float32)
        np.testing.assert_array_equal(third(x).astype(np.float32), expected)


@pytest.mark.parametrize("x_dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("w_dtype", ["f2", "f4", "f8"])
def test_any_mix_of_floats(x_dtype, w_dtype, rng):
    x = rng.standard_normal((6, 40)).astype(x_dtype)
    norm = filled(nz.LayerNorm(40, dtype=w_dtype), rng)
    y = norm(x)
    dx = norm.backward(rng.standard_normal((6, 40)))  # float64 dy
    assert (y.dtype, dx.dtype) == (x.dtype, x.dtype)
    assert norm.grads["weight"].dtype == norm.grads["bias"].dtype == np.dtype(w_dtype)
    exact = nz.functional.layer_norm(x.astype("f8"), 40, norm.weight.astype("f8"), norm.bias.astype("f8"))
    rounding = {"f2": 2.0**-10, "f4": 1e-6, "f8": 1e-12}[x_dtype]
    check.close(y, exact, rounding)


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 3, 0), (0, 3), (2, 0, 4), (0, 0)], ids=str)
def test_empty_arrays(shape):
    x = np.zeros(shape, np.float32)
    norms = [nz.LayerNorm(shape[-1]), nz.RMSNorm(shape[-1])]
    if shape[1]:  # layers have channels
        norms += [nz.BatchNorm(shape[1]), nz.GroupNorm(1, shape[1])]
    if shape[1] and len(shape) > 2:
        norms.append(nz.InstanceNorm(shape[1], affine=True))
    for norm in norms:
        for name in ("cpu", "reference"):
            with nz.use(name):
                assert norm(x).shape == shape
                assert norm.backward(x).shape == shape
                assert nz.functional.batch_norm(x, None, None, training=True).shape == shape
        for key, gradient in norm.grads.items():
            check.same_bits(gradient, np.zeros_like(norm.params[key]))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_shape_and_stride(data):
    shape = tuple(data.draw(st.lists(st.integers(1, 19), min_size=2, max_size=5), label="shape"))
    steps = data.draw(st.tuples(*[st.sampled_from([1, 2, -1]) for _ in shape]), label="steps")
    order = data.draw(st.permutations(range(len(shape))), label="order")
    rng = np.random.default_rng(0)
    big = rng.standard_normal([shape[i] * abs(steps[i]) for i in order]).astype(np.float32)
    x = big.transpose(np.argsort(order))[tuple(slice(None, None, s) for s in steps)]
    assert x.shape == shape
    axes = sorted(data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1), label="axes"))
    w, b = rng.standard_normal((2, *(shape[a] for a in axes))).astype(np.float32)
    results = []
    for name in ("reference", "cpu"):
        with nz.use(name):
            y, saved = nz.functional.layer_norm(x, [shape[a] for a in axes], w, b, axis=axes, return_saved=True)
            results.append((y, *saved.backward(x[::1] * 0.5 + 1)))
    for expected, actual in zip(*results, strict=True):
        check.close(
            actual, expected, 2e-6, scale=max(1.0, float(np.abs(expected).max()), float(saved.rstd.max()) * 1e-2)
        )
