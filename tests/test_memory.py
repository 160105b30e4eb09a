"""The pool of large results: used again only when nobody looks, bounded, and gone on request."""

import gc
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
    assert 0 < sum(m.nbytes for m in memory._pool) <= memory.LIMIT
    assert nz.release_memory() > 0
    assert nz.release_memory() == 0


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
