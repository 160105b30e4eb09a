"""The arguments of a pass beside arrays: its form and the statistics it uses; and the signature of a call."""

from typing import Any, NamedTuple

from normzoo.backends.around import NOTHING, Around, Beside
from normzoo.backends.contract import Array, Kind, Moments
from normzoo.passes.view import Axes


class Form(NamedTuple):
    """What a pass computes, whatever x, weight and bias hold."""

    owner: object  # its str() begins error messages
    axes: Axes  # the letters of x's axes
    moments: Moments
    eps: Any
    parameter_shape: tuple[int, ...] | None = None  # that of weight and bias, where it is not `axes.parameter_shape`
    around: Around | None = None  # what stands before and behind; None: nothing
    beside: Beside = NOTHING  # the arrays of it, as the caller has them; s is what takes s, or None


def in_two(form: Form) -> tuple[Form, Form]:
    """With what stands before the norm, and with what stands behind it: both with the same axes."""
    around, (residual, s, other, scale) = form.around, form.beside
    if around is None or around.gate_first:
        return form, form._replace(around=None, beside=NOTHING)
    before = Around(residual=True) if around.residual else None
    behind = Around(behind=around.behind, activation=around.activation)
    return (
        form._replace(around=before, beside=Beside(residual, s, scale=scale)),
        form._replace(around=behind if behind.is_behind else None, beside=Beside(other=other)),
    )


class Given(NamedTuple):
    """Statistics to use instead of x's own, as constants in the gradient: one value for each index of the axes K,
    shared by all sets there, see `Axes.merged`. The arrays are such as backends take running statistics."""

    mean: Array
    var: Array


class Known(NamedTuple):
    """Statistics (3, b, c) that an earlier pass computed for this x with these axes and moments, for a pass whose
    weight or bias depend on them. They are not computed again, and the gradient treats them as x's own statistics. With
    moments CONSTANT they may be any statistics, and are constants in the gradient."""

    stats: Array


Statistics = Given | Known | None  # None: x's own


class Running(NamedTuple):
    """Running statistics passed to a call, one value per channel: both mean and var, or neither."""

    mean: Any
    var: Any
    batches: Array | None = None  # num_batches_tracked, which an update increments
    momentum: float | None = 0.0  # the weight of a new batch; None: all batches weigh the same, 1 / (batches + 1)


UNTRACKED = Running(None, None)
RunningArrays = tuple[Any, Any, Any, Any]  # calls build a plain tuple, which is faster


class Signature(NamedTuple):
    """The properties of a call that determine its plan. Calls build it as a plain tuple, which is faster;
    `Signature(*key)` gives the names."""

    moments: Moments
    backend: str
    parameter_shape: tuple[int, ...] | None
    given: tuple[Any, Any] | None  # dtypes of mean and var if they are `Given`
    known: bool  # are the statistics `Known`?
    x: Kind
    strides: tuple[int, ...] | None  # of x; None if it is C-contiguous
    weight: Kind | None
    bias: Kind | None
    around: Around | None
