"""The functional norms inside compiled code: the bits of a call from Python, its gradients, and errors when compiling."""

import subprocess
import sys

import numba
import numpy as np
import pytest
from numba.core.errors import TypingError

import normzoo as nz
import normzoo.njit
from normzoo.backends.cpu.compiling.jit import kernel
from normzoo.backends.cpu.vector.access import put
from normzoo.backends.cpu.vector.workspaces import workspace
from normzoo.njit.kernels import by_address, fit_sizes
from normzoo.passes.view import KINDS, Axes, fit
from tests import check

F = nz.functional
assert normzoo.njit.__all__


@numba.njit
def layer_norm(x, shape, w, b, dy):
    y, saved = F.layer_norm(x, shape, w, b, return_saved=True)
    return y, saved.backward(dy)


@numba.njit
def rms_norm(x, shape, w, b, dy):
    y, saved = F.rms_norm(x, shape, w, return_saved=True)
    return y, saved.backward(dy)


@numba.njit
def group_norm(x, groups, w, b, dy):
    y, saved = F.group_norm(x, groups, w, b, 1e-3, return_saved=True)
    return y, saved.backward(dy)


@numba.njit
def instance_norm(x, stats, w, b, dy):
    y, saved = F.instance_norm(x, stats[0], stats[1], w, b, True, 0.3, return_saved=True)
    return y, saved.backward(dy)


@numba.njit
def batch_norm(x, stats, w, b, dy):
    y, saved = F.batch_norm(x, stats[0], stats[1], w, b, True, 0.3, return_saved=True)
    return y, saved.backward(dy)


@numba.njit
def batch_norm_plain(x, stats, w, b, dy):
    y, saved = F.batch_norm(x, None, None, training=True, return_saved=True)
    return y, saved.backward(dy)


@numba.njit
def batch_norm_eval(x, stats, w, b, dy):
    y, saved = F.batch_norm(x, stats[0], stats[1], w, b, return_saved=True)
    return y, saved.backward(dy)


@numba.njit
def instance_norm_eval(x, stats, w, b, dy):
    y, saved = F.instance_norm(x, stats[0], stats[1], w, b, False, return_saved=True)
    return y, saved.backward(dy)


def statistics(c):
    return np.stack([np.arange(c), np.arange(c) + 2.0])


# the compiled function, its second argument, shape of x, shape of the parameters or None
CASES = [
    (layer_norm, (37,), (3, 5, 37), (37,)),
    (layer_norm, 37, (5, 37), (37,)),
    (layer_norm, (5, 7), (3, 5, 7), (5, 7)),
    (layer_norm, (1,), (9, 1), (1,)),
    (layer_norm, (2,), (9, 2), (2,)),
    (layer_norm, (5000,), (3, 5000), (5000,)),
    (layer_norm, (17,), (1, 17), (17,)),
    (layer_norm, (17,), (0, 17), (17,)),
    (layer_norm, (17,), (4, 17), None),
    (rms_norm, (31,), (6, 31), (31,)),
    (rms_norm, (2,), (6, 2), (2,)),
    (group_norm, 3, (2, 6, 5, 7), (6,)),
    (group_norm, 3, (2, 6), (6,)),
    (group_norm, 1, (2, 6, 9), (6,)),
    (group_norm, 6, (2, 6, 300), (6,)),
    (group_norm, 2, (1, 40, 300), (40,)),
    (group_norm, 2, (3, 34, 1, 1), (34,)),
    (group_norm, 2, (3, 8, 11), None),
    (instance_norm, statistics(4), (3, 4, 19), (4,)),
    (instance_norm, statistics(4), (1, 4, 5, 300), (4,)),
    (instance_norm, statistics(1), (5, 1, 40), (1,)),
    (batch_norm, statistics(5), (17, 5), (5,)),
    (batch_norm, statistics(5), (2, 5), (5,)),
    (batch_norm, statistics(40), (900, 40), (40,)),
    (batch_norm, statistics(18), (5, 18, 7, 7), (18,)),
    (batch_norm, statistics(3), (1, 3, 400), (3,)),
    (batch_norm, statistics(1), (3, 1, 31), (1,)),
    (batch_norm, statistics(6), (4, 6, 20, 20), (6,)),
    (batch_norm_plain, statistics(5), (17, 5, 3), None),
    (batch_norm_eval, statistics(5), (17, 5), (5,)),
    (batch_norm_eval, statistics(5), (4, 5, 300), (5,)),
    (instance_norm_eval, statistics(5), (700, 5, 3), (5,)),
    (instance_norm_eval, statistics(5), (17, 5), (5,)),
    (instance_norm_eval, statistics(5), (3, 5, 300), None),
]
# The first of each function with parameters; a compilation of the others' takes seconds, once a signature.
QUICK = {0, 9, 12, 18, 21, 29, 31}
IDS = [f"{f.py_func.__name__}-{'x'.join(map(str, shape))}{'' if p else '-plain'}" for f, _, shape, p in CASES]


