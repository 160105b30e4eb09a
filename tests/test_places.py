"""Each system's branch of what differs between them, forced here; docs/places.md says what ran on which machine."""

import ctypes
import os
import re
import stat
import subprocess
import sys
import types
from pathlib import Path

import pytest

from normzoo.backends import subnormals
from normzoo.environment import system
from tests.robust.process import ROOT

FLUSHES = 0x01000000  # _DN_FLUSH of Windows
ROUNDS_UP = 0x00000200


@pytest.fixture
def here(monkeypatch):
    """Pretend to be on a system whose C libraries are these objects by name; others cannot be loaded."""

    def pretend(platform, **libraries):
        known = {None if name == "process" else name.replace("_so_", ".so."): lib for name, lib in libraries.items()}

        def load(name):
            if name not in known:
                raise OSError(f"no library {name}")
            return known[name]

        class Variable(ctypes.c_char):
            @classmethod
            def in_dll(cls, library, name):
                return getattr(library, name)  # AttributeError where ctypes raises ValueError

        monkeypatch.setattr(sys, "platform", platform)
        monkeypatch.setattr(
            system, "ctypes", types.SimpleNamespace(**vars(ctypes) | {"CDLL": load, "c_char": Variable})
        )
        system._mode_changer.cache_clear()

    yield pretend
    monkeypatch.undo()
    system._mode_changer.cache_clear()


class Environments:
    """A C library whose environment is one byte; the initial one is 7."""

    def __init__(self, initial):
        self._FE_DFL_ENV, self.current = initial, 3

    def fegetenv(self, held):
        held.value = bytes([self.current])
        return 0

    def fesetenv(self, new):
        value = getattr(new, "value", None)  # a buffer, or the address -1
        if isinstance(value, bytes):
            self.current = value[0]
        else:
            self.current = 7 if value == ctypes.c_void_p(-1).value else new._obj.value[0]
        return 0


@pytest.mark.parametrize(
    ("platform", "library"),
    [("linux", "libm_so_6"), ("linux", "process"), ("darwin", "process"), ("freebsd14", "process")],
)
def test_environments_of_c_are_taken_and_given_back(here, platform, library):
    """glibc, musl (whose functions are in its one library), macOS, others."""
    c = Environments(ctypes.c_char(7))
    here(platform, **{library: c})
    seen = subnormals.kept(lambda: (c.current, subnormals.mode.alone))()
    assert seen == (7, True) and (c.current, subnormals.mode.alone) == (3, False)


def test_the_control_word_of_windows_is_taken_and_given_back(here):
    class Library:
        word = FLUSHES | ROUNDS_UP

        def _controlfp_s(self, current, new, mask):
            self.word = (self.word & ~mask) | (getattr(new, "value", new) & mask)
            current._obj.value = self.word
            return 0

    c = Library()
    here("win32", ucrtbase=c)
    assert subnormals.kept(lambda: c.word)() == ROUNDS_UP  # only these bits have changed
    assert c.word == FLUSHES | ROUNDS_UP


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
@pytest.mark.parametrize(
    "libraries", [{}, {"process": object(), "ucrtbase": object()}], ids=["no library", "no function"]
)
def test_without_these_functions_a_pass_runs_in_the_mode_that_is(here, platform, libraries):
    here(platform, **libraries)
    assert system.keep_subnormals() is None
    assert subnormals.kept(lambda: subnormals.mode.alone)() is False


def test_files_have_modes_where_the_system_has_them(monkeypatch, tmp_path):
    new, old, missing = tmp_path / "new", tmp_path / "old", tmp_path / "missing"
    new.touch(0o600)
    old.touch()
    before = stat.S_IMODE(new.stat().st_mode)
    monkeypatch.setattr(sys, "platform", "win32")
    system.take_mode(new, old)
    assert stat.S_IMODE(new.stat().st_mode) == before
    monkeypatch.undo()
    if os.name == "nt":
        return
    old.chmod(0o640)
    system.take_mode(new, old)
    assert stat.S_IMODE(new.stat().st_mode) == 0o640
    system.take_mode(new, missing)
    other = tmp_path / "other"
    other.touch()  # in the mode of any new file
    assert stat.S_IMODE(new.stat().st_mode) == stat.S_IMODE(other.stat().st_mode)


def test_threads_are_listed_or_none_is(monkeypatch, tmp_path):
    if sys.platform == "linux":
        assert str(os.getpid()) in system.thread_names()
    monkeypatch.setattr(system, "_TASKS", tmp_path / "none")
    assert system.thread_names() is None


def test_without_forks_there_is_nothing_to_do(monkeypatch):
    given = []
    monkeypatch.setattr(os, "register_at_fork", lambda **calls: given.append(calls), raising=False)
    system.at_fork(len, max)
    assert given == [{"before": len, "after_in_parent": max, "after_in_child": max}]
    monkeypatch.delattr(os, "register_at_fork")
    system.at_fork(len, max)
    assert len(given) == 1


