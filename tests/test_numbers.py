"""The numeric contract: flat accuracy for any mean, the same bits however the work is divided, no silent numbers."""

import itertools

import numpy as np
import pytest

import normzoo as nz
from tests import check
from tests.cases import CASES, channels_last_strides, filled

each_backend = pytest.mark.parametrize("backend", ["reference", "cpu"])

# (id, norm, shape, reduced axes after grouping, grouped shape): large enough for several chunks and the parallel kernels
LARGE = [
    ("batch_norm", lambda **o: nz.BatchNorm(3, **o), (4, 3, 57, 91), (0, 2, 3), None),
    ("batch_norm-2d", lambda **o: nz.BatchNorm(37, **o), (2049, 37), (0,), None),
    ("instance_norm", lambda **o: nz.InstanceNorm(5, affine=True, **o), (2, 5, 71, 73), (2, 3), None),
    ("group_norm", lambda **o: nz.GroupNorm(2, 6, **o), (3, 6, 31, 67), (2, 3, 4), (3, 2, 3, 31, 67)),
    ("layer_norm", lambda **o: nz.LayerNorm(769, **o), (67, 769), (1,), None),
    ("layer_norm-wide", lambda **o: nz.LayerNorm(20011, **o), (2, 20011), (1,), None),
    ("layer_norm-channels", lambda **o: nz.LayerNorm(33, axis=1, **o), (2, 33, 23, 29), (1,), None),
    ("rms_norm", lambda **o: nz.RMSNorm(4099, **o), (17, 4099), (1,), None),
]
large = pytest.mark.parametrize(("norm", "shape", "axes", "grouped"), [c[1:] for c in LARGE], ids=[c[0] for c in LARGE])


def exact_pass(norm, x, dy, axes, grouped):
    """y, xhat * weight and dx in long double, from float32 x, by formulas of their own."""
    shape = grouped or x.shape
    channel = [1] * x.ndim
    if isinstance(norm, nz.LayerNorm | nz.RMSNorm):
        for a in axes:
            channel[a] = x.shape[a]
    else:
        channel[1] = -1
    w = norm.weight.astype(np.longdouble).reshape(channel)
    b = 0 if norm.bias is None else norm.bias.astype(np.longdouble).reshape(channel)
    v = x.astype(np.longdouble).reshape(shape)
    count = np.prod([shape[a] for a in axes])
    center = not isinstance(norm, nz.RMSNorm)
    if center:
        v = v - v.sum(axis=axes, keepdims=True) / count
    eps = np.finfo(np.float32).eps if norm.eps is None else norm.eps
    rstd = 1 / np.sqrt((v * v).sum(axis=axes, keepdims=True) / count + eps)
    xhat = v * rstd
    g = (dy * w).reshape(shape)
    g_mean = g.sum(axis=axes, keepdims=True) / count if center else 0
    dx = rstd * (g - g_mean - xhat * (g * xhat).sum(axis=axes, keepdims=True) / count)
    scaled = xhat.reshape(x.shape) * w
    return scaled + b, np.maximum(1, np.maximum(np.abs(scaled), np.abs(b))), dx.reshape(x.shape)


@large
@pytest.mark.parametrize("layout", ["contiguous", "channels-last"])
@pytest.mark.parametrize(("mean", "std"), [(0, 1), (1e2, 1), (1e4, 0.1), (1e3, 1e-3), (-1e6, 1)])
def test_accuracy_is_flat_in_the_mean(norm, shape, axes, grouped, layout, mean, std, rng):
    if layout == "channels-last" and len(shape) < 3:
        pytest.skip("has no positions")
    x = (mean + std * rng.standard_normal(shape)).astype(np.float32)
    dy = rng.standard_normal(shape).astype(np.float32)
    if layout == "channels-last":
        x, dy = channels_last_strides(x), channels_last_strides(dy)
    norm = filled(norm(), rng)
    y, scale, dx = exact_pass(norm, x, dy, axes, grouped)
    check.close(norm(x), y, check.FORWARD32, scale)
    check.close(norm.backward(dy), dx, check.BACKWARD32, float(np.abs(dx).max()))


