"""The driver for numba-cuda, with stand-ins for the device and for the CUDA driver's functions: what is called, with what,
and what is not. The kernels run on the executor, with the arguments that are found where the driver would read them."""

import ctypes
import gc
import inspect
import struct
import sys
import threading
import types

import numpy as np
import pytest

import normzoo as nz
from normzoo.backends import backend
from normzoo.backends.contract import Moments
from tests import check
from tests.cuda_executor import unavailable

if reason := unavailable():
    pytest.skip(reason, allow_module_level=True)

from normzoo.backends.cuda import arrays, driver, interop, numba_driver, pool
from tests.cuda_device import HostDriver, on

F32, F64 = np.dtype(np.float32), np.dtype(np.float64)


class Result(types.SimpleNamespace):
    """An error of the driver, or its success."""

    def __eq__(self, other):
        return self.name == other.name

    __hash__ = None


RESULTS = {n: Result(name=n) for n in ("CUDA_SUCCESS", "CUDA_ERROR_OUT_OF_MEMORY", "CUDA_ERROR_INVALID_CONTEXT")}


class Api:
    """`cuda.bindings.driver` on the memory of an executor; what is called is noted."""

    CUresult = types.SimpleNamespace(**RESULTS)
    CUpointer_attribute = types.SimpleNamespace(CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL="ordinal")
    CUevent_flags = types.SimpleNamespace(CU_EVENT_DISABLE_TIMING=types.SimpleNamespace(value=2))
    CUfunction = CUstream = staticmethod(int)

    def __init__(self, executor):
        self.executor, self.calls, self.capturing = executor, [], set()
        self.fails = []  # names of errors, of the next allocations
        self.compiled, self.events, self.device, self.without_context = [], 0, 0, 0

    def _done(self, name, *rest, stream=None):
        self.calls.append((name, stream))
        return (RESULTS["CUDA_SUCCESS"], *rest)

    def names(self):
        return [name for name, _ in self.calls]

    def cuMemAllocAsync(self, nbytes, stream):
        if self.fails:
            return (RESULTS[self.fails.pop(0)],)
        return self._done("alloc", self.executor.alloc(nbytes), stream=stream)

    def cuMemFreeAsync(self, address, stream):
        self.executor.free(address)
        return self._done("free", stream=stream)

    def cuMemcpyHtoDAsync(self, address, source, nbytes, stream):
        values = np.frombuffer((ctypes.c_uint8 * nbytes).from_address(source), np.uint8)
        self.executor.write(address, values)
        return self._done("to device", stream=stream)

    def cuMemcpyDtoHAsync(self, target, address, nbytes, stream):
        values = np.frombuffer((ctypes.c_uint8 * nbytes).from_address(target), np.uint8)
        values[:] = self.executor.array(address, nbytes, np.uint8)
        return self._done("to host", stream=stream)

    def cuStreamSynchronize(self, stream):
        return self._done("wait", stream=stream)

    def cuStreamIsCapturing(self, stream):
        return RESULTS["CUDA_SUCCESS"], int(stream in self.capturing)

    def cuPointerGetAttribute(self, attribute, address):
        assert attribute == "ordinal"
        return RESULTS["CUDA_SUCCESS"], self.device

    def cuEventCreate(self, flags):
        self.events += 1
        return RESULTS["CUDA_SUCCESS"], self.events

    def cuEventRecord(self, event, stream):
        return self._done("record", stream=stream)

    def cuStreamWaitEvent(self, stream, event, flags):
        return self._done("wait for event", stream=stream)

    def cuEventDestroy(self, event):
        self.events -= 1
        return (RESULTS["CUDA_SUCCESS"],)

    def cuOccupancyMaxActiveBlocksPerMultiprocessor(self, function, block, shared):
        return RESULTS["CUDA_SUCCESS"], 2

    def cuLaunchKernel(self, function, gx, gy, gz, bx, by, bz, shared, stream, places, extra):
        """As the driver does: a pointer to each argument, of as many as the kernel has."""
        if self.without_context:
            self.without_context -= 1
            return (RESULTS["CUDA_ERROR_INVALID_CONTEXT"],)
        kernel, signature = self.compiled[function - 1]
        words = [(kind, n) for kind in signature for n in range(getattr(kind, "count", 1))]
        table = (ctypes.c_void_p * len(words)).from_address(places)
        args, at = [], 0
        for kind in signature:
            of, parts = getattr(kind, "dtype", kind) if hasattr(kind, "count") else kind, []
            for _ in range(getattr(kind, "count", 1)):
                raw = ctypes.string_at(table[at], 8)
                parts.append(struct.unpack({"int64": "q", "float64": "d"}.get(str(of), "Q"), raw)[0])
                at += 1
            args.append(tuple(parts) if hasattr(kind, "count") else parts[0])
        self.executor.launch(kernel, signature, (gx, gy), bx, tuple(args), shared)
        return self._done("launch", stream=stream)


