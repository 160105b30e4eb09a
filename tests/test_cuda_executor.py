"""The executor finds what it is said to find: each seeded bug of `cuda_executor/kernels.py`, and nothing in its correct twin."""

import numpy as np
import pytest

from tests.cuda_executor import ExecutorError, Unsupported, unavailable

if reason := unavailable():
    pytest.skip(reason, allow_module_level=True)

from numba import cuda, types
from numba.types import CPointer, int32, void

from tests.cuda_executor.bench import SCHEDULES, XY, Bench
from tests.cuda_executor.executor import process
from tests.cuda_executor.kernels import (
    BUGS,
    copy,
    copy4,
    copy_past_the_end,
    launches,
    mirror,
    mirror_dynamic,
    mirror_no_barrier,
    reuse,
)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("kind, wrong, right, options", BUGS, ids=lambda v: getattr(v, "__name__", None))
def test_a_seeded_bug_is_found_and_its_twin_is_clean(kind, wrong, right, options, schedule):
    bad, good = launches(options)
    assert kind in Bench(schedule=schedule).run(wrong, **bad).kinds()
    assert Bench(schedule=schedule).run(right, **good).findings == []


def test_findings_raise_unless_collected():
    bench = Bench()
    bench.ex.collect = False
    with pytest.raises(
        ExecutorError,
        match=r"race shared: .* \(block 0, thread \d+, at load of float, align 4 in kernels.py:\d+\)",
    ) as e:
        bench.run(mirror_no_barrier)
    assert {f.kind for f in e.value.findings} == {"race shared", "uninitialized shared"}
    bench.run(mirror)


def test_misaligned_accesses():
    bench = Bench()
    assert bench.run(copy4, args=(bench.x, bench.y, 252)).findings == []
    found = bench.run(copy4, args=(bench.x + 4, bench.y, 252))
    assert found.kinds() == {"misaligned"}
    np.testing.assert_array_equal(bench.out()[:252], bench.values[1:253])
    half = void(CPointer(types.float64), CPointer(types.float64), int32)
    assert bench.run(copy, signature=half, args=(bench.x + 4, bench.y, 8)).kinds() == {"misaligned"}


def test_uninitialized_global_memory():
    bench = Bench(fill=False)
    assert bench.run(copy, grid=4).kinds() == {"uninitialized"}
    bench.ex.write(bench.x, bench.values)
    assert bench.run(copy, grid=4).findings == []
    again = bench.ex.alloc(4 * bench.n)
    assert bench.run(copy, grid=4, args=(bench.y, again, bench.n)).findings == []  # a kernel wrote it


def test_a_freed_buffer_is_out_of_bounds():
    bench = Bench()
    bench.ex.free(bench.x)
    assert bench.run(copy, grid=4).kinds() == {"out of bounds"}


def test_the_guard_zones_without_checks():
    bench = Bench(checked=False)
    with pytest.raises(ExecutorError, match="guard zone"):
        bench.run(copy_past_the_end, grid=5)
    bench.run(copy, grid=5)
    np.testing.assert_array_equal(bench.out(), bench.values)


def test_atomics_of_threads_and_blocks_do_not_race():
    def total(x, y):
        cuda.atomic.add(y, 0, x[cuda.grid(1)])
        cuda.atomic.max(y, 1, x[cuda.grid(1)])

    def total_read(x, y):
        cuda.atomic.add(y, 0, x[cuda.grid(1)])
        y[2] = y[0]

    arrays = void(types.float32[::1], types.float32[::1])
    bench = Bench()
    bench.ex.write(bench.y, np.array([0, -9, 0], np.float32))
    args = ((bench.x, (256,)), (bench.y, (3,)))
    assert bench.run(total, 4, signature=arrays, args=args).findings == []
    np.testing.assert_allclose(bench.out()[0], bench.values.sum(), rtol=1e-4)
    assert bench.out()[1] == bench.values.max()
    assert bench.run(total_read, 4, signature=arrays, args=args).kinds() == {"race", "blocks"}


# schedules -------------------------------------------------------------------------------------------------------------
def test_schedules_differ_and_repeat():
    def last(x, y, n):
        y[0] = x[cuda.threadIdx.x]  # the last thread wins
        y[1] = x[cuda.blockIdx.x]

    def outcome(schedule):
        bench = Bench(schedule=schedule, checked=False)
        bench.run(last, 50)
        return tuple(np.flatnonzero(bench.values == v)[0] for v in bench.out()[:2])

    assert outcome("in order") == (63, 49)
    assert outcome("reversed") == (0, 0)
    random = [outcome(("random", seed)) for seed in range(6)]
    assert len(set(random)) > 3
    assert random == [outcome(("random", seed)) for seed in range(6)]


def test_dropping_a_barrier():
    for schedule in ("in order", "reversed"):
        bench = Bench(schedule=schedule)
        bench.run(mirror)
        np.testing.assert_array_equal(bench.out()[:64], bench.values[:64][::-1])
        assert "race shared" in bench.run(mirror, drop_barrier=0).kinds()
        assert (bench.out()[:64] != bench.values[:64][::-1]).any()
    assert [bool(bench.run(reuse, drop_barrier=k).findings) for k in range(2)] == [True, True]
    assert (bench.ex.barriers(reuse, XY), bench.ex.barriers(copy, XY)) == (2, 0)
    with pytest.raises(ValueError, match="has 1 barriers"):
        bench.run(mirror, drop_barrier=1)


def test_what_is_not_defined_is_named():
    def sleep(x, y, n):
        cuda.nanosleep(100)

    def bessel(x, y, n):
        y[0] = cuda.libdevice.j1f(x[0])

    with pytest.raises(Unsupported, match="nanosleep"):
        Bench().run(sleep)
    with pytest.raises(Unsupported, match="__nv_j1f"):
        Bench().run(bessel)


def test_limits_of_a_launch():
    bench = Bench()
    for more in ({"block": 1025}, {"grid": 0}, {"shared_bytes": 228 * 1024}):
        with pytest.raises(ValueError, match="1 to 1024 threads|a block has 232448"):
            bench.run(copy, **more)
    assert bench.run(mirror_dynamic, shared_bytes=227 * 1024).findings == []


def test_a_thread_that_waits_for_ever(monkeypatch):
    def wait(x, y, n):
        while cuda.atomic.add(y, 0, 0) == 0:
            pass

    monkeypatch.setattr(process(), "trace", process().trace[: 1 << 12])
    bench = Bench(dtype=np.int32)
    bench.ex.write(bench.y, np.zeros(256, np.int32))
    arrays = void(types.int32[::1], types.int32[::1], int32)
    args = ((bench.x, (256,)), (bench.y, (256,)), 256)
    with pytest.raises(ExecutorError, match=r"no end: .* 4096 accesses \(block 0, thread 0\)"):
        bench.run(wait, signature=arrays, args=args)
    bench.ex.write(bench.y, np.ones(256, np.int32))
    assert bench.run(wait, signature=arrays, args=args).findings == []
