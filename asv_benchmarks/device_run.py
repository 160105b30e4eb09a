"""One run on a CUDA device that says all we want to know of it, in less than 8 minutes.

    python asv_benchmarks/device_run.py --out FOLDER [--only NAME ...]

Every step is a process with a time limit of its own. What it finds is written to FOLDER line by line, so that a step that
is cut short, or a machine that is taken away, leaves what was found until then:

    versions   the device, its driver, Python and the packages; the commit
    values     every norm that declares "cuda", forward and backward, against the reference in float64 on the host
    graph      a call that is captured by PyTorch and replayed; norms on two streams; the time of a call of few values
    times      passes by the device's events, medians, arrays of several times the cache: bytes a second over those of a
               copy that was measured in the same process. Peers: PyTorch, its compiler (whose kernels are Triton's), JAX
    memory     compute-sanitizer on a few norms, where it is installed
    tests      `pytest -m gpu`, by as many processes as there are processors where pytest-xdist is installed

Then FOLDER has results.json, table.md and, with matplotlib, picture.png. The exit status is 1 if a step found something
wrong or broke; a peer that is not there is named and left out.

It needs Python 3.11 to 3.14, the repository, and the packages numba, numba-cuda (with cuda-bindings), numpy, scipy,
ml_dtypes, pytest and hypothesis; torch, jax, matplotlib and pytest-xdist are used where they are. A machine that cannot
reach an index takes these as wheels: numba, llvmlite, numba-cuda, cuda-bindings, cuda-core, cuda-pathfinder, hypothesis,
sortedcontainers.

On a machine without a device it says so, runs its own steps on the executor (see tests/cuda_executor) with tiny arrays,
writes no time, and exits with 0. That needs numba-cuda, too.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]
IN_ALL = 470  # seconds
PACKAGES = [
    "normzoo",
    "numba",
    "numba-cuda",
    "cuda-bindings",
    "cuda-core",
    "numpy",
    "torch",
    "triton",
    "jax",
    "cupy-cuda13x",
    "cupy-cuda12x",
]
SHARDS = 6  # processes of the step "values": compiling takes most of its time
# (name, its time limit in seconds, how many processes share it)
STEPS = (
    ("versions", 40, 1),
    ("values", 130, SHARDS),
    ("graph", 50, 1),
    ("times normzoo", 90, 1),
    ("times torch", 40, 1),
    ("times compile", 70, 1),
    ("times jax", 40, 1),
    ("memory", 60, 1),
    ("tests", 150, 1),
)
# (norm, shape with channels second, dtype, channels-last): cuDNN's published case of RMSNorm is the second
CELLS = (
    ("RMSNorm", (32768, 4096), "float32", False),
    ("RMSNorm", (16384, 4096), "bfloat16", False),
    ("LayerNorm", (65536, 1024), "float32", False),
    ("LayerNorm", (131072, 768), "bfloat16", False),
    ("LayerNorm", (131072, 768), "float32", False),
    ("BatchNorm", (128, 256, 56, 56), "float32", False),
    ("BatchNorm", (128, 256, 56, 56), "float32", True),
    ("BatchNorm", (128, 256, 56, 56), "bfloat16", True),
    ("GroupNorm", (128, 256, 56, 56), "float32", False),
    ("InstanceNorm", (128, 256, 56, 56), "float32", False),
)
TINY = (("LayerNorm", (6, 64), "float32", False), ("RMSNorm", (6, 64), "float32", False))
GROUPS = 32


class Log:
    """Lines of JSON, each written as it is found."""

    def __init__(self, path):
        self.path = path

    def __call__(self, **found):
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(found) + "\n")
            file.flush()
            os.fsync(file.fileno())


def has_device():
    """Is there a CUDA device that numba-cuda can use?"""
    try:
        from numba import cuda
    except ImportError:
        return False
    return getattr(cuda, "implementation", None) == "NVIDIA" and cuda.is_available()


def installed(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


# the steps ----------------------------------------------------------------------------------------------------------------
def versions(log, run):
    found = {name: installed(name) for name in PACKAGES}
    log(step="versions", python=platform.python_version(), machine=platform.platform(), processors=os.cpu_count(),
        packages={k: v for k, v in found.items() if v}, date=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=said("git", "-C", str(ROOT), "rev-parse", "HEAD"))  # fmt: skip
    if run.emulated:
        return
    from normzoo.backends.cuda import driver

    device = driver.current()
    log(step="versions", multiprocessors=device.multiprocessors, capability=list(device.capability),
        device=said("nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.max.sm", "--format=csv,noheader"))  # fmt: skip


def said(*command):
    """The first line that a program prints, or None."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip().splitlines()[0] if done.returncode == 0 and done.stdout.strip() else None


