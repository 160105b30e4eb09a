"""What tests/test_sync_batch_norm.py runs under mpiexec: python -m tests.on_ranks, or by its path, with a scenario."""

import os
import sys
import time
from pathlib import Path

import numpy as np
from mpi4py import MPI

sys.path.insert(0, str(Path(__file__).parent.parent))

import normzoo as nz
from tests import check
from tests.ranks import cuts

comm = MPI.COMM_WORLD
rank, size = comm.rank, comm.size
CASES = [((16, 8, 5, 6), np.float32, 1e4), ((32, 5), np.float64, 3.0)]


def one_step(comm, part, shape, dtype, mean):
    """SyncBatchNorm on this rank's part of a batch, and BatchNorm on the whole."""
    rng = np.random.default_rng(shape[0])
    x = (mean + 0.1 * rng.standard_normal(shape)).astype(dtype)
    dy = rng.standard_normal(shape).astype(dtype)
    alone = nz.BatchNorm(shape[1])
    norm = nz.convert_sync(nz.BatchNorm(shape[1]), comm)
    for each in (alone, norm):
        each.weight[...] = np.linspace(0.5, 2, shape[1])
        each.bias[...] = 0.3
    y, dx = alone(x), alone.backward(dy)
    return norm, alone, (norm(x[part]), y[part]), (norm.backward(dy[part]), dx[part], np.abs(dx).max())


def equal():
    """SyncBatchNorm is BatchNorm on all ranks' samples, and every rank has the same bits."""
    if rank == 0:  # compile once: the other ranks find the kernels on disk
        for case in CASES:
            one_step(MPI.COMM_SELF, slice(None), *case)
    comm.Barrier()
    for shape, dtype, mean in CASES:
        for how in ("even", "uneven", "empty"):
            part = cuts(shape[0], size, how)[rank]
            norm, alone, (y, expected), (dx, dx_expected, scale) = one_step(comm, part, shape, dtype, mean)
            check.close(y, expected, check.forward_tolerance(dtype), 1 + np.abs(expected).max(initial=0))
            check.close(dx, dx_expected, check.backward_tolerance(dtype), scale)
            for name in ("weight", "bias"):
                whole = comm.allreduce(norm.grads[name].astype(np.float64))
                check.close(whole, alone.grads[name], 1e-6, np.abs(whole).max() + shape[0])
            for name, value in norm.buffers.items():
                check.close(value, alone.buffers[name], 1e-6)
            bits = b"".join(a.tobytes() for a in (norm.saved.mean, norm.saved.rstd, *norm.buffers.values()))
            assert len(set(comm.allgather(bits))) == 1, "ranks differ"
    print(f"rank {rank} of {size}: equal", flush=True)


def raises():
    """A rank whose batch has another shape raises ValueError; the others are told at once."""
    norm = nz.SyncBatchNorm(4, timeout=60)
    wrong = rank == size - 1
    start = time.monotonic()
    try:
        norm(np.ones((3, 5 if wrong else 4), np.float32))
    except (ValueError, RuntimeError) as error:
        assert isinstance(error, ValueError) == wrong, error
        print(f"rank {rank} after {time.monotonic() - start:.0f} s: {error}", flush=True)


def stuck():
    """A rank that never comes."""
    norm = nz.SyncBatchNorm(4, timeout=2)
    if rank == 1:
        time.sleep(100)
    norm(np.ones((3, 4)))


def leaves():
    """A rank that raises elsewhere, and leaves MPI by the front door, which waits for the others."""
    norm = nz.SyncBatchNorm(4, timeout=2)
    if rank == 1:
        raise OSError("rank 1 lost its data")
    norm(np.ones((3, 4)))


def dies():
    """A rank that is gone at once."""
    norm = nz.SyncBatchNorm(4, timeout=2)
    if rank == 1:
        os._exit(9)
    norm(np.ones((3, 4)))


if __name__ == "__main__":
    {f.__name__: f for f in (equal, raises, stuck, leaves, dies)}[sys.argv[1]]()
