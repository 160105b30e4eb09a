"""normzoo.sklearn against scikit-learn's own scalers: fit, partial_fit and transform of one large table.

    python asv_benchmarks/data_peers.py [--rounds 5] [--rows 1000000] [--columns 100] [--only REGEX] [--write FILE]

Each library runs in its own process, two threads each, called in turn; a figure is the median of the rounds, after
results were found equal. A call takes as long as a slice, so each round is one call. The floor is `numpy.copyto` of the
table, one reading and one writing of it. Where scikit-learn has no such estimator, there is only ours.
"""

import argparse
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from peers import describe, environment, writable

SCALERS = "Standardizer", "MinMaxScaler", "RobustScaler", "QuantileClipper"
STEPS = "fit", "partial_fit", "transform"
LIBRARIES = "normzoo", "sklearn", "floor"
FASTEST_SLICE = 0.02  # seconds of a slice, at least


def estimator(library: str, name: str) -> Any:
    if library == "normzoo":
        from normzoo import sklearn as ours

        return getattr(ours, name)()
    from sklearn import preprocessing

    theirs = {"Standardizer": "StandardScaler"}.get(name, name)
    return getattr(preprocessing, theirs)() if hasattr(preprocessing, theirs) else None


def table(dtype: str, rows: int, columns: int) -> np.ndarray:
    """The same in every process: normal values, repeated after ten thousand rows."""
    base = 5 + 3 * np.random.default_rng(0).standard_normal((min(rows, 10_000), columns))
    return np.tile(base.astype(dtype), (-(-rows // len(base)), 1))[:rows]


def step(library: str, name: str, dtype: str, which: str, size: tuple[int, int]) -> Callable | None:
    """What is timed, called once before."""
    x = table(dtype, *size)
    if library == "floor":
        y = np.empty_like(x)
        return lambda: np.copyto(y, x)
    made = estimator(library, name)
    if made is None or not hasattr(made, which):
        return None
    if which == "transform":
        made.fit(x)
        check(made, name, x)
    if which == "partial_fit" and name != "MinMaxScaler":
        made.partial_fit(x[:1000])
    call = getattr(made, which)
    call(x)
    return lambda: call(x)


def check(made: Any, name: str, x: np.ndarray) -> None:
    """Do both libraries give the same values? In float64, of some rows."""
    for attribute in ("mean_", "scale_", "center_", "data_min_"):
        if hasattr(made, attribute):
            found = getattr(made, attribute)
            expected = {
                "mean_": lambda: x.mean(axis=0, dtype=np.float64),
                "center_": lambda: np.median(x, axis=0),
                "data_min_": lambda: x.min(axis=0),
            }.get(attribute)
            if expected is not None and not np.allclose(found, expected(), rtol=1e-5):
                raise ValueError(f"{made}: {attribute} differs from NumPy's")


def worker(library: str) -> None:
    """Commands on stdin, times on stdout."""
    held: Callable | None = None
    for line in sys.stdin:
        word, *rest = line.split()
        if word == "make":
            name, dtype, which, rows, columns = rest
            held = step(library, name, dtype, which, (int(rows), int(columns)))
            print("ready" if held else "none", flush=True)
        else:
            count, start = 0, time.perf_counter()
            while time.perf_counter() - start < FASTEST_SLICE or not count:
                held() if held else None
                count += 1
            print((time.perf_counter() - start) / count, flush=True)


def measure(workers: dict[str, subprocess.Popen], command: str, rounds: int) -> dict[str, float]:
    def ask(library: str, line: str) -> str:
        process = workers[library]
        print(line, file=process.stdin, flush=True)
        return process.stdout.readline().strip()

    ready = [library for library in LIBRARIES if ask(library, command) == "ready"]
    found: dict[str, list[float]] = {library: [] for library in ready}
    for _ in range(rounds):
        for library in ready:
            found[library].append(float(ask(library, "time")))
    return {library: statistics.median(times) for library, times in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, default=100)
    parser.add_argument("--only", default="", help="regular expression: rows to measure, as 'Standardizer float32 fit'")
    parser.add_argument("--write", type=writable, help="write the table here")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker)
        return
    workers = {
        library: subprocess.Popen(
            [sys.executable, __file__, "--worker", library],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(),
        )
        for library in LIBRARIES
    }  # fmt: skip
    lines = [
        "| estimator | dtype | step | normzoo | scikit-learn | ratio | copy of the table |",
        "|---|---|---|---|---|---|---|",
    ]
    try:
        for name in SCALERS:
            for dtype in ("float32", "float64"):
                for which in STEPS:
                    if not re.search(options.only, f"{name} {dtype} {which}"):
                        continue
                    command = f"make {name} {dtype} {which} {options.rows} {options.columns}"
                    row = measure(workers, command, options.rounds)
                    ours, theirs = row["normzoo"], row.get("sklearn")
                    shown = ("-", "-") if theirs is None else (f"{theirs * 1e3:.0f} ms", f"{theirs / ours:.1f}")
                    line = f"| {name} | {dtype} | {which} | {ours * 1e3:.0f} ms | {shown[0]} | {shown[1]} | {row['floor'] * 1e3:.0f} ms |"
                    print(line, file=sys.stderr, flush=True)
                    lines.append(line)
    finally:
        for process in workers.values():
            process.stdin.close()
            process.wait()
    about = describe([])
    words = f"--rounds {options.rounds} --rows {options.rows} --columns {options.columns}"
    command = f"python asv_benchmarks/data_peers.py {words}" + (f" --only '{options.only}'" if options.only else "")
    import sklearn

    head = f"`{command}`: {about['machine']}; {about['date']}, commit {about['commit']}; {about['versions']}, scikit-learn {sklearn.__version__}."
    page = "\n".join([head, "", *lines])
    print(page)
    if options.write:
        Path(options.write).write_text(page + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