@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("function", "argument", "shape", "parameters"),
    [
        pytest.param(*case, id=name, marks=[] if i in QUICK else pytest.mark.slow)
        for i, (case, name) in enumerate(zip(CASES, IDS, strict=True))
    ],
)
def test_bits_are_those_of_a_call_from_python(function, argument, shape, parameters, dtype, rng):
    x, dy = (3 * rng.standard_normal((2, *shape)) + 1).astype(dtype)
    w = b = None
    if parameters is not None:
        w, b = rng.standard_normal((2, *parameters)).astype(dtype)
    found, expected = [], []
    for call, results in ((function, found), (function.py_func, expected)):
        held = argument.astype(dtype) if isinstance(argument, np.ndarray) else argument
        y, grads = call(x, held, w, b, dy)
        results += [y, *grads, held if isinstance(argument, np.ndarray) else None]
        assert grads._fields == ("x", "weight", "bias")
    for mine, theirs in zip(found, expected, strict=True):
        if theirs is None:
            assert mine is None
        else:
            check.same_bits(mine, theirs)


def test_gradients_are_right(rng):
    x, dy = rng.standard_normal((2, 6, 5))
    w, b = rng.standard_normal((2, 5))
    grads = layer_norm(x, (5,), w, b, dy)[1]
    at = {"x": lambda v: (v, w, b), "weight": lambda v: (x, v, b), "bias": lambda v: (x, w, v)}
    for name, start in (("x", x), ("weight", w), ("bias", b)):
        direction = rng.standard_normal(start.shape)
        up, down = (layer_norm(*_order(at[name](start + s * direction)), dy)[0] for s in (1e-6, -1e-6))
        slope = ((up - down) * dy).sum() / 2e-6
        assert abs((getattr(grads, name) * direction).sum() - slope) < 1e-7 * (1 + abs(slope))


def _order(arrays):
    x, w, b = arrays
    return x, (5,), w, b


@pytest.mark.slow
def test_inside_prange(rng):
    @numba.njit(parallel=True)
    def many(x, w, b, dy):
        y, dx = np.empty_like(x), np.empty_like(x)
        for i in numba.prange(x.shape[0]):
            y[i], saved = F.layer_norm(x[i], (x.shape[2],), w, b, return_saved=True)
            dx[i] = saved.backward(dy[i]).x
        return y, dx

    x, dy = rng.standard_normal((2, 40, 9, 33)).astype(np.float32)
    w, b = rng.standard_normal((2, 33)).astype(np.float32)
    y, saved = F.layer_norm(x, (33,), w, b, return_saved=True)
    found = many(x, w, b, dy)
    check.same_bits(found[0], y)
    check.same_bits(found[1], saved.backward(dy).x)


@numba.njit
def without_saving(x, w):
    return F.rms_norm(x, (x.shape[-1],), w)


def test_y_alone(rng):
    x = rng.standard_normal((4, 21)).astype(np.float32)
    check.same_bits(without_saving(x, x[0].copy()), F.rms_norm(x, (21,), x[0].copy()))


