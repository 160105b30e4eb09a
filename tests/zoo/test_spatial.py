"""What is special about the spatial norms, those without statistics, and the standardization of a data set."""

import copy
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import normzoo as nz
from normzoo.statistics.stats import Stats
from tests import check


def random(rng, *shape):
    return rng.standard_normal(shape)


def both(norm, x, dy):
    """(y, dx) of a norm."""
    return norm(x), norm.backward(dy)


def same(one, other, x, rng, tolerance=check.EXACT):
    """Two norms are one, by the definition; test_zoo has the kernels."""
    dy = random(rng, *x.shape)
    with nz.use("reference"):
        for a, b in zip(both(one, x, dy), both(other, x, dy), strict=True):
            check.close(a, b, tolerance)


def model(x, *node, **attributes):
    """An ONNX model of one node, from x to y of its shape."""
    onnx = pytest.importorskip("onnx")
    x, y = (onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, x.shape) for n in "xy")
    return onnx.helper.make_model(
        onnx.helper.make_graph([onnx.helper.make_node(*node, ["x"], ["y"], **attributes)], "one", [x], [y]),
        opset_imports=[onnx.helper.make_opsetid("", 18)],
        ir_version=8,
    )


# equivalences


def test_mean_variance_norm_is_layer_norm_instance_norm_and_batch_norm_without_parameters(rng):
    x = 1e3 + random(rng, 3, 5, 4, 7)
    same(nz.MeanVarianceNorm((1, 2, 3), 1e-5), nz.LayerNorm((5, 4, 7), dtype=np.float64), x, rng, 1e-11)
    same(nz.MeanVarianceNorm((2, 3), 1e-5), nz.InstanceNorm(5), x, rng, 1e-11)
    same(nz.MeanVarianceNorm(eps=1e-5), nz.BatchNorm(5, affine=False), x, rng, 1e-11)
    assert not nz.MeanVarianceNorm()(np.full((2, 3, 4, 5), 0.1)).any(), "a constant set gives 0"


def test_pixel_norm_is_rms_norm_over_the_channels(rng):
    x = random(rng, 3, 5, 4, 7)
    same(nz.PixelNorm(), nz.RMSNorm(5, 1e-8, axis=1), x, rng)
    same(nz.PixelNorm(channel_axis=-1), nz.RMSNorm(7, 1e-8), x, rng)


def test_filter_response_norm_at_one_position_with_eps_1_is_a_soft_sign(rng):
    x = random(rng, 4, 6)
    norm = nz.FilterResponseNorm(6, 1.0, tlu=False)
    check.close(norm(x), x / np.sqrt(x * x + 1), check.EXACT)
    norm = nz.FilterResponseNorm(6)
    check.close(norm(x), np.maximum(np.sign(x), 0), 1e-3)


def test_filter_response_norm_learns_the_magnitude_of_eps_and_the_threshold(rng):
    x, dy = random(rng, 2, 3, 7), random(rng, 2, 3, 7)
    norm = nz.FilterResponseNorm(3, 1e-2, True, dtype=np.float64)
    assert norm.eps_l[0] == 1e-4
    y, dx = both(norm, x, dy)
    fixed = nz.FilterResponseNorm(3, 1e-2 + 1e-4, dtype=np.float64)
    check.close(y, fixed(x), check.EXACT)
    check.close(dx, fixed.backward(dy), check.EXACT)
    up = norm.grads["eps_l"].copy()
    norm.eps_l[:] = -1e-4
    check.same_bits(norm(x), y)
    norm.backward(dy)
    check.same_bits(norm.grads["eps_l"], -up)
    check.close(norm.grads["tau"], np.where(y == 0, dy, 0).sum(axis=(0, 2)), check.EXACT)


def test_global_response_norm_begins_as_the_identity(rng):
    x, dy = random(rng, 2, 3, 5, 4), random(rng, 2, 3, 5, 4)
    y, dx = both(nz.GlobalResponseNorm(3), x, dy)
    check.same_bits(y, x)
    check.same_bits(dx, dy)


