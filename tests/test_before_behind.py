"""What stands before and behind a norm is what it is apart: added before, computed behind; gradients, places, errors."""

import copy
import pickle
from functools import partial

import numpy as np
import pytest

import normzoo as nz
from tests import check
from tests.cases import CASES, channels_last_strides, filled

F = nz.functional

# Written from their formulas once more: value and derivative.
SILU = lambda v: v / (1 + np.exp(-v))  # noqa: E731
ACTS = {
    None: (lambda v: v, np.ones_like),
    "relu": (lambda v: np.maximum(v, 0), lambda v: (v > 0).astype(v.dtype)),
    "silu": (SILU, lambda v: (1 + SILU(v) * np.exp(-v)) / (1 + np.exp(-v))),
    "tanh": (np.tanh, lambda v: 1 - np.tanh(v) ** 2),
}

# name: (what the norm is made with, what a call has)
PATTERNS = {
    "residual": ({}, ("residual",)),
    "scaled residual": ({"residual_scale": 0.75}, ("residual",)),
    "activation": ({"activation": "silu"}, ()),
    "add": ({}, ("add",)),
    "add, activation": ({"activation": "tanh"}, ("add",)),
    "gate": ({"activation": "silu"}, ("gate",)),
    "gate as it is": ({}, ("gate",)),
    "gate first": ({"activation": "silu", "gate_first": True}, ("gate",)),
    "residual, activation": ({"activation": "silu"}, ("residual",)),
    "residual, add, activation": ({"activation": "silu", "residual_scale": -2}, ("residual", "add")),
    "residual, gate": ({"activation": "tanh"}, ("residual", "gate")),
}


def _more(id, make, shape):
    return (id, make, shape)


MORE = [
    _more("head_rms_norm", lambda **o: nz.HeadRMSNorm(3, 5, **o), (2, 4, 3, 5)),
    _more("head_layer_norm", lambda **o: nz.HeadLayerNorm(3, 5, **o), (2, 4, 3, 5)),
    _more("group_rms_norm", lambda **o: nz.GroupRMSNorm(2, 6, **o), (3, 6, 7)),
    _more("l2_norm", lambda **o: nz.L2Norm(7, elementwise_affine=True, **o), (4, 7)),
    _more("scale_norm", lambda **o: nz.ScaleNorm(2.0, **o), (4, 7)),
    _more("pixel_norm", lambda dtype=None, **o: nz.PixelNorm(**o), (2, 5, 3, 3)),
    _more("unit_norm", lambda dtype=None, **o: nz.UnitNorm(**o), (4, 7)),
    _more("mean_variance_norm", lambda dtype=None, **o: nz.MeanVarianceNorm((0, 2), **o), (4, 3, 7)),
    _more("layer_scale", lambda **o: nz.LayerScale(7, 0.5, **o), (4, 7)),
    _more("weight_norm", lambda **o: nz.WeightNorm((4, 7), **o), (4, 7)),
    _more("weight_standardization", lambda dtype=None, **o: nz.WeightStandardization(**o), (4, 7)),
    _more("ghost_batch_norm", lambda **o: nz.GhostBatchNorm(5, 2, **o), (8, 5, 3)),
    _more("frozen_batch_norm", lambda **o: nz.FrozenBatchNorm(5, **o), (8, 5, 3)),
    _more("gemma", lambda **o: nz.RMSNorm(7, 1e-5, offset=1.0, **o), (4, 7)),
    _more("llama", lambda **o: nz.RMSNorm(7, 1e-5, offset=1.0, casting="llama", **o), (4, 7)),
    _more("instance_norm-tracked", lambda **o: nz.InstanceNorm(5, track_running_stats=True, **o), (3, 5, 9)),
]
NORMS = [(c.id, c.norm, c.shape) for c in CASES] + MORE
BY_ID = {id: (make, shape) for id, make, shape in NORMS}
FEW = ["batch_norm-4d", "group_norm-4d", "layer_norm-last", "rms_norm-channels", "instance_norm-4d"]


@pytest.fixture
def backend():
    """The definition: that kernels agree with it is what test_around.py sees to, and the tests of `everywhere`."""
    with nz.use("reference"):
        yield


@pytest.fixture(params=["cpu", "reference"])
def everywhere(request):
    with nz.use(request.param):
        yield request.param


def twins(make, pattern, rng, dtype=np.float64):
    """A norm with the pattern around it, and one of the same parameters without, in float64."""
    behind, _ = PATTERNS[pattern]
    norm, plain = make(dtype=dtype, **behind), make(dtype=np.float64)
    filled(norm, rng)
    for name, p in norm.params.items():
        plain.params[name][...] = p
    for name in ("running_mean", "running_var"):
        if name in norm.buffers:
            norm.buffers[name][...] = rng.uniform(0.5, 2, norm.buffers[name].shape)
            plain.buffers[name][...] = norm.buffers[name]
    return norm, plain


def beside(pattern, shape, rng, dtype=np.float64):
    return {name: rng.standard_normal(shape).astype(dtype) for name in PATTERNS[pattern][1]}


def apart(plain, behind, x, residual=None, add=None, gate=None, train=True):
    """(y, s) in float64, step by step, by a norm that stands alone; running statistics stay as they are."""
    value, _ = ACTS[behind.get("activation")]
    first = behind.get("gate_first", False)
    s = x.astype(np.float64)
    if residual is not None:
        s = s + behind.get("residual_scale", 1) * np.asarray(residual, np.float64)
    if first:
        s = s * value(gate.astype(np.float64))
    lone = copy.deepcopy(plain)
    with nz.use("reference"):
        v = lone(s)
    if first:
        return v, s
    if gate is not None:
        return v * value(gate.astype(np.float64)), s
    return value(v if add is None else v + add), s


