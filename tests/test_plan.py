"""Plans are found again by what a call depends on: calls that differ in any of it, in alternation, do not mix."""

import copy
import itertools
import pickle
import sys
import threading

import numpy as np
import pytest

import normzoo as nz
from normzoo.backends.contract import Moments
from normzoo.passes import normalize, plan
from normzoo.passes import site as passes
from normzoo.passes.arrays import Memo
from normzoo.passes.view import Axes
from tests import check
from tests.cases import CASES, channels_last_strides, draw, filled

F = nz.functional


@pytest.fixture(params=[1, plan.ENOUGH], ids=["shortcuts", "long way"], autouse=True)
def enough(request, monkeypatch):
    monkeypatch.setattr(plan, "ENOUGH", request.param)
    passes.forget()


def arrangements(x):
    """The same values in other dtypes, places and strides."""
    frozen = x.copy()
    frozen.flags.writeable = False
    odd = np.frombuffer(bytearray(x.nbytes + 1), x.dtype, x.size, offset=1).reshape(x.shape)
    odd[...] = x
    return [x, x.astype(np.float64), x.astype(">f4"), x.astype(np.float16), frozen, odd, np.asfortranarray(x),
            channels_last_strides(x), np.repeat(x, 2, axis=0)[::2], x.view(np.memmap)]  # fmt: skip


def oracle_norm(case, norm, dtype):
    """A norm with the same parameters, that has seen no call."""
    fresh = case.norm(dtype=dtype)
    for name in case.parameters:
        if name in norm.params:
            fresh.params[name][...] = norm.params[name]
        else:
            del fresh.params[name]
    return fresh


@pytest.mark.parametrize("case", CASES, ids=str)
def test_calls_that_differ_in_arrays_alternate(case, rng):
    x, dy = draw(case, rng, np.float32)
    norm = filled(case.norm(), rng)
    exact = norm_results(oracle_norm(case, norm, np.float64), x.astype(np.float64), dy.astype(np.float64))
    pairs = list(itertools.product(arrangements(x), arrangements(dy)))
    for i in rng.permutation(len(pairs)):
        a, d = pairs[i]
        half = 2 in (a.dtype.itemsize, d.dtype.itemsize)
        with nz.use(("cpu", "reference")[i % 2]):
            found = norm_results(norm, a, d)
        assert found[0].dtype == found[1].dtype == a.dtype
        for actual, expected in zip(found, exact, strict=True):
            if expected is not None:
                check.close(actual, expected, 2e-2 if half else 2e-5)


