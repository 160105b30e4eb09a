"""Every norm of the zoo against its formula: values, gradients, dtypes, places, errors and state, on both backends."""

import contextlib
import copy
import pickle
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest

import normzoo as nz
from tests import check
from tests.cases import CASES, Case, channels_last_strides
from tests.zoo import ZOO
from tests.zoo.case import ZooCase

each_case = pytest.mark.parametrize("case", ZOO, ids=str)
each_backend = pytest.mark.parametrize("backend", ["cpu", "reference"])


def call(case, norm, x, inputs, **options):
    return norm(x, **inputs, **case.fixed, **options)


def snapshot(norm):
    return {name: a.copy() for name, a in (norm.params | norm.buffers).items()}


@each_case
@each_backend
def test_y_is_that_of_the_paper(case, backend, rng):
    norm, x, inputs, _ = case.draw(rng)
    expected, _ = case.expected(norm, x, inputs)
    with nz.use(backend):
        check.close(call(case, norm, x, inputs), expected, check.EXACT, case.scale(expected))


@each_case
@each_backend
def test_gradients_are_those_of_the_formula(case, backend, rng):
    norm, x, inputs, dy = case.draw(rng)
    _, function = case.expected(norm, x, inputs)
    arguments = {name: a.copy() for name, a in norm.params.items()} | inputs
    with nz.use(backend):
        call(case, norm, x, inputs)
        dx = norm.backward(dy)
    assert set(norm.grads) == set(arguments), "every parameter and every input has a gradient"
    matches = check.gradient_matches if case.derivative == "complex" else check.gradient_near
    tolerance = 1e-10 if case.derivative == "complex" else 1e-8
    matches(function, x, dx, dy, rng, tolerance)
    for name, a in arguments.items():
        matches(lambda v, name=name: function(x, **{name: v}), a, norm.grads[name], dy, rng, tolerance)


@each_case
@pytest.mark.parametrize(("mean", "std"), [(0, 1), (1e4, 0.1)], ids=["near", "far"])
def test_float32_is_as_exact_as_promised(case, mean, std, rng):
    if mean and not case.flat:
        pytest.skip("does not centre")
    norm, x, inputs, dy = case.draw(rng, np.float32, mean, std)
    exact = case.norm(np.float64)
    exact.load_state_dict({n: a.astype(np.int64 if a.dtype.kind == "i" else np.float64) for n, a in norm.state_dict().items()})  # fmt: skip
    expected, _ = case.expected(norm, x, inputs)
    y = call(case, norm, x, inputs)
    assert y.dtype == np.float32
    check.close(y, expected, check.FORWARD32, case.scale(expected))
    with nz.use("reference"):
        call(case, exact, x.astype(np.float64), {n: a.astype(np.float64) for n, a in inputs.items()})
        exact_dx = exact.backward(dy.astype(np.float64))
    check.close(norm.backward(dy), exact_dx, check.BACKWARD32, max(float(np.abs(exact_dx).max()), 1e-30))
    for name, d in norm.grads.items():
        assert d.dtype == np.float32
        size = float(np.abs(exact.grads[name]).max())
        check.close(d, exact.grads[name], 1e-4, max(size, 1e-30))  # sums over a set cancel to the size of their terms


# Each takes a kernel that no other case has in 16 bits: in every run these are looked at by the reference.
OWN_KERNELS = {
    "film", "film-channels-last", "film-gate", "film-whole", "filter_response_norm-one",
    "layer_norm-parameters-of-channels", "unit_norm-order-1",
}  # fmt: skip
assert {case.id for case in ZOO} >= OWN_KERNELS
# The kernels differ in how they load and store, which `test_layout.py` looks at: here one kind of 16 bits is enough.
SIXTEEN = [
    pytest.param(
        case, dtype, backend, id=f"{case}-{np.dtype(dtype)}-{backend}",
        marks=pytest.mark.slow if dtype != np.float16 or (backend == "cpu" and case.id in OWN_KERNELS) else (),
    )
    for case in ZOO
    for dtype in (np.float16, ml_dtypes.bfloat16)
    for backend in (["cpu", "reference"] if case.id in OWN_KERNELS else ["cpu"])
]  # fmt: skip


