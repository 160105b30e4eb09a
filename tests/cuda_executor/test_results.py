"""The executor runs right kernels right, and counts their traffic exactly."""

import time

import numpy as np
import pytest

from tests.cuda_executor import unavailable

if reason := unavailable():
    pytest.skip(reason, allow_module_level=True)

from numba import cuda, float32, int32, int64, types, uint16
from numba.types import CPointer, UniTuple, void

from tests.cuda_executor.bench import FULL, SCHEDULES, Bench, as_bits, as_float, float_to_half, half_to_float
from tests.cuda_executor.kernels import copy, copy4, votes, warp_sum


@pytest.mark.parametrize("checked", [False, True])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_warp_operations(schedule, checked):
    bench = Bench(64, checked, schedule)
    rows = bench.values.reshape(2, 32)
    assert bench.run(warp_sum).findings == []
    np.testing.assert_allclose(
        bench.out().reshape(2, 32), np.repeat(rows.sum(1), 32).reshape(2, 32), rtol=1e-5, atol=1e-6
    )
    bench.run(votes)
    positive = rows > 0
    expected = positive.all(1) + 2 * positive.any(1) + 4 * positive.sum(1)
    np.testing.assert_array_equal(bench.out(), np.repeat(expected, 32))


def test_shuffles_against_their_definition():
    def all_four(x, y, n):
        t = cuda.threadIdx.x
        y[t] = cuda.shfl_up_sync(FULL, x[t], 3)
        y[64 + t] = cuda.shfl_down_sync(FULL, x[t], 5)
        y[128 + t] = cuda.shfl_sync(FULL, x[t], 7)
        y[192 + t] = cuda.shfl_xor_sync(FULL, x[t], 9)

    bench = Bench()
    assert bench.run(all_four).findings == []
    t = np.arange(64)
    lane, base = t & 31, t & 32
    up, down = np.where(lane < 3, lane, lane - 3), np.where(lane + 5 > 31, lane, lane + 5)
    sources = np.stack([base + up, base + down, base + 7, base + (lane ^ 9)])
    np.testing.assert_array_equal(bench.out().reshape(4, 64), bench.values[sources])


