"""Interrupts and no memory: state stays as it was, and the next call works."""

import contextlib
import sys

import numpy as np
import pytest

import normzoo as nz
from normzoo.backends import backend, cpu
from normzoo.passes import plan
from normzoo.statistics import running_state, updates
from tests import check
from tests.cases import CASES, draw, filled
from tests.robust.process import script, signals

LONG = """
import os, signal, threading, time
import numpy as np
import normzoo as nz

signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background inherits that it is ignored
norm = nz.BatchNorm(64)
x = np.random.default_rng(0).standard_normal((200_000, 64)).astype(np.float32)
small = x[:100]
norm(x)  # compiles
norm.backward(x)
interrupted = 0
for delay in (0.0, 0.001, 0.002, 0.003, 0.005, 0.008, 0.012, 0.02, 0.03, 0.05):
    for way in ("forward", "backward"):
        norm.reset_running_stats()
        before = norm.state_dict()
        timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT))
        try:
            timer.start()
            if way == "forward":
                norm(x)
            else:
                norm.forward(x, update_stats=False)[1].backward(x)
            timer.join()
            time.sleep(0.02)
        except KeyboardInterrupt:
            interrupted += 1
        timer.join()
        # all of the batch is in the statistics, or nothing of it
        count = int(norm.num_batches_tracked)
        assert count in (0, 1) and (way == "forward" or count == 0)
        clean = nz.BatchNorm(64)
        if count:
            clean(x)
        for name, value in clean.state_dict().items():
            assert np.array_equal(value, norm.state_dict()[name]), (way, delay, name)
        assert np.array_equal(norm.forward(small, update_stats=False)[0], clean.forward(small, update_stats=False)[0])
assert interrupted >= 18, interrupted
"""


@signals
def test_an_interrupt_during_a_long_call():
    """Ctrl-C at twenty moments of passes over 51 MB: a batch is counted with its statistics, or not at all."""
    script(LONG)


COMPILING = """
import os, signal, threading
import numpy as np
import normzoo as nz
from numba.core import event

recorder = event.RecordingListener()
event.register("numba:compile", recorder)
inside = False


def interrupted_once(*_):
    # as Python's own handler, while a pass is tried
    global inside
    if inside:
        inside = False
        raise KeyboardInterrupt


signal.signal(signal.SIGINT, interrupted_once)
norm = nz.BatchNorm(6)
x = np.random.default_rng(0).standard_normal((1, 6, 10)).astype(np.float32)  # sets of few values: kernels soon compiled
import normzoo.backends.cpu
interrupted, enough = 0, threading.Event()


def interrupt():
    while not enough.wait(0.02 + 0.04 * (interrupted % 5)):
        os.kill(os.getpid(), signal.SIGINT)


thread = threading.Thread(target=interrupt)
thread.start()
while interrupted < 12:
    state = norm.state_dict()
    try:
        inside = True
        norm(x)
        norm.backward(x)
        inside = False
    except KeyboardInterrupt:
        interrupted += 1
        if norm.num_batches_tracked == state["num_batches_tracked"]:
            for name, value in norm.state_dict().items():
                assert np.array_equal(value, state[name])
enough.set()
thread.join()
count = int(norm.num_batches_tracked)
y, dx = norm(x), norm.backward(x)
with nz.use("reference"):
    twin = nz.BatchNorm(6)
    assert np.abs(twin(x) - y).max() < 1e-6
    assert np.abs(twin.backward(x) - dx).max() < 1e-6
assert norm.num_batches_tracked == count + 1
begun = [(id(e.data["dispatcher"]), e.data["args"]) for _, e in recorder.buffer if e.is_start]
assert len(begun) > 10 and len(begun) == len(set(begun)), "what was begun was not ended"
"""


@signals
def test_an_interrupt_during_compilation(tmp_path):
    """Up to fifty a second, as kernels are compiled: they wait for the end of it, and the next call is right."""
    script(COMPILING, NUMBA_CACHE_DIR=tmp_path)


