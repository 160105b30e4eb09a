"""The norms without a layer object: torch.nn.functional's arguments and order, plus out=, channel_axis=, return_saved=.

Every function returns y, or (y, saved) with `return_saved`; `saved.backward(dy)` is its backward pass. The layer
classes document formulas, shapes and errors.

The five of the algebra take what stands before and behind the norm too: residual=, residual_scale=, residual_out=,
add=, gate=, gate_first= and activation=, see `Norm.forward`. With a residual (y, s) is in the place of y.
"""

from collections.abc import Sequence
from operator import is_
from typing import Any, NamedTuple, Unpack

from numpy import ndarray

from normzoo.backends.around import NOTHING as _NOTHING
from normzoo.backends.contract import Array
from normzoo.norm import eps_for as _eps_for
from normzoo.passes.around import Surroundings as _Surroundings
from normzoo.passes.arrays import check_array
from normzoo.passes.form import UNTRACKED as _UNTRACKED
from normzoo.passes.form import Form as _Form
from normzoo.passes.form import Running as _Running
from normzoo.passes.normalize import normalize as _normalize
from normzoo.passes.numbers import check_eps, check_momentum, check_shape, check_size
from normzoo.passes.site import Site as _Site
from normzoo.passes.site import Stands as _Stands
from normzoo.statistics.running import How as _How
from normzoo.statistics.running import normalize_tracked as _normalize_tracked
from normzoo.statistics.updates import USUAL as _USUAL
from normzoo.statistics.updates import check_rules as _check_rules
from normzoo.zoo.batch import batch_norm as _batch_norm
from normzoo.zoo.instance import instance_norm as _instance_norm
from normzoo.zoo.layer import group_norm as _group_norm
from normzoo.zoo.layer import layer_norm as _layer_norm
from normzoo.zoo.layer import lp_norm as _lp_norm
from normzoo.zoo.layer import rms_norm as _rms_norm
from normzoo.zoo.local import local_response_norm as _local_response_norm

_CENTERED, _UNCENTERED = _layer_norm.LayerNorm.moments, _rms_norm.RMSNorm.moments
_LAYER, _GROUP, _RMS = (_Site(name) for name in ("layer_norm", "group_norm", "rms_norm"))
_FIRST = 1  # the usual axis of channels


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


