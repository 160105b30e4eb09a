"""Every error: its type, its message (norm, invariant, received, remedy), and that nothing has changed."""

import numpy as np
import pytest

import normzoo as nz
from tests import check
from tests.cases import CASES, draw, filled

F = nz.functional


def f32(*shape):
    return np.ones(shape, np.float32)


MESSAGES = [
    (lambda: nz.GroupNorm(8, 64)(f32(8, 32, 7, 7)), ValueError,
     r"^GroupNorm\(8, 64\): expected x of shape \(N, 64, \.\.\.\), got \(8, 32, 7, 7\)$"),
    (lambda: nz.BatchNorm(3)(f32(4, 5)), ValueError, r"BatchNorm\(3\): expected x of shape \(N, 3, \.\.\.\).*\(4, 5\)"),
    (lambda: nz.BatchNorm(3, channel_axis=-1)(f32(4, 5)), ValueError, r"\(N, \.\.\., 3\)"),
    (lambda: nz.BatchNorm(3)(f32(3)), ValueError, r"rank 2 or more, got \(3,\)"),
    (lambda: nz.BatchNorm(3)(f32(1, 3)), ValueError, "more than 1 value per channel"),
    (lambda: nz.BatchNorm(3)(f32(1, 3, 1, 1)), ValueError, "more than 1 value per channel"),
    (lambda: nz.BatchNorm(3, track_running_stats=False).eval()(f32(1, 3)), ValueError, "more than 1 value"),
    (lambda: nz.BatchNorm(3, eps=0.0)(f32(4, 3)), ValueError, "eps > 0 where batch statistics"),
    (lambda: nz.BatchNorm(3, eps=-1.0), ValueError, "eps >= 0, got -1"),
    (lambda: nz.BatchNorm(3, eps=float("nan")), ValueError, "eps to be a number, got nan"),
    (lambda: nz.BatchNorm(3, eps="small"), TypeError, "eps to be a number, got 'small'"),
    (lambda: nz.BatchNorm(-1), ValueError, "num_features >= 0, got -1"),
    (lambda: nz.BatchNorm("64"), TypeError, "num_features to be an integer, got '64'"),
    (lambda: nz.LayerNorm("64"), TypeError, "normalized_shape to be an integer or a tuple of them, got '64'"),
    (lambda: nz.BatchNorm(0), ValueError, "BatchNorm: expected num_features >= 1, got 0; write num_features=x.shape"),
    (lambda: nz.InstanceNorm(0), ValueError, "num_features >= 1, got 0"),
    (lambda: nz.GroupNorm(1, 0), ValueError, "num_channels >= 1, got 0; write num_channels=x.shape"),
    (lambda: nz.BatchNorm(3, momentum=1.5), ValueError, r"momentum in \[0, 1\], .*got 1.5; write momentum=0.1"),
    (lambda: nz.InstanceNorm(3, momentum=-0.1), ValueError, r"momentum in \[0, 1\]"),
    (lambda: setattr(nz.BatchNorm(3), "momentum", 1.5), ValueError, r"BatchNorm\(3\): expected momentum in \[0, 1\]"),
    (lambda: setattr(nz.EvoNormB0(3), "momentum", "slow"), TypeError, "momentum to be a number, got 'slow'"),
    (lambda: nz.EvoNormB0(3, momentum=2), ValueError, r"EvoNormB0\(3\): expected momentum in \[0, 1\]"),
    (lambda: nz.IterNorm(4, momentum=2), ValueError, r"momentum in \[0, 1\]"),
    (lambda: F.batch_norm(f32(4, 3), None, None, training=True, momentum=7), ValueError, r"momentum in \[0, 1\]"),
    (lambda: nz.BatchNorm(2.0), TypeError, "num_features to be an integer, got 2.0"),
    (lambda: nz.BatchNorm(3, momentum="fast"), TypeError, "momentum to be a number"),
    (lambda: nz.BatchNorm(3, dtype=np.int32), TypeError, "expected dtype float16"),
    (lambda: nz.BatchNorm(3, dtype="no such"), TypeError, "expected dtype float16"),
    (lambda: nz.InstanceNorm(3)(f32(4, 3, 1)), ValueError, "more than 1 position.*write single_value='bias'"),
    (lambda: nz.InstanceNorm(3)(f32(4, 3)), ValueError, "more than 1 position"),
    (lambda: nz.InstanceNorm(3)(f32(4, 2, 5)), ValueError, r"\(N, 3, \.\.\.\)"),
    (lambda: nz.InstanceNorm(3, channel_axis=0)(f32(3, 2, 5)), ValueError, "samples on axis 0"),
    (lambda: nz.GroupNorm(3, 4), ValueError, r"GroupNorm\(3, 4\): expected num_groups to divide"),
    (lambda: nz.GroupNorm(0, 4), ValueError, "num_groups >= 1, got 0"),
    (lambda: nz.GroupNorm(4, 4)(f32(1, 4)), ValueError, "more than 1 value per group"),
    (lambda: nz.GroupNorm(2, 4)(f32(4)), ValueError, "rank 2 or more"),
    (lambda: nz.LayerNorm(4)(f32(2, 5)), ValueError, r"LayerNorm\(\(4,\)\): expected x of shape \(\.\.\., 4\), got \(2, 5\)"),
    (lambda: nz.LayerNorm((3, 4))(f32(4)), ValueError, r"\(\.\.\., 3, 4\), got \(4,\)"),
    (lambda: nz.LayerNorm(()), ValueError, "at least one axis"),
    (lambda: nz.LayerNorm("x"), TypeError, "normalized_shape to be an integer or a tuple"),
    (lambda: nz.LayerNorm(4, axis=1)(f32(2, 5)), ValueError, "along axis=1"),
    (lambda: nz.LayerNorm(4, axis=2)(f32(2, 4)), ValueError, r"axis in \[-2, 2\).*got 2"),
    (lambda: nz.LayerNorm((4, 2), axis=(1, 0))(f32(2, 4)), ValueError, "increasing order"),
    (lambda: nz.RMSNorm(4)(f32(2, 5)), ValueError, r"RMSNorm\(\(4,\)\): expected x of shape"),
    (lambda: F.batch_norm(f32(4, 3), None, None), ValueError, "batch_norm: expected running_mean and running_var in eval"),
    (lambda: F.batch_norm(f32(4, 3), f32(3), None, training=True), ValueError, "got only running_mean"),
    (lambda: F.batch_norm(f32(4, 3), None, f32(3)), ValueError, "got only running_var"),
    (lambda: F.batch_norm(f32(4, 3), f32(4), f32(4)), ValueError, r"running_mean of shape \(3,\), got \(4,\)"),
    (lambda: F.batch_norm(f32(4, 3), f32(3), f32(3), f32(4)), ValueError, r"weight of shape \(3,\), got \(4,\)"),
    (lambda: F.batch_norm(f32(4, 3), f32(3), f32(3), eps=-1), ValueError, "eps >= 0"),
    (lambda: F.batch_norm(f32(4, 3), None, None, training=True, eps=0), ValueError, "eps > 0"),
    (lambda: F.batch_norm(f32(4, 3), None, None, training=True, momentum=None), TypeError, "momentum to be a number"),
    (lambda: F.batch_norm(f32(4, 3), np.broadcast_to(np.float32(0), 3), f32(3), training=True), ValueError, "read-only"),
    (lambda: F.instance_norm(f32(4, 3, 5), use_input_stats=False), ValueError, "use_input_stats=False"),
    (lambda: F.instance_norm(f32(4, 3, 5), f32(3)), ValueError, "got only running_mean"),
    (lambda: F.layer_norm(f32(2, 4), (4,), f32(5)), ValueError, r"layer_norm: expected weight of shape \(4,\)"),
    (lambda: F.layer_norm(f32(2, 4), (4,), f32(4), f32(1)), ValueError, r"bias of shape \(4,\), got \(1,\)"),
    (lambda: F.group_norm(f32(2, 5), 2), ValueError, "num_groups to divide"),
    (lambda: F.group_norm(f32(2, 4), 2, f32(2)), ValueError, r"weight of shape \(4,\)"),
    (lambda: F.rms_norm(f32(2, 4), (4,), f32(1)), ValueError, r"weight of shape \(4,\)"),
    (lambda: F.rms_norm(f32(2, 4), (4,), eps=-1), ValueError, "eps >= 0"),
    (lambda: F.local_response_norm(f32(2, 4), 3), ValueError, "rank 3 or more"),
    (lambda: F.local_response_norm(f32(2, 4, 3), 0), ValueError, "size >= 1"),
    (lambda: F.local_response_norm(f32(2, 4, 3), 2.5), TypeError, "size to be an integer"),
    (lambda: F.local_response_norm(f32(2, 4, 3), 2, beta="b"), TypeError, "beta to be a number"),
    (lambda: F.normalize(f32(4)), ValueError, r"dim in \[-1, 1\)"),
    (lambda: F.normalize(f32(4, 2), dim=(1, -1)), ValueError, "different axes"),
    (lambda: F.normalize(f32(4, 2), p=float("nan")), ValueError, "p to be a number, got nan"),
    (lambda: F.normalize(f32(4, 2), p=True), TypeError, "p to be a number, got True"),
    (lambda: nz.BatchNorm(3, momentum=float("nan")), ValueError, "momentum to be a number, got nan"),
    (lambda: nz.LayerNorm(3, eps=None), TypeError, "eps to be a number, got None"),
    (lambda: nz.LayerNorm(3, axis=1.5), TypeError, "axis to be an integer, got 1.5"),
    (lambda: nz.BatchNorm(3, epsilon=1e-3), TypeError, r"^BatchNorm: got .* argument 'epsilon'; did you mean 'eps'\?$"),
    (lambda: nz.GroupNorm(1, 3, data_format="NHWC"), TypeError, "'data_format'; did you mean 'channel_axis'"),
    (lambda: nz.BatchNorm(3, qqq=1), TypeError, "'qqq'; known are activation, affine, bias, "),
    (lambda: nz.BatchNorm(3)(f32(4, 3), msk=1), TypeError, r"BatchNorm\(3\): got .* argument 'msk'; did you mean 'mask'"),
    (lambda: nz.BatchNorm(3)(f32(4, 3), length=1), TypeError, "'length'; did you mean 'lengths'"),
    (lambda: nz.BatchNorm(3)(f32(4, 3), qqq=1), TypeError, "'qqq'; known are residual, add, gate, residual_out, length_axis"),
    (lambda: nz.BatchNorm(3).grads["weight"], KeyError, r"expected a backward pass before grads\['weight'\] is read; write"),
    (lambda: nz.LayerNorm(3).load_state_dict({"ln.weight": f32(3), "ln.bias": f32(3)}), ValueError,
     r"unexpected=\['ln.weight', 'ln.bias'\]; write \{name.removeprefix\('ln.'\): a for name, a in state.items\(\)"),
    (lambda: nz.create([]), ValueError, r"^create: expected a name of list_norms\(\), got \[\]$"),
    (lambda: nz.create("batch_nrom"), ValueError, r"got 'batch_nrom'; did you mean 'batch_norm'\?$"),
    (lambda: nz.create("batchnorm"), ValueError, r"got 'batchnorm'; did you mean 'batch_norm'\?$"),
    (lambda: nz.create("BatchNormalization", 3), ValueError, "; write dialect='keras' or dialect='onnx'"),
    (lambda: nz.create("qqq"), ValueError, "got 'qqq'$"),
    (lambda: nz.create("BatchNormalisation", 3, dialect="keras"), ValueError, r"did you mean 'BatchNormalization'\?$"),
    (lambda: nz.BatchNorm2d, AttributeError, "write normzoo.BatchNorm or, for tensors, normzoo.torch.BatchNorm2d"),
    (lambda: nz.LayerNrom, AttributeError, "no attribute 'LayerNrom'; did you mean 'LayerNorm'"),
    (lambda: nz.use("gpu").__enter__(), ValueError, "use: expected one of 'cpu', 'reference', got 'gpu'"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), MESSAGES, ids=[m[2][:50] for m in MESSAGES])
