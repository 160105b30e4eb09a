"""What stands before and behind a norm in one pass: the reference against differences, the CPU against the reference."""

import itertools

import numpy as np
import pytest

from normzoo.backends import backend
from normzoo.backends.activations import activation
from normzoo.backends.around import Activation, Around, Beside, BesideBack
from normzoo.backends.contract import CONSTANT, Moments
from normzoo.backends.cpu import code
from normzoo.backends.cpu.compiling.disk import identity
from normzoo.backends.cpu.parallel import threads
from normzoo.backends.lanes import choose, tanh
from tests.check import gradient_matches, same_bits
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

    def at(self, name):
        return self.new() if name is None else getattr(self, name)

    def forward(self, where, y_place=None, s_place=None, **changed):
        """y, s and the statistics; where another array is to be written over, its name."""
        a = {name: getattr(self, name) for name in ("x", "residual", "other", "weight", "bias")} | changed
        x, residual, other, weight, bias = frozen(*a.values())
        y, s, around = self.at(y_place), self.at(s_place) if self.around.residual else None, self.around
        beside = Beside(residual if around.residual else None, s, other if self.has_other else None, self.scale)
        made = self.weight.shape, self.moments, self.dtype, self.store, around
        if self.moments == CONSTANT:
            stats = self.stats
            where.apply(self.view, made[0], *made[2:])(x, stats, weight, bias, y, beside)
        else:
            stats = where.forward(self.view, *made)(x, weight, bias, self.eps, y, beside)
        return y, s, stats

    def backward(self, where, s, stats, ds=True, place=None):
        """Gradients by name; dx is written over dy or x."""
        around = self.around._replace(ds=ds)
        run = where.backward(self.view, self.weight.shape, self.moments, self.dtype, self.store, around)
        dx = s if place == "x" and s is not None else self.at(place)
        dother = self.new() if self.has_other else None
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
        gradient_matches(joined, getattr(case, name), gradient, pair, rng, 1e-7, slope_close)


def slope_close(function, x, direction):
    """By a central difference, so close that no |x - mean| changes its sign."""
    step = 2.0**-20
    return (function(x.real + step * direction) - function(x.real - step * direction)) / (2 * step)


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


# -- the CPU

RICH = {  # whatever a kernel can be asked for
    "residual": Around(residual=True),
    "activation": Around(activation=activation("gelu")),
    "add": Around(residual=True, behind="add", activation=activation("relu")),
    "gate": Around(behind="gate", activation=activation("silu")),
    "first": Around(gate_first=True, activation=activation("tanh")),
}
# A view and parameters for every schedule, see test_backends.py; the second of a pair has parameters that vary along
# the axis that its kernel cannot take them out of.
ROWS = {
    "rows": ((3, 4, 5, 49), (1, 1, 5, 1)),
    "rows_each": ((70, 1, 1, 37), (1, 1, 1, 37)),
    "rows_runs": ((5, 12, 1, 7), (5, 12, 1, 1)),
    "rows_split": ((2, 3, 1, 5001), (1, 3, 1, 1)),
    "rows_split_each": ((2, 3, 1, 2501), (1, 1, 1, 2501)),
}
COLUMNS = {
    "columns": ((4, 64, 21, 1), (1, 1, 21, 1)),
    "columns_short": ((2, 90, 3, 7), (1, 1, 3, 1)),
    "columns_narrow": ((3, 67, 5, 1), (1, 1, 5, 1)),
    "columns_each": ((4, 64, 21, 1), (2, 64, 1, 1)),
    "columns_split": ((2, 600, 70, 1), (1, 1, 70, 1)),
    "columns_split_each": ((2, 600, 35, 1), (1, 600, 35, 1)),
}
FEW = {
    "few": ((40, 1, 1, 8), (1, 1, 1, 1)),
    "few_each": ((40, 1, 3, 8), (1, 1, 3, 8)),
    "few_columns": ((21, 2, 19, 1), (1, 1, 19, 1)),
    "few_over": ((40, 9, 3, 1), (1, 1, 3, 1)),
}
VIEWS = ROWS | COLUMNS | FEW
FAST = [  # kernels that are not slow to compile; each pattern with rows, columns and few values
    ("rows", "residual"),
    ("rows_each", "first"),
    ("rows_each", "add"),
    ("rows_runs", "add"),
    ("rows_split", "gate"),
    ("rows_split_each", "activation"),
    ("columns", "residual"),
    ("columns_narrow", "add"),
    ("columns_split", "first"),
    ("columns_each", "gate"),
    ("few", "residual"),
    ("few_each", "add"),
    ("few_columns", "gate"),
    ("few_over", "first"),
]
REST = [pair for pair in itertools.product(VIEWS, RICH) if pair not in FAST]
GRID = [*FAST, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in REST)]
EPS = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 5e-7, "float64": 1e-14}