def called(norm, x, **arrays):
    """(y, s or None)."""
    found = norm(x, **arrays)
    return found if "residual" in arrays else (found, None)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("id", BY_ID)
def test_it_is_what_it_is_apart_and_so_are_its_gradients(id, pattern, backend, rng):
    make, shape = BY_ID[id]
    norm, plain = twins(make, pattern, rng)
    x, dy, ds = rng.standard_normal((3, *shape))
    arrays = beside(pattern, shape, rng)
    behind = PATTERNS[pattern][0]
    expected = apart(plain, behind, x, **arrays)
    y, s = called(norm, x, **arrays)
    check.close(y, expected[0], check.EXACT)
    if s is None:
        dx = norm.backward(dy)
        ds = np.zeros_like(x)
    else:
        check.close(s, expected[1], check.EXACT)
        dx = norm.backward(dy, ds=ds)

    def loss(plain, **changed):
        found = apart(plain, behind, **({"x": x} | arrays | changed))
        return (dy * found[0]).sum() + (ds * found[1]).sum()

    assert set(norm.grads) == {*norm.params, *arrays}
    for name, d in ({"x": dx} | norm.grads).items():
        a = x if name == "x" else arrays[name] if name in arrays else norm.params[name]
        assert d.shape == a.shape and d.dtype == a.dtype

        def at(v, name=name):
            if name not in norm.params:
                return loss(plain, **{name: v})
            twin = copy.deepcopy(plain)
            twin.params[name] = v
            return loss(twin)

        direction = rng.standard_normal(a.shape)
        exact = check.slope_near(at, a, direction)
        scale = np.abs(d * direction).sum() + 1e-30
        assert abs((d * direction).sum() - exact) <= 1e-6 * scale, name


@pytest.mark.parametrize("pattern", ["residual", "add, activation", "gate first", "residual, gate"])
@pytest.mark.parametrize("id", ["batch_norm-2d", "batch_norm-4d", "instance_norm-tracked", "ghost_batch_norm"])
def test_evaluation_by_running_statistics(id, pattern, backend, rng):
    make, shape = BY_ID[id]
    norm, plain = (n.eval() for n in twins(make, pattern, rng))
    x, dy, ds = rng.standard_normal((3, *shape))
    arrays, behind = beside(pattern, shape, rng), PATTERNS[pattern][0]
    for _ in range(2):  # the second is remembered
        y, s = called(norm, x, **arrays)
        check.close(y, apart(plain, behind, x, **arrays)[0], check.EXACT)
    dx = norm.backward(dy, ds=None if s is None else ds)
    more = 0 if s is None else ds

    def loss(v):
        found = apart(plain, behind, v, **arrays)
        return (dy * found[0]).sum() + (more * found[1]).sum()

    direction = rng.standard_normal(shape)
    exact = check.slope_near(loss, x, direction)
    assert abs((dx * direction).sum() - exact) <= 1e-6 * np.abs(dx * direction).sum()


@pytest.mark.parametrize("id", BY_ID)
def test_y_has_the_bits_of_the_norm_of_s(id, backend, rng):
    make, shape = BY_ID[id]
    for dtype in (np.float32, np.float16):
        norm = filled(make(), rng)
        x, r = (3 + rng.standard_normal((2, *shape))).astype(dtype)
        before = copy.deepcopy(norm)
        y, s = norm(x, residual=r)
        assert s.dtype == y.dtype == dtype
        check.same_bits(s, (x.astype(np.float32) + r.astype(np.float32)).astype(dtype))
        check.same_bits(y, before(s))
        for name, a in before.buffers.items():
            check.same_bits(norm.buffers[name], a)


LAYOUTS = {
    "contiguous": lambda a: a,
    "channels last": channels_last_strides,
    "turned": np.asfortranarray,
    "every other": lambda a: np.repeat(a, 2, axis=0)[::2],
}


@pytest.mark.parametrize("pattern", ["residual", "add, activation", "gate first", "residual, gate"])
@pytest.mark.parametrize("id", FEW)
def test_arrays_in_any_layout(id, pattern, backend, rng):
    make, shape = BY_ID[id]
    norm, plain = twins(make, pattern, rng, np.float32)
    x, dy, ds = rng.standard_normal((3, *shape)).astype(np.float32)
    arrays = beside(pattern, shape, rng, np.float32)
    expected, s_expected = apart(plain, PATTERNS[pattern][0], x, **arrays)
    called(norm, x, **arrays)
    found = norm.backward(dy), dict(norm.grads)
    for one in LAYOUTS.values():
        for other in LAYOUTS.values():
            for out in (None, np.empty_like(one(x))):
                a = one(x)
                y, s = called(norm, a, out=out, **{name: other(b) for name, b in arrays.items()})
                check.close(y, expected, 1e-6)
                assert out is None or y is out
                if s is not None:
                    check.close(s, s_expected, 1e-6)
                    assert s.strides == np.empty_like(a).strides
                if out is None:
                    assert y.strides == np.empty_like(a).strides
                dx = norm.backward(other(dy))
                check.close(dx, found[0], 1e-5)
                for name, d in found[1].items():
                    check.close(norm.grads[name], d, 1e-5)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("id", FEW)
