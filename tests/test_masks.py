"""Values that do not count: masks, lengths, weights, segments, on every norm of the algebra.

The oracle is the ragged data: every set's kept values, one after the other, through the formula of the paper.
"""

import copy

import numpy as np
import pytest

import normzoo as nz
from tests import check
from tests.cases import CASES, Case, draw
from tests.zoo import ZOO

EPS = 1e-5
each_backend = pytest.mark.parametrize("backend", ["cpu", "reference"])
POLICIES = ("zero", "keep", "normalize")

# name -> (norm, shape, reduced axes of x, axes that parameters span, groups)
NORMS = {
    "batch": (lambda **o: nz.BatchNorm(5, **o), (4, 5, 9), (0, 2), (1,), 1),
    "batch-last": (lambda **o: nz.BatchNorm(5, channel_axis=-1, **o), (4, 9, 5), (0, 1), (2,), 1),
    "batch-4d": (lambda **o: nz.BatchNorm(3, **o), (4, 3, 5, 6), (0, 2, 3), (1,), 1),
    "instance": (lambda **o: nz.InstanceNorm(5, affine=True, **o), (4, 5, 9), (2,), (1,), 1),
    "instance-last": (lambda **o: nz.InstanceNorm(5, affine=True, channel_axis=-1, **o), (4, 9, 5), (1,), (2,), 1),
    "layer": (lambda **o: nz.LayerNorm(7, **o), (4, 9, 7), (2,), (2,), 1),
    "layer-2-axes": (lambda **o: nz.LayerNorm((9, 7), **o), (4, 9, 7), (1, 2), (1, 2), 1),
    "layer-channels": (lambda **o: nz.LayerNorm(5, axis=1, **o), (4, 5, 9), (1,), (1,), 1),
    "layer-scattered": (lambda **o: nz.LayerNorm((4, 9), axis=(0, 2), **o), (4, 5, 9), (0, 2), (0, 2), 1),
    "rms": (lambda **o: nz.RMSNorm(7, eps=EPS, **o), (4, 9, 7), (2,), (2,), 1),
    "group": (lambda **o: nz.GroupNorm(2, 6, **o), (3, 6, 9), (1, 2), (1,), 2),
    "group-last": (lambda **o: nz.GroupNorm(2, 6, channel_axis=-1, **o), (3, 9, 6), (1, 2), (2,), 2),
}
each_norm = pytest.mark.parametrize("name", NORMS)


def set_ids(name):
    """For every value the number of its set."""
    _, shape, reduced, spans, groups = NORMS[name]
    ids = np.zeros(shape, int)
    for axis, size in enumerate(shape):
        if groups > 1 and axis == spans[0]:
            place = np.arange(size) // (size // groups)
        elif axis in reduced:
            continue
        else:
            place = np.arange(size)
        ids = ids * (place.max() + 1) + place.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return ids


def spread_parameter(p, name):
    _, shape, _, spans, _ = NORMS[name]
    return p.reshape([size if axis in spans else 1 for axis, size in enumerate(shape)])


def oracle(name, x, mask, weight, bias, masked="zero", weights=None, segments=0, center=True):
    """y, set by set; complex x for derivatives."""
    shape = x.shape
    ids = set_ids(name) * (np.max(segments) + 1) + segments
    w = np.ones(shape) if weights is None else np.broadcast_to(weights, shape)
    mask = np.broadcast_to(mask, shape)
    xhat = np.zeros_like(x)
    for one in np.unique(ids):
        here = ids == one
        kept = here & mask & (w > 0)
        if not kept.any():
            continue
        v, u = x[kept], w[kept] / w[kept].sum()
        mean = (u * v).sum() if center else 0.0
        rstd = 1 / np.sqrt((u * (v - mean) ** 2).sum() + EPS)
        xhat[here] = (x[here] - mean) * rstd
    y = xhat if weight is None else xhat * spread_parameter(weight, name)
    y = y if bias is None else y + spread_parameter(bias, name)
    if masked == "zero":
        return np.where(mask, y, 0)
    return np.where(mask, y, x) if masked == "keep" else y


def filled(norm, rng):
    for p in norm.params.values():
        p[...] = rng.standard_normal(p.shape)
    return norm