def near(actual, expected, tolerance, scale):
    actual, expected = (np.asarray(a, np.float64) for a in (actual, expected))
    assert np.abs(actual - expected).max() <= tolerance * scale


def compare(case, ds=True):
    """The CPU against the reference, with a gradient that is everywhere, and one that is in few places; what the CPU
    found of the first."""
    y, s, stats = case.forward(CPU)
    tolerance = 6 * EPS[case.store.name]
    if s is not None:
        near(s, case.forward(REFERENCE)[1], EPS[case.store.name], np.abs(s).max())
    # of the same s: roundings of it show in all that follows
    of_s = Case.__new__(Case)
    of_s.__dict__ = case.__dict__ | {"around": case.around._replace(residual=False), "x": case.x if s is None else s}
    expected, _, expected_stats = of_s.forward(REFERENCE)
    near(stats, expected_stats, 1e-5, max(1, np.abs(expected_stats).max()))
    near(y, expected, tolerance, max(1, np.abs(expected).max()))
    everywhere, found = case.dy, None
    for dy in (everywhere * (np.arange(case.x.size).reshape(case.view) % 97 == 5), everywhere):
        case.dy = dy.astype(case.store)
        found, wanted = (case.backward(where, s, stats, ds) for where in (CPU, REFERENCE))
        size = max(1, np.abs(stats[2]).max()) * max(1, np.abs(wanted["x"]).max())
        for name in found:
            terms = np.count_nonzero(dy) / case.weight.size if name in ("weight", "bias") else 1
            scale = max(size, terms, np.abs(np.asarray(wanted[name], np.float64)).max())
            near(found[name], wanted[name], 4 * tolerance, scale)
    return y, s, stats, found


@pytest.mark.parametrize(("view", "pattern"), GRID)
def test_cpu_equals_the_reference(view, pattern, rng):
    is_norm_of_s(Case(rng, *VIEWS[view], Moments(), RICH[pattern], np.float32))


def is_norm_of_s(case):
    """The CPU equals the reference, and its y has the bits of the norm of s as stored."""
    y, s, stats, _ = compare(case)
    if s is None:
        return
    plain = case.new()
    run = CPU.forward(case.view, case.weight.shape, case.moments, case.dtype, case.store)
    same_bits(run(*frozen(s, case.weight, case.bias), case.eps, plain), stats)
    if not case.around.is_behind:
        same_bits(plain, y)


SOME = [("rows", "add"), ("columns", "gate"), ("few", "first")]
PAIRS = [pytest.param(*pair, marks=() if pair in SOME else pytest.mark.slow) for pair in itertools.product(VIEWS, RICH)]


def with_each(*values):
    """Each pair with each value; all are slow but for one value of each of SOME."""
    fast = dict(zip(SOME, itertools.cycle(values), strict=False))
    return [
        pytest.param(*pair, value, marks=() if fast.get(pair) == value else pytest.mark.slow)
        for pair in itertools.product(VIEWS, RICH)
        for value in values
    ]


@pytest.mark.parametrize(("view", "pattern"), PAIRS)
def test_statistics_that_are_given(view, pattern, rng):
    compare(Case(rng, *VIEWS[view], CONSTANT, RICH[pattern], np.float32))


@pytest.mark.parametrize(("view", "pattern", "dtype"), with_each("bfloat16", "float64", "float16"))
def test_dtypes(view, pattern, dtype, rng):
    pytest.importorskip("ml_dtypes")
    is_norm_of_s(Case(rng, *VIEWS[view], Moments(), RICH[pattern], np.dtype(dtype)))


@pytest.mark.parametrize(("view", "pattern", "moments"), with_each(Moments(center=False), Moments(power=1)))
def test_moments(view, pattern, moments, rng):
    is_norm_of_s(Case(rng, *VIEWS[view], moments, RICH[pattern], np.float32))