def test_layer_scale_of_1_is_the_identity(rng):
    x, dy = random(rng, 3, 5, 7), random(rng, 3, 5, 7)
    y, dx = both(nz.LayerScale(7, 1.0), x, dy)
    check.same_bits(y, x)
    check.same_bits(dx, dy)
    assert (nz.LayerScale(7).weight == np.float32(1e-5)).all()


def test_rezero_begins_as_the_identity_and_needs_a_branch_of_x(rng):
    x, branch, dy = (random(rng, 3, 5) for _ in range(3))
    norm = nz.ReZero()
    check.same_bits(norm(x, branch), x)
    check.same_bits(norm.backward(dy), dy)
    assert not norm.grads["branch"].any()
    with pytest.raises(ValueError, match=r"ReZero\(0.0\): expected branch of x's shape \(3, 5\), got \(5,\)"):
        norm(x, branch[0])


def test_divisive_norm_with_windows_that_hold_all_is_layer_norm(rng):
    x = random(rng, 2, 3, 5, 4)
    same(nz.DivisiveNorm(3, 99, 99, 1e-2, affine=False), nz.LayerNorm((3, 5, 4), 1e-2, False), x, rng)


def test_local_contrast_norm_divides_quiet_places_by_the_mean_deviation(rng):
    x = random(rng, 1, 1, 40)
    x[..., :20] *= 1e-3
    y = nz.LocalContrastNorm(5)(x)
    assert np.abs(y[..., :15]).max() < 0.1 < np.abs(y[..., 25:]).max()
    norm = nz.LocalContrastNorm()
    check.same_bits(norm(np.full((2, 3, 9, 9), 0.1)), np.zeros((2, 3, 9, 9)))
    check.same_bits(norm.backward(random(rng, 2, 3, 9, 9)), np.zeros((2, 3, 9, 9)))


def test_evo_norm_s0_with_a_large_v_is_a_relu_by_the_deviation(rng):
    x = random(rng, 2, 4, 5)
    norm = nz.EvoNormS0(4, 2, dtype=np.float64)
    norm.v[:] = 1e6
    deviation = np.sqrt(x.reshape(2, 2, -1).var(axis=2) + 1e-5).repeat(2, axis=1)[..., None]
    check.close(norm(x), np.maximum(x, 0) / deviation, 1e-6)


# local response normalization


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 12])
def test_local_response_norm_is_the_function_and_torchs_layer(size, rng):
    x, dy = random(rng, 2, 7, 3, 5), random(rng, 2, 7, 3, 5)
    y, dx = both(nz.LocalResponseNorm(size, 0.5, 0.7, 2.0), x, dy)
    expected, saved = nz.functional.local_response_norm(x, size, 0.5, 0.7, 2.0, return_saved=True)
    check.same_bits(y, expected)
    check.same_bits(dx, saved.backward(dy).x)
    torch = pytest.importorskip("torch")
    check.close(y, torch.nn.LocalResponseNorm(size, 0.5, 0.7, 2.0)(torch.from_numpy(x)).numpy(), check.EXACT)


def test_local_response_norm_in_place_does_not_need_x_again(rng):
    x, dy = random(rng, 2, 3, 5), random(rng, 2, 3, 5)
    _, saved = nz.functional.local_response_norm(x, 3, 0.5, channel_axis=-1, return_saved=True)
    expected = saved.backward(dy).x
    _, saved = nz.functional.local_response_norm(x, 3, 0.5, channel_axis=-1, return_saved=True, out=x)
    check.same_bits(saved.backward(dy).x, expected)


def test_local_response_norm_is_onnx_runtimes(rng):
    """At an odd size: it refuses even ones, and the evaluator of onnx 1.23 takes its window along the batch."""
    x = random(rng, 1, 7, 1, 2).astype(np.float32)
    onnxruntime = pytest.importorskip("onnxruntime")
    lrn = model(x, "LRN", size=3, alpha=0.5, beta=0.7, bias=2.0)
    session = onnxruntime.InferenceSession(lrn.SerializeToString())
    check.close(nz.LocalResponseNorm(3, 0.5, 0.7, 2.0, even="after")(x), session.run(None, {"x": x})[0], 1e-6)