MASKS = {
    "items": lambda s, rng: np.array([True, False, True, True][: s[0]]).reshape(-1, *(1,) * (len(s) - 1)),
    "places": lambda s, rng: np.r_[True, True, rng.random(s[-1] - 2) < 0.5],
    "items-and-places": lambda s, rng: rng.random((s[0], *(1,) * (len(s) - 2), s[-1])) < 0.6,
    "middle": lambda s, rng: (rng.random((s[1], *(1,) * (len(s) - 2))) < 0.7) | (np.arange(s[1]) < 2).reshape(-1, *(1,) * (len(s) - 2)),
    "any": lambda s, rng: rng.random(s) < 0.6,
    "none": lambda s, rng: np.zeros((1,) * len(s), bool),
    "all": lambda s, rng: np.ones(s, bool),
}  # fmt: skip


@each_backend
@each_norm
@pytest.mark.parametrize("masked", POLICIES)
@pytest.mark.parametrize("kind", MASKS)
def test_masked_statistics_and_gradients_are_those_of_the_ragged_data(name, kind, masked, backend, rng):
    make, shape, *_ = NORMS[name]
    norm = filled(make(dtype=np.float64), rng)
    x, dy = rng.standard_normal((2, *shape))
    mask = MASKS[kind](shape, rng)
    if isinstance(norm, nz.BatchNorm):
        mask = np.broadcast_to(mask, shape).copy()
        if 1 in np.unique(set_ids(name)[mask], return_counts=True)[1]:
            mask[:2] = True  # a channel of one value raises
    center = not isinstance(norm, nz.RMSNorm)
    p = norm.weight, norm.bias

    def function(x, weight=p[0], bias=p[1]):
        return oracle(name, x, mask, weight, bias, masked, center=center)

    with nz.use(backend):
        y = norm(x, mask=mask, masked=masked)
        check.close(y, function(x), check.EXACT)
        dx = norm.backward(dy)
    check.gradient_matches(function, x, dx, dy, rng, 1e-10)
    for key, value in norm.params.items():
        check.gradient_matches(lambda v, key=key: function(x, **{key: v}), value, norm.grads[key], dy, rng, 1e-10)
    if masked == "zero":
        assert (dx[~np.broadcast_to(mask, shape)] == 0).all(), "what does not count has a gradient of exactly 0"


@each_norm
@each_backend
def test_weighted_statistics_and_gradients(name, backend, rng):
    make, shape, *_ = NORMS[name]
    norm = filled(make(dtype=np.float64), rng)
    x, dy = rng.standard_normal((2, *shape))
    weights = rng.random((shape[0], *(1,) * (len(shape) - 2), shape[-1])) * (
        rng.random((shape[0], *(1,) * (len(shape) - 2), 1)) < 0.8
    )
    center = not isinstance(norm, nz.RMSNorm)

    def function(x, weight=norm.weight, bias=norm.bias):
        return oracle(name, x, np.array(True), weight, bias, weights=weights, center=center)

    with nz.use(backend):
        check.close(norm(x, sample_weight=weights), function(x), check.EXACT)
        dx = norm.backward(dy)
    check.gradient_matches(function, x, dx, dy, rng, 1e-10)
    for key, value in norm.params.items():
        check.gradient_matches(lambda v, key=key: function(x, **{key: v}), value, norm.grads[key], dy, rng, 1e-10)


@each_backend
@pytest.mark.parametrize("name", ["batch", "batch-last", "batch-4d"])
@pytest.mark.parametrize("weighted", [False, True])
def test_segments_are_sets_of_their_own(name, weighted, backend, rng):
    make, shape, *_ = NORMS[name]
    shape = (11, *shape[1:])
    norm = filled(make(dtype=np.float64, track_running_stats=False), rng)
    x, dy = rng.standard_normal((2, *shape))
    segments = np.array([3, 0, 0, 3, 7, 0, 7, 3, 3, 0, 7])
    mask = (rng.random(shape) < 0.7) if weighted else np.ones((1,) * x.ndim, bool)
    held = NORMS[name]
    NORMS[name] = (held[0], shape, *held[2:])
    try:
        spread = segments.reshape(-1, *(1,) * (x.ndim - 1))

        def function(x, weight=norm.weight, bias=norm.bias):
            return oracle(name, x, mask, weight, bias, "normalize" if weighted else "zero", segments=spread)

        with nz.use(backend):
            y = norm(x, segments=segments, mask=mask if weighted else None, masked="normalize" if weighted else "zero")
            check.close(y, function(x), check.EXACT)
            check.gradient_matches(function, x, norm.backward(dy), dy, rng, 1e-10)
    finally:
        NORMS[name] = held


