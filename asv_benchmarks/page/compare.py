"""compare.html: two recorded commits, of one machine or of two, side by side."""

import json
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from .history import History, Records, is_counted

FOLDER = Path(__file__).parent


def noise(part: History, name: str, case: tuple, commit: str, i: int) -> float | None:
    """By how much a value moves: the quartiles' distance, or what repeating it gave; 0 where it is counted."""
    if is_counted(name):
        return 0.0
    wide = part.spreads[name][case][i]
    if wide is not None:
        return wide
    again = [row[case] for found in part.repeats.get(name, {}).values() for row in found if case in row]
    same = [row[case] for row in part.repeats.get(name, {}).get(commit, []) if case in row]
    value = part.series[name][case][i]
    if value and same:
        return max(*same, value) / min(*same, value) - 1
    return max(again) / min(again) - 1 if len(again) > 1 else None


def sides(records: Records) -> list[dict[str, Any]]:
    """Every commit of every series: what it is called, and its values by benchmark and case."""
    found = []
    for part in (*records.counted, *records.timed):
        for i, commit in reversed([*enumerate(part.commits)]):
            values = {
                f"{name}({', '.join(map(str, case))})": [row[i], noise(part, name, case, commit.hash, i)]
                for name, cases in part.series.items() if name not in records.retired
                for case, row in cases.items() if row[i] is not None
            }  # fmt: skip
            found.append(
                {"part": f"{part.name}, {part.versions}", "name": f"{commit.short} {commit.subject}", "values": values}
            )
    return found


def render(records: Records, project: str) -> str:
    units = {
        name: b.get("unit", "") for part in (*records.counted, *records.timed) for name, b in part.benchmarks.items()
    }
    data = json.dumps({"sides": sides(records), "units": units}).replace("<", "\\u003c")
    return Template((FOLDER / "compare.html").read_text(encoding="utf-8")).substitute(
        style=(FOLDER / "style.css").read_text(encoding="utf-8"), project=escape(project), data=data
    )
