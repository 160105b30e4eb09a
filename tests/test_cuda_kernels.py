"""The CUDA kernels on the executor: the real launcher, with the executor where the driver is, against the reference."""

import contextlib
import itertools

import numpy as np
import pytest

from normzoo.backends import backend
from normzoo.backends.contract import CONSTANT, Moments
from normzoo.backends.cuda import arrays, driver, interop
from tests import check
from tests.cuda_executor import ExecutorError, unavailable

if reason := unavailable():
    pytest.skip(reason, allow_module_level=True)

from tests.cuda_device import HostDriver

ml_dtypes = pytest.importorskip("ml_dtypes", reason="bfloat16 is ml_dtypes'")

FLOAT32, FLOAT64, FLOAT16 = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.float16)
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
REFERENCE, CUDA = backend("reference"), backend("cuda")
NAMES = ("y", "mean", "spread", "rstd", "dx", "dweight", "dbias")


def put(values, offset=0):
    """A device array with these values, `offset` values behind a multiple of 16 bytes."""
    memory = arrays.empty(values.size + offset, values.dtype)
    a = arrays.DeviceArray(memory.address + offset * values.itemsize, values.shape, values.dtype, memory.owner)
    driver.current().to_device(a.address, np.ascontiguousarray(values), 0)
    return a


def fresh(like, offset=0):
    """A device array full of NaN."""
    return put(np.full(like.shape, np.nan, like.dtype), offset)


def data(rng, dims, parameters, dtype=FLOAT32, store=None, mean=3.0, std=1.0):
    """x, dy, weight, bias."""
    store = store or dtype
    x = (mean + std * rng.standard_normal(dims)).astype(store)
    dy = rng.standard_normal(dims).astype(store)
    return x, dy, *rng.standard_normal((2, *parameters)).astype(dtype)


def on_host(x, dy, weight, bias, moments, eps, stats=None):
    """NAMES by the reference, of float64 results where x is narrower."""
    dims, parameters = x.shape, weight.shape
    exact = FLOAT64
    y, dx = np.empty(dims), np.empty(dims)
    dweight, dbias = np.empty(parameters), np.empty(parameters)
    if stats is None:
        stats = REFERENCE.forward(dims, parameters, moments, exact, exact)(x, weight, bias, eps, y)
    else:
        REFERENCE.apply(dims, parameters, exact, exact)(x, stats, weight, bias, y)
    REFERENCE.backward(dims, parameters, moments, exact, exact)(dy, x, stats, weight, eps, dx, dweight, dbias)
    return y, *stats, dx, dweight, dbias


def on_device(device, x, dy, weight, bias, moments, eps, stats=None, offset=0):
    """NAMES by the kernels."""
    dims, parameters, dtype, store = x.shape, weight.shape, weight.dtype, x.dtype
    with driver.use(device):
        v, d = put(x, offset), put(dy, offset)
        w, a = put(weight), put(bias)
        y, dx, dweight, dbias = fresh(x, offset), fresh(x, offset), fresh(weight), fresh(weight)
        if stats is None:
            found = CUDA.forward(dims, parameters, moments, dtype, store)(v, w, a, eps, y)
        else:
            found = put(stats)
            CUDA.apply(dims, parameters, dtype, store)(v, found, w, a, y)
        CUDA.backward(dims, parameters, moments, dtype, store)(d, v, found, w, eps, dx, dweight, dbias)
        return tuple(r.copy_to_host() for r in (y, *found, dx, dweight, dbias))


