"""Record the history: what has no results yet, the most wanted first, within a budget of minutes.

    python asv_benchmarks/record.py [RANGE] [--minutes 20] [--counts | --times] [--bench REGEX]
    python asv_benchmarks/record.py --check | --verify

Two kinds of results, each of first-parent commits that touch the library:

- counts (instructions, errors, allocations, bytes, compiled code, functions entered) are the same on any machine, as
  kernels are compiled for a processor that is named: a minute a commit, on a machine as busy as it likes;
- times belong to a kind of processor, whose name they are kept under: some minutes a commit, on an idle machine. Of
  them the ratios (to a loop, to another pass) are chained over commits that several machines measured, the anchors; an
  anchor is timed again in each run, which says how far its ratios move (`repeats/`).

Without RANGE come first HEAD, counted and timed; then an anchor, if this machine lacks one or ratios were added; then,
while there is time, the tags, the last commits of days, halves of the longest stretch of more than ten commits without
results, commits whose subject names a figure, and halves again. RANGE is git's, such as v0.1..HEAD or HEAD~3..: all of
its commits are wanted, and as many of them are recorded as there are minutes for. Stop it when you like: each commit is
written when it is done, and the next run goes on. Commit the results; publish them with dashboard.py.

--check records nothing: it fails where HEAD is more than ten library commits ahead of the newest that was counted.
--verify counts that one once more, on this machine, and fails where a value differs from the record by over 0.3 %.
"""

import argparse
import itertools
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent))
import counting
from pins import CHAINED, PINS

HERE = Path(__file__).parent
RESULTS = HERE / "results"
# Kernels that do not compile, and kernels that do not fit their callers; both mended by the commit after.
BROKEN = {"ed7b46f8", "174dcb27"}
SAME = 0.003  # a count is the same on two machines up to this
STALE = 10  # library commits that the newest record may be behind
TIMED = "^(?!counts|accuracy|device)"


class Commit(NamedTuple):
    hash: str
    date: int  # seconds since 1970
    tags: str
    subject: str


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, stdout=subprocess.PIPE, text=True, cwd=HERE).stdout.strip()


def commits(wanted: str) -> list[Commit]:
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
        log = git("log", "--first-parent", "--reverse", "--format=%H%x09%ct%x09%D%x09%s", wanted, "--", ":/normzoo")
    except subprocess.CalledProcessError:  # git has said why
        raise SystemExit(f"record: {wanted!r} names no commits; write a range as git does, such as HEAD~3..") from None
    rows = [line.split("\t", 3) for line in log.splitlines()]
    found = [
        Commit(name, int(date), ",".join(re.findall(r"tag: ([^,]+)", tags)), subject)
        for name, date, tags, subject in rows
    ]
    return [commit for commit in found if commit.hash[:8] not in BROKEN]


def halves(count: int, have: set[int], longest: int) -> Iterator[int]:
    """Middles of the longest stretch of numbers that are not had, while it is longer than that."""
    have = have | {-1}
    while True:
        edges = [*sorted(have), count]
        length, start = max((b - a, -a) for a, b in itertools.pairwise(edges))
        if length <= longest:
            return
        middle = -start + length // 2
        have = have | {middle}
        yield middle


def in_turn(found: list[Commit], have: set[str]) -> list[Commit]:
    """Commits without results, the most wanted first. What is had already decides where halves are."""
    days = {time.strftime("%Y%j", time.gmtime(commit.date)): commit for commit in found}
    marked = {commit for commit in found if commit.tags} | set(days.values())
    order = dict.fromkeys([found[-1], *(commit for commit in reversed(found) if commit in marked)])

    def numbers() -> set[int]:
        return {i for i, commit in enumerate(found) if commit in order or commit.hash[:8] in have}

    order |= dict.fromkeys(found[i] for i in halves(len(found), numbers(), STALE))
    order |= dict.fromkeys(commit for commit in reversed(found) if re.search(r"\d", commit.subject))
    order |= dict.fromkeys(found[i] for i in halves(len(found), numbers(), 1))
    return [commit for commit in order if commit.hash[:8] not in have]


# -- results -------------------------------------------------------------------------------------------------


def counted(pin: str) -> set[str]:
    """Short names of commits that were counted with the compiler that counts now."""
    name = counting.environment_name()
    return {path.name[:8] for path in (RESULTS / pin).glob(f"*-{name}.json")}


def recorded(machine: str) -> dict[str, set[str]]:
    """Short names of the commits that a machine timed -> their benchmarks."""
    found: dict[str, set[str]] = {}
    for path in (RESULTS / machine).glob("*-*.json"):
        found.setdefault(path.name[:8], set()).update(json.loads(path.read_text(encoding="utf-8"))["results"])
    return found


