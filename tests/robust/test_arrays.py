"""Strange arrays as x, dy, parameters and out: the answer of the plain array, or an error that says what to write."""

import mmap
from pathlib import Path

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided, sliding_window_view

import normzoo as nz
from tests import check
from tests.cases import CASES, draw, filled

# One of rows, one of columns, one with running statistics.
SOME = [case for case in CASES if case.id in ("batch_norm-4d", "layer_norm-last", "group_norm-4d", "rms_norm-channels")]
some = pytest.mark.parametrize("case", SOME, ids=str)


class Stubborn(np.ndarray):
    """A subclass that lets nobody compute with it, as those of units and of labelled axes do."""

    def __array_ufunc__(self, *arguments, **options):
        raise RuntimeError("a ufunc was called")

    def __array_function__(self, *arguments, **options):
        raise RuntimeError("a function was called")


def places(x):
    """Arrays for `out` or parameters of x's shape, in every arrangement of memory that can be written."""
    yield "plain", np.empty_like(x)
    yield "fortran", np.empty(x.shape, x.dtype, order="F")
    yield "negative", np.empty_like(x)[tuple(slice(None, None, -1) for _ in x.shape)]
    yield (
        "every-second",
        np.empty([2 * size for size in x.shape], x.dtype)[tuple(slice(None, None, 2) for _ in x.shape)],
    )
    yield "misaligned", np.frombuffer(bytearray(x.nbytes + 1), x.dtype, x.size, offset=1).reshape(x.shape)
    yield "stubborn", np.empty_like(x).view(Stubborn)
    yield "in a record", np.empty(x.shape, [("a", "i1"), ("x", x.dtype)])["x"]


@some
def test_out_in_any_arrangement(case, rng):
    x, dy = draw(case, rng, np.float32)
    norm = filled(case.norm(), rng)
    y, dx = norm(x), norm.backward(dy)
    for _, out in places(x):
        assert norm(x, out=out) is out
        check.same_bits(np.asarray(out), y)
        assert norm.backward(dy, out=out) is out
        check.same_bits(np.asarray(out), dx)


@some
def test_parameters_in_any_arrangement(case, rng):
    x, dy = draw(case, rng, np.float32)
    norm = filled(case.norm(), rng)
    y, dx, grads = norm(x), norm.backward(dy), norm.grads
    held = dict(norm.params)
    for kinds in zip(*(places(p) for p in held.values()), strict=True):
        for (name, p), (_, place) in zip(held.items(), kinds, strict=True):
            np.asarray(place)[...] = p
            norm.params[name] = place
        check.same_bits(norm(x), y)
        check.same_bits(norm.backward(dy), dx)
        for name, gradient in norm.grads.items():
            check.same_bits(gradient, grads[name])


@some
def test_x_whose_elements_share_memory(case, rng):
    """Broadcast along any axis, and windows that slide over a row: read as the copy is."""
    norm = filled(case.norm(), rng)
    _, dy = draw(case, rng, np.float32)
    for axis in range(len(case.shape)):
        one = rng.standard_normal([1 if i == axis else size for i, size in enumerate(case.shape)]).astype(np.float32)
        x = np.broadcast_to(one, case.shape)
        found = norm(x), norm.backward(np.broadcast_to(dy.take([0], axis), case.shape))
        expected = norm(x.copy()), norm.backward(np.repeat(dy.take([0], axis), case.shape[axis], axis))
        for actual, exact in zip(found, expected, strict=True):
            check.same_bits(actual, exact)
    slid = sliding_window_view(rng.standard_normal(12).astype(np.float32), 8)
    check.same_bits(nz.LayerNorm(8)(slid), nz.LayerNorm(8)(slid.copy()))


