"""Gradients are exact wherever dy sits: in one sample, one value, the first one, one in a thousand; around a large mean.

A loss that looks at one position, at what a mask leaves, or at a rare reward gives such a dy. Of float32 arrays

    dweight is within 1e-6 of sum(|dy * xhat|), dbias of sum(|dy|), over what they sum (and 1e-7 of sum(|dy|) beside, as
        xhat is no more exact than that where x is nearly its mean, which is all there is to a sum of one value),
    dx within 1e-5 of max|dx|, and every value of dx within 1e-5 of the terms it is made of:
        rstd * (|g| + mean|g| + max(1, |xhat|) * mean|g * xhat|), g = dy * weight

where the last says that a dy in one place must not spoil the small dx of all others. What is right is found in long
double, set by set, with the sets as plain lists of numbers: no view, no axes, nothing of the library.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import ml_dtypes
import numba
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import normzoo as nz
import normzoo.njit
from normzoo.norm import Norm
from tests import check, oracles

F = nz.functional
SUMS, XHAT, LARGEST, TERMS = 1e-6, 1e-7, 1e-5, 1e-5
WIDE = np.longdouble


# -- what is right ---------------------------------------------------------------------------------------------


class Groups:
    """Values by number: `of[i]` says which group value i is in."""

    def __init__(self, of):
        self.of = of
        self.order = np.argsort(of, kind="stable")
        self.starts = np.flatnonzero(np.diff(of[self.order], prepend=-1))
        self.size = np.diff(self.starts, append=of.size)

    def sum(self, values):
        return np.add.reduceat(values[self.order], self.starts)


class Right(NamedTuple):
    """Gradients in long double, and what their errors are relative to."""

    x: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    terms: np.ndarray
    weight_sum: np.ndarray
    bias_sum: np.ndarray


@dataclass(frozen=True)
class Kind:
    """The statistics of a set: see the formulas below. `factor` is of the mean absolute deviation of power 1."""

    center: bool = True
    power: int = 2
    total: bool = False
    eps: float = 1e-5
    factor: float = 1.0


def right(kind: Kind, x, dy, weight, sets: Groups, parameters: Groups, given=None) -> Right:
    """All are flat; weight and given (mean, var) are of one value a parameter and a set, or None."""
    v, d = x.astype(WIDE), dy.astype(WIDE)
    k = WIDE(1) if kind.total else sets.size.astype(WIDE)
    if given is not None:
        deviation, rstd = v - given[0].astype(WIDE)[sets.of], 1 / np.sqrt(given[1].astype(WIDE) + WIDE(kind.eps))
    elif kind.power == 0:
        deviation, rstd = v, np.ones(len(sets.size), WIDE)
    else:
        deviation = v - (sets.sum(v) / k)[sets.of] if kind.center else v
        if kind.power == 1:
            rstd = 1 / (WIDE(kind.factor) * sets.sum(np.abs(deviation)) / k + WIDE(kind.eps))
        else:
            rstd = 1 / np.sqrt(sets.sum(deviation * deviation) / k + WIDE(kind.eps))
    rstd = rstd[sets.of]
    xhat = deviation * rstd
    g = d if weight is None else d * weight.astype(WIDE)[parameters.of]
    size = np.abs(g)
    dx = g
    if given is None and kind.power:
        project = (sets.sum(g * xhat) / k)[sets.of]
        q = xhat
        if kind.center:
            dx = dx - (sets.sum(g) / k)[sets.of]
            size = size + (sets.sum(np.abs(g)) / k)[sets.of]
        if kind.power == 1:
            q = np.sign(deviation)
            q = WIDE(kind.factor) * (q - (sets.sum(q) / k)[sets.of])
        dx = dx - q * project
        size = size + np.maximum(1, np.abs(xhat)) * (sets.sum(np.abs(g * xhat)) / k)[sets.of]
    return Right(
        dx * rstd, parameters.sum(d * xhat), parameters.sum(d), size * rstd,
        parameters.sum(np.abs(d * xhat)), parameters.sum(np.abs(d)),
    )  # fmt: skip


SUBNORMAL = 2.0**-24  # the spacing of float16 near 0


def check_gradients(found, expected: Right, narrow=0.0):
    """found: dx, dweight, dbias, the latter two None where there are none. narrow: dx is stored with such a rounding."""
    dx, dweight, dbias = (None if a is None else np.asarray(a).ravel().astype(WIDE) for a in found)
    wrong = []

    def compare(name, a, exact, allowed, scale):
        assert a.shape == exact.shape, f"{name} of {a.size} values, expected {exact.size}"
        error = np.abs(a - exact)
        bad = ~(error <= allowed)
        if bad.any():
            ratio = np.divide(error, scale, out=np.full(error.shape, np.inf, WIDE), where=scale > 0)
            worst = int(np.argmax(np.where(bad, ratio, -1)))  # NaN, if there is one
            wrong.append(f"{name} off by {float(ratio[worst]):.1e} of {float(scale[worst]):.2g} at {worst}")

    size = expected.x.size
    most = np.full(size, np.abs(expected.x).max())
    rounding = np.maximum(narrow * np.abs(expected.x), SUBNORMAL if narrow else 0)
    compare("dx", dx, expected.x, LARGEST * most + rounding, most)
    compare("a value of dx", dx, expected.x, TERMS * expected.terms + rounding, expected.terms)
    if dweight is not None:
        allowed = SUMS * expected.weight_sum + XHAT * expected.bias_sum
        compare("dweight", dweight, expected.weight, allowed, expected.weight_sum)
    if dbias is not None:
        compare("dbias", dbias, expected.bias, SUMS * expected.bias_sum, expected.bias_sum)
    assert not wrong, "; ".join(wrong)


# -- where dy sits -----------------------------------------------------------------------------------------------


class Place(NamedTuple):
    """What a dy is drawn for."""

    rng: np.random.Generator
    shape: tuple[int, ...]
    channel: int  # axis
    sets: Groups


def _normal(mean):
    return lambda at: (mean + at.rng.standard_normal(at.shape)).astype(np.float32)


def _only(choose):
    """Zeros but at the places that `choose` returns."""

    def dy(at):
        d = np.zeros(int(np.prod(at.shape)), np.float32)
        where = choose(at, d.size)
        d[where] = 1.7 + at.rng.standard_normal(d[where].shape)
        return d.reshape(at.shape)

    return dy


def _far(choose):
    """Values at these places are a million deviations away."""

    def dy(at):
        d = at.rng.standard_normal(int(np.prod(at.shape))).astype(np.float32)
        d[choose(at, d.size)] = 1e6
        return d.reshape(at.shape)

    return dy


def _scaled_channels(at):
    scale = 10.0 ** at.rng.integers(
        -6, 7, [n if a == at.channel % len(at.shape) else 1 for a, n in enumerate(at.shape)]
    )
    return (at.rng.standard_normal(at.shape) * scale).astype(np.float32)


PLACES: dict[str, Callable] = {
    "everywhere": _normal(0),
    "nowhere": lambda at: np.zeros(at.shape, np.float32),
    "first-sample": _only(lambda at, size: slice(0, size // at.shape[0])),
    "last-sample": _only(lambda at, size: slice(size - size // at.shape[0], size)),
    "first-value": _only(lambda at, size: slice(0, 1)),
    "last-value": _only(lambda at, size: slice(size - 1, size)),
    "one-value": _only(lambda at, size: [int(at.rng.integers(size))]),
    "one-in-a-thousand": _only(lambda at, size: at.rng.integers(size, size=size // 1000 + 1)),
    "first-of-sets": _only(lambda at, size: at.sets.order[at.sets.starts]),
    "far-mean": _normal(1e4),
    "first-far": _far(lambda at, size: 0),
    "last-far": _far(lambda at, size: -1),
    "first-of-sets-far": _far(lambda at, size: at.sets.order[at.sets.starts]),
    "scaled-channels": _scaled_channels,
}
HARD = ("first-value", "last-value", "first-of-sets-far", "far-mean")
each_place = pytest.mark.parametrize("place", PLACES)


# -- norms -------------------------------------------------------------------------------------------------------


def numbers(shape, *axes):
    """Of every value of an array: the number of the place that it has along these axes. Flat."""
    index = np.indices(shape, sparse=True)
    number = np.zeros(shape, np.int64)
    for a in sorted(a % len(shape) for a in axes):
        number = number * shape[a] + index[a]
    return number.ravel()


def grouped(shape, groups, channel):
    """Numbers of (sample, group of channels), and beside them nothing: sets of GroupNorm."""
    c = np.indices(shape, sparse=True)[channel % len(shape)]
    number = numbers(shape, 0).reshape(shape) * groups + c // (shape[channel] // groups)
    return number.ravel()


@dataclass(frozen=True)
class Row:
    """A norm, and which set and parameter every value of x belongs to.

    Attributes:
        names: of the arguments that stand for weight and bias; inputs beside x if they are no parameters.
        offset: what is added to the first.
        given: evaluation, with running statistics of (mean, var).
    """

    id: str
    make: Callable
    shape: tuple[int, ...]
    sets: Callable  # shape -> numbers
    parameters: Callable
    kind: Kind = field(default_factory=Kind)
    channel: int = 1
    names: tuple[str, ...] = ("weight", "bias")
    inputs: tuple[tuple[int, ...], ...] = ()
    offset: float = 0.0
    given: bool = False


def of_axes(*axes):
    return lambda shape: numbers(shape, *axes)


def rows() -> Iterator[Row]:
    channels, samples, plane = of_axes(1), of_axes(0, 1), (3, 5, 17, 33)
    last, samples_last = of_axes(-1), of_axes(0, -1)
    yield Row("batch_norm-2d", lambda: nz.BatchNorm(5), (2003, 5), channels, channels)
    yield Row("batch_norm-2d-wide", lambda: nz.BatchNorm(33), (513, 33), channels, channels)
    yield Row("batch_norm", lambda: nz.BatchNorm(5), plane, channels, channels)
    yield Row("batch_norm-long", lambda: nz.BatchNorm(2), (2, 2, 131, 131), channels, channels)
    yield Row("batch_norm-short", lambda: nz.BatchNorm(5), (513, 5, 3), channels, channels)
    yield Row("batch_norm-last", lambda: nz.BatchNorm(5, channel_axis=-1), (3, 17, 33, 5), last, last, channel=-1)
    yield Row("batch_norm-plain", lambda: nz.BatchNorm(5, affine=False), plane, channels, channels, names=())
    yield Row("batch_norm-eval", lambda: nz.BatchNorm(5).eval(), plane, channels, channels, given=True)
    yield Row(
        "batch_norm-eval-last", lambda: nz.BatchNorm(5, channel_axis=-1).eval(), (3, 17, 33, 5), last, last, channel=-1,
        given=True,
    )  # fmt: skip
    yield Row("batch_norm-eval-2d", lambda: nz.BatchNorm(5).eval(), (2003, 5), channels, channels, given=True)
    yield Row(
        "ghost_batch_norm", lambda: nz.GhostBatchNorm(5, 3), (6, 5, 17, 19),
        lambda shape: numbers(shape, 0) // 2 * 5 + numbers(shape, 1), channels,
    )  # fmt: skip
    yield Row(
        "l1_batch_norm", lambda: nz.L1BatchNorm(5), plane, channels, channels,
        Kind(power=1, factor=(np.pi / 2) ** 0.5),
    )  # fmt: skip
    yield Row("instance_norm", lambda: nz.InstanceNorm(5, affine=True), plane, samples, channels)
    yield Row(
        "instance_norm-last", lambda: nz.InstanceNorm(5, affine=True, channel_axis=-1), (3, 17, 33, 5), samples_last,
        last, channel=-1,
    )  # fmt: skip
    yield Row(
        "instance_norm-eval", lambda: nz.InstanceNorm(5, affine=True, track_running_stats=True).eval(), plane, channels,
        channels, given=True,
    )  # fmt: skip
    yield Row("filter_response_norm", lambda: nz.FilterResponseNorm(5, tlu=False), plane, samples, channels, Kind(False, eps=1e-6))  # fmt: skip
    yield Row("layer_norm", lambda: nz.LayerNorm(769), (13, 769), of_axes(0), last, channel=-1)
    yield Row("layer_norm-long", lambda: nz.LayerNorm(65537), (1, 65537), of_axes(0), last, channel=-1)
    yield Row("layer_norm-short", lambda: nz.LayerNorm(7), (1201, 7), of_axes(0), last, channel=-1)
    yield Row("layer_norm-plain", lambda: nz.LayerNorm(769, elementwise_affine=False), (13, 769), of_axes(0), last, channel=-1, names=())  # fmt: skip
    yield Row("layer_norm-channels", lambda: nz.LayerNorm(33, axis=1), (2, 33, 11, 17), of_axes(0, 2, 3), channels)
    yield Row("rms_norm", lambda: nz.RMSNorm(4099, eps=1e-5), (3, 4099), of_axes(0), last, Kind(False), channel=-1, names=("weight",))  # fmt: skip
    yield Row("rms_norm-short", lambda: nz.RMSNorm(9, eps=1e-5), (1201, 9), of_axes(0), last, Kind(False), channel=-1, names=("weight",))  # fmt: skip
    yield Row("group_norm", lambda: nz.GroupNorm(3, 6), (2, 6, 17, 33), lambda shape: grouped(shape, 3, 1), channels)
    yield Row("group_norm-plain", lambda: nz.GroupNorm(3, 6, affine=False), (2, 6, 17, 33), lambda shape: grouped(shape, 3, 1), channels, names=())  # fmt: skip
    yield Row(
        "group_norm-last", lambda: nz.GroupNorm(3, 6, channel_axis=-1), (2, 17, 33, 6),
        lambda shape: grouped(shape, 3, -1), last, channel=-1,
    )  # fmt: skip
    yield Row("scale_norm", lambda: nz.ScaleNorm(3), (3, 4099), of_axes(0), of_axes(), Kind(False, total=True, eps=0), channel=-1, names=("weight",))  # fmt: skip
    yield Row("l2_norm", lambda: nz.L2Norm(769, elementwise_affine=True), (13, 769), of_axes(0), last, Kind(False, total=True, eps=0), channel=-1, names=("weight",))  # fmt: skip
    yield Row("weight_norm", lambda: nz.WeightNorm((13, 769)), (13, 769), of_axes(0), of_axes(0), Kind(False, total=True, eps=0), channel=-1, names=("weight",))  # fmt: skip
    yield Row(
        "adaptive_layer_norm", lambda: nz.AdaptiveLayerNorm(33), (3, 301, 33), of_axes(0, 1), samples_last,
        Kind(eps=1e-6), channel=-1, names=("scale", "shift"), inputs=((3, 33), (3, 33)), offset=1.0,
    )  # fmt: skip
    yield Row("film", nz.FiLM, plane, samples, samples, Kind(False, power=0), names=("gamma", "beta"), inputs=((3, 5), (3, 5)))  # fmt: skip
    yield Row("spade", lambda: nz.SPADE(5), plane, channels, of_axes(0, 1, 2, 3), names=("gamma", "beta"), inputs=(plane, plane), offset=1.0)  # fmt: skip


ROWS = {row.id: row for row in rows()}


@lru_cache(maxsize=64)
def groups_of(row: Row) -> tuple[Groups, Groups]:
    return Groups(row.sets(row.shape)), Groups(row.parameters(row.shape))


def prepared(row: Row, place: str, narrow=np.float32):
    """The norm, x and inputs, dy, and what is right."""
    rng = np.random.default_rng(20260101)
    sets, parameters = groups_of(row)
    norm = row.make()
    x = (3 + 2 * rng.standard_normal(row.shape)).astype(narrow)
    dy = PLACES[place](Place(rng, row.shape, row.channel, sets)).astype(narrow)
    count = len(parameters.size)
    inputs = {}
    weight = None
    if row.inputs:
        inputs = {
            name: rng.standard_normal(shape).astype(np.float32)
            for name, shape in zip(row.names, row.inputs, strict=True)
        }
        weight = inputs[row.names[0]].ravel().astype(np.float64) + row.offset
    elif row.names:
        for p in norm.params.values():
            p[...] = rng.standard_normal(p.shape)
        weight = np.broadcast_to(norm.params["weight"].ravel(), count)
    given = None
    if row.given:
        norm.buffers["running_mean"][...] = rng.standard_normal(norm.num_features)
        norm.buffers["running_var"][...] = rng.uniform(0.5, 2, norm.num_features)
        given = norm.buffers["running_mean"], norm.buffers["running_var"]
    return norm, x, inputs, dy, right(row.kind, x.ravel(), dy.ravel(), weight, sets, parameters, given)


def taken(row: Row, grads: dict, dx):
    """dx, dweight, dbias in the order of the numbers of the parameters."""
    return dx, *(grads.get(name) for name in (*row.names, None, None)[:2])


def by_layer(row, norm, x, inputs, dy):
    norm(x, **inputs)
    return taken(row, norm.grads, norm.backward(dy))


def check_row(row: Row, place: str, run: Callable = by_layer, narrow=np.float32) -> None:
    norm, x, inputs, dy, expected = prepared(row, place, narrow)
    check_gradients(run(row, norm, x, inputs, dy), expected, 0.0 if narrow == np.float32 else 2.0**-8)


@each_place
@pytest.mark.parametrize("name", ROWS)
def test_wherever_dy_sits(name, place):
    check_row(ROWS[name], place)


# -- what is right, and the comparison, are themselves looked at ------------------------------------------------------


@pytest.mark.parametrize(
    ("oracle", "row"),
    [
        (oracles.batch_norm, Row("", Norm, (5, 4, 7), of_axes(1), of_axes(1))),
        (oracles.instance_norm, Row("", Norm, (5, 4, 7), of_axes(0, 1), of_axes(1))),
        (
            lambda x, w, b: oracles.group_norm(x, 2, w, b),
            Row("", Norm, (5, 4, 7), lambda shape: grouped(shape, 2, 1), of_axes(1)),
        ),
        (lambda x, w, b: oracles.layer_norm(x, (2,), w, b), Row("", Norm, (5, 4, 7), of_axes(0, 1), of_axes(2))),
        (
            lambda x, w, b: oracles.rms_norm(x, (2,), w),
            Row("", Norm, (5, 4, 7), of_axes(0, 1), of_axes(2), Kind(False)),
        ),
    ],
    ids=["batch_norm", "instance_norm", "group_norm", "layer_norm", "rms_norm"],
)
def test_what_is_right_is_the_derivative_of_the_formula(oracle, row, rng):
    sets, parameters = groups_of(row)
    x, dy = rng.standard_normal((2, *row.shape))
    w, b = rng.standard_normal((2, len(parameters.size)))
    found = right(row.kind, x.ravel(), dy.ravel(), w, sets, parameters)
    check.gradient_matches(lambda v: oracle(v, w, b), x, found.x.reshape(x.shape), dy, rng, 1e-13)
    check.gradient_matches(lambda v: oracle(x, v, b), w, found.weight, dy, rng, 1e-13)
    if row.kind.center:
        check.gradient_matches(lambda v: oracle(x, w, v), b, found.bias, dy, rng, 1e-13)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda dx, dw, db: np.add(dx, 1.1e-5 * np.abs(dx).max(), out=dx), "dx off by 1.1e-05"),
        (lambda dx, dw, db: np.multiply(dx[1:], 1.08, out=dx[1:]), "a value of dx off by"),
        (lambda dx, dw, db: np.multiply(dw, 1 + 2e-6, out=dw), "dweight off by 2.0e-06"),
        (lambda dx, dw, db: np.multiply(db, 0.87, out=db), "dbias off by 1.3e-01"),
        (lambda dx, dw, db: np.copyto(dx[-1:], np.nan), "dx off by nan"),
    ],
)
def test_what_is_wrong_is_seen(spoil, message):
    _, _, _, _, expected = prepared(ROWS["batch_norm-2d"], "first-value")
    found = [np.array(a, np.float64) for a in expected[:3]]
    check_gradients(found, expected)
    spoil(*found)
    with pytest.raises(AssertionError, match=message):
        check_gradients(found, expected)


# -- sizes on both sides of what kernels are cut by ----------------------------------------------------------------


def sized(norm: str, n: int) -> Row:
    """A norm over sets of n values, of 2 n in groups."""
    return {
        "batch_norm": Row("", lambda: nz.BatchNorm(3), (n, 3), of_axes(1), of_axes(1)),
        "instance_norm": Row("", lambda: nz.InstanceNorm(3, affine=True), (2, 3, n), of_axes(0, 1), of_axes(1)),
        "group_norm": Row("", lambda: nz.GroupNorm(2, 4), (1, 4, n), lambda shape: grouped(shape, 2, 1), of_axes(1)),
        "group_norm-last": Row(
            "", lambda: nz.GroupNorm(2, 4, channel_axis=-1), (1, n, 4), lambda shape: grouped(shape, 2, -1), of_axes(-1),
            channel=-1,
        ),
        "layer_norm": Row("", lambda: nz.LayerNorm(n), (2, n), of_axes(0), of_axes(1), channel=-1),
        "rms_norm": Row("", lambda: nz.RMSNorm(n, eps=1e-5), (2, n), of_axes(0), of_axes(1), Kind(False), -1, ("weight",)),
    }[norm]  # fmt: skip


SIZES = (2, 3, 15, 17, 4097, 65537)
MORE_SIZES = (4, 5, 16, 31, 32, 33, 4095, 4096, 65535, 65536)


@pytest.mark.parametrize("n", [*SIZES, *(pytest.param(n, marks=pytest.mark.slow) for n in MORE_SIZES)])
@pytest.mark.parametrize(
    "norm", ["batch_norm", "instance_norm", "group_norm", "group_norm-last", "layer_norm", "rms_norm"]
)
def test_of_any_size(norm, n):
    for place in HARD:
        check_row(sized(norm, n), place)


# -- other ways in -------------------------------------------------------------------------------------------------


def in_place(row, norm, x, inputs, dy):
    _, saved = norm.forward(x, **inputs)
    found = saved.backward(dy, out=dy)
    return found.x, found.weight, found.bias


def by_reference(row, norm, x, inputs, dy):
    with nz.use("reference"):
        return by_layer(row, norm, x, inputs, dy)


def in_steps(row, norm, x, inputs, dy):
    """x and dy with gaps between their values."""
    gaps = [np.repeat(a, 2, axis=-1)[..., ::2] for a in (x, dy)]
    return by_layer(row, norm, gaps[0], inputs, gaps[1])


def arguments(norm) -> tuple:
    """The name of the norm's function, and what it takes behind x."""
    w, b = norm.weight, norm.params.get("bias")
    if isinstance(norm, nz.BatchNorm):
        return "batch_norm", (norm.running_mean, norm.running_var, w, b, norm.training)
    if isinstance(norm, nz.InstanceNorm):
        return "instance_norm", (None, None, w, b)
    if isinstance(norm, nz.GroupNorm):
        return "group_norm", (norm.num_groups, w, b)
    if isinstance(norm, nz.RMSNorm):
        return "rms_norm", (norm.normalized_shape, w, norm.eps)
    return "layer_norm", (norm.normalized_shape, w, b)


