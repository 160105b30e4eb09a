"""What PyTorch does with modules, done with converted ones: every row of the table in docs/pytorch.md is tried, on
PyTorch's norms and on one of another library, and does what the table says: it works, or raises with the remedy."""

import contextlib
import copy
import importlib
import io
import re
from pathlib import Path

import pytest

import normzoo as nz

torch = pytest.importorskip("torch")
nzt = importlib.import_module("normzoo.torch")
nn = torch.nn
PAGE = Path(__file__).parent.parent / "docs" / "pytorch.md"
pytestmark = [pytest.mark.filterwarnings("ignore")]


class LlamaNorm(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(size) + 0.5)

    def forward(self, x):
        square = x.to(torch.float32).pow(2).mean(-1, keepdim=True)
        return self.weight * (x * torch.rsqrt(square + 1e-6)).to(x.dtype)


def llama(self, x):
    return self.weight * nzt.functional.rms_norm(x, (x.shape[-1],), None, 1e-6)


class Model(nn.Module):
    """Norms of PyTorch, each with another layout, or one of another library."""

    def __init__(self, other):
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.norms = nn.Sequential(LlamaNorm(6)) if other else nn.Sequential(
            nn.BatchNorm1d(4), nn.GroupNorm(2, 4), nn.InstanceNorm1d(4, affine=True), nn.LayerNorm(6), nn.RMSNorm(6)
        )  # fmt: skip
        self.last = nn.Linear(6, 2)

    def forward(self, x):
        return self.last(self.norms(self.first(x)))


def inputs(count=3):
    return torch.randn(count, 4, 6)


@pytest.fixture(params=[False, True], ids=["torch.nn", "other"])
def pair(request):
    """A model as it is, and converted. The registry is as it was afterwards."""
    torch.manual_seed(0)
    nzt.register(LlamaNorm, llama)
    theirs = Model(request.param).eval()
    with nz.use("reference"):  # what is tested is the way there; kernels have tests of their own
        yield theirs, nzt.convert(copy.deepcopy(theirs))
    nzt.unregister(LlamaNorm)


def same(found, expected, tolerance=1e-4):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def under(context):
    def check(theirs, ours):
        x = inputs()
        with context():
            same(ours(x), theirs(x), 3e-2 if context is autocast else 1e-4)

    return check


def autocast():
    return torch.autocast("cpu", torch.bfloat16)


def checkpointed(reentrant):
    def check(theirs, ours):
        x, found = inputs(), []
        for model in (theirs, ours):
            own = x.clone().requires_grad_()
            y = torch.utils.checkpoint.checkpoint(model, own, use_reentrant=reentrant)
            y.square().sum().backward()
            found.append([own.grad, *(p.grad for p in model.parameters())])
        for a, b in zip(*found, strict=True):
            same(a, b, 1e-3)

    return check


def graph(take):
    def check(theirs, ours):
        with torch.no_grad():
            found, x = take(ours, inputs()), inputs()
            same(found(x), theirs(x))

    return check


def onnx(dynamo):
    def take(model, x):
        pytest.importorskip("onnxscript" if dynamo else "onnx")
        file = io.BytesIO()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            torch.onnx.export(model, (x,), file, dynamo=dynamo, input_names=["x"])
        runtime = pytest.importorskip("onnxruntime")
        session = runtime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
        return lambda x: torch.from_numpy(session.run(None, {"x": x.numpy()})[0])

    return graph(take)


def functional_call(theirs, ours):
    x, held = inputs(), {name: 2 * t for name, t in theirs.named_parameters()}
    same(*(torch.func.functional_call(model, held, (x,)) for model in (ours, theirs)))


def double_backward(theirs, ours):
    x, found = inputs(), []
    for model in (theirs, ours):
        own = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(model(own).square().sum(), own, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), own)[0])
    same(*found, 1e-2)