@pytest.mark.parametrize(("case", "dtype", "backend"), SIXTEEN)
def test_sixteen_bits_are_rounded_once(case, dtype, backend, rng):
    """y of 16-bit x is that of the same values in float32, rounded."""
    norm, x, inputs, dy = case.draw(rng, np.float32)
    twin = copy.deepcopy(norm)
    narrow = x.astype(dtype)
    with nz.use(backend):
        y = call(case, norm, narrow, inputs)
        wide = call(case, twin, narrow.astype(np.float32), inputs)
        dx = norm.backward(dy.astype(dtype))
    assert y.dtype == narrow.dtype
    check.close(y.astype(np.float32), wide, 2.0 ** (-10 if dtype == np.float16 else -7), case.scale(wide))
    assert dx.dtype == narrow.dtype
    for name, d in norm.grads.items():
        assert d.dtype == np.float32, name


@each_case
def test_out_and_in_place_give_the_same_bits(case, rng):
    norm, x, inputs, dy = case.draw(rng, np.float32)
    norms = [copy.deepcopy(norm) for _ in range(2)]
    y = call(case, norm, x, inputs)
    dx = norm.backward(dy)
    out = np.full_like(x, np.nan)
    assert call(case, norms[0], x, inputs, out=out) is out
    check.same_bits(out, y)
    assert norms[0].backward(dy, out=out) is out
    check.same_bits(out, dx)
    place = x.copy()
    call(case, norms[1], place, inputs, out=place)
    check.same_bits(place, y)


@each_case
def test_strided_x_gives_the_bits_of_its_copy(case, rng):
    norm, x, inputs, dy = case.draw(rng, np.float32)
    twin = copy.deepcopy(norm)
    wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), np.float32)
    wide[..., ::2] = x
    y = call(case, norm, x, inputs)
    check.same_bits(call(case, twin, wide[..., ::2], inputs), y)
    check.same_bits(twin.backward(dy), norm.backward(dy))


@each_case
def test_channels_last_strides_stay(case, rng):
    if len(case.shape) < 3:
        pytest.skip("has no positions")
    norm, x, inputs, dy = case.draw(rng)
    twin = copy.deepcopy(norm)
    last = channels_last_strides(x)
    y = call(case, norm, last, inputs)
    check.close(y, call(case, twin, x, inputs), 1e-9)
    assert np.argsort(y.strides).tolist() == np.argsort(last.strides).tolist()
    check.close(norm.backward(dy), twin.backward(dy), 1e-9)


@each_case
def test_one_layer_may_be_in_flight_twice(case, rng):
    norm, x, inputs, dy = case.draw(rng)
    y, first = norm.forward(x, **inputs, **case.fixed)
    _, second = norm.forward(x + 1, **inputs, **case.fixed)
    one = first.backward(dy)
    second.backward(dy)
    again = first.backward(dy)
    check.same_bits(one.x, again.x)


@each_case
def test_bad_input_is_named_and_changes_nothing(case, rng):
    norm, x, inputs, dy = case.draw(rng, np.float32)
    name = type(norm).__name__
    with pytest.raises(RuntimeError, match=name):
        norm.backward(dy)
    before = snapshot(norm)
    for bad, error in ((x.tolist(), TypeError), (x.astype(np.int64), TypeError), (x[0, 0, ...].sum(), TypeError)):
        with pytest.raises(error, match=name):
            call(case, norm, bad, inputs)
    with pytest.raises(ValueError, match="out"):
        call(case, norm, x, inputs, out=np.empty((*x.shape, 1), np.float32))
    with pytest.raises(TypeError, match="out"):
        call(case, norm, x, inputs, out=np.empty(x.shape, np.float64))
    for key in inputs:
        with pytest.raises(TypeError, match=name):
            call(case, norm, x, inputs | {key: [1.0]})
        with pytest.raises(ValueError, match=name):
            call(case, norm, x, inputs | {key: np.zeros((3, 1, 4, 1, 5, 9, 2), np.float32)})
    for state, old in before.items():
        check.same_bits((norm.params | norm.buffers)[state], old)
    assert norm.saved is None and norm.grads == {}
    call(case, norm, x, inputs)
    with pytest.raises(ValueError, match="dy"):
        norm.backward(dy[..., None])


