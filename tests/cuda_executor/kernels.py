"""Kernels with a seeded bug, each beside its correct twin, for the executor's own tests."""

import pytest

from tests.cuda_executor import unavailable

if reason := unavailable():
    pytest.skip(reason, allow_module_level=True)

from numba import cuda, float32

from tests.cuda_executor.bench import FULL, load4, store4


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
