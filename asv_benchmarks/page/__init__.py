"""The first page of the dashboard: a summary in one look, out of the recorded results and of the comparisons with other
libraries. Beside it the pages of single norms, and the one that compares two commits or machines.

index.html is one file without scripts: the style sheet and all figures are written into it.
"""

import itertools
import json
import urllib.parse
from collections.abc import Callable
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from string import Template

from . import compare, norms, peers
from . import history as recorded
from .charts import curve, digits, figure, sparkline
from .history import History, Records, mean

FOLDER = Path(__file__).parent
OLD = 20  # commits of the library behind HEAD: red from here on


def any_case(case: tuple) -> bool:
    return True


def passes(direction: str):
    """Chooses the cases of one direction."""
    return lambda case: str(case[0]).endswith(direction)


def first_is(word: str):
    return lambda case: case[0] == word


def call_is(forward: bool):
    return lambda case: str(case[0]).startswith("backward") != forward


# Title, benchmark, cases, how they become one value, factor, unit, whether the axis is logarithmic
COUNTS = [
    ("Instructions, forward", "counts.track_instructions", passes("forward"), mean, 1, " a value", False),
    ("Instructions, backward", "counts.track_instructions", passes("backward"), mean, 1, " a value", False),
    ("Worst error, forward", "accuracy.track_error", passes("forward"), max, 1, " ULP", True),
    ("Worst error, backward", "accuracy.track_error", passes("backward"), max, 1, " ULP", True),
    ("Python functions, a call", "counts.track_functions", call_is(True), mean, 1, "", False),
    ("Python functions, back", "counts.track_functions", call_is(False), mean, 1, "", False),
    ("Allocations, a call", "counts.track_allocations", any_case, mean, 1, "", False),
    ("Bytes, a small call", "counts.track_bytes", any_case, mean, 1, " B", False),
    ("Memory, forward", "counts.track_peak", passes("forward"), mean, 1, " × the result", False),
    ("Memory, backward", "counts.track_peak", passes("backward"), mean, 1, " × the result", False),
    ("Compiled by a first call", "counts.track_compiled", any_case, mean, 1, " functions", False),
    ("Machine code of it", "counts.track_code", any_case, mean, 1e-3, " kB", False),
]
TIMES = [
    ("Cost, forward", "kernels.track_cost", passes("forward"), mean, 1, " × a loop", False),
    ("Cost, backward", "kernels.track_cost", passes("backward"), mean, 1, " × a loop", False),
    ("With what stands around", "fused.track_cost", any_case, mean, 1, " × a loop", False),
    ("A step of the zoo", "zoo.track_step", any_case, mean, 1, " × a loop", False),
    ("Half of it masked", "masks.track_half_masked", any_case, mean, 1, " × the whole", False),
    ("All threads over one", "scaling.track_threads", any_case, mean, 1, " of the time", False),
    ("A small call", "overhead.time_thousand", any_case, mean, 1e-3, "s", False),
    ("Import, above numba's", "start.track_import_over_numba", any_case, mean, 1, "s", False),
    ("First call, kernel cached", "start.track_first_call_cached", first_is("serial"), mean, 1, "s", False),
    ("First call, compiling", "start.track_first_call_uncached", first_is("serial"), mean, 1, "s", False),
    ("An epoch of the digits", "examples.track_epoch", any_case, mean, 1, "s", False),
]
SHOWN = {"accuracy.track_error": {"p-mean / std": "1000000.0"}}  # of a benchmark with too many lines for asv's graph


def write(conf, site: Path, folder: Path = FOLDER.parent) -> None:
    """index.html, norms.html, compare.html, and status.json: what is measured since when."""
    records = recorded.load(conf)
    against = peers.read(folder)
    regressed = (
        json.loads((site / "regressions.json").read_text(encoding="utf-8"))
        if (site / "regressions.json").exists()
        else {}
    )
    known = folder / "acknowledged.json"
    reasons = json.loads(known.read_text(encoding="utf-8")) if known.exists() else []
    regressed = regressions(records, regressed.get("regressions", []), reasons)
    (site / "index.html").write_text(render(records, against, conf, regressed), encoding="utf-8")
    (site / "norms.html").write_text(norms.render(records, against, conf.project), encoding="utf-8")
    (site / "compare.html").write_text(compare.render(records, conf.project), encoding="utf-8")
    status = [
        {
            "machine": part.name, "versions": part.environment, "commits": [commit.hash for commit in part.commits],
            "behind": records.behind(part), "counted": part in records.counted,
            "states": {
                name: [{"case": [str(p) for p in case], "state": state} for case, state in cases.items()]
                for name, cases in part.states.items()
            },
        }
        for part in (*records.counted, *records.timed)
    ]  # fmt: skip
    found = {
        "series": status,
        "peers": {name: named(record) for name, record in against.items() if "seconds" in record},
    }
    (site / "status.json").write_text(json.dumps(found, indent=1), encoding="utf-8")


