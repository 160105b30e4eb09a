"""Passes with running statistics, as BatchNorm and InstanceNorm use them.


A pass either reads running statistics or replaces them. It replaces all of mean, variance and count or, if anything
raises, none.
"""

import sys
import warnings
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

from normzoo.backends import chosen
from normzoo.backends.contract import Array
from normzoo.passes.arrays import (
    are_running,
    backend_of,
    base_array,
    check_parameter,
    compute_dtype,
    kernel_array,
    read_only,
)
from normzoo.passes.beside import put
from normzoo.passes.form import Form, Given, Known, Running
from normzoo.passes.normalize import normalize
from normzoo.passes.view import Axes
from normzoo.selection.select import Selected
from normzoo.selection.selected import average_of
from normzoo.statistics.running_state import RunningState
from normzoo.statistics.updates import USUAL, Rules, commit, is_finite, nonfinite


class How(NamedTuple):
    """How a pass uses running statistics.

    Attributes:
        own: True: normalize by x's own statistics, which also update the running ones if there are any. False:
            normalize by the running statistics.
        messages: error texts for: no running statistics; a set of one value; and, if there is a third, eps = 0 with x's
            own statistics.
        rules: see `Rules`.
        update: False: the running statistics and the number of batches stay unchanged.
    """

    own: bool
    messages: tuple[str, ...]
    rules: Rules = USUAL
    update: bool = True


def check_running(owner: object, axes: Axes, running: Running) -> bool:
    """Check that both mean and variance are there, one value per channel, or neither. Returns whether backends take the
    arrays without conversion."""
    mean, var = running.mean, running.var
    if (mean is None) != (var is None):
        raise ValueError(
            f"{owner}: expected running_mean and running_var, or neither, got only "
            f"{'running_var' if mean is None else 'running_mean'}"
        )
    for name, a in (("running_mean", mean), ("running_var", var)):
        check_parameter(owner, name, a, axes.sizes("K"))
    arrays = [a for a in (mean, var) if a is not None]
    return are_running(*arrays)


def check_writeable(owner: object, running: Running) -> None:
    if not all(a.flags.writeable for a in (running.mean, running.var) if a is not None):
        raise ValueError(f"{owner}: expected running statistics that can be written, {read_only(owner)}")


def normalize_tracked(
    form: Form,
    x: Array,
    weight: Array | None,
    bias: Array | None,
    running: Running,
    how: How,
    out: Array | None = None,
    keep: bool = True,
) -> tuple[Array, Any]:
    """Normalize by x's own statistics, which update the running ones in place, or by the running statistics."""
    owner, axes = form.owner, form.axes
    if how.own and form.eps == 0 and len(how.messages) > 2:
        raise ValueError(f"{owner}: {how.messages[2]}")
    if running.mean is not None and type(running.mean) is not ndarray:
        running = running._replace(mean=base_array(owner, "running_mean", running.mean))
    if running.var is not None and type(running.var) is not ndarray:
        running = running._replace(var=base_array(owner, "running_var", running.var))
    if type(x) is Selected:
        return _selected(form, x, (weight, bias, out), running, how)
    name = chosen()
    if type(x) is not ndarray or (running.mean is not None and type(running.mean) is not ndarray):
        x = base_array(owner, "x", x)
        name = backend_of(owner, x=x, running_mean=running.mean, running_var=running.var)
    ready = check_running(owner, axes, running)
    own, update = how.own, how.update
    if own and axes.values == 1:
        if how.rules.single_value == "raise":
            raise ValueError(f"{owner}: {how.messages[1].format(x.shape)}")
        own, update = how.rules.single_value == "bias", False
    if not own:
        y, _, saved = _by_running(form, x, (weight, bias, out), running, how, ready, keep)
        return y, saved
    tracks = running.mean is not None and update
    if tracks:
        check_writeable(owner, running)
    apart = (running.mean, running.var) if tracks else ()
    late = how.rules.on_nonfinite == "raise"  # nothing is written where this raises
    pass_form = form._replace(beside=form.beside._replace(s=None)) if late else form
    y, stats, saved = normalize(pass_form, x, weight, bias, None if late else out, keep=keep, apart=apart)
    if _is_refused(owner, how.rules, stats):
        tracks = False
    if late:
        y = put(form, x, y, out, (weight, bias, *apart))
        if out is not None and saved is not None:
            saved.overwrite(out)
    if tracks:
        commit(name, running, stats, axes.values if x.size else 0, ready)
    return y, saved


