"""Functions on lanes, and activations: right to 2 units in the last place, in kernels as on arrays."""

import copy
import math
import pickle
import platform
from functools import cache

import ml_dtypes
import numba
import numpy as np
import pytest
from numba.core import types

import normzoo as nz
from normzoo.backends import lanes
from normzoo.backends.activations import activation, list_activations
from normzoo.backends.around import Activation
from normzoo.backends.cpu.code import compiled
from normzoo.backends.cpu.compiling.jit import helper, kernel
from normzoo.backends.cpu.kernels.functions import in_short
from normzoo.backends.cpu.vector import error_function, transcendental  # noqa: F401  (they teach lanes these functions)
from normzoo.backends.cpu.vector.access import load, store
from normzoo.backends.cpu.vector.lanes import LANES, Flat
from normzoo.backends.lanes import choose, fma, larger, smaller
from tests.robust.process import script

NAMES = "exp", "expm1", "log", "log1p", "tanh", "sigmoid", "erf"
FLAT = {np.float32: Flat(types.float32), np.float64: Flat(types.float64)}
DTYPES = [np.float32, np.float64]
AT_MOST = 2.0  # units in the last place


@cache
def of_lanes(function, name):
    """A kernel that takes `function` of every value. Its name says which: by it a kernel is found on disk."""

    def over(x, y, n):
        for i in range(0, n, LANES):
            store(y, i, function(load(x, i)))

    over.__name__ = over.__qualname__ = f"over_{name}"
    return kernel(over)


def taken(made, x):
    """The kernel on a copy of x, which is filled up to whole vectors."""
    size = -(-x.size // LANES) * LANES
    given, found = np.zeros(size, x.dtype), np.zeros(size, x.dtype)
    given[: x.size] = x.ravel()
    compiled(made, (FLAT[x.dtype.type], FLAT[x.dtype.type], types.int64)).call(given, found, size)
    return found[: x.size]


def in_lanes(name, x):
    return taken(of_lanes(getattr(lanes, name), name), x)


def in_short_lanes(name, x):
    return taken(of_lanes(in_short(getattr(lanes, name)), f"short_{name}"), x)


def exact(name, x):
    """To more digits than x has: in float64, or in the float of 80 bits."""
    with np.errstate(invalid="ignore"):  # NaNs that signal
        wide = x.astype(np.float64 if x.dtype == np.float32 else np.longdouble)
    return _erf(wide) if name == "erf" and x.dtype == np.float64 else getattr(lanes, name)(wide)


def _erf(x):
    """2 / sqrt(pi) exp(-x^2) (x + 2/3 x^3 + 4/15 x^5 + ...): all of one sign."""
    size = np.minimum(np.abs(x), 7)
    term = total = size
    for n in range(1, 300):
        term = term * (2 * size * size / (2 * n + 1))
        total = total + term
    return np.copysign(total * np.exp(-size * size) * 2 / np.sqrt(4 * np.arctan(np.longdouble(1))), x)


def units(found, right):
    """By how many units in the last place of the exact value each differs: 0 where both are NaN, or both infinity."""
    info = np.finfo(found.dtype)
    limit = np.ldexp(right.dtype.type(1), info.maxexp)  # which infinity stands for
    with np.errstate(invalid="ignore"):
        a, b = (np.clip(v.astype(right.dtype), -limit, limit) for v in (found, right))
        place = np.clip(np.frexp(b)[1] - 1, info.minexp, info.maxexp - 1) - info.nmant
        error = np.ldexp(np.abs(a - b), -place)
    return np.where(np.isnan(found) != np.isnan(right), np.inf, np.where(np.isnan(right), 0, error))


def samples(dtype, count, rng):
    """Values of all sizes, of those at which results change, and their neighbours."""
    integers = np.uint32 if dtype == np.float32 else np.uint64
    info = np.finfo(dtype)
    every = rng.integers(0, np.iinfo(integers).max, count, dtype=integers, endpoint=True).view(dtype)
    most = 1.1 * math.log(info.max)
    near = [rng.uniform(-width, width, count) for width in (most, 30, 6, 1, 1e-3)]
    around = [1 + rng.uniform(-width, width, count) for width in (0.5, 1e-2, 1e-5)]
    small = -rng.uniform(0.7, 1.02, count) * (math.log(2) * (-info.minexp + info.nmant + 1))  # exp(.) is subnormal
    k = np.arange(-1100, 1100)
    edges = [
        (k + 0.5) * math.log(2),
        math.sqrt(0.5) * 2.0 ** np.clip(k, info.minexp, info.maxexp - 1),
        k / 16,
        2.0 ** np.clip(k, info.minexp, info.maxexp - 1),
    ]
    with np.errstate(over="ignore"):
        edges = np.concatenate(edges).astype(dtype)
        edges = np.concatenate([edges, np.nextafter(edges, dtype(-np.inf)), np.nextafter(edges, dtype(np.inf))])
    special = np.array([0, np.inf, np.nan, 1, info.max, info.tiny, info.smallest_subnormal, 0.625], dtype)
    random = np.concatenate([*near, *around, small]).astype(dtype)
    return np.concatenate([every, random, edges, -edges, special, -special])


@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
@pytest.mark.parametrize("name", NAMES)
def test_within_two_units_in_the_last_place(name, dtype, rng):
    x = samples(dtype, 20_000, rng)
    found, right = in_lanes(name, x), exact(name, x)
    error = units(found, right)
    worst = error.argmax()
    print(name, float(error[worst]), float(x[worst]))
    assert error[worst] <= AT_MOST, (x[worst], found[worst], right[worst], error[worst])
    zero = right == 0
    assert (np.signbit(found[zero]) == np.signbit(right[zero])).all()


@pytest.mark.parametrize("name", NAMES)
def test_what_is_stored_in_16_bits_has_digits_enough(name, rng):
    x = samples(np.float32, 20_000, rng)
    found, right = in_short_lanes(name, x), exact(name, x)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(right))
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(np.isinf(found), np.isinf(right.astype(np.float32)))
    finite = np.isfinite(right) & np.isfinite(found)
    np.testing.assert_allclose(found[finite], right[finite], rtol=2.0**-15, atol=2.0**-134)  # half the least bfloat16
    zero = right == 0
    assert (np.signbit(found[zero]) == np.signbit(right[zero])).all()


