"""Statistics in parts: any split, any order, empty parts, and back again."""

import io
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import normzoo as nz
from normzoo.statistics.stats import in_blocks
from tests import check

VALUES = st.floats(-1e6, 1e6, width=32)


@st.composite
def split_data(draw):
    """Values (n, 2) and what they are cut into, empty parts among it, in any order."""
    x = draw(hnp.arrays(np.float64, st.tuples(st.integers(0, 24), st.just(2)), elements=VALUES))
    cuts = sorted(draw(st.lists(st.integers(0, len(x)), max_size=6)))
    parts = [x[a:b] for a, b in zip([0, *cuts], [*cuts, len(x)], strict=True)]
    return x, draw(st.permutations(parts))


def exactly(x):
    """count, mean and m2 of (n,) values in rational numbers."""
    values = [Fraction(float(v)) for v in x]
    mean = sum(values, Fraction(0)) / max(len(values), 1)
    return len(values), mean, sum(((v - mean) ** 2 for v in values), Fraction(0))


def is_right(stats, x):
    """Every set has the count, and to rounding the mean and m2, of its column of x."""
    largest = float(np.abs(x).max(initial=0.0))
    for j in range(x.shape[1]):
        count, mean, m2 = exactly(x[:, j])
        assert (np.broadcast_to(stats.count, stats.shape)[j]) == count
        assert abs(Fraction(float(stats.mean[j])) - mean) <= 4e-15 * largest
        # merging squares the distances of means, each of which is right to the rounding of the values
        assert abs(Fraction(float(stats.m2[j])) - m2) <= 1e-13 * float(m2) + count * (1e-15 * largest) ** 2 + 1e-300


def merged(parts, shape=(2,)):
    found = nz.Stats.empty(shape)
    for part in parts:
        found = found.merge(part)
    return found


@settings(deadline=None, max_examples=200)
@given(split_data())
def test_any_split_in_any_order_with_empty_parts_is_all_at_once(data):
    x, parts = data
    is_right(merged(nz.Stats.of(part, 0) for part in parts), x)


@settings(deadline=None, max_examples=100)
@given(split_data(), st.integers(0, 6))
def test_a_tree_is_as_good_as_a_row(data, at):
    x, parts = data
    stats = [nz.Stats.of(part, 0) for part in parts]
    at = min(at, len(stats))
    is_right(merged(stats[:at]).merge(merged(stats[at:])), x)


@settings(deadline=None, max_examples=100)
@given(split_data())
def test_the_same_order_gives_the_same_bits_and_empty_parts_change_none(data):
    _, parts = data
    full = merged(nz.Stats.of(part, 0) for part in parts)
    without = merged(nz.Stats.of(part, 0) for part in parts if len(part))
    for name, a in full.to_dict().items():
        check.same_bits(np.broadcast_to(a, full.shape), np.broadcast_to(getattr(without, name), full.shape))


@settings(deadline=None, max_examples=200)
@given(split_data(), st.integers(0, 24))
def test_what_was_merged_can_be_subtracted(data, at):
    x, _ = data
    old, rest = x[:at], x[at:]
    found = nz.Stats.of(x, 0).subtract(nz.Stats.of(old, 0))
    whole, expected = nz.Stats.of(x, 0), nz.Stats.of(rest, 0)
    assert (np.asarray(found.count) == expected.count).all()
    assert (found.m2 >= 0).all()
    # rounding of the whole, seen in a rest that may be a small part of it
    scale = np.abs(x).max(initial=0.0) * len(x)
    assert (np.abs(found.mean - expected.mean) <= 1e-14 * scale).all()
    assert (np.abs(found.m2 - expected.m2) <= 1e-13 * (whole.m2 * len(x) + scale**2 * 1e-3) + 1e-300).all()


def test_a_window_slides(rng):
    x = 1e4 + rng.standard_normal((400, 3))
    window = nz.Stats.of(x[:50], 0)
    for i in range(50, 400):
        window = window.update(x[i : i + 1], 0).subtract(nz.Stats.of(x[i - 50 : i - 49], 0))
    check.close(window.mean, x[350:].mean(axis=0), 1e-12)
    check.close(window.var(), x[350:].var(axis=0), 1e-7)
    assert window.count == 50
    with pytest.raises(ValueError, match="a part of 50 values, got one of 51"):
        window.subtract(nz.Stats.of(x[:51], 0))


def test_digits_stay_where_the_mean_is_large(rng):
    x = 1e8 + rng.standard_normal(10_000)
    parts = merged((nz.Stats.of(x[i : i + 7], 0) for i in range(0, x.size, 7)), ())
    check.close(parts.var(), np.var(x - 1e8), 1e-7)
    assert abs((x**2).mean() - x.mean() ** 2 - np.var(x - 1e8)) > 0.1, "the formula that loses them does"


def test_counts_beyond_what_floats_hold():
    large = nz.Stats(np.array(2**53), np.zeros(()), np.zeros(()))
    assert int(large.merge(nz.Stats.of(np.zeros(1), 0)).count) == 2**53 + 1


