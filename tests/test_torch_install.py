"""Optional: PyTorch's norms by our kernels in PyTorch's dispatcher. PyTorch's own kernels are the oracle."""

import copy
import gc
import os
import threading
import warnings

import numpy as np
import pytest

import normzoo as nz

torch = pytest.importorskip("torch")
nzt = pytest.importorskip("normzoo.torch")
from normzoo.torch.dispatch import interface, plans, registering  # noqa: E402  (behind the check for PyTorch)

F, aten = torch.nn.functional, torch.ops.aten
if interface.missing():
    pytest.skip("this PyTorch lacks the interface", allow_module_level=True)

# of results against PyTorch's own, relative to the largest or 1: PyTorch rounds 16-bit statistics, and sums in another order
TOLERANCES = {torch.float32: 3e-5, torch.float64: 1e-12, torch.float16: 8e-3, torch.bfloat16: 6e-2}
DTYPES = [(d, p) for d in TOLERANCES for p in dict.fromkeys((d, torch.float32)) if p == d or d.itemsize == 2]
SHAPES = [(2, 8, 3, 5), (3, 8, 7), (4, 8), (1, 8, 1, 1), (2, 8, 33, 17), (8, 32, 40, 40), (2, 4, 4, 6, 5), (256, 64), (1, 768), (5, 1, 4, 4)]  # fmt: skip


# PyTorch's own: what it deprecates, and how it traces its modules
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::torch.jit.TracerWarning",
    "ignore:Mismatch dtype between input and weight:UserWarning",
)


@pytest.fixture(autouse=True)
def own_state():
    torch.manual_seed(0)
    yield
    nzt.uninstall()


@pytest.fixture
def installed():
    nzt.install()


def both(function):
    """What PyTorch's kernels and ours give."""
    nzt.uninstall()
    expected = function()
    nzt.install()
    return expected, function()


def same(function, tolerance, strides=True):
    for i, (expected, found) in enumerate(zip(*both(function), strict=True)):
        if expected is None or found is None:
            assert expected is found, i
            continue
        assert (found.dtype, found.shape, found.device) == (expected.dtype, expected.shape, expected.device), i
        assert not strides or found.stride() == expected.stride(), i
        if found.numel() and found.dtype.is_floating_point:
            a, b = expected.double(), found.double()
            assert (a.isnan() == b.isnan()).all(), i
            a, b = a.nan_to_num(), b.nan_to_num()
            assert (a - b).abs().max() <= tolerance * max(1.0, a.abs().max()), (i, (a - b).abs().max())


def tensors(shape, dtype, kind, layout):
    """x and dy with this layout, and a function that makes parameters."""
    if layout == "last" and len(shape) > 3:
        form = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
        x = torch.randn(shape).to(dtype).to(memory_format=form)
    elif layout == "strided":
        x = torch.randn(*shape[:-1], 2 * shape[-1]).to(dtype)[..., ::2]
    elif layout == "swapped":
        x = torch.randn(*shape[:-2], shape[-1], shape[-2]).to(dtype).transpose(-1, -2)
    else:
        x = torch.randn(shape).to(dtype)
    dy = torch.empty_like(x).copy_(torch.randn(shape))
    return x, dy, lambda *sizes: (torch.rand(sizes) + 0.5).to(kind)


def shapes_for(dtype):
    """Fewer where each takes kernels of its own, whose compilation is what takes time."""
    return SHAPES if dtype is torch.float32 else SHAPES[:3]


LAYOUTS = "contiguous", "last", "strided", "swapped"


@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
@pytest.mark.parametrize(("dtype", "kind"), DTYPES, ids=lambda d: str(d)[6:])
def test_layer_norm(dtype, kind, affine):
    for shape in shapes_for(dtype):
        for layout in LAYOUTS:
            for axes in (1, 2):
                x, dy, make = tensors(shape, dtype, kind, layout)
                sizes = shape[-axes:]
                if np.prod(sizes) == 1:
                    continue  # dx is 0, of which PyTorch's rounding leaves something
                weight, bias = (make(*sizes), make(*sizes)) if affine else (None, None)

                def run(x=x, dy=dy, sizes=sizes, weight=weight, bias=bias):
                    y, mean, rstd = aten.native_layer_norm(x, sizes, weight, bias, 1e-5)
                    mask = [True, affine, affine]
                    return y, mean, rstd, *aten.native_layer_norm_backward(dy, x, sizes, mean, rstd, weight, bias, mask)

                same(run, TOLERANCES[dtype])


