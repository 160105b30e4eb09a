"""The batch family beyond its formulas: what equals what, what is remembered, and what each norm refuses."""

import copy
import itertools

import numpy as np
import pytest

import normzoo as nz
from normzoo.backends import backend
from normzoo.backends.forms import Cells
from tests import check
from tests.zoo import batch
from tests.zoo.test_zoo import snapshot

SHAPE = (6, 5, 17)


def draw(rng, shape=SHAPE, dtype=np.float64):
    return rng.standard_normal(shape).astype(dtype), rng.standard_normal(shape).astype(dtype)


def filled(norm, rng):
    for name in ("weight", "bias"):
        if getattr(norm, name) is not None:
            getattr(norm, name)[...] = rng.standard_normal(getattr(norm, name).shape)
    return norm


def agree(norm, twin, x, dy, *arguments, tolerance=1e-12):
    """y and all gradients of the two, which share weight and bias."""
    for name in ("weight", "bias"):
        getattr(norm, name)[...] = getattr(twin, name)
    check.close(norm(x, *arguments), twin(x), tolerance)
    check.close(norm.backward(dy), twin.backward(dy), tolerance)
    for name in twin.params:
        check.close(norm.grads[name].reshape(-1), twin.grads[name], tolerance)


@pytest.mark.parametrize(
    ("norm", "arguments"),
    [
        (lambda: nz.GhostBatchNorm(5, 1, dtype=np.float64), ()),
        (lambda: nz.SplitBatchNorm(5, num_splits=1, dtype=np.float64), ()),
        (lambda: nz.DomainBatchNorm(5, 1, dtype=np.float64), (0,)),
        (lambda: nz.EMABatchNorm(5, momentum=1, dtype=np.float64), ()),
        (lambda: nz.BatchRenorm(5, eps=1e-5, rmax=1, dmax=0, dtype=np.float64), ()),
        (lambda: nz.AlphaBatchNorm(5, alpha=0, dtype=np.float64).eval(), ()),
        (lambda: nz.BatchInstanceNorm(5, dtype=np.float64), ()),
    ],
    ids=["ghost", "split", "domain", "ema", "renorm", "alpha", "batch_instance"],
)
def test_these_are_batch_norm(norm, arguments, rng):
    norm, twin = norm(), filled(nz.BatchNorm(5, dtype=np.float64), rng)
    for scale in (1, 3):  # twice: what the first batch left must not be seen
        x, dy = draw(rng)
        agree(norm, twin, scale * x + scale, dy, *arguments)


@pytest.mark.parametrize(
    "norm",
    [
        lambda: nz.GhostBatchNorm(5, 1, dtype=np.float64),
        lambda: nz.SplitBatchNorm(5, num_splits=1, dtype=np.float64),
        lambda: nz.BatchInstanceNorm(5, dtype=np.float64),
        lambda: nz.SwitchableNorm(5, dtype=np.float64),
        lambda: nz.AlphaBatchNorm(5, alpha=1, dtype=np.float64),
    ],
    ids=["ghost", "split", "batch_instance", "switchable", "alpha"],
)
@pytest.mark.parametrize("momentum", [0.1, None])
def test_these_remember_what_batch_norm_does(norm, momentum, rng):
    norm, twin = norm(), nz.BatchNorm(5, momentum=momentum, dtype=np.float64)
    norm.momentum = momentum
    for _ in range(3):
        x, _ = draw(rng)
        norm(x), twin(x)
    for name, value in twin.buffers.items():
        check.close(norm.buffers[name].reshape(value.shape), value, 1e-13)


def test_frozen_and_alpha_1_are_batch_norm_in_evaluation(rng):
    twin = filled(nz.BatchNorm(5, dtype=np.float64), rng)
    twin(draw(rng)[0])
    x, dy = draw(rng)
    y, dx = twin.eval()(x), twin.backward(dy)
    alpha = nz.AlphaBatchNorm(5, alpha=1, dtype=np.float64).eval()
    alpha.load_state_dict(twin.state_dict())
    frozen = nz.FrozenBatchNorm(5, dtype=np.float64)
    state = twin.state_dict()
    del state["num_batches_tracked"]
    frozen.load_state_dict(state)
    for norm in (alpha, frozen):
        check.same_bits(norm(x), y)
        check.same_bits(norm.backward(dy), dx)
    assert frozen.params == frozen.grads == {}
    assert frozen.forward(x)[1].backward(dy).weight is None


