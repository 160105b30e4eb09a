"""Kernels of series and of medians against their definitions: odd shapes, dtypes, layouts and threads, far from zero,
where numbers leave the range of a type, and where values are equal or nearly so."""

import tracemalloc

import ml_dtypes
import numba
import numpy as np
import pytest

import normzoo as nz
from normzoo.backends import backend
from normzoo.backends.forms import Cells, Level, Lines, Sliding
from tests import check
from tests.zoo.test_cells import agrees, both, ran

DTYPES = np.float32, np.float64, np.float16, ml_dtypes.bfloat16
# name -> (a norm of c channels over 12 time steps, on channel_axis)
NORMS = {
    "SAN": lambda c, axis, dtype: nz.SAN(c, 4, channel_axis=axis),
    "DishTS": lambda c, axis, dtype: nz.DishTS(c, 12, channel_axis=axis, dtype=dtype),
    "FAN": lambda c, axis, dtype: nz.FAN(c, 3, channel_axis=axis),
    "RobustNorm": lambda c, axis, dtype: nz.RobustNorm(1 if axis == -1 else 2),
    "RobustNorm-trimmed": lambda c, axis, dtype: nz.RobustNorm((0, 1), statistic="trimmed", share=0.15),
}
each_norm = pytest.mark.parametrize("name", NORMS)


def made(name, rng, shape=(3, 12, 19), dtype=np.float32, axis=-1):
    """norm, x and dy; shape is (N, T, C)."""
    norm = NORMS[name](shape[2], axis, np.float64 if dtype == np.float64 else np.float32)
    for p in norm.params.values():
        p[...] = rng.uniform(0.5, 1.5, p.shape) * np.where(p == 0, 1, p)
    shape = shape if axis == -1 else (shape[0], shape[2], shape[1])
    return norm, *(rng.standard_normal((2, *shape)) + 2).astype(dtype)


@each_norm
@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("dtype", [*DTYPES[:3], pytest.param(DTYPES[3], marks=pytest.mark.slow)])
def test_kernels_compute_the_definition(name, axis, dtype, rng):
    norm, x, dy = made(name, rng, dtype=dtype, axis=axis)
    agrees(norm, x, (), dy)


@each_norm
@pytest.mark.parametrize("shape", [(1, 12, 1), (40, 12, 1), (2, 12, 400)], ids=str)
def test_odd_shapes(name, shape, rng):
    norm, x, dy = made(name, rng, shape)
    agrees(norm, x, (), dy)


@pytest.mark.parametrize("name", [name for name in NORMS if "trimmed" not in name])  # which goes over the batch
@pytest.mark.parametrize("axis", [-1, 1])
def test_bits_do_not_depend_on_the_batch(name, axis, rng):
    norm, x, dy = made(name, rng, (7, 12, 19), axis=axis)
    y, dx = norm(x), norm.backward(dy)
    for i in (0, 3, 6):
        check.same_bits(norm(x[i : i + 1]), y[i : i + 1])
        check.same_bits(norm.backward(dy[i : i + 1]), dx[i : i + 1])


@each_norm
def test_a_gradient_in_one_place(name, rng):
    norm, x, dy = made(name, rng)
    dy[...] = 0
    dy[1, 3, 17] = 5
    agrees(norm, x, (), dy)


@each_norm
@pytest.mark.parametrize("axis", [-1, 1])
def test_threads_and_layouts(name, axis, rng):
    """The same bits on one thread; x is not copied in any layout of its axes that a kernel knows."""
    norm, x, dy = made(name, rng, (40, 12, 601), axis=axis)
    found = both(norm, x, (), dy)
    before = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        alone = both(norm, x, (), dy)
    finally:
        numba.set_num_threads(before)
    for key, v in found.items():
        check.same_bits(alone[key], v)
    turned = np.ascontiguousarray(x.swapaxes(1, 2)).swapaxes(1, 2)
    again = both(norm, turned, (), dy)
    if not name.startswith("Robust"):  # whose sets are rows
        assert np.may_share_memory(norm.saved._v, turned), "x is not copied"
    for key, v in found.items():
        check.close(again[key], v, 3e-6, max(1.0, float(np.abs(v).max())))


@each_norm
@pytest.mark.parametrize("mean", [1e4, 1e6])
def test_far_from_zero(name, mean, rng):
    norm, x, dy = made(name, rng)
    if name == "DishTS":  # else the level of its map is far from the values
        norm.params["lookback_weight"][...] = 1 / 12
    x = (mean + x).astype(np.float32)
    y, dx = norm(x), norm.backward(dy)
    with nz.use("reference"):
        exact = norm(x.astype(np.float64))
        exact_dx = norm.backward(dy.astype(np.float64))
    check.close(y, exact, check.FORWARD32, max(1.0, float(np.abs(exact).max())))
    check.close(dx, exact_dx, check.BACKWARD32, float(np.abs(exact_dx).max()))


