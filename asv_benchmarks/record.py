"""Record the history: run the benchmarks at every commit that has no results yet.

    python asv_benchmarks/record.py [RANGE] [--bench REGEX] [--machine NAME]

RANGE is git's, such as v0.1..HEAD or HEAD~3.. (all of history unless told). Recorded are its first-parent commits that
touch the library; of each, the benchmarks that have no result. Results are written to results/NAME, to be committed;
publish them with dashboard.py. Takes three to seven minutes a commit, on an idle machine. Install with
`pip install -e ".[bench]"`.

Never record one series on two machines, nor with two sets of requirements: after a new numba or numpy, delete the
results and record all again.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
REFERENCE = "reference-2core"
# Kernels that do not compile, and kernels that do not fit their callers; both mended by the commit after.
BROKEN = {"ed7b46f8", "174dcb27"}


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, stdout=subprocess.PIPE, text=True, cwd=HERE).stdout.strip()


def commits(wanted: str) -> list[str]:
    """First-parent commits that touch the library and can run, oldest first."""
    try:
        shallow = git("rev-parse", "--is-shallow-repository") == "true"
    except FileNotFoundError:
        raise SystemExit("record: git is not installed, which the history comes from") from None
    except subprocess.CalledProcessError:  # git has said why
        raise SystemExit(f"record: {HERE} is in no git clone, whose history is recorded") from None
    if shallow:
        raise SystemExit("record: this clone is shallow and lacks the commits to record; run `git fetch --unshallow`")
    try:
        found = git("log", "--first-parent", "--reverse", "--format=%H", wanted, "--", ":/normzoo")
    except subprocess.CalledProcessError:  # git has said why
        raise SystemExit(f"record: {wanted!r} names no commits; write a range as git does, such as HEAD~3..") from None
    return [commit for commit in found.split() if commit[:8] not in BROKEN]


def this_machine() -> dict[str, str]:
    """What asv is told of this machine: only what may change figures, as every other value starts another series."""
    about = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    found = {key: re.search(rf"^{key}\s*:\s*(.*)$", about, re.M) for key in ("model name", "cpu family", "model")}
    name, family, model = (match.group(1) if match else "unknown" for match in found.values())
    return {
        "arch": platform.machine(),
        "cpu": f"{name}, family {family}, model {model}",
        "num_cpu": str(os.cpu_count()),
        "os": platform.system(),
        "ram": f"{round(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**32) * 4} GB",
    }


def introduce(name: str) -> None:
    """Tell asv of this machine under that name; refuse one that other results were measured on."""
    from asv.machine import MachineCollection

    here, recorded = this_machine(), HERE / "results" / name / "machine.json"
    if recorded.exists():
        try:
            there = json.loads(recorded.read_text(encoding="utf-8"))
        except ValueError as error:
            raise SystemExit(f"record: {recorded} is broken ({error}); git checkout HEAD -- {recorded}") from None
        differ = [f"{key} {there.get(key)!r}, here {value!r}" for key, value in here.items() if there.get(key) != value]
        if differ:
            raise SystemExit(
                f"record: the results of {name} were measured on another machine ({'; '.join(differ)}); "
                f"choose another --machine, or delete {recorded.parent} and record all again"
            )
    MachineCollection.save(name, here | {"machine": name})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("range", nargs="?", default="HEAD", help="commits, as git names them")
    parser.add_argument("--bench", default=".", help="regular expression: benchmarks to run")
    parser.add_argument("--machine", default=REFERENCE, help="the name that results are kept under")
    options = parser.parse_args()
    found = commits(options.range)
    if not found:
        parser.error(f"no first-parent commit of {options.range} touches normzoo/")
    introduce(options.machine)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as hashes:
        hashes.write("\n".join(found))
        hashes.flush()
        command = [sys.executable, "-m", "asv", "run", "--machine", options.machine, "--bench", options.bench]
        command += ["--skip-existing", "--show-stderr", f"HASHFILE:{hashes.name}"]
        raise SystemExit(subprocess.run(command, check=False, cwd=HERE).returncode)


if __name__ == "__main__":
    main()