BENT = nz.Activation("bent", lambda v: v * v + v, lambda v: v + v + 1.0)
LEAKY = nz.Activation("leaky", lambda v: v * 0.5, lambda v: v * 0.0 + 0.5)


@numba.njit
def after_residual(x, z, w, b, dy, ds):
    (y, s), saved = F.layer_norm(
        x, (x.shape[-1],), w, b, return_saved=True, residual=z, activation="silu", residual_scale=0.5
    )
    return y, s, saved.backward(dy, ds=ds)


@numba.njit
def after_residual_with_gate(x, z, w, b, dy, ds):
    (y, s), saved = F.rms_norm(x, (x.shape[-1],), w, return_saved=True, residual=z, gate=ds, activation=BENT)
    return y, s, saved.backward(dy)


@numba.njit
def gate_is_first(x, z, w, b, dy, ds):
    y, saved = F.group_norm(x, 2, w, b, return_saved=True, gate=z, gate_first=True, activation="silu")
    return y, y, saved.backward(dy)


@numba.njit
def in_groups(x, z, w, b, dy, ds):
    (y, s), saved = F.group_norm(x, 3, w, b, return_saved=True, residual=z, add=ds, activation="gelu")
    return y, s, saved.backward(dy, ds=dy)


@numba.njit
def in_batches(x, z, w, b, dy, ds):
    y, saved = F.batch_norm(x, None, None, w, b, True, return_saved=True, add=z, activation="relu")
    return y, y, saved.backward(dy)


@numba.njit
def in_evaluation(x, z, w, b, dy, ds):
    y, saved = F.batch_norm(x, w, b * b, None, b, return_saved=True, activation="leaky_relu(0.2)")
    return y, y, saved.backward(dy)


@numba.njit
def in_instances(x, z, w, b, dy, ds):
    y, saved = F.instance_norm(x, return_saved=True, gate=z)
    return y, y, saved.backward(dy)


AROUND = [
    (after_residual, (6, 37)),
    (after_residual, (9, 2)),
    (after_residual, (3, 5000)),
    (after_residual, (0, 17)),
    (after_residual_with_gate, (4, 5, 31)),
    (gate_is_first, (2, 8, 11)),
    (gate_is_first, (3, 34)),
    (gate_is_first, (2, 6, 300)),
    (in_groups, (2, 6, 5, 7)),
    (in_batches, (17, 5)),
    (in_batches, (900, 40)),
    (in_batches, (5, 18, 7, 7)),
    (in_batches, (1, 3, 400)),
    (in_evaluation, (4, 5, 300)),
    (in_evaluation, (17, 5)),
    (in_instances, (3, 4, 19)),
    (in_instances, (5, 1, 400)),
]


@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("function", "shape"),
    [
        pytest.param(f, s, id=f"{f.py_func.__name__}-{'x'.join(map(str, s))}", marks=() if i < 4 else pytest.mark.slow)
        for i, (f, s) in enumerate(AROUND)
    ],
)
def test_what_stands_around_has_the_bits_of_a_call_from_python(function, shape, dtype, rng):
    x, z, dy, ds = (2 * rng.standard_normal((4, *shape)) + 0.5).astype(dtype)
    last = function in (after_residual, after_residual_with_gate)
    w, b = rng.standard_normal((2, shape[-1] if last else shape[1])).astype(dtype)
    (y, s, grads), (y_again, s_again, again) = (
        call(*(a.copy() for a in (x, z, w, b, dy, ds))) for call in (function, function.py_func)
    )
    check.same_bits(y, y_again)
    check.same_bits(s, s_again)
    names = {*grads._fields, "x", *again.others}
    for name in names:
        mine, theirs = getattr(grads, name), getattr(again, name)
        assert (mine is None) == (theirs is None), name
        if mine is not None:
            check.same_bits(mine, theirs)
    assert set(grads._fields[3:]) == set(again.others)


