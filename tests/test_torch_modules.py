"""PyTorch's modules and functions over this library: the same numbers, states, errors and graph as PyTorch's own."""

import copy
import doctest
import importlib
import io
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import normzoo as nz

torch = pytest.importorskip("torch")
nzt = importlib.import_module("normzoo.torch")
nn, T, F = torch.nn, torch.nn.functional, nzt.functional

# name: class, arguments, shape of x
MODULES = {
    "BatchNorm1d": ("BatchNorm1d", (6,), {}, (5, 6)),
    "BatchNorm1d-3d": ("BatchNorm1d", (6, 1e-3, 0.3), {}, (5, 6, 7)),
    "BatchNorm2d": ("BatchNorm2d", (6,), {}, (4, 6, 5, 7)),
    "BatchNorm2d-cumulative": ("BatchNorm2d", (6,), {"momentum": None}, (4, 6, 5, 7)),
    "BatchNorm2d-untracked": ("BatchNorm2d", (6,), {"track_running_stats": False}, (4, 6, 5, 7)),
    "BatchNorm2d-plain": ("BatchNorm2d", (6,), {"affine": False}, (4, 6, 5, 7)),
    "BatchNorm3d": ("BatchNorm3d", (6,), {}, (2, 6, 3, 4, 5)),
    "InstanceNorm1d": ("InstanceNorm1d", (6,), {"affine": True}, (3, 6, 9)),
    "InstanceNorm1d-unbatched": ("InstanceNorm1d", (6,), {}, (6, 9)),
    "InstanceNorm2d": ("InstanceNorm2d", (6,), {"affine": True, "track_running_stats": True}, (3, 6, 5, 7)),
    "InstanceNorm2d-no-momentum": ("InstanceNorm2d", (6,), {"momentum": None, "track_running_stats": True}, (3, 6, 5, 7)),
    "InstanceNorm3d": ("InstanceNorm3d", (6,), {}, (2, 6, 3, 4, 5)),
    "LayerNorm": ("LayerNorm", (7,), {}, (4, 6, 7)),
    "LayerNorm-2": ("LayerNorm", ([5, 7],), {}, (4, 5, 7)),
    "LayerNorm-plain": ("LayerNorm", (7,), {"elementwise_affine": False}, (4, 6, 7)),
    "LayerNorm-no-bias": ("LayerNorm", (7,), {"bias": False}, (4, 6, 7)),
    "GroupNorm": ("GroupNorm", (3, 6), {}, (4, 6, 5, 7)),
    "GroupNorm-plain": ("GroupNorm", (2, 6), {"affine": False}, (4, 6)),
    "RMSNorm": ("RMSNorm", (7,), {}, (4, 6, 7)),
    "RMSNorm-eps": ("RMSNorm", ((6, 7), 1e-3), {}, (4, 6, 7)),
}  # fmt: skip
FORMATS = {
    "contiguous": lambda x: x.contiguous(),
    "channels-last": lambda x: x.movedim(1, -1).contiguous().movedim(-1, 1) if x.dim() > 2 else x,
    "every-other": lambda x: torch.stack([x, x], -1)[..., 0],
}


def pair(name, **options):
    """The module of this library and PyTorch's, with the same random parameters."""
    kind, arguments, more, shape = MODULES[name]
    theirs = getattr(nn, kind)(*arguments, **more, **options)
    with torch.no_grad():
        for p in theirs.parameters():
            p.copy_(torch.randn(p.shape) + 1)
    ours = getattr(nzt, kind)(*arguments, **more, **options)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs, shape


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def near(actual, expected, tolerance):
    assert (actual is None) == (expected is None)
    if actual is None:
        return
    assert actual.dtype == expected.dtype and actual.shape == expected.shape
    torch.testing.assert_close(actual.double(), expected.double(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("arrange", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("name", MODULES)
def test_module_is_torchs(name, arrange):
    ours, theirs, shape = pair(name)
    assert repr(ours) == repr(theirs) and isinstance(ours, type(theirs))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for training in (True, True, False, True):
        x = arrange(torch.randn(shape) * 2 + 1)
        dy = arrange(torch.randn(shape))
        found = []
        for module in (ours, theirs):
            module.train(training).zero_grad()
            own = x.clone(memory_format=torch.preserve_format).requires_grad_()
            y = module(own)
            y.backward(dy)
            found.append([y, own.grad, *(p.grad for p in module.parameters()), *module.buffers()])
        for mine, other in zip(*found, strict=True):
            near(mine, other, 2e-5)
        if x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)):
            assert found[0][0].stride() == x.stride()
    theirs.load_state_dict(ours.state_dict())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["BatchNorm2d", "InstanceNorm2d", "LayerNorm", "GroupNorm", "RMSNorm"])
