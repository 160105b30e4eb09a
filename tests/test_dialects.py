"""State and arguments in the words of Flax, Keras and ONNX, against what these document, written out in NumPy."""

import numpy as np
import pytest

import normzoo as nz
from normzoo.exchange.dialects import COUNTERPARTS
from tests import check
from tests.cases import filled


class BatchNormalization:
    """BatchNorm as Flax and Keras document it: momentum weighs the old value, the batch's variance is biased."""

    def __init__(self, features, momentum, epsilon):
        self.mean, self.var, self.scale, self.bias = (f(features) for f in (np.zeros, np.ones, np.ones, np.zeros))
        self.momentum, self.epsilon = momentum, epsilon

    def __call__(self, x, train):
        axes = tuple(range(x.ndim - 1))
        mean, var = (x.mean(axes), x.var(axes)) if train else (self.mean, self.var)
        if train:
            self.mean = self.momentum * self.mean + (1 - self.momentum) * mean
            self.var = self.momentum * self.var + (1 - self.momentum) * var
        return (x - mean) / np.sqrt(var + self.epsilon) * self.scale + self.bias


DEFAULTS = {
    "flax": ("BatchNorm", 0.99, 1e-5, ("mean", "var", "scale", "bias")),
    "keras": ("BatchNormalization", 0.99, 1e-3, ("moving_mean", "moving_variance", "gamma", "beta")),
}


@pytest.mark.parametrize("dialect", DEFAULTS)
@pytest.mark.parametrize("momentum", [None, 0.9, 0.5])
def test_training_is_theirs(dialect, momentum, rng):
    """The same batches leave the same state, step by step, in their names and with their biased variance."""
    layer, usual, epsilon, names = DEFAULTS[dialect]
    options = {} if momentum is None else {"momentum": momentum}
    norm = nz.create(layer, 5, dialect=dialect, dtype="float64", **options)
    model = BatchNormalization(5, usual if momentum is None else momentum, epsilon)
    norm.weight[...] = model.scale = rng.standard_normal(5)
    norm.bias[...] = model.bias = rng.standard_normal(5)
    n = 4 * 6
    for _ in range(4):
        state = norm.state_dict(dialect, values=n)
        for name, a in zip(names, (model.mean, model.var, model.scale, model.bias), strict=True):
            check.close(state[name], a, check.EXACT)
        x = 3 + 2 * rng.standard_normal((4, 6, 5))  # channels last, as theirs
        check.close(norm(x), model(x, train=True), check.EXACT)
    trained = {name: a.copy() for name, a in zip(names, (model.mean, model.var, model.scale, model.bias), strict=True)}

    # For evaluation their state is taken as it is.
    other = nz.create(layer, 5, dialect=dialect, dtype="float64", **options).eval()
    other.load_state_dict(trained, dialect)
    check.close(other(x), model(x, train=False), check.EXACT)
    assert sorted(other.state_dict(dialect)) == sorted(names)
    for name, a in other.state_dict(dialect).items():
        check.same_bits(a, trained[name])

    # To train on, with n and the number of batches, it is what our own training would have left.
    other.load_state_dict(trained | {"num_batches_tracked": np.array(4)}, dialect, values=n)
    for name, a in norm.state_dict().items():
        check.close(other.state_dict()[name], a, check.EXACT)


def test_a_state_without_its_count_has_forgotten_its_first_value(rng):
    norm, var = nz.BatchNorm(3, dtype=np.float64), rng.uniform(1, 2, 3)
    state = {"scale": np.ones(3), "bias": np.zeros(3), "mean": np.zeros(3), "var": var}
    norm.load_state_dict(state, "flax", values=8)
    check.close(norm.running_var, var * 8 / 7, check.EXACT)
    average = nz.BatchNorm(3, momentum=None, dtype=np.float64)
    for _ in range(2):
        x = rng.standard_normal((8, 3))
        average(x)
    expected = average.running_var * 7 / 8
    check.close(average.state_dict("keras", values=8)["moving_variance"], expected, check.EXACT)