@pytest.mark.slow
def test_an_activation_of_ones_own_is_an_argument_too(rng):
    """Two of one name are two."""
    x = rng.standard_normal((5, 8)).astype(np.float32)

    @numba.njit
    def y_of(x, act):
        return F.rms_norm(x, (8,), activation=act)

    for act in (BENT, LEAKY._replace(name="bent")):
        check.same_bits(y_of(x, act), F.rms_norm(x, (8,), activation=act))


X = np.zeros((4, 6), np.float32)
COMPILING = [
    (lambda x: F.layer_norm(x, (6,)), X.T, "expected x to be a C-contiguous array of float32 or float64"),
    (lambda x: F.layer_norm(x, (6,)), np.zeros((4, 6), np.int64), "expected x to be a C-contiguous array of float32"),
    (lambda x: F.layer_norm(x, (6,)), 3.0, "expected x to be a C-contiguous array"),
    (lambda x: F.layer_norm(x, 6.0), X, "expected normalized_shape to be an integer or a tuple of integers"),
    (lambda x: F.layer_norm(x, (6,), axis=0), X, "axis= is not supported in compiled code"),
    (lambda x: F.layer_norm(x, (6,), out=x), X, "out= is not supported in compiled code"),
    (lambda x: F.layer_norm(x, (6,), np.ones(6)), X, "expected weight of x's dtype float32, got float64"),
    (lambda x: F.layer_norm(x, (6,), np.ones((1, 6), np.float32)), X, "expected weight of normalized_shape, 1 dimensions"),
    (lambda x: F.batch_norm(x, None, None, training=x[0, 0] > 0), X, "expected training to be written as True or False"),
    (lambda x: F.batch_norm(x, None, None), X, "expected running_mean and running_var where"),
    (lambda x: F.batch_norm(x, x[0], None, training=True), X, "expected running_mean and running_var, or neither"),
    (lambda x: F.group_norm(x, 2, channel_axis=-1), X, "channel_axis= is not supported in compiled code"),
    (lambda x: F.layer_norm(x, (6,), residual=x[0]), X, "layer_norm: expected residual of x's 2 dimensions in compiled code, got 1"),
    (lambda x: F.layer_norm(x, (6,), residual=x, residual_out=x), X, "layer_norm: residual_out= is not supported in compiled code; write y, s = "),
    (lambda x: F.rms_norm(x, (6,), gate=x, add=x), X, "rms_norm: expected add or gate, got both"),
    (lambda x: F.rms_norm(x, (6,), gate=np.ones((4, 6))), X, "rms_norm: expected gate of x's dtype float32, got float64"),
    (lambda x: F.group_norm(x, 2, gate_first=True), X, "group_norm: expected a gate, as gate_first=True, got none"),
    (lambda x: F.group_norm(x, 2, gate=x, gate_first=x[0, 0] > 0), X, "expected gate_first to be written as True or False"),
    (lambda x: F.instance_norm(x, activation="rely"), X, "instance_norm: expected an activation of"),
    (lambda x: F.layer_norm(x, (6,), activation="threshold", tau=x), X, "layer_norm: tau= is not supported in compiled code"),
    (lambda x: F.layer_norm(x, (6,), activation="threshold"), X, "layer_norm: expected tau with activation 'threshold'"),
    (lambda x: F.instance_norm(x, activation=3), X, "instance_norm: expected activation to be written as a name"),
    (lambda x: F.layer_norm(x, (6,), axes=0), X, "layer_norm: got an unexpected keyword argument 'axes'"),
    (lambda x: F.layer_norm(x, (6,), return_saved=True)[1].backward(x, ds=x), X, "layer_norm: expected ds where a residual was added"),
    (lambda x: F.layer_norm(x, (6,), return_saved=True)[1].backward(x, x), X, "layer_norm: out= is not supported in compiled code"),
    (lambda x: F.layer_norm(x, (6,), return_saved=True)[1].backward(x[0]), X, "expected dy to be a C-contiguous float32"),
]  # fmt: skip