class Cuda:
    """numba.cuda with a device. Kernels are compiled, and never launched by it."""

    def __init__(self, api):
        self.api, self.bounds, self.current = api, [], 0

    def get_current_device(self):
        return types.SimpleNamespace(MULTIPROCESSOR_COUNT=4, compute_capability=(9, 0), id=0)

    def current_context(self):
        self.current += 1
        return self

    def jit(self, signature, launch_bounds):
        def compiled(kernel):
            self.bounds.append((kernel.__name__, launch_bounds))
            self.api.compiled.append((kernel, signature))
            function = types.SimpleNamespace(handle=len(self.api.compiled))
            made = types.SimpleNamespace(bind=lambda: None, library=types.SimpleNamespace(get_cufunc=lambda: function))
            return types.SimpleNamespace(overloads={signature: made})

        return compiled


@pytest.fixture
def real(monkeypatch):
    """(NumbaDriver, its device, its API)."""
    api = Api(HostDriver().executor)
    cuda = Cuda(api)
    monkeypatch.setattr(numba_driver, "import_module", lambda name: api)
    made = numba_driver.NumbaDriver(cuda)
    with driver.use(made):
        yield made, cuda, api
    nz.passes.site.forget()
    nz.passes.plan._constant.cache_clear()
    backend.cache_clear()


@pytest.fixture
def values(rng):
    return rng.standard_normal((4, 8)).astype(np.float32)


@pytest.fixture
def expected(values):
    with nz.use("reference"):
        return nz.functional.layer_norm(values, 8)


def on_stream(norm, stream):
    norm.params = {name: nz.device_array(a, stream=stream) for name, a in norm.params.items()}
    return norm


def test_it_allocates_launches_and_copies_on_the_callers_stream(real, values, expected):
    made, cuda, api = real
    x = nz.device_array(values, stream=5)
    norm = on_stream(nz.LayerNorm(8), 5)
    for _ in range(2):
        y = norm(x)
    assert "wait" not in api.names()  # nothing waits before values are asked for
    check.close(y.copy_to_host(), expected, check.FORWARD32)
    norm.backward(nz.device_array(values, stream=5))
    assert {stream for _, stream in api.calls} == {5}
    assert api.calls.count(("wait", 5)) == 1
    names = [name for name, _ in cuda.bounds]
    assert len(names) == len(set(cuda.bounds)) and "forward_kernel" in names  # once each, though it ran twice
    assert all(bounds == driver.launch_bounds(bounds[0]) for _, bounds in cuda.bounds)


def test_numba_cuda_has_what_the_driver_takes_of_it():
    """And warns of small grids where kernels are launched by it, which is why they are not."""
    from numba import cuda  # noqa: PLC0415
    from numba.core.errors import NumbaPerformanceWarning  # noqa: PLC0415
    from numba.cuda import codegen, dispatcher  # noqa: PLC0415
    from numba.cuda.cudadrv import driver as cuda_driver  # noqa: PLC0415

    assert hasattr(cuda.jit(lambda: None), "overloads")
    assert callable(dispatcher._Kernel.bind) and isinstance(
        inspect.getattr_static(dispatcher._Kernel, "library"), property
    )
    assert callable(codegen.CUDACodeLibrary.get_cufunc)
    functions = [c for n, c in vars(cuda_driver).items() if n.endswith("Function") and hasattr(c, "handle")]
    assert functions
    parameters = inspect.signature(cuda.jit).parameters
    assert "launch_bounds" in parameters or "kws" in parameters
    source = inspect.getsource(dispatcher._LaunchConfiguration.__init__)
    assert NumbaPerformanceWarning.__name__ in source and "< min_grid_size" in source


