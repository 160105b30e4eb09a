"""Every norm of the zoo against PyTorch, eager (also with an allocator that keeps its pages) and compiled, and against the floor of memory: docs/zoo_speed.md.

    python asv_benchmarks/zoo_peers.py [--rounds 7] [--only REGEX] [--write docs/zoo_speed.md] [--json zoo.json]

Forward, and forward and backward, on a shape of a network that uses the norm (`zoo_composites.py`). Every implementation
runs in its own process, two threads each, called in turn; a figure is the median over the rounds of slices of at least
20 ms, after PyTorch's y and gradients were found equal to normzoo's. The floor is the time to read every input once and
write every output once. Peak memory is what a step needs beside its inputs, by the operating system.
"""

import argparse
import contextlib
import ctypes
import json
import re
import statistics
import subprocess
import sys
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from peers import Cell, describe, environment, floor_calls, timed, warm, writable, write_record

import normzoo as nz

IMPLEMENTATIONS = "normzoo", "torch", "torch kept", "inductor", "floor"
STEPS = "forward", "both"


class Made(NamedTuple):
    """A norm and what it is called with."""

    norm: Any
    x: np.ndarray
    dy: np.ndarray
    given: dict[str, Any]


def made(name: str) -> Made:
    """The same in every process."""
    from zoo_composites import PEERS

    peer, rng = PEERS[name], np.random.default_rng(0)
    norm = nz.create(name, *peer.arguments, **peer.options)
    for key, p in norm.params.items():
        if key != "alpha":
            p[...] = rng.uniform(0.5, 1.5, p.shape)
    x, dy = rng.standard_normal((2, *peer.shape), dtype=np.float32)
    given: dict[str, Any] = {n: rng.standard_normal(shape, dtype=np.float32) for n, shape in peer.inputs.items()}
    for key, (shape, end) in peer.labels.items():
        given[key] = int(rng.integers(end)) if shape == () else rng.integers(end, size=shape)
    if "segments" in given:
        given["segments"].sort()  # as in the batches of PyTorch Geometric
    if name == "pcen":
        x = np.abs(x)
    if name == "virtual_batch_norm":
        norm.refer(x)
    if name == "alpha_batch_norm":
        norm.eval()  # in training it is BatchNorm
    if name == "standardize":
        norm.adapt(x)
    if name == "spectral_norm":
        norm.iterate(x)  # what the first call does
    return Made(norm, x, dy, given)


def normzoo_step(name: str, step: str) -> Callable:
    norm, x, dy, given = made(name)

    def forward() -> None:
        norm(x, **given)

    def both() -> None:
        norm(x, **given)
        norm.backward(dy)

    return both if step == "both" else forward


def torch_step(name: str, step: str, compiler: bool) -> Callable | None:
    """Checked against normzoo."""
    import torch
    from zoo_composites import PEERS

    peer = PEERS[name]
    if peer.formula is None:
        return None
    norm, x, dy, given = made(name)
    arrays = {**norm.buffers, **norm.params, **given}
    tensors = {key: torch.from_numpy(np.array(a)) for key, a in arrays.items()}
    leaves = {"x": torch.from_numpy(x)} | {
        key: t for key, t in tensors.items() if t.dtype.is_floating_point and key not in norm.buffers
    }
    d, formula = torch.from_numpy(dy), torch.compile(peer.formula, dynamic=False) if compiler else peer.formula

    def forward() -> Any:
        with torch.no_grad():
            return formula(leaves["x"], tensors)

    def both() -> Any:
        for t in leaves.values():
            t.grad = None
            t.requires_grad_()
        y = formula(leaves["x"], tensors)
        y.backward(d)
        return y

    check(peer.tolerance, made(name), both(), leaves)
    if step == "both":
        return both
    for t in leaves.values():
        t.requires_grad_(False)
    return forward


