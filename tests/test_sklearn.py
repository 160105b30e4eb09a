"""The estimators: scikit-learn's own checks, its scalers as oracles, and what these have not."""

import doctest
import importlib
import pickle
import re
from pathlib import Path

import numpy as np
import pytest

import normzoo as nz
from tests import check

pytest.importorskip("sklearn", "1.6", reason="needs scikit-learn: pip install 'normzoo[sklearn]'")

from sklearn import preprocessing
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from normzoo.backends.cpu import schedule
from normzoo.sklearn import MinMaxScaler, QuantileClipper, RobustScaler, Standardizer
from normzoo.statistics import rescaling, stats, tables

ALL = Standardizer(), MinMaxScaler(), RobustScaler(), QuantileClipper()
IDS = [type(e).__name__ for e in ALL]
PEERS = [
    (Standardizer(), preprocessing.StandardScaler()),
    (Standardizer(with_mean=False), preprocessing.StandardScaler(with_mean=False)),
    (Standardizer(with_std=False), preprocessing.StandardScaler(with_std=False)),
    (MinMaxScaler((-1, 2)), preprocessing.MinMaxScaler((-1, 2))),
    (MinMaxScaler(clip=True), preprocessing.MinMaxScaler(clip=True)),
    (RobustScaler(), preprocessing.RobustScaler()),
    (RobustScaler(quantile_range=(5, 80), unit_variance=True), preprocessing.RobustScaler(quantile_range=(5, 80), unit_variance=True)),
]  # fmt: skip


@pytest.fixture(params=["reference", "kernels"])
def whichever(request, monkeypatch):
    if request.param == "kernels":
        for module in (tables, stats, rescaling):
            monkeypatch.setattr(module, "COMPILED", 0)


@parametrize_with_checks([Standardizer(), MinMaxScaler(), RobustScaler(), QuantileClipper()])  # none fails
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("ours", "theirs"), PEERS, ids=[str(a) for a, _ in PEERS])
def test_values_and_attributes_are_theirs(ours, theirs, dtype, whichever, rng):
    x, more = (5 + 3 * rng.standard_normal((2, 60, 4))).astype(dtype)
    x[:, 2] = 7  # of equal values
    x[rng.random(x.shape) < 0.1] = np.nan
    ours.fit(x)
    theirs.fit(x.astype(np.float64))
    for name in (
        "mean_",
        "var_",
        "scale_",
        "center_",
        "data_min_",
        "data_max_",
        "data_range_",
        "min_",
        "n_samples_seen_",
    ):
        assert hasattr(ours, name) == hasattr(theirs, name), name
        if name == "n_samples_seen_" and not isinstance(ours, Standardizer):
            continue  # theirs are rows, with NaN or without
        expected = getattr(theirs, name, None)
        if expected is None:
            assert getattr(ours, name, None) is None
        else:
            check.close(getattr(ours, name), expected, 1e-13)
    y = ours.transform(more)
    assert y.dtype == dtype
    tolerance = 2 * np.finfo(dtype).eps
    expected = theirs.transform(more.astype(np.float64))
    check.close(y, expected, tolerance)
    if not getattr(ours, "clip", False):
        check.close(ours.inverse_transform(y), more, 4 * tolerance)


