"""The first page of the dashboard: a summary in one look, out of asv's results and of peers.json.

One file without scripts: the style sheet and all figures are written into it.
"""

import itertools
import json
import re
import urllib.parse
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from string import Template

from . import history as recorded
from .charts import bar, curve, digits, figure, scale, sparkline
from .history import History, mean

FOLDER = Path(__file__).parent
PEERS = FOLDER.parent / "peers.json"
SLOWER = 0.95  # below it a cell counts as slower than the fastest peer, as in peers.py


def any_case(case: tuple) -> bool:
    return True


def passes(direction: str):
    """Chooses the cases of one direction."""
    return lambda case: str(case[0]).endswith(direction)


def first_is(word: str):
    return lambda case: case[0] == word


# Title, benchmark, cases, how they become one value, factor, unit, whether the axis is logarithmic
HISTORY = [
    ("Cost, forward", "kernels.track_cost", passes("forward"), mean, 1, " × a loop", False),
    ("Cost, backward", "kernels.track_cost", passes("backward"), mean, 1, " × a loop", False),
    ("Instructions, forward", "kernels.track_instructions", passes("forward"), mean, 1, " a value", False),
    ("Instructions, backward", "kernels.track_instructions", passes("backward"), mean, 1, " a value", False),
    ("Overhead of a small call", "overhead.time_thousand", any_case, mean, 1e-3, "s", False),
    ("Import, above numba's", "start.track_import_over_numba", any_case, mean, 1, "s", False),
    ("First call, kernel cached", "start.track_first_call_cached", first_is("serial"), mean, 1, "s", False),
    ("First call, compiling", "start.track_first_call_uncached", first_is("serial"), mean, 1, "s", False),
    ("Memory, forward", "memory.track_peak", passes("forward"), mean, 1, " × the result", False),
    ("Memory, backward", "memory.track_peak", passes("backward"), mean, 1, " × the result", False),
    ("Worst error, forward", "accuracy.track_error", passes("forward"), max, 1, " ULP", True),
    ("Worst error, backward", "accuracy.track_error", passes("backward"), max, 1, " ULP", True),
    ("All threads over one", "scaling.track_threads", any_case, mean, 1, " of the time", False),
    ("An epoch of the digits", "examples.track_epoch", any_case, mean, 1, "s", False),
]
SHOWN = {"accuracy.track_error": {"p-mean / std": "1000000.0"}}  # of a benchmark with too many lines for asv's graph


def write(conf, site: Path, peers: Path = PEERS) -> None:
    """index.html, and status.json: what is measured since when."""
    history = recorded.load(conf)
    against = json.loads(peers.read_text(encoding="utf-8")) if peers.exists() else None
    (site / "index.html").write_text(render(history, against, conf), encoding="utf-8")
    status = {
        "commits": [commit.hash for commit in history.commits],
        "states": {
            name: [{"case": [str(p) for p in case], "state": state} for case, state in cases.items()]
            for name, cases in history.states.items()
        },
    }
    (site / "status.json").write_text(json.dumps(status, indent=1), encoding="utf-8")


def render(history: History, peers: dict | None, conf) -> str:
    first, last = history.commits[0], history.commits[-1]
    return Template((FOLDER / "template.html").read_text(encoding="utf-8")).substitute(
        style=(FOLDER / "style.css").read_text(encoding="utf-8"),
        project=escape(conf.project),
        latest=f"{last.short}, {day(last.date)}",
        subject=escape(last.subject),
        count="1 commit is" if first is last else f"{len(history.commits)} commits are",
        earliest=f"{first.short}, {day(first.date)}",
        tiles="".join(tiles(history, peers)),
        peers=bars(peers) if peers else "<p>The comparison with other libraries is not measured.</p>",
        accuracy=accuracy(history),
        history="".join(multiple(history, *row) for row in HISTORY),
        measured=how(history, peers, conf.regressions_thresholds),
    )


