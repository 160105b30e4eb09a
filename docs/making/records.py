"""Figures of the records in asv_benchmarks: comparison with other libraries, accuracy, start. Nothing is measured here,
and what no record holds is not shown."""

import json
import re
from collections.abc import Iterable
from functools import lru_cache
from itertools import product
from math import exp, log
from pathlib import Path
from typing import Any, NamedTuple

import normzoo as nz

BENCHMARKS = Path(__file__).parents[2] / "asv_benchmarks"
OURS = ("normzoo", "normzoo out=", "normzoo apart", "floor")
TITLES = {
    "torch": "PyTorch", "jax": "JAX", "onnxruntime": "ONNX Runtime", "inductor": "compiled PyTorch",
    "torch kept": "PyTorch with kept pages", "onednn": "oneDNN", "openvino": "OpenVINO",
}  # fmt: skip
# What README's table has below the five norms: the record, and the command that measures it.
OTHERS = {
    "before and behind": ("fused.json", "peers.py --fused --json asv_benchmarks/fused.json"),
    "the zoo": ("zoo.json", "zoo_peers.py --json asv_benchmarks/zoo.json"),
    "whole models": ("models.json", "models.py --json asv_benchmarks/models.json"),
}
SIXTEEN = ("float16", "bfloat16")


class Cell(NamedTuple):
    """One pass of one norm on one shape, in `peers.json`: seconds of every library."""

    name: str  # as "BatchNorm 32x64x56x56 channels-last forward"
    seconds: dict[str, float]

    @property
    def norm(self) -> str:
        return self.name.split()[0]

    @property
    def kind(self) -> str:
        """The row of README's table that it belongs to."""
        words = self.name.split()
        if self.seconds["normzoo"] < 5e-6:
            return "small arrays"
        if any(word in SIXTEEN for word in words):
            return "16-bit floats"
        return f"{self.norm}, channels last" if "channels-last" in words else self.norm

    @property
    def direction(self) -> str:
        return self.name.split()[-1]

    @property
    def what(self) -> str:
        """Shape and direction."""
        return " ".join(
            [*self.name.split()[1:-1], {"both": "forward and backward"}.get(self.direction, self.direction)]
        )

    @property
    def peer(self) -> float:
        """Seconds of the fastest peer."""
        return min(seconds for name, seconds in self.seconds.items() if name not in OURS)

    @property
    def times(self) -> float:
        """How many times as fast as the fastest peer."""
        return self.peer / self.seconds["normzoo"]

    @property
    def times_torch(self) -> float:
        return self.seconds["torch"] / self.seconds["normzoo"]

    @property
    def of_floor(self) -> float:
        """The share of the speed of a loop that only moves these bytes."""
        return self.seconds["floor"] / self.seconds["normzoo"]


@lru_cache(maxsize=8)
def peers(file: str = "peers.json") -> tuple[dict[str, str], tuple[Cell, ...]]:
    """How it was measured, and all cells that another library takes part in; none, if there is no such record."""
    path = BENCHMARKS / file
    if not path.exists():
        return {}, ()
    record = json.loads(path.read_text(encoding="utf-8"))
    seconds = record.get("seconds", {})
    for name, steps in record.get("rows", {}).items():  # of zoo_peers.py
        seconds |= {f"{name} {step}": row for step, row in steps.items() if "error" not in row}
    for name, steps in record.get("models", {}).items():
        seconds |= {f"{name} {MODELS[step]}": _of_model(ways) for step, ways in steps.items() if step in MODELS}
    cells = (
        Cell(name, {way: s for way, s in row.items() if isinstance(s, float) and not way.startswith("peak")})
        for name, row in seconds.items()
    )
    return record["about"], tuple(c for c in cells if "normzoo" in c.seconds and "torch" in c.seconds)


MODELS = {"b8": "forward", "train": "both"}  # what models.py measures, and the column of the table it belongs to


