"""Fuzzing: bytes as state files, and anything as a node of ONNX: a clear error, bounded memory, and nothing is run.

`pytest tests/robust/test_fuzz_files.py` runs some 1,000 cases, as CI does; NORMZOO_FUZZ=100000 makes it as many.
"""

import importlib.util
import io
import json
import os
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import normzoo as nz
from tests import check

CASES = int(os.environ.get("NORMZOO_FUZZ", "1000")) // 4
drawn = settings(max_examples=max(CASES, 50), deadline=None, derandomize="NORMZOO_FUZZ" not in os.environ)
STATM = Path("/proc/self/statm")  # of Linux; elsewhere these tests run without the bound
ROOM = 1 << 30  # bytes that a case may take on top of what the process has
safetensors = pytest.mark.skipif(not importlib.util.find_spec("safetensors"), reason="safetensors is not installed")


@pytest.fixture(scope="module", autouse=True)
def bounded_memory():
    """An allocation by what a file says, and not by what it holds, ends in MemoryError, which no test expects."""
    if not STATM.exists():
        yield
        return
    import resource  # noqa: PLC0415  (there is none on Windows)

    with STATM.open() as f:
        held = int(f.read().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (held + ROOM, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


def loads_or_says_why(path):
    """Arrays, or the error of `load`; loading a norm from it is whole or not at all."""
    try:
        arrays = nz.load(path)
    except (TypeError, ValueError) as error:
        assert type(error) in (TypeError, ValueError) and str(error).startswith(f"load: {path.name}: expected"), error
        arrays = None
    else:
        assert all(type(a) is np.ndarray and not a.dtype.hasobject for a in arrays.values())
        assert all(np.array(a, copy=True).shape == a.shape for a in arrays.values())  # its memory can be read
    norm = nz.BatchNorm(3)
    before = norm.state_dict()
    try:
        nz.load(path, into=norm)
    except (TypeError, ValueError) as error:
        assert str(error).startswith(f"load: {path.name}: ")
        for name, a in norm.state_dict().items():
            check.same_bits(a, before[name])
    else:
        assert arrays is not None and all(a.dtype == before[name].dtype for name, a in norm.state_dict().items())


def whole(suffix, directory):
    """The bytes of a file as it should be."""
    path = directory / f"whole{suffix}"
    nz.save(path, {"": nz.BatchNorm(3), "head": nz.LayerNorm((2, 3))})
    return path.read_bytes()


edits = st.lists(
    st.tuples(st.sampled_from(["flip", "cut", "put", "copy"]), st.floats(0, 1), st.floats(0, 1), st.binary(min_size=1, max_size=8)),
    min_size=1,
    max_size=4,
)  # fmt: skip


def edited(data, changes):
    for kind, where, until, new in changes:
        at, end = sorted((int(where * len(data)), int(until * len(data))))
        if kind == "flip":
            data = (
                data[:at]
                + bytes(a ^ b for a, b in zip(data[at : at + len(new)], new, strict=False))
                + data[at + len(new) :]
            )
        elif kind == "cut":
            data = data[:at] + data[end if end - at < 64 else at + 64 :]
        elif kind == "put":
            data = data[:at] + new + data[at:]
        else:
            data = data[:at] + data[end : end + 64] + data[at:]
    return data


@pytest.mark.parametrize("suffix", [".npz", pytest.param(".safetensors", marks=safetensors)])
def test_a_file_of_which_bytes_were_changed(suffix, tmp_path):
    good, path = whole(suffix, tmp_path), tmp_path / f"changed{suffix}"

    @drawn
    @given(edits)
    def run(changes):
        path.write_bytes(edited(good, changes))
        loads_or_says_why(path)

    path.write_bytes(good)
    assert len(nz.load(path)) == 7
    run()


numbers = st.integers(-2, 5) | st.sampled_from([2**31, 2**40, 2**62, 2**63, 2**64, 10**30, True, None, 1.5, "3"])
headers = st.fixed_dictionaries(
    {
        "descr": st.sampled_from(["<f4", ">f8", "<f2", "|u1", "<i8", "|O", "<U3", "|S0", "|V2", "<c8", "nonsense", "<f4,<f4", "", "<M8[s]"]),
        "fortran_order": st.sampled_from([True, False, False, 1, None, "x"]),
        "shape": st.lists(numbers, max_size=3).map(tuple) | st.just(3) | st.just([3]),
    }
)  # fmt: skip
written = (
    headers.map(repr)
    | st.text(max_size=30)
    | st.sampled_from(["(" * 3000, "[" * 9000, "{}", "__import__('os').abort()", "1" * 9000])
)
names = st.sampled_from(
    ["weight", "bias", "running_mean", "running_var", "num_batches_tracked", "weight:bfloat16", "a/../b", ""]
)
members = st.lists(
    st.tuples(names, written, st.binary(max_size=40), st.sampled_from([(1, 0), (2, 0), (3, 0), (9, 9)]), st.sampled_from([0, 0, 8, 12, 14])),
    max_size=4,
)  # fmt: skip


def npy(header, body, version):
    encoded = header.encode("utf-8", "surrogatepass") + b"\n"
    return b"\x93NUMPY" + bytes(version) + len(encoded).to_bytes(2 if version[0] == 1 else 4, "little") + encoded + body


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_an_npz_file_whose_arrays_say_anything(tmp_path):
    path = tmp_path / "said.npz"

    @drawn
    @given(members)
    def run(found):
        with zipfile.ZipFile(path, "w") as file:
            for name, header, body, version, compression in found:
                file.writestr(f"{name}.npy", npy(header, body, version), compression)
        loads_or_says_why(path)

    run()


def test_an_npz_file_that_would_fill_the_memory(tmp_path):
    path = tmp_path / "bomb.npz"
    huge = repr({"descr": "<f4", "fortran_order": False, "shape": (1 << 40,)})
    for compression, error in ((zipfile.ZIP_STORED, "bytes for an array"), (zipfile.ZIP_BZIP2, "compression 12")):
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("weight.npy", npy(huge, b"", (1, 0)), compression)
        with pytest.raises(ValueError, match=error):
            nz.load(path)
    data = io.BytesIO()  # one compressed megabyte, that the directory names two hundred times
    with zipfile.ZipFile(data, "w") as file:
        file.writestr(
            "weight.npy",
            npy(repr({"descr": "|u1", "fortran_order": False, "shape": (1 << 20,)}), bytes(1 << 20), (1, 0)),
            8,
        )
        file.filelist = file.filelist * 200
        file._didModify = True
    path.write_bytes(data.getvalue())
    with pytest.raises(ValueError, match="more than 1100 times"):
        nz.load(path)


@safetensors
def test_a_safetensors_file_whose_arrays_say_anything(tmp_path):
    path = tmp_path / "said.safetensors"
    entries = st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "F64", "F16", "BF16", "I64", "BOOL", "F8_E4M3", "F8_E5M2", "U64", "X", "", None, 4]),
            "shape": st.lists(numbers, max_size=3) | numbers,
            "data_offsets": st.tuples(st.sampled_from([0, 0, 4, 8, 12, -1, 2**63]), st.sampled_from([0, 4, 12, 24, 40, 2**62, None])) | numbers,
        }
    )  # fmt: skip

    @drawn
    @given(
        st.dictionaries(names, entries, max_size=3), st.binary(max_size=40), st.sampled_from([0, 0, 0, 1, -1, 2**40])
    )
    def run(header, body, off):
        encoded = json.dumps(header).encode()
        path.write_bytes(max(len(encoded) + off, 0).to_bytes(8, "little") + encoded + body)
        loads_or_says_why(path)

    run()


