"""What the norms of weights and the whitening norms promise beyond their formulas: equivalences, state, edges."""

import copy
import os
import subprocess
import sys

import ml_dtypes
import numba
import numpy as np
import pytest

import normzoo as nz
from normzoo.backends import subnormals
from normzoo.passes import formulas, numpy_threads
from normzoo.passes.formulas import product
from normzoo.zoo.whitening import tiles
from tests import check


def both(norm, x, dy):
    """(y, dx)"""
    return norm(x), norm.backward(dy)


def rows(x, dim=0):
    return np.moveaxis(x, dim, 0).reshape(x.shape[dim], -1)


def covariance(rows):
    centered = rows - rows.mean(axis=1, keepdims=True)
    return centered @ centered.T / rows.shape[1]


@pytest.mark.parametrize(
    "shapes",
    [((3, 4), (4, 5)), ((2, 70, 3), (2, 3, 9)), ((1, 64, 64), (1, 64, 5001)), ((64, 5001), (5001, 65)), ((130, 300), (300, 130)),
     ((2, 1, 3, 4), (5, 4, 2)), ((3, 0), (0, 2)), ((0, 3), (3, 2)), ((16, 1152), (1152, 200))], ids=str,
)  # fmt: skip
def test_products_in_blocks_are_those_of_one_step(shapes, rng):
    a, b = (rng.standard_normal(shape) for shape in shapes)
    found = product(a, b)
    check.close(found, a @ b, 1e-13, max(1.0, a.shape[-1]))
    check.close(
        product(np.moveaxis(np.ascontiguousarray(np.moveaxis(a, -1, 0)), 0, -1), b), found, 1e-13, a.shape[-1] + 1
    )


def test_short_sums_of_products_are_float32_and_longer_ones_float64(rng):
    """Far more digits than float32 sums of all products have, where these are many."""
    for inner in (1, 100, 128, 129, 5000):
        a, b = (
            rng.uniform(0.5, 1.5, (70, inner)).astype(np.float32),
            rng.uniform(0.5, 1.5, (inner, 90)).astype(np.float32),
        )
        found = product(a, b)
        assert found.dtype == (np.float32 if inner <= 128 else np.float64)
        check.close(found, a.astype(np.float64) @ b, 1e-6, float(inner))  # all above 0: 128 additions round alike


def test_large_products_are_those_of_one_thread(rng):
    before = numba.get_num_threads()
    for dtype in (np.float32, np.float64):
        a, b = rng.standard_normal((300, 301)).astype(dtype), rng.standard_normal((301, 200)).astype(dtype)
        found = product(a, b)
        assert found.size * 301 >= formulas.ON_THREADS
        check.close(found, a.astype(np.float64) @ b, 1e-13 if dtype == np.float64 else 1e-6, 301.0)
        try:
            numba.set_num_threads(1)
            check.same_bits(product(a, b), found)
        finally:
            numba.set_num_threads(before)


class TestThreads:
    def test_as_many_as_numba_has(self):
        before = numba.get_num_threads()
        try:
            numba.set_num_threads(1)
            assert numpy_threads.workers(8) == 1
        finally:
            numba.set_num_threads(before)
        assert numpy_threads.workers(100) == before
        assert numpy_threads.workers(1) == 1

    def test_without_numba_as_many_as_there_are_cores(self, monkeypatch):
        monkeypatch.delitem(sys.modules, "numba")
        assert numpy_threads.workers(1000) == os.cpu_count()

    def test_threads_that_were_not_started_are_counted_and_stay_so(self):
        code = (
            "import numba, normzoo.passes.numpy_threads as t\n"
            "assert t.workers(1000) == numba.config.NUMBA_NUM_THREADS\n"
            "try:\n    numba.threading_layer()\nexcept ValueError:\n    print('not started')"
        )
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert found.stdout.strip() == "not started"

    def test_every_item_once_with_the_state_of_the_caller(self, monkeypatch):
        monkeypatch.setattr(numpy_threads, "_count", lambda: 4)
        seen, states, nested = [], set(), set()

        def work(i):
            seen.append(i)
            states.add(np.geterr()["over"])
            nested.add(numpy_threads.workers(8))

        with np.errstate(over="raise"):
            numpy_threads.on_threads(work, range(50))
        assert sorted(seen) == list(range(50)) and states == {"raise"}
        assert nested == {1}, "threads do not start others"
        assert numpy_threads.workers(8) == 4

    def test_an_error_ends_all(self, monkeypatch):
        monkeypatch.setattr(numpy_threads, "_count", lambda: 3)
        seen = []

        def work(i):
            seen.append(i)
            if i == 5:
                raise KeyError(i)

        with pytest.raises(KeyError):
            numpy_threads.on_threads(work, range(10**6))
        assert len(seen) < 10**6
        assert numpy_threads.workers(8) == 3, "the caller is no longer one of several"