def test_dtypes(name, dtype):
    ours, _, shape = pair(name)
    ours.to(dtype)
    wide = copy.deepcopy(ours).double()  # the same values
    x, dy = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
    results = []
    for module, kind in ((ours, dtype), (nzt.revert(wide), torch.float64)):
        own = x.to(kind, copy=True).requires_grad_()
        y = module(own)
        y.backward(dy.to(kind))
        assert y.dtype == own.grad.dtype == kind
        results.append([y, own.grad, *(p.grad for p in module.parameters()), *module.buffers()])
    tolerance = {torch.float16: 2e-3, torch.bfloat16: 2e-2, torch.float64: 1e-12}[dtype]
    for mine, exact in zip(*results, strict=True):
        scale = max(1.0, float(exact.detach().abs().max()))
        near(mine.double() / scale, exact.double() / scale, tolerance)


def test_accuracy_is_this_librarys():
    x = torch.randn(8, 6, 16, 16) * 0.1 + 1e4
    exact = T.batch_norm(x.double(), None, None, training=True)
    theirs, ours = (f.batch_norm(x, None, None, training=True) for f in (T, F))
    error = [float((y.double() - exact).abs().max()) for y in (theirs, ours)]
    assert error[1] < 5e-6
    assert error[0] > 1e-3


def test_memory_is_the_tensors_own():
    array_of = importlib.import_module("normzoo.torch.tensors").array_of
    tensor_of = importlib.import_module("normzoo.torch.tensors").tensor_of
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        t = torch.randn(3, 4).to(dtype)
        a = array_of("x", "x", t)
        assert a.__array_interface__["data"][0] == t.data_ptr() == tensor_of(a).data_ptr()
        assert tensor_of(a).dtype == dtype
    # the running statistics are the module's buffers, before and after
    norm = nzt.BatchNorm2d(3)
    places = [b.data_ptr() for b in norm.buffers()]
    version = norm.running_mean._version
    norm(torch.randn(2, 3, 4, 4))
    assert [b.data_ptr() for b in norm.buffers()] == places and norm.num_batches_tracked == 1
    assert norm.running_mean._version > version, "autograd hears of the change"


RAISING = [
    ("BatchNorm2d", (6,), {}, (4, 6, 5)),
    ("BatchNorm2d", (6,), {}, (4, 5, 5, 5)),
    ("BatchNorm1d", (6,), {}, (1, 6)),
    ("BatchNorm1d", (6,), {"eps": 0.0}, (4, 6)),
    ("InstanceNorm1d", (6,), {"affine": True}, (2, 6, 1)),
    ("InstanceNorm1d", (6,), {"affine": True}, (2, 5, 4)),
    ("LayerNorm", (6,), {}, (4, 5)),
    ("GroupNorm", (2, 6), {}, (4, 5)),
    ("GroupNorm", (6, 6), {}, (1, 6)),
    ("RMSNorm", (6,), {}, (4, 5)),
]


@pytest.mark.parametrize(("name", "arguments", "options", "shape"), RAISING, ids=str)
def test_raises_where_torch_raises_and_nothing_changes(name, arguments, options, shape):
    ours, theirs = (getattr(m, name)(*arguments, **options) for m in (nzt, nn))
    with pytest.raises((ValueError, RuntimeError)):
        theirs(torch.randn(shape))
    before = {key: value.clone() for key, value in ours.state_dict().items()}
    with pytest.raises(ValueError, match="xpected|positive"):
        ours(torch.randn(shape))
    for key, value in ours.state_dict().items():
        assert torch.equal(value, before[key]), f"{key} changed"


def test_constructors_raise_as_torchs():
    with pytest.raises(ValueError, match="divisible"):
        nzt.GroupNorm(4, 6)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((2, 6), np.float32), "expected input to be a tensor, got ndarray"),
        (torch.zeros(2, 6, dtype=torch.int64), "got torch.int64; write input.float()"),
        (torch.zeros(2, 6, dtype=torch.complex64), "got torch.complex64; write input.real and input.imag"),
        (torch.zeros(2, 6).to_sparse(), "expected a dense input"),
        (None, "expected input to be a tensor, got None"),
    ],
    ids=["array", "integer", "complex", "sparse", "none"],
)
def test_what_is_no_tensor_for_a_norm(x, message):
    with pytest.raises(TypeError, match=re.escape(message)):
        F.layer_norm(x, (6,))


