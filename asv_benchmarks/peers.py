"""The comparison: normzoo against other libraries, and against the floor of memory, cell by cell.

    python asv_benchmarks/peers.py [--rounds 15] [--only REGEX] [--json peers.json] [--png peers.png]
    python asv_benchmarks/peers.py --fused [...]
    python asv_benchmarks/peers.py --apart [...]

The peers are PyTorch: as it is; `torch kept`, the same with an allocator that keeps its pages (MALLOC_MMAP_THRESHOLD_
and MALLOC_TRIM_THRESHOLD_ raised), which large results cost most otherwise; `inductor`, its compiler; `onednn`, its
tensors in oneDNN's layout, where it has that kernel. And JAX compiled, ONNX Runtime and OpenVINO. With --fused the cells
are norms with what stands before and behind them (residual, activation, branch, gate), the peers PyTorch in its three
ways and JAX; `normzoo apart` does the same with one pass for each step. With --apart that is all there is beside
normzoo, on arrays that no cache holds.

Every implementation runs in its own process, two threads each, called in turn; a figure is the median over the rounds
of slices of at least 20 ms. All allocate their outputs, but OpenVINO, whose request keeps them; `normzoo out=` writes
into one that exists. The floor is the time to read every input once and write every output once, by a Numba loop over
the same bytes in two threads. A peer that is not installed is named and left out. --json keeps the seconds of every
round, for the dashboard's bars. Install the peers with `pip install -e ".[bench]"`.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

THREADS = 2
SLICE = 0.02  # seconds
WARM, WARM_SECONDS = 1100, 0.25  # calls before the first slice: normzoo makes its shortcut after 1,000; at most so long


@dataclass(frozen=True)
class Cell:
    """One row of the table: what is timed. `last` is the memory's layout; the shape has its channels second."""

    norm: str
    shape: tuple[int, ...]
    direction: str
    dtype: str = "float32"
    last: bool = False
    evaluate: bool = False
    groups: int | None = None
    around: str = ""  # what stands beside x: "residual", "add" or "gate"
    activation: str | None = None

    @property
    def id(self):
        detail = [
            *([self.around] if self.around else []),
            *([self.activation] if self.activation else []),
            *(["eval"] if self.evaluate else []),
            *(["channels-last"] if self.last else []),
            *([self.dtype] if self.dtype != "float32" else []),
        ]
        return " ".join([self.norm, "x".join(map(str, self.shape)), *detail, self.direction])

    @property
    def features(self):
        return self.shape[-1] if self.norm in ("LayerNorm", "RMSNorm") else self.shape[1]

    @property
    def arrays(self):
        """How many arrays of x's size are read and written."""
        beside = bool(self.around)
        there = 1 + beside, 1 + (self.around == "residual")
        back = 2 + beside, 1 + (beside and self.around != "residual")
        if self.direction == "both":
            return there[0] + back[0], there[1] + back[1]
        return there if self.direction == "forward" else back

    def data(self):
        """x, dy of the cell's shape (memory channels-last if it is so), weight, bias: float32."""
        rng = np.random.default_rng(0)
        shape = (self.shape[0], *self.shape[2:], self.shape[1]) if self.last else self.shape
        x, dy = (rng.standard_normal(shape, dtype=np.float32) for _ in range(2))
        w, b = rng.standard_normal((2, self.features)).astype(np.float32)
        return x, dy, w, b


def cells():
    found = []

    def add(norm, *shapes, **options):
        for shape in shapes:
            for direction in ("forward", "backward"):
                found.append(Cell(norm, shape, direction, **options))

    add("BatchNorm", (32, 64, 56, 56), (128, 64, 56, 56), (64, 512, 14, 14), (64, 2048, 7, 7))
    add("BatchNorm", (32, 64, 56, 56), (64, 512, 14, 14), last=True)
    add("BatchNorm", (256, 4096))
    add("BatchNorm", (32, 64, 56, 56), evaluate=True)
    add("LayerNorm", (65536, 768), (8192, 768), (1024, 4096), (64, 1024))
    add("RMSNorm", (8192, 768), (2048, 4096))
    for last in (False, True):
        add("GroupNorm", (32, 64, 56, 56), (8, 512, 32, 32), last=last, groups=32)
    add("InstanceNorm", (16, 64, 128, 128), (2, 32, 64, 64, 64))
    for dtype in ("float16", "bfloat16"):
        add("LayerNorm", (65536, 768), dtype=dtype)
        add("RMSNorm", (8192, 768), dtype=dtype)
        add("BatchNorm", (32, 64, 56, 56), dtype=dtype)
    add("LayerNorm", (4, 64))
    add("BatchNorm", (4, 64))
    add("GroupNorm", (2, 16, 8, 8), groups=4)
    return found


