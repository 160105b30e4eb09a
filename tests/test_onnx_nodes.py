"""Norms of ONNX nodes against ONNX Runtime, ONNX's own definition, and formulas; malformed nodes are named."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import normzoo as nz
from tests import check

X, INITIALIZERS = "x", ("scale", "B", "mean", "var")


class Attribute(SimpleNamespace):
    """An AttributeProto, as far as it is read."""

    def __init__(self, name, value):
        field, kind = {float: ("f", 1), int: ("i", 2), bytes: ("s", 3), tuple: ("ints", 7)}[type(value)]
        super().__init__(name=name, type=kind, **{field: value})


def node(op_type, inputs=("x",), name="", **attributes):
    return SimpleNamespace(
        op_type=op_type, input=list(inputs), output=["y"], name=name, domain="", attribute=[Attribute(*a) for a in attributes.items()]
    )  # fmt: skip


def vectors(rng, size, names=("scale", "B"), dtype=np.float32):
    return {name: rng.uniform(0.5, 2, size).astype(dtype) for name in names}


# (kind, shape of x, attributes, shapes of the initializers, opset)
CASES = [
    ("BatchNormalization", (3, 5, 4, 6), {"epsilon": 1e-3}, dict.fromkeys(INITIALIZERS, (5,)), 15),
    ("BatchNormalization", (3, 5), {}, dict.fromkeys(INITIALIZERS, (5,)), 15),
    ("InstanceNormalization", (3, 5, 4, 6), {"epsilon": 1e-4}, {"scale": (5,), "B": (5,)}, 18),
    ("LayerNormalization", (3, 5, 17), {}, {"scale": (17,), "B": (17,)}, 17),
    ("LayerNormalization", (3, 5, 17), {"axis": 1}, {"scale": (5, 17), "B": (5, 17)}, 17),
    ("LayerNormalization", (3, 5, 17), {"axis": -1, "epsilon": 1e-2}, {"scale": (17,)}, 17),
    ("LayerNormalization", (3, 5, 17), {"axis": -2}, {"scale": (17,), "B": (5, 1)}, 17),
    ("LayerNormalization", (3, 5, 17), {"axis": 2}, {"scale": (1, 5, 17), "B": (3, 1, 17)}, 17),
    ("LayerNormalization", (3, 5, 17), {"axis": 1}, {"scale": (3, 1, 17)}, 17),
    ("LayerNormalization", (1, 3, 2), {"axis": 1}, {"scale": (2,)}, 17),
    ("LayerNormalization", (2, 3, 4), {"axis": 1}, {"scale": (), "B": (4,)}, 17),
    ("RMSNormalization", (3, 5, 17), {"axis": -1}, {"scale": (5, 1)}, 23),
    ("GroupNormalization", (3, 6, 4, 5), {"num_groups": 2}, {"scale": (6,), "B": (6,)}, 21),
    ("GroupNormalization", (3, 6, 4, 5), {"num_groups": 2, "epsilon": 1e-2}, {"scale": (2,), "B": (2,)}, 18),
    ("RMSNormalization", (3, 5, 17), {}, {"scale": (17,)}, 23),
    ("RMSNormalization", (3, 5, 17), {"axis": 1, "epsilon": 1e-2}, {"scale": (5, 17)}, 23),
    ("LRN", (3, 7, 4, 5), {"size": 3, "alpha": 0.5, "beta": 0.6, "bias": 2.0}, {}, 13),
    ("LRN", (3, 7, 4, 5), {"size": 5, "alpha": 1.0}, {}, 13),
    ("LpNormalization", (3, 5, 7), {"axis": 1, "p": 2}, {}, 22),
    ("LpNormalization", (3, 5, 7), {"p": 1}, {}, 22),
    ("MeanVarianceNormalization", (3, 5, 4, 6), {}, {}, 13),
    ("MeanVarianceNormalization", (3, 5, 4, 6), {"axes": (2, 3)}, {}, 13),
]


def label(case):
    return f"{case[0]}-{case[4]}-{CASES.index(case)}"


def made(case, rng):
    kind, shape, attributes, sizes, _ = case
    x = (2 + rng.standard_normal(shape)).astype(np.float32)
    arrays = {name: rng.uniform(0.5, 2, size).astype(np.float32) for name, size in sizes.items()}
    return x, arrays, node(kind, ("x", *arrays), **attributes)


@pytest.mark.parametrize("case", CASES, ids=label)
def test_a_node_is_what_onnx_says(case, rng):
    """ONNX's definition in Python, and ONNX Runtime where it has the operator."""
    onnx = pytest.importorskip("onnx")
    kind, shape, attributes, _, opset = case
    x, arrays, _ = made(case, rng)
    proto = onnx.helper.make_node(kind, ["x", *arrays], ["y"], name="norm", **attributes)
    tensors = [onnx.numpy_helper.from_array(a, name) for name, a in arrays.items()]
    norm = nz.from_onnx(proto, tensors, opset=opset, shape=shape)
    info = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in "xy")
    graph = onnx.helper.make_graph([proto], "g", [next(info)], [next(info)], tensors)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=10)
    if (kind, opset) != ("GroupNormalization", 18):  # deprecated since 21, says the checker of today
        # ... and it infers no shapes where MeanVarianceNormalization has its axes by default
        onnx.checker.check_model(model, full_check=kind != "MeanVarianceNormalization")
    y = norm(x)
    answers = []
    runtime = pytest.importorskip("onnxruntime")
    try:
        session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        answers.append(session.run(None, {"x": x})[0])
    except Exception as error:  # onnxruntime's NotImplemented is no class that can be named
        assert "NOT_IMPLEMENTED" in str(error), error
    from onnx.reference import ReferenceEvaluator  # noqa: PLC0415

    if not (kind == "LRN" or (kind == "LpNormalization" and attributes.get("p") == 1)):  # known to be wrong in 1.23
        answers.append(ReferenceEvaluator(model).run(None, {"x": x})[0])
    assert answers
    for answer in answers:
        check.close(y, answer, 3e-6)
    assert norm.backward(np.ones_like(y)).shape == x.shape


