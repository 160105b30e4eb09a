"""What stands before and behind a norm, on the executor: kernels against the reference, and norms against the same norm
on the host. `pytest -m gpu` runs the norms on a device."""

import numpy as np
import pytest

import normzoo as nz
from normzoo.backends import backend
from normzoo.backends.activations import activation
from normzoo.backends.around import Around, Beside, BesideBack
from normzoo.backends.contract import CONSTANT, Moments
from tests import check
from tests.cuda_executor import unavailable

if reason := unavailable():
    pytest.skip(reason, allow_module_level=True)

from normzoo.backends.cuda import driver
from tests.cuda_device import HostDriver, on
from tests.test_cuda_kernels import FLOAT16, FLOAT32, FLOAT64, STORAGE, data, fresh, put

REFERENCE, CUDA = backend("reference"), backend("cuda")
RELU, SILU, GELU = (activation(name) for name in ("relu", "silu", "gelu"))

RESIDUAL, ADD = Around(residual=True), Around(residual=True, behind="add", activation=RELU)
GATE, FIRST = Around(behind="gate", activation=SILU), Around(gate_first=True, activation=SILU)
BEHIND = Around(activation=GELU)

ROW, COLUMN = ((9, 1, 1, 1024), (1, 1, 1, 1024)), ((4, 64, 16, 1), (1, 64, 1, 1))
PIECES, TALL = ((2, 3, 1, 10001), (1, 3, 1, 1)), ((2, 1500, 72, 1), (1, 1, 72, 1))
WIDE, RUNS, TINY = ((2, 1, 1, 8200), (1, 1, 1, 8200)), ((2, 50, 12, 49), (1, 1, 12, 1)), ((5, 1, 1, 2), (1, 1, 1, 2))

# (view and that of parameters, what stands around, does ds come too, moments, storage)
CASES = [
    (ROW, RESIDUAL, True, Moments(), FLOAT32),
    (ROW, GATE, False, Moments(center=False), FLOAT32),
    (COLUMN, ADD, True, Moments(), FLOAT32),
    (TALL, FIRST, True, Moments(), FLOAT32),
    (ROW, FIRST, True, Moments(), FLOAT16),
    (ROW, ADD, True, Moments(), FLOAT16),
    (ROW, BEHIND, False, Moments(), FLOAT32),
    (COLUMN, GATE, False, Moments(), FLOAT32),
    (COLUMN, FIRST, False, Moments(), FLOAT32),
    (PIECES, ADD, True, Moments(), FLOAT32),
    (PIECES, RESIDUAL, False, Moments(power=1), FLOAT32),
    (PIECES, FIRST, True, Moments(power=1), FLOAT32),
    (TALL, ADD, True, Moments(), FLOAT32),
    (TALL, GATE, False, Moments(), FLOAT16),
    (WIDE, RESIDUAL, True, Moments(), FLOAT32),
    (WIDE, ADD, True, Moments(), FLOAT32),
    (RUNS, ADD, True, Moments(), FLOAT32),
    (TINY, ADD, True, Moments(), FLOAT32),
    (TINY, FIRST, True, Moments(), FLOAT32),
    (ROW, ADD, True, CONSTANT, FLOAT32),
    (COLUMN, FIRST, True, CONSTANT, FLOAT32),
]


def name_of(case):
    (view, _), around, ds, moments, store = case
    said = "residual " * around.residual + "first " * around.gate_first + f"{around.behind} " + "ds " * ds
    act = around.activation.name if around.activation else ""
    return f"{'x'.join(map(str, view))} {said}{act} {moments.power}{moments.center} {store.name}".replace("  ", " ")


def passes(of, case, arrays, copy_in, copy_out, made):
    """y, s, stats, dx, dweight, dbias, dother by a backend."""
    (view, parameters), around, has_ds, moments, store = case
    x, dy, weight, bias, residual, other, ds, stats = (None if a is None else copy_in(a) for a in arrays)
    like = arrays[0]
    y, s, dx, dother = (made(like) for _ in range(4))
    dweight, dbias = made(arrays[2]), made(arrays[2])
    other = other if around.behind or around.gate_first else None
    beside = Beside(residual if around.residual else None, s if around.residual else None, other, 0.5)
    forward = around._replace(ds=False)
    kinds = (FLOAT32, store) if of is CUDA else (FLOAT64, FLOAT64)
    if moments == CONSTANT:
        of.apply(view, parameters, *kinds, forward)(x, stats, weight, bias, y, beside)
    else:
        stats = of.forward(view, parameters, moments, *kinds, forward)(x, weight, bias, 1e-5, y, beside)
    v = s if around.residual else x
    back = around._replace(residual=False, ds=has_ds)
    given = BesideBack(bias, other, None if other is None else dother, ds if has_ds else None)
    run = of.backward(view, parameters, moments, *kinds, back)
    run(dy, v, stats, weight, 1e-5, dx, dweight, dbias, given)
    found = {"y": y, "dx": dx, "dweight": dweight, "dbias": dbias}
    found |= {"s": s} if around.residual else {}
    found |= {"dother": dother} if other is not None else {}
    return {name: np.asarray(copy_out(a), np.float64) for name, a in found.items()}


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, id=name_of(c), marks=() if i in (0, 2) else pytest.mark.slow) for i, c in enumerate(CASES)],
)
def test_kernels_with_something_around_compute_what_the_reference_does(case, rng):
    (view, parameters), _, _, moments, store = case
    x, dy, weight, bias = data(rng, view, parameters, FLOAT32, store)
    residual, other, ds = (rng.standard_normal(view).astype(store) for _ in range(3))
    stats = rng.uniform(0.5, 2, (3, view[0], view[2])) if moments == CONSTANT else None
    arrays = x, dy, weight, bias, residual, other, ds, stats

    def made_like(a):
        # s is stored as x is: what follows is that of what was stored
        return np.full(a.shape, np.nan, a.dtype)

    expected = passes(REFERENCE, case, arrays, np.copy, np.copy, made_like)
    with driver.use(HostDriver(("random", 2), checked=x.size < 5000)):
        found = passes(CUDA, case, arrays, put, lambda a: a.copy_to_host(), fresh)
    assert found.keys() == expected.keys()
    rstd = 1 if stats is not None else float(np.max(1 / np.sqrt(x.astype(np.float64).var() * 1e-2 + 1e-5)))
    for name, e in expected.items():
        scale = max(1.0, float(np.abs(e).max()))
        if name in ("dweight", "dbias"):
            scale = max(scale, x.size / e.size)
        elif name == "dx" and view[1] * view[3] < 8:
            scale = max(scale, rstd)
        # reference and kernels round y, dx and dother to the storage, each once
        allowed = 2e-6 * scale + 2.1 * STORAGE[store] * np.abs(e) + 2e-7 * bool(STORAGE[store])
        error = np.abs(found[name] - e)
        assert (error <= allowed).all(), f"{name}: {error.max():.2e} of {scale:.2e}"


