"""normzoo.sklearn against scikit-learn's own scalers, and a step of ObservationNorm against Gymnasium's.

    python asv_benchmarks/data_peers.py [--rounds 5] [--rows 1000000] [--columns 100] [--only REGEX] [--json FILE]

fit, partial_fit and transform of one large table; `transform in place` is that with copy=False. A step of environments
(8, 17) takes the observations in and normalizes them. Each library runs in its own process, two threads each, called in
turn; a figure is the median of the rounds, after results were found equal. A large call takes as long as a slice, so each
round is one call. The floor is `numpy.copyto` of the table, one reading and one writing of it. Where a peer has no such
estimator, or is not installed, there is only ours. `docs/making/speed.py` makes docs/howto/data.md's table of the JSON.
"""

import argparse
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from peers import describe, environment, medians, timed, warm, writable, write_record

SCALERS = "Standardizer", "MinMaxScaler", "RobustScaler", "QuantileClipper"
STEPS = "fit", "partial_fit", "transform", "transform in place"
LIBRARIES = "normzoo", "sklearn", "gymnasium", "floor"
PACKAGES = {"sklearn": "scikit-learn", "gymnasium": "gymnasium"}
ENVIRONMENTS = 8, 17
OBSERVING = "ObservationNorm float32 step"
ROWS = (*(f"{s} {d} {step}" for s in SCALERS for d in ("float32", "float64") for step in STEPS), OBSERVING)


def estimator(library: str, name: str, **options: Any) -> Any:
    if library == "normzoo":
        from normzoo import sklearn as ours

        return getattr(ours, name)(**options)
    from sklearn import preprocessing

    theirs = {"Standardizer": "StandardScaler"}.get(name, name)
    return getattr(preprocessing, theirs)(**options) if hasattr(preprocessing, theirs) else None


def table(dtype: str, rows: int, columns: int) -> np.ndarray:
    """The same in every process: normal values, repeated after ten thousand rows."""
    base = 5 + 3 * np.random.default_rng(0).standard_normal((min(rows, 10_000), columns))
    return np.tile(base.astype(dtype), (-(-rows // len(base)), 1))[:rows]


def scaling(library: str, row: str, size: tuple[int, int]) -> Callable | None:
    """What is timed of a table, called once before."""
    name, dtype, step = row.split(" ", 2)
    x = table(dtype, *size)
    if library == "floor":
        y = np.empty_like(x)
        return lambda: np.copyto(y, x)
    made = None if library == "gymnasium" else estimator(library, name)
    which, _, in_place = step.partition(" ")
    if made is None or not hasattr(made, which):
        return None
    if which == "transform":
        made.fit(x)
        check(made, x)
    if in_place:
        made.set_params(copy=False)
    if which == "partial_fit" and name != "MinMaxScaler":
        made.partial_fit(x[:1000])
    call = getattr(made, which)
    call(x)
    return lambda: call(x)


def check(made: Any, x: np.ndarray) -> None:
    """Are the statistics those of NumPy?"""
    expected = {
        "mean_": lambda: x.mean(axis=0, dtype=np.float64),
        "center_": lambda: np.median(x, axis=0),
        "data_min_": lambda: x.min(axis=0),
    }
    for attribute, found in expected.items():
        if hasattr(made, attribute) and not np.allclose(getattr(made, attribute), found(), rtol=1e-5):
            raise ValueError(f"{made}: {attribute} differs from NumPy's")


def observing(library: str) -> Callable | None:
    """A step of environments: x counts, and is normalized."""
    x = np.random.default_rng(0).standard_normal(ENVIRONMENTS, dtype=np.float32)
    if library == "normzoo":
        import normzoo as nz

        norm = nz.ObservationNorm(ENVIRONMENTS[1], clip=None)
        return lambda: norm(x)
    if library != "gymnasium":
        return None
    from gymnasium.wrappers.utils import RunningMeanStd

    known = RunningMeanStd(shape=ENVIRONMENTS[1:])

    def step() -> np.ndarray:
        known.update(x)
        return (x - known.mean) / np.sqrt(known.var + 1e-8)  # as NormalizeObservation has it

    return step


def worker(library: str, size: tuple[int, int]) -> None:
    """Names of rows on stdin, seconds or an empty line on stdout."""
    current, call, slices = "", None, False
    for line in sys.stdin:
        row = line.strip()
        if row != current:
            current, slices = row, row == OBSERVING
            call = observing(library) if slices else scaling(library, row, size)
            if call and slices:
                warm(call)
        print("" if call is None else timed(call) if slices else once(call), flush=True)


def once(call: Callable) -> float:
    """Seconds of one call."""
    from time import perf_counter

    start = perf_counter()
    call()
    return perf_counter() - start


def as_line(row: str, seconds: dict[str, float]) -> str:
    """What is shown while it is measured."""
    shown = ", ".join(f"{library} {1e3 * t:.4g} ms" for library, t in seconds.items())
    theirs = seconds.get("sklearn", seconds.get("gymnasium"))
    return f"{row}: {shown}" + ("" if theirs is None else f"; {theirs / seconds['normzoo']:.2f} times as fast")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, default=100)
    parser.add_argument("--only", default="", help="regular expression: rows to measure, as 'Standardizer float32 fit'")
    parser.add_argument("--json", "--out", type=writable, help="write the record here")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    size = options.rows, options.columns
    if options.worker:
        worker(options.worker, size)
        return
    libraries = [name for name in LIBRARIES if name not in PACKAGES or importlib.util.find_spec(name)]
    sizes = ["--rows", str(options.rows), "--columns", str(options.columns)]
    workers = {
        library: subprocess.Popen(
            [sys.executable, __file__, "--worker", library, *sizes],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(),
        )
        for library in libraries
    }  # fmt: skip

    def ask(library: str, row: str) -> float | None:
        print(row, file=workers[library].stdin, flush=True)
        answer = workers[library].stdout.readline().strip()  # type: ignore[union-attr]
        return float(answer) if answer else None

    found: dict[str, dict[str, list[float]]] = {}
    try:
        for row in ROWS:
            if not re.search(options.only, row):
                continue
            known = [library for library in libraries if ask(library, row) is not None]
            found[row] = {library: [] for library in known}
            for _ in range(options.rounds):
                for library in known:
                    found[row][library].append(ask(library, row) or 0.0)
            print(as_line(row, medians({row: found[row]})[row]), flush=True)
    finally:
        for process in workers.values():
            process.stdin.close()  # type: ignore[union-attr]
            process.wait()
    if options.json:
        about = describe([])
        versions = [
            f"{PACKAGES[name]} {importlib.metadata.version(PACKAGES[name])}" for name in libraries if name in PACKAGES
        ]
        about["versions"] = ", ".join([about["versions"], *versions])
        about["command"] = f"python asv_benchmarks/data_peers.py --rounds {options.rounds} {' '.join(sizes)}"
        about["command"] += f" --only '{options.only}'" if options.only else ""
        write_record(options.json, about, found)


if __name__ == "__main__":
    main()
