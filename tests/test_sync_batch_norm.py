"""Batch normalization over ranks: the numbers of one process, the same bits on all ranks, and no silent hang."""

import copy
import time
from pathlib import Path

import numpy as np
import pytest

import normzoo as nz
from tests import check
from tests.ranks import ThreadComm, cuts, mpiexec, together

ON_RANKS = Path(__file__).parent / "on_ranks.py"


@pytest.mark.parametrize(("scenario", "said"), [("stuck", 1), ("leaves", 1), ("dies", 0)])
def test_a_rank_that_does_not_come_ends_all_loudly(scenario, said):
    start = time.monotonic()
    done = mpiexec(2, ON_RANKS, scenario, timeout=90)
    assert done.returncode != 0
    assert time.monotonic() - start < 80
    if said:
        assert "SyncBatchNorm(4): expected 2 ranks in the forward pass, but rank 0 waited 2 s" in done.stderr
    if scenario == "leaves":
        assert "rank 1 lost its data" in done.stderr


def test_a_rank_that_raises_tells_the_others():
    done = mpiexec(2, ON_RANKS, "raises", timeout=90)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = sorted(done.stdout.strip().split("\n"))
    assert lines[0].endswith(
        "expected all 2 ranks in the forward pass, but rank 1 raised in it; its own message says what"
    )
    assert "expected x of shape (N, 4, ...), got (3, 5)" in lines[1]


@pytest.mark.parametrize("out", ["new", "y", "x", "dy"])
def test_float16_out_and_in_place(out, rng):
    x, dy = (rng.standard_normal((12, 3, 40)).astype(np.float16) for _ in range(2))
    alone = nz.BatchNorm(3, affine=False)
    y, dx = alone(x), alone.backward(dy)

    def work(comm):
        part = cuts(12, 2, "uneven")[comm.rank]
        mine, d = x[part].copy(), dy[part].copy()
        norm = nz.SyncBatchNorm(3, comm=comm, affine=False)
        target = {"new": None, "y": np.empty_like(mine), "x": None, "dy": None}[out]
        found = norm(mine, out=target)
        assert target is None or found is target
        target = {"new": None, "y": np.empty_like(mine), "x": mine, "dy": d}[out]
        back = norm.backward(d, out=target)
        assert target is None or back is target
        assert norm.grads == {} and back.dtype == np.float16
        check.close(found, y[part], 1e-3)
        check.close(back, dx[part], 1e-3)
        norm(mine, out=mine)
        with pytest.raises(RuntimeError, match="it was overwritten in place"):
            norm.backward(d)

    assert together(2, work) == [None, None]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_few_values_on_all_ranks(count, rng):
    """Gradients that are differences of almost equal terms, and one value in all."""
    x, dy = (rng.standard_normal((count, 3)).astype(np.float32) for _ in range(2))
    alone = nz.BatchNorm(3, single_value="bias")
    y, dx = alone(x), alone.backward(dy)

    def work(comm):
        part = slice(comm.rank, comm.rank + 1)
        norm = nz.SyncBatchNorm(3, comm=comm, single_value="bias")
        return norm(x[part]), norm.backward(dy[part]), norm.state_dict()

    for rank, (found, dfound, state) in enumerate(together(3, work)):
        check.close(found, y[rank : rank + 1], 1e-6)
        check.close(dfound, dx[rank : rank + 1], 1e-5, np.abs(dx).max() + 1e-30)
        for name, value in state.items():
            check.close(value, alone.state_dict()[name], 1e-6)


def test_all_ranks_raise_what_all_see_and_keep_their_state(rng):
    def work(comm):
        norm = nz.SyncBatchNorm(3, comm=comm, on_nonfinite="raise", dtype=np.float64)
        good, bad = np.arange(6.0).reshape(2, 3), np.ones((2, 3))
        if comm.rank == 0:
            bad[0, 1] = np.nan
        norm(good)
        state = norm.state_dict()
        with pytest.raises(FloatingPointError, match="nan or inf in 1 of 3 sets of x, first in set 1"):
            norm(bad)
        with pytest.raises(ValueError, match="more than 1 value per channel in training, got x of shape one value"):
            norm(good[: 1 - comm.rank])
        norm(good, update_stats=False)
        skips = nz.SyncBatchNorm(3, comm=comm, on_nonfinite="skip", dtype=np.float64)
        assert np.isnan(skips(bad)[:, 1]).all() and skips.num_batches_tracked == 0
        uses = nz.SyncBatchNorm(3, comm=comm, single_value="running", dtype=np.float64)
        check.close(uses(good[: 1 - comm.rank]), good[: 1 - comm.rank], 1e-4)
        for name, value in norm.state_dict().items():
            check.same_bits(value, state[name])
        norm.eval()
        norm(good[: comm.rank])  # no meeting
        return norm.exchange.comm.made

    assert together(2, work) == [6, 6]


