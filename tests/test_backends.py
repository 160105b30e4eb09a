"""The contract between the norms and a backend: every view, parameter view and kind of moments, cpu against reference."""

import itertools

import numpy as np
import pytest
from numba.core import types

from normzoo.backends import backend
from normzoo.backends.contract import CONSTANT, Moments
from normzoo.backends.cpu import code
from normzoo.backends.cpu.compiling.jit import kernel
from normzoo.backends.cpu.parallel import threads
from normzoo.backends.cpu.vector.access import load_n, store_n
from normzoo.backends.cpu.vector.across import read_across, write_across

REFERENCE, CPU = BACKENDS = backend("reference"), backend("cpu")

# Views of every schedule: rows and columns, one chunk and several, whole sets and split ones, ragged at the vector width;
# columns that go back as rows; narrow ones, whose rows stand side by side, with rows left over.
VIEWS = [
    (6, 1, 1, 37),
    (1, 9, 5, 49),
    (1, 20, 5, 49),
    (1, 33, 16, 97),
    (6, 4, 1, 20),
    (5, 12, 1, 7),
    (2, 3, 1, 10001),
    (2, 40, 3, 7),
    (3, 20, 1, 4500),
    (40, 300, 1, 30),
    (2, 3000, 2, 2),
    (1, 300, 37, 1),
    (4, 64, 16, 1),
    (2, 2100, 5, 1),
    (3, 37, 5, 1),
    (1, 16500, 3, 1),
    (6, 1, 7, 1),
    (2, 1500, 70, 1),
]
MOMENTS = [
    Moments(),
    Moments(center=False),
    Moments(center=False, total=True, clamp=True),
    Moments(power=1),
    Moments(center=False, power=1, total=True, clamp=True),
    Moments(power=0),
]


def parameter_views(view):
    """1 or full along m, c and n; along b any divisor."""
    b = view[0]
    choices = ({1, 2 if b % 2 == 0 else 1, b}, *({1, size} for size in view[1:]))
    return sorted(itertools.product(*choices))


def frozen(*arrays):
    """The arrays as a backend may get them: flat, and read-only."""
    flat = [a.reshape(-1).view() for a in arrays]
    for a in flat:
        a.flags.writeable = False
    return flat


def run_backward(where, x, dy, weight, stats, moments, eps):
    dx, dweight, dbias = (np.full(a.shape, np.nan, a.dtype) for a in (x, weight, weight))
    run = where.backward(x.shape, weight.shape, moments, weight.dtype, x.dtype)
    d, v, w = frozen(dy, x, weight)
    run(d, v, stats, w, eps, dx, dweight, dbias)
    return dx, dweight, dbias


def run(where, x, dy, weight, bias, moments, eps=1e-5):
    y = np.full(x.shape, np.nan, x.dtype)
    forward = where.forward(x.shape, weight.shape, moments, weight.dtype, x.dtype)
    stats = forward(*frozen(x, weight, bias), eps, y)
    assert stats.shape == (3, x.shape[0], x.shape[2]) and stats.dtype == np.float64
    return y, *stats, *run_backward(where, x, dy, weight, stats, moments, eps)


def compare(x, results, tolerance):
    names = ["y", "mean", "spread", "rstd", "dx", "dweight", "dbias"]
    for name, expected, actual in zip(names, *results, strict=True):
        scale = max(1.0, np.abs(expected).max())
        if name == "dx":  # a difference of terms of the size of rstd * dy: in a set of one value nothing else is left
            scale = max(scale, np.abs(results[0][3]).max())
        if name in ("dweight", "dbias"):  # sums of as many terms of the size of 1, which may cancel
            scale = max(scale, x.size / expected.size)
        assert np.abs(actual - expected).max() <= tolerance * scale, name


DOUBLE = {(6, 4, 1, 20), (4, 64, 16, 1), (2, 3, 1, 10001)}  # float64 is another compilation of the same kernels