def fake(theirs, ours):
    with importlib.import_module("torch._subclasses.fake_tensor").FakeTensorMode(allow_non_fake_inputs=True) as mode:
        found = ours(mode.from_tensor(inputs(5)))
    assert found.shape == (5, 4, 2)


def meta(theirs, ours):
    found = ours.to("meta")(inputs(5).to("meta"))
    assert found.is_meta and found.shape == (5, 4, 2)


def flops(theirs, ours):
    counter = importlib.import_module("torch.utils.flop_counter").FlopCounterMode
    found = []
    for model in (theirs, ours):
        with counter(display=False) as mode, torch.no_grad():
            model(inputs())
        found.append(mode.get_total_flops())
    assert found[0] == found[1] > 0  # of linear layers; norms have none


def dispatch_mode(theirs, ours):
    class Seen(importlib.import_module("torch.utils._python_dispatch").TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            names.append(str(function))
            return function(*args, **kwargs or {})

    names, x = [], inputs()
    with Seen(), torch.no_grad():
        y = ours(x)
    same(y, theirs(x))
    assert names.count("normzoo.normalize.default") == len(ours.norms)


def saved(theirs, ours):
    x, other = inputs(), Model(len(theirs.norms) == 1).eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    other.load_state_dict(ours.state_dict())
    same(other(x), ours(x))
    nzt.convert(other).load_state_dict(theirs.state_dict())
    same(other(x), theirs(x))


def safetensors(theirs, ours):
    library = pytest.importorskip("safetensors.torch")
    state = library.load(library.save(ours.state_dict()))
    x = inputs()
    same(nzt.revert(ours)(x), theirs(x))
    theirs.load_state_dict(state)


def copied(theirs, ours):
    x = inputs()
    found = copy.deepcopy(ours)
    same(found(x), theirs(x))
    assert [type(m) for m in found.modules()] == [type(m) for m in ours.modules()]


def raises(do, error, message):
    def check(theirs, ours):
        with pytest.raises(error, match=message):
            do(ours, inputs())

    return check


def transformed(transform):
    def check(theirs, ours):
        x = inputs()
        same(*(transform(model, x) for model in (ours, theirs)), 1e-3)

    return check


def forward_ad(model, x):
    with torch.autograd.forward_ad.dual_level():
        y = model(torch.autograd.forward_ad.make_dual(x, x.square()))
        return torch.autograd.forward_ad.unpack_dual(y).tangent


def prepared(theirs, ours):
    """Observers see what the converted model computes; a quantized model needs revert, and the message says so."""
    quantization = importlib.import_module("torch.ao.quantization")
    ours.qconfig, x = quantization.default_qconfig, inputs()
    same(quantization.prepare(ours)(x), theirs(x))


def quantized(model, x):
    model.norms(torch.quantize_per_tensor(x, 0.1, 0, torch.quint8))


def _ddp(rank, path, other, results):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    nzt.register(LlamaNorm, llama)
    torch.manual_seed(0)
    model = nzt.convert(Model(other))
    with nz.use("reference"):
        wrapped = nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)
        x = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(1))
        wrapped(x[rank]).square().mean().backward()
    if rank == 0:
        results.put([p.grad.numpy() for p in model.parameters()])
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def distributed(theirs, ours):
    if not torch.distributed.is_available():
        pytest.skip("needs torch.distributed")
    multiprocessing = torch.multiprocessing.get_context("spawn")
    results, other = multiprocessing.Queue(), len(theirs.norms) == 1
    path = Path(importlib.import_module("tempfile").mkdtemp()) / "store"
    processes = [multiprocessing.Process(target=_ddp, args=(r, str(path), other, results)) for r in range(2)]
    for process in processes:
        process.start()
    found = results.get(timeout=300)
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    x = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    model = Model(other)
    sum(model(part).square().mean() / 2 for part in x).backward()
    for p, grad in zip(model.parameters(), found, strict=True):
        same(torch.from_numpy(grad), p.grad, 1e-3)


