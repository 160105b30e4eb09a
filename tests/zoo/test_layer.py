"""The layer family and conditional norms: what equals what, results beside y, tables, and errors of their own."""

import ml_dtypes
import numpy as np
import pytest

import normzoo as nz
from normzoo.zoo.conditional import adaptive_layer_norm
from tests import check

F = nz.functional


def passes(norm, x, dy, *inputs, **fixed):
    """y, dx and the gradients of the rest."""
    y = norm(x, *inputs, **fixed)
    return y, norm.backward(dy), norm.grads


def assert_same(one, two, names=(), tolerance=check.EXACT):
    """Equal y and dx, and gradients of these names."""
    check.close(one[0], two[0], tolerance)
    check.close(one[1], two[1], tolerance)
    for name in names:
        check.close(one[2][name], two[2][name], tolerance)


def randomized(norm, rng):
    for p in norm.params.values():
        p[...] = rng.standard_normal(p.shape)
    return norm


@pytest.fixture
def x(rng):
    return rng.standard_normal((3, 6, 5))


@pytest.fixture
def dy(rng):
    return rng.standard_normal((3, 6, 5))


# Equivalences


def test_all_of_the_values_are_no_part(x, dy, rng):
    weight = rng.standard_normal(5)
    whole, part = nz.RMSNorm(5, 1e-8, dtype=np.float64), nz.PartialRMSNorm(5, 1.0, dtype=np.float64)
    whole.weight, part.weight = weight, weight.copy()
    assert_same(passes(whole, x, dy), passes(part, x, dy), ["weight"])


def test_an_offset_moves_the_weight(x, dy):
    plain, offset = nz.RMSNorm(5, dtype=np.float64), nz.RMSNorm(5, offset=1.0, dtype=np.float64)
    assert (offset.weight == 0).all()
    assert_same(passes(plain, x, dy), passes(offset, x, dy), ["weight"])
    half = nz.RMSNorm(5, offset=1.0, casting="llama", dtype=ml_dtypes.bfloat16)
    assert half.weight.dtype == ml_dtypes.bfloat16 and not half.weight.any()


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_llama_rounds_before_the_weight_and_gemma_after(dtype, rng):
    x = rng.standard_normal((64, 48)).astype(dtype)
    weight = rng.standard_normal(48).astype(np.float32)
    exact = nz.RMSNorm(48, 1e-6, elementwise_affine=False)(x.astype(np.float32))
    outs = {}
    for casting in (None, "gemma", "llama"):
        norm = nz.RMSNorm(48, 1e-6, casting=casting)
        norm.weight = weight
        outs[casting] = norm(x)
    check.same_bits(outs["gemma"], outs[None])
    check.same_bits(outs["llama"], (exact.astype(dtype).astype(np.float32) * weight).astype(dtype))
    assert (outs["llama"] != outs["gemma"]).any()


def test_llama_goes_back_in_place(x, dy):
    norm = nz.RMSNorm(5, casting="llama", dtype=np.float64)
    expected = passes(norm, x, dy)
    place, other = x.copy(), dy.copy()
    norm(place)
    assert norm.backward(other, out=other) is other
    check.close(other, expected[1], check.EXACT)
    norm(place)
    assert norm.backward(dy, out=place) is place
    check.close(place, expected[1], check.EXACT)
    with pytest.raises(RuntimeError, match="overwritten"):
        norm.backward(dy)


def test_the_missing_value_is_that_of_mean_zero(x, dy):
    norm = nz.CRMSNorm(5, elementwise_affine=False)
    whole = np.concatenate([x, -x.sum(axis=-1, keepdims=True)], axis=-1)
    y = nz.RMSNorm(6, 1e-5, elementwise_affine=False)(whole)
    check.close(norm(x), y[..., :-1], check.EXACT)
    check.close(norm(x), nz.LayerNorm(6, elementwise_affine=False)(whole)[..., :-1], check.EXACT)


def test_unit_lengths_are_normalize(x, dy):
    y, saved = F.normalize(x, dim=1, return_saved=True)
    expected = y, saved.backward(dy).x
    scale = nz.ScaleNorm(1.0, 1e-12, axis=1, dtype=np.float64)
    for norm in (nz.UnitNorm(1), nz.L2Norm(6, axis=1), scale):
        assert_same(passes(norm, x, dy), expected)
    # the inner product with y is that of g with g / weight
    check.close(scale.grads["weight"], [(dy * y).sum()], check.EXACT)