ELSEWHERE = """
import ctypes, multiprocessing.util, os, signal, sys, tempfile
import llvmlite.binding, numba, numpy as np, scipy
import numba.np.ufunc.parallel
numba.get_num_threads()  # starts Numba's threads: this part is not under test
for module, names in (
    (os, ("fork", "register_at_fork", "getuid", "sched_getaffinity", "posix_fallocate", "uname")),
    (signal, ("SIGALRM", "setitimer", "SIGKILL", "pthread_sigmask")),
):
    for name in names:
        vars(module).pop(name, None)
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
sys.platform = sys.argv[1]


def refuse(*_, **__):
    raise OSError("no such library")


ctypes.CDLL = refuse
import normzoo as nz
x = np.random.default_rng(0).standard_normal((6, 20)).astype(np.float32)
norm, bn = nz.LayerNorm(20), nz.BatchNorm(20)
with nz.use("reference"):
    expected = norm(x)
assert np.allclose(norm(x), expected, atol=1e-6)
norm.backward(x)
bn.backward(bn(x))
path = tempfile.mkdtemp() + "/state.npz"
nz.save(path, bn)
nz.save(path, bn)  # replaces it
assert nz.load(path)["running_mean"].shape == (20,)
"""


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_the_library_runs_where_nothing_of_linux_is(platform):
    """Names that other systems lack are taken away before the library is imported."""
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, platform],
        capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


ALONE = r"/proc\b|\bfork\(|register_at_fork|\bCDLL\b|sys\.platform|os\.name\b|platform\.system|umask|chmod|libm\b|\bfcntl\b|\bresource\b\.|getuid"


def test_only_one_file_knows_of_systems():
    found = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "normzoo").rglob("*.py")
        if re.search(ALONE, re.sub(r'"""(.|\n)*?"""|#.*', "", Path(path).read_text(encoding="utf-8")))
    ]
    # PyTorch's interface to C is used on Linux alone, and refused elsewhere
    assert {name for name in found if "torch/dispatch/" not in name} == {"normzoo/environment/system.py"}


def test_windows_knows_the_function_that_lets_a_stack_grow(monkeypatch):
    """LLVM calls it in kernels with more than a page on the stack."""
    known = {}
    monkeypatch.setattr(system.ctypes, "WinDLL", lambda name: types.SimpleNamespace(__chkstk=FUNCTION), raising=False)
    system.let_stacks_grow(known.get, known.__setitem__)
    assert known == {}  # there is none elsewhere
    monkeypatch.setattr(sys, "platform", "win32")
    system.let_stacks_grow(known.get, known.__setitem__)
    assert known == {"__chkstk": ctypes.cast(FUNCTION, ctypes.c_void_p).value}
    known["__chkstk"] = 1
    system.let_stacks_grow(known.get, known.__setitem__)
    assert known == {"__chkstk": 1}  # LLVM knows it


FUNCTION = ctypes.CFUNCTYPE(None)(lambda: None)

ON_OTHERS = r"""
import re, sys
import numpy as np
from llvmlite import binding
import normzoo as nz
from normzoo.backends.cpu.numba_internals.pipeline import _Library

made, optimize = [], _Library._optimize_final_module


def kept(self):
    optimize(self)
    made.append(str(self._final_module))  # before the code of this machine is made of it


_Library._optimize_final_module = kept
x = np.ones((64, 768), np.float16)
y, saved = nz.LayerNorm(768).forward(x)
kernels = [text for text in made if "rows_forward" in text]
assert kernels
binding.initialize_all_targets()
binding.initialize_all_asmprinters()
for triple, cpu in (
    ("x86_64-unknown-linux-gnu", "haswell"), ("aarch64-unknown-linux-gnu", ""), ("arm64-apple-darwin", "apple-m1"),
    ("x86_64-pc-windows-msvc", "haswell"),
):
    machine = binding.Target.from_triple(triple).create_target_machine(cpu, opt=3, reloc="pic", codemodel="small")
    for text in kernels:
        text = re.sub(r"target triple = .*", f'target triple = "{triple}"', text)
        text = re.sub(r"target datalayout = .*", f'target datalayout = "{machine.target_data}"', text)
        # counting references is the one thing for which LLVM has already chosen instructions
        text = re.sub(r"= (tail )?call i8 @llvm.x86.atomic\.\w+\.cc\.i64\(.*", "= add i8 0, 0", text)
        module = binding.parse_assembly(text)
        own = {f.name for f in module.functions if not f.is_declaration}
        assembly = machine.emit_assembly(module)
        called = re.findall(r"^\s+(?:callq?|jmp|bl?|call|tail)\s+\"?_?([A-Za-z_][\w.]*)", assembly, re.M)
        called = {c.removesuffix(".uw") for c in called} - own - {c.lstrip("_") for c in own} - {c[1:] for c in own}
        print(triple, *sorted(called))
        if triple.startswith(("aarch64", "arm64")):
            print(triple, "vectors:", len(re.findall(r"^\s+f\w+\.4s|^\s+f\w+\s+v\d+\.4s", assembly, re.M)))
"""


def test_kernels_call_only_what_every_system_has(tmp_path):
    """Machine code of a kernel for other systems: what it calls is Numba's, Python's, or of any C library, no function
    is called for a lane, and lanes are vectors. (x86-64 before Haswell calls fmaf of the C library, for it has no such
    instruction.)"""
    done = subprocess.run(
        [sys.executable, "-c", ON_OTHERS], capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT), "NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    vectors = {line[0]: int(line[2]) for line in lines if line[1:2] == ["vectors:"]}
    assert len(vectors) == 2 and all(count > 50 for count in vectors.values())
    called = {line[0]: set(line[1:]) for line in lines if line[1:2] != ["vectors:"]}
    assert any("Py_DecRef" in names or "PyErr_Occurred" in names for names in called.values()), "nothing was found"
    known = r"(NRT|Py|numba|_?Py)_?\w+|mem(set|cpy|move)|__chkstk|L?BB\d+_\d+|LBB\d+_\d+"
    for triple, names in called.items():
        assert [name for name in names if not re.fullmatch(known, name)] == [], triple