def test_message(call, error, message):
    with pytest.raises(error, match=message) as raised:
        call()
    assert type(raised.value) is error


NO_FLOATS = {
    "list": lambda shape: np.ones(shape).tolist(),
    "scalar": lambda shape: 1.0,
    "none": lambda shape: None,
    "integers": lambda shape: np.ones(shape, np.int64),
    "booleans": lambda shape: np.ones(shape, bool),
    "complex": lambda shape: np.ones(shape, np.complex64),
    "objects": lambda shape: np.ones(shape, object),
    "strings": lambda shape: np.full(shape, "1"),
    "long double": lambda shape: np.ones(shape, np.longdouble),
    "masked": lambda shape: np.ma.masked_array(np.ones(shape, np.float32)),
}


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("kind", NO_FLOATS)
def test_what_is_no_float_array_is_a_type_error_and_changes_nothing(case, kind, rng):
    x, dy = draw(case, rng, np.float32)
    norm = filled(case.norm(), rng)
    norm(x)
    norm.backward(dy)
    state, saved, grads = norm.state_dict(), norm.saved, norm.grads
    out = np.full(case.shape, 7, np.float32)
    bad = NO_FLOATS[kind](case.shape)
    with pytest.raises(TypeError, match="expected x"):
        norm(bad, out=out)
    with pytest.raises(TypeError, match="expected dy"):
        norm.backward(bad, out=out)
    with pytest.raises(ValueError, match="expected (x|axis)"):
        norm(np.ones((3, 1000), np.float32), out=out)
    with pytest.raises(ValueError, match="expected dy of x's shape"):
        norm.backward(dy[:1], out=out)
    assert norm.saved is saved and norm.grads is grads and (out == 7).all()
    for name, value in norm.state_dict().items():
        check.same_bits(value, state[name])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_backward_needs_a_forward(case):
    with pytest.raises(RuntimeError, match="expected a forward pass before backward"):
        case.norm().backward(np.ones(case.shape, np.float32))


