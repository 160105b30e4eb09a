"""Kernels compiled ahead: a later process only loads them; and an installation that nobody can write to still computes."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import normzoo as nz
from normzoo import __main__
from normzoo.backends import chosen
from normzoo.environment import ahead
from tests.robust import process

# Counts what a process compiles itself.
COUNTING = """
import numpy as np, normzoo as nz
from numba.core import event
recorder = event.RecordingListener()
event.register("numba:compile", recorder)
def array(*shape, dtype=np.float32):
    return (np.arange(np.prod(shape)) % 7).reshape(shape).astype(dtype)
def passes(norm, x, axis=1):
    for training in (True, False):
        y, saved = norm.train(training).forward(x)
        saved.backward(y)
"""

# Shapes that people use, none of which is an example of `ahead`.
ORDINARY = {
    "batch_norm": """
passes(nz.BatchNorm(64, momentum=None), array(100, 64))
for shape in ((8, 32), (256, 4096), (5000, 64), (100, 7), (2, 3, 8, 8), (32, 64, 56, 56), (64, 512, 14, 14),
              (64, 256, 7, 7), (2, 1, 300, 300), (1, 3, 224, 224), (4, 8, 100), (3, 2, 4, 4, 4), (2, 8, 16, 64, 64)):
    passes(nz.BatchNorm(shape[1]), array(*shape))
    passes(nz.BatchNorm(shape[1], affine=False), array(*shape))
    passes(nz.BatchNorm(shape[1], channel_axis=-1), np.ascontiguousarray(np.moveaxis(array(*shape), 1, -1)))
    passes(nz.BatchNorm(shape[1]), np.moveaxis(np.ascontiguousarray(np.moveaxis(array(*shape), 1, -1)), -1, 1))
""",
    "instance_norm": """
for shape in ((2, 3, 8, 8), (16, 64, 128, 128), (2, 32, 64, 64, 64), (1, 3, 224, 224), (4, 512, 7, 7), (2, 5, 90)):
    for options in ({}, {"affine": True}, {"affine": True, "track_running_stats": True}):
        passes(nz.InstanceNorm(shape[1], **options), array(*shape))
        passes(nz.InstanceNorm(shape[1], **options, channel_axis=-1), np.moveaxis(array(*shape), 1, -1).copy())
""",
    "group_norm": """
for groups, shape in ((4, (2, 16, 8, 8)), (32, (8, 64, 56, 56)), (32, (8, 512, 32, 32)), (8, (16, 256, 7, 7)),
                      (1, (2, 512, 7, 7)), (1, (4, 32, 40, 40)), (2, (2, 256, 5, 5)), (2, (3, 256, 40, 40)), (3, (10, 12))):
    for affine in (True, False):
        passes(nz.GroupNorm(groups, shape[1], affine=affine), array(*shape))
        passes(nz.GroupNorm(groups, shape[1], affine=affine, channel_axis=-1), np.moveaxis(array(*shape), 1, -1).copy())
""",
    "layer_norm": """
for shape in ((4, 64), (8192, 768), (1024, 4096), (64, 1024), (1, 9000), (1, 100000), (2, 8, 512), (33, 5), (9999, 3)):
    passes(nz.LayerNorm(shape[-1]), array(*shape))
    passes(nz.LayerNorm(shape[-1], bias=False), array(*shape))
    passes(nz.LayerNorm(shape[-1], elementwise_affine=False), array(*shape))
passes(nz.LayerNorm((8, 512)), array(2, 8, 512))
for shape in ((2, 8, 9, 9), (8, 64, 40, 40), (1, 3000, 2, 2), (2, 3000, 10, 10)):
    passes(nz.LayerNorm(shape[1], axis=1), array(*shape))
""",
    "rms_norm": """
for shape in ((4, 64), (8192, 768), (2048, 4096), (1, 9000), (1, 100000), (2, 8, 512), (33, 5)):
    passes(nz.RMSNorm(shape[-1]), array(*shape))
    passes(nz.RMSNorm(shape[-1], elementwise_affine=False), array(*shape))