@pytest.mark.parametrize(("even", "windows_that_hold_3"), [("before", [2, 3, 4, 5]), ("after", [1, 2, 3, 4])])
def test_local_response_norm_has_torchs_or_onnxs_window_at_even_sizes(even, windows_that_hold_3):
    x = np.full((1, 7, 1), 1e-9)
    x[0, 3] = 1
    y = nz.LocalResponseNorm(4, 4.0, 1.0, even=even)(x)
    assert np.flatnonzero(y / x < 0.75).tolist() == windows_that_hold_3


def test_mean_variance_norm_is_onnxs(rng):
    x = random(rng, 2, 3, 4, 5).astype(np.float32)
    evaluator = pytest.importorskip("onnx.reference").ReferenceEvaluator
    mvn = model(x, "MeanVarianceNormalization", axes=[0, 2, 3])
    check.close(nz.MeanVarianceNorm()(x), evaluator(mvn).run(None, {"x": x})[0], 1e-5)


# running statistics


@pytest.mark.parametrize("momentum", [0.1, None])
def test_evo_norm_b0_tracks_the_unbiased_variance_like_batch_norm(momentum, rng):
    norm = nz.EvoNormB0(3, momentum=momentum, dtype=np.float64)
    batch = nz.BatchNorm(3, momentum=momentum, dtype=np.float64)
    for _ in range(3):
        x = random(rng, 4, 3, 5)
        norm(x)
        batch(x)
    check.close(norm.running_var, batch.running_var, check.EXACT)
    assert norm.num_batches_tracked == 3
    before = norm.running_var.copy()
    norm.eval()(x)
    check.same_bits(norm.running_var, before)
    assert norm.num_batches_tracked == 3


def test_evo_norm_b0_needs_more_than_one_value_and_changes_nothing_without(rng):
    norm = nz.EvoNormB0(3)
    with pytest.raises(ValueError, match=r"EvoNormB0\(3\): expected more than 1 value per channel"):
        norm(random(rng, 1, 3))
    with pytest.raises(ValueError, match="out"):
        norm(random(rng, 2, 3, 4), out=np.empty((2, 3)))
    assert norm.num_batches_tracked == 0
    assert (norm.running_var == 1).all()
    norm.eval()(random(rng, 1, 3))
    norm.train()(np.empty((0, 3, 4), np.float32))
    assert norm.num_batches_tracked == 1
    assert (norm.running_var == 1).all()


# sequences


@pytest.mark.parametrize("channel_axis", [1, -1])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cumulative_layer_norm_in_steps_has_the_bits_of_the_sequence(channel_axis, dtype, rng):
    x = (1e4 + 0.1 * random(rng, 3, 5, 2, 21)).astype(dtype)
    if channel_axis == -1:
        x = np.ascontiguousarray(np.swapaxes(x, 1, -1))
    norm = nz.CumulativeLayerNorm(5, channel_axis=channel_axis, dtype=dtype)
    norm.weight[:], norm.bias[:] = random(rng, 2, 5)
    y, past = norm(x), None
    time = -1 if channel_axis == 1 else 1
    for t in range(21):
        step, past = norm.step(np.take(x, t, axis=time), past)
        check.same_bits(step, np.take(y, t, axis=time))
    assert past.steps == 21
    shorter = norm(np.take(x, range(9), axis=time))
    check.same_bits(shorter, np.take(y, range(9), axis=time))