class TestWeightNorm:
    @pytest.mark.parametrize("dim", [0, 1, -1, None])
    @pytest.mark.parametrize("eps", [0.0, 0.5])
    def test_matched_lengths_give_the_identity(self, dim, eps, rng):
        x = rng.standard_normal((4, 5, 6))
        norm = nz.WeightNorm(x.shape, dim, eps=eps, dtype=np.float64)
        norm.match(x)
        check.close(norm(x), x, 1e-14)

    def test_match_takes_arrays(self):
        for norm, take in ((n := nz.WeightNorm((2, 3)), n.match), (n := nz.SpectralNorm((2, 3)), n.iterate)):
            for x, error in ((None, TypeError), (np.ones((2, 3), int), TypeError), (np.ones((3, 2)), ValueError)):
                with pytest.raises(error, match=type(norm).__name__):
                    take(x)

    def test_a_row_of_zeros_gives_zeros(self, rng):
        x, dy = rng.standard_normal((2, 3, 5))
        x[1] = 0
        norm = nz.WeightNorm((3, 5), dtype=np.float64)
        y, dx = both(norm, x, dy)
        assert (y[1] == 0).all() and (dx[1] == 0).all() and norm.grads["weight"][1] == 0
        assert y[0].any() and dx[0].any()

    def test_the_gradient_is_orthogonal_to_the_direction(self, rng):
        x, dy = rng.standard_normal((2, 4, 7))
        _, dx = both(nz.WeightNorm((4, 7)), x, dy)
        check.close((dx * x).sum(axis=1), np.zeros(4), 1e-14)

    def test_another_shape_is_refused(self, rng):
        norm = nz.WeightNorm((3, 5))
        with pytest.raises(ValueError, match=r"WeightNorm.*\(3, 5\).*\(5, 3\)"):
            norm(rng.standard_normal((5, 3)))
        with pytest.raises(ValueError, match="dim"):
            nz.WeightNorm((3, 5), 2)

    @pytest.mark.parametrize("dim", [0, 1, None])
    def test_it_is_torchs(self, dim, rng):
        torch = pytest.importorskip("torch")
        x, dy = rng.standard_normal((2, 3, 4, 5))
        norm = nz.WeightNorm(x.shape, dim, dtype=np.float64)
        norm.weight[...] = rng.standard_normal(norm.weight.shape)
        v, g = torch.tensor(x, requires_grad=True), torch.tensor(norm.weight, requires_grad=True)
        y = torch._weight_norm(v, g, -1 if dim is None else dim)
        y.backward(torch.tensor(dy))
        check.close(norm(x), y.detach().numpy(), 1e-14)
        check.close(norm.backward(dy), v.grad.numpy(), 1e-13)
        check.close(norm.grads["weight"], g.grad.numpy(), 1e-13)
        assert norm.weight.shape == torch.norm_except_dim(v, 2, -1 if dim is None else dim).shape


class TestSpectralNorm:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
    @pytest.mark.parametrize("dim", [0, 1])
    def test_iterating_by_kernels_is_the_definition(self, dim, dtype, rng):
        x = (3 + rng.standard_normal((5, 3, 67))).astype(dtype)
        norm = nz.SpectralNorm(x.shape, dim=dim, dtype=np.float64)
        twin = copy.deepcopy(norm)
        norm.iterate(x, 4)
        with nz.use("reference"):
            twin.iterate(x.astype(np.float64), 4)
        for name in ("u", "v"):
            check.close(norm.buffers[name], twin.buffers[name], 1e-12 if dtype == np.float64 else 1e-6)
        for far in (x.astype(np.float64) * 1e200, 0.0 * x):  # which no kernel computes
            norm.iterate(far, 2)
            assert np.isfinite(norm.u).all()
            check.close(np.linalg.norm(norm.u), 1.0 if far.any() else 0.0, 1e-12)

    @pytest.mark.parametrize("shape", [(5, 8), (8, 5), (4, 3, 3, 2)])
    def test_exact_gives_a_largest_singular_value_of_1(self, shape, rng):
        y = nz.SpectralNorm(shape, exact=True)(rng.standard_normal(shape))
        assert abs(np.linalg.svd(rows(y), compute_uv=False)[0] - 1) < 1e-14

    @pytest.mark.parametrize("dim", [0, 1])
    def test_iterated_long_enough_it_is_the_exact_one(self, dim, rng):
        x, dy = rng.standard_normal((2, 6, 7, 2))
        near = nz.SpectralNorm(x.shape, dim=dim, dtype=np.float64)
        near.iterate(x, 2000)
        exact = both(nz.SpectralNorm(x.shape, dim=dim, exact=True), x, dy)
        for norm in (near.eval(), near.train()):
            for found, expected in zip(both(norm, x, dy), exact, strict=True):
                check.close(found, expected, 1e-12)

    def test_only_training_iterates(self, rng):
        x = rng.standard_normal((6, 7))
        norm = nz.SpectralNorm((6, 7))
        first = norm.state_dict()
        norm.eval()(x)
        check.same_bits(norm.u, first["u"])
        norm.train()(x)
        assert not np.array_equal(norm.u, first["u"]) and not np.array_equal(norm.v, first["v"])
        once = nz.SpectralNorm((6, 7))
        once.iterate(x, 16)
        check.same_bits(norm.u, once.u)
        norm(x)
        once.iterate(x, 1)
        check.close(norm.u, once.u, 1e-6)
        assert nz.SpectralNorm((6, 7), exact=True).buffers == {}

    def test_before_any_training_it_is_set_up_as_in_torch(self, rng):
        """pytorch#48181: u and v of a norm that was never trained are no singular vectors."""
        x = rng.standard_normal((6, 4)) * np.array([5, 2, 1, 1])
        norm = nz.SpectralNorm((6, 4)).eval()
        first = norm.state_dict()
        y = norm(x)
        assert abs(np.linalg.svd(y, compute_uv=False)[0] - 1) < 1e-6
        check.same_bits(norm(x), y)
        for name, value in norm.state_dict().items():
            check.same_bits(value, first[name])
        set_up = nz.SpectralNorm((6, 4), dtype=np.float64).eval()
        set_up.iterate(x)
        check.close(y, set_up(x), 1e-6)
        check.close(2 * y, norm.train()(2 * x) * 2, 1e-4)  # a first pass in training begins there too

    def test_the_seed_sets_the_first_vectors(self):
        check.same_bits(nz.SpectralNorm((6, 7)).u, nz.SpectralNorm((6, 7)).u)
        assert not np.array_equal(nz.SpectralNorm((6, 7)).u, nz.SpectralNorm((6, 7), seed=1).u)

    def test_what_cannot_be_written_changes_nothing(self, rng):
        norm, x = nz.SpectralNorm((6, 7)), rng.standard_normal((6, 7))
        before = norm.state_dict()
        norm.v.flags.writeable = False
        out = np.zeros_like(x)
        with pytest.raises(ValueError, match="v that can be written"):
            norm(x, out=out)
        check.same_bits(norm.u, before["u"])
        assert not out.any() and norm.saved is None
        norm.eval()(x)

    @pytest.mark.parametrize("exact", [False, True])
    def test_zeros_give_zeros_and_nan_gives_nan(self, exact, rng):
        norm = nz.SpectralNorm((3, 4), exact=exact)
        y, dx = both(norm, np.zeros((3, 4)), rng.standard_normal((3, 4)))
        assert not y.any() and not dx.any()
        assert np.isnan(norm(np.full((3, 4), np.nan))).all()

    def test_a_vector_is_divided_by_its_length(self, rng):
        x, dy = rng.standard_normal((2, 9))
        for eps in (1e-12, 100.0):
            for found, expected in zip(both(nz.SpectralNorm(9, eps=eps), x, dy), self.vector(x, dy, eps), strict=True):
                check.close(found, expected, 1e-14)

    def vector(self, x, dy, eps):
        y, saved = nz.functional.normalize(x, dim=0, eps=eps, return_saved=True)
        return y, saved.backward(dy).x

    def test_arguments(self):
        with pytest.raises(ValueError, match="n_power_iterations >= 1"):
            nz.SpectralNorm((3, 4), 0)
        with pytest.raises(ValueError, match="dim"):
            nz.SpectralNorm((3, 4), dim=2)

    @pytest.mark.parametrize("dim", [0, 1])
    def test_it_is_torchs(self, dim, rng):
        torch = pytest.importorskip("torch")
        x, dy = rng.standard_normal((2, 4, 5, 3))
        layer = torch.nn.Conv1d(5, 4, 3, dtype=torch.float64)
        with torch.no_grad():
            layer.weight.copy_(torch.tensor(x))
        torch.nn.utils.parametrizations.spectral_norm(layer, n_power_iterations=2, dim=dim)
        theirs = layer.parametrizations.weight[0]
        norm = nz.SpectralNorm(x.shape, 2, dim=dim, dtype=np.float64)
        norm.load_state_dict({"u": theirs._u.numpy(), "v": theirs._v.numpy()})
        y = layer.weight
        y.backward(torch.tensor(dy))
        check.close(norm(x), y.detach().numpy(), 1e-13)
        check.close(norm.backward(dy), layer.parametrizations.weight.original.grad.numpy(), 1e-13)
        check.close(norm.u, theirs._u.numpy(), 1e-13)
        check.close(norm.v, theirs._v.numpy(), 1e-13)


