"""Arrays of other libraries, and the driver: with stand-ins for CuPy, PyTorch, JAX, numba-cuda's device and the CUDA
driver, whose memory is the executor's. The ways in and out run as they would; what the libraries themselves do with the
interface is theirs. `pytest -m gpu` uses the libraries that are installed."""

import gc
import sys
import types
import weakref

import numpy as np
import pytest

import normzoo as nz
from normzoo.backends.cuda import driver, interop
from tests import check
from tests.cuda_executor import unavailable

if reason := unavailable():
    pytest.skip(reason, allow_module_level=True)

from tests.cuda_device import on


class Foreign:
    """An array of another library: memory of the device, and an interface to it."""

    def __init__(self, values, version=3, read_only=False, **entries):
        dense = np.ascontiguousarray(values)
        self._owner = driver.current().alloc(max(dense.nbytes, 1), 0)
        if dense.size:
            driver.current().to_device(self._owner.address, dense, 0)
        self.dtype = values.dtype
        self._interface = {
            "shape": values.shape,
            "typestr": values.dtype.str,
            "data": (self._owner.address, read_only),
            "version": version,
        } | entries

    @property
    def __cuda_array_interface__(self):
        return self._interface


class Dlpack:
    """An array that offers DLPack alone."""

    def __init__(self, values):
        self.hidden = Foreign(values)

    def __dlpack_device__(self):
        return (2, 0)

    def __dlpack__(self, *, stream=None, **options):
        return self.hidden


def library(monkeypatch, name, **more):
    """A module that makes arrays of its own from anything with the interface, without a copy."""

    class Array:
        device = types.SimpleNamespace(index=0, id=0)

        def __init__(self, interface, keep, dtype=None):
            self.__cuda_array_interface__, self.keep = interface, keep
            self.dtype = dtype or np.dtype(interface["typestr"])

        def view(self, dtype):
            typestr = {"torch.uint16": "<u2", "torch.bfloat16": "<V2"}.get(dtype) or np.dtype(dtype).str
            size = self.numel() * np.dtype(self.__cuda_array_interface__["typestr"]).itemsize // int(typestr[-1])
            changed = {"typestr": typestr} | (
                {"shape": (size,)} if len(self.__cuda_array_interface__["shape"]) == 1 else {}
            )
            return Array(self.__cuda_array_interface__ | changed, self, dtype)

        def numel(self):
            return int(np.prod(self.__cuda_array_interface__["shape"]))

        def data_ptr(self):
            return self.__cuda_array_interface__["data"][0]

        def __getitem__(self, index):
            return Array(self.__cuda_array_interface__ | {"shape": (index.stop,)}, self, self.dtype)

        def as_strided(self, shape, strides, first):
            item = int(self.__cuda_array_interface__["typestr"][-1])
            data = self.data_ptr() + first * item, False
            changed = {"shape": shape, "strides": tuple(s * item for s in strides), "data": data}
            return Array(self.__cuda_array_interface__ | changed, self, self.dtype)

    Array.__module__ = name

    def take(a, device="cuda"):
        return Array(a.__cuda_array_interface__, a)

    module = types.ModuleType(name)
    module.Array, module.asarray, module.as_tensor = Array, take, take
    module.from_dlpack = lambda a: take(a.__dlpack__())
    if name == "torch":
        module.made = []

        def empty(nbytes, dtype, device):
            found = take(Foreign(np.zeros(nbytes, np.uint8)))
            module.made.append(found)
            return found

        stream = types.SimpleNamespace(cuda_stream=more.pop("stream", 0))
        module.cuda = types.SimpleNamespace(current_stream=lambda device=None: stream, empty_cache=lambda: None)
        module.empty, module.uint8, module.float32, module.float64 = empty, np.uint8, np.float32, np.float64
    for key, value in more.items():
        setattr(module, key, value)
    monkeypatch.setitem(sys.modules, name, module)
    return module


@pytest.fixture(autouse=True)
def numba_arrays(request, monkeypatch):
    """Arrays that come back as numba-cuda's: (array, sync) of each."""
    made = []
    if not request.node.get_closest_marker("gpu"):
        as_cuda_array = lambda a, sync: (made.append((a, sync)), a)[1]  # noqa: E731
        monkeypatch.setattr(driver, "numba_cuda", lambda: types.SimpleNamespace(as_cuda_array=as_cuda_array))
    return made