def values(log, run):
    import normzoo as nz
    from tests.cuda_device import on
    from tests.zoo import ZOO

    cases = [case for case in ZOO if "cuda" in case.norm(np.float32).devices and not case.fixed]
    kinds = {}
    for case in cases:
        kinds.setdefault(type(case.norm(np.float32)), case)
    cases = list(kinds.values())[:2] if run.emulated else cases
    for case in cases[run.shard :: run.shards]:
        rng = np.random.default_rng(len(case.id))
        norm, x, inputs, dy = case.draw(rng, np.float32, mean=3.0)
        twin = case.norm(np.float64)
        state = norm.state_dict()
        twin.load_state_dict({n: a.astype(np.int64 if a.dtype.kind == "i" else np.float64) for n, a in state.items()})
        twin.train(norm.training)
        with nz.use("reference"):
            wanted = {"y": twin(x.astype(np.float64), **wide_of(inputs)), "dx": twin.backward(dy.astype(np.float64))}
        with on(run.where):
            norm.to("cuda")
            there = {name: nz.device_array(a) for name, a in inputs.items()}
            found = {"y": norm(nz.device_array(x), **there).copy_to_host()}
            found["dx"] = norm.backward(nz.device_array(dy)).copy_to_host()
            found |= {name: g.copy_to_host() for name, g in norm.grads.items()}
        wanted |= twin.grads
        errors = {}
        for name, a in found.items():
            # sums for parameters have as many terms of the size of 1, which may cancel
            least = max(1.0, x.size / a.size) if name in twin.grads else 1.0
            scale = max(least, float(np.abs(wanted[name]).max()))
            errors[name] = float(np.abs(a - wanted[name]).max() / scale)
        right = errors["y"] <= 1e-6 and all(e <= 1e-5 for e in errors.values())  # False for NaN too
        log(step="values", case=case.id, right=right, errors=errors)


def wide_of(inputs):
    return {name: a.astype(np.float64) for name, a in inputs.items()}


class Torch:
    """Arrays and clock of PyTorch."""

    def __init__(self):
        import torch

        self.torch = torch
        self.event = lambda: torch.cuda.Event(enable_timing=True)
        self.synchronize = torch.cuda.synchronize

    def array(self, shape, dtype, last=False):
        torch = self.torch
        a = torch.randn(shape, device="cuda").to(getattr(torch, dtype))
        return a.contiguous(memory_format=torch.channels_last) if last else a

    def copy(self, source, target):
        return lambda: target.copy_(source)

    @staticmethod
    def elapsed(start, stop):
        return start.elapsed_time(stop) / 1e3


class Numba:
    """Arrays of normzoo's own, and numba-cuda's clock."""

    def __init__(self):
        from numba import cuda

        self.cuda, self.event, self.synchronize = cuda, lambda: cuda.event(timing=True), cuda.synchronize

    def array(self, shape, dtype, last=False):
        import ml_dtypes

        import normzoo as nz

        kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
        order = (0, *range(2, len(shape)), 1) if last else tuple(range(len(shape)))
        a = np.random.default_rng(1).standard_normal([shape[i] for i in order], np.float32).astype(kind)
        return nz.device_array(a).transpose(tuple(int(i) for i in np.argsort(order)))

    def copy(self, source, target):
        return lambda: target.__setitem__(..., source)

    def elapsed(self, start, stop):
        return self.cuda.event_elapsed_time(start, stop) / 1e3


