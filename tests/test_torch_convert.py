"""Norms of other libraries in a converted model: recognised by what they compute, with their roundings, and taken back
exactly. Small classes of the same structure stand for the libraries; where one is installed, its own are tried, too."""

import copy
import importlib
import pickle
import warnings

import pytest

import normzoo as nz

torch = pytest.importorskip("torch")
nzt = importlib.import_module("normzoo.torch")
registry = importlib.import_module("normzoo.torch.registry")
nn, F = torch.nn, torch.nn.functional


@pytest.fixture(autouse=True)
def reference():
    """What is tested is the way there; kernels have tests of their own."""
    torch.manual_seed(0)
    with nz.use("reference"):
        yield


class _RMS(nn.Module):
    def __init__(self, size, eps=1e-6, activation="silu"):
        super().__init__()
        self.weight, self.variance_epsilon, self.eps = nn.Parameter(torch.ones(size)), eps, eps
        self.activation, self.with_scale, self.group_size = activation, True, 4


class AfterNorm(_RMS):  # Llama
    def forward(self, h):
        kind = h.dtype
        h = h.to(torch.float32)
        square = h.pow(2).mean(-1, keepdim=True)
        h = h * torch.rsqrt(square + self.variance_epsilon)
        return self.weight * h.to(kind)


class BeforeNorm(_RMS):  # OLMo
    def forward(self, h):
        kind = h.dtype
        h = h.to(torch.float32)
        square = h.pow(2).mean(-1, keepdim=True)
        h = h * torch.rsqrt(square + self.variance_epsilon)
        return (self.weight * h).to(kind)


class ShiftedNorm(_RMS):  # Gemma
    def _norm(self, h):
        return h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + self.eps)

    def forward(self, h):
        """The weight is kept around 0."""
        y = self._norm(h.float())
        y = y * (1.0 + self.weight.float())
        return y.type_as(h)


class InWeightsDtypeNorm(_RMS):  # T5
    def forward(self, h):
        square = h.to(torch.float32).pow(2).mean(-1, keepdim=True)
        h = h * torch.rsqrt(square + self.variance_epsilon)
        if self.weight.dtype in [torch.float16, torch.bfloat16]:
            h = h.to(self.weight.dtype)
        return self.weight * h


class GateFirstNorm(_RMS):  # Mamba 2, in groups
    def forward(self, h, gate=None):
        kind = h.dtype
        h = h.to(torch.float32)
        if gate is not None:
            h = h * nn.functional.silu(gate.to(torch.float32))
        *before, size = h.shape
        groups = size // self.group_size
        grouped = h.view(*before, groups, self.group_size)
        square = grouped.pow(2).mean(-1, keepdim=True)
        grouped = grouped * torch.rsqrt(square + self.variance_epsilon)
        h = grouped.view(*before, groups * self.group_size)
        return self.weight * h.to(kind)


ACT2FN = {"silu": F.silu, "sigmoid": torch.sigmoid, "relu": torch.relu}


class GatedNorm(_RMS):  # Qwen3-Next
    def forward(self, h, gate):
        kind = h.dtype
        h = h.to(torch.float32)
        square = h.pow(2).mean(-1, keepdim=True)
        h = h * torch.rsqrt(square + self.variance_epsilon)
        h = self.weight * h.to(kind)
        h = h * ACT2FN[self.activation](gate.to(torch.float32))
        return h.to(kind)


class ByFormatNorm(nn.LayerNorm):  # ConvNeXt
    def __init__(self, size, data_format="channels_first"):
        super().__init__(size)
        self.data_format = data_format

    def forward(self, h):
        if self.data_format == "channels_first":
            h = h.permute(0, 2, 3, 1)
            h = super().forward(h)
            h = h.permute(0, 3, 1, 2)
        else:
            h = super().forward(h)
        return h


class ChannelsNorm(nn.LayerNorm):  # torchvision
    def forward(self, h):
        h = h.permute(0, 2, 3, 1)
        h = F.layer_norm(h, self.normalized_shape, self.weight, self.bias, self.eps)
        h = h.permute(0, 3, 1, 2)
        return h


