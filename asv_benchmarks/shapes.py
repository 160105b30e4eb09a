"""Shapes drawn at random, normzoo beside PyTorch: where is it slower?

    python asv_benchmarks/shapes.py --seed 1 --shapes 300 [--minutes 10] [--only REGEX] [--json shapes.json]
    python asv_benchmarks/shapes.py --again shapes.json

The five norms over 1 to 1e7 values, 1 to 4096 channels (rows have up to 65536 values), channels first and last, as many
groups as channels, one, or between; float32, float16 and bfloat16; forward, backward and evaluation. A seed draws the
same shapes everywhere. Each implementation runs in a process of its own, as in `peers.py`, whose functions are timed;
they take turns, and a figure is the median of slices of at least 20 ms. Loops over small arrays are warm: a thousand
calls come first. A shape that is below --limit is timed again with --more rounds, after all others, in new processes,
and only that counts. Prints the worst shapes and the shares below 0.8 and below the limit; --again takes the shapes
that an earlier report has below its limit.
"""

import argparse
import json
import math
import random
import re
import shlex
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import peers
from peers import Cell

MOST, MOST_CHANNELS, MOST_OF_A_ROW = 10_000_000, 4096, 65536  # values
ROWS = "LayerNorm", "RMSNorm"
SMALL = 0.8  # the second share that is printed
Timed = dict[str, float]  # implementation -> seconds


def label(cell: Cell) -> str:
    return cell.id if cell.groups is None else f"{cell.id}, {cell.groups} groups"


# -- drawing -----------------------------------------------------------------------------------------------


def size(rng: random.Random, most: int) -> int:
    """1 to most, log-uniform; half of them as people choose sizes, of few leading bits."""
    found = min(int(math.exp(rng.uniform(0, math.log(most + 1)))), most)
    if rng.random() < 0.5:
        step = 1 << max(found.bit_length() - 2, 0)
        found -= found % step
    return found


