"""Every norm, layout, dtype and set of parameters: reference against the oracles, cpu against reference, both ways."""

import numpy as np
import pytest

import normzoo as nz
from tests import check, oracles
from tests.cases import CASES, channels_last_strides, draw, filled

BACKENDS = ["reference", "cpu"]
each_case = pytest.mark.parametrize("case", CASES, ids=str)
each_backend = pytest.mark.parametrize("backend", BACKENDS)


def layout_of(a):
    """Strides of the axes that have any."""
    return [stride for stride, size in zip(a.strides, a.shape, strict=True) if size > 1]


def parameters(norm):
    return (None if p is None else p.astype(np.float64) for p in (norm.weight, norm.bias))


@each_case
@each_backend
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_forward_and_backward_match_the_oracle(case, backend, dtype, rng):
    x, dy = draw(case, rng, dtype)
    norm = filled(case.norm(dtype=dtype), rng)
    with nz.use(backend):
        y = norm(x)
        dx = norm.backward(dy)
    exact, (w, b) = x.astype(np.float64), parameters(norm)
    check.close(y, case.oracle(exact, w, b), check.forward_tolerance(dtype))
    tolerance = check.backward_tolerance(dtype)
    check.gradient_matches(lambda v: case.oracle(v, w, b), exact, dx, dy, rng, tolerance)
    assert set(norm.grads) == set(case.parameters)
    for name, gradient in norm.grads.items():
        assert gradient.dtype == dtype
        values = {"weight": w, "bias": b}
        check.gradient_matches(
            lambda v, name=name, values=values: case.oracle(exact.astype(complex), *(values | {name: v}).values()),
            values[name], gradient, dy, rng, tolerance,
        )  # fmt: skip


