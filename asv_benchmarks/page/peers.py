"""Other libraries: ratio bars out of the records that peers.py, zoo_peers.py and models.py write as JSON.

A record has `about` (machine, date, commit, versions), `seconds` (cell -> implementation -> median) and, since bars
have a spread, `rounds` (the same -> seconds of every round). models.py has `models` in place of the last two.
"""

import json
import statistics
from collections.abc import Callable, Iterable
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from .charts import bar, figure, scale
from .history import mean

SLOWER = 0.95  # below it a cell counts as slower than the fastest peer, as in peers.py
SMALL = 5e-6  # seconds: cells in which the call is most of the work
TITLES = {
    "torch": "PyTorch", "torch kept": "PyTorch, pages kept", "inductor": "PyTorch compiled", "onednn": "oneDNN", "jax": "JAX",
    "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO",
}  # fmt: skip
OURS = ("normzoo", "normzoo out=", "normzoo apart", "floor")
# File, title, what is compared
RECORDS = {
    "peers": ("peers.json", "Five norms", "python asv_benchmarks/peers.py --json asv_benchmarks/peers.json"),
    "fused": (
        "fused.json",
        "With what stands around",
        "python asv_benchmarks/peers.py --fused --json asv_benchmarks/fused.json",
    ),
    "zoo": ("zoo.json", "The zoo", "python asv_benchmarks/zoo_peers.py --json asv_benchmarks/zoo.json"),
    "models": (
        "models.json",
        "Whole models of PyTorch",
        "python asv_benchmarks/models.py --json asv_benchmarks/models.json",
    ),
}


class Ratio(NamedTuple):
    """How many times as fast as the fastest peer; quartiles over the rounds; where the floor would be."""

    value: float
    low: float
    high: float
    floor: float | None
    peer: str  # the fastest


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """The records that are there."""
    return {
        name: json.loads((folder / file).read_text(encoding="utf-8"))
        for name, (file, _, _) in RECORDS.items()
        if (folder / file).exists()
    }


def others(row: dict[str, float]) -> dict[str, float]:
    return {name: seconds for name, seconds in row.items() if name not in OURS}


def ratio_of(record: dict, cell: str, peer: str | None = None) -> Ratio | None:
    """Against the fastest peer, or that one."""
    row = record["seconds"][cell]
    found = others(row)
    if not found or "normzoo" not in row or (peer is not None and peer not in found):
        return None
    name = peer or min(found, key=lambda n: found[n])
    rounds = record.get("rounds", {}).get(cell, {})
    value = found[name] / row["normzoo"]
    low = high = value
    if {name, "normzoo"} <= rounds.keys() and len(rounds[name]) > 1:
        each = [a / b for a, b in zip(rounds[name], rounds["normzoo"], strict=True)]
        low, _, high = statistics.quantiles(each, n=4, method="inclusive")
    return Ratio(value, min(low, value), max(high, value), found[name] / row["floor"] if "floor" in row else None, name)


def joined(ratios: Iterable[Ratio]) -> Ratio:
    """Geometric mean of several."""
    found = [*ratios]
    floors = [r.floor for r in found if r.floor is not None]
    names = {r.peer for r in found}
    peer = names.pop() if len(names) == 1 else "the fastest of each"
    return Ratio(
        *(mean([getattr(r, f) for r in found]) for f in ("value", "low", "high")),
        mean(floors) if floors else None,
        peer,
    )


def kind_of(cell: str, row: dict[str, float]) -> str:
    """The row of the summary that a cell belongs to."""
    words = cell.split()
    if row["normzoo"] < SMALL:
        return "small calls"
    if {"float16", "bfloat16"} & set(words):
        return f"{words[0]}, 16 bits"
    return f"{words[0]}, channels last" if "channels-last" in words else words[0]


def group_of_fused(cell: str, row: dict[str, float]) -> str:
    words = [word for word in cell.split() if word not in ("float16", "bfloat16", "eval", "channels-last")]
    return " ".join([words[0], *words[2:-1]])


def whole(cell: str, row: dict[str, float]) -> str:
    return "all norms"


GROUPS: dict[str, Callable[[str, dict[str, float]], str]] = {"peers": kind_of, "fused": group_of_fused, "zoo": whole}


def ratios(record: dict, peer: str | None = None) -> dict[str, Ratio]:
    found = {cell: ratio_of(record, cell, peer) for cell in record["seconds"]}
    return {cell: ratio for cell, ratio in found.items() if ratio is not None}


def sections(records: dict[str, dict], behind: Callable[[str], int | None]) -> str:
    """Each record with its bars; what is not measured is named with the command that measures it."""
    found = []
    for name, (_, title, command) in RECORDS.items():
        if name not in records:
            found.append(f'<h3>{title}</h3><p class="absent">not measured: <code>{escape(command)}</code></p>')
            continue
        record = records[name]
        about = record["about"]
        late = behind(about["commit"])
        said = f"{about['machine']}; {about['date']}, commit {about['commit']}" + (
            f", {late} commits of the library behind" if late else ""
        )
        drawn = models(record) if name == "models" else bars(record, GROUPS[name])
        found.append(f"<h3>{title}</h3><p>{escape(said)}; {escape(str(about['versions']))}.</p>{drawn}")
    return "".join(found)