def fused_cells():
    """There, and there and back: what a step of training does."""
    found = []

    def add(norm, shape, **options):
        for direction in ("forward", "both"):
            found.append(Cell(norm, shape, direction, **options))

    for dtype in ("float32", "bfloat16"):
        for evaluate in (False, True):
            options = {"dtype": dtype, "evaluate": evaluate}
            add("BatchNorm", (32, 64, 56, 56), activation="relu", **options)
            add("BatchNorm", (32, 64, 56, 56), around="add", activation="relu", **options)
        add("BatchNorm", (16, 128, 40, 40), activation="silu", dtype=dtype)
        add("LayerNorm", (8192, 768), around="residual", dtype=dtype)
        add("RMSNorm", (8192, 768), around="residual", dtype=dtype)
        add("LayerNorm", (8192, 768), activation="gelu", dtype=dtype)
        add("RMSNorm", (2048, 4096), around="gate", activation="silu", dtype=dtype)
        add("GroupNorm", (8, 512, 32, 32), activation="silu", groups=32, dtype=dtype)
        add("GroupNorm", (8, 512, 32, 32), activation="silu", groups=32, last=True, dtype=dtype)
        add("InstanceNorm", (16, 64, 128, 128), activation="relu", dtype=dtype)
    return found


def cells_past_caches():
    """Arrays of 100 MB or more: what is read again comes from memory."""
    found = []
    for direction in ("forward", "both"):
        found += [
            Cell("LayerNorm", (65536, 768), direction, around="residual"),
            Cell("RMSNorm", (65536, 768), direction, around="residual"),
            Cell("RMSNorm", (16384, 4096), direction, around="gate", activation="silu"),
            Cell("BatchNorm", (128, 64, 56, 56), direction, around="add", activation="relu"),
            Cell("GroupNorm", (64, 512, 32, 32), direction, activation="silu", groups=32),
            Cell("LayerNorm", (65536, 768), direction, activation="silu"),
        ]
    return found


# -- implementations: cell -> function to time, or None where it has none ------------------------------------


def normzoo_forward(cell: Cell) -> tuple[Callable, Any, Any]:
    """forward(x, **options), x and dy."""
    import normzoo as nz

    f = nz.functional
    x, dy, w, b = cell.data()
    if cell.dtype == "bfloat16":
        import ml_dtypes

        x, dy = x.astype(ml_dtypes.bfloat16), dy.astype(ml_dtypes.bfloat16)
    else:
        x, dy = x.astype(cell.dtype), dy.astype(cell.dtype)
    axis = {"channel_axis": -1 if cell.last else 1}
    mean, var = np.zeros_like(w), np.ones_like(w)
    forward = {
        "BatchNorm": lambda x, **o: f.batch_norm(x, mean, var, w, b, not cell.evaluate, **axis, **o),
        "LayerNorm": lambda x, **o: f.layer_norm(x, (cell.features,), w, b, **o),
        "RMSNorm": lambda x, **o: f.rms_norm(x, (cell.features,), w, 1e-6, **o),
        "GroupNorm": lambda x, **o: f.group_norm(x, cell.groups, w, b, **axis, **o),
        "InstanceNorm": lambda x, **o: f.instance_norm(
            x, *((mean, var) if cell.evaluate else (None, None)), w, b, not cell.evaluate, **axis, **o
        ),
    }[cell.norm]
    return forward, x, dy


def normzoo_calls(cell: Cell, out: bool) -> Callable | None:
    forward, x, dy = normzoo_forward(cell)
    target = {"out": np.empty_like(x)} if out else {}
    options = dict(target)
    if cell.around:
        options[cell.around] = dy.copy()
    if cell.activation:
        options["activation"] = cell.activation
    if cell.direction == "forward":
        return lambda: forward(x, **options)
    if cell.direction == "backward":
        saved = forward(x, return_saved=True)[1]
        return lambda: saved.backward(dy, **target)
    if out:
        return None
    ds = {"ds": dy.copy()} if cell.around == "residual" else {}
    return lambda: forward(x, return_saved=True, **options)[-1].backward(dy, **ds)


