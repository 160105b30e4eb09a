"""What the benchmarks of asv are built of, and how the guard decides."""

import importlib
import json
import math
import os
import pkgutil
import platform
import re
import shutil
import subprocess
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


def test_the_suites_have_about_250_values_and_a_version_each():
    values = {name: math.prod(len(p) for p in getattr(f, "params", [])) for name, f in benchmarks()}
    assert 100 < sum(values.values()) <= 275, values
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


def test_instructions_of_python_do_not_count():
    """The interpreter's build would be in every number."""
    stepping = importlib.import_module("suites.stepping")
    try:
        stepping.stepper()
    except NotImplementedError as reason:
        pytest.skip(str(reason))
    assert stepping.instructions(lambda: sum(range(300))) <= stepping.instructions(lambda: None) < 100


def test_functions_allocations_and_bytes_are_counted(monkeypatch):
    """Of a call that enters three functions and asks for a list of 800 bytes."""
    counts = importlib.import_module("suites.counts")

    def inner():
        return [None] * 100

    def middle():
        return inner()

    def call():
        return middle()

    monkeypatch.setattr(counts, "small_call", lambda name: lambda: call())  # noqa: PLW0108
    assert counts.track_functions("any") == 3
    assert 1 <= counts.track_allocations("any") <= 8
    assert 800 <= counts.track_bytes("any") < 1600


def test_counts_need_a_named_processor(monkeypatch):
    counts = importlib.import_module("suites.counts")
    monkeypatch.delenv("NUMBA_CPU_NAME", raising=False)
    with pytest.raises(NotImplementedError, match=r"record\.py"):
        counts.require(counts.CALLS[0])
    monkeypatch.setenv("NUMBA_CPU_NAME", "x86-64-v3")
    counts.require(counts.CALLS[0])


@pytest.mark.slow
def test_a_commit_is_counted_twice_alike():
    counting = importlib.import_module("counting")
    if sys.platform != "linux" or not (FOLDER.parent / ".git").exists():
        pytest.skip("needs Linux and a clone")
    wanted = (
        "counts.track_instructions,counts.track_functions,counts.track_allocations,counts.track_bytes,counts.track_code"
    )
    with counting.alone():
        first, second = (counting.count("HEAD", "x86-64-v3", wanted)[1] for _ in range(2))
    assert first.keys() == set(wanted.split(","))
    assert all(value is not None and value > 0 for row in first.values() for value in row)
    for name, row in first.items():
        np.testing.assert_allclose(row, second[name], rtol=0.003, err_msg=name)


ON_ANOTHER_HOST = """
import sys
import llvmlite.binding as llvm

if sys.argv[1] != "this":
    features = llvm.get_host_cpu_features()
    features.update({"avx512f": True, "avx512bw": True, "avx512vl": True, "avx512bf16": True, "fma4": True})
    llvm.get_host_cpu_name, llvm.get_host_cpu_features = (lambda: sys.argv[1]), (lambda: features)
from suites import counts

print([counts.track_instructions(case) for case in ("LayerNorm 16x768 bfloat16 forward", "LayerNorm 16x768 forward")])
"""


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="counts are those of x86-64 on Linux"
)
def test_kernels_for_a_named_processor_do_not_look_at_the_host(tmp_path):
    """The same instructions where Numba takes the host for another one, with other instruction sets."""
    pins = importlib.import_module("pins")
    found = []
    for host in ("this", "znver5"):
        environment = os.environ | pins.PINS["x86-64-v3"] | {
            "NUMBA_CACHE_DIR": str(tmp_path / host), "PYTHONPATH": os.pathsep.join([str(FOLDER), str(FOLDER.parent)]),
        }  # fmt: skip
        command = [sys.executable, "-c", ON_ANOTHER_HOST, host]
        found.append(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert found[0] == found[1] and float(found[0].strip("[]\n").split(",")[0]) > 1


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


def history(record, count, figures=(), tags=()):
    """Commits of as many days as there are tens."""
    return [
        record.Commit(
            f"{i:08x}{0:032x}", 86400 * (i // 10), "v1" if i in tags else "", "2 times" if i in figures else "Tests"
        )
        for i in range(count)
    ]


def test_the_most_wanted_commits_come_first():
    """HEAD, tags and the ends of days, then halves, figures, and the rest; what is recorded is left out."""
    record = importlib.import_module("record")
    found = history(record, 95, figures=(41, 42), tags=(13,))
    order = [found.index(commit) for commit in record.in_turn(found, set())]
    assert sorted(order) == list(range(95))
    assert order[:11] == [94, 89, 79, 69, 59, 49, 39, 29, 19, 13, 9]
    assert order.index(42) == order.index(41) - 1 == 11  # no stretch is longer than ten
    have = {found[i].hash[:8] for i in (94, 19)}
    assert {found.index(c) for c in record.in_turn(found, have)} == set(range(95)) - {94, 19}


def test_halves_are_those_of_the_longest_stretch():
    record = importlib.import_module("record")
    assert list(record.halves(100, {99}, 25)) == [49, 24, 74]
    assert list(record.halves(3, {0, 1, 2}, 1)) == []


@pytest.mark.parametrize(("behind", "stale"), [(10, False), (11, True), (None, True)])
def test_a_stale_record_is_refused(behind, stale, tmp_path, monkeypatch, capsys):
    record = importlib.import_module("record")
    found = history(record, 40)
    folder = tmp_path / "x86-64-v3"
    folder.mkdir()
    if behind is not None:
        (folder / f"{found[-1 - behind].hash[:8]}-counted.json").write_text("{}")
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr(record, "commits", lambda wanted: found)
    assert record.behind(found) == (40 if behind is None else behind)
    if stale:
        with pytest.raises(SystemExit, match=r"record\.py --counts"):
            record.check()
    else:
        record.check()
        assert "10 library commits behind HEAD" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("cpu", "cores", "name"),
    [
        ("AMD EPYC, family 25, model 1", "2", "amd-epyc-family-25-model-1-2-cores"),
        ("Intel(R) Xeon(R) Processor @ 2.70GHz, family 6, model 143", "16", "intel-xeon-family-6-model-143-16-cores"),
        ("unknown, family unknown, model unknown", "4", "unknown-family-unknown-model-unknown-4-cores"),
    ],
)
def test_a_kind_of_processor_has_a_name(cpu, cores, name):
    assert importlib.import_module("record").kind_of({"cpu": cpu, "num_cpu": cores}) == name


def test_a_step_begins_where_it_would_end_in_time(monkeypatch):
    record = importlib.import_module("record")
    now = [0.0]
    monkeypatch.setattr(record.time, "monotonic", lambda: now[0])
    budget, (commit,) = record.Budget(2), history(record, 1)

    def work():
        now[0] += 50

    budget.step("counted", commit, work)
    assert budget.allows("counted") and budget.allows("timed")
    budget.step("counted", commit, work)
    assert not budget.allows("counted") and budget.allows("timed")


def written(folder, commit, value):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "machine.json").write_text("{}")
    results = {"kernels.track_cost": [[value], [["'a case'"]], "1"], "examples.track_epoch": [[value], [], "1"]}
    (folder / f"{commit.hash[:8]}-env.json").write_text(json.dumps({"commit_hash": commit.hash, "results": results}))