@each_case
def test_state_goes_round(case, rng):
    norm, x, inputs, _ = case.draw(rng, np.float32)
    call(case, norm, x, inputs)
    other = case.norm(np.float32)
    other.load_state_dict(norm.state_dict())
    for name, a in (norm.params | norm.buffers).items():
        check.same_bits((other.params | other.buffers)[name], a)
        assert (other.params | other.buffers)[name] is not a
    copied = copy.deepcopy(norm).eval(), other.eval()
    check.same_bits(call(case, copied[0], x, inputs), call(case, copied[1], x, inputs))


@each_case
def test_a_layer_that_has_run_can_be_copied_and_pickled(case, rng):
    """Parameters and state: what the pass left stays behind."""
    norm, x, inputs, dy = case.draw(rng, np.float32)
    call(case, norm, x, inputs)
    state = norm.state_dict()
    for twin in (copy.deepcopy(norm), pickle.loads(pickle.dumps(norm))):
        assert repr(twin) == repr(norm)
        for name, a in twin.state_dict().items():
            check.same_bits(a, state[name])
        with pytest.raises(RuntimeError, match="forward pass"):
            twin.backward(dy)
    norm.backward(dy)


@each_case
def test_it_can_be_made_by_name_and_shown(case):
    norm = case.norm(np.float32)
    assert case.id.split("-")[0] in nz.list_norms()
    assert repr(norm).startswith(type(norm).__name__ + "(")
    made = eval(repr(norm), vars(nz) | {"float32": np.float32})
    assert {n: a.shape for n, a in made.params.items()} == {n: a.shape for n, a in norm.params.items()}


@each_case
def test_a_non_finite_value_is_never_a_silent_number(case, rng):
    norm, x, inputs, _ = case.draw(rng, np.float32)
    x[(0,) * x.ndim] = np.nan
    assert np.isnan(call(case, norm, x, inputs)[(0,) * x.ndim])


def counts(case):
    norm = case.draw(np.random.default_rng(0))[0]
    return norm.training and "num_batches_tracked" in norm.buffers


@pytest.mark.parametrize("case", [case for case in ZOO if counts(case)], ids=str)
def test_a_batch_is_taken_in_whole_or_not_at_all(case, rng):
    """The count cannot be written, but what is written before it can."""
    norm, x, inputs, _ = case.draw(rng)
    norm.buffers["num_batches_tracked"].flags.writeable = False
    state = norm.state_dict()
    with pytest.raises(ValueError, match="read-only"):
        call(case, norm, x, inputs)
    for name, value in state.items():
        np.testing.assert_array_equal(norm.buffers.get(name, value), value)


MIXED = [  # of x and of parameters, and the size of values
    (np.float16, np.float16, 1e-7), (np.float16, np.float64, 3e4), (np.float64, np.float16, 1e-7),
    (ml_dtypes.bfloat16, ml_dtypes.bfloat16, 1e-38),
]  # fmt: skip


