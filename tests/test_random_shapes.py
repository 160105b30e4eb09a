"""The search for slow shapes in miniature: what is drawn, what counts, what is reported."""

import importlib
import itertools
import json
import math
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "asv_benchmarks"


@pytest.fixture(scope="module")
def shapes():
    sys.path.insert(0, str(FOLDER))
    try:
        return importlib.import_module("shapes")
    finally:
        sys.path = [p for p in sys.path if p != str(FOLDER)]


def drawn(shapes, seed, count=1500):
    return list(itertools.islice(shapes.draw(seed), count))


def test_a_seed_draws_the_same_shapes(shapes):
    assert drawn(shapes, 3, 50) == drawn(shapes, 3, 50) != drawn(shapes, 4, 50)


def test_all_kinds_of_shapes_are_drawn(shapes):
    cells = drawn(shapes, 0)
    sizes = [math.prod(cell.shape) for cell in cells]
    assert 1 <= min(sizes) < 10 and 5e6 < max(sizes) <= 1e7
    assert 0.35 < sum(s < 3000 for s in sizes) / len(sizes) < 0.65  # log-uniform
    assert all(n >= 1 for cell in cells for n in cell.shape)
    kinds = {(cell.norm, cell.last, cell.evaluate, cell.direction, cell.dtype) for cell in cells}
    layouts = [("LayerNorm", False, False), ("RMSNorm", False, False)]
    layouts += [("GroupNorm", last, False) for last in (False, True)]
    layouts += [
        (norm, *flags) for norm in ("BatchNorm", "InstanceNorm") for flags in itertools.product((False, True), repeat=2)
    ]
    passes = itertools.product(layouts, ("forward", "backward"), ("float32", "float16", "bfloat16"))
    assert kinds == {(*layout, direction, dtype) for layout, direction, dtype in passes}
    grouped = [(cell.groups, cell.shape[1]) for cell in cells if cell.norm == "GroupNorm"]
    assert all(channels % groups == 0 for groups, channels in grouped)
    wide = [groups / channels for groups, channels in grouped if channels > 8]
    assert {1.0} < set(wide) and min(wide) < 1 / 8 and any(groups == 1 for groups, c in grouped if c > 8)
    assert max(cell.shape[1] for cell in cells if cell.norm not in ("LayerNorm", "RMSNorm")) > 2000


def test_shares_and_the_worst_are_reported(shapes):
    cells = [shapes.Cell("GroupNorm", (n, 4, 5), "forward", groups=2) for n in range(1, 5)]
    ratios = 0.5, 0.9, 1.0, 2.0
    found = {cell: {"normzoo": 1e-6, "torch": ratio * 1e-6} for cell, ratio in zip(cells, ratios, strict=True)}
    text = shapes.report(found, "torch", 0.95, 2)
    assert "4 shapes, times as fast as torch: geometric mean 0.97, below 0.95 50.0 % (2), below 0.8 25.0 % (1)." in text
    assert text.splitlines()[-2:] == [
        "| GroupNorm 1x4x5 forward, 2 groups | 0.50 | 1.00 | 0.50 |",
        "| GroupNorm 2x4x5 forward, 2 groups | 0.90 | 1.00 | 0.90 |",
    ]


def test_a_low_shape_counts_as_it_is_timed_again(shapes, tmp_path, monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(
            sys, "argv", ["shapes.py", "--peer", "normzoo out=", "--rounds", "1", "--more", "2", *arguments]
        )
        assert shapes.main() == 0
        return capsys.readouterr().out

    monkeypatch.setattr(shapes, "draw", lambda seed: iter([shapes.Cell("LayerNorm", (4, 64), "forward")] * 3))
    path = tmp_path / "shapes.json"
    out = run("--shapes", "1", "--limit", "100", "--json", str(path))
    assert "1 shapes" in out and "below 100.0 100.0 % (1)" in out
    [row] = json.loads(path.read_text())["shapes"]
    assert row["shape"] == [4, 64] and row["seconds"] != row["first"]
    assert 1e-7 < row["seconds"]["normzoo"] < 1e-3
    assert shapes.low_of(path) == [shapes.Cell("LayerNorm", (4, 64), "forward")]


def test_what_fails_is_named_and_the_rest_goes_on(shapes):
    good = shapes.Cell("LayerNorm", (4, 64), "forward")
    bad = shapes.Cell("GroupNorm", (2, 5, 3), "forward", groups=2)
    failed = {}
    found = shapes.timed(iter([bad, good]), "normzoo out=", 1, math.inf, failed)
    assert list(found) == [good]
    assert (
        list(failed) == [bad]
        and failed[bad].startswith("normzoo: Cell(norm='GroupNorm'")
        and "ValueError" in failed[bad]
    )
