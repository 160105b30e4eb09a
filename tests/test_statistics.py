"""Statistics people can trust: what users asked the frameworks for, each with a test of its name."""

import copy
import threading
from pathlib import Path

import numpy as np
import pytest

import normzoo as nz
from normzoo import backends
from tests import check
from tests.ranks import cuts, mpiexec, together

ON_RANKS = Path(__file__).parent / "on_ranks.py"
C = 3


def batch(rng, n=6, mean=3.0, dtype=np.float64):
    return (mean + 2 * rng.standard_normal((n, C, 4))).astype(dtype)


def unchanged(norm, state):
    for name, value in norm.state_dict().items():
        check.same_bits(value, state[name])


@pytest.fixture(params=["batch_norm", "instance_norm"])
def tracked(request):
    """Makes a norm that tracks, in float64, with the given options."""
    return lambda **options: nz.create(request.param, C, track_running_stats=True, dtype=np.float64, **options)


# What users asked for


@pytest.mark.parametrize("momentum", [0.1, None])
def test_pytorch_96136_checkpointing_does_not_update_twice(momentum, tracked, rng):
    x, dy = batch(rng), batch(rng)
    once, again = tracked(momentum=momentum), tracked(momentum=momentum)
    y = once(x)
    dx = once.backward(dy)
    again(x)
    recomputed = again(x, update_stats=False)  # what a checkpoint runs on the way back
    check.same_bits(recomputed, y)
    check.same_bits(again.backward(dy), dx)
    unchanged(again, once.state_dict())
    twice = tracked(momentum=momentum)
    twice(x)
    twice(x)
    if isinstance(once, nz.BatchNorm):
        assert twice.num_batches_tracked == 2 and again.num_batches_tracked == 1


def test_pytorch_update_bn_weighs_a_ragged_last_batch_by_its_size(rng):
    x = batch(rng, 17)
    x[16:] += 100  # one sample, far from the others
    norm, even = (nz.BatchNorm(C, dtype=np.float64, momentum=None) for _ in range(2))
    parts = [x[i : i + 4] for i in range(0, 17, 4)]
    nz.recalibrate(norm, parts)
    values = np.moveaxis(x, 1, 0).reshape(C, -1)
    check.close(norm.running_mean, values.mean(axis=1), check.EXACT)
    check.close(norm.running_var, values.var(axis=1, ddof=1), check.EXACT)
    assert norm.num_batches_tracked == 5
    for part in parts:  # what update_bn does: every batch weighs a fifth
        even(part)
    assert (np.abs(even.running_mean - norm.running_mean) > 10).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_one_nan_does_not_poison_the_statistics_for_ever(value, tracked, rng):
    good, bad = batch(rng), batch(rng)
    bad[1, 2, 0] = value
    skips, propagates, raises = (tracked(on_nonfinite=rule) for rule in ("skip", "propagate", "raise"))
    for norm in (skips, propagates, raises):
        norm(good)
    state, saved = skips.state_dict(), raises.saved
    y = skips(bad)
    check.same_bits(y, propagates(bad))
    unchanged(skips, state)
    assert not np.isfinite(propagates.running_var[2]) and np.isfinite(propagates.running_var[:2]).all()
    out = np.full_like(bad, 7)
    for target in (None, out):
        with pytest.raises(FloatingPointError, match=r"finite statistics, got nan or inf in 1 of \d+ sets of x, first"):
            raises(bad, out=target)
    unchanged(raises, state)
    assert raises.saved is saved and (out == 7).all()
    propagates(good)
    assert not np.isfinite(propagates.running_var[2])
    assert np.isfinite(skips(good)).all() and (skips.running_mean != state["running_mean"]).all()


@pytest.mark.parametrize("momentum", [0.1, None])
def test_pytorch_1051_threads_do_not_race_on_the_statistics(momentum, monkeypatch):
    """Every update of every thread is there, though other threads run between its reading and its writing."""
    norm = nz.BatchNorm(C, momentum=momentum, dtype=np.float64)
    x = np.random.default_rng(1).standard_normal((5, C))
    update = backends.backend("reference").update

    def slow(mean, var, *arguments):
        copies = mean.copy(), var.copy()
        switch()
        update(*copies, *arguments)
        switch()
        mean[...], var[...] = copies

    def switch():
        threading.Event().wait(1e-4)

    monkeypatch.setattr(backends.backend("reference"), "update", slow)

    def work():
        with nz.use("reference"):
            for _ in range(25):
                norm(x)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert norm.num_batches_tracked == 100
    left = 0.0 if momentum is None else 0.9**100
    check.close(norm.running_mean, (1 - left) * x.mean(axis=0), 1e-12)
    check.close(norm.running_var, left + (1 - left) * x.var(axis=0, ddof=1), 1e-12)


@pytest.mark.parametrize("size", [2, 4])
def test_pytorch_44957_sync_batch_norm_on_cpus(size):
    done = mpiexec(size, ON_RANKS, "equal")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("equal") == size