KINDS = [
    "BatchNormalization", "InstanceNormalization", "LayerNormalization", "GroupNormalization", "RMSNormalization", "LRN",
    "LpNormalization", "MeanVarianceNormalization", "Softmax", "",
]  # fmt: skip
ATTRIBUTES = [
    "epsilon",
    "momentum",
    "training_mode",
    "spatial",
    "axis",
    "num_groups",
    "alpha",
    "beta",
    "bias",
    "size",
    "p",
    "axes",
    "stash_type",
    "x",
]
integers = st.integers(-3, 6) | st.sampled_from([2**31, -(2**63), 2**62])
attributes = st.builds(
    lambda name, kind, f, i, s, floats, ints: SimpleNamespace(
        name=name, type=kind, f=f, i=i, s=s, floats=floats, ints=ints
    ),
    st.sampled_from(ATTRIBUTES),
    st.sampled_from([1, 2, 2, 3, 6, 7, 0, 4, 99]),
    st.floats() | st.sampled_from([0.0, 1e-5, -1.0, 0.9]),
    integers,
    st.binary(max_size=3),
    st.lists(st.floats(), max_size=3),
    st.lists(integers, max_size=4),
)
arrays = st.builds(
    np.ones,
    st.lists(st.integers(0, 4), max_size=3),
    st.sampled_from(["f4", "f4", "f4", "f8", "f2", "i8", "?", "c8", "O", "U2"]),
)
constants = st.fixed_dictionaries(
    {}, optional=dict.fromkeys("abcd", arrays | arrays | st.none() | st.integers() | st.just("x"))
)
inputs = st.lists(st.sampled_from(["x", "a", "b", "c", "d", "", "none"]), max_size=6)


@drawn
@given(
    kind=st.sampled_from(KINDS),
    found=st.lists(attributes, max_size=4),
    inputs=inputs | inputs.map(lambda rest: ["x", "a", "b", "c", "d"][: len(rest)]),
    initializers=constants,
    opset=st.sampled_from([None, 18, 21, 23]),
    shape=st.none() | st.lists(integers | st.none(), max_size=4),
)
def test_any_node(kind, found, inputs, initializers, opset, shape):
    """A norm, or an error that names the node."""
    node = SimpleNamespace(op_type=kind, input=inputs, output=["y"], name="n", domain="", attribute=found)
    try:
        norm = nz.from_onnx(node, initializers, opset=opset, shape=shape)
    except (TypeError, ValueError) as error:
        assert type(error) in (TypeError, ValueError) and str(error).startswith(f"from_onnx: {kind} node 'n': "), error
    else:
        assert isinstance(norm, nz.Norm) and all(np.isfinite(v).all() for v in norm.state_dict().values())
        repr(norm)