CHECKED = {
    "batch_norm": lambda f, x, w, b: f.batch_norm(x, None, None, w, b, True),
    "batch_norm-eval": lambda f, x, w, b: f.batch_norm(x, torch.arange(6.0), torch.arange(1.0, 7), w, b),
    "instance_norm": lambda f, x, w, b: f.instance_norm(x, None, None, w, b),
    "instance_norm-eval": lambda f, x, w, b: f.instance_norm(x, torch.arange(6.0), torch.arange(1.0, 7), w, b, False),
    "group_norm": lambda f, x, w, b: f.group_norm(x, 3, w, b),
    "layer_norm": lambda f, x, w, b: f.layer_norm(x.mT, (6,), w, b),
    "layer_norm-plain": lambda f, x, w, b: f.layer_norm(x, (6, 5)),
    "rms_norm": lambda f, x, w, b: f.rms_norm(x.mT.contiguous(), (6,), w),
}


@pytest.mark.parametrize("name", CHECKED)
def test_first_and_second_derivatives(name):
    tensors = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((3, 6, 5), (6,), (6,))]
    used = {"layer_norm-plain": 1, "rms_norm": 2}.get(name, 3)

    def function(*given):
        return CHECKED[name](F, *given, *tensors[len(given) :])

    assert torch.autograd.gradcheck(function, tensors[:used])
    assert torch.autograd.gradgradcheck(function, tensors[:used])


@pytest.mark.parametrize("name", CHECKED)
def test_a_wrong_gradient_would_be_seen(name, monkeypatch):
    """The checks above fail where the backward pass is off by a hundredth."""
    function = importlib.import_module("normzoo.torch.function")
    right = function.run_back
    monkeypatch.setattr(function, "run_back", lambda *a: (right(*a)[0] * 1.01, *right(*a)[1:]))
    x = torch.randn(3, 6, 5, dtype=torch.float64, requires_grad=True)
    w, b = torch.randn(2, 6, dtype=torch.float64)
    with pytest.raises(torch.autograd.gradcheck.__globals__["GradcheckError"]):
        torch.autograd.gradcheck(lambda x: CHECKED[name](F, x, w, b), (x,))


def test_create_graph_is_the_same_gradient():
    x, w, b = (torch.randn(s, requires_grad=True) for s in ((4, 6, 5), (6,), (6,)))
    for name, call in CHECKED.items():
        y = call(F, x, w, b)
        dy = torch.randn(y.shape)
        found = [
            torch.autograd.grad(y, (x, w, b), dy, retain_graph=True, create_graph=graph, allow_unused=True)
            for graph in (False, True)
        ]
        for first, second in zip(*found, strict=True):
            near(first, second, 2e-5)
        assert name.endswith("-eval") or found[1][0].requires_grad


def test_frozen_parameters_have_no_gradients_and_no_grad_saves_nothing():
    norm = nzt.LayerNorm(5)
    norm.weight.requires_grad_(False)
    x = torch.randn(3, 5)
    norm(x).sum().backward()
    assert norm.weight.grad is None and norm.bias.grad is not None
    norm.bias.requires_grad_(False)
    assert norm(x).grad_fn is None
    own = torch.randn(3, 5, requires_grad=True)
    norm(own).sum().backward()
    assert own.grad is not None and norm.weight.grad is None
    with torch.no_grad():
        assert norm(own).grad_fn is None


def test_autograd_sees_what_was_overwritten():
    x = torch.randn(3, 5, requires_grad=True)
    inner = x * 1
    y = nzt.LayerNorm(5)(inner)
    inner.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_the_graph_goes_through_saved_tensor_hooks_and_checkpoints():
    x = torch.randn(4, 6, 5, 5).to(memory_format=torch.channels_last).requires_grad_()
    norm, dy = nzt.GroupNorm(2, 6), torch.randn(4, 6, 5, 5)
    expected = torch.autograd.grad(norm(x), x, dy)[0]
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.contiguous().numpy().copy(), torch.from_numpy):
        y = norm(x)
    near(torch.autograd.grad(y, x, dy)[0], expected, 1e-6)
    y = torch.utils.checkpoint.checkpoint(norm, x, use_reentrant=False)
    near(torch.autograd.grad(y, x, dy)[0], expected, 0)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("mix", [(torch.float32, torch.float32), (torch.bfloat16, torch.float32),
                                 (torch.float32, torch.float64)], ids=str)  # fmt: skip
