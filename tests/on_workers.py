"""What tests/test_dask.py runs: statistics of more chunks than the workers of a local cluster have memory for."""

import sys

import dask.array as da
import numpy as np
from dask.distributed import Client, LocalCluster

import normzoo as nz

LIMIT = 400 << 20  # bytes of one worker, about 200 MB of which are Python with Numba
ROWS, COLUMNS = 112_000, 1000


def main():
    # column j is j + 0, 1, 2 or 3 in turn, so that what is right is known: mean j + 1.5, variance 1.25
    steps = da.arange(ROWS, chunks=4000, dtype=np.float64) % 4
    x = steps[:, None] + da.arange(COLUMNS, chunks=COLUMNS, dtype=np.float64)[None, :]
    options = {"n_workers": 2, "threads_per_worker": 1, "memory_limit": LIMIT, "dashboard_address": None}
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        found = nz.stats_of(x, axis=0)
        limit = sum(w["memory_limit"] for w in client.scheduler_info()["workers"].values())
    if not x.nbytes > limit:
        sys.exit(f"{x.nbytes} bytes fit {limit}")
    np.testing.assert_allclose(found.mean, np.arange(COLUMNS) + 1.5, rtol=1e-14)
    np.testing.assert_allclose(found.var(), 1.25, rtol=1e-12)
    if not (found.count == ROWS).all():
        sys.exit("wrong counts")
    print(f"{x.nbytes >> 20} MiB in workers of {limit >> 20} MiB")


if __name__ == "__main__":
    main()