@large
@pytest.mark.parametrize("place", [0, -1], ids=["first", "last"])
def test_an_outlier_does_no_harm_wherever_it_sits(norm, shape, axes, grouped, place, rng):
    x = (5 + rng.standard_normal(shape)).astype(np.float32)
    x.reshape(-1)[place] = -1e6
    dy = rng.standard_normal(shape).astype(np.float32)
    norm = filled(norm(), rng)
    y, scale, dx = exact_pass(norm, x, dy, axes, grouped)
    check.close(norm(x), y, check.FORWARD32, scale)
    check.close(norm.backward(dy), dx, check.BACKWARD32, float(np.abs(dx).max()))


@pytest.mark.parametrize("off", [0, 1, 1.3, 1.5, 3, 1e3, -1e6])
@pytest.mark.parametrize("width", [64, 768, 1000, 2048, 9001])
def test_accuracy_does_not_hang_on_the_values_that_a_sum_starts_from(width, off, rng):
    """Rows are summed around the mean of four vectors spread over each chunk: here these lie `off` deviations away."""
    x = 1e4 + 0.1 * rng.standard_normal((50, width))
    chunk = min(width, -(-width // -(-width // 2048)))
    for start in range(0, width, chunk):
        for i in range(4):
            x[:, start + i * chunk // 4 :][:, :16] += 0.1 * off
    x = x.astype(np.float32)
    dy = rng.standard_normal(x.shape).astype(np.float32)
    norm = nz.LayerNorm(width)
    y, size, dx = exact_pass(norm, x, dy, (1,), None)
    found, saved = norm.forward(x)
    assert (np.abs(found - y) / size).max() < 1e-6
    assert np.abs(saved.backward(dy).x - dx).max() < 1e-5 * np.abs(dx).max()


@large
def test_bits_are_the_same_on_any_number_of_threads(norm, shape, axes, grouped, threads, rng):
    x, dy = (1e3 + rng.standard_normal((2, *shape))).astype(np.float32)
    norm = filled(norm(), rng)
    results = []
    for count in (1, 2):
        threads(count)
        y, saved = norm.forward(x)
        results.append((y, *saved.backward(dy)))
    for one, two in zip(*results, strict=True):
        if one is not None:
            check.same_bits(two, one)


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (lambda: nz.LayerNorm(769), (67, 769)),
        (lambda: nz.LayerNorm(20011), (19, 20011)),
        (lambda: nz.RMSNorm(33), (2000, 33)),
        (lambda: nz.GroupNorm(2, 6), (19, 6, 31, 67)),
        (lambda: nz.InstanceNorm(3), (19, 3, 71, 73)),
        (lambda: nz.InstanceNorm(3, channel_axis=-1), (19, 71, 73, 3)),
        (lambda: nz.GroupNorm(2, 6, channel_axis=-1), (19, 31, 67, 6)),
    ],
    ids=[
        "layer_norm",
        "layer_norm-wide",
        "rms_norm",
        "group_norm",
        "instance_norm",
        "instance_norm-last",
        "group-last",
    ],
)
def test_bits_of_a_sample_do_not_depend_on_its_batch(norm, shape, rng):
    x, dy = (1e3 + rng.standard_normal((2, *shape))).astype(np.float32)
    norm = filled(norm(), rng)
    y = norm(x)
    dx = norm.backward(dy)
    for part in (slice(0, 1), slice(5, 7)):
        check.same_bits(norm(x[part]), y[part])
        check.same_bits(norm.backward(dy[part]), dx[part])


@pytest.mark.parametrize("case", CASES, ids=str)
@each_backend
@pytest.mark.parametrize("value", [0.1, -1e6 + 0.5, 3e-20])
def test_a_constant_set_gives_exactly_the_bias(case, backend, value, rng):
    x = np.full(case.shape, value, np.float32)
    norm = filled(case.norm(), rng)
    if norm.bias is None:
        pytest.skip("does not centre")
    with nz.use(backend):
        y = norm(x)
    axes = 1
    if isinstance(norm, nz.LayerNorm):
        axes = norm.axis or tuple(range(-norm.bias.ndim, 0))
    moved = np.moveaxis(y, axes, tuple(range(-norm.bias.ndim, 0)) if norm.bias.ndim > 1 else -1)
    np.testing.assert_array_equal(moved, np.broadcast_to(norm.bias, moved.shape))


@each_backend
@pytest.mark.parametrize("value", [3e19, 3e38, 1e-18, 1e-30, 1e-42])
def test_nothing_overflows_where_the_answer_can_be_written(backend, value, rng):
    x = (value * np.array([[1, -1, 0.5, 0.25]])).astype(np.float32)
    exact = x.astype(np.longdouble)
    with nz.use(backend):
        y, saved = nz.functional.rms_norm(x, 4, eps=0.0, return_saved=True)
        check.close(y, exact / np.sqrt((exact**2).mean()), 1e-6)
        d = exact - exact.mean()
        z = nz.functional.layer_norm(x, 4, eps=0.0)
        check.close(z, d / np.sqrt((d**2).mean()), 1e-6)
        if value < 1e-38:  # dy of this size has but a few bits itself
            return
        # dy of the size that makes dx about 1
        dy = (value * rng.uniform(-1, 1, x.shape)).astype(np.float32)
        rstd = 1 / np.sqrt((exact**2).mean())
        xhat, g = exact * rstd, dy.astype(np.longdouble)
        dx = rstd * (g - xhat * (g * xhat).mean())
        check.close(saved.backward(dy).x, dx, 1e-5)


@each_backend
@pytest.mark.parametrize("columns", [2, 40])
def test_subnormal_float64_values_are_normalized(backend, columns):
    """Their rstd, 1e319 and more, is beyond float64."""
    x = np.tile([[5e-320, -5e-320]], (3, columns // 2))
    signs = np.sign(x)
    with nz.use(backend):
        for found, scale in (
            (nz.functional.layer_norm(x, columns, eps=0.0), 1.0),
            (nz.functional.rms_norm(x, columns, eps=0.0), 1.0),
            (nz.functional.layer_norm(np.ascontiguousarray(x.T), columns, axis=0, eps=0.0).T, 1.0),
            *((nz.functional.normalize(x, p, 1, eps=0.0), columns ** (-1 / p)) for p in (1, 2, 3)),
        ):
            check.close(found, signs * scale, 1e-3 if scale < 1 else check.EXACT)
        _, saved = nz.functional.layer_norm(x, columns, eps=0.0, return_saved=True)
        assert np.isinf(saved.rstd).all()
        assert not np.isfinite(saved.backward(signs * 1e300).x).all()  # beyond float64, too


@each_backend
@pytest.mark.parametrize("value", [1e200, 1e308, 1e-200])
def test_float64_does_not_overflow_either(backend, value):
    x = value * np.array([[1.0, 0.5, 0.25, 0.75]])
    expected = np.array([[1.0, 0.5, 0.25, 0.75]])
    with nz.use(backend):
        y = nz.functional.rms_norm(x, 4, eps=0.0)
        check.close(y, expected / np.sqrt((expected**2).mean()), check.EXACT)
        z = nz.functional.layer_norm(x, 4, eps=0.0)
        d = expected - expected.mean()
        check.close(z, d / np.sqrt((d**2).mean()), check.EXACT)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@each_backend
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nan_and_inf_stay_in_their_set(poison, backend, dtype, rng):
    norms = [
        (nz.BatchNorm(3, dtype=dtype), (4, 3, 50), (slice(None), 1)),
        (nz.BatchNorm(3, dtype=dtype), (40, 3), (slice(None), 1)),
        (nz.GroupNorm(3, 6, dtype=dtype), (2, 6, 50), (1, slice(2, 4))),
        (nz.LayerNorm(50, dtype=dtype), (4, 3, 50), (1, 1)),
        (nz.LayerNorm(6, axis=1, dtype=dtype), (2, 6, 9), (1, slice(None), 4)),
    ]
    for norm, shape, where in norms:
        x = rng.standard_normal(shape).astype(dtype)
        clean = x.copy()
        first = tuple(s.start or 0 if isinstance(s, slice) else s for s in where)
        x[first] = poison
        with nz.use(backend):
            y, expected = norm(x), norm(clean)
        assert np.isnan(y[where]).all()
        expected[where] = np.nan
        check.same_bits(y, expected)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_all_numbers_of_sixteen_bits_come_and_go_as_they_are(name):
    dtype = np.dtype(getattr(pytest.importorskip("ml_dtypes"), name) if name == "bfloat16" else name)
    x = np.arange(65536, dtype=np.uint16).view(dtype)
    mean, var = np.zeros(64, np.float32), np.ones(64, np.float32)
    for columns in (64, 61):  # whole vectors, and parts of some
        v = x[: 65536 // columns * columns].reshape(-1, columns)
        y = nz.functional.batch_norm(v, mean[:columns], var[:columns], eps=0.0)
        with np.errstate(invalid="ignore"):  # ml_dtypes warns of NaN that ask for it
            number = ~np.isnan(v)
            assert np.isnan(y[~number]).all()
            check.same_bits(y[number], v[number] + np.zeros(1, dtype))  # of -0 fma makes 0


def test_zero_divided_by_zero_is_defined():
    zero = np.zeros((2, 4), np.float32)
    y, saved = nz.functional.rms_norm(zero, 4, eps=0.0, return_saved=True)
    check.same_bits(y, zero)
    check.same_bits(saved.backward(zero + 1).x, zero)
    check.same_bits(nz.functional.layer_norm(zero + 3, 4, eps=0.0), zero)


@each_backend
@pytest.mark.parametrize("eps", [0.0, 1e-290])
@pytest.mark.parametrize("value", [0.1, -3.3e-7, 3e37, 1e-42, 1.1e308, 1e-310])
def test_a_constant_float64_set_is_exact_for_any_eps(backend, eps, value):
    x = np.full((3, 6, 5), value)
    with nz.use(backend):
        for y in (
            nz.functional.layer_norm(x, 5, eps=eps),
            nz.functional.layer_norm(x, 6, axis=1, eps=eps),
            nz.functional.group_norm(x, 2, eps=eps),
            nz.functional.instance_norm(x, eps=eps),
            nz.functional.instance_norm(x, eps=eps, channel_axis=-1),
        ):
            check.same_bits(y, np.zeros_like(x))


@each_backend
@pytest.mark.parametrize(("size", "eps"), [(3e-308, 0.0), (1e-300, 1e-290), (1e-310, 1e-290), (1e300, 1.0)])
def test_float64_at_the_ends_of_its_range(backend, size, eps, rng):
    x, dy = size * rng.standard_normal((4, 17)), rng.standard_normal((4, 17))
    v = x.astype(np.longdouble)
    v = v - v.sum(axis=1, keepdims=True) / 17
    rstd = 1 / np.sqrt((v * v).sum(axis=1, keepdims=True) / 17 + np.longdouble(eps))
    xhat = v * rstd
    dx = rstd * (dy - dy.mean(axis=1, keepdims=True) - xhat * (dy * xhat).mean(axis=1, keepdims=True))
    with nz.use(backend):
        y, saved = nz.functional.layer_norm(x, 17, eps=eps, return_saved=True)
        # the mean of subnormal values has no more bits than they have
        check.close(y, xhat.astype(np.float64), 1e-11)
        with np.errstate(over="ignore"):
            exact = dx.astype(np.float64)
        if np.isfinite(exact).all():
            check.close(saved.backward(dy).x, exact, 1e-11, np.abs(exact).max())


@each_backend
@pytest.mark.parametrize(
    ("x_size", "w_size", "dy_size"), [(1e38, 3e38, 1), (1e30, 1e20, 1e20), (1e35, 1e30, 1e10), (1e-30, 1e-25, 1e-25)]
)
def test_products_on_the_way_to_dx_do_not_overflow(backend, x_size, w_size, dy_size, rng):
    x, dy = ((size * rng.uniform(-1, 1, (4, 16))).astype(np.float32) for size in (x_size, dy_size))
    norm, exact = nz.LayerNorm(16), nz.LayerNorm(16, dtype=np.float64)
    norm.eps = exact.eps = 0.0
    norm.weight[...] = w_size
    exact.weight[...] = norm.weight
    with nz.use(backend):
        norm(x)
        dx = norm.backward(dy)
    with nz.use("reference"):
        exact(x.astype(np.float64))
        expected = exact.backward(dy.astype(np.float64))
    check.close(dx, expected, check.BACKWARD32, np.abs(expected).max())


@large
@pytest.mark.parametrize("mean", [1e2, 1e4])
def test_dx_is_right_where_dy_is_far_from_zero(norm, shape, axes, grouped, mean, rng):
    x = rng.standard_normal(shape).astype(np.float32)
    dy = (mean + rng.standard_normal(shape)).astype(np.float32)
    norm = norm()
    _, _, dx = exact_pass(norm, x, dy, axes, grouped)
    norm(x)
    check.close(norm.backward(dy), dx, check.BACKWARD32, float(np.abs(dx).max()))


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (lambda **o: nz.LayerNorm(2, **o), (50, 2)),
        (lambda **o: nz.BatchNorm(32, **o), (2, 32)),
        (lambda **o: nz.InstanceNorm(6, **o), (2, 6, 2)),
        (lambda **o: nz.GroupNorm(3, 6, **o), (9, 6)),
        (lambda **o: nz.RMSNorm(1, **o), (9, 1)),
        (lambda **o: nz.LayerNorm(3, **o), (50, 3)),
    ],
)
def test_dx_of_sets_of_two_values(norm, shape, rng):
    """dx is then a difference of almost equal terms."""
    x, dy = rng.standard_normal((2, *shape)).astype(np.float32)
    norm, exact = norm(), norm(dtype=np.float64)
    exact.eps = np.finfo(np.float32).eps if norm.eps is None else norm.eps
    norm(x)
    with nz.use("reference"):
        exact(x.astype(np.float64))
        expected = exact.backward(dy.astype(np.float64))
    check.close(norm.backward(dy), expected, check.BACKWARD32, np.abs(expected).max())


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (lambda: nz.GroupNorm(2, 4, channel_axis=-1), (1, 20000, 4)),
        (lambda: nz.GroupNorm(5, 10, channel_axis=-1), (3, 9000, 10)),
        (lambda: nz.BatchNorm(3), (20000, 3, 2)),
    ],
    ids=["group_norm-2", "group_norm-5", "batch_norm"],
)
def test_accuracy_is_flat_where_runs_are_short(norm, shape, rng):
    """Runs of two values would fill two lanes of sixteen, which then add up eight times as many."""
    x = (1e4 + 0.1 * rng.standard_normal(shape)).astype(np.float32)
    norm = norm()
    v = x.astype(np.longdouble)
    groups = v.reshape(*shape[:2], norm.num_groups, -1) if isinstance(norm, nz.GroupNorm) else v[:, None]
    axes = (1, 3) if isinstance(norm, nz.GroupNorm) else (0, 3)
    d = groups - groups.mean(axis=axes, keepdims=True)
    y = (d / np.sqrt((d * d).mean(axis=axes, keepdims=True) + norm.eps)).reshape(shape)
    check.close(norm(x), y, check.FORWARD32, np.maximum(1, np.abs(y)))