@each_backend
def test_lengths_have_the_bits_of_the_ragged_data(backend, rng):
    """pytorch#70529, #81985, #30414, keras#19818: padding must not touch the statistics, nor their last bit."""
    lengths = np.array([9, 4, 6, 1])
    with nz.use(backend):
        for last in (False, True):
            x = (1e3 + rng.standard_normal((4, 33, 17))).astype(np.float32)
            x = np.ascontiguousarray(np.moveaxis(x, 1, -1)) if last else x
            dy = rng.standard_normal(x.shape).astype(np.float32)
            time = 1 if last else 2
            padded = np.where((np.arange(17) < lengths[:, None]).reshape((4, 17, 1) if last else (4, 1, 17)), x, np.nan)
            axis = -1 if last else 1
            instance, batch = nz.InstanceNorm(33, channel_axis=axis), nz.BatchNorm(33, channel_axis=axis)
            pieces = [np.take(x[i : i + 1], range(k), axis=time) for i, k in enumerate(lengths)]
            dys = [np.take(dy[i : i + 1], range(k), axis=time) for i, k in enumerate(lengths)]
            y = instance(padded, lengths=lengths, length_axis=time)
            dx = instance.backward(dy)
            for i, k in enumerate(lengths):
                if k > 1:
                    ragged, saved = instance.forward(pieces[i])
                    check.same_bits(np.take(y[i : i + 1], range(k), axis=time), ragged)
                    check.same_bits(np.take(dx[i : i + 1], range(k), axis=time), saved.backward(dys[i]).x)
                assert not np.take(y[i], range(k, 17), axis=time - 1).any()
            y = batch(padded, lengths=lengths)
            dx = batch.backward(dy)
            twin = nz.BatchNorm(33, channel_axis=axis)
            whole = twin(np.concatenate(pieces, axis=time))
            back = twin.backward(np.concatenate(dys, axis=time))
            start = 0
            for i, k in enumerate(lengths):
                for found, expected in ((y, whole), (dx, back)):
                    check.same_bits(
                        np.take(found[i : i + 1], range(k), axis=time),
                        np.take(expected, range(start, start + k), axis=time),
                    )
                start += k
            check.same_bits(batch.running_mean, twin.running_mean)
            check.close(batch.running_var, twin.running_var, 1e-7)
            for key in ("weight", "bias"):
                check.same_bits(batch.grads[key], twin.grads[key])


def test_layer_norm_of_kept_rows_has_their_bits(rng):
    x = rng.standard_normal((3, 5, 33)).astype(np.float32)
    mask = rng.random((3, 5, 1)) < 0.5
    norm = filled(nz.LayerNorm(33), rng)
    y = norm(np.where(mask, x, np.nan), mask=mask)
    check.same_bits(y[mask[..., 0]], norm(x[mask[..., 0]]))


@pytest.mark.parametrize("columns", [1024, 1023])
def test_rows_that_no_cache_holds(columns, rng):
    """Kept rows of 17 MB and more are copied past the caches where they are whole lines (1024), and usually not."""
    x, dy = rng.standard_normal((2, 4608, columns), dtype=np.float32)
    mask = rng.random((4608, 1)) < 0.95
    kept = mask[:, 0]
    norm, dense = nz.LayerNorm(columns), nz.LayerNorm(columns)
    y, expected = norm(x, mask=mask), dense(x[kept])
    assert kept.sum() * columns * 4 > 1 << 24
    np.testing.assert_array_equal(y[kept], expected)
    assert not y[~kept].any()
    dx, expected = norm.backward(dy), dense.backward(dy[kept])
    np.testing.assert_array_equal(dx[kept], expected)
    assert not dx[~kept].any()
    np.testing.assert_array_equal(norm.grads["weight"], dense.grads["weight"])


@each_norm
def test_an_empty_set_gives_the_bias_and_never_nan(name, rng):
    make, shape, *_ = NORMS[name]
    norm = filled(make(), rng)
    x = np.full(shape, np.nan, np.float32)
    y = norm(x, mask=np.zeros(shape, bool))
    assert not y.any()
    assert not norm.backward(np.ones(shape, np.float32)).any()
    y = norm(np.ones(shape, np.float32), mask=np.zeros(shape, bool), masked="normalize")
    expected = np.zeros(shape, np.float32) if norm.bias is None else spread_parameter(norm.bias, name)
    np.testing.assert_array_equal(y, np.broadcast_to(expected, shape))


