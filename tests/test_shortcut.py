"""Small passes in one call: with the bits of the long way, for what they were made for, and for nothing else."""

import copy
import itertools
import pickle
import sys
import threading
import tracemalloc

import numpy as np
import pytest

import normzoo as nz
from normzoo.backends import backend
from normzoo.backends.contract import Moments
from normzoo.backends.cpu import schedule
from normzoo.backends.cpu.fastcall import objects, shortcut
from normzoo.passes import plan
from normzoo.passes import site as passes
from normzoo.passes.view import Axes
from normzoo.statistics import running
from normzoo.zoo.layer import group_norm
from tests import check
from tests.cases import CASES, draw, filled

F = nz.functional


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """From the second pass on, instead of the thousandth; and what was known is forgotten."""
    monkeypatch.setattr(plan, "ENOUGH", 1)
    passes.forget()
    yield
    passes.forget()


@pytest.fixture
def taken(monkeypatch):
    """What came of each call of a shortcut: its result, or None where it was not for these arguments."""
    seen = []

    def watched(make):
        def made(*task):
            call = make(*task)

            def noted(*arguments):
                seen.append(call(*arguments))
                return seen[-1]

            return call and noted

        return made

    for name in ("forward_shortcut", "backward_shortcut"):
        monkeypatch.setattr(backend("cpu"), name, watched(getattr(backend("cpu"), name)))
    return seen


def results(norm, x, dy):
    y, saved = norm.forward(x)
    found = saved.backward(dy)
    return saved, [y, saved.mean, saved.spread, saved.rstd, *found, *(a.copy() for a in norm.buffers.values())]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_bits_of_the_long_way(case, dtype, rng, taken, monkeypatch):
    """With running statistics that go on."""
    x, dy = (a.astype(dtype) for a in draw(case, rng))
    parameters = np.float32 if dtype == np.float16 else dtype
    with monkeypatch.context() as patch:
        patch.setattr(plan, "ENOUGH", 10**9)
        norm = filled(case.norm(dtype=parameters), np.random.default_rng(0))
        expected = [results(norm, x, dy)[1] for _ in range(4)]
    assert not taken
    passes.forget()
    norm = filled(case.norm(dtype=parameters), np.random.default_rng(0))
    for exact in expected:
        saved, found = results(norm, x, dy)
        for actual, wanted in zip(found, exact, strict=True):
            if wanted is not None:
                check.same_bits(actual, wanted)
    made = saved._plan
    assert (made.shortcut or made.tracked or made.kinds is None) and made.recent_back.shortcut is not None
    if made.kinds is not None:
        assert taken and all(result is not None for result in taken)


CALLS = {
    "layer_norm": lambda x, w, b, m, v, **o: F.layer_norm(x, (8,), w, b, **o),
    "rms_norm": lambda x, w, b, m, v, **o: F.rms_norm(x, (8,), w, **o),
    "group_norm": lambda x, w, b, m, v, **o: F.group_norm(x, 2, w, b, **o),
    "batch_norm": lambda x, w, b, m, v, **o: F.batch_norm(x, m, v, w, b, True, **o),
    "instance_norm": lambda x, w, b, m, v, **o: F.instance_norm(x, m, v, w, b, **o),
}


def arrays(rng, name):
    x = rng.standard_normal((3, 8, 4) if name == "instance_norm" else (3, 8)).astype(np.float32)
    w, b, m = rng.standard_normal((3, 8)).astype(np.float32)
    return {"x": x, "w": w, "b": b, "m": m, "v": m**2}