@each_backend
@pytest.mark.parametrize("shape", [(1, 3), (40, 33), (4, 3, 5, 5), (2, 3, 80, 80)], ids=str)
@pytest.mark.parametrize("channel_axis", [1, -1])
@pytest.mark.parametrize(
    ("x", "mean", "var", "weight"),
    [(1e37, 0, 0, 1e-3), (3e38, -3e38, 1, -0.25), (1e-30, 0, 1e38, 1e30), (-3.3e38, 1e37, 1, 0.5)],
)
def test_evaluation_is_right_wherever_y_can_be_written(backend, shape, channel_axis, x, mean, var, weight):
    """(x - mean) * rstd, or x - mean, may leave float32 before the weight brings it back."""
    channels = shape[1]
    a = np.moveaxis(np.full(shape, x, np.float32), 1, channel_axis)
    mean, var, weight = (np.full(channels, v, np.float32) for v in (mean, var, weight))
    with nz.use(backend):
        y = nz.functional.batch_norm(a, mean, var, weight, np.zeros_like(weight), eps=1e-5, channel_axis=channel_axis)
    m, v, w = (np.longdouble(p[0]) for p in (mean, var, weight))
    expected = (np.longdouble(np.float32(x)) - m) / np.sqrt(v + np.longdouble(1e-5)) * w
    check.close(y / expected, np.ones(a.shape), 1e-6)


