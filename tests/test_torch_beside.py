"""Optional: tensors before and behind a norm, in autograd's graphs, in compiled ones, and in modules."""

import importlib

import pytest

import normzoo as nz

torch = pytest.importorskip("torch")
nzt = pytest.importorskip("normzoo.torch")
F, T = nzt.functional, torch.nn.functional

RUNNING = torch.arange(4, dtype=torch.float64), torch.arange(1, 5, dtype=torch.float64)
NORMS = {
    "batch_norm": lambda f, x, w, b, **o: f.batch_norm(x, None, None, w, b, True, **o),
    "batch_norm-eval": lambda f, x, w, b, **o: f.batch_norm(x, *RUNNING, w, b, **o),
    "instance_norm": lambda f, x, w, b, **o: f.instance_norm(x, None, None, w, b, **o),
    "group_norm": lambda f, x, w, b, **o: f.group_norm(x, 2, w, b, **o),
    "layer_norm": lambda f, x, w, b, **o: f.layer_norm(
        x.mT, (4,), w, b, **{n: t.mT if torch.is_tensor(t) else t for n, t in o.items()}
    ),
    "rms_norm": lambda f, x, w, b, **o: f.rms_norm(x, (3,), **o),
}
PATTERNS = {
    "residual": ({}, ("residual",)),
    "residual, activation": ({"activation": "silu", "residual_scale": 2.0}, ("residual",)),
    "add": ({"activation": "leaky_relu(0.2)"}, ("add",)),
    "gate": ({"activation": "silu"}, ("gate",)),
    "gate first": ({"activation": "sigmoid", "gate_first": True}, ("gate",)),
    "residual, gate": ({"activation": "gelu"}, ("residual", "gate")),
    "activation": ({"activation": "softplus"}, ()),
}


@pytest.fixture(autouse=True)
def reference():
    """What is tested is the way there; kernels have tests of their own."""
    with nz.use("reference"):
        yield


def composed(name, x, w, b, activation=None, gate_first=False, residual_scale=1.0, residual=None, add=None, gate=None):
    """PyTorch's operations, one after the other."""
    acts = {None: lambda v: v, "leaky_relu(0.2)": lambda v: T.leaky_relu(v, 0.2), "sigmoid": torch.sigmoid}
    act = acts[activation] if activation in acts else getattr(T, activation)
    turned = (lambda t: t.mT) if name == "layer_norm" else lambda t: t
    s = x if residual is None else x + residual_scale * residual
    v = NORMS[name](T, s * act(gate) if gate_first else s, w, b)
    if add is not None:
        v = v + turned(add)
    y = v if gate_first else v * act(turned(gate)) if gate is not None else act(v)
    return y if residual is None else (y, turned(s))