def machines() -> list[str]:
    """Those that timed something."""
    return sorted(path.parent.name for path in RESULTS.glob("*/machine.json") if path.parent.name not in PINS)


def behind(found: list[Commit]) -> int:
    """How many library commits HEAD is ahead of the newest that was counted, by whichever compiler."""
    have = {path.name[:8] for pin in PINS for path in (RESULTS / pin).glob("*-*.json")}
    return next((i for i, commit in enumerate(reversed(found)) if commit.hash[:8] in have), len(found))


def check() -> None:
    found = commits("HEAD")
    if (ahead := behind(found)) > STALE:
        raise SystemExit(
            f"record: HEAD is {ahead} library commits ahead of the newest that was counted, and the dashboard shows the "
            f"library as it was then ({STALE} are allowed). Count it, in about a minute, and commit the results:\n"
            "    python asv_benchmarks/record.py --counts --minutes 1 && git add asv_benchmarks/results"
        )
    print(f"the newest counted commit is {ahead} library commits behind HEAD; {STALE} are allowed")


def verify() -> None:
    """Are counts the same here as where they were recorded?"""
    have = counted("x86-64-v3")
    commit = next((c for c in reversed(commits("HEAD")) if c.hash[:8] in have), None)
    if commit is None:
        raise SystemExit("record: no commit was counted with these versions yet; run record.py --counts")
    with counting.alone():
        _, here = counting.count(commit.hash, "x86-64-v3")
    path = next((RESULTS / "x86-64-v3").glob(f"{commit.hash[:8]}-{counting.environment_name()}.json"))
    there = json.loads(path.read_text(encoding="utf-8"))["results"]
    worst = max(
        (abs(new / old - 1), name)
        for name, row in here.items()
        for new, old in zip(row, there[name][0], strict=True)
        if new is not None and old
    )
    print(
        f"{commit.hash[:8]}: {sum(map(len, here.values()))} values, the greatest difference {100 * worst[0]:.3f} % ({worst[1]})"
    )
    if worst[0] > SAME:
        raise SystemExit(f"record: counts are not those of the record ({100 * SAME:g} % is allowed)")


# -- this machine --------------------------------------------------------------------------------------------


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


def kind_of(machine: dict[str, str]) -> str:
    """The name that results of such machines are kept under, such as "amd-epyc-family-25-model-1-2-cores"."""
    words = re.sub(r"\(r\)|\(tm\)|cpu|processor|@.*?hz", " ", machine["cpu"].lower())
    slug = re.sub(r"[^a-z0-9.]+", "-", words).strip("-")
    return f"{slug}-{machine['num_cpu']}-cores"


def introduce() -> str:
    """Tell asv of this machine; the name of its kind."""
    from asv.machine import MachineCollection

    here = this_machine()
    name, known = kind_of(here), RESULTS / kind_of(here) / "machine.json"
    if known.exists():
        try:  # another amount of memory would be another series
            there = json.loads(known.read_text(encoding="utf-8"))
        except ValueError as error:
            raise SystemExit(f"record: {known} is broken ({error}); git checkout HEAD -- {known}") from None
        here = {key: there.get(key, value) for key, value in here.items()}
    MachineCollection.save(name, here | {"machine": name})
    return name


# -- recording -----------------------------------------------------------------------------------------------


class Budget:
    """Minutes, and what a step of each kind takes."""

    def __init__(self, minutes: float) -> None:
        self.end = time.monotonic() + 60 * minutes
        self.took: dict[str, float] = {}

    def allows(self, kind: str) -> bool:
        return time.monotonic() + self.took.get(kind, 0) < self.end

    def reserve(self, kind: str) -> None:
        """Time for one more such step, at the end."""
        self.end -= self.took.get(kind, 0)

    def step(self, kind: str, commit: Commit, work) -> None:
        start = time.monotonic()
        work()
        self.took[kind] = time.monotonic() - start
        subject = commit.subject if len(commit.subject) < 60 else commit.subject[:57] + "..."
        print(f"{kind} {commit.hash[:8]} in {self.took[kind]:.0f} s: {subject}", flush=True)


def count(commit: Commit) -> None:
    """For every pin that this processor can run: x86-64-v4 where there is AVX-512."""
    try:
        for pin in counting.runnable():
            counting.record(RESULTS, commit.hash, commit.date * 1000, pin)
    except RuntimeError as error:
        print(error, file=sys.stderr)


