"""Forked, spawned and served processes, with threads started in the parent before: right results, no crash, no halt."""

import multiprocessing
import sys
import textwrap

import pytest

from tests.robust.process import LAYERS, forks, layer_environment, run, script

# A module of its own, as spawned children import what they run.
PROGRAM = """
import multiprocessing, sys
import numpy as np

def passes(seed):
    import normzoo as nz
    x, dy = np.random.default_rng(seed).standard_normal((2, 40, 1024)).astype(np.float32)
    norm = nz.LayerNorm(1024)
    y = norm(x)
    return y, norm.backward(dy), norm.grads["weight"]

def same(found, expected):
    return all(np.array_equal(a, b) for a, b in zip(found, expected))

if __name__ == "__main__":
    method, before = sys.argv[1:]
    if before == "passes":
        passes(1)
    elif before == "loops":  # of somebody else's; the child imports the library
        import numba
        @numba.njit(parallel=True)
        def loop(a):
            for i in numba.prange(a.size):
                a[i] = i
        loop(np.zeros(100000))
    with multiprocessing.get_context(method).Pool(2) as pool:
        found = pool.map(passes, range(4))
    assert all(same(f, passes(seed)) for seed, f in enumerate(found))
"""


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


def ends_well(path, *arguments, **more):
    # Python 3.12 and later warn of forks beside threads, which is what is done here.
    said = run("-W", "ignore::DeprecationWarning", path, *arguments, **more)
    assert "OpenMP" not in said.stderr and not said.stdout


@forks
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_of_a_process_that_used_threads(program, method):
    assert method in multiprocessing.get_all_start_methods()
    ends_well(program, method, "passes")


@forks
@pytest.mark.parametrize("layer", LAYERS)
def test_forks_under_every_layer(program, layer):
    ends_well(program, "fork", "passes", **layer_environment(layer))


@forks
def test_a_fork_imports_the_library_after_somebody_elses_loops(program):
    """GNU OpenMP would end the child at its first loop: "fork() called from a process already using GNU OpenMP"."""
    ends_well(program, "fork", "loops", **layer_environment("omp"))


@forks
def test_a_fork_in_the_middle_of_other_threads_passes():
    """What a thread held at the fork (locks, a loop on a workqueue) does not stop the child."""
    code = """
        import os, threading
        import numpy as np
        import normzoo as nz
        x = np.random.default_rng(0).standard_normal((64, 1024)).astype(np.float32)
        expected = nz.BatchNorm(1024)(x)
        go = True
        def busy():
            norm = nz.BatchNorm(1024)
            while go:
                norm(x)
        threads = [threading.Thread(target=busy) for _ in range(3)]
        for t in threads:
            t.start()
        nz.BatchNorm(8)(x[:, :8])
        for _ in range(20):
            child = os.fork()
            if child == 0:
                norm = nz.BatchNorm(1024)
                right = np.array_equal(norm(x), expected) and norm.num_batches_tracked == 1
                os._exit(0 if right else 1)
            assert os.waitpid(child, 0)[1] == 0
        go = False
        for t in threads:
            t.join()
    """
    code = "import warnings; warnings.simplefilter('ignore')\n" + textwrap.dedent(code)
    for layer in ("omp", "workqueue"):
        script(code, timeout=120, **layer_environment(layer))


@pytest.mark.parametrize("backend", ["loky", "multiprocessing", "threading"])
def test_joblib(backend):
    pytest.importorskip("joblib")
    code = f"""
        import joblib
        import numpy as np
        import normzoo as nz
        norm = nz.LayerNorm(1024)
        xs = np.random.default_rng(0).standard_normal((6, 40, 1024)).astype(np.float32)
        expected = [norm(x) for x in xs]
        found = joblib.Parallel(n_jobs=2, backend="{backend}")(joblib.delayed(norm)(x) for x in xs)
        for a, b in zip(found, expected):
            assert np.array_equal(a, b)
    """
    if backend == "threading":
        code = code.replace("delayed(norm)(x)", "delayed(norm.forward)(x)").replace(
            "array_equal(a, b)", "array_equal(a[0], b)"
        )
    # joblib's own processes warn of forks, and of what they leave behind
    run("-W", "ignore", "-c", textwrap.dedent(code), PYTHONWARNINGS="ignore")


@forks
@pytest.mark.skipif(sys.platform != "linux", reason="the parent's threads are looked up in /proc")
def test_the_parent_keeps_its_threads():
    code = """
        import os
        import numpy as np
        import normzoo as nz
        from normzoo.backends.cpu.parallel import threads
        x = np.random.default_rng(0).standard_normal((64, 1024)).astype(np.float32)
        nz.LayerNorm(1024)(x)
        child = os.fork()
        if child == 0:
            nz.LayerNorm(1024)(x)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert os.getpid() == threads._process
        nz.LayerNorm(1024)(x)
    """
    script("import warnings; warnings.simplefilter('ignore')\n" + textwrap.dedent(code))


@forks
def test_cpython_50970_a_fork_while_another_thread_compiles():
    """As servers that load first and fork then. The child would wait for the parent's compilation for ever."""
    code = """
        import os, signal, threading, time
        import numpy as np
        import normzoo as nz
        from llvmlite.binding import ffi
        from numba.core.compiler_lock import global_compiler_lock
        x = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)
        nz.LayerNorm(64)(x)
        for lock in (global_compiler_lock, ffi.lib._lock):
            held = threading.Event()
            def compiles():
                with lock:
                    held.set()
                    time.sleep(0.3)
            thread = threading.Thread(target=compiles)
            thread.start()
            held.wait()
            child = os.fork()
            if child == 0:
                signal.alarm(60)
                nz.BatchNorm(64)(x)
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            thread.join()
    """
    script("import warnings; warnings.simplefilter('ignore')\n" + textwrap.dedent(code))


@forks
def test_resampy_107_the_first_pass_is_in_a_fork_after_somebody_elses_loops():
    """GNU OpenMP ends a child that starts threads after its parent did, whoever did it."""
    code = """
        import os
        import numba, numpy as np
        import normzoo as nz
        @numba.njit(parallel=True)
        def loop(n):
            total = 0
            for i in numba.prange(n):
                total += i
            return total
        loop(1000)
        child = os.fork()
        if child == 0:
            x = np.random.default_rng(0).standard_normal((512, 1024)).astype(np.float32)
            nz.LayerNorm(1024)(x)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    """
    script("import warnings; warnings.simplefilter('ignore')\n" + textwrap.dedent(code), **layer_environment("omp"))


def test_mod_wsgi_689_another_interpreter_compiles():
    """It may not say what handles Ctrl-C."""
    code = """
        import signal, threading
        from normzoo.backends.cpu.compiling import locks
        def refuses(*_):
            raise ValueError("signal only works in main thread of the main interpreter")
        signal.signal = refuses
        with locks.uninterrupted():
            pass
    """
    script(textwrap.dedent(code))
