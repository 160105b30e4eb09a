"""Every run compiles its own kernels: a stale disk cache can neither hide nor cause a failure. Runs of one tree may share
a folder for them, which NORMZOO_TEST_CACHE names."""

import gc
import importlib
import os
import sys
import tempfile
import warnings
from pathlib import Path

if "NORMZOO_TEST_CACHE" in os.environ:
    os.environ["NUMBA_CACHE_DIR"] = os.environ["NORMZOO_TEST_CACHE"]
else:
    _cache = tempfile.TemporaryDirectory(prefix="normzoo-test-")
    os.environ["NUMBA_CACHE_DIR"] = _cache.name
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numba
import numpy as np
import pytest

gc.set_threshold(100_000, 50, 100)  # compiling makes so many objects that looking through them all takes a twentieth


def pytest_addoption(parser):
    parser.addoption(
        "--kept-kernels",
        type=Path,
        metavar="FOLDER",
        help="keep the executor's compiled CUDA kernels there, and use them",
    )
    parser.addoption(
        "--plain", action="store_true", help="compile kernels as with a Numba of which no private name is known"
    )


def pytest_configure(config):
    # Tests of evaluation often use statistics that are as at first; test_mistakes.py looks at the warning.
    config.addinivalue_line("filterwarnings", "ignore:.*expected running statistics of at least one batch:UserWarning")
    if folder := config.getoption("--kept-kernels"):
        from tests.cuda_executor import kept  # noqa: PLC0415  (Numba and its like are not imported for nothing)

        kept.folder = folder
    if config.getoption("--plain"):
        sys.modules["normzoo.backends.cpu.numba_internals.target"] = None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module("normzoo.backends.cpu")


@pytest.fixture
def rng():
    return np.random.default_rng(20260101)


@pytest.fixture
def threads():
    """Set the number of threads for the rest of one test; skip where the machine has fewer."""
    before = numba.get_num_threads()

    def choose(count):
        if count > numba.config.NUMBA_NUM_THREADS:
            pytest.skip(f"needs {count} threads")
        numba.set_num_threads(count)

    yield choose
    numba.set_num_threads(before)