def run_asv(machine: str, bench: str, commit: Commit, *options: str) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as hashes:
        hashes.write(commit.hash)
        hashes.flush()
        command = [
            sys.executable,
            "-m",
            "asv",
            "run",
            "--machine",
            machine,
            "--bench",
            bench,
            "--show-stderr",
            *options,
        ]
        done = subprocess.run([*command, f"HASHFILE:{hashes.name}"], check=False, cwd=HERE)
    if done.returncode not in (0, 2):  # 2: a benchmark failed, and asv has said which
        raise SystemExit(f"record: asv ended with {done.returncode}")


def anchor_of(found: list[Commit], machine: str) -> Commit | None:
    """The newest commit that another machine timed: over it lines are joined. Without one, the newest of this machine,
    which then only says how far a figure moves."""
    elsewhere = {name for other in machines() if other != machine for name in recorded(other)}
    for names in (elsewhere, set(recorded(machine))):
        if known := [commit for commit in found if commit.hash[:8] in names]:
            return known[-1]
    return None


def repeat(machine: str, commit: Commit) -> None:
    """The ratios of a commit once more, beside those recorded: how far they move is the band of the seam."""
    path = next((p for p in (RESULTS / machine).glob(f"{commit.hash[:8]}-*.json")), None)
    if path is None:
        return
    first = path.read_text(encoding="utf-8")
    try:
        run_asv(machine, "|".join(f"^{re.escape(name)}" for name in CHAINED), commit)
        found = json.loads(path.read_text(encoding="utf-8"))["results"]
    finally:
        path.write_text(first, encoding="utf-8")
    folder = RESULTS.parent / "repeats" / machine
    folder.mkdir(parents=True, exist_ok=True)
    kept = {name: row for name, row in found.items() if name in CHAINED}
    stamp = time.strftime("%Y%m%d%H%M", time.gmtime())
    text = json.dumps({"commit_hash": commit.hash, "results": kept})
    (folder / f"{commit.hash[:8]}-{stamp}.json").write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("range", nargs="?", help="commits, as git names them; without it HEAD and a choice of all")
    parser.add_argument("--minutes", type=float, default=20, help="no step is begun that would probably end later")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--counts", action="store_true", help="only what is the same on any machine")
    kinds.add_argument("--times", action="store_true", help="only what needs an idle machine")
    parser.add_argument("--bench", default=TIMED, help="regular expression: benchmarks to time")
    kinds.add_argument("--check", action="store_true", help="say whether the newest record is too old")
    kinds.add_argument("--verify", action="store_true", help="count the newest record again and compare")
    options = parser.parse_args()
    if options.check or options.verify:
        check() if options.check else verify()
        return
    found = commits(options.range or "HEAD")
    if not found:
        parser.error(f"no first-parent commit of {options.range} touches normzoo/")
    budget = Budget(options.minutes)
    if not options.times:
        counting.check_versions()
    todo: dict[str, list[Commit]] = {"counted": [], "timed": []}
    if not options.times:
        have = set.intersection(*(counted(pin) for pin in counting.runnable()))
        todo["counted"] = in_turn(found, have)
    machine = ""
    if not options.counts:
        machine = introduce()
        have = {name for name, benchmarks in recorded(machine).items() if "kernels.track_cost" in benchmarks}
        todo["timed"] = in_turn(found, have)
    with counting.alone():
        record(todo, machine, options.bench, budget, found)


def record(todo: dict[str, list[Commit]], machine: str, bench: str, budget: Budget, found: list[Commit]) -> None:
    """HEAD, the anchor, and the others in turn, counts and times, until the budget is spent."""

    def timed(commit: Commit) -> None:
        run_asv(machine, bench, commit, "--skip-existing")

    work = {"counted": count, "timed": timed}
    anchor = anchor_of(found, machine) if machine else None
    begun = False
    for number in range(max(map(len, todo.values()), default=0)):
        for kind, wanted in todo.items():
            if number < len(wanted) and (not number or budget.allows(kind)):
                budget.step(kind, wanted[number], lambda commit=wanted[number], kind=kind: work[kind](commit))
                begun = begun or kind == "timed"
        if not number and anchor is not None and anchor.hash[:8] not in recorded(machine):
            budget.step("timed", anchor, lambda: timed(anchor))
        if not number and begun and anchor is not None:
            budget.reserve("timed")
        if not any(number + 1 < len(wanted) and budget.allows(kind) for kind, wanted in todo.items()):
            break
    if begun and anchor is not None:
        budget.step("repeated", anchor, lambda: repeat(machine, anchor))
    left = {kind: sum(commit.hash[:8] not in had for commit in wanted) for kind, wanted, had in (
        ("counted", todo["counted"], counted("x86-64-v3")), ("timed", todo["timed"], set(recorded(machine)) if machine else set()))}  # fmt: skip
    print(
        "; ".join(f"{count} commits are not {kind} yet" for kind, count in left.items() if count) or "nothing is left"
    )


if __name__ == "__main__":
    main()