def compare(expected, actual, tolerance, storage, weight, bias):
    """`storage`: half a unit in the last place of what y and dx are stored in, relative."""
    sizes = dict(zip(NAMES, expected, strict=True))
    xhat = np.abs(sizes["y"] - bias).max() if bias.size == 1 else np.abs(sizes["y"]).max()
    for name, one, two in zip(NAMES, expected, actual, strict=True):
        e, a = np.asarray(one, np.float64), np.asarray(two).astype(np.float64)
        scale = max(1.0, np.abs(e).max(), xhat if name == "y" else 0)
        if name == "dx":  # where dx is a difference, its terms are of the size of rstd * dy
            scale = max(scale, np.abs(sizes["rstd"]).max())
        if name in ("dweight", "dbias"):  # sums of as many terms of the size of 1, which may cancel
            scale = max(scale, sizes["y"].size / e.size)
        allowed = tolerance * scale
        if name in ("y", "dx"):
            allowed = allowed + storage * np.abs(e) + 1e-7 * bool(storage)
        error = np.abs(a - e)
        assert (error <= allowed).all(), f"{name}: {(error / scale).max():.2e} of the scale"


TOLERANCES = {FLOAT32: 1e-6, FLOAT64: 1e-12}
STORAGE = {FLOAT32: 0.0, FLOAT64: 0.0, FLOAT16: 2.0**-11, BFLOAT16: 2.0**-8}

# (view, parameter view, moments, dtype, storage): rows of every number of threads, whole and in pieces, of one run and
# of several, with parameters for a set, a run and a value; columns whole, in pieces, folded; vectors and odd sizes.
CASES = [
    ((6, 1, 1, 37), (1, 1, 1, 37), Moments(), FLOAT32, None),
    ((37, 1, 1, 64), (1, 1, 1, 64), Moments(), FLOAT32, None),
    ((5, 1, 1, 100), (5, 1, 1, 1), Moments(), FLOAT32, None),
    ((9, 1, 1, 1024), (1, 1, 1, 1024), Moments(), FLOAT32, None),
    ((4, 1, 3, 1024), (2, 1, 3, 1024), Moments(), FLOAT32, None),
    ((2, 1, 1, 4096), (1, 1, 1, 4096), Moments(center=False), FLOAT32, None),
    ((2, 1, 1, 8200), (1, 1, 1, 8200), Moments(), FLOAT32, None),
    ((2, 1, 1, 20011), (1, 1, 1, 20011), Moments(), FLOAT32, None),
    ((2, 1, 1, 32768), (1, 1, 1, 1), Moments(), FLOAT32, None),
    ((2, 1, 1, 40000), (1, 1, 1, 40000), Moments(center=False), FLOAT32, None),
    ((1, 9, 5, 49), (1, 1, 5, 1), Moments(), FLOAT32, None),
    ((6, 4, 1, 20), (3, 4, 1, 1), Moments(), FLOAT32, None),
    ((2, 3, 1, 10001), (1, 3, 1, 1), Moments(), FLOAT32, None),
    ((3, 20, 1, 4500), (1, 1, 1, 4500), Moments(), FLOAT32, None),
    ((2, 40, 3, 8), (1, 1, 3, 8), Moments(), FLOAT32, None),
    ((4, 6, 3, 20), (2, 6, 3, 20), Moments(), FLOAT32, None),
    ((1, 40, 4, 1200), (1, 1, 4, 1), Moments(), FLOAT32, None),
    ((2, 50, 12, 49), (1, 1, 12, 1), Moments(), FLOAT32, None),
    ((1, 300, 37, 1), (1, 1, 37, 1), Moments(), FLOAT32, None),
    ((4, 64, 16, 1), (1, 64, 1, 1), Moments(), FLOAT32, None),
    ((4, 64, 16, 1), (2, 64, 16, 1), Moments(), FLOAT32, None),
    ((4, 64, 16, 1), (1, 1, 1, 1), Moments(), FLOAT32, None),
    ((2, 1500, 72, 1), (1, 1, 72, 1), Moments(), FLOAT32, None),
    ((2, 1500, 8, 1), (1, 1500, 1, 1), Moments(), FLOAT32, None),
    ((2, 2100, 5, 1), (1, 2100, 5, 1), Moments(), FLOAT32, None),
    ((6, 1, 7, 1), (1, 1, 7, 1), Moments(), FLOAT32, None),
    ((5, 1, 1, 2), (1, 1, 1, 2), Moments(), FLOAT32, None),
    ((5, 1, 1, 3), (1, 1, 1, 3), Moments(), FLOAT32, None),
    ((5, 1, 1, 1003), (1, 1, 1, 1003), Moments(), FLOAT64, None),
    ((2, 3, 1, 10000), (1, 3, 1, 1), Moments(), FLOAT64, None),
    ((2, 1500, 72, 1), (1, 1, 72, 1), Moments(), FLOAT64, None),
    ((5, 1, 1, 1024), (1, 1, 1, 1024), Moments(), FLOAT32, FLOAT16),
    ((5, 1, 1, 1000), (1, 1, 1, 1000), Moments(), FLOAT32, BFLOAT16),
    ((2, 1500, 72, 1), (1, 1, 72, 1), Moments(), FLOAT32, BFLOAT16),
    ((4, 64, 16, 1), (1, 64, 16, 1), Moments(), FLOAT32, FLOAT16),
]
KINDS = [
    Moments(center=False, total=True, clamp=True),
    Moments(power=1),
    Moments(center=False, power=1, total=True, clamp=True),
    Moments(power=0),
]
WITH_KINDS = [((6, 4, 1, 20), (1, 4, 1, 1)), ((4, 64, 16, 1), (1, 64, 16, 1)), ((2, 3, 1, 10001), (1, 3, 1, 1))]
CASES += [(view, parameters, kind, FLOAT32, None) for (view, parameters), kind in itertools.product(WITH_KINDS, KINDS)]


