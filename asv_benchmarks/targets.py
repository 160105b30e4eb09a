"""The promises that are not a comparison with peers, each measured and set against its target.

    python asv_benchmarks/targets.py [--only REGEX] [--rounds 9] [--json targets.json]

Prints a markdown table; --only picks sections by name: out, sixteen-bit, small, torch, import, first-call,
cached-call, memory, size, threads, floor. Every section runs in a process of its own, in two threads. What is compared
is alternated in slices of at least 30 ms, and a figure is made of the medians over the rounds; cold starts and memory
are taken in fresh processes, one for each figure. Install with `pip install -e ".[bench]"`; without PyTorch the section
torch is left out.
"""

import argparse
import importlib.metadata
import json
import re
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import peers
from peers import Cell

SLICE = 0.03  # seconds
MB = 1 << 20


class Row(NamedTuple):
    """A figure and its target."""

    figure: str
    sign: str  # "<=" or ">=": how the target bounds what is measured
    target: float
    measured: float
    unit: str = ""

    @property
    def met(self) -> bool:
        return self.measured <= self.target if self.sign == "<=" else self.measured >= self.target


def alternate(calls: dict[str, Callable], rounds: int, least: float = SLICE) -> dict[str, float]:
    """Median seconds of a call of each, over rounds in which each has its turn."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):  # the first is thrown away
        for name, call in calls.items():
            call()  # the others' data are in the caches
            count, start = 0, time.perf_counter()
            while (spent := time.perf_counter() - start) < least or count < 2:
                call()
                count += 1
            if turn:
                times[name].append(spent / count)
    return {name: statistics.median(found) for name, found in times.items()}


def fresh(
    code: str,
    *arguments: str,
    folder: str | None = None,
    cache: str | None = None,
    environment: dict[str, str] | None = None,
) -> float:
    """The number that a fresh process prints. A process that fails raises."""
    environment = (environment or peers.environment()) | ({} if cache is None else {"NUMBA_CACHE_DIR": cache})
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # or every process compiles the sources of normzoo again
    command = [sys.executable, "-c", code, *arguments]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment, cwd=folder).stdout)


def random(*shape: int) -> np.ndarray:
    """Float32 numbers, without more memory on the way; beyond 64 MB they repeat."""
    x = np.empty(shape, np.float32)
    flat, step = x.reshape(-1), 16 * MB
    np.random.default_rng(0).standard_normal(dtype=np.float32, out=flat[:step])
    for i in range(step, flat.size, step):
        flat[i : i + step] = flat[: min(step, flat.size - i)]
    return x


# -- sections: rounds -> rows --------------------------------------------------------------------------------


def out(rounds: int) -> Iterator[Row]:
    """A new output costs little more than out=: memory.py keeps the pages."""
    import normzoo as nz

    w, b = random(2, 1024)
    for size in (16, 64, 256):
        rows, images = random(size * MB // 4096, 1024), random(size, 64, 64, 64)
        forwards = {
            "LayerNorm": (rows, lambda out, x=rows: nz.functional.layer_norm(x, (1024,), w, b, out=out)),
            "BatchNorm": (
                images,
                lambda out, x=images: nz.functional.batch_norm(x, None, None, w[:64], b[:64], True, out=out),
            ),
        }
        for name, (x, forward) in forwards.items():
            y = np.ones_like(x)
            found = alternate({"new": lambda: forward(None), "out=": lambda: forward(y)}, rounds)  # noqa: B023
            yield Row(f"{name} forward of {size} MB, new output over out=", "<=", 1.25, found["new"] / found["out="])


def sixteen_bit(rounds: int) -> Iterator[Row]:
    """Half the bytes: LayerNorm of 96 MB as float32, against the same values in 16 bits."""
    shape = (32768, 768)
    for direction, target in (("forward", 1.6), ("backward", 1.4)):
        dtypes = ("float32", "float16", "bfloat16")
        calls = {d: peers.normzoo_calls(Cell("LayerNorm", shape, direction, d), out=True) for d in dtypes}
        found = alternate(calls, rounds)
        for dtype in dtypes[1:]:
            figure = f"LayerNorm {direction} {shape}, {dtype}, times as fast as float32"
            yield Row(figure, ">=", target, found["float32"] / found[dtype])


def small(rounds: int) -> Iterator[Row]:
    """What a call on a small array costs above an empty compiled one."""
    import numba

    import normzoo as nz

    f = nz.functional
    empty = numba.njit(lambda x: None)
    x, dy, (w, b), (mean, var) = random(4, 64), random(4, 64), random(2, 64), np.ones((2, 64), np.float32)
    images = random(2, 16, 8, 8)
    layers = nz.LayerNorm(64), nz.BatchNorm(64), nz.RMSNorm(64)
    group = nz.GroupNorm(4, 16)
    calls: dict[str, tuple[float, Callable]] = {
        "functional.layer_norm (4, 64)": (1.5, lambda: f.layer_norm(x, (64,), w, b)),
        "functional.batch_norm (4, 64)": (1.5, lambda: f.batch_norm(x, mean, var, w, b, True)),
        "functional.rms_norm (4, 64)": (1.5, lambda: f.rms_norm(x, (64,), w)),
        "functional.group_norm (2, 16, 8, 8)": (1.5, lambda: f.group_norm(images, 4, w[:16], b[:16])),
    }
    for norm, array, gradient in (*((layer, x, dy) for layer in layers), (group, images, images)):
        name = f"{type(norm).__name__} {array.shape}"
        calls[f"layer {name}"] = 2.5, lambda norm=norm, array=array: norm(array)
        saved = norm.forward(array)[1]
        calls[f"saved.backward of {name}"] = 2.5, lambda saved=saved, gradient=gradient: saved.backward(gradient)
    found = alternate({"empty": lambda: empty(x)} | {name: call for name, (_, call) in calls.items()}, rounds)
    for name, (target, _) in calls.items():
        yield Row(f"{name}, above an empty compiled call", "<=", target, 1e6 * (found[name] - found["empty"]), "µs")


def torch(rounds: int) -> Iterator[Row]:
    """A small call beside PyTorch's, each in a process of its own."""
    try:
        importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        print("torch is not installed and left out", file=sys.stderr)
        return
    cell = next(c for c in peers.cells() if c.id == "LayerNorm 4x64 forward")
    found = peers.measure([cell], ["normzoo", "torch"], rounds)[cell.id]
    yield Row("functional.layer_norm (4, 64), times as fast as torch's", ">=", 3, found["torch"] / found["normzoo"])


