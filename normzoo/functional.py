"""The norms without a layer object: torch.nn.functional's arguments and order, plus out=, channel_axis=, return_saved=.

Every function returns y, or (y, saved) with `return_saved`; `saved.backward(dy)` is its backward pass. The layer
classes document formulas, shapes and errors.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from numpy import ndarray

from normzoo.backends.contract import Array
from normzoo.norm import eps_for as _eps_for
from normzoo.passes.arrays import check_array, check_eps, check_momentum, check_shape, check_size
from normzoo.passes.normalize import Recent as _Recent
from normzoo.passes.normalize import normalize as _normalize
from normzoo.passes.normalize import recall as _recall
from normzoo.statistics.running import recall_tracked as _recall_tracked
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
_PASSED, _REFUSED = _USUAL.on_nonfinite, _USUAL.single_value
_BATCH, _INSTANCE, _LAYER, _GROUP, _RMS = (_Recent() for _ in range(5))
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


def _chosen(result: tuple[Array, Any], saved: bool, state: State | None) -> Any:
    """y alone, or with what was asked for behind it."""
    if state is None:
        return result if saved else result[0]
    return (*result, state) if saved else (result[0], state)


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
    usual = on_nonfinite is _PASSED and single_value is _REFUSED and update_stats is True
    plain = usual and training is True and out is None and not return_saved and not return_state
    if plain:
        y = _recall_tracked(_BATCH, channel_axis, x, running_mean, running_var, weight, bias, momentum, eps)
        if y is not None:
            return y
    if type(channel_axis) is not int:
        channel_axis = check_size("batch_norm", "channel_axis", channel_axis, least=-(2**31))
    rules = _check_rules("batch_norm", on_nonfinite, single_value, running_mean is not None)
    state = _copied("batch_norm", running_mean, running_var) if return_state else None
    mean, var = state or (running_mean, running_var)
    axes = _batch_norm.axes("batch_norm", x, channel_axis)
    momentum = check_momentum("batch_norm", momentum)
    result = _batch_norm.batch_norm(
        "batch_norm", x, axes, mean, var, weight, bias, bool(training), momentum, eps, out, return_saved,
        rules=rules, update=update_stats,
    )  # fmt: skip
    if plain:
        _BATCH.keep(channel_axis, axes, _CENTERED, tracked=True)
    return _chosen(result, return_saved, state)


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
) -> Any:
    """See `InstanceNorm`. With `use_input_stats` x's statistics, which update the running ones in place, if given.

    The other arguments are those of `batch_norm`.
    """
    usual = on_nonfinite is _PASSED and single_value is _REFUSED and update_stats is True
    plain = usual and use_input_stats is True and out is None and not return_saved and not return_state
    if plain:
        y = _recall_tracked(_INSTANCE, channel_axis, x, running_mean, running_var, weight, bias, momentum, eps)
        if y is not None:
            return y
    if type(channel_axis) is not int:
        channel_axis = check_size("instance_norm", "channel_axis", channel_axis, least=-(2**31))
    rules = _check_rules("instance_norm", on_nonfinite, single_value, running_mean is not None)
    state = _copied("instance_norm", running_mean, running_var) if return_state else None
    mean, var = state or (running_mean, running_var)
    axes = _instance_norm.axes("instance_norm", x, channel_axis)
    momentum = check_momentum("instance_norm", momentum)
    own = bool(use_input_stats)
    result = _instance_norm.instance_norm(
        "instance_norm", x, axes, mean, var, weight, bias, own, momentum, eps, out, return_saved,
        rules=rules, update=update_stats,
    )  # fmt: skip
    if plain:
        _INSTANCE.keep(channel_axis, axes, _CENTERED, tracked=True)
    return _chosen(result, return_saved, state)


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
) -> Any:
    """See `LayerNorm`.

    >>> import numpy as np, normzoo as nz
    >>> nz.functional.layer_norm(np.float32([[0, 2]]), (2,)).round(2)
    array([[-1.,  1.]], dtype=float32)
    """
    plain = axis is None and out is None and not return_saved
    if plain and (y := _recall(_LAYER, normalized_shape, x, weight, bias, eps)) is not None:
        return y
    shape = check_shape("layer_norm", "normalized_shape", normalized_shape)
    if axis is not None:
        axis = _layer_norm.check_axes("layer_norm", axis)
    axes = _layer_norm.axes("layer_norm", x, shape, axis)
    y, _, saved = _normalize("layer_norm", x, axes, weight, bias, _CENTERED, eps, out, keep=return_saved)
    if plain:
        _LAYER.keep(normalized_shape, axes, _CENTERED)
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
) -> Any:
    """See `GroupNorm`."""
    plain = channel_axis is _FIRST and out is None and not return_saved
    if plain and (y := _recall(_GROUP, num_groups, x, weight, bias, eps)) is not None:
        return y
    num_groups = check_size("group_norm", "num_groups", num_groups, least=1)
    if type(channel_axis) is not int:
        channel_axis = check_size("group_norm", "channel_axis", channel_axis, least=-(2**31))
    axes = _group_norm.axes("group_norm", x, num_groups, channel_axis)
    y, _, saved = _normalize("group_norm", x, axes, weight, bias, _CENTERED, eps, out, keep=return_saved)
    if plain:
        _GROUP.keep(num_groups, axes, _CENTERED)
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
) -> Any:
    """See `RMSNorm`."""
    plain = axis is None and out is None and not return_saved
    if plain and type(x) is ndarray:
        y = _recall(_RMS, normalized_shape, x, weight, None, _eps_for(x) if eps is None else eps)
        if y is not None:
            return y
    shape = check_shape("rms_norm", "normalized_shape", normalized_shape)
    if axis is not None:
        axis = _layer_norm.check_axes("rms_norm", axis)
    axes = _layer_norm.axes("rms_norm", x, shape, axis)
    if eps is None:
        eps = _eps_for(x)
    y, _, saved = _normalize("rms_norm", x, axes, weight, None, _UNCENTERED, eps, out, keep=return_saved)
    if plain:
        _RMS.keep(normalized_shape, axes, _UNCENTERED)
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