def test_the_anchor_is_a_commit_of_another_machine_if_there_is_one(tmp_path, monkeypatch):
    record = importlib.import_module("record")
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    found = history(record, 20)
    assert record.anchor_of(found, "here") is None
    written(tmp_path / "here", found[15], 1.0)
    assert record.anchor_of(found, "here") is found[15]
    for i in (3, 7):
        written(tmp_path / "there", found[i], 1.0)
    written(tmp_path / "x86-64-v3", found[19], 1.0)  # counts are of no machine
    assert record.anchor_of(found, "here") is found[7]


@pytest.mark.parametrize("fails", [False, True])
def test_an_anchor_is_repeated_beside_its_record(fails, tmp_path, monkeypatch):
    """Ratios alone; what was recorded first stays as it is, also where asv is interrupted."""
    record = importlib.import_module("record")
    results = tmp_path / "results"
    monkeypatch.setattr(record, "RESULTS", results)
    (commit,) = history(record, 1)
    written(results / "here", commit, 1.0)
    before = (results / "here" / f"{commit.hash[:8]}-env.json").read_text()

    def run_asv(machine, bench, again):
        assert re.search(bench, "kernels.track_cost('a case')") and not re.search(bench, "examples.track_epoch")
        written(results / machine, again, 1.5)
        if fails:
            raise KeyboardInterrupt

    monkeypatch.setattr(record, "run_asv", run_asv)
    if fails:
        with pytest.raises(KeyboardInterrupt):
            record.repeat("here", commit)
        assert not (tmp_path / "repeats").exists()
    else:
        record.repeat("here", commit)
        (path,) = (tmp_path / "repeats" / "here").glob("*.json")
        assert json.loads(path.read_text())["results"] == {"kernels.track_cost": [[1.5], [["'a case'"]], "1"]}
    assert (results / "here" / f"{commit.hash[:8]}-env.json").read_text() == before


def test_head_and_the_anchor_come_first_and_the_anchor_once_more_at_the_end(tmp_path, monkeypatch, capsys):
    record = importlib.import_module("record")
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    found = history(record, 40)
    written(tmp_path / "there", found[5], 1.0)
    now, steps = [0.0], []

    def takes(seconds, name):
        def work(*arguments):
            now[0] += seconds
            steps.append((name, next(found.index(a) for a in arguments if isinstance(a, record.Commit))))

        return work

    monkeypatch.setattr(record.time, "monotonic", lambda: now[0])
    for name, seconds in (("count", 30), ("run_asv", 120), ("repeat", 60)):
        monkeypatch.setattr(record, name, takes(seconds, name))
    todo = {"counted": record.in_turn(found, set()), "timed": record.in_turn(found, set())}
    record.record(todo, "here", ".", record.Budget(11), found)
    assert steps == [
        ("count", 39), ("run_asv", 39), ("run_asv", 5), ("count", 29), ("run_asv", 29), ("count", 19), ("count", 9), ("count", 4),
        ("repeat", 5),
    ]  # fmt: skip
    assert now[0] <= 660
    assert "40 commits are not counted yet; 40 commits are not timed yet" in capsys.readouterr().out


def test_other_versions_start_no_series_of_one_commit(monkeypatch):
    counting = importlib.import_module("counting")
    monkeypatch.setattr(counting, "wanted_versions", lambda: counting.versions() | {"numba": "0.1"})
    with pytest.raises(SystemExit, match=r"numba 0\.1 \(here .*pip install .*numba==0\.1"):
        counting.check_versions()
    monkeypatch.setattr(counting, "wanted_versions", counting.versions)
    counting.check_versions()


def test_record_names_the_commits_of_the_library_and_refuses_others(capfd):
    record = importlib.import_module("record")
    try:
        found = record.commits("HEAD")
    except SystemExit as refusal:
        pytest.skip(str(refusal))  # a shallow clone, or no clone at all
    assert found
    assert not {commit.hash[:8] for commit in found} & record.BROKEN
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
