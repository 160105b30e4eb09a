"""Loops that threads share, by themselves: every turn is taken once, with a pool and without, and what fails is told."""

import ctypes
import time

import numba
import numpy as np
import pytest
from llvmlite import ir
from numba.core import cgutils, types

from normzoo.backends.cpu import schedule
from normzoo.backends.cpu.code import compiled
from normzoo.backends.cpu.compiling.jit import helper, kernel, plain
from normzoo.backends.cpu.numba_internals.way import lower, typed
from normzoo.backends.cpu.parallel import sharing, threads
from normzoo.backends.cpu.parallel.sharing import ALONE, POOL, pool, pool_for, share
from normzoo.backends.cpu.vector.access import at, put
from normzoo.backends.cpu.vector.lanes import Flat

FOUND = Flat(types.float64)


def thread():
    """The number of the thread."""


typed(thread, lambda: types.int32)


@lower(thread)
def _thread(context, builder, sig, args):
    kind = ir.FunctionType(ir.IntType(32), [])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, "get_thread_id"), [])


@helper
def count(t, found, step):
    put(found, t, at(found, t) + step * (t + 1))


@helper
def fail(t, found, where):
    if t == where:
        raise MemoryError
    put(found, t, at(found, t) + 1)


@helper
def name_thread(t, found):
    put(found, t, thread())


@kernel
def naming(pool, turns, found):
    share(pool, turns, name_thread, (found,))


@kernel
def counting(pool, turns, found, step):
    share(pool, turns, count, (found, step))


@kernel
def failing(pool, turns, found, where):
    share(pool, turns, fail, (found, where))
    put(found, 0, 100)


def run(kernel, *arguments):
    compiled(kernel, (POOL, types.int64, FOUND, types.float64)[: len(arguments)]).call(*arguments)


@pytest.fixture(params=["alone", "pool"])
def given(request):
    numba.get_num_threads()  # starts them
    return ALONE if request.param == "alone" else pool()


@pytest.mark.parametrize("turns", [-1, 0, 1, 2, 3, 1000])
def test_every_turn_is_taken_once(turns, given):
    found = np.zeros(max(turns, 0) + 1)
    run(counting, given, turns, found, 0.5)
    np.testing.assert_array_equal(found[:-1], 0.5 * np.arange(1, turns + 1))
    assert found[-1] == 0


def test_a_few_values_wake_no_threads():
    assert plain(pool_for)(schedule.FOLDED_ON_THREADS - 1, 7) == ALONE
    assert plain(pool_for)(schedule.FOLDED_ON_THREADS, 7) == 7


@pytest.mark.parametrize("told", [1, 2])
def test_no_more_threads_than_numba_was_told(told, given, threads):
    threads(told)
    found = np.full(1000, -1.0)
    run(naming, given, len(found), found)
    assert found.min() >= 0 and len(set(found)) <= (1 if given == ALONE else told)
    assert (np.diff(found) != 0).sum() < told, "each takes one run of neighbours"


@pytest.mark.parametrize("where", [0, 5, 9])
def test_a_turn_without_memory_ends_the_kernel(where, given):
    found = np.zeros(10)
    with pytest.raises(MemoryError, match="working space"):
        run(failing, given, 10, found, where)
    assert found[0] < 100 and found[where] == 0


@pytest.mark.parametrize(("seconds", "values", "wakes"), [
    (50e-6, 1 << 17, False), (50e-6, 1 << 19, True), (1e-6, 1 << 17, True), (1, schedule.ALWAYS_SHARED - 1, False),
    (1, schedule.ALWAYS_SHARED, True),
])  # fmt: skip
def test_threads_are_woken_where_that_takes_less_than_they_save(seconds, values, wakes, monkeypatch):
    numba.get_num_threads()
    assert 0 < sharing.waking(2) < 1
    monkeypatch.setattr(threads, "waking", lambda count: seconds)
    monkeypatch.setattr(threads, "_waking_of", threads._Waking)
    monkeypatch.setattr(threads.numba, "get_num_threads", lambda: 2)
    given = []
    threads.guarded(given.append, values)(ALONE)
    assert given == [pool() if wakes else ALONE]


@pytest.fixture
def sleeper(monkeypatch):
    """What guards a kernel that takes a millisecond or, with `quick`, no time; and which pools it was given."""

    def guard(waking, quick=False):
        numba.get_num_threads()
        monkeypatch.setattr(threads, "waking", lambda count: next(waking))
        monkeypatch.setattr(threads, "_waking_of", threads._Waking)
        given = []

        def kernel(pool):
            given.append(pool)
            if not quick:
                time.sleep(0.001)

        return threads.guarded(kernel, 1 << 18), given

    return guard


def test_one_measurement_on_a_busy_machine_does_not_decide_for_ever(sleeper):
    call, given = sleeper(iter([1, 1e-6]))
    for _ in range(19):
        call(ALONE)
    assert given == [ALONE] * 18 + [pool()]
    for _ in range(100):  # which is not asked again
        call(ALONE)
    assert given[19:] == [pool()] * 100


@pytest.mark.parametrize("quick", [True, False])
def test_threads_are_woken_for_what_takes_long_not_for_what_was_thought_to(quick, sleeper):
    call, given = sleeper(iter([50e-6] * 3), quick)
    for _ in range(20):
        call(ALONE)
    assert given[:4] == [pool(), ALONE, ALONE, ALONE], "three are timed"
    assert given[4:] == [ALONE if quick else pool()] * 16


def test_a_scheduler_may_hand_over_several_parts_at_once():
    """As TBB's interface allows: here the first of four alone, and the other three in one call."""
    word, place = ctypes.c_size_t, ctypes.c_void_p
    work = ctypes.CFUNCTYPE(None, place, place, place, place)

    @ctypes.CFUNCTYPE(None, place, place, place, place, place, word, word, ctypes.c_int)
    def start(function, first, parts, step, data, *_):
        for part, handed in ((0, 1), (1, 3)):
            work(function)(ctypes.byref(place(part)), ctypes.byref(word(handed)), step, data)

    @ctypes.CFUNCTYPE(ctypes.c_int)
    def number():
        return 4

    addresses = (place * 2)(*(ctypes.cast(f, place).value for f in (start, number)))
    for turns in (2, 4, 5, 1000):
        found = np.zeros(turns)
        run(counting, ctypes.addressof(addresses), turns, found, 0.5)
        np.testing.assert_array_equal(found, 0.5 * np.arange(1, turns + 1))


def test_without_compilation_it_is_a_loop():
    found = np.zeros(4)
    share(ALONE, 4, plain(count), (found, 1))
    np.testing.assert_array_equal(found, [1, 2, 3, 4])


def test_a_numba_without_the_pool_runs_alone(monkeypatch):
    monkeypatch.setattr(sharing, "_addresses", sharing._addresses.__wrapped__)
    assert pool() != ALONE
    monkeypatch.setattr(sharing.binding, "address_of_symbol", lambda name: None)
    assert pool() == ALONE
