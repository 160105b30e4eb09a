"""What asv recorded, commit by commit, and what of it is missing."""

import ast
import itertools
import math
import statistics
import subprocess
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from asv.benchmarks import Benchmarks
from asv.machine import iter_machine_files
from asv.repo import get_repo
from asv.results import iter_results
from asv.util import UserError, load_json

Values = list[float | None]  # one a recorded commit, oldest first


def known(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


@dataclass
class Commit:
    hash: str
    date: int  # milliseconds since 1970
    subject: str

    @property
    def short(self) -> str:
        return self.hash[:7]


@dataclass
class History:
    commits: list[Commit]
    benchmarks: dict[str, dict]
    series: dict[str, dict[tuple, Values]]  # benchmark -> its parameters -> values
    states: dict[str, dict[tuple, str]]  # the same -> a word of `state_of`
    environment: dict[str, str] = field(default_factory=dict)
    machine: dict[str, str] = field(default_factory=dict)
    measured: int | None = None  # the last start of a benchmark, milliseconds since 1970

    def combined(
        self, name: str, choose: Callable[[tuple], bool], how: Callable[[Sequence[float]], float]
    ) -> tuple[Values, int, int]:
        """One value a commit out of all the series chosen, how many these are, and how many more have a shorter history.

        A commit has a value where every series has one, so that the line never moves because a case came or went.
        """
        chosen = [
            values
            for case, values in self.series.get(name, {}).items()
            if choose(case) and any(v is not None for v in values)
        ]
        if not chosen:
            return [None] * len(self.commits), 0, 0
        longest = min(next(i for i, v in enumerate(values) if v is not None) for values in chosen)
        kept = [values for values in chosen if values[longest] is not None]
        rows = zip(*kept, strict=True)
        return [how(row) if None not in row else None for row in rows], len(kept), len(chosen) - len(kept)


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


def subjects(repo: str, hashes: list[str]) -> dict[str, str]:
    done = subprocess.run(
        ["git", "log", "--no-walk", "--format=%H %s", "--stdin"], cwd=repo, input="\n".join(hashes), capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    return dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)


def one_series(results: list) -> list:
    """The results of the environment that measured the most commits: lines of several must not be joined."""
    kinds = Counter(tuple(sorted(r.params.items())) for r in results)
    kind = kinds.most_common(1)[0][0]
    return [r for r in results if tuple(sorted(r.params.items())) == kind]


def load(conf) -> History:
    """Everything under the configuration's results_dir."""
    benchmarks = Benchmarks.load(conf)
    results = list(iter_results(conf.results_dir))
    if not results:
        raise UserError(f"no results in {conf.results_dir}: record some with record.py")
    results = one_series(results)
    order = get_repo(conf).get_revisions({r.commit_hash for r in results})
    if strangers := {r.commit_hash[:8] for r in results} - {h[:8] for h in order}:
        raise UserError(f"this clone lacks the commits {', '.join(sorted(strangers))}, of which there are results")
    results.sort(key=lambda r: order[r.commit_hash])
    words = subjects(conf.repo, [r.commit_hash for r in results])
    history = History([Commit(r.commit_hash, r.date, words[r.commit_hash]) for r in results], dict(benchmarks), {}, {})
    for name, benchmark in benchmarks.items():
        cases = list(itertools.product(*benchmark["params"])) if benchmark["params"] else [()]
        rows = [
            r.get_result_value(name, benchmark["params"])
            if name in r.get_result_keys(benchmarks)
            else [None] * len(cases)
            for r in results
        ]
        for case, raw in zip(cases, zip(*rows, strict=True), strict=True):
            history.series.setdefault(name, {})[tuple(map(plain, case))] = [v if known(v) else None for v in raw]
            history.states.setdefault(name, {})[tuple(map(plain, case))] = state_of(raw)
    history.environment = {key: str(value) for key, value in results[-1].params.items()}
    for path in iter_machine_files(conf.results_dir):
        found = load_json(path)
        if found.get("machine") == history.environment.get("machine"):
            history.machine = {key: str(value) for key, value in found.items()}
    history.measured = max((t for r in results for t in r.started_at.values() if t), default=None)
    return history


def plain(parameter: str) -> object:
    """A parameter as it was before asv took its repr."""
    try:
        return ast.literal_eval(parameter)
    except (ValueError, SyntaxError):
        return parameter


def mean(values: Sequence[float]) -> float:
    """Geometric: of ratios, and of times that differ in scale."""
    return statistics.geometric_mean(values) if min(values) > 0 else statistics.fmean(values)
