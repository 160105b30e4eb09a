"""Strange values: what is defined is right on both backends, what is not stays in its set, and nothing raises or warns."""

import ctypes
import platform
import threading

import numpy as np
import pytest

import normzoo as nz
from tests import check
from tests.cases import CASES, draw, filled

SOME = [case for case in CASES if case.id in ("batch_norm-4d", "layer_norm-last", "group_norm-4d", "rms_norm-channels")]


def values(x):
    """Arrays of x's shape and of any magnitude."""
    for size in (1e-45, 1e-42, 1e-38, 1e-20, 1e20, 3e37):
        with np.errstate(all="ignore"):
            yield f"{size:g}", (x * np.float32(size)).astype(np.float32)
    for value in (0.0, -0.0, 1e-45, 7.25, 3e38):
        yield f"constant {value:g}", np.full_like(x, value)
    mixed = x.copy()
    mixed[..., ::2] *= np.float32(1e30)
    yield "mixed", mixed


@pytest.mark.parametrize("case", SOME, ids=str)
def test_any_magnitude(case, rng):
    """Against the reference, which computes in float64; a constant set gives exactly the bias where there is a mean."""
    x, dy = draw(case, rng, np.float32)
    norm = filled(case.norm(), rng)
    for name, strange in values(x):
        y, saved = norm.forward(strange)
        dx = saved.backward(dy).x
        with nz.use("reference"):
            exact, kept = norm.forward(strange)
            dexact = kept.backward(dy).x
        assert np.isfinite(y).all(), name
        check.close(y, exact, check.FORWARD32)
        scale = float(np.abs(dexact).max())
        if scale > 0:
            check.close(dx, dexact, 2e-5, scale)
        if name.startswith("constant") and "rms" not in case.id:
            np.testing.assert_array_equal(y, norm.forward(np.zeros_like(x))[0])


@pytest.mark.parametrize("case", SOME, ids=str)
def test_nan_and_inf_are_never_silent_numbers(case, rng):
    """Those in x come out in their set and in its dx; those in dy come out in dx."""
    x, dy = draw(case, rng, np.float32)
    norm = filled(case.norm(), rng)
    for poison in (np.nan, np.inf, -np.inf):
        bad = x.copy()
        bad[(0,) * x.ndim] = poison
        y, saved = norm.forward(bad)
        assert np.isnan(y[(0,) * x.ndim]) and np.isnan(saved.backward(dy).x[(0,) * x.ndim])
        bad = dy.copy()
        bad[(0,) * x.ndim] = poison
        assert not np.isfinite(norm.forward(x)[1].backward(bad).x[(0,) * x.ndim])


@pytest.fixture
def flushing():
    """Switch the mode of this thread that takes subnormal numbers for 0 on and off."""
    library = ctypes.CDLL("libm.so.6") if platform.libc_ver()[0] == "glibc" else None
    if library is None or platform.machine() != "x86_64":
        pytest.skip("knows the floating-point environment of glibc on x86-64 only")
    held = (ctypes.c_uint32 * 8)()
    library.fegetenv(held)

    def switch(on):
        library.fegetenv(held)
        held[7] = held[7] | 0x8040 if on else held[7] & ~0x8040  # MXCSR
        library.fesetenv(held)

    yield switch
    switch(False)


def is_flushed():
    return not np.any(np.float32([1e-40]) * np.float32(1))


FLUSHED = {
    "batch_norm": (lambda: nz.BatchNorm(8), (6, 8, 5)),
    "batch_norm-eval": (lambda: nz.BatchNorm(8).eval(), (6, 8, 5)),
    "batch_norm-large": (lambda: nz.BatchNorm(8), (40, 8, 1000)),
    "layer_norm-large": (lambda: nz.LayerNorm(1000, eps=0.0), (200, 1000)),
    "rms_norm": (lambda: nz.RMSNorm(40, eps=0.0), (6, 40)),
    "l1_batch_norm": (lambda: nz.L1BatchNorm(8), (6, 8)),
    "local_response_norm": (lambda: nz.LocalResponseNorm(3), (6, 8, 5)),
}


@pytest.mark.parametrize("kind", FLUSHED)
def test_results_do_not_depend_on_the_mode_that_flushes_subnormal_numbers(kind, rng, flushing):
    """The same bits, on any number of threads, and the mode is as it was."""
    make, shape = FLUSHED[kind]
    x, dy = (rng.standard_normal((2, *shape)) * 1e-40).astype(np.float32)
    results = []
    for on in (False, True):
        norm = make()
        flushing(on)
        y = norm(x)
        dx = norm.backward(dy)
        assert is_flushed() is on
        flushing(False)
        results.append([y, dx, *norm.grads.values(), *norm.buffers.values()])
    for expected, found in zip(*results, strict=True):
        check.same_bits(found, expected)
    assert any(a.any() for a in results[0][:2])


def test_the_mode_of_one_thread_is_not_that_of_another(rng, flushing):
    x = (rng.standard_normal((200, 1000)) * 1e-40).astype(np.float32)
    norm, seen = nz.LayerNorm(1000, eps=0.0), []
    expected = norm.forward(x)[0]
    flushing(True)
    threads = [threading.Thread(target=lambda: seen.append((norm.forward(x)[0], is_flushed()))) for _ in range(2)]
    for thread in threads:
        thread.start()
    found = norm.forward(x)[0]
    for thread in threads:
        thread.join()
    flushing(False)
    for y in (found, *(y for y, _ in seen)):
        check.same_bits(y, expected)
    assert all(flag for _, flag in seen)  # a thread has the mode of the one that started it
