"""Running statistics of every norm that tracks, under interrupts, threads, forks, and passes inside of passes."""

import copy
import gc
import os
import pickle
import signal
import sys
import threading
import time
import warnings
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest

import normzoo as nz
from normzoo.backends import at_once as steps
from normzoo.backends import cpu
from normzoo.statistics import running_state
from normzoo.statistics.running_state import RunningState, copy_at_once
from tests import check
from tests.robust.process import forks, signals
from tests.zoo import ZOO

C = 5
X = np.random.default_rng(0).standard_normal((6, C, 4)).astype(np.float32) + 3
MASK = np.arange(24).reshape(6, 1, 4) % 5 > 0


@dataclass
class Tracked:
    """A norm that remembers, what it is called with, and the backend."""

    id: str
    norm: Any
    call: Any
    backend: str = "cpu"

    def __str__(self):
        return self.id


def _changes(make, call):
    norm = make()
    before = norm.state_dict()
    call(norm)
    return any(not np.array_equal(value, before[name]) for name, value in norm.state_dict().items())


def _of_the_zoo():
    """Each norm of the zoo whose pass changes its buffers, in float32 and float16."""
    for case in ZOO:
        for dtype in (np.float32, np.float16):

            def make(case=case, dtype=dtype):
                return case.draw(np.random.default_rng(0), dtype)[0]

            _, x, inputs, dy = case.draw(np.random.default_rng(0), dtype)
            options = inputs | case.fixed

            def call(norm, x=x, dy=dy, options=options):
                norm(x, **options)
                norm.backward(dy)

            if make().buffers and _changes(make, call):
                yield Tracked(f"{case.id}-{np.dtype(dtype).name}", make, call)


def _of_batches():
    def call(norm, **options):
        norm(X, **options)

    make = {
        "batch": partial(nz.BatchNorm, C),
        "batch-average": partial(nz.BatchNorm, C, momentum=None),
        "batch-half": partial(nz.BatchNorm, C, dtype=np.float16),
        "instance": partial(nz.InstanceNorm, C, track_running_stats=True),
    }
    for name, norm in make.items():
        yield Tracked(name, norm, call)
        yield Tracked(f"{name}-masked", norm, partial(call, mask=MASK))
        yield Tracked(f"{name}-reference", norm, call, "reference")
    for momentum in (0.1, None):
        yield Tracked(
            f"domain-{momentum}", partial(nz.DomainBatchNorm, C, 3, momentum=momentum), partial(call, domain=1)
        )
        yield Tracked(f"ghost-{momentum}", partial(nz.GhostBatchNorm, C, 2, momentum=momentum), call)


TRACKED = [*_of_batches(), *_of_the_zoo()]
each = pytest.mark.parametrize("tracked", TRACKED, ids=str)


def bits(norm):
    return {name: a.tobytes() for name, a in norm.buffers.items()}


def restore(norm, state):
    for name, value in state.items():
        norm.buffers[name][...] = value


class Interrupts:
    """KeyboardInterrupt out of a signal handler, at a random moment of a block."""

    def __init__(self):
        self.inside, self.rng = False, np.random.default_rng(0)

    def __enter__(self):
        self.before = signal.signal(signal.SIGALRM, self.handle)
        return self

    def __exit__(self, *_):
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self.before)

    def handle(self, *_):
        if self.inside:
            self.inside = False
            raise KeyboardInterrupt

    def during(self, function, seconds):
        """Was the call of the function interrupted?"""
        try:
            self.inside = True
            signal.setitimer(signal.ITIMER_REAL, max(1e-6, float(self.rng.random() * seconds)))
            function()
            self.inside = False
        except KeyboardInterrupt:
            return True
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        return False


def interrupts_leave_all_or_nothing(tracked, enough):
    norm = tracked.norm()
    state = {name: a.copy() for name, a in norm.buffers.items()}
    with nz.use(tracked.backend), Interrupts() as interrupts:
        times = []
        for _ in range(20):  # compiles
            restore(norm, state)
            start = time.perf_counter()
            tracked.call(norm)
            times.append(time.perf_counter() - start)
        buffers, seconds = norm.buffers, 1.1 * float(np.median(times))
        after = [bits(norm)]
        restore(norm, state)
        whole = [bits(norm), *after]
        if "nu" in norm.buffers:  # which the backward pass updates, in a step of its own
            whole.append(after[0] | {"nu": whole[0]["nu"]})
        left = enough
        for _ in range(50 * enough):
            restore(norm, state)
            left -= interrupts.during(lambda: tracked.call(norm), seconds)
            assert bits(norm) in whole, f"{tracked}: half a batch was taken in"
            if not left:
                break
        else:
            pytest.fail(f"{enough - left} interrupts instead of {enough}")
        assert norm.buffers is buffers
        restore(norm, state)
        tracked.call(norm)
        assert bits(norm) == after[0], "the next pass is right"


# Python drops an interrupt that comes while it tells a set that one of its weakly held values is gone
dropped = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. .function WeakSet:pytest.PytestUnraisableExceptionWarning"
)