@pytest.mark.parametrize("estimator", ALL[:2], ids=IDS[:2])
@pytest.mark.parametrize("weighted", [False, True])
def test_any_split_gives_all_data(estimator, weighted, rng):
    x = (1e6 + rng.standard_normal((500, 3))).astype(np.float32)
    x[rng.random(x.shape) < 0.1] = np.nan
    given = {"sample_weight": rng.random(500)} if weighted and isinstance(estimator, Standardizer) else {}
    whole, parts = clone(estimator).fit(x, **given), clone(estimator)
    for part in np.array_split(np.arange(500), 7):
        parts.partial_fit(x[part], **{name: a[part] for name, a in given.items()})
    assert np.all(parts.n_samples_seen_ == whole.n_samples_seen_) or weighted
    x = np.nan_to_num(x, nan=1e6)
    check.close(parts.transform(x), whole.transform(x), 1e-6)
    check.close(parts.scale_, whole.scale_, 1e-11)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_mean_of_a_million_deviations_loses_no_digit(dtype, rng):
    x = (
        rng.standard_normal((4000, 2)) * (0.01 if dtype == np.float16 else 1) + (1e1 if dtype == np.float16 else 1e6)
    ).astype(dtype)
    y = Standardizer().fit_transform(x)
    v = x.astype(np.longdouble)
    expected = ((v - v.mean(axis=0)) / v.std(axis=0)).astype(np.float64)
    # of float64 the mean is as accurate as a value, half a unit in the last place of 1e6
    check.close(y, expected, max(np.finfo(dtype).eps, 1e-10 if dtype == np.float64 else 0))


@pytest.mark.parametrize("estimator", ALL, ids=IDS)
def test_channels_of_any_rank(estimator, whichever, rng):
    x = rng.standard_normal((6, 3, 5, 4)).astype(np.float32)
    flat = np.moveaxis(x, 1, -1).reshape(-1, 3)
    expected = np.moveaxis(clone(estimator).fit_transform(flat).reshape(6, 5, 4, 3), -1, 1)
    made = clone(estimator).set_params(axis=1).fit(x)
    check.close(made.transform(x), expected, 1e-6)
    assert made.n_features_in_ == 3
    last = clone(estimator).fit(np.moveaxis(x, 1, -1)).transform(np.moveaxis(x, 1, -1))  # a view, of another layout
    check.close(last, np.moveaxis(expected, 1, -1), 1e-6)
    with pytest.raises(ValueError, match="X has 4 features, but"):
        made.transform(np.ones((2, 4, 1), np.float32))


@pytest.mark.parametrize("estimator", ALL, ids=IDS)
@pytest.mark.parametrize("labels", ["words", "numbers"])
def test_groups_are_fitted_apart(estimator, labels, whichever, rng):
    x = rng.standard_normal((90, 4)).astype(np.float32) * 3
    groups = rng.integers(-1, 3, 90)
    if labels == "words":
        groups = np.array(["b", "a", "d", "c"])[groups]
    made = clone(estimator).fit(x, groups=groups)
    y = made.transform(x, groups=groups)
    for group in np.unique(groups):
        rows = groups == group
        check.close(y[rows], clone(estimator).fit_transform(x[rows]), 1e-6)
    assert (made.groups_ == np.unique(groups)).all()
    if hasattr(made, "inverse_transform"):
        check.close(made.inverse_transform(y, groups=groups), x, 1e-5)
    parts = clone(estimator)  # groups come and go
    order = np.argsort(groups, kind="stable")
    for part in np.array_split(order, 4):
        parts.partial_fit(x[part], groups=groups[part])
    check.close(parts.transform(x, groups=groups), y, 1e-6)


@pytest.mark.parametrize("estimator", ALL, ids=IDS)
def test_lengths_and_masks_leave_padding_out(estimator, whichever, rng):
    x, lengths = rng.standard_normal((7, 9, 3)).astype(np.float32), rng.integers(1, 10, 7)
    inside = np.arange(9) < lengths[:, None]
    expected = clone(estimator).fit(x[inside])
    padded = np.where(inside[..., None], x, 1e9).astype(np.float32)
    for given in ({"lengths": lengths}, {"mask": inside[..., None]}):
        found = clone(estimator).fit(padded, **given)
        check.close(found.transform(x), expected.transform(x.reshape(-1, 3)).reshape(x.shape), 1e-6)