def check(tolerance: float, own: Made, y: Any, leaves: dict[str, Any]) -> None:
    """Is it the same formula?"""
    norm, x, dy, given = own
    expected = {"y": norm(x, **given), "x": norm.backward(dy), **norm.grads}
    found = {"y": y} | {key: t.grad for key, t in leaves.items()}
    for key, v in found.items():
        if v is None or expected.get(key) is None:
            continue
        a, e = v.detach().numpy().astype(np.float64).reshape(-1), expected[key].astype(np.float64).reshape(-1)
        error = float(np.abs(a - e).max() / max(1e-30, np.abs(e).max()))
        if not error <= tolerance:
            raise ValueError(f"{norm}: PyTorch's {key} differs by {error:.1e} of its largest value")


def floor_step(name: str, step: str) -> Callable | None:
    """Inputs of x's size read, and outputs of that size written, once each."""
    from zoo_composites import PEERS

    peer = PEERS[name]
    beside = sum(prod(shape) == prod(peer.shape) for shape in peer.inputs.values())
    around = "add" if beside else ""
    return floor_calls(Cell("LayerNorm", peer.shape, step, around=around))


STEP: dict[str, Callable] = {
    "normzoo": normzoo_step,
    "torch": lambda name, step: torch_step(name, step, False),
    "torch kept": lambda name, step: torch_step(name, step, False),
    "inductor": lambda name, step: torch_step(name, step, True),
    "floor": floor_step,
}


def peak(call: Callable) -> int | None:
    """Bytes that a call needs beside what is there; None where the system does not say."""
    nz.release_memory()
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)  # what was freed before is given back: else it would be used unseen
    status, marks = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    try:
        marks.write_text("5", encoding="utf-8")  # the peak begins anew
        before = held(status, "VmRSS")
        call()
        return held(status, "VmHWM") - before
    except OSError:
        return None