class Emulated(Numba):
    """The executor, which has no clock."""

    def __init__(self):
        self.event, self.synchronize = (lambda: self), (lambda: None)

    def record(self): ...

    def elapsed(self, start, stop):
        return math.nan


def median(clock, call, seconds, most=200):
    """Seconds of a call by the device's events: the median of many."""
    for _ in range(3):
        call()
    found, end = [], time.monotonic() + seconds
    while len(found) < most and (len(found) < 5 or time.monotonic() < end):
        pairs = []
        for _ in range(5):
            start, stop = clock.event(), clock.event()
            start.record()
            call()
            stop.record()
            pairs.append((start, stop))
        clock.synchronize()
        found += [clock.elapsed(*pair) for pair in pairs]
    return statistics.median(found)


def normzoo_calls(cell, clock):
    """The forward and the backward pass."""
    import normzoo as nz

    norm, shape, dtype, last = cell
    x, dy, y, dx = (clock.array(shape, dtype, last) for _ in range(4))
    w, b = (clock.array((shape[1],), "float32") for _ in range(2))
    f = nz.functional
    forward = {
        "LayerNorm": lambda **o: f.layer_norm(x, (shape[1],), w, b, **o),
        "RMSNorm": lambda **o: f.rms_norm(x, (shape[1],), w, 1e-6, **o),
        "BatchNorm": lambda **o: f.batch_norm(x, None, None, w, b, True, **o),
        "GroupNorm": lambda **o: f.group_norm(x, GROUPS, w, b, **o),
        "InstanceNorm": lambda **o: f.instance_norm(x, None, None, w, b, **o),
    }[norm]
    _, saved = forward(return_saved=True)
    return (lambda: forward(out=y)), (lambda: saved.backward(dy, out=dx))


def torch_calls(cell, clock, compiled):
    torch, (norm, shape, dtype, last) = clock.torch, cell
    x, dy = (clock.array(shape, dtype, last) for _ in range(2))
    w, b = (clock.array((shape[1],), dtype) for _ in range(2))
    f = torch.nn.functional
    apply = {
        "LayerNorm": lambda x, w, b: f.layer_norm(x, (shape[1],), w, b),
        "RMSNorm": lambda x, w, b: f.rms_norm(x, (shape[1],), w, 1e-6),
        "BatchNorm": lambda x, w, b: f.batch_norm(x, None, None, w, b, True),
        "GroupNorm": lambda x, w, b: f.group_norm(x, GROUPS, w, b),
        "InstanceNorm": lambda x, w, b: f.instance_norm(x, None, None, w, b),
    }[norm]
    apply = torch.compile(apply, dynamic=False) if compiled else apply
    wanted = [a.requires_grad_() for a in ((x, w) if norm == "RMSNorm" else (x, w, b))]
    y = apply(x, w, b)

    def forward():
        with torch.no_grad():
            apply(x, w, b)

    return forward, lambda: torch.autograd.grad(y, wanted, dy, retain_graph=True)


def times(log, run, who):
    if who in ("torch", "compile") and (run.emulated or importlib.util.find_spec("torch") is None):
        return log(step="times", who=who, left_out="PyTorch is not installed, or there is no device")
    if who == "jax":
        return times_of_jax(log, run)
    clock = Emulated() if run.emulated else Torch() if importlib.util.find_spec("torch") else Numba()
    cells, seconds = (TINY, 0.0) if run.emulated else (CELLS, 0.4)
    for cell in cells:
        norm, shape, dtype, last = cell
        size = math.prod(shape) * (2 if dtype == "bfloat16" else 4)
        try:
            source, target = (clock.array(shape, dtype) for _ in range(2))
            copy = 2 * size / median(clock, clock.copy(source, target), seconds / 4)
            del source, target
            calls = normzoo_calls(cell, clock) if who == "normzoo" else torch_calls(cell, clock, who == "compile")
            for direction, call, arrays in zip(("forward", "backward"), calls, (2, 3), strict=True):
                found = median(clock, call, seconds)
                log(step="times", who=who, norm=norm, shape=shape, dtype=dtype, last=last, direction=direction,
                    seconds=real(found), bytes_a_second=real(arrays * size / found), copy=real(copy),
                    share=real(arrays * size / found / copy))  # fmt: skip
            del calls, call
        except Exception as error:  # a cell that fails is a finding, and the next one has its turn
            log(step="times", who=who, norm=norm, shape=shape, dtype=dtype, last=last, wrong=repr(error)[:500])
    return None