def drawn(pattern, dtype=torch.float64):
    torch.manual_seed(0)
    x, w, b = (torch.randn(s, dtype=dtype, requires_grad=True) for s in ((2, 4, 3), (4,), (4,)))
    behind, names = PATTERNS[pattern]
    return x, w, b, behind, {name: torch.randn(2, 4, 3, dtype=dtype, requires_grad=True) for name in names}


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("name", NORMS)
def test_it_is_what_pytorch_composes_and_differentiates_twice(name, pattern):
    x, w, b, behind, arrays = drawn(pattern)
    inputs = [x, *(() if name == "rms_norm" else (w, b)), *arrays.values()]

    def outputs(found):
        return found if isinstance(found, tuple) else (found,)

    y, z = (outputs(f(name)) for f in (
        lambda n: NORMS[n](F, x, w, b, **arrays, **behind), lambda n: composed(n, x, w, b, **arrays, **behind)
    ))  # fmt: skip
    dys = [torch.randn_like(t) for t in y]
    for one, other in zip(y, z, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    second = []
    for found in (y, z):
        first = torch.autograd.grad(found, inputs, dys, create_graph=True)
        plain = torch.autograd.grad(found, inputs, dys, retain_graph=True)
        for a, c in zip(first, plain, strict=True):
            torch.testing.assert_close(a, c, rtol=1e-8, atol=1e-8)
        scalar = sum((d * torch.cos(torch.arange(d.numel(), dtype=d.dtype)).reshape(d.shape)).sum() for d in first)
        second.append((first, torch.autograd.grad(scalar, inputs, allow_unused=True)))
    for one, other in zip(*second, strict=True):
        for a, c in zip(one, other, strict=True):
            some = a if c is None else c
            if some is not None:
                pair = (torch.zeros_like(some) if t is None else t for t in (a, c))
                torch.testing.assert_close(*pair, rtol=1e-7, atol=1e-7)


def test_either_result_may_be_all_that_is_used_and_a_residual_broadcasts():
    x, r = torch.randn(2, 3, 5, requires_grad=True), torch.randn(5, dtype=torch.float64, requires_grad=True)
    for i in (0, 1):
        found = F.layer_norm(x, (5,), residual=r)[i]
        other = (T.layer_norm(x + r.float(), (5,)), x + r.float())[i]
        dy = torch.randn_like(found)
        for a, b in zip(torch.autograd.grad(found, (x, r), dy), torch.autograd.grad(other, (x, r), dy), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_graphs_have_the_pass_as_one_operator():
    x, w, b, behind, arrays = drawn("residual, gate", torch.float32)
    compiler, seen = importlib.import_module("torch._dynamo.backends.common"), []

    def look(graph, _):
        seen.append([str(node.target) for node in graph.graph.nodes if node.op == "call_function"])
        return graph.forward

    call = torch.compile(
        lambda x, **t: NORMS["group_norm"](F, x, w, b, **t, **behind), fullgraph=True,
        backend=compiler.aot_autograd(fw_compiler=look, bw_compiler=look),
    )  # fmt: skip
    found, expected = call(x, **arrays), composed("group_norm", x, w, b, **arrays, **behind)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    dys = [torch.randn_like(t) for t in expected]
    inputs = [x, w, b, *arrays.values()]
    for one, other in zip(*(torch.autograd.grad(t, inputs, dys) for t in (found, expected)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    forward, backward = ([name for name in names if name.startswith("normzoo")] for names in seen)
    assert forward == ["normzoo.normalize_beside.default"] and backward == ["normzoo.normalize_beside_backward.default"]
    assert not any("gelu" in name or "mul" in name for names in seen for name in names)
    own = nz.Activation("own", lambda v: v + v, lambda v: 2.0 + 0.0 * v)
    with pytest.raises(NotImplementedError, match="expected an activation of nz.list_activations"):
        F.layer_norm(torch.empty(2, 4, device="meta"), (4,), activation=own)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("name", NORMS)
def test_what_is_recorded_is_what_is_computed_at_once(name, pattern):
    """Values and gradients of the operator, and its rules for tensors without values."""
    x, w, b, behind, arrays = drawn(pattern)
    inputs = [x, *(() if name == "rms_norm" else (w, b)), *arrays.values()]
    calls, right = [], torch.ops.normzoo.normalize_beside

    def noted(*given):
        calls.append(given)
        return right(*given)

    found = []
    for recorded in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            if recorded:
                patch.setattr("normzoo.torch.beside.is_recorded", lambda *tensors: True)
                patch.setattr(torch.ops.normzoo, "normalize_beside", noted)
            y = NORMS[name](F, x, w, b, **arrays, **behind)
        y = y if isinstance(y, tuple) else (y,)
        torch.manual_seed(1)
        found.append([*y, *torch.autograd.grad(y, inputs, [torch.randn_like(t) for t in y])])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    tests = "test_schema", "test_faketensor", "test_autograd_registration"
    torch.library.opcheck(right.default, calls[0], test_utils=tests)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("name", NORMS)
def test_transforms(name, pattern):
    x, w, b, behind, arrays = drawn(pattern)
    arrays = {name: t.detach() for name, t in arrays.items()}
    x, v = x.detach(), torch.randn(x.shape, dtype=x.dtype)
    for transform in (
        lambda f: torch.func.grad(lambda x: sum(t.square().sum() for t in f(x)))(x),
        lambda f: torch.func.vmap(f)(torch.stack((x, v))),
        lambda f: torch.func.jvp(f, (x,), (v,)),
    ):
        one, other = (
            transform(lambda x, call=call: y if isinstance(y := call(x), tuple) else (y,)) for call in (
                lambda x: NORMS[name](F, x, w, b, **arrays, **behind),
                lambda x: composed(name, x, w, b, **arrays, **behind),
            )
        )  # fmt: skip
        torch.testing.assert_close(one, other)


def test_modules_take_the_same_words():
    x, r = torch.randn(3, 4, 5), torch.randn(3, 4, 5)
    for module, shape in ((nzt.BatchNorm1d(4, activation="relu"), x), (nzt.GroupNorm(2, 4, activation="silu"), x),
                          (nzt.InstanceNorm1d(4, activation="relu"), x), (nzt.LayerNorm(5, activation="gelu"), x),
                          (nzt.RMSNorm(5, activation="silu", residual_scale=2.0), x)):  # fmt: skip
        y, s = module(shape, residual=r)
        torch.testing.assert_close(s, x + module.residual_scale * r)
        torch.testing.assert_close(module(s), y, rtol=1e-5, atol=1e-5)
        assert "activation=" in repr(module) and module(shape, gate=r).shape == x.shape
        with pytest.raises(ValueError, match="revert: expected norms with nothing around them"):
            nzt.revert(module)
        module.activation, module.residual_scale = None, 1.0
        assert "activation" not in repr(module)
        torch.testing.assert_close(nzt.InstanceNorm1d(4)(x[0], residual=r[0])[1], x[0] + r[0])
    with pytest.raises(ValueError, match="expected an activation of"):
        nzt.LayerNorm(5, activation="rely")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"residuals": 1}, TypeError, "layer_norm: got an unexpected keyword argument 'residuals'"),
        ({"residual": 1}, TypeError, "layer_norm: expected residual to be a tensor, got int"),
        ({"add": torch.ones(3)}, ValueError, r"layer_norm: expected add of input's shape \(2, 3\), got \(3,\)"),
        ({"gate": torch.ones(2, 3), "add": torch.ones(2, 3)}, ValueError, "layer_norm: expected add or gate, got both"),
        ({"gate_first": True}, ValueError, "layer_norm: expected a gate"),
        ({"activation": "rely"}, ValueError, "layer_norm: expected an activation of"),
    ],
)
def test_what_is_wrong_is_said_by_name(options, error, message):
    with pytest.raises(error, match=message):
        F.layer_norm(torch.ones(2, 3), (3,), **options)