@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
@pytest.mark.parametrize("dtype", TOLERANCES, ids=lambda d: str(d)[6:])
def test_rms_norm(dtype, affine):
    for shape in shapes_for(dtype):
        for layout in LAYOUTS:
            for axes, eps in ((1, None), (2, 1e-6)):
                x, dy, make = tensors(shape, dtype, dtype, layout)
                sizes = shape[-axes:]
                if np.prod(sizes) == 1:
                    continue
                given = make(*sizes) if affine else None

                def run(x=x, dy=dy, sizes=sizes, given=given, eps=eps):
                    x = x.detach().requires_grad_()
                    weight = None if given is None else given.clone().requires_grad_()
                    y = F.rms_norm(x, sizes, weight, eps)
                    y.backward(dy)
                    return y, x.grad, None if weight is None else weight.grad

                same(run, TOLERANCES[dtype], strides=False)


@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
@pytest.mark.parametrize(("dtype", "kind"), DTYPES, ids=lambda d: str(d)[6:])
def test_group_norm(dtype, kind, affine):
    for shape in shapes_for(dtype):
        for layout in LAYOUTS[:2]:  # PyTorch's operator takes no others: group_norm makes copies
            for groups in {1, 2, shape[1]} if shape[1] % 2 == 0 else {1}:
                x, dy, make = tensors(shape, dtype, kind, layout)
                n, c, positions = shape[0], shape[1], x[0, 0].numel()
                weight, bias = (make(c), make(c)) if affine else (None, None)

                def run(x=x, dy=dy, weight=weight, bias=bias, rest=(n, c, positions, groups)):
                    y, mean, rstd = aten.native_group_norm(x, weight, bias, *rest, 1e-5)
                    mask = [True, affine, affine]
                    return y, mean, rstd, *aten.native_group_norm_backward(dy, x, mean, rstd, weight, *rest, mask)

                # dx of a set of one value is rounding alone, times rstd, which is 1 / sqrt(eps)
                same(run, TOLERANCES[dtype] * (316 if positions * c == groups else 1))


@pytest.mark.parametrize("name", ["native", "legit", "no_stats", "update"])
@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
@pytest.mark.parametrize(("dtype", "kind"), DTYPES, ids=lambda d: str(d)[6:])
def test_batch_norm(dtype, kind, affine, name):
    for shape in shapes_for(dtype) if name == "native" else SHAPES[:2]:
        for layout in LAYOUTS:
            for training, tracked in ((True, True), (True, False), (False, True)):
                if (
                    np.prod(shape) == shape[1]
                    or (name != "native" and not tracked)
                    or (name == "update" and not training)
                ):
                    continue
                x, dy, make = tensors(shape, dtype, kind, layout)
                c = shape[1]
                weight, bias = (make(c), make(c)) if affine else (None, None)
                state = (make(c), make(c)) if tracked else (None, None)

                def run(x=x, dy=dy, w=weight, b=bias, state=state, training=training, c=c):
                    mask = [True, affine, affine]
                    m, v = (None if t is None else t.clone() for t in state)
                    if name == "no_stats":
                        y, mean, rstd = aten._native_batch_norm_legit.no_stats(x, w, b, training, 0.3, 1e-5)
                        return y, mean, rstd
                    if name == "update":
                        y, mean, rstd, reserve = aten._batch_norm_with_update(x, w, b, m, v, 0.3, 1e-5)
                        own = torch.ones(c, dtype=mean.dtype) if w is None else w
                        rest = aten.batch_norm_backward(dy, x, own, m, v, mean, rstd, True, 1e-5, [True] * 3, reserve)
                        return y, mean, rstd, reserve, m, v, *rest
                    op = aten.native_batch_norm if name == "native" else aten._native_batch_norm_legit
                    y, mean, rstd = op(x, w, b, m, v, training, 0.3, 1e-5)
                    rest = aten.native_batch_norm_backward(dy, x, w, m, v, mean, rstd, training, 1e-5, mask)
                    return y, mean, rstd, m, v, *rest

                if name == "no_stats" and not training:
                    continue
                same(run, TOLERANCES[dtype])