def test_ranks_that_fail_apart_or_do_not_come_are_named():
    def fails_in_backward(comm):
        norm = nz.SyncBatchNorm(2, comm=comm)
        norm(np.ones((3, 2)))
        norm.backward(np.ones((3, 2 + comm.rank)))

    first, second = together(2, fails_in_backward)
    assert isinstance(second, ValueError) and "expected dy of x's shape" in str(second)
    assert isinstance(first, RuntimeError) and "in the backward pass, but rank 1 raised" in str(first)

    def out_of_step(comm):
        norm = nz.SyncBatchNorm(2, comm=comm)
        norm(np.ones((3, 2)))
        norm(np.ones((3, 2))) if comm.rank else norm.backward(np.ones((3, 2)))

    first, second = together(2, out_of_step)
    assert "in the backward pass after 1 exchanges, got rank 1 in the forward pass after 1" in str(first)
    assert isinstance(second, RuntimeError)

    def late(comm):
        norm = nz.SyncBatchNorm(2, comm=comm, timeout=0.2, on_timeout="raise")
        if comm.rank == 0:
            with pytest.raises(TimeoutError, match=r"rank 0 waited 0.2 s for the others"):
                norm(np.ones((3, 2)))
            return norm.saved, norm.num_batches_tracked.item(), comm.aborted

    assert together(2, late) == [(None, 0, None), None]


def test_a_norm_without_its_communicator_is_refused_and_converted(monkeypatch, capsys):
    comm = ThreadComm({}, 0, 1)
    for options, error, message in [
        ({"comm": "world"}, TypeError, "expected comm to be an mpi4py communicator, got str"),
        ({"comm": comm, "timeout": 0}, ValueError, "expected timeout > 0"),
        ({"comm": comm, "on_timeout": "wait"}, ValueError, "expected on_timeout 'abort' or 'raise'"),
    ]:
        with pytest.raises(error, match=message):
            nz.SyncBatchNorm(2, **options)
    monkeypatch.setitem(__import__("sys").modules, "mpi4py", None)
    with pytest.raises(RuntimeError, match=r"write pip install (\"mpi4py>=4\"|-e \"\.\[mpi\]\")"):
        nz.SyncBatchNorm(2)
    norm = nz.BatchNorm(3, 1e-3, None, channel_axis=-1, bias=False, on_nonfinite="skip").eval()
    new = nz.convert_sync(norm, comm, timeout=7)
    assert new.weight is norm.weight and new.running_var is norm.running_var and not new.training
    assert repr(new) == "Sync" + repr(norm)[:-1] + ", timeout=7.0)"
    assert repr(nz.convert_sync(new, comm, timeout=7)) == repr(new)
    assert copy.deepcopy(new).momentum is None
    with pytest.raises(TypeError, match="expected a BatchNorm, got LayerNorm"):
        nz.convert_sync(nz.LayerNorm(3), comm)
    waits = nz.SyncBatchNorm(2, comm=ThreadComm({}, 0, 2), timeout=0.1)
    with pytest.raises(TimeoutError):
        waits(np.ones((3, 2)))
    assert waits.exchange.comm.aborted == 1 and "rank 0 waited 0.1 s" in capsys.readouterr().err


@pytest.mark.parametrize("mean", [0.0, 1e3, 1e5])
def test_accuracy_is_flat_in_the_mean(mean, rng):
    x = (mean + 0.1 * rng.standard_normal((64, 3, 10))).astype(np.float32)
    dy = rng.standard_normal(x.shape).astype(np.float32)
    exact = nz.BatchNorm(3, dtype=np.float64)
    y, dx = exact(x.astype(np.float64)), exact.backward(dy.astype(np.float64))

    def work(comm):
        part = cuts(64, 3, "uneven")[comm.rank]
        norm = nz.SyncBatchNorm(3, comm=comm)
        check.close(norm(x[part]), y[part], check.FORWARD32, np.maximum(1, np.abs(y[part])))
        check.close(norm.backward(dy[part]), dx[part], check.BACKWARD32, np.abs(dx).max())

    assert together(3, work) == [None] * 3
