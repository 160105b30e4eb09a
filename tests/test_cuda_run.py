"""`asv_benchmarks/device_run.py` where there is no device: its steps run on the executor, and what they find is written."""

import importlib.util
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.cuda_executor import unavailable

if reason := unavailable():
    pytest.skip(reason, allow_module_level=True)

ROOT = Path(__file__).parent.parent
PROGRAM = ROOT / "asv_benchmarks/device_run.py"


@pytest.fixture(scope="module")
def device_run():
    spec = importlib.util.spec_from_file_location("device_run", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ran(folder, *only):
    command = [sys.executable, str(PROGRAM), "--emulated", "--out", str(folder), "--only", *only]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr + "".join(f.read_text() for f in folder.glob("*.log"))
    return json.loads((folder / "results.json").read_text()), (folder / "table.md").read_text()


@pytest.mark.parametrize(
    "only", [("versions", "memory"), pytest.param(("values", "times", "graph", "tests"), marks=pytest.mark.slow)]
)
def test_its_steps_run_on_the_executor_and_take_no_times(only, tmp_path):
    results, table = ran(tmp_path, *only)
    assert all(each == ["done"] for each in results["steps"].values())
    assert table.startswith("# On the executor: no device is here") and "Nothing was found wrong." in table
    if "versions" in only:
        (found,) = (f for f in results["found"] if f["step"] == "versions")
        assert found["packages"]["numba-cuda"] and found["python"] and "commit" in found
    else:
        cells = [f for f in results["found"] if f["step"] == "times" and "seconds" in f]
        assert len(cells) == 4 and all(f["seconds"] is None and f["share"] is None for f in cells)
        assert "of a copy" not in table and "2 of 2 norms are right" in table
        assert {f["what"] for f in results["found"] if "what" in f} == set()


def test_the_limits_of_the_steps_fit_into_eight_minutes(device_run):
    assert device_run.IN_ALL < 480
    assert max(limit for _, limit, _ in device_run.STEPS) < device_run.IN_ALL / 2
    assert {name.split()[0] for name, *_ in device_run.STEPS} == set(device_run.STEP)


def test_a_step_that_takes_too_long_is_ended_with_all_that_it_started(device_run, tmp_path, monkeypatch):
    program = tmp_path / "slow.py"
    program.write_text(
        "import subprocess, sys, pathlib\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "pathlib.Path(sys.argv[2], 'child').write_text(str(child.pid))\n"
        "child.wait()\n"
    )
    monkeypatch.setattr(device_run, "__file__", str(program))
    began = time.monotonic()
    run = SimpleNamespace(out=tmp_path, emulated=True)
    assert device_run.in_process(run, "values", 3.0, 4) == ["cut short"]
    assert time.monotonic() - began < 30
    child = int((tmp_path / "child").read_text())
    for _ in range(100):
        state = Path(f"/proc/{child}/stat")
        if not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            break
        time.sleep(0.05)
    else:
        pytest.fail("what the step started still runs")
    program.write_text("raise SystemExit(3)")
    assert device_run.in_process(run, "values", 60.0, 4) == ["broke (3)"]


def test_what_is_wrong_shows_in_the_table(device_run):
    good = {"step": "values", "case": "LayerNorm", "right": True, "errors": {"y": 1e-7}}
    bad = {"step": "values", "case": "RMSNorm", "right": False, "errors": {"y": 0.5}}
    cell = {"step": "times", "norm": "LayerNorm", "shape": [6, 64], "dtype": "float32", "last": True,
            "direction": "forward"}  # fmt: skip
    times = [cell | {"who": "normzoo", "share": 0.875}, cell | {"who": "torch", "share": 0.5}]
    text, cells, who, wrong = device_run.table_of([good, *times], {"values": ["done"]}, False)
    assert not wrong and "1 of 1 norms are right" in text
    assert "| LayerNorm (6, 64) float32 channels-last forward | 0.88 | 0.50 |" in text and who == ["normzoo", "torch"]
    text, *_, wrong = device_run.table_of([good, bad], {"values": ["done", "cut short"]}, False)
    assert wrong and "1 of 2 norms are right" in text and "RMSNorm: {'y': 0.5}" in text and "cut short, done" in text


def test_times_are_medians_of_many(device_run):
    ticks = iter(range(10**6))

    class Clock:
        synchronize = staticmethod(lambda: None)

        def event(self):
            return SimpleNamespace(record=lambda: None)

        def elapsed(self, start, stop):
            return 100.0 if next(ticks) % 5 == 0 else 2.0  # one of five is disturbed

    assert device_run.median(Clock(), lambda: None, 0.0) == 2.0
    assert device_run.real(math.nan) is None and device_run.real(2.0) == 2.0


def test_a_picture_is_drawn_where_matplotlib_is(device_run, tmp_path):
    pytest.importorskip("matplotlib")
    device_run.picture_of({"one": {"normzoo": 0.8, "torch": None}, "two": {}}, ["normzoo", "torch"], tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes()[1:4] == b"PNG"
