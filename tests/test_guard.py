"""The guard against slowdowns, run as a command on two commits of a clone."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("tabulate", reason='the guard needs tabulate: pip install -e ".[bench]"')
pytest.importorskip("tqdm", reason='the guard needs tqdm: pip install -e ".[bench]"')
ROOT = Path(__file__).parents[1]
CASE = "LayerNorm 2048x768 forward$"
SEED = """

import time as _time

_fast = layer_norm


def layer_norm(*arguments, **options):
    start = _time.perf_counter()
    result = _fast(*arguments, **options)
    until = start + {times} * (_time.perf_counter() - start)
    while _time.perf_counter() < until:
        pass
    return result
"""


def git(*arguments, folder):
    identity = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    subprocess.run(["git", *identity, *arguments], check=True, cwd=folder, capture_output=True)


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """This repository's working tree as a commit, and a commit on top in which layer_norm takes 1.4 times as long."""
    if shutil.which("git") is None:
        pytest.skip("the guard compares commits: it needs git")
    folder = tmp_path_factory.mktemp("guard") / "normzoo"
    folder.mkdir()
    for name in ("normzoo", "asv_benchmarks"):
        ignored = shutil.ignore_patterns("__pycache__", "env", "html", "results")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    git("init", "-q", folder=folder)
    git("add", "-A", folder=folder)
    git("commit", "-qm", "as it is", folder=folder)
    with (folder / "normzoo" / "functional" / "__init__.py").open("a") as file:
        file.write(SEED.format(times=1.4))
    git("commit", "-qam", "slower", folder=folder)
    return folder


def guard(clone, *arguments):
    command = [sys.executable, "asv_benchmarks/guard.py", *arguments]
    return subprocess.run(command, cwd=clone, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_slowdown_of_1_4_is_found(clone):
    found = guard(clone, "HEAD~1", "HEAD", "--only", CASE)
    assert found.returncode == 1, found.stdout + found.stderr
    assert found.stderr.splitlines()[-1] == "slower: LayerNorm 2048x768 forward"


@pytest.mark.slow
def test_a_commit_is_no_slower_than_itself(clone):
    found = guard(clone, "HEAD", "HEAD", "--only", CASE)
    assert found.returncode == 0, found.stdout + found.stderr


def test_an_unknown_commit_is_an_error(clone):
    found = guard(clone, "HEAD", "nonsense")
    assert found.returncode == 1
    assert "knows no commit 'nonsense'" in found.stderr


def test_a_case_that_does_not_exist_is_an_error(clone):
    found = guard(clone, "HEAD~1", "HEAD", "--only", "nonsense")
    assert found.returncode == 1
    assert "matches none of" in found.stderr
