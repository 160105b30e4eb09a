"""The activation with a learned parameter: y = max(v, tau) behind any norm of the algebra, and tau's gradient."""

import copy
import pickle

import numpy as np
import pytest

import normzoo as nz
from normzoo.backends import lanes
from tests import check

F = nz.functional

# a norm, the shape of x, the shape in which tau is broadcast to x
CASES = {
    "batch_norm": (lambda **o: nz.BatchNorm(5, **o), (6, 5, 3, 7), (5, 1, 1)),
    "batch_norm_last": (lambda **o: nz.BatchNorm(5, channel_axis=-1, **o), (6, 3, 7, 5), (5,)),
    "batch_norm_shared": (lambda **o: nz.BatchNorm(2, **o), (3, 2, 70, 60), (2, 1, 1)),  # threads share each set
    "batch_norm_last_shared": (lambda **o: nz.BatchNorm(3, channel_axis=-1, **o), (2, 40, 31, 3), (3,)),
    "batch_norm_plain": (lambda **o: nz.BatchNorm(5, affine=False, **o), (17, 5), (5,)),
    "ghost_batch_norm": (lambda **o: nz.GhostBatchNorm(5, 2, **o), (6, 5, 9), (5, 1)),
    "instance_norm": (lambda **o: nz.InstanceNorm(5, **o), (3, 5, 9), (5, 1)),
    "layer_norm": (lambda **o: nz.LayerNorm((3, 7), **o), (4, 5, 3, 7), (3, 7)),
    "layer_norm_axis": (lambda **o: nz.LayerNorm(5, axis=1, **o), (4, 5, 3, 7), (5, 1, 1)),
    "group_norm": (lambda **o: nz.GroupNorm(3, 6, **o), (2, 6, 5, 3), (6, 1, 1)),
    "group_norm_last": (lambda **o: nz.GroupNorm(3, 6, channel_axis=-1, **o), (2, 5, 3, 6), (6,)),
    "rms_norm": (lambda **o: nz.RMSNorm(37, **o), (6, 37), (37,)),
    "few": (lambda **o: nz.LayerNorm(3, **o), (50, 3), (3,)),
    "layer_scale": (lambda **o: nz.LayerScale(7, 1.0, **o), (4, 7), (7,)),
    "no_values": (lambda **o: nz.LayerNorm(7, **o), (0, 7), (7,)),
}
DTYPES = {"float64": 1e-12, "float32": 2e-5, "float16": 2e-2}  # of y, dx and tau's gradient against the largest


def made(name, rng, dtype=np.float64, **options):
    """A norm with random parameters, its twin without a threshold, x, and the shape of tau."""
    make, shape, spans = CASES[name]
    wide = np.float32 if dtype == np.float16 else dtype
    norm, twin = make(activation="threshold", dtype=wide, **options), make(dtype=wide, **options)
    for key, p in norm.params.items():
        p[...] = rng.standard_normal(p.shape) * 0.6
        if key in twin.params:
            twin.params[key][...] = p
    return norm, twin, (2 * rng.standard_normal(shape) + 0.7).astype(dtype), spans


def near(found, right, tolerance):
    np.testing.assert_allclose(found, right, rtol=0, atol=tolerance * max(np.abs(right).max(initial=0), 1))


def dys(x, rng):
    """Random, and one value alone."""
    yield rng.standard_normal(x.shape).astype(x.dtype)
    one = np.zeros_like(x)
    one[(-1,) * x.ndim if x.size else ...] = 3
    yield one


QUICK = ("layer_norm_axis", "float64"), ("rms_norm", "float32")  # others compile kernels of their own
ALL = [("reference", name, "float64") for name in CASES] + [
    pytest.param("cpu", name, dtype, marks=() if (name, dtype) in QUICK else pytest.mark.slow)
    for name in CASES
    for dtype in DTYPES
]


@pytest.mark.parametrize(("backend", "name", "dtype"), ALL)
def test_it_is_the_norm_and_a_maximum(backend, name, dtype, rng):
    """Gradients of the composition: what passes goes through the norm, the rest is tau's."""
    dtype, tolerance = np.dtype(dtype), DTYPES[dtype]
    norm, twin, x, spans = made(name, rng, dtype)
    tau = norm.tau.astype(np.float64).reshape(spans)
    with nz.use(backend):
        wide = twin(x.astype(twin.params["weight"].dtype if twin.params else x.dtype)).astype(np.float64)
        y = norm(x)
        assert y.dtype == dtype
        near(y.astype(np.float64), np.maximum(wide, tau), tolerance)
        passed = wide > tau
        for dy in dys(x, rng):
            dx = norm.backward(dy)
            twin(x)
            near(dx, twin.backward(np.where(passed, dy, 0).astype(dtype)), tolerance)
            for key in twin.params:
                near(norm.grads[key], twin.grads[key], tolerance * max(x.size, 1) ** 0.5)
            held = np.where(passed, 0, dy.astype(np.float64))
            axes = tuple(i for i in range(x.ndim) if ((1,) * (x.ndim - len(spans)) + spans)[i] == 1)
            assert norm.grads["tau"].dtype == norm.tau.dtype and norm.grads["tau"].shape == norm.tau.shape
            near(norm.grads["tau"], held.sum(axes).reshape(norm.tau.shape), tolerance * max(x.size, 1) ** 0.5)