@pytest.mark.parametrize("shape", [(3001, 2), (3001, 65), (1801, 5, 3), (1801, 5, 2, 2)], ids=str)
@pytest.mark.parametrize("make", [nz.BatchNorm, nz.InstanceNorm])
def test_bits_of_an_item_in_evaluation_do_not_depend_on_its_batch(make, shape, rng):
    if make is nz.InstanceNorm and len(shape) == 2:
        pytest.skip("takes (N, C, ...)")
    x, dy = rng.standard_normal((2, *shape)).astype(np.float32)
    norm = filled(make(shape[1], affine=True, track_running_stats=True), rng)
    norm(x)
    norm.eval()
    y, dx = norm(x), norm.backward(dy)
    for part in (slice(1500, 1501), slice(7, 9)):
        check.same_bits(norm(x[part]), y[part])
        check.same_bits(norm.backward(dy[part]), dx[part])


FEW = [
    (lambda **o: nz.LayerNorm(2, **o), (50, 2)),
    (lambda **o: nz.LayerNorm(7, **o), (1000, 7)),
    (lambda **o: nz.LayerNorm((3, 5), **o), (7, 3, 5)),
    (lambda **o: nz.LayerNorm(3, axis=1, **o), (6, 3, 5)),
    (lambda **o: nz.RMSNorm(32, eps=1e-6, **o), (300, 32)),
    (lambda **o: nz.LayerNorm(61, **o), (70, 61)),
    (lambda **o: nz.InstanceNorm(6, affine=True, **o), (500, 6, 2, 2)),
    (lambda **o: nz.InstanceNorm(6, affine=True, **o), (30, 6, 7, 7)),
    (lambda **o: nz.InstanceNorm(3, affine=True, **o), (37, 3, 8, 8)),
    (lambda **o: nz.GroupNorm(2, 6, **o), (35, 6, 3, 3)),
    (lambda **o: nz.GroupNorm(3, 12, **o), (70, 12)),
    (lambda **o: nz.GroupNorm(3, 12, **o), (7, 12, 3)),
    (lambda **o: nz.GroupNorm(40, 40, **o), (900, 40)),
    (lambda **o: nz.BatchNorm(37, **o), (2, 37)),
    (lambda **o: nz.BatchNorm(50, **o), (3, 50, 5)),
    (lambda **o: nz.L1BatchNorm(5, **o), (2, 5, 3)),
    (lambda **o: nz.ScaleNorm(8, **o), (40, 8)),
    (lambda **o: nz.FilterResponseNorm(4, **o), (9, 4, 2, 2)),
]