def others(a):
    """The same values otherwise: what a shortcut for a plain array is not for, and that it may be for."""
    frozen = a.copy()
    frozen.flags.writeable = False
    odd = np.frombuffer(bytearray(a.nbytes + 1), a.dtype, a.size, offset=1).reshape(a.shape)
    odd[...] = a
    return [a.astype(np.float64), a.astype(">f4"), a.astype(np.float16), np.repeat(a, 2, axis=-1)[..., ::2], odd,
            a.view(np.memmap), frozen, a.copy()[:]]  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_other_arrays_take_the_long_way(name, rng, taken):
    """And what they give is what they gave before there was a shortcut: running statistics too."""
    call, given = CALLS[name], arrays(rng, name)

    def both(arguments, **options):
        changed = {k: a if a is None or not a.flags.writeable else copy.deepcopy(a) for k, a in arguments.items()}
        y = call(**changed, **options)
        return [y, changed["m"], changed["v"]]

    plain = [both(given) for _ in range(3)][-1]
    assert taken and taken[-1] is not None
    tracked = name in ("batch_norm", "instance_norm")
    for key in given:
        for other in [*others(given[key]), None]:
            if (key == "x" and other is None) or (tracked and key in "mv" and other is None):
                continue
            if tracked and key in "mv" and not other.flags.writeable:
                with pytest.raises(ValueError, match="can be written"):
                    both(given | {key: other})
                continue
            changed = given | {key: other}
            found = both(changed)
            passes.forget()
            with nz.use("reference"):
                expected = both(changed)
            with nz.use("cpu"):
                for _ in range(3):
                    both(given)  # the shortcut is there again
            for actual, exact in zip(found, expected, strict=True):
                if exact is not None:
                    assert actual.dtype == exact.dtype
                    check.close(actual, exact, 2e-3 if exact.dtype == np.float16 else 3e-6)
    for actual, exact in zip(both(given), plain, strict=True):
        check.same_bits(actual, exact)


@pytest.mark.parametrize("name", CALLS)
def test_what_is_no_argument_is_refused_as_before(name, rng, taken):
    call, given = CALLS[name], arrays(rng, name)
    for _ in range(3):
        call(**given)
    state = given["m"].copy(), given["v"].copy()
    assert taken.pop() is not None
    wrong = [("x", given["x"].tolist(), TypeError), ("x", given["x"].astype(int), TypeError),
             ("x", np.ma.masked_array(given["x"]), TypeError), ("w", given["w"][:4].copy(), ValueError),
             ("w", "weight", TypeError), ("x", None, TypeError)]  # fmt: skip
    if name in ("batch_norm", "instance_norm"):
        wrong += [("m", None, ValueError), ("v", given["v"][:4].copy(), ValueError), ("m", 3, TypeError)]
    for key, value, error in wrong:
        with pytest.raises(error, match=f"^{name}: "):
            call(**given | {key: value})
    for eps in (-1.0, np.nan, np.inf, "eps", [1e-5]):
        with pytest.raises((TypeError, ValueError), match="eps"):
            call(**given, eps=eps)
    if name == "batch_norm":
        with pytest.raises(ValueError, match="eps > 0"):
            call(**given, eps=0.0)
        for momentum in ("0.1", np.nan):
            with pytest.raises((TypeError, ValueError), match="momentum"):
                call(**given, momentum=momentum)
        before = state[0].copy()
        call(**given, momentum=0.0)
        check.same_bits(given["m"], before)
    for actual, exact in zip((given["m"], given["v"]), state, strict=True):
        check.same_bits(actual, exact)
    call(**given)
    assert taken[-1] is not None


def test_eps_of_any_type_is_as_good_as_a_float(rng):
    x = rng.standard_normal((3, 8)).astype(np.float32)
    for eps in (1, np.float32(0.5), np.float64(0.25), 0.0, True):
        expected = [F.layer_norm(x, 8, None, None, float(eps)) for _ in range(4)]
        for y in (*expected[1:], F.layer_norm(x, 8, None, None, eps) if eps is not True else expected[0]):
            check.same_bits(y, expected[0])


def test_an_array_that_changes_in_place_is_looked_at_again(rng, taken):
    w = rng.standard_normal(8).astype(np.float32)
    x = rng.standard_normal((4, 8)).astype(np.float32)
    norm = nz.BatchNorm(8)
    for _ in range(4):
        norm(x)
        F.layer_norm(x, (8,), w)
    assert taken[-1] is not None
    w.flags.writeable = False
    check.same_bits(F.layer_norm(x, (8,), w), F.layer_norm(x, (8,), w.copy()))
    norm.running_mean.flags.writeable = False
    before = norm.num_batches_tracked.item(), norm.running_var.copy()
    with pytest.raises(ValueError, match="can be written"):
        norm(x)
    assert norm.num_batches_tracked == before[0]
    check.same_bits(norm.running_var, before[1])


