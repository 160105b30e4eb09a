"""What asv_benchmarks/peers.py times of other libraries is what this library computes; each is looked at where it is installed."""

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest

import normzoo as nz
from tests import site_check

peers = site_check.benchmark_module("peers")
Cell = peers.Cell
PLAIN = [
    Cell("BatchNorm", (4, 8, 6, 6), "forward"),
    Cell("BatchNorm", (4, 8, 6, 6), "forward", evaluate=True),
    Cell("LayerNorm", (6, 32), "forward"),
    Cell("RMSNorm", (6, 32), "forward"),
    Cell("GroupNorm", (4, 8, 6, 6), "forward", groups=4),
    Cell("InstanceNorm", (4, 8, 6, 6), "forward"),
]
FUSED = [
    Cell("LayerNorm", (6, 32), "both", around="residual"),
    Cell("RMSNorm", (6, 32), "both", around="gate", activation="silu"),
    Cell("BatchNorm", (4, 8, 6, 6), "both", around="add", activation="relu"),
    Cell("LayerNorm", (6, 32), "both", activation="gelu"),
]


HAS = {  # of those that have not all
    "onednn": {cell.id for cell in PLAIN[:2]},
    "onnxruntime": {cell.id for cell in PLAIN[1:]},
    "openvino": {cell.id for cell in PLAIN[1:]},
}


def arrays_of(found):
    """What a library returns, as arrays, the result or the gradient of x first."""
    if isinstance(found, list | tuple):
        return [a for each in found for a in arrays_of(each)]
    if hasattr(found, "keys"):  # OpenVINO's, by port
        return arrays_of(list(found.values()))
    if getattr(found, "is_mkldnn", False):
        found = found.to_dense()
    return [np.asarray(found.detach() if hasattr(found, "detach") else found)]


def differences(name):
    """Prints JSON: cell -> the largest difference of the result, or of the gradient of x; null where a peer has none."""
    found = {}
    for cell in [*PLAIN, *(FUSED if name in peers.FUSED else [])]:
        call = peers.IMPLEMENTATIONS[name](cell)
        with nz.use("reference"):
            expected = peers.normzoo_calls(cell, out=False)()
        expected = expected.x if cell.direction == "both" else expected
        found[cell.id] = None if call is None else float(np.abs(arrays_of(call())[0] - expected).max())
    print("\n" + json.dumps(found))


@pytest.mark.parametrize("name", ["torch", "onednn", "jax", "onnxruntime", "openvino"])
def test_peers_compute_the_same(name):
    """In a process of its own, as its threads and its hooks on forks would stay in this one."""
    if not peers.installed(name):
        pytest.skip(f"{name} is not installed")
    code = f"from tests import test_peers; test_peers.differences({name!r})"
    paths = [str(site_check.FOLDER.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = peers.environment() | {"PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert {cell for cell, error in found.items() if error is not None} == HAS.get(name, found.keys())
    assert all(error < 1e-4 for error in found.values() if error is not None), found


def test_every_peer_has_a_package_and_a_title():
    titles = site_check.benchmark_module("page.peers").TITLES if importlib.util.find_spec("asv") else None
    for name in peers.PEERS:
        assert name in peers.IMPLEMENTATIONS and (titles is None or name in titles)
    assert set(peers.FUSED) <= set(peers.IMPLEMENTATIONS)
    kept = peers.environment("torch kept")
    assert int(kept["MALLOC_MMAP_THRESHOLD_"]) > 1 << 30 and "MALLOC_MMAP_THRESHOLD_" not in peers.environment("torch")


def test_a_record_has_medians_and_rounds(tmp_path):
    rounds = {"LayerNorm 4x64 forward": {"normzoo": [1.0, 3.0, 2.0], "floor": [0.123456, 0.2, 0.1]}}
    peers.write_record(str(tmp_path / "r.json"), {"commit": "abc"}, rounds, peaks={"a": 1})
    found = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert found["seconds"] == {"LayerNorm 4x64 forward": {"normzoo": 2.0, "floor": 0.123456}}
    assert found["rounds"]["LayerNorm 4x64 forward"]["floor"] == [0.1235, 0.2, 0.1]
    assert found["about"] == {"commit": "abc"} and found["peaks"] == {"a": 1}


def test_every_norm_has_a_composite_or_says_that_there_is_none():
    pytest.importorskip("torch")
    composites = site_check.benchmark_module("zoo_composites").PEERS
    assert set(composites) == set(nz.list_norms())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "options", "rows"),
    [
        (
            "data_peers.py",
            ["--rows", "3000", "--columns", "7", "--only", "float32 (fit|transform|step)"],
            {f"{s} float32 {step}" for s in ("Standardizer", "MinMaxScaler", "RobustScaler", "QuantileClipper") for step in ("fit", "transform", "transform in place")}
            | {"ObservationNorm float32 step"},
        ),
        ("image_peers.py", ["--without", "torchvision|albucore"], None),
    ],
    ids=["data", "images"],
)  # fmt: skip
def test_scripts_for_data_write_their_records(script, options, rows, tmp_path):
    pytest.importorskip("sklearn")
    file = tmp_path / "r.json"
    command = [sys.executable, str(site_check.FOLDER / script), "--rounds", "2", *options, "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text(encoding="utf-8"))
    assert rows is None or set(found["seconds"]) == rows
    assert found["about"]["command"].startswith(f"python asv_benchmarks/{script} --rounds 2 ")
    peer = "sklearn" if script == "data_peers.py" else "numpy"
    for row, seconds in found["seconds"].items():
        assert 0 < seconds["normzoo"] < 10 and len(found["rounds"][row]["normzoo"]) == 2, row
        assert peer in seconds or row.startswith(("Quantile", "Observation"))
