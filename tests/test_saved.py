"""Arrays that a backward pass reads and the caller has changed since: told, with the remedy."""

import numpy as np
import pytest

import normzoo as nz
from normzoo.passes import plan
from normzoo.passes import site as passes
from tests import check
from tests.cases import CASES, channels_last_strides, draw, filled
from tests.zoo import ZOO

REMEDY = "expected x as it was in the forward pass, got other values.*write h = h \\+ norm"


@pytest.fixture(params=["first", "thousandth"])
def each_pass(request, monkeypatch):
    """The first pass, and those in one call."""
    if request.param == "thousandth":
        monkeypatch.setattr(plan, "ENOUGH", 1)
    passes.forget()
    yield
    passes.forget()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_residual_that_is_added_in_place(case, dtype, rng, each_pass):
    norm = filled(case.norm(dtype=dtype), rng)
    x, dy = draw(case, rng, dtype)
    for _ in range(4):
        h = x.copy()
        y = norm(h)
        expected = norm.backward(dy)
        with np.errstate(all="ignore"):
            h += y
        if not norm.saved.copied:  # else x may change
            with pytest.raises(RuntimeError, match=REMEDY):
                norm.backward(dy)
            h[...] = x
        check.same_bits(norm.backward(dy), expected)


@pytest.mark.parametrize("case", [c for c in ZOO if not c.inputs and not c.fixed][::2], ids=str)
def test_of_every_norm_dx_is_right_or_refused(case, rng):
    norm, x, _, dy = case.draw(rng, np.float32)
    norm.eval()
    try:
        norm(x)
    except RuntimeError:  # wants something first
        pytest.skip("needs more than x")
    expected = norm.backward(dy).copy()
    h = x.copy()
    norm(h)
    h += 1
    try:
        found = norm.backward(dy)
    except RuntimeError as error:
        assert "as it was in the forward pass" in str(error)
    else:
        check.same_bits(found, expected)


def test_a_step_of_the_optimizer_before_the_backward_pass(rng, each_pass):
    norm = nz.LayerNorm(8)
    x, dy = rng.standard_normal((2, 4, 8)).astype(np.float32)
    for _ in range(4):
        norm(x)
        norm.weight -= 0.1
        with pytest.raises(RuntimeError, match="expected weight as it was .* change parameters after the backward"):
            norm.backward(dy)
        norm(x)
        norm.bias -= 0.1  # which is not read
        norm.weight = norm.weight + 1  # another array
        norm.backward(dy)


def test_masks(rng):
    norm = nz.LayerNorm(8)
    x, dy = rng.standard_normal((2, 4, 8)).astype(np.float32)
    norm(x, mask=np.arange(4)[:, None] > 0)
    x *= 2
    with pytest.raises(RuntimeError, match=REMEDY):
        norm.backward(dy)


def test_what_is_no_change(rng, each_pass):
    """NaN, strides, x that was copied, results written over x, and arrays of one value or none."""
    norm = nz.LayerNorm(8)
    dy = rng.standard_normal((4, 8)).astype(np.float32)
    for x in (
        np.full((4, 8), np.nan, np.float32),
        rng.standard_normal((4, 16)).astype(np.float32)[:, ::2],
        rng.standard_normal((8, 4)).astype(np.float32).T,
        np.frombuffer(bytearray(b"1" + bytes(128)), np.float32, 32, 1).reshape(4, 8),
        np.array([[-0.0] * 8] * 4, np.float32),
    ):
        for _ in range(4):
            norm(x)
            norm.backward(dy)
            norm.backward(dy)
    x = rng.standard_normal((4, 8)).astype(np.float32)
    norm(x)
    norm.backward(dy, out=x)
    with pytest.raises(RuntimeError, match="overwritten in place"):
        norm.backward(dy)
    for shape in ((0, 8), (1, 8)):
        a = np.ones(shape, np.float32)
        norm(a)
        norm.backward(a)
    last = nz.GroupNorm(2, 4)
    x = channels_last_strides(rng.standard_normal((2, 4, 3, 3)).astype(np.float32))
    for _ in range(4):
        last(x)
        last.backward(x)
