"""A graph taken of a converted model, in whichever way PyTorch has, computes what the model does, or is refused with what
to write instead. A pass over memory that nobody records would be a constant in it (pytorch#21774)."""

import contextlib
import copy
import importlib
import io
import re

import numpy as np
import pytest

torch = pytest.importorskip("torch")
nzt = importlib.import_module("normzoo.torch")
nn, F = torch.nn, nzt.functional
make_fx = importlib.import_module("torch.fx.experimental.proxy_tensor").make_fx
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Converting a tensor:torch.jit.TracerWarning"),  # of PyTorch's InstanceNorm
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec.*:FutureWarning"),
]


def network():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.GroupNorm(2, 8), nn.InstanceNorm2d(8, track_running_stats=True),
        nn.Flatten(), nn.Linear(8 * 16, 16), nn.LayerNorm(16), nn.RMSNorm(16), nn.Linear(16, 4),
    )  # fmt: skip


def images(count):
    return torch.randn(count, 3, 6, 6)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def recorded(mode):
    def take(model):
        # as functions of the state, which make_fx would else take for constants
        held = dict(model.named_parameters()) | dict(model.named_buffers())
        graph = make_fx(
            lambda held, x: torch.func.functional_call(model, held, (x,)),
            tracing_mode=mode,
            _allow_non_fake_inputs=True,
        )
        found = graph(held, images(2))
        return (lambda x: found(held, x)), model

    return take


def exported(model):
    batch = torch.export.Dim("n", min=2)
    found = torch.export.export(model, (images(2),), dynamic_shapes=({0: batch},)).module()
    return found, found


def traced(model):
    found = torch.jit.trace(model, images(2), check_trace=False)
    return found, found


def traced_symbolically(model):
    found = torch.fx.symbolic_trace(model)
    return found, found


# How a graph is taken of a model -> the graph and what holds its state.
WAYS = {
    "jit.trace": traced,
    "fx.symbolic_trace": traced_symbolically,
    "make_fx": recorded("symbolic"),
    "make_fx-fake": recorded("fake"),
    "make_fx-real": recorded("real"),
    "export": exported,
}


@pytest.mark.parametrize("grad", [False, True], ids=["no_grad", "grad"])
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("way", WAYS)
def test_a_graph_is_the_model_on_other_inputs_and_batch_sizes(way, training, grad):
    theirs = network().train(training)
    model = nzt.convert(copy.deepcopy(theirs))
    with torch.set_grad_enabled(grad):
        graph, held = WAYS[way](model)
        held.load_state_dict(theirs.state_dict())  # taking the graph was a pass
        for count in (2, 2) if way in ("make_fx-fake", "make_fx-real") else (5, 2):
            x = images(count)
            torch.testing.assert_close(graph(x), theirs(x), rtol=1e-4, atol=1e-5)
    for name, a in held.state_dict().items():
        torch.testing.assert_close(a, theirs.state_dict()[name], rtol=1e-4, atol=1e-5, msg=name)


def test_gradients_go_through_a_traced_model_and_its_file():
    theirs = network().eval()
    model = nzt.convert(copy.deepcopy(theirs))
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(model, images(2)), file)
    file.seek(0)
    x, dy = images(3), torch.randn(3, 4)
    found = []
    for each in (torch.jit.load(file), theirs):
        own = x.clone().requires_grad_()
        each(own).backward(dy)
        found.append(own.grad)
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def test_functions_in_graphs():
    def function(x, weight):
        return (
            F.layer_norm(x, (6,), weight)
            + F.group_norm(x, 2)
            + F.instance_norm(x)
            + F.rms_norm(x, (6,))
            + (F.batch_norm(x, None, None, training=True))
        )

    x, other, weight = torch.randn(2, 4, 6), torch.randn(2, 4, 6), torch.randn(6)
    graphs = torch.jit.trace(function, (x, weight)), torch.fx.symbolic_trace(function), make_fx(function)(x, weight)
    for graph in graphs:
        torch.testing.assert_close(graph(other, weight), function(other, weight))


def exported_to_onnx(model, dynamo):
    file = io.BytesIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        torch.onnx.export(model, (images(2),), file, dynamo=dynamo, input_names=["x"])
    session = pytest.importorskip("onnxruntime").InferenceSession(
        file.getvalue(), providers=["CPUExecutionProvider"]
    )  # fmt: skip
    return lambda x: torch.from_numpy(session.run(None, {"x": x.numpy()})[0])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dynamo", [False, True])