def norm_results(norm, x, dy):
    y, saved = norm.forward(x)
    return y, *saved.backward(dy)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_one_shape_with_other_parameters_and_eps(case, rng):
    x, dy = draw(case, rng)
    norm = filled(case.norm(dtype=np.float64), rng)
    held = dict(norm.params)
    wide = {name: np.repeat(p, 2, axis=0)[::2] * 2 for name, p in held.items()}
    narrow = {name: p.astype(np.float32) for name, p in held.items()}
    frozen = {name: p.copy() for name, p in held.items()}
    for p in frozen.values():
        p.flags.writeable = False
    for _ in range(2):
        for params in (held, wide, narrow, frozen, {}, {"weight": held["weight"]}):
            norm.params = dict(params)
            for eps in (1e-5, 0.5):
                norm.eps = eps
                y, saved = norm.forward(x)
                dx, dweight, dbias = saved.backward(dy)
                rstd = 1 / np.sqrt(saved.spread + eps)
                np.testing.assert_allclose(saved.rstd, rstd, rtol=1e-12)
                twin = oracle_norm(case, norm, np.float64)
                twin.eps = eps
                with nz.use("reference"):
                    expected = norm_results(twin, x, dy)
                check.close(y, expected[0], check.EXACT)
                check.close(dx, expected[1], check.EXACT)
                for name, actual, exact in (("weight", dweight, expected[2]), ("bias", dbias, expected[3])):
                    assert (actual is None) == (name not in params)
                    if actual is not None:
                        assert actual.dtype == params[name].dtype
                        check.close(actual, exact, check.forward_tolerance(actual.dtype))


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", [(3, 5, 4, 6), (6, 5, 1, 1), (1, 5, 7), (4, 1, 9), (0, 5, 3), (3, 5, 0)], ids=str)
def test_evaluation_of_instance_norm_is_the_pass_of_batch_norm(shape, affine, axis, rng):
    """The samples share running statistics, so that kernels see no sets of each sample's own; `Saved` still has them."""
    x, dy = np.moveaxis(rng.standard_normal((2, *shape)).astype(np.float32), 2, axis + (axis > 0)).copy()
    options = {"affine": affine, "channel_axis": axis}
    batch, instance = (kind(shape[1], track_running_stats=True, **options) for kind in (nz.BatchNorm, nz.InstanceNorm))
    batch.running_mean[...], batch.running_var[...] = rng.uniform(0.5, 2, (2, shape[1]))
    instance.load_state_dict(filled(batch, rng).state_dict())
    sets = nz.InstanceNorm(shape[1], single_value="bias", **options).forward
    for v, d in zip(arrangements(x), arrangements(dy), strict=True):
        for out in (lambda a: None, np.empty_like):
            found = []
            for norm in (batch, instance):
                y, saved = norm.eval().forward(v, out(v))
                found.append((saved, y, *saved.backward(d, out(v))))
            (theirs, *expected), (mine, *actual) = found
            assert mine._plan.view == theirs._plan.view and mine.copied == theirs.copied
            for one, other in zip(actual, expected, strict=True):
                assert one is other is None or check.same_bits(one, other) is None
        for name in ("mean", "spread", "rstd"):
            found, shared = getattr(mine, name), getattr(theirs, name).reshape(1, shape[1])
            assert found.shape == getattr(sets(v)[1], name).shape
            check.same_bits(found.reshape(shape[:2]), np.repeat(shared, shape[0], axis=0))


def test_a_key_forgives_no_wrong_type():
    """True and 1.0 are equal to 1 and hash as it: a call before must not let them in."""
    x, x3 = np.ones((2, 1), np.float32), np.ones((2, 4, 3), np.float32)
    F.layer_norm(x, (1,))
    F.layer_norm(x, (1,), axis=1)
    F.layer_norm(x, [1], axis=[np.int64(1)])
    F.group_norm(x3, 1, channel_axis=1)
    F.instance_norm(x3, channel_axis=1)
    F.batch_norm(x3, None, None, training=True, channel_axis=1)
    F.normalize(x, 2, 1)
    for bad in (True, 1.0):
        for call in (
            lambda: F.layer_norm(x, (bad,)),  # noqa: B023
            lambda: F.layer_norm(x, bad),  # noqa: B023
            lambda: F.rms_norm(x, (bad,)),  # noqa: B023
            lambda: F.layer_norm(x, (1,), axis=bad),  # noqa: B023
            lambda: F.layer_norm(x, (1,), axis=(bad,)),  # noqa: B023
            lambda: F.group_norm(x3, bad),  # noqa: B023
            lambda: F.group_norm(x3, 1, channel_axis=bad),  # noqa: B023
            lambda: F.instance_norm(x3, channel_axis=bad),  # noqa: B023
            lambda: F.batch_norm(x3, None, None, training=True, channel_axis=bad),  # noqa: B023
            lambda: F.local_response_norm(x3, 1, channel_axis=bad),  # noqa: B023
            lambda: F.normalize(x, 2, bad),  # noqa: B023
        ):
            with pytest.raises(TypeError, match="integer"):
                call()


