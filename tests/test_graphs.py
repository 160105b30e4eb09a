"""Norms of graphs beyond their rows in the zoo: PyTorch Geometric, ids in any order, graphs of any size, errors."""

import ml_dtypes
import numba
import numpy as np
import pytest

import normzoo as nz
from tests import check

IDS = np.random.default_rng(1).integers(0, 9, 700)
NORMS = {
    "GraphNorm": lambda dtype=np.float32: nz.GraphNorm(19, dtype=dtype),
    "PairNorm": lambda dtype=np.float32: nz.PairNorm(1.5),
    "PairNorm-SI": lambda dtype=np.float32: nz.PairNorm(1.5, True),
    "MeanSubtraction": lambda dtype=np.float32: nz.MeanSubtraction(),
    "GraphSizeNorm": lambda dtype=np.float32: nz.GraphSizeNorm(),
}
each_norm = pytest.mark.parametrize("make", NORMS.values(), ids=NORMS)


def passes(norm, x, dy, **given):
    return [norm(x, **given), norm.backward(dy), *norm.grads.values()]


def drawn(make, rng, dtype=np.float32, mean=0.0):
    norm = make(dtype)
    for p in norm.params.values():
        p[...] = rng.standard_normal(p.shape)
    return norm, (mean + rng.standard_normal((700, 19))).astype(dtype), rng.standard_normal((700, 19)).astype(dtype)


@each_norm
def test_order_and_names_of_graphs_do_not_matter(make, rng):
    norm, x, dy = drawn(make, rng)
    y, dx, *grads = passes(norm, x, dy, segments=IDS)
    names = rng.permutation(100)[:9] * 2**40 - 2**45
    for a, e in zip(passes(norm, x, dy, segments=names[IDS]), [y, dx, *grads], strict=True):
        check.close(a, e, 1e-6)  # graphs are added up in another order
    by_graph = np.argsort(IDS, kind="stable")
    sorted_ = passes(norm, x[by_graph], dy[by_graph], segments=IDS[by_graph].astype(np.uint8))
    check.same_bits(sorted_[0], y[by_graph])
    check.same_bits(sorted_[1], dx[by_graph])
    for a, e in zip(sorted_[2:], grads, strict=True):
        check.same_bits(a, e)
    alone = norm(x[IDS == 3])
    check.same_bits(alone, y[IDS == 3])
    check.same_bits(norm(nz.select(x, segments=IDS)), y)
    out = x.copy()
    check.same_bits(norm(out, segments=IDS, out=out), y)


@each_norm
@pytest.mark.parametrize("sizes", [[1, 5000, 2], [3] * 2000, [1, 1, 1]], ids=["large", "many", "single"])
def test_graphs_of_any_size_on_any_number_of_threads(make, sizes, rng):
    norm = make(np.float32)
    ids = np.repeat(np.arange(len(sizes)), sizes)
    x, dy = rng.standard_normal((2, len(ids), 19), np.float32)
    found, before = passes(norm, x, dy, segments=ids), numba.get_num_threads()
    assert all(np.isfinite(a).all() for a in found)
    try:
        numba.set_num_threads(1)
        for a, e in zip(passes(norm, x, dy, segments=ids), found, strict=True):
            check.same_bits(a, e)
    finally:
        numba.set_num_threads(before)
    with nz.use("reference"):
        for a, e in zip(passes(norm, x, dy, segments=ids), found, strict=True):
            check.close(a, e, 2e-6 * max(1, np.sqrt(max(sizes)) / 10))


@each_norm
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_sixteen_bits_are_rounded_once(make, dtype, rng):
    norm, x, dy = drawn(make, rng)
    narrow = x.astype(dtype)
    y, wide = norm(narrow, segments=IDS), norm(narrow.astype(np.float32), segments=IDS)
    assert y.dtype == dtype
    check.close(y, wide.astype(dtype).astype(np.float32), 2.0 ** (-11 if dtype == np.float16 else -8))


@each_norm
def test_no_nodes_no_channels_and_nan_in_one_graph(make, rng):
    norm, x, dy = drawn(make, rng)
    for a in passes(norm, x[:0], dy[:0], segments=IDS[:0])[:2]:
        assert a.shape == (0, 19)
    assert all(not g.any() for g in norm.grads.values())
    clean = norm(x, segments=IDS)
    x[np.flatnonzero(IDS == 2)[0], 5] = np.nan
    y = norm(x, segments=IDS)
    check.close(y[IDS != 2], clean[IDS != 2], 1e-6)
    assert np.isnan(y[IDS == 2]).any()
    dx = norm.backward(dy)
    assert np.isfinite(dx[IDS != 2]).all()
    if not isinstance(norm, nz.GraphNorm):
        assert norm(x[:, :0], segments=IDS).shape == (700, 0)


def test_values_far_from_zero_lose_no_digits(rng):
    ids = np.sort(IDS)
    x = (1e4 + 0.1 * rng.standard_normal((700, 19))).astype(np.float32)
    for norm in (nz.GraphNorm(19), nz.PairNorm(), nz.PairNorm(scale_individually=True)):
        exact = norm(x.astype(np.float64), segments=ids)
        check.close(norm(x, segments=ids), exact, 1e-6)


X = np.zeros((4, 3), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: nz.GraphNorm(4)(X), ValueError, r"GraphNorm\(4\): expected x of shape \(nodes, 4\), got \(4, 3\)"),
        (lambda: nz.PairNorm()(X[0]), ValueError, r"PairNorm\(\): expected x of shape \(nodes, C\), got \(3,\)"),
        (lambda: nz.PairNorm()(X, segments=[0, 1]), ValueError, r"PairNorm\(\): expected segments of shape \(4,\)"),
        (lambda: nz.PairNorm()(X, segments=np.zeros(4)), TypeError, "segments of integers, got float64"),
        (lambda: nz.PairNorm()(X, segments=np.zeros((4, 1), int)), ValueError, r"got \(4, 1\)"),
        (lambda: nz.PairNorm()(X, mask=X > 0), TypeError, "takes no mask"),
        (lambda: nz.PairNorm()(nz.select(X, segments=[0, 0, 1], segment_axis=1)), ValueError, "along axis 0"),
        (lambda: nz.PairNorm("a"), TypeError, "scale to be a number, got 'a'"),
        (lambda: nz.MessageNorm()(X, X[:2]), ValueError, r"msg of x's shape \(4, 3\), got \(2, 3\)"),
        (lambda: nz.MessageNorm(p=0.5), ValueError, "p >= 1 and finite, got 0.5; write p=2.0"),
        (lambda: nz.DiffGroupNorm(3, 0), ValueError, "groups >= 1, got 0"),
        (lambda: nz.DiffGroupNorm(3, 2)(X[:1]), ValueError, "more than 1 node in training"),
        (lambda: nz.DiffGroupNorm(3, 2)(X[:, :2]), ValueError, r"expected x of shape \(nodes, 3\), got \(4, 2\)"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said(call, error, said):
    with pytest.raises(error, match=said):
        call()
