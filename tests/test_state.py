"""Running statistics, modes and state files over several steps, against a plain model of PyTorch's rules."""

import copy
import pickle

import numpy as np
import pytest

import normzoo as nz
from tests import check, oracles
from tests.cases import CASES, draw, filled


class RunningModel:
    """What PyTorch documents for BatchNorm's buffers, in a few lines of float64."""

    def __init__(self, features, momentum):
        self.mean, self.var, self.count, self.momentum = np.zeros(features), np.ones(features), 0, momentum

    def see(self, x):
        self.count += 1
        if x.size == 0:
            return
        values = np.moveaxis(x.astype(np.float64), 1, 0).reshape(x.shape[1], -1)
        factor = 1 / self.count if self.momentum is None else self.momentum
        self.mean += factor * (values.mean(axis=1) - self.mean)
        self.var += factor * (values.var(axis=1, ddof=1) - self.var)


@pytest.mark.parametrize("momentum", [0.1, 0.0, 1.0, None])
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_batch_norm_tracks_what_it_sees(momentum, backend, rng):
    norm, model = nz.BatchNorm(3, momentum=momentum, dtype=np.float64), RunningModel(3, momentum)
    for batch in (5, 2, 0, 9):
        x = 3 + 2 * rng.standard_normal((batch, 3, 7))
        with nz.use(backend):
            norm(x)
        model.see(x)
        check.close(norm.running_mean, model.mean, check.EXACT)
        check.close(norm.running_var, model.var, check.EXACT)
        assert norm.num_batches_tracked == model.count
    held = norm.state_dict()
    norm.eval()
    norm(x)
    for name, value in norm.state_dict().items():
        check.same_bits(value, held[name])


def test_running_variance_is_unbiased_and_the_divisor_is_not():
    norm = nz.BatchNorm(1)
    y = norm(np.array([[0], [2]], np.float32))
    check.close(norm.running_var, np.array([1.1]), 1e-7)  # 0.9 * 1 + 0.1 * 2
    check.close(y, np.array([[-1], [1]]) / np.sqrt(1 + 1e-5), 1e-6)


def test_untracked_batch_norm_uses_the_batch_in_evaluation_too(rng):
    x = rng.standard_normal((6, 3))
    norm = nz.BatchNorm(3, track_running_stats=False, dtype=np.float64)
    assert norm.buffers == {} and norm.running_mean is None and norm.num_batches_tracked is None
    check.same_bits(norm.eval()(x), norm.train()(x))


def test_instance_norm_tracks_the_mean_over_samples(rng):
    x = 3 + 2 * rng.standard_normal((4, 3, 11))
    norm = nz.InstanceNorm(3, track_running_stats=True, dtype=np.float64)
    norm(x)
    check.close(norm.running_mean, 0.1 * x.mean(axis=2).mean(axis=0), check.EXACT)
    check.close(norm.running_var, 0.9 + 0.1 * x.var(axis=2, ddof=1).mean(axis=0), check.EXACT)
    assert norm.num_batches_tracked == 0
    dy = rng.standard_normal(x.shape)
    y = norm.eval()(x)

    def oracle(v):
        return oracles.batch_norm_eval(v, norm.running_mean, norm.running_var)

    check.close(y, oracle(x), check.EXACT)
    check.gradient_matches(oracle, x, norm.backward(dy), dy, rng, check.EXACT)
    before = norm.state_dict()
    norm.train()(np.zeros((0, 3, 5)))
    norm(np.zeros((2, 3, 0)))
    for name, value in norm.state_dict().items():
        check.same_bits(value, before[name])