NORMS = [
    ("batch_norm", lambda **o: nz.BatchNorm(6, **o), ["scale", "bias", "mean", "var"], ["gamma", "beta", "moving_mean", "moving_variance"], ["scale", "B", "input_mean", "input_var"]),
    ("frozen", lambda **o: nz.FrozenBatchNorm(6), ["scale", "bias", "mean", "var"], ["gamma", "beta", "moving_mean", "moving_variance"], ["scale", "B", "input_mean", "input_var"]),
    ("instance_norm", lambda **o: nz.InstanceNorm(6, affine=True), ["scale", "bias"], ["gamma", "beta"], ["scale", "B"]),
    ("layer_norm", lambda **o: nz.LayerNorm((2, 6)), ["scale", "bias"], ["gamma", "beta"], ["Scale", "B"]),
    ("scale_only", lambda **o: nz.LayerNorm(6, bias=False), ["scale"], ["gamma"], ["Scale"]),
    ("group_norm", lambda **o: nz.GroupNorm(2, 6), ["scale", "bias"], ["gamma", "beta"], ["scale", "bias"]),
    ("rms_norm", lambda **o: nz.RMSNorm(6), ["scale"], ["scale"], ["scale"]),
    ("gemma", lambda **o: nz.RMSNorm(6, offset=1.0), ["scale"], ["scale"], ["scale"]),
]  # fmt: skip


@pytest.mark.parametrize("dialect", ["flax", "keras", "onnx"])
@pytest.mark.parametrize("norm", NORMS, ids=lambda n: n[0])
def test_names_and_round_trips(norm, dialect, rng):
    _, make, *names = norm
    first, second = filled(make(), rng), make()
    if first.buffers:
        first.buffers["running_mean"][...] = rng.standard_normal(6)
        first.buffers["running_var"][...] = rng.uniform(1, 2, 6)
    state = first.state_dict(dialect)
    assert list(state) == names[["flax", "keras", "onnx"].index(dialect)]
    second.load_state_dict(state, dialect)
    for name, a in first.state_dict().items():
        if name != "num_batches_tracked":
            check.close(second.state_dict()[name], a, 3e-7)
    if "offset" in repr(first):
        check.close(state["scale"], 1 + first.weight, 1e-7)
    next(iter(state.values()))[...] = 7  # copies
    assert not any((a == 7).any() for a in first.state_dict().values())


def test_flax_variables_may_be_nested():
    norm = nz.BatchNorm(2)
    norm.load_state_dict(
        {"params": {"scale": np.array([2.0, 3]), "bias": np.ones(2)}, "batch_stats": {"mean": np.ones(2), "var": np.ones(2)}},
        "flax",
    )  # fmt: skip
    assert norm.weight.tolist() == [2, 3] and norm.running_mean.tolist() == [1, 1]


def test_group_norm_of_opset_18_has_parameters_of_the_groups(rng):
    norm = nz.GroupNorm(2, 6)
    norm.weight[...], norm.bias[...] = np.repeat([2, 3], 3), np.repeat([-1, 1], 3)
    state = norm.state_dict("onnx", opset=18)
    assert state["scale"].tolist() == [2, 3] and state["bias"].tolist() == [-1, 1]
    assert norm.state_dict("onnx")["scale"].tolist() == [2, 2, 2, 3, 3, 3]
    other = nz.GroupNorm(2, 6)
    other.load_state_dict(state, "onnx")
    check.same_bits(other.weight, norm.weight)
    norm.weight[1] = 9
    with pytest.raises(ValueError, match=r"GroupNorm\(2, 6\): expected one weight for each group.*write opset=21"):
        norm.state_dict("onnx", opset=18)
    with pytest.raises(ValueError, match="opset >= 18, got 17"):
        norm.state_dict("onnx", opset=17)