def name_of(case):
    view, parameters, moments, dtype, store = case
    flags = "".join(f"-{k}{v}" for k, v in moments._asdict().items() if v != getattr(Moments(), k))
    return f"{'x'.join(map(str, view))}-{'x'.join(map(str, parameters))}{flags}-{(store or dtype).name}"


# The cases that every run of the suite looks at: their kernels are those of `CHECKED`. numba-cuda takes a second or two
# for a kernel, and all the cases have 230.
QUICK = {
    "6x1x1x37-1x1x1x37-float32",
    "9x1x1x1024-1x1x1x1024-float32",
    "4x1x3x1024-2x1x3x1024-float32",
    "1x40x4x1200-1x1x4x1-float32",
    "2x50x12x49-1x1x12x1-float32",
    "4x64x16x1-1x64x1x1-float32",
    "2x1500x72x1-1x1x72x1-float32",
    "5x1x1x2-1x1x1x2-float32",
}


def each_of(cases, quick=QUICK):
    """A test for every case; most are slow."""
    marks = [() if name_of(case) in quick else pytest.mark.slow for case in cases]
    return pytest.mark.parametrize(
        "case", [pytest.param(case, id=name_of(case), marks=m) for case, m in zip(cases, marks, strict=True)]
    )


@each_of(CASES)
def test_kernels_compute_what_the_reference_does(case, rng):
    view, parameters, moments, dtype, store = case
    x, dy, weight, bias = data(rng, view, parameters, dtype, store)
    if moments.clamp:
        x[1] *= x.dtype.type(1e-9)  # below eps
    results = on_host(x, dy, weight, bias, moments, 1e-5), on_device(HostDriver(), x, dy, weight, bias, moments, 1e-5)
    compare(*results, TOLERANCES[dtype], STORAGE[store or dtype], weight, bias)


@pytest.mark.parametrize(
    "view",
    [
        (6, 4, 1, 20),
        (4, 64, 16, 1),
        *(pytest.param(v, marks=pytest.mark.slow) for v in [(2, 2100, 5, 1), (2, 50, 12, 49)]),
    ],
    ids=str,
)
def test_statistics_that_are_given(view, rng):
    x, dy, weight, bias = data(rng, view, (1, 1, view[2], 1))
    stats = rng.uniform(0.5, 2, (3, view[0], view[2]))
    results = [f(x, dy, weight, bias, CONSTANT, 0.0, stats) for f in (on_host, lambda *a: on_device(HostDriver(), *a))]
    compare(*results, 1e-6, 0.0, weight, bias)