class TestWeightStandardization:
    def test_it_is_layer_norm_over_all_but_one_axis(self, rng):
        x, dy = rng.standard_normal((2, 4, 3, 5))
        layer = nz.LayerNorm((3, 5), elementwise_affine=False)
        for found, expected in zip(both(nz.WeightStandardization(), x, dy), both(layer, x, dy), strict=True):
            check.same_bits(found, expected)

    def test_a_filter_of_one_value_gives_zero(self):
        assert not nz.WeightStandardization()(np.ones((3, 1, 1))).any()

    def test_scaled_filters_have_mean_0_and_the_length_of_the_gain(self, rng):
        x = 5 + rng.standard_normal((4, 3, 7))
        norm = nz.ScaledWeightStandardization(4, gamma=2.0, dtype=np.float64)
        norm.weight[...] = rng.standard_normal(4)
        y = rows(norm(x))
        check.close(y.sum(axis=1), np.zeros(4), 1e-13)
        check.close(np.sqrt((y**2).sum(axis=1)), 2 * np.abs(norm.weight), 1e-14)

    def test_scaled_is_the_plain_one_by_the_root_of_the_fan_in(self, rng):
        x, dy = rng.standard_normal((2, 4, 3, 5))
        y, dx = both(nz.WeightStandardization(eps=0), x, dy / np.sqrt(15))
        found = both(nz.ScaledWeightStandardization(4), x, dy)
        check.close(found[0], y / np.sqrt(15), 1e-14)
        check.close(found[1], dx, 1e-14)

    def test_a_filter_that_hardly_varies_is_divided_by_the_root_of_eps(self, rng):
        x, dy = 1 + 1e-4 * rng.standard_normal((2, 3, 20))
        x[1] = 7
        y, dx = both(nz.ScaledWeightStandardization(3, gain=False), x, dy)
        check.close(y, (x - x.mean(axis=1, keepdims=True)) / 1e-2, 1e-12)
        check.close(dx, (dy - dy.mean(axis=1, keepdims=True)) / 1e-2, 1e-12)
        assert not y[1].any()

    @pytest.mark.parametrize("gain", [True, False])
    def test_the_gain_has_its_own_dtype_and_gamma_is_in_its_gradient(self, gain, rng):
        x, dy = rng.standard_normal((2, 4, 9)).astype(np.float32)
        norm, plain = (nz.ScaledWeightStandardization(4, gain=gain, gamma=g, dtype=np.float16) for g in (3.0, 1.0))
        (y, dx), (plain_y, plain_dx) = both(norm, x, dy), both(plain, x, dy)
        assert y.dtype == dx.dtype == np.float32
        check.close(y, 3 * plain_y, 1e-6)
        check.close(dx, 3 * plain_dx, 1e-6)
        if gain:
            assert norm.grads["weight"].dtype == np.float16
            check.close(norm.grads["weight"], 3 * plain.grads["weight"], 2e-3)

    def test_it_is_what_timm_computes(self, rng):
        torch = pytest.importorskip("torch")
        x, dy = rng.standard_normal((2, 4, 3, 5))
        w = torch.tensor(x, requires_grad=True)
        y = torch.nn.functional.batch_norm(w.reshape(1, 4, -1), None, None, training=True, eps=1e-6).reshape_as(w)
        y.backward(torch.tensor(dy))
        found = both(nz.WeightStandardization(eps=1e-6), x, dy)
        check.close(found[0], y.detach().numpy(), 1e-13)
        check.close(found[1], w.grad.numpy(), 1e-12)

    def test_outputs_are_counted(self, rng):
        with pytest.raises(ValueError, match="4 along dim=1"):
            nz.ScaledWeightStandardization(4, dim=1)(rng.standard_normal((4, 5)))


