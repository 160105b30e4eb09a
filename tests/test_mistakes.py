"""Mistakes as users make them: what the message says, to the letter, and that what it says to write works."""

import importlib
import re
from functools import partial
from typing import NamedTuple

import numpy as np
import pytest

import normzoo as nz


class Mistake(NamedTuple):
    """What a user writes, what the message says, and what the user writes then.

    `message` is the whole message, in which "..." stands for anything. Without a remedy the message only says what is
    expected, because what to write depends on the user's data."""

    code: str
    error: type[BaseException]
    message: str
    remedy: str = ""


M = Mistake
MISTAKES = [
    # shapes and types of x
    M("nz.BatchNorm(64)(image)", ValueError, "BatchNorm(64): expected x of shape (N, 64, ...), got (8, 32, 7, 7)"),
    M("nz.BatchNorm(64)(last)", ValueError,
      "BatchNorm(64): expected x of shape (N, 64, ...), got (8, 7, 7, 64); for channels on the last axis write channel_axis=-1",
      "nz.BatchNorm(64, channel_axis=-1)(last)"),
    M("norm(x.astype(int))", TypeError,
      "BatchNorm(3): expected x of dtype float16, bfloat16, float32 or float64, got int64; write x.astype(np.float32)",
      "norm(x.astype(int).astype(np.float32))"),
    M("norm(x.tolist())", TypeError,
      "BatchNorm(3): expected x to be a NumPy array, got list; write np.asarray(x, np.float32)",
      "norm(np.asarray(x.tolist(), np.float32))"),
    M("norm(x); norm.eval()(x[0])", ValueError,
      "BatchNorm(3): expected x of shape (N, 3, ...) and rank 2 or more, got (3,); for a single sample write x[None]",
      "norm(x); norm.eval()(x[0][None])"),
    M("nz.BatchNorm(1)(x[0])", ValueError,
      "BatchNorm(1): expected x of shape (N, 1, ...) and rank 2 or more, got (3,); for samples of one feature write x[:, None]",
      "nz.BatchNorm(1)(x[0][:, None])"),
    M("norm(frame)", TypeError,
      "BatchNorm(3): expected x to be a NumPy array, got DataFrame; write x.to_numpy().astype(np.float32)",
      "norm(frame.to_numpy().astype(np.float32))"),
    M("norm(sparse)", TypeError,
      "BatchNorm(3): expected x to be a NumPy array, got csr_matrix; write x.toarray()", "norm(sparse.toarray())"),
    # training and evaluation
    M("norm(x[:1])", ValueError,
      "BatchNorm(3): expected more than 1 value per channel in training, got x of shape (1, 3); use a larger batch or norm.eval()",
      "norm(x); norm.eval(); norm(x[:1])"),
    M("norm.eval()(x)", UserWarning,
      "BatchNorm(3): expected running statistics of at least one batch in evaluation, got mean 0 and variance 1 of 0 batches, so x is "
      "not normalized; train first, or write norm.load_state_dict(state) or nz.recalibrate(norm, batches)",
      "nz.recalibrate(norm, [x]); norm.eval()(x)"),
    M("nz.Standardize(3)(x)", RuntimeError,
      "Standardize(3): expected more than 0 values of a feature before it is used, got 0; write norm.adapt(batches) first",
      "nz.Standardize(3).adapt([x])(x)"),
    # the backward pass
    M("norm.backward(dy)", RuntimeError,
      "BatchNorm(3): expected a forward pass before backward; write y = norm(x) first", "y = norm(x); norm.backward(dy)"),
    M("h = x.copy(); h += ln(h); ln.backward(dy)", RuntimeError,
      "LayerNorm((3,)): expected x as it was in the forward pass, got other values: it was changed in place since; write h = h + norm(h) "
      "instead of h += norm(h), or norm(h.copy())",
      "h = x.copy(); h = h + ln(h); ln.backward(dy)"),
    M("ln(x, out=x); ln.backward(dy)", RuntimeError,
      "LayerNorm((3,)): expected the x of the forward pass, but it was overwritten in place; call the forward pass with another out, or "
      "run backward once",
      "ln(x, out=np.empty_like(x)); ln.backward(dy)"),
    M("norm(x); norm.backward(dy.T)", ValueError, "BatchNorm(3): expected dy of x's shape (4, 3), got (3, 4); write dy.T",
      "norm(x); norm.backward(dy.T.T)"),
    M("norm(x); norm.backward(dy[:, :1])", ValueError,
      "BatchNorm(3): expected dy of x's shape (4, 3), got (4, 1); write np.broadcast_to(dy, (4, 3))",
      "norm(x); norm.backward(np.broadcast_to(dy[:, :1], (4, 3)))"),
    M("norm(x); norm.backward(1.0)", TypeError,
      "BatchNorm(3): expected dy to be a NumPy array, got float; write np.asarray(dy, np.float32)"),
    M("norm(x); norm.backward(dy.astype(int))", TypeError,
      "BatchNorm(3): expected dy of dtype float16, bfloat16, float32 or float64, got int64; write dy.astype(np.float32)",
      "norm(x); norm.backward(dy.astype(int).astype(np.float32))"),
    M("norm.grads['weight']", KeyError,
      "\"BatchNorm(3): expected a backward pass before grads['weight'] is read; write norm.backward(dy) first\"",
      "norm(x); norm.backward(dy); norm.grads['weight']"),
    # constructors
    M("nz.GroupNorm(3, 64)", ValueError,
      "GroupNorm(3, 64): expected num_groups to divide the channels, got num_groups=3, num_channels=64; write num_groups=2 or num_groups=4",
      "nz.GroupNorm(num_groups=2, num_channels=64), nz.GroupNorm(num_groups=4, num_channels=64)"),
    M("nz.GroupNorm(64, 2)", ValueError,
      "GroupNorm(64, 2): expected num_groups to divide the channels, got num_groups=64, num_channels=2; did you swap them? write "
      "num_groups=2, num_channels=64",
      "nz.GroupNorm(num_groups=2, num_channels=64)"),
    M("F.group_norm(last, 5)", ValueError,
      "group_norm: expected num_groups to divide the channels, got num_groups=5, num_channels=7; write num_groups=1 or num_groups=7",
      "F.group_norm(last, num_groups=7)"),
    M("nz.BatchNorm(3, epsilon=1e-3)", TypeError, "BatchNorm: got an unexpected keyword argument 'epsilon'; did you mean 'eps'?",
      "nz.BatchNorm(3, eps=1e-3)"),
    M("nz.BatchNorm(3, data_format='channels_last')", TypeError,
      "BatchNorm: got an unexpected keyword argument 'data_format'; did you mean 'channel_axis'?", "nz.BatchNorm(3, channel_axis=-1)"),
    M("nz.BatchNorm(3, momentum=1.5)", ValueError,
      "BatchNorm(3): expected momentum in [0, 1], the weight of the new value, got 1.5; write momentum=0.1",
      "nz.BatchNorm(3, momentum=0.1)"),
    M("nz.BatchNorm(0)", ValueError,
      "BatchNorm: expected num_features >= 1, got 0; write num_features=x.shape[1], or of another axis",
      "nz.BatchNorm(num_features=x.shape[1])(x)"),
    M("nz.BatchNorm('64')", TypeError, "BatchNorm: expected num_features to be an integer, got '64'; write num_features=64",
      "nz.BatchNorm(num_features=64)"),
    M("nz.BatchNorm(64.0)", TypeError, "BatchNorm: expected num_features to be an integer, got 64.0; write num_features=64",
      "nz.BatchNorm(num_features=64)"),
    M("nz.BatchNorm(3, eps=-1)", ValueError, "BatchNorm(3): expected eps >= 0, got -1.0; write eps=1e-5", "nz.BatchNorm(3, eps=1e-5)"),
    M("nz.BatchNorm(3, eps=0)(x)", ValueError, "BatchNorm(3): expected eps > 0 ..."),
    # arguments of a call
    M("norm(x, msk=x > 0)", TypeError, "BatchNorm(3): got an unexpected keyword argument 'msk'; did you mean 'mask'?",
      "norm(x, mask=x > -9)"),
    M("norm(series, length=[5, 2, 1, 4])", TypeError,
      "BatchNorm(3): got an unexpected keyword argument 'length'; did you mean 'lengths'?", "norm(series, lengths=[5, 2, 1, 4])"),
    M("norm.forward(x, mask=x > -9)", TypeError,
      "BatchNorm(3): expected mask in a call of the norm, got it in forward; write norm(x, mask=...), or "
      "norm.forward(nz.select(x, mask=...))",
      "norm(x, mask=x > -9); norm.forward(nz.select(x, mask=x > -9))"),
    M("nz.BatchRenorm(3).forward(x, mask=x > -9)", TypeError,
      "BatchRenorm(3): takes no mask (the class does not declare masks = True); write norm(x) with an x all of whose values count, as "
      "x[keep] of samples is",
      "nz.BatchRenorm(3).forward(x[[True, True, False, True]])"),
    M("nz.BatchRenorm(3)(x, update_stat=False)", TypeError,
      "BatchRenorm(3): got an unexpected keyword argument 'update_stat'; did you mean 'update_stats'?",
      "nz.BatchRenorm(3)(x, update_stats=False)"),
    M("norm(x, mask=np.ones((4, 4), bool))", ValueError, "select: expected mask that broadcasts to x of shape (4, 3), got (4, 4)"),
    M("norm(x, mask=np.ones((4, 3), np.float32))", TypeError,
      "select: expected mask of booleans, got float32; write mask.astype(bool)",
      "norm(x, mask=np.ones((4, 3), np.float32).astype(bool))"),
    M("norm(series, lengths=[2, 3])", ValueError,
      "select: expected lengths of shape (4,), one for each sample of x, and length_axis not 0, got shape (2,) and length_axis=2",
      "norm(series, lengths=[2, 3, 5, 1])"),
    M("norm(x, mask=x > -9, masked='zeros')", ValueError,
      "select: expected masked to be one of 'zero', 'keep', 'normalize', got 'zeros'", "norm(x, mask=x > -9, masked='zero')"),
    M("nz.AdaptiveInstanceNorm()(series)", TypeError,
      "AdaptiveInstanceNorm(): expected style too, got none; write norm(x, style)", "nz.AdaptiveInstanceNorm()(series, series)"),
    M("nz.FiLM(channel_axis=1)(series)", TypeError,
      "FiLM(): expected gamma and beta too, got none; write norm(x, gamma, beta)", ""),
    # names
    M("nz.create('batchnorm', 3)", ValueError, "create: expected a name of list_norms(), got 'batchnorm'; did you mean 'batch_norm'?",
      "nz.create('batch_norm', 3)"),
    M("nz.create('batch_nrom', 3)", ValueError, "create: expected a name of list_norms(), got 'batch_nrom'; did you mean 'batch_norm'?",
      "nz.create('batch_norm', 3)"),
    M("nz.create('BatchNormalization', 3)", ValueError,
      "create: expected a name of list_norms(), got 'BatchNormalization'; write dialect='keras' or dialect='onnx' beside a name of theirs",
      "nz.create('BatchNormalization', 3, dialect='keras')"),
    M("nz.describe(norm, 'pytorch')", ValueError,
      "BatchNorm(3): expected dialect to be one of 'torch', 'flax', 'keras', 'onnx', got 'pytorch'", "nz.describe(norm, 'torch')"),
    M("nz.BatchNorm2d(3)", AttributeError,
      "module 'normzoo' has no attribute 'BatchNorm2d'; write normzoo.BatchNorm or, for tensors, normzoo.torch.BatchNorm2d",
      "nz.BatchNorm(3)"),
    M("norm.weigth = x[0]", AttributeError, "BatchNorm(3): has no weigth to set; write norm.weight", "norm.weight = x[0]"),
    M("norm.weight = x", ValueError, "BatchNorm(3): expected weight of shape (3,), got (4, 3)"),
    M("norm.weight = [1, 2, 3]", TypeError,
      "BatchNorm(3): expected weight to be a NumPy array, got list; write np.asarray(weight, np.float32)",
      "norm.weight = np.asarray([1, 2, 3], np.float32)"),
    # state and files
    M("norm.load_state_dict(prefixed)", ValueError,
      "BatchNorm(3): expected state with ['weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked'], got "
      "missing=['weight', 'bias', 'running_mean', 'running_var'], unexpected=['bn.weight', 'bn.bias', 'bn.running_mean', "
      "'bn.running_var', 'bn.num_batches_tracked']; write {name.removeprefix('bn.'): a for name, a in state.items() if 'bn.' in name}",
      "norm.load_state_dict({name.removeprefix('bn.'): a for name, a in prefixed.items() if 'bn.' in name})"),
    M("nz.load(junk)", ValueError,
      "load: junk.npz: expected an npz file of plain arrays, as nz.save(path, norm) writes, got a file that cannot be read as one "
      "(File is not a zip file)",
      "nz.save(junk, norm); nz.load(junk)"),
    M("nz.load('state.txt')", ValueError, "load: expected a path that ends in .safetensors or .npz, got 'state.txt'"),
    M("nz.load(stem, into={'head': norm})", ValueError,
      "load: stem.npz: head: BatchNorm(3): expected state with [...], got missing=[...], unexpected=[]; the file has 'stem', write "
      "into={'stem': norm}",
      "nz.load(stem, into={'stem': norm})"),
    # tensors
    M("norm(torch.ones(4, 3).requires_grad_())", TypeError,
      "BatchNorm(3): expected x to be a NumPy array, got Tensor; use normzoo.torch, whose norms take tensors, or write "
      "x.detach().numpy()",
      "norm(torch.ones(4, 3).requires_grad_().detach().numpy())"),
    M("ln.load_state_dict(torch.nn.LayerNorm(3).state_dict())", TypeError,
      "LayerNorm((3,)): expected weight to be a NumPy array, got Tensor; use normzoo.torch, whose norms take tensors, or write "
      "weight.detach().numpy()",
      "ln.load_state_dict({name: a.detach().numpy() for name, a in torch.nn.LayerNorm(3).state_dict().items()})"),
    M("nzt.BatchNorm1d(3)(x)", TypeError,
      "BatchNorm1d: expected input to be a tensor, got ndarray; write torch.as_tensor(input), or use normzoo.BatchNorm",
      "nzt.BatchNorm1d(3)(torch.as_tensor(x)); nz.BatchNorm(3)(x)"),
    M("nzt.InstanceNorm1d(3)(series)", TypeError,
      "InstanceNorm1d: expected input to be a tensor, got ndarray; write torch.as_tensor(input), or use normzoo.InstanceNorm",
      "nzt.InstanceNorm1d(3)(torch.as_tensor(series)); nz.InstanceNorm(3)(series)"),
    M("nzt.LayerNorm(3)(x)", TypeError, "...: expected input to be a tensor, got ndarray; write torch.as_tensor(input)...",
      "nzt.LayerNorm(3)(torch.as_tensor(x)); nz.LayerNorm(3)(x)"),
]  # fmt: skip
RIGHT = [  # was an error, or wrong without one
    "nz.create('BatchNorm2d', 3)",
    "nz.create('BatchNorm2d', 3, dialect='torch')",
    "assert nz.describe(norm, 'torch').name == 'BatchNorm2d'",
    "assert nz.Standardize(3).adapt([x])(x).shape == x.shape",
    "norm(x); assert (norm.backward(dy) == norm.backward(dy)).all()",
    "nz.BatchNorm(3, eps=0).eval()(x)",
]