def test_inputs_that_onnx_must_have_are_neutral(rng):
    plain = nz.BatchNorm(3, affine=False)
    state = plain.state_dict("onnx")
    assert state["scale"].tolist() == [1, 1, 1] and state["B"].tolist() == [0, 0, 0]
    plain.load_state_dict(state, "onnx")
    with pytest.raises(ValueError, match=r"unexpected=\['scale'\]"):
        plain.load_state_dict(state | {"scale": np.full(3, 2, np.float32)}, "onnx")
    assert nz.RMSNorm(3, elementwise_affine=False).state_dict("onnx")["scale"].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n: n.state_dict("caffe"), "expected dialect to be one of 'torch', 'flax', 'keras', 'onnx', got 'caffe'"),
        (lambda n: n.load_state_dict({"gamma": np.ones(3)}, "flax"), r"flax's BatchNorm with \['scale', 'bias', 'mean', 'var'\].*missing=\['scale'.*unexpected=\['gamma'\]"),
        (lambda n: n.load_state_dict(n.state_dict("flax") | {"mean": np.ones(4)}, "flax"), r"running_mean of shape \(3,\), got \(4,\)"),
        (lambda n: n.load_state_dict(n.state_dict("flax"), "flax", values=1), "expected values >= 2, got 1"),
        (lambda n: nz.DyT(3).state_dict("flax"), "expected a norm that flax has .*got DyT; write state_dict()"),
        (lambda n: nz.BatchRenorm(3).state_dict("keras"), "expected a norm that keras has .*got BatchRenorm; write state_dict"),
        (lambda n: nz.InstanceNorm(3, track_running_stats=True).state_dict("keras"), "expected a state that keras's GroupNorm"),
        (lambda n: nz.RMSNorm(3, axis=1).state_dict("onnx"), "expected the last axes"),
        (lambda n: nz.LayerNorm(4, parameter_axis=1, parameter_shape=3).state_dict("onnx"), "counted from the last.*negative"),
        (lambda n: nz.describe(nz.LocalResponseNorm(4), "onnx"), "expected even='after' of an even size.*got 'before'"),
        (lambda n: nz.describe(nz.LocalResponseNorm(3, channel_axis=-1), "onnx"), "expected channel_axis=1"),
        (lambda n: nz.describe(nz.UnitNorm((1, 2)), "onnx"), "expected one axis, as ONNX's LpNormalization has"),
        (lambda n: nz.describe(nz.UnitNorm(eps=1e-3), "onnx"), "expected eps=1e-12, as onnx has none, got 0.001"),
        (lambda n: nz.describe(nz.MeanVarianceNorm(eps=1e-5), "onnx"), "expected eps=0, as onnx has none, got 1e-05"),
        (lambda n: nz.LayerNorm(3, axis=1).state_dict("onnx"), "expected the last axes"),
        (lambda n: nz.create("Dense", 3, dialect="keras"), "expected a layer of keras, one of BatchNormalization.*got 'Dense'"),
        (lambda n: nz.create("BatchNorm", 3, dialect="caffe"), "expected dialect to be 'torch', 'flax', 'keras' or 'onnx', got 'caffe'"),
        (lambda n: nz.create("BatchNorm", 3, dialect="onnx"), "one of BatchNormalization, .*got 'BatchNorm'; did you mean 'BatchNormalization'"),
        (lambda n: nz.create("LayerNormalization", 3, axis=1, dialect="onnx"), r"expected axis=-1, the first of the axes of sizes \(3,\), got 1"),
        (lambda n: nz.create("GroupNorm", 3, dialect="flax", group_size=1), "expected num_groups or group_size"),
        (lambda n: nz.describe(nz.BatchNorm(3, momentum=None), "flax"), "expected a momentum, got None"),
        (lambda n: nz.describe(nz.GroupNorm(3, 6), "flax"), "expected channel_axis=-1"),
        (lambda n: nz.describe(nz.BatchNorm(3, channel_axis=-1), "onnx"), "expected channel_axis=1, as ONNX has"),
        (lambda n: nz.describe(nz.LayerNorm((3, 4), parameter_axis=1, parameter_shape=3), "keras"), "of the normalized axes"),
    ],
)  # fmt: skip
def test_what_cannot_be_said_is_refused_and_changes_nothing(change, message, rng):
    norm = filled(nz.BatchNorm(3), rng)
    before = norm.state_dict()
    with pytest.raises(ValueError, match=message):
        change(norm)
    for name, a in norm.state_dict().items():
        check.same_bits(a, before[name])


def test_arrays_and_options_of_other_kinds_are_type_errors():
    with pytest.raises(TypeError, match="create: keras's LayerNormalization: got an unexpected keyword argument 'eps'"):
        nz.create("LayerNormalization", 3, eps=1e-3, dialect="keras")
    with pytest.raises(TypeError, match="create: flax's LayerNorm: missing a required argument: 'shape'"):
        nz.create("LayerNorm", dialect="flax")
    with pytest.raises(
        ValueError, match=r"create: expected feature_axes of -1 as reduction_axes, got 1; write nz.Layer"
    ):
        nz.create("LayerNorm", 3, dialect="flax", feature_axes=1)
    norm = nz.LayerNorm(2)
    with pytest.raises(TypeError, match="bias to be a NumPy array, got list"):
        norm.load_state_dict({"scale": np.ones(2), "bias": [0, 0]}, "flax")
    with pytest.raises(TypeError, match="state to be a dict of arrays, got list"):
        norm.load_state_dict([np.ones(2), np.ones(2)], "keras")