@each_case
@pytest.mark.parametrize("layout", ["channels-last strides", "channel_axis=-1", "contiguous"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_cpu_matches_reference_in_every_layout(case, layout, dtype, rng):
    x, dy = draw(case, rng, dtype)
    options = {}
    if layout == "channels-last strides":
        x, dy = channels_last_strides(x), channels_last_strides(dy)
    elif layout == "channel_axis=-1":
        if not case.channels:
            pytest.skip("has no channel_axis")
        x, dy = (np.ascontiguousarray(np.moveaxis(a, 1, -1)) for a in (x, dy))
        options["channel_axis"] = -1
    norm = filled(case.norm(dtype=dtype, **options), rng)
    results = []
    for backend in BACKENDS:
        with nz.use(backend):
            y, saved = norm.forward(x)
            results.append((y, *saved.backward(dy)))
    for result in results[1][:2]:
        assert layout_of(result) == layout_of(x)
    for expected, actual, tolerance in zip(
        *results, [check.forward_tolerance(dtype), *[check.backward_tolerance(dtype)] * 3], strict=True
    ):
        if expected is not None:
            check.close(actual, expected, tolerance)


@each_case
@each_backend
@pytest.mark.parametrize("kept", [(), ("weight",), ("bias",), ("weight", "bias")], ids=lambda k: "+".join(k) or "none")
def test_any_of_the_parameters_may_be_absent(case, backend, kept, rng):
    kept = tuple(name for name in kept if name in case.parameters)
    x, dy = draw(case, rng)
    norm = filled(case.norm(dtype=np.float64), rng)
    for name in case.parameters:
        if name not in kept:
            del norm.params[name]
    with nz.use(backend):
        y = norm(x)
        dx = norm.backward(dy)
    w, b = parameters(norm)
    check.close(y, case.oracle(x, w, b), check.EXACT)
    check.gradient_matches(lambda v: case.oracle(v, w, b), x, dx, dy, rng, check.EXACT)
    assert set(norm.grads) == set(kept)


@each_backend
@pytest.mark.parametrize("shape", [(6, 5), (3, 5, 17), (4, 5, 3, 7)], ids=str)
@pytest.mark.parametrize("affine", [True, False])
def test_evaluation_mode_takes_the_statistics_as_constants(backend, shape, affine, rng):
    x, dy = rng.standard_normal((2, *shape))
    norm = filled(nz.BatchNorm(5, affine=affine, dtype=np.float64), rng).eval()
    norm.running_mean[...], norm.running_var[...] = rng.standard_normal(5), rng.uniform(0.5, 2, 5)
    state = norm.state_dict()
    with nz.use(backend):
        y = norm(x)
        dx = norm.backward(dy)

    def oracle(v, w=norm.weight, b=norm.bias):
        return oracles.batch_norm_eval(v, norm.running_mean, norm.running_var, w, b)

    check.close(y, oracle(x), check.EXACT)
    check.gradient_matches(oracle, x, dx, dy, rng, check.EXACT)
    if affine:
        check.gradient_matches(
            lambda w: oracle(x.astype(complex), w), norm.weight, norm.grads["weight"], dy, rng, check.EXACT
        )
        check.close(norm.grads["bias"], dy.sum(axis=tuple(a for a in range(dy.ndim) if a != 1)), check.EXACT)
    for name, value in norm.state_dict().items():
        check.same_bits(value, state[name])


@each_backend
@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize(
    ("shape", "dim"), [((5, 33), 1), ((3, 17, 4), 1), ((3, 4, 5, 6), (1, 3)), ((4, 9), -2)], ids=str
)
def test_normalize(backend, p, shape, dim, rng):
    x, dy = rng.standard_normal((2, *shape))
    axes = [a % len(shape) for a in (dim if isinstance(dim, tuple) else (dim,))]
    with nz.use(backend):
        y, saved = nz.functional.normalize(x, p, dim, return_saved=True)
        dx = saved.backward(dy).x
    check.close(y, oracles.lp_normalize(x, p, axes), check.EXACT)
    check.gradient_matches(lambda v: oracles.lp_normalize(v, p, axes), x, dx, dy, rng, check.EXACT)


@each_backend
def test_normalize_below_eps_is_linear(backend, rng):
    x, dy = rng.standard_normal((2, 3, 8))
    x[1] *= 1e-3
    x[2] = 0
    with nz.use(backend):
        for p in (1, 2, 3):
            y, saved = nz.functional.normalize(x, p, 1, eps=0.1, return_saved=True)
            check.close(y[1:], x[1:] / 0.1, check.EXACT)
            check.close(saved.backward(dy).x[1:], dy[1:] / 0.1, check.EXACT)


def test_normalize_of_other_orders():
    x = np.array([[1.0, 3.0, -3.0]])
    dy = np.array([[1.0, 2.0, 3.0]])
    y, saved = nz.functional.normalize(x, np.inf, return_saved=True)
    check.close(y, x / 3, check.EXACT)
    # both 3 and -3 are the largest: each has half the slope
    check.close(saved.backward(dy).x, np.array([[1 / 3, 2 / 3 + 1 / 9, 1 - 1 / 9]]), check.EXACT)
    y, saved = nz.functional.normalize(x, 0, return_saved=True)
    check.close(y, x / 3, check.EXACT)
    check.close(saved.backward(dy).x, dy / 3, check.EXACT)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("shape", [(2, 7, 5), (1, 3, 4, 2)], ids=str)
def test_local_response_norm(size, shape, rng):
    x, dy = rng.standard_normal((2, *shape))
    y, saved = nz.functional.local_response_norm(x, size, 0.5, 0.7, 2.0, return_saved=True)

    def oracle(v):
        return oracles.local_response_norm(v, size, 0.5, 0.7, 2.0)

    check.close(y, oracle(x), check.EXACT)
    check.gradient_matches(oracle, x, saved.backward(dy).x, dy, rng, check.EXACT)
    last = nz.functional.local_response_norm(np.moveaxis(x, 1, -1), size, 0.5, 0.7, 2.0, channel_axis=-1)
    check.same_bits(np.moveaxis(last, -1, 1), y)
