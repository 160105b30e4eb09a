"""The ends of float64: what has no finite square is normalized in a unit of its own, or refused by name."""

import copy

import numpy as np
import pytest

import normzoo as nz
from tests import check
from tests.zoo import ZOO

ONCE = {str(case): case for case in ZOO}
each_far = pytest.mark.parametrize("power", [600, 1000, -600, -1000])

# y does not depend on the unit of x, and eps is nothing beside x or, for tiny x, 0
INVARIANT = (
    "crms_norm", "partial_rms_norm", "partial_rms_norm-3d", "poly_norm", "revin", "revin-last_value", "revin-first",
    "cumulative_layer_norm", "cumulative_layer_norm-positions", "cumulative_layer_norm-last", "local_contrast_norm",
    "divisive_norm", "divisive_norm-last", "spectral_norm", "spectral_norm-eval", "spectral_norm-exact", "evo_norm_b0",
    "iter_norm", "iter_norm-flat", "decorrelated_batch_norm", "group_whitening", "group_whitening-zca", "positional_norm",
    "scaled_weight_standardization", "weight_norm", "ada_norm", "orthogonal_weight", "mean_variance_norm",
)  # fmt: skip
WHITENING = ("iter_norm", "decorrelated_batch_norm", "group_whitening")  # eps is never 0


@each_far
@pytest.mark.parametrize("name", INVARIANT)
def test_y_is_that_of_x_in_another_unit(name, power, rng):
    norm, x, inputs, dy = ONCE[name].draw(rng)
    if power < 0 and name.startswith((*WHITENING, "evo_norm_b0")):
        pytest.skip("eps is above 0")
    twin = copy.deepcopy(norm)
    norm.eps, twin.eps = (0.0, 0.0) if power < 0 else (norm.eps, 1e-300)
    expected, y = twin(x, **inputs), norm(np.ldexp(x, power), **inputs)
    check.close(y, expected, 1e-11)
    dx, dx_expected = norm.backward(dy), twin.backward(dy)
    check.close(np.ldexp(dx, power), dx_expected, 1e-10)
    for key, d in twin.grads.items():
        if key != "v":
            check.close(norm.grads[key], d, 1e-10)


@pytest.mark.parametrize("power", [600, -600])
def test_strengths_of_channels_of_any_size(power, rng):
    norm = nz.GlobalResponseNorm(3, eps=0.0, dtype=np.float64)
    norm.weight[...] = rng.standard_normal(3)
    twin = copy.deepcopy(norm)
    x, dy = rng.standard_normal((2, 2, 3, 5, 4))
    y, expected = norm(np.ldexp(x, power)), twin(x)
    check.close(np.ldexp(y, -power), expected, 1e-13)
    check.close(norm.backward(dy), twin.backward(dy), 1e-13)
    x[:, 1] = np.ldexp(x[:, 1], 600)  # one channel of another size: the gradients of the others do not vanish
    twin(x)
    dx = twin.backward(dy)
    small = x.copy()
    small[:, 1] = np.ldexp(x[:, 1], -500)  # 1e30 times as large is as good as infinitely
    near = copy.deepcopy(norm)
    near(small)
    check.close(dx[:, 0], near.backward(dy)[:, 0], 1e-12)


@pytest.mark.parametrize("name", ["iter_norm", "decorrelated_batch_norm", "evo_norm_s0", "crms_norm", "poly_norm"])
def test_tiny_values_beside_eps(name, rng):
    norm, x, inputs, dy = ONCE[name].draw(rng)
    if "bias" in norm.params:
        norm.params["bias"][...] = 0
    if name == "poly_norm":
        norm.params["weight"][:2] = 0
    twin = copy.deepcopy(norm)
    y, expected = norm(np.ldexp(x, -700), **inputs), twin(np.ldexp(x, -300), **inputs)
    scale = float(np.abs(expected).max())
    check.close(np.ldexp(y, 400), expected, 1e-11, scale)
    check.close(norm.backward(dy), twin.backward(dy), 1e-11)


@pytest.mark.parametrize("power", [600, -600])
def test_a_group_of_channels_by_a_swish(power, rng):
    norm = nz.EvoNormS0(4, 2, eps=1e-300, dtype=np.float64)
    norm.v[...] = np.ldexp(norm.v, -power)  # so that v * x is as before
    twin = copy.deepcopy(norm)
    twin.v[...] = 1
    norm.eps = twin.eps = 0.0
    x, dy = rng.standard_normal((2, 3, 4, 5))
    check.close(norm(np.ldexp(x, power)), twin(x), 1e-13)
    check.close(np.ldexp(norm.backward(dy), power), twin.backward(dy), 1e-12)