class Mirrored(nz.LayerNorm):
    """`axes` reads more than those of LayerNorm do."""

    behind = True

    def axes(self, x):
        return self.known[self.behind]

    known = Axes((12, 12), "Rk"), Axes((12, 12), "kR")


class Straight(nz.BatchNorm):
    """The same of a norm with running statistics."""

    behind = True
    known = Axes((12, 12), "Kr"), Axes((12, 12), "rK")
    axes = Mirrored.axes


@pytest.mark.parametrize(("norm", "name", "value"), [
    (lambda: nz.GroupNorm(2, 12), "num_groups", 4), (lambda: nz.LayerNorm(12), "eps", 0.5),
    (lambda: nz.LayerNorm(12, elementwise_affine=False), "axis", 0), (lambda: nz.RMSNorm(12), "eps", 0.25),
    (lambda: nz.BatchNorm(12), "channel_axis", 0), (lambda: nz.BatchNorm(12), "momentum", 0.5),
    (lambda: Mirrored(12), "behind", False), (lambda: Straight(12), "behind", False),
])  # fmt: skip
def test_a_layer_whose_attributes_are_set_is_asked_again(norm, name, value, rng, taken):
    x = rng.standard_normal((12, 12)).astype(np.float32)
    changed, fresh = norm(), norm()
    for _ in range(3):
        before = changed(x)
    assert taken and taken[-1] is not None
    setattr(changed, name, value)
    setattr(fresh, name, value)
    if name == "momentum":
        changed.reset_running_stats()
    for _ in range(2):
        y, expected = changed(x), fresh(x)
        check.same_bits(y, expected)
    if name == "momentum":
        for a, b in zip(changed.buffers.values(), fresh.buffers.values(), strict=True):
            check.same_bits(a, b)
    assert name == "momentum" or (y != before).any()


@pytest.mark.parametrize("make", [lambda: nz.LayerNorm(12), lambda: nz.RMSNorm(12), lambda: nz.GroupNorm(2, 12)])
def test_layers_refuse_as_before(make, rng, taken):
    """What is no array of the layer's is told so with a shortcut as without."""
    x = rng.standard_normal((3, 12)).astype(np.float32)
    norm, other = make(), make()
    for _ in range(3):
        norm(x)
    assert taken and taken[-1] is not None
    for wrong in (x[:, :5], x.astype(int), x.tolist(), None, x.astype(complex)):
        messages = []
        for one in (norm, other):
            with pytest.raises((TypeError, ValueError)) as raised:
                one(wrong)
            messages.append(str(raised.value))
        assert messages[0] == messages[1]
    masked = np.arange(12) < 6
    check.same_bits(norm(x, mask=masked), other(x, mask=masked))
    check.same_bits(norm(x.astype(np.float16)), other(x.astype(np.float16)))


def test_other_backends_and_blocks(rng, taken):
    x = rng.standard_normal((4, 8)).astype(np.float32)
    norm = nz.LayerNorm(8)
    for _ in range(4):
        norm(x)
        norm.backward(x)
        F.layer_norm(x, (8,))
    count = len(taken)
    assert count
    for _ in range(4):
        with nz.use("reference"):
            norm(x)
            norm.backward(x)
            F.layer_norm(x, (8,))
    assert len(taken) == count
    norm(x)
    norm(x)
    assert len(taken) == count + 2


def test_a_pass_that_was_overwritten_and_out(rng, taken):
    x = rng.standard_normal((4, 8)).astype(np.float32)
    norm = nz.LayerNorm(8)
    for _ in range(4):
        norm(x)
        norm.backward(x)
    count, expected = len(taken), norm(x)
    y, saved = norm.forward(x, out=(own := x.copy()))
    assert y is own
    check.same_bits(y, expected)
    kept = norm.forward(own)[1]
    kept.backward(x, out=own)
    with pytest.raises(RuntimeError, match="overwritten"):
        kept.backward(x)
    assert saved.backward(x, out=x.copy()) is not None
    assert len(taken) == count + 2  # the two passes forward that had no out


