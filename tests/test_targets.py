"""The targets' command in miniature: what measures must itself be able to fail."""

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parent.parent / "asv_benchmarks"


@pytest.fixture(scope="module")
def targets():
    sys.path.insert(0, str(FOLDER))
    try:
        return importlib.import_module("targets")
    finally:
        sys.path = [p for p in sys.path if p != str(FOLDER)]


def test_a_process_that_fails_is_no_figure(targets):
    assert targets.fresh("print(3)") == 3
    with pytest.raises(subprocess.CalledProcessError):
        targets.fresh("raise SystemExit(1)")


def test_the_tree_that_is_named_is_measured(targets, tmp_path, monkeypatch):
    """From any folder, and whatever is installed."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    place = f"import pathlib, normzoo; print(int(pathlib.Path(normzoo.__file__).parents[1] == pathlib.Path({str(FOLDER.parent)!r})))"
    assert targets.fresh(place, folder=str(tmp_path)) == 1


def test_the_peak_of_memory_is_seen(targets):
    size = 64 << 20

    def call():
        np.ones(size, np.uint8)  # dies at once
        return np.ones(size // 2, np.uint8)

    peak, result = targets.peak_of(call)
    assert result.nbytes == size // 2
    assert 0.95 * size < peak < 1.1 * size


def test_calls_are_alternated(targets):
    seen = []
    found = targets.alternate({"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}, rounds=2, least=1e-4)
    assert found.keys() == {"a", "b"} and min(found.values()) > 0
    turns = "".join(name for i, name in enumerate(seen) if i == 0 or seen[i - 1] != name)
    assert turns == "ababab"


def test_a_target_bounds_from_its_side(targets):
    assert targets.Row("time", "<=", 1.0, 1.0).met and not targets.Row("time", "<=", 1.0, 1.1).met
    assert targets.Row("gain", ">=", 1.0, 1.0).met and not targets.Row("gain", ">=", 1.0, 0.9).met


def test_the_table_shows_what_the_cheapest_section_measured(targets):
    pytest.importorskip("tabulate")
    rows = list(targets.import_(1))
    assert [row.unit for row in rows] == ["ms"] and 0 < rows[0].measured < 60_000
    assert "import normzoo, above import numba" in targets.as_table(rows)