def test_a_launch_writes_what_differs_and_nothing_else(real):
    made, _, api = real

    def kernel(x, y, dims, scale): ...

    from numba.cuda import types as kinds  # noqa: PLC0415

    signature = kinds.CPointer(kinds.float32), kinds.int64, kinds.UniTuple(kinds.int64, 3), kinds.float64
    seen = []
    api.executor = types.SimpleNamespace(
        launch=lambda kernel, signature, grid, block, args, shared: seen.append((grid, block, args))
    )
    run = made.prepare(kernel, signature, (7, 2), 64, (None, -3, (1, 2, 1 << 40), None))
    run(9, (0xFFFF_FFFF_FFFF_0000, 0.1))
    run(9, (16, float("inf")))
    assert seen == [
        ((7, 2), 64, (0xFFFF_FFFF_FFFF_0000, -3, (1, 2, 1 << 40), 0.1)),
        ((7, 2), 64, (16, -3, (1, 2, 1 << 40), float("inf"))),
    ]
    assert len(api.compiled) == 1 and len(run._spare) == 1  # the memory of arguments is used again
    with pytest.raises(ValueError, match="argument"):
        made.prepare(kernel, signature, (1, 1), 32, (None, 1))


def test_threads_that_launch_at_once_have_arguments_of_their_own(real):
    made, _, api = real

    def kernel(x): ...

    from numba.cuda import types as kinds  # noqa: PLC0415

    run = made.prepare(kernel, (kinds.int64,), (1, 1), 32, (None,))
    both, seen = threading.Barrier(2), []

    def launch(kernel, signature, grid, block, args, shared):
        both.wait(10)  # both have written their arguments

    api.executor = types.SimpleNamespace(launch=launch)
    plain = api.cuLaunchKernel

    def reading(*args):
        both.wait(10)
        word = ctypes.c_void_p.from_address(args[9]).value
        seen.append(struct.unpack("q", ctypes.string_at(word, 8))[0])
        return plain(*args)

    api.cuLaunchKernel = reading
    workers = [threading.Thread(target=run, args=(0, (i,))) for i in (1, 2)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert sorted(seen) == [1, 2]


def test_the_first_launch_of_a_thread_makes_the_context_current(real):
    made, cuda, api = real

    def kernel(x): ...

    from numba.cuda import types as kinds  # noqa: PLC0415

    api.executor = types.SimpleNamespace(launch=lambda *a: None)
    run = made.prepare(kernel, (kinds.int64,), (1, 1), 32, (1,))
    before, api.without_context = cuda.current, 1
    run(0, ())
    assert cuda.current == before + 1 and api.names().count("launch") == 1
    api.without_context = 2
    with pytest.raises(RuntimeError, match="CUDA_ERROR_INVALID_CONTEXT"):
        run(0, ())


# memory -----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("nbytes", [1, 512, 513, 4097, 10**6, (1 << 20) + 1, 3 * (1 << 30) + 5])
def test_pieces_are_at_most_an_eighth_too_large(nbytes):
    size = pool.size_of(nbytes)
    assert size >= nbytes and size % 512 == 0
    assert size - nbytes < max(512, nbytes / 8)
    assert pool.size_of(size) == size


def test_memory_is_used_again_on_its_stream_without_the_driver(real):
    made, _, api = real
    first = made.alloc(1000, 5)
    address = first.address
    del first
    assert "free" not in api.names()
    again, other = made.alloc(1020, 5), made.alloc(1000, 6)
    assert again.address == address != other.address
    assert api.names().count("alloc") == 2


def test_where_no_memory_is_left_what_is_kept_is_given_back_and_pytorch_asked(real, monkeypatch):
    made, _, api = real
    emptied = []
    torch = types.SimpleNamespace(cuda=types.SimpleNamespace(empty_cache=lambda: emptied.append(1)))
    monkeypatch.setitem(sys.modules, "torch", torch)
    kept = made.alloc(1000, 5)
    del kept
    api.fails = ["CUDA_ERROR_OUT_OF_MEMORY"]
    piece = made.alloc(10**6, 5)
    assert emptied == [1] and api.names().count("free") == 1 and piece.address
    api.fails = ["CUDA_ERROR_OUT_OF_MEMORY"] * 2
    with pytest.raises(MemoryError, match="no memory left on the device"):
        made.alloc(10**7, 5)
    api.fails = ["CUDA_ERROR_INVALID_CONTEXT"]
    with pytest.raises(RuntimeError, match="answered CUDA_ERROR_INVALID_CONTEXT"):
        made.alloc(10**7, 5)


# streams ----------------------------------------------------------------------------------------------------------------
def test_work_waits_for_other_streams_and_they_for_it(values):
    with on("executor") as device:
        norm = nz.LayerNorm(8).to("cuda")  # parameters on the default stream
        x = nz.device_array(values, stream=7)
        device.orders.clear()
        y = norm(x)
        assert device.orders == [(0, 7), (7, 0)] and y.stream == 7
        device.orders.clear()
        norm.backward(nz.device_array(values, stream=9))  # x, y's stream and the parameters' are others
        assert {(7, 9), (0, 9)} <= set(device.orders[:2]) and {(9, 7), (9, 0)} <= set(device.orders)
        device.orders.clear()
        nz.functional.layer_norm(nz.device_array(values), 8)
        assert not device.orders  # one stream alone
        target = nz.device_array(values, stream=3)
        target[...] = x
        assert device.orders == [(7, 3), (3, 7)]


def test_order_is_an_event_that_the_other_stream_waits_for(real):
    made, _, api = real
    made.order(5, 6)
    assert api.calls == [("record", 5), ("wait for event", 6)] and api.events == 0
    api.calls.clear()
    for first, then in ((5, 5), (0, 1), (1, 0)):
        made.order(first, then)
    assert not api.calls


def test_pytorchs_tensors_are_worked_on_on_its_current_stream(monkeypatch):
    current = types.SimpleNamespace(cuda_stream=77)
    torch = types.ModuleType("torch")
    torch.cuda = types.SimpleNamespace(current_stream=lambda device: current)
    monkeypatch.setitem(sys.modules, "torch", torch)
    with on("executor"):
        a = nz.device_array(np.zeros((2, 3), np.float32))
        # PyTorch's interface is of version 2, which has no stream
        interface = {k: v for k, v in a.__cuda_array_interface__.items() if k != "stream"} | {"version": 2}
        names = {
            "__cuda_array_interface__": interface,
            "device": types.SimpleNamespace(index=0),
            "dtype": "torch.float32",
        }
        tensor = type("Tensor", (), {**names, "__module__": "torch"})()
        assert interop.from_interface(tensor).stream == 77
        tensor.device.index = 1
        with pytest.raises(ValueError, match="got one on device 1"):
            interop.from_interface(tensor)
        tensor.device.index = 0
        assert interop.from_interface(tensor, stream=3).stream == 3


def test_arrays_of_another_device_are_refused(real, values):
    _, _, api = real
    x = nz.device_array(values)
    seen = type("Foreign", (), {"__cuda_array_interface__": x.__cuda_array_interface__})()
    assert nz.device_array(seen).address == x.address
    api.device = 1
    with pytest.raises(ValueError, match=r"arrays on device 0, .*got one on device 1; .*select_device\(1\)"):
        nz.device_array(seen)


# graphs -----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "kind", [lambda: nz.LayerNorm(8), lambda: nz.LayerNorm(8, elementwise_affine=False)], ids=["affine", "plain"]
)
def test_a_captured_call_neither_allocates_nor_waits(kind, real, values, expected):
    made, _, api = real
    x, y, dy, dx = (nz.device_array(values, stream=5) for _ in range(4))
    norm = on_stream(kind(), 5)

    def step():
        norm(x, out=y)
        norm.backward(dy, out=dx)
        norm.saved = norm.grads = None

    for _ in range(2):
        step()
    gc.collect()
    api.calls.clear()
    api.capturing.add(5)
    step()
    assert api.names() and set(api.names()) == {"launch"}
    api.capturing.clear()
    check.close(y.copy_to_host(), expected, check.FORWARD32)
    # the graph's memory is nobody else's: what comes later takes other
    captured = made._pool._captured
    assert captured
    pieces = [made.alloc(nbytes, 5) for nbytes in (96, 512) * 8]
    assert not captured & {p.address for p in pieces}


