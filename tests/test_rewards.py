"""Observations and targets of reinforcement learning: ObservationNorm and PopArt beyond their rows in the zoo."""

import copy
import itertools
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest

import normzoo as nz
from tests import check


class RunningMeanStd:
    """As gymnasium and Stable-Baselines3 have it: float64, 1e-4 values of mean 0 and variance 1 first."""

    def __init__(self, shape):
        self.mean, self.var, self.count = np.zeros(shape), np.ones(shape), 1e-4

    def update(self, x):
        x = x.astype(np.float64)
        mean, var, count = x.mean(axis=0), x.var(axis=0), len(x)
        delta, total = mean - self.mean, self.count + count
        m2 = self.var * self.count + var * count + delta**2 * self.count * count / total
        self.mean, self.var, self.count = self.mean + delta * count / total, m2 / total, total


@pytest.mark.parametrize("clip", [10.0, 0.7, None])
def test_steps_of_environments_are_those_of_vec_normalize(clip, rng):
    norm, theirs = nz.ObservationNorm(5, clip=clip), RunningMeanStd(5)
    for _ in range(40):
        x = (3 + 2 * rng.standard_normal((8, 5))).astype(np.float32)
        theirs.update(x)
        expected = (x - theirs.mean) / np.sqrt(theirs.var + 1e-8)
        y = norm(x)
        assert y.dtype == np.float32
        check.close(y, expected if clip is None else np.clip(expected, -clip, clip), 1e-6)
    assert int(norm.count) == 320
    norm.eval()
    y = norm(x)
    check.same_bits(norm(x), y)
    assert int(norm.count) == 320, "frozen"
    check.close(norm.inverse((x - theirs.mean) / np.sqrt(theirs.var + 1e-8)), x, 1e-6)
    norm.train()(x)
    assert int(norm.count) == 328


def steps_of(norm, batches):
    ys = [norm(x) for x in batches]
    return ys, norm.eval()(batches[-1]), norm.state_dict()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize(
    ("features", "options"),
    [(1, {}), (17, {"clip": None}), (16, {"with_mean": False}), (33, {"prior": 0.0, "eps": 1e-3})],
    ids=str,
)
def test_steps_in_compiled_code_are_those_of_stats(features, options, dtype, rng):
    """From the second step on; far from zero, with a feature of equal values and with one that was equal until then."""
    kind = np.dtype(getattr(ml_dtypes, dtype, None) or dtype)
    far = 1e6 if kind.itemsize > 2 else 8.0
    batches = [far + rng.standard_normal((*lead, features)) for lead in ((6,), (1,), (3, 2), (), (6,))]
    for a in batches[:3]:
        a[..., features // 2] = far
    for a in batches:
        a[..., 0] = 3
    batches = [a.astype(kind) for a in batches]
    found = steps_of(nz.ObservationNorm(features, **options), batches)
    with nz.use("reference"):
        expected = steps_of(nz.ObservationNorm(features, **options), batches)
    size = 1 if "clip" not in options and options.get("with_mean", True) else np.abs(expected[0][0].astype(float)).max()
    for a, e in zip([*found[0], found[1]], [*expected[0], expected[1]], strict=True):
        assert a.dtype == kind
        check.close(
            a.astype(float),
            e.astype(float),
            1e-9 if kind.itemsize == 8 else 4 * float(ml_dtypes.finfo(kind).eps),
            max(size, 1),
        )
    assert int(found[2]["count"]) == int(expected[2]["count"]) == 6 + 1 + 6 + 1 + 6
    check.close(found[2]["mean"], expected[2]["mean"], 1e-15, far)
    check.close(found[2]["m2"], expected[2]["m2"], 1e-9, float(expected[2]["m2"].max()) + 1e-300)
    assert found[2]["m2"][0] == 0 and (found[2]["unit"] == 1).all()


@pytest.mark.parametrize("size", [1e200, 1e-200, np.nan, np.inf])
def test_steps_beyond_the_range_of_squares_are_those_of_stats(size, rng):
    batches = [rng.standard_normal((4, 3)) for _ in range(4)]
    batches[2][:, 1] *= size
    options = {"clip": None, "prior": 0.0, "eps": 0.0}
    with np.errstate(all="ignore"):
        found = steps_of(nz.ObservationNorm(3, **options), batches)
        with nz.use("reference"):
            expected = steps_of(nz.ObservationNorm(3, **options), batches)
    for a, e in zip([*found[0], found[1]], [*expected[0], expected[1]], strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-12, atol=1e-12)
    for name in ("mean", "m2", "unit"):
        np.testing.assert_allclose(found[2][name], expected[2][name], rtol=1e-12)


def test_steps_of_any_layout(rng):
    norm, other = nz.ObservationNorm(3), nz.ObservationNorm(3, channel_axis=1)
    x = rng.standard_normal((5, 2, 4, 3))
    for a in x:
        wide = np.empty((2, 8, 6))
        wide[:, ::2, ::2] = a
        swapped = a.astype(">f8")
        a.flags.writeable = False
        y = norm(a)
        check.close(other(np.moveaxis(a, -1, 1)), np.moveaxis(y, -1, 1), 1e-12)
        check.close(norm.eval()(wide[:, ::2, ::2]), norm(swapped), 1e-12)
        norm.train()
    check.close(other.var, norm.var, 1e-12)
    assert int(norm.count) == int(other.count) == 40


def test_steps_of_threads_are_all_counted(rng):
    norm, x = nz.ObservationNorm(5), rng.standard_normal((4, 500, 3, 5))
    norm(x[0, 0])

    def work(batches):
        for batch in batches:
            norm(batch)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, x))
    assert int(norm.count) == 4 * 500 * 3 + 3
    everything = np.concatenate([x.reshape(-1, 5), x[0, 0]])
    check.close(norm.mean, everything.mean(axis=0), 1e-12, 1.0)
    check.close(norm.var, everything.var(axis=0), 1e-12)