def test_cumulative_layer_norms_last_step_is_layer_norm_over_all(rng):
    x, dy = random(rng, 2, 5, 17), np.zeros((2, 5, 17))
    dy[..., -1] = random(rng, 2, 5)
    (y, dx), (all_y, all_dx) = (
        both(norm, x, dy) for norm in (nz.CumulativeLayerNorm(5), nz.LayerNorm((5, 17), 1e-8, False))
    )
    check.close(y[..., -1], all_y[..., -1], check.EXACT)
    check.close(dx, all_dx, check.EXACT)


def test_cumulative_layer_norm_does_not_lose_digits_after_an_outlier(rng):
    x = 1e4 + 0.1 * random(rng, 1, 4, 300)
    x[0, 0, 0] = -1e6
    norm, exact = nz.CumulativeLayerNorm(4), nz.LayerNorm((4, 300), 1e-8, False)
    check.close(norm(x)[..., -1], exact(x)[..., -1], 1e-10)


def test_cumulative_layer_norm_refuses_another_past(rng):
    norm = nz.CumulativeLayerNorm(3)
    _, past = norm.step(random(rng, 2, 3))
    with pytest.raises(ValueError, match="expected x of 2 samples"):
        norm.step(random(rng, 4, 3), past)
    with pytest.raises(TypeError, match="past"):
        norm.step(random(rng, 2, 3), (1, 2))
    with pytest.raises(ValueError, match=r"\(N, 3, ...\)"):
        norm.step(random(rng, 2, 4), past)
    with pytest.raises(ValueError, match="1 or -1"):
        nz.CumulativeLayerNorm(3, channel_axis=2)


@pytest.mark.parametrize("subtract_last", [False, True])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("channel_axis", [1, -1])
def test_revin_gives_back_what_it_took(subtract_last, affine, channel_axis, rng):
    norm = nz.RevIN(3, 1e-5, affine, subtract_last, channel_axis=channel_axis, dtype=np.float64)
    for p in norm.params.values():
        p[...] = random(rng, 3)
    x = 50 + random(rng, 2, 9, 3)
    if channel_axis == 1:
        x = np.ascontiguousarray(np.swapaxes(x, 1, 2))
    check.close(norm.inverse(norm(x)), x, 1e-8)  # eps^2 stands beside the weight
    longer = norm.inverse(np.concatenate([norm(x)] * 2, axis=1 if channel_axis == -1 else 2))
    check.close(
        longer[:, :, :3] if channel_axis == 1 else longer[:, :3], x[:, :, :3] if channel_axis == 1 else x[:, :3], 1e-8
    )


@pytest.mark.parametrize("subtract_last", [False, True])
@pytest.mark.parametrize("detach", [False, True])
def test_revins_gradient_through_model_and_inverse(subtract_last, detach, rng):
    """z = inverse(model(norm(x))) with a model that mixes time steps, against differences of the formula."""
    norm = nz.RevIN(3, 1e-2, True, subtract_last, detach=detach, dtype=np.float64)
    norm.weight[:], norm.bias[:] = 1 + rng.random(3), random(rng, 3)
    x, mix, dz = random(rng, 2, 9, 3), random(rng, 4, 9), random(rng, 2, 4, 3)
    norm.inverse(np.einsum("st,ntc->nsc", mix, norm(x)))
    back = norm.saved_inverse.backward(dz)
    dx = norm.backward(np.einsum("st,nsc->ntc", mix, back.x)) + back.source
    dweight, dbias = norm.grads["weight"] + back.weight, norm.grads["bias"] + back.bias

    def function(v, weight=norm.weight, bias=norm.bias):
        held = x if detach else v
        mean = held.mean(axis=1, keepdims=True)
        std = np.sqrt(((held - mean) ** 2).mean(axis=1, keepdims=True) + 1e-2)
        center = held[:, -1:] if subtract_last else mean
        f = np.einsum("st,ntc->nsc", mix, (v - center) / std * weight + bias)
        return (f - bias) / (weight + 1e-4) * std + center

    check.gradient_matches(function, x, dx, dz, rng, 1e-10)
    check.gradient_matches(lambda w: function(x, weight=w), norm.weight, dweight, dz, rng, 1e-10)
    check.gradient_matches(lambda b: function(x, bias=b), norm.bias, dbias, dz, rng, 1e-10)