@pytest.mark.parametrize("name", ["gelu", "silu", "tanh", "elu", "mish", "softplus"])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
def test_activations_of_16_bits_are_those_of_float32_rounded(name, dtype, rng):
    """But where that lies about in the middle of two: then it may be the other."""
    x = rng.standard_normal((64, 300)).astype(dtype)
    weight = np.full(300, 2.0, np.float32)
    found = nz.functional.layer_norm(x, (300,), weight, activation=name)
    right = nz.functional.layer_norm(x.astype(np.float32), (300,), weight, activation=name)
    info = ml_dtypes.finfo(dtype)
    unit = 2.0 ** np.floor(np.log2(np.maximum(abs(right), float(info.tiny)))) * float(info.eps)
    assert (abs(found.astype(np.float64) - right) <= 0.54 * unit + 1.5e-6).all()  # gelu is 0.5 + 0.5 erf, times v
    assert (found == right.astype(dtype)).mean() > 0.94


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@np.errstate(all="ignore")
def test_every_float32(name, capsys):
    """All 2^32. Those that are the exact value, rounded, are no further than half a unit from it."""
    step, worst = 1 << 21, (0.5, 0.0)
    for first in range(0, 1 << 32, step):
        x = np.arange(first, first + step, dtype=np.uint32).view(np.float32)
        found, right = in_lanes(name, x), exact(name, x)
        zero = right == 0
        assert (np.signbit(found[zero]) == np.signbit(right[zero])).all()
        other = np.flatnonzero(found != right.astype(np.float32))
        if other.size:
            error = units(found[other], right[other])
            worst = max(worst, (float(error.max()), float(x[other[error.argmax()]])))
    with capsys.disabled():
        print(f"{name}: {worst[0]:.3f} at {worst[1]!r}")
    assert worst[0] <= AT_MOST, worst


# -- numbers with lanes


def _numbers(v):
    return 1 + (2.5 - v) * 0.5 / (3.0 * v) - -v / 7 + fma(v, 0.1, 1) * larger(v, 0.1) - smaller(-1, v) * choose(v, 2, v)


@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
def test_numbers_take_the_type_of_the_lanes(dtype, rng):
    x = np.concatenate([rng.standard_normal(50), [1e15, 0.1, -1.0]]).astype(dtype)
    right = _numbers(x)
    assert right.dtype == dtype
    found = taken(of_lanes(helper(_numbers), "numbers"), x)
    np.testing.assert_allclose(found, right, rtol=8 * np.finfo(dtype).eps)  # fma rounds once


def test_a_number_alone_is_no_lanes():
    with pytest.raises(numba.core.errors.TypingError):
        taken(of_lanes(helper(lambda v: v * lanes.exp(0.5)), "alone"), np.ones(16))