@pytest.fixture
def names(tmp_path):
    """What is at hand for whoever makes the mistakes."""
    r = np.random.default_rng(0)
    f32 = partial(r.standard_normal, dtype=np.float32)
    norm = nz.BatchNorm(3)
    (tmp_path / "junk.npz").write_bytes(b"junk")
    nz.save(tmp_path / "stem.npz", {"stem": norm})
    return {
        "nz": nz, "np": np, "F": nz.functional, "norm": norm, "ln": nz.LayerNorm(3),
        "x": f32((4, 3)), "dy": f32((4, 3)), "series": f32((4, 3, 5)), "image": f32((8, 32, 7, 7)), "last": f32((8, 7, 7, 64)),
        "prefixed": {f"bn.{name}": a for name, a in norm.state_dict().items()},
        "junk": tmp_path / "junk.npz", "stem": tmp_path / "stem.npz",
    }  # fmt: skip


def with_packages(names, code):
    """`names`, and what the code needs of packages that may not be installed."""
    x = names["x"]
    if "frame" in code:
        names["frame"] = pytest.importorskip("pandas").DataFrame(x)
    if "sparse" in code:
        names["sparse"] = pytest.importorskip("scipy.sparse").csr_matrix(x)
    if "torch" in code or "nzt" in code:
        names["torch"] = pytest.importorskip("torch")
        names["nzt"] = importlib.import_module("normzoo.torch")
    return names


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: m.code)
@pytest.mark.filterwarnings("error")
def test_a_mistake_is_explained_and_its_remedy_works(mistake, names):
    found = with_packages(names, mistake.code)
    with pytest.raises(mistake.error) as raised:
        exec(mistake.code, found)
    assert type(raised.value) is mistake.error
    pattern = ".*".join(map(re.escape, mistake.message.split("...")))
    said = str(raised.value)
    assert said == mistake.message or re.fullmatch(pattern, said), said
    exec(mistake.remedy, found)


