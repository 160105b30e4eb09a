"""Robust statistics: exact ones against NumPy and SciPy, and sketches within their bound, whatever tree merges them."""

import functools
import io
import pickle

import numpy as np
import pytest
from scipy import stats as scipy_stats

import normzoo as nz
from tests import check

Q = np.linspace(0, 1, 201)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("axis", [0, 1, (0, 2), None])
def test_quantiles_are_numpys(dtype, axis, rng):
    x = rng.standard_normal((51, 7, 10)).astype(dtype)
    check.close(nz.robust.quantile(x, Q, axis), np.quantile(x.astype(np.float64), Q, axis=axis), 1e-14)
    x[rng.random(x.shape) < 0.3] = np.nan
    found = nz.robust.median(x, axis, skip_nan=True)
    check.close(found, np.nanmedian(x.astype(np.float64), axis=axis), 1e-14)
    assert np.isnan(nz.robust.median(x, None))


def test_others_are_scipys(rng):
    x = rng.standard_normal((53, 4)) ** 3
    check.close(nz.robust.mad(x, 0), scipy_stats.median_abs_deviation(x, axis=0), 1e-14)
    normal = scipy_stats.median_abs_deviation(x, axis=0, scale="normal")
    check.close(nz.robust.mad(x, 0, scale=nz.robust.NORMAL), normal, 1e-14)
    check.close(nz.robust.iqr(x, 0), scipy_stats.iqr(x, axis=0), 1e-14)
    for share in (0.0, 0.13, 0.49):
        check.close(nz.robust.trimmed_mean(x, share, 0), scipy_stats.trim_mean(x, share, axis=0), 1e-14)
        winsorized = scipy_stats.mstats.winsorize(x, (share, share), axis=0).mean(axis=0)
        check.close(nz.robust.winsorized_mean(x, share, 0), winsorized, 1e-14)


def test_a_mask_leaves_values_out_and_nothing_gives_nan(rng):
    x, mask = rng.standard_normal((40, 3)), rng.random((40, 3)) < 0.5
    mask[:, 2] = False
    found = nz.robust.median(np.ma.array(x, mask=~mask), 0)
    check.close(found[:2], [np.median(x[mask[:, j], j]) for j in range(2)], 1e-15)
    assert np.isnan(found[2])
    assert np.isnan(nz.robust.median(np.zeros((0, 3)), 0)).all()
    check.same_bits(nz.QuantileSketch.of(nz.select(x, mask=mask), 0).median(), found)


def rank_error(sketch, x):
    """The largest distance of the rank of a quantile from that wanted, as a share of the values of one column."""
    ordered, found = np.sort(x), sketch.quantile(Q)
    wanted = Q * (x.size - 1)
    low, high = np.searchsorted(ordered, found, "left"), np.searchsorted(ordered, found, "right")
    return float(np.maximum(0, np.maximum(low - 1 - wanted, wanted - high)).max() / x.size)


def tree(parts):
    while len(parts) > 1:
        parts = [nz.QuantileSketch.merge(*parts[i : i + 2]) if i + 1 < len(parts) else parts[i] for i in range(0, len(parts), 2)]  # fmt: skip
    return parts[0]


MERGED = {
    "row": lambda parts: functools.reduce(nz.QuantileSketch.merge, parts),
    "from the end": lambda parts: functools.reduce(nz.QuantileSketch.merge, parts[::-1]),
    "tree": tree,
    "uneven": lambda parts: tree(parts[:3]).merge(functools.reduce(nz.QuantileSketch.merge, parts[3:])),
}


@pytest.mark.parametrize("order", ["random", "ascending", "two values in turn"])
@pytest.mark.parametrize("merged", MERGED.values(), ids=MERGED)
def test_ranks_are_within_the_bound_for_any_tree(merged, order, rng):
    x = rng.lognormal(size=40_000)
    x = np.sort(x) if order == "ascending" else np.where(np.arange(x.size) % 2, x, -x) if "turn" in order else x
    parts = [nz.QuantileSketch.of(part, size=64) for part in np.array_split(x, 37)]
    sketch = merged(parts)
    bound = float(sketch.rank_error)
    # log2(n / size) / (2 * size), which the docstring says, and what is seen, with a value between neighbours
    assert bound <= np.log2(x.size / 64) / 128 and rank_error(sketch, x) <= bound + 1 / x.size
    assert int(sketch.count) == x.size and sketch.least == x.min() and sketch.largest == x.max()
    held = sketch.to_dict()["items"].size
    assert held <= 64 * (2 + np.log2(x.size / 64))


