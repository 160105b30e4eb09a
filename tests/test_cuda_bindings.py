"""The way from the driver for numba-cuda through cuda.bindings, the real ones, to a CUDA driver that says what it was
asked (`cuda_executor/driver_stub.c`): every function is called with what it takes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cuda_executor import unavailable

if reason := unavailable():
    pytest.skip(reason, allow_module_level=True)

ROOT = Path(__file__).parent.parent

PROGRAM = """
import types
import numpy as np
import cuda.bindings.driver as api
from numba.cuda import types as kinds
from normzoo.backends.cuda.numba_driver import NumbaDriver

class Cuda:
    def get_current_device(self):
        return types.SimpleNamespace(MULTIPROCESSOR_COUNT=132, compute_capability=(9, 0), id=0)
    def current_context(self):
        return self
    def jit(self, signature, launch_bounds):
        function = types.SimpleNamespace(handle=api.CUkernel(0x1234))
        library = types.SimpleNamespace(get_cufunc=lambda: function)
        made = types.SimpleNamespace(bind=lambda: None, library=library)
        return lambda kernel: types.SimpleNamespace(overloads={signature: made})

def say(*words):
    print(*words, flush=True)

driver, signature = NumbaDriver(Cuda()), (kinds.int64, kinds.float64, kinds.CPointer(kinds.float32))
run = driver.prepare(say, signature, (5, 2), 128, (-7, None, None))
run(0xABC, (0.25, 0x7F00_0000_1000))
run(0, (1.5, 16))
say("resident", driver.resident(say, signature, 128))
piece, values = driver.alloc(1000, 0), np.full(4, 2.5, np.float32)
driver.to_device(piece.address, values, 0)
driver.to_host(values, piece.address, 5)
say("read", values[0])
say("captures", driver.is_capturing(7), driver.is_capturing(8), driver.is_capturing(0))
say("device", driver.device_of(piece.address))
driver.order(5, 6)
driver.order(5, 7)
try:
    driver.alloc(1 << 21, 0)
except MemoryError as error:
    say("no memory left" in str(error))
driver.free(piece.address, 5)
"""

SAID = """\
launch 0x1234 5 2 1 128 1 1 0 0xabc 1: -7 0.25 7f0000001000
launch 0x1234 5 2 1 128 1 1 0 (nil) 1: -7 1.5 10
occupancy 0x1234 128 0
resident 7
allocate 1024 (nil)
to device 7f0000000000 16 (nil) 2.5
to host 7f0000000000 16 0x5
synchronize 0x5
read 3.0
captures True False False
attribute 9 7f0000000000
device 3
event 2
record 0x55 0x5
wait 0x6 0x55 0
destroy 0x55
allocate 2097152 (nil)
allocate 2097152 (nil)
True
release 7f0000000000 0x5
"""


def test_the_bindings_hand_on_what_the_driver_says(tmp_path):
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    library = tmp_path / "libcuda.so.1"
    source = ROOT / "tests/cuda_executor/driver_stub.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-w", "-o", library, source, "-Wl,-soname,libcuda.so.1"], check=True)
    environment = os.environ | {"LD_LIBRARY_PATH": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout == SAID