def test_transforms_and_forward_mode_go_by_pytorchs_operators(mix):
    dtype, parameters = mix
    x, v = torch.randn(2, 3, 6, 5).to(dtype)
    w, b = torch.randn(2, 6, dtype=parameters)
    wide = torch.promote_types(*mix)
    for name, call in CHECKED.items():
        if name.endswith("eval") and wide is torch.float64:
            continue  # its running statistics are of 32 bits, which PyTorch's does not take with the others

        def ours(x, call=call):
            return call(F, x, w, b)

        def exact(x, call=call):
            return call(T, x.to(wide), w.to(wide), b.to(wide)).to(dtype)

        for transform in (
            lambda f: torch.func.grad(lambda x: f(x).square().sum())(x),
            lambda f: torch.func.vmap(f)(torch.stack((x, v))),
            lambda f: torch.func.jvp(f, (x,), (v,))[1],
            lambda f: torch.func.jacrev(lambda x: f(x).sum((0, 2)))(x),
            lambda f: torch.func.jvp(torch.func.grad(lambda x: f(x).square().sum()), (x,), (v,))[1],
        ):
            found, expected = transform(ours), transform(exact)
            assert found.dtype is dtype
            torch.testing.assert_close(found, expected, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_running_statistics_of_another_dtype_are_updated_in_forward_mode():
    x = torch.randn(4, 3, 5, dtype=torch.float64)
    running = torch.zeros(3), torch.ones(3)
    expected = torch.zeros(3), torch.ones(3)
    with torch.autograd.forward_ad.dual_level():
        F.batch_norm(torch.autograd.forward_ad.make_dual(x, x), *running, training=True)
    F.batch_norm(x, *expected, training=True)
    for a, c in zip(running, expected, strict=True):
        torch.testing.assert_close(a, c)


def test_autocast_is_torchs():
    x, w, b = torch.randn(4, 6, 5), torch.ones(6), torch.zeros(6)
    for dtype in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", torch.bfloat16):
            for name, call in CHECKED.items():
                if name != "rms_norm":  # PyTorch's warns of mixed dtypes
                    assert call(F, x.to(dtype), w, b).dtype == call(T, x.to(dtype), w, b).dtype, name
    # The table says of every norm and device whether PyTorch has a rule of autocast for it.
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    table = importlib.import_module("normzoo.torch.functional").AUTOCAST_FLOAT32
    for name in ("batch_norm", "instance_norm", "layer_norm", "group_norm", "rms_norm"):
        for device in ("CPU", "CUDA"):
            assert has(f"aten::{name}", f"Autocast{device}") == (name in table.get(device.lower(), ())), (name, device)


def network():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.GroupNorm(2, 8), nn.InstanceNorm2d(8, affine=True),
        nn.Flatten(), nn.Linear(8 * 16, 16), nn.LayerNorm(16), nn.RMSNorm(16), nn.Linear(16, 4),
    )  # fmt: skip