def channels_first(rng: random.Random, norm: str, values: int) -> tuple[int, ...]:
    """(N, C, ...), of this many values or little less."""
    c = size(rng, min(values, MOST_CHANNELS))
    dims = rng.choice((0, 1, 2, 2, 2, 3) if norm in ("BatchNorm", "GroupNorm") else (1, 2, 2, 2, 3))
    left = values // c
    places = []
    if dims:
        side = size(rng, left) ** (1 / dims)
        places = [max(int(side * rng.choice((1, 1, 0.5))), 1) for _ in range(dims)]
    return (max(left // math.prod(places), 1), c, *places)


def groups_of(rng: random.Random, channels: int) -> int:
    divisors = [d for d in range(1, channels + 1) if channels % d == 0]
    usual = 32 if channels % 32 == 0 else channels
    return rng.choice((1, usual, channels, rng.choice(divisors)))


def accepted(cell: Cell) -> bool:
    """Whether sets have the two values that both libraries want."""
    n, c, *places = cell.shape if cell.norm not in ROWS else (2, 1)
    if cell.evaluate or cell.norm in ROWS:
        return True
    return math.prod(places) * {"BatchNorm": n, "InstanceNorm": 1, "GroupNorm": c // (cell.groups or 1)}[cell.norm] > 1


def draw(seed: int) -> Iterator[Cell]:
    """Cells without end."""
    rng = random.Random(seed)
    while True:
        norm = rng.choice(("BatchNorm", "LayerNorm", "RMSNorm", "GroupNorm", "InstanceNorm"))
        values = size(rng, MOST)
        if norm in ROWS:
            n = size(rng, min(values, MOST_OF_A_ROW))
            shape: tuple[int, ...] = (values // n, n)
        else:
            shape = channels_first(rng, norm, values)
        cell = Cell(
            norm, shape, rng.choice(("forward", "backward")),
            dtype=rng.choice(("float32", "float32", "float16", "bfloat16")),
            last=len(shape) in (4, 5) and rng.random() < 0.4,  # PyTorch has this memory format for these
            evaluate=norm in ("BatchNorm", "InstanceNorm") and rng.random() < 0.3,
            groups=groups_of(rng, shape[1]) if norm == "GroupNorm" else None,
        )  # fmt: skip
        if accepted(cell):
            yield cell


# -- measuring ---------------------------------------------------------------------------------------------


def timed(cells: Iterator[Cell], peer: str, rounds: int, until: float, failed: dict[Cell, str]) -> dict[Cell, Timed]:
    """Each cell's seconds by normzoo and by the peer; cells that either of them refuses go to `failed`."""
    found: dict[Cell, Timed] = {}
    with peers.Workers(["normzoo", peer]) as workers:
        for cell in cells:
            try:
                times = workers.medians(cell, rounds)
            except ValueError as error:
                failed[cell] = str(error)
                continue
            if peer in times:
                found[cell] = times
                shown = "  ".join(f"{name} {1e6 * t:.2f}" for name, t in times.items())
                print(f"[{len(found)}] {label(cell)}: {shown}", file=sys.stderr)
            if time.monotonic() > until:
                break
    return found


def again(found: dict[Cell, Timed], peer: str, limit: float, rounds: int, failed: dict[Cell, str]) -> dict[Cell, Timed]:
    """Those below the limit, timed anew: a few slices are slow by chance, and the lowest ratios are picked here."""
    low = [cell for cell, times in found.items() if times[peer] / times["normzoo"] < limit]
    if not low:
        return {}
    print(f"{len(low)} of {len(found)} below {limit}, timed again", file=sys.stderr)
    return timed(iter(low), peer, rounds, math.inf, failed)


# -- the report --------------------------------------------------------------------------------------------


def report(found: dict[Cell, Timed], peer: str, limit: float, worst: int) -> str:
    """Markdown: the shares, norm by norm and pass by pass too, and the worst shapes."""
    ratio = {cell: times[peer] / times["normzoo"] for cell, times in found.items()}
    if not ratio:
        return "Nothing was timed."

    def share(values: list[float], below: float) -> str:
        count = sum(v < below for v in values)
        return f"{100 * count / len(values):.1f} % ({count})"

    values = list(ratio.values())
    lines = [
        f"{len(values)} shapes, times as fast as {peer}: geometric mean {statistics.geometric_mean(values):.2f}, "
        f"below {limit} {share(values, limit)}, below {SMALL} {share(values, SMALL)}.\n",
        f"| norm and pass | shapes | geometric mean | below {limit} | below {SMALL} | least |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    parts: dict[str, list[float]] = {}
    for cell, value in ratio.items():
        kind = " ".join(filter(None, (cell.norm, "eval" * cell.evaluate, "channels-last" * cell.last, cell.direction)))
        parts.setdefault(kind, []).append(value)
    for kind, part in sorted(parts.items()):
        mean = statistics.geometric_mean(part)
        shares = f"{share(part, limit)} | {share(part, SMALL)}"
        lines.append(f"| {kind} | {len(part)} | {mean:.2f} | {shares} | {min(part):.2f} |")
    lines += ["", f"| worst | times as fast | normzoo, µs | {peer}, µs |", "|---|--:|--:|--:|"]
    for cell in sorted(ratio, key=lambda cell: ratio[cell])[:worst]:
        times = found[cell]
        lines.append(f"| {label(cell)} | {ratio[cell]:.2f} | {1e6 * times['normzoo']:.2f} | {1e6 * times[peer]:.2f} |")
    return "\n".join(lines)


def as_json(cell: Cell, first: Timed, second: Timed | None) -> dict:
    return asdict(cell) | {"seconds": second or first} | ({"first": first} if second else {})


def low_of(path: Path) -> list[Cell]:
    """The cells that a report in JSON has below its limit."""
    read = json.loads(path.read_text(encoding="utf-8"))
    limit, peer = read["about"]["limit"], read["about"]["peer"]
    fields = Cell.__dataclass_fields__
    return [
        Cell(**{name: tuple(value) if name == "shape" else value for name, value in row.items() if name in fields})
        for row in read["shapes"]
        if row["seconds"][peer] / row["seconds"]["normzoo"] < limit
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shapes", type=int, help="how many to draw: 100 unless --minutes says how long")
    parser.add_argument("--minutes", type=float, help="draw for so long; what is timed again comes on top")
    parser.add_argument("--only", default="", help="regular expression: shapes to time, by what the report calls them")
    parser.add_argument("--again", type=Path, metavar="JSON", help="draw none: those below the limit of this report")
    parser.add_argument("--rounds", type=int, default=7, help="slices per implementation and shape")
    parser.add_argument("--more", type=int, default=21, help="slices of a shape below the limit")
    parser.add_argument("--limit", type=float, default=0.95, help="times as fast as the peer")
    parser.add_argument("--worst", type=int, default=30, help="how many shapes to list")
    parser.add_argument(
        "--peer", default="torch", choices=[name for name in peers.IMPLEMENTATIONS if name != "normzoo"]
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    peer, limit = options.peer, options.limit
    if not peers.installed(peer):
        parser.error(f'{peer} is not installed: pip install -e ".[bench]"')
    cells = iter(low_of(options.again)) if options.again else draw(options.seed)
    cells = (cell for cell in cells if re.search(options.only, label(cell)))
    count = options.shapes or (None if options.minutes or options.again else 100)
    until = time.monotonic() + 60 * options.minutes if options.minutes else math.inf
    failed: dict[Cell, str] = {}
    first = timed(islice(cells, count), peer, options.rounds, until, failed)
    second = again(first, peer, limit, options.more, failed)
    about = peers.describe([peer]) | {"command": shlex.join(["python", *sys.argv]), "peer": peer, "limit": limit}
    print(f"{about['machine']}, {about['date']}, commit {about['commit']}; {about['versions']}\n`{about['command']}`\n")
    print(report(first | second, peer, limit, options.worst))
    for cell, error in failed.items():
        print(f"\nFailed: {label(cell)}: {error}")
    if options.json:
        rows = [as_json(cell, times, second.get(cell)) for cell, times in first.items()]
        options.json.write_text(json.dumps({"about": about, "shapes": rows}, indent=1), encoding="utf-8")
    return any(error.startswith("normzoo") for error in failed.values())


if __name__ == "__main__":
    sys.exit(main())