def test_an_interrupt_in_the_middle_of_an_update(rng, monkeypatch):
    """Between the new mean and the new variance, by a backend that does not update all at once: both stay as they
    were."""
    norm = nz.BatchNorm(5)
    x = rng.standard_normal((7, 5)).astype(np.float32)
    norm(x)
    state = norm.state_dict()

    def half(mean, var, *rest):
        mean[...] = 7
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(backend("cpu"), "update", half)
        patch.setattr(backend("cpu"), "updates_whole", False)
        norm(x)
    for name, value in norm.state_dict().items():
        check.same_bits(value, state[name])
    norm(x)
    assert norm.num_batches_tracked == 2


@pytest.mark.parametrize("momentum", [0.1, None])
def test_an_interrupt_anywhere_in_an_update(momentum, rng):
    """Mean, variance and the number of batches have all changed or none, wherever Python may be interrupted."""
    x = rng.standard_normal((7, 5)).astype(np.float32)
    twin = nz.BatchNorm(5, momentum=momentum)
    twin(x)
    before = nz.BatchNorm(5, momentum=momentum).state_dict()
    places = {updates.__file__, running_state.__file__, cpu.__file__}
    seen = set()
    for moment in range(1000):
        norm = nz.BatchNorm(5, momentum=momentum)
        try:
            with interrupted_at(moment, places):
                norm(x)
        except KeyboardInterrupt:
            pass
        else:
            break
        changed = [not np.array_equal(value, before[name]) for name, value in norm.buffers.items()]
        assert all(changed) or not any(changed), f"at place {moment}: {changed}"
        expected = twin.buffers if all(changed) else before
        for name, value in norm.buffers.items():
            check.same_bits(value, expected[name])
        seen.add(all(changed))
    else:
        raise AssertionError("never came to an end")
    assert seen == {True, False}


@contextlib.contextmanager
def interrupted_at(moment, files):
    """KeyboardInterrupt where Python looks for one: behind a call, or as a function begins; the `moment`-th such place in
    these files."""
    left = [moment]

    def look(frame, event, argument):
        if event == "c_call" or frame.f_code.co_filename not in files:
            return
        if left[0] == 0:
            sys.setprofile(None)
            raise KeyboardInterrupt
        left[0] -= 1

    sys.setprofile(look)
    try:
        yield
    finally:
        sys.setprofile(None)


@pytest.mark.parametrize("case", CASES[::2], ids=str)
def test_no_memory_at_any_allocation(case, rng, monkeypatch):
    """The first, second, ... allocation of a pass fails: nothing has changed, and the next pass is right."""
    norm = filled(case.norm(), rng)
    x, dy = draw(case, rng, np.float32)
    x, dy = np.asfortranarray(x), np.asfortranarray(dy)  # which takes copies
    twin = filled(case.norm(), np.random.default_rng(0))
    twin.load_state_dict(norm.state_dict())
    expected = norm(x), norm.backward(dy), norm.state_dict()
    calls = {"left": 0}

    def failing(allocate):
        def call(*arguments, **options):
            calls["left"] -= 1
            if calls["left"] < 0:
                raise MemoryError("none left")
            return allocate(*arguments, **options)

        return call

    failures = 0
    with monkeypatch.context() as patch:
        for name in ("empty", "full", "ascontiguousarray"):
            patch.setattr(np, name, failing(getattr(np, name)))
        patch.setattr(plan.Plan, "place", _placed_with(failing))
        state, enough = twin.state_dict(), False
        while not enough:
            for budget in range(50):
                calls["left"] = budget
                try:
                    y = twin(x)
                    enough = True
                except MemoryError:
                    failures += 1
                    calls["left"] = 10**9
                    assert twin.saved is None
                    for name, value in twin.state_dict().items():
                        check.same_bits(value, state[name])
                    continue
                break
            saved, grads = twin.saved, twin.grads
            for budget in range(50):
                calls["left"] = budget
                try:
                    dx = twin.backward(dy)
                except MemoryError:
                    failures += 1
                    assert twin.saved is saved and twin.grads is grads
                    continue
                break
    assert failures >= 4
    check.same_bits(y, expected[0])
    check.same_bits(dx, expected[1])
    for name, value in twin.state_dict().items():
        check.same_bits(value, expected[2][name])


def _placed_with(failing):
    """`Plan.place` whose allocators fail too: they are NumPy's own functions, taken when the plan is made."""
    place = plan.Plan.place

    def call(self, *arguments):
        place(self, *arguments)
        self.new, self.new_small = failing(self.new), failing(self.new_small)

    return call