class _Tracking:
    """A function that tracks running statistics, with the memory of its calls by x's own and by these."""

    def __init__(self, name: str, module: Any) -> None:
        self.name, self.axes, self.messages = name, module.axes, module.MESSAGES
        self.sites = _Site(name), _Site(name)

    def call(
        self, arrays: tuple, running: tuple, own: Any, eps: Any, channel_axis: Any, keep: bool, rest: tuple,
        stands: _Stands,
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
        how = _How(
            bool(own), self.messages, _check_rules(self.name, on_nonfinite, single_value, mean is not None), updates
        )
        state = _copied(self.name, mean, var) if returns_state else None
        if state is not None:
            mean, var = state
        form = _Form(self.name, self.axes(self.name, x, channel_axis), _CENTERED, eps, None, around, beside)
        momentum = check_momentum(self.name, momentum)
        y, saved = _normalize_tracked(form, x, weight, bias, _Running(mean, var, None, momentum), how, out, keep)
        if all(map(is_, rest, _PLAIN)):
            site.remember(channel_axis, form, arrays, running, given=not how.own)
        found = ((y, saved) if keep else (y,)) + (() if state is None else (state,))
        return found if len(found) > 1 else y


_BATCH, _INSTANCE = _Tracking("batch_norm", _batch_norm), _Tracking("instance_norm", _instance_norm)
_PASSED, _REFUSED = _USUAL
_PLAIN = False, True, _PASSED, _REFUSED


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
    on_nonfinite: str = "propagate",
    single_value: str = "raise",
    **beside: Unpack[_Surroundings],
) -> Any:
    """See `BatchNorm`. With `training` the batch's statistics, which update the running ones in place, if given.

    Args:
        return_state: leave running_mean and running_var as they are, and return the new ones as well: y, state or
            y, saved, state, where state is State(running_mean, running_var). Read-only arrays will do then.
        update_stats, on_nonfinite, single_value: see `BatchNorm.forward` and `BatchNorm`.

    >>> import numpy as np, normzoo as nz
    >>> nz.functional.batch_norm(np.float32([[0], [2]]), None, None, training=True).round(2)
    array([[-1.],
           [ 1.]], dtype=float32)
    """
    arrays, running = (x, weight, bias, out), (running_mean, running_var, None, momentum)
    rest, site = (return_state, update_stats, on_nonfinite, single_value), _BATCH.sites[bool(training)]
    stands = site.stands(beside) if beside else (site, None, _NOTHING)
    if on_nonfinite is _PASSED and single_value is _REFUSED and update_stats is True and return_state is False:
        found = stands[0].recall(channel_axis, arrays, eps, running, return_saved, stands[2])
        if found is not None:
            return found if return_saved else found[0]
    return _BATCH.call(arrays, running, training, eps, channel_axis, return_saved, rest, stands)


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
    on_nonfinite: str = "propagate",
    single_value: str = "raise",
    **beside: Unpack[_Surroundings],
) -> Any:
    """See `InstanceNorm`. With `use_input_stats` x's statistics, which update the running ones in place, if given.

    The other arguments are those of `batch_norm`.
    """
    arrays, running = (x, weight, bias, out), (running_mean, running_var, None, momentum)
    rest, site = (return_state, update_stats, on_nonfinite, single_value), _INSTANCE.sites[bool(use_input_stats)]
    stands = site.stands(beside) if beside else (site, None, _NOTHING)
    if on_nonfinite is _PASSED and single_value is _REFUSED and update_stats is True and return_state is False:
        found = stands[0].recall(channel_axis, arrays, eps, running, return_saved, stands[2])
        if found is not None:
            return found if return_saved else found[0]
    return _INSTANCE.call(arrays, running, use_input_stats, eps, channel_axis, return_saved, rest, stands)


def layer_norm(
    x: Array,
    normalized_shape: int | Sequence[int],
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
    *,
    axis: int | tuple[int, ...] | None = None,
    out: Array | None = None,
    return_saved: bool = False,
    **beside: Unpack[_Surroundings],
) -> Any:
    """See `LayerNorm`.

    >>> import numpy as np, normzoo as nz
    >>> nz.functional.layer_norm(np.float32([[0, 2]]), (2,)).round(2)
    array([[-1.,  1.]], dtype=float32)
    """
    arrays = x, weight, bias, out
    site, around, others = _LAYER, None, _NOTHING
    if beside:
        site, around, others = _LAYER.stands(beside)
    found = site.recall(normalized_shape, arrays, eps, _UNTRACKED, return_saved, others) if axis is None else None
    if found is not None:
        return found if return_saved else found[0]
    shape = check_shape("layer_norm", "normalized_shape", normalized_shape)
    if axis is not None:
        axis = _layer_norm.check_axes("layer_norm", axis)
    form = _Form("layer_norm", _layer_norm.axes("layer_norm", x, shape, axis), _CENTERED, eps, None, around, others)
    y, _, saved = _normalize(form, x, weight, bias, out, keep=return_saved)
    if axis is None:
        site.remember(normalized_shape, form, arrays)
    return (y, saved) if return_saved else y


def group_norm(
    x: Array,
    num_groups: int,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
    out: Array | None = None,
    return_saved: bool = False,
    **beside: Unpack[_Surroundings],
) -> Any:
    """See `GroupNorm`."""
    arrays, plain = (x, weight, bias, out), channel_axis is _FIRST
    site, around, others = _GROUP, None, _NOTHING
    if beside:
        site, around, others = _GROUP.stands(beside)
    if plain and (found := site.recall(num_groups, arrays, eps, _UNTRACKED, return_saved, others)) is not None:
        return found if return_saved else found[0]
    num_groups = check_size("group_norm", "num_groups", num_groups, least=1)
    if type(channel_axis) is not int:
        channel_axis = check_size("group_norm", "channel_axis", channel_axis, least=-(2**31))
    axes = _group_norm.axes("group_norm", x, num_groups, channel_axis)
    form = _Form("group_norm", axes, _CENTERED, eps, None, around, others)
    y, _, saved = _normalize(form, x, weight, bias, out, keep=return_saved)
    if plain:
        site.remember(num_groups, form, arrays)
    return (y, saved) if return_saved else y