def by_function(row, norm, x, inputs, dy):
    name, behind = arguments(norm)
    options = {"channel_axis": -1} if getattr(norm, "channel_axis", 1) == -1 else {}
    found = getattr(F, name)(x, *behind, **options, return_saved=True)[1].backward(dy)
    return found.x, found.weight, None if name == "rms_norm" else found.bias


def by_torch(row, norm, x, inputs, dy):
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("normzoo.torch").functional
    name, behind = arguments(norm)
    leaves = [torch.tensor(a, requires_grad=True) for a in (x, *norm.params.values())]
    by_id = {id(p): leaf for p, leaf in zip(norm.params.values(), leaves[1:], strict=True)}
    behind = [by_id.get(id(a), torch.tensor(a) if isinstance(a, np.ndarray) else a) for a in behind]
    y = getattr(functional, name)(leaves[0], *behind)
    found = torch.autograd.grad(y, leaves, torch.from_numpy(dy))
    return (*(g.numpy() for g in found), None, None)[:3]


WAYS = {"in-place": in_place, "strided": in_steps}
FUNCTIONAL = ("batch_norm-2d", "batch_norm", "batch_norm-eval", "instance_norm", "layer_norm", "rms_norm", "group_norm")


@pytest.mark.parametrize("name", ROWS)
def test_by_the_definition(name):
    for place in HARD:
        check_row(ROWS[name], place, by_reference)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", FUNCTIONAL)