def test_masks(installed):
    x, w = torch.randn(4, 6, 5, dtype=torch.float64), torch.rand(5, dtype=torch.float64)
    y, mean, rstd = aten.native_layer_norm(x, [5], w, w, 1e-5)
    every = aten.native_layer_norm_backward(x, x, [5], mean, rstd, w, w, [True] * 3)
    for flags in np.ndindex(2, 2, 2):
        found = aten.native_layer_norm_backward(x, x, [5], mean, rstd, w, w, [bool(f) for f in flags])
        for wanted, all_of, some in zip(flags, every, found, strict=True):
            assert (some is not None and torch.equal(some, all_of)) if wanted else some is None


# -- the same bits as in the rest of the library, on any number of threads

CALLS = {
    "layer_norm": lambda f, x, w, b: f.layer_norm(x, (x.shape[-1],), w, b),
    "rms_norm": lambda f, x, w, b: f.rms_norm(x, (x.shape[-1],), w, 1e-6),
    "group_norm": lambda f, x, w, b: f.group_norm(x, 4, w, b),
    "batch_norm": lambda f, x, w, b: f.batch_norm(x, None, None, w, b, True),
    "instance_norm": lambda f, x, w, b: f.instance_norm(x, None, None, w, b),
}


@pytest.mark.parametrize("name", CALLS)
def test_bits_are_those_of_the_library(name, installed):
    for shape in ((4, 8, 5, 7), (16, 64, 30, 32), (2, 8, 300, 300)):
        size = shape[-1] if name in ("layer_norm", "rms_norm") else shape[1]
        x, w, b = torch.randn(shape), torch.rand(size), torch.rand(size)
        expected = CALLS[name](nz.functional, *(t.numpy() for t in (x, w, b)))
        before = torch.get_num_threads()
        try:
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                assert np.array_equal(CALLS[name](F, x, w, b).numpy(), expected)
        finally:
            torch.set_num_threads(before)


@pytest.mark.parametrize("name", CALLS)
def test_this_librarys_functions_take_the_same_way(name, installed, monkeypatch):
    """Without its Python. What PyTorch's operators do not take goes the library's own way, as before."""
    call, size = CALLS[name], 6 if name in ("layer_norm", "rms_norm") else 8
    x, w, b = torch.randn(4, 8, 5, 6), torch.rand(size), torch.rand(size)
    with pytest.raises(ValueError, match=name):
        call(nzt.functional, x, torch.rand(size + 1), b)
    mixed = call(nzt.functional, x, w.double(), b.double())
    turned = call(nzt.functional, x.transpose(0, 1).contiguous().transpose(0, 1), w, b)
    assert mixed.dtype == torch.float32
    monkeypatch.setattr("normzoo.torch.functional.normalize", None)
    y = call(nzt.functional, x, w, b)
    assert torch.equal(y, call(F, x, w, b)) and torch.equal(y, turned)
    torch.testing.assert_close(mixed, y)
    torch.testing.assert_close(torch.vmap(lambda x: call(nzt.functional, x, w, b))(x[None]), y[None])
    monkeypatch.undo()
    last = x.contiguous(memory_format=torch.channels_last)
    assert call(nzt.functional, last, w, b).stride() == last.stride()