SCALAR = {  # value and derivative, as one writes them in a loop
    None: ("z", "1"),
    "relu": ("max(z, 0)", "(z > 0)"),
    "silu": ("z / (1 + exp(-z))", "(1 + z * (1 - 1 / (1 + exp(-z)))) / (1 + exp(-z))"),
    "gelu": (
        "z * 0.5 * (1 + erf(z * 0.7071067811865476))",
        "0.5 * (1 + erf(z * 0.7071067811865476)) + z * exp(-0.5 * z * z) * 0.3989422804014327",
    ),
}


def compiled_loop(names: Sequence[str], lines: Sequence[str], parallel: bool = True) -> Callable:
    """A function of flat arrays of these names: the lines, for each index i of the first."""
    import math

    import numba

    scope: dict = {"numba": numba, "exp": math.exp, "erf": math.erf}
    body = "".join(f"        {line}\n" for line in lines)
    exec(f"def loop({', '.join(names)}):\n    for i in numba.prange({names[0]}.size):\n{body}", scope)
    return numba.njit(parallel=parallel)(scope["loop"])


def apart_calls(cell: Cell) -> Callable | None:
    """What --fused times, with a parallel loop of its own for each step that is not the norm's."""
    if not (cell.around or cell.activation) or cell.dtype != "float32":
        return None
    plain = Cell(**asdict(cell) | {"around": "", "activation": None})
    normalize, x, dy = normzoo_forward(plain)
    beside, ds = dy.copy(), dy.copy()
    value, derivative = (f"numba.float32({text})" for text in SCALAR[cell.activation])
    there_alone = cell.direction == "forward"

    def step(names: str, line: str) -> Callable:
        """Writes the last array, which is made unless it is given."""
        loop = compiled_loop(names.split(", "), ("z = a[i]", line))

        def run(*arrays: Any) -> Any:
            given = arrays if len(arrays) == names.count(",") + 1 else (*arrays, np.empty_like(x))
            loop(*(v.reshape(-1) for v in given))
            return given[-1]

        return run

    act = step("a, o", f"o[i] = {value}")
    plus = step("a, b, o", "o[i] = a[i] + b[i]")
    times = step("a, b, o", "o[i] = a[i] * b[i]")
    turn = step("a, b, o", f"o[i] = b[i] * {derivative}")
    turn_gate = step("a, b, c, o", f"o[i] = b[i] * c[i] * {derivative}")

    def residual() -> Any:
        s = plus(x, beside)
        if there_alone:
            return s, normalize(s)
        dx = normalize(s, return_saved=True)[1].backward(dy).x
        return plus(dx, ds, dx)

    def gate() -> Any:
        v, *saved = (normalize(x),) if there_alone else normalize(x, return_saved=True)
        g = act(beside)
        y = times(v, g, v if there_alone else np.empty_like(v))
        return y if there_alone else (saved[0].backward(times(dy, g)), turn_gate(beside, dy, v))

    def behind() -> Any:
        if there_alone:
            v = normalize(x)
            v = plus(v, beside, v) if cell.around else v
            return act(v, v) if cell.activation else v
        v, saved = normalize(x, return_saved=True)
        v = plus(v, beside, v) if cell.around else v
        return act(v), saved.backward(turn(v, dy))

    return {"residual": residual, "gate": gate}.get(cell.around, behind)


