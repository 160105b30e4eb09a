"""The five functions of `nz.functional` as Numba compiles them."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numba
import numpy as np
from numba.core import types
from numba.core.errors import TypingError
from numba.experimental.structref import new

from normzoo import functional
from normzoo.backends.around import ALONE, Around
from normzoo.backends.contract import CONSTANT, Moments
from normzoo.backends.cpu.compiling.jit import INNER
from normzoo.backends.cpu.kernels import running as running_kernels
from normzoo.backends.cpu.kernels.records import Forward
from normzoo.njit.arguments import check, compiled, flag, none
from normzoo.njit.around import around_of, to_y
from normzoo.njit.kernels import Kinds, by_address, fit_sizes, forward, inner
from normzoo.njit.saved import SavedType
from normzoo.passes.arrays import SPACING
from normzoo.zoo.layer.layer_norm import LayerNorm
from normzoo.zoo.layer.rms_norm import RMSNorm

CENTERED, UNCENTERED = LayerNorm.moments, RMSNorm.moments
k, r, K, R = range(4)  # the letters of `view.py`, see `view.KINDS`


def _parameter(given: bool, other_given: bool, value: float) -> Callable:
    """of(p, other, x): a parameter as kernels take it; an absent one is an array of `value`, with the other's shape or
    size 1."""
    if given:
        return inner(lambda p, other, x: p)
    if other_given:
        return inner(lambda p, other, x: np.full(other.shape, value, x.dtype))
    return inner(lambda p, other, x: np.full(1, value, x.dtype))


class Form(NamedTuple):
    """The part of a pass that does not depend on arrays."""

    owner: str
    plain: tuple  # kinds of the axes `sizes`, without parameters
    full: tuple  # the same with parameters
    moments: Moments
    kinds: Kinds
    keep: bool  # is a `Saved` returned?
    around: Around


@lru_cache(maxsize=256)
def _pass(form: Form, x: Any, weight: Any, bias: Any) -> Callable:
    """run(x, weight, bias, sizes, count, eps, stats, beside) -> y, or y and s; with `keep` also the `Saved`. It writes
    the statistics to `stats`. `beside`: residual, add, gate and the residual's scale."""
    owner, plain, full, moments, kinds, keep, around = form
    has_weight, has_bias = not none(weight), not none(bias)
    letters = full if has_weight or has_bias else plain
    affine = has_weight or has_bias
    run = forward(moments, kinds, x.dtype, around)
    shaped = next((p.ndim for p in (weight, bias) if not none(p)), 1)
    saved_type = SavedType(x, shaped, owner, moments, kinds, around, (has_weight, has_bias))
    weight_of, bias_of = _parameter(has_weight, has_bias, 1.0), _parameter(has_bias, has_weight, 0.0)
    message = f"{owner}: expected weight and bias of one value for each that they span, in their own shape"
    arrays_of, read_of, more_of, result_of = to_y(owner, around)
    has_around, is_s = around != ALONE, around.residual

    @inner
    def prepare(x, weight, bias, sizes, count):
        _, dims, parameter_dims = fit_sizes(letters, sizes)
        size = count if affine else 1
        w, b = weight_of(weight, bias, x), bias_of(bias, weight, x)
        if w.size != size or b.size != size:
            raise ValueError(message)
        return dims, parameter_dims, w, b

    def call(x, weight, bias, sizes, count, eps, stats, beside):
        dims, parameter_dims, w, b = prepare(x, weight, bias, sizes, count)
        arrays = arrays_of(x, beside)
        y = np.empty_like(x)
        read = read_of(x, y)
        if x.size > 0:
            run(Forward(dims, parameter_dims, read, w, b, y, stats, more_of(x, arrays)), eps)
        if keep:
            saved: Any = new(saved_type)  # type: ignore[call-arg]
            saved.x, saved.weight, saved.stats = x, w, stats.reshape((3, dims[0], dims[2]))
            saved.dims, saved.parameter_dims = dims, parameter_dims
            if is_s:
                saved.x = read
            if has_around:
                saved.bias, saved.other, saved.scale = b, arrays[1], arrays[2]
            return result_of(y, read), saved
        return result_of(y, read)

    return numba.njit(**INNER)(call)