def test_a_masked_array_is_refused_after_a_plain_one(rng):
    x, p = rng.standard_normal((4, 3)).astype(np.float32), np.ones(3, np.float32)
    masked = np.ma.masked_array
    for training in (True, False):
        F.batch_norm(x, p, p.copy(), p, p, training=training)
        for i in range(5):
            arrays = [x, p.copy(), p.copy(), p, p]
            arrays[i] = masked(arrays[i])
            with pytest.raises(TypeError, match="without a mask"):
                F.batch_norm(*arrays, training=training)
    y, saved = F.layer_norm(x, 3, p, return_saved=True)
    saved.backward(x)
    with pytest.raises(TypeError, match="expected dy without a mask"):
        saved.backward(masked(x))


def test_training_and_evaluation_alternate(rng):
    """With buffers of any dtype and place, against float64 ones on the reference."""
    x, dy = rng.standard_normal((2, 6, 5, 3)).astype(np.float32)
    for dtype, spaced in itertools.product((np.float32, np.float64, np.float16, ">f4"), (False, True)):
        norm, model = filled(nz.BatchNorm(5), rng), nz.BatchNorm(5, dtype=np.float64)
        for name in norm.params:
            model.params[name][...] = norm.params[name]
        for name in ("running_mean", "running_var"):
            value = model.buffers[name].astype(dtype)
            norm.buffers[name] = np.repeat(value, 2)[::2] if spaced else value
        for i in range(4):
            training = i % 2 == 0
            found = norm_results(norm.train(training), x, dy)
            with nz.use("reference"):
                expected = norm_results(model.train(training), x.astype(np.float64), dy.astype(np.float64))
            for actual, exact in zip(found, expected, strict=True):
                check.close(actual, exact, 3e-3 if dtype == np.float16 else 1e-5)
            assert norm.num_batches_tracked == model.num_batches_tracked
            for name in ("running_mean", "running_var"):
                check.close(norm.buffers[name], model.buffers[name], 1e-3 if dtype == np.float16 else 1e-6)
    assert norm.buffers["running_mean"].dtype == np.dtype(">f4")


@pytest.mark.parametrize("training", [True, False])
def test_running_statistics_in_the_other_order_of_bytes_at_each_call(training, rng):
    x = (3 + rng.standard_normal((8, 5))).astype(np.float32)
    own, swapped = ([a.astype(dtype) for a in (np.zeros(5), np.ones(5))] for dtype in ("<f4", ">f4"))
    for _ in range(3):
        y, expected = (F.batch_norm(x, *running, training=training) for running in (swapped, own))
        check.same_bits(y, expected)
        for a, b in zip(swapped, own, strict=True):
            np.testing.assert_array_equal(a, b)


def test_the_mode_of_a_norm_is_looked_at_by_each_call(rng):
    """However it was set: here past the norm, which is told of attributes that are."""
    x = (3 + rng.standard_normal((8, 5))).astype(np.float32)
    for norm in (nz.BatchNorm(5), nz.InstanceNorm(5, track_running_stats=True)):
        a = x if isinstance(norm, nz.BatchNorm) else np.stack([x, 2 * x], axis=-1)
        for mode in (True, False, False, True, True, False):
            vars(norm)["training"] = mode
            before = norm.running_mean.copy()
            norm(a)
            assert (norm.running_mean != before).any() == mode


def test_the_backward_pass_runs_on_the_backend_of_its_block(rng):
    x = rng.standard_normal((4, 7)).astype(np.float32)
    norm = nz.LayerNorm(7)
    for forward, backward in itertools.product(("cpu", "reference"), repeat=2):
        with nz.use(forward):
            _, saved = norm.forward(x)
        with nz.use(backward):
            check.close(saved.backward(x).x, norm.forward(x)[1].backward(x).x, 1e-6)


def test_functional_forms_keep_nothing_unless_asked(rng, monkeypatch):
    def fail(*arguments):
        raise AssertionError("a Saved was made")

    for module in (passes, normalize):
        monkeypatch.setattr(module, "ViewSaved", fail)
    x, p = rng.standard_normal((4, 6, 3)).astype(np.float32), np.ones(6, np.float32)
    F.layer_norm(x, 3)
    F.rms_norm(x, 3)
    F.group_norm(x, 2, p, p)
    F.instance_norm(x, p, p.copy())
    F.batch_norm(x, p, p.copy(), p, p)
    F.batch_norm(x, p, p.copy(), p, p, training=True)
    F.normalize(x)
    for _ in range(2):  # a new call, and one that is remembered
        F.layer_norm(x, 3)
    with pytest.raises(AssertionError):
        F.layer_norm(x, 3, return_saved=True)