FLAT = [
    case
    for case in CASES
    if case[2] == Moments() and case[3] == FLOAT32 and case[4] is None and np.prod(case[0][1::2]) > 3
]


@each_of(FLAT)
@pytest.mark.parametrize(("mean", "std"), [(1e4, 0.1), (-1e6, 1.0), (1e3, 1e-3)])
def test_accuracy_is_flat_in_the_mean(case, mean, std, rng):
    view, parameters, *_ = case
    x, dy, weight, bias = data(rng, view, parameters, mean=mean, std=std)
    expected = on_host(x, dy, weight, bias, Moments(), 1e-5)
    actual = on_device(HostDriver(), x, dy, weight, bias, Moments(), 1e-5)
    scale = np.maximum(1, np.maximum(np.abs(expected[0]), np.abs(bias).max()))
    check.close(actual[0], expected[0], check.FORWARD32, scale)
    check.close(actual[4], expected[4], check.BACKWARD32, np.abs(expected[4]).max())


@each_of(FLAT[::3])
@pytest.mark.parametrize("place", [0, -1], ids=["first", "last"])
def test_an_outlier_does_no_harm_wherever_it_sits(case, place, rng):
    view, parameters, *_ = case
    x, dy, weight, bias = data(rng, view, parameters, mean=5.0)
    x.reshape(-1)[place] = -1e6
    expected = on_host(x, dy, weight, bias, Moments(), 1e-5)
    actual = on_device(HostDriver(), x, dy, weight, bias, Moments(), 1e-5)
    scale = np.maximum(1, np.maximum(np.abs(expected[0]), np.abs(bias).max()))
    check.close(actual[0], expected[0], check.FORWARD32, scale)


@each_of(FLAT)
@pytest.mark.parametrize("value", [0.1, -1e6 + 0.5, 3e-20])
def test_a_constant_set_gives_exactly_the_bias(case, value, rng):
    view, parameters, *_ = case
    x, dy, weight, bias = data(rng, view, parameters)
    x[...] = value
    y = on_device(HostDriver(), x, dy, weight, bias, Moments(), 1e-5)[0]
    expected = on_host(x, dy, weight, bias, Moments(), 1e-5)[0].astype(np.float32)
    np.testing.assert_array_equal(y, expected)


@each_of(FLAT[::4])
def test_bits_do_not_depend_on_the_order_of_threads(case, rng):
    view, parameters, *_ = case
    tensors = data(rng, view, parameters, mean=1e3)
    first = on_device(HostDriver(), *tensors, Moments(), 1e-5)
    for schedule in ("reversed", ("random", 7)):
        for one, two in zip(first, on_device(HostDriver(schedule), *tensors, Moments(), 1e-5), strict=True):
            check.same_bits(two, one)


@each_of(FLAT[::4])
def test_bits_of_a_sample_depend_on_neither_the_device_nor_the_batch(case, rng):
    view, parameters, *_ = case
    tensors = data(rng, view, parameters, mean=1e3)
    first = on_device(HostDriver(), *tensors, Moments(), 1e-5)
    for one, two in zip(first[:5], on_device(HostDriver(multiprocessors=1), *tensors, Moments(), 1e-5), strict=False):
        check.same_bits(two, one)
    if parameters[0] == 1 and view[0] > 1:
        x, dy, weight, bias = tensors
        part = on_device(HostDriver(), x[1:2], dy[1:2], weight, bias, Moments(), 1e-5)
        check.same_bits(part[0], first[0][1:2])
        check.same_bits(part[4], first[4][1:2])


UNALIGNED = [CASES[i] for i in (3, 4, 17, 20, 22)] + [c for c in CASES if c[4] == FLOAT16][:1]


@each_of(UNALIGNED, {"9x1x1x1024-1x1x1x1024-float32", "4x64x16x1-2x64x16x1-float32"})
def test_arrays_that_begin_anywhere_give_the_same_bits(case, rng):
    view, parameters, moments, dtype, store = case
    tensors = data(rng, view, parameters, dtype, store)
    results = [on_device(HostDriver(), *tensors, moments, 1e-5, offset=offset) for offset in (0, 1)]
    for one, two in zip(*results, strict=True):
        check.same_bits(two, one)


