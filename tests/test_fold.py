"""Folded arrays do what the unfolded ones did, within the bound that comes with them, which is not a loose one."""

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

import normzoo as nz
from normzoo.exchange import fold
from tests import check
from tests.ranks import ThreadComm

KEPT = ["running_mean", "running_var", "weight", "bias"]


def convolution(x, weight, bias, groups=1, padding=0):
    """Of (N, C, H, W) by (O, C / groups, h, w), in float64."""
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    windows = sliding_window_view(x, weight.shape[2:], (2, 3))
    parts = zip(np.split(windows, groups, 1), np.split(weight.astype(np.float64), groups, 0), strict=True)
    y = np.concatenate([np.einsum("nchwij,ocij->nohw", v, w) for v, w in parts], 1)
    return y + (0 if bias is None else bias[:, None, None])


def transposed(x, weight, bias, groups=1):
    """The transposed convolution by (C, O / groups, h, w): every value is spread over h x w of the output; float64."""
    n, _, height, width = x.shape
    _, o, h, w = weight.shape
    y = np.zeros((n, o * groups, height + h - 1, width + w - 1))
    for group, (v, k) in enumerate(zip(np.split(x, groups, 1), np.split(weight, groups, 0), strict=True)):
        for i in range(h):
            for j in range(w):
                spread = np.einsum("nchw,co->nohw", v.astype(np.float64), k[:, :, i, j].astype(np.float64))
                y[:, group * o : (group + 1) * o, i : i + height, j : j + width] += spread
    return y + (0 if bias is None else bias[:, None, None])


def trained(norm, rng):
    """With statistics and parameters as after training, in evaluation."""
    held = norm.params | norm.buffers
    for name in KEPT:
        if name in held:
            a = held[name]
            a[...] = rng.uniform(0.1, 3, a.shape) if name == "running_var" else rng.standard_normal(a.shape)
    return norm.eval()


def within(found, expected, error, x):
    """Of shape (N, O, ...): the bound holds for every output."""
    limit = error * max(1.0, float(np.abs(x).max()))
    off = np.abs(found - expected).max(axis=tuple(i for i in range(found.ndim) if i != 1))
    assert (off <= limit).all(), f"{off / limit} of the bound"


def folded_conv(function, weight, bias, norm, x, rng, **options):
    """The folded convolution, and the norm behind the unfolded one, in exact arithmetic but for float64."""
    groups = options.get("groups", 1)
    result = fold.batch_norm_into(weight, bias, norm, **options)
    exact = nz.BatchNorm(len(result.bias), norm.eps, affine="weight" in norm.params, dtype=np.float64).eval()
    exact.load_state_dict(norm.state_dict() | {"num_batches_tracked": np.array(0)})
    within(function(x, result.weight, result.bias, groups), exact(function(x, weight, bias, groups)), result.error, x)
    return result


CONVOLUTIONS = [  # inputs, outputs, groups
    pytest.param(6, 8, 1, id="plain"),
    pytest.param(6, 8, 2, id="groups"),
    pytest.param(6, 6, 6, id="depthwise"),
    pytest.param(4, 12, 4, id="depthwise-multiplier"),
]


