"""The disk cache of kernels: broken, full, forbidden, or written by several processes at once, it costs compiling anew."""

import compileall
import itertools
import os
import shutil
import subprocess
import sys
import zipfile

import numba
import numpy as np
import pytest
from numba.core import types
from numba.core.bytecode import FunctionIdentity

from normzoo.backends.cpu.code import compiled
from normzoo.backends.cpu.compiling import disk
from normzoo.backends.cpu.compiling.jit import kernel
from normzoo.backends.cpu.vector.access import put
from normzoo.backends.cpu.vector.lanes import Flat
from tests.robust.process import ROOT, environment, limits, script

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

    @kernel
    def write(a):
        put(a, 0, flag)

    return write


SIGNATURE = (Flat(types.float64),)


def run(function, a):
    compiled(function, SIGNATURE).call(a)


NOISE = np.random.default_rng(0).bytes(1000)


@pytest.mark.parametrize(
    "harm", [lambda b: b"", lambda b: b[: len(b) // 2], lambda b: NOISE], ids=["empty", "half", "noise"]
)
def test_a_corrupt_cache_is_compiled_anew(harm, tmp_path, monkeypatch):
    """None of it crashes, and results are right, at once and from what is written then."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    a = np.zeros(1)
    run(variant(1.0), a)
    (path,) = tmp_path.rglob("*.nbc")
    path.write_bytes(harm(path.read_bytes()))
    for hits in (0, 1):
        a[:] = 0
        again = variant(1.0)
        run(again, a)
        assert a[0] == 1 and sum(again.stats.cache_hits.values()) == hits


@pytest.mark.slow  # two compilations of a whole pass; the kernels alone are looked at above
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


# A file of more than so many bytes is an error, as on a full disk.
FULL = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
"""


@limits
def test_a_full_disk(tmp_path):
    """Said once, with the reason; and what could not be written whole is not read later either."""
    done = script(FULL + SEVERAL, NUMBA_CACHE_DIR=tmp_path)
    said = done.stderr
    assert said.count("\n") == 1 and "compiled kernels are not stored on disk: " in said and "File too large" in said
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]
    again = script(SEVERAL, NUMBA_CACHE_DIR=tmp_path)
    assert not again.stderr and done.stdout == again.stdout == "0\n"


def test_processes_that_compile_into_one_cache_at_once(tmp_path):
    more = environment(NUMBA_CACHE_DIR=tmp_path)
    running = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", SEVERAL], env=more, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]  # fmt: skip
    for process in running:
        _, said = process.communicate(timeout=200)
        assert process.returncode == 0 and not said, said
    assert script(SEVERAL, NUMBA_CACHE_DIR=tmp_path).stdout == "12\n"


def test_the_code_of_one_variant_is_never_loaded_as_another(tmp_path, monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    for hits in (0, 1):
        for flag in (1.0, 2.0):
            a, one = np.zeros(1), variant(flag)
            run(one, a)
            assert a[0] == flag and sum(one.stats.cache_hits.values()) == hits
    assert len(list(tmp_path.rglob("*.nbc"))) == 2


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
    monkeypatch.setattr(disk, "SOURCE", disk.SOURCE + 1)
    for hits in (0, 1):
        again = variant(1.0)
        run(again, np.zeros(1))
        assert sum(again.stats.cache_hits.values()) == hits
    after = {p.name for p in tmp_path.rglob("*.nbc")}
    assert len(before) == len(after) == 1
    assert before.isdisjoint(after)


def test_names_of_files_are_short(tmp_path, monkeypatch):
    """Encrypted file systems take names of 143 bytes, of which a file that is being written needs some more."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))

    def made(a, b, c, d, e, f, g):
        @kernel
        def a_kernel_of_a_rather_long_name_that_says_it_all_and_more(x):
            put(x, 0, a + b + c + d + e + f + g)

        return a_kernel_of_a_rather_long_name_that_says_it_all_and_more

    run(made(*[1.2345678901234567] * 7), np.zeros(1))
    (path,) = tmp_path.rglob("*.nbc")
    assert len(path.name) <= 100 and len(path.parent.name) <= 100


def site_of(folder):
    """A copy of the package, to be changed."""
    shutil.copytree(ROOT / "normzoo", folder / "site" / "normzoo", ignore=shutil.ignore_patterns("__pycache__"))
    return folder / "site"


def test_dates_of_sources_do_not_matter(tmp_path):
    """An image registry cuts them to seconds, git sets them anew: kernels compiled ahead are loaded all the same."""
    place = {"PYTHONPATH": site_of(tmp_path), "NUMBA_CACHE_DIR": tmp_path / "cache", "cwd": tmp_path}
    assert script(TINY, **place).stdout == "0\n"
    for number, path in enumerate((tmp_path / "site").rglob("*.py")):
        os.utime(path, (number, number))
    assert script(TINY, **place).stdout == "1\n"
    with open(tmp_path / "site/normzoo/backends/cpu/vector/arithmetic.py", "a") as file:
        file.write("\n# edited\n")
    assert script(TINY, **place).stdout == "0\n"


# Kernels that compile in some hundredths of a second each. Prints how many of them were loaded.
SMALL = """
import numpy as np
from numba.core import types
from normzoo.backends.cpu.vector.access import put
from normzoo.backends.cpu.code import compiled
from normzoo.backends.cpu.compiling.jit import kernel
from normzoo.backends.cpu.vector.lanes import Flat

def variant(flag):
    @kernel
    def write(a):
        put(a, 0, flag)
    return write

hits = 0
for flag in range(1, COUNT + 1):
    a, write = np.zeros(1), variant(float(flag))
    compiled(write, (Flat(types.float64),)).call(a)
    assert a[0] == flag
    hits += sum(write.stats.cache_hits.values())
print(hits)
"""
TINY, SEVERAL = (f"COUNT = {count}\n{SMALL}" for count in (1, 12))


@pytest.mark.parametrize("kept", ["sources", pytest.param("bytecode", marks=pytest.mark.slow)])
def test_a_package_in_a_zip_keeps_its_kernels_until_the_next_release(tmp_path, kept):
    """numba#9630. With the bytecode alone too, as in a frozen program."""
    site = site_of(tmp_path)

    def pack():
        if kept == "bytecode":
            compileall.compile_dir(site, quiet=1, legacy=True, ddir="")
        with zipfile.ZipFile(tmp_path / "packed.zip", "w") as packed:
            for path in site.rglob("*.pyc" if kept == "bytecode" else "*.py"):
                packed.write(path, path.relative_to(site))

    place = {"PYTHONPATH": tmp_path / "packed.zip", "NUMBA_CACHE_DIR": tmp_path / "cache", "cwd": tmp_path}
    pack()
    assert [script(TINY, **place).stdout for _ in range(2)] == ["0\n", "1\n"]
    assert len(list((tmp_path / "cache").rglob("*.nbc"))) == 1
    path = site / "normzoo/backends/cpu/vector/arithmetic.py"
    path.write_text(path.read_text() + "\n_RELEASE = 2\n")
    pack()
    assert script(TINY, **place).stdout == "0\n"


def test_kernels_are_loaded_from_a_directory_that_cannot_be_written(tmp_path, monkeypatch):
    """An image is built by root, and run by somebody else."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    run(variant(1.0), np.zeros(1))
    monkeypatch.setattr(disk, "_can_be_written", lambda place: False)
    monkeypatch.setattr(disk, "lost", [])
    again, other = variant(1.0), variant(2.0)
    run(again, np.zeros(1))
    assert sum(again.stats.cache_hits.values()) == 1
    run(other, np.zeros(1))
    assert len(disk.lost) == 1 and "set NUMBA_CACHE_DIR" in disk.lost[0]


def test_a_user_without_a_home_and_a_working_directory_that_is_gone(tmp_path):
    """Nothing is written to a directory named "~", and norms are computed."""
    (tmp_path / "gone").mkdir()
    alone = script("import os\nos.rmdir(os.getcwd())\nimport socket", check=False, cwd=tmp_path / "gone")
    if alone.returncode:
        pytest.skip("this Python (as 3.13.0) cannot import its own modules from a directory that is gone")
    (tmp_path / "gone").mkdir()
    begin = "import os, pwd\nos.rmdir(os.getcwd())\npwd.getpwuid = lambda uid: {}[uid]\ndel os.environ['HOME']\n"
    more = (
        "from normzoo.backends.cpu.compiling import disk\nassert '~' not in str(disk._places('')), disk._places('')\n"
    )
    homeless = {"HOME": tmp_path / "home", "XDG_CACHE_HOME": "", "PYTHONPATH": site_of(tmp_path)}
    script(begin + TINY + more, NUMBA_CACHE_DIR="kernels", cwd=tmp_path / "gone", **homeless)
    assert not (tmp_path / "gone").exists()


def test_numba_says_nothing_to_a_root_logger_of_level_debug(tmp_path):
    """But what is compiled is said. Numba's own logger, if given a level, says more."""
    begin = "import logging\nlogging.basicConfig(level=logging.DEBUG)\n"
    loud = "logging.getLogger('numba').setLevel(logging.DEBUG)\n"
    said = script(begin + TINY, NUMBA_CACHE_DIR=tmp_path / "a").stderr.splitlines()
    assert said and all(line.startswith("INFO:normzoo:compiling") for line in said)
    assert script(begin + loud + TINY, NUMBA_CACHE_DIR=tmp_path / "b").stderr.count("\n") > 10


def test_a_frozen_program_loads_its_kernels_wherever_it_is_unpacked(tmp_path):
    """As one file it is unpacked to another folder at each start, which is gone at the end."""
    begin = "import sys\nsys.frozen = True\n"
    for number, hits in enumerate("01"):
        folder = tmp_path / f"unpacked{number}"
        place = {"PYTHONPATH": site_of(folder), "NUMBA_CACHE_DIR": tmp_path / "cache", "cwd": tmp_path}
        assert script(begin + TINY, **place).stdout == f"{hits}\n"
        assert not list(folder.rglob("*.nbc"))
        shutil.rmtree(folder)


def test_a_log_says_what_is_compiled_and_where_it_is_kept(tmp_path, monkeypatch, caplog):
    """At the level INFO, and only where the disk does not have it."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    with caplog.at_level("INFO", logger="normzoo"):
        run(variant(7.0), np.zeros(1))
        said = [record.getMessage() for record in caplog.records if record.name == "normzoo"]
        assert len(said) == 1 and "compiling" in said[0] and "variant" in said[0] and str(tmp_path) in said[0]
        caplog.clear()
        run(variant(7.0), np.zeros(1))
        assert not [record for record in caplog.records if record.name == "normzoo"]