def train(model, steps):
    generator = torch.Generator().manual_seed(1)
    x, labels = torch.randn(64, 3, 6, 6, generator=generator), torch.randint(4, (64,), generator=generator)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    losses = []
    for step in range(steps):
        batch = slice(step * 16 % 64, step * 16 % 64 + 16)
        loss = T.cross_entropy(model(x[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_a_converted_model_trains_to_the_same_loss():
    theirs = network()
    ours = nzt.convert(copy.deepcopy(theirs))
    assert sum(type(m).__module__ == "normzoo.torch.modules" for m in ours.modules()) == 5
    first, second = train(theirs, 50), train(ours, 50)
    assert first[-1] < 0.5 * first[0], "it trains"
    assert max(abs(a - b) for a, b in zip(first, second, strict=True)) < 1e-4
    for (name, mine), other in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-3, msg=name)


def test_convert_keeps_everything_and_revert_takes_it_back():
    class Own(nn.BatchNorm2d):
        pass

    model = nn.ModuleDict(
        {
            "norm": nn.BatchNorm2d(3),
            "own": Own(3),
            "sync": nn.SyncBatchNorm(3),
            "lazy": nn.LazyBatchNorm2d(),
            "last": nn.LayerNorm(4),
        }
    )
    norm, seen = model["norm"].eval(), []
    norm.register_forward_hook(lambda *_: seen.append(1))
    held = {name: value.data_ptr() for name, value in norm.state_dict(keep_vars=True).items()}
    assert nzt.convert(model) is model and model["norm"] is norm
    assert type(norm) is nzt.BatchNorm2d and type(model["last"]) is nzt.LayerNorm
    assert [type(model[name]) for name in ("own", "sync", "lazy")] == [Own, nn.SyncBatchNorm, nn.LazyBatchNorm2d]
    assert {name: value.data_ptr() for name, value in norm.state_dict(keep_vars=True).items()} == held
    norm(torch.randn(2, 3, 4, 4))
    assert seen and not norm.training and norm.num_batches_tracked == 0
    model["lazy"](torch.randn(2, 3, 4, 4))
    assert type(nzt.convert(model)["lazy"]) is nzt.BatchNorm2d
    nzt.revert(model)
    assert type(norm) is nn.BatchNorm2d and type(model["lazy"]) is nn.BatchNorm2d and type(model["own"]) is Own
    assert type(nzt.convert(nn.LayerNorm(3))) is nzt.LayerNorm
    with pytest.raises(TypeError, match=r"convert: expected model to be a torch\.nn\.Module, got dict"):
        nzt.convert({})


def test_pickle_deepcopy_and_saving():
    model = nzt.convert(network())
    train(model, 2)
    model.eval()
    x = torch.randn(2, 3, 6, 6)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    copies = [pickle.loads(pickle.dumps(model)), copy.deepcopy(model), torch.load(file, weights_only=False)]
    for other in copies:
        assert type(other[1]) is nzt.BatchNorm2d and torch.equal(other(x), model(x))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_compile_keeps_the_norms_in_one_graph():
    ours, theirs = (network() for _ in range(2))
    ours.load_state_dict(theirs.state_dict())
    whole = torch.compile(nzt.convert(ours), fullgraph=True, backend="aot_eager")
    first, second = train(theirs, 5), train(whole, 5)
    assert max(abs(a - b) for a, b in zip(first, second, strict=True)) < 1e-4
    for mine, other in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)
    x = torch.randn(2, 3, 6, 6)
    torch.testing.assert_close(whole.eval()(x), theirs.eval()(x), rtol=1e-3, atol=1e-4)
    given = [torch.randn(s, requires_grad=True) for s in ((4, 6, 5), (6,), (6,))]
    torch.library.opcheck(torch.ops.normzoo.normalize, (*given, None, None, "group_norm", [2], True, 0.0, 1e-5))
    running = torch.arange(6.0), torch.arange(1.0, 7)
    torch.library.opcheck(torch.ops.normzoo.normalize, (*given, *running, "instance_norm", [], False, 0.0, 1e-5))


class Normalized(torch.utils.data.Dataset):
    """Large enough that a pass would run on threads."""

    def __len__(self):
        return 4

    def __getitem__(self, i):
        x = torch.full((64, 1024), float(i)) + torch.arange(1024)
        return F.layer_norm(x, (1024,)), torch.from_numpy(nz.functional.layer_norm(x.numpy(), (1024,)))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_workers_of_a_loader_are_forks():
    expected = Normalized()[3][0]  # on threads, in this process
    loader = torch.utils.data.DataLoader(
        Normalized(), batch_size=2, num_workers=2, multiprocessing_context="fork", timeout=120
    )
    *_, last = loader
    for found in last:
        assert torch.equal(found[1], expected), "the bits of the serial pass are those of threads"


def test_threads_are_torchs(monkeypatch):
    threads = importlib.import_module("normzoo.torch.threads")
    numba = importlib.import_module("numba")
    function = importlib.import_module("normzoo.torch.function")
    used, right = [], function.resume
    monkeypatch.setattr(function, "resume", lambda *a: used.append(numba.get_num_threads()) or right(*a))
    before, numbas = torch.get_num_threads(), numba.get_num_threads()
    x = torch.randn(128, 1024, requires_grad=True)
    try:
        torch.set_num_threads(1)
        F.layer_norm(x, (1024,)).sum().backward()
    finally:
        torch.set_num_threads(before)
    assert used == [1] and numba.get_num_threads() == numbas
    with threads.torch_threads(10):
        assert numba.get_num_threads() == numbas


def test_one_pool_of_threads_where_torch_is_loaded_first():
    if min(torch.get_num_threads(), importlib.import_module("numba").config.NUMBA_NUM_THREADS) < 2:
        pytest.skip("needs two threads")
    code = "import normzoo.torch as nzt, numba; found = nzt.shares_threads(); print(numba.threading_layer(), found)"
    layer, found = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()  # fmt: skip
    assert found == str(layer == "omp")


def test_it_is_imported_on_demand():
    code = "import sys, normzoo; assert 'torch' not in sys.modules and 'normzoo.torch' not in sys.modules"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


@pytest.mark.parametrize("path", sorted(Path(nzt.__file__).parent.glob("*.py")), ids=lambda p: p.stem)
def test_what_is_shown_runs(path):
    name = "normzoo.torch" if path.stem == "__init__" else f"normzoo.torch.{path.stem}"
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize(
    ("mean", "var", "stats"),
    [((3,), (2,), (3, 3)), ((2,), (2,), (3, 3)), ((3,), (3,), (2, 3)), ((0,), (0,), (3, 3)), ((3,), (3,), (9,))],
)
def test_running_statistics_of_another_size_do_not_reach_a_kernel(mean, var, stats):
    arrays = torch.zeros(mean), torch.zeros(var), torch.zeros(stats, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"update_running: expected mean and var \(channels,\)"):
        torch.ops.normzoo.update_running(*arrays, torch.zeros(5), 0.1)
    narrow = torch.zeros((3, 3))
    with pytest.raises(ValueError, match="got .*float32"):
        torch.ops.normzoo.update_running(torch.zeros(3), torch.zeros(3), narrow, torch.zeros(5), 0.1)
    with pytest.raises(ValueError, match="expected statistics in a C-contiguous float64 array"):
        x = torch.zeros((4, 3))
        torch.ops.normzoo.normalize_backward(x, x, None, None, narrow, "batch_norm", [], True, 1e-5)


DIRECT = {
    "layer_norm": lambda f, x, w, b: f.layer_norm(x, (6,), w, b),
    "rms_norm": lambda f, x, w, b: f.rms_norm(x, (6,), w, 1e-6),
    "rms_norm-eps": lambda f, x, w, b: f.rms_norm(x, (6,)),
    "group_norm": lambda f, x, w, b: f.group_norm(x, 2, w, b),
    "batch_norm": lambda f, x, w, b: f.batch_norm(x, b, w, w, b),
}


@pytest.mark.parametrize("name", DIRECT)
def test_without_gradients_a_small_pass_is_an_operator_of_the_same_bits(name, monkeypatch):
    """It is loaded after some calls, takes what `run` takes, and leaves to that what PyTorch does not, or otherwise."""
    from normzoo.torch import function  # noqa: PLC0415
    from normzoo.torch.dispatch import direct, interface  # noqa: PLC0415

    if interface.missing():
        pytest.skip("this PyTorch lacks the interface")
    monkeypatch.setattr(direct, "AFTER", 1)
    call, took, run = DIRECT[name], [], function.run
    monkeypatch.setattr(function, "run", lambda *given: took.append(name) or run(*given))
    w, b = torch.rand(6) + 0.5, torch.rand(6) + 0.5
    mixes, same_dtype = name != "rms_norm-eps", name == "rms_norm"
    for shape in ((4, 6, 6), (2, 6, 5, 6)):
        x = torch.randn(shape) + 3
        for given, is_run in (
            (x, False), (x.bfloat16(), same_dtype), (x.double(), mixes), (x[:0], True), (x[(0,) * (x.dim() - 1)], True),
            (x.transpose(0, 1).contiguous().transpose(0, 1), True),
        ):  # fmt: skip
            if given.dim() == 1 and not name.startswith(("layer", "rms")):
                continue
            found = []
            for most in (function.SMALL, 0):
                took.clear()
                with monkeypatch.context() as patch, torch.no_grad():
                    patch.setattr(function, "SMALL", most)
                    found.append(call(nzt.functional, given, w, b))
                assert bool(took) == (is_run or most == 0)
            y, expected = found
            assert torch.equal(y, expected) and y.stride() == expected.stride() and y.dtype == given.dtype
    with nz.use("reference"), torch.no_grad():
        took.clear()
        torch.testing.assert_close(call(nzt.functional, x, w, b), call(T, x, w, b), rtol=1e-5, atol=1e-5)
    assert took
