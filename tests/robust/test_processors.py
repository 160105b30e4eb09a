"""Processors that lack instructions: NUMBA_CPU_NAME and NUMBA_CPU_FEATURES compile for them on any other."""

import platform

import pytest

from tests.robust.process import script

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="processors of x86-64 are named")

EVERY_VALUE = """
import numpy as np
from numba.core import types
from normzoo.backends.cpu.vector.access import at, load, load_n, load_same, put, store, store_n
from normzoo.backends.cpu.code import compiled
from normzoo.backends.cpu.compiling.jit import kernel
from normzoo.backends.cpu.vector.lanes import Flat

SHORT, SINGLE = Flat(types.int16), Flat(types.float32)

@kernel
def widen(source, lanes, tails, same, single, n):
    for i in range(0, n, 16):
        store(lanes, i, load(source, i))
        store_n(tails, i, load_n(source, i, 5), 5)
        store(same, i, load_same(source, i))
        put(single, i, at(source, i))

@kernel
def narrow(source, lanes, tails, n):
    for i in range(0, n, 16):
        store(lanes, i, load(source, i))
        store_n(tails, i, load(source, i), 5)

halves = np.arange(65536, dtype=np.uint16).view(np.int16)
np.seterr(all="ignore")
exact = halves.view(np.float16).astype(np.float32)
lanes, tails, same, single = (np.zeros(65536, np.float32) for _ in range(4))
compiled(widen, (SHORT, *[SINGLE] * 4, types.int64)).call(halves, lanes, tails, same, single, 65536)
bits = lambda a: np.where(np.isnan(a), -1, a.view(np.int32))
assert (bits(lanes) == bits(exact)).all()
first = np.arange(65536) % 16 < 5
assert (bits(tails) == bits(np.where(first, exact, np.float32(0)))).all()
assert (bits(same) == bits(np.repeat(exact[::16], 16))).all()
assert (bits(single[::16]) == bits(exact[::16])).all()

# every float16, what is halfway to the next and beside that; and values of all exponents
middle = (exact.astype(np.float64)[:-1] + exact.astype(np.float64)[1:]) / 2
middle = middle.astype(np.float32)
rng = np.random.default_rng(0)
values = [exact, middle, np.nextafter(middle, np.float32(np.inf)), np.nextafter(middle, np.float32(-np.inf))]
values += [np.array([65519.99, 65520, 65536, 3e38, -65520, np.inf, np.nan, 1e-45, 2**-25, -(2**-25)], np.float32)]
values += [rng.integers(0, 1 << 32, 1 << 18, dtype=np.uint32).view(np.float32)]
values = np.resize(np.concatenate(values), 1 << 19)
right = values.astype(np.float16)
lanes, tails = (np.zeros(len(values), np.int16) for _ in range(2))
compiled(narrow, (SINGLE, SHORT, SHORT, types.int64)).call(values, lanes, tails, len(values))
bits = lambda a: np.where(np.isnan(a), -1, a.view(np.int16))
assert (bits(lanes.view(np.float16)) == bits(right)).all()
first = np.arange(len(values)) % 16 < 5
assert (bits(tails.view(np.float16)) == bits(np.where(first, right, np.float16(0)))).all()
"""

SOME_OF_AVX512 = """
import ml_dtypes, numpy as np
from numba.core import types
from normzoo.backends.cpu.vector.access import load, store
from normzoo.backends.cpu.code import compiled
from normzoo.backends.cpu.compiling.jit import kernel
from normzoo.backends.cpu.vector.lanes import Flat

@kernel
def narrow(source, target):
    store(target, 0, load(source, 0))

source, target = np.arange(16, dtype=np.float32) / 3, np.zeros(16, np.uint16)
compiled(narrow, (Flat(types.float32), Flat(types.uint16))).call(source, target)
assert (target.view(ml_dtypes.bfloat16) == source.astype(ml_dtypes.bfloat16)).all()
"""

A_NORM = """
import numpy as np, normzoo as nz
norm, (x, dy) = nz.LayerNorm(33, dtype=np.float16), np.random.default_rng(0).standard_normal((2, 4, 33)).astype(np.float16)
found = norm(x), norm.backward(dy), norm.grads["weight"]
with nz.use("reference"):
    for a, b in zip(found, (norm(x), norm.backward(dy), norm.grads["weight"])):
        assert np.abs(a.astype(float) - b.astype(float)).max() < 1e-2
"""


@pytest.mark.parametrize("name", ["generic", pytest.param("sandybridge", marks=pytest.mark.slow)])
def test_float16_without_instructions_for_it(name, tmp_path):
    """LLVM calls a function to convert where a processor cannot, and the process died at its address."""
    script(EVERY_VALUE, NUMBA_CPU_NAME=name, NUMBA_CPU_FEATURES="", NUMBA_CACHE_DIR=tmp_path)


def test_float16_with_the_instructions_of_this_processor(tmp_path):
    script(EVERY_VALUE, NUMBA_CACHE_DIR=tmp_path)


@pytest.mark.slow
def test_a_float16_norm_on_a_processor_of_2008(tmp_path):
    script(A_NORM, NUMBA_CPU_NAME="nehalem", NUMBA_CPU_FEATURES="", NUMBA_CACHE_DIR=tmp_path)


def test_bfloat16_where_a_virtual_machine_lets_some_of_avx512_through(tmp_path):
    pytest.importorskip("ml_dtypes")
    lacking = "+avx512bf16,-avx512f,-avx512bw"
    script(SOME_OF_AVX512, NUMBA_CPU_NAME="x86-64", NUMBA_CPU_FEATURES=lacking, NUMBA_CACHE_DIR=tmp_path)