@pytest.mark.parametrize(("function", "x", "message"), COMPILING)
def test_errors_when_compiling(function, x, message):
    with pytest.raises(TypingError) as raised:
        numba.njit(function)(x)
    assert message in str(raised.value)


# Of the types that the functions above are compiled for already.
THREE, W5, W6 = np.zeros((2, 4, 6), np.float32), np.ones(5, np.float32), np.ones(6, np.float32)
STATS = np.ones((2, 6), np.float32)
RUNNING = [
    (layer_norm, (THREE, (5,), W5, W5, THREE), "layer_norm: expected x of shape"),
    (layer_norm, (THREE, (6,), W5, W5, THREE), "layer_norm: expected weight and bias"),
    (layer_norm, (THREE, (6,), W6, W6, THREE[:1]), "layer_norm: expected dy of x's shape"),
    (group_norm, (X, 4, W6, W6, X), "group_norm: expected num_groups to divide"),
    (batch_norm, (X[:1], STATS, W6, W6, X[:1]), "batch_norm: expected more than 1 value"),
    (batch_norm_eval, (X, STATS[:, :2].copy(), W6, W6, X), "batch_norm: expected running statistics"),
    (instance_norm, (THREE[..., :1].copy(), STATS[:, :4].copy(), W6[:4], W6[:4], THREE[..., :1].copy()),
     "instance_norm: expected more than 1 value"),
    (numba.njit(lambda x: F.batch_norm(x, None, None, training=True, eps=0.0)), (X,), "batch_norm: expected eps > 0"),
    (after_residual, (X, X[:1], W6, W6, X, X), "layer_norm: expected residual of x's shape"),
    (after_residual, (X, X, W6, W6, X, X[:1]), "layer_norm: expected ds of x's shape"),
]  # fmt: skip


@pytest.mark.parametrize(("function", "arguments", "message"), RUNNING)
def test_errors_when_running(function, arguments, message):
    with pytest.raises(ValueError, match=message):
        function(*arguments)


def test_sizes_fit_as_the_view_does(rng):
    compiled = numba.njit(lambda kinds, sizes: fit_sizes(kinds, sizes))  # noqa: PLW0108 (no function, but what stands for one)
    for letters in ("kR", "rKr", "kKr", "kKRr", "kkrr"):
        kinds = tuple(KINDS.index(letter) for letter in letters)
        for _ in range(30):
            sizes = tuple(int(s) for s in rng.integers(0, 4, len(letters)))
            view = fit(Axes(sizes, letters), tuple(range(len(letters))))
            fits, dims, parameter_dims = compiled(kinds, sizes)
            assert fits == (view is not None)
            if fits:
                assert (dims, parameter_dims) == (view.dims, view.parameter_dims)


def test_it_is_imported_on_demand():
    code = "import sys, normzoo; assert 'normzoo.njit' not in sys.modules"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_a_kernel_that_finds_no_memory_raises_in_compiled_code():
    """y would be what was in memory before, and the running statistics would take in a batch that was never seen."""

    @kernel
    def greedy(a):
        put(a, 0, workspace(1 << 50, a).size)

    call = by_address(greedy, (True,))

    @numba.njit
    def run(a):
        call((a,))
        a[1] = 1

    a = np.zeros(2)
    with pytest.raises(MemoryError):
        run(a)
    assert not a.any()


def test_running_variances_of_zero_and_below(rng):
    @numba.njit
    def evaluate(x, mean, var, eps):
        return F.batch_norm(x, mean, var, None, None, False, 0.1, eps)

    x = rng.standard_normal((4, 3, 5)).astype(np.float32)
    mean, var = np.zeros(3, np.float32), np.float32([1, 0, 4])
    y = evaluate(x, mean, var, 0.0)
    assert (y[:, 1] == 0).all()
    check.same_bits(y, nz.functional.batch_norm(x, mean, var, eps=0.0))
    var[1] = -1
    with pytest.raises(ValueError, match="batch_norm: expected running_var >= 0"):
        evaluate(x, mean, var, 1e-5)