@pytest.mark.parametrize("case", [*ZOO, *CASES], ids=str)
def test_a_program_that_has_floating_point_errors_raised_gets_the_same_numbers(case, rng):
    """librosa#1484: np.seterr(all="raise") somewhere in a program. Nothing that is rounded or underflows here raises."""
    made = (lambda dtype: case.norm(dtype=dtype)) if isinstance(case, Case) else case.norm
    drawn = made(np.float64) if isinstance(case, Case) else case.draw(rng)[0]
    x, dy = rng.standard_normal((2, *case.shape))
    x = np.abs(x) if getattr(case, "positive", False) else x
    inputs, fixed = ({}, {}) if isinstance(case, Case) else (case.draw(rng)[2], case.fixed)
    state = drawn.state_dict()

    def run(dtype, own, size):
        norm = made(own)
        norm.load_state_dict(state)
        norm.train(drawn.training)
        with np.errstate(all="ignore"):
            arguments = {name: (size * a).astype(dtype) for name, a in inputs.items()}
            narrow, d = (size * x).astype(dtype), (size * dy).astype(dtype)
        y = norm(narrow, **arguments, **fixed)
        return {"y": y, "dx": norm.backward(d)} | norm.grads | norm.state_dict()

    for kinds in MIXED if isinstance(case, ZooCase) else MIXED[:1]:
        with nz.use("reference" if isinstance(case, ZooCase) else "cpu"):
            with np.errstate(all="ignore"):
                expected = run(*kinds)
            with np.errstate(all="raise"):
                found = run(*kinds)
        for name, a in expected.items():
            check.same_bits(found[name].astype(np.float64), a.astype(np.float64))


def test_rounding_of_the_five_raises_nothing(rng):
    x, dy = 1e-7 * rng.standard_normal((2, 4, 6, 5))
    with np.errstate(all="raise"):
        for norm in (
            nz.BatchNorm(6, dtype=np.float16),
            nz.GroupNorm(2, 6, dtype=np.float16),
            nz.LayerNorm((6, 5), dtype=np.float16),
        ):
            norm.load_state_dict({name: 1e-7 * a if a.ndim else a for name, a in norm.state_dict().items()})
            norm(x)
            norm.backward(dy)
            norm(x, mask=np.arange(5) < 3)
            norm.backward(dy)
        nz.functional.normalize(x, 3)
        nz.functional.local_response_norm(x, 3)
        nz.ScaleNorm(1e-8, dtype=np.float16)


def test_what_else_norms_do_raises_nothing(rng):
    x = 1e-7 * rng.standard_normal((4, 6, 5))
    with np.errstate(all="raise"):
        norm = nz.RevIN(5, dtype=np.float16)
        norm.inverse(norm(x))
        norm.saved_inverse.backward(x)
        norm = nz.CumulativeLayerNorm(6, dtype=np.float16)
        norm.step(x[..., 0], norm.step(x[..., 1])[1])
        norm = nz.SpectralNorm((4, 6, 5), dtype=np.float16)
        norm.iterate(x)
        norm = nz.WeightNorm((4, 6, 5), dtype=np.float16)
        norm.match(x)
        norm = nz.VirtualBatchNorm(6, dtype=np.float16)
        norm.refer(x, out=np.empty_like(x))
        norm = nz.PositionalNorm()
        norm(x)
        norm.backward(x, dmean=norm.saved.mean, dstd=norm.saved.std)
        norm = nz.BatchNorm(6, dtype=np.float16)
        nz.recalibrate(norm, [x, 2 * x], norm)
        norm.reset_running_stats()
        nz.diagnose(norm, x)


def tracks(case):
    norm = case.draw(np.random.default_rng(0))[0]
    counts = "num_batches_tracked" in norm.buffers or isinstance(norm, nz.ObservationNorm)
    return norm.training and (counts or "u" in norm.buffers)


TRACKED = [case for case in ZOO if tracks(case)]


def test_norms_that_track():
    """Each of these has update_stats, and its tests below."""
    assert {type(case.norm(np.float32)).__name__ for case in TRACKED} == {
        "AlphaBatchNorm", "BatchInstanceNorm", "BatchRenorm", "ConditionalBatchNorm", "DecorrelatedBatchNorm",
        "DiffGroupNorm", "DomainBatchNorm", "EMABatchNorm", "EvoNormB0", "GhostBatchNorm", "IterNorm", "L1BatchNorm", "LInfBatchNorm",
        "ObservationNorm", "PowerNorm", "SPADE", "SpectralNorm", "SplitBatchNorm", "SwitchableNorm",
    }  # fmt: skip


