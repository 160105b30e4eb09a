"""Python threads under every threading layer of Numba, and passes from within a user's own parallel loops."""

import pytest

from tests.robust.process import LAYERS, layer_environment, run, script

STARTED_TOGETHER = """
import threading
import numpy as np
import normzoo as nz

norm = nz.LayerNorm(2048)
x = np.random.default_rng(0).standard_normal((256, 2048)).astype(np.float32)
expected = norm(x)
selected = nz.select(x, mask=np.arange(256)[:, None] % 2 == 0)
picked = norm.forward(selected)[0]
start = threading.Barrier(8)
right = []

def thread():
    start.wait()
    for _ in range(6):
        right.append(np.array_equal(norm.forward(x)[0], expected) and np.array_equal(norm.forward(selected)[0], picked))

threads = [threading.Thread(target=thread) for _ in range(8)]
for t in threads:
    t.start()
for t in threads:
    t.join()
assert len(right) == 48 and all(right)
"""

NESTED = """
import threading
import numba
import numpy as np
from numba import njit, objmode, prange
import normzoo as nz

norm = nz.LayerNorm(1024)
x = np.random.default_rng(0).standard_normal((64, 1024)).astype(np.float32)
expected = norm(x)
where = set()

def inside(i):
    where.add((type(threading.current_thread()).__name__, numba.get_thread_id()))
    return float(np.array_equal(norm.forward(x)[0], expected))

@njit(parallel=True)
def loop(n):
    found = np.zeros(n)
    for i in prange(n):
        with objmode(right="float64"):
            right = inside(i)
        found[i] = right
    return found

for _ in range(100):  # a busy machine, or TBB, may give the whole of a loop to one thread
    found = loop(16)
    assert (found == 1).all(), found
    if len(where) > 1 or numba.get_num_threads() == 1:
        break
else:
    raise AssertionError(where)
"""


@pytest.mark.parametrize("layer", LAYERS)
def test_eight_threads_on_shared_and_own_layers(layer):
    said = run("-m", "tests.robust.on_threads", 2000, 160, 2, **layer_environment(layer))
    assert said.stdout.startswith(layer) and not said.stderr


@pytest.mark.slow
@pytest.mark.parametrize("layer", LAYERS)
def test_a_million_calls_on_eight_threads(layer):
    said = run("-m", "tests.robust.on_threads", 1_000_000, 4000, 5, timeout=1200, **layer_environment(layer))
    print(said.stdout, end="")
    assert said.stdout.startswith(layer) and not said.stderr


@pytest.mark.parametrize("layer", LAYERS)
def test_threads_that_start_loops_at_once(layer):
    """Numba's workqueue ends the process ("Concurrent access has been detected") where nobody keeps them apart."""
    assert not script(STARTED_TOGETHER, **layer_environment(layer)).stderr


@pytest.mark.parametrize("layer", LAYERS)
def test_inside_a_parallel_loop_of_the_users_own(layer):
    """Such a pass is serial, and nothing is said; workqueue would end the process."""
    said = script(NESTED, **layer_environment(layer))
    assert not said.stderr and not said.stdout