for shape in ((2, 8, 9, 9), (8, 64, 40, 40), (1, 3000, 2, 2), (2, 3000, 10, 10)):
    passes(nz.RMSNorm(shape[1], axis=1), array(*shape))
""",
}


def run(code, folder, **environment):
    """What a fresh process in `folder` prints."""
    kept = {key: value for key, value in os.environ.items() if key != "NUMBA_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        check=False,
        env={"PYTHONPATH": str(Path(nz.__file__).parent.parent)} | kept | environment,
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_later_process_loads_what_was_compiled(tmp_path):
    """In miniature: one shape."""
    cache = {"NUMBA_CACHE_DIR": str(tmp_path)}
    ahead_of = (
        "import normzoo as nz\nfrom normzoo.environment import ahead\nahead.SIZES = ((1, 4, 128),)\n"
        "print(nz.compile_cache(['rms_norm'], channel_axes=[-1], backward=False, progress=False))"
    )
    first = run(ahead_of, tmp_path, **cache)
    assert re.match(r"Compiled\(kernels=3, directory=", first), first  # with a weight, without, and the shortcut
    assert str(tmp_path) in first and len(list(tmp_path.rglob("*.nbc"))) == 3
    later = "nz.RMSNorm(99)(array(3, 99))\nprint(len(recorder.buffer))\n"
    other = "nz.LayerNorm(9)(array(3, 9))\nprint(len(recorder.buffer) > 0)"  # the count can fail
    assert run(COUNTING + later + other, tmp_path, **cache) == "0\nTrue\n"
    assert "kernels=0" in run(ahead_of, tmp_path, **cache)


AROUND = """
norm, x = nz.RMSNorm(99, activation="silu"), array(3, 99)
(y, s), saved = norm.forward(x, residual=x)
saved.backward(y)
saved.backward(y, ds=s)
print(len(recorder.buffer))
"""


def test_what_stands_around_a_norm_is_compiled_ahead(tmp_path):
    cache = {"NUMBA_CACHE_DIR": str(tmp_path)}
    first = run(
        "import normzoo as nz\nfrom normzoo import __main__\n"
        "from normzoo.environment import ahead\nahead.SIZES = ((1, 4, 128),)\n"
        "__main__.main('compile --norms rms_norm --channel-axes -1 --activation silu --beside residual --quiet'.split())",
        tmp_path,
        **cache,
    )
    assert re.match(r"8 kernels compiled", first), first  # with a weight and without; back with ds too; two shortcuts
    other = "norm(x, add=x)\nprint(len(recorder.buffer) > 0)"  # the count can fail
    assert run(COUNTING + AROUND + other, tmp_path, **cache) == "0\nTrue\n"


WRONG = {
    "expected add or gate, got both": {"beside": ["add", "gate"]},
    "expected beside among residual, add, gate, got 'mask'": {"beside": ["mask"]},
    "expected an activation of .*, got 'rel'; did you mean 'relu'": {"behind": {"activation": "rel"}},
    "expected behind to have activation, gate_first, residual_scale, got 'act'": {"behind": {"act": "relu"}},
    "expected a gate, as gate_first=True, got none": {"behind": {"gate_first": True}},
    r"PowerNorm: takes no add \(the class does not declare fuses": {"norms": ["power_norm"], "beside": ["add"]},
}


@pytest.mark.parametrize("message", WRONG)
def test_what_cannot_stand_around_is_refused(message):
    with pytest.raises((ValueError, TypeError), match=message):
        nz.compile_cache(**({"norms": ["rms_norm"], "progress": False} | WRONG[message]))


# A file of more than so many bytes is an error, as on a full disk.
ON_A_FULL_DISK = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
from normzoo import __main__
from normzoo.environment import ahead
ahead.SIZES = ((1, 4, 8),)  # sets of few values: kernels soon compiled
__main__.main(["compile", "--norms", "rms_norm", "--channel-axes", "-1", "--no-backward", "--quiet"])
"""


