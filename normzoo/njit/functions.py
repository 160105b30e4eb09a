"""The five functions of `nz.functional` as Numba compiles them."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numba
import numpy as np
from numba.core import types
from numba.core.errors import TypingError
from numba.experimental.structref import new
from numba.extending import overload

from normzoo import functional
from normzoo.backends.contract import CONSTANT, Moments
from normzoo.backends.cpu.compiling.jit import INNER
from normzoo.backends.cpu.kernels import running as running_kernels
from normzoo.backends.cpu.kernels.records import Forward
from normzoo.njit.kernels import Kinds, by_address, fit_sizes, forward, inner
from normzoo.njit.saved import SavedType
from normzoo.passes.around import WRITE
from normzoo.passes.arrays import SPACING
from normzoo.zoo.layer.layer_norm import LayerNorm
from normzoo.zoo.layer.rms_norm import RMSNorm

CENTERED, UNCENTERED = LayerNorm.moments, RMSNorm.moments
k, r, K, R = range(4)  # the letters of `view.py`, see `view.KINDS`


def _none(a: Any) -> bool:
    return a is None or isinstance(a, types.NoneType) or (isinstance(a, types.Omitted) and a.value is None)


def _flag(owner: str, name: str, value: Any) -> bool:
    """The value of an argument that must be known when compiling."""
    if isinstance(value, types.Omitted):
        value = value.value
    if isinstance(value, types.BooleanLiteral):
        value = value.literal_value
    if not isinstance(value, bool):
        raise TypingError(
            f"{owner}: expected {name} to be written as True or False, got {value}; write "
            f"if {name}: ... {name}=True ... else: ... {name}=False"
        )
    return value


def _check(owner: str, x: Any, least: int, arrays: dict[str, Any], absent: dict[str, Any]) -> None:
    """Check that x and the other arrays are such as kernels take (or None), and that arguments only for Python are
    absent."""
    for name, a in {"x": x, **arrays}.items():
        if name != "x" and _none(a):
            continue
        if not isinstance(a, types.Array) or a.dtype not in (types.float32, types.float64) or a.layout != "C":
            raise TypingError(
                f"{owner}: expected {name} to be a C-contiguous array of float32 or float64, got {a}; write "
                f"np.ascontiguousarray({name}), and astype where the dtype is another"
            )
        if a.dtype != x.dtype and name in ("weight", "bias"):
            raise TypingError(
                f"{owner}: expected {name} of x's dtype {x.dtype}, got {a.dtype}; write {name}.astype(x.dtype)"
            )
    if x.ndim < least:
        raise TypingError(f"{owner}: expected x of {least} dimensions or more, got {x.ndim}")
    for name, a in absent.items():
        if not (_none(a) or a == 1 or getattr(a, "literal_value", getattr(a, "value", None)) == 1):
            raise TypingError(
                f"{owner}: {name}= is not supported in compiled code; call it from Python, or move the axes"
            )


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


@lru_cache(maxsize=256)
def _pass(form: Form, x: Any, weight: Any, bias: Any) -> Callable:
    """run(x, weight, bias, sizes, count, eps, stats) -> y or (y, saved). It writes the statistics to `stats`."""
    owner, plain, full, moments, kinds, keep = form
    has_weight, has_bias = not _none(weight), not _none(bias)
    letters = full if has_weight or has_bias else plain
    affine = has_weight or has_bias
    run = forward(moments, kinds, x.dtype)
    shaped = next((p.ndim for p in (weight, bias) if not _none(p)), 1)
    saved_type = SavedType(x, shaped, owner, moments, kinds, has_weight, has_bias)
    weight_of, bias_of = _parameter(has_weight, has_bias, 1.0), _parameter(has_bias, has_weight, 0.0)
    message = f"{owner}: expected weight and bias of one value for each that they span, in their own shape"

    @inner
    def prepare(x, weight, bias, sizes, count):
        _, dims, parameter_dims = fit_sizes(letters, sizes)
        size = count if affine else 1
        w, b = weight_of(weight, bias, x), bias_of(bias, weight, x)
        if w.size != size or b.size != size:
            raise ValueError(message)
        return dims, parameter_dims, w, b

    if keep:

        def call(x, weight, bias, sizes, count, eps, stats):
            dims, parameter_dims, w, b = prepare(x, weight, bias, sizes, count)
            s, y = stats.reshape((3, dims[0], dims[2])), np.empty_like(x)
            if x.size > 0:
                run(Forward(dims, parameter_dims, x, w, b, y, s, ()), eps)
            saved: Any = new(saved_type)  # type: ignore[call-arg]
            saved.x, saved.weight, saved.stats = x, w, s
            saved.dims, saved.parameter_dims = dims, parameter_dims
            return y, saved
    else:

        def call(x, weight, bias, sizes, count, eps, stats):
            dims, parameter_dims, w, b = prepare(x, weight, bias, sizes, count)
            y = np.empty_like(x)
            if x.size > 0:
                run(Forward(dims, parameter_dims, x, w, b, y, stats, ()), eps)
            return y

    return numba.njit(**INNER)(call)


@lru_cache(maxsize=256)
def _last_axes(owner: str, x: Any, shape: Any, weight: Any, bias: Any, moments: Moments, keep: bool) -> tuple:
    """The pass, and the function that computes the sizes, for layer_norm and rms_norm."""
    shape = types.unliteral(shape)
    if not isinstance(shape, types.Integer) and not (
        isinstance(shape, types.UniTuple) and isinstance(shape.dtype, types.Integer)
    ):
        raise TypingError(f"{owner}: expected normalized_shape to be an integer or a tuple of integers, got {shape}")
    single = isinstance(shape, types.Integer)
    axes: int = 1 if single else shape.count  # type: ignore[union-attr]
    _check(owner, x, axes, {"weight": weight, "bias": bias}, {})
    for name, p in (("weight", weight), ("bias", bias)):
        if not _none(p) and p.ndim != axes:
            raise TypingError(f"{owner}: expected {name} of normalized_shape, {axes} dimensions, got {p.ndim}")
    affine = not (_none(weight) and _none(bias))
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

    return _pass(Form(owner, (k, r), (k, R), moments, kinds, keep), x, weight, bias), sizes_of


@overload(functional.layer_norm, prefer_literal=True, jit_options=INNER)
def layer_norm(x, normalized_shape, weight=None, bias=None, eps=1e-5, axis=None, out=None, return_saved=False):
    """See `nz.functional.layer_norm`."""
    keep = _flag("layer_norm", "return_saved", return_saved)
    _check("layer_norm", x, 1, {}, {"axis": axis, "out": out})
    run, sizes_of = _last_axes("layer_norm", x, normalized_shape, weight, bias, CENTERED, keep)

    def call(x, normalized_shape, weight=None, bias=None, eps=1e-5, axis=None, out=None, return_saved=False):
        rows, n = sizes_of(x, normalized_shape)
        return run(x, weight, bias, (rows, n), n, float(eps), np.zeros((3, rows, 1)))

    return call


@overload(functional.rms_norm, prefer_literal=True, jit_options=INNER)
def rms_norm(x, normalized_shape, weight=None, eps=None, axis=None, out=None, return_saved=False):
    """See `nz.functional.rms_norm`."""
    keep = _flag("rms_norm", "return_saved", return_saved)
    _check("rms_norm", x, 1, {}, {"axis": axis, "out": out})
    run, sizes_of = _last_axes("rms_norm", x, normalized_shape, weight, None, UNCENTERED, keep)
    usual = SPACING[np.dtype(str(x.dtype))]
    eps_of = inner((lambda eps: usual) if _none(eps) else (lambda eps: float(eps)))  # noqa: PLW0108

    def call(x, normalized_shape, weight=None, eps=None, axis=None, out=None, return_saved=False):
        rows, n = sizes_of(x, normalized_shape)
        return run(x, weight, None, (rows, n), n, eps_of(eps), np.zeros((3, rows, 1)))

    return call


@inner
def _positions(x, first):
    """Number of values along the axes from `first` on."""
    size = 1
    for i in range(first, x.ndim):
        size *= x.shape[i]
    return size


@overload(functional.group_norm, prefer_literal=True, jit_options=INNER)
def group_norm(x, num_groups, weight=None, bias=None, eps=1e-5, channel_axis=1, out=None, return_saved=False):
    """See `nz.functional.group_norm`."""
    keep = _flag("group_norm", "return_saved", return_saved)
    _check("group_norm", x, 2, {"weight": weight, "bias": bias}, {"channel_axis": channel_axis, "out": out})
    if not isinstance(types.unliteral(num_groups), types.Integer):
        raise TypingError(f"group_norm: expected num_groups to be an integer, got {num_groups}")
    affine = not (_none(weight) and _none(bias))
    kinds = Kinds(rows_spanned=affine, columns_spanned=affine, rows_of_runs=affine)
    run = _pass(Form("group_norm", (k, k, r, r), (k, K, R, r), CENTERED, kinds, keep), x, weight, bias)

    def call(x, num_groups, weight=None, bias=None, eps=1e-5, channel_axis=1, out=None, return_saved=False):
        n, c = x.shape[0], x.shape[1]
        if num_groups < 1 or c % num_groups != 0:
            raise ValueError("group_norm: expected num_groups to divide the channels of x")
        if x.size == num_groups:
            raise ValueError("group_norm: expected more than 1 value per group")
        sizes = (n, num_groups, c // num_groups, _positions(x, 2))
        return run(x, weight, bias, sizes, c, float(eps), np.zeros((3, n * num_groups, 1)))

    return call


_take_in = by_address(running_kernels.update(), (True, True, True, True, False, False, False, False))
_constants = by_address(running_kernels.constants(), (True, True, True, True, False, False))


@lru_cache(maxsize=256)
def _tracked(form: Form, x: Any, running: tuple, weight: Any, bias: Any) -> Callable:
    """run(x, running, weight, bias, sizes, counts, momentum, eps) for batch_norm and instance_norm; `counts` are
    (number of sets, values per set)."""
    owner, own, (mean, var) = form.owner, form.moments != CONSTANT, running
    tracked = not _none(mean)
    updates = own and tracked
    if tracked == _none(var):
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

    def call(x, running, weight, bias, sizes, counts, momentum, eps):
        (mean, var), (sets, values) = running, counts
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
        found = run(x, weight, bias, sizes, x.shape[1], eps, stats)
        if updates:  # noqa: SIM102
            if x.size > 0:
                _take_in((mean, var, np.zeros((), np.int64), stats, mean.size, sets, values, momentum))
        return found

    return numba.njit(**INNER)(call)


@overload(functional.batch_norm, prefer_literal=True, jit_options=INNER)
def batch_norm(
    x, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5, channel_axis=1,
    out=None, return_saved=False,
):  # fmt: skip
    """See `nz.functional.batch_norm`; training updates the running statistics in place."""
    own, keep = _flag("batch_norm", "training", training), _flag("batch_norm", "return_saved", return_saved)
    named = {"weight": weight, "bias": bias, "running_mean": running_mean, "running_var": running_var}
    _check("batch_norm", x, 2, named, {"channel_axis": channel_axis, "out": out})
    form = Form("batch_norm", (r, k, r), (r, K, r), CENTERED if own else CONSTANT, Kinds(), keep)
    run = _tracked(form, x, (running_mean, running_var), weight, bias)

    def call(
        x, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5, channel_axis=1,
        out=None, return_saved=False,
    ):  # fmt: skip
        n, c, s = x.shape[0], x.shape[1], _positions(x, 2)
        running = running_mean, running_var
        return run(x, running, weight, bias, (n, c, s), (c, n * s), float(momentum), float(eps))

    return call


@overload(functional.instance_norm, prefer_literal=True, jit_options=INNER)
def instance_norm(
    x, running_mean=None, running_var=None, weight=None, bias=None, use_input_stats=True, momentum=0.1, eps=1e-5,
    channel_axis=1, out=None, return_saved=False,
):  # fmt: skip
    """See `nz.functional.instance_norm`; use_input_stats updates the running statistics in place."""
    own = _flag("instance_norm", "use_input_stats", use_input_stats)
    keep = _flag("instance_norm", "return_saved", return_saved)
    named = {"weight": weight, "bias": bias, "running_mean": running_mean, "running_var": running_var}
    _check("instance_norm", x, 2, named, {"channel_axis": channel_axis, "out": out})
    samples = k if own else r  # see `Axes.merged`
    moments = CENTERED if own else CONSTANT
    form = Form("instance_norm", (samples, k, r), (samples, K, r), moments, Kinds(), keep)
    run = _tracked(form, x, (running_mean, running_var), weight, bias)

    def call(
        x, running_mean=None, running_var=None, weight=None, bias=None, use_input_stats=True, momentum=0.1, eps=1e-5,
        channel_axis=1, out=None, return_saved=False,
    ):  # fmt: skip
        n, c, s = x.shape[0], x.shape[1], _positions(x, 2)
        running, sets = (running_mean, running_var), n * c if own else c
        return run(x, running, weight, bias, (n, c, s), (sets, s), float(momentum), float(eps))

    return call


def _refusing(owner: str) -> Callable:
    """An overload that fits no call: Numba asks it too, and reports why."""

    def around(*arguments, **named):
        """What stands around a norm is not compiled into functions of the user."""
        for name, write in WRITE.items():
            if not _none(named.get(name)):
                call = write.replace("norm(", f"{owner}(").replace(")", ", ...)", 1)
                raise TypingError(
                    f"{owner}: {name}= is not supported in compiled code; write {call}, or call it from Python"
                )

    return around


for _function in (functional.batch_norm, functional.instance_norm, functional.layer_norm, functional.group_norm,
                  functional.rms_norm):  # fmt: skip
    overload(_function, prefer_literal=True)(_refusing(_function.__name__))
