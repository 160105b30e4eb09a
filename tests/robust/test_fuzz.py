"""Fuzzing: any sequence of calls of a layer against a plain model of it, and any object as its state.

`pytest tests/robust/test_fuzz.py` runs some 1,000 steps, as CI does; NORMZOO_FUZZ=100000 makes it as many.
"""

import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import normzoo as nz
from tests import check

STEPS = int(os.environ.get("NORMZOO_FUZZ", "1000"))
PER_RUN = 25
TOLERANCE = 2e-5


class Model:
    """BatchNorm in plain NumPy, float64."""

    def __init__(self, features, momentum):
        self.weight, self.bias = np.ones(features), np.zeros(features)
        self.mean, self.var, self.count = np.zeros(features), np.ones(features), 0
        self.momentum, self.training, self.last = momentum, True, None

    def along(self, v, x):
        return v.reshape([-1 if i == 1 else 1 for i in range(x.ndim)])

    def forward(self, x):
        x = x.astype(np.float64)
        axes = tuple(i for i in range(x.ndim) if i != 1)
        if self.training:
            mean, var, n = x.mean(axis=axes), x.var(axis=axes), x.size // x.shape[1]
            self.count += 1
            step = 1 / self.count if self.momentum is None else self.momentum
            self.mean = (1 - step) * self.mean + step * mean
            self.var = (1 - step) * self.var + step * var * n / (n - 1)
        else:
            mean, var = self.mean, self.var
        rstd = 1 / np.sqrt(var + 1e-5)
        xhat = (x - self.along(mean, x)) * self.along(rstd, x)
        self.last = xhat, rstd, self.training, self.weight.copy()
        return xhat * self.along(self.weight, x) + self.along(self.bias, x)

    def backward(self, dy):
        xhat, rstd, own, weight = self.last
        axes = tuple(i for i in range(dy.ndim) if i != 1)
        g = dy * self.along(weight, dy)
        if own:
            n = dy.size // dy.shape[1]
            along = (g * xhat).sum(axis=axes, keepdims=True) / n
            g = g - g.mean(axis=axes, keepdims=True) - xhat * along
        return g * self.along(rstd, dy), (dy * xhat).sum(axis=axes), dy.sum(axis=axes)