@process.limits
def test_a_full_disk_is_no_success(tmp_path):
    """A container image built so would compile at every start."""
    done = process.run("-c", ON_A_FULL_DISK, check=False, NUMBA_CACHE_DIR=tmp_path)
    assert done.returncode == 2 and not done.stdout
    assert (
        "compile_cache: expected to store 2 kernels, lost 2 of them: " in done.stderr
        and "File too large" in done.stderr
    )


def test_a_numba_whose_kernels_cannot_be_stored_is_no_success(tmp_path):
    """An unknown version, with which kernels are compiled in the ordinary way, in every process."""
    code = (
        "import sys, warnings\nwarnings.simplefilter('ignore')\n"
        "sys.modules['normzoo.backends.cpu.numba_internals.target'] = None\n"
        "from normzoo import __main__\n"
        "__main__.main(['compile', '--norms', 'rms_norm', '--quiet'])"
    )
    done = process.run("-c", code, check=False, NUMBA_CACHE_DIR=tmp_path)
    assert done.returncode == 2 and not done.stdout and done.stderr.count("\n") == 1
    assert "expected a Numba whose compiled kernels can be stored" in done.stderr


def test_numba_switched_off_compiles_nothing_and_says_so(tmp_path):
    done = process.run("-m", "normzoo", "compile", check=False, NUMBA_CACHE_DIR=tmp_path, NUMBA_DISABLE_JIT=1)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "unset NUMBA_DISABLE_JIT" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ORDINARY)
def test_nothing_is_left_to_compile(name, tmp_path):
    cache = {"NUMBA_CACHE_DIR": str(tmp_path)}
    run(f"import normzoo as nz; nz.compile_cache([{name!r}], progress=False)", tmp_path, **cache)
    told = "print([e.data['dispatcher'].__name__ for s, e in recorder.buffer if e.is_start])"
    assert run(COUNTING + ORDINARY[name] + told, tmp_path, **cache) == "[]\n"


@pytest.fixture
def frozen(tmp_path):
    """The environment of a copy of the package that nobody, root included, can write to, in a home of that kind."""
    shutil.copytree(
        Path(nz.__file__).parent, tmp_path / "site" / "normzoo", ignore=shutil.ignore_patterns("__pycache__")
    )
    for folder in (tmp_path / "site").rglob("*/"):
        (folder / "__pycache__").touch()  # a file where the directory would be made
    (tmp_path / "home").touch()
    home = str(tmp_path / "home")
    return {"PYTHONPATH": str(tmp_path / "site"), "HOME": home, "XDG_CACHE_HOME": f"{home}/cache"}


def test_a_read_only_installation_computes(frozen, tmp_path):
    """And says what to do where it is to compile ahead."""
    code = (
        "import numpy as np, normzoo as nz\n"
        "x = np.arange(12, dtype=np.float32).reshape(2, 6)\n"
        "y = nz.RMSNorm(6)(x)\n"
        "with nz.use('reference'):\n"
        "    print(nz.__file__, abs(y - nz.RMSNorm(6)(x)).max() < 1e-6)\n"
        "try:\n"
        "    nz.compile_cache(['rms_norm'])\n"
        "except RuntimeError as error:\n"
        "    print(error)\n"
    )
    found, error = run(code, tmp_path, **frozen).splitlines()
    assert found == f"{tmp_path}/site/normzoo/__init__.py True"
    assert "NUMBA_CACHE_DIR" in error and error.startswith("compile_cache: expected")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"norms": ["layernorm"]}, ValueError, "expected norms among ada_ln_zero, .*batch_norm, .*got 'layernorm'"),
        ({"norms": [3]}, ValueError, "got 3"),
        ({"norms": "layer_norm"}, TypeError, r"expected norms to be a sequence, got str; write norms=\[...\]"),
        ({"norms": 3}, TypeError, "got int"),
        ({"dtypes": ["int8"]}, ValueError, "expected dtypes among float16, .*got 'int8'"),
        ({"dtypes": ["float"], "norms": ["a"]}, ValueError, "got 'a'"),
        ({"dtypes": ["half a float"]}, ValueError, "got 'half a float'"),
        ({"dtypes": [None]}, ValueError, "got None"),
        ({"dtypes": "float32"}, TypeError, "expected dtypes to be a sequence"),
        ({"channel_axes": [2]}, ValueError, "expected channel_axes of 1 and -1, got 2"),
        ({"channel_axes": [True]}, ValueError, "got True"),
        ({"channel_axes": -1}, TypeError, "expected channel_axes to be a sequence, got int"),
    ],
)
def test_bad_requests_are_errors(arguments, error, message):
    with pytest.raises(error, match=f"^compile_cache: .*{message}"):
        nz.compile_cache(**arguments)