@signals
@each
@dropped
def test_an_interrupt_at_any_moment_leaves_all_of_a_batch_or_nothing(tracked):
    interrupts_leave_all_or_nothing(tracked, 10)


@signals
@pytest.mark.slow
@each
@dropped
def test_ten_thousand_interrupts(tracked):
    interrupts_leave_all_or_nothing(tracked, -(-10_000 // len(TRACKED)))


def with_lock(gil, monkeypatch):
    """Steps as with the interpreter's lock, or without."""
    monkeypatch.setattr(steps, "has_gil", lambda: gil)
    for module in (running_state, cpu):
        monkeypatch.setattr(module, "at_once", steps._at_once)


@each
@pytest.mark.parametrize("gil", [True, False])
def test_a_batch_inside_of_the_update_of_another_is_taken_in_too(tracked, gil, monkeypatch):
    """A handler of signals, or a finalizer, that runs the norm between the reading and the writing of its thread."""
    with_lock(gil, monkeypatch)
    norm, twin, left = tracked.norm(), tracked.norm(), [1]
    at_once = running_state.at_once

    def interrupted(steps):
        if left[0] and norm.buffers is not None:
            left[0] = 0
            tracked.call(norm)
        return at_once(steps)

    with nz.use(tracked.backend):
        tracked.call(twin)
        monkeypatch.setattr(running_state, "at_once", interrupted)
        tracked.call(norm)
        monkeypatch.setattr(running_state, "at_once", at_once)
        if left[0]:  # compiled code did it in one step
            tracked.call(norm)
        tracked.call(twin)
    if "num_batches_tracked" in norm.buffers:
        check.same_bits(norm.buffers["num_batches_tracked"], twin.buffers["num_batches_tracked"])
    if "u" not in norm.buffers and "nu" not in norm.buffers and "renorm" not in tracked.id:  # y reads these
        for name, value in twin.buffers.items():
            check.same_bits(norm.buffers[name], value)
    assert not steps._lock.locked()


@signals
def test_signals_that_run_the_norm_which_they_interrupt():
    """As a checkpoint on SIGTERM that normalizes: nothing waits for itself, and every batch is counted."""
    norm, seen = nz.BatchNorm(C, dtype=np.float16), [0]

    def handle(*_):
        norm(X)
        seen[0] += 1

    before = signal.signal(signal.SIGALRM, handle)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        calls = 0
        while seen[0] < 200:
            norm(X)
            calls += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert norm.num_batches_tracked == calls + seen[0]


def on_threads(function, count=4):
    failures = []

    def run():
        try:
            function()
        except BaseException as error:
            failures.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=run) for _ in range(count)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    finally:
        sys.setswitchinterval(interval)
    assert not failures, failures


@each
def test_threads_that_share_a_norm_lose_no_batch(tracked):
    norm, twin = tracked.norm(), tracked.norm()

    def some():
        with nz.use(tracked.backend):
            for _ in range(10):
                tracked.call(norm)

    on_threads(some)
    with nz.use(tracked.backend):
        for _ in range(40):
            tracked.call(twin)
    if "num_batches_tracked" in norm.buffers:
        check.same_bits(norm.buffers["num_batches_tracked"], twin.buffers["num_batches_tracked"])
    for name, value in twin.buffers.items():
        # Passes back of PowerNorm meet other statistics; two passes of SpectralNorm at once are one iteration.
        if not tracked.id.startswith(("power_norm", "spectral_norm")):
            check.same_bits(norm.buffers[name], value)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_state_dict_beside_a_training_thread_is_of_one_batch(dtype):
    channels = 20_000
    norm = nz.BatchNorm(channels, affine=False, dtype=dtype, momentum=1.0)
    batches = [np.repeat(np.float32([[i], [i + 2 * (1 + i)]]), channels, axis=1) for i in range(4)]
    known = set()
    for x in batches:
        norm(x)
        known.add((float(norm.running_mean[0]), float(norm.running_var[0])))
    done = threading.Event()

    def train():
        i = 0
        while not done.is_set():
            norm.forward(batches[i % 4])
            i += 1

    thread = threading.Thread(target=train)
    thread.start()
    copies = []
    try:
        for make in (
            nz.BatchNorm.state_dict,
            nz.BatchNorm.state_dict,
            copy.deepcopy,
            lambda n: pickle.loads(pickle.dumps(n)),
        ):
            for _ in range(40):
                found = make(norm)
                copies.append(found if isinstance(found, dict) else found.buffers)
        deadline = time.monotonic() + 60  # a busy machine may not have let it train yet
        while len({int(state["num_batches_tracked"]) for state in copies}) == 1 and time.monotonic() < deadline:
            copies.append(norm.state_dict())
    finally:
        done.set()
        thread.join()
    for state in copies:
        mean, var = state["running_mean"], state["running_var"]
        assert (mean == mean[0]).all() and (var == var[0]).all()
        assert (float(mean[0]), float(var[0])) in known
    assert len({int(state["num_batches_tracked"]) for state in copies}) > 1


@forks
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_the_child_of_a_fork_in_the_middle_of_updates_has_whole_statistics(backend):
    norm = nz.BatchNorm(2000, affine=False, momentum=None)
    x = np.repeat(np.float32([[1], [3]]), 2000, axis=1)
    done = threading.Event()

    def train():
        with nz.use(backend):
            while not done.is_set():
                norm.forward(x)

    with nz.use(backend):
        norm(x)
    thread = threading.Thread(target=train)
    thread.start()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # that a process with threads was forked
            for _ in range(10):
                child = os.fork()
                if child == 0:
                    signal.alarm(30)
                    before = int(norm.num_batches_tracked)
                    whole = (norm.running_mean == 2).all() and (norm.running_var == 2).all()
                    with nz.use(backend):
                        norm(x)
                    os._exit(0 if whole and norm.num_batches_tracked == before + 1 else 1)
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        done.set()
        thread.join()


def test_a_finalizer_that_runs_the_norm():
    norm, counted = nz.BatchNorm(C, dtype=np.float16), [0]

    class Last:
        def __init__(self):
            self.circle = self

        def __del__(self):
            norm.forward(X)
            counted[0] += 1

    norm(X)
    before = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for _ in range(200):
            Last()
            norm.forward(X)
    finally:
        gc.set_threshold(*before)
    gc.collect()
    assert counted[0] == 200
    assert norm.num_batches_tracked == 401


def test_a_state_that_was_loaded_without_a_count_is_not_forgotten():
    """Other frameworks keep no number of batches."""
    x = np.float32([[0], [2]])
    for momentum in (0.1, 0.01):
        norm = nz.EMABatchNorm(1, momentum=momentum)
        norm.load_state_dict({"weight": np.ones(1), "bias": np.zeros(1), "running_mean": np.full(1, 100.0), "running_var": np.ones(1)})  # fmt: skip
        norm(x)
        check.close(norm.running_mean, [(1 - momentum) * 100 + momentum], 1e-5)
    fresh = nz.EMABatchNorm(1)
    fresh(x)
    assert fresh.running_mean == 1


def test_evo_norm_leaves_out_alone_where_its_state_is_read_only(rng):
    norm = nz.EvoNormB0(C)
    norm.buffers["running_var"].flags.writeable = False
    out = np.full_like(X, 7)
    with pytest.raises(ValueError, match=r"EvoNormB0\(5\): expected running_var that can be written"):
        norm(X, out=out)
    assert (out == 7).all()


@signals
def test_loading_is_all_or_nothing_under_interrupts(rng):
    norm = nz.BatchNorm(C)
    states = [{name: np.full(a.shape, i, a.dtype) for name, a in norm.state_dict().items()} for i in (1, 2)]
    seconds, whole = 2e-4, [{name: a.tobytes() for name, a in state.items()} for state in states]
    norm.load_state_dict(states[0])
    with Interrupts() as interrupts:
        count = 0
        for i in range(1000):
            count += interrupts.during(lambda i=i: norm.load_state_dict(states[i % 2]), seconds)
            assert {name: a.tobytes() for name, a in (norm.params | norm.buffers).items()} in whole
    assert count > 50


# The mechanism


LAYOUTS = {
    "dense": lambda a: a.copy(),
    "strided": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "turned": lambda a: a[..., ::-1].copy()[..., ::-1],
    "unaligned": lambda a: np.frombuffer(bytearray(b"1" + a.tobytes()), a.dtype, a.size, 1).reshape(a.shape),
    "fortran": lambda a: a.copy(order="F"),
    "swapped": lambda a: a.astype(a.dtype.newbyteorder()),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("gil", [True, False])
@pytest.mark.parametrize("shape", [(5,), (2, 3), (0,), (1,), (2, 0, 3)])
def test_arrays_of_any_layout_change_together(layout, gil, shape, monkeypatch):
    with_lock(gil, monkeypatch)
    values = np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)
    a, count = LAYOUTS[layout](values), np.array(3)
    state = RunningState(a, count)
    found = state.read()
    np.testing.assert_array_equal(found[0], values)
    calls = []

    def new(old, number):
        calls.append(old.copy())
        if len(calls) == 1:  # another thread
            count[()] = 10
        return old.astype(np.float64) * 2, number + 1

    state.replace(new)
    np.testing.assert_array_equal(a, values * 2)
    assert count == 11 and len(calls) == 2
    np.testing.assert_array_equal(found[0], values)
    copy_at_once([(a, values.astype(a.dtype)), (count, np.array(0))])
    np.testing.assert_array_equal(a, values)
    assert count == 0 and not steps._lock.locked()


def test_what_is_read_only_stops_all():
    a, b = np.zeros(3), np.zeros(3)
    b.flags.writeable = False
    for write in (
        lambda: RunningState(a, b).replace(lambda *old: (b + 1, b + 1)),
        lambda: copy_at_once([(a, b + 1), (b, b + 1)]),
    ):
        with pytest.raises(ValueError, match="read-only"):
            write()
        assert (a == 0).all()
    RunningState(a, b).replace(lambda *old: (np.ones(3), None))  # which stays as it is
    assert (a == 1).all()