def rms_norm(
    x: Array,
    normalized_shape: int | Sequence[int],
    weight: Array | None = None,
    eps: float | None = None,
    *,
    axis: int | tuple[int, ...] | None = None,
    out: Array | None = None,
    return_saved: bool = False,
    **beside: Unpack[_Surroundings],
) -> Any:
    """See `RMSNorm`."""
    arrays = x, weight, None, out
    site, around, others = _RMS, None, _NOTHING
    if beside:
        site, around, others = _RMS.stands(beside)
    if axis is None and type(x) is ndarray:
        eps = _eps_for(x) if eps is None else eps
        if (found := site.recall(normalized_shape, arrays, eps, _UNTRACKED, return_saved, others)) is not None:
            return found if return_saved else found[0]
    shape = check_shape("rms_norm", "normalized_shape", normalized_shape)
    if axis is not None:
        axis = _layer_norm.check_axes("rms_norm", axis)
    axes = _layer_norm.axes("rms_norm", x, shape, axis)
    form = _Form("rms_norm", axes, _UNCENTERED, _eps_for(x) if eps is None else eps, None, around, others)
    y, _, saved = _normalize(form, x, weight, None, out, keep=return_saved)
    if axis is None:
        site.remember(normalized_shape, form, arrays)
    return (y, saved) if return_saved else y


def local_response_norm(
    x: Array,
    size: int,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 1.0,
    *,
    channel_axis: int = 1,
    out: Array | None = None,
    return_saved: bool = False,
) -> Any:
    """Local response normalization: every value by the squares of its neighbours along the channels.

    Formula:
        y[c] = x[c] / (k + alpha / size * sum(x[c']^2))^beta, c' from c - size//2 to c + (size-1)//2; zeros outside.

    Shapes:
        x, y: (N, C, ...), rank 3 or more.

    Args:
        size: channels in the window, 1 or more.
        alpha, beta, k: scale of the squares, exponent, and offset.

    Raises:
        ValueError: x has rank below 3 or values of float64 beyond 2^500, or size is below 1. TypeError: x is not a
            float array.

    Source:
        A. Krizhevsky, I. Sutskever and G. E. Hinton, "ImageNet Classification with Deep Convolutional Neural
        Networks", 2012; torch.nn.functional.local_response_norm.

    >>> import numpy as np, normzoo as nz
    >>> float(nz.functional.local_response_norm(np.full((1, 1, 1), 2, np.float32), 1, alpha=1.0, beta=1.0)[0, 0, 0])
    0.4000000059604645
    """
    result = _local_response_norm.local_response_norm(x, size, alpha, beta, k, channel_axis, out)
    return result if return_saved else result[0]


def normalize(
    x: Array,
    p: float = 2.0,
    dim: int | tuple[int, ...] = 1,
    eps: float = 1e-12,
    out: Array | None = None,
    *,
    return_saved: bool = False,
) -> Any:
    """Scale x to unit p-norm along an axis.

    Formula:
        y = x / max(||x||_p, eps), the norm over `dim`.

    Shapes:
        x, y: any with the axes `dim`.

    Args:
        p: order of the norm: any number, or inf.
        dim: an axis or a tuple of axes; () is all of them.
        eps: least norm; below it, it is a constant of the gradient. A norm of 0 with eps 0 gives 0.

    Raises:
        ValueError: `dim` is not an axis of x. TypeError: x is not a float array.

    Source:
        torch.nn.functional.normalize.

    >>> import numpy as np, normzoo as nz
    >>> nz.functional.normalize(np.float32([[3, 4]])).round(2)
    array([[0.6, 0.8]], dtype=float32)
    """
    check_array("normalize", "x", x)
    result = _lp_norm.lp_normalize(x, p, dim, check_eps("normalize", eps), out, return_saved)
    return result if return_saved else result[0]