class FrozenNorm(nn.Module):  # torchvision
    def __init__(self, size):
        super().__init__()
        self.eps = 1e-5
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.ones(size))

    def forward(self, h):
        w = self.weight.reshape(1, -1, 1, 1)
        b = self.bias.reshape(1, -1, 1, 1)
        var = self.running_var.reshape(1, -1, 1, 1)
        mean = self.running_mean.reshape(1, -1, 1, 1)
        scale = w * (var + self.eps).rsqrt()
        shift = b - mean * scale
        return h * scale + shift


def fast_group_norm(*_):
    raise NotImplementedError


class ActivatedNorm(nn.GroupNorm):  # timm
    def __init__(self, size, act=nn.SiLU):
        super().__init__(2, size)
        self._fast_norm, self.drop, self.act = False, nn.Identity(), act()

    def forward(self, h):
        if self._fast_norm:
            h = fast_group_norm(h, self.num_groups, self.weight, self.bias, self.eps)
        else:
            h = F.group_norm(h, self.num_groups, self.weight, self.bias, self.eps)
        h = self.drop(h)
        h = self.act(h)
        return h


COPIES = (
    AfterNorm,
    BeforeNorm,
    ShiftedNorm,
    InWeightsDtypeNorm,
    GateFirstNorm,
    GatedNorm,
    ByFormatNorm,
    ChannelsNorm,
    FrozenNorm,
    ActivatedNorm,
)
for each in COPIES:  # where a forward pass was written is a part of what a class is known by
    each.forward.__module__ = "transformers.models.copied"
IMAGES = ByFormatNorm, ChannelsNorm, FrozenNorm, ActivatedNorm


def inputs(cls, dtype):
    shape = (2, 8, 3, 5) if cls in IMAGES else (2, 3, 8)
    return [torch.randn(shape).to(dtype).requires_grad_() for _ in range(2 if cls in (GateFirstNorm, GatedNorm) else 1)]


def perturbed(module):
    with torch.no_grad():
        for t in (*module.parameters(), *module.buffers()):
            t.copy_(torch.rand(t.shape) + 0.5)
    return module


@pytest.mark.parametrize(("weights", "dtype"), [
    (torch.float32, torch.float32), (torch.bfloat16, torch.bfloat16), (torch.float32, torch.bfloat16),
    (torch.bfloat16, torch.float32), (torch.float64, torch.float64),
], ids=str)  # fmt: skip
@pytest.mark.parametrize("cls", COPIES)
def test_a_known_class_is_taken_with_its_roundings(cls, weights, dtype):
    if issubclass(cls, nn.LayerNorm | nn.GroupNorm) and (weights, dtype) == (torch.bfloat16, torch.float32):
        pytest.skip("PyTorch's raise")
    theirs = perturbed(cls(8)).to(weights)
    ours, report = nzt.convert(copy.deepcopy(theirs), report=True)
    assert report.taken == {"": cls.__name__} and not report.left and isinstance(ours, cls)
    found = []
    x = inputs(cls, dtype)
    for module in (theirs, ours):
        y = module(*x)
        torch.manual_seed(1)
        given = [*x, *module.parameters()]
        found.append([y, *torch.autograd.grad(y, given, torch.randn(y.shape).to(y.dtype))])
    # neighbours in bfloat16 are 2^-7 of a value apart; a gradient is a sum of parts, each of which is rounded
    once = 2**-7 if torch.bfloat16 in (weights, dtype) else 1e-6
    for i, (a, b) in enumerate(zip(*found, strict=True)):
        assert a.dtype is b.dtype
        assert i or a.stride() == b.stride()  # what comes behind is faster in the one format than in the other
        scale = max(1.0, float(a.detach().abs().max()))
        torch.testing.assert_close(a.float(), b.float(), rtol=0, atol=(2 if i else 1) * once * scale)


def test_llamas_weight_comes_after_the_rounding():
    """One rounding fewer would be nearer to the exact result, and not what the model was trained with."""
    theirs = perturbed(AfterNorm(64)).bfloat16()
    x = torch.randn(100, 64).bfloat16()
    ours = nzt.convert(copy.deepcopy(theirs))
    assert (ours(x) == theirs(x)).float().mean() > 0.99
    at_once = nzt.functional.rms_norm(x, (64,), theirs.weight, 1e-6)
    assert (at_once == theirs(x)).float().mean() < 0.9


