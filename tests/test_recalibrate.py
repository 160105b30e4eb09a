"""Running statistics of a data set: every value weighs the same, all norms at once, and all or nothing."""

import sys

import numpy as np
import pytest

import normzoo as nz
from tests import check
from tests.cases import CASES, Case
from tests.zoo import ZOO

C = 3


def batch(rng, n=6):
    return 3 + 2 * rng.standard_normal((n, C, 4))


def unchanged(norm, state):
    for name, value in norm.state_dict().items():
        check.same_bits(value, state[name])


def network(rng):
    """Two norms, the second behind a nonlinear layer; and a function that runs it on (x, label)."""
    first, second = nz.BatchNorm(C, dtype=np.float64), nz.InstanceNorm(C, track_running_stats=True, dtype=np.float64)
    mix = rng.standard_normal((C, C))

    def forward(pair):
        return second(np.einsum("ij,njl->nil", mix, np.maximum(first(pair[0]), 0)))

    return first, second, forward


def test_recalibrate_several_norms_at_once(rng):
    first, second, forward = network(rng)
    x = batch(rng, 11)
    first.eval()
    nz.recalibrate([first, second], ((x[i : i + 4], "label") for i in range(0, 11, 4)), forward)
    assert not first.training and second.training
    assert first.num_batches_tracked == 3 and second.num_batches_tracked == 0
    assert "forward" not in vars(first) and first.saved is not None
    check.close(first.running_mean, x.mean(axis=(0, 2)), check.EXACT)
    seen = []
    first.train()
    for i in range(0, 11, 4):  # the inputs of the second norm, of batches that the first normalized by their own
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(second, "forward", lambda v, **_: (seen.append(v), None))
            forward((x[i : i + 4],))
    seen = np.concatenate(seen)
    check.close(second.running_mean, seen.mean(axis=2).mean(axis=0), check.EXACT)
    check.close(second.running_var, seen.var(axis=2, ddof=1).mean(axis=0), check.EXACT)


def test_recalibrate_is_all_or_nothing(rng):
    first, second, forward = network(rng)
    forward((batch(rng),))
    states = first.state_dict(), second.state_dict()

    def breaks():
        yield (batch(rng),)
        raise OSError("disk")

    def only_first(pair):
        first(pair[0])

    cases = [
        ([first, second], breaks(), forward, OSError, "disk"),
        ([first, second], [(batch(rng),)], only_first, ValueError, "InstanceNorm.3.: expected 2 values .* got 0 in 0"),
        ([first, second], iter(()), forward, ValueError, "used up"),
        ([first, second], [([1.0],)], forward, TypeError, "NumPy array"),
    ]
    for norms, batches, run, error, message in cases:
        with pytest.raises(error, match=message):
            nz.recalibrate(norms, batches, run)
        for norm, state in zip((first, second), states, strict=True):
            unchanged(norm, state)
            assert norm.training and "forward" not in vars(norm)
    second.running_var.flags.writeable = False  # found when the first has its new ones already
    with pytest.raises(ValueError, match="read-only"):
        nz.recalibrate([first, second], [(batch(rng),)], forward)
    unchanged(first, states[0])
    for norm in (nz.LayerNorm(C), nz.BatchNorm(C, track_running_stats=False)):
        with pytest.raises(TypeError, match="norms with running statistics"):
            nz.recalibrate([norm], [batch(rng)])


def test_recalibrate_follows_on_nonfinite(rng):
    good, bad = batch(rng), batch(rng)
    bad[0, 1, 2] = np.nan
    norm = nz.BatchNorm(C, dtype=np.float64, on_nonfinite="skip")
    nz.recalibrate(norm, [good, bad])
    check.close(norm.running_mean, good.mean(axis=(0, 2)), check.EXACT)
    with pytest.raises(FloatingPointError, match="finite values in batch 1"):
        nz.recalibrate(nz.BatchNorm(C, on_nonfinite="raise"), [good, bad])
    norm = nz.BatchNorm(C)
    nz.recalibrate(norm, [good, bad])
    assert np.isnan(norm.running_mean).tolist() == [False, True, False]


def test_recalibrate_from_a_memory_map(tmp_path, rng, capsys):
    x = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (1000, 2, C))
    x[...] = 5 + rng.standard_normal(x.shape)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    norm = nz.BatchNorm(C, channel_axis=-1)
    nz.recalibrate(norm, mapped, batch_size=64, progress=True)
    check.close(norm.running_mean, x.mean(axis=(0, 1), dtype=np.float64), 1e-7)
    assert norm.num_batches_tracked == 16
    if "tqdm" in sys.modules:
        assert "16/16" in capsys.readouterr().err
    with pytest.raises(TypeError, match="write batch_size=256"):
        nz.recalibrate(norm, mapped)
    with pytest.raises(TypeError, match="one array to cut by batch_size"):
        nz.recalibrate(norm, [mapped], batch_size=64)


def pooled(x, ddof=1):
    return x.mean(axis=(0, 2)), x.var(axis=(0, 2), ddof=ddof)


def of_halves(find):
    """The mean and variance of every half of a batch."""
    return lambda batches: [find(np.concatenate([np.split(x, 2)[i] for x in batches])) for i in range(2)]


