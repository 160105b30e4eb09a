"""One pass: `normalize` finds the plan and runs it, from x to y; the `Saved` that it returns computes dx."""

from math import inf, prod
from typing import Any

from numpy import ndarray

from normzoo.backends import backend, chosen
from normzoo.backends.around import NOTHING, Beside
from normzoo.backends.contract import CONSTANT, Array
from normzoo.backends.samples import stats_in
from normzoo.passes import plan as plans
from normzoo.passes.apart import normalize_apart
from normzoo.passes.arrays import Memo, backend_of, base_array, check_array, check_parameter, check_spread, on_device
from normzoo.passes.beside import Placed, check_beside, gone_by, place
from normzoo.passes.beside_saved import BesideSaved, run_short
from normzoo.passes.form import Form, Given, Known, Statistics
from normzoo.passes.numbers import check_eps
from normzoo.passes.overlaps import check_out
from normzoo.passes.plan import CONTIGUOUS, SOME, ForwardPlan
from normzoo.passes.saved import SelectedSaved, native
from normzoo.passes.view_saved import DOUBLE, Arrays, Left, ViewSaved, backward_plans, half_written
from normzoo.selection.select import Selected
from normzoo.selection.selected import normalize_selected

_forward_plans = Memo()  # by (axes, signature)


def forget_plans() -> None:
    """Forget all plans and the arrays that they refer to."""
    _forward_plans.clear()
    backward_plans.clear()


def normalize(
    form: Form,
    x: Array | Selected,
    weight: Array | None,
    bias: Array | None,
    out: Array | None = None,
    statistics: Statistics = None,
    *,
    keep: bool = True,
    apart: tuple[Array | None, ...] = (),
) -> tuple[Array, Any, Any]:
    """y, the statistics and, with `keep`, the `Saved` of the pass: the one way from any norm of the algebra to a
    backend. Where a residual is added to x, (y, s) is in the place of y.

    Args:
        form: what is computed.
        x: an array that `form.axes` fits, or a selection of one.
        weight, bias: None, or arrays that span the capital letters of `form.axes`.
        statistics: None: x's own.
        apart: further arrays that out must not overlap.
    """
    if type(x) is Selected:
        return _normalize_selected(form, x, (weight, bias, out), statistics, keep, apart)
    arrays: Arrays = (x, weight, bias, out)
    name, plain = chosen(), True
    for a in arrays:
        if type(a) is not ndarray and a is not None:
            arrays, name, plain = *_taken(form.owner, arrays), False
            break
    beside = NOTHING if form.around is None else check_beside(form, arrays[0])
    plan = find_plan(form, name, arrays, statistics)
    if statistics is None and out is None:
        if plan.shortcut is None and plan.uses + 1 >= plans.ENOUGH:
            plan.shorten()
        if plan.shortcut:
            found = plan.new_small(plan.kept_shape if keep else plan.stats_shape, DOUBLE)
            named, running = (plan, plan.shortcut, form.owner), (None, None, None, 0.0)
            short = run_short(named, arrays, form.eps, found, running, beside, keep)
            if short is not None:
                return short[0], stats_in(found, plan.stats_shape), short[1]
    y, stats, saved = run(plan, form.owner, arrays, form.eps, statistics, keep, apart, beside)
    if not plain and on_device(y[0] if isinstance(y, tuple) else y):
        y = _handed(y, arrays[0], out, None if form.around is None else form.beside.s)
    return y, stats, saved


def _handed(made: Any, x: Any, out: Any, s: Any) -> Any:
    """y on the device, or y and s, as arrays of x's library; where the caller gave memory, what was given."""
    given = (out, s) if isinstance(made, tuple) else (out,)
    results = made if isinstance(made, tuple) else (made,)
    found = tuple(native(a, x) if kept is None else kept for a, kept in zip(results, given, strict=True))
    return found if isinstance(made, tuple) else found[0]


def find_plan(form: Form, name: str, arrays: Arrays, statistics: Statistics, was_found: bool = True) -> ForwardPlan:
    """The plan of a pass with this form on a backend.

    Args:
        was_found: False if `Known` statistics are only saved, not used: see `resume`.
    """
    x, weight, bias, _ = arrays
    axes, moments = form.axes, form.moments
    flags, given = x.flags.num, None
    if type(statistics) is Given:
        given = statistics.mean.dtype, statistics.var.dtype
    key = (
        moments, name, form.parameter_shape, given, type(statistics) is Known and (was_found or moments is CONSTANT),
        (x.shape, x.dtype, flags), None if flags & CONTIGUOUS else x.strides,
        None if weight is None else (weight.shape, weight.dtype, weight.flags.num),
        None if bias is None else (bias.shape, bias.dtype, bias.flags.num), form.around,
    )  # fmt: skip
    plan = _forward_plans.get((axes, key))
    if plan is None:
        check_array(form.owner, "x", x)
        wanted = axes.parameter_shape if form.parameter_shape is None else form.parameter_shape
        check_parameter(form.owner, "weight", weight, wanted)
        check_parameter(form.owner, "bias", bias, wanted)
        plan = _forward_plans.keep((axes, key), ForwardPlan(axes, key))
    return plan