@each_norm
def test_beyond_the_range_of_its_type(name, rng):
    """The definition computes what float32 cannot: also where y is written over x, which it reads again."""
    norm, x, dy = made(name, rng)
    large = (np.float32(3e37) * x / np.abs(x).max()).astype(np.float32)
    y = norm(large)
    assert not ran(norm) or name.startswith("Robust")
    with nz.use("reference"):
        exact = norm(large.astype(np.float64))
    check.close(y.astype(np.float64), exact, 1e-6, float(np.abs(exact).max()))
    place = large.copy()
    check.same_bits(norm(place, out=place), y)
    norm(x)
    dx = norm.backward((1e37 * dy).astype(np.float32))
    norm(x.astype(np.float64))
    exact = norm.backward(1e37 * dy.astype(np.float64))
    check.close(dx.astype(np.float64), exact, 1e-5, float(np.abs(exact).max()))


@pytest.mark.parametrize("name", ["SAN", "DishTS", "FAN"])
@pytest.mark.parametrize("axis", [-1, 1])
def test_an_inverse_reads_x_as_it_was(name, axis, rng):
    norm, x, _ = made(name, rng, axis=axis)
    f, dz = rng.standard_normal((2, *x.shape), np.float32)
    norm(x)
    z, back = norm.inverse(f), norm.saved_inverse.backward(dz)
    with nz.use("reference"):
        norm(x.astype(np.float64))
        check.close(z, norm.inverse(f.astype(np.float64)), 1e-6)
        exact = norm.saved_inverse.backward(dz.astype(np.float64))
    check.close(back.x, exact.x, 1e-6)
    check.close(back.others["source"], exact.others["source"], 1e-5)
    saved = norm.forward(x)[1]
    x[...] = 7
    with pytest.raises(RuntimeError, match="expected x as it was in the forward pass"):
        norm.inverse_forward(f, saved)[1].backward(dz)


@pytest.mark.parametrize("steps", [40, 4096, 4097])
@pytest.mark.parametrize("axis", [-1, 1])
def test_series_of_any_length(steps, axis, rng):
    """Those that are long are shared by threads, in other kernels."""
    shape = (2, steps, 17) if axis == -1 else (2, 17, steps)
    x, dy = rng.standard_normal((2, *shape), np.float32)
    norm = nz.RevIN(17, channel_axis=axis)
    y, dx = norm(x + 100), norm.backward(dy)
    with nz.use("reference"):
        check.close(y, norm(x + 100), 1e-6, 5.0)
        exact = norm.backward(dy)
    check.close(dx, exact, 1e-5, float(np.abs(exact).max()))


@pytest.mark.parametrize("length", [1, 2])
def test_slices_of_few_steps(length, rng):
    """dx is almost nothing, beside which float32 would show its rounding."""
    norm, x, dy = nz.SAN(5, length), *rng.standard_normal((2, 3, 12, 5), np.float32)
    norm(x)
    dx = norm.backward(dy)
    with nz.use("reference"):
        norm(x.astype(np.float64))
        exact = norm.backward(dy.astype(np.float64))
    check.close(dx, exact, 1e-5, max(float(np.abs(exact).max()), 1e-30))


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (nz.SAN(67, 60), (40, 300, 67)),
        (nz.DishTS(67, 300), (40, 300, 67)),
        (nz.FAN(67), (40, 300, 67)),
        (nz.RobustNorm(), (2000, 401)),
        (nz.SlidingNorm(67, 50), (40, 67, 300)),
    ],
    ids=lambda v: type(v).__name__,
)
def test_no_temporaries_of_the_size_of_x(norm, shape, rng):
    x, dy = rng.standard_normal((2, *shape), np.float32)
    y, dx = np.empty((2, *shape), np.float32)
    both(norm, x, (), dy)
    tracemalloc.start()
    norm(x, out=y)
    norm.backward(dy, out=dx)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < x.nbytes * 0.75


# -- medians


@pytest.mark.parametrize("n", [16, 17, 767])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_equal_values_and_distances_share(n, dtype, rng):
    """Whole numbers: many values are in the middle, and many distances."""
    x, dy = rng.integers(-9, 9, (30, n)).astype(dtype), rng.standard_normal((30, n)).astype(dtype)
    agrees(nz.RobustNorm(-1), x, (), dy)


@pytest.mark.parametrize("n", [64, 65, 5001])
def test_distances_that_only_rounding_makes_equal(n, rng):
    """Whose distance is in the middle is found among them in float64."""
    x = (1 + np.float32(2) ** -20 * rng.standard_normal((40, n), np.float32)).astype(np.float32)
    x[:, ::3] += rng.standard_normal((40, len(range(0, n, 3))), np.float32) * 40
    norm, dy = nz.RobustNorm(-1), rng.standard_normal((40, n), np.float32)
    agrees(norm, x, (), dy)