class TestOrthogonalWeight:
    @pytest.mark.parametrize("map_", ["qr", "cayley"])
    @pytest.mark.parametrize("shape", [(7, 4), (4, 7), (5, 5), (3, 2, 2, 3), (1, 6), (6, 1)])
    def test_rows_or_columns_are_orthonormal(self, map_, shape, rng):
        y = rows(nz.OrthogonalWeight(map_)(rng.standard_normal(shape)))
        y = y.T if y.shape[0] < y.shape[1] else y
        check.close(y.T @ y, np.eye(y.shape[1]), 1e-14)

    @pytest.mark.parametrize("shape", [(7, 4), (4, 7), (5, 5)])
    def test_what_is_orthonormal_stays(self, shape, rng):
        norm = nz.OrthogonalWeight()
        y = norm(rng.standard_normal(shape))
        check.close(norm(y), y, 1e-14)

    def test_lengths_of_columns_do_not_matter(self, rng):
        x, dy = rng.standard_normal((2, 7, 4))
        norm = nz.OrthogonalWeight()
        y, dx = both(norm, x, dy)
        check.close(norm(x * [1, 10, 0.1, 3]), y, 1e-13)
        check.close((dx * x).sum(axis=0), np.zeros(4), 1e-13)

    def test_cayley_of_zeros_is_the_identity(self):
        check.same_bits(nz.OrthogonalWeight("cayley")(np.zeros((5, 3))), np.eye(5, 3))

    def test_dependent_columns_have_no_gradient(self, rng):
        x = np.zeros((5, 3))
        x[:, 0] = 1.0
        norm = nz.OrthogonalWeight()
        y = norm(x)
        check.close(y.T @ y, np.eye(3), 1e-14)
        assert np.isnan(norm.backward(rng.standard_normal((5, 3)))).all()

    @pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
    @pytest.mark.parametrize("shape", [(130, 67), (64, 5, 17), (66, 131), (3, 1)], ids=str)
    def test_cholesky_is_the_decomposition(self, shape, dtype, rng):
        """Far from zero mean, columns of any length, odd sizes, and a gradient of one value."""
        x = (0.5 + rng.standard_normal(shape)).astype(dtype)
        if np.dtype(dtype).itemsize > 2:
            columns = x.reshape(shape[0], -1)
            columns = columns.T if columns.shape[0] < columns.shape[1] else columns
            columns *= np.geomspace(1e-3, 1e3, columns.shape[1]).astype(dtype)
        norm, dense = nz.OrthogonalWeight(), rng.standard_normal(shape).astype(dtype)
        rounding = {2: 2.0 ** (-10 if dtype == np.float16 else -7)}.get(np.dtype(dtype).itemsize, 0.0)
        for dy in (dense, np.where(np.arange(x.size).reshape(shape) == 2, dense, 0).astype(dtype)):
            found = both(norm, x, dy)
            assert type(norm.saved).__name__ == "WholeSaved", "the definition computed it"
            with nz.use("reference"):
                y, dx = both(nz.OrthogonalWeight(), x.astype(np.float64), dy.astype(np.float64))
            check.close(found[0], y, rounding + (1e-12 if dtype == np.float64 else check.FORWARD32))
            check.close(
                found[1], dx, rounding + (1e-10 if dtype == np.float64 else check.BACKWARD32), float(np.abs(dx).max())
            )

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_columns_that_are_nearly_dependent(self, dtype, rng):
        """One more step, and beyond that the definition."""
        base, dy = rng.standard_normal((2, 90, 70))
        left, _, right = np.linalg.svd(base, full_matrices=False)
        for condition, kernels in ((1e4, True), (1e6, True), (1e9, False)):
            x = ((left * np.geomspace(1, 1 / condition, 70)) @ right).astype(dtype)
            norm = nz.OrthogonalWeight()
            y, _ = both(norm, x, dy.astype(dtype))
            if dtype == np.float64:
                assert (type(norm.saved).__name__ == "WholeSaved") is kernels
                check.close(y.T @ y, np.eye(70), 1e-13)
            with nz.use("reference"):
                expected = nz.OrthogonalWeight()(x.astype(np.float64))
            near = x.astype(np.float64)
            check.close(
                y, expected, 1e-15 * np.linalg.cond(near) * 10 + (check.FORWARD32 if dtype == np.float32 else 0)
            )

    def test_bits_do_not_depend_on_threads(self, rng):
        x, dy = rng.standard_normal((2, 520, 260)).astype(np.float32)
        assert x.size * 260 >= formulas.ON_THREADS
        found, before = both(nz.OrthogonalWeight(), x, dy), numba.get_num_threads()
        try:
            numba.set_num_threads(1)
            for a, b in zip(both(nz.OrthogonalWeight(), x, dy), found, strict=True):
                check.same_bits(a, b)
        finally:
            numba.set_num_threads(before)

    def test_what_has_no_squares_is_computed_by_the_definition(self, rng):
        x = rng.standard_normal((6, 4))
        for far in (np.ldexp(x, 600), np.ldexp(x, -600)):
            check.close(nz.OrthogonalWeight()(far), nz.OrthogonalWeight()(x), 1e-13)
        x[2, 1] = np.nan
        assert np.isnan(nz.OrthogonalWeight()(x)).any()

    def test_arguments(self, rng):
        with pytest.raises(ValueError, match="'qr' or 'cayley', got 'exp'"):
            nz.OrthogonalWeight("exp")
        with pytest.raises(ValueError, match="rank 2"):
            nz.OrthogonalWeight()(rng.standard_normal(4))

    @pytest.mark.parametrize("shape", [(7, 4), (4, 7), (5, 5)])
    def test_cayley_is_torchs(self, shape, rng):
        torch = pytest.importorskip("torch")
        x, dy = rng.standard_normal((2, *shape))
        layer = torch.nn.Linear(shape[1], shape[0], bias=False, dtype=torch.float64)
        torch.nn.utils.parametrizations.orthogonal(layer, orthogonal_map="cayley", use_trivialization=False)
        kept = layer.parametrizations.weight.original
        with torch.no_grad():
            kept.copy_(torch.tensor(x))
        y = layer.weight
        y.backward(torch.tensor(dy))
        found = both(nz.OrthogonalWeight("cayley"), x, dy)
        check.close(found[0], y.detach().numpy(), 1e-13)
        check.close(found[1], kept.grad.numpy(), 1e-13)