def torch_forward(cell: Cell) -> tuple[Callable, list, list]:
    """A function of some tensors, these, and the gradients of what it gives."""
    import torch

    torch.set_num_threads(THREADS)
    f = torch.nn.functional
    dtype = getattr(torch, cell.dtype)
    x, dy, w, b = (torch.from_numpy(a) for a in cell.data())
    x, dy = x.to(dtype), dy.to(dtype)
    if cell.last:
        x, dy = x.movedim(-1, 1), dy.movedim(-1, 1)
    mean, var = torch.zeros_like(w), torch.ones_like(w)
    if cell.norm in ("RMSNorm", "LayerNorm") and cell.dtype != "float32":
        w, b = w.to(dtype), b.to(dtype)
    given = (mean, var) if cell.evaluate else (None, None)
    norm = {
        "BatchNorm": lambda x, w, b: f.batch_norm(x, mean, var, w, b, not cell.evaluate),
        "LayerNorm": lambda x, w, b: f.layer_norm(x, (cell.features,), w, b),
        "RMSNorm": lambda x, w, b: f.rms_norm(x, (cell.features,), w, 1e-6),
        "GroupNorm": lambda x, w, b: f.group_norm(x, cell.groups, w, b),
        "InstanceNorm": lambda x, w, b: f.instance_norm(x, *given, w, b, not cell.evaluate),
    }[cell.norm]
    act = getattr(f, cell.activation) if cell.activation else (lambda z: z)
    function = {
        "": lambda x, w, b: act(norm(x, w, b)),
        "residual": lambda x, w, b, r: (norm(x + r, w, b), x + r),
        "add": lambda x, w, b, z: act(norm(x, w, b) + z),
        "gate": lambda x, w, b, z: norm(x, w, b) * act(z),
    }[cell.around]
    if cell.around == "residual":

        def function(x, w, b, r):
            s = x + r
            return norm(s, w, b), s

    tensors = [x, w, b, *([dy.clone()] if cell.around else [])]
    return function, tensors, [dy] * (2 if cell.around == "residual" else 1)


def torch_calls(cell: Cell, compiler: bool = False) -> Callable | None:
    import torch

    function, tensors, dys = torch_forward(cell)
    if compiler:
        function = torch.compile(function, dynamic=False)
    for t in tensors:
        t.requires_grad_()
    if cell.direction == "forward":

        def call():
            with torch.no_grad():
                return function(*tensors)

        return call
    leaves = [t for i, t in enumerate(tensors) if not (cell.norm == "RMSNorm" and i == 2)]
    if cell.direction == "backward":
        y = function(*tensors)
        return lambda: torch.autograd.grad(y, leaves, dys, retain_graph=True)
    return lambda: torch.autograd.grad(function(*tensors), leaves, dys)


def inductor_calls(cell: Cell) -> Callable | None:
    """PyTorch's compiler."""
    import torch

    if cell.direction == "backward":
        import torch._functorch.config

        torch._functorch.config.donated_buffer = False  # or a graph goes back once only
    return torch_calls(cell, compiler=True)


def onednn_calls(cell: Cell) -> Callable | None:
    """Tensors in oneDNN's layout, which PyTorch's batch norm takes forward."""
    import torch

    if (
        cell.norm != "BatchNorm"
        or cell.direction != "forward"
        or cell.dtype == "float16"
        or cell.last
        or len(cell.shape) < 4
    ):
        return None
    if not torch.backends.mkldnn.is_available():
        return None
    function, (x, w, b, *beside), _ = torch_forward(cell)
    if beside or cell.activation:
        return None
    own = x.to_mkldnn()

    def call():
        with torch.no_grad():
            return function(own, w, b)

    return call


