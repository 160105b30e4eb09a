"""out=: in place is right, apart is right, in between is an error; and what was overwritten is not used again."""

from functools import partial

import numpy as np
import pytest

import normzoo as nz
from normzoo.backends.cpu.choice import is_columns
from tests import check
from tests.cases import CASES, channels_last_strides, draw, filled


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("arrange", [np.ascontiguousarray, channels_last_strides, np.asfortranarray])
def test_results_land_in_out(case, arrange, rng):
    x, dy = (arrange(a) for a in draw(case, rng, np.float32))
    norm = filled(case.norm(), rng)
    y = norm(x)
    dx = norm.backward(dy)
    for out in (np.empty_like(x), np.empty(x.shape, x.dtype), np.empty((*x.shape, 2), x.dtype)[..., 1]):
        assert norm(x, out=out) is out
        check.same_bits(np.ascontiguousarray(out), np.ascontiguousarray(y))
        assert norm.backward(dy, out=out) is out
        check.same_bits(np.ascontiguousarray(out), np.ascontiguousarray(dx))


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("arrange", [np.ascontiguousarray, channels_last_strides, lambda a: np.repeat(a, 2, 0)[::2]])
def test_in_place(case, arrange, rng):
    x, dy = (arrange(a) for a in draw(case, rng, np.float32))
    norm = filled(case.norm(), rng)
    y = norm(x)
    dx = norm.backward(dy)
    d = dy.copy(order="K")
    assert norm.backward(d, out=d) is d
    check.same_bits(np.ascontiguousarray(d), np.ascontiguousarray(dx))
    assert norm(x, out=x) is x
    check.same_bits(np.ascontiguousarray(x), np.ascontiguousarray(y))


def test_backward_does_not_read_an_overwritten_x(rng):
    x, dy = rng.standard_normal((2, 6, 8)).astype(np.float32)
    norm = nz.LayerNorm(8)
    norm(x, out=x)
    with pytest.raises(RuntimeError, match=r"LayerNorm\(\(8,\)\): .*overwritten"):
        norm.backward(dy)
    # dx over x: right once, an error twice
    norm(x)
    expected = norm.backward(dy)
    check.same_bits(norm.backward(dy, out=x), expected)
    with pytest.raises(RuntimeError, match="overwritten"):
        norm.backward(dy)
    # constant statistics and no weight: x is not needed
    plain = nz.BatchNorm(8, affine=False).eval()
    expected = plain.forward(x)[1].backward(dy).x
    plain(x, out=x)
    check.same_bits(plain.backward(dy), expected)
    # a copy was made of a strided x: nothing is lost
    wide = rng.standard_normal((6, 16)).astype(np.float32)[:, ::2]
    expected = norm.forward(wide)[1].backward(dy).x
    norm(wide, out=wide)
    check.same_bits(norm.backward(dy), expected)


def test_out_that_overlaps_in_part_is_refused(rng):
    buffer = rng.standard_normal((9, 8)).astype(np.float32)
    before = buffer.copy()
    norm = nz.LayerNorm(8)
    norm(before)
    saved = norm.saved
    for x, out in ((buffer[:-1], buffer[1:]), (buffer[:8], buffer[:8].T), (buffer[:4, ::2], buffer[:4, 1:5])):
        target = norm if x.shape[1] == 8 else nz.LayerNorm(4)
        with pytest.raises(ValueError, match="overlaps in part"):
            target(x, out=out)
    with pytest.raises(ValueError, match="overlaps in part"):
        norm.backward(buffer, out=before[::-1])
    check.same_bits(buffer, before)
    assert norm.saved is saved
    norm = nz.BatchNorm(8)
    norm.running_mean = buffer[2]
    for mode in (True, False):
        with pytest.raises(ValueError, match="overlaps in part"):
            norm.train(mode)(before, out=buffer)
    check.same_bits(buffer, before)
    # interleaved, but apart
    norm = nz.LayerNorm(4)
    expected = norm(buffer[:, ::2].copy())
    check.same_bits(norm(buffer[:, ::2], out=buffer[:, 1::2]).copy(), expected)


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        ([0.0], TypeError, "out to be a NumPy array, got list"),
        (np.empty((2, 8)), TypeError, "out of dtype float32, got float64"),
        (np.empty((2, 7), np.float32), ValueError, r"out of shape \(2, 8\), got \(2, 7\)"),
        (np.broadcast_to(np.float32(0), (2, 8)), ValueError, "writeable"),
        (np.lib.stride_tricks.as_strided(np.empty(8, np.float32), (2, 8), (0, 4)), ValueError, "broadcast axes"),
    ],
)
def test_out_that_does_not_fit(out, error, message):
    x = np.ones((2, 8), np.float32)
    norm = nz.LayerNorm(8)
    with pytest.raises(error, match=message):
        norm(x, out=out)
    norm(x)
    with pytest.raises(error, match=message):
        norm.backward(x, out=out)
    for function in (nz.functional.normalize, lambda a, out: nz.functional.normalize(a, 3.0, out=out)):
        with pytest.raises(error, match=message):
            function(x, out=out)