def test_scale_norm_is_rms_norm_times_the_root_of_the_features(x, dy):
    one = passes(nz.ScaleNorm(5**0.5, dtype=np.float64), x, dy)
    assert_same(one, passes(nz.RMSNorm(5, 0.0, elementwise_affine=False), x, dy))


def test_short_vectors_are_held(rng):
    x = rng.standard_normal((4, 7)) * 1e-9
    check.close(nz.ScaleNorm(2.0, eps=1e-5)(x), 2 * x / 1e-5, check.EXACT)
    zero = nz.UnitNorm(eps=0)(np.zeros((2, 3)))
    assert not zero.any()


def test_one_head_is_rms_norm_and_layer_norm(x, dy, rng):
    for head, whole in (
        (nz.HeadRMSNorm(1, 5, dtype=np.float64), nz.RMSNorm(5, 1e-6, dtype=np.float64)),
        (nz.HeadLayerNorm(1, 5, dtype=np.float64), nz.LayerNorm(5, 1e-6, dtype=np.float64)),
    ):
        randomized(whole, rng)
        for name, p in head.params.items():
            p[0] = whole.params[name]
        one, two = passes(head, x[:, :, None], dy[:, :, None]), passes(whole, x, dy)
        check.close(one[0][:, :, 0], two[0], check.EXACT)
        check.close(one[1][:, :, 0], two[1], check.EXACT)
        check.close(one[2]["weight"][0], two[2]["weight"], check.EXACT)


def test_one_group_is_rms_norm_over_channels_and_positions(x, dy, rng):
    group = nz.GroupRMSNorm(1, 6, affine=False)
    assert_same(passes(group, x, dy), passes(nz.RMSNorm((6, 5), 1e-5, elementwise_affine=False), x, dy))
    per_position = randomized(nz.GroupRMSNorm(1, 6, per_position=True, dtype=np.float64), rng)
    over_channels = nz.RMSNorm(6, 1e-5, axis=1, dtype=np.float64)
    over_channels.weight = per_position.weight
    assert_same(passes(per_position, x, dy), passes(over_channels, x, dy), ["weight"])


def test_groups_of_packed_heads_are_heads(rng):
    x, dy = rng.standard_normal((2, 3, 5, 4 * 8))
    group = randomized(nz.GroupRMSNorm(4, 32, 1e-6, per_position=True, channel_axis=-1, dtype=np.float64), rng)
    head = nz.HeadRMSNorm(4, 8, dtype=np.float64)
    head.weight = group.weight.reshape(4, 8)
    one, two = passes(group, x, dy), passes(head, x.reshape(3, 5, 4, 8), dy.reshape(3, 5, 4, 8))
    check.close(one[0].reshape(two[0].shape), two[0], check.EXACT)
    check.close(one[1].reshape(two[1].shape), two[1], check.EXACT)
    check.close(one[2]["weight"].reshape(4, 8), two[2]["weight"], check.EXACT)