@pytest.mark.parametrize("weight", [0.0, 1e-3, -0.7])
@pytest.mark.parametrize("eps", [1e-2, 0.5])
def test_revins_inverse_divides_by_the_weight_and_the_square_of_eps(eps, weight, rng):
    """The authors' code has eps * eps beside the weight, and eps beside the variance."""
    norm = nz.RevIN(3, eps, dtype=np.float64)
    norm.weight[:], norm.bias[:] = weight, random(rng, 3)
    x, f, dz = 5 + random(rng, 2, 9, 3), random(rng, 2, 4, 3), random(rng, 2, 4, 3)
    norm(x)
    std = np.sqrt(x.var(axis=1, keepdims=True) + eps)
    expected = (f - norm.bias) / (weight + eps * eps) * std + x.mean(axis=1, keepdims=True)
    check.close(norm.inverse(f), expected, 1e-12)
    check.close(norm.saved_inverse.backward(dz).x, dz * std / (weight + eps * eps), 1e-12)


def test_revin_inverse_says_what_is_missing(rng):
    norm, x = nz.RevIN(3), random(rng, 2, 9, 3)
    with pytest.raises(RuntimeError, match="y = norm"):
        norm.inverse(x)
    norm(x)
    for bad, error, match in (
        (x[:1], ValueError, "expected f of 2 series"),
        (x[..., :2], ValueError, "3"),
        (x[0], ValueError, "rank 3"),
        (x.tolist(), TypeError, "f to be a NumPy array"),
    ):
        with pytest.raises(error, match=match):
            norm.inverse(bad)
    with pytest.raises(ValueError, match="rank 3"):
        norm(x[:, None])
    assert norm.saved_inverse is None
    out = x.astype(np.float32)
    assert norm.inverse(out, out=out) is out


# a data set


@pytest.mark.parametrize("cuts", [[], [1, 2, 40], [0, 0, 99]])
def test_standardize_over_batches_is_standardize_over_all(cuts, rng):
    x = 1e3 + random(rng, 100, 3)
    whole, parts = nz.Standardize(3), nz.Standardize(3)
    whole.adapt(x)
    parts.adapt(np.split(x, cuts))
    check.close(parts.mean, x.mean(axis=0), 1e-15)
    check.close(parts.var, whole.var, check.EXACT)
    check.close(parts(x), whole(x), check.EXACT)
    assert parts.count == 100
    scaler = pytest.importorskip("sklearn.preprocessing").StandardScaler().fit(x)
    check.close(parts.transform(x), scaler.transform(x), 1e-8)


def test_standardize_inverse_goes_back_with_its_gradient(rng):
    x, dx = 1e4 + 0.1 * random(rng, 30, 4, 3), random(rng, 30, 4, 3)
    norm = nz.Standardize(3, correction=1)
    norm.adapt(iter([x[:10], x[10:]]))
    y = norm(x)
    check.close(norm.inverse(y), x, check.EXACT)
    std = x.reshape(-1, 3).std(axis=0, ddof=1)
    check.close(norm.saved_inverse.backward(dx).x, dx * std, 1e-10)
    check.close(norm.backward(dx), dx / std, 1e-10, 1 / std.min())
    narrow = x.astype(np.float32)
    norm.adapt(narrow)
    expected = (narrow.astype(np.float64) - norm.mean) / np.sqrt(norm.var)
    check.close(norm(narrow), expected, check.FORWARD32, np.abs(expected).max())


def test_standardize_updates_and_forgets(rng):
    x = random(rng, 50, 3)
    norm, whole = nz.Standardize(3), nz.Standardize(3)
    norm.adapt(random(rng, 9, 3))
    norm.adapt(x[:20])
    norm.update(x[20:])
    whole.adapt(x)
    check.close(norm.m2, whole.m2, check.EXACT)
    before = norm.state_dict()
    with pytest.raises(ValueError, match=r"Standardize\(3\)"):
        norm.adapt([x, x[:, :2]])
    with pytest.raises(TypeError, match="batch"):
        norm.update(["1", "2", "3"])
    for name, a in before.items():
        check.same_bits(norm.state_dict()[name], a)
    with pytest.raises(TypeError, match="count to be an integer"):
        norm.load_state_dict(before | {"count": np.array(1.5)})


