"""Statistics of arrays by kernels of tables: of every layout and axis, of values that count, with weights, in segments."""

import itertools

import numpy as np
import pytest

import normzoo as nz
from normzoo.backends import backend
from normzoo.backends.forms import Rescaling, Summary
from normzoo.statistics import rescaling, stats, tables
from normzoo.statistics.stats import extremes_union
from normzoo.statistics.tables import Counted, found_of
from tests import check

NOTHING = np.zeros(0, np.int64), np.zeros(0)


@pytest.fixture(params=["reference", "kernels"])
def whichever(request, monkeypatch):
    """Few values go to the reference; with "kernels", all go to kernels."""
    if request.param == "kernels":
        for module in (tables, stats, rescaling):
            monkeypatch.setattr(module, "COMPILED", 0)
    return request.param


def in_order(x, order):
    """x with its axes in this order of memory."""
    return np.ascontiguousarray(x.transpose(order)).transpose(np.argsort(order))


@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "summary",
    [Summary(), Summary(skips=True), Summary(picks=True, weighs=True, skips=True), Summary(extremes=True)],
    ids=["all", "skips", "weighs", "extremes"],
)
def test_kernels_equal_the_definition(summary, dtype, rng):
    x = (1e6 + rng.standard_normal((200, 37))).astype(dtype)
    x[:, 3] = 0.1  # of equal values: their mean is exact, and nothing is left
    if summary.skips or summary.extremes:
        x[rng.random(x.shape) < 0.1] = np.nan
        x[:70, 5] = np.nan  # more than the rows that a part begins with
        x[:, 6] = np.nan
    parts = np.array([[0, 150], [150, 0], [150, 50]])
    order, weights = (rng.permutation(200), rng.random(200)) if summary.picks else NOTHING
    found, expected = (
        backend(name).summarize(37, summary, x.dtype)(x, 37, parts, order, weights) for name in ("cpu", "reference")
    )
    if summary.extremes:
        check.same_bits(np.ascontiguousarray(found), expected)
    else:
        check.close(found[:, 0], expected[:, 0], 1e-14)
        check.close(found[:, 1], expected[:, 1], 1e-15)
        check.close(found[:, 2], expected[:, 2], 1e-13)
        assert (found[[0, 2], 1, 3] == float(dtype(0.1))).all() and not found[:, 2, 3].any()


HOW = [Rescaling(*flags) for flags in itertools.product([False, True], repeat=3)]
SAMPLED = {
    (np.float32, 1),
    (np.float32, 4),
    (np.float16, 0),
    (np.float16, 7),
    (np.float64, 2),
    (np.float64, 5),
}  # pairwise


@pytest.mark.parametrize(
    ("dtype", "how"),
    [
        pytest.param(dtype, how, marks=[pytest.mark.slow] * ((dtype, i) not in SAMPLED))
        for dtype in (np.float16, np.float32, np.float64)
        for i, how in enumerate(HOW)
    ],
    ids=str,
)
def test_rescaling_equals_the_definition(dtype, how, rng):
    x = rng.standard_normal((70, 37)).astype(dtype)
    sets = 4 if how.chosen or how.by_row else 1
    numbers = np.sort(rng.standard_normal((5 if how.clips else 3, sets, 1 if how.by_row else 37)), axis=0)
    chosen = rng.integers(0, sets, 70)
    y, expected = np.empty_like(x), np.empty_like(x)
    for name, a in (("cpu", y), ("reference", expected)):
        assert backend(name).rescale((70, 37, sets), x.dtype, how)(x, chosen, numbers, a)
    check.close(y, expected, np.finfo(dtype).eps)
    x[69, 36] = np.nan
    for name in ("cpu", "reference"):
        assert not backend(name).rescale((70, 37, sets), x.dtype, how)(x, chosen, numbers, y)


@pytest.mark.parametrize("shape", [(5, 17, 23), (2, 3, 900), (4, 300, 3), (3, 1000)], ids=str)
def test_axes_and_layouts(shape, whichever, rng):
    base = 1e3 + rng.standard_normal(shape)
    for order in itertools.permutations(range(len(shape))):
        x = in_order(base.astype(np.float32), order)
        exact = x.astype(np.float64)
        for many in range(1, len(shape) + 1):
            for axis in itertools.combinations(range(len(shape)), many):
                found = nz.Stats.of(x, axis)
                check.close(found.mean, exact.mean(axis=axis), 2e-15 * 1e3)
                m2 = ((exact - exact.mean(axis=axis, keepdims=True)) ** 2).sum(axis=axis)
                check.close(found.m2, m2, 1e-11 * m2.max())


