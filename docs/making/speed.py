"""Tables of speed of the how-to guides, out of the records of `data_peers.py`, `image_peers.py` and `zoo_peers.py`."""

import json
from typing import Any

from making import records

PEERS = {
    "sklearn": "scikit-learn", "gymnasium": "Gymnasium", "numpy": "NumPy", "albucore": "albucore",
    "torchvision": "torchvision",
}  # fmt: skip
GRAPHS = "graph_norm", "pair_norm", "mean_subtraction", "graph_size_norm", "message_norm", "diff_group_norm"


def record(file: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((records.BENCHMARKS / file).read_text(encoding="utf-8"))
    return found


def about(file: str) -> str:
    """By which command, where and when it was measured."""
    found = record(file)["about"]
    return (
        f"`{found['command']}`: {found['machine']}, {found['date']}, commit {found['commit']}; {found['versions']}; "
        "medians."
    )


def duration(seconds: float) -> str:
    return f"{1e6 * seconds:.0f} us" if seconds < 1e-3 else f"{1e3 * seconds:.{1 if seconds < 0.01 else 0}f} ms"


def data_table() -> str:
    """A row for each step of each estimator, in Markdown."""
    lines = ["| estimator | dtype | step | normzoo | peer | times as fast | copy of the table |", "|" + "---|" * 7]
    for row, seconds in record("data.json")["seconds"].items():
        peer = next((name for name in PEERS if name in seconds), "")
        ours = seconds["normzoo"]
        shown = (
            duration(ours),
            f"{PEERS[peer]} {duration(seconds[peer])}" if peer else "-",
            f"{seconds[peer] / ours:.1f}" if peer else "-",
            duration(seconds["floor"]) if "floor" in seconds else "-",
        )
        lines.append(f"| {' | '.join([*row.split(' ', 2), *shown])} |")
    return "\n".join(lines)


def images_table() -> str:
    """A row for each way to normalize, in Markdown: milliseconds, and how many times as fast as each peer."""
    rows = record("images.json")["seconds"]
    peers = [name for name in PEERS if any(name in row for row in rows.values())]
    lines = [f"| | normzoo, ms | {' | '.join(f'x {PEERS[name]}' for name in peers)} |", "|" + "---|" * (2 + len(peers))]
    for name, row in rows.items():
        ratios = [f"{row[peer] / row['normzoo']:.1f}" if peer in row else "-" for peer in peers]
        lines.append(f"| {name} | {1e3 * row['normzoo']:.1f} | {' | '.join(ratios)} |")
    return "\n".join(lines)


def graphs_table() -> str:
    """The norms of graphs, of the record of the zoo."""
    return records.cells_table(cell for cell in records.peers("zoo.json")[1] if cell.norm in GRAPHS)


def substitutions() -> dict[str, str]:
    """Figures that pages name as {{ name }}."""
    return {
        "about_data": about("data.json"),
        "data_table": data_table(),
        "about_images": about("images.json"),
        "images_table": images_table(),
        "about_graphs": about("zoo.json"),
        "graphs_table": graphs_table(),
    }
