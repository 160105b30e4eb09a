"""Is a commit slower than another? Exits 1 if it is, and says where.

    python asv_benchmarks/guard.py BASE HEAD [--only REGEX]

Both commits run in processes of their own that take turns within milliseconds, on one thread. Of every case the *cost*
is compared: time over that of a loop which streams the same bytes. A case is slower if its cost has grown by more than
25 %, or by more than 12 % where its kernel also executes over 2 % more instructions, which are counted, not timed. What
looks slower is measured twice more in new processes, and is slower if it always is. Takes about three minutes. Needs
the library's requirements, ml_dtypes, tabulate and tqdm (`pip install -e ".[bench]"`).
"""

import argparse
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
MORE_INSTRUCTIONS = 1.02
SLOWER = {False: 1.25, True: 1.12}  # by whether instructions tell so too
ROUNDS = 24
AGAIN = 2  # times that a suspect is measured again


# -- in the processes that measure ---------------------------------------------------------------------------


def worker() -> None:
    """Answers lines of standard input: "instructions CASE", or "seconds CASE" for a block of norm and of loop."""
    import suites  # noqa: F401  before Numba: it sets the environment
    from suites.cases import ALL, call_of, stream_of
    from suites.kernels import blocks
    from suites.stepping import instructions

    name, calls = None, []
    for line in sys.stdin:
        task, wanted = line.strip().split(maxsplit=1)
        if wanted != name:
            calls = []  # free the old arrays first
            name, calls = wanted, [call_of(wanted), stream_of(wanted)]
        if task == "instructions":
            try:
                answer = instructions(calls[0]) / math.prod(ALL[wanted].shape)
            except NotImplementedError:  # not on this processor
                answer = None
        else:
            answer = blocks(calls, rounds=1)
        print(json.dumps(answer), flush=True)


# -- in the process that compares ----------------------------------------------------------------------------


def commit_of(revision: str) -> str:
    command = ["git", "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}"]
    try:
        found = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=HERE, check=False)
    except FileNotFoundError:
        raise SystemExit("guard: git is not installed, which the commits come from") from None
    if found.returncode:
        raise SystemExit(f"guard: git knows no commit {revision!r} here; is this clone shallow?")
    return found.stdout.strip()


def unpack(commit: str, folder: Path) -> None:
    """The library as it was at a commit."""
    folder.mkdir()
    packed = subprocess.run(["git", "archive", commit, "normzoo"], stdout=subprocess.PIPE, cwd=HERE.parent, check=True)
    subprocess.run(["tar", "-x", "-C", folder], input=packed.stdout, check=True)


@contextmanager
def processes(folders: Iterable[Path]) -> Iterator[list[subprocess.Popen]]:
    started = []
    for folder in folders:
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(folder), str(HERE)]),
            "NUMBA_CACHE_DIR": str(folder / "kernels"),
        }
        command = [sys.executable, __file__, "--worker"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        started.append(subprocess.Popen(command, text=True, env=environment, **pipes))
    try:
        yield started
    finally:
        for process in started:
            process.stdin.close()
            process.wait()


def ask(process: subprocess.Popen, line: str):
    print(line, file=process.stdin, flush=True)
    answer = process.stdout.readline()
    if not answer:
        raise SystemExit(f"guard: the process that was to measure {line!r} has ended; its error is above")
    return json.loads(answer)


def instructions(pair: list[subprocess.Popen], case: str) -> float | None:
    """How many times the instructions of the first the second needs; None where they cannot be counted."""
    base, head = (ask(process, f"instructions {case}") for process in pair)
    return head / base if base and head else None


def cost(pair: list[subprocess.Popen], case: str) -> float:
    """How many times the cost of the first the second has."""
    blocks: list[list[tuple[float, float]]] = [[], []]
    for _ in range(ROUNDS):
        for process, found in zip(pair, blocks, strict=True):
            found.append(ask(process, f"seconds {case}"))
    base, head = (norm / loop for norm, loop in np.quantile(blocks, 0.25, axis=1))
    return head / base


def kernel_of(case: str) -> str:
    """A case without its shape: "LayerNorm bfloat16 forward"."""
    return re.sub(r" \d+(x\d+)+", "", case)


def compare(folders: list[Path], only: str) -> tuple[dict[str, float | None], dict[str, list[float]]]:
    """Ratios HEAD over BASE: of instructions by counted case; of cost by case, more than one where it was suspect."""
    sys.path.insert(0, str(HERE))
    from suites.cases import BFLOAT16, CELLS, COUNTED
    from tqdm import tqdm

    timed, counted = ([c for c in cases if re.search(only, c)] for cases in (CELLS | BFLOAT16, COUNTED))
    if not timed:
        raise SystemExit(f"guard: --only {only!r} matches none of {', '.join(CELLS | BFLOAT16)}")
    with processes(folders) as pair, tqdm(total=len(timed) + len(counted), unit="case", disable=None) as bar:
        executed, costs = {}, {}
        for case in counted:
            executed[case] = instructions(pair, case)
            bar.update()
        for case in timed:
            costs[case] = [cost(pair, case)]
            bar.update()
    limits = {case: limit(case, executed) for case in timed}
    for _ in range(AGAIN):
        suspects = [case for case in timed if min(costs[case]) > limits[case]]
        if suspects:
            with processes(folders) as pair:
                for case in suspects:
                    costs[case].append(cost(pair, case))
    return executed, costs


def limit(case: str, executed: dict[str, float | None]) -> float:
    """The cost, HEAD over BASE, above which a case is slower."""
    same = [ratio for counted, ratio in executed.items() if kernel_of(counted) == kernel_of(case)]
    return SLOWER[any(ratio is not None and ratio > MORE_INSTRUCTIONS for ratio in same)]


def report(executed: dict[str, float | None], costs: dict[str, list[float]]) -> list[str]:
    """Prints the tables; the cases that are slower."""
    from tabulate import tabulate

    shown = [(case, "cannot be counted" if ratio is None else f"{ratio:.3f}") for case, ratio in executed.items()]
    print(tabulate(shown, ("instructions", "HEAD / BASE"), "github", disable_numparse=True))
    print()
    slower = [case for case, found in costs.items() if min(found) > limit(case, executed)]
    rows = [
        (
            case,
            ", ".join(f"{ratio:.2f}" for ratio in found),
            f"{limit(case, executed):.2f}",
            "SLOWER" * (case in slower),
        )
        for case, found in costs.items()
    ]
    print(tabulate(rows, ("cost", "HEAD / BASE", "limit", ""), "github", disable_numparse=True))
    return slower


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("base", nargs="?", help="the commit to compare with")
    parser.add_argument("head", nargs="?", help="the commit that may be slower")
    parser.add_argument("--only", default="", help="regular expression: cases to measure")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker()
        return
    if options.head is None:
        parser.error("name two commits: guard.py BASE HEAD")
    commits = [commit_of(revision) for revision in (options.base, options.head)]
    with tempfile.TemporaryDirectory() as work:
        folders = [Path(work, side) for side in ("base", "head")]
        for commit, folder in zip(commits, folders, strict=True):
            unpack(commit, folder)
        slower = report(*compare(folders, options.only))
    print()
    if slower:
        raise SystemExit(f"slower: {', '.join(slower)}")
    print(f"{commits[1][:8]} is no slower than {commits[0][:8]}")


if __name__ == "__main__":
    main()
