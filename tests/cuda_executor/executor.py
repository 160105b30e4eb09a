"""Memory, arguments and launches: what the CUDA driver would do."""

import mmap
import platform
import sys
from dataclasses import dataclass

import numpy as np
from numba.core import types as nb

from . import analysis, scheduler
from . import runtime_ir as rt
from .build import Build, build, switch_address
from .instrument import SCRATCH
from .report import ExecutorError, Report, Traffic, describe

GUARD = 1 << 16
STACK = 1 << 18
STACK_END = 0x5AFE57AC5AFE57AC  # at the end of each stack: stacks are neighbours
NORESERVE = 0x4000  # of Linux's mmap: pages that are not touched cost nothing
TRACE_EVENTS = 1 << 24  # accesses of one block, at most
BATCH_EVENTS = 1 << 18  # the trace is read after the block that exceeds this
MAX_THREADS = 1024
MAX_SHARED = 227 * 1024


def unavailable() -> str | None:
    """Why the executor cannot run here, None where it can."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "the CUDA executor needs Linux on x86-64: its fibers switch in a few lines of assembly"
    try:
        from numba import cuda  # noqa: PLC0415

        found = getattr(cuda, "implementation", None)
    except ImportError:
        found = None
    if found != "NVIDIA":
        return "numba-cuda (NVIDIA's) is not installed: pip install 'numba-cuda>=0.30,<0.31'"
    return None


class _Process:
    """Stacks and tables, one set a process: launches follow one another."""

    def __init__(self):
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NORESERVE
        self.stacks = mmap.mmap(-1, STACK * MAX_THREADS, flags=flags)
        self.stack_base = np.frombuffer(self.stacks, np.uint8).ctypes.data
        self.stack_ends = np.frombuffer(self.stacks, np.int64)[:: STACK // 8]
        self.stack_ends[:] = STACK_END
        self.threads = np.zeros((MAX_THREADS, scheduler.COLUMNS), np.int64)
        self.shared = np.zeros(MAX_SHARED // 8 + 64, np.int64)
        self.arguments = np.zeros(1 << 12, np.int64)
        self.findings = np.zeros((4096, scheduler.FINDING_COLUMNS), np.int64)
        self.n = np.zeros(1 + analysis.N_CODES, np.int64)  # rows of findings; then, by code, how many there were
        self.builds: dict = {}
        self.scratch = np.full(SCRATCH, 0xFF, np.uint8)
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NORESERVE
        self.trace = np.frombuffer(mmap.mmap(-1, TRACE_EVENTS * 32, flags=flags), np.int64).reshape(-1, 4)


_process: list[_Process] = []


def process() -> _Process:
    """The tables, made on first use."""
    if not _process:
        _process.append(_Process())
    return _process[0]


@dataclass
class Buffer:
    """A piece of host memory that poses as device memory, between two guard zones."""

    address: int
    nbytes: int
    memory: np.ndarray
    written: np.ndarray  # by byte
    canary: int  # the bytes of the zones

    def guards(self):
        """Views of the zones before and after."""
        start = self.address - self.memory.ctypes.data
        return self.memory[:start], self.memory[start + self.nbytes :]


def _three(dims) -> np.ndarray:
    dims = (dims,) if np.isscalar(dims) else tuple(dims)
    return np.array(dims + (1,) * (3 - len(dims)), np.int64)


def flatten(type_, value) -> list:
    """The scalars that numba-cuda's ABI makes of an argument.

    An array is (address, shape) or (address, shape, strides in bytes), or a NumPy array whose memory is registered.
    """
    if isinstance(type_, nb.BaseTuple):
        return [x for t, v in zip(type_, value, strict=True) for x in flatten(t, v)]
    if isinstance(type_, nb.Array):
        if hasattr(value, "ctypes"):
            value = value.ctypes.data, value.shape, value.strides
        address, shape = value[0], tuple(value[1])
        itemsize = np.dtype(str(type_.dtype)).itemsize
        strides = value[2] if len(value) > 2 else [itemsize * int(np.prod(shape[i + 1 :])) for i in range(len(shape))]
        return [0, 0, int(np.prod(shape)), itemsize, address, *shape, *strides]
    if isinstance(type_, nb.NoneType):
        return [0]
    return [value]


def pack(llvm_types, values, out: np.ndarray) -> None:
    """Put scalars into 16-byte slots."""
    raw = out.view(np.uint8)
    if len(llvm_types) != len(values):
        raise TypeError(f"the kernel takes {len(llvm_types)} scalars after flattening, not {len(values)}")
    for i, (type_, value) in enumerate(zip(llvm_types, values, strict=True)):
        if type_ == "ptr":
            item = np.uint64(value)
        elif type_ in ("float", "double", "half"):
            item = {"float": np.float32, "double": np.float64, "half": np.float16}[type_](value)
        elif isinstance(value, np.float16):
            item = value
        else:
            bits = max(8, int(type_[1:]))
            item = np.array(int(value) & ((1 << bits) - 1), np.uint64).astype(f"u{bits // 8}")
        data = np.asarray(item).tobytes()
        raw[16 * i : 16 * i + len(data)] = np.frombuffer(data, np.uint8)


class Executor:
    """A device made of one CPU core. See the package's page."""

    def __init__(self, schedule="in order", checked=False):
        if reason := unavailable():
            raise RuntimeError(reason)
        seed = 0
        if isinstance(schedule, tuple):
            schedule, seed = schedule
        self.schedule = {"in order": 0, "reversed": 1, "random": 2}[schedule]
        self.rng = np.array([(seed * 0x9E3779B97F4A7C15 + 0x123456789ABCDEF) & (2**64 - 1) or 1], np.uint64)
        self.checked = checked
        self.collect = False
        self.buffers: dict[int, Buffer] = {}
        self.canary = 0

    # memory ---------------------------------------------------------------------------------------------------------
    def alloc(self, nbytes: int, align: int = 256) -> int:
        """Address of `nbytes` of fresh memory, filled with 0xFF (NaN)."""
        self.canary = self.canary % 250 + 1  # its own, for guard bytes copied from buffer to buffer must show
        memory = np.full(nbytes + 2 * GUARD + align, self.canary, np.uint8)
        start = -(-(memory.ctypes.data + GUARD) // align) * align
        buffer = Buffer(start, nbytes, memory, np.zeros(nbytes, np.uint8), self.canary)
        memory[start - memory.ctypes.data :][:nbytes] = 0xFF
        self.buffers[start] = buffer
        return start

    def free(self, address: int) -> None:
        """Forget a buffer; later accesses to it are out of bounds."""
        self._guard(self.buffers.pop(address))

    def _find(self, address: int, nbytes: int) -> tuple[Buffer, int]:
        for buffer in self.buffers.values():
            offset = address - buffer.address
            if 0 <= offset <= offset + nbytes <= buffer.nbytes:
                return buffer, offset
        raise ValueError(f"{nbytes} bytes at {address:#x} are in no buffer")

    def array(self, address: int, shape, dtype) -> np.ndarray:
        """The memory at an address (inside of a buffer too) as an array. Checked mode does not see what is put there."""
        shape = (shape,) if np.isscalar(shape) else tuple(shape)
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        buffer, _ = self._find(address, nbytes)
        start = address - buffer.memory.ctypes.data
        return buffer.memory[start : start + nbytes].view(dtype).reshape(shape)

    def write(self, address: int, values: np.ndarray) -> None:
        """Copy from the host."""
        values = np.asarray(values)
        self.array(address, values.shape, values.dtype)[...] = values
        self.mark_written(address, values.nbytes)

    def mark_written(self, address: int, nbytes: int) -> None:
        """The host has put data there through `array`."""
        buffer, offset = self._find(address, nbytes)
        buffer.written[offset : offset + nbytes] = 1

    def _guard(self, buffer: Buffer) -> None:
        for zone in buffer.guards():
            if (zone != buffer.canary).any():
                zone[:] = buffer.canary  # one report, not one at every launch that follows
                raise ExecutorError(
                    f"out of bounds: the guard zone of the buffer at {buffer.address:#x} was overwritten"
                )

    # launch ---------------------------------------------------------------------------------------------------------
    def build(self, kernel, signature, drop_barrier=None) -> Build:
        """Compile, or take from the process's cache."""
        function = getattr(kernel, "py_func", kernel)
        key = (function, str(signature), self.checked, drop_barrier)
        builds = process().builds
        if key not in builds:
            builds[key] = build(kernel, signature, self.checked, drop_barrier)
        return builds[key]

    def barriers(self, kernel, signature) -> int:
        """How many barriers `drop_barrier` can leave out."""
        return self.build(kernel, signature).barriers

    def launch(self, kernel, signature, grid, block, args, shared_bytes=0, drop_barrier=None) -> Report:
        """Run a kernel on all blocks of the grid."""
        from numba.cuda.core import sigutils  # noqa: PLC0415

        built = self.build(kernel, signature, drop_barrier)
        argument_types, _ = sigutils.normalize_signature(signature)
        if len(argument_types) != len(args):
            raise TypeError(f"the kernel takes {len(argument_types)} arguments, not {len(args)}")
        values = [x for t, v in zip(argument_types, args, strict=True) for x in flatten(t, v)]
        p, state = process(), rt.STATE
        pack(built.params, values, p.arguments)
        grid, dims = _three(grid), _three(block)
        if not 1 <= dims.prod() <= MAX_THREADS or (grid < 1).any():
            raise ValueError(
                f"grid {grid}, block {dims}: a block has 1 to {MAX_THREADS} threads, a grid 1 block or more"
            )
        dynamic = -(-built.static_shared // 16) * 16 + 64 * bool(built.static_shared)
        total = dynamic + shared_bytes
        if built.static_shared + shared_bytes > MAX_SHARED:
            raise ValueError(f"{built.static_shared + shared_bytes} bytes of shared memory, a block has {MAX_SHARED}")
        shared = p.shared[: -(-total // 8)]
        base = -(-p.shared.ctypes.data // 16) * 16
        shared = p.shared[(base - p.shared.ctypes.data) // 8 :][: -(-total // 8)]
        state[rt.SHARED], state[rt.SHARED_END], state[rt.DYNAMIC] = base, base + total, base + dynamic
        state[rt.DYNAMIC_BYTES], state[rt.ARGS] = shared_bytes, p.arguments.ctypes.data
        blocks = np.arange(grid.prod())
        if self.schedule == 1:
            blocks = blocks[::-1].copy()
        elif self.schedule == 2:
            scheduler.shuffle(blocks, self.rng)
        run = _Checks(self, built, shared, dynamic, shared_bytes) if self.checked else None
        return self._run(built, blocks, grid, dims, shared, run)

    def _run(self, built, blocks, grid, dims, shared, checks) -> Report:
        p, state = process(), rt.STATE
        p.n[:] = done = 0
        state[rt.TRACE], state[rt.CAPACITY], state[rt.LIMIT] = p.trace.ctypes.data, p.trace.shape[0], BATCH_EVENTS
        while done < len(blocks):
            state[rt.COUNT] = 0
            ran = scheduler.run_blocks(
                state, blocks[done:], grid, dims, self.schedule, self.rng, p.threads, shared, p.stack_base, STACK,
                switch_address(), built.start, p.findings, p.n,
            )  # fmt: skip
            if ran < 0:
                why = (
                    f"no end: a block makes more than {p.trace.shape[0]} accesses"
                    if ran == -2
                    else "stuck: no thread can go on"
                )
                raise ExecutorError(f"{why} (block {state[rt.BLOCK]}, thread {state[rt.THREAD]})")
            if (p.stack_ends != STACK_END).any():
                raise SystemError(
                    f"a thread needs more than {STACK} bytes of stack: memory of the process is overwritten"
                )
            done += ran
            if checks:
                checks.analyse()
        report = checks.report() if checks else Report()
        buffers = list(self.buffers.values())
        rows = p.findings[: min(p.n[0], len(p.findings))]
        report.findings += [describe(row, built.sites, built.accesses, buffers) for row in rows]
        for buffer in self.buffers.values():
            self._guard(buffer)
        if report.findings and not self.collect:
            text = "\n".join(str(f) for f in report.findings[:20])
            raise ExecutorError(f"{len(report.findings)} findings\n{text}", report.findings)
        return report


class _Checks:
    """Shadow memory of one launch."""

    def __init__(self, executor, built, shared, dynamic, shared_bytes):
        p, state = process(), rt.STATE
        self.buffers = list(executor.buffers.values())
        self.grain = 2 if all(a.size >= 4 and a.align >= 4 for a in built.accesses) else 1
        self.table = np.array([(b.address, b.address + b.nbytes) for b in self.buffers], np.int64).reshape(-1, 2)
        sizes = [b.nbytes + 7 & ~7 for b in self.buffers]
        self.starts = np.cumsum([0, *sizes], dtype=np.int64)
        self.written = np.zeros(self.starts[-1], np.uint8)
        for b, start in zip(self.buffers, self.starts, strict=False):
            self.written[start : start + b.nbytes] = b.written
        self.touched = np.zeros_like(self.written)
        self.cells = np.zeros((len(self.written) >> self.grain, analysis.CELL), np.int64)
        total = 8 * len(shared)
        self.valid = np.zeros(total, np.uint8)
        for offset, size in [*built.shared_arrays, (dynamic, shared_bytes)]:
            self.valid[offset : offset + size] = 1
        self.shared_written = np.zeros(total, np.uint8)
        self.shared_cells = np.zeros((total >> self.grain, analysis.CELL), np.int64)
        self.shared = int(state[rt.SHARED]), int(state[rt.SHARED]) + total
        self.aligns = np.array([a.align for a in built.accesses] or [1], np.int64)
        self.executions = np.zeros((len(self.aligns), MAX_THREADS), np.int64)
        self.counters = np.zeros((max(1, len(self.buffers)), analysis.COUNTERS), np.int64)
        self.widths = np.zeros((2, 129), np.int64)
        self.seen = np.zeros((analysis.N_CODES, len(self.aligns)), np.int64)
        state[rt.SHARED_END] = self.shared[1]
        state[rt.BUFFERS], state[rt.N_BUFFERS] = self.table.ctypes.data, len(self.buffers)
        state[rt.DUMMY] = p.scratch.ctypes.data

    def analyse(self):
        p = process()
        count = int(rt.STATE[rt.COUNT])
        slots = np.zeros((1 << max(10, (8 * count).bit_length()), 2), np.int64)
        analysis.analyse(
            p.trace, count, self.aligns, self.table, self.cells, self.written, self.touched, self.starts, self.shared,
            self.shared_cells, self.shared_written, self.valid, self.executions, slots, self.counters, self.widths,
            p.findings, p.n, self.seen, self.grain,
        )  # fmt: skip

    def report(self) -> Report:
        """Counts, and what was written is written for the launches to come."""
        report = Report()
        for b, start, counts in zip(self.buffers, self.starts, self.counters, strict=False):
            end = start + b.nbytes
            b.written[:] = self.written[start:end]
            sides = [self.touched[start:end] & bit for bit in (1, 2)]
            touched = [int(np.count_nonzero(side)) for side in sides]
            pieces = sum(len(np.unique(np.flatnonzero(side) + b.address >> 5)) for side in sides)
            traffic = report.buffers[b.address] = Traffic(*(int(c) for c in counts), *touched, pieces)
            for name, value in vars(traffic).items():
                setattr(report, name, getattr(report, name) + value)
        for name, row in zip(("widths_read", "widths_written"), self.widths, strict=True):
            setattr(report, name, {int(i): int(row[i]) for i in np.flatnonzero(row)})
        return report
