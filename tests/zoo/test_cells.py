"""Norms by cells: kernels against their definition over odd shapes, dtypes, layouts and threads, far from zero and where
numbers leave the range of a type; and what a formula may be asked for."""

import gc
import itertools
import tracemalloc
import weakref

import ml_dtypes
import numba
import numpy as np
import pytest

import normzoo as nz
from normzoo.backends import backend
from normzoo.backends.forms import Cells, Formula, Twice
from normzoo.backends.lanes import fma
from normzoo.exchange import registry
from normzoo.passes import cells as by_cells
from normzoo.zoo.exact import ExactNorm
from tests import check

DTYPES = np.float32, np.float64, np.float16, ml_dtypes.bfloat16

# name -> (a norm of c channels, or of rows of c values; shape of x; inputs beside x)
NORMS = {
    "dyt": (nz.DyT, "rows"),
    "derf": (nz.Derf, "rows"),
    "rezero": (lambda c, **o: nz.ReZero(0.3, **o), "rows"),
    "poly_norm": (lambda c, **o: nz.PolyNorm(**o), "rows"),
    "crms_norm": (nz.CRMSNorm, "rows"),
    "partial_rms_norm": (lambda c, **o: nz.PartialRMSNorm(c, 0.3, **o), "rows"),
    "message_norm": (lambda c, **o: nz.MessageNorm(True, **o), "rows"),
    "diff_group_norm": (lambda c, **o: nz.DiffGroupNorm(c, 3, 0.5, **o), "nodes"),
    "max_norm": (lambda c, **o: nz.MaxNorm(2, 0, 3.0), "rows"),
    "global_response_norm": (nz.GlobalResponseNorm, "maps"),
    "evo_norm_b0": (nz.EvoNormB0, "maps"),
    "evo_norm_s0": (lambda c, **o: nz.EvoNormS0(c, 2, **o), "maps"),
    "revin": (lambda c, **o: nz.RevIN(c, subtract_last=True, channel_axis=1, **o), "series"),
    "decorrelated_batch_norm": (lambda c, **o: nz.DecorrelatedBatchNorm(c, 3, **o), "maps"),
    "iter_norm": (lambda c, **o: nz.IterNorm(c, 2, **o), "maps"),
    "group_whitening": (lambda c, **o: nz.GroupWhitening(c, 3, **o), "maps"),
    "orthogonal_weight": (lambda c, **o: nz.OrthogonalWeight(), "rows"),
}
SHAPES = {"rows": (9, 3, 34), "nodes": (37, 34), "maps": (3, 6, 5, 7), "series": (3, 5, 35)}


def made(name, rng, dtype=np.float32, shape=None):
    """(norm, x, inputs, dy)."""
    make, kind = NORMS[name]
    shape = shape or SHAPES[kind]
    norm = make(
        shape[-1] if kind in ("rows", "nodes") else shape[1], dtype=np.float64 if dtype == np.float64 else np.float32
    )
    for p in norm.params.values():
        p[...] = rng.standard_normal(p.shape)
    x, dy, branch = rng.standard_normal((3, *shape)).astype(dtype)
    return norm, x, (branch,) if name in ("rezero", "message_norm") else (), dy


def both(norm, x, inputs, dy):
    """y and all gradients, by name."""
    y = norm(x, *inputs)
    dx = norm.backward(dy)
    return {"y": y, "x": dx, **{name: g.copy() for name, g in norm.grads.items()}}


def exactly(norm, x, inputs, dy):
    with nz.use("reference"):
        return both(norm, *(a.astype(np.float64) for a in (x,)), tuple(a.astype(np.float64) for a in inputs), dy)


def ran(norm):
    """Did kernels compute the last pass?"""
    return type(norm.saved).__name__ == "WholeSaved"


def agrees(norm, x, inputs, dy, forward=None):
    running = {name: b.copy() for name, b in norm.buffers.items()}
    found = both(norm, x, inputs, dy)
    assert ran(norm), "the definition computed it"
    for name, b in running.items():
        norm.buffers[name][...] = b
    expected = exactly(norm, x, inputs, dy)
    rounding = {2: 2.0 ** (-10 if x.dtype == np.float16 else -7)}.get(x.dtype.itemsize, 0.0)
    wide = x.dtype == np.float64
    for name, v in expected.items():
        tolerance = check.EXACT if wide else (forward or check.FORWARD32) if name == "y" else 3e-6
        scale = max(float(np.abs(v).max()), 1e-30) if v.size else 1.0
        if name not in ("y", "x") and v.size:  # of sums, of all that was added
            scale = max(scale, float(np.abs(dy.astype(np.float64)).sum()) / v.size)
        check.close(found[name], v, tolerance * (10 if wide else 1) + rounding, scale)
    return found