@pytest.mark.parametrize(
    ("k", "part"),
    [
        (0, lambda: nz.InstanceNorm(5, affine=True, dtype=np.float64)),
        (1, lambda: nz.GroupNorm(1, 5, dtype=np.float64)),
        (2, lambda: nz.BatchNorm(5, dtype=np.float64)),
    ],
    ids=["instance", "layer", "batch"],
)
def test_switchable_with_one_hot_weights_is_its_part(k, part, rng):
    norm, twin = nz.SwitchableNorm(5, dtype=np.float64), filled(part(), rng)
    for weights in (norm.mean_weight, norm.var_weight):
        weights[:] = 0
        weights[k] = 1000
    agree(norm, twin, *draw(rng))


def test_batch_instance_norm_at_0_is_instance_norm(rng):
    norm = nz.BatchInstanceNorm(5, dtype=np.float64)
    norm.rho[:] = 0
    agree(norm, filled(nz.InstanceNorm(5, affine=True, dtype=np.float64), rng), *draw(rng))
    assert norm.grads["rho"].all(), "the bounds are inside"
    norm.rho[:] = -0.1
    norm(draw(rng)[0])
    norm.backward(draw(rng)[1])
    assert not norm.grads["rho"].any()


def test_a_virtual_sample_joins_its_reference(rng):
    norm, twin = nz.VirtualBatchNorm(5, dtype=np.float64), filled(nz.BatchNorm(5, dtype=np.float64), rng)
    for name in twin.params:
        getattr(norm, name)[...] = getattr(twin, name)
    reference, x = draw(rng)
    check.close(norm.refer(reference), twin(reference), 1e-13)
    y = norm(x)
    for i in range(len(x)):
        check.close(y[i], twin(np.concatenate([reference, x[i : i + 1]]))[-1], 1e-12)
        check.same_bits(norm(x[i : i + 1])[0], y[i])  # whatever the batch


def test_a_virtual_norm_needs_a_reference(rng):
    norm = nz.VirtualBatchNorm(5)
    with pytest.raises(RuntimeError, match=r"VirtualBatchNorm\(5\).*refer"):
        norm(draw(rng, dtype=np.float32)[0])
    for bad, error in (([1.0], TypeError), (np.zeros((0, 5), np.float32), ValueError), (np.zeros((2, 4)), ValueError)):
        with pytest.raises(error, match="VirtualBatchNorm"):
            norm.refer(bad)
    assert norm.reference_size == 0


@pytest.mark.parametrize("momentum", [0.1, 1, None])
def test_ghosts_update_the_running_statistics_in_order(momentum, rng):
    norm, twin = nz.GhostBatchNorm(5, 3, momentum=momentum), nz.BatchNorm(5, momentum=momentum)
    for _ in range(2):
        x, _ = draw(rng, dtype=np.float32)
        norm(x)
        for part in np.split(x, 3):
            twin(part)
    for name in ("running_mean", "running_var"):
        check.close(norm.buffers[name], twin.buffers[name], 1e-6)
    assert norm.num_batches_tracked == 2


def test_untracked_ghosts_normalize_themselves_in_evaluation_too(rng):
    norm = nz.GhostBatchNorm(5, 2, track_running_stats=False)
    x, _ = draw(rng, dtype=np.float32)
    check.same_bits(norm.eval()(x), norm.train()(x))
    assert norm.buffers == {}