CREATED = [
    ("flax", "LayerNorm", (64,), {}, nz.LayerNorm(64, 1e-6)),
    ("flax", "LayerNorm", ((3, 4),), {"reduction_axes": (-2, -1), "feature_axes": (-2, -1)}, nz.LayerNorm((3, 4), 1e-6)),
    ("flax", "LayerNorm", (64,), {"use_bias": False, "epsilon": 1e-3}, nz.LayerNorm(64, 1e-3, bias=False)),
    ("flax", "RMSNorm", (64,), {}, nz.RMSNorm(64, 1e-6)),
    ("flax", "GroupNorm", (64,), {}, nz.GroupNorm(32, 64, 1e-6, channel_axis=-1)),
    ("flax", "GroupNorm", (64,), {"num_groups": None, "group_size": 16}, nz.GroupNorm(4, 64, 1e-6, channel_axis=-1)),
    ("flax", "InstanceNorm", (64,), {}, nz.InstanceNorm(64, 1e-6, affine=True, channel_axis=-1)),
    ("flax", "BatchNorm", (64,), {"momentum": 0.75, "axis": 1}, nz.BatchNorm(64, momentum=0.25)),
    ("keras", "LayerNormalization", (64,), {"axis": 1}, nz.LayerNorm(64, 1e-3, axis=1)),
    ("keras", "LayerNormalization", ((3, 4),), {"axis": [-2, -1]}, nz.LayerNorm((3, 4), 1e-3)),
    ("keras", "GroupNormalization", (64,), {"groups": 8, "axis": 1}, nz.GroupNorm(8, 64, 1e-3)),
    ("keras", "GroupNormalization", (64,), {"groups": -1}, nz.InstanceNorm(64, 1e-3, affine=True, channel_axis=-1)),
    ("keras", "RMSNormalization", (64,), {}, nz.RMSNorm(64, 1e-6)),
    ("keras", "UnitNormalization", (), {}, nz.UnitNorm()),
    ("keras", "UnitNormalization", (), {"axis": 1, "order": 1}, nz.UnitNorm(1, order=1)),
    ("keras", "BatchNormalization", (64,), {"momentum": 0.75, "scale": False, "center": False},
     nz.BatchNorm(64, 1e-3, 0.25, affine=False, channel_axis=-1)),
]  # fmt: skip


@pytest.mark.parametrize(("dialect", "name", "arguments", "options", "expected"), CREATED)
def test_layers_by_their_names_there(dialect, name, arguments, options, expected):
    norm = nz.create(name, *arguments, dialect=dialect, **options)
    assert repr(norm) == repr(expected) and getattr(norm, "channel_axis", 1) == getattr(expected, "channel_axis", 1)
    found, told = nz.describe(norm, dialect)  # and back
    assert found == name
    assert repr(nz.create(found, *arguments, dialect=dialect, **told)) == repr(norm)


def test_a_shift_without_a_scale(rng):
    norm = nz.create("BatchNormalization", 3, dialect="keras", scale=False)
    norm.load_state_dict({"beta": np.arange(3.0), "moving_mean": np.zeros(3), "moving_variance": np.ones(3)}, "keras")
    x = rng.standard_normal((8, 3)).astype(np.float32)
    y = norm(x)
    check.close(y, (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-3) + np.arange(3), 1e-6)
    dy = rng.standard_normal(y.shape).astype(np.float32)
    norm.backward(dy)
    assert list(norm.grads) == ["bias"]
    check.close(norm.grads["bias"], dy.sum(0), 1e-5)


def test_attributes_for_onnx():
    assert nz.describe(nz.BatchNorm(3).eval(), "onnx") == ("BatchNormalization", {"epsilon": 1e-5, "training_mode": 0})
    found = nz.describe(nz.BatchNorm(3, momentum=0.25), "onnx").arguments
    assert found == {"epsilon": 1e-5, "training_mode": 1, "momentum": 0.75}
    assert nz.describe(nz.GroupNorm(2, 4), "onnx").arguments == {"epsilon": 1e-5, "num_groups": 2}
    assert nz.describe(nz.LayerNorm((2, 3)), "onnx").arguments == {"epsilon": 1e-5, "axis": -2}
    assert nz.describe(nz.RMSNorm(3), "onnx").arguments == {"epsilon": 2**-23, "axis": -1}


def test_a_batch_norm_without_running_statistics_trains_in_evaluation_too():
    found = nz.describe(nz.BatchNorm(3, track_running_stats=False).eval(), "onnx")
    assert found == ("BatchNormalization", {"epsilon": 1e-5, "training_mode": 1})