class Wrong(nz.Norm):
    """A norm whose axes are those of another array."""

    moments = Moments()

    def __init__(self):
        super().__init__(shape=(4,))

    def axes(self, x):
        return Axes((2, 4), "kR")


def test_axes_that_do_not_fit_are_refused_also_after_some_that_did():
    norm = Wrong()
    norm(np.ones((2, 4), np.float32))
    for shape in ((2, 3), (3, 4), (2, 4, 2), (8,)):
        with pytest.raises(ValueError, match="do not fit"):
            norm(np.ones(shape, np.float32))


@pytest.mark.parametrize("case", CASES[::3], ids=str)
def test_what_is_saved_can_be_copied_and_pickled(case, rng):
    x, dy = draw(case, rng, np.float32)
    norm = filled(case.norm(), rng)
    norm(x)
    expected = norm.backward(dy)
    for twin in (copy.deepcopy(norm.saved), pickle.loads(pickle.dumps(norm.saved))):
        check.same_bits(twin.backward(dy).x, expected)


def test_a_memo_is_bounded():
    memo = Memo()
    for i in range(3 * Memo.SIZE):
        assert memo.keep(i, -i) == memo[i] == -i
        assert len(memo) <= Memo.SIZE


def test_threads_share_plans(rng):
    """Eight threads call the same functions and one layer with other shapes and dtypes, and see but their own."""
    w, b = rng.standard_normal((2, 24)).astype(np.float32)
    layer = nz.LayerNorm(24)
    layer.weight, layer.bias = w, b
    failures = []

    def once(x, dy):
        y, saved = layer.forward(x)
        grouped = F.group_norm(x, 4, w, b, channel_axis=-1)
        return (
            y,
            *saved.backward(dy),
            grouped,
            F.rms_norm(x, (24,), w),
            F.batch_norm(x, None, None, training=True, channel_axis=-1),
        )

    def work(seed):
        own = np.random.default_rng(seed)
        try:
            arrays = []
            for rows in (2, 3, 5):
                for dtype in (np.float32, np.float64):
                    x, dy = own.standard_normal((2, rows, seed % 3 + 1, 24)).astype(dtype)
                    arrays.append((x, dy, once(x, dy)))
            barrier.wait()
            for i in range(150):
                x, dy, expected = arrays[i % len(arrays)]
                for actual, exact in zip(once(x, dy), expected, strict=True):
                    check.same_bits(actual, exact)
        except BaseException as error:
            failures.append(error)
            barrier.abort()

    barrier = threading.Barrier(8)
    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]


CALLS = [
    (F.layer_norm, (8,), 2),
    (F.layer_norm, 8, 2),
    (F.group_norm, 2, 2),
    (F.rms_norm, (8,), 1),
]