@pytest.mark.parametrize("how", ["even", "uneven", "empty"])
@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_pytorch_36530_uneven_and_empty_ranks(how, axis, backend, rng):
    shape, features = (9, 4, 5), 4 if axis == 1 else 5
    x, dy = 1e3 + rng.standard_normal(shape), rng.standard_normal(shape)
    parts = cuts(9, 3, how)
    alone = nz.BatchNorm(features, channel_axis=axis, dtype=np.float64)
    with nz.use(backend):
        y, dx = alone(x), alone.backward(dy)

    def work(comm):
        norm = nz.SyncBatchNorm(features, comm=comm, channel_axis=axis, dtype=np.float64)
        with nz.use(backend):
            found = norm(x[parts[comm.rank]])
            return norm, found, norm.backward(dy[parts[comm.rank]])

    ranks = together(3, work)
    for (norm, found, dfound), part in zip(ranks, parts, strict=True):
        check.close(found, y[part], 1e-10)
        check.close(dfound, dx[part], 1e-10)
        for name, value in norm.buffers.items():
            check.same_bits(value, ranks[0][0].buffers[name])
            check.close(value, alone.buffers[name], 1e-10)
    for name in ("weight", "bias"):
        check.close(sum(norm.grads[name] for norm, *_ in ranks), alone.grads[name], 1e-10)


# Control


def test_evaluation_ignores_update_stats(tracked, rng):
    norm = tracked().eval()
    x = batch(rng)
    check.same_bits(norm(x, update_stats=False), norm(x))


def test_an_exception_half_way_leaves_the_old_state(tracked, rng, monkeypatch):
    norm = tracked()
    norm(batch(rng))
    state, saved = norm.state_dict(), norm.saved

    def half(mean, var, *arguments):
        mean[...] = 99
        raise KeyboardInterrupt

    for name in ("cpu", "reference"):
        monkeypatch.setattr(backends.backend(name), "update", half)
        monkeypatch.setattr(backends.backend(name), "updates_whole", False)
        with nz.use(name), pytest.raises(KeyboardInterrupt):
            norm(batch(rng))
        unchanged(norm, state)
    assert norm.saved is saved


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_functional_pass_returns_the_new_state(dtype, rng):
    x, dy = batch(rng, dtype=np.float32), batch(rng, dtype=np.float32)
    held = np.zeros(C, dtype), np.ones(C, dtype)
    norm = nz.BatchNorm(C, affine=False, dtype=dtype)
    y = norm(x)
    for a in held:
        a.flags.writeable = False
    found, saved, state = nz.functional.batch_norm(x, *held, training=True, return_saved=True, return_state=True)
    check.same_bits(found, y)
    check.same_bits(saved.backward(dy).x, norm.backward(dy))
    check.same_bits(state.running_mean, norm.running_mean)
    check.same_bits(state.running_var, norm.running_var)
    assert (held[0] == 0).all() and (held[1] == 1).all()
    y, state = nz.functional.instance_norm(x, *held, return_state=True)
    check.close(state.running_mean, 0.1 * x.mean(axis=(0, 2)), 1e-3)
    y, state = nz.functional.batch_norm(x, *held, return_state=True)  # evaluation: the state it was given
    check.same_bits(state.running_var, held[1])
    with pytest.raises(ValueError, match="running_mean and running_var with return_state=True"):
        nz.functional.batch_norm(x, None, None, training=True, return_state=True)


def test_a_single_value_follows_the_rule(rng):
    x, dy = rng.standard_normal((1, C)), rng.standard_normal((1, C))
    for rule in ("raise", "bias", "running"):
        norm = nz.BatchNorm(C, dtype=np.float64, single_value=rule)
        norm(rng.standard_normal((5, C)))
        norm.bias = rng.standard_normal(C)
        state = norm.state_dict()
        if rule == "raise":
            with pytest.raises(ValueError, match="more than 1 value per channel in training"):
                norm(x)
        elif rule == "bias":
            check.same_bits(norm(x)[0], norm.bias)
            assert (norm.backward(dy) == 0).all()
        else:
            y, dx = norm(x), norm.backward(dy)
            norm.eval()
            check.same_bits(norm(x), y)
            check.same_bits(norm.backward(dy), dx)
        unchanged(norm, state)
    with pytest.raises(ValueError, match="running statistics for single_value='running'"):
        nz.BatchNorm(C, track_running_stats=False, single_value="running")
    one = nz.InstanceNorm(C, single_value="bias")
    assert (one(rng.standard_normal((2, C, 1))) == 0).all()


def test_rules_are_checked_shown_and_copied():
    for option in ({"on_nonfinite": "ignore"}, {"single_value": None}):
        with pytest.raises(ValueError, match=f"BatchNorm.3.: expected {next(iter(option))} '"):
            nz.BatchNorm(3, **option)
    norm = nz.BatchNorm(3, on_nonfinite="skip", single_value="bias")
    assert repr(copy.deepcopy(norm)).endswith("on_nonfinite='skip', single_value='bias')")
    assert "single_value" not in repr(nz.BatchNorm(3))