@pytest.mark.parametrize("momentum", [0.3, None])
def test_every_split_and_domain_has_its_own_memory(momentum, rng):
    split = nz.SplitBatchNorm(5, momentum=momentum, num_splits=2)
    domains = nz.DomainBatchNorm(5, 3, momentum=momentum)
    alone = [nz.BatchNorm(5, momentum=momentum) for _ in range(2)]
    for _ in range(3):
        x, _ = draw(rng, dtype=np.float32)
        split(x)
        for i, part in enumerate(np.split(x, 2)):
            alone[i](part)
            domains(part, i)
    for name in ("running_mean", "running_var"):
        for norm in (split, domains):
            for i in range(2):
                check.close(norm.buffers[name][i], alone[i].buffers[name], 1e-6)
    assert domains.num_batches_tracked.tolist() == [3, 3, 0]
    assert (domains.running_var[2] == 1).all() and (domains.running_mean[2] == 0).all()
    for untracked in (nz.DomainBatchNorm(5, 2, track_running_stats=False), nz.DomainBatchNorm(5, 2, affine=False)):
        untracked(x, 1)
        untracked.backward(x)
        assert set(untracked.grads) == set(untracked.params)


def test_domains_are_checked(rng):
    norm = nz.DomainBatchNorm(5, 2)
    x, _ = draw(rng, dtype=np.float32)
    before = snapshot(norm)
    for bad, error in (
        (2, ValueError),
        (-1, ValueError),
        (1.0, TypeError),
        (True, TypeError),
        (np.array([1]), TypeError),
    ):
        with pytest.raises(error, match=r"DomainBatchNorm\(5, 2\).*domain"):
            norm(x, bad)
    for name, old in before.items():
        check.same_bits((norm.params | norm.buffers)[name], old)
    state = norm.state_dict() | {"num_batches_tracked": np.array([4, 5])}
    norm.load_state_dict(state)
    assert norm.num_batches_tracked.tolist() == [4, 5]
    for bad in (3, np.array(3), np.array([1, 2, 3]), np.array([1, -2])):
        with pytest.raises(ValueError, match="num_batches_tracked"):
            norm.load_state_dict(state | {"num_batches_tracked": bad})


def test_renorm_follows_the_paper_for_several_batches(rng):
    norm = nz.BatchRenorm(5, momentum=0.3, rmax=lambda n: 1 + n, dmax=lambda n: 0.1 * n, dtype=np.float64)
    mean, std = np.zeros(5), np.ones(5)
    for batches in range(4):
        x = 3 * draw(rng)[0] + 1
        found, var = batch.batch_moments(x)
        rmax, dmax, sigma = 1 + batches, 0.1 * batches, np.sqrt(var + 1e-3)
        r = np.clip(sigma / std, 1 / rmax, rmax)
        d = np.clip((found - mean) / std, -dmax, dmax)
        expected = batch.by(x, found, var, r, d, eps=1e-3)
        check.close(norm(x), expected, 1e-12)
        mean, std = mean + 0.3 * (found - mean), std + 0.3 * (sigma - std)
        check.close(norm.running_mean, mean, 1e-13)
        check.close(norm.running_std, std, 1e-13)
    check.close(norm.eval()(x), (x - mean[:, None]) / std[:, None], 1e-12)


def test_renorm_bounds_have_the_papers_schedule():
    norm = nz.BatchRenorm(5)
    expected = {0: (1, 0), 5000: (1, 0), 15000: (1 + 4 / 7, 2.5), 25000: (15 / 7, 5), 40000: (3, 5), 10**6: (3, 5)}
    for batches, bounds in expected.items():
        norm.num_batches_tracked[...] = batches
        assert norm.bounds() == pytest.approx(bounds)
    for options in ({"rmax": 0.5}, {"dmax": -1}, {"rmax": lambda n: 0.9}):
        with pytest.raises(ValueError, match="BatchRenorm"):
            nz.BatchRenorm(5, **options)
    with pytest.raises(TypeError, match="rmax"):
        nz.BatchRenorm(5, rmax="3")