def test_a_bad_parameter_leaves_the_running_statistics_alone():
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    mean, var = np.zeros(3, np.float32), np.ones(3, np.float32)
    for bad in ({"out": np.ones((4, 4), np.float32)}, {"weight": np.ones(2, np.float32)}, {"eps": -1.0}):
        with pytest.raises(ValueError):
            F.batch_norm(x, mean, var, training=True, **bad)
    check.same_bits(mean, np.zeros(3, np.float32))
    check.same_bits(var, np.ones(3, np.float32))
    norm = nz.BatchNorm(3)
    with pytest.raises(ValueError, match="out of shape"):
        norm(x, out=np.ones((4, 4), np.float32))
    assert norm.num_batches_tracked == 0


def test_a_pass_with_other_parameters_takes_those_of_its_own_sizes(rng):
    x, (w, b) = rng.standard_normal((4, 3)), np.ones((2, 3))
    norm = nz.BatchNorm(3, dtype=np.float64).eval()
    saved = norm.forward(x)[1]
    check.close(saved.again(2 * w, 3 * b), 2 * x / np.sqrt(1 + 1e-5) + 3, check.EXACT)
    for one, other, error, message in (
        (w[:2], b, ValueError, r"BatchNorm\(3\): expected weight of shape \(3,\), got \(2,\)"),
        (w, np.ones(300), ValueError, r"expected bias of shape \(3,\), got \(300,\)"),
        (None, b, TypeError, "expected weight to be a NumPy array, got None;"),
        (w, b.astype(int), TypeError, "expected bias of dtype"),
    ):
        with pytest.raises(error, match=message):
            saved.again(one, other)
    with pytest.raises(RuntimeError, match="expected a pass whose statistics were known"):
        nz.LayerNorm(3).forward(x)[1].again(w, b)
    saved = norm.forward(x, out=x)[1]
    with pytest.raises(RuntimeError, match="overwritten in place"):
        saved.again(w, b)


