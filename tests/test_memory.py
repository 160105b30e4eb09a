"""The pool of large results: used again only when nobody looks, bounded, and gone on request."""

import gc
import sys
import threading
from collections import deque

import numpy as np
import pytest

import normzoo as nz
from normzoo.backends import memory


@pytest.fixture(autouse=True)
def empty_pool():
    nz.release_memory()
    yield
    nz.release_memory()


def address(a):
    return a.__array_interface__["data"][0]


def test_memory_is_used_again_after_the_last_view_dies():
    a = memory.empty((1024, 512), np.dtype(np.float32))
    view, first = a[3:, ::2].T, address(a)
    del a
    b = memory.empty((1024, 512), np.dtype(np.float32))
    assert address(b) != first, "a view is still alive"
    del view
    c = memory.empty((512, 1000), np.dtype(np.float32))
    assert address(c) == first
    assert address(c) % memory.LINE == 0
    c[...] = 1
    b[...] = 2
    assert (c == 1).all()


def test_arrays_are_ordinary_arrays():
    for dtype in ("f2", "f4", "f8"):
        a = memory.empty((3, 1 << 20), np.dtype(dtype))
        assert type(a) is np.ndarray and a.flags.writeable and a.flags.c_contiguous and a.dtype == dtype
    assert memory.empty((4, 4), np.dtype("f4")).flags.owndata, "small arrays are NumPy's"
    assert memory.empty((0, 1 << 30), np.dtype("f4")).shape == (0, 1 << 30)


def test_the_pool_is_bounded_and_can_be_emptied():
    arrays = [memory.empty((64 << 20,), np.dtype("f4")) for _ in range(4)]
    del arrays
    gc.collect()
    assert 0 < sum(len(m) for m in memory._pool) <= memory.LIMIT
    assert nz.release_memory() > 0
    assert nz.release_memory() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere memory cannot be made longer")
def test_a_result_larger_than_the_pool_leaves_as_much_as_fits(monkeypatch):
    """The next one has its pages, and fresh ones behind them; none of it is ever seen by two arrays."""
    monkeypatch.setattr(memory, "LIMIT", 16 << 20)
    byte = np.dtype(np.uint8)
    a = memory.empty((40 << 20,), byte)
    a[...] = 1
    assert address(a) % memory.PAGE == 0
    view = a[5:]
    del a
    assert not memory._pool, "a view is still alive"
    assert (view == 1).all()
    del view
    assert [len(m) for m in memory._pool] == [16 << 20]
    b = memory.empty((60 << 20,), byte)
    assert not memory._pool and address(b) % memory.PAGE == 0
    assert (b[: 12 << 20] == 1).all() and not b[16 << 20 :].any(), "old pages, and those of the system behind them"
    c = memory.empty((60 << 20,), byte)
    b[...], c[...] = 2, 3
    assert (b == 2).all() and (c == 3).all()
    del b, c
    assert sum(len(m) for m in memory._pool) <= memory.LIMIT
    small = memory.empty((13 << 20,), byte)
    assert not memory._pool and address(small) % memory.LINE == 0
    small[...] = 4
    del small
    assert nz.release_memory() == 16 << 20


def test_a_result_larger_than_the_pool_elsewhere(monkeypatch):
    monkeypatch.setattr(memory, "LIMIT", 8 << 20)
    monkeypatch.setattr("normzoo.environment.system.sys.platform", "darwin")
    a = memory.empty((20 << 20,), np.dtype(np.uint8))
    a[...] = 1
    assert a.sum() == 20 << 20
    del a
    assert not memory._pool


def test_results_are_right_in_used_memory(rng):
    norm = nz.LayerNorm(1024)
    x, dy = rng.standard_normal((2, 600, 1024)).astype(np.float32)
    y, dx = norm(x).copy(), norm.backward(dy).copy()
    for _ in range(3):
        memory.empty(x.shape, x.dtype).fill(np.nan)
        np.testing.assert_array_equal(norm(x), y)
        np.testing.assert_array_equal(norm.backward(dy), dx)


def test_threads_share_the_pool():
    failures = []

    def work(value):
        for _ in range(200):
            a = memory.empty((1 << 18,), np.dtype("f4"))
            a.fill(value)
            if not (a == value).all():
                failures.append(value)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_finalizer_that_keeps_memory_does_not_raise(monkeypatch):
    """There is no memory left for anything."""

    class Pool(deque):
        def copy(self):
            raise MemoryError

    memory.release_memory()
    monkeypatch.setattr(memory, "_pool", Pool())
    y = memory.empty((memory.LEAST,), np.dtype(np.uint8))
    del y
    assert not memory._pool
