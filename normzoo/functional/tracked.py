"""Functions with running statistics, which are arguments of theirs."""

from operator import is_
from typing import Any, NamedTuple, Unpack

from normzoo.backends.around import NOTHING
from normzoo.backends.contract import Array, Moments
from normzoo.passes.around import Surroundings
from normzoo.passes.arrays import check_array
from normzoo.passes.form import Form, Running
from normzoo.passes.numbers import check_momentum, check_size
from normzoo.passes.site import Site, Stands
from normzoo.statistics.running import How, normalize_tracked
from normzoo.statistics.updates import USUAL, OnNonfinite, SingleValue, check_rules
from normzoo.zoo.batch import batch_norm as _batch_norm
from normzoo.zoo.instance import instance_norm as _instance_norm

CENTERED = Moments(center=True, power=2)
PLAIN = False, True, *USUAL  # return_state, update_stats, on_nonfinite and single_value, as usual


class State(NamedTuple):
    """Running statistics after a pass that left those it was given alone."""

    running_mean: Array
    running_var: Array


def _copied(owner: str, mean: Array | None, var: Array | None) -> State:
    if mean is None or var is None:
        raise ValueError(f"{owner}: expected running_mean and running_var with return_state=True, got None; pass both")
    for name, a in (("running_mean", mean), ("running_var", var)):
        check_array(owner, name, a)
    return State(mean.copy(), var.copy())


class Tracking:
    """A function that tracks running statistics, with the memory of its calls by x's own and by these."""

    def __init__(self, name: str, module: Any) -> None:
        self.name, self.axes, self.messages = name, module.axes, module.MESSAGES
        self.sites = Site(name), Site(name)

    def call(
        self, arrays: tuple, running: tuple, own: Any, eps: Any, channel_axis: Any, keep: bool, rest: tuple,
        stands: Stands,
    ) -> Any:  # fmt: skip
        """y, or y and what was asked for behind it.

        Args:
            arrays: x, weight, bias and out.
            running: mean, variance, None and momentum.
            own: x's own statistics are used.
            keep: return_saved.
            rest: return_state, update_stats, on_nonfinite and single_value.
            stands: see `Site.stands`.
        """
        site, around, beside = stands
        x, weight, bias, out = arrays
        mean, var, _, momentum = running
        returns_state, updates, on_nonfinite, single_value = rest
        if type(channel_axis) is not int:
            channel_axis = check_size(self.name, "channel_axis", channel_axis, least=-(2**31))
        how = How(
            bool(own), self.messages, check_rules(self.name, on_nonfinite, single_value, mean is not None), updates
        )
        state = _copied(self.name, mean, var) if returns_state else None
        if state is not None:
            mean, var = state
        form = Form(self.name, self.axes(self.name, x, channel_axis), CENTERED, eps, None, around, beside)
        momentum = check_momentum(self.name, momentum)
        y, saved = normalize_tracked(form, x, weight, bias, Running(mean, var, None, momentum), how, out, keep)
        if all(map(is_, rest, PLAIN)):
            site.remember(channel_axis, form, arrays, running, given=not how.own)
        found = ((y, saved) if keep else (y,)) + (() if state is None else (state,))
        return found if len(found) > 1 else y


BATCH, INSTANCE = Tracking("batch_norm", _batch_norm), Tracking("instance_norm", _instance_norm)
_, _, PASSED, REFUSED = PLAIN