def test_float32_and_sixteen_bits(id, pattern, backend, rng):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    make, shape = BY_ID[id]
    for dtype, tolerance, back in ((np.float32, 1e-6, 1e-5), (np.float16, 2e-3, 2e-2), (ml_dtypes.bfloat16, 2e-2, 0.1)):
        norm, plain = twins(make, pattern, rng, np.float32)
        x, dy, ds = rng.standard_normal((3, *shape)).astype(dtype)
        arrays = beside(pattern, shape, rng, dtype)
        y, s = called(norm, x, **arrays)
        # what is rounded to s is what is normalized
        exact = apart(plain, PATTERNS[pattern][0], x, **arrays)[0]
        assert y.dtype == dtype
        check.close(y, exact, tolerance * (4 if dtype != np.float32 and "residual" in arrays else 1))
        dx = norm.backward(dy, ds=None if s is None else ds)
        wide = make(dtype=np.float64, **PATTERNS[pattern][0])
        for name, p in plain.params.items():
            wide.params[name][...] = p
        called(wide, x.astype(np.float64), **{name: a.astype(np.float64) for name, a in arrays.items()})
        exact = wide.backward(dy.astype(np.float64), ds=None if s is None else ds.astype(np.float64))
        assert dx.dtype == dtype
        check.close(dx, exact, back, scale=float(np.abs(exact).max()))
        for name in arrays:
            assert norm.grads[name].dtype == dtype
            check.close(norm.grads[name], wide.grads[name], back, scale=float(np.abs(wide.grads[name]).max()))


def test_other_dtypes_beside_x_are_brought_to_its_own(backend, rng):
    x, dy, ds = rng.standard_normal((3, 4, 7)).astype(np.float32)
    for dtype in (np.float64, np.float16, ">f4"):
        for pattern in PATTERNS:
            norm, plain = twins(BY_ID["layer_norm-last"][0] and partial(nz.LayerNorm, 7), pattern, rng)
            arrays = beside(pattern, x.shape, rng, dtype)
            y, s = called(norm, x, **arrays)
            held = {name: a.astype(np.float32) for name, a in arrays.items()}
            expected, s_expected = apart(plain, PATTERNS[pattern][0], x, **held)
            check.close(y, expected, 1e-6)
            assert y.dtype == np.float32
            if s is not None:
                assert s.dtype == np.float32  # whatever the parameters are: here float64
                check.close(s, s_expected, 1e-6)
                check.close(y, norm.forward(x, **arrays)[0][0], 0)
            norm.backward(dy, ds=None if s is None else ds.astype(dtype))
            for name, a in arrays.items():
                assert norm.grads[name].dtype == a.dtype


@pytest.mark.parametrize("of", [(7,), (1, 7), (5, 7), (1, 1, 1), (3, 1, 7), ()], ids=str)
def test_a_residual_broadcasts_and_its_gradient_is_summed(of, backend, rng):
    x, dy, ds = rng.standard_normal((3, 3, 5, 7))
    r = rng.standard_normal(of)
    for scale in (1.0, -0.5):
        norm = nz.LayerNorm(7, residual_scale=scale, dtype=np.float64)
        y, s = norm(x, residual=r)
        check.same_bits(s, x + scale * np.broadcast_to(r, x.shape))
        dx = norm.backward(dy, ds=ds)
        full = norm(x, residual=np.broadcast_to(r, x.shape)), norm.backward(dy, ds=ds)
        check.same_bits(full[0][0], y)
        found = norm.grads["residual"]
        norm(x, residual=r)
        check.same_bits(norm.backward(dy, ds=ds), dx)
        summed = found.copy()
        while summed.ndim > len(of):
            summed = summed.sum(0)
        for i, size in enumerate(of):
            if size == 1:
                summed = summed.sum(i, keepdims=True)
        assert norm.grads["residual"].shape == of
        check.close(norm.grads["residual"], summed, check.EXACT)
    with pytest.raises(
        ValueError, match=r"residual of x's shape \(3, 5, 7\), or one that broadcasts to it, got \(5, 1, 1, 7\)"
    ):
        norm(x, residual=rng.standard_normal((5, 1, 1, 7)))


def test_the_gradient_of_a_residual_like_x_is_dx_itself(everywhere, rng):
    x, r, dy = rng.standard_normal((3, 4, 7)).astype(np.float32)
    norm = nz.LayerNorm(7)
    norm(x, residual=r)
    dx = norm.backward(dy)
    d = norm.grads["residual"]
    assert np.shares_memory(d, dx) and not d.flags.writeable
    norm.residual_scale = 2
    norm(x, residual=r)
    dx = norm.backward(dy)
    check.same_bits(norm.grads["residual"], 2 * dx)


@pytest.mark.parametrize("id", ["batch_norm-4d", "layer_norm-last"])
def test_results_may_lie_in_x_and_in_the_residual(id, everywhere, rng):
    make, shape = BY_ID[id]
    norm = filled(make(), rng)
    x, r, dy, ds = rng.standard_normal((4, *shape)).astype(np.float32)
    y, s = norm(x, residual=r)
    dx = norm.backward(dy, ds=ds)
    grads = dict(norm.grads)
    places = {
        "x": lambda a, b: a,
        "residual": lambda a, b: b,
        "new": lambda a, b: np.empty_like(a),
        "none": lambda a, b: None,
    }
    for out, of_out in places.items():
        for residual_out, of_s in places.items():
            if out == residual_out and out in ("x", "residual"):
                continue
            a, b = x.copy(), r.copy()
            given = of_out(a, b), of_s(a, b)
            found, sum_ = norm(a, residual=b, out=given[0], residual_out=given[1])
            assert given[0] in (None, found) if given[0] is None else found is given[0]
            assert given[1] is None or sum_ is given[1]
            check.same_bits(found, y)
            check.same_bits(sum_, s)
            check.same_bits(norm.backward(dy, ds=ds), dx)  # s is what it reads
            for name, d in grads.items():
                check.same_bits(norm.grads[name], d)
    one = x.copy()
    for bad in ({"out": one, "residual_out": one}, {"residual_out": one[1:]}):
        with pytest.raises(ValueError, match="residual_out"):
            norm(x, residual=r, **bad)


