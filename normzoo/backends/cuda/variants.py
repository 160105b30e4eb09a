"""All kinds of kernels that the launcher can request, without running any: for checks of the machine code."""

from collections.abc import Iterator
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from normzoo.backends.activations import activation
from normzoo.backends.around import ALONE, Around, Beside, BesideBack
from normzoo.backends.contract import Dims, Moments
from normzoo.backends.cuda import driver, launcher
from normzoo.backends.cuda.arrays import DeviceArray

Shown = tuple[Dims, Dims]

# Views and parameter views that reach every form: rows with all team sizes, whole and in pieces, and runs; also
# columns.
ROWS: tuple[Shown, ...] = (
    ((64, 1, 1, 64), (1, 1, 1, 64)),
    ((64, 1, 1, 128), (1, 1, 1, 128)),
    ((64, 1, 1, 1024), (1, 1, 1, 1024)),
    ((64, 1, 1, 4096), (1, 1, 1, 4096)),
    ((64, 1, 1, 8192), (1, 1, 1, 8192)),
    ((64, 1, 1, 32768), (1, 1, 1, 32768)),
    ((4, 1, 1, 1 << 17), (1, 1, 1, 1 << 17)),
    ((8, 1, 64, 3136), (1, 1, 64, 1)),
    ((64, 2, 1, 784), (32, 2, 1, 1)),
    ((32, 64, 8, 8), (1, 1, 8, 8)),
    ((1, 32, 64, 3136), (1, 1, 64, 1)),
)
COLUMNS: tuple[Shown, ...] = (
    ((1, 64, 512, 49), (1, 1, 512, 1)),
    ((1, 32, 512, 1), (1, 1, 512, 1)),
    ((1, 4096, 512, 1), (1, 1, 512, 1)),
    ((8, 64, 784, 1), (1, 64, 1, 1)),
    ((8, 256, 64, 1), (1, 256, 64, 1)),
)
ODD: tuple[Shown, ...] = (
    ((64, 1, 1, 1001), (1, 1, 1, 1001)),
    ((64, 1, 1, 32765), (1, 1, 1, 32765)),
    ((1, 32, 64, 3137), (1, 1, 64, 1)),
    ((8, 64, 7, 1), (1, 64, 7, 1)),
)
FEW = (ROWS[2], ROWS[5], ROWS[10], COLUMNS[2], COLUMNS[4])

# What stands around: a residual and a branch behind, a gate behind, and a gate first.
ADDED = Around(residual=True, behind="add", activation=activation("relu"))
GATED = Around(behind="gate", activation=activation("silu"))
FIRST = Around(gate_first=True, activation=activation("gelu"))

# (dtype, storage, views, offset of x from a multiple of 16 bytes, in values; what stands around)
SHOWN: tuple[tuple[str, str, tuple[Shown, ...], int, Around], ...] = (
    ("float32", "float32", (*ROWS, *COLUMNS, *ODD), 0, ALONE),
    ("float32", "float32", FEW, 1, ALONE),
    ("float32", "float16", FEW, 0, ALONE),
    ("float32", "bfloat16", FEW, 0, ALONE),
    ("float64", "float64", FEW, 0, ALONE),
    ("float32", "float32", FEW[:4], 0, ADDED),
    ("float32", "bfloat16", (ROWS[2], COLUMNS[2]), 0, ADDED),
    ("float32", "bfloat16", (ROWS[2], COLUMNS[1]), 0, GATED),
    ("float32", "float32", (ROWS[2], COLUMNS[1]), 0, FIRST),
)


class Variant(NamedTuple):
    """A kernel and the signature for which it is compiled."""

    name: str
    kernel: Any
    signature: tuple
    block: int


def variants() -> Iterator[Variant]:
    """Every kind of kernel, once."""
    recorder = _Recorder()
    with driver.use(recorder):
        for dtype, store, views, offset, around in SHOWN:
            stored = np.dtype(import_module("ml_dtypes").bfloat16 if store == "bfloat16" else store)
            for dims, parameters in views:
                recorder.label = store
                _record(dims, parameters, np.dtype(dtype), stored, offset, around)
    yield from recorder.variants.values()


class _Nowhere(NamedTuple):
    address: int = 1 << 20


class _Recorder(driver.Driver):
    """A driver that runs nothing, and records what it was asked to run."""

    multiprocessors, capability = 132, (9, 0)

    def __init__(self) -> None:
        self.variants: dict[tuple, Variant] = {}
        self.label = ""

    def alloc(self, nbytes: int, stream: int) -> Any:
        return _Nowhere()

    def launch(
        self, kernel: Any, signature: tuple, grid: Any, block: int, shared_bytes: int, stream: int, args: tuple
    ) -> None:
        del grid, shared_bytes, stream, args
        dtypes = self.label
        if isinstance(kernel.form, str):
            dtypes = " ".join(str(t.dtype) for t in signature[:2])
        name = f"{kernel.__name__.removesuffix('_kernel')} {kernel.form} {dtypes}"
        self.variants.setdefault((kernel, signature), Variant(name, kernel, signature, block))

    def resident(self, kernel: Any, signature: tuple, block: int) -> int:
        return 2

    def order(self, first: int, then: int) -> None: ...

    def to_device(self, address: int, values: np.ndarray, stream: int) -> None: ...

    def to_host(self, values: np.ndarray, address: int, stream: int) -> None: ...


def _record(dims: Dims, parameters: Dims, dtype: np.dtype, store: np.dtype, offset: int, around: Around) -> None:
    """Request every pass over a view."""
    x: Any
    y: Any
    weight: Any
    dweight: Any
    x, y = (DeviceArray((1 << 20) + offset * store.itemsize, dims, store) for _ in range(2))
    weight, dweight = (DeviceArray(1 << 20, parameters, dtype) for _ in range(2))
    beside, back = Beside(x, y, x), BesideBack(weight, x, y, x)
    stats = launcher.forward(dims, parameters, Moments(), dtype, store, around)(x, weight, weight, 1e-5, y, beside)
    launcher.apply(dims, parameters, dtype, store, around)(x, stats, weight, weight, y, beside)
    going_back = around if around == ALONE else around._replace(residual=False, ds=True)
    run = launcher.backward(dims, parameters, Moments(), dtype, store, going_back)
    run(y, x, stats, weight, 1e-5, y, dweight, dweight, back)