def test_rewards_are_scaled_as_by_vec_normalize(rng):
    """By the deviation of discounted returns, which begin anew where an episode ends."""
    scale, theirs = nz.ObservationNorm(1, with_mean=False).eval(), RunningMeanStd(())
    returns = np.zeros(8)
    for _ in range(50):
        rewards, done = 4 + rng.standard_normal(8), rng.random(8) < 0.1
        returns = 0.99 * returns + rewards
        scale.update(returns[:, None])
        theirs.update(returns)
        expected = np.clip(rewards / np.sqrt(theirs.var + 1e-8), -10, 10)
        check.close(scale(rewards[:, None])[:, 0], expected, 1e-12)
        returns[done] = 0
    check.close(scale.inverse(scale(rewards[:, None])), rewards[:, None], 1e-12)


def test_one_observation_and_none(rng):
    norm = nz.ObservationNorm(3)
    x = rng.standard_normal(3)
    check.close(norm.eval()(x), x / np.sqrt(1 + 1e-8), 1e-12)  # the prior alone
    norm.train()(x)
    assert int(norm.count) == 1
    norm(np.empty((0, 3)))
    assert int(norm.count) == 1
    with pytest.raises(RuntimeError, match=r"more than 0 values of a feature .* got 0"):
        nz.ObservationNorm(3, prior=0.0).eval()(x)


def test_any_tree_of_merges_is_all_at_once(rng):
    x = 1e6 + rng.standard_normal((7, 11, 4))
    whole = nz.ObservationNorm(4)
    whole(x)
    for order in itertools.islice(itertools.permutations(range(7)), 0, 5040, 617):
        parts = []
        for i in order:
            parts.append(nz.ObservationNorm(4))
            parts[-1](x[i])
        while len(parts) > 1:
            one = parts.pop(int(rng.integers(len(parts))))
            assert parts[int(rng.integers(len(parts)))].merge(one) is not one
        assert int(parts[0].count) == 77
        check.close(parts[0].mean, whole.mean, 1e-15, 1e6)
        check.close(parts[0].var, whole.var, 1e-9)
        check.close(parts[0].eval()(x[0]), copy.deepcopy(whole).eval()(x[0]), 1e-8)
    with pytest.raises(TypeError, match=r"same statistics to merge, got Stats; write norm.update\(batch\)"):
        whole.merge(whole.stats)
    with pytest.raises(ValueError, match="norm of 4 features to merge, got ObservationNorm"):
        whole.merge(nz.ObservationNorm(3))


def test_state_goes_through_files(tmp_path, rng):
    norm = nz.ObservationNorm(4)
    norm(rng.standard_normal((9, 4)))
    nz.save(tmp_path / "observations.npz", norm)
    other = nz.ObservationNorm(4)
    nz.load(tmp_path / "observations.npz", other)
    x = rng.standard_normal((9, 4))
    check.same_bits(other(x), norm(x))
    check.same_bits(other.m2, norm.m2)


def test_what_raises_changes_nothing(rng):
    norm, x = nz.ObservationNorm(4), rng.standard_normal((9, 4))
    norm(x)
    state = norm.state_dict()
    for call in (
        lambda: norm(x[:, :3]),
        lambda: norm(x, out=np.empty((8, 4))),
        lambda: norm(x, out=np.empty((9, 4), np.float32)),
        lambda: norm(x.astype(int)),
    ):
        with pytest.raises((ValueError, TypeError), match="expected"):
            call()
    norm.buffers["m2"].flags.writeable = False
    out = np.zeros((9, 4))
    with pytest.raises(ValueError, match="statistics that can be written"):
        norm(x, out=out)
    assert not out.any()
    for name, value in state.items():
        check.same_bits(norm.buffers[name], value)