@lru_cache(maxsize=256)
def _last_axes(owner: str, x: Any, shape: Any, weight: Any, bias: Any, known: tuple[Moments, bool, Around]) -> tuple:
    """The pass, and the function that computes the sizes, for layer_norm and rms_norm; `known`: the end of a form."""
    moments, keep, around = known
    shape = types.unliteral(shape)
    if not isinstance(shape, types.Integer) and not (
        isinstance(shape, types.UniTuple) and isinstance(shape.dtype, types.Integer)
    ):
        raise TypingError(f"{owner}: expected normalized_shape to be an integer or a tuple of integers, got {shape}")
    single = isinstance(shape, types.Integer)
    axes: int = 1 if single else shape.count  # type: ignore[union-attr]
    check(owner, x, axes, {"weight": weight, "bias": bias}, {})
    for name, p in (("weight", weight), ("bias", bias)):
        if not none(p) and p.ndim != axes:
            raise TypingError(f"{owner}: expected {name} of normalized_shape, {axes} dimensions, got {p.ndim}")
    affine = not (none(weight) and none(bias))
    kinds = Kinds(rows=not affine, rows_spanned=affine)  # columns: sets of one value
    message = f"{owner}: expected x of shape (..., *normalized_shape)"
    first = x.ndim - axes

    @inner
    def sizes_of(x, shape):
        wanted = (shape,) if single else shape
        rows, n = 1, 1
        for i in range(first):
            rows *= x.shape[i]
        for i in range(axes):
            if x.shape[first + i] != wanted[i]:
                raise ValueError(message)
            n *= x.shape[first + i]
        return rows, n

    return _pass(Form(owner, (k, r), (k, R), moments, kinds, keep, around), x, weight, bias), sizes_of


@compiled(functional.layer_norm)
def layer_norm(x, normalized_shape, weight, bias, return_saved, **more):
    """See `nz.functional.layer_norm`."""
    keep = flag("layer_norm", "return_saved", return_saved)
    check("layer_norm", x, 1, {}, {name: more[name] for name in ("axis", "out")})
    known = CENTERED, keep, around_of("layer_norm", x, more)
    run, sizes_of = _last_axes("layer_norm", x, normalized_shape, weight, bias, known)

    def call(
        x, normalized_shape, weight=None, bias=None, eps=1e-5, axis=None, out=None, return_saved=False,
        residual=None, add=None, gate=None, activation=None, gate_first=False, residual_scale=1.0,
    ):  # fmt: skip
        rows, n = sizes_of(x, normalized_shape)
        beside = residual, add, gate, residual_scale
        return run(x, weight, bias, (rows, n), n, float(eps), np.zeros((3, rows, 1)), beside)

    return call


@compiled(functional.rms_norm)
def rms_norm(x, normalized_shape, weight, eps, return_saved, **more):
    """See `nz.functional.rms_norm`."""
    keep = flag("rms_norm", "return_saved", return_saved)
    check("rms_norm", x, 1, {}, {name: more[name] for name in ("axis", "out")})
    known = UNCENTERED, keep, around_of("rms_norm", x, more)
    run, sizes_of = _last_axes("rms_norm", x, normalized_shape, weight, None, known)
    usual = SPACING[np.dtype(str(x.dtype))]
    eps_of = inner((lambda eps: usual) if none(eps) else (lambda eps: float(eps)))  # noqa: PLW0108

    def call(
        x, normalized_shape, weight=None, eps=None, axis=None, out=None, return_saved=False,
        residual=None, add=None, gate=None, activation=None, gate_first=False, residual_scale=1.0,
    ):  # fmt: skip
        rows, n = sizes_of(x, normalized_shape)
        beside = residual, add, gate, residual_scale
        return run(x, weight, None, (rows, n), n, eps_of(eps), np.zeros((3, rows, 1)), beside)

    return call


@inner
def _positions(x, first):
    """Number of values along the axes from `first` on."""
    size = 1
    for i in range(first, x.ndim):
        size *= x.shape[i]
    return size