@each_backend
def test_nan_can_be_skipped(backend, rng):
    x = rng.standard_normal((6, 4, 10))
    x[1, 2, 3] = x[5, 0, 0] = np.nan
    norm = nz.BatchNorm(4, dtype=np.float64)
    with nz.use(backend):
        y = norm(x, skip_nan=True, masked="keep")
        dx = norm.backward(np.ones_like(x))
    assert np.isnan(y).sum() == 2 and np.isfinite(norm.running_mean).all() and np.isfinite(dx).all()
    kept = x[:, 2][~np.isnan(x[:, 2])]
    check.close(norm.running_mean[2], 0.1 * kept.mean(), 1e-12)
    check.close(norm.running_var[2], 0.9 + 0.1 * kept.var(ddof=1), 1e-12)


def test_running_statistics_of_what_counts(rng):
    x = rng.standard_normal((6, 3, 10))
    mask = rng.random((6, 1, 10)) < 0.5
    batch, instance = nz.BatchNorm(3, dtype=np.float64), nz.InstanceNorm(3, track_running_stats=True, dtype=np.float64)
    batch(x, mask=mask)
    kept = np.moveaxis(x, 1, -1)[mask[:, 0]]
    check.close(batch.running_mean, 0.1 * kept.mean(0), 1e-13)
    check.close(batch.running_var, 0.9 + 0.1 * kept.var(0, ddof=1), 1e-13)
    mask[2] = False
    instance(x, mask=mask)
    items = [x[i][:, mask[i, 0]] for i in range(6) if mask[i].any()]
    check.close(instance.running_mean, 0.1 * np.mean([v.mean(1) for v in items], axis=0), 1e-13)
    check.close(instance.running_var, 0.9 + 0.1 * np.mean([v.var(1, ddof=1) for v in items], axis=0), 1e-13)
    assert int(batch.num_batches_tracked) == 1
    # a channel that no value counts of keeps its statistics
    before = batch.running_mean.copy()
    batch(x, mask=np.array([True, False, True]).reshape(1, 3, 1))
    assert batch.running_mean[1] == before[1] and batch.running_mean[0] != before[0]


@pytest.mark.parametrize("kind", [nz.BatchNorm, nz.InstanceNorm])
def test_evaluation_leaves_out_what_does_not_count(kind, rng):
    norm = filled(kind(3, affine=True, track_running_stats=True, dtype=np.float64), rng)
    norm.running_mean[...], norm.running_var[...] = 1.0, 2.0
    norm.eval()
    x, dy = rng.standard_normal((2, 4, 3, 5))
    mask = rng.random((4, 1, 5)) < 0.5
    shown = np.where(mask, x, np.nan)
    y = norm(shown, mask=mask)
    dx = norm.backward(dy)
    grads = dict(norm.grads)
    expected = norm(x)
    np.testing.assert_array_equal(y, np.where(mask, expected, 0))
    np.testing.assert_array_equal(dx, norm.backward(np.where(mask, dy, 0)))
    for key, value in norm.grads.items():
        check.close(grads[key], value, 1e-14)


def test_read_only_running_statistics_change_nothing(rng):
    norm = nz.BatchNorm(5)
    norm.running_var.flags.writeable = False
    before = norm.state_dict()
    with pytest.raises(ValueError, match="read-only"):
        norm(rng.standard_normal((4, 5, 9)).astype(np.float32), lengths=[9, 4, 3, 2])
    for key, value in norm.state_dict().items():
        check.same_bits(value, before[key])