def test_messages_name_the_remedy():
    """All but those that depend on the user's data say what to write, and it is what the test above runs."""
    words = re.compile(
        r"\bwrite |did you mean |one of '|use a larger batch|as nz\.save\(path, norm\) writes|call the forward pass with|expected lengths of"
    )
    assert [m.code for m in MISTAKES if m.remedy and not words.search(m.message)] == []


@pytest.mark.parametrize("code", RIGHT)
def test_what_is_right_now(code, names):
    exec(code, with_packages(names, code))


def test_the_warning_of_evaluation_points_to_the_users_line(names):
    norm, x = names["norm"].eval(), names["x"]
    with pytest.warns(UserWarning, match="expected running statistics of at least one batch") as found:
        norm(x)
    assert found[0].filename == __file__
    with pytest.warns(UserWarning, match="expected running statistics") as found:
        nz.BatchNorm(3).eval().forward(x)
    assert found[0].filename == __file__


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("change", ["running_mean", "running_var", "num_batches_tracked"])
def test_statistics_that_somebody_set_are_used_without_a_warning(change, names):
    norm = names["norm"]
    norm.buffers[change] += 1
    norm.eval()(names["x"])
    nz.BatchNorm(3, track_running_stats=False).eval()(names["x"])
    nz.functional.batch_norm(names["x"], np.zeros(3, np.float32), np.ones(3, np.float32))