def test_by_another_way(name, way):
    for place in HARD:
        check_row(ROWS[name], place, WAYS[way])


@pytest.mark.parametrize("way", [by_function, by_torch])
@pytest.mark.parametrize("name", FUNCTIONAL)
def test_by_functions(name, way):
    for place in HARD:
        check_row(ROWS[name], place, way)


@numba.njit
def compiled_batch_norm(x, w, b, dy):
    return F.batch_norm(x, None, None, w, b, True, return_saved=True)[1].backward(dy)


@numba.njit
def compiled_instance_norm(x, w, b, dy):
    return F.instance_norm(x, None, None, w, b, return_saved=True)[1].backward(dy)


@numba.njit
def compiled_layer_norm(x, w, b, dy):
    return F.layer_norm(x, x.shape[-1], w, b, return_saved=True)[1].backward(dy)


@numba.njit
def compiled_group_norm(x, w, b, dy):
    return F.group_norm(x, 3, w, b, return_saved=True)[1].backward(dy)


COMPILED = {
    "batch_norm": compiled_batch_norm,
    "instance_norm": compiled_instance_norm,
    "layer_norm": compiled_layer_norm,
    "group_norm": compiled_group_norm,
}


@pytest.mark.parametrize("place", HARD)
def test_of_values_behind_a_mask(place, rng):
    shape = (20, 5, 50)
    mask = np.arange(50) < rng.integers(30, 50, (20, 1, 1))
    mask[7] = False
    x = (3 + 2 * rng.standard_normal(shape)).astype(np.float32)
    kept, channels = np.broadcast_to(mask, shape), numbers(shape, 1).reshape(shape)
    dy = PLACES[place](Place(rng, shape, 1, Groups(channels.ravel())))
    norm = nz.BatchNorm(5)
    norm.weight[...] = rng.standard_normal(5)
    norm(x, mask=mask)
    dx = norm.backward(dy)
    left = Groups(channels[kept])
    expected = right(Kind(), x[kept], dy[kept], norm.weight, left, left)
    check_gradients((dx[kept], norm.grads["weight"], norm.grads["bias"]), expected)