def real(number):
    return None if math.isnan(number) else number


def times_of_jax(log, run):
    """By the host's clock, around many calls that follow one another: JAX gives no events."""
    try:
        import jax
        import jax.numpy as jnp

        there = any(d.platform == "gpu" for d in jax.devices())
    except (ImportError, RuntimeError):
        there = False
    if run.emulated or not there:
        return log(step="times", who="jax", left_out="JAX is not installed, or has no device")

    def layer(x, w, b):
        v = x.astype(jnp.float32)
        mean = v.mean(-1, keepdims=True)
        rstd = jax.lax.rsqrt(((v - mean) ** 2).mean(-1, keepdims=True) + 1e-5)
        return ((v - mean) * rstd * w + b).astype(x.dtype)

    def rms(x, w, b):
        v = x.astype(jnp.float32)
        return (v * jax.lax.rsqrt((v * v).mean(-1, keepdims=True) + 1e-6) * w).astype(x.dtype)

    for norm, shape, dtype, last in CELLS:
        if norm not in ("LayerNorm", "RMSNorm"):
            continue
        x, dy = (jax.random.normal(jax.random.key(i), shape).astype(dtype) for i in range(2))
        w = b = jnp.ones(shape[1])
        took = jax_seconds(jax, layer if norm == "LayerNorm" else rms, (x, w, b, dy))
        size = x.nbytes
        copy = 2 * size / took[0]
        for direction, seconds, arrays in zip(("forward", "backward"), took[1:], (2, 3), strict=True):
            log(step="times", who="jax", norm=norm, shape=shape, dtype=dtype, last=last, direction=direction,
                seconds=seconds, bytes_a_second=arrays * size / seconds, copy=copy, share=arrays * size / seconds / copy)  # fmt: skip
    return None


def jax_seconds(jax, function, arrays):
    """Seconds of a copy, the forward and the backward pass: medians of rounds of calls one after the other."""
    x, w, b, dy = arrays
    again, forward = jax.jit(lambda x: -x), jax.jit(function)
    back = jax.jit(lambda x, w, b, dy: jax.vjp(function, x, w, b)[1](dy))
    found = []
    for call, args in ((again, (x,)), (forward, (x, w, b)), (back, (x, w, b, dy))):
        jax.block_until_ready(call(*args))
        rounds = []
        for _ in range(7):
            start = time.perf_counter()
            for _ in range(20):
                last = call(*args)
            jax.block_until_ready(last)
            rounds.append((time.perf_counter() - start) / 20)
        found.append(statistics.median(rounds))
    return found


def graph(log, run):
    import normzoo as nz

    if run.emulated or importlib.util.find_spec("torch") is None:
        return log(step="graph", left_out="needs a device and PyTorch")
    import torch

    x, dy = torch.randn(64, 1024, device="cuda"), torch.randn(64, 1024, device="cuda")
    norm = nz.LayerNorm(1024).to("cuda")  # whose parameters are on the default stream
    peer = torch.nn.LayerNorm(1024, device="cuda")
    y = torch.empty_like(x)

    def seconds(call, count=1000):
        for _ in range(50):
            call()
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(count):
            call()
        torch.cuda.synchronize()
        return (time.perf_counter() - start) / count

    with torch.no_grad():
        log(step="graph", what="a call of (64, 1024)", normzoo=seconds(lambda: norm(x)), torch=seconds(lambda: peer(x)),
            normzoo_back=seconds(lambda: norm.backward(dy)))  # fmt: skip
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            norm(x, out=y)
    torch.cuda.synchronize()
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured, stream=side):
        norm(x, out=y)
    for turn in range(3):
        x.copy_(torch.randn_like(x) + turn)
        y.zero_()
        captured.replay()
        torch.cuda.synchronize()
        error = float((y - torch.nn.functional.layer_norm(x, (1024,))).abs().max())
        log(step="graph", what=f"replay {turn}", right=error <= 1e-5, error=error)
    streams = [torch.cuda.Stream() for _ in range(4)]
    big = torch.randn(8192, 1024, device="cuda")
    wanted = torch.nn.functional.layer_norm(big, (1024,))
    torch.cuda.synchronize()
    found = []
    for _ in range(20):
        for s in streams:
            with torch.cuda.stream(s):
                found.append(norm(big))
        found = found[-len(streams) :]
    torch.cuda.synchronize()
    error = max(float((a - wanted).abs().max()) for a in found)
    return log(step="graph", what="four streams", right=error <= 1e-5, error=error)