WRITTEN = [
    nz.BatchNorm(6).eval(), nz.BatchNorm(6), nz.BatchNorm(6, track_running_stats=False).eval(), nz.FrozenBatchNorm(6),
    nz.InstanceNorm(6, affine=True), nz.GroupNorm(2, 6), nz.LayerNorm((6, 4)), nz.LayerNorm(4, bias=False), nz.RMSNorm(4, 1e-3),
    nz.LayerNorm(4, parameter_axis=(-2, -1), parameter_shape=(6, 4)), nz.LayerNorm((6, 4), parameter_axis=-2, parameter_shape=6),
    nz.RMSNorm(4, 1e-3, parameter_axis=(-3, -1), parameter_shape=(3, 4)), nz.LocalResponseNorm(3, 0.5, 0.6, 2.0),
    nz.LocalResponseNorm(4, 0.5, even="after"), nz.UnitNorm(1), nz.UnitNorm(order=1), nz.MeanVarianceNorm((0, 2)),
]  # fmt: skip


@pytest.mark.parametrize("norm", WRITTEN, ids=str)
def test_a_norm_becomes_a_node_and_a_norm_again(norm, rng):
    """... and ONNX Runtime, where it has the operator, gives the same."""
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    filled(norm, rng)
    name, attributes = nz.describe(norm, "onnx")
    state = norm.state_dict("onnx")
    outputs = ["y", "mean", "var"] if attributes.get("training_mode") else ["y"]
    node = onnx.helper.make_node(name, ["x", *state], outputs, **attributes)
    x = rng.standard_normal((3, 6, 4)).astype(np.float32)
    again = nz.from_onnx(node, state, opset=23, shape=x.shape)
    y = norm(x)
    check.close(again(x), y, 1e-6)
    norm.load_state_dict(state, "onnx")
    check.close(norm(x), y, 1e-6)
    told = [onnx.helper.make_tensor_value_info("x", 1, x.shape)], [onnx.helper.make_tensor_value_info("y", 1, None)]
    initial = [onnx.numpy_helper.from_array(a, n) for n, a in state.items()]
    version = 23 if name == "RMSNormalization" else 21 if name == "GroupNormalization" else 17
    made = onnx.helper.make_model(
        onnx.helper.make_graph([node], "g", *told, initial),
        opset_imports=[onnx.helper.make_opsetid("", version)],
        ir_version=10,
    )
    try:
        session = runtime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
        answer = session.run(["y"], {"x": x})[0]
    except Exception as error:  # onnxruntime's errors are no classes that can be named
        known = "NOT_IMPLEMENTED", "training_mode", "size_ % 2 == 1", "LRN<T>"  # of an even size, or of rank 3
        assert any(text in str(error) for text in known), error
    else:
        check.close(answer, y, 3e-6)


class Shifted(nz.BatchNorm):
    """A norm that somebody made of another."""

    def forward(self, x, out=None, **options):
        return super().forward(x + 1, out, **options)


SUBCLASSES = [
    nz.AlphaBatchNorm(4, alpha=0.5).eval(), nz.BatchRenorm(4).eval(), nz.DomainBatchNorm(4, 2).eval(), nz.EMABatchNorm(4).eval(),
    nz.GhostBatchNorm(4, 2), nz.L1BatchNorm(4).eval(), nz.LInfBatchNorm(4).eval(), nz.SplitBatchNorm(4, 2).eval(), Shifted(4),
]  # fmt: skip


@pytest.mark.parametrize("norm", SUBCLASSES, ids=str)
@pytest.mark.parametrize("dialect", ["flax", "keras", "onnx"])
def test_what_comes_of_a_norm_is_not_taken_for_it(norm, dialect):
    """An AlphaBatchNorm is no BatchNormalization, nor is EMABatchNorm's variance, biased already, to be made so again."""
    name = type(norm).__name__
    for ask in (
        lambda: nz.describe(norm, dialect),
        lambda: norm.state_dict(dialect),
        lambda: norm.state_dict(dialect, values=8),
    ):
        with pytest.raises(
            ValueError, match=rf"expected a norm that {dialect} has .*, got {name}; write state_dict\(\)"
        ):
            ask()
    with pytest.raises(ValueError, match=f"got {name}"):
        norm.load_state_dict(nz.BatchNorm(4).state_dict(dialect), dialect)