@each_of([CASES[i] for i in (9, 12, 15, 20, 22)], {"4x6x3x20-2x6x3x20-float32"})
def test_offsets_of_64_bits_give_the_same_bits(case, rng, monkeypatch):
    from normzoo.backends.cuda import forms, launcher  # noqa: PLC0415

    view, parameters, moments, *_ = case
    tensors = data(rng, view, parameters)
    first = on_device(HostDriver(), *tensors, moments, 1e-5)
    monkeypatch.setattr(forms, "BIG", 1)
    launcher._plan.cache_clear()
    try:
        for one, two in zip(first, on_device(HostDriver(), *tensors, moments, 1e-5), strict=True):
            check.same_bits(two, one)
    finally:
        launcher._plan.cache_clear()


# One shape of every kind of kernel; small, since every access is looked at.
CHECKED = [
    ((5, 1, 1, 37), (1, 1, 1, 37), Moments(), FLOAT32, None),
    ((5, 1, 1, 1024), (1, 1, 1, 1024), Moments(), FLOAT32, None),
    ((2, 1, 1, 4096), (1, 1, 1, 4096), Moments(), FLOAT32, None),
    ((2, 3, 1, 10000), (1, 3, 1, 1), Moments(), FLOAT32, None),
    ((2, 3, 1, 10001), (1, 3, 1, 1), Moments(power=1), FLOAT32, None),
    ((1, 40, 4, 1200), (1, 1, 4, 1), Moments(), FLOAT32, None),
    ((4, 64, 16, 1), (1, 64, 1, 1), Moments(), FLOAT32, None),
    ((4, 64, 20, 1), (2, 64, 20, 1), Moments(), FLOAT32, None),
    ((2, 600, 40, 1), (1, 1, 40, 1), Moments(), FLOAT32, None),
    ((2, 50, 12, 49), (1, 1, 12, 1), Moments(), FLOAT32, None),
    ((3, 1, 1, 520), (1, 1, 1, 520), Moments(), FLOAT32, BFLOAT16),
    ((3, 1, 1, 130), (1, 1, 1, 130), Moments(), FLOAT64, None),
    ((5, 1, 1, 2), (1, 1, 1, 2), Moments(), FLOAT32, None),
]


@pytest.mark.parametrize("case", CHECKED, ids=name_of)
def test_every_access_is_in_bounds_aligned_ordered_and_initialized(case, rng):
    view, parameters, moments, dtype, store = case
    x, dy, weight, bias = data(rng, view, parameters, dtype, store)
    device = HostDriver(("random", 3), checked=True, multiprocessors=1)
    actual = on_device(device, x, dy, weight, bias, moments, 1e-5)
    compare(
        on_host(x, dy, weight, bias, moments, 1e-5), actual, TOLERANCES[dtype], STORAGE[store or dtype], weight, bias
    )


def traffic(device, kernel, *places):
    """What a kernel moved of the arrays at these places of its arguments, and the whole report."""
    report, args = next((r, a) for name, r, a in device.launches if name == kernel)
    found = report.of(*(args[i] for i in places))
    assert found.bytes_written == found.unique_written
    return found, report