def test_functional_batch_norm_writes_the_running_statistics_in_place(rng):
    x = rng.standard_normal((6, 3)).astype(np.float32)
    mean, var = np.zeros(3, np.float32), np.ones(3, np.float32)
    nz.functional.batch_norm(x, mean, var, None, None, True, 0.5)
    check.close(mean, 0.5 * x.mean(axis=0), 1e-6)
    check.close(var, 0.5 + 0.5 * x.var(axis=0, ddof=1), 1e-6)
    held = mean.copy(), var.copy()
    y = nz.functional.batch_norm(x, mean, var)
    check.close(y, (x - mean) / np.sqrt(var + 1e-5), 1e-6)
    check.same_bits(mean, held[0])
    nz.functional.instance_norm(x[None].swapaxes(1, 2), mean, var, momentum=1.0)
    check.close(mean, x.mean(axis=0), 1e-6)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_one_layer_may_be_in_flight_many_times(case, rng):
    norm = filled(case.norm(), rng)
    batches = [draw(case, rng, np.float32) for _ in range(3)]
    flights = [norm.forward(x) for x, _ in batches]
    assert norm.saved is None
    with pytest.raises(RuntimeError, match="forward pass before backward"):
        norm.backward(batches[0][1])
    for (x, dy), (_, saved) in zip(reversed(batches), reversed(flights), strict=True):
        grads = saved.backward(dy)
        norm(x)
        check.same_bits(grads.x, norm.backward(dy))
        for name in case.parameters:
            check.same_bits(getattr(grads, name), norm.grads[name])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_state_round_trip_copy_and_pickle(case, rng):
    norm = filled(case.norm(), rng)
    x, dy = draw(case, rng, np.float32)
    y = norm(x)
    state = norm.state_dict()
    held = list(norm.params.values())
    other = case.norm()
    other.load_state_dict(state)
    for twin in (other, copy.deepcopy(norm), pickle.loads(pickle.dumps(norm))):
        assert repr(twin) == repr(norm)
        for name, value in twin.state_dict().items():
            check.same_bits(value, state[name])
    check.same_bits(other(x), y)
    for value in state.values():
        value[...] = 7  # copies: the layer does not see it
    check.same_bits(norm.forward(x)[0], y)
    norm.load_state_dict(state)
    assert all(a is b for a, b in zip(norm.params.values(), held, strict=True)), "loading copies into the arrays"
    assert all((p == 7).all() for p in norm.params.values())


def test_load_state_dict_is_all_or_nothing(rng):
    norm = filled(nz.BatchNorm(3), rng)
    state = norm.state_dict()
    good = {name: value + 1 for name, value in state.items()}
    for change, error, message in [
        ({"bias": np.ones(4, np.float32)}, ValueError, r"bias of shape \(3,\), got \(4,\)"),
        ({"bias": [1.0, 2.0, 3.0]}, TypeError, "bias to be a NumPy array"),
        ({"gamma": np.ones(3)}, ValueError, "unexpected=.*gamma"),
        ({"num_batches_tracked": 1.5}, TypeError, "num_batches_tracked to be an integer"),
        ({"num_batches_tracked": 2**63}, ValueError, "num_batches_tracked to fit 64 bits"),
        ({"num_batches_tracked": np.array(2**63, np.uint64)}, ValueError, "num_batches_tracked to fit 64 bits"),
        ({"num_batches_tracked": np.array([1, 2])}, ValueError, r"num_batches_tracked of shape \(\), got \(2,\)"),
        (
            {"num_batches_tracked": np.array(2.5, np.float32)},
            TypeError,
            "num_batches_tracked to be an integer, got 2.5",
        ),
        (
            {"num_batches_tracked": np.array(np.inf, np.float16)},
            TypeError,
            "num_batches_tracked to be an integer, got inf",
        ),
        ({"num_batches_tracked": np.array(-1.0)}, ValueError, "num_batches_tracked >= 0, got -1"),
        ({"num_batches_tracked": np.array(2.0**63)}, ValueError, "num_batches_tracked to fit 64 bits"),
        ({"num_batches_tracked": np.array(True)}, TypeError, "num_batches_tracked to be an integer"),
    ]:
        with pytest.raises(error, match=message):
            norm.load_state_dict(good | change)
        for name, value in norm.state_dict().items():
            check.same_bits(value, state[name])
    with pytest.raises(ValueError, match="missing=.*running_var"):
        norm.load_state_dict({k: v for k, v in good.items() if k != "running_var"})
    with pytest.raises(TypeError, match="expected state to be a dict"):
        norm.load_state_dict(list(good))
    norm.running_mean.flags.writeable = False
    with pytest.raises(ValueError, match="running_mean of the norm to be writeable"):
        norm.load_state_dict(good)
    check.same_bits(norm.weight, state["weight"])
    norm.running_mean = state["running_mean"].copy()
    norm.load_state_dict(norm.buffers | {"weight": norm.bias, "bias": norm.weight})
    check.same_bits(norm.weight, state["bias"])
    check.same_bits(norm.bias, state["weight"])
    del good["num_batches_tracked"]  # state files older than the counter
    norm.load_state_dict(good)
    check.same_bits(norm.running_var, state["running_var"] + 1)


COUNTS = {
    "half": np.array(7, np.float16), "single": np.array(7, np.float32), "an axis": np.array([7]), "PyTorch 0.3": np.array([7.0]),
    "scalar": np.float32(7), "integer": 7, "narrow": np.array(7, np.int32), "two axes": np.array([[7]], np.uint8),
}  # fmt: skip