@pytest.mark.parametrize("name", ["batch_norm", "layer_norm_axis", "group_norm_last", "few"])
def test_tau_against_differences(name, rng):
    norm, _, x, _ = made(name, rng)
    with nz.use("reference"):
        _check_differences(norm, x, rng)


def _check_differences(norm, x, rng):
    dy, (_, saved) = rng.standard_normal(x.shape), norm.forward(x)
    grads = saved.backward(dy)
    for found, start, of in ((grads.tau, norm.tau, "tau"), (grads.x, x, "x")):
        direction = rng.standard_normal(start.shape)
        kept, results = start.copy(), []
        for step in (1e-6, -1e-6):
            start[...] = kept + step * direction
            results.append((norm(x) * dy).sum())
        start[...] = kept
        slope = (results[0] - results[1]) / 2e-6
        assert abs((found * direction).sum() - slope) < 1e-6 * (1 + abs(slope)), of


def test_strides_residual_and_out(rng):
    norm, _, x, _ = made("layer_norm_axis", rng)
    r, dy, ds = rng.standard_normal((3, *x.shape))
    y, s = norm(x, residual=r)
    dx = norm.backward(dy, ds=ds)
    check.same_bits(norm.grads["residual"], dx)
    check.same_bits(s, x + r)
    dtau = norm.grads["tau"]
    check.same_bits(norm(s), y)
    check.same_bits(norm.backward(dy) + ds, dx)
    check.same_bits(norm.grads["tau"], dtau)
    expected = norm(x), norm.backward(dy), norm.grads["tau"]
    for strided in (np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2), np.repeat(x, 2, 3)[..., ::2]):
        for found, right in zip((norm(strided), norm.backward(dy), norm.grads["tau"]), expected, strict=True):
            np.testing.assert_allclose(found, right, atol=1e-12)
    out = x.copy()
    assert norm(out, out=out) is out
    check.same_bits(out, expected[0])


def test_later_calls_give_the_same_bits(rng):
    """The plan is found in another way, and past a thousand passes there would be a shortcut."""
    norm, _, x, _ = made("rms_norm", rng, np.float32)
    dy = rng.standard_normal(x.shape).astype(np.float32)
    y, dx, dtau = norm(x), norm.backward(dy), norm.grads["tau"]
    for _ in range(1100):
        check.same_bits(norm(x), y)
        check.same_bits(norm.backward(dy), dx)
        check.same_bits(norm.grads["tau"], dtau)


def test_values_that_do_not_count_are_not_thresholded(rng):
    norm = nz.BatchNorm(5, activation="threshold", dtype=np.float64)
    norm.tau[...] = rng.standard_normal(5)
    x = rng.standard_normal((4, 5, 9))
    lengths = np.array([9, 3, 0, 5])
    counts = (np.arange(9) < lengths[:, None])[:, None]
    y = norm(x, lengths=lengths)
    twin = nz.BatchNorm(5, dtype=np.float64)
    v = twin(x, lengths=lengths)
    np.testing.assert_allclose(y, np.where(counts, np.maximum(v, norm.tau[:, None]), v), rtol=1e-12)
    dy = rng.standard_normal(x.shape)
    norm.backward(dy)
    held = np.where(counts & (v <= norm.tau[:, None]), dy, 0)
    np.testing.assert_allclose(norm.grads["tau"], held.sum((0, 2)), rtol=1e-12)