def of_ghosts(batches):
    ghosts = [part for x in batches for part in np.split(x, 2)]
    return [np.mean([pooled(part)[i] for part in ghosts], axis=0) for i in range(2)]


def of_instances(batches):
    x = np.concatenate(batches)
    return x.mean(axis=2).mean(axis=0), x.var(axis=2, ddof=1).mean(axis=0)


LABELS = {"labels": np.array([0, 1, 1, 0, 1, 0])}
MODULATED = {name: np.ones((6, C, 4)) for name in ("gamma", "beta")}
# the norms whose running statistics can be found anew: how they are made, what they take beside x, and the statistics
FOUND = {
    "batch_norm": (lambda **o: nz.BatchNorm(C, **o), {}, lambda batches: pooled(np.concatenate(batches))),
    "instance_norm": (lambda **o: nz.InstanceNorm(C, track_running_stats=True, **o), {}, of_instances),
    "alpha_batch_norm": (lambda **o: nz.AlphaBatchNorm(C, **o), {}, lambda batches: pooled(np.concatenate(batches))),
    "ema_batch_norm": (lambda **o: nz.EMABatchNorm(C, **o), {}, lambda batches: pooled(np.concatenate(batches), 0)),
    "ghost_batch_norm": (lambda **o: nz.GhostBatchNorm(C, 2, **o), {}, of_ghosts),
    "split_batch_norm": (
        lambda **o: nz.SplitBatchNorm(C, **o), {},
        lambda batches: np.array(of_halves(pooled)(batches)).transpose(1, 0, 2),
    ),
    "conditional_batch_norm": (
        lambda **o: nz.ConditionalBatchNorm(C, 2, **o), LABELS, lambda batches: pooled(np.concatenate(batches)),
    ),
    "spade": (lambda **o: nz.SPADE(C, **o), MODULATED, lambda batches: pooled(np.concatenate(batches))),
}  # fmt: skip


def everything():
    rows = {str(case).split("-")[0]: case for case in [*ZOO, *CASES]}
    return [pytest.param(name, rows[name], id=name) for name in nz.list_norms()]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("name", "case"), everything())
def test_every_norm_is_recalibrated_right_or_refuses_by_name(name, case, training, rng):
    if name not in FOUND:
        norm = case.norm(dtype=np.float64) if isinstance(case, Case) else case.draw(rng)[0]
        before = norm.state_dict()
        with pytest.raises(TypeError, match=rf"^recalibrate: .* got {type(norm).__name__}\(.*; (write|leave)"):
            nz.recalibrate(norm, [np.ones(case.shape)])
        unchanged(norm, before)
        return
    make, arguments, find = FOUND[name]
    batches = [batch(rng), 5 * batch(rng), batch(rng)]
    mean, var = find(batches)
    for called in (False, True):
        norm = make(dtype=np.float64).train(training)
        nz.recalibrate(norm, batches, (lambda x, norm=norm: norm(x, **arguments)) if called else None)
        check.close(norm.running_mean, mean, check.EXACT)
        check.close(norm.running_var, var, check.EXACT)
        assert norm.num_batches_tracked == (0 if name == "instance_norm" else 3)
        assert norm.training == training and "forward" not in vars(norm)


@pytest.mark.parametrize("make", [
    lambda: nz.DomainBatchNorm(C, 2), lambda: nz.SwitchableNorm(C), lambda: nz.BatchInstanceNorm(C),
    lambda: nz.BatchRenorm(C), lambda: nz.L1BatchNorm(C), lambda: nz.LInfBatchNorm(C), lambda: nz.IterNorm(C),
    lambda: nz.DecorrelatedBatchNorm(C), lambda: nz.EvoNormB0(C),
])  # fmt: skip
def test_what_recalibrate_says_to_write_instead_forgets_and_averages(make, rng):
    norm, fresh, batches = make(), make(), [batch(rng) for _ in range(3)]
    more = {"domain": 1} if isinstance(norm, nz.DomainBatchNorm) else {}
    norm(100 + batches[0], **more)
    with pytest.raises(TypeError) as refused:
        nz.recalibrate(norm, batches)
    for line in str(refused.value).split("write ")[1].split(", and train")[0].split(" and "):
        exec(line, {"norm": norm})
    fresh.momentum = None
    for x in batches:
        norm(x, **more)
        fresh(x, **more)
    for name, value in fresh.state_dict().items():
        check.close(norm.state_dict()[name], value, 1e-6)


def test_a_class_that_is_made_of_another_says_itself_that_it_is_recalibrated(rng):
    class Own(nz.BatchNorm):
        def forward(self, x, out=None, **options):
            return super().forward(x, out, **options)

    class Said(Own):
        recalibrates = "biased"

    x = batch(rng)
    with pytest.raises(TypeError, match="got Own"):
        nz.recalibrate(Own(C), [x])
    norm, held = Said(C, dtype=np.float64), []

    def forward(v):
        norm(v)
        held.append(norm.state_dict())

    nz.recalibrate(norm, [x[:2], x[2:]], forward)
    assert [int(state["num_batches_tracked"]) for state in held] == [0, 0]
    check.close(norm.running_var, x.var(axis=(0, 2)), check.EXACT)
    assert norm.num_batches_tracked == 2