def drawn(ratio: Ratio, low: float, high: float, direction: str, told: str) -> str:
    kind = "forward" if direction == "forward" else "backward"
    detail = f"{told}: {ratio.value:.2f} times as fast as {TITLES.get(ratio.peer, ratio.peer)}"
    if ratio.high > ratio.low:
        detail += f", quartiles {ratio.low:.2f} to {ratio.high:.2f}"
    if ratio.floor:
        detail += f"; the floor of memory would be {ratio.floor:.2f}"
    return bar(ratio, low, high, f"{kind} slower" if ratio.value < SLOWER else kind, detail)


def listed(rows: dict[str, dict[str, Ratio]], low: float, high: float) -> str:
    """A line for each name, a bar for each direction."""
    axis = f'<li><span class="name"></span><div>{scale((0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64), low, high)}</div></li>'
    lines = [
        f'<li><span class="name">{escape(name)}</span><div>'
        + "".join(drawn(ratio, low, high, direction, f"{name} {direction}") for direction, ratio in both.items())
        + "</div></li>"
        for name, both in rows.items()
    ]
    return f'<ol class="bars">{axis}{"".join(lines)}</ol>'


def by_direction(found: dict[str, Ratio]) -> dict[str, dict[str, Ratio]]:
    rows: dict[str, dict[str, Ratio]] = {}
    for cell, ratio in found.items():
        name, _, direction = cell.rpartition(" ")
        rows.setdefault(name, {})[direction] = ratio
    return rows


def bars(record: dict, group: Callable[[str, dict[str, float]], str]) -> str:
    found = ratios(record)
    if not found:
        return '<p class="absent">no peer was measured</p>'
    ends = [v for r in found.values() for v in (r.value, r.floor or r.value)]
    low, high = min(0.5, *ends) / 1.35, max(2.0, *ends) * 1.5
    kinds: dict[str, dict[str, list[Ratio]]] = {}
    for cell, ratio in found.items():
        direction = cell.rpartition(" ")[2]
        kinds.setdefault(group(cell, record["seconds"][cell]), {}).setdefault(direction, []).append(ratio)
    summary = {
        f"{kind} ({max(map(len, both.values()))})": {direction: joined(each) for direction, each in both.items()}
        for kind, both in sorted(kinds.items())
    }
    behind = sorted((cell for cell in found if found[cell].value < SLOWER), key=lambda cell: found[cell].value)
    slow = "".join(
        f"<li>{escape(cell)}: {found[cell].value:.2f} of {escape(TITLES.get(found[cell].peer, found[cell].peer))}</li>"
        for cell in behind
    )
    directions = {cell.rpartition(" ")[2] for cell in found}
    second = "forward and backward" if "both" in directions else "backward"
    legend = (
        f'<ul class="legend"><li class="forward">forward</li><li class="backward">{second}</li>'
        f'<li class="slower">below {SLOWER:g}</li><li class="floor">floor of memory</li></ul>'
    )
    worst = f"<details><summary>{len(behind)} of {len(found)} cells are slower than the fastest peer</summary><ul>{slow}</ul></details>"
    return (
        f"{legend}{listed(summary, low, high)}{worst if behind else ''}"
        f"<details><summary>Each of {len(found)} cells</summary>{listed(by_direction(found), low, high)}</details>"
        f"<details><summary>Table, milliseconds</summary>{table(record)}</details>"
    )


def table(record: dict) -> str:
    names = list(dict.fromkeys(name for row in record["seconds"].values() for name in row))
    head = "".join(f"<th>{escape(TITLES.get(name, name))}</th>" for name in ("cell", *names))
    rows = [
        f"<tr><th>{escape(cell)}</th>"
        + "".join(f"<td>{1e3 * row[name]:.3f}</td>" if name in row else "<td>-</td>" for name in names)
        + "</tr>"
        for cell, row in record["seconds"].items()
    ]
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def models(record: dict) -> str:
    """Each way of running the norms against the model as it is."""
    rows: dict[str, dict[str, Ratio]] = {}
    for name, steps in record["models"].items():
        for step, ways in steps.items():
            way = next((w for w in ("converted", "installed") if w in ways), None)
            if way is not None:
                low, value, high = ways[way]["quartiles"]
                direction = "both" if step == "train" else "forward"
                rows.setdefault(f"{name} {step}", {})[direction] = Ratio(value, low, high, None, "the model as it is")
    if not rows:
        return '<p class="absent">no model was measured</p>'
    ends = [ratio.value for both in rows.values() for ratio in both.values()]
    all_of = {
        "inference": {"forward": joined(r["forward"] for r in rows.values() if "forward" in r)},
        "training": {"both": joined(r["both"] for r in rows.values() if "both" in r)},
    }
    low, high = min(0.5, *ends) / 1.2, max(2.0, *ends) * 1.3
    return (
        f"<p>{len(record['models'])} models, eager, against themselves with this library's norms.</p>{listed(all_of, low, high)}"
        f"<details><summary>Each of {len(rows)} steps</summary>{listed(rows, low, high)}</details>"
    )


def small_calls(records: dict[str, dict]) -> str:
    """Calls in which there is little to do beside the call, in every library."""
    record = records.get("peers")
    found = {cell: row for cell, row in (record or {"seconds": {}})["seconds"].items() if row["normzoo"] < SMALL}
    if not found:
        return ""
    names = list(dict.fromkeys(name for row in found.values() for name in row if name not in ("floor", "normzoo out=")))
    head = "".join(f"<th>{escape(TITLES.get(name, name))}</th>" for name in ("cell", *names))
    rows = [
        f"<tr><th>{escape(cell)}</th>"
        + "".join(f"<td>{figure(row.get(name), 's') if name in row else '-'}</td>" for name in names)
        + "</tr>"
        for cell, row in found.items()
    ]
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(rows)}</table></div>'