def test_ada_norm_keeps_its_digits_far_from_zero(rng):
    x = (1e4 + 0.1 * rng.standard_normal((9, 34))).astype(np.float32)
    x[0, 0] = 9e3
    wide = x.astype(np.float64)
    xhat = (wide - wide.mean(1, keepdims=True)) / np.sqrt(wide.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(nz.AdaNorm(34)(x), xhat * (1 - 0.1 * xhat), atol=1e-5)


def test_ada_norm_takes_a_mask_and_another_k(rng):
    x, dy = rng.standard_normal((2, 4, 6))
    mask = np.arange(6) < np.array([6, 3, 4, 2])[:, None]
    norm = nz.AdaNorm(6)
    norm.k = 0.3
    y = norm(x, mask=mask)
    dx = norm.backward(dy)
    for row in range(4):
        own = x[row, mask[row]][None]
        alone = nz.AdaNorm(own.shape[1], 0.3)
        np.testing.assert_allclose(y[row, mask[row]], alone(own)[0], rtol=1e-12)
        np.testing.assert_allclose(dx[row, mask[row]], alone.backward(dy[row, mask[row]][None])[0], rtol=1e-9)


def test_ada_norm_without_k_is_layer_norm(x, dy):
    plain = nz.LayerNorm(5, elementwise_affine=False)
    assert_same(passes(nz.AdaNorm(5, k=0.0), x, dy), passes(plain, x, dy))


def test_positional_norm_is_layer_norm_over_channels(x, dy):
    plain = nz.LayerNorm(6, axis=1, elementwise_affine=False)
    assert_same(passes(nz.PositionalNorm(), x, dy), passes(plain, x, dy))


def test_parameters_over_channels_make_group_norm_of_layer_norm(x, dy, rng):
    layer = nz.LayerNorm((6, 5), parameter_axis=1, parameter_shape=6, dtype=np.float64)
    group = randomized(nz.GroupNorm(1, 6, dtype=np.float64), rng)
    layer.weight, layer.bias = group.weight, group.bias
    assert_same(passes(layer, x, dy), passes(group, x, dy), ["weight", "bias"])
    instance = nz.InstanceNorm(6, affine=True, dtype=np.float64)
    layer = nz.LayerNorm(5, parameter_axis=-2, parameter_shape=6, dtype=np.float64)
    assert_same(passes(layer, x, dy), passes(instance, x, dy), ["weight", "bias"])


def test_a_style_of_its_own_changes_nothing(x, dy):
    norm = nz.AdaptiveInstanceNorm()
    y, dx, grads = passes(norm, x, dy, x)
    check.close(y, x, 1e-10)
    check.close(dx + grads["style"], dy, 1e-10)  # the identity's gradient, in two parts


def test_film_of_one_and_zero_is_x(x, dy):
    ones, zeros = np.ones((3, 6)), np.zeros((3, 6))
    y, dx, grads = passes(nz.FiLM(), x, dy, ones, zeros)
    check.same_bits(y, x)
    check.same_bits(dx, dy)
    check.close(grads["gamma"], (x * dy).sum(axis=2), check.EXACT)


def test_no_scale_and_shift_is_layer_norm(x, dy):
    plain = passes(nz.LayerNorm(5, 1e-6, elementwise_affine=False), x, dy)
    zeros = np.zeros((3, 5))
    assert_same(passes(nz.AdaptiveLayerNorm(5), x, dy, zeros, zeros), plain)
    assert_same(passes(nz.AdaLNZero(5, 4, dtype=np.float64), x, dy, np.ones((3, 4))), plain)


def test_one_class_is_batch_norm_and_instance_norm(x, dy, rng):
    labels = np.zeros(3, np.int64)
    for conditional, plain in (
        (nz.ConditionalBatchNorm(6, 1, dtype=np.float64), nz.BatchNorm(6, dtype=np.float64)),
        (nz.ConditionalInstanceNorm(6, 1, dtype=np.float64), nz.InstanceNorm(6, affine=True, dtype=np.float64)),
    ):
        randomized(plain, rng)
        for name, p in conditional.params.items():
            p[0] = plain.params[name]
        one, two = passes(conditional, x, dy, labels=labels), passes(plain, x, dy)
        assert_same(one, two)
        for name in ("weight", "bias"):
            check.close(one[2][name][0], two[2][name], check.EXACT)
        for name, a in plain.buffers.items():
            if name in conditional.buffers:
                check.close(conditional.buffers[name], a, check.EXACT)


def test_constant_maps_are_a_condition(x, dy, rng):
    weight, bias = rng.standard_normal((2, 4, 6))
    labels = np.array([3, 1, 3])
    gamma, beta = (np.broadcast_to(a[labels][..., None], x.shape) for a in (weight - 1, bias))
    for kind, conditional in (
        ("instance", nz.ConditionalInstanceNorm(6, 4, dtype=np.float64)),
        ("batch", nz.ConditionalBatchNorm(6, 4, dtype=np.float64)),
    ):
        conditional.weight, conditional.bias = weight, bias
        spade = nz.SPADE(6, kind, dtype=np.float64)
        one, two = passes(spade, x, dy, gamma, beta), passes(conditional, x, dy, labels=labels)
        assert_same(one, two)
        for i in range(4):
            summed = one[2]["gamma"][labels == i].sum(axis=(0, 2))
            check.close(summed, two[2]["weight"][i], check.EXACT)
    plain = nz.InstanceNorm(6)
    zeros = np.zeros_like(x)
    assert_same(passes(nz.SPADE(6, "instance"), x, dy, zeros, zeros), passes(plain, x, dy))


# Results beside y


@pytest.mark.parametrize("channel_axis", [1, -1])
def test_moments_come_back_with_their_gradients(channel_axis, rng):
    x, dy = rng.standard_normal((2, 2, 4, 3, 5))
    norm = nz.PositionalNorm(channel_axis=channel_axis)

    def mean(x):
        return x.mean(axis=channel_axis, keepdims=True)

    def std(x):
        return np.sqrt(((x - mean(x)) ** 2).mean(axis=channel_axis, keepdims=True) + 1e-5)

    norm(x)
    saved = norm.saved
    check.close(saved.mean, mean(x), check.EXACT)
    check.close(saved.std, std(x), check.EXACT)
    dmean, dstd = rng.standard_normal((2, *saved.mean.shape))
    zeros = np.zeros_like(dy)
    check.gradient_matches(mean, x, norm.backward(zeros, dmean=dmean), dmean, rng, 1e-10)
    check.gradient_matches(std, x, norm.backward(zeros, dstd=dstd), dstd, rng, 1e-10)
    alone = norm.backward(dy)
    both = norm.backward(dy, dmean=dmean, dstd=dstd)
    check.close(both, alone + norm.backward(zeros, dmean=dmean, dstd=dstd), check.EXACT)
    with pytest.raises(ValueError, match="expected dstd of shape"):
        norm.backward(dy, dstd=dy)
    place = x.copy()
    norm(place)
    assert norm.backward(dy, out=place, dmean=dmean, dstd=dstd) is place
    check.same_bits(place, both)


def test_moments_of_any_strides(rng):
    x = np.moveaxis(rng.standard_normal((2, 4, 5, 3)), 3, 1)  # channels last in memory
    norm, other = nz.PositionalNorm(channel_axis=2), nz.PositionalNorm(channel_axis=2)
    norm(x), other(x.copy())
    for name in ("mean", "std"):
        check.close(getattr(norm.saved, name), getattr(other.saved, name), check.EXACT)
    dmean, dstd = rng.standard_normal((2, 2, 3, 1, 5))
    dy = rng.standard_normal(x.shape)
    check.close(norm.backward(dy, None, dmean, dstd), other.backward(dy, None, dmean, dstd), check.EXACT)


def test_a_moment_shortcut_is_film(rng):
    """PONO, something else, and the moments put back: the gradient arrives through all three."""
    x, dy = rng.standard_normal((2, 2, 4, 3))
    norm, shortcut = nz.PositionalNorm(), nz.FiLM()

    def function(x):
        mean = x.mean(axis=1, keepdims=True)
        std = np.sqrt(((x - mean) ** 2).mean(axis=1, keepdims=True) + 1e-5)
        return ((x - mean) / std) ** 2 * std + mean

    h = norm(x)
    y = shortcut(h**2, norm.saved.std, norm.saved.mean)
    check.close(y, function(x), check.EXACT)
    dh = shortcut.backward(dy) * 2 * h
    dx = norm.backward(dh, dmean=shortcut.grads["beta"], dstd=shortcut.grads["gamma"])
    check.gradient_matches(function, x, dx, dy, rng, 1e-10)


def test_a_gate_closes_the_residual(rng):
    """x + gate * branch(norm(x, c)) of DiT, with a branch that squares."""
    x, dy = rng.standard_normal((2, 2, 3, 4))
    c = rng.standard_normal((2, 5))
    norm, close = nz.AdaLNZero(4, 5, dtype=np.float64), nz.FiLM(channel_axis=-1)
    check.same_bits(close(norm(x, c) ** 2, norm.saved.gate, x), x)  # at first it is the identity
    randomized(norm, rng)

    def function(x, c=c, weight=norm.weight, bias=norm.bias):
        shift, scale, gate = np.split((c / (1 + np.exp(-c))) @ weight.T + bias, 3, axis=-1)
        d = x - x.mean(axis=-1, keepdims=True)
        xhat = d / np.sqrt((d**2).mean(axis=-1, keepdims=True) + 1e-6)
        return x + gate[:, None] * (xhat * (1 + scale[:, None]) + shift[:, None]) ** 2

    h = norm(x, c)
    check.close(close(h**2, norm.saved.gate, x), function(x), check.EXACT)
    dbranch = close.backward(dy)
    dx = close.grads["beta"] + norm.backward(dbranch * 2 * h, dgate=close.grads["gamma"])
    check.gradient_matches(function, x, dx, dy, rng, 1e-10)
    for name, a in (("c", c), ("weight", norm.weight), ("bias", norm.bias)):
        check.gradient_matches(lambda v, name=name: function(x, **{name: v}), a, norm.grads[name], dy, rng, 1e-10)
    with pytest.raises(ValueError, match="expected dgate of shape"):
        norm.backward(dy, dgate=dy)


@pytest.mark.parametrize("conditions", [(3, 150), (3, 40, 150)], ids=["samples", "tokens"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("mean", [0.0, 1e3])
def test_a_condition_by_tiles_of_a_large_weight(conditions, dtype, mean, rng, monkeypatch):
    """Many tiles, the last one smaller, more products than float32 adds; few rows of conditions, and many."""
    monkeypatch.setattr(adaptive_layer_norm, "TILE", {4: 1, 8: 1})
    x, dy = (mean + rng.standard_normal((3, 40, 67))).astype(dtype), rng.standard_normal((3, 40, 67)).astype(dtype)
    c, dgate = rng.standard_normal(conditions).astype(dtype), rng.standard_normal((*conditions[:-1], 67)).astype(dtype)
    wide = np.float64 if dtype == np.float64 else np.float32
    norm = randomized(nz.AdaLNZero(67, 150, dtype=wide), rng)
    exact = nz.AdaLNZero(67, 150, dtype=np.float64)
    exact.load_state_dict({name: p.astype(np.float64) for name, p in norm.params.items()})
    plain = nz.LayerNorm(67, 1e-6, elementwise_affine=False)
    v = c.astype(np.float64)
    sigmoid = 1 / (1 + np.exp(-v))
    rows = (v * sigmoid).reshape(-1, 150)
    made = (rows @ exact.weight.T).reshape(*conditions[:-1], -1) + exact.bias
    shift, scale, gate = (a if c.ndim == 3 else a[:, None] for a in np.split(made, 3, axis=-1))
    xhat = plain(x.astype(np.float64))
    d, axes = dy.astype(np.float64), () if c.ndim == 3 else (1,)
    rounding = 2.0**-10 if dtype == np.float16 else 0.0
    near = 1e-11 if dtype == np.float64 else check.FORWARD32
    y = norm(x, c)
    expected = xhat * (1 + scale) + shift
    check.close(y, expected, near + rounding, float(np.abs(expected).max()))
    check.close(norm.saved.gate, gate.reshape(norm.saved.gate.shape), near, float(np.abs(gate).max()))
    dx = norm.backward(dy, dgate=dgate.astype(norm.saved.gate.dtype))
    expected = plain.backward(d * (1 + scale))
    check.close(dx, expected, 10 * near + rounding, float(np.abs(expected).max()))
    made = [d.sum(axis=axes), (d * xhat).sum(axis=axes), dgate.astype(np.float64)]
    of_made = np.concatenate(made, axis=-1).reshape(-1, 201)
    slope = sigmoid * (1 + v * (1 - sigmoid))
    for name, expected in (
        ("weight", of_made.T @ rows),
        ("bias", of_made.sum(axis=0)),
        ("c", (of_made @ exact.weight).reshape(c.shape) * slope),
    ):
        few = rounding if name == "c" else 0.0
        check.close(norm.grads[name], expected, 10 * near + few, float(np.abs(expected).max()))


# State, tables and errors


@pytest.mark.parametrize("name", ["conditional_batch_norm", "spade"])
def test_running_statistics_are_those_of_batch_norm(name, x, rng):
    plain, norm = nz.BatchNorm(6, dtype=np.float64), nz.create(name, 6, **({"num_classes": 2} if "_" in name else {}))
    inputs = ([np.array([0, 1, 1])] if "_" in name else [np.zeros_like(x), np.zeros_like(x)])  # fmt: skip
    norm.load_state_dict(norm.state_dict())
    for momentum in (0.1, None):
        plain.momentum = norm.momentum = momentum
        for _ in range(3):
            batch = rng.standard_normal(x.shape)
            plain(batch), norm(batch, *inputs)
    for key, a in plain.buffers.items():
        check.close(norm.buffers[key], a, 1e-6)
    assert norm.num_batches_tracked == 6
    before = norm.state_dict()
    norm.eval()(x, *inputs)
    for bad in (x[:, :5], x[:2]):
        with pytest.raises(ValueError, match=type(norm).__name__):
            norm.train()(bad, *inputs)
    for key, a in before.items():
        check.same_bits((norm.params | norm.buffers)[key], a)


def test_repeated_labels_add_up_and_absent_ones_are_zero(x, dy, rng):
    norm = nz.ConditionalInstanceNorm(6, 5, dtype=np.float64)
    alone = nz.InstanceNorm(6, affine=True, dtype=np.float64)
    labels = np.array([4, 0, 4], np.int8)
    norm(x, labels)
    labels[...] = 1  # it has its own copy
    norm.backward(dy)
    for i, samples in ((4, [0, 2]), (0, [1])):
        alone(x[samples])
        alone.backward(dy[samples])
        for name in ("weight", "bias"):
            check.close(norm.grads[name][i], alone.grads[name], check.EXACT)
    assert not any(d[1:4].any() for d in norm.grads.values())


@pytest.mark.parametrize("norm", [nz.ConditionalBatchNorm(6, 4), nz.ConditionalInstanceNorm(6, 4)], ids=str)
@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ([0, 1, 2], TypeError, "expected labels to be an array of integers, got list"),
        (np.array([0.0, 1, 2]), TypeError, "got float64"),
        (np.array([True, False, True]), TypeError, "got bool"),
        (np.array([0, 1]), ValueError, r"expected labels of shape \(3,\), one for every sample, got \(2,\)"),
        (np.array([0, 1, 4]), ValueError, "expected labels from 0 to 3, got some from 0 to 4"),
        (np.array([0, -1, 3]), ValueError, "got some from -1 to 3"),
    ],
)
def test_labels_are_checked(norm, labels, error, message, x):
    with pytest.raises(error, match=message):
        norm(x, labels)
    assert norm.saved is None and norm.buffers.get("num_batches_tracked", 0) == 0


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nz.RMSNorm(4, casting="bloom"), ValueError, "expected casting of None, 'gemma' or 'llama', got 'bloom'"),
        (lambda: nz.RMSNorm(4, offset="1"), TypeError, "expected offset to be a number"),
        (lambda: nz.PartialRMSNorm(4, 0.0), ValueError, r"expected p in \(0, 1\], got 0.0"),
        (lambda: nz.LayerNorm(4, parameter_axis=1), ValueError, "expected parameter_axis and parameter_shape, or neither"),
        (lambda: nz.SPADE(4, "layer"), ValueError, "expected param_free_norm of 'batch' or 'instance', got 'layer'"),
        (lambda: nz.GroupRMSNorm(3, 4), ValueError, "expected num_groups to divide the channels"),
        (lambda: nz.UnitNorm(order=3), ValueError, r"expected order 2 or 1, got 3; write nz.functional.normalize\(x, 3\)"),
        (lambda: nz.UnitNorm(()), ValueError, "expected axis with at least one axis"),
        (lambda: nz.ConditionalBatchNorm(4, 0), ValueError, "expected num_classes >= 1"),
    ],
)  # fmt: skip
def test_arguments_are_checked(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("norm", "shapes", "message"),
    [
        (nz.LayerNorm(5, parameter_axis=1, parameter_shape=7), (), "along parameter_axis=1"),
        (nz.HeadRMSNorm(5, 6), (), r"HeadRMSNorm\(5, 6\): expected x of shape \(\.\.\., 5, 6\), got \(3, 6, 5\)"),
        (nz.HeadRMSNorm(5, 6, head_axis=0), (), "with 5 heads on axis 0"),
        (nz.UnitNorm((1, 0)), (), "in increasing order"),
        (nz.UnitNorm(3), (), r"expected axis in \[-3, 3\)"),
        (nz.AdaptiveInstanceNorm(), ((3, 5, 5),), "expected style of x's samples and channels"),
        (nz.FiLM(), ((3, 6), (6,)), r"expected beta of shape \(3, 6\), or of x's rank"),
        (nz.FiLM(), ((3, 5), (3, 5)), r"expected gamma of shape \(3, 6\), or of x's rank"),
        (nz.AdaptiveLayerNorm(5), ((3, 6), (3, 6)), r"expected scale of shape \(3, 5\)"),
        (nz.AdaLNZero(5, 4), ((3, 5),), r"expected c of shape \(N, 4\), got \(3, 5\)"),
        (nz.SPADE(6), ((3, 6, 5), (3, 6)), r"expected beta of shape \(3, 6, 5\), got \(3, 6\)"),
    ],
    ids=str,
)
def test_shapes_are_checked(norm, shapes, message, x, rng):
    with pytest.raises(ValueError, match=message):
        norm(x, *(rng.standard_normal(s) for s in shapes))