@pytest.mark.parametrize("pattern", ["activation", "add", "gate", "gate first"])
def test_in_place_without_a_residual(pattern, everywhere, rng):
    norm = nz.GroupNorm(2, 6, **PATTERNS[pattern][0])
    x, dy = rng.standard_normal((2, 3, 6, 5)).astype(np.float32)
    arrays = beside(pattern, x.shape, rng, np.float32)
    y = norm(x, **arrays)
    a = x.copy()
    assert norm(a, out=a, **arrays) is a
    check.same_bits(a, y)
    with pytest.raises(RuntimeError, match="overwritten in place"):
        norm.backward(dy)
    for b in arrays.values():
        with pytest.raises(ValueError, match="apart from it"):
            norm(x, out=b, **arrays)
        norm(x, **arrays)
        kept = b.copy()
        with pytest.raises(ValueError, match="apart from it"):
            norm.backward(dy, out=b)
        check.same_bits(b, kept)
        dx = norm.backward(dy)
        check.same_bits(norm.backward(dy, out=np.empty_like(x)), dx)


def test_ds_may_be_the_place_of_dx(everywhere, rng):
    x, r, dy, ds = rng.standard_normal((4, 5, 9)).astype(np.float32)
    norm = nz.RMSNorm(9, activation="silu")
    norm(x, residual=r)
    dx = norm.backward(dy, ds=ds)
    place = ds.copy()
    assert norm.backward(dy, out=place, ds=place) is place
    check.same_bits(place, dx)


def test_what_the_backward_pass_reads_is_seen_to_change(everywhere, rng):
    x, r, z, dy = rng.standard_normal((4, 6, 9)).astype(np.float32)
    norm = filled(nz.LayerNorm(9, activation="silu"), rng)
    y, s = norm(x, residual=r)
    x += 1
    r += 1  # neither is read again
    norm.backward(dy)
    s += 1
    with pytest.raises(RuntimeError, match="expected s as it was in the forward pass"):
        norm.backward(dy)
    for name in ("add", "gate"):
        norm(x, **{name: z})
        norm.backward(dy)
        z += 1
        with pytest.raises(RuntimeError, match=f"expected {name} as it was"):
            norm.backward(dy)
    norm(x)
    norm.bias += 1
    with pytest.raises(RuntimeError, match="expected bias as it was"):
        norm.backward(dy)
    norm(x)
    norm.weight += 1
    with pytest.raises(RuntimeError, match="expected weight as it was"):
        norm.backward(dy)
    norm.activation = None
    norm(x, residual=r)
    norm.bias += 1
    norm.backward(dy)  # which reads no bias


def wrong(x, r):
    norm, gated = nz.LayerNorm(7), nz.LayerNorm(7, activation="silu", gate_first=True)
    return [
        (lambda: norm(x, add=r, gate=r), ValueError, r"LayerNorm\(\(7,\)\): expected add or gate, got both"),
        (lambda: gated(x), ValueError, "expected a gate, as gate_first=True, got none"),
        (lambda: gated(x, residual=r, gate=r), ValueError, "expected the gate alone, as gate_first=True, got a residual too"),
        (lambda: gated(x, add=r), ValueError, "expected a gate"),
        (lambda: norm(x, residual=r[:, :3]), ValueError, r"residual of x's shape \(4, 7\), .*got \(4, 3\)"),
        (lambda: norm(x, add=r[0]), ValueError, r"add of x's shape \(4, 7\), got \(7,\); write np.broadcast_to\(add"),
        (lambda: norm(x, gate=r[:, :3]), ValueError, r"gate of x's shape \(4, 7\), got \(4, 3\)$"),
        (lambda: norm(x, residual=r.tolist()), TypeError, "residual to be a NumPy array, got list"),
        (lambda: norm(x, add=r.astype(int)), TypeError, "add of dtype float16"),
        (lambda: norm(x, gate=1.0), TypeError, "gate to be a NumPy array, got float"),
        (lambda: norm(x, residual_out=x), ValueError, "expected residual_out with a residual"),
        (lambda: norm(x, residual=r, residual_out=x.astype(float)), TypeError, "residual_out of dtype float32, got float64"),
        (lambda: norm(x, residual=r, residual_out=x[:2]), ValueError, "residual_out of shape"),
        (lambda: norm(x, residuals=r), TypeError, "unexpected keyword argument 'residuals'; did you mean 'residual'"),
        (lambda: norm(x, activation="relu"), TypeError, "activation where the norm is made, .*norm.activation ="),
        (lambda: norm.forward(x)[1].backward(x, ds=x), ValueError, "expected ds where a residual was added"),
        (lambda: norm.forward(x, residual=r)[1].backward(None, ds=x), TypeError, "dy to be a NumPy array, got None"),
        (lambda: norm.forward(x, residual=r)[1].backward(x, ds=x[:2]), ValueError, r"ds of x's shape \(4, 7\), got \(2, 7\)"),
        (lambda: norm.forward(x, residual=r)[1].backward(x, ds=1.0), TypeError, "ds to be a NumPy array, got float"),
        (lambda: nz.LayerNorm(7, activation="rely"), ValueError, r"LayerNorm\(\(7,\)\): expected an activation .*got 'rely'"),
        (lambda: nz.LayerNorm(7, activation=np.tanh), TypeError, "expected a name of list_activations"),
        (lambda: setattr(norm, "activation", 3), TypeError, "expected a name of list_activations"),
        (lambda: setattr(norm, "residual_scale", "1"), TypeError, "residual_scale to be a number, got '1'"),
        (lambda: setattr(norm, "residual_scale", np.inf), ValueError, "finite residual_scale, got inf"),
        (lambda: setattr(norm, "activaton", "relu"), AttributeError, "write norm.activation"),
        (lambda: F.layer_norm(x, 7, activation=["relu"]), TypeError, "layer_norm: expected a name of list_activations"),
        (lambda: F.layer_norm(x, 7, gates=r), TypeError, "layer_norm: got an unexpected keyword argument 'gates'"),
        (lambda: F.layer_norm(x, 7, residual=r, residual_scale=np.nan), ValueError, "residual_scale to be a number"),
        (lambda: nz.DyT(7, activation="relu"), TypeError, "DyT: takes no activation .*; write y = "),
        (lambda: nz.DyT(7)(x, residual=r), TypeError, r"DyT\(\(7,\)\): takes no residual .*; write norm\(x \+ residual\)"),
        (lambda: nz.BatchRenorm(7).forward(x, gate=r), TypeError, r"BatchRenorm\(7\): takes no gate"),
        (lambda: nz.BatchRenorm(7, gate_first=True), TypeError, "BatchRenorm: takes no gate_first"),
        (lambda: nz.SwitchableNorm(7)(x[:, :, None], add=r), TypeError, "takes no add"),
        (lambda: setattr(nz.AdaNorm(7), "activation", "relu"), TypeError, r"AdaNorm\(\(7,\)\): takes no activation"),
        (lambda: nz.SyncBatchNorm(7, activation="relu"), TypeError, r"SyncBatchNorm\(7\): takes no activation"),
    ]  # fmt: skip