def behind_a_line(like, begin):
    """An array like another that begins `begin` bytes behind the beginning of a line of the cache."""
    room = np.empty(like.nbytes + 64 + begin, np.uint8)
    first = -room.__array_interface__["data"][0] % 64 + begin
    return room[first : first + like.nbytes].view(like.dtype).reshape(like.shape)


@pytest.mark.parametrize(
    "dtype", ["float32", *(pytest.param(d, marks=pytest.mark.slow) for d in ("float16", "float64"))]
)
@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        pytest.param(nz.LayerNorm(1024), (4352, 1024), id="layer_norm"),
        pytest.param(nz.InstanceNorm(3, affine=True), (9, 3, 512, 336), id="instance_norm", marks=pytest.mark.slow),
    ],
)
def test_results_that_no_cache_holds_begin_anywhere(norm, shape, dtype, rng):
    """They are written past the caches where they begin at a multiple of 16 bytes, in fewer pieces where that is one of
    32 or 64: with the bits of any part."""
    if dtype == "float16":
        shape = (2 * shape[0], *shape[1:])
    x, dy = rng.standard_normal((2, *shape), np.float32).astype(dtype)
    size = x.dtype.itemsize
    assert x.nbytes >= 1 << 24
    part = norm(x[-2:]), norm.backward(dy[-2:])
    for begin in {0, size, 16 // size * size, 24, 32}:
        out = behind_a_line(x, begin)
        for run, a, expected in ((norm, x, part[0]), (norm.backward, dy, part[1])):
            assert run(a, out=out) is out
            check.same_bits(out[-2:], expected)


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (nz.BatchNorm(16, channel_axis=-1), (264000, 16)),  # all threads share the columns
        (nz.GroupNorm(4, 64, channel_axis=-1), (16, 4112, 64)),  # a thread takes whole tiles
        (nz.BatchNorm(3, channel_axis=-1), (1400001, 3)),  # rows side by side, and some left over
        (nz.InstanceNorm(3, channel_axis=-1), (2, 700001, 3)),  # samples that begin anywhere
        (nz.BatchNorm(3).eval(), (28, 3, 50176)),  # runs of several channels, one behind the other
        (nz.BatchNorm(16), (84, 16, 56, 56)),  # too large a set to be read again where it lies
    ],
    ids=[
        "batch_norm-last",
        "group_norm-last",
        "batch_norm-narrow",
        "instance_norm-narrow",
        "batch_norm-eval",
        "batch_norm-4d",
    ],
)
def test_results_past_the_caches_have_the_bits_of_others(norm, shape, rng):
    x, dy = rng.standard_normal((2, *shape), np.float32)
    assert x.nbytes >= 1 << 24
    filled(norm, rng)
    found = []
    for begin in (4, 0, 16):  # at 4 bytes no vector may begin
        out = behind_a_line(x, begin)
        found.append((norm(x, out=out).copy(), norm.backward(dy, out=out).copy()))
    for y, dx in found[1:]:
        check.same_bits(y, found[0][0])
        check.same_bits(dx, found[0][1])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (nz.BatchNorm, (3, 5, 40, 70)),
        (nz.BatchNorm, (140, 5, 3, 3)),
        (partial(nz.BatchNorm, channel_axis=-1), (3, 40, 70, 5)),
        (partial(nz.InstanceNorm, track_running_stats=True), (2, 5, 40, 70)),
    ],
    ids=["rows", "folded columns", "columns", "instance"],
)
def test_an_evaluation_goes_back_in_place(norm, shape, affine, dtype, rng):
    """dx of constant statistics is written while dy and x are read for the gradients of the parameters."""
    norm = filled(norm(5, affine=affine), rng).eval()
    x, dy = (a.astype(dtype) for a in rng.standard_normal((2, *shape), np.float32))
    axis = getattr(norm, "channel_axis", 1)
    along = [1] * x.ndim
    along[axis] = 5
    mean, var = (norm.buffers[n].astype(np.float64).reshape(along) for n in ("running_mean", "running_var"))
    rstd = 1 / np.sqrt(var + norm.eps)
    weight = norm.weight.reshape(along) if affine else 1.0
    exact, g = (x.astype(np.float64) - mean) * rstd, dy.astype(np.float64)
    others = tuple(i for i in range(x.ndim) if i != axis % x.ndim)
    for where in ("new", "dy", "x"):
        a, d = x.copy(), dy.copy()
        norm(a)
        dx = norm.backward(d, out={"new": None, "dy": d, "x": a}[where])
        check.close(dx, g * weight * rstd, 1e-6 if dtype == "float32" else 2**-10)
        if affine:
            check.close(norm.grads["weight"], (g * exact).sum(others), 1e-5)
            check.close(norm.grads["bias"], g.sum(others), 1e-5)


def test_runs_that_lie_side_by_side_are_rows():
    """GroupNorm of (8, 512, 7, 7) in 32 groups: as columns it would take three times as long."""
    assert not is_columns((8 * 32, 16, 1, 49))
    assert is_columns((1, 64, 2048, 49))  # BatchNorm of (64, 2048, 7, 7): its runs lie apart