def test_out_may_not_be_what_is_read(x, dy, rng):
    style = rng.standard_normal(x.shape)
    norm = nz.AdaptiveInstanceNorm()
    with pytest.raises(ValueError, match="overlaps"):
        norm(x, style, out=style)
    norm(x, style)
    with pytest.raises(ValueError, match="overlaps"):
        norm.backward(dy, out=style)
    film = nz.FiLM()
    film(x, style, style)
    with pytest.raises(ValueError, match="overlaps"):
        film.backward(dy, out=style)


def test_flat_far_from_zero_with_conditions(rng):
    """A style far from zero keeps its digits too."""
    content = rng.standard_normal((2, 3, 33)).astype(np.float32)
    style = (1e4 + 0.1 * rng.standard_normal((2, 3, 65))).astype(np.float32)
    y = nz.AdaptiveInstanceNorm()(content, style)
    with nz.use("reference"):
        exact = nz.AdaptiveInstanceNorm()(content.astype(np.float64), style.astype(np.float64))
    check.close(y, exact, check.FORWARD32, 1e4)
    dy = rng.standard_normal(content.shape).astype(np.float32)
    norm, wide = nz.AdaptiveInstanceNorm(), nz.AdaptiveInstanceNorm()
    norm(content, style), wide(content.astype(np.float64), style.astype(np.float64))
    norm.backward(dy), wide.backward(dy.astype(np.float64))
    check.close(norm.grads["style"], wide.grads["style"], check.BACKWARD32, np.abs(wide.grads["style"]).max())