@pytest.mark.parametrize("i", range(len(wrong(None, None))))
def test_what_is_wrong_is_said_by_name_and_changes_nothing(i, backend, rng):
    x, r = rng.standard_normal((2, 4, 7)).astype(np.float32)
    kept = x.copy(), r.copy()
    call, error, message = wrong(x, r)[i]
    with pytest.raises(error, match=message) as raised:
        call()
    assert type(raised.value) is error
    check.same_bits(x, kept[0])
    check.same_bits(r, kept[1])


def test_a_call_that_raises_leaves_running_statistics_and_results_alone(backend, rng):
    x, r = rng.standard_normal((2, 6, 5)).astype(np.float32)
    norm = nz.BatchNorm(5, on_nonfinite="raise", activation="relu")
    out, s = np.full_like(x, 7), np.full_like(x, 8)
    state = norm.state_dict()
    for bad in ({"add": r[:2]}, {"residual": r, "residual_out": r[:3]}):
        with pytest.raises(ValueError, match="expected"):
            norm(x, out=out, **bad)
    r[2, 3] = np.inf
    with pytest.raises(FloatingPointError):
        norm(x, residual=r, out=out, residual_out=s)
    assert (out == 7).all() and (s == 8).all()
    for name, a in norm.state_dict().items():
        check.same_bits(a, state[name])
    r[2, 3] = 0
    y, sum_ = norm(x, residual=r, out=out, residual_out=s)
    assert y is out and sum_ is s
    check.same_bits(s, x + r)