@pytest.mark.parametrize(
    ("view", "dtype"),
    [(v, np.float32) for v in VIEWS]
    + [pytest.param(v, np.float64, marks=() if v in DOUBLE else pytest.mark.slow) for v in VIEWS],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_every_parameter_view(view, dtype, rng):
    x, dy = (3 + rng.standard_normal((2, *view))).astype(dtype)
    for parameters in parameter_views(view):
        weight, bias = rng.standard_normal((2, *parameters)).astype(dtype)
        results = [run(where, x, dy, weight, bias, Moments()) for where in BACKENDS]
        compare(x, results, 3e-6 if dtype == np.float32 else 1e-12)


# Rows with all kinds of moments, columns with those of norms whose parameters vary along m; split sets, whose steps are
# the same, with the kind that has steps of its own. The zoo has the others of columns.
WHOLE, SPLIT = [(6, 4, 1, 20), (4, 64, 16, 1)], [(2, 3, 1, 10001), (2, 600, 70, 1)]
NARROW = (3, 37, 5, 1)  # whose rows stand side by side where they have the same parameters
KINDS = [(WHOLE[0], moments) for moments in MOMENTS] + [
    (WHOLE[1], moments) for moments in MOMENTS if moments.power == 2
]
KINDS += [(view, Moments(power=1)) for view in SPLIT]
KINDS += [(NARROW, Moments(center=False)), (NARROW, Moments(power=1))]
REST = [(view, moments) for view in WHOLE + SPLIT for moments in MOMENTS if (view, moments) not in KINDS]


@pytest.mark.parametrize(
    ("view", "moments"), [*KINDS, *(pytest.param(*kind, marks=pytest.mark.slow) for kind in REST)], ids=str
)
def test_every_kind_of_moments(view, moments, rng):
    x, dy = (3 + rng.standard_normal((2, *view))).astype(np.float32)
    x[0, :1, :, :1] = 0  # sign(0) is 0
    if moments.clamp:
        x[1] *= 1e-9  # below eps
    full = tuple(size if i in ((1, 2) if view in WHOLE else (2,)) else 1 for i, size in enumerate(view))
    weight, bias = rng.standard_normal((2, *full)).astype(np.float32)
    results = [run(where, x, dy, weight, bias, moments) for where in BACKENDS]
    compare(x, results, 3e-6)


@pytest.mark.parametrize("view", [(6, 4, 1, 20), (2, 600, 70, 1), NARROW], ids=str)
def test_statistics_that_are_given(view, rng):
    x, dy = 3 + rng.standard_normal((2, *view))
    stats = rng.uniform(0.5, 2, (3, view[0], view[2]))
    weight, bias = rng.standard_normal((2, 1, 1, view[2], 1))
    results = []
    for where in BACKENDS:
        y = np.empty_like(x)
        v, w, a = frozen(x, weight, bias)
        where.apply(x.shape, weight.shape, weight.dtype, x.dtype)(v, stats, w, a, y)
        results.append((y, *stats, *run_backward(where, x, dy, weight, stats, CONSTANT, 0.0)))
    compare(x, results, 1e-12)


def test_one_thread_and_all_have_the_same_bits(rng, monkeypatch):
    guarded, shared = threads.guarded, []
    # on threads however few the values are
    monkeypatch.setattr(threads, "guarded", lambda kernel, values: shared.append(values) or guarded(kernel))
    for view in [(6, 4, 1, 20), (2, 3, 1, 10001), (4, 64, 16, 1), (2, 600, 70, 1), (1, 16500, 3, 1)]:
        x, dy = (1e3 + rng.standard_normal((2, *view))).astype(np.float32)
        weight, bias = rng.standard_normal((2, 1, 1, 1, 1)).astype(np.float32)
        results = []
        for threshold in (0, 10**9):
            monkeypatch.setattr(code, "SERIAL", threshold)
            results.append(run(CPU, x, dy, weight, bias, Moments()))
        for one, two in zip(*results, strict=True):
            np.testing.assert_array_equal(one, two)
    assert len(shared) == 10


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("view", [(3, 70, 33, 1), (3, 37, 5, 1), (2, 600, 70, 1), (1, 16500, 3, 1)], ids=str)
def test_columns_do_not_show_in_their_neighbours(view, value, rng):
    """The last vector of a row reads what follows it too: the first columns of the next row."""
    x, dy = rng.standard_normal((2, *view)).astype(np.float32)
    weight, bias = rng.standard_normal((2, 1, 1, view[2], 1)).astype(np.float32)
    expected = run(CPU, x, dy, weight, bias, Moments())
    x[:, ::3, 0], dy[:, ::3, 0] = value, value
    for a, b in zip(run(CPU, x, dy, weight, bias, Moments()), expected, strict=True):
        axis = 2 if a.ndim == 4 else 1  # of the sets
        np.testing.assert_array_equal(np.delete(a, 0, axis), np.delete(b, 0, axis))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sets", [1, 3])
@pytest.mark.parametrize("count", [1, 8])
def test_running_statistics(dtype, sets, count, rng):
    stats = rng.uniform(0.5, 2, (3, sets, 5))
    results = []
    for where in BACKENDS:
        mean, var = np.ones((2, 5), dtype)
        where.update(mean, var, stats, count, 0.25)
        made = np.full((3, 1, 5), np.nan)
        where.constants(mean, var, 0.5, made)
        results.append((mean, var, made))
    for expected, actual in zip(*results, strict=True):
        assert actual.dtype == expected.dtype
        np.testing.assert_allclose(actual, expected, rtol=1e-15 if dtype == np.float64 else 1e-7)
    unbiased = count / max(count - 1, 1)
    np.testing.assert_allclose(mean, 0.75 + 0.25 * stats[0].mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(var, 0.75 + 0.25 * unbiased * stats[1].mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(made[2, 0], 1 / np.sqrt(var.astype(np.float64) + 0.5), rtol=1e-12)


def test_batches_that_weigh_the_same_are_averaged_and_counted(rng):
    """Without a momentum, running statistics are the averages over all batches."""
    batches = rng.uniform(0.5, 2, (4, 3, 1, 5))
    for where in BACKENDS:
        mean, var, count = np.zeros(5), np.zeros(5), np.array(0)
        for stats in batches:
            where.update(mean, var, stats, 8, None, count)
        assert count == 4
        np.testing.assert_allclose(mean, batches[:, 0, 0].mean(axis=0), rtol=1e-14)
        np.testing.assert_allclose(var, batches[:, 1, 0].mean(axis=0) * 8 / 7, rtol=1e-14)


def test_what_a_backend_leaves_out_is_none(rng):
    """Passes go without, and say nothing."""
    view, dtype = (4, 1, 1, 8), np.dtype(np.float32)
    kind, task = ((4, 8), dtype, 0x501), (view, (1, 1, 1, 8), Moments(), dtype, dtype)
    assert REFERENCE.forward_shortcut(*task, (kind, None, None, None, None)) is None
    assert REFERENCE.backward_shortcut(*task, kind, (False, False)) is None
    assert REFERENCE.sampler(view, dtype, None) is None
    assert not REFERENCE.updates_whole


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_part_of_a_vector_is_written_and_nothing_beside_it(dtype):
    """0 to 16 lanes, and 17, which are 16; at any place."""
    pytest.importorskip("ml_dtypes")  # NumPy knows "bfloat16" by it

    @kernel
    def copy(source, target, place, count):
        store_n(target, place, load_n(source, 0, count), count)

    dtype = np.dtype(dtype)
    flat = code.FLAT[dtype.name]
    call = code.compiled(copy, (flat, flat, types.int64, types.int64)).call
    source, before = np.arange(1, 17).astype(dtype), np.full(40, -1).astype(dtype)
    for count in range(18):
        for place in (0, 1, 5, 8):
            target, expected, held = before.copy(), before.copy(), min(count, 16)
            call(source, target, place, count)
            expected[place : place + held] = source[:held]
            np.testing.assert_array_equal(target, expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("room", ["float32", "float64"])
def test_blocks_of_sets_are_turned_and_nothing_beside_them_is_written(room, dtype):
    """16 sets of some values, of which fewer may be there, `step` apart; what is read comes back."""
    pytest.importorskip("ml_dtypes")

    @kernel
    def turn(source, turned, target, step, length, count):
        read_across(source, 5, step, length, count, turned, 0)
        write_across(target, 5, step, length, count, turned, 0)

    dtype, room = np.dtype(dtype), np.dtype(room)
    flat, wide = code.FLAT[dtype.name], code.FLAT[room.name]
    call = code.compiled(turn, (flat, wide, flat, *[types.int64] * 3)).call
    for length, count in itertools.product((1, 3, 4, 6, 8, 11, 40), (16, 5, 1)):
        step = length + 2
        source = (np.arange(16 * step + 9) % 255).astype(dtype)  # as many as bfloat16 tells apart
        turned, target, expected = np.full((length, 16), -1, room), np.full_like(source, -1), np.full_like(source, -1)
        call(source, turned, target, step, length, count)
        places = 5 + step * np.minimum(np.arange(16), count - 1) + np.arange(length)[:, None]
        np.testing.assert_array_equal(turned, source[places].astype(room))
        expected[places] = source[places]
        np.testing.assert_array_equal(target, expected)
