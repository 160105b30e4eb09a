"""The executor finds what it is said to find, and runs right kernels right: each seeded bug stands beside its correct twin."""

import time

import numpy as np
import pytest

from tests.cuda_executor import Executor, ExecutorError, Unsupported, unavailable

if reason := unavailable():
    pytest.skip(reason, allow_module_level=True)

from llvmlite import ir
from numba import cuda, float32, int32, int64, types, uint16
from numba.cuda.extending import intrinsic
from numba.types import CPointer, UniTuple, void

FULL = 0xFFFFFFFF
VECTOR = types.UniTuple(types.int32, 4)


def bits16(result):
    """An intrinsic's IR: 16 bytes as four words, loaded as one."""
    return ir.VectorType(ir.IntType(32), 4)


@intrinsic
def load4(typingctx, pointer, index):
    """`load <4 x i32>, align 16` at pointer + index elements."""

    def codegen(context, builder, signature, args):
        address = builder.bitcast(builder.gep(args[0], [args[1]]), bits16(None).as_pointer())
        value = builder.load(address, align=16)
        words = [builder.extract_element(value, ir.Constant(ir.IntType(32), i)) for i in range(4)]
        return context.make_tuple(builder, signature.return_type, words)

    return VECTOR(pointer, index), codegen


@intrinsic
def store4(typingctx, pointer, index, words):
    """`store <4 x i32>, align 16`."""

    def codegen(context, builder, signature, args):
        value = ir.Constant(bits16(None), ir.Undefined)
        for i in range(4):
            word = builder.extract_value(args[2], i)
            value = builder.insert_element(value, word, ir.Constant(ir.IntType(32), i))
        address = builder.bitcast(builder.gep(args[0], [args[1]]), bits16(None).as_pointer())
        builder.store(value, address, align=16)
        return context.get_dummy_value()

    return types.void(pointer, index, words), codegen


@intrinsic
def half_to_float(typingctx, bits):
    """`fpext half`."""

    def codegen(context, builder, signature, args):
        return builder.fpext(builder.bitcast(args[0], ir.HalfType()), ir.FloatType())

    return types.float32(bits), codegen


@intrinsic
def float_to_half(typingctx, value):
    """`fptrunc`."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(builder.fptrunc(args[0], ir.HalfType()), ir.IntType(16))

    return types.uint16(value), codegen


@intrinsic
def as_float(typingctx, bits):
    """The bits of a float."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.uint32), codegen


