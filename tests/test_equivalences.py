"""Norms that must agree, and identities that hold for all."""

import numpy as np
import pytest

import normzoo as nz
from tests import check
from tests.cases import CASES, draw, filled

F = nz.functional


def both(function, x, dy):
    y, saved = function(x)
    return y, saved.backward(dy).x


def assert_same(one, two, tolerance=check.EXACT):
    for a, b in zip(one, two, strict=True):
        check.close(a, b, tolerance)


def test_one_group_is_layer_norm_over_channels_and_positions(rng):
    x, dy = rng.standard_normal((2, 3, 4, 5, 7))
    assert_same(
        both(lambda v: F.group_norm(v, 1, return_saved=True), x, dy),
        both(lambda v: F.layer_norm(v, x.shape[1:], return_saved=True), x, dy),
    )


def test_a_group_a_channel_is_instance_norm(rng):
    x, dy = rng.standard_normal((2, 3, 4, 5, 7))
    assert_same(
        both(lambda v: F.group_norm(v, 4, return_saved=True), x, dy),
        both(lambda v: F.instance_norm(v, return_saved=True), x, dy),
    )


def test_batch_norm_of_one_sample_is_instance_norm(rng):
    x, dy = rng.standard_normal((2, 1, 4, 5, 7))
    assert_same(
        both(lambda v: F.batch_norm(v, None, None, training=True, return_saved=True), x, dy),
        both(lambda v: F.instance_norm(v, return_saved=True), x, dy),
    )


def test_rms_norm_of_centred_rows_is_layer_norm(rng):
    x = rng.standard_normal((3, 40))
    x -= x.mean(axis=1, keepdims=True)
    check.close(F.rms_norm(x, 40, eps=1e-5), F.layer_norm(x, 40), check.EXACT)


def test_layer_norm_of_channels_is_layer_norm_of_the_transpose(rng):
    x, dy = rng.standard_normal((2, 3, 40, 5))
    there = both(lambda v: F.layer_norm(v, 40, axis=1, return_saved=True), x, dy)
    moved = both(lambda v: F.layer_norm(v, 40, return_saved=True), *(np.moveaxis(a, 1, -1) for a in (x, dy)))
    assert_same(there, [np.moveaxis(a, -1, 1) for a in moved])


def test_normalize_is_rms_norm_up_to_the_root_of_the_count(rng):
    x = rng.standard_normal((5, 9))
    check.close(F.normalize(x) * 3, F.rms_norm(x, 9, eps=0.0), check.EXACT)


@pytest.mark.parametrize("norm", [nz.BatchNorm(6), nz.InstanceNorm(6, affine=True), nz.GroupNorm(2, 6)], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_channels_last_is_channels_first_transposed(norm, dtype, rng):
    x, dy = rng.standard_normal((2, 4, 6, 5, 7)).astype(dtype)
    last = type(norm)(*norm.label.arguments, **({"affine": True} if norm.weight is not None else {}), channel_axis=-1)
    filled(norm, rng)
    last.load_state_dict(norm.state_dict())
    y, dx = norm(x), norm.backward(dy)
    z, dz = last(np.moveaxis(x, 1, -1)), last.backward(np.moveaxis(dy, 1, -1))
    check.close(np.moveaxis(z, -1, 1), y, check.forward_tolerance(dtype))
    check.close(np.moveaxis(dz, -1, 1), dx, check.backward_tolerance(dtype))
    for name, gradient in norm.grads.items():
        check.close(last.grads[name], gradient, check.backward_tolerance(dtype))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_gradient_is_orthogonal_to_what_the_norm_removes(case, rng):
    """A centred norm ignores a constant added to a set and, up to eps, a factor: sum(dx) = 0 and sum(dx * xhat) = 0."""
    x, dy = draw(case, rng)
    norm = case.norm(dtype=np.float64)
    norm.eps = 1e-12
    y = norm(x)
    dx = norm.backward(dy)
    b, c = norm.saved.mean.shape
    view = norm.saved._plan.view
    dx4, y4 = (view.of(a).reshape(view.dims).transpose(0, 2, 1, 3).reshape(b * c, -1) for a in (dx, y))
    scale = np.abs(dx4).sum(axis=1).max()
    check.close((dx4 * y4).sum(axis=1), np.zeros(b * c), 1e-9, scale)
    if norm.moments.center:
        check.close(dx4.sum(axis=1), np.zeros(b * c), check.EXACT, scale)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_powers_of_two_scale_exactly(case, rng):
    """Bits do not change when x is scaled by 2 and eps by 4."""
    x, _ = draw(case, rng, np.float32)
    norm = filled(case.norm(), rng)
    norm.eps = 2.0**-20
    y = norm(x)
    norm.eps *= 4.0**5
    check.same_bits(norm(x * np.float32(2.0**5)), y)