@pytest.mark.parametrize(("function", "asked", "count"), CALLS, ids=lambda v: getattr(v, "__name__", str(v)))
def test_a_function_recalls_its_last_call_only_where_this_one_is_like_it(function, asked, count, rng):
    x = rng.standard_normal((3, 8)).astype(np.float32)
    given = [rng.standard_normal(8).astype(np.float32) for _ in range(count)]
    function(x, asked, *given)
    expected = function(x, asked, *given)
    check.same_bits(function(x, asked, *given, return_saved=True)[0], expected)
    wide = [a.astype(np.float64) for a in given]
    strided = [np.repeat(a, 2)[::2] for a in given]
    for others in (wide, strided, [None] * count, given):
        for a in (x, x.astype(np.float64), np.asfortranarray(x), x[:2], x.view(np.memmap)):
            exact = function(a.astype(np.float64), asked, *others, return_saved=True)[0]
            for eps in (1e-5, 0.1):
                with nz.use("reference"):
                    plain = function(a, asked, *others, eps)
                found = function(a, asked, *others, eps)
                assert type(found) is np.ndarray and found.dtype == a.dtype
                check.close(found, plain, 2e-6)
            check.close(function(a, asked, *others), exact, 2e-6)
        check.same_bits(function(x, asked, *given), expected)
    for eps in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="eps"):
            function(x, asked, *given, eps)
    with pytest.raises(TypeError, match=f"{function.__name__}: expected x to be a NumPy array"):
        function(x.tolist(), asked, *given)
    with pytest.raises(ValueError, match="weight of shape"):
        function(x, asked, given[0][:4])
    check.same_bits(function(x, asked, *given), expected)


def test_what_only_equals_what_was_asked_for_is_refused_as_before(rng):
    x = rng.standard_normal((3, 1)).astype(np.float32)
    F.layer_norm(x, (1,))
    F.rms_norm(x, (1,))
    for function in (F.layer_norm, F.rms_norm):
        for shape in ((1.0,), (True,)):
            with pytest.raises(TypeError, match="normalized_shape"):
                function(x, shape)
    pairs = x.reshape(1, 3)
    F.group_norm(pairs, 1)
    with pytest.raises(TypeError, match="num_groups"):
        F.group_norm(pairs, True)
    sizes = [3]
    F.layer_norm(pairs, sizes)
    sizes[0] = 4
    with pytest.raises(ValueError, match="expected x of shape"):
        F.layer_norm(pairs, sizes)


def test_norms_of_the_same_axes_do_not_mix(rng):
    x = rng.standard_normal((3, 8)).astype(np.float32)
    layer, rms = nz.LayerNorm(8, elementwise_affine=False), nz.RMSNorm(8, elementwise_affine=False)
    y, z = layer(x), rms(x)
    for _ in range(3):
        check.same_bits(F.rms_norm(x, (8,)), z)
        check.same_bits(layer(x), y)
        check.same_bits(F.layer_norm(x, (8,)), y)
        check.same_bits(rms(x), z)


def entered(call, *arguments):
    names = []
    sys.setprofile(lambda frame, event, _: names.append(frame.f_code.co_name) if event == "call" else None)
    try:
        result = call(*arguments)
    finally:
        sys.setprofile(None)
    return names, result


def test_the_next_call_of_a_layer_enters_few_functions(rng):
    """Those that CONTRIBUTING.md lists, and the tuple of gradients; memory of the last result goes back besides."""
    norm = nz.BatchNorm(64)
    x = rng.standard_normal((8, 64, 28, 28)).astype(np.float32)
    for _ in range(3):
        held = norm(x), norm.backward(x)

    forward, y = entered(norm, x)
    assert forward == [
        "__call__", "forward", "recall", "_fits", "run", "empty", "run", "call", "samples_of", "__init__", "update",
    ]  # fmt: skip
    backward, dx = entered(norm.backward, x)
    assert backward[:-1] == [
        "backward", "backward", "_shortcut", "_changed", "samples_of", "_backward", "empty", "run", "call",
    ]  # fmt: skip
    for found, before in zip((y, dx), held, strict=True):
        check.same_bits(found, before)


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (nz.LayerNorm(1), (3, 1)),
        (nz.RMSNorm(1), (3, 1)),
        (nz.BatchNorm(5).eval(), (1, 5)),
        (nz.GroupNorm(2, 2), (3, 2, 2)),
    ],
    ids=str,
)
def test_sets_of_one_value_are_remembered_too(norm, shape, rng):
    """One sample in evaluation is how a network is mostly called."""
    x = rng.standard_normal(shape, np.float32)
    y = norm(x)
    forward, again = entered(norm, x)
    assert "find_plan" not in forward and "axes" not in forward
    check.same_bits(again, y)