@pytest.mark.parametrize("estimator", ALL, ids=IDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_in_place_it_is_the_same(estimator, dtype, whichever, rng):
    """copy=False: X holds the result, if it can; whatever raises leaves X as it was."""
    x = rng.standard_normal((41, 5)).astype(dtype)
    x[3, 2] = np.nan
    groups = rng.integers(0, 2, 41)
    for given in ({}, {"groups": groups}):
        expected = clone(estimator).fit(x, **given).transform(x, **given)
        made = clone(estimator).set_params(copy=False).fit(x, **given)
        for order in "CF":
            own = x.copy(order)
            y = made.transform(own, **given)
            if given and order == "F":  # its groups are not rows there
                np.testing.assert_array_equal(own, x)
            else:
                assert np.shares_memory(y, own)
                check.same_bits(own, expected)
            check.same_bits(np.ascontiguousarray(y), expected)
        locked, wide = x.copy(), np.repeat(x, 2, axis=1)
        locked.flags.writeable = False
        for a in (locked, wide[:, ::2], x.tolist(), np.ma.array(x, mask=x > 9)):
            check.same_bits(np.ascontiguousarray(np.ma.getdata(made.transform(a, **given))).astype(dtype), expected)
        assert (np.isnan(locked) | (locked == x)).all() and (np.isnan(wide) | (wide == np.repeat(x, 2, axis=1))).all()
    own = x.copy()
    own[7, 1] = np.inf
    before = own.copy()
    with pytest.raises(ValueError, match="contains infinity"):
        clone(estimator).set_params(copy=False).fit(x).transform(own)
    check.same_bits(own, before)
    with pytest.raises(ValueError, match="contains NaN"):
        clone(estimator).set_params(copy=False, nan="raise").fit(x[:3]).transform(own[:5])
    check.same_bits(own, before)


@pytest.mark.parametrize("blocks", [0.5, 1, 2.01, 3, 4.99])
def test_every_row_of_a_long_table_is_rescaled(blocks, rng):
    """Blocks of rows are taken in an order of their own."""
    rows = int(blocks * schedule.TABLE_TURNS * schedule.TABLE_ROWS)
    x = rng.standard_normal((rows, 16), np.float32)
    made = Standardizer().fit(x)
    with nz.use("reference"):
        expected = made.transform(x)
    check.close(made.transform(x), expected, 1e-6)
    for row in (0, rows // 3, rows - 1):
        wrong = x.copy()
        wrong[row, 3] = np.inf
        with pytest.raises(ValueError, match="contains infinity"):
            made.transform(wrong)


def test_weights_are_repetitions(rng):
    x, weights = rng.standard_normal((30, 3)), rng.integers(0, 4, 30)
    found = Standardizer().fit(x, sample_weight=weights.astype(float))
    expected = Standardizer().fit(np.repeat(x, weights, axis=0))
    check.close(found.mean_, expected.mean_, 1e-14)
    check.close(found.scale_, expected.scale_, 1e-14)
    theirs = preprocessing.StandardScaler().fit(x, sample_weight=weights)
    check.close(found.var_, theirs.var_, 1e-14)


def test_robust_ones_by_parts_are_within_the_sketchs_bound(rng):
    x = rng.standard_normal((100_000, 2)).astype(np.float32)
    whole, parts = RobustScaler().fit(x), RobustScaler()
    for part in np.array_split(x, 5):
        parts.partial_fit(part)
    check.close(parts.center_, whole.center_, 5e-3)
    check.close(parts.scale_, whole.scale_, 5e-3)
    with pytest.raises(ValueError, match="partial_fit for every part"):
        whole.partial_fit(x)
    check.close(whole.center_, np.median(x, axis=0), 1e-7)  # nothing has changed
    assert len(pickle.dumps(whole)) < 5000  # fit keeps no data


@pytest.mark.parametrize(("center", "spread"), [("trimmed_mean", "mad"), ("winsorized_mean", "quantiles")])
def test_other_centers_and_spreads(center, spread, rng):
    x = rng.standard_normal((200, 3)) ** 3
    made = RobustScaler(center=center, spread=spread, share=0.2, unit_variance=True).fit(x)
    check.close(made.center_, getattr(nz.robust, center)(x, 0.2, 0), 1e-14)
    normal = (
        nz.robust.mad(x, 0, scale=nz.robust.NORMAL) if spread == "mad" else nz.robust.iqr(x, 0) / 1.3489795003921634
    )
    check.close(made.scale_, normal, 1e-14)


def test_in_pipelines_searches_and_column_transformers(rng):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(rng.standard_normal((60, 3)), columns=["a", "b", "c"])
    target = frame["a"] * 2 + rng.standard_normal(60) / 10
    search = GridSearchCV(
        make_pipeline(Standardizer(), Ridge()), {"standardizer__with_std": [True, False]}, cv=2, n_jobs=1
    )
    assert search.fit(frame, target).best_score_ > 0.9
    columns = ColumnTransformer([("s", Standardizer(), ["a", "b"]), ("m", MinMaxScaler(), ["c"])])
    out = columns.set_output(transform="pandas").fit_transform(frame)
    assert list(out.columns) == ["s__a", "s__b", "m__c"]
    made = Standardizer().set_output(transform="pandas").fit(frame)
    assert list(made.get_feature_names_out()) == list("abc") and list(made.transform(frame)) == list("abc")
    with pytest.raises(ValueError, match="feature names"):
        made.transform(frame[["c", "b", "a"]])
    again = pickle.loads(pickle.dumps(made))
    check.close(again.transform(frame).to_numpy(), made.transform(frame).to_numpy(), 0)
    again.partial_fit(frame)
    assert made.n_samples_seen_ == 60 and again.n_samples_seen_ == 120


@pytest.mark.slow
def test_in_a_search_over_processes(rng):
    x = rng.standard_normal((40_000, 4))  # by kernels
    pipe = make_pipeline(Standardizer(), Ridge())
    found = GridSearchCV(pipe, {"standardizer__with_std": [True, False]}, cv=2, n_jobs=2).fit(x, x[:, 0])
    assert found.best_score_ > 0.99


def test_metadata_is_routed(rng):
    import sklearn  # noqa: PLC0415

    x, groups = rng.standard_normal((40, 2)), np.arange(40) % 2
    with sklearn.config_context(enable_metadata_routing=True):
        scaler = Standardizer().set_fit_request(groups=True).set_transform_request(groups=True)
        pipe = make_pipeline(scaler, MinMaxScaler().set_fit_request(groups=False).set_transform_request(groups=False))
        pipe.fit(x, groups=groups)
        assert pipe[0].mean_.shape == (2, 2)


# what comes in: each row of the table in docs/howto/data.md


def masked(x):
    return np.ma.array(x, mask=x > 1)


def frame(x):
    return pytest.importorskip("pandas").DataFrame(x)


def missing(x):
    pd = pytest.importorskip("pandas")
    return pd.DataFrame({i: pd.array([None, *x[1:, i]], dtype="Float64") for i in range(x.shape[1])})


def labelled(x):
    return pytest.importorskip("xarray").DataArray(x, dims=("time", "sensor"), coords={"time": np.arange(len(x))})


class Wrapped:
    def __init__(self, x):
        self.x = x

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.x, dtype)


COMES_IN = {
    "a list of numbers": lambda x: x.tolist(),
    "an object with `__array__`": Wrapped,
    "integers, booleans": lambda x: (x * 10).astype(np.int16),
    "float16": lambda x: x.astype(np.float16),
    "a pandas DataFrame": frame,
    "pandas' nullable columns": missing,
    "a Polars DataFrame": lambda x: pytest.importorskip("polars").DataFrame(x),
    "a NumPy masked array": masked,
    "an xarray.DataArray": labelled,
}


def numbers_of(data):
    """The same as floats, NaN where a value is missing or masked; by the library itself."""
    if isinstance(data, list | Wrapped):
        return np.array(data, np.float64)
    if isinstance(data, np.ma.MaskedArray):
        return data.astype(np.float64).filled(np.nan)
    found = data if isinstance(data, np.ndarray) else data.to_numpy() if not hasattr(data, "dims") else data.values
    return np.array([[np.nan if v is None or v is __import__("pandas").NA else v for v in row] for row in found], np.float64) if found.dtype == object else found.astype(np.float64)  # fmt: skip


@pytest.mark.parametrize("make", COMES_IN.values(), ids=COMES_IN)
def test_what_comes_in(make, rng):
    x = rng.standard_normal((30, 3))
    data = make(x)
    values = numbers_of(data)
    expected = (values - np.nanmean(values, axis=0)) / np.nanstd(values, axis=0)
    tolerance = 1e-3 if "16" in str(getattr(data, "dtype", "")) and data.dtype.kind == "f" else 1e-13
    with np.errstate(all="ignore"):
        y = Standardizer().fit_transform(data)
    found = numbers_of(y)
    assert (np.isnan(found) == np.isnan(expected)).all()
    check.close(np.nan_to_num(found), np.nan_to_num(expected), tolerance)
    stats_of = nz.Stats.of(data.to_numpy() if hasattr(data, "dims") else data, 0, skip_nan=True)
    check.close(stats_of.mean, np.nanmean(values, axis=0), 1e-14)
    check.close(
        nz.robust.median(data.to_numpy() if hasattr(data, "dims") else data, 0, skip_nan=True),
        np.nanmedian(values, axis=0),
        1e-14,
    )
    if isinstance(data, np.ndarray) and data.dtype == np.float16:
        return
    with pytest.raises(TypeError, match="BatchNorm"):  # a layer takes float arrays alone
        nz.BatchNorm(3)(data)


def test_labels_are_kept_and_dask_stays_lazy(rng):
    xr, da = pytest.importorskip("xarray"), pytest.importorskip("dask.array")
    x = rng.standard_normal((40, 3, 5)).astype(np.float32)
    coords = {"time": np.arange(40), "sensor": list("abc")}
    data = xr.DataArray(da.from_array(x, chunks=(7, 2, 5)), dims=("time", "sensor", "part"), coords=coords)
    made = Standardizer(axis="sensor").fit(data)
    y = made.transform(data)
    assert y.dims == data.dims and list(y.sensor.values) == list("abc") and hasattr(y.data, "dask")
    assert y.dtype == np.float32
    check.close(y.values, Standardizer(axis=1).fit_transform(x), 1e-6)
    back = made.inverse_transform(y)
    check.close(back.values, x, 1e-6)
    groups = np.arange(40) % 3
    lazy = Standardizer(axis=1).fit(data.data, groups=groups).transform(data.data, groups=groups)
    check.close(lazy.compute(), Standardizer(axis=1).fit(x, groups=groups).transform(x, groups=groups), 1e-6)
    with pytest.raises(TypeError, match=r"expected x in memory, got a Dask array; write nz.stats_of\(x, axis\)"):
        nz.Stats.of(data.data)


def test_a_memory_map_is_read_where_it_is(tmp_path, rng):
    x = rng.standard_normal((400, 5)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    held = np.load(tmp_path / "x.npy", mmap_mode="r")
    check.same_bits(Standardizer().fit(held).mean_, Standardizer().fit(x).mean_)


def test_a_masked_array_keeps_its_mask(rng):
    x = rng.standard_normal((30, 2))
    y = Standardizer().fit_transform(masked(x))
    assert isinstance(y, np.ma.MaskedArray) and (y.mask == (x > 1)).all()
    check.close(float(y[:, 0].mean()), 0.0, 1e-14)


def test_the_table_of_the_page_has_a_test_for_every_row():
    page = Path(__file__).parent.parent / "docs" / "howto" / "data.md"
    table = page.read_text(encoding="utf-8").partition("## What comes in")[2].partition("## How fast")[0]
    rows = re.findall(r"^\| ([^|]+?) \|", table, re.M)[1:]
    elsewhere = ["a Dask array", "a memory map", "strings, complex numbers, sparse matrices"]
    assert rows == [*COMES_IN, *elsewhere]


def test_no_numbers_do_not_come_in(rng):
    sparse = pytest.importorskip("scipy.sparse").csr_array(np.eye(3))
    for make in (Standardizer().fit, MinMaxScaler().fit, lambda a: nz.Stats.of(a, 0), lambda a: nz.robust.median(a, 0)):
        for data in (sparse, np.eye(3) * 1j, np.array([["a", "b"]] * 3)):
            with pytest.raises(
                (TypeError, ValueError), match=r"[Ss]parse|toarray|[Cc]omplex|could not convert|got <U1"
            ):
                make(data)


@pytest.mark.parametrize("name", ["moments", "quantiles"])
def test_what_docstrings_show(name):
    module = importlib.import_module(f"normzoo.sklearn.{name}")
    found = doctest.testmod(module)
    assert found.attempted > 0 and not found.failed


X = np.array([[1.0, 2.0], [3.0, np.nan], [5.0, 6.0]])
WRONG = [
    (lambda: Standardizer(nan="raise").fit(X), "Input X contains NaN.\nStandardizer: write nan='skip'"),
    (lambda: Standardizer(nan="keep").fit(X), "expected nan to be 'skip' or 'raise', got 'keep'"),
    (lambda: Standardizer(axis=0).fit(X), r"expected axis in \[1, 2\) .* got 0; write axis=-1"),
    (lambda: Standardizer(axis="time").fit(X), "a dimension axis='time', got an array without names"),
    (lambda: Standardizer().fit(X, groups=[0, 1]), r"groups of shape \(3,\), a label for each sample, got \(2,\)"),
    (lambda: Standardizer().fit(X).transform(X, groups=[0, 0, 0]), "expected groups as `fit` had them, got some"),
    (lambda: Standardizer().fit(X, groups=[0, 0, 1]).transform(X), "expected groups as `fit` had them, got none"),
    (lambda: Standardizer().fit(X, groups=[0, 0, 1]).transform(X, groups=[0, 2, 1]), r"`fit` saw, \[0, 1\], got 2; write partial_fit"),
    (lambda: Standardizer().fit(X).partial_fit(X, groups=[0, 0, 1]), "expected groups as `fit` had them, got some"),
    (lambda: Standardizer().fit(np.where(X == 1, np.inf, X)), "Input X contains infinity"),
    (lambda: MinMaxScaler().fit(np.where(X == 1, -np.inf, X)), "Input X contains infinity"),
    (lambda: RobustScaler().fit(np.where(X == 1, np.inf, X)), "Input X contains infinity"),
    (lambda: Standardizer().fit(X).transform(np.where(X == 1, np.inf, X)), "Input X contains infinity"),
    (lambda: MinMaxScaler((1, 1)).fit(X), r"feature_range \(low, high\) with low < high, got \(1, 1\)"),
    (lambda: RobustScaler(quantile_range=(75, 25)).fit(X), "Invalid quantile range"),
    (lambda: RobustScaler(center="mean").fit(X), "expected center to be one of 'median', .* got 'mean'"),
    (lambda: RobustScaler(share=0.5).fit(X), r"expected share in \[0, 0.5\), got 0.5"),
    (lambda: QuantileClipper((1, 99)).fit(X), r"0 <= lower <= upper <= 1, got \(1, 99\)"),
    (lambda: Standardizer().fit(X, mask=np.ones((2, 2), bool)), "expected mask that broadcasts to x"),
    (lambda: Standardizer().fit(X, sample_weight=[1, -1, 1]), "sample_weight of finite numbers >= 0"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), WRONG, ids=[m[:40] for _, m in WRONG])
def test_what_is_wrong_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_call_that_raises_changes_nothing(rng):
    x = rng.standard_normal((20, 2))
    made = Standardizer().fit(x, groups=np.arange(20) % 2)
    before = pickle.dumps(made)
    for call in (
        lambda: made.partial_fit(np.full((2, 2), np.inf), groups=[0, 1]),
        lambda: made.partial_fit(np.ones((2, 3)), groups=[0, 1]),
        lambda: made.fit(np.full((2, 2), np.inf)),
    ):
        with pytest.raises(ValueError):
            call()
        assert pickle.dumps(made) == before