def test_it_is_a_parameter_as_the_others_are(rng):
    norm = nz.GroupNorm(2, 6, activation="threshold")
    assert [*norm.params] == ["weight", "bias", "tau"] and norm.tau.shape == (6,) and not norm.tau.any()
    assert repr(norm).endswith("activation='threshold')")
    assert eval(repr(norm), {"GroupNorm": nz.GroupNorm}).tau.shape == (6,)
    norm.tau[...] = np.arange(6)
    other = nz.GroupNorm(2, 6, activation="threshold")
    other.load_state_dict(norm.state_dict())
    np.testing.assert_array_equal(other.tau, np.arange(6))
    for twin in (copy.deepcopy(norm), pickle.loads(pickle.dumps(norm))):
        np.testing.assert_array_equal(twin.tau, np.arange(6))
    with pytest.raises(ValueError, match="missing=\\['tau'\\]"):
        other.load_state_dict(nz.GroupNorm(2, 6).state_dict())
    norm.activation = "relu"
    assert "tau" not in norm.params and norm.tau is None
    norm.activation = "threshold"
    assert not norm.tau.any()
    x = rng.standard_normal((3, 6, 4)).astype(np.float32)
    with nz.use("reference"):
        check.same_bits(norm(x), nz.GroupNorm(2, 6, activation="relu")(x))  # at first it is that
    assert "threshold" in nz.list_activations()


def test_in_functions(rng):
    with nz.use("reference"):
        _check_functions(rng)


def _check_functions(rng):
    x, dy = rng.standard_normal((2, 6, 5, 4))
    tau, weight = rng.standard_normal((2, 5))
    norm = nz.BatchNorm(5, activation="threshold", bias=False, dtype=np.float64)
    norm.params.update(weight=weight, tau=tau)
    y, saved = F.batch_norm(x, None, None, weight, training=True, activation="threshold", tau=tau, return_saved=True)
    check.same_bits(y, norm(x))
    check.same_bits(saved.backward(dy).tau, (norm.backward(dy), norm.grads["tau"])[1])
    made = F.layer_norm(x, 4, activation="threshold", tau=np.zeros(4))
    check.same_bits(made, F.layer_norm(x, 4, activation="relu"))


def test_a_threshold_beyond_the_range_of_x_is_no_warning():
    norm = nz.LayerNorm(4, activation="threshold")
    norm.tau[...] = 1e30, -1e30, 0, 0
    y = norm(np.arange(8, dtype=np.float16).reshape(2, 4))
    assert np.isposinf(y[:, 0]).all() and np.isfinite(y[:, 1:]).all()


def test_a_changed_tau_is_refused(rng):
    norm, _, x, _ = made("rms_norm", rng)
    norm(x)
    norm.tau[0] += 1
    with pytest.raises(RuntimeError, match="expected tau as it was in the forward pass"):
        norm.backward(x)


def _soft(v, p):
    return p + lanes.log1p(lanes.exp(v - p))


def _soft_slopes(v, p):
    passed = lanes.sigmoid(v - p)
    return passed, 1.0 - passed


def test_another_level_can_be_learned(rng):
    """The name of its parameter is its own."""
    norm = nz.BatchNorm(5, activation=nz.Activation("soft", _soft, _soft_slopes, "level"), dtype=np.float64)
    norm.params["level"][...] = rng.standard_normal(5)
    x, dy = rng.standard_normal((2, 4, 5, 3))
    with nz.use("reference"):
        norm(x)
        norm.backward(dy)
        found, slopes = norm.grads["level"], []
        for i in range(5):
            ends = []
            for step in (1e-6, -2e-6):
                norm.params["level"][i] += step
                ends.append((norm(x) * dy).sum())
            norm.params["level"][i] += 1e-6
            slopes.append((ends[0] - ends[1]) / 2e-6)
    np.testing.assert_allclose(found, slopes, rtol=1e-6, atol=1e-6)


X = np.ones((3, 6, 4), np.float32)
MISTAKES = [
    (lambda: nz.GroupNorm(2, 6, activation="threshold")(X, add=X), "with nothing else behind the norm, got add"),
    (lambda: nz.GroupNorm(2, 6, activation="threshold")(X, gate=X), "with nothing else behind the norm, got a gate"),
    (
        lambda: F.layer_norm(X, 4, activation="threshold"),
        "layer_norm: expected tau with activation 'threshold', got none",
    ),
    (lambda: F.layer_norm(X, 4, activation="relu", tau=X[0, 0]), "expected activation='threshold' with tau"),
    (lambda: F.layer_norm(X, 4, activation="threshold", tau=X[0]), "layer_norm: expected tau of shape"),
    (
        lambda: nz.LayerNorm(4, activation=nz.Activation("slope", lambda v, p: v * p, lambda v, p: (p, v), "p")),
        "expected an activation of a level, .* got 'slope' with",
    ),
]


@pytest.mark.parametrize(("call", "message"), MISTAKES)
def test_mistakes(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_call_takes_no_tau():
    with pytest.raises(TypeError, match="tau"):
        nz.GroupNorm(2, 6, activation="threshold")(X, tau=X)