# -- on arrays


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
@pytest.mark.parametrize("name", [*NAMES, "minus", "magnitude", "root"])
def test_arrays_keep_their_dtype(name, dtype):
    if (name, dtype) == ("erf", np.longdouble):
        pytest.skip("SciPy has none")
    x = np.array([[0.5, 1.0, 100.0, np.nan]], dtype)
    found = getattr(lanes, name)(x)
    assert found.dtype == dtype and found.shape == x.shape and np.isnan(found[0, 3])


# -- activations

LISTED = [str(name) for name in list_activations() if name != "identity" and not activation(name).parameter]
WITH_PARAMETERS = "leaky_relu(0.2)", "elu(1.5)", "softplus(2.0)", "clip(-2.0, 0.5)"
KINKS = (-6, -3, -2, -1, -0.0, 0.0, 0.5, 1, 3, 6)


def likeness(name):
    """PyTorch's function."""
    torch = pytest.importorskip("torch")
    f = torch.nn.functional
    others = {
        "clip": lambda x: torch.clamp(x, -1, 1),
        "gelu_tanh": lambda x: f.gelu(x, approximate="tanh"),
        "leaky_relu(0.2)": lambda x: f.leaky_relu(x, 0.2),
        "elu(1.5)": lambda x: f.elu(x, 1.5),
        "softplus(2.0)": lambda x: f.softplus(x, 2.0),
        "clip(-2.0, 0.5)": lambda x: torch.clamp(x, -2.0, 0.5),
    }
    return others.get(name) or getattr(f, name)


def points(dtype, rng):
    ends = [np.inf, 1e30, 1e4, 1e3, 88, 20, 8]
    random = [rng.uniform(-width, width, 2000) for width in (100, 10, 1, 1e-3)]
    kinks = np.array(KINKS, dtype)
    beside = [np.nextafter(kinks, dtype(end)) for end in (-np.inf, np.inf)]
    return np.concatenate([kinks, *beside, ends, np.negative(ends), *random]).astype(dtype)


@np.errstate(all="ignore")
@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
@pytest.mark.parametrize("name", [*LISTED, *WITH_PARAMETERS])
def test_activations_are_pytorchs(name, dtype, rng):
    """Value and derivative, at kinks and where x is infinite: wherever PyTorch has a number."""
    torch = pytest.importorskip("torch")
    x = points(dtype, rng)
    given = torch.tensor(x, requires_grad=True)
    value = likeness(name)(given)
    value.sum().backward()
    act = activation(name)
    tolerance = 2e-6 if dtype == np.float32 else 1e-8  # there softplus is x from 20 on, and a sixth one in float32
    for function, right in ((act.value, value.detach().numpy()), (act.derivative, given.grad.numpy())):
        for found in (function(x), taken(of_lanes(helper(function), f"{name}_{function.__name__}"), x)):
            assert found.dtype == dtype and not np.isnan(found).any()
            known = ~np.isnan(right)
            np.testing.assert_allclose(found[known], right[known], rtol=tolerance, atol=tolerance)


LIMITS = {  # of value and derivative, at -inf and inf
    "relu6": (0, 6, 0, 0),
    "hardsigmoid": (0, 1, 0, 0),
    "sigmoid": (0, 1, 0, 0),
    "tanh": (-1, 1, 0, 0),
    "clip": (-1, 1, 0, 0),
    "elu": (-1, np.inf, 0, 1),
    "selu": (-1.0507009873554804934193349852946 * 1.6732632423543772848170429916717, np.inf, 0, 1.0507009873554805),
    "leaky_relu": (-np.inf, np.inf, 0.01, 1),
}


@np.errstate(all="ignore")
@pytest.mark.parametrize("name", LISTED)
def test_limits(name):
    act, ends = activation(name), np.array([-np.inf, np.inf])
    found = [*act.value(ends), *act.derivative(ends)]
    np.testing.assert_allclose(found, LIMITS.get(name, (0, np.inf, 0, 1)), rtol=1e-15)