@pytest.mark.parametrize(("view", "pattern"), GRID)
def test_in_place(view, pattern, rng):
    """y may be x, s may be x or the residual, dx may be dy or x."""
    case = Case(rng, *VIEWS[view], Moments(), RICH[pattern], np.float32)
    y, s, stats = case.forward(CPU)
    found = case.backward(CPU, s, stats)
    x, residual, dy = case.x.copy(), case.residual.copy(), case.dy.copy()
    places = [("x", "residual"), ("x", None), (None, "x"), (None, "residual")] if s is not None else [("x", None)]
    for y_place, s_place in places:
        y_again, s_again, _ = case.forward(CPU, y_place=y_place, s_place=s_place)
        same_bits(y_again, y)
        if s is not None:
            same_bits(s_again, s)
        case.x[...], case.residual[...] = x, residual
    for place in ("dy", "x"):
        own = None if s is None else s.copy()
        again = case.backward(CPU, own, stats, place=place)
        for name, gradient in found.items():
            same_bits(again[name], gradient)
        case.x[...], case.dy[...] = x, dy


@pytest.mark.parametrize(("view", "pattern"), GRID)
def test_threads_have_one_result(view, pattern, rng, monkeypatch):
    case = Case(rng, *VIEWS[view], Moments(), RICH[pattern], np.float32)
    guarded, results = threads.guarded, []
    monkeypatch.setattr(threads, "guarded", lambda kernel, values: guarded(kernel))
    for threshold in (0, 10**9):
        monkeypatch.setattr(code, "SERIAL", threshold)
        y, s, stats = case.forward(CPU)
        results.append([y, stats, *case.backward(CPU, s, stats).values()])
    for one, two in zip(*results, strict=True):
        same_bits(one, two)


def test_columns_of_given_statistics_go_back_in_place(rng):
    """Also of what is behind the last row, where several lie side by side."""
    view, parameters = (2, 16501, 3, 1), (1, 1, 3, 1)
    x, dy = rng.standard_normal((2, *view)).astype(np.float32)
    stats, weight = rng.uniform(0.5, 2, (3, view[0], view[2])), np.ones(parameters, np.float32)
    run = CPU.backward(view, parameters, CONSTANT, weight.dtype, x.dtype)
    results = []
    for place in range(3):
        arrays = dy.copy(), x.copy(), np.empty_like(x)
        dweight, dbias = np.empty_like(weight), np.empty_like(weight)
        run(arrays[0], arrays[1], stats, weight, 0.0, arrays[place], dweight, dbias)
        results.append((arrays[place], dweight, dbias))
    for result in results[:2]:
        for one, two in zip(result, results[2], strict=True):
            same_bits(one, two)


def test_parameters_that_columns_repeat(rng):
    """They vary along m and along c, and not along n."""
    compare(Case(rng, (2, 64, 3, 7), (1, 64, 3, 1), Moments(), RICH["gate"], np.float32))


def test_scale_and_no_ds(rng):
    case = Case(rng, *VIEWS["rows"], Moments(), RICH["residual"], np.float32, scale=1.0)
    _, s, _, _ = compare(case, ds=False)
    same_bits(s, case.x + case.residual)


def test_activations_of_ones_own_are_told_apart(rng):
    """By what they do, whatever they are called; one may be a function of the vocabulary itself."""
    for value, derivative in [
        (lambda v: v * v, lambda v: v + v),
        (lambda v: 3.0 * v, lambda v: choose(v, 3.0, 3.0)),
        (tanh, lambda v: 1.0 - tanh(v) * tanh(v)),
    ]:
        own = Activation("own", value, derivative)
        compare(Case(rng, *VIEWS["rows"], Moments(), Around(activation=own), np.float32))


def test_a_kernel_is_found_again_by_what_an_activation_does():
    def closing_over(factor):
        return lambda v: factor * v

    one, same, other = (identity((closing_over(factor),)) for factor in (2.0, 2.0, 3.0))
    assert one == same != other


@pytest.mark.slow
@pytest.mark.parametrize("pattern", RICH)
@pytest.mark.parametrize("view", [(4096, 1, 1, 1040), (8, 64, 64, 160), (1, 8192, 528, 1)], ids=str)
def test_past_the_caches(view, pattern, rng):
    """Results of so many values are written past them, if they can be: the bits are those of results that cannot."""
    parameters = (1, 1, view[2], 1) if view[3] == 1 else (1, 1, 1, view[3])
    case = Case(rng, view, parameters, Moments(), RICH[pattern], np.float32)
    y, s, stats = case.forward(CPU)
    found = case.backward(CPU, s, stats)
    case.new = lambda: np.full(case.x.size + 1, np.nan, np.float32)[1:].reshape(case.view)
    again = case.forward(CPU)
    for one, two in zip((y, s, stats), again, strict=True):
        assert one is None or same_bits(two, one) is None
    for name, gradient in case.backward(CPU, s, stats).items():
        same_bits(gradient, found[name])
    if s is not None:
        case.new = lambda: np.full(case.view, np.nan, np.float32)
        same_bits(case.forward(CPU, s_place="residual", y_place="x")[0], y)