def test_empty_arrays_are_no_trouble():
    for norm, shapes in (
        (nz.PartialRMSNorm(4), ((0, 4),)),
        (nz.CRMSNorm(4), ((0, 4),)),
        (nz.PolyNorm(), ((0, 4),)),
        (nz.AdaNorm(4), ((0, 4),)),
        (nz.ScaleNorm(2.0), ((0, 4),)),
        (nz.PositionalNorm(), ((0, 4, 3),)),
        (nz.AdaptiveInstanceNorm(), ((0, 4, 3), (0, 4, 5))),
        (nz.FiLM(), ((0, 4, 3), (0, 4), (0, 4))),
        (nz.AdaptiveLayerNorm(3), ((0, 4, 3), (0, 3), (0, 3))),
        (nz.AdaLNZero(3, 2), ((0, 4, 3), (0, 2))),
    ):
        y = norm(*(np.zeros(s, np.float32) for s in shapes))
        assert norm.backward(y).shape == shapes[0]
        assert all(not g.any() for g in norm.grads.values())


@pytest.mark.parametrize("statistic", ["median", "trimmed"])
def test_robust_norm_does_not_see_outliers(statistic, rng):
    x = rng.standard_normal((6, 41))
    norm = nz.RobustNorm(-1, statistic=statistic, share=0.1)
    y = norm(x)
    far = x.copy()
    np.put_along_axis(far, np.argsort(x, axis=1)[:, -4:], [1e300, 1e9, 1e5, 1e3], axis=1)  # the largest, larger still
    places = far == x
    check.close(norm(far)[places], y[places], 1e-12)
    check.close(norm(x + 1e6), y, 1e-8)
    with_nan = x.copy()
    with_nan[2, 5] = np.nan
    assert np.isnan(norm(with_nan)).all(axis=1).tolist() == [False, False, True, False, False, False]