def day(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d")


# Tiles


def ratios(peers: dict) -> dict[str, dict[str, float]]:
    """Cell -> how many times as fast as the fastest peer, and as PyTorch; fraction of the floor (with out=)."""
    found: dict[str, dict[str, float]] = {}
    for cell, row in peers["seconds"].items():
        others = [seconds for name, seconds in row.items() if name not in ("floor", "normzoo", "normzoo out=")]
        found[cell] = {
            **({"fastest": min(others) / row["normzoo"]} if others else {}),
            **({"torch": row["torch"] / row["normzoo"]} if "torch" in row else {}),
            **({"floor": row["floor"] / row["normzoo out="]} if {"floor", "normzoo out="} <= row.keys() else {}),
        }
    return found


def tile(label: str, value: str, note: str) -> str:
    kind = " none" if value == "not measured" else ""
    return f'<div class="tile"><dt>{label}</dt><dd class="value{kind}">{value}</dd><dd class="note">{note}</dd></div>'


def tiles(history: History, peers: dict | None):
    found = ratios(peers) if peers else {}
    commit = f"at {escape(peers['about']['commit'])}" if peers else ""

    def all_of(kind: str) -> dict[str, float]:
        return {cell: row[kind] for cell, row in found.items() if kind in row}

    for label, kind, note in (
        ("Against the fastest peer", "fastest", "geometric mean of {} cells"),
        ("Against PyTorch", "torch", "geometric mean of {} cells"),
    ):
        cells = all_of(kind)
        yield tile(
            label,
            figure(mean([*cells.values()]), "×") if cells else figure(None),
            f"{note.format(len(cells))} {commit}",
        )
    cells = all_of("fastest")
    least = min(cells, key=lambda cell: cells[cell]) if cells else None
    note = f"against the fastest peer, {escape(least)} {commit}" if least else ""
    yield tile("Least cell", figure(cells[least], "×") if least else figure(None), note)
    cells = all_of("floor")
    yield tile(
        "Of the floor of memory",
        f"{100 * mean([*cells.values()]):.0f} %" if cells else figure(None),
        f"geometric mean of {len(cells)} cells with out= {commit}",
    )
    for label, name, choose, how_many, unit, about in (
        ("Cost of a pass", "kernels.track_cost", any_case, mean, "×", "of a streaming loop; "),
        ("Worst error to mean/std of 10³", "accuracy.track_error", lambda case: case[1] <= 1e3, max, " ULP", ""),
        ("Worst error to mean/std of 10⁶", "accuracy.track_error", any_case, max, " ULP", ""),
        ("Import, above numba's", "start.track_import_over_numba", any_case, mean, "s", ""),
        ("First call, kernel cached", "start.track_first_call_cached", first_is("serial"), mean, "s", ""),
        ("First call, compiling", "start.track_first_call_uncached", first_is("serial"), mean, "s", ""),
    ):
        values, _, _ = history.combined(name, choose, how_many)
        then = next(((c, v) for c, v in zip(history.commits, values, strict=True) if v is not None), None)
        now = values[-1]
        if now is None or then is None:
            yield tile(label, figure(None), "")
            continue
        yield tile(label, figure(now, unit), f"{about}{figure(then[1], unit)} at {then[0].short}")


# Peers


def bars(peers: dict) -> str:
    """A row for each shape, a bar for each direction."""
    cells = {cell: row["fastest"] for cell, row in ratios(peers).items() if "fastest" in row}
    if not cells:
        return "<p>The comparison with other libraries is not measured.</p>"
    low, high = min(0.5, *cells.values()) / 1.35, max(2.0, *cells.values()) * 1.5
    shapes: dict[str, dict[str, float]] = {}
    for cell, value in cells.items():
        name, _, direction = cell.rpartition(" ")
        shapes.setdefault(name, {})[direction] = value
    rows = []
    for name, both in shapes.items():
        drawn = "".join(
            bar(value, low, high, f"{direction} slower" if value < SLOWER else direction,
                f"{name} {direction}: {value:.2f} times as fast as the fastest peer")
            for direction, value in both.items()
        )  # fmt: skip
        rows.append(f'<li><span class="name">{escape(name)}</span><div>{drawn}</div></li>')
    axis = scale((0.25, 0.5, 1, 2, 4, 8, 16, 32), low, high)
    behind = [cell for cell, value in cells.items() if value < SLOWER]
    return (
        f"<p>Times as fast as the fastest of {escape(names_of(peers))}, for {len(cells)} cells on a logarithmic axis. "
        f"The line is 1. {len(behind)} cells are below {SLOWER:g}.</p>"
        '<ul class="legend"><li class="forward">forward</li><li class="backward">backward</li>'
        f'<li class="slower">below {SLOWER:g}</li></ul>'
        f'<ol class="bars"><li><span class="name"></span><div>{axis}</div></li>{"".join(rows)}'
        f'<li><span class="name"></span><div>{axis}</div></li></ol>'
    )


def names_of(peers: dict) -> str:
    called = {"torch": "PyTorch", "jax": "JAX", "onnxruntime": "ONNX Runtime"}
    seen = {name for row in peers["seconds"].values() for name in row}
    found = [title for name, title in called.items() if name in seen]
    return " and ".join([", ".join(found[:-1]), found[-1]] if len(found) > 1 else found)


# Accuracy


def accuracy(history: History) -> str:
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


def multiple(history: History, title: str, name: str, choose, combine, factor: float, unit: str, log: bool) -> str:
    values, kept, newer = history.combined(name, choose, combine)
    values = [v * factor if v is not None else None for v in values]
    present = [(i, v) for i, v in enumerate(values) if v is not None]
    head = f'<a class="multiple" href="{link(name)}"><span class="name">{title}</span>'
    if not present:
        states = [state for case, state in history.states.get(name, {}).items() if choose(case)]
        absent = "not applicable on this machine" if states and set(states) == {"not applicable"} else figure(None)
        return f'{head}<span class="value none">{absent}</span></a>'
    (start, then), (_, now) = present[0], present[-1]
    notes = [
        f"{kept} cases" if kept > 1 else "one case",
        *([f"{newer} newer left out"] if newer else []),
        *([f"newer: since {history.commits[start].short}"] if start else []),
    ]
    drawn = sparkline(
        f"{title}, {name}: {figure(then, unit)} to {figure(now, unit)}", history.commits, values, unit, log
    )
    from_to = f"{figure(then, unit)} at {history.commits[start].short}" if len(present) > 1 else ""
    return (
        f'{head}<span class="value">{figure(now, unit)}</span><span class="note">{from_to}</span>{drawn}'
        f'<span class="note">{largest_step(history, present)}</span><span class="note">{", ".join(notes)}</span></a>'
    )


def largest_step(history: History, present: list[tuple[int, float]]) -> str:
    """The commit between which and the one before it the value fell or rose the most, as a ratio."""
    steps = [(b / a, j) for (_, a), (j, b) in itertools.pairwise(present) if a > 0 and b > 0]
    if not steps:
        return ""
    ratio, at = max(steps, key=lambda step: max(step[0], 1 / step[0]))
    if 0.95 < ratio < 1.05:
        return "no step above 5 %"
    commit = history.commits[at]
    subject = commit.subject if len(commit.subject) <= 50 else commit.subject[:47].rstrip() + "…"
    return f"largest step: {digits(ratio)}× at {commit.short}, {escape(subject)}"


# How it was measured


def how(history: History, peers: dict | None, thresholds: dict[str, float]) -> str:
    first, last = history.commits[0], history.commits[-1]
    machine, environment = history.machine, history.environment
    hardware = {key: machine[key] for key in ("cpu", "num_cpu", "arch", "ram", "os") if machine.get(key)}
    hardware |= {"num_cpu": f"{hardware['num_cpu']} cores"} if "num_cpu" in hardware else {}
    software = [
        f"{key} {value}" for key, value in sorted(environment.items()) if value and key not in {*machine, "branch"}
    ]
    states = [state for cases in history.states.values() for state in cases.values()]
    rows = [
        (
            "Commits",
            f"{len(history.commits)}, from {first.short} ({day(first.date)}) to {last.short} ({day(last.date)}), first parents only",
        ),
        ("Recorded", day(history.measured) if history.measured else figure(None)),
        ("Machine", escape(", ".join([machine.get("machine", ""), *hardware.values()]).strip(", ")) or figure(None)),
        ("Environment", escape(", ".join(software)) or figure(None)),
        (
            "Values",
            f"{len(states)} a commit in {len(history.benchmarks)} benchmarks; {states.count('newer')} are newer than the first commit, "
            f"{states.count('not applicable')} not applicable on this machine, {states.count('missing')} missing",
        ),
    ]
    if peers:
        about = peers["about"]
        said = [re.sub(r"\s+", " ", str(about[key])) for key in ("machine", "versions") if about.get(key)]
        rows.append(("Peers", escape(f"commit {about['commit']}, {about['date']}, {'; '.join(said)}")))
    limits = [f"{'others' if name == '.*' else escape(name)} {100 * limit:g} %" for name, limit in thresholds.items()]
    rows.append(("Thresholds", ", ".join(limits) or figure(None)))
    newer = sorted({name for name, cases in history.states.items() for state in cases.values() if state == "newer"})
    if newer:
        rows.append(("Newer cases in", ", ".join(f'<a href="{link(name)}">{escape(name)}</a>' for name in newer)))
    return "".join(f"<dt>{key}</dt><dd>{value}</dd>" for key, value in rows)