def formula(case, x, arrays):  # noqa: PLR0911 (one for each operator)
    """The operator, from its text, in float64."""
    kind, shape, attributes, _, opset = case
    x, w, b, mean, var = (
        None if a is None else a.astype(np.float64) for a in (x, *(arrays.get(n) for n in INITIALIZERS))
    )
    eps = attributes.get("epsilon", 1e-5)
    column = (-1, *[1] * (len(shape) - 2))

    def standard(v, axes, center=True):
        v = v - v.mean(axes, keepdims=True) if center else v
        return v / np.sqrt((v * v).mean(axes, keepdims=True) + eps)

    if kind == "BatchNormalization":
        mean, var, w, b = (a.reshape(column) for a in (mean, var, w, b))
        return (x - mean) / np.sqrt(var + eps) * w + b
    if kind == "InstanceNormalization":
        return standard(x, tuple(range(2, x.ndim))) * w.reshape(column) + b.reshape(column)
    if kind in ("LayerNormalization", "RMSNormalization"):
        axes = tuple(range(attributes.get("axis", -1) % x.ndim, x.ndim))
        return standard(x, axes, kind[0] == "L") * w + (0 if b is None else b)
    if kind == "GroupNormalization":
        groups = attributes["num_groups"]
        grouped = standard(x.reshape(len(x), groups, -1), 2).reshape(x.shape)
        w, b = (a if opset >= 21 else np.repeat(a, x.shape[1] // groups) for a in (w, b))
        return grouped * w.reshape(column) + b.reshape(column)
    if kind == "LRN":
        size, squares = attributes["size"], np.zeros_like(x)
        for c in range(x.shape[1]):
            first, last = max(0, c - (size - 1) // 2), min(x.shape[1] - 1, c + -(-(size - 1) // 2))
            squares[:, c] = (x[:, first : last + 1] ** 2).sum(1)
        return x / (attributes.get("bias", 1) + attributes["alpha"] / size * squares) ** attributes.get("beta", 0.75)
    if kind == "LpNormalization":
        p, axis = attributes.get("p", 2), attributes.get("axis", -1)
        return x / (np.abs(x) ** p).sum(axis, keepdims=True) ** (1 / p)
    axes = attributes.get("axes", (0, 2, 3))
    return (x - x.mean(axes, keepdims=True)) / x.std(axes, keepdims=True)


EVEN = ("LRN", (3, 7, 4, 5), {"size": 4, "alpha": 1.0}, {}, 13)


@pytest.mark.parametrize("case", [*CASES, EVEN], ids=lambda c: label(c) if c in CASES else "LRN-even")
def test_a_node_is_its_formula(case, rng):
    x, arrays, found = made(case, rng)
    norm = nz.from_onnx(found, arrays, opset=case[4], shape=case[1])
    check.close(norm(x), formula(case, x, arrays), 2e-6)


def test_what_the_node_alone_tells(rng):
    """Without opset and shape: channels or groups by their number; a zero vector stays zero; modes."""
    arrays = vectors(rng, 6)
    norm = nz.from_onnx(node("GroupNormalization", ("x", "scale", "B"), num_groups=2), arrays)
    assert (norm.num_groups, norm.num_channels) == (2, 6)
    check.same_bits(norm.weight, arrays["scale"])
    few = vectors(rng, 2)
    for options in ({"shape": (None, 6, None)}, {"shape": (1, 6, 4), "opset": 18}):
        norm = nz.from_onnx(node("GroupNormalization", ("x", "scale", "B"), num_groups=2), few, **options)
        check.same_bits(norm.weight, np.repeat(few["scale"], 3))
    norm = nz.from_onnx(node("GroupNormalization", ("x", "scale", "B"), num_groups=2), few, opset=21)
    assert norm.num_channels == 2
    assert (nz.from_onnx(node("LpNormalization"))(np.zeros((2, 3), np.float32)) == 0).all()
    arrays = vectors(rng, 5, INITIALIZERS)
    for mode in (0, 1):
        norm = nz.from_onnx(node("BatchNormalization", ("x", *INITIALIZERS), training_mode=mode, momentum=0.75), arrays)
        assert norm.training == (mode == 1) and norm.momentum == 0.25
    assert nz.from_onnx(node("LayerNormalization", ("x", "scale")), {"scale": np.ones(4)}).weight.dtype == np.float64


def test_training_mode_tracks_what_onnx_does_but_for_the_bias_of_the_variance(rng):
    x = rng.standard_normal((6, 5, 7)).astype(np.float32)
    arrays = vectors(rng, 5, INITIALIZERS)
    norm = nz.from_onnx(node("BatchNormalization", ("x", *INITIALIZERS), training_mode=1), arrays)
    norm.buffers["num_batches_tracked"][()] = 0
    norm(x)
    old = {"scale": arrays["scale"], "B": arrays["B"], "input_mean": arrays["mean"], "input_var": arrays["var"]}
    new = norm.state_dict("onnx")
    check.close(new["input_mean"], 0.9 * old["input_mean"] + 0.1 * x.mean((0, 2)), 1e-6)
    check.close(new["input_var"], 0.9 * old["input_var"] + 0.1 * x.var((0, 2), ddof=1), 1e-6)


S4, MISSING = {"scale": np.ones(4, np.float32), "B": np.zeros(4, np.float32)}, ["x", "scale", "B"]


@pytest.mark.parametrize(
    ("found", "arrays", "error", "message"),
    [
        (node("Softmax", name="s1"), {}, ValueError, "Softmax node 's1': expected one of BatchNormalization.*got Softmax"),
        (node("LayerNormalization", ("x",)), S4, ValueError, r"node 'y': expected 2 or 3 inputs, got \['x'\]"),
        (node("LayerNormalization", ("x", "", "B")), S4, ValueError, "expected 2 or 3 inputs"),
        (node("LayerNormalization", ("x", "scale", "gone")), S4, ValueError, "expected B 'gone' among the initializers"),
        (node("LayerNormalization", MISSING, axis=1), S4, ValueError, "rank of x, of which axis=1 counts.*write shape=x.shape"),
        (node("LayerNormalization", MISSING, axis=-2), S4, ValueError, r"expected Scale of the 2 axes.*write shape=x.shape"),
        (node("LayerNormalization", MISSING, eps=1.0), S4, ValueError, "expected attributes .*axis.*epsilon.*got 'eps'"),
        (node("LayerNormalization", MISSING, epsilon=1), S4, ValueError, "epsilon of type float, got an attribute of type 2"),
        (node("LayerNormalization", MISSING, epsilon=-1.0), S4, ValueError, "node 'y': LayerNorm.*: expected eps >= 0"),
        (node("LayerNormalization", MISSING), S4 | {"B": np.ones(5, np.float32)}, ValueError, r"B that fits.*got \(5,\)"),
        (node("LayerNormalization", MISSING), S4 | {"scale": np.ones(4, int)}, TypeError, "scale.*|Scale of dtype"),
        (node("InstanceNormalization", MISSING), S4 | {"scale": np.ones((2, 2), np.float32)}, ValueError, r"of shape \(C,\)"),
        (node("InstanceNormalization", MISSING), S4 | {"B": np.ones(5, np.float32)}, ValueError, r"bias of shape \(4,\)"),
        (node("GroupNormalization", MISSING), S4, ValueError, "expected an attribute num_groups"),
        (node("GroupNormalization", MISSING, num_groups=4), S4, ValueError, "number of channels.*write shape=x.shape"),
        (node("GroupNormalization", MISSING, num_groups=3), S4, ValueError, "num_groups that divides the channels"),
        (node("BatchNormalization", ("x", "scale", "B")), S4, ValueError, "expected 5 inputs"),
        (node("LRN"), {}, ValueError, "expected an attribute size"),
        (node("LRN", size=0), {}, ValueError, "node 'y': .*size >= 1"),
        (node("LpNormalization", p=3), {}, ValueError, "p of 1 or 2, got 3"),
        (node("MeanVarianceNormalization", axes=3), {}, ValueError, "axes of type tuple"),
        ("LRN", {}, TypeError, "a node with an op_type"),
    ],
)  # fmt: skip
def test_malformed_nodes_are_named(found, arrays, error, message):
    with pytest.raises(error, match=message):
        nz.from_onnx(found, arrays)


@pytest.mark.parametrize(
    ("axis", "size", "shape", "message"),
    [
        (1, (2,), (1, 3, 2), None),
        (1, (4,), (2, 3, 4), None),
        (3, (4,), (2, 3, 4), r"axis in \[-3, 3\), got 3"),
        (2, (2, 3, 5), (2, 3, 4), r"scale that fits x of shape \(2, 3, 4\), got \(2, 3, 5\)"),
        (2, (1, 1, 2, 4), (2, 3, 4), r"scale that fits x of shape \(2, 3, 4\), got \(1, 1, 2, 4\)"),
    ],
)
@pytest.mark.parametrize("kind", ["LayerNormalization", "RMSNormalization"])
def test_an_axis_counted_from_the_front_asks_for_the_shape(kind, axis, size, shape, message, rng):
    """A scale that repeats does not say of how many axes x is, and which are normalized."""
    x, arrays = rng.standard_normal(shape).astype(np.float32), {"scale": rng.uniform(0.5, 2, size).astype(np.float32)}
    found = node(kind, ("x", "scale"), axis=axis)
    with pytest.raises(ValueError, match=r"write shape=x\.shape"):
        nz.from_onnx(found, arrays)
    if message:
        with pytest.raises(ValueError, match=message.replace("scale", "[Ss]cale")):
            nz.from_onnx(found, arrays, shape=shape)
    else:
        y = nz.from_onnx(found, arrays, shape=x.shape)(x)
        check.close(y, formula((kind, shape, {"axis": axis}, None, 23), x, arrays), 2e-6)


def training(opset, outputs=1, **attributes):
    """Is a BatchNormalization of an opset in training?"""
    found = node("BatchNormalization", ("x", *INITIALIZERS), **attributes)
    found.output = ["y", "m", "v", "sm", "sv"][:outputs]
    return nz.from_onnx(found, dict.fromkeys(INITIALIZERS, np.ones(3, np.float32)), opset=opset).training


def test_each_age_of_batch_normalization_says_its_mode_in_its_own_way():
    for opset in (1, 5, 6, None):
        assert not training(opset, is_test=1) and training(opset, is_test=0) and training(opset, 5, is_test=0)
    assert training(6) and training(1) and training(6, 5)
    assert training(None, consumed_inputs=(0, 0, 0, 1, 1)), "what opset 1 to 5 had"
    for opset in (7, 8, 9, 13, None):
        assert training(opset, 5) and training(opset, 3) and not training(opset)
    for opset in (14, 15, None):
        assert training(opset, 3, training_mode=1) and training(opset, training_mode=1)
        assert not training(opset, training_mode=0)
        with pytest.raises(ValueError, match=r"one output where training_mode is 0, got \['y', 'm', 'v'\]; write"):
            training(opset, 3, training_mode=0)
    found = node("BatchNormalization", ("x", *INITIALIZERS))
    found.output = ["y", "", "", "", ""]  # not there
    assert not nz.from_onnx(found, dict.fromkeys(INITIALIZERS, np.ones(3, np.float32)), opset=9).training


def test_training_of_old_opsets_is_by_the_batch(rng):
    x, arrays = rng.standard_normal((4, 3, 5)).astype(np.float32), vectors(rng, 3, INITIALIZERS)
    w, b = (arrays[n].reshape(-1, 1) for n in ("scale", "B"))
    expected = (x - x.mean((0, 2), keepdims=True)) / np.sqrt(x.var((0, 2), keepdims=True) + 1e-5) * w + b
    for opset, outputs in ((6, 1), (7, 5), (9, 3)):
        found = node("BatchNormalization", ("x", *INITIALIZERS))
        found.output = ["y", "m", "v", "sm", "sv"][:outputs]
        check.close(nz.from_onnx(found, arrays, opset=opset)(x), expected, 2e-6)


def test_the_batch_norm_models_among_onnxs_own_data():
    """Of opset 6, with is_test."""
    onnx = pytest.importorskip("onnx")
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "pytorch-converted"
    models = sorted(folder.glob("test_BatchNorm*/model.onnx"))
    if not models:
        pytest.skip("onnx was installed without its data")
    for path in models:
        model = onnx.load(path)
        norm = nz.from_onnx(model.graph.node[0], model.graph.initializer, opset=model.opset_import[0].version)
        x, y = (
            onnx.numpy_helper.to_array(onnx.load_tensor(path.parent / "test_data_set_0" / f"{name}_0.pb"))
            for name in ("input", "output")
        )
        check.close(norm(x), y, 3e-6)


def test_nodes_of_other_domains_are_refused():
    other = node("LayerNormalization", MISSING)
    other.domain = "com.example"
    with pytest.raises(ValueError, match="of domain com.example"):
        nz.from_onnx(other, S4)
    old = node("BatchNormalization", ("x", "scale", "B", "scale", "scale"), spatial=0)
    with pytest.raises(ValueError, match=r"statistics of the channels \(spatial=1\)"):
        nz.from_onnx(old, S4)


@pytest.mark.parametrize(
    ("kind", "attributes", "size"),
    [("LayerNormalization", {}, 1), ("RMSNormalization", {}, 1), ("GroupNormalization", {"num_groups": 2}, 2)],
)
def test_the_memory_of_parameters_is_what_the_node_holds(kind, attributes, size):
    """A shape may say anything; one value does not become 2^40."""
    found, arrays = node(kind, MISSING, **attributes), {name: np.ones(size, np.float32) for name in ("scale", "B")}
    if kind == "RMSNormalization":
        found.input = found.input[:2]
    with pytest.raises(
        ValueError, match="at most 16777216 values of a scale that repeats|at most .* of a Scale that repeats"
    ):
        nz.from_onnx(found, arrays, shape=(3, 1 << 40))


# (kind, shape of x, attributes, initializers, arrays of the call and their shapes, what `forward` takes them as)
CONTRIBUTED = [
    ("SkipLayerNormalization", (2, 3, 24), {"epsilon": 1e-3}, {"gamma": 24, "beta": 24}, {"skip": (2, 3, 24)}),
    ("SkipLayerNormalization", (2, 3, 24), {}, {"gamma": 24}, {"skip": (3, 24)}),
    ("SkipLayerNormalization", (2, 3, 24), {"epsilon": 1e-5}, {"gamma": 24, "beta": 24}, {"skip": (1, 3, 24)}),
    ("SkipSimplifiedLayerNormalization", (2, 3, 24), {"epsilon": 1e-3}, {"gamma": 24}, {"skip": (2, 3, 24)}),
    ("SkipSimplifiedLayerNormalization", (5, 24), {}, {"gamma": 24}, {"skip": (5, 24)}),
    ("GatedRMSNorm", (2, 3, 24), {}, {"scale": 24}, {"gate": (2, 3, 24)}),
    ("GatedRMSNorm", (2, 3, 24), {"activation": "sigmoid", "epsilon": 1e-2}, {"scale": 24}, {"gate": (2, 3, 24)}),
    ("GatedRMSNorm", (2, 3, 24), {"activation": "swish"}, {"scale": 8}, {"gate": (2, 3, 24)}),
    ("GroupNorm", (2, 5, 4, 6), {"groups": 3, "activation": 1}, {"gamma": 6, "beta": 6}, {}),
    ("GroupNorm", (2, 6, 5, 4), {"groups": 2, "activation": 0, "channels_last": 0}, {"gamma": 6, "beta": 6}, {}),
]
NAMES = {"skip": "residual", "gate": "gate"}


@pytest.mark.parametrize("case", CONTRIBUTED, ids=lambda c: f"{c[0]}-{CONTRIBUTED.index(c)}")
def test_a_contributed_node_is_what_onnx_runtime_computes(case, rng):
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    kind, shape, attributes, sizes, more = case
    adds = kind.startswith("Skip")
    skips = {name: rng.standard_normal(of).astype(np.float32) for name, of in more.items()}
    a = rng.standard_normal(shape).astype(np.float32)
    arrays = {name: rng.uniform(0.5, 2, size).astype(np.float32) for name, size in sizes.items()}
    inputs = ["x", *skips, *arrays] if adds else ["x", *arrays, *skips]
    outputs = ["y", "", "", "s"] if adds else ["y"]
    proto = onnx.helper.make_node(kind, inputs, outputs, domain="com.microsoft", **attributes)
    tensors = [onnx.numpy_helper.from_array(v, name) for name, v in arrays.items()]
    norm = nz.from_onnx(proto, tensors, shape=shape)
    found = norm(a, **{NAMES[name]: v for name, v in skips.items()})
    if kind == "GroupNorm":  # for devices alone: here in steps
        axis = -1 if attributes.get("channels_last", 1) else 1
        v = np.moveaxis(a, axis, 1)
        y = formula(
            ("GroupNormalization", v.shape, {"num_groups": attributes["groups"]}, None, 21),
            v,
            {"scale": arrays["gamma"], "B": arrays["beta"]},
        )
        check.close(np.moveaxis(found, axis, 1), y / (1 + np.exp(-y)) if attributes["activation"] else y, 3e-6)
        return
    float32 = onnx.TensorProto.FLOAT
    info = [onnx.helper.make_tensor_value_info(name, float32, v.shape) for name, v in {"x": a, **skips}.items()]
    out = [onnx.helper.make_tensor_value_info(name, float32, shape) for name in outputs if name]
    graph = onnx.helper.make_graph([proto], "g", info, out, tensors)
    ids = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(graph, opset_imports=ids, ir_version=10)
    try:
        session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    except Exception as error:
        if "not a registered function/op" in str(error):
            pytest.skip(f"this ONNX Runtime has no {kind}")
        raise
    for one, other in zip(found if adds else (found,), session.run(None, {"x": a, **skips}), strict=True):
        check.close(one, other, 3e-6)


def contributed(kind, inputs, **attributes):
    found = node(kind, inputs, **attributes)
    found.domain = "com.microsoft"
    return found


@pytest.mark.parametrize(
    ("found", "shape", "message"),
    [
        (contributed("SkipLayerNormalization", ("x", "skip", "scale", "B", "B")), None, r"no input bias.*write norm\(x \+ bias"),
        (contributed("SkipSimplifiedLayerNormalization", ("x", "skip", "scale", "B")), None, "no input bias"),
        (contributed("SkipLayerNormalization", ("x", "skip", "gone")), None, "gamma 'gone' among the initializers"),
        (contributed("GatedRMSNorm", ("x", "scale", "z"), activation=b"relu"), None, "expected activation 'silu', 'swish'"),
        (contributed("GatedRMSNorm", ("x", "scale", "z")), (2, 6), "last axis is a multiple of 4"),
        (contributed("GroupNorm", ("x", "scale", "B"), groups=2), None, "an attribute activation"),
        (contributed("GroupNorm", ("x", "scale", "B"), groups=2, activation=7), None, "activation of 0 or 1, got 7"),
        (contributed("LayerNormalization", MISSING), None, "or of com.microsoft SkipLayerNormalization, .*got LayerNormalization"),
    ],
)  # fmt: skip
def test_malformed_contributed_nodes_are_named(found, shape, message):
    with pytest.raises(ValueError, match=message):
        nz.from_onnx(found, S4, shape=shape)
