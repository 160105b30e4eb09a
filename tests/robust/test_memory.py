"""Memory: what is saved goes with the layer, results share none of it, caches are bounded, nothing grows with calls."""

import gc
import weakref

import numpy as np
import pytest

import normzoo as nz
from normzoo.backends import memory
from normzoo.passes import arrays, normalize, view_saved
from tests.cases import CASES, draw, filled
from tests.robust.process import lists_processes, script
from tests.zoo import ZOO


def one_pass(norm, x, inputs, fixed, dy):
    y = norm(x, *inputs.values(), **fixed)
    return y if isinstance(y, tuple) else (y,), norm.backward(dy)


def rows():
    for case in CASES:
        yield (
            case.id,
            lambda rng, case=case: (
                filled(case.norm(), rng),
                draw(case, rng, np.float32)[0],
                {},
                {},
                draw(case, rng, np.float32)[1],
            ),
        )
    for case in ZOO:

        def make(rng, case=case):
            norm, x, inputs, dy = case.draw(rng, np.float32)
            return norm, x, inputs, case.fixed, dy

        yield case.id, make


ROWS = dict(rows())
each = pytest.mark.parametrize("row", ROWS)


@each
def test_results_share_no_memory_with_what_is_kept(row, rng):
    """Whoever writes into y, dx or a gradient changes neither the layer nor its next backward pass."""
    norm, x, inputs, fixed, dy = ROWS[row](rng)
    ys, dx = one_pass(norm, x, inputs, fixed, dy)
    results = [*ys, dx, *(g for g in norm.grads.values() if g is not None)]
    kept = [x, dy, *inputs.values(), *norm.params.values(), *norm.buffers.values()]
    for i, result in enumerate(results):
        assert not any(np.may_share_memory(result, a) for a in kept)
        assert not any(np.may_share_memory(result, a) for a in results[:i])
    expected = [r.copy() for r in results[len(ys) :]]
    state = norm.state_dict()
    for result in results:
        result[...] = np.nan
    again = [norm.backward(dy), *(g for g in norm.grads.values() if g is not None)]
    for found, right in zip(again, expected, strict=True):
        np.testing.assert_array_equal(found, right)
    for name, value in norm.state_dict().items():
        np.testing.assert_array_equal(value, state[name])


@each
def test_what_is_saved_goes_with_the_layer_at_once(row, rng):
    """Without the garbage collector, which knows nothing of the sizes of arrays and may come late."""
    gc.disable()
    try:
        norm, x, inputs, fixed, dy = ROWS[row](rng)
        one_pass(norm, x, inputs, fixed, dy)
        layer, read = weakref.ref(norm), weakref.ref(x)
        del norm, x, inputs, dy
        assert layer() is None, "the layer is part of a circle"
        assert read() is None, "x is still held"
    finally:
        gc.enable()


def test_a_norm_that_left_out_values_is_freed_at_once(rng):
    x = rng.standard_normal((4, 8)).astype(np.float32)
    norm = nz.LayerNorm(8)
    norm(x, mask=rng.random((4, 8)) < 0.7)
    seen = weakref.ref(norm)
    gc.disable()
    try:
        del norm
        assert seen() is None, "it is part of a circle"
    finally:
        gc.enable()


def test_the_last_pass_frees_the_one_before(rng):
    norm = nz.LayerNorm(8)
    x = rng.standard_normal((4, 8)).astype(np.float32)
    norm(x)
    seen = weakref.ref(x)
    norm(x.copy())
    del x
    assert seen() is None


def test_functions_of_many_sets_work_in_no_memory_that_is_free():
    """glibc fills what is given back: statistics that lay there were wrong, and the heap broken."""
    code = (
        "import numpy as np, normzoo as nz\n"
        "from normzoo.passes import plan\n"
        "plan.ENOUGH = 1\n"
        "x = (3 + np.random.default_rng(0).standard_normal((384, 8))).astype(np.float32)\n"
        "columns = np.ascontiguousarray(x.T)\n"
        "own = [np.zeros(384, np.float32), np.ones(384, np.float32)]\n"
        "for _ in range(8):\n"
        "    expected = nz.LayerNorm(8).forward(x)[0], nz.BatchNorm(384).forward(columns)[0]\n"
        "    assert (nz.functional.layer_norm(x, (8,)) == expected[0]).all()\n"
        "    assert (nz.functional.batch_norm(columns, *own, training=True) == expected[1]).all()\n"
    )
    script(code, MALLOC_PERTURB_="165")


def test_caches_are_bounded_however_many_shapes_there_are(rng):
    """Plans, and all that is found once for a shape, are forgotten when there are too many; results stay right."""
    bounded = [a for m in (arrays, normalize, view_saved) for a in vars(m).values() if isinstance(a, arrays.Memo)]
    assert len(bounded) >= 2
    size = arrays.Memo.SIZE
    norm = nz.LayerNorm(4)
    for n in range(1, size + 200):
        x = np.full((n, 4), 1, np.float32)
        x[:, 0] = n
        y = norm(x)
        norm.backward(x)
    assert all(len(memo) <= size for memo in bounded)
    np.testing.assert_array_equal(y, np.repeat(norm(x[:1]), len(x), 0))
    assert sum(len(m) for m in memory._pool) <= memory.LIMIT


def test_what_is_cached_of_functions_is_bounded():
    """Of all caches in the package only those whose keys are flags, of which there are few, have no bound."""
    few = {"normzoo.backends.backend", "normzoo.backends.cpu._gathering"}
    import importlib  # noqa: PLC0415
    import pkgutil  # noqa: PLC0415

    seen = set()
    for info in pkgutil.walk_packages(nz.__path__, "normzoo."):
        if any(part in info.name for part in (".cuda", ".torch", ".sklearn")) or info.name.endswith("__main__"):
            continue
        module = importlib.import_module(info.name)
        for name, function in vars(module).items():
            if not hasattr(function, "cache_parameters") or function.__module__ != info.name:
                continue
            full = f"{info.name}.{name}"
            seen.add(full)
            flags = set(function.__wrapped__.__annotations__.values()) <= {bool, "bool"} or info.name.startswith(
                "normzoo.backends.cpu."
            )
            assert function.cache_parameters()["maxsize"] is not None or full in few or flags, full
    assert len(seen) > 10


GROWTH = """
import resource, sys
import numpy as np
import normzoo as nz

def size():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * resource.getpagesize()

calls = int(sys.argv[1])
x = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
dy = x.copy()
norms = [nz.LayerNorm(64), nz.BatchNorm(64), nz.RMSNorm(64), nz.GroupNorm(4, 64)]
for norm in norms:
    for _ in range(2000):
        norm(x); norm.backward(dy)
before = size()
for call in range(calls):
    norm = norms[call & 3]
    norm(x)
    norm.backward(dy)
    if call % 1000 == 0:  # errors leave nothing behind
        try:
            norm(x[:, 1:])
        except ValueError:
            pass
print(size() - before)
"""


@lists_processes
@pytest.mark.parametrize("calls", [20_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_nothing_grows_with_the_number_of_calls(calls):
    """Less than a byte a call: whatever a call left would be 16 at least."""
    grown = int(script(GROWTH.replace("int(sys.argv[1])", str(calls)), timeout=900).stdout)
    print(f"{calls} calls forward and back: {grown} bytes more")
    assert grown < max(calls, 300_000)
