"""What stands before and behind a norm in one pass: the reference against differences, the CPU against the reference."""

import numpy as np
import pytest

from normzoo.backends import backend
from normzoo.backends.around import Activation, Around, Beside, BesideBack
from normzoo.backends.contract import CONSTANT, Moments
from tests.check import gradient_near
from tests.test_backends import MOMENTS, frozen

REFERENCE, CPU = backend("reference"), backend("cpu")

BENT = Activation("bent", lambda v: v * v + v, lambda v: v + v + 1.0)  # smooth, and neither even nor odd

PATTERNS = {
    "residual": Around(residual=True),
    "activation": Around(activation=BENT),
    "add": Around(behind="add"),
    "add_activation": Around(behind="add", activation=BENT),
    "gate": Around(behind="gate"),
    "gate_activation": Around(behind="gate", activation=BENT),
    "gate_first": Around(gate_first=True),
    "gate_first_activation": Around(gate_first=True, activation=BENT),
    "residual_activation": Around(residual=True, activation=BENT),
    "residual_add_activation": Around(residual=True, behind="add", activation=BENT),
    "residual_gate_activation": Around(residual=True, behind="gate", activation=BENT),
}


class Case:
    """The arrays of a pass, and the passes."""

    def __init__(self, rng, view, parameter_view, moments, around, dtype=np.float64, scale=0.75):
        self.view, self.moments, self.around, self.scale, self.eps = view, moments, around, scale, 1e-5
        self.dtype, self.store = np.result_type(dtype, np.float32), np.dtype(dtype)
        made = 0.5 + rng.standard_normal((6, *view))
        self.x, self.residual, self.other, self.dy, self.ds, _ = made.astype(self.store)
        self.weight, self.bias = rng.standard_normal((2, *parameter_view)).astype(self.dtype)
        self.stats = rng.uniform(0.5, 2, (3, view[0], view[2]))  # of CONSTANT moments

    @property
    def has_other(self):
        return self.around.gate_first or self.around.behind != ""

    def new(self):
        return np.full(self.view, np.nan, self.store)

    def forward(self, where, **changed):
        """y, s and the statistics."""
        a = {name: getattr(self, name) for name in ("x", "residual", "other", "weight", "bias")} | changed
        x, residual, other, weight, bias = frozen(*a.values())
        y, s, around = self.new(), self.new() if self.around.residual else None, self.around
        beside = Beside(residual if around.residual else None, s, other if self.has_other else None, self.scale)
        made = self.weight.shape, self.moments, self.dtype, self.store, around
        if self.moments == CONSTANT:
            stats = self.stats
            where.apply(self.view, made[0], *made[2:])(x, stats, weight, bias, y, beside)
        else:
            stats = where.forward(self.view, *made)(x, weight, bias, self.eps, y, beside)
        return y, s, stats

    def backward(self, where, s, stats, ds=True):
        """Gradients by name."""
        around = self.around._replace(ds=ds)
        run = where.backward(self.view, self.weight.shape, self.moments, self.dtype, self.store, around)
        dx, dother = self.new(), self.new() if self.has_other else None
        dweight, dbias = np.full_like(self.weight, np.nan), np.full_like(self.bias, np.nan)
        dy, x, other, weight, bias, above = frozen(
            self.dy, self.x if s is None else s, self.other, self.weight, self.bias, self.ds
        )
        beside = BesideBack(bias, other if self.has_other else None, dother, above if ds else None)
        run(dy, x, stats, weight, self.eps, dx, dweight, dbias, beside)
        found = {"x": dx, "weight": dweight, "bias": dbias}
        if self.around.residual:
            found["residual"] = dx * self.scale
        return found | ({"other": dother} if self.has_other else {})


@pytest.mark.parametrize("moments", [*MOMENTS, CONSTANT], ids=str)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_gradients_of_the_reference_are_differences(pattern, moments, rng):
    case = Case(rng, (4, 3, 2, 5), (2, 3, 1, 5), moments, PATTERNS[pattern])
    _, s, stats = case.forward(REFERENCE)
    found = case.backward(REFERENCE, s, stats, ds=case.around.residual)
    above = case.ds if case.around.residual else 0.0
    for name, gradient in found.items():

        def joined(v, name=name):
            y, s, _ = case.forward(REFERENCE, **{name: v})
            return np.stack([y, y if s is None else s])

        pair = np.stack([case.dy, np.broadcast_to(above, case.view)])
        gradient_near(joined, getattr(case, name), gradient, pair, rng, 1e-8)


def test_s_is_as_stored(rng):
    """The reference normalizes what was rounded to storage."""
    case = Case(rng, (4, 3, 2, 5), (1, 3, 1, 5), Moments(), Around(residual=True), np.float16)
    y, s, stats = case.forward(REFERENCE)
    np.testing.assert_array_equal(s, (case.x + 0.75 * case.residual.astype(np.float64)).astype(np.float16))
    plain = case.new()
    run = REFERENCE.forward(case.view, case.weight.shape, case.moments, case.dtype, case.store)
    np.testing.assert_array_equal(run(s, case.weight, case.bias, case.eps, plain), stats)
    np.testing.assert_array_equal(plain, y)


def test_a_gradient_that_reaches_s_is_added_before_the_gate(rng):
    """Of u = n(x * act(gate)), whoever hands s on."""
    case = Case(rng, (4, 3, 2, 5), (1, 1, 1, 1), Moments(), Around(gate_first=True, activation=BENT))
    _, s, stats = case.forward(REFERENCE)
    more, less = (case.backward(REFERENCE, s, stats, ds) for ds in (True, False))
    act, slope = BENT.value(case.other), BENT.derivative(case.other)
    np.testing.assert_allclose(more["x"] - less["x"], case.ds * act, atol=1e-12)
    np.testing.assert_allclose(more["other"] - less["other"], case.ds * case.x * slope, atol=1e-12)