@pytest.mark.parametrize("name", [*LISTED, *WITH_PARAMETERS])
def test_derivatives_are_those_of_the_values(name, rng):
    x, h = rng.uniform(-8, 8, 4000), 1e-5
    x = x[(np.abs(x[:, None] - np.array(KINKS)) > 2 * h).all(axis=1)]
    act = activation(name)
    central = (act.value(x + h) - act.value(x - h)) / (2 * h)
    np.testing.assert_allclose(act.derivative(x), central, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", [*LISTED, *WITH_PARAMETERS])
@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
def test_nan_stays(name, dtype):
    act, x = activation(name), np.full(16, np.nan, dtype)
    assert np.isnan(act.value(x)).all() and np.isnan(act.derivative(x)).all()
    for function in (act.value, act.derivative):
        assert np.isnan(taken(of_lanes(helper(function), f"{name}_{function.__name__}"), x)).all()


@np.errstate(all="ignore")
@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
def test_a_learned_threshold_is_a_maximum(dtype, rng):
    """Of two tensors, but that where both are equal PyTorch halves the gradient, and here tau has it."""
    torch = pytest.importorskip("torch")
    act, v, tau = (
        activation("threshold"),
        rng.standard_normal(400).astype(dtype),
        rng.standard_normal(400).astype(dtype),
    )
    given = [torch.tensor(a, requires_grad=True) for a in (v, tau)]
    value = torch.maximum(*given)
    value.sum().backward()
    np.testing.assert_array_equal(act.value(v, tau), value.detach().numpy())
    for found, a in zip(act.derivative(v, tau), given, strict=True):
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, a.grad.numpy())
    ends = np.array([-np.inf, np.inf, 1, np.nan], dtype)
    np.testing.assert_array_equal(act.value(ends, dtype(1)), np.array([1, np.inf, 1, np.nan], dtype))
    by_v, by_tau = act.derivative(ends, dtype(1))
    np.testing.assert_array_equal(by_v, [0, 1, 0, np.nan])
    np.testing.assert_array_equal(by_tau, [1, 0, 1, np.nan])
    assert act is pickle.loads(pickle.dumps(act)) and act.parameter == "tau"


def test_an_activation_by_name():
    assert activation(None) is activation("identity") is None
    own = Activation("own", lanes.tanh, lanes.exp)
    assert activation(own) is own
    for name in (*LISTED, *WITH_PARAMETERS):
        act = activation(name)
        assert act.name == name and act is activation(name) is pickle.loads(pickle.dumps(act))
        assert act == copy.deepcopy(act) and hash(act) == hash(activation(name))
    assert activation("leaky_relu(0.01)") is activation("leaky_relu") != activation("leaky_relu(0.1)")
    assert own == Activation("own", lanes.tanh, lanes.exp) != Activation("own", lanes.tanh, lanes.log)


@pytest.mark.parametrize(
    ("given", "error", "told"),
    [
        ("rellu", ValueError, "did you mean 'relu'"),
        ("Hard_Swish", ValueError, "did you mean 'hardswish'"),
        ("qwerty", ValueError, "clip, elu, gelu, gelu_tanh,"),
        ("relu(1)", ValueError, "such as 'relu', got 'relu(1)'"),
        ("leaky_relu(a)", ValueError, "leaky_relu(slope)"),
        ("clip(1)", ValueError, "such as 'clip(-1.0, 1.0)'"),
        ("elu(nan)", ValueError, "finite"),
        ("elu(1", ValueError, "elu(alpha)"),
        (np.tanh, TypeError, "Activation"),
        (1, TypeError, "got 1"),
    ],
)
def test_what_is_no_activation(given, error, told):
    with pytest.raises(error) as raised:
        activation(given, "BatchNorm(4)")
    assert str(raised.value).startswith("BatchNorm(4): expected ") and told in str(raised.value)


def test_every_activation_has_a_formula_and_a_source():
    for name in list_activations():
        assert "x" in name.formula and len(name.source) > 8, name


SAME_BITS = """
import hashlib, sys
import numpy as np
from tests.test_functions import DTYPES, NAMES, in_lanes, in_short_lanes, samples
for name in NAMES:
    for dtype in DTYPES:
        found = in_lanes(name, samples(dtype, 500, np.random.default_rng(0)))
        found[np.isnan(found)] = np.nan
        print(name, hashlib.sha256(found.tobytes()).hexdigest())
    found = in_short_lanes(name, samples(np.float32, 500, np.random.default_rng(0)))
    found[np.isnan(found)] = np.nan
    print(name, hashlib.sha256(found.tobytes()).hexdigest())
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="processors of x86-64 are named")
@pytest.mark.parametrize("cpu", ["nehalem", pytest.param("sandybridge", marks=pytest.mark.slow)])
def test_the_same_bits_on_older_processors(cpu, tmp_path):
    """Without fma, vectors of 32 bytes, or either."""
    here = script(SAME_BITS).stdout
    there = script(SAME_BITS, NUMBA_CPU_NAME=cpu, NUMBA_CPU_FEATURES="", NUMBA_CACHE_DIR=tmp_path).stdout
    assert here == there and len(here.splitlines()) == len(NAMES) * (len(DTYPES) + 1)