def test_what_computes_something_else_is_left_and_the_report_says_why():
    class OtherNorm(AfterNorm):
        def forward(self, h):
            return super().forward(h) + 1

    class LlamaRMSNorm(_RMS):  # the name of a known class
        def forward(self, h):
            return h * self.weight

    LlamaRMSNorm.forward.__module__ = "transformers.models.llama.modeling_llama"

    class HelpedNorm(ShiftedNorm):  # the method that forward calls is another one
        def _norm(self, h):
            return h

    replaced, parametrized, fast = AfterNorm(8), AfterNorm(8), ActivatedNorm(8)
    replaced.forward = lambda h: h
    nn.utils.parametrizations.weight_norm(parametrized, "weight", dim=None)
    fast._fast_norm = True
    model = nn.ModuleDict({
        "other": OtherNorm(8), "named": LlamaRMSNorm(8), "helped": HelpedNorm(8), "replaced": replaced, "fast": fast,
        "parametrized": parametrized, "act": GatedNorm(8, activation="relu"), "axes": AfterNorm((2, 8)),
        "own": type("OwnNorm", (nn.LayerNorm,), {})(8), "sync": nn.SyncBatchNorm(8), "same": AfterNorm(8), "no": nn.Linear(2, 2),
    })  # fmt: skip
    model, report = nzt.convert(model, report=True)
    assert report.taken == {"same": "AfterNorm"}
    reasons = {path: why for path, (_, why) in report.left.items()}
    for path, part in {
        "other": "write nzt.register(", "named": "its signature is not known; write nzt.register(LlamaRMSNorm, forward)",
        "helped": "its signature is not known", "replaced": "del module.forward", "fast": "set_fast_norm(False)",
        "parametrized": "remove_parametrizations", "act": "expected a gate's activation of silu, swish, sigmoid",
        "axes": "more axes than the one", "own": "a subclass of torch.nn.LayerNorm; if it computes the same",
        "sync": "normzoo has no torch.nn.SyncBatchNorm",
    }.items():  # fmt: skip
        assert part in reasons.pop(path), path
    assert "left: 1 " in str(report) and "taken: 1 AfterNorm" in str(report)


def test_it_warns_where_nothing_changes():
    model = nn.Sequential(nn.SyncBatchNorm(3), nn.Linear(3, 3))
    with pytest.warns(
        UserWarning, match=r"convert: changed nothing, as all 1 norms are left(.|\n)*SyncBatchNorm"
    ) as seen:
        nzt.convert(model)
    assert len(seen) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nzt.convert(nn.Linear(3, 3))
        nzt.convert(nzt.convert(nn.Sequential(nn.SyncBatchNorm(3), nn.LayerNorm(3))))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_revert_and_copies_are_exact():
    seen = []
    norm = AfterNorm(8).eval()
    norm.register_forward_hook(lambda *_: seen.append(1))
    model = nn.ModuleDict({"norm": norm, "act": ActivatedNorm(8)})
    held = {name: t.data_ptr() for name, t in model.state_dict(keep_vars=True).items()}
    text, attributes = repr(model), dict(norm.__dict__)
    nzt.convert(model)
    assert repr(model) == text and type(norm) is not AfterNorm and model["norm"] is norm
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(nzt.convert(nn.ModuleDict({"norm": AfterNorm(8)}))))):
        assert type(other["norm"]) is type(norm)
        torch.testing.assert_close(other["norm"](torch.ones(2, 8)), norm(torch.ones(2, 8)))
    assert seen and {name: t.data_ptr() for name, t in model.state_dict(keep_vars=True).items()} == held
    with pytest.raises(
        RuntimeError, match=r"got AfterNorm, which normzoo\.torch has converted; write torch\.jit\.trace"
    ):
        torch.jit.script(nn.Sequential(norm))
    nzt.revert(model)
    assert type(norm) is AfterNorm and type(model["act"]) is ActivatedNorm and norm.__dict__ == attributes


def test_arguments_have_the_names_of_the_class():
    norm, (h, gate) = perturbed(GatedNorm(8)), inputs(GatedNorm, torch.float32)
    expected = norm(h, gate)
    torch.testing.assert_close(nzt.convert(norm)(gate=gate, h=h), expected)
    with pytest.raises(TypeError, match="unexpected keyword argument 'x2'"):
        norm(h, gate, x2=1)