@pytest.mark.parametrize("masked", ["zero", "keep", "normalize"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_what_does_not_count_stays_out(pattern, masked, backend, rng):
    """Of x, of what stands beside it, and of the gradients; there y is what it is without anything around."""
    behind = PATTERNS[pattern][0]
    for norm, shape, mask in (
        (filled(nz.BatchNorm(5, dtype=np.float64, **behind), rng), (6, 5, 4), rng.random((6, 1, 4)) < 0.7),
        (filled(nz.LayerNorm(9, dtype=np.float64, **behind), rng), (7, 9), rng.random((7, 9)) < 0.7),
        (filled(nz.RMSNorm(9, 1e-5, dtype=np.float64, **behind), rng), (7, 9), rng.random((7, 1)) < 0.7),
    ):
        x, dy, ds = rng.standard_normal((3, *shape))
        arrays = beside(pattern, shape, rng)
        counts = np.broadcast_to(mask, shape)
        plain = copy.deepcopy(norm)
        plain.activation, plain.gate_first = None, False
        y, s = called(norm, x, mask=mask, masked=masked, **arrays)
        dx = norm.backward(dy, ds=None if s is None else ds)
        # apart, where all values count; at places that do not, what the norm alone makes of s
        _, inner = apart(copy.deepcopy(plain), behind, x, **arrays)
        if s is not None:
            check.close(s, inner, check.EXACT)
        inner = np.where(counts, inner, x) if behind.get("gate_first") and masked != "normalize" else inner
        v = copy.deepcopy(plain)(inner, mask=mask, masked=masked)
        act, shown = ACTS[behind.get("activation")][0], counts | (masked == "normalize")
        expected = v
        if not behind.get("gate_first"):
            z = v + arrays["add"] if "add" in arrays else v
            expected = np.where(shown, v * act(arrays["gate"]) if "gate" in arrays else act(z), v)
        check.close(y, expected, check.EXACT)
        for name in ("add", "gate"):
            if name in arrays and masked != "normalize":
                assert not norm.grads[name][~counts].any()
        # whatever stands beside values that do not count changes nothing elsewhere
        grads = dict(norm.grads)
        for a in arrays.values():
            a[~counts] = np.nan
        again, _ = called(norm, x, mask=mask, masked=masked, **arrays)
        check.same_bits(again[counts], y[counts])
        if masked == "zero":
            check.same_bits(again, y)
            check.same_bits(norm.backward(dy, ds=None if s is None else ds)[counts], dx[counts])
            for name in norm.params:
                check.close(norm.grads[name], grads[name], check.EXACT)


@pytest.mark.parametrize("masked", ["zero", "keep", "normalize"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_gradients_with_masks(pattern, masked, backend, rng):
    behind = PATTERNS[pattern][0]
    norm = filled(nz.LayerNorm(9, dtype=np.float64, **behind), rng)
    x, dy, ds = rng.standard_normal((3, 7, 9))
    arrays, mask = beside(pattern, x.shape, rng), rng.random((7, 9)) < 0.7
    called(norm, x, mask=mask, masked=masked, **arrays)
    has_s = "residual" in arrays
    dx = norm.backward(dy, ds=ds if has_s else None)
    grads = dict(norm.grads)
    for name, d in ({"x": dx} | grads).items():
        a = x if name == "x" else arrays.get(name, norm.params.get(name))
        direction = rng.standard_normal(a.shape)

        def loss(v, name=name):
            given = {"x": x} | arrays
            twin = copy.deepcopy(norm)
            if name in norm.params:
                twin.params[name] = v
            else:
                given[name] = v
            y, s = called(twin, given.pop("x"), mask=mask, masked=masked, **given)
            return (dy * y).sum() + (0 if s is None else (ds * s).sum())

        exact = check.slope_near(loss, a, direction)
        assert abs((d * direction).sum() - exact) <= 1e-6 * np.abs(d * direction).sum(), name


def test_masks_in_evaluation_in_place_and_in_sixteen_bits(everywhere, rng):
    norm = nz.BatchNorm(5, activation="silu").eval()
    norm.running_mean[...], norm.running_var[...] = rng.uniform(0.5, 2, (2, 5))
    x, r, dy = rng.standard_normal((3, 6, 5)).astype(np.float16)
    mask = rng.random((6, 1)) < 0.6
    y, s = norm(x, residual=r, mask=mask)
    dx = norm.backward(dy, ds=dy)
    assert y.dtype == s.dtype == dx.dtype == norm.grads["residual"].dtype == np.float16
    check.same_bits(y[mask[:, 0]], norm(s[mask[:, 0]]))
    a, b = x.copy(), r.copy()
    found = norm(a, residual=b, mask=mask, out=a, residual_out=b)
    assert found[0] is a and found[1] is b
    check.same_bits(a, y)
    check.same_bits(b, s)
    check.same_bits(norm.backward(dy, ds=dy), dx)


FUNCTIONS = [
    (F.layer_norm, (7,), lambda **o: nz.LayerNorm(7, **o), (4, 7), True),
    (F.rms_norm, (7,), lambda **o: nz.RMSNorm(7, **o), (4, 7), False),
    (F.group_norm, 2, lambda **o: nz.GroupNorm(2, 6, **o), (3, 6, 5), True),
]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize(("function", "size", "make", "shape", "has_bias"), FUNCTIONS, ids=["layer", "rms", "group"])
def test_functions_do_what_layers_do(function, size, make, shape, has_bias, pattern, backend, rng):
    behind = PATTERNS[pattern][0]
    norm = filled(make(**behind), rng)
    x, dy = rng.standard_normal((2, *shape)).astype(np.float32)
    arrays = beside(pattern, shape, rng, np.float32)
    parameters = [norm.weight, norm.bias][: 1 + has_bias]
    for _ in range(3):
        expected = norm(x, **arrays)
        found, saved = function(x, size, *parameters, return_saved=True, **arrays, **behind)
        only = function(x, size, *parameters, **arrays, **behind)
        for a, b, c in zip(*((v if isinstance(v, tuple) else (v,)) for v in (expected, found, only)), strict=True):
            check.same_bits(a, b)
            check.same_bits(a, c)
        check.same_bits(norm.backward(dy), saved.backward(dy).x)
        for name in arrays:
            check.same_bits(norm.grads[name], saved.backward(dy).others[name])
        function(x, size, *parameters)  # a plain call between them


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("function", "kind"), [(F.batch_norm, nz.BatchNorm), (F.instance_norm, nz.InstanceNorm)])
def test_functions_that_track_do_what_layers_do(function, kind, training, pattern, backend, rng):
    behind = PATTERNS[pattern][0]
    norm = filled(kind(5, affine=True, track_running_stats=True, **behind), rng).train(training)
    x, dy = rng.standard_normal((2, 4, 5, 6)).astype(np.float32)
    arrays = beside(pattern, x.shape, rng, np.float32)
    running = [norm.running_mean.copy(), norm.running_var.copy()]
    for _ in range(3):
        expected = norm(x, **arrays)
        found, saved = function(x, *running, norm.weight, norm.bias, training, return_saved=True, **arrays, **behind)
        for a, b in zip(*((v if isinstance(v, tuple) else (v,)) for v in (expected, found)), strict=True):
            check.same_bits(a, b)
        check.same_bits(norm.backward(dy), saved.backward(dy).x)
        check.same_bits(running[0], norm.running_mean)
        check.same_bits(running[1], norm.running_var)


def test_calls_that_differ_in_what_is_around_alternate(everywhere, rng):
    x = rng.standard_normal((4, 7)).astype(np.float32)
    norm = filled(nz.LayerNorm(7), rng)
    arrays = {pattern: beside(pattern, x.shape, rng, np.float32) for pattern in PATTERNS}
    expected = {}
    for pattern, (behind, _) in PATTERNS.items():
        twin = nz.LayerNorm(7, **behind)
        twin.load_state_dict(norm.state_dict())
        expected[pattern] = called(twin, x, **arrays[pattern])
    names = [*PATTERNS] * 4
    for i in rng.permutation(len(names)):
        behind = {"activation": None, "gate_first": False, "residual_scale": 1.0} | PATTERNS[names[i]][0]
        for name, value in behind.items():
            if getattr(norm, name) != value:
                setattr(norm, name, value)
        for a, b in zip(called(norm, x, **arrays[names[i]]), expected[names[i]], strict=True):
            assert a is b is None or check.same_bits(a, b) is None


def test_a_call_with_the_names_of_an_earlier_one_may_be_another(everywhere, rng):
    x, r, z = rng.standard_normal((3, 4, 7)).astype(np.float32)
    norm = filled(nz.LayerNorm(7), rng)
    params = norm.weight, norm.bias
    for call in (norm, lambda x, **beside: nz.functional.layer_norm(x, 7, *params, **beside)):
        y, s = call(x, residual=r)
        check.same_bits(call(s), y)
        check.same_bits(call(x, residual=None), call(x))
        assert isinstance(call(x, residual=None, add=z), np.ndarray)
        check.same_bits(call(x, residual=r, add=None)[0], y)
        added = call(x, residual=r, add=z)[0]
        check.same_bits(call(x, add=z, residual=r)[0], added)
        check.same_bits(call(x, residual=r, gate=None, add=z)[0], added)
        check.same_bits(call(x, residual=r, residual_out=r.copy())[0], y)
        with pytest.raises(ValueError, match="expected add or gate, got both"):
            call(x, residual=r, add=z, gate=z)
        with pytest.raises(ValueError, match="expected residual_out with a residual, got it alone"):
            call(x, residual=None, residual_out=z)
        with pytest.raises(TypeError, match="did you mean 'residual'"):
            call(x, residul=r)
    norm.residual_scale = 2.0
    check.same_bits(norm(x, residual=r)[1], x + 2 * r)
    norm.residual_scale, norm.activation = 1.0, "relu"
    check.same_bits(norm(x, residual=r)[0], np.maximum(y, 0))
    check.same_bits(norm(x), nz.functional.layer_norm(x, 7, *params, activation="relu"))
    norm.activation = None
    check.same_bits(norm(x, residual=r)[0], y)


def test_sets_without_values(everywhere):
    for shape in ((0, 5), (3, 0, 5)):
        x = np.ones(shape, np.float32)
        norm = nz.LayerNorm(5, activation="relu")
        y, s = norm(x, residual=x, add=x)
        assert y.shape == s.shape == shape
        assert norm.backward(x, ds=x).shape == shape
        assert norm.grads["add"].shape == norm.grads["residual"].shape == shape
        assert not norm.grads["weight"].any()


def test_settings_are_attributes_shown_kept_and_copied(rng):
    norm = nz.GroupNorm(2, 6, activation="leaky_relu(0.2)", residual_scale=2)
    assert repr(norm).endswith("activation='leaky_relu(0.2)', residual_scale=2.0)")
    assert repr(nz.GroupNorm(2, 6)) == "GroupNorm(2, 6, eps=1e-05, affine=True, bias=True)"
    assert eval(repr(norm), {"GroupNorm": nz.GroupNorm}).activation is norm.activation
    x, r = rng.standard_normal((2, 3, 6, 4)).astype(np.float32)
    with nz.use("reference"):
        expected = norm(x, residual=r)
        for twin in (copy.copy(norm), copy.deepcopy(norm), pickle.loads(pickle.dumps(norm))):
            assert twin.activation is norm.activation and twin.residual_scale == 2
            check.same_bits(twin(x, residual=r)[0], expected[0])
        saved = norm.saved
        for twin in (copy.deepcopy(saved), pickle.loads(pickle.dumps(saved))):
            check.same_bits(twin.backward(r).others["residual"], saved.backward(r).others["residual"])
    assert norm.state_dict().keys() == {"weight", "bias"}
    norm.activation, norm.residual_scale = None, 1.0
    assert repr(norm) == repr(nz.GroupNorm(2, 6)) and norm.activation is None
    assert nz.create("batch_norm", 4, activation="relu").activation.name == "relu"
    assert nz.LayerNorm(4, activation="identity").activation is None


def test_an_activation_of_ones_own(everywhere, rng):
    from normzoo.backends.lanes import choose  # noqa: PLC0415

    squared = nz.Activation("relu squared", lambda v: choose(v, v * v, 0.0), lambda v: choose(v, 2.0 * v, 0.0))
    norm = nz.LayerNorm(7, activation=squared, dtype=np.float64)
    x, dy = rng.standard_normal((2, 4, 7))
    y = norm(x)
    check.close(y, np.maximum(nz.LayerNorm(7, dtype=np.float64)(x), 0) ** 2, check.EXACT)
    assert "Activation('relu squared')" in repr(norm)
    norm.backward(dy)


class Declared(nz.Norm):
    """A norm of a user, as CONTRIBUTING.md shows."""

    asks = ()

    def axes(self, x):
        return nz.LayerNorm(x.shape[-1]).axes(x)


def test_norms_of_ones_own_have_it_too(backend, rng):
    x, r = rng.standard_normal((2, 4, 7))
    norm = Declared(shape=(7,), activation="silu", dtype=np.float64)
    y, s = norm(x, residual=r)
    check.close(y, nz.LayerNorm(7, activation="silu", dtype=np.float64)(s), check.EXACT)
    assert nz.list_activations()[0].formula

    class Own(nz.BatchNorm):  # what is declared for BatchNorm holds not for what is made of it
        def __init__(self, n):
            super().__init__(n)
            self.activation = "an attribute of its own"

    own = Own(7)
    assert own.activation == "an attribute of its own"
    own(x.astype(np.float32))
    with pytest.raises(TypeError, match="takes no residual .*fuses = True"):
        own(x, residual=r)


TORCHS = {
    "batch_norm": (lambda **o: nz.BatchNorm(6, **o), lambda f, x, w, b: f.batch_norm(x, None, None, w, b, True)),
    "instance_norm": (
        lambda **o: nz.InstanceNorm(6, affine=True, **o),
        lambda f, x, w, b: f.instance_norm(x, None, None, w, b),
    ),
    "group_norm": (lambda **o: nz.GroupNorm(3, 6, **o), lambda f, x, w, b: f.group_norm(x, 3, w, b)),
    "layer_norm": (lambda **o: nz.LayerNorm(7, **o), lambda f, x, w, b: f.layer_norm(x, (7,), w, b)),
    "rms_norm": (lambda **o: nz.RMSNorm(7, 1e-5, **o), lambda f, x, w, b: f.rms_norm(x, (7,), w, 1e-5)),
}


@pytest.mark.parametrize("arrange", [np.ascontiguousarray, channels_last_strides])
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("name", TORCHS)
def test_it_is_what_autograd_makes_of_it(name, pattern, arrange, backend, rng):
    """PyTorch's norm, activation and sum, and its own way back, with relu among the activations."""
    torch = pytest.importorskip("torch")
    behind, parts = PATTERNS[pattern]
    make, function = TORCHS[name]
    acts = {None: lambda v: v, "relu": torch.relu, "tanh": torch.tanh, "silu": torch.nn.functional.silu}
    for activation in {behind.get("activation"), "relu"}:
        norm = filled(make(**behind | {"activation": activation}), rng)
        x, dy, ds = (arrange(a) for a in rng.standard_normal((3, 4, 6, 5, 7)).astype(np.float32))
        arrays = {part: arrange(a) for part, a in beside(pattern, x.shape, rng, np.float32).items()}
        y, s = called(norm, x, **arrays)
        dx = norm.backward(dy, ds=None if s is None else ds)
        t = {n: torch.tensor(a, requires_grad=True) for n, a in ({"x": x} | norm.params | arrays).items()}
        act, v = acts[activation], t["x"]
        if "residual" in t:
            v = v + behind.get("residual_scale", 1) * t["residual"]
        sum_ = v
        if behind.get("gate_first"):
            v = v * act(t["gate"])
        v = function(torch.nn.functional, v, t["weight"], t.get("bias"))
        if "gate" in t and not behind.get("gate_first"):
            v = v * act(t["gate"])
        elif not behind.get("gate_first"):
            v = act(v + t["add"] if "add" in t else v)
        check.close(y, v.detach().numpy(), 1e-5)
        loss = (v * torch.tensor(dy)).sum() + (0 if s is None else (sum_ * torch.tensor(ds)).sum())
        loss.backward()
        for n, d in ({"x": dx} | norm.grads).items():
            exact = t[n].grad.numpy()
            check.close(d, exact, 1e-5, scale=max(1.0, float(np.abs(exact).max())))


def test_what_has_no_place_for_it_says_so(rng):
    norm = nz.BatchNorm(4, activation="relu").eval()
    weight = np.ones((4, 3), np.float32)
    shown = r"with nothing around it, got BatchNorm\(4\) with activation='relu'; "
    with pytest.raises(
        ValueError, match=f"fold.batch_norm_into: expected a norm {shown}fold it with norm.activation = None"
    ):
        nz.fold.batch_norm_into(weight, None, norm, layout="OI")
    for pair in ((norm, nz.BatchNorm(4)), (nz.BatchNorm(4), norm)):
        with pytest.raises(ValueError, match=shown):
            nz.fold.batch_norms(*pair)
    with pytest.raises(ValueError, match=r"got LayerNorm\(\(3,\)\) with gate_first=True; what stands between"):
        nz.fold.affine_into(nz.LayerNorm(3, gate_first=True), weight, None)
    with pytest.raises(ValueError, match=f"describe: expected a norm {shown}"):
        nz.describe(norm, "flax")
    with pytest.raises(ValueError, match=f"convert_sync: expected a norm {shown}"):
        nz.convert_sync(norm)
    assert norm.state_dict("keras").keys() == {"gamma", "beta", "moving_mean", "moving_variance"}
    norm.activation = None
    nz.fold.batch_norm_into(weight, None, norm, layout="OI")
    nz.describe(norm, "flax")


def test_recalibration_sees_what_is_normalized(backend, rng):
    x, z = rng.standard_normal((2, 5, 8, 4))
    for behind, name in (({"residual_scale": 0.5}, "residual"), ({"activation": "silu", "gate_first": True}, "gate")):
        norm, plain = nz.BatchNorm(4, dtype=np.float64, **behind), nz.BatchNorm(4, dtype=np.float64)
        nz.recalibrate(norm, range(5), lambda i: norm(x[i], **{name: z[i]}))  # noqa: B023
        s = x + 0.5 * z if name == "residual" else x * SILU(z)
        nz.recalibrate(plain, list(s))
        check.close(norm.running_mean, plain.running_mean, check.EXACT)
        check.close(norm.running_var, plain.running_var, check.EXACT)