@pytest.mark.slow  # compiling takes seconds, and `test_njit.py` finds the bits of a call from Python
@pytest.mark.parametrize("name", COMPILED)
def test_in_compiled_code(name):
    assert normzoo.njit.__all__

    def run(row, norm, x, inputs, dy):
        return COMPILED[name](x, norm.weight, norm.bias, dy)

    for place in HARD:
        check_row(ROWS[name], place, run)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["batch_norm", "layer_norm"])
def test_of_sixteen_bits(name, dtype):
    for place in ("first-value", "last-value", "one-in-a-thousand"):
        check_row(ROWS[name], place, narrow=dtype)


# -- shapes at random ------------------------------------------------------------------------------------------------


@st.composite
def any_row(draw):  # noqa: PLR0911
    n, c, s = draw(st.integers(1, 40)), draw(st.integers(1, 40)), draw(st.integers(1, 300))
    groups = draw(st.sampled_from([g for g in range(1, c + 1) if c % g == 0]))
    last, affine = draw(st.booleans()), draw(st.booleans())
    shape, channel = ((n, s, c), -1) if last else ((n, c, s), 1)
    names = ("weight", "bias") if affine else ()
    o = {"channel_axis": channel, "affine": affine}
    own = of_axes(channel)
    kind = draw(st.sampled_from(["batch", "eval", "ghost", "instance", "group", "layer", "rms", "l1", "film"]))
    if kind in ("layer", "rms"):
        norm = nz.LayerNorm(shape[-1]) if kind == "layer" else nz.RMSNorm(shape[-1], eps=1e-5)
        return Row(
            "",
            lambda: norm,
            shape,
            of_axes(0, 1),
            of_axes(2),
            Kind(kind == "layer"),
            -1,
            ("weight", "bias")[: 1 + (kind == "layer")],
        )
    if kind == "film":
        return Row(
            "", lambda: nz.FiLM(channel_axis=channel), shape, of_axes(0, channel), of_axes(0, channel),
            Kind(False, power=0), channel, ("gamma", "beta"), ((n, c), (n, c)),
        )  # fmt: skip
    values = {"instance": s, "group": s * c // groups, "eval": 2, "ghost": s * (n // 2)}.get(kind, n * s)
    assume(values > 1)
    if kind == "ghost":
        assume(n % 2 == 0)
        sets = lambda shape: numbers(shape, 0) // (n // 2) * c + numbers(shape, channel)  # noqa: E731
        return Row("", lambda: nz.GhostBatchNorm(c, 2, **o), shape, sets, own, channel=channel, names=names)
    if kind == "instance":
        return Row("", lambda: nz.InstanceNorm(c, **o), shape, of_axes(0, channel), own, channel=channel, names=names)
    if kind == "group":
        sets = lambda shape: grouped(shape, groups, channel)  # noqa: E731
        return Row("", lambda: nz.GroupNorm(groups, c, **o), shape, sets, own, channel=channel, names=names)
    if kind == "eval":
        return Row("", lambda: nz.BatchNorm(c, **o).eval(), shape, own, own, channel=channel, names=names, given=True)
    if kind == "l1":
        power = Kind(power=1, factor=(np.pi / 2) ** 0.5)
        return Row("", lambda: nz.L1BatchNorm(c, **o), shape, own, own, power, channel, names)
    return Row("", lambda: nz.BatchNorm(c, **o), shape, own, own, channel=channel, names=names)


@pytest.mark.slow
@given(row=any_row(), place=st.sampled_from(list(PLACES)))
@settings(max_examples=1000, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_of_shapes_at_random(row, place):
    check_row(row, place)