def test_the_onnx_of_a_converted_model_is_that_of_pytorchs(dynamo):
    pytest.importorskip("onnxscript" if dynamo else "onnx")
    theirs = network().eval()
    del theirs[7]  # RMSNorm: the exporter of TorchScript has none
    graph = exported_to_onnx(nzt.convert(copy.deepcopy(theirs)), dynamo)
    x = images(2)
    torch.testing.assert_close(graph(x), theirs(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["LayerNorm", "BatchNorm2d", "InstanceNorm2d", "GroupNorm", "RMSNorm"])
def test_script_says_what_to_write(kind):
    """... and that runs."""
    arguments = (2, 6) if kind == "GroupNorm" else (6,)
    norm = getattr(nzt, kind)(*arguments)
    model = nn.Sequential(nn.Identity(), norm)
    with pytest.raises(RuntimeError, match=rf"got normzoo\.torch\.{kind}; .*normzoo\.torch\.revert\(model\) first"):
        torch.jit.script(model)
    x = torch.randn(4, 6, 6, 6)
    traced = torch.jit.trace(model, torch.ones_like(x).normal_())
    torch.testing.assert_close(traced(x), model(x))
    torch.testing.assert_close(torch.jit.script(nzt.revert(model))(x), model(x))


def test_tensors_without_memory_have_shapes():
    model = nzt.convert(network()).to("meta")
    for training in (True, False):
        y = model.train(training)(images(5).to("meta"))
        assert y.is_meta and y.shape == (5, 4)
    with pytest.raises(ValueError, match=re.escape("layer_norm: expected x of shape (..., 6), got (2, 5)")):
        F.layer_norm(torch.zeros(2, 5, device="meta"), (6,))
    with importlib.import_module("torch._subclasses.fake_tensor").FakeTensorMode():
        model = nzt.convert(network())
        assert model(images(5)).shape == (5, 4)


class Named(torch.Tensor):
    """A subclass as libraries of data have them."""


def test_a_subclass_of_tensors_stays_one():
    x = torch.randn(4, 6).as_subclass(Named).requires_grad_()
    y = F.layer_norm(x, (6,))
    assert type(y) is Named
    torch.testing.assert_close(y.as_subclass(torch.Tensor), nn.functional.layer_norm(x.as_subclass(torch.Tensor), (6,)))
    y.sum().backward()
    assert x.grad is not None


def test_a_mode_sees_the_norms():
    class Seen(importlib.import_module("torch.utils._python_dispatch").TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            names.append(str(function))
            return function(*args, **kwargs or {})

    names, x = [], torch.randn(4, 6)
    with Seen():
        y = F.layer_norm(x, (6,))
    assert names == ["normzoo.normalize.default"]
    torch.testing.assert_close(y, F.layer_norm(x, (6,)))


def test_many_gradients_at_once():
    """vectorize=True goes back with a batch of dy at once."""
    x = torch.randn(3, 4)
    for vectorize in (False, True):
        found = torch.autograd.functional.jacobian(lambda x: F.layer_norm(x, (4,)), x, vectorize=vectorize)
        expected = torch.autograd.functional.jacobian(lambda x: nn.functional.layer_norm(x, (4,)), x)
        torch.testing.assert_close(found, expected)


def test_forward_mode_in_both_ways():
    x, v = torch.randn(2, 3, 4)
    expected = torch.func.jvp(lambda x: nn.functional.layer_norm(x, (4,)), (x,), (v,))[1]
    forward_ad = torch.autograd.forward_ad
    with forward_ad.dual_level():
        found = forward_ad.unpack_dual(F.layer_norm(forward_ad.make_dual(x, v), (4,))).tangent
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.functional.jvp(lambda x: F.layer_norm(x, (4,)), x, v)[1], expected)


@pytest.mark.filterwarnings("ignore:.*quantiz.*deprecated:UserWarning")
def test_a_norm_behind_a_quantized_layer_says_what_to_write():
    x = torch.quantize_per_tensor(torch.randn(2, 4), 0.1, 0, torch.quint8)
    with pytest.raises(TypeError, match=r"got torch\.quint8; write input\.dequantize\(\), or normzoo\.torch\.revert"):
        F.layer_norm(x, (4,))
    assert np.isfinite(F.layer_norm(x.dequantize(), (4,)).numpy()).all()


@pytest.mark.filterwarnings("ignore:.*nested.*:UserWarning")
def test_nested_tensors_are_refused():
    parts = [torch.randn(2, 4), torch.randn(3, 4)]
    for layout, error in ((torch.strided, TypeError), (torch.jagged, NotImplementedError)):
        with pytest.raises(error, match=r"normzoo\.torch\.revert\(model\)"):
            F.layer_norm(torch.nested.nested_tensor(parts, layout=layout), (4,))


RUNNING = torch.arange(8.0), torch.arange(8.0) + 1
# arguments of the operator behind x, weight and bias, whose size comes first, and the same by PyTorch
OPERATORS = {
    "layer_norm": (6, (None, None, "layer_norm", [6], True, 0.0, 1e-5), lambda x, w, b: T.layer_norm(x, (6,), w, b)),
    "rms_norm": (6, (None, None, "rms_norm", [6], True, 0.0, 1e-5), lambda x, w, b: T.rms_norm(x, (6,), w, 1e-5)),
    "group_norm": (8, (None, None, "group_norm", [2], True, 0.0, 1e-5), lambda x, w, b: T.group_norm(x, 2, w, b)),
    "instance_norm": (
        8, (None, None, "instance_norm", [], True, 0.0, 1e-5), lambda x, w, b: T.instance_norm(x, None, None, w, b),
    ),
    "batch_norm": (
        8, (None, None, "batch_norm", [], True, 0.0, 1e-5), lambda x, w, b: T.batch_norm(x, None, None, w, b, True),
    ),
    "batch_norm-eval": (8, (*RUNNING, "batch_norm", [], False, 0.0, 1e-5), lambda x, w, b: T.batch_norm(x, *RUNNING, w, b)),
}  # fmt: skip
T = nn.functional
TRANSFORMS = {
    "grad": lambda call, x, v: torch.func.grad(lambda x: (call(x) ** 3).sum())(x[0]),
    "vmap": lambda call, x, v: torch.vmap(call)(x),
    "vmap of another axis": lambda call, x, v: torch.vmap(call, in_dims=1)(x.transpose(0, 1)),
    "vmap of grad": lambda call, x, v: torch.vmap(torch.func.grad(lambda x: (call(x) ** 3).sum()))(x),
    "jvp": lambda call, x, v: torch.func.jvp(call, (x[0],), (v[0],))[1],
    "jvp of grad": lambda call, x, v: torch.func.jvp(torch.func.grad(lambda x: (call(x) ** 3).sum()), (x[0],), (v[0],))[
        1
    ],
    "jacrev": lambda call, x, v: torch.func.jacrev(lambda x: call(x).sum(-1))(x[0]),
    "forward mode": lambda call, x, v: forward_mode(call, x[0], v[0]),
}


def forward_mode(call, x, v):
    forward_ad = torch.autograd.forward_ad
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(call(forward_ad.make_dual(x, v))).tangent


@pytest.mark.parametrize("name", OPERATORS)
def test_the_operators_have_rules_for_every_transform(name):
    size, rest, theirs = OPERATORS[name]
    x, v = torch.randn(2, 3, 4, 8, 6) + 2
    w, b = torch.rand(size) + 0.5, torch.randn(size)
    beside = (*rest, "silu", "gate", False, 1.0)
    for each, transform in TRANSFORMS.items():
        found = transform(lambda x: torch.ops.normzoo.normalize(x, w, b, *rest)[0], x, v)
        expected = transform(lambda x: theirs(x, w, b if name != "rms_norm" else None), x, v)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4, msg=f"{each}: {found - expected}")
        found = transform(
            lambda x: torch.ops.normzoo.normalize_beside(x, w, b, *rest[:2], None, x.flip(0), *beside[2:])[0], x, v
        )
        expected = transform(lambda x: theirs(x, w, b if name != "rms_norm" else None) * T.silu(x.flip(0)), x, v)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4, msg=f"{each}, gate: {found - expected}")
    assert torch.vmap(lambda x: torch.ops.normzoo.normalize(x, w, b, *rest)[0])(x[:0]).shape == (0, 4, 8, 6)
    # with parameters of their own
    many = torch.rand(3, size) + 0.5
    found = torch.vmap(lambda x, w: torch.ops.normzoo.normalize(x, w, b, *rest)[0])(x, many)
    expected = torch.stack([theirs(x, w, b if name != "rms_norm" else None) for x, w in zip(x, many, strict=True)])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "name", [name if name == "layer_norm" else pytest.param(name, marks=pytest.mark.slow) for name in OPERATORS]
)
def test_the_operators_are_what_pytorch_expects_of_operators(name):
    size, rest, _ = OPERATORS[name]
    x, w, b = torch.randn(4, 8, 6, requires_grad=True), torch.rand(size, requires_grad=True), torch.rand(size)
    torch.library.opcheck(torch.ops.normzoo.normalize.default, (x, w, b, *rest))
    beside = *rest[2:], "silu", "add", False, 0.5
    torch.library.opcheck(torch.ops.normzoo.normalize_beside.default, (x, w, b, *rest[:2], x.detach(), x, *beside))


@pytest.mark.parametrize("name", ["grad", "vmap", "vmap of grad", "jacrev"])
def test_transforms_are_compiled_as_pytorchs(name):
    """One of forward mode raises, as with PyTorch's norm: it was zero, and nothing was said."""
    theirs, x, v = nn.LayerNorm(6), *torch.randn(2, 3, 4, 6)
    ours = nzt.convert(copy.deepcopy(theirs))
    call = lambda *given: ours(*given)  # noqa: E731, PLW0108 (Dynamo cannot name a module in vmap's messages)
    found = torch.compile(lambda: TRANSFORMS[name](call, x, v), backend="eager", fullgraph=True)()
    torch.testing.assert_close(found, TRANSFORMS[name](theirs, x, v), rtol=1e-5, atol=1e-5)