def test_standardize_adds_the_batches_of_threads_one_by_one(rng):
    """None is lost, and whoever uses the norm meanwhile divides by statistics of one moment."""
    batches = [np.repeat(a, 500, axis=1) for a in random(rng, 40, 3, 1)]
    norm, whole = nz.Standardize(500), nz.Standardize(500)
    norm.adapt(batches[0])
    whole.adapt(batches)
    seen, interval = [], sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(5) as pool:
            added = [pool.submit(norm.update, batch) for batch in batches[1:]]
            while not all(one.done() for one in added):
                seen.append((norm.stats, norm(batches[0])))
            for one in added:
                one.result()
    finally:
        sys.setswitchinterval(interval)
    assert norm.count == whole.count
    check.close(norm.mean, whole.mean, check.EXACT)
    check.close(norm.var, whole.var, check.EXACT)
    assert seen
    for stats, y in seen:
        assert (stats.mean == stats.mean[0]).all()
        assert (stats.m2 == stats.m2[0]).all()
        assert (y == y[:, :1]).all()


def test_standardize_whose_statistics_are_read_only_says_so():
    norm = nz.Standardize(2)
    norm.m2.flags.writeable = False
    for call in (norm.adapt, norm.update):
        with pytest.raises(ValueError, match=r"Standardize\(2\): expected statistics that can be written.*deepcopy"):
            call(np.ones((3, 2)))
    assert norm.count == 0
    copy.deepcopy(norm).update(np.ones((3, 2)))


def test_standardize_of_constant_features_and_without_data(rng):
    norm = nz.Standardize(2)
    with pytest.raises(RuntimeError, match="adapt"):
        norm(np.ones((1, 2), np.float32))
    unbiased = nz.Standardize(2, correction=1)
    unbiased.adapt(np.ones((1, 2), np.float32))
    with pytest.raises(RuntimeError, match="more than 1.0 values of a feature before it is used, got 1"):
        unbiased(np.ones((1, 2), np.float32))
    x = np.stack([np.full(70, 0.1), random(rng, 70)], axis=1)
    norm.adapt(np.split(x, [3, 10, 33]))
    y = norm(x)
    assert not y[:, 0].any()
    check.close(norm.inverse(y), x, check.EXACT)
    assert norm.saved is not None


def by_long_double(x):
    v = x.astype(np.longdouble)
    v = v - v.mean(axis=0)
    return v / np.sqrt((v * v).mean(axis=0))


@pytest.mark.parametrize(
    ("count", "mean", "std"), [(10**10, 1000, 1e-3), (10**10, 101325, 0.5), (3 * 10**10, 101325, 0.5), (7, 1e9, 1e-2)]
)
def test_standardize_by_a_spread_however_small_beside_the_mean(count, mean, std):
    """scikit-learn#19726: whether a feature is constant is no matter of how many values there were."""
    norm = nz.Standardize(1)
    m2 = np.array([count * std**2])
    norm.load_state_dict({"count": np.array(count), "mean": np.array([float(mean)]), "m2": m2})  # as once written
    x = np.array([[mean + std], [mean], [mean - std]])
    check.close(norm(x), [[1.0], [0.0], [-1.0]], 1e-4)
    check.close(norm.inverse(norm(x)), x, check.EXACT)