class TestMaxNorm:
    def test_below_the_limit_nothing_changes(self, rng):
        x, dy = rng.standard_normal((2, 4, 9)).astype(np.float32)
        y, dx = both(nz.MaxNorm(2, 0, 100), x, dy)
        check.same_bits(y, x)
        check.same_bits(dx, dy)

    @pytest.mark.parametrize("p", [1, 2, 3.5, np.inf])
    def test_above_it_rows_have_the_limit(self, p, rng):
        y = nz.MaxNorm(p, 1, 0.5, eps=0)(rng.standard_normal((3, 4, 5)))
        check.close(np.linalg.norm(rows(y, 1), p, axis=1), np.full(4, 0.5), 1e-14)

    def test_one_value_that_is_nan_spoils_its_row_alone(self, rng):
        x = rng.standard_normal((3, 5))
        x[1, 2] = np.nan
        y = nz.MaxNorm(2, 0, 1)(x)
        assert np.isnan(y[1]).all() and np.isfinite(y[[0, 2]]).all()

    def test_rows_of_zeros_and_a_limit_of_zero(self, rng):
        x, dy = rng.standard_normal((2, 3, 5))
        x[0] = 0
        y, dx = both(nz.MaxNorm(2, 0, 0.0), x, dy)
        assert not y.any() and not dx[1:].any()
        check.same_bits(dx[0], dy[0])

    def test_arguments(self):
        for p, limit in ((0, 1), (-1, 1), (2, -1), (2, np.inf)):
            with pytest.raises(ValueError, match="MaxNorm: expected"):
                nz.MaxNorm(p, 0, limit)
        with pytest.raises(ValueError, match="dim"):
            nz.MaxNorm(2, 2, 1)(np.ones((3, 4)))

    @pytest.mark.parametrize("p", [1, 2, 3.5, np.inf])
    @pytest.mark.parametrize("dim", [0, 1])
    def test_it_is_torchs(self, p, dim, rng):
        torch = pytest.importorskip("torch")
        x, dy = rng.standard_normal((2, 5, 6, 4))
        limit = float(np.median(np.linalg.norm(rows(x, dim), p, axis=1)))
        v = torch.tensor(x, requires_grad=True)
        y = torch.renorm(v, p, dim, limit)
        y.backward(torch.tensor(dy))
        found = both(nz.MaxNorm(p, dim, limit), x, dy)
        check.close(found[0], y.detach().numpy(), 1e-13)
        check.close(found[1], v.grad.numpy(), 1e-13)


BATCH = [lambda **o: nz.DecorrelatedBatchNorm(6, 3, **o), lambda **o: nz.IterNorm(6, 2, **o)]
each_batch_norm = pytest.mark.parametrize("make", BATCH, ids=["zca", "newton"])


def mixed(rng, shape):
    """Channels that depend on each other."""
    return 3.0 + np.einsum("ij,nj...->ni...", rng.standard_normal((shape[1],) * 2), rng.standard_normal(shape))