IMPORT = """
import time, numba
start = time.perf_counter()
import normzoo
print(time.perf_counter() - start)
"""
FIRST_CALL = """
import sys, time
import numpy as np
import normzoo as nz
shape = tuple(map(int, sys.argv[1:]))
x, w = np.ones(shape, np.float32), np.ones(shape[-1], np.float32)
start = time.perf_counter()
nz.functional.layer_norm(x, shape[-1:], w, w)
print(time.perf_counter() - start)
"""
TRIVIAL = "import numba\n\n\n@numba.njit(cache=True)\ndef first(x):\n    return x[0]\n"
TRIVIAL_CALL = "import numpy as np\nfrom trivial import first\nfirst(np.ones(8, np.float32))\n"
STARTS = {"serial": ("4", "64"), "parallel": ("1024", "768")}


def import_(rounds: int) -> Iterator[Row]:
    """Importing normzoo where Numba is imported already."""
    fresh(IMPORT)  # writes the bytecode
    measured = statistics.median(fresh(IMPORT) for _ in range(rounds))
    yield Row("import normzoo, above import numba", "<=", 60, 1e3 * measured, "ms")


def first_call(rounds: int) -> Iterator[Row]:
    """The first call of all: it compiles."""
    for (name, shape), target in zip(STARTS.items(), (1.5, 2.5), strict=True):
        times = []
        for _ in range(min(rounds, 5)):
            with tempfile.TemporaryDirectory() as cache:
                times.append(fresh(FIRST_CALL, *shape, cache=cache))
        yield Row(
            f"first call compiled, layer_norm ({', '.join(shape)}), {name}", "<=", target, statistics.median(times), "s"
        )


def cached_call(rounds: int) -> Iterator[Row]:
    """The first call of a process that finds its kernel on disk, above that of a trivial cached function.

    The trivial function is called first, in the same process: Numba then loads itself, which takes half a second with a
    spread wider than the figure. Subtracting one process's time from another's gave anything from -89 to 35 ms.
    """
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "trivial.py").write_text(TRIVIAL, encoding="utf-8")
        for name, shape in STARTS.items():
            times = [fresh(TRIVIAL_CALL + FIRST_CALL, *shape, folder=folder, cache=folder) for _ in range(rounds + 1)]
            measured = 1e3 * statistics.median(times[1:])  # the first compiled
            figure = (
                f"first call from the disk cache, layer_norm ({', '.join(shape)}), {name}, after a trivial function's"
            )
            yield Row(figure, "<=", 100, measured, "ms")