def test_clipped_values_have_no_gradient(rng):
    norm = nz.ObservationNorm(2, clip=0.5).eval()
    x, dy = np.array([[0.2, 3.0], [-0.7, -0.1]]), rng.standard_normal((2, 2))
    assert (np.abs(norm(x)) <= 0.5).all()
    check.close(norm.backward(dy), dy * [[1, 0], [0, 1]] / np.sqrt(1 + 1e-8), 1e-12)
    assert np.isnan(norm(np.full((1, 2), np.nan))).all()


@pytest.mark.parametrize("momentum", [None, 1e-3, 0.3, 1.0])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_pop_art_keeps_outputs(momentum, dtype, rng):
    """Targets that grow by nine orders of magnitude, far from 0."""
    norm = nz.PopArt(3, momentum)
    weight, bias = rng.standard_normal((3, 16)).astype(dtype), rng.standard_normal(3).astype(dtype)
    h = rng.standard_normal((50, 16))
    exact = dtype is np.float64
    for i in range(-2, 7):
        before = norm.inverse(h @ weight.T.astype(np.float64) + bias)
        shape = norm.std
        norm.update(10.0**i * (3 + rng.standard_normal((20, 3))), weight, bias)
        after = norm.inverse(h @ weight.T.astype(np.float64) + bias)
        size = np.abs(before).max() + np.abs(norm.mean).max() + norm.std.max()
        check.close(after, before, 1e-14 if exact else 1e-6, size)
        assert (norm.std != shape).all()


def test_pop_art_has_the_statistics_of_the_paper(rng):
    """van Hasselt et al. 2016: first and second moments, moved by beta_t."""
    beta, norm = 0.05, nz.PopArt(2, 0.05)
    mean, square = np.zeros(2), np.ones(2)
    for t in range(1, 30):
        y = 2 + rng.standard_normal((9, 2))
        step = beta / (1 - (1 - beta) ** t)
        mean, square = (1 - step) * mean + step * y.mean(axis=0), (1 - step) * square + step * (y**2).mean(axis=0)
        norm.update(y)
        check.close(norm.mean, mean, 1e-13)
        check.close(norm.std, np.sqrt(square - mean**2), 1e-12)
    everything = nz.PopArt(2, None)
    targets = 1e6 + rng.standard_normal((30, 9, 2))
    for y in targets:
        everything.update(y)
    check.close(everything.std, targets.std(axis=(0, 1)), 1e-9)


def test_pop_art_in_bounds_and_without_values(rng):
    norm, weight, bias = nz.PopArt(2, 1.0), np.ones((2, 3)), np.zeros(2)
    norm.update(np.array([[5.0, 0.0], [5.0, 1e9]]), weight, bias)
    np.testing.assert_array_equal(norm.std, [1e-4, 1e6])
    kept, state = (weight.copy(), bias.copy()), norm.state_dict()
    norm.update(np.empty((0, 2)), weight, bias)
    check.same_bits(weight, kept[0])
    for call, error, said in (
        (lambda: norm.update(np.ones((3, 2)), weight), TypeError, "weight and bias of the layer together, got weight"),
        (
            lambda: norm.update(np.ones((3, 2)), weight.T.copy(), bias),
            ValueError,
            r"\(2, ...\), got \(3, 2\); write weight.T",
        ),
        (lambda: norm.update(np.ones((3, 2)), weight, np.zeros(3)), ValueError, r"bias of shape \(2,\), got \(3,\)"),
        (lambda: norm.update(np.ones((3, 4)), weight, bias), ValueError, r"\(N, ..., 2\), got \(3, 4\)"),
        (lambda: norm.update(np.ones((3, 2), int), weight, bias), TypeError, "targets"),
        (lambda: nz.PopArt(2, min_std=2.0, max_std=1.0), ValueError, "0 < min_std <= max_std, got 2.0 and 1.0"),
        (lambda: nz.PopArt(2, 1.5), ValueError, "momentum"),
    ):
        with pytest.raises(error, match=said):
            call()
    bias.flags.writeable = False
    with pytest.raises(ValueError, match="bias that can be written, got a read-only array"):
        norm.update(np.ones((3, 2)), weight, bias)
    check.same_bits(weight, kept[0])
    for name, value in state.items():
        check.same_bits(norm.buffers[name], value)