def test_an_infinite_outlier_and_nan_stay_in_their_sets(rng):
    x = rng.standard_normal((6, 33), np.float32)
    whole = nz.RobustNorm(-1)(x)
    x[2, 5], x[4, 1] = np.inf, np.nan
    y = nz.RobustNorm(-1)(x)
    assert y[2, 5] == np.inf and np.isfinite(np.delete(y[2], 5)).all() and np.isnan(y[4]).all()
    for row in (0, 1, 3, 5):
        check.close(y[row], whole[row], 1e-6)


# -- strongest components


@pytest.mark.parametrize("axis", [-1, 1])
def test_components_of_nearly_one_strength(axis, rng):
    """Float64 decides where float32 cannot: equal ones go by frequency."""
    t, shape = np.arange(48), (2, 48, 40)
    gap = 10.0 ** -rng.uniform(4, 9, (2, 1, 40))
    x = 5 + np.cos(2 * np.pi * 5 * t / 48)[:, None] + (1 + gap) * np.cos(2 * np.pi * 11 * t / 48)[:, None]
    x = (x + 1e-3 * rng.standard_normal(shape)).astype(np.float32)
    x = np.ascontiguousarray(x.swapaxes(1, 2)) if axis == 1 else x
    agrees(nz.FAN(40, 2, channel_axis=axis), x, (), rng.standard_normal(x.shape, np.float32))
    zeros = np.zeros_like(x)
    assert not nz.FAN(40, 2, channel_axis=axis)(zeros).any()


def test_all_components_are_taken_away(rng):
    x = rng.standard_normal((2, 9, 3), np.float32)
    assert not nz.FAN(3, 5)(x).any()


# -- passes of the backends


LEVELS = [
    Level(False, True, 7, 1e-3),
    Level(True, False, 6, 1e-2),
    pytest.param(Level(False, False, 7, 1e-3), marks=pytest.mark.slow),  # which no norm has
    pytest.param(Level(True, True, 6, 0.1), marks=pytest.mark.slow),
]


@pytest.mark.parametrize("form", LEVELS, ids=lambda f: f"mapped={f.mapped}-outside={f.outside}")
@pytest.mark.parametrize("last", [True, False])
def test_levels_are_those_of_the_reference(form, last, rng):
    dims, wide, half = Cells(5, 21, 7, last), np.dtype(np.float64), np.dtype(np.float32)
    x, dy = rng.standard_normal((2, 5, 7 * 21)) + 3
    weight, bias, maps = rng.standard_normal(21), rng.standard_normal(21), rng.uniform(0, 0.3, 7 * 21)
    for dtype, tolerance in ((wide, 1e-12), (half, 2e-6)):
        given = [a.astype(dtype) for a in (x, maps, weight, bias)]
        found = []
        for name, kind in (("cpu", dtype), ("reference", wide)):
            y, dx = np.empty((2, *x.shape), kind)
            v, m, w, b = (a.astype(kind) for a in given)
            stats, near = backend(name).level(dims, form, kind, kind)(v, m, w, b, y)
            run = backend(name).level_back(dims, form, kind, kind)
            sums, of_maps, near_too = run(dy.astype(dtype).astype(kind), v, m, w, stats, dx)
            assert near and near_too
            found.append([y, dx, stats[:2], sums, *([of_maps] if form.mapped else [])])
        for one, other in zip(*found, strict=True):
            check.close(one, other.reshape(one.shape), tolerance)


@pytest.mark.parametrize(
    "form", [Sliding(6, 0, 1e-3), Sliding(4, 3, 1e-3), Sliding(0, 0, 1e-3), Sliding(80, 70, 1e-3)], ids=str
)
@pytest.mark.parametrize("time_last", [True, False])
@pytest.mark.parametrize("steps", [1, 7, 50])
def test_windows_are_those_of_the_reference(form, time_last, steps, rng):
    dims, kind = Lines(2, steps, 19, time_last), np.dtype(np.float64)
    x, dy = rng.standard_normal((2, 2, steps * 19)) + 3
    numbers, found = rng.standard_normal((2, 19)), []
    for name in ("cpu", "reference"):
        y, dx = np.empty((2, *x.shape))
        backend(name).slide(dims, form, kind, kind)(x, numbers, 0, y)
        found.append([y, dx, backend(name).slide_back(dims, form, kind, kind)(dy, x, numbers, dx)])
    for one, other in zip(*found, strict=True):
        check.close(one, other, 1e-11)


def test_one_line_of_another_size(rng):
    """A line whose squares float64 cannot hold has a unit of its own."""
    x, dy = rng.standard_normal((2, 2, 3, 40))
    norm = nz.SlidingNorm(3, 7, 0.0, affine=False)
    y, dx = norm(x), norm.backward(dy)
    x[1, 1] = np.ldexp(x[1, 1], 700)
    check.close(norm(x), y, 1e-12)
    far = norm.backward(dy)
    check.close(np.ldexp(far[1, 1], 700), dx[1, 1], 1e-11, float(np.abs(dx).max()))