@compiled(functional.group_norm)
def group_norm(x, num_groups, weight, bias, return_saved, **more):
    """See `nz.functional.group_norm`."""
    keep = flag("group_norm", "return_saved", return_saved)
    named = {"weight": weight, "bias": bias}
    check("group_norm", x, 2, named, {name: more[name] for name in ("channel_axis", "out")})
    if not isinstance(types.unliteral(num_groups), types.Integer):
        raise TypingError(f"group_norm: expected num_groups to be an integer, got {num_groups}")
    affine = not (none(weight) and none(bias))
    kinds = Kinds(rows_spanned=affine, columns_spanned=affine, rows_of_runs=affine)
    around = around_of("group_norm", x, more)
    run = _pass(Form("group_norm", (k, k, r, r), (k, K, R, r), CENTERED, kinds, keep, around), x, weight, bias)

    def call(
        x, num_groups, weight=None, bias=None, eps=1e-5, channel_axis=1, out=None, return_saved=False,
        residual=None, add=None, gate=None, activation=None, gate_first=False, residual_scale=1.0,
    ):  # fmt: skip
        n, c = x.shape[0], x.shape[1]
        if num_groups < 1 or c % num_groups != 0:
            raise ValueError("group_norm: expected num_groups to divide the channels of x")
        if x.size == num_groups:
            raise ValueError("group_norm: expected more than 1 value per group")
        sizes, beside = (n, num_groups, c // num_groups, _positions(x, 2)), (residual, add, gate, residual_scale)
        return run(x, weight, bias, sizes, c, float(eps), np.zeros((3, n * num_groups, 1)), beside)

    return call


_take_in = by_address(running_kernels.update(), (True, True, True, True, False, False, False, False))
_constants = by_address(running_kernels.constants(), (True, True, True, True, False, False))


@lru_cache(maxsize=256)
def _tracked(form: Form, x: Any, running: tuple, weight: Any, bias: Any) -> Callable:
    """run(x, running, weight, bias, sizes, counts, rates, beside) for batch_norm and instance_norm.

    `counts` are (number of sets, values per set), `rates` momentum and eps."""
    owner, own, (mean, var) = form.owner, form.moments != CONSTANT, running
    tracked = not none(mean)
    updates = own and tracked
    if tracked == none(var):
        raise TypingError(f"{owner}: expected running_mean and running_var, or neither")
    if not own and not tracked:
        raise TypingError(f"{owner}: expected running_mean and running_var where x's own statistics are not used")
    for name, a in (("running_mean", mean), ("running_var", var)):
        if tracked and a.ndim != 1:
            raise TypingError(f"{owner}: expected {name} of 1 dimension, got {a.ndim}")
    of_positions = form.full[0] != r  # statistics of every sample: its sets are rows
    run = _pass(form._replace(kinds=Kinds(columns=not of_positions)), x, weight, bias)
    message = f"{owner}: expected running statistics of one value for each channel of x"
    values_message = f"{owner}: expected more than 1 value per channel where x's own statistics are used"
    variance_message = f"{owner}: expected running_var >= 0, got a variance below 0"
    eps_message = f"{owner}: expected eps > 0 where x's own statistics are used"

    def call(x, running, weight, bias, sizes, counts, rates, beside):
        (mean, var), (sets, values), (momentum, eps) = running, counts, rates
        stats = np.zeros((3, sets, 1))
        if tracked:  # noqa: SIM102 (a separate `if`: it decides what is compiled)
            if mean.size != x.shape[1] or var.size != x.shape[1]:
                raise ValueError(message)
        if own:
            if values == 1:
                raise ValueError(values_message)
            if eps <= 0 and not of_positions:
                raise ValueError(eps_message)
        else:
            negative = np.zeros((), np.int64)
            _constants((mean, var, stats, negative, mean.size, eps))
            if negative[()] > 0:
                raise ValueError(variance_message)
        found = run(x, weight, bias, sizes, x.shape[1], eps, stats, beside)
        if updates:  # noqa: SIM102
            if x.size > 0:
                _take_in((mean, var, np.zeros((), np.int64), stats, mean.size, sets, values, momentum))
        return found

    return numba.njit(**INNER)(call)


@compiled(functional.batch_norm)
def batch_norm(x, running_mean, running_var, weight, bias, training, return_saved, **more):
    """See `nz.functional.batch_norm`; training updates the running statistics in place."""
    own, keep = flag("batch_norm", "training", training), flag("batch_norm", "return_saved", return_saved)
    named = {"weight": weight, "bias": bias, "running_mean": running_mean, "running_var": running_var}
    check("batch_norm", x, 2, named, {name: more[name] for name in ("channel_axis", "out")})
    around = around_of("batch_norm", x, more)
    form = Form("batch_norm", (r, k, r), (r, K, r), CENTERED if own else CONSTANT, Kinds(), keep, around)
    run = _tracked(form, x, (running_mean, running_var), weight, bias)

    def call(
        x, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5, channel_axis=1,
        out=None, return_saved=False,
        residual=None, add=None, gate=None, activation=None, gate_first=False, residual_scale=1.0,
    ):  # fmt: skip
        n, c, s = x.shape[0], x.shape[1], _positions(x, 2)
        running, rates = (running_mean, running_var), (float(momentum), float(eps))
        beside = residual, add, gate, residual_scale
        return run(x, running, weight, bias, (n, c, s), (c, n * s), rates, beside)

    return call


@compiled(functional.instance_norm)
def instance_norm(x, running_mean, running_var, weight, bias, use_input_stats, return_saved, **more):
    """See `nz.functional.instance_norm`; use_input_stats updates the running statistics in place."""
    own = flag("instance_norm", "use_input_stats", use_input_stats)
    keep = flag("instance_norm", "return_saved", return_saved)
    named = {"weight": weight, "bias": bias, "running_mean": running_mean, "running_var": running_var}
    check("instance_norm", x, 2, named, {name: more[name] for name in ("channel_axis", "out")})
    samples = k if own else r  # see `Axes.merged`
    moments, around = CENTERED if own else CONSTANT, around_of("instance_norm", x, more)
    form = Form("instance_norm", (samples, k, r), (samples, K, r), moments, Kinds(), keep, around)
    run = _tracked(form, x, (running_mean, running_var), weight, bias)

    def call(
        x, running_mean=None, running_var=None, weight=None, bias=None, use_input_stats=True, momentum=0.1, eps=1e-5,
        channel_axis=1, out=None, return_saved=False,
        residual=None, add=None, gate=None, activation=None, gate_first=False, residual_scale=1.0,
    ):  # fmt: skip
        n, c, s = x.shape[0], x.shape[1], _positions(x, 2)
        running, sets, rates = (running_mean, running_var), n * c if own else c, (float(momentum), float(eps))
        return run(x, running, weight, bias, (n, c, s), (sets, s), rates, (residual, add, gate, residual_scale))

    return call