def _of_model(ways: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Seconds of PyTorch, and of PyTorch with these norms, by the median of the ratios over the rounds."""
    torch = ways["eager"]["ms"] / 1e3
    ours = ways.get("installed") or ways["converted"]
    found = {"torch": torch, "normzoo": torch / ours["quartiles"][1]}
    return found | ({"inductor": torch / ways["compiled"]["quartiles"][1]} if "compiled" in ways else {})


WAYS = {
    "installed": "`install()`", "converted": "`convert`", "both": "both", "compiled": "`torch.compile`",
    "compiled_installed": "compiled, `install()`", "compiled_converted": "compiled, `convert`",
}  # fmt: skip
STEPS_OF_MODELS = "b1", "b8", "train"


def models_table() -> str:
    """A row for each model: milliseconds of PyTorch, and how many times as fast each way is, in each step; Markdown."""
    path = BENCHMARKS / OTHERS["whole models"][0]
    models = json.loads(path.read_text(encoding="utf-8"))["models"].items()
    rows = {name: [steps[step] for step in STEPS_OF_MODELS] for name, steps in models}
    columns = {title: {name: _ratios(row, way) for name, row in rows.items()} for way, title in WAYS.items()}
    for way in ("installed", "both"):
        columns[f"norms alone, {WAYS[way]}"] = {
            name: _ratios([{w: cell.get("norms") for w, cell in step.items()} for step in row], way)
            for name, row in rows.items()
        }
    columns = {title: column for title, column in columns.items() if any(column.values())}

    def cell(values: Iterable[float], form: str) -> str:
        return " / ".join(format(v, form) for v in values)

    lines = [
        f"| model | PyTorch, ms | {' | '.join(columns)} | error, PyTorch | error, ours |",
        "|---|---|" + "---|" * (len(columns) + 2),
    ]
    for name, row in rows.items():
        parts = [cell((step["eager"]["ms"] for step in row), ".1f")]
        parts += [cell(column[name], ".2f") for column in columns.values()]
        parts += [f"{max(step[way]['error'] for step in row):.0e}" for way in ("eager", "installed")]
        lines.append(f"| {name} | {' | '.join(parts)} |")
    means = [map(geometric_mean, zip(*filter(None, column.values()), strict=True)) for column in columns.values()]
    lines.append(f"| geometric mean | | {' | '.join(cell(m, '.2f') for m in means)} | | |")
    return "\n".join(lines)


def _ratios(row: list[dict[str, Any]], way: str) -> list[float]:
    """How many times as fast a way is in each step; nothing where it was not measured."""
    found = [step.get(way) for step in row]
    return [cell["quartiles"][1] for cell in found] if all(found) else []


def geometric_mean(values: Iterable[float]) -> float:
    found = [log(v) for v in values]
    return exp(sum(found) / len(found))


class Row(NamedTuple):
    """A row of README's table of speed: cells of a kind."""

    kind: str
    cells: tuple[Cell, ...]

    def mean(self, directions: tuple[str, ...], peer: str) -> float | None:
        chosen = [getattr(c, peer) for c in self.cells if c.direction in directions]
        return geometric_mean(chosen) if chosen else None


def rows() -> list[Row]:
    """By the kinds of their cells, and those of the other records that are there."""
    _, cells = peers()
    kinds = dict.fromkeys(cell.kind for cell in cells)
    found = [Row(kind, tuple(c for c in cells if c.kind == kind)) for kind in kinds]
    others = [Row(kind, peers(file)[1]) for kind, (file, _) in OTHERS.items()]
    return [*found, Row("all of these", cells), *(row for row in others if row.cells)]


STEPS = ("forward",), ("backward", "both")  # both: a forward and a backward pass, which the other records time together


def speed_table() -> str:
    """README's table, in Markdown."""
    lines = [
        "| arrays | cells | forward: x fastest peer | x PyTorch | backward: x fastest peer | x PyTorch |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows():
        means = [row.mean(step, peer) for step in STEPS for peer in ("times", "times_torch")]
        lines.append(
            f"| {row.kind} | {len(row.cells)} | {' | '.join('-' if m is None else f'{m:.2f}' for m in means)} |"
        )
    return "\n".join(lines)


def cells_table(cells: Iterable[Cell]) -> str:
    """Every cell in milliseconds, in Markdown."""
    cells = tuple(cells)
    names = ("normzoo", *libraries(cells), "floor")
    lines = [
        f"| cell, ms | {' | '.join(names)} | x fastest peer | x PyTorch | of the floor |",
        "|---|" + "---|" * (len(names) + 3),
    ]
    for c in cells:
        shown = [f"{1e3 * c.seconds[n]:.3f}" if n in c.seconds else "-" for n in names]
        lines.append(f"| {c.name} | {' | '.join(shown)} | {c.times:.2f} | {c.times_torch:.2f} | {c.of_floor:.2f} |")
    return "\n".join(lines)


def apart_table() -> str:
    """`peers.py --apart`: in one pass and in several, in Markdown."""
    record = json.loads((BENCHMARKS / "apart.json").read_text(encoding="utf-8"))
    about = record["about"]
    lines = [
        f"`{about['command']}`: {about['machine']}, {about['date']}, commit {about['commit']}.",
        "",
        "| cell, ms | one pass | a pass for each step | of its time | of the floor |",
        "|---|---|---|---|---|",
    ]
    for name, row in record["seconds"].items():
        ours, apart = row["normzoo"], row["normzoo apart"]
        times = f"{1e3 * ours:.1f} | {1e3 * apart:.1f} | {ours / apart:.2f} | {row['floor'] / ours:.2f}"
        lines.append(f"| {name} | {times} |")
    return "\n".join(lines)


def libraries(cells: Iterable[Cell]) -> list[str]:
    """Those that take part in any of the cells."""
    found = dict.fromkeys(name for c in cells for name in c.seconds if name not in OURS)
    return sorted(found, key=lambda name: [*TITLES, name].index(name))


def listed(names: Iterable[str]) -> str:
    """As "PyTorch, JAX and ONNX Runtime"."""
    *most, last = [TITLES.get(name, name) for name in names]
    return f"{', '.join(most)} and {last}" if most else last


def about_peers(file: str = "peers.json") -> str:
    about, cells = peers(file)
    script = {found: command.partition(" ")[0] for found, command in OTHERS.values()}.get(file, "peers.py")
    return (
        f"`python asv_benchmarks/{script}`: {about['machine']}, {about['date']}, commit {about['commit']}; "
        f"{about['versions']}; {len(cells)} cells."
    )


def about_others() -> str:
    """Where and when the other rows of README's table were measured, if they were: what differs from the first rows."""
    first, _ = peers()
    found = []
    for kind, (file, command) in OTHERS.items():
        about, cells = peers(file)
        if cells:
            script, _, _ = command.partition(" --json")
            differs = [about[key] for key in ("machine", "date") if about[key] != first[key]]
            if about["commit"] != first["commit"]:
                differs.append(f"commit {about['commit']}")
            found.append(", ".join([f"{kind} `{script}`", *differs]))
    return f" The rows below these: {'; '.join(found)}." if found else ""


@lru_cache(maxsize=1)
def _runs() -> list[dict[str, Any]]:
    """Records of asv, newest commit first."""
    found = [p for p in (BENCHMARKS / "results").glob("*/*.json") if p.name != "machine.json"]
    runs = [json.loads(p.read_text(encoding="utf-8")) for p in found]
    return sorted(runs, key=lambda run: run["date"], reverse=True)


def recorded(benchmark: str) -> tuple[str, dict[tuple[str, ...], float]]:
    """(commit, value of every case) of the newest record of a benchmark, by what its parameters were."""
    for run in _runs():
        found = run["results"].get(benchmark)
        if found and found[0]:
            cases = [tuple(part.strip("'") for part in case) for case in product(*found[1])]
            values = zip(cases, found[0], strict=True)
            return run["commit_hash"][:7], {case: value for case, value in values if value is not None}
    return "", {}


ULP = 2.0**-23


def accuracy_table(norm: str | None = None) -> str:
    """The largest error of a pass by mean / std, in Markdown; of one norm or all. Empty: none is recorded."""
    _, values = recorded("accuracy.track_error")
    chosen = {case: v for case, v in values.items() if norm is None or case[0].split()[0] == norm}
    if not chosen:
        return ""
    ratios = list(dict.fromkeys(ratio for _, ratio in chosen))
    lines = [f"| mean / std | {' | '.join(f'{float(r):g}' for r in ratios)} |", "|---|" + "---|" * len(ratios)]
    for case in dict.fromkeys(case for case, _ in chosen):
        lines.append(f"| {case} | {' | '.join(f'{chosen[case, r] * ULP:.1e}' for r in ratios)} |")
    return "\n".join(lines)


def table_rows(page: Path, words: set[str]) -> str:
    """The tables of a page, each with its head and the rows whose first cell names one of `words`; "" without any."""
    found: list[str] = []
    head: list[str] = []
    last: list[str] = []
    for line in page.read_text(encoding="utf-8").splitlines() if page.exists() else []:
        if not line.startswith("|"):
            head, last = [], []
        elif len(head) < 2:
            head.append(line)
        elif words & set(re.findall(r"\w+", line.split("|")[1])):
            if last != head:
                found += ["", *head]
                last = head
            found.append(line)
    return "\n".join(found).strip()


def seconds(value: float) -> str:
    return f"{value:.1f}" if value >= 0.1 else f"{value:.2f}"


def substitutions() -> dict[str, str]:
    """Figures that pages name as {{ name }}."""
    about, cells = peers()
    start, first = recorded("start.track_first_call_uncached")
    _, cached = recorded("start.track_first_call_cached")
    _, imported = recorded("start.timeraw_import")
    return {
        "cells": str(len(cells)),
        "times": f"{geometric_mean(c.times for c in cells):.2f}",
        "times_torch": f"{geometric_mean(c.times_torch for c in cells):.2f}",
        "least_times": f"{min(c.times for c in cells):.2f}",
        "of_floor": f"{100 * geometric_mean(c.of_floor for c in cells):.0f}",
        "machine": f"{about['machine']}, {about['date']}, commit {about['commit']}",
        "versions": about["versions"],
        "libraries": listed(libraries(cells)),
        "others": about_others(),
        "count": str(len(nz.list_norms())),
        "about_peers": about_peers(),
        "speed_table": speed_table(),
        "cells_table": cells_table(cells),
        "about_fused": about_peers("fused.json"),
        "fused_table": cells_table(peers("fused.json")[1]),
        "apart_table": apart_table(),
        "about_models": about_peers("models.json"),
        "models_table": models_table(),
        "accuracy_table": accuracy_table(),
        "accuracy_commit": recorded("accuracy.track_error")[0],
        "first_call": seconds(first["serial",]),
        "next_process": seconds(cached["serial",]),
        "import_seconds": seconds(imported[()]),
        "start_commit": start,
    }
