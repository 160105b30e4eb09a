"""Batch normalization folded into the layers before it: where that is proved right, as PyTorch's own folding, and within
the bound; where it is not, left and said."""

import copy
import importlib

import pytest

torch = pytest.importorskip("torch")
nzt = importlib.import_module("normzoo.torch")
nn = torch.nn


def drawn(model, dtype=torch.float32):
    """Every parameter and running statistic at random."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, t in [*model.named_parameters(), *model.named_buffers()]:
            if t.is_floating_point():
                t.copy_(torch.rand(t.shape) + 0.5 if "var" in name else torch.randn(t.shape) * 0.5)
    return model.eval().to(dtype)


LAYERS = {
    "Linear": (lambda: nn.Linear(6, 8), nn.BatchNorm1d, (5, 6)),
    "Conv1d": (lambda: nn.Conv1d(6, 8, 3, bias=False), nn.BatchNorm1d, (2, 6, 9)),
    "Conv2d": (lambda: nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d, (2, 6, 7, 7)),
    "Conv2d-groups": (lambda: nn.Conv2d(6, 8, 3, groups=2), nn.BatchNorm2d, (2, 6, 7, 7)),
    "Conv3d": (lambda: nn.Conv3d(6, 8, 2), nn.BatchNorm3d, (2, 6, 4, 4, 4)),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(6, 8, 3), nn.BatchNorm1d, (2, 6, 9)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(6, 8, 3, 2, output_padding=1), nn.BatchNorm2d, (2, 6, 5, 5)),
    "ConvTranspose2d-groups": (lambda: nn.ConvTranspose2d(6, 8, 3, groups=2, bias=False), nn.BatchNorm2d, (2, 6, 5, 5)),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(6, 8, 2), nn.BatchNorm3d, (2, 6, 3, 3, 3)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("converted", [False, True], ids=["torch", "converted"])
@pytest.mark.parametrize("name", LAYERS)
def test_it_is_the_model_within_the_bound(name, converted, dtype):
    make, norm, shape = LAYERS[name]
    model = drawn(nn.Sequential(make(), norm(8), nn.SiLU()), dtype)
    model = nzt.convert(model) if converted else model
    x = torch.randn(shape).to(dtype)
    folded, report = nzt.fold(model, x, report=True)
    assert report.taken == {"1": "0"} and not report.left and type(folded[1]) is nn.Identity
    assert type(model[1]) is not nn.Identity, "the model itself is unchanged"
    assert folded[0].weight.dtype is dtype and list(folded.state_dict()) == ["0.weight", "0.bias"]
    # in float64, what is left of the difference is what the folded arrays were rounded by
    wide, exact = (nzt.revert(copy.deepcopy(m)).double()[:2](x.double()) for m in (folded, model))
    assert (wide - exact).abs().max() <= report.error["0"] * max(1.0, float(x.double().abs().max())) + 1e-13
    torch.testing.assert_close(nzt.fold(model, x)(x), folded(x), rtol=0, atol=0)
    if (
        not converted and dtype is torch.float32 and name not in ("Linear", "ConvTranspose2d-groups")
    ):  # PyTorch's cannot
        theirs = nn.utils.fuse_conv_bn_eval(model[0], model[1], transpose="Transpose" in name)
        torch.testing.assert_close(theirs.weight, folded[0].weight, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(theirs.bias, folded[0].bias, rtol=1e-5, atol=1e-6)


class Block(nn.Module):
    """A residual block; `branches` decides by the input, so that torch.fx cannot trace it."""

    def __init__(self, branches=False):
        super().__init__()
        self.branches = branches
        self.conv1, self.bn1 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.act = nn.ReLU()

    def forward(self, x):
        y = self.act(self.bn1(self.conv1(x)))
        if self.branches and y.sum() < -1e30:
            return y
        return self.act(x + self.bn2(self.conv2(y)))


@pytest.mark.parametrize("branches", [False, True])
def test_blocks_through_a_graph_or_an_example(branches):
    model, x = drawn(nn.Sequential(Block(branches), Block(branches))), torch.randn(2, 4, 6, 6)
    if branches:
        with pytest.raises(
            ValueError, match=r"fold: expected a model that torch\.fx can trace(.|\n)*write fold\(model, x\)"
        ):
            nzt.fold(model)
    folded, report = nzt.fold(model, *([x] if branches else []), report=True)
    assert report.taken == {f"{i}.bn{j}": f"{i}.conv{j}" for i in (0, 1) for j in (1, 2)}
    torch.testing.assert_close(folded(x), model(x), rtol=1e-4, atol=1e-4)
    assert nzt.fold(model, x, inplace=True) is model and type(model[0].bn1) is nn.Identity


class Unsafe(nn.Module):
    """Pairs that only look like pairs."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.conv, self.bn, self.other = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)
        if how == "the same weight":
            self.other.weight = self.conv.weight
        if how == "no statistics":
            self.bn = nn.BatchNorm2d(4, track_running_stats=False)
        if how == "hooks":
            self.bn.register_forward_hook(lambda *_: None)

    def forward(self, x):  # noqa: PLR0911
        y = self.conv(x)
        if self.how == "used elsewhere":
            return self.bn(y) + y
        if self.how == "a view":
            return self.bn(y) + y[:, :1]
        if self.how == "returned":
            return self.bn(y), y
        if self.how == "twice":
            return self.bn(y) + self.conv(x + 1)
        if self.how == "between":
            return self.bn(torch.relu(y))
        if self.how == "in place":
            return self.bn(y.mul_(2))
        if self.how == "two layers":
            return self.bn(y) + self.bn(self.other(x))
        if self.how == "the weight":
            return self.bn(y) + self.conv.weight.sum()
        return self.bn(y) + self.other(x)