@intrinsic
def as_bits(typingctx, value):
    """A float's bits."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.IntType(32))

    return types.uint32(types.float32), codegen


F = CPointer(float32)
XY = void(F, F, int32)
SCHEDULES = ["in order", "reversed", ("random", 1), ("random", 2)]


class Bench:
    """An executor, an input of `n` random floats and an output of as many, and launches on them."""

    def __init__(self, n=256, checked=True, schedule="in order", fill=True, dtype=np.float32):
        self.ex = Executor(schedule, checked=checked)
        self.ex.collect = True
        self.values = np.random.default_rng(n).standard_normal(n).astype(dtype)
        self.x, self.y = self.ex.alloc(self.values.nbytes), self.ex.alloc(self.values.nbytes)
        self.n = n
        if fill:
            self.ex.write(self.x, self.values)

    def run(self, kernel, grid=1, block=64, signature=XY, args=None, **more):
        return self.ex.launch(kernel, signature, grid, block, args or (self.x, self.y, self.n), **more)

    def out(self, dtype=np.float32):
        return self.ex.array(self.y, self.n, dtype)


# kernels, right and wrong --------------------------------------------------------------------------------------------
def copy(x, y, n):
    i = cuda.grid(1)
    if i < n:
        y[i] = x[i]


def copy_past_the_end(x, y, n):
    i = cuda.grid(1)
    y[i] = x[i]


def copy4(x, y, n):
    i = 4 * cuda.grid(1)
    if i < n:
        store4(y, i, load4(x, i))


def mirror(x, y, n):  # through shared memory
    sh = cuda.shared.array(64, float32)
    t = cuda.threadIdx.x
    sh[t] = x[t]
    cuda.syncthreads()
    y[t] = sh[63 - t]


def mirror_no_barrier(x, y, n):
    sh = cuda.shared.array(64, float32)
    t = cuda.threadIdx.x
    sh[t] = x[t]
    y[t] = sh[63 - t]


def mirror_too_long(x, y, n):
    sh = cuda.shared.array(64, float32)
    t = cuda.threadIdx.x
    sh[t + 1] = x[t]
    cuda.syncthreads()
    y[t] = sh[64 - t]


def mirror_dynamic(x, y, n):
    sh = cuda.shared.array(0, float32)
    t = cuda.threadIdx.x
    sh[t] = x[t]
    cuda.syncthreads()
    y[t] = sh[63 - t]


def mirror_unwritten(x, y, n):
    sh = cuda.shared.array(64, float32)
    t = cuda.threadIdx.x
    if t != 5:
        sh[t] = x[t]
    cuda.syncthreads()
    y[t] = sh[63 - t]


def warp_mirror(x, y, n):
    sh = cuda.shared.array(64, float32)
    t = cuda.threadIdx.x
    sh[t] = x[t]
    cuda.syncwarp()
    y[t] = sh[t ^ 31]


def warp_mirror_no_sync(x, y, n):
    sh = cuda.shared.array(64, float32)
    t = cuda.threadIdx.x
    sh[t] = x[t]
    y[t] = sh[t ^ 31]


def reuse(x, y, n):  # the second writing must wait for the first reading
    sh = cuda.shared.array(1, float32)
    t = cuda.threadIdx.x
    for k in range(2):
        if t == k:
            sh[0] = x[k]
        cuda.syncthreads()
        y[64 * k + t] = sh[0]
        cuda.syncthreads()


def reuse_no_barrier(x, y, n):
    sh = cuda.shared.array(1, float32)
    t = cuda.threadIdx.x
    for k in range(2):
        if t == k:
            sh[0] = x[k]
        cuda.syncthreads()
        y[64 * k + t] = sh[0]


def neighbour(x, y, n):
    t = cuda.threadIdx.x
    y[t] = x[t]
    cuda.syncthreads()
    if t:
        y[64 + t] = y[t - 1]


def neighbour_no_barrier(x, y, n):
    t = cuda.threadIdx.x
    y[t] = x[t]
    if t:
        y[64 + t] = y[t - 1]


def one_word(x, y, n):  # every block writes its own
    if cuda.threadIdx.x == 0:
        y[cuda.blockIdx.x] = x[0]


def same_word(x, y, n):
    if cuda.threadIdx.x == 0:
        y[0] = x[cuda.blockIdx.x]


def read_of_other_block(x, y, n):
    if cuda.threadIdx.x == 0:
        y[cuda.blockIdx.x] = x[0]
        if cuda.blockIdx.x == 1:
            y[10] = y[0]


def barriers_apart(x, y, n):
    t = cuda.threadIdx.x
    if t < 32:
        y[t] = x[t]
        cuda.syncthreads()
    else:
        y[t] = -x[t]
        cuda.syncthreads()


def early_exit(x, y, n):
    t = cuda.threadIdx.x
    if t >= 40:
        return
    y[t] = x[t]
    cuda.syncthreads()
    y[64 + t] = y[t ^ 1]


def late_exit(x, y, n):
    t = cuda.threadIdx.x
    if t < 40:
        y[t] = x[t]
    cuda.syncthreads()
    if t < 40:
        y[64 + t] = y[t ^ 1]


def warp_sum(x, y, n):
    t = cuda.threadIdx.x
    v = x[t]
    for k in (16, 8, 4, 2, 1):
        v += cuda.shfl_xor_sync(FULL, v, k)
    y[t] = v


def warp_sum_in_branch(x, y, n):  # half of the warp, but the mask names all
    t = cuda.threadIdx.x
    v = x[t]
    if t & 31 < 16:
        v += cuda.shfl_xor_sync(FULL, v, 1)
    cuda.syncthreads()
    y[t] = v


def half_warp_sum(x, y, n):
    t = cuda.threadIdx.x
    v = x[t]
    if t & 31 < 16:
        v += cuda.shfl_xor_sync(0xFFFF, v, 1)
    cuda.syncthreads()
    y[t] = v


def reads_inactive(x, y, n):
    t = cuda.threadIdx.x
    v = x[t]
    if t & 31 < 16:
        v += cuda.shfl_xor_sync(0xFFFF, v, 16)
    cuda.syncthreads()
    y[t] = v


def not_in_mask(x, y, n):
    t = cuda.threadIdx.x
    v = x[t]
    if t & 31 < 16:
        v += cuda.shfl_xor_sync(0xFFFE, v, 2)
    cuda.syncthreads()
    y[t] = v


def votes(x, y, n):
    t = cuda.threadIdx.x
    p = x[t] > float32(0)
    r = float32(0)
    if cuda.all_sync(FULL, p):
        r += float32(1)
    if cuda.any_sync(FULL, p):
        r += float32(2)
    y[t] = r + float32(4) * float32(cuda.popc(cuda.ballot_sync(FULL, p)))


def vote_in_branch(x, y, n):
    t = cuda.threadIdx.x
    if t & 31 < 16:
        y[t] = float32(cuda.popc(cuda.ballot_sync(FULL, x[t] > float32(0))))


def two_shuffles(x, y, n):  # one operation on the page, two in the program
    t = cuda.threadIdx.x
    v = x[t]
    if t & 31 < 16:
        v += cuda.shfl_xor_sync(FULL, v, 1)
    else:
        v -= cuda.shfl_xor_sync(FULL, v, 2)
    y[t] = v


BUGS = [  # kind, wrong kernel, right kernel, launch
    ("out of bounds", copy_past_the_end, copy, {"grid": 5}),
    ("out of bounds shared", mirror_too_long, mirror, {}),
    ("out of bounds shared", mirror_dynamic, mirror_dynamic, {"shared_bytes": (252, 256)}),
    ("race shared", mirror_no_barrier, mirror, {}),
    ("race shared", warp_mirror_no_sync, warp_mirror, {}),
    ("race shared", reuse_no_barrier, reuse, {}),
    ("race", neighbour_no_barrier, neighbour, {}),
    ("blocks", same_word, one_word, {"grid": 3}),
    ("blocks", read_of_other_block, one_word, {"grid": 3}),
    ("divergent barrier", barriers_apart, late_exit, {}),
    ("divergent barrier", early_exit, late_exit, {}),
    ("missing lanes", warp_sum_in_branch, half_warp_sum, {}),
    ("missing lanes", vote_in_branch, votes, {}),
    ("missing lanes", warp_sum, warp_sum, {"block": (48, 64)}),
    ("inactive lane", reads_inactive, half_warp_sum, {}),
    ("lane not in mask", not_in_mask, half_warp_sum, {}),
    ("divergent warp", two_shuffles, warp_sum, {}),
    ("uninitialized shared", mirror_unwritten, mirror, {}),
]


def launches(options):
    """The options of the wrong launch and of the right one; a pair differs between them."""
    pick = lambda i: {k: v[i] if isinstance(v, tuple) else v for k, v in options.items()}  # noqa: E731
    return pick(0), pick(1)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("kind, wrong, right, options", BUGS, ids=lambda v: getattr(v, "__name__", None))
def test_a_seeded_bug_is_found_and_its_twin_is_clean(kind, wrong, right, options, schedule):
    bad, good = launches(options)
    assert kind in Bench(schedule=schedule).run(wrong, **bad).kinds()
    assert Bench(schedule=schedule).run(right, **good).findings == []


def test_findings_raise_unless_collected():
    bench = Bench()
    bench.ex.collect = False
    with pytest.raises(
        ExecutorError,
        match=r"race shared: .* \(block 0, thread \d+, at load of float, align 4 in test_cuda_executor.py:\d+\)",
    ) as e:
        bench.run(mirror_no_barrier)
    assert {f.kind for f in e.value.findings} == {"race shared", "uninitialized shared"}
    bench.run(mirror)


def test_misaligned_accesses():
    bench = Bench()
    assert bench.run(copy4, args=(bench.x, bench.y, 252)).findings == []
    found = bench.run(copy4, args=(bench.x + 4, bench.y, 252))
    assert found.kinds() == {"misaligned"}
    np.testing.assert_array_equal(bench.out()[:252], bench.values[1:253])
    half = void(CPointer(types.float64), CPointer(types.float64), int32)
    assert bench.run(copy, signature=half, args=(bench.x + 4, bench.y, 8)).kinds() == {"misaligned"}


def test_uninitialized_global_memory():
    bench = Bench(fill=False)
    assert bench.run(copy, grid=4).kinds() == {"uninitialized"}
    bench.ex.write(bench.x, bench.values)
    assert bench.run(copy, grid=4).findings == []
    again = bench.ex.alloc(4 * bench.n)
    assert bench.run(copy, grid=4, args=(bench.y, again, bench.n)).findings == []  # a kernel wrote it


def test_a_freed_buffer_is_out_of_bounds():
    bench = Bench()
    bench.ex.free(bench.x)
    assert bench.run(copy, grid=4).kinds() == {"out of bounds"}


def test_the_guard_zones_without_checks():
    bench = Bench(checked=False)
    with pytest.raises(ExecutorError, match="guard zone"):
        bench.run(copy_past_the_end, grid=5)
    bench.run(copy, grid=5)
    np.testing.assert_array_equal(bench.out(), bench.values)


def test_atomics_of_threads_and_blocks_do_not_race():
    def total(x, y):
        cuda.atomic.add(y, 0, x[cuda.grid(1)])
        cuda.atomic.max(y, 1, x[cuda.grid(1)])

    def total_read(x, y):
        cuda.atomic.add(y, 0, x[cuda.grid(1)])
        y[2] = y[0]

    arrays = void(types.float32[::1], types.float32[::1])
    bench = Bench()
    bench.ex.write(bench.y, np.array([0, -9, 0], np.float32))
    args = ((bench.x, (256,)), (bench.y, (3,)))
    assert bench.run(total, 4, signature=arrays, args=args).findings == []
    np.testing.assert_allclose(bench.out()[0], bench.values.sum(), rtol=1e-4)
    assert bench.out()[1] == bench.values.max()
    assert bench.run(total_read, 4, signature=arrays, args=args).kinds() == {"race", "blocks"}


# schedules -------------------------------------------------------------------------------------------------------------
def test_schedules_differ_and_repeat():
    def last(x, y, n):
        y[0] = x[cuda.threadIdx.x]  # the last thread wins
        y[1] = x[cuda.blockIdx.x]

    def outcome(schedule):
        bench = Bench(schedule=schedule, checked=False)
        bench.run(last, 50)
        return tuple(np.flatnonzero(bench.values == v)[0] for v in bench.out()[:2])

    assert outcome("in order") == (63, 49)
    assert outcome("reversed") == (0, 0)
    random = [outcome(("random", seed)) for seed in range(6)]
    assert len(set(random)) > 3
    assert random == [outcome(("random", seed)) for seed in range(6)]


def test_dropping_a_barrier():
    for schedule in ("in order", "reversed"):
        bench = Bench(schedule=schedule)
        bench.run(mirror)
        np.testing.assert_array_equal(bench.out()[:64], bench.values[:64][::-1])
        assert "race shared" in bench.run(mirror, drop_barrier=0).kinds()
        assert (bench.out()[:64] != bench.values[:64][::-1]).any()
    assert [bool(bench.run(reuse, drop_barrier=k).findings) for k in range(2)] == [True, True]
    with pytest.raises(ValueError, match="has 1 barriers"):
        bench.run(mirror, drop_barrier=1)


# right results -----------------------------------------------------------------------------------------------------------
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


# traffic -------------------------------------------------------------------------------------------------------------
def test_traffic_of_a_copy():
    bench = Bench(1024)
    report = bench.run(copy4, grid=4, block=64)
    assert report.ratio() == report.repeats() == 1.0
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


def test_what_is_not_defined_is_named():
    def sleep(x, y, n):
        cuda.nanosleep(100)

    def bessel(x, y, n):
        y[0] = cuda.libdevice.j1f(x[0])

    with pytest.raises(Unsupported, match="nanosleep"):
        Bench().run(sleep)
    with pytest.raises(Unsupported, match="__nv_j1f"):
        Bench().run(bessel)


def test_limits_of_a_launch():
    bench = Bench()
    for more in ({"block": 1025}, {"grid": 0}, {"shared_bytes": 228 * 1024}):
        with pytest.raises(ValueError, match="1 to 1024 threads|a block has 232448"):
            bench.run(copy, **more)
    assert bench.run(mirror_dynamic, shared_bytes=227 * 1024).findings == []