def named(record: dict) -> dict[str, object]:
    """The implementations of a record, and whether it has the seconds of every round."""
    return {"names": sorted({name for row in record["seconds"].values() for name in row}), "rounds": "rounds" in record}


def render(records: Records, against: dict[str, dict], conf, regressed: tuple[list[str], list[str]]) -> str:
    newest = (records.counted or records.timed)[0]
    last = newest.commits[-1]

    def multiples(rows: list) -> str:
        return "".join(multiple(records, *row) for row in rows)

    return Template((FOLDER / "template.html").read_text(encoding="utf-8")).substitute(
        style=(FOLDER / "style.css").read_text(encoding="utf-8"),
        project=escape(conf.project),
        latest=f"{last.short}, {day(last.date)}",
        subject=escape(last.subject),
        tiles="".join(tiles(records, against, regressed[0])),
        peers=peers.sections(against, lambda commit: age_of(records, commit)),
        small=small(records, against),
        accuracy=accuracy(records),
        counts=multiples(COUNTS),
        times=multiples(TIMES),
        counted=whose(records, records.counted),
        timed=whose(records, records.timed),
        regressions="".join(f"<li>{line}</li>" for line in regressed[0]) or "<li>none</li>",
        acknowledged="".join(f"<li>{line}</li>" for line in regressed[1]) or "<li>none</li>",
        measured=how(records, conf.regressions_thresholds),
    )