def batch_norm(
    x: Array,
    running_mean: Array | None,
    running_var: Array | None,
    weight: Array | None = None,
    bias: Array | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
    out: Array | None = None,
    return_saved: bool = False,
    return_state: bool = False,
    update_stats: bool = True,
    on_nonfinite: OnNonfinite = "propagate",
    single_value: SingleValue = "raise",
    **beside: Unpack[Surroundings],
) -> Any:
    """Batch normalization: normalize every channel by its mean and variance over batch and positions.

    Formula:
        y = (x - mean) / sqrt(var + eps) * weight + bias, as `BatchNorm`.

    Shapes:
        x, y: (N, C), (N, C, L), (N, C, H, W), ...; with channel_axis=-1, (N, ..., C). All others: (C,), or None.

    Args:
        running_mean, running_var: running statistics, or None for both. Training writes the new ones into them.
        weight, bias: scale and shift.
        training: True: by the batch's own mean and variance. False: by the running statistics.
        momentum: weight of the batch in the new running statistics, 0 to 1.
        eps: added to the variance, in the units of x squared.
        channel_axis: 1 or -1, or any other axis.
        out: takes y; an array like x, which may be x itself.
        return_saved: return (y, saved); `saved.backward(dy)` is the backward pass.
        return_state: leave running_mean and running_var as they are, and return the new ones too: (y, state) or
            (y, saved, state) with state.running_mean and state.running_var. Read-only arrays can be given then.
        update_stats: False: neither write nor compute new running statistics.
        on_nonfinite, single_value: see `BatchNorm`.
        beside: residual=, add=, gate= and activation= with their options; see `Norm.forward`.

    Raises:
        ValueError: a shape or value does not fit, or a channel has one value in training. TypeError: x or another is
            not a float array.

    Source:
        S. Ioffe and C. Szegedy, 2015, arXiv:1502.03167; torch.nn.functional.batch_norm.

    >>> import numpy as np, normzoo as nz
    >>> nz.functional.batch_norm(np.float32([[0], [2]]), None, None, training=True).round(2)
    array([[-1.],
           [ 1.]], dtype=float32)
    """
    arrays, running = (x, weight, bias, out), (running_mean, running_var, None, momentum)
    rest, site = (return_state, update_stats, on_nonfinite, single_value), BATCH.sites[bool(training)]
    stands = site.stands(beside) if beside else (site, None, NOTHING)
    if on_nonfinite is PASSED and single_value is REFUSED and update_stats is True and return_state is False:
        found = stands[0].recall(channel_axis, arrays, eps, running, return_saved, stands[2])
        if found is not None:
            return found if return_saved else found[0]
    return BATCH.call(arrays, running, training, eps, channel_axis, return_saved, rest, stands)


def instance_norm(
    x: Array,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
    out: Array | None = None,
    return_saved: bool = False,
    return_state: bool = False,
    update_stats: bool = True,
    on_nonfinite: OnNonfinite = "propagate",
    single_value: SingleValue = "raise",
    **beside: Unpack[Surroundings],
) -> Any:
    """Instance normalization: normalize every channel of every sample by its mean and variance over the positions.

    Formula:
        y = (x - mean) / sqrt(var + eps) * weight + bias, as `InstanceNorm`.

    Shapes:
        x, y: (N, C, L), (N, C, H, W), ...; with channel_axis=-1, (N, ..., C). All others: (C,), or None.

    Args:
        use_input_stats: True: by x's own mean and variance. False: by the running statistics.
        running_mean, running_var, weight, bias, momentum, eps, channel_axis: see `batch_norm`.
        out, return_saved, return_state, update_stats, on_nonfinite, single_value, beside: see `batch_norm`.

    Raises:
        ValueError: a shape or value does not fit. TypeError: x or another is not a float array.

    Source:
        D. Ulyanov, A. Vedaldi and V. Lempitsky, 2016, arXiv:1607.08022; torch.nn.functional.instance_norm.

    >>> import numpy as np, normzoo as nz
    >>> nz.functional.instance_norm(np.float32([[[0, 2]]])).round(2)
    array([[[-1.,  1.]]], dtype=float32)
    """
    arrays, running = (x, weight, bias, out), (running_mean, running_var, None, momentum)
    rest, site = (return_state, update_stats, on_nonfinite, single_value), INSTANCE.sites[bool(use_input_stats)]
    stands = site.stands(beside) if beside else (site, None, NOTHING)
    if on_nonfinite is PASSED and single_value is REFUSED and update_stats is True and return_state is False:
        found = stands[0].recall(channel_axis, arrays, eps, running, return_saved, stands[2])
        if found is not None:
            return found if return_saved else found[0]
    return INSTANCE.call(arrays, running, use_input_stats, eps, channel_axis, return_saved, rest, stands)