def test_a_call_that_would_need_memory_while_a_graph_is_captured_says_what_to_do(real, values):
    _, _, api = real
    x = nz.device_array(values, stream=5)
    api.capturing.add(5)
    with pytest.raises(
        RuntimeError, match=r"no new memory while a CUDA graph is captured.*make the same calls twice.*out="
    ):
        nz.functional.layer_norm(x, 8)
    api.capturing.clear()
    nz.functional.layer_norm(x, 8)


def test_while_a_graph_is_captured_other_streams_are_left_alone(real):
    made, _, api = real
    api.capturing.add(5)
    made.order(6, 5)
    made.order(5, 6)
    assert not api.calls


# what is launched -------------------------------------------------------------------------------------------------------
def launched(device):
    return [name for name, *_ in device.grids]


@pytest.mark.parametrize(
    ("norm", "shape", "folds"),
    [
        pytest.param(lambda: nz.LayerNorm(8), (9, 8), (True, 2), id="LayerNorm"),
        pytest.param(lambda: nz.RMSNorm(8), (9, 8), (True, 1), id="RMSNorm"),
        pytest.param(lambda: nz.LayerNorm(8, elementwise_affine=False), (9, 8), None, id="plain"),
        pytest.param(lambda: nz.InstanceNorm(4), (2, 4, 64), None, id="InstanceNorm", marks=pytest.mark.slow),
        pytest.param(nz.UnitNorm, (9, 40), None, id="UnitNorm", marks=pytest.mark.slow),
    ],
)
def test_sums_that_nobody_wants_are_not_folded(norm, shape, folds, rng):
    x, dy = rng.standard_normal((2, *shape)).astype(np.float32)
    with on("executor") as device:
        made = norm().to("cuda")
        made(nz.device_array(x))
        made.backward(nz.device_array(dy))
        found = [(grid[0] > 0, grid[1]) for name, grid, _ in device.grids if name == "fold_kernel"]
    assert found == ([] if folds is None else [folds])