@each_norm
def test_out_in_place_and_strides(name, rng):
    make, shape, *_ = NORMS[name]
    norm = filled(make(), rng)
    x, dy = rng.standard_normal((2, *shape)).astype(np.float32)
    mask = MASKS["items-and-places"](shape, rng) | (np.arange(shape[-1]) < 2)
    y, saved = copy.deepcopy(norm).forward(nz.select(x, mask))
    dx = saved.backward(dy).x
    place = x.copy()
    assert norm(place, out=place, mask=mask) is place
    check.same_bits(place, y)
    back = dy.copy()
    assert norm.backward(back, out=back) is back
    check.same_bits(back, dx)
    last = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    found = norm(last, mask=mask)
    check.close(found, y, 1e-6)
    assert found.strides == last.strides


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"mask": np.ones((4, 5, 9))}, TypeError, "booleans"),
        ({"mask": np.ones((3, 1, 1), bool)}, ValueError, "broadcasts"),
        ({"lengths": [1.0, 2, 3, 4]}, TypeError, "integers"),
        ({"lengths": [1, 2, 3]}, ValueError, "lengths of shape"),
        ({"lengths": [1, 2, 3, 10]}, ValueError, "lengths in"),
        ({"lengths": [1, 2, 3, -1]}, ValueError, "lengths in"),
        ({"sample_weight": -np.ones(9)}, ValueError, ">= 0"),
        ({"sample_weight": np.full(9, np.nan)}, ValueError, "finite"),
        ({"segments": [0, 1]}, ValueError, "segments of shape"),
        ({"segments": [0.0, 1, 2, 3]}, TypeError, "integers"),
        ({"segments": [0, 1, 2, 3, 4], "segment_axis": 1}, ValueError, "axis that the norm reduces"),
        ({"mask": np.ones(9, bool), "masked": "drop"}, ValueError, "masked"),
        ({"mask": np.arange(36).reshape(4, 1, 9) == 3}, ValueError, "more than 1 value"),
    ],
)
def test_bad_selections_change_nothing(options, error, match, rng):
    norm = nz.BatchNorm(5)
    before = norm.state_dict()
    with pytest.raises(error, match=match):
        norm(rng.standard_normal((4, 5, 9)).astype(np.float32), **options)
    for key, value in norm.state_dict().items():
        check.same_bits(value, before[key])


def row(case, rng):
    """(norm, x, arguments beside x, dy) of a row of any norm."""
    if isinstance(case, Case):
        x, dy = draw(case, rng)
        return filled(case.norm(dtype=np.float64), rng), x, {}, dy
    norm, x, inputs, dy = case.draw(rng)
    return norm, x, inputs | case.fixed, dy


def cut(norm, arguments, size, axis, keep):
    """A copy of the norm for x with `keep` of `size` places along an axis, and what it takes beside x."""
    twin = copy.deepcopy(norm)
    if hasattr(norm, "shape"):  # weights have a shape of their own
        twin.shape = (*norm.shape[:axis], int(keep.sum()), *norm.shape[axis + 1 :])
    if getattr(norm, "dim", None) == axis == 0:
        twin.params = {name: p[keep] if p.shape[:1] == (size,) else p for name, p in twin.params.items()}
        twin._shape = (int(keep.sum()), *norm._shape[1:])
        if hasattr(norm, "num_features"):
            twin.num_features = int(keep.sum())
    if axis == 0 and (getattr(norm, "parameter_axis", None) is not None or norm.label.arguments == ((3, 5),)):
        pytest.skip("its parameters span the samples")
    return twin, {name: kept_of(a, size, axis, keep) for name, a in arguments.items()}


def kept_of(a, size, axis, keep):
    whole = isinstance(a, np.ndarray) and a.ndim > axis and a.shape[axis] == size
    return np.compress(keep, a, axis) if whole else a


ROWS = [pytest.param(case, id=str(case)) for case in [*CASES, *ZOO]]


def test_every_norm_has_a_row_here():
    assert {str(case.values[0]).split("-")[0] for case in ROWS} == set(nz.list_norms())