def memory(log, run):
    tool = shutil.which("compute-sanitizer")
    if run.emulated or tool is None:
        return log(step="memory", left_out="needs a device and compute-sanitizer")
    command = [tool, "--tool", "memcheck", "--error-exitcode", "77", sys.executable, "-m", "pytest", "-q", "-x", "-m",
               "gpu", str(ROOT / "tests/test_cuda.py"), "-k", "batch_norm_2d or layer_norm_last or channels_last"]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    (run.out / "memory.log").write_text(done.stdout + done.stderr, encoding="utf-8")
    return log(step="memory", right=done.returncode == 0, status=done.returncode)


def tests(log, run):
    options = ["-m", "gpu", "tests/test_cuda.py", "tests/test_cuda_arrays.py", "tests/test_cuda_zoo.py",
               "tests/test_cuda_around.py"]  # fmt: skip
    if run.emulated:
        options = ["tests/test_cuda_driver.py", "-k", "pieces_are"]
    elif importlib.util.find_spec("xdist") is not None:
        options += ["-n", str(min(12, os.cpu_count() or 1))]
    with (run.out / "tests.log").open(
        "w", encoding="utf-8"
    ) as file:  # as it comes: what is cut short has said what it found
        command = [sys.executable, "-m", "pytest", "-rfEs", "-v", "-p", "no:cacheprovider", *options]
        status = subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT).returncode
    last = (run.out / "tests.log").read_text(encoding="utf-8").strip().splitlines()[-1]
    log(step="tests", right=status == 0, status=status, summary=last)


# all of them ----------------------------------------------------------------------------------------------------------------
def one_step(run, name):
    step, _, who = name.partition(" ")
    log = Log(run.out / f"{name.replace(' ', '_')}_{run.shard}.jsonl")
    if run.emulated:
        from normzoo.backends.cuda import driver
        from tests.cuda_device import HostDriver

        with driver.use(HostDriver()):
            STEP[step](log, run, *([who] if who else []))
    else:
        STEP[step](log, run, *([who] if who else []))


STEP = {"versions": versions, "values": values, "graph": graph, "times": times, "memory": memory, "tests": tests}


def in_process(run, name, limit, shards):
    """Run a step in processes of its own; what became of them, each "done", "broke" or "cut short"."""
    shards = 1 if run.emulated else shards
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    own = [sys.executable, __file__, "--out", str(run.out), "--step", name, "--shards", str(shards)]
    own += ["--emulated"] if run.emulated else []
    end, started = time.monotonic() + limit, []
    for shard in range(shards):
        command = [*own, "--shard", str(shard)]
        with (run.out / f"{name.replace(' ', '_')}_{shard}.log").open("w", encoding="utf-8") as output:
            started.append(
                subprocess.Popen(
                    command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
                )
            )
    became = []
    for process in started:
        try:
            status = process.wait(max(0.1, end - time.monotonic()))
            became.append("done" if status == 0 else f"broke ({status})")
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)  # with all that it started
            process.wait()
            became.append("cut short")
    return became


def lines_of(out):
    """All that was found until now."""
    return [
        json.loads(line)
        for file in sorted(out.glob("*.jsonl"))
        for line in file.read_text(encoding="utf-8").splitlines()
    ]


