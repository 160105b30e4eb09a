"""An exchange of a few numbers between all ranks, with a time limit."""

import sys
import time
from typing import Any, Protocol

import numpy as np

from normzoo.backends.contract import Array
from normzoo.environment.extras import to_install
from normzoo.passes.numbers import check_number

HEADER = 4  # numbers before the values: status, direction, number of earlier exchanges, number of values of this rank
WORKED, RAISED = 0.0, 1.0
WAYS = ("forward", "backward")
SPINS = 200  # checks without a pause: about as long as an exchange takes if no rank is late
PAUSES = 1e-5, 1e-3  # seconds between checks, at first and at most


class Comm(Protocol):
    """The methods of an mpi4py communicator that are used."""

    def Get_rank(self) -> int: ...

    def Get_size(self) -> int: ...

    def Iallgather(self, sendbuf: Any, recvbuf: Any) -> Any: ...

    def Abort(self, errorcode: int = 0) -> Any: ...


def world() -> Any:
    """MPI.COMM_WORLD."""
    try:
        from mpi4py import MPI  # noqa: PLC0415 (optional)
    except ImportError as error:
        raise RuntimeError(
            f"SyncBatchNorm: expected mpi4py and an MPI library for comm=None, got {error}; write {to_install('mpi')}"
        ) from error
    return MPI.COMM_WORLD


class Exchange:
    """The numbers of all ranks, in the order of the ranks, on every rank, by one collective call per exchange.

    Args:
        owner: the object whose str() begins error messages.
        comm: an mpi4py communicator.
        timeout: seconds that a rank waits for the others.
        on_timeout: "abort" writes to stderr which rank waited for what, and ends all processes by comm.Abort(1);
            nothing less ends them, as a process that leaves MPI also waits for the others. "raise" raises TimeoutError;
            the communicator is unusable afterwards.

    Every message contains its direction and the number of earlier exchanges, so that ranks out of step are detected. A
    rank whose computation failed sends that, so that the others do not wait for it.
    """

    def __init__(self, owner: object, comm: Any, timeout: float, on_timeout: str) -> None:
        self.comm = world() if comm is None else comm
        if not all(hasattr(self.comm, name) for name in ("Get_rank", "Get_size", "Iallgather", "Abort")):
            raise TypeError(
                f"{owner}: expected comm to be an mpi4py communicator, got {type(comm).__name__}; "
                "write from mpi4py import MPI; comm=MPI.COMM_WORLD"
            )
        self.timeout = check_number(owner, "timeout", timeout)
        if not self.timeout > 0:
            raise ValueError(f"{owner}: expected timeout > 0 seconds, got {timeout}; write timeout=300")
        if on_timeout not in ("abort", "raise"):
            raise ValueError(f"{owner}: expected on_timeout 'abort' or 'raise', got {on_timeout!r}")
        self.on_timeout = on_timeout
        self._owner, self._made = owner, 0

    def gather(self, way: str, count: int, values: Array, failed: BaseException | None = None) -> tuple[Array, Array]:
        """(counts, values) of all ranks: (ranks,) int64 and (ranks, ...) float64, where `values` has shape (...).

        Args:
            way: "forward" or "backward".
            count: an integer below 2^53.
            failed: the exception of this rank's computation; it is raised again after the others were told.

        Raises:
            RuntimeError: another rank failed, or the ranks do different things. TimeoutError: see `on_timeout`.
        """
        sent = np.concatenate([[RAISED if failed else WORKED, WAYS.index(way), self._made, count], values.ravel()])
        size = self.comm.Get_size()
        found = np.empty((size, sent.size))
        self._made += 1
        self._wait(self.comm.Iallgather(sent, found), way)
        if failed is not None:
            raise failed
        said = f"{self._owner}: expected all {size} ranks in the {way} pass"
        lost = np.flatnonzero(found[:, 0] != WORKED)
        if lost.size:
            raise RuntimeError(f"{said}, but rank {', '.join(map(str, lost))} raised in it; its own message says what")
        if (found[:, 1:3] != sent[1:3]).any():
            other = int(np.flatnonzero((found[:, 1:3] != sent[1:3]).any(axis=1))[0])
            raise RuntimeError(
                f"{said} after {int(sent[2])} exchanges, got rank {other} in the {WAYS[int(found[other, 1])]} pass "
                f"after {int(found[other, 2])}; call the norm as often on every rank, with empty batches if need be"
            )
        return found[:, 3].astype(np.int64), found[:, HEADER:].reshape(size, *values.shape)

    def _wait(self, request: Any, way: str) -> None:
        """Wait until the exchange is done, at most `timeout` seconds."""
        spins, pause, end = 0, PAUSES[0], time.monotonic() + self.timeout
        while not request.Test():
            spins += 1
            if spins < SPINS:
                continue
            if time.monotonic() > end:
                self._late(way)
            time.sleep(pause)
            pause = min(2 * pause, PAUSES[1])

    def _late(self, way: str) -> None:
        rank, size = self.comm.Get_rank(), self.comm.Get_size()
        message = (
            f"{self._owner}: expected {size} ranks in the {way} pass, but rank {rank} waited {self.timeout:g} s for "
            "the others, which are late, dead or elsewhere; call the norm on every rank, or raise timeout="
        )
        if self.on_timeout == "abort":
            print(message, file=sys.stderr, flush=True)
            self.comm.Abort(1)
        raise TimeoutError(message)