class TestWhitening:
    @pytest.mark.parametrize(
        "norm",
        [
            nz.DecorrelatedBatchNorm(6, 3, 1e-12),
            nz.IterNorm(6, 2, T=60, eps=1e-9),
            nz.DecorrelatedBatchNorm(6, 6, 1e-12),
        ],
        ids=["zca", "newton", "whole"],
    )
    def test_the_covariance_of_a_group_is_the_identity(self, norm, rng):
        y = rows(norm(mixed(rng, (16, 6, 5))), 1)
        for group in np.split(y, norm.num_groups):
            check.close(covariance(group), np.eye(len(group)), 1e-6)
            check.close(group.mean(axis=1), np.zeros(len(group)), 1e-12)

    def test_samples_are_decorrelated_one_by_one(self, rng):
        y = nz.GroupWhitening(6, 3, T=None, eps=1e-12)(mixed(rng, (4, 6, 5)))
        for sample in y:
            check.close(covariance(sample.reshape(3, -1)), np.eye(3), 1e-8)

    def test_newton_ends_at_zca(self, rng):
        x, dy = mixed(rng, (16, 6, 5)), rng.standard_normal((16, 6, 5))
        zca, newton = nz.DecorrelatedBatchNorm(6, 3, 1e-3), nz.IterNorm(6, num_channels=3, T=40, eps=1e-3)
        for found, expected in zip(both(newton, x, dy), both(zca, x, dy), strict=True):
            check.close(found, expected, 1e-8)
        check.close(newton.running_wm, zca.running_projection, 1e-6)

    def test_more_iterations_come_nearer(self, rng):
        x = mixed(rng, (16, 6, 5))
        zca = nz.DecorrelatedBatchNorm(6, 6, 1e-3)(x)
        away = [np.abs(nz.IterNorm(6, T=t, eps=1e-3)(x) - zca).max() for t in (1, 5, 9, 20)]
        assert away == sorted(away, reverse=True)

    @pytest.mark.parametrize("norm", [nz.DecorrelatedBatchNorm(6, 1, 1e-3), nz.IterNorm(6, num_channels=1, eps=1e-3)])
    def test_groups_of_one_channel_are_batch_norm(self, norm, rng):
        x, dy = mixed(rng, (7, 6, 5)), rng.standard_normal((7, 6, 5))
        batch = nz.BatchNorm(6, 1e-3)
        for found, expected in zip(both(norm, x, dy), both(batch, x, dy), strict=True):
            check.close(found, expected, 1e-12)
        check.close(norm.running_mean, batch.running_mean, 1e-6)

    @pytest.mark.parametrize("iterations", [None, 5])
    def test_one_group_of_a_sample_is_group_norm(self, iterations, rng):
        x, dy = mixed(rng, (7, 6, 5)), rng.standard_normal((7, 6, 5))
        norm, group = nz.GroupWhitening(6, 1, iterations), nz.GroupNorm(1, 6)
        for found, expected in zip(both(norm, x, dy), both(group, x, dy), strict=True):
            check.close(found, expected, 1e-12)

    def test_equal_eigenvalues_do_no_harm(self, rng):
        """The derivative at a covariance that is a multiple of the identity, by differences."""
        x = np.array(np.meshgrid([-1.0, 1.0], [-1.0, 1.0], [-1.0, 1.0])).reshape(3, 8).T.copy()
        dy, step = rng.standard_normal((8, 3)), 1e-5
        norm = nz.DecorrelatedBatchNorm(3, 3, dtype=np.float64)
        norm(x)
        dx = norm.backward(dy)
        assert np.isfinite(dx).all()
        for _ in range(3):
            direction = rng.standard_normal(x.shape)
            slope = (dy * (norm(x + step * direction) - norm(x - step * direction))).sum() / (2 * step)
            assert abs(slope - (dx * direction).sum()) < 1e-8

    @each_batch_norm
    def test_dependent_and_constant_channels(self, make, rng):
        norm, dy = make(), rng.standard_normal((8, 6))
        norm.bias[...] = rng.standard_normal(6)
        y = norm(np.full((8, 6), 3.0))
        check.close(y, np.broadcast_to(norm.bias, y.shape), 1e-15)
        x = np.repeat(rng.standard_normal((8, 1)), 6, axis=1)
        y, dx = both(norm, x, dy)
        assert np.isfinite(y).all() and np.isfinite(dx).all()

    @each_batch_norm
    def test_gradients_do_not_see_shifts(self, make, rng):
        x, dy = mixed(rng, (7, 6, 5)), rng.standard_normal((7, 6, 5))
        _, dx = both(make(), x, dy)
        check.close(dx.sum(axis=(0, 2)), np.zeros(6), 1e-12)

    @each_batch_norm
    def test_running_statistics(self, make, rng):
        batches = [mixed(rng, (9, 6, 5)) for _ in range(3)]
        norm, average, newest = (make(momentum=m, dtype=np.float64) for m in (0.3, None, 1.0))
        mean, matrix, each = np.zeros(6), np.broadcast_to(np.eye(3), (2, 3, 3)), []
        for x in batches:
            for n in (norm, average, newest):
                n(x)
            new = x.mean(axis=(0, 2)), newest.buffers[norm.matrix].copy()
            mean, matrix = 0.7 * mean + 0.3 * new[0], 0.7 * matrix + 0.3 * new[1]
            each.append(new)
        check.close(norm.running_mean, mean, 1e-13)
        check.close(norm.buffers[norm.matrix], matrix, 1e-13)
        check.close(average.running_mean, np.mean([m for m, _ in each], axis=0), 1e-13)
        check.close(average.buffers[norm.matrix], np.mean([w for _, w in each], axis=0), 1e-13)
        assert norm.num_batches_tracked == average.num_batches_tracked == 3
        assert set(norm.state_dict()) == {"weight", "bias", "running_mean", norm.matrix, "num_batches_tracked"}
        trained = newest(batches[0])
        check.close(newest.eval()(batches[0]), trained, 1e-12)
        before = newest.state_dict()
        newest(batches[1])
        for name, a in before.items():
            check.same_bits(newest.buffers.get(name, newest.params.get(name)), a)
        newest.reset_running_stats()
        check.same_bits(newest.buffers[norm.matrix], make(dtype=np.float64).buffers[norm.matrix])
        assert newest.num_batches_tracked == 0 and not newest.running_mean.any()

    @each_batch_norm
    def test_what_training_refuses_and_evaluation_takes(self, make, rng):
        for norm, x in ((make(), rng.standard_normal((1, 6))), (make(eps=0.0), rng.standard_normal((4, 6)))):
            with pytest.raises(ValueError, match="training|eps"):
                norm(x)
            assert norm.num_batches_tracked == 0 and norm.saved is None
            norm.eval()(x)

    @each_batch_norm
    def test_an_empty_batch_is_counted_and_changes_nothing_else(self, make):
        norm = make()
        x = np.zeros((0, 6, 5), np.float32)
        y, dx = both(norm, x, x)
        assert y.shape == dx.shape == x.shape
        assert norm.num_batches_tracked == 1 and not norm.running_mean.any()
        check.same_bits(norm.buffers[norm.matrix], make().buffers[norm.matrix])
        assert not norm.grads["weight"].any()
        assert norm.eval()(x).shape == nz.GroupWhitening(6, 2)(x).shape == x.shape

    @pytest.mark.parametrize(
        ("norm", "others"),
        [(nz.DecorrelatedBatchNorm(6, 3), np.s_[:, 3:]), (nz.IterNorm(6, 2), np.s_[:, 3:]), (nz.GroupWhitening(6, 2), np.s_[1:])],
        ids=["zca", "newton", "samples"],
    )  # fmt: skip
    def test_nan_stays_in_its_set(self, norm, others, rng):
        x, dy = rng.standard_normal((2, 5, 6, 7))
        x[0, 0, 0] = np.nan
        y, dx = both(norm, x, dy)
        assert np.isnan(y[0, 0, 0]) and np.isfinite(y[others]).all() and np.isfinite(dx[others]).all()

    @pytest.mark.parametrize("iterations", [None, 5])
    def test_a_sample_has_the_same_bits_in_any_batch(self, iterations, rng):
        x, dy = rng.standard_normal((2, 5, 8, 9)).astype(np.float32)
        norm = nz.GroupWhitening(8, 4, iterations)
        y, dx = both(norm, x, dy)
        for i in range(5):
            for found, expected in zip(both(norm, x[i : i + 1], dy[i : i + 1]), (y, dx), strict=True):
                check.same_bits(found[0], expected[i])

    @pytest.mark.parametrize(
        ("make", "shape"),
        [
            (lambda **o: nz.IterNorm(6, 2, **o), (7, 6, 5, 9)),
            (lambda **o: nz.IterNorm(5, channel_axis=-1, **o), (3, 41, 5)),
            (lambda **o: nz.DecorrelatedBatchNorm(9, 3, affine=False, **o), (5, 9, 13)),
        ],
        ids=["maps", "last", "zca"],
    )
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("training", [True, False])
    def test_tiles_are_the_definition_whoever_computes_them(self, make, shape, dtype, training, rng, monkeypatch):
        """Many tiles, the last one smaller, far from zero, behind an outlier, with a gradient of one value."""
        monkeypatch.setattr(tiles, "VALUES", 120)
        monkeypatch.setattr(tiles, "FEW", 0)
        norm = make(dtype=dtype)
        for a in (*norm.params.values(), norm.running_mean, norm.buffers[norm.matrix]):
            a[...] = rng.standard_normal(a.shape)
        norm.train(training)
        x = ((1e3 if training else 1) + rng.standard_normal(shape)).astype(dtype)
        x.flat[0] += 30
        alone, exact = copy.deepcopy(norm), make(dtype=np.float64).train(training)
        exact.load_state_dict({n: a.astype(a.dtype if a.dtype.kind == "i" else np.float64) for n, a in norm.state_dict().items()})  # fmt: skip
        dense = rng.standard_normal(shape).astype(dtype)
        for dy in (dense, np.where(np.arange(x.size).reshape(shape) == 11, dense, 0).astype(dtype)):
            found, before = both(norm, x, dy), dict(norm.grads)
            monkeypatch.setattr(subnormals.mode, "alone", True)
            for a, b in zip(found, both(alone, x, dy), strict=True):
                check.same_bits(a, b)
            monkeypatch.setattr(subnormals.mode, "alone", False)
            with nz.use("reference"):
                expected = both(exact, x.astype(np.float64), dy.astype(np.float64))
            near = check.FORWARD32 if dtype == np.float32 else 1e-11
            check.close(found[0], expected[0], near, max(1.0, float(np.abs(expected[0]).max())))
            check.close(found[1], expected[1], 10 * near, float(np.abs(expected[1]).max()))
            for name, g in before.items():
                check.close(g, exact.grads[name], 10 * near, float(np.abs(exact.grads[name]).max()))
        check.close(norm.buffers[norm.matrix], exact.buffers[norm.matrix], 1e-6 if dtype == np.float32 else 1e-11)

    @pytest.mark.parametrize("means", ["near", "far", "both"])
    @pytest.mark.parametrize(
        ("make", "shape"),
        [
            (lambda **o: nz.GroupWhitening(12, 4, **o), (5, 12, 5, 9)),
            (lambda **o: nz.GroupWhitening(6, 3, None, 1e-3, bias=False, **o), (3, 6, 131)),
            (lambda **o: nz.GroupWhitening(8, 4, channel_axis=-1, **o), (3, 41, 8)),
            (lambda **o: nz.GroupWhitening(5, 1, affine=False, **o), (1, 5, 70)),
            (lambda **o: nz.IterNorm(6, 2, **o), (7, 6, 5, 9)),
            (lambda **o: nz.DecorrelatedBatchNorm(9, 3, **o), (5, 9, 33)),
        ],
        ids=["maps", "zca", "last", "one", "iter_norm", "decorrelated_batch_norm"],
    )
    @pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
    def test_sets_near_zero_and_far_from_it_are_the_definition(self, make, shape, means, dtype, rng, monkeypatch):
        """Those in float32 as they are, those in float64, and both in one batch; dense and concentrated gradients."""
        monkeypatch.setattr(tiles, "VALUES", 150)
        monkeypatch.setattr(tiles, "FEW", 0)
        norm = make(dtype=np.float64 if dtype == np.float64 else np.float32)
        for a in norm.params.values():
            a[...] = rng.standard_normal(a.shape)
        x = rng.standard_normal(shape)
        sets = x.reshape(shape[0], -1) if isinstance(norm, nz.GroupWhitening) else np.moveaxis(x, 1, 0)
        sets = sets if isinstance(norm, nz.GroupWhitening) else sets.reshape(norm.num_groups, norm.num_channels, -1)
        away = {"near": 0.0, "far": 100.0, "both": 100.0 * (np.arange(len(sets)) % 2)}[means]
        shift = np.broadcast_to(away, len(sets))
        if isinstance(norm, nz.GroupWhitening):
            x += shift.reshape(-1, *(1 for _ in shape[1:]))
        else:
            x += np.repeat(shift, norm.num_channels).reshape(1, -1, *(1 for _ in shape[2:]))
        x = x.astype(dtype)
        alone, exact = copy.deepcopy(norm), make(dtype=np.float64)
        exact.load_state_dict({n: a.astype(a.dtype if a.dtype.kind == "i" else np.float64) for n, a in norm.state_dict().items()})  # fmt: skip
        dense = rng.standard_normal(shape).astype(dtype)
        rounding = 2.0**-10 if dtype == np.float16 else 0.0
        near = 1e-11 if dtype == np.float64 else check.FORWARD32
        for dy in (dense, np.where(np.arange(x.size).reshape(shape) == 11, dense, 0).astype(dtype)):
            found, grads = both(norm, x, dy), dict(norm.grads)
            assert type(norm.saved).__name__ == "WholeSaved", "the definition computed it"
            monkeypatch.setattr(subnormals.mode, "alone", True)
            for a, b in zip(found, both(alone, x, dy), strict=True):
                check.same_bits(a, b)
            monkeypatch.setattr(subnormals.mode, "alone", False)
            with nz.use("reference"):
                expected = both(exact, x.astype(np.float64), dy.astype(np.float64))
            check.close(found[0], expected[0], near + rounding, max(1.0, float(np.abs(expected[0]).max())))
            check.close(found[1], expected[1], 10 * near + rounding, float(np.abs(expected[1]).max()))
            for name, g in grads.items():
                scale = max(float(np.abs(exact.grads[name]).max()), float(np.abs(dy.astype(np.float64)).sum()) / x.size)
                check.close(g, exact.grads[name], 10 * near, scale)

    @pytest.mark.parametrize("away", [0.0, 1e3, 1e4, 1e6])
    def test_digits_are_kept_however_far_from_zero(self, away, rng):
        x = (away + rng.standard_normal((2, 6, 300))).astype(np.float32)
        for norm in (nz.GroupWhitening(6, 3), nz.IterNorm(6, 2), nz.DecorrelatedBatchNorm(6, 3)):
            twin = copy.deepcopy(norm)
            y = norm(x)
            with nz.use("reference"):
                expected = twin(x.astype(np.float64))
            check.close(y, expected, check.FORWARD32, max(1.0, float(np.abs(expected).max())))

    def test_float32_is_left_where_variables_nearly_depend(self, rng, monkeypatch):
        """Each tile is multiplied as float64 where float32 would lose digits, and as it is elsewhere."""
        used = []
        for kind in (tiles.Wide, tiles.Narrow):
            made = kind.__init__
            monkeypatch.setattr(
                kind, "__init__", lambda own, *a, made=made: used.append(type(own).__name__) or made(own, *a)
            )
        x = rng.standard_normal((2, 8, 400)).astype(np.float32)
        x[1, 4:] = x[1, :4] + 1e-3 * x[1, 4:]
        norm = nz.GroupWhitening(8, 2, T=None)
        y = norm(x)
        assert used == ["Narrow", "Narrow", "Wide", "Narrow", "Wide"]  # covariances of all, of each kind, products
        with nz.use("reference"):
            expected = norm(x.astype(np.float64))
        check.close(y, expected, check.FORWARD32, float(np.abs(expected).max()))

    def test_a_constant_set_gives_the_bias(self, rng):
        x = np.broadcast_to(np.float32([0.1, -7.3, 1e4, 0])[:, None], (3, 4, 50)).copy()
        for norm in (nz.GroupWhitening(4, 4), nz.IterNorm(4), nz.DecorrelatedBatchNorm(4, 2)):
            check.same_bits(norm(x), np.zeros_like(x))
            norm.bias[...] = rng.standard_normal(4)
            check.same_bits(norm(x), np.broadcast_to(norm.bias[:, None], x.shape))

    def test_groups_have_one_size(self):
        for make in (
            lambda: nz.DecorrelatedBatchNorm(20, 16),
            lambda: nz.IterNorm(6, 4),
            lambda: nz.IterNorm(6, num_channels=4),
            lambda: nz.GroupWhitening(6, 4),
        ):
            with pytest.raises(ValueError, match="divide|one size"):
                make()
        assert nz.DecorrelatedBatchNorm(6).num_groups == 1
        with pytest.raises(ValueError, match="eps > 0"):
            nz.GroupWhitening(6, 3, eps=0.0)
        with pytest.raises(ValueError, match="more than 1 value per group"):
            nz.GroupWhitening(6, 6)(np.ones((2, 6)))
