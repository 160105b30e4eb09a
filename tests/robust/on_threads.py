"""Eight Python threads on shared layers and on layers of their own: `python -m tests.robust.on_threads SMALL LARGE NORMS`.

SMALL and LARGE are how many passes forward and back all threads together make, on arrays of the serial kernels and on
arrays of the parallel ones, of the first NORMS norms. Prints the threading layer, counts and seconds.
"""

import sys
import threading
import time

import numba
import numpy as np

import normzoo as nz

THREADS = 8


def passes(norm, x, dy):
    y, saved = norm.forward(x)
    return y, *saved.backward(dy)


def norms(count):
    """For x of shape (n, 32, 12); all five take kernels of every family."""
    return [
        nz.BatchNorm(32),
        nz.LayerNorm(12),
        nz.GroupNorm(4, 32),
        nz.InstanceNorm(32, affine=True),
        nz.RMSNorm(32, axis=1),
    ][:count]


def main(small, large, kinds):
    rng = np.random.default_rng(0)
    shared = norms(kinds)
    work = []  # (calls of a thread, [(norm's index, x, dy, expected)])
    for count, rows in ((small, 2), (large, 300)):
        x, dy = (1e3 + rng.standard_normal((2, rows, 32, 12))).astype(np.float32)
        work.append((-(-count // THREADS), [(i, x, dy, passes(norm, x, dy)) for i, norm in enumerate(norms(kinds))]))
    failures = []
    start = threading.Barrier(THREADS)

    def thread(seed):
        own = norms(kinds)
        try:
            start.wait()
            for count, cases in work:
                for call in range(count):
                    i, x, dy, expected = cases[(call + seed) % len(cases)]
                    norm = (shared, own)[call // len(cases) % 2][i]
                    for found, right in zip(passes(norm, x, dy), expected, strict=True):
                        if not np.array_equal(found, right):
                            raise AssertionError(f"{norm}: wrong in thread {seed}, call {call}, {x.shape}")
            seen.append(int(own[0].num_batches_tracked))
        except BaseException as error:
            failures.append(error)
            start.abort()

    seen = []
    begun = time.perf_counter()
    threads = [threading.Thread(target=thread, args=(seed,)) for seed in range(THREADS)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if failures:
        raise failures[0]
    expected = sum(
        sum((call + seed) % len(cases) == 0 for call in range(count))
        for count, cases in work
        for seed in range(THREADS)
    )
    counted = int(shared[0].num_batches_tracked) + sum(seen)
    if counted != expected:
        raise AssertionError(f"BatchNorm counted {counted} batches of {expected}")
    done = [count * THREADS for count, _ in work]
    print(f"{numba.threading_layer()}: {done[0]} small and {done[1]} large passes, {THREADS} threads, "
          f"{time.perf_counter() - begun:.1f} s")  # fmt: skip


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