def test_converted_norms_take_transforms_where_the_kernels_are_installed(installed):
    theirs = torch.nn.Sequential(
        torch.nn.LayerNorm(8), torch.nn.BatchNorm1d(8).eval(), torch.nn.RMSNorm(8), torch.nn.GroupNorm(2, 8)
    )
    ours, x = nzt.convert(copy.deepcopy(theirs)), torch.randn(4, 8)
    for transform in (
        lambda model: torch.func.grad(lambda x: model(x).square().sum())(x),
        lambda model: torch.func.vmap(model)(x[:, None]),
        lambda model: torch.func.jvp(model, (x,), (x.square(),)),
        lambda model: torch.func.jacrev(model)(x),
    ):
        torch.testing.assert_close(transform(ours), transform(theirs))


@pytest.mark.parametrize("name", CALLS)
def test_gradients_do_not_depend_on_threads(name, installed):
    x = torch.randn(16, 64, 30, 32, requires_grad=True)
    w, b = (torch.rand(32 if name in ("layer_norm", "rms_norm") else 64, requires_grad=True) for _ in range(2))
    dy, found, before = torch.randn(x.shape), [], torch.get_num_threads()
    wanted = [t for t in (x, w, b) if t is not b or name != "rms_norm"]
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(torch.autograd.grad(CALLS[name](F, x, w, b), wanted, dy))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(p, q) for p, q in zip(*found, strict=True))


@pytest.mark.parametrize("offset", [0.0, 3e3, 1e5])
def test_a_large_mean_costs_no_digits(offset, installed):
    x = (torch.randn(64, 256) + offset).requires_grad_()
    dy, w = torch.randn(x.shape), torch.rand(256).requires_grad_()
    found = torch.autograd.grad(F.layer_norm(x, (256,), w), (x, w), dy)
    exact = x.detach().double().requires_grad_(), w.detach().double().requires_grad_()
    expected = torch.autograd.grad(F.layer_norm(exact[0], (256,), exact[1]), exact, dy.double())
    for p, q in zip(found, expected, strict=True):
        assert (p - q).abs().max() < 2e-6 * q.abs().max()  # as a few roundings of float32


def test_bfloat16_is_as_exact_as_its_storage(installed):
    x, dy = torch.randn(32, 512).bfloat16().requires_grad_(), torch.randn(32, 512).bfloat16()
    w = torch.rand(512).bfloat16().requires_grad_()
    found = torch.autograd.grad(F.layer_norm(x, (512,), w), (x, w), dy)
    exact = x.detach().double().requires_grad_(), w.detach().double().requires_grad_()
    expected = torch.autograd.grad(F.layer_norm(exact[0], (512,), exact[1]), exact, dy.double())
    for p, q in zip(found, expected, strict=True):
        assert ((p - q).abs() <= 2.0**-8 * q.abs() + 2.0**-10).all()  # one rounding, and eps of 1e-5


# -- derivatives of every kind


@pytest.mark.parametrize("layout", ["contiguous", "last", "strided"])
@pytest.mark.parametrize("name", CALLS)
def test_gradcheck(name, layout, installed):
    x = tensors((3, 8, 4, 5), torch.float64, torch.float64, layout)[0].requires_grad_()
    size = 5 if name in ("layer_norm", "rms_norm") else 8
    w, b = (torch.rand(size, dtype=torch.float64, requires_grad=True) for _ in range(2))
    run = lambda *given: CALLS[name](F, *given)  # noqa: E731
    given = (x, w) if name == "rms_norm" else (x, w, b)
    call = (lambda x, w: run(x, w, None)) if name == "rms_norm" else run
    rules = (name, layout) != ("group_norm", "last")  # PyTorch's own raise there, with its own kernel, too
    assert torch.autograd.gradcheck(call, given, check_forward_ad=rules, check_batched_grad=rules, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, given, fast_mode=True)


@pytest.mark.parametrize("name", CALLS)
def test_transforms(name):
    x, v = torch.randn(2, 3, 8, 4, 5, dtype=torch.float64), torch.randn(3, 8, 4, 5, dtype=torch.float64)
    size = 5 if name in ("layer_norm", "rms_norm") else 8
    w, b = torch.rand(2, size, dtype=torch.float64)

    def call(x):
        return CALLS[name](F, x, w, b)

    def run():
        loss = lambda x: (call(x) ** 3).sum()  # noqa: E731
        yield torch.func.vmap(call)(x)
        yield torch.func.grad(loss)(x[0])
        yield torch.func.vmap(torch.func.grad(loss))(x)
        yield from torch.func.jvp(call, (x[0],), (v,))
        yield torch.func.jvp(torch.func.grad(loss), (x[0],), (v,))[1]
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x[0], v)
            yield torch.autograd.forward_ad.unpack_dual(call(dual)).tangent
        yield torch.func.functionalize(call)(x[0])
        yield torch.func.jacrev(lambda x: call(x).sum((0, 2, 3)))(x[0])

    same(lambda: list(run()), 1e-10)