@pytest.mark.parametrize(
    ("mean", "std", "count", "tolerance"),
    [(1.7e9, 3, 200_000, 1e-6), (1e9, 0.01, 100_000, 1e-5), (101325, 0.5, 1000, 1e-9)],  # of x's own rounding
)
def test_standardize_of_readings_far_from_0(mean, std, count, tolerance, rng):
    x = mean + std * rng.standard_normal((count, 1))
    norm = nz.Standardize(1)
    norm.adapt(np.split(x, [10, count // 3]))
    check.close(norm(x), by_long_double(x), tolerance)


@pytest.mark.slow
def test_standardize_of_ten_million_time_stamps(rng):
    x = 1.7e9 + 3 * rng.standard_normal((10_000_000, 1))
    norm = nz.Standardize(1)
    norm.adapt(x)
    check.close(norm(x), by_long_double(x), 1e-6)


@pytest.mark.parametrize("size", [1e200, 1e-200, 1e307, 1e-306, 1.0])
@pytest.mark.parametrize("cuts", [[], [1], [2], [1, 2]])
def test_standardize_of_values_whose_squares_leave_the_range(size, cuts):
    x = np.array([[1.0, -3.0], [2.0, 0.5], [4.0, 0.25]]) * [size, 1]
    norm = nz.Standardize(2)
    norm.adapt(np.split(x, cuts))
    y = norm(x)
    check.close(y, by_long_double(np.array([[1.0, -3.0], [2.0, 0.5], [4.0, 0.25]])), check.EXACT)
    check.close(norm.inverse(y) / [size, 1], x / [size, 1], check.EXACT)
    again = nz.Standardize(2)
    again.load_state_dict(norm.state_dict())
    check.same_bits(again(x), y)


@pytest.mark.parametrize("value", [0.1, 1 / 3, -7.7, 123456.7, 1e9 + 0.1, 1e200, 1e-200])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1000, 2), (2**21 + 7, 1), (3, 70_001, 2)])
def test_standardize_of_a_constant_is_exactly_0(value, dtype, shape):
    """Without any threshold: the mean of equal values is that value."""
    with np.errstate(over="ignore", under="ignore"):
        x = np.full(shape, value, dtype)
    if not np.isfinite(x).all():
        pytest.skip("is no float32")
    norm = nz.Standardize(shape[-1])
    norm.adapt(np.array_split(x, [len(x) // 3, len(x) // 2]))
    assert not norm(x).any()
    check.same_bits(norm.inverse(norm(x)), x)
    assert not norm.m2.any()


def test_standardize_adapts_to_a_memory_map_in_blocks(tmp_path):
    """scikit-learn#5651: in less memory than the map's 50 MB, and to the same numbers."""
    x = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (12, 2**18, 4))
    x[:] = np.random.default_rng(0).standard_normal((2**18, 4), np.float32)
    x[5] += 3
    norm = nz.Standardize(4)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    tracemalloc.start()
    try:
        norm.adapt(mapped)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 50e6, f"{peak / 1e6:.0f} MB"
    check.close(norm.mean, x.mean(axis=(0, 1), dtype=np.float64), check.EXACT)
    check.close(norm.var, x.var(axis=(0, 1), dtype=np.float64), check.EXACT)


def test_merged_stats_are_those_of_all_and_empty_parts_change_no_bit(rng):
    x = 1e6 + random(rng, 60, 2, 3)
    stats = Stats.empty((3,))
    for part in np.split(x, [0, 7, 7, 50]):
        stats = stats.update(part, (0, 1))
    whole = Stats.of(x, (0, 1))
    assert stats.count == whole.count == 120
    check.close(stats.mean, x.mean(axis=(0, 1)), 1e-15)
    check.close(stats.m2, whole.m2, 1e-11)  # the means of parts are rounded to 1e-10
    check.close(whole.var(1), x.reshape(-1, 3).var(axis=0, ddof=1), 1e-11)
    for one, other in ((stats, Stats.empty((3,))), (Stats.empty((3,)), stats)):
        merged = one.merge(other)
        for name in ("count", "mean", "m2"):
            check.same_bits(getattr(merged, name), getattr(stats, name))
    assert np.isnan(Stats.empty((2,)).var()).all()
    assert np.isnan(Stats.of(x[:1, :1], (0, 1)).var(1)).all()
    endless = Stats(np.array(1), np.array([np.inf]), np.array([0.0])).merge(Stats.empty((1,)))
    check.same_bits(endless.mean, np.array([np.inf]))


# what does not fit


def test_gradients_are_of_the_parameters_that_there_are(rng):
    _, saved = nz.CumulativeLayerNorm(3, affine=False).forward(random(rng, 2, 3, 4))
    grads = saved.backward(random(rng, 2, 3, 4))
    assert grads.weight is None
    assert grads.bias is None
    assert grads.others == {}


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: nz.LocalResponseNorm(0), ValueError, "size >= 1"),
        (lambda: nz.LocalResponseNorm(2, even="both"), ValueError, "'before' or 'after'"),
        (lambda: nz.LocalContrastNorm(4), ValueError, "odd"),
        (lambda: nz.LocalContrastNorm(3, 0.0), ValueError, "sigma > 0"),
        (lambda: nz.LocalContrastNorm((3, 3))(np.ones((1, 2, 3))), ValueError, "kernel_size of 1 sizes"),
        (lambda: nz.LocalContrastNorm(3)(np.ones((2, 3))), ValueError, "rank 3"),
        (lambda: nz.DivisiveNorm(3, 0, 1), ValueError, "sum_window >= 1"),
        (lambda: nz.DivisiveNorm(3, 1, (1, 2))(np.ones((1, 3, 4))), ValueError, "sup_window of 1 sizes"),
        (lambda: nz.DivisiveNorm(3, 1, 1)(np.ones((1, 2, 4))), ValueError, r"\(N, 3, ...\)"),
        (lambda: nz.EvoNormS0(33), ValueError, "num_groups to divide"),
        (lambda: nz.GlobalResponseNorm(3)(np.ones((1, 2, 4))), ValueError, r"\(N, 3, ...\)"),
        (lambda: nz.MeanVarianceNorm((1, -1))(np.ones((1, 2))), ValueError, "different axes"),
        (lambda: nz.MeanVarianceNorm()(np.ones((1, 2))), ValueError, "axis in"),
        (lambda: nz.MeanVarianceNorm(None), TypeError, "axis"),
        (lambda: nz.PixelNorm()(np.ones(2)), ValueError, "rank 2"),
        (lambda: nz.LayerScale(3)(np.ones(2)), ValueError, r"\(N, ..., 3\)"),
        (lambda: nz.LayerScale(3, "small"), TypeError, "init_values"),
        (lambda: nz.ReZero(None), TypeError, "alpha_init"),
        (lambda: nz.Derf(3, shift_init=None), TypeError, "shift_init"),
        (lambda: nz.Standardize(3, correction=None), TypeError, "correction"),
    ],
)
def test_what_does_not_fit_is_named(make, error, match):
    with pytest.raises(error, match=match):
        make()


@pytest.mark.parametrize(
    "norm",
    [
        nz.LocalResponseNorm(3),
        nz.LocalContrastNorm(3),
        nz.DivisiveNorm(3, 3, 3),
        nz.FilterResponseNorm(3),
        nz.FilterResponseNorm(3, learn_eps=True),
        nz.EvoNormB0(3),
        nz.EvoNormS0(3, 1),
        nz.GlobalResponseNorm(3),
        nz.MeanVarianceNorm((0, 2)),
        nz.PixelNorm(),
        nz.RevIN(3, channel_axis=1),
        nz.CumulativeLayerNorm(3),
        nz.Derf(4),
        nz.LayerScale(3, channel_axis=1),
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 3, 0)])
def test_no_values_give_no_values(norm, shape):
    if isinstance(norm, nz.Derf) and shape[2] == 0:
        shape = 0, 3, 4
    x = np.empty(shape, np.float32)
    assert norm(x).shape == shape
    assert norm.backward(x).shape == shape
    for name, d in norm.grads.items():
        check.same_bits(d, np.zeros_like(norm.params[name]))
