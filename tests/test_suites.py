"""What the benchmarks of asv are built of, and how the guard decides."""

import importlib
import math
import pkgutil
import shutil
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

import normzoo as nz
from tests import oracles

FOLDER = Path(__file__).parents[1] / "asv_benchmarks"


@pytest.fixture(scope="module", autouse=True)
def path():
    sys.path.insert(0, str(FOLDER))
    yield
    sys.path.remove(str(FOLDER))


def modules():
    suites = importlib.import_module("suites")
    return [importlib.import_module(f"suites.{module.name}") for module in pkgutil.iter_modules(suites.__path__)]


def benchmarks():
    for module in modules():
        for name, found in vars(module).items():
            if name.startswith(("time_", "timeraw_", "track_")):
                yield f"{module.__name__}.{name}", found


def test_the_suites_have_about_200_values_and_a_version_each():
    values = {name: math.prod(len(p) for p in getattr(f, "params", [])) for name, f in benchmarks()}
    assert 100 < sum(values.values()) <= 240, values
    assert all(f.version for _, f in benchmarks())


def test_the_zoo_suite_has_a_step_of_every_norm():
    assert set(importlib.import_module("suites.zoo").ZOO) == set(nz.list_norms())


@pytest.mark.parametrize("name", nz.list_norms())
def test_every_step_of_the_zoo_runs(name):
    """So that the quick pass of `.ci/run`, which starts a process for each, can leave them out."""
    step, size = importlib.import_module("suites.zoo").step_of(name)
    assert step().size == size


@pytest.mark.parametrize("case", ["LayerNorm 2048x768 residual forward", "BatchNorm 8x64x56x56 add relu both"])
def test_fused_cells_take_longer_than_the_bytes_and_run(case):
    """Two stand for all, which `.ci/run` runs, each in a process of its own."""
    fused = importlib.import_module("suites.fused")
    assert all(cell.around or cell.activation for cell in fused.CELLS.values())
    assert {cell.around for cell in fused.CELLS.values()} == {"", "residual", "add", "gate"}
    assert 0.2 < fused.track_cost(case) < 100


def test_small_fused_calls_are_of_the_norm_they_name():
    fused = importlib.import_module("suites.fused")
    (y, s), gated, back = (fused.small_call(name)() for name in fused.SMALL)
    assert s.shape == y.shape == gated.shape == (4, 64)
    assert back.others.keys() == {"gate"}


def test_timing_suites_have_no_setup():
    """asv_runner from 0.3 on would time single calls."""
    assert not [name for name, f in benchmarks() if "time_" in name and hasattr(f, "setup")]


def test_instructions_are_counted():
    stepping = importlib.import_module("suites.stepping")
    try:
        stepping.stepper()
    except NotImplementedError as reason:
        pytest.skip(str(reason))

    @numba.njit
    def loop(n, x):
        for i in range(n):
            x[i & 7] = x[i & 7] * 3 + i
        return x

    x = np.ones(8, np.int64)
    few, many, again = (stepping.instructions(lambda n=n: loop(n, x)) for n in (1000, 3000, 3000))
    assert 2000 * 3 < many - few < 2000 * 12
    assert abs(again - many) < 0.02 * many


@pytest.mark.parametrize("norm", ["LayerNorm", "BatchNorm"])
def test_the_accuracy_suite_has_the_oracles_values(norm):
    accuracy = importlib.import_module("suites.accuracy")
    shape, axes, axis = accuracy.SETS[norm]
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, *shape)) + 10
    w, b = rng.standard_normal((2, shape[axis]))
    y, _ = accuracy.exact(x, dy, w, b, axes, axis)
    expected = oracles.layer_norm(x, axes, w, b) if norm == "LayerNorm" else oracles.batch_norm(x, w, b)
    np.testing.assert_allclose(y, expected, rtol=1e-9, atol=1e-9)


def test_a_dtype_that_the_library_lacks_is_not_applicable(monkeypatch):
    cases = importlib.import_module("suites.cases")

    def refuses(*arguments, **options):
        raise TypeError("float dtypes only")

    name = next(iter(cases.BFLOAT16))
    cases.require(name)
    monkeypatch.setattr(cases, "normzoo_calls", refuses)
    with pytest.raises(NotImplementedError):
        cases.require(name)
    cases.require(next(iter(cases.CELLS)))  # float32 is not even tried


@pytest.mark.parametrize(("ratio", "limit"), [(1.0, 1.25), (1.019, 1.25), (1.03, 1.12), (None, 1.25)])
def test_the_guard_is_stricter_where_instructions_grew(ratio, limit):
    guard = importlib.import_module("guard")
    executed = {"LayerNorm 16x768 forward": ratio, "BatchNorm 1x16x28x28 forward": 2.0}
    assert guard.limit("LayerNorm 2048x768 forward", executed) == limit
    assert guard.limit("LayerNorm 2048x768 backward", executed) == 1.25


def test_record_names_the_commits_of_the_library_and_refuses_others(capfd):
    record = importlib.import_module("record")
    try:
        found = record.commits("HEAD")
    except SystemExit as refusal:
        pytest.skip(str(refusal))  # a shallow clone, or no clone at all
    assert found
    assert not {commit[:8] for commit in found} & record.BROKEN
    with pytest.raises(SystemExit, match="names no commits"):
        record.commits("nonsense..HEAD")
    capfd.readouterr()


@pytest.mark.parametrize(("path", "said"), [("/nowhere", "git is not installed"), (None, "is in no git clone")])
def test_record_without_git_or_a_clone_says_so(path, said, tmp_path, monkeypatch, capfd):
    """As from an archive of the sources."""
    if path is None and shutil.which("git") is None:
        pytest.skip("there is no git")
    record = importlib.import_module("record")
    monkeypatch.setattr(record, "HERE", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    if path is not None:
        monkeypatch.setenv("PATH", path)
    with pytest.raises(SystemExit, match=said):
        record.commits("HEAD")
    capfd.readouterr()