def table_of(found, became, emulated):
    """The results in Markdown."""
    rows = [f for f in found if f["step"] == "times" and "share" in f]
    cells = {}
    for r in rows:
        key = f"{r['norm']} {tuple(r['shape'])} {r['dtype']}{' channels-last' * r['last']} {r['direction']}"
        cells.setdefault(key, {})[r["who"]] = r["share"]
    who = [w for w in ("normzoo", "torch", "compile", "jax") if any(w in c for c in cells.values())]
    text = ["# On the executor: no device is here, so no time was taken" if emulated else "# A run on a device", ""]
    text += [f"- {name}: {', '.join(sorted(set(b)))}" for name, b in became.items()]
    values_found = [f for f in found if f["step"] == "values"]
    text += ["", f"{sum(f['right'] for f in values_found)} of {len(values_found)} norms are right.", ""]
    text += [f"- {f['case']}: {f['errors']}" for f in values_found if not f["right"]]
    if cells and not emulated:
        text += ["Bytes a second over those of a copy of as many, measured in the same process.", ""]
        text += [f"| | {' | '.join(who)} |", f"|---|{'---|' * len(who)}"]
        for key, shares in cells.items():
            text.append(f"| {key} | {' | '.join('-' if shares.get(w) is None else f'{shares[w]:.2f}' for w in who)} |")
    wrong = [f for f in found if f.get("right") is False or "wrong" in f]
    text += ["", "Wrong:" if wrong else "Nothing was found wrong.", "", *(f"- {json.dumps(f)}" for f in wrong)]
    text += ["", *(f"- left out: {f['step']} {f.get('who', '')}: {f['left_out']}" for f in found if "left_out" in f)]
    return "\n".join(text) + "\n", cells, who, bool(wrong)


def picture_of(cells, who, path):
    """Shares of the copy's bandwidth, a bar for each implementation."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 1 + 0.35 * len(cells) * len(who)))
    for i, name in enumerate(who):
        places = [k + i / (len(who) + 1) for k in range(len(cells))]
        axes.barh(places, [c.get(name) or 0.0 for c in cells.values()], 1 / (len(who) + 1), label=name)
    axes.set_yticks(range(len(cells)), list(cells), fontsize=7)
    axes.set_xlabel("bytes a second, over those of a copy")
    axes.axvline(1.0, color="gray")
    axes.invert_yaxis()
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(description="One run on a CUDA device that says all we want to know of it.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=[], help="names of steps, or their first words")
    for name in ("--step", "--shard", "--shards"):
        parser.add_argument(name, help=argparse.SUPPRESS, type=str if name == "--step" else int, default=None)
    parser.add_argument("--emulated", action="store_true", help="on the executor, although there may be a device")
    run = parser.parse_args()
    run.out = run.out.resolve()
    run.out.mkdir(parents=True, exist_ok=True)
    run.shard, run.shards = run.shard or 0, run.shards or 1
    if run.step is not None:
        run.where = "executor" if run.emulated else "gpu"
        one_step(run, run.step)
        return 0
    for file in run.out.glob("*.jsonl"):
        file.unlink()
    if not run.emulated and not has_device():
        print("there is no CUDA device here, or no numba-cuda that can use it: the steps run on the executor")
        run.emulated = True
    began, became = time.monotonic(), {}
    for name, limit, shards in STEPS:
        if run.only and not any(name.startswith(only) for only in run.only):
            continue
        left = IN_ALL - (time.monotonic() - began)
        became[name] = in_process(run, name, min(limit, left), shards) if left > 5 else ["left out: no time"]
        print(f"{time.monotonic() - began:6.1f} s  {name}: {', '.join(sorted(set(became[name])))}", flush=True)
        found = lines_of(run.out)
        text, cells, who, wrong = table_of(found, became, run.emulated)
        (run.out / "table.md").write_text(text, encoding="utf-8")
        (run.out / "results.json").write_text(json.dumps({"steps": became, "found": found}, indent=1), encoding="utf-8")
    if cells and not run.emulated and importlib.util.find_spec("matplotlib"):
        picture_of(cells, who, run.out / "picture.png")
    print(text)
    return int(wrong or any(b != "done" for each in became.values() for b in each))


if __name__ == "__main__":
    sys.exit(main())