def module():
    torch.manual_seed(1)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.GroupNorm(2, 8), torch.nn.InstanceNorm2d(8, affine=True),
        torch.nn.Flatten(2), torch.nn.LayerNorm(36), torch.nn.RMSNorm(36), torch.nn.Linear(36, 4),
    )  # fmt: skip


IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(2))


def graph_ways():
    from torch.fx.experimental.proxy_tensor import make_fx  # noqa: PLC0415

    yield "eager", lambda m: m(IMAGES)
    yield "jit.trace", lambda m: torch.jit.trace(m, torch.zeros_like(IMAGES))(IMAGES)
    yield "jit.script", lambda m: torch.jit.script(m)(IMAGES)
    yield "fx", lambda m: torch.fx.symbolic_trace(m)(IMAGES)
    yield "make_fx", lambda m: make_fx(m)(torch.zeros_like(IMAGES))(IMAGES)
    yield "export", lambda m: torch.export.export(m, (torch.zeros_like(IMAGES),)).module()(IMAGES)
    yield "compile", lambda m: torch.compile(m, backend="aot_eager")(IMAGES)
    yield "inference", lambda m: torch.inference_mode()(m)(IMAGES)
    yield "autocast", lambda m: torch.autocast("cpu", dtype=torch.bfloat16)(m)(IMAGES).float()
    yield "functional_call", lambda m: torch.func.functional_call(m, dict(m.named_parameters()), (IMAGES,))
    yield "channels_last", lambda m: m(IMAGES.to(memory_format=torch.channels_last))


@pytest.mark.parametrize(("way", "call"), list(graph_ways()), ids=lambda v: v if isinstance(v, str) else "")
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_modules(way, call, training):
    if way in ("make_fx", "export", "functional_call", "inference", "jit.trace", "compile") and training:
        pytest.skip("running statistics change while it is recorded")
    torch.compiler.reset()

    def run():
        m = module().train(training)
        with torch.no_grad():
            return [call(m).clone(), *m.state_dict().values()]

    same(run, 3e-2 if way == "autocast" else 3e-5, strides=False)


def test_training_step():
    from torch.utils.checkpoint import checkpoint  # noqa: PLC0415

    ways = {
        "plain": lambda m: m(IMAGES),
        "checkpoint": lambda m: checkpoint(m, IMAGES.clone().requires_grad_(), use_reentrant=False),
        "reentrant": lambda m: checkpoint(m, IMAGES.clone().requires_grad_(), use_reentrant=True),
        "compile": lambda m: torch.compile(m, backend="aot_eager")(IMAGES),
    }
    for call in ways.values():
        torch.compiler.reset()

        def run(call=call):
            m = module()
            (call(m) ** 3).sum().backward()
            return [p.grad for p in m.parameters()]

        same(run, 2e-4)


def test_what_has_no_memory(installed):
    from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: PLC0415

    m = module()
    assert m.to("meta")(IMAGES.to("meta")).shape == (4, 8, 4)
    with FakeTensorMode():
        assert module()(torch.zeros(4, 3, 8, 8)).shape == (4, 8, 4)


def test_dispatch_modes_and_subclasses_see_the_norms(installed):
    from torch.utils._python_dispatch import TorchDispatchMode  # noqa: PLC0415

    seen = []

    class Seeing(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func.name())
            return func(*args, **(kwargs or {}))

    with Seeing():
        module().eval()(IMAGES)
    assert {"aten::native_batch_norm", "aten::native_group_norm", "aten::native_layer_norm"} <= set(seen)
    assert "aten::_fused_rms_norm" in seen

    class Own(torch.Tensor):
        pass

    assert type(F.layer_norm(torch.randn(2, 3).as_subclass(Own), (3,))) is Own