@pytest.mark.parametrize("count", COUNTS.values(), ids=COUNTS)
def test_a_count_is_read_as_pytorch_reads_it(count):
    """`half()` over all entries of a state makes it a float; PyTorch 0.3 gave it an axis."""
    norm = nz.BatchNorm(3)
    norm.load_state_dict(norm.state_dict() | {"num_batches_tracked": count})
    held = norm.buffers["num_batches_tracked"]
    assert held == 7 and held.shape == () and held.dtype == np.int64
    norm.load_state_dict(norm.state_dict("keras") | {"num_batches_tracked": count}, "keras", values=8)


def test_all_of_a_state_in_half_precision(rng):
    norm, other = nz.BatchNorm(3), nz.BatchNorm(3)
    norm(rng.standard_normal((4, 3)))
    other.load_state_dict({name: a.astype(np.float16) for name, a in norm.state_dict().items()})
    check.close(other.running_mean, norm.running_mean, 1e-3)
    assert other.num_batches_tracked == 1
    domains = nz.DomainBatchNorm(3, 2)
    domains.load_state_dict(domains.state_dict() | {"num_batches_tracked": np.array([4, 5], np.float32)})
    assert domains.buffers["num_batches_tracked"].tolist() == [4, 5]


def test_a_dtype_of_none_is_float32():
    """... as PyTorch's factories take it, for every array of every norm."""
    made = 0
    for name in nz.list_norms():
        for arguments in ((4,), (4, 2), (2, 4), (3,), (5, 3), ()):
            try:
                norm = nz.create(name, *arguments, dtype=None)
            except (TypeError, ValueError):  # of other arguments, or without a dtype
                continue
            usual = nz.create(name, *arguments, dtype=np.float32)
            found, wanted = ({n: a.dtype for n, a in (each.params | each.buffers).items()} for each in (norm, usual))
            assert found == wanted, name
            made += 1
            break
    assert made > 30


def test_parameters_are_attributes_and_entries(rng):
    norm = nz.LayerNorm(4)
    norm.weight *= 2
    assert (norm.params["weight"] == 2).all()
    norm.params["bias"] = np.full(4, 3, np.float32)
    assert (norm.bias == 3).all()
    with pytest.raises(ValueError, match=r"weight of shape \(4,\), got \(5,\)"):
        norm.weight = np.ones(5, np.float32)
    with pytest.raises(TypeError, match="weight to be a NumPy array"):
        norm.weight = [1, 2, 3, 4]
    with pytest.raises(ValueError, match="has no bias"):
        nz.RMSNorm(4).bias = np.ones(4, np.float32)
    norm.params["weight"] = np.ones(5, np.float32)
    with pytest.raises(ValueError, match=r"LayerNorm\(\(4,\)\): expected weight of shape"):
        norm(np.ones((2, 4), np.float32))


def test_train_and_eval_return_the_norm():
    norm = nz.BatchNorm(2)
    assert norm.training and norm.eval() is norm and not norm.training and norm.train().training


def test_reset_running_stats(rng):
    norm = nz.BatchNorm(2)
    norm(rng.standard_normal((5, 2)))
    norm.reset_running_stats()
    for name, value in norm.buffers.items():
        check.same_bits(value, nz.BatchNorm(2).buffers[name])


@pytest.mark.parametrize("name", ["batch_norm", "layer_norm", "revin"])
def test_copies_of_a_layer_leave_the_last_pass_behind(name, rng):
    norm = nz.create(name, 8)
    x = rng.standard_normal((10_000, 8)).astype(np.float32)
    if name == "revin":
        x = x.reshape(100, 100, 8)
    z = norm(x)
    if name == "revin":
        norm.inverse(z)
    norm.backward(x)
    for twin in (pickle.loads(pickle.dumps(norm)), copy.deepcopy(norm)):
        with pytest.raises(RuntimeError, match="expected a forward pass before backward"):
            twin.backward(x)
        assert not twin.grads
        for entry, value in norm.state_dict().items():
            check.same_bits(twin.state_dict()[entry], value)
        assert not any(
            np.shares_memory(a, b) for a, b in zip(norm.buffers.values(), twin.buffers.values(), strict=True)
        )
        check.same_bits(twin(x), copy.deepcopy(norm)(x))
    assert len(pickle.dumps(norm)) < 10_000
    norm.backward(x)  # which it has itself
    assert copy.copy(norm).params is norm.params