PEAKS = {  # layer, its arguments, shape of 256 MB, smaller first axis that runs the same kernels
    "LayerNorm": ((1024,), {}, (65536, 1024), 4096),
    "BatchNorm": ((64,), {}, (64, 64, 128, 128), 2),
    "BatchNorm channels-last": ((64,), {"channel_axis": -1}, (64, 128, 128, 64), 2),
    "GroupNorm": ((32, 64), {}, (64, 64, 128, 128), 4),
    "InstanceNorm": ((64,), {"affine": True}, (64, 64, 128, 128), 2),
}


def status(name: str) -> int:
    """Bytes of memory that /proc says this process has (VmRSS) or had at most (VmHWM)."""
    return 1024 * int(
        re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"), re.M).group(1)
    )


def peak_of(call: Callable) -> tuple[int, object]:
    """Bytes that the process had at most while it made a call, beyond those before; and the result."""
    before = status("VmRSS")
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the high-water mark is what there is now
    except OSError:  # it may include what came before, which is no less
        result = call()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before, result
    result = call()
    return status("VmHWM") - before, result


def peak(name: str) -> tuple[float, float]:
    """Memory of a forward and of a backward pass, in multiples of the array they write."""
    import normzoo as nz

    arguments, options, shape, first = PEAKS[name]
    norm = getattr(nz, name.split(maxsplit=1)[0])(*arguments, **options)
    x = random(*shape)
    dy = x.copy()
    norm.forward(x[:first])[1].backward(dy[:first])
    nz.release_memory()
    forward, (y, saved) = peak_of(lambda: norm.forward(x))
    backward, _ = peak_of(lambda: saved.backward(dy))
    return forward / y.nbytes, backward / x.nbytes


def memory(rounds: int) -> Iterator[Row]:
    """Peak memory: a forward pass has its output and statistics, a backward pass dx and partial sums."""
    code = f"import sys, json; sys.path.insert(0, {str(Path(__file__).parent)!r}); import targets; print(json.dumps(targets.peak(sys.argv[1])))"
    for name in PEAKS:
        command = [sys.executable, "-c", code, name]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=peers.environment())
        for direction, measured in zip(("forward", "backward"), json.loads(done.stdout), strict=True):
            yield Row(f"{name} {direction} of 256 MB, memory over that of the result", "<=", 1.05, measured)


