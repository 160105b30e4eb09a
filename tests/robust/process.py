"""Python processes of the tests' own: they may die, which is what is looked at."""

import os
import signal
import subprocess
import sys
from functools import cache
from importlib import metadata, util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAYERS = ("omp", "tbb", "workqueue")
# what Windows lacks, and some of it macOS
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
signals = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="a process cannot send itself signals here")
limits = pytest.mark.skipif(util.find_spec("resource") is None, reason="what a process may take has no limits here")
lists_processes = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="there is no /proc here")


def environment(**more):
    """The environment of this process, with the library on the path."""
    return {**os.environ, "PYTHONPATH": str(ROOT), **{name: str(value) for name, value in more.items()}}


def layer_environment(layer):
    """What makes Numba choose a threading layer; skips where that is not installed."""
    more, reason = _layer(layer)
    if reason:
        pytest.skip(reason)
    return more


@cache  # to ask takes a process
def _layer(layer):
    """The environment, and why there is none."""
    more = {"NUMBA_THREADING_LAYER": layer}
    if layer == "tbb":
        try:
            files = metadata.files("tbb") or ()
        except metadata.PackageNotFoundError:
            return {}, "tbb is not installed"
        folder = next(Path(str(f.locate())).resolve().parent for f in files if f.name.startswith("libtbb.so.12"))
        more["LD_LIBRARY_PATH"] = os.pathsep.join([str(folder), os.environ.get("LD_LIBRARY_PATH", "")])
    probe = run("-c", "import numba; print(numba.get_num_threads())", check=False, **more)
    return more, f"Numba has no layer {layer} here" if probe.returncode else ""


def run(*arguments, check=True, timeout=100, cwd=ROOT, **more):
    """A Python process with these arguments; what it wrote is shown where it fails."""
    done = subprocess.run(
        [sys.executable, "-W", "error", *map(str, arguments)],
        capture_output=True, text=True, timeout=timeout, env=environment(**more), cwd=cwd, check=False,
    )  # fmt: skip
    assert not check or done.returncode == 0, f"ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def script(code, **options):
    """The process of this code."""
    return run("-c", code, **options)