def test_with_the_default_size_a_million_values_are_within_a_thousandth(rng):
    x = rng.standard_normal(1_000_000, dtype=np.float32)
    sketch = tree([nz.QuantileSketch.of(part) for part in np.array_split(x, 7)])
    assert float(sketch.rank_error) <= 1e-3 and rank_error(sketch, x) <= float(sketch.rank_error) + 1e-6
    for name in ("mad", "iqr"):
        check.close(getattr(sketch, name)(), getattr(nz.robust, name)(x), 4e-3)
    for name in ("trimmed_mean", "winsorized_mean"):
        check.close(getattr(sketch, name)(0.1), getattr(nz.robust, name)(x, 0.1), 2e-3)


def test_few_values_are_exact(rng):
    x = rng.standard_normal((101, 3))
    sketch = nz.QuantileSketch.of(x[:40], 0).update(x[40:], 0)
    check.same_bits(sketch.quantile(Q), nz.robust.quantile(x, Q, 0))
    check.same_bits(sketch.mad(), nz.robust.mad(x, 0))
    check.close(sketch.trimmed_mean(0.1), nz.robust.trimmed_mean(x, 0.1, 0), 1e-15)
    check.close(sketch.winsorized_mean(0.1), nz.robust.winsorized_mean(x, 0.1, 0), 1e-15)
    assert not sketch.rank_error.any()


def test_the_state_is_arrays_and_merging_changes_no_part(rng):
    x = rng.standard_normal((5000, 2)).astype(np.float32)
    one, other = (nz.QuantileSketch.of(part, 0, size=128) for part in (x[:3000], x[3000:]))
    before = one.to_dict()
    both = one.merge(other)
    for name, a in one.to_dict().items():
        check.same_bits(a, before[name])
    file = io.BytesIO()
    np.savez(file, **both.to_dict())
    file.seek(0)
    for again in (nz.QuantileSketch.from_dict(np.load(file)), pickle.loads(pickle.dumps(both))):
        check.same_bits(again.quantile(Q), both.quantile(Q))
        check.same_bits(again.merge(other).quantile(Q), both.merge(other).quantile(Q))
        check.same_bits(again.rank_error, both.rank_error)
    check.same_bits(one.merge(nz.QuantileSketch((2,), 128, np.float32)).quantile(Q), one.quantile(Q))


def test_nan_does_not_count_and_infinities_do():
    sketch = nz.QuantileSketch.of(np.array([[1.0, np.nan], [np.inf, np.nan]]), 0)
    assert sketch.count.tolist() == [2, 0] and sketch.quantile(1.0)[0] == np.inf
    assert np.isnan(sketch.median()[1])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: nz.robust.quantile(x, 50), ValueError, r"expected q in \[0, 1\], got 50.0; write a share"),
        (lambda x: nz.robust.trimmed_mean(x, 0.5), ValueError, r"robust.trimmed_mean: expected share in \[0, 0.5\), got 0.5"),
        (lambda x: nz.robust.median(nz.select(x, sample_weight=np.ones(3))), TypeError, "got weights or segments"),
        (lambda x: nz.robust.median("1"), TypeError, "robust: expected x to be a NumPy array, got '1'"),
        (lambda x: nz.robust.median(x * 1j), TypeError, "robust: expected x of dtype .* got complex128"),
        (lambda x: nz.QuantileSketch(size=1), ValueError, "QuantileSketch: expected size"),
        (lambda x: nz.QuantileSketch(dtype=np.int64), TypeError, "float32 or float64, got"),
        (lambda x: nz.QuantileSketch.of(x).merge(x), TypeError, "expected a QuantileSketch to merge, got ndarray"),
        (lambda x: nz.QuantileSketch().merge(nz.QuantileSketch((2,))), ValueError, r"shape \(\) to merge, got shape \(2,\)"),
        (lambda x: nz.QuantileSketch().merge(nz.QuantileSketch(size=8)), ValueError, "size 16384 to merge, got size 8"),
        (lambda x: nz.QuantileSketch.from_dict({"items": x}), ValueError, r"expected arrays \['count', .*got \['items'\]"),
        (lambda x: nz.QuantileSketch.from_dict(nz.QuantileSketch.of(x).to_dict() | {"count": np.array(9)}), ValueError, "stand for count"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call(np.array([1.0, 2.0, 3.0]))