@pytest.mark.parametrize("momentum", [0.25, None])
def test_ema_trains_and_evaluates_by_one_formula(momentum, rng):
    norm = nz.EMABatchNorm(5, momentum=momentum, dtype=np.float64)
    means = []
    for _ in range(3):
        x, _ = draw(rng)
        y = norm(x)
        check.close(copy.deepcopy(norm).eval()(x), y, 1e-12)
        means.append(batch.batch_moments(x)[0])
    a, b, c = means
    expected = (a + b + c) / 3 if momentum is None else 0.75 * (0.75 * a + 0.25 * b) + 0.25 * c
    check.close(norm.running_mean, expected, 1e-13)


def test_alpha_is_checked():
    norm = nz.AlphaBatchNorm(5)
    for bad in (-0.1, 1.1):
        with pytest.raises(ValueError, match=r"AlphaBatchNorm\(5\): expected alpha"):
            norm.alpha = bad
    with pytest.raises(TypeError, match="alpha"):
        nz.AlphaBatchNorm(5, alpha="all")
    assert norm.alpha == 0.9


def test_l1_and_l_inf_divide_a_normal_x_by_about_its_std(rng):
    """The constants are there for that: sqrt(pi / 2) exactly, C(n) as the middle of bounds, so to a third or so."""
    x = rng.normal(3, 2, (20000, 2)).astype(np.float32)
    for norm, width in ((nz.L1BatchNorm(2), 0.02), (nz.LInfBatchNorm(2, 10), 0.35)):
        assert abs(norm(x).std() - 1) < width
        check.close(norm.running_scale, 0.9 + 0.1 * np.full(2, 2.0), 0.2 * width)
        check.close(norm.running_mean, 0.1 * x.mean(axis=0, dtype=np.float64), 1e-7)


def test_of_equal_deviations_the_first_are_the_largest(rng):
    norm = nz.LInfBatchNorm(1, 2, dtype=np.float64)
    x = np.array([[1.0], [-1.0], [0.0], [1.0], [-1.0]])
    dy = rng.standard_normal(x.shape)
    norm(x)
    dx = norm.backward(dy)
    step = 1e-7 * np.array([[3.0], [-3.0], [0.0], [-1.0], [1.0]])  # makes the first two the largest
    slope = ((norm(x + step) - norm.forward(x)[0]) * dy).sum()
    assert slope == pytest.approx((dx * step).sum(), rel=1e-5)


@pytest.mark.parametrize("shape", [(6, 3, 4), (2, 3, 7), (1, 3, 11), (40, 3), (12, 3, 5, 2)], ids=str)
@pytest.mark.parametrize("k", [1, 2, 7])
@pytest.mark.parametrize("draws", ["normal", "few values", "far from zero", "equal", "one outlier"])
def test_the_largest_are_those_that_a_sort_finds(draws, k, shape, rng):
    x = rng.standard_normal(shape)
    if draws == "few values":
        x = np.round(2 * x) / 2
    elif draws == "far from zero":
        x = 1e6 + x
    elif draws == "equal":
        x[...] = 3.0
    elif draws == "one outlier":
        x[0, 1] = 1e9
    for v, last in itertools.product((x, x.astype(np.float32)), (False, True)):
        values = v.reshape(len(v), 3, -1)
        mean = values.mean(axis=(0, 2), dtype=np.float64)
        if values[:, 0].size < k:
            continue
        dims = Cells(len(v), 3, values.shape[2], last)
        held = np.ascontiguousarray(values.swapaxes(1, 2) if last else values)
        own = np.arange(v.size).reshape(held.shape)  # places in memory, of each channel
        own = np.moveaxis(own, 2 if last else 1, 0).reshape(3, -1)
        far = np.abs(np.moveaxis(values, 1, 0).reshape(3, -1) - mean[:, None])
        expected = np.take_along_axis(own, np.sort(np.argsort(-far, axis=1, kind="stable")[:, :k], axis=1), axis=1)
        for name in ("cpu", "reference"):
            channels, places = backend(name).largest(dims, k, v.dtype)(held, mean)
            np.testing.assert_array_equal(channels, np.repeat(np.arange(3), k))
            np.testing.assert_array_equal(places, expected.ravel())