def test_transformer_encoder():
    def run():
        torch.manual_seed(3)
        layer = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        encoder = torch.nn.TransformerEncoder(layer, 2).eval()
        with torch.no_grad():  # PyTorch's fast path
            return [encoder(torch.ones(2, 5, 16))]

    same(run, 1e-5)


# -- what the kernels do not take


def test_other_calls_are_pytorchs_bit_by_bit():
    x, w = torch.randn(4, 6, 5), torch.rand(5)

    def run():
        yield F.layer_norm(x, (5,), w, eps=0.0)
        yield F.layer_norm(x[:0], (5,), w)
        yield F.layer_norm(x[..., :0], (0,))
        yield F.group_norm(x[:0], 2)
        yield F.rms_norm(x, (5,), w, eps=0.0)
        yield F.rms_norm(x[:0], (5,), w)
        yield F.rms_norm(x, (5,), w.double())
        yield F.batch_norm(x[:0], torch.zeros(6), torch.ones(6))
        yield F.batch_norm(x, torch.zeros(6), torch.ones(6), eps=0.0)
        yield F.layer_norm(x[0, 0, 0], ()) if False else x
        empty = torch.zeros(0, 5, requires_grad=True)
        weight = w.clone().requires_grad_()
        F.rms_norm(empty, (5,), weight).sum().backward()
        yield empty.grad
        yield weight.grad

    for expected, found in zip(*both(lambda: list(run())), strict=True):
        assert torch.equal(expected, found)
        assert (expected.dtype, expected.stride()) == (found.dtype, found.stride())