@pytest.mark.parametrize("progress", [True, False])
def test_a_bar_is_shown_where_tqdm_is_installed(progress, monkeypatch, capfd):
    pytest.importorskip("tqdm")
    monkeypatch.setattr(ahead, "_run", lambda norm, x, backward, beside: None)
    nz.compile_cache(["layer_norm"], [np.float32, np.dtype("f8")], progress=progress)
    shown = capfd.readouterr().err
    assert ("layer_norm float64 last: 100%" in shown) == progress and bool(shown) == progress


def test_no_tqdm_no_bar(monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setattr(ahead, "_run", lambda norm, x, backward, beside: None)
    assert nz.compile_cache(["layer_norm"]).kernels == 0
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("stderr", [None, "closed"])
def test_no_stderr_no_bar(stderr, monkeypatch, tmp_path, rng):
    """A frozen program with windows alone has none."""
    pytest.importorskip("tqdm")
    if stderr == "closed":
        stderr = open(tmp_path / "log", "w")  # noqa: SIM115
        stderr.close()
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setattr(sys, "stdout", stderr)
    monkeypatch.setattr(ahead, "_run", lambda norm, x, backward, beside: None)
    assert nz.compile_cache(["layer_norm"]).kernels == 0
    norm = nz.BatchNorm(3)
    nz.recalibrate(norm, [rng.standard_normal((4, 3)).astype(np.float32)], progress=True)
    assert norm.num_batches_tracked == 1


def test_the_reference_backend_is_not_what_is_compiled(monkeypatch):
    seen = []
    monkeypatch.setattr(ahead, "_run", lambda norm, x, backward, beside: seen.append(chosen()))
    with nz.use("reference"):
        nz.compile_cache(["layer_norm"], channel_axes=[-1], progress=False)
    assert set(seen) == {"cpu"}


def test_the_command_line(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(nz, "compile_cache", lambda **options: (asked.append(options), ahead.Compiled(3, "/c"))[1])
    __main__.main(
        ["compile", "--norms", "layer_norm", "rms_norm", "--dtypes", "float16", "--channel-axes", "-1", "--no-backward"]
    )
    assert asked == [
        {
            "norms": ["layer_norm", "rms_norm"],
            "dtypes": ["float16"],
            "channel_axes": [-1],
            "backward": False,
            "behind": {},
            "beside": [],
            "progress": True,
        }
    ]
    assert capsys.readouterr().out == "3 kernels compiled; kept in /c\n"
    monkeypatch.undo()
    with pytest.raises(SystemExit) as stop:
        __main__.main(["compile", "--norms", "layernorm"])
    assert stop.value.code == 2 and "got 'layernorm'" in capsys.readouterr().err


def test_the_command_line_tells_the_version(capsys):
    with pytest.raises(SystemExit) as stop:
        __main__.main(["--version"])
    assert stop.value.code == 0 and capsys.readouterr().out == f"normzoo {nz.__version__}\n"