def test_statistics_of_another_size_do_not_reach_a_kernel(rng):
    norm = nz.Standardize(3)
    norm.adapt(rng.standard_normal((5, 3)))
    norm.buffers |= {name: np.ones(2) for name in ("mean", "m2", "unit")}
    with pytest.raises(ValueError, match=r"expected statistics in a C-contiguous float64 array of shape \(3, 1, 3\)"):
        norm(rng.standard_normal((5, 3)))


def test_completion_shows_what_is_public():
    assert set(nz.__all__) <= set(dir(nz)) and "passes" not in dir(nz) and "numpy" not in dir(nz)


def test_what_a_pass_saves_says_whose_it_is():
    _, saved = nz.LayerNorm(5).forward(f32(4, 5))
    assert repr(saved) == "<Saved of LayerNorm((5,)) for x of shape (4, 5), float32>"
    _, saved = nz.BatchRenorm(5).forward(f32(4, 5))
    assert repr(saved).startswith("<Saved of BatchRenorm(5) for x of shape (4, 5)")


def test_a_scaler_is_made_and_adapted_in_one_line():
    x = np.float32([[0, 1], [2, 3]])
    np.testing.assert_allclose(nz.Standardize(2).adapt(x)(x), [[-1, -1], [1, 1]], rtol=1e-6)