@pytest.mark.parametrize("name", NORMS)
def test_kernels_compute_the_definition(name, rng):
    norm, x, inputs, dy = made(name, rng)
    agrees(norm, x, inputs, dy)


def test_one_sample_with_channels_in_the_middle_is_one_sample(rng):
    x = rng.standard_normal((2, 5, 8, 3)).astype(np.float32)
    for norm in (
        nz.GlobalResponseNorm(8, channel_axis=2),
        nz.EvoNormS0(8, 2, channel_axis=2),
        nz.EvoNormB0(8, channel_axis=2).eval(),
    ):
        for p in norm.params.values():
            p[...] = rng.standard_normal(p.shape)
        check.same_bits(norm(x[:1]), norm(x)[:1])


@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("name", ["dyt", "evo_norm_s0", "crms_norm"])
def test_every_dtype(name, dtype, rng):
    norm, x, inputs, dy = made(name, rng, dtype)
    agrees(norm, x, inputs, dy)


@pytest.mark.parametrize(
    "shape", [(1, 2, 1), (2, 2, 16), (1, 18, 1, 1), (2, 4, 700), (1, 6, 40000), (40, 34, 2)], ids=str
)
@pytest.mark.parametrize("name", ["global_response_norm", "evo_norm_b0", "evo_norm_s0"])
def test_odd_shapes_of_maps(name, shape, rng):
    norm, x, inputs, dy = made(name, rng, shape=shape)
    if name == "evo_norm_b0" and shape[0] * np.prod(shape[2:]) == 1:
        norm.eval()
    if name == "evo_norm_s0" and np.prod(shape[2:]) == 1 and shape[1] == 2:
        return
    agrees(norm, x, inputs, dy)


@pytest.mark.parametrize("name", ["global_response_norm", "evo_norm_s0", "revin", "dyt"])
def test_layouts_in_memory_make_no_copy_and_no_difference(name, rng):
    norm, x, inputs, dy = made(name, rng)
    found = both(norm, x, inputs, dy)
    order = (0, *range(2, x.ndim), 1)
    turned = np.ascontiguousarray(x.transpose(order)).transpose(np.argsort(order))
    again = both(norm, turned, inputs, dy)
    assert again["y"].strides == turned.strides
    if name != "dyt":  # whose last axes are cells in one order alone
        assert np.may_share_memory(norm.saved._v, turned), "x is not copied"
    for key, v in found.items():
        check.close(again[key], v, 3e-6, max(1.0, float(np.abs(v).max())))


@pytest.mark.parametrize("name", ["dyt", "global_response_norm", "evo_norm_b0", "poly_norm"])
@pytest.mark.parametrize("last", [False, True])
def test_the_same_bits_on_any_number_of_threads(name, last, rng):
    shape = (300, 7, 128) if NORMS[name][1] == "rows" else (6, 40, 24, 25)
    norm, x, inputs, dy = made(name, rng, shape=shape)
    if last:
        order = (0, *range(2, x.ndim), 1)
        x = np.ascontiguousarray(x.transpose(order)).transpose(np.argsort(order))
    before = numba.get_num_threads()
    assert x.size > 65536, "one thread would do"
    found = both(norm, x, inputs, dy)
    try:
        numba.set_num_threads(1)
        alone = both(norm, x, inputs, dy)
    finally:
        numba.set_num_threads(before)
    for key, v in found.items():
        check.same_bits(alone[key], v)


@pytest.mark.parametrize("name", ["evo_norm_s0", "evo_norm_b0", "revin"])
def test_digits_are_kept_far_from_zero(name, rng):
    norm, x, inputs, dy = made(name, rng)
    if "v" in norm.params:
        norm.params["v"][...] *= 1e-4
    x = (1e4 + 0.1 * x).astype(np.float32)
    x[0, 0].reshape(-1)[0] = 9e3  # an outlier where the shift is taken from
    y = norm(x, *inputs)
    with nz.use("reference"):
        expected = norm(x.astype(np.float64))
    check.close(y, expected, check.FORWARD32, float(np.abs(expected).max()))