@pytest.mark.parametrize("last", [False, True])
def test_the_largest_of_many_values_in_parts(last, rng):
    """Rising values are each larger than all before; NaN is never among them."""
    dims, shape = Cells(3, 2, 70001, last), (3, 70001, 2) if last else (3, 2, 70001)
    drawn = rng.standard_normal(shape).astype(np.float32)
    rising = np.linspace(-1, 0, drawn.size, dtype=np.float32).reshape(shape)
    broken = drawn.copy()
    broken.reshape(-1)[5] = np.nan
    for x in (drawn, rising, broken):
        mean, k = np.zeros(2), 10
        expected = backend("reference").largest(dims, k, x.dtype)(x, mean)
        found = backend("cpu").largest(dims, k, x.dtype)(x, mean)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)


def power_norm(batches, gradients, weight, alpha, eps=1e-5):
    """Shen et al. 2020, algorithms 1 and 2, batch after batch: [(y, dx)], phi, nu."""
    phi, nu, found = np.ones(weight.shape), np.zeros(weight.shape), []
    for x, dy in zip(batches, gradients, strict=True):
        y, dx = np.empty_like(x), np.empty_like(x)
        for c in range(len(weight)):
            xhat = x[:, c] / np.sqrt(phi[c] + eps)
            y[:, c] = xhat * weight[c]
            g = dy[:, c] * weight[c]
            dx[:, c] = (g - nu[c] * xhat) / np.sqrt(phi[c] + eps)
            nu[c] = nu[c] * (1 - (1 - alpha) * (xhat**2).mean()) + (1 - alpha) * (g * xhat).mean()
            phi[c] = alpha * phi[c] + (1 - alpha) * (x[:, c] ** 2).mean()
        found.append((y, dx))
    return found, phi, nu


def test_power_norm_runs_as_in_the_paper(rng):
    norm = nz.PowerNorm(5, alpha_fwd=0.8, alpha_bkw=0.8, warmup_iters=0, bias=False, dtype=np.float64)
    norm.weight[:] = rng.standard_normal(5)
    batches, gradients = zip(*(draw(rng) for _ in range(4)), strict=True)
    expected, phi, nu = power_norm(batches, gradients, norm.weight, 0.8)
    for x, dy, (y, dx) in zip(batches, gradients, expected, strict=True):
        check.close(norm(x), y, 1e-12)
        check.close(norm.backward(dy), dx, 1e-12)
    check.close(norm.running_phi, phi, 1e-13)
    check.close(norm.nu, nu, 1e-12)
    assert norm.num_batches_tracked == 4


def test_power_norm_adds_a_batch_to_nu_once(rng):
    norm = nz.PowerNorm(5, warmup_iters=0)
    x, dy = draw(rng, dtype=np.float32)
    norm(x)
    first = norm.backward(dy)
    nu = norm.nu.copy()
    assert nu.any()
    check.same_bits(norm.backward(dy), first)
    check.same_bits(norm.nu, nu)
    norm.eval()(x)
    norm.backward(dy)
    check.same_bits(norm.nu, nu)


def test_power_norm_leaves_its_warm_up(rng):
    norm = nz.PowerNorm(5, warmup_iters=2, dtype=np.float64)
    x = 3 * draw(rng)[0]
    warm = [norm(x), norm(x)]
    check.same_bits(*warm)
    assert np.abs(norm(x) - warm[0]).max() > 0.1


TRAINED = [
    lambda **o: nz.GhostBatchNorm(5, 2, **o),
    lambda **o: nz.SplitBatchNorm(5, **o),
    lambda **o: nz.BatchRenorm(5, **o),
    lambda **o: nz.EMABatchNorm(5, **o),
    lambda **o: nz.AlphaBatchNorm(5, **o),
    lambda **o: nz.L1BatchNorm(5, **o),
    lambda **o: nz.LInfBatchNorm(5, **o),
    lambda **o: nz.SwitchableNorm(5, **o),
    lambda **o: nz.BatchInstanceNorm(5, **o),
    lambda **o: nz.PowerNorm(5, **o),
]
each_trained = pytest.mark.parametrize("norm", TRAINED, ids=lambda f: type(f()).__name__)


