"""Counts of a commit, which need no quiet machine and no machine of a kind: see suites/counts.py and pins.py.

`count` measures a commit in processes of its own, in a minute, and `save` writes the results as asv does, under the
name of the pin. `record.py` calls them.
"""

import fcntl
import importlib.metadata
import itertools
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pins import COUNTED, PINS

HERE = Path(__file__).parent
WORK = HERE / "env" / "counted"
COMPILER = ("numba", "llvmlite", "numpy", "scipy", "ml_dtypes")  # another version of these starts another series


def versions() -> dict[str, str]:
    """Of what the counts depend on, beside the commit and the pin."""
    found = {name: importlib.metadata.version(name) for name in COMPILER}
    return {"python": ".".join(platform.python_version_tuple()[:2])} | found


def wanted_versions() -> dict[str, str]:
    """Those that asv.conf.json names."""
    from asv.util import load_json

    conf = load_json(str(HERE / "asv.conf.json"), js_comments=True)
    required = conf["matrix"]["req"]
    return {"python": conf["pythons"][0]} | {name: required[name][0] for name in COMPILER if name in required}


def check_versions() -> None:
    """A record of other versions would be a series of its own, of one commit."""
    here, wanted = versions(), wanted_versions()
    differ = [f"{name} {version} (here {here[name]})" for name, version in wanted.items() if here[name] != version]
    if differ:
        packages = " ".join(f"{name}=={version}" for name, version in wanted.items() if name != "python")
        raise SystemExit(
            f"record: the history is counted with {', '.join(differ)}; run this with Python {wanted['python']} where "
            f"`pip install {packages}` was done. For a new series change asv.conf.json"
        )


def runnable() -> list[str]:
    """The pins whose code this processor runs."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise SystemExit("record: counts are those of x86-64, on Linux; here only --times can be recorded")
    flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    return [
        "x86-64-v3",
        *(["x86-64-v4"] if {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"} <= flags else []),
    ]


def environment_name() -> str:
    return "counted-" + "-".join(f"{name}{version}" for name, version in versions().items())


# -- in the process that counts ------------------------------------------------------------------------------


def worker(wanted: str) -> None:
    """Prints JSON: of every benchmark asv's description, and the value of every case; NaN where it is not applicable,
    null where it failed."""
    import importlib
    import inspect
    import traceback

    sys.path.insert(0, str(HERE))
    about: dict[str, dict[str, Any]] = {}
    found: dict[str, list[float | None]] = {}
    for module in COUNTED:
        for name, function in vars(importlib.import_module(f"suites.{module[:-1]}")).items():
            full = f"{module}{name}"
            if not name.startswith("track_") or (wanted and full not in wanted.split(",")):
                continue
            about[full] = {
                "code": inspect.getsource(function), "name": full, "param_names": list(function.param_names),
                "params": [[repr(v) for v in values] for values in function.params], "timeout": 300,
                "type": "track", "unit": function.unit, "version": function.version,
            }  # fmt: skip
            found[full] = []
            for case in itertools.product(*function.params):
                try:
                    if hasattr(function, "setup"):
                        function.setup(*case)
                    value: float | None = float(function(*case))
                except NotImplementedError:
                    value = math.nan
                except Exception:
                    print(f"{full}{case}:", file=sys.stderr)
                    traceback.print_exc()
                    value = None
                found[full].append(value)
    print("\n" + json.dumps([about, found]))


# -- in the process that records -----------------------------------------------------------------------------


@contextmanager
def alone() -> Iterator[None]:
    """Two would write over each other's tree."""
    WORK.mkdir(parents=True, exist_ok=True)
    with open(WORK / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(f"record: another record.py counts in {WORK}; wait for it, or stop it") from None
        yield


def unpack(commit: str, folder: Path) -> None:
    """The library as it was, all files of one age: compiled kernels of equal sources are found again."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    packed = subprocess.run(["git", "archive", commit, "normzoo"], stdout=subprocess.PIPE, cwd=HERE.parent, check=True)
    subprocess.run(["tar", "-x", "-C", folder], input=packed.stdout, check=True)
    for path in folder.rglob("*.py"):
        os.utime(path, (0, 0))


def count(commit: str, pin: str, wanted: str = "") -> tuple[dict[str, dict[str, Any]], dict[str, list[float | None]]]:
    """Benchmark -> asv's description, and benchmark -> values of a commit. One that cannot be imported raises."""
    tree = WORK / "tree"
    unpack(commit, tree)
    sys.path.insert(0, str(HERE))
    from suites import kernels_of

    kernels = kernels_of(tree / "normzoo")
    environment = os.environ | PINS[pin] | {
        "PYTHONPATH": os.pathsep.join([str(tree), str(HERE)]), "NUMBA_CACHE_DIR": str(kernels.parent / f"{pin}-{kernels.name}"),
        "PYTHONHASHSEED": "0",
    }  # fmt: skip
    for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "PYTHONDONTWRITEBYTECODE"):
        environment.pop(name, None)
    command = [sys.executable, str(HERE / "counting.py"), wanted]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=tree, check=False)
    finally:
        shutil.rmtree(tree)
    if done.returncode:
        raise RuntimeError(f"record: {commit[:8]} cannot be counted; its error is above")
    return json.loads(done.stdout.splitlines()[-1])


def describe_benchmarks(results: Path, about: dict[str, dict[str, Any]]) -> None:
    """benchmarks.json names them, which asv reads to publish."""
    from asv.benchmarks import Benchmarks
    from asv.util import load_json, write_json

    path = results / "benchmarks.json"
    known = load_json(str(path), api_version=Benchmarks.api_version) if path.exists() else {}
    if known | about != known:
        write_json(str(path), known | about, Benchmarks.api_version)


def save(results: Path, commit: str, date: int, pin: str, counted: tuple, took: float) -> None:
    """Under the name of the pin; results of the commit that are there already and not counted anew stay."""
    about, values = counted
    from asv.machine import Machine
    from asv.results import Results
    from asv.runner import BenchmarkResult
    from asv.util import write_json

    machine = {"machine": pin, "arch": "x86_64", "cpu": "any", "num_cpu": "1", "os": "Linux", "ram": "any"}
    (results / pin).mkdir(parents=True, exist_ok=True)
    if not (results / pin / "machine.json").exists():
        write_json(str(results / pin / "machine.json"), machine, Machine.api_version)
    used, name = versions(), environment_name()
    path = next((results / pin).glob(f"{commit[:8]}-{name}.json"), None)
    if path is not None:
        found = Results.load(str(path), machine_name=pin)
    else:
        required = {key: value for key, value in used.items() if key != "python"}
        found = Results({**machine, **used}, required, commit, date, used["python"], name, PINS[pin])
    for benchmark, row in values.items():
        nothing = [None] * len(row)
        found.add_result(
            about[benchmark], BenchmarkResult(row, nothing, nothing, 0, "", None), duration=took / len(values)
        )
    found.save(str(results))
    describe_benchmarks(results, about)


def record(results: Path, commit: str, date: int, pin: str, wanted: str = "") -> float:
    """Count a commit and save it. Seconds that it took."""
    start = time.monotonic()
    counted = count(commit, pin, wanted)
    took = time.monotonic() - start
    save(results, commit, date, pin, counted, took)
    return took


if __name__ == "__main__":
    worker(sys.argv[1])