# The most that kernels move over the arrays' bytes; that warps request in sectors; and that threads name in bytes.
# Where a set takes more than a warp, each thread names its first value (or row): a request of one sector for a warp, of
# what the block reads anyway. Where rows begin within a sector, a warp's 128 bytes touch five sectors, of which its
# next request finds the fifth in the cache. (See `Traffic` for what is counted.)
@pytest.mark.parametrize(
    ("view", "parameters", "most", "requests", "names"),
    [
        ((16, 1, 1, 1024), (1, 1, 1, 1024), 1.0, 1.0, 1.0),
        ((16, 1, 1, 1000), (1, 1, 1, 1000), 1.0, 1.0, 1.0),
        ((3, 1, 1, 4096), (1, 1, 1, 4096), 1.0, 1.003, 1.01),
        ((16, 1, 1, 1001), (1, 1, 1, 1001), 1.05, 1.27, 1.0),
        ((16, 4, 1, 64), (4, 4, 1, 1), 1.0, 1.0, 1.0),
        ((4, 64, 32, 1), (1, 64, 1, 1), 1.0, 1.05, 1.13),
    ],
    ids=str,
)
def test_every_value_is_moved_once(view, parameters, most, requests, names, rng):
    tensors = data(rng, view, parameters)
    device = HostDriver(checked=True, multiprocessors=1)
    on_device(device, *tensors, Moments(), 1e-5)
    forward, report = traffic(device, "forward_kernel", 0, 3)
    backward, _ = traffic(device, "backward_kernel", 0, 1, 4)
    for found, least in ((forward, 1.0), (backward, 1.02)):
        assert found.ratio(once_a="launch") <= max(most, least)
        assert found.ratio(once_a="block") <= max(most, least)
        assert found.ratio() <= max(requests, least)
        assert found.repeats() <= max(names, least)
    if view[-1] % 4 == 0:
        bulk = tensors[0].nbytes // 16
        assert report.widths_read.get(16, 0) >= bulk and report.widths_written == {**report.widths_written, 16: bulk}


@pytest.mark.parametrize(
    ("kernel", "barrier"), [("forward_kernel", 0), ("forward_kernel", 1), ("backward_kernel", 0), ("fold_kernel", 0)]
)
def test_a_missing_barrier_is_found(kernel, barrier, rng):
    view, parameters, moments, *_ = CASES[5]
    x, *others = data(rng, view, parameters)
    x *= np.float32(1e30)  # whose largest magnitude is looked for too, with a barrier of its own
    with pytest.raises(ExecutorError, match=r"race|uninit"):
        on_device(HostDriver(checked=True, drop_barrier=(kernel, barrier)), x, *others, moments, 1e-5)


@pytest.mark.parametrize("value", [3e19, 3e38, 1e-18, 1e-30, 1e-42])
@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("view", [(3, 1, 1, 4), (1, 4, 5, 1)], ids=["row", "column"])
def test_nothing_overflows_where_the_answer_can_be_written(view, center, value, rng):
    pattern = np.array([1, -1, 0.5, 0.25])
    x = np.broadcast_to(pattern.reshape(1, 4, 1, 1) if view[1] == 4 else pattern, view)
    x = (value * x).astype(np.float32)
    weight, bias = np.ones((1, 1, 1, 1), np.float32), np.zeros((1, 1, 1, 1), np.float32)
    moments = Moments(center=center)
    dy = (value * rng.uniform(-1, 1, view)).astype(np.float32)
    expected = on_host(x, dy, weight, bias, moments, 0.0)
    actual = on_device(HostDriver(), x, dy, weight, bias, moments, 0.0)
    check.close(actual[0], expected[0], 1e-6)
    if value > 1e-38:  # dy of that size has but a few bits itself
        check.close(actual[4], expected[4], check.BACKWARD32)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
@pytest.mark.parametrize("view", [(9, 1, 1, 37), (3, 9, 5, 49), (1, 64, 16, 1)], ids=str)
def test_nan_and_inf_stay_in_their_set(view, poison, rng):
    x, dy, weight, bias = data(rng, view, (1, 1, 1, 1))
    clean = on_device(HostDriver(), x, dy, weight, bias, Moments(), 1e-5)[0]
    x[0, 0, 0, 0] = poison
    y = on_device(HostDriver(), x, dy, weight, bias, Moments(), 1e-5)[0]
    assert np.isnan(y[0, :, 0]).all()
    clean[0, :, 0] = np.nan
    check.same_bits(y, clean)


def test_zero_divided_by_zero_is_zero(rng):
    x, dy, weight, bias = data(rng, (9, 1, 1, 37), (1, 1, 1, 1))
    x[...], bias[...] = 0, 0
    y, _, _, rstd, dx, *_ = on_device(HostDriver(), x, dy, weight, bias, Moments(), 0.0)
    assert not y.any() and not rstd.any() and not dx.any()