@each_trained
def test_statistics_that_cannot_be_written_change_nothing(norm, rng):
    norm = norm()
    list(norm.buffers.values())[1].flags.writeable = False
    before = snapshot(norm)
    with pytest.raises(ValueError, match=f"{type(norm).__name__}.*read-only"):
        norm(draw(rng, dtype=np.float32)[0])
    for name, old in before.items():
        check.same_bits((norm.params | norm.buffers)[name], old)
    assert norm.saved is None


@each_trained
def test_an_empty_batch_is_counted_and_changes_nothing_else(norm):
    norm = norm()
    before = snapshot(norm)
    x = np.zeros((0, 5, 17), np.float32)
    assert norm(x).shape == norm.backward(x).shape == x.shape
    for name, old in before.items():
        check.same_bits((norm.params | norm.buffers)[name], old + (name == "num_batches_tracked"))
    assert all((d == 0).all() for d in norm.grads.values())


@each_trained
def test_without_parameters_they_are_as_with_ones_and_zeros(norm, rng):
    full, bare = norm(), norm(affine=False)
    x, dy = draw(rng, dtype=np.float32)
    check.close(bare(x), full(x), 1e-6)
    check.close(bare.backward(dy), full.backward(dy), 1e-5)
    assert bare.weight is None and bare.bias is None
    assert set(bare.grads) == set(bare.params) == set(full.params) - {"weight", "bias"}
    half = norm(bias=False)
    check.close(half(x), full(x) if half.num_batches_tracked > 1 else norm()(x), 1e-6)
    half.backward(dy)
    assert set(half.grads) == set(full.params) - {"bias"}


@each_trained
def test_in_place_the_backward_pass_is_right_or_refused(norm, rng):
    x, dy = draw(rng, dtype=np.float32)
    wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), np.float32)
    wide[..., ::2] = x
    one, two = norm(), norm()
    one(x)
    dx = one.backward(dy)
    two(wide[..., ::2], out=wide[..., ::2])  # x was copied: it is not missed
    check.same_bits(two.backward(dy), dx)
    place = x.copy()
    three = norm()
    three(place, out=place)
    with pytest.raises(RuntimeError, match="overwritten"):
        three.backward(dy)


@each_trained
def test_sixteen_bits_are_rounded_once_on_the_way_back_too(norm, rng):
    x, dy = draw(rng, dtype=np.float16)
    narrow, wide = norm(), norm()
    narrow(x), wide(x.astype(np.float32))
    dx = wide.backward(dy.astype(np.float32))
    check.close(narrow.backward(dy).astype(np.float32), dx, 2.0**-10)


def test_large_values_do_not_overflow(rng):
    x, dy = draw(rng)
    for norm in (
        nz.EMABatchNorm(5), nz.SwitchableNorm(5), nz.BatchInstanceNorm(5), nz.L1BatchNorm(5), nz.LInfBatchNorm(5),
    ):  # fmt: skip
        twin = type(norm)(5, dtype=np.float64)
        y = norm((3e37 * x).astype(np.float32))
        check.close(y, twin(3e37 * x), 1e-5)
        check.close(norm.backward(dy.astype(np.float32)) * 1e37, twin.backward(dy) * 1e37, 1e-5)


def test_what_a_batch_must_be(rng):
    x = np.ones((5, 5, 17), np.float32)
    for norm in (nz.GhostBatchNorm(5, 2), nz.SplitBatchNorm(5)):
        with pytest.raises(ValueError, match=rf"{type(norm).__name__}\(5.*multiple of 2"):
            norm(x)
    for make in TRAINED[:7]:
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            make()(np.ones((2 if type(make()).__name__[0] in "GS" else 1, 5), np.float32))
    for norm in (nz.SwitchableNorm(5), nz.BatchInstanceNorm(5)):
        with pytest.raises(ValueError, match="more than 1 position"):
            norm(np.ones((4, 5), np.float32))
    with pytest.raises(ValueError, match="at least k = 4 values"):
        nz.LInfBatchNorm(5, 4)(np.ones((3, 5), np.float32))