def day(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d")


def age_of(records: Records, commit: str) -> int | None:
    """How many commits of the library a commit, as git describes it, is behind HEAD; None where it is not among them."""
    short = commit.partition("-")[0]
    place = next((i for i, name in enumerate(records.library) if name.startswith(short)), None)
    return None if place is None or not short else len(records.library) - 1 - place


# Tiles


def tile(label: str, value: str, note: str, kind: str = "") -> str:
    kind += " none" if value == "not measured" else ""
    return f'<div class="tile"><dt>{label}</dt><dd class="value {kind}">{value}</dd><dd class="note">{note}</dd></div>'


def ages(records: Records, against: dict[str, dict]) -> str:
    """The first tile: how old each part of the page is."""
    rows = []
    for label, parts in (("counts", records.counted), ("times", records.timed)):
        late = records.behind(parts[0]) if parts else None
        rows.append((label, late, f"at {parts[0].commits[-1].short}, {escape(parts[0].name)}" if parts else ""))
    for name, record in against.items():
        rows.append((name, age_of(records, record["about"]["commit"]), f"at {escape(record['about']['commit'])}"))
    said = "".join(
        f'<li class="{"old" if late is None or late >= OLD else "new"}">{label}: '
        f"{'never recorded' if not at else 'age not known' if late is None else f'{late} behind'} <span>{at}</span></li>"
        for label, late, at in rows
    )
    return f'<div class="tile ages"><dt>Age, in commits of the library behind HEAD</dt><dd><ul>{said}</ul></dd></div>'


def tiles(records: Records, against: dict[str, dict], regressed: list[str]):
    yield ages(records, against)
    yield tile("Open regressions", f"{len(regressed)}", '<a href="#regressions">which</a>', "bad" if regressed else "")
    for title, name in (("Five norms", "peers"), ("With what stands around", "fused"), ("The zoo", "zoo")):
        record = against.get(name)
        cells = peers.ratios(record) if record else {}
        if not cells:
            continue
        all_of = peers.joined(cells.values())
        spread = f", quartiles {all_of.low:.2f} to {all_of.high:.2f}" if all_of.high > all_of.low else ""
        least = min(cells, key=lambda cell: cells[cell].value)
        yield tile(
            f"{title}: times as fast as the fastest peer", figure(all_of.value, "×"),
            f"geometric mean of {len(cells)} cells{spread}; least {cells[least].value:.2f}: {escape(least)}",
        )  # fmt: skip
    for label, name, choose, how_many, factor, unit in (
        ("Cost of a pass, over a loop that streams its bytes", "kernels.track_cost", any_case, mean, 1, "×"),
        ("Worst error to mean/std of 10³", "accuracy.track_error", lambda case: case[1] <= 1e3, max, 1, " ULP"),
        ("Worst error to mean/std of 10⁶", "accuracy.track_error", any_case, max, 1, " ULP"),
        ("First call, kernel cached", "start.track_first_call_cached", first_is("serial"), mean, 1, "s"),
        ("First call, compiling", "start.track_first_call_uncached", first_is("serial"), mean, 1, "s"),
    ):
        line = records.line(name, choose, how_many)
        part = records.newest(name)
        if not line.points or part is None:
            yield tile(label, figure(None), "")
            continue
        now, then = line.points[-1], line.points[0]
        yield tile(
            label, figure(now.value * factor, unit),
            f"at {now.commit.short}{spread_of(part, line)}; {figure(then.value * factor, unit)} at {then.commit.short}",
        )  # fmt: skip


def spread_of(part: History, line: recorded.Line) -> str:
    if part.name in recorded.PINS:
        return ", counted"
    return f", within {100 * line.spread:.0f} % when repeated" if line.spread is not None else ", measured once"


# Small calls


def small(records: Records, against: dict[str, dict]) -> str:
    part = records.newest("overhead.time_thousand")
    rows = ""
    if part is not None:
        for case, values in part.series["overhead.time_thousand"].items():
            last = max((i for i, v in enumerate(values) if v is not None), default=None)
            if last is None:
                continue
            wide = part.spreads["overhead.time_thousand"][case][last]
            first = next(v for v in values if v is not None)
            rows += (
                f"<tr><th>{escape(str(case[0]))}</th><td>{figure(values[last] / 1e3, 's')}</td>"
                f"<td>{'' if wide is None else f'± {50 * wide:.0f} %'}</td><td>{change(values[last] / first)}</td></tr>"
            )
        rows = (
            f"<p>Of one thread, on {escape(part.name)}, at {part.commits[-1].short}.</p><table><tr><th>call</th><th>time</th>"
            f"<th>half the quartiles' distance</th><th>since {part.commits[0].short}</th></tr>{rows}</table>"
        )
    return rows + peers.small_calls(against)


def change(ratio: float) -> str:
    """Of what is better when lower: -37 % is a gain."""
    return f"{100 * (ratio - 1):+.0f} %".replace("-", "−")


# Accuracy


def accuracy(records: Records) -> str:
    history = records.newest("accuracy.track_error")
    if history is None:
        return '<p class="absent">not measured</p>'
    cases = history.series.get("accuracy.track_error", {})
    measured = [i for i in range(len(history.commits)) if any(values[i] is not None for values in cases.values())]
    if not measured:
        return "<p>not measured</p>"
    lines, first, last = [], measured[0], measured[-1]
    for commit, age in ((first, "first"), (last, "")) if first != last else ((last, ""),):
        for direction in ("forward", "backward"):
            points: dict[float, tuple[float, str]] = {}
            for (case, ratio), values in cases.items():
                value = values[commit]
                if str(case).endswith(direction) and value is not None and value >= points.get(ratio, (-1, ""))[0]:
                    points[ratio] = value, str(case)
            name = f"{direction.capitalize()} at {history.commits[commit].short}"
            if points:
                lines.append((name, f"{direction} {age}".strip(), points))
    norms = sorted({str(case[0]).rpartition(" ")[0] for case in cases})
    legend = "".join(f'<li class="{kind}">{escape(name)}</li>' for name, kind, _ in lines)
    told = "Worst error in units in the last place against mean over standard deviation of the input"
    return (
        f"<p>Worst error in units in the last place (ULP) of float32, over {escape(', '.join(norms))}. Both axes are "
        f'logarithmic. <a href="{link("accuracy.track_error")}">asv\'s graph</a></p>'
        f'<ul class="legend lines">{legend}</ul>{curve(told, lines)}'
    )


# History


def link(name: str) -> str:
    query = urllib.parse.urlencode(SHOWN.get(name, {}), quote_via=urllib.parse.quote)
    return escape(f"asv.html#{name}{'?' if query else ''}{query}")


def multiple(
    records: Records, title: str, name: str, choose: Callable, combine: Callable, factor: float, unit: str, log: bool
) -> str:
    line = records.line(name, choose, combine)
    head = f'<a class="multiple" href="{link(name)}"><span class="name">{title}</span>'
    if not line.points:
        states = [
            state
            for part in (*records.counted, *records.timed)
            for case, state in part.states.get(name, {}).items()
            if choose(case)
        ]
        absent = "not applicable" if states and set(states) == {"not applicable"} else figure(None)
        return f'<div class="multiple"><span class="name">{title}</span><span class="value none">{absent}</span></div>'
    part, now, then = records.newest(name), line.points[-1], line.points[0]
    notes = [
        f"{line.kept} cases" if line.kept > 1 else "one case",
        *([f"{line.newer} newer left out"] if line.newer else []),
        *([f"since {then.commit.short}"] if then.commit.number > 1 else []),
        *([f"{len(line.seams)} seams"] if line.seams else []),
        *([f"{line.left_out} points of other machines without an anchor"] if line.left_out else []),
        *([f"within {100 * line.spread:.0f} %"] if line.spread is not None else []),
    ]
    values = [figure(point.value * factor, unit) for point in (then, now)]
    drawn = sparkline(f"{title}, {name}: {values[0]} to {values[1]}", line, len(records.library), factor, unit, log)
    since = f"{change(now.value / then.value)} since {then.commit.short}" if len(line.points) > 1 and then.value else ""
    return (
        f'{head}<span class="value">{values[1]}</span><span class="note">{since}</span>{drawn}'
        f'<span class="note">{largest_step(line)}</span><span class="note">{", ".join(notes)}'
        f"{'' if part is None or part.commits[-1] is now.commit else f', newest {now.commit.short}'}</span></a>"
    )


def largest_step(line: recorded.Line) -> str:
    """Between which recorded commits the value fell or rose the most."""
    steps = [
        (b.value / a.value, a.commit, b.commit)
        for a, b in itertools.pairwise(line.points)
        if a.value > 0 and b.value > 0 and a.part == b.part
    ]
    if not steps:
        return ""
    ratio, before, after = max(steps, key=lambda step: max(step[0], 1 / step[0]))
    if 0.95 < ratio < 1.05:
        return "no step above 5 %"
    subject = after.subject if len(after.subject) <= 50 else after.subject[:47].rstrip() + "…"
    if after.number - before.number > 1:
        return f"largest step: {change(ratio)} in {after.number - before.number} commits from {before.short} to {after.short}"
    return f"largest step: {change(ratio)} at {after.short}, {escape(subject)}"


def whose(records: Records, parts: list[History]) -> str:
    """Which machine a half of the history is of, and what else was recorded."""
    if not parts:
        return "nothing recorded"
    part = parts[0]
    cpu = part.machine.get("cpu", "")
    machine = f"kernels compiled for {part.name}, on any machine" if part in records.counted else f"{part.name} ({cpu})"
    last = part.commits[-1]
    said = f"{machine}: {len(part.commits)} of {len(records.library)} commits of the library, the newest {last.short} of {day(last.date)}"
    more = [f"{other.name}, {other.versions} ({len(other.commits)} commits)" for other in parts[1:]]
    return escape(said + f"; {part.versions}" + (f". Also recorded: {'; '.join(more)}" if more else ""))


# Regressions


def regressions(records: Records, found: list, known: list[dict[str, str]]) -> tuple[list[str], list[str]]:
    """Those that asv sees in the newest series: open ones, and those that acknowledged.json gives a reason for."""
    still_open, acknowledged = [], []
    for name, _, params, _, latest, best, jumps in found:
        benchmark, _, case = name.partition("(")
        part = records.newest(benchmark)
        if part is None or benchmark in records.retired or params.get("machine") != part.name:
            continue
        steps = f"{len(jumps)} step{'s' if len(jumps) > 1 else ''}"
        said = f'<a href="{link(benchmark)}">{escape(name)}</a>: {change(latest / best)} ({digits(best)} to {digits(latest)}), {steps}'
        reasons = [e for e in known if e["benchmark"] == benchmark and e["case"] == case.removesuffix(")")]
        if reasons:
            acknowledged.append(f"{said}, since {escape(reasons[0]['commit'])}: {escape(reasons[0]['reason'])}")
        else:
            still_open.append(said)
    return still_open, acknowledged


# How it was measured


def how(records: Records, thresholds: dict[str, float]) -> str:
    rows = []
    for label, parts in (("Counted", records.counted), ("Timed", records.timed)):
        for part in parts[:1]:
            states = [state for cases in part.states.values() for state in cases.values()]
            hardware = [part.machine[key] for key in ("cpu", "arch", "ram", "os") if part.machine.get(key)]
            software = [
                f"{key} {value}"
                for key, value in sorted(part.environment.items())
                if value and key not in {*part.machine, "branch"}
            ]
            rows.append(
                (label, escape(f"{day(part.measured)}, {part.name}: {', '.join(hardware)}; {', '.join(software)}"))
            )
            rows.append((
                f"{label} values",
                f"{len(states)} a commit in {len(part.benchmarks)} benchmarks; {states.count('newer')} are newer than the first commit, "
                f"{states.count('not applicable')} not applicable, {states.count('missing')} missing",
            ))  # fmt: skip
    limits = [f"{'others' if name == '.*' else escape(name)} {100 * limit:g} %" for name, limit in thresholds.items()]
    rows.append(("Thresholds", ", ".join(limits) or figure(None)))
    gone = [f"{escape(name)} (last at {commit})" for name, commit in sorted(records.retired.items())]
    rows.append(("Retired benchmarks", ", ".join(gone) or "none"))
    return "".join(f"<dt>{key}</dt><dd>{value}</dd>" for key, value in rows)