UNSAFE = (
    "used elsewhere", "a view", "returned", "twice", "between", "in place", "two layers", "the weight", "the same weight",
    "no statistics", "hooks",
)  # fmt: skip


@pytest.mark.parametrize("watched", [False, True], ids=["graph", "example"])
@pytest.mark.parametrize("how", UNSAFE)
def test_what_only_looks_like_a_pair_is_left(how, watched):
    model, x = drawn(Unsafe(how)), torch.randn(2, 4, 3, 3)
    folded, report = nzt.fold(model, *([x] if watched else []), report=True)
    assert not report.taken and list(report.left) == ["bn"] and report.left["bn"][1], how
    for a, b in zip(folded(x), model(x), strict=True):
        assert torch.equal(a, b)


def test_the_same_pair_is_taken_where_nothing_is_in_the_way():
    for example in ((), (torch.randn(2, 4, 3, 3),)):
        assert nzt.fold(drawn(Unsafe("")), *example, report=True)[1].taken == {"bn": "conv"}


def test_a_linear_layer_needs_its_rank():
    model = drawn(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)))
    assert "write fold(model, x)" in nzt.fold(model, report=True)[1].left["1"][1]
    x = torch.randn(2, 4, 3)  # the norm is over axis 1, the layer's outputs are on axis 2
    assert "another axis" in nzt.fold(model, x, report=True)[1].left["1"][1]


def test_training_and_other_things_are_refused_and_nothing_changes():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    with pytest.raises(
        ValueError, match=r"fold: expected a model in evaluation mode, got 1 in training; write model\.eval"
    ):
        nzt.fold(model, inplace=True)
    with pytest.raises(TypeError, match=r"fold: expected model to be a torch\.nn\.Module, got list"):
        nzt.fold([])
    model = drawn(model, torch.float16)
    with torch.no_grad():
        model[0].weight.fill_(6e4)
        model[1].running_var.fill_(1e-3)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    with pytest.raises(ValueError, match="expected folded values that float16 holds"):
        nzt.fold(model, inplace=True)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


@pytest.mark.filterwarnings("ignore")
def test_yolo_is_what_ultralytics_fuses():
    tasks = pytest.importorskip("ultralytics.nn.tasks")
    model, x = drawn(tasks.DetectionModel("yolov8n.yaml", verbose=False)), torch.randn(1, 3, 64, 64)
    folded, report = nzt.fold(model, x, report=True)
    assert len(report.taken) == sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()) and not report.left
    theirs = copy.deepcopy(model).fuse(verbose=False)
    for name, module in theirs.named_modules():
        if isinstance(module, nn.Conv2d):
            own = folded.get_submodule(name)
            torch.testing.assert_close(own.weight, module.weight, rtol=1e-4, atol=1e-5)