@pytest.mark.parametrize("axis", [(0,), (0, 1), (0, 2), (1,), (0, 1, 2)])
def test_values_that_count_in_segments_and_with_weights(axis, whichever, rng):
    x = 10 + rng.standard_normal((6, 9, 5))
    x[1, 2, 3] = np.nan
    along = axis[0]
    ids = rng.integers(-2, 2, x.shape[along])
    weights = np.moveaxis(rng.integers(0, 3, (x.shape[along], 1, 1)) / 2, 0, along)
    mask = rng.random((6, 9, 1)) < 0.7
    selection = nz.select(x, mask=mask, sample_weight=weights, segments=ids, segment_axis=along)
    found = nz.Stats.of(selection, axis, skip_nan=True)
    counted = mask * weights * ~np.isnan(x)
    for i, segment in enumerate(np.unique(ids)):
        shape = [-1 if a == along else 1 for a in range(3)]
        w = counted * (ids == segment).reshape(shape)
        n = w.sum(axis=axis)
        v = np.nan_to_num(x)
        mean = np.divide((w * v).sum(axis=axis), n, out=np.zeros_like(n), where=n > 0)
        check.close(np.broadcast_to(found.count[i], n.shape), n, 1e-14)
        check.close(found.mean[i], mean, 1e-14)
        check.close(found.m2[i], (w * (v - np.expand_dims(mean, axis)) ** 2).sum(axis=axis), 1e-12)


def test_segments_with_merging_are_those_of_all_data(whichever, rng):
    x, ids = rng.standard_normal((500, 3)), rng.integers(0, 4, 500)
    whole = nz.Stats.of(nz.select(x, segments=ids), 0)
    parts = [nz.Stats.of(nz.select(x[a : a + 250], segments=ids[a : a + 250]), 0) for a in (0, 250)]
    both = parts[0].merge(parts[1])
    assert (both.count == whole.count).all()
    check.close(both.mean, whole.mean, check.EXACT)
    check.close(both.m2, whole.m2, 1e-13)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_squares_beyond_the_range_have_a_unit(scale, whichever, rng):
    x = rng.standard_normal((400, 3)) * [1.0, scale, 0.0] + [0.0, 0.0, 7.0]
    found = nz.Stats.of(nz.select(x, segments=np.arange(400) % 2), 0)
    for i in range(2):
        check.close(found.std()[i] / [1, scale, 1], (x[i::2] / [1, scale, 1]).std(axis=0), 1e-14)
    assert (found.m2[:, 2] == 0).all()


def test_extremes_of_segments(whichever, rng):
    x = rng.standard_normal((300, 4)).astype(np.float32)
    ids = (np.arange(300) % 3)[:, None]
    count, least, most = found_of(x, (0,), Counted(segments=ids, groups=4), True, extremes_union)
    for i in range(3):
        assert (least[i] == x[i::3].min(axis=0)).all() and (most[i] == x[i::3].max(axis=0)).all()
    assert count[3].sum() == 0 and (least[3] == np.inf).all() and (most[3] == -np.inf).all()


def test_bits_do_not_depend_on_threads(rng):
    import numba  # noqa: PLC0415

    x = rng.standard_normal((40_000, 3)).astype(np.float32)
    many = nz.Stats.of(x, 0)
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        one = nz.Stats.of(x, 0)
    finally:
        numba.set_num_threads(threads)
    check.same_bits(many.mean, one.mean)
    check.same_bits(many.m2, one.m2)


@pytest.mark.parametrize("shape", [(50, 1), (5, 17, 23), (3, 4, 5, 6)], ids=str)
def test_rescaled_in_every_layout(shape, whichever, rng):
    for order in itertools.permutations(range(len(shape))):
        x = in_order(rng.standard_normal(shape), order)
        for axis, groups in itertools.product(range(len(shape)), [None, rng.integers(0, 4, shape[0])]):
            if groups is not None and axis == 0:
                continue
            numbers = rng.standard_normal((3, 1 if groups is None else 4, shape[axis]))
            y, finite = rescaling.rescaled(x, axis, numbers, groups)
            of_sample = numbers[:, [0] * shape[0] if groups is None else groups]  # (3, N, features)
            if axis == 0:
                wide = numbers[:, 0].reshape(3, -1, *(1,) * (len(shape) - 1))
            else:
                wide = np.moveaxis(of_sample.reshape(*of_sample.shape, *(1,) * (len(shape) - 2)), 2, axis + 1)
            assert finite
            check.close(y, (x - wide[0]) * wide[1] + wide[2], 1e-14)