def size(rounds: int) -> Iterator[Row]:
    """The time of a value does not grow with the array."""
    import normzoo as nz

    available = 1024 * int(
        re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text(encoding="utf-8")).group(1)
    )
    sizes = [s for s in (64, 256, 1024, 2048) if 2.5 * s * MB < available]
    if sizes[-1] < 2048:
        print(f"size: memory for {sizes[-1]} MB only", file=sys.stderr)
    x = random(sizes[-1] * MB // 4)
    y = np.ones_like(x)
    w, b = random(2, 1024)
    forwards = {
        "LayerNorm": lambda x, y: nz.functional.layer_norm(x.reshape(-1, 1024), (1024,), w, b, out=y.reshape(-1, 1024)),
        "BatchNorm": lambda x, y: nz.functional.batch_norm(
            x.reshape(-1, 64, 64, 64), None, None, w[:64], b[:64], True, out=y.reshape(-1, 64, 64, 64)
        ),
    }
    for name, forward in forwards.items():
        calls = {str(s): lambda n=s * MB // 4: forward(x[:n], y[:n]) for s in sizes}  # noqa: B023
        found = alternate(calls, min(rounds, 5))
        for s in sizes[1:]:
            measured = found[str(s)] / s / (found["64"] / 64)
            yield Row(f"{name} forward, out=, time per value at {s} MB over that at 64 MB", "<=", 1.5, measured)


def threads(rounds: int) -> Iterator[Row]:
    """Two threads gain what they gain for a copy of the same arrays, but for 5 % of noise.

    Of arrays that no cache holds: where a level-3 cache of 32 MB holds some of x and y, a copy is one instruction for a
    whole array, which writes lines without reading them, and how much it gains depends on who else uses that cache.
    """
    import numba

    import normzoo as nz

    @numba.njit(parallel=True)
    def copy(x, y):
        for i in numba.prange(len(x)):
            y[i] = x[i]

    w, b = random(2, 1024)
    for size in (64, 256):
        x = random(size * MB // 4096, 1024)
        y = np.ones_like(x)
        tasks = {
            "norm": lambda: nz.functional.layer_norm(x, (1024,), w, b, out=y),  # noqa: B023
            "copy": lambda: copy(x.reshape(-1), y.reshape(-1)),  # noqa: B023
        }

        def on(count, task):
            numba.set_num_threads(count)
            task()

        calls = {f"{name} {n}": lambda n=n, task=task: on(n, task) for name, task in tasks.items() for n in (1, 2)}
        found = alternate(calls, rounds)
        norm, copied = (found[f"{name} 1"] / found[f"{name} 2"] for name in ("norm", "copy"))
        figure = f"LayerNorm forward of {size} MB, gain of two threads ({norm:.2f}) over a copy's ({copied:.2f})"
        yield Row(figure, ">=", 0.95, norm / copied)


def level_2() -> int:
    """Bytes of the level-2 cache of a core; 1 MB where the system does not tell."""
    try:
        found = Path("/sys/devices/system/cpu/cpu0/cache/index2/size").read_text(encoding="utf-8")
    except OSError:
        return MB
    return int(found.strip().rstrip("K")) * 1024


def floor(rounds: int) -> Iterator[Row]:
    """Fraction of the speed at which a bare loop reads every input once and writes every output once."""
    cases = (  # and the values of a set, which a backward pass reads of two arrays
        (("LayerNorm", (65536, 768)), {}, 768),
        (("BatchNorm", (128, 64, 56, 56)), {}, 128 * 56 * 56),
        (("BatchNorm", (128, 64, 56, 56)), {"last": True}, 128 * 56 * 56 * 64),  # sets lie interleaved
        (("InstanceNorm", (16, 64, 128, 128)), {}, 128 * 128),
        (("GroupNorm", (32, 64, 128, 128)), {"groups": 32}, 2 * 128 * 128),
    )
    for arguments, options, values in cases:
        for direction in ("forward", "backward"):
            cell = Cell(*arguments, direction, **options)
            calls = {"norm": peers.normzoo_calls(cell, out=True), "floor": peers.floor_calls(cell)}
            found = alternate(calls, rounds)
            kept = 4 * values * cell.arrays[0] <= level_2()
            why = "a set stays in the L2 cache" if kept else "read twice"
            yield Row(f"{cell.id}, of the floor; {why}", ">=", 0.85 if kept else 0.6, found["floor"] / found["norm"])


SECTIONS: dict[str, Callable[[int], Iterator[Row]]] = {
    "out": out,
    "sixteen-bit": sixteen_bit,
    "small": small,
    "torch": torch,
    "import": import_,
    "first-call": first_call,
    "cached-call": cached_call,
    "memory": memory,
    "size": size,
    "threads": threads,
    "floor": floor,
}


def measure(section: str, rounds: int) -> list[Row]:
    """The rows of a section, in a process of its own."""
    command = [sys.executable, __file__, "--worker", section, "--rounds", str(rounds)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=peers.environment())
    return [Row(*row) for row in json.loads(done.stdout)]


def as_table(rows: list[Row]) -> str:
    """Markdown."""
    from tabulate import tabulate

    def shown(value: float, unit: str) -> str:
        return f"{value:.2f} {unit}".rstrip() if value < 10 else f"{value:.0f} {unit}".rstrip()

    lines = [
        (r.figure, f"{r.sign} {shown(r.target, r.unit)}", shown(r.measured, r.unit), "yes" if r.met else "**no**")
        for r in rows
    ]
    return tabulate(
        lines, ("figure", "target", "measured", "met"), "pipe", disable_numparse=True, colalign=("left", *["right"] * 3)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", help=f"regular expression: sections to measure, of {', '.join(SECTIONS)}")
    parser.add_argument("--rounds", type=int, default=9, help="slices, or fresh processes, per figure")
    parser.add_argument("--json", type=peers.writable, help="write the figures here")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(list(SECTIONS[options.worker](options.rounds))))
        return
    chosen = [section for section in SECTIONS if re.search(options.only, section)]
    if not chosen:
        parser.error(f"--only {options.only!r} matches none of {', '.join(SECTIONS)}")
    about = peers.describe([]) | {"command": shlex.join(["python", *sys.argv])}
    found = {}
    for section in chosen:
        start = time.perf_counter()
        found[section] = measure(section, options.rounds)
        print(f"{section}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    rows = [row for section in found.values() for row in section]
    print(f"{about['machine']}, {about['date']}, commit {about['commit']}; {about['versions']}\n`{about['command']}`\n")
    print(as_table(rows))
    print(f"\n{sum(row.met for row in rows)} of {len(rows)} met.")
    if options.json:
        figures = {section: [row._asdict() | {"met": row.met} for row in rows] for section, rows in found.items()}
        Path(options.json).write_text(json.dumps({"about": about, "figures": figures}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