def test_nan_and_inf_stay_in_their_set():
    x = np.array([[1.0, np.nan, np.inf], [2.0, 1.0, 1.0]])
    stats = nz.Stats.of(x, 0).update(np.ones((2, 3)), 0)
    check.same_bits(np.isfinite(stats.mean), np.array([True, False, False]))
    check.same_bits(np.isfinite(stats.var()), np.array([True, False, False]))


def test_sets_of_different_counts(rng):
    counts = np.array([3, 0, 5])
    x = rng.standard_normal((5, 3))
    columns = [nz.Stats.of(x[:n, j], 0) for j, n in enumerate(counts)]
    stats = nz.Stats(counts, np.stack([c.mean for c in columns]), np.stack([c.m2 for c in columns]))
    twice = stats.merge(stats)
    assert twice.count.tolist() == [6, 0, 10]
    check.close(twice.var()[[0, 2]], np.array([x[:3, 0].var(), x[:, 2].var()]), check.EXACT)
    assert np.isnan(twice.var()[1]) and np.isnan(stats.std(correction=3)[0])
    back = twice.subtract(stats)
    assert back.count.tolist() == counts.tolist() and back.mean[1] == back.m2[1] == 0


def test_round_trip_through_a_file(rng):
    stats = nz.Stats.of(rng.standard_normal((5, 2, 3)), (0, 2))
    file = io.BytesIO()
    np.savez(file, **stats.to_dict())
    file.seek(0)
    again = nz.Stats.from_dict(np.load(file))
    for name, a in stats.to_dict().items():
        check.same_bits(getattr(again, name), a)
        assert a.flags.c_contiguous and a.dtype == (np.int64 if name == "count" else np.float64)
    safetensors = pytest.importorskip("safetensors.numpy", reason="needs safetensors")
    again = nz.Stats.from_dict(safetensors.load(safetensors.save(stats.to_dict())))
    check.same_bits(again.m2, stats.m2)


def test_arrays_that_are_no_stats_are_refused(rng):
    stats = nz.Stats.of(rng.standard_normal(5))
    with pytest.raises(ValueError, match=r"expected arrays \['count', 'mean', 'm2'\], got \['mean'\]"):
        nz.Stats.from_dict({"mean": stats.mean})


def test_what_does_not_fit_is_named():
    some = nz.Stats.empty((3,))
    for make, error, message in [
        (lambda: nz.Stats(np.array([1, 2]), np.zeros(3), np.zeros(3)), ValueError, r"count \(2,\), mean \(3,\)"),
        (lambda: nz.Stats(np.array(1), np.zeros(3), np.zeros(2)), ValueError, r"mean \(3,\), m2 \(2,\)"),
        (lambda: nz.Stats(np.array(-1), np.zeros(3), np.zeros(3)), ValueError, "count >= 0, got -1"),
        (
            lambda: nz.Stats(np.array("1"), np.zeros(3), np.zeros(3)),
            TypeError,
            "count of integers, or of floats that are sums of weights, got <U1",
        ),
        (lambda: some.merge(nz.Stats.empty((2,))), ValueError, r"sets of shape \(3,\) to merge, got \(2,\)"),
        (lambda: some.merge(np.zeros(3)), TypeError, "expected Stats to merge, got ndarray"),
        (lambda: nz.Stats.of(np.zeros((2, 3)), 2), ValueError, r"axes in \[-2, 2\) for x of rank 2, got 2"),
        (lambda: nz.Stats.of(np.zeros((2, 3)), (0, -2)), ValueError, "expected different axes"),
    ]:
        with pytest.raises(error, match=message):
            make()


@pytest.mark.parametrize("axis", [0, 1, 2, (0, 2), (1, 2), (0, 1, 2), None, ()])
@pytest.mark.parametrize("values", [1, 7, 13, 1000])
def test_blocks_of_any_size_give_the_whole(axis, values, rng):
    x = 100 + rng.standard_normal((5, 4, 3)).astype(np.float32)
    axes = tuple(range(3)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    found, expected = in_blocks(x, axes, values), nz.Stats.of(x, axis)
    check.same_bits(np.broadcast_to(found.count, found.shape), np.broadcast_to(expected.count, expected.shape))
    check.close(found.mean, expected.mean, check.EXACT)
    check.close(found.m2, expected.m2, check.EXACT)


def test_stats_of_a_memory_map(tmp_path, rng):
    x = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (3000, 500))
    x[...] = 5 + rng.standard_normal(x.shape)
    found = nz.stats_of(np.load(tmp_path / "x.npy", mmap_mode="r"), axis=0)
    check.close(found.mean, x.mean(axis=0, dtype=np.float64), check.EXACT)
    check.close(found.var(), x.var(axis=0, dtype=np.float64), check.EXACT)
    with pytest.raises(TypeError, match="Stats: expected x of dtype float16"):
        nz.stats_of(np.arange(3) * 1j)


# what comes in at the doors of numbers about data