def test_out_whose_elements_share_memory_is_refused():
    x = np.arange(48, dtype=np.float32).reshape(6, 8)
    norm, memory = nz.LayerNorm(8), np.zeros(48, np.float32)
    norm(x)
    overlapping = {
        "windows": sliding_window_view(memory[:13], 8, writeable=True),
        "rows that meet": as_strided(memory, (6, 8), (28, 4)),
        "one row": as_strided(memory, (6, 8), (0, 4)),
        "one column": as_strided(memory, (6, 8), (32, 0)),
        "bytes of neighbours": as_strided(memory, (6, 8), (32, 2)),
        "backwards": as_strided(memory[5:], (6, 8), (-4, 4)),
    }
    for out in overlapping.values():
        for call in (lambda: norm(x, out=out), lambda: norm.backward(x, out=out)):  # noqa: B023
            with pytest.raises(ValueError, match="expected out whose elements lie apart"):
                call()
    assert not memory.any()


def test_out_is_refused_wherever_it_overlaps_x_in_part(rng):
    """Every pair of slices of one buffer: the same elements are right, others that meet are an error, the rest right."""
    norm = nz.LayerNorm(4)
    cuts = [slice(i, i + 12 * step, step) for i in (0, 1, 2, 3, 12, 13, 24, 36) for step in (1, 2, 3)]
    right = refused = 0
    for a in cuts:
        for b in cuts:
            memory = rng.standard_normal(80).astype(np.float32)
            x, out = memory[a].reshape(3, 4), memory[b].reshape(3, 4)
            if not (np.shares_memory(x, memory) and np.shares_memory(out, memory)):
                continue  # reshape had to copy
            expected, before = norm(x.copy()), memory.copy()
            if np.shares_memory(x, out) and a != b:
                with pytest.raises(ValueError, match="overlaps in part"):
                    norm(x, out=out)
                check.same_bits(memory, before)
                refused += 1
            else:
                check.same_bits(norm(x, out=out).copy(), expected)
                right += 1
    assert right > 100 and refused > 50