def test_an_activation_that_someone_watches_is_computed_by_its_module():
    norm, x, seen = nzt.convert(ActivatedNorm(8)), torch.randn(2, 8, 3, 5), []
    expected = norm(x)
    norm.act.register_forward_hook(lambda *_: seen.append(1))
    torch.testing.assert_close(norm(x), expected)
    assert seen
    norm.act, norm.drop = nn.Softshrink(), nn.Dropout(1.0)
    assert not norm(x).any()


def test_anyone_can_extend_it():
    class Mine(nn.LayerNorm):
        pass

    class Doubled(nn.Module):
        def forward(self, x, factor=2.0):
            return factor * F.layer_norm(x, x.shape[-1:])

    x = torch.randn(3, 8)
    model = nn.Sequential(Mine(8), Doubled())
    expected = model(x)
    nzt.register(Mine)
    nzt.register(Doubled, lambda self, x, factor=2.0: factor * nzt.functional.layer_norm(x, x.shape[-1:]))
    assert nzt.convert(model, report=True)[1].taken == {"0": "Mine", "1": "Doubled"}
    torch.testing.assert_close(model(x), expected)
    torch.testing.assert_close(model[1](x, factor=3.0), 1.5 * model[1](x))
    assert isinstance(model[0], nzt.LayerNorm) and type(nzt.revert(model)[0]) is Mine
    nzt.unregister(Doubled)
    assert nzt.convert(model, report=True)[1].taken == {"0": "Mine"}
    for arguments, error, message in (
        ((3,), TypeError, "register: expected cls to be a class of torch.nn.Module, got 3"),
        ((Doubled,), ValueError, "register: expected forward=, as the base class of .*Doubled is none of PyTorch's norms"),
        ((Doubled, 3), TypeError, "register: expected forward to be a function, got 3"),
        ((nn.LayerNorm,), ValueError, "register: expected a class that convert does not know, got LayerNorm"),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            nzt.register(*arguments)
    with pytest.raises(ValueError, match="unregister: expected a class that was registered"):
        nzt.unregister(Doubled)


# module, class, arguments, shapes of the inputs
REAL = [
    ("transformers.models.llama.modeling_llama", "LlamaRMSNorm", (8,), [(2, 3, 8)]),
    ("transformers.models.gemma3.modeling_gemma3", "Gemma3RMSNorm", (8,), [(2, 3, 8)]),
    ("transformers.models.t5.modeling_t5", "T5LayerNorm", (8,), [(2, 3, 8)]),
    ("transformers.models.qwen3.modeling_qwen3", "Qwen3RMSNorm", (8,), [(2, 3, 2, 8)]),
    ("transformers.models.qwen3_next.modeling_qwen3_next", "Qwen3NextRMSNormGated", (8,), [(2, 3, 8)] * 2),
    ("transformers.models.convnext.modeling_convnext", "ConvNextLayerNorm", (8,), [(2, 3, 5, 8)]),
    ("diffusers.models.normalization", "RMSNorm", (8, 1e-6), [(2, 3, 8)]),
    ("diffusers.models.normalization", "FP32LayerNorm", (8,), [(2, 3, 8)]),
    ("diffusers.models.normalization", "AdaGroupNorm", (6, 8, 2, "silu"), [(2, 8, 3, 5), (2, 6)]),
    *(("timm.layers", name, (8,), [(2, 8, 3, 5)]) for name in (
        "LayerNorm2d", "RmsNorm2d", "GroupNorm1", "BatchNormAct2d", "FrozenBatchNormAct2d", "GroupNorm1Act",
        "LayerNormAct2d",
    )),
    *(("timm.layers", name, (8,), [(2, 3, 8)]) for name in ("LayerNorm", "RmsNorm", "LayerNormAct")),
    ("torchvision.models.convnext", "LayerNorm2d", (8,), [(2, 8, 3, 5)]),
    ("torchvision.ops.misc", "FrozenBatchNorm2d", (8,), [(2, 8, 3, 5)]),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("where", "name", "arguments", "shapes"), REAL, ids=lambda v: v if isinstance(v, str) else "")
def test_the_libraries_own(where, name, arguments, shapes):
    found = pytest.importorskip(where, exc_type=(ImportError, RuntimeError))
    theirs = perturbed(getattr(found, name)(*arguments))
    ours, report = nzt.convert(copy.deepcopy(theirs), report=True)
    assert report.taken, str(report)
    x = [torch.randn(shape) for shape in shapes]
    torch.testing.assert_close(ours(*x), theirs(*x), rtol=1e-5, atol=1e-6)