@pytest.mark.parametrize("places", [False, True], ids=["samples", "places"])
@pytest.mark.parametrize("case", ROWS)
def test_every_norm_is_right_with_masks_or_refuses_by_name(case, places, rng):
    """Right is what the norm gives where x has the values that count alone."""
    norm, x, arguments, dy = row(case, rng)
    axis = 0
    if places:
        if getattr(norm, "channel_axis", None) not in (1, -1) or x.ndim < 3:
            pytest.skip("has no channels and places")
        axis = 2 if norm.channel_axis == 1 else 1
    size = x.shape[axis]
    keep = rng.random(size) < 0.6
    keep[:2] = True
    if size > 2:
        keep[2] = False
    mask = keep.reshape([-1 if i == axis else 1 for i in range(x.ndim)])
    if not norm.masks:
        before, out = norm.state_dict(), np.full_like(x, 7)
        for options in ({"mask": mask}, {"sample_weight": mask * 1.0}, {"skip_nan": True}, {"out": out, "mask": mask}):
            with pytest.raises(TypeError, match=rf"^{type(norm).__name__}\(.*takes no mask.*; write"):
                norm(x, **arguments, **options)
        with pytest.raises(TypeError, match="takes no mask"):
            norm.forward(nz.select(x, mask), **arguments)
        for name, value in norm.state_dict().items():
            check.same_bits(value, before[name])
        assert norm.saved is None and (out == 7).all()
        assert norm(x, **arguments) is not None, "what the message says to write"
        return
    twin, cut_arguments = cut(norm, arguments, size, axis, keep)
    expected = twin(np.compress(keep, x, axis), **cut_arguments)
    y = norm(np.where(mask, x, np.nan), **arguments, mask=mask)
    check.close(np.compress(keep, y, axis), expected, check.EXACT)
    assert not np.compress(~keep, y, axis).any()
    dx, dx_expected = norm.backward(dy), twin.backward(np.compress(keep, dy, axis))
    check.close(np.compress(keep, dx, axis), dx_expected, check.EXACT)
    assert not np.compress(~keep, dx, axis).any()
    for name, d in twin.grads.items():
        found = norm.grads[name]
        if found.shape != d.shape:
            assert not np.compress(~keep, found, axis).any()
            found = np.compress(keep, found, axis)
        check.close(found, d, 1e-11)
    for name, a in twin.buffers.items():
        check.close(norm.buffers[name], a, check.EXACT)


def test_a_class_takes_masks_where_it_says_so_itself(rng):
    """What was written for BatchNorm does not hold unasked for a class that is made of it."""

    class Doubled(nz.BatchNorm):
        def forward(self, x, out=None, **options):
            y, saved = super().forward(x, out, **options)
            return np.multiply(y, 2, out=y), saved

    class Said(Doubled):
        masks = True

    class OfTheView(nz.LayerNorm):
        pass

    assert [kind.masks for kind in (nz.BatchNorm, Doubled, Said, OfTheView)] == [True, False, True, True]
    x, mask = rng.standard_normal((4, 3, 5)), np.array([True, True, False, True]).reshape(4, 1, 1)
    with pytest.raises(TypeError, match=r"^Doubled\(3\): takes no mask"):
        Doubled(3)(x, mask=mask)
    check.close(Said(3)(x, mask=mask), 2 * nz.BatchNorm(3)(x, mask=mask), check.EXACT)


def test_only_x_may_be_selected_from(rng):
    x = rng.standard_normal((4, 3, 5))
    some = nz.select(x, np.ones(5, bool))
    norm = nz.AdaptiveInstanceNorm()
    with pytest.raises(TypeError, match=r"AdaptiveInstanceNorm\(\).* style .*write style.x"):
        norm(x, some)
    norm(some, x)
    with pytest.raises(TypeError, match=r"AdaptiveInstanceNorm\(\).* dy .*write dy.x"):
        norm.backward(some)
    with pytest.raises(TypeError, match="normalize: takes no mask"):
        nz.functional.normalize(some, 3)
    with pytest.raises(TypeError, match="local_response_norm: takes no mask"):
        nz.functional.local_response_norm(some, 3)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_threshold_takes_no_part_where_values_do_not_count(policy, rng):
    norm = filled(nz.FilterResponseNorm(3, learn_eps=True, dtype=np.float64), rng)
    x, dy = rng.standard_normal((2, 2, 3, 8))
    mask = np.arange(8) < 5
    y = norm(x, mask=mask, masked=policy)
    norm.backward(dy)
    tau, grads = norm.grads["tau"], dict(norm.grads)
    inner = filled(nz.FilterResponseNorm(3, dtype=np.float64), rng)
    inner.params |= {name: norm.params[name] for name in ("weight", "bias", "tau")}
    inner.eps = norm.eps + abs(norm.eps_l.item())
    expected = inner(x[..., :5])
    check.close(y[..., :5], expected, check.EXACT)
    if policy != "normalize":
        np.testing.assert_array_equal(y[..., 5:], x[..., 5:] if policy == "keep" else 0)
        inner.backward(dy[..., :5])
        for name in ("weight", "bias", "tau"):
            check.close(grads[name], inner.grads[name], 1e-12)
    else:
        assert (y >= norm.tau.reshape(-1, 1)).all() and tau.any()