@pytest.mark.parametrize("mean", [1e2, 1e4])
def test_dx_is_right_where_dy_is_far_from_zero(mean, rng):
    for view, parameters in [
        ((6, 1, 1, 37), (1, 1, 1, 37)),
        ((2, 1500, 72, 1), (1, 1, 72, 1)),
        ((2, 3, 1, 10001), (1, 3, 1, 1)),
    ]:
        x, dy, weight, bias = data(rng, view, parameters)
        dy += np.float32(mean)
        weight[...] = 1
        expected = on_host(x, dy, weight, bias, Moments(), 1e-5)
        actual = on_device(HostDriver(), x, dy, weight, bias, Moments(), 1e-5)
        check.close(actual[4], expected[4], check.BACKWARD32, np.abs(expected[4]).max())


@pytest.mark.parametrize(("x_size", "w_size", "dy_size"), [(1e38, 3e38, 1), (1e30, 1e20, 1e20), (1e-30, 1e-25, 1e-25)])
def test_products_on_the_way_to_dx_do_not_overflow(x_size, w_size, dy_size, rng):
    x, dy = ((size * rng.uniform(-1, 1, (6, 1, 1, 37))).astype(np.float32) for size in (x_size, dy_size))
    weight, bias = np.full((1, 1, 1, 37), w_size, np.float32), np.zeros((1, 1, 1, 37), np.float32)
    expected = on_host(x, dy, weight, bias, Moments(), 0.0)
    actual = on_device(HostDriver(), x, dy, weight, bias, Moments(), 0.0)
    check.close(actual[4], expected[4], check.BACKWARD32, np.abs(expected[4]).max())


def test_y_may_be_x_and_dx_may_be_dy_or_x(rng):
    for view, parameters in [
        ((9, 1, 1, 1024), (1, 1, 1, 1024)),
        ((4, 64, 16, 1), (1, 64, 1, 1)),
        ((2, 1, 1, 8200), (1, 1, 1, 8200)),
    ]:
        x, dy, weight, bias = data(rng, view, parameters)
        apart = on_device(HostDriver(), x, dy, weight, bias, Moments(), 1e-5)
        with driver.use(HostDriver(("random", 1))):
            f = CUDA.forward(view, parameters, Moments(), FLOAT32, FLOAT32)
            g = CUDA.backward(view, parameters, Moments(), FLOAT32, FLOAT32)
            w, a = put(weight), put(bias)
            y = put(x)
            stats = f(y, w, a, 1e-5, y)
            check.same_bits(y.copy_to_host(), apart[0])
            for over in (0, 1):
                d, v = put(dy), put(x)
                dx = (d, v)[over]
                g(d, v, stats, w, 1e-5, dx, fresh(weight), fresh(weight))
                check.same_bits(dx.copy_to_host(), apart[4])


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64])
@pytest.mark.parametrize(("sets", "count"), [(1, 1), (3, 8)])
def test_running_statistics(dtype, sets, count, rng):
    stats = rng.uniform(0.5, 2, (3, sets, 5))
    mean, var, made = *np.ones((2, 5), dtype), np.full((3, 1, 5), np.nan)
    REFERENCE.update(mean, var, stats, count, 0.25)
    REFERENCE.constants(mean, var, 0.5, made)
    with driver.use(HostDriver()):
        m, v, s = put(np.ones(5, dtype)), put(np.ones(5, dtype)), fresh(made)
        CUDA.update(m, v, put(stats), count, 0.25)
        CUDA.constants(m, v, 0.5, s)
        for expected, actual in ((mean, m), (var, v), (made, s)):
            np.testing.assert_allclose(actual.copy_to_host(), expected, rtol=1e-14 if dtype == FLOAT64 else 1e-7)


