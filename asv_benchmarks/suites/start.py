"""Cold starts, each in a fresh process. A process that fails makes the benchmark fail."""

import os
import statistics
import tempfile

from targets import FIRST_CALL, IMPORT, STARTS, fresh

from suites.cases import benchmark


def timeraw_import():
    return "import normzoo"


vars(timeraw_import).update({"version": "1", "number": 1, "repeat": 3, "rounds": 1})


def track_import_over_numba():
    installed(IMPORT)  # writes the bytecode
    return statistics.median(installed(IMPORT) for _ in range(3))


vars(track_import_over_numba).update({"version": "1", "unit": "seconds"})


def installed(code: str, *arguments: str, cache: str | None = None) -> float:
    """The number that a fresh process prints which imports the normzoo measured, not that of the working tree."""
    return fresh(code, *arguments, environment=dict(os.environ), cache=cache)


@benchmark(STARTS, "kernel", unit="seconds")
def track_first_call_uncached(kernel):
    """The first call on this machine: it compiles. Once: it takes seconds."""
    with tempfile.TemporaryDirectory() as cache:
        return installed(FIRST_CALL, *STARTS[kernel], cache=cache)


@benchmark(STARTS, "kernel", unit="seconds")
def track_first_call_cached(kernel):
    """The first call of a process that finds its kernel on disk."""
    installed(FIRST_CALL, *STARTS[kernel])
    return statistics.median(installed(FIRST_CALL, *STARTS[kernel]) for _ in range(3))