class Layer(RuleBasedStateMachine):
    """A BatchNorm that is trained, evaluated, loaded, written in place and handed nonsense, beside its model."""

    @initialize(features=st.integers(1, 5), momentum=st.sampled_from([0.1, 0.0, 1.0, None]))
    def begin(self, features, momentum):
        self.norm, self.model = nz.BatchNorm(features, momentum=momentum), Model(features, momentum)
        self.features, self.states, self.flights = features, [], []
        self.ready = False

    def drawn(self, seed, shape):
        rng = np.random.default_rng(seed)
        n, *positions = shape
        return rng.standard_normal((n, self.features, *positions)).astype(np.float32) + rng.choice([0, 3, -100])

    shapes = st.lists(st.integers(2, 4), min_size=1, max_size=3)
    seeds = st.integers(0, 1 << 20)

    @rule(seed=seeds, shape=shapes, order=st.sampled_from("CF"))
    def forward(self, seed, shape, order):
        x = self.drawn(seed, shape)
        y = self.norm(np.array(x, order=order))
        expected = self.model.forward(x)
        check.close(y, expected, TOLERANCE)
        self.shape, self.ready = x.shape, True

    @rule(seed=seeds, shape=shapes)
    def in_place(self, seed, shape):
        """y over x: right, and then a backward pass that reads x is an error."""
        x = self.drawn(seed, shape)
        y = x.copy()
        self.norm(y, out=y)
        check.close(y, self.model.forward(x), TOLERANCE)
        with pytest.raises(RuntimeError, match="overwritten"):
            self.norm.backward(x)
        self.ready = False

    @precondition(lambda self: self.ready)
    @rule(seed=seeds)
    def backward(self, seed):
        dy = np.random.default_rng(seed).standard_normal(self.shape).astype(np.float32)
        dx = self.norm.backward(dy)
        exact, dweight, dbias = self.model.backward(dy.astype(np.float64))
        scale = max(1.0, float(np.abs(exact).max()), float(self.model.last[1].max()))
        check.close(dx, exact, TOLERANCE, scale)
        check.close(self.norm.grads["weight"], dweight, TOLERANCE)
        check.close(self.norm.grads["bias"], dbias, TOLERANCE)

    @rule(mode=st.booleans())
    def mode(self, mode):
        self.norm.train(mode)
        self.model.training = mode

    @rule(seed=seeds)
    def step(self, seed):
        """An optimizer's step, and a new forward pass before the next backward, as always."""
        rng = np.random.default_rng(seed)
        for name in ("weight", "bias"):
            new = rng.standard_normal(self.features).astype(np.float32)
            self.norm.params[name][...] = new
            setattr(self.model, name, new.astype(np.float64))
        self.ready = False

    @rule()
    def keep_state(self):
        model = self.model
        kept = [v.copy() for v in (model.weight, model.bias, model.mean, model.var)]
        self.states.append((self.norm.state_dict(), (*kept, model.count)))

    @precondition(lambda self: self.states)
    @rule(data=st.data())
    def load_state(self, data):
        state, kept = data.draw(st.sampled_from(self.states))
        self.norm.load_state_dict(state)
        model = self.model
        model.weight, model.bias, model.mean, model.var = (v.copy() for v in kept[:4])
        model.count, self.ready = kept[4], False

    @rule(
        wrong=st.sampled_from(
            [
                None, 1.0, [[1.0]], np.ones((2, 2), int), np.ones((3, 17), np.float32), np.float32(1),
                np.ones((1, 1), np.float32), np.ones((2, 2), complex), np.array("x"), np.ones((), np.float32),
            ]
        ),
        door=st.sampled_from(["forward", "backward", "load", "weight"]),
    )  # fmt: skip
    def nonsense(self, wrong, door):
        """An error of the promised kinds, after which all is as it was (which the invariant looks at)."""
        if isinstance(wrong, np.ndarray) and wrong.shape == (1, 1) and not self.norm.training and self.features == 1:
            return  # that is one value of one channel, and right
        saved, grads = self.norm.saved, self.norm.grads
        with pytest.raises((TypeError, ValueError, RuntimeError)) as raised:
            if door == "forward":
                self.norm(wrong)
            elif door == "backward":
                self.norm.backward(wrong)
            elif door == "load":
                self.norm.load_state_dict(self.norm.state_dict() | {"running_var": wrong})
            else:
                self.norm.weight = wrong
        assert type(raised.value) in (TypeError, ValueError, RuntimeError) and str(self.norm) in str(raised.value)
        assert self.norm.saved is saved and self.norm.grads is grads

    @invariant()
    def state_is_the_models(self):
        if not hasattr(self, "norm"):
            return
        norm, model = self.norm, self.model
        assert norm.num_batches_tracked == model.count
        for found, exact in (
            (norm.weight, model.weight), (norm.bias, model.bias), (norm.running_mean, model.mean),
            (norm.running_var, model.var),
        ):  # fmt: skip
            check.close(found, exact, TOLERANCE)


def test_any_sequence_of_calls():
    run_state_machine_as_test(
        Layer,
        settings=settings(
            max_examples=max(STEPS // PER_RUN, 1), stateful_step_count=PER_RUN, deadline=None,
            derandomize="NORMZOO_FUZZ" not in os.environ, suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip


leaves = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=20)
    | st.sampled_from([object(), np.nan, np.float32(1), np.int64(3), 2**70, -1, np.array(2**63, np.uint64)])
)  # fmt: skip
array_like = st.builds(
    np.ones,
    st.lists(st.integers(0, 4), max_size=3),
    st.sampled_from(["f2", "f4", "f8", ">f4", "i8", "u1", "?", "c8", "O", "U2", "M8[s]", "f4,i2", "g"]),
)
values = st.recursive(
    leaves | array_like, lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner), max_leaves=4
)
names = (
    st.sampled_from(["weight", "bias", "running_mean", "running_var", "num_batches_tracked"])
    | st.text(max_size=3)
    | st.none()
    | st.integers()
)


@settings(max_examples=max(STEPS // 4, 50), deadline=None, derandomize="NORMZOO_FUZZ" not in os.environ)
@given(changes=st.dictionaries(names, values, max_size=3), whole=st.booleans(), other=values)
def test_any_object_as_a_state(changes, whole, other):
    """It is loaded, or a TypeError or ValueError says why not, and nothing has changed."""
    norm = nz.BatchNorm(3)
    before = norm.state_dict()
    state = before | changes if whole else changes
    for given_state in (state, other):
        try:
            norm.load_state_dict(given_state)
        except (TypeError, ValueError) as error:
            assert str(error).startswith("BatchNorm(3): expected")
            for name, value in norm.state_dict().items():
                check.same_bits(value, before[name])
        else:
            for name, value in norm.state_dict().items():
                assert value.dtype == before[name].dtype and value.shape == before[name].shape
        before = norm.state_dict()