@pytest.fixture
def values(rng):
    return rng.standard_normal((4, 8)).astype(np.float32)


@pytest.fixture
def expected(values):
    return nz.functional.layer_norm(values, 8)


def values_of(a):
    return interop.from_interface(a).copy_to_host()


# in ------------------------------------------------------------------------------------------------------------------
def test_the_interface_in_every_form(values, expected):
    with on("executor"):
        for array in (Foreign(values), Foreign(values, version=2), Foreign(values, strides=None, descr=[("", "<f4")])):
            check.close(
                nz.device_array(nz.functional.layer_norm(nz.device_array(array), 8)).copy_to_host(),
                expected,
                check.FORWARD32,
            )
        turned = Foreign(values.T.copy(), shape=(4, 8), strides=(4, 16))
        check.same_bits(nz.device_array(turned).copy_to_host(), values)
        backwards = Foreign(values, strides=(-32, 4))
        backwards._interface["data"] = (backwards._owner.address + 3 * 32, False)
        check.same_bits(nz.device_array(backwards).copy_to_host(), values[::-1])
        every_second = Foreign(values, shape=(4, 4), strides=(32, 8))
        check.same_bits(nz.device_array(every_second).copy_to_host(), values[:, ::2])
        empty = nz.device_array(Foreign(values[:0], data=(0, False)))
        assert empty.shape == (0, 8) and nz.functional.layer_norm(empty, 8).shape == (0, 8)


@pytest.mark.parametrize(("entry", "handle"), [(None, 0), (1, 1), (2, 2), (140_000, 140_000)])
def test_the_stream_that_the_interface_names_is_the_one_of_the_work(values, entry, handle):
    with on("executor") as device:
        x = Foreign(values, stream=entry)
        seen = []
        launch = device.launch
        device.launch = lambda k, s, g, b, n, stream, a: (seen.append(stream), launch(k, s, g, b, n, stream, a))[1]
        assert interop.from_interface(x).stream == handle
        y = nz.functional.layer_norm(nz.device_array(x), 8)
        assert set(seen) == {handle}
        assert nz.device_array(y).__cuda_array_interface__["stream"] == (handle or 1)
        assert nz.device_array(x, stream=9).stream == 9  # the caller's word counts
    for attribute in ("ptr", "cuda_stream", "handle"):
        assert interop.handle_of(types.SimpleNamespace(**{attribute: 77})) == 77
    assert interop.handle_of(types.SimpleNamespace(handle=types.SimpleNamespace(value=None))) == 0
    with pytest.raises(TypeError, match="expected a stream of Numba, CuPy or PyTorch.*got str"):
        interop.handle_of("7")


def test_what_is_read_only_is_not_written_to(values, expected):
    with on("executor"):
        x = Foreign(values, read_only=True)
        y = nz.functional.layer_norm(nz.device_array(x), 8)
        check.close(nz.device_array(y).copy_to_host(), expected, check.FORWARD32)
        with pytest.raises(ValueError, match="expected out to be writeable"):
            nz.functional.layer_norm(nz.device_array(values), 8, out=nz.device_array(x))
        check.same_bits(values_of(x), values)


def test_what_kernels_cannot_read_is_refused(values):
    with on("executor"):
        with pytest.raises(TypeError, match="without a mask"):
            nz.device_array(Foreign(values, mask=Foreign(values)))
        with pytest.raises(TypeError, match="byte order, got >f4"):
            nz.device_array(Foreign(values.astype(">f4")))
        with pytest.raises(ValueError, match="multiples of 4 bytes"):
            nz.device_array(Foreign(values, shape=(4, 4), strides=(30, 4)))
        with pytest.raises(TypeError, match="expected x of dtype float16, .*got int32"):
            nz.functional.layer_norm(nz.device_array(Foreign(values.astype(np.int32))), 8)


def test_memory_lives_as_long_as_an_array_on_it(values):
    with on("executor"):
        x = Foreign(values)
        owner = weakref.ref(x._owner)
        view = nz.device_array(x).reshape(8, 4).transpose((1, 0))
        del x
        gc.collect()
        assert owner() is not None
        check.same_bits(view.copy_to_host(), values.reshape(8, 4).T)
        del view
        gc.collect()
        assert owner() is None