def test_time_steps_one_by_one_beyond_the_squares(rng):
    norm = nz.CumulativeLayerNorm(3, dtype=np.float64)
    x = rng.standard_normal((2, 3, 6)) * np.ldexp(1.0, [0, 100, 200, 300, 400, 540])
    x[0] = np.ldexp(x[0], 60)
    with pytest.raises(ValueError, match=r"CumulativeLayerNorm\(3\): expected values within a factor .*write np.clip"):
        norm(x)
    norm(np.clip(x, -1e150, 1e150))
    x = rng.standard_normal((2, 3, 6)) * np.ldexp(1.0, [500, 560, 620, 680, 740, 800])
    x[..., :2] = 0  # steps before anything is heard
    whole, past = norm(x), None
    for t in range(6):
        y, past = norm.step(x[..., t], past)
        check.close(y, whole[..., t], check.EXACT)
    with pytest.raises(ValueError, match=r"CumulativeLayerNorm\(3\): expected values within a factor .*write np.clip"):
        norm.step(np.ones((2, 3)), past)


REFUSED = ("ema_batch_norm", "alpha_batch_norm", "virtual_batch_norm", "virtual_batch_norm-2d", "switchable_norm",
           "switchable_norm-eval", "batch_instance_norm", "power_norm", "local_response_norm", "orthogonal_weight-cayley")  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_variance_in_float64_is_refused_by_name(name, rng):
    norm, x, inputs, _ = ONCE[name].draw(rng)
    before, out = norm.state_dict(), np.full_like(x, 7)
    for power in (600, 1000):
        with pytest.raises(ValueError, match=rf"^{type(norm).__name__}\(.*: expected .*; write"):
            norm(np.ldexp(x, power), **inputs, out=out)
    for key, value in norm.state_dict().items():
        check.same_bits(value, before[key])
    assert norm.saved is None and (out == 7).all()
    if name == "local_response_norm":
        with pytest.raises(ValueError, match="^local_response_norm: expected .*; write"):
            nz.functional.local_response_norm(np.ldexp(x, 600), 3)
    x[(0,) * x.ndim] = np.inf  # what is not finite goes through, as ever
    assert not np.isfinite(norm(x, **inputs)).all()


def test_deviations_whose_squares_are_none(rng):
    x, style = np.ldexp(rng.standard_normal((2, 4, 3, 5)), 600)
    std = np.ldexp(np.std(np.ldexp(style, -600), axis=2), 600)
    y = nz.AdaptiveInstanceNorm()(x, style)
    check.close(np.ldexp(np.std(np.ldexp(y, -600), axis=2), 600) / std, np.ones_like(std), 1e-13)
    norm = nz.PositionalNorm()
    norm(x)
    check.close(
        norm.saved.std / np.ldexp(np.std(np.ldexp(x, -600), axis=1, keepdims=True), 600), np.ones((4, 1, 5)), 1e-13
    )
    norm = nz.BatchRenorm(3, momentum=1.0, dtype=np.float64)
    norm(x)
    check.close(np.ldexp(norm.running_std, -600), np.ldexp(x, -600).std(axis=(0, 2)), 1e-13)
    norm = nz.WeightNorm(x.shape, dtype=np.float64)
    norm.match(x)
    check.close(norm(x) / x, np.ones_like(x), 1e-14)
    with pytest.raises(ValueError, match=r"VirtualBatchNorm\(3\): expected x whose variances"):
        nz.VirtualBatchNorm(3).refer(x)


@pytest.mark.parametrize("power", [600, -600])
@pytest.mark.parametrize("make", [
    lambda: nz.BatchNorm(3, eps=1e-300, track_running_stats=False, dtype=np.float64), lambda: nz.L2Norm(5, eps=0.0),
    lambda: nz.RMSNorm(5, eps=0.0, dtype=np.float64), lambda: nz.UnitNorm(eps=0.0, order=1),
])  # fmt: skip
def test_weighted_statistics_too(make, power, rng):
    x, dy = rng.standard_normal((2, 4, 3, 5))
    weights = rng.random((4, 1, 5))
    norm, twin = make(), make()
    if isinstance(norm, nz.BatchNorm) and power < 0:
        pytest.skip("eps is above 0")
    y, expected = norm(np.ldexp(x, power), sample_weight=weights), twin(x, sample_weight=weights)
    check.close(y, expected, check.EXACT)
    check.close(np.ldexp(norm.backward(dy), power), twin.backward(dy), 1e-11)