def test_robust_norm_is_that_of_nz_robust(rng):
    x = rng.standard_normal((4, 3, 10, 7)).astype(np.float32)
    center, spread = nz.robust.median(x, (0, 2)), nz.robust.mad(x, (0, 2), scale=nz.robust.NORMAL)
    expected = (x - center[:, None]) / np.sqrt(spread**2 + 1e-5)[:, None]
    check.close(nz.RobustNorm((0, 2))(x), expected, 1e-6)
    plain, none = nz.MeanVarianceNorm(-1, 1e-3), nz.RobustNorm(-1, 1e-3, statistic="trimmed", share=0.0)
    dy = rng.standard_normal(x.shape)
    wide = x.astype(np.float64)
    check.close(none(wide), plain(wide), 1e-12)
    check.close(none.backward(dy), plain.backward(dy), 1e-12)


def test_robust_norm_where_values_are_equal():
    """The subgradients that its docstring names."""
    norm, dy = nz.RobustNorm(-1, eps=0.0), np.array([[1.0, 0.0, 0.0, 0.0, 0.0]])
    norm(np.array([[0.0, 2.0, 2.0, 2.0, 2.0]]))  # a MAD of 0: y is 0, and so is dx
    assert not norm.backward(dy).any()
    norm = nz.RobustNorm(-1, eps=1.0)
    x = np.array([[0.0, 2.0, 2.0, 2.0, 2.0]])
    check.close(norm(x), [[-2.0, 0.0, 0.0, 0.0, 0.0]], 1e-15)
    check.close(norm.backward(dy), [[1.0, -0.25, -0.25, -0.25, -0.25]], 1e-15)  # four are the median
    trimmed = nz.RobustNorm(-1, eps=1.0, statistic="trimmed", share=0.2)
    x = np.array([[1.0, 1.0, 2.0, 3.0, 9.0]])  # one of the two least is left out
    trimmed(x)
    slope = 1 / np.sqrt(2 / 3 + 1)
    hat = (x - 2) * slope
    kept = np.array([[0.5, 0.5, 1.0, 1.0, 0.0]]) / 3
    check.close(trimmed.backward(dy), slope * (dy - kept - kept * hat * hat[0, 0]), 1e-14)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: nz.RobustNorm(statistic="mode"), ValueError, "statistic to be 'median' or 'trimmed', got 'mode'"),
        (lambda: nz.RobustNorm(statistic="trimmed", share=50), ValueError, r"share in \[0, 0.5\), got 50"),
        (lambda: nz.RobustNorm(None), TypeError, "axis to be an integer or a tuple of them, got None"),
        (lambda: nz.RobustNorm((0, -2))(np.ones((2, 3))), ValueError, r"different axes, got \(0, -2\)"),
        (lambda: nz.RobustNorm(2)(np.ones((2, 3))), ValueError, "axis"),
    ],
)
def test_robust_norm_says_what_does_not_fit(call, error, said):
    with pytest.raises(error, match=said):
        call()


@pytest.mark.parametrize("shape", [(3, 20, 50, 61), (2, 17, 9, 5)], ids=str)
@pytest.mark.parametrize("kind", ["batch", "instance"])
def test_spade_has_gradients_of_each_value(kind, shape, rng):
    """Sets of one chunk and of several; dy of all values, and of one alone."""
    x, gamma, beta, dy = rng.standard_normal((4, *shape)).astype(np.float32)
    one = np.zeros_like(dy)
    one[1, 2, 3, 4] = 5
    norm, twin = nz.SPADE(shape[1], kind), nz.SPADE(shape[1], kind)
    y = norm(x + 5, gamma, beta)
    with nz.use("reference"):
        check.close(y, twin(x + 5, gamma, beta), 1e-6, float(np.abs(y).max()))
    for d in (dy, one):
        norm(x + 5, gamma, beta)
        dx = norm.backward(d)
        with nz.use("reference"):
            twin(x + 5, gamma, beta)
            expected = twin.backward(d)
        check.close(dx, expected, 1e-5, float(np.abs(expected).max()))
        for name in ("gamma", "beta"):
            check.close(norm.grads[name], twin.grads[name], 1e-6, float(np.abs(twin.grads[name]).max()))