def test_block_votes_and_indices():
    def shapes(x, y, n):
        t = cuda.threadIdx.x + cuda.blockDim.x * cuda.threadIdx.y
        count = cuda.syncthreads_count(int32(x[t] > float32(0)))
        b = cuda.blockIdx.x + cuda.gridDim.x * cuda.blockIdx.y
        y[64 * b + t] = float32(1000 * count + 100 * cuda.threadIdx.y + 10 * cuda.blockIdx.y + cuda.laneid)

    bench = Bench()
    assert bench.run(shapes, (2, 2), (16, 4)).findings == []
    t, b = np.arange(64), np.arange(4)[:, None]
    expected = 1000 * (bench.values[:64] > 0).sum() + 100 * (t // 16) + 10 * (b // 2) + t % 32
    np.testing.assert_array_equal(bench.out().reshape(4, 64), expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_halves(dtype):
    def double16(x, y, n):
        i = cuda.grid(1)
        y[i] = float_to_half(half_to_float(x[i]) * float32(2))

    def double_b16(x, y, n):
        i = cuda.grid(1)
        b = as_bits(as_float(types.uint32(x[i]) << types.uint32(16)) * float32(2))
        y[i] = uint16((b + types.uint32(0x7FFF) + ((b >> types.uint32(16)) & types.uint32(1))) >> types.uint32(16))

    dtype = np.dtype(dtype) if dtype == "float16" else np.dtype(pytest.importorskip("ml_dtypes").bfloat16)
    bench = Bench(dtype=dtype)
    signature = void(CPointer(uint16), CPointer(uint16), int32)
    assert bench.run(double16 if dtype == np.float16 else double_b16, 4, signature=signature).findings == []
    np.testing.assert_array_equal(bench.out(dtype).astype(np.float32), 2 * bench.values.astype(np.float32))


def test_numba_halves_round_once():
    def to_half(x, y):
        i = cuda.grid(1)
        y[i] = np.float16(x[i])

    bench = Bench(dtype=np.float64)
    values = np.concatenate(
        [bench.values[:200], 1 + 2.0**-11 + 2.0**-40 * np.arange(-8, 8), [0, -0.0, 1e9, 1e-9, np.inf]]
    )
    bench.ex.write(bench.x, values)
    arrays = void(types.float64[::1], types.float16[::1])
    n = len(values)
    bench.run(to_half, 1, n, signature=arrays, args=((bench.x, (n,)), (bench.y, (n,))))
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(bench.ex.array(bench.y, n, np.float16), values.astype(np.float16))


def test_arguments_and_long_indices():
    def strided(x, y, start, pair, scale):
        i = int64(cuda.grid(1)) + start  # start is far beyond 2^31
        y[i - start] = x[pair[0], (i - start) % x.shape[1]] * float32(scale) + float32(pair[1])

    signature = void(types.float32[:, :], types.float32[::1], int64, UniTuple(int32, 2), types.float64)
    bench = Bench()
    view = bench.ex.array(bench.x, (16, 16), np.float32)[:, ::2]
    args = (view, (bench.y, (256,)), 2**40, (3, -7), 0.5)
    assert bench.run(strided, 1, signature=signature, args=args).findings == []
    expected = np.tile(bench.values.reshape(16, 16)[3, ::2], 8) * np.float32(0.5) - 7
    np.testing.assert_array_equal(bench.out()[:64], expected)
    with pytest.raises(TypeError, match="takes 3 arguments, not 1"):
        bench.run(copy, args=(1,))


def test_static_and_dynamic_shared_memory_together():
    def both(x, y, n):
        a = cuda.shared.array(64, float32)
        b = cuda.shared.array(64, int32)
        d = cuda.shared.array(0, float32)
        t = cuda.threadIdx.x
        a[t], b[t], d[t], d[t + 64] = x[t], t, x[64 + t], x[128 + t]
        cuda.syncthreads()
        o = 63 - t
        y[t], y[64 + t], y[128 + t], y[192 + t] = a[o], float32(b[o]), d[o], d[64 + o]

    bench = Bench()
    assert bench.run(both, shared_bytes=512).findings == []
    x = bench.values.reshape(4, 64)[:, ::-1]
    np.testing.assert_array_equal(bench.out().reshape(4, 64), [x[0], np.arange(63, -1, -1), x[1], x[2]])


def test_constant_and_local_arrays():
    table = np.arange(16, dtype=np.float32) ** 2

    def look_up(x, y, n):
        constant = cuda.const.array_like(table)
        local = cuda.local.array(8, float32)
        i = cuda.grid(1)
        for k in range(8):
            local[k] = x[(i + k) % n]
        y[i] = constant[i % 16] + local[int32(abs(x[i]) * float32(100)) % 8]  # indices that no compiler knows

    bench = Bench()
    assert bench.run(look_up, 4).findings == []
    i, x = np.arange(256), bench.values
    k = (np.abs(x) * np.float32(100)).astype(np.int32) % 8
    np.testing.assert_array_equal(bench.out(), table[i % 16] + x[(i + k) % 256])


def test_atomics_on_integers_and_shared_memory():
    def histogram(x, y, n):
        sh = cuda.shared.array(8, int32)
        t = cuda.threadIdx.x
        if t < 8:
            sh[t] = 0
        cuda.syncthreads()
        cuda.atomic.add(sh, x[cuda.grid(1)] & 7, 1)
        cuda.syncthreads()
        if t < 8:
            cuda.atomic.add(y, t, sh[t])
        cuda.atomic.max(y, 8, x[cuda.grid(1)])
        cuda.atomic.cas(y, 9, 0, x[cuda.grid(1)])

    bench = Bench(dtype=np.int32)
    values = np.random.default_rng(0).integers(1, 1000, 256).astype(np.int32)
    bench.ex.write(bench.x, values)
    bench.ex.write(bench.y, np.zeros(10, np.int32))
    arrays = void(types.int32[::1], types.int32[::1], int32)
    assert bench.run(histogram, 4, 64, arrays, ((bench.x, (256,)), (bench.y, (10,)), 256)).findings == []
    expected = [*np.bincount(values & 7, minlength=8), values.max(), values[0]]
    np.testing.assert_array_equal(bench.out(np.int32)[:10], expected)


# traffic -------------------------------------------------------------------------------------------------------------
def test_traffic_of_a_copy():
    bench = Bench(1024)
    report = bench.run(copy4, grid=4, block=64)
    assert report.ratio() == report.repeats() == report.ratio(once_a="block") == report.ratio(once_a="launch") == 1.0
    assert (report.requests, report.sectors) == (2 * 1024 // 128, 2 * 1024 * 4 // 32)
    assert report.widths_read == report.widths_written == {16: 256}
    assert (report.bytes_read, report.bytes_written, report.unique_read, report.unique_written) == (4096,) * 4
    assert report.buffers[bench.x].bytes_read == report.buffers[bench.y].bytes_written == 4096
    assert report.buffers[bench.x].bytes_written == report.buffers[bench.y].bytes_read == 0
    scalar = bench.run(copy, grid=16)
    assert (scalar.ratio(), scalar.requests, scalar.widths_read) == (1.0, 64, {4: 1024})
    shifted = bench.run(copy, grid=16, args=(bench.x + 4, bench.y, 1023))
    assert shifted.read_sectors == 32 * 5 - 1  # each request of 128 bytes touches five sectors; the last has 31 floats
    assert shifted.repeats() == 1.0
    # blocks of 64 begin within a sector, which they share with the one before
    assert (shifted.block_sectors, shifted.launch_sectors) == (16 * (9 + 8) - 1, 2 * 128)


def test_traffic_of_what_is_not_contiguous():
    def strided(x, y, n):
        i = cuda.grid(1)
        y[i] = x[8 * i]

    def twice(x, y, n):
        i = cuda.grid(1)
        y[i] = x[i] + x[n - 1 - i]

    bench = Bench(512)
    report = bench.run(strided)
    assert (report.read_sectors, report.write_sectors) == (64, 8)
    assert report.ratio() == (64 + 8) / (8 + 8)
    report = bench.run(twice, grid=8)
    assert report.repeats() == 1.5
    assert (report.of(bench.x).repeats(), report.of(bench.y).ratio()) == (2.0, 1.0)
    assert report.of(bench.x, bench.y).sectors == report.sectors
    assert (report.of(bench.x).block_sectors, report.of(bench.x).launch_sectors) == (2 * 64, 64)
    assert report.of(bench.x).ratio(once_a="block") == 2.0  # other blocks read it too


def test_it_is_fast():
    def layer_norm(x, y, n):
        sh = cuda.shared.array(8, float32)
        row, t = cuda.blockIdx.x * n, cuda.threadIdx.x
        total = float32(0)
        for i in range(t, n, 128):
            total += x[row + i]
        for k in (16, 8, 4, 2, 1):
            total += cuda.shfl_xor_sync(FULL, total, k)
        if t & 31 == 0:
            sh[t >> 5] = total
        cuda.syncthreads()
        mean = (sh[0] + sh[1] + sh[2] + sh[3]) / float32(n)
        total = float32(0)
        for i in range(t, n, 128):
            total += (x[row + i] - mean) ** 2
        for k in (16, 8, 4, 2, 1):
            total += cuda.shfl_xor_sync(FULL, total, k)
        if t & 31 == 0:
            sh[4 + (t >> 5)] = total
        cuda.syncthreads()
        rstd = (float32(1e-5) + (sh[4] + sh[5] + sh[6] + sh[7]) / float32(n)) ** float32(-0.5)
        for i in range(t, n, 128):
            y[row + i] = (x[row + i] - mean) * rstd

    for checked in (False, True):
        bench = Bench(64 * 1024, checked)
        args = (bench.x, bench.y, 1024)
        assert bench.run(layer_norm, 64, 128, args=args).findings == []
        start = time.perf_counter()
        bench.run(layer_norm, 64, 128, args=args)
        seconds = time.perf_counter() - start  # without compilation; here 0.02 and 0.05
        x = bench.values.reshape(64, 1024).astype(np.float64)
        expected = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
        np.testing.assert_allclose(bench.out().reshape(64, 1024), expected, atol=2e-6)
        assert seconds < 1


# what is defined and what is not -------------------------------------------------------------------------------------
MATH = {
    "sqrtf": np.sqrt,
    "rsqrtf": lambda v: 1 / np.sqrt(v),
    "fabsf": np.abs,
    "expf": np.exp,
    "exp2f": np.exp2,
    "logf": np.log,
    "log1pf": np.log1p,
    "tanhf": np.tanh,
    "floorf": np.floor,
    "frcp_rn": lambda v: 1 / v,
    "fsqrt_rn": np.sqrt,
    "fast_expf": np.exp,
}


@pytest.mark.parametrize("name", MATH)
def test_libdevice(name):
    function = getattr(cuda.libdevice, name)

    def apply(x, y, n):
        i = cuda.grid(1)
        y[i] = function(x[i])

    bench = Bench()
    bench.ex.write(bench.x, np.abs(bench.values) + np.float32(0.1))
    bench.run(apply, 4)
    expected = MATH[name]((np.abs(bench.values) + np.float32(0.1)).astype(np.float64))
    np.testing.assert_allclose(bench.out(), expected, rtol=1e-6, atol=1e-7)


def test_libdevice_of_two_and_three():
    def apply(x, y, n):
        i = cuda.grid(1)
        a = cuda.libdevice.fmaxf(x[i], float32(0.5)) - cuda.libdevice.fminf(x[i], float32(-0.5))
        y[i] = cuda.libdevice.fmaf_rn(a, x[i], x[n - 1 - i]) + cuda.fma(a, a, a)

    bench = Bench()
    bench.run(apply, 4)
    x = bench.values.astype(np.float64)
    a = np.maximum(x, 0.5) - np.minimum(x, -0.5)
    np.testing.assert_allclose(bench.out(), a * x + x[::-1] + a * a + a, rtol=1e-5, atol=1e-5)


def test_a_device_function_that_is_not_inlined():
    @cuda.jit(device=True)
    def turn(v, k):
        cuda.syncthreads()
        return cuda.shfl_xor_sync(FULL, v, k)

    def apply(x, y, n):
        i = cuda.grid(1)
        y[i] = turn(x[i], 1)

    bench = Bench()
    assert bench.run(apply, 4).findings == []
    np.testing.assert_array_equal(bench.out(), bench.values.reshape(-1, 2)[:, ::-1].ravel())