def held(status: Path, field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", status.read_text(encoding="utf-8"))
    return 1024 * int(found.group(1)) if found else 0


def worker(implementation: str) -> None:
    """Answers lines of JSON, [norm, step, peak or not], by seconds or bytes, null, or the text of an error."""
    current, call = None, None
    for line in sys.stdin:
        name, step, wants_peak = json.loads(line)
        try:
            if (name, step) != current:
                call = None
                call, current = STEP[implementation](name, step), (name, step)
                if call:
                    warm(call)
            answer = None if call is None else peak(call) if wants_peak else timed(call)
        except Exception as error:
            current, answer = None, f"{type(error).__name__}: {error}"
        print(json.dumps(answer), flush=True)


class Workers:
    """A process for each implementation."""

    def __enter__(self) -> "Workers":
        self.processes = {
            name: subprocess.Popen(
                [sys.executable, str(Path(__file__).resolve()), "--worker", name],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(name),
            )
            for name in IMPLEMENTATIONS
        }  # fmt: skip
        return self

    def __exit__(self, *error: object) -> None:
        for process in self.processes.values():
            process.communicate()

    def ask(self, implementation: str, name: str, step: str, wants_peak: bool = False) -> Any:
        process = self.processes[implementation]
        print(json.dumps([name, step, wants_peak]), file=process.stdin, flush=True)
        return json.loads(process.stdout.readline())  # type: ignore[union-attr]

    def row(self, name: str, step: str, rounds: int) -> dict[str, Any]:
        """Implementation -> median seconds, and "peak ..." -> bytes; an error as its text."""
        found: dict[str, Any] = {}
        for implementation in IMPLEMENTATIONS:
            first = self.ask(implementation, name, step)
            if isinstance(first, str):
                found["error"] = f"{implementation}: {first}"
            elif first is not None:
                found[implementation] = []
        for _ in range(rounds):
            for implementation in [i for i in IMPLEMENTATIONS if i in found]:
                found[implementation].append(self.ask(implementation, name, step))
        for implementation in [i for i in IMPLEMENTATIONS if i in found]:
            found[f"rounds {implementation}"] = found[implementation]
            found[implementation] = statistics.median(found[implementation])
            if implementation != "floor":
                found[f"peak {implementation}"] = self.ask(implementation, name, step, True)
        return found


def as_table(rows: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Markdown; ratios above 1: normzoo takes less time."""
    lines = [
        "| norm, shape | step | normzoo, ms | PyTorch / | pages kept / | compiled / | of the floor | peak, MB | PyTorch | compiled |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    from zoo_composites import PEERS

    for name, steps in rows.items():
        for step, row in steps.items():
            if "normzoo" not in row:
                continue
            ratios = [f"{row[i] / row['normzoo']:.2f}" if i in row else "" for i in IMPLEMENTATIONS[1:]]
            peaks = [row.get(f"peak {i}") for i in ("normzoo", "torch", "inductor")]
            shown = ["" if p is None else f"{p / 1e6:.0f}" for p in peaks]
            said = f"{name} {'x'.join(map(str, PEERS[name].shape))}", "forward" if step == "forward" else "and backward"
            time = f"{1e3 * row['normzoo']:.3f}"
            lines.append(f"| {' | '.join([*said, time, *ratios, *shown])} |")
    return "\n".join(lines)


def means(rows: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Geometric means of the ratios, and which are below 0.95."""
    said = []
    for peer, shown in (("torch", "eager"), ("torch kept", "eager with pages kept"), ("inductor", "compiled")):
        found = {
            f"{name} {step}": row[peer] / row["normzoo"]
            for name, steps in rows.items() for step, row in steps.items() if peer in row and "normzoo" in row
        }  # fmt: skip
        if found:
            slower = ", ".join(key for key, ratio in found.items() if ratio < 0.95) or "none"
            said.append(
                f"Against PyTorch {shown}: {statistics.geometric_mean(found.values()):.2f} times as fast in the "
                f"geometric mean of {len(found)}; slower (below 0.95): {slower}."
            )
    return "\n\n".join(said)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7, help="slices per implementation and cell")
    parser.add_argument("--only", default="", help="regular expression: norms to measure")
    parser.add_argument("--write", type=writable, help="write the page here")
    parser.add_argument("--json", type=writable, help="write the figures here")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker)
        return
    names = [str(name) for name in nz.list_norms() if re.search(options.only, name)]
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    with Workers() as workers:
        for name in names:
            rows[name] = {step: workers.row(name, step, options.rounds) for step in STEPS}
            times = {
                step: {i: f"{1e3 * row[i]:.3f}" for i in IMPLEMENTATIONS if i in row}
                for step, row in rows[name].items()
            }
            print(name, times, file=sys.stderr, flush=True)
    about = describe([*IMPLEMENTATIONS])
    errors = [
        f"- {name}, {step}: {row['error']}" for name, s in rows.items() for step, row in s.items() if "error" in row
    ]
    command = f"python asv_benchmarks/zoo_peers.py --rounds {options.rounds}" + (
        f" --only '{options.only}'" if options.only else ""
    )
    page = "\n\n".join([
        "# The zoo's speed", f"`{command}`: {about['machine']}; {about['date']}, commit {about['commit']}; {about['versions']}.",
        "Ratios above 1: normzoo takes less time. Formulas that PyTorch has no composite for here are measured alone.",
        means(rows), as_table(rows), *(["Not measured:", "\n".join(errors)] if errors else []),
    ])  # fmt: skip
    print(page)
    if options.write:
        Path(options.write).write_text(page + "\n", encoding="utf-8")
    if options.json:
        cells = {
            f"{name} {step}": row for name, steps in rows.items() for step, row in steps.items() if "normzoo" in row
        }
        found = {cell: {i: row[f"rounds {i}"] for i in IMPLEMENTATIONS if i in row} for cell, row in cells.items()}
        peaks = {
            cell: {i: row[f"peak {i}"] for i in IMPLEMENTATIONS if f"peak {i}" in row} for cell, row in cells.items()
        }
        write_record(options.json, about | {"command": command}, found, peaks=peaks)


if __name__ == "__main__":
    main()
