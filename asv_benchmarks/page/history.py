"""What was recorded, commit by commit: series of one machine and one set of versions, and lines over several of them."""

import ast
import bisect
import itertools
import json
import math
import statistics
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from asv.benchmarks import Benchmarks
from asv.machine import iter_machine_files
from asv.repo import get_repo
from asv.results import iter_results
from asv.util import UserError, load_json
from pins import CHAINED, FIRST_PIN, PINS, is_counted

Values = list[float | None]  # one a recorded commit, oldest first
Choose = Callable[[tuple], bool]  # of cases
Combine = Callable[[Sequence[float]], float]


def known(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


@dataclass
class Commit:
    hash: str
    date: int  # milliseconds since 1970
    subject: str
    number: int = 0  # how many commits of the library there were then, this one included

    @property
    def short(self) -> str:
        return self.hash[:7]


@dataclass
class History:
    """The results of one machine, or of a pin, with one set of versions."""

    commits: list[Commit]
    benchmarks: dict[str, dict]
    series: dict[str, dict[tuple, Values]]  # benchmark -> its parameters -> values
    states: dict[str, dict[tuple, str]]  # the same -> a word of `state_of`
    spreads: dict[str, dict[tuple, list[float | None]]] = field(default_factory=dict)  # quartiles' distance over value
    environment: dict[str, str] = field(default_factory=dict)
    machine: dict[str, str] = field(default_factory=dict)
    measured: int = 0  # the last start of a benchmark, milliseconds since 1970
    repeats: dict[str, dict[str, list[dict[tuple, float]]]] = field(
        default_factory=dict
    )  # benchmark -> commit -> values

    @property
    def name(self) -> str:
        return self.machine.get("machine", "")

    @property
    def versions(self) -> str:
        wanted = ("python", "numba", "llvmlite", "numpy")
        return ", ".join(f"{key} {self.environment[key]}" for key in wanted if self.environment.get(key))

    def combined(self, name: str, choose: Choose, how: Combine) -> tuple[Values, int, int]:
        """One value a commit out of all the series chosen, how many these are, and how many more have a shorter history.

        A commit has a value where every series has one, so that the line never moves because a case came or went.
        """
        kept, newer = self.kept(name, choose)
        if not kept:
            return [None] * len(self.commits), 0, 0
        rows = zip(*(self.series[name][case] for case in kept), strict=True)
        return [how(row) if None not in row else None for row in rows], len(kept), newer

    def kept(self, name: str, choose: Choose) -> tuple[list[tuple], int]:
        """The cases with the longest history, and how many more there are."""
        cases = self.series.get(name, {})
        chosen = {case: v for case, v in cases.items() if choose(case) and any(value is not None for value in v)}
        if not chosen:
            return [], 0
        longest = min(next(i for i, v in enumerate(values) if v is not None) for values in chosen.values())
        kept = [case for case, values in chosen.items() if values[longest] is not None]
        return kept, len(chosen) - len(kept)


class Point(NamedTuple):
    commit: Commit
    value: float
    low: float  # the band that repeated anchors give; the value where it is that of the machine itself
    high: float
    part: int  # which series it is of, newest first


@dataclass
class Line:
    """One figure over the commits, oldest first."""

    points: list[Point]
    seams: list[tuple[int, str]]  # before which point another series begins, and which
    kept: int = 0  # cases
    newer: int = 0  # cases that have a shorter history and are left out
    left_out: int = 0  # points of other machines that no anchor joins
    spread: float | None = None  # of the newest value: greatest over least of its repetitions, less one


@dataclass
class Records:
    counted: list[History]  # of the first pin; newest first: another compiler is another series
    timed: list[History]  # by machine and versions, newest first
    library: list[str]  # every commit of the library up to HEAD, first parents
    retired: dict[str, str] = field(default_factory=dict)  # benchmark that the suites lack -> its last commit

    def of(self, name: str) -> list[History]:
        """Those that have the benchmark."""
        parts = self.counted if is_counted(name) else self.timed
        return [part for part in parts if any(v is not None for row in part.series.get(name, {}).values() for v in row)]

    def newest(self, name: str) -> History | None:
        return next(iter(self.of(name)), None)

    def behind(self, part: History) -> int:
        """Commits of the library from the newest recorded one to HEAD."""
        return len(self.library) - max(commit.number for commit in part.commits)

    def line(self, name: str, choose: Choose, how: Combine) -> Line:
        parts = self.of(name)
        if not parts:
            return Line([], [])
        values, kept, newer = parts[0].combined(name, choose, how)
        points = [
            Point(commit, value, value, value, 0)
            for commit, value in zip(parts[0].commits, values, strict=True)
            if value is not None
        ]
        line = Line(points, [], kept, newer, spread=repeated(parts[0], name, choose, how))
        if is_counted(name):
            older_series(line, parts, name, choose, how)
        elif name in CHAINED:
            chained(line, parts, name, choose, how)
        line.points.sort(key=lambda point: point.commit.number)
        for i, (before, after) in enumerate(itertools.pairwise(line.points)):
            if before.part != after.part:
                part = parts[after.part]
                line.seams.append((i + 1, part.versions if is_counted(name) else part.name))
        return line


def older_series(line: Line, parts: list[History], name: str, choose: Choose, how: Combine) -> None:
    """What another compiler gave before: drawn as it is, apart."""
    for number, part in enumerate(parts[1:], 1):
        first = min((point.commit.number for point in line.points), default=math.inf)
        values, _, _ = part.combined(name, choose, how)
        line.points += [
            Point(commit, value, value, value, number)
            for commit, value in zip(part.commits, values, strict=True)
            if value is not None and commit.number < first
        ]


def chained(line: Line, parts: list[History], name: str, choose: Choose, how: Combine) -> None:
    """What other machines gave, times what this one gives of the same commits over what they gave: value * new / anchor.
    Where cases were added since, a value of fewer of them goes on at the height of all."""
    here = parts[0]
    for number, part in enumerate(parts[1:], 1):
        if part.name == here.name:
            continue  # other versions on the same machine: no anchor says what they change
        ours, theirs = ([*all_of(history, name, choose, how)] for history in (here, part))
        factors = [new / old for commit, new in ours for same, old in theirs if commit == same and old > 0]
        there, _, _ = part.combined(name, choose, how)
        had = {point.commit.hash for point in line.points}
        found = [(c, v) for c, v in zip(part.commits, there, strict=True) if v is not None and c.hash not in had]
        if not factors:
            line.left_out += len(found)
            continue
        factor = statistics.geometric_mean(factors)
        line.points += [Point(c, v * factor, v * min(factors), v * max(factors), number) for c, v in found]


def all_of(history: History, name: str, choose: Choose, how: Combine) -> Iterator[tuple[str, float]]:
    """Commit and value, once for each time that it was measured."""
    cases, _ = history.kept(name, choose)
    measured = [
        (commit.hash, {case: history.series[name][case][i] for case in cases})
        for i, commit in enumerate(history.commits)
    ] + [(commit, row) for commit, rows in history.repeats.get(name, {}).items() for row in rows]
    for commit, row in measured:
        values = [row.get(case) for case in cases]
        if values and None not in values:
            yield commit, how(values)


def repeated(part: History, name: str, choose: Choose, how: Combine) -> float | None:
    """By how much the figure moves where a commit was measured again; None where none was."""
    again: dict[str, list[float]] = {}
    for commit, value in all_of(part, name, choose, how):
        again.setdefault(commit, []).append(value)
    ratios = [max(values) / min(values) for values in again.values() if len(values) > 1 and min(values) > 0]
    return max(ratios) - 1 if ratios else None


def state_of(raw: Sequence[object]) -> str:
    """`whole`, `newer` (only the oldest commits lack it), `not applicable` (asv says n/a everywhere), or `missing`.

    asv writes n/a (NaN) where a benchmark raises NotImplementedError, and null where it failed.
    """
    first = next((i for i, value in enumerate(raw) if known(value)), None)
    if first is None:
        skipped = all(isinstance(value, float) and math.isnan(value) for value in raw)
        return "not applicable" if skipped else "missing"
    if not all(known(value) for value in raw[first:]):
        return "missing"
    return "newer" if first else "whole"


# -- reading -------------------------------------------------------------------------------------------------


def git(repo: str, *arguments: str, words: str = "") -> str:
    return subprocess.run(["git", *arguments], cwd=repo, input=words, capture_output=True, text=True, check=True).stdout


def subjects(repo: str, hashes: list[str]) -> dict[str, str]:
    found = git(repo, "log", "--no-walk", "--format=%H %s", "--stdin", words="\n".join(hashes))
    return dict(line.split(" ", 1) for line in found.splitlines() if " " in line)


def declared(suites: Path) -> set[str]:
    """Names of the benchmarks that the suites have, without importing them, which needs the library."""
    return {
        f"{path.stem}.{node.name}"
        for path in suites.glob("*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith(("time_", "timeraw_", "track_"))
    }


def load(conf) -> Records:
    """Everything under the configuration's results_dir."""
    benchmarks = Benchmarks.load(conf)
    results = list(iter_results(conf.results_dir))
    if not results:
        raise UserError(f"no results in {conf.results_dir}: record some with record.py")
    order = get_repo(conf).get_revisions({r.commit_hash for r in results})
    if strangers := {r.commit_hash[:8] for r in results} - {h[:8] for h in order}:
        raise UserError(f"this clone lacks the commits {', '.join(sorted(strangers))}, of which there are results")
    library = git(conf.repo, "log", "--first-parent", "--reverse", "--format=%H", "HEAD", "--", "normzoo").split()
    places = sorted(get_repo(conf).get_revisions(library).values()) if library else []
    words = subjects(conf.repo, [r.commit_hash for r in results])
    machines = {found["machine"]: found for found in map(load_json, iter_machine_files(conf.results_dir))}
    parts: dict[tuple, list] = {}
    for r in results:
        parts.setdefault(tuple(sorted(r.params.items())), []).append(r)
    histories = []
    for found in parts.values():
        found.sort(key=lambda r: order[r.commit_hash])
        commits = [
            Commit(r.commit_hash, r.date, words[r.commit_hash], bisect.bisect_right(places, order[r.commit_hash]))
            for r in found
        ]
        histories.append(one(conf, found, commits, benchmarks, machines))
    histories.sort(key=lambda part: (part.measured, part.commits[-1].number), reverse=True)
    pins = [part for part in histories if part.name == FIRST_PIN]
    records = Records(pins, [part for part in histories if part.name not in PINS], library)
    there = declared(Path(conf.benchmark_dir))
    for r in sorted(results, key=lambda r: order[r.commit_hash]):
        records.retired |= {name: r.commit_hash[:7] for name in r.get_all_result_keys() if name not in there}
    return records


def one(conf, results: list, commits: list[Commit], benchmarks, machines: dict[str, dict]) -> History:
    """The history of one machine with one set of versions, of its kind of benchmarks alone."""
    environment = {key: str(value) for key, value in results[-1].params.items()}
    machine = machines.get(environment.get("machine", ""), {})
    counts = machine.get("machine") in PINS
    measured = {name for r in results for name in r.get_result_keys(benchmarks)}
    chosen = {name: b for name, b in benchmarks.items() if is_counted(name) == counts and (name in measured)}
    history = History(commits, chosen, {}, {}, environment=environment, machine={k: str(v) for k, v in machine.items()})
    for name, benchmark in chosen.items():
        cases = list(itertools.product(*benchmark["params"])) if benchmark["params"] else [()]
        rows, spreads = [], []
        for r in results:
            there = name in r.get_result_keys(benchmarks)
            rows.append(r.get_result_value(name, benchmark["params"]) if there else [None] * len(cases))
            stats = r.get_result_stats(name, benchmark["params"]) if there else None
            spreads.append([*map(spread_of, stats or [None] * len(cases))])
        for case, raw, wide in zip(cases, zip(*rows, strict=True), zip(*spreads, strict=True), strict=True):
            key = tuple(map(plain, case))
            history.series.setdefault(name, {})[key] = [v if known(v) else None for v in raw]
            history.states.setdefault(name, {})[key] = state_of(raw)
            history.spreads.setdefault(name, {})[key] = list(wide)
    history.measured = max((t for r in results for t in r.started_at.values() if t), default=0)
    history.repeats = repeats_of(Path(conf.results_dir).parent / "repeats" / history.name)
    return history


def spread_of(stats: dict | None) -> float | None:
    """Distance of the quartiles over the value."""
    if not stats or not known(stats.get("q_25")) or not known(stats.get("q_75")) or not stats["q_25"]:
        return None
    return stats["q_75"] / stats["q_25"] - 1


def repeats_of(folder: Path) -> dict[str, dict[str, list[dict[tuple, float]]]]:
    """What record.py measured once more: benchmark -> commit -> values by case, one for each time."""
    found: dict[str, dict[str, list[dict[tuple, float]]]] = {}
    for path in sorted(folder.glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        for name, row in record["results"].items():
            cases = [tuple(map(plain, case)) for case in itertools.product(*row[1])]
            values = {case: v for case, v in zip(cases, row[0] or [], strict=False) if known(v)}
            found.setdefault(name, {}).setdefault(record["commit_hash"], []).append(values)
    return found


def plain(parameter: str) -> object:
    """A parameter as it was before asv took its repr."""
    try:
        return ast.literal_eval(parameter)
    except (ValueError, SyntaxError):
        return parameter


def mean(values: Sequence[float]) -> float:
    """Geometric: of ratios, and of times that differ in scale."""
    return statistics.geometric_mean(values) if min(values) > 0 else statistics.fmean(values)