def _by_running(
    form: Form, x: Any, arrays: tuple[Any, Any, Any], running: Running, how: How, ready: bool, keep: bool = True
) -> tuple[Array, Any, Any]:
    """`normalize` by the running statistics."""
    weight, bias, out = arrays
    if running.mean is None or running.var is None:
        raise ValueError(f"{form.owner}: {how.messages[0]}")
    apart = running.mean, running.var
    _warn_untrained(form.owner, running)
    given = Given(*apart) if ready else Given(*(kernel_array(a, compute_dtype(a.dtype)) for a in apart))
    return normalize(form, x, weight, bias, out, given, keep=keep, apart=apart)


def _warn_untrained(owner: object, running: Running) -> None:
    """Warn where evaluation uses running statistics that neither a batch nor anybody has set."""
    mean, var, count = running.mean, running.var, running.batches
    if type(count) is not ndarray or count != 0 or type(mean) is not ndarray or mean.any() or (var != 1).any():
        return
    frame, depth = sys._getframe(), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("normzoo."):
        frame, depth = frame.f_back, depth + 1
    warnings.warn(
        f"{owner}: expected running statistics of at least one batch in evaluation, got mean 0 and variance 1 of 0 "
        "batches, so x is not normalized; train first, or write norm.load_state_dict(state) or "
        "nz.recalibrate(norm, batches)",
        stacklevel=depth,
    )


def _is_refused(owner: object, rules: Rules, stats: Array) -> bool:
    """Do the rules keep a batch with these statistics out of the running statistics?

    Raises:
        FloatingPointError: the rules demand it: a mean or variance is not finite.
    """
    if rules.on_nonfinite == "propagate" or is_finite(stats):
        return False
    if rules.on_nonfinite == "raise":
        raise FloatingPointError(nonfinite(owner, stats))
    return True


def _selected(form: Form, x: Selected, arrays: tuple[Any, Any, Any], running: Running, how: How) -> tuple[Array, Any]:
    """`normalize_tracked` if not all values count: a channel without counted values keeps its running statistics."""
    owner, (weight, bias, out) = form.owner, arrays
    ready = check_running(owner, form.axes, running)
    if not how.own:
        y, _, saved = _by_running(form, x, arrays, running, how, ready)
        return y, saved
    if running.mean is None or running.var is None:
        y, _, saved = normalize(form, x, weight, bias, out)
        return y, saved
    if how.update:
        check_writeable(owner, running)
    if out is not None and np.may_share_memory(out, x.x):  # the backward pass reads x
        x = Selected(x.x.copy(order="K"), x.mask, x.sample_weight, x.segments, x.segment_axis, x.masked)
    pass_form = form._replace(beside=form.beside._replace(s=None))
    made, found, saved = normalize(pass_form, x, weight, bias, apart=running[:2])
    update = how.update
    if (found.size == 1).any():
        if how.rules.single_value == "raise":
            raise ValueError(f"{owner}: {how.messages[1].format(x.shape)}")
        update = False
    checks = how.rules.on_nonfinite != "propagate"
    if checks and _is_refused(owner, how.rules, np.stack([found.mean, found.var]).reshape(2, 1, -1)):
        update = False
    made = put(form, x.x, made, out, (weight, bias, *running[:2]))
    if update:
        _take_in_average(form.axes, running, found)
    return made, saved


def _take_in_average(axes: Axes, running: Running, found: Any) -> None:
    """Update the running statistics by averages over the sets of every channel that has counted values."""
    kept = [letter for letter in axes.letters if letter in "kK"]
    new_mean, new_var, filled = average_of(found, kept.index("K"))

    def joined(mean: Array, var: Array, batches: Array | None = None) -> list[Array]:
        step = running.momentum
        if step is None:
            step = 1.0 / (batches.item() + 1) if batches is not None else 0.0
        pairs = (mean, new_mean), (var, new_var)
        found = [np.where(filled, (1 - step) * a.astype(np.float64) + step * new, a) for a, new in pairs]
        return found if batches is None else [*found, batches + 1]

    RunningState(*(a for a in running[:3] if a is not None)).replace(joined)


def normalize_by(
    form: Form,  # its moments are CONSTANT, its eps is 0
    x: Array,
    statistics: tuple[Array, Array],  # mean and rstd of every set
    weight: Array | None,
    bias: Array | None,
    out: Array | None,
    apart: tuple[Array, ...] = (),
) -> tuple[Array, Any]:
    """y = (x - mean) * rstd * weight + bias with given statistics of every set, which are constants in the gradient."""
    mean, rstd = statistics
    stats = np.stack([np.asarray(a, np.float64).reshape(-1) for a in (mean, np.zeros_like(mean), rstd)])
    y, _, saved = normalize(form, x, weight, bias, out, Known(stats), apart=apart)
    return y, saved