WRONG = {
    "layer_norm of other sizes": lambda: F.layer_norm(torch.randn(3, 4), (5,)),
    "layer_norm of no sizes": lambda: F.layer_norm(torch.randn(3, 4), ()),
    "a weight of other sizes": lambda: F.layer_norm(torch.randn(3, 4), (4,), torch.ones(3)),
    "a weight of another dtype": lambda: F.layer_norm(torch.randn(3, 4), (4,), torch.ones(4).double()),
    "integers": lambda: F.layer_norm(torch.ones(3, 4, dtype=torch.int64), (4,)),
    "groups": lambda: F.group_norm(torch.randn(3, 4), 3),
    "no groups": lambda: aten.native_group_norm(torch.randn(3, 4), None, None, 3, 4, 1, 0, 1e-5),
    "running statistics of other sizes": lambda: F.batch_norm(torch.randn(3, 4), torch.ones(3), torch.ones(3)),
    "rms_norm of other sizes": lambda: F.rms_norm(torch.randn(3, 4), (5,)),
    "rms_norm of integers": lambda: F.rms_norm(torch.ones(3, 4, dtype=torch.int64), (4,)),
    "a dy of another dtype": lambda: aten.native_group_norm_backward(
        torch.randn(3, 4).double(), torch.randn(3, 4), torch.ones(3, 1), torch.ones(3, 1), None, 3, 4, 1, 1, [True] * 3
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_errors_are_pytorchs(name):
    def run():
        try:
            WRONG[name]()
        except Exception as error:
            return type(error), str(error)
        return None

    expected, found = both(run)
    assert expected is not None
    assert found == expected


def test_nothing_is_leaked(installed):
    """A tensor's memory has as many owners behind a call as before, whether ours, PyTorch's, or an error."""
    for x in (torch.randn(3, 4), torch.randn(3, 4).bfloat16(), torch.randn(4, 3).T):
        w, b = torch.ones(2, 4, dtype=x.dtype)
        owners = [torch._C._storage_Use_Count(t.untyped_storage()._cdata) for t in (x, w, b)]
        for eps in (1e-5, 0.0):
            y, mean, rstd = aten.native_layer_norm(x, [4], w, b, eps)
            aten.native_layer_norm_backward(y, x, [4], mean, rstd, w, b, [True, False, True])
            aten.native_batch_norm(x, w, b, w.clone(), b.clone(), True, 0.1, eps)
            aten._fused_rms_norm(x, [4], w, eps)
        with pytest.raises(RuntimeError):
            aten.native_layer_norm(x, [4], w, b[:3], 1e-5)
        with pytest.raises(RuntimeError):
            aten.native_group_norm(x, w, b, 3, 4, 1, 3, 1e-5)
        del y, mean, rstd
        gc.collect()
        assert [torch._C._storage_Use_Count(t.untyped_storage()._cdata) for t in (x, w, b)] == owners


# -- installing


def test_uninstall_restores_pytorchs_bits():
    x = torch.randn(64, 100)
    before = F.layer_norm(x, (100,))
    assert not nzt.is_installed()
    with nzt.installed():
        ours = F.layer_norm(x, (100,))
        nzt.install()
        with nzt.installed():
            assert nzt.is_installed()
        assert nzt.is_installed()
        assert torch.equal(F.layer_norm(x, (100,)), ours)
    assert not nzt.is_installed()
    assert torch.equal(F.layer_norm(x, (100,)), before)
    assert not torch.equal(ours, before)
    assert np.array_equal(ours.numpy(), nz.functional.layer_norm(x.numpy(), (100,)))
    nzt.uninstall()


def test_a_graph_lives_longer_than_its_installation():
    x = torch.randn(4, 9, dtype=torch.float64, requires_grad=True)
    expected = torch.autograd.grad((F.rms_norm(x, (9,)) ** 3).sum(), x)[0]
    with nzt.installed():
        of_ours = (F.layer_norm(x, (9,)) ** 3).sum()
    of_theirs = (F.layer_norm(x, (9,)) ** 3).sum()
    with nzt.installed():
        later = torch.autograd.grad(of_theirs, x)[0]
        assert torch.allclose(torch.autograd.grad((F.rms_norm(x, (9,)) ** 3).sum(), x)[0], expected)
    assert torch.allclose(torch.autograd.grad(of_ours, x)[0], later)


def test_install_says_nothing(capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nzt.install()
    assert capfd.readouterr() == ("", "")


def test_other_systems_get_one_message(monkeypatch):
    monkeypatch.setattr(interface, "missing", lambda: ["torch_parallel_for"])
    with pytest.raises(
        RuntimeError, match=r"C interface of torch 2\.\d+ to 2\.\d+, got torch 2\.\S+, which lacks torch_par"
    ):
        nzt.install()
    monkeypatch.setattr(registering.platform, "machine", lambda: "aarch64")
    with pytest.raises(
        RuntimeError, match=r"expected Linux on x86-64, got linux on aarch64; use normzoo.torch.convert"
    ):
        nzt.install()
    assert not nzt.is_installed()


def test_threads_of_python(installed):
    x = torch.randn(32, 40, 50)
    expected, wrong = F.layer_norm(x, (50,)), []

    def work(i):
        for n in range(2, 40):
            part = x[:, :n]
            if not torch.equal(F.layer_norm(part, (50,)), expected[:, :n]):
                wrong.append((i, n))

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_fork(installed):
    x = torch.randn(8, 50)
    expected = F.layer_norm(x, (50,))
    child = os.fork()
    if child == 0:
        ok = torch.equal(F.layer_norm(x, (50,)), expected) and F.layer_norm(x[:3], (50,)).shape == (3, 50)
        os._exit(0 if ok else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_a_full_table_costs_time_and_nothing_else(installed, monkeypatch):
    full = np.full_like(plans.table(), plans.table()[plans.table() != 0][:1][0]) if plans.table().any() else None
    F.layer_norm(torch.randn(2, 5), (5,))
    place = plans.table()
    before = place.copy()
    place[:] = place[place != 0][0] if full is None else full[0]
    try:
        x = torch.randn(6, 11)
        y = F.layer_norm(x, (11,))
    finally:
        place[:] = before
    assert np.array_equal(y.numpy(), nz.functional.layer_norm(x.numpy(), (11,)))


# -- PyTorch's own cases

# relative to the largest value: gradients of instances of few values are rounding times rstd
MODULES = {torch.float64: 1e-10, torch.float32: 5e-4, torch.float16: 5e-2, torch.bfloat16: 2e-1}
NAMES = (
    "nn.functional.layer_norm", "nn.functional.group_norm", "nn.functional.batch_norm", "nn.functional.instance_norm",
    "nn.functional.rms_norm", "native_layer_norm", "native_batch_norm", "_native_batch_norm_legit",
)  # fmt: skip


def op_infos():
    pytest.importorskip("expecttest")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_methods_invocations import op_db  # noqa: PLC0415
    return [op for op in op_db if op.name in NAMES]


def copied(t):
    return torch.empty_strided(t.shape, t.stride(), dtype=t.dtype).copy_(t.detach())


def laid_out(x):
    """x as it is, with gaps, and with channels last."""
    yield x
    if x.dim() > 0:
        yield torch.testing._internal.common_utils.noncontiguous_like(x)
    if x.dim() in (4, 5):
        form = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
        yield x.detach().to(memory_format=form).requires_grad_(x.requires_grad)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=lambda d: str(d)[6:]
)
def test_cases_of_pytorch(dtype):
    checked = 0
    for op in op_infos():
        if dtype not in op.supported_dtypes("cpu"):
            continue
        for sample in op.sample_inputs("cpu", dtype, requires_grad=True):
            for x in laid_out(sample.input):
                given = [x, *sample.args, *sample.kwargs.values()]

                def run(sample=sample, op=op, given=given):
                    state = [copied(g) if isinstance(g, torch.Tensor) else g for g in given]
                    copies = [
                        s.requires_grad_(g.requires_grad) if isinstance(g, torch.Tensor) else s
                        for s, g in zip(state, given, strict=True)
                    ]
                    count = len(sample.args)
                    named = dict(zip(sample.kwargs, copies[1 + count :], strict=True))
                    y = op(copies[0], *copies[1 : 1 + count], **named)
                    ys = y if isinstance(y, tuple) else (y,)
                    wanted = [c for c in copies if isinstance(c, torch.Tensor) and c.requires_grad]
                    torch.manual_seed(5)
                    grads = torch.autograd.grad(
                        ys[0], wanted, torch.randn(ys[0].shape).to(ys[0].dtype), allow_unused=True
                    )
                    return [*ys, *grads]

                same(run, {**TOLERANCES, torch.float32: 2e-4, torch.float16: 3e-2}[dtype], strides=False)
                checked += 1
    assert checked > 50


@pytest.mark.filterwarnings("ignore")
def test_errors_of_pytorchs_cases(installed):
    for op in op_infos():
        if op.error_inputs_func is None:
            continue
        for error in op.error_inputs("cpu"):
            sample = error.sample_input
            with pytest.raises(error.error_type, match=error.error_regex):
                op(sample.input, *sample.args, **sample.kwargs)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", TOLERANCES, ids=lambda d: str(d)[6:])
def test_modules_of_pytorch(dtype):
    pytest.importorskip("expecttest")
    from torch.testing._internal.common_modules import module_db  # noqa: PLC0415

    checked = 0
    for info in module_db:
        if "Norm" not in info.name or "Lazy" in info.name or "Response" in info.name:
            continue
        for training in (True, False):
            for case in info.module_inputs_func(info, "cpu", dtype, True, training):
                if case.forward_input is None:
                    continue
                made, given = case.constructor_input, case.forward_input

                def run(info=info, made=made, given=given, training=training):
                    torch.manual_seed(0)
                    m = info.module_cls(*made.args, **made.kwargs).to(dtype).train(training)
                    x = [a.detach().clone().requires_grad_() for a in given.args]
                    y = m(*x, **given.kwargs)
                    torch.manual_seed(6)
                    y.backward(torch.randn(y.shape, dtype=y.dtype))
                    return [y, *(a.grad for a in x), *(p.grad for p in m.parameters()), *m.state_dict().values()]

                same(run, MODULES[dtype], strides=False)
                checked += 1
    assert checked > 20