NO_NUMBERS = {
    "strings": (np.array([["1", "2", "3"]] * 4), "got <U1"),
    "complex": (np.ones((4, 3), complex), "got complex128"),
    "dates": (np.zeros((4, 3), "M8[D]"), "got datetime64"),
    "durations": (np.zeros((4, 3), "m8[s]"), "got timedelta64"),
    "objects": (np.ones((4, 3), object), "got object"),
    "None": (None, "got None;"),
}
SOME_COUNT = {
    "masked": (np.ma.masked_array(np.ones((4, 3)), np.eye(4, 3)), r"got a masked array; write \w+\.compressed\(\)"),
    "selection": (nz.select(np.ones((4, 3)), mask=np.ones((4, 1), bool)), "got a selection"),
}
NO_FLOATS = {
    "integers": (np.ones((4, 3), int), "got int64"),
    "booleans": (np.ones((4, 3), bool), "got bool"),
    "a list": ([[1.0, 2.0, 3.0]] * 4, "got list"),
}
OF_DATA = {  # they take all numbers
    "Stats.of": lambda a: nz.Stats.of(a, 0),
    "Stats.update": lambda a: nz.Stats.empty((3,)).update(a, 0),
    "stats_of": lambda a: nz.stats_of(a, 0),
    "median": lambda a: nz.robust.median(a, 0),
    "QuantileSketch": lambda a: nz.QuantileSketch.of(a, 0),
}
OF_FEATURES = {  # likewise, but all values must count
    "adapt": lambda a: nz.Standardize(3).adapt([a]),
    "update": lambda a: nz.Standardize(3).update(a),
}
OF_LAYERS = {  # they take what a layer takes
    "diagnose": lambda a: nz.diagnose(nz.BatchNorm(3), a),
    "recalibrate": lambda a: nz.recalibrate(nz.BatchNorm(3), [a]),
}
REFUSED = {
    f"{what}-{door}": (call, *row)
    for doors, rows in (
        (OF_DATA, NO_NUMBERS),
        (OF_FEATURES, NO_NUMBERS | SOME_COUNT),
        (OF_LAYERS, NO_NUMBERS | SOME_COUNT | NO_FLOATS),
    )
    for door, call in doors.items()
    for what, row in rows.items()
}


@pytest.mark.parametrize(("door", "data", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_data_is_refused(door, data, message):
    with pytest.raises(TypeError, match=message):
        door(data)


@pytest.mark.parametrize("door", (OF_DATA | OF_FEATURES).values(), ids=OF_DATA | OF_FEATURES)
@pytest.mark.parametrize("data", [row[0] for row in NO_FLOATS.values()], ids=NO_FLOATS)
def test_numbers_of_all_kinds_are_data(door, data):
    door(data)


def test_parts_of_stats_are_refused_with_a_mask():
    masked = np.ma.masked_array(np.ones(3), [0, 1, 0])
    for make in (
        lambda: nz.Stats(np.array(3), masked, np.ones(3)),
        lambda: nz.Stats.from_dict({"count": np.array(3), "mean": np.ones(3), "m2": masked}),
    ):
        with pytest.raises(TypeError, match="without a mask"):
            make()
    with pytest.raises(TypeError, match="axis to be an integer"):
        nz.Stats.of(np.ones((3, 2)), 1.0)
    with pytest.raises(TypeError, match="expected batches to be iterable, of arrays, got 5"):
        nz.Standardize(3).adapt(5)


# squares that leave the range of float64


def test_std_where_squares_leave_the_range(rng):
    x = rng.standard_normal((50, 4)) + 1
    size = np.array([1e200, 1e-200, 1.0, 1e306])
    stats = nz.Stats.of(x * size, 0)
    check.close(stats.std() / size, x.std(axis=0), check.EXACT)
    check.close(stats.mean / size, x.mean(axis=0), check.EXACT)
    assert stats.var()[0] == np.inf and stats.var()[1] == 0 and stats.unit[2] == 1
    parts = merged((nz.Stats.of(part, 0) for part in np.split(x * size, [1, 2, 2, 30])), (4,))
    check.close(parts.std() / size, x.std(axis=0), check.EXACT)
    check.close(parts.subtract(nz.Stats.of(x[:20] * size, 0)).std() / size, x[20:].std(axis=0), 1e-11)
    again = nz.Stats.from_dict(stats.to_dict())
    check.same_bits(again.std(), stats.std())
    assert set(nz.Stats.of(x, 0).to_dict()) == {"count", "mean", "m2"}
    apart = nz.Stats.of(np.full(3, 1e300), 0).merge(nz.Stats.of(np.full(3, -1e300), 0))
    check.close(apart.std() / 1e300, 1.0, check.EXACT)
    tiny = nz.Stats.of(np.full(3, 1e-300), 0).merge(nz.Stats.of(np.full(3, -1e-300), 0))
    check.close(tiny.std() / 1e-300, 1.0, check.EXACT)


def test_blocks_are_read_by_stats_of_any_kind():
    x = np.ones((3, 2**20), np.float32)
    x[1] = 4
    for axis, expected in ((None, 2.0), (0, 2.0), (1, [1.0, 4.0, 1.0])):
        assert (nz.Stats.of(x, axis).mean == expected).all()