@pytest.mark.parametrize("case", TRACKED, ids=str)
def test_a_pass_that_updates_nothing_gives_the_same(case, rng):
    """What the second pass of a checkpoint writes: pytorch#96136."""
    norm, x, inputs, dy = case.draw(rng)
    twin, state = copy.deepcopy(norm), norm.state_dict()
    out = np.empty_like(x)
    check.same_bits(call(case, norm, x, inputs, update_stats=False, out=out), call(case, twin, x, inputs))
    check.same_bits(norm.backward(dy), twin.backward(dy))
    for name, value in state.items():
        check.same_bits(norm.state_dict()[name], value)
    assert any(not np.array_equal(value, state[name]) for name, value in twin.state_dict().items())
    read = copy.deepcopy(norm).eval()
    check.same_bits(call(case, read, x, inputs, update_stats=False), call(case, read, x, inputs))


@pytest.mark.parametrize("case", {str(case).split("-")[0]: case for case in reversed(ZOO)}.values(), ids=str)
def test_threads_that_share_a_norm_lose_no_batch(case, rng):
    """The same batch on every thread: whatever their order, the state is that of one thread."""
    norm, x, inputs, dy = case.draw(rng)
    alone, results = copy.deepcopy(norm), []
    for _ in range(16):
        y, saved = alone.forward(x, **inputs, **case.fixed)
    stateless = not tracks(case)
    own = (y, saved.backward(dy)) if stateless else None

    def work():
        for _ in range(4):
            y, saved = norm.forward(x, **inputs, **case.fixed)
            if stateless:
                results.append((y, saved.backward(dy)))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(work) for _ in range(4)]:
                done.result()
    finally:
        sys.setswitchinterval(interval)
    for y, grads in results:
        check.same_bits(y, own[0])
        for d, expected in zip((*grads, *grads.others.values()), (*own[1], *own[1].others.values()), strict=True):
            assert (d is None) is (expected is None)
            if d is not None:
                check.same_bits(d, expected)
    if isinstance(norm, nz.SpectralNorm):  # its vectors come nearer, by each thread's step or two
        return
    for name, value in alone.state_dict().items():
        check.same_bits(norm.state_dict()[name], value)


class Slow(np.ndarray):
    """Takes its time to be written."""

    def __setitem__(self, index, value):
        time.sleep(2e-3)
        super().__setitem__(index, value)


class Broken(np.ndarray):
    """Where it is written, the program is interrupted."""

    def __setitem__(self, index, value):
        raise KeyboardInterrupt


WHITENING = {"IterNorm": "running_wm", "DecorrelatedBatchNorm": "running_projection"}


@pytest.mark.parametrize("name", WHITENING)
def test_a_norm_in_numpy_takes_batches_in_one_by_one(name, rng):
    norm, batches = getattr(nz, name)(4, momentum=None, dtype=np.float64), rng.standard_normal((6, 9, 4))
    norm.buffers = {key: a.view(Slow) for key, a in norm.buffers.items()}
    with ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(norm.forward, x) for x in batches]:
            done.result()
    assert norm.num_batches_tracked == 6
    check.close(np.asarray(norm.running_mean), batches.mean(axis=(0, 1)), check.EXACT)  # all of them weigh the same


@pytest.mark.parametrize("name", WHITENING)
def test_a_norm_in_numpy_that_is_interrupted_takes_in_all_of_a_batch_or_nothing(name, rng):
    norm, x = getattr(nz, name)(4, dtype=np.float64), rng.standard_normal((9, 4))
    norm(x)
    before, twin, matrix = norm.state_dict(), copy.deepcopy(norm), norm.buffers[WHITENING[name]]
    twin(x)
    norm.buffers[WHITENING[name]] = matrix.view(Broken)
    with contextlib.suppress(KeyboardInterrupt):  # what is written in one step cannot be interrupted
        norm(x)
    norm.buffers[WHITENING[name]] = matrix
    batches = norm.num_batches_tracked.item()
    for key, value in (before, twin.state_dict())[batches - 1].items():
        check.same_bits(norm.state_dict()[key], value)
    with ThreadPoolExecutor(1) as pool:  # nothing is held
        pool.submit(norm, x).result(timeout=60)
    assert norm.num_batches_tracked == batches + 1