def run(
    plan: ForwardPlan,
    owner: object,
    arrays: Arrays,
    eps: Any,
    statistics: Statistics,
    keep: bool,
    apart: tuple[Array | None, ...] = (),
    beside: Beside | Placed = NOTHING,
) -> tuple[Any, Any, Any]:
    """`normalize` by its plan. Of a call like an earlier one what stands beside x may be placed already."""
    x, weight, bias, out = arrays
    if not (type(eps) is float and 0.0 <= eps < inf):
        eps = check_eps(owner, eps)
    given = beside.beside if isinstance(beside, Placed) else beside
    if out is not None:
        check_out(owner, out, x.shape, x.dtype, (x, given.residual), (weight, bias, given.other, *apart))
    placed, more = None, ()  # type: Any, tuple[Beside, ...]
    if plan.around is not None:
        placed = beside if isinstance(beside, Placed) else place(plan, owner, arrays, beside, apart)
        x, more = placed.x, (placed.beside,) if plan.takes_beside else ()
    plan.uses += 1
    if plan.uses == SOME:
        plan.watch()
    v = x if plan.as_is else plan.take(x)
    w = plan.ones if weight is None else weight if plan.weight_as_is else plan.parameter(weight)
    a = plan.zeros if bias is None else bias if plan.bias_as_is else plan.parameter(bias)
    if out is None and plan.plain:
        y = target = plan.new(plan.shape, plan.result)
        elsewhere = False
    else:
        y, target, elsewhere = plan.target(out)
    try:
        if statistics is None:
            stats = plan.run(v, w, a, eps, target, *more)
        else:
            stats = _other_statistics(plan, owner, statistics, eps)
            if x.size:
                plan.run(v, stats, w, a, target, *more)
    except MemoryError as error:
        raise half_written(owner, out, target) from error
    if elsewhere:
        plan.deliver(target, y)
    result = y if placed is None else placed.results(plan, y)
    if not keep:
        return result, stats, None
    if placed is None:
        samples = plan.samples
        seen = samples(v, weight) if samples is not None and type(v) is ndarray else None
        saved = ViewSaved(owner, plan, arrays, v, eps, stats, seen)
    else:
        v, others = placed.left(plan, v, given)
        saved = BesideSaved(owner, plan, arrays, v, eps, stats, others)
    if out is not None:
        saved.overwrite(out)
    return result, stats, saved


def _other_statistics(plan: ForwardPlan, owner: object, statistics: Given | Known, eps: float) -> Array:
    """Statistics that are not computed in this pass, in the array that the backend reads."""
    if isinstance(statistics, Known):
        stats = statistics.stats
        if stats.size != prod(plan.stats_shape) or stats.dtype != DOUBLE or not stats.flags.num & CONTIGUOUS:
            raise ValueError(
                f"{owner}: expected statistics in a C-contiguous float64 array of shape {plan.stats_shape}, got "
                f"{stats.dtype} of shape {stats.shape}"
            )
        return stats
    if not prod(plan.shape):
        return plan.memory.full(plan.stats_shape, DOUBLE, 0.0)
    stats = plan.new_small(plan.stats_shape, DOUBLE)
    if backend(plan.name).constants(*statistics, eps, stats):
        check_spread(owner, "running_var", statistics.var)
    return stats


def resume(left: Left, x: Array, weight: Array | None, bias: Array | None, beside: Beside = NOTHING) -> ViewSaved:
    """The `Saved` of a pass from what it left and the arrays that it read, which may lie elsewhere by now; x is s where
    a residual was added, of which but the kind is used, as of bias where nothing stands behind."""
    owner, axes, shape, moments, eps, stats, around = left
    arrays, name = (x, weight, bias, None), chosen()
    if any(type(a) is not ndarray and a is not None for a in arrays):
        arrays, name = _taken(owner, arrays)
    known = Known(stats)
    plan = find_plan(Form(owner, axes, moments, eps, shape, around), name, arrays, known, was_found=False)
    v = arrays[0] if plan.as_is else plan.take(arrays[0])
    stats = _other_statistics(plan, owner, known, eps)
    if around is None:
        return ViewSaved(owner, plan, arrays, v, eps, stats)
    v, others = gone_by(plan, arrays[0], beside).left(plan, v, beside)
    return BesideSaved(owner, plan, arrays, v, eps, stats, others)


def _taken(owner: object, arrays: Arrays) -> tuple[Arrays, str]:
    """Arrays of which some are not plain NumPy arrays, converted for backends, and the name of their backend."""
    x, weight, bias, out = arrays
    x = base_array(owner, "x", x)
    weight = None if weight is None else base_array(owner, "weight", weight)
    bias = None if bias is None else base_array(owner, "bias", bias)
    out = out if out is None or isinstance(out, ndarray) else base_array(owner, "out", out)
    return (x, weight, bias, out), backend_of(owner, x=x, weight=weight, bias=bias, out=out)


def _normalize_selected(
    form: Form,
    x: Selected,
    arrays: tuple[Any, Any, Any],  # weight, bias, out
    statistics: Statistics,
    keep: bool,
    apart: tuple[Array | None, ...],
) -> tuple[Array, Any, Any]:
    """`normalize` of a selection."""
    owner, (weight, bias, out) = form.owner, arrays
    if isinstance(statistics, Known):
        raise TypeError(f"{owner}: expected masks without known statistics; write masks = False in its class")
    if form.around is not None:
        y, found, saved = normalize_apart(normalize, form, x, arrays, statistics, apart)
        return y, found, saved if keep else None
    spanned = form.axes.parameter_shape
    wanted = spanned if form.parameter_shape is None else form.parameter_shape
    check_parameter(owner, "weight", weight, wanted)
    check_parameter(owner, "bias", bias, wanted)
    w, a = (None if p is None else p.reshape(spanned) for p in (weight, bias))
    parts = form._replace(parameter_shape=None)
    y, found, back = normalize_selected((normalize, resume), parts, x, (w, a, out), statistics, apart)
    return y, found, SelectedSaved(owner, x.x, back, weight, bias) if keep else None