@pytest.mark.filterwarnings("ignore")  # of PyTorch's compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("where", ["elsewhere", "residual", "input"])
@pytest.mark.parametrize("compiles", [False, True], ids=["eager", "recorded"])
def test_a_sum_goes_where_it_is_asked_to(compiles, where, dtype):
    if dtype == torch.bfloat16:
        pytest.importorskip("ml_dtypes")
    torch.manual_seed(0)
    x, r = torch.randn(2, 5, 8).to(dtype)
    s = x + r
    expected = F.rms_norm(s, (8,))

    def step(x, r, target):
        return F.rms_norm(x, (8,), residual=r, residual_out=target)

    target = {"elsewhere": torch.empty_like(x), "residual": r, "input": x}[where]
    version = target._version
    with torch.no_grad():
        y, found = (torch.compile(step, backend="eager", fullgraph=True) if compiles else step)(x, r, target)
    assert torch.equal(target, s) and torch.equal(found, s) and found.data_ptr() == target.data_ptr()
    assert target._version > version  # autograd sees that it was written
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"residual_out": torch.ones(2, 3)}, ValueError, "expected residual_out with a residual"),
        ({"residual": torch.ones(2, 3), "residual_out": torch.ones(3, 3)}, ValueError, r"residual_out of input's shape"),
        ({"residual": torch.ones(2, 3), "residual_out": torch.ones(2, 3).double()}, ValueError, "dtype torch.float32"),
        ({"residual": torch.ones(2, 3), "residual_out": 1.0}, TypeError, "residual_out to be a tensor"),
        ({"residual": torch.ones(2, 3), "residual_out": torch._neg_view(torch.ones(2, 3))}, TypeError, "negated view"),
        ({"residual": torch.ones(2, 3, requires_grad=True), "residual_out": torch.ones(2, 3)}, RuntimeError, "no_grad"),
    ],
)  # fmt: skip
def test_what_cannot_take_a_sum_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        F.layer_norm(torch.ones(2, 3), (3,), **options)