# Running variances that no data has


EVALUATED = {
    "layer": lambda x, mean, var, eps: _loaded(nz.BatchNorm(C, eps=eps, dtype=mean.dtype), mean, var).eval()(x),
    "out": lambda x, mean, var, eps: _loaded(nz.BatchNorm(C, eps=eps), mean, var).eval()(x, out=np.empty_like(x)),
    "mask": lambda x, mean, var, eps: _loaded(nz.BatchNorm(C, eps=eps), mean, var).eval()(
        x, mask=np.ones((6, 1, 1), bool)
    ),
    "functional": lambda x, mean, var, eps: nz.functional.batch_norm(x, mean, var, eps=eps),
    "instance": lambda x, mean, var, eps: nz.functional.instance_norm(x, mean, var, use_input_stats=False, eps=eps),
    "frozen": lambda x, mean, var, eps: _loaded(nz.FrozenBatchNorm(C, eps=eps), mean, var)(x),
    "domain": lambda x, mean, var, eps: _loaded(nz.DomainBatchNorm(C, 1, eps=eps), mean[None], var[None]).eval()(x, 0),
    "alpha": lambda x, mean, var, eps: _loaded(nz.AlphaBatchNorm(C, eps=eps, alpha=1), mean, var).eval()(x),
    "fold": lambda x, mean, var, eps: _folded(x, _loaded(nz.BatchNorm(C, eps=eps), mean, var)),
}  # fmt: skip


def _loaded(norm, mean, var):
    norm.buffers["running_mean"][...], norm.buffers["running_var"][...] = mean, var
    return norm


def _folded(x, norm):
    found = nz.fold.batch_norm_into(np.eye(C), np.zeros(C), norm, layout="OI")
    return np.einsum("oi,nil->nol", found.weight, x) + found.bias[:, None]


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("way", EVALUATED)
def test_torchvision_2599_a_running_variance_of_zero_with_eps_zero_gives_bias(way, backend, rng):
    x = batch(rng)
    mean, var = np.full(C, 3.0), np.ones(C)
    var[1] = 0
    with nz.use(backend):
        y = EVALUATED[way](x, mean, var, 0.0)
    expected = x - 3
    expected[:, 1] = 0
    check.close(y, expected, 1e-6)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("way", EVALUATED)
@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_detectron2_2413_a_running_variance_below_zero_is_refused(way, backend, dtype, rng):
    mean, var = np.zeros(C, dtype), np.ones(C, dtype)
    var[1] = -1
    with nz.use(backend), pytest.raises(ValueError, match=r"expected running_var >= 0, got -1 in channel 1"):
        EVALUATED[way](batch(rng), mean, var, 1e-5)


@pytest.mark.parametrize(
    ("norm", "name"),
    [
        (nz.AlphaBatchNorm(C), "running_var"),
        (nz.BatchRenorm(C), "running_std"),
        (nz.L1BatchNorm(C), "running_scale"),
        (nz.LInfBatchNorm(C), "running_scale"),
        (nz.SwitchableNorm(C), "running_var"),
        (nz.EvoNormB0(C), "running_var"),
        (nz.PowerNorm(C), "running_phi"),
        (nz.GhostBatchNorm(C, 2), "running_var"),
    ],
    ids=str,
)
def test_a_running_spread_below_zero_is_refused_by_every_norm(norm, name, rng):
    norm.buffers[name][2] = -0.5
    with pytest.raises(ValueError, match=rf"{type(norm).__name__}.*expected {name} >= 0, got -0.5 in channel 2"):
        norm.eval()(batch(rng))


@pytest.mark.parametrize("make", [nz.BatchRenorm, nz.L1BatchNorm, nz.LInfBatchNorm], ids=lambda kind: kind.__name__)
def test_a_running_scale_of_zero_gives_bias(make, rng):
    norm = make(C, eps=0.0).eval() if make is not nz.BatchRenorm else make(C).eval()
    norm.buffers[norm.spread][1] = 0
    assert (norm(batch(rng))[:, 1] == 0).all()


@pytest.mark.parametrize("dialect", ["onnx", "keras", "flax"])
def test_a_state_by_which_others_would_divide_by_zero(dialect, rng):
    norm = nz.BatchNorm(C, eps=0.0).eval()
    norm.running_var[1] = 0
    x = batch(rng)
    y = norm(x)
    with pytest.raises(
        ValueError, match=r"expected running_var \+ eps > 0, by whose root .* divides, got 0 \+ 0 in cha"
    ):
        norm.state_dict(dialect)
    norm.weight[1], norm.running_var[1] = 0, 1  # as it says
    norm.state_dict(dialect)
    check.same_bits(norm(x), y)