def test_memory_mapped_files(tmp_path, rng):
    x = rng.standard_normal((60, 700)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    norm = nz.LayerNorm(700)
    y, dx = norm(x), norm.backward(x)
    read = np.load(tmp_path / "x.npy", mmap_mode="r")
    out = np.lib.format.open_memmap(tmp_path / "y.npy", "w+", np.float32, x.shape)
    check.same_bits(norm(read), y)
    check.same_bits(norm.backward(read), dx)
    assert norm(read, out=out) is out
    out.flush()
    check.same_bits(np.load(tmp_path / "y.npy"), y)
    with pytest.raises(ValueError, match="writeable"):
        norm(x, out=read)
    shifted = np.memmap(tmp_path / "x.npy", np.float32, "r", offset=129, shape=(59, 700))  # misaligned as the header is
    check.same_bits(norm(shifted), norm(np.array(shifted)))


REMEDIES = [
    ([1.0, 2.0], "got list; write np.asarray(x, np.float32)"),
    (1.0, "got float; write np.asarray(x, np.float32)"),
    (np.float32(1), "got float32; write np.asarray(x, np.float32)"),
    (memoryview(b"12345678"), "got memoryview; write np.asarray(x, np.float32)"),
    (np.ones((2, 2), int), "got int64; write x.astype(np.float32)"),
    (np.ones((2, 2), bool), "got bool; write x.astype(np.float32)"),
    (np.ones((2, 2), object), "got object; write x.astype(np.float32)"),
    (np.ones((2, 2), complex), "got complex128; write x.real and x.imag"),
    (np.ones((2, 2), np.longdouble), r"got float128; write x.astype(np.float32)"),
    (np.zeros((2, 2), "M8[s]"), "got datetime64[s]; write x.astype(np.float32)"),
    (np.zeros((2, 2), [("a", "f4")]), "got [('a', '<f4')]; write x.astype(np.float32)"),
    (np.ma.masked_array(np.ones((2, 2), np.float32)), "got a masked array; write x.filled(...)"),
]


@pytest.mark.parametrize(("x", "end"), REMEDIES, ids=[r[1][:20] for r in REMEDIES])
def test_what_is_no_float_array_is_told_what_to_write(x, end):
    for norm in (nz.LayerNorm(2), nz.BatchNorm(2), nz.DyT(2)):
        with pytest.raises(TypeError) as raised:
            norm(x)
        assert str(raised.value).endswith(end) and str(raised.value).startswith(str(norm))


def test_zero_axes_and_sixty_four():
    x = np.arange(12, dtype=np.float32).reshape(6, 2)
    for norm in (nz.LayerNorm(2), nz.BatchNorm(2), nz.InstanceNorm(2), nz.GroupNorm(1, 2), nz.RMSNorm(2)):
        with pytest.raises(ValueError, match=r"expected x of .*got \(\)"):
            norm(np.array(1, np.float32))
    deep = x.reshape((1,) * 62 + x.shape)
    check.same_bits(nz.LayerNorm(2)(deep), nz.LayerNorm(2)(x).reshape(deep.shape))
    deep = x.reshape((6, 2) + (1,) * 62)
    check.same_bits(nz.BatchNorm(2)(deep), nz.BatchNorm(2)(x).reshape(deep.shape))


def test_more_elements_than_fit_memory_or_31_bits():
    """Views of one value: what is wrong is said at once, and what cannot be allocated changes nothing."""
    huge = np.broadcast_to(np.float32(1), (2**40, 8))
    with pytest.raises(ValueError, match=r"\(1099511627776, 8\)"):
        nz.LayerNorm(7)(huge)
    norm = nz.BatchNorm(8)
    y = norm(np.eye(8, dtype=np.float32))
    state, saved = norm.state_dict(), norm.saved
    for _ in range(2):
        with pytest.raises(MemoryError):
            norm(huge)
    with pytest.raises(ValueError, match="dy of x's shape"):
        norm.backward(huge)
    assert norm.saved is saved
    for name, value in norm.state_dict().items():
        check.same_bits(value, state[name])
    check.same_bits(nz.BatchNorm(8)(np.eye(8, dtype=np.float32)), y)
    empty = np.empty((2**33, 8, 0), np.float32)
    assert norm(empty).shape == norm.backward(empty).shape == empty.shape


def untouched(count, dtype):
    """Zeros that take no memory until they are written: the system has one page of zeros for all that is only read."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    return np.frombuffer(mmap.mmap(-1, count * np.dtype(dtype).itemsize, flags), dtype)


def available():
    """Bytes of memory to be had."""
    rows = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(rows["MemAvailable"].split()[0]) * 1024


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1024, 3], ids=["rows", "columns"])
def test_more_than_31_bits_of_elements(channels, rng):
    """2.2e9 values of float16, forward and back: 4.4 GB in, 4.4 GB of results at a time."""
    if not Path("/proc/meminfo").exists() or available() < 12e9:
        pytest.skip("needs 12 GB of memory")
    size = 2_200_000_000 // 3072 * 3072
    assert size > 2**31
    x = untouched(size, np.float16).reshape(-1, channels)
    head, tail = x[:9], x[-9:]
    head[...], tail[...] = rng.standard_normal((2, *head.shape))
    norm = (nz.LayerNorm if channels > 16 else nz.BatchNorm)(channels)
    y = norm(x)
    if channels > 16:
        check.same_bits(y[-9:], norm.forward(tail.copy())[0])
        check.same_bits(y[:9], norm.forward(head.copy())[0])
    else:
        mean = (head.sum(axis=0, dtype=np.float64) + tail.sum(axis=0, dtype=np.float64)) / len(x)
        square = (head.astype(float) ** 2).sum(axis=0) + (tail.astype(float) ** 2).sum(axis=0)
        rstd = 1 / np.sqrt(square / len(x) - mean**2 + norm.eps)
        for part, found in ((head, y[:9]), (tail, y[-9:])):
            exact = (part - mean) * rstd
            assert (np.abs(found - exact) <= 2.0**-10 * np.abs(exact) + 1e-6).all()
    assert not y[len(x) // 2 : len(x) // 2 + 100].astype(bool).any() or channels < 16
    dx = norm.backward(x, out=y)  # no more memory than y has
    assert np.isfinite(dx[-9:]).all() and np.abs(dx[-9:]).max() > 0
    if channels > 16:
        check.same_bits(dx[-9:], norm.forward(tail.copy())[1].backward(tail.copy()).x)
