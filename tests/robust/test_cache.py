"""The disk cache of kernels: broken, full, forbidden, or written by several processes at once, it costs compiling anew."""

import itertools
import os
import subprocess
import sys

import numba
import numpy as np
import pytest
from numba.core import types
from numba.core.bytecode import FunctionIdentity

from normzoo.backends.cpu import jit
from normzoo.backends.cpu.access import put
from normzoo.backends.cpu.code import compiled
from normzoo.backends.cpu.lanes import Flat
from tests.robust.process import environment, script

ONE_CALL = """
import numpy as np
import normzoo as nz
x = np.random.default_rng(0).standard_normal((6, 20)).astype(np.float32)
y = nz.LayerNorm(20)(x)
with nz.use("reference"):
    assert np.abs(nz.LayerNorm(20)(x) - y).max() < 1e-6
"""


def variant(flag):
    """A small kernel that closes over a flag, as all do."""

    @jit.kernel
    def write(a):
        put(a, 0, flag)

    return write


SIGNATURE = (Flat(types.float64),)


def run(function, a):
    compiled(function, SIGNATURE).call(a)


NOISE = np.random.default_rng(0).bytes(1000)


@pytest.mark.parametrize("broken", [(".nbi",), (".nbc",), (".nbi", ".nbc")], ids=" ".join)
@pytest.mark.parametrize(
    "harm", [lambda b: b"", lambda b: b[: len(b) // 2], lambda b: NOISE], ids=["empty", "half", "noise"]
)
def test_a_corrupt_cache_is_compiled_anew(broken, harm, tmp_path, monkeypatch):
    """None of it crashes, and results are right, at once and from what is written then."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    a = np.zeros(1)
    run(variant(1.0), a)
    files = [p for p in tmp_path.rglob("*") if p.suffix in broken]
    assert len(files) == len(broken)
    for path in files:
        path.write_bytes(harm(path.read_bytes()))
    for _ in range(2):
        a[:] = 0
        run(variant(1.0), a)
        assert a[0] == 1


def test_norms_compile_anew_where_the_cache_is_noise(tmp_path):
    script(ONE_CALL, NUMBA_CACHE_DIR=tmp_path)
    for path in [p for p in tmp_path.rglob("*") if p.is_file()]:
        path.write_bytes(NOISE)
    script(ONE_CALL, NUMBA_CACHE_DIR=tmp_path)


@pytest.mark.parametrize("place", ["read-only", "a file", "nowhere"])
def test_a_cache_directory_that_cannot_be_written(tmp_path, place):
    folder = tmp_path / "cache"
    if place == "read-only":
        folder.mkdir()
        folder.chmod(0o500)
        if os.access(folder, os.W_OK):  # root may write everywhere
            folder = "/proc/1/fdinfo"
    elif place == "a file":
        folder.write_text("")
    else:
        folder = "/proc/none/such"
    script(ONE_CALL, NUMBA_CACHE_DIR=folder)


FULL = """
import errno, builtins, os
from numba.core import caching
opened = caching.open if hasattr(caching, "open") else builtins.open

class Full:
    def __init__(self, file): self.file = file
    def __enter__(self): return self
    def __exit__(self, *_): self.file.close()
    def write(self, data):
        self.file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

caching.open = lambda path, mode="r", *rest: Full(opened(path, mode, *rest)) if "w" in mode else opened(path, mode, *rest)
"""


def test_a_full_disk(tmp_path):
    """What could not be written whole is not read later either."""
    script(FULL + ONE_CALL, NUMBA_CACHE_DIR=tmp_path)
    assert not list(tmp_path.rglob("*.nbi"))
    script(ONE_CALL, NUMBA_CACHE_DIR=tmp_path)


def test_processes_that_compile_into_one_cache_at_once(tmp_path):
    more = environment(NUMBA_CACHE_DIR=tmp_path)
    running = [
        subprocess.Popen([sys.executable, "-W", "error", "-c", ONE_CALL], env=more, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for process in running:
        _, said = process.communicate(timeout=200)
        assert process.returncode == 0 and not said, said
    script(ONE_CALL, NUMBA_CACHE_DIR=tmp_path)


def test_the_code_of_one_variant_is_never_loaded_as_another(tmp_path, monkeypatch):
    """Another process, which has seen no file yet, writes its variant while this one is about to write its own."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    one, other = variant(1.0), variant(2.0)
    write = one._cache._cache_file._save_data

    def last(*what):
        with monkeypatch.context() as patch:
            patch.setattr(other._cache._cache_file, "_load_index", dict)
            other.compile(SIGNATURE)
        write(*what)

    monkeypatch.setattr(one._cache._cache_file, "_save_data", last)
    one.compile(SIGNATURE)
    assert list(tmp_path.rglob("*.nbc"))
    for flag in (1.0, 2.0, 1.0, 2.0):
        a = np.zeros(1)
        run(variant(flag), a)
        assert a[0] == flag


def test_variants_of_two_processes_are_two_symbols(monkeypatch):
    """Numba counts the functions of a process, and names machine code by the number. A compiled loop finds a kernel by
    its name: with one name for two, it would call the one that was loaded last."""
    made = []
    for flag in (1.0, 2.0):
        monkeypatch.setattr(FunctionIdentity, "_unique_ids", itertools.count(1_000_000))
        function = variant(flag)
        function.compile(SIGNATURE)
        made += function.overloads.values()
    addresses = [m.library.get_pointer_to_function(m.fndesc.llvm_func_name) for m in made]
    assert addresses[0] != addresses[1]


def test_other_sources_compile_anew_and_old_files_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    run(variant(1.0), np.zeros(1))
    before = {p.name for p in tmp_path.rglob("*.nbc")}
    monkeypatch.setattr(jit, "SOURCE", jit.SOURCE + 1)
    for hits in (0, 1):
        again = variant(1.0)
        run(again, np.zeros(1))
        assert sum(again.stats.cache_hits.values()) == hits
    after = {p.name for p in tmp_path.rglob("*.nbc")}
    assert len(before) == len(after) == 1
    assert before.isdisjoint(after)