@pytest.mark.parametrize("name", NORMS)
def test_what_is_no_number_stays_in_its_set_and_is_found_by_the_definition(name, rng):
    norm, x, inputs, dy = made(name, rng)
    x[(1,) * x.ndim] = np.nan
    y = norm(x, *inputs)
    with nz.use("reference"):
        expected = norm(x, *inputs)
    np.testing.assert_array_equal(np.isnan(y), np.isnan(expected))
    of_all = "diff_group_norm", "evo_norm_b0", "decorrelated_batch_norm", "iter_norm", "orthogonal_weight"
    if name not in of_all:  # sets are not of all samples
        assert not np.isnan(y[0]).any()


@pytest.mark.parametrize("power", [-100, 100])
@pytest.mark.parametrize("name", ["evo_norm_s0", "crms_norm", "poly_norm"])
def test_sizes_at_the_ends_of_float32(name, power, rng):
    norm, x, inputs, dy = made(name, rng)
    x = np.ldexp(x, power)
    found = norm(x, *inputs)
    with nz.use("reference"):
        expected = norm(x, *inputs)
    finite = np.isfinite(expected)
    check.close(found[finite], expected[finite], 1e-5, float(np.abs(expected[finite]).max()) or 1.0)


@pytest.mark.parametrize("name", ["dyt", "global_response_norm", "rezero"])
def test_gradients_beyond_float32_are_found_by_the_definition(name, rng):
    norm, x, inputs, dy = made(name, rng)
    dy = dy * np.float32(1e34)
    found = both(norm, x, inputs, dy)
    expected = exactly(norm, x, inputs, dy)
    for key, v in expected.items():
        check.close(found[key].astype(np.float64), v, 3e-6, float(np.abs(v).max()))


@pytest.mark.parametrize("name", NORMS)
def test_what_is_kept_does_not_hold_y(name, rng):
    norm, x, inputs, _ = made(name, rng)
    y = norm(x, *inputs)
    assert ran(norm)
    gone = weakref.ref(y if y.base is None else y.base)
    del y
    gc.collect()
    assert gone() is None


def test_in_place_and_where_the_caller_says(rng):
    for name in ("dyt", "evo_norm_s0"):
        norm, x, inputs, dy = made(name, rng)
        found = both(norm, x, inputs, dy)
        own, d = x.copy(), dy.copy()
        assert norm(own, out=own) is own
        check.same_bits(own, found["y"])
        check.same_bits(norm.backward(d, out=d), found["x"])
        norm(x)
        x[...] += 1
        with pytest.raises(RuntimeError, match="x has changed|changed"):
            norm.backward(dy)


def test_a_branch_that_has_changed_is_named(rng):
    norm, x, (branch,), dy = made("rezero", rng)
    norm(x, branch)
    branch += 1
    with pytest.raises(RuntimeError, match="branch"):
        norm.backward(dy)


@pytest.mark.parametrize("name", NORMS)
def test_no_values(name, rng):
    kind = NORMS[name][1]
    shape = (0, *SHAPES[kind][1:])
    norm, x, inputs, dy = made(name, rng, shape=shape)
    found = both(norm, x, inputs, dy)
    assert found["y"].shape == found["x"].shape == shape


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("span", ["bc", "b", "c", ""])
def test_sums_and_coefficients_of_every_span(span, last, rng):
    dims = Cells(3, 21, 19, last)
    shape = (dims.b, dims.n, dims.c) if last else (dims.b, dims.c, dims.n)
    x = rng.standard_normal(shape).astype(np.float32)
    a = rng.standard_normal((3 if "b" in span else 1, 21 if "c" in span else 1))
    formula, float32 = Formula(_scaled_and_terms, 1, 1, (span, "bc")), np.dtype(np.float32)
    results, sums = [], []
    for name in ("cpu", "reference"):
        y = np.empty_like(x)
        sums.append(backend(name).cells(dims, formula, (span, ""), float32, float32)((x,), (a, np.ones((1, 1))), (y,)))
        results.append(y)
    check.close(results[0], results[1], 2e-7, 10)
    for found, expected in zip(*sums, strict=True):
        assert found.shape == expected.shape
        check.close(found, expected, 1e-6, 21 * 19 * 3)