# in and out, by library -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["cupy", "torch"])
def test_results_are_arrays_of_the_callers_library(name, values, expected, monkeypatch):
    module = library(monkeypatch, name)
    with on("executor"):
        x = module.asarray(Foreign(values))
        norm = nz.LayerNorm(8).to("cuda")
        y = norm(x)
        assert type(y) is module.Array
        check.close(values_of(y), expected, check.FORWARD32)
        dx = norm.backward(module.asarray(Foreign(np.ones_like(values))))
        assert type(dx) is module.Array and values_of(dx).shape == (4, 8)
        out = module.asarray(Foreign(np.zeros_like(values)))
        assert norm(x, out=out) is out
        check.close(values_of(out), expected, check.FORWARD32)


def test_bfloat16_of_pytorch_travels_as_integers_of_16_bits(values, expected, monkeypatch):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    module = library(monkeypatch, "torch", uint16="torch.uint16", bfloat16="torch.bfloat16")
    with on("executor"):
        narrow = values.astype(ml_dtypes.bfloat16)
        x = module.asarray(Foreign(narrow.view(np.uint16))).view("torch.bfloat16")
        y = nz.LayerNorm(8).to("cuda")(x)
        assert type(y) is module.Array and y.dtype == "torch.bfloat16"
        check.close(values_of(y).astype(np.float32), nz.functional.layer_norm(narrow.astype(np.float32), 8), 2.0**-7)


def test_arrays_of_numba_and_jax_come_back_as_theirs(values, expected, monkeypatch, numba_arrays):
    cupy = library(monkeypatch, "cupy")
    jax = library(monkeypatch, "jax", dlpack=types.SimpleNamespace(from_dlpack=lambda a: ("jax", a)))
    with on("executor"):
        found = nz.device_array(values)
        assert found.native("numba") is found and numba_arrays == [(found, False)]  # not waited for
        kind, of = found.native("jax")
        assert kind == "jax" and type(of) is cupy.Array
        assert found.native("") is found
        assert interop.from_interface(jax.asarray(found)).library == "jax"


@pytest.mark.parametrize("name", ["cupy", "torch"])
def test_dlpack_comes_in_through_a_library_that_reads_it(name, values, expected, monkeypatch):
    for other in ("cupy", "torch"):
        monkeypatch.setitem(sys.modules, other, None)
    library(monkeypatch, name)
    with on("executor"):
        x = Dlpack(values)
        assert interop.is_device_array(x)
        y = nz.functional.layer_norm(nz.device_array(x), 8)
        check.close(nz.device_array(y).copy_to_host(), expected, check.FORWARD32)


def test_dlpack_without_a_library_that_reads_it(values, monkeypatch):
    for other in ("cupy", "torch"):
        monkeypatch.setitem(sys.modules, other, None)
    with on("executor"), pytest.raises(TypeError, match="Dlpack offers DLPack alone, which needs CuPy or PyTorch"):
        nz.device_array(Dlpack(values))


def test_dlpack_of_the_host_is_no_device_array(values):
    class Host(Dlpack):
        def __dlpack_device__(self):
            return (1, 0)

    with on("executor"):
        assert not interop.is_device_array(Host(values))
        with pytest.raises(TypeError, match="got Host"):
            nz.device_array(Host(values))


# a device -------------------------------------------------------------------------------------------------------------
@pytest.mark.gpu
@pytest.mark.parametrize("name", ["cupy", "torch", "numba"])
def test_arrays_of_installed_libraries(name, values, expected):
    if name == "numba":
        module = driver.numba_cuda()
        make = module.to_device
    else:
        module = pytest.importorskip(name)
        make = module.asarray if name == "cupy" else lambda a: module.as_tensor(a, device="cuda")
    with on("gpu"):
        x = make(values)
        norm = nz.LayerNorm(8).to("cuda")
        y = norm(x)
        assert type(y).__module__.split(".")[0] == type(x).__module__.split(".")[0]
        check.close(values_of(y), expected, check.FORWARD32)
        if name != "numba":
            through = nz.functional.layer_norm(nz.device_array(module.from_dlpack(x)), 8)
            check.close(nz.device_array(through).copy_to_host(), expected, check.FORWARD32)