def test_gradients_by_shortcut(rng):
    """Against differences, with values far from zero and an upstream of its own."""
    for norm, shape in ((nz.LayerNorm(9), (4, 9)), (nz.BatchNorm(5), (6, 5, 3)), (nz.GroupNorm(2, 6), (3, 6, 5))):
        x, dy = rng.standard_normal((2, *shape))
        x += 1000
        weight = rng.standard_normal(norm.weight.shape)
        norm.params = {"weight": weight, "bias": np.zeros_like(weight)}
        for _ in range(4):
            _, saved = norm.forward(x)
            dx = saved.backward(dy).x
        assert saved._plan.recent_back.shortcut
        check.gradient_near(lambda v: norm.forward(v)[0], x, dx, dy, rng, 1e-5)  # noqa: B023


def test_threads_lose_no_batch(rng, taken):
    """Some on the shortcut, some on the long way, that updates copies."""
    norm, x = nz.BatchNorm(5), rng.standard_normal((7, 5)).astype(np.float32)
    twin = nz.BatchNorm(5)
    for _ in range(4):
        norm(x)
    count, workers = 300, 4

    def work(i):
        for j in range(count):
            norm.forward(np.repeat(x, 2, axis=0)[::2] if (i + j) % 3 == 0 else x)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(workers)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for _ in range(4 + count * workers):
        twin(x)
    assert norm.num_batches_tracked == twin.num_batches_tracked == 4 + count * workers
    check.same_bits(norm.running_mean, twin.running_mean)
    check.same_bits(norm.running_var, twin.running_var)
    assert sum(y is not None for y in taken) > count


def test_nothing_is_held_and_nothing_given_away(rng):
    x, dy = rng.standard_normal((2, 4, 8)).astype(np.float32)
    w, b, m, v = rng.standard_normal((4, 8)).astype(np.float32) ** 2
    norm = nz.BatchNorm(8)

    def once(eps=1e-5):
        F.layer_norm(x, (8,), w, b, eps)
        F.batch_norm(x, m, v, w, b, True)
        F.layer_norm(x, (8,), None, w)  # which the shortcut is not for
        y, saved = norm.forward(x)
        saved.backward(dy)
        return y

    for _ in range(50):
        once()
    y = once()
    other = np.empty_like(y)
    assert sys.getrefcount(y) == sys.getrefcount(other)  # which is 2, or 1 from Python 3.14 on
    counted = [x, dy, w, b, m, v, norm.weight, norm.running_mean, norm.num_batches_tracked, x.dtype, np.empty, None]
    before = [sys.getrefcount(a) for a in counted]
    tracemalloc.start()
    start = tracemalloc.get_traced_memory()[0]
    for _ in range(500):
        once()
    grown = tracemalloc.get_traced_memory()[0] - start
    tracemalloc.stop()
    assert grown < 50_000  # 500 results are 100 KB
    for a, count in zip(counted, before, strict=True):
        assert abs(sys.getrefcount(a) - count) < 20, type(a)


def test_plans_with_shortcuts_are_copied_and_pickled(rng):
    x = rng.standard_normal((4, 8)).astype(np.float32)
    norm = nz.LayerNorm(8)
    for _ in range(4):
        _, saved = norm.forward(x)
        expected = saved.backward(x)
    assert saved._plan.shortcut and saved._plan.recent_back.shortcut
    for twin in (copy.deepcopy(saved), pickle.loads(pickle.dumps(saved))):
        for actual, exact in zip(twin.backward(x), expected, strict=True):
            check.same_bits(actual, exact)