@pytest.mark.parametrize("source", [FLOAT32, FLOAT64, FLOAT16, BFLOAT16], ids=lambda d: d.name)
@pytest.mark.parametrize("target", [FLOAT32, FLOAT64, FLOAT16, BFLOAT16], ids=lambda d: d.name)
def test_copies_convert_as_numpy_does(source, target, rng):
    def same(actual, expected):  # NumPy knows no NaN of bfloat16
        assert actual.dtype == expected.dtype
        check.same_bits(actual.astype(np.float64), expected.astype(np.float64))

    special = [
        0.0,
        -0.0,
        np.inf,
        -np.inf,
        np.nan,
        65519.9,
        65520.0,
        1e-8,
        3e38,
        1 + 2.0**-9,
        1 + 2.0**-8,
        1 + 3 * 2.0**-9,
    ]
    with np.errstate(over="ignore"):
        values = np.array([*special, *rng.standard_normal(52)]).astype(source).reshape(4, 16)
        expected = values.T.astype(np.float32 if source == FLOAT64 and target.itemsize == 2 else source).astype(target)
    with driver.use(HostDriver()):
        a = put(values)
        same(a.transpose((1, 0)).astype(target).copy_to_host(), expected)
        b = fresh(expected)
        b.transpose((1, 0))[...] = a
        same(b.copy_to_host(), expected)
        b[...] = 2.5
        assert (b.copy_to_host() == 2.5).all()
        row = put(np.arange(4, dtype=source))
        b[...] = row
        assert (b.copy_to_host().astype(float) == np.arange(4)).all()


def test_a_device_array_is_like_numpys(rng):
    values = rng.standard_normal((3, 4, 5)).astype(np.float32)
    with driver.use(HostDriver()):
        a = put(values)
        assert (a.ndim, a.size, a.itemsize, a.nbytes, a.strides) == (3, 60, 4, 240, values.strides)
        assert a.flags.num & 0x101 == values.flags.num & 0x101
        for order in itertools.permutations(range(3)):
            moved, expected = a.transpose(order), values.transpose(order)
            assert (moved.shape, moved.strides) == (expected.shape, expected.strides)
            assert moved.flags.c_contiguous == expected.flags.c_contiguous
            check.same_bits(moved.copy_to_host(), np.ascontiguousarray(expected))
            check.same_bits(moved.reshape(4, 15).copy_to_host(), expected.reshape(4, 15))
        check.same_bits(a[1].copy_to_host(), values[1])
        interface = a.transpose((2, 0, 1)).__cuda_array_interface__
        again = interop.from_interface(type("Foreign", (), {"__cuda_array_interface__": interface})())
        check.same_bits(again.copy_to_host(), np.ascontiguousarray(values.transpose(2, 0, 1)))
        with pytest.raises(ValueError, match="reshape"):
            a.reshape(7, 7)
        with pytest.raises(ValueError, match="broadcast"):
            a[...] = put(values[0])[0].reshape(5)[...].reshape(1, 1, 1, 5)


def test_without_a_driver_the_error_says_what_to_install():
    with contextlib.suppress(ImportError):
        from numba import cuda as numba_cuda  # noqa: PLC0415

        if numba_cuda.is_available():
            pytest.skip("has a device")
    with pytest.raises(RuntimeError, match=r"\[cu(da)?12\].*\[cu(da)?13\]"):
        arrays.empty((3,), FLOAT32)
    with pytest.raises(RuntimeError, match=r"\[cu(da)?12\]"):
        driver.current()


def test_without_numba_cuda_the_error_says_what_to_install(monkeypatch):
    driver.numba_cuda.cache_clear()
    try:
        monkeypatch.setattr(driver, "import_module", lambda name: type("cuda", (), {}))
        with pytest.raises(RuntimeError, match=r"Numba's own.*\[cu(da)?12\]"):
            driver.numba_cuda()

        def missing(name):
            raise ImportError("no module")

        monkeypatch.setattr(driver, "import_module", missing)
        with pytest.raises(RuntimeError, match=r"\[cu(da)?13\]"):
            driver.numba_cuda()
    finally:
        driver.numba_cuda.cache_clear()