def test_of_all_norms_the_ones_that_others_have_say_so():
    """Every class is one of the table's, or refused by name."""
    for dialect, known in COUNTERPARTS.items():
        for name in known:
            assert isinstance(getattr(nz, name), type)
        for kind in {getattr(nz, name) for name in nz.__all__ if isinstance(getattr(nz, name), type)}:
            if issubclass(kind, nz.Norm) and kind is not nz.Norm and kind.__name__ not in known:
                norm = kind.__new__(kind)
                norm.label, norm.params, norm.buffers = kind.__name__, {}, {}
                with pytest.raises(ValueError, match=f"expected a norm that {dialect} has"):
                    nz.describe(norm, dialect)


def test_a_sync_batch_norm_is_a_batch_norm_elsewhere():
    pytest.importorskip("mpi4py")
    found = nz.describe(nz.SyncBatchNorm(4), "keras")
    assert found == nz.describe(nz.BatchNorm(4), "keras")


def test_torch_reads_what_was_written_and_the_other_way_round(rng):
    torch = pytest.importorskip("torch")
    theirs, ours = torch.nn.BatchNorm2d(5), nz.create("BatchNorm", 5, dialect="flax", axis=1, momentum=0.9)
    for _ in range(3):
        x = rng.standard_normal((4, 5, 3, 2)).astype(np.float32)
        ours(x)
        theirs(torch.from_numpy(x))
    flax = ours.state_dict("flax", values=24)
    third = nz.BatchNorm(5)
    third.load_state_dict(flax | {"num_batches_tracked": np.array(3)}, "flax", values=24)
    theirs_state = {name: a.numpy() for name, a in theirs.state_dict().items()}
    for name, a in third.state_dict().items():
        check.close(a, theirs_state[name], 1e-6)


@pytest.mark.parametrize(
    ("norm", "dialect", "features"),
    [
        (nz.BatchNorm(6, eps=1e-3, momentum=0.3), "torch", ()),
        (nz.InstanceNorm(6, affine=True), "torch", ()),
        (nz.GroupNorm(2, 6, eps=1e-3), "torch", ()),
        (nz.LayerNorm((3, 6), bias=False), "torch", ()),
        (nz.RMSNorm(6), "torch", ()),
        (nz.LocalResponseNorm(4, k=2.0), "torch", ()),
        (nz.BatchNorm(6, eps=1e-3, momentum=0.25), "onnx", (6,)),
        (nz.BatchNorm(6, momentum=1 - 0.9).eval(), "onnx", (6,)),  # 0.9 is of the old value
        (nz.InstanceNorm(6, eps=1e-3, affine=True), "onnx", (6,)),
        (nz.GroupNorm(2, 6, eps=1e-3), "onnx", (6,)),
        (nz.LayerNorm((3, 6), eps=1e-3), "onnx", ((3, 6),)),
        (nz.RMSNorm(6, eps=1e-3), "onnx", (6,)),
        (nz.LocalResponseNorm(4, even="after"), "onnx", ()),
        (nz.UnitNorm(1), "onnx", ()),
        (nz.MeanVarianceNorm((0, 2, 3)), "onnx", ()),
    ],
    ids=lambda value: str(value) if isinstance(value, nz.Norm) else None,
)
def test_what_describe_says_creates_the_norm(norm, dialect, features):
    name, arguments = nz.describe(norm, dialect)
    again = nz.create(name, *features, **arguments, dialect=dialect)
    assert repr(again) == repr(norm) and again.training == norm.training


def test_torchs_names(rng):
    assert nz.describe(nz.BatchNorm(3), "torch", rank=2).name == "BatchNorm1d"
    assert [nz.describe(nz.InstanceNorm(3), "torch", rank=rank).name[-2:] for rank in (3, 4, 5)] == ["1d", "2d", "3d"]
    assert type(nz.create("BatchNorm2d", 3)) is type(nz.create("BatchNorm", 3)) is nz.BatchNorm
    assert nz.create("LayerNorm", 3, dialect="torch").normalized_shape == (3,)
    for make, said in [
        (
            lambda: nz.describe(nz.BatchNorm(3, channel_axis=-1), "torch"),
            "expected channel_axis=1, as torch has, got -1",
        ),
        (lambda: nz.describe(nz.GroupNorm(3, 3, bias=False), "torch"), "expected weight and bias, or neither"),
        (lambda: nz.describe(nz.BatchNorm(3), "torch", rank=6), "expected rank to be 2 to 5, .*got 6"),
        (lambda: nz.describe(nz.DyT(3), "torch"), "expected a norm that torch has .*got DyT"),
    ]:
        with pytest.raises(ValueError, match=said):
            make()