def jax_calls(cell: Cell) -> Callable | None:
    import jax
    import jax.numpy as jnp

    x, dy, w, b = (jnp.asarray(a) for a in cell.data())
    x, dy = x.astype(cell.dtype), dy.astype(cell.dtype)
    last = cell.last or cell.norm in ("LayerNorm", "RMSNorm")
    channel = x.ndim - 1 if last else 1
    spatial = tuple(a for a in range(1, x.ndim) if a != channel)
    shape = [1] * x.ndim
    shape[channel] = -1
    w, b = w.reshape(shape), b.reshape(shape)
    constant = jnp.zeros_like(w), jnp.ones_like(w)

    def standardize(v, axes):
        v = v.astype(jnp.float32)
        mean = v.mean(axes, keepdims=True)
        return (v - mean) * jax.lax.rsqrt(jnp.square(v - mean).mean(axes, keepdims=True) + 1e-5)

    def norm(x, w, b):
        if cell.norm == "BatchNorm":
            if cell.evaluate:
                y = (x - constant[0]) * jax.lax.rsqrt(constant[1] + 1e-5)
            else:
                y = standardize(x, (0, *spatial))
        elif cell.norm == "RMSNorm":
            v = x.astype(jnp.float32)
            return (v * jax.lax.rsqrt(jnp.square(v).mean(-1, keepdims=True) + 1e-6) * w).astype(x.dtype)
        elif cell.norm == "GroupNorm":
            parts = (cell.groups, cell.features // cell.groups)
            grouped = x.reshape((*x.shape[:channel], *parts, *x.shape[channel + 1 :]))
            axes = tuple(a for a in range(1, grouped.ndim) if a != channel)
            y = standardize(grouped, axes).reshape(x.shape)
        else:
            y = standardize(x, (channel,) if cell.norm == "LayerNorm" else spatial)
        return (y * w + b).astype(x.dtype)

    act = (
        (lambda z: jax.nn.gelu(z, approximate=False))
        if cell.activation == "gelu"
        else getattr(jax.nn, cell.activation or "", lambda z: z)
    )
    function = {
        "": lambda x, w, b: act(norm(x, w, b)),
        "residual": lambda x, w, b, r: (norm(x + r, w, b), x + r),
        "add": lambda x, w, b, z: act(norm(x, w, b) + z),
        "gate": lambda x, w, b, z: norm(x, w, b) * act(z),
    }[cell.around]
    given = [x, w, b, *([dy + 0] if cell.around else [])]
    dys = (dy, dy) if cell.around == "residual" else dy
    if cell.direction == "forward":
        compiled = jax.jit(function)
        return lambda: jax.block_until_ready(compiled(*given))
    if cell.direction == "both":
        step = jax.jit(lambda dys, *a: jax.vjp(function, *a)[1](dys))
        return lambda: jax.block_until_ready(step(dys, *given))
    _, pull = jax.jit(lambda *a: jax.vjp(function, *a))(*given)
    back = jax.jit(lambda pull, dys: pull(dys))
    return lambda: jax.block_until_ready(back(pull, dys))


def onnx_model(cell: Cell) -> tuple[bytes, np.ndarray] | None:
    """A model of one node, and its input."""
    import onnx
    from onnx import TensorProto, helper

    if cell.direction != "forward" or cell.last or cell.dtype == "bfloat16" or cell.around or cell.activation:
        return None
    x, _, w, b = cell.data()
    x = x.astype(cell.dtype)
    kind = TensorProto.FLOAT16 if cell.dtype == "float16" else TensorProto.FLOAT
    weights = {"w": w.astype(cell.dtype), "b": b.astype(cell.dtype)}
    if cell.norm == "BatchNorm":
        if not cell.evaluate:  # its CPU build normalizes by given statistics only
            return None
        weights |= {"m": np.zeros_like(weights["w"]), "v": np.ones_like(weights["w"])}
        node = helper.make_node("BatchNormalization", ["x", "w", "b", "m", "v"], ["y"], epsilon=1e-5)
    elif cell.norm == "LayerNorm":
        node = helper.make_node("LayerNormalization", ["x", "w", "b"], ["y"], epsilon=1e-5)
    elif cell.norm == "RMSNorm":
        weights.pop("b")
        node = helper.make_node("RMSNormalization", ["x", "w"], ["y"], epsilon=1e-6)
    elif cell.norm == "InstanceNorm":
        node = helper.make_node("InstanceNormalization", ["x", "w", "b"], ["y"], epsilon=1e-5)
    else:
        node = helper.make_node("GroupNormalization", ["x", "w", "b"], ["y"], epsilon=1e-5, num_groups=cell.groups)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node], "norm", [value("x", kind, x.shape)], [value("y", kind, x.shape)],
        [onnx.numpy_helper.from_array(a, name) for name, a in weights.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    return model.SerializeToString(), x


def onnxruntime_calls(cell: Cell) -> Callable | None:
    import onnxruntime

    found = onnx_model(cell)
    if found is None:
        return None
    model, x = found
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception:  # an operator or type that this build does not have
        return None
    feed = {"x": x}
    return lambda: session.run(None, feed)


def openvino_calls(cell: Cell) -> Callable | None:
    import io

    import openvino

    found = onnx_model(cell)
    if found is None:
        return None
    model, x = found
    core = openvino.Core()
    try:
        read = core.read_model(io.BytesIO(model))
    except RuntimeError:  # an operator that it does not read
        return None
    options = {"INFERENCE_NUM_THREADS": THREADS, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(read, "CPU", options).create_infer_request()
    return lambda: request.infer([x], share_inputs=True, share_outputs=True)


def floor_calls(cell: Cell) -> Callable | None:
    read, written = cell.arrays
    size = int(np.prod(cell.shape)) * (4 if cell.dtype == "float32" else 2) // 4
    arrays = [np.ones(size, np.float32) for _ in range(read + written)]
    names = [f"a{i}" for i in range(read + written)]
    total = " + ".join(f"{name}[i]" for name in names[:read]) + (" + 1" if read == 1 else "")
    lines = (f"{name}[i] = t" for name in names[read:])
    loop = compiled_loop(names, (f"t = {total}", *lines), parallel=size > 65536)
    return lambda: loop(*arrays)


IMPLEMENTATIONS: dict[str, Callable] = {
    "normzoo": lambda cell: normzoo_calls(cell, out=False),
    "normzoo out=": lambda cell: normzoo_calls(cell, out=True),
    "normzoo apart": apart_calls,
    "torch": torch_calls,
    "torch kept": torch_calls,
    "inductor": inductor_calls,
    "onednn": onednn_calls,
    "jax": jax_calls,
    "onnxruntime": onnxruntime_calls,
    "openvino": openvino_calls,
    "floor": floor_calls,
}
PACKAGES = {  # that a peer needs
    "torch": "torch", "torch kept": "torch", "inductor": "torch", "onednn": "torch", "jax": "jax", "onnxruntime": "onnxruntime",
    "openvino": "openvino",
}  # fmt: skip
PEERS = tuple(PACKAGES)
FUSED = ("normzoo", "normzoo out=", "normzoo apart", "torch", "torch kept", "inductor", "jax", "floor")  # with --fused
APART = "normzoo", "normzoo out=", "normzoo apart", "floor"  # with --apart
USUAL = tuple(name for name in IMPLEMENTATIONS if name != "normzoo apart")
KEPT = {"MALLOC_MMAP_THRESHOLD_": str(1 << 32), "MALLOC_TRIM_THRESHOLD_": str(1 << 40), "MALLOC_MMAP_MAX_": "0"}


def installed(name: str) -> bool:
    try:
        importlib.metadata.version(PACKAGES.get(name, "numpy"))
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def worker(name: str) -> None:
    """Time slices of the cell that is JSON on each line of standard input. Answers are JSON too: seconds a call; null
    of an implementation that has none; or the text of an error."""
    current, call = None, None
    for line in sys.stdin:
        try:
            if line != current:
                call = None  # free the old arrays first
                fields = json.loads(line)
                call, current = IMPLEMENTATIONS[name](Cell(**fields | {"shape": tuple(fields["shape"])})), line
                if call:
                    warm(call)
            answer = None if call is None else timed(call)
        except Exception as error:
            current, answer = None, f"{type(error).__name__}: {error}"
        print(json.dumps(answer), flush=True)


def warm(call: Callable) -> None:
    """A loop over the same small arrays has its shortcut."""
    call()  # which compiles
    start = time.perf_counter()
    for _ in range(WARM):
        call()
        if time.perf_counter() - start > WARM_SECONDS:
            break


def timed(call: Callable) -> float:
    """Seconds of a call, by a slice of calls."""
    call()  # the other processes' data are in the caches
    count, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < SLICE or count < 2:
        call()
        count += 1
    return spent / count


def environment(name: str = "") -> dict[str, str]:
    """Of the process that measures an implementation: this tree's normzoo, whatever is installed; THREADS threads each,
    which sleep while they have nothing to do."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("OPENBLAS_")}
    paths = [os.path.dirname(os.path.dirname(os.path.abspath(__file__))), kept.get("PYTHONPATH")]
    return kept | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),  # the commit that `describe` names
        "OMP_WAIT_POLICY": "passive",
        "OMP_NUM_THREADS": str(THREADS),
        "NUMBA_NUM_THREADS": str(THREADS),
        "XLA_FLAGS": f"--xla_cpu_multi_thread_eigen=true intra_op_parallelism_threads={THREADS}",
        "JAX_PLATFORMS": "cpu",
        **(KEPT if name == "torch kept" else {}),
    }


class Workers:
    """A process for each implementation, which measure in turn: two pools of threads in one would wait for each other."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def __enter__(self) -> "Workers":
        self.processes = {
            name: subprocess.Popen(
                [sys.executable, os.path.abspath(__file__), "--worker", name], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, text=True, env=environment(name),
            )
            for name in self.names
        }  # fmt: skip
        return self

    def __exit__(self, *error: object) -> None:
        for process in self.processes.values():
            process.communicate()  # closes the pipes and waits

    def slice(self, name: str, cell: Cell) -> float | None:
        """Seconds of a call, None where this implementation has none; an error there is one here."""
        process = self.processes[name]
        try:
            print(json.dumps(asdict(cell)), file=process.stdin, flush=True)
            answer = json.loads(process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError):
            raise RuntimeError(f"{name}: {cell} ended its process, with status {process.wait()}") from None
        if isinstance(answer, str):
            raise ValueError(f"{name}: {cell}: {answer}")
        return answer

    def medians(self, cell: Cell, rounds: int) -> dict[str, float]:
        """Implementation -> median seconds over rounds in which each has its turn."""
        return {name: statistics.median(found) for name, found in self.rounds(cell, rounds).items()}

    def rounds(self, cell: Cell, rounds: int) -> dict[str, list[float]]:
        """Implementation -> seconds of every round."""
        times: dict[str, list[float]] = {}
        for name in self.names:
            if self.slice(name, cell) is not None:  # thrown away
                times[name] = []
        for _ in range(rounds):
            for name, found in times.items():
                found.append(self.slice(name, cell))
        return times


Rounds = dict[str, dict[str, list[float]]]  # cell -> implementation -> seconds of every round


def measure_rounds(chosen: list[Cell], names: list[str], rounds: int) -> Rounds:
    found: Rounds = {}
    with Workers(names) as workers:
        for number, cell in enumerate(chosen):
            found[cell.id] = workers.rounds(cell, rounds)
            shown = "  ".join(f"{name} {1e3 * statistics.median(t):.3f}" for name, t in found[cell.id].items())
            print(f"[{number + 1}/{len(chosen)}] {cell.id}: {shown}", file=sys.stderr)
    return found


def medians(found: Rounds) -> dict[str, dict[str, float]]:
    return {cell: {name: statistics.median(times) for name, times in row.items()} for cell, row in found.items()}


def measure(chosen: list[Cell], names: list[str], rounds: int) -> dict[str, dict[str, float]]:
    """Cell -> implementation -> median seconds."""
    return medians(measure_rounds(chosen, names, rounds))


def write_record(path: str, about: dict[str, Any], found: Rounds, **more: Any) -> None:
    """The JSON that the dashboard and the documentation read."""
    rounded = {
        cell: {name: [float(f"{t:.4g}") for t in times] for name, times in row.items()} for cell, row in found.items()
    }
    with open(path, "w", encoding="utf-8") as file:
        file.write(json.dumps({"about": about, "seconds": medians(found), **more}, indent=1)[:-2] + ',\n "rounds": {\n')
        file.write(
            ",\n".join(f"  {json.dumps(cell)}: {json.dumps(row)}" for cell, row in rounded.items()) + "\n }\n}\n"
        )


def ratios(row: dict[str, float]) -> dict[str, float]:
    """How many times faster than the fastest peer and than torch; fraction of the floor with out=."""
    peers = [row[p] for p in PEERS if p in row]
    found = {}
    if peers:
        found["fastest peer"] = min(peers) / row["normzoo"]
    if "torch" in row:
        found["torch"] = row["torch"] / row["normzoo"]
    if "normzoo apart" in row:
        found["apart"] = row["normzoo apart"] / row["normzoo"]
    if "floor" in row and "normzoo out=" in row:
        found["of the floor"] = row["floor"] / row["normzoo out="]
    return found


def as_table(table: dict[str, dict[str, float]], names: list[str]) -> str:
    """Markdown: milliseconds, and the ratios."""
    known = {column for row in table.values() for column in ratios(row)}
    columns = [c for c in ("fastest peer", "torch", "apart", "of the floor") if c in known]
    titles = [c if c == "of the floor" else f"x {c}" for c in columns]
    lines = ["| cell, ms | " + " | ".join([*names, *titles]) + " |"]
    lines.append("|---" * (1 + len(names) + len(columns)) + "|")
    for cell, row in table.items():
        found = ratios(row)
        times = [f"{1e3 * row[n]:.3f}" if n in row else "-" for n in names]
        lines.append(
            f"| {cell} | " + " | ".join([*times, *(f"{found[c]:.2f}" if c in found else "-" for c in columns)]) + " |"
        )
    for column in columns[: -1 if "of the floor" in columns else None]:
        values = [ratios(row)[column] for row in table.values() if column in ratios(row)]
        if values:
            lines.append(
                f"\nGeometric mean against {column}: {statistics.geometric_mean(values):.2f}; least {min(values):.2f}."
            )
    return "\n".join(lines)


def picture(table: dict[str, dict[str, float]], path: str, title: str) -> None:
    """Bars: how many times faster than the fastest peer."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    found = {cell: ratios(row)["fastest peer"] for cell, row in table.items() if "fastest peer" in ratios(row)}
    figure, axis = plt.subplots(figsize=(9, 0.24 * len(found) + 1.6), layout="constrained")
    labels, values = list(found)[::-1], list(found.values())[::-1]
    colors = ["#2a7f9e" if v >= 0.95 else "#d1495b" for v in values]
    axis.barh(labels, [v - 1 for v in values], left=1, color=colors, height=0.72)  # faster to the right
    for label, value in zip(labels, values, strict=True):
        side, shift = ("left", 4) if value >= 1 else ("right", -4)
        axis.annotate(
            f"{value:.2f}", (value, label), (shift, 0), textcoords="offset points", ha=side, va="center", fontsize=7
        )
    axis.axvline(1, color="#444444", linewidth=1)
    ticks = [t for t in (0.1, 0.25, 0.5, 1, 2, 4, 8, 16) if min(values) / 2 <= t <= max(values) * 2]
    axis.set(xscale="log", xlabel="times as fast as the fastest other library")
    axis.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axis.minorticks_off()
    axis.margins(x=0.12)
    axis.set_title(title, fontsize=10)
    axis.tick_params(axis="y", labelsize=7)
    axis.margins(y=0.01)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, format="png", dpi=120)


def library_commit() -> str:
    """The newest commit that touches the library, with "-dirty" where its files differ from it; "" outside a clone."""

    def git(*arguments: str) -> str:
        found = subprocess.run(
            ["git", *arguments, "--", ":/normzoo"], capture_output=True, text=True, cwd=Path(__file__).parent
        )
        return found.stdout.strip()

    commit = git("log", "--first-parent", "-1", "--format=%h")
    return f"{commit}-dirty" if commit and git("status", "--porcelain") else commit


def describe(names: list[str]) -> dict[str, str]:
    """Machine, date, commit and versions."""
    model = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    wanted = dict.fromkeys(["numpy", "numba", *(PACKAGES[name] for name in names if name in PACKAGES)])
    versions = {name: importlib.metadata.version(name) for name in wanted}
    if "onednn" in names:
        import torch

        known = re.search(r"MKL-DNN v([\d.]+)", torch.__config__.show())
        versions |= {"oneDNN": known.group(1)} if known else {}
    return {
        "machine": f"{model.group(1) if model else platform.machine()}, {os.cpu_count()} cores, {THREADS} threads",
        "date": date.today().isoformat(),
        "commit": library_commit(),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }


def writable(word: str) -> str:
    """The file of an option, which is looked at before minutes of measuring."""
    folder = os.path.dirname(word) or "."
    if os.path.isdir(word) or not os.access(word if os.path.exists(word) else folder, os.W_OK):
        raise argparse.ArgumentTypeError(f"{word} cannot be written: name a file in a folder that is there")
    return word


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15, help="slices per implementation and cell")
    parser.add_argument("--only", default="", help="regular expression: cells to measure")
    parser.add_argument("--without", default="", help="regular expression: implementations to leave out")
    parser.add_argument("--json", type=writable, help="write the figures here")
    parser.add_argument("--png", type=writable, help="draw the bar chart here")
    parser.add_argument("--fused", action="store_true", help="norms with what stands before and behind them")
    parser.add_argument(
        "--apart", action="store_true", help="these against the same with one pass for each step, past the caches"
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker)
        return
    names = []
    wanted, make_cells = USUAL, cells
    if options.fused or options.apart:
        wanted, make_cells = (FUSED, fused_cells) if options.fused else (APART, cells_past_caches)
    for name in wanted:
        if options.without and re.search(options.without, name):
            continue
        if not installed(name):
            print(f"{name} is not installed and left out", file=sys.stderr)
            continue
        names.append(name)
    chosen = [cell for cell in make_cells() if re.search(options.only, cell.id)]
    about = describe(names)
    found = measure_rounds(chosen, names, options.rounds)
    table = medians(found)
    title = f"{about['machine']}, {about['date']}, commit {about['commit']}"
    print(f"{title}; {about['versions']}; {options.rounds} rounds\n\n{as_table(table, names)}")
    if options.json:
        write_record(options.json, about | {"command": shlex.join(["python", *sys.argv])}, found)
    if options.png:
        picture(table, options.png, title)


if __name__ == "__main__":
    main()