@pytest.mark.parametrize("wide", [(False, False), (True, False), (True, True)], ids=str)
@pytest.mark.parametrize(
    "dims", [Cells(37, 1, 45, False), Cells(3, 7, 19, False), Cells(67, 33, 1, True), Cells(4, 33, 5, True)]
)
def test_two_formulas_of_a_set_in_one_reading(dims, wide, rng):
    """As the definition has it: sums, what is made of them, and results that lie in the place of an array."""
    span = "b" if dims.last or dims.c == 1 else "bc"
    sums = (span, "c") if dims.last else (span, span)
    first, second = Formula(_two_sums, 1, 0, sums, wide[0]), Formula(_scaled_by, 1, 2, (), wide[1])
    form = Twice(first, _from_sum, 1, 1, 1, second)
    shape = (dims.b, dims.n, dims.c) if dims.last else (dims.b, dims.c, dims.n)
    x = rng.standard_normal(shape).astype(np.float32)
    a, w = rng.standard_normal((dims.b, 1)), rng.standard_normal((1, dims.c))
    float32, results, found = np.dtype(np.float32), [], []
    for name in ("cpu", "reference"):
        y, z = x.copy(), np.empty_like(x)
        spans = "b", "c" if dims.c > 1 else ""
        found.append(backend(name).cells(dims, form, spans, float32, float32)((y,), (a, w), (y, z)))
        results.append((y, z))
    for one, other in zip(*results, strict=True):
        check.close(one, other, 1e-5, float(np.abs(other).max()))
    for one, other in zip(*found, strict=True):
        assert one.shape == other.shape
        check.close(one, other, 1e-5, x.size**0.5)


def _two_sums(x, a, w):
    return x * a, x * w


def _from_sum(total, a):
    return (a / (1.0 + total * total),)


def _scaled_by(x, _a, w, made):
    return x * made + w, x * x


def test_two_formulas_where_a_set_is_cut_or_sums_are_others():
    form = Twice(Formula(_two_sums, 1, 0, ("b", "b")), _from_sum, 1, 1, 1, Formula(_scaled_by, 1, 2))
    float32 = np.dtype(np.float32)
    for dims in (Cells(2, 3, 5, False), Cells(2, 1, 40000, False), Cells(1, 5, 100000, True)):
        with pytest.raises(ValueError, match="expected sets that are not cut"):
            backend("cpu").cells(dims, form, ("b", ""), float32, float32)


def test_sets_that_are_cut_are_computed_one_formula_after_the_other(rng):
    norm, x, msg = nz.MessageNorm(True), *rng.standard_normal((2, 3, 40001)).astype(np.float32)
    dy = rng.standard_normal(x.shape).astype(np.float32)
    found = both(norm, x, (msg,), dy)
    with nz.use("reference"):
        expected = both(norm, x, (msg,), dy)
    for name, v in expected.items():
        check.close(found[name], v, 1e-5, float(np.abs(v).max()))


def _scaled_and_terms(x, a, one):
    y = fma(x, a, one)
    return y, y, x * x


def test_no_temporaries_of_the_size_of_x(rng):
    for name in ("dyt", "global_response_norm", "evo_norm_s0"):
        norm, x, inputs, dy = made(name, rng, shape=(64, 64, 34, 34) if name != "dyt" else (2048, 4, 256))
        both(norm, x, inputs, dy)
        y, dx = np.empty_like(x), np.empty_like(x)
        tracemalloc.start()
        norm(x, out=y)
        norm.backward(dy, out=dx)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < x.nbytes / 4, name


def test_every_norm_by_cells_is_here():
    classes = registry._classes()
    found = {n for n in classes if getattr(classes[n], "by_cells", ExactNorm.by_cells) is not ExactNorm.by_cells}
    elsewhere = {"san", "dish_ts", "fan", "robust_norm"}  # test_series_kernels.py has them,
    assert found == {*NORMS, *elsewhere, "spectral_norm"}  # and test_weights.py that of a weight of a given shape


def test_axes_are_taken_as_they_lie_where_they_can_be():
    x = np.empty((4, 3, 5, 7))
    said = {
        "bcnn": ((0, 1, 2, 3), (4, 3, 35, False)),
        "bnnc": ((0, 1, 2, 3), (4, 7, 15, True)),
        "nncc": ((0, 1, 2, 3), (1, 35, 12, True)),
        "ncnn": ((0, 1, 2, 3), (4, 3, 35, False)),
        "nbcn": ((1, 2, 0, 3), (3, 5, 28, False)),
    }
    for letters, (axes, dims) in said.items():
        assert by_cells.cells_of(x, letters) == (axes, Cells(*dims)), letters
    turned = x.transpose(0, 3, 1, 2)
    assert by_cells.cells_of(turned, "bcnn") == ((0, 2, 3, 1), Cells(4, 7, 15, True))
    for order in itertools.permutations(range(4)):
        axes, dims = by_cells.cells_of(x.transpose(order), "bcnn")
        assert sorted(axes) == [0, 1, 2, 3]
        assert dims[:3] == (*x.transpose(order).shape[:2], int(np.prod(x.transpose(order).shape[2:])))
