"""Several ranks: what SyncBatchNorm needs of a communicator, among the threads of one process; and mpiexec."""

import shutil
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent


class Request:
    def __init__(self, shared, key, target, size):
        self.shared, self.key, self.target, self.size = shared, key, target, size

    def Test(self):
        sent = self.shared.setdefault(self.key, {})
        if len(sent) < self.size:
            return False
        for rank, values in sent.items():
            self.target[rank] = values
        return True


class ThreadComm:
    """One rank of `size`; the n-th collective of every rank is one collective."""

    def __init__(self, shared, rank, size):
        self.shared, self.rank, self.size, self.made, self.aborted = shared, rank, size, 0, None

    def Get_rank(self):
        return self.rank

    def Get_size(self):
        return self.size

    def Iallgather(self, sent, found):
        self.made += 1
        self.shared.setdefault(self.made, {})[self.rank] = sent.copy()
        return Request(self.shared, self.made, found, self.size)

    def Abort(self, errorcode=0):
        self.aborted = errorcode


def together(size, work):
    """[work(comm) of every rank], or what it raised."""
    shared, results = {}, [None] * size

    def run(rank):
        try:
            results[rank] = work(ThreadComm(shared, rank, size))
        except Exception as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(120)
        assert not t.is_alive(), "a rank hangs"
    return results


def cuts(n, size, how):
    """Where n samples are cut for `size` ranks: "even", "uneven" or, with nothing for some ranks, "empty"."""
    at = {"even": np.linspace(0, n, size + 1), "uneven": [0, *[1] * (size - 1), n], "empty": [0, 0, *[n] * (size - 1)]}
    return [slice(int(a), int(b)) for a, b in zip(at[how][:-1], at[how][1:], strict=True)]


def mpiexec(size, script, *arguments, timeout=300):
    """Run a script under mpiexec; the finished process. Skips where there is no MPI."""
    if find_spec("mpi4py") is None:
        pytest.skip("needs mpi4py: pip install 'normzoo[mpi]'")
    beside = Path(sys.executable).parent / "mpiexec"
    found = str(beside) if beside.exists() else shutil.which("mpiexec")
    if found is None:
        pytest.skip("needs mpiexec: pip install 'normzoo[mpi]'")
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
    flags = ["--allow-run-as-root", "--oversubscribe"] if "Open" in version or "prte" in version.lower() else []
    command = [found, "-n", str(size), *flags, sys.executable, "-W", "error", str(script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, cwd=ROOT)