BOTH = "channels-last", "float16"
# Each norm in float16, each in channels-last; of both at once only some, as kernels are compiled for each.
FEW_RUNS = [
    pytest.param(*case, layout, name, marks=pytest.mark.slow if (layout, name) == BOTH and i % 4 != 3 else ())
    for layout, name in itertools.product(("contiguous", "channels-last"), ("float32", "float16"))
    for i, case in enumerate(FEW)
]


@pytest.mark.parametrize(("norm", "shape", "layout", "name"), FEW_RUNS)
def test_sets_of_few_values(norm, shape, layout, name, rng):
    """Blocks of sixteen sets and what is left of one, parameters that repeat after any number of sets."""
    if layout == "channels-last" and len(shape) < 3:
        pytest.skip("has no positions")
    if layout == "channels-last" or name == "float16":
        shape = (min(shape[0], 40), *shape[1:])
    x, dy = (3 + rng.standard_normal(shape)).astype(name), rng.standard_normal(shape).astype(name)
    norm, exact = filled(norm(), rng), norm(dtype=np.float64)
    exact.load_state_dict(norm.state_dict())
    with nz.use("reference"):
        y = exact(x.astype(np.float64))
        dx = exact.backward(dy.astype(np.float64))
    if layout == "channels-last":
        x, dy = channels_last_strides(x), channels_last_strides(dy)
    rounding = 0 if name == "float32" else 1e-3
    check.close(norm(x), y, 3e-7 + rounding, np.maximum(1, np.abs(y)))
    check.close(norm.backward(dy), dx, 3e-7 + rounding, np.abs(dx).max() or 1.0)
    for key in norm.params:
        check.close(norm.grads[key], exact.grads[key], 3e-7, max(1.0, np.abs(exact.grads[key]).max()))


@pytest.mark.parametrize(
    ("norm", "shape"),
    [(lambda: nz.LayerNorm(7), (1003, 7)), (lambda: nz.InstanceNorm(6, affine=True), (503, 6, 2, 2)),
     (lambda: nz.GroupNorm(5, 10), (1003, 10)), (lambda: nz.GroupNorm(3, 6), (503, 6, 3))],
)  # fmt: skip
def test_bits_of_few_values_depend_on_nothing_else(norm, shape, threads, rng):
    x, dy = (1e3 + rng.standard_normal((2, *shape))).astype(np.float32)
    norm = filled(norm(), rng)
    results = []
    for count in (1, 2):
        threads(count)
        y, saved = norm.forward(x)
        results.append((y, *saved.backward(dy)))
    for one, two in zip(*results, strict=True):
        check.same_bits(two, one)
    y, dx, *_ = results[0]
    for part in (slice(0, 1), slice(5, 23)):
        check.same_bits(norm(x[part]), y[part])
        check.same_bits(norm.backward(dy[part]), dx[part])