@pytest.mark.parametrize("name", ["clip", "elu", "gelu", "gelu_tanh", "hardsigmoid", "hardswish", "leaky_relu", "mish",
                                  "relu", "relu6", "selu", "sigmoid", "silu", "softplus", "tanh"])  # fmt: skip
@pytest.mark.slow
def test_every_activation_has_its_value_and_derivative_in_kernels(name, rng):
    act = activation(name)
    case = ((3, 1, 1, 64), (1, 1, 1, 1)), Around(activation=act), False, CONSTANT, FLOAT32
    x = np.linspace(-12, 12, 192).reshape(3, 1, 1, 64).astype(np.float32)
    x.reshape(-1)[:3] = [0.0, 1e30, -1e30]
    ones, zeros = np.ones((1, 1, 1, 1), np.float32), np.zeros((1, 1, 1, 1), np.float32)
    stats = np.stack([np.zeros((3, 1)), np.ones((3, 1)), np.ones((3, 1))])
    arrays = x, np.ones_like(x), ones, zeros, None, None, None, stats
    with driver.use(HostDriver()):
        found = passes(CUDA, case, arrays, put, lambda a: a.copy_to_host(), fresh)
    z = x.astype(np.float64)
    with np.errstate(all="ignore"):
        value, slope = act.value(z), act.derivative(z) * np.ones_like(z)
    np.testing.assert_allclose(found["y"], value, rtol=4e-6, atol=4e-7)
    np.testing.assert_allclose(found["dx"], slope, rtol=4e-6, atol=4e-6)


def test_s_may_lie_where_x_or_the_residual_lay(rng):
    """A thread reads the first value of a set that another thread owns: s is written when all have read."""
    view, parameters = (2, 1, 1, 4096), (1, 1, 1, 4096)
    x, _, weight, bias = data(rng, view, parameters)
    residual = rng.standard_normal(view).astype(np.float32)
    run = CUDA.forward(view, parameters, Moments(), FLOAT32, FLOAT32, RESIDUAL)
    with driver.use(HostDriver(("random", 5), checked=True)):
        results = []
        for over in (None, 0, 1):
            v, r, w, a, y = put(x), put(residual), put(weight), put(bias), fresh(x)
            s = fresh(x) if over is None else (v, r)[over]
            run(v, w, a, 1e-5, y, Beside(r, s))
            results.append((y.copy_to_host(), s.copy_to_host()))
    check.same_bits(results[0][1], x + residual)
    for y, s in results[1:]:
        check.same_bits(y, results[0][0])
        check.same_bits(s, results[0][1])


@pytest.mark.parametrize("where", ["executor", pytest.param("gpu", marks=pytest.mark.gpu)])
def test_norms_with_something_around_on_device_arrays(where, rng):
    x, r, z, dy, ds = rng.standard_normal((5, 9, 40)).astype(np.float32)
    make = lambda **more: nz.LayerNorm(40, **more)  # noqa: E731
    host, norm = make(activation="relu"), make(activation="relu")
    with nz.use("reference"):
        y, s = host(x, residual=r, add=z)
        dx = host.backward(dy, ds=ds)
    with on(where):
        norm.to("cuda")
        there = {name: nz.device_array(a) for name, a in {"residual": r, "add": z}.items()}
        y_found, s_found = norm(nz.device_array(x), **there)
        dx_found = norm.backward(nz.device_array(dy), ds=nz.device_array(ds))
        check.close(y_found.copy_to_host(), y, check.FORWARD32)
        check.same_bits(s_found.copy_to_host(), s)
        check.close(dx_found.copy_to_host(), dx, check.BACKWARD32)
        for name in ("weight", "bias", "residual", "add"):
            check.close(norm.grads[name].copy_to_host(), host.grads[name], check.BACKWARD32, 9.0)
        # a residual that is repeated, and memory for s
        target = nz.device_array(np.zeros_like(x))
        y_found, s_found = norm(nz.device_array(x), residual=nz.device_array(r[0]), residual_out=target)
        assert s_found is target
        with nz.use("reference"):
            y, s = host(x, residual=r[0])
        check.close(y_found.copy_to_host(), y, check.FORWARD32)
        check.same_bits(target.copy_to_host(), s)
        with pytest.raises(TypeError, match=r"LayerNorm.*residual on the host"):
            norm(nz.device_array(x), residual=r)