def test_sizes_that_are_large_have_none(rng, taken):
    for rows, short in ((schedule.SMALL // 64, True), (schedule.SMALL // 64 + 1, False)):
        norm = nz.LayerNorm(64)
        x = rng.standard_normal((rows, 64)).astype(np.float32)
        taken.clear()
        for _ in range(4):
            norm(x)
            norm.backward(x)
        assert bool(taken) == short


@pytest.mark.parametrize("axes", [shortcut.AXES, shortcut.AXES + 1])
def test_many_axes(axes, rng, taken):
    x = rng.standard_normal((2,) * axes).astype(np.float32)
    with nz.use("reference"):
        expected = F.layer_norm(x, (2, 2))
    for _ in range(4):
        check.close(F.layer_norm(x, (2, 2)), expected, 1e-5)
    assert bool(taken) == (axes <= shortcut.AXES)


def test_where_objects_are_made_otherwise_there_are_none(rng, taken, monkeypatch):
    monkeypatch.setattr(objects, "is_as_expected", lambda: False)
    x = rng.standard_normal((4, 8)).astype(np.float32)
    for _ in range(4):
        F.layer_norm(x, (8,))
    assert not taken


def test_objects_are_looked_at_where_they_have_their_fields(monkeypatch):
    assert objects.is_as_expected()
    for name, offset in itertools.product(("RANK", "SIZES", "DTYPE", "FLAGS", "TYPE"), (-8,)):
        with monkeypatch.context() as patch:
            patch.setattr(objects, name, getattr(objects, name) + offset)
            assert not objects.is_as_expected.__wrapped__(), name


def test_a_shortcut_that_cannot_be_compiled_is_done_without(rng, monkeypatch):
    """No memory to run code from, a compiler that fails: passes go the usual way, and that is said once."""
    x = rng.standard_normal((4, 8)).astype(np.float32)

    def broken(*_):
        raise OSError("cannot allocate memory for code")

    monkeypatch.setattr(backend("cpu"), "forward_shortcut", broken)
    monkeypatch.setattr(backend("cpu"), "backward_shortcut", broken)
    for make in (lambda: nz.LayerNorm(8), lambda: nz.BatchNorm(8)):
        passes.forget()
        norm, twin = make(), make()
        with nz.use("reference"):
            expected = twin(x), twin.backward(x)
        with pytest.warns(RuntimeWarning, match="shortcut cannot be compiled here .OSError: cannot allocate memory"):
            for _ in range(3):
                y = norm(x)
                dx = norm.backward(x)
        check.close(y, expected[0], 1e-6)
        check.close(dx, expected[1], 1e-5)
        for _ in range(5):  # nothing more is said
            norm(x)
            norm.backward(x)


def test_a_norm_that_counts_gets_its_shortcut_after_as_many_passes(rng, monkeypatch):
    monkeypatch.setattr(plan, "ENOUGH", 10)
    x = rng.standard_normal((4, 8)).astype(np.float32)
    for norm in (nz.BatchNorm(8), nz.LayerNorm(8)):
        for _ in range(9):
            norm(x)
        used = norm.saved._plan
        assert used.uses == 9 and not used.shortcut and not used.tracked
        norm(x)
        assert used.tracked if isinstance(norm, nz.BatchNorm) else used.shortcut


def test_plans_are_forgotten_between_a_pass_and_its_update(rng, monkeypatch):
    """Another thread normalizes so many lengths that all plans are cleared: the batch is counted and y is returned."""
    norm, twin = nz.BatchNorm(8), nz.BatchNorm(8)
    x = rng.standard_normal((4, 8)).astype(np.float32)
    normalize = running.normalize

    def cleared(*arguments, **options):
        found = normalize(*arguments, **options)
        passes.forget()
        return found

    expected = twin(x)
    monkeypatch.setattr(running, "normalize", cleared)
    for i in range(3):
        check.same_bits(norm(x), expected)
        assert norm.num_batches_tracked == i + 1


class Forgetful(nz.GroupNorm):
    """Its axes read an attribute that it does not ask for."""

    asks = "num_groups", "channel_axis", "num_channels"
    last = False

    def axes(self, x):
        return group_norm.axes(self, x, self.num_groups, -1 if self.last else 1, self.num_channels)


def test_an_attribute_that_a_norm_does_not_ask_for(rng):
    norm = Forgetful(2, 4)
    x = rng.standard_normal((3, 4, 4)).astype(np.float32)
    for _ in range(5):
        norm(x)
    norm.last = True
    check.same_bits(norm(x), nz.GroupNorm(2, 4, channel_axis=-1)(x))


@pytest.mark.parametrize("make", [lambda: nz.LayerNorm(8), lambda: nz.BatchNorm(8), lambda: nz.GroupNorm(2, 8)])
def test_moments_that_are_set_on_a_norm(make, rng):
    x = rng.standard_normal((4, 8)).astype(np.float32)
    norm = make()
    for _ in range(5):
        before = norm(x)
    norm.moments = Moments(center=False, power=2)
    found = norm(x)
    assert np.abs(found - before).max() > 1e-3
    twin = make()
    twin.moments = norm.moments
    check.same_bits(found, twin(x))
    check.same_bits(norm(x), found)


@pytest.mark.parametrize("changes", ["x", "weight"])
def test_a_pass_before_the_shortcut_goes_back_by_it_as_long_as_nothing_changes(changes, taken, rng):
    norm = nz.LayerNorm(8)
    x, dy = rng.standard_normal((2, 4, 8)).astype(np.float32)
    saved = norm.forward(x)[1]
    stats = [saved.mean.copy(), saved.rstd.copy()]
    expected = saved.backward(dy)
    saved.backward(dy)
    found = saved.backward(dy)
    assert taken[-1] is found.x
    for a, b in zip([*found, saved.mean, saved.rstd], [*expected, *stats], strict=True):
        check.same_bits(a, b)
    (x if changes == "x" else norm.weight)[0] += 1
    with pytest.raises(RuntimeError, match=f"expected {changes} as it was in the forward pass"):
        saved.backward(dy)


@pytest.mark.parametrize(("name", "value"), [("eps", 0.0), ("momentum", 5.0), ("momentum", "abc"), ("momentum", None)])
def test_a_bad_number_is_refused_however_often_a_function_was_called(name, value, rng):
    x = rng.standard_normal((4, 6)).astype(np.float32)
    for kept in ((None, None), (np.zeros(6), np.ones(6))):
        for _ in range(4):
            F.batch_norm(x, *kept, training=True)
        with pytest.raises((TypeError, ValueError), match=f"expected {name}"):
            F.batch_norm(x, *kept, training=True, **{name: value})


@pytest.mark.parametrize("sets", [7, 171, 384, 2000])
def test_functions_of_any_number_of_sets_whose_statistics_nobody_asks_for(sets, taken, rng):
    """They lie on the stack or, where these are many, in memory that is the pass's until its end."""
    x, p = (3 + rng.standard_normal((sets, 8))).astype(np.float32), np.ones(8, np.float32)
    columns, mean, var = np.ascontiguousarray(x.T), np.zeros(sets, np.float32), np.ones(sets, np.float32)
    for _ in range(6):
        expected = F.layer_norm(x, (8,), p, return_saved=True)[0]
        check.same_bits(F.layer_norm(x, (8,), p), expected)
        check.same_bits(F.rms_norm(x, (8,), p), F.rms_norm(x, (8,), p, return_saved=True)[0])
        state = mean.copy(), var.copy()
        expected = F.batch_norm(columns, *state, training=True, return_saved=True)[0]
        check.same_bits(F.batch_norm(columns, mean, var, training=True), expected)
        for a, b in zip((mean, var), state, strict=True):
            check.same_bits(a, b)
    assert sum(found is not None for found in taken) > 10


# -- with something around the norm

AROUND = {
    "residual": ({}, "residual"),
    "residual_scale": ({"residual_scale": -0.5, "activation": "tanh"}, "residual"),
    "activation": ({"activation": "silu"}, ""),
    "add": ({"activation": "relu"}, "add"),
    "gate": ({"activation": "silu"}, "gate"),
    "gate_first": ({"activation": "silu", "gate_first": True}, "gate"),
    "residual_and_gate": ({"activation": "silu"}, "residual gate"),
}
NORMS = {
    "layer_norm": lambda dtype, **o: nz.LayerNorm(8, dtype=dtype, **o),
    "batch_norm": lambda dtype, **o: nz.BatchNorm(8, dtype=dtype, **o),
    "rms_norm": lambda dtype, **o: nz.RMSNorm(8, dtype=dtype, **o),
    "group_norm": lambda dtype, **o: nz.GroupNorm(2, 8, affine=False, dtype=dtype, **o),
}


def passed(norm, x, beside, dys):
    """y, s, the gradients with ds and without, and running statistics."""
    made, saved = norm.forward(x, **beside)
    made = made if isinstance(made, tuple) else (made,)
    found = [*made, saved.mean, saved.rstd]
    for ds in (None, None, *(dys[1:2] * 2 if "residual" in beside else ())):  # a shortcut is for the kind of the last
        grads = saved.backward(dys[0], ds=ds)
        found += [*grads, *(grads.others[name] for name in sorted(grads.others))]
    return saved, [*found, *(a.copy() for a in norm.buffers.values())]


@pytest.mark.parametrize(
    ("pattern", "name", "dtype"),
    [*((pattern, "layer_norm", np.float32) for pattern in AROUND), ("add", "batch_norm", np.float32),
     ("gate", "rms_norm", np.float64), ("residual", "rms_norm", np.float16), ("activation", "group_norm", np.float32)],
)  # fmt: skip
def test_bits_of_the_long_way_with_something_around(pattern, name, dtype, rng, taken, monkeypatch):
    options, names = AROUND[pattern]
    parameters = np.float32 if dtype == np.float16 else dtype
    x, *others = rng.standard_normal((5, 6, 8)).astype(dtype)
    beside, dys = dict(zip(names.split(), others, strict=False)), others[2:]
    with monkeypatch.context() as patch:
        patch.setattr(plan, "ENOUGH", 10**9)
        norm = filled(NORMS[name](parameters, **options), np.random.default_rng(0))
        expected = [passed(norm, x, beside, dys)[1] for _ in range(4)]
    assert not taken
    passes.forget()
    norm = filled(NORMS[name](parameters, **options), np.random.default_rng(0))
    for exact in expected:
        saved, found = passed(norm, x, beside, dys)
        for actual, wanted in zip(found, exact, strict=True):
            assert (actual is None) == (wanted is None)
            if wanted is not None:
                check.same_bits(actual, wanted)
    made = saved._plan
    assert (made.shortcut or made.tracked) and made.recent_back.shortcut
    assert len([y for y in taken if y is not None]) >= 6


@pytest.mark.parametrize("name", ["residual", "add", "gate"])
def test_other_arrays_beside_take_the_long_way(name, rng, taken):
    x, given, dy = rng.standard_normal((3, 6, 8)).astype(np.float32)
    norm = filled(nz.LayerNorm(8, activation="silu"), rng)

    def both(a):
        y, saved = norm.forward(x, **{name: a})
        return [*(y if isinstance(y, tuple) else (y,)), saved.backward(dy).others[name]]

    plain = [both(given) for _ in range(3)][-1]
    assert taken and taken[-1] is not None
    for other in [*others(given), given[:1]] if name == "residual" else others(given):
        before = len(taken)
        found = both(other)
        with nz.use("reference"):
            expected = both(other)
        for actual, exact in zip(found, expected, strict=True):
            assert actual.dtype == exact.dtype
            check.close(actual, exact, 2e-3 if exact.dtype == np.float16 else 3e-6)
        if other.shape != given.shape or other.dtype != given.dtype or not other.flags.c_contiguous:
            assert taken[before] is None
    for wrong, error in ((given[:, :4], ValueError), (given.tolist(), TypeError)):
        with pytest.raises(error, match=name):
            both(wrong)
    for actual, exact in zip(both(given), plain, strict=True):
        check.same_bits(actual, exact)


@pytest.mark.parametrize(
    ("pattern", "changed"),
    [("residual", "s"), ("add", "add"), ("gate", "gate"), ("gate_first", "x"), ("gate_first", "gate"), ("add", "x"),
     ("activation", "bias"), ("gate", "bias"), ("gate_first", "weight"), ("residual", "weight")],
)  # fmt: skip
@pytest.mark.parametrize("saved_by", ["shortcut", "long way"])
def test_changed_arrays_beside_are_refused(pattern, changed, saved_by, rng, taken):
    """By a shortcut going back, whichever way the pass went forward."""
    options, names = AROUND[pattern]
    x, z, dy = rng.standard_normal((3, 6, 8)).astype(np.float32)
    norm = filled(nz.LayerNorm(8, **options), rng)
    beside = dict.fromkeys(names.split(), z)
    for _ in range(3):
        norm(x, **beside)
        norm.backward(dy)
    assert all(result is not None for result in taken)
    out = {"out": np.empty_like(x)} if saved_by == "long way" else {}
    made = norm(x, **beside, **out)
    norm.backward(dy)
    target = {"s": made[1], "x": x, "weight": norm.weight, "bias": norm.bias}.get(changed, z)
    target[...] += 1
    before = len(taken)
    with pytest.raises(RuntimeError, match=f"expected {changed} as it was"):
        norm.backward(dy)
    assert taken[before:] == [None]