def test_a_block_writes_one_partial_row_and_blocks_are_as_many_as_the_device_holds(rng):
    """Rows of 768 float32: four warps a block. Every warp wrote a row, as large as x in all."""
    from normzoo.backends.cuda.forms import cells_of, plan, rows_size  # noqa: PLC0415

    dims = (8192, 1, 1, 768), (1, 1, 1, 768)
    p = plan(*dims, "float32", 4, True, "backward")
    cells, grid = cells_of(p, 132 * 2)
    assert grid == 264 and p.form.teams == 4
    assert rows_size(p, grid) * 4 < 0.1 * 8192 * 768 * 4
    few, grid_of_few = cells_of(plan((6, 1, 1, 768), dims[1], "float32", 4, True, "backward"), 264)
    assert grid_of_few == 2  # no block without work


@pytest.mark.parametrize(
    ("view", "parameters", "each"),
    [
        ((8192, 1, 1, 768), (1, 1, 1, 768), 32),
        ((65536, 1, 64, 8), (1, 1, 64, 1), 1),
        ((1024, 1, 64, 8), (1, 1, 64, 1), 8),
        ((64, 32, 1, 784), (32, 32, 1, 1), 1),
        ((1, 4096, 512, 1), (1, 1, 512, 1), 32),
    ],
    ids=str,
)
def test_warps_read_neighbours_when_they_sum(view, parameters, each):
    """The threads of a warp of `fold` touch as few sectors as their values need, or one output has so many values that
    each block sums one."""
    from normzoo.backends.cuda.forms import cells_of, fold_of, plan, sums_of  # noqa: PLC0415

    p = plan(view, parameters, "float32", 4, True, "backward")
    cells, _ = cells_of(p, 264)
    outputs = int(np.prod(parameters))
    found, rank, axes = sums_of(fold_of(p, cells), outputs)
    assert found == each
    o1, o2, q, s0, s1, s2, s3, a0, a1, a2, t0, t1, t2 = axes[:13]
    item = 8 if p.form.varies == "set" else 4

    def place_of(o, h):
        row, column = o // o2, o % o2
        first = row // o1 * s0 + row % o1 * s1 + column // q * s2 + column % q * s3
        outer = h // a2
        return first + outer // a1 * t0 + outer % a1 * t1 + h % a2 * t2

    number = a0 * a1 * a2
    lanes = [place_of(t % found, t // found) * item for t in range(32) if t // found < number]
    sectors, needed = {a // 32 for a in lanes}, -(-len(lanes) * item // 32)
    assert len(sectors) <= needed + 1 or (found == 1 and number >= 64 * 256)


def test_many_pieces_are_merged_by_a_block_and_by_no_lane_alone():
    """The most steps that a thread of `merge_sums` makes over the pieces of a set: parts over threads."""
    from normzoo.backends.cuda.forms import entries_of, merge_team, plan  # noqa: PLC0415

    for view, parameters in (((1, 4_000_000, 8, 1), (1, 1, 8, 1)), ((2, 1, 1, 512**3), (1, 1, 1, 1))):
        p = plan(view, parameters, "float32", 4, True, "backward")
        entries = entries_of(p, view[0] * view[2])
        assert entries[2] == 1 and entries[1] > 7000  # one column a set: no loop over all pieces
        assert merge_team(entries) == 256 and entries[1] / 256 < 0.01 * view[1] * view[3] / 256
    p = plan((1, 4096, 64, 1), (1, 1, 64, 1), "float32", 4, True, "backward")
    assert merge_team(entries_of(p, 64)) == 32


def test_a_dense_copy_moves_16_bytes_at_a_time(rng):
    from tests.test_cuda_kernels import put  # noqa: PLC0415

    values = rng.standard_normal((64, 32)).astype(np.float32)
    device = HostDriver(checked=True)
    with driver.use(device):
        a = put(values)
        check.same_bits(a.astype(np.float64).copy_to_host(), values.astype(np.float64))
        (name, report, _) = device.launches[-1]
        assert name == "cast_kernel" and set(report.widths_read) == {16} == set(report.widths_written)
        check.same_bits(a.transpose((1, 0)).copy().copy_to_host(), np.ascontiguousarray(values.T))
        assert device.launches[-1][0] == "copy_kernel"
        b = arrays.full((3, 5), 2.5, np.float16)
        assert (b.copy_to_host() == 2.5).all() and device.launches[-1][0] == "fill_kernel"
        turned = b.transpose((1, 0))
        turned[...] = -1
        assert (b.copy_to_host() == -1).all()


def test_backward_gives_what_is_asked_for(rng):
    """None for dweight or dbias, of which the contract says that they may be left out."""
    run = backend("cuda").backward((6, 1, 1, 8), (1, 1, 1, 8), Moments(), F32, F32)
    x, dy = rng.standard_normal((2, 6, 1, 1, 8)).astype(np.float32)
    w = np.ones((1, 1, 1, 8), np.float32)
    stats = rng.uniform(0.5, 2, (3, 6, 1))
    with driver.use(HostDriver()):
        results = []
        for wanted in ((True, True), (True, False), (False, True), (False, False)):
            v, d, p, s = (nz.device_array(a) for a in (x, dy, w, stats))
            dx = arrays.empty(x.shape, F32)
            grads = [arrays.empty(w.shape, F32) if asked else None for asked in wanted]
            run(d, v, s, p, 1e-5, dx, *grads)
            results.append([None if a is None else a.copy_to_host() for a in (dx, *grads)])
    assert backend("cuda").gives_some and not backend("reference").gives_some
    for found in results[1:]:
        for a, e in zip(found, results[0], strict=True):
            if a is not None:
                check.same_bits(a, e)
