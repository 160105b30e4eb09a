"""Running statistics of a data set: every value weighs the same, all norms at once, and all or nothing."""

import sys

import numpy as np
import pytest

import normzoo as nz
from tests import check

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


def test_recalibrate_a_norm_that_always_updates(rng):
    class Always(nz.BatchNorm):
        def forward(self, x, out=None):
            return super().forward(x, out)

    x, held = batch(rng), []
    norm = Always(C, dtype=np.float64)

    def forward(v):
        norm(v)
        held.append(norm.state_dict())

    nz.recalibrate(norm, [x[:2], x[2:]], forward)
    assert [int(state["num_batches_tracked"]) for state in held] == [0, 0]
    check.close(norm.running_mean, x.mean(axis=(0, 2)), check.EXACT)
    assert norm.num_batches_tracked == 2
