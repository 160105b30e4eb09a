"""norms.html: each norm by itself, all that was recorded of it."""

import re
from html import escape
from pathlib import Path
from string import Template

from . import peers
from .charts import sparkline
from .history import Records, mean

FOLDER = Path(__file__).parent
# Benchmark, title, unit; their first parameter names the norm
LINES = [
    ("zoo.track_step", "A training step", " × a loop"),
    ("kernels.track_cost", "Cost of a pass", " × a loop"),
    ("fused.track_cost", "With what stands around", " × a loop"),
    ("counts.track_instructions", "Instructions", " a value"),
    ("accuracy.track_error", "Worst error", " ULP"),
    ("counts.track_peak", "Memory", " × the result"),
]


def norm_of(word: str) -> str:
    """The norm that a case or cell begins with, as list_norms has it: "RMSNorm 8192x768 forward" is of rms_norm."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", word.split(maxsplit=1)[0]).lower()


def named(records: Records, against: dict[str, dict]) -> list[str]:
    """Norms of which anything is recorded."""
    found = {norm_of(cell) for name in ("peers", "fused", "zoo") for cell in against.get(name, {}).get("seconds", {})}
    for benchmark, _, _ in LINES:
        for part in records.of(benchmark)[:1]:
            found |= {norm_of(str(case[0])) for case in part.series[benchmark]}
    return sorted(found)


def section(norm: str, records: Records, against: dict[str, dict]) -> str:
    parts = []
    for record_name, (_, title, _) in peers.RECORDS.items():
        record = against.get(record_name, {})
        cells = {cell: row for cell, row in record.get("seconds", {}).items() if norm_of(cell) == norm}
        if cells:
            own = record | {"seconds": cells}
            found = peers.ratios(own)
            ends = [v for r in found.values() for v in (r.value, r.floor or r.value)] or [1.0]
            low, high = min(0.5, *ends) / 1.35, max(2.0, *ends) * 1.5
            bars = peers.listed(peers.by_direction(found), low, high) if found else ""
            parts.append(
                f"<h3>{title}</h3>{bars}<details><summary>Table, milliseconds</summary>{peers.table(own)}</details>"
            )
    drawn = ""
    for name, title, unit in LINES:
        line = records.line(
            name, lambda case: norm_of(str(case[0])) == norm, max if name.startswith("accuracy") else mean
        )
        if line.points:
            told = f"{title} of {norm}, {name}"
            figure = sparkline(told, line, len(records.library), 1, unit, name.startswith("accuracy"))
            value = f"{line.points[-1].value:.3g}{unit}"
            drawn += f'<div class="multiple"><span class="name">{title}</span><span class="value">{value}</span>{figure}</div>'
    history = f'<div class="multiples">{drawn}</div>' if drawn else ""
    return f'<section id="{escape(norm)}"><h2>{escape(norm)}</h2>{"".join(parts)}{history}</section>'


def render(records: Records, against: dict[str, dict], project: str) -> str:
    norms = named(records, against)
    return Template((FOLDER / "norms.html").read_text(encoding="utf-8")).substitute(
        style=(FOLDER / "style.css").read_text(encoding="utf-8"),
        project=escape(project),
        links="".join(f'<a href="#{escape(norm)}">{escape(norm)}</a>' for norm in norms),
        sections="".join(section(norm, records, against) for norm in norms),
    )