REVERT = r"normzoo\.torch\.revert\(model\)"
ROWS = {
    "torch.inference_mode": under(torch.inference_mode),
    "torch.no_grad": under(torch.no_grad),
    "torch.autocast": under(autocast),
    "checkpoint, use_reentrant=True": checkpointed(True),
    "checkpoint, use_reentrant=False": checkpointed(False),
    "torch.compile": graph(lambda model, _: torch.compile(model, backend="aot_eager", fullgraph=True)),
    "torch.export": graph(lambda model, x: torch.export.export(model, (x,)).module()),
    "torch.jit.trace": graph(torch.jit.trace),
    "torch.jit.script": raises(lambda model, _: torch.jit.script(model, None), RuntimeError, REVERT),
    "torch.onnx.export, dynamo=True": onnx(True),
    "torch.onnx.export, dynamo=False": onnx(False),
    "torch.fx.symbolic_trace": graph(lambda model, _: torch.fx.symbolic_trace(model)),
    "torch.func.functional_call": functional_call,
    "torch.func.grad": transformed(lambda model, x: torch.func.grad(lambda x: model(x).square().sum())(x)),
    "torch.func.vmap": transformed(lambda model, x: torch.func.vmap(model)(torch.stack((x, x.square())))),
    "torch.func.jvp": transformed(lambda model, x: torch.func.jvp(model, (x,), (x.square(),))),
    "torch.func.jacrev": transformed(lambda model, x: torch.func.jacrev(lambda x: model(x).sum(0))(x)),
    "forward-mode AD": transformed(forward_ad),
    "double backward": double_backward,
    "FakeTensorMode": fake,
    "meta tensors": meta,
    "FlopCounterMode": flops,
    "TorchDispatchMode": dispatch_mode,
    "DistributedDataParallel": distributed,
    "copy.deepcopy": copied,
    "state_dict": saved,
    "safetensors": safetensors,
    "torch.ao.quantization.prepare": prepared,
    "quantized tensors": raises(quantized, TypeError, REVERT),
}
SLOW = {"torch.compile", "torch.onnx.export, dynamo=True", "DistributedDataParallel"}


@pytest.mark.parametrize("row", [pytest.param(r, marks=pytest.mark.slow) if r in SLOW else r for r in ROWS])
def test_a_row_of_the_table(row, pair):
    ROWS[row](*pair)


def test_the_page_has_these_rows_and_says_what_they_do():
    rows = dict(re.findall(r"^\| `([^`]+)` \| (works|raises)[^|]*\|$", PAGE.read_text(), re.M))
    refused = {name for name, check in ROWS.items() if check.__qualname__.startswith("raises.")}
    assert rows == {name: "raises" if name in refused else "works" for name in ROWS}


def test_norms_of_arrays_say_what_to_write_for_tensors():
    """... and what they say runs, also for the state of a module."""
    norm, x = nz.LayerNorm(6), torch.randn(3, 6, requires_grad=True)
    state = nn.LayerNorm(6).state_dict()
    with nz.use("reference"):
        for call in (norm, lambda x: nz.functional.layer_norm(x, (6,)), lambda x: norm(x.detach().numpy(), residual=x)):
            with pytest.raises(
                TypeError, match=r"use normzoo\.torch, whose norms take tensors, or write \w+\.detach\(\)\.numpy"
            ):
                call(x)
        same(torch.from_numpy(norm(x.detach().numpy())), nn.functional.layer_norm(x, (6,)).detach())
    for given, advice in (
        (state, "weight.detach().numpy()"),
        ({k: t.bfloat16() for k, t in state.items()}, ".float().numpy"),
    ):
        with pytest.raises(
            TypeError, match=rf"expected weight to be a NumPy array, got Tensor(.|\n)*{re.escape(advice)}"
        ):
            norm.load_state_dict(given)
    norm.load_state_dict({name: t.detach().numpy() for name, t in state.items()})