@pytest.mark.parametrize(("inputs", "outputs", "groups"), CONVOLUTIONS)
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_batch_norm_into_a_convolution(inputs, outputs, groups, affine, with_bias, dtype, rng):
    x = rng.standard_normal((2, inputs, 7, 6)).astype(dtype)
    weight = rng.standard_normal((outputs, inputs // groups, 3, 2)).astype(dtype)
    bias = rng.standard_normal(outputs).astype(dtype) if with_bias else None
    norm = trained(nz.BatchNorm(outputs, affine=affine, dtype=dtype), rng)
    found = folded_conv(convolution, weight, bias, norm, x, rng, groups=groups)
    assert found.weight.dtype == dtype and found.bias.dtype == dtype and found.weight.shape == weight.shape
    unit = {"float16": 2**-11, "float32": 2**-24, "float64": 2**-50}[dtype]
    size = np.abs(found.weight.astype(float)).sum((1, 2, 3)) + np.abs(found.bias.astype(float))
    assert (found.error <= unit * size * 1.01 + (1e-6 if dtype == "float16" else 1e-12)).all()


@pytest.mark.parametrize(("inputs", "outputs", "groups"), CONVOLUTIONS)
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_into_a_transposed_convolution(inputs, outputs, groups, affine, rng):
    x = rng.standard_normal((2, inputs, 5, 4)).astype(np.float32)
    weight = rng.standard_normal((inputs, outputs // groups, 3, 2)).astype(np.float32)
    norm = trained(nz.BatchNorm(outputs, affine=affine), rng)
    folded_conv(transposed, weight, None, norm, x, rng, groups=groups, layout="IOHW")


def test_torchs_convolutions(rng):
    """Those of a library, with the very arrays."""
    torch = pytest.importorskip("torch")
    for kind, layout, groups in [
        (torch.nn.Conv2d, "OIHW", 1), (torch.nn.Conv2d, "OIHW", 4), (torch.nn.ConvTranspose2d, "IOHW", 1),
        (torch.nn.ConvTranspose2d, "IOHW", 4), (torch.nn.Conv1d, "OIL", 2), (torch.nn.ConvTranspose3d, "IODHW", 2),
    ]:  # fmt: skip
        layer = kind(8, 12, 3, stride=2, padding=1, groups=groups)
        dims = len(layout) - 2
        theirs = getattr(torch.nn, f"BatchNorm{dims}d")(12).eval()
        norm = trained(nz.BatchNorm(12), rng)
        theirs.load_state_dict({name: torch.from_numpy(a) for name, a in norm.state_dict().items()})
        x = torch.randn((2, 8) + (7,) * dims, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            expected = theirs(layer(x)).numpy()
            found = fold.batch_norm_into(layer.weight.numpy(), layer.bias.numpy(), norm, layout=layout, groups=groups)
            layer.weight.copy_(torch.from_numpy(found.weight))
            layer.bias.copy_(torch.from_numpy(found.bias))
            check.close(layer(x).numpy(), expected, 2e-6)


@pytest.mark.parametrize(
    ("layout", "order", "shape", "groups"),
    [
        ("HWIO", (2, 3, 1, 0), (8, 6, 3, 2), 1),  # from OIHW
        ("HWIO", (2, 3, 1, 0), (8, 3, 3, 2), 2),
        ("HWOI", (2, 3, 0, 1), (8, 6, 3, 2), 1),
        ("IO", (1, 0), (8, 6), 1),
        ("OHWI", (0, 2, 3, 1), (8, 6, 3, 2), 1),
    ],
)
def test_layouts_agree(layout, order, shape, groups, rng):
    """A weight in another order of its axes is folded to the same values, by every function."""
    weight, bias = rng.standard_normal(shape).astype(np.float32), rng.standard_normal(8).astype(np.float32)
    plain = "OIHW"[: len(shape)]
    batch, layer = trained(nz.BatchNorm(8), rng), trained(nz.LayerNorm(6), rng)
    for apply in (
        lambda w, layout: fold.batch_norm_into(w, bias, batch, layout=layout, groups=groups),
        lambda w, layout: fold.affine_into(layer, w, bias, layout=layout, groups=groups, padded=False),
        lambda w, layout: fold.center_into(w, bias, layout=layout),
    ):
        first, second = apply(weight, plain), apply(np.ascontiguousarray(weight.transpose(order)), layout)
        check.close(second.weight, first.weight.transpose(order), 1e-7)
        check.close(second.bias, first.bias, 1e-6)
        check.close(second.error, first.error, 1e-12)


def test_keras_depthwise(rng):
    """(h, w, channels, multiplier): output channel * multiplier + m; PyTorch has (channels * multiplier, 1, h, w)."""
    weight = rng.standard_normal((3, 2, 4, 3)).astype(np.float32)
    norm = trained(nz.BatchNorm(12), rng)
    found = fold.batch_norm_into(weight, None, norm, layout="HWIO", groups=4)
    torchs = weight.transpose(2, 3, 0, 1).reshape(12, 1, 3, 2)
    expected = fold.batch_norm_into(torchs, None, norm, groups=4)
    check.same_bits(found.weight.transpose(2, 3, 0, 1).reshape(12, 1, 3, 2), expected.weight)
    check.same_bits(found.bias, expected.bias)
    check.close(found.error, expected.error, 1e-12)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        nz.BatchNorm,
        nz.FrozenBatchNorm,
        lambda c, **o: nz.GhostBatchNorm(c, 2, **o),
        lambda c, **o: nz.SyncBatchNorm(c, comm=ThreadComm({}, 0, 1), **o),
    ],
    ids=["batch", "frozen", "ghost", "sync"],
)
def test_batch_norm_into_a_linear_layer(affine, make, rng):
    options = {} if make is nz.FrozenBatchNorm else {"affine": affine}
    norm = trained(make(5, dtype=np.float64, **options), rng)
    x, weight, bias = rng.standard_normal((9, 7)), rng.standard_normal((5, 7)).astype(np.float32), rng.standard_normal(5).astype(np.float32)  # fmt: skip
    found = fold.batch_norm_into(weight, bias, norm, layout="OI")
    expected = norm(x @ weight.T.astype(np.float64) + bias)
    within(x @ found.weight.T.astype(np.float64) + found.bias, expected, found.error, x)


def test_batch_norm_behind_batch_norm(rng):
    for affine in (True, False):
        first, second = (trained(nz.BatchNorm(5, affine=affine), rng) for _ in range(2))
        x = rng.standard_normal((9, 5)) * 3 + 1
        found = fold.batch_norms(first, second)
        one = nz.BatchNorm(5, first.eps, dtype=np.float64).eval()
        plain = nz.BatchNorm(5, first.eps, affine=False, dtype=np.float64).eval()
        for norm in (one, plain):
            norm.buffers.update({name: a.astype(np.float64) for name, a in first.buffers.items() if a.ndim})
        one.params.update(weight=found.weight.astype(np.float64), bias=found.bias.astype(np.float64))
        within(one(x), doubled(second)(doubled(first)(x)), found.error, plain(x))


def doubled(norm):
    """The norm in float64."""
    for held in (norm.params, norm.buffers):
        held.update({name: a.astype(np.float64) for name, a in held.items() if a.ndim})
    return norm


@pytest.mark.parametrize(
    "make",
    [
        lambda: nz.LayerNorm(6), lambda: nz.LayerNorm(6, bias=False), lambda: nz.LayerNorm((2, 3)), lambda: nz.RMSNorm(6, 1e-6),
        lambda: nz.RMSNorm(6, 1e-6, offset=1.0), lambda: nz.LayerNorm(6, elementwise_affine=False),
    ],
    ids=["layer", "scale", "two-axes", "rms", "gemma", "none"],
)  # fmt: skip
@pytest.mark.parametrize("with_bias", [True, False])
def test_affine_into_the_next_linear_layer(make, with_bias, rng):
    norm = trained(make(), rng)
    weight = rng.standard_normal((5, 6)).astype(np.float32)
    bias = rng.standard_normal(5).astype(np.float32) if with_bias else None
    found = fold.affine_into(norm, weight, bias)
    x = rng.standard_normal((9, *norm.normalized_shape))
    old = 0 if bias is None else bias.astype(np.float64)
    expected = doubled(norm)(x).reshape(9, 6) @ weight.T.astype(np.float64) + old
    norm.params.clear()
    norm._plain = True
    xhat = norm(x).reshape(9, 6)
    within(xhat @ found.weight.T.astype(np.float64) + found.bias, expected, found.error, xhat)


@pytest.mark.parametrize("groups", [1, 2])
def test_affine_into_the_next_convolution(groups, rng):
    """Of GroupNorm; a bias passes only where there is no padding, a scale always."""
    weight, x = rng.standard_normal((4, 6 // groups, 3, 3)).astype(np.float32), rng.standard_normal((2, 6, 5, 5))
    norm = doubled(trained(nz.GroupNorm(2, 6), rng))
    plain = nz.GroupNorm(2, 6, affine=False)
    found = fold.affine_into(norm, weight, None, layout="OIHW", groups=groups, padded=False)
    within(
        convolution(plain(x), found.weight, found.bias, groups),
        convolution(norm(x), weight, None, groups),
        found.error,
        plain(x),
    )
    with pytest.raises(ValueError, match=r"no bias before a convolution with padding, got GroupNorm.*padded=False"):
        fold.affine_into(norm, weight, None, layout="OIHW", groups=groups)
    norm.bias[...] = 0
    found = fold.affine_into(norm, weight, None, layout="OIHW", groups=groups)
    expected = convolution(norm(x), weight, None, groups, padding=1)
    within(convolution(plain(x), found.weight, found.bias, groups, padding=1), expected, found.error, plain(x))


def test_layer_norm_becomes_rms_norm(rng):
    """The whole way: centre the layers that add to the stream, and the affine part into the next layer."""
    table, weight, bias = rng.standard_normal((11, 8)), rng.standard_normal((8, 8)), rng.standard_normal(8)
    head = rng.standard_normal((5, 8))
    norm, tokens = trained(nz.LayerNorm(8, dtype=np.float64), rng), np.arange(11)
    stream = table[tokens] + (table[tokens] @ weight.T + bias)
    expected = norm(stream) @ head.T
    embedded = fold.center_into(table, None, layout="IO").weight
    layer = fold.center_into(weight, bias)
    last = fold.affine_into(norm, head, None)
    stream = embedded[tokens] + (table[tokens] @ layer.weight.T + layer.bias)
    check.close(stream.mean(1), np.zeros(11), 1e-14)
    check.close(nz.RMSNorm(8, norm.eps, elementwise_affine=False)(stream) @ last.weight.T + last.bias, expected, 1e-12)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_bound_of_centring(dtype, rng):
    weight, bias, x = (
        rng.standard_normal((8, 6)).astype(dtype),
        rng.standard_normal(8).astype(dtype),
        rng.standard_normal((9, 6)),
    )
    found = fold.center_into(weight, bias)
    y = x @ weight.T.astype(np.float64) + bias
    within(x @ found.weight.T.astype(np.float64) + found.bias, y - y.mean(1, keepdims=True), found.error, x)


def test_the_bound_is_near_what_can_happen(rng):
    """The worst x, the signs of the roundings, comes within a factor of four."""
    weight, norm = rng.standard_normal((4, 200)).astype(np.float32), trained(nz.BatchNorm(4, affine=False), rng)
    found = fold.batch_norm_into(weight, None, norm, layout="OI")
    exact = weight.astype(np.float64) / np.sqrt(norm.running_var.astype(np.float64) + norm.eps)[:, None]
    off = np.abs(found.weight - exact).sum(1)
    assert (off <= found.error).all() and (off > found.error / 4).all()


def test_nothing_is_changed_and_float64_stays_exact(rng):
    weight, bias, norm = rng.standard_normal((4, 3)), rng.standard_normal(4), trained(nz.BatchNorm(4), rng)
    held = weight.copy(), bias.copy(), norm.state_dict()
    found = fold.batch_norm_into(weight, bias, norm, layout="OI")
    assert not np.shares_memory(found.weight, weight) and found.weight.dtype == np.float64
    check.same_bits(weight, held[0])
    check.same_bits(bias, held[1])
    for name, a in norm.state_dict().items():
        check.same_bits(a, held[2][name])
    assert (found.error < 1e-13).all()


W = np.ones((4, 3, 2, 2), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: fold.batch_norm_into(W, None, nz.LayerNorm(4)), TypeError, "batch_norm_into: expected a BatchNorm.*got LayerNorm"),
        (lambda: fold.batch_norm_into(W, None, nz.AlphaBatchNorm(4)), TypeError, "got AlphaBatchNorm"),
        (lambda: fold.batch_norm_into(W, None, nz.BatchNorm(4, track_running_stats=False)), ValueError, "write track_running_stats=True"),
        (lambda: fold.batch_norm_into(W, None, nz.BatchNorm(5)), ValueError, r"expected 5 outputs on axis O of weight.*got weight of shape \(4, 3, 2, 2\)"),
        (lambda: fold.batch_norm_into(W, None, nz.BatchNorm(8), groups=2), ValueError, "expected 8 outputs"),
        (lambda: fold.batch_norm_into(W, None, nz.BatchNorm(4), groups=3), ValueError, "groups that divide the outputs"),
        (lambda: fold.batch_norm_into(W, None, nz.BatchNorm(4), layout="OI"), ValueError, "a letter for each of 4 axes.*got 'OI'"),
        (lambda: fold.batch_norm_into(W, None, nz.BatchNorm(4), layout="OOHW"), ValueError, "one of them O and one I"),
        (lambda: fold.batch_norm_into(W, np.ones(3, np.float32), nz.BatchNorm(4)), ValueError, r"bias of shape \(4,\), got \(3,\)"),
        (lambda: fold.batch_norm_into(W.tolist(), None, nz.BatchNorm(4)), TypeError, "weight to be a NumPy array"),
        (lambda: fold.batch_norm_into(W.astype(np.float16), None, small(4)), ValueError, "values that float16 holds.*widen the weight"),
        (lambda: fold.batch_norms(nz.BatchNorm(4), nz.BatchNorm(5)), ValueError, "expected 5 outputs"),
        (lambda: fold.batch_norms(nz.BatchNorm(4), nz.LayerNorm(4)), TypeError, "batch_norms: expected two BatchNorms"),
        (lambda: fold.affine_into(nz.LayerNorm(4), W[:, :, 0, 0], None), ValueError, r"LayerNorm\(\(4,\)\)'s weight of 3 values"),
        (lambda: fold.affine_into(nz.BatchNorm(3), W[:, :, 0, 0], None), TypeError, "expected one of LayerNorm, RMSNorm"),
        (lambda: fold.center_into(W, None), ValueError, "a letter for each of 4 axes"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def small(features):
    norm = nz.BatchNorm(features, eps=0.0).eval()
    norm.running_var[...] = 1e-12
    return norm


@pytest.mark.parametrize(("x", "mean", "var", "weight", "expected"), [
    (1e37, 0, 0, 1e-3, 3.1622777e36), (3e38, -3e38, 1, 0.25, 1.5e38), (1e-30, 0, 1e38, 1e30, 1e-19),
])  # fmt: skip
def test_folding_agrees_with_evaluation_at_the_ends_of_float32(x, mean, var, weight, expected):
    """Where (x - mean) * rstd would leave float32 before the weight brings it back."""
    norm = nz.BatchNorm(1, eps=1e-5).eval()
    for name, value in (("running_mean", mean), ("running_var", var), ("weight", weight)):
        {**norm.params, **norm.buffers}[name][...] = value
    folded = fold.batch_norm_into(np.ones((1, 1), np.float32), None, norm, layout="OI")
    values = np.array([[x]], np.float32)
    check.close((values * folded.weight + folded.bias).item(), expected, 1e-5, expected)
    check.close(norm(values).item(), expected, 1e-5, expected)
